"""Deployments and environment objects behind the edge, added to the application of tokens in v1.

An update of a Deployment replaces all of it; an update of an object drops the links that it leaves out. Secrets come
back masked.

Source: fact sheet 4.1 and 4.2; the OpenAPI document of v1 for shapes.
"""

import re
from collections.abc import Mapping, Sequence

from rotator.sandbox.api import Answer, Api, Asked, Refused, Route, decoded, json_answer, last, shown_time
from rotator.sandbox.api import route as token_route
from rotator.sandbox.environment import Deployment, Environment, EnvObject, Json
from rotator.sandbox.store import Record, Store

_ROUTES = re.compile(
    r"/v1/organizations/(?P<org>[^/]+)/(?P<noun>deployments|environment-objects)"
    r"(?:/(?P<id>[^/]+)(?:/(?P<verb>exclude-linking))?)?"
)
_OPERATIONS: Mapping[tuple[str, str, bool, bool], str] = {
    ("GET", "deployments", True, False): "deployment_get",
    ("POST", "deployments", True, False): "deployment_update",
    ("GET", "environment-objects", False, False): "objects_list",
    ("POST", "environment-objects", False, False): "object_create",
    ("GET", "environment-objects", True, False): "object_get",
    ("POST", "environment-objects", True, False): "object_update",
    ("DELETE", "environment-objects", True, False): "object_delete",
    ("POST", "environment-objects", True, True): "object_exclude",
}
_TYPED = {
    "CONNECTION": "connection",
    "AIRFLOW_VARIABLE": "airflowVariable",
    "ENVIRONMENT_VARIABLE": "environmentVariable",
}
_MANAGERS = ("WORKSPACE_OWNER", "WORKSPACE_OPERATOR", "WORKSPACE_AUTHOR")
_COMMON = ("name", "type", "workspaceId", "executor", "isCicdEnforced", "isDagDeployEnabled", "environmentVariables")
_REQUIRED = {
    "STANDARD": (*_COMMON, "schedulerSize", "isHighAvailability"),
    "DEDICATED": (*_COMMON, "schedulerSize", "isHighAvailability"),
    "HYBRID": (*_COMMON, "scheduler"),
}
_OPTIONAL = (
    "description", "contactEmails", "defaultTaskPodCpu", "defaultTaskPodMemory", "resourceQuotaCpu",
    "resourceQuotaMemory", "workerQueues", "scalingSpec", "remoteExecution", "workloadIdentity", "drWorkloadIdentity",
    "isDevelopmentMode", "taskPodNodePoolId",
)  # fmt: skip
_CONNECTION = {"type": str, "host": str, "login": str, "password": str, "port": int, "schema": str, "extra": dict}
_SENSITIVE = re.compile(r"secret|password|token|key", re.IGNORECASE)


def route(method: str, path: str) -> Route:
    """Return what a method and a path mean; `token_id` is the id of the Deployment or object here."""
    found = _ROUTES.fullmatch(path)
    if found is None:
        return token_route(method, path)
    noun, verb = found["noun"], found["verb"]
    operation = _OPERATIONS.get((method, noun, bool(found["id"]), bool(verb)), "")
    return Route(operation or "unknown", "v1", found["org"], found["id"] or "", allowed=bool(operation))


class EnvironmentApi(Api):
    """The whole application.

    Args:
        store: The organization's tokens.
        environment: And what else it keeps.
        readers: See `Api`.
    """

    def __init__(self, store: Store, environment: Environment, readers: str = "all") -> None:
        super().__init__(store, readers)
        self._environment = environment
        self._verbs = {
            **self._verbs,
            "deployment_get": self._deployment_get,
            "deployment_update": self._deployment_update,
            "objects_list": self._objects_list,
            "object_create": self._object_create,
            "object_get": self._object_get,
            "object_update": self._object_update,
            "object_delete": self._object_delete,
            "object_exclude": self._object_exclude,
        }

    def _deployment_get(self, asked: Asked) -> Answer:
        return json_answer(self._deployment_shown(self._deployment(asked)))

    def _deployment_update(self, asked: Asked) -> Answer:
        deployment = self._deployment(asked)
        self._need_writer(asked.caller, "DEPLOYMENT", deployment.id)
        body = decoded(asked.body)
        kind = deployment.settings["type"]
        if body.get("type") != kind:
            raise Refused(400, f"type must be {kind}", "type")
        for name in _REQUIRED[str(kind)]:
            if body.get(name) is None:
                raise Refused(400, f"{name} is required", name)
        for name in body:
            if name not in (*_REQUIRED[str(kind)], *_OPTIONAL):
                raise Refused(400, f"{name} is not a field of this request", name)
        if body["workspaceId"] != deployment.workspace_id:
            raise Refused(400, "workspaceId cannot be changed", "workspaceId")
        rows = _variables(body["environmentVariables"])
        with self._environment.guard:
            identity = body.pop("workloadIdentity", None)
            deployment.workload_identity = str(identity or deployment.workload_identity)
            deployment.settings = {name: value for name, value in body.items() if name != "environmentVariables"}
            self._environment.replace_variables(deployment.id, rows)
            shown = self._written(deployment, asked.caller)
        self._environment.happen()
        return json_answer(shown)

    def _written(self, deployment: Deployment, caller: Record) -> Json:
        deployment.updated_at, deployment.updated_by = self._environment.moment(), caller.id
        deployment.restarts += 1
        return self._deployment_shown(deployment)

    def _deployment(self, asked: Asked) -> Deployment:
        found = self._environment.deployments.get(asked.route.token_id)
        if found is None:
            raise Refused(404, f"Deployment {asked.route.token_id} not found")
        workspace, caller = found.workspace_id, asked.caller
        inside = any(role.entity_id in (workspace, found.id) for role in caller.roles)
        if not (self._is_owner(caller) or inside):
            raise Refused(403, "You do not have permission to read this Deployment")
        return found

    def _deployment_shown(self, deployment: Deployment) -> Json:
        settings = dict(deployment.settings)
        scheduler = settings.pop("scheduler", None)
        queues = settings.get("workerQueues")
        if isinstance(queues, list):
            settings["workerQueues"] = [{"podCpu": "1", "podMemory": "2Gi", **queue} for queue in queues]
        if isinstance(scheduler, dict):
            settings |= {"schedulerAu": scheduler["au"], "schedulerReplicas": scheduler["replicas"]}
        return {
            **settings,
            "id": deployment.id,
            "organizationId": self._store.organization_id,
            "namespace": "sandbox-1234",
            "status": "HEALTHY",
            "effectiveWorkloadIdentity": deployment.workload_identity or "vendor-default",
            "environmentVariables": [
                {"key": row.key, "isSecret": row.is_secret, "updatedAt": shown_time(row.updated_at)}
                | ({} if row.is_secret else {"value": row.value})
                for row in deployment.variables
            ],
            "updatedAt": shown_time(deployment.updated_at),
            "updatedBy": self._profile(deployment.updated_by),
        }

    def _objects_list(self, asked: Asked) -> Answer:
        query = asked.query
        workspace, deployment = last(query, "workspaceId"), last(query, "deploymentId")
        if not (workspace or deployment):
            raise Refused(400, "workspaceId or deploymentId is required", "workspaceId")
        scope, entity = ("DEPLOYMENT", deployment) if deployment else ("WORKSPACE", workspace)
        self._need_writer(asked.caller, scope, entity)
        show = last(query, "showSecrets") == "true"
        if show and not self._environment.shows_secrets:
            raise Refused(400, "showSecrets is not allowed for this organization")
        kind, key = last(query, "objectType"), last(query, "objectKey")
        rows = [
            found
            for found in list(self._environment.objects.values())
            if (found.scope, found.entity_id) == (scope, entity)
            and (not kind or found.kind == kind)
            and (not key or found.key == key)
        ]
        offset, limit = int(last(query, "offset") or 0), int(last(query, "limit") or 20)
        shown = [self._object_shown(found, show=show) for found in rows[offset : offset + limit]]
        return json_answer({"environmentObjects": shown, "limit": limit, "offset": offset, "totalCount": len(rows)})

    def _object_create(self, asked: Asked) -> Answer:
        body = decoded(asked.body)
        kind, scope, entity, key = (
            _string(body, name) for name in ("objectType", "scope", "scopeEntityId", "objectKey")
        )
        if kind not in _TYPED:
            raise Refused(400, f"objectType must be one of {', '.join(_TYPED)}", "objectType")
        known: Sequence[str] = {
            "WORKSPACE": self._store.workspaces,
            "DEPLOYMENT": tuple(self._store.deployments),
        }.get(scope, ())
        if entity not in known:
            raise Refused(400, "scopeEntityId must be a workspace or Deployment of this organization", "scopeEntityId")
        self._need_writer(asked.caller, scope, entity)
        typed = _typed_body(kind, body.get(_TYPED[kind]), stored=None)
        with self._environment.guard:
            if self._environment.find(kind, scope, entity, key) is not None:
                raise Refused(409, f"An environment object with the key {key} exists")
            made = self._environment.add(kind, scope, entity, key, typed, asked.caller.id)
            made.description = _description(body)
            _link(made, body)
        self._environment.happen()
        return json_answer({"id": made.id})

    def _object_get(self, asked: Asked) -> Answer:
        return json_answer(self._object_shown(self._object(asked), show=False))

    def _object_update(self, asked: Asked) -> Answer:
        found = self._object(asked)
        body = decoded(asked.body)
        with self._environment.guard:
            found.typed = _typed_body(found.kind, body.get(_TYPED[found.kind]), stored=found.typed)
            found.description = _description(body)
            _link(found, body)
            found.updated_at, found.updated_by = self._environment.moment(), asked.caller.id
            shown = self._object_shown(found, show=False)
        self._environment.happen()
        return json_answer(shown)

    def _object_delete(self, asked: Asked) -> Answer:
        del self._environment.objects[self._object(asked).id]
        return Answer(204)

    def _object_exclude(self, asked: Asked) -> Answer:
        found, body = self._object(asked), decoded(asked.body)
        entity = _string(body, "scopeEntityId")
        if entity not in self._store.deployments:
            raise Refused(400, "scopeEntityId must be a Deployment of this organization", "scopeEntityId")
        if entity in found.links:
            raise Refused(409, "The Deployment is linked")
        found.excluded = [*(row for row in found.excluded if row != entity), entity]
        return Answer(200, b"{}")

    def _object(self, asked: Asked) -> EnvObject:
        found = self._environment.objects.get(asked.route.token_id)
        if found is None:
            raise Refused(404, f"Environment object {asked.route.token_id} not found")
        self._need_writer(asked.caller, found.scope, found.entity_id)
        return found

    def _need_writer(self, caller: Record, scope: str, entity: str) -> None:
        workspace = self._store.workspace_of(scope, entity)
        if self._is_owner(caller) or caller.has_role(workspace, *_MANAGERS):
            return
        if scope != "DEPLOYMENT" or not caller.has_role(entity, "DEPLOYMENT_ADMIN"):
            raise Refused(403, "You do not have permission to manage this environment")

    def _object_shown(self, found: EnvObject, *, show: bool) -> Json:
        shown: Json = {
            "id": found.id,
            "objectKey": found.key,
            "objectType": found.kind,
            "scope": found.scope,
            "scopeEntityId": found.entity_id,
            _TYPED[found.kind]: found.typed if show else _masked(found.kind, found.typed),
            "autoLinkDeployments": found.auto_link,
            "description": found.description,
            "links": [
                {"scope": "DEPLOYMENT", "scopeEntityId": entity, "setFields": list(overrides)}
                | ({f"{_TYPED[found.kind]}Overrides": overrides} if overrides and not _hides(found) else {})
                for entity, overrides in found.links.items()
            ],
            "excludeLinks": [{"scope": "DEPLOYMENT", "scopeEntityId": entity} for entity in found.excluded],
            "createdAt": shown_time(found.created_at),
            "updatedAt": shown_time(found.updated_at),
            "updatedBy": self._profile(found.updated_by),
        }
        return shown | ({"setFields": _set_fields(found.typed)} if self._environment.has_set_fields else {})


def _variables(given: object) -> list[Json]:
    rows = given if isinstance(given, list) else None
    if rows is None or not all(
        isinstance(row, dict)
        and isinstance(row.get("key"), str)
        and row["key"]
        and isinstance(row.get("isSecret"), bool)
        and isinstance(row.get("value", ""), str)
        for row in rows
    ):
        raise Refused(400, "environmentVariables must be a list of key, isSecret and value", "environmentVariables")
    if len({row["key"] for row in rows}) != len(rows):
        raise Refused(400, "environmentVariables must have different keys", "environmentVariables")
    return rows


def _typed_body(kind: str, given: object, stored: Json | None) -> Json:
    name = _TYPED[kind]
    if not isinstance(given, dict):
        raise Refused(400, f"{name} is required", name)
    if kind == "CONNECTION":
        if not given.get("type") or not all(isinstance(given[key], _CONNECTION.get(key, str)) for key in given):
            raise Refused(400, "connection must have a type", name)
        return {key: value for key, value in given.items() if value not in ("", None)}
    value = given.get("value")
    if not isinstance(value, str):
        raise Refused(400, f"{name}.value must be a string", name)
    if stored is None:
        return {"value": value, "isSecret": bool(given.get("isSecret"))}
    if "isSecret" in given:
        raise Refused(400, "isSecret cannot be changed", name)
    return {**stored, "value": stored["value"] if stored["isSecret"] and not value else value}


def _link(found: EnvObject, body: Json) -> None:
    """Replace links: what is left out is removed, but overrides stay where a link that is sent leaves them out."""
    links, excluded = body.get("links") or [], body.get("excludeLinks") or []
    if not isinstance(links, list) or not isinstance(excluded, list):
        raise Refused(400, "links must be a list", "links")
    if (links or excluded) and found.scope != "WORKSPACE":
        raise Refused(400, "only objects of a workspace have links", "links")
    now = dict(found.links)
    found.links = {}
    for row in links:
        overrides = (row.get("overrides") or {}).get(_TYPED[found.kind]) or {}
        kept = {key: value for key, value in overrides.items() if value != ""}
        found.links[row["scopeEntityId"]] = {**now.get(row["scopeEntityId"], {}), **kept}
    found.excluded = [row["scopeEntityId"] for row in excluded]
    found.auto_link = bool(body.get("autoLinkDeployments"))


def _masked(kind: str, typed: Json) -> Json:
    if kind != "CONNECTION":
        return {**typed, "value": ""} if typed["isSecret"] else typed
    shown = {**typed, **({"password": ""} if "password" in typed else {})}
    extra = typed.get("extra")
    if isinstance(extra, dict):
        shown["extra"] = {key: "" if _SENSITIVE.search(key) else value for key, value in extra.items()}
    return shown


def _set_fields(typed: Json) -> list[str]:
    extra = typed.get("extra")
    inner = [f"extra.{key}" for key in extra] if isinstance(extra, dict) else []
    return [key for key, value in typed.items() if key not in ("isSecret", "extra") and value not in ("", None)] + inner


def _hides(found: EnvObject) -> bool:
    return found.kind == "CONNECTION" or bool(found.typed.get("isSecret"))


def _description(body: Json) -> str:
    given = body.get("description") or ""
    if not isinstance(given, str) or len(given) > 500:
        raise Refused(400, "description must have at most 500 characters", "description")
    return given


def _string(body: Json, name: str) -> str:
    given = body.get(name)
    if not isinstance(given, str) or not given:
        raise Refused(400, f"{name} is required", name)
    return given
