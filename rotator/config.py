"""The TOML file as typed values: every problem at once, each with its place, what was found and the fix.

Nothing here contacts anything or reads a secret. Durations, globs, templates, references and the options of each sink
type are checked at load, so that a sweep never meets a malformed setting.
"""

import difflib
import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from rotator import sinks
from rotator.credentials import FORMS, Reference
from rotator.errors import ConfigError, Problem
from rotator.model import Brake, Delivery, Grade, Policy, Scope, Select, Share, Strategy, Wave, When
from rotator.schedule import Schedule, Windows, parse_zone
from rotator.server.address import Address
from rotator.timing import parse_duration, parse_percent

_EVERY_NAME = ("*",)
_HOST_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_JOB = r"^[A-Za-z0-9_.:-]+$"
_REFERENCES = (
    "credential", "key", "token", "role_id", "secret_id", "jwt", "pushgateway", "pushgateway_password",
)  # fmt: skip
_SHORTEST_IDLE = timedelta(days=7)
_ALL = Wave(share=1.0)
_ANY_ZONE = ZoneInfo("UTC")  # whether a text is a schedule or a window is the same in every zone


def _duration(value: object) -> object:
    if isinstance(value, str):
        return parse_duration(value)
    if isinstance(value, timedelta):
        return value
    raise ValueError('must be a duration such as "90d", "36h" or "15m"')


def _positive(value: object) -> object:
    duration = _duration(value)
    if isinstance(duration, timedelta) and duration <= timedelta():
        raise ValueError("must be longer than zero")
    return duration


def _percent(value: object) -> object:
    if isinstance(value, str):
        return parse_percent(value if value.strip() != "0" else "0%")
    raise ValueError('must be a percentage such as "5%", or "0" for none')


def _ahead(value: object) -> object:
    if isinstance(value, str) and value.strip().endswith("%"):
        share = parse_percent(value)
        if not 0 < share < 1:
            raise ValueError("must lie between 0% and 100%")
        return Share(share)
    return _positive(value)


def _wave(value: object) -> object:
    if isinstance(value, Wave):
        return value
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return Wave(count=value)
    if not isinstance(value, str):
        raise ValueError('must be a number of tokens from 1 up, or a percentage such as "10%"')
    share = parse_percent(value)
    if not share:
        raise ValueError("a wave of 0% is no wave")
    return Wave(share=share)


def _growing(waves: list[Wave]) -> list[Wave]:
    """Return the waves with a last one that reaches every token."""
    for sizes in ([wave.count for wave in waves if wave.count], [wave.share for wave in waves if wave.share]):
        if sizes != sorted(set(sizes)):
            raise ValueError('each wave must reach further than the one before, as in [1, "10%", "100%"]')
    return waves if waves[-1] == _ALL else [*waves, _ALL]


def _schedule(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a schedule such as "every 1h" or "0 3 * * mon-fri"')
    Schedule.parse(value, _ANY_ZONE)
    return value


def _window(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a window such as "mon-fri 02:00-05:00"')
    Windows.parse([value], _ANY_ZONE)
    return value


def _blackout(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be a blackout such as "2026-12-24..2027-01-02" or "mon-fri 08:00-18:00"')
    Windows.parse([value], _ANY_ZONE, dates=True)
    return value


def _zone(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be the name of a time zone, such as "UTC" or "Europe/Berlin"')
    parse_zone(value)
    return value


def _reference(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError(f"must be a secret reference, {FORMS}")
    Reference.parse(value)
    return value


def _references(value: object) -> object:
    found = value if isinstance(value, list) else [value]
    if not 1 <= len(found) <= 2:
        raise ValueError("must be a secret reference, or a list of two")
    return [_reference(one) for one in found]


def _listen(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError('must be an IP address with a port, such as "127.0.0.1:9464", or "" for no server')
    return str(Address.parse(value)) if value else value


def _name(value: str) -> str:
    if not _HOST_NAME.fullmatch(value):
        raise ValueError('must be a host name without a port, such as "rotator.example.com"')
    return value.lower()


def _gateway(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a URL such as http://pushgateway:9091")
    if not value:
        return value
    try:
        url = urlsplit(value)
        is_usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        is_usable = False
    if not is_usable:
        raise ValueError("must be a URL such as http://pushgateway:9091")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must not hold a user, a query or a fragment; see pushgateway_user and pushgateway_password")
    return value.rstrip("/")


def _textfile(value: object) -> object:
    if isinstance(value, str) and value and not value.endswith(".prom"):
        raise ValueError("must end in .prom: node-exporter reads no other files")
    return value


Duration = Annotated[timedelta, BeforeValidator(_positive, json_schema_input_type=str)]
Ahead = Annotated[timedelta | Share, BeforeValidator(_ahead, json_schema_input_type=str)]
Percent = Annotated[float, BeforeValidator(_percent, json_schema_input_type=str)]
TimeZone = Annotated[str, BeforeValidator(_zone, json_schema_input_type=str)]
ScheduleText = Annotated[str, BeforeValidator(_schedule, json_schema_input_type=str)]
WindowText = Annotated[str, BeforeValidator(_window, json_schema_input_type=str)]
BlackoutText = Annotated[str, BeforeValidator(_blackout, json_schema_input_type=str)]
WaveSize = Annotated[Wave, BeforeValidator(_wave, json_schema_input_type=int | str)]
Waves = Annotated[
    list[WaveSize], Field(min_length=1, json_schema_extra={"default": ["100%"]}), AfterValidator(_growing)
]
SecretReference = Annotated[str, BeforeValidator(_reference, json_schema_input_type=str)]
ListenText = Annotated[str, BeforeValidator(_listen, json_schema_input_type=str)]
HostName = Annotated[str, AfterValidator(_name)]
GatewayUrl = Annotated[str, BeforeValidator(_gateway, json_schema_input_type=str)]
TextFile = Annotated[str, BeforeValidator(_textfile, json_schema_input_type=str)]
CredentialReferences = Annotated[list[str], BeforeValidator(_references, json_schema_input_type=str | list[str])]


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
    organization_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]
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


class AuditTable(_Table):
    """`[audit]`."""

    path: Annotated[str, Field(min_length=1)] = "audit.jsonl"


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
    names: Annotated[list[str], Field(min_length=1)] = list(_EVERY_NAME)
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
    waves: Waves = [_ALL]
    jitter: Percent = 0.05
    max_rotations: Annotated[int, Field(ge=1)] = 50
    max_percent: Annotated[float, Field(gt=0, le=100)] = 30
    paused_until: datetime | None = None
    pause_reason: str = ""
    select: SelectTable
    when: WhenTable
    deliver: Annotated[list[DeliverTable], Field(min_length=1)]


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


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink: its type and validated options."""

    kind: str
    options: BaseModel


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration.

    Attributes:
        folder: Of the file; sinks count relative paths from it.
        state_dir: Journal, key, audit and file references count from it.
        digest: The file's SHA-256, in hex; empty if it came from no file.
    """

    folder: Path
    state_dir: Path
    engine: EngineTable
    providers: Mapping[str, ProviderTable]
    journal: JournalTable
    audit: AuditTable
    sinks: Mapping[str, SinkConfig]
    policies: tuple[Policy, ...]
    digest: str = ""
    server: ServerTable = field(default_factory=ServerTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)

    @property
    def textfile_path(self) -> Path | None:
        """The file that metrics are written to; None if they are not."""
        return self.state_dir / Path(self.metrics.textfile).expanduser() if self.metrics.textfile else None

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.state_dir / self.journal.url.removeprefix("sqlite:///")

    @property
    def audit_path(self) -> Path | None:
        """The audit file; None for a stream."""
        return None if self.audit.path == "-" else self.state_dir / self.audit.path


def load(path: Path) -> Config:
    """Return the configuration in a file.

    Raises:
        ConfigError: With every problem that was found.
    """
    try:
        content = path.read_bytes()
        raw = tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError.of("", f"cannot read the config {path}: {error.strerror}; give --config FILE") from None
    except UnicodeDecodeError:
        raise ConfigError.of("", f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.of("", f"{path} is not TOML: {error}") from None
    return replace(parse(raw, path.resolve().parent), digest=hashlib.sha256(content).hexdigest())


def parse(raw: dict[str, object], folder: Path) -> Config:
    """Return the configuration that parsed TOML says; raises ConfigError with every problem."""
    try:
        file = File.model_validate(raw)
    except ValidationError as error:
        problems = _problems(error, File, ())
        # The parts that pydantic leaves to us are checked too: all problems at once.
        problems += _loose_problems(raw)
        raise ConfigError(problems) from None
    problems = []
    sink_configs = _sinks(file, problems)
    policies = tuple(replace(policy, digest=_digest(raw, policy)) for policy in _policies(file, sink_configs, problems))
    problems += _cross_problems(file)
    if problems:
        raise ConfigError(problems)
    state = folder / Path(file.state_dir or os.environ.get("STATE_DIRECTORY", "") or ".").expanduser()
    return Config(
        folder,
        state,
        file.engine,
        file.providers,
        file.journal,
        file.audit,
        sink_configs,
        policies,
        server=file.server,
        metrics=file.metrics,
    )


def _digest(raw: Mapping[str, Any], policy: Policy) -> str:
    """Return a name for all that the file says which a rotation of this policy could fail by."""
    said = [raw["policies"][policy.name], raw["sinks"], raw["providers"]]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def schema() -> dict[str, Any]:
    """Return the JSON Schema of the file, with the options of every sink type; `$comment` names broken plug-ins."""
    whole = File.model_json_schema()
    broken: dict[str, None] = {}
    for name, attribute in (("SinkTable", "Options"), ("DeliverTable", "DeliveryOptions")):
        table = whole["$defs"][name]
        branches = []
        for kind in sinks.types():
            try:
                options = sinks.described(kind, attribute)
            except ValueError as error:
                broken[str(error)] = None
                continue
            pinned = {"type": {"const": kind}} if name == "SinkTable" else {}
            inner = _inlined(options.get("properties", {}), options.get("$defs", {}))
            branches.append({"properties": {**inner, **pinned}})
        table["anyOf"] = branches
    whole["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    if broken:
        whole["$comment"] = f"left out: {'; '.join(broken)}"
    return whole


def _inlined(part: Any, definitions: Mapping[str, Any]) -> Any:
    """Return a part of a sink's schema with its references resolved: two sinks may call different tables the same."""
    if isinstance(part, list):
        return [_inlined(one, definitions) for one in part]
    if not isinstance(part, dict):
        return part
    if "$ref" in part:
        part = {**definitions[part["$ref"].rpartition("/")[2]], **{k: v for k, v in part.items() if k != "$ref"}}
    return {key: _inlined(value, definitions) for key, value in part.items()}


def _sinks(file: File, problems: list[Problem]) -> dict[str, SinkConfig]:
    found = {}
    for name, table in file.sinks.items():
        try:
            model = sinks.load(table.type).Options
            found[name] = SinkConfig(table.type, sinks.validated(model, table.model_extra or {}))
        except ValidationError as error:
            problems += _problems(error, model, ("sinks", name))
        except ValueError as error:
            problems.append(Problem(f"sinks.{name}.type", str(error)))
    return found


def _policies(file: File, known: Mapping[str, SinkConfig], problems: list[Problem]) -> Iterable[Policy]:
    for name, table in file.policies.items():
        provider = table.provider or (next(iter(file.providers)) if len(file.providers) == 1 else "")
        if provider not in file.providers:
            problems.append(_unknown(f"policies.{name}.provider", provider, file.providers, "provider"))
        if table.when.max_age is None and table.when.before_expiry is None:
            problems.append(Problem(f"policies.{name}.when", "no condition; set max_age, before_expiry or both"))
        if table.paused_until is not None and table.paused_until.tzinfo is None:
            problems.append(Problem(f"policies.{name}.paused_until", "has no time zone; end it in Z"))
        deliveries = tuple(_deliveries(name, table, file, known, problems))
        yield _policy(name, provider, table, deliveries)


def _deliveries(
    policy: str, table: PolicyTable, file: File, known: Mapping[str, SinkConfig], problems: list[Problem]
) -> Iterable[Delivery]:
    for number, block in enumerate(table.deliver):
        path = ("policies", policy, "deliver", str(number))
        if block.sink not in file.sinks:
            problems.append(_unknown(".".join((*path, "sink")), block.sink, file.sinks, "sink"))
        elif block.sink in known:
            model = sinks.load(known[block.sink].kind).DeliveryOptions
            try:
                yield Delivery(block.sink, sinks.checked(model, block.model_extra or {}), block.required)
            except ValidationError as error:
                problems += _problems(error, model, path)
            except ValueError as error:
                problems.append(Problem(".".join(path), str(error)))
            problems += _too_weak(path, known[block.sink].kind, block, Grade(table.preflight))
    if not any(block.required for block in table.deliver):
        problems.append(Problem(f"policies.{policy}.deliver", "no delivery is required; a secret could end up nowhere"))


def _too_weak(path: tuple[str, ...], kind: str, block: DeliverTable, wanted: Grade) -> list[Problem]:
    reached = sinks.load(kind).PREFLIGHT_GRADE
    if not block.required or reached.reaches(wanted):
        return []
    said = f"the policy requires a preflight that is {wanted}, a {kind} sink reaches {reached}"
    return [Problem(".".join((*path, "sink")), f"{said}; set required = false here, or lower the policy's preflight")]


def _policy(name: str, provider: str, table: PolicyTable, deliveries: tuple[Delivery, ...]) -> Policy:
    chosen, zone = table.select, parse_zone(table.timezone)
    return Policy(
        name=name,
        provider=provider,
        select=Select(
            scopes=frozenset(chosen.scopes),
            workspaces=frozenset(chosen.workspaces),
            deployments=frozenset(chosen.deployments),
            ids=frozenset(chosen.ids),
            roles=frozenset(chosen.roles),
            names=tuple(chosen.names),
            exclude_names=tuple(chosen.exclude_names),
        ),
        when=When(**{name: getattr(table.when, name) for name in WhenTable.model_fields}),
        deliveries=deliveries,
        strategy=Strategy(table.strategy),
        jitter=table.jitter,
        brake=Brake(table.max_rotations, table.max_percent),
        paused_until=table.paused_until.astimezone(UTC) if table.paused_until else None,
        pause_reason=table.pause_reason,
        schedule=Schedule.parse(table.schedule, zone),
        timezone=table.timezone,
        windows=Windows.parse(table.windows, zone) if table.windows else None,
        blackouts=Windows.parse(table.blackouts, zone, dates=True) if table.blackouts else None,
        waves=tuple(table.waves),
        on_drift=table.on_drift,
        grace=table.grace,
        idle=table.idle or max(table.grace, _SHORTEST_IDLE),
        retire=table.retire,
        preflight=Grade(table.preflight),
    )


def _gateway_problems(table: MetricsTable) -> Iterable[Problem]:
    if bool(table.pushgateway_user) != bool(table.pushgateway_password):
        missing = "pushgateway_password" if table.pushgateway_user else "pushgateway_user"
        yield Problem(f"metrics.{missing}", "is missing: user and password go together")
    host = urlsplit(table.pushgateway).hostname or ""
    if table.pushgateway_password and table.pushgateway.startswith("http:") and host not in ("localhost", "127.0.0.1"):
        yield Problem("metrics.pushgateway", "must be https, for a password goes there (http is for loopback only)")
    if not table.pushgateway:
        for key in ("pushgateway_user", "pushgateway_password", "pushgateway_ca_bundle"):
            if getattr(table, key):
                yield Problem(f"metrics.{key}", "means nothing without pushgateway")


def _cross_problems(file: File) -> Iterable[Problem]:
    yield from _gateway_problems(file.metrics)
    for name, table in file.policies.items():
        provider = file.providers.get(table.provider or next(iter(file.providers)))
        if provider is None or provider.api_version != "v1alpha1":
            continue
        for scope, homes in ((Scope.WORKSPACE, table.select.workspaces), (Scope.DEPLOYMENT, table.select.deployments)):
            if scope in table.select.scopes and not homes:
                yield Problem(
                    f"policies.{name}.select.{scope}s", f"v1alpha1 lists {scope} tokens by {scope}: name them here"
                )


def _loose_problems(raw: Mapping[str, object]) -> list[Problem]:
    """Check sink and delivery options also where the rest of the file is wrong."""
    problems: list[Problem] = []
    kinds: dict[str, str] = {}
    for name, table in _tables(raw.get("sinks")):
        kind = table.get("type")
        if isinstance(kind, str):
            options = {key: value for key, value in table.items() if key != "type"}
            try:
                problems += _invalid(sinks.load(kind).Options, options, ("sinks", name))
            except ValueError as error:
                problems.append(Problem(f"sinks.{name}.type", str(error)))
            else:
                kinds[name] = kind
    for name, policy in _tables(raw.get("policies")):
        blocks = policy.get("deliver")
        for number, block in enumerate(blocks if isinstance(blocks, list) else ()):
            sink = block.get("sink") if isinstance(block, dict) else None
            if isinstance(sink, str) and sink in kinds:
                options = {key: value for key, value in block.items() if key not in ("sink", "required")}
                where = ("policies", name, "deliver", str(number))
                problems += _invalid(sinks.load(kinds[sink]).DeliveryOptions, options, where)
    return problems


def _tables(value: object) -> Iterable[tuple[str, dict[str, Any]]]:
    return [(k, v) for k, v in value.items() if isinstance(v, dict)] if isinstance(value, dict) else []


def _invalid(model: type[BaseModel], options: Mapping[str, object], where: tuple[str, ...]) -> list[Problem]:
    try:
        sinks.validated(model, options)
    except ValidationError as error:
        return _problems(error, model, where)
    except ValueError as error:
        return [Problem(".".join(where), str(error))]
    return []


def _problems(error: ValidationError, model: type[BaseModel], where: tuple[str, ...]) -> list[Problem]:
    return [_problem(row, model, where) for row in error.errors(include_url=False, include_input=True)]


def _problem(row: Any, model: type[BaseModel], where: tuple[str, ...]) -> Problem:
    location = [str(part) for part in row["loc"] if part not in ("timedelta", "function-before")]
    path = ".".join((*where, *location))
    if row["type"] == "extra_forbidden":
        allowed = _keys_at(model, row["loc"][:-1])
        near = difflib.get_close_matches(location[-1], allowed, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"allowed here: {', '.join(sorted(allowed))}"
        return Problem(path, f"unknown key; {hint}")
    if row["type"] == "missing":
        return Problem(path, "is missing")
    said = row["msg"].removeprefix("Value error, ")
    found = row["input"]
    # Never repeat what stands where a reference belongs: it may be the secret itself.
    secret = where[:1] == ("sinks",) or (location and location[-1] in _REFERENCES)
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool) and not secret else ""
    return Problem(path, f"{said}{'' if repr(found) in said else shown}")


def _keys_at(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed at a place of the file."""
    found: type[BaseModel] | None = model
    for part in location:
        field = found.model_fields.get(str(part)) if found else None
        found = _model_in(field.annotation) if field else found
    return list(found.model_fields) if found else []


def _model_in(annotation: object) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_model_in(part) for part in getattr(annotation, "__args__", ())]
    return next((found for found in inner if found), None)


def _unknown(path: str, found: str, known: Iterable[str], what: str) -> Problem:
    near = difflib.get_close_matches(found, list(known), 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
    return Problem(path, f"no {what} is called {found!r}; {hint}" if found else f"name one of: {', '.join(known)}")
