"""A thousand rotations over HTTP under an API that misbehaves, with tiny lifetimes and a clock that jumps."""

import json
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.events import EventName
from rotator.model import Outcome
from rotator.sandbox import Faults, SandboxConfig
from tests.lab import Lab, lab

ROTATIONS = 1000
TWINS = """
[policies.twins]
strategy = "overlap"
retire = "after_grace"
grace = "1h"
max_rotations = 10000
max_percent = 100
[policies.twins.select]
scopes = ["deployment"]
names = ["svc-*"]
[policies.twins.when]
max_age = "3h"
min_interval = "1h"
emergency = "1s"

[[policies.twins.deliver]]
sink = "files"
path = "{token_id}"
"""


def hurried(bench: Lab) -> None:
    """Let secrets live for three hours, in place and by overlap."""
    text = bench.config_path.read_text()
    tiny = 'max_age = "3h"\nmin_interval = "1h"\nemergency = "1s"'
    bench.config_path.write_text(text.replace('max_age = "90d"', tiny) + TWINS)


def lost(bench: Lab, roots: list[str]) -> list[str]:
    """Return the credentials whose file does not authenticate."""
    return [root for root in roots if not bench.sandbox.store.is_alive(bench.delivered(root) or "")]


def jump(bench: Lab, duration: timedelta) -> None:
    """Let time pass, but let late calls take effect first: a jump would make their second two hours."""
    assert bench.clock is not None
    while bench.sandbox.late_calls:
        time.sleep(0.01)
    bench.clock.jump(duration)


@pytest.mark.timeout(600)
def test_a_thousand_rotations_under_faults_all_settle(tmp_path: Path) -> None:
    """Every one settles, at the latest a few sweeps after the last; no POST goes unannounced, nothing is given up."""
    faulty = SandboxConfig(tokens=90, due_fraction=1.0, limits=False, faults=Faults.preset("default", seed=3))
    with lab(tmp_path, sandbox=faulty, workers=8, timeout="1s", scopes='"organization", "workspace"') as bench:
        hurried(bench)
        store = bench.sandbox.store
        roots = [token.id for token in store.tokens.values() if token.name.startswith("svc-")]
        names: Counter[EventName] = Counter()
        for _ in range(40):
            jump(bench, timedelta(hours=2))
            bench.sweep()
            names = Counter(event.name for event in bench.events)
            if names[EventName.ROTATION_SETTLED] >= ROTATIONS:
                break
        assert names[EventName.ROTATION_SETTLED] >= ROTATIONS
        for _ in range(8):
            jump(bench, timedelta(minutes=4))
            report = bench.sweep()
            if not lost(bench, roots) and not report.results:
                break
        named = {result.token_id for result in report.results if result.outcome is not Outcome.SETTLED}
        assert set(lost(bench, roots)) <= named
        assert names[EventName.TOKEN_QUARANTINED] == 0
        assert names[EventName.ROTATION_LOST] > 0  # the faults did strike
        assert {path.name for path in (tmp_path / "secrets").iterdir()} == set(roots)
        intents: Counter[str] = Counter()
        for line in (tmp_path / "audit.jsonl").read_text().splitlines():
            row = json.loads(line)
            if row["event"] == "rotation_intended":
                intents[row["token"]["id"]] += 1
        assert not [token_id for token_id in store.tokens if store.posts(token_id) > intents[token_id]]
