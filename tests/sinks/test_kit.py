"""The conformance kit itself: it passes what is right, and notices what is wrong."""

import pytest

from tests.sinks.faulty import FAULTY, Good, WriteOnly, kind_of
from tests.sinks.installing import ROOT, install, run

ENTRIES = {kind: f"tests.sinks.faulty:KINDS.{kind}" for kind in map(kind_of, (Good, WriteOnly, *FAULTY))}
SHARE = 0.95


@pytest.fixture(scope="module")
def verdicts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Run the kit over all and return, by type, what it says of each behaviour."""
    folder = tmp_path_factory.mktemp("site")
    install(folder, "rotator-faulty", ENTRIES, {})
    table = folder / "table.md"
    kit = str(ROOT / "tests/sinks/faulty_kit.py")
    options = ["-q", "--tb=no", "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-r", ""]
    done = run(folder, "-m", "rotator.testing", kit, *options, "--rotator-conformance-file", str(table))
    assert table.exists(), done.stdout + done.stderr
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.read_text().splitlines()
        if line.startswith("|")
    ]
    header, _, *body = rows
    return {kind: {row[0]: row[column] for row in body} for column, kind in enumerate(header) if column}


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
