"""The GitHub sink: the shared contract for each kind of secret, and what only GitHub does."""

import os
import re
import socket
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
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
from rotator.sinks import _github
from tests.servers.faulty import Fault, Reply
from tests.servers.github import GitHubServer, said
from tests.sinks.contract import CANARY, OTHER, Harness, SinkContract, facts, mint, raising_without_secret

GITHUB: Any = sinks.load("github_actions_secret")
REPOSITORY = {"owner": "Acme", "repository": "dags"}
BLOCKS: dict[str, tuple[dict[str, object], str]] = {
    "repository": (REPOSITORY, "/repos/Acme/dags/actions"),
    "environment": ({**REPOSITORY, "environment": "prod/eu"}, "/repos/Acme/dags/environments/prod%2Feu"),
    "organization": ({"organization": "acme"}, "/orgs/acme/actions"),
}


@pytest.fixture
def server() -> Iterator[GitHubServer]:
    """Run one that knows all three folders."""
    server = GitHubServer()
    for _, folder in BLOCKS.values():
        server.add(folder)
    yield server
    server.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    """Return the file with the credential."""
    path = tmp_path / "token"
    path.write_text("ghp_right\n")
    return path


def built(server: GitHubServer, token: Path) -> Any:
    """Build one with a short timeout."""
    options = GITHUB.Options(api_url=server.url, credential=f"file:{token}", timeout="1s")
    return GITHUB.build("actions", options, Path("/"))


@pytest.fixture
def sink(server: GitHubServer, token: Path) -> Iterator[Any]:
    """Build one with a short timeout."""
    sink = built(server, token)
    yield sink
    sink.close()


def place_of(sink: Any, token: str = "svc-airflow", kind: str = "repository", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(GITHUB.DeliveryOptions, {**BLOCKS[kind][0], **block}), facts(name=token))


class GitHubHarness:
    """A workflow that reads, and a person at the web page."""

    kind = "github_actions_secret"
    is_readable = False
    retry_after = timedelta(seconds=7)
    neighbour = "theirs"

    def __init__(self, server: GitHubServer, sink: Any, token: Path, block: dict[str, object], folder: str) -> None:
        self.server, self.sink, self.block, self.folder = server, sink, block, folder
        self._token = token
        self.sibling = {**block, "name": "SECOND_{name}"}

    def read(self, place: Place) -> str | None:
        """Read it as a workflow does."""
        row = self.server.folders[self.folder].get(place.location.partition("#")[2])
        return row and row["value"]

    def write(self, place: Place, secret: str) -> None:
        """Set it by hand."""
        access = {"visibility": "all"} if self.folder.startswith("/orgs") else {}
        self.server.put(self.folder, place.location.partition("#")[2], secret, **access)

    def plant_neighbour(self, place: Place) -> None:
        """Set another secret."""
        self.server.put(self.folder, "NEIGHBOUR", self.neighbour, visibility="all")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at it."""
        row = self.server.folders[self.folder]["NEIGHBOUR"]
        return (row["value"], row["visibility"]) == (self.neighbour, "all")

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take the right away, which GitHub shows as if nothing were there."""
        aside = self.server.folders.pop(self.folder)
        yield
        self.server.folders[self.folder] = aside

    def rebuilt(self) -> Any:
        """Build another."""
        return built(self.server, self._token)

    def remove(self, place: Place) -> bool:
        """Delete it at the web page."""
        del self.server.folders[self.folder][place.location.partition("#")[2]]
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection after each write."""
        return self._failing(Fault("PUT", applies=True))

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Reset the connection before each write."""
        return self._failing(Fault("PUT"))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call as the secondary rate limit does."""
        return self._failing(Fault(reply=said(429, "theirs", **{"Retry-After": "7"})))

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """Refuse every call as to a token without the permission."""
        return self._failing(Fault(reply=said(403, "Resource not accessible by personal access token")))

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Reset every connection."""
        return self._failing(Fault())

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Fail what reads, also the key to seal with."""
        return self._failing(Fault("GET", reply=said(502, "theirs")))

    @contextmanager
    def edited_meanwhile(self, place: Place) -> Iterator[None]:
        """Set the neighbour anew once the key to seal with was fetched."""

        def edit() -> None:
            self.neighbour = "edited"
            self.plant_neighbour(place)

        self.server.before_put.append(edit)
        yield
        assert not self.server.before_put

    def calls(self) -> int:
        """Count them."""
        return len(self.server.requests)

    @contextmanager
    def _failing(self, fault: Fault) -> Iterator[None]:
        self.server.faults.append(replace(fault, times=1000))
        yield
        self.server.faults.clear()


class TestGitHubSink(SinkContract):
    """The shared contract, for each kind."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, server: GitHubServer, sink: Any, token: Path) -> Harness:
        """Return one over the server."""
        return GitHubHarness(server, sink, token, *BLOCKS[request.param])


# Options


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({}, "either owner and repository"),
        ({"owner": "acme"}, "names such as"),
        ({**REPOSITORY, "organization": "acme"}, "either owner and repository"),
        ({"owner": "a/b", "repository": "c"}, "names such as"),
        ({"owner": "acme", "repository": ".."}, "names such as"),
        ({"owner": "acme", "repository": "a/../b"}, "names such as"),
        ({"organization": "a/b"}, "a name such as"),
        ({**REPOSITORY, "environment": "a\nb"}, "can be seen"),
        ({**REPOSITORY, "visibility": "all"}, "of an organization"),
        ({"organization": "acme", "visibility": "selected"}, "need each other"),
        ({"organization": "acme", "selected_repository_ids": [1]}, "need each other"),
        ({**REPOSITORY, "name": "astro_{name}"}, "A-Z"),
        ({**REPOSITORY, "name": "GITHUB_{name}"}, "GITHUB_"),
        ({**REPOSITORY, "name": "1{name}"}, "digit"),
        ({**REPOSITORY, "name": "{nam}"}, "did you mean"),
    ],
)
def test_bad_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """A block that names no place, or two, is told what to write."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(GITHUB.DeliveryOptions, block)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"credential": "ghp_canary"}, "not a secret reference"),
        ({"credential": ""}, "at least 1"),
        ({"credential": "env:T", "api_url": "http://api.github.com"}, "must be https"),
        ({"credential": "env:T", "api_url": "https://u:canary@h"}, "must not hold a user"),
        ({"credential": "env:T", "api_url": "https://h/?x=canary"}, "must not hold a user"),
        ({"credential": "env:T", "api_url": "api.github.com"}, "must be a URL"),
        ({"credential": "env:T", "timeout": "1h"}, "at most 5m"),
    ],
)
def test_bad_options_are_refused_at_load(options: dict[str, object], message: str) -> None:
    """What cannot work is found before anything is contacted, and never repeated."""
    with pytest.raises(ValidationError, match=message) as caught:
        GITHUB.Options(**options)
    assert "canary" not in str(caught.value)


def test_a_bad_ca_bundle_is_named(tmp_path: Path) -> None:
    """A file that holds no certificates is found when the sink is built."""
    (tmp_path / "ca.pem").write_text("none")
    with pytest.raises(ConfigError, match=r"sinks\.actions\.ca_bundle"):
        GITHUB.build("actions", GITHUB.Options(credential="env:T", ca_bundle="ca.pem"), tmp_path)


def test_names_of_secrets_follow_githubs_rule(sink: Any) -> None:
    """What comes out is upper case, and neither a digit nor GITHUB_ begins it."""
    for name in ("svc-airflow", "🔑", "a" * 300, "Ünï"):
        assert re.fullmatch(r"ASTRO_[A-Z0-9_]{1,249}", place_of(sink, name).location.partition("#")[2])
    assert place_of(sink, "SVC_1").location == "acme/dags#ASTRO_SVC_1"
    for name in ("1X", "GITHUB_TOKEN"):
        with pytest.raises(Permanent, match="fixed prefix"):
            place_of(sink, name, name="{name}")


# What is sent


def test_a_value_leaves_in_a_sealed_box_only(server: GitHubServer, sink: Any) -> None:
    """No request shows the secret in body, path or header."""
    place = place_of(sink)
    sink.preflight(place)
    sink.deliver(place, mint())
    sink.read_back(place)
    assert server.folders["/repos/Acme/dags/actions"]["ASTRO_" + place.location.partition("#ASTRO_")[2]]["value"]
    assert "canary" not in repr(server.requests)
    assert server.requests[-1].headers["x-github-api-version"] == "2022-11-28"


def test_preflight_and_reading_write_nothing(server: GitHubServer, sink: Any) -> None:
    """Both only ask."""
    place = place_of(sink, kind="organization")
    sink.preflight(place)
    with pytest.raises(NotFound):
        sink.read_back(place)
    assert {request.method for request in server.requests} == {"GET"}


@pytest.mark.parametrize(
    "access",
    [
        {"visibility": "all"},
        {"visibility": "private"},
        {"visibility": "selected", "selected_repository_ids": list(range(1, 251))},
        {"visibility": "selected", "selected_repository_ids": []},
    ],
)
def test_who_sees_an_organizations_secret_is_kept(server: GitHubServer, sink: Any, access: dict[str, Any]) -> None:
    """A secret that exists keeps its visibility and every page of its repositories, whatever the block says."""
    place = place_of(sink, kind="organization", visibility="selected", selected_repository_ids=[9])
    name = place.location.partition("#")[2]
    server.put("/orgs/acme/actions", name, OTHER, **access)
    sink.deliver(place, mint())
    row = server.folders["/orgs/acme/actions"][name]
    assert {key: row[key] for key in access} == access
    assert row["value"] == CANARY


def test_a_new_secret_of_an_organization_is_seen_as_configured(server: GitHubServer, sink: Any) -> None:
    """Only a secret that is new gets the block's visibility; the default is the private repositories."""
    for name, block in (
        ("A", {"visibility": "selected", "selected_repository_ids": [7, 8]}),
        ("B", {}),
    ):
        sink.deliver(place_of(sink, name, "organization", **block), mint())
    rows = server.folders["/orgs/acme/actions"]
    assert (rows["ASTRO_A"]["visibility"], rows["ASTRO_A"]["selected_repository_ids"]) == ("selected", [7, 8])
    assert rows["ASTRO_B"]["visibility"] == "private"


def test_a_list_of_repositories_that_is_cut_stops_the_write(server: GitHubServer, sink: Any) -> None:
    """Repositories that could not be read are never taken away by a write."""
    place = place_of(sink, kind="organization")
    name = place.location.partition("#")[2]
    server.put("/orgs/acme/actions", name, OTHER, visibility="selected", selected_repository_ids=[1, 2])
    server.faults.append(Fault("GET", "/repositories", Reply(200, {"total_count": 2, "repositories": []})))
    with raising_without_secret(Permanent, match="could not be read whole"):
        sink.deliver(place, mint())
    assert not server.calls("PUT")


def test_a_key_that_was_replaced_is_fetched_anew(server: GitHubServer, sink: Any) -> None:
    """A 422 may mean that the key changed between fetch and write: the value is sealed again, once."""
    place = place_of(sink)
    server.faults.append(Fault("PUT", "", said(422, "Bad request - key_id")))
    sink.deliver(place, mint())
    assert (len(server.calls("PUT")), len(server.calls("GET", "public-key"))) == (2, 2)
    server.faults.append(Fault("PUT", "", said(422, "Bad request"), times=9))
    with raising_without_secret(Permanent, match=r"refused \(422\)"):
        sink.deliver(place, mint())
    assert len(server.calls("PUT")) == 4


@pytest.mark.parametrize("status", [200, 202, 203, 206])
@pytest.mark.parametrize("body", [b"<html>theirs</html>", b"", b"{}"])
def test_only_githubs_own_success_is_a_delivery(server: GitHubServer, sink: Any, status: int, body: bytes) -> None:
    """A put is answered with 201 or 204: any other success is that of a box on the way, and nothing was delivered."""
    place = place_of(sink)
    folder, name = BLOCKS["repository"][1], place.location.partition("#")[2]
    server.put(folder, name, OTHER)
    server.faults.append(Fault("PUT", reply=Reply(status, body)))
    with raising_without_secret(Permanent, OutcomeUnknown, match="check api_url"):
        sink.deliver(place, mint())
    assert server.folders[folder][name]["value"] == OTHER
    sink.deliver(place, mint())
    assert server.folders[folder][name]["value"] == CANARY


def test_keys_are_not_kept_between_deliveries(server: GitHubServer, sink: Any) -> None:
    """GitHub may replace its key at any time, and nobody notices."""
    place = place_of(sink)
    for number in range(3):
        server.rotate_key()
        sink.deliver(place, mint(f"{CANARY}{number}", number))
    assert len(server.calls("PUT")) == 3


def test_the_credential_is_read_at_every_call(server: GitHubServer, sink: Any, token: Path) -> None:
    """A token that is replaced in its file is followed without a restart; a dead one is told."""
    place = place_of(sink)
    sink.preflight(place)
    server.token = "ghp_next"
    with raising_without_secret(CredentialRejected, match="401"):
        sink.preflight(place)
    token.write_text("ghp_next")
    sink.preflight(place)
    token.write_text("canary of a\nsecond line")
    with raising_without_secret(CredentialRejected, match="characters that no token has"):
        sink.preflight(place)
    token.unlink()
    with raising_without_secret(ConfigError, match="does not exist"):
        sink.preflight(place)


@pytest.mark.parametrize(
    ("scopes", "kind", "message"),
    [
        ("gist, read:org", "repository", "scope repo"),
        ("repo, read:org", "organization", "scope admin:org"),
        ("repo, workflow", "repository", ""),
        ("admin:org", "organization", ""),
        ("", "organization", ""),
    ],
)
def test_scopes_of_classic_tokens_are_checked(
    server: GitHubServer, sink: Any, scopes: str, kind: str, message: str
) -> None:
    """GitHub tells the scopes of a classic token, so one that cannot write is refused before a rotation."""
    server.scopes = scopes
    place = place_of(sink, kind=kind)
    with pytest.raises(Forbidden, match=message) if message else nullcontext():
        sink.preflight(place)


def test_a_value_beyond_githubs_size_is_refused(server: GitHubServer, sink: Any) -> None:
    """It is refused before it leaves."""
    with raising_without_secret(Permanent, match="48 KB"):
        sink.deliver(place_of(sink), mint(CANARY * 2000))
    assert not server.requests


# Failures

LIMIT = {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1772604120", "date": "Wed, 04 Mar 2026 06:00:00 GMT"}
FAILURES: list[tuple[Reply, type[RotatorError], type[RotatorError], str]] = [
    (said(301, "Moved Permanently", location="http://elsewhere/"), Permanent, Permanent, "renamed or moved"),
    (said(307, "Temporary Redirect", location="http://elsewhere/"), Permanent, Permanent, "renamed or moved"),
    (said(400, "Problems parsing JSON"), Permanent, Permanent, "malformed"),
    (said(401, "Bad credentials"), CredentialRejected, CredentialRejected, "not valid"),
    (said(403, "Resource not accessible by integration"), Forbidden, Forbidden, "may not do this"),
    (said(403, "SAML", **{"x-github-sso": "required; url=https://theirs"}), Forbidden, Forbidden, "single sign-on"),
    (said(403, "API rate limit exceeded", **LIMIT), Throttled, Throttled, "too many requests"),
    (said(403, "You have exceeded a secondary rate limit"), Throttled, Throttled, "too many requests"),
    (said(429, "", **{"retry-after": "7"}), Throttled, Throttled, "too many requests"),
    (said(429, ""), Throttled, Throttled, "too many requests"),
    (Reply(404, b"<html>proxy theirs</html>"), Permanent, Permanent, "may not see it"),
    (said(408, ""), Temporary, Temporary, "in time"),
    (said(409, ""), Temporary, Temporary, "conflict"),
    (said(410, ""), Permanent, Permanent, "gone"),
    (said(413, ""), Permanent, Permanent, "too large"),
    (said(418, "theirs"), Permanent, Permanent, "check api_url"),
    (said(451, ""), Permanent, Permanent, "blocked"),
    (said(500, "theirs"), Temporary, OutcomeUnknown, "GitHub failed"),
    (Reply(502, b"<html>theirs</html>"), Temporary, OutcomeUnknown, "GitHub failed"),
    (said(503, ""), Temporary, OutcomeUnknown, "GitHub failed"),
]


@pytest.mark.parametrize(("reply", "at_read", "at_write", "message"), FAILURES, ids=lambda v: getattr(v, "status", ""))
def test_every_answer_means_what_the_table_says(
    server: GitHubServer,
    sink: Any,
    reply: Reply,
    at_read: type[RotatorError],
    at_write: type[RotatorError],
    message: str,
) -> None:
    """Before the write nothing has happened; at the write only a server's failure leaves it open."""
    place = place_of(sink)
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        server.faults.append(Fault("GET", "public-key", reply))
        with raising_without_secret(at_read, match=message) as caught:
            call(place)
        assert type(caught.value) is at_read
        assert "theirs" not in caught.value.message
        assert place.location in caught.value.message
    server.faults.append(Fault("PUT", "", reply))
    with raising_without_secret(at_write, match=message) as caught:
        sink.deliver(place, mint())
    assert type(caught.value) is at_write


def test_the_table_of_statuses_is_tested_whole() -> None:
    """No row stands there that no test sends."""
    sent = {reply.status for reply, *_ in FAILURES}
    assert set(_github.STATUSES) - sent <= {302, 308, 422}


def test_every_exception_of_the_client_is_translated() -> None:
    """Whatever httpx may raise has a row, its own or its parent's."""
    kinds = [kind for kind in vars(httpx).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 20
    for kind in kinds:
        assert any(base in _github.FAULTS for base in kind.__mro__), kind


@pytest.mark.parametrize(
    ("headers", "message", "pause"),
    [
        ({"retry-after": "7"}, "", timedelta(seconds=7)),
        ({"retry-after": "99999999999999999999"}, "", timedelta(hours=1)),
        (LIMIT, "", timedelta(seconds=120)),
        ({**LIMIT, "x-ratelimit-reset": "1"}, "", timedelta(seconds=1)),
        ({**LIMIT, "x-ratelimit-reset": "soon"}, "", timedelta(minutes=1)),
        ({}, "You have exceeded a secondary rate limit.", timedelta(minutes=1)),
        ({"x-ratelimit-remaining": "4999"}, "Must have admin rights", None),
    ],
)
def test_pauses_are_taken_from_githubs_headers(headers: dict[str, str], message: str, pause: timedelta | None) -> None:
    """The pause is what GitHub says, by its own clock; a 403 that is no matter of rates has none."""
    body = b'{"message": "%s"}' % message.encode()
    assert _github.pause_of(_github.Answer(403, headers, body)) == pause


def test_absence_is_believed_only_beside_a_key_that_can_be_read(server: GitHubServer, sink: Any) -> None:
    """GitHub says 404 also of what may not be seen, and so do boxes on the way: neither is an empty place."""
    place = place_of(sink)
    with pytest.raises(NotFound):
        sink.read_back(place)
    server.faults.append(Fault("GET", "public-key", said(404, "Not Found")))
    with raising_without_secret(Permanent, match="may not see it") as caught:
        sink.read_back(place)
    assert not isinstance(caught.value, NotFound)
    server.faults.append(Fault("GET", "", Reply(404, b"<html></html>")))
    with raising_without_secret(Permanent) as caught:
        sink.read_back(place)
    assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize("applies", [False, True])
@pytest.mark.parametrize("hangs", [False, True])
def test_a_write_without_an_answer_is_open_and_heals(
    server: GitHubServer, sink: Any, applies: bool, hangs: bool
) -> None:
    """Whether it took effect or not, the outcome is unknown, and delivering again brings the value there."""
    place = place_of(sink)
    server.faults.append(Fault("PUT", applies=applies, hangs=hangs))
    with raising_without_secret(OutcomeUnknown):
        sink.deliver(place, mint())
    assert len(server.calls("PUT")) == 1, "a put was repeated blindly"
    receipt = sink.deliver(place, mint())
    assert sink.read_back(place).version == receipt.version


@pytest.mark.parametrize("hangs", [False, True])
def test_a_read_without_an_answer_is_temporary(server: GitHubServer, sink: Any, hangs: bool) -> None:
    """Nothing has happened yet."""
    place = place_of(sink)
    server.faults.append(Fault("GET", hangs=hangs))
    with raising_without_secret(Temporary):
        sink.deliver(place, mint())
    assert not server.calls("PUT")


@pytest.mark.parametrize("reply", [said(500, ""), said(404, "Not Found"), said(403, ""), Reply(200, b"[]")])
def test_a_written_value_that_is_not_shown_is_open(server: GitHubServer, sink: Any, reply: Reply) -> None:
    """Once the put went through, no failure says that nothing happened."""
    place = place_of(sink)
    server.faults.append(Fault("GET", "/ASTRO_", reply))
    with raising_without_secret(OutcomeUnknown, match="was written"):
        sink.deliver(place, mint())


@pytest.mark.parametrize(
    "body",
    [b"", b"?", b"[]", b'{"key_id": 1}', b'{"key_id": "1", "key": "AAAA"}', b'{"key_id": "1", "key": "?"}'],
)
def test_a_key_that_is_none_seals_nothing(server: GitHubServer, sink: Any, body: bytes) -> None:
    """What a wrong server calls a key never sees a value."""
    server.faults.append(Fault("GET", "public-key", Reply(200, body)))
    with raising_without_secret(Temporary, Permanent):
        sink.deliver(place_of(sink), mint())
    assert not server.calls("PUT")


def test_an_endless_answer_is_cut(server: GitHubServer, sink: Any) -> None:
    """A megabyte is more than any right answer has."""
    server.faults.append(Fault("GET", "", Reply(200, b"x" * 2_000_000)))
    with raising_without_secret(Temporary, match="expected form"):
        sink.preflight(place_of(sink))


def test_nobody_listening_is_temporary(token: Path) -> None:
    """A refused connection certainly had no effect."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = GITHUB.Options(api_url=f"http://127.0.0.1:{free.getsockname()[1]}", credential=f"file:{token}")
        sink = GITHUB.build("actions", options, Path("/"))
        with raising_without_secret(Temporary, match="no connection"):
            sink.deliver(place_of(sink), mint())
        sink.close()


def test_two_writers_leave_one_whole_value(server: GitHubServer, sink: Any) -> None:
    """Whoever comes last stands there, whole."""
    place = place_of(sink)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: sink.deliver(place, mint(f"{CANARY}{n}", n)), range(16)))
    row = server.folders["/repos/Acme/dags/actions"][place.location.partition("#")[2]]
    assert row["value"] in {f"{CANARY}{n}" for n in range(16)}
    assert sink.read_back(place).secret is None


def test_a_place_of_another_version_is_refused(sink: Any) -> None:
    """A journalled place that cannot be understood is not guessed at."""
    place = Place("actions", "acme/dags#X", {"folder": 1})
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
        with raising_without_secret(Permanent, match="not compatible"):
            call(place)


def test_without_pynacl_the_fix_is_named(server: GitHubServer, token: Path) -> None:
    """Importing, building and resolving work without the extra; the preflight says what to install."""
    script = f"""
        import sys
        from pathlib import Path
        sys.modules["nacl"] = None
        from rotator import sinks
        from rotator.errors import ConfigError
        from tests.sinks.contract import facts, mint
        module = sinks.load("github_actions_secret")
        options = module.Options(api_url={server.url!r}, credential="file:{token}")
        sink = module.build("actions", options, Path("/"))
        block = sinks.checked(module.DeliveryOptions, {REPOSITORY!r})
        place = sink.resolve(block, facts())
        for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
            try:
                call(place)
            except ConfigError as error:
                print(error.message)
        sink.close()
    """
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parent.parent.parent,
        env={**os.environ, "PYTHONPATH": "."},
    )
    assert run.stdout.count("sinks.actions: needs PyNaCl; run: pip install 'rotator[github]'") == 2
    assert not server.calls("PUT")


def test_importing_loads_no_sdk() -> None:
    """`rotator check` offline stays cheap."""
    script = "import sys, rotator.sinks.github_actions_secret; print('nacl' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_reading_shows_no_secret(server: GitHubServer, sink: Any) -> None:
    """The client's and answers' reprs are as quiet as everything else."""
    assert "canary" not in repr(_github.Answer(200, {"x": "canary"}, b"canary"))
    assert repr(Secret("canary")) == "Secret(***)"
