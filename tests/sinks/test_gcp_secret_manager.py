"""The Google Secret Manager sink: the shared contract for each format, and what only versions and etags bring."""

import base64
import json
import os
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import google.auth.exceptions
import pytest
import requests.exceptions
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.model import Place
from rotator.secret import Secret
from rotator.sinks import _google
from rotator.sinks._google import Endpoint, SecretManager, crc32c
from tests.servers.faulty import Fault, Reply, Request
from tests.servers.gcp import GcpServer, said
from tests.servers.gcp import crc32c as slowly
from tests.sinks.contract import CANARY, Harness, SinkContract, facts, mint, raising_without_secret

GCP: Any = sinks.load("gcp_secret_manager")
BLOCKS: dict[str, dict[str, object]] = {
    "json": {"create": True},
    "raw": {"create": True, "format": "raw", "secret": "raw-{name}"},
    "disable": {"create": True, "disable_previous": True, "fields": {"token": "{secret}", "until": "{end_at}"}},
}
NEIGHBOUR = b'"theirs": 1.50, "long": 12345678901234567890'


@pytest.fixture(scope="module")
def running() -> Iterator[GcpServer]:
    """Run one server for the file."""
    server = GcpServer()
    yield server
    server.close()


@pytest.fixture
def server(running: GcpServer) -> GcpServer:
    """Empty it."""
    for kept in (running.secrets, running.denied, running.faults, running.requests, running.before_add):
        kept.clear()
    running.refused = lambda _: False
    return running


def connected(url: str, credentials: Any = AnonymousCredentials, timeout_s: float = 1.0) -> Any:
    """Return the sink as `build` makes it, but with credentials of its own."""
    endpoint = Endpoint(url, certifi.where(), timedelta(seconds=timeout_s))
    return GCP.GcpSecretManagerSink("gcp", "acme", SecretManager("gcp", endpoint, credentials))


@pytest.fixture
def sink(server: GcpServer) -> Iterator[Any]:
    """Build one with a short timeout."""
    sink = connected(server.url)
    yield sink
    sink.close()


def place_of(sink: Any, token: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(GCP.DeliveryOptions, block), facts(name=token))


def name_of(place: Place) -> str:
    """Return the resource name of a place."""
    return place.location.partition("#")[0]


class GcpHarness:
    """A consumer and a person, at the same project."""

    kind = "gcp_secret_manager"
    retry_after = timedelta(seconds=7)

    def __init__(self, server: GcpServer, sink: Any, block: dict[str, object]) -> None:
        self.server, self.sink, self.block = server, sink, block
        is_raw = block.get("format") == "raw"
        self.sibling = {**block, **({"secret": "raw-{name}-too"} if is_raw else {"fields": {"other": "{secret}"}})}
        self._neighbour, self._annotation = NEIGHBOUR, "kept"

    def read(self, place: Place) -> str | None:
        """Read the latest version."""
        data = self.server.read(name_of(place))
        if data is None or self.block.get("format") == "raw":
            return data.decode() if data else None
        return json.loads(data).get(place.location.partition("#")[2])

    def write(self, place: Place, secret: str) -> None:
        """Add a version by hand."""
        raw = self.block.get("format") == "raw"
        self.server.put(name_of(place), secret.encode() if raw else json.dumps({"token": secret}).encode())

    def plant_neighbour(self, place: Place) -> None:
        """Put another secret beside it, an annotation on it, and other keys into it."""
        name = name_of(place)
        self.server.put("projects/acme/secrets/neighbour", b"theirs")
        if name not in self.server.secrets:
            self.server.make(name)
        self.server.secrets[name]["annotations"]["theirs"] = "kept"
        if self.block.get("format") != "raw":
            now = self.server.read(name) or b"{}"
            inside = now.strip()[1:-1]
            self.server.put(name, b"{" + NEIGHBOUR + (b", " + inside if inside else b"") + b"}")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at all three."""
        data = self.server.read(name_of(place)) or b""
        inside = self.block.get("format") == "raw" or self._neighbour in data
        annotations = self.server.secrets[name_of(place)]["annotations"]
        beside = self.server.read("projects/acme/secrets/neighbour") == b"theirs"
        return inside and annotations["theirs"] == self._annotation and beside

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take the right to add away."""
        self.server.denied.add("secretmanager.versions.add")
        yield
        self.server.denied.clear()

    def rebuilt(self) -> Any:
        """Build another."""
        return Preflighted(connected(self.server.url))

    def remove(self, place: Place) -> bool:
        """Delete the secret."""
        del self.server.secrets[name_of(place)]
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection after each write."""
        return self._failing(Fault("POST", ":addVersion", applies=True), Fault("PATCH", applies=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection before each write."""
        return self._failing(Fault("POST", ":addVersion"), Fault("PATCH"))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call."""
        return self._failing(Fault(reply=said(429, "RESOURCE_EXHAUSTED", **{"Retry-After": "7"})))

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """Take every right away."""
        return self._failing(Fault(reply=said(403)))

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Reset every connection; the port is kept, for the other tests of the file."""
        return self._failing(Fault())

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Fail what reads."""
        return self._failing(Fault("GET", reply=said(500, "INTERNAL")))

    @contextmanager
    def edited_meanwhile(self, place: Place) -> Iterator[None]:
        """Change the annotation, and the number of the neighbour inside an object, just before a version is added."""
        name = name_of(place)

        def edit() -> None:
            self._annotation = "edited"
            self.server.number += 1
            secret = self.server.secrets[name]
            secret["annotations"] = {**secret["annotations"], "theirs": "edited"}
            secret["etag"] = f'"{self.server.number}"'
            if self.block.get("format") != "raw":
                self._neighbour = NEIGHBOUR.replace(b"1.50", b"2.75")
                self.server.put(name, (self.server.read(name) or b"").replace(NEIGHBOUR, self._neighbour))

        self.server.before_add.append(edit)
        yield
        assert not self.server.before_add

    def calls(self) -> int:
        """Count them."""
        return len(self.server.requests)

    @contextmanager
    def _failing(self, *faults: Fault) -> Iterator[None]:
        self.server.faults.extend(replace(fault, times=1000) for fault in faults)
        yield
        self.server.faults.clear()


class TestGcpSink(SinkContract):
    """The shared contract, for each form."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, server: GcpServer, sink: Any) -> Harness:
        """Return one over the server; the places of the contract's deliveries are made as preflight makes them."""
        return GcpHarness(server, Preflighted(sink), BLOCKS[request.param])


class Preflighted:
    """The sink as the engine uses it: a preflight always comes before a delivery."""

    def __init__(self, sink: Any) -> None:
        self._sink = sink
        self.name = sink.name
        self.resolve, self.preflight, self.read_back = sink.resolve, sink.preflight, sink.read_back
        self.close = sink.close

    def deliver(self, place: Place, mint: Any) -> Any:
        """Deliver where a preflight has been."""
        with suppress(RotatorError):  # the contract wants to see what the delivery itself says
            self._sink.preflight(place)
        return self._sink.deliver(place, mint)


# Options


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"secret": "a/b"}, "A-Z, a-z"),
        ({"secret": "{nam}"}, "did you mean"),
        ({"secret": "x" * 250 + "{name}"}, "too long"),
        ({"format": "raw", "fields": {"token": "{secret}"}}, "fields need format"),
        ({"fields": {"token": "x"}}, "exactly"),
        ({"regions": ["europe-west3"]}, "create = true"),
        ({"create": True, "regions": ["a/b"]}, "names such as"),
    ],
)
def test_bad_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """A block that cannot work is told what to write."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(GCP.DeliveryOptions, block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Field required"),
        ({"project": "a/b"}, "must be the id"),
        ({"project": "p", "service_account": "x"}, "address of a service account"),
        ({"project": "p", "endpoint": "http://secretmanager.googleapis.com"}, "must be https"),
        ({"project": "p", "endpoint": "https://h/v1"}, "must not hold a path"),
    ],
)
def test_bad_options_are_refused_at_load(options: dict[str, object], message: str) -> None:
    """What cannot work is found before anything is contacted."""
    with pytest.raises(ValidationError, match=message):
        GCP.Options(**options)


# Versions


def test_old_versions_are_kept(server: GcpServer, sink: Any) -> None:
    """Every delivery adds a version, and none of those before is touched."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    receipts = [sink.deliver(place, mint(f"{CANARY}{n}", n)) for n in range(3)]
    assert [receipt.version for receipt in receipts] == ["1", "2", "3"]
    assert [row["state"] for row in server.secrets[name_of(place)]["versions"]] == ["ENABLED"] * 3


def test_the_version_before_is_disabled_where_wanted(server: GcpServer, sink: Any) -> None:
    """With `disable_previous` only the new version can be read; what is destroyed already is no obstacle."""
    place = place_of(sink, create=True, disable_previous=True)
    sink.preflight(place)
    for number in range(3):
        sink.deliver(place, mint(f"{CANARY}{number}", number))
    versions = server.secrets[name_of(place)]["versions"]
    assert [row["state"] for row in versions] == ["DISABLED", "DISABLED", "ENABLED"]
    versions[2]["state"] = "DESTROYED"
    server.put(name_of(place), b"{}")
    versions[2]["state"] = "DESTROYED"
    sink.deliver(place, mint(CANARY, 9))
    assert versions[-1]["state"] == "ENABLED"


def test_only_the_version_that_was_replaced_is_disabled(server: GcpServer, sink: Any) -> None:
    """What stood before a value that was found there is nobody's of ours; what could not be disabled is later."""
    place = place_of(sink, disable_previous=True)
    server.put(name_of(place), b'{"token": "older"}')
    server.put(name_of(place), json.dumps({"token": CANARY}).encode())
    sink.deliver(place, mint())
    states = [row["state"] for row in server.secrets[name_of(place)]["versions"]]
    assert states == ["ENABLED", "ENABLED"]
    server.faults.append(Fault("POST", ":disable", said(500)))
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, mint(f"{CANARY}-new", 2))
    sink.deliver(place, mint(f"{CANARY}-new", 2))
    states = [row["state"] for row in server.secrets[name_of(place)]["versions"]]
    assert states == ["ENABLED", "DISABLED", "ENABLED"]


def test_a_write_without_an_answer_makes_no_second_version(server: GcpServer, sink: Any) -> None:
    """An add that took effect unseen is found by its value when it is delivered again."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    server.faults.append(Fault("POST", ":addVersion", applies=True, hangs=True))
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, mint())
    assert len(server.calls("POST", ":addVersion")) == 1, "an add was repeated blindly"
    assert sink.deliver(place, mint()).version == "1"
    assert sink.read_back(place).mint_id == "mint-1"


@pytest.mark.parametrize("reply", [None, said(500), said(503, "UNAVAILABLE"), said(504)])
def test_an_add_that_failed_is_open_and_sent_once(server: GcpServer, sink: Any, reply: Reply | None) -> None:
    """The SDK repeats nothing of itself, and whether a failed add took effect is left open."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    server.faults.append(Fault("POST", ":addVersion", reply))
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, mint())
    assert len(server.calls("POST", ":addVersion")) == 1
    assert sink.deliver(place, mint()).version == "1"


def test_a_version_that_came_between_keeps_its_keys(server: GcpServer, sink: Any) -> None:
    """Somebody adds a version between our read and our add: their keys are in the next one."""
    place = place_of(sink)
    server.put(name_of(place), b'{"theirs": 1}')
    server.before_add += [
        lambda: server.put(name_of(place), b'{"theirs": 2, "more": 1.0}'),
        lambda: server.put(name_of(place), b'{"theirs": 3}'),
    ]
    receipt = sink.deliver(place, mint())
    latest = json.loads(server.read(name_of(place)) or b"")
    assert latest == {"theirs": 3, "token": CANARY}
    assert receipt.version == str(len(server.secrets[name_of(place)]["versions"]))


def test_two_first_writers_lose_no_key(server: GcpServer, sink: Any) -> None:
    """Both found no version yet: whose add comes second finds the first one's keys by its number, and keeps them."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    server.before_add.append(lambda: server.put(name_of(place), b'{"theirs": 1.50}'))
    receipt = sink.deliver(place, mint())
    assert server.read(name_of(place)) == b'{"theirs": 1.50, "token": "%s"}' % CANARY.encode()
    assert (receipt.version, sink.read_back(place).mint_id) == ("3", "mint-1")


def test_two_writers_of_one_object_both_stay(server: GcpServer) -> None:
    """Deliveries of several keys into one secret, each by a sink of its own, all arrive in the end."""
    server.make("projects/acme/secrets/shared")
    server.put("projects/acme/secrets/shared", b'{"theirs": 1.50}')
    members = [connected(server.url, timeout_s=10) for _ in range(3)]

    def deliver(number: int) -> str:
        place = place_of(members[number], secret="shared", fields={f"k{number}": "{secret}"})
        for _ in range(30):
            try:
                members[number].deliver(place, mint(f"{CANARY}{number}", number))
                if members[number].read_back(place).secret == Secret(f"{CANARY}{number}"):
                    return place.location
            except (OutcomeUnknown, Temporary, NotFound):
                continue  # somebody who read before us wrote after us, and puts our key back
        raise AssertionError("it never arrived")

    for _ in range(3):  # the engine reads back and delivers again what somebody overwrote
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(deliver, range(3)))
    latest = server.read("projects/acme/secrets/shared") or b""
    assert b'"theirs": 1.50' in latest
    assert json.loads(latest) == {"theirs": 1.5, **{f"k{n}": f"{CANARY}{n}" for n in range(3)}}
    for member in members:
        member.close()


def test_threads_of_one_sink_never_drop_a_key(server: GcpServer, sink: Any) -> None:
    """Within one process deliveries into one secret take turns, so each adds one version and none drops a key."""
    server.make("projects/acme/secrets/shared")

    def deliver(number: int) -> None:
        sink.deliver(place_of(sink, secret="shared", fields={f"k{number}": "{secret}"}), mint(f"{CANARY}{number}"))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(deliver, range(6)))
    assert len(json.loads(server.read("projects/acme/secrets/shared") or b"")) == 6
    assert len(server.secrets["projects/acme/secrets/shared"]["versions"]) == 6


def test_a_changed_value_under_the_same_mint_is_written_again(server: GcpServer, sink: Any) -> None:
    """The annotation alone proves nothing: the value counts."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    sink.deliver(place, mint())
    server.put(name_of(place), b'{"token": "changed"}')
    assert sink.read_back(place).mint_id == ""
    assert sink.deliver(place, mint()).version == "3"
    assert sink.read_back(place).secret == Secret(CANARY)


@pytest.mark.parametrize("state", ["DISABLED", "DESTROYED"])
def test_a_version_that_cannot_be_read_is_never_taken_for_empty(server: GcpServer, sink: Any, state: str) -> None:
    """Keys in a disabled version would be lost, so nothing is written; a raw value has none to lose."""
    for block, refused in (({}, True), ({"format": "raw", "secret": "raw"}, False)):
        place = place_of(sink, **block)
        server.put(name_of(place), b'{"theirs": 1}')
        server.secrets[name_of(place)]["versions"][0]["state"] = state
        with raising_without_secret(Permanent) as caught:
            sink.read_back(place)
        assert not isinstance(caught.value, NotFound)
        if refused:
            for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
                with raising_without_secret(Permanent, match="disabled or destroyed"):
                    call(place)
        else:
            assert sink.deliver(place, mint()).version == "2"


@pytest.mark.parametrize(
    ("block", "content"),
    [({}, b"plain"), ({}, b"[1]"), ({}, b"\xff\xfe"), ({"format": "raw"}, b'{"theirs": 1}')],
)
def test_content_that_would_be_lost_is_refused(
    server: GcpServer, sink: Any, block: dict[str, object], content: bytes
) -> None:
    """What is no JSON object is never replaced by one, nor an object by a raw value."""
    place = place_of(sink, **block)
    server.put(name_of(place), content)
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Permanent, match="lost|replace whole"):
            call(place)
    assert len(server.secrets[name_of(place)]["versions"]) == 1


def test_what_arrives_damaged_is_not_used(server: GcpServer, sink: Any) -> None:
    """A payload that does not have its checksum is neither read back nor merged into."""
    place = place_of(sink)
    server.put(name_of(place), b'{"token": "x"}')
    server.secrets[name_of(place)]["versions"][0]["crc"] = 1
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Temporary, match="checksum"):
            call(place)


def test_checksums_are_castagnolis() -> None:
    """The table agrees with the check value of the standard and with the bit by bit computation."""
    assert crc32c(b"123456789") == 0xE3069283
    for data in (b"", b"\x00" * 32, bytes(range(256))):
        assert crc32c(data) == slowly(data)


def test_a_value_beyond_googles_size_is_refused(server: GcpServer, sink: Any) -> None:
    """It is refused before it leaves."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    with raising_without_secret(Permanent, match="64 KiB"):
        sink.deliver(place, mint(CANARY * 2000))
    assert not server.calls("POST", ":addVersion")


def test_a_place_without_room_is_refused_before_the_rotation(server: GcpServer, sink: Any) -> None:
    """Neighbours that leave a new value no room are found by the preflight, while the old token still lives."""
    place = place_of(sink)
    for filled, fits in ((64 * 1024 - 6000, True), (64 * 1024 - 4000, False), (64 * 1024 - 20, False)):
        server.put(name_of(place), json.dumps({"theirs": "x" * filled}).encode())
        if fits:
            sink.preflight(place)
        else:
            with raising_without_secret(Permanent, match="no room is left"):
                sink.preflight(place)
    assert not server.calls("POST", ":addVersion")


# Annotations and creation


def test_the_mark_names_whose_value_it_is(server: GcpServer, sink: Any) -> None:
    """Ids, time and fingerprint stand in an annotation, never the value; a second change of the secret is kept."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    server.secrets[name_of(place)]["annotations"]["theirs"] = "kept"
    server.faults.append(Fault("PATCH", "", said(400, "FAILED_PRECONDITION")))
    sink.deliver(place, mint())
    annotations = server.secrets[name_of(place)]["annotations"]
    (ours,) = [json.loads(text) for key, text in annotations.items() if key.startswith("rotator")]
    assert (ours["mint"], ours["token"], ours["version"]) == ("mint-1", "cltoken1", "1")
    assert annotations["theirs"] == "kept"
    assert "canary" not in repr(annotations)
    assert len(server.calls("PATCH")) == 2


def test_a_value_that_could_not_be_noted_is_noted_later(server: GcpServer, sink: Any) -> None:
    """A failed annotation leaves the outcome open, and the next delivery only notes."""
    place = place_of(sink, create=True)
    sink.preflight(place)
    for reply, times in ((said(403), 1), (said(500), 1), (said(400, "FAILED_PRECONDITION"), 4)):
        server.faults.append(Fault("PATCH", "", reply, times=times))
        with raising_without_secret(OutcomeUnknown, match="could not be noted"):
            sink.deliver(place, mint())
    assert sink.deliver(place, mint()).version == "1"
    assert sink.read_back(place).mint_id == "mint-1"


def test_a_missing_secret_is_made_only_where_wanted(server: GcpServer, sink: Any) -> None:
    """By default a person makes it; with `create` preflight does, empty, where the block says."""
    with raising_without_secret(Permanent, match="create = true"):
        sink.preflight(place_of(sink))
    assert not server.secrets
    place = place_of(sink, create=True, regions=["europe-west3", "europe-west4"])
    sink.preflight(place)
    made = server.secrets[name_of(place)]
    assert [r["location"] for r in made["replication"]["userManaged"]["replicas"]] == ["europe-west3", "europe-west4"]
    assert (made["labels"], made["versions"]) == ({"managed-by": "rotator"}, [])
    place = place_of(sink, "other", create=True)
    sink.preflight(place)
    assert server.secrets[name_of(place)]["replication"] == {"automatic": {}}


def test_a_secret_that_somebody_made_meanwhile_is_taken(server: GcpServer, sink: Any) -> None:
    """A conflict at creation is what was wanted."""
    place = place_of(sink, create=True)
    server.make(name_of(place))
    server.faults.append(Fault("GET", name_of(place), said(404)))
    sink.preflight(place)
    assert len(server.calls("POST", "/secrets")) == 2


def test_permissions_are_asked_on_the_very_secret(server: GcpServer, sink: Any) -> None:
    """Every right that delivery needs is asked for, and a missing one is named."""
    place = place_of(sink, disable_previous=True)
    server.make(name_of(place))
    for permission in ("versions.add", "versions.access", "versions.disable", "secrets.get", "secrets.update"):
        server.denied = {f"secretmanager.{permission}"}
        with pytest.raises(Forbidden, match=permission):
            sink.preflight(place)
    server.denied = set()
    sink.preflight(place)
    assert all(name_of(place) in request.path for request in server.requests)


def test_preflight_and_reading_write_nothing(server: GcpServer, sink: Any) -> None:
    """Without `create` both only ask."""
    place = place_of(sink)
    server.put(name_of(place), b'{"token": "x"}')
    sink.preflight(place)
    sink.read_back(place)
    assert {(r.method, r.path.rpartition(":")[2]) for r in server.requests if r.method != "GET"} == {
        ("POST", "testIamPermissions")
    }


# Failures

FAILURES: list[tuple[Reply, type[RotatorError], type[RotatorError]]] = [
    (Reply(302, b"", {"Location": "http://127.0.0.1:1/"}), Permanent, Permanent),
    (said(400), Permanent, Permanent),
    (said(400, "FAILED_PRECONDITION"), Permanent, Permanent),
    (said(401), CredentialRejected, CredentialRejected),
    (said(403), Forbidden, Forbidden),
    (Reply(404, b"<html>theirs</html>"), Permanent, Permanent),
    (said(405), Permanent, Permanent),
    (said(409, "ABORTED"), Temporary, Temporary),
    (said(412), Permanent, Permanent),
    (said(429, "RESOURCE_EXHAUSTED", **{"retry-after": "7"}), Throttled, Throttled),
    (said(499), Temporary, OutcomeUnknown),
    (said(500), Temporary, OutcomeUnknown),
    (said(501), Permanent, Permanent),
    (Reply(502, b"<html>theirs</html>"), Temporary, OutcomeUnknown),
    (said(503), Temporary, OutcomeUnknown),
    (Reply(200, b"<html>theirs</html>"), Temporary, OutcomeUnknown),
    (Reply(200, b"\xff"), Temporary, OutcomeUnknown),
]


@pytest.mark.parametrize(("reply", "at_read", "at_write"), FAILURES, ids=lambda v: getattr(v, "status", ""))
def test_every_answer_means_what_the_table_says(
    server: GcpServer, sink: Any, reply: Reply, at_read: type[RotatorError], at_write: type[RotatorError]
) -> None:
    """Before the add nothing has happened; at the add only a failing server or a strange answer leaves it open."""
    place = place_of(sink)
    server.put(name_of(place), b"{}")
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
        server.faults[:] = [Fault("GET", name_of(place), reply, times=3)]
        with raising_without_secret(at_read) as caught:
            call(place)
        assert type(caught.value) is at_read
        assert place.location in caught.value.message
        assert "theirs" not in caught.value.message
    server.faults[:] = [Fault("POST", ":addVersion", reply, times=3)]
    with raising_without_secret(at_write) as caught:
        sink.deliver(place, mint())
    assert type(caught.value) is at_write
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after == timedelta(seconds=7)


@pytest.mark.parametrize("module", [exceptions, google.auth.exceptions, requests.exceptions], ids=lambda m: m.__name__)
def test_every_exception_of_the_sdk_is_translated(module: Any) -> None:
    """Whatever the three libraries may raise has a row, its own or its parent's; warnings apart."""
    faults = _google.faults_of_sdk("gcp")
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds = [kind for kind in kinds if not issubclass(kind, Warning) and kind.__module__ == module.__name__]
    assert len(kinds) > 10
    for kind in kinds:
        assert any(base in faults for base in kind.__mro__), kind


def test_every_row_names_a_class_that_exists() -> None:
    """A row that no class answers to would never be used."""
    for module, rows in (
        (exceptions, _google.API_FAULTS),
        (google.auth.exceptions, _google.AUTH_FAULTS),
        (requests.exceptions, _google.REQUESTS_FAULTS),
    ):
        assert not [name for name in rows if not hasattr(module, name)]


@pytest.mark.parametrize("hangs", [False, True])
def test_a_read_without_an_answer_is_temporary(server: GcpServer, sink: Any, hangs: bool) -> None:
    """Nothing has happened yet."""
    place = place_of(sink)
    server.faults.append(Fault("GET", hangs=hangs))
    with raising_without_secret(Temporary):
        sink.deliver(place, mint())
    assert not server.calls("POST")


def test_nobody_listening_is_temporary() -> None:
    """A refused connection certainly had no effect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sink = connected(f"http://127.0.0.1:{free.getsockname()[1]}")
        with raising_without_secret(Temporary, match="no connection"):
            sink.read_back(place_of(sink))
        sink.close()


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (google.auth.exceptions.DefaultCredentialsError("theirs"), CredentialRejected),
        (google.auth.exceptions.RefreshError("theirs"), CredentialRejected),
        (google.auth.exceptions.TransportError("theirs"), Temporary),
    ],
)
def test_credentials_that_cannot_be_had_are_told(server: GcpServer, error: Exception, kind: type[RotatorError]) -> None:
    """No credentials, dead ones, and a token service that is down are three things."""

    def credentials() -> Any:
        raise error

    sink = connected(server.url, credentials)
    with raising_without_secret(kind) as caught:
        sink.preflight(place_of(sink))
    assert type(caught.value) is kind
    assert "theirs" not in caught.value.message
    sink.close()


def test_default_credentials_come_from_the_environment(server: GcpServer, tmp_path: Path) -> None:
    """`build` contacts nothing; the first call takes the application's default credentials, or says so."""
    script = f"""
        from pathlib import Path
        from rotator import sinks
        from rotator.errors import RotatorError
        from tests.sinks.contract import facts
        module = sinks.load("gcp_secret_manager")
        sink = module.build("gcp", module.Options(project="acme", endpoint={server.url!r}), Path("/"))
        try:
            sink.preflight(sink.resolve(sinks.checked(module.DeliveryOptions, {{}}), facts()))
        except RotatorError as error:
            print(type(error).__name__, error.message)
    """
    missing = {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "none.json")}
    assert "CredentialRejected" in ran(script, missing)
    assert not server.requests


def service_account(key_id: str) -> dict[str, str]:
    """Return what a key file of a service account holds; its tokens are signed here, nobody else is asked for them."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return {
        "type": "service_account",
        "project_id": "acme",
        "private_key_id": key_id,
        "private_key": private.decode(),
        "client_email": "rotator@acme.iam.gserviceaccount.com",
        "token_uri": "http://127.0.0.1:1/",
    }


def test_a_service_account_of_the_environment_delivers(server: GcpServer, tmp_path: Path) -> None:
    """The whole way as an operator has it: `build`, the default credentials, a preflight, a delivery."""
    (tmp_path / "key.json").write_text(json.dumps(service_account("1")))
    script = f"""
        from pathlib import Path
        from rotator import sinks
        from tests.sinks.contract import facts, mint
        module = sinks.load("gcp_secret_manager")
        sink = module.build("gcp", module.Options(project="acme", endpoint={server.url!r}), Path("/"))
        place = sink.resolve(sinks.checked(module.DeliveryOptions, {{"create": True}}), facts())
        sink.preflight(place)
        print(sink.deliver(place, mint()))
        sink.close()
    """
    shown = ran(script, {"GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json")})
    assert shown == "Receipt(location='projects/acme/secrets/astro-svc-airflow#token', version='1')\n"
    assert all(request.headers["authorization"].startswith("Bearer ey") for request in server.requests)


def test_a_renewed_key_file_is_used_at_the_next_login(
    server: GcpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once Google takes the old key no more, what lies in the file now is read, without a restart."""
    path = tmp_path / "key.json"
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    path.write_text(json.dumps(service_account("old")))
    sink = GCP.build("gcp", GCP.Options(project="acme", endpoint=server.url), tmp_path)
    place = place_of(sink, create=True)
    sink.preflight(place)
    sink.deliver(place, mint())
    path.write_text(json.dumps(service_account("new")))
    server.refused = lambda request: key_of(request) == "old"
    with raising_without_secret(CredentialRejected):
        sink.read_back(place)
    assert sink.read_back(place).secret == Secret(CANARY)
    assert key_of(server.requests[-1]) == "new"
    sink.close()


def key_of(request: Request) -> str:
    """Return the id of the key that signed the token which a request shows."""
    head = request.headers["authorization"].removeprefix("Bearer ").partition(".")[0]
    return json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))["kid"]


def test_without_the_sdk_the_fix_is_named() -> None:
    """Importing, building and resolving work without the extra; whatever needs it says what to install."""
    script = """
        import sys
        from pathlib import Path
        sys.modules["google.cloud.secretmanager_v1"] = None
        from rotator import sinks
        from rotator.errors import ConfigError
        from tests.sinks.contract import facts, mint
        module = sinks.load("gcp_secret_manager")
        sink = module.build("gcp", module.Options(project="acme"), Path("/"))
        place = sink.resolve(sinks.checked(module.DeliveryOptions, {}), facts())
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            try:
                call(place)
            except ConfigError as error:
                print(error.message)
        sink.close()
    """
    assert ran(script).count("sinks.gcp: needs Google's SDK; run: pip install 'rotator[gcp]'") == 3


def test_importing_loads_no_sdk() -> None:
    """`rotator check` offline stays cheap."""
    assert ran("import sys, rotator.sinks.gcp_secret_manager; print('google.auth' in sys.modules)") == "False\n"


def ran(script: str, environment: dict[str, str] | None = None) -> str:
    """Return what another Python prints."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": ".", **(environment or {})},
    )
    return run.stdout


def test_a_place_of_another_version_is_refused(sink: Any) -> None:
    """A journalled place that cannot be understood is not guessed at."""
    with raising_without_secret(Permanent, match="not compatible"):
        sink.read_back(Place("gcp", "projects/acme/secrets/x", {"secret": 1}))


def test_missing_keys_and_versions_are_not_found(server: GcpServer, sink: Any) -> None:
    """No secret, no version and no key are each Google's own positive word."""
    place = place_of(sink)
    for _ in range(3):
        with pytest.raises(NotFound):
            sink.read_back(place)
        server.secrets.setdefault(name_of(place), {}) or server.make(name_of(place))
    server.put(name_of(place), b'{"theirs": 1}')
    with pytest.raises(NotFound, match="that key"):
        sink.read_back(place)
