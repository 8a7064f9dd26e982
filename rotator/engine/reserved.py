"""What rotator itself lives on, and over which no secret of another token is written: its credentials.

`app` puts it together; a desk asks it before a secret goes anywhere.
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rotator.model import Place
from rotator.ports import OwnCredential

_FILE = "file:"


@dataclass(frozen=True, slots=True)
class Reserved:
    """What belongs to rotator itself.

    Attributes:
        credentials: Of every provider, each with its reference as a sink would say it of its place.
    """

    credentials: Sequence[OwnCredential] = ()

    def read_at(self, place: Place) -> list[OwnCredential]:
        """Return our credentials that are read from where a delivery would write."""
        said = _references(place)
        spots = _paths(place).union(*(_inode(path) for path in _named(place)))
        return [own for own in self.credentials if own.reference in said or _reads(own, spots)]


def _names(path: str) -> frozenset[str]:
    """Return what a file is called once links are followed; of one that is a link itself, also what that is called."""
    folder, name = os.path.split(os.path.abspath(path))
    text = os.path.join(os.path.realpath(folder), name)
    return frozenset({text, os.path.realpath(text)} if os.path.islink(text) else {text})


def _inode(path: str) -> frozenset[str]:
    """Return the file's number, for a mount may give it another name that no link shows."""
    try:
        status = os.stat(path)
    except OSError:
        return frozenset()
    return frozenset({f"{status.st_dev}:{status.st_ino}"})


def _paths(place: Place) -> frozenset[str]:
    """Return the files of this machine that a place writes to, perhaps with `#key` behind them."""
    parts = place.parts if place.store == "file" else ()
    return frozenset(parts).union(*(_names(path) for path in _named(place)))


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
    ours = _names(path) | _inode(path)
    return any(_is_under(spot, ours) for spot in spots)


def _is_under(path: str, ours: Iterable[str]) -> bool:
    """Whether a path is one of ours, a key in it, or in a folder that is."""
    return any(path == one or path.startswith((f"{one}#", f"{one}/")) for one in ours)
