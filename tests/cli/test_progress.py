"""The progress bar: on a terminal only, counting what events say, never in the way of other lines."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rotator.cli.progress import Bar
from rotator.events import Event, EventName
from rotator.model import Outcome
from rotator.sandbox import Fault, SandboxConfig
from tests.cli.running import rotator
from tests.lab import Lab, lab

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
COLOR = re.compile(rb"\x1b\[[0-9;]*[34]\dm")  # foregrounds and backgrounds


def event(name: EventName, token_id: str, outcome: Outcome | None = None) -> Event:
    return Event(name=name, at=NOW, token_id=token_id, outcome=outcome)


def test_the_latest_event_of_each_token_counts() -> None:
    """A token that was in doubt and then settled is settled; one that begins again is under way."""
    bar = Bar(shown=False)
    bar.expect(3)
    bar(event(EventName.ROTATION_INTENDED, "a"))
    bar(event(EventName.ROTATION_IN_DOUBT, "a"))
    bar(event(EventName.PREFLIGHT_FAILED, "b"))
    bar(event(EventName.SECRET_DELIVERED, "c"))
    assert bar.counts == (0, 2, 3)
    bar(event(EventName.ROTATION_SETTLED, "a", Outcome.SETTLED))
    bar(event(EventName.ROTATION_INTENDED, "b"))
    assert bar.counts == (1, 0, 3)
    bar(event(EventName.ROTATION_UNSETTLED, "b", Outcome.UNSETTLED))
    bar(event(EventName.RETIREMENT_DELAYED, "d"))
    bar(event(EventName.TOKEN_RETIRED, "e"))
    assert bar.counts == (2, 1, 4)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A slow API, so that there is something to watch; one answer gets lost."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=12, limits=False, latency_s=0.1), jumping=False) as made:
        made.sandbox.script("rotate", Fault.RESET_AFTER)
        yield made


def on_a_terminal(bench: Lab, *arguments: str, **environment: str) -> bytes:
    """Run a command whose standard error is a terminal, and return what it showed there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "rotator", *arguments, "--config", str(bench.config_path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm-256color", **environment},
    )
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # the other side is closed
        pass
    os.close(ours)
    assert b"Traceback" not in shown
    out, _ = process.communicate(timeout=60)
    assert b"\x1b" not in out
    return shown


def test_a_terminal_shows_a_bar_and_whole_log_lines(bench: Lab) -> None:
    """The bar counts, each log line stands on a line of its own in one piece, and the cursor is there again."""
    shown = on_a_terminal(bench, "sweep", "--yes")
    assert b"5 settled, 1 failed" in shown
    lines = [line for line in shown.split(b"\n") if b"rotation_lost" in line]
    assert [b"step=" in line or b"token_name=" in line for line in lines] == [True]
    assert shown.rfind(b"\x1b[?25h") > shown.rfind(b"\x1b[?25l") >= 0
    assert COLOR.search(shown)


def test_no_color_is_respected(bench: Lab) -> None:
    """With NO_COLOR the bar is there, without a colour."""
    shown = on_a_terminal(bench, "sweep", "--yes", NO_COLOR="1")
    assert b"settled, " in shown
    assert not COLOR.search(shown)


def test_settle_shows_what_it_finishes(bench: Lab) -> None:
    """The open rotations are what settle's bar counts."""
    rotator(bench, "sweep")
    assert b"0/1" in on_a_terminal(bench, "settle")  # late_window is not over


def test_without_a_terminal_there_is_no_bar(bench: Lab) -> None:
    """Standard error holds JSON lines and nothing else."""
    run = rotator(bench, "sweep", "--yes")
    assert all(line.startswith("{") for line in run.stderr.splitlines())
