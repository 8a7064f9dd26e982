"""What a channel is sent: one message for everything that changed, short however much that is. Pure.

Names and messages are untrusted: nothing in them may move a cursor, forge a line, mention a whole chat room or become
a link in what shows the message.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from rotator.notify.notices import Notice
from rotator.notify.topics import WORDS, Topic
from rotator.text import visible

NAMES = 5  # of one topic that are shown
_LONGEST_NAME, _LONGEST_MESSAGE = 80, 300
_MARKUP = str.maketrans({character: f"\\x{ord(character):02x}" for character in "@<>[]`*|&"})


@dataclass(frozen=True, slots=True)
class Message:
    """One notification.

    Attributes:
        kind: `failure`, `warning` or `success`.
    """

    title: str
    body: str
    kind: str


def message(notices: Sequence[Notice]) -> Message:
    """Return what tells of these notices; there is at least one."""
    opened = [one for one in notices if one.is_open]
    closed = [one for one in notices if not one.is_open]
    parts = [_block(topic, rows) for topic, rows in _by_topic(opened)]
    parts += [f"resolved: {_line(topic, rows)}" for topic, rows in _by_topic(closed)]
    counts = [f"{len(rows)} {words}" for rows, words in ((opened, _title(opened)), (closed, "resolved")) if rows]
    severe = any(WORDS[one.finding.topic].is_severe for one in opened)
    kind = "failure" if severe else "warning" if opened else "success"
    return Message(f"rotator: {', '.join(counts)}", "\n".join(parts), kind)


def safe(text: str, limit: int) -> str:
    """Return an untrusted text on one line, without anything that a chat or a page would make more of."""
    return visible(text.translate(_MARKUP), limit)


def _title(opened: Sequence[Notice]) -> str:
    topics = {one.finding.topic for one in opened}
    return WORDS[topics.pop()].title if len(topics) == 1 else "things need attention"


def _by_topic(notices: Sequence[Notice]) -> list[tuple[Topic, list[Notice]]]:
    order = list(Topic)
    ranked = sorted(notices, key=lambda one: (order.index(one.finding.topic), one.finding.rung, one.finding.subject))
    return [(topic, list(rows)) for topic, rows in groupby(ranked, key=lambda one: one.finding.topic)]


def _block(topic: Topic, rows: Sequence[Notice]) -> str:
    first = rows[0].finding
    hint = WORDS[topic].hint.format(id=safe(first.token_id, _LONGEST_NAME) or "TOKEN")
    said = f"\n  {safe(first.message, _LONGEST_MESSAGE)}" if first.message else ""
    return f"{_line(topic, rows)}{said}\n  next: {hint}"


def _line(topic: Topic, rows: Sequence[Notice]) -> str:
    shown = ", ".join(_called(one) for one in rows[:NAMES])
    more = f" and {len(rows) - NAMES} more" if len(rows) > NAMES else ""
    count = f" ({len(rows)})" if len(rows) > 1 else ""
    return f"{WORDS[topic].title}{count}{': ' if shown else ''}{shown}{more}"


def _called(notice: Notice) -> str:
    found = notice.finding
    extra = [text for text in (found.token_id, found.policy) if text and text != found.name]
    name = safe(found.name or found.subject, _LONGEST_NAME)
    return f"{name} ({safe(', policy '.join(extra), _LONGEST_NAME * 2)})" if extra else name
