"""One sweep: recover what is open, plan, let the brake speak, rotate what is due in a bounded thread pool.

`plan` decides and changes nothing; `sweep` acts. Every token ends in a `Result`; one token's failure never stops the
others, except that a dead credential of our own stops everything.
"""

import itertools
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace

from rotator.engine.desk import Desk, Result
from rotator.engine.rotation import Attempt, waits
from rotator.errors import CredentialRejected, Permanent, RotatorError
from rotator.events import Event, EventName
from rotator.model import (
    DeliveryRecord,
    Lineage,
    Outcome,
    Policy,
    Reason,
    Rotation,
    Scope,
    Skip,
    State,
    Step,
    Token,
)
from rotator.planning import Candidate, Decision, Plan, decide, guard, owner, place_problem, survey
from rotator.ports import Listing, TokenRef, Write

PAGE = 1000


@dataclass(slots=True)
class Report:
    """What one sweep did.

    Attributes:
        plan: Empty when a person said no before planning was done.
        results: Of recovery first, then of the due tokens.
        confirmed: False if a person answered no.
    """

    plan: Plan = field(default_factory=Plan)
    results: list[Result] = field(default_factory=list)
    confirmed: bool = True
    interrupted: bool = False


Skipped = Callable[[Candidate | tuple[Token, None]], None]


def plan(desk: Desk, policies: Sequence[Policy], accepted: str | None = None, skipped: Skipped | None = None) -> Plan:
    """Return what a sweep of these policies would do; reads only.

    Args:
        desk: The provider and what is known.
        policies: Those to sweep; tokens of the desk's other policies are skipped as `other_policy`.
        accepted: A plan id that lifts the brake.
        skipped: Told of every token that is left alone.

    Raises:
        CredentialRejected, Temporary, Permanent: The listing failed.
    """
    made = Plan()
    tell = skipped or (lambda _: None)
    names = {policy.name for policy in policies}
    taken: dict[tuple[str, str], str] = {}
    for row in decisions(desk):
        if isinstance(row, tuple):
            tell(row)
            continue
        candidate = row
        if candidate.policy.name not in names:
            if _selected_later(candidate, policies):
                tell(_skip(candidate, Skip.OTHER_POLICY, f"the policy {candidate.policy.name} comes first"))
            else:
                tell((candidate.token, None))
            continue
        made.selected[candidate.policy.name] = made.selected.get(candidate.policy.name, 0) + 1
        if candidate.decision.due is not None and not candidate.open:
            candidate = _placed(desk, candidate, taken)
        if candidate.decision.due is not None:
            made.due.append(candidate)
        elif candidate.decision.skip is not None:
            made.skipped[candidate.decision.skip] = made.skipped.get(candidate.decision.skip, 0) + 1
            tell(candidate)
    return guard(made, accepted)


def decisions(desk: Desk) -> Iterator[Candidate | tuple[Token, None]]:
    """Yield every token of the provider with what the pure `decide` says of it, memory flat."""
    own = desk.provider.own_token_id()
    tokens = desk.provider.list(listing(desk.policies))
    return survey(
        _pages(tokens),
        desk.policies,
        lambda page: dict(desk.journal.lineages(desk.provider.name, [token.id for token in page])),
        frozenset({own} if own else ()),
        desk.clock.now(),
    )


def remembered(desk: Desk) -> Iterator[tuple[Token, Lineage | None]]:
    """Yield every token of the provider with what the journal knows of it, memory flat."""
    for page in _pages(desk.provider.list(listing(desk.policies))):
        known = desk.journal.lineages(desk.provider.name, [token.id for token in page])
        yield from ((token, known.get(token.id)) for token in page)


def listing(policies: Sequence[Policy]) -> Listing:
    """Return what has to be listed for these policies."""
    inner = (Scope.WORKSPACE, Scope.DEPLOYMENT)
    return Listing(
        scopes=frozenset(scope for policy in policies for scope in policy.select.scopes),
        workspaces=frozenset(home for policy in policies for home in policy.select.workspaces),
        deployments=frozenset(home for policy in policies for home in policy.select.deployments),
        everything=any(
            Scope.ORGANIZATION in p.select.scopes
            or (any(scope in p.select.scopes for scope in inner) and not p.select.workspaces)
            for p in policies
        ),
    )


def sweep(desk: Desk, policies: Sequence[Policy], accepted: str | None, confirm: Callable[[Plan], bool]) -> Report:
    """Recover, plan, rotate, deliver, verify, settle.

    Args:
        desk: The provider and everything else.
        policies: Those to sweep.
        accepted: A plan id that lifts the brake.
        confirm: Shown the plan before anything is rotated; False stops there.

    Raises:
        CredentialRejected: Our credential is dead, found before anything was rotated.
        Temporary, Permanent: The listing failed.
    """
    report = Report()
    try:
        report.results.extend(recover(desk))
        report.plan = plan(desk, policies, accepted)
        for refusal in report.plan.refused:
            _announce(desk, EventName.PLAN_REFUSED, refusal.policy, refusal.message)
        if accepted == report.plan.id:
            _announce(desk, EventName.PLAN_ACCEPTED, "", f"a person accepted plan {accepted}")
        fresh = [c for c in report.plan.admitted if not c.open]
        report.confirmed = confirm(report.plan)
        if report.confirmed:
            for result in _run(desk, [_work(desk, candidate) for candidate in fresh]):
                report.results.append(result)
        report.interrupted = desk.stop.is_set()
    finally:
        desk.journal.erase()
    return report


def recover(desk: Desk) -> list[Result]:
    """Drive everything that is open in the journal, whatever the config now says."""
    now = desk.clock.now()
    work, waiting = [], []
    for rotation in desk.journal.open_rotations(desk.provider.name):
        if waits(rotation, now):
            waiting.append(_waiting(rotation))
        else:
            work.append(_recovery(desk, rotation.id))
    return [*waiting, *_run(desk, work)]


Work = Callable[[], Result | None]


def _recovery(desk: Desk, rotation_id: str) -> Work:
    def work() -> Result | None:
        rotation = desk.journal.claim(rotation_id)
        if rotation is None:
            return None  # another process is at it
        known = desk.journal.lineages(rotation.provider, [rotation.token_id]).get(rotation.token_id)
        lineage = known or Lineage(rotation.provider, rotation.lineage, rotation.token_id, rotation.name)
        return Attempt(desk, rotation, lineage).recover()

    return work


def _work(desk: Desk, candidate: Candidate) -> Work:
    def work() -> Result | None:
        try:
            return begin(desk, candidate)
        except RotatorError as error:
            _tell_failure(desk, candidate, error.message)
            dead = isinstance(error, CredentialRejected)
            return _left(candidate, Outcome.FAILED, error.message, credential_dead=dead)
        except Exception as error:  # noqa: BLE001 - boundary "token": one token must not stop the others
            message = f"unexpected {type(error).__name__}; the journal has the state, the next sweep goes on from it"
            _tell_failure(desk, candidate, message)
            return _left(candidate, Outcome.FAILED, message)

    return work


def begin(desk: Desk, candidate: Candidate) -> Result:
    """Take one due token: preflight, look again, intend, and drive the rotation.

    Raises:
        RotatorError: Something before the irreversible step said no; nothing was changed.
    """
    _preflight(desk, candidate)
    # The version read here is the lock: if anybody changes the lineage after this, the intent is not written.
    lineage = desk.lineage(candidate.token)
    token = _look_again(desk, candidate, lineage)
    if token is None:
        return _left(candidate, None, "no longer due at the second look")
    rotation = _intended(desk, candidate, token, lineage)
    event = desk.event(EventName.ROTATION_INTENDED, rotation, step=Step.INTEND, message=candidate.decision.message)
    shadow = replace(lineage, name=token.name, open_state=State.INTENDED, open_message="")
    if not desk.journal.open(rotation, shadow, (event,)):
        return _left(candidate, None, "another process is rotating it")
    desk.emit(event)
    return Attempt(desk, rotation, shadow).drive()


def _preflight(desk: Desk, candidate: Candidate) -> None:
    skew = desk.provider.clock_skew()
    if skew is not None and abs(skew) > desk.settings.max_clock_skew:
        raise Permanent(
            f"the clocks of this machine and of the API differ by {round(abs(skew).total_seconds())} s;"
            " synchronise the clock (NTP) or raise engine.max_clock_skew"
        )
    desk.journal.preflight()
    for place in candidate.places:
        if place.required:
            desk.sinks[place.sink].preflight(place)


def _look_again(desk: Desk, candidate: Candidate, lineage: Lineage) -> Token | None:
    """Return the token as it is now if it is the same one and still due."""
    planned = candidate.token
    token = desk.provider.get(TokenRef(planned.id, planned.scope, planned.workspace_id, planned.deployment_id))
    if (token.name, token.scope, token.organization_id) != (planned.name, planned.scope, planned.organization_id):
        raise Permanent("its name, scope or organization changed between plan and rotation; it is planned anew")
    again = decide(token, candidate.policy, lineage, desk.clock.now())
    if again.due is None or owner(token, desk.policies) is not candidate.policy:
        return None
    return token if lineage.open_state is None else None


def _intended(desk: Desk, candidate: Candidate, token: Token, lineage: Lineage) -> Rotation:
    return Rotation(
        id=uuid.uuid4().hex,
        provider=desk.provider.name,
        lineage=lineage.id,
        token_id=token.id,
        policy=candidate.policy.name,
        reason=candidate.decision.due or Reason.REQUESTED,
        state=State.INTENDED,
        name=token.name,
        scope=token.scope,
        organization_id=token.organization_id,
        observed=token.generation,
        opened_at=desk.clock.now(),
        deliveries=tuple(DeliveryRecord(place) for place in candidate.places),
        workspace_id=token.workspace_id,
        deployment_id=token.deployment_id,
        roles=token.roles,
        end_at_before=token.end_at,
        posts=1,
    )


def _placed(desk: Desk, candidate: Candidate, taken: dict[tuple[str, str], str]) -> Candidate:
    """Resolve where the secret would go; a place that is unsafe, taken or moved holds the token back."""
    token = candidate.token
    lineage = desk.lineage(token)
    try:
        places = desk.places(candidate.policy, token, lineage.id)
    except RotatorError as error:
        return _skip(candidate, Skip.BAD_PATH, error.message)
    spots = [claim for place in places for claim in place.claims]
    owners = {spot: held[1] for spot, held in desk.journal.place_owners(spots).items()}
    owners |= {spot: taken[spot] for spot in spots if spot in taken}
    problem = place_problem(places, lineage, owners, lineage.id)
    if not problem and len(set(spots)) < len(spots):
        problem = "two deliveries of the policy write to the same place"
    if problem:
        return _skip(candidate, Skip.BAD_PATH, problem)
    taken.update(dict.fromkeys(spots, lineage.id))
    return replace(candidate, places=places)


def _run(desk: Desk, work: Sequence[Work]) -> Iterator[Result]:
    """Run in a bounded pool; stop claiming when told to, or when our own credential is dead."""
    queue = iter(work)
    with ThreadPoolExecutor(desk.settings.workers, thread_name_prefix="rotation") as pool:
        running: set[Future[Result | None]] = set()
        while True:
            room = desk.settings.workers * 2 - len(running)
            fresh = () if desk.stop.is_set() else itertools.islice(queue, room)
            running |= {pool.submit(_unless_stopped, desk, item) for item in fresh}
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for result in [future.result() for future in done]:
                if result is not None:
                    if result.credential_dead:
                        desk.stop.set()
                    yield result


def _unless_stopped(desk: Desk, work: Work) -> Result | None:
    return None if desk.stop.is_set() else work()


def _pages(tokens: Iterable[Token]) -> Iterator[list[Token]]:
    queue = iter(tokens)
    while page := list(itertools.islice(queue, PAGE)):
        yield page


def _selected_later(candidate: Candidate, policies: Sequence[Policy]) -> bool:
    return owner(candidate.token, policies) is not None


def _skip(candidate: Candidate, skip: Skip, message: str) -> Candidate:
    return replace(candidate, decision=Decision(None, skip, message, candidate.decision.due_at))


def _left(candidate: Candidate, outcome: Outcome | None, message: str, *, credential_dead: bool = False) -> Result:
    token = candidate.token
    return Result(
        token.id,
        token.name,
        str(token.scope),
        candidate.policy.name,
        candidate.decision.due or Reason.REQUESTED,
        outcome,
        message,
        locations=tuple(f"{place.sink}:{place.location}" for place in candidate.places),
        credential_dead=credential_dead,
    )


def _waiting(rotation: Rotation) -> Result:
    return Result(
        rotation.token_id,
        rotation.name,
        str(rotation.scope),
        rotation.policy,
        rotation.reason,
        Outcome.UNSETTLED,
        rotation.message,
        rotation.id,
        locations=tuple(f"{r.place.sink}:{r.place.location}" for r in rotation.deliveries),
    )


def _tell_failure(desk: Desk, candidate: Candidate, message: str) -> None:
    desk.emit(
        Event(
            name=EventName.PREFLIGHT_FAILED,
            at=desk.clock.now(),
            provider=desk.provider.name,
            policy=candidate.policy.name,
            token_id=candidate.token.id,
            token_name=candidate.token.name,
            token_scope=str(candidate.token.scope),
            reason=candidate.decision.due,
            step=Step.PREFLIGHT,
            message=message,
        )
    )


def _announce(desk: Desk, name: EventName, policy: str, message: str) -> None:
    event = Event(name=name, at=desk.clock.now(), provider=desk.provider.name, policy=policy, message=message)
    desk.journal.write(Write(events=(event,)))
    desk.emit(event)
