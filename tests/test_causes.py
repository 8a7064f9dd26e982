"""Why TLS trusted nobody, found wherever a library has put it."""

import ssl
from collections.abc import Callable

import pytest
from urllib3.util.ssl_match_hostname import CertificateError

from rotator.causes import causes, distrust


def expired() -> ssl.SSLCertVerificationError:
    """As OpenSSL says it, with an escape sequence in the host's name."""
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_message = "certificate is not valid for 'a\x1b[2J'"
    return error


class Wrapped(Exception):
    """As urllib3 and SDKs wrap."""

    reason: BaseException | None = None


def as_cause() -> Exception:
    """`raise … from`."""
    try:
        raise ValueError from expired()
    except ValueError as error:
        return error


def hidden() -> Exception:
    """`raise … from None`, as httpcore does; what was handled is still there."""
    try:
        try:
            raise expired()
        except ssl.SSLError:
            raise ValueError from None
    except ValueError as error:
        return error


def as_reason() -> Exception:
    """In an attribute, two levels deep."""
    inner, outer = Wrapped(), Wrapped()
    inner.reason, outer.reason = expired(), inner
    return outer


@pytest.mark.parametrize("made", [expired, as_cause, hidden, as_reason, lambda: ValueError("x", expired())])
def test_the_reason_is_found_and_safe_to_show(made: Callable[[], Exception]) -> None:
    """Itself, as cause, as context, in an attribute, among the arguments."""
    assert distrust(made()) == "certificate is not valid for 'a\\x1b[2J'"


def test_a_name_that_urllib3_compared_itself_is_told_without_its_words() -> None:
    """They quote the certificate."""
    refused = CertificateError("hostname 'localhost' doesn't match 'theirs'")
    assert distrust(ValueError(refused)) == "hostname mismatch"


def test_other_failures_are_no_distrust() -> None:
    """Nor is a TLS failure of another kind, nor one that leads to itself."""
    loop = Wrapped()
    loop.reason = loop
    assert distrust(ssl.SSLError(1, "wrong version number")) is None
    assert distrust(loop) is None
    assert causes(loop) == [loop]
