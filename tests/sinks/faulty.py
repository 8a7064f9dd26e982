"""A small outside with a correct sink for it, and that sink broken in many ways, each by one promise.

They are installed as plug-ins for a run of the conformance kit: what the kit does not notice, it does not check.
"""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from rotator.errors import Forbidden, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary, Throttled
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks._naming import Naming

PAUSE = timedelta(seconds=7)
NAMES = Naming(
    clean=re.compile(r"[A-Za-z0-9_-]+"),
    dirty=re.compile(r"[^A-Za-z0-9_-]+"),
    literal=re.compile(r"[A-Za-z0-9_/-]+"),
    rule="takes letters, digits, - and _",
    longest=120,
)


class Missing(Exception):
    """The outside says that nothing is there."""


class Conflict(Exception):
    """It has another version than was expected."""


class Denied(Exception):
    """The credential may not."""


class TooMany(Exception):
    """Slow down."""


class Frozen(Exception):
    """It is up, but nothing can be written."""


class Timeout(Exception):
    """No answer came."""


class Down(Exception):
    """Nobody listens."""


class ServerError(Exception):
    """It cannot say."""


TABLE: dict[type[Exception], Callable[[str], RotatorError]] = {
    Conflict: lambda at: Temporary(f"{at}: others kept writing it; it is tried again"),
    Denied: lambda at: Forbidden(f"{at}: the credential may not do this; grant it"),
    TooMany: lambda at: Throttled(f"{at}: too many requests", PAUSE),
    Frozen: lambda at: Temporary(f"{at}: it is read-only"),
    Timeout: lambda at: OutcomeUnknown(f"{at}: no answer"),
    Down: lambda at: Temporary(f"{at}: cannot be reached"),
    ServerError: lambda at: Temporary(f"{at}: failed on its side"),
}
ANY = -1


class Shelf:
    """Documents with versions and compare-and-set, and the faults of a real service."""

    def __init__(self) -> None:
        self.documents: dict[str, tuple[int, str]] = {}
        self.mode = ""
        self.calls = 0
        self.after_read: Callable[[], None] | None = None
        self._lock = threading.RLock()
        self._version = 0

    def get(self, path: str) -> tuple[int, dict[str, dict[str, str]]]:
        """Return version and content."""
        self._fail()
        if self.mode == "reads_fail":
            raise ServerError
        with self._lock:
            found = self.documents.get(path)
        hook, self.after_read = self.after_read, None
        if hook:
            hook()
        if found is None:
            raise Missing
        return found[0], json.loads(found[1])

    def put(self, path: str, document: object, expected: int) -> int:
        """Replace a document of the expected version, 0 if there shall be none; return the new version."""
        self._fail()
        if self.mode == "frozen":
            raise Frozen
        if self.mode == "request_lost":
            raise Timeout
        with self._lock:
            version = self.set(path, document, expected)
        if self.mode == "answer_lost":
            raise Timeout
        return version

    def set(self, path: str, document: object, expected: int = ANY) -> int:
        """Likewise, by hand: no fault stands in the way."""
        with self._lock:
            if expected not in (ANY, self.documents.get(path, (0, ""))[0]):
                raise Conflict
            self._version += 1
            self.documents[path] = self._version, json.dumps(document)
            return self._version

    def ask(self, path: str) -> None:
        """Return if the path can be written now."""
        self._fail()
        if self.mode == "frozen":
            raise Frozen

    def _fail(self) -> None:
        self.calls += 1
        kinds = {"throttled": TooMany, "denied": Denied, "unreachable": Down}
        if self.mode in kinds:
            raise kinds[self.mode]


SHELVES: dict[str, Shelf] = {}


class Options(BaseModel):
    """The sink's table."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    shelf: str = Field(min_length=1)


class DeliveryOptions(BaseModel):
    """A deliver block."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    path: str = "{name}"
    key: str = "token"

    @field_validator("path")
    @classmethod
    def _path(cls, text: str) -> str:
        NAMES.parse(text)
        return text


class Good:
    """Keeps every promise."""

    grade = Grade.PROVEN
    DeliveryOptions: type[BaseModel] = DeliveryOptions
    attempts = 5

    def __init__(self, name: str, shelf: Shelf) -> None:
        self.name = name
        self.shelf = shelf

    def resolve(self, options: Mapping[str, Any], facts: Mapping[str, str]) -> Place:
        path = self.named(options["path"], facts)
        location = f"shelf/{path}#{options['key']}"
        return Place(self.name, location, {"path": path, "key": options["key"]})

    def named(self, text: str, facts: Mapping[str, str]) -> str:
        return NAMES.rendered(NAMES.parse(text), facts)

    def preflight(self, place: Place) -> None:
        with self.translated(place):
            self.shelf.ask(str(place.options["path"]))
            self.current(place)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        with self.translated(place):
            return Receipt(place.location, self.written(place, mint))

    def written(self, place: Place, mint: Mint) -> str:
        """Apart from `deliver`: an error is raised anew there, where no frame holds the document."""
        for attempt in range(self.attempts):
            version, document = self.current(place)
            if self.is_there(document, place, mint):
                return self.version_of(version, document, place)
            try:
                return self.put(place, document, version, mint)
            except Conflict:
                if attempt == self.attempts - 1:
                    raise
        raise AssertionError

    def read_back(self, place: Place) -> Held:
        with self.translated(place):
            version, document = self.current(place)
        key = str(place.options["key"])
        if key not in document["keys"]:
            raise NotFound(f"{place.location}: nothing is there")
        mint_id = document["mints"].get(key, "")
        return Held(Secret(document["keys"][key]), mint_id, self.version_of(version, document, place))

    def close(self) -> None:
        """Nothing is open."""

    def current(self, place: Place) -> tuple[int, dict[str, dict[str, str]]]:
        try:
            return self.shelf.get(str(place.options["path"]))
        except Missing:
            return 0, {"keys": {}, "mints": {}}

    def is_there(self, document: Mapping[str, Mapping[str, str]], place: Place, mint: Mint) -> bool:
        key = str(place.options["key"])
        return document["keys"].get(key) == mint.secret.reveal() and document["mints"].get(key) == mint.id

    def put(self, place: Place, document: dict[str, dict[str, str]], version: int, mint: Mint) -> str:
        whole = self.changed(document, str(place.options["key"]), mint)
        written = self.shelf.put(str(place.options["path"]), whole, version)
        return self.version_of(written, whole, place)

    def changed(self, document: dict[str, dict[str, str]], key: str, mint: Mint) -> dict[str, dict[str, str]]:
        document["keys"][key] = self.spelt(mint)
        document["mints"][key] = mint.id
        return document

    def spelt(self, mint: Mint) -> str:
        return mint.secret.reveal()

    def version_of(self, version: int, document: object, place: Place) -> str:
        return str(version)

    @contextmanager
    def translated(self, place: Place) -> Iterator[None]:
        failure = None
        try:
            yield
        except tuple(TABLE) as error:
            failure = self.failure(error, place)
        if failure:
            raise failure from None

    def failure(self, error: Exception, place: Place) -> RotatorError:
        return TABLE[type(error)](place.location)


class WriteOnly(Good):
    """Keeps every promise that a sink can keep which gives no value back."""

    def read_back(self, place: Place) -> Held:
        held = super().read_back(place)
        return Held(None, held.mint_id, held.version)


class ReplacesNeighbours(Good):
    def changed(self, document: Any, key: str, mint: Mint) -> Any:
        return {"keys": {key: self.spelt(mint)}, "mints": {key: mint.id}}


class TakesAFailedReadForEmpty(Good):
    def current(self, place: Place) -> Any:
        try:
            return super().current(place)
        except ServerError:
            return ANY, {"keys": {}, "mints": {}}


class WritesTheKeyInPreflight(Good):
    def preflight(self, place: Place) -> None:
        super().preflight(place)
        version, document = self.current(place)
        key = str(place.options["key"])
        with self.translated(place):
            document["keys"].setdefault(key, "probe")
            self.shelf.put(str(place.options["path"]), document, version)


class WritesEveryTime(Good):
    def is_there(self, document: Any, place: Place, mint: Mint) -> bool:
        return False


class KeepsTheFirstMint(Good):
    def is_there(self, document: Any, place: Place, mint: Mint) -> bool:
        return str(place.options["key"]) in document["mints"]


class TrustsItsMetadata(Good):
    def is_there(self, document: Any, place: Place, mint: Mint) -> bool:
        return document["mints"].get(str(place.options["key"])) == mint.id


class TrustsItsMetadataUnseen(WriteOnly):
    def is_there(self, document: Any, place: Place, mint: Mint) -> bool:
        return document["mints"].get(str(place.options["key"])) == mint.id


class SaysTheMintForTheVersion(WriteOnly):
    def version_of(self, version: int, document: Any, place: Place) -> str:
        return str(document["mints"].get(str(place.options["key"]), ""))


class LogsTheSecret(Good):
    def changed(self, document: Any, key: str, mint: Mint) -> Any:
        whole = super().changed(document, key, mint)
        logging.getLogger("vendor.http").debug("PUT %s", whole)
        return whole


class SecretInErrors(Good):
    def put(self, place: Place, document: Any, version: int, mint: Mint) -> str:
        try:
            return super().put(place, document, version, mint)
        except Frozen:
            raise Temporary(f"{place.location}: could not write {mint.secret.reveal()}") from None


class SecretInFrames(Good):
    def put(self, place: Place, document: Any, version: int, mint: Mint) -> str:
        body = json.dumps({"value": mint.secret.reveal()})
        try:
            return super().put(place, document, version, mint)
        except Frozen as error:
            raise Temporary(f"{place.location}: refused {len(body)} bytes") from error


class TakesATimeoutForSuccess(Good):
    def put(self, place: Place, document: Any, version: int, mint: Mint) -> str:
        try:
            return super().put(place, document, version, mint)
        except Timeout:
            return str(version + 1)


class SaysNotFoundWhenDenied(Good):
    def read_back(self, place: Place) -> Held:
        try:
            return super().read_back(place)
        except Forbidden:
            raise NotFound(f"{place.location}: nothing is there") from None


class SharesState(Good):
    place: Place

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        self.place = place
        time.sleep(0.001)
        return super().deliver(self.place, mint)


class EscapesByName(Good):
    def named(self, text: str, facts: Mapping[str, str]) -> str:
        if not facts["name"]:
            raise Permanent("name is empty")
        return text.format(**facts)


class FoldsCase(Good):
    def named(self, text: str, facts: Mapping[str, str]) -> str:
        return super().named(text, facts).lower()


class CachesValues(Good):
    def __init__(self, name: str, shelf: Shelf) -> None:
        super().__init__(name, shelf)
        self.cache: dict[str, Held] = {}

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        self.cache.pop(place.location, None)
        return super().deliver(place, mint)

    def read_back(self, place: Place) -> Held:
        if place.location not in self.cache:
            self.cache[place.location] = super().read_back(place)
        return self.cache[place.location]


class InventsVersions(Good):
    def version_of(self, version: int, document: object, place: Place) -> str:
        return str(time.monotonic_ns())


class NeverMovesTheVersion(Good):
    def version_of(self, version: int, document: object, place: Place) -> str:
        return "1"


class TruncatesSecrets(Good):
    def spelt(self, mint: Mint) -> str:
        return mint.secret.reveal()[:4096]


class AddsALineEnd(Good):
    def spelt(self, mint: Mint) -> str:
        return mint.secret.reveal() + "\n"

    def read_back(self, place: Place) -> Held:
        held = super().read_back(place)
        secret = Secret(held.secret.reveal().rstrip("\n")) if held.secret else None
        return Held(secret, held.mint_id, held.version)


class OptionsAreNoJson(Good):
    def resolve(self, options: Mapping[str, Any], facts: Mapping[str, str]) -> Place:
        place = super().resolve(options, facts)
        return Place(place.sink, place.location, {**place.options, "path": PurePosixPath(str(place.options["path"]))})


class ReprShowsTheSecret(Good):
    last = ""

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        receipt = super().deliver(place, mint)
        self.last = mint.secret.reveal()
        return receipt


class PreflightAlwaysPasses(Good):
    def preflight(self, place: Place) -> None:
        """Hope."""


class RetriesForever(Good):
    def current(self, place: Place) -> Any:
        for _ in range(1_000):
            try:
                return super().current(place)
            except TooMany:
                time.sleep(0.0001)
        raise TooMany


class OverwritesConflicts(Good):
    def put(self, place: Place, document: Any, version: int, mint: Mint) -> str:
        return super().put(place, document, ANY, mint)


class WritesInTwoSteps(Good):
    def put(self, place: Place, document: Any, version: int, mint: Mint) -> str:
        key, path = str(place.options["key"]), str(place.options["path"])
        document["mints"][key] = mint.id
        version = self.shelf.put(path, document, version)
        return super().put(place, document, version, mint)

    def is_there(self, document: Any, place: Place, mint: Mint) -> bool:
        key = str(place.options["key"])
        return document["mints"].get(key) == mint.id and key in document["keys"]


class ErrorsWithoutPlace(Good):
    def failure(self, error: Exception, place: Place) -> RotatorError:
        return TABLE[type(error)]("the shelf")


class ThrottledIsPermanent(Good):
    def failure(self, error: Exception, place: Place) -> RotatorError:
        said = super().failure(error, place)
        return Permanent(said.message) if isinstance(said, Throttled) else said


class ResolvesOnline(Good):
    def resolve(self, options: Mapping[str, Any], facts: Mapping[str, str]) -> Place:
        Path("/etc/hostname").exists() and Path("/etc/hostname").read_bytes()
        return super().resolve(options, facts)


class RemembersTheLastPlace(Good):
    def resolve(self, options: Mapping[str, Any], facts: Mapping[str, str]) -> Place:
        self.latest = super().resolve(options, facts)
        return self.latest

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        return Receipt(place.location, super().deliver(self.latest, mint).version)


class VendorErrorsEscape(Good):
    @contextmanager
    def translated(self, place: Place) -> Iterator[None]:
        yield


class RepeatsWhatWasPasted(Good):
    class DeliveryOptions(DeliveryOptions):
        model_config = ConfigDict(hide_input_in_errors=False)


class ClaimsOnePlaceForAll(Good):
    def resolve(self, options: Mapping[str, Any], facts: Mapping[str, str]) -> Place:
        place = super().resolve(options, facts)
        return Place(place.sink, "the shelf", place.options)


FAULTY: tuple[type[Good], ...] = (
    ReplacesNeighbours, TakesAFailedReadForEmpty, WritesTheKeyInPreflight, WritesEveryTime, KeepsTheFirstMint,
    TrustsItsMetadata, TrustsItsMetadataUnseen, SaysTheMintForTheVersion, LogsTheSecret, SecretInErrors,
    SecretInFrames, TakesATimeoutForSuccess, SaysNotFoundWhenDenied, SharesState, EscapesByName, FoldsCase,
    CachesValues, InventsVersions, NeverMovesTheVersion, TruncatesSecrets, AddsALineEnd, OptionsAreNoJson,
    ReprShowsTheSecret, PreflightAlwaysPasses, RetriesForever, OverwritesConflicts, WritesInTwoSteps,
    ErrorsWithoutPlace, ThrottledIsPermanent, ResolvesOnline, RemembersTheLastPlace, VendorErrorsEscape,
    RepeatsWhatWasPasted, ClaimsOnePlaceForAll,
)  # fmt: skip


def kind_of(sink: type[Good]) -> str:
    """Return the name of the type: `replaces_neighbours`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", sink.__name__).lower()


def _type(sink: type[Good]) -> SimpleNamespace:
    def build(name: str, options: Options, base: Path) -> Good:
        return sink(name, SHELVES[options.shelf])

    return SimpleNamespace(
        Options=Options, DeliveryOptions=sink.DeliveryOptions, PREFLIGHT_GRADE=sink.grade, build=build
    )


KINDS = SimpleNamespace(**{kind_of(sink): _type(sink) for sink in (Good, WriteOnly, *FAULTY)})
