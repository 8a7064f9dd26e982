"""A listing that is complete although its order moves: page by page, checked against the API's own count.

`provider` hands in how to fetch a page. A pass that met another number of tokens than the API says there are, or during
which that number moved, is repeated; only what is new comes out of it. Memory stays flat: a few pages, and `SeenIds`.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic

from rotator.errors import Temporary
from rotator.providers.astro.seen import SeenIds
from rotator.providers.astro.wire import Page, Row

PASSES = 4
AHEAD = 4  # pages on their way; at 100 ms a page this saturates the limit on reads

Fetch = Callable[[int, threading.Event], Page[Row]]


def whole(fetch: Fetch[Row], seen: SeenIds) -> Iterator[Row]:
    """Yield every wanted row once.

    Args:
        fetch: Returns the page that begins at an offset; stops trying once the event is set. Called from threads.
        seen: What came already; several listings of one organization share it.

    Raises:
        Temporary: The listing moved in each of `PASSES` passes; nothing may be concluded from what came.
    """
    for _ in range(PASSES):
        seen.begin_pass()
        totals: set[int] = set()
        for page in pages(fetch):
            if not totals:
                seen.expect(page.total)
            totals.add(page.total)
            for identifier, row in zip(page.ids, page.rows, strict=True):
                if seen.see(identifier, take=row is not None) and row is not None:
                    yield row
        if totals == {seen.in_pass}:
            return
    raise Temporary(f"list: the list kept moving through {PASSES} passes; nothing was concluded from it")


def pages(fetch: Fetch[Row]) -> Iterator[Page[Row]]:
    """Yield the pages of one pass in order; the ones ahead are fetched meanwhile.

    The next offset is where the page that came has ended, so a server that caps pages lower than asked is no error.
    """
    abandoned = threading.Event()
    first = fetch(0, abandoned)
    yield first
    offset, total, step = len(first.ids), first.total, len(first.ids)
    if not step or offset >= total:
        return
    ahead = _Ahead(fetch, abandoned, step, AHEAD if total > 2 * step else 1)
    try:
        while offset < total:
            page = ahead.page(offset, total)
            yield page
            if not page.ids:
                return
            offset, total = offset + len(page.ids), page.total
    finally:
        ahead.close()


class _Ahead(Generic[Row]):
    """Fetches pages before they are asked for, `depth` at most.

    Args:
        step: How long pages are as a rule; where one is shorter, what was fetched ahead is dropped.
    """

    def __init__(self, fetch: Fetch[Row], abandoned: threading.Event, step: int, depth: int) -> None:
        self._fetch = fetch
        self._abandoned = abandoned
        self._step = step
        self._depth = depth
        self._pool = ThreadPoolExecutor(depth, thread_name_prefix="astro-list")
        self._queue: deque[tuple[int, Future[Page[Row]]]] = deque()

    def page(self, offset: int, total: int) -> Page[Row]:
        """Return the page at an offset."""
        if self._queue and self._queue[0][0] != offset:
            self._drop()
        coming = self._queue[-1][0] + self._step if self._queue else offset
        while len(self._queue) < self._depth and coming < total:
            self._queue.append((coming, self._pool.submit(self._fetch, coming, self._abandoned)))
            coming += self._step
        return self._queue.popleft()[1].result()

    def close(self) -> None:
        """Let go of what was fetched ahead; a request under way ends by itself and is not repeated."""
        self._abandoned.set()
        self._drop()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _drop(self) -> None:
        for _, future in self._queue:
            future.cancel()
        self._queue.clear()
