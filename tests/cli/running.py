"""Runs a command as users do: a process of its own, no terminal."""

import json
import os
import subprocess
import sys
from typing import Any

from tests.lab import Lab


def rotator(bench: Lab, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the bench's config."""
    return subprocess.run(
        [sys.executable, "-m", "rotator", *arguments, "--config", str(bench.config_path)],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        timeout=120,
    )


def told(bench: Lab, *arguments: str) -> Any:
    """Run a command with --json that must succeed, and return what it said."""
    run = rotator(bench, *arguments, "--json")
    assert run.returncode == 0, run.stderr
    return json.loads(run.stdout)
