"""What is done beside the sweeps."""

import threading
from datetime import timedelta

from rotator.daemon.repeating import Repeating
from rotator.errors import Temporary

SOON = timedelta(milliseconds=5)


def test_failures_do_not_end_it() -> None:
    """An error of ours is somebody else's to tell; any other is told here; both times it goes on."""
    done, crashes = [], []
    enough = threading.Event()

    def act() -> None:
        done.append(len(done))
        if len(done) == 1:
            raise Temporary("not now")
        if len(done) == 2:
            raise KeyError("a bug")
        enough.set()

    repeating = Repeating("beside", act, SOON, crashes.append)
    repeating.start()
    assert enough.wait(30)
    repeating.end()
    repeating.join()
    assert crashes == ["KeyError"]


def test_it_ends_after_what_is_under_way() -> None:
    """Whoever joins knows that nothing runs any more."""
    entered, go_on, done = threading.Event(), threading.Event(), []

    def act() -> None:
        entered.set()
        go_on.wait(30)
        done.append(1)

    repeating = Repeating("beside", act, SOON, done.append)
    repeating.start()
    assert entered.wait(30)
    repeating.end()
    go_on.set()
    repeating.join()
    assert done == [1]
