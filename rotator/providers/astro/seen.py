"""A set of ids that costs sixteen bytes each at most: for listings of a million tokens."""

from array import array

_EMPTY = 0


class SeenIds:
    """Remembers which ids came already, by their 64-bit hash (keyed by Python, so nobody can aim for a collision)."""

    def __init__(self) -> None:
        self._slots = array("Q", bytes(8 * 1024))
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, identifier: str) -> bool:
        """Remember an id; return whether it is new."""
        if self._count * 3 >= len(self._slots) * 2:
            self._grow()
        if not self._put(hash(identifier) & 0xFFFFFFFFFFFFFFFF or 1):
            return False
        self._count += 1
        return True

    def _put(self, mark: int) -> bool:
        slots, mask = self._slots, len(self._slots) - 1
        at = mark & mask
        while slots[at] != _EMPTY:
            if slots[at] == mark:
                return False
            at = (at + 1) & mask
        slots[at] = mark
        return True

    def _grow(self) -> None:
        old = self._slots
        self._slots = array("Q", bytes(8 * len(old) * 2))
        for mark in old:
            if mark != _EMPTY:
                self._put(mark)
