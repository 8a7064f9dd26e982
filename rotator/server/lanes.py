"""A thread for each endpoint, so that one whose answer hangs holds up neither the others nor the connections.

The threads are daemons: a call that never returns must not keep the process from ending.
"""

import asyncio
import contextlib
import sys
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_Job = tuple[Callable[[], object], "asyncio.Future[object]"]


class Failed:
    """What a call came to that raised."""


class Lane:
    """Runs calls one after another, in a thread that starts with the first.

    Args:
        name: Of the endpoint, for the line that a failure writes to standard error.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def run(self, call: Callable[[], T], patience_s: float) -> T | Failed:
        """Return what a call returns, or `Failed` if it raised; raises TimeoutError.

        Args:
            call: Runs to its end even if nobody waits for it any more.
            patience_s: How long to wait, for earlier calls as well, in seconds.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=f"serve {self._name}", daemon=True)
            self._thread.start()
        future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._jobs.put((call, future))
        async with asyncio.timeout(patience_s):
            return await future  # type: ignore[return-value]

    def close(self, patience_s: float) -> None:
        """End the thread after the call that runs; one that hangs is left behind."""
        self._jobs.put(None)
        if self._thread is not None:
            self._thread.join(patience_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            call, future = job
            if not future.cancelled():
                self._answer(future, self._called(call))

    def _called(self, call: Callable[[], object]) -> object:
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - boundary "request": it must not end the thread
            with contextlib.suppress(OSError, ValueError):  # standard error may be closed
                sys.stderr.write(f"rotator: the endpoint {self._name} failed ({type(error).__name__})\n")
            return Failed()

    @staticmethod
    def _answer(future: "asyncio.Future[object]", result: object) -> None:
        def settle() -> None:
            if not future.done():
                future.set_result(result)

        with contextlib.suppress(RuntimeError):  # the server has stopped meanwhile
            future.get_loop().call_soon_threadsafe(settle)
