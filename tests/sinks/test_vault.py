"""The vault sink: the shared contract for both versions of KV, and all that Vault can answer.

Set-up goes through Vault's own API, so the same tests run against a real Vault or OpenBao where
`ROTATOR_TEST_VAULT_ADDR` and `ROTATOR_TEST_VAULT_TOKEN` (of root) are set; those that need faults of the server skip.
"""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from rotator import sinks
from rotator.model import Place
from rotator.ports import Sink
from tests.servers.vault import Faults, Vault, serving
from tests.sinks.contract import SinkContract, facts

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
    """An engine, a policy and a token of its own."""

    kind = "vault"

    def __init__(self, outside: Outside, base: Path, kv: int, block: dict[str, object], **options: object) -> None:
        self.outside, self.kv, self.block = outside, kv, block
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
        found: str | None = self.data(place).get("token")
        return found

    def write(self, place: Place, secret: str) -> None:
        """Write the consumer's key by hand."""
        self.put(place, {**self.data(place), "token": secret})

    def plant_neighbour(self, place: Place) -> None:
        """Put other keys into the same secret."""
        self.put(place, {**self.data(place), **NEIGHBOUR})

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether they are still there."""
        found = self.data(place)
        return {key: found.get(key) for key in NEIGHBOUR} == NEIGHBOUR

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take the right to write away."""
        self.outside.policy(self.name, dict.fromkeys(self.rules, "read"))
        yield
        self.outside.policy(self.name, self.rules)

    def held(self, place: Place) -> dict[str, Any]:
        """Return the metadata that the API shows beside the data."""
        return dict(self.outside.ask("GET", self.path(place))["data"]["metadata"])


NEIGHBOUR = {"user": "svc", "port": 5432, "ratio": 1.25, "tags": ["a", None], "nested": {"käse": "🔑"}}
BLOCKS: dict[str, tuple[int, dict[str, object]]] = {
    "kv2": (2, {}),
    "kv2-fields": (2, {"path": "a/{workspace_id}/{name}", "fields": {"token": "{secret}", "id": "{token_id}"}}),
    "kv1": (1, {"fields": {"token": "{secret}", "rotation": "{rotation_id}"}}),
}


@pytest.fixture(params=sorted(BLOCKS))
def harness(request: pytest.FixtureRequest, outside: Outside, tmp_path: Path) -> Iterator[VaultHarness]:
    """One for each form."""
    made = VaultHarness(outside, tmp_path, *BLOCKS[request.param])
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


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(VAULT.DeliveryOptions, block), facts(name=name))


class TestContract(SinkContract):
    """The shared suite."""
