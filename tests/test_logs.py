"""The log under many threads, and with a reader who is gone."""

import io
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from rotator.events import Event, EventName
from rotator.logs import Log

AT = datetime(2026, 1, 1, tzinfo=UTC)


def test_no_line_of_many_threads_is_lost_or_torn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line arrives whole and once, those of one thread in their order, each with its end in one write."""
    written: list[str] = []
    stream = io.StringIO()
    stream.write = lambda text: written.append(text) or len(text)  # type: ignore[method-assign, func-returns-value]
    monkeypatch.setattr("sys.stderr", stream)
    log = Log(terminal=False)

    def say(thread: int) -> None:
        for number in range(100):
            log(Event(name=EventName.TOKEN_ROTATED, at=AT, token_id=str(thread), message=str(number)))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(say, range(8)))
    said = [(int(line["token_id"]), int(line["message"])) for line in map(json.loads, written)]
    assert all(text.endswith("}\n") for text in written)
    assert sorted(said) == [(thread, number) for thread in range(8) for number in range(100)]
    for thread in range(8):
        assert [number for one, number in said if one == thread] == list(range(100))


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
