"""A progress bar for people: on a terminal only, on standard error, fed by the engine's events.

What else is written to standard error meanwhile appears above it, line by line: whoever writes there looks up
`sys.stderr` at each write (`logs.StandardError`), which the bar has taken over.
"""

import sys
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from rotator.events import Event, EventName
from rotator.model import Outcome

if TYPE_CHECKING:
    from rich.progress import Progress

_SETTLED, _FAILED, _LEFT, _UNDERWAY = "settled", "failed", "left", "underway"
_WORDS = {
    EventName.ROTATION_INTENDED: _UNDERWAY,
    EventName.TOKEN_RETIRED: _SETTLED,
    EventName.PREFLIGHT_FAILED: _FAILED,
    EventName.ROTATION_IN_DOUBT: _FAILED,
    EventName.ROTATION_REFUSED: _FAILED,
    EventName.ROTATION_UNSETTLED: _FAILED,
    EventName.ROTATION_WITHOUT_EFFECT: _LEFT,
    EventName.TOKEN_GONE: _LEFT,
    EventName.RETIREMENT_DELAYED: _LEFT,
}


class Bar:
    """Counts tokens that have had their turn; the latest event of each decides. A listener, and a context to work in.

    Args:
        shown: Whether standard error is a terminal; otherwise nothing is ever written.
    """

    def __init__(self, *, shown: bool | None = None) -> None:
        self._shown = sys.stderr.isatty() if shown is None else shown
        self._lock = threading.Lock()
        self._total = 0
        self._words: dict[str, str] = {}
        self._progress: Progress | None = None

    def __call__(self, event: Event) -> None:
        """Count one event."""
        word = _word(event)
        if word is None:
            return
        with self._lock:
            self._words[event.token_id] = word
            self._update()

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.hide()

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many tokens are settled, how many failed, and how many are expected in all."""
        words = list(self._words.values())
        return words.count(_SETTLED), words.count(_FAILED), max(self._total, len(words))

    def expect(self, tokens: int) -> None:
        """Show the bar: so many more tokens will be worked on."""
        with self._lock:
            self._total += tokens
            if self._shown and self._total and self._progress is None:
                self._progress = _progress()
                self._progress.add_task("rotating", total=self._total, settled=0, failed=0)
                self._progress.start()
            self._update()

    def hide(self) -> None:
        """Take the bar away, to print or to ask; `expect` brings it back."""
        with self._lock:
            progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()

    def _update(self) -> None:
        if self._progress is None:
            return
        settled, failed, total = self.counts
        done = sum(word != _UNDERWAY for word in self._words.values())
        task = self._progress.task_ids[0]
        self._progress.update(task, total=total, completed=done, settled=settled, failed=failed)


def _word(event: Event) -> str | None:
    """Return what an event says of its token; None if nothing, or if it is about no token."""
    if not event.token_id:
        return None
    if event.outcome is not None:
        return _SETTLED if event.outcome is Outcome.SETTLED else _FAILED
    return _WORDS.get(event.name)


def _progress() -> "Progress":
    from rich.console import Console  # noqa: PLC0415 - where there is no terminal, nothing needs it
    from rich.progress import (  # noqa: PLC0415
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TextColumn("{task.fields[settled]} settled, {task.fields[failed]} failed"),
        TimeElapsedColumn(),
        console=Console(stderr=True, soft_wrap=True, highlight=False),  # log lines above it are never wrapped
        transient=True,
        redirect_stdout=False,
    )
