"""What the decisions of the days ahead will be: the same `decide` and the same brake under a virtual clock; pure.

`rotator simulate` lists the tokens once and asks this. Every rotation is taken to succeed at once; open rotations are
taken to be settled, places, drift and waves are not looked at, and nobody accepts a plan that the brake refuses. A
token is looked at only at the sweep at which its decision can change, so that a year of hourly sweeps takes seconds.
"""

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from itertools import count

from rotator.model import Generation, Lineage, Policy, Reason, Skip, Token
from rotator.planning import (
    URGENT,
    WAIT_FOR_WINDOWS,
    Candidate,
    Decision,
    Plan,
    allowed,
    decide,
    guard,
    opens_at,
    owner,
    urgent_at,
)
from rotator.schedule import MOMENT, stretches

GETS_A_ROTATION = 2  # the look before the call, and the proof with the new secret


@dataclass(frozen=True, slots=True)
class RefusedPlan:
    """A plan that the brake would refuse.

    Attributes:
        at: The first sweep that meets it, UTC.
        due: How many tokens it holds.
    """

    at: datetime
    policy: str
    due: int
    message: str


@dataclass(frozen=True, slots=True)
class MissedWindow:
    """A stretch inside the windows and outside the blackouts in which no sweep begins."""

    policy: str
    opens: datetime
    closes: datetime


@dataclass(frozen=True, slots=True)
class Expiry:
    """A token that would expire before it is rotated.

    Attributes:
        at: The first time, UTC.
        rotated_at: The sweep that would rotate it too late; None if none would.
        times: How often it would happen.
        message: Why it is not rotated before.
    """

    token_id: str
    name: str
    policy: str
    at: datetime
    rotated_at: datetime | None
    times: int
    message: str


@dataclass(slots=True)
class Forecast:
    """What would happen from `start` up to `end`, UTC.

    Attributes:
        selected: Policy name to the number of tokens it owns.
        calendar: Day (UTC) to the rotations of each policy; days without any are absent.
        reasons: Of all rotations.
        outside: Policy name to the rotations that could not wait for a window.
        busiest: The moment at which most rotations begin together, over all policies, and how many.
        refused: In order of time, each set of tokens once.
    """

    start: datetime
    end: datetime
    selected: Counter[str] = field(default_factory=Counter)
    calendar: dict[date, Counter[str]] = field(default_factory=dict)
    reasons: Counter[Reason] = field(default_factory=Counter)
    outside: Counter[str] = field(default_factory=Counter)
    busiest: tuple[datetime, int] | None = None
    refused: list[RefusedPlan] = field(default_factory=list)
    missed: list[MissedWindow] = field(default_factory=list)
    expiring: list[Expiry] = field(default_factory=list)

    @property
    def rotations(self) -> int:
        """How many there are in all."""
        return self.reasons.total()


@dataclass(slots=True, eq=False)
class _Virtual:
    """One token on its way through virtual time.

    Attributes:
        next_at: The sweep at which its decision can change; None if at none.
        why: What held it back when it was last looked at.
        expiry: The first time it expired on the way.
    """

    token: Token
    policy: Policy
    lineage: Lineage | None
    next_at: datetime | None = None
    why: str = "no sweep of its policy lies before"
    expiry: Expiry | None = None


_Held = dict[str, dict[str, tuple[_Virtual, Candidate]]]


def simulate(
    tokens: Iterable[tuple[Token, Lineage | None]],
    policies: Sequence[Policy],
    own_token_ids: frozenset[str],
    start: datetime,
    end: datetime,
) -> Forecast:
    """Return what the policies would do to the tokens.

    Args:
        tokens: All of one provider, each with what the journal remembers.
        policies: All of the provider's, in file order.
        own_token_ids: Our own credentials, which no policy rotates.
        start: UTC; sweeps from this moment on count.
        end: UTC; sweeps before this moment count.
    """
    forecast = Forecast(start, end)
    players = list(_players(tokens, policies, forecast.selected))
    clock = _Clock(end)
    for player in players:
        if player.token.id in own_token_ids:
            player.why = "it is the credential rotator itself works with"
        else:
            clock.wake(player, player.policy.schedule.next_after(start - MOMENT))
    held: _Held = {}
    for at, woken in clock.moments():
        begun = sum(_sweep(forecast, clock, at, mine, held) for mine in _by_policy(woken))
        if begun and (forecast.busiest is None or begun > forecast.busiest[1]):
            forecast.busiest = at, begun
    forecast.missed.extend(_missed(policies, start, end))
    forecast.expiring.extend(_expiries(players, end))
    return forecast


class _Clock:
    """Virtual time: who is looked at when; jumps from one moment at which something can change to the next."""

    def __init__(self, end: datetime) -> None:
        self._end = end
        self._queue: list[tuple[datetime, int, _Virtual]] = []
        self._serial = count()

    def wake(self, player: _Virtual, at: datetime | None) -> None:
        """Look at a token at this moment and not at the one it waited for; never again if None."""
        queued, player.next_at = player.next_at, at
        if at is not None and at < self._end and at != queued:
            heapq.heappush(self._queue, (at, next(self._serial), player))

    def moments(self) -> Iterator[tuple[datetime, list[_Virtual]]]:
        """Yield each moment with the tokens to look at."""
        while self._queue:
            at, woken = self._queue[0][0], []
            while self._queue and self._queue[0][0] == at:
                player = heapq.heappop(self._queue)[2]
                if player.next_at == at:
                    player.next_at = None
                    woken.append(player)
            if woken:
                yield at, woken


def _players(
    tokens: Iterable[tuple[Token, Lineage | None]], policies: Sequence[Policy], selected: Counter[str]
) -> Iterator[_Virtual]:
    for token, lineage in tokens:
        policy = owner(token, policies, lineage)
        if policy is None or (lineage is not None and lineage.token_id != token.id):
            continue  # an old member of its lineage is not in use
        selected[policy.name] += 1
        settled = replace(lineage, open_state=None, open_message="", drift=None) if lineage is not None else None
        yield _Virtual(token, policy, settled)


def _by_policy(players: Iterable[_Virtual]) -> Iterable[list[_Virtual]]:
    groups: dict[str, list[_Virtual]] = {}
    for player in players:
        groups.setdefault(player.policy.name, []).append(player)
    return groups.values()


def _sweep(forecast: Forecast, clock: _Clock, at: datetime, woken: list[_Virtual], held: _Held) -> int:
    """Decide and rotate at one sweep of one policy; return how many.

    Args:
        forecast: Grows.
        clock: Woken tokens are put back to sleep here.
        at: UTC.
        woken: Tokens of one policy whose decision can have changed.
        held: What the brake holds back, by policy: due whenever the windows are open, so not decided anew.
    """
    policy = woken[0].policy
    plan, mine = Plan(selected={policy.name: forecast.selected[policy.name]}), held.setdefault(policy.name, {})
    for player in woken:
        mine.pop(player.token.id, None)
        decision = decide(player.token, policy, player.lineage, at)
        if decision.due is None:
            _let_wait(clock, player, decision, at)
        else:
            mine[player.token.id] = player, Candidate(player.token, policy, decision)
    free = allowed(policy, at)
    plan.due = [candidate for _, candidate in mine.values() if free or candidate.decision.due not in WAIT_FOR_WINDOWS]
    guard(plan, None)
    _note_refusal(forecast, plan, at)
    for candidate in plan.admitted:
        player, _ = mine.pop(candidate.token.id)
        _count(forecast, player, decide(player.token, policy, player.lineage, at), at)
        _rotate(player, at)
        _let_wait(clock, player, decide(player.token, policy, player.lineage, at), at)
    _hold_back(clock, [player for player, _ in mine.values()], at, smaller=bool(plan.admitted))
    return len(plan.admitted)


def _hold_back(clock: _Clock, players: Sequence[_Virtual], at: datetime, *, smaller: bool) -> None:
    """Let what the brake refuses wait: for its emergency, or for the next sweep if the plan has become smaller."""
    for player in players:
        player.why = "the brake refuses its plan"
        if player.next_at is None:
            urgent = urgent_at(player.token, player.policy, player.lineage)
            clock.wake(player, urgent and _sweep_from(player.policy, urgent, at))
    if players and smaller:
        clock.wake(players[0], _sweep_from(players[0].policy, at, at))


def _note_refusal(forecast: Forecast, plan: Plan, at: datetime) -> None:
    for refusal in plan.refused:
        before = next((told.message for told in reversed(forecast.refused) if told.policy == refusal.policy), "")
        if refusal.message != before:  # the message holds the plan's id
            forecast.refused.append(RefusedPlan(at, refusal.policy, len(plan.due), refusal.message))


def _let_wait(clock: _Clock, player: _Virtual, decision: Decision, now: datetime) -> None:
    player.why = decision.message
    clock.wake(player, _next_look(player, decision, now))


def _next_look(player: _Virtual, decision: Decision, now: datetime) -> datetime | None:
    """Return the sweep at which the decision can change, None if at none."""
    moments = [moment for moment in _changes(player, decision, now) if moment is not None]
    return _sweep_from(player.policy, min(moments), now) if moments else None


def _changes(player: _Virtual, decision: Decision, now: datetime) -> tuple[datetime | None, ...]:
    policy, lineage = player.policy, player.lineage
    match decision.skip:
        case Skip.NOT_DUE:
            return (decision.due_at,)
        case Skip.PAUSED:
            return (policy.paused_until,)
        case Skip.WINDOW | Skip.BLACKOUT:
            return opens_at(policy.windows, policy.blackouts, now), urgent_at(player.token, policy, lineage)
        case Skip.BACKOFF:
            return lineage.retry_at if lineage else None, urgent_at(player.token, policy, lineage)
        case None:
            return (now,)
    return ()


def _sweep_from(policy: Policy, moment: datetime, now: datetime) -> datetime:
    """Return the policy's first sweep at or after a moment, and after now."""
    return policy.schedule.next_after(max(moment - MOMENT, now))


def _count(forecast: Forecast, player: _Virtual, decision: Decision, at: datetime) -> None:
    policy, end = player.policy, player.token.end_at
    if decision.due is not None:
        forecast.reasons[decision.due] += 1
        if decision.due in URGENT and not allowed(policy, at):
            forecast.outside[policy.name] += 1
    forecast.calendar.setdefault(at.date(), Counter())[policy.name] += 1
    if end is not None and end <= at:
        player.expiry = _expired(player, end, at)


def _rotate(player: _Virtual, at: datetime) -> None:
    """Let the token have a new secret: its generation moves, and its expiry where its life is known."""
    token, lineage = player.token, player.lineage
    moves = token.end_at is not None and token.life is not None and not (lineage and lineage.expiry_fixed)
    end = at + token.life if moves and token.life is not None else token.end_at
    player.token = replace(token, generation=Generation(at, at), end_at=end)
    if lineage is not None:
        player.lineage = replace(
            lineage, minted_at=at, generation=player.token.generation, stale=False, failures=0, retry_at=None
        )


def _expired(player: _Virtual, at: datetime, rotated_at: datetime | None) -> Expiry:
    if player.expiry is not None:
        return replace(player.expiry, times=player.expiry.times + 1)
    return Expiry(player.token.id, player.token.name, player.policy.name, at, rotated_at, 1, player.why)


def _expiries(players: Iterable[_Virtual], end: datetime) -> Iterator[Expiry]:
    for player in players:
        expires = player.token.end_at
        if expires is not None and expires < end:
            player.expiry = _expired(player, expires, None)
        if player.expiry is not None:
            yield player.expiry


def _missed(policies: Sequence[Policy], start: datetime, end: datetime) -> Iterator[MissedWindow]:
    for policy in policies:
        if policy.windows is None:
            continue
        for opens, closes in stretches(policy.windows, policy.blackouts, start, end):
            if closes < end and policy.schedule.next_after(opens - MOMENT) >= closes:
                yield MissedWindow(policy.name, opens, closes)
