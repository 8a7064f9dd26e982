"""One thing that is done outside and may hang: in a thread of its own, which nobody has to wait for."""

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from rotator.notify.channel import THREAD

Outcome = TypeVar("Outcome")


class Errand(Generic[Outcome]):
    """Runs at once.

    Args:
        owner: The channel or hook.
        act: What to do.
        failed: Makes the outcome where that raises, of our own words.
    """

    def __init__(self, owner: str, act: Callable[[], Outcome], failed: Callable[[str], Outcome]) -> None:
        self.owner = owner
        self._act = act
        self._failed = failed
        self._outcome: Outcome | None = None
        # a daemon thread, for a process that is told to stop does not wait for a service that hangs
        self._thread = threading.Thread(target=self._run, name=f"{THREAD}{owner}", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float) -> Outcome | None:
        """Return what came of it; None if it is not done within so many seconds."""
        self._thread.join(max(0.0, timeout_s))
        return None if self._thread.is_alive() else self._outcome

    def _run(self) -> None:
        try:
            self._outcome = self._act()
        except Exception as error:  # noqa: BLE001 - boundary "job": its text may hold what must not be shown
            self._outcome = self._failed(f"unexpected {type(error).__name__}")
