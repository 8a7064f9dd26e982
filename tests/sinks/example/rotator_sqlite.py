"""Secrets as rows of a SQLite database."""

import sqlite3
from contextlib import closing, contextmanager

from pydantic import BaseModel, ConfigDict, field_validator

from rotator.errors import Forbidden, NotFound, Permanent, Temporary
from rotator.model import Grade, Held, Place, Receipt
from rotator.secret import Secret
from rotator.templates import PLACEHOLDERS, Template

PREFLIGHT_GRADE = Grade.PROVEN  # a row is written, and rolled back
COLUMNS = "(id integer primary key autoincrement, name text unique, value text, mint text)"
WRITE = "insert or replace into secrets (name, value, mint) values (?, ?, ?)"
ERRORS = {sqlite3.SQLITE_BUSY: Temporary, sqlite3.SQLITE_FULL: Temporary, sqlite3.SQLITE_READONLY: Forbidden}


class Options(BaseModel):  # [sinks.X]
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    database: str


class DeliveryOptions(BaseModel):  # [[policies.P.deliver]]
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    row: str = "{name}"

    @field_validator("row")
    @classmethod
    def _row(cls, text):
        Template.parse(text, PLACEHOLDERS)  # a typing error is found when the config loads
        return text


def build(name, options, base):
    return Sqlite(name, base / options.database)


def escaped(value):
    return value.encode("unicode_escape").decode()


class Sqlite:
    def __init__(self, name, database):
        self.name, self.database = name, str(database)

    def resolve(self, options, facts):  # names are untrusted: escaped, each is one printable line and no two are alike
        row = Template.parse(options["row"], PLACEHOLDERS).render(facts, escaped)
        return Place(self.name, f"{self.database}#{row}", {"row": row})

    def preflight(self, place):
        with self._changing(place) as database:
            database.execute(WRITE, (place.options["row"], "", "probe"))
            database.execute("rollback")

    def deliver(self, place, mint):
        row = place.options["row"]
        with self._changing(place) as database:
            held = "select id from secrets where name = ? and value = ? and mint = ?"
            found = database.execute(held, (row, mint.secret.reveal(), mint.id)).fetchone()
            version = found[0] if found else database.execute(WRITE, (row, mint.secret.reveal(), mint.id)).lastrowid
            database.execute("commit")
        return Receipt(place.location, str(version))

    def read_back(self, place):
        query = "select value, mint, id from secrets where name = ?"
        with self._changing(place) as database:
            found = database.execute(query, (place.options["row"],)).fetchone()
        if found is None:
            raise NotFound(f"{place.location}: there is no such row")
        return Held(Secret(found[0]), found[1] or "", str(found[2]))

    def close(self):
        pass

    @contextmanager
    def _changing(self, place):  # whoever waits longer than a second for others is told to come again
        try:
            with closing(sqlite3.connect(self.database, timeout=1, isolation_level=None)) as database:
                database.execute("begin immediate")
                database.execute(f"create table if not exists secrets {COLUMNS}")
                yield database
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", 0)
            raise ERRORS.get(code & 0xFF, Permanent)(f"{place.location}: SQLite error {code}") from None
