"""Gauges: what a snapshot of the board says, as families of `prometheus_client`, and the series of single tokens.

Pure functions of the snapshot. The series of tokens may be many thousands, so they are written as text at once, in the
form that the text format and OpenMetrics share; their names are untrusted, and made visible and escaped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from platform import python_version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from rotator import __version__
from rotator.board import PolicyRow, Snapshot, TokenRow
from rotator.metrics.counting import OTHER
from rotator.planning import STATES
from rotator.text import visible

_LONGEST_NAME = 256
_NOT_READY = frozenset({"quarantined", "in_doubt", "unsettled", "drifted", "expired"})


def is_complete(snapshot: Snapshot) -> bool:
    """Whether the tokens of every provider that has policies have been looked at."""
    return all(row.provider in snapshot.looked_at for row in snapshot.policies)


def standing(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what is known by looking at tokens; a policy whose provider was not looked at yet is left out."""
    policies = [row.name for row in snapshot.policies if row.provider in snapshot.looked_at]
    known = {row.name for row in snapshot.policies}
    counts: Counter[tuple[str, str]] = Counter()
    for (policy, state), count in snapshot.counts.items():
        counts[policy if policy in known else OTHER, state] += count
    if any(policy == OTHER for policy, _ in counts) and OTHER not in policies:
        policies.append(OTHER)
    yield _gauge(
        "tokens",
        "Tokens by where they stand.",
        ("policy", "state"),
        [((policy, state), counts[policy, state]) for policy in policies for state in STATES],
    )
    for state, said in (
        ("in_doubt", "Rotations of which it is not known yet whether they took effect."),
        ("unsettled", "Rotations whose secret is not confirmed everywhere yet."),
        ("quarantined", "Tokens that were given up: a person must look."),
    ):
        yield _gauge(
            f"rotations_{state}", said, ("policy",), [((policy,), counts[policy, state]) for policy in policies]
        )
    pending: Counter[str] = Counter()
    for policy, count in snapshot.retirements.items():
        pending[policy if policy in known else OTHER] += count
    rows = [((policy,), pending[policy]) for policy in policies if policy != OTHER or pending[policy] or OTHER in known]
    yield _gauge("retirements_pending", "Old secrets that are still to be ended.", ("policy",), rows)
    behind = [((sink.name,), float(not sink.behind)) for sink in snapshot.sinks if sink.behind is not None]
    yield _gauge(
        "sink_in_sync",
        "Whether the sink holds every secret that it should hold, as far as is known.",
        ("sink",),
        behind,
    )


def service(snapshot: Snapshot) -> Iterator[Metric]:
    """Yield what is known without looking at tokens."""
    yield _gauge(
        "build_info",
        "Always 1; the labels say what runs.",
        ("version", "python"),
        [((__version__, python_version()), 1)],
    )

    def moments(name: str, said: str, moment: Callable[[PolicyRow], datetime | None]) -> Metric:
        rows = [((row.name,), at.timestamp()) for row in snapshot.policies if (at := moment(row)) is not None]
        return _gauge(name, said, ("policy",), rows)

    yield moments(
        "last_success_timestamp_seconds",
        "When a sweep last ended with nothing failed or unsettled.",
        lambda row: row.success_at,
    )
    yield moments("next_sweep_timestamp_seconds", "When the policy is swept next.", lambda row: row.next_at)
    lasted = [((row.name,), row.lasted.total_seconds()) for row in snapshot.policies if row.lasted is not None]
    yield _gauge("sweep_duration_seconds", "How long the last sweep took.", ("policy",), lasted)
    missed = CounterMetricFamily(
        "rotator_missed_sweeps_total", "Scheduled moments that passed without a sweep.", labels=["policy"]
    )
    for row in snapshot.policies:
        missed.add_metric([row.name], row.missed)
    yield missed
    yield _gauge(
        "credential_expiration_timestamp_seconds",
        "When a credential that rotator itself works with expires.",
        ("credential",),
        [((reference,), at.timestamp()) for reference, at in sorted(snapshot.credentials.items())],
    )
    yield _gauge(
        "clock_skew_seconds",
        "How far the API's clock is ahead of ours.",
        ("provider",),
        [((row.name,), row.skew.total_seconds()) for row in snapshot.providers if row.skew is not None],
    )
    is_good = float(not snapshot.config_problem)
    yield _gauge("config_last_reload_successful", "Whether the newest config is in force.", (), [((), is_good)])
    loaded = [((), snapshot.config_at.timestamp())] if snapshot.config_at is not None else []
    yield _gauge("config_last_reload_success_timestamp_seconds", "When the config in force was loaded.", (), loaded)


def token_series(snapshot: Snapshot) -> bytes:
    """Return the series of every token that the snapshot shows, with their heads.

    Source: https://prometheus.io/docs/instrumenting/exposition_formats/ (text, 0.0.4) and the OpenMetrics text format.
    """
    known = {row.name for row in snapshot.policies}
    rows: dict[str, TokenRow] = {}
    for row in snapshot.tokens:
        if row.state != "gone":  # the object is gone, and so is its series
            policy = row.policy if row.policy in known else OTHER
            rows.setdefault(_labels(row.name, policy, row.token_id), row)
    parts: list[str] = []
    for name, said, value in _TOKEN_GAUGES:
        parts.append(f"# HELP {name} {said}\n# TYPE {name} gauge\n")
        parts += [f"{name}{labels} {found!r}\n" for labels, row in rows.items() if (found := value(row)) is not None]
    return "".join(parts).encode()


def _last_rotation(row: TokenRow) -> float | None:
    """Return when its secret was made; of a twin, which was never rotated, when it was created."""
    return _stamp(row.last_rotated_at or (row.born_at if row.settled_at is not None else None))


def _due(row: TokenRow) -> float | None:
    """Return when it is to be rotated; the old one of an overlap never is, what is due is its end."""
    return None if row.state == "retiring" else _stamp(row.due_at)


def _stamp(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment is not None else None


_TOKEN_GAUGES: tuple[tuple[str, str, Callable[[TokenRow], float | None]], ...] = (
    ("rotator_token_expiration_timestamp_seconds", "When the token expires.", lambda row: _stamp(row.expires_at)),
    ("rotator_token_due_timestamp_seconds", "When the token is or was due.", _due),
    ("rotator_token_last_rotation_timestamp_seconds", "When the token was last rotated.", _last_rotation),
    (
        "rotator_token_ready",
        "Whether, as far as is known, the sinks hold a secret of the token that works.",
        lambda row: float(row.state not in _NOT_READY),
    ),
)


def _labels(name: str, policy: str, token_id: str) -> str:
    shown, identity = visible(name, _LONGEST_NAME), visible(token_id, _LONGEST_NAME)
    return f'{{name="{_escaped(shown)}",policy="{_escaped(policy)}",token_id="{_escaped(identity)}"}}'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _gauge(
    name: str, said: str, labels: tuple[str, ...], rows: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"rotator_{name}", said, labels=labels)
    for values, value in rows:
        family.add_metric(values, value)
    return family
