"""What is imported when: probes and idle sweeps must stay cheap."""

import subprocess
import sys
from pathlib import Path

from tests.lab import lab

HEAVY = {"boto3", "botocore", "hvac", "apscheduler", "prometheus_client", "uvicorn", "sqlalchemy", "requests", "jinja2"}
UNNEEDED = HEAVY | {"rich", "pygments", "structlog", "rfc8785"}
IDLE_SWEEP = ["-X", "importtime", "-m", "rotator", "sweep", "--yes", "--json", "--config"]


def imported(stderr: str) -> set[str]:
    """Return the top-level packages that `-X importtime` lists."""
    rows = [line.rsplit("|", 1)[1].strip() for line in stderr.splitlines() if line.startswith("import time:")]
    return {row.split(".")[0] for row in rows}


def test_the_version_needs_nothing(tmp_path: Path) -> None:
    """`rotator --version` imports neither click nor any other package."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "rotator", "--version"], capture_output=True, text=True, check=True
    )
    assert run.stdout.startswith("rotator ")
    assert not imported(run.stderr) & (HEAVY | {"click", "pydantic", "httpx", "structlog", "rich", "msgspec"})


def test_a_sweep_with_nothing_due_imports_no_heavy_package(tmp_path: Path) -> None:
    """An idle sweep without a terminal leaves the SDKs, the scheduler, the metrics library and the tables alone."""
    with lab(tmp_path, jumping=False) as bench:
        bench.sweep()
        run = subprocess.run(
            [sys.executable, *IDLE_SWEEP, str(bench.config_path)], capture_output=True, text=True, check=False
        )
    assert run.returncode == 0, run.stderr
    assert '"due": []' in run.stdout
    assert not imported(run.stderr) & UNNEEDED
