"""Reads what stands in deploy/: rules, their selectors, the runbook, the dashboard's queries."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.metrics.test_contract import PROMISED

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "prometheus" / "rules.yaml"
RUNBOOK = DEPLOY / "RUNBOOK.md"
TARGET = frozenset({"job", "instance"})  # what Prometheus itself adds
METRICS = {name: frozenset(labels) for name, (_, labels) in PROMISED.items()}
HISTOGRAMS = frozenset(name for name, (kind, _) in PROMISED.items() if kind == "histogram")
FOREIGN = {"up": frozenset[str](), "push_time_seconds": frozenset[str]()}
_NAME = r"(?<![\w:$\"])((?:rotator_|policy:|job:|push_time|up\b)[\w:]*)"
_SELECTOR = re.compile(_NAME + r"\s*(?:\{([^}]*)\})?")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring|group_left|group_right)\s*\(([^)]*)\)")


@dataclass(frozen=True)
class Rule:
    """One rule; `name` is of the alert or of the record."""

    name: str
    expr: str
    is_alert: bool
    annotations: dict[str, str]
    labels: dict[str, str]


def rules() -> list[Rule]:
    """Return every rule of the committed file."""
    found = yaml.safe_load(RULES.read_text())
    return [
        Rule(
            one.get("alert") or one["record"],
            one["expr"],
            "alert" in one,
            one.get("annotations", {}),
            one.get("labels", {}),
        )
        for group in found["groups"]
        for one in group["rules"]
    ]


def alerts() -> list[Rule]:
    """Return the alerts."""
    return [rule for rule in rules() if rule.is_alert]


def selectors(expr: str) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield every metric of an expression with the labels that its selector asks for."""
    for name, matchers in _SELECTOR.findall(_GROUPING.sub("", expr)):
        yield name, frozenset(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", re.sub(r'"[^"]*"', '""', matchers)))


def groupings(expr: str) -> frozenset[str]:
    """Return the labels that an expression groups or matches by."""
    return frozenset(label.strip() for part in _GROUPING.findall(expr) for label in part.split(",") if label.strip())


def labels_of(name: str) -> frozenset[str] | None:
    """Return the labels a series of this name can have, without the target's; None if nobody promises it."""
    for suffix in ("_bucket", "_sum", "_count"):
        base = name.removesuffix(suffix)
        if base != name and base in HISTOGRAMS:
            return METRICS[base] | ({"le"} if suffix == "_bucket" else set())
    records = {rule.name: rule for rule in rules() if not rule.is_alert}
    if name in records:
        return groupings(records[name].expr)
    return METRICS.get(name, FOREIGN.get(name)) if name not in HISTOGRAMS else None


def problems(expr: str) -> list[str]:
    """Return what an expression asks for that does not exist."""
    found, known = [], set(TARGET)
    for name, wanted in selectors(expr):
        has = labels_of(name)
        if has is None:
            found.append(f"nobody exposes {name}")
            continue
        known |= has
        found += [f"{name} has no label {label}" for label in wanted - has - TARGET]
    return found + [f"no metric of it has the label {label}" for label in groupings(expr) - known]


def runbook() -> dict[str, str]:
    """Return the runbook's sections on alerts, by heading."""
    parts = re.split(r"(?m)^## ", RUNBOOK.read_text())[1:]
    return {part.split("\n", 1)[0].strip(): part.split("\n", 1)[1] for part in parts}


def load_yaml(path: Path) -> Any:
    """Return a YAML file's content."""
    return yaml.safe_load(path.read_text())


DASHBOARD = DEPLOY / "grafana" / "rotator.json"


def dashboard() -> dict[str, Any]:
    """Return the committed dashboard."""
    found: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return found


def panels() -> list[dict[str, Any]]:
    """Return its panels, without the rows."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """Yield (panel or annotation, expression) of every query of the dashboard, as they stand there."""
    for panel in panels():
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in dashboard()["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def filled(expr: str, window: str = "5m") -> str:
    """Return an expression as Grafana sends it with every variable on "All"."""
    return (
        expr.replace("$__rate_interval", window)
        .replace("$job", ".+")
        .replace("$instance", ".+")
        .replace("$policy", ".+")
    )
