"""The conformance kit over the correct sink and every faulty one; `test_kit.py` runs it with them installed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.model import Place
from rotator.testing import Harness, SinkContract
from tests.sinks.faulty import FAULTY, PAUSE, SHELVES, Good, Shelf, WriteOnly, kind_of

WRITE_ONLY = {kind_of(sink) for sink in (WriteOnly, *FAULTY) if issubclass(sink, WriteOnly)}


class ShelfHarness(Harness):
    """Offers every hook."""

    retry_after = PAUSE
    patience_s = 5.0

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.is_readable = kind not in WRITE_ONLY
        self.block = {"path": "team/{name}"}
        self.sibling = {**self.block, "key": "token2"}
        self.shelf = SHELVES["here"] = Shelf()
        self.sink = self.rebuilt()

    def rebuilt(self) -> Any:
        """Build another for the same shelf."""
        module: Any = sinks.load(self.kind)
        return module.build("shelf", module.Options(shelf="here"), Path("/"))

    def read(self, place: Place) -> str | None:
        """Look into the document."""
        return self._keys(place).get(str(place.options["key"]))

    def write(self, place: Place, secret: str) -> None:
        """Edit the document."""
        self._edit(place, str(place.options["key"]), secret)

    def remove(self, place: Place) -> bool:
        """Edit the document."""
        self._edit(place, str(place.options["key"]), None)
        return True

    def plant_neighbour(self, place: Place) -> None:
        """Add a key to the document."""
        self.neighbour = "theirs\n"
        self._edit(place, "neighbour", self.neighbour)

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at that key."""
        return self._keys(place).get("neighbour") == self.neighbour

    def calls(self) -> int:
        """Ask the shelf."""
        return self.shelf.calls

    def broken(self, place: Place) -> Any:
        """Make it read-only."""
        return self._in("frozen")

    def answer_lost(self, place: Place) -> Any:
        """Write without an answer."""
        return self._in("answer_lost")

    def request_lost(self, place: Place) -> Any:
        """Neither."""
        return self._in("request_lost")

    def throttled(self, place: Place) -> Any:
        """Refuse all."""
        return self._in("throttled")

    def denied(self, place: Place) -> Any:
        """Refuse all."""
        return self._in("denied")

    def unreachable(self, place: Place) -> Any:
        """Be gone."""
        return self._in("unreachable")

    def reads_fail(self, place: Place) -> Any:
        """Fail to read."""
        return self._in("reads_fail")

    @contextmanager
    def edited_meanwhile(self, place: Place) -> Iterator[None]:
        """Edit after the next read."""

        def edit() -> None:
            self.neighbour = "edited"
            self._edit(place, "neighbour", self.neighbour)

        self.shelf.after_read = edit
        yield
        assert self.shelf.after_read is None

    @contextmanager
    def _in(self, mode: str) -> Iterator[None]:
        self.shelf.mode = mode
        try:
            yield
        finally:
            self.shelf.mode = ""

    def _keys(self, place: Place) -> dict[str, str]:
        return self._document(place)["keys"]

    def _document(self, place: Place) -> dict[str, dict[str, str]]:
        found = self.shelf.documents.get(str(place.options["path"]))
        return json.loads(found[1]) if found else {"keys": {}, "mints": {}}

    def _edit(self, place: Place, key: str, value: str | None) -> None:
        document = self._document(place)
        if value is None:
            document["keys"].pop(key)
        else:
            document["keys"][key] = value
        self.shelf.set(str(place.options["path"]), document)


class TestFaulty(SinkContract):
    """All of them."""

    @pytest.fixture(params=[kind_of(sink) for sink in (Good, WriteOnly, *FAULTY)])
    def harness(self, request: pytest.FixtureRequest) -> Harness:
        """Return one with a shelf of its own."""
        return ShelfHarness(request.param)
