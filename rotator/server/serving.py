"""Starting and stopping the server: the listening socket, its thread, and what is said when it cannot be had."""

import errno
import socket
import threading
from collections.abc import Collection
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Self

from rotator.errors import ConfigError
from rotator.events import Event, EventName
from rotator.server.address import Address
from rotator.server.endpoints import Endpoints

if TYPE_CHECKING:
    from rotator.server.edge import Edge

_PATH = "server.listen"
_BACKLOG = 128
_START_S = 10.0
_STOP_S = 4.0
_REFUSALS = {
    errno.EADDRINUSE: 'is in use by another process: stop that, choose another port, or write "" for no server',
    errno.EADDRNOTAVAIL: 'is no address of this machine; write "127.0.0.1:9464" or "0.0.0.0:9464"',
    errno.EACCES: "may not be used by this user; choose a port from 1024 up",
    errno.EAFNOSUPPORT: 'is of a kind that this machine has switched off; write "127.0.0.1:9464"',
}


class Serving:
    """A running server; a context manager.

    Attributes:
        address: Where it listens, with the real port: `127.0.0.1:9464`.
    """

    def __init__(self, address: Address, edge: "Edge", listener: socket.socket) -> None:
        self.address = str(address)
        self._is_loopback = address.is_loopback
        self._edge = edge
        self._thread = threading.Thread(target=edge.run, args=([listener],), name="server", daemon=True)

    @property
    def url(self) -> str:
        """The status page's URL."""
        return f"http://{self.address}/"

    def exposed(self, at: datetime) -> Event | None:
        """Return the warning that others than this machine can reach the server; None if they cannot.

        Args:
            at: UTC.
        """
        if self._is_loopback:
            return None
        said = f"the endpoints on {self.address} ask for no password: names, ids and moments of tokens are open to"
        return Event(name=EventName.SERVER_EXPOSED, at=at, message=f"{said} everybody who reaches it; never a secret")

    def start(self) -> None:
        """Serve from now on; raises RuntimeError if the thread does not come up."""
        self._thread.start()
        if not self._edge.is_up.wait(_START_S):
            raise RuntimeError("the server did not start")

    def close(self) -> None:
        """Stop listening, let answers that are under way finish for a moment, and cut every connection; idempotent."""
        self._edge.stop()
        self._thread.join(_STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def serve(listen: str, endpoints: Endpoints, names: Collection[str] = ()) -> Serving:
    """Serve in a thread until the returned handle is closed.

    Args:
        listen: `server.listen`; not empty.
        endpoints: Where the answers come from.
        names: `server.names`: host names besides `localhost` by which requests may call us.

    Raises:
        ConfigError: The address cannot be used.
    """
    from rotator.server.application import Application  # noqa: PLC0415 - Jinja2 and uvicorn are for the daemon only
    from rotator.server.edge import Edge  # noqa: PLC0415

    try:
        address = Address.parse(listen)
    except ValueError as error:
        raise ConfigError.of(_PATH, str(error)) from None
    listener = _bound(address)
    address = replace(address, port=listener.getsockname()[1])
    serving = Serving(address, Edge(Application(endpoints, address, names)), listener)
    serving.start()
    return serving


def _bound(address: Address) -> socket.socket:
    six = ":" in address.host
    everywhere = address.host == "::" and socket.has_dualstack_ipv6()
    try:
        return socket.create_server(
            (address.host, address.port),
            family=socket.AF_INET6 if six else socket.AF_INET,
            backlog=_BACKLOG,
            dualstack_ipv6=everywhere,
        )
    except OSError as error:
        said = _REFUSALS.get(error.errno or 0, f"cannot be used: {error.strerror}")
        raise ConfigError.of(_PATH, f"{address} {said}") from None
