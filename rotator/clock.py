"""The real clock; tests hand in their own."""

import threading
import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """See `ports.Clock`.

    Args:
        stop: Once set, nobody sleeps any more; what comes after a pause must bear that it came early.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `ports.Clock`."""
        return time.monotonic()

    def sleep(self, duration: timedelta) -> None:
        """See `ports.Clock`."""
        self._stop.wait(max(0.0, duration.total_seconds()))
