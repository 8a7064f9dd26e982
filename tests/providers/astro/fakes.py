"""Small real things for the provider's tests: a clock that only sleeping moves, and an API of one function."""

import base64
import json
import random
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx

from rotator.events import Event
from rotator.ports import OwnCredential
from rotator.providers.astro.provider import AstroProvider, AstroSettings, Endpoint
from rotator.secret import Secret

ORGANIZATION = "clorg1"
REQUEST_ID = "11111111-2222-3333-4444-555555555555"
START = datetime(2026, 11, 24, 12, 0, 0, tzinfo=UTC)
Handler = Callable[[httpx.Request], httpx.Response]


class VirtualClock:
    """Time that only sleeping moves; threads may share it."""

    def __init__(self) -> None:
        self.time = 0.0
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the start plus all sleeps."""
        return START + timedelta(seconds=self.time)

    def monotonic(self) -> float:
        """Return all sleeps in seconds."""
        return self.time

    def sleep(self, duration: timedelta, *, through: bool = False) -> None:
        """Move on instead of waiting."""
        with self._lock:
            self.time += duration.total_seconds()


class Api:
    """What a provider speaks to when no server runs: one function, and a list of what it was asked.

    Attributes:
        handler: Answers; tests replace it.
    """

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.requests: list[httpx.Request] = []
        self.events: list[Event] = []
        self.clock = VirtualClock()

    def provider(self, version: str = "v1", credential: Callable[[], Secret] | None = None) -> AstroProvider:
        """Return a provider on this API."""
        return AstroProvider(
            AstroSettings("astro", ORGANIZATION, version, Endpoint("https://api.example.com"), {}),
            [OwnCredential("", credential or (lambda: Secret("our.own.credential")))],
            self.clock,
            self.events.append,
            random.Random(1),
            lambda: httpx.MockTransport(self._answer),
        )

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.handler(request)


def token_json(token_id: str = "t1", **more: object) -> dict[str, object]:
    """Return an ApiToken of v1."""
    return {
        "id": token_id,
        "name": f"name of {token_id}",
        "description": "",
        "scope": "ORGANIZATION",
        "kind": "STANDARD",
        "shortToken": "short",
        "startAt": "2026-09-03T14:04:23.101Z",
        "createdAt": "2026-09-03T14:04:23.101Z",
        "updatedAt": "2026-09-03T14:04:23.101Z",
        "roles": [{"entityId": ORGANIZATION, "entityType": "ORGANIZATION", "role": "ORGANIZATION_MEMBER"}],
    } | more


def page_json(ids: list[str], total: int) -> dict[str, object]:
    """Return a page of v1."""
    return {"tokens": [token_json(token_id) for token_id in ids], "totalCount": total, "limit": 1000, "offset": 0}


def error_json(status: int, message: str = "no") -> dict[str, object]:
    """Return the application's own error."""
    return {"message": message, "requestId": REQUEST_ID, "statusCode": status}


def jwt(claims: object) -> Secret:
    """Return a JWT that says this."""
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return Secret(f"eyJhbGciOiJSUzI1NiJ9.{body}.c2lnbmF0dXJl")
