"""One secret in one file that a person named: proven before, written whole or not at all, 0600, ours alone.

The `file` sink writes what a policy says; this writes what `rotator tokens --to-file` says, with the same hands.
Nothing here follows a symbolic link in the place of the file.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rotator.errors import Permanent
from rotator.secret import Secret
from rotator.sinks import _folder
from rotator.sinks.file import keyed_kind

_MODE = 0o600


def prove(path: Path) -> None:
    """Show that the file can be written, without touching it.

    Raises:
        Temporary, Permanent: It cannot, or something else stands in its place.
    """
    with _folder.translated(str(path)), _opened(path) as (folder, existing):
        _folder.prove_writable(folder, existing, _MODE)
        if existing:
            _folder.prove_replaceable(folder, path.name, existing)


def write(path: Path, secret: Secret) -> None:
    """Put the secret, and nothing else, into the file.

    Raises:
        Temporary, Permanent: Not written.
        OutcomeUnknown: Written, but the disk does not confirm it.
    """
    with _folder.translated(str(path)), _opened(path) as (folder, existing):
        content = secret.encoded()
        _folder.replace(folder, path.name, content, _MODE, existing)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[int, _folder.Existing | None]]:
    """Yield the locked folder and what stands there now."""
    if not path.parent.is_dir():
        raise Permanent("its folder does not exist; create it first")
    with _folder.opened(path.parent, (), create=False) as folder:
        with suppress(BlockingIOError):  # somebody is writing there: they clear up themselves
            _folder.remove_leftovers(folder)
        _folder.lock(folder, alone=True)
        existing = _folder.read(folder, path.name)
        if existing is not None:
            _refuse(existing)
        yield folder, existing


def _refuse(existing: _folder.Existing) -> None:
    """Replace nothing but an older secret of ours; a new file would keep the owner of the old one."""
    if existing.status.st_uid != os.geteuid():
        raise Permanent("the file belongs to another user, who could read the secret; remove it, or name a new file")
    if kind := keyed_kind(existing.content):
        raise Permanent(f"it is {kind} file, which would be replaced whole; remove it, or name a new file")
