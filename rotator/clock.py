"""The real clock; tests hand in their own."""

import time
from datetime import UTC, datetime, timedelta


class SystemClock:
    """See `ports.Clock`."""

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See `ports.Clock`."""
        return time.monotonic()

    def sleep(self, duration: timedelta) -> None:
        """See `ports.Clock`."""
        time.sleep(max(0.0, duration.total_seconds()))
