"""Installs a distribution into a folder as an installer would: its modules, and the metadata with its entry points."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def install(folder: Path, distribution: str, sinks: Mapping[str, str], modules: Mapping[str, str]) -> None:
    """Put a distribution there.

    Args:
        folder: Of the path; `run` reads it.
        distribution: Its name.
        sinks: Entry points of `rotator.sinks`: name of a type to what it loads.
        modules: Name to source.
    """
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)
    metadata = folder / f"{distribution.replace('-', '_')}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    rows = "".join(f"{name} = {value}\n" for name, value in sinks.items())
    (metadata / "entry_points.txt").write_text(f"[rotator.sinks]\n{rows}")


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python with what is installed in a folder."""
    path = os.pathsep.join((str(folder), str(ROOT)))
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": path} | environment,
        timeout=240,
    )
