"""A disk that is full: before a sweep nothing begins; in its worst moment nothing is lost, and everything is said."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.engine.sweep import Report, sweep
from rotator.events import EventName
from rotator.model import Minted, NewToken, Outcome
from rotator.ports import Provider, TokenRef
from tests.cli.running import rotator
from tests.lab import Lab, lab, write_secret

SIZE = 16 << 20


class Disk:
    """A small file system of its own, which can be filled and emptied."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        with (self.folder / "filler").open("ab", buffering=0) as stream:
            with contextlib.suppress(OSError):
                while True:
                    os.write(stream.fileno(), b"\0" * (1 << 20))
            with contextlib.suppress(OSError):
                while True:
                    os.write(stream.fileno(), b"\0")
            os.truncate(stream.fileno(), os.fstat(stream.fileno()).st_size - left)

    def empty(self) -> None:
        """Make room again."""
        (self.folder / "filler").unlink(missing_ok=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mount a tmpfs; skipped where that is not allowed."""
    folder = tmp_path / "state"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here (root only): {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@contextlib.contextmanager
def bench_on(disk: Disk, tmp_path: Path, **settings: object) -> Iterator[Lab]:
    """A lab whose state lies on the disk and whose sinks do not."""
    with lab(tmp_path, **settings) as bench:  # type: ignore[arg-type]
        text = bench.config_path.read_text()
        bench.config_path.write_text(f'state_dir = "{disk.folder}"\n{text}')
        write_secret(disk.folder / "credential", (tmp_path / "credential").read_text())
        yield bench


class Filling:
    """A provider; right after its POST the disk is full."""

    def __init__(self, provider: Provider, disk: Disk) -> None:
        self._provider = provider
        self._disk = disk

    def __getattr__(self, name: str) -> object:
        return getattr(self._provider, name)

    def rotate(self, ref: TokenRef) -> Minted:
        """Rotate, and fill the disk before the answer can be written down."""
        minted = self._provider.rotate(ref)
        self._disk.fill()
        return minted

    def create(self, new: NewToken) -> Minted:
        """Create, and fill the disk before the answer can be written down."""
        minted = self._provider.create(new)
        self._disk.fill()
        return minted


def filled_after_the_post(bench: Lab, disk: Disk) -> Report:
    """Sweep on a disk that is full once a secret was minted."""
    with bench.app() as app:
        desk = replace(app.desks[0], provider=Filling(app.desks[0].provider, disk))  # type: ignore[arg-type]
        return sweep(desk, desk.policies, None, lambda _: True)


def only(bench: Lab, count: int = 1) -> list[str]:
    """Select this many of the due tokens."""
    chosen = bench.due_ids()[:count]
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace('names = ["svc-*"]', f"ids = {chosen}".replace("'", '"')))
    return chosen


def test_a_disk_that_fills_right_after_the_post_loses_nothing(disk: Disk, tmp_path: Path) -> None:
    """The secret is delivered from memory, loudly; the next sweep with space settles it without a second POST."""
    with bench_on(disk, tmp_path) as bench:
        token_id = only(bench)[0]
        report = filled_after_the_post(bench, disk)
        assert [result.outcome for result in report.results] == [Outcome.UNSETTLED]
        assert "no space" in report.results[0].message
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id
        assert EventName.JOURNAL_FAILED in {event.name for event in bench.events}
        disk.empty()
        assert bench.clock is not None
        bench.clock.jump(timedelta(minutes=3))
        assert [result.outcome for result in bench.sweep().results] == [Outcome.SETTLED]
        assert bench.sandbox.store.posts(token_id) == 1
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id
        with bench.app() as app:
            assert not app.reader.open_rotations("astro")
            assert app.reader.lineages("astro", [token_id])[token_id].settled_at is not None
        assert bench.sweep().results == []


def test_the_same_process_settles_it_once_there_is_space(disk: Disk, tmp_path: Path) -> None:
    """What could not be let go of while the disk was full is not held for ever by a process that lives on."""
    with bench_on(disk, tmp_path) as bench, bench.app() as app:
        token_id = only(bench)[0]
        desk = replace(app.desks[0], policies=bench.config.policies)
        filling = replace(desk, provider=Filling(desk.provider, disk))  # type: ignore[arg-type]
        assert [r.outcome for r in sweep(filling, desk.policies, None, lambda _: True).results] == [Outcome.UNSETTLED]
        disk.empty()
        assert bench.clock is not None
        bench.clock.jump(timedelta(minutes=3))
        assert [r.outcome for r in sweep(desk, desk.policies, None, lambda _: True).results] == [Outcome.SETTLED]
        assert bench.sandbox.store.posts(token_id) == 1


def test_many_at_once_on_a_disk_that_fills(disk: Disk, tmp_path: Path) -> None:
    """Whatever had its POST is delivered and alive; what had not is refused before; one more sweep ends it all."""
    with bench_on(disk, tmp_path, workers=2) as bench:
        due = only(bench, 3)
        filled_after_the_post(bench, disk)
        posted = [token_id for token_id in due if bench.sandbox.store.posts(token_id)]
        assert posted
        assert all(bench.sandbox.store.authenticates_as(bench.delivered(i) or "") == i for i in posted)
        disk.empty()
        assert bench.clock is not None
        bench.clock.jump(timedelta(minutes=3))
        bench.sweep()
        assert bench.sweep().results == []
        assert all(bench.sandbox.store.authenticates_as(bench.delivered(i) or "") == i for i in due)
        assert {bench.sandbox.store.posts(token_id) for token_id in due} == {1}


def test_a_disk_that_fills_after_a_twin_was_made_keeps_both_alive(disk: Disk, tmp_path: Path) -> None:
    """Overlap: the new secret is delivered, the old one lives, and the next sweeps end in a proven delivery."""
    with bench_on(disk, tmp_path) as bench:
        text = bench.config_path.read_text()
        overlap = '[policies.services]\nstrategy = "overlap"\n'
        bench.config_path.write_text(text.replace("[policies.services]\n", overlap))
        token_id = only(bench)[0]
        old = bench.sandbox.store.secret_of(token_id)
        filled_after_the_post(bench, disk)
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") not in (None, token_id)
        assert bench.sandbox.store.is_alive(old)
        disk.empty()
        assert bench.clock is not None
        for _ in range(3):
            bench.clock.jump(timedelta(minutes=3))
            bench.sweep()
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") not in (None, token_id)
        assert bench.sandbox.store.is_alive(old)
        twins = [token for token in bench.sandbox.store.tokens.values() if "[rotator " in token.description]
        assert len(twins) == 1  # the first one has ended, after the second had settled
        with bench.app() as app:
            assert not app.reader.open_rotations("astro")


@pytest.mark.parametrize(("left", "said"), [(0, "disk full"), (1 << 20, "less than 4 MiB are free for the journal")])
def test_a_disk_that_is_full_before_begins_nothing(disk: Disk, tmp_path: Path, left: int, said: str) -> None:
    """No POST, the reason in words, exit 1; with space again the same command does it."""
    with bench_on(disk, tmp_path, jumping=False) as bench:
        due = bench.due_ids()
        assert rotator(bench, "settle").returncode == 0
        disk.fill(left)
        run = rotator(bench, "sweep", "--json")
        assert run.returncode == 1
        assert "Traceback" not in run.stderr
        assert said in run.stdout + run.stderr
        assert not any(bench.sandbox.store.posts(token_id) for token_id in due)
        disk.empty()
        assert rotator(bench, "sweep").returncode == 0


def test_a_first_sweep_on_a_full_disk_says_so(disk: Disk, tmp_path: Path) -> None:
    """Neither journal nor key can be made: one sentence, no POST, and nothing half made stands in the way later."""
    with bench_on(disk, tmp_path, jumping=False) as bench:
        disk.fill()
        run = rotator(bench, "sweep", "--json")
        assert run.returncode in (1, 2)
        assert "Traceback" not in run.stderr
        assert not any(bench.sandbox.store.posts(token_id) for token_id in bench.due_ids())
        disk.empty()
        again = rotator(bench, "sweep")
        assert again.returncode == 0, again.stderr
