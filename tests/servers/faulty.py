"""A small real HTTP server on loopback that records what it is asked, and misbehaves on demand.

The servers beside this file subclass it: `answered` is what the vendor documents.
"""

import json
import socket
import ssl
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from tests.servers.loopback import Loopback


@dataclass(frozen=True)
class Request:
    """What came."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    def json(self) -> dict:
        """The body."""
        return json.loads(self.body or b"{}")


@dataclass(frozen=True)
class Reply:
    """What goes back; a body that is not bytes goes as JSON."""

    status: int = 200
    body: object = b""
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What happens to the next calls that fit.

    Attributes:
        reply: Sent instead of the server's own; None sends nothing.
        applies: Whether the server does first what it is asked.
        hangs: Whether, sending nothing, it keeps the connection instead of resetting it.
        times: How many calls it befalls.
    """

    method: str = ""
    path: str = ""
    reply: Reply | None = None
    applies: bool = False
    hangs: bool = False
    times: int = 1

    def fits(self, request: Request) -> bool:
        """Whether it befalls this call."""
        return self.times > 0 and self.method in ("", request.method) and self.path in request.path


class FaultyServer:
    """Starts on a free port of loopback.

    Args:
        context: Makes it speak TLS.
    """

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.lock = threading.RLock()
        self.requests: list[Request] = []
        self.faults: list[Fault] = []
        self._released = threading.Event()
        self._server = Loopback(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        if context:
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self.port = self._server.server_address[1]
        self.url = f"{'https' if context else 'http'}://localhost:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    def answered(self, request: Request) -> Reply:
        """Return what the vendor answers; called under the lock."""
        raise NotImplementedError

    def replies(self, request: Request) -> Reply | Fault:
        """Record a request and return what shall happen to it."""
        with self.lock:
            self.requests.append(request)
            fault = next((fault for fault in self.faults if fault.fits(request)), None)
            if fault is None:
                return self.answered(request)
            fault.times -= 1
            if fault.applies:
                self.answered(request)
            return fault.reply or fault

    def hang(self) -> None:
        """Wait until the server is closed."""
        self._released.wait(20)

    def calls(self, method: str, path: str = "") -> list[Request]:
        """The requests so far of this method whose path holds this."""
        return [request for request in self.requests if request.method == method and path in request.path]

    def close(self) -> None:
        """Stop."""
        self._released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def _handler(server: FaultyServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 20

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = urlsplit(self.path)
            query = {key: values[-1] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
            headers = {key.lower(): value for key, value in self.headers.items()}
            reply = server.replies(Request(self.command, url.path, query, headers, body))
            if isinstance(reply, Fault):
                self.end(reply.hangs)
            else:
                self.send(reply)

        def end(self, hangs: bool) -> None:
            self.close_connection = True
            if hangs:
                server.hang()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

        def send(self, reply: Reply) -> None:
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            kind = "application/json" if content[:1] in (b"{", b"[") else "text/html"
            self.send_response(reply.status)
            for key, value in {"Content-Type": kind, "Content-Length": str(len(content)), **reply.headers}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = answer  # noqa: N815

    return Handler
