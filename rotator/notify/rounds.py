"""Passes one after the other in a thread of their own, for a process that stays."""

import threading
from collections.abc import Callable
from datetime import datetime, timedelta

from rotator.board import Snapshot
from rotator.errors import RotatorError
from rotator.events import Event, EventName
from rotator.notify.notifier import Notifier
from rotator.ports import Clock, Emit

EVERY = timedelta(seconds=15)  # new facts are looked for so often
PATIENCE_S = 20.0


class Rounds:
    """Runs passes until it is ended.

    Args:
        notifier: What passes.
        snapshot: Returns where everything stands; None if that is not known yet.
        clock: The moment of each pass.
        emit: Told once when passes begin to fail.
    """

    def __init__(
        self, notifier: Notifier, snapshot: Callable[[datetime], Snapshot | None], clock: Clock, emit: Emit
    ) -> None:
        self._notifier = notifier
        self._snapshot = snapshot
        self._clock = clock
        self._emit = emit
        self._is_well = True
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="notify", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Begin no other pass."""
        self._ended.set()

    def join(self, patience_s: float = 5.0) -> None:
        """Wait for the pass under way within a bound; what it does not tell, the next process will."""
        if self._thread.is_alive():
            self._thread.join(patience_s)

    def _work(self) -> None:
        while not self._ended.is_set():
            self._ended.wait(self._pause_s(self._passed()))

    def _passed(self) -> datetime | None:
        now = self._clock.now()
        try:
            due = self._notifier.pass_once(self._snapshot(now), now, patience_s=PATIENCE_S)
        except RotatorError as error:
            self._failed(type(error).__name__, error.message)
            return None
        except Exception as error:  # noqa: BLE001 - boundary "job": one pass must not end the thread
            self._failed(type(error).__name__, f"unexpected {type(error).__name__}")
            return None
        self._is_well = True
        return due

    def _failed(self, kind: str, message: str) -> None:
        if self._is_well:
            said = f"nobody is told for now: {message}"
            self._emit(Event(name=EventName.NOTIFICATION_FAILED, at=self._clock.now(), error=kind, message=said))
        self._is_well = False

    def _pause_s(self, due: datetime | None) -> float:
        pause = EVERY if due is None else min(EVERY, due - self._clock.now())
        return max(1.0, pause.total_seconds())
