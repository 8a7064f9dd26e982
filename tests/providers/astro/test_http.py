"""One call: how often it is sent, what is sent, how long it may take, what is reported."""

import gzip
import json
import logging
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from rotator.clock import SystemClock
from rotator.errors import (
    ConfigError,
    CredentialRejected,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.model import Scope
from rotator.ports import Clock, OwnCredential, TokenRef
from rotator.providers.astro.failures import Operation
from rotator.providers.astro.http import ATTEMPTS, AstroHttp, Call
from rotator.providers.astro.limiter import Limiters
from rotator.providers.astro.provider import AstroProvider, AstroSettings, Endpoint
from rotator.providers.astro.wire import decode_done
from rotator.secret import Secret
from tests.providers.astro.fakes import ORGANIZATION, Api, VirtualClock, error_json, token_json

REF = TokenRef("t1", Scope.ORGANIZATION)
OK = httpx.Response(200, json=token_json())


def answers(*responses: httpx.Response | Exception) -> Callable[[httpx.Request], httpx.Response]:
    """Answer in this order; the last one for ever."""
    left = list(responses)

    def handler(_: httpx.Request) -> httpx.Response:
        response = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(response, Exception):
            raise response
        return response

    return handler


BROKEN = httpx.ReadError("x")
LOST = [
    BROKEN,
    httpx.ReadTimeout("x"),
    httpx.RemoteProtocolError("x"),
    httpx.Response(500),
    httpx.Response(502, text="upstream"),
    httpx.Response(200, text="<html>"),
    httpx.Response(200, json=token_json()),
    httpx.Response(200),
]


@pytest.mark.parametrize(
    "answer", [BROKEN, httpx.ConnectError("x"), httpx.Response(500), httpx.Response(200, text="<")]
)
def test_a_read_is_tried_four_times(answer: httpx.Response | Exception) -> None:
    """With a growing, shaken pause between the attempts; then it is Temporary."""
    api = Api(answers(answer))
    with pytest.raises(Temporary):
        api.provider().get(REF)
    assert len(api.requests) == ATTEMPTS
    assert 1.75 <= api.clock.time <= 3.5


def test_a_read_that_works_at_last_is_a_success() -> None:
    """Whatever went wrong before."""
    api = Api(answers(BROKEN, httpx.Response(503), httpx.Response(200, text="{"), OK))
    assert api.provider().get(REF).id == "t1"


@pytest.mark.parametrize("answer", [httpx.Response(s, json=error_json(s)) for s in (400, 403, 404, 409)])
def test_a_refusal_is_not_tried_again(answer: httpx.Response) -> None:
    """The API said no."""
    api = Api(answers(answer))
    with pytest.raises(Permanent):
        api.provider().get(REF)
    assert len(api.requests) == 1


@pytest.mark.parametrize("answer", [*LOST, httpx.Response(429), httpx.ConnectError("x"), httpx.Response(401)])
@pytest.mark.parametrize("operation", ["rotate", "create", "raw_rotate", "raw_create"])
def test_what_makes_a_secret_is_sent_once(answer: httpx.Response | Exception, operation: str) -> None:
    """Whatever comes back, or nothing: no second POST."""
    from rotator.model import NewToken

    api = Api(answers(answer))
    argument = REF if "rotate" in operation else NewToken("n", Scope.ORGANIZATION, "R")
    with pytest.raises(RotatorError) as caught:
        getattr(api.provider(), operation)(argument)
    assert len(api.requests) == 1
    assert isinstance(caught.value, OutcomeUnknown) is (answer in LOST)


def test_a_rotate_that_answers_about_another_token_is_in_doubt() -> None:
    """Its secret belongs to nobody we know."""
    api = Api(answers(httpx.Response(200, json=token_json("t2", token="a.b.c"))))
    with pytest.raises(OutcomeUnknown, match="another token"):
        api.provider().rotate(REF)


def test_a_get_that_answers_as_another_token_is_refused() -> None:
    """Verifying a secret must not succeed with somebody else's token."""
    api = Api(answers(httpx.Response(200, json=token_json("t2"))))
    with pytest.raises(Permanent, match="answered as another token"):
        api.provider().authenticate(REF, Secret("x.y.z"))


def test_a_delete_that_is_gone_at_its_repetition_is_done() -> None:
    """The attempt whose answer was lost did it."""
    api = Api(answers(BROKEN, httpx.Response(404, json=error_json(404))))
    api.provider().delete(REF)
    assert len(api.requests) == 2


@pytest.mark.parametrize("before", [[], [httpx.Response(429)]])
def test_a_delete_of_what_was_not_there_says_so(before: list[httpx.Response]) -> None:
    """No attempt of ours can have done it."""
    with pytest.raises(NotFound):
        Api(answers(*before, httpx.Response(404, json=error_json(404)))).provider().delete(REF)


@pytest.mark.parametrize("header", ["7", "Tue, 24 Nov 2026 12:00:07 GMT"])
def test_a_429_makes_everybody_wait_as_long_as_it_says(header: str) -> None:
    """The pause holds for the other callers of the credential too."""
    api = Api(answers(httpx.Response(429, headers={"Retry-After": header}), OK))
    provider = api.provider()
    with pytest.raises(Throttled) as caught:
        provider.rotate(REF)
    assert caught.value.retry_after == timedelta(seconds=7)
    provider.get(REF)
    assert 7 <= api.clock.time < 7.5


def test_a_429_on_a_read_is_waited_for() -> None:
    """Without a Retry-After for a second at least."""
    api = Api(answers(httpx.Response(429), OK))
    assert api.provider().get(REF).id == "t1"
    assert 1 <= api.clock.time < 1.5


@pytest.mark.parametrize("status", [429, 503])
def test_a_pause_beyond_patience_is_left_to_the_caller(status: int) -> None:
    """No thread sleeps for minutes inside a call; how long to wait travels with the error."""
    api = Api(answers(httpx.Response(status, headers={"Retry-After": "200"})))
    with pytest.raises(Temporary) as caught:
        api.provider().get(REF)
    assert caught.value.retry_after == timedelta(seconds=200)
    assert len(api.requests) == 1
    assert api.clock.time == 0


def test_one_credential_does_not_slow_another_down() -> None:
    """A 429 for a token that is verified is no reason to stop the sweep."""
    api = Api(answers(httpx.Response(429, headers={"Retry-After": "50"}), OK))
    provider = api.provider()
    with pytest.raises(Throttled):
        provider.rotate(REF)
    provider.authenticate(REF, Secret("x.y.z"))
    assert api.clock.time == 0


REJECTED = httpx.Response(401, text="Jwt is expired")


def credentials(*secrets: str) -> Callable[[], Secret]:
    left = list(secrets)
    return lambda: Secret(left.pop(0) if len(left) > 1 else left[0])


def test_a_replaced_credential_is_read_again() -> None:
    """After a 401 the reference is read once more, and a read goes on with what it yields now."""
    api = Api(answers(REJECTED, OK))
    assert api.provider(credential=credentials("old", "new")).get(REF).id == "t1"
    assert [request.headers["Authorization"] for request in api.requests] == ["Bearer old", "Bearer new"]


@pytest.mark.parametrize(("secrets", "requests"), [(["old"], 1), (["old", "new"], 2), (["old", "new", "newer"], 2)])
def test_a_dead_credential_is_no_loop(secrets: list[str], requests: int) -> None:
    """It is read again once, no more."""
    api = Api(answers(REJECTED))
    with pytest.raises(CredentialRejected):
        api.provider(credential=credentials(*secrets)).get(REF)
    assert len(api.requests) == requests


def test_a_rotate_is_not_repeated_with_a_new_credential() -> None:
    """It certainly had no effect, but whoever decided to rotate decides again."""
    api = Api(answers(REJECTED))
    with pytest.raises(CredentialRejected):
        api.provider(credential=credentials("old", "new")).rotate(REF)
    assert len(api.requests) == 1


@pytest.mark.parametrize("secret", ["", "a b", "a\nb", "a\r\nX-Evil: 1", "ä.b.c", "a\x00b"])
def test_a_credential_that_no_header_may_carry_is_never_sent(secret: str) -> None:
    """The HTTP library would repeat it in its own error."""
    api = Api(answers(OK))
    with pytest.raises(CredentialRejected) as caught:
        api.provider().authenticate(REF, Secret(secret))
    assert not api.requests
    assert not secret or secret not in str(caught.value)


def test_what_is_sent_is_plain() -> None:
    """Our own user agent, JSON wanted, no cookie, no body in a rotate."""
    api = Api(answers(httpx.Response(200, json=token_json(token="a.b.c"), headers={"Set-Cookie": "session=1"})))
    provider = api.provider()
    provider.rotate(REF)
    provider.get(REF)
    for request in api.requests:
        assert request.headers["User-Agent"].startswith("rotator/")
        assert request.headers["Accept"] == "application/json"
        assert "cookie" not in request.headers
        assert not request.content
    assert str(api.requests[0].url) == f"https://api.example.com/v1/organizations/{ORGANIZATION}/tokens/t1/rotate"


def test_an_answer_that_is_too_large_is_not_read_to_its_end() -> None:
    """A megabyte is enough for a token, also when it was compressed."""

    class Endless(httpx.SyncByteStream):
        """A body that would fill the memory."""

        given = 0

        def __iter__(self) -> Iterator[bytes]:
            while self.given < 100:
                self.given += 1
                yield b" " * 100_000

    body = Endless()
    with pytest.raises(OutcomeUnknown, match="larger"):
        Api(lambda _: httpx.Response(200, stream=body)).provider().rotate(REF)
    assert body.given <= 11
    bomb = httpx.Response(200, content=gzip.compress(b" " * 50_000_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(OutcomeUnknown, match="larger"):
        Api(lambda _: bomb).provider().rotate(REF)


def test_an_answer_that_drips_is_given_up() -> None:
    """httpx bounds each read; the whole answer has a deadline of its own."""
    api = Api(answers(OK))

    class Dripping(httpx.SyncByteStream):
        """A byte every twenty seconds."""

        def __iter__(self) -> Iterator[bytes]:
            for _ in range(100):
                api.clock.sleep(timedelta(seconds=20))
                yield b" "

    api.handler = lambda _: httpx.Response(200, stream=Dripping())
    with pytest.raises(OutcomeUnknown, match="in time"):
        api.provider().rotate(REF)
    assert api.clock.time <= 160


def test_clock_skew_is_measured_at_half_of_the_round_trip() -> None:
    """By the latest answer of the API itself; a box on the way does not count."""
    api = Api(answers(OK))
    provider = api.provider()
    assert provider.clock_skew() is None

    def handler(_: httpx.Request) -> httpx.Response:
        api.clock.sleep(timedelta(seconds=2))
        return httpx.Response(200, json=token_json(), headers={"Date": "Tue, 24 Nov 2026 12:01:01 GMT"})

    api.handler = handler
    provider.get(REF)
    assert provider.clock_skew() == timedelta(seconds=60.5)
    api.handler = lambda _: httpx.Response(302, headers={"Date": "Tue, 24 Nov 2020 12:00:00 GMT"})
    with pytest.raises(Permanent, match="base_url"):
        provider.get(REF)
    assert provider.clock_skew() == timedelta(seconds=60.5)


def test_a_wait_for_a_connection_is_no_clock_skew() -> None:
    """Who waited ten seconds until one of the few connections was free measures the API's clock like anybody else."""
    clock, under_way, go_on = VirtualClock(), threading.Event(), threading.Event()

    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/slow":
            under_way.set()
            assert go_on.wait(60)
        return httpx.Response(200, json={}, headers={"Date": format_datetime(clock.now(), usegmt=True)})

    endpoint = Endpoint("https://api.example.com", calls=1)
    http = AstroHttp("astro", endpoint, clock, lambda _: None, random.Random(1), lambda: httpx.MockTransport(handler))
    limiters = Limiters({}, clock)

    def asked(path: str) -> None:
        http.send(Call(Operation.GET, "GET", path, decode_done), lambda: Secret("a.b.c"), limiters)

    with ThreadPoolExecutor(2) as pool:
        slow = pool.submit(asked, "/slow")
        assert under_way.wait(60)
        waiting = pool.submit(asked, "/waiting")
        while http._transports._free._value or not http._transports._free._cond._waiters:  # type: ignore[attr-defined]
            time.sleep(0.001)
        clock.sleep(timedelta(seconds=10))
        go_on.set()
        slow.result()
        waiting.result()
    assert http.skew == timedelta(seconds=0.5)


def test_each_request_is_reported() -> None:
    """One event an attempt with operation, token, status or kind of failure, and how long it took."""
    api = Api(answers(BROKEN, httpx.Response(200, text="x"), httpx.Response(503), OK))
    api.provider().get(REF)
    told = [(event.name, event.message, event.token_id, event.error) for event in api.events]
    errors = ["broken", "bad_body", "503", "200"]
    assert told == [("request_finished", "get", "t1", error) for error in errors]
    assert all(event.duration_s is not None and event.provider == "astro" for event in api.events)


def test_the_libraries_log_no_urls(caplog: pytest.LogCaptureFixture) -> None:
    """Their INFO lines hold whole URLs and stay off."""
    with caplog.at_level(logging.INFO):
        Api(answers(OK)).provider().get(REF)
    assert not caplog.records


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("http://api.example.com", "https"),
        ("http://127.0.0.1.example.com", "https"),
        ("ftp://x", "https"),
        ("https://user:canary@x", "user"),
        ("https://x?q=canary", "query"),
        ("https://x/#canary", "fragment"),
        ("api.example.com", "such as"),
        ("https://canary\n", "such as"),
        ("", "such as"),
        ("https://api.astronomer.io/v1", "api_version"),
    ],
)
def test_a_base_url_that_cannot_be_right_is_a_config_error(url: str, hint: str) -> None:
    """Plain http elsewhere than on loopback, users, queries, versions: named with their place, never repeated."""
    with pytest.raises(ConfigError, match=r"providers\.astro\.base_url") as caught:
        network(Endpoint(url))
    assert hint in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1", "http://localhost", "http://[::1]:8", "http://127.9.9.9", "https://x/p"]
)
def test_https_and_loopback_are_spoken(url: str) -> None:
    """Also below a path, for gateways."""
    network(Endpoint(url)).close()


@pytest.mark.parametrize(
    ("endpoint", "place"),
    [
        (Endpoint("https://x", proxy="gopher://user:canary@p"), "proxy"),
        (Endpoint("https://x", proxy="://canary"), "proxy"),
        (Endpoint("https://x", ca_bundle="/nowhere/ca.pem"), "ca_bundle"),
        (Endpoint("https://x", ca_bundle=__file__), "ca_bundle"),
    ],
)
def test_a_bad_proxy_or_bundle_is_a_config_error(endpoint: Endpoint, place: str) -> None:
    """Found when the provider is made, and without repeating a password."""
    with pytest.raises(ConfigError, match=rf"providers\.astro\.{place}") as caught:
        network(endpoint)
    assert "canary" not in repr(caught.value)


def test_a_version_that_does_not_exist_is_a_config_error() -> None:
    """The message says which there are."""
    settings = AstroSettings("astro", ORGANIZATION, "v2", Endpoint("https://x"), {})
    with pytest.raises(ConfigError, match="v1, v1beta1, v1alpha1"):
        AstroProvider(
            settings, [OwnCredential("", lambda: Secret("x"))], VirtualClock(), lambda _: None, random.Random()
        )


def network(endpoint: Endpoint, clock: Clock | None = None) -> AstroHttp:
    return AstroHttp("astro", endpoint, clock or VirtualClock(), lambda _: None, random.Random(1))


# From here on over real sockets.


@contextmanager
def server(
    serve: Callable[[socket.socket], object], tls: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[int]]]:
    """Let `serve` have each connection; yield the port and a list with an entry for each."""
    listener = socket.create_server(("127.0.0.1", 0))
    accepted: list[int] = []

    def run() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            accepted.append(1)
            with connection:
                try:
                    if tls is None:
                        serve(connection)
                    else:
                        with tls.wrap_socket(connection, server_side=True) as wrapped:
                            serve(wrapped)
                except OSError:
                    pass

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.getsockname()[1], accepted
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


@contextmanager
def provider_at(endpoint: Endpoint) -> Iterator[AstroProvider]:
    settings = AstroSettings("astro", ORGANIZATION, "v1", endpoint, {})
    made = AstroProvider(
        settings,
        [OwnCredential("", lambda: Secret("our.own.credential"))],
        SystemClock(),
        lambda _: None,
        random.Random(1),
    )
    try:
        yield made
    finally:
        made.close()


def reply(body: bytes, length: int | None = None) -> Callable[[socket.socket], None]:
    """Answer one request, and close."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length or len(body)}\r\n\r\n"

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(head.encode() + body)

    return serve


MINTED = json.dumps(token_json(token="a.b.c")).encode()


def silent(connection: socket.socket) -> None:
    while connection.recv(65536):
        pass


def dropped(connection: socket.socket) -> None:
    connection.recv(65536)


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")


@pytest.mark.parametrize(
    "serve",
    [silent, dropped, reset, reply(MINTED, 9999), reply(MINTED[:-1]), reply(b"\0" * 10)],
    ids=["silent", "dropped", "reset", "short", "cut", "no JSON"],
)
def test_a_rotate_that_may_have_left_is_in_doubt_and_leaves_once(serve: Callable[[socket.socket], None]) -> None:
    """Silence, a closed or reset connection, an answer that is cut off: one connection, one POST, OutcomeUnknown."""
    with server(serve) as (port, accepted), provider_at(endpoint(port, 0.2)) as provider:
        with pytest.raises(OutcomeUnknown):
            provider.rotate(REF)
        assert len(accepted) == 1


def test_a_rotate_on_a_connection_that_the_server_closed_is_sent_once() -> None:
    """An idle connection that ended in the meantime is replaced before anything is sent, not after."""
    closed = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        reply(MINTED)(connection)
        connection.close()
        closed.release()

    with server(serve) as (port, accepted), provider_at(endpoint(port)) as provider:
        for _ in range(3):
            assert provider.rotate(REF).secret == Secret("a.b.c")
            assert closed.acquire(timeout=10)
        assert len(accepted) == 3


def test_a_refused_connection_certainly_had_no_effect() -> None:
    """Nobody listens: Temporary, also for a rotate."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    with provider_at(endpoint(port)) as provider, pytest.raises(Temporary):
        provider.rotate(REF)


def test_a_proxy_that_refuses_certainly_had_no_effect() -> None:
    """Nothing went through the tunnel that was never opened."""

    def refuse(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")

    with server(refuse) as (port, _):
        behind = Endpoint("https://api.example.com", timedelta(seconds=2), proxy=f"http://u:canary@127.0.0.1:{port}")
        with provider_at(behind) as provider, pytest.raises(Temporary, match="proxy") as caught:
            provider.rotate(REF)
    assert "canary" not in repr(caught.value)


def endpoint(port: int, timeout_s: float = 2.0) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{port}", timedelta(seconds=timeout_s))


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 that only itself vouches for, and its key."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "here")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path.write_bytes(made.public_bytes(pem) + secret)
    return path


def test_tls_is_verified_against_the_bundle(certificate: Path) -> None:
    """With it the server is trusted; without it nothing is sent and repeating is useless."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with server(reply(MINTED), context) as (port, accepted):
        url = f"https://localhost:{port}"
        with provider_at(Endpoint(url, timedelta(seconds=5), ca_bundle=str(certificate))) as provider:
            assert provider.rotate(REF).secret == Secret("a.b.c")
        with (
            provider_at(Endpoint(url, timedelta(seconds=5))) as provider,
            pytest.raises(Permanent, match="certificate"),
        ):
            provider.get(REF)
        assert len(accepted) == 2


def test_threads_use_clients_of_their_own_and_leave_them_behind() -> None:
    """Connections are reused by later threads, and all closed at the end."""
    serving = threading.Semaphore(0)

    def serve(connection: socket.socket) -> None:
        serving.release()
        body = json.dumps(token_json()).encode()
        while connection.recv(65536):
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with server(serve) as (port, accepted), provider_at(endpoint(port)) as provider:
        for _ in range(5):
            thread = threading.Thread(target=provider.get, args=(REF,))
            thread.start()
            thread.join()
        assert len(accepted) == 1
        provider.close()


def test_a_whole_object_write_is_sent_once_and_never_shown() -> None:
    """A body made from a read is not sent again by itself, its headers travel with it, and no repr shows it."""
    clock, seen = VirtualClock(), []

    def fail(request: httpx.Request) -> httpx.Response:
        seen.append((request.headers["x-api-version"], request.content))
        raise httpx.ReadTimeout("x")

    dice = random.Random(1)
    http = AstroHttp("x", Endpoint("https://a.example"), clock, [].append, dice, lambda: httpx.MockTransport(fail))
    pin, body = {"X-API-Version": "1.0"}, {"value": "canary"}
    call = Call(Operation.WRITE, "POST", "/p", decode_done, "d1", json=body, headers=pin)
    with pytest.raises(OutcomeUnknown):
        http.send(call, lambda: Secret("a.b.c"), Limiters({}, clock))
    assert seen == [("1.0", b'{"value":"canary"}')]
    assert "canary" not in repr(call)
    http.close()
