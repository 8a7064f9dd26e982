"""What no single key can be wrong about: keys that contradict each other, and the options of sinks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ValidationError

from rotator import sinks
from rotator.config.explaining import all_explained, explained
from rotator.config.loaded import HookConfig
from rotator.config.tables import File, MetricsTable
from rotator.errors import Problem
from rotator.model import Scope


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


def hook_problems(file: File, hooks: Sequence[HookConfig]) -> Iterable[Problem]:
    names = [hook.name for hook in hooks]
    for policy, table in file.policies.items():
        for number, hook in enumerate(table.hooks):
            path = f"policies.{policy}.hooks.{number}"
            if names.count(hook.name or f"{policy}-{number + 1}") > 1:
                yield Problem(f"{path}.name", "another hook is called so; give each a name of its own")
            if bool(hook.exec) == bool(hook.webhook):
                yield Problem(path, "set either exec or webhook")
            elif hook.exec:
                yield from _as_a_sink("exec", {"command": hook.exec}, f"{path}.exec")
            else:
                said = {"url": hook.webhook, "signing_key": hook.signing_key}
                yield from _as_a_sink("webhook", said, f"{path}.webhook")
            if "{" in hook.webhook:
                yield Problem(f"{path}.webhook", "has no placeholders; what it is about stands in the body")
            if hook.on == "before_rotate" and hook.debounce:
                yield Problem(f"{path}.debounce", 'is for on = "settled"; each token is asked for by itself')
            if hook.on == "settled" and hook.on_failure != "hold":
                yield Problem(f"{path}.on_failure", 'is for on = "before_rotate"; a settled rotation stays settled')


def _as_a_sink(kind: str, options: Mapping[str, object], path: str) -> Iterable[Problem]:
    """Yield what is wrong with how a hook is reached: programs and receivers obey the rules of the sinks."""
    model = sinks.load(kind).Options
    try:
        sinks.validated(model, options)
    except ValidationError as error:
        yield from [Problem(path, explained(row, model, ("sinks",)).message) for row in error.errors(include_url=False)]


def cross_problems(file: File) -> Iterable[Problem]:
    yield from _gateway_problems(file.metrics)
    if file.audit.http is not None and file.audit.path == "-":
        yield Problem("audit.http", 'ships lines from a file, which survives a restart: set audit.path to one, not "-"')
    for name, table in file.policies.items():
        provider = file.providers.get(table.provider or next(iter(file.providers)))
        if provider is None or provider.api_version != "v1alpha1":
            continue
        for scope, homes in ((Scope.WORKSPACE, table.select.workspaces), (Scope.DEPLOYMENT, table.select.deployments)):
            if scope in table.select.scopes and not homes:
                yield Problem(
                    f"policies.{name}.select.{scope}s", f"v1alpha1 lists {scope} tokens by {scope}: name them here"
                )


def loose_problems(raw: Mapping[str, object]) -> list[Problem]:
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
        return all_explained(error, model, where)
    except ValueError as error:
        return [Problem(".".join(where), str(error))]
    return []
