"""The `exec` sink: secrets handed to a program of the user's own, on its standard input as one line of JSON.

Never in an argument nor in the environment, which every process of the machine may read. What the program prints is
not captured: it may echo the secret; its exit code is the outcome. A preflight looks at the program and, with
`preflight = true`, runs it; as that is off unless wanted, for a plain script that stores whatever it is given would
take the question for a secret, the grade is `none`.

The program comes from the configuration at each call and is not journalled: whoever can write a journal shall not
choose what is run. Each call works by itself, so threads share a sink.
"""

import errno
import os
import re
import shutil
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rotator.errors import Forbidden, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.sinks import _child, _hooks
from rotator.sinks._child import End, Fate, Program
from rotator.sinks._hooks import Action, Target
from rotator.sinks._journalled import journalled
from rotator.timing import parse_duration, stamp

PREFLIGHT_GRADE = Grade.NONE

_PASSED_ON = ("PATH", "HOME", "LANG")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACTION = "ROTATOR_ACTION"
_LOOKS_SECRET = re.compile(r"\s*(Bearer\s+)?eyJ", re.IGNORECASE)
_MINT_ID = re.compile(rb"[A-Za-z0-9_-]{1,128}")
_NOTHING = b"none"  # what a program says that holds nothing; silence could be a mistake


class Options(BaseModel):
    """`[sinks.X]` with `type = "exec"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    command: list[str] = Field(
        min_length=1, description="Program and arguments, never a shell line. An absolute path, or a name in PATH."
    )
    cwd: str = Field("/", description="Folder to run in; relative to the configuration's folder.")
    environment: dict[str, str] = Field({}, description="Plain variables besides PATH, HOME, LANG, ROTATOR_ACTION.")
    timeout: _hooks.DurationText = Field("60s", description="For a run; then its process group is killed.")
    preflight: bool = Field(default=False, description="Run it with ROTATOR_ACTION=preflight before each rotation.")
    verify: bool = Field(default=False, description="Run it with ROTATOR_ACTION=verify; it prints the mint it holds.")

    @field_validator("command")
    @classmethod
    def _runnable(cls, command: list[str]) -> list[str]:
        for word in command:
            if "\0" in word:
                raise ValueError("no argument can hold a zero byte")
            if _LOOKS_SECRET.match(word):
                raise ValueError("an argument looks like a secret, which every process of the machine could read")
        program = _hooks.seen(command[0])
        if not program or (os.sep in program and not os.path.isabs(program)):
            raise ValueError("the program must be an absolute path, or a name to be found in PATH")
        return command

    @field_validator("cwd")
    @classmethod
    def _seen(cls, text: str) -> str:
        return _hooks.seen(text)

    @field_validator("environment")
    @classmethod
    def _plain(cls, environment: dict[str, str]) -> dict[str, str]:
        for name, value in environment.items():
            if not _VARIABLE.fullmatch(name) or "\0" in value:
                raise ValueError("a variable is named with letters, digits and _, and its value holds no zero byte")
            if name.upper().startswith("ROTATOR_"):
                raise ValueError(f"{name} begins like the variables that rotator sets; choose another name")
            if _LOOKS_SECRET.match(value):
                raise ValueError(f"{name} looks like a secret; let the program read it from a file instead")
        return environment


class DeliveryOptions(_hooks.KeyedOptions):
    """A deliver block whose sink is of type `exec`."""


@dataclass(frozen=True, slots=True)
class Command:
    """What the configuration says of a program.

    Attributes:
        arguments: The first is a name or an absolute path.
        environment: Plain variables to add.
        folder: Absolute.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    folder: str
    timeout_s: float

    def program(self, action: Action) -> Program:
        """Return what to run.

        Raises:
            Permanent: It cannot or should not be run, by what can be seen now.
        """
        known = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        environment = {"PATH": os.defpath, **known, **self.environment, _ACTION: str(action)}
        if not os.path.isdir(self.folder):
            raise Permanent("cwd is not a folder; create it or correct cwd")
        found = shutil.which(self.arguments[0], path=environment["PATH"])
        if found is None or not os.path.isabs(found):
            raise Permanent("there is no such program that may be executed; correct command, or chmod +x the file")
        _refuse_unsafe(found)
        return Program((found, *self.arguments[1:]), environment, self.folder, self.timeout_s)


def _refuse_unsafe(path: str) -> None:
    """Refuse a program that anybody on the machine could replace, itself or a link to it."""
    real = os.path.realpath(path)
    if not os.path.isfile(real):
        raise Permanent("the program is not a file")
    if os.stat(real).st_mode & stat.S_IWOTH:
        raise Permanent("everybody may write the program, so it is not given a secret; chmod o-w the file")
    for folder in {os.path.dirname(path), os.path.dirname(real)}:
        mode = os.stat(folder).st_mode
        if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
            raise Permanent("everybody may write the program's folder, so it is not given a secret; chmod o-w it")


def build(name: str, options: Options, base: Path) -> "ExecSink":
    """See `rotator.sinks`."""
    folder = os.path.abspath(base / os.path.expanduser(options.cwd))
    timeout_s = parse_duration(options.timeout).total_seconds()
    command = Command(tuple(options.command), options.environment, folder, timeout_s)
    return ExecSink(name, command, preflight=options.preflight, verify=options.verify)


class ExecSink:
    """See `ports.Sink`.

    Args:
        name: As configured.
        command: What to run.
        preflight: Whether the program knows ROTATOR_ACTION=preflight.
        verify: Whether it knows ROTATOR_ACTION=verify.
        now: Returns the time, for events.
    """

    def __init__(
        self,
        name: str,
        command: Command,
        *,
        preflight: bool = False,
        verify: bool = False,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.name = name
        self._command = command
        self._preflight = preflight
        self._verify = verify
        self._now = now

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`."""
        block = DeliveryOptions.model_validate(dict(options))
        target = _hooks.target(block.key, facts)
        return Place(self.name, f"{self._command.arguments[0]}#{target.key}", target.builtins())

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. The program can be run; with `preflight` it says itself that it could store this key."""
        if self._preflight:
            self._asked(place, Action.PREFLIGHT)
        else:
            journalled(Target, place)
            self._program(place, Action.PREFLIGHT)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. The program is run again for a mint it has: only it knows what it holds."""
        target, program = journalled(Target, place), self._program(place, Action.DELIVER)
        failure = delivery_failure(place.location, _child.run(program, _hooks.delivery(target, mint) + b"\n"))
        if failure is not None:
            raise failure
        return Receipt(place.location, mint.id)

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. Without `verify` a receipt is all there is."""
        if not self._verify:
            return Held(None)
        said = _last_line(self._asked(place, Action.VERIFY).answer)
        if said == _NOTHING:
            raise NotFound(f"{place.location}: the program holds nothing for this key")
        if not _MINT_ID.fullmatch(said):
            raise Permanent(
                f"{place.location}: with ROTATOR_ACTION=verify the program printed neither a mint id nor none;"
                " set verify = false if it does not know it"
            )
        return Held(None, said.decode(), said.decode())

    def close(self) -> None:
        """See `ports.Sink`; nothing stays open between calls."""

    def _asked(self, place: Place, action: Action) -> End:
        """Run the program without a secret; raises Temporary or Permanent unless it exits 0."""
        given = _hooks.question(action, journalled(Target, place), stamp(self._now())) + b"\n"
        end = _child.run(self._program(place, action), given, listen=action is Action.VERIFY)
        failure = question_failure(place.location, end)
        if failure is not None:
            raise failure
        return end

    def _program(self, place: Place, action: Action) -> Program:
        try:
            return self._command.program(action)
        except OSError as error:
            problem = f"the program cannot be looked at ({errno.errorcode.get(error.errno or 0, 'EIO')})"
        except Permanent as error:
            problem = error.message
        raise Permanent(f"{place.location}: {problem}")


def _last_line(answer: bytes) -> bytes:
    return answer.strip().rpartition(b"\n")[2].strip()


# What an exit code means; others from 1 to 255 may come from anywhere in a script, so what it did is not known.
# Source: sysexits.h of BSD.
EXITS: Mapping[int, tuple[type[RotatorError], str]] = {
    **dict.fromkeys(range(64, 79), (Permanent, "the program refused it; its own log says why")),
    75: (Temporary, "the program could not do it now"),
    77: (Forbidden, "the program lacks a right"),
}
# What keeps a program from being started, by `errno`; others pass by themselves or are repaired by hand.
STARTS: Mapping[int, str] = {
    errno.ENOENT: "the program, its interpreter or cwd does not exist",
    errno.EACCES: "the program may not be executed; chmod +x the file, and look at noexec mounts",
    errno.EPERM: "the program may not be executed",
    errno.ENOEXEC: "the program has no format that can be executed; begin a script with #!",
    errno.ENOTDIR: "the program or cwd lies below something that is no folder",
    errno.E2BIG: "arguments and environment are too long",
    errno.ELOOP: "the program lies behind links that lead in a circle",
}


def delivery_failure(location: str, end: End) -> RotatorError | None:
    """Return what came of a delivery; None if the program has stored the secret."""
    if end.fate is Fate.EXITED and end.code == 0 and end.unread:
        return Permanent(f"{location}: the program exited 0 without reading its whole input, so it has no secret")
    return _failure(location, end, OutcomeUnknown)


def question_failure(location: str, end: End) -> RotatorError | None:
    """Return what came of a run that changes nothing; None if it was a success."""
    return _failure(location, end, Temporary)


def _failure(location: str, end: End, unclear: type[RotatorError]) -> RotatorError | None:
    again = "; running it again is safe" if unclear is OutcomeUnknown else ""
    if end.fate is Fate.UNSTARTED:
        name = errno.errorcode.get(end.code, str(end.code))
        if end.code in STARTS:
            return Permanent(f"{location}: {STARTS[end.code]} ({name})")
        return Temporary(f"{location}: the program could not be started ({name})")
    if end.fate is Fate.LATE:
        return unclear(f"{location}: the program took too long and was killed{again}")
    if end.fate is Fate.KILLED:
        return unclear(f"{location}: the program was ended by signal {end.code}{again}")
    if end.fate is Fate.VANISHED:
        return unclear(f"{location}: the exit code was lost; do not start rotator with SIGCHLD ignored{again}")
    if end.code == 0:
        return None
    kind, words = EXITS.get(end.code, (unclear, f"the program failed{again}"))
    return kind(f"{location}: {words} (exit {end.code})")
