"""What a JWT says of itself, decoded without verifying: hints that tell tokens apart, never proof. Pure."""

import base64
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from rotator.secret import Secret

_LONGEST = 16384  # characters; Astro's tokens have about a thousand


@dataclass(frozen=True, slots=True)
class Claims:
    """The claims of an Astro token that help us; empty or None where absent. Times are aware UTC."""

    token_id: str
    organization_id: str
    issued_at: datetime | None
    expires_at: datetime | None


class _Payload(msgspec.Struct):
    apiTokenId: str | None = None  # noqa: N815 - the API's spelling
    org_id: str | None = None
    iat: float | None = None
    exp: float | None = None


_decoder = msgspec.json.Decoder(_Payload)


def claims(secret: Secret) -> Claims | None:
    """Return what the token says, None if it is no JWT with readable claims.

    Source: RFC 7519, section 3, for the form; `apiTokenId` and `org_id` as the Astro CLI reads them.
    """
    if len(secret.reveal()) > _LONGEST or secret.reveal().count(".") != 2:
        return None
    try:
        payload = _decoder.decode(_unpadded(secret.reveal().split(".")[1]))
        return Claims(payload.apiTokenId or "", payload.org_id or "", _moment(payload.iat), _moment(payload.exp))
    except (msgspec.MsgspecError, ValueError, OverflowError, OSError, RecursionError):
        return None


def _unpadded(part: str) -> bytes:
    return base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)


def _moment(epoch_s: float | None) -> datetime | None:
    return None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
