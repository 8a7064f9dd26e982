"""Locks between processes: one for commits and checkpoints, one that shows that an instance is alive.

`flock` frees itself when a process dies, also by kill -9, so no lock here needs a clock or a timeout to become stale.
"""

import fcntl
import os
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rotator.errors import ConfigError, Temporary

_FUSE = frozenset(
    f"fuse.{name}"
    for name in ("ceph-fuse", "gcsfuse", "glusterfs", "goofys", "juicefs", "mfs", "rclone", "s3fs", "sshfs")
)
_NETWORK = _FUSE | {
    "9p",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "glusterfs",
    "gpfs",
    "lustre",
    "nfs",
    "nfs4",
    "smb3",
    "smbfs",
}
_POLL_S = 0.005


class FileLock:
    """An exclusive lock between threads and processes.

    Args:
        path: Created 0600 if missing, never removed.
        patience_s: How long to wait for another process, seconds.
    """

    def __init__(self, path: Path, patience_s: float = 30.0) -> None:
        self._path = path
        self._patience_s = patience_s
        self._threads = threading.Lock()
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock for the block.

        Raises:
            Temporary: Another process kept it longer than our patience.
        """
        with self._threads:
            self._acquire()
            try:
                yield
            finally:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _acquire(self) -> None:
        deadline = time.monotonic() + self._patience_s
        while not try_lock(self._descriptor):
            if time.monotonic() > deadline:
                raise Temporary(f"another process has held {self._path} for {self._patience_s:.0f} s; is one stuck?")
            time.sleep(_POLL_S)

    def close(self) -> None:
        """Give the file back."""
        os.close(self._descriptor)


class Instances:
    """Who is alive: every process holds a lock on a file of its own for as long as it lives.

    Args:
        folder: Created 0700 if missing.
        lock: Between processes: a file that exists, but is not locked yet, must not be taken for that of a dead one.
    """

    def __init__(self, folder: Path, lock: FileLock) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self.me = uuid.uuid4().hex[:12]
        with lock.held():
            self._descriptor = os.open(folder / self.me, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
            self._sweep_out()

    def alive(self, instance: str) -> bool:
        """Whether the process that called itself so still runs."""
        if instance == self.me:
            return True
        try:
            descriptor = os.open(self._folder / instance, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(descriptor, fcntl.LOCK_SH)  # two that ask at once are no sign of life
        finally:
            os.close(descriptor)

    def close(self) -> None:
        """Say that this process no longer works on the journal."""
        (self._folder / self.me).unlink(missing_ok=True)
        os.close(self._descriptor)

    def _sweep_out(self) -> None:
        for name in os.listdir(self._folder):
            if not self.alive(name):
                (self._folder / name).unlink(missing_ok=True)


def try_lock(descriptor: int, kind: int = fcntl.LOCK_EX) -> bool:
    """Take a lock on an open file, exclusive unless said otherwise, if nobody holds one that excludes it."""
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def refuse_network_file_system(folder: Path, mounts: str) -> None:
    """Raise if locks and the WAL's shared memory cannot be trusted in this folder.

    Args:
        folder: Where the journal lives.
        mounts: The text of /proc/self/mounts; empty where there is none, then nothing is refused.

    Raises:
        ConfigError: It is on a network file system.
    """
    rows = [line.split() for line in mounts.splitlines()]
    above = [(row[1], row[2]) for row in rows if len(row) > 2 and _is_under(folder.resolve(), row[1])]
    kind = max(above, key=lambda row: len(row[0]), default=("", ""))[1]
    if kind in _NETWORK:
        raise ConfigError.of(
            "journal.url", f"{folder} is on a network file system ({kind}), where SQLite loses data; use a local volume"
        )


def _is_under(folder: Path, mount: str) -> bool:
    return folder.is_relative_to(mount.replace("\\040", " "))
