"""What this process wrote into places that cannot be read, so that nothing is written twice and nobody is restarted.

The API hides secrets but says when a part of a container was last written. A part that was not touched since we wrote
it still holds what we wrote. Other processes do not know this; delivering there once more is safe.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Entry:
    """One part that we wrote.

    Attributes:
        version: As the receipt says.
        current: As the API says now: our own writes of other parts may move it.
    """

    mint_id: str
    version: str
    current: str


class Known:
    """Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[tuple[str, str], Entry] = {}

    def of(self, container: str, part: str, current: str) -> Entry | None:
        """Return what we wrote there, None if somebody else may have written since."""
        with self._lock:
            entry = self._entries.get((container, part))
        return entry if entry is not None and current and entry.current == current else None

    def learn(self, container: str, part: str, mint_id: str, version: str) -> None:
        """Note a write that arrived."""
        with self._lock:
            self._entries[container, part] = Entry(mint_id, version, version)

    def follow(self, container: str, before: Callable[[str], str], after: Callable[[str], str]) -> None:
        """Note that our own write moved versions of other parts of a container.

        Args:
            container: Which.
            before: Part to its version when it was read for the write; empty if it was not there.
            after: Likewise, as the write left it.
        """
        with self._lock:
            for (holder, part), entry in self._entries.items():
                if holder == container and entry.current == before(part) and after(part):
                    self._entries[holder, part] = replace(entry, current=after(part))
