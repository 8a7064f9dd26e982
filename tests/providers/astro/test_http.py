"""What each answer and each failure of the API means: tables, one row a case."""

import random
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from rotator.errors import (
    ConfigError,
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.events import Event
from rotator.providers.astro.http import Answer, AstroHttp, Call, Endpoint, failure_of, retry_after, transport_failure
from rotator.providers.astro.limiter import Limiter
from rotator.providers.astro.seen import SeenIds
from tests.lab import JumpingClock

READ = Call("get", "GET", "/x", repeatable=True, subject="t1")
ROTATE = Call("rotate", "POST", "/x/rotate", repeatable=False, subject="t1")
CANARY = "canary-in-the-body"


def app_error(status: int) -> bytes:
    return b'{"message":"%s","requestId":"11111111-2222-3333-4444-555555555555","statusCode":%d}' % (
        CANARY.encode(),
        status,
    )


@pytest.mark.parametrize(
    ("call", "status", "body", "kind"),
    [
        (READ, 200, b"{}", None),
        (READ, 204, b"", None),
        (READ, 401, b"Jwt is expired", CredentialRejected),
        (READ, 401, app_error(401), CredentialRejected),
        (READ, 403, b"RBAC: access denied", CredentialRejected),
        (READ, 403, app_error(403), Forbidden),
        (READ, 404, app_error(404), NotFound),
        (READ, 404, b"no route", Temporary),
        (READ, 429, b"local_rate_limited", Throttled),
        (READ, 500, app_error(500), Temporary),
        (READ, 502, b"<html>", Temporary),
        (READ, 302, b"", Permanent),
        (READ, 418, b"", Permanent),
        (ROTATE, 400, app_error(400), Permanent),
        (ROTATE, 409, app_error(409), Permanent),
        (ROTATE, 401, b"Jwt is expired", CredentialRejected),
        (ROTATE, 403, b"RBAC: access denied", CredentialRejected),
        (ROTATE, 403, app_error(403), Forbidden),
        (ROTATE, 404, app_error(404), NotFound),
        (ROTATE, 404, b"<html>not found</html>", OutcomeUnknown),
        (ROTATE, 400, b"<html>", OutcomeUnknown),
        (ROTATE, 429, b"", Throttled),
        (ROTATE, 500, app_error(500), OutcomeUnknown),
        (ROTATE, 503, b"upstream", OutcomeUnknown),
        (ROTATE, 302, b"", OutcomeUnknown),
    ],
)
def test_each_status_means_one_thing(call: Call, status: int, body: bytes, kind: type[RotatorError] | None) -> None:
    """Status, layer (application or edge) and whether the call may be repeated decide; the body is never quoted."""
    failure = failure_of(call, Answer(status, body))
    assert (failure and type(failure)) is kind
    assert CANARY not in str(failure)


def exceptions(root: type[Exception]) -> Iterator[type[Exception]]:
    for kind in root.__subclasses__():
        yield kind
        yield from exceptions(kind)


@pytest.mark.parametrize("kind", sorted({*exceptions(httpx.HTTPError)}, key=str), ids=lambda kind: kind.__name__)
def test_every_exception_of_httpx_is_translated(kind: type[Exception]) -> None:
    """A read may be repeated after any of them; a rotate only if the connection was never made."""
    if issubclass(kind, httpx.HTTPStatusError):
        error = kind(CANARY, request=httpx.Request("GET", "http://x"), response=httpx.Response(500))
    else:
        error = kind(CANARY)
    never_sent = issubclass(
        kind,
        httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout | httpx.ProxyError | httpx.UnsupportedProtocol,
    )
    assert type(transport_failure(READ, error)) is Temporary  # type: ignore[arg-type]
    assert type(transport_failure(ROTATE, error)) is (Temporary if never_sent else OutcomeUnknown)  # type: ignore[arg-type]
    assert CANARY not in str(transport_failure(ROTATE, error))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "date", "pause"),
    [
        ("7", "", timedelta(seconds=7)),
        ("Tue, 24 Nov 2026 12:00:09 GMT", "Tue, 24 Nov 2026 12:00:00 GMT", timedelta(seconds=9)),
        ("Tue, 24 Nov 2026 11:00:00 GMT", "Tue, 24 Nov 2026 12:00:00 GMT", timedelta()),
        ("99999999", "", timedelta(minutes=5)),
        ("soon", "", None),
        ("", "", None),
    ],
)
def test_retry_after_is_read_as_seconds_and_as_a_date(header: str, date: str, pause: timedelta | None) -> None:
    """Both forms of RFC 9110, bounded; nonsense is no answer."""
    assert retry_after(Answer(429, b"", date, header)) == pause


@pytest.mark.parametrize(
    "url", ["http://api.example.com", "ftp://x", "https://user:pw@x", "https://x?q=1", "http://127.0.0.1.evil.com"]
)
def test_only_https_is_spoken_outside_loopback(url: str) -> None:
    """Plain http, users and queries in base_url are config errors."""
    with pytest.raises(ConfigError, match="base_url"):
        AstroHttp("astro", Endpoint(url), JumpingClock(), lambda _: None, random.Random())


class VirtualClock:
    """Time that only sleeping moves, with a little jitter on the way to the server."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> datetime:
        """Return the epoch plus the virtual time."""
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        """Return the virtual time."""
        return self.time

    def sleep(self, duration: timedelta) -> None:
        """Move it."""
        self.time += duration.total_seconds()


def bucket(times: list[float]) -> bool:
    level, last = 10.0, 0.0
    for at in times:
        level, last = min(10.0, level + (at - last) * 10), at
        if level < 1:
            return False
        level -= 1
    return True


def fixed_window(times: list[float]) -> bool:
    return max(sum(1 for at in times if int(at) == second) for second in {int(at) for at in times}) <= 10


@pytest.mark.parametrize("server", [bucket, fixed_window])
def test_pacing_stays_below_the_limit_and_uses_it(server: Callable[[list[float]], bool]) -> None:
    """A thousand calls with jitter of 20 ms never exceed ten a second, and take at most 5 % longer than the limit."""
    clock, dice = VirtualClock(), random.Random(1)
    limiter = Limiter({"POST": 10}, clock)
    times = []
    for _ in range(1000):
        limiter.wait("POST")
        times.append(clock.time + dice.random() * 0.02)
    assert server(sorted(times))
    assert 1000 / clock.time >= 9.5


def test_a_429_slows_everybody_down() -> None:
    """After slow_down nobody's turn comes before the pause is over."""
    clock = VirtualClock()
    limiter = Limiter({}, clock)
    limiter.slow_down(timedelta(seconds=3))
    limiter.wait("GET")
    assert clock.time >= 3


def test_seen_ids_grow_without_forgetting() -> None:
    """A hundred thousand ids are each new once, at some sixteen bytes apiece."""
    seen = SeenIds()
    ids = [f"cl{number}" for number in range(100_000)]
    assert all(seen.add(identifier) for identifier in ids)
    assert not any(seen.add(identifier) for identifier in ids)
    assert len(seen) == len(ids)


def test_requests_are_reported_without_urls() -> None:
    """The event of a request names operation and outcome, nothing that could hold a secret."""
    events: list[Event] = []
    http = AstroHttp("astro", Endpoint("http://127.0.0.1:1"), JumpingClock(), events.append, random.Random())
    from rotator.secret import Secret

    with pytest.raises(Temporary):
        http.send(ROTATE, Secret(CANARY), Limiter({}, JumpingClock()))
    http.close()
    assert [(event.message, event.error) for event in events] == [("rotate", "ConnectError")]
    assert CANARY not in repr(events)
