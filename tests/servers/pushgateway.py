"""Debian's Pushgateway, for as long as a test needs it; `ROTATOR_REQUIRE_SERVERS` says that it must be there."""

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest


@dataclass(frozen=True)
class Pushgateway:
    """A running one."""

    url: str

    def text(self) -> str:
        """What Prometheus would scrape."""
        return httpx.get(f"{self.url}/metrics", trust_env=False).raise_for_status().text


@contextmanager
def pushgateway() -> Iterator[Pushgateway]:
    """Run one in memory until the block ends."""
    program = shutil.which("prometheus-pushgateway")
    if program is None:
        reason = "there is no prometheus-pushgateway; apt-get install prometheus-pushgateway"
        if os.environ.get("ROTATOR_REQUIRE_SERVERS") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="rotator-push-") as folder:
        command = [program, f"--web.listen-address=127.0.0.1:{port}", "--persistence.file="]
        # tests that are killed take the server with them
        bound = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen([*bound, *command], stdout=log, stderr=log, cwd=folder)
        try:
            yield _ready(f"http://127.0.0.1:{port}", process)
        finally:
            process.kill()
            process.wait()


def _ready(url: str, process: "subprocess.Popen[bytes]") -> Pushgateway:
    deadline_s = time.monotonic() + 30
    while time.monotonic() < deadline_s and process.poll() is None:
        try:
            if httpx.get(f"{url}/-/ready", trust_env=False).is_success:
                return Pushgateway(url)
        except httpx.TransportError:
            time.sleep(0.05)
    raise RuntimeError("the Pushgateway does not get ready")
