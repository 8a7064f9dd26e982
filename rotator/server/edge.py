"""The HTTP edge: uvicorn in a thread, with bounds that hold whatever a client does.

One request a connection and a deadline for each: scrapes and probes come seconds apart, so keeping connections open
would gain nothing and would let idle clients hold places. Nothing is logged: the paths are few and known.
"""

import asyncio
import contextlib
import logging
import socket
import threading
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from rotator.server.application import Application

MOST_CONNECTIONS = 64
LARGEST_HEAD = 16 * 1024  # bytes: the request line and all headers
HEAD_S = 5.0  # until a request is complete
WHOLE_S = 30.0  # until its answer has been read
_GRACE_S = 1.0

_silent = logging.getLogger("rotator.server.silent")  # not uvicorn's own: other servers in this process may use that
_silent.setLevel(logging.CRITICAL + 1)


class _Protocol(H11Protocol):
    """One connection."""

    _deadlines: tuple[asyncio.TimerHandle, ...] = ()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.logger, self.access_log = _silent, False
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
            return
        # asyncio does so only for sockets that name their protocol; without it each answer waits 40 ms for an ACK.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadlines = (
            self.loop.call_later(HEAD_S, self._abort_unasked),
            self.loop.call_later(WHOLE_S, transport.abort),
        )

    def connection_lost(self, exc: Exception | None) -> None:
        for deadline in self._deadlines:
            deadline.cancel()
        super().connection_lost(exc)

    def _abort_unasked(self) -> None:
        cycle: object = self.cycle  # None until a request is complete, though its type says otherwise
        if cycle is None:
            self.transport.abort()


class Edge(uvicorn.Server):
    """Runs in the thread that calls `run`.

    Args:
        application: Answers.

    Attributes:
        is_up: Set as soon as requests are answered.
    """

    def __init__(self, application: Application) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http=_Protocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                date_header=False,
                server_header=False,
                proxy_headers=False,
                h11_max_incomplete_event_size=LARGEST_HEAD,
            )
        )
        self.is_up = threading.Event()
        self._application = application
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ending = asyncio.Event()

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        """Serve until `stop`; the sockets are closed then."""
        super().run(sockets)
        self._application.close()

    def stop(self) -> None:
        """End `run`; from any thread."""
        self.should_exit = True
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended already
                self._loop.call_soon_threadsafe(self._ending.set)

    async def main_loop(self) -> None:
        """Replace uvicorn's, which wakes ten times a second and only fills in headers that we do not send."""
        self._loop = asyncio.get_running_loop()
        self.is_up.set()
        if not self.should_exit:
            await self._ending.wait()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Replace uvicorn's, which waits for every answer."""
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        tasks = set(self.server_state.tasks)
        if tasks:
            await asyncio.wait(tasks, timeout=_GRACE_S)
        for connection in list(self.server_state.connections):
            _cut(connection)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        while self.server_state.connections:
            await asyncio.sleep(0.001)


def _cut(connection: Any) -> None:
    """End a connection; what was written already, and read by the kernel, still arrives."""
    transport = connection.transport
    if transport.get_write_buffer_size():
        transport.abort()
    else:
        transport.close()
