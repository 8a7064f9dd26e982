"""One sweep: recover what is open, plan, let the brake speak, act in a bounded thread pool, wave by wave.

Every token ends in a `Result`; one token's failure never stops the others, except that a dead credential of our own
stops everything, and that a failed wave holds back the next ones of its policy.
"""

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from queue import SimpleQueue

from rotator.engine.beginning import begin
from rotator.engine.deciding import plan
from rotator.engine.desk import Desk, Result, note, result_of
from rotator.engine.own import credentials, expiring, explained, is_expiring, recovering
from rotator.engine.retiring import end_candidate, end_orphan, tend
from rotator.engine.rotation import Attempt, waits
from rotator.errors import CredentialRejected, Permanent, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage, Outcome, Policy, Rotation, Step
from rotator.planning import Candidate, Plan

_WORST = (Outcome.FAILED, Outcome.UNSETTLED, Outcome.QUARANTINED)


@dataclass(slots=True)
class Report:
    """What one sweep did.

    Attributes:
        plan: Empty when a person said no before planning was done.
        results: Of recovery first, then of the due tokens, then of what was ended.
        confirmed: False if a person answered no.
        provider: Whose tokens.
        error: What ended it early; what was done before stands in `results`.
    """

    plan: Plan = field(default_factory=Plan)
    results: list[Result] = field(default_factory=list)
    confirmed: bool = True
    interrupted: bool = False
    provider: str = ""
    error: RotatorError | None = None


def sweep(
    desk: Desk,
    policies: Sequence[Policy],
    accepted: str | None,
    confirm: Callable[[Plan], bool],
    report: Report | None = None,
) -> Report:
    """Recover, plan, rotate, deliver, verify, settle, retire.

    Args:
        desk: The provider and everything else.
        policies: Those to sweep.
        accepted: A plan id that lifts the brake.
        confirm: Shown the plan before anything is changed; False stops there.
        report: Filled as it goes, for who wants to know what was done although it raised.

    Raises:
        CredentialRejected: Our credential is dead, found before anything was rotated.
        Temporary, Permanent: The listing failed.
    """
    report = report if report is not None else Report()
    began_s, is_whole = desk.clock.monotonic(), False
    _note(desk, [_about(desk, EventName.SWEEP_STARTED, policy.name) for policy in policies])
    try:
        for fact in credentials(desk):
            desk.emit(fact)
            if is_expiring(fact):
                desk.record(expiring(fact))
        report.results.extend(recover(desk))
        planned_at = desk.clock.now()
        report.plan = _planned(desk, policies, accepted)
        for refusal in report.plan.refused:
            _announce(desk, EventName.PLAN_REFUSED, refusal.policy, refusal.message)
        if accepted is not None and report.plan.id in accepted.split("-"):
            _announce(desk, EventName.PLAN_ACCEPTED, "", f"a person accepted plan {accepted}")
        report.confirmed = confirm(report.plan)
        if report.confirmed:
            report.results.extend(_acted(desk, report.plan, planned_at))
        report.interrupted = desk.stop.is_set()
        is_whole = not report.interrupted
    except CredentialRejected as error:
        _rejected(desk, error.message)
        raise
    finally:
        erase(desk)
        lasted_s = desk.clock.monotonic() - began_s
        _note(desk, [_finished(desk, policy.name, report, lasted_s, is_whole=is_whole) for policy in policies])
    return report


def erase(desk: Desk) -> None:
    """Take erased seals off the disk; that this failed is said, and never hides what was done before."""
    try:
        is_erased = desk.journal.erase()
    except RotatorError as error:
        _tell(desk, EventName.JOURNAL_FAILED, f"erased seals are still on the disk: {error.message}")
        return
    if not is_erased:
        said = "another process reads the journal at this moment: erased seals stay on the disk until a later sweep"
        _tell(desk, EventName.ERASURE_DELAYED, said)


def _finished(desk: Desk, policy: str, report: Report, lasted_s: float, *, is_whole: bool) -> Event:
    """Return what a sweep came to for one policy: the worst of its outcomes."""
    outcomes = Counter(r.outcome for r in report.results if r.policy == policy and r.outcome is not None)
    is_refused = any(refusal.policy == policy for refusal in report.plan.refused)
    worst = next((outcome for outcome in _WORST if outcomes[outcome]), Outcome.SETTLED)
    said = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items())) or "nothing was done"
    return replace(
        _about(desk, EventName.SWEEP_FINISHED, policy, said if is_whole else f"{said}; it ended early"),
        outcome=worst if is_whole and not is_refused else Outcome.FAILED,
        duration_s=lasted_s,
        tokens=report.plan.selected.get(policy),
    )


def _planned(desk: Desk, policies: Sequence[Policy], accepted: str | None) -> Plan:
    try:
        return plan(desk, policies, accepted)
    except CredentialRejected as error:
        raise explained(desk, error) from None


def _acted(desk: Desk, made: Plan, since: datetime) -> Iterator[Result]:
    """Do what a plan admits: our own credentials last and alone, endings after everything else."""
    yield from _in_waves(desk, [row for row in made.admitted if not row.own])
    for row in made.admitted:
        if row.own:
            yield from run(desk, [_work(desk, row)])
    yield from run(desk, [guarded(desk, row, end_candidate) for row in made.endable])
    for row in made.orphans:
        yield from run(desk, [guarded(desk, row, end_orphan)])
    yield from tend(desk, made, since)


def _in_waves(desk: Desk, admitted: Sequence[Candidate]) -> Iterator[Result]:
    """Rotate wave by wave; once one of a policy's tokens failed, its next waves are held back."""
    queues = {name: list(rows) for name, rows in _by_policy(admitted).items()}
    done = dict.fromkeys(queues, 0)
    for number in itertools.count():
        batch: list[Candidate] = []
        for name, rows in queues.items():
            waves = rows[0].policy.waves
            reach = waves[min(number, len(waves) - 1)].reach(len(rows))
            batch += rows[done[name] : reach]
            done[name] = max(done[name], reach)
        if not batch:
            return
        bad: set[str] = set()
        for result in run(desk, [_work(desk, row) for row in batch]):
            if result.outcome in _WORST or result.held:
                bad.add(result.policy)
            yield result
        for name in bad & queues.keys():
            rows = queues.pop(name)
            for row in rows[done[name] :]:
                yield result_of(row, None, "held back: the wave before it did not settle")


def _by_policy(rows: Sequence[Candidate]) -> dict[str, list[Candidate]]:
    found: dict[str, list[Candidate]] = {}
    for row in rows:
        found.setdefault(row.policy.name, []).append(row)
    return found


def recover(desk: Desk) -> list[Result]:
    """Drive everything that is open in the journal, whatever the config now says; our own credential first."""
    now = desk.clock.now()
    rotations = desk.journal.open_rotations(desk.provider.name)
    results = [_waiting(rotation) for rotation in rotations if waits(rotation, now)]
    active = [rotation for rotation in rotations if not waits(rotation, now)]
    for rotation in active:
        if rotation.own:
            results += run(desk, [_recovery(desk, rotation)])
    return [*results, *run(desk, [_recovery(desk, rotation) for rotation in active if not rotation.own])]


Work = Callable[[], Result | None]


def _recovery(desk: Desk, listed: Rotation) -> Work:
    def failed(error: RotatorError) -> Result:
        return replace(_waiting(listed), message=error.message)

    return _bounded(lambda: _recovered(desk, listed), failed)


def _recovered(desk: Desk, listed: Rotation) -> Result | None:
    attempt = claimed(desk, listed)
    if attempt is None:
        return None
    try:
        return attempt.recover()
    finally:
        with suppress(RotatorError):  # the journal is full or locked: our end frees it
            desk.journal.release(listed.id)


def claimed(desk: Desk, listed: Rotation) -> Attempt | None:
    """Take over an open rotation; None if another process is at it.

    Raises:
        Permanent: It is of another organization, which alone can say whether its token lives.
        Temporary, AuditUnavailable: The journal cannot be written.
    """
    if listed.organization_id != desk.provider.organization_id:
        where, name = listed.organization_id, desk.provider.name
        raise Permanent(
            f"it is of organization {where} and kept, with its seal; put providers.{name}.organization_id back"
        )
    rotation = desk.journal.claim(listed.id)
    if rotation is None:
        return None
    try:
        known = desk.journal.lineages(rotation.provider, [rotation.lineage]).get(rotation.lineage)
        lineage = known or Lineage(rotation.provider, rotation.lineage, rotation.token_id, rotation.name)
        return Attempt(desk, rotation, lineage, recovering(desk, rotation))
    except BaseException:
        with suppress(RotatorError):
            desk.journal.release(rotation.id)
        raise


def _work(desk: Desk, row: Candidate) -> Work:
    return guarded(desk, row, begin)


def guarded(desk: Desk, row: Candidate, act: Callable[[Desk, Candidate], Result | None]) -> Work:
    """Return the work on one token; its failure becomes a result, for it must not stop the others."""

    def failed(error: RotatorError) -> Result:
        _tell_failure(desk, row, error.message)
        dead = isinstance(error, CredentialRejected)
        return result_of(row, Outcome.FAILED, error.message, credential_dead=dead)

    return _bounded(lambda: act(desk, row), failed)


def _bounded(act: Work, failed: Callable[[RotatorError], Result]) -> Work:
    """Return the work on one token; whatever it raises becomes a result."""

    def work() -> Result | None:
        try:
            return act()
        except RotatorError as error:
            return failed(error)
        except Exception as error:  # noqa: BLE001 - boundary "token": one token must not stop the others
            said = f"unexpected {type(error).__name__}; the journal has the state, the next sweep goes on from it"
            return failed(Temporary(said))

    return work


def run(desk: Desk, work: Sequence[Work]) -> Iterator[Result]:
    """Run in a bounded pool; stop claiming when told to, or when our own credential is dead."""
    waiting = iter(work)
    done: SimpleQueue[Future[Result | None]] = SimpleQueue()
    running = 0
    with ThreadPoolExecutor(desk.settings.rotations, thread_name_prefix="rotation") as pool:
        while True:
            room = desk.settings.rotations * 2 - running
            for item in () if desk.stop.is_set() else itertools.islice(waiting, room):
                pool.submit(_unless_stopped, desk, item).add_done_callback(done.put)
                running += 1
            if not running:
                return
            result = done.get().result()
            running -= 1
            if result is not None:
                if result.credential_dead and not desk.stop.is_set():
                    desk.stop.set()
                    _rejected(desk, result.message)
                yield result


def _unless_stopped(desk: Desk, work: Work) -> Result | None:
    return None if desk.stop.is_set() else work()


def homeless(rotation: Rotation) -> Result:
    """Return what an open rotation comes to whose provider the config no longer knows."""
    name = rotation.provider
    said = f"the provider {name} is no longer configured; its seal is kept; put [providers.{name}] back"
    return replace(_waiting(rotation), message=said)


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
        strategy=rotation.strategy,
        locations=tuple(f"{r.place.sink}:{r.place.location}" for r in rotation.deliveries),
    )


def _rejected(desk: Desk, message: str) -> None:
    _note(desk, [_about(desk, EventName.CREDENTIAL_REJECTED, "", message)])


def _tell_failure(desk: Desk, row: Candidate, message: str) -> None:
    step, reason = (Step.RETIRE, None) if row.decision.due is None else (Step.PREFLIGHT, row.decision.due)
    event = desk.about(
        EventName.PREFLIGHT_FAILED, row.token, row.policy.name, message=message, reason=reason, step=step
    )
    is_rotation = row.decision.due is not None
    desk.emit(replace(event, outcome=Outcome.FAILED, strategy=row.strategy) if is_rotation else event)


def _tell(desk: Desk, name: EventName, message: str) -> None:
    desk.emit(_about(desk, name, "", message))


def _announce(desk: Desk, name: EventName, policy: str, message: str) -> None:
    desk.record(_about(desk, name, policy, message))


def _note(desk: Desk, events: Sequence[Event]) -> None:
    if events:
        note(desk.journal, desk.emit, *events)


def _about(desk: Desk, name: EventName, policy: str, message: str = "") -> Event:
    return Event(name=name, at=desk.clock.now(), provider=desk.provider.name, policy=policy, message=message)
