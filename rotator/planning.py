"""Which tokens are due, and why: pure functions of (token, policy, what we remember, now).

`decide` is asked by plan, sweep, status and the look under the lock; all see the same answer. Nothing here has a
clock, a network, a sleep or dice. Jitter is a hash, so that every replica and every run agree.
"""

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from zoneinfo import ZoneInfo

from rotator.drift import moved_elsewhere
from rotator.marker import Marker, marker_in
from rotator.model import (
    Heal,
    Lineage,
    Place,
    Policy,
    Reason,
    Retiring,
    Scope,
    Select,
    Share,
    Skip,
    State,
    Strategy,
    Token,
)
from rotator.schedule import longest_gap, next_allowed
from rotator.timing import spoken, stamp

PERCENT_BRAKE_FROM = 20  # below this many selected tokens a percentage says nothing
CLOCK_TOLERANCE = timedelta(seconds=60)
LONGEST_BACKOFF = timedelta(hours=6)
AHEAD = timedelta(hours=1)  # no two clocks that agree with the API's differ by so much


@dataclass(frozen=True, slots=True)
class Decision:
    """What is to happen to one token.

    Attributes:
        due: Why it is due now; None when `skip` says why not.
        due_at: When it becomes or became due, UTC; None if no condition ever holds.
        heal: For DRIFTED: whether a new secret is needed at all.
    """

    due: Reason | None
    skip: Skip | None
    message: str
    due_at: datetime | None = None
    heal: Heal | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A token with the policy that owns it and what was decided.

    Attributes:
        strategy: How it would be renewed; differs from the policy's for our own credential.
        places: Where its secret would go; resolved for due tokens only.
        open: A rotation of it is under way already: recovery's work, not the plan's.
        own: It is a credential that rotator itself works with.
        retiring: It is an old member of its lineage, and its grace is over.
        watched: It is a twin that an unanswered create may have left behind.
    """

    token: Token
    policy: Policy
    decision: Decision
    strategy: Strategy = Strategy.IN_PLACE
    places: tuple[Place, ...] = ()
    open: bool = False
    own: bool = False
    retiring: Retiring | None = None
    watched: bool = False

    @property
    def mints(self) -> bool:
        """Whether a new secret would be made: what the brake counts."""
        return not self.open and self.decision.heal not in (Heal.ADOPT, Heal.REDELIVER)


@dataclass(frozen=True, slots=True)
class Refusal:
    """The brake's answer for one policy: nothing of it is rotated until a person accepts the plan."""

    policy: str
    reason: str
    message: str


@dataclass(slots=True)
class Plan:
    """What one sweep would do: due tokens in order; of the skipped only counts, for they may be very many.

    Attributes:
        selected: Policy name to the number of tokens it owns.
        due: All that is due, also what a refusal holds back, most urgent first.
        admitted: The part of `due` that may be acted on.
        ending: Old members whose grace is over; `endable` is the part that may be ended.
        orphans: Twins that unanswered creates may have left behind.
        held: How many due tokens are held back because there is no safe place for their secret.
        seen: Members of lineages that have several, as far as they were listed.
    """

    due: list[Candidate] = field(default_factory=list)
    admitted: list[Candidate] = field(default_factory=list)
    ending: list[Candidate] = field(default_factory=list)
    endable: list[Candidate] = field(default_factory=list)
    orphans: list[Candidate] = field(default_factory=list)
    held: int = 0
    seen: set[str] = field(default_factory=set)
    refused: list[Refusal] = field(default_factory=list)
    selected: dict[str, int] = field(default_factory=dict)
    skipped: dict[Skip, int] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """A name for exactly this set of due tokens in exactly these generations."""
        digest = hashlib.sha256()
        for row in sorted(
            (c.policy.name, c.token.id, stamp(c.token.generation.moment), c.retiring is not None)
            for c in (*self.due, *self.ending)
        ):
            digest.update(repr(row).encode())
        return digest.hexdigest()[:12]


def owner(token: Token, policies: Sequence[Policy], lineage: Lineage | None = None) -> Policy | None:
    """Return the first policy in file order that selects the token."""
    root = lineage.id if lineage is not None else token.id
    return next((policy for policy in policies if selects(policy, token, root)), None)


def selects(policy: Policy, token: Token, root: str) -> bool:
    """Whether a policy names this token; default deny. See `unselected`."""
    return not unselected(policy, token, root)


def unselected(policy: Policy, token: Token, root: str) -> str:
    """Return the key of `select` that says no to a token, empty if the policy names it.

    Args:
        policy: The one that is asked.
        token: As the provider lists it.
        root: The first id of its lineage, which stands for it in `ids`.
    """
    select = policy.select
    if token.scope not in select.scopes:
        return "scopes"
    if select.ids and root not in select.ids:
        return "ids"
    if token.kind == "DIRECT_ACCESS" and root not in select.ids:
        return "ids"  # verified at the data plane, so an old secret may outlive its rotation: only when named by id
    if not_home := _not_home(select, token):
        return not_home
    if select.roles and not any(role.role in select.roles for role in token.roles):
        return "roles"
    if not any(fnmatchcase(token.name, glob) for glob in select.names):
        return "names"
    return "exclude_names" if any(fnmatchcase(token.name, glob) for glob in select.exclude_names) else ""


def _not_home(select: Select, token: Token) -> str:
    if token.scope is Scope.DEPLOYMENT and select.deployments:
        if token.deployment_id not in select.deployments:
            return "deployments"
        if not token.workspace_id:  # v1alpha1 does not say it; a deployment that is named needs no second proof
            return ""
    is_home = not select.workspaces or token.scope is Scope.ORGANIZATION or token.workspace_id in select.workspaces
    return "" if is_home else "workspaces"


def decide(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> Decision:
    """Return whether the token is due, with the first reason that holds, or why it is left alone.

    Args:
        token: As the provider lists it now.
        policy: The one that owns it.
        lineage: What the journal remembers; None if nothing.
        now: UTC.
    """
    held = _held(token, lineage, now) if lineage is not None else None
    if held is not None:
        return held
    lineage = believable(lineage, now)
    mended = mending(policy, lineage)
    if mended is not None and mended[0] is not Heal.ROTATE:  # without a new secret: neither pause nor window holds it
        return Decision(Reason.DRIFTED, None, mended[1], now, mended[0])
    reason, due_at, message = first_due(token, policy, lineage, now)
    heal = Heal.ROTATE if reason is Reason.DRIFTED else None
    if policy.paused_until is not None and now < policy.paused_until and reason is not Reason.UNSETTLED:
        return Decision(None, Skip.PAUSED, paused(token, policy), due_at)
    if reason is None:
        return Decision(None, Skip.NOT_DUE, message, due_at)
    if reason in WAIT_FOR_WINDOWS or _may_wait(reason, lineage):
        closed = held_back(token, policy, lineage, now)
        if closed is not None:
            return Decision(None, closed[0], f"{message}; {closed[1]}", due_at)
    if backs_off(policy, lineage, now) and reason not in URGENT:
        until, count = (lineage.retry_at, lineage.failures) if lineage else (None, 0)
        return Decision(None, Skip.BACKOFF, f"failed {count} times, again {stamp(until or now)}", due_at)
    return Decision(reason, None, message, due_at, heal)


def believable(lineage: Lineage | None, now: datetime) -> Lineage | None:
    """Return a lineage without moments that lie ahead of any that can be: a clock that was wrong has noted them.

    They would hold expiry and emergency back for as long as that clock was ahead.
    """
    if lineage is None:
        return None
    minted_at, retry_at = lineage.minted_at, lineage.retry_at
    if minted_at is not None and minted_at > now + AHEAD:
        lineage = replace(lineage, minted_at=None)
    return replace(lineage, retry_at=None) if retry_at is not None and retry_at > now + LONGEST_BACKOFF else lineage


def _held(token: Token, lineage: Lineage, now: datetime) -> Decision | None:
    """What the journal alone decides."""
    if lineage.quarantined_at is not None:
        return Decision(None, Skip.QUARANTINED, f"quarantined: {lineage.quarantine_reason}; see `rotator release`")
    old = next((old for old in lineage.retiring if old.token_id == token.id), None)
    if old is not None:
        ends = f"{old.message or 'in grace'}; ends {stamp(old.due_at)} or later"
        return Decision(None, Skip.IN_GRACE, f"replaced by {lineage.token_id}: {ends}", old.due_at)
    if token.id != lineage.token_id:
        return Decision(None, Skip.IN_GRACE, f"a twin that rotator made of {lineage.id}; not in use")
    if lineage.open_state is not None:
        return Decision(Reason.UNSETTLED, None, f"{lineage.open_state}: {lineage.open_message or 'in progress'}", now)
    return None


def mending(policy: Policy, lineage: Lineage | None) -> tuple[Heal, str] | None:
    """Return what a sweep does about a drift, and why; None if there is none, or it is only named."""
    drift = lineage.drift if lineage is not None else None
    if drift is None or drift.heal is Heal.UNKNOWN:
        return None
    if policy.on_drift == "alert" and drift.heal is not Heal.ADOPT:  # to adopt changes nothing outside
        return None
    return drift.heal, drift.message


def backs_off(policy: Policy, lineage: Lineage | None, now: datetime) -> bool:
    """Whether a token is left alone because its last rotations came to nothing."""
    if lineage is None or lineage.retry_at is None or now >= lineage.retry_at:
        return False
    return lineage.retry_under == policy.digest  # a changed policy may be what was missing


def _may_wait(reason: Reason, lineage: Lineage | None) -> bool:
    """Whether consumers may still work although a sink has drifted: then even a drift waits for its window."""
    drift = lineage.drift if lineage is not None else None
    return reason is Reason.DRIFTED and drift is not None and not drift.proven_dead


URGENT = frozenset({Reason.EXPIRED, Reason.EMERGENCY})
WAIT_FOR_WINDOWS = frozenset({Reason.BEFORE_EXPIRY, Reason.MAX_AGE})  # others: consumers are or will be cut off


def held_back(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> tuple[Skip, str] | None:
    """Return whether windows or blackouts hold a due token back, and until when."""
    if allowed(policy, now):
        return None
    inside = policy.windows is None or policy.windows.contains(now)
    skip, said = (Skip.BLACKOUT, "in a blackout") if inside else (Skip.WINDOW, "outside its windows")
    opens = opens_at(policy.windows, policy.blackouts, now)
    if opens is None:
        until = "and NO MOMENT AHEAD is inside the windows and outside the blackouts"
    else:
        local = opens.astimezone(ZoneInfo(policy.timezone)).isoformat(timespec="minutes")
        until = f"next open {local} in {policy.timezone} ({stamp(opens)})"
    loud = ""
    if token.end_at is not None and (opens is None or token.end_at < opens):
        urgent = urgent_at(token, policy, lineage)
        goes = f"; from {stamp(urgent)} on it goes nevertheless" if urgent else ""
        loud = f"; it EXPIRES BEFORE THAT, {stamp(token.end_at)}{goes}"
    return skip, f"{said}, {until}{loud}"


def urgent_at(token: Token, policy: Policy, lineage: Lineage | None) -> datetime | None:
    """Return from when on windows, blackouts and backoff no longer hold the token back; None if never."""
    moments = [at for reason, at, _ in due_moments(token, policy, lineage) if reason in URGENT]
    return max(min(moments), not_before(token, policy, lineage)) if moments else None


def allowed(policy: Policy, moment: datetime) -> bool:
    """Whether a moment lies inside the policy's windows and outside its blackouts."""
    return opens_at(policy.windows, policy.blackouts, moment) == moment


# A plan asks this for every token that waits, and of one policy they all wait for the same moment.
opens_at = lru_cache(maxsize=256)(next_allowed)


def paused(token: Token, policy: Policy) -> str:
    """Return until when and why the policy pauses; empty if it never does."""
    until = policy.paused_until
    if until is None:
        return ""
    why = f": {policy.pause_reason}" if policy.pause_reason else ""
    loud = f"; it EXPIRES BEFORE THAT, {stamp(token.end_at)}" if token.end_at and token.end_at < until else ""
    return f"paused until {stamp(until)}{why}{loud}"


def first_due(
    token: Token, policy: Policy, lineage: Lineage | None, now: datetime
) -> tuple[Reason | None, datetime | None, str]:
    """Return the first condition that asks for a new secret now, since when, and what is said of it.

    Without one the reason is None, the moment is the next at which one will hold, and the text says why none does.
    """
    if lineage is not None and lineage.stale:
        return Reason.UNSETTLED, now, "its sinks hold a secret that somebody else has superseded"
    mended = mending(policy, lineage)
    if mended is not None and mended[0] is Heal.ROTATE:
        return Reason.DRIFTED, now, mended[1]
    moments = due_moments(token, policy, lineage)
    earliest = not_before(token, policy, lineage)
    holding = [(reason, at, said) for reason, at, said in moments if at <= now]
    if holding and now >= earliest:
        return holding[0]
    if not moments:
        return None, None, _never(token, policy, lineage) + _remarks(token, policy, lineage, now)
    first = min(moments, key=lambda row: row[1])
    due_at = max(first[1], earliest)
    held = f"; held back by min_interval until {stamp(earliest)}" if holding else ""
    said = f"due {stamp(due_at)} ({first[0]}){held}{_unusable(token, policy)}{_remarks(token, policy, lineage, now)}"
    return None, due_at, said


def _remarks(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> str:
    if lineage is not None and lineage.drift is not None:
        return f"; drift: {lineage.drift.message}"
    if moved_elsewhere(token, lineage):
        return "; somebody else rotated it: the next sweep looks at its sinks"
    return _unused(token, policy, now)


def born(token: Token, lineage: Lineage | None) -> datetime:
    """Return when the live secret of the token was made: the latest that API and journal know."""
    moments = [token.generation.moment]
    if token.generation.last_rotated_at is None:
        moments.append(token.created_at)
    if lineage is not None:
        moments += [moment for moment in (lineage.minted_at, lineage.issued_at) if moment is not None]
    return max(moments)


def min_interval(token: Token, policy: Policy) -> timedelta:
    """Return the shortest time between two rotations for age or expiry: no loops, whatever the API says."""
    return min(policy.when.min_interval, token.life / 2) if token.life else policy.when.min_interval


def not_before(token: Token, policy: Policy, lineage: Lineage | None) -> datetime:
    """Return before when age and expiry do not rotate the token, whatever they say."""
    return born(token, lineage) + min_interval(token, policy) - CLOCK_TOLERANCE


def due_moments(token: Token, policy: Policy, lineage: Lineage | None) -> list[tuple[Reason, datetime, str]]:
    """Every condition that can hold, in the order of `Reason`, with the moment from which it holds."""
    when, made = policy.when, born(token, lineage)
    shift = 1 - early(token, policy)
    rows: list[tuple[Reason, datetime, str]] = []
    if token.end_at is not None and not (lineage is not None and lineage.expiry_fixed):
        end = token.end_at
        rows.append((Reason.EXPIRED, end, f"expired {stamp(end)}"))
        if token.life is None or when.emergency < token.life:
            rows.append((Reason.EMERGENCY, end - when.emergency, f"expires {stamp(end)}, within the emergency margin"))
        ahead = _ahead(token, policy)
        if ahead is not None and (token.life is None or ahead < token.life):
            wide = min(ahead + ahead * (1 - shift), token.life or timedelta.max)
            rows.append((Reason.BEFORE_EXPIRY, end - wide, f"expires {stamp(end)}, less than {spoken(wide)} ahead"))
    if when.max_age is not None:
        age = when.max_age * shift
        rows.append((Reason.MAX_AGE, made + age, f"its secret is from {stamp(made)}, older than {spoken(age)}"))
    return rows


def deadline(token: Token, policy: Policy, lineage: Lineage | None) -> datetime | None:
    """Return by when a policy wants a token rotated: its limits without the jitter, which only spreads work.

    None if no limit ever comes.
    """
    moments = due_moments(token, replace(policy, jitter=0.0), lineage)
    return min((at for reason, at, _ in moments if reason is not Reason.EMERGENCY), default=None)


def never_due(reason: Reason, token: Token, policy: Policy, lineage: Lineage | None) -> str:
    """Return why an age or expiry condition can never hold for a token; meant for those `due_moments` leaves out."""
    if reason is Reason.MAX_AGE:
        return "max_age is not set"
    if token.end_at is None:
        return "it never expires"
    if lineage is not None and lineage.expiry_fixed:
        return "rotating it does not move its expiry"
    if reason is Reason.EMERGENCY:
        return f"emergency {spoken(policy.when.emergency)} is not shorter than its life"
    if policy.when.before_expiry is None:
        return "before_expiry is not set"
    return _unusable(token, policy).lstrip("; ") or "its life is not known, so a percentage of it says nothing"


def _ahead(token: Token, policy: Policy) -> timedelta | None:
    threshold = policy.when.before_expiry
    if isinstance(threshold, Share):
        return token.life * threshold.of if token.life else None
    return threshold


def _unusable(token: Token, policy: Policy) -> str:
    ahead = _ahead(token, policy)
    if ahead is None or token.life is None or ahead < token.life:
        return ""
    return (
        f"; before_expiry {spoken(ahead)} is not shorter than its life of {spoken(token.life)}, so it is ignored here:"
        ' use a percentage such as "20%"'
    )


def _unused(token: Token, policy: Policy, now: datetime) -> str:
    """Say that nobody uses the token; a report only, for nobody is served by a new secret of it."""
    since = token.last_used_at or token.created_at
    if policy.when.unused_for is None or now - since < policy.when.unused_for:
        return ""
    return f"; UNUSED since {stamp(since)}" if token.last_used_at else f"; NEVER USED since {stamp(since)}"


def _never(token: Token, policy: Policy, lineage: Lineage | None) -> str:
    if lineage is not None and lineage.expiry_fixed:
        return "rotating it does not move its expiry, and no max_age is set"
    return (
        "it never expires and no max_age is set" if token.end_at is None else f"no condition{_unusable(token, policy)}"
    )


def early(token: Token, policy: Policy) -> float:
    """Return the share of its thresholds by which a token is due earlier: `jitter`, other for each token."""
    return policy.jitter * _dice(token)


def _dice(token: Token) -> float:
    """A number in [0, 1) that is the same on every replica and run, and new with each generation."""
    seed = f"{token.id} {stamp(token.generation.moment)}".encode()
    return int.from_bytes(hashlib.sha256(seed).digest()[:8]) / 2**64


def gap_warnings(policy: Policy, start: datetime, end: datetime) -> list[str]:
    """Return what is wrong with the rhythm of a policy: sweeps inside its windows that are too far apart.

    Args:
        policy: Its windows and blackouts bound when a sweep may rotate.
        start: UTC; likewise `end`. A year shows what weekdays, seasons and dated blackouts do.
    """
    gap = longest_gap(policy.schedule, policy.windows, policy.blackouts, start, end)
    limits = {"before_expiry": policy.when.before_expiry, "emergency": policy.when.emergency}
    return [
        f"the longest time between two sweeps that may rotate is {spoken(gap.length)} (from {stamp(gap.start)} to"
        f" {stamp(gap.end)}), longer than {name}, {spoken(limit)}; widen the windows or sweep more often"
        for name, limit in limits.items()
        if isinstance(limit, timedelta) and gap.length > limit
    ]


@dataclass(frozen=True, slots=True)
class Known:
    """What `survey` is told besides the tokens.

    Attributes:
        policies: All of the provider's, in file order.
        remember: Looks up lineages in the journal, by the ids of tokens.
        is_ours: Whether this installation wrote a marker.
        own_token_ids: The credentials that rotator itself works with.
        now: UTC.
    """

    policies: Sequence[Policy]
    remember: Callable[[Sequence[str]], Mapping[str, Lineage]]
    is_ours: Callable[[Marker], bool]
    own_token_ids: frozenset[str]
    now: datetime


Row = Candidate | tuple[Token, None]


def survey(page: Sequence[Token], known: Known) -> list[tuple[Row, Lineage | None]]:
    """Return each token of a page with its owner, decision and lineage; (token, None) if no policy selects it."""
    markers = {token.id: marker for token in page if (marker := marker_in(token.description)) is not None}
    asked = {token.id for token in page} | {marker.lineage for marker in markers.values()}
    lineages = known.remember(sorted(asked))
    rows: list[tuple[Row, Lineage | None]] = []
    for token in page:
        lineage = lineages.get(token.id) or _twin_of(markers.get(token.id), lineages, known)
        policy = owner(token, known.policies, lineage)
        rows.append(((token, None) if policy is None else candidate(token, policy, lineage, known), lineage))
    return rows


def _twin_of(marker: Marker | None, lineages: Mapping[str, Lineage], known: Known) -> Lineage | None:
    """Return the lineage that an unknown token is a twin of: by a create that is not accounted for yet.

    Anybody may edit a description: a marker that we did not write, or that was copied from an old twin, means nothing.
    """
    lineage = lineages.get(marker.lineage) if marker is not None else None
    if marker is None or lineage is None or not known.is_ours(marker):
        return None
    is_watched = any(watch.post_id == marker.post_id for watch in lineage.watches)
    return lineage if is_watched or lineage.open_state is not None else None


def candidate(token: Token, policy: Policy, lineage: Lineage | None, known: Known) -> Candidate:
    """Return a token with what is decided about it now."""
    decision = decide(token, policy, lineage, known.now)
    marker = marker_in(token.description)
    watches = {watch.post_id for watch in lineage.watches} if lineage is not None else set()
    is_member = lineage is None or token.id in lineage.members
    olds = lineage.retiring if lineage is not None else ()
    return Candidate(
        token,
        policy,
        decision,
        strategy=policy.strategy,
        open=lineage is not None and lineage.open_state is not None and token.id == lineage.token_id,
        own=token.id in known.own_token_ids,
        retiring=next((old for old in olds if old.token_id == token.id and old.due_at <= known.now), None),
        watched=not is_member and marker is not None and marker.post_id in watches,
    )


def guard(plan: Plan, accepted: str | None) -> Plan:
    """Return the plan with `admitted`, `endable` and `refused` set by each policy's brake.

    The brake counts new secrets and old members to be ended. Tokens whose rotation is already open are recovery's work
    and do not count; neither does what mends a drift without a new secret. It always admits a plan of one; emergencies
    go although it holds, nearest expiry first, up to `max_rotations`.

    Args:
        plan: With `due`, `ending` and `selected` complete.
        accepted: The plan id that a person accepted, of several providers joined by `-`; lifts the brake of this plan.
    """
    plan.due.sort(key=lambda c: (_urgency(c), c.policy.name, c.token.id))
    plan.refused = []
    plan.admitted = [c for c in plan.due if not c.mints and not c.open]
    plan.endable = []
    for policy in {c.policy.name: c.policy for c in (*plan.due, *plan.ending)}.values():
        minting = [c for c in plan.due if c.policy is policy and c.mints]
        ending = [c for c in plan.ending if c.policy is policy]
        limit, arithmetic = limit_of(policy, plan.selected.get(policy.name, len(minting)))
        if len(minting) + len(ending) <= limit or plan.id in (accepted or "").split("-"):
            plan.admitted.extend(minting)
            plan.endable.extend(ending)
            continue
        urgent = [c for c in minting if c.decision.due in URGENT][: policy.brake.max_rotations]
        plan.admitted.extend(urgent)
        also = f"; {len(urgent)} that cannot wait go nevertheless" if urgent else ""
        also = (f" and {len(ending)} old ones are to be ended" if ending else "") + also
        said = f"{len(minting)} of {plan.selected.get(policy.name, 0)} tokens are due{also}, {arithmetic}"
        plan.refused.append(Refusal(policy.name, "brake", f"{said}; accept exactly this with --accept {plan.id}"))
    return plan


def _urgency(candidate: Candidate) -> tuple[int, float]:
    end = candidate.token.end_at
    rank = 0 if candidate.decision.due in URGENT else 1
    return rank, end.timestamp() if end else float("inf")


def limit_of(policy: Policy, selected: int) -> tuple[int, str]:
    """Return how many tokens one sweep of a policy may change, and by which key, of so many selected ones."""
    limit, said = policy.brake.max_rotations, f"max_rotations is {policy.brake.max_rotations}"
    percent = policy.brake.max_percent
    if percent is not None and selected >= PERCENT_BRAKE_FROM and int(selected * percent / 100) < limit:
        limit, said = int(selected * percent / 100), f"max_percent {percent:g} allows {int(selected * percent / 100)}"
    return max(1, limit), said


def place_problem(
    places: Sequence[Place], lineage: Lineage | None, owners: dict[tuple[str, str], str], lineage_id: str
) -> str:
    """Return why a lineage may not write to these places, empty if it may.

    Args:
        places: Resolved for the token.
        lineage: What the journal remembers of it.
        owners: Claims of places, and of keys and wholes of them, to the lineage that owns each.
        lineage_id: Whose places they are to be.
    """
    for place in places:
        others = (claim for claim, owner in owners.items() if owner != lineage_id)
        holder = next((owners[other] for other in others if any(_meet(other, claim) for claim in place.claims)), None)
        if holder is not None:
            return f"{place.sink}:{place.location} belongs to token {holder}; give each token a place of its own"
    if lineage is None or not lineage.places or lineage.move_accepted:
        return ""
    wanted = {(place.sink, place.location) for place in places}
    settled = {(place.sink, place.location) for place in lineage.places}
    for sink, location in sorted(settled):
        new = sorted(spot for name, spot in wanted - settled if name == sink)
        if (sink, location) not in wanted and new:
            return (
                f"it last settled at {sink}:{location} and would now go to {new[0]} (renamed?);"
                " accept with `rotator release --accept-move`"
            )
    return ""


def overlap(places: Sequence[Place]) -> bool:
    """Whether one of these deliveries would write over another."""
    pairs = itertools.combinations(places, 2)
    return any(_meet(claim, other) for one, two in pairs for claim in one.claims for other in two.claims)


def _meet(one: tuple[str, str], other: tuple[str, str]) -> bool:
    """Whether two claims are for the same, or one for a key of what the other writes whole."""
    (home, part), (at, spot) = one, other
    return home == at and (part == spot or part.startswith(f"{spot}#") or spot.startswith(f"{part}#"))


# Every state that a token can be in, worst first, and what a person does about it.
NEXT = {
    "quarantined": "`rotator history {id}` says what happened; put it right, then `rotator release {id}`",
    "in_doubt": "`rotator settle` in a few minutes: it looks whether the call took effect",
    "unsettled": "put right what it says, then `rotator sweep` (or `rotator settle`, which rotates nothing new)",
    "drifted": "`rotator explain {id}` says what differs; the next sweep mends it, unless on_drift is alert",
    "expired": "`rotator sweep` now; if it stays, `rotator explain {id}`",
    "due": "the next sweep rotates it; `rotator plan` shows whether the brake will let it",
    "retiring": "nothing: the old token ends after its grace; `rotator explain {id}` says what it waits for",
    "paused": "nothing until the pause ends; change paused_until to go on before",
    "unknown": "make its sinks readable; `rotator explain {id}` names them",
    "gone": "deleted at the provider: nothing to rotate; remove its secret from its sinks",
    "fresh": "",
    "skipped": "`rotator explain {id}` says what holds it back",
}
STATES = tuple(NEXT)


def token_state(candidate: Candidate, lineage: Lineage | None, now: datetime) -> str:
    """Return the one word of `STATES` that `status` and `rotator_tokens` say of a token."""
    token, decision = candidate.token, candidate.decision
    if decision.skip is Skip.QUARANTINED:
        return "quarantined"
    if decision.skip is Skip.IN_GRACE:  # what is open or has drifted is said of the member in use
        return "retiring"
    if lineage is not None and lineage.open_state is not None:
        return _open_state(lineage.open_state)
    if decision.due is Reason.UNSETTLED:
        return "unsettled"
    drift = lineage.drift if lineage is not None else None
    if (drift is not None and drift.heal is not Heal.UNKNOWN) or moved_elsewhere(token, lineage):
        return "drifted"
    if token.end_at is not None and token.end_at <= now:
        return "expired"
    if decision.due is not None:
        return "due"
    if drift is not None:
        return "unknown"
    if decision.skip is Skip.PAUSED:
        return "paused"
    return "fresh" if decision.skip is Skip.NOT_DUE else "skipped"


def lineage_state(lineage: Lineage) -> str:
    """Return the same word for a credential whose token no policy selects, or that is not listed any more.

    Empty if nothing about it is unfinished.
    """
    if lineage.quarantined_at is not None:
        return "quarantined"
    if lineage.open_state is not None:
        return _open_state(lineage.open_state)
    if lineage.gone_at is not None:
        return "gone"
    if lineage.stale:
        return "unsettled"
    return "retiring" if lineage.retiring else ""


def _open_state(state: State) -> str:
    return "in_doubt" if state in (State.IN_DOUBT, State.INTENDED) else "unsettled"
