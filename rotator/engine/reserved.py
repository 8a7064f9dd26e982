"""What rotator itself lives on, and over which no secret of another token is written: its files, its credentials.

`app` puts it together; a desk asks it before a secret goes anywhere, and so does `rotator tokens --to-file`.
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rotator.model import Place
from rotator.ports import OwnCredential

Spot = tuple[int, int, str]  # device and number of a folder and a name in it; or of a file, and no name

_FILE = "file:"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What belongs to rotator itself.

    Attributes:
        files: What its own files are known by, see `spots_of`.
        audit: The audit file, so that also what log rotation makes of it is known; None for a stream.
        credentials: Of every provider, each with its reference as a sink would say it of its place.
    """

    files: frozenset[Spot] = frozenset()
    audit: Path | None = None
    credentials: Sequence[OwnCredential] = ()

    def has(self, place: Place) -> bool:
        """Whether a delivery would write to a file of ours, or into a folder of ours."""
        path = _file_of(place)
        return path != "" and self._has(path)

    def has_file(self, path: Path) -> bool:
        """Whether a file is ours, or a credential of ours is read from it."""
        spots = spots_of(path)
        return self._has(path) or any(_reads(own, spots) for own in self.credentials)

    def read_at(self, place: Place) -> list[OwnCredential]:
        """Return our credentials that are read from where a delivery would write."""
        said, path = _references(place), _file_of(place)
        spots = spots_of(path) if path else frozenset()
        return [own for own in self.credentials if own.reference in said or (spots and _reads(own, spots))]

    def _has(self, path: str | Path) -> bool:
        spots = spots_of(path)
        around = {(device, number, "") for device, number, _ in spots}
        if not self.files.isdisjoint(spots | around):
            return True
        return self.audit is not None and _is_rotated(path, self.audit)


def spots_of(path: str | Path) -> frozenset[Spot]:
    """Return what a file is known by, whatever links and mounts lead to it: its name in its folder, and itself."""
    folder, name = os.path.split(os.path.abspath(path))
    found = set()
    for named, status in ((name, _status(folder)), ("", _status(path))):
        if status is not None:
            found.add((status.st_dev, status.st_ino, named))
    return frozenset(found)


def _status(path: str | Path) -> os.stat_result | None:
    try:
        return os.stat(path)
    except OSError:
        return None


def _file_of(place: Place) -> str:
    """Return the file of this machine that a place writes to, empty if it writes to none."""
    if place.reference.startswith(_FILE):
        return place.reference.removeprefix(_FILE)
    if place.store != "file":
        return ""
    return place.location.rpartition("#")[0] or place.location


def _references(place: Place) -> set[str]:
    """Return every reference that reads what a place writes: each key of it has one."""
    base, hash_, _ = place.reference.partition("#")
    return {place.reference, *(f"{base}#{part.partition('#')[2]}" for part in place.parts if hash_)} - {""}


def _reads(own: OwnCredential, spots: frozenset[Spot]) -> bool:
    return own.reference.startswith(_FILE) and not spots.isdisjoint(spots_of(own.reference.removeprefix(_FILE)))


def _is_rotated(path: str | Path, audit: Path) -> bool:
    """Whether log rotation names a file so: `audit.jsonl.1`, `audit-20260101.jsonl`, `audit.jsonl.2.gz`, …."""
    folder, name = os.path.split(os.path.abspath(path))
    stem, suffix = re.escape(audit.stem), re.escape(audit.suffix)
    number = r"([.-]\d[\dT._:-]*)?"
    is_named = re.fullmatch(rf"{stem}{number}{suffix}{number}(\.(gz|bz2|xz|zst|lz4))?", name) is not None
    ours, theirs = (_status(one) for one in (audit.parent, folder)) if is_named else (None, None)
    return ours is not None and theirs is not None and os.path.samestat(ours, theirs)
