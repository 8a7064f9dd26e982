"""Audit files as streams of lines: plain, gzipped, or standard input; what log rotation left, in order.

Memory stays flat whatever the size. What is read is hashed on the way, so that a report can name its input.
"""

import fcntl
import gzip
import hashlib
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from rotator.audit.chain import LONGEST
from rotator.errors import ConfigError
from rotator.text import visible

STANDARD_INPUT = "-"
CUT_SHORT = b""  # what `lines` yields where compressed bytes end early or are damaged
_GZIP = b"\x1f\x8b"
_BUFFER = 1 << 18


@dataclass(eq=False)
class Source:
    """One file to read, once.

    Attributes:
        name: For people: as it was given.
        digest: SHA-256, in hex, of its bytes as they lie on the disk; empty until all were read.
    """

    name: str
    digest: str = ""
    _stream: "IO[bytes] | None" = None
    _raw: "_Hashing | None" = None
    _ahead: list[bytes] = field(default_factory=list)

    def peek(self) -> bytes:
        """Return the first line without taking it."""
        if not self._ahead:
            self._ahead = [self._next()]
        return self._ahead[0]

    def lines(self) -> Iterator[bytes]:
        """Yield the lines with their ends, a longer one than any of ours cut; `CUT_SHORT` for what cannot be unpacked.

        Raises:
            ConfigError: The file cannot be read.
        """
        ahead, self._ahead = self._ahead, []
        while raw := ahead.pop() if ahead else self._next():
            if raw is _DAMAGED:
                yield CUT_SHORT
                break
            yield raw
        self._drain()

    def _next(self) -> bytes:
        if self._stream is None:
            return b""
        try:
            return self._stream.readline(LONGEST)
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return _DAMAGED
        except OSError as error:
            raise _unreadable(self.name, error) from None

    def _drain(self) -> None:
        if self._raw is not None:
            while self._raw.read(_BUFFER):
                pass
            self.digest = self._raw.hexdigest()


_DAMAGED = b"\x00 damaged"


class _Hashing(io.RawIOBase):
    """Reads a file up to where it ended when it was opened, and hashes what it read."""

    def __init__(self, descriptor: int, size: int | None) -> None:
        self._descriptor = descriptor
        self._left = size
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        wanted = len(buffer) if self._left is None else min(len(buffer), self._left)
        chunk = os.read(self._descriptor, wanted) if wanted else b""
        buffer[: len(chunk)] = chunk
        if self._left is not None:
            self._left -= len(chunk)
        self._hash.update(chunk)
        return len(chunk)

    def hexdigest(self) -> str:
        """Return the hash of what was read."""
        return self._hash.hexdigest()


@contextmanager
def opened(name: str) -> Iterator[Source]:
    """Open a file, or standard input for `-`, as it is at this moment.

    Raises:
        ConfigError: It cannot be read.
    """
    shown = "standard input" if name == STANDARD_INPUT else visible(name, 4096)
    try:
        descriptor = os.dup(sys.stdin.fileno()) if name == STANDARD_INPUT else os.open(name, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(shown, error) from None
    try:
        raw = _Hashing(descriptor, _settled_size(descriptor))
        buffered = io.BufferedReader(raw, _BUFFER)
        try:
            is_packed = buffered.peek(2)[:2] == _GZIP
        except OSError as error:
            raise _unreadable(shown, error) from None
        stream = gzip.GzipFile(fileobj=buffered) if is_packed else buffered
        yield Source(shown, _stream=cast("IO[bytes]", stream), _raw=raw)
    finally:
        os.close(descriptor)


def _settled_size(descriptor: int) -> int | None:
    """Return the size between two appends, so that nobody takes half a line for a cut one; None if it is no file."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        return None
    with suppress(OSError):  # a file system without locks: then half a line may be seen
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        status = os.fstat(descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    return status.st_size


def _unreadable(shown: str, error: OSError) -> ConfigError:
    return ConfigError.of("", f"cannot read {shown}: {error.strerror}")


def relatives(path: Path) -> Sequence[Path]:
    """Return the audit file and what log rotation may have made of it in the same folder, in no order.

    `audit.jsonl` has `audit.jsonl.1`, `audit.jsonl-20260101.gz`, `audit-20260101.jsonl`, `audit.jsonl.2.gz`, ….
    """
    try:
        names = sorted(name for name in os.listdir(path.parent) if name.startswith(path.stem))
    except OSError:
        return ()
    return [found for name in names if (found := path.parent / name).is_file()]
