"""From a fault to a person: real metrics, Debian's Prometheus and Alertmanager with our rules, and a webhook.

The rules, the scrape config and the routes are the committed ones; `hurrying` says what a test changes in them.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from rotator.errors import Temporary
from rotator.metrics import Metrics
from rotator.sandbox import SandboxConfig
from tests.cli.running import rotator, told
from tests.daemon.test_run import daemon, rewrite
from tests.deploy import hurrying
from tests.deploy.reading import filled, queries
from tests.lab import Lab, lab, write_secret
from tests.metrics.measuring import measured
from tests.notify.bench import add, add_channel
from tests.servers.listener import listening
from tests.servers.prometheus import (
    Alerts,
    Prometheus,
    alertmanager,
    eventually,
    free_port,
    needs,
    prometheus,
    pushgateway,
    receiving,
    serving,
)

OPENMETRICS = "application/openmetrics-text"
EMERGENCY = timedelta(hours=48)
SLOW = SandboxConfig(tokens=12, limits=False, latency_s=0.3)  # a scrape sees a sweep under way
BY_A_SINK = ("RotatorSinkOutOfSync", "RotatorRotationUnsettled")


@dataclass
class Watch:
    """Everything that watches rotator.

    Attributes:
        gateway: The Pushgateway's address.
    """

    prometheus: Prometheus
    alerts: Alerts
    gateway: str

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {one["metric"]["alertname"] for one in self.prometheus.query('ALERTS{alertstate="firing"}')}

    def told(self, name: str, status: str) -> dict[str, Any]:
        """Wait until the latest that people were told of an alert is this; return it."""

        def latest() -> dict[str, Any] | None:
            found = [one for one in list(self.alerts.seen) if one["labels"]["alertname"] == name]
            return found[-1] if found and found[-1]["status"] == status else None

        return eventually(latest, f"{name} to be told as {status}", 40)


@contextmanager
def watching(folder: Path, target: str) -> Iterator[Watch]:
    """Run Alertmanager, Pushgateway and Prometheus over one target."""
    needs("prometheus", "prometheus-alertmanager", "prometheus-pushgateway")
    hurrying.write_rules(folder / "prometheus")
    with (
        receiving() as alerts,
        alertmanager(folder / "alertmanager", hurrying.alertmanager(alerts.url)) as manager,
        pushgateway(folder / "pushgateway") as gateway,
    ):
        addresses = {"9464": target, "9091": gateway, "9093": manager}
        with prometheus(folder / "prometheus", lambda: hurrying.prometheus(addresses)) as found:
            yield Watch(found, alerts, gateway)


class Down:
    """A sink that takes preflights, and no secret."""

    def __init__(self, sink: object) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> object:
        return getattr(self._sink, name)

    def deliver(self, place: object, mint: object) -> object:
        """Fail."""
        raise Temporary("it is down")


def exposing(metrics: Metrics, served: list[str]) -> type[BaseHTTPRequestHandler]:
    """Return a handler that renders metrics, and notes as which type."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer a scrape."""
            body, kind = metrics.render(self.headers.get("Accept", ""))
            served.append(kind)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    return Handler


def test_a_sink_that_is_down_wakes_somebody_and_lets_them_sleep_again(tmp_path: Path) -> None:
    """A delivery fails after the rotation: the pager hears of it, and once it is delivered hears that it is over."""
    served: list[str] = []
    (tmp_path / "lab").mkdir()
    with measured(tmp_path / "lab") as one, serving(exposing(one.metrics, served)) as url:
        one.look()
        with watching(tmp_path, url.removeprefix("http://")) as watch:
            scraped = 'rotator_sink_in_sync{sink="files",instance!=""}'  # not what somebody pushed
            eventually(lambda: watch.prometheus.value(scraped) == 1, "the first scrape")
            assert not {one["labels"]["alertname"] for one in watch.alerts.seen} & set(BY_A_SINK)
            one.bench.wraps["files"] = Down
            one.sweep()
            sink, rotations = (watch.told(name, "firing") for name in BY_A_SINK)
            one.bench.wraps.clear()
            one.sweep()
            over = [watch.told(name, "resolved") for name in BY_A_SINK]
            target = next(one for one in watch.prometheus.targets() if one["labels"]["job"] == "rotator")
    assert (sink["receiver"], sink["labels"]["sink"]) == ("pager", "files")
    assert (rotations["receiver"], rotations["labels"]["policy"]) == ("pager", "services")
    assert rotations["annotations"]["summary"].startswith("3 rotations of policy services have been unsettled")
    assert {alert["receiver"] for alert in over} == {"pager"}
    assert target["lastError"] == ""
    assert {kind.split(";")[0] for kind in served} == {OPENMETRICS}


def test_a_cronjob_is_watched_through_a_pushgateway(tmp_path: Path) -> None:
    """`rotator sweep` pushes: a person edits a sink, and somebody is told; the sweep after it is put right says so."""
    (tmp_path / "lab").mkdir()
    with lab(tmp_path / "lab", jumping=False) as bench, watching(tmp_path, "127.0.0.1:9") as watch:
        push_from(bench, watch.gateway)
        delivered = bench.folder / "secrets" / bench.due_ids()[0]
        assert rotator(bench, "sweep").returncode == 0
        right = delivered.read_text()
        delivered.write_text("a person's own idea")
        eventually(lambda: "drifted" in states_after_a_sweep(bench), "the sinks to be looked at again")
        drifted = [watch.told(name, "firing") for name in ("RotatorDriftUnhealed", "RotatorSinkOutOfSync")]
        ready = watch.prometheus.query(f'rotator_token_ready{{token_id="{delivered.name}"}}')
        pushed = {one["metric"]["__name__"] for one in watch.prometheus.query('{job="rotator",__name__=~"rotator_.+"}')}
        silent = watch.firing()
        delivered.write_text(right)
        eventually(lambda: "drifted" not in states_after_a_sweep(bench), "the sinks to be looked at again")
        for name in ("RotatorDriftUnhealed", "RotatorSinkOutOfSync"):
            watch.told(name, "resolved")
    assert [(one["receiver"], one["labels"].get("policy")) for one in drifted] == [
        ("tickets", "services"),
        ("pager", None),
    ]
    assert [(one["metric"].get("instance"), one["value"][1]) for one in ready] == [(None, "0")]
    assert not {name for name in pushed if name.endswith(("_total", "_bucket"))}
    assert "RotatorAbsent" not in silent


def states_after_a_sweep(bench: Lab) -> set[str]:
    """Sweep and return where the tokens stand; sinks are looked at only once a second."""
    rotator(bench, "sweep")
    return {one["state"] for one in told(bench, "status")["tokens"]}


def push_from(bench: Lab, gateway: str) -> None:
    """Let the bench's commands push, look at the sinks each time, and only name what differs."""
    text = bench.config_path.read_text().replace("[engine]", '[engine]\ndrift_check = "1s"')
    text = text.replace("max_percent = 100", 'max_percent = 100\non_drift = "alert"')
    bench.config_path.write_text(f'{text}\n[metrics]\npushgateway = "http://{gateway}"\n')


REFUSED = "RotatorConfigReloadFailed"


def test_a_daemon_is_watched(tmp_path: Path) -> None:
    """`rotator run` refuses a config, and dies: each is told, and told as over; meanwhile every panel has data."""
    (tmp_path / "lab").mkdir()
    address = f"127.0.0.1:{free_port()}"
    with (
        lab(tmp_path / "lab", sandbox=SLOW, jumping=False) as bench,
        watching(tmp_path, address) as watch,
        listening() as chat,
    ):
        prepare(bench, address)
        add_channel(bench, chat, group_for='"1s"')
        add(bench, "[[policies.services.hooks]]", on='"settled"', exec='["/bin/true"]')
        with daemon(bench) as running:
            eventually(lambda: watch.prometheus.value('up{job="rotator"}') == 1, "the first scrape")
            rewrite(bench.config_path, 'max_age = "90d"', 'max_age = "nonsense"')
            refused = watch.told(REFUSED, "firing")
            rewrite(bench.config_path, 'max_age = "nonsense"', 'max_age = "90d"')
            watch.told(REFUSED, "resolved")
            every_panel_has_data(watch)
            assert not {name for name in watch.firing() if name != REFUSED}
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0
        down = watch.told("RotatorDown", "firing")
        with daemon(bench) as running:
            watch.told("RotatorDown", "resolved")
            target = next(one for one in watch.prometheus.targets() if one["labels"]["job"] == "rotator")
    assert (refused["receiver"], down["receiver"]) == ("tickets", "pager")
    assert down["labels"]["instance"] == address
    assert target["lastError"] == ""


def prepare(bench: Lab, address: str) -> None:
    """Give the daemon its address, our credential an end, and one token an expiry that makes it due in a moment."""
    bench.config_path.write_text(f'{bench.config_path.read_text()}\n[server]\nlisten = "{address}"\n')
    store, now = bench.sandbox.store, datetime.now(UTC)
    store.tokens[store.owner_id].end_at = now + timedelta(days=90)
    write_secret(bench.folder / "credential", bench.sandbox.credential)
    due = set(bench.due_ids())
    fresh = [one for one in store.tokens.values() if one.name.startswith("svc-") and one.id not in due]
    token = next(one for one in fresh if one.last_rotated_at is not None)
    token.end_at, token.expiry_days = now + EMERGENCY + timedelta(seconds=20), 365


def every_panel_has_data(watch: Watch) -> None:
    """Wait until every query of the dashboard has found a number, at whatever moment."""
    waiting = {where: filled(expr) for where, expr in queries()}

    def is_complete() -> bool:
        for where, expr in list(waiting.items()):
            if any(one["value"][1] != "NaN" for one in watch.prometheus.query(expr)):
                waiting.pop(where)
        return not waiting

    with suppress(AssertionError):
        eventually(is_complete, "data", 60)
    assert waiting == {}
