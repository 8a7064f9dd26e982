"""A process that really dies: the application as the command builds it, killed by `os._exit` at one step.

    python -m tests.proof.mortal CONFIG STEP

The dying wrapper stands around the real provider, sink and journal; nothing in the product knows of it. Without a STEP
it sweeps in peace and exits as `rotator sweep` does.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from rotator.app import opened
from rotator.cli.sweeping import exit_code
from rotator.config import load
from rotator.engine.sweep import sweep
from rotator.ports import Write

DIED = 77
STEPS = (
    "after the intent, before the POST",
    "after the effect of the POST",
    "after the mint, before its commit",
    "after the commit of the mint",
    "in the middle of delivering",
    "before settling",
)


class Dying:
    """A port that passes everything on, except where the process is to die.

    Args:
        port: The real one.
        before, after: By method: whether to die there, asked with the call's arguments.
    """

    def __init__(
        self,
        port: Any,
        before: dict[str, Callable[..., bool]] | None = None,
        after: dict[str, Callable[..., bool]] | None = None,
    ) -> None:
        self._port = port
        self._before = before or {}
        self._after = after or {}

    def __getattr__(self, name: str) -> Any:
        real = getattr(self._port, name)
        before, after = self._before.get(name), self._after.get(name)
        if before is None and after is None:
            return real

        def call(*arguments: Any, **named: Any) -> Any:
            if before is not None and before(*arguments):
                os._exit(DIED)
            answer = real(*arguments, **named)
            if after is not None and after(*arguments):
                os._exit(DIED)
            return answer

        return call


def _always(*_: object) -> bool:
    return True


def _mints(write: Write) -> bool:
    return write.secret is not None


def _settles(write: Write) -> bool:
    return write.rotation is not None and write.rotation.state == "settled"


def main(config: str, step: str) -> int:
    """Sweep, and die at the step."""
    with opened(load(Path(config)), "sweep", [], writing=True) as app:
        desk = app.desks[0]
        provider = {
            STEPS[0]: Dying(desk.provider, before={"rotate": _always}),
            STEPS[1]: Dying(desk.provider, after={"rotate": _always}),
        }.get(step, desk.provider)
        journal = {
            STEPS[2]: Dying(desk.journal, before={"write": _mints}),
            STEPS[3]: Dying(desk.journal, after={"write": _mints}),
            STEPS[5]: Dying(desk.journal, before={"write": _settles}),
        }.get(step, desk.journal)
        half = step == STEPS[4]
        sinks = {n: Dying(s, after={"deliver": _always}) if half else s for n, s in desk.sinks.items()}
        mortal = replace(desk, provider=provider, journal=journal, sinks=sinks)
        report = sweep(mortal, mortal.policies, None, lambda _: True)
        return exit_code(report.results, [report.plan])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""))
