"""The log under many threads, and with a reader who is stuck or gone."""

import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rotator.events import Event, EventName
from rotator.logs import Lines, Log

AT = datetime(2026, 1, 1, tzinfo=UTC)


class Gate(io.StringIO):
    """A stream whose first write waits, as for a pipe that nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.stuck, self.free = threading.Event(), threading.Event()

    def write(self, text: str) -> int:
        """Wait, the first time."""
        if not self.stuck.is_set():
            self.stuck.set()
            assert self.free.wait(60)
        return super().write(text)


def test_no_line_of_many_threads_is_lost_or_torn() -> None:
    """Every line arrives whole and once, and those of one thread in their order."""
    stream = io.StringIO()
    lines = Lines(stream)

    def say(thread: int) -> None:
        for number in range(500):
            lines.msg(f"{thread} {number}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(8)))
    said = [tuple(map(int, line.split())) for line in stream.getvalue().splitlines()]
    assert sorted(said) == [(thread, number) for thread in range(8) for number in range(500)]
    for thread in range(8):
        assert [number for one, number in said if one == thread] == list(range(500))


def test_a_stuck_reader_keeps_one_thread_and_no_other() -> None:
    """Others go on at once; when the reader wakes up, all that was said meanwhile follows."""
    stream = Gate()
    lines = Lines(stream)
    first = threading.Thread(target=lines.msg, args=("first",))
    first.start()
    assert stream.stuck.wait(60)
    for number in range(3):
        lines.msg(f"meanwhile {number}")  # returns, or the test's timeout ends it
    assert stream.getvalue() == ""
    stream.free.set()
    first.join()
    assert stream.getvalue().splitlines() == ["first", "meanwhile 0", "meanwhile 1", "meanwhile 2"]


def test_a_reader_who_is_gone_ends_the_log_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """`2>&1 | head` stops neither a rotation nor what is said of it elsewhere."""
    log, written = Log(terminal=False), io.StringIO()
    event = Event(name=EventName.TOKEN_ROTATED, at=AT, token_id="t1")
    monkeypatch.setattr("sys.stderr", written)
    log(event)
    assert json.loads(written.getvalue())["event"] == "token_rotated"
    written.close()
    log(event)
    log(event)
