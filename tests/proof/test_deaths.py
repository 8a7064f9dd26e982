"""Real processes that really die, over HTTP, SQLite and files: the imitation in `world` is checked against them."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import Lab, lab
from tests.proof.mortal import DIED, STEPS

LATE_WINDOW_S = 1.0


def run(bench: Lab, step: str = "") -> int:
    """Sweep in a process of its own, which dies at the step; return how it ended."""
    command = [sys.executable, "-m", "tests.proof.mortal", str(bench.config_path), *([step] if step else [])]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode in (0, 1, DIED), ended.stderr
    return ended.returncode


def intents(bench: Lab) -> int:
    """How many POSTs were announced."""
    lines = (bench.folder / "audit.jsonl").read_text().splitlines()
    return sum(json.loads(line)["event"] == "rotation_intended" for line in lines)


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_is_gone_at_a_step_loses_nothing(tmp_path: Path, step: str) -> None:
    """The next processes bring every due token's file to a secret that authenticates; each POST was announced."""
    with lab(tmp_path, jumping=False, late_window=f"{LATE_WINDOW_S:.0f}s") as bench:
        due = bench.due_ids()
        others = {i: t.jti for i, t in bench.sandbox.store.tokens.items() if i not in due}
        assert run(bench, step) == DIED
        run(bench)
        time.sleep(LATE_WINDOW_S)  # the only way for real processes to see time pass
        assert run(bench) == 0
        store = bench.sandbox.store
        assert [store.authenticates_as(bench.delivered(token_id) or "") for token_id in due] == due
        assert sum(store.posts(token_id) for token_id in due) <= intents(bench)
        assert {i: store.tokens[i].jti for i in others} == others
        marks = [store.secret_of(token_id).rpartition(".")[2].encode() for token_id in due]
        files = [path for path in tmp_path.rglob("*") if path.is_file() and path.parent.name != "secrets"]
        assert not [path for path in files for mark in marks if mark in path.read_bytes()]
