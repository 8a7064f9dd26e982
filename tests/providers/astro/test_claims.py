"""What a JWT says of itself."""

import base64
from datetime import UTC, datetime

import pytest

from rotator.claims import Claims, claims
from rotator.secret import Secret
from tests.providers.astro.fakes import jwt


def test_the_claims_of_a_token_are_read_without_verifying() -> None:
    """Token, organization and times come from the payload; the signature is nobody's business here."""
    found = claims(jwt({"apiTokenId": "t1", "org_id": "o1", "iat": 1767225600, "exp": 1767225600.5, "more": [1]}))
    issued = datetime(2026, 1, 1, tzinfo=UTC)
    assert found == Claims("t1", "o1", issued, issued.replace(microsecond=500_000))


def test_absent_claims_are_empty() -> None:
    """A JWT that says nothing of use is still a JWT."""
    assert claims(jwt({"apiTokenId": None})) == Claims("", "", None, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no-jwt",
        "a.b",
        "a.b.c.d",
        "a.!!!.c",
        "a.é.c",
        "a..c",
        f"a.{base64.urlsafe_b64encode(b'not json').decode()}.c",
        jwt([1, 2]).reveal(),
        jwt({"apiTokenId": 5}).reveal(),
        jwt({"exp": "soon"}).reveal(),
        jwt({"exp": 1e300}).reveal(),
        jwt({"apiTokenId": "x" * 20_000}).reveal(),
        f"a.{base64.urlsafe_b64encode(b'[' * 9000).decode()}.c",
    ],
)
def test_anything_else_is_no_claim(text: str) -> None:
    """Bad base64, wrong types, impossible times and oversized values give None, never an exception."""
    assert claims(Secret(text)) is None
