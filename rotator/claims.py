"""What a JWT says of itself, decoded without verifying: hints, never proof. Pure."""

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from rotator.secret import Secret

_LONGEST = 16384


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of an Astro token that help us; empty or None where absent."""

    token_id: str
    organization_id: str
    issued_at: datetime | None
    expires_at: datetime | None


class _Payload(msgspec.Struct):
    apiTokenId: str = ""  # noqa: N815 - the API's spelling
    org_id: str = ""
    iat: float | None = None
    exp: float | None = None


def claims(secret: Secret) -> Claims | None:
    """Return what the token says, None if it is no JWT with readable claims."""
    parts = secret.reveal().split(".")
    if len(parts) != 3 or len(parts[1]) > _LONGEST:
        return None
    try:
        raw = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
        payload = msgspec.json.decode(raw, type=_Payload)
        return Claims(payload.apiTokenId, payload.org_id, _moment(payload.iat), _moment(payload.exp))
    except (binascii.Error, msgspec.MsgspecError, ValueError, OverflowError, OSError):
        return None


def _moment(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
