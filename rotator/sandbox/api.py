"""The application behind the edge: routes, permissions and the three generations over one store.

Pure but for the store it is handed. The server calls `route` first, for limits and faults need to know the operation,
and `Api.answer` once it decided that the call takes effect. It knows the caller; it never sees a bearer.

Source: fact sheet sections 1.1 to 1.3 for shapes, 2.4 for permissions, 3.3 and 3.4 for paging and errors.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

import msgspec

from rotator.sandbox.store import SCOPES, Draft, Record, Role, Store

DEFAULT_LIMIT = 20
LARGEST_LIMIT = 1000
JSON = "application/json"
TEXT = "text/plain"
HTML = "text/html; charset=utf-8"

_ROUTES = re.compile(
    r"/(?P<base>v1|iam/v1beta1)/organizations/(?P<org>[^/]+)/tokens(?:/(?P<id>[^/]+)(?:/(?P<verb>rotate|roles))?)?"
)
_NESTED = re.compile(
    r"/(?P<base>v1alpha1)/organizations/(?P<org>[^/]+)(?:/(?P<home>workspaces|deployments)/(?P<entity>[^/]+))?"
    r"/api-tokens(?:/(?P<id>[^/]+)(?:/(?P<verb>rotate))?)?"
)
_ORGANIZATIONS = re.compile(r"/(v1|platform/v1beta1|v1alpha1)/organizations")
_HOME_SCOPES = {"workspaces": "WORKSPACE", "deployments": "DEPLOYMENT", None: "ORGANIZATION"}
_ENTITY_TYPES = frozenset({*SCOPES, "DAG", "DAG_TAG"})
_KINDS = frozenset({"STANDARD", "DIRECT_ACCESS"})
_ORGANIZATION_ROLES = frozenset(
    f"ORGANIZATION_{name}" for name in ("OWNER", "BILLING_ADMIN", "MEMBER", "OBSERVE_ADMIN", "OBSERVE_MEMBER")
)
_WORKSPACE_ROLES = frozenset(f"WORKSPACE_{name}" for name in ("OWNER", "OPERATOR", "AUTHOR", "MEMBER", "ACCESSOR"))
_MANAGERS = ("WORKSPACE_OWNER", "WORKSPACE_OPERATOR")  # the first manages deployment tokens as well
_SORTS = frozenset({"name", "description", "createdAt", "updatedAt", "tokenStartAt"})
_NESTED_SORTS = _SORTS | {"id", "shortToken", "createdById", "updatedById"}

Query = Mapping[str, list[str]]
Json = dict[str, object]


@dataclass(frozen=True, slots=True)
class Route:
    """What a request asks for.

    Attributes:
        operation: list, get, create, update, delete, rotate, roles, organizations; "unknown" without a route.
        generation: v1, v1beta1 or v1alpha1.
        allowed: Whether the path has this method.
        scope, entity_id: The collection of v1alpha1.
    """

    operation: str
    generation: str = "v1"
    organization_id: str = ""
    token_id: str = ""
    allowed: bool = True
    scope: str = ""
    entity_id: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    body: bytes = b""
    content_type: str = JSON
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Asked:
    """The rest of a request."""

    route: Route
    query: Query
    body: bytes
    caller: Record


class Refused(Exception):
    """The application answers with an error."""

    def __init__(self, status: int, message: str, field_name: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.field_name = field_name


def route(method: str, path: str) -> Route:
    """Return what a method and a path mean."""
    if _ORGANIZATIONS.fullmatch(path):
        return Route("organizations", allowed=method == "GET")
    found = _ROUTES.fullmatch(path) or _NESTED.fullmatch(path)
    if found is None:
        return Route("unknown")
    parts = found.groupdict()
    operation = _operation(method, parts["id"], parts["verb"])
    nested = parts["base"] == "v1alpha1"
    return Route(
        operation=operation or "unknown",
        generation=parts["base"].rpartition("/")[2],
        organization_id=parts["org"],
        token_id=parts["id"] or "",
        allowed=bool(operation),
        scope=_HOME_SCOPES[parts["home"]] if nested else "",
        entity_id=(parts["entity"] or "") if nested else "",
    )


def error(status: int, message: str, field_name: str = "") -> Answer:
    """Return an application error; a field name makes it a failed validation."""
    body: Json = {"message": message, "requestId": str(uuid.uuid4()), "statusCode": status}
    if field_name:
        body["fieldErrors"] = [{"code": "invalid", "field": field_name, "message": message}]
    return Answer(status, msgspec.json.encode(body))


class Api:
    """The application.

    Args:
        store: What it works on.
        readers: "all" lets each token read itself, "owners" only those that manage it.
    """

    def __init__(self, store: Store, readers: str = "all") -> None:
        self._store = store
        self._readers = readers
        self._verbs: Mapping[str, Callable[[Asked], Answer]] = {
            "organizations": self._organizations,
            "list": self._list,
            "get": self._get,
            "create": self._create,
            "update": self._update,
            "delete": self._delete,
            "rotate": self._rotate,
            "roles": self._roles,
        }

    def answer(self, asked: Asked) -> Answer:
        """Do what is asked, and return the response."""
        verb = self._verbs.get(asked.route.operation)
        try:
            if not asked.route.allowed:
                raise Refused(405, "Method not allowed")
            if verb is None:
                raise Refused(404, "Not found")
            if asked.route.organization_id not in ("", self._store.organization_id):
                raise Refused(403, "You do not have access to this organization")
            return verb(asked)
        except Refused as refused:
            field_name = "" if asked.route.generation == "v1alpha1" else refused.field_name
            return error(refused.status, refused.message, field_name)

    def _organizations(self, asked: Asked) -> Answer:
        offset, limit = _paging(asked.query, LARGEST_LIMIT)
        made, owner = (
            shown_time(self._store.tokens[self._store.owner_id].created_at),
            self._profile(self._store.owner_id),
        )
        rows: list[Json] = [
            {
                "id": self._store.organization_id,
                "name": "Sandbox",
                "product": "HOSTED",
                "status": "ACTIVE",
                "supportPlan": "STANDARD",
                "isScimEnabled": False,
                "createdAt": made,
                "updatedAt": made,
                "createdBy": owner,
                "updatedBy": owner,
            }
        ]
        shown = rows[offset : offset + limit]
        return json_answer({"organizations": shown, "limit": limit, "offset": offset, "totalCount": len(rows)})

    def _list(self, asked: Asked) -> Answer:
        nested = asked.route.generation == "v1alpha1"
        offset, limit = _paging(asked.query, None if nested else LARGEST_LIMIT)
        sorts = _sorts(asked.query, _NESTED_SORTS if nested else _SORTS)
        key, keep = self._nested_filter(asked) if nested else self._filter(asked.query)
        caller = asked.caller
        if not self._is_owner(caller):
            if not any(caller.has_role(workspace, *_MANAGERS) for workspace in self._store.workspaces):
                raise Refused(403, "You do not have permission to list API tokens")
            key, keep = (key, caller.id, caller.roles), self._visible(keep, caller)
        ids = self._store.view(key, keep, sorts, _comparable)
        found = [self._store.tokens.get(token_id) for token_id in ids[offset : offset + limit]]
        rows = [self._shown(record, asked.route) for record in found if record is not None]
        name = "apiTokens" if nested else "tokens"
        return json_answer({name: rows, "limit": limit, "offset": offset, "totalCount": len(ids)})

    def _get(self, asked: Asked) -> Answer:
        record = self._target(asked)
        own = record.id == asked.caller.id and self._readers == "all"
        if not own and not self._manages(asked.caller, record.scope, record.workspace_id):
            raise Refused(403, "You do not have permission to read this API token")
        return json_answer(self._shown(record, asked.route))

    def _create(self, asked: Asked) -> Answer:
        draft = self._draft(decoded(asked.body), asked.route)
        workspace = self._store.workspace_of(draft.scope, draft.entity_id)
        self._need(asked.caller, draft.scope, workspace)
        return self._with_secret(self._store.create(draft, asked.caller.id), asked.route)

    def _update(self, asked: Asked) -> Answer:
        record, nested = self._managed(asked), asked.route.generation == "v1alpha1"
        body = decoded(asked.body)
        name = _text(body, "name", 256, shortest=1)
        description = _text(body, "description", 500) if nested or body.get("description") is not None else None
        if nested:
            self._store.set_roles(record.id, asked.caller.id, _nested_roles(body, record))
        return json_answer(self._shown(self._store.update(record.id, asked.caller.id, name, description), asked.route))

    def _delete(self, asked: Asked) -> Answer:
        self._store.delete(self._managed(asked).id)
        return Answer(204)

    def _rotate(self, asked: Asked) -> Answer:
        record = self._managed(asked)
        return self._with_secret(self._store.rotate(record.id, asked.caller.id), asked.route)

    def _roles(self, asked: Asked) -> Answer:
        record = self._managed(asked)
        rows = decoded(asked.body).get("roles")
        if not isinstance(rows, list) or not rows:
            raise Refused(400, "roles must have at least 1 item", "roles")
        roles = tuple([_role(row) for row in rows])
        _check_roles(record, roles)
        self._store.set_roles(record.id, asked.caller.id, roles)
        return json_answer(_subject_roles(roles))

    def _target(self, asked: Asked) -> Record:
        """Return the token of the path; in v1alpha1 it must live in the path's collection."""
        record, route_ = self._store.tokens.get(asked.route.token_id), asked.route
        if record is None or (route_.scope and route_.scope != record.scope):
            raise Refused(404, f"API token {route_.token_id} not found")
        if route_.entity_id and route_.entity_id != record.entity_id:
            raise Refused(404, f"API token {route_.token_id} not found")
        return record

    def _managed(self, asked: Asked) -> Record:
        record = self._target(asked)
        self._need(asked.caller, record.scope, record.workspace_id)
        return record

    def _need(self, caller: Record, scope: str, workspace_id: str) -> None:
        if not self._manages(caller, scope, workspace_id):
            raise Refused(403, "You do not have permission to manage this API token")

    def _manages(self, caller: Record, scope: str, workspace_id: str) -> bool:
        if self._is_owner(caller):
            return True
        if not workspace_id:
            return False
        return caller.has_role(workspace_id, *(_MANAGERS if scope == "WORKSPACE" else _MANAGERS[:1]))

    def _is_owner(self, caller: Record) -> bool:
        return caller.has_role(self._store.organization_id, "ORGANIZATION_OWNER")

    def _visible(self, keep: Callable[[Record], bool] | None, caller: Record) -> Callable[[Record], bool]:
        return lambda record: (
            self._manages(caller, record.scope, record.workspace_id) and (keep is None or keep(record))
        )

    def _filter(self, query: Query) -> tuple[object, Callable[[Record], bool] | None]:
        only = last(query, "includeOnlyOrganizationTokens").lower() in ("true", "1")
        workspace, deployment, kind = last(query, "workspaceId"), last(query, "deploymentId"), last(query, "kind")
        if kind and kind not in _KINDS:
            raise Refused(400, "kind must be one of STANDARD, DIRECT_ACCESS", "kind")
        if not (only or workspace or deployment or kind):
            return (), None

        def keep(record: Record) -> bool:
            return (
                (not only or record.scope == "ORGANIZATION")
                and (not workspace or record.workspace_id == workspace or _reaches(record, workspace))
                and (not deployment or _reaches(record, deployment))
                and (not kind or record.kind == kind)
            )

        return (only, workspace, deployment, kind), keep

    def _nested_filter(self, asked: Asked) -> tuple[object, Callable[[Record], bool]]:
        scope, entity = asked.route.scope, asked.route.entity_id
        if scope == "ORGANIZATION":
            return scope, lambda record: record.scope == "ORGANIZATION"
        known = self._store.workspaces if scope == "WORKSPACE" else self._store.deployments
        if entity not in known:
            raise Refused(404, f"{scope.capitalize()} {entity} not found")
        possible = SCOPES[: SCOPES.index(scope) + 1]
        types = frozenset(asked.query.get("tokenTypes", possible))
        if not types <= set(possible):
            raise Refused(400, f"tokenTypes must be of {', '.join(possible)}", "tokenTypes")
        return (scope, entity, types), lambda record: record.scope in types and _reaches(record, entity)

    def _draft(self, body: Json, asked: Route) -> Draft:
        nested = asked.generation == "v1alpha1"
        scope_field = "scope" if asked.generation == "v1" else "type"
        scope = asked.scope if nested else body.get(scope_field)
        if not isinstance(scope, str) or scope not in SCOPES:
            raise Refused(400, f"{scope_field} must be one of {', '.join(SCOPES)}", scope_field)
        days, kind = body.get("tokenExpiryPeriodInDays"), body.get("kind", "STANDARD")
        if days is not None and (isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= 3650):
            raise Refused(400, "tokenExpiryPeriodInDays must be between 1 and 3650", "tokenExpiryPeriodInDays")
        if not isinstance(kind, str) or kind not in _KINDS:
            raise Refused(400, "kind must be one of STANDARD, DIRECT_ACCESS", "kind")
        return Draft(
            name=_text(body, "name", 256, shortest=1),
            scope=scope,
            entity_id=self._entity(scope, asked.entity_id if nested else body.get("entityId")),
            role=_role_name(scope, body.get("role"), "role"),
            description="" if body.get("description") is None else _text(body, "description", 500),
            kind=kind,
            expiry_days=days,
        )

    def _entity(self, scope: str, given: object) -> str:
        if scope == "ORGANIZATION":
            return self._store.organization_id
        known = self._store.workspaces if scope == "WORKSPACE" else self._store.deployments
        if not isinstance(given, str) or given not in known:
            raise Refused(400, f"entityId must be a {scope.lower()} of this organization", "entityId")
        return given

    def _with_secret(self, record: Record, asked: Route) -> Answer:
        return json_answer(self._shown(record, asked) | {"token": self._store.secret_of(record.id)})

    def _shown(self, record: Record, asked: Route) -> Json:
        shown: Json = {
            "id": record.id,
            "name": record.name,
            "description": record.description,
            "scope" if asked.generation == "v1" else "type": record.scope,
            "shortToken": record.short_token,
            "startAt": shown_time(record.start_at),
            "createdAt": shown_time(record.created_at),
            "updatedAt": shown_time(record.updated_at),
            "roles": [_shown_role(role) for role in record.roles],
            "createdBy": self._profile(record.created_by),
            "updatedBy": self._profile(record.updated_by),
        }
        if record.end_at is not None:
            shown["endAt"] = shown_time(record.end_at)
        if record.expiry_days is not None:
            shown["expiryPeriodInDays"] = record.expiry_days
        if record.last_used_at is not None:
            shown["lastUsedAt"] = shown_time(record.last_used_at)
        return shown | self._own_fields(record, asked)

    def _own_fields(self, record: Record, asked: Route) -> Json:
        """Return what one generation alone has."""
        if asked.generation == "v1alpha1":
            return {
                "createdById": record.created_by,
                "updatedById": record.updated_by,
                "organizationId": self._store.organization_id,
                "organizationName": "Sandbox",
            }
        own: Json = {"kind": record.kind}
        if record.last_rotated_at is not None:
            own["lastRotatedAt"] = shown_time(record.last_rotated_at)
        return own

    def _profile(self, token_id: str) -> Json:
        author = self._store.tokens.get(token_id)
        profile: Json = {"id": token_id, "subjectType": "SERVICEKEY"}
        return profile if author is None else profile | {"apiTokenName": author.name}


def _operation(method: str, token_id: str | None, verb: str | None) -> str:
    if verb:
        return verb if method == "POST" else ""
    if token_id:
        return {"GET": "get", "POST": "update", "DELETE": "delete"}.get(method, "")
    return {"GET": "list", "POST": "create"}.get(method, "")


def json_answer(body: Json) -> Answer:
    """Return a success."""
    return Answer(200, msgspec.json.encode(body))


def shown_time(moment: datetime) -> str:
    """Return a time as the API spells it."""
    return f"{moment.isoformat(timespec='milliseconds')[:-6]}Z"


def _comparable(record: Record, name: str) -> str:
    return _COMPARED[name](record)


_COMPARED: Mapping[str, Callable[[Record], str]] = {
    "name": lambda row: row.name,
    "description": lambda row: row.description,
    "createdAt": lambda row: shown_time(row.created_at),
    "updatedAt": lambda row: shown_time(row.updated_at),
    "tokenStartAt": lambda row: shown_time(row.start_at),
    "id": lambda row: row.id,
    "shortToken": lambda row: row.short_token,
    "createdById": lambda row: row.created_by,
    "updatedById": lambda row: row.updated_by,
}


def _reaches(record: Record, entity_id: str) -> bool:
    return any(entity_id in (role.entity_id, role.deployment_id) for role in record.roles)


def last(query: Query, name: str) -> str:
    """Return a parameter that may be given once."""
    return query.get(name, [""])[-1]


def _paging(query: Query, largest: int | None) -> tuple[int, int]:
    offset, limit = _whole(query, "offset", 0), _whole(query, "limit", DEFAULT_LIMIT)
    if largest is not None and limit > largest:
        raise Refused(400, f"limit must be at most {largest}", "limit")
    return offset, limit


def _whole(query: Query, name: str, default: int) -> int:
    text = last(query, name)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Refused(400, f"{name} must be a whole number from 0", name)
    return int(text)


def _sorts(query: Query, known: frozenset[str]) -> tuple[tuple[str, bool], ...]:
    found = []
    for text in query.get("sorts", []):
        name, _, direction = text.partition(":")
        if name not in known or direction not in ("asc", "desc"):
            raise Refused(400, "sorts must be a known field with :asc or :desc", "sorts")
        found.append((name, direction == "desc"))
    return tuple(found)


def decoded(raw: bytes) -> Json:
    """Return a request's body; raises Refused."""
    try:
        return msgspec.json.decode(raw, type=dict[str, object])
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise Refused(400, "The request body is not a JSON object") from None


def _text(body: Json, name: str, longest: int, shortest: int = 0) -> str:
    given = body.get(name)
    if not isinstance(given, str) or not shortest <= len(given) <= longest:
        raise Refused(400, f"{name} must have between {shortest} and {longest} characters", name)
    return given


def _role_name(entity_type: str, given: object, field_name: str) -> str:
    known = {"ORGANIZATION": _ORGANIZATION_ROLES, "WORKSPACE": _WORKSPACE_ROLES}.get(entity_type)
    if not isinstance(given, str) or not given or (known is not None and given not in known):
        raise Refused(400, f"{field_name} must be a role of type {entity_type}", field_name)
    return given


def _role(row: object) -> Role:
    if not isinstance(row, dict):
        _bad_role("a role must be an object")
    kind, entity, deployment = row.get("entityType"), row.get("entityId"), row.get("deploymentId") or ""
    if kind not in _ENTITY_TYPES or not isinstance(entity, str) or not entity or not isinstance(deployment, str):
        _bad_role("a role must have entityType and entityId")
    if kind in ("DAG", "DAG_TAG") and not deployment:
        _bad_role("a role on a DAG must have deploymentId")
    return Role(str(kind), entity, _role_name(str(kind), row.get("role"), "roles"), deployment)


def _bad_role(message: str) -> NoReturn:
    raise Refused(400, message, "roles")


def _check_roles(record: Record, roles: tuple[Role, ...]) -> None:
    """Refuse roles above the token's scope, and any number but one of the scope's own.

    Source: fact sheet 2.5.
    """
    order = (*SCOPES, "DAG", "DAG_TAG")
    if any(order.index(role.entity_type) < order.index(record.scope) for role in roles):
        _bad_role(f"a {record.scope} token cannot have a role above its scope")
    own = [role for role in roles if role.entity_type == record.scope]
    if len(own) != 1 or own[0].entity_id != record.entity_id:
        _bad_role(f"a {record.scope} token must have exactly one role of its own scope")


def _nested_roles(body: Json, record: Record) -> tuple[Role, ...]:
    """Return the whole role set that an update in v1alpha1 asks for."""
    grouped = body.get("roles")
    own: object = body.get("role")
    rest: list[Role] = []
    if record.scope != "DEPLOYMENT" and isinstance(grouped, dict):
        own = grouped.get(record.scope.lower())
        for kind in SCOPES[SCOPES.index(record.scope) + 1 :]:
            rows = grouped.get(kind.lower()) or []
            rest.extend(_role({**row, "entityType": kind} if isinstance(row, dict) else row) for row in rows)
    if own is None and record.scope == "WORKSPACE" and not rest:
        return record.roles
    roles = (Role(record.scope, record.entity_id, _role_name(record.scope, own, "roles")), *rest)
    _check_roles(record, roles)
    return roles


def _shown_role(role: Role) -> Json:
    shown: Json = {"entityId": role.entity_id, "entityType": role.entity_type, "role": role.role}
    return shown | ({"deploymentId": role.deployment_id} if role.deployment_id else {})


def _subject_roles(roles: tuple[Role, ...]) -> Json:
    found: dict[str, list[Json]] = {"workspaceRoles": [], "deploymentRoles": [], "dagRoles": []}
    shown: Json = {}
    for role in roles:
        if role.entity_type == "ORGANIZATION":
            shown["organizationRole"] = role.role
        elif role.entity_type == "WORKSPACE":
            found["workspaceRoles"].append({"workspaceId": role.entity_id, "role": role.role})
        elif role.entity_type == "DEPLOYMENT":
            found["deploymentRoles"].append({"deploymentId": role.entity_id, "role": role.role})
        else:
            name = "dagId" if role.entity_type == "DAG" else "dagTag"
            found["dagRoles"].append({"deploymentId": role.deployment_id, "role": role.role, name: role.entity_id})
    return shown | {name: rows for name, rows in found.items() if rows}
