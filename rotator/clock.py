"""The real clock; tests hand in their own."""

import threading
import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """See `ports.Clock`.

    Args:
        stop: Once set, sleeps end; what comes after one must bear that it came early, or sleep through.
    """

    def __init__(self, stop: threading.Event | None = None) -> None:
        self._stop = stop or threading.Event()

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `ports.Clock`."""
        return time.monotonic()

    def sleep(self, duration: timedelta, *, through: bool = False) -> None:
        """See `ports.Clock`."""
        wait = time.sleep if through else self._stop.wait
        wait(max(0.0, duration.total_seconds()))
