"""The Azure Key Vault sink: the shared contract for each format, and what tags, challenges and soft deletion bring."""

import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import certifi
import pytest
from azure.core import exceptions
from azure.core.credentials import AccessToken
from pydantic import ValidationError

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
from rotator.secret import Secret
from rotator.sinks import _azure
from rotator.sinks._azure import KeyVault, Login, Vault, credential_of
from tests.servers.azure import AzureServer, certificate, said
from tests.servers.faulty import Fault, Reply
from tests.sinks.contract import CANARY, Harness, SinkContract, facts, mint, raising_without_secret

AZURE: Any = sinks.load("azure_key_vault")
BLOCKS: dict[str, dict[str, object]] = {
    "json": {"expires": True},
    "raw": {"format": "raw", "secret": "raw-{name}"},
}
NEIGHBOUR = '"theirs": 1.50, "long": 12345678901234567890'


class Static:
    """A credential that needs no login."""

    def __init__(self, token: str = "right") -> None:
        self.token = token
        self.scopes: list[tuple[str, ...]] = []

    def get_token(self, *scopes: str, **_: object) -> AccessToken:
        """See the SDK."""
        self.scopes.append(scopes)
        return AccessToken(self.token, int(time.time()) + 3600)


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the server's certificate and key."""
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def running(pem: Path) -> Iterator[AzureServer]:
    """Run one server for the file."""
    server = AzureServer(pem)
    yield server
    server.close()


@pytest.fixture
def server(running: AzureServer) -> AzureServer:
    """Empty it."""
    for kept in (running.secrets, running.deleted, running.denied, running.faults, running.requests):
        kept.clear()
    running.token = "right"
    return running


def connected(url: str, pem: Path | str, credential: Any = None, **more: Any) -> Any:
    """Return the sink as `build` makes it, but with a credential of its own and without a domain to verify."""
    vault = Vault(url, str(pem), timedelta(seconds=more.pop("timeout_s", 1.0)), **{"verify_challenge": False, **more})
    shared = credential or Static()
    return AZURE.AzureKeyVaultSink("vault", url, KeyVault("vault", vault, lambda: shared))


@pytest.fixture
def sink(server: AzureServer, pem: Path) -> Iterator[Any]:
    """Build one with a short timeout."""
    sink = connected(server.url, pem)
    yield sink
    sink.close()


def place_of(sink: Any, token: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(AZURE.DeliveryOptions, block), facts(name=token))


def name_of(place: Place) -> str:
    """Return the name of a place's secret."""
    return place.location.partition("#")[0].rpartition("/")[2]


class AzureHarness:
    """A consumer and a person, at the same vault."""

    kind = "azure_key_vault"
    retry_after = timedelta(seconds=7)
    lacks: Mapping[str, str] = {
        "edited_meanwhile": "Key Vault's set takes no precondition, so of two versions at once the later one counts"
    }

    def __init__(self, server: AzureServer, pem: Path, sink: Any, block: dict[str, object]) -> None:
        self.server, self.pem, self.sink, self.block = server, pem, sink, block
        is_raw = block.get("format") == "raw"
        self.sibling = {**block, **({"secret": "raw-{name}-too"} if is_raw else {"fields": {"other": "{secret}"}})}

    def read(self, place: Place) -> str | None:
        """Read the current version."""
        value = self.server.read(name_of(place))
        if value is None or self.block.get("format") == "raw":
            return value
        return json.loads(value).get(place.location.partition("#")[2])

    def write(self, place: Place, secret: str) -> None:
        """Set it by hand."""
        raw = self.block.get("format") == "raw"
        self.server.put(name_of(place), secret if raw else json.dumps({"token": secret}))

    def plant_neighbour(self, place: Place) -> None:
        """Put another secret beside it, a tag on it, and where it is an object, other keys into it."""
        name = name_of(place)
        self.server.put("neighbour", "theirs")
        before = self.server.read(name)
        if self.block.get("format") == "raw":
            self.server.put(name, before or "theirs", tags={"theirs": "kept"}, contentType="text/theirs")
        else:
            inside = (before or "{}").strip()[1:-1]
            self.server.put(name, "{" + NEIGHBOUR + (", " + inside if inside else "") + "}", tags={"theirs": "kept"})

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at all three."""
        row = self.server.secrets[name_of(place)][-1]
        inside = (
            row.get("contentType") == "text/theirs" if self.block.get("format") == "raw" else NEIGHBOUR in row["value"]
        )
        return inside and row["tags"]["theirs"] == "kept" and self.server.read("neighbour") == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take every right away."""
        self.server.denied |= {"GET", "PUT"}
        yield
        self.server.denied.clear()

    def rebuilt(self) -> Any:
        """Build another."""
        return connected(self.server.url, self.pem)

    def remove(self, place: Place) -> bool:
        """Delete and purge it: a name that soft deletion still holds takes no value."""
        del self.server.secrets[name_of(place)]
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection after each set."""
        return self._failing(Fault("PUT", applies=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection before each set."""
        return self._failing(Fault("PUT"))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call."""
        return self._failing(Fault(reply=said(429, "Throttled", **{"Retry-After": "7"})))

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call as to a credential without a role."""
        return self._failing(Fault(reply=said(403, "Forbidden", "ForbiddenByRbac")))

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Reset every connection; the port is kept, for the other tests of the file."""
        return self._failing(Fault())

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Fail what reads."""
        return self._failing(Fault("GET", reply=said(500, "InternalServerError")))

    def calls(self) -> int:
        """Count them."""
        return len(self.server.requests)

    @contextmanager
    def _failing(self, fault: Fault) -> Iterator[None]:
        self.server.faults.append(replace(fault, times=1000))
        yield
        self.server.faults.clear()


class TestAzureSink(SinkContract):
    """The shared contract, for each format."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, server: AzureServer, pem: Path, sink: Any) -> Harness:
        """Return one over the server."""
        return AzureHarness(server, pem, sink, BLOCKS[request.param])


# Options


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"secret": "a_b"}, "a-z, 0-9"),
        ({"secret": "Upper"}, "a-z, 0-9"),
        ({"secret": "{nam}"}, "did you mean"),
        ({"secret": "x" * 120 + "{name}"}, "too long"),
        ({"format": "raw", "fields": {"token": "{secret}"}}, "fields need format"),
    ],
)
def test_bad_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """A block that cannot work is told what to write."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(AZURE.DeliveryOptions, block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "Field required"),
        ({"vault_url": "http://localhost:1"}, "must be https"),
        ({"vault_url": "https://acme.vault.azure.net/secrets"}, "no path"),
        ({"vault_url": "https://v", "client_id": "c"}, "need each other"),
        ({"vault_url": "https://v", "client_id": "c", "tenant_id": "t", "client_secret": "canary"}, "not a secret ref"),
        (
            {
                "vault_url": "https://v",
                "client_id": "c",
                "tenant_id": "t",
                "client_secret": "env:X",
                "managed_identity_client_id": "m",
            },
            "either",
        ),
    ],
)
def test_bad_options_are_refused_at_load(options: dict[str, object], message: str) -> None:
    """What cannot work is found before anything is contacted, and never repeated."""
    with pytest.raises(ValidationError, match=message) as caught:
        AZURE.Options(**options)
    assert "canary" not in str(caught.value)


def test_names_take_no_notice_of_case(sink: Any) -> None:
    """Two tokens whose names differ in case only get secrets that Key Vault tells apart."""
    names = [name_of(place_of(sink, token)) for token in ("svc", "SVC", "Svc", "n" * 300)]
    assert len({name.lower() for name in names}) == 4
    assert all(name == name.lower() and len(name) <= 127 for name in names)


# Versions and tags


def test_the_value_goes_out_only_after_the_challenge(server: AzureServer, sink: Any) -> None:
    """The first call of a client carries no body, so nobody who is not the vault sees a value."""
    place = place_of(sink)
    sink.deliver(place, mint())
    assert sink.read_back(place).secret == Secret(CANARY)
    unauthorized = [request for request in server.requests if "authorization" not in request.headers]
    assert not any(request.body for request in unauthorized)
    assert "canary" not in repr([(r.path, r.query, r.headers) for r in server.requests])


def test_a_challenge_of_another_domain_is_refused(server: AzureServer, pem: Path) -> None:
    """By default a token is only shown to the domain that it is asked for: a wrong vault_url gets none."""
    credential = Static()
    sink = connected(server.url, pem, credential, verify_challenge=True)
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Temporary, Permanent):
            call(place_of(sink))
    assert not credential.scopes
    assert not any("authorization" in request.headers for request in server.requests)
    sink.close()


def test_a_server_that_is_not_trusted_sees_nothing(server: AzureServer) -> None:
    """An unknown certificate ends the call before anything is sent."""
    sink = connected(server.url, certifi.where())
    with raising_without_secret(Permanent, match="ca_bundle"):
        sink.deliver(place_of(sink), mint())
    assert not server.requests
    sink.close()


def test_each_version_says_whose_it_is(server: AzureServer, sink: Any) -> None:
    """Ids and times stand in tags beside those of others, never the value; a version expires where wanted."""
    place = place_of(sink, expires=True)
    server.put(name_of(place), "{}", tags={"theirs": "kept"})
    sink.deliver(place, mint())
    row = server.secrets[name_of(place)][-1]
    assert row["tags"]["theirs"] == "kept"
    assert {value for key, value in row["tags"].items() if key.endswith("-mint")} == {"mint-1"}
    assert "canary" not in repr(row["tags"])
    assert row["contentType"] == "application/json"
    end_at = mint().end_at
    assert end_at
    assert row["exp"] == int(end_at.timestamp())
    assert sink.read_back(place).mint_id == "mint-1"
    place = place_of(sink, "other")
    sink.deliver(place, mint())
    assert server.secrets[name_of(place)][-1]["exp"] is None


def test_tags_of_others_are_never_pushed_out(server: AzureServer, sink: Any) -> None:
    """Key Vault keeps fifteen: ours take what room is left, the mint first."""
    for count in (14, 15):
        place = place_of(sink, f"svc{count}")
        tags = {f"t{n}": "x" for n in range(count)}
        server.put(name_of(place), "{}", tags=tags)
        sink.deliver(place, mint())
        row = server.secrets[name_of(place)][-1]
        assert len(row["tags"]) == 15
        assert tags.items() <= row["tags"].items()
        assert sink.read_back(place).mint_id == ("mint-1" if count == 14 else "")


def test_threads_of_one_sink_never_drop_a_key(server: AzureServer, sink: Any) -> None:
    """Within one process deliveries into one secret take turns."""

    def deliver(number: int) -> None:
        sink.deliver(place_of(sink, secret="shared", fields={f"k{number}": "{secret}"}), mint(f"{CANARY}{number}"))

    server.put("shared", '{"theirs": 1.50}')
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(deliver, range(6)))
    assert len(json.loads(server.read("shared") or "")) == 7
    assert '"theirs": 1.50' in (server.read("shared") or "")


def test_a_changed_value_under_the_same_mint_is_written_again(server: AzureServer, sink: Any) -> None:
    """The tags alone prove nothing: the value counts."""
    place = place_of(sink)
    sink.deliver(place, mint())
    server.put(name_of(place), '{"token": "changed"}', tags=server.secrets[name_of(place)][-1]["tags"])
    sink.deliver(place, mint())
    assert len(server.secrets[name_of(place)]) == 3
    assert sink.read_back(place).secret == Secret(CANARY)


@pytest.mark.parametrize("applies", [False, True])
@pytest.mark.parametrize("hangs", [False, True])
def test_a_set_without_an_answer_is_open_and_heals(server: AzureServer, sink: Any, applies: bool, hangs: bool) -> None:
    """It is sent once; when it is delivered again, a version that arrived unseen is found by its tags and value."""
    place = place_of(sink)
    sink.preflight(place)
    server.faults.append(Fault("PUT", applies=applies, hangs=hangs))
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, mint())
    sink.deliver(place, mint())
    assert len(server.secrets[name_of(place)]) == 1
    assert sink.read_back(place).mint_id == "mint-1"


def test_a_deleted_secret_is_told_apart(server: AzureServer, sink: Any) -> None:
    """A name that soft deletion still holds is found by the preflight, and told with the fix at the write."""
    place = place_of(sink)
    server.deleted.add(name_of(place))
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Permanent, match="recover or purge"):
            call(place)
    server.faults.append(Fault("GET", "deletedsecrets", said(403, "Forbidden")))
    sink.preflight(place)  # who may not look at deleted secrets finds out at the write
    server.faults.append(Fault("GET", "deletedsecrets", said(500)))
    with raising_without_secret(Temporary):
        sink.preflight(place)


def test_a_disabled_version_is_never_taken_for_empty(server: AzureServer, sink: Any) -> None:
    """Keys in it would be lost, so nothing is written; a raw value has none to lose."""
    for block, refused in (({}, True), ({"format": "raw", "secret": "raw"}, False)):
        place = place_of(sink, **block)
        server.put(name_of(place), '{"theirs": 1}', enabled=False)
        with raising_without_secret(Permanent, match="disabled") as caught:
            sink.read_back(place)
        assert not isinstance(caught.value, NotFound)
        if refused:
            with raising_without_secret(Permanent, match="disabled"):
                sink.deliver(place, mint())
        else:
            sink.deliver(place, mint())
        assert len(server.secrets[name_of(place)]) == (1 if refused else 2)


@pytest.mark.parametrize(("block", "content"), [({}, "plain"), ({}, "[1]"), ({"format": "raw"}, '{"theirs": 1}')])
def test_content_that_would_be_lost_is_refused(
    server: AzureServer, sink: Any, block: dict[str, object], content: str
) -> None:
    """What is no JSON object is never replaced by one, nor an object by a raw value."""
    place = place_of(sink, **block)
    server.put(name_of(place), content)
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Permanent, match="lost|replace whole"):
            call(place)
    assert len(server.secrets[name_of(place)]) == 1


def test_a_value_beyond_azures_size_is_refused(server: AzureServer, sink: Any) -> None:
    """It is refused before it leaves."""
    with raising_without_secret(Permanent, match="25 KB"):
        sink.deliver(place_of(sink), mint(CANARY * 1000))
    assert not server.calls("PUT")


def test_a_place_without_room_is_refused_before_the_rotation(server: AzureServer, sink: Any) -> None:
    """Neighbours that leave a new value no room are found by the preflight, while the old token still lives."""
    place = place_of(sink)
    for filled, fits in ((25 * 1024 - 6000, True), (25 * 1024 - 4000, False), (25 * 1024 - 20, False)):
        server.put(name_of(place), json.dumps({"theirs": "x" * filled}))
        if fits:
            sink.preflight(place)
        else:
            with raising_without_secret(Permanent, match="no room is left"):
                sink.preflight(place)
    assert not server.calls("PUT")


def test_preflight_and_reading_write_nothing(server: AzureServer, sink: Any) -> None:
    """Both only ask; a missing secret or key is Key Vault's own word."""
    place = place_of(sink)
    sink.preflight(place)
    with pytest.raises(NotFound):
        sink.read_back(place)
    server.put(name_of(place), '{"theirs": 1}')
    sink.preflight(place)
    with pytest.raises(NotFound, match="that key"):
        sink.read_back(place)
    assert {request.method for request in server.requests} == {"GET"}


# Failures

FAILURES: list[tuple[Reply, type[RotatorError], type[RotatorError]]] = [
    (Reply(302, b"", {"Location": "https://127.0.0.1:1/"}), Permanent, Permanent),
    (said(400, "BadParameter"), Permanent, Permanent),
    (said(401, "Unauthorized"), CredentialRejected, CredentialRejected),
    (said(403, "Forbidden", "ForbiddenByFirewall"), Forbidden, Forbidden),
    (Reply(404, b"<html>theirs</html>"), Permanent, Permanent),
    (said(405), Permanent, Permanent),
    (said(409, "Conflict", "ObjectIsBeingDeleted"), Temporary, Temporary),
    (said(409, "Conflict", "ObjectIsDeletedButRecoverable"), Permanent, Permanent),
    (said(413), Permanent, Permanent),
    (said(429, "Throttled", **{"retry-after": "7"}), Throttled, Throttled),
    (said(500), Temporary, OutcomeUnknown),
    (Reply(502, b"<html>theirs</html>"), Temporary, OutcomeUnknown),
    (said(503), Temporary, OutcomeUnknown),
    (Reply(200, b"<html>theirs</html>"), Temporary, OutcomeUnknown),
    (Reply(200, b"[]"), Temporary, OutcomeUnknown),
    (Reply(200, b"\xff"), Temporary, OutcomeUnknown),
]


@pytest.mark.parametrize(("reply", "at_read", "at_write"), FAILURES, ids=lambda v: getattr(v, "status", ""))
def test_every_answer_means_what_the_table_says(
    server: AzureServer, sink: Any, reply: Reply, at_read: type[RotatorError], at_write: type[RotatorError]
) -> None:
    """Before the set nothing has happened; at the set only a failing server or a strange answer leaves it open."""
    place = place_of(sink)
    server.put(name_of(place), "{}")
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
        server.faults[:] = [Fault("GET", "/secrets/", reply, times=3)]
        with raising_without_secret(at_read) as caught:
            call(place)
        assert type(caught.value) is at_read
        assert place.location in caught.value.message
        assert "theirs" not in caught.value.message
    server.faults[:] = [Fault("PUT", "", reply, times=3)]
    with raising_without_secret(at_write) as caught:
        sink.deliver(place, mint())
    assert type(caught.value) is at_write
    if isinstance(caught.value, Throttled):
        assert caught.value.retry_after == timedelta(seconds=7)
    assert len([request for request in server.calls("PUT") if request.body]) == 1, "a set was repeated blindly"


def test_the_table_of_statuses_is_tested_whole() -> None:
    """No row stands there that no test sends."""
    assert set(_azure.STATUSES) - {reply.status for reply, *_ in FAILURES} <= {301, 307, 308}


def test_every_exception_of_the_sdk_is_translated() -> None:
    """Whatever azure-core may raise has a row of its own, and whatever azure-identity may its parent's."""
    import azure.identity

    faults = _azure.faults_of_sdk("vault")
    kinds = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    kinds += [kind for kind in vars(azure.identity).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    for kind in kinds:
        assert any(base in faults for base in kind.__mro__), kind
    assert not [name for name in _azure.FAULTS if not hasattr(exceptions, name)]


def test_a_dead_token_is_told(server: AzureServer, sink: Any) -> None:
    """A token that the vault no longer takes is the credential's fault, not the place's."""
    place = place_of(sink)
    sink.preflight(place)
    server.token = "next"
    with raising_without_secret(CredentialRejected):
        sink.preflight(place)


def test_nobody_listening_is_temporary(pem: Path) -> None:
    """A refused connection certainly had no effect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        sink = connected(f"https://127.0.0.1:{free.getsockname()[1]}", pem)
        for call in (sink.read_back, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Temporary, match="no connection"):
                call(place_of(sink))
        sink.close()


@pytest.mark.parametrize("hangs", [False, True])
def test_a_read_without_an_answer_is_temporary(server: AzureServer, sink: Any, hangs: bool) -> None:
    """Nothing has happened yet."""
    server.faults.append(Fault("GET", hangs=hangs))
    with raising_without_secret(Temporary):
        sink.deliver(place_of(sink), mint())
    assert not server.calls("PUT")


def test_the_clients_secret_is_read_at_every_login(server: AzureServer, pem: Path) -> None:
    """A client's secret that cannot be read is the credential's fault and shows no value."""

    def missing() -> Secret:
        raise ConfigError.of("", "the secret reference env:X is not set")

    login = Login("tenant", "client", missing)
    sink = connected(server.url, pem, credential_of("vault", login, Vault(server.url, str(pem), timedelta(seconds=1))))
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(CredentialRejected, match="env:X is not set"):
            call(place_of(sink))
    sink.close()


def test_a_renewed_credential_is_used_at_the_next_login(server: AzureServer, pem: Path, tmp_path: Path) -> None:
    """Once the vault takes the old one no more, what is mounted now is read, without a restart."""
    path = tmp_path / "credential"
    path.write_text("right")
    vault = Vault(server.url, str(pem), timedelta(seconds=1), verify_challenge=False)
    azure = KeyVault("vault", vault, lambda: Static(path.read_text()))
    sink = AZURE.AzureKeyVaultSink("vault", server.url, azure)
    place = place_of(sink)
    sink.deliver(place, mint())
    path.write_text("renewed")
    assert sink.read_back(place).secret == Secret(CANARY)
    server.token = "renewed"
    with raising_without_secret(CredentialRejected):
        sink.read_back(place)
    assert sink.read_back(place).secret == Secret(CANARY)
    sink.close()


def test_every_way_to_log_in_is_made_without_contact(tmp_path: Path) -> None:
    """`build` contacts nothing, and each login is the SDK's own."""
    vault = Vault("https://acme.vault.azure.net", certifi.where(), timedelta(seconds=1))
    kinds = [
        type(credential_of("vault", login, vault)).__name__
        for login in (Login(), Login(managed_identity="m"), Login("t", "c", lambda: Secret("x")))
    ]
    assert kinds == ["DefaultAzureCredential", "ManagedIdentityCredential", "_Rereading"]
    options = AZURE.Options(
        vault_url="https://acme.vault.azure.net", tenant_id="t", client_id="c", client_secret="env:X"
    )
    sink = AZURE.build("vault", options, tmp_path)
    assert place_of(sink).location == "acme.vault.azure.net/secrets/astro-svc-airflow#token"
    sink.close()


def test_without_the_sdk_the_fix_is_named() -> None:
    """Importing, building and resolving work without the extra; whatever needs it says what to install."""
    script = """
        import sys
        from pathlib import Path
        sys.modules["azure.keyvault.secrets"] = None
        from rotator import sinks
        from rotator.errors import ConfigError
        from tests.sinks.contract import facts, mint
        module = sinks.load("azure_key_vault")
        sink = module.build("vault", module.Options(vault_url="https://acme.vault.azure.net"), Path("/"))
        place = sink.resolve(sinks.checked(module.DeliveryOptions, {}), facts())
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            try:
                call(place)
            except ConfigError as error:
                print(error.message)
        sink.close()
    """
    assert ran(script).count("sinks.vault: needs Azure's SDK; run: pip install 'rotator[azure]'") == 3


def test_importing_loads_no_sdk() -> None:
    """`rotator check` offline stays cheap."""
    assert ran("import sys, rotator.sinks.azure_key_vault; print('azure.core' in sys.modules)") == "False\n"


def ran(script: str) -> str:
    """Return what another Python prints."""
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": "."},
    )
    return run.stdout


def test_a_place_of_another_version_is_refused(sink: Any) -> None:
    """A journalled place that cannot be understood is not guessed at."""
    with raising_without_secret(Permanent, match="not compatible"):
        sink.read_back(Place("vault", "v/secrets/x", {"name": 1}))
