"""What the sinks that hand secrets to somebody's own code share: the key of a place, and the event that is told. Pure.

A receiver gets one JSON object for each of three events: `token.preflight` (could you store this key?), `token.deliver`
(store this secret) and `token.verify` (which mint do you hold?). Only `token.deliver` carries a secret.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator

from rotator.credentials import Reference
from rotator.model import Mint
from rotator.sinks._naming import Naming
from rotator.templates import PLACEHOLDERS
from rotator.text import visible
from rotator.timing import parse_duration, stamp

KEY = Naming(
    clean=re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+=-]*"),
    dirty=re.compile(r"[^A-Za-z0-9_.@+=-]+"),
    literal=re.compile(r"[A-Za-z0-9_.@+=/:-]*"),
    rule="must be made of letters, digits and _ . @ + = / : - besides placeholders",
)


class Action(StrEnum):
    """What a receiver is asked for."""

    PREFLIGHT = "preflight"
    DELIVER = "deliver"
    VERIFY = "verify"


class KeyedOptions(BaseModel):
    """A deliver block of a sink whose receiver stores secrets under keys."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    key: str = Field("{name}", description="What the receiver shall store the secret under. Values are cleaned.")

    @field_validator("key")
    @classmethod
    def _named(cls, text: str) -> str:
        KEY.parse(text)
        return text


@dataclass(frozen=True, slots=True)
class Target:
    """A place as it is journalled; where its receiver is comes from the sink, so that a journal cannot redirect it.

    Attributes:
        path: Of the URL, for receivers that have one.
        facts: All that are known of the token when the place is resolved. Untrusted.
    """

    key: str
    facts: dict[str, str]
    path: str = ""

    def builtins(self) -> dict[str, object]:
        """Return it as it is journalled."""
        return {"key": self.key, "facts": self.facts, "path": self.path}


def target(key: str, facts: Mapping[str, str], path: str = "") -> Target:
    """Return where a delivery goes; raises Permanent if a placeholder is empty."""
    known = {name: facts.get(name, "") for name in PLACEHOLDERS}
    return Target(KEY.rendered(KEY.parse(key), facts), known, path)


def question(action: Action, target: Target, asked_at: str) -> bytes:
    """Return an event without a secret.

    Args:
        action: `PREFLIGHT` or `VERIFY`.
        target: Of which place.
        asked_at: RFC 3339.
    """
    known = {name: value for name, value in target.facts.items() if name != "token_id"}
    data = {"key": target.key, "lineage": target.facts.get("token_id", ""), **known}
    return _encoded(action, asked_at, data)


def delivery(target: Target, mint: Mint) -> bytes:
    """Return the event that carries the secret: plain text, so keep it no longer than sending takes."""
    return _encoded(Action.DELIVER, stamp(mint.rotated_at), _told(target, mint))


def _told(target: Target, mint: Mint) -> dict[str, str | None]:
    return {
        "key": target.key,
        **target.facts,
        "lineage": mint.lineage or target.facts.get("token_id", ""),
        "token_id": mint.token_id,
        "mint_id": mint.id,
        "rotation_id": mint.rotation_id,
        "rotated_at": stamp(mint.rotated_at),
        "end_at": stamp(mint.end_at) if mint.end_at else None,
        "fingerprint": mint.fingerprint,
        "secret": mint.secret.reveal(),
    }


def _encoded(action: Action, timestamp: str, told: Mapping[str, str | None]) -> bytes:
    # ASCII, for names may hold lone surrogates, which no UTF-8 has
    return json.dumps({"type": f"token.{action}", "timestamp": timestamp, "data": told}, separators=(",", ":")).encode()


def _duration(text: str) -> str:
    if not parse_duration(text):
        raise ValueError('must be longer than nothing, such as "30s"')
    return text


def _referenced(text: str) -> str:
    Reference.parse(text)
    return text


def seen(text: str) -> str:
    """Return a text of the configuration whose characters all can be seen; raises ValueError."""
    if visible(text, len(text)) != text:
        raise ValueError("contains characters that cannot be seen")
    return text


DurationText = Annotated[str, AfterValidator(_duration)]
ReferenceText = Annotated[str, AfterValidator(_referenced)]
