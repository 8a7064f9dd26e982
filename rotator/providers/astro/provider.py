"""The Astro provider: lists, reads and rotates tokens; the engine's `ports.Provider`.

It owns no state but connections, pacing and the measured clock skew. It never sends a rotate or a create twice.
"""

import json
import random
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta

import msgspec

from rotator.claims import claims
from rotator.errors import CredentialRejected, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Minted, Role, Scope, Token
from rotator.ports import Clock, Emit, Listing, TokenRef
from rotator.providers.astro.generations import GENERATIONS, PAGE
from rotator.providers.astro.http import AstroHttp, Call, Endpoint, ReadSecret
from rotator.providers.astro.limiter import Limiter
from rotator.providers.astro.seen import SeenIds
from rotator.providers.astro.wire import WirePage, decode_minted, decode_page, decode_token, to_token
from rotator.secret import Secret

PASSES = 4
Query = dict[str, str | int | list[str]]
_LIMITERS = 64  # of secrets that are being verified; idle ones are forgotten


@dataclass(frozen=True, slots=True)
class AstroSettings:
    """One `[providers.X]` table.

    Attributes:
        rate: Requests per second by lower-case method.
    """

    name: str
    organization_id: str
    api_version: str
    endpoint: Endpoint
    rate: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class NewToken:
    """What create needs; `home` is the workspace or deployment id, empty for organization tokens."""

    name: str
    scope: Scope
    role: str
    home: str = ""
    description: str = ""
    expires_in_days: int | None = None


class AstroProvider:
    """See `ports.Provider`.

    Args:
        settings: From the config.
        credential: Reads our credential anew at each call.
        clock: For pacing and retries.
        emit: Told of every request.
        dice: For the spread of retries.
    """

    def __init__(
        self, settings: AstroSettings, credential: ReadSecret, clock: Clock, emit: Emit, dice: random.Random
    ) -> None:
        self.name = settings.name
        self.organization_id = settings.organization_id
        self._generation = GENERATIONS[settings.api_version]
        self._rate = {method.upper(): limit for method, limit in settings.rate.items()}
        self._credential = credential
        self._clock = clock
        self._http = AstroHttp(settings.name, settings.endpoint, clock, emit, dice)
        self._limiter = Limiter(self._rate, clock)
        self._others: OrderedDict[str, Limiter] = OrderedDict()
        self._guard = threading.Lock()

    def list(self, listing: Listing) -> Iterator[Token]:
        """See `ports.Provider`."""
        seen = SeenIds()
        for path, query, scope, workspace in self._collections(listing):
            for token in self._whole(path, query, workspace):
                wanted = token.scope in listing.scopes and (scope is None or token.scope in scope)
                if wanted and seen.add(token.id):
                    yield token

    def get(self, ref: TokenRef) -> Token:
        """See `ports.Provider`."""
        return self._read(ref, None)

    def rotate(self, ref: TokenRef) -> Minted:
        """See `ports.Provider`."""
        path = f"{self._generation.item(self.organization_id, ref)}/rotate"
        return self._minted(Call("rotate", "POST", path, repeatable=False, subject=ref.id), ref.id)

    def authenticate(self, ref: TokenRef, secret: Secret) -> Token:
        """See `ports.Provider`."""
        return self._read(ref, secret)

    def own_token_id(self) -> str:
        """See `ports.Provider`."""
        own = claims(self._credential())
        return own.token_id if own else ""

    def clock_skew(self) -> timedelta | None:
        """See `ports.Provider`."""
        return self._http.skew

    def create(self, new: NewToken) -> Minted:
        """Make a token; its secret is in the answer and nowhere else.

        Raises:
            Temporary, Permanent: Certainly not made.
            OutcomeUnknown: Perhaps made.
        """
        body: dict[str, object] = {"name": new.name, "role": new.role, "description": new.description}
        if new.expires_in_days is not None:
            body["tokenExpiryPeriodInDays"] = new.expires_in_days
        ref = TokenRef("", new.scope, new.home, new.home)
        if not self._generation.nested:
            body[self._generation.scope_field] = new.scope.upper()
            if new.scope is not Scope.ORGANIZATION:
                body["entityId"] = new.home
        path = self._generation.collection(self.organization_id, ref)
        return self._minted(Call("create", "POST", path, repeatable=False, json=body), "")

    def update(self, token: Token, name: str, description: str, role: str | None) -> Token:
        """Change name, description and, when given, the role of the token's own scope; other roles stay.

        Raises:
            Temporary, Permanent: At least one of the changes was not made; repeating is safe.
        """
        ref, roles = ref_of(token), _with_role(token, role)
        path = self._generation.item(self.organization_id, ref)
        body: dict[str, object] = {"name": name, "description": description}
        if self._generation.nested:
            body |= _nested_roles(token.scope, roles)
        elif role is not None:
            changed = {"roles": [_wire_role(r) for r in roles]}
            self._send(Call("roles", "POST", f"{path}/roles", repeatable=True, subject=token.id, json=changed))
        answer = self._send(Call("update", "POST", path, repeatable=True, subject=token.id, json=body))
        return self._decoded(answer, token.id, "update")

    def delete(self, ref: TokenRef) -> None:
        """End a token for good; one that is gone already is fine.

        Raises:
            Temporary, Permanent: It may still be there; repeating is safe.
        """
        path = self._generation.item(self.organization_id, ref)
        self._send(Call("delete", "DELETE", path, repeatable=True, subject=ref.id))

    def raw(self, ref: TokenRef) -> dict[str, object]:
        """Return a token in the provider's own field names, without a secret."""
        return self._raw(
            Call("get", "GET", self._generation.item(self.organization_id, ref), repeatable=True, subject=ref.id)
        )

    def find(self, token_id: str, workspace_id: str = "") -> Token:
        """Return a token by id alone, trying the paths of v1alpha1 in turn.

        Raises:
            NotFound: Nowhere.
        """
        refs = [TokenRef(token_id, Scope.ORGANIZATION)]
        if self._generation.nested and workspace_id:
            refs.insert(0, TokenRef(token_id, Scope.WORKSPACE, workspace_id))
        for ref in refs[:-1]:
            try:
                return self.get(ref)
            except NotFound:
                continue
        return self.get(refs[-1])

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def _collections(self, listing: Listing) -> Iterator[tuple[str, Query, frozenset[Scope] | None, str]]:
        """Yield (path, query, scopes, workspace) so that each wanted token is listed with its workspace known."""
        nested, root = self._generation.nested, self._generation.collection(self.organization_id)
        inner = frozenset({Scope.WORKSPACE, Scope.DEPLOYMENT})
        if nested:
            if Scope.ORGANIZATION in listing.scopes:
                yield root, {}, frozenset({Scope.ORGANIZATION}), ""
            for scope, homes in ((Scope.WORKSPACE, listing.workspaces), (Scope.DEPLOYMENT, listing.deployments)):
                for home in sorted(homes) if scope in listing.scopes else ():
                    ref = TokenRef("", scope, home, home)
                    path = self._generation.collection(self.organization_id, ref)
                    yield path, {"tokenTypes": [scope.upper()]}, frozenset({scope}), ""
            return
        for workspace in sorted(listing.workspaces) if listing.scopes & inner else ():
            yield root, {"workspaceId": workspace}, inner, workspace
        if listing.everything:
            only = {"includeOnlyOrganizationTokens": "true"} if listing.scopes == {Scope.ORGANIZATION} else {}
            yield root, dict(only), None, ""

    def _whole(self, path: str, query: Query, workspace: str) -> Iterator[Token]:
        """Yield a collection, listing it again while it moves; the caller drops what came before."""
        for _ in range(PASSES):
            ids, totals = SeenIds(), set()
            for page in self._pages(path, query):
                totals.add(page.total_count)
                for wire in page.items:
                    token = to_token(wire, self.organization_id, workspace) if ids.add(wire.id) else None
                    if token is not None:
                        yield token
            if totals == {len(ids)}:
                return
        raise Temporary(f"list: the listing kept moving through {PASSES} passes; nothing was concluded from it")

    def _pages(self, path: str, query: Query) -> Iterator[WirePage]:
        offset, total = 0, 1
        while offset < total:
            paging: Query = {"offset": offset, "limit": PAGE, "sorts": "createdAt:asc"}
            body = self._send(Call("list", "GET", path, repeatable=True, query=query | paging))
            try:
                page = decode_page(body)
            except msgspec.MsgspecError:
                raise Temporary("list: the answer is no page of tokens") from None
            yield page
            if not page.items:
                return
            offset, total = offset + len(page.items), page.total_count

    def _read(self, ref: TokenRef, secret: Secret | None) -> Token:
        path = self._generation.item(self.organization_id, ref)
        token = self._decoded(
            self._send(Call("get", "GET", path, repeatable=True, subject=ref.id), secret), ref.id, "get"
        )
        return replace(token, workspace_id=token.workspace_id or ref.workspace_id) if ref.workspace_id else token

    def _decoded(self, body: bytes, token_id: str, operation: str) -> Token:
        try:
            token = decode_token(body, self.organization_id)
        except msgspec.MsgspecError:
            raise Temporary(f"{operation} {token_id}: the answer is no token") from None
        if token.id != token_id:
            raise Permanent(f"{operation} {token_id}: the API answered with another token")
        return token

    def _minted(self, call: Call, token_id: str) -> Minted:
        try:
            minted = decode_minted(self._send(call), self.organization_id)
        except msgspec.MsgspecError:
            minted = None
        if minted is None or (token_id and minted.token.id != token_id):
            raise OutcomeUnknown(f"{call.operation} {token_id}: the answer holds no new secret of this token")
        return minted

    def _raw(self, call: Call) -> dict[str, object]:
        try:
            shown = json.loads(self._send(call))
        except ValueError:
            shown = None
        if not isinstance(shown, dict):
            raise Temporary(f"{call.operation} {call.subject}: the answer is no token")
        shown.pop("token", None)
        return shown

    def _send(self, call: Call, secret: Secret | None = None) -> bytes:
        """Send with our credential, or with `secret`; a read meets a credential that was just replaced once more."""
        if secret is not None:
            return self._http.send(call, secret, self._limiter_of(secret))
        ours = self._credential()
        try:
            return self._http.send(call, ours, self._limiter)
        except CredentialRejected:
            anew = self._credential()
            if not call.repeatable or anew == ours:
                raise
        return self._http.send(call, anew, self._limiter)

    def _limiter_of(self, secret: Secret) -> Limiter:
        known = claims(secret)
        key = known.token_id if known and known.token_id else ""
        with self._guard:
            limiter = self._others.pop(key, None) or Limiter(self._rate, self._clock)
            self._others[key] = limiter
            if len(self._others) > _LIMITERS:
                self._others.popitem(last=False)
        return limiter


def ref_of(token: Token) -> TokenRef:
    """Return how to address a token."""
    return TokenRef(token.id, token.scope, token.workspace_id, token.deployment_id)


def _with_role(token: Token, role: str | None) -> tuple[Role, ...]:
    if role is None:
        return token.roles
    return tuple(replace(r, role=role) if r.entity_type == token.scope.upper() else r for r in token.roles)


def _wire_role(role: Role) -> dict[str, str]:
    body = {"entityId": role.entity_id, "entityType": role.entity_type, "role": role.role}
    return body | ({"deploymentId": role.deployment_id} if role.deployment_id else {})


def _nested_roles(scope: Scope, roles: tuple[Role, ...]) -> dict[str, object]:
    """Return the roles as v1alpha1 wants them inside an update: all of them, or those left out are gone."""
    own = next((role.role for role in roles if role.entity_type == scope.upper()), "")
    if scope is Scope.DEPLOYMENT:
        return {"role": own}
    grouped: dict[str, object] = {str(scope): own}
    for kind in ("WORKSPACE", "DEPLOYMENT"):
        rows = [{"entityId": r.entity_id, "role": r.role} for r in roles if r.entity_type == kind]
        if rows and kind != scope.upper():
            grouped[kind.lower()] = rows
    return {"roles": grouped}


def error_of(error: RotatorError) -> str:
    """Return which of the five an error is, for events."""
    kinds = ((Temporary, "temporary"), (OutcomeUnknown, "unknown"))
    return next((word for kind, word in kinds if isinstance(error, kind)), "permanent")
