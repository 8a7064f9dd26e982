"""A receiver of notifications and hooks, over real HTTP: it keeps what it gets, and fails or hangs when told to."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.servers.loopback import Loopback


@dataclass
class Listener:
    """What came, and how to answer.

    Attributes:
        gate: Requests are answered while it is set. `arrived`: how many came, answered or not.
    """

    port: int = 0
    status: int = 200
    arrived: int = 0
    gate: threading.Event = field(default_factory=threading.Event)
    seen: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)

    @property
    def messages(self) -> list[str]:
        """The bodies of the notifications."""
        return [one["message"] for one in self.seen]


@contextmanager
def listening() -> Iterator[Listener]:
    """Serve on a free port of loopback."""
    listener = Listener()
    listener.gate.set()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"] or 0))
            listener.arrived += 1
            listener.gate.wait(60)
            listener.headers.append({key.lower(): value for key, value in self.headers.items()})
            listener.paths.append(self.path)
            listener.seen.append(json.loads(body))
            self.send_response(listener.status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with Loopback(("127.0.0.1", 0), Handler) as server:
        listener.port = server.server_address[1]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield listener
        finally:
            listener.gate.set()
            server.shutdown()
            thread.join()
