"""Stopping a real process: soon, whatever it waits for, and without losing anything."""

import http.server
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.clock import SystemClock
from rotator.sandbox import Fault, Faults, SandboxConfig
from tests.lab import Lab, lab, write_config, write_secret

# What `rotator sweep` does, with a patience that a test can wait for.
SWEEP = """
import pathlib, sys
from rotator.app import opened
from rotator.cli.sweeping import finish, run
from rotator.config import load
with opened(load(pathlib.Path(sys.argv[1])), "sweep", [], writing=True) as app:
    reports = run(app, app.policies(None), None, ask=False, patience_s=float(sys.argv[2]))
sys.exit(finish(reports, as_json=True))
"""


@contextmanager
def hanging(folder: Path, patience_s: float) -> Iterator[tuple[Lab, str, subprocess.Popen[str]]]:
    """A sweep one of whose POSTs took effect and is never answered; the token's id; the process."""
    sandbox = SandboxConfig(tokens=6, limits=False, faults=Faults(hang_s=60))
    with lab(folder, sandbox=sandbox, timeout="60s") as bench:
        token_id = bench.due_ids()[0]
        bench.sandbox.script("rotate", Fault.HANG_AFTER, token_id)
        command = [sys.executable, "-c", SWEEP, str(bench.config_path), str(patience_s)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        try:
            wait_for(lambda: bool(bench.sandbox.store.posts(token_id)), process)
            yield bench, token_id, process
        finally:
            process.kill()
            process.communicate()


def wait_for(is_so: object, process: subprocess.Popen[str]) -> None:
    """Wait until something is so, as long as the process lives."""
    while not is_so() and process.poll() is None:  # type: ignore[operator]
        time.sleep(0.01)


def assert_nothing_is_lost(bench: Lab, token_id: str) -> None:
    """The next sweeps deliver a secret that lives."""
    assert bench.clock is not None
    for _ in range(3):
        bench.clock.jump(timedelta(minutes=3))
        bench.sweep()
    assert bench.sandbox.store.is_alive(bench.delivered(token_id) or "")
    with bench.app(writing=False) as app:
        assert not app.reader.all_open_rotations()


def test_a_call_that_hangs_delays_a_stop_only_so_long(tmp_path: Path) -> None:
    """SIGTERM while the API does not answer: exit 130 after our patience; the next sweep goes on from the journal."""
    with hanging(tmp_path, patience_s=1.0) as (bench, token_id, process):
        started = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130, said
        assert 1.0 <= time.monotonic() - started < 8
        assert "stopped after 1 s" in said
        assert_nothing_is_lost(bench, token_id)


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Who insists does not wait; nothing is lost either."""
    with hanging(tmp_path, patience_s=50.0) as (bench, token_id, process):
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        assert "stopping" in process.stderr.readline()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        assert process.returncode == 130, said
        assert time.monotonic() - started < 5
        assert_nothing_is_lost(bench, token_id)


@pytest.fixture
def throttling(tmp_path: Path) -> Iterator[tuple[Path, threading.Event]]:
    """A config for an API that always asks for a pause of 50 seconds, and the event of it being asked."""
    asked = threading.Event()

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(429)
            self.send_header("Retry-After", "50")
            self.send_header("Content-Length", "0")
            self.end_headers()
            asked.set()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        path = write_config(tmp_path, f"http://127.0.0.1:{server.server_port}", "clorg")
        write_secret(tmp_path / "credential", "a.b.c")
        yield path, asked
        server.shutdown()


def test_a_long_pause_that_the_api_asks_for_delays_no_stop(throttling: tuple[Path, threading.Event]) -> None:
    """SIGTERM within a Retry-After of 50 seconds: exit 130 within a few, and the one JSON object is printed."""
    path, asked = throttling
    command = [sys.executable, "-m", "rotator", "sweep", "--json", "--config", str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert asked.wait(20)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    out, said = process.communicate(timeout=20)
    assert process.returncode == 130, said
    assert time.monotonic() - started < 5
    assert len(json.loads(out)["errors"]) == 1


def test_a_clock_that_is_told_to_stop_wakes_who_sleeps() -> None:
    """Neither who sleeps already nor who comes later waits."""
    stop = threading.Event()
    clock = SystemClock(stop)
    sleeper = threading.Thread(target=clock.sleep, args=(timedelta(hours=1),), daemon=True)
    sleeper.start()
    stop.set()
    sleeper.join(10)
    assert not sleeper.is_alive()
    clock.sleep(timedelta(hours=1))


def test_a_signal_that_another_thread_gets_stops_too(tmp_path: Path) -> None:
    """The kernel may hand it to any thread, and no handler runs while the main thread sleeps."""
    script = """
import signal, threading, time
from rotator.cli.stopping import politely
stop = threading.Event()
def hit():
    time.sleep(0.5)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(60)
threading.Thread(target=hit, daemon=True).start()
with politely(stop.set):
    stop.wait()
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=20, check=False)
    assert (process.returncode, "stopping" in process.stderr) == (0, True)


# Stands for a signal that comes when the interpreter is about to wait for input: it hears of it only afterwards.
UNHEARD = """
import os, signal, threading, time
from rotator.cli.stopping import interruptible, politely
with politely(lambda: None), interruptible():
    signal.signal(signal.SIGINT, lambda *_: None)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)
"""


def test_a_signal_that_a_question_does_not_hear_ends_it() -> None:
    """Ctrl-C in the moment in which the question appears."""
    run = subprocess.run([sys.executable, "-c", UNHEARD], capture_output=True, text=True, timeout=30, check=False)
    assert (run.returncode, "stopped; the journal has everything" in run.stderr) == (130, True)
