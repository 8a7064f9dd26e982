"""What rotator itself lives on, and over which no secret of another token is written: its files, its credentials.

`app` puts it together; a desk asks it before a secret goes anywhere, and so does `rotator tokens --to-file`.
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rotator.model import Place
from rotator.ports import OwnCredential

_FILE = "file:"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What belongs to rotator itself.

    Attributes:
        files: Every name of its own files, as `names` gives them.
        audit: The audit file, so that also what log rotation makes of it is known; None for a stream.
        credentials: Of every provider, each with its reference as a sink would say it of its place.
    """

    files: frozenset[str] = frozenset()
    audit: Path | None = None
    credentials: Sequence[OwnCredential] = ()

    def has(self, place: Place) -> bool:
        """Whether a delivery would write to a file of ours."""
        return any(self._has(path) for path in _paths(place))

    def has_file(self, path: Path) -> bool:
        """Whether a file is ours, or a credential of ours is read from it."""
        spots = names(path) | _inode(path)
        return any(self._has(name) for name in names(path)) or any(_reads(own, spots) for own in self.credentials)

    def read_at(self, place: Place) -> list[OwnCredential]:
        """Return our credentials that are read from where a delivery would write."""
        said = _references(place)
        spots = _paths(place).union(*(_inode(path) for path in _named(place)))
        return [own for own in self.credentials if own.reference in said or _reads(own, spots)]

    def _has(self, path: str) -> bool:
        if _is_under(path, self.files):
            return True
        return self.audit is not None and _is_rotated(path, self.audit)


def names(path: str | Path) -> frozenset[str]:
    """Return what a file is called once links are followed; of one that is a link itself, also what that is called."""
    folder, name = os.path.split(os.path.abspath(path))
    text = os.path.join(os.path.realpath(folder), name)
    return frozenset({text, os.path.realpath(text)} if os.path.islink(text) else {text})


def _inode(path: str | Path) -> frozenset[str]:
    """Return the file's number, for a mount may give it another name that no link shows."""
    try:
        status = os.stat(path)
    except OSError:
        return frozenset()
    return frozenset({f"{status.st_dev}:{status.st_ino}"})


def _paths(place: Place) -> frozenset[str]:
    """Return the files of this machine that a place writes to, perhaps with `#key` behind them."""
    parts = place.parts if place.store == "file" else ()
    return frozenset(parts).union(*(names(path) for path in _named(place)))


def _named(place: Place) -> set[str]:
    said = {place.location} if place.store == "file" else set()
    return said | {place.reference.removeprefix(_FILE)} if place.reference.startswith(_FILE) else said


def _references(place: Place) -> set[str]:
    """Return every reference that reads what a place writes: each key of it has one."""
    base, hash_, _ = place.reference.partition("#")
    return {place.reference, *(f"{base}#{part.partition('#')[2]}" for part in place.parts if hash_)} - {""}


def _reads(own: OwnCredential, spots: Iterable[str]) -> bool:
    if not own.reference.startswith(_FILE):
        return False
    path = own.reference.removeprefix(_FILE)
    ours = names(path) | _inode(path)
    return any(_is_under(spot, ours) for spot in spots)


def _is_under(path: str, ours: Iterable[str]) -> bool:
    """Whether a path is one of ours, a key in it, or in a folder that is."""
    return any(path == one or path.startswith((f"{one}#", f"{one}/")) for one in ours)


def _is_rotated(path: str, audit: Path) -> bool:
    """Whether log rotation names a file so: `audit.jsonl.1`, `audit-20260101.jsonl`, `audit.jsonl.2.gz`, …."""
    folder, _, name = path.partition("#")[0].rpartition("/")
    stem, suffix = re.escape(audit.stem), re.escape(audit.suffix)
    number = r"([.-]\d[\dT._:-]*)?"
    is_named = re.fullmatch(rf"{stem}{number}{suffix}{number}(\.(gz|bz2|xz|zst|lz4))?", name) is not None
    return is_named and folder == os.path.realpath(audit.parent)
