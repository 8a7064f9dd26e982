"""Debian's Prometheus, Alertmanager and Pushgateway on the loopback, and a receiver of alerts.

Where a program is missing the test is skipped, unless `ROTATOR_REQUIRE_SERVERS` says that it must run.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest

from tests.servers.loopback import Loopback

Found = TypeVar("Found")
_POLL_S = 0.1


def needs(*programs: str) -> None:
    """Skip the test where a program is missing; fail if servers are required."""
    for program in programs:
        if shutil.which(program) is None:
            said = f"{program} is not installed (Debian: prometheus, prometheus-alertmanager, prometheus-pushgateway)"
            if os.environ.get("ROTATOR_REQUIRE_SERVERS") == "1":
                pytest.fail(said)
            pytest.skip(said)


def tool(*command: str | Path) -> str:
    """Return what promtool or amtool says; it must find nothing wrong."""
    needs(str(command[0]))
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def eventually(look: Callable[[], Found], what: str, within_s: float = 60.0) -> Found:
    """Return the first thing that is there, looking again and again until it is too late."""
    deadline = time.monotonic() + within_s
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < deadline, f"waited {within_s:g} s for {what}"
        time.sleep(_POLL_S)


def free_port() -> int:
    """Return a port of the loopback that nobody listens on, below those that the kernel hands out to others."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def listens(process: int, port: int) -> bool:
    """Whether it is this process that listens there, and not one of another test."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "0A"}
    links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir() if link.exists()]
    return bool(sockets & set(links))


@contextmanager
def running(command: list[str], folder: Path, ready: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program until the block ends; `ready` is a URL that answers 200 once it is there."""
    needs(command[0])
    log = folder / f"{Path(command[0]).name}.log"
    with log.open("wb") as stream:
        program = subprocess.Popen(command, cwd=folder, stdout=stream, stderr=subprocess.STDOUT)
        try:

            def is_ready() -> bool:
                assert program.poll() is None, f"{command[0]} ended: {log.read_text()[-2000:]}"
                if not listens(program.pid, httpx.URL(ready).port or 0):
                    return False
                try:
                    return httpx.get(ready, timeout=5, trust_env=False).status_code == 200
                except httpx.HTTPError:
                    return False

            eventually(is_ready, f"{command[0]} to be ready", 30)
            yield program
        finally:
            program.send_signal(signal.SIGTERM)
            try:
                program.wait(20)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()


class Prometheus:
    """A client of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expr: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query."""
        return list(self._asked("query", query=expr)["result"])

    def value(self, expr: str) -> float | None:
        """Return the value of the only sample of a query; None if there is none."""
        found = self.query(expr)
        assert len(found) <= 1, f"{expr} is {[one['metric'] for one in found]}"
        return float(found[0]["value"][1]) if found else None

    def targets(self) -> list[dict[str, Any]]:
        """Return the active targets."""
        return list(self._asked("targets", state="active")["activeTargets"])

    def _asked(self, path: str, **parameters: str) -> dict[str, Any]:
        answer = httpx.get(f"{self.url}/api/v1/{path}", params=parameters, timeout=30, trust_env=False)
        found = answer.json()
        assert found["status"] == "success", found
        return dict(found["data"])


@contextmanager
def prometheus(folder: Path, config: Callable[[], str]) -> Iterator[Prometheus]:
    """Run Prometheus with a config; what it names is relative to the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "prometheus.yml").write_text(config())
    tool("promtool", "check", "config", folder / "prometheus.yml")
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus",
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--log.level=warn",
    ]
    with running(command, folder, f"http://{address}/-/ready"):
        yield Prometheus(f"http://{address}")


@contextmanager
def alertmanager(folder: Path, config: str) -> Iterator[str]:
    """Run Alertmanager with a config, alone; yield its address."""
    folder.mkdir(exist_ok=True)
    (folder / "alertmanager.yml").write_text(config)
    tool("amtool", "check-config", folder / "alertmanager.yml")
    address = f"127.0.0.1:{free_port()}"
    command = [
        "prometheus-alertmanager",
        f"--config.file={folder / 'alertmanager.yml'}",
        f"--storage.path={folder / 'data'}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
        "--log.level=warn",
    ]
    with running(command, folder, f"http://{address}/-/ready"):
        yield address


@contextmanager
def pushgateway(folder: Path) -> Iterator[str]:
    """Run a Pushgateway; yield its address."""
    folder.mkdir(exist_ok=True)
    address = f"127.0.0.1:{free_port()}"
    command = ["prometheus-pushgateway", f"--web.listen-address={address}", "--log.level=warn"]
    with running(command, folder, f"http://{address}/-/ready"):
        yield address


@dataclass
class Alerts:
    """What arrived at a webhook, oldest first, each with the name of the receiver in Alertmanager's config."""

    url: str = ""
    seen: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def receiving() -> Iterator[Alerts]:
    """Run a webhook receiver of Alertmanager's form."""
    alerts = Alerts()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            """Take a group of alerts."""
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            alerts.seen.extend({**one, "receiver": body["receiver"]} for one in body["alerts"])
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    with serving(Handler) as url:
        alerts.url = url
        yield alerts


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve on a free port of the loopback; yield the URL."""
    server = Loopback(("127.0.0.1", 0), handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
