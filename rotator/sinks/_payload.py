"""What sinks share that keep one text in versions: the whole text is the secret, or it is a JSON object with keys.

Keys are set in the text as it stands, so neighbours stay byte for byte; see `_json`. What is read travels as `Content`,
whose repr shows nothing. Pure.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, model_validator

from rotator.errors import Permanent
from rotator.model import Mint
from rotator.secret import Secret
from rotator.sinks import _json
from rotator.sinks._fields import SAMPLE, check_fields, secret_key, used_facts
from rotator.templates import SECRET_FIELD, render_fields
from rotator.timing import stamp

_ROOM = 4096  # bytes that a new secret may need more than the sample has


class PayloadOptions(BaseModel):
    """The base of a deliver block; subclasses add where."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    format: Literal["json", "raw"] = Field("json", description="raw: the secret and nothing else.")
    fields: dict[str, str] | None = Field(
        None, description='Keys of the JSON object; { token = "{secret}" } if not given. Others are never touched.'
    )

    @model_validator(mode="after")
    def _renderable(self) -> "PayloadOptions":
        if self.format == "raw":
            if self.fields is not None:
                raise ValueError('fields need format = "json": a raw value is the secret and nothing else')
            return self
        self.fields = {"token": SECRET_FIELD} if self.fields is None else self.fields
        check_fields(self.fields)
        return self


@dataclass(frozen=True, slots=True)
class Content:
    """What a version holds."""

    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Payload:
    """How a delivery writes, as it is journalled with its place.

    Attributes:
        fields: Empty where the whole text is the secret.
        facts: Those that fields use.
    """

    fields: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, block: PayloadOptions, facts: Mapping[str, str]) -> "Payload":
        """Return what a block says for one token."""
        fields = block.fields or {}
        return cls(fields, used_facts(fields, facts))

    @property
    def key(self) -> str:
        """The key that is read back, empty where there is none."""
        return secret_key(self.fields) if self.fields else ""

    def location(self, path: str) -> str:
        """Return the place for people."""
        return f"{path}#{self.key}" if self.fields else path

    def parts(self, path: str) -> tuple[str, ...]:
        """Return every key that is written."""
        return tuple(f"{path}#{key}" for key in sorted(self.fields))

    def refuse_unmergeable(self, held: Content | None, location: str) -> None:
        """Refuse content of which something would be lost; raises Permanent."""
        if held is None:
            return
        reason = _json.problem(held.data)
        if self.fields and reason:
            raise Permanent(f'{location}: {reason}, so other keys could be lost; repair it, or set format = "raw"')
        if not self.fields and not reason and held.data.strip():
            raise Permanent(f'{location}: it is a JSON object, which format = "raw" would replace whole; set fields')

    def refuse_full(self, held: Content | None, largest: int, location: str) -> None:
        """Refuse content beside which no new secret would fit; raises Permanent."""
        if len(self.merged(held, SAMPLE).data) + _ROOM > largest:
            raise Permanent(f"{location}: no room is left for a new value in {largest} bytes; use a secret of its own")

    def merged(self, held: Content | None, mint: Mint) -> Content:
        """Return what shall be there; `refuse_unmergeable` comes first."""
        if not self.fields:
            return Content(mint.secret.encoded())
        before = held.data if held else b""
        return Content(_json.merge(before, render_fields(self.fields, mint, self.facts)))

    def secret(self, held: Content) -> Secret | None:
        """Return what consumers read, None if the key is absent or nothing is there."""
        if not self.fields:
            found: str | None = held.data.decode(errors="replace")
        else:
            found = _json.value(held.data, self.key)
        return Secret(found) if found else None

    @property
    def label(self) -> str:
        """Names the metadata of this delivery among those of others that write keys of the same object."""
        return f"rotator-{hashlib.sha256(self.key.encode()).hexdigest()[:8]}" if self.fields else "rotator"


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is noted beside a value: whose it is, never the value.

    Attributes:
        version: Of the object that holds it; a mark counts for no other.
        over: The version that this very write replaced; empty where there was none, or nobody can say.
    """

    mint: str
    token: str = ""
    lineage: str = ""
    at: str = ""
    print: str = ""
    version: str = ""
    over: str = ""

    @classmethod
    def of(cls, mint: Mint, version: str = "", over: str = "") -> "Mark":
        """Return the mark of a mint."""
        return cls(mint.id, mint.token_id, mint.lineage, stamp(mint.rotated_at), mint.fingerprint, version, over)

    @classmethod
    def parse(cls, text: str) -> "Mark | None":
        """Return the mark that the text is, None if it is none of ours."""
        try:
            return msgspec.json.decode(text, type=cls)
        except (msgspec.DecodeError, msgspec.ValidationError):
            return None

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()
