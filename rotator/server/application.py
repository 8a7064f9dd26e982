"""Which request gets which answer: a plain ASGI callable over `Endpoints`. It reads, and never changes anything.

No answer shows text of an exception: a failure is told in our own words, its type on standard error.
"""

import gzip
import json
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, MutableMapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from rotator.server.address import Address, is_welcome
from rotator.server.endpoints import Endpoints
from rotator.server.health import health
from rotator.server.lanes import Failed, Lane
from rotator.server.page import Page
from rotator.text import visible

PATIENCE_S = 10.0
_STOP_S = 1.0
_WORTH_PACKING = 1024  # bytes
_NOUGHT = re.compile(r"q=0(\.0*)?")
_TEXT = "text/plain; charset=utf-8"
_HTML = "text/html; charset=utf-8"
_JSON = "application/json"
_NOTHING = "default-src 'none'; frame-ancestors 'none'"
_ALWAYS = {
    "cache-control": "no-store",
    "connection": "close",
    "content-security-policy": _NOTHING,
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}

_Scope = MutableMapping[str, Any]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answer:
    """A response.

    Attributes:
        headers: Besides those that every response has; they win.
    """

    status: int
    body: bytes
    content_type: str = _TEXT
    headers: Mapping[str, str] = field(default_factory=dict)


_UNKNOWN = Answer(404, b"there is no such page; there are /, /healthz, /livez, /readyz and /metrics\n")
_READ_ONLY = Answer(405, b"everything here is read-only: GET and HEAD\n", headers={"allow": "GET, HEAD"})
_STRANGER = Answer(421, b"this server does not go by that name; server.names in the config says which it knows\n")
_BROKEN = Answer(500, b"rotator could not answer this; standard error says what kind of failure it was\n")
_SLOW = Answer(503, b"the answer took too long\n", headers={"retry-after": "10"})


class Application:
    """Answers requests.

    Args:
        endpoints: Where the answers come from.
        address: Where we listen.
        names: Host names besides `localhost` by which we may be called.
        patience_s: How long an answer may take, in seconds.
    """

    def __init__(
        self, endpoints: Endpoints, address: Address, names: Collection[str], patience_s: float = PATIENCE_S
    ) -> None:
        self._endpoints = endpoints
        self._address = address
        self._names = frozenset(name.lower() for name in names)
        self._patience_s = patience_s
        self._page = Page()
        self._answers: Mapping[str, Callable[[str], Answer]] = {
            "/": self._status,
            "/healthz": self._health,
            "/livez": partial(_probe, endpoints.live),
            "/readyz": partial(_probe, endpoints.ready),
            "/metrics": self._metrics,
        }
        self._lanes = {path: Lane(path) for path in self._answers}

    async def __call__(self, scope: _Scope, _receive: object, send: _Send) -> None:
        """Answer one request; its body is never read."""
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        answer = await self._answer(scope["method"], scope["path"], headers)
        given = {
            **_ALWAYS,
            "content-type": answer.content_type,
            "content-length": str(len(answer.body)),
            **answer.headers,
        }
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in given.items()]
        await send({"type": "http.response.start", "status": answer.status, "headers": encoded})
        await send({"type": "http.response.body", "body": answer.body})

    def close(self) -> None:
        """End the threads; for after the last request."""
        until = time.monotonic() + _STOP_S
        for lane in self._lanes.values():
            lane.close(max(0.0, until - time.monotonic()))

    async def _answer(self, method: str, path: str, headers: Mapping[bytes, str]) -> Answer:
        if not is_welcome(headers.get(b"host"), self._address, self._names):
            return _STRANGER
        if path not in self._answers:
            return _UNKNOWN
        if method not in ("GET", "HEAD"):
            return _READ_ONLY
        answers, accepted = self._answers[path], headers.get(b"accept", "")
        pack = _packed if _takes_gzip(headers.get(b"accept-encoding", "")) else _plain

        def call() -> Answer:
            return pack(answers(accepted))

        try:
            answer = await self._lanes[path].run(call, self._patience_s)
        except TimeoutError:
            return _SLOW
        return _BROKEN if isinstance(answer, Failed) else answer

    def _metrics(self, accept: str) -> Answer:
        body, content_type = self._endpoints.metrics(accept)
        return Answer(200, body, content_type)

    def _health(self, _: str) -> Answer:
        said = health(self._endpoints.snapshot(), self._endpoints.live(), self._endpoints.ready())
        return Answer(200, json.dumps(said, indent=2).encode() + b"\n", _JSON)

    def _status(self, _: str) -> Answer:
        body = self._page.render(self._endpoints.snapshot(), self._endpoints.live() or self._endpoints.ready())
        return Answer(200, body.encode(), _HTML, {"content-security-policy": self._page.policy})


def _takes_gzip(accepted: str) -> bool:
    """Whether an Accept-Encoding header names gzip without a weight of nought.

    Source: RFC 9110, section 12.5.3.
    """
    codings = dict(part.replace(" ", "").lower().partition(";")[::2] for part in accepted.split(","))
    return "gzip" in codings and _NOUGHT.fullmatch(codings["gzip"]) is None


def _packed(answer: Answer) -> Answer:
    if len(answer.body) < _WORTH_PACKING:
        return answer
    body = gzip.compress(answer.body, compresslevel=5, mtime=0)
    return replace(answer, body=body, headers={**answer.headers, "content-encoding": "gzip"})


def _plain(answer: Answer) -> Answer:
    return answer


def _probe(problem: Callable[[], str], _: str) -> Answer:
    said = problem()
    return Answer(503, visible(said, 500).encode() + b"\n") if said else Answer(200, b"ok\n")
