"""What the organization keeps besides tokens: Deployments with their variables, and environment objects.

The API changes it from the server's thread; tests look at it, and may change it, from theirs. Unlike the tokens' store
it keeps secrets, since that is what it is for; only `environment_api` shows them, masked.

Source: fact sheet 4.1 and 4.2; where it says that nobody knows, the worst case holds.
"""

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rotator.sandbox.store import Store

Json = dict[str, object]


@dataclass(slots=True)
class Variable:
    """An environment variable of a Deployment."""

    key: str
    value: str = field(repr=False)
    is_secret: bool
    updated_at: datetime


@dataclass(slots=True)
class Deployment:
    """A Deployment.

    Attributes:
        settings: Everything an update replaces besides the variables, in the spelling of requests.
        workload_identity: What a customer set; shown as the effective one.
    """

    id: str
    workspace_id: str
    settings: Json
    variables: list[Variable]
    updated_at: datetime
    updated_by: str
    workload_identity: str = ""
    restarts: int = 0

    def value(self, key: str) -> str | None:
        """Return the value of a variable as the Airflow of the Deployment sees it; None if there is none."""
        return next((row.value for row in self.variables if row.key == key), None)


@dataclass(slots=True)
class EnvObject:
    """An object of the Environment Manager.

    Attributes:
        typed: The body of its type: a connection, or value and isSecret.
        links: Deployment id to overrides.
    """

    id: str
    key: str
    kind: str
    scope: str
    entity_id: str
    typed: Json = field(repr=False)
    updated_at: datetime
    created_at: datetime
    updated_by: str
    description: str = ""
    auto_link: bool = False
    links: dict[str, Json] = field(default_factory=dict, repr=False)
    excluded: list[str] = field(default_factory=list)


class Environment:
    """Deployments and environment objects of one organization.

    Args:
        store: The organization.

    Attributes:
        shows_secrets: Whether the organization lets `showSecrets` reveal values.
        bumps_all: Whether each update of a Deployment moves the time of all its variables.
        has_set_fields: Whether objects say which fields are set; the API began to in 2026.
        after_write: Called once each, in order, right after the next writes took effect: somebody else's doing.
    """

    def __init__(self, store: Store, *, shows_secrets: bool = False) -> None:
        self.shows_secrets = shows_secrets
        self.bumps_all = False
        self.has_set_fields = True
        self.after_write: list[Callable[[], None]] = []
        self.guard = threading.RLock()
        self._store = store
        self._last = store.now()
        self.deployments = {
            deployment_id: self._seeded(nth, deployment_id, workspace_id)
            for nth, (deployment_id, workspace_id) in enumerate(store.deployments.items())
        }
        self.objects: dict[str, EnvObject] = {}

    def moment(self) -> datetime:
        """Return a time later than any that was returned before."""
        with self.guard:
            self._last = max(self._store.now(), self._last + timedelta(milliseconds=1))
            return self._last

    def set_variable(self, deployment_id: str, key: str, value: str, *, is_secret: bool = True) -> None:
        """Put a variable there by hand."""
        with self.guard:
            deployment = self.deployments[deployment_id]
            rows = [row for row in deployment.variables if row.key != key]
            deployment.updated_at = self.moment()
            deployment.variables = [*rows, Variable(key, value, is_secret, deployment.updated_at)]

    def replace_variables(self, deployment_id: str, rows: list[Json]) -> None:
        """Replace all variables of a Deployment; a secret one without a value keeps what is stored."""
        deployment = self.deployments[deployment_id]
        stored = {row.key: row for row in deployment.variables}
        now = self.moment()
        deployment.variables = [self._replaced(row, stored.get(str(row["key"])), now) for row in rows]

    def happen(self) -> None:
        """Let somebody else act now."""
        if self.after_write:
            self.after_write.pop(0)()

    def find(self, kind: str, scope: str, entity_id: str, key: str) -> EnvObject | None:
        """Return an object by its key."""
        wanted = (kind, scope, entity_id, key)
        return next((o for o in self.objects.values() if (o.kind, o.scope, o.entity_id, o.key) == wanted), None)

    def add(self, kind: str, scope: str, entity_id: str, key: str, typed: Json, by: str = "") -> EnvObject:
        """Make an object."""
        with self.guard:
            now = self.moment()
            made = EnvObject(f"cm{secrets.token_hex(12)[:23]}", key, kind, scope, entity_id, typed, now, now, by)
            self.objects[made.id] = made
            return made

    def _replaced(self, row: Json, stored: Variable | None, now: datetime) -> Variable:
        is_secret, given = bool(row["isSecret"]), row.get("value")
        if given is None and stored is not None and stored.is_secret and is_secret:
            return replace(stored, updated_at=now if self.bumps_all else stored.updated_at)
        value = "" if given is None else str(given)
        is_same = stored is not None and not self.bumps_all and (stored.value, stored.is_secret) == (value, is_secret)
        moment = stored.updated_at if is_same and stored is not None else now
        return Variable(str(row["key"]), value, is_secret, moment)

    def _seeded(self, nth: int, deployment_id: str, workspace_id: str) -> Deployment:
        made = self._last
        hybrid = nth % 3 == 2
        queue: Json = {
            "id": f"cl{hashlib.sha256(f'queue-{deployment_id}'.encode()).hexdigest()[:23]}",
            "name": "default",
            "isDefault": True,
            "minWorkerCount": 0,
            "maxWorkerCount": 10,
            "workerConcurrency": 5,
            **({"nodePoolId": "clpool"} if hybrid else {"astroMachine": "A5"}),
        }
        settings: Json = {
            "name": f"deployment-{nth + 1}",
            "description": "of the sandbox",
            "type": "HYBRID" if hybrid else ("STANDARD", "DEDICATED")[nth % 3],
            "workspaceId": workspace_id,
            "executor": "CELERY",
            "isCicdEnforced": False,
            "isDagDeployEnabled": True,
            "contactEmails": ["oncall@example.com"],
            "workerQueues": [queue],
        }
        settings |= _HYBRID if hybrid else _HOSTED
        variables = [
            Variable("TEAM", f"team-{nth + 1}", is_secret=False, updated_at=made),
            Variable("DB_PASSWORD", f"hunter-{nth + 1}", is_secret=True, updated_at=made),
        ]
        return Deployment(deployment_id, workspace_id, settings, variables, made, self._store.owner_id)


_HOSTED: Mapping[str, object] = {
    "schedulerSize": "SMALL",
    "isHighAvailability": True,
    "isDevelopmentMode": True,
    "defaultTaskPodCpu": "0.25",
    "defaultTaskPodMemory": "0.5Gi",
    "resourceQuotaCpu": "10",
    "resourceQuotaMemory": "20Gi",
    "scalingSpec": {
        "hibernationSpec": {
            "schedules": [{"isEnabled": True, "hibernateAtCron": "0 20 * * *", "wakeAtCron": "0 6 * * *"}]
        }
    },
}
_HYBRID: Mapping[str, object] = {"scheduler": {"au": 10, "replicas": 1}, "taskPodNodePoolId": "clpool"}
