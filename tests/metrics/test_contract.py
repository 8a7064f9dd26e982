"""The metrics that users were promised: names, types, labels, closed sets, and what each says after real sweeps."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.events import Event, EventName
from rotator.model import Outcome, Reason, Step
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import Lab
from tests.metrics.measuring import Measured, configure, families, measured, samples

PROMISED = {
    "rotator_build_info": ("gauge", {"version", "python"}),
    "rotator_tokens": ("gauge", {"policy", "state"}),
    "rotator_token_expiration_timestamp_seconds": ("gauge", {"policy", "token_id", "name"}),
    "rotator_token_due_timestamp_seconds": ("gauge", {"policy", "token_id", "name"}),
    "rotator_token_last_rotation_timestamp_seconds": ("gauge", {"policy", "token_id", "name"}),
    "rotator_token_ready": ("gauge", {"policy", "token_id", "name"}),
    "rotator_rotations_total": ("counter", {"policy", "strategy", "reason", "outcome"}),
    "rotator_rotation_step_failures_total": ("counter", {"step", "kind"}),
    "rotator_rotation_step_duration_seconds": ("histogram", {"step"}),
    "rotator_rotations_in_doubt": ("gauge", {"policy"}),
    "rotator_rotations_unsettled": ("gauge", {"policy"}),
    "rotator_rotations_quarantined": ("gauge", {"policy"}),
    "rotator_retirements_pending": ("gauge", {"policy"}),
    "rotator_lost_total": ("counter", {"policy"}),
    "rotator_drift_total": ("counter", {"policy", "kind"}),
    "rotator_deliveries_total": ("counter", {"sink", "outcome"}),
    "rotator_delivery_duration_seconds": ("histogram", {"sink"}),
    "rotator_sink_in_sync": ("gauge", {"sink"}),
    "rotator_time_to_settle_seconds": ("histogram", {"policy"}),
    "rotator_sweeps_total": ("counter", {"policy", "outcome"}),
    "rotator_sweep_duration_seconds": ("gauge", {"policy"}),
    "rotator_missed_sweeps_total": ("counter", {"policy"}),
    "rotator_last_success_timestamp_seconds": ("gauge", {"policy"}),
    "rotator_next_sweep_timestamp_seconds": ("gauge", {"policy"}),
    "rotator_provider_requests_total": ("counter", {"provider", "operation", "status"}),
    "rotator_provider_request_duration_seconds": ("histogram", {"provider", "operation"}),
    "rotator_provider_throttled_seconds_total": ("counter", {"provider"}),
    "rotator_credential_expiration_timestamp_seconds": ("gauge", {"credential"}),
    "rotator_clock_skew_seconds": ("gauge", {"provider"}),
    "rotator_config_last_reload_successful": ("gauge", set()),
    "rotator_config_last_reload_success_timestamp_seconds": ("gauge", set()),
    "rotator_audit_records_total": ("counter", {"event"}),
    "rotator_notifications_total": ("counter", {"channel", "outcome"}),
    "rotator_hooks_total": ("counter", {"hook", "outcome"}),
}
STATES = [
    "quarantined",
    "in_doubt",
    "unsettled",
    "drifted",
    "expired",
    "due",
    "retiring",
    "paused",
    "unknown",
    "gone",
    "fresh",
    "skipped",
]
CLOSED = {
    "state": set(STATES),
    "reason": {
        *[
            "unsettled",
            "drifted",
            "leaked",
            "requested",
            "expired",
            "emergency",
            "before_expiry",
            "max_age",
            "unused",
            "other",
        ]
    },
    "outcome": {*["settled", "unsettled", "lost", "failed", "quarantined", "other"]},
    "step": {*["preflight", "lock", "intend", "rotate", "mint", "deliver", "verify", "settle", "retire"]},
    "kind": {*["temporary", "permanent", "unknown", "rotated_elsewhere", "edited", "missing", "stale", "other"]},
    "strategy": {"in_place", "overlap", "other"},
    "policy": {"services", "other"},
    "provider": {"astro", "other"},
    "sink": {"files", "other"},
    "event": {str(name) for name in EventName},
}
# Their objects do not exist after a sweep of the lab: no channel, no hook, nobody who schedules.
EMPTY = {"rotator_notifications_total", "rotator_hooks_total", "rotator_next_sweep_timestamp_seconds"}


def expire(bench: Lab) -> None:
    """Give every token and our credential an end."""
    assert bench.clock is not None
    for token in bench.sandbox.store.tokens.values():
        token.end_at = bench.clock.now() + timedelta(days=300)


def has_expiry(bench: Lab, measured_: Measured) -> None:
    """Tell of a credential that expires; the lab's own never does."""
    assert bench.clock is not None
    at = bench.clock.now()
    ends = at + timedelta(days=30)
    measured_.board(Event(name=EventName.CREDENTIAL_READ, at=at, provider="astro", location="file:/c", expires_at=ends))


def test_everything_promised_is_there_after_a_sweep(tmp_path: Path) -> None:
    """Names, types and labels are exactly the promised ones, and every label holds a value of its closed set."""
    with measured(tmp_path) as one:
        expire(one.bench)
        one.sweep()
        has_expiry(one.bench, one)
        found = families(one.text())
    assert {name: family.type for name, family in found.items()} == {name: kind for name, (kind, _) in PROMISED.items()}
    for name, family in found.items():
        assert bool(family.samples) == (name not in EMPTY), name
        for sample in family.samples:
            labels = {label: value for label, value in sample.labels.items() if label != "le"}
            assert set(labels) == PROMISED[name][1], name
            for label, value in labels.items():
                assert value in CLOSED.get(label, {value}), (name, label, value)


def test_counters_start_at_zero(tmp_path: Path) -> None:
    """Before anything happened, the closed sets are there for everything that is configured."""
    with measured(tmp_path) as one:
        text = one.text()
    assert set(samples(text, "rotator_rotations_total")) == {
        (str(outcome), "services", str(reason), "in_place") for outcome in Outcome for reason in Reason
    }
    assert set(samples(text, "rotator_deliveries_total")) == {("settled", "files"), ("failed", "files")}
    assert set(samples(text, "rotator_lost_total")) == {("services",)}
    kinds = ("temporary", "permanent", "unknown")
    assert set(samples(text, "rotator_rotation_step_failures_total")) == {(k, str(s)) for k in kinds for s in Step}
    assert ("rotate", "astro", "401") in samples(text, "rotator_provider_requests_total")
    assert set(samples(text, "rotator_rotations_total").values()) == {0.0}


def test_what_goes_well_is_counted(tmp_path: Path) -> None:
    """One sweep: each due token is one rotation, one delivery, one observation of every step."""
    with measured(tmp_path) as one:
        due = float(len(one.bench.due_ids()))
        one.sweep()
        assert one.values("rotator_rotations_total") == {("settled", "services", "max_age", "in_place"): due}
        assert one.values("rotator_deliveries_total") == {("settled", "files"): due}
        assert one.values("rotator_delivery_duration_seconds_count") == {("files",): due}
        assert one.values("rotator_time_to_settle_seconds_count") == {("services",): due}
        steps = one.values("rotator_rotation_step_duration_seconds_count")
        assert steps == {(str(step),): due for step in Step if step is not Step.RETIRE}
        assert one.values("rotator_rotation_step_failures_total") == {}
        assert one.values("rotator_sweeps_total") == {("settled", "services"): 1}
        assert one.values("rotator_provider_requests_total")["rotate", "astro", "200"] == due
        assert one.values("rotator_last_success_timestamp_seconds").keys() == {("services",)}
        assert one.values("rotator_sink_in_sync") == {("files",): 1}
        tokens = samples(one.text(), "rotator_tokens")
        assert tokens == {("services", state): 6.0 if state == "fresh" else 0.0 for state in STATES}
        assert one.values("rotator_token_ready").keys() == one.values("rotator_token_due_timestamp_seconds").keys()


def test_audit_lines_are_counted(tmp_path: Path) -> None:
    """By event, exactly as many as the audit file holds, also where things went wrong."""
    with measured(tmp_path) as one:
        first, second, _ = one.bench.due_ids()
        one.bench.sandbox.script("rotate", Fault.RESET_AFTER, first)
        one.bench.sandbox.script("rotate", Fault.ERROR_500, second)
        one.sweep()
        lines = (one.bench.config.audit_path or tmp_path).read_text().splitlines()
        counted = {event: int(value) for (event,), value in one.values("rotator_audit_records_total").items()}
    # the look at where the tokens stand opened the application again, as nobody was listening
    written = Counter(json.loads(line)["event"] for line in lines)
    assert counted == {**written, "config_loaded": 1}


def test_a_lost_secret_is_counted(tmp_path: Path) -> None:
    """The answer to a rotate is lost: unknown, lost, unsettled once however often it is tried, and settled late."""
    with measured(tmp_path) as one:
        token_id = one.bench.due_ids()[0]
        one.bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
        one.sweep()
        assert one.values("rotator_lost_total") == {("services",): 1}
        assert one.values("rotator_rotation_step_failures_total") == {("unknown", "rotate"): 1}
        assert one.values("rotator_provider_requests_total")["rotate", "astro", "broken"] == 1
        assert one.values("rotator_rotations_unsettled") == {("services",): 1}
        ready = {key[2]: value for key, value in samples(one.text(), "rotator_token_ready").items()}
        assert [found for found, value in ready.items() if not value] == [token_id]
        one.sweep()
        assert one.bench.clock is not None
        one.bench.clock.jump(timedelta(minutes=3))
        one.sweep()
        outcomes = {key[0]: value for key, value in one.values("rotator_rotations_total").items()}
        assert outcomes == {"lost": 1, "settled": 3}
        assert one.values("rotator_rotations_unsettled") == {}


def test_a_sink_that_is_down_is_counted(tmp_path: Path) -> None:
    """It breaks after the preflight: a failed delivery, an unsettled rotation, a sink out of sync, a failed success."""
    with measured(tmp_path) as one:
        due = float(len(one.bench.due_ids()))
        one.bench.wraps["files"] = Down
        one.sweep()
        assert one.values("rotator_deliveries_total") == {("failed", "files"): due}
        assert one.values("rotator_rotation_step_failures_total") == {("temporary", "deliver"): due}
        assert one.values("rotator_rotations_total") == {("unsettled", "services", "max_age", "in_place"): due}
        assert samples(one.text(), "rotator_sink_in_sync") == {("files",): 0}
        assert one.values("rotator_last_success_timestamp_seconds") == {}
        assert one.values("rotator_sweeps_total") == {("unsettled", "services"): 1}
        one.sweep()
        assert one.values("rotator_deliveries_total") == {("failed", "files"): 2 * due}
        assert one.values("rotator_rotations_total") == {("unsettled", "services", "max_age", "in_place"): due}
        one.bench.wraps.clear()
        one.sweep()
        assert samples(one.text(), "rotator_sink_in_sync") == {("files",): 1}


class Down:
    """A sink that takes preflights and nothing else."""

    def __init__(self, sink: object) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> object:
        return getattr(self._sink, name)

    def deliver(self, place: object, mint: object) -> object:
        """Fail."""
        from rotator.errors import Temporary

        raise Temporary("it is down")


def test_a_preflight_that_fails_is_counted(tmp_path: Path) -> None:
    """Nothing was rotated, and the rotation failed: the folder cannot be written."""
    with measured(tmp_path) as one:
        (tmp_path / "secrets").write_text("no folder")
        one.sweep()
        due = float(len(one.bench.due_ids()))
        assert one.values("rotator_rotations_total") == {("failed", "services", "max_age", "in_place"): due}
        failed = one.values("rotator_rotation_step_failures_total")
        assert {key[1] for key in failed} == {"preflight"}
        assert sum(failed.values()) == due
        assert one.values("rotator_sweeps_total") == {("failed", "services"): 1}


@pytest.mark.parametrize("kind", ["missing", "edited", "rotated_elsewhere"])
def test_drift_is_counted(tmp_path: Path, kind: str) -> None:
    """What somebody did to a sink or a token is counted once, by its kind, and shows in the sink."""
    with measured(tmp_path) as one:
        one.bench.config_path.write_text(
            one.bench.config_path.read_text().replace("max_percent = 100", 'max_percent = 100\non_drift = "alert"')
        )
        token_id = one.bench.due_ids()[0]
        one.sweep()
        file, store = tmp_path / "secrets" / token_id, one.bench.sandbox.store
        if kind == "missing":
            file.unlink()
        elif kind == "edited":
            file.write_text("something else")
        else:
            store.rotate(token_id, store.owner_id)
        assert one.bench.clock is not None
        one.bench.clock.jump(timedelta(hours=25))
        one.sweep()
        one.sweep()
        assert one.values("rotator_drift_total") == {(kind, "services"): 1}
        assert samples(one.text(), "rotator_tokens")["services", "drifted"] == 1
        assert samples(one.text(), "rotator_sink_in_sync") == {("files",): 0}


def test_quarantine_and_grace_are_counted(tmp_path: Path) -> None:
    """Old secrets in grace are pending retirements; a token that was given up is quarantined."""
    with measured(tmp_path) as one:
        path, due = one.bench.config_path, one.bench.due_ids()
        path.write_text(path.read_text().replace("max_percent = 100", 'max_percent = 100\nstrategy = "overlap"'))
        configure(one.board, one.bench.config, one.bench)
        one.sweep()
        assert one.values("rotator_retirements_pending") == {("services",): float(len(due))}
        assert one.values("rotator_rotations_total") == {("settled", "services", "max_age", "overlap"): float(len(due))}
        assert len(one.values("rotator_token_last_rotation_timestamp_seconds")) >= len(due)


def test_a_token_that_is_gone_has_no_series(tmp_path: Path) -> None:
    """It was deleted at the provider in the middle of its rotation: it is counted as gone, and nothing else is said."""
    with measured(tmp_path) as one:
        token_id = one.bench.due_ids()[0]
        one.bench.sandbox.script("rotate", Fault.RESET_AFTER, token_id)
        one.sweep()
        one.bench.sandbox.store.delete(token_id)
        for _ in range(2):
            assert one.bench.clock is not None
            one.bench.clock.jump(timedelta(minutes=3))
            one.sweep()
        tokens = samples(one.text(), "rotator_tokens")
        assert [state for state in STATES if tokens.get(("other", state))] == ["gone"]
        shown = samples(one.text(), "rotator_token_ready")
        assert (len(shown), set(shown.values())) == (5, {1.0})


def test_the_old_one_of_an_overlap_is_never_due(tmp_path: Path) -> None:
    """What waits for its end has no due date, or it would be taken for overdue; its other series stay."""
    with measured(tmp_path) as one:
        path, due = one.bench.config_path, one.bench.due_ids()
        path.write_text(path.read_text().replace("max_percent = 100", 'max_percent = 100\nstrategy = "overlap"'))
        configure(one.board, one.bench.config, one.bench)
        one.sweep()
        text = one.text()
        ready = {key[2] for key in samples(text, "rotator_token_ready")}
        dated = {key[2] for key in samples(text, "rotator_token_due_timestamp_seconds")}
    assert ready - dated == set(due)
    assert due


def test_what_no_policy_names_is_other(tmp_path: Path) -> None:
    """Words outside the closed sets never become labels."""
    with measured(tmp_path) as one:
        assert one.bench.clock is not None
        at, odd = one.bench.clock.now(), "https://x/?q=eyJ"
        for name in EventName:
            event = Event(
                name=name, at=at, provider=odd, policy=odd, token_id=odd, token_name=odd, rotation_id=odd, sink=odd,
                location="", error=odd, message=odd, step=Step.DELIVER, outcome=Outcome.FAILED, duration_s=-1.0,
            )  # fmt: skip
            one.metrics(event)
            one.board(event)
        text = one.text()
    assert odd not in text
    assert "eyJ" not in text
    assert samples(text, "rotator_deliveries_total")["settled", "other"] == 1
    assert samples(text, "rotator_provider_requests_total")["other", "other", "other"] == 1
    assert samples(text, "rotator_drift_total")["other", "other"] == 1


def test_series_vanish_with_their_objects(tmp_path: Path) -> None:
    """Another config: series of its policies and sinks begin at 0, those of what is gone are gone, the rest goes on."""
    with measured(tmp_path) as one:
        one.sweep()
        path, text = one.bench.config_path, one.bench.config_path.read_text()
        path.write_text(text.replace("services", "other-team").replace("files", "shelf"))
        configure(one.board, one.bench.config, one.bench)
        renamed = one.text()
        assert '"services"' not in renamed
        assert '"files"' not in renamed
        assert samples(renamed, "rotator_lost_total") == {("other-team",): 0}
        assert samples(renamed, "rotator_provider_requests_total")["rotate", "astro", "200"] == 3


def test_names_are_untrusted(tmp_path: Path) -> None:
    """Names with quotes, newlines, escapes and markup neither break the format nor forge a series."""
    chosen = SandboxConfig(tokens=24, limits=False, hostile_names=True)
    with measured(tmp_path, sandbox=chosen) as one:
        path = one.bench.config_path
        path.write_text(path.read_text().replace('names = ["svc-*"]', 'names = ["*"]'))
        one.look()
        text = one.text()
        names = {key[0] for key in samples(text, "rotator_token_ready")}
    assert len(samples(text, "rotator_token_ready")) >= 24
    assert all(name.isprintable() for name in names)
    assert any("\\x1b" in name or "\\u" in name or "\\x0a" in name for name in names)


def test_a_reload_that_failed_shows(tmp_path: Path) -> None:
    """A refused config is 0 with the old moment, a good one 1 with its own; missed sweeps add up."""
    with measured(tmp_path) as one:
        loaded = one.values("rotator_config_last_reload_success_timestamp_seconds")
        assert one.values("rotator_config_last_reload_successful") == {(): 1}
        one.board.refuse_config("broken")
        one.board.miss("services", 3)
        assert one.values("rotator_config_last_reload_successful") == {}
        assert one.values("rotator_config_last_reload_success_timestamp_seconds") == loaded
        assert one.values("rotator_missed_sweeps_total") == {("services",): 3}


def test_our_own_credential_shows_its_expiry(tmp_path: Path) -> None:
    """By its reference, as of the last sweep; one that is not read any more vanishes."""
    with measured(tmp_path) as one:
        one.sweep()
        assert one.bench.clock is not None
        has_expiry(one.bench, one)
        assert set(one.values("rotator_credential_expiration_timestamp_seconds")) == {("file:/c",)}
        one.sweep()
        assert one.values("rotator_credential_expiration_timestamp_seconds") == {}
