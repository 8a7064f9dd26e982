"""Something that is done again and again beside the sweeps, in a thread of its own: telling people, shipping the audit.

Each has a thread, so that a receiver that hangs holds up neither the other one nor a sweep.
"""

import threading
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta

from rotator.errors import RotatorError


class Repeating:
    """Does one thing now and then until it is ended.

    Args:
        name: Of the thread.
        act: What to do, in bounded time; its errors of ours are told by whoever does it, and it is done again.
        pause: Between two times.
        crashed: Told the name of an error that is not ours.
    """

    def __init__(self, name: str, act: Callable[[], object], pause: timedelta, crashed: Callable[[str], None]) -> None:
        self._act = act
        self._pause_s = pause.total_seconds()
        self._crashed = crashed
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Do it no more; what is under way goes on."""
        self._ended.set()

    def join(self) -> None:
        """Wait until nothing is under way."""
        self._thread.join()

    def _work(self) -> None:
        while not self._ended.wait(self._pause_s):
            try:
                with suppress(RotatorError):
                    self._act()
            except Exception as error:  # noqa: BLE001 - boundary "job": one time must not be the last
                self._crashed(type(error).__name__)
