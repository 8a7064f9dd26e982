"""The dashboard as code: `python deploy/grafana/dashboard.py > deploy/grafana/rotator.json`.

A test holds the committed JSON to what this writes, and every query to metrics that exist. Needs the `test` extra.
"""

import json
import sys
from dataclasses import dataclass

from grafana_foundation_sdk.builders import common as common_builders
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.builders import prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

SOURCE = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
# What stands is shown of daemons and of pushes, which have no instance; what is counted is of daemons alone.
STATE = 'job=~"$job",policy=~"$policy"'
STATE_ALL = 'job=~"$job"'
COUNTED = 'job=~"$job",instance=~"$instance"'
COUNTED_POLICY = f'{COUNTED},policy=~"$policy"'
GOOD, WARN, BAD = "green", "orange", "red"
RATE = "$__rate_interval"
TOKEN = "token_id, name, policy"


@dataclass(frozen=True)
class Query:
    """One query of a panel; `legend` as Grafana's legend format."""

    expr: str
    legend: str


@dataclass(frozen=True)
class Look:
    """How a panel shows its values.

    Attributes:
        steps: From which value on (None: from the beginning) which colour; of numbers only.
        width: In columns of 24.
    """

    unit: str
    steps: tuple[tuple[float | None, str], ...] = ()
    width: int = 8
    stacked: bool = False


def _rate(metric: str, matchers: str, by: str, legend: str) -> Query:
    return Query(f"sum by ({by}) (rate({metric}{{{matchers}}}[{RATE}]))", legend)


def _quantiles(metric: str, matchers: str, by: str) -> list[Query]:
    return [
        Query(
            f"histogram_quantile({share}, sum by (le, {by}) (rate({metric}_bucket{{{matchers}}}[{RATE}])))",
            f"{{{{{by}}}}} p{share * 100:.0f}",
        )
        for share in (0.5, 0.95)
    ]


def _number(title: str, said: str, query: Query, look: Look) -> stat.Panel:
    steps = [dashboard.Threshold(value, color) for value, color in look.steps or ((None, GOOD),)]
    return (
        stat.Panel()
        .title(title)
        .description(said)
        .datasource(SOURCE)
        .unit(look.unit)
        .span(look.width)
        .height(4)
        .thresholds(build.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(steps))
        .color_scheme(build.FieldColor().mode(dashboard.FieldColorModeId.THRESHOLDS))
        .graph_mode(common.BigValueGraphMode.NONE)
        .reduce_options(common_builders.ReduceDataOptions().calcs(["lastNotNull"]))
        .with_target(prometheus.Dataquery().expr(query.expr).legend_format(query.legend).instant().ref_id("A"))
    )


def _graph(title: str, said: str, queries: list[Query], look: Look) -> timeseries.Panel:
    panel = (
        timeseries.Panel()
        .title(title)
        .description(said)
        .datasource(SOURCE)
        .unit(look.unit)
        .span(look.width)
        .height(8)
        .min(0)
        .fill_opacity(20 if look.stacked else 0)
        .show_points(common.VisibilityMode.NEVER)
        .legend(
            common_builders.VizLegendOptions()
            .show_legend(True)  # noqa: FBT003 - the builder's own form
            .display_mode(common.LegendDisplayMode.LIST)
            .placement(common.LegendPlacement.BOTTOM)
            .calcs([])
        )
    )
    if look.stacked:
        panel.stacking(common_builders.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    for index, query in enumerate(queries):
        target = prometheus.Dataquery().expr(query.expr).legend_format(query.legend).range()
        panel.with_target(target.ref_id(chr(ord("A") + index)))
    return panel


def _tokens() -> table.Panel:
    columns = {
        "ready": (f"max by ({TOKEN}) (rotator_token_ready{{{STATE}}})", "bool_yes_no"),
        "due in": (f"max by ({TOKEN}) (rotator_token_due_timestamp_seconds{{{STATE}}}) - time()", "s"),
        "expires in": (f"max by ({TOKEN}) (rotator_token_expiration_timestamp_seconds{{{STATE}}}) - time()", "s"),
        "last rotated": (
            f"time() - max by ({TOKEN}) (rotator_token_last_rotation_timestamp_seconds{{{STATE}}})",
            "s",
        ),
    }
    said = (
        "One row a token, the soonest due first. A negative time lies in the past. "
        "With more tokens than [metrics] max_tokens there is none; `rotator status` shows them all."
    )
    panel = table.Panel().title("Tokens").description(said).datasource(SOURCE).unit("s").span(24).height(10)
    renamed = {}
    for index, (name, (expr, unit)) in enumerate(columns.items()):
        ref = chr(ord("A") + index)
        renamed[f"Value #{ref}"] = name
        query = prometheus.Dataquery().expr(expr).instant().format(PromQueryFormat.TABLE).ref_id(ref)
        panel.with_target(query)
        panel.override_by_name(name, [dashboard.DynamicConfigValue(id_val="unit", value=unit)])
    return (
        panel.with_transformation(dashboard.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            dashboard.DataTransformerConfig(
                id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": renamed}
            )
        )
        .sort_by([common_builders.TableSortByFieldState().display_name("due in")])
    )


def _variable(name: str, label: str, query: str) -> build.QueryVariable:
    return (
        build.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(dashboard.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(dashboard.VariableSort.ALPHABETICAL_ASC)
        .multi(True)  # noqa: FBT003 - the builder's own form
        .include_all(True)  # noqa: FBT003 - the builder's own form
        .all_value(".+")
        .current(dashboard.VariableOption(selected=True, text="All", value="$__all"))
    )


def _annotation(name: str, expr: str, color: str) -> build.AnnotationQuery:
    query = build.AnnotationQuery().name(name).datasource(SOURCE).expr(expr).icon_color(color)
    return query.enable(True)  # noqa: FBT003 - the builder's own form


def _now(made: build.Dashboard) -> None:
    ready = f"sum(max by ({TOKEN}) (rotator_token_ready{{{STATE}}}))"
    total = f"sum(max by (policy, state) (rotator_tokens{{{STATE}}}))"
    soonest = f"min(max by ({TOKEN}) (rotator_token_expiration_timestamp_seconds{{{STATE}}})) - time()"
    made.with_row(build.Row("Now"))
    for title, said, expr, look in (
        ("Tokens", "How many tokens the policies select.", total, Look("short", width=3)),
        ("Ready", "Tokens whose sinks hold a secret that works, as far as is known.", ready, Look("short", width=3)),
        (
            "In doubt",
            "Rotations of which nobody knows whether they took effect.",
            f"sum(max by (policy) (rotator_rotations_in_doubt{{{STATE}}}))",
            Look("short", ((None, GOOD), (1, BAD)), 3),
        ),
        (
            "Unsettled",
            "New secrets that have not reached every required sink.",
            f"sum(max by (policy) (rotator_rotations_unsettled{{{STATE}}}))",
            Look("short", ((None, GOOD), (1, BAD)), 3),
        ),
        (
            "Quarantined",
            "Tokens that were given up: a person must look.",
            f"sum(max by (policy) (rotator_rotations_quarantined{{{STATE}}}))",
            Look("short", ((None, GOOD), (1, BAD)), 3),
        ),
        ("Soonest expiry", "Of all tokens.", soonest, Look("s", ((None, BAD), (21600, WARN), (172800, GOOD)), 3)),
        (
            "Since the last success",
            "Of the policy that has waited longest for a sweep with nothing failed or unsettled.",
            f"time() - min(max by (policy) (rotator_last_success_timestamp_seconds{{{STATE}}}))",
            Look("s", width=3),
        ),
        (
            "Config in force",
            "Whether the newest config is in force everywhere.",
            f"min(rotator_config_last_reload_successful{{{STATE_ALL}}})",
            Look("bool_yes_no", ((None, BAD), (1, GOOD)), 3),
        ),
    ):
        made.with_panel(_number(title, said, Query(expr, title), look))


def _rotations(made: build.Dashboard) -> None:
    total, steps = "rotator_rotations_total", "rotator_rotation_step_duration_seconds"
    made.with_row(build.Row("Rotations"))
    made.with_panel(
        _graph(
            "Rotations by outcome",
            "How many rotations a second ended, and how.",
            [_rate(total, COUNTED_POLICY, "outcome", "{{outcome}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Rotations by reason",
            "Why tokens were rotated.",
            [_rate(total, COUNTED_POLICY, "reason", "{{reason}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Failures by step",
            "At which step rotations fail, and whether trying again can help.",
            [_rate("rotator_rotation_step_failures_total", COUNTED, "step, kind", "{{step}} {{kind}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Duration of the steps",
            "Median and 95th percentile of each step.",
            _quantiles(steps, COUNTED, "step"),
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "Time to settle",
            "From the intent of a rotation until every required sink was proven.",
            _quantiles("rotator_time_to_settle_seconds", COUNTED_POLICY, "policy"),
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "Lost and drifted",
            "Secrets that never reached us, and differences that somebody else made.",
            [
                _rate("rotator_lost_total", COUNTED_POLICY, "policy", "{{policy}} lost"),
                _rate("rotator_drift_total", COUNTED_POLICY, "policy, kind", "{{policy}} {{kind}}"),
            ],
            Look("ops", stacked=True),
        )
    )


def _api(made: build.Dashboard) -> None:
    requests = "rotator_provider_requests_total"
    made.with_row(build.Row("Astro API"))
    made.with_panel(
        _graph(
            "Requests by operation and status",
            "What the API was asked, and what it answered.",
            [_rate(requests, COUNTED, "provider, operation, status", "{{provider}} {{operation}} {{status}}")],
            Look("reqps", width=12, stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Latency",
            "Median and 95th percentile of each operation.",
            _quantiles("rotator_provider_request_duration_seconds", COUNTED, "operation"),
            Look("s", width=12),
        )
    )
    made.with_panel(
        _graph(
            "Waiting for a turn",
            "Seconds a second that requests wait because of the rate limit, ours or the API's.",
            [_rate("rotator_provider_throttled_seconds_total", COUNTED, "provider", "{{provider}}")],
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "Own credentials",
            "How long the credentials that rotator works with are still valid.",
            [
                Query(
                    f"min by (credential) (rotator_credential_expiration_timestamp_seconds{{{STATE_ALL}}}) - time()",
                    "{{credential}}",
                )
            ],
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "Clock skew",
            "By how much the API's clock and ours differ. Beyond max_clock_skew nothing is rotated.",
            [Query(f"max by (provider) (abs(rotator_clock_skew_seconds{{{STATE_ALL}}}))", "{{provider}}")],
            Look("s"),
        )
    )


def _sinks(made: build.Dashboard) -> None:
    made.with_row(build.Row("Sinks"))
    made.with_panel(
        _graph(
            "Deliveries by sink and outcome",
            "Writes of one secret to one place.",
            [_rate("rotator_deliveries_total", COUNTED, "sink, outcome", "{{sink}} {{outcome}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Duration of a delivery",
            "Median and 95th percentile of each sink.",
            _quantiles("rotator_delivery_duration_seconds", COUNTED, "sink"),
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "In sync",
            "1 where the sink holds every secret that it should hold, as far as is known.",
            [Query(f"min by (sink) (rotator_sink_in_sync{{{STATE_ALL}}})", "{{sink}}")],
            Look("short"),
        )
    )


def _runtime(made: build.Dashboard) -> None:
    made.with_row(build.Row("Sweeps and what listens"))
    made.with_panel(
        _graph(
            "Sweeps by outcome",
            "Sweeps that ended, by the worst that came of a token.",
            [_rate("rotator_sweeps_total", COUNTED_POLICY, "policy, outcome", "{{policy}} {{outcome}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Duration of the last sweep",
            "How long the last sweep of each policy took.",
            [Query(f"max by (policy) (rotator_sweep_duration_seconds{{{STATE}}})", "{{policy}}")],
            Look("s"),
        )
    )
    made.with_panel(
        _graph(
            "Next sweep",
            "How long until the next sweep of each policy. A schedule that stands still falls below zero.",
            [Query(f"max by (policy) (rotator_next_sweep_timestamp_seconds{{{STATE}}}) - time()", "{{policy}}")],
            Look("s"),
        ).min(-3600)
    )
    made.with_panel(
        _graph(
            "Missed sweeps",
            "Scheduled moments that passed without a sweep.",
            [_rate("rotator_missed_sweeps_total", COUNTED_POLICY, "policy", "{{policy}}")],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Audit lines",
            "By event. audit_failed and journal_failed count when something could not be written.",
            [
                _rate("rotator_audit_records_total", COUNTED, "event", "{{event}}"),
            ],
            Look("ops", stacked=True),
        )
    )
    made.with_panel(
        _graph(
            "Notifications and hooks",
            "Who was told, and what was called.",
            [
                _rate("rotator_notifications_total", COUNTED, "channel, outcome", "{{channel}} {{outcome}}"),
                _rate("rotator_hooks_total", COUNTED, "hook, outcome", "{{hook}} {{outcome}}"),
            ],
            Look("ops", stacked=True),
        )
    )


def made() -> dashboard.Dashboard:
    """Return the dashboard as the SDK's model."""
    board = (
        build.Dashboard("rotator")
        .uid("rotator")
        .description("Rotation of Astro API tokens: what stands, what happened, and what it cost.")
        .tags(["rotator"])
        .timezone("utc")
        .time("now-24h", "now")
        .refresh("1m")
        .tooltip(dashboard.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(build.DatasourceVariable("datasource").label("Data source").type("prometheus"))
        .with_variable(_variable("job", "Job", "label_values(rotator_build_info, job)"))
        .with_variable(_variable("instance", "Instance", 'label_values(rotator_build_info{job=~"$job"}, instance)'))
        .with_variable(_variable("policy", "Policy", 'label_values(rotator_tokens{job=~"$job"}, policy)'))
        .annotation(
            _annotation(
                "Starts and reloads",
                f"changes(rotator_config_last_reload_success_timestamp_seconds{{{COUNTED}}}[{RATE}]) > 0",
                "blue",
            )
        )
        .annotation(
            _annotation(
                "Rotations",
                f"sum by (policy) (changes(rotator_token_last_rotation_timestamp_seconds{{{STATE}}}[{RATE}])) > 0",
                "green",
            )
        )
    )
    _now(board)
    board.with_row(build.Row("Tokens"))
    board.with_panel(_tokens())
    board.with_panel(
        _graph(
            "Tokens by state",
            "Every token counts once, by the worst that can be said of it.",
            [Query(f"sum by (state) (max by (policy, state) (rotator_tokens{{{STATE}}}))", "{{state}}")],
            Look("short", width=12, stacked=True),
        )
    )
    board.with_panel(
        _graph(
            "Old secrets waiting for their end",
            "Of overlaps: both secrets are valid until the old one is ended.",
            [Query(f"max by (policy) (rotator_retirements_pending{{{STATE}}})", "{{policy}}")],
            Look("short", width=12),
        )
    )
    for row in (_rotations, _api, _sinks, _runtime):
        row(board)
    return board.build()


def text() -> str:
    """Return the JSON that Grafana imports; panel ids are numbered, so that links to a panel stay valid."""
    found = json.loads(json.dumps(made(), cls=JSONEncoder))
    for number, panel in enumerate(found["panels"], start=1):
        panel["id"] = number
    return json.dumps(found, indent=2, sort_keys=True) + "\n"


if __name__ == "__main__":
    sys.stdout.write(text())
