"""What every sink promises, whatever it writes to.

A test file of a sink defines a `Harness` for each form of its deliveries and a subclass of `SinkContract` whose fixture
`harness` hands them out. Everything goes through `rotator.ports.Sink`; the harness only stands for the outside: the
consumer that reads, the neighbour that must survive, the operator who breaks and repairs.
"""

import json
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Protocol

import pytest

from rotator import sinks
from rotator.errors import NotFound, Permanent, RotatorError, Temporary
from rotator.model import Grade, Mint, Place
from rotator.ports import Sink
from rotator.secret import Secret
from rotator.text import visible

CANARY = "eyJhbGciOiJSUzI1NiJ9.canary-4f1d.c2lnbmF0dXJl_-"
OTHER = "eyJhbGciOiJSUzI1NiJ9.other-90ab.c2lnbmF0dXJl_-"
ROTATED_AT = datetime(2026, 3, 4, 5, 6, 7, 890000, tzinfo=UTC)

HOSTILE_NAMES = [
    "a/b",
    "..",
    ".",
    "../../etc/passwd",
    "/etc/passwd",
    "a\\b",
    "nul\0byte",
    "line\nbreak",
    "\x1b[2J",
    ".hidden",
    "-rf",
    "*",
    " leading and trailing ",
    "n" * 256,
    "🔑" * 256,
    "\u202egnp.exe",
    "\ud800",
    "{name}",
    "%2e%2e",
    "a#b,c=d",
    "$(id)`id`",
    "'\"",
]


class Harness(Protocol):
    """The outside of one form of delivery of one sink."""

    kind: str
    sink: Sink
    block: dict[str, object]

    def read(self, place: Place) -> str | None:
        """Return the secret as a consumer finds it, without the sink's help; None if there is none."""
        ...

    def write(self, place: Place, secret: str) -> None:
        """Put a secret there by hand, as a person would."""
        ...

    def plant_neighbour(self, place: Place) -> None:
        """Put something that is not ours as close to the place as can be."""
        ...

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether exactly that is still there."""
        ...

    def broken(self, place: Place) -> AbstractContextManager[None]:
        """Make writing impossible for a while."""
        ...


def facts(**changed: str) -> dict[str, str]:
    """Return the facts of a deployment-scoped token."""
    return {
        "token_id": "cltoken1",
        "name": "svc-airflow",
        "scope": "deployment",
        "workspace_id": "clws1",
        "deployment_id": "cldep1",
        "organization_id": "clorg1",
        "policy": "services",
        "provider": "astro",
        **changed,
    }


def mint(secret: str = CANARY, number: int = 1) -> Mint:
    """Return one that a POST may have made."""
    return Mint(
        id=f"mint-{number}",
        rotation_id=f"rotation-{number}",
        token_id="cltoken1",
        secret=Secret(secret),
        rotated_at=ROTATED_AT + timedelta(days=number),
        end_at=ROTATED_AT + timedelta(days=number + 90),
    )


@contextmanager
def raising_without_secret(
    *kinds: type[RotatorError], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[RotatorError]]:
    """Expect one of these errors, with no secret in its message, repr, or traceback with all local variables."""
    with pytest.raises(kinds, match=match) as caught:
        yield caught
    shown = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    text = "".join(shown.format()) + repr(caught.value) + str(caught.value)
    assert "canary" not in text
    assert OTHER not in text


class SinkContract:
    """Subclass it and define the fixture `harness`.

    Attributes:
        is_readable: Whether the sink gives values back; one that does not answers for versions alone.
    """

    is_readable = True

    def place(self, harness: Harness, **changed: str) -> Place:
        """Return where a delivery writes for a token with these facts, as it comes back from the journal."""
        options = sinks.checked(sinks.load(harness.kind).DeliveryOptions, harness.block)
        place = harness.sink.resolve(options, facts(**changed))
        return Place(place.sink, place.location, json.loads(json.dumps(place.options)), parts=place.parts)

    def assert_held(self, harness: Harness, place: Place, secret: str) -> None:
        """The consumer reads this secret, and the sink too if it can read at all."""
        assert harness.sink.read_back(place).secret == (Secret(secret) if self.is_readable else None)
        assert harness.read(place) == secret

    def test_its_type_is_found_by_name(self, harness: Harness) -> None:
        """A sink is one file that exposes its options, those of a delivery, and how to build it."""
        module = sinks.load(harness.kind)
        assert {"Options", "DeliveryOptions", "PREFLIGHT_GRADE", "build"} <= set(vars(module))
        assert harness.kind in sinks.types()

    def test_unknown_keys_are_errors(self, harness: Harness) -> None:
        """A misspelt key of a deliver block is found at load."""
        with pytest.raises(ValueError, match="no_such_key"):
            sinks.checked(sinks.load(harness.kind).DeliveryOptions, {**harness.block, "no_such_key": 1})

    def test_resolving_is_repeatable(self, harness: Harness) -> None:
        """The same token resolves to the same place, which one printable line names."""
        first, second = self.place(harness), self.place(harness)
        assert first == second
        assert first.sink == harness.sink.name
        assert visible(first.location, len(first.location)) == first.location != ""

    def test_names_do_not_share_places(self, harness: Harness) -> None:
        """Two tokens that differ in name only get places that share nothing."""
        names = ["a", "A", "a ", "a.", "a/b", "a%2Fb", "a_b", "n" * 300, "n" * 301, "é", "e\u0301"]
        claims = [claim for name in names for claim in self.place(harness, name=name).claims]
        assert len(set(claims)) == len(claims)

    def test_empty_facts_name_no_place(self, harness: Harness) -> None:
        """A token without a name has no place, and is told why."""
        with pytest.raises(Permanent, match="name is empty"):
            self.place(harness, name="")

    def test_preflight_leaves_the_consumers_key_alone(self, harness: Harness) -> None:
        """The proof that a place can be written neither creates nor changes what a consumer reads."""
        place = self.place(harness)
        harness.sink.preflight(place)
        assert harness.read(place) is None
        harness.write(place, OTHER)
        harness.plant_neighbour(place)
        harness.sink.preflight(place)
        assert harness.read(place) == OTHER
        assert harness.neighbour_is_whole(place)

    def test_what_is_delivered_is_read(self, harness: Harness) -> None:
        """Consumer and sink both read exactly the secret that was delivered, at the receipt's place and version."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        held = harness.sink.read_back(place)
        self.assert_held(harness, place, CANARY)
        assert (receipt.location, receipt.version) == (place.location, held.version)

    def test_delivering_again_writes_nothing(self, harness: Harness) -> None:
        """A place that holds the mint already keeps its version, also for a new instance of the sink.

        Where nothing can be compared, the same value is written again: the latest receipt counts.
        """
        place = self.place(harness)
        first = harness.sink.deliver(place, mint())
        again = harness.sink.deliver(place, mint())
        assert again == first or not self.is_readable
        assert harness.sink.read_back(place).version == again.version
        assert harness.read(place) == CANARY

    def test_a_new_mint_replaces(self, harness: Harness) -> None:
        """The next mint replaces the last, and the version moves."""
        place = self.place(harness)
        first = harness.sink.deliver(place, mint(OTHER, 1))
        second = harness.sink.deliver(place, mint(CANARY, 2))
        assert harness.read(place) == CANARY
        assert first.version != second.version

    def test_neighbours_stay(self, harness: Harness) -> None:
        """Neither the first nor a later delivery touches what is not ours."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        for number, secret in enumerate([OTHER, CANARY]):
            harness.sink.deliver(place, mint(secret, number))
            assert harness.neighbour_is_whole(place)
            assert harness.read(place) == secret

    def test_what_a_person_put_there_is_read(self, harness: Harness) -> None:
        """Adoption and drift see the value that stands there, whoever wrote it, or at least that it is another."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        harness.write(place, OTHER)
        self.assert_held(harness, place, OTHER)
        assert harness.sink.read_back(place).version != receipt.version

    def test_nothing_there_is_not_found(self, harness: Harness) -> None:
        """A place that holds nothing says so, and reading makes nothing."""
        harness.sink.deliver(self.place(harness, name="somebody else"), mint(OTHER))
        place = self.place(harness)
        with pytest.raises(NotFound):
            harness.sink.read_back(place)
        assert harness.read(place) is None

    def test_what_is_broken_fails_before_and_at_the_write(self, harness: Harness) -> None:
        """Preflight and delivery both refuse a place that cannot be written, keep what is there, and show no secret."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place):
            with raising_without_secret(Temporary, Permanent):
                harness.sink.preflight(place)
            with raising_without_secret(Temporary, Permanent):
                harness.sink.deliver(place, mint())
        assert harness.read(place) == OTHER

    def test_what_is_repaired_works_again(self, harness: Harness) -> None:
        """After a repair the same instance writes, without a restart."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place), pytest.raises(RotatorError):
            harness.sink.preflight(place)
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_errors_name_the_place(self, harness: Harness) -> None:
        """Whoever reads an error learns which place it is about."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place), pytest.raises(RotatorError) as caught:
            harness.sink.preflight(place)
        assert place.location in caught.value.message

    def test_threads_share_a_sink(self, harness: Harness) -> None:
        """Deliveries at the same time to many places all arrive."""
        places = [self.place(harness, name=f"svc-{number}") for number in range(24)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda n: harness.sink.deliver(places[n], mint(f"{CANARY}{n}", n)), range(24)))
        assert [harness.read(place) for place in places] == [f"{CANARY}{n}" for n in range(24)]

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_hostile_names_work_or_are_refused(self, harness: Harness, name: str) -> None:
        """A name made to break out either gets a safe place like any other, or none; neighbours never notice."""
        bystander = self.place(harness)
        harness.sink.deliver(bystander, mint(OTHER))
        try:
            place = self.place(harness, name=name)
        except Permanent:
            return
        assert visible(place.location, len(place.location)) == place.location
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint())
        self.assert_held(harness, place, CANARY)
        assert harness.read(bystander) == OTHER

    def test_it_declares_how_it_proves(self, harness: Harness) -> None:
        """Policies can require a grade, so a sink says which it reaches."""
        assert sinks.load(harness.kind).PREFLIGHT_GRADE in Grade

    def test_it_shows_no_secret(self, harness: Harness) -> None:
        """Neither place, receipt nor what is held shows the secret when printed."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        held = harness.sink.read_back(place)
        assert "canary" not in repr((place, receipt, held, harness.sink, vars(harness.sink)))
