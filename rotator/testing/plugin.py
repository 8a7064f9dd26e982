"""A pytest plug-in: after the run, which sink keeps which promise, as one table.

Load it with `-p rotator.testing.plugin`; `python -m rotator.testing` does. `--rotator-conformance` prints the table,
`--rotator-conformance-file FILE` also writes it as Markdown for a README, narrow and with notes. Two options, for one
with an optional value would take the path of the tests for the file.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rotator.testing.contract import SinkContract
from rotator.text import visible

OPTION = "--rotator-conformance"
FILE_OPTION = "--rotator-conformance-file"

_SYMBOLS = {"FAIL": "✗", "pass": "✓", "skip": "–"}
_LEGEND = (
    "✓ kept · ✓ with a number: kept, but one form of delivery is not asked for it, and the note says why"
    " · – not asked of this sink, and the note says why · ✗ broken"
)
_KEY = pytest.StashKey["Table"]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("rotator")
    group.addoption(OPTION, action="store_true", help="Run the kit's behaviours only, and print who keeps which.")
    group.addoption(FILE_OPTION, metavar="FILE", help="Likewise, and write the table as Markdown.")


def pytest_configure(config: pytest.Config) -> None:
    """Begin a table."""
    config.stash[_KEY] = Table()


@dataclass(slots=True)
class Cell:
    """What came of one behaviour of one sink: of all its forms and parameters together."""

    outcomes: Counter[str] = field(default_factory=Counter)
    reasons: set[str] = field(default_factory=set)

    @property
    def verdict(self) -> str:
        """`pass`, `skip` or `FAIL`: one failure is enough, and so is one pass where nothing failed."""
        return next((said for said in ("FAIL", "pass", "skip") if self.outcomes[said]), "skip")


@dataclass(slots=True)
class Table:
    """Sinks by behaviours.

    Attributes:
        behaviours: Id to its sentence, in the order of the kit.
        cells: (sink, behaviour id) to what came of it.
    """

    behaviours: dict[str, str] = field(default_factory=dict)
    cells: dict[tuple[str, str], Cell] = field(default_factory=dict)

    def note(self, sink: str, behaviour: str, outcome: str, reason: str) -> None:
        """Count one test."""
        cell = self.cells.setdefault((sink, behaviour), Cell())
        cell.outcomes[outcome] += 1
        if reason:
            cell.reasons.add(reason)

    @property
    def sinks(self) -> list[str]:
        """All that were tried."""
        return sorted({sink for sink, _ in self.cells})

    @property
    def tried(self) -> list[str]:
        """The behaviours that anything was asked for."""
        return [name for name in self.behaviours if any((sink, name) in self.cells for sink in self.sinks)]

    def lines(self) -> Iterable[str]:
        """Yield the table for a terminal, then why something was skipped."""
        sinks, tried = self.sinks, self.tried
        rows = [["behaviour", *sinks]]
        rows += [[name, *(self._verdict(sink, name) for sink in sinks)] for name in tried]
        rows += [["passed", *(str(self._count(sink, "pass")) for sink in sinks)]]
        rows += [["skipped", *(str(self._count(sink, "skip")) for sink in sinks)]]
        rows += [["failed", *(str(self._count(sink, "FAIL")) for sink in sinks)]]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        rows.insert(1, ["-" * width for width in widths])
        for row in rows:
            yield f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        yield ""
        for sink in sinks:
            why: dict[str, list[str]] = {}
            for name in tried:
                cell = self.cells.get((sink, name))
                some = "" if cell is None or cell.verdict == "skip" else " (in one of its forms)"
                for reason in sorted(cell.reasons) if cell else ():
                    why.setdefault(reason, []).append(name + some)
            for reason, names in why.items():
                yield f"- {sink}: {reason}: {', '.join(names)}"

    def markdown(self) -> Iterable[str]:
        """Yield the table for a README: symbols for words, names of sinks broken over lines, reasons as notes."""
        sinks = self.sinks
        notes: dict[str, int] = {}
        rows = [[name.replace("_", " "), *(self._symbol(sink, name, notes) for sink in sinks)] for name in self.tried]
        counts = [[self._count(sink, verdict) for verdict in _SYMBOLS] for sink in sinks]
        rows.append(["**kept, of those asked**", *(f"{kept}/{kept + broken}" for broken, kept, _ in counts)])
        yield _row(["", *(sink.replace("_", "_<br>") for sink in sinks)])
        yield _row(["---", *(":-:" for _ in sinks)])
        yield from map(_row, rows)
        yield ""
        yield _LEGEND
        yield ""
        yield from (f"{number}. {visible(reason)}" for reason, number in notes.items())

    def _symbol(self, sink: str, name: str, notes: dict[str, int]) -> str:
        """Return a cell, and number its reasons among the notes."""
        cell = self.cells.get((sink, name))
        if cell is None:
            return ""
        numbers = [notes.setdefault(reason, len(notes) + 1) for reason in sorted(cell.reasons)]
        return _SYMBOLS[cell.verdict] + (f"<sup>{','.join(map(str, numbers))}</sup>" if numbers else "")

    def _verdict(self, sink: str, name: str) -> str:
        cell = self.cells.get((sink, name))
        return cell.verdict if cell else "-"

    def _count(self, sink: str, verdict: str) -> int:
        return sum(cell.verdict == verdict for (name, _), cell in self.cells.items() if name == sink)


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def behaviour_of(item: pytest.Item) -> str:
    """Return the id of the behaviour that a test is, empty if it is none of the kit's."""
    name: str = getattr(item, "originalname", None) or ""
    kind = getattr(item, "cls", None)
    is_ours = isinstance(kind, type) and issubclass(kind, SinkContract) and hasattr(SinkContract, name)
    return name.removeprefix("test_") if is_ours else ""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remember the behaviours in the order of the kit; asked for the table, leave other tests out."""
    table = config.stash[_KEY]
    for item in items:
        behaviour = behaviour_of(item)
        if behaviour:
            sentence = getattr(SinkContract, f"test_{behaviour}").__doc__ or ""
            table.behaviours.setdefault(behaviour, " ".join(sentence.split()))
    if _wanted(config):
        config.hook.pytest_deselected(items=[item for item in items if not behaviour_of(item)])
        items[:] = [item for item in items if behaviour_of(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Note what came of each behaviour: its call, or a setup or teardown that did not pass."""
    report: pytest.TestReport = yield
    behaviour = behaviour_of(item)
    if behaviour and (report.when == "call" or not report.passed):
        harness = getattr(item, "funcargs", {}).get("harness")
        sink = getattr(harness, "kind", None) or getattr(item, "cls", object).__name__
        outcome = {"passed": "pass", "skipped": "skip"}.get(report.outcome, "FAIL")
        reason = report.longrepr[2].removeprefix("Skipped: ") if isinstance(report.longrepr, tuple) else ""
        item.config.stash[_KEY].note(sink, behaviour, outcome, reason)
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, and write it where that was asked for."""
    if not _wanted(config):
        return
    lines = list(config.stash[_KEY].lines())
    terminalreporter.section("rotator conformance")
    for line in lines:
        terminalreporter.line(line)
    where = config.getoption(FILE_OPTION)
    if where:
        Path(where).write_text("\n".join(config.stash[_KEY].markdown()) + "\n")


def _wanted(config: pytest.Config) -> bool:
    return bool(config.getoption(OPTION) or config.getoption(FILE_OPTION))
