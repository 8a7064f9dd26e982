"""A server over hand-made answers, and requests over real sockets."""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rotator.board import Snapshot
from rotator.server import Endpoints, Serving, serve
from tests.server import boards

METRICS = b"# TYPE rotator_build_info gauge\n" + b'rotator_build_info{version="1"} 1\n' * 100


@dataclass
class Daemon:
    """What a daemon answers; tests change it while the server runs."""

    board: Callable[[], Snapshot] = boards.calm
    dead: str = ""
    unready: str = ""
    accepted: list[str] = field(default_factory=list)
    hook: Callable[[str], None] = lambda _: None

    def endpoints(self) -> Endpoints:
        return Endpoints(self._snapshot, self._metrics, self._live, self._ready)

    def _snapshot(self) -> Snapshot:
        self.hook("snapshot")
        return self.board()

    def _metrics(self, accept: str) -> tuple[bytes, str]:
        self.hook("metrics")
        self.accepted.append(accept)
        return METRICS, "text/plain; version=0.0.4; charset=utf-8"

    def _live(self) -> str:
        self.hook("live")
        return self.dead

    def _ready(self) -> str:
        self.hook("ready")
        return self.unready


@contextmanager
def served(daemon: Daemon | None = None, listen: str = "127.0.0.1:0", names: tuple[str, ...] = ()) -> Iterator[Serving]:
    """Serve while the block runs."""
    with serve(listen, (daemon or Daemon()).endpoints(), names) as serving:
        yield serving


def connected(serving: Serving) -> socket.socket:
    """Return an open connection."""
    host, _, port = serving.address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=10)


def exchanged(serving: Serving, request: bytes) -> bytes:
    """Send bytes and return all that comes until the connection ends."""
    with connected(serving) as connection:
        connection.sendall(request)
        return drained(connection)


def drained(connection: socket.socket) -> bytes:
    """Return all that comes until the connection ends, in peace or not."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
