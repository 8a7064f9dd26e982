"""What a provider's sweeper shall do between scheduled sweeps, and when; no thread, no clock of its own.

- *Retries.* A sweep that failed is repeated after a minute, then after twice as long, up to an hour: a nightly policy
  does not lose a night because the API was down at three.
- *Second looks.* A rotation whose POST was in doubt is looked at again 15 and 60 minutes later, for a call that we took
  to be without effect may take effect late.
"""

import heapq
from datetime import datetime, timedelta

from rotator.events import Event, EventName

SECOND_LOOKS = (timedelta(minutes=15), timedelta(minutes=60))
FIRST_RETRY, LONGEST_RETRY = timedelta(minutes=1), timedelta(hours=1)
_MOST_DOUBTFUL = 10_000


class Agenda:
    """Moments to come, by policy. Not thread-safe."""

    def __init__(self) -> None:
        self._looks: list[tuple[datetime, str]] = []
        self._doubtful: dict[str, None] = {}
        self._retries: dict[str, tuple[datetime, timedelta]] = {}

    def note(self, event: Event) -> None:
        """Remember second looks at what was in doubt: from the doubt on, and from the settlement on."""
        is_doubt = event.name is EventName.ROTATION_IN_DOUBT and event.rotation_id not in self._doubtful
        is_end = event.name is EventName.ROTATION_SETTLED and event.rotation_id in self._doubtful
        if is_doubt and len(self._doubtful) < _MOST_DOUBTFUL:
            self._doubtful[event.rotation_id] = None
        elif is_end:
            self._doubtful.pop(event.rotation_id)
        if is_doubt or is_end:
            for wait in SECOND_LOOKS:
                heapq.heappush(self._looks, (event.at + wait, event.policy))

    def looks(self, now: datetime) -> set[str]:
        """Return the policies with a second look due, and forget that."""
        found: set[str] = set()
        while self._looks and self._looks[0][0] <= now:
            found.add(heapq.heappop(self._looks)[1])
        return found

    def failed(self, policy: str, now: datetime) -> None:
        """Plan the next try of a policy whose sweep failed."""
        _, before = self._retries.get(policy, (now, FIRST_RETRY / 2))
        pause = min(before * 2, LONGEST_RETRY)
        self._retries[policy] = now + pause, pause

    def succeeded(self, policy: str) -> None:
        """Forget that a policy's sweep failed."""
        self._retries.pop(policy, None)

    def retries(self, now: datetime) -> set[str]:
        """Return the policies whose next try is due; the caller says what became of it."""
        # one that is further away was planned by a clock that was put back since
        return {policy for policy, (at, _) in self._retries.items() if not timedelta() < at - now <= LONGEST_RETRY}
