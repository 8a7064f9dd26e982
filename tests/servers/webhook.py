"""A receiver of webhooks as a user may write one, over real HTTP or TLS, and a proxy in front of it.

It verifies signatures by itself, after the text of Standard Webhooks and with nothing of ours; what it stores it keeps
in one JSON file, where a consumer reads it. Faults are played once each, in order.
"""

import base64
import hashlib
import hmac
import json
import select
import socket
import socketserver
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.servers.loopback import Loopback


@dataclass
class Fault:
    """What goes wrong with one request.

    Attributes:
        status: Answered instead of what is right; 0 for an answer that does not come.
        commits: Whether the event takes effect first.
        echoes: Whether the answer repeats the request, as badly written receivers do.
        how: `answer`, `hang`, `reset`, `cut`, `drip`, `garbage`, or `huge`.
    """

    status: int = 200
    commits: bool = False
    echoes: bool = False
    how: str = "answer"
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b"{}"


@dataclass
class Seen:
    """A request as it came."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        """The event in it."""
        return json.loads(self.body)


class Receiver:
    """The state of a receiver; `serving` lends it a socket.

    Args:
        store: The JSON file with what consumers read: path and key to mint id and secret.
        keys: Signing keys of which one has to fit, as bytes.
    """

    def __init__(self, store: Path, keys: list[bytes]) -> None:
        self.store = store
        self.keys = keys
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.ids: set[str] = set()
        self.is_down = False
        self.tolerance_s = 300
        self.released = threading.Event()
        self._lock = threading.Lock()
        self.url = ""

    def held(self) -> dict[str, dict[str, str]]:
        """Return everything that is stored."""
        return json.loads(self.store.read_text()) if self.store.exists() else {}

    def put(self, name: str, secret: str, mint_id: str) -> None:
        """Store a secret."""
        with self._lock:
            self.store.write_text(json.dumps({**self.held(), name: {"mint_id": mint_id, "secret": secret}}))

    def answer(self, request: Seen) -> tuple[int, bytes]:
        """Do what an event says."""
        if self.is_down:
            return 503, b"down"
        if not self.is_genuine(request):
            return 401, b"bad signature: " + request.body  # echoes what it got, as some do
        event = request.event
        name = f"{request.path}#{event['data']['key']}"
        if event["type"] == "token.preflight":
            return 204, b""
        if event["type"] == "token.verify":
            return 200, json.dumps({"mint_id": self.held().get(name, {}).get("mint_id")}).encode()
        mint_id = event["data"]["mint_id"]
        if request.headers["webhook-id"] in self.ids and self.held().get(name, {}).get("mint_id") == mint_id:
            return 409, json.dumps({"mint_id": mint_id}).encode()
        self.put(name, event["data"]["secret"], mint_id)
        self.ids.add(request.headers["webhook-id"])
        return 200, b'{"ok": true}'

    def is_genuine(self, request: Seen) -> bool:
        """Whether one of the signatures fits one of the keys, and the time is now."""
        sent_at = request.headers.get("webhook-timestamp", "")
        if not sent_at.isdigit() or abs(time.time() - int(sent_at)) > self.tolerance_s:
            return False
        content = f"{request.headers['webhook-id']}.{sent_at}.".encode() + request.body
        right = {base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode() for key in self.keys}
        entries = [entry.split(",", 1) for entry in request.headers["webhook-signature"].split(" ")]
        return any(version == "v1" and value in right for version, value in entries)


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer one event, or play the next fault."""
            body = self.rfile.read(int(self.headers["content-length"]))
            request = Seen(self.path, {name.lower(): value for name, value in self.headers.items()}, body)
            receiver.seen.append(request)
            fault = receiver.faults.pop(0) if receiver.faults else None
            if fault is None:
                status, content = receiver.answer(request)
                self._say(status, {}, content)
                return
            if fault.commits:
                receiver.answer(request)
            if fault.echoes:
                fault = replace(fault, body=body)
            getattr(self, f"_{fault.how}")(fault)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

        def _say(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status not in (204, 304):
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _answer(self, fault: Fault) -> None:
            self._say(fault.status, fault.headers, fault.body)

        def _hang(self, fault: Fault) -> None:
            receiver.released.wait(30)
            self.close_connection = True

        def _reset(self, fault: Fault) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True

        def _cut(self, fault: Fault) -> None:
            self.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"o')
            self.close_connection = True

        def _garbage(self, fault: Fault) -> None:
            self.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")
            self.close_connection = True

        def _huge(self, fault: Fault) -> None:
            with suppress(OSError):
                self._say(200, {}, b"x" * 1_000_000)
            self.close_connection = True

        def _drip(self, fault: Fault) -> None:
            self.close_connection = True
            with suppress(OSError):
                self.wfile.write(b"HTTP/1.1 200 OK\r\n")
                while not receiver.released.wait(0.05):
                    self.wfile.write(b"X-Slow: yes\r\n")

    return Handler


class _Server(Loopback):
    daemon_threads = False
    block_on_close = True


@contextmanager
def serving(receiver: Receiver, tls: ssl.SSLContext | None = None) -> Iterator[Receiver]:
    """Run a receiver on a free port of the loopback."""
    server = _Server(("127.0.0.1", 0), _handler(receiver))
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    receiver.url = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    with _running(server):
        try:
            yield receiver
        finally:
            receiver.released.set()


class Proxy:
    """A proxy that tunnels every CONNECT to one port of the loopback; `seen` holds the heads of the requests."""

    def __init__(self, port: int, *, refuses: bool = False) -> None:
        self.port = port
        self.refuses = refuses
        self.seen: list[bytes] = []
        self.url = ""


@contextmanager
def proxying(proxy: Proxy) -> Iterator[Proxy]:
    """Run a proxy on a free port of the loopback."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = iter(self.rfile.readline, b"\r\n")
            proxy.seen.append(b"".join(lines))
            if proxy.refuses:
                self.wfile.write(b"HTTP/1.1 403 canary says no\r\nContent-Length: 0\r\n\r\n")
                return
            self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            with socket.create_connection(("127.0.0.1", proxy.port)) as onward:
                _relayed(self.connection, onward)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = False

    server = Server(("127.0.0.1", 0), Handler)
    proxy.url = f"http://127.0.0.1:{server.server_address[1]}"
    with _running(server):
        yield proxy


def _relayed(first: socket.socket, second: socket.socket) -> None:
    other: dict[Any, Callable[[bytes], None]] = {first: second.sendall, second: first.sendall}
    with suppress(OSError):
        while True:
            for ready in select.select([first, second], [], [], 10)[0]:
                chunk = ready.recv(65536)
                if not chunk:
                    return
                other[ready](chunk)


@contextmanager
def _running(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
