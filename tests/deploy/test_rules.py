"""The alert rules: sound by promtool, about metrics that exist, and each with its place in the runbook."""

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from rotator.cli.main import cli
from tests.deploy.reading import DEPLOY, TARGET, Rule, alerts, groupings, labels_of, load_yaml, problems, rules, runbook
from tests.servers.prometheus import tool

PROMETHEUS = DEPLOY / "prometheus"
UNIT_TESTS = (PROMETHEUS / "rules_test.yaml", PROMETHEUS / "rules_days_test.yaml")


def test_the_rules_are_sound() -> None:
    """`promtool check rules` finds nothing, duplicates included."""
    assert "SUCCESS" in tool("promtool", "check", "rules", "--lint=all", "--lint-fatal", PROMETHEUS / "rules.yaml")


@pytest.mark.parametrize("path", UNIT_TESTS, ids=lambda path: path.stem)
def test_every_alert_fires_when_it_should_and_only_then(path: Path) -> None:
    """The unit tests of the rules pass."""
    assert "SUCCESS" in tool("promtool", "test", "rules", path)


def test_the_examples_are_valid() -> None:
    """The example configurations of Prometheus and Alertmanager load."""
    assert "SUCCESS" in tool("promtool", "check", "config", PROMETHEUS / "prometheus.yaml")
    assert "SUCCESS" in tool("amtool", "check-config", PROMETHEUS / "alertmanager.yaml")


def test_the_examples_name_alerts_that_exist() -> None:
    """Every alert that an inhibition of the example mentions is one of ours."""
    text = (PROMETHEUS / "alertmanager.yaml").read_text()
    named = {name for name in re.findall(r"Rotator[A-Za-z]+", text) if name != "Rotator"}
    assert named
    assert named <= {rule.name for rule in alerts()}


def expectations() -> Iterator[tuple[frozenset[str], bool]]:
    """Yield, of every unit test and moment, which alerts are expected to fire, and whether nothing else may."""
    for path in UNIT_TESTS:
        for test in load_yaml(path)["tests"]:
            for one in test.get("promql_expr_test", []):
                if one["expr"] == 'ALERTS{alertstate="firing"}':
                    named = [re.search(r'alertname="(\w+)"', sample["labels"]) for sample in one["exp_samples"]]
                    yield frozenset(match[1] for match in named if match), not one["exp_samples"]


def test_every_alert_has_a_unit_test() -> None:
    """Each alert fires in at least one unit test, and each such test has a moment at which nothing fires."""
    firing = {name for names, _ in expectations() for name in names}
    assert firing == {rule.name for rule in alerts()}
    for path in UNIT_TESTS:
        for test in load_yaml(path)["tests"]:
            checks = [one["exp_samples"] for one in test["promql_expr_test"]]
            assert any(not samples for samples in checks), f"{test['name']}: nothing says when it does not fire"


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.name)
def test_a_rule_asks_for_what_exists(rule: Rule) -> None:
    """Every metric and label in an expression is one that rotator promises."""
    assert problems(rule.expr) == []


def test_a_misspelt_metric_or_label_is_found() -> None:
    """The check above is not blind: it finds a wrong name, matcher and grouping."""
    assert problems("rotator_token_redy == 0") == ["nobody exposes rotator_token_redy"]
    assert problems('rotator_tokens{status="due"} > 0') == ["rotator_tokens has no label status"]
    assert problems("max by (job, provider) (rotator_tokens)") == ["no metric of it has the label provider"]
    assert problems("rate(rotator_time_to_settle_seconds[5m])") == ["nobody exposes rotator_time_to_settle_seconds"]
    assert labels_of("rotator_time_to_settle_seconds_bucket") == {"policy", "le"}


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_an_alert_says_what_its_reader_needs(rule: Rule) -> None:
    """Severity, summary, description and runbook are there, and templates use labels that the alert has."""
    assert re.fullmatch(r"Rotator[A-Z][A-Za-z]+", rule.name)
    assert rule.labels["severity"] in ("critical", "warning")
    assert set(rule.annotations) == {"summary", "description", "runbook_url"}
    assert all(text.endswith(".") for key, text in rule.annotations.items() if key != "runbook_url")
    assert rule.annotations["runbook_url"] == f"deploy/RUNBOOK.md#{rule.name.lower()}"
    has = groupings(rule.expr) or TARGET
    used = {label for text in rule.annotations.values() for label in re.findall(r"\$labels\.(\w+)", text)}
    assert used <= has


def test_the_runbook_has_a_section_for_each_alert_and_no_other() -> None:
    """Runbook and rules name the same alerts, in the same order."""
    assert list(runbook()) == [rule.name for rule in alerts()]


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule.name)
def test_a_runbook_section_can_be_followed(rule: Rule) -> None:
    """It says what it means, how urgent it is (as the rule does), what to run first, the steps, and when it is over."""
    text = runbook()[rule.name]
    for part in (
        "- **Means:** ",
        f"- **Urgency:** {rule.labels['severity']}, ",
        "- **First:** `",
        "\n1. ",
        "**Over when** ",
    ):
        assert part in text, f"{rule.name} lacks {part!r}"


def test_every_command_of_the_runbook_exists() -> None:
    """Each `rotator ...` in it is a command with options that the command line knows."""
    text = "\n".join(runbook().values())
    found = set(re.findall(r"`(rotator [^`]+)`", text))
    assert found
    for line in found:
        words = line.split()[1:]
        command: click.Command = cli
        while isinstance(command, click.Group) and words:
            known = command.get_command(click.Context(command), words.pop(0))
            assert known is not None, f"{line}: no such command"
            command = known
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_every_link_of_the_runbook_leads_somewhere() -> None:
    """Links within the runbook are headings of it."""
    anchors = {name.lower() for name in runbook()}
    assert set(re.findall(r"\]\(#([^)]+)\)", (DEPLOY / "RUNBOOK.md").read_text())) <= anchors
