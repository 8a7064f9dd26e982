"""The table of ids that a listing met."""

from rotator.providers.astro.seen import SeenIds

IDS = [f"cl{number}" for number in range(100_000)]


def test_each_id_is_taken_once() -> None:
    """However far the table grows, an id is new the first time and never again."""
    seen = SeenIds()
    seen.begin_pass()
    assert all(seen.see(identifier, take=True) for identifier in IDS)
    assert not any(seen.see(identifier, take=True) for identifier in IDS)
    assert len(seen) == seen.in_pass == len(IDS)


def test_a_pass_counts_distinct_ids_afresh() -> None:
    """What an earlier pass met counts again, and what it took stays taken, for more passes than a stamp can name."""
    seen = SeenIds()
    taken = []
    for _ in range(300):
        seen.begin_pass()
        taken += [identifier for identifier in ("a", "b", "b") if seen.see(identifier, take=True)]
        assert seen.in_pass == 2
    assert taken == ["a", "b"]


def test_what_is_only_counted_may_be_taken_later() -> None:
    """A token that one listing did not want comes out of the next one."""
    seen = SeenIds()
    seen.begin_pass()
    assert not seen.see("a", take=False)
    seen.begin_pass()
    assert seen.see("a", take=True)
    assert not seen.see("a", take=False)
    assert not seen.see("a", take=True)


def test_an_id_costs_eleven_to_seventeen_bytes() -> None:
    """Eleven when the size is known beforehand, as it is in a listing; half as many again right after growing."""
    known, grown = SeenIds(), SeenIds()
    known.expect(len(IDS))
    known.begin_pass()
    grown.begin_pass()
    for count, identifier in enumerate(IDS, 1):
        known.see(identifier, take=True)
        grown.see(identifier, take=True)
        assert count < 2000 or grown.bytes_held / count < 17
    assert known.bytes_held / len(IDS) < 12


def test_a_lie_about_the_size_takes_no_memory() -> None:
    """An API that speaks of a billion billion tokens gets no table for them."""
    seen = SeenIds()
    seen.expect(10**18)
    assert seen.bytes_held < 64 * 1024 * 1024
