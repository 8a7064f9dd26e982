"""`python -m rotator.sandbox`: serves until a signal; prints where, never the credential."""

import argparse
import json
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from rotator.sandbox.faults import Faults
from rotator.sandbox.server import Sandbox, SandboxConfig


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the sandbox until SIGINT or SIGTERM.

    Args:
        arguments: Of the command line; None for the process's own.

    Returns:
        The exit status.
    """
    options = _parser().parse_args(arguments)
    try:
        config = SandboxConfig(
            port=options.port,
            tokens=options.tokens,
            seed=options.seed,
            faults=_faults(options.faults, options.seed),
            latency_s=options.latency,
            limits=options.limits,
            life=None if options.life is None else timedelta(seconds=options.life),
        )
        return _serve(config, options.credential_file)
    except (ValueError, OSError) as problem:
        sys.stderr.write(f"sandbox: {problem}\n")
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m rotator.sandbox", description="A local Astro API.")
    parser.add_argument("--port", type=int, default=0, help="0 for any free one")
    parser.add_argument("--tokens", type=int, default=24, help="how many tokens the organization has")
    parser.add_argument("--seed", type=int, default=0, help="decides population and faults")
    parser.add_argument("--faults", default="none", metavar="none|default|FILE", help="what goes wrong")
    parser.add_argument("--latency", type=float, default=0.0, metavar="S", help="how long an answer takes, in seconds")
    parser.add_argument("--no-limits", dest="limits", action="store_false", help="without rate limits")
    parser.add_argument("--life", type=float, metavar="S", help="how long secrets live, in seconds")
    parser.add_argument("--credential-file", type=Path, help="where the owner's credential goes, with mode 0600")
    return parser


def _faults(chosen: str, seed: int) -> Faults:
    return Faults.preset(chosen, seed) if chosen in ("none", "default") else Faults.load(chosen)


def _serve(config: SandboxConfig, credential_file: Path | None) -> int:
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())
    with tempfile.TemporaryDirectory(prefix="rotator-sandbox-") as folder, Sandbox(config) as sandbox:
        path = credential_file or Path(folder) / "credential"
        _write_private(path, sandbox.credential)
        ready = {
            "url": sandbox.url,
            "organization_id": sandbox.organization_id,
            "credential_file": str(path.absolute()),
        }
        sys.stdout.write(json.dumps(ready) + "\n")
        sys.stdout.flush()
        while not stopped.wait(1.0):  # awake now and then: a handler runs in the main thread only while that is awake
            pass
    return 0


def _write_private(path: Path, secret: str) -> None:
    """Write a file that only its owner may read, also if it was there before with other rights."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        os.fchmod(descriptor, 0o600)
        file.write(secret)


if __name__ == "__main__":
    sys.exit(main())
