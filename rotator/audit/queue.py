"""The audit file as a durable queue: the lines after a number, in order, wherever log rotation has put them."""

import gzip
import os
import re
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import msgspec

from rotator.audit.chain import LONGEST, Head
from rotator.errors import Temporary

_GZIP = b"\x1f\x8b"
_NEAR = 1 << 16  # bytes; closer than this a line is looked for by reading on


class _Numbered(msgspec.Struct):
    seq: int
    hash: str
    prev_hash: str


@dataclass(frozen=True, slots=True)
class Waiting:
    """A line as it lies in the file.

    Attributes:
        before: The line that it follows.
        raw: With its end.
    """

    head: Head
    before: Head
    raw: bytes


class Queue:
    """Reads; takes nothing out.

    Args:
        path: The audit file. What log rotation made of it is found in the same folder, under names that begin like it
            and go on with digits, gzipped or not.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        name, stem, suffix = (re.escape(part) for part in (path.name, path.stem, path.suffix))
        self._turned = re.compile(rf"({name}[.-]\d[\w:.-]*|{stem}[.-]\d[\d._T-]*{suffix}(\.gz)?)")

    def following(self, seq: int, limit: int) -> Iterator[Waiting]:
        """Yield the lines with a number above `seq` and up to `limit`; those that are gone, or no lines, are left out.

        Raises:
            Temporary: A file cannot be read.
        """
        last = seq
        for path in self._in_order(seq + 1):
            for waiting in _lines(path, last + 1):
                if waiting.head.seq > limit:
                    return
                if waiting.head.seq > last:
                    last = waiting.head.seq
                    yield waiting

    def _in_order(self, wanted: int) -> list[Path]:
        """Return the files to read for a line and all after it."""
        if 0 < _first_seq(self._path) <= wanted:
            return [self._path]
        firsts = sorted(
            (first, not name.endswith(".gz"), path) for name, path in self._files() if (first := _first_seq(path))
        )
        # A file and what is being packed from it begin alike: of the two the last, which is whole, is the start.
        start = max((number for number, row in enumerate(firsts) if row[0] <= wanted), default=0)
        return [path for _, _, path in firsts[start:]]

    def _files(self) -> Iterator[tuple[str, Path]]:
        try:
            names = os.listdir(self._path.parent)
        except OSError as error:
            raise _unreadable(self._path.parent, error) from None
        for name in names:
            if name == self._path.name or self._turned.fullmatch(name):
                yield name, self._path.parent / name


def _first_seq(path: Path) -> int:
    """Return the number of a file's first line; 0 if there is none."""
    for waiting in _lines(path, 0):
        return waiting.head.seq
    return 0


def _lines(path: Path, wanted: int) -> Iterator[Waiting]:
    try:
        with path.open("rb") as stream, closing(_unpacked(stream, wanted)) as lines:
            while (raw := lines.readline(LONGEST)).endswith(b"\n"):
                with suppress(msgspec.MsgspecError, UnicodeDecodeError):
                    found = msgspec.json.decode(raw, type=_Numbered)
                    yield Waiting(Head(found.seq, found.hash), Head(found.seq - 1, found.prev_hash), raw)
    except (FileNotFoundError, EOFError, zlib.error, gzip.BadGzipFile):
        return  # rotated away, or packed, at this very moment
    except OSError as error:
        raise _unreadable(path, error) from None


def _unpacked(stream: IO[bytes], wanted: int) -> IO[bytes]:
    """Return the lines of a file from at most the wanted one on."""
    if stream.read(2) == _GZIP:
        stream.seek(0)
        return cast("IO[bytes]", gzip.GzipFile(fileobj=stream))
    low, high = 0, stream.seek(0, os.SEEK_END)
    while high - low > _NEAR:
        middle = (low + high) // 2
        stream.seek(middle)
        stream.readline(LONGEST)
        if _seq(stream.readline(LONGEST)) < wanted:
            low = middle
        else:
            high = middle
    stream.seek(low)
    if low:
        stream.readline(LONGEST)
    return stream


def _seq(raw: bytes) -> float:
    """Return a line's number; beyond all for what is none, so that the search goes on before it."""
    try:
        return msgspec.json.decode(raw, type=_Numbered).seq
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return float("inf")


def _unreadable(path: Path, error: OSError) -> Temporary:
    return Temporary(f"cannot read {path}: {error.strerror}")
