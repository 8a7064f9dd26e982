"""The sandbox's edge and its life: authentication, limits and faults around `api`, served by uvicorn in a thread.

`Sandbox` is the only thing others start. Everything here runs on one event loop in that thread, save what `Sandbox`
itself offers. It never logs or shows a secret; `/_sandbox/` answers loopback only and gives digests.
"""

import asyncio
import contextlib
import email.utils
import hashlib
import ipaddress
import socket
import struct
import threading
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Self
from urllib.parse import parse_qs

import msgspec
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rotator.sandbox.api import HTML, TEXT, Answer, Asked, Route, error
from rotator.sandbox.environment import Environment
from rotator.sandbox.environment_api import EnvironmentApi, route
from rotator.sandbox.faults import READS, Fault, FaultPlan, Faults
from rotator.sandbox.jwt import Flaw
from rotator.sandbox.limits import Limits
from rotator.sandbox.store import Population, Record, Store

TRANSPORT = "sandbox.transport"
LONGEST_LOG = 200_000
_START_S = 10.0
_STOP_S = 10.0
_LARGEST_BODY = 1024 * 1024
_PORTAL = b"<!doctype html><html><body><h1>Sign in to continue</h1></body></html>"
_GATEWAY = b"<html><head><title>504 Gateway Time-out</title></head><body>504 Gateway Time-out</body></html>"
_UPSTREAM = b"upstream connect error or disconnect/reset before headers"

_Scope = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
_Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Logged = tuple[float, str, str, int, str]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class SandboxConfig:
    """What the sandbox is like.

    Attributes:
        port: 0 for any free one.
        tokens: How many, besides the owner's credential.
        seed: Decides population and signing key.
        faults: What goes wrong.
        latency_s: How long each answer takes at least.
        limits: Whether the API's rate limits hold.
        due_fraction: How many tokens were last rotated 91 to 300 days ago; the others 1 to 60.
        rotate_moves_expiry: Whether a rotation restarts a token's life.
        hostile_names: Whether every fourth token has a name that tries to break its reader.
        readers: "all" or "owners": whether a token that manages nothing may read itself.
        now: Returns the time, aware.
        clock_offset_s: How far the server's clock is ahead of `now`.
        life: How long secrets live, for who wants to watch them expire; None for the API's days and years.
        show_secrets: Whether the organization lets environment objects show their secrets.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tokens: int = 24
    seed: int = 0
    faults: Faults = field(default_factory=Faults)
    latency_s: float = 0.0
    limits: bool = True
    organization_id: str = "clorg0000000000000000000a"
    due_fraction: float = 0.5
    rotate_moves_expiry: bool = True
    hostile_names: bool = False
    readers: str = "all"
    now: Callable[[], datetime] = _utc_now
    clock_offset_s: float = 0.0
    show_secrets: bool = False
    life: timedelta | None = None

    def __post_init__(self) -> None:
        if self.readers not in ("all", "owners"):
            raise ValueError(f'readers: {self.readers!r} is neither "all" nor "owners"')
        if self.tokens < 0 or not 0 <= self.due_fraction <= 1 or self.latency_s < 0:
            raise ValueError("tokens, due_fraction or latency_s is out of its range")


class Sandbox:
    """A running Astro API; a context manager.

    Args:
        config: What it is like; None for the defaults.

    Attributes:
        store: The tokens and what became of them.
        environment: Deployments and environment objects.
        organization_id: The organization.
    """

    def __init__(self, config: SandboxConfig | None = None) -> None:
        self.config = config or SandboxConfig()
        self.organization_id = self.config.organization_id
        offset = timedelta(seconds=self.config.clock_offset_s)
        population = Population(
            self.config.tokens,
            self.config.seed,
            self.config.due_fraction,
            self.config.hostile_names,
            self.config.life,
        )
        self.store = Store(
            self.organization_id,
            population,
            lambda: self.config.now() + offset,
            rotate_moves_expiry=self.config.rotate_moves_expiry,
        )
        self.environment = Environment(self.store, shows_secrets=self.config.show_secrets)
        self._app = _App(self.config, self.store, self.environment)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._url = ""

    @property
    def url(self) -> str:
        """The base URL, without a slash at the end; empty before the start."""
        return self._url

    @property
    def credential(self) -> str:
        """The live secret of the organization's owner, whose token is named "rotator-credential"."""
        return self.store.secret_of(self.store.owner_id)

    @property
    def requests(self) -> list[Logged]:
        """The latest requests, oldest first: (monotonic seconds, method, operation, status, token id of the bearer).

        A status of 0 means that none was sent. The admin's own requests are not among them.
        """
        return list(self._app.log)

    @property
    def late_calls(self) -> int:
        """How many LATE calls have yet to take effect."""
        return len(self._app.late)

    def script(self, operation: str, fault: Fault, token_id: str | None = None) -> None:
        """Give the next call of an operation, on a token or on any, exactly this fault; raises ValueError."""
        self._app.plan.script(operation, fault, token_id)

    def start(self) -> None:
        """Serve from now on; raises OSError if the address cannot be used."""
        if self._thread is not None:
            raise RuntimeError("the sandbox runs already")
        family = socket.AF_INET6 if ":" in self.config.host else socket.AF_INET
        listener = socket.create_server((self.config.host, self.config.port), family=family, backlog=2048)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        self._url = f"http://{host}:{listener.getsockname()[1]}"
        self._server = _Server(self._app)
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="sandbox", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + _START_S
        while not self._server.started:
            if not self._thread.is_alive() or time.monotonic() > deadline:
                raise RuntimeError("the sandbox did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """End all connections and the server; calls that hang are cut, late ones never take effect."""
        if self._server is None or self._thread is None:
            return
        self._server.should_exit = True
        self._thread.join(_STOP_S)
        if self._thread.is_alive():
            raise RuntimeError("the sandbox did not stop")
        self._server = self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Protocol(H11Protocol):
    """Gives the app the transport, and keeps uvicorn's access log out of it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.access_log = False
        # asyncio does so only for sockets that name their protocol; without it each answer waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        app = self.app

        async def with_transport(scope: _Scope, receive: _Receive, send: _Send) -> None:
            scope.setdefault("extensions", {})[TRANSPORT] = transport
            await app(scope, receive, send)

        self.app = with_transport


class _Server(uvicorn.Server):
    """Stops at once, whatever still hangs."""

    def __init__(self, app: "_App") -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            loop="asyncio",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            date_header=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
        )
        super().__init__(config)
        self._sandbox_app = app

    async def main_loop(self) -> None:
        """Replace uvicorn's, which looks ten times a second only and fills in headers that the app sets itself."""
        while not self.should_exit:
            await asyncio.sleep(0.01)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's, which waits for answers."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._sandbox_app.stop()
        for connection in list(self.server_state.connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0.01)  # until the connections know that they are lost
        tasks = list(self.server_state.tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@dataclass(frozen=True, slots=True)
class _Call:
    """One HTTP request with what ASGI gives to answer it."""

    scope: _Scope
    receive: _Receive
    send: _Send
    body: bytes
    route: Route
    at_s: float

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def transport(self) -> asyncio.Transport:
        transport: asyncio.Transport = self.scope["extensions"][TRANSPORT]
        return transport

    def header(self, name: bytes) -> str | None:
        found = [given for key, given in self.scope["headers"] if key == name]
        return found[-1].decode("latin-1") if found else None

    async def silence(self, seconds: float) -> None:
        """Wait, or until the client is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.gone()

    async def gone(self) -> None:
        """Wait until the connection has ended."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


class _App:
    """The ASGI application: admin, edge, faults, application."""

    def __init__(self, config: SandboxConfig, store: Store, environment: Environment) -> None:
        self.plan = FaultPlan(config.faults)
        self.log: deque[Logged] = deque(maxlen=LONGEST_LOG)
        self._counts: Counter[str] = Counter()
        self._config = config
        self._store = store
        self._api = EnvironmentApi(store, environment, config.readers)
        self._limits = Limits(time.monotonic) if config.limits else None
        self.late: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        try:
            await self._serve(scope, receive, send)
        except asyncio.CancelledError:
            return  # the server stops; uvicorn would log a traceback

    def stop(self) -> None:
        """Let go of everything that waits."""
        for task in self.late:
            task.cancel()

    async def _serve(self, scope: _Scope, receive: _Receive, send: _Send) -> None:
        at_s, path, found = time.monotonic(), str(scope["path"]), route(scope["method"], scope["path"])
        body = await _read(receive)
        if body is None:
            return
        call = _Call(scope, receive, send, body, found, at_s)
        if path.startswith("/_sandbox/"):
            await self._send(call, self._admin(call, path))
            return
        if found.operation == "rotate":
            self._store.count_post(found.token_id)
        if self._config.latency_s:
            await asyncio.sleep(self._config.latency_s)
        caller = self._edge(call)
        if isinstance(caller, Answer):
            await self._finish(call, caller, "")
            return
        self._store.touch(caller.id)
        if self._limits is not None and not self._limits.allows(caller.id, call.method):
            await self._finish(call, Answer(429, b"Too Many Requests", TEXT), caller.id)
            return
        asked = Asked(found, _query(scope), body, caller)
        fault = self.plan.next(found.operation, found.token_id)
        if fault is None:
            await self._finish(call, self._api.answer(asked), caller.id)
        else:
            await self._misbehave(call, asked, fault)

    def _edge(self, call: _Call) -> Record | Answer:
        """Return the caller; or the refusal, which comes before routing.

        Source: fact sheet 3.4, observed on the live edge; the last one is inferred.
        """
        scheme, _, bearer = (call.header(b"authorization") or "").partition(" ")
        if scheme.lower() != "bearer":
            return Answer(403, b"RBAC: access denied", TEXT)
        found = self._store.check(bearer.strip())
        if isinstance(found, Flaw):
            return Answer(401, found.encode(), TEXT)
        return error(401, "The API token is no longer valid") if found is None else found

    async def _misbehave(self, call: _Call, asked: Asked, fault: Fault) -> None:
        refusal = self._refusal(fault)
        if refusal is not None:
            await self._finish(call, refusal, asked.caller.id)
        elif fault in (Fault.RESET_BEFORE, Fault.HANG_BEFORE, Fault.LATE):
            if fault is Fault.LATE and asked.route.operation not in READS:
                self._later(asked)
            await self._cut(call, asked, fault is Fault.HANG_BEFORE)
        else:
            await self._after(call, asked, fault)

    async def _after(self, call: _Call, asked: Asked, fault: Fault) -> None:
        if fault is Fault.LATENCY:
            await asyncio.sleep(self._config.faults.latency_s)
        answer = self._api.answer(asked)
        if fault is Fault.LATENCY:
            await self._finish(call, answer, asked.caller.id)
        elif fault in (Fault.RESET_AFTER, Fault.HANG_AFTER):
            await self._cut(call, asked, fault is Fault.HANG_AFTER)
        elif fault is Fault.ERROR_502_AFTER:
            await self._finish(call, Answer(502, _UPSTREAM, TEXT), asked.caller.id)
        elif fault is Fault.TRUNCATED:
            await self._truncate(call, answer, asked.caller.id)
        elif fault is Fault.INVALID_JSON:
            await self._finish(call, replace(answer, body=answer.body[:-1]), asked.caller.id)
        else:
            await self._finish(call, _without_token(answer), asked.caller.id)

    def _refusal(self, fault: Fault) -> Answer | None:
        """Return the answer of a fault that keeps the call from its effect."""
        limited = Answer(429, b"Too Many Requests", TEXT)
        soon = email.utils.format_datetime(self._store.now() + timedelta(seconds=2), usegmt=True)
        return {
            Fault.THROTTLE_SECONDS: replace(limited, headers={"retry-after": "1"}),
            Fault.THROTTLE_DATE: replace(limited, headers={"retry-after": soon}),
            Fault.THROTTLE_BARE: limited,
            Fault.ERROR_500: error(500, "Internal server error"),
            Fault.ERROR_503_TEXT: Answer(503, b"no healthy upstream", TEXT),
            Fault.ERROR_504_HTML: Answer(504, _GATEWAY, HTML),
            Fault.HTML_200: Answer(200, _PORTAL, HTML),
        }.get(fault)

    async def _cut(self, call: _Call, asked: Asked, hang: bool) -> None:
        """Reset the connection, after a silence if it is to hang first."""
        self._note(call, 0, asked.caller.id)
        if hang:
            await call.silence(self._config.faults.hang_s)
        _reset(call.transport)
        await call.gone()

    async def _truncate(self, call: _Call, answer: Answer, token_id: str) -> None:
        self._note(call, answer.status, token_id)
        await self._head(call, answer)
        half = {"type": "http.response.body", "body": answer.body[: len(answer.body) // 2], "more_body": True}
        if answer.body:
            await call.send(half)
        call.transport.close()
        await call.gone()

    def _later(self, asked: Asked) -> None:
        async def act() -> None:
            await asyncio.sleep(self._config.faults.late_by_s)
            self._api.answer(asked)

        task = asyncio.get_running_loop().create_task(act())
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def _finish(self, call: _Call, answer: Answer, token_id: str) -> None:
        self._note(call, answer.status, token_id)
        await self._send(call, answer)

    def _note(self, call: _Call, status: int, token_id: str) -> None:
        self.log.append((call.at_s, call.method, call.route.operation, status, token_id))
        self._counts[f"{call.method} {call.route.operation} {status}"] += 1

    async def _send(self, call: _Call, answer: Answer) -> None:
        await self._head(call, answer)
        await call.send({"type": "http.response.body", "body": answer.body})

    async def _head(self, call: _Call, answer: Answer) -> None:
        headers = {"date": email.utils.format_datetime(self._store.now(), usegmt=True), **answer.headers}
        if answer.status != 204:
            headers |= {"content-type": answer.content_type, "content-length": str(len(answer.body))}
        raw = [(name.encode("latin-1"), text.encode("latin-1")) for name, text in headers.items()]
        await call.send({"type": "http.response.start", "status": answer.status, "headers": raw})

    def _admin(self, call: _Call, path: str) -> Answer:
        client = call.scope.get("client")
        if not client or not ipaddress.ip_address(client[0]).is_loopback or call.method != "GET":
            return error(403, "loopback and GET only")
        if path == "/_sandbox/state":
            return Answer(200, msgspec.json.encode(self._state()))
        if path == "/_sandbox/requests":
            return Answer(200, msgspec.json.encode(dict(self._counts)))
        return error(404, "Not found")

    def _state(self) -> dict[str, object]:
        tokens = {
            token_id: {
                "name": record.name,
                "sha256": hashlib.sha256(self._store.secret_of(token_id).encode()).hexdigest(),
                "posts": self._store.posts(token_id),
                "rotations": self._store.rotations(token_id),
            }
            for token_id, record in self._store.tokens.items()
        }
        return {"organization_id": self._store.organization_id, "tokens": tokens}


async def _read(receive: _Receive) -> bytes | None:
    """Return the request's body, None if the client left before its end or sends too much."""
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if sum(map(len, parts)) > _LARGEST_BODY:
            return None
        if not event.get("more_body", False):
            return b"".join(parts)


def _query(scope: _Scope) -> dict[str, list[str]]:
    return parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _without_token(answer: Answer) -> Answer:
    """Return the answer without its secret, if it has one."""
    if not answer.body:
        return answer
    shown = msgspec.json.decode(answer.body, type=dict[str, object])
    shown.pop("token", None)
    return replace(answer, body=msgspec.json.encode(shown))


def _reset(transport: asyncio.Transport) -> None:
    """End the connection with a TCP reset rather than in peace."""
    peer = transport.get_extra_info("socket")
    if peer is not None and not transport.is_closing():
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()
