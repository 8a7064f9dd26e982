"""Where everything stands now, kept in memory: the status page, the metrics and the notifications read it.

It is fed from two sides: it listens to events, and after each sweep it takes the standings of a provider's tokens. It
is never asked by the engine, and nothing is decided by it: who needs the truth reads the journal.
"""

import heapq
import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from rotator.engine.standing import Standing
from rotator.events import Event, EventName
from rotator.model import Outcome, Policy, Reason
from rotator.planning import STATES, born, due_moments

MAX_TOKENS = 1000
RECENT = 50  # rotations shown
BY_EXPIRY = frozenset({Reason.EXPIRED, Reason.EMERGENCY, Reason.BEFORE_EXPIRY})
_SHORTEST_PAUSE, _LONGEST_PAUSE = timedelta(seconds=10), timedelta(minutes=15)
_NEVER = datetime.max.replace(tzinfo=UTC)
_Key = TypeVar("_Key")
_ENDS = {
    EventName.ROTATION_SETTLED: Outcome.SETTLED,
    EventName.ROTATION_UNSETTLED: Outcome.UNSETTLED,
    EventName.ROTATION_LOST: Outcome.LOST,
    EventName.ROTATION_REFUSED: Outcome.FAILED,
    EventName.TOKEN_QUARANTINED: Outcome.QUARANTINED,
}


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token as it stood at the last look. All text is untrusted.

    Attributes:
        state: One of `planning.STATES`.
        reason, message: Why it is due, or why not.
        hint: What a person does next; empty if nothing.
        born_at: Since when its secret is valid; with `expires_at` its life. None if the provider does not list it.
        settled_at: When a rotation of ours last settled.
        wake_at: The first moment ahead at which its expiry makes it due; None if never.
    """

    provider: str
    policy: str
    token_id: str
    name: str
    scope: str
    state: str
    reason: str
    message: str
    hint: str = ""
    due_at: datetime | None = None
    expires_at: datetime | None = None
    born_at: datetime | None = None
    last_rotated_at: datetime | None = None
    settled_at: datetime | None = None
    wake_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """One policy and its sweeps; moments are UTC, None if there was none in this process.

    Attributes:
        schedule: As it was written, with its zone.
        success_at: When a sweep last ended with nothing failed or unsettled.
        outcome: Of the last sweep.
        missed: Scheduled moments that passed without a sweep.
        is_swept: Whether a sweep is under way.
    """

    name: str
    provider: str
    schedule: str
    strategy: str
    paused_until: datetime | None = None
    next_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    success_at: datetime | None = None
    outcome: str = ""
    message: str = ""
    lasted: timedelta | None = None
    missed: int = 0

    @property
    def is_swept(self) -> bool:
        """Whether a sweep of it is under way."""
        return self.started_at is not None and (self.finished_at is None or self.finished_at < self.started_at)


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider or a sink last answered.

    Attributes:
        kind: Its type.
        message: Of the last failure, in our own words; empty since the last success.
        skew: How far a provider's clock is ahead of ours, by its latest answer; None before the first.
        behind: Of how many tokens a sink lacks what it should hold, as of the last look; None before the first.
    """

    name: str
    kind: str
    ok_at: datetime | None = None
    failed_at: datetime | None = None
    message: str = ""
    skew: timedelta | None = None
    behind: int | None = None

    @property
    def is_ok(self) -> bool | None:
        """Whether the last answer was good; None before the first."""
        if self.ok_at is None and self.failed_at is None:
            return None
        return not self.message


@dataclass(frozen=True, slots=True)
class RotationRow:
    """How one rotation ended, or last stood."""

    at: datetime
    provider: str
    policy: str
    token_id: str
    name: str
    reason: str
    outcome: str
    message: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The board at one moment; nothing in it changes any more.

    Attributes:
        at: UTC.
        tokens: The worst first, then the soonest due; of each provider as many as the board keeps.
        counts: Tokens by (policy, state), of all tokens.
        looked_at: When each provider's tokens were last taken.
        rotations: The newest first.
        config_at: When the config in force was loaded.
        config_problem: Why a newer one was refused; empty if none was.
        retirements: Old secrets that are still to be ended, by policy.
        credentials: When our own credentials expire, by the reference that they are read from.
        max_series: With more tokens in all, none of them has series of its own.
    """

    at: datetime
    started_at: datetime
    tokens: tuple[TokenRow, ...] = ()
    counts: Mapping[tuple[str, str], int] = field(default_factory=dict)
    looked_at: Mapping[str, datetime] = field(default_factory=dict)
    policies: tuple[PolicyRow, ...] = ()
    providers: tuple[Health, ...] = ()
    sinks: tuple[Health, ...] = ()
    rotations: tuple[RotationRow, ...] = ()
    config_at: datetime | None = None
    config_problem: str = ""
    retirements: Mapping[str, int] = field(default_factory=dict)
    credentials: Mapping[str, datetime] = field(default_factory=dict)
    max_series: int = MAX_TOKENS

    @property
    def total(self) -> int:
        """How many tokens there are."""
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True)
class Names:
    """What the configuration in force names; another one is another object.

    Attributes:
        policies: Name to strategy.
    """

    policies: Mapping[str, str] = field(default_factory=dict)
    providers: frozenset[str] = frozenset()
    sinks: frozenset[str] = frozenset()
    channels: frozenset[str] = frozenset()
    hooks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Credential:
    """A credential of ours as it was last read."""

    provider: str
    read_at: datetime
    expires_at: datetime | None


class Board:
    """Collects; a listener. Thread-safe.

    Args:
        started_at: UTC.
        max_tokens: Rows kept of a provider, the worst and the soonest due; of the others only their number is known.
    """

    def __init__(self, started_at: datetime, max_tokens: int = MAX_TOKENS) -> None:
        self._lock = threading.Lock()
        self._max_tokens = max_tokens
        self._max_series = 0
        self._started_at = started_at
        self._tokens: dict[str, tuple[TokenRow, ...]] = {}
        self._counts: dict[str, Mapping[tuple[str, str], int]] = {}
        self._looked_at: dict[str, datetime] = {}
        self._wakes: dict[str, Mapping[str, datetime]] = {}
        self._retirements: dict[str, Mapping[str, int]] = {}
        self._behind: dict[str, Mapping[str, int]] = {}
        self._credentials: dict[str, _Credential] = {}
        self._names = Names()
        self._policies: dict[str, PolicyRow] = {}
        self._providers: dict[str, Health] = {}
        self._sinks: dict[str, Health] = {}
        self._rotations: deque[RotationRow] = deque(maxlen=RECENT)
        self._config_at: datetime | None = None
        self._config_problem = ""

    def configure(
        self,
        policies: Iterable[Policy],
        providers: Mapping[str, str],
        sinks: Mapping[str, str],
        at: datetime,
        *,
        channels: Iterable[str] = (),
        hooks: Iterable[str] = (),
        max_series: int = MAX_TOKENS,
    ) -> None:
        """Show another configuration: what it still names keeps what is known of it, the rest vanishes.

        Args:
            policies: In file order.
            providers, sinks: Name to type.
            at: When it was loaded, UTC.
            channels, hooks: Names of what notifies, and of what runs.
            max_series: `[metrics] max_tokens`; at least so many rows of a provider are kept from the next look on.
        """
        with self._lock:
            self._policies = {policy.name: _policy_row(policy, self._policies) for policy in policies}
            self._providers = {
                name: self._providers.get(name) or Health(name, kind) for name, kind in providers.items()
            }
            self._sinks = {name: self._sinks.get(name) or Health(name, kind) for name, kind in sinks.items()}
            by_provider = (
                self._tokens, self._counts, self._looked_at, self._wakes, self._retirements, self._behind,
            )  # fmt: skip
            for known in by_provider:
                for name in known.keys() - providers.keys():
                    known.pop(name)
            self._credentials = {key: own for key, own in self._credentials.items() if own.provider in providers}
            strategies = {name: row.strategy for name, row in self._policies.items()}
            self._max_series = max_series
            named = (frozenset(providers), frozenset(sinks), frozenset(channels), frozenset(hooks))
            self._names = Names(strategies, *named)
            self._config_at, self._config_problem = at, ""

    def restore(self, policy: str, last: Event, success_at: datetime | None) -> None:
        """Note what an earlier process's last sweep of a policy came to; what this one did counts more."""
        with self._lock:
            row = self._policies.get(policy)
        if row is not None and row.finished_at is None:
            self._finished(last)
            self._update(policy, success_at=success_at)

    def refuse_config(self, problem: str) -> None:
        """Note that a newer configuration was refused; the old one stays in force."""
        with self._lock:
            self._config_problem = problem

    def schedule(self, policy: str, at: datetime | None) -> None:
        """Note when a policy is swept next."""
        self._update(policy, next_at=at)

    def miss(self, policy: str, count: int = 1) -> None:
        """Count scheduled moments that passed without a sweep."""
        with self._lock:
            row = self._policies.get(policy)
            if row is not None:
                self._policies[policy] = replace(row, missed=row.missed + count)

    def take(self, provider: str, standings: Iterable[Standing], at: datetime) -> None:
        """Replace what is known of a provider's tokens; `standings` is read once, and memory stays bounded."""
        counts: Counter[tuple[str, str]] = Counter()
        retirements: Counter[str] = Counter()
        behind: Counter[str] = Counter()
        wakes: dict[str, datetime] = {}

        def rows() -> Iterator[TokenRow]:
            for standing in standings:
                row = _token_row(provider, standing, at)
                counts[row.policy, row.state] += 1
                if standing.lineage is not None and standing.lineage.token_id == row.token_id:  # once a lineage
                    retirements.update(old.policy for old in standing.lineage.retiring)
                    behind.update(standing.behind)
                if row.wake_at is not None:
                    wakes[row.policy] = min(row.wake_at, wakes.get(row.policy, _NEVER))
                yield row

        most = max(self._max_tokens, self._max_series)
        # asked for none, nsmallest would not read the rows at all
        kept = tuple(heapq.nsmallest(max(1, most), rows(), key=_urgency))[:most]
        with self._lock:
            self._tokens[provider], self._counts[provider] = kept, dict(counts)
            self._wakes[provider], self._looked_at[provider] = wakes, at
            self._retirements[provider], self._behind[provider] = dict(retirements), dict(behind)

    def wakes(self) -> Mapping[str, datetime]:
        """Return by policy the first moment at which, as of the last look, expiry makes one of its tokens due."""
        with self._lock:
            return {policy: at for wakes in self._wakes.values() for policy, at in wakes.items() if policy}

    def snapshot(self, at: datetime) -> Snapshot:
        """Return everything at one moment."""
        with self._lock:  # what a sweep waits for: what takes longer comes after it
            tokens, counts = list(self._tokens.values()), list(self._counts.values())
            retirements, behind = list(self._retirements.values()), list(self._behind.values())
            shown = Snapshot(
                at,
                self._started_at,
                looked_at=dict(self._looked_at),
                policies=tuple(self._policies.values()),
                providers=tuple(self._providers.values()),
                sinks=tuple(self._sinks.values()),
                rotations=tuple(reversed(self._rotations)),
                config_at=self._config_at,
                config_problem=self._config_problem,
                max_series=self._max_series,
                credentials={key: own.expires_at for key, own in self._credentials.items() if own.expires_at},
            )
        lacking: Counter[str] = _sum(behind)
        sinks = (replace(sink, behind=lacking[sink.name] if behind else None) for sink in shown.sinks)
        return replace(
            shown,
            tokens=tokens[0] if len(tokens) == 1 else tuple(heapq.merge(*tokens, key=_urgency)),
            counts=dict(_sum(counts)),
            retirements=dict(_sum(retirements)),
            sinks=tuple(sinks),
        )

    @property
    def names(self) -> Names:
        """What the configuration in force names."""
        return self._names

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if event.name is EventName.SWEEP_STARTED:
            self._update(event.policy, started_at=event.at)
        elif event.name is EventName.SWEEP_FINISHED:
            self._finished(event)
        elif event.name is EventName.REQUEST_FINISHED:
            problem = "" if _is_answer(event.error) else f"{event.message}: {event.error}"
            self._answered(self._providers, event.provider, event.at, problem)
            self._measured(event)
        elif event.name is EventName.SECRET_DELIVERED:
            self._answered(self._sinks, event.sink, event.at, "")
        elif event.name is EventName.DELIVERY_FAILED:
            self._answered(self._sinks, event.sink, event.at, event.message or "a delivery failed")
        elif event.name is EventName.CREDENTIAL_READ:
            with self._lock:
                self._credentials[event.location] = _Credential(event.provider, event.at, event.expires_at)
        if event.name in _ENDS:
            self._ended(event)

    def _update(self, policy: str, **changes: object) -> None:
        with self._lock:
            row = self._policies.get(policy)
            if row is not None:
                self._policies[policy] = replace(row, **changes)  # type: ignore[arg-type]

    def _finished(self, event: Event) -> None:
        lasted = timedelta(seconds=event.duration_s) if event.duration_s is not None else None
        self._update(
            event.policy, finished_at=event.at, outcome=str(event.outcome), message=event.message, lasted=lasted
        )
        if event.outcome is Outcome.SETTLED:
            self._update(event.policy, success_at=event.at)
        with self._lock:
            row = self._policies.get(event.policy)
            read = [own.read_at for own in self._credentials.values() if own.provider == event.provider]
            if row is None or row.started_at is None or not any(at >= row.started_at for at in read):
                return
            self._credentials = {
                key: own
                for key, own in self._credentials.items()
                if own.provider != event.provider or own.read_at >= row.started_at
            }  # a reference that is configured no longer vanishes

    def _measured(self, event: Event) -> None:
        with self._lock:
            health = self._providers.get(event.provider)
            if health is not None and event.skew_s is not None:
                self._providers[event.provider] = replace(health, skew=timedelta(seconds=event.skew_s))

    def _answered(self, known: dict[str, Health], name: str, at: datetime, problem: str) -> None:
        with self._lock:
            health = known.get(name)
            if health is not None:
                failed_at, ok_at = (at, health.ok_at) if problem else (health.failed_at, at)
                known[name] = replace(health, message=problem, failed_at=failed_at, ok_at=ok_at)

    def _ended(self, event: Event) -> None:
        row = RotationRow(
            event.at,
            event.provider,
            event.policy,
            event.token_id,
            event.token_name,
            str(event.reason or ""),
            str(_ENDS[event.name]),
            event.message,
        )
        with self._lock:
            self._rotations.append(row)


def _sum(parts: Iterable[Mapping[_Key, int]]) -> "Counter[_Key]":
    total: Counter[_Key] = Counter()
    for part in parts:
        total.update(part)
    return total


def _is_answer(status: str) -> bool:
    """Whether a response shows that the API works and knows us, whatever it said of one token."""
    return status[:1] in ("2", "3", "4") and status not in ("401", "403", "429")


def _policy_row(policy: Policy, known: Mapping[str, PolicyRow]) -> PolicyRow:
    row = known.get(policy.name) or PolicyRow(policy.name, policy.provider, "", "")
    return replace(
        row,
        provider=policy.provider,
        schedule=f"{policy.schedule.text} ({policy.timezone})",
        strategy=str(policy.strategy),
        paused_until=policy.paused_until,
    )


def _token_row(provider: str, standing: Standing, now: datetime) -> TokenRow:
    token, lineage = standing.token, standing.lineage
    return TokenRow(
        provider,
        standing.policy,
        standing.token_id,
        standing.name,
        str(token.scope) if token else "",
        standing.state,
        standing.reason,
        standing.message,
        standing.hint,
        standing.due_at,
        token.end_at if token else None,
        born(token, lineage) if token else None,
        token.generation.last_rotated_at if token else None,
        lineage.settled_at if lineage else None,
        _wakes_at(standing, now),
    )


def _wakes_at(standing: Standing, now: datetime) -> datetime | None:
    token = standing.token
    if token is None or standing.owner is None:
        return None
    rows = due_moments(token, standing.owner, standing.lineage)
    moments = [at for reason, at, _ in rows if reason in BY_EXPIRY and at > now]
    if standing.reason in BY_EXPIRY:  # it was due before, and came to nothing
        moments.append(now + _again(token.life))
    return min(moments, default=None)


def _again(life: timedelta | None) -> timedelta:
    """Return when to try again what expires: soon for a short life, and never in a frenzy."""
    return min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, (life or _LONGEST_PAUSE * 20) / 20))


def _urgency(row: TokenRow) -> tuple[int, datetime, str]:
    return STATES.index(row.state), row.due_at or row.expires_at or _NEVER, row.token_id
