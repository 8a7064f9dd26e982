"""A circuit breaker for each sink: while it is known to be down, nothing new is begun that would need it."""

import threading
from datetime import datetime, timedelta

from rotator.errors import RotatorError, Temporary
from rotator.ports import Clock

FAILURES = 5  # in a row, over all places
PAUSE = timedelta(minutes=1)


class Breaker:
    """Counts failures of one sink in a row; open, it refuses at once what would only run into a timeout.

    It guards preflights only: a secret that was minted is always delivered if it can be.

    Args:
        sink: The sink's name, for messages.
        clock: Tells when to try again.
    """

    def __init__(self, sink: str, clock: Clock) -> None:
        self._sink = sink
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._until: datetime | None = None

    def admit(self) -> None:
        """Let a call pass; after the pause one does, as a probe.

        Raises:
            Temporary: The sink failed too often lately.
        """
        with self._lock:
            now = self._clock.now()
            if self._until is None or now >= self._until:
                if self._until is not None:
                    self._until = now + PAUSE  # others wait for the probe's verdict
                return
            left = self._until - now
        raise Temporary(f"the sink {self._sink} failed {FAILURES} times in a row; it is tried again later", left)

    def note(self, error: RotatorError | None) -> bool:
        """Count what came of a call: only failures that may pass mean that the sink as a whole is down.

        Returns:
            Whether it went down, or came back, with this call.
        """
        with self._lock:
            was_down = self._until is not None
            if not isinstance(error, Temporary):
                self._failures, self._until = 0, None
                return was_down
            self._failures += 1
            if self._failures >= FAILURES:
                self._until = self._clock.now() + PAUSE
            return not was_down and self._until is not None
