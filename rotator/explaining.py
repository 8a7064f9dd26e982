"""Why one token is or is not due: every answer that `decide` is made of, one by one; pure.

`rotator explain` shows this. There is no second opinion here: each row asks the helpers of `planning` that `decide`
itself asks, and what was decided stands beside the rows.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from rotator.drift import moved_elsewhere
from rotator.model import Heal, Lineage, Policy, Reason, Skip, Token
from rotator.planning import (
    URGENT,
    Candidate,
    Plan,
    backs_off,
    born,
    due_moments,
    early,
    first_due,
    held_back,
    limit_of,
    mending,
    min_interval,
    never_due,
    not_before,
    paused,
    unselected,
    urgent_at,
)
from rotator.timing import spoken, stamp

BY_AGE_OR_EXPIRY = (Reason.EXPIRED, Reason.EMERGENCY, Reason.BEFORE_EXPIRY, Reason.MAX_AGE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one policy says of a token.

    Attributes:
        says_no: The key of `select` that leaves it out; empty if the policy selects it.
        owns: It is the first in file order that selects it; one that does and does not own it overlaps.
    """

    policy: str
    says_no: str
    owns: bool

    @property
    def overlaps(self) -> bool:
        """Whether it selects the token, but another policy comes first."""
        return not self.says_no and not self.owns


@dataclass(frozen=True, slots=True)
class Condition:
    """What one condition says now.

    Attributes:
        at: From when it holds, UTC; None if it never does, or holds by itself.
        holds: The first one that does is why the token is due, unless something holds it back.
    """

    reason: Reason
    message: str
    at: datetime | None = None
    holds: bool = False


@dataclass(frozen=True, slots=True)
class Hold:
    """What may hold a token back.

    Attributes:
        name: As its key in the config, or the reason of a skip.
        holds: Whether it is in force now; an emergency overrides some of them, which the message says.
        until: UTC; None if it is not in force, or ends by no clock.
    """

    name: str
    message: str
    until: datetime | None = None
    holds: bool = False


def verdicts(token: Token, policies: Sequence[Policy], lineage: Lineage | None) -> tuple[Verdict, ...]:
    """Return what each policy says of a token, in file order."""
    root = lineage.id if lineage is not None else token.id
    found: list[Verdict] = []
    for policy in policies:
        says_no = unselected(policy, token, root)
        owns = not says_no and not any(verdict.owns for verdict in found)
        found.append(Verdict(policy.name, says_no, owns))
    return tuple(found)


def conditions(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> tuple[Condition, ...]:
    """Return every condition in the order in which they are asked; `now` is UTC."""
    return (
        _unsettled(policy, lineage),
        _drifted(token, policy, lineage),
        Condition(Reason.LEAKED, "only a person says so: `rotator rotate --leaked`"),
        Condition(Reason.REQUESTED, "only a person says so: `rotator rotate`"),
        *_timed(token, policy, lineage, now),
    )


def _unsettled(policy: Policy, lineage: Lineage | None) -> Condition:
    if lineage is not None and lineage.open_state is not None:
        said = f"a rotation is open: {lineage.open_state}: {lineage.open_message or 'in progress'}"
        return Condition(Reason.UNSETTLED, said, holds=True)
    if lineage is not None and lineage.stale:
        said = "its sinks hold a secret that is not the live one any more"
        mended = mending(policy, lineage)
        if mended is not None and mended[0] is not Heal.ROTATE:
            return Condition(Reason.UNSETTLED, f"{said}; mended as a drift, without a new secret")
        return Condition(Reason.UNSETTLED, said, holds=True)
    return Condition(Reason.UNSETTLED, "no rotation of it is open")


def _drifted(token: Token, policy: Policy, lineage: Lineage | None) -> Condition:
    drift = lineage.drift if lineage is not None else None
    mended = mending(policy, lineage)
    if drift is not None:
        why = "" if mended else _unmended(policy, drift.heal)
        said = f"{drift.kind}: {drift.message}{why}"
        return Condition(Reason.DRIFTED, said, drift.found_at, holds=mended is not None)
    if moved_elsewhere(token, lineage):
        said = "somebody else rotated it: the next sweep looks at its sinks"
    elif lineage is not None and lineage.looked_at is not None:
        said = f"nothing differed when its sinks were last read, {stamp(lineage.looked_at)}"
    else:
        said = "its sinks have not been read yet"
    return Condition(Reason.DRIFTED, said)


def _unmended(policy: Policy, heal: Heal) -> str:
    return '; on_drift = "alert" names it only' if policy.on_drift == "alert" else f"; {heal}: named only"


def _timed(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> Iterator[Condition]:
    moments = {reason: (at, said) for reason, at, said in due_moments(token, policy, lineage)}
    for reason in BY_AGE_OR_EXPIRY:
        if reason not in moments:
            yield Condition(reason, never_due(reason, token, policy, lineage))
            continue
        at, said = moments[reason]
        yield Condition(reason, said if at <= now else f"in {spoken(at - now)}", at, holds=at <= now)


def holds(row: Candidate, lineage: Lineage | None, made: Plan, now: datetime) -> tuple[Hold, ...]:
    """Return everything that may hold a token back, in the order in which it is asked.

    Args:
        row: The token with its owner and what was decided.
        lineage: What is remembered of it.
        made: A plan of its policy, for the brake.
        now: UTC.
    """
    token, policy = row.token, row.policy
    reason = first_due(token, policy, lineage, now)[0]
    return (
        _quarantined(lineage),
        *_skipped(row),
        _paused(token, policy, now),
        _min_interval(token, policy, lineage, now),
        *_closed(row, lineage, reason, now),
        _backoff(policy, lineage, reason, now),
        _brake(row, made),
    )


def _quarantined(lineage: Lineage | None) -> Hold:
    if lineage is None or lineage.quarantined_at is None:
        return Hold("quarantined", "it is not quarantined")
    said = f"since {stamp(lineage.quarantined_at)}: {lineage.quarantine_reason}; see `rotator release`"
    return Hold("quarantined", said, holds=True)


def _skipped(row: Candidate) -> Iterator[Hold]:
    """What few tokens meet: named only where it holds."""
    if row.decision.skip in (Skip.IN_GRACE, Skip.OWN_CREDENTIAL, Skip.BAD_PATH):
        yield Hold(str(row.decision.skip), row.decision.message, holds=True)


def _paused(token: Token, policy: Policy, now: datetime) -> Hold:
    until = policy.paused_until
    if until is None or now >= until:
        return Hold("paused", "the policy does not pause")
    return Hold("paused", paused(token, policy), until, holds=True)


def _min_interval(token: Token, policy: Policy, lineage: Lineage | None, now: datetime) -> Hold:
    earliest = not_before(token, policy, lineage)
    said = f"{spoken(min_interval(token, policy))} after {stamp(born(token, lineage))}, when its secret was made"
    return Hold("min_interval", said, earliest if now < earliest else None, holds=now < earliest)


def _closed(row: Candidate, lineage: Lineage | None, reason: Reason | None, now: datetime) -> Iterator[Hold]:
    policy = row.policy
    closed = held_back(row.token, policy, lineage, now)
    until = urgent_at(row.token, policy, lineage)
    for skip, key, windows, in_force in (
        (Skip.WINDOW, "windows", policy.windows, policy.windows is not None and not policy.windows.contains(now)),
        (Skip.BLACKOUT, "blackouts", policy.blackouts, policy.blackouts is not None and policy.blackouts.contains(now)),
    ):
        if windows is None:
            yield Hold(str(skip), f"no {key} are set")
        elif not in_force:
            yield Hold(str(skip), f"{', '.join(windows.texts)}: not in force now")
        else:
            said = closed[1] if closed is not None and closed[0] is skip else ", ".join(windows.texts)
            goes = f"; an emergency from {stamp(until)} on overrides it" if until and not _overridden(reason) else ""
            yield Hold(str(skip), f"{said}{_overridden(reason) or goes}", holds=True)


def _backoff(policy: Policy, lineage: Lineage | None, reason: Reason | None, now: datetime) -> Hold:
    if lineage is None or lineage.retry_at is None or now >= lineage.retry_at:
        return Hold("backoff", "it did not fail lately")
    if not backs_off(policy, lineage, now):
        return Hold("backoff", f"it failed {lineage.failures} times, but the policy has changed since")
    said = f"it failed {lineage.failures} times in a row"
    return Hold("backoff", f"{said}{_overridden(reason)}", lineage.retry_at, holds=True)


def _overridden(reason: Reason | None) -> str:
    return f"; overridden, because it is {reason}" if reason in URGENT else ""


def _brake(row: Candidate, made: Plan) -> Hold:
    policy, selected = row.policy, made.selected.get(row.policy.name, 0)
    refusal = next((refusal for refusal in made.refused if refusal.policy == policy.name), None)
    if refusal is None:
        due = sum(candidate.policy is policy and candidate.mints for candidate in made.due)
        return Hold("brake", f"{due} of {selected} selected tokens are due, {limit_of(policy, selected)[1]}")
    admitted = any(candidate.token.id == row.token.id for candidate in made.admitted)
    return Hold("brake", refusal.message, holds=not admitted)


def jitter(token: Token, policy: Policy) -> str:
    """Return what jitter does to a token, in words."""
    share = early(token, policy)
    said = f"its thresholds are {share:.2%} earlier (jitter is up to {policy.jitter:.0%})"
    return said if policy.jitter else "off"
