"""What was made a moment ago and still counts: proofs that are costly and say the same for everybody who asks.

Sinks and journals keep one for their preflights. A failure is never kept: only those hear of it who already waited
for it, so that a disk that hangs is not asked once by each of them in turn.
"""

import threading
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from rotator.errors import RotatorError

MOMENT_S = 1.0
_KEPT = 256  # entries, before old ones are looked for

Made = TypeVar("Made")


@dataclass(slots=True)
class _Entry(Generic[Made]):
    """The latest outcome for one key, and the lock that whoever makes a new one holds."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    at_s: float = float("-inf")
    made: list[Made] = field(default_factory=list)
    error: RotatorError | OSError | None = None

    def serves(self, asked_s: float, moment_s: float) -> bool:
        """Whether it answers who asked at this time."""
        return asked_s < self.at_s if self.error else asked_s < self.at_s + moment_s


class Recent(Generic[Made]):
    """Makes a thing once a moment for each key, however many threads ask.

    Args:
        monotonic: Returns seconds that never go back.
        moment_s: How long a thing serves.
    """

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, moment_s: float = MOMENT_S) -> None:
        self._monotonic = monotonic
        self._moment_s = moment_s
        self._lock = threading.Lock()
        self._entries: dict[Hashable, _Entry[Made]] = {}

    def get(self, key: Hashable, make: Callable[[], Made]) -> Made:
        """Return what was made for the key less than a moment ago, otherwise make it; raises what `make` raises."""
        asked_s = self._monotonic()
        entry = self._entry(key, asked_s)
        with entry.lock:
            if not entry.serves(asked_s, self._moment_s):
                entry.error, entry.at_s = None, float("-inf")
                try:
                    entry.made = [make()]
                except (RotatorError, OSError) as error:
                    entry.error = error.with_traceback(None)  # its frames are nobody's business
                entry.at_s = self._monotonic()
            if entry.error is not None:
                raise entry.error
            return entry.made[0]

    def forget(self, key: Hashable) -> None:
        """Have the next one who asks make it anew."""
        with self._lock:
            self._entries.pop(key, None)

    def _entry(self, key: Hashable, now_s: float) -> _Entry[Made]:
        with self._lock:
            if len(self._entries) >= _KEPT:
                self._entries = {
                    k: e for k, e in self._entries.items() if e.serves(now_s, self._moment_s) or e.lock.locked()
                }
            return self._entries.setdefault(key, _Entry())
