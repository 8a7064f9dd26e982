"""The Astro API's JSON as msgspec Structs, and their way into `model`.

Unknown fields are ignored and optional ones may be missing: the generations differ, and each of them has changed
without notice. The secret becomes a `Secret` as soon as it is decoded.

Source: the OpenAPI documents of v1 and iam v1beta1, and the generated client of v1alpha1.
"""

from datetime import UTC, datetime, timedelta

import msgspec

from rotator.model import Generation, Minted, Role, Scope, Token
from rotator.secret import Secret

SCOPES = {"ORGANIZATION": Scope.ORGANIZATION, "WORKSPACE": Scope.WORKSPACE, "DEPLOYMENT": Scope.DEPLOYMENT}


class WireRole(msgspec.Struct, rename="camel"):
    """ApiTokenRole."""

    entity_id: str = ""
    entity_type: str = ""
    role: str = ""
    deployment_id: str = ""


class WireToken(msgspec.Struct, rename="camel"):
    """ApiToken; `scope` in v1, `type` in the others."""

    id: str
    name: str
    created_at: datetime
    scope: str = ""
    type: str = ""
    description: str = ""
    kind: str = "STANDARD"
    short_token: str = ""
    start_at: datetime | None = None
    end_at: datetime | None = None
    expiry_period_in_days: int | None = None
    last_rotated_at: datetime | None = None
    last_used_at: datetime | None = None
    roles: list[WireRole] = []
    token: str | None = None


class WirePage(msgspec.Struct, rename="camel"):
    """ApiTokensPaginated; `apiTokens` in v1alpha1."""

    total_count: int
    tokens: list[WireToken] = []
    api_tokens: list[WireToken] = []

    @property
    def items(self) -> list[WireToken]:
        """The tokens, whatever the generation calls them."""
        return self.tokens or self.api_tokens


class WireError(msgspec.Struct, rename="camel"):
    """Error: what the application itself answers; the edge answers plain text."""

    message: str
    status_code: int
    request_id: str = ""


_page = msgspec.json.Decoder(WirePage)
_token = msgspec.json.Decoder(WireToken)
_error = msgspec.json.Decoder(WireError)


def decode_page(body: bytes) -> WirePage:
    """Return a page of a listing; raises msgspec.MsgspecError."""
    return _page.decode(body)


def decode_error(body: bytes) -> WireError | None:
    """Return the application's error, None if the body is the edge's or garbage."""
    try:
        return _error.decode(body)
    except msgspec.MsgspecError:
        return None


def decode_token(body: bytes, organization_id: str) -> Token:
    """Return a token; raises msgspec.MsgspecError, also for a scope we do not know."""
    wire = _token.decode(body)
    token = to_token(wire, organization_id)
    if token is None:
        raise msgspec.ValidationError("a token of a kind that cannot be rotated")
    return token


def decode_minted(body: bytes, organization_id: str) -> Minted:
    """Return what create or rotate answered; raises msgspec.MsgspecError, also when the secret is missing."""
    wire = _token.decode(body)
    token = to_token(wire, organization_id)
    if token is None or not wire.token:
        raise msgspec.ValidationError("no secret in the answer")
    return Minted(token, Secret(wire.token))


def to_token(wire: WireToken, organization_id: str, workspace_id: str = "") -> Token | None:
    """Return our view of a token, None for a scope that we do not rotate (such as AGENT).

    Args:
        wire: As decoded.
        organization_id: The organization that was asked.
        workspace_id: The workspace that was listed, for deployment-scoped tokens, which do not say theirs.
    """
    scope = SCOPES.get(wire.scope or wire.type)
    if scope is None:
        return None
    home = next((role.entity_id for role in wire.roles if SCOPES.get(role.entity_type) is scope), "")
    start = _aware(wire.start_at or wire.created_at)
    rotated, end = _maybe(wire.last_rotated_at), _maybe(wire.end_at)
    return Token(
        id=wire.id,
        name=wire.name,
        scope=scope,
        organization_id=organization_id,
        generation=Generation(rotated, start),
        created_at=_aware(wire.created_at),
        description=wire.description,
        workspace_id=home if scope is Scope.WORKSPACE else workspace_id if scope is Scope.DEPLOYMENT else "",
        deployment_id=home if scope is Scope.DEPLOYMENT else "",
        kind=wire.kind,
        end_at=end,
        life=_life(wire, rotated or start, end),
        last_used_at=_maybe(wire.last_used_at),
        short_token=wire.short_token,
        roles=tuple([Role(r.entity_type, r.entity_id, r.role, r.deployment_id) for r in wire.roles]),
    )


def _life(wire: WireToken, made: datetime, end: datetime | None) -> timedelta | None:
    if end is None:
        return None
    if wire.expiry_period_in_days:
        return timedelta(days=wire.expiry_period_in_days)
    return end - made if end > made else None


def _maybe(moment: datetime | None) -> datetime | None:
    return None if moment is None else _aware(moment)


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
