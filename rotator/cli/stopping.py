"""Stopping: Ctrl-C and SIGTERM let what has begun finish or be journalled, within a bound; a second one ends at once.

Ending at once loses nothing: the journal is ahead of every step, so it is the same as a crash, which the next run
recovers from.
"""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from rotator.cli.main import INTERRUPTED

PATIENCE_S = 50.0  # what stops containers kills after a minute or less
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def politely(halt: Callable[[], None], patience_s: float = PATIENCE_S, code: int = INTERRUPTED) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `halt`; the second one, or the end of our patience, ends the process.

    Args:
        halt: Called in a thread of its own: from then on nothing more is claimed, and pauses end.
        patience_s: How long what has begun may take, seconds, until after the block.
        code: The exit code where our patience ends.
    """
    came: list[int] = []
    reading, writing = os.pipe()
    # a signal handler must take no lock, so another thread does what takes some
    watcher = threading.Thread(target=_watch, args=(halt, reading, patience_s, code), name="stopping", daemon=True)
    watcher.start()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
        came.append(number)
        if len(came) > 1:
            _leave("stopped at once", INTERRUPTED)
        os.write(writing, b"!")

    before = {number: signal.signal(number, stop) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writing)
        if not came:
            watcher.join()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, where a person is asked and nothing has begun."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(halt: Callable[[], None], reading: int, patience_s: float, code: int) -> None:
    is_told = os.read(reading, 1)
    os.close(reading)
    if not is_told:
        return
    _say("stopping; what has begun is finished first")
    halt()
    time.sleep(patience_s)
    _leave(f"stopped after {patience_s:g} s", code)


def _leave(how: str, code: int) -> None:
    _say(f"{how}; the journal has everything, the next run goes on from it")
    os._exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):  # whoever read it is gone
        os.write(2, f"rotator: {sentence}\n".encode())
