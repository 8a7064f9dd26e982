"""From TOML to a valid configuration, or every problem of it at once."""

import hashlib
import json
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rotator import sinks
from rotator.config.checking import cross_problems, hook_problems, loose_problems
from rotator.config.explaining import all_explained, unknown
from rotator.config.loaded import Config, HookConfig, SinkConfig
from rotator.config.tables import DeliverTable, File, PolicyTable, WhenTable
from rotator.errors import ConfigError, Problem
from rotator.model import Brake, Delivery, Grade, Policy, Select, Strategy, When
from rotator.schedule import Schedule, Windows, parse_zone

_SHORTEST_IDLE = timedelta(days=7)


def load(path: Path) -> Config:
    """Return the configuration in a file.

    Raises:
        ConfigError: With every problem that was found.
    """
    try:
        content = path.read_bytes()
        raw = tomllib.loads(content.decode("utf-8-sig"))  # editors on Windows begin a file with a mark
    except OSError as error:
        raise ConfigError.of("", f"cannot read the config {path}: {error.strerror}; give --config FILE") from None
    except UnicodeDecodeError:
        raise ConfigError.of("", f"{path} is not UTF-8 text") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError.of("", f"{path} is not TOML: {error}") from None
    return replace(parse(raw, path.resolve().parent), digest=hashlib.sha256(content).hexdigest(), file=path)


def parse(raw: dict[str, object], folder: Path) -> Config:
    """Return the configuration that parsed TOML says; raises ConfigError with every problem."""
    try:
        file = File.model_validate(raw)
    except ValidationError as error:
        problems = all_explained(error, File, ())
        # The parts that pydantic leaves to us are checked too: all problems at once.
        problems += loose_problems(raw)
        raise ConfigError(problems) from None
    problems = []
    sink_configs = _sinks(file, problems)
    policies = tuple(replace(policy, digest=_digest(raw, policy)) for policy in _policies(file, sink_configs, problems))
    problems += cross_problems(file)
    hooks = tuple(_hooks(file))
    problems += hook_problems(file, hooks)
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
        notifications=file.notifications,
        hooks=hooks,
    )


def _digest(raw: Mapping[str, Any], policy: Policy) -> str:
    """Return a name for all that the file says which a rotation of this policy could fail by."""
    said = [raw["policies"][policy.name], raw["sinks"], raw["providers"]]
    return hashlib.sha256(json.dumps(said, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _sinks(file: File, problems: list[Problem]) -> dict[str, SinkConfig]:
    found = {}
    for name, table in file.sinks.items():
        try:
            model = sinks.load(table.type).Options
            found[name] = SinkConfig(table.type, sinks.validated(model, table.model_extra or {}))
        except ValidationError as error:
            problems += all_explained(error, model, ("sinks", name))
        except ValueError as error:
            problems.append(Problem(f"sinks.{name}.type", str(error)))
    return found


def _policies(file: File, known: Mapping[str, SinkConfig], problems: list[Problem]) -> Iterable[Policy]:
    for name, table in file.policies.items():
        provider = table.provider or (next(iter(file.providers)) if len(file.providers) == 1 else "")
        if provider not in file.providers:
            problems.append(unknown(f"policies.{name}.provider", provider, file.providers, "provider"))
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
            problems.append(unknown(".".join((*path, "sink")), block.sink, file.sinks, "sink"))
        elif block.sink in known:
            model = sinks.load(known[block.sink].kind).DeliveryOptions
            try:
                yield Delivery(block.sink, sinks.checked(model, block.model_extra or {}), block.required)
            except ValidationError as error:
                problems += all_explained(error, model, path)
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


def _hooks(file: File) -> Iterable[HookConfig]:
    for policy, table in file.policies.items():
        for number, hook in enumerate(table.hooks, 1):
            yield HookConfig(hook.name or f"{policy}-{number}", policy, hook)
