"""Pacing: one even beat per credential and method, a little below the API's limit, shared by all threads.

Even spacing, without bursts, keeps us under the limit whether the server counts a bucket, a fixed or a sliding second.
"""

import threading
from collections.abc import Mapping
from datetime import timedelta

from rotator.ports import Clock

SHARE = 0.97  # of the documented limit; the rest absorbs jitter on the way


class Limiter:
    """Grants turns.

    Args:
        rate: Requests per second by HTTP method; 0 or absent means unlimited.
        clock: Measures and waits.
    """

    def __init__(self, rate: Mapping[str, float], clock: Clock) -> None:
        self._spacing = {method: 1 / (limit * SHARE) for method, limit in rate.items() if limit}
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self.waited_s = 0.0

    def wait(self, method: str) -> None:
        """Block until it is this caller's turn."""
        with self._lock:
            now = self._clock.monotonic()
            turn = max(now, self._next.get(method, 0.0), self._next.get("*", 0.0))
            self._next[method] = turn + self._spacing.get(method, 0.0)
            delay = turn - now
            self.waited_s += delay
        if delay > 0:
            self._clock.sleep(timedelta(seconds=delay))

    def slow_down(self, pause: timedelta) -> None:
        """Hold everybody back: the server said that we are too fast."""
        with self._lock:
            self._next["*"] = max(self._next.get("*", 0.0), self._clock.monotonic() + pause.total_seconds())
