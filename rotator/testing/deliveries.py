"""What a delivery leaves behind, and what is read back: with nothing in the way."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest

from rotator.errors import OutcomeUnknown, Permanent, Temporary
from rotator.model import Mint, Place, Receipt
from rotator.secret import Secret
from rotator.testing.base import Behaviours, lacking, offered, trait
from rotator.testing.harness import Harness
from rotator.testing.values import CANARY, ODD_SECRETS, OTHER, mint

ROUNDS = 6


class Deliveries(Behaviours):
    """`preflight`, `deliver` and `read_back` on a good day, and many at once."""

    def test_preflight_leaves_the_consumers_key_alone(self, harness: Harness) -> None:
        """The proof that a place can be written neither creates nor changes what a consumer reads."""
        place = self.place(harness)
        harness.sink.preflight(place)
        assert harness.read(place) is None
        self.assert_nothing(harness, place)
        harness.write(place, OTHER)
        harness.plant_neighbour(place)
        harness.sink.preflight(place)
        assert harness.read(place) == OTHER
        assert harness.neighbour_is_whole(place)

    def test_preflight_moves_no_version(self, harness: Harness) -> None:
        """However often a place is proven, what it holds stays the version that was delivered."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        for _ in range(3):
            harness.sink.preflight(place)
        assert harness.sink.read_back(place).version == receipt.version

    def test_what_is_delivered_is_read(self, harness: Harness) -> None:
        """Consumer and sink both read exactly the secret that was delivered, at the receipt's place and version."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY
        assert receipt.location == place.location
        self.assert_delivered(harness, harness.sink.read_back(place), mint(), receipt)

    def test_delivering_again_writes_nothing(self, harness: Harness) -> None:
        """A place that holds the mint already keeps its version."""
        place = self.place(harness)
        first = harness.sink.deliver(place, mint())
        self.assert_kept(harness, place, harness.sink.deliver(place, mint()), first)
        assert harness.read(place) == CANARY

    def test_a_restart_forgets_nothing(self, harness: Harness) -> None:
        """After a restart the sink reads what it wrote, writes nothing that is there, and writes the next."""
        place = self.place(harness)
        first = harness.sink.deliver(place, mint())
        again = offered(harness, "rebuilt")
        try:
            self.assert_delivered(harness, again.read_back(place), mint(), first)
            self.assert_kept(harness, place, again.deliver(place, mint()), first)
            again.deliver(place, mint(OTHER, 2))
        finally:
            again.close()
        assert harness.read(place) == OTHER

    def test_a_new_mint_replaces(self, harness: Harness) -> None:
        """The next mint replaces the last, and the version moves."""
        place = self.place(harness)
        first = harness.sink.deliver(place, mint(OTHER, 1))
        second = harness.sink.deliver(place, mint(CANARY, 2))
        assert harness.read(place) == CANARY
        assert first.version != second.version

    def test_each_mint_arrives(self, harness: Harness) -> None:
        """A sink keeps no opinion on what it wrote before: a row of mints all arrive, each as the one that is held."""
        place = self.place(harness)
        for number in range(5):
            receipt = harness.sink.deliver(place, mint(f"{CANARY}{number}", number))
            assert harness.read(place) == f"{CANARY}{number}"
            self.assert_delivered(harness, harness.sink.read_back(place), mint(f"{CANARY}{number}", number), receipt)

    def test_the_version_moves_with_the_content_only(self, harness: Harness) -> None:
        """Reading, proving and delivering the same keep the version; another secret or an edit by hand moves it."""
        place = self.place(harness)
        first = harness.sink.deliver(place, mint())
        harness.sink.preflight(place)
        versions = [harness.sink.read_back(place).version for _ in range(2)]
        assert versions == [first.version] * 2
        if trait(harness, "edits_move_versions"):
            harness.write(place, OTHER)
            assert harness.sink.read_back(place).version != first.version

    def test_neighbours_stay(self, harness: Harness) -> None:
        """Neither the first nor a later delivery touches what is not ours."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        for number, secret in enumerate([OTHER, CANARY]):
            harness.sink.deliver(place, mint(secret, number))
            assert harness.neighbour_is_whole(place)
            assert harness.read(place) == secret

    def test_neighbours_that_came_later_stay(self, harness: Harness) -> None:
        """What others put beside a place after our first delivery survives the next one."""
        place = self.place(harness)
        harness.sink.deliver(place, mint(OTHER, 1))
        harness.plant_neighbour(place)
        harness.sink.preflight(place)
        harness.sink.deliver(place, mint(CANARY, 2))
        assert harness.neighbour_is_whole(place)
        assert harness.read(place) == CANARY

    def test_other_tokens_stay(self, harness: Harness) -> None:
        """A delivery for one token leaves what was delivered for another, at its version."""
        first, second = self.place(harness), self.place(harness, name="svc-billing")
        receipt = harness.sink.deliver(first, mint(OTHER, 1))
        harness.sink.deliver(second, mint(CANARY, 2))
        assert harness.read(first) == OTHER
        assert harness.sink.read_back(first).version == receipt.version

    @pytest.mark.parametrize("name", [*ODD_SECRETS, "longest"])
    def test_odd_secrets_arrive_whole(self, harness: Harness, name: str) -> None:
        """A secret arrives character for character, or is refused before anything changed: never cut, never altered."""
        longest = "canary" + "k" * (trait(harness, "largest_secret") - 6)
        place, made = self.place(harness), mint(ODD_SECRETS.get(name, longest), 2)
        harness.sink.deliver(place, mint(OTHER))
        harness.plant_neighbour(place)
        try:
            harness.sink.deliver(place, made)
        except Permanent:
            assert name != "longest"
            assert harness.read(place) == OTHER
        else:
            assert harness.read(place) == made.secret.reveal()
            if self.can_read(harness):
                assert harness.sink.read_back(place).secret == made.secret
        assert harness.neighbour_is_whole(place)

    def test_what_a_person_put_there_is_read(self, harness: Harness) -> None:
        """Adoption and drift see the value that stands there, whoever wrote it."""
        self.needs_reading(harness)
        place = self.place(harness)
        harness.write(place, OTHER)
        assert harness.sink.read_back(place).secret == Secret(OTHER)

    def test_what_a_person_changed_is_read(self, harness: Harness) -> None:
        """An edit after our delivery is seen at once, by value or by version, also by the instance that delivered."""
        if not (self.can_read(harness) or trait(harness, "edits_move_versions")):
            pytest.skip("it reads neither values nor versions of others")
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        harness.sink.read_back(place)
        harness.write(place, OTHER)
        held = harness.sink.read_back(place)
        assert held.secret == (Secret(OTHER) if self.can_read(harness) else None)
        assert held.version != receipt.version or not trait(harness, "edits_move_versions")

    def test_what_a_person_changed_is_written_again(self, harness: Harness) -> None:
        """A place that says it holds this mint but holds another value is written all the same, seen or unseen."""
        place = self.place(harness)
        harness.sink.deliver(place, mint())
        harness.write(place, OTHER)
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_nothing_there_is_not_found(self, harness: Harness) -> None:
        """A place that holds nothing says so, and reading makes nothing."""
        harness.sink.deliver(self.place(harness, name="somebody else"), mint(OTHER))
        place = self.place(harness)
        self.assert_nothing(harness, place)
        assert harness.read(place) is None

    def test_what_a_person_removed_is_not_found(self, harness: Harness) -> None:
        """After somebody removed it, the place holds nothing, and delivering the same mint writes it again."""
        place = self.place(harness)
        harness.sink.deliver(place, mint())
        harness.sink.read_back(place)
        offered(harness, "remove", place)
        self.assert_nothing(harness, place)
        harness.sink.deliver(place, mint())
        assert harness.read(place) == CANARY

    def test_threads_share_a_sink(self, harness: Harness) -> None:
        """Deliveries at the same time to many places all arrive."""
        places = [self.place(harness, name=f"svc-{number}") for number in range(24)]
        with ThreadPoolExecutor(8) as pool:
            receipts = list(pool.map(lambda n: harness.sink.deliver(places[n], mint(f"{CANARY}{n}", n)), range(24)))
            held = list(pool.map(harness.sink.read_back, places))
        assert [harness.read(place) for place in places] == [f"{CANARY}{n}" for n in range(24)]
        for n, place in enumerate(places):
            assert receipts[n].location == place.location
            self.assert_delivered(harness, held[n], mint(f"{CANARY}{n}", n), receipts[n])

    def test_two_writers_leave_one_whole_secret(self, harness: Harness) -> None:
        """Of two mints delivered to one place at once, one is there afterwards, whole, and the neighbour too."""
        place = self.place(harness)
        harness.plant_neighbour(place)
        for number in range(ROUNDS):
            mints = [mint(CANARY + "a" * 600, 2 * number), mint(OTHER + "b" * 30, 2 * number + 1)]
            with ThreadPoolExecutor(2) as pool:
                barrier = Barrier(2)
                done = [pool.submit(self._deliver_at_once, harness, barrier, place, made) for made in mints]
            assert any(future.result() for future in done)
            assert harness.read(place) in [made.secret.reveal() for made in mints]
            assert harness.neighbour_is_whole(place)

    def test_keys_of_one_object_do_not_lose_each_other(self, harness: Harness) -> None:
        """Two keys of one object, written at the same time again and again, both hold what was delivered last."""
        sibling = trait(harness, "sibling")
        if sibling is None:
            lacking(harness, "sibling")
        places = [self.place(harness), self.resolved(harness, sibling)]
        for number in range(ROUNDS):
            mints = [mint(f"{CANARY}{number}", 2 * number), mint(f"{OTHER}{number}", 2 * number + 1)]
            with ThreadPoolExecutor(2) as pool:
                barrier = Barrier(2)
                pairs = list(zip(places, mints, strict=True))
                done = [pool.submit(self._deliver_at_once, harness, barrier, place, made) for place, made in pairs]
            for future, (place, made) in zip(done, pairs, strict=True):
                if not future.result():
                    harness.sink.deliver(place, made)
            assert [harness.read(place) for place in places] == [made.secret.reveal() for made in mints]

    def test_closing_twice_is_safe(self, harness: Harness) -> None:
        """A sink can be closed before its first call, after its last, and again."""
        unused, used = offered(harness, "rebuilt"), offered(harness, "rebuilt")
        used.deliver(self.place(harness), mint())
        for sink in (unused, unused, used, used):
            sink.close()
        assert harness.read(self.place(harness)) == CANARY

    @staticmethod
    def _deliver_at_once(harness: Harness, barrier: Barrier, place: Place, made: Mint) -> Receipt | None:
        barrier.wait(30)
        try:
            return harness.sink.deliver(place, made)
        except (Temporary, OutcomeUnknown):
            return None  # it gave way to the other, which is its right
