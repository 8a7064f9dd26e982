"""Pacing: one even beat per credential and method, a little below the API's limit, shared by all threads.

Even spacing, without bursts, keeps us under the limit whether the server counts a bucket, a fixed or a sliding second:
at `SHARE` of the limit, 1.04 seconds (a second, and 20 ms of jitter at each end) never hold more than `limit` turns.
"""

import hashlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from datetime import timedelta

from rotator.claims import claims
from rotator.errors import Throttled
from rotator.ports import Clock
from rotator.secret import Secret

SHARE = 0.96  # of the documented limit
PATIENCE = timedelta(minutes=1)  # nobody holds a lock or a lease for longer than this only to wait for a turn
_BEAT_S = 5.0  # a turn that is no further away is waited for also when we are to stop: all at once would be a storm
_EARLY_S = 0.05  # a sleep that ends sooner than this before its time was interrupted
_KEPT = 256  # limiters of credentials that nobody used lately


class Limiter:
    """Grants turns to the callers of one credential.

    Args:
        rate: Requests per second by HTTP method; 0 or absent means unlimited.
        clock: Measures and waits.
    """

    def __init__(self, rate: Mapping[str, float], clock: Clock) -> None:
        self._spacing = {method: 1 / (limit * SHARE) for method, limit in rate.items() if limit}
        self._clock = clock
        self._lock = threading.Lock()
        self._next: dict[str, float] = {}
        self._resume = 0.0
        self.waited_s = 0.0

    def wait(self, method: str) -> None:
        """Block until it is this caller's turn.

        Raises:
            Throttled: The turn would come later than `PATIENCE` allows, or later than we go on when we are to stop.
        """
        delay = self._turn(method)
        while delay > 0:
            due = self._clock.monotonic() + delay
            is_beat = delay <= _BEAT_S and not self.paused()
            self._clock.sleep(timedelta(seconds=delay, microseconds=1), through=is_beat)
            left = due - self._clock.monotonic()
            if left > _EARLY_S:
                raise Throttled(f"we are to stop, and our next turn is {round(left)} s away", timedelta(seconds=left))
            if not self.paused():
                return
            delay = self._turn(method)  # somebody met a 429 while we slept: a new turn

    def slow_down(self, pause: timedelta) -> None:
        """Hold everybody back: the server said that we are too fast."""
        with self._lock:
            self._resume = max(self._resume, self._clock.monotonic() + pause.total_seconds())

    def paused(self) -> bool:
        """Whether a pause that the server asked for still holds."""
        with self._lock:
            return self._clock.monotonic() < self._resume

    def is_idle(self) -> bool:
        """Whether forgetting it would change nothing."""
        with self._lock:
            return self._clock.monotonic() >= max([self._resume, *self._next.values()])

    def _turn(self, method: str) -> float:
        """Take the next turn and return how many seconds it is away."""
        with self._lock:
            now = self._clock.monotonic()
            turn = max(now, self._next.get(method, now), self._resume)
            delay = turn - now
            if delay > PATIENCE.total_seconds():
                pause = timedelta(seconds=delay)
                raise Throttled(f"the API asked us to pause; {round(delay)} s of it are left", pause)
            if method in self._spacing:
                self._next[method] = turn + self._spacing[method]
            self.waited_s += delay
            return delay


class Limiters:
    """The limiters of all credentials, ours and those that are verified.

    They are found by the token id in the credential, otherwise by a digest that is keyed anew in each process; the
    credential itself is kept nowhere.

    Args:
        rate: As for `Limiter`.
        clock: Likewise.
    """

    def __init__(self, rate: Mapping[str, float], clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Limiter] = OrderedDict()
        self._forgotten_s = 0.0

    def __len__(self) -> int:
        return len(self._known)

    @property
    def waited_s(self) -> float:
        """How long all callers together have waited for their turns, in seconds."""
        with self._lock:
            return self._forgotten_s + sum(limiter.waited_s for limiter in self._known.values())

    def of(self, secret: Secret) -> Limiter:
        """Return the limiter of a credential."""
        key = self._name(secret)
        with self._lock:
            limiter = self._known.get(key)
            if limiter is None:
                limiter = self._known[key] = Limiter(self._rate, self._clock)
            self._known.move_to_end(key)
            while len(self._known) > _KEPT and next(iter(self._known.values())).is_idle():
                self._forgotten_s += self._known.popitem(last=False)[1].waited_s
        return limiter

    def _name(self, secret: Secret) -> str:
        known = claims(secret)
        if known is not None and known.token_id:
            return known.token_id
        return hashlib.blake2b(secret.reveal().encode(errors="replace"), key=self._key, digest_size=16).hexdigest()
