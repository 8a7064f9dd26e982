"""`python -m tests.bench [startup|memory|rate|pipeline|sinks|scrape|daemon]`: prints one line a measurement.

Each figure is a ratio to a baseline that is measured in the same run on the same machine: bare Python, a plain httpx
client, the documented rate limit, workers / latency.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tests.bench import daemon, scraping, sinks
from tests.lab import write_config

CALLS_PER_ROTATION = 3  # look again, rotate, authenticate: each waits for the API's latency once


@contextmanager
def api(
    folder: Path, tokens: int, *arguments: str, server: str = "rotator.sandbox", **settings: object
) -> Iterator[Path]:
    """Run a sandbox, or a server with the same arguments, in a process of its own and yield a config for it."""
    command = [sys.executable, "-m", server, "--tokens", str(tokens), "--seed", "3"]
    command += ["--credential-file", str(folder / "credential"), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        ready = json.loads(process.stdout.readline())
        yield write_config(folder, ready["url"], ready["organization_id"], workers=16, timeout="30s", **settings)
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def spent_ms(command: list[str]) -> float:
    """Run a command and return the CPU time it took, milliseconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000


def cpu_ms(measured: list[str], baseline: list[str], runs: int = 15) -> tuple[float, float]:
    """Return the median CPU times of two commands that run in turn, so that a busy machine is busy for both."""
    pairs = [(spent_ms(measured), spent_ms(baseline)) for _ in range(runs)]
    return statistics.median(pair[0] for pair in pairs), statistics.median(pair[1] for pair in pairs)


def sweep_command(config: Path) -> list[str]:
    """Return the command line of a sweep."""
    return [sys.executable, "-m", "rotator", "sweep", "--json", "--config", str(config)]


def startup() -> None:
    """--version against bare Python, an idle sweep against an httpx client."""
    version, bare = cpu_ms([sys.executable, "-m", "rotator", "--version"], [sys.executable, "-c", "pass"])
    print(f"--version: {version:.0f} ms CPU = {version / bare:.2f} x bare Python")
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), 6) as config:
        subprocess.run(sweep_command(config), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        idle, client = cpu_ms(sweep_command(config), [sys.executable, "-c", "import httpx; httpx.Client()"])
    print(f"idle sweep: {idle:.0f} ms CPU = {idle / client:.2f} x an httpx client ({client:.0f} ms)")


def peak_mib(tokens: int) -> float:
    """Return the peak memory of a sweep with nothing due, MiB."""
    measure = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL, check=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)"
    )
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), tokens, "--no-limits") as config:
        config.write_text(config.read_text().replace('"90d"', '"3650d"'))
        command = [sys.executable, "-c", measure, *sweep_command(config)]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def memory() -> None:
    """An idle sweep over sixty thousand tokens against one over five hundred."""
    small, large = peak_mib(500), peak_mib(60_000)
    print(f"memory: {large:.1f} MiB over 60,000 tokens, {small:.1f} MiB over 500: {large - small:+.1f} MiB")


@dataclass(frozen=True, slots=True)
class Run:
    """What a sweep did: how many settled, in how many seconds from first to last, at what CPU time of its own."""

    settled: int
    seconds: float
    refused: int
    cpu_ms: float

    @property
    def rate(self) -> float:
        """Rotations per second."""
        return (self.settled - 1) / self.seconds


def rotations(config: Path, prefix: Sequence[str] = ()) -> Run:
    """Run a sweep that logs to a file, as a service does; `prefix` is a command that runs it, such as taskset."""
    log = config.with_suffix(".log")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with log.open("w") as stream:
        command = [*prefix, *sweep_command(config)]
        run = subprocess.run(command, stdout=subprocess.PIPE, stderr=stream, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    moments = sorted(line["time"] for line in lines if line["event"] == "token_rotated")
    return Run(
        len(json.loads(run.stdout)["settled"]),
        _epoch(moments[-1]) - _epoch(moments[0]),
        sum(line["event"] == "rotation_refused" for line in lines),
        (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000,
    )


def _epoch(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def rate() -> None:
    """Rotations under the documented limits against the ten POSTs a second that are allowed."""
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), 300, get=25, post=10) as config:
        run = rotations(config)
    print(f"rate: {run.settled} rotations, {run.rate:.2f}/s = {run.rate / 10:.1%} of the limit; refused: {run.refused}")


def pipeline(runs: int = 3) -> None:
    """The durable pipeline at 20 ms latency, limits lifted, against workers / latency of its three calls.

    On one core and on all: the interpreter's lock, which the threads hand to each other some hundred times a rotation,
    is handed on faster within a core. Bare httpx, which does the three calls and nothing else, shows what is left.
    Within five minutes of thousands of deleted files ext4 takes a tenth off: it passes over every inode just freed.
    """
    limit = 16 / (0.02 * CALLS_PER_ROTATION)
    prefixes = {"one core": ["taskset", "--cpu-list", str(min(os.sched_getaffinity(0)))], "all cores": []}
    ours: dict[str, list[Run]] = {words: [] for words in prefixes}
    bare: dict[str, list[float]] = {words: [] for words in prefixes}
    with tempfile.TemporaryDirectory() as folder:  # emptied at the end, see above
        for words, prefix in [*prefixes.items()] * runs:
            with lifted(Path(tempfile.mkdtemp(dir=folder))) as config:
                ours[words].append(rotations(config, prefix))
            with lifted(Path(tempfile.mkdtemp(dir=folder))) as config:
                command = [*prefix, sys.executable, "-m", "tests.bench.calls", str(config)]
                bare[words].append(float(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    for words in prefixes:
        rates = [run.rate for run in ours[words]]
        cpu_ms = statistics.median(run.cpu_ms / run.settled for run in ours[words])
        print(
            f"pipeline on {words}: {_shares(rates, limit)} of {limit:.0f} rotations/s"
            f" ({cpu_ms:.1f} ms CPU each, start and plan included);"
            f" their calls by bare httpx: {_shares(bare[words], limit)}"
        )


def _shares(rates: Sequence[float], limit: float) -> str:
    """Return the median of some rates and their range as shares of a limit."""
    low, middle, high = (rate / limit for rate in (min(rates), statistics.median(rates), max(rates)))
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


@contextmanager
def lifted(folder: Path) -> Iterator[Path]:
    """A config for an API of 3,000 tokens that answers after 20 ms, limits nobody and is itself no limit."""
    with api(folder, 3000, "--latency", "0.02", server="tests.bench.lean") as config:
        yield config


MEASUREMENTS: dict[str, Callable[[], None]] = {
    "startup": startup,
    "memory": memory,
    "rate": rate,
    "pipeline": pipeline,
    "sinks": sinks.run,
    "scrape": scraping.run,
    "daemon": daemon.run,
}

if __name__ == "__main__":
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # as it is installed: compiled
    for name in sys.argv[1:] or [one for one in MEASUREMENTS if one != "daemon"]:  # that one lasts half an hour
        MEASUREMENTS[name]()
