"""The kubernetes_secret sink: the shared contract and what Kubernetes adds, against a real kube-apiserver."""

import base64
import json
import logging
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
from kubernetes.config import incluster_config

from rotator import sinks
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
from rotator.ports import Follower, Sink
from rotator.secret import Secret
from rotator.sinks._kube_api import proxy_for
from rotator.sinks._kube_failures import REFUSALS
from tests.lab import lab
from tests.servers.kubernetes import ADMIN, Fault, FaultyProxy, Forward, KubeServer, Reply, Seen, running
from tests.sinks.contract import CANARY, OTHER, SinkContract, facts, mint, raising_without_secret

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
    """A namespace as its users see it; the sink reaches it through a proxy."""

    kind = "kubernetes_secret"
    retry_after = timedelta(seconds=7)
    outside_loggers = ("httpx", "httpcore")  # of the proxy and of this hand; the sink has urllib3

    def __init__(self, server: KubeServer, block: dict[str, object]) -> None:
        self.server = server
        self.namespace = server.namespace()
        self.block = block
        self.sibling = {**block, "fields": {"SIBLING": "{secret}"}}
        self.neighbour = "kept\n\0"
        self.proxies = [FaultyProxy(server)]
        self.kubeconfig = server.kubeconfig({"token": ADMIN}, self.proxies[-1].url)
        self.sink = self.rebuilt()

    def rebuilt(self) -> Sink:
        """Build it again from the same options."""
        return build(self.kubeconfig, namespace=self.namespace)

    def close(self) -> None:
        """Close the sink, then what it talks to."""
        self.sink.close()
        self.proxies[-1].close()

    def read(self, place: Place) -> str | None:
        """Read the key as a pod's environment does."""
        namespace, name, key = parts_of(place)
        value = self.server.secret(namespace, name).get("data", {}).get(key)
        return None if value is None else base64.b64decode(value).decode(errors="surrogatepass")

    def write(self, place: Place, secret: str) -> None:
        """As `kubectl edit` does."""
        namespace, name, key = parts_of(place)
        self.server.put(namespace, name, {key: secret})

    def remove(self, place: Place) -> bool:
        """As `kubectl delete secret` does."""
        namespace, name, _ = parts_of(place)
        self.server.call("DELETE", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return True

    def plant_neighbour(self, place: Place) -> None:
        """Another key, label and annotation of the same Secret."""
        namespace, name, _ = parts_of(place)
        marks = {"labels": {"team": "a"}, "annotations": {"somebody/else": f" {self.neighbour[:-1]}"}}
        self.server.put(namespace, name, {"neighbour": self.neighbour}, metadata=marks)

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether key, label and annotation are what they were."""
        namespace, name, _ = parts_of(place)
        found = self.server.secret(namespace, name)
        return (
            base64.b64decode(found["data"]["neighbour"]).decode() == self.neighbour
            and found["metadata"]["labels"] == {"team": "a"}
            and found["metadata"]["annotations"]["somebody/else"] == f" {self.neighbour[:-1]}"
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

    def calls(self) -> int:
        """Count what came by."""
        return sum(len(proxy.seen) for proxy in self.proxies)

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Each write is carried out, and the connection breaks."""
        return self._faulty(lambda seen, forward: forward() if seen.method == "GET" else cut_after(forward))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """The connection breaks as soon as a write arrives."""
        return self._faulty(lambda seen, forward: forward() if seen.method == "GET" else Reply(cut=True))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Priority and fairness rejects everything."""
        reply = replace(status(429, "TooManyRequests"), headers={"retry-after": "7"})
        return self._faulty(lambda _, __: reply)

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """As when etcd has no leader."""
        return self._faulty(only("GET", status(500, "InternalError")))

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """The real server judges what we ask as if somebody without any role asked."""
        token = self.server.token(self.namespace, self.server.account(self.namespace))

        def fault(seen: Seen, _: Forward) -> Reply:
            headers = {**seen.headers, "authorization": f"Bearer {token}"}
            return self.proxies[-1].forward(self.server, replace(seen, headers=headers))

        return self._faulty(fault)

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None]:
        """Somebody is faster once."""

        def fault(seen: Seen, forward: Forward) -> Reply:
            if seen.method == "PATCH" and self.neighbour != "edited\n\0":
                self.neighbour = "edited\n\0"
                self.plant_neighbour(place)
            return forward()

        return self._faulty(fault)

    @contextmanager
    def unreachable(self, place: Place) -> Iterator[None]:
        """Open connections break and nobody takes new ones; then the API is back, at another address."""
        gone = self.proxies[-1]
        gone.fault = lambda _, __: Reply(cut=True)
        gone.close()
        yield
        self.proxies.append(FaultyProxy(self.server))
        self.kubeconfig.write_text(self.kubeconfig.read_text().replace(gone.url, self.proxies[-1].url))

    @contextmanager
    def _faulty(self, fault: Fault) -> Iterator[None]:
        proxy = self.proxies[-1]
        proxy.fault = fault
        yield
        proxy.fault = lambda _, forward: forward()


@pytest.fixture(params=["key", "shared"])
def harness(request: pytest.FixtureRequest, server: KubeServer) -> Iterator[KubeHarness]:
    """A Secret for each token, and several keys with fields."""
    blocks: dict[str, dict[str, object]] = {
        "key": {},
        "shared": {"name": "astro-{name}", "fields": {"API_TOKEN": "{secret}", "who.txt": "{name} {rotation_id}"}},
    }
    made = KubeHarness(server, blocks[request.param])
    yield made
    made.close()


class TestContract(SinkContract):
    """What every sink promises."""


GET, PATCH, CREATE = (
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["svc-airflow"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["svc-airflow"], "verbs": ["patch"]},
    {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
)
RESTART = {"apiGroups": ["apps"], "resources": ["deployments"], "resourceNames": ["web"], "verbs": ["patch"]}


class Bench:
    """One namespace, the administrator's sink in it, and sinks of others."""

    def __init__(self, server: KubeServer) -> None:
        self.server = server
        self.namespace = server.namespace()
        self._open: list[Any] = []
        self.sink = self.sink_of(server.kubeconfig({"token": ADMIN}))

    def sink_of(self, kubeconfig: Path, **options: object) -> Sink:
        """Return a sink that the bench closes."""
        sink = build(kubeconfig, namespace=self.namespace, **options)
        self._open.append(sink)
        return sink

    def sink_with(self, *rules: dict[str, object], **options: object) -> Sink:
        """Return the sink of a service account that may do no more than the rules say."""
        token = self.server.token(self.namespace, self.server.account(self.namespace, *rules))
        return self.sink_of(self.server.kubeconfig({"token": token}), **options)

    def proxied(self) -> tuple[Sink, FaultyProxy]:
        """Return a sink that talks through a proxy, and the proxy."""
        proxy = FaultyProxy(self.server)
        self._open.append(proxy)
        return self.sink_of(self.server.kubeconfig({"token": ADMIN}, proxy.url), timeout="1s"), proxy

    def place(self, token: str = "svc-airflow", /, sink: Sink | None = None, **block: object) -> Place:
        """Return where the block writes for a token of this name."""
        return (sink or self.sink).resolve(sinks.checked(KUBE.DeliveryOptions, block), facts(name=token))

    def secret(self, name: str = "svc-airflow") -> dict[str, Any]:
        """Return a Secret as it is there."""
        return self.server.secret(self.namespace, name)

    def plain(self, name: str = "svc-airflow") -> dict[str, str]:
        """Return its decoded keys."""
        return {key: base64.b64decode(value).decode() for key, value in self.secret(name).get("data", {}).items()}

    def put(self, data: dict[str, str], name: str = "svc-airflow", **more: object) -> None:
        """Write keys by hand."""
        self.server.put(self.namespace, name, data, **more)

    def record(self, key: str = "token", name: str = "svc-airflow") -> dict[str, Any]:
        """Return what the annotation of a key says."""
        found = json.loads(self.secret(name)["metadata"]["annotations"][f"rotator/{key}"])
        assert isinstance(found, dict)
        return found

    def close(self) -> None:
        """Close what was opened, proxies last."""
        for one in reversed(self._open):
            one.close()


@pytest.fixture
def bench(server: KubeServer) -> Iterator[Bench]:
    """A namespace of its own."""
    made = Bench(server)
    yield made
    made.close()


def eventually(call: Callable[[], object]) -> RotatorError:
    """Return the error that a call comes to raise, once the server has heard of what it depends on."""
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        try:
            call()
        except RotatorError as error:
            return error
        time.sleep(0.2)
    pytest.fail("it goes on succeeding")


class TestWriting:
    """What a write leaves behind, and what it leaves alone."""

    def test_a_record_stands_beside_the_key(self, bench: Bench) -> None:
        """Another journal finds token, lineage, mint, time and fingerprint, and never the secret."""
        marked = replace(mint(), lineage="clroot", fingerprint="k1:abcd")
        bench.sink.deliver(bench.place(), marked)
        record = bench.record()
        assert record["mint_id"] == "mint-1"
        assert (record["token_id"], record["lineage"], record["fingerprint"]) == ("cltoken1", "clroot", "k1:abcd")
        assert record["rotated_at"] == "2026-03-05T05:06:07.890Z"
        assert bench.sink.read_back(bench.place()).mint_id == "mint-1"
        assert "canary" not in json.dumps(bench.secret()["metadata"])

    def test_deliveries_share_a_secret(self, bench: Bench) -> None:
        """Two tokens in two keys of one Secret keep a record each, and neither write touches the other's."""
        first = bench.place("one", name="shared", fields={"ONE": "{secret}"})
        second = bench.place("two", name="shared", fields={"TWO": "{secret}"})
        bench.sink.deliver(first, mint(OTHER, 1))
        bench.sink.deliver(second, mint(CANARY, 2))
        bench.sink.deliver(first, mint("third", 3))
        assert bench.plain("shared") == {"ONE": "third", "TWO": CANARY}
        assert (bench.record("ONE", "shared")["mint_id"], bench.record("TWO", "shared")["mint_id"]) == (
            "mint-3",
            "mint-2",
        )

    def test_long_keys_get_a_record(self, bench: Bench) -> None:
        """A key longer than a name of an annotation may be has a record all the same, not shared with its like."""
        keys = ["k" * 252 + "1", "k" * 252 + "2", "_odd-", "..."[:1] + "hidden"]
        for number, key in enumerate(keys):
            place = bench.place(fields={key: "{secret}"})
            bench.sink.preflight(place)
            bench.sink.deliver(place, mint(f"s{number}", number))
        held = [bench.sink.read_back(bench.place(fields={key: "{secret}"})) for key in keys]
        assert [one.mint_id for one in held] == [f"mint-{number}" for number in range(len(keys))]

    def test_an_equal_value_is_not_written(self, bench: Bench) -> None:
        """What watches the object, such as Reloader, sees no change where the value is the same, whoever wrote it."""
        bench.put({"token": CANARY})
        before = bench.secret()
        bench.sink.deliver(bench.place(labels={"team": "a"}), mint())
        assert bench.secret() == before

    def test_a_changed_value_of_the_same_mint_is_written_again(self, bench: Bench) -> None:
        """The record alone is no proof: somebody may have edited the value beside it."""
        bench.sink.deliver(bench.place(), mint())
        bench.put({"token": OTHER})
        bench.sink.deliver(bench.place(), mint())
        assert bench.plain() == {"token": CANARY}

    def test_type_and_labels_of_a_new_secret(self, bench: Bench) -> None:
        """A Secret is made with the type and labels of the delivery; later writes leave its type."""
        block = {"type": "kubernetes.io/basic-auth", "fields": {"username": "bot", "password": "{secret}"}}
        bench.sink.deliver(bench.place(labels={"team": "a"}, **block), mint())
        bench.sink.deliver(bench.place(labels={"env": "x"}, fields={"more": "{secret}"}), mint(OTHER, 2))
        found = bench.secret()
        assert found["type"] == "kubernetes.io/basic-auth"
        assert found["metadata"]["labels"] == {"team": "a", "env": "x"}

    def test_a_line_end_behind_the_secret_is_no_part_of_it(self, bench: Bench) -> None:
        """What `echo` put there reads as the token."""
        bench.put({"token": CANARY + "\n"})
        assert bench.sink.read_back(bench.place()).secret == Secret(CANARY)

    @pytest.mark.parametrize("value", ["", "\n"])
    def test_an_empty_key_holds_nothing(self, bench: Bench, value: str) -> None:
        """A key without a value is not found."""
        bench.put({"token": value, "neighbour": "x"})
        with pytest.raises(NotFound, match="holds no secret"):
            bench.sink.read_back(bench.place())

    def test_a_broken_record_is_none(self, bench: Bench) -> None:
        """An annotation that somebody spoilt is written anew and stops nothing."""
        bench.sink.deliver(bench.place(), mint())
        bench.put({}, metadata={"annotations": {"rotator/token": "{"}})
        assert bench.sink.read_back(bench.place()).mint_id == ""
        bench.sink.deliver(bench.place(), mint(OTHER, 2))
        assert bench.record()["mint_id"] == "mint-2"

    def test_two_replicas_write_one_secret(self, bench: Bench) -> None:
        """Writers in two processes lose none of each other's keys."""
        other = bench.sink_of(bench.server.kubeconfig({"token": ADMIN}))

        def write(number: int) -> None:
            place = bench.place(name="shared", fields={f"K{number}": "{secret}"})
            while True:
                try:
                    (bench.sink, other)[number % 2].deliver(place, mint(f"s{number}", number))
                    return
                except Temporary:  # the other one was faster too often: the engine repeats
                    continue

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(24)))
        assert bench.plain("shared") == {f"K{number}": f"s{number}" for number in range(24)}

    def test_templates_name_namespace_secret_and_workload(self, bench: Bench) -> None:
        """The namespace and the workloads may depend on the token too."""
        place = bench.place(namespace="team-{workspace_id}", name="{deployment_id}", restart=["deployment/af-{name}"])
        assert place.location == "team-clws1/cldep1#token"
        assert place.options["restart"] == (("deployment", "af-svc-airflow"),)

    def test_a_place_needs_a_namespace(self, bench: Bench) -> None:
        """Neither sink nor delivery names one: said before anything is contacted."""
        sink = build(Path("/nowhere"))
        with pytest.raises(Permanent, match="names a namespace"):
            bench.place(sink=sink)


class TestPreflight:
    """A dry run of the very write: whatever would refuse the delivery refuses the preflight."""

    def test_it_changes_nothing(self, bench: Bench) -> None:
        """Neither a Secret that is there nor one that is not yet."""
        bench.sink.preflight(bench.place())
        assert bench.secret() == {}
        bench.put({"token": OTHER})
        before = bench.secret()
        bench.sink.preflight(bench.place())
        assert bench.secret() == before

    def test_a_missing_namespace(self, bench: Bench) -> None:
        """It is told from a missing Secret, by preflight, delivery and reading, and never read as empty."""
        place = bench.place(namespace="no-such")
        for call in (bench.sink.preflight, lambda p: bench.sink.deliver(p, mint())):
            with raising_without_secret(NotFound, match="there is no namespace no-such"):
                call(place)
        with pytest.raises(Permanent, match="there is no namespace no-such") as caught:
            bench.sink.read_back(place)
        assert not isinstance(caught.value, NotFound)

    def test_a_missing_secret_that_shall_not_be_made(self, bench: Bench) -> None:
        """With `create = false` a missing Secret is an error that says so."""
        sink = bench.sink_of(bench.server.kubeconfig({"token": ADMIN}), create=False)
        place = bench.place(sink=sink)
        for call in (sink.preflight, lambda p: sink.deliver(p, mint())):
            with raising_without_secret(NotFound, match="create = false"):
                call(place)
        bench.put({"other": "x"})
        sink.preflight(place)
        sink.deliver(place, mint())
        assert bench.plain() == {"other": "x", "token": CANARY}

    def test_a_full_quota(self, bench: Bench) -> None:
        """A quota for Secrets that leaves no room is found before anything is rotated."""
        path = f"/api/v1/namespaces/{bench.namespace}/resourcequotas"
        hard = {"hard": {"secrets": "0"}}
        bench.server.call("POST", path, {"metadata": {"name": "q"}, "spec": hard})
        bench.server.call("PATCH", f"{path}/q/status", {"status": {**hard, "used": {"secrets": "0"}}})
        # The server's admission hears of quotas through a watch.
        assert "ResourceQuota" in eventually(lambda: bench.sink.preflight(bench.place())).message
        with raising_without_secret(Forbidden, match="ResourceQuota"):
            bench.sink.deliver(bench.place(), mint())

    def test_a_secret_that_would_be_too_large(self, bench: Bench) -> None:
        """A Secret whose neighbours leave no room for another key is found too."""
        bench.put({"neighbour": "x" * (1024 * 1024 - 2048)})
        with raising_without_secret(Permanent, match="422"):
            bench.sink.preflight(bench.place())

    def test_an_immutable_secret(self, bench: Bench) -> None:
        """It is told with what to do about it."""
        bench.put({"token": OTHER}, immutable=True)
        with raising_without_secret(Permanent, match="immutable; delete it"):
            bench.sink.preflight(bench.place())

    def test_an_invalid_type(self, bench: Bench) -> None:
        """Keys that do not fit the type are found by the server, before anything is rotated."""
        with raising_without_secret(Permanent, match="422"):
            bench.sink.preflight(bench.place(type="kubernetes.io/tls"))

    def test_a_secret_of_somebody_else(self, bench: Bench) -> None:
        """Secrets that Kubernetes itself writes are refused."""
        account = bench.server.account(bench.namespace)
        annotations = {"kubernetes.io/service-account.name": account}
        bench.put({}, type="kubernetes.io/service-account-token", metadata={"annotations": annotations})
        with raising_without_secret(Permanent, match="belongs to Kubernetes"):
            bench.sink.preflight(bench.place())

    @pytest.mark.parametrize(
        ("side_effects", "kind", "words"),
        [("None", Temporary, "failed"), ("Unknown", Permanent, "does not support dry run")],
    )
    def test_admission_webhooks_take_part(
        self, bench: Bench, side_effects: str, kind: type[RotatorError], words: str
    ) -> None:
        """A webhook that is down, or that knows no dry run, is met by the preflight and not by the delivery."""
        bench.server.call("PATCH", f"/api/v1/namespaces/{bench.namespace}", {"metadata": {"labels": {"hook": "yes"}}})
        hook = {
            "name": "hook.test.example",
            "clientConfig": {"url": "https://127.0.0.1:1/", "caBundle": ""},
            "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["*"], "resources": ["secrets"]}],
            "namespaceSelector": {"matchLabels": {"hook": "yes"}},
            "failurePolicy": "Fail",
            "sideEffects": side_effects,
            "admissionReviewVersions": ["v1beta1"],
        }
        path = "/apis/admissionregistration.k8s.io/v1beta1/validatingwebhookconfigurations"
        bench.server.call("POST", path, {"metadata": {"name": bench.namespace}, "webhooks": [hook]})
        try:
            refusal = eventually(lambda: bench.sink.preflight(bench.place()))
        finally:
            bench.server.call("DELETE", f"{path}/{bench.namespace}")
        assert isinstance(refusal, kind)
        assert words in refusal.message


class TestRights:
    """The least that a Role must allow, and what is said when it does not."""

    def test_the_documented_role_is_enough(self, bench: Bench) -> None:
        """get and patch by name, and create: no list, nothing else of the namespace."""
        sink = bench.sink_with(GET, PATCH, CREATE, RESTART)
        web = bench.server.workload(bench.namespace, "Deployment", "web")
        place = bench.place(sink=sink, restart=["deployment/web"])
        with pytest.raises(NotFound):
            sink.read_back(place)
        for number in (1, 2):
            sink.preflight(place)
            sink.deliver(place, mint(CANARY + str(number), number))
            sink.follow_up(place, mint(CANARY + str(number), number))  # type: ignore[attr-defined]
        assert sink.read_back(place).secret == Secret(f"{CANARY}2")
        assert bench.server.call("GET", web)["metadata"]["generation"] == 2

    @pytest.mark.parametrize(
        ("missing", "rule"),
        [
            (GET, '{apiGroups: [""], resources: ["secrets"], resourceNames: ["svc-airflow"], verbs: ["get"]}'),
            (PATCH, '{apiGroups: [""], resources: ["secrets"], resourceNames: ["svc-airflow"], verbs: ["patch"]}'),
            (CREATE, '{apiGroups: [""], resources: ["secrets"], verbs: ["create"]}'),
            (RESTART, '{apiGroups: ["apps"], resources: ["deployments"], resourceNames: ["web"], verbs: ["patch"]}'),
        ],
    )
    def test_a_missing_right_is_named(self, bench: Bench, missing: dict[str, object], rule: str) -> None:
        """The preflight says exactly which rule of which namespace's Role to add."""
        sink = bench.sink_with(*(one for one in (GET, PATCH, CREATE, RESTART) if one is not missing))
        if missing is not CREATE:
            bench.put({"token": OTHER})
        with raising_without_secret(Forbidden) as caught:
            sink.preflight(bench.place(sink=sink, restart=["deployment/web"]))
        assert f"Role in {bench.namespace}, rule {rule}" in caught.value.message

    def test_a_token_that_was_renewed_on_disk(self, bench: Bench, tmp_path: Path) -> None:
        """A projected token that dies is read again, once, and the write goes on."""
        account = bench.server.account(bench.namespace, GET, PATCH, CREATE)
        bench.put({}, name="bound")
        path = tmp_path / "token"
        path.write_text(bench.server.token(bench.namespace, account, bound_to="bound"))
        sink = bench.sink_of(bench.server.kubeconfig({"tokenFile": str(path)}))
        place = bench.place(sink=sink)
        sink.deliver(place, mint(OTHER, 1))
        bench.server.call("DELETE", f"/api/v1/namespaces/{bench.namespace}/secrets/bound")
        # The server remembers for some seconds that a token was good.
        assert "renew" in eventually(lambda: sink.read_back(place)).message
        with raising_without_secret(CredentialRejected):
            sink.deliver(place, mint(CANARY, 2))
        path.write_text(bench.server.token(bench.namespace, account))
        sink.deliver(place, mint(CANARY, 2))
        assert bench.plain() == {"token": CANARY}


WORKLOADS = [("Deployment", "deployment"), ("StatefulSet", "statefulset"), ("DaemonSet", "daemonset")]


class TestFollowUp:
    """Rollouts of the workloads that read a Secret: once a change, never for the first value."""

    def follow(self, bench: Bench, place: Place, number: int, secret: str = "") -> None:
        """Deliver a mint, and follow up with an instance that knows nothing of it."""
        made = mint(secret or f"{CANARY}{number}", number)
        bench.sink.deliver(place, made)
        later = bench.sink_of(bench.server.kubeconfig({"token": ADMIN}))
        later.follow_up(place, made)  # type: ignore[attr-defined]

    def generation(self, bench: Bench, path: str) -> int:
        """Return how often the workload's specification changed, the first included."""
        return int(bench.server.call("GET", path)["metadata"]["generation"])

    def test_it_is_a_follower(self, bench: Bench) -> None:
        """The engine finds the step by the port."""
        assert isinstance(bench.sink, Follower)

    @pytest.mark.parametrize(("kind", "word"), WORKLOADS)
    def test_each_kind_is_rolled_out_once_a_change(self, bench: Bench, kind: str, word: str) -> None:
        """Not on the first sync, once after each later mint, however often it is repeated."""
        path = bench.server.workload(bench.namespace, kind, "web")
        place = bench.place(restart=[f"{word}/web"])
        bench.sink.preflight(place)
        generations = []
        for number in (1, 1, 2, 2, 2, 3):
            self.follow(bench, place, number)
            generations.append(self.generation(bench, path))
        assert generations == [1, 1, 2, 2, 2, 3]

    def test_the_first_sync_too_if_wanted(self, bench: Bench) -> None:
        """With `restart_on_create` the first value rolls out as well."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        place = bench.place(restart=["deployment/web"], restart_on_create=True)
        self.follow(bench, place, 1)
        self.follow(bench, place, 1)
        assert self.generation(bench, path) == 2

    def test_a_key_that_was_there_before(self, bench: Bench) -> None:
        """A value that a person put there was perhaps read: replacing it is a change, though the first of ours."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        bench.put({"token": OTHER})
        self.follow(bench, bench.place(restart=["deployment/web"]), 1)
        assert self.generation(bench, path) == 2

    def test_a_new_key_of_a_secret_is_a_first_sync(self, bench: Bench) -> None:
        """A Secret that is there but lacks the key has no reader of it."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        bench.put({"other": OTHER})
        self.follow(bench, bench.place(restart=["deployment/web"]), 1)
        assert self.generation(bench, path) == 1

    def test_a_first_sync_repaired_stays_one(self, bench: Bench) -> None:
        """The first mint written again over an edit is still the first: the next mint is not."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        place = bench.place(restart=["deployment/web"])
        self.follow(bench, place, 1)
        bench.put({"token": OTHER})
        self.follow(bench, place, 1)
        assert self.generation(bench, path) == 1
        self.follow(bench, place, 2)
        assert self.generation(bench, path) == 2

    def test_two_places_of_one_workload(self, bench: Bench) -> None:
        """A workload that reads two Secrets is rolled out once for each change, and repeats of both change nothing."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        places = [bench.place(name, restart=["deployment/web"]) for name in ("one", "two")]
        for number in (1, 2, 2, 2):
            for place in places:
                self.follow(bench, place, number)
        assert self.generation(bench, path) == 3

    def test_a_missing_workload_is_named(self, bench: Bench) -> None:
        """The others are rolled out all the same, and when it is there, it is its turn."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        place = bench.place(restart=["statefulset/db", "deployment/web"])
        bench.sink.preflight(place)
        self.follow(bench, place, 1)
        with raising_without_secret(NotFound, match="statefulset/db does not exist"):
            self.follow(bench, place, 2)
        assert self.generation(bench, path) == 2
        late = bench.server.workload(bench.namespace, "StatefulSet", "db")
        self.follow(bench, place, 2)
        assert (self.generation(bench, path), self.generation(bench, late)) == (2, 2)

    def test_a_secret_that_vanished(self, bench: Bench) -> None:
        """Nothing is restarted into a missing Secret."""
        bench.server.workload(bench.namespace, "Deployment", "web")
        with pytest.raises(NotFound, match="no such Secret any more"):
            bench.sink.follow_up(bench.place(restart=["deployment/web"]), mint())  # type: ignore[attr-defined]

    def test_a_mint_that_is_not_there(self, bench: Bench) -> None:
        """A mint that another followed, or whose value stood there before, rolls nothing out."""
        path = bench.server.workload(bench.namespace, "Deployment", "web")
        place = bench.place(restart=["deployment/web"])
        self.follow(bench, place, 1)
        self.follow(bench, place, 2)
        bench.sink.follow_up(place, mint(CANARY, 1))  # type: ignore[attr-defined]
        self.follow(bench, place, 7, secret=f"{CANARY}2")
        assert self.generation(bench, path) == 2

    def test_nothing_to_restart_asks_nothing(self, bench: Bench) -> None:
        """Without workloads the step costs no request."""
        sink, proxy = bench.proxied()
        sink.follow_up(bench.place(sink=sink), mint())  # type: ignore[attr-defined]
        assert proxy.seen == []


def status(code: int, reason: str = "", **details: str) -> Reply:
    """Return a failure as the API words it."""
    body = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}
    body |= {"message": f"vendor words {CANARY}", "details": details}
    return Reply(code, json.dumps(body).encode())


def cut_after(forward: Forward) -> Reply:
    """Let the server do it, and hang up."""
    forward()
    return Reply(cut=True)


def only(method: str, reply: Reply, *, after: bool = False) -> Fault:
    """Return the fault that answers this to requests of a method, before or after the server did what they ask."""

    def fault(seen: Seen, forward: Forward) -> Reply:
        if seen.method != method:
            return forward()
        if after:
            forward()
        return reply

    return fault


class TestFaults:
    """A proxy before the real server fails on command."""

    @pytest.mark.parametrize("reply", [Reply(cut=True), status(500), status(504, "Timeout"), Reply(200, b"<html>")])
    def test_a_write_without_a_good_answer_is_unknown(self, bench: Bench, reply: Reply) -> None:
        """It may have happened: the next delivery looks, and writes nothing that is there."""
        sink, proxy = bench.proxied()
        place = bench.place(sink=sink)
        bench.put({"token": OTHER})
        proxy.fault = only("PATCH", reply, after=True)
        with raising_without_secret(OutcomeUnknown, match="perhaps it was written"):
            sink.deliver(place, mint())
        assert bench.plain() == {"token": CANARY}
        version = bench.secret()["metadata"]["resourceVersion"]
        proxy.fault = lambda _, forward: forward()
        assert sink.deliver(place, mint()).version == version

    @pytest.mark.parametrize("after", [False, True])
    @pytest.mark.parametrize("method", ["POST", "PATCH"])
    def test_a_server_that_hangs(self, bench: Bench, method: str, after: bool) -> None:
        """A timeout of a write is unknown, whether it was kept or not, and repeating it is safe."""
        sink, proxy = bench.proxied()
        place = bench.place(sink=sink)
        if method == "PATCH":
            bench.put({"token": OTHER})
        done = threading.Event()

        def hang(seen: Seen, forward: Forward) -> Reply:
            if seen.method != method:
                return forward()
            if after:
                forward()
            done.wait(20)
            return Reply(cut=True)

        proxy.fault = hang
        started_s = time.monotonic()
        with raising_without_secret(OutcomeUnknown):
            sink.deliver(place, mint())
        assert time.monotonic() - started_s < 10
        done.set()
        proxy.fault = lambda _, forward: forward()
        sink.deliver(place, mint())
        assert bench.plain() == {"token": CANARY}

    @pytest.mark.parametrize("call", ["preflight", "read_back"])
    @pytest.mark.parametrize("reply", [Reply(cut=True), status(500), status(503), status(504)])
    def test_a_read_without_an_answer_is_temporary(self, bench: Bench, call: str, reply: Reply) -> None:
        """What changes nothing is simply repeated later, and is never taken for an empty place."""
        sink, proxy = bench.proxied()
        proxy.fault = only("GET", reply)
        with raising_without_secret(Temporary):
            getattr(sink, call)(bench.place(sink=sink))

    def test_a_dry_run_without_an_answer_is_temporary(self, bench: Bench) -> None:
        """A dry run keeps nothing, so its outcome is never in doubt."""
        sink, proxy = bench.proxied()
        proxy.fault = only("POST", Reply(cut=True))
        with raising_without_secret(Temporary, match="did not answer"):
            sink.preflight(bench.place(sink=sink))

    @pytest.mark.parametrize("method", ["GET", "POST"])
    def test_throttling_says_how_long(self, bench: Bench, method: str) -> None:
        """429 had no effect; what Retry-After asks for is handed on, bounded."""
        sink, proxy = bench.proxied()
        for asked, waited in (("7", 7), ("999999999", 600)):
            proxy.fault = only(method, replace(status(429, "TooManyRequests"), headers={"retry-after": asked}))
            with raising_without_secret(Throttled) as caught:
                sink.deliver(bench.place(sink=sink), mint())
            assert isinstance(caught.value, Throttled)
            assert caught.value.retry_after == timedelta(seconds=waited)

    @pytest.mark.parametrize(
        ("code", "kind", "words"),
        [
            (302, Permanent, "not followed"),
            (400, Permanent, "dry run"),
            (401, CredentialRejected, "renew"),
            (403, Forbidden, "admission policy"),
            (404, Permanent, "is not the Kubernetes API"),
            (405, Permanent, "kube-apiserver"),
            (413, Permanent, "one mebibyte"),
            (415, Permanent, "merge patches"),
            (418, Permanent, "refuses"),
            (422, Permanent, "type, labels and keys"),
        ],
    )
    def test_refusals(self, bench: Bench, code: int, kind: type[RotatorError], words: str) -> None:
        """Every status below 500 means that nothing was written, and says in our words what to do."""
        sink, proxy = bench.proxied()
        bench.put({"token": OTHER})
        proxy.fault = only("PATCH", status(code))
        place = bench.place(sink=sink)
        with raising_without_secret(kind, match=words) as caught:
            sink.deliver(place, mint())
        assert place.location in caught.value.message
        assert "vendor" not in caught.value.message
        assert bench.plain() == {"token": OTHER}

    def test_every_status_of_the_table_is_tried(self) -> None:
        """The table of the code and the rows above know the same statuses."""
        tried = next(mark for mark in TestFaults.test_refusals.pytestmark if mark.name == "parametrize").args[1]  # type: ignore[attr-defined]
        assert set(REFUSALS) - {409} <= {row[0] for row in tried}

    @pytest.mark.parametrize(
        "reply",
        [
            Reply(404, b"<html>nothing here</html>", {"content-type": "text/html"}),
            Reply(404, b"404 page not found"),
            Reply(403, b"<html>no</html>"),
            status(404, "NotFound"),
            status(404, "NotFound", name="somebody-else", kind="secrets"),
            Reply(200, b"[]"),
            Reply(200, b"{}"),
            Reply(200, b""),
        ],
    )
    def test_only_the_api_itself_says_that_nothing_is_there(self, bench: Bench, reply: Reply) -> None:
        """A page of something before the API is an error, not an empty place."""
        sink, proxy = bench.proxied()
        proxy.fault = only("GET", reply)
        with pytest.raises(Permanent) as caught:
            sink.read_back(bench.place(sink=sink))
        assert not isinstance(caught.value, NotFound)
        proxy.fault = lambda seen, forward: reply if seen.method == "GET" else forward()
        with raising_without_secret(Permanent):
            sink.deliver(bench.place(sink=sink), mint())
        assert bench.secret() == {}

    def test_somebody_writes_in_between(self, bench: Bench) -> None:
        """Compare-and-set: a key that changed after our look is kept, and ours is written all the same."""
        sink, proxy = bench.proxied()
        bench.put({"token": OTHER, "neighbour": "old"})
        raced: list[str] = []

        def race(seen: Seen, forward: Forward) -> Reply:
            if seen.method == "PATCH" and not raced:
                raced.append("")
                bench.put({"neighbour": "new"})
            return forward()

        proxy.fault = race
        sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain() == {"token": CANARY, "neighbour": "new"}
        assert [seen.method for seen in proxy.seen] == ["GET", "PATCH", "GET", "PATCH"]

    def test_somebody_makes_the_secret_first(self, bench: Bench) -> None:
        """A Secret that appears between our look and our making it keeps what it holds."""
        sink, proxy = bench.proxied()

        def race(seen: Seen, forward: Forward) -> Reply:
            if seen.method == "POST":
                bench.put({"neighbour": "new"})
            return forward()

        proxy.fault = race
        sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain() == {"token": CANARY, "neighbour": "new"}

    def test_somebody_deletes_the_secret_in_between(self, bench: Bench) -> None:
        """It is made anew, as when it had never been there."""
        sink, proxy = bench.proxied()
        bench.put({"token": OTHER, "neighbour": "x"})
        path = f"/api/v1/namespaces/{bench.namespace}/secrets/svc-airflow"

        def race(seen: Seen, forward: Forward) -> Reply:
            if seen.method == "PATCH":
                bench.server.call("DELETE", path)
            return forward()

        proxy.fault = race
        sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain() == {"token": CANARY}

    def test_somebody_never_stops_writing(self, bench: Bench) -> None:
        """After some rounds it is left for later, with nothing written."""
        sink, proxy = bench.proxied()
        bench.put({"token": OTHER})

        def race(seen: Seen, forward: Forward) -> Reply:
            if seen.method == "PATCH":
                bench.put({"neighbour": str(len(proxy.seen))})
            return forward()

        proxy.fault = race
        with raising_without_secret(Temporary, match="keeps changing"):
            sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain()["token"] == OTHER

    def test_the_secret_travels_in_a_body_alone(self, bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
        """No path, query or header holds it, encoded or not, and no library logs it, nor the credential."""
        for logger in (None, "kubernetes.client.rest", "urllib3"):
            caplog.set_level(logging.DEBUG, logger)
        sink, proxy = bench.proxied()
        place = bench.place(sink=sink)
        sink.preflight(place)
        sink.deliver(place, mint())
        sink.read_back(place)
        hidden = (CANARY, base64.b64encode(CANARY.encode()).decode())
        heads = repr([(seen.path, seen.headers) for seen in proxy.seen]) + caplog.text
        assert not [text for text in hidden if text in heads]
        proxy.fault = lambda *_: status(403)
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            with pytest.raises(Permanent):
                call(place)
        assert not [text for text in (*hidden, ADMIN) if text in caplog.text]
        assert [seen for seen in proxy.seen if hidden[1].encode() in seen.body]
        assert all("fieldManager=rotator" in seen.path for seen in proxy.seen if seen.method != "GET")

    def test_connections_are_kept(self, bench: Bench) -> None:
        """A sweep over many tokens does not shake hands for each."""
        sink, proxy = bench.proxied()
        for number in range(6):
            sink.deliver(bench.place(sink=sink), mint(f"{CANARY}{number}", number))
        assert proxy.connections == 1


class TestAccess:
    """Where the API is and who we are."""

    def test_nobody_is_contacted_before_the_first_call(self) -> None:
        """Building needs no kubeconfig that can be read."""
        sink = build(Path("/no/such/kubeconfig"), namespace="x")
        sink.close()

    @pytest.mark.parametrize("content", [None, "", "{", "[]", "a: b", '{"clusters": [], "contexts": [], "users": []}'])
    def test_a_kubeconfig_that_cannot_be_used(self, bench: Bench, tmp_path: Path, content: str | None) -> None:
        """Missing or malformed: said with its path, and with the place."""
        path = tmp_path / "config"
        if content is not None:
            path.write_text(content)
        sink = bench.sink_of(path)
        with raising_without_secret(Temporary, match="cannot be used") as caught:
            sink.preflight(bench.place(sink=sink))
        assert str(path) in caught.value.message
        assert bench.place(sink=sink).location in caught.value.message

    def test_a_kubeconfig_that_is_repaired(self, bench: Bench, tmp_path: Path) -> None:
        """It is read when needed, so a repair needs no restart."""
        path = tmp_path / "config"
        sink = bench.sink_of(path)
        with pytest.raises(Temporary):
            sink.preflight(bench.place(sink=sink))
        path.write_text(bench.server.kubeconfig({"token": ADMIN}).read_text())
        sink.preflight(bench.place(sink=sink))

    def test_a_context_is_chosen(self, bench: Bench) -> None:
        """A context that is not there is an error, one that is there is used."""
        path = bench.server.kubeconfig({"token": ADMIN})
        bench.sink_of(path, context="x").preflight(bench.place())
        with pytest.raises(Temporary):
            bench.sink_of(path, context="y").preflight(bench.place())

    def test_a_credential_plugin(self, bench: Bench, tmp_path: Path) -> None:
        """Programs that print a token, as clouds have them, work."""
        sink = bench.sink_of(bench.server.kubeconfig(plugin(tmp_path, f"echo '{credential(ADMIN)}'")))
        sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain() == {"token": CANARY}

    @pytest.mark.parametrize("script", ["exit 1", "echo nonsense", "echo '{}'"])
    def test_a_credential_plugin_that_fails(self, bench: Bench, tmp_path: Path, script: str) -> None:
        """Without a credential nothing is sent."""
        sink = bench.sink_of(bench.server.kubeconfig(plugin(tmp_path, script)))
        with raising_without_secret(CredentialRejected, match="yields no credential"):
            sink.deliver(bench.place(sink=sink), mint())

    def test_a_credential_plugin_that_hangs(self, bench: Bench, tmp_path: Path) -> None:
        """It holds a sweep up no longer than one request may take, however many threads wait for it."""
        sink = bench.sink_of(bench.server.kubeconfig(plugin(tmp_path, "exec sleep 3")), timeout="1s")

        def deliver(number: int) -> None:
            with raising_without_secret(Temporary, match="takes too long"):
                sink.deliver(bench.place(f"svc-{number}", sink=sink), mint())

        started_s = time.monotonic()
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(deliver, range(6)))
        assert time.monotonic() - started_s < 4
        time.sleep(3)  # let the program end

    def test_a_pod(self, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a pod, the service account that is mounted there is used, without any option."""
        account = bench.server.account(bench.namespace, GET, PATCH, CREATE)
        (tmp_path / "token").write_text(bench.server.token(bench.namespace, account))
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(bench.server.port))
        # Where a pod finds its account cannot be said to the official client, and not be written on every machine.
        monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
        monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(bench.server.ca))
        sink = KUBE.build("cluster", KUBE.Options(namespace=bench.namespace), Path("/"))
        sink.preflight(bench.place(sink=sink))
        sink.deliver(bench.place(sink=sink), mint())
        sink.close()
        assert bench.plain() == {"token": CANARY}

    def test_a_client_certificate(self, bench: Bench, server: KubeServer) -> None:
        """Clusters whose administrators log in by certificate work."""
        certificate, key = server.client_certificate("admin", "system:masters")
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        sink = bench.sink_of(server.kubeconfig(user))
        sink.deliver(bench.place(sink=sink), mint())
        assert bench.plain() == {"token": CANARY}

    def test_a_server_with_another_certificate(self, bench: Bench, server: KubeServer) -> None:
        """A CA that is not ours, or another name than the one we ask for, is told and ends before anything is sent."""
        for cluster, why in (
            ({"certificate-authority": certifi.where()}, "unable to get local issuer certificate"),
            ({"tls-server-name": "somebody.else"}, "Hostname mismatch, certificate is not valid for 'somebody.else'."),
        ):
            sink = bench.sink_of(server.kubeconfig({"token": ADMIN}, **cluster))
            with raising_without_secret(Permanent, match=rf"not trusted; .*set ca_bundle \({re.escape(why)}\)$"):
                sink.deliver(bench.place(sink=sink), mint())
        assert bench.secret() == {}

    def test_a_ca_bundle_of_our_own(self, bench: Bench, server: KubeServer) -> None:
        """`ca_bundle` stands in for the CA of the kubeconfig; one that is missing is named."""
        path = server.kubeconfig({"token": ADMIN}, **{"certificate-authority": certifi.where()})
        sink = bench.sink_of(path, ca_bundle=str(server.ca))
        sink.preflight(bench.place(sink=sink))
        sink = bench.sink_of(path, ca_bundle="/no/such/ca.pem")
        with pytest.raises(Temporary, match=r"/no/such/ca\.pem"):
            sink.preflight(bench.place(sink=sink))

    @pytest.mark.parametrize(
        ("address", "cluster", "words"),
        [
            ("http://kubernetes.example", {}, "must begin with https"),
            ("", {"proxy-url": "socks5://127.0.0.1:1"}, "neither http:// nor https://"),
            ("", {"insecure-skip-tls-verify": True}, "insecure-skip-tls-verify"),
        ],
    )
    def test_an_unsafe_address(self, bench: Bench, address: str, cluster: dict[str, object], words: str) -> None:
        """Plain HTTP to another machine, or TLS without a look at the certificate, is refused."""
        sink = bench.sink_of(bench.server.kubeconfig({"token": ADMIN}, address, **cluster))
        with raising_without_secret(Permanent, match=words):
            sink.deliver(bench.place(sink=sink), mint())

    def test_nobody_listens(self, bench: Bench) -> None:
        """A refused connection had no effect."""
        sink = bench.sink_of(bench.server.kubeconfig({"token": ADMIN}, "https://127.0.0.1:1"))
        with raising_without_secret(Temporary, match="cannot be reached"):
            sink.deliver(bench.place(sink=sink), mint())

    @pytest.mark.parametrize(
        ("host", "no_proxy", "proxy"),
        [
            ("https://api.example", "", "http://proxy:3128"),
            ("https://api.example", "other.example", "http://proxy:3128"),
            ("https://api.example", ".example", ""),
            ("https://10.96.0.1", "10.96.0.0/12", ""),
            ("https://10.96.0.1", "10.97.0.0/16", "http://proxy:3128"),
            ("https://api.example", "*", ""),
            ("https://127.0.0.1:6443", "", ""),
        ],
    )
    def test_proxies_of_the_environment(
        self, monkeypatch: pytest.MonkeyPatch, host: str, no_proxy: str, proxy: str
    ) -> None:
        """HTTPS_PROXY is used unless NO_PROXY names the host, its domain or its network; the kubeconfig's always is."""
        monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
        monkeypatch.setenv("NO_PROXY", no_proxy)
        assert proxy_for(host, None) == proxy
        assert proxy_for(host, "http://own:1") == "http://own:1"

    def test_the_official_client_is_missing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The message says what to install, and comes before anything runs."""
        monkeypatch.setitem(sys.modules, "kubernetes", None)
        with pytest.raises(ConfigError, match=r"pip install 'rotator\[kubernetes\]'"):
            build(Path("/x"))

    def test_importing_is_cheap(self) -> None:
        """A configuration is checked without loading the official client."""
        code = "import sys, rotator.sinks.kubernetes_secret; sys.exit('kubernetes' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def credential(token: str) -> str:
    """Return what a credential plugin prints."""
    kind = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential"}
    return json.dumps({**kind, "status": {"token": token}})


def plugin(folder: Path, script: str) -> dict[str, object]:
    """Return the user of a kubeconfig whose token a program prints."""
    path = folder / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o700)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(path), "interactiveMode": "Never"}}


class TestOptions:
    """What a configuration may say is checked while it loads."""

    @pytest.mark.parametrize(
        "block",
        [
            {"name": "Upper"},
            {"name": "-{name}"},
            {"name": "a..b"},
            {"name": "a/b"},
            {"name": ""},
            {"namespace": "a.b"},
            {"namespace": "n" * 64},
            {"fields": {"a/b": "{secret}"}},
            {"fields": {"..": "{secret}"}},
            {"fields": {"k" * 254: "{secret}"}},
            {"fields": {"token": "no secret"}},
            {"type": "kubernetes.io/service-account-token"},
            {"type": "two words"},
            {"labels": {"bad key": "x"}},
            {"labels": {"good": "bad value"}},
            {"restart": ["web"]},
            {"restart": ["job/web"]},
            {"restart": ["deployment/Web"]},
            {"restart": ["deployment/"]},
        ],
    )
    def test_a_delivery_that_cannot_be(self, block: dict[str, object]) -> None:
        """Names, keys, labels and workloads that Kubernetes would refuse are found at load."""
        with pytest.raises(ValueError, match=next(iter(block))):
            sinks.checked(KUBE.DeliveryOptions, block)

    @pytest.mark.parametrize(
        "options", [{"timeout": "0s"}, {"timeout": "10m"}, {"timeout": "soon"}, {"namespace": "A"}, {"no_such": 1}]
    )
    def test_a_sink_that_cannot_be(self, options: dict[str, object]) -> None:
        """Likewise of the sink."""
        with pytest.raises(ValueError, match=next(iter(options))):
            KUBE.Options(**options)

    def test_paths_count_from_the_configuration(self, tmp_path: Path) -> None:
        """A relative kubeconfig lies beside the configuration."""
        sink = KUBE.build("cluster", KUBE.Options(kubeconfig="kube/config", namespace="x"), tmp_path)
        place = sink.resolve(sinks.checked(KUBE.DeliveryOptions, {}), facts())
        with pytest.raises(Temporary, match=str(tmp_path / "kube" / "config")):
            sink.preflight(place)

    def test_a_place_of_another_version(self, bench: Bench) -> None:
        """A journalled place that cannot be understood is refused, never guessed."""
        place = replace(bench.place(), options={"namespace": 1})
        with pytest.raises(Permanent, match="not compatible"):
            bench.sink.deliver(place, mint())


SINK = """
[sinks.cluster]
type = "kubernetes_secret"
kubeconfig = "{kubeconfig}"
namespace = "{namespace}"
"""
DELIVERY = """
preflight = "proven"
[[policies.services.deliver]]
sink = "cluster"
name = "{token_id}"
restart = ["deployment/web"]
"""


class TestWhole:
    """The engine over a real cluster."""

    def test_rotations_arrive_and_restart_their_readers(self, bench: Bench, tmp_path: Path) -> None:
        """The first sweep makes Secrets and restarts nobody, one ninety days later restarts their reader for each."""
        web = bench.server.workload(bench.namespace, "Deployment", "web")
        with lab(tmp_path) as made:
            text = made.config_path.read_text()
            head, tail = text.split("[policies.services]\n")
            policy = tail.split("[[policies.services.deliver]]")[0]
            sink = SINK.format(kubeconfig=bench.server.kubeconfig({"token": ADMIN}), namespace=bench.namespace)
            grade, delivery = DELIVERY.strip().split("\n", 1)
            made.config_path.write_text(f"{head}{sink}[policies.services]\n{grade}\n{policy}{delivery}")
            due = made.due_ids()
            assert due
            for generation in (1, 1 + len(due)):
                made.sweep()
                for token_id in due:
                    assert made.sandbox.store.authenticates_as(bench.plain(token_id)["token"]) == token_id
                assert bench.server.call("GET", web)["metadata"]["generation"] == generation
                made.clock.jump(timedelta(days=91))  # type: ignore[union-attr]
