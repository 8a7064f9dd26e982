"""The ladder before expiry: which tokens will expire because rotator may not rotate them, and how near it is. Pure."""

from collections.abc import Iterator
from datetime import datetime, timedelta

from rotator.board import Snapshot, TokenRow
from rotator.model import Skip
from rotator.notify.notices import Finding
from rotator.notify.topics import Topic
from rotator.timing import spoken, stamp

RUNGS = (30, 14, 2)  # days
_LAST = timedelta(days=RUNGS[-1])
_NEVER_ROTATED = frozenset({str(Skip.OWN_CREDENTIAL), str(Skip.BAD_PATH), str(Skip.NOT_SELECTED)})
_OVER = frozenset({"gone", "retiring"})  # such a token may expire


def findings(snapshot: Snapshot) -> Iterator[Finding]:
    """Yield a finding for each token that stands on a rung, or has expired."""
    paused = {row.name: row.paused_until for row in snapshot.policies}
    for row in snapshot.tokens:
        if row.expires_at is None or row.state in _OVER or row.expires_at - snapshot.at > timedelta(days=RUNGS[0]):
            continue
        left = row.expires_at - snapshot.at
        if left <= timedelta():
            yield _finding(row, Topic.EXPIRED, snapshot.at, 0, f"expired {stamp(row.expires_at)}")
        elif _is_left(row, left, paused.get(row.policy)):
            rung = min(days for days in RUNGS if left <= timedelta(days=days))
            said = f"expires {stamp(row.expires_at)}, in {spoken(left)}; {row.state}: {row.message or row.reason}"
            yield _finding(row, Topic.EXPIRING, snapshot.at, rung, said)


def subject(provider: str, token_id: str) -> str:
    """Return what a token's notices are kept under."""
    return f"{provider}/{token_id}"


def _is_left(row: TokenRow, left: timedelta, paused_until: datetime | None) -> bool:
    """Whether nothing will rotate it before it expires, by all that is known."""
    expires_at = row.expires_at
    if expires_at is None or row.state == "quarantined" or row.reason in _NEVER_ROTATED:
        return True
    if row.state == "paused":
        return paused_until is None or paused_until >= expires_at - _LAST
    if row.wake_at is not None and row.wake_at < expires_at:
        return False
    if row.state == "fresh":
        return row.due_at is None or row.due_at >= expires_at
    return left <= _LAST  # it is due and should have been rotated long ago


def _finding(row: TokenRow, topic: Topic, at: datetime, rung: int, message: str) -> Finding:
    edition = "/".join(stamp(moment) for moment in (row.last_rotated_at, row.expires_at) if moment is not None)
    return Finding(
        topic,
        subject(row.provider, row.token_id),
        at,
        row.name,
        row.token_id,
        row.provider,
        row.policy,
        message,
        rung,
        edition,
    )
