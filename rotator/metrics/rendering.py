"""Metrics as a whole: a listener, and a rendering for whoever scrapes.

A scrape takes the board's lock only to copy references, so a sweep never waits for it.
"""

import threading
from collections.abc import Callable, Iterator
from datetime import datetime

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics

from rotator.board import Board, Snapshot
from rotator.events import Event, EventName
from rotator.metrics.counting import Counting
from rotator.metrics.state import is_complete, service, standing, token_series
from rotator.ports import Emit

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"


class Metrics:
    """Counts events, and renders counts and state; safe to use from many threads.

    Args:
        board: Is told of the same events; says what the configuration names.
        now: Returns the time, UTC.
        tell: Told once when the series of single tokens are left out.
    """

    def __init__(self, board: Board, now: Callable[[], datetime], tell: Emit) -> None:
        self._board = board
        self._now = now
        self._registry = CollectorRegistry()
        self._counting = Counting(board, self._registry)
        self._series = Series(tell)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self._counting(event)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return everything, and its content type.

        Args:
            accept: The header of that name; OpenMetrics where it is preferred, else the text format.
        """
        self._counting.follow()
        snapshot = self._board.snapshot(self._now())
        series = self._series.of(snapshot)
        every = _Families(lambda: [*service(snapshot), *standing(snapshot), *self._registry.collect()])
        if not prefers_openmetrics(accept):
            return generate_latest(every) + series, TEXT
        body: bytes = openmetrics.generate_latest(every)  # type: ignore[no-untyped-call]
        return body.removesuffix(_END) + series + _END, OPENMETRICS


def state(snapshot: Snapshot, series: "Series") -> bytes:
    """Return the gauges alone, for processes too short to count anything; what was not looked at is left out."""
    families = [family for family in service(snapshot) if family.type == "gauge" and family.samples]
    if not is_complete(snapshot):
        return generate_latest(_Families(lambda: families))
    families += standing(snapshot)
    return generate_latest(_Families(lambda: families)) + series.of(snapshot)


def prefers_openmetrics(accept: str) -> bool:
    """Whether an Accept header gives OpenMetrics at least the weight of the text format.

    Source: RFC 9110, 12.5.1.
    """
    weights = {"application/openmetrics-text": 0.0, "text/plain": 0.0}
    for part in accept.split(","):
        kind, *parameters = [word.strip().lower() for word in part.split(";")]
        if kind in weights:
            weights[kind] = max(weights[kind], _weight(parameters))
    return 0 < weights["application/openmetrics-text"] >= weights["text/plain"]


def _weight(parameters: list[str]) -> float:
    said = next((one[2:] for one in parameters if one.startswith("q=")), "1")
    try:
        return min(max(float(said), 0.0), 1.0)
    except ValueError:
        return 0.0


class Series:
    """The series of single tokens, unless there are too many.

    Args:
        tell: Told when they are left out, once until they are back.
    """

    def __init__(self, tell: Emit) -> None:
        self._tell = tell
        self._lock = threading.Lock()
        self._is_told = False

    def of(self, snapshot: Snapshot) -> bytes:
        """Return them; empty, and said once, if there are too many."""
        if not snapshot.max_series:
            return b""
        most = min(snapshot.max_series, len(snapshot.tokens))
        is_omitted = snapshot.total > most
        with self._lock:
            is_news, self._is_told = is_omitted and not self._is_told, is_omitted
        if is_news:
            said = (
                f"{snapshot.total} tokens are more than metrics.max_tokens = {snapshot.max_series}:"
                " single tokens have no series any more"
            )
            self._tell(Event(name=EventName.SERIES_OMITTED, at=snapshot.at, message=said))
        return b"" if is_omitted else token_series(snapshot)


class _Families:
    """What the encoders of `prometheus_client` ask for families."""

    def __init__(self, families: Callable[[], list[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._families()
