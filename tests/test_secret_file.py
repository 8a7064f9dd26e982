"""A secret in a file that a person named."""

import os
import stat
from pathlib import Path

import pytest

from rotator import secret_file
from rotator.errors import Permanent
from rotator.secret import Secret

CANARY = "canary-5f3c1e77-plaintext"


def test_the_file_holds_the_secret_and_nothing_else(tmp_path: Path) -> None:
    """0600 whatever it was before; proving leaves everything as it was; no temporary file stays."""
    path = tmp_path / "secret"
    for before in (None, "an older one\n"):
        if before is not None:
            path.write_text(before)
            path.chmod(0o644)
        secret_file.prove(path)
        assert (path.read_text() if path.exists() else None) == before
        secret_file.write(path, Secret(CANARY))
        assert path.read_text() == CANARY
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def a_folder(path: Path) -> None:
    path.mkdir()


def a_link(path: Path) -> None:
    (path.parent / "real").write_text("x")
    path.symlink_to(path.parent / "real")


def a_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def an_env_file(path: Path) -> None:
    path.write_text("A=1\nB=2\n")


def a_json_file(path: Path) -> None:
    path.write_text('{"a": 1}')


@pytest.mark.parametrize("thing", [a_folder, a_link, a_dangling_link, a_pipe, an_env_file, a_json_file])
def test_what_is_not_a_plain_secret_is_left_alone(tmp_path: Path, thing: object) -> None:
    """Folder, link, pipe, a file with keys: refused by proof and by write, with the path, and untouched."""
    path = tmp_path / "secret"
    thing(path)  # type: ignore[operator]
    before = os.lstat(path)
    for act in (lambda: secret_file.prove(path), lambda: secret_file.write(path, Secret(CANARY))):
        with pytest.raises(Permanent, match=str(path)) as caught:
            act()
        assert CANARY not in str(caught.value)
    after = os.lstat(path)
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """Nothing is created on the way: a typing error must not make folders."""
    with pytest.raises(Permanent, match="folder does not exist"):
        secret_file.prove(tmp_path / "no" / "secret")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a file away needs root")
def test_another_users_file_is_refused(tmp_path: Path) -> None:
    """Its owner, who may have put it there on purpose, would be able to read the secret."""
    path = tmp_path / "secret"
    path.write_text("x")
    os.chown(path, 65534, 65534)
    with pytest.raises(Permanent, match="another user"):
        secret_file.prove(path)
