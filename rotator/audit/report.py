"""Evidence for auditors, gathered from audit lines: who rotated what, when, why, in time or late, and what went wrong.

Pure: the same lines and the same period give the same report. What a line says is not believed to have the right form,
for a report is also made of a file that somebody tampered with.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from rotator.audit.chain import Head

TOLERANCE = timedelta(hours=24)

_ENDS = {
    "rotation_settled": "settled",
    "secret_adopted": "adopted",
    "rotation_superseded": "superseded",
    "rotation_refused": "refused",
    "rotation_without_effect": "without effect",
    "token_quarantined": "quarantined",
    "token_gone": "gone",
}
_OPENINGS = {
    "rotation_unsettled": "unsettled",
    "rotation_in_doubt": "in doubt",
    "rotation_lost": "lost",
    "token_quarantined": "quarantined",
}
_EXCEPTIONS = frozenset(
    {
        "audit_lines_missing", "credential_expiring", "delivery_failed", "drift_found", "expiry_unmoved",
        "place_refused", "plan_accepted", "plan_refused", "preflight_failed", "retirement_delayed",
        "rotation_in_doubt", "rotation_lost", "rotation_refused", "rotation_superseded", "rotation_unsettled",
        "rotation_without_effect", "token_gone", "token_leaked", "token_quarantined", "token_request_failed",
        "token_request_in_doubt", "token_rotated_by_hand", "twin_deleted", "twin_found",
    }
)  # fmt: skip
_BY_HAND = frozenset(
    {
        "plan_accepted", "token_created", "token_creation_requested", "token_deleted", "token_deletion_requested",
        "token_leaked", "token_released", "token_request_failed", "token_request_in_doubt", "token_rotated_by_hand",
        "token_rotation_requested", "token_update_requested", "token_updated",
    }
)  # fmt: skip
_ENDINGS = frozenset({"token_retired", "twin_deleted", "token_deleted"})
_TEXTS = (
    "event", "actor", "instance", "provider", "policy", "rotation_id", "sink", "location", "reason", "message",
)  # fmt: skip
_ASKED = frozenset({"requested", "leaked"})


@dataclass(frozen=True, slots=True)
class Period:
    """What a report is about, UTC: `start` inclusive, `end` exclusive.

    Attributes:
        tolerance: How long after its deadline a rotation is still in policy: sweeps and windows take time.
    """

    start: datetime
    end: datetime
    tolerance: timedelta = TOLERANCE


@dataclass(frozen=True, slots=True)
class Entry:
    """A line, as far as it has the form that ours have."""

    at: datetime
    event: str
    actor: str
    instance: str
    provider: str
    policy: str
    token_id: str
    token_name: str
    token_scope: str
    rotation_id: str
    sink: str
    location: str
    reason: str
    message: str
    deadline: datetime | None
    expires_at: datetime | None
    tokens: int | None

    @property
    def token(self) -> tuple[str, str]:
        """Provider and id."""
        return self.provider, self.token_id


@dataclass(slots=True)
class RotationRow:
    """One rotation; moments are None where the step did not come.

    Attributes:
        why: The sentence, or the note of who asked for it.
        deadline: By when the policy wanted it; None where the lines do not say.
        expires_at: Of the old secret.
        ended_at: When the old token of an overlap was ended.
        verdict: `in policy`, `late`, `after expiry`, `not rotated`, or `unknown` where no deadline is known.
        late: How long after the deadline it was rotated, or the report ends.
        delivered: Sinks and places that confirmed the new secret.
    """

    id: str
    provider: str
    policy: str
    token_id: str
    token_name: str
    token_scope: str
    actor: str
    instance: str
    reason: str
    why: str
    intended_at: datetime
    deadline: datetime | None = None
    expires_at: datetime | None = None
    rotated_at: datetime | None = None
    settled_at: datetime | None = None
    ended_at: datetime | None = None
    closed_at: datetime | None = None
    outcome: str = "open"
    verdict: str = ""
    late: timedelta = timedelta()
    delivered: dict[str, None] = field(default_factory=dict)
    failures: int = 0
    losses: int = 0


@dataclass(slots=True)
class Episode:
    """How long a token was unsettled, in doubt, lost or quarantined; `until` is None if it still was at the end."""

    kind: str
    provider: str
    policy: str
    token_id: str
    token_name: str
    rotation_id: str
    since: datetime
    why: str
    until: datetime | None = None

    def lasted(self, end: datetime) -> timedelta:
        """Return how long, up to the report's end."""
        return (self.until or end) - self.since


@dataclass(slots=True)
class Trouble:
    """An exception; one that was repeated is one row."""

    event: str
    provider: str
    policy: str
    token_id: str
    token_name: str
    rotation_id: str
    sink: str
    location: str
    message: str
    first_at: datetime
    last_at: datetime
    count: int = 1


@dataclass(slots=True)
class LeakRow:
    """One leak and when its secret was ended and replaced everywhere."""

    at: datetime
    provider: str
    policy: str
    token_id: str
    token_name: str
    actor: str
    note: str
    rotated_at: datetime | None = None
    settled_at: datetime | None = None


@dataclass(slots=True)
class PolicyRow:
    """What one policy's tokens came to. Counts are of different tokens, not of rotations.

    Attributes:
        owned: How many tokens it had at its last sweep in the period; None if the lines do not say.
        unsettled, lost, quarantined: Tokens that were so for some time in the period; `still_…` at its end.
    """

    name: str
    provider: str
    owned: int | None = None
    rotations: int = 0
    rotated: set[tuple[str, str]] = field(default_factory=set)
    settled: set[tuple[str, str]] = field(default_factory=set)
    unsettled: set[tuple[str, str]] = field(default_factory=set)
    lost: set[tuple[str, str]] = field(default_factory=set)
    quarantined: set[tuple[str, str]] = field(default_factory=set)
    still_open: set[tuple[str, str]] = field(default_factory=set)
    late: int = 0
    after_expiry: int = 0
    unknown: int = 0
    not_rotated: int = 0


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was gathered; rows in the order of time.

    Attributes:
        as_of: The period's end, or the last line if the trail ends before it: durations count up to it.
        lines: In the period.
        unproven: Of them behind the first line that breaks the chain.
        undated: Lines anywhere whose time cannot be read.
        ended: Tokens that were ended: old members of overlaps, orphaned twins, by hand.
    """

    period: Period
    as_of: datetime
    lines: int
    unproven: int
    undated: int
    rotations: tuple[RotationRow, ...]
    policies: tuple[PolicyRow, ...]
    leaks: tuple[LeakRow, ...]
    by_hand: tuple[Entry, ...]
    episodes: tuple[Episode, ...]
    exceptions: tuple[Trouble, ...]
    config_changes: tuple[Entry, ...]
    ended: int


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file that a report was made of; `digest` is the SHA-256 of its bytes."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class Report:
    """Evidence, and how far it is proven.

    Attributes:
        is_whole: Whether the chain holds.
        verdict: The sentence that says so, or where it breaks.
    """

    evidence: Evidence
    files: tuple[InputFile, ...]
    is_whole: bool
    verdict: str
    lines: int
    first_seq: int
    head: Head


class Collector:
    """Takes lines in their order and keeps what the period is about.

    Args:
        period: Lines before it are taken too: what was open when it began is part of it.
    """

    def __init__(self, period: Period) -> None:
        self._period = period
        self._last = period.start
        self._reaches_end = False
        self._lines = self._unproven = self._undated = 0
        self._rotations: dict[str, RotationRow] = {}
        self._latest: dict[tuple[str, str], RotationRow] = {}  # by old token, until that is ended
        self._episodes: dict[tuple[str, ...], Episode] = {}
        self._past: list[Episode] = []
        self._troubles: dict[tuple[str, ...], Trouble] = {}
        self._leaks: list[LeakRow] = []
        self._by_hand: list[Entry] = []
        self._config, self._ended = "", 0
        self._config_changes: list[Entry] = []
        self._owned: dict[tuple[str, str], int] = {}

    def take(self, record: Mapping[str, Any], *, is_proven: bool) -> None:
        """Take one line; later ones than the period are only counted as its end."""
        entry = _entry(record)
        if entry is None:
            self._undated += 1
            return
        if entry.at >= self._period.end:
            self._reaches_end = True
            return
        self._last = max(self._last, entry.at)
        is_inside = entry.at >= self._period.start
        if is_inside:
            self._lines += 1
            self._unproven += not is_proven
        self._follow(entry)
        self._note(entry, is_inside=is_inside)

    def evidence(self) -> Evidence:
        """Return what was gathered."""
        as_of = self._period.end if self._reaches_end else self._last
        episodes = [*self._past, *self._episodes.values()]
        rotations = tuple(sorted(self._rotations.values(), key=lambda row: (row.intended_at, row.id)))
        for row in rotations:
            _judge(row, self._period.tolerance, as_of)
        return Evidence(
            self._period,
            as_of,
            self._lines,
            self._unproven,
            self._undated,
            rotations,
            tuple(self._policies(rotations, episodes)),
            tuple(self._leaks),
            tuple(self._by_hand),
            tuple(sorted(episodes, key=lambda row: (row.since, row.kind, row.token_id))),
            tuple(sorted(self._troubles.values(), key=lambda row: (row.first_at, row.event, row.token_id))),
            tuple(self._config_changes),
            self._ended,
        )

    def _follow(self, entry: Entry) -> None:
        """Keep the state of rotations and episodes, also before the period."""
        self._rotation(entry)
        self._close_episodes(entry)
        kind = _OPENINGS.get(entry.event)
        if kind is not None:
            where = entry.token if kind == "quarantined" else (entry.rotation_id,)
            opened = Episode(
                kind, entry.provider, entry.policy, entry.token_id, entry.token_name, entry.rotation_id, entry.at,
                entry.message,
            )  # fmt: skip
            self._episodes.setdefault((kind, *where), opened)

    def _rotation(self, entry: Entry) -> None:
        row = self._rotations.get(entry.rotation_id) if entry.rotation_id else None
        if entry.event == "rotation_intended" and row is None and entry.rotation_id:
            self._rotations[entry.rotation_id] = RotationRow(
                entry.rotation_id, entry.provider, entry.policy, entry.token_id, entry.token_name, entry.token_scope,
                entry.actor, entry.instance, entry.reason, entry.message, entry.at, entry.deadline, entry.expires_at,
            )  # fmt: skip
        elif row is not None:
            _advance(row, entry)
            if row.closed_at is not None and row.closed_at < self._period.start:
                del self._rotations[row.id]
            if row.rotated_at is not None:
                self._latest[row.provider, row.token_id] = row
        if entry.event == "token_retired" and entry.token in self._latest:
            self._latest.pop(entry.token).ended_at = entry.at

    def _close_episodes(self, entry: Entry) -> None:
        closed: list[tuple[str, ...]] = []
        if entry.rotation_id and entry.event in _ENDS:
            closed += [(kind, entry.rotation_id) for kind in ("unsettled", "in doubt", "lost")]
        if entry.event == "token_rotated":
            closed += [(kind, entry.rotation_id) for kind in ("in doubt", "lost")]
        if entry.event in ("token_released", "token_gone", "rotation_settled"):
            closed.append(("quarantined", *entry.token))
        for key in closed:
            episode = self._episodes.pop(key, None)
            if episode is not None and entry.at >= self._period.start:
                episode.until = entry.at
                self._past.append(episode)

    def _note(self, entry: Entry, *, is_inside: bool) -> None:
        if entry.event == "config_loaded":
            if entry.message != self._config and is_inside:
                self._config_changes.append(entry)
            self._config = entry.message
        if not is_inside:
            return
        self._ended += entry.event in _ENDINGS
        if entry.tokens is not None:
            self._owned[entry.provider, entry.policy] = entry.tokens
        if entry.event in _EXCEPTIONS:
            self._trouble(entry)
        if entry.event in _BY_HAND or (entry.event == "rotation_intended" and entry.reason in _ASKED):
            self._by_hand.append(entry)
        if entry.event == "token_leaked":
            self._leaks.append(
                LeakRow(
                    entry.at, entry.provider, entry.policy, entry.token_id, entry.token_name, entry.actor, entry.message
                )
            )
        self._answer_leaks(entry)

    def _answer_leaks(self, entry: Entry) -> None:
        if entry.reason != "leaked" or entry.event not in ("token_rotated", "rotation_settled"):
            return
        for leak in self._leaks:
            if (leak.provider, leak.token_id) == entry.token:
                if entry.event == "token_rotated":
                    leak.rotated_at = leak.rotated_at or entry.at
                else:
                    leak.settled_at = leak.settled_at or entry.at

    def _trouble(self, entry: Entry) -> None:
        row = Trouble(
            entry.event, entry.provider, entry.policy, entry.token_id, entry.token_name, entry.rotation_id, entry.sink,
            entry.location, entry.message, entry.at, entry.at,
        )  # fmt: skip
        key = (row.event, row.provider, row.policy, row.token_id, row.rotation_id, row.sink, row.location, row.message)
        known = self._troubles.setdefault(key, row)
        if known is not row:
            known.last_at, known.count = entry.at, known.count + 1

    def _policies(self, rotations: tuple[RotationRow, ...], episodes: list[Episode]) -> Iterator[PolicyRow]:
        rows: dict[tuple[str, str], PolicyRow] = {}

        def of(provider: str, policy: str) -> PolicyRow:
            return rows.setdefault((provider, policy), PolicyRow(policy, provider))

        for (provider, policy), owned in self._owned.items():
            of(provider, policy).owned = owned
        for row in rotations:
            _count(of(row.provider, row.policy), row, self._period)
        for episode in episodes:
            mine, token = of(episode.provider, episode.policy), (episode.provider, episode.token_id)
            if episode.kind != "in doubt":
                getattr(mine, episode.kind).add(token)
            if episode.until is None:
                mine.still_open.add(token)
        for key in sorted(rows):
            yield rows[key]


def _advance(row: RotationRow, entry: Entry) -> None:
    if entry.event == "token_rotated":
        row.rotated_at = entry.at
    elif entry.event == "secret_delivered":
        row.delivered[f"{entry.sink}:{entry.location}"] = None
    elif entry.event == "delivery_failed":
        row.failures += 1
    elif entry.event == "rotation_lost":
        row.losses += 1
    if entry.event in _ENDS:
        row.outcome, row.closed_at = _ENDS[entry.event], entry.at
    if entry.event == "rotation_settled":
        row.settled_at = entry.at
    elif entry.event in ("rotation_unsettled", "rotation_in_doubt", "rotation_lost", "rotation_intended"):
        row.outcome, row.closed_at = _OPENINGS.get(entry.event, "open"), None


def _judge(row: RotationRow, tolerance: timedelta, as_of: datetime) -> None:
    moment = row.rotated_at or row.closed_at or as_of
    row.late = max(moment - row.deadline, timedelta()) if row.deadline is not None else timedelta()
    if row.rotated_at is None:
        row.verdict = "not rotated"
    elif row.expires_at is not None and row.rotated_at >= row.expires_at:
        row.verdict = "after expiry"
    elif row.deadline is None:
        row.verdict = "unknown"
    else:
        row.verdict = "late" if row.late > tolerance else "in policy"


def _count(mine: PolicyRow, row: RotationRow, period: Period) -> None:
    token = (row.provider, row.token_id)
    mine.rotations += 1
    if row.rotated_at is not None and row.rotated_at >= period.start:
        mine.rotated.add(token)
    if row.settled_at is not None and row.settled_at >= period.start:
        mine.settled.add(token)
    mine.late += row.verdict == "late"
    mine.after_expiry += row.verdict == "after expiry"
    mine.unknown += row.verdict == "unknown"
    mine.not_rotated += row.verdict == "not rotated"


def _entry(record: Mapping[str, Any]) -> Entry | None:
    at = _moment(record.get("time"))
    if at is None:
        return None
    token = record.get("token")
    token = token if isinstance(token, dict) else {}
    tokens = record.get("tokens")
    return Entry(
        at=at,
        token_id=_text(token.get("id")),
        token_name=_text(token.get("name")),
        token_scope=_text(token.get("scope")),
        deadline=_moment(record.get("deadline")),
        expires_at=_moment(record.get("expires_at")),
        tokens=tokens if type(tokens) is int else None,
        **{name: _text(record.get(name)) for name in _TEXTS},
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _moment(value: object) -> datetime | None:
    try:
        moment = datetime.fromisoformat(_text(value))
        return moment.astimezone(UTC) if moment.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
