"""`python -m tests.bench daemon`: half an hour ($ROTATOR_BENCH_MINUTES) of a daemon on a bad day, watched from outside.

The secrets of a sandbox with the default faults live for a minute, so the daemon has to rotate without a pause. Once a
minute its memory, threads, open files and counters are printed; at the end every token must hold a secret that lives.
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx

from rotator.sandbox import Faults, Sandbox, SandboxConfig
from tests.lab import write_config, write_secret

LIFE = timedelta(seconds=60)
TOKENS = 24
PATIENCE_S = 300  # for the last faults: a call in doubt waits for `late_window`, a lost one for another rotation
_SAMPLE = re.compile(r"^(rotator_\w+?)(?:\{(.*)\})? ([0-9.eE+-]+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Sample:
    """The daemon at one moment.

    Attributes:
        memory_mib: Resident.
        counters: `rotator_rotations_total` by outcome, and the requests.
    """

    memory_mib: float
    threads: int
    files: int
    scrape_ms: float
    counters: dict[str, float]


def run() -> None:
    """Run it and print what is seen; ends with an error unless everything settled."""
    minutes = float(os.environ.get("ROTATOR_BENCH_MINUTES", "30"))
    faults = Faults.preset("default", seed=7)
    with tempfile.TemporaryDirectory() as name, Sandbox(SandboxConfig(tokens=TOKENS, faults=faults, life=LIFE)) as api:
        folder = Path(name)
        config = write_config(
            folder, api.url, api.organization_id, late_window="5s", timeout="5s", get=0, post=0, workers=8
        )
        when = 'before_expiry = "50%"\nmin_interval = "1s"\nemergency = "10s"'
        config.write_text(config.read_text().replace('max_age = "90d"', when) + '\n[server]\nlisten = "127.0.0.1:0"\n')
        config.write_text(
            config.read_text().replace("[policies.services]", '[policies.services]\nschedule = "every 1m"')
        )
        write_secret(folder / "credential", api.credential)
        with _daemon(folder, config) as (process, url):
            first = _watched(process, url, minutes)
            last = _sample(process, url)
            settled = _settled(api, folder)
            process.send_signal(signal.SIGTERM)
            stopped_s = time.monotonic()
            code = process.wait(60)
            print(f"stopped with {code} after {time.monotonic() - stopped_s:.1f} s", flush=True)
        print(
            f"daemon: {minutes:g} min; memory {first.memory_mib:.1f} -> {last.memory_mib:.1f} MiB,"
            f" threads {first.threads} -> {last.threads}, files {first.files} -> {last.files};"
            f" {last.counters}; {settled} of {TOKENS} tokens hold a secret that lives",
            flush=True,
        )
    if settled < TOKENS or code != 0:
        sys.exit("not everything settled")


def _watched(process: subprocess.Popen[str], url: str, minutes: float) -> Sample:
    """Print a sample a minute; return the first one that counts, after two minutes of warming up."""
    began, first = time.monotonic(), None
    while (lasted := time.monotonic() - began) < minutes * 60:
        time.sleep(min(60, minutes * 60 - lasted))
        sample = _sample(process, url)
        first = sample if first is None or time.monotonic() - began <= 121 else first
        print(f"{(time.monotonic() - began) / 60:5.1f} min  {sample}", flush=True)
    assert first is not None
    return first


@contextmanager
def _daemon(folder: Path, config: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    with (folder / "log").open("w") as log:
        command = [sys.executable, "-m", "rotator", "run", "--config", str(config)]
        process = subprocess.Popen(command, stderr=log, text=True)
    try:
        while not (found := re.search(r"the status page is (http\S+/)", (folder / "log").read_text())):
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.1)
        yield process, found[1]
    finally:
        process.kill()
        process.wait()


def _sample(process: subprocess.Popen[str], url: str) -> Sample:
    status = Path(f"/proc/{process.pid}/status").read_text()
    fields = dict(line.split(":", 1) for line in status.splitlines())
    began = time.monotonic()
    text = httpx.get(f"{url}metrics", timeout=30).text
    scrape_ms = (time.monotonic() - began) * 1000
    counters: dict[str, float] = {}
    for name, labels, value in _SAMPLE.findall(text):
        outcome = re.search(r'outcome="(\w+)"', labels)
        if name == "rotator_rotations_total" and outcome is not None and float(value):
            counters[outcome[1]] = counters.get(outcome[1], 0) + float(value)
    return Sample(
        int(fields["VmRSS"].split()[0]) / 1024,
        int(fields["Threads"]),
        len(os.listdir(f"/proc/{process.pid}/fd")),
        scrape_ms,
        counters,
    )


def _settled(api: Sandbox, folder: Path) -> int:
    """Return how many tokens have, at some moment from now on, a file that authenticates."""
    waiting = {token.id for token in api.store.tokens.values() if token.name.startswith("svc-")}
    total, limit = len(waiting), time.monotonic() + PATIENCE_S
    while waiting and time.monotonic() < limit:
        for token_id in list(waiting):
            path = folder / "secrets" / token_id
            if path.exists() and api.store.authenticates_as(path.read_text()) == token_id:
                waiting.discard(token_id)
        time.sleep(0.2)
    return total - len(waiting)
