"""One run of a program that is given a secret on its standard input, and nowhere else.

The `exec` sink calls it. Whatever happens, when `run` returns, the program and all that it left in its process group
are dead and reaped, every pipe is closed, and nobody has seen what it printed, apart from a short answer if one was
asked for.
"""

import errno
import fcntl
import io
import os
import resource
import select
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import Enum

GRACE_S = 2.0  # between asking a program to end and killing it
_LOOK_S = 0.02
_LONGEST_ANSWER = 4096  # bytes
_spawning = threading.Lock()


@dataclass(frozen=True, slots=True)
class Program:
    """What to run.

    Attributes:
        arguments: The first is the path of the program.
        environment: All of it.
        folder: To run in.
        timeout_s: After it everything is killed.
    """

    arguments: Sequence[str]
    environment: Mapping[str, str]
    folder: str
    timeout_s: float


class Fate(Enum):
    """How a run ended."""

    EXITED = "by itself"
    KILLED = "by a signal"
    LATE = "by us, for it took too long"
    VANISHED = "unseen: somebody else reaped it"
    UNSTARTED = "before it began"


@dataclass(frozen=True, slots=True, repr=False)
class End:
    """How a run ended; its repr shows nothing, for an answer may echo the secret.

    Attributes:
        code: The exit code, the number of the signal, or the `errno` of an attempt to start.
        unread: Bytes of its input that it had not read when it ended.
        answer: The start of what it printed, if asked for.
    """

    fate: Fate
    code: int = 0
    unread: int = 0
    answer: bytes = b""


def run(program: Program, given: bytes, *, listen: bool = False) -> End:
    """Run a program to its end, which comes `GRACE_S` after `timeout_s` at the latest.

    Args:
        program: What to run.
        given: Its standard input.
        listen: Whether what it prints on standard output is wanted. Otherwise it goes nowhere, like standard error.
    """
    with ExitStack() as stack:
        try:
            # Our own hold on the reading end tells what was never read, and a deaf program does not break the pipe.
            theirs, ours = _pipe(stack)
            heard, said = _pipe(stack) if listen else (None, None)
            child = _started(program, theirs, said)
        except OSError as error:
            return End(Fate.UNSTARTED, error.errno or errno.EIO)
        os.set_blocking(ours.fileno(), False)
        talk = _Talk(ours, given, heard)
        end = None
        try:
            end = _ended(child, talk, time.monotonic() + program.timeout_s)
        finally:
            _bury(child, ask=end is None or end.fate is Fate.LATE, spare=end is not None and end.fate is Fate.VANISHED)
        talk.listen()
        return End(end.fate, end.code, talk.left + _waiting(theirs), bytes(talk.answer))


def _pipe(stack: ExitStack) -> tuple[io.FileIO, io.FileIO]:
    reading, writing = os.pipe()  # neither is inherited by the programs of other threads
    return stack.enter_context(io.FileIO(reading, "r")), stack.enter_context(io.FileIO(writing, "w"))


def _started(program: Program, given: io.FileIO, said: io.FileIO | None) -> "subprocess.Popen[bytes]":
    with _coreless():
        return subprocess.Popen(  # noqa: S603 - the configuration names it; no shell, and nothing of a token's in it
            program.arguments,
            stdin=given,
            stdout=said or subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=program.environment,
            cwd=program.folder,
            start_new_session=True,
            umask=0o077,
        )


@contextmanager
def _coreless() -> Iterator[None]:
    """Let what is started here write no core dump, for it would hold the secret.

    A child inherits the limit; setting it in the child, between fork and exec, is not safe in a process with threads.
    The limit is 1, not 0: a kernel that pipes dumps to a program ignores every other value, and as the size of a file
    1 is none either. Source: core(5), and `RLIMIT_CORE` in fs/coredump.c of Linux.
    """
    with _spawning:
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_CORE, (soft, hard))


class _Talk:
    """What still has to be given, and what was answered; never waits."""

    def __init__(self, ours: io.FileIO, given: bytes, heard: io.FileIO | None) -> None:
        self._ours = ours
        self._given = memoryview(given)
        self._heard = heard
        self.answer = bytearray()
        if heard is not None:
            os.set_blocking(heard.fileno(), False)

    @property
    def left(self) -> int:
        """Bytes that found no room in the pipe yet."""
        return len(self._given)

    def go_on(self) -> None:
        """Give and hear what can be, or let a moment pass."""
        poll = select.poll()
        if self._given:
            poll.register(self._ours, select.POLLOUT)
        if self._heard is not None:
            poll.register(self._heard, select.POLLIN)
        poll.poll(_LOOK_S * 1000)
        self._give()
        self.listen()

    def _give(self) -> None:
        if self._given:
            written = self._ours.write(self._given)
            self._given = self._given[written or 0 :]
        if not self._given:
            self._ours.close()  # the program sees the end of its input

    def listen(self) -> None:
        """Take what was printed; the start is kept, the rest is forgotten."""
        while self._heard is not None and (chunk := self._heard.read(65536)):
            self.answer += chunk[: max(0, _LONGEST_ANSWER - len(self.answer))]


def _ended(child: "subprocess.Popen[bytes]", talk: _Talk, deadline_s: float) -> End:
    while True:
        end = _seen(child)
        if end is not None:
            return end
        if time.monotonic() > deadline_s:
            return End(Fate.LATE)
        talk.go_on()


def _seen(child: "subprocess.Popen[bytes]") -> End | None:
    """Return how it ended without reaping it: until then its process group cannot become somebody else's.

    Not `Popen.poll`, which takes a status that it could not get for a success.
    """
    try:
        found = os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return End(Fate.VANISHED)
    if found is None:
        return None
    return End(Fate.EXITED if found.si_code == os.CLD_EXITED else Fate.KILLED, found.si_status)


def _bury(child: "subprocess.Popen[bytes]", *, ask: bool, spare: bool) -> None:
    """End the process group and reap the program.

    Args:
        child: What was started.
        ask: Whether it gets a moment to clean up.
        spare: Whether its group may be somebody else's by now.
    """
    if ask:
        _kill(child.pid, signal.SIGTERM)
        patience_s = time.monotonic() + GRACE_S
        while _seen(child) is None and time.monotonic() < patience_s:
            time.sleep(_LOOK_S)
    if not spare:
        _kill(child.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # the kernel keeps it, as on a file system that hangs
        child.wait(GRACE_S)


def _kill(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it is gone, or became another user
        os.killpg(group, number)


def _waiting(pipe: io.FileIO) -> int:
    """Return how many bytes stand in a pipe unread."""
    return int(struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, b"\0" * 4))[0])
