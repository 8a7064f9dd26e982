"""What the journal keeps for telling: how far each channel and hook has come, its notices, and its calls.

A book is read at the start of a pass and written in pieces, each one transaction with the cursor over `history`; a
piece that another process was faster with is refused as a whole.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from rotator.errors import Temporary
from rotator.events import Event
from rotator.journal.outbox import Change, Entry
from rotator.journal.rows import decode, encode
from rotator.model import Lineage, Rotation
from rotator.notify.notices import Folder, Key, Notice
from rotator.notify.topics import Topic

_STATE, _NOTICE, _CALL = "state", "notice", "call"
CROWD = 100  # rotations that one call tells of at most


class Outbox(Protocol):
    """What is needed of the journal."""

    def history_after(self, seq: int, limit: int = 1000) -> list[tuple[int, Event | None]]:
        """Return facts with their numbers, oldest first."""
        ...

    def last_seq(self) -> int:
        """Return the number of the latest fact."""
        ...

    def lineages(self, provider: str, token_ids: Sequence[str]) -> Mapping[str, Lineage]:
        """See `ports.Journal`."""
        ...

    def rotation(self, rotation_id: str) -> Rotation | None:
        """Return a rotation, open or closed."""
        ...

    def outbox(self) -> tuple[int | None, list[Entry]]:
        """Return the cursor and what waits."""
        ...

    def change_outbox(self, change: Change) -> bool:
        """Commit a change; False if another process was faster."""
        ...

    def hold(self, provider: str, lineage_id: str) -> AbstractContextManager[None]:
        """See `ports.Journal`: one process tells at a time."""
        ...


@dataclass(frozen=True, slots=True)
class State:
    """How far a channel or a hook has come.

    Attributes:
        since: Facts up to this number are from before it was configured.
        attempts: Failures in a row. `next_at`: not to be tried again before.
    """

    since: int
    attempts: int = 0
    next_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a hook that is to be made.

    Attributes:
        id: The same however often it is repeated.
        facts: Of each rotation.
        began_at: When the first of them settled. `last_at`: the last.
        is_sealed: It may have been made, so nothing is added any more.
    """

    id: str
    facts: tuple[dict[str, object], ...]
    began_at: datetime
    last_at: datetime
    is_sealed: bool = False


@dataclass(slots=True)
class Book:
    """All of it, as of the last read or write.

    Attributes:
        cursor: How far history was read.
        calls: By hook, then by name; the names sort by age.
    """

    journal: Outbox
    cursor: int = 0
    states: dict[str, State] = field(default_factory=dict)
    folders: dict[str, Folder] = field(default_factory=dict)
    calls: dict[str, dict[str, Call]] = field(default_factory=dict)
    _written: int | None = None
    _touched: set[tuple[str, str]] = field(default_factory=set)

    @classmethod
    def read(
        cls, journal: Outbox, channels: Mapping[str, frozenset[Topic]], hooks: Iterable[str], *, forgets: bool = True
    ) -> "Book":
        """Read what concerns these channels and hooks; who is new is told of what happens from now on.

        Args:
            journal: What keeps it.
            channels: With the topics of each.
            hooks: By the names that `calls` uses.
            forgets: Whether those that are no longer configured are forgotten.

        Raises:
            Temporary, Permanent: The journal cannot be read or written.
        """
        written, entries = journal.outbox()
        book = cls(journal, written or 0, _written=written)
        book.folders = {name: Folder(topics) for name, topics in channels.items()}
        book.calls = {name: {} for name in hooks}
        wanted = {*book.folders, *book.calls}
        for entry in entries:
            if entry.owner in wanted:
                book._take(entry)
        strange = [entry for entry in entries if entry.owner not in wanted and forgets]
        newcomers = wanted - book.states.keys()
        if strange or newcomers:
            last = journal.last_seq()
            if not entries:  # nobody was told for a while: what happened then is nobody's news
                book.cursor = last
            for name in newcomers:
                book.set_state(name, State(last))
            book.save(strange)
        return book

    def set_state(self, name: str, state: State) -> None:
        """Change how far a channel or hook has come."""
        self.states[name] = state
        self._touched.add((_STATE, name))

    def add(self, hook: str, seq: int, fact: dict[str, object], at: datetime) -> None:
        """Let a hook be told of a settled rotation, together with others that wait."""
        calls = self.calls[hook]
        last = max(calls, default="")
        if last and not calls[last].is_sealed and len(calls[last].facts) < CROWD:
            call = calls[last]
            self._put(hook, last, replace(call, facts=(*call.facts, fact), last_at=at))
        else:
            self._put(hook, f"{seq:020d}", Call(f"{hook}_{seq}", (fact,), at, at))

    def seal(self, hook: str, name: str) -> None:
        """Let nothing be added to a call any more."""
        self._put(hook, name, replace(self.calls[hook][name], is_sealed=True))

    def drop(self, hook: str, name: str) -> None:
        """Forget a call: it was made, or given up."""
        self.calls[hook].pop(name, None)
        self._touched.add((hook, name))

    def save(self, drops: Iterable[Entry] = ()) -> None:
        """Write what was changed since the last time.

        Args:
            drops: Also taken away.

        Raises:
            Temporary: Another process was faster, or the journal cannot be written now.
            Permanent: It cannot be written.
        """
        puts, gone = self._changes()
        gone += drops
        if self.cursor == self._written and not puts and not gone:
            return
        if not self.journal.change_outbox(Change(self._written, self.cursor, tuple(puts), tuple(gone))):
            raise Temporary("another process tells of the same facts at this moment")
        self._written = self.cursor
        self._touched.clear()
        for folder in self.folders.values():
            folder.touched.clear()

    def _put(self, hook: str, name: str, call: Call) -> None:
        self.calls[hook][name] = call
        self._touched.add((hook, name))

    def _take(self, entry: Entry) -> None:
        if entry.kind == _STATE:
            self.states[entry.owner] = decode(entry.body, State)
        elif entry.kind == _CALL and entry.owner in self.calls:
            self.calls[entry.owner][entry.name] = decode(entry.body, Call)
        elif entry.kind == _NOTICE and entry.owner in self.folders:
            notice = decode(entry.body, Notice)
            self.folders[entry.owner].notices[notice.finding.topic, notice.finding.subject] = notice

    def _changes(self) -> tuple[list[Entry], list[Entry]]:
        puts: list[Entry] = []
        gone: list[Entry] = []
        for owner, name in sorted(self._touched):
            if owner == _STATE:
                puts.append(Entry(_STATE, name, "", encode(self.states[name])))
            elif name in self.calls[owner]:
                puts.append(Entry(_CALL, owner, name, encode(self.calls[owner][name])))
            else:
                gone.append(Entry(_CALL, owner, name))
        for channel, folder in self.folders.items():
            for key in folder.touched:
                notice = folder.notices.get(key)
                name = _name(key)
                if notice is None:
                    gone.append(Entry(_NOTICE, channel, name))
                else:
                    puts.append(Entry(_NOTICE, channel, name, encode(notice)))
        return puts, gone


def _name(key: Key) -> str:
    topic, subject = key
    return f"{topic} {subject}"
