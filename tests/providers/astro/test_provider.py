"""The provider against the sandbox over HTTP, in every generation of the API."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from rotator.clock import SystemClock
from rotator.errors import (
    ConfigError,
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
)
from rotator.events import Event
from rotator.model import NewToken, Role, Scope, Token
from rotator.ports import Clock, Listing, OwnCredential, TokenRef
from rotator.providers.astro.provider import AstroProvider, AstroSettings, Endpoint, ref_of, with_role
from rotator.sandbox import Fault, Faults, Sandbox, SandboxConfig
from rotator.secret import Secret
from tests.providers.astro.fakes import VirtualClock

VERSIONS = ["v1", "v1beta1", "v1alpha1"]
ROLES = {
    Scope.ORGANIZATION: "ORGANIZATION_MEMBER",
    Scope.WORKSPACE: "WORKSPACE_MEMBER",
    Scope.DEPLOYMENT: "DEPLOYMENT_ADMIN",
}


def on(
    sandbox: Sandbox,
    version: str = "v1",
    credential: str | None = None,
    rate: dict[str, float] | None = None,
    clock: Clock | None = None,
    emit: Callable[[Event], None] = lambda _: None,
) -> AstroProvider:
    endpoint = Endpoint(sandbox.url, timedelta(seconds=2))
    settings = AstroSettings("astro", sandbox.organization_id, version, endpoint, rate or {})
    secret = Secret(sandbox.credential if credential is None else credential)
    return AstroProvider(settings, [OwnCredential("", lambda: secret)], clock or VirtualClock(), emit, random.Random(1))


@contextmanager
def api(version: str = "v1", **config: object) -> Iterator[tuple[Sandbox, AstroProvider]]:
    with Sandbox(SandboxConfig(**({"tokens": 24, "limits": False} | config))) as sandbox:  # type: ignore[arg-type]
        provider = on(sandbox, version)
        try:
            yield sandbox, provider
        finally:
            provider.close()


def everything(sandbox: Sandbox) -> Listing:
    return Listing(frozenset(Scope), frozenset(sandbox.store.workspaces), frozenset(sandbox.store.deployments))


def home_of(sandbox: Sandbox, scope: Scope) -> str:
    return {Scope.WORKSPACE: sandbox.store.workspaces[0], Scope.DEPLOYMENT: next(iter(sandbox.store.deployments))}.get(
        scope, ""
    )


def one(sandbox: Sandbox, provider: AstroProvider, scope: Scope = Scope.WORKSPACE) -> Token:
    return next(token for token in provider.list(everything(sandbox)) if token.scope is scope)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scope", list(Scope))
def test_every_operation_in_every_generation(version: str, scope: Scope) -> None:
    """create, get, list, update, rotate, authenticate and delete work for tokens of each scope."""
    with api(version) as (sandbox, provider):
        home = home_of(sandbox, scope)
        made = provider.create(NewToken("new/one", scope, ROLES[scope], home, "what for", expires_in_days=30))
        ref = ref_of(made.token)
        assert sandbox.store.authenticates_as(made.secret.reveal()) == made.token.id
        assert (made.token.name, made.token.scope, made.token.life) == ("new/one", scope, timedelta(days=30))
        assert home in ("", made.token.workspace_id, made.token.deployment_id)
        assert made.token.id in {token.id for token in provider.list(everything(sandbox))}
        changed = provider.update(made.token, "renamed", "text")
        assert (changed.name, changed.description, changed.roles) == ("renamed", "text", made.token.roles)
        assert provider.get(ref) == changed
        rotated = provider.rotate(ref)
        assert rotated.token.generation.moved_since(made.token.generation)
        assert provider.authenticate(ref, rotated.secret).id == made.token.id
        with pytest.raises(CredentialRejected):
            provider.authenticate(ref, made.secret)
        provider.delete(ref)
        with pytest.raises(NotFound):
            provider.get(ref)


@pytest.mark.parametrize("version", VERSIONS)
def test_roles_are_replaced_in_every_generation(version: str) -> None:
    """The whole set, or the one of the token's own scope while the others stay."""
    with api(version) as (sandbox, provider):
        workspace, deployment = home_of(sandbox, Scope.WORKSPACE), home_of(sandbox, Scope.DEPLOYMENT)
        token = provider.create(NewToken("n", Scope.WORKSPACE, "WORKSPACE_MEMBER", workspace, "text")).token
        more = (*token.roles, Role("DEPLOYMENT", deployment, "DEPLOYMENT_ADMIN"))
        provider.update_roles(token, more)
        token = provider.get(ref_of(token))
        assert set(token.roles) == set(more)
        assert (token.name, token.description) == ("n", "text")
        changed = provider.update(token, "m", "other", "WORKSPACE_AUTHOR")
        assert set(changed.roles) == set(with_role(token, "WORKSPACE_AUTHOR"))
        assert (changed.name, changed.description) == ("m", "other")
        assert Role("WORKSPACE", workspace, "WORKSPACE_AUTHOR") in changed.roles
        assert len(changed.roles) == 2


@pytest.mark.parametrize("version", VERSIONS)
def test_the_providers_own_objects_never_hold_a_secret(version: str) -> None:
    """The raw forms are what the API says, minus the secret of create and rotate."""
    with api(version) as (sandbox, provider):
        made = provider.raw_create(NewToken("n", Scope.ORGANIZATION, "ORGANIZATION_MEMBER"))
        ref = ref_of(made.minted.token)
        rotated = provider.raw_rotate(ref)
        updated = provider.raw_update(rotated.minted.token, "m", "", "ORGANIZATION_OWNER")
        listed = [shown for shown in provider.raw_list(everything(sandbox)) if shown["id"] == ref.id]
        shapes = [made.shown, rotated.shown, updated, *listed, provider.raw(ref)]
        assert len(shapes) == 5
        for shown in shapes:
            assert shown["id"] == ref.id
            assert "token" not in shown
            assert ("scope" if version == "v1" else "type") in shown
        assert sandbox.store.is_alive(rotated.minted.secret.reveal())
        assert updated["name"] == "m"


@pytest.mark.parametrize("version", VERSIONS)
def test_a_listing_is_complete(version: str) -> None:
    """Every token of every scope comes exactly once, with its home known, also when it fills several pages."""
    with api(version, tokens=4500) as (sandbox, provider):
        found = {token.id: token for token in provider.list(everything(sandbox))}
        assert set(found) == set(sandbox.store.tokens)
        for record in sandbox.store.tokens.values():
            token = found[record.id]
            assert token.scope.upper() == record.scope
            assert record.entity_id in (token.organization_id, token.workspace_id, token.deployment_id)
            if version != "v1alpha1" or token.scope is not Scope.DEPLOYMENT:
                assert token.workspace_id == record.workspace_id


@pytest.mark.parametrize(
    ("listing", "queries"),
    [
        (Listing(frozenset({Scope.ORGANIZATION})), 1),
        (Listing(frozenset({Scope.DEPLOYMENT})), 1),
        (Listing(frozenset({Scope.ORGANIZATION}), frozenset({"w0"})), 1),
        (Listing(frozenset({Scope.WORKSPACE}), frozenset({"w0", "w1"}), everything=False), 2),
        (Listing(frozenset({Scope.DEPLOYMENT}), frozenset(), frozenset({"d0"}), everything=False), 1),
        (Listing(frozenset(Scope), frozenset({"w0"})), 2),
        (Listing(frozenset(), everything=False), 0),
    ],
)
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_a_listing_holds_what_was_asked_for(listing: Listing, queries: int, version: str) -> None:
    """Its scopes and homes and nothing else, in as few requests as that takes."""
    with api(version) as (sandbox, provider):
        homes = {"w0": sandbox.store.workspaces[0], "w1": sandbox.store.workspaces[1]}
        deployment = next(iter(sandbox.store.deployments))
        asked = Listing(
            listing.scopes,
            frozenset(homes[name] for name in listing.workspaces),
            frozenset(deployment for _ in listing.deployments),
            listing.everything,
        )
        found = list(provider.list(asked))
        wanted = {
            record.id
            for record in sandbox.store.tokens.values()
            if record.scope.lower() in asked.scopes
            and (asked.everything or record.workspace_id in asked.workspaces or record.entity_id in asked.deployments)
        }
        assert {token.id for token in found} == wanted
        assert len(found) == len(wanted)
        assert len(sandbox.requests) == queries


def test_a_listing_survives_tokens_that_come_and_go() -> None:
    """What is created or deleted between two pages hides no other token, and nothing comes twice."""
    with api(tokens=2500) as (sandbox, provider):
        before = set(sandbox.store.tokens) - {sandbox.store.owner_id}
        rows = provider.list(Listing(frozenset(Scope)))
        found = [next(rows) for _ in range(10)]
        gone = [token for token in found if token.id != sandbox.store.owner_id][:2]
        for token in gone:
            provider.delete(ref_of(token))
        provider.create(NewToken("late", Scope.ORGANIZATION, "ORGANIZATION_MEMBER"))
        found += rows
        assert {token.id for token in found} >= before - {token.id for token in gone}
        assert len({token.id for token in found}) == len(found)


def test_sixty_thousand_tokens_are_streamed() -> None:
    """Page by page: the first comes after one request, and all of them come once."""
    with api(tokens=60_000) as (sandbox, provider):
        rows = provider.list(Listing(frozenset(Scope)))
        first = next(rows)
        assert len(sandbox.requests) == 1
        found = {first.id, *(token.id for token in rows)}
        assert found == set(sandbox.store.tokens)
        assert len(sandbox.requests) == 61


def test_a_listing_that_nobody_reads_on_ends() -> None:
    """Closing the generator closes its threads; the provider works on."""
    with api(tokens=20_000) as (sandbox, provider):
        rows = provider.list(Listing(frozenset(Scope)))
        for _ in range(1500):
            next(rows)
        rows.close()  # type: ignore[attr-defined]
        assert list(provider.own_credentials()) == [sandbox.store.owner_id]
        deadline = time.monotonic() + 10
        while any(thread.name.startswith("astro-list") for thread in threading.enumerate()):
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert len(sandbox.requests) <= 1 + 1 + 4


NO_EFFECT = {Fault.THROTTLE_SECONDS, Fault.THROTTLE_DATE, Fault.THROTTLE_BARE}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("fault", [f for f in Fault if f is not Fault.LATENCY], ids=str)
def test_a_rotate_is_sent_once_whatever_happens(fault: Fault, version: str) -> None:
    """Each fault is one POST and one error: in doubt, unless the server was certainly not reached."""
    with Sandbox(SandboxConfig(limits=False, faults=Faults(hang_s=3, late_by_s=0.1))) as sandbox:
        provider = on(sandbox, version)
        token = one(sandbox, provider)
        sandbox.script("rotate", fault, token.id)
        with pytest.raises(RotatorError) as caught:
            provider.rotate(ref_of(token))
        assert sandbox.store.posts(token.id) == 1
        assert isinstance(caught.value, Temporary if fault in NO_EFFECT else OutcomeUnknown)
        provider.close()


@pytest.mark.parametrize("operation", ["get", "list", "update", "delete", "roles"])
@pytest.mark.parametrize(
    "fault", [f for f in Fault if f not in (Fault.LATENCY, Fault.HANG_BEFORE, Fault.HANG_AFTER)], ids=str
)
def test_what_may_be_repeated_is_repeated(operation: str, fault: Fault) -> None:
    """A single fault of any kind is not seen by the caller, and the effect is there."""
    with api() as (sandbox, provider):
        token = one(sandbox, provider)
        sandbox.script(operation, fault)
        if operation == "get":
            assert provider.get(ref_of(token)).id == token.id
        elif operation == "list":
            assert len(list(provider.list(Listing(frozenset(Scope))))) == 25
        elif operation == "update":
            assert provider.update(token, "renamed", "").name == "renamed"
        elif operation == "roles":
            provider.update_roles(token, with_role(token, "WORKSPACE_AUTHOR"))
            assert sandbox.store.tokens[token.id].roles[0].role == "WORKSPACE_AUTHOR"
        else:
            provider.delete(ref_of(token))
            assert token.id not in sandbox.store.tokens


@pytest.mark.parametrize("fault", [f for f in Fault if f not in NO_EFFECT and f is not Fault.LATENCY], ids=str)
def test_a_create_is_sent_once_whatever_happens(fault: Fault) -> None:
    """A second POST would make a second token."""
    with Sandbox(SandboxConfig(limits=False, faults=Faults(hang_s=3, late_by_s=0.1))) as sandbox:
        provider = on(sandbox)
        sandbox.script("create", fault)
        with pytest.raises(OutcomeUnknown):
            provider.create(NewToken("n", Scope.ORGANIZATION, "ORGANIZATION_MEMBER"))
        assert [row[2] for row in sandbox.requests].count("create") == 1
        provider.close()


@pytest.mark.parametrize("hostile", ["a/b", "..", "", "a?b", "a%2f", "é", "a\n", "a" * 200, "a b", "a#"])
@pytest.mark.parametrize("version", VERSIONS)
def test_an_id_that_could_change_the_path_is_refused(hostile: str, version: str) -> None:
    """Ids come from the API and are untrusted: nothing is sent, and the message does not repeat them."""
    with api(version) as (sandbox, provider):
        refs = [TokenRef(hostile, Scope.ORGANIZATION)]
        if version == "v1alpha1":
            refs += [TokenRef("t", Scope.WORKSPACE, hostile), TokenRef("t", Scope.DEPLOYMENT, "w", hostile)]
        for ref in refs:
            for call in (provider.get, provider.rotate, provider.delete, provider.raw, provider.raw_rotate):
                with pytest.raises(Permanent, match=r"^an id (holds characters|is missing)"):
                    call(ref)
        with pytest.raises(Permanent):
            list(provider.list(Listing(frozenset({Scope.WORKSPACE}), frozenset({hostile}), everything=False)))
        assert not sandbox.requests


def test_our_own_token_is_known_from_its_jwt() -> None:
    """own_credentials decodes the credential without a call."""
    with api() as (sandbox, provider):
        assert list(provider.own_credentials()) == [sandbox.store.owner_id]
        assert not on(sandbox, credential="opaque").own_credentials()
        nameless = "e30.e30.e30"  # a JWT without claims
        with pytest.raises(ConfigError, match="does not say which token"):
            on(sandbox, credential=nameless).own_credentials()
        assert not sandbox.requests


def test_a_living_secret_without_rights_is_forbidden_and_a_dead_one_rejected() -> None:
    """The two must never be mixed up: one was delivered well, the other not."""
    with api(readers="owners") as (sandbox, provider):
        token = one(sandbox, provider, Scope.DEPLOYMENT)
        minted = provider.rotate(ref_of(token))
        with pytest.raises(Forbidden):
            provider.authenticate(ref_of(token), minted.secret)
        provider.rotate(ref_of(token))
        with pytest.raises(CredentialRejected):
            provider.authenticate(ref_of(token), minted.secret)
        with pytest.raises(CredentialRejected):
            provider.authenticate(ref_of(token), Secret("no.jwt"))


@pytest.mark.parametrize("version", VERSIONS)
def test_a_probe_shows_credential_and_organization(version: str) -> None:
    """With reads only: who we are, when that ends, what we may."""
    with api(version) as (sandbox, provider):
        found = provider.probe()
        assert (found.token_id, found.expires_at, found.is_at_home) == (sandbox.store.owner_id, None, True)
        assert found.total == 9
        assert found.roles == (Role("ORGANIZATION", sandbox.organization_id, "ORGANIZATION_OWNER"),)
        assert {method for _, method, *_ in sandbox.requests} == {"GET"}
        stranger = on(sandbox, version, credential="dead")
        with pytest.raises(CredentialRejected):
            stranger.probe()
        stranger.close()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_token_is_found_by_its_id(version: str) -> None:
    """In v1alpha1 a workspace token only with its workspace."""
    with api(version) as (sandbox, provider):
        token = one(sandbox, provider)
        assert provider.find(token.id, token.workspace_id).id == token.id
        assert provider.find(sandbox.store.owner_id, token.workspace_id).scope is Scope.ORGANIZATION
        with pytest.raises(NotFound):
            provider.find("clnothere", token.workspace_id)


def test_v1alpha1_never_drops_a_role_it_cannot_express() -> None:
    """Its update replaces all roles, so one that it does not know would be gone: refused before anything is sent."""
    with api("v1alpha1") as (sandbox, provider):
        token = one(sandbox, provider)
        sent = len(sandbox.requests)
        for roles in ((*token.roles, Role("DAG", "dag", "DAG_VIEWER", "d1")), ()):
            with pytest.raises(Permanent, match="v1alpha1 cannot express"):
                provider.update_roles(token, roles)
        with pytest.raises(Permanent, match="standard tokens only"):
            provider.create(NewToken("n", Scope.ORGANIZATION, "ORGANIZATION_MEMBER", kind="DIRECT_ACCESS"))
        assert len(sandbox.requests) == sent


def test_a_direct_access_token_keeps_its_kind() -> None:
    """A twin is made of the same kind."""
    with api() as (sandbox, provider):
        home = home_of(sandbox, Scope.DEPLOYMENT)
        made = provider.create(NewToken("n", Scope.DEPLOYMENT, "DEPLOYMENT_ADMIN", home, kind="DIRECT_ACCESS"))
        assert made.token.kind == "DIRECT_ACCESS"


def test_clock_skew_is_seen_over_http() -> None:
    """A server whose clock is ahead by five minutes shows it with its first answer."""
    with Sandbox(SandboxConfig(limits=False, clock_offset_s=300)) as sandbox:
        provider = on(sandbox, clock=SystemClock())
        provider.get(TokenRef(sandbox.store.owner_id, Scope.ORGANIZATION))
        provider.close()
        skew = provider.clock_skew()
    assert skew is not None
    assert abs(skew - timedelta(seconds=300)) < timedelta(seconds=2)


def test_many_threads_meet_no_429_at_the_documented_limits() -> None:
    """Sixteen threads, two seconds of reads and of rotations: none refused, and 95 % of the limit used."""
    with Sandbox(SandboxConfig(tokens=60)) as sandbox:
        events: list[Event] = []
        provider = on(sandbox, rate={"get": 25, "post": 10, "delete": 5}, clock=SystemClock(), emit=events.append)
        refs = [TokenRef(i, Scope.ORGANIZATION) for i in sandbox.store.tokens if i != sandbox.store.owner_id]
        with ThreadPoolExecutor(16) as pool:
            jobs = [pool.submit(provider.get, ref) for ref in refs[:50]]
            jobs += [pool.submit(provider.rotate, ref) for ref in refs[:20]]
            for job in jobs:
                job.result()
        provider.close()
        assert {event.error for event in events} == {"200"}
        assert provider.throttled_s() > 0
        for method, rate in (("GET", 25), ("POST", 10)):
            times = [at for at, how, *_ in sandbox.requests if how == method]
            # a thread that is late on a busy machine may cost a tenth; the exact share is the limiter's own test
            assert (len(times) - 1) / (times[-1] - times[0]) > 0.85 * rate


def test_times_are_aware_utc() -> None:
    """Whatever the engine compares can be compared."""
    with api() as (sandbox, provider):
        for token in provider.list(everything(sandbox)):
            moments = [token.created_at, token.end_at, token.last_used_at, token.generation.moment]
            assert all(isinstance(at, datetime) and at.tzinfo is UTC for at in moments if at is not None)
