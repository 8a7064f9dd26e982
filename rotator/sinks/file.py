"""The `file` sink: secrets in the files of one folder, replaced atomically, neighbours kept byte for byte.

A raw file holds the secret and nothing else; of env and json files only the named keys are written. Symbolic links are
followed to the configured directory but never below it. Each call works by itself, from what the place says and what
the folder holds, so threads and processes may share a directory.
"""

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rotator.errors import NotFound, Permanent, Temporary
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.recent import Recent
from rotator.secret import Secret
from rotator.sinks import _env, _folder, _json
from rotator.sinks._fields import SAMPLE, check_fields, secret_key, used_facts
from rotator.sinks._journalled import journalled
from rotator.sinks._paths import parse_path, relative_path
from rotator.templates import SECRET_FIELD, render_fields
from rotator.text import visible

PREFLIGHT_GRADE = Grade.PROVEN

ATTEMPTS = 4
_MODE = re.compile(r"0?[0-7]{3}")


class _Keyed(Protocol):
    """What a format of files with keys can do; see `_env` and `_json`."""

    def problem(self, content: bytes) -> str: ...

    def merge(self, content: bytes, fields: Mapping[str, str]) -> bytes: ...

    def value(self, content: bytes, key: str) -> str | None: ...


_KEYED: dict[str, _Keyed] = {"env": _env, "json": _json}


class Options(BaseModel):
    """`[sinks.X]` with `type = "file"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    directory: str = Field(
        min_length=1,
        description="Folder below which all files lie; relative to the configuration's folder. Made 0700 if missing.",
    )

    @field_validator("directory")
    @classmethod
    def _seen(cls, text: str) -> str:
        if visible(text, len(text)) != text:
            raise ValueError("contains characters that cannot be seen")
        return text


class DeliveryOptions(BaseModel):
    """A deliver block whose sink is of type `file`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    path: str = Field("{name}", description="Below the directory; a slash makes a folder. Placeholders are encoded.")
    format: Literal["raw", "env", "json"] = Field("raw", description="raw: the secret and nothing else.")
    fields: dict[str, str] | None = Field(
        None, description='Keys written into an env or json file; { token = "{secret}" } if not given.'
    )
    mode: str = Field("0600", description="Permission bits of the file, octal.")

    @field_validator("path")
    @classmethod
    def _path(cls, text: str) -> str:
        parse_path(text)
        return text

    @field_validator("mode", mode="before")
    @classmethod
    def _usable(cls, text: object) -> object:
        if not isinstance(text, str) or not _MODE.fullmatch(text):
            raise ValueError('must be three octal digits in quotes, such as "0600" or "0640"')
        if int(text, 8) & 0o600 != 0o600:
            raise ValueError("must let the owner read and write, such as 0600")
        if int(text, 8) & 0o002:
            raise ValueError("must not let everybody write, use 0600 or 0640")
        return text

    @model_validator(mode="after")
    def _whole(self) -> "DeliveryOptions":
        if self.format == "raw":
            if self.fields is not None:
                raise ValueError('fields need format = "env" or "json": a raw file holds the secret and nothing else')
            return self
        self.fields = {"token": SECRET_FIELD} if self.fields is None else self.fields
        unusable = [key for key in self.fields if self.format == "env" and not _env.KEY.fullmatch(key)]
        if unusable:
            raise ValueError(f"fields: '{visible(unusable[0])}' cannot name a variable; use letters, digits and _")
        check_fields(self.fields)
        return self


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled: all that writing needs, whatever the configuration says by then.

    Attributes:
        names: Of the folders below the directory and, last, of the file.
        facts: Those that fields use.
    """

    directory: str
    names: tuple[str, ...]
    format: str
    mode: int
    fields: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    @property
    def secret_key(self) -> str:
        """The key that is read back."""
        return secret_key(self.fields)


def build(name: str, options: Options, base: Path) -> "FileSink":
    """See `rotator.sinks`."""
    return FileSink(name, base / os.path.expanduser(options.directory))


class FileSink:
    """See `ports.Sink`; a place is proven by writing, syncing and removing a file beside the real one.

    Args:
        name: As configured.
        directory: Need not exist yet; its parent must.
        monotonic: Returns seconds that never go back: how long one token's proof of a folder serves the others.
    """

    def __init__(self, name: str, directory: Path, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.name = name
        self._directory = os.path.abspath(directory)
        self._real = os.path.realpath(directory)  # what two sinks share that reach it by different names
        self._cleared: Recent[None] = Recent(monotonic)
        self._proven: Recent[_folder.Proof] = Recent(monotonic)

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. A raw file is one place; in env and json files every key is."""
        block = DeliveryOptions.model_validate(dict(options))
        names = relative_path(parse_path(block.path), facts)
        fields = block.fields or {}
        target = _Target(self._directory, names, block.format, int(block.mode, 8), fields, used_facts(fields, facts))
        _check_values(target)
        path = "/".join((self._directory, *names))
        location = f"{path}#{target.secret_key}" if fields else path
        real = "/".join((self._real, *names))
        parts = tuple(f"{real}#{key}" for key in sorted(fields)) or (real,)
        reference = "" if fields else f"file:{path}"
        return Place(self.name, location, msgspec.to_builtins(target), parts=parts, reference=reference, store="file")

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`."""
        target = journalled(_Target, place)
        with _folder.translated(place.location), self._tidy(target) as folder:
            existing = _folder.read(folder, target.names[-1])
            _refuse_unmergeable(target, existing)
            self._prove(folder, existing, target.mode)
            if existing:
                _folder.prove_replaceable(folder, target.names[-1], existing)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. If the content would not change, nothing is written but what is there is made durable."""
        target = journalled(_Target, place)
        with _folder.translated(place.location), self._tidy(target) as folder:
            version = _write(folder, target, mint)
        return Receipt(place.location, version)

    def close(self) -> None:
        """See `ports.Sink`; nothing stays open between calls."""

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. Line ends that an editor left behind the secret of a raw file are not part of it."""
        target = journalled(_Target, place)
        with _folder.translated(place.location):
            return _held(target)

    @contextmanager
    def _tidy(self, target: _Target) -> Iterator[int]:
        """Open the target's folder, made if missing, cleared of what the dead left in it a moment ago."""
        with _folder.opened(Path(target.directory), target.names[:-1], create=True) as folder:
            with suppress(BlockingIOError):  # somebody is writing: whoever comes next tries again
                self._cleared.get(_folder.identity(folder), lambda: _folder.remove_leftovers(folder))
            yield folder

    def _prove(self, folder: int, existing: _folder.Existing | None, mode: int) -> None:
        """Show that the folder can be written: many tokens share one proof a moment, where it says enough for them."""

        def prove(beside: _folder.Existing | None) -> _folder.Proof:
            _folder.lock(folder, alone=False)
            return _folder.prove_writable(folder, beside, mode)

        shared = _folder.has_room(folder, existing) and self._proven.get(
            _folder.identity(folder), lambda: prove(None)
        ).covers(existing)
        if not shared:
            prove(existing)


def _check_values(target: _Target) -> None:
    """Find values that could not be written before a secret depends on it."""
    rendered = render_fields(target.fields, SAMPLE, target.facts)
    if target.format == "env" and (key := _env.unwritable(rendered)):
        raise Permanent(_unwritable(key))


def _unwritable(key: str) -> str:
    return f"the value of {key} has characters on which readers of env files disagree; use json, or leave the key out"


def _write(folder: int, target: _Target, mint: Mint) -> str:
    _folder.lock(folder, alone=target.format in _KEYED)
    for _ in range(ATTEMPTS):
        existing = _folder.read(folder, target.names[-1])
        _refuse_unmergeable(target, existing)
        content = _merged(target, existing.content if existing else b"", mint)
        if existing and existing.content == content and existing.mode == target.mode:
            _folder.sync(folder, target.names[-1])
            return existing.version
        merged = target.format in _KEYED
        version = _folder.replace(folder, target.names[-1], content, target.mode, existing, merged=merged)
        if version:
            return version
    raise Temporary("somebody else writes the file at the same moment, again and again")


def _held(target: _Target) -> Held:
    try:
        with _folder.opened(Path(target.directory), target.names[:-1], create=False) as folder:
            existing = _folder.read(folder, target.names[-1])
    except FileNotFoundError:
        existing = None
    if existing is None:
        raise NotFound("there is no such file")
    secret = _secret(target, existing)
    if not secret:
        raise NotFound("the file holds no secret there")
    return Held(secret, version=existing.version)


def _refuse_unmergeable(target: _Target, existing: _folder.Existing | None) -> None:
    """Refuse a file whose other content would be lost; what cannot be understood is never taken for empty."""
    if existing is None:
        return
    if target.format in _KEYED:
        reason = _KEYED[target.format].problem(existing.content)
        if target.format == "env" and not any(_env.value(existing.content, key) is not None for key in target.fields):
            reason = reason or _env.foreign(existing.content)  # a line that is there already is only replaced
        if reason:
            raise Permanent(f"{reason}, so other content could be lost; repair or remove the file, or name another")
    elif kind := keyed_kind(existing.content):
        raise Permanent(f'it is {kind} file, which format = "raw" would replace whole; set format, or remove the file')


def keyed_kind(content: bytes) -> str:
    """Return "an env" or "a json" for a file that clearly holds keys, empty for anything else."""
    if content.lstrip().startswith(b"{") and not _json.problem(content):
        return "a json"
    return "an env" if _env.holds_keys(content) else ""


def _merged(target: _Target, content: bytes, mint: Mint) -> bytes:
    if target.format not in _KEYED:
        return mint.secret.encoded()
    fields = render_fields(target.fields, mint, target.facts)
    if target.format == "env" and (key := _env.unwritable(fields)):
        raise Permanent(_unwritable(key))
    return _KEYED[target.format].merge(content, fields)


def _secret(target: _Target, existing: _folder.Existing) -> Secret | None:
    if target.format not in _KEYED:
        return Secret(existing.content.decode(errors="replace").rstrip("\r\n"))
    _refuse_unmergeable(target, existing)
    found = _KEYED[target.format].value(existing.content, target.secret_key)
    return None if found is None else Secret(found)
