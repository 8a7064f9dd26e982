"""What the author of the plug-in tests: the whole kit, with a harness of a few lines."""

import sqlite3
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import rotator_sqlite

from rotator.testing import Harness, SinkContract


class SqliteHarness(Harness):
    kind = "sqlite"
    patience_s = 20.0

    def __init__(self, folder):
        self.block = {"row": "{policy}/{name}"}
        self.database = folder / "secrets.db"
        self.sink = self.rebuilt()
        self._do("create table secrets " + rotator_sqlite.COLUMNS)

    def rebuilt(self):
        return rotator_sqlite.build("db", rotator_sqlite.Options(database=str(self.database)), Path("/"))

    def read(self, place):
        found = self._do("select value from secrets where name = ?", place.options["row"])
        return found[0] if found else None

    def write(self, place, secret):
        self._do("insert or replace into secrets (name, value) values (?, ?)", place.options["row"], secret)

    def remove(self, place):
        self._do("delete from secrets where name = ?", place.options["row"])
        return True

    def plant_neighbour(self, place):
        self._do("insert or replace into secrets (name, value) values (?, 'theirs\n')", place.options["row"] + "x")

    def neighbour_is_whole(self, place):
        return self._do("select value from secrets where name = ?", place.options["row"] + "x") == ("theirs\n",)

    @contextmanager
    def broken(self, place):
        with closing(sqlite3.connect(self.database, isolation_level=None)) as other:
            other.execute("begin exclusive")
            yield

    def _do(self, statement, *values):
        with closing(sqlite3.connect(self.database, isolation_level=None)) as database:
            return database.execute(statement, values).fetchone()


class TestSqlite(SinkContract):
    @pytest.fixture
    def harness(self, tmp_path):
        return SqliteHarness(tmp_path)
