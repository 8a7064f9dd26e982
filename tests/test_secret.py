"""The secret's own type: compared and encoded whatever it holds, shown by nothing."""

import pytest

from rotator.journal.sealing import Fingerprints
from rotator.secret import Secret

ODD = "\ud800lone"


def test_lone_surrogates_are_compared_and_encoded_without_an_error_that_shows_them() -> None:
    """What a JSON sink may hold compares, has a fingerprint, and comes back from its encoded form."""
    odd = Secret(ODD)
    assert odd == Secret(ODD)
    assert odd != Secret("other")
    assert Fingerprints(b"k" * 32).of(odd) != Fingerprints(b"k" * 32).of(Secret("other"))
    assert Secret.decoded(odd.encoded()) == odd


@pytest.mark.parametrize("show", [str, repr, "{}".format, "{:>9}".format])
def test_nothing_shows_it(show: object) -> None:
    """str, repr and format give the mask alone."""
    assert show(Secret("canary")) == "Secret(***)"  # type: ignore[operator]
