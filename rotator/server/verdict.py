"""Whether all is well, in one sentence, and what else to say. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from rotator.board import Snapshot
from rotator.model import Outcome
from rotator.server.wording import counted, relative

PERSON = ("quarantined", "unsettled", "expired")
WATCHED = ("in_doubt", "drifted", "unknown")  # the next sweeps may put it right
_SHOWN_NAMES = 3


class Level(StrEnum):
    """How loud the page is, worst first."""

    TROUBLE = "trouble"
    WARNING = "warning"
    STARTING = "starting"
    WELL = "well"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the page says first.

    Attributes:
        more: What there is besides, in the order of urgency.
    """

    level: Level
    sentence: str
    more: tuple[str, ...] = ()


def judge(snapshot: Snapshot, problem: str) -> Verdict:
    """Return the verdict on a moment.

    Args:
        problem: Why the daemon does not live or is not ready; empty if it is well.
    """
    concerns = [*_troubles(snapshot, problem), *_warnings(snapshot)]
    if concerns:
        (level, first), *others = concerns
        return Verdict(level, first[:1].upper() + first[1:], tuple(said for _, said in others))
    upcoming = min((row.next_at for row in snapshot.policies if row.next_at), default=None)
    when = relative(max(upcoming, snapshot.at), snapshot.at) if upcoming else ""
    when = "due now" if when == "just now" else when
    if any(row.is_swept for row in snapshot.policies):
        when = "under way"
    if not snapshot.looked_at:
        return Verdict(Level.STARTING, f"No sweep yet{_first(when)}")
    return Verdict(Level.WELL, f"All well: {counted(snapshot.total, 'token')}{_next(when)}")


def _first(when: str) -> str:
    return f": the first is {when}" if when else ""


def _next(when: str) -> str:
    if when in ("", "under way", "due now"):
        return f", a sweep is {when}" if when else ""
    return f", next sweep {when}"


def _troubles(snapshot: Snapshot, problem: str) -> Iterator[tuple[Level, str]]:
    if problem:
        yield Level.TROUBLE, f"not ready: {problem}"
    waiting = sum(_count(snapshot, state) for state in PERSON)
    if waiting:
        yield Level.TROUBLE, f"{counted(waiting, 'token')} {'needs' if waiting == 1 else 'need'} a person"


def _warnings(snapshot: Snapshot) -> Iterator[tuple[Level, str]]:
    for row in snapshot.providers:
        if row.is_ok is False:
            yield Level.WARNING, f"the provider {row.name} does not answer as it should"
    failing = [row.name for row in snapshot.sinks if row.is_ok is False]
    if failing:
        yield Level.WARNING, f"{_names('sink', failing)} {'fails' if len(failing) == 1 else 'fail'}"
    for state, said in (("in_doubt", "in doubt"), ("drifted", "drifted"), ("unknown", "unknown: a sink is unreadable")):
        count = _count(snapshot, state)
        if count:
            yield Level.WARNING, f"{counted(count, 'token')} {'is' if count == 1 else 'are'} {said}"
    if snapshot.config_problem:
        yield Level.WARNING, "the newest config was refused, the one before stays in force"
    failed = [row.name for row in snapshot.policies if row.outcome not in ("", Outcome.SETTLED)]
    if failed:
        yield Level.WARNING, f"the last sweep of {_names('', failed)} did not end well"


def _count(snapshot: Snapshot, state: str) -> int:
    return sum(count for (_, found), count in snapshot.counts.items() if found == state)


def _names(what: str, names: list[str]) -> str:
    if what and len(names) == 1:
        return f"the {what} {names[0]}"
    listed = ", ".join(names[:_SHOWN_NAMES])
    more = f" and {len(names) - _SHOWN_NAMES} more" if len(names) > _SHOWN_NAMES else ""
    return f"{len(names)} {what}s ({listed}{more})" if what else listed + more
