"""A listing stays complete while its order moves, and never pretends to be."""

import threading
from collections.abc import Callable

import pytest

from rotator.errors import Permanent, Temporary
from rotator.providers.astro.listing import AHEAD, PASSES, pages, whole
from rotator.providers.astro.seen import SeenIds
from rotator.providers.astro.wire import Page


class Server:
    """A list of ids that changes after some requests.

    Args:
        ids: At first.
        cap: How many ids a page holds at most.
        changes: What to do to the ids before the nth request.
    """

    def __init__(self, ids: list[str], cap: int = 10, changes: dict[int, Callable[[list[str]], object]] | None = None):
        self.ids = ids
        self.cap = cap
        self.changes = changes or {}
        self.asked: list[int] = []
        self.threads: set[str] = set()
        self.lie = 0
        self._lock = threading.Lock()

    def fetch(self, offset: int, abandoned: threading.Event) -> Page[str]:
        """Return a page; some ids are not wanted."""
        with self._lock:
            self.changes.get(len(self.asked), lambda ids: None)(self.ids)
            self.asked.append(offset)
            self.threads.add(threading.current_thread().name)
            ids = self.ids[offset : offset + self.cap]
            return Page(len(self.ids) + self.lie, ids, [None if i.startswith("agent") else i for i in ids])


def ids(count: int) -> list[str]:
    return [f"t{number:05d}" for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 20, 21, 30, 99, 100, 101])
def test_every_id_comes_once_in_order(count: int) -> None:
    """Whether the last page is full, short or the only one; and no page is asked for twice."""
    server = Server(ids(count))
    assert list(whole(server.fetch, SeenIds())) == ids(count)
    assert sorted(server.asked) == list(range(0, max(count, 1), 10))


def test_a_server_may_cap_pages_lower_than_asked() -> None:
    """The page that came decides where the next one begins, also when its length changes midway."""
    server = Server(ids(100), changes={3: lambda _: setattr(server, "cap", 7)})
    assert list(whole(server.fetch, SeenIds())) == ids(100)


def test_what_is_not_wanted_only_counts() -> None:
    """A listing with tokens that nobody wants is complete without them."""
    assert list(whole(Server(["agent", "a", "b"]).fetch, SeenIds())) == ["a", "b"]


def test_a_token_deleted_between_pages_hides_no_other() -> None:
    """Everything behind it moved up by one; another pass finds what slipped through, and repeats nothing."""
    server = Server(ids(50), changes={2: lambda rows: rows.remove("t00003")})
    found = list(whole(server.fetch, SeenIds()))
    assert set(found) >= set(ids(50)) - {"t00003"}
    assert len(found) == len(set(found))
    assert len(server.asked) > 5


def test_a_token_created_between_pages_comes_once_too() -> None:
    """At the front it pushes the others back, which shows some twice: they still come once."""
    server = Server(ids(50), changes={2: lambda rows: rows.insert(0, "new")})
    found = list(whole(server.fetch, SeenIds()))
    assert sorted(found) == sorted([*ids(50), "new"])


def test_a_swap_that_leaves_the_count_alone_is_noticed() -> None:
    """An order that moves without sorting shows one token twice and another never; another pass follows."""
    server = Server(ids(40), changes={2: lambda rows: rows.insert(0, rows.pop())})
    found = list(whole(server.fetch, SeenIds()))
    assert sorted(found) == ids(40)


@pytest.mark.parametrize("lie", [-1, 1, 1000])
def test_a_count_that_is_never_met_ends_in_an_error(lie: int) -> None:
    """After four passes nothing may be concluded; what came so far came once."""
    server = Server(ids(30))
    server.lie = lie
    found = []
    with pytest.raises(Temporary, match="kept moving"):
        found.extend(whole(server.fetch, SeenIds()))
    assert server.asked.count(0) == PASSES


def test_a_list_that_never_rests_ends_in_an_error() -> None:
    """A token more with each request is a list that cannot be known."""
    server = Server(ids(30), changes={nth: lambda rows: rows.append(f"x{len(rows)}") for nth in range(1000)})
    with pytest.raises(Temporary):
        list(whole(server.fetch, SeenIds()))


def test_several_listings_share_what_came() -> None:
    """A token of two listings comes out of the first that wants it."""
    seen = SeenIds()
    assert list(whole(Server(["a", "agent1"]).fetch, seen)) == ["a"]
    assert list(whole(Server(["a", "b", "agent1"]).fetch, seen)) == ["b"]


def test_pages_are_fetched_ahead_but_not_without_bound() -> None:
    """While a page is looked at, the next few are under way, no more than that."""
    server = Server(ids(1000))
    reader = pages(server.fetch)
    first = [next(reader), next(reader)]
    assert [page.ids[0] for page in first] == ["t00000", "t00010"]
    assert len(server.asked) <= 1 + AHEAD
    reader.close()
    assert len(server.asked) <= 1 + AHEAD


def test_a_short_list_is_read_without_looking_ahead() -> None:
    """Two pages are no reason to start several threads."""
    server = Server(ids(20))
    assert list(whole(server.fetch, SeenIds())) == ids(20)
    assert len(server.threads) == 2


def test_closing_the_generator_tells_the_calls_under_way() -> None:
    """Whoever stops listening ends the retries of pages that nobody wants any more."""
    told: list[threading.Event] = []
    server = Server(ids(100))

    def fetch(offset: int, abandoned: threading.Event) -> Page[str]:
        told.append(abandoned)
        return server.fetch(offset, abandoned)

    rows = whole(fetch, SeenIds())
    taken = [next(rows) for _ in range(15)]
    assert len(taken) == 15
    assert not told[0].is_set()
    rows.close()  # type: ignore[attr-defined]
    assert told[0].is_set()


def test_an_error_of_a_page_ahead_is_the_listings_error() -> None:
    """It comes out when its page is due, as itself."""
    server = Server(ids(100))

    def fetch(offset: int, abandoned: threading.Event) -> Page[str]:
        if offset == 30:
            raise Permanent("page four")
        return server.fetch(offset, abandoned)

    found: list[str] = []
    with pytest.raises(Permanent, match="page four"):
        found.extend(row for row in whole(fetch, SeenIds()))
