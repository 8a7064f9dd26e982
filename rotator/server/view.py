"""The board as the status page shows it: every sentence, number and length is decided here, the template only places.

Pure. Text of the board stays as it is; `page` makes each text visible where it enters the HTML.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from rotator import __version__
from rotator.board import Health, PolicyRow, RotationRow, Snapshot, TokenRow
from rotator.planning import NEXT, STATES
from rotator.server.verdict import PERSON, WATCHED, Verdict, judge
from rotator.server.wording import Moment, counted, moment, span

MOST_TOKENS = 200
MOST_CONCERNS = 20
MOST_ROTATIONS = 20
MOST_NAMES = 4  # of tokens that share one concern

# Colour is never alone: each tone has a sign, and each sign a word beside it.
_TONES = {
    "quarantined": "bad", "unsettled": "bad", "expired": "bad", "in_doubt": "warn", "drifted": "warn",
    "unknown": "warn", "due": "info", "fresh": "ok",
}  # fmt: skip
_OUTCOMES = {"settled": "ok", "unsettled": "bad", "lost": "bad", "failed": "bad", "quarantined": "bad"}
_SIGNS = {"bad": "✕", "warn": "!", "info": "→", "ok": "✓", "calm": "–"}


@dataclass(frozen=True, slots=True)
class Badge:
    """One word with its tone and sign."""

    word: str
    tone: str

    @property
    def sign(self) -> str:
        """The tone without colour."""
        return _SIGNS[self.tone]


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a sentence; code is what a person types."""

    text: str
    is_code: bool


@dataclass(frozen=True, slots=True)
class Share:
    """One state's part of all tokens, in per cent from the left of the bar."""

    badge: Badge
    count: str
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class Concern:
    """Tokens of one policy that wait for the same thing."""

    badge: Badge
    policy: str
    tokens: tuple[TokenRow, ...]
    more: int
    message: str
    hint: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Life:
    """How much of a secret's life has passed, in per cent.

    Attributes:
        mark: Where it becomes due; None if that is its end, or unknown.
    """

    passed: float
    mark: float | None
    tone: str


@dataclass(frozen=True, slots=True)
class TokenView:
    """One line of the tokens."""

    row: TokenRow
    badge: Badge
    born: Moment | None
    due: Moment | None
    expires: Moment | None
    life: Life | None


@dataclass(frozen=True, slots=True)
class PolicyView:
    """One policy."""

    row: PolicyRow
    tokens: str
    paused: Moment | None
    next: Moment | None
    started: Moment | None
    finished: Moment | None
    lasted: str
    outcome: Badge | None


@dataclass(frozen=True, slots=True)
class HealthView:
    """One provider or sink."""

    row: Health
    what: str
    badge: Badge
    ok: Moment | None
    failed: Moment | None


@dataclass(frozen=True, slots=True)
class RotationView:
    """One rotation that ended."""

    row: RotationRow
    at: Moment | None
    badge: Badge


@dataclass(frozen=True, slots=True)
class View:
    """All that the template needs."""

    verdict: Verdict
    version: str
    now: Moment
    started: Moment
    config_at: Moment | None
    config_problem: str
    shares: Sequence[Share]
    concerns: Sequence[Concern]
    more_concerns: int
    policies: Sequence[PolicyView]
    tokens: Sequence[TokenView]
    total: str
    shown: str
    is_cut: bool
    is_looked: bool
    rotations: Sequence[RotationView]
    health: Sequence[HealthView]
    is_failing: bool


def view(snapshot: Snapshot, problem: str) -> View:
    """Return what the page shows.

    Args:
        snapshot: Now.
        problem: Why the daemon does not live or is not ready; empty if it is well.
    """
    now, tokens = snapshot.at, snapshot.tokens[:MOST_TOKENS]
    concerns = list(_concerns(snapshot.tokens))
    return View(
        verdict=judge(snapshot, problem),
        version=__version__,
        now=_sure(now, now),
        started=_sure(snapshot.started_at, now),
        config_at=moment(snapshot.config_at, now),
        config_problem=snapshot.config_problem,
        shares=list(_shares(snapshot)),
        concerns=concerns[:MOST_CONCERNS],
        more_concerns=len(concerns[MOST_CONCERNS:]),
        policies=[_policy(row, snapshot) for row in snapshot.policies],
        tokens=[_token(row, now) for row in tokens],
        total=counted(snapshot.total, "token"),
        shown=f"{len(tokens):,}",
        is_cut=len(tokens) < snapshot.total,
        is_looked=bool(snapshot.looked_at),
        rotations=[_rotation(row, now) for row in snapshot.rotations[:MOST_ROTATIONS]],
        health=[*_healths("provider", snapshot.providers, now), *_healths("sink", snapshot.sinks, now)],
        is_failing=any(row.is_ok is False for row in (*snapshot.providers, *snapshot.sinks)),
    )


def _sure(at: datetime, now: datetime) -> Moment:
    shown = moment(at, now)
    assert shown is not None  # noqa: S101 - for the type checker: `at` is a moment
    return shown


def _state(state: str) -> Badge:
    return Badge(state.replace("_", " "), _TONES.get(state, "calm"))


def _shares(snapshot: Snapshot) -> Iterator[Share]:
    counts = Counter[str]()
    for (_, state), count in snapshot.counts.items():
        counts[state] += count
    start = 0.0
    for state in STATES:
        if counts[state]:
            width = 100 * counts[state] / snapshot.total
            yield Share(_state(state), f"{counts[state]:,}", round(start, 3), round(width, 3))
            start += width


def _concerns(rows: Iterable[TokenRow]) -> Iterator[Concern]:
    alike: dict[tuple[str, str, str], list[TokenRow]] = {}
    for row in rows:
        if row.state in PERSON or row.state in WATCHED:
            alike.setdefault((row.state, row.policy, row.message), []).append(row)
    for (state, policy, message), group in alike.items():
        hint = group[0].hint if len(group) == 1 else NEXT[state].format(id="TOKEN")
        named = tuple(group if len(group) <= MOST_NAMES + 1 else group[:MOST_NAMES])
        yield Concern(_state(state), policy, named, len(group) - len(named), message, parts(hint))


def parts(text: str) -> tuple[Part, ...]:
    """Return a sentence cut at its backticks."""
    pieces = text.split("`")
    return tuple(Part(piece, number % 2 == 1) for number, piece in enumerate(pieces) if piece)


def _token(row: TokenRow, now: datetime) -> TokenView:
    return TokenView(
        row,
        _state(row.state),
        _born(row.born_at, now),
        moment(row.due_at, now),
        _expires(row.expires_at, now),
        _life(row, now),
    )


def _born(at: datetime | None, now: datetime) -> Moment | None:
    shown = moment(at, now)
    return shown if shown is None or at is None or at > now else replace(shown, said=f"{span(now - at)} old")


def _expires(at: datetime | None, now: datetime) -> Moment | None:
    shown = moment(at, now)
    if shown is None or at is None:
        return None
    return replace(shown, said=f"{'expires' if at > now else 'expired'} {shown.said}")


def _life(row: TokenRow, now: datetime) -> Life | None:
    end = row.expires_at or row.due_at
    if row.born_at is None or end is None or end <= row.born_at:
        return None
    whole = end - row.born_at
    passed = min(max((now - row.born_at) / whole, 0.0), 1.0)
    mark = (row.due_at - row.born_at) / whole if row.expires_at is not None and row.due_at is not None else None
    is_due = row.due_at is not None and row.due_at <= now
    tone = "bad" if row.expires_at is not None and row.expires_at <= now else "info" if is_due else "calm"
    return Life(round(100 * passed, 2), round(100 * mark, 2) if mark is not None and 0 < mark < 1 else None, tone)


def _policy(row: PolicyRow, snapshot: Snapshot) -> PolicyView:
    now, paused = snapshot.at, row.paused_until
    outcome = Badge(row.outcome, _OUTCOMES.get(row.outcome, "calm")) if row.outcome else None
    return PolicyView(
        row,
        counted(sum(count for (policy, _), count in snapshot.counts.items() if policy == row.name), "token"),
        moment(paused, now) if paused is not None and paused > now else None,
        moment(row.next_at, now),
        moment(row.started_at, now) if row.is_swept else None,
        moment(row.finished_at, now),
        span(row.lasted) if row.lasted is not None else "",
        outcome,
    )


def _healths(what: str, rows: Iterable[Health], now: datetime) -> Iterator[HealthView]:
    said = {True: Badge("well", "ok"), False: Badge("failing", "bad"), None: Badge("not used yet", "calm")}
    for row in rows:
        yield HealthView(row, what, said[row.is_ok], moment(row.ok_at, now), moment(row.failed_at, now))


def _rotation(row: RotationRow, now: datetime) -> RotationView:
    return RotationView(row, moment(row.at, now), Badge(row.outcome, _OUTCOMES.get(row.outcome, "calm")))
