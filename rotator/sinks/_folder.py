"""One folder of the file sink, by descriptor: opened without following links, locked, swept, written atomically.

`flock` on the folder itself is held while a temporary file exists: shared by those who replace whole files, alone by
those who merge into what a file holds. So whoever holds it alone knows that a temporary file it finds belongs to a dead
process, and removes it: it may hold a secret. The lock leaves no file behind, and works between threads and processes
of one machine; on a network file system, other machines are not excluded.
"""

import errno
import fcntl
import os
import re
import secrets
import stat
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rotator.errors import OutcomeUnknown, Permanent, Temporary
from rotator.sinks._paths import RESERVED

_LOCK_WAIT_S = 30.0
_LOCK_POLL_S = 0.005
_CHUNK = 65536  # bytes
_LARGEST = 4 * 1024 * 1024  # bytes; beyond it, the file is something else than a file of secrets
_LEFTOVER = re.compile(re.escape(RESERVED) + r"[0-9a-f]{32}")
_OPEN_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FS_IOC_GETFLAGS = 0x80086601  # linux/fs.h, 64 bit
_FS_IMMUTABLE_OR_APPEND = 0x30

_LINK = "a part of the path is a symbolic link or not a folder; rotator follows none below the sink's directory"
_DENIED = "permission denied; let the user that runs rotator read and write the file and its folder"
FAILURES: dict[int, tuple[type[Temporary] | type[Permanent], str]] = {
    errno.ENOSPC: (Temporary, "the disk is full"),
    errno.EDQUOT: (Temporary, "the disk quota is used up"),
    errno.EIO: (Temporary, "the disk reports an input/output error"),
    errno.ESTALE: (Temporary, "the network file system lost the folder"),
    errno.ETIMEDOUT: (Temporary, "the network file system does not answer"),
    errno.EAGAIN: (Temporary, "the system is short of resources"),
    errno.EMFILE: (Temporary, "too many files are open in this process"),
    errno.ENFILE: (Temporary, "too many files are open on this machine"),
    errno.ENOMEM: (Temporary, "the machine is out of memory"),
    errno.EROFS: (Permanent, "the file system is read-only; mount it writable"),
    errno.EACCES: (Permanent, _DENIED),
    errno.EPERM: (Permanent, _DENIED),
    errno.ENOENT: (Permanent, "the folder does not exist; create it, or mount what should be there"),
    errno.ENOTDIR: (Permanent, _LINK),
    errno.ELOOP: (Permanent, _LINK),
    errno.EISDIR: (Permanent, "a folder stands where the file should be"),
    errno.ENAMETOOLONG: (Permanent, "the path is too long for this file system; shorten the template"),
    errno.EBUSY: (Permanent, "the file is a mount point and cannot be replaced; mount its folder instead"),
    errno.EFBIG: (Permanent, "the file is larger than the process may write"),
    errno.ENOLCK: (Permanent, "the file system cannot lock a folder"),
    errno.ENOTSUP: (Permanent, "the file system lacks what safe writing needs"),
}
_IN_DOUBT = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT})


@dataclass(frozen=True, slots=True)
class Existing:
    """A file as it was read under the lock."""

    content: bytes = field(repr=False)
    status: os.stat_result

    @property
    def version(self) -> str:
        """Names this very content: every replacement makes a new file."""
        return _version(self.status)

    @property
    def mode(self) -> int:
        """Its permission bits."""
        return stat.S_IMODE(self.status.st_mode)


@dataclass(frozen=True, slots=True)
class Proof:
    """Whose the files are that we make in a folder that was shown to be writable."""

    uid: int
    gid: int

    def covers(self, existing: Existing | None) -> bool:
        """Whether replacing the file would leave its owner and group as they are without changing any."""
        return existing is None or (self.uid, self.gid) == (existing.status.st_uid, existing.status.st_gid)


@contextmanager
def translated(location: str) -> Iterator[None]:
    """Turn the system's errors into ours, by the table, and put the location in front of every message.

    What is raised begins here: no frame below, which may hold plain text, is part of its traceback.
    """
    try:
        yield
    except OSError as error:
        code = error.errno or 0
        kind, sentence = FAILURES.get(code, (Temporary, f"the system reports {errno.errorcode.get(code, code)}"))
        raise kind(f"{location}: {sentence}") from None
    except (Temporary, Permanent, OutcomeUnknown) as error:
        raise type(error)(f"{location}: {error.message}") from None


@contextmanager
def opened(directory: Path, names: Sequence[str], *, create: bool) -> Iterator[int]:
    """Yield the descriptor of the folder below `directory` that `names` lead to, following no link on the way.

    Args:
        directory: Absolute; may itself be a link. Only its last part is ever created, lest an unmounted volume be
            replaced by a folder of the same name.
        names: One a level, no separators in them.
        create: Whether missing folders are made, 0700.
    """
    folder = _open_root(directory, create=create)
    try:
        for name in names:
            parent, folder = folder, _open_child(folder, name, create=create)
            os.close(parent)
        yield folder
    finally:
        os.close(folder)


def identity(folder: int) -> tuple[int, int]:
    """Return what tells this very folder from all others, also from one that is mounted over it."""
    status = os.fstat(folder)
    return status.st_dev, status.st_ino


def lock(folder: int, *, alone: bool) -> None:
    """Hold the folder until its descriptor is closed.

    Args:
        folder: Its descriptor.
        alone: Keep all other threads and processes out; otherwise only those who want it alone.

    Raises:
        Temporary: Somebody keeps us out for longer than half a minute.
    """
    deadline = time.monotonic() + _LOCK_WAIT_S
    while True:
        with suppress(BlockingIOError):
            fcntl.flock(folder, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            return
        if time.monotonic() > deadline:
            raise Temporary(f"another process has held the lock of the folder for {_LOCK_WAIT_S:.0f} s")
        time.sleep(_LOCK_POLL_S)


def remove_leftovers(folder: int) -> None:
    """Remove the temporary files of processes that died, under the lock, which is free again afterwards.

    Raises:
        BlockingIOError: Somebody else has the lock, so a temporary file may belong to the living.
    """
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        for name in os.listdir(folder):
            if _LEFTOVER.fullmatch(name):
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=folder)
    finally:
        fcntl.flock(folder, fcntl.LOCK_UN)


def read(folder: int, name: str) -> Existing | None:
    """Return the file, None if there is none.

    Raises:
        Permanent: It is a link, a pipe, a folder, or far too large.
    """
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Permanent("the file is a symbolic link or a socket; rotator replaces only plain files") from None
        raise
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise Permanent("a folder, pipe or device stands where the file should be")
        if status.st_size > _LARGEST:
            raise Permanent(f"the file is larger than {_LARGEST} bytes; is it the right one?")
        return Existing(_content(descriptor), status)
    finally:
        os.close(descriptor)


def prove_writable(folder: int, existing: Existing | None, mode: int) -> Proof:
    """Write, sync and remove a file as large as the real one will be; a lock must be held.

    Raises:
        OSError, Permanent: It could not be done.
    """
    temporary, descriptor = _create(folder)
    try:
        _write(descriptor, os.urandom(_proof_size(existing)))  # zeros would be compressed away
        if existing and not _take_owner(descriptor, existing, mode):
            raise Permanent(
                f"the file belongs to user {existing.status.st_uid} and group {existing.status.st_gid}, who could not "
                "read it once it is replaced; give it to the user that runs rotator, or widen group and mode"
            )
        os.fsync(descriptor)
        made = os.fstat(descriptor)
    finally:
        os.close(descriptor)
        _remove(folder, temporary)
    _sync_entries(folder)
    return Proof(made.st_uid, made.st_gid)


def has_room(folder: int, existing: Existing | None) -> bool:
    """Whether the file system, as it says itself, can be written now and has room for a file."""
    status = os.fstatvfs(folder)
    free = status.f_bavail * status.f_frsize
    return free >= _proof_size(existing) and not status.f_flag & os.ST_RDONLY


def prove_replaceable(folder: int, name: str, existing: Existing) -> None:
    """Look for what lets a file be written beside this one, but not renamed over it.

    Raises:
        OSError, Permanent: There is something.
    """
    above = os.fstat(folder)
    owners = (0, existing.status.st_uid, above.st_uid)
    if above.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
        raise Permanent("the folder is sticky and the file another user's; only its owner can replace it")
    descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
    try:
        if _mount(descriptor) != _mount(folder):
            raise OSError(errno.EBUSY, "mount point")
        if _unchangeable(descriptor):
            raise Permanent("the file is marked immutable or append-only; remove the mark with chattr -i -a")
    finally:
        os.close(descriptor)


def replace(
    folder: int, name: str, content: bytes, mode: int, existing: Existing | None, *, merged: bool = False
) -> str:
    """Put the content in the place of the file, whole or not at all, and return its version.

    Owner and group stay those of the existing file where the system permits.

    Args:
        folder: Its descriptor.
        name: The file's.
        content: All of it.
        mode: Its permission bits.
        existing: What was read.
        merged: Whether the content holds what was read. Then a file that is no longer that, because somebody who knows
            no lock wrote it meanwhile, stays as it is, and the version is empty.

    Raises:
        OSError: Not written.
        OutcomeUnknown: Written, but perhaps not for long.
    """
    temporary, descriptor = _create(folder)
    try:
        try:
            _write(descriptor, content)
            if existing:
                _take_owner(descriptor, existing, mode)
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
            version = _version(os.fstat(descriptor))
        finally:
            os.close(descriptor)
        if merged and not _is_as_read(folder, name, existing):
            return ""
        _rename(folder, temporary, name)
        temporary = ""
    finally:
        if temporary:
            _remove(folder, temporary)
    confirm(folder)
    return version


def sync(folder: int, name: str) -> None:
    """Make durable what is already there: a process may have died between its rename and its last sync."""
    descriptor = os.open(name, _OPEN_FILE, dir_fd=folder)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    confirm(folder)


def confirm(folder: int) -> None:
    """Wait until a rename in the folder is on the disk.

    Raises:
        OutcomeUnknown: It took place, but a power cut may undo it.
    """
    try:
        _sync_entries(folder)
    except OSError:
        _raise_in_doubt()


def _open_root(directory: Path, *, create: bool) -> int:
    """Open the sink's directory; when it is missing nothing is known about what it holds, so that is no `NotFound`."""
    try:
        return os.open(directory, _OPEN_FOLDER)
    except FileNotFoundError:
        if not create:
            raise Permanent("the sink's directory does not exist; create it, or mount what should be there") from None
    with opened(directory.parent, (), create=False) as parent:
        _make(parent, directory.name)
    return os.open(directory, _OPEN_FOLDER)


def _open_child(parent: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=parent)
    except FileNotFoundError:
        if not create:
            raise
    _make(parent, name)
    return os.open(name, _OPEN_FOLDER | os.O_NOFOLLOW, dir_fd=parent)


def _make(parent: int, name: str) -> None:
    with suppress(FileExistsError):
        os.mkdir(name, 0o700, dir_fd=parent)
    _sync_entries(parent)


def _create(folder: int) -> tuple[str, int]:
    name = RESERVED + secrets.token_hex(16)
    return name, os.open(name, _CREATE_FILE, 0o600, dir_fd=folder)


def _content(descriptor: int) -> bytes:
    content = b""
    while part := os.read(descriptor, _CHUNK):
        content += part
    return content


def _write(descriptor: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(descriptor, view) :]


def _remove(folder: int, temporary: str) -> None:
    with suppress(OSError):  # gone after a rename in doubt; otherwise the next holder of the lock removes it
        os.unlink(temporary, dir_fd=folder)


def _is_as_read(folder: int, name: str, existing: Existing | None) -> bool:
    try:
        now = os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return existing is None
    if existing is None:
        return False
    return (_version(now), now.st_size) == (existing.version, existing.status.st_size)


def _rename(folder: int, temporary: str, name: str) -> None:
    try:
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError as error:
        if error.errno in _IN_DOUBT:
            _raise_in_doubt()
        raise


def _sync_entries(folder: int) -> None:
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder, and promise nothing to wait for
            raise


def _raise_in_doubt() -> NoReturn:
    raise OutcomeUnknown("the file was replaced, but the disk does not confirm it; writing it again is safe") from None


def _take_owner(descriptor: int, existing: Existing, mode: int) -> bool:
    """Give a new file the owner and group of the old one; return whether everybody who could read still can."""
    uid, gid = existing.status.st_uid, existing.status.st_gid
    for owner in (uid, -1):
        with suppress(PermissionError):
            os.fchown(descriptor, owner, gid)
            break
    now = os.fstat(descriptor)
    user_reads = uid in (0, now.st_uid)  # root reads everything
    group_reads = gid == now.st_gid or not mode & 0o070
    return user_reads and group_reads


def _proof_size(existing: Existing | None) -> int:
    return 16384 + (len(existing.content) if existing else 0)


def _mount(descriptor: int) -> str:
    """Return the id of the mount, as far as the system says: a bind mount may lie on the same device."""
    with suppress(OSError):
        for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines():
            if line.startswith("mnt_id:"):
                return line
    return str(os.fstat(descriptor).st_dev)


def _unchangeable(descriptor: int) -> bool:
    if sys.platform != "linux":
        return False
    with suppress(OSError):  # a file system without such marks
        flags = fcntl.ioctl(descriptor, _FS_IOC_GETFLAGS, bytes(8))
        return bool(int.from_bytes(flags, sys.byteorder) & _FS_IMMUTABLE_OR_APPEND)
    return False


def _version(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}"
