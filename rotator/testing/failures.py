"""What a sink does when the outside fails: says what is certain, loses nothing, and works again afterwards."""

from datetime import timedelta

import pytest

from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
)
from rotator.model import Mint, Place
from rotator.secret import Secret
from rotator.testing.base import (
    Behaviours,
    assert_no_secret,
    hooked,
    offered,
    proves,
    raising_without_secret,
    trait,
    within,
)
from rotator.testing.harness import Harness
from rotator.testing.values import CANARY, OTHER, mint

_PASSES: tuple[type[RotatorError], ...] = (Temporary, OutcomeUnknown)
MOST_CALLS = 60  # requests for one delivery that fails: retries are few


class Failures(Behaviours):
    """Each behaviour breaks the outside, looks, repairs it, and looks again."""

    def test_what_is_broken_fails_before_and_at_the_write(self, harness: Harness) -> None:
        """Preflight and delivery both refuse a place that cannot be written, keep what is there, and show no secret."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place):
            if proves(harness):
                with raising_without_secret(Temporary, Permanent):
                    within(harness, lambda: harness.sink.preflight(place))
            with raising_without_secret(Temporary, Permanent, OutcomeUnknown):
                within(harness, lambda: harness.sink.deliver(place, mint()))
        assert harness.read(place) == OTHER

    def test_what_is_repaired_works_again(self, harness: Harness) -> None:
        """After a repair the same instance writes, without a restart."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place), pytest.raises(RotatorError):
            within(harness, lambda: harness.sink.deliver(place, mint()))
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_a_new_mint_after_a_failed_one_arrives(self, harness: Harness) -> None:
        """Where one mint could not be written the next can, and nothing of the first shows up later."""
        place = self.place(harness)
        harness.write(place, "before")
        with harness.broken(place), pytest.raises(RotatorError):
            within(harness, lambda: harness.sink.deliver(place, mint(OTHER, 1)))
        receipt = harness.sink.deliver(place, mint(CANARY, 2))
        assert harness.read(place) == CANARY
        self.assert_kept(harness, place, harness.sink.deliver(place, mint(CANARY, 2)), receipt)

    def test_errors_name_the_place(self, harness: Harness) -> None:
        """Whoever reads an error learns which place it is about."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with harness.broken(place):
            with pytest.raises(RotatorError) as caught:
                within(harness, lambda: harness.sink.deliver(place, mint()))
            assert place.location in caught.value.message
            if proves(harness):
                with pytest.raises(RotatorError) as caught:
                    within(harness, lambda: harness.sink.preflight(place))
                assert place.location in caught.value.message

    def test_a_lost_answer_is_no_success_and_no_loss(self, harness: Harness) -> None:
        """A write that was carried out but not answered is unknown; delivering again finds it: no duplicate."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "answer_lost", place):
            self._try(harness, place, mint(CANARY, 2))
        self._converges(harness, place)

    def test_a_lost_request_is_no_success(self, harness: Harness) -> None:
        """A write that never arrived is not taken for done, whatever it looks like from here."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "request_lost", place):
            self._try(harness, place, mint(CANARY, 2))
            assert harness.read(place) == OTHER
        self._converges(harness, place)

    def test_throttling_is_temporary(self, harness: Harness) -> None:
        """Too many requests is an error that passes, with the pause that the outside asked for, after few tries."""
        place = self.place(harness)
        harness.write(place, OTHER)
        with hooked(harness, "throttled", place):
            with raising_without_secret(Temporary) as caught:
                within(harness, lambda: harness.sink.deliver(place, mint()))
            wanted: timedelta | None = trait(harness, "retry_after")
            assert isinstance(caught.value, Temporary)
            assert wanted is None or caught.value.retry_after == wanted
            assert place.location in caught.value.message
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_retries_are_few(self, harness: Harness) -> None:
        """A delivery that fails gives up after a handful of requests: the engine has its own patience."""
        place = self.place(harness)
        harness.write(place, OTHER)
        before: int = offered(harness, "calls")
        with hooked(harness, "throttled", place), pytest.raises(RotatorError):
            within(harness, lambda: harness.sink.deliver(place, mint()))
        after: int = offered(harness, "calls")
        assert after - before <= MOST_CALLS

    def test_who_is_not_reachable_is_tried_later(self, harness: Harness) -> None:
        """While nobody listens every call fails, in time, with an error that passes; nothing is taken for empty."""
        place = self.place(harness)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "unreachable", place):
            with raising_without_secret(Temporary, OutcomeUnknown) as caught:
                within(harness, lambda: harness.sink.deliver(place, mint(CANARY, 2)))
            assert place.location in caught.value.message
            if self.can_read(harness):
                with raising_without_secret(Temporary):
                    within(harness, lambda: harness.sink.read_back(place))
            if proves(harness):
                with raising_without_secret(Temporary):
                    within(harness, lambda: harness.sink.preflight(place))
        assert harness.read(place) == OTHER
        self._converges(harness, place)

    def test_a_missing_permission_is_permanent(self, harness: Harness) -> None:
        """A credential that may not write is told so before and at the write, with the place: no use repeating."""
        place = self.place(harness)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "denied", place):
            if proves(harness):
                with raising_without_secret(Permanent) as caught:
                    within(harness, lambda: harness.sink.preflight(place))
                assert place.location in caught.value.message
                assert isinstance(caught.value, Forbidden | CredentialRejected) or type(caught.value) is Permanent
            with raising_without_secret(Permanent) as caught:
                within(harness, lambda: harness.sink.deliver(place, mint(CANARY, 2)))
            assert place.location in caught.value.message
        assert harness.read(place) == OTHER

    def test_denied_is_not_empty(self, harness: Harness) -> None:
        """Who may not look does not say that nothing is there."""
        place = self.place(harness)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "denied", place):
            try:
                held = within(harness, lambda: harness.sink.read_back(place))
            except RotatorError as error:
                assert not isinstance(error, NotFound)
                assert_no_secret(error)
            else:  # only writing was denied
                assert held.secret == (Secret(OTHER) if self.can_read(harness) else None)

    def test_a_failed_read_is_not_empty(self, harness: Harness) -> None:
        """While reading fails nothing is concluded: no NotFound, no neighbour lost to a write that knew nothing."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "reads_fail", place):
            with pytest.raises(RotatorError) as caught:
                within(harness, lambda: harness.sink.read_back(place))
            assert not isinstance(caught.value, NotFound)
            self._try(harness, place, mint(CANARY, 2), (*_PASSES, Permanent))
        assert harness.neighbour_is_whole(place)
        self._converges(harness, place)

    def test_an_edit_meanwhile_survives(self, harness: Harness) -> None:
        """Somebody who edits the neighbour between our read and our write loses nothing, and our secret arrives."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        harness.sink.deliver(place, mint(OTHER, 1))
        with hooked(harness, "edited_meanwhile", place):
            self._try(harness, place, mint(CANARY, 2))
        assert harness.neighbour_is_whole(place)
        self._converges(harness, place)

    def _try(
        self, harness: Harness, place: Place, made: Mint, accepted: tuple[type[RotatorError], ...] = _PASSES
    ) -> None:
        """Deliver: what is said to be done must be there, what may not be done must say so without the secret."""
        try:
            within(harness, lambda: harness.sink.deliver(place, made))
        except accepted as error:
            assert place.location in error.message
            assert_no_secret(error)
        else:
            assert harness.read(place) == made.secret.reveal()

    def _converges(self, harness: Harness, place: Place) -> None:
        """Deliver the second mint twice more: it is there, once, with its neighbours."""
        receipt = harness.sink.deliver(place, mint(CANARY, 2))
        assert harness.read(place) == CANARY
        self.assert_kept(harness, place, harness.sink.deliver(place, mint(CANARY, 2)), receipt)
