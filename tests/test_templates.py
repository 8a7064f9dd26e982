"""Placeholders in paths and fields."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import Permanent
from rotator.model import Mint
from rotator.secret import Secret
from rotator.templates import FIELD_PLACEHOLDERS, PLACEHOLDERS, Template, render_fields

FACTS = dict.fromkeys(PLACEHOLDERS, "x") | {"name": "svc", "workspace_id": ""}


def mint(end_at: datetime | None = None) -> Mint:
    """Return one that was rotated at 05:00 in Berlin."""
    berlin = timezone(timedelta(hours=1))
    return Mint("m1", "r1", "t1", Secret("canary"), datetime(2026, 3, 4, 5, 0, tzinfo=berlin), end_at)


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("astro/{name}", "astro/svc"),
        ("{name}{name}", "svcsvc"),
        ("{{name}}", "{name}"),
        ("{{{name}}}", "{svc}"),
        ("plain", "plain"),
        ("", ""),
    ],
)
def test_placeholders_are_replaced(text: str, rendered: str) -> None:
    """A name in braces stands for its value, doubled braces for themselves."""
    assert Template.parse(text, PLACEHOLDERS).render(FACTS) == rendered


@pytest.mark.parametrize(
    "text",
    ["{name.__class__}", "{name!r}", "{name:>9}", "{name[0]}", "{}", "{0}", "{ name }", "{secret}", "{other}"],
)
def test_nothing_but_names_is_a_placeholder(text: str) -> None:
    """Attributes, conversions, formats, indexes and unknown names are refused, and the allowed ones listed."""
    with pytest.raises(ValueError, match=r"unknown placeholder .*allowed are token_id, name"):
        Template.parse(text, PLACEHOLDERS)


def test_the_nearest_name_is_suggested() -> None:
    """A typing error comes with what was probably meant."""
    with pytest.raises(ValueError, match=r"\{workspaceid\}; did you mean \{workspace_id\}\?"):
        Template.parse("{workspaceid}", PLACEHOLDERS)


@pytest.mark.parametrize("text", ["{name", "name}", "a}b", "{name}}", "{{name}"])
def test_lone_braces_are_refused(text: str) -> None:
    """A brace without its partner is said to need doubling."""
    with pytest.raises(ValueError, match="stands alone; double it"):
        Template.parse(text, PLACEHOLDERS)


def test_empty_values_are_refused() -> None:
    """A token without the thing that a path needs is told which."""
    with pytest.raises(Permanent, match="workspace_id is empty for this token"):
        Template.parse("{workspace_id}/{name}", PLACEHOLDERS).render(FACTS)


@given(st.text())
def test_values_are_never_templates(value: str) -> None:
    """Braces in a value mean nothing, and only values are escaped."""
    template = Template.parse("<{name}>", PLACEHOLDERS)
    if value:
        assert template.render({"name": value}) == f"<{value}>"
        assert template.render({"name": value}, escape=lambda text: text.encode().hex()) == f"<{value.encode().hex()}>"


@given(st.lists(st.sampled_from(["/", "a", "{name}", "{{", "}}", "{policy}"])))
def test_splitting_loses_nothing(pieces: list[str]) -> None:
    """The parts between separators, joined again, render as the whole; slashes in values do not split."""
    values = {"name": "a/b", "policy": "p"}
    template = Template.parse("".join(pieces), PLACEHOLDERS)
    parts = template.split("/")
    assert "/".join(part.render(values) for part in parts) == template.render(values)
    assert len(parts) == pieces.count("/") + 1


def test_fields_say_what_was_minted() -> None:
    """Times are UTC with a Z, and a token that never expires has an empty end."""
    fields = {"token": "{secret}", "url": "https://x:{secret}@{name}", "at": "{rotated_at}", "end": "{end_at}"}
    assert render_fields(fields, mint(), FACTS) == {
        "token": "canary",
        "url": "https://x:canary@svc",
        "at": "2026-03-04T04:00:00.000Z",
        "end": "",
    }
    assert render_fields({"end": "{end_at}"}, mint(datetime(2027, 1, 1, tzinfo=UTC)), {})["end"].endswith("00.000Z")
    assert render_fields({"id": "{rotation_id}"}, mint(), {}) == {"id": "r1"}


def test_facts_cannot_pose_as_the_mint() -> None:
    """A fact with the name of something minted is not used."""
    assert render_fields({"token": "{secret}"}, mint(), {"secret": "forged"}) == {"token": "canary"}


def test_fields_need_their_facts() -> None:
    """An empty fact in a field is refused like one in a path."""
    with pytest.raises(Permanent, match="workspace_id is empty"):
        render_fields({"token": "{secret}", "ws": "{workspace_id}"}, mint(), FACTS)


def test_only_fields_know_the_secret() -> None:
    """A path cannot be made of a secret."""
    assert "secret" in FIELD_PLACEHOLDERS
    assert "secret" not in PLACEHOLDERS
