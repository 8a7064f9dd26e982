"""What a sink is made of, and where it says that it writes: nothing here contacts the outside."""

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytest
from pydantic import BaseModel, ValidationError

from rotator import sinks
from rotator.errors import Permanent
from rotator.model import Grade
from rotator.secret import Secret
from rotator.testing.base import Behaviours
from rotator.testing.harness import Harness
from rotator.testing.values import CANARY, DISTINCT_NAMES, HOSTILE_NAMES, OTHER, facts, mint
from rotator.text import visible

_OUTSIDE = ("socket.", "open", "os.", "subprocess.", "shutil.", "tempfile.", "_thread.", "sqlite3.")
_INVITING = ("credential", "field", "header", "jwt", "key", "password", "secret", "token")  # in names of options
_watched: dict[int, list[str]] = {}


class Places(Behaviours):
    """The type, its options, and `resolve`."""

    def test_its_type_is_found_by_name(self, harness: Harness) -> None:
        """A sink exposes its options, those of a delivery, its grade and how to build it, by the name of its type."""
        module = sinks.load(harness.kind)
        assert all(hasattr(module, name) for name in ("Options", "DeliveryOptions", "PREFLIGHT_GRADE", "build"))
        assert harness.kind in sinks.types()

    def test_it_declares_how_it_proves(self, harness: Harness) -> None:
        """Policies can require a grade, so a sink says which it reaches."""
        assert isinstance(sinks.load(harness.kind).PREFLIGHT_GRADE, Grade)

    def test_unknown_keys_are_errors(self, harness: Harness) -> None:
        """A misspelt key of a deliver block or of the sink's own table is found at load."""
        module = sinks.load(harness.kind)
        with pytest.raises(ValueError, match="no_such_key"):
            sinks.checked(module.DeliveryOptions, {**harness.block, "no_such_key": 1})
        with pytest.raises(ValidationError) as caught:
            sinks.validated(module.Options, {"no_such_key": 1})
        assert ("extra_forbidden", ("no_such_key",)) in [(row["type"], row["loc"]) for row in caught.value.errors()]

    def test_options_stay_valid(self, harness: Harness) -> None:
        """What validation returns is valid, JSON-able and validates to the same again."""
        model = sinks.load(harness.kind).DeliveryOptions
        once = sinks.checked(model, harness.block)
        assert sinks.checked(model, json.loads(json.dumps(once))) == once

    def test_a_pasted_secret_is_not_repeated(self, harness: Harness) -> None:
        """Somebody who pasted a secret where a reference or a template belongs does not find it in the error."""
        module = sinks.load(harness.kind)
        for model in (module.Options, module.DeliveryOptions):
            assert model.model_config.get("hide_input_in_errors"), "pydantic would repeat what it refuses"
            inviting = [name for name in model.model_fields if any(word in name for word in _INVITING)]
            for name in (*inviting, "no_such_key"):
                for pasted in (CANARY, {"token": CANARY}, [CANARY]):
                    assert "canary" not in _complaint(model, {**_block_of(model, harness), name: pasted})

    def test_resolving_is_repeatable(self, harness: Harness) -> None:
        """The same token resolves to the same place, which one printable line names."""
        first, second = self.place(harness), self.place(harness)
        assert first == second
        assert first.sink == harness.sink.name
        assert visible(first.location, len(first.location)) == first.location != ""

    def test_resolving_contacts_nothing(self, harness: Harness) -> None:
        """Where a secret would go is known without network, files or processes, also while the outside is down."""
        options = sinks.checked(sinks.load(harness.kind).DeliveryOptions, harness.block)
        harness.sink.resolve(options, facts())  # what is imported on demand is imported now
        with _watching() as seen:
            harness.sink.resolve(options, facts())
        assert not seen

    def test_places_survive_the_journal(self, harness: Harness) -> None:
        """The options of a place are plain JSON: a place read from the journal is the place that was resolved."""
        options = sinks.checked(sinks.load(harness.kind).DeliveryOptions, harness.block)
        place = harness.sink.resolve(options, facts())
        assert _is_plain(place.options)
        text = json.dumps(place.options, allow_nan=False, sort_keys=True)
        assert json.dumps(json.loads(text), sort_keys=True) == text

    def test_an_old_place_still_works(self, harness: Harness) -> None:
        """A place holds all that writing needs: it is written also after the sink resolved others."""
        place = self.place(harness)
        self.place(harness, name="another", policy="other", workspace_id="clws2")
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_claims_say_all_that_is_written(self, harness: Harness) -> None:
        """Each claim of a place is one printable line, and no two are the same."""
        place = self.place(harness)
        claims, homes = place.claims, {harness.sink.name, place.store}
        assert claims
        assert len(set(claims)) == len(claims)
        assert all(home in homes and visible(part, len(part)) == part != "" for home, part in claims)

    def test_names_do_not_share_places(self, harness: Harness) -> None:
        """Two tokens that differ in name only get places that share nothing."""
        claims = [claim for name in DISTINCT_NAMES for claim in self.place(harness, name=name).claims]
        assert len(set(claims)) == len(claims)

    def test_names_do_not_share_secrets(self, harness: Harness) -> None:
        """What is written for each of such tokens is what its consumer reads, whatever the outside does to names."""
        places = [self.place(harness, name=name) for name in DISTINCT_NAMES]
        for number, place in enumerate(places):
            harness.sink.deliver(place, mint(f"{CANARY}{number}", number))
        assert [harness.read(place) for place in places] == [f"{CANARY}{number}" for number in range(len(places))]

    def test_empty_facts_name_no_place(self, harness: Harness) -> None:
        """A token without a name has no place, and is told why."""
        with pytest.raises(Permanent, match="name is empty"):
            self.place(harness, name="")

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_hostile_names_work_or_are_refused(self, harness: Harness, name: str) -> None:
        """A name made to break out either gets a safe place like any other, or none; neighbours never notice."""
        bystander = self.place(harness)
        harness.plant_neighbour(bystander)
        harness.sink.deliver(bystander, mint(OTHER))
        try:
            place = self.place(harness, name=name)
        except Permanent:
            return
        assert visible(place.location, len(place.location)) == place.location
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint())
        if self.can_read(harness):
            assert harness.sink.read_back(place).secret == Secret(CANARY)
        assert harness.read(place) == CANARY
        assert harness.read(bystander) == OTHER
        assert harness.neighbour_is_whole(bystander)


def _block_of(model: type[BaseModel], harness: Harness) -> dict[str, object]:
    return harness.block if model is sinks.load(harness.kind).DeliveryOptions else {}


def _complaint(model: type[BaseModel], values: Mapping[str, object]) -> str:
    try:
        sinks.validated(model, values)
    except ValueError as error:
        return str(error)
    return ""


def _is_plain(value: object) -> bool:
    if isinstance(value, Mapping):
        return all(type(key) is str and _is_plain(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(inner) for inner in value)
    return value is None or type(value) in (str, int, float, bool)


@contextmanager
def _watching() -> Iterator[list[str]]:
    """Yield a list of what this thread does to the outside meanwhile."""
    _install()
    mine = threading.get_ident()
    _watched[mine] = []
    try:
        yield _watched[mine]
    finally:
        del _watched[mine]


def _install(done: list[bool] = []) -> None:  # noqa: B006 - an audit hook cannot be removed, so there is only one
    if not done:
        done.append(True)
        sys.addaudithook(_note)


def _note(event: str, _: object) -> None:
    if _watched and event.startswith(_OUTSIDE) and (seen := _watched.get(threading.get_ident())) is not None:
        seen.append(event)
