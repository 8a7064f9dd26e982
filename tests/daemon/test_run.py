"""`rotator run` as a process: signals, reloads, bad configs."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Thread

import httpx
import pytest

from rotator.sandbox import Fault, Faults, SandboxConfig
from tests.lab import Lab, lab


@dataclass
class Daemon:
    """A daemon and what it said."""

    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something, for as long as a slow machine needs."""
        limit = time.monotonic() + 60
        while not is_so():
            assert self.process.poll() is None, self.lines
            assert time.monotonic() < limit, self.lines
            time.sleep(0.05)

    def said(self, event: str) -> list[dict[str, str]]:
        """Return the log lines of one event."""
        rows = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [row for row in rows if row["event"] == event]

    def ended(self, timeout_s: float = 90) -> int:
        """Wait for its end."""
        return self.process.wait(timeout_s)


@contextmanager
def daemon(bench: Lab, **environment: str) -> Iterator[Daemon]:
    """Run it as users do; what is left of it afterwards is killed."""
    text = bench.config_path.read_text()
    if "[server]" not in text:
        bench.config_path.write_text(f'{text}\n[server]\nlisten = "127.0.0.1:0"\n')
    command = [sys.executable, "-m", "rotator", "run", "--config", str(bench.config_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=os.environ | environment
    )
    running = Daemon(process)

    def read() -> None:
        assert process.stderr is not None
        running.lines.extend(process.stderr)

    reader = Thread(target=read)
    reader.start()
    try:
        yield running
    finally:
        process.kill()
        process.wait()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()


def rewrite(path: Path, old: str, new: str) -> None:
    """Change a config as careful writers do."""
    fresh = path.with_suffix(".new")
    fresh.write_text(path.read_text().replace(old, new))
    fresh.rename(path)


def test_sweeps_and_stops(tmp_path: Path) -> None:
    """A policy that was never swept and has no fixed hours is swept at once; SIGTERM ends with 0 and nothing open."""
    with lab(tmp_path, jumping=False) as bench:
        due = bench.due_ids()
        with daemon(bench) as running:
            running.until(lambda: bool(running.said("sweep_finished")))
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.lines
        assert all(bench.sandbox.store.is_alive(bench.delivered(token_id) or "") for token_id in due)
        assert [len(running.said(name)) for name in ("daemon_started", "daemon_stopped")] == [1, 1]


def test_stops_in_the_middle_of_a_rotation(tmp_path: Path) -> None:
    """SIGTERM while a POST that took effect is not answered: it waits; a second one leaves at once; nothing is lost."""
    sandbox = SandboxConfig(tokens=6, limits=False, faults=Faults(hang_s=60))
    with lab(tmp_path, sandbox=sandbox, jumping=False, timeout="60s", late_window="1s") as bench:
        token_id = bench.due_ids()[0]
        bench.sandbox.script("rotate", Fault.HANG_AFTER, token_id)
        with daemon(bench) as running:
            running.until(lambda: bool(bench.sandbox.store.posts(token_id)))
            running.process.send_signal(signal.SIGTERM)
            running.until(lambda: any("stopping" in line for line in running.lines))
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 130, running.lines
        with daemon(bench) as running:
            running.until(lambda: bench.sandbox.store.is_alive(bench.delivered(token_id) or ""))
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.lines


def test_a_changed_file_is_taken_over(tmp_path: Path) -> None:
    """Without a signal; also SIGHUP takes it over; the audit says so each time, with the file's digest."""
    with lab(tmp_path, jumping=False) as bench, daemon(bench) as running:
        running.until(lambda: bool(running.said("sweep_finished")))
        rewrite(bench.config_path, 'max_age = "90d"', 'max_age = "91d"')
        running.until(lambda: len(running.said("config_loaded")) == 2)
        running.process.send_signal(signal.SIGHUP)
        running.until(lambda: len(running.said("config_loaded")) == 3)
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0, running.lines
        audited = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
        assert sum(line["event"] == "config_loaded" for line in audited) == 3
        assert not running.said("config_refused")


def test_a_broken_file_is_refused_and_the_old_one_stays(tmp_path: Path) -> None:
    """Log and audit name the problem; once the file is right again, it is taken over."""
    with lab(tmp_path, jumping=False) as bench, daemon(bench) as running:
        running.until(lambda: bool(running.said("sweep_finished")))
        rewrite(bench.config_path, "max_age", "max_agee")
        running.until(lambda: bool(running.said("config_refused")))
        assert "did you mean 'max_age'" in running.said("config_refused")[0]["message"]
        rewrite(bench.config_path, "max_agee", "max_age")
        running.until(lambda: len(running.said("config_loaded")) == 2)
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0, running.lines
        assert '"config_refused"' in (tmp_path / "audit.jsonl").read_text()


def test_fixed_hours_are_waited_for(tmp_path: Path) -> None:
    """A cron policy that nobody missed is not swept when the daemon starts; its tokens are looked at all the same."""
    with lab(tmp_path, jumping=False) as bench:
        rewrite(bench.config_path, "max_rotations", 'schedule = "0 3 1 1 *"\nmax_rotations')
        with daemon(bench) as running:
            running.until(lambda: bool(bench.sandbox.requests))
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.lines
        assert not running.said("sweep_finished")
        assert not running.said("sweep_missed")


def test_a_missed_moment_is_caught_up(tmp_path: Path) -> None:
    """What passed while nobody ran is counted, said, and swept at once."""
    with lab(tmp_path) as bench:
        assert bench.clock is not None
        rewrite(bench.config_path, "max_rotations", 'schedule = "0 3 * * *"\nmax_rotations')
        bench.clock.jump(timedelta(days=-3))
        bench.sweep()
        with daemon(bench) as running:
            running.until(lambda: bool(running.said("sweep_missed")))
            running.until(lambda: bool(running.said("sweep_finished")))
        assert "3 scheduled sweeps" in running.said("sweep_missed")[0]["message"]


def test_bad_configs_and_credentials(tmp_path: Path) -> None:
    """A wrong file at the start is exit 2 with every problem; nothing was begun."""
    with lab(tmp_path, jumping=False) as bench:
        rewrite(bench.config_path, "max_age", "max_agee")
        with daemon(bench) as running:
            assert running.ended() == 2
        assert "did you mean 'max_age'" in "".join(running.lines)
        assert not (tmp_path / "rotator.db").exists()


def url_of(running: Daemon) -> str:
    """Return where it serves, as it said itself."""
    running.until(lambda: bool(running.said("daemon_started")))
    return running.said("daemon_started")[0]["message"].rpartition(" ")[2]


def test_serves(tmp_path: Path) -> None:
    """Probes, metrics, health and page answer while it runs, and nobody listens afterwards."""
    with lab(tmp_path, jumping=False) as bench, daemon(bench) as running:
        url = url_of(running)
        running.until(lambda: bool(running.said("sweep_finished")))
        for path in ("livez", "readyz", "healthz", "metrics", ""):
            assert httpx.get(url + path).status_code == 200
        assert "svc-" in httpx.get(url).text
        running.process.send_signal(signal.SIGTERM)
        assert running.ended() == 0, running.lines
        with pytest.raises(httpx.ConnectError):
            httpx.get(url + "livez")


def test_a_journal_that_cannot_be_written_is_not_ready(tmp_path: Path) -> None:
    """Readiness follows what it needs to take on work; it stays alive."""
    with lab(tmp_path, jumping=False) as bench, daemon(bench) as running:
        url = url_of(running)
        running.until(lambda: bool(running.said("sweep_finished")))
        (tmp_path / "audit.jsonl").rename(tmp_path / "audit.1")
        (tmp_path / "audit.jsonl").mkdir()
        running.until(lambda: httpx.get(url + "readyz").status_code == 503)
        assert "audit" in httpx.get(url + "readyz").text
        assert httpx.get(url + "livez").status_code == 200


def test_the_address_can_be_changed_and_a_taken_one_is_refused(tmp_path: Path) -> None:
    """A reload moves the server; an address that is in use leaves everything as it was; at the start it is exit 2."""
    with lab(tmp_path, jumping=False) as bench, socket.create_server(("127.0.0.1", 0)) as taken:
        busy = f"127.0.0.1:{taken.getsockname()[1]}"
        with daemon(bench) as running:
            url = url_of(running)
            running.until(lambda: bool(running.said("sweep_finished")))
            rewrite(bench.config_path, "127.0.0.1:0", busy)
            running.until(lambda: bool(running.said("config_refused")))
            assert "in use" in running.said("config_refused")[0]["message"]
            assert "config_refused" not in httpx.get(url + "readyz").text
            rewrite(bench.config_path, busy, "[::1]:0")
            running.until(lambda: len(running.said("config_loaded")) >= 3)
            running.until(lambda: not answers(url))
        rewrite(bench.config_path, "[::1]:0", busy)
        with daemon(bench) as running:
            assert running.ended() == 2
        assert "server.listen" in "".join(running.lines)


def answers(url: str) -> bool:
    """Whether anybody listens there."""
    try:
        return httpx.get(url + "livez").status_code == 200
    except httpx.TransportError:
        return False
