"""The conformance kit itself: it passes what is right, and notices what is wrong."""

import pytest

from tests.sinks.faulty import FAULTY, Good, WriteOnly, kind_of
from tests.sinks.installing import ROOT, install, run

ENTRIES = {kind: f"tests.sinks.faulty:KINDS.{kind}" for kind in map(kind_of, (Good, WriteOnly, *FAULTY))}
SHARE = 0.95


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Run the kit over all and return its table as it is printed, and as Markdown."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "rotator-faulty", ENTRIES, {})
    table = folder / "table.md"
    kit = str(ROOT / "tests/sinks/faulty_kit.py")
    options = ["-q", "--tb=no", "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-r", ""]
    done = run(folder, "-m", "rotator.testing", kit, *options, "--rotator-conformance-file", str(table))
    assert table.exists(), done.stdout + done.stderr
    return done.stdout, table.read_text()


@pytest.fixture(scope="module")
def verdicts(tables: tuple[str, str]) -> dict[str, dict[str, str]]:
    """Return, by type, what the kit says of each behaviour."""
    header, _, *body = rows_of(tables[0])
    return {kind: {row[0]: row[column] for row in body} for column, kind in enumerate(header) if column}


def rows_of(table: str) -> list[list[str]]:
    """Return the cells of a table."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


def test_the_readme_says_the_same(tables: tuple[str, str], verdicts: dict[str, dict[str, str]]) -> None:
    """The Markdown table has the same verdicts as symbols, and a numbered note for whatever was skipped."""
    header, _, *body = rows_of(tables[1])
    symbols = {"pass": "✓", "skip": "–", "FAIL": "✗"}
    kinds = [cell.replace("_<br>", "_") for cell in header]
    for behaviour, *cells in body[:-1]:
        said = [verdicts[kind][behaviour.replace(" ", "_")] for kind in kinds[1:]]
        assert [cell.partition("<sup>")[0] for cell in cells] == [symbols[verdict] for verdict in said]
    assert len(body) > 40
    assert body[-1][kinds.index("good")] == f"{len(body) - 1}/{len(body) - 1}"
    (column,) = [cells for cells in body if cells[0] == "what a person put there is read"]
    assert column[kinds.index("write_only")] == "–<sup>1</sup>"
    assert "1. it cannot read back what it holds" in tables[1].splitlines()


def test_the_correct_sink_passes_everything(verdicts: dict[str, dict[str, str]]) -> None:
    """With every hook offered no behaviour is skipped, and a sink that keeps its promises fails none."""
    wrong = {name: said for name, said in verdicts["good"].items() if said in ("FAIL", "skip")}
    assert not wrong
    assert int(verdicts["good"]["passed"]) >= 40


def test_a_write_only_sink_is_asked_for_what_it_can_keep(verdicts: dict[str, dict[str, str]]) -> None:
    """A sink that gives no value back fails nothing either, and only what reads values is skipped."""
    said = verdicts["write_only"]
    assert "FAIL" not in said.values()
    skipped = {name for name, verdict in said.items() if verdict == "skip"}
    assert skipped == {"what_a_person_put_there_is_read"}


def test_what_is_wrong_is_noticed(verdicts: dict[str, dict[str, str]]) -> None:
    """Of sinks that each break one promise the kit fails at least nineteen in twenty."""
    caught = {}
    for kind in map(kind_of, FAULTY):
        caught[kind] = [name for name, said in verdicts[kind].items() if said == "FAIL"]
        print(f"{kind}: {', '.join(caught[kind]) or 'NOT NOTICED'}")
    assert len(caught) >= 20
    noticed = sum(bool(names) for names in caught.values())
    assert noticed >= SHARE * len(caught), [kind for kind, names in caught.items() if not names]
