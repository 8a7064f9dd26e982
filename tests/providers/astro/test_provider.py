"""The provider against the sandbox, in every generation of the API."""

import random
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest

from rotator.errors import CredentialRejected, NotFound, OutcomeUnknown, Permanent, RotatorError
from rotator.model import Scope, Token
from rotator.ports import Listing, TokenRef
from rotator.providers.astro.http import Endpoint
from rotator.providers.astro.provider import AstroProvider, AstroSettings, NewToken, ref_of
from rotator.sandbox import Fault, Sandbox, SandboxConfig
from rotator.secret import Secret
from tests.lab import JumpingClock

VERSIONS = ["v1", "v1beta1", "v1alpha1"]


@contextmanager
def api(version: str = "v1", **config: object) -> Iterator[tuple[Sandbox, AstroProvider]]:
    with Sandbox(SandboxConfig(**({"tokens": 24, "limits": False} | config))) as sandbox:  # type: ignore[arg-type]
        endpoint = Endpoint(sandbox.url, timedelta(seconds=1))
        settings = AstroSettings("astro", sandbox.organization_id, version, endpoint, {})
        credential = Secret(sandbox.credential)
        provider = AstroProvider(settings, lambda: credential, JumpingClock(), lambda _: None, random.Random(1))
        try:
            yield sandbox, provider
        finally:
            provider.close()


def tokens_of(sandbox: Sandbox, scope: Scope) -> list[Token]:
    """List one scope as v1 sees it: with homes."""
    settings = AstroSettings("v1", sandbox.organization_id, "v1", Endpoint(sandbox.url), {})
    credential = Secret(sandbox.credential)
    provider = AstroProvider(settings, lambda: credential, JumpingClock(), lambda _: None, random.Random(1))
    try:
        return list(provider.list(Listing(frozenset({scope}))))
    finally:
        provider.close()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("scope", list(Scope))
def test_every_operation_in_every_generation(version: str, scope: Scope) -> None:
    """create, get, update, roles, rotate, authenticate and delete work for each scope."""
    role = {Scope.ORGANIZATION: "ORGANIZATION_MEMBER", Scope.WORKSPACE: "WORKSPACE_MEMBER"}.get(
        scope, "DEPLOYMENT_ADMIN"
    )
    with api(version) as (sandbox, provider):
        sample = tokens_of(sandbox, scope)[-1]
        home = {Scope.WORKSPACE: sample.workspace_id, Scope.DEPLOYMENT: sample.deployment_id}.get(scope, "")
        made = provider.create(NewToken("new/one", scope, role, home, "what for", expires_in_days=30))
        ref = TokenRef(made.token.id, scope, home, home)
        assert sandbox.store.is_alive(made.secret.reveal())
        assert (made.token.name, made.token.scope, made.token.life) == ("new/one", scope, timedelta(days=30))
        changed = provider.update(made.token, "renamed", "text", None)
        assert (changed.name, changed.description) == ("renamed", "text")
        assert provider.get(ref).roles == made.token.roles
        rotated = provider.rotate(ref)
        assert rotated.token.generation.moved_since(made.token.generation)
        assert provider.authenticate(ref, rotated.secret).id == made.token.id
        with pytest.raises(CredentialRejected):
            provider.authenticate(ref, made.secret)
        provider.delete(ref)
        provider_says_gone = pytest.raises(NotFound)
        with provider_says_gone:
            provider.get(ref)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_listing_is_complete(version: str) -> None:
    """Every token of every scope comes exactly once, also when it fills several pages."""
    with api(version, tokens=2500) as (sandbox, provider):
        every = [token for scope in Scope for token in tokens_of(sandbox, scope)]
        listing = Listing(
            frozenset(Scope),
            frozenset(token.workspace_id for token in every if token.workspace_id),
            frozenset(token.deployment_id for token in every if token.deployment_id),
        )
        found = [token.id for token in provider.list(listing)]
        assert sorted(found) == sorted(sandbox.store.tokens)


def test_a_listing_survives_tokens_that_come_and_go() -> None:
    """What is created or deleted between two pages hides no other token."""
    with api(tokens=2500) as (sandbox, provider):
        before = set(sandbox.store.tokens)
        rows = provider.list(Listing(frozenset(Scope)))
        found = [next(rows) for _ in range(10)]
        provider.delete(ref_of(found[3]))
        provider.delete(ref_of(found[7]))
        found += rows
        assert {token.id for token in found} >= before - {found[3].id, found[7].id}
        assert len({token.id for token in found}) == len(found)


@pytest.mark.parametrize("fault", [f for f in Fault if f not in (Fault.LATENCY,)], ids=str)
def test_a_rotate_is_sent_once_whatever_happens(fault: Fault) -> None:
    """Each fault is one POST and one error of ours; the error, printed with its causes, shows no secret."""
    with api() as (sandbox, provider):
        token = next(iter(provider.list(Listing(frozenset({Scope.WORKSPACE})))))
        sandbox.script("rotate", fault, token.id)
        with pytest.raises(RotatorError) as caught:
            provider.rotate(ref_of(token))
        assert sandbox.store.posts(token.id) == 1
        printed = "".join(
            traceback.TracebackException.from_exception(caught.value, capture_locals=False).format(chain=True)
        )
        for secret in (sandbox.credential, sandbox.store.secret_of(token.id)):
            assert secret.rsplit(".", 1)[1] not in printed + repr(caught.value)
        if sandbox.store.rotations(token.id):
            assert isinstance(caught.value, OutcomeUnknown)


def test_reads_are_repeated_when_they_fail_on_the_way() -> None:
    """A get that meets a reset, a 500 and a 429 in turn still answers."""
    with api() as (sandbox, provider):
        token = next(iter(provider.list(Listing(frozenset({Scope.WORKSPACE})))))
        for fault in (Fault.RESET_BEFORE, Fault.ERROR_500, Fault.THROTTLE_BARE):
            sandbox.script("get", fault)
        assert provider.get(ref_of(token)).id == token.id


@pytest.mark.parametrize("hostile", ["a/b", "..", "", "a?b", "a%2f", "é"])
def test_an_id_that_could_change_the_path_is_refused(hostile: str) -> None:
    """Ids come from the API and are untrusted: nothing is sent."""
    with api() as (sandbox, provider):
        sent = len(sandbox.requests)
        with pytest.raises(Permanent):
            provider.rotate(TokenRef(hostile, Scope.ORGANIZATION))
        assert len(sandbox.requests) == sent


def test_our_own_token_is_known_from_its_jwt() -> None:
    """own_token_id decodes the credential without a call."""
    with api() as (sandbox, provider):
        assert sandbox.store.tokens[provider.own_token_id()].name == "rotator-credential"


def test_a_replaced_credential_is_read_again() -> None:
    """After a 401 the reference is read anew, and the read repeated if it yields something else."""
    with api() as (sandbox, provider):
        own = provider.own_token_id()
        stale = Secret(sandbox.credential)
        provider.rotate(TokenRef(own, Scope.ORGANIZATION))
        answers = iter([stale, Secret(sandbox.credential)])
        endpoint = Endpoint(sandbox.url)
        settings = AstroSettings("astro", sandbox.organization_id, "v1", endpoint, {})
        again = AstroProvider(settings, lambda: next(answers), JumpingClock(), lambda _: None, random.Random(1))
        assert again.get(TokenRef(own, Scope.ORGANIZATION)).id == own
        again.close()
