"""A set of token ids that costs about twelve bytes each: for listings of a million tokens.

`listing` asks it two things of every id: did this pass meet it already, and was it handed out already.
"""

from array import array

_EMPTY = 0
_TAKEN = 0x80  # the high bit of a stamp; the others say which pass met the id last
_LAST_PASS = 0x7F
_KEEP_TAKEN = bytes([stamp & _TAKEN for stamp in range(256)])
_FULLEST = 0.8  # beyond it, probing gets slow
_GROWTH = 1.5
_LARGEST_HINT = 1 << 22  # an API that lies about its size does not get more memory than this beforehand


class SeenIds:
    """Remembers ids by their 64-bit hash, in an open-addressing table.

    Python keys the hash anew in each process, so nobody can aim for a collision. One that happens by chance makes the
    listing's count fall short, which is loud; no token is silently left out.
    """

    def __init__(self) -> None:
        self._hashes = array("Q", bytes(8 * 1024))
        self._stamps = bytearray(1024)
        self._pass = 0
        self._count = 0
        self.in_pass = 0

    def __len__(self) -> int:
        return self._count

    @property
    def bytes_held(self) -> int:
        """How much memory the table takes."""
        return self._hashes.itemsize * len(self._hashes) + len(self._stamps)

    def begin_pass(self) -> None:
        """Count from zero again which ids are met; what was taken stays so."""
        self.in_pass = 0
        if self._pass == _LAST_PASS:
            self._stamps = self._stamps.translate(_KEEP_TAKEN)
            self._pass = 0
        self._pass += 1

    def expect(self, ids: int) -> None:
        """Make room for so many ids at once."""
        size = int(min(ids, _LARGEST_HINT) / _FULLEST) + 1
        if size > len(self._hashes):
            self._resize(size)

    def see(self, identifier: str, *, take: bool) -> bool:
        """Count an id in this pass, and take it if asked; return whether it is taken for the first time."""
        at = self._slot(hash(identifier) & 0xFFFFFFFFFFFFFFFF or 1)
        stamp = self._stamps[at]
        if stamp & _LAST_PASS != self._pass:
            self.in_pass += 1
        taken = stamp & _TAKEN
        self._stamps[at] = self._pass | (_TAKEN if take else taken)
        return take and not taken

    def _slot(self, mark: int) -> int:
        hashes = self._hashes
        size = len(hashes)
        at = mark % size
        while (held := hashes[at]) != mark:
            if held == _EMPTY:
                return self._added(mark, at)
            at = at + 1 if at + 1 < size else 0
        return at

    def _added(self, mark: int, at: int) -> int:
        if self._count >= len(self._hashes) * _FULLEST:
            self._resize(int(len(self._hashes) * _GROWTH))
            at = _free(self._hashes, mark)
        self._hashes[at] = mark
        self._count += 1
        return at

    def _resize(self, size: int) -> None:
        hashes, stamps = array("Q", bytes(8 * size)), bytearray(size)
        for mark, stamp in zip(self._hashes, self._stamps, strict=True):
            if mark != _EMPTY:
                at = _free(hashes, mark)
                hashes[at], stamps[at] = mark, stamp
        self._hashes, self._stamps = hashes, stamps


def _free(hashes: "array[int]", mark: int) -> int:
    size = len(hashes)
    at = mark % size
    while hashes[at] != _EMPTY:
        at = at + 1 if at + 1 < size else 0
    return at
