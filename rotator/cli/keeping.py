"""Where the secret of a token made by hand goes: a file, or the screen because a person said so; and the last resort.

After the call the secret exists once, in this process. So a place that fails in spite of its proof never ends it: it
goes to a new 0600 file in the state folder, and only if that fails too is it lost, which is said, and healed by
rotating the token again. It is never shown unasked.
"""

import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TextIO

from rotator import secret_file
from rotator.errors import RotatorError
from rotator.secret import Secret


class Keep(Protocol):
    """One place for one secret."""

    @property
    def location(self) -> str:
        """What people call it."""
        ...

    def prove(self) -> None:
        """Show, before the call, that the place can take a secret; raises RotatorError if it cannot."""
        ...

    def keep(self, secret: Secret) -> None:
        """Put the secret there; raises RotatorError, OSError or ValueError if that failed."""
        ...


@dataclass(frozen=True, slots=True)
class ToFile:
    """The secret and nothing else in a file.

    Attributes:
        path: Absolute.
    """

    path: Path

    @property
    def location(self) -> str:
        """See `Keep`."""
        return str(self.path)

    def prove(self) -> None:
        """See `Keep`."""
        secret_file.prove(self.path)

    def keep(self, secret: Secret) -> None:
        """See `Keep`."""
        secret_file.write(self.path, secret)


@dataclass(frozen=True, slots=True)
class Reveal:
    """The secret on a line of its own on a stream."""

    stream: TextIO
    location: str = "shown"

    def prove(self) -> None:
        """See `Keep`; nothing can be tried without writing."""

    def keep(self, secret: Secret) -> None:
        """See `Keep`."""
        try:
            self.stream.write(f"{secret.reveal()}\n")
            self.stream.flush()
        except OSError:
            # Whoever read it is gone or full: what is still buffered must not fail again when the process ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), self.stream.fileno())
            raise


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a secret is now.

    Attributes:
        location: Empty if nobody holds it.
        problem: Why that is not where it was asked to go; empty if it is.
    """

    location: str
    problem: str = ""


def kept(keep: Keep, secret: Secret, refuge: Path) -> Kept:
    """Put the secret where it shall go, or into a new file of the folder `refuge`; never raises for a place."""
    first = _failure(keep, secret)
    if not first:
        return Kept(keep.location)
    rescue = ToFile(refuge / f"rescued-secret-{uuid.uuid4().hex}")
    second = _failure(rescue, secret)
    if not second:
        return Kept(
            rescue.location, f"{first}; its new secret is in {rescue.location} (0600): move it where it belongs"
        )
    return Kept("", f"{first}, nor could it be saved: {second}; NOBODY HOLDS THE NEW SECRET: rotate the token again")


def _failure(keep: Keep, secret: Secret) -> str:
    """Return why the secret could not be put there, empty if it is there."""
    try:
        keep.keep(secret)
    except RotatorError as error:
        return f"the secret could not be kept: {error.message}"
    except OSError as error:
        return f"the secret could not be shown ({error.strerror})"
    except ValueError:  # a closed stream, or one whose encoding cannot carry it; the text may quote what was written
        return "the secret could not be shown (the stream cannot take it)"
    return ""
