"""From what the journal's history says to what is the case: findings, and their ends. Pure, given the lineages.

An event says that something began; whether it still is so is asked of the lineage, which is written in the same commit
as the event. So a token that was rotated while nobody looked is not told of, and one that stays as it is stays open.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta

from rotator.events import Event, EventName
from rotator.model import Heal, Lineage, Outcome, State
from rotator.notify.ladder import subject
from rotator.notify.notices import Ended, Finding
from rotator.notify.topics import Topic

Remember = Callable[[str, Sequence[str]], Mapping[str, Lineage]]

_SLACK = timedelta(seconds=1)  # between a sweep's own clock and that of its events
_BY_TOKEN = {
    EventName.TOKEN_QUARANTINED: Topic.QUARANTINED,
    EventName.ROTATION_IN_DOUBT: Topic.IN_DOUBT,
    EventName.ROTATION_UNSETTLED: Topic.UNSETTLED,
    EventName.ROTATION_LOST: Topic.LOST,
    EventName.TOKEN_LEAKED: Topic.LEAKED,
    EventName.ROTATION_VETOED: Topic.VETOED,
    EventName.DRIFT_FOUND: Topic.DRIFTED,
    EventName.RETIREMENT_DELAYED: Topic.RETIREMENT_DELAYED,
    EventName.TOKEN_GONE: Topic.GONE,
}
_DOUBTFUL = frozenset({State.IN_DOUBT, State.INTENDED})
# Whether it is still the case, by what the journal remembers of the token.
_STILL: Mapping[Topic, Callable[[Lineage], bool]] = {
    Topic.QUARANTINED: lambda lineage: lineage.quarantined_at is not None,
    Topic.IN_DOUBT: lambda lineage: lineage.open_state in _DOUBTFUL,
    Topic.UNSETTLED: lambda lineage: lineage.stale or lineage.open_state not in (None, *_DOUBTFUL),
    Topic.DRIFTED: lambda lineage: lineage.drift is not None and lineage.drift.heal is not Heal.UNKNOWN,
    Topic.RETIREMENT_DELAYED: lambda lineage: bool(lineage.retiring),
}
OF_TOKENS = frozenset(_STILL)
_WORSE = (Topic.QUARANTINED, Topic.IN_DOUBT, Topic.UNSETTLED)


def moves(events: Iterable[Event], remember: Remember) -> Iterator[Finding | Ended]:
    """Yield what began and what ended, in the order of the events."""
    for event in events:
        topic = _BY_TOKEN.get(event.name)
        if topic is not None:
            yield _of_token(topic, event, remember)
        elif event.name is EventName.ROTATION_INTENDED:
            yield Ended(Topic.VETOED, _root(event, remember), event.at)
        else:
            yield from _of_more(event)


def still(provider: str, roots: Sequence[str], remember: Remember) -> Mapping[str, frozenset[Topic]]:
    """Return by root id which of `OF_TOKENS` the journal confirms."""
    known = remember(provider, roots)
    return {
        root: frozenset(topic for topic, holds in _STILL.items() if root in known and holds(known[root]))
        for root in roots
    }


def took_over(topic: Topic, now: frozenset[Topic]) -> bool:
    """Whether a topic of a token ended only because something like it took its place."""
    return topic in _WORSE and any(other in now for other in _WORSE)


def _of_token(topic: Topic, event: Event, remember: Remember) -> Finding:
    return Finding(
        topic,
        _root(event, remember),
        event.at,
        event.token_name,
        event.token_id,
        event.provider,
        event.policy,
        event.message,
    )


def _root(event: Event, remember: Remember) -> str:
    lineage = remember(event.provider, [event.token_id]).get(event.token_id)
    return subject(event.provider, lineage.id if lineage is not None else event.token_id)


def _of_more(event: Event) -> Iterator[Finding | Ended]:
    """Yield what an event says that is about no token of a policy."""
    at, provider = event.at, event.provider
    if event.name is EventName.PLAN_REFUSED:
        yield _finding(Topic.PLAN_REFUSED, event, event.policy, event.policy)
    elif event.name is EventName.PLAN_ACCEPTED:
        yield Ended(Topic.PLAN_REFUSED, "", at, provider)
    elif event.name is EventName.CREDENTIAL_REJECTED:
        yield _finding(Topic.CREDENTIAL_REJECTED, event, provider, provider)
    elif event.name is EventName.CREDENTIAL_EXPIRING:
        yield _finding(Topic.CREDENTIAL_EXPIRING, event, subject(provider, event.token_id), event.token_id)
    elif event.name is EventName.SWEEP_FINISHED:
        yield from _swept(event)
    elif event.name is EventName.SINK_WENT_DOWN:
        yield _finding(Topic.SINK_DOWN, event, event.sink, event.sink)
    elif event.name in (EventName.SECRET_DELIVERED, EventName.SINK_CAME_BACK):
        yield Ended(Topic.SINK_DOWN, event.sink, at)
    elif event.name is EventName.CONFIG_REFUSED:
        yield _finding(Topic.CONFIG_REFUSED, event, "config", "")
    elif event.name is EventName.CONFIG_LOADED:
        yield Ended(Topic.CONFIG_REFUSED, "config", at)


def _swept(event: Event) -> Iterator[Ended]:
    """Yield what a sweep would have said again if it still were the case; one that ended early proves nothing."""
    began = event.at - timedelta(seconds=event.duration_s or 0) - _SLACK
    if event.outcome is Outcome.FAILED:
        return
    yield Ended(Topic.PLAN_REFUSED, event.policy, event.at, unless_since=began)
    for topic in (Topic.CREDENTIAL_REJECTED, Topic.CREDENTIAL_EXPIRING):
        yield Ended(topic, "", event.at, event.provider, unless_since=began)


def _finding(topic: Topic, event: Event, about: str, name: str) -> Finding:
    return Finding(
        topic,
        about,
        event.at,
        name,
        event.token_id,
        event.provider,
        event.policy,
        event.message,
    )
