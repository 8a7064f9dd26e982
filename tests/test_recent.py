"""What many ask for at once is made once, and never serves longer than a moment, nor when it failed."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from rotator.errors import Permanent, Temporary
from rotator.recent import MOMENT_S, Recent


class Maker:
    """Makes numbers, or fails as it is told."""

    def __init__(self, *failures: Exception | None) -> None:
        self.failures = list(failures)
        self.made = 0

    def __call__(self) -> int:
        self.made += 1
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        return self.made


def test_a_proof_serves_for_a_moment_and_then_no_more() -> None:
    """Within a second the same is returned, after it a new one is made, and keys know nothing of each other."""
    now = [100.0]
    recent, make = Recent[int](lambda: now[0]), Maker()
    assert [recent.get("a", make), recent.get("a", make), recent.get("b", make)] == [1, 1, 2]
    now[0] += MOMENT_S * 0.99
    assert recent.get("a", make) == 1
    now[0] += MOMENT_S * 0.01
    assert recent.get("a", make) == 3


@pytest.mark.parametrize("failure", [Permanent("no"), Temporary("not now"), OSError(28, "full"), ZeroDivisionError()])
def test_a_failure_serves_nobody_who_comes_later(failure: Exception) -> None:
    """After a failure the next one tries itself; an older success does not count any more either."""
    now = [100.0]
    recent, make = Recent[int](lambda: now[0]), Maker(None, failure)
    assert recent.get("a", make) == 1
    now[0] += MOMENT_S
    with pytest.raises(type(failure)):
        recent.get("a", make)
    assert recent.get("a", make) == 3


def at_once(recent: Recent[int], make: Callable[[], int], threads: int) -> list["Future[int]"]:
    """Let the first thread begin to make, then let the others ask, then let it end."""
    begun, go_on = threading.Event(), threading.Event()

    def slowly() -> int:
        begun.set()
        go_on.wait(10)
        return make()

    with ThreadPoolExecutor(threads) as pool:
        futures = [pool.submit(recent.get, "a", slowly)]
        begun.wait(10)
        futures += [pool.submit(recent.get, "a", make) for _ in range(threads - 1)]
        threading.Event().wait(0.1)  # they only have to read the clock and reach the lock
        go_on.set()
    return futures


def test_many_threads_share_one_success() -> None:
    """Whoever asks while it is being made waits for it instead of making another."""
    make = Maker()
    assert [future.result() for future in at_once(Recent(), make, 8)] == [1] * 8
    assert make.made == 1


def test_who_waited_for_a_failure_hears_of_it() -> None:
    """A disk that hangs is not asked once by each of those who waited: all fail together, and later ones try anew."""
    recent, make = Recent[int](), Maker(Temporary("the disk hangs"))
    assert {str(future.exception()) for future in at_once(recent, make, 8)} == {"the disk hangs"}
    assert make.made == 1
    assert recent.get("a", make) == 2


def test_memory_is_bounded() -> None:
    """Keys of the past are forgotten."""
    now = [0.0]
    recent = Recent[int](lambda: now[0])
    for key in range(10_000):
        now[0] += MOMENT_S / 10
        recent.get(key, Maker())
    assert len(recent._entries) < 1000
