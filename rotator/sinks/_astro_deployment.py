"""Environment variables of a Deployment, for the `astro_environment` sink.

The API has no partial update: a request says the whole Deployment, and its list of variables replaces the stored one.
So the request is made of everything that was just read, mapped from the spelling of answers to that of requests.
Secret variables of others are sent without a value, which keeps what is stored; an empty one would blank them.

Source: the OpenAPI document of v1 (UpdateDeployment), and the update that the Astro CLI makes.
"""

from collections.abc import Mapping

from rotator.errors import OutcomeUnknown, Permanent
from rotator.model import Mint
from rotator.secret import Secret
from rotator.sinks._astro_calls import AstroCalls, Document, Json
from rotator.sinks._astro_place import Target
from rotator.sinks._astro_shelf import Seen

# Fields that a request spells like an answer. The workload identity is left out as the Astro CLI does: answers show
# only which one is in effect, perhaps the vendor's default, and a request would pin that.
_ALWAYS = ("name", "type", "workspaceId", "executor", "isCicdEnforced", "isDagDeployEnabled")
_HOSTED = (*_ALWAYS, "schedulerSize")
_MAYBE_ANY = ("description", "contactEmails")
_MAYBE_HOSTED = (
    *_MAYBE_ANY,
    "defaultTaskPodCpu",
    "defaultTaskPodMemory",
    "resourceQuotaCpu",
    "resourceQuotaMemory",
    "isDevelopmentMode",
)
_REQUIRED: Mapping[object, tuple[str, ...]] = {"STANDARD": _HOSTED, "DEDICATED": _HOSTED, "HYBRID": _ALWAYS}
_OPTIONAL: Mapping[object, tuple[str, ...]] = {
    "STANDARD": _MAYBE_HOSTED,
    "DEDICATED": _MAYBE_HOSTED,
    "HYBRID": (*_MAYBE_ANY, "taskPodNodePoolId"),
}
_QUEUE = (
    "id",
    "name",
    "isDefault",
    "minWorkerCount",
    "maxWorkerCount",
    "workerConcurrency",
    "astroMachine",
    "nodePoolId",
    "podEphemeralStorage",
)
_REMOTE = ("enabled", "allowedIpAddressRanges", "taskLogBucket", "taskLogUrlPattern")
_NOT_SHOWN = (
    "the API does not show the Deployment's environment variables, and an update would end those that are not shown;"
    " let the credential read them, or add a first variable by hand"
)


class DeploymentShelf:
    """See `Shelf`."""

    def __init__(self, calls: AstroCalls) -> None:
        self._calls = calls

    def read(self, target: Target) -> Seen:
        """See `Shelf`. A variable whose value is empty holds nothing, unless it is hidden."""
        deployment = self._calls.deployment(target)
        if deployment is not None and not isinstance(deployment.content.get("environmentVariables"), list):
            raise Permanent(_NOT_SHOWN)  # not "nothing is there": that would be drift, and rotated for
        found = _variable(deployment, target.key)
        if found is None:
            return Seen(deployment, exists=False)
        value = found.get("value")
        is_hidden = bool(found.get("isSecret")) and not value
        secret = Secret(value) if isinstance(value, str) and value else None
        return Seen(deployment, is_hidden or secret is not None, secret, str(found.get("updatedAt") or ""))

    def problem(self, target: Target, seen: Seen) -> str:
        """See `Shelf`."""
        deployment = seen.document
        if deployment is None:
            return "there is no such Deployment"
        kind = deployment.content.get("type")
        if kind not in _REQUIRED:
            return "the Deployment is of a type that this version of rotator does not know, so it cannot be updated"
        missing = [name for name in _REQUIRED[kind] if deployment.content.get(name) is None]
        if missing:
            return f"the API does not show the {missing[0]} of the Deployment, and an update has to say it"
        if not isinstance(deployment.content.get("environmentVariables"), list):
            return _NOT_SHOWN
        if not all(isinstance(row, dict) and row.get("key") for row in deployment.content["environmentVariables"]):
            return "the API lists an environment variable without a key"
        found = _variable(deployment, target.key)
        if target.secret and found is not None and not found.get("isSecret"):
            return "the variable is not secret, so everybody who sees the Deployment reads it; delete it there first"
        return ""

    def write(self, target: Target, seen: Seen, mint: Mint) -> str:
        """See `Shelf`."""
        if seen.document is None:
            raise Permanent("there is no such Deployment")
        deployment = seen.document
        answer = self._calls.update_deployment(target, lambda: _request(deployment, target, mint.secret))
        version = self.version(answer, target.key)
        if not version:
            raise OutcomeUnknown("the API answered without the variable that was just written")
        return version

    def version(self, document: Document, part: str) -> str:
        """See `Shelf`."""
        found = _variable(document, part)
        return str(found.get("updatedAt") or "") if found is not None else ""

    def lost(self, before: Seen, after: Seen) -> str:  # noqa: ARG002 - a variable that others delete is theirs to delete
        """See `Shelf`."""
        return ""


def _variable(deployment: Document, key: str) -> Json | None:
    rows = deployment.content.get("environmentVariables")
    found = rows if isinstance(rows, list) else []
    return next((row for row in found if isinstance(row, dict) and row.get("key") == key), None)


def _request(deployment: Document, target: Target, secret: Secret) -> Json:
    """Return the update that changes our variable and nothing else: in plain text."""
    now = deployment.content
    kind = now["type"]
    body = {name: now[name] for name in _REQUIRED[kind]}
    body |= {name: now[name] for name in _OPTIONAL[kind] if now.get(name) is not None}
    if kind == "HYBRID":
        body["scheduler"] = {"au": now.get("schedulerAu"), "replicas": now.get("schedulerReplicas")}
    else:
        body["isHighAvailability"] = bool(now.get("isHighAvailability"))
        body |= _hosted_parts(now)
    if now.get("workerQueues"):
        body["workerQueues"] = [_kept(queue, _QUEUE) for queue in now["workerQueues"]]
    ours = {"key": target.key, "isSecret": target.secret, "value": secret.reveal()}
    rows = [ours if row.get("key") == target.key else _echo(row) for row in now["environmentVariables"]]
    body["environmentVariables"] = rows if ours in rows else [*rows, ours]
    return body


def _hosted_parts(now: Json) -> Json:
    parts: dict[str, object] = {}
    if now.get("remoteExecution"):
        parts["remoteExecution"] = _kept(now["remoteExecution"], _REMOTE)
    hibernation = (now.get("scalingSpec") or {}).get("hibernationSpec")
    if hibernation:
        spec = _kept(hibernation, ("schedules",))
        override = hibernation.get("override") or {}
        if override.get("isActive"):  # one that is over cannot be asked for again
            spec["override"] = _kept(override, ("isHibernating", "overrideUntil"))
        parts["scalingSpec"] = {"hibernationSpec": spec}
    return parts


def _echo(row: Json) -> Json:
    """Return another variable as it is kept: a hidden value is never sent, whatever stands for it in the answer."""
    kept: dict[str, object] = {"key": row["key"], "isSecret": bool(row.get("isSecret"))}
    if not kept["isSecret"] and row.get("value") is not None:
        kept["value"] = row["value"]
    return kept


def _kept(row: Json, names: tuple[str, ...]) -> dict[str, object]:
    return {name: row[name] for name in names if row.get(name) is not None}
