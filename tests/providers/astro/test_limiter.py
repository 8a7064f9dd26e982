"""Pacing against the ways in which a server may count."""

import itertools
import random
import threading
from collections import deque
from collections.abc import Callable
from datetime import timedelta

import pytest

from rotator.clock import SystemClock
from rotator.errors import Throttled
from rotator.providers.astro.limiter import PATIENCE, Limiter, Limiters
from rotator.secret import Secret
from tests.providers.astro.fakes import VirtualClock, jwt

Server = Callable[[list[float], float], bool]
Jitter = Callable[[list[float]], list[float]]


def bucket(times: list[float], rate: float) -> bool:
    level, last = rate, times[0]
    for at in times:
        level, last = min(rate, level + (at - last) * rate), at
        if level < 1:
            return False
        level -= 1
    return True


def fixed_window(times: list[float], rate: float) -> bool:
    seconds = [int(at) for at in times]
    return max(seconds.count(second) for second in set(seconds)) <= rate


def sliding_window(times: list[float], rate: float) -> bool:
    window: deque[float] = deque()
    for at in times:
        while window and window[0] <= at - 1:
            window.popleft()
        window.append(at)
        if len(window) > rate:
            return False
    return True


def shaken(times: list[float]) -> list[float]:
    dice = random.Random(1)
    return [at + dice.uniform(-0.02, 0.02) for at in times]


def squeezed(times: list[float]) -> list[float]:
    """Move whole runs of calls towards each other, as far as the jitter can."""
    return [at + (0.02 if index // 10 % 2 == 0 else -0.02) for index, at in enumerate(times)]


@pytest.mark.parametrize("jitter", [shaken, squeezed])
@pytest.mark.parametrize("server", [bucket, fixed_window, sliding_window])
@pytest.mark.parametrize(("method", "rate"), [("GET", 25), ("POST", 10), ("DELETE", 5), ("POST", 100)])
def test_pacing_stays_below_the_limit_and_uses_it(method: str, rate: float, server: Server, jitter: Jitter) -> None:
    """A thousand calls with 20 ms of jitter either way are never too many in a second, and use 95 % of the limit."""
    clock = VirtualClock()
    limiter = Limiter({method: rate}, clock)
    times = []
    for _ in range(1000):
        limiter.wait(method)
        times.append(clock.time + 1)
    assert server(sorted(jitter(times)), rate)
    assert 999 / (times[-1] - times[0]) >= 0.95 * rate


def test_methods_are_paced_apart() -> None:
    """A GET does not wait for the turns of POSTs, and a method without a rate for nothing."""
    clock = VirtualClock()
    limiter = Limiter({"POST": 1, "GET": 0}, clock)
    for method in ("POST", "GET", "GET", "DELETE"):
        limiter.wait(method)
    assert clock.time == 0
    limiter.wait("POST")
    assert clock.time > 1


def test_threads_share_the_beat() -> None:
    """However many threads call, no two turns are closer than the beat."""

    class OwnClock(VirtualClock):
        """Time that each thread has to itself, so that it is told its turn by how long it sleeps."""

        def __init__(self) -> None:
            super().__init__()
            self._own = threading.local()
            self.turns: list[float] = []

        def monotonic(self) -> float:
            return float(getattr(self._own, "time", 0.0))

        def sleep(self, duration: timedelta, *, through: bool = False) -> None:
            self._own.time = self.monotonic() + duration.total_seconds()
            self.turns.append(self._own.time)

    clock = OwnClock()
    limiter = Limiter({"GET": 20}, clock)
    threads = [threading.Thread(target=lambda: [limiter.wait("GET") for _ in range(25)]) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    turns = sorted([0.0, *clock.turns])
    assert len(turns) == 200
    assert min(later - earlier for earlier, later in itertools.pairwise(turns)) > 1 / 20


def test_told_to_stop_nobody_hurries() -> None:
    """Those who wait for their turns go on in the beat, not all at once; who would wait for long is sent away."""
    stop = threading.Event()
    stop.set()
    clock = SystemClock(stop)
    limiter, slow = Limiter({"POST": 25}, clock), Limiter({"POST": 0.1}, clock)
    began_s = clock.monotonic()
    for _ in range(6):
        limiter.wait("POST")
    assert clock.monotonic() - began_s >= 5 / 25
    slow.wait("POST")
    with pytest.raises(Throttled, match="our next turn is 10 s away") as caught:
        slow.wait("POST")
    assert caught.value.retry_after is not None


def test_a_429_slows_every_method_down() -> None:
    """After slow_down nobody's turn comes before the pause is over, and the turns after it are paced as ever."""
    clock = VirtualClock()
    limiter = Limiter({"POST": 10}, clock)
    limiter.wait("POST")
    limiter.slow_down(timedelta(seconds=3))
    limiter.slow_down(timedelta(seconds=1))
    limiter.wait("GET")
    assert 3 <= clock.time < 3.001
    before = clock.time
    limiter.wait("POST")
    limiter.wait("POST")
    assert clock.time >= before + 0.1


def test_who_sleeps_while_somebody_meets_a_429_waits_again() -> None:
    """A turn that was granted before the pause does not break it."""
    met: list[Limiter] = []

    class Interrupted(VirtualClock):
        """The first sleeper wakes after somebody else met a 429."""

        def sleep(self, duration: timedelta, *, through: bool = False) -> None:
            super().sleep(duration, through=through)
            if met:
                met.pop().slow_down(timedelta(seconds=5))

    clock = Interrupted()
    limiter = Limiter({"POST": 1}, clock)
    met.append(limiter)
    limiter.wait("POST")
    limiter.wait("POST")
    assert clock.time >= 6


def test_nobody_waits_longer_than_a_lease_lasts() -> None:
    """A pause beyond the patience is an error at once, without a call and without taking a turn."""
    clock = VirtualClock()
    limiter = Limiter({"POST": 10}, clock)
    limiter.slow_down(PATIENCE * 2)
    with pytest.raises(Throttled) as caught:
        limiter.wait("POST")
    assert caught.value.retry_after == PATIENCE * 2
    assert clock.time == 0


def test_credentials_are_paced_apart_and_known_by_their_token() -> None:
    """One token has one beat however often it was rotated; others have their own; none is kept as itself."""
    limiters = Limiters({"GET": 25}, VirtualClock())
    first = limiters.of(jwt({"apiTokenId": "t1", "iat": 1}))
    assert limiters.of(jwt({"apiTokenId": "t1", "iat": 2})) is first
    assert limiters.of(jwt({"apiTokenId": "t2"})) is not first
    opaque = limiters.of(Secret("canary-opaque"))
    assert limiters.of(Secret("canary-opaque")) is opaque
    assert "canary-opaque" not in repr(vars(limiters))


def test_idle_credentials_are_forgotten() -> None:
    """Verifying many tokens leaves a bounded number of beats behind, but none that still holds somebody back."""
    clock = VirtualClock()
    limiters = Limiters({"GET": 25}, clock)
    paused = limiters.of(Secret("paused"))
    paused.slow_down(timedelta(seconds=50))
    for number in range(1000):
        limiters.of(Secret(f"token-{number}")).wait("GET")
    assert limiters.of(Secret("paused")) is paused
    clock.sleep(timedelta(minutes=1))
    for number in range(1000):
        limiters.of(Secret(f"token-{number}")).wait("GET")
        clock.sleep(timedelta(seconds=1))
    assert len(limiters) <= 257


def test_the_time_lost_to_pacing_is_counted() -> None:
    """waited_s adds up over all credentials, for the metric."""
    clock = VirtualClock()
    limiters = Limiters({"POST": 1}, clock)
    for _ in range(3):
        limiters.of(Secret("a")).wait("POST")
    assert limiters.waited_s == pytest.approx(2 / 0.96, abs=0.01)
