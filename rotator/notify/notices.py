"""What one channel knows and has yet to be told: one notice a topic and subject, and how it changes. Pure.

Only transitions are told: a notice that is open and was told is quiet until it closes or gets worse, and one that
closes before it was told never was.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime

from rotator.notify.topics import WORDS, Topic


@dataclass(frozen=True, slots=True)
class Finding:
    """Something is the case, or has happened. All text is untrusted.

    Attributes:
        subject: What it is about, for who compares; `name` and `token_id` are for people.
        rung: How bad, where a thing gets worse: a lower one is told again. Another `edition` is another case.
    """

    topic: Topic
    subject: str
    at: datetime
    name: str = ""
    token_id: str = ""
    provider: str = ""
    policy: str = ""
    message: str = ""
    rung: int = 0
    edition: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """Something no longer is the case.

    Attributes:
        subject: Empty for all of the provider's.
        unless_since: What was found at or after this moment still is the case.
        silently: Something worse took its place, so nobody is told that it ended.
    """

    topic: Topic
    subject: str
    at: datetime
    provider: str = ""
    unless_since: datetime | None = None
    silently: bool = False


@dataclass(frozen=True, slots=True)
class Notice:
    """One finding as one channel knows it.

    Attributes:
        changed_at: Since when there is something to tell.
        is_open: Whether it still is the case.
        told: The rung that was told; None if none was.
    """

    finding: Finding
    changed_at: datetime
    is_open: bool = True
    told: int | None = None

    @property
    def is_pending(self) -> bool:
        """Whether the channel is to be told."""
        if not self.is_open:
            return self.told is not None
        return self.told is None or self.finding.rung < self.told


Key = tuple[Topic, str]


@dataclass(slots=True)
class Folder:
    """The notices of one channel.

    Attributes:
        touched: Keys of what was changed or taken away.
    """

    topics: frozenset[Topic]
    notices: dict[Key, Notice] = field(default_factory=dict)
    touched: set[Key] = field(default_factory=set)

    def open(self, finding: Finding) -> None:
        """Take in that something is the case."""
        if finding.topic not in self.topics:
            return
        key = finding.topic, finding.subject
        known = self.notices.get(key)
        if known is not None and known.finding.edition != finding.edition:
            known = None  # an untold end of the former case is swallowed by the new one
        if known is None:
            self._put(key, Notice(finding, finding.at))
        else:  # the latest words, but no later than it began
            is_waiting = known.is_open and known.is_pending
            changed_at = known.changed_at if is_waiting else finding.at
            self._put(key, replace(known, finding=finding, changed_at=changed_at, is_open=True))

    def close(self, ended: "Ended") -> None:
        """Take in that something no longer is the case."""
        for key in self._meant(ended):
            known = self.notices[key]
            is_seen_since = ended.unless_since is not None and known.finding.at >= ended.unless_since
            if not known.is_open or WORDS[ended.topic].is_passing or is_seen_since:
                continue
            if known.told is None or ended.silently:
                self._drop(key)
            else:
                self._put(key, replace(known, is_open=False, changed_at=ended.at))

    def _meant(self, ended: "Ended") -> list[Key]:
        if ended.subject:
            return [key for key in ((ended.topic, ended.subject),) if key in self.notices]
        return [
            key
            for key, known in self.notices.items()
            if key[0] is ended.topic and known.finding.provider == ended.provider
        ]

    def pending(self) -> list[Notice]:
        """Return what is to be told, the longest waiting first."""
        return sorted((one for one in self.notices.values() if one.is_pending), key=lambda one: one.changed_at)

    def tell(self, told: Iterable[Notice]) -> None:
        """Note that these were told, or given up; what changed meanwhile stays to be told."""
        for notice in told:
            key = notice.finding.topic, notice.finding.subject
            now = self.notices.get(key)
            if now is None or now.finding.edition != notice.finding.edition:
                continue
            if notice.is_open and WORDS[notice.finding.topic].is_passing:
                self._drop(key)
            elif notice.is_open:
                self._put(key, replace(now, told=notice.finding.rung))
            elif now.is_open:  # it has come back while its end was told
                self._put(key, replace(now, told=None))
            else:
                self._drop(key)

    def open_subjects(self, topics: frozenset[Topic]) -> set[str]:
        """Return what these topics are open about."""
        return {subject for (topic, subject), one in self.notices.items() if topic in topics and one.is_open}

    def _put(self, key: Key, notice: Notice) -> None:
        self.notices[key] = notice
        self.touched.add(key)

    def _drop(self, key: Key) -> None:
        self.notices.pop(key, None)
        self.touched.add(key)
