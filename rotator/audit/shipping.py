"""Ships the audit trail to an HTTP receiver: at least once, in order, from the file that is its durable queue.

`app` builds a `Shipper`; `sweep` calls it after its work, the daemon by its schedule. The journal keeps how far the
receiver has acknowledged. A pass changes nothing else, and none of its failures is anybody's: they are told, and the
next pass goes on from there. No message holds the URL, whose path may be a secret, nor the bearer token.
"""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import Protocol

from rotator import __version__
from rotator.audit.chain import Head, Shipped
from rotator.audit.queue import Queue, Waiting
from rotator.errors import Permanent, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.ports import Clock, Emit
from rotator.secret import Secret
from rotator.sinks import _post
from rotator.sinks._post import Answer, Fault, Files, Line, Request, Trust
from rotator.sinks.webhook import retry_after

LARGEST = 1 << 20  # bytes of a request, but for a single line that is larger
_PASS = timedelta(seconds=60)
_PAUSES = timedelta(seconds=1), timedelta(minutes=5)
_LOOKS, _BETWEEN_LOOKS = 3, timedelta(seconds=2)  # log rotation moves files while we list them
_TOO_LARGE = 413


class Ledger(Protocol):
    """What a journal remembers of shipping."""

    def audit_head(self) -> Head | None:
        """Return the last line that was committed."""
        ...

    def audit_shipped(self) -> Shipped | None:
        """Return how far the receiver has come; None before the first time."""
        ...

    def mark_shipped(self, shipped: Shipped, *events: Event) -> None:
        """Remember that, with its facts.

        Raises:
            Temporary, Permanent: Nothing was written.
        """
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Receiver:
    """Where lines go; its repr shows nothing.

    Attributes:
        url: See `checked_url`.
        token: Returns the bearer token as it is now; None for none.
        ca_bundle: PEM file of whom to trust; the system's if empty.
        batch: Lines of a request.
        timeout: For a whole call.
    """

    url: str
    token: Callable[[], Secret] | None = None
    ca_bundle: str = ""
    batch: int = 500
    timeout: timedelta = timedelta(seconds=30)


class Shipper:
    """Ships one audit file.

    Args:
        path: The audit file.
        receiver: Where its lines go.
        ledger: The journal.
        clock: For pauses and waits.
        emit: Told of failures, and of lines that are gone.
    """

    def __init__(self, path: Path, receiver: Receiver, ledger: Ledger, clock: Clock, emit: Emit) -> None:
        self._queue = Queue(path)
        self._lock_path = path.with_name(f".{path.name}.shipping")
        self._receiver = receiver
        self._ledger = ledger
        self._clock = clock
        self._emit = emit
        self._trust = Trust(Files(receiver.ca_bundle))
        self._size = receiver.batch
        self._failures = 0
        self._resumes_s = 0.0
        self._is_stopped = False

    def ship(self) -> int:
        """Ship what waits, for about a minute at most; never raises for what the receiver, a disk or a network does.

        After a failure the passes of the next seconds, later minutes, do nothing; a Retry-After is kept. While another
        process ships, this one does nothing.

        Returns:
            How many lines were acknowledged.
        """
        if self._is_stopped or self._clock.monotonic() < self._resumes_s:
            return 0
        done: list[int] = []
        try:
            with _alone(self._lock_path) as is_alone:
                if is_alone:
                    self._pass(done)
        except RotatorError as error:
            self._pause(error)
        else:
            self._failures = 0
        return sum(done)

    def stop(self) -> None:
        """Let the pass that runs end after its request, and later ones do nothing; from any thread."""
        self._is_stopped = True

    def _pass(self, done: list[int]) -> None:
        ends_s = self._clock.monotonic() + _PASS.total_seconds()
        head = self._ledger.audit_head()
        shipped = self._ledger.audit_shipped()
        if head is None or (shipped is not None and shipped.head.seq >= head.seq):
            return
        waiting: Iterator[Waiting] = self._queue.following(shipped.head.seq if shipped else 0, head.seq)
        first = next(waiting, None)
        while first is not None and not self._is_stopped and self._clock.monotonic() < ends_s:
            shipped = shipped or Shipped(first.before)
            if first.head.seq > shipped.head.seq + 1:
                waiting = self._looked_again(shipped, head)
                first = next(waiting, None)
                if first is not None and first.head.seq > shipped.head.seq + 1:
                    shipped = self._skipped(shipped, first)
                continue
            batch, behind = self._batch(chain([first], waiting), shipped)
            count = self._sent(batch, shipped)
            done.append(count)
            shipped = Shipped(batch[count - 1].head)
            rest = [*batch[count:], *([behind] if behind is not None else [])]
            waiting = chain(rest, waiting)
            first = next(waiting, None)

    def _looked_again(self, shipped: Shipped, head: Head) -> Iterator[Waiting]:
        """Return the waiting lines once more: that one is missing may only mean that files are moved right now."""
        for _ in range(_LOOKS - 1):
            self._clock.sleep(_BETWEEN_LOOKS)
            waiting = self._queue.following(shipped.head.seq, head.seq)
            first = next(waiting, None)
            if first is not None and first.head.seq == shipped.head.seq + 1:
                return chain([first], waiting)
        return self._queue.following(shipped.head.seq, head.seq)

    def _skipped(self, shipped: Shipped, first: Waiting) -> Shipped:
        """Go on behind lines that are gone: they are told once, and hold nothing up."""
        gone = f"{shipped.head.seq + 1} to {first.before.seq}"
        said = f"the audit lines seq {gone} are in no file any more, so the receiver never got them"
        event = Event(name=EventName.AUDIT_LINES_MISSING, at=self._clock.now(), message=said)
        skipped = Shipped(first.before)
        self._ledger.mark_shipped(skipped, event)
        self._emit(event)
        return skipped

    def _batch(self, waiting: Iterator[Waiting], shipped: Shipped) -> tuple[list[Waiting], Waiting | None]:
        """Return the lines of the next request, and the first one behind them.

        A request that was begun before, and whose answer nobody saw, is made of the same lines again.
        """
        last = shipped.offered if shipped.offered > shipped.head.seq else shipped.head.seq + self._size
        batch: list[Waiting] = []
        size = 0
        for line in waiting:
            size += len(line.raw)
            expected = shipped.head.seq + len(batch) + 1
            if line.head.seq != expected or line.head.seq > last or (batch and size > LARGEST):
                return batch, line
            batch.append(line)
        return batch, None

    def _sent(self, batch: list[Waiting], shipped: Shipped) -> int:
        """Send a batch, or the first half of it if it is too large, and return how many lines were acknowledged."""
        last = batch[-1].head
        if shipped.offered != last.seq:
            self._ledger.mark_shipped(Shipped(shipped.head, last.seq))
        answer = self._answer(batch)
        if isinstance(answer, Answer) and answer.status == _TOO_LARGE and len(batch) > 1:
            self._size = len(batch) // 2
            return self._sent(batch[: self._size], shipped)
        problem = _problem(answer)
        if problem:
            pause = retry_after(answer, self._clock.now()) if isinstance(answer, Answer) else None
            raise Temporary(f"{self._name}: {problem}", pause)
        self._ledger.mark_shipped(Shipped(last))
        return len(batch)

    @property
    def _name(self) -> str:
        return f"the audit receiver {_post.split(self._receiver.url)[0]}"

    def _answer(self, batch: list[Waiting]) -> Answer | Fault:
        first, last = batch[0].head, batch[-1].head
        key, body = f"{first.seq}-{last.seq}-{last.hash}", b"".join(line.raw for line in batch)
        origin, path = _post.split(self._receiver.url)
        try:
            proxy = _post.proxy_of("", origin)
        except ValueError:
            raise Permanent(f"{self._name}: the proxy of HTTPS_PROXY cannot be used") from None
        timeout_s = self._receiver.timeout.total_seconds()
        headers = {
            "User-Agent": f"rotator/{__version__}",
            "Content-Type": "application/x-ndjson",
            "Idempotency-Key": key,
            "Connection": "close",
            **self._authorization(),
        }
        connection = Line(origin, self._trust, proxy, timeout_s).connection()
        return _post.post(connection, timeout_s, Request(path, headers, body))

    def _authorization(self) -> dict[str, str]:
        if self._receiver.token is None:
            return {}
        value = self._receiver.token().reveal()
        if not (value.isascii() and value.isprintable()):
            del value
            raise Permanent("audit.http.token holds characters that no header has")
        return {"Authorization": f"Bearer {value}"}

    def _pause(self, error: RotatorError) -> None:
        shortest, longest = _PAUSES
        pause = min(shortest * 2 ** min(self._failures, 16), longest)
        asked = error.retry_after if isinstance(error, Temporary) else None
        self._failures += 1
        self._resumes_s = self._clock.monotonic() + max(pause, asked or pause).total_seconds()
        said = f"{error.message}; the lines wait in the audit file"
        self._emit(Event(name=EventName.AUDIT_SHIPPING_FAILED, at=self._clock.now(), message=said))


def checked_url(text: str) -> str:
    """Return the URL of a receiver; raises ValueError with the fix."""
    _post.split(text)
    return text


def _problem(answer: Answer | Fault) -> str:
    """Return what is wrong with an answer, in our own words; empty if the lines are acknowledged."""
    if isinstance(answer, Fault):
        return answer.words
    status = answer.status
    if 200 <= status < 300:
        is_page = "html" in answer.content_type.lower()
        return f"a web page answered ({status}), which keeps no audit lines; check audit.http.url" if is_page else ""
    if status in (401, 403):
        return f"it does not accept our token ({status}); check audit.http.token"
    if 300 <= status < 400:
        return f"redirected ({status}); redirects are never followed, correct audit.http.url"
    return f"it did not acknowledge ({status})"


@contextmanager
def _alone(path: Path) -> Iterator[bool]:
    """Let one process ship at a time: two would mix up the order."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Temporary(f"cannot open {path}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            is_alone = True
        except OSError:
            is_alone = False
        yield is_alone
    finally:
        os.close(descriptor)
