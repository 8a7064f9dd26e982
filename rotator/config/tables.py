"""The tables of the file and their keys, with the defaults."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rotator.config.values import (
    ALL,
    Ahead,
    BlackoutText,
    ChannelName,
    CredentialReferences,
    Duration,
    GatewayUrl,
    HostName,
    ListenText,
    LocalReferences,
    Pause,
    Percent,
    ReceiverUrl,
    ScheduleText,
    SecretReference,
    TextFile,
    TimeZone,
    Waves,
    WindowText,
)
from rotator.model import Scope
from rotator.notify.topics import DEFAULT, Topic

EVERY_NAME = ("*",)
_JOB = r"^[A-Za-z0-9_.:-]+$"


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, defer_build=True)


class EngineTable(_Table):
    """`[engine]`."""

    workers: Annotated[int, Field(ge=1, le=128)] = 16
    max_clock_skew: Duration = timedelta(minutes=5)
    late_window: Duration = timedelta(minutes=2)
    drift_check: Duration = timedelta(hours=24)


class RateTable(_Table):
    """Requests per second; the API's documented limits are the default, 0 lifts a limit."""

    get: Annotated[float, Field(ge=0)] = 25
    post: Annotated[float, Field(ge=0)] = 10
    delete: Annotated[float, Field(ge=0)] = 5


class ProviderTable(_Table):
    """`[providers.X]`."""

    type: Literal["astro"]
    organization_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$", description="letters, digits, - and _")]
    credential: CredentialReferences
    api_version: Literal["v1", "v1beta1", "v1alpha1"] = "v1"
    base_url: str = "https://api.astronomer.io"
    rate: RateTable = RateTable()
    timeout: Duration = timedelta(seconds=30)
    ca_bundle: str = ""
    proxy: str = ""


class JournalTable(_Table):
    """`[journal]`."""

    url: Annotated[str, Field(pattern=r"^sqlite:///.+", description="sqlite:///relative or sqlite:////absolute")] = (
        "sqlite:///rotator.db"
    )
    key: SecretReference = "file:rotator.key"


class AuditHttpTable(_Table):
    """`[audit.http]`: a receiver that gets every line of the audit file as well."""

    url: ReceiverUrl
    token: SecretReference | None = None
    ca_bundle: str = ""
    batch: Annotated[int, Field(ge=1, le=10_000)] = 500
    timeout: Duration = timedelta(seconds=30)


class AuditTable(_Table):
    """`[audit]`."""

    path: Annotated[str, Field(min_length=1)] = "audit.jsonl"
    http: AuditHttpTable | None = None


class ServerTable(_Table):
    """`[server]`: what `rotator run` answers over HTTP."""

    listen: ListenText = "127.0.0.1:9464"
    names: list[HostName] = []


class MetricsTable(_Table):
    """`[metrics]`."""

    max_tokens: Annotated[int, Field(ge=0, le=1_000_000)] = 1000
    pushgateway: GatewayUrl = ""
    pushgateway_job: Annotated[str, Field(pattern=_JOB)] = "rotator"
    pushgateway_user: str = ""
    pushgateway_password: SecretReference = ""
    pushgateway_ca_bundle: str = ""
    textfile: TextFile = ""


class SinkTable(BaseModel):
    """`[sinks.X]`: `type`, and the type's own keys."""

    model_config = ConfigDict(extra="allow")

    type: str


class SelectTable(_Table):
    """`[policies.X.select]`: default deny."""

    scopes: Annotated[list[Scope], Field(min_length=1)]
    workspaces: list[str] = []
    deployments: list[str] = []
    ids: list[str] = []
    roles: list[str] = []
    names: Annotated[list[str], Field(min_length=1)] = list(EVERY_NAME)
    exclude_names: list[str] = []


class WhenTable(_Table):
    """`[policies.X.when]`."""

    max_age: Duration | None = None
    before_expiry: Ahead | None = None
    min_interval: Duration = timedelta(hours=24)
    emergency: Duration = timedelta(hours=48)
    unused_for: Duration | None = None


class DeliverTable(BaseModel):
    """`[[policies.X.deliver]]`: `sink`, `required`, and the sink type's own keys."""

    model_config = ConfigDict(extra="allow")

    sink: str
    required: bool = True


class HookTable(_Table):
    """`[[policies.X.hooks]]`: a program or a receiver that is told of settled rotations, or asked before one."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]*$", max_length=64)] = ""
    on: Literal["settled", "before_rotate"]
    exec: list[str] = []
    webhook: str = ""
    signing_key: LocalReferences = []
    timeout: Duration = timedelta(seconds=30)
    debounce: Pause = timedelta()
    on_failure: Literal["hold", "proceed"] = "hold"


class NotificationTable(_Table):
    """`[notifications.X]`."""

    url: SecretReference
    on: Annotated[list[Topic], Field(min_length=1)] = list(DEFAULT)
    group_for: Pause = timedelta(minutes=5)


class PolicyTable(_Table):
    """`[policies.X]`."""

    provider: str = ""
    schedule: ScheduleText = "every 1h"
    timezone: TimeZone = "UTC"
    windows: list[WindowText] = []
    blackouts: list[BlackoutText] = []
    strategy: Literal["in_place", "overlap"] = "in_place"
    grace: Duration = timedelta(hours=24)
    idle: Duration | None = None
    retire: Literal["when_unused", "after_grace"] = "when_unused"
    on_drift: Literal["rotate", "alert"] = "rotate"
    preflight: Literal["proven", "attested", "none"] = "none"
    waves: Waves = [ALL]
    jitter: Percent = 0.05
    max_rotations: Annotated[int, Field(ge=1)] = 50
    max_percent: Annotated[float, Field(gt=0, le=100)] = 30
    paused_until: datetime | None = None
    pause_reason: str = ""
    select: SelectTable
    when: WhenTable
    deliver: Annotated[list[DeliverTable], Field(min_length=1)]
    hooks: list[HookTable] = []


class File(_Table):
    """The whole file."""

    state_dir: str = ""
    engine: EngineTable = EngineTable()
    providers: Annotated[dict[str, ProviderTable], Field(min_length=1)]
    journal: JournalTable = JournalTable()
    audit: AuditTable = AuditTable()
    server: ServerTable = ServerTable()
    metrics: MetricsTable = MetricsTable()
    sinks: Annotated[dict[str, SinkTable], Field(min_length=1)]
    policies: Annotated[dict[str, PolicyTable], Field(min_length=1)]
    notifications: dict[ChannelName, NotificationTable] = {}
