"""Stopping: Ctrl-C and SIGTERM let what has begun finish or be journalled, within a bound; a second one ends at once.

Ending at once loses nothing: the journal is ahead of every step, so it is the same as a crash, which the next run
recovers from.
"""

import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

from rotator.cli.main import INTERRUPTED

PATIENCE_S = 50.0  # what stops containers kills after a minute or less
_UNHEARD_S = 1.0  # after a signal that should have ended a question at once
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def politely(halt: Callable[[], None], patience_s: float = PATIENCE_S, code: int = INTERRUPTED) -> Iterator[None]:
    """Turn the first Ctrl-C or SIGTERM into `halt`; the second one, or the end of our patience, ends the process.

    Args:
        halt: Called in a thread of its own: from then on nothing more is claimed, and pauses end.
        patience_s: How long what has begun may take, seconds, until after the block.
        code: The exit code where our patience ends.
    """
    came = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(
        target=_watch, args=(_Watch(reading, came, halt, patience_s, code),), name="stopping", daemon=True
    )
    watcher.start()
    # The kernel may interrupt any thread, while the main one sleeps on and runs no handler; the interpreter writes the
    # signal's number to this pipe in whichever thread it is.
    before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, _heard) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(writing)
        if not came.is_set():
            watcher.join()


@contextmanager
def interruptible() -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end the block, where a person is asked and nothing has begun.

    One that comes right before the interpreter waits for input would only be heard after it, so somebody else listens.
    """
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    watcher = threading.Thread(target=_watch_the_question, args=(reading, ended), name="asking", daemon=True)
    watcher.start()
    before_fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    before = {number: signal.signal(number, signal.default_int_handler) for number in _SIGNALS}
    try:
        yield
    finally:
        ended.set()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(writing)
        watcher.join()


@dataclass(frozen=True, slots=True)
class _Watch:
    """What the watcher does; see `politely`. `came` is set once a signal came."""

    reading: int
    came: threading.Event
    halt: Callable[[], None]
    patience_s: float
    code: int


def _watch(watch: _Watch) -> None:
    if not _next(watch.reading):
        os.close(watch.reading)
        return
    watch.came.set()
    _say("stopping; what has begun is finished first")
    threading.Thread(target=watch.halt, name="halting", daemon=True).start()
    limit_s = time.monotonic() + watch.patience_s
    poller = select.poll()
    poller.register(watch.reading, select.POLLIN)
    while poller.poll(max(0.0, limit_s - time.monotonic()) * 1000):
        number = os.read(watch.reading, 1)
        if not number:  # the block has ended; what comes after it may take as long
            time.sleep(max(0.0, limit_s - time.monotonic()))
            break
        if number[0] in _SIGNALS:
            _leave("stopped at once", INTERRUPTED)
    _leave(f"stopped after {watch.patience_s:g} s", watch.code)


def _watch_the_question(reading: int, ended: threading.Event) -> None:
    if _next(reading) and not ended.wait(_UNHEARD_S):
        _leave("stopped", INTERRUPTED)
    os.close(reading)


def _next(reading: int) -> bool:
    """Wait for one of our signals; False once nobody listens any more. Others, such as SIGHUP, pass by here too."""
    while number := os.read(reading, 1):
        if number[0] in _SIGNALS:
            return True
    return False


def _heard(number: int, frame: FrameType | None) -> None:
    """Be there, so that the signal does not end the process."""


def _leave(how: str, code: int) -> None:
    _say(f"{how}; the journal has everything, the next run goes on from it")
    os._exit(code)


def _say(sentence: str) -> None:
    with suppress(OSError):  # whoever read it is gone
        os.write(2, f"rotator: {sentence}\n".encode())
