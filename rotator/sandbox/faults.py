"""What can go wrong between a client and the API, and when; the server asks once for each call.

Whether a call misbehaves depends on the seed, the operation, the token and how many such calls came before it, never on
how calls of several threads interleave: the same seed gives each token the same fate.
"""

import enum
import random
import threading
import tomllib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

READS = frozenset({"list", "get", "deployment_get", "objects_list", "object_get"})
WRITES = frozenset({"create", "update", "delete", "rotate", "roles"})
ENVIRONMENT_WRITES = frozenset(
    {"deployment_update", "object_create", "object_update", "object_delete", "object_exclude"}
)
OPERATIONS = READS | WRITES | ENVIRONMENT_WRITES
_SETTINGS = frozenset({"late_by_s", "hang_s", "latency_s", "read_share"})


class Fault(enum.StrEnum):
    """One way to misbehave, and whether the call takes effect."""

    THROTTLE_SECONDS = "throttle_seconds"  # 429 with Retry-After in seconds; no effect
    THROTTLE_DATE = "throttle_date"  # 429 with Retry-After as a date; no effect
    THROTTLE_BARE = "throttle_bare"  # 429 without Retry-After; no effect
    ERROR_500 = "error_500"  # the application's JSON; no effect
    ERROR_503_TEXT = "error_503_text"  # the edge's text; no effect
    ERROR_504_HTML = "error_504_html"  # a load balancer's page; no effect
    ERROR_502_AFTER = "error_502_after"  # the edge's text, after the effect
    HTML_200 = "html_200"  # a captive portal's page; no effect
    RESET_BEFORE = "reset_before"  # the connection is reset; no effect
    RESET_AFTER = "reset_after"  # the connection is reset after the effect
    TRUNCATED = "truncated"  # half of the body, after the effect
    INVALID_JSON = "invalid_json"  # the body lacks its last character, after the effect
    NO_TOKEN = "no_token"
    HANG_BEFORE = "hang_before"  # silence, then a reset; no effect
    HANG_AFTER = "hang_after"  # silence, then a reset, after the effect
    LATE = "late"  # reset at once; the effect follows `late_by_s` later
    LATENCY = "latency"  # right, but `latency_s` later


# Per write, in the order of `Fault`: each 0.3 to 0.8 per cent.
_DEFAULT_RATES = dict.fromkeys(Fault, 0.004) | {
    Fault.THROTTLE_SECONDS: 0.008,
    Fault.ERROR_500: 0.006,
    Fault.ERROR_503_TEXT: 0.006,
    Fault.RESET_AFTER: 0.005,
    Fault.LATENCY: 0.008,
    Fault.HANG_BEFORE: 0.003,
    Fault.HANG_AFTER: 0.003,
}


@dataclass(frozen=True, slots=True)
class Faults:
    """How often which fault happens.

    Attributes:
        rates: The probability of each fault per write, 0 to 1; together at most 1.
        seed: Decides which calls.
        late_by_s: How long after its request a LATE call takes effect.
        hang_s: How long a hung call is silent before its connection is reset.
        latency_s: How long a LATENCY call takes.
        read_share: The probabilities of reads (list, get), as a fraction of those of writes.

    Raises:
        ValueError: A number is out of its range; the message names it.
    """

    rates: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0
    late_by_s: float = 1.0
    hang_s: float = 60.0
    latency_s: float = 1.0
    read_share: float = 1.0

    def __post_init__(self) -> None:
        for fault, rate in self.rates.items():
            if not 0 <= rate <= 1:
                raise ValueError(f"rates.{fault}: {rate} is not between 0 and 1")
        if sum(self.rates.values()) > 1 + 1e-9:
            raise ValueError("rates: together they are more than 1")
        for name in ("late_by_s", "hang_s", "latency_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}: must not be negative")
        if not 0 <= self.read_share <= 1:
            raise ValueError(f"read_share: {self.read_share} is not between 0 and 1")

    @classmethod
    def preset(cls, name: str, seed: int = 0) -> Self:
        """Return the faults named "none" or "default".

        Raises:
            ValueError: There is no such preset.
        """
        if name == "none":
            return cls(seed=seed)
        if name == "default":
            return cls(rates=dict(_DEFAULT_RATES), seed=seed, read_share=1 / 3)
        raise ValueError(f'{name!r} is no preset; there are "none" and "default"')

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Return the faults that a TOML file describes: the attributes as keys, `rates` as a table.

        Raises:
            ValueError: It is not TOML, or a key is unknown or has a bad value; the message names it.
            OSError: It cannot be read.
        """
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        rates = table.pop("rates", {})
        if not isinstance(rates, dict):
            raise ValueError("rates: must be a table")
        known = {fault.value: fault for fault in Fault}
        for key in rates:
            if key not in known:
                raise ValueError(f"rates.{key}: no such fault")
        seed = table.pop("seed", 0)
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ValueError("seed: must be a whole number")
        for key in table:
            if key not in _SETTINGS:
                raise ValueError(f"{key}: no such key")
        chances = {known[key]: _number(f"rates.{key}", rate) for key, rate in rates.items()}
        return cls(chances, seed, **{key: _number(key, given) for key, given in table.items()})


def _number(key: str, given: object) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float):
        raise ValueError(f"{key}: must be a number")
    return float(given)


class FaultPlan:
    """Decides the fate of each call; scripted faults come first.

    Args:
        faults: For the calls nothing was scripted for.
    """

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._guard = threading.Lock()
        self._scripted: list[tuple[str, Fault, str | None]] = []
        self._seen: Counter[tuple[str, str]] = Counter()

    def script(self, operation: str, fault: Fault, token_id: str | None = None) -> None:
        """Give the next call of an operation, on a token or on any, exactly this fault.

        Raises:
            ValueError: There is no such operation.
        """
        if operation not in OPERATIONS:
            raise ValueError(f"{operation!r} is no operation; there are {', '.join(sorted(OPERATIONS))}")
        with self._guard:
            self._scripted.append((operation, Fault(fault), token_id))

    def next(self, operation: str, token_id: str) -> Fault | None:
        """Return what goes wrong with this call, None for nothing."""
        if operation not in OPERATIONS:
            return None
        with self._guard:
            for row in self._scripted:
                if row[0] == operation and row[2] in (None, token_id):
                    self._scripted.remove(row)
                    return row[1]
            self._seen[operation, token_id] += 1
            return self._drawn(operation, token_id, self._seen[operation, token_id])

    def _drawn(self, operation: str, token_id: str, nth: int) -> Fault | None:
        if not self.faults.rates:
            return None
        share = self.faults.read_share if operation in READS else 1.0
        # Not for secrets; the order of the enum keeps the draw the same whatever the order of the table.
        left = random.Random(f"{self.faults.seed}:{operation}:{token_id}:{nth}").random()  # noqa: S311
        for fault in Fault:
            left -= self.faults.rates.get(fault, 0.0) * share
            if left < 0:
                return fault
        return None
