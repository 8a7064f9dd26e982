"""How the three generations of the API differ: paths, spellings, listings and bodies; pure.

Two shapes cover them: `Flat` (v1, iam v1beta1: every token under the organization, roles at a path of their own) and
`Nested` (v1alpha1: workspace and deployment tokens under their homes, roles inside the update). `GENERATIONS` is the
table; nothing else in this package asks which generation it speaks.

Source: the OpenAPI documents of v1 and iam v1beta1, and the generated client of v1alpha1.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from rotator.errors import Permanent
from rotator.model import NewToken, Role, Scope, Token
from rotator.ports import Listing, TokenRef
from rotator.providers.astro.wire import Home, Json

PAGE = 1000  # the documented maximum; v1alpha1 documents none, and a page that comes shorter is no error
Query = Mapping[str, str]

_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_INNER = frozenset({Scope.WORKSPACE, Scope.DEPLOYMENT})


@dataclass(frozen=True, slots=True)
class Collection:
    """One list that can be paged through.

    Attributes:
        query: Its filters.
        scopes: What is wanted of it; the rest only counts.
        home: What is known of every token in it.
    """

    path: str
    query: Query
    scopes: frozenset[Scope]
    home: Home


@dataclass(frozen=True)
class Generation(ABC):
    """One generation of the API.

    Attributes:
        base: Below `base_url`.
        noun: The collection's name in paths.
        list_key: What a page calls its tokens.
        scope_field: What a token's scope is called in bodies.
    """

    base: str
    noun: str
    list_key: str
    scope_field: str

    def root(self, organization_id: str) -> str:
        """Return the path of the organization."""
        return f"{self.base}/organizations/{_safe(organization_id)}"

    def tokens(self, organization_id: str) -> str:
        """Return the path of the organization's own collection."""
        return f"{self.root(organization_id)}/{self.noun}"

    def item(self, organization_id: str, ref: TokenRef) -> str:
        """Return the path of one token.

        Raises:
            Permanent: An id is missing or cannot stand in a path.
        """
        return f"{self.home_of(organization_id, ref)}/{_safe(ref.id)}"

    @abstractmethod
    def home_of(self, organization_id: str, ref: TokenRef) -> str:
        """Return the path of the collection that a token is addressed in."""

    @abstractmethod
    def collections(self, organization_id: str, listing: Listing) -> Iterator[Collection]:
        """Yield what has to be listed, so that each token comes first where its home is known."""

    @abstractmethod
    def new_body(self, new: NewToken) -> Json:
        """Return the body of a create."""

    @abstractmethod
    def update_body(self, token: Token, name: str, description: str) -> Json:
        """Return the body of an update that leaves the roles as they are."""

    @abstractmethod
    def roles_call(self, item: str, token: Token, roles: Sequence[Role]) -> tuple[str, Json]:
        """Return path and body of the call that replaces all roles."""

    @abstractmethod
    def guesses(self, token_id: str, workspace_id: str, deployment_id: str) -> Sequence[TokenRef]:
        """Return how a token of which only the id is known may be addressed, likeliest first."""


class Flat(Generation):
    """v1 and iam v1beta1: an id alone addresses a token, so several arguments do not matter here."""

    def home_of(self, organization_id: str, ref: TokenRef) -> str:  # noqa: ARG002
        """See `Generation`."""
        return self.tokens(organization_id)

    def collections(self, organization_id: str, listing: Listing) -> Iterator[Collection]:
        """See `Generation`."""
        path, inner = self.tokens(organization_id), listing.scopes & _INNER
        for workspace in sorted(listing.workspaces) if inner else ():
            home = Home(organization_id, workspace_id=workspace)
            yield Collection(path, {"workspaceId": _safe(workspace)}, inner, home)
        if listing.everything:
            only = listing.scopes == {Scope.ORGANIZATION}
            query = {"includeOnlyOrganizationTokens": "true"} if only else {}
            yield Collection(path, query, listing.scopes, Home(organization_id))
            return
        for deployment in sorted(listing.deployments) if Scope.DEPLOYMENT in inner else ():
            home = Home(organization_id, deployment_id=deployment)
            yield Collection(path, {"deploymentId": _safe(deployment)}, frozenset({Scope.DEPLOYMENT}), home)

    def new_body(self, new: NewToken) -> Json:
        """See `Generation`."""
        body = _new_body(new) | {self.scope_field: new.scope.upper()}
        if new.scope is not Scope.ORGANIZATION:
            body["entityId"] = _safe(new.home)
        return body | ({"kind": new.kind} if new.kind != "STANDARD" else {})

    def update_body(self, token: Token, name: str, description: str) -> Json:  # noqa: ARG002
        """See `Generation`."""
        return {"name": name, "description": description}

    def roles_call(self, item: str, token: Token, roles: Sequence[Role]) -> tuple[str, Json]:  # noqa: ARG002
        """See `Generation`."""
        return f"{item}/roles", {"roles": [_wire_role(role) for role in roles]}

    def guesses(self, token_id: str, workspace_id: str, deployment_id: str) -> Sequence[TokenRef]:  # noqa: ARG002
        """See `Generation`."""
        return [TokenRef(token_id, Scope.ORGANIZATION)]


class Nested(Generation):
    """v1alpha1."""

    def home_of(self, organization_id: str, ref: TokenRef) -> str:
        """See `Generation`."""
        if ref.scope is Scope.ORGANIZATION:
            return self.tokens(organization_id)
        home = ref.workspace_id if ref.scope is Scope.WORKSPACE else ref.deployment_id
        return f"{self.root(organization_id)}/{ref.scope}s/{_safe(home)}/{self.noun}"

    def collections(self, organization_id: str, listing: Listing) -> Iterator[Collection]:
        """See `Generation`."""
        if listing.everything and Scope.ORGANIZATION in listing.scopes:
            organization = frozenset({Scope.ORGANIZATION})
            yield Collection(self.tokens(organization_id), {}, organization, Home(organization_id))
        for scope, homes in ((Scope.WORKSPACE, listing.workspaces), (Scope.DEPLOYMENT, listing.deployments)):
            for place in sorted(homes) if scope in listing.scopes else ():
                path = self.home_of(organization_id, TokenRef("", scope, place, place))
                is_workspace = scope is Scope.WORKSPACE
                home = Home(organization_id, place if is_workspace else "", "" if is_workspace else place)
                yield Collection(path, {"tokenTypes": scope.upper()}, frozenset({scope}), home)

    def new_body(self, new: NewToken) -> Json:
        """See `Generation`."""
        if new.kind != "STANDARD":
            raise Permanent("create: v1alpha1 knows standard tokens only; set api_version to v1")
        return _new_body(new)

    def update_body(self, token: Token, name: str, description: str) -> Json:
        """See `Generation`."""
        return {"name": name, "description": description} | _grouped(token.scope, token.roles)

    def roles_call(self, item: str, token: Token, roles: Sequence[Role]) -> tuple[str, Json]:
        """See `Generation`."""
        return item, {"name": token.name, "description": token.description} | _grouped(token.scope, roles)

    def guesses(self, token_id: str, workspace_id: str, deployment_id: str) -> Sequence[TokenRef]:
        """See `Generation`."""
        workspace = [TokenRef(token_id, Scope.WORKSPACE, workspace_id)] if workspace_id else []
        deployment = [TokenRef(token_id, Scope.DEPLOYMENT, "", deployment_id)] if deployment_id else []
        return [*workspace, *deployment, TokenRef(token_id, Scope.ORGANIZATION)]


GENERATIONS: Mapping[str, Generation] = {
    "v1": Flat("/v1", "tokens", "tokens", "scope"),
    "v1beta1": Flat("/iam/v1beta1", "tokens", "tokens", "type"),
    "v1alpha1": Nested("/v1alpha1", "api-tokens", "apiTokens", "type"),
}


def _safe(identifier: str) -> str:
    """Return an id that is safe in a path or a query: ids come from the API and are untrusted."""
    if not _SAFE_ID.fullmatch(identifier):
        raise Permanent(
            "an id holds characters that cannot stand in a path" if identifier else "an id is missing in a path"
        )
    return identifier


def _new_body(new: NewToken) -> Json:
    body: Json = {"name": new.name, "role": new.role, "description": new.description}
    return body | ({} if new.expires_in_days is None else {"tokenExpiryPeriodInDays": new.expires_in_days})


def _wire_role(role: Role) -> Json:
    body: Json = {"entityId": role.entity_id, "entityType": role.entity_type, "role": role.role}
    return body | ({"deploymentId": role.deployment_id} if role.deployment_id else {})


def _grouped(scope: Scope, roles: Sequence[Role]) -> Json:
    """Return the roles as v1alpha1 wants them inside an update: all of them, or those left out are gone."""
    own = next((role.role for role in roles if role.entity_type == scope.upper()), "")
    rest = [role for role in roles if role.entity_type != scope.upper()]
    below = {Scope.ORGANIZATION: ("WORKSPACE", "DEPLOYMENT"), Scope.WORKSPACE: ("DEPLOYMENT",)}.get(scope, ())
    if not own or any(role.entity_type not in below for role in rest):
        raise Permanent("update: v1alpha1 cannot express the roles of this token; set api_version to v1")
    if scope is Scope.DEPLOYMENT:
        return {"role": own}
    grouped: Json = {str(scope): own}
    for kind in below:
        rows = [{"entityId": role.entity_id, "role": role.role} for role in rest if role.entity_type == kind]
        if rows:
            grouped[kind.lower()] = rows
    return {"roles": grouped}
