"""The JSON of the API and what becomes of it."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from rotator.model import Role, Scope
from rotator.providers.astro.wire import (
    Home,
    decode_error,
    decode_minted,
    decode_page,
    decode_raw_minted,
    decode_raw_page,
    decode_raw_token,
    decode_token,
)
from tests.providers.astro.fakes import ORGANIZATION, error_json, page_json, token_json

HOME = Home(ORGANIZATION, "w0", "d0")
EVERY = frozenset(Scope)
CANARY = "canary.minted.secret"


def body(value: object) -> bytes:
    return json.dumps(value).encode()


def without(name: str, **more: object) -> dict[str, object]:
    shown = token_json(**more)
    del shown[name]
    return shown


def test_a_token_is_taken_over_field_by_field() -> None:
    """Everything that the engine decides on comes from its own field."""
    role = {"entityId": "d1", "entityType": "DEPLOYMENT", "role": "DEPLOYMENT_ADMIN"}
    dag = {"entityId": "dag", "entityType": "DAG", "role": "DAG_VIEWER", "deploymentId": "d1"}
    shown = token_json(
        scope="DEPLOYMENT",
        kind="DIRECT_ACCESS",
        description="what for",
        startAt="2026-09-03T14:04:23Z",
        lastRotatedAt="2026-09-03T16:04:23.5+02:00",
        endAt="2026-10-03T14:04:23.000001Z",
        lastUsedAt="2026-09-04T00:00:00Z",
        roles=[dag, role],
    )
    token = decode_token(body(shown), HOME)
    assert token is not None
    assert (token.id, token.name, token.scope, token.organization_id) == ("t1", "name of t1", "deployment", "clorg1")
    assert (token.workspace_id, token.deployment_id, token.kind) == ("w0", "d1", "DIRECT_ACCESS")
    assert token.generation.last_rotated_at == datetime(2026, 9, 3, 14, 4, 23, 500_000, tzinfo=UTC)
    assert token.generation.last_rotated_at.tzinfo is UTC
    assert token.generation.start_at == datetime(2026, 9, 3, 14, 4, 23, tzinfo=UTC)
    assert token.end_at == datetime(2026, 10, 3, 14, 4, 23, 1, tzinfo=UTC)
    assert token.last_used_at == datetime(2026, 9, 4, tzinfo=UTC)
    assert token.roles == (Role("DAG", "dag", "DAG_VIEWER", "d1"), Role("DEPLOYMENT", "d1", "DEPLOYMENT_ADMIN"))


@pytest.mark.parametrize(
    "shown",
    [
        without("description"),
        without("kind"),
        without("roles"),
        without("shortToken"),
        without("startAt"),
        without("updatedAt"),
        token_json(description=None, kind=None, roles=None, shortToken=None, startAt=None, endAt=None),
        token_json(somethingNew={"deep": [1]}, token="in a get"),
        without("scope", type="ORGANIZATION"),
    ],
)
def test_what_is_optional_may_be_missing_or_null(shown: dict[str, object]) -> None:
    """Whatever a generation leaves out has a default; the start of a secret is then that of the token."""
    token = decode_token(body(shown), HOME)
    assert token is not None
    assert (token.description, token.kind, token.end_at, token.life) == ("", "STANDARD", None, None)
    assert token.generation.start_at == token.created_at


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"null",
        b"[]",
        b'"canary"',
        body(without("id")),
        body(token_json(createdAt="2026-09-03T14:04:23")),
        body(token_json(endAt="soon")),
        body(token_json(createdAt="0001-01-01T00:00:00+02:00")),
        body(token_json(name=5)),
        body(token_json(scope="AGENT")),
        body(without("scope")),
        body(token_json())[:-1],
        body(token_json()).replace(b"name of", b"\xff\xfe"),
        b'{"x":' * 5000,
    ],
)
def test_what_is_no_token_is_none(wrong: bytes) -> None:
    """Truncated, of the wrong type, without a time zone, of a scope that is not rotated: None, never an exception."""
    assert decode_token(wrong, HOME) is None
    assert decode_minted(wrong, HOME) is None
    assert decode_page(wrong, "tokens", HOME, EVERY) is None
    assert decode_raw_page(wrong, "tokens", EVERY) is None


@pytest.mark.parametrize(
    ("fields", "life"),
    [
        ({"expiryPeriodInDays": 30, "endAt": "2030-01-01T00:00:00Z"}, timedelta(days=30)),
        ({"expiryPeriodInDays": 0, "endAt": "2026-09-04T14:04:23.101Z"}, timedelta(days=1)),
        ({"endAt": "2026-09-04T14:04:23.101Z"}, timedelta(days=1)),
        ({"endAt": "2026-09-05T00:00:00Z", "lastRotatedAt": "2026-09-04T00:00:00Z"}, timedelta(days=1)),
        ({"endAt": "2026-01-01T00:00:00Z"}, None),
        ({"expiryPeriodInDays": 10**12, "endAt": "2026-09-04T14:04:23.101Z"}, timedelta(days=1)),
        ({}, None),
    ],
)
def test_life_is_the_period_or_else_what_lies_between(fields: dict[str, object], life: timedelta | None) -> None:
    """From the latest rotation, or the start, to the end; None where that makes no sense."""
    token = decode_token(body(token_json(**fields)), HOME)
    assert token is not None
    assert token.life == life


@pytest.mark.parametrize(
    ("scope", "roles", "homes"),
    [
        ("ORGANIZATION", [("WORKSPACE", "w1")], ("", "")),
        ("WORKSPACE", [("DEPLOYMENT", "d1"), ("WORKSPACE", "w1")], ("w1", "")),
        ("WORKSPACE", [], ("w0", "")),
        ("DEPLOYMENT", [("DEPLOYMENT", "d1")], ("w0", "d1")),
        ("DEPLOYMENT", [("DAG", "x")], ("w0", "d0")),
    ],
)
def test_a_token_is_at_home_where_its_own_role_is(
    scope: str, roles: list[tuple[str, str]], homes: tuple[str, str]
) -> None:
    """Roles elsewhere do not move it; where it has none of its own scope, it is where it was asked for."""
    shown = token_json(scope=scope, roles=[{"entityType": k, "entityId": e, "role": "R"} for k, e in roles])
    token = decode_token(body(shown), HOME)
    assert token is not None
    assert (token.workspace_id, token.deployment_id) == homes


def test_another_organization_shows() -> None:
    """Where the API names the organization itself, that is what the token says."""
    token = decode_token(body(token_json(organizationId="clother")), HOME)
    assert token is not None
    assert token.organization_id == "clother"


def test_a_page_counts_what_it_does_not_want() -> None:
    """Agents and other scopes are listed by id only."""
    shown = page_json(["a", "b", "c"], 3)
    tokens = shown["tokens"]
    assert isinstance(tokens, list)
    tokens[0]["scope"], tokens[1]["scope"] = "AGENT", "WORKSPACE"
    page = decode_page(body(shown), "tokens", HOME, frozenset({Scope.ORGANIZATION}))
    assert page is not None
    assert (page.total, page.ids) == (3, ["a", "b", "c"])
    assert [row and row.id for row in page.rows] == [None, None, "c"]
    raw = decode_raw_page(body(shown), "tokens", frozenset({Scope.WORKSPACE}))
    assert raw is not None
    assert [row and row["id"] for row in raw.rows] == [None, "b", None]


@pytest.mark.parametrize(
    "shown", [{"tokens": []}, {"totalCount": 0}, {"totalCount": -1, "tokens": []}, {"apiTokens": [], "totalCount": 0}]
)
def test_a_page_without_its_list_or_count_is_none(shown: object) -> None:
    """A captive portal's JSON is not an empty organization."""
    assert decode_page(body(shown), "tokens", HOME, EVERY) is None
    assert decode_raw_page(body(shown), "tokens", EVERY) is None


@pytest.mark.parametrize("key", ["tokens", "apiTokens"])
def test_an_empty_list_may_be_null(key: str) -> None:
    """As Go writes it."""
    page = decode_page(body({key: None, "totalCount": 0}), key, HOME, EVERY)
    assert page is not None
    assert (page.total, page.rows) == (0, [])
    assert decode_raw_page(body({key: None, "totalCount": 0}), key, EVERY) is not None


def test_the_new_secret_is_a_secret_at_once() -> None:
    """No form of an answer shows it, ours or the provider's own."""
    minted = decode_minted(body(token_json(token=CANARY)), HOME)
    raw = decode_raw_minted(body(token_json(token=CANARY)), HOME)
    assert minted is not None
    assert raw is not None
    assert minted.secret.reveal() == raw.minted.secret.reveal() == CANARY
    assert raw.shown == token_json()
    assert CANARY not in repr((minted, raw))


@pytest.mark.parametrize("secret", [None, "", 5, [CANARY]])
def test_without_a_secret_nothing_was_minted(secret: object) -> None:
    """Null, empty or of another type is no secret."""
    assert decode_minted(body(token_json(token=secret)), HOME) is None
    assert decode_raw_minted(body(token_json(token=secret)), HOME) is None


def test_the_raw_form_never_has_a_secret() -> None:
    """Not even when the API answers a read with one."""
    assert decode_raw_token(body(token_json(token=CANARY))) == token_json()
    page = decode_raw_page(body({"tokens": [token_json(token=CANARY)], "totalCount": 1}), "tokens", EVERY)
    assert page is not None
    assert page.rows == [token_json()]


@pytest.mark.parametrize(
    ("shown", "is_own"),
    [
        (error_json(404), True),
        ({"message": "x", "statusCode": 404, "fieldErrors": []}, True),
        (error_json(400), False),
        ({"message": "x"}, False),
        ({"statusCode": 404}, False),
        ("x", False),
    ],
)
def test_the_applications_own_error_is_recognized(shown: object, *, is_own: bool) -> None:
    """By its message and its status, which is that of the answer."""
    assert (decode_error(body(shown), 404) is not None) is is_own
