"""Untrusted text that people read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.text import visible

ANYTHING = st.text(st.characters(codec=None, exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("svc-airflow", "svc-airflow"),
        ("Zoë 日本 🔑", "Zoë 日本 🔑"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("two\nlines\ttab\r", "two\\x0alines\\x09tab\\x0d"),
        ("c1\x9b31m", "c1\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("a\u200bb\ufeff", "a\\u200bb\\ufeff"),
        ("a\u2028b\u2029", "a\\u2028b\\u2029"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
        ("\ufe0f\u3164", "\\ufe0f\\u3164"),
        ("C:\\x", "C:\\x"),
        ("", ""),
    ],
)
def test_what_is_not_seen_is_escaped(text: str, shown: str) -> None:
    """Ordinary text in any script stays, whatever hides or moves things is spelt out."""
    assert visible(text) == shown


@given(ANYTHING, st.integers(1, 200))
def test_it_is_one_short_printable_line(text: str, limit: int) -> None:
    """Whatever comes in, what goes out is printable, encodable and bounded."""
    shown = visible(text, limit)
    assert len(shown) <= limit
    assert shown.isprintable()
    shown.encode()


@given(ANYTHING)
def test_showing_twice_changes_nothing(text: str) -> None:
    """Messages may pass through more than one hand."""
    assert visible(visible(text, 10_000), 10_000) == visible(text, 10_000)


def test_long_text_ends_in_an_ellipsis_between_escapes() -> None:
    """A cut never leaves half an escape behind."""
    assert visible("abcdef", 6) == "abcdef"
    assert visible("abcdefg", 6) == "abcde…"
    assert visible("abc\x1b\x1b", 8) == "abc\\x1b…"


def test_a_huge_text_is_not_read_to_its_end() -> None:
    """A name of a hundred megabytes costs no more than the part that is shown."""
    assert visible("a" * 100_000_000, 10) == "a" * 9 + "…"
