"""The vault sink: the shared contract for both versions of KV, and all that Vault can answer.

Set-up goes through Vault's own API, so the same tests run against a real Vault or OpenBao where
`ROTATOR_TEST_VAULT_ADDR` and `ROTATOR_TEST_VAULT_TOKEN` (of root) are set; those that need faults of the server skip.
"""

import datetime
import ipaddress
import logging
import os
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import hvac.exceptions
import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import ValidationError

from rotator import sinks
from rotator.config import parse, schema
from rotator.errors import (
    ConfigError,
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
from rotator.ports import Sink
from rotator.secret import Secret
from rotator.sinks._vault_calls import STATUSES
from rotator.sinks._vault_kv import Content, rendered
from rotator.sinks._vault_line import HVAC, Line
from rotator.sinks._vault_login import Login
from rotator.sinks._vault_options import VaultAuth, is_usable
from tests.servers.vault import Faults, Vault, serving
from tests.sinks.contract import CANARY, OTHER, SinkContract, facts, mint, raising_without_secret

VAULT: Any = sinks.load("vault")
REAL = os.environ.get("ROTATOR_TEST_VAULT_ADDR", "")
fake_only = pytest.mark.skipif(bool(REAL), reason="needs faults that no real Vault has a switch for")


class Outside:
    """The operator's hand: Vault's own API with the root token."""

    def __init__(self, address: str, token: str) -> None:
        self.address, self.token = address, token
        self._client = httpx.Client(base_url=f"{address}/v1/", headers={"X-Vault-Token": token}, trust_env=False)
        self._client.headers["X-Vault-Request"] = "true"

    def ask(self, method: str, path: str, body: object = None, namespace: str = "", **headers: str) -> Any:
        """Return the document that answers; None for 404."""
        sent = {**headers, **({"X-Vault-Namespace": namespace} if namespace else {})}
        response = self._client.request(method, path, json=body, headers=sent)
        if response.status_code == 404:
            return None
        assert response.is_success, (method, path, response.status_code, response.text)
        return response.json() if response.content else {}

    def mount(self, kv: int, namespace: str = "") -> str:
        """Enable an engine and return where."""
        at = f"test-{uuid.uuid4().hex[:10]}"
        self.ask("POST", f"sys/mounts/{at}", {"type": "kv", "options": {"version": str(kv)}}, namespace)
        for _ in range(100):  # a real one upgrades a new engine for a moment
            if kv == 1 or self._client.get(f"{at}/data/x", headers=_in(namespace)).status_code == 404:
                break
            time.sleep(0.05)
        return at

    def policy(self, name: str, rules: dict[str, str], namespace: str = "") -> None:
        """Write a policy: path to capabilities, separated by spaces."""
        text = "\n".join(
            f'path "{path}" {{ capabilities = [{", ".join(f"{chr(34)}{one}{chr(34)}" for one in has.split())}] }}'
            for path, has in rules.items()
        )
        self.ask("PUT", f"sys/policies/acl/{name}", {"policy": text}, namespace)

    def issue(self, *policies: str, namespace: str = "", **options: object) -> str:
        """Make a token."""
        asked = {"policies": list(policies), "ttl": "10m", **options}
        return str(self.ask("POST", "auth/token/create", asked, namespace)["auth"]["client_token"])

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def _in(namespace: str) -> dict[str, str]:
    return {"X-Vault-Namespace": namespace} if namespace else {}


@pytest.fixture(scope="module")
def vault() -> Iterator[Vault | None]:
    """The fake server; None where a real one is used."""
    if REAL:
        yield None
        return
    with serving() as server:
        yield server


@pytest.fixture
def outside(vault: Vault | None) -> Iterator[Outside]:
    """The operator; the fake's faults are mended afterwards."""
    if vault is None:
        hand = Outside(REAL, os.environ["ROTATOR_TEST_VAULT_TOKEN"])
    else:
        hand = Outside(vault.address, vault.token)
    yield hand
    hand.close()
    if vault is not None:
        vault.faults = Faults()
        vault.seen.clear()


@contextmanager
def sink_of(outside: Outside, base: Path, **options: object) -> Iterator[Sink]:
    """Build a sink as the configuration does, and close it."""
    sink = VAULT.build("vault", VAULT.Options(address=outside.address, **options), base)
    yield sink
    sink.close()


class VaultHarness:
    """An engine, a policy and a token of its own.

    Attributes:
        server: The fake, whose faults the hooks use; a real Vault has none, so that those hooks are not offered there.
    """

    kind = "vault"
    retry_after = timedelta(seconds=7)
    lacks: Mapping[str, str] = {
        "edited_meanwhile": "KV 1 compares nothing at a write, so of two at once the later one counts"
    }
    server: Vault | None = None

    def __init__(self, outside: Outside, base: Path, kv: int, block: dict[str, object], **options: object) -> None:
        self.outside, self.kv, self.block = outside, kv, block
        self.sibling = {**block, "fields": {"sibling": "{secret}"}}
        self.edits_move_versions = kv == 2  # KV 1 has no versions
        self.neighbour = NEIGHBOUR
        self.mount = outside.mount(kv)
        self.name = f"rotator-{uuid.uuid4().hex[:10]}"
        self.rules = (
            {f"{self.mount}/data/*": "create read update", f"{self.mount}/metadata/*": "patch"}
            if kv == 2
            else {f"{self.mount}/*": "create read update"}
        )
        outside.policy(self.name, self.rules)
        (base / "token").write_text(outside.issue(self.name))
        self.base = base
        told = {"auth": {"token": "file:token"}, **options}
        self.options = VAULT.Options(address=outside.address, mount=self.mount, kv=kv, **told)
        self.sink = VAULT.build("vault", self.options, base)

    def path(self, place: Place, what: str = "data") -> str:
        """Return the API's path of a place's secret."""
        below = str(place.options["path"])
        return f"{self.mount}/{what}/{below}" if self.kv == 2 else f"{self.mount}/{below}"

    def data(self, place: Place) -> dict[str, Any]:
        """Return all keys, empty if there is nothing."""
        found = self.outside.ask("GET", self.path(place))
        if found is None:
            return {}
        return dict(found["data"]["data"] if self.kv == 2 else found["data"])

    def put(self, place: Place, data: dict[str, Any]) -> None:
        """Write all keys."""
        self.outside.ask("POST", self.path(place), {"data": data} if self.kv == 2 else data)

    def read(self, place: Place) -> str | None:
        """Read what a consumer reads."""
        found: str | None = self.data(place).get(key_of(place))
        return found

    def write(self, place: Place, secret: str) -> None:
        """Write the consumer's key by hand."""
        self.put(place, {**self.data(place), key_of(place): secret})

    def remove(self, place: Place) -> bool:
        """As `vault kv delete` does."""
        self.outside.ask("DELETE", self.path(place))
        return True

    def plant_neighbour(self, place: Place) -> None:
        """Put other keys into the same secret."""
        self.put(place, {**self.data(place), **self.neighbour})

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether they are still there."""
        found = self.data(place)
        return {key: found.get(key) for key in self.neighbour} == self.neighbour

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take the right to write away."""
        self.outside.policy(self.name, dict.fromkeys(self.rules, "read"))
        yield
        self.outside.policy(self.name, self.rules)

    @contextmanager
    def denied(self, place: Place) -> Iterator[None]:
        """Take every right in the engine away."""
        self.outside.policy(self.name, {f"not-{self.mount}/*": "read"})
        yield
        self.outside.policy(self.name, self.rules)

    def rebuilt(self) -> Sink:
        """Build it again from the same options."""
        sink: Sink = VAULT.build("vault", self.options, self.base)
        return sink

    def calls(self) -> int | None:
        """Count what the fake has seen, the operator's requests included."""
        return None if self.server is None else len(self.server.seen)

    def answer_lost(self, place: Place) -> AbstractContextManager[None] | None:
        """Data and metadata are written, and the connection breaks."""
        return self._faulty(Faults(only=self.mount, lost=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None] | None:
        """The connection breaks as soon as a write arrives."""
        return self._faulty(Faults(only=self.mount, method="POST", drop=True))

    def unreachable(self, place: Place) -> AbstractContextManager[None] | None:
        """Every connection breaks, also that of a login."""
        return self._faulty(Faults(drop=True))

    def throttled(self, place: Place) -> AbstractContextManager[None] | None:
        """A rate limit quota is used up."""
        said = b'{"errors":["request path \\"canary\\": rate limit quota exceeded"]}'
        headers = {"Content-Type": "application/json", "Retry-After": "7"}
        return self._faulty(Faults((429, said, headers)))

    def reads_fail(self, place: Place) -> AbstractContextManager[None] | None:
        """The storage behind Vault fails."""
        said = b'{"errors":["1 error occurred:\\n\\t* canary\\n\\n"]}'
        return self._faulty(Faults((500, said, {"Content-Type": "application/json"}), self.mount, "GET"))

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None] | None:
        """Somebody is faster once; KV 1 compares nothing, so there the faster one's edit is lost, as documented."""

        def edit() -> None:
            if self.neighbour is NEIGHBOUR:
                self.neighbour = {**NEIGHBOUR, "user": "edited", "more": "canary of somebody else"}
                self.plant_neighbour(place)

        return None if self.kv == 1 else self._faulty(Faults(only=self.path(place), meanwhile=edit))

    def _faulty(self, faults: Faults) -> AbstractContextManager[None] | None:
        return None if self.server is None else _during(self.server, faults)

    def held(self, place: Place) -> dict[str, Any]:
        """Return the metadata that the API shows beside the data."""
        return dict(self.outside.ask("GET", self.path(place))["data"]["metadata"])


@contextmanager
def _during(server: Vault, faults: Faults) -> Iterator[None]:
    server.faults = faults
    yield
    server.faults = Faults()


def key_of(place: Place) -> str:
    """Return the key that a place names."""
    return place.location.rpartition("#")[2]


NEIGHBOUR: dict[str, Any] = {"user": "svc", "port": 5432, "ratio": 1.25, "tags": ["a", None], "nested": {"käse": "🔑"}}
BLOCKS: dict[str, tuple[int, dict[str, object]]] = {
    "kv2": (2, {}),
    "kv2-fields": (2, {"path": "a/{workspace_id}/{name}", "fields": {"token": "{secret}", "id": "{token_id}"}}),
    "kv1": (1, {"fields": {"token": "{secret}", "rotation": "{rotation_id}"}}),
}


@pytest.fixture(params=sorted(BLOCKS))
def harness(
    request: pytest.FixtureRequest, vault: Vault | None, outside: Outside, tmp_path: Path
) -> Iterator[VaultHarness]:
    """One for each form."""
    made = VaultHarness(outside, tmp_path, *BLOCKS[request.param])
    made.server = vault
    yield made
    made.sink.close()
    outside.ask("DELETE", f"sys/mounts/{made.mount}")


@pytest.fixture
def two(outside: Outside, tmp_path: Path) -> Iterator[VaultHarness]:
    """KV version 2."""
    made = VaultHarness(outside, tmp_path, 2, {})
    yield made
    made.sink.close()
    outside.ask("DELETE", f"sys/mounts/{made.mount}")


@pytest.fixture
def one(outside: Outside, tmp_path: Path) -> Iterator[VaultHarness]:
    """KV version 1."""
    made = VaultHarness(outside, tmp_path, 1, {})
    yield made
    made.sink.close()
    outside.ask("DELETE", f"sys/mounts/{made.mount}")


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(VAULT.DeliveryOptions, block), facts(name=name))


class TestContract(SinkContract):
    """The shared suite."""


def answering(
    vault: Vault, status: int, *said: str, extra: dict[str, str] | None = None, only: str = "", method: str = ""
) -> None:
    """Have everything answered so, in Vault's form with a text that is never to be seen."""
    body = msgspec.json.encode({"errors": [*said, "canary"]})
    vault.faults = Faults((status, body, {"Content-Type": "application/json", **(extra or {})}), only, method)


# what is mounted and allowed


def test_missing_rights_are_named(two: VaultHarness) -> None:
    """Preflight says which capability is missing on which path, before a secret depends on it."""
    place = place_of(two.sink)
    for has, lacks in (("read update", "create"), ("create read", "update"), ("create update", "read")):
        two.outside.policy(two.name, {f"{two.mount}/data/*": has})
        with pytest.raises(Forbidden, match=f"lacks {lacks} on {two.mount}/data/astro/svc-airflow; grant it"):
            two.sink.preflight(place)


def test_deleting_versions_needs_a_right_of_its_own(two: VaultHarness) -> None:
    """With delete_previous_versions the replaced version is ended, and preflight proves that it can be."""
    place = place_of(two.sink, delete_previous_versions=True)
    with pytest.raises(Forbidden, match=f"lacks update on {two.mount}/delete/astro/svc-airflow"):
        two.sink.preflight(place)
    two.outside.policy(two.name, {**two.rules, f"{two.mount}/delete/*": "update"})
    two.sink.preflight(place)
    two.sink.deliver(place, mint(OTHER, 1))
    receipt = two.sink.deliver(place, mint(CANARY, 2))
    assert two.sink.deliver(place, mint(CANARY, 2)) == receipt
    versions = two.outside.ask("GET", two.path(place, "metadata"))["data"]["versions"]
    assert [bool(versions[number]["deletion_time"]) for number in ("1", "2")] == [True, False]


def test_versions_stay_where_nobody_asked(two: VaultHarness) -> None:
    """By default the history of a secret is Vault's own business."""
    place = place_of(two.sink)
    for number in (1, 2):
        two.sink.deliver(place, mint(f"{OTHER}{number}", number))
    versions = two.outside.ask("GET", two.path(place, "metadata"))["data"]["versions"]
    assert not any(version["deletion_time"] for version in versions.values())


def test_a_mount_that_is_missing_is_not_an_empty_one(outside: Outside, tmp_path: Path) -> None:
    """A 404 counts as "nothing there" only where such an engine is mounted, for any token."""
    (tmp_path / "root").write_text(outside.token)
    with sink_of(outside, tmp_path, mount="no-such-mount", auth={"token": "file:root"}) as sink:
        place = place_of(sink)
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Forbidden, match="no-such-mount/astro/svc-airflow#token: .*shows no mount"):
                call(place)


@pytest.mark.parametrize(("really", "said"), [(1, 2), (2, 1)])
def test_the_wrong_version_of_kv_is_refused(outside: Outside, tmp_path: Path, really: int, said: int) -> None:
    """Version 1 has no `data/`: what looks like an empty place there would be written where nobody reads."""
    (tmp_path / "root").write_text(outside.token)
    mount = outside.mount(really)
    with sink_of(outside, tmp_path, mount=mount, kv=said, auth={"token": "file:root"}) as sink:
        place = place_of(sink)
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Permanent, match=f"has KV version {really} mounted at {mount} there"):
                call(place)
    assert outside.ask("GET", f"{mount}/{place.options['path']}") is None or really == 2
    outside.ask("DELETE", f"sys/mounts/{mount}")


def test_a_mount_that_demands_check_and_set_is_fine(two: VaultHarness) -> None:
    """Every write names the version that it replaces."""
    two.outside.ask("POST", f"{two.mount}/config", {"cas_required": True})
    place = place_of(two.sink)
    for number in (1, 2):
        two.sink.preflight(place)
        two.sink.deliver(place, mint(CANARY, number))
    assert two.read(place) == CANARY


def test_namespaces_are_told_apart(outside: Outside, tmp_path: Path) -> None:
    """A place in a namespace is there and nowhere else, and one that does not exist is no empty place."""
    try:
        assert outside.ask("POST", "sys/namespaces/rotator-test", {}) is not None
    except AssertionError:
        pytest.skip("this server has no namespaces")
    mount = outside.mount(2, "rotator-test")
    (tmp_path / "root").write_text(outside.token)
    with sink_of(outside, tmp_path, mount=mount, namespace="rotator-test", auth={"token": "file:root"}) as sink:
        place = place_of(sink)
        assert place.location == f"rotator-test/{mount}/astro/svc-airflow#token"
        sink.preflight(place)
        sink.deliver(place, mint())
        assert sink.secret_at(f"{mount}/astro/svc-airflow#token") == Secret(CANARY)  # type: ignore[attr-defined]
    found = outside.ask("GET", f"{mount}/data/astro/svc-airflow", namespace="rotator-test")
    assert found["data"]["data"] == {"token": CANARY}
    with (
        sink_of(outside, tmp_path, mount=mount, namespace="no-such", auth={"token": "file:root"}) as sink,
        pytest.raises(RotatorError),
    ):
        sink.read_back(place_of(sink))


# what is written


def test_metadata_names_the_mint_and_keeps_others_keys(two: VaultHarness) -> None:
    """Beside the secret stands whose it is and which mint, without the secret; keys of other people stay."""
    place = place_of(two.sink)
    two.outside.ask("POST", two.path(place, "metadata"), {"custom_metadata": {"owner": "team-a"}})
    two.sink.deliver(place, mint())
    custom = two.held(place)["custom_metadata"]
    assert custom["owner"] == "team-a"
    mark = msgspec.json.decode(custom["rotator.token"])
    assert (mark["token"], mark["mint"], mark["version"]) == ("cltoken1", "mint-1", "1")
    assert "canary" not in str(custom)
    assert two.sink.read_back(place).mint_id == "mint-1"


def test_a_fingerprint_does_not_outlive_its_secret(two: VaultHarness) -> None:
    """What the next mint has no value for is removed, so that nothing beside a secret speaks of another one."""
    place = place_of(two.sink)
    two.sink.deliver(place, replace(mint(OTHER, 1), lineage="clroot", fingerprint="k1:abcd"))
    mark = msgspec.json.decode(two.held(place)["custom_metadata"]["rotator.token"])
    assert (mark["lineage"], mark["print"]) == ("clroot", "k1:abcd")
    two.sink.deliver(place, mint(CANARY, 2))
    mark = msgspec.json.decode(two.held(place)["custom_metadata"]["rotator.token"])
    assert not {"lineage", "print"} & set(mark)
    assert mark["mint"] == "mint-2"


def test_a_mint_is_not_claimed_for_what_somebody_else_wrote(two: VaultHarness) -> None:
    """Metadata outlives a write by hand, so it counts only for the version that it was written for."""
    place = place_of(two.sink)
    two.sink.deliver(place, mint())
    two.write(place, OTHER)
    held = two.sink.read_back(place)
    assert (held.secret, held.mint_id, held.version) == (Secret(OTHER), "", "2")
    assert two.sink.deliver(place, mint()).version == "3"
    assert (two.read(place), two.sink.read_back(place).mint_id) == (CANARY, "mint-1")


# one mark a key


def test_each_key_of_a_secret_has_a_mint_of_its_own(two: VaultHarness) -> None:
    """Two tokens may write two keys of one secret, at once even: none overwrites which mint the other holds."""
    places = [place_of(two.sink, fields={f"key{number}": "{secret}"}) for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(two.sink.deliver, places, [mint(f"{CANARY}{n}", n) for n in range(8)]))
    assert [two.sink.read_back(place).mint_id for place in places] == [f"mint-{number}" for number in range(8)]
    two.sink.deliver(places[3], mint(OTHER, 9))
    assert [two.sink.read_back(place).mint_id for place in places[2:5]] == ["mint-2", "mint-9", "mint-4"]
    two.write(places[3], "by-hand")
    assert [two.sink.read_back(place).mint_id for place in places[2:5]] == ["", "", ""]
    two.sink.deliver(places[4], mint(OTHER, 10))  # what did not count before this write does not count after it
    assert [two.sink.read_back(place).mint_id for place in places[2:5]] == ["", "", "mint-10"]


def test_marks_go_with_their_keys(two: VaultHarness) -> None:
    """Metadata that stood for the whole secret, and marks of keys that are gone, make room; only 64 fit."""
    old = {"rotator-mint-id": "mint-0", "rotator-version": "1", "rotator.gone": "{}", "owner": "team-a"}
    long, place = "k" * 200, place_of(two.sink)
    two.write(place, OTHER)
    two.outside.ask("POST", two.path(place, "metadata"), {"custom_metadata": old})
    assert two.sink.read_back(place).mint_id == ""
    two.sink.deliver(place, mint())
    two.sink.deliver(place_of(two.sink, fields={long: "{secret}"}), mint(OTHER, 2))
    custom = two.held(place)["custom_metadata"]
    assert set(custom) == {"owner", "rotator.token", next(name for name in custom if name.startswith("rotator.~"))}
    untrusted = replace(mint(OTHER, 3), token_id='"' * 300, lineage="\u00e9\n" * 300, fingerprint="f" * 300)
    two.sink.deliver(place, untrusted)
    assert two.sink.read_back(place).mint_id == "mint-3"


def test_only_what_this_delivery_replaced_is_ended(two: VaultHarness) -> None:
    """A value that is found there was written by somebody else, over a version that is none of our business."""
    two.outside.policy(two.name, {**two.rules, f"{two.mount}/delete/*": "update"})
    place = place_of(two.sink, delete_previous_versions=True)
    for text in (OTHER, CANARY):
        two.write(place, text)
    two.sink.deliver(place, mint())
    versions = two.outside.ask("GET", two.path(place, "metadata"))["data"]["versions"]
    assert [bool(versions[number]["deletion_time"]) for number in ("1", "2")] == [False, False]


@fake_only
def test_what_could_not_be_ended_is_ended_later(two: VaultHarness, vault: Vault) -> None:
    """Ending may fail after the write: repeating the delivery makes up for it, by the mark, not by counting back."""
    two.outside.policy(two.name, {**two.rules, f"{two.mount}/delete/*": "update"})
    place = place_of(two.sink, delete_previous_versions=True)
    two.sink.deliver(place, mint(OTHER, 1))
    answering(vault, 500, only="/delete/")
    with raising_without_secret(OutcomeUnknown):
        two.sink.deliver(place, mint(CANARY, 2))
    vault.faults = Faults()
    two.sink.deliver(place, mint(CANARY, 2))
    versions = two.outside.ask("GET", two.path(place, "metadata"))["data"]["versions"]
    assert [bool(versions[number]["deletion_time"]) for number in ("1", "2")] == [True, False]


def test_a_role_without_metadata_delivers_all_the_same(two: VaultHarness) -> None:
    """Where the policy has no patch on metadata, the secret arrives and the mint is not named."""
    two.outside.policy(two.name, {f"{two.mount}/data/*": "create read update"})
    place = place_of(two.sink)
    two.sink.preflight(place)
    first = two.sink.deliver(place, mint())
    assert two.sink.deliver(place, mint()) == first
    held = two.sink.read_back(place)
    assert (held.secret, held.mint_id, held.version) == (Secret(CANARY), "", "1")


def test_a_deleted_secret_is_nothing_and_can_be_written(two: VaultHarness) -> None:
    """A version that was deleted is gone to readers, while a write has to follow on it."""
    place = place_of(two.sink)
    two.sink.deliver(place, mint(OTHER, 1))
    two.outside.ask("DELETE", two.path(place))
    with pytest.raises(NotFound):
        two.sink.read_back(place)
    two.sink.preflight(place)
    assert two.sink.deliver(place, mint(CANARY, 2)).version == "2"
    assert two.data(place) == {"token": CANARY}


def test_another_key_alone_is_nothing(harness: VaultHarness) -> None:
    """A secret without our key, or with an empty one, holds nothing of ours; a number is no secret."""
    place = harness.sink.resolve(sinks.checked(VAULT.DeliveryOptions, harness.block), facts())
    for data in ({"user": "svc"}, {"token": "", "user": "svc"}):
        harness.put(place, data)
        with pytest.raises(NotFound):
            harness.sink.read_back(place)
    harness.put(place, {"token": 5})
    with pytest.raises(Permanent, match="is not text"):
        harness.sink.read_back(place)


def test_neighbours_pass_as_the_bytes_that_came() -> None:
    """What Python's numbers cannot carry is not read at all, only passed on."""
    raw = b'{"a":1.10,"b":1e400,"c":123456789012345678901234567890,"d":{"x":[1,"\\u00e9"]}}'
    content = Content(msgspec.json.decode(raw, type=dict[str, msgspec.Raw]), 3, present=True)
    body = content.merged(rendered({"token": CANARY}), {"cas": 3}).reveal()
    assert raw.decode()[1:-1] in body
    assert body.startswith('{"options":{"cas":3},"data":{')
    assert "canary" not in repr(content)


def test_writers_of_one_secret_lose_nothing(two: VaultHarness) -> None:
    """Sinks that write different keys of one secret at the same time all find theirs there."""
    others = [VAULT.build("vault", two.options, two.base) for _ in range(6)]
    fields = [{f"token{number}": "{secret}"} for number in range(6)]

    def deliver(number: int) -> None:
        place = place_of(others[number], fields=fields[number])
        for _ in range(20):
            try:
                others[number].deliver(place, mint(f"{CANARY}{number}", number))
                return
            except Temporary:
                time.sleep(0.02)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(deliver, range(6)))
    for other in others:
        other.close()
    assert two.data(place_of(two.sink)) == {f"token{number}": f"{CANARY}{number}" for number in range(6)}


@fake_only
def test_a_write_in_between_is_read_and_kept(two: VaultHarness, vault: Vault) -> None:
    """Whoever was faster is not overwritten: the secret is read again, merged again, written again."""
    place = place_of(two.sink)
    two.sink.deliver(place, mint(OTHER, 1))

    def meanwhile() -> None:
        vault.faults.meanwhile = None
        two.put(place, {"token": OTHER, "late": "yes"})

    vault.faults = Faults(only="/data/astro", meanwhile=meanwhile)
    assert two.sink.deliver(place, mint(CANARY, 2)).version == "3"
    assert two.data(place) == {"token": CANARY, "late": "yes"}


@fake_only
def test_endless_conflicts_end(two: VaultHarness, vault: Vault) -> None:
    """After a few rounds the delivery is left for later, with nothing written."""
    place = place_of(two.sink)
    said = "check-and-set parameter did not match the current version"
    answering(vault, 400, said, only="/data/astro", method="POST")
    with raising_without_secret(Temporary, match="others keep writing"):
        two.sink.deliver(place, mint())
    assert sum(method == "POST" and "/data/astro" in path for method, path, _ in vault.seen) == 6


def test_a_place_is_a_reference(two: VaultHarness) -> None:
    """What a secret reference has to say to read a place is said by the place, and reads it; other mounts too."""
    place = place_of(two.sink)
    two.sink.deliver(place, mint())
    assert place.reference == f"vault:{two.mount}/astro/svc-airflow#token"
    sink: Any = two.sink
    assert sink.secret_at(place.reference.removeprefix("vault:")) == Secret(CANARY)
    other = two.outside.mount(1)
    two.outside.policy(two.name, {**two.rules, f"{other}/*": "read"})
    two.outside.ask("POST", f"{other}/deep/er", {"key": OTHER})
    assert sink.secret_at(f"{other}/deep/er#key") == Secret(OTHER)
    for missing in (f"{other}/deep#key", f"{other}/deep/er#no", f"{two.mount}/none#token"):
        with pytest.raises(NotFound):
            sink.secret_at(missing)
    with pytest.raises(Forbidden, match="shows no mount"):
        sink.secret_at("no-such-mount/x#y")
    two.outside.ask("DELETE", f"sys/mounts/{other}")


# what the server answers


@fake_only
@pytest.mark.parametrize("status", sorted(STATUSES))
def test_every_status_has_its_meaning(two: VaultHarness, vault: Vault, status: int) -> None:
    """Each status of the table is one kind of error after a read and after a write, with the place and its number."""
    place = place_of(two.sink)
    two.sink.preflight(place)
    row = STATUSES[status]
    for method, kind, call in (
        ("GET", row.read, two.sink.read_back),
        ("POST", row.write, lambda place: two.sink.deliver(place, mint())),
    ):
        answering(vault, status, "nobody sees this", only="/data/astro", method=method)
        with raising_without_secret(kind, match=f"{two.mount}/astro/svc-airflow#token: Vault answered {status}: ") as e:
            call(place)
        assert type(e.value) is kind
        assert "nobody" not in e.value.message
    vault.faults = Faults()
    assert two.read(place) is None


@fake_only
@pytest.mark.parametrize(
    ("status", "read", "write"),
    [
        (200, Temporary, OutcomeUnknown),
        (301, Temporary, Temporary),
        (307, Temporary, Temporary),
        (403, Permanent, Permanent),
        (404, Permanent, Permanent),
        (408, Temporary, OutcomeUnknown),
        (418, Permanent, Permanent),
        (502, Temporary, OutcomeUnknown),
        (503, Temporary, OutcomeUnknown),
        (504, Temporary, OutcomeUnknown),
    ],
)
def test_what_a_proxy_answers_is_not_vaults_word(
    two: VaultHarness, vault: Vault, status: int, read: type[RotatorError], write: type[RotatorError]
) -> None:
    """A page of HTML proves neither that nothing is there nor that nothing was written; redirects are not followed."""
    place = place_of(two.sink)
    two.sink.preflight(place)
    to = {"Content-Type": "text/html", "Location": f"{vault.address}/v1/elsewhere"}
    vault.faults = Faults((status, b"<html>canary</html>", to), only="/data/astro")
    kind = Permanent if status == 200 else read  # a 200 that says nothing is no secret of this version
    with raising_without_secret(kind) as caught:
        two.sink.read_back(place)
    assert type(caught.value) is kind
    vault.faults.method = "POST"
    with raising_without_secret(write) as caught:
        two.sink.deliver(place, mint())
    assert type(caught.value) is write
    assert not any("elsewhere" in path for _, path, _ in vault.seen)


@fake_only
@pytest.mark.parametrize("body", [b"<html>theirs</html>", b"", b"{}", b"[]"])
def test_a_page_is_no_word_of_a_write_to_kv1(one: VaultHarness, vault: Vault, body: bytes) -> None:
    """Version 1 answers a write with nothing at all, but a success of a proxy proves none: it is open."""
    place = place_of(one.sink)
    one.write(place, OTHER)
    vault.faults = Faults((200, body, {"Content-Type": "text/html"}), only=one.mount, method="POST")
    with raising_without_secret(OutcomeUnknown):
        one.sink.deliver(place, mint())
    vault.faults = Faults()
    assert one.read(place) == OTHER
    one.sink.deliver(place, mint())
    assert one.read(place) == CANARY


@fake_only
def test_a_quota_slows_everybody(two: VaultHarness, vault: Vault) -> None:
    """A rate limit is told apart from a standby, which answers 429 too, and says how long to wait."""
    place = place_of(two.sink)
    answering(vault, 429, "rate limit quota exceeded", extra={"Retry-After": "7"}, only="/data/")
    with raising_without_secret(Throttled) as caught:
        two.sink.read_back(place)
    assert isinstance(caught.value, Throttled)
    assert caught.value.retry_after == timedelta(seconds=7)


@fake_only
def test_an_engine_that_is_being_upgraded_is_waited_for(two: VaultHarness, vault: Vault) -> None:
    """For a moment a new engine of version 2 refuses everything, with the status of a malformed request."""
    answering(
        vault, 400, "Upgrading from non-versioned to versioned data. This backend will be unavailable", only="/data/"
    )
    with raising_without_secret(Temporary, match="is being upgraded"):
        two.sink.read_back(place_of(two.sink))


@pytest.mark.parametrize("token", ["canary\nX-Evil: 1", "canary-\u20ac"])
def test_a_token_that_no_header_carries_is_refused(two: VaultHarness, token: str) -> None:
    """Characters that would break out of the header, or have no place in one, never leave."""
    (two.base / "token").write_text(token)
    del token
    with raising_without_secret(Permanent, match="cannot be spelt"):
        two.sink.read_back(place_of(two.sink))


def test_authorities_that_are_not_there_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelt ca_bundle is an error of ours, not of the network."""
    monkeypatch.setenv("VAULT_TOKEN", "x")
    sink = VAULT.build("v", VAULT.Options(address="https://127.0.0.1:1", ca_bundle="none.pem"), tmp_path)
    with raising_without_secret(Permanent, match="certificate authorities cannot be read; check `ca_bundle`"):
        sink.deliver(place_of(sink), mint())
    sink.close()


@fake_only
def test_a_sealed_vault_is_waited_for(two: VaultHarness, vault: Vault) -> None:
    """Sealed says nothing about the token or the place, also before the first login."""
    answering(vault, 503, "Vault is sealed")
    for call in (two.sink.preflight, two.sink.read_back, lambda place: two.sink.deliver(place, mint())):
        with raising_without_secret(Temporary, match="sealed or in maintenance; unseal it") as caught:
            call(place_of(two.sink))
        assert type(caught.value) is Temporary


@fake_only
def test_an_answer_that_is_lost_may_mean_it_happened(two: VaultHarness, vault: Vault) -> None:
    """Reset or silence after a write leaves the outcome unknown; delivering again finds it there and writes nothing."""
    place = place_of(two.sink)
    two.sink.preflight(place)
    vault.faults = Faults(only="/data/astro", lost=True)
    with raising_without_secret(OutcomeUnknown, match="the connection to Vault broke"):
        two.sink.deliver(place, mint())
    vault.faults = Faults()
    assert two.read(place) == CANARY
    assert two.sink.deliver(place, mint()).version == "1"
    assert two.sink.read_back(place).mint_id == "mint-1"


@fake_only
def test_a_lost_answer_about_metadata_is_said(two: VaultHarness, vault: Vault) -> None:
    """The secret is written by then, so the error does not claim otherwise, and a repetition completes it."""
    place = place_of(two.sink)
    answering(vault, 503, "sealed", only="/metadata/")
    with raising_without_secret(OutcomeUnknown, match="the secret is written"):
        two.sink.deliver(place, mint())
    assert two.read(place) == CANARY
    vault.faults = Faults()
    assert two.sink.deliver(place, mint()).version == "1"
    assert two.sink.read_back(place).mint_id == "mint-1"


@fake_only
def test_silence_is_bounded(two: VaultHarness, vault: Vault) -> None:
    """A read that is not answered can be repeated; a write that is not answered may have happened."""
    options = two.options.model_copy(update={"timeout": timedelta(seconds=0.2)})
    sink = VAULT.build("vault", options, two.base)
    place = place_of(sink)
    sink.preflight(place)
    vault.faults = Faults(only="/data/astro", method="GET", silent_s=1)
    with raising_without_secret(Temporary, match="did not answer in time"):
        sink.read_back(place)
    vault.faults = Faults(only="/data/astro", method="POST", silent_s=1)
    with raising_without_secret(OutcomeUnknown, match="did not answer in time"):
        sink.deliver(place, mint())
    vault.faults = Faults(only="/data/astro", drop=True)
    with raising_without_secret(Temporary, match="the connection to Vault broke"):
        sink.read_back(place)
    sink.close()


def test_nobody_there_has_no_effect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection and an unknown host certainly wrote nothing."""
    monkeypatch.setenv("VAULT_TOKEN", "canary-token")
    for address in ("http://127.0.0.1:1", "https://no-such-host.invalid"):
        sink = VAULT.build("vault", VAULT.Options(address=address, timeout="2s"), tmp_path)
        with raising_without_secret(Temporary, match=r"cannot be reached|is not known"):
            sink.deliver(place_of(sink), mint())
        sink.close()


def test_every_exception_of_hvac_has_its_row() -> None:
    """A class that a new version of hvac adds is noticed here."""
    named = {
        name for name, kind in vars(hvac.exceptions).items() if isinstance(kind, type) and issubclass(kind, Exception)
    }
    assert named == set(HVAC)


@pytest.mark.parametrize("name", sorted(HVAC))
def test_what_hvac_raises_is_translated(name: str) -> None:
    """Whatever it is, the result is a kind of ours and its text goes nowhere."""

    def ask(_: object) -> None:
        raise getattr(hvac.exceptions, name)("canary")

    line = Line("http://127.0.0.1:1", "", timedelta(seconds=1))
    failure: Any = line.through(ask)
    line.close()
    assert (failure.kind, "canary" in repr(failure)) == (HVAC[name], False)


# who we are


@pytest.fixture
def approle(two: VaultHarness) -> Iterator[VaultHarness]:
    """A sink that logs in by role."""
    at = f"test-{uuid.uuid4().hex[:10]}"
    two.outside.ask("POST", f"sys/auth/{at}", {"type": "approle"})
    role = f"auth/{at}/role/rotator"
    two.outside.ask("POST", role, {"token_policies": [two.name], "token_ttl": "10m"})
    (two.base / "role").write_text(two.outside.ask("GET", f"{role}/role-id")["data"]["role_id"])
    (two.base / "id").write_text(two.outside.ask("POST", f"{role}/secret-id", {})["data"]["secret_id"])
    auth = {"method": "approle", "mount": at, "role_id": "file:role", "secret_id": "file:id"}
    two.sink.close()
    two.options = VAULT.Options(address=two.outside.address, mount=two.mount, auth=auth)
    two.sink = VAULT.build("vault", two.options, two.base)
    yield two
    two.outside.ask("DELETE", f"sys/auth/{at}")


def token_in_use(sink: Any) -> str:
    """Return what the sink is logged in with."""
    return str(sink._opened[1]._session.token.reveal())


def is_alive(outside: Outside, token: str) -> bool:
    """Whether Vault knows a token."""
    headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
    return httpx.get(f"{outside.address}/v1/auth/token/lookup-self", headers=headers, trust_env=False).is_success


def test_a_dead_login_is_made_anew_once(approle: VaultHarness) -> None:
    """When the token is revoked under us, one login follows and the delivery goes on; closing revokes the token."""
    place = place_of(approle.sink)
    approle.sink.preflight(place)
    first = token_in_use(approle.sink)
    approle.outside.ask("POST", "auth/token/revoke", {"token": first})
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(approle.sink.preflight, [place] * 8))
    approle.sink.deliver(place, mint())
    second = token_in_use(approle.sink)
    assert first != second
    assert approle.sink._opened[1]._session.number == 2  # type: ignore[attr-defined]
    assert approle.read(place) == CANARY
    approle.sink.close()
    assert not is_alive(approle.outside, second)
    approle.sink.preflight(place)  # closed is not broken: the next call logs in


def test_a_denied_request_is_not_a_dead_login(approle: VaultHarness) -> None:
    """A 403 of a token that lives is the policy's word: nobody logs in again."""
    place = place_of(approle.sink)
    approle.sink.preflight(place)
    with approle.broken(place), raising_without_secret(Forbidden, match="may not do this; its policy"):
        approle.sink.deliver(place, mint())
    assert approle.sink._opened[1]._session.number == 1  # type: ignore[attr-defined]


def test_a_wrong_secret_id_is_a_rejected_credential(approle: VaultHarness) -> None:
    """The login that Vault refuses is named, and what was shown to it is not."""
    (approle.base / "id").write_text("canary-secret-id")
    with raising_without_secret(CredentialRejected, match="refused the login .*check the approle login at auth/"):
        approle.sink.preflight(place_of(approle.sink))
    (approle.base / "id").unlink()
    with raising_without_secret(Permanent, match="cannot log in to Vault: the secret reference file:id names a file"):
        approle.sink.preflight(place_of(approle.sink))


def test_a_given_token_is_read_anew_once_it_is_dead(two: VaultHarness) -> None:
    """A token file that an agent rewrites is followed; one that still holds the dead token is named."""
    place = place_of(two.sink)
    two.sink.preflight(place)
    dead = token_in_use(two.sink)
    two.outside.ask("POST", "auth/token/revoke", {"token": dead})
    with raising_without_secret(CredentialRejected, match="not accept the token any more; put a new one where file:"):
        two.sink.deliver(place, mint())
    (two.base / "token").write_text(two.outside.issue(two.name))
    two.sink.deliver(place, mint())
    assert two.read(place) == CANARY
    two.sink.close()
    assert is_alive(two.outside, (two.base / "token").read_text())


def test_a_token_without_the_default_policy_works(two: VaultHarness) -> None:
    """It may not look itself up; that proves nothing against it. What it may not do is then said as what it is."""
    token = two.outside.issue(two.name, no_default_policy=True)
    (two.base / "token").write_text(token)
    place = place_of(two.sink)
    two.sink.deliver(place, mint())
    assert two.read(place) == CANARY
    with raising_without_secret(Forbidden, match="may not ask what it may do; attach Vault's `default` policy"):
        two.sink.preflight(place)
    two.outside.policy(two.name, {**two.rules, "sys/capabilities-self": "update"})
    two.sink.preflight(place)
    two.outside.ask("POST", "auth/token/revoke", {"token": token})
    with raising_without_secret(CredentialRejected, match="any more; .*needs the `default` policy"):
        two.sink.preflight(place)


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@fake_only
def test_a_lease_is_renewed_in_its_last_third(approle: VaultHarness, vault: Vault) -> None:
    """Renewal keeps the token; where it is refused, a login follows; a given token is used to its end."""
    clock = Clock()
    line = Line(vault.address, "", timedelta(seconds=5))
    login = Login(line, approle.options.auth, "", approle.base, clock)
    first = login.session("x")
    clock.now_s += 390
    assert login.session("x") is first
    clock.now_s += 20
    renewed = login.session("x")
    assert (renewed.token, renewed.number, renewed.ends_s) == (first.token, 1, clock.now_s + 600)
    clock.now_s += 500
    answering(vault, 400, "lease is not renewable", only="renew-self")
    second = login.session("x")
    assert second.token != first.token
    assert second.number == 2
    vault.faults = Faults(only="renew-self", drop=True)
    clock.now_s += 500
    assert login.session("x") is second  # it lasts, so a broken line is no reason to leave it
    login.close()
    vault.faults = Faults()
    (approle.base / "given").write_text(approle.outside.issue(approle.name, renewable=False))
    given = Login(line, VaultAuth(token="file:given"), "", approle.base, clock)
    kept = given.session("x")
    clock.now_s += 500
    assert given.session("x") is kept
    line.close()


@fake_only
@pytest.mark.parametrize("method", ["kubernetes", "jwt"])
def test_a_shown_token_is_read_at_each_login(two: VaultHarness, vault: Vault, method: str) -> None:
    """A projected token is rewritten every few minutes: what is shown is what the file holds now."""
    two.outside.ask("POST", f"sys/auth/{method}", {"type": method})
    role = {"token_policies": [two.name], "accepted": ["first-pod", "second-pod"]}
    two.outside.ask("POST", f"auth/{method}/role/rotator", role)
    shown = two.base / "pod"
    shown.write_text("first-pod\n")
    where = {"jwt_path": str(shown)} if method == "kubernetes" else {"jwt": f"file:{shown}"}
    with sink_of(two.outside, two.base, mount=two.mount, auth={"method": method, "role": "rotator", **where}) as sink:
        place = place_of(sink)
        sink.preflight(place)
        two.outside.ask("POST", "auth/token/revoke", {"token": token_in_use(sink)})
        shown.write_text("second-pod\n")
        sink.preflight(place)
        two.outside.ask("POST", "auth/token/revoke", {"token": token_in_use(sink)})
        shown.write_text("third-canary\n")
        with raising_without_secret(CredentialRejected, match=f"check the {method} login at auth/{method}"):
            sink.preflight(place)


@fake_only
def test_aws_vouches_for_us(two: VaultHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """The login carries a signed question to STS, with the server's id signed too; no key leaves the machine."""
    two.outside.ask("POST", "sys/auth/aws", {"type": "aws"})
    role = {"token_policies": [two.name], "access_key": "AKIATEST", "server_id": "vault.example"}
    two.outside.ask("POST", "auth/aws/role/rotator", role)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary-key")
    auth = {"method": "aws", "role": "rotator", "region": "eu-central-1", "server_id": "vault.example"}
    with sink_of(two.outside, two.base, mount=two.mount, auth=auth) as sink:
        sink.deliver(place_of(sink), mint())
    assert two.read(place_of(two.sink)) == CANARY
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(two.base / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(two.base / "none"))
    with (
        sink_of(two.outside, two.base, mount=two.mount, auth=auth) as sink,
        pytest.raises(Permanent, match="cannot be found or used"),
    ):
        sink.preflight(place_of(sink))


def test_a_login_that_is_not_mounted_is_named(two: VaultHarness) -> None:
    """Vault says no more than 403 to who asks at a login that is not there; we say where we asked."""
    auth = {"method": "jwt", "mount": "nowhere", "role": "r", "jwt": "file:token"}
    with (
        sink_of(two.outside, two.base, mount=two.mount, auth=auth) as sink,
        raising_without_secret(CredentialRejected, match="auth/nowhere"),
    ):
        sink.preflight(place_of(sink))


# how it gets there


@fake_only
def test_the_environment_cannot_turn_verification_off(
    two: VaultHarness, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate of an unknown authority is refused, whatever REQUESTS_CA_BUNDLE says; ca_bundle makes it known."""
    context, pem = certified(tmp_path)
    monkeypatch.setenv("VAULT_TOKEN", "root")
    with serving(context) as server:
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(pem))
        with (
            sink_of(Outside(server.address, "root"), tmp_path) as sink,
            raising_without_secret(Permanent, match="certificate is not trusted; set `ca_bundle`"),
        ):
            sink.deliver(place_of(sink), mint())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nonexistent")
        with sink_of(Outside(server.address, "root"), tmp_path, ca_bundle=pem.name) as sink:
            sink.deliver(place_of(sink), mint())
        for name in ("SSL_CERT_FILE", "VAULT_CACERT"):
            monkeypatch.setenv(name, str(pem))
            with sink_of(Outside(server.address, "root"), tmp_path) as sink:
                assert sink.read_back(place_of(sink)).secret == Secret(CANARY)
            monkeypatch.delenv(name)


def certified(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """Return a server's context with a certificate of its own, and the file that a client has to trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, private = folder / "ca.pem", folder / "key.pem"
    pem.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8
    private.write_bytes(key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem, private)
    return context, pem


@fake_only
def test_proxies_are_honoured(two: VaultHarness, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is gone through, NO_PROXY is gone around, although requests itself reads neither."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    with (
        sink_of(two.outside, two.base, mount=two.mount, auth={"token": "file:token"}) as sink,
        raising_without_secret(Temporary, match="cannot be reached; .*HTTPS_PROXY"),
    ):
        sink.preflight(place_of(sink))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with sink_of(two.outside, two.base, mount=two.mount, auth={"token": "file:token"}) as sink:
        sink.preflight(place_of(sink))


@fake_only
def test_the_secret_is_in_no_url_header_or_log(
    two: VaultHarness, vault: Vault, caplog: pytest.LogCaptureFixture
) -> None:
    """It travels in the body of one write, and nobody logs it at any level."""
    vault.seen.clear()
    with caplog.at_level(logging.DEBUG):
        place = place_of(two.sink)
        two.sink.preflight(place)
        two.sink.deliver(place, mint())
        two.sink.read_back(place)
    assert vault.seen
    assert "canary" not in str(vault.seen) + caplog.text
    assert all(headers["X-Vault-Request"] == "true" for _, _, headers in vault.seen if "X-Vault-Request" in headers)
    token = (two.base / "token").read_text()
    assert token not in caplog.text + repr(vars(two.sink))


def test_loading_the_sink_loads_no_sdk() -> None:
    """A configuration is checked offline without waiting for hvac."""
    code = "import sys; from rotator import sinks; sinks.load('vault'); print({'hvac', 'botocore'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


# options


@pytest.mark.parametrize(
    ("address", "usable"),
    [
        ("https://vault.example:8200", True),
        ("https://vault.example/prefix", True),
        ("http://127.0.0.1:8200", True),
        ("http://localhost:8200", True),
        ("http://[::1]:8200", True),
        ("http://vault.example:8200", False),
        ("https://user:pw@vault.example", False),
        ("https://vault.example?x=1", False),
        ("https://vault.example#x", False),
        ("ftp://vault.example", False),
        ("vault.example", False),
        ("https://", False),
        ("https://vault.example:x", False),
        ("http://127.0.0.1.evil.example", False),
    ],
)
def test_secrets_travel_encrypted(address: str, usable: bool) -> None:
    """Only this very machine is spoken to in plain text."""
    assert is_usable(address) is usable
    if not usable:
        with pytest.raises(ValidationError, match="must be an https URL"):
            VAULT.Options(address=address)


def test_the_environment_says_where_vault_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """VAULT_ADDR and VAULT_NAMESPACE serve where the options say nothing, and are checked likewise."""
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(ConfigError, match=r"sinks.v.address: is missing; set it, or export VAULT_ADDR"):
        VAULT.build("v", VAULT.Options(), tmp_path)
    monkeypatch.setenv("VAULT_ADDR", "http://vault.example")
    with pytest.raises(ConfigError, match="VAULT_ADDR: must be an https URL"):
        VAULT.build("v", VAULT.Options(), tmp_path)
    monkeypatch.setenv("VAULT_ADDR", "https://vault.example")
    monkeypatch.setenv("VAULT_NAMESPACE", "team/")
    assert place_of(VAULT.build("v", VAULT.Options(), tmp_path)).location == "team/secret/astro/svc-airflow#token"


@pytest.mark.parametrize(
    ("auth", "message"),
    [
        ({"method": "approle", "role_id": "env:A"}, "approle needs secret_id"),
        ({"method": "kubernetes"}, "kubernetes needs role"),
        ({"method": "jwt", "role": "r"}, "jwt needs jwt"),
        ({"method": "token", "role": "r"}, "token takes no role"),
        ({"method": "token", "token": ""}, "token needs token"),
        ({"method": "token", "token": "hvs.canary"}, "is not a secret reference"),
        ({"method": "token", "token": "vault:secret/x#y"}, "cannot be read before its store is logged in to"),
        ({"method": "token", "mount": "../x"}, "must be the path of an auth method"),
        ({"method": "ldap"}, "Input should be 'token', 'approle'"),
    ],
)
def test_logins_are_checked_at_load(tmp_path: Path, auth: dict[str, str], message: str) -> None:
    """What a method needs and what it does not take is said at load, and a pasted token is not repeated."""
    raw: dict[str, Any] = {
        "providers": {"astro": {"type": "astro", "organization_id": "clorg1", "credential": "env:A"}},
        "sinks": {"v": {"type": "vault", "auth": auth}},
        "policies": {"p": {"select": {"scopes": ["workspace"], "names": ["*"]}, "when": {"max_age": "90d"}}},
    }
    raw["policies"]["p"]["deliver"] = [{"sink": "v"}]
    with pytest.raises(ConfigError, match=message) as caught:
        parse(raw, tmp_path)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "path", ["", "/a", "a/", "a//b", "a/../b", "./a", "a/.", "a b", "a#b", "a\\b", "{nam}", "ä", "a*"]
)
def test_paths_that_could_lead_elsewhere_are_refused(path: str) -> None:
    """A template holds plain segments only, for requests would resolve dots before Vault sees them."""
    with pytest.raises(ValidationError):
        VAULT.DeliveryOptions(path=path)


@pytest.mark.parametrize("timeout", ["0s", "6m", 5, "soon"])
def test_timeouts_are_bounded(timeout: object) -> None:
    """Nobody waits for ever."""
    with pytest.raises(ValidationError):
        VAULT.Options(timeout=timeout)


def test_version_1_has_no_previous_versions(tmp_path: Path) -> None:
    """What the engine cannot do is refused before anything is rotated."""
    sink = VAULT.build("v", VAULT.Options(address="https://vault.example", kv=1), tmp_path)
    with pytest.raises(Permanent, match="KV version 1 has no versions"):
        place_of(sink, delete_previous_versions=True)


def test_values_that_json_cannot_carry_are_refused(tmp_path: Path) -> None:
    """Half a character in a name that a field uses is found before a secret depends on it."""
    sink = VAULT.build("v", VAULT.Options(address="https://vault.example"), tmp_path)
    with pytest.raises(Permanent, match="characters that JSON cannot carry"):
        place_of(sink, "\ud800", fields={"token": "{secret}", "name": "{name}"})


def test_a_journal_of_another_version_is_named(two: VaultHarness) -> None:
    """Options that cannot be understood any more are an error that names the place."""
    with pytest.raises(Permanent, match="x: was journalled by a version"):
        two.sink.preflight(Place("vault", "x", {"mount": 5}))


def test_the_schema_shows_the_login() -> None:
    """Editors complete the nested table too: no reference in the schema of the file points nowhere."""
    tables = schema()["$defs"]["SinkTable"]["anyOf"]
    mine = next(table["properties"] for table in tables if table["properties"]["type"] == {"const": "vault"})
    assert "secret_id" in mine["auth"]["properties"]
    assert "$ref" not in str(mine)


def test_the_right_to_delete_does_not_hang_on_metadata(two: VaultHarness) -> None:
    """A role that may end versions but not describe them ends them all the same."""
    two.outside.policy(two.name, {f"{two.mount}/data/*": "create read update", f"{two.mount}/delete/*": "update"})
    place = place_of(two.sink, delete_previous_versions=True)
    for number in (1, 2):
        two.sink.deliver(place, mint(f"{OTHER}{number}", number))
    versions = two.outside.ask("GET", two.path(place, "metadata"))["data"]["versions"]
    assert [bool(versions[number]["deletion_time"]) for number in ("1", "2")] == [True, False]
