"""The audit trail beside the engine: proven without rotator, on a full disk, on the daemon's standard output."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rotator.audit import verify
from rotator.audit.chain import line_hash, written
from rotator.cli.audit import verdict
from tests.audit.trail import journal, say
from tests.cli.running import rotator
from tests.lab import Lab, lab

BY_HAND = Path(__file__).parent / "by_hand.py"


def by_hand(*files: Path) -> subprocess.CompletedProcess[str]:
    """Run the recipe of the README in a Python that knows nothing of rotator."""
    command = [sys.executable, "-I", str(BY_HAND), *map(str, files)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_fifteen_lines_without_rotator_prove_the_chain(tmp_path: Path) -> None:
    """The recipe agrees with `audit verify` on whole chains, over rotated files, and names the same bad line."""
    path, older = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1"
    with journal(tmp_path) as opened:
        say(opened, 1, 4)
        path.rename(older)
        say(opened, 5, 4)
    head = verify(older, path).head
    packed = tmp_path / "audit.jsonl.1.gz"
    packed.write_bytes(gzip.compress(older.read_bytes()))
    good = by_hand(packed, path)
    assert (good.returncode, good.stdout) == (0, f"the chain is whole; its last line is {(head.seq, head.hash)}\n")
    lines = path.read_text().splitlines(keepends=True)
    for damaged, said in (
        ([lines[0], lines[1].replace("svc", "svd"), *lines[2:]], "line 2 was edited"),
        ([lines[0], *lines[2:]], "line 2 does not follow"),
        ([lines[1], lines[0], *lines[2:]], "line 1 does not follow"),
        (lines[1:], "line 1 does not follow"),
    ):
        path.write_text("".join(damaged))
        bad = by_hand(older, path)
        assert (bad.returncode, f"{path}, {said}" in bad.stderr) == (1, True), bad.stderr
        assert f"line {verify(older, path).bad_line} " in bad.stderr


def posts(bench: Lab) -> list[object]:
    """When each token was last rotated."""
    return [token.last_rotated_at for token in bench.sandbox.store.tokens.values()]


@pytest.mark.parametrize("audit", ["/dev/full", "missing-folder/audit.jsonl", "/proc/audit.jsonl"])
def test_an_audit_that_cannot_be_written_stops_every_rotation_before_it_happens(tmp_path: Path, audit: str) -> None:
    """A full device, a folder that is not there or cannot be written: nothing is rotated, and the exit code says it."""
    with lab(tmp_path, jumping=False) as bench:
        bench.config_path.write_text(f'{bench.config_path.read_text()}\n[audit]\npath = "{audit}"\n')
        before = posts(bench)
        ran = rotator(bench, "sweep", "--yes", "--json")
        assert bench.due_ids()
        assert ran.returncode != 0, ran.stdout
        assert posts(bench) == before
        assert "audit" in ran.stderr + ran.stdout
        assert json.loads(ran.stdout)["settled"] == []


DAEMON = """
import sys
from pathlib import Path
from rotator.app import DAEMON, opened
from rotator.config import load
from rotator.engine.sweep import sweep
with opened(load(Path(sys.argv[1])), sys.argv[2], [], writing=True) as app:
    for desk in app.desks:
        report = sweep(desk, desk.policies, None, lambda _: True)
        print(*{str(result.outcome) for result in report.results}, file=sys.stderr)
"""


@pytest.mark.parametrize("actor", ["run", "sweep"])
def test_the_stream_is_the_daemons_standard_output_and_nobody_elses(tmp_path: Path, actor: str) -> None:
    """`path = "-"`: lines on standard output under run, else on standard error; verify takes them from a pipe."""
    with lab(tmp_path, jumping=False) as bench:
        bench.config_path.write_text(f'{bench.config_path.read_text()}\n[audit]\npath = "-"\n')
        command = [sys.executable, "-c", DAEMON, str(bench.config_path), actor]
        ran = subprocess.run(command, capture_output=True, text=True, check=True)
        lines, other = (ran.stdout, ran.stderr) if actor == "run" else (ran.stderr, ran.stdout)
        assert '"event":"rotation_settled"' in lines
        assert '"event"' not in other
        if actor == "run":
            proven = subprocess.run(
                [sys.executable, "-m", "rotator", "audit", "verify", "-", "--config", str(bench.config_path)],
                input=ran.stdout, capture_output=True, text=True, check=False,
            )  # fmt: skip
            assert (proven.returncode, "its tail is complete" in proven.stdout) == (0, True), proven


def test_a_full_standard_output_stops_the_daemons_rotations(tmp_path: Path) -> None:
    """The stream is an audit like the file: what cannot be announced is not done."""
    with lab(tmp_path, jumping=False) as bench:
        bench.config_path.write_text(f'{bench.config_path.read_text()}\n[audit]\npath = "-"\n')
        before = posts(bench)
        command = [sys.executable, "-c", DAEMON, str(bench.config_path), "run"]
        with Path("/dev/full").open("w") as full:
            ran = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, env=os.environ)
        assert posts(bench) == before
        assert "settled" not in ran.stderr


def test_lines_that_the_journal_never_saw_are_named(tmp_path: Path) -> None:
    """Who may write the file can chain lines of his own behind the last one: with the journal at hand that is said."""
    with journal(tmp_path) as opened:
        say(opened, 1, 5)
        anchor = opened.audit_head()
    path = tmp_path / "audit.jsonl"
    last = json.loads(path.read_text().splitlines()[-1])
    forged = {key: value for key, value in last.items() if key != "hash"} | {"seq": 6, "prev_hash": last["hash"]}
    with path.open("ab") as file:
        file.write(written({**forged, "hash": line_hash(last["hash"], forged)}))
    is_whole, said = verdict(verify(path, anchor=anchor), anchor)
    assert is_whole
    assert "NOTHING VOUCHES for the last 1 lines" in said
