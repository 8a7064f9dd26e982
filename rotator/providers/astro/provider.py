"""The Astro provider: lists, reads and rotates tokens; the engine's `ports.Provider`, and the token commands' hands.

It owns no state but connections, pacing and the measured clock skew, and everything may be called from many threads.
It never sends a rotate or a create twice. The credential is read at every call, see `own`.
"""

import copy
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from rotator.claims import claims
from rotator.errors import ConfigError, NotFound, OutcomeUnknown, Permanent, Temporary
from rotator.model import Minted, NewToken, Role, Scope, Token
from rotator.ports import Clock, Emit, Listing, OwnCredential, TokenRef
from rotator.providers.astro.failures import Operation
from rotator.providers.astro.generations import GENERATIONS, PAGE, Collection
from rotator.providers.astro.http import AstroHttp, Call, Endpoint, ReadSecret, Result, TransportFactory
from rotator.providers.astro.limiter import Limiters
from rotator.providers.astro.listing import whole
from rotator.providers.astro.own import Memory, OwnCredentials
from rotator.providers.astro.seen import SeenIds
from rotator.providers.astro.wire import (
    Home,
    Json,
    Page,
    RawMinted,
    Row,
    decode_done,
    decode_minted,
    decode_page,
    decode_raw_minted,
    decode_raw_page,
    decode_raw_token,
    decode_token,
)
from rotator.secret import Secret

__all__ = ["AstroProvider", "AstroSettings", "Endpoint", "Probe", "RawMinted", "ref_of", "with_role"]

Decode = Callable[[bytes], Result | None]
DecodePart = Callable[[Collection, bytes], Page[Row] | None]


@dataclass(frozen=True, slots=True)
class AstroSettings:
    """One `[providers.X]` table.

    Attributes:
        rate: Requests per second by method, in any case; 0 or absent means unlimited.
    """

    name: str
    organization_id: str
    api_version: str
    endpoint: Endpoint
    rate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Probe:
    """What `check --online` learns of a provider.

    Attributes:
        token_id: Of our own credential, by its claims; empty if it does not say.
        expires_at: Likewise; UTC, None if it does not say or never expires.
        is_at_home: Whether the credential is of the configured organization; None if it does not say.
        total: How many organization tokens it may list.
        roles: Of our own token; None where it may not read itself.
        clock_skew: See `ports.Provider`.
    """

    token_id: str
    expires_at: datetime | None
    is_at_home: bool | None
    total: int
    roles: tuple[Role, ...] | None
    clock_skew: timedelta | None


class AstroProvider:
    """See `ports.Provider`.

    Args:
        settings: From the config.
        credentials: Ours: the first one works, another only while it is rejected or cannot be read.
        clock: For pacing and retries.
        emit: Told of every request; must not raise.
        dice: For the spread of retries.
        transport: Makes what requests are sent through, in place of the network; for tests.

    Raises:
        ConfigError: The settings cannot be used.
    """

    def __init__(
        self,
        settings: AstroSettings,
        credentials: Sequence[OwnCredential],
        clock: Clock,
        emit: Emit,
        dice: random.Random,
        transport: TransportFactory | None = None,
    ) -> None:
        if settings.api_version not in GENERATIONS:
            known = ", ".join(GENERATIONS)
            raise ConfigError.of(f"providers.{settings.name}.api_version", f"must be one of {known}")
        self.name = settings.name
        self.organization_id = settings.organization_id
        self._generation = GENERATIONS[settings.api_version]
        self._own = OwnCredentials(settings.name, credentials, Memory(settings.name, clock, emit))
        self._http = AstroHttp(settings.name, settings.endpoint, clock, emit, dice, transport)
        self._limiters = Limiters({method.upper(): limit for method, limit in settings.rate.items()}, clock)

    def list(self, listing: Listing) -> Iterator[Token]:
        """See `ports.Provider`."""
        return self._listed(listing, self._tokens)

    def get(self, ref: TokenRef) -> Token:
        """See `ports.Provider`."""
        return self._read(ref, None)

    def rotate(self, ref: TokenRef) -> Minted:
        """See `ports.Provider`."""
        minted = self._send(self._rotation(ref, partial(decode_minted, home=self._home(ref))))
        _demand_same(minted.token.id, ref)
        return minted

    def authenticate(self, ref: TokenRef, secret: Secret) -> Token:
        """See `ports.Provider`."""
        return self._read(ref, lambda: secret)

    def own_credentials(self) -> Mapping[str, OwnCredential]:
        """See `ports.Provider`."""
        return self._own.by_token()

    def through(self, credential: ReadSecret) -> "AstroProvider":
        """See `ports.Provider`."""
        return self._with(self._own.before(OwnCredential("", credential)))

    def alone(self, own: OwnCredential) -> "AstroProvider":
        """Return the same provider working with this credential and no other, to see whether it works."""
        return self._with(self._own.alone(own))

    def clock_skew(self) -> timedelta | None:
        """See `ports.Provider`."""
        return self._http.skew

    def create(self, new: NewToken) -> Minted:
        """Make a token; its secret is in the answer and nowhere else.

        Raises:
            Temporary, Permanent: Certainly not made.
            OutcomeUnknown: Perhaps made.
        """
        return self._send(self._creation(new, partial(decode_minted, home=self._home(_ref_of_new(new)))))

    def update(self, token: Token, name: str, description: str, role: str | None = None) -> Token:
        """Change name, description and, when given, the role of the token's own scope; other roles stay.

        Args:
            token: As it is now: v1alpha1 has to be told all of its roles again.

        Raises:
            Temporary, Permanent: At least one of the changes was not made; repeating is safe.
        """
        token = self._with_role(token, role)
        return self._send(self._change(token, name, description, partial(decode_token, home=self._home(ref_of(token)))))

    def update_roles(self, token: Token, roles: Sequence[Role]) -> None:
        """Replace all roles of a token.

        Args:
            token: As it is now.

        Raises:
            Temporary, Permanent: Not changed, or repeating is safe.
        """
        item = self._generation.item(self.organization_id, ref_of(token))
        path, body = self._generation.roles_call(item, token, roles)
        self._send(Call(Operation.ROLES, "POST", path, decode_done, token.id, json=body))

    def delete(self, ref: TokenRef) -> None:
        """End a token for good.

        Raises:
            NotFound: It was gone before.
            Temporary, Permanent: It may still be there; repeating is safe.
        """
        path = self._generation.item(self.organization_id, ref)
        self._send(Call(Operation.DELETE, "DELETE", path, decode_done, ref.id))

    def raw_list(self, listing: Listing) -> Iterator[Json]:
        """Yield tokens in the provider's own field names, without secrets; as `list` otherwise."""
        key = self._generation.list_key
        return self._listed(listing, lambda part, body: decode_raw_page(body, key, part.scopes))

    def raw(self, ref: TokenRef) -> Json:
        """Return a token in the provider's own field names, without a secret."""
        return self._send(self._reading(ref, decode_raw_token))

    def raw_create(self, new: NewToken) -> RawMinted:
        """Make a token, and return it in both forms; see `create`."""
        return self._send(self._creation(new, partial(decode_raw_minted, home=self._home(_ref_of_new(new)))))

    def raw_update(self, token: Token, name: str, description: str, role: str | None = None) -> Json:
        """Change a token, and return it in the provider's own field names; see `update`."""
        return self._send(self._change(self._with_role(token, role), name, description, decode_raw_token))

    def raw_rotate(self, ref: TokenRef) -> RawMinted:
        """Rotate a token, and return it in both forms; see `rotate`."""
        answer = self._send(self._rotation(ref, partial(decode_raw_minted, home=self._home(ref))))
        _demand_same(answer.minted.token.id, ref)
        return answer

    def find(self, token_id: str, workspace_id: str = "", deployment_id: str = "") -> Token:
        """Return a token by id alone, trying the paths of v1alpha1 in turn.

        Args:
            token_id: As it is anywhere.
            workspace_id: Where v1alpha1 looks for a workspace token; likewise `deployment_id`.

        Raises:
            NotFound: Nowhere.
        """
        *likelier, last = self._generation.guesses(token_id, workspace_id, deployment_id)
        for ref in likelier:
            try:
                return self.get(ref)
            except NotFound:
                continue
        return self.get(last)

    def probe(self) -> Probe:
        """Show that credential and organization are right, with reads only.

        Raises:
            CredentialRejected, Forbidden, NotFound: They are not.
            Temporary, Permanent: No verdict.
        """
        organization = Listing(frozenset({Scope.ORGANIZATION}))
        part = next(self._generation.collections(self.organization_id, organization))
        page = self._page(part, self._tokens, limit=1)
        own = claims(self._own.first.read())
        return Probe(
            token_id=own.token_id if own else "",
            expires_at=own.expires_at if own else None,
            is_at_home=own.organization_id == self.organization_id if own and own.organization_id else None,
            total=page.total,
            roles=self._own_roles(own.token_id) if own and own.token_id else None,
            clock_skew=self._http.skew,
        )

    def throttled_s(self) -> float:
        """Return how long callers have waited for their turns so far, in seconds."""
        return self._limiters.waited_s

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _with(self, own: OwnCredentials) -> "AstroProvider":
        other = copy.copy(self)
        other._own = own
        return other

    def _listed(self, listing: Listing, decode: DecodePart[Row]) -> Iterator[Row]:
        seen = SeenIds()
        for part in self._generation.collections(self.organization_id, listing):
            yield from whole(partial(self._page, part, decode), seen)

    def _page(
        self,
        part: Collection,
        decode: DecodePart[Row],
        offset: int = 0,
        abandoned: threading.Event | None = None,
        limit: int = PAGE,
    ) -> Page[Row]:
        query = {"offset": str(offset), "limit": str(limit), "sorts": "createdAt:asc", **part.query}
        read = partial(decode, part)
        return self._send(Call(Operation.LIST, "GET", part.path, read, query=query, abandoned=abandoned))

    def _tokens(self, part: Collection, body: bytes) -> Page[Token] | None:
        return decode_page(body, self._generation.list_key, part.home, part.scopes)

    def _read(self, ref: TokenRef, credential: ReadSecret | None) -> Token:
        token = self._send(self._reading(ref, partial(decode_token, home=self._home(ref))), credential)
        if token.id != ref.id:
            raise Permanent(f"get {ref.id}: the API answered as another token")
        return token

    def _own_roles(self, token_id: str) -> tuple[Role, ...] | None:
        try:
            return self.get(TokenRef(token_id, Scope.ORGANIZATION)).roles
        except (Permanent, Temporary):
            return None

    def _with_role(self, token: Token, role: str | None) -> Token:
        """Give the token this role, in a call of its own before the update."""
        if role is None:
            return token
        changed = with_role(token, role)
        self.update_roles(token, changed)
        return replace(token, roles=changed)

    def _reading(self, ref: TokenRef, decode: Decode[Result]) -> Call[Result]:
        return Call(Operation.GET, "GET", self._generation.item(self.organization_id, ref), decode, ref.id)

    def _rotation(self, ref: TokenRef, decode: Decode[Result]) -> Call[Result]:
        path = f"{self._generation.item(self.organization_id, ref)}/rotate"
        return Call(Operation.ROTATE, "POST", path, decode, ref.id)

    def _creation(self, new: NewToken, decode: Decode[Result]) -> Call[Result]:
        path = self._generation.home_of(self.organization_id, _ref_of_new(new))
        return Call(Operation.CREATE, "POST", path, decode, json=self._generation.new_body(new))

    def _change(self, token: Token, name: str, description: str, decode: Decode[Result]) -> Call[Result]:
        path = self._generation.item(self.organization_id, ref_of(token))
        body = self._generation.update_body(token, name, description)
        return Call(Operation.UPDATE, "POST", path, decode, token.id, json=body)

    def _home(self, ref: TokenRef) -> Home:
        return Home(self.organization_id, ref.workspace_id, ref.deployment_id)

    def _send(self, call: Call[Result], credential: ReadSecret | None = None) -> Result:
        """Send with the given credential, or with our own."""
        if credential is not None:
            return self._http.send(call, credential, self._limiters)
        return self._own.send(
            lambda read: self._http.send(call, read, self._limiters), is_repeatable=call.operation.is_repeatable
        )


def ref_of(token: Token) -> TokenRef:
    """Return how to address a token."""
    return TokenRef(token.id, token.scope, token.workspace_id, token.deployment_id)


def with_role(token: Token, role: str) -> tuple[Role, ...]:
    """Return the token's roles with another one for its own scope."""
    return tuple(
        [replace(held, role=role) if held.entity_type == token.scope.upper() else held for held in token.roles]
    )


def _ref_of_new(new: NewToken) -> TokenRef:
    workspace = new.home if new.scope is Scope.WORKSPACE else ""
    return TokenRef("", new.scope, workspace, new.home if new.scope is Scope.DEPLOYMENT else "")


def _demand_same(token_id: str, ref: TokenRef) -> None:
    if token_id != ref.id:
        raise OutcomeUnknown(f"rotate {ref.id}: the answer is about another token")
