"""`python -m tests.bench [startup|memory|rate|pipeline]`: prints one line a measurement.

Each figure is a ratio to a baseline that is measured in the same run on the same machine: bare Python, a plain httpx
client, the documented rate limit, workers / latency.
"""

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab import write_config

CALLS_PER_ROTATION = 3  # look again, rotate, authenticate: each waits for the API's latency once


@contextmanager
def api(folder: Path, tokens: int, *arguments: str, **settings: object) -> Iterator[Path]:
    """Run a sandbox in a process of its own and yield a config for it."""
    command = [sys.executable, "-m", "rotator.sandbox", "--tokens", str(tokens), "--seed", "3"]
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


def cpu_ms(command: list[str], runs: int = 9) -> float:
    """Return the median CPU time of a command, milliseconds."""
    spent = []
    for _ in range(runs):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append((after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000)
    return statistics.median(spent)


def sweep_command(config: Path) -> list[str]:
    """Return the command line of a sweep."""
    return [sys.executable, "-m", "rotator", "sweep", "--json", "--config", str(config)]


def startup() -> None:
    """--version against bare Python, an idle sweep against an httpx client."""
    bare, version = cpu_ms([sys.executable, "-c", "pass"]), cpu_ms([sys.executable, "-m", "rotator", "--version"])
    print(f"--version: {version:.0f} ms CPU = {version / bare:.2f} x bare Python")
    client = cpu_ms([sys.executable, "-c", "import httpx; httpx.Client()"])
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), 6) as config:
        subprocess.run(sweep_command(config), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        idle = cpu_ms(sweep_command(config))
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


def rotations(config: Path) -> tuple[int, float, int]:
    """Run a sweep; return how many settled, in how many seconds from first to last, and how many were refused."""
    run = subprocess.run(sweep_command(config), capture_output=True, text=True, check=False)
    settled = len(json.loads(run.stdout)["settled"])
    times = [json.loads(line) for line in run.stderr.splitlines() if '"token_rotated"' in line]
    moments = sorted(row["time"] for row in times)
    seconds = (_epoch(moments[-1]) - _epoch(moments[0])) if len(moments) > 1 else 0.0
    return settled, seconds, run.stderr.count('"rotation_refused"')


def _epoch(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def rate() -> None:
    """Rotations under the documented limits against the ten POSTs a second that are allowed."""
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), 300, get=25, post=10) as config:
        settled, seconds, refused = rotations(config)
    reached = (settled - 1) / seconds
    print(f"rate: {settled} rotations, {reached:.2f}/s = {reached / 10:.1%} of the limit; refused: {refused}")


def pipeline() -> None:
    """The durable pipeline at 20 ms latency, limits lifted, against workers / latency of its three calls."""
    with tempfile.TemporaryDirectory() as folder, api(Path(folder), 3000, "--no-limits", "--latency", "0.02") as config:
        started = time.monotonic()
        settled, seconds, _ = rotations(config)
        whole = time.monotonic() - started
    limit = 16 / (0.02 * CALLS_PER_ROTATION)
    reached = (settled - 1) / seconds
    print(f"pipeline: {reached:.0f} rotations/s of {limit:.0f} = {reached / limit:.2f} ({settled} in {whole:.1f} s)")


MEASUREMENTS: dict[str, Callable[[], None]] = {
    "startup": startup,
    "memory": memory,
    "rate": rate,
    "pipeline": pipeline,
}

if __name__ == "__main__":
    for name in sys.argv[1:] or list(MEASUREMENTS):
        MEASUREMENTS[name]()
