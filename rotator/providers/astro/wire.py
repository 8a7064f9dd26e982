"""The Astro API's JSON as msgspec Structs, and their way into `model`; pure, and called by `provider` only.

Unknown fields are ignored and optional ones may be missing or null: the generations differ, and each of them has
changed without notice. The secret becomes a `Secret` while it is decoded. Every `decode_*` returns None for a body that
has not the right shape instead of raising: no frame that holds a body ever becomes part of a traceback.

Source: the OpenAPI documents of v1 and iam v1beta1, and the generated client of v1alpha1.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Annotated, Generic, TypeVar

import msgspec

from rotator.model import Generation, Minted, Role, Scope, Token
from rotator.secret import Secret

Row = TypeVar("Row")
Json = dict[str, object]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]  # a time without its zone is an error

_SCOPES = {"ORGANIZATION": Scope.ORGANIZATION, "WORKSPACE": Scope.WORKSPACE, "DEPLOYMENT": Scope.DEPLOYMENT}
_LONGEST_PERIOD = 100_000  # days; the API allows 3650, and timedelta has its own end
_BAD_BODY = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError)


class WireRole(msgspec.Struct, rename="camel", gc=False):
    """ApiTokenRole."""

    entity_id: str = ""
    entity_type: str = ""
    role: str = ""
    deployment_id: str | None = None


class WireSubject(msgspec.Struct, rename="camel", gc=False):
    """BasicSubjectProfile."""

    id: str = ""


class WireToken(msgspec.Struct, rename="camel", gc=False):
    """ApiToken; `scope` in v1, `type` in the others. It has no `token`, so that no listing can hold a secret."""

    id: str
    name: str
    created_at: Moment
    scope: str | None = None
    type: str | None = None
    description: str | None = None
    kind: str | None = None
    short_token: str | None = None
    organization_id: str | None = None
    start_at: Moment | None = None
    end_at: Moment | None = None
    expiry_period_in_days: int | None = None
    last_rotated_at: Moment | None = None
    last_used_at: Moment | None = None
    created_by: WireSubject | None = None
    created_by_id: str | None = None
    roles: list[WireRole] | None = None


class WireMinted(WireToken, gc=False):
    """ApiToken as create and rotate answer it."""

    token: Secret | None = None


class WirePage(msgspec.Struct, rename="camel", gc=False):
    """ApiTokensPaginated."""

    total_count: Annotated[int, msgspec.Meta(ge=0)]
    tokens: list[WireToken] | None


class NestedPage(msgspec.Struct, rename={"total_count": "totalCount", "tokens": "apiTokens"}, gc=False):
    """ListApiTokensPaginated of v1alpha1."""

    total_count: Annotated[int, msgspec.Meta(ge=0)]
    tokens: list[WireToken] | None


class WireError(msgspec.Struct, rename="camel"):
    """Error: what the application itself answers; the edge answers plain text."""

    message: str
    status_code: int
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Home:
    """Where a token was asked for: fills in what its own JSON does not say."""

    organization_id: str
    workspace_id: str = ""
    deployment_id: str = ""


@dataclass(frozen=True, slots=True)
class Page(Generic[Row]):
    """One page of a listing.

    Attributes:
        total: What the API says the whole listing has.
        ids: Of all tokens on the page, also of those that are not wanted.
        rows: One for each id; None where it is not wanted.
    """

    total: int
    ids: list[str]
    rows: list[Row | None]


@dataclass(frozen=True, slots=True)
class RawMinted:
    """What create or rotate answered, in the provider's own field names and in ours.

    Attributes:
        shown: Without the secret.
    """

    shown: Json
    minted: Minted


def _secret(_kind: type, value: object) -> Secret:
    return Secret(value)  # type: ignore[arg-type]  # Secret refuses what is no str, without repeating it


# Frozen values that repeat all over a listing.
_days = lru_cache(maxsize=64)(lambda days: timedelta(days=days))
_role = lru_cache(maxsize=1024)(Role)

_pages: dict[str, msgspec.json.Decoder[WirePage] | msgspec.json.Decoder[NestedPage]] = {
    "tokens": msgspec.json.Decoder(WirePage),
    "apiTokens": msgspec.json.Decoder(NestedPage),
}
_token = msgspec.json.Decoder(WireToken)
_minted = msgspec.json.Decoder(WireMinted, dec_hook=_secret)
_error = msgspec.json.Decoder(WireError)
_object = msgspec.json.Decoder(Json)


def decode_page(body: bytes, key: str, home: Home, scopes: frozenset[Scope]) -> Page[Token] | None:
    """Return a page of a listing.

    Args:
        body: As received.
        key: What the generation calls the list.
        home: What is known of all tokens on it.
        scopes: Those that are wanted; unknown scopes, such as AGENT, never are.
    """
    try:
        page = _pages[key].decode(body)
        wires = page.tokens or []
        found = [(wire, _scope(wire)) for wire in wires]
        rows = [to_token(wire, scope, home) if scope in scopes else None for wire, scope in found]
        return Page(page.total_count, [wire.id for wire in wires], rows)
    except _BAD_BODY:
        return None


def decode_raw_page(body: bytes, key: str, scopes: frozenset[Scope]) -> Page[Json] | None:
    """Return a page whose rows are the provider's own objects."""
    try:
        page = _pages[key].decode(body)
        wires, shown = page.tokens or [], msgspec.convert(_object.decode(body)[key] or [], list[Json])
        rows = [
            _without_secret(row) if _scope(wire) in scopes else None for wire, row in zip(wires, shown, strict=True)
        ]
        return Page(page.total_count, [wire.id for wire in wires], rows)
    except _BAD_BODY:
        return None


def decode_token(body: bytes, home: Home) -> Token | None:
    """Return a token; None also for a scope that we do not rotate."""
    try:
        wire = _token.decode(body)
        scope = _scope(wire)
        return None if scope is None else to_token(wire, scope, home)
    except _BAD_BODY:
        return None


def decode_raw_token(body: bytes) -> Json | None:
    """Return a token as the provider's own object, without the secret."""
    try:
        _token.decode(body)  # the shape is checked all the same
        return _without_secret(_object.decode(body))
    except _BAD_BODY:
        return None


def decode_minted(body: bytes, home: Home) -> Minted | None:
    """Return what create or rotate answered; None also when the secret is missing."""
    try:
        wire = _minted.decode(body)
        scope = _scope(wire)
        return Minted(to_token(wire, scope, home), wire.token) if scope is not None and wire.token else None
    except _BAD_BODY:
        return None


def decode_raw_minted(body: bytes, home: Home) -> RawMinted | None:
    """Return what create or rotate answered, in both forms."""
    minted, shown = decode_minted(body, home), decode_raw_token(body)
    return None if minted is None or shown is None else RawMinted(shown, minted)


def decode_done(body: bytes) -> bool | None:
    """Return True for an object or nothing, where that is all a call tells; None for a captive portal's page."""
    try:
        return not body.strip() or isinstance(_object.decode(body), dict)
    except _BAD_BODY:
        return None


def decode_error(body: bytes, status: int) -> WireError | None:
    """Return the application's error; None if the body is the edge's, somebody else's or garbage."""
    try:
        error = _error.decode(body)
    except _BAD_BODY:
        return None
    return error if error.status_code == status else None


def to_token(wire: WireToken, scope: Scope, home: Home) -> Token:
    """Return our view of a token."""
    start = _utc(wire.start_at or wire.created_at)
    rotated = None if wire.last_rotated_at is None else _utc(wire.last_rotated_at)
    end = None if wire.end_at is None else _utc(wire.end_at)
    workspace_id, deployment_id = _homes(wire, scope, home)
    return Token(
        id=wire.id,
        name=wire.name,
        scope=scope,
        organization_id=wire.organization_id or home.organization_id,
        generation=Generation(rotated, start),
        created_at=_utc(wire.created_at),
        description=wire.description or "",
        workspace_id=workspace_id,
        deployment_id=deployment_id,
        kind=wire.kind or "STANDARD",
        end_at=end,
        life=_life(wire.expiry_period_in_days, rotated or start, end),
        last_used_at=None if wire.last_used_at is None else _utc(wire.last_used_at),
        short_token=wire.short_token or "",
        roles=tuple([_role(r.entity_type, r.entity_id, r.role, r.deployment_id or "") for r in wire.roles or ()]),
        created_by=wire.created_by_id or (wire.created_by.id if wire.created_by else ""),
    )


def _scope(wire: WireToken) -> Scope | None:
    return _SCOPES.get(wire.scope or wire.type or "")


def _homes(wire: WireToken, scope: Scope, home: Home) -> tuple[str, str]:
    """Return workspace and deployment id: from the token's role of its own scope, or from where it was asked for."""
    if scope is Scope.ORGANIZATION:
        return "", ""
    own = ""
    for role in wire.roles or ():
        if _SCOPES.get(role.entity_type) is scope:
            own = role.entity_id
            break
    return (
        (own or home.workspace_id, "") if scope is Scope.WORKSPACE else (home.workspace_id, own or home.deployment_id)
    )


def _life(period_days: int | None, made: datetime, end: datetime | None) -> timedelta | None:
    if period_days is not None and 0 < period_days <= _LONGEST_PERIOD:
        return _days(period_days)
    return end - made if end is not None and end > made else None


def _utc(moment: datetime) -> datetime:
    return moment if moment.tzinfo is UTC else moment.astimezone(UTC)


def _without_secret(shown: Json) -> Json:
    shown.pop("token", None)
    return shown
