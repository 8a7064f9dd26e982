"""The endpoints over real sockets: answers, headers, bounds, and an end that leaves nothing behind."""

import asyncio
import gzip
import json
import os
import socket
import threading
import time
from collections.abc import MutableMapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from rotator.board import Board
from rotator.config import load
from rotator.engine.standing import standings
from rotator.errors import ConfigError
from rotator.server import edge, serve
from rotator.server.address import Address
from rotator.server.application import Application
from tests.lab import lab
from tests.server import boards
from tests.server.calling import METRICS, Daemon, connected, drained, exchanged, served

PATHS = ("/", "/healthz", "/livez", "/readyz", "/metrics")
CANARY = "eyJhbGciOiJSUzI1NiJ9.canary-secret-canary.signature"


def test_each_endpoint_answers() -> None:
    """Body, status and content type of each."""
    daemon = Daemon()
    with served(daemon) as serving, httpx.Client(base_url=serving.url) as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "All well: 40 tokens, next sweep in 12 min" in page.text
        metrics = client.get("/metrics", headers={"accept": "application/openmetrics-text"})
        assert (metrics.content, metrics.headers["content-type"]) == (
            METRICS,
            "text/plain; version=0.0.4; charset=utf-8",
        )
        assert daemon.accepted == ["application/openmetrics-text"]
        for path in ("/livez", "/readyz"):
            assert (client.get(path).status_code, client.get(path).text) == (200, "ok\n")
        assert client.get("/healthz").headers["content-type"] == "application/json"


def test_probes_say_why_not() -> None:
    """A daemon that is dead or not ready answers 503 with one visible line; each probe says its own."""
    with served(Daemon(dead="the scheduler stands still", unready="the journal\x1b[31m\nis full")) as serving:
        live, ready = httpx.get(f"{serving.url}livez"), httpx.get(f"{serving.url}readyz")
        page, health = httpx.get(serving.url), httpx.get(f"{serving.url}healthz")
    assert (live.status_code, live.text) == (503, "the scheduler stands still\n")
    assert (ready.status_code, ready.text) == (503, "the journal\\x1b[31m\\x0ais full\n")
    assert "Not ready: the scheduler stands still" in page.text
    assert (health.status_code, health.json()["live"]["ok"], health.json()["ready"]["ok"]) == (200, False, False)


def test_health_tells_people_everything() -> None:
    """The JSON names version, config, policies, providers and sinks with their moments."""
    with served(Daemon(boards.trouble)) as serving:
        said = httpx.get(f"{serving.url}healthz").json()
    assert (said["status"], said["message"]) == ("trouble", "9 tokens need a person")
    assert said["tokens"] == {
        "total": 30, "quarantined": 1, "in_doubt": 1, "unsettled": 7, "drifted": 1, "expired": 1, "due": 1, "fresh": 18
    }  # fmt: skip
    assert (said["at"], said["started_at"]) == ("2026-03-14T09:26:53.000Z", "2026-03-11T05:26:53.000Z")
    assert said["config"]["ok"] is False
    assert said["config"]["message"].startswith("policies.services.when.max_age")
    assert said["providers"][0] == {
        "name": "astro", "type": "astro", "ok": False, "ok_at": "2026-03-14T08:26:53.000Z",
        "failed_at": "2026-03-14T09:22:53.000Z", "message": "list: 503", "looked_at": "2026-03-14T08:38:53.000Z",
    }  # fmt: skip
    assert [(sink["name"], sink["ok"]) for sink in said["sinks"]] == [("vault", False), ("k8s", None)]
    assert [(row["name"], row["missed"], row["next_at"]) for row in said["policies"]] == [
        ("services", 3, "2026-03-14T09:38:53.000Z"),
        ("deployments", 0, None),
    ]


@pytest.mark.parametrize("path", [*PATHS, "/nothing"])
def test_every_answer_is_locked_down(path: str) -> None:
    """Nothing is cached, sniffed, framed, referred or embedded, and no answer names the software or the date."""
    with served() as serving:
        headers = httpx.get(serving.url.rstrip("/") + path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert headers["content-security-policy"].startswith("default-src 'none'")
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert not headers.keys() & {"server", "date"}


def test_it_only_reads() -> None:
    """Other methods are refused with what is allowed; HEAD is GET without a body; other paths are unknown."""
    with served() as serving, httpx.Client(base_url=serving.url) as client:
        for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = client.request(method, "/")
            assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        for path in PATHS:
            head, whole = client.head(path), client.get(path, headers={"accept-encoding": "identity"})
            identity = client.head(path, headers={"accept-encoding": "identity"})
            assert (head.status_code, head.content) == (200, b"")
            assert identity.headers["content-length"] == str(len(whole.content))
        for path in ("/favicon.ico", "/metrics/", "/%2e%2e/etc/passwd", "/livez%00"):
            assert client.get(path).status_code == 404
        assert client.get("/?refresh=1").status_code == 200


def test_a_body_is_never_read() -> None:
    """A GET that announces a large body is answered at once."""
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\nExpect: 100-continue\r\n\r\n"
    with served() as serving:
        assert exchanged(serving, request).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [("gzip", True), ("br, GZIP;q=0.5", True), ("gzip;q=0", False), ("gzip; q=0.00", False), ("identity", False)],
)
def test_gzip_when_asked(accepted: str, is_packed: bool) -> None:
    """A large answer is packed for whoever takes gzip; a small one never."""
    request = f"GET /metrics HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {accepted}\r\n\r\n".encode()
    with served() as serving:
        head, _, body = exchanged(serving, request).partition(b"\r\n\r\n")
        small = httpx.get(f"{serving.url}livez", headers={"accept-encoding": "gzip"})
    assert (b"content-encoding: gzip" in head) is is_packed
    assert (gzip.decompress(body) if is_packed else body) == METRICS
    assert "content-encoding" not in small.headers


def test_a_rebound_name_is_refused() -> None:
    """A page in a browser that lets its own name point to loopback learns nothing; a configured name is answered."""
    with served(names=("Rotator.Internal",)) as serving:
        stranger = httpx.get(serving.url, headers={"host": "evil.example"})
        assert (stranger.status_code, "token" in stranger.text) == (421, False)
        assert httpx.get(f"{serving.url}metrics", headers={"host": "evil.example:9464"}).status_code == 421
        assert httpx.get(serving.url, headers={"host": "rotator.internal"}).status_code == 200
        assert httpx.get(serving.url, headers={"host": "localhost:8080"}).status_code == 200
        assert exchanged(serving, b"GET /livez HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_a_failure_is_told_in_our_own_words(capfd: pytest.CaptureFixture[str]) -> None:
    """A callable that raises is a 500 without a word of its exception, and the next request is served."""

    def fail(what: str) -> None:
        if what == "metrics":
            raise ValueError(CANARY)

    with served(Daemon(hook=fail)) as serving:
        broken = httpx.get(f"{serving.url}metrics")
        assert httpx.get(serving.url).status_code == 200
        assert httpx.get(f"{serving.url}metrics").status_code == 500
    said = capfd.readouterr()
    assert broken.status_code == 500
    assert broken.text == "rotator could not answer this; standard error says what kind of failure it was\n"
    assert said.err == "rotator: the endpoint /metrics failed (ValueError)\n" * 2


def test_an_answer_that_hangs_holds_up_no_other() -> None:
    """While /readyz hangs in the journal, every other endpoint answers."""
    gate = threading.Event()
    daemon = Daemon(hook=lambda what: what == "ready" and gate.wait(20) and None)
    try:
        with served(daemon) as serving, connected(serving) as hanging:
            hanging.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
            began = time.monotonic()
            assert httpx.get(f"{serving.url}livez").text == "ok\n"
            assert httpx.get(f"{serving.url}metrics").content == METRICS
            assert time.monotonic() - began < 5
            gate.set()
            assert drained(hanging).endswith(b"ok\n")
    finally:
        gate.set()


def test_an_answer_that_takes_too_long_is_given_up() -> None:
    """Whoever asks an endpoint that hangs is told so in time; when it works again, so does the endpoint."""
    gate = threading.Event()
    daemon = Daemon(hook=lambda what: what == "ready" and gate.wait(20) and None)
    app = Application(daemon.endpoints(), Address("127.0.0.1", 1), (), patience_s=0.05)

    async def ask() -> list[int]:
        statuses: list[int] = []

        async def send(message: MutableMapping[str, Any]) -> None:
            statuses.extend([message["status"]] if "status" in message else [])

        scope = {"type": "http", "method": "GET", "path": "/readyz", "headers": []}
        for _ in range(3):
            await app(scope, None, send)
        gate.set()
        while statuses[-1] != 200:
            await app(scope, None, send)
        return statuses

    statuses = asyncio.run(ask())
    app.close()
    assert statuses[:3] == [503, 503, 503]
    assert statuses[-1] == 200


def test_a_head_that_is_too_large_is_refused() -> None:
    """Headers beyond the limit end the connection before they are kept."""
    with served() as serving:
        answer = exchanged(serving, b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 2 * edge.LARGEST_HEAD)
        assert answer[:12] in (b"HTTP/1.1 400", b"")
        assert b"status" not in answer
        assert httpx.get(f"{serving.url}livez").status_code == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\nnonsense\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_nonsense_does_no_harm(request_bytes: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever is sent, the server stays up and logs nothing."""
    with served() as serving:
        answer = exchanged(serving, request_bytes)
        assert httpx.get(f"{serving.url}livez").status_code == 200
    assert answer == b"" or answer.startswith(b"HTTP/1.1 ")
    assert caplog.record_tuples == []


def test_nonsense_while_an_answer_is_under_way_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """A client that breaks the protocol before its answer came is cut off, and nothing is logged."""
    gate, entered = threading.Event(), threading.Event()

    def hang(what: str) -> None:
        if what == "ready":
            entered.set()
            gate.wait(20)

    with served(Daemon(hook=hang)) as serving, connected(serving) as asking:
        asking.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert entered.wait(10)
        asking.sendall(b"ZZZ\r\nnonsense\r\n")
        answer = drained(asking)
        gate.set()
        assert httpx.get(f"{serving.url}livez").status_code == 200
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert [record for record in caplog.record_tuples if record[1] >= 30] == []


def test_one_request_a_connection() -> None:
    """Connections end after their answer, so that idle ones hold no place; what is pipelined is not answered."""
    request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with served() as serving:
        answer = exchanged(serving, request * 3)
    assert answer.count(b"HTTP/1.1 200") == 1
    assert b"connection: close" in answer


def test_slow_clients_hold_no_thread_and_lose_their_place() -> None:
    """Clients that send nothing fill the places; more are turned away; after the deadline all is as before."""
    threads = threading.active_count()
    with served() as serving:
        slow = [connected(serving) for _ in range(edge.MOST_CONNECTIONS + 20)]
        try:
            began = time.monotonic()
            cut = [drained(connection) for connection in slow[edge.MOST_CONNECTIONS :]]
            assert cut == [b""] * 20
            assert time.monotonic() - began < edge.HEAD_S / 2
            assert threading.active_count() <= threads + 1
            began = time.monotonic()
            assert [drained(connection) for connection in slow[: edge.MOST_CONNECTIONS]] == [
                b""
            ] * edge.MOST_CONNECTIONS
            assert time.monotonic() - began < edge.HEAD_S + 3
        finally:
            for connection in slow:
                connection.close()
        assert httpx.get(f"{serving.url}livez").status_code == 200


def test_closing_takes_no_longer_than_five_seconds_and_leaves_nothing() -> None:
    """With idle, half-sent and hanging connections open, close ends listener, connections and threads."""
    gate, entered = threading.Event(), threading.Event()

    def hang(what: str) -> None:
        if what == "ready":
            entered.set()
            gate.wait(30)

    before, descriptors = set(threading.enumerate()), open_descriptors()
    serving = serve("127.0.0.1:0", Daemon(hook=hang).endpoints())
    httpx.get(f"{serving.url}livez")
    idle, half, hanging = (connected(serving) for _ in range(3))
    half.sendall(b"GET / HTT")
    hanging.sendall(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert entered.wait(10)
    began = time.monotonic()
    serving.close()
    assert time.monotonic() - began < 5
    for connection in (idle, half, hanging):
        assert drained(connection) == b""
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        connected(serving)
    left = set(threading.enumerate()) - before
    assert {thread.name for thread in left} == {"serve /readyz"}  # a daemon: it does not keep the process
    assert all(thread.daemon for thread in left)
    gate.set()
    for thread in left:
        thread.join(10)
        assert not thread.is_alive()
    assert open_descriptors() == descriptors
    serving.close()  # again: nothing


def test_an_answer_under_way_is_finished() -> None:
    """Closing lets a request that is being answered have its answer."""
    entered = threading.Event()

    def slow(what: str) -> None:
        if what == "live":
            entered.set()
            time.sleep(0.3)

    with served(Daemon(hook=slow)) as serving, connected(serving) as asking:
        asking.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert entered.wait(10)
        serving.close()
        assert drained(asking).endswith(b"\r\n\r\nok\n")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_an_address_in_use_is_a_config_error() -> None:
    """The message names the key, the address and what to do; so does one that this machine does not have."""
    with served() as serving, pytest.raises(ConfigError) as caught:
        serve(serving.address, Daemon().endpoints())
    assert str(caught.value).startswith(f"server.listen: {serving.address} is in use by another process: ")
    with pytest.raises(ConfigError, match=r"server.listen: 192\.0\.2\.1:0 is no address of this machine"):
        serve("192.0.2.1:0", Daemon().endpoints())
    with pytest.raises(ConfigError, match=r"server.listen: must be an IP address"):
        serve("somewhere", Daemon().endpoints())


def test_the_same_address_can_be_had_again_at_once() -> None:
    """A restart does not wait for old connections to time out."""
    with served() as serving:
        httpx.get(f"{serving.url}livez")
    with served(listen=serving.address) as again:
        assert httpx.get(f"{again.url}livez").status_code == 200


def test_ipv6() -> None:
    """It listens on the IPv6 loopback."""
    if not socket.has_ipv6 or not Path("/proc/net/if_inet6").read_text():
        pytest.skip("this machine has no IPv6")
    with served(listen="[::1]:0") as serving:
        assert serving.address.startswith("[::1]:")
        assert httpx.get(f"{serving.url}livez").status_code == 200


def test_others_can_reach_it_only_when_asked_and_a_warning_says_so() -> None:
    """Away from loopback it warns; on loopback it does not."""
    now = datetime.now(UTC)
    with served() as serving:
        assert serving.exposed(now) is None
    with served(listen="0.0.0.0:0") as serving:
        warning = serving.exposed(now)
        assert httpx.get(f"http://127.0.0.1:{serving.address.rpartition(':')[2]}/livez").status_code == 200
    assert warning is not None
    assert (warning.name, serving.address in warning.message) == ("server_exposed", True)


def test_no_secret_is_shown(tmp_path: Path) -> None:
    """After a real sweep no secret of any token, old or new, is in the page or in the JSON."""
    with lab(tmp_path) as bench:
        config, board = bench.config, Board(datetime.now(UTC))
        providers = {name: table.type for name, table in config.providers.items()}
        kinds = {name: sink.kind for name, sink in config.sinks.items()}
        board.configure(config.policies, providers, kinds, datetime.now(UTC))
        secrets = {bench.sandbox.store.secret_of(token_id) for token_id in bench.sandbox.store.tokens}
        bench.sweep()
        secrets |= {bench.sandbox.store.secret_of(token_id) for token_id in bench.sandbox.store.tokens}
        for event in bench.events:
            board(event)
        with bench.app() as app:
            board.take("astro", standings(app.desks[0], app.reader.every_lineage("astro")), app.clock.now())
            snapshot = board.snapshot(app.clock.now())
    with served(Daemon(lambda: snapshot)) as serving:
        said = [httpx.get(serving.url).text, httpx.get(f"{serving.url}healthz").text]
    assert "All well" in said[0]
    assert json.loads(said[1])["tokens"]["total"] == snapshot.total > 0
    assert len(secrets) > snapshot.total
    assert not [secret for secret in secrets for text in said if secret in text]


@pytest.mark.parametrize(
    ("written", "listen"),
    [
        ("", "127.0.0.1:9464"),
        ('listen = ""', ""),
        ('listen = "[::1]:80"', "[::1]:80"),
        ('listen = "localhost:1"', "127.0.0.1:1"),
    ],
)
def test_the_config_says_where(written: str, listen: str, tmp_path: Path) -> None:
    """Loopback is the default, an empty text switches the server off."""
    assert load(config_with(tmp_path, written)).server.listen == listen


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ('listen = "9464"', "server.listen: must be an IP address with a port"),
        ("listen = 9464", "server.listen: must be an IP address with a port"),
        ('lisen = ""', "server.lisen: unknown key; did you mean 'listen'?"),
        ('names = ["a:80"]', "server.names.0: must be a host name without a port"),
    ],
)
def test_a_config_that_is_wrong_says_how(written: str, said: str, tmp_path: Path) -> None:
    """Each mistake is named with its place and the fix."""
    with pytest.raises(ConfigError) as caught:
        load(config_with(tmp_path, written))
    assert said in str(caught.value)


def config_with(folder: Path, written: str) -> Path:
    from tests.test_config import GOOD

    path = folder / "rotator.toml"
    path.write_text(f"{GOOD}\n[server]\n{written}\n")
    return path
