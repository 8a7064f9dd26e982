"""What each answer and each exception means: tables, one row a case."""

import json
import socket
import ssl
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.providers.astro.failures import (
    BAD_BODY,
    CERTIFICATE,
    EXCEPTIONS,
    TOO_LARGE,
    TOO_LATE,
    Answer,
    Fate,
    Fault,
    Operation,
    failure_of,
    fault_of,
    http_date,
    retry_after,
    verdict,
)
from tests.providers.astro.fakes import REQUEST_ID, START, error_json

CANARY = "canary-in-the-body"
AGAIN = [operation for operation in Operation if operation.is_repeatable]
ONCE = [operation for operation in Operation if not operation.is_repeatable]
EVERY = list(Operation)
TEXT, HTML = CANARY.encode(), f"<html>{CANARY}".encode()
OTHER_JSON = json.dumps({"error": CANARY}).encode()


def own(status: int) -> bytes:
    return json.dumps(error_json(status, CANARY)).encode()


ROWS: list[tuple[list[Operation], int, bytes, type[RotatorError] | None]] = [
    (EVERY, 200, b"{}", None),
    (EVERY, 201, b"{}", None),
    (EVERY, 204, b"", None),
    # certainly without effect, whatever the call
    (EVERY, 400, own(400), Permanent),
    (EVERY, 401, own(401), CredentialRejected),
    (EVERY, 401, b"Jwt is expired", CredentialRejected),
    (EVERY, 401, b"", CredentialRejected),
    (EVERY, 403, own(403), Forbidden),
    (EVERY, 403, b"RBAC: access denied", CredentialRejected),
    (EVERY, 404, own(404), NotFound),
    ([o for o in EVERY if o is not Operation.WRITE], 409, own(409), Permanent),
    ([Operation.WRITE], 409, own(409), Temporary),  # what it was made from has changed: read again
    (EVERY, 429, own(429), Throttled),
    (EVERY, 429, b"local_rate_limited", Throttled),
    (EVERY, 429, HTML, Throttled),
    # the same statuses from somewhere else prove nothing
    *[
        (operations, status, body, kind)
        for operations, kind in ((AGAIN, Temporary), (ONCE, OutcomeUnknown))
        for status, body in (
            (400, TEXT),
            (401, HTML),
            (403, HTML),
            (403, OTHER_JSON),
            (404, TEXT),
            (404, HTML),
            (404, own(400)),
            (409, TEXT),
            (202, b""),
            (408, own(408)),
            *((status, body) for status in (500, 502, 503, 504) for body in (own(status), TEXT, HTML)),
        )
    ],
    # what only a call that may be repeated can be sure of
    (AGAIN, 405, own(405), Permanent),
    (AGAIN, 422, own(422), Permanent),
    (AGAIN, 302, b"", Permanent),
    (ONCE, 405, own(405), OutcomeUnknown),
    (ONCE, 422, own(422), OutcomeUnknown),
    (ONCE, 302, b"", OutcomeUnknown),
]


@pytest.mark.parametrize(
    ("operation", "status", "body", "kind"),
    [(operation, status, body, kind) for operations, status, body, kind in ROWS for operation in operations],
)
def test_each_answer_means_one_thing(
    operation: Operation, status: int, body: bytes, kind: type[RotatorError] | None
) -> None:
    """Status, author and whether the call may be repeated decide; the body is never quoted."""
    failure = failure_of(operation, "t1", Answer(status, body), START)
    assert (failure and type(failure)) is kind
    assert CANARY not in repr(failure)
    if failure is not None:
        assert failure.message.startswith(f"{operation} t1: ")
        assert f"({status})" in failure.message


def test_only_a_proper_request_id_is_repeated() -> None:
    """It helps the vendor's support; anything that is not a UUID is the vendor's text and stays out."""
    told = failure_of(Operation.GET, "t1", Answer(404, own(404)), START)
    assert told is not None
    assert REQUEST_ID in told.message
    forged = json.dumps(error_json(404) | {"requestId": CANARY}).encode()
    assert CANARY not in str(failure_of(Operation.GET, "t1", Answer(404, forged), START))


def classes(root: type[Exception]) -> Iterator[type[Exception]]:
    yield root
    for kind in root.__subclasses__():
        yield from classes(kind)


HTTPX = sorted(
    {
        kind
        for root in vars(httpx).values()
        if isinstance(root, type) and issubclass(root, Exception)
        for kind in classes(root)
        if kind.__module__.startswith("httpx")
    },
    key=lambda kind: kind.__name__,
)
NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
HOPELESS = (httpx.UnsupportedProtocol, httpx.InvalidURL)


def made(kind: type[Exception]) -> Exception:
    if issubclass(kind, httpx.HTTPStatusError):
        return kind(CANARY, request=httpx.Request("GET", "http://x"), response=httpx.Response(500))
    if issubclass(kind, httpx.StreamError) and kind is not httpx.StreamError:
        return kind()
    return kind(CANARY)


def test_the_list_of_httpx_exceptions_is_complete() -> None:
    """The walk finds what it is meant to find, also outside HTTPError."""
    assert {httpx.ReadTimeout, httpx.RemoteProtocolError, httpx.InvalidURL, httpx.StreamClosed} <= set(HTTPX)


@pytest.mark.parametrize("kind", HTTPX, ids=lambda kind: kind.__name__)
def test_every_exception_of_httpx_is_translated(kind: type[Exception]) -> None:
    """A read may be repeated after any but the hopeless; a rotate only if the connection was never made."""
    assert kind in EXCEPTIONS or issubclass(kind, httpx.StreamError)
    fault = fault_of(made(kind))
    certain = Permanent if issubclass(kind, HOPELESS) else Temporary if issubclass(kind, NEVER_SENT) else None
    for operation in Operation:
        error = verdict(operation, "t1", fault)
        assert type(error) is (certain or (Temporary if operation.is_repeatable else OutcomeUnknown))
        assert CANARY not in repr(error)


@pytest.mark.parametrize("kind", [OSError, ConnectionResetError, ssl.SSLError, ValueError, RuntimeError, Exception])
def test_what_is_not_of_httpx_may_have_been_sent(kind: type[Exception]) -> None:
    """An exception that slipped through leaves a rotate in doubt."""
    assert fault_of(kind(CANARY)).fate is Fate.MAYBE_SENT


def test_a_certificate_that_is_not_trusted_is_permanent() -> None:
    """Found also where httpcore hid the cause; nothing was sent, and repeating does not help."""
    error, hidden = httpx.ConnectError("x"), OSError("httpcore's")
    hidden.__context__, hidden.__suppress_context__ = ssl.SSLCertVerificationError(1, "verify failed"), True
    hidden.__context__.verify_message = "certificate has expired"
    error.__cause__ = hidden
    fault = fault_of(error)
    assert fault.kind == CERTIFICATE.kind
    assert type(verdict(Operation.ROTATE, "t1", fault)) is Permanent
    assert "check ca_bundle (certificate has expired)" in str(verdict(Operation.GET, "t1", fault))


def test_who_could_not_be_reached_is_named_and_why() -> None:
    """A port where nobody listens, a name that nobody has, and TLS where none is spoken."""
    with socket.create_server(("127.0.0.1", 0)) as plain:
        port = plain.getsockname()[1]
        answering = threading.Thread(target=_answer_plainly, args=(plain,))
        answering.start()
        assert "(the API: TLS: " in _words(f"https://127.0.0.1:{port}")
        answering.join()
    assert _words(f"http://127.0.0.1:{port}") == "no connection could be made (the API: Connection refused)"
    assert _words("http://nobody.invalid") == "no connection could be made (the API: its name cannot be resolved)"


def _answer_plainly(listener: socket.socket) -> None:
    with listener.accept()[0] as peer:
        peer.recv(1000)
        peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def _words(url: str) -> str:
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.ConnectError) as caught:
        client.get(url)
    return fault_of(caught.value, "the API").words


@pytest.mark.parametrize("fault", [BAD_BODY, TOO_LARGE, TOO_LATE], ids=lambda fault: fault.kind)
def test_an_answer_that_cannot_be_read_leaves_a_rotate_in_doubt(fault: Fault) -> None:
    """Not JSON, without the secret, too large or too slow: the old secret may be dead."""
    assert type(verdict(Operation.ROTATE, "t1", fault)) is OutcomeUnknown
    assert type(verdict(Operation.GET, "t1", fault)) is Temporary


@pytest.mark.parametrize(
    ("header", "date", "pause"),
    [
        ("7", "", timedelta(seconds=7)),
        (" 7 ", "", timedelta(seconds=7)),
        ("Tue, 24 Nov 2026 12:00:09 GMT", "Tue, 24 Nov 2026 12:00:00 GMT", timedelta(seconds=9)),
        ("Tue, 24 Nov 2026 13:00:09 GMT", "Tue, 24 Nov 2026 13:00:00 GMT", timedelta(seconds=9)),
        ("Tue, 24 Nov 2026 12:00:09 GMT", "", timedelta(seconds=9)),
        ("Tue, 24 Nov 2026 11:00:00 GMT", "Tue, 24 Nov 2026 12:00:00 GMT", timedelta()),
        ("0", "", timedelta()),
        ("99999999999999999999", "", timedelta(minutes=5)),
        ("Fri, 24 Nov 2056 12:00:00 GMT", "", timedelta(minutes=5)),
        ("soon", "", None),
        ("-5", "", None),
        ("٣", "", None),
        ("", "", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str, date: str, pause: timedelta | None) -> None:
    """Both forms, bounded; a date is relative to the answer's own; nonsense is no answer."""
    assert retry_after(Answer(429, b"", date, header), START) == pause


def test_a_busy_server_may_also_ask_to_wait() -> None:
    """Retry-After of a 503 travels with the error."""
    failure = failure_of(Operation.GET, "t1", Answer(503, b"", "", "9"), START)
    assert isinstance(failure, Temporary)
    assert failure.retry_after == timedelta(seconds=9)


@pytest.mark.parametrize("text", ["", "x", "Tue, 99 Nov 2026 12:00:00 GMT", "12345", "Fri, 31 Dec 9999 23:59:59 -2300"])
def test_what_is_no_date_is_none(text: str) -> None:
    """Nothing in a header raises."""
    assert http_date(text) is None


def test_a_date_is_utc() -> None:
    """Whatever zone it was written in."""
    assert http_date("Tue, 24 Nov 2026 14:00:00 +0200") == datetime(2026, 11, 24, 12, tzinfo=UTC)
