"""The operational log: JSON lines on standard error, or readable ones on a terminal.

It listens to the engine's events. Nothing formats exceptions with local variables, and no value of an event can hold a
secret; text of the API arrives escaped by JSON, or by `visible` on a terminal.
"""

import json
import sys
import threading

from rotator.events import Event, EventName
from rotator.text import visible
from rotator.timing import stamp

_LOUD = frozenset(
    {
        EventName.AUDIT_FAILED,
        EventName.DELIVERY_FAILED,
        EventName.EXPIRY_UNMOVED,
        EventName.JOURNAL_FAILED,
        EventName.PLAN_REFUSED,
        EventName.PREFLIGHT_FAILED,
        EventName.ROTATION_IN_DOUBT,
        EventName.ROTATION_LOST,
        EventName.ROTATION_REFUSED,
        EventName.ROTATION_SUPERSEDED,
        EventName.ROTATION_UNSETTLED,
        EventName.TOKEN_GONE,
        EventName.TOKEN_QUARANTINED,
    }
)
_QUIET = frozenset({EventName.REQUEST_FINISHED})


class Log:
    """Writes events.

    Args:
        terminal: Readable lines, and only the loud ones: tables and progress tell the rest.
    """

    def __init__(self, *, terminal: bool) -> None:
        self._terminal = terminal
        self._lock = threading.Lock()

    def __call__(self, event: Event) -> None:
        """Write one event."""
        loud = event.name in _LOUD
        if event.name in _QUIET or (self._terminal and not loud):
            return
        fields = {"time": stamp(event.at)}
        fields |= {name: _shown(value) for name in _FIELDS if (value := getattr(event, name))}
        level = "warning" if loud else "info"
        line = (
            _readable(event, fields) if self._terminal else json.dumps({**fields, "event": event.name, "level": level})
        )
        with self._lock:
            sys.stderr.write(line + "\n")
            sys.stderr.flush()


_FIELDS = (
    "provider", "policy", "token_id", "token_name", "rotation_id", "sink", "location", "outcome", "reason", "step",
    "message",
)  # fmt: skip


def _shown(value: object) -> str:
    return visible(str(value), 500)


def _readable(event: Event, fields: dict[str, str]) -> str:
    return " ".join(
        [
            f"[warning] {event.name}",
            *(f"{name}={json.dumps(fields[name], ensure_ascii=False)}" for name in sorted(fields)),
        ]
    )
