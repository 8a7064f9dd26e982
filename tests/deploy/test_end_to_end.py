"""From a fault to a person: real metrics, Debian's Prometheus and Alertmanager with our rules, and a webhook.

The rules, the scrape config and the routes are the committed ones; `hurrying` says what a test changes in them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from rotator.errors import Temporary
from rotator.metrics import Metrics
from tests.deploy import hurrying
from tests.metrics.measuring import measured
from tests.servers.prometheus import (
    Alerts,
    Prometheus,
    alertmanager,
    eventually,
    needs,
    prometheus,
    pushgateway,
    receiving,
    serving,
)

OPENMETRICS = "application/openmetrics-text"
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
            eventually(lambda: watch.prometheus.value('rotator_sink_in_sync{sink="files"}') == 1, "the first scrape")
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
