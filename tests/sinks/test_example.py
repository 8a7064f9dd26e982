"""The example of a plug-in that README shows: installed for real, it keeps every promise and is used."""

import sqlite3
import tomllib
from contextlib import closing
from pathlib import Path

import pytest

from tests.lab import lab
from tests.sinks.installing import ROOT, install, run

EXAMPLE = ROOT / "tests/sinks/example"
USED = """
[sinks.db]
type = "sqlite"
database = "secrets.db"

[[policies.services.deliver]]
sink = "db"
row = "airflow/{token_id}"
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder where the example is installed as its pyproject.toml says."""
    project = tomllib.loads((EXAMPLE / "pyproject.toml").read_text())["project"]
    folder = tmp_path / "site"
    folder.mkdir()
    source = (EXAMPLE / "rotator_sqlite.py").read_text()
    install(folder, project["name"], project["entry-points"]["rotator.sinks"], {"rotator_sqlite": source})
    return folder


def test_the_example_keeps_every_promise(site: Path) -> None:
    """The conformance kit fails nothing of it, with the harness that stands beside it."""
    kit = str(EXAMPLE / "rotator_sqlite_kit.py")
    done = run(site, "-m", "rotator.testing", kit, "-q", "-p", "no:cacheprovider", "--rootdir", str(ROOT))
    assert done.returncode == 0, done.stdout
    assert "| behaviour" in done.stdout
    assert "sqlite: the harness offers no throttled(): throttling_is_temporary" in done.stdout


def test_the_example_is_delivered_to(tmp_path: Path, site: Path) -> None:
    """`check`, `check --online` and a sweep work with it as with our own: every due token has its row."""
    with lab(tmp_path, jumping=False) as bench:
        bench.config_path.write_text(bench.config_path.read_text() + USED)
        due, config = bench.due_ids(), ("--config", str(bench.config_path))
        assert run(site, "-m", "rotator", "check", *config).returncode == 0
        online = run(site, "-m", "rotator", "check", "--online", *config)
        assert "sink db: every place that was tried can be written" in online.stdout
        swept = run(site, "-m", "rotator", "sweep", "--yes", *config)
        assert swept.returncode == 0, swept.stderr
        with closing(sqlite3.connect(tmp_path / "secrets.db")) as database:
            rows = dict(database.execute("select name, value from secrets"))
        assert due
        assert rows == {f"airflow/{token_id}": bench.delivered(token_id) for token_id in due}
        again = run(site, "-m", "rotator", "sweep", "--yes", *config)
        assert again.returncode == 0, again.stderr
