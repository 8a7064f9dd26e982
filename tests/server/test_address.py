"""Where the server listens, and by which names it may be called."""

import pytest

from rotator.server.address import Address, is_welcome

LOOPBACK, EVERYWHERE = Address("127.0.0.1", 9464), Address("0.0.0.0", 9464)


@pytest.mark.parametrize(
    ("text", "host", "port", "shown", "is_loopback"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464, "127.0.0.1:9464", True),
        ("localhost:80", "127.0.0.1", 80, "127.0.0.1:80", True),
        ("[::1]:9464", "::1", 9464, "[::1]:9464", True),
        ("[0:0:0:0:0:0:0:1]:0", "::1", 0, "[::1]:0", True),
        ("127.8.9.10:1", "127.8.9.10", 1, "127.8.9.10:1", True),
        ("0.0.0.0:65535", "0.0.0.0", 65535, "0.0.0.0:65535", False),
        ("[::]:9464", "::", 9464, "[::]:9464", False),
        ("10.1.2.3:9464", "10.1.2.3", 9464, "10.1.2.3:9464", False),
    ],
)
def test_forms(text: str, host: str, port: int, shown: str, is_loopback: bool) -> None:
    """Addresses of both families are understood, written back in one form, and known as loopback or not."""
    found = Address.parse(text)
    assert (found.host, found.port, str(found), found.is_loopback) == (host, port, shown, is_loopback)


@pytest.mark.parametrize(
    "text",
    ["", "9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "::1:9464", "[::1]", "rotator.example:80",
     "300.0.0.1:80", "[127.0.0.1]:80x", "127.0.0.1:９４６４", "unix:/run/x", "127.0.0.1:80\nx"],
)  # fmt: skip
def test_what_is_no_address_is_refused(text: str) -> None:
    """Anything else is refused with the forms that there are."""
    with pytest.raises(ValueError, match=r"IP address with a port.*127\.0\.0\.1:9464"):
        Address.parse(text)


@pytest.mark.parametrize(
    ("header", "is_good"),
    [
        (None, True),  # HTTP/1.0; a browser always sends one
        ("127.0.0.1:9464", True),
        ("127.0.0.1", True),
        ("localhost:8080", True),  # a forwarded port
        ("LocalHost", True),
        ("[::1]:9464", True),
        ("192.0.2.7", True),  # a number cannot be rebound
        ("rotator.internal:443", True),
        ("evil.example", False),
        ("evil.example:9464", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_a_name_that_was_rebound_is_refused(header: str | None, is_good: bool) -> None:
    """On loopback only numbers, localhost and configured names are answered."""
    assert is_welcome(header, LOOPBACK, {"rotator.internal"}) is is_good


def test_away_from_loopback_names_are_asked_only_where_some_are_configured() -> None:
    """Whoever opens the address to others may be called anything, until the config says by which names."""
    assert is_welcome("rotator.example", EVERYWHERE, ())
    assert not is_welcome("rotator.example", EVERYWHERE, {"other.example"})
    assert is_welcome("10.0.0.1:9464", EVERYWHERE, {"other.example"})
