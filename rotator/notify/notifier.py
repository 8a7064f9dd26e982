"""One pass of telling: take in what happened, decide who is due to be told, tell them within bounds, remember it.

What happened is read from the journal's `history`, where facts are committed together with the state they tell of; so
whatever was journalled before a kill -9 is told by the next pass of any process. What is only emitted (that the audit
or the journal itself failed) is heard as an event and lost with the process; the next failure tells it again. People
and programs are told at least once: between their answer and our note of it a crash repeats the message.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from rotator.board import Snapshot
from rotator.errors import Permanent, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage
from rotator.notify import facts, ladder
from rotator.notify.book import Book, Call, Outbox, State
from rotator.notify.channel import Channel
from rotator.notify.errand import Errand
from rotator.notify.notices import Ended, Finding, Folder, Notice
from rotator.notify.told import SETTLED, settled_facts
from rotator.notify.topics import Topic
from rotator.ports import Clock, Emit

if TYPE_CHECKING:
    from rotator.notify.hooks import Hook

GIVE_UP = timedelta(hours=24)  # since there was something to tell
FIRST_PAUSE, LONGEST_PAUSE = timedelta(seconds=30), timedelta(hours=1)
PATIENCE_S = 45.0
_STUCK_S = 300.0  # an errand that takes longer is no longer waited for
_ATTEMPTS = 3  # where another process writes at the same time
_CRY_S = 10.0  # for telling without a journal
_RESERVE_S = 3.0  # of our patience, to bury a program
_HOLD = ("", "notifications")
_TROUBLE = {EventName.AUDIT_FAILED: Topic.AUDIT_FAILED, EventName.JOURNAL_FAILED: Topic.JOURNAL_FAILED}
_LADDER = (Topic.EXPIRING, Topic.EXPIRED)


@dataclass(frozen=True, slots=True)
class _Sent:
    """What came of one message."""

    notices: list[Notice]
    problem: str


@dataclass(frozen=True, slots=True)
class _Called:
    """What came of some calls of a hook.

    Attributes:
        done: Their names. `problem`: of the one behind them.
    """

    done: tuple[str, ...]
    problem: str = ""
    lasted_s: float = 0.0


class Notifier:
    """Tells channels and hooks; also a listener. Thread-safe.

    Args:
        channels, hooks: Those that are configured; hooks that are told of settled rotations.
        journal: The one with the history.
        clock: For durations.
        emit: Told of everything that was sent or failed.
    """

    def __init__(
        self, channels: Sequence[Channel], hooks: "Sequence[Hook]", journal: Outbox, clock: Clock, emit: Emit
    ) -> None:
        self._channels = {f"channel:{channel.name}": channel for channel in channels}
        self._hooks = {f"hook:{hook.name}": hook for hook in hooks}
        self._journal = journal
        self._clock = clock
        self._emit = emit
        self._passing = threading.Lock()
        self._hearing = threading.Lock()
        self._heard: dict[Topic, Finding | Ended] = {}
        self._troubled: set[Topic] = set()
        self._cried: set[Topic] = set()
        self._sending: dict[str, tuple[float, Errand[_Sent]]] = {}
        self._calling: dict[str, tuple[float, Errand[_Called]]] = {}

    @property
    def wants_tokens(self) -> bool:
        """Whether somebody is to be told of the ladder, for which a snapshot of all tokens is needed."""
        return any(topic in channel.topics for channel in self._channels.values() for topic in _LADDER)

    def begin(self) -> None:
        """Note where history stands, so that who is new is told from now on.

        Raises:
            Temporary, Permanent: The journal cannot be written.
        """
        for _ in range(_ATTEMPTS):
            try:
                self._read(forgets=False)  # another configuration may still be at work
            except Temporary as error:
                failure = error
            else:
                return
        raise failure

    def __call__(self, event: Event) -> None:
        """Hear what is not in the history."""
        topic = _TROUBLE.get(event.name)
        with self._hearing:
            if topic is not None:
                self._troubled.add(topic)
                self._heard[topic] = Finding(topic, topic, event.at, provider=event.provider, message=event.message)
            elif event.name is EventName.SWEEP_STARTED:
                self._troubled.clear()
            elif event.name is EventName.SWEEP_FINISHED:
                for quiet in set(_TROUBLE.values()) - self._troubled:
                    self._heard.setdefault(quiet, Ended(quiet, quiet, event.at))

    def pass_once(
        self, snapshot: Snapshot | None, now: datetime, *, patience_s: float = PATIENCE_S, flush: bool = False
    ) -> datetime | None:
        """Take in what is new and tell who is due.

        Args:
            snapshot: Where all tokens stand, for the ladder before expiry; None leaves the ladder as it is.
            now: UTC.
            patience_s: How long to wait for answers, seconds; what takes longer goes on, and the next pass sees it.
            flush: Tell everything now, for this process ends: nothing is grouped any longer, nothing waits for a retry.

        Returns:
            When the next pass has something to do; None if only new facts would change that.

        Raises:
            Temporary: Another process is at it, or the journal cannot be written; nothing is lost.
            Permanent: The journal cannot be used.
        """
        deadline_s = time.monotonic() + patience_s
        with self._passing:
            try:
                with self._alone():
                    due = self._pass(snapshot, now, deadline_s, flush=flush)
            except (Temporary, Permanent):
                self._cry(deadline_s)
                raise
            self._cried.clear()
            return due

    def _pass(self, snapshot: Snapshot | None, now: datetime, deadline_s: float, *, flush: bool) -> datetime | None:
        book = self._read()
        self._reap(book, now, 0.0)
        self._take_history(book)
        self._take_heard(book)
        if snapshot is not None:
            _climb(book, snapshot)
        book.save()
        self._start(book, now, deadline_s, flush=flush)
        self._reap(book, now, deadline_s)
        return self._next(book, now)

    def _cry(self, deadline_s: float) -> None:
        """Tell once, without a journal to remember it, that journal or audit cannot be written."""
        with self._hearing:
            heard = [one for one in self._heard.values() if isinstance(one, Finding) and one.topic not in self._cried]
        self._cried |= {one.topic for one in heard}
        errands = []
        for name, channel in self._channels.items():
            mine = [Notice(one, one.at) for one in heard if one.topic in channel.topics]
            if mine:
                errands.append(Errand(name, _sender(channel, mine), partial(_Sent, mine)))
        until_s = min(deadline_s, time.monotonic() + _CRY_S)
        for errand in errands:
            errand.wait(until_s - time.monotonic())

    def _read(self, *, forgets: bool = True) -> Book:
        topics = {name: channel.topics for name, channel in self._channels.items()}
        return Book.read(self._journal, topics, self._hooks, forgets=forgets)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let no other process tell meanwhile."""
        with ExitStack() as stack:
            try:
                stack.enter_context(self._journal.hold(*_HOLD))
            except Temporary:
                said = "another process tells at this moment, or the journal cannot be written"
                raise Temporary(f"{said}; nothing is lost") from None
            yield

    def _take_history(self, book: Book) -> None:
        remember = _remembering(self._journal.lineages)
        while rows := self._journal.history_after(book.cursor):
            for seq, event in rows:
                if event is not None:
                    self._take(book, seq, event, remember)
            book.cursor = rows[-1][0]
            self._confirm(book, rows[-1][1].at if rows[-1][1] else self._clock.now())
            book.save()
        self._confirm(book, self._clock.now())

    def _take(self, book: Book, seq: int, event: Event, remember: facts.Remember) -> None:
        interested = [folder for name, folder in book.folders.items() if seq > book.states[name].since]
        for move in facts.moves([event], remember) if interested else ():
            _moved(interested, move)
        if event.name is not EventName.ROTATION_SETTLED:
            return
        for name, hook in self._hooks.items():
            if hook.policy == event.policy and seq > book.states[name].since:
                rotation = self._journal.rotation(event.rotation_id)
                if rotation is not None:
                    book.add(name, seq, settled_facts(rotation, event.at), event.at)

    def _confirm(self, book: Book, at: datetime) -> None:
        """End what the journal no longer confirms of tokens that somebody was, or is to be, told of."""
        subjects = set().union(*[folder.open_subjects(facts.OF_TOKENS) for folder in book.folders.values()])
        roots: dict[str, list[str]] = {}
        for subject in sorted(subjects):
            provider, _, root = subject.partition("/")
            roots.setdefault(provider, []).append(root)
        for provider, ids in roots.items():
            for root, holds in facts.still(provider, ids, self._journal.lineages).items():
                for topic in facts.OF_TOKENS - holds:
                    silently = facts.took_over(topic, holds)
                    ended = Ended(topic, ladder.subject(provider, root), at, silently=silently)
                    _moved(book.folders.values(), ended)

    def _take_heard(self, book: Book) -> None:
        with self._hearing:
            heard, self._heard = self._heard, {}
        for move in heard.values():
            _moved(book.folders.values(), move)

    def _start(self, book: Book, now: datetime, deadline_s: float, *, flush: bool) -> None:
        for name, channel in self._channels.items():
            due = self._due_of_channel(book, name, now)
            if due is not None and (flush or due <= now) and name not in self._sending:
                notices = book.folders[name].pending()
                self._sending[name] = time.monotonic(), Errand(name, _sender(channel, notices), partial(_Sent, notices))
        for name, hook in self._hooks.items():
            due = self._due_of_hook(book, name, now)
            if due is not None and (flush or due <= now) and name not in self._calling:
                calls = dict(sorted(book.calls[name].items()))
                for call in calls:
                    book.seal(name, call)
                book.save()
                errand = Errand(name, _caller(hook, calls, deadline_s - _RESERVE_S), partial(_Called, ()))
                self._calling[name] = time.monotonic(), errand

    def _reap(self, book: Book, now: datetime, deadline_s: float) -> None:
        """Note what came of what is under way, waiting until a moment."""
        for name, (began_s, sending) in list(self._sending.items()):
            sent = sending.wait(deadline_s - time.monotonic())
            if sent is not None or time.monotonic() - began_s > _STUCK_S:
                del self._sending[name]
                self._sent(book, name, sent or _Sent(book.folders[name].pending(), "no answer in time"), now)
        for name, (began_s, calling) in list(self._calling.items()):
            called = calling.wait(deadline_s - time.monotonic())
            if called is not None or time.monotonic() - began_s > _STUCK_S:
                del self._calling[name]
                self._called(book, name, called or _Called((), "no answer in time"), now)
        book.save()

    def _sent(self, book: Book, name: str, sent: _Sent, now: datetime) -> None:
        folder, channel = book.folders[name], self._channels[name].name
        if not sent.problem:
            folder.tell(sent.notices)
            book.set_state(name, replace(book.states[name], attempts=0, next_at=None))
            said = f"told of {len(sent.notices)} changes"
            self._emit(Event(name=EventName.NOTIFICATION_SENT, at=now, channel=channel, message=said))
            return
        state = _failed(book, name, now)
        old = [notice for notice in folder.pending() if now - notice.changed_at >= GIVE_UP]
        folder.tell(old)
        given_up = f"; {len(old)} changes are given up after a day" if old else ""
        said = f"{sent.problem}; attempt {state.attempts}{given_up}"
        self._emit(Event(name=EventName.NOTIFICATION_FAILED, at=now, channel=channel, message=said))

    def _called(self, book: Book, name: str, called: _Called, now: datetime) -> None:
        hook = self._hooks[name]
        about = Event(name=EventName.HOOK_RAN, at=now, policy=hook.policy, hook=hook.name, duration_s=called.lasted_s)
        for key in called.done:
            call = book.calls[name].get(key)
            said = f"told of {len(call.facts) if call is not None else 0} settled rotations"
            book.drop(name, key)
            self._emit(replace(about, message=said))
        if not called.problem:
            book.set_state(name, replace(book.states[name], attempts=0, next_at=None))
            return
        state = _failed(book, name, now)
        old = [key for key, call in book.calls[name].items() if now - call.last_at >= GIVE_UP]
        for key in old:
            book.drop(name, key)
        given_up = f"; {len(old)} calls are given up after a day" if old else ""
        said = f"{called.problem}; attempt {state.attempts}{given_up}"
        self._emit(replace(about, name=EventName.HOOK_FAILED, message=said))
        if old:
            lost = Finding(Topic.HOOK_FAILED, hook.name, now, hook.name, policy=hook.policy, message=said)
            _moved(book.folders.values(), lost)

    def _due_of_channel(self, book: Book, name: str, now: datetime) -> datetime | None:
        pending = book.folders[name].pending()
        if not pending:
            return None
        # a moment ahead of us comes from another clock: it must not silence the channel
        changed_at = min(pending[0].changed_at, now)
        return max(changed_at + self._channels[name].group_for, book.states[name].next_at or changed_at)

    def _due_of_hook(self, book: Book, name: str, now: datetime) -> datetime | None:
        calls = book.calls[name]
        if not calls:
            return None
        first, debounce = calls[min(calls)], self._hooks[name].debounce
        quiet_at = min(first.last_at, now) + debounce
        due = first.began_at if first.is_sealed else min(quiet_at, first.began_at + 10 * debounce)
        return max(due, book.states[name].next_at or due)

    def _next(self, book: Book, now: datetime) -> datetime | None:
        moments = [self._due_of_channel(book, name, now) for name in self._channels]
        moments += [self._due_of_hook(book, name, now) for name in self._hooks]
        due = [moment for moment in moments if moment is not None]
        if self._sending or self._calling:
            due.append(now + timedelta(seconds=5))
        return min(due, default=None)


def _remembering(lineages: facts.Remember) -> facts.Remember:
    """Return the same, asked once for each token: one has many facts in a row."""
    known: dict[tuple[str, str], Mapping[str, Lineage]] = {}

    def remember(provider: str, ids: Sequence[str]) -> Mapping[str, Lineage]:
        if len(ids) != 1:
            return lineages(provider, ids)
        key = provider, ids[0]
        if key not in known:
            known[key] = lineages(provider, ids)
        return known[key]

    return remember


def _moved(folders: Iterable[Folder], move: Finding | Ended) -> None:
    for folder in folders:
        if isinstance(move, Finding):
            folder.open(move)
        else:
            folder.close(move)


def _climb(book: Book, snapshot: Snapshot) -> None:
    """Take in where tokens stand before their expiry; one that is not shown at all only ends if all are shown."""
    found = list(ladder.findings(snapshot))
    standing = {(one.topic, one.subject) for one in found}
    is_whole = snapshot.total == len(snapshot.tokens)
    shown = {ladder.subject(row.provider, row.token_id) for row in snapshot.tokens}
    expired = {one.subject for one in found if one.topic is Topic.EXPIRED}
    for folder in book.folders.values():
        for one in found:
            folder.open(one)
        for topic in _LADDER:
            for subject in folder.open_subjects(frozenset({topic})):
                is_seen = subject in shown or (is_whole and subject.partition("/")[0] in snapshot.looked_at)
                if (topic, subject) not in standing and is_seen:
                    folder.close(Ended(topic, subject, snapshot.at, silently=subject in expired))


def _failed(book: Book, name: str, now: datetime) -> State:
    attempts = book.states[name].attempts + 1
    pause = min(FIRST_PAUSE * 2 ** min(attempts - 1, 16), LONGEST_PAUSE)
    state = replace(book.states[name], attempts=attempts, next_at=now + pause)
    book.set_state(name, state)
    return state


def _sender(channel: Channel, notices: list[Notice]) -> Callable[[], _Sent]:
    return lambda: _Sent(notices, channel.send(notices))


def _caller(hook: "Hook", calls: Mapping[str, Call], deadline_s: float) -> Callable[[], _Called]:
    """Return what makes the calls one after the other, up to the first that fails or until a moment."""

    def act() -> _Called:
        began_s = time.monotonic()
        done: list[str] = []
        for name, call in calls.items():
            if done and time.monotonic() > deadline_s - 1:
                break
            told = {"policy": hook.policy, "rotations": call.facts}
            answer = hook.call(call.id, SETTLED, told, deadline_s - time.monotonic())
            if answer.problem:
                return _Called(tuple(done), answer.problem, time.monotonic() - began_s)
            done.append(name)
        return _Called(tuple(done), "", time.monotonic() - began_s)

    return act
