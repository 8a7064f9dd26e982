"""The chain across log rotation, restarts and damage: what a walk over all the files finds."""

import gzip
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from rotator.audit import GENESIS, AuditFile, Author, verify
from rotator.audit.chain import line_hash, written
from rotator.errors import ConfigError
from tests.audit.trail import event, journal, say

LOGROTATE = shutil.which("logrotate") or shutil.which("logrotate", path="/usr/sbin")
STYLES = {
    "rename": "rotate 9\n",
    "create": "rotate 9\ncreate 0600\n",
    "compressed": "rotate 9\ncompress\n",
    "delayed": "rotate 9\ncompress\ndelaycompress\n",
    "copytruncate": "rotate 9\ncopytruncate\n",
    "copytruncate-compressed": "rotate 9\ncopytruncate\ncompress\n",
    "dated": "rotate 9\ndateext\ndateformat -%Y%m%d-%s\n",
}


def turned(folder: Path, style: str) -> None:
    """Run the real logrotate over the audit file."""
    if LOGROTATE is None:
        assert not os.environ.get("ROTATOR_REQUIRE_SERVERS"), "logrotate is not installed"
        pytest.skip("logrotate is not installed")
    config = folder / "logrotate.conf"
    config.write_text(f"{folder / 'audit.jsonl'} {{\n{STYLES[style]}missingok\n}}\n")
    config.chmod(0o600)
    subprocess.run([LOGROTATE, "-f", "-s", str(folder / "state"), str(config)], check=True, capture_output=True)


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("audit.jsonl*"))


@pytest.mark.parametrize("style", STYLES)
def test_the_chain_goes_on_through_logrotate_without_a_signal(tmp_path: Path, style: str) -> None:
    """One process writes on while logrotate turns the file, and a restart too: all files together are one chain."""
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    with journal(folder) as opened:
        say(opened, 1, 3)
        turned(folder, style)
        say(opened, 4, 3)
    with journal(folder, "run") as opened:
        say(opened, 7)
        if style != "dated":  # its names change by the second
            turned(folder, style)
        say(opened, 8)
        anchor = opened.audit_head()
    found = verify(*reversed(parts(folder)), anchor=anchor)
    assert (found.lines, found.bad_line, found.first_seq, found.anchored) == (8, None, 1, True), found
    assert len(parts(folder)) == (2 if style == "dated" else 3)
    newest = verify(folder / "audit.jsonl", anchor=anchor)
    assert (newest.bad_line, newest.first_seq > 1) == (None, True)


def test_lines_lost_between_copy_and_truncate_are_found(tmp_path: Path) -> None:
    """What copytruncate loses is a gap between two files, named by its numbers."""
    path = tmp_path / "audit.jsonl"
    with journal(tmp_path) as opened:
        say(opened, 1, 3)
        shutil.copy(path, tmp_path / "audit.jsonl.1")
        say(opened, 4, 2)
        os.truncate(path, 0)
        say(opened, 6)
    found = verify(*parts(tmp_path))
    assert found.problem == "it does not follow line seq 3: lines seq 4 to 5 are missing"
    assert (found.bad_file, found.bad_line) == (str(path), 1)


def test_a_cut_tail_is_not_papered_over_by_the_next_line(tmp_path: Path) -> None:
    """After a cut the chain goes on from the journal's head: the numbers are missing for ever, and a line says so."""
    path = tmp_path / "audit.jsonl"
    with journal(tmp_path) as opened:
        say(opened, 1, 5)
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
        say(opened, 6)
        anchor = opened.audit_head()
    found = verify(path, anchor=anchor)
    assert (found.lines, found.problem) == (2, "it does not follow line seq 2: lines seq 3 to 5 are missing")
    said = [json.loads(line) for line in path.read_text().splitlines()]
    assert [line["event"] for line in said[2:]] == ["audit_lines_missing", "token_rotated"]
    assert "ended at line seq 2, the journal remembers 5" in said[2]["message"]


def test_a_file_of_the_same_size_with_another_end_forks_nothing(tmp_path: Path) -> None:
    """Another process, and copytruncate, may bring the file back to the size we knew; the journal's head decides."""
    path = tmp_path / "audit.jsonl"
    with journal(tmp_path, "sweep") as first, journal(tmp_path, "other") as second:
        say(first, 1)
        size = path.stat().st_size
        shutil.copy(path, tmp_path / "audit.jsonl.1")
        os.truncate(path, 0)
        say(second, 2)
        assert path.stat().st_size == size
        say(first, 3)
    found = verify(*parts(tmp_path))
    assert (found.head.seq, found.bad_line) == (3, None), found


def test_a_crash_before_the_commit_leaves_a_line_that_the_chain_keeps(tmp_path: Path) -> None:
    """A line that was written and never committed stays: the next one follows it, not the journal's older head."""
    path = tmp_path / "audit.jsonl"
    with journal(tmp_path) as opened:
        say(opened, 1, 2)
        head = opened.audit_head()
        AuditFile(path, Author("dies", "i9")).append([event(3)], head, durable=True)
        say(opened, 4)
        anchor = opened.audit_head()
    assert (verify(path, anchor=anchor).lines, verify(path).bad_line) == (4, None)


def test_writers_and_a_rotation_at_once_make_one_chain(tmp_path: Path) -> None:
    """Two processes' journals write while the file is renamed again and again: nothing forks, nothing is lost."""
    done = threading.Event()

    def turn() -> None:
        number = 0
        while not done.wait(0.003):
            number += 1
            if (tmp_path / "audit.jsonl").exists():
                os.rename(tmp_path / "audit.jsonl", tmp_path / f"audit.jsonl.{number:04}")

    turning = threading.Thread(target=turn)
    with journal(tmp_path) as first, journal(tmp_path, "run") as second:
        threads = [threading.Thread(target=say, args=(opened, 1, 150)) for opened in (first, second)]
        turning.start()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        done.set()
        turning.join()
        anchor = first.audit_head()
    found = verify(*parts(tmp_path), anchor=anchor)
    assert (found.lines, found.bad_line, found.anchored) == (300, None, True), found
    assert len(parts(tmp_path)) > 3


def damaged_gzip(path: Path) -> Path:
    packed = path.with_name("audit.jsonl.1.gz")
    whole = gzip.compress(path.read_bytes())
    packed.write_bytes(whole[: len(whole) // 2])
    return packed


def rewritten(path: Path) -> Path:
    """Rewrite the whole chain so that it is whole again, as only the journal's head can tell."""
    prev, out = GENESIS, b""
    for raw in path.read_text().splitlines():
        record = json.loads(raw.replace("m2", "mX")) | {"prev_hash": prev}
        record.pop("hash")
        prev = line_hash(prev, record)
        out += written({**record, "hash": prev})
    path.write_bytes(out)
    return path


def doubled_name(path: Path) -> Path:
    """A name twice: the hash covers the last, and a reader sees the first."""
    path.write_text(path.read_text().replace('"event":', '"event":"token_deleted","event":', 1))
    return path


def endless(path: Path) -> Path:
    path.write_bytes(path.read_bytes() + b"x" * (3 << 20))
    return path


def nested(path: Path) -> Path:
    path.write_bytes(path.read_bytes() + b"[" * 200_000 + b"\n")
    return path


@pytest.mark.parametrize(
    ("damage", "line", "problem"),
    [
        (damaged_gzip, None, "cannot be unpacked"),
        (rewritten, 5, "the journal remembers another line"),
        (doubled_name, 1, "no audit line"),
        (endless, 6, "no audit line"),
        (nested, 6, "no audit line"),
    ],
)
def test_damage_is_named(tmp_path: Path, damage: Callable[[Path], Path], line: int | None, problem: str) -> None:
    """What no chain alone shows is found too, and nothing hostile in a file ends in a crash."""
    with journal(tmp_path) as opened:
        say(opened, 1, 5)
        anchor = opened.audit_head()
    found = verify(damage(tmp_path / "audit.jsonl"), anchor=anchor)
    assert problem in found.problem
    assert found.bad_line == line or line is None


def command(*arguments: str, standard_input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "rotator", "audit", *arguments], capture_output=True, check=False, input=standard_input
    )


def test_the_command_line_takes_files_in_any_order_and_standard_input(tmp_path: Path) -> None:
    """0 for a whole chain, 1 for a broken one with file and line, 2 for what cannot be read."""
    path, older = tmp_path / "audit.jsonl", tmp_path / "audit.jsonl.1.gz"
    with journal(tmp_path) as opened:
        say(opened, 1, 3)
        older.write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
        say(opened, 4, 3)
    good = command("verify", str(path), str(older))
    assert (good.returncode, b"6 lines, the chain is whole; it ends at seq 6" in good.stdout) == (0, True), good
    alone = command("verify", "-", standard_input=older.read_bytes())
    assert (alone.returncode, b"3 lines" in alone.stdout) == (0, True), alone
    newest = command("verify", str(path))
    assert b"continuing from line seq 3 of an earlier file that was not given" in newest.stdout
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], lines[1].replace("m5", "m6"), lines[2]]))
    bad = command("verify", str(older), str(path))
    assert (bad.returncode, f"BROKEN at {path}, line 2: it was edited".encode() in bad.stdout) == (1, True), bad
    missing = command("verify", str(tmp_path / "none"))
    assert (missing.returncode, missing.stdout) == (2, b"")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    """What cannot be read is said in a sentence."""
    with pytest.raises(ConfigError, match="cannot read"):
        verify(tmp_path)


def test_memory_stays_flat(tmp_path: Path) -> None:
    """A file of forty megabytes is walked in a few megabytes of memory."""
    path, head = tmp_path / "audit.jsonl", None
    trail = AuditFile(path, Author("sweep", "i1"))
    for _ in range(10):
        head = trail.append([event(n, "x" * 100) for n in range(10_000)], head, durable=False)
    code = (
        "import resource, sys; from rotator.audit import verify;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "found = verify(sys.argv[1]);"
        "print(found.lines, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    lines, grown_kib = map(int, ran.stdout.split())
    assert lines == 100_000
    assert path.stat().st_size > 30 << 20
    assert grown_kib < 8192
