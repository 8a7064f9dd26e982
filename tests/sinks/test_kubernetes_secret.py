"""The kubernetes_secret sink: the shared contract and what Kubernetes adds, against a real kube-apiserver."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.model import Place
from rotator.ports import Sink
from tests.servers.kubernetes import ADMIN, KubeServer, running
from tests.sinks.contract import SinkContract

KUBE: Any = sinks.load("kubernetes_secret")


@pytest.fixture(scope="session")
def server() -> Iterator[KubeServer]:
    """One server for all tests; each makes namespaces of its own."""
    with running() as started:
        yield started


def build(kubeconfig: Path, **options: object) -> Sink:
    """Return a sink that reaches the server as the kubeconfig says."""
    return KUBE.build("cluster", KUBE.Options(kubeconfig=str(kubeconfig), **options), Path("/"))


def parts_of(place: Place) -> tuple[str, str, str]:
    """Return namespace, name and key of a place."""
    path, _, key = place.location.partition("#")
    namespace, name = path.split("/")
    return namespace, name, key


class KubeHarness:
    """A namespace as its users see it."""

    kind = "kubernetes_secret"

    def __init__(self, server: KubeServer, block: dict[str, object]) -> None:
        self.server = server
        self.namespace = server.namespace()
        self.block = block
        self.sink = build(server.kubeconfig({"token": ADMIN}), namespace=self.namespace)

    def read(self, place: Place) -> str | None:
        """Read the key as a pod's environment does."""
        namespace, name, key = parts_of(place)
        value = self.server.secret(namespace, name).get("data", {}).get(key)
        return None if value is None else base64.b64decode(value).decode(errors="surrogatepass")

    def write(self, place: Place, secret: str) -> None:
        """As `kubectl edit` does."""
        namespace, name, key = parts_of(place)
        self.server.put(namespace, name, {key: secret})

    def plant_neighbour(self, place: Place) -> None:
        """Another key, label and annotation of the same Secret."""
        namespace, name, _ = parts_of(place)
        marks = {"labels": {"team": "a"}, "annotations": {"somebody/else": " kept \n"}}
        self.server.put(namespace, name, {"neighbour": "kept\n\0"}, metadata=marks)

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether key, label and annotation are what they were."""
        namespace, name, _ = parts_of(place)
        found = self.server.secret(namespace, name)
        return (
            base64.b64decode(found["data"]["neighbour"]) == b"kept\n\0"
            and found["metadata"]["labels"] == {"team": "a"}
            and found["metadata"]["annotations"]["somebody/else"] == " kept \n"
        )

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Somebody makes the Secret immutable; only a new one repairs that."""
        namespace, name, _ = parts_of(place)
        found = self.server.secret(namespace, name)
        path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
        self.server.call("PATCH", path, {"immutable": True})
        yield
        self.server.call("DELETE", path)
        body = {"metadata": {"name": name}, "data": found["data"]}
        self.server.call("POST", f"/api/v1/namespaces/{namespace}/secrets", body)


@pytest.fixture(params=["key", "shared"])
def harness(request: pytest.FixtureRequest, server: KubeServer) -> Iterator[KubeHarness]:
    """A Secret for each token, and several keys with fields."""
    blocks: dict[str, dict[str, object]] = {
        "key": {},
        "shared": {"name": "astro-{name}", "fields": {"API_TOKEN": "{secret}", "who.txt": "{name} {rotation_id}"}},
    }
    made = KubeHarness(server, blocks[request.param])
    yield made
    made.sink.close()


class TestContract(SinkContract):
    """What every sink promises."""
