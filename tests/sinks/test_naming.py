"""Names of places: what untrusted values become, and that no two values ever share one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.errors import Permanent
from rotator.sinks._fields import FieldsOptions, secret_key, used_facts
from rotator.sinks._naming import Naming
from tests.sinks.contract import HOSTILE_NAMES, facts

LOWER = Naming(
    clean=re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?"),
    dirty=re.compile(r"[^a-z0-9]+"),
    literal=re.compile(r"[a-z0-9-]+"),
    rule="use lower-case letters, digits and dashes",
    longest=63,
    fold=str.lower,
)


def spelt(value: str) -> str:
    return LOWER.rendered(LOWER.parse("{name}"), facts(name=value))


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ("svc-airflow", "svc-airflow"),
        ("Svc Airflow", r"svc-airflow-[0-9a-f]{16}"),
        ("a/../b", r"a-b-[0-9a-f]{16}"),
        ("🔑", r"[0-9a-f]{16}"),
        ("n" * 64, r"n{46}-[0-9a-f]{16}"),
    ],
)
def test_a_clean_value_stands_and_any_other_stays_recognisable(value: str, name: str) -> None:
    """People find the token by the name of its place, whatever it is called."""
    assert re.fullmatch(name, spelt(value))


@given(st.lists(st.text(min_size=1, max_size=80) | st.sampled_from(HOSTILE_NAMES), unique=True, max_size=8))
def test_no_two_values_share_a_name(values: list[str]) -> None:
    """Values that differ get names that differ, all of them legal, also when one imitates the other's spelling."""
    imitations = [spelt(value) for value in values]
    names = [spelt(value) for value in {*values, *imitations}]
    assert len(set(names)) == len(names)
    assert all(len(name) <= LOWER.longest and LOWER.clean.fullmatch(name) for name in names)


def test_long_values_share_the_length_among_them() -> None:
    """Several placeholders fit together although each alone would fill the name."""
    name = LOWER.rendered(LOWER.parse("{scope}-{name}"), facts(scope="s" * 60, name="n" * 60))
    assert len(name) <= LOWER.longest


@pytest.mark.parametrize("text", ["", "Upper-{name}", "a/{name}", "{nmae}", "{name}" * 5, "x" * 64])
def test_a_template_that_could_give_no_legal_name_is_refused_at_load(text: str) -> None:
    """A mistake in the file is a config error, not a surprise at the first rotation."""
    with pytest.raises(ValueError, match=r"lower-case|unknown placeholder|too long"):
        LOWER.parse(text)


def test_an_empty_value_names_no_place() -> None:
    """A placeholder without a value is refused by its name."""
    with pytest.raises(Permanent, match="name is empty"):
        spelt("")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"token": "{token_id}"}, "need one key that is exactly"),
        ({"token": "{secret}", "": "x"}, "cannot be a key"),
        ({"token": "{secret}", "a\nb": "x"}, "cannot be a key"),
        ({"token": "{secrte}"}, "did you mean {secret}"),
    ],
)
def test_fields_that_could_not_be_read_back_are_refused(fields: dict[str, str], said: str) -> None:
    """Every field renders, and one of them is the secret alone."""
    with pytest.raises(ValueError, match=re.escape(said)):
        FieldsOptions.model_validate({"fields": fields})


def test_only_facts_that_fields_use_are_journalled() -> None:
    """What a place does not need does not travel with it."""
    fields = {"token": "{secret}", "who": "{name} in {workspace_id}", "until": "{end_at}"}
    assert used_facts(fields, facts()) == {"name": "svc-airflow", "workspace_id": "clws1"}
    assert secret_key(fields) == "token"
