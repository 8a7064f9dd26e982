"""Secret references: they say where a credential or a key is, instead of what it is.

Config parses them; providers, sinks and the journal's seal read them, at every use and never from a cache, so that a
mounted secret that changes is followed. `vault:` and `aws:` are read through a store that `app` puts together; what a
store itself logs in with is `env:` or `file:`. Nothing here repeats a value, nor a text that might be one.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from rotator.errors import ConfigError, OutcomeUnknown, Permanent, Temporary
from rotator.secret import Secret
from rotator.text import visible

FORMS = "env:NAME, file:/path, vault:mount/path#key or aws:name#key"
LOCAL_FORMS = "env:NAME or file:/path"
STORED = ("vault", "aws")  # kinds that a store is asked for
Stores = Mapping[str, Callable[[str], Secret]]  # by kind: given the place, they return the value as it is now

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LOOKS_SECRET = re.compile(r"\s*(Bearer\s+)?eyJ", re.IGNORECASE)
_VAULT_PLACE = re.compile(r"(?!.*/\.{1,2}[/#])[^/#.][^/#]*(/[^/#]+)+#[^#]+")
_AWS_PLACE = re.compile(r"[A-Za-z0-9/_+=.@:-]+(#.+)?")
_LONGEST = 65536  # bytes; a file beyond it was named by mistake


@dataclass(frozen=True, slots=True)
class Reference:
    """Where a secret is: `env:NAME`, `file:/path`, `vault:mount/path#key` or `aws:name#key`.

    Attributes:
        kind: `env`, `file`, `vault` or `aws`.
        place: The name of the variable, the path, or the place in the store.
    """

    kind: str
    place: str

    @classmethod
    def parse(cls, text: str) -> "Reference":
        """Return the reference that the text says.

        Raises:
            ValueError: It is none; the message says what to write and never repeats the text.
        """
        kind, colon, place = text.strip().partition(":")
        if _LOOKS_SECRET.match(kind) or _LOOKS_SECRET.match(place):
            raise ValueError(f"looks like a secret itself; put it into a variable or a file and write {FORMS}")
        if not colon or kind not in _RULES:
            raise ValueError(f"is not a secret reference; write {FORMS}")
        fits, rule = _RULES[kind]
        if not fits(place):
            raise ValueError(rule)
        return cls(kind, place)

    @classmethod
    def local(cls, text: str) -> "Reference":
        """Return the reference that the text says, one that needs no store: what stores themselves log in with.

        Raises:
            ValueError: It is none, or not of these forms; the message never repeats the text.
        """
        kind, _, place = text.strip().partition(":")
        if kind in STORED and not _LOOKS_SECRET.match(place):
            raise ValueError(f"{kind}: cannot be read before its store is logged in to; write {LOCAL_FORMS}")
        return cls.parse(text)

    def __str__(self) -> str:
        return f"{self.kind}:{self.place}"

    def path(self, base: Path) -> Path | None:
        """Return the file it reads, None where there is none.

        Args:
            base: The folder that a relative path counts from.
        """
        return base / os.path.expanduser(self.place) if self.kind == "file" else None

    def absolute(self, base: Path) -> str:
        """Return the reference as it reads wherever it stands; what a sink says of its places compares with it.

        Args:
            base: The folder that a relative path counts from.
        """
        path = self.path(base)
        return str(self) if path is None else f"{self.kind}:{os.path.abspath(path)}"

    def read(self, base: Path, stores: Stores = MappingProxyType({})) -> Secret:
        """Return the value as it is now, without the white space around it.

        Args:
            base: The folder that a relative path counts from.
            stores: Where `vault:` and `aws:` are read.

        Raises:
            ConfigError: There is no value, or it cannot be read.
            Temporary: The store cannot be reached now.
        """
        value = _stored(self, stores) if self.kind in STORED else _text(_READERS[self.kind](self, base))
        if value is None:
            raise _unusable(self, f"holds no text of at most {_LONGEST} bytes; does it name the right thing?")
        if not value:
            raise _unusable(self, "is empty; put the secret there")
        return value


def _stored(reference: Reference, stores: Stores) -> Secret | None:
    if reference.kind not in stores:
        raise _unusable(reference, f"cannot be read here; write {LOCAL_FORMS}")
    try:
        found = stores[reference.kind](reference.place)
        return Secret(found.reveal().strip()) if len(found.encoded()) <= _LONGEST else None
    except Permanent as error:
        said = error.message
    except OutcomeUnknown as error:  # nothing was written, so asking again is all that is needed
        raise Temporary(f"the secret reference {reference} cannot be read now: {error.message}") from None
    except Temporary as error:
        raise Temporary(
            f"the secret reference {reference} cannot be read now: {error.message}", error.retry_after
        ) from None
    raise _unusable(reference, f"cannot be read: {said}")


def _from_environment(reference: Reference, _base: Path) -> bytes:
    name = os.fsencode(reference.place)
    if name not in os.environb:
        raise _unusable(reference, "is not set; export the variable to the process that runs rotator")
    return os.environb[name]


def _from_file(reference: Reference, base: Path) -> bytes:
    path = base / os.path.expanduser(reference.place)
    try:
        return _content(path)
    except OSError as error:
        code = error.errno or 0
    fix = _FIXES.get(code, f"cannot be read ({errno.errorcode.get(code, code)}): {{path}}")
    raise _unusable(reference, fix.format(path=visible(str(path), 4096)))


def _content(path: Path) -> bytes:
    """Return the file's bytes, a few more than allowed at most; never waits for a pipe to be filled."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EISDIR, "not a file")
        content = b""
        while len(content) <= _LONGEST and (part := os.read(descriptor, _LONGEST + 1 - len(content))):
            content += part
        return content
    finally:
        os.close(descriptor)


def _text(content: bytes) -> Secret | None:
    try:
        return Secret(content.decode().strip()) if len(content) <= _LONGEST else None
    except UnicodeDecodeError:
        return None


def _unusable(reference: Reference, what: str) -> ConfigError:
    return ConfigError.of("", f"the secret reference {reference} {what}")


_FIXES = {
    errno.ENOENT: "names a file that does not exist; create {path}, readable by the user that runs rotator",
    errno.EACCES: "names a file that may not be read; allow it to the user that runs rotator: {path}",
    errno.EPERM: "names a file that may not be read; allow it to the user that runs rotator: {path}",
    errno.ENOTDIR: "names a path through something that is no folder: {path}",
    errno.EISDIR: "names a folder, pipe or device, not a file: {path}",
}
_READERS: dict[str, Callable[[Reference, Path], bytes]] = {"env": _from_environment, "file": _from_file}
_RULES: dict[str, tuple[Callable[[str], bool], str]] = {
    "env": (
        lambda place: bool(_ENV_NAME.fullmatch(place)),
        "env: takes the name of a variable (letters, digits, _), such as env:ASTRO_API_TOKEN",
    ),
    "file": (
        lambda place: bool(place.strip()) and visible(place, len(place)) == place,
        "file: takes a path, such as file:/run/secrets/astro",
    ),
    "vault": (
        lambda place: bool(_VAULT_PLACE.fullmatch(place)) and visible(place, len(place)) == place,
        "vault: takes a mount, a path and a key, such as vault:secret/astro/rotator#token",
    ),
    "aws": (
        lambda place: bool(_AWS_PLACE.fullmatch(place)) and visible(place, len(place)) == place,
        "aws: takes the name of a secret, and a key if it holds JSON, such as aws:astro/rotator#token",
    ),
}
