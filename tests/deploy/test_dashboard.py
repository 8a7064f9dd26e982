"""The Grafana dashboard: what the code makes, sound by Grafana's types and dashboard-linter's rules.

Source: https://github.com/grafana/dashboard-linter/tree/main/docs/rules
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from deploy.grafana.dashboard import text
from tests.deploy.reading import DASHBOARD, dashboard, filled, panels, problems, queries
from tests.servers.prometheus import tool

UNITS = {"short", "s", "ops", "reqps", "bool_yes_no"}  # those of Grafana's that we use
SOURCES = ("$datasource", "${datasource}")
EVERY_PANEL = pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
EVERY_QUERY = pytest.mark.parametrize(("where", "expr"), list(queries()), ids=[where for where, _ in queries()])


def variables() -> dict[str, dict[str, Any]]:
    """Return the dashboard's variables by name."""
    return {one["name"]: one for one in dashboard()["templating"]["list"]}


def test_the_committed_dashboard_is_what_the_code_makes() -> None:
    """`python deploy/grafana/dashboard.py > deploy/grafana/rotator.json` changes nothing."""
    assert DASHBOARD.read_text() == text()


def test_it_is_a_dashboard_by_the_types_of_grafana() -> None:
    """Read into the SDK's model and written again, nothing of it is lost."""
    plugins.register_default_plugins()
    model = Dashboard.from_json(dashboard())
    assert json.loads(json.dumps(model, cls=JSONEncoder)) == dashboard()


def test_nobody_edits_it_in_grafana() -> None:
    """uneditable: changes belong into the code. Its uid and tag stay, so that links and searches do."""
    found = dashboard()
    assert found["editable"] is False
    assert (found["uid"], found["tags"], found["timezone"]) == ("rotator", ["rotator"], "utc")


def test_the_data_source_is_a_variable() -> None:
    """template-datasource: named and labelled as Grafana's own dashboards do."""
    found = [one for one in variables().values() if one["type"] == "datasource"]
    assert [(one["name"], one["label"], one["query"]) for one in found] == [("datasource", "Data source", "prometheus")]


@pytest.mark.parametrize("name", ["job", "instance", "policy"])
def test_the_selection_is_a_variable(name: str) -> None:
    """template-job, template-instance: queries of that data source, multi-valued, with all, read anew with the time."""
    one = variables()[name]
    assert one["type"] == "query"
    assert one["datasource"]["uid"] in SOURCES
    assert one["label"] == name.capitalize()
    assert one["multi"] is one["includeAll"] is True
    assert one["allValue"] == ".+"
    assert one["refresh"] == 2
    assert problems(re.sub(r"label_values\((.*), \w+\)", r"\1", filled(one["query"]))) == []


@EVERY_PANEL
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    """panel-datasource, panel-title-description, panel-units, panel-no-targets; and nothing reaches over the edge."""
    assert panel["datasource"]["uid"] in SOURCES
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24


def test_panels_do_not_overlap() -> None:
    """No two panels claim the same cell, and each has an id of its own."""
    cells = [
        (panel["gridPos"]["x"] + x, panel["gridPos"]["y"] + y)
        for panel in dashboard()["panels"]
        for x in range(panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    ids = [panel["id"] for panel in dashboard()["panels"]]
    assert len(ids) == len(set(ids))


def test_every_query_is_promql(tmp_path: Path) -> None:
    """target-promql: promtool takes them all."""
    rules = [{"record": f"q{index}", "expr": filled(expr)} for index, (_, expr) in enumerate(queries())]
    path = tmp_path / "queries.yaml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in tool("promtool", "check", "rules", path)


@EVERY_QUERY
def test_a_query_is_about_what_exists(where: str, expr: str) -> None:
    """Its metrics and labels are promised ones, and it is narrowed by the dashboard's job."""
    assert problems(filled(expr)) == []
    assert expr.count('job=~"$job"') == len(re.findall(r"\{", expr))


@EVERY_QUERY
def test_a_query_counts_rightly(where: str, expr: str) -> None:
    """target-rate-interval, target-counter-agg: ranges follow the screen, and a counter is never shown raw."""
    assert set(re.findall(r"\[([^\]]+)\]", expr)) <= {"$__rate_interval"}
    counters = re.findall(r"(\w+\()?rotator_\w+(?:_total|_bucket)\{[^}]*\}(\[)?", expr)
    assert all((call, opened) == ("rate(", "[") for call, opened in counters)
