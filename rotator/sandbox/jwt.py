"""JWTs of the shape the Astro API issues, signed with HMAC; the store mints them, the edge reads them back.

They prove something to this sandbox only. Never use this module to verify anybody else's tokens.

Source: fact sheet 2.6 for the claims; RFC 7515 and RFC 7519 for the form.
"""

import base64
import binascii
import enum
import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

_HEADER = {"alg": "HS256", "typ": "JWT", "kid": "sandbox"}


class Flaw(enum.StrEnum):
    """Why the edge refuses a bearer, in Envoy's own words."""

    FORM = "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
    EXPIRED = "Jwt is expired"
    SIGNATURE = "Jwt verification fails"


class Claims(msgspec.Struct, rename={"token_id": "apiTokenId"}):
    """The claims that the sandbox itself reads back."""

    token_id: str
    jti: str
    exp: int | None = None


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs and reads with one key."""

    key: bytes

    def sign(self, claims: Mapping[str, object]) -> str:
        """Return the JWT of these claims; the same claims give the same JWT."""
        head = f"{_encode(msgspec.json.encode(_HEADER))}.{_encode(msgspec.json.encode(claims))}"
        return f"{head}.{_encode(self._mac(head))}"

    def read(self, bearer: str, now_s: float) -> Claims | Flaw:
        """Return the claims, or why there are none; looks at the time before the signature, as Envoy does."""
        parts = bearer.split(".")
        if len(parts) != 3 or not all(parts):
            return Flaw.FORM
        try:
            claims = msgspec.json.decode(_decode(parts[1]), type=Claims)
            signature = _decode(parts[2])
        except (binascii.Error, ValueError, msgspec.MsgspecError):
            return Flaw.SIGNATURE
        if claims.exp is not None and claims.exp <= now_s:
            return Flaw.EXPIRED
        genuine = hmac.compare_digest(signature, self._mac(f"{parts[0]}.{parts[1]}"))
        return claims if genuine else Flaw.SIGNATURE

    def _mac(self, text: str) -> bytes:
        return hmac.digest(self.key, text.encode(), hashlib.sha256)


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
