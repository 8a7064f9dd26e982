"""A config file that changes, as editors, config management and Kubernetes change it."""

import hashlib
import os
from pathlib import Path

from rotator.daemon.watching import Watched


def watched(path: Path) -> Watched:
    """Return a watch whose content is in force."""
    return Watched(path, hashlib.sha256(path.read_bytes()).hexdigest())


def changes(watch: Watched, looks: int = 4) -> int:
    """How many of the next looks find a change."""
    return sum(watch.has_changed() for _ in range(looks))


def test_written_in_place(tmp_path: Path) -> None:
    """A change is found once, and only once it has stood still between two looks."""
    path = tmp_path / "rotator.toml"
    path.write_text("a")
    watch = watched(path)
    assert changes(watch) == 0
    path.write_text("")  # an editor has cut the file and not written yet
    assert not watch.has_changed()
    path.write_text("b")
    assert not watch.has_changed()
    assert watch.has_changed()
    assert changes(watch) == 0


def test_renamed_over_and_missing_for_a_moment(tmp_path: Path) -> None:
    """Atomic writers replace the file; without one for a moment nothing happens."""
    path, new = tmp_path / "rotator.toml", tmp_path / "new"
    path.write_text("a")
    watch = watched(path)
    path.unlink()
    assert changes(watch) == 0
    new.write_text("b")
    new.rename(path)
    assert changes(watch) == 1


def test_a_config_map_swap(tmp_path: Path) -> None:
    """Kubernetes points `..data` to another folder; the file's own symlink stays as it was."""
    for name in ("..1", "..2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rotator.toml").write_text(name)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "rotator.toml"
    path.symlink_to("..data/rotator.toml")
    watch = watched(path)
    (tmp_path / "..data_tmp").symlink_to("..2")
    os.replace(tmp_path / "..data_tmp", tmp_path / "..data")
    assert changes(watch) == 1


def test_changed_back_is_no_news(tmp_path: Path) -> None:
    """What was tried last is not tried again until it differs."""
    path = tmp_path / "rotator.toml"
    path.write_text("a")
    watch = watched(path)
    path.write_text("broken")
    assert changes(watch) == 1
    path.write_text("a")
    assert changes(watch) == 1
