"""No failure shows a secret: neither ours, nor one that is verified, nor one that was just made."""

import json
import logging
import random
import socket
import threading
import traceback
from collections.abc import Callable
from datetime import timedelta

import httpx
import pytest

from rotator.clock import SystemClock
from rotator.errors import RotatorError
from rotator.model import NewToken, Scope
from rotator.ports import OwnCredential, TokenRef
from rotator.providers.astro.provider import AstroProvider, AstroSettings, Endpoint
from rotator.secret import Secret
from tests.providers.astro.fakes import ORGANIZATION, Api, error_json, token_json

OURS, THEIRS, MINTED = "zq7-ours.a.b", "zq7-theirs.a.b", "zq7-minted.a.b"
REF = TokenRef("t1", Scope.ORGANIZATION)
GOOD = json.dumps(token_json(token=MINTED)).encode()


def everything_of(error: BaseException) -> str:
    """Return all that any logger could print of an error: its chain, hidden or not, with all local variables."""
    shown, seen = [], set()
    left: list[BaseException | None] = [error]
    while left:
        current = left.pop()
        if current is not None and id(current) not in seen:
            seen.add(id(current))
            told = traceback.TracebackException.from_exception(current, capture_locals=True)
            shown += [*told.format(), repr(current), str(current), repr(current.args), repr(vars(current))]
            left += [current.__cause__, current.__context__]
    return "\n".join(shown)


def test_the_search_would_find_a_secret() -> None:
    """What it looks through includes locals of frames and hidden causes."""

    def careless() -> None:
        body = f"body {MINTED}"
        try:
            raise ValueError(len(body))
        except ValueError:
            raise RuntimeError from None

    with pytest.raises(RuntimeError) as caught:
        careless()
    assert "zq7-minted" in everything_of(caught.value)


class Cut(httpx.SyncByteStream):
    """A body that breaks in its middle."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __iter__(self) -> "Cut":
        return self

    def __next__(self) -> bytes:
        if not self.body:
            raise httpx.ReadError(f"zq7-minted {self.body!r}")
        body, self.body = self.body, b""
        return body


ANSWERS: dict[str, Callable[[], httpx.Response]] = {
    "cut": lambda: httpx.Response(200, stream=Cut(GOOD)),
    "truncated": lambda: httpx.Response(200, content=GOOD[:-1]),
    "another token": lambda: httpx.Response(200, json=token_json("t2", token=MINTED)),
    "bad time": lambda: httpx.Response(200, json=token_json(token=MINTED, createdAt="zq7-minted")),
    "bad secret": lambda: httpx.Response(200, json=token_json(token=[MINTED])),
    "unknown scope": lambda: httpx.Response(200, json=token_json(token=MINTED, scope="AGENT")),
    "not UTF-8": lambda: httpx.Response(200, content=GOOD.replace(b"name of", b"\xff")),
    "nested": lambda: httpx.Response(200, content=b'{"token":"zq7-minted","x":' + b"[" * 3000),
    "too large": lambda: httpx.Response(200, content=GOOD + b" " * 2_000_000),
    "not gzip": lambda: httpx.Response(200, content=GOOD, headers={"Content-Encoding": "gzip"}),
    "created": lambda: httpx.Response(202, content=GOOD),
    "redirect": lambda: httpx.Response(302, headers={"Location": f"https://x/?{MINTED}"}, content=GOOD),
    "error that repeats": lambda: httpx.Response(400, json=error_json(400, f"zq7 {OURS} {THEIRS} {MINTED}")),
    "edge that repeats": lambda: httpx.Response(401, text=f"Jwt {OURS} {THEIRS} is expired"),
    "html": lambda: httpx.Response(502, text=f"<html>{MINTED}"),
    "not found": lambda: httpx.Response(404, json=error_json(404, MINTED) | {"requestId": OURS}),
    "throttled": lambda: httpx.Response(429, text=MINTED, headers={"Retry-After": MINTED, "Date": MINTED}),
}
CALLS: dict[str, Callable[[AstroProvider], object]] = {
    "rotate": lambda provider: provider.rotate(REF),
    "raw_rotate": lambda provider: provider.raw_rotate(REF),
    "create": lambda provider: provider.create(NewToken("n", Scope.ORGANIZATION, "R")),
    "raw_create": lambda provider: provider.raw_create(NewToken("n", Scope.ORGANIZATION, "R")),
    "authenticate": lambda provider: provider.authenticate(REF, Secret(THEIRS)),
    "get": lambda provider: provider.get(REF),
}
# An authenticate reads no secret out of the answer, so these are successes there; a create has no id to compare.
FINE = {
    ("another token", "create"),
    ("another token", "raw_create"),
    *(("bad secret", call) for call in ("get", "authenticate")),
}


@pytest.mark.parametrize(
    ("answer", "call"), [(answer, call) for answer in ANSWERS for call in CALLS if (answer, call) not in FINE]
)
def test_no_failing_answer_shows_a_secret(
    answer: str, call: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not in the message, the chain, the local variables of any frame, the log, the output or the events."""
    api = Api(lambda _: ANSWERS[answer]())
    provider = api.provider(credential=lambda: Secret(OURS))
    with caplog.at_level(logging.DEBUG), pytest.raises(RotatorError) as caught:
        CALLS[call](provider)
    output = capfd.readouterr()
    told = [everything_of(caught.value), caplog.text, output.out, output.err, repr(api.events), repr(vars(provider))]
    assert "zq7" not in "\n".join(told)


@pytest.mark.parametrize(
    "kind", [httpx.ReadTimeout, httpx.ConnectError, httpx.LocalProtocolError, RuntimeError, OSError]
)
@pytest.mark.parametrize("call", CALLS)
def test_no_failing_transport_shows_a_secret(kind: type[Exception], call: str) -> None:
    """The library's own exceptions hold headers and frames with them; none is kept, not even as a hidden cause."""

    def fail(request: httpx.Request) -> httpx.Response:
        held = request.headers["Authorization"]
        raise kind(f"while sending {held}")

    with pytest.raises(RotatorError) as caught:
        CALLS[call](Api(fail).provider(credential=lambda: Secret(OURS)))
    told = everything_of(caught.value)
    assert "zq7" not in told
    assert caught.value.__cause__ is caught.value.__context__ is None


@pytest.mark.parametrize("call", ["rotate", "authenticate"])
@pytest.mark.parametrize("length", [len(GOOD) - 1, len(GOOD) + 1])
def test_the_real_client_shows_no_secret_either(call: str, length: int) -> None:
    """Over a socket, where the answer is cut off inside the library."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            for _ in range(1 if call == "rotate" else 4):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    head = f"HTTP/1.1 200 OK\r\nX: {MINTED}\r\nContent-Length: {length}\r\n\r\n"
                    connection.sendall(head.encode() + (GOOD if length > len(GOOD) else GOOD[:length]))

        thread = threading.Thread(target=serve)
        thread.start()
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", timedelta(seconds=2))
        settings = AstroSettings("astro", ORGANIZATION, "v1", endpoint, {})
        provider = AstroProvider(
            settings, [OwnCredential("", lambda: Secret(OURS))], SystemClock(), lambda _: None, random.Random(1)
        )
        with pytest.raises(RotatorError) as caught:
            CALLS[call](provider)
        thread.join()
        provider.close()
    told = everything_of(caught.value)
    assert "zq7" not in told
