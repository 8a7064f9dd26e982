"""The operational log: JSON lines on standard error, or readable ones on a terminal.

It listens to the engine's events. Nothing formats exceptions with local variables, and no value of an event can hold a
secret; text of the API arrives escaped by JSON, or by `visible` on a terminal.
"""

import sys
from functools import cached_property
from typing import TYPE_CHECKING, TextIO, cast

from rotator.events import Event, EventName
from rotator.text import visible
from rotator.timing import stamp

if TYPE_CHECKING:
    from structlog.typing import WrappedLogger

_LOUD = frozenset(
    {
        EventName.AUDIT_FAILED,
        EventName.CONFIG_REFUSED,
        EventName.AUDIT_LINES_MISSING,
        EventName.AUDIT_SHIPPING_FAILED,
        EventName.CREDENTIAL_EXPIRING,
        EventName.CREDENTIAL_REJECTED,
        EventName.CREDENTIAL_UNREADABLE,
        EventName.DELIVERY_FAILED,
        EventName.DRIFT_FOUND,
        EventName.EXPIRY_UNMOVED,
        EventName.HOOK_FAILED,
        EventName.JOURNAL_FAILED,
        EventName.NOTIFICATION_FAILED,
        EventName.PLACE_REFUSED,
        EventName.PLAN_REFUSED,
        EventName.PREFLIGHT_FAILED,
        EventName.RETIREMENT_DELAYED,
        EventName.ROTATION_IN_DOUBT,
        EventName.ROTATION_LOST,
        EventName.ROTATION_REFUSED,
        EventName.ROTATION_SUPERSEDED,
        EventName.ROTATION_UNSETTLED,
        EventName.SERVER_EXPOSED,
        EventName.SERIES_OMITTED,
        EventName.ROTATION_VETOED,
        EventName.SINK_WENT_DOWN,
        EventName.SWEEP_FAILED,
        EventName.SWEEP_MISSED,
        EventName.TOKEN_GONE,
        EventName.TOKEN_LEAKED,
        EventName.TOKEN_QUARANTINED,
        EventName.TOKEN_REQUEST_IN_DOUBT,
        EventName.TWIN_FOUND,
    }
)
# Of every sweep, also of one that does nothing: for the audit and the metrics. A daemon's log shows when it swept.
_SILENT = frozenset(
    {EventName.CREDENTIAL_READ, EventName.REQUEST_FINISHED, EventName.STEP_FINISHED, EventName.SWEEP_STARTED}
)
_ROUTINE = frozenset({EventName.CONFIG_LOADED, EventName.SWEEP_FINISHED})


class StandardError:
    """Standard error as it is at each write: a progress bar may have taken it over meanwhile."""

    def write(self, text: str) -> int:
        """Write text."""
        return sys.stderr.write(text)

    def flush(self) -> None:
        """Write what is buffered."""
        sys.stderr.flush()


class StandardOutput:
    """Standard output as it is at each write."""

    def write(self, text: str) -> int:
        """Write text."""
        return sys.stdout.write(text)

    def flush(self) -> None:
        """Write what is buffered."""
        sys.stdout.flush()


class Log:
    """Writes events.

    Args:
        terminal: Readable lines, and only the loud ones: tables and progress tell the rest.
        daemon: All of them also on a terminal, for there is nothing else to see, and what every sweep came to.
    """

    def __init__(self, *, terminal: bool, daemon: bool = False) -> None:
        self._terminal = terminal
        self._brief = terminal and not daemon
        self._unsaid = _SILENT if daemon else _SILENT | _ROUTINE
        self._is_heard = True

    def __call__(self, event: Event) -> None:
        """Write one event; once nobody reads standard error any more (`2>&1 | head`), say nothing."""
        loud = event.name in _LOUD
        if event.name in self._unsaid or (self._brief and not loud) or not self._is_heard:
            return
        fields = {name: _shown(value) for name in _FIELDS if (value := getattr(event, name))}
        try:
            (self._log.warning if loud else self._log.info)(str(event.name), time=stamp(event.at), **fields)
        except (OSError, ValueError):  # a closed pipe, a full disk, a closed stream
            self._is_heard = False

    @cached_property
    def _log(self) -> "WrappedLogger":
        import structlog  # noqa: PLC0415 - a sweep that has nothing to say does without

        renderer = (
            structlog.dev.ConsoleRenderer(colors=False) if self._terminal else structlog.processors.JSONRenderer()
        )
        return structlog.wrap_logger(
            structlog.WriteLogger(cast("TextIO", StandardError())),  # a line and its end in one write
            processors=[structlog.processors.add_log_level, renderer],
        ).bind()  # once: the proxy would do it for each line


_FIELDS = (
    "provider", "policy", "token_id", "token_name", "rotation_id", "sink", "location", "channel", "hook", "outcome",
    "reason", "step", "message",
)  # fmt: skip


def _shown(value: object) -> str:
    return visible(str(value), 500)
