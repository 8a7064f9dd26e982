"""What the sinks tell about a credential, and what would mend it: pure functions of what was seen.

The engine reads the places of a token and tries what it finds there (`engine.looking`); here the sightings become a
diagnosis. Drift needs positive evidence: what cannot be read, or cannot be judged, is `unknown` and never acted on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from rotator.model import Drift, DriftKind, Heal, Lineage, Place, Token

FIGHT = timedelta(days=7)  # what drifts again within this after a rotation for it means that somebody fights us


class Seen(Enum):
    """What one place holds."""

    LIVE = "a secret of this token that authenticates"
    DEAD = "a secret of this token that no longer authenticates"
    FOREIGN = "something else"
    MISSING = "nothing"
    UNREADABLE = "it could not be told what"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One place as it was found.

    Attributes:
        issued_at: When the secret there was made, as its JWT says; UTC, None if it does not say.
        why: For UNREADABLE, in our own words.
        is_readable: Whether the secret itself was seen; if not, the sink only said what it holds.
        is_named: Whether it said even that: a mute sink is trusted by our receipt alone.
    """

    place: Place
    seen: Seen
    issued_at: datetime | None = None
    why: str = ""
    is_readable: bool = True
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What the sightings of one token mean.

    Attributes:
        drift: None if everything is as it should be, or the token is not managed yet.
        adopted: Nobody here settled it, yet its sinks hold the live secret: remember it as settled.
    """

    drift: Drift | None
    adopted: bool = False


def moved_elsewhere(token: Token, lineage: Lineage | None) -> bool:
    """Whether the token was rotated since we settled it, and not by us."""
    return lineage is not None and lineage.generation is not None and token.generation.is_past(lineage.generation)


def wants_look(token: Token, lineage: Lineage | None, now: datetime, every: timedelta) -> bool:
    """Whether the sinks of a token should be read now.

    Args:
        token: As the provider lists it.
        lineage: What the journal remembers; None if nothing.
        now: UTC.
        every: `[engine] drift_check`.
    """
    if lineage is None or lineage.looked_at is None:
        return True
    if lineage.open_state is not None or lineage.quarantined_at is not None:
        return False
    was_seen = lineage.drift is not None and lineage.drift.generation == token.generation
    fresh_evidence = ((moved_elsewhere(token, lineage) or lineage.stale) and not was_seen) or bool(lineage.owed)
    return fresh_evidence or now - lineage.looked_at >= every or now < lineage.looked_at


def diagnose(token: Token, lineage: Lineage | None, sightings: Sequence[Sighting], now: datetime) -> Diagnosis:
    """Return what differs from what was settled, and what mends it.

    Args:
        token: As the provider shows it at the time of the sightings.
        lineage: What the journal remembers.
        sightings: Of every required place.
        now: UTC.
    """
    by = {seen: [s for s in sightings if s.seen is seen] for seen in Seen}
    live, dead, unread = by[Seen.LIVE], by[Seen.DEAD], by[Seen.UNREADABLE]
    wrong = [*dead, *by[Seen.FOREIGN], *by[Seen.MISSING]]
    moved = moved_elsewhere(token, lineage)
    settled = lineage is not None and lineage.settled_at is not None
    is_ours = settled or (lineage is not None and lineage.stale)
    managed = is_ours or bool(live or dead)
    if not managed:
        return Diagnosis(None)
    if not wrong and not unread:
        if settled and not moved and lineage is not None and lineage.owed:
            owed = Heal.ADOPT, f"who reads {', '.join(lineage.owed)} could not be told yet"
            return _found(token, moved, owed, wrong, now)
        if settled and not moved:
            return Diagnosis(None)
        return Diagnosis(None, adopted=True) if not is_ours else _found(token, moved, _adopted(moved), wrong, now)
    sources = [sighting for sighting in live if sighting.is_readable]
    if sources and wrong:
        mended = Heal.REDELIVER, f"{_names(sources)} holds a live secret: copied from there"
        return _found(token, moved, mended, wrong, now)
    if unread:
        return _found(token, moved, (Heal.UNKNOWN, f"{_names(unread)} cannot be read: {unread[0].why}"), wrong, now)
    return _found(
        token, moved, (Heal.ROTATE, f"no sink {'that can be read ' if live else ''}holds a live secret"), wrong, now
    )


def _adopted(moved: bool) -> tuple[Heal, str]:
    why = "somebody rotated it and updated every sink" if moved else "every sink holds a live secret again"
    return Heal.ADOPT, f"{why}: taken over"


def _found(token: Token, moved: bool, heal: tuple[Heal, str], wrong: Sequence[Sighting], now: datetime) -> Diagnosis:
    kind, what = _kind(moved, wrong)
    parts = [part for part in (what, heal[1]) if part]
    dead = any(sighting.seen is Seen.DEAD for sighting in wrong)
    sinks = tuple(dict.fromkeys(sighting.place.sink for sighting in wrong))
    return Diagnosis(Drift(kind, heal[0], "; ".join(parts), now, token.generation, proven_dead=dead, sinks=sinks))


def _kind(moved: bool, wrong: Sequence[Sighting]) -> tuple[DriftKind, str]:
    if moved:
        return DriftKind.ROTATED_ELSEWHERE, "somebody else rotated it"
    if any(sighting.seen is Seen.DEAD for sighting in wrong):
        return DriftKind.STALE, f"{_names(wrong)} holds a dead secret of it"
    if wrong and all(sighting.seen is Seen.MISSING for sighting in wrong):
        return DriftKind.MISSING, f"{_names(wrong)} holds nothing"
    return DriftKind.EDITED, f"{_names(wrong)} holds something else" if wrong else ""


def _names(sightings: Sequence[Sighting]) -> str:
    return ", ".join(f"{s.place.sink}:{s.place.location}" for s in sightings)


def fights(lineage: Lineage, now: datetime, most: int) -> bool:
    """Whether others have undone our rotations of this lineage so often lately that another one would be a fight.

    Args:
        lineage: What the journal remembers.
        now: UTC.
        most: How many times within `FIGHT` are still no fight.
    """
    return sum(now - FIGHT < moment for moment in lineage.drift_rotations) > most
