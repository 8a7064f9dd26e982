"""`python -m tests.bench.lean`: the sandbox's API behind a server too lean to be what a benchmark measures.

The sandbox spends a millisecond a call: sixteen connections of wrk, which is written in C, reach three quarters of
workers / latency there, and 0.98 here. This speaks just enough HTTP/1.1 for a client known to be ours, knows no limits,
and makes its answer while the latency passes.
"""

import argparse
import asyncio
import json
import selectors
import signal
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import parse_qs

from rotator.sandbox.api import Api, Asked, error, route
from rotator.sandbox.store import Population, Record, Store

_ORGANIZATION = "clorg0000000000000000000a"


class _Connection(asyncio.Protocol):
    """One client's, which waits for an answer before it asks again."""

    def __init__(self, store: Store, latency_s: float) -> None:
        self._store = store
        self._api = Api(store)
        self._latency_s = latency_s
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._received += data
        head, ended, body = self._received.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): text for name, _, text in (line.partition(": ") for line in lines)}
        if not ended or len(body) < int(headers.get("content-length", "0")):
            return
        self._received = b""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._latency_s
        loop.call_at(due_s, self._transport.write, self._answer(first, headers, body))

    def _answer(self, line: str, headers: dict[str, str], body: bytes) -> bytes:
        method, target, _ = line.split(" ")
        path, _, query = target.partition("?")
        caller = self._store.check(headers.get("authorization", "").removeprefix("Bearer "))
        if isinstance(caller, Record):
            answer = self._api.answer(Asked(route(method, path), parse_qs(query), body, caller))
        else:
            answer = error(401, "The API token is no longer valid")
        lines = (
            f"HTTP/1.1 {answer.status} -",
            f"date: {format_datetime(self._store.now(), usegmt=True)}",
            f"content-type: {answer.content_type}",
            f"content-length: {len(answer.body)}",
        )
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + answer.body


async def _serve(store: Store, latency_s: float) -> None:
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    server = await loop.create_server(lambda: _Connection(store, latency_s), "127.0.0.1")
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    print(json.dumps({"url": url, "organization_id": _ORGANIZATION}), flush=True)
    await stopped.wait()


def main() -> None:
    """Serve until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--latency", type=float, required=True, metavar="S")
    parser.add_argument("--credential-file", type=Path, required=True)
    given = parser.parse_args()
    store = Store(_ORGANIZATION, Population(given.tokens, given.seed), lambda: datetime.now(UTC))
    given.credential_file.touch(0o600)
    given.credential_file.write_text(store.secret_of(store.owner_id))

    def loop() -> asyncio.AbstractEventLoop:
        return asyncio.SelectorEventLoop(selectors.SelectSelector())  # waits for microseconds; epoll for milliseconds

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_serve(store, given.latency))


if __name__ == "__main__":
    main()
