"""What the tests of metrics share: a lab whose events are counted, and a rendering taken apart."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from rotator.board import Board
from rotator.config import Config
from rotator.engine.standing import standings
from rotator.events import Event
from rotator.metrics import Metrics
from tests.lab import Lab, lab


def configure(board: Board, config: Config, bench: Lab, max_tokens: int = 1000) -> None:
    """Let a board know a config as the application does."""
    providers = {name: table.type for name, table in config.providers.items()}
    kinds = {name: sink.kind for name, sink in config.sinks.items()}
    assert bench.clock is not None
    board.configure(config.policies, providers, kinds, bench.clock.now(), max_series=max_tokens)


@dataclass
class Measured:
    """A lab with board and metrics; events reach them after each sweep, in their order."""

    bench: Lab
    board: Board
    metrics: Metrics
    told: list[Event] = field(default_factory=list)
    taken: int = 0

    def sweep(self) -> None:
        """Sweep, count, and look where the tokens stand."""
        self.bench.sweep()
        self.count()
        self.look()

    def count(self) -> None:
        """Pass on what happened since the last time."""
        events, self.taken = self.bench.events[self.taken :], len(self.bench.events)
        for event in events:
            self.board(event)
            self.metrics(event)

    def look(self) -> None:
        """Let the board see where the tokens stand."""
        with self.bench.app() as app:
            lineages = app.reader.every_lineage("astro")
            self.board.take("astro", standings(app.desks[0], lineages), app.clock.now())

    def text(self, accept: str = "") -> str:
        """What a scrape returns."""
        return self.metrics.render(accept)[0].decode()

    def values(self, name: str) -> dict[tuple[str, ...], float]:
        """The samples of a metric that are not 0, by their labels' values in the order of the labels' names."""
        return {labels: value for labels, value in samples(self.text(), name).items() if value}


@contextmanager
def measured(folder: Path, max_tokens: int = 1000, **settings: object) -> Iterator[Measured]:
    """Run a lab."""
    with lab(folder, **settings) as bench:
        yield measuring(bench, max_tokens)


def measuring(bench: Lab, max_tokens: int = 1000) -> Measured:
    """Return a lab with board and metrics."""
    assert bench.clock is not None
    board = Board(bench.clock.now())
    configure(board, bench.config, bench, max_tokens)
    told: list[Event] = []
    return Measured(bench, board, Metrics(board, bench.clock.now, told.append), told)


def families(text: str) -> dict[str, Metric]:
    """The families of a rendering in the text format, by name; counters with their `_total`."""
    found = text_string_to_metric_families(text)
    return {f"{one.name}_total" if one.type == "counter" else one.name: one for one in found}


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of one name, by their labels' values in the order of the labels' names."""
    found: dict[tuple[str, ...], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == name:
                key = tuple(sample.labels[label] for label in sorted(sample.labels))
                assert key not in found, f"{name}{key} is there twice"
                found[key] = sample.value
    return found
