"""Rate limits per bearer and method, as token buckets; the edge asks before anything else happens.

Source: fact sheet 3.2: POST 10/s, DELETE 5/s, GET 25/s for each API token.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

RATES: Mapping[str, float] = {"GET": 25.0, "POST": 10.0, "DELETE": 5.0}


@dataclass(slots=True)
class _Bucket:
    left: float
    at_s: float


class Limits:
    """The buckets of every bearer.

    Args:
        monotonic: Seconds of a clock that never goes back.
        rates: Requests per second by method, also the burst; a method that is missing has no limit.
    """

    def __init__(self, monotonic: Callable[[], float], rates: Mapping[str, float] = RATES) -> None:
        self._monotonic = monotonic
        self._rates = rates
        self._buckets: dict[tuple[str, str], _Bucket] = {}

    def allows(self, token_id: str, method: str) -> bool:
        """Return whether the request may pass, and count it if so."""
        rate = self._rates.get(method)
        if rate is None:
            return True
        now_s = self._monotonic()
        bucket = self._buckets.setdefault((token_id, method), _Bucket(rate, now_s))
        bucket.left = min(rate, bucket.left + (now_s - bucket.at_s) * rate)
        bucket.at_s = now_s
        if bucket.left < 1:
            return False
        bucket.left -= 1
        return True
