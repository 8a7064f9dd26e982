"""The astro_environment sink over the sandbox's HTTP: the shared contract for each kind, and what only Astro can do."""

import json
import socket
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.errors import ConfigError, CredentialRejected, Forbidden, NotFound, OutcomeUnknown, Permanent, Temporary
from rotator.model import Place
from rotator.sandbox import Fault, Sandbox, SandboxConfig
from rotator.sandbox.environment import EnvObject
from rotator.sandbox.faults import ENVIRONMENT_WRITES, OPERATIONS, READS, FaultPlan, Faults
from rotator.sandbox.store import Draft, Role
from rotator.secret import Secret
from rotator.sinks._astro_calls import Document
from rotator.sinks._astro_deployment import DeploymentShelf
from rotator.sinks._astro_place import Target
from rotator.sinks._astro_shelf import Seen
from rotator.sinks._journalled import journalled
from rotator.sinks.astro_environment import AstroEnvironmentSink, environments_proxy
from tests.lab import JumpingClock, write_secret
from tests.sinks.contract import (
    CANARY,
    OTHER,
    Harness,
    SinkContract,
    facts,
    mint,
    raising_without_secret,
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
        return AstroEnvironmentSink("astro", ASTRO.Options(**self.options(**options)), self.folder, JumpingClock())

    def options(self, **changed: object) -> dict[str, object]:
        """Return what the sink is made of."""
        return {
            "organization_id": self.sandbox.organization_id,
            "credential": "file:credential",
            "base_url": self.sandbox.url,
            "timeout": "1s",
            "rate": {"get": 0, "post": 0},
        } | changed

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


@pytest.fixture(scope="module")
def running() -> Iterator[dict[bool, Sandbox]]:
    """Two organizations: one shows secrets, one does not. Both come back to the port at which they were."""
    with (
        Sandbox(SandboxConfig(port=free_port(), limits=False)) as closed,
        Sandbox(SandboxConfig(port=free_port(), limits=False, show_secrets=True)) as shown,
    ):
        yield {False: closed, True: shown}


def free_port() -> int:
    """Return a port of the loopback that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Always(FaultPlan):
    """A fault for every call of some operations, or something that happens once, right before the first of them."""

    def __init__(self, operations: Collection[str], fault: Fault | None, happens: Callable[[], None] | None = None):
        super().__init__(Faults())
        self.operations = operations
        self.fault = fault
        self.happens = [happens] if happens else []
        self.calls = 0

    def next(self, operation: str, _: str) -> Fault | None:
        """Return what goes wrong."""
        if operation not in self.operations:
            return None
        self.calls += 1
        if self.happens:
            self.happens.pop()()
        return self.fault


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
    retry_after = timedelta(seconds=1)  # of the sandbox

    def __init__(self, astro: Astro, *, secret: bool) -> None:
        self.astro = astro
        self.sink = astro.sink
        self.is_readable = not secret
        self.block: dict[str, object] = {
            "kind": "deployment_variable",
            "key": "ASTRO_{name}",
            "deployment_id": astro.deployment.id,
            "secret": secret,
        }
        self.sibling: dict[str, object] | None = {**self.block, "key": "SECOND_{name}"}
        self.lacks: dict[str, str] = {}

    def rebuilt(self) -> AstroEnvironmentSink:
        return self.astro.build()

    def read(self, place: Place) -> str | None:
        return self.astro.deployment.value(str(place.options["key"]))

    def write(self, place: Place, secret: str) -> None:
        key = str(place.options["key"])
        self.astro.sandbox.environment.set_variable(
            self.astro.deployment.id, key, secret, is_secret=not self.is_readable
        )

    def remove(self, place: Place) -> bool:
        rows = self.astro.deployment.variables
        self.astro.deployment.variables = [row for row in rows if row.key != place.options["key"]]
        return True

    def plant_neighbour(self, place: Place) -> None:
        self.hidden = NEIGHBOUR
        for key, is_secret in (("NEIGHBOUR", True), ("PLAIN_NEIGHBOUR", False)):
            environment = self.astro.sandbox.environment
            environment.set_variable(self.astro.deployment.id, key, NEIGHBOUR, is_secret=is_secret)
        self._settings = json.dumps(self.astro.deployment.settings, sort_keys=True)

    def neighbour_is_whole(self, place: Place) -> bool:
        now = self.astro.deployment
        same = json.dumps(now.settings, sort_keys=True) == self._settings
        return same and (now.value("NEIGHBOUR"), now.value("PLAIN_NEIGHBOUR")) == (self.hidden, NEIGHBOUR)

    def broken(self, place: Place) -> AbstractContextManager[None]:
        return weak(self.astro)

    denied = broken

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        return self.planned(Always(ENVIRONMENT_WRITES, Fault.RESET_AFTER))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        return self.planned(Always(ENVIRONMENT_WRITES, Fault.RESET_BEFORE))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        return self.planned(Always(OPERATIONS, Fault.THROTTLE_SECONDS))

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        return self.planned(Always(READS, Fault.ERROR_500))

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None] | None:
        """Of a hidden variable only: the API has no compare-and-set, so one in plain text is sent back as it was."""

        def edit() -> None:
            self.hidden = "edited"
            self.astro.sandbox.environment.set_variable(self.astro.deployment.id, "NEIGHBOUR", self.hidden)

        return self.planned(Always(ENVIRONMENT_WRITES, None, edit))

    @contextmanager
    def unreachable(self, place: Place) -> Iterator[None]:
        self.astro.sandbox.stop()
        try:
            yield
        finally:
            self.astro.sandbox.start()

    def calls(self) -> int:
        return len(self.astro.sandbox.requests)

    @contextmanager
    def planned(self, plan: Always) -> Iterator[None]:
        """Let a plan hold for a while."""
        app = self.astro.sandbox._app
        before, app.plan = app.plan, plan
        try:
            yield
        finally:
            app.plan = before
        assert plan.calls, "nothing was asked"


class ObjectHarness(VariableHarness):
    """Objects of a workspace, linked to a Deployment."""

    def __init__(self, astro: Astro, kind: str, *, is_readable: bool) -> None:
        super().__init__(astro, secret=True)
        self.is_readable = is_readable
        self.block = {"kind": kind, "key": "astro_{name}", "workspace_id": astro.workspace}
        if kind == "connection":
            self.block["connection"] = {"type": "http", "host": "api.example.com"}
        # the only key of a variable is its value; beside a hidden field of a connection no other is written
        has_fields = kind == "connection" and is_readable
        self.sibling = {**self.block, **({"field": "extra.second"} if has_fields else {"key": "second_{name}"})}
        if kind == "connection":
            self.lacks = {
                "edited_meanwhile": "a limit: Astro takes no precondition, so edits of a connection may be lost"
            }

    def _found(self, place: Place) -> EnvObject | None:
        kind, key = str(place.options["kind"]).upper(), str(place.options["key"])
        return self.astro.sandbox.environment.find(kind, "WORKSPACE", self.astro.workspace, key)

    def _made(self, place: Place, **typed: object) -> EnvObject:
        kind, key = str(place.options["kind"]).upper(), str(place.options["key"])
        return self.astro.object(kind, key, **typed)

    def read(self, place: Place) -> str | None:
        found = self._found(place)
        if found is None:
            return None
        if place.options["field"] == "extra.second":
            return found.typed.get("extra", {}).get("second")  # type: ignore[attr-defined]
        return str(found.typed.get("password") or found.typed.get("value") or "") or None

    def write(self, place: Place, secret: str) -> None:
        is_connection = place.options["kind"] == "connection"
        typed = {"type": "http", "password": secret} if is_connection else {"value": secret, "isSecret": True}
        found = self._found(place)
        if found is None:
            self._made(place, **typed)
        else:
            found.typed, found.updated_at = {**found.typed, **typed}, self.astro.sandbox.environment.moment()

    def remove(self, place: Place) -> bool:
        found = self._found(place)
        assert found is not None
        del self.astro.sandbox.environment.objects[found.id]
        return True

    def plant_neighbour(self, place: Place) -> None:
        self.hidden = NEIGHBOUR
        self.other = self.astro.object(str(place.options["kind"]).upper(), f"{place.options['key']}_", value=NEIGHBOUR)
        if place.options["kind"] != "connection":
            return
        found = self._found(place) or self._made(place, type="http")
        found.typed |= {"host": "theirs.example.com", "login": "them", "port": 8443, "extra": {"region": "eu"}}
        found.links, found.auto_link = {self.astro.deployment.id: {"login": "theirs"}}, True

    def neighbour_is_whole(self, place: Place) -> bool:
        found = self._found(place)
        if place.options["kind"] != "connection":
            return self.other.typed == {"value": self.hidden}
        wanted = {"host": "theirs.example.com", "login": "them", "port": 8443, "extra": {"region": "eu"}}
        return found is not None and found.typed.items() >= wanted.items() and found.auto_link and bool(found.links)

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None] | None:
        """Of another object; the fields of a connection are sent back as they were: there is no compare-and-set."""
        if place.options["kind"] == "connection":
            return None

        def edit() -> None:
            self.hidden = "edited"
            self.other.typed = {"value": self.hidden}

        return self.planned(Always(ENVIRONMENT_WRITES, None, edit))


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
    "hidden airflow variable": (False, lambda astro: ObjectHarness(astro, "airflow_variable", is_readable=False)),
    "shown environment variable": (True, lambda astro: ObjectHarness(astro, "environment_variable", is_readable=True)),
    "hidden connection": (False, lambda astro: ObjectHarness(astro, "connection", is_readable=False)),
    "shown connection": (True, lambda astro: ObjectHarness(astro, "connection", is_readable=True)),
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


# What happens around our own write


def test_everything_else_of_a_deployment_survives(astro: Astro) -> None:
    """Hosted or hybrid, every setting and every other variable, hidden ones too, are as before."""
    for deployment in (astro.deployment, astro.hybrid):
        deployment.workload_identity = "theirs"
        settings, variables = dict(deployment.settings), list(deployment.variables)
        astro.use(astro.sandbox.credential)  # the owner's: the Deployments may lie in two workspaces
        astro.sink.deliver(astro.place(deployment_id=deployment.id), mint())
        assert deployment.settings == settings
        assert deployment.variables[:-1] == variables
        assert (deployment.value("ASTRO_TOKEN"), deployment.workload_identity) == (CANARY, "theirs")
        assert deployment.restarts == 1


def test_every_setting_that_can_be_asked_for_is_said_again(astro: Astro) -> None:
    """Remote execution, hibernation overrides and queues come back in the spelling of requests."""
    hibernation = {
        "schedules": [{"isEnabled": True, "hibernateAtCron": "0 20 * * *", "wakeAtCron": "0 6 * * *"}],
        "override": {"isHibernating": True, "overrideUntil": "2026-12-01T00:00:00Z", "isActive": True},
    }
    remote = {"enabled": True, "allowedIpAddressRanges": ["10.0.0.0/8"], "taskLogBucket": "s3://logs"}
    astro.deployment.settings |= {"scalingSpec": {"hibernationSpec": hibernation}, "remoteExecution": remote}
    astro.sink.deliver(astro.place(), mint())
    del hibernation["override"]["isActive"]  # type: ignore[attr-defined]
    assert astro.deployment.settings["remoteExecution"] == remote
    assert astro.deployment.settings["scalingSpec"] == {"hibernationSpec": hibernation}


def test_a_masked_value_is_never_written_back(astro: Astro) -> None:
    """Whatever stands for a hidden value in an answer, it is not sent."""
    deployment = Document(
        {
            "type": "STANDARD",
            **dict.fromkeys(("name", "workspaceId", "executor", "isCicdEnforced", "isDagDeployEnabled"), "x"),
            "schedulerSize": "SMALL",
            "environmentVariables": [
                {"key": "MASKED", "isSecret": True, "value": "****"},
                {"key": "EMPTY", "isSecret": True, "value": ""},
                {"key": "PLAIN", "isSecret": False, "value": ""},
            ],
        }
    )
    calls = Recorder()
    target = journalled(Target, astro.place())
    shelf = DeploymentShelf(calls)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        shelf.write(target, Seen(deployment, exists=False), mint())
    assert calls.body["environmentVariables"] == [
        {"key": "MASKED", "isSecret": True},
        {"key": "EMPTY", "isSecret": True},
        {"key": "PLAIN", "isSecret": False, "value": ""},
        {"key": "ASTRO_TOKEN", "isSecret": True, "value": CANARY},
    ]


class Recorder:
    """Stands for the calls, and keeps what would be sent."""

    body: Any = None

    def update_deployment(self, target: Target, body: Callable[[], Any]) -> Document:
        self.body = body()
        return Document({})


def test_links_overrides_and_description_survive(astro: Astro) -> None:
    """Everything that the API drops when an update leaves it out is said again; hidden overrides stay too."""
    for kind, typed in (
        ("AIRFLOW_VARIABLE", {"value": OTHER, "isSecret": True}),
        ("ENVIRONMENT_VARIABLE", {"value": OTHER, "isSecret": True}),
        ("CONNECTION", {"type": "http", "password": OTHER}),
    ):
        found = astro.object(kind, **typed)
        links, excluded = dict(found.links), list(found.excluded)
        astro.sink.deliver(astro.of_workspace(kind.lower()), mint())
        assert CANARY in found.typed.values()
        assert (found.links, found.excluded, found.auto_link, found.description) == (
            links, excluded, True, "made by a person",
        )  # fmt: skip


def test_lost_links_are_said_once(astro: Astro) -> None:
    """If the object has lost its links all the same, somebody is told, and the secret has arrived."""
    found = astro.object("AIRFLOW_VARIABLE", value=OTHER, isSecret=True)
    astro.sandbox.environment.after_write = [lambda: setattr(found, "links", {})]
    place = astro.of_workspace("airflow_variable")
    with raising_without_secret(Permanent, match="lost its links"):
        astro.sink.deliver(place, mint())
    assert found.typed["value"] == CANARY
    astro.sink.deliver(place, mint())
    assert astro.posts() == 1


def test_a_concurrent_edit_is_seen_and_mended(astro: Astro) -> None:
    """Somebody who saved the Deployment as it was before our write is noticed, and the secret is written again."""
    before = list(astro.deployment.variables)
    for undo in (1, 2):
        astro.sandbox.environment.after_write = [lambda: astro.deployment.variables.__setitem__(slice(None), before)]
        astro.sink.deliver(astro.place(), mint(f"{CANARY}{undo}", undo))
        assert astro.deployment.value("ASTRO_TOKEN") == f"{CANARY}{undo}"
    assert astro.posts() == 4


def test_a_value_changed_right_after_ours_is_seen(astro: Astro) -> None:
    """A hidden value that somebody else wrote a moment later is known by its time."""
    edit = lambda: astro.sandbox.environment.set_variable(astro.deployment.id, "ASTRO_TOKEN", OTHER)  # noqa: E731
    astro.sandbox.environment.after_write = [edit]
    astro.sink.deliver(astro.place(), mint())
    assert (astro.deployment.value("ASTRO_TOKEN"), astro.posts()) == (CANARY, 2)


def test_a_fight_ends_in_an_error(astro: Astro) -> None:
    """Where somebody undoes every write, it is said."""
    before = list(astro.deployment.variables)
    undo = lambda: astro.deployment.variables.__setitem__(slice(None), before)  # noqa: E731
    astro.sandbox.environment.after_write = [undo] * 10
    with raising_without_secret(Temporary, match="somebody else writes there"):
        astro.sink.deliver(astro.place(), mint())


def test_times_that_move_for_all_do_not_undo_each_other(astro: Astro) -> None:
    """Where an update moves the time of every variable, a second delivery does not make the first one look foreign."""
    astro.sandbox.environment.bumps_all = True
    first, second = astro.place(key="FIRST"), astro.place(key="SECOND")
    receipt = astro.sink.deliver(first, mint(CANARY, 1))
    astro.sink.deliver(second, mint(OTHER, 2))
    held = astro.sink.read_back(first)
    assert (held.mint_id, held.version) == ("mint-1", receipt.version)
    assert astro.sink.deliver(first, mint(CANARY, 1)) == receipt
    assert astro.posts() == 2


def test_two_processes_write_one_deployment(astro: Astro) -> None:
    """What two processes undo of each other is seen when it is read back, and delivering again mends it."""
    others = [astro.sink, astro.build()]
    places = [astro.place(key=f"KEY_{n}") for n in range(6)]
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda n: others[n % 2].deliver(places[n], mint(f"{CANARY}{n}", n)), range(6)))
    for n, place in enumerate(places):
        try:
            is_seen = others[n % 2].read_back(place).mint_id == f"mint-{n}"
        except NotFound:
            is_seen = False
        assert is_seen == (astro.deployment.value(f"KEY_{n}") == f"{CANARY}{n}")
    for n, place in enumerate(places):
        others[n % 2].deliver(place, mint(f"{CANARY}{n}", n))
    others[1].close()
    assert [astro.deployment.value(f"KEY_{n}") for n in range(6)] == [f"{CANARY}{n}" for n in range(6)]
    assert astro.deployment.value("DB_PASSWORD") == "hunter-1"


def test_another_process_writes_again_but_a_shown_value_is_enough(astro: Astro, tmp_path: Path) -> None:
    """A hidden value is not taken on trust by a new process; one that can be read is compared."""
    hidden, plain = astro.place(), astro.place(key="PLAIN", secret=False)
    for place in (hidden, plain):
        astro.sink.deliver(place, mint())
    fresh = astro.build()
    fresh.deliver(hidden, mint())
    fresh.deliver(plain, mint())
    fresh.close()
    assert astro.posts() == 3


# Objects of the Environment Manager


def test_a_connection_is_made_from_what_the_block_says(astro: Astro) -> None:
    """A connection that does not exist is created; without its type that is refused before anything is rotated."""
    bare = astro.of_workspace("connection")
    with raising_without_secret(Permanent, match="say with connection.type"):
        astro.sink.preflight(bare)
    place = astro.of_workspace("connection", connection={"type": "http", "host": "h", "port": 443, "schema": "https"})
    astro.sink.preflight(place)
    astro.sink.deliver(place, mint())
    found = astro.sandbox.environment.find("CONNECTION", "WORKSPACE", astro.workspace, "astro")
    assert found is not None
    assert found.typed == {"type": "http", "host": "h", "port": 443, "schema": "https", "password": CANARY}
    assert "cltoken1" in found.description


def test_an_extra_field_keeps_the_others(shown: Astro) -> None:
    """A secret in `extra` leaves password and other extras as they are, where the organization shows them."""
    found = shown.object("CONNECTION", type="http", password=OTHER, extra={"api_key": OTHER, "region": "eu"})
    place = shown.of_workspace("connection", field="extra.token")
    shown.sink.preflight(place)
    shown.sink.deliver(place, mint())
    assert found.typed["password"] == OTHER
    assert found.typed["extra"] == {"api_key": OTHER, "region": "eu", "token": CANARY}
    assert shown.sink.read_back(place).secret == Secret(CANARY)


@pytest.mark.parametrize("has_set_fields", [True, False])
def test_another_hidden_field_is_not_risked(astro: Astro, has_set_fields: bool) -> None:
    """A connection whose other secret cannot be read is refused: nobody knows whether an update would end it."""
    astro.sandbox.environment.has_set_fields = has_set_fields
    found = astro.object("CONNECTION", type="http", password=OTHER, extra={"region": "eu"})
    place = astro.of_workspace("connection", field="extra.token")
    with raising_without_secret(Permanent, match="has password, which the API hides"):
        astro.sink.preflight(place)
    with raising_without_secret(Permanent):
        astro.sink.deliver(place, mint())
    found.typed = {"type": "http", "extra": {"my_secret": OTHER}}
    with raising_without_secret(Permanent, match="an extra field, which the API hides"):
        astro.sink.preflight(astro.of_workspace("connection"))
    assert astro.posts() == 0


def test_a_variable_that_everybody_reads_is_refused(astro: Astro) -> None:
    """No secret goes into a variable that is not secret, unless the block asks for it."""
    astro.object("AIRFLOW_VARIABLE", value="x", isSecret=False)
    astro.sandbox.environment.set_variable(astro.deployment.id, "ASTRO_TOKEN", "x", is_secret=False)
    for place in (astro.of_workspace("airflow_variable"), astro.place()):
        with raising_without_secret(Permanent, match="not secret"):
            astro.sink.preflight(place)
        with raising_without_secret(Permanent, match="not secret"):
            astro.sink.deliver(place, mint())


def test_objects_of_a_deployment(astro: Astro) -> None:
    """An object may live in a Deployment, and one of the same key in its workspace is another."""
    theirs = astro.object("ENVIRONMENT_VARIABLE", key="ASTRO", value=OTHER, isSecret=True)
    block = {"kind": "environment_variable", "key": "ASTRO"}
    place = astro.place(**block)
    with pytest.raises(NotFound):
        astro.sink.read_back(place)
    astro.sink.deliver(place, mint())
    made = astro.sandbox.environment.find("ENVIRONMENT_VARIABLE", "DEPLOYMENT", astro.deployment.id, "ASTRO")
    assert made is not None
    assert (made.typed, theirs.typed["value"]) == ({"value": CANARY, "isSecret": True}, OTHER)


def test_two_create_the_same_object(astro: Astro) -> None:
    """Whoever comes second meets a conflict, reads again and updates."""
    sink, place = astro.build(), astro.of_workspace("airflow_variable")
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda s: s.deliver(place, mint()), [astro.sink, sink]))
    sink.close()
    assert [found.typed["value"] for found in astro.sandbox.environment.objects.values()] == [CANARY]


def test_an_organization_that_hides_secrets_is_asked_once(astro: Astro) -> None:
    """The refusal to show secrets is remembered for a while; an organization that shows them is believed."""
    astro.object("AIRFLOW_VARIABLE", value=OTHER, isSecret=True)
    place = astro.of_workspace("airflow_variable")
    for _ in range(3):
        assert astro.sink.read_back(place).secret is None
    lists = [row[3] for row in astro.sandbox.requests if row[2] == "objects_list"]
    assert lists == [400, 200, 200, 200]


# Whom it works for


def test_the_token_that_is_rotated_is_no_credential(astro: Astro) -> None:
    """Rotating the sink's own credential in place would end it: refused before anything happens."""
    place = astro.sink.resolve(
        sinks.checked(ASTRO.DeliveryOptions, {"kind": "deployment_variable", "key": "K", "deployment_id": "cldep"}),
        facts(token_id=astro.token_id),
    )
    with raising_without_secret(Permanent, match="give the sink an API token of its own"):
        astro.sink.preflight(place)
    assert astro.sandbox.requests == []


def test_a_credential_of_another_organization_is_refused(astro: Astro) -> None:
    """The organization of the place and that of the credential have to agree."""
    sink = astro.build(organization_id="clanother")
    place = astro.place(sink)
    with raising_without_secret(Permanent, match="another organization"):
        sink.preflight(place)
    sink.close()


def test_a_new_credential_is_followed(astro: Astro) -> None:
    """The credential is read at every call: replaced in its file, it works at once."""
    astro.sandbox.store.rotate(astro.token_id, astro.token_id)
    with raising_without_secret(CredentialRejected):
        astro.sink.preflight(astro.place())
    astro.use(astro.sandbox.store.secret_of(astro.token_id))
    astro.sink.preflight(astro.place())


def test_no_credential_no_call(astro: Astro) -> None:
    """A credential that is missing says so, with the place, and may come back."""
    (astro.folder / "credential").unlink()
    with raising_without_secret(Temporary, match="credential"):
        astro.sink.deliver(astro.place(), mint())
    assert astro.sandbox.requests == []


# What the API answers


def test_a_deployment_that_is_gone_is_no_empty_place(astro: Astro) -> None:
    """A Deployment that is not there is an error, not the word that nothing is in it."""
    place = astro.place(deployment_id="clgone")
    for call in (astro.sink.preflight, astro.sink.read_back, lambda p: astro.sink.deliver(p, mint())):
        with raising_without_secret(Permanent, match="no such Deployment") as caught:
            call(place)
        assert type(caught.value) is Permanent


def test_variables_that_are_not_shown_are_not_replaced(astro: Astro) -> None:
    """A Deployment that comes without its variables, or of an unknown type, is never updated."""
    shelf, target = DeploymentShelf(Recorder()), journalled(Target, astro.place())  # type: ignore[arg-type]
    required = dict.fromkeys(("name", "workspaceId", "executor", "isCicdEnforced", "isDagDeployEnabled"), "x")
    for content, words in (
        ({"type": "STANDARD", **required, "schedulerSize": "SMALL"}, "does not show the Deployment's environment"),
        ({"type": "STANDARD", **required}, "schedulerSize"),
        ({"type": "FUTURE"}, "does not know"),
        ({"type": "HYBRID", **required, "environmentVariables": [{}]}, "without a key"),
    ):
        assert words in shelf.problem(target, Seen(Document(content), exists=False))


@pytest.mark.parametrize(
    ("fault", "times", "arrives"),
    [
        (Fault.THROTTLE_SECONDS, 2, True),
        (Fault.THROTTLE_BARE, 2, True),
        (Fault.ERROR_500, 1, True),
        (Fault.ERROR_503_TEXT, 1, True),
        (Fault.ERROR_504_HTML, 1, True),
        (Fault.HTML_200, 1, True),
        (Fault.RESET_BEFORE, 1, True),
        (Fault.RESET_AFTER, 1, True),
        (Fault.ERROR_502_AFTER, 1, True),
        (Fault.TRUNCATED, 1, True),
        (Fault.INVALID_JSON, 1, True),
        (Fault.HANG_BEFORE, 1, True),
        (Fault.HANG_AFTER, 1, True),
        (Fault.THROTTLE_BARE, 4, False),
        (Fault.ERROR_500, 4, False),
        (Fault.RESET_AFTER, 4, True),
    ],
)
@pytest.mark.parametrize("kind", ["deployment_variable", "airflow_variable"])
def test_a_write_that_fails_is_made_anew(astro: Astro, kind: str, fault: Fault, times: int, arrives: bool) -> None:
    """After a failed or lost write the place is read again and written again, a few times; neighbours survive."""
    if kind == "deployment_variable":
        place, operation = astro.place(secret=False, key="SHOWN"), "deployment_update"
    else:
        found = astro.object("AIRFLOW_VARIABLE", value=OTHER, isSecret=False)
        place, operation = astro.of_workspace(kind, secret=False), "object_update"
    for _ in range(times):
        astro.sandbox.script(operation, fault)
    if arrives:
        receipt = astro.sink.deliver(place, mint())
        assert astro.sink.read_back(place).secret == Secret(CANARY)
        assert astro.sink.deliver(place, mint()) == receipt
    else:
        with raising_without_secret(Temporary, OutcomeUnknown):
            astro.sink.deliver(place, mint())
    assert astro.deployment.value("DB_PASSWORD") == "hunter-1"
    if kind != "deployment_variable":
        assert found.links


def test_a_hidden_write_that_may_have_happened_is_unknown_or_made_again(astro: Astro) -> None:
    """A hidden value whose write was not answered is written again until an answer says so."""
    astro.sandbox.script("deployment_update", Fault.RESET_AFTER)
    astro.sink.deliver(astro.place(), mint())
    assert (astro.deployment.value("ASTRO_TOKEN"), astro.posts()) == (CANARY, 2)
    for _ in range(4):
        astro.sandbox.script("deployment_update", Fault.RESET_AFTER)
    with raising_without_secret(OutcomeUnknown):
        astro.sink.deliver(astro.place(), mint(OTHER, 2))


@pytest.mark.parametrize("operation", ["deployment_get", "objects_list"])
@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.HTML_200, Fault.INVALID_JSON, Fault.ERROR_504_HTML])
def test_a_read_that_fails_is_never_empty(astro: Astro, operation: str, fault: Fault) -> None:
    """A place that could not be read is not taken for one that holds nothing, and nothing is written."""
    place = astro.place() if operation == "deployment_get" else astro.of_workspace("airflow_variable")
    for _ in range(40):
        astro.sandbox.script(operation, fault)
    for call in (astro.sink.read_back, lambda p: astro.sink.deliver(p, mint())):
        with raising_without_secret(Temporary):
            call(place)
    assert astro.posts() == 0


def test_the_right_to_write_is_needed(astro: Astro) -> None:
    """403 of the application is Forbidden, names the place, and repeats nothing."""
    with weak(astro):
        with raising_without_secret(Forbidden, match="WORKSPACE_OPERATOR") as caught:
            astro.sink.preflight(astro.place())
        with raising_without_secret(Forbidden):
            astro.sink.deliver(astro.place(), mint())
        with raising_without_secret(Forbidden):
            astro.sink.preflight(astro.of_workspace("airflow_variable"))
    assert astro.place().location in caught.value.message
    assert astro.posts() == 1


def test_the_limit_is_kept(tmp_path: Path) -> None:
    """With the documented rates a burst of deliveries meets no 429."""
    with Sandbox(SandboxConfig()) as sandbox:
        astro = Astro(tmp_path, sandbox)
        sink = AstroEnvironmentSink("astro", ASTRO.Options(**astro.options(rate={})), tmp_path)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: sink.deliver(astro.place(key=f"K{n}"), mint(f"{CANARY}{n}", n)), range(16)))
        assert {row[3] for row in sandbox.requests} == {200}
        sink.close()
        astro.sink.close()


def test_nobody_there(astro: Astro) -> None:
    """A refused connection certainly had no effect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sink = astro.build(base_url=f"http://127.0.0.1:{free.getsockname()[1]}")
        with raising_without_secret(Temporary, match="no connection"):
            sink.deliver(astro.place(), mint())
        sink.close()


def test_secrets_travel_in_the_body_of_the_write_only(astro: Astro, caplog: pytest.LogCaptureFixture) -> None:
    """The secret is in no log line, event, path or header; every call pins the shape of the API."""
    caplog.set_level(0)
    astro.sink.deliver(astro.place(), mint())
    astro.sink.deliver(astro.of_workspace("airflow_variable"), mint())
    assert "canary" not in caplog.text
    assert "canary" not in repr([astro.sandbox.requests, vars(astro.sink), astro.sink._calls.__dict__])


# What is found at load


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ({"kind": "connection", "key": "k"}, "exactly one of deployment_id and workspace_id"),
        ({"kind": "connection", "key": "k", "workspace_id": "w", "deployment_id": "d"}, "exactly one"),
        ({"kind": "deployment_variable", "key": "K", "workspace_id": "w"}, "lives in a Deployment"),
        ({"kind": "deployment_variable", "key": "1K", "deployment_id": "d"}, "begin with a digit"),
        ({"kind": "deployment_variable", "key": "A-B", "deployment_id": "d"}, "letters, digits and _"),
        ({"kind": "deployment_variable", "key": "{nam}", "deployment_id": "d"}, "did you mean"),
        ({"kind": "deployment_variable", "key": "K", "deployment_id": "{name}"}, "unknown placeholder"),
        ({"kind": "deployment_variable", "key": "K", "deployment_id": "a/b"}, "must be an id"),
        ({"kind": "airflow_variable", "key": "k", "workspace_id": "w", "field": "password"}, "need kind"),
        ({"kind": "connection", "key": "k", "workspace_id": "w", "field": "host"}, 'must be "password"'),
        ({"kind": "connection", "key": "k", "workspace_id": "w", "secret": False}, "always hides"),
        ({"kind": "connection", "key": "k", "workspace_id": "w", "connection": {"password": "x"}}, "password"),
        ({"kind": "variable", "key": "k"}, "deployment_variable"),
    ],
)
def test_mistakes_are_found_at_load(block: dict[str, object], words: str) -> None:
    """Every mistake in a deliver block is named with its fix, before anything is rotated."""
    with pytest.raises(ValueError, match=words.replace("{", "\\{")):
        sinks.checked(ASTRO.DeliveryOptions, block)


def test_bad_options_are_config_errors(astro: Astro) -> None:
    """A base URL, proxy or bundle that cannot be used is found when the sink is built, under its own name."""
    for option, value in (
        ("base_url", "http://example.com"),
        ("base_url", "https://api.astronomer.io/v1"),
        ("ca_bundle", "/no/such/file"),
    ):
        base = {"base_url": "https://api.example.com"} if option != "base_url" else {}
        with pytest.raises(ConfigError, match=f"sinks.astro.{option}"):
            astro.build(**base, **{option: value})
    with pytest.raises(ValueError, match="looks like a secret itself"):
        astro.build(credential=CANARY)
    with pytest.raises(ValueError, match="longer than zero"):
        astro.build(timeout="0s")


def test_the_environments_proxy_is_used_for_https_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTPS_PROXY and NO_PROXY hold for the API; loopback never goes through a proxy."""
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert environments_proxy("https://api.example.com") == ""
    monkeypatch.setenv("https_proxy", "http://proxy.example.com:3128")
    assert environments_proxy("https://api.example.com") == "http://proxy.example.com:3128"
    assert environments_proxy("http://127.0.0.1:1") == ""
    monkeypatch.setenv("no_proxy", "example.com")
    assert environments_proxy("https://api.example.com:443/") == ""


def test_a_place_of_another_version_is_refused(astro: Astro) -> None:
    """What cannot be understood is not written."""
    with pytest.raises(Permanent, match="not compatible"):
        astro.sink.preflight(Place("astro", "x", {"kind": "unheard of"}))
