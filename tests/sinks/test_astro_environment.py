"""The astro_environment sink over the sandbox's HTTP: the shared contract for each kind, and what only Astro can do."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.clock import SystemClock
from rotator.model import Place
from rotator.sandbox import Sandbox, SandboxConfig
from rotator.sandbox.environment import EnvObject
from rotator.sandbox.faults import Faults
from rotator.sandbox.store import Draft, Role
from rotator.sinks.astro_environment import AstroEnvironmentSink
from tests.lab import write_secret
from tests.sinks.contract import (
    CANARY,
    HOSTILE_NAMES,
    OTHER,
    Harness,
    SinkContract,
    facts,
    mint,
)

ASTRO: Any = sinks.load("astro_environment")
NEIGHBOUR = "canary-of-a-neighbour"


class Astro:
    """A sandbox with a credential of the sink's own, and the sink.

    Attributes:
        deployment: A hosted Deployment in the workspace; `hybrid` another.
    """

    def __init__(self, folder: Path, sandbox: Sandbox, **options: object) -> None:
        self.folder = folder
        self.sandbox = sandbox
        self.workspace = sandbox.store.workspaces[0]
        inside = [d for d in sandbox.environment.deployments.values() if d.workspace_id == self.workspace]
        self.deployment = inside[0]
        self.hybrid = next(d for d in sandbox.environment.deployments.values() if d.settings["type"] == "HYBRID")
        draft = Draft("sink", "WORKSPACE", self.workspace, "WORKSPACE_OPERATOR")
        self.token_id = sandbox.store.create(draft, sandbox.store.owner_id).id
        self.use(sandbox.store.secret_of(self.token_id))
        self.sink = self.build(**options)

    def use(self, credential: str) -> None:
        """Put another credential where the sink reads it."""
        write_secret(self.folder / "credential", credential)

    def build(self, **options: object) -> AstroEnvironmentSink:
        """Return a sink with these options."""
        values = {
            "organization_id": self.sandbox.organization_id,
            "credential": "file:credential",
            "base_url": self.sandbox.url,
            "timeout": "1s",
            "rate": {"get": 0, "post": 0},
        } | options
        clock = Hasty()
        return AstroEnvironmentSink("astro", ASTRO.Options(**values), self.folder, clock)

    def place(self, sink: AstroEnvironmentSink | None = None, **block: object) -> Place:
        """Return a place of the Deployment's, or as the block says."""
        options = {"kind": "deployment_variable", "key": "ASTRO_TOKEN", "deployment_id": self.deployment.id} | block
        return (sink or self.sink).resolve(sinks.checked(ASTRO.DeliveryOptions, options), facts())

    def of_workspace(self, kind: str, **block: object) -> Place:
        """Return a place in the workspace."""
        options = {"kind": kind, "key": "astro", "workspace_id": self.workspace} | block
        return self.sink.resolve(sinks.checked(ASTRO.DeliveryOptions, options), facts())

    def object(self, kind: str, key: str = "astro", **typed: object) -> EnvObject:
        """Make an object in the workspace, linked to its Deployment."""
        made = self.sandbox.environment.add(kind, "WORKSPACE", self.workspace, key, typed)
        made.links = {self.deployment.id: {"value": "override-of-theirs"} if "value" in typed else {"login": "theirs"}}
        made.excluded, made.auto_link, made.description = [self.hybrid.id], True, "made by a person"
        return made

    def posts(self) -> int:
        """Return how many writes of the environment were sent."""
        return sum(row[2] in ("deployment_update", "object_create", "object_update") for row in self.sandbox.requests)


class Hasty(SystemClock):
    """Pauses a hundredth of what it should."""

    def sleep(self, duration: timedelta) -> None:
        super().sleep(duration / 100)


@pytest.fixture(scope="module")
def running() -> Iterator[dict[bool, Sandbox]]:
    """Two organizations: one shows secrets, one does not."""
    with (
        Sandbox(SandboxConfig(limits=False)) as closed,
        Sandbox(SandboxConfig(limits=False, show_secrets=True)) as shown,
    ):
        yield {False: closed, True: shown}


@pytest.fixture
def astro(tmp_path: Path) -> Iterator[Astro]:
    """A fresh organization that does not show secrets."""
    faults = Faults(hang_s=5.0)
    with Sandbox(SandboxConfig(limits=False, faults=faults)) as sandbox:
        made = Astro(tmp_path, sandbox)
        yield made
        made.sink.close()


@pytest.fixture
def shown(tmp_path: Path) -> Iterator[Astro]:
    """A fresh organization that shows secrets."""
    with Sandbox(SandboxConfig(limits=False, show_secrets=True)) as sandbox:
        made = Astro(tmp_path, sandbox)
        yield made
        made.sink.close()


class VariableHarness:
    """Variables of a Deployment, as its Airflow sees them."""

    kind = "astro_environment"

    def __init__(self, astro: Astro, *, secret: bool) -> None:
        self.astro = astro
        self.sink = astro.sink
        self.reads = not secret
        self.block: dict[str, object] = {
            "kind": "deployment_variable",
            "key": "ASTRO_{name}",
            "deployment_id": astro.deployment.id,
            "secret": secret,
        }

    def read(self, place: Place) -> str | None:
        return self.astro.deployment.value(str(place.options["key"]))

    def write(self, place: Place, secret: str) -> None:
        key = str(place.options["key"])
        self.astro.sandbox.environment.set_variable(self.astro.deployment.id, key, secret, is_secret=not self.reads)

    def plant_neighbour(self, place: Place) -> None:
        for key, is_secret in (("NEIGHBOUR", True), ("PLAIN_NEIGHBOUR", False)):
            environment = self.astro.sandbox.environment
            environment.set_variable(self.astro.deployment.id, key, NEIGHBOUR, is_secret=is_secret)
        self._settings = json.dumps(self.astro.deployment.settings, sort_keys=True)

    def neighbour_is_whole(self, place: Place) -> bool:
        now = self.astro.deployment
        same = json.dumps(now.settings, sort_keys=True) == self._settings
        return same and now.value("NEIGHBOUR") == now.value("PLAIN_NEIGHBOUR") == NEIGHBOUR

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        with weak(self.astro):
            yield


class ObjectHarness(VariableHarness):
    """Objects of a workspace, linked to a Deployment."""

    def __init__(self, astro: Astro, kind: str, *, reads: bool) -> None:
        super().__init__(astro, secret=True)
        self.reads = reads
        self.block = {"kind": kind, "key": "astro_{name}", "workspace_id": astro.workspace}
        if kind == "connection":
            self.block["connection"] = {"type": "http", "host": "api.example.com"}

    def _found(self, place: Place) -> EnvObject | None:
        kind, key = str(place.options["kind"]).upper(), str(place.options["key"])
        return self.astro.sandbox.environment.find(kind, "WORKSPACE", self.astro.workspace, key)

    def _made(self, place: Place, **typed: object) -> EnvObject:
        kind, key = str(place.options["kind"]).upper(), str(place.options["key"])
        return self.astro.object(kind, key, **typed)

    def read(self, place: Place) -> str | None:
        found = self._found(place)
        return None if found is None else str(found.typed.get("password") or found.typed.get("value") or "") or None

    def write(self, place: Place, secret: str) -> None:
        is_connection = place.options["kind"] == "connection"
        typed = {"type": "http", "password": secret} if is_connection else {"value": secret, "isSecret": True}
        found = self._found(place)
        if found is None:
            self._made(place, **typed)
        else:
            found.typed, found.updated_at = {**found.typed, **typed}, self.astro.sandbox.environment.moment()

    def plant_neighbour(self, place: Place) -> None:
        self.other = self.astro.object(str(place.options["kind"]).upper(), f"{place.options['key']}_", value=NEIGHBOUR)
        if place.options["kind"] != "connection":
            return
        found = self._found(place) or self._made(place, type="http")
        found.typed |= {"host": "theirs.example.com", "login": "them", "port": 8443, "extra": {"region": "eu"}}

    def neighbour_is_whole(self, place: Place) -> bool:
        found = self._found(place)
        if place.options["kind"] != "connection":
            return self.other.typed == {"value": NEIGHBOUR}
        wanted = {"host": "theirs.example.com", "login": "them", "port": 8443, "extra": {"region": "eu"}}
        return found is not None and found.typed.items() >= wanted.items() and found.auto_link and bool(found.links)


@contextmanager
def weak(astro: Astro) -> Iterator[None]:
    """Take the right to write from the sink's credential."""
    store = astro.sandbox.store
    roles = store.tokens[astro.token_id].roles
    store.set_roles(astro.token_id, store.owner_id, (Role("WORKSPACE", astro.workspace, "WORKSPACE_MEMBER"),))
    try:
        yield
    finally:
        store.set_roles(astro.token_id, store.owner_id, roles)


MADE: dict[str, tuple[bool, Callable[[Astro], VariableHarness]]] = {
    "secret variable": (False, lambda astro: VariableHarness(astro, secret=True)),
    "plain variable": (False, lambda astro: VariableHarness(astro, secret=False)),
    "hidden airflow variable": (False, lambda astro: ObjectHarness(astro, "airflow_variable", reads=False)),
    "shown environment variable": (True, lambda astro: ObjectHarness(astro, "environment_variable", reads=True)),
    "hidden connection": (False, lambda astro: ObjectHarness(astro, "connection", reads=False)),
    "shown connection": (True, lambda astro: ObjectHarness(astro, "connection", reads=True)),
}


class TestContract(SinkContract):
    """What every sink promises, and of it what one that cannot be read can promise."""

    @pytest.fixture(params=MADE)
    def harness(
        self, request: pytest.FixtureRequest, tmp_path: Path, running: dict[bool, Sandbox]
    ) -> Iterator[Harness]:
        shows, make = MADE[request.param]
        running[shows].environment.objects.clear()
        astro = Astro(tmp_path, running[shows])
        made = dict(astro.deployment.settings), list(astro.deployment.variables)
        yield make(astro)
        astro.deployment.settings, astro.deployment.variables = made
        astro.sink.close()

    def test_what_is_delivered_is_read(self, harness: Any) -> None:
        """What is delivered is read back at the receipt's version, or attested by mint and version if it is hidden."""
        if harness.reads:
            super().test_what_is_delivered_is_read(harness)
            return
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        held = harness.sink.read_back(place)
        assert harness.read(place) == CANARY
        assert (held.secret, held.mint_id, held.version) == (None, mint().id, receipt.version)

    def test_what_a_person_put_there_is_read(self, harness: Any) -> None:
        """A person's value is read, or known not to be ours."""
        if harness.reads:
            super().test_what_a_person_put_there_is_read(harness)
            return
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        harness.write(place, OTHER)
        held = harness.sink.read_back(place)
        assert (held.secret, held.mint_id) == (None, "")
        assert held.version != receipt.version

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_hostile_names_work_or_are_refused(self, harness: Any, name: str) -> None:
        """A name made to break out gets a safe place like any other."""
        if harness.reads:
            super().test_hostile_names_work_or_are_refused(harness, name)
            return
        place = self.place(harness, name=name)
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY
