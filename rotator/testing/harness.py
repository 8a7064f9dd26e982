"""What a sink's author writes: the outside of the sink, as the kit needs it.

The first five methods are needed. The others are hooks: each makes one more behaviour checkable. A hook that is
missing, or returns None, skips its behaviour, and the report says so, with the reason that `lacks` gives. A harness
need not inherit from `Harness`; who does gets every hook as "not offered".
"""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Protocol

from rotator.model import Place
from rotator.ports import Sink


class Harness(Protocol):
    """The outside of one form of delivery of one sink.

    Attributes:
        kind: The sink's type, as in `type = "..."`.
        sink: Built for this test.
        block: The keys of a `[[policies.X.deliver]]` block; the place must depend on `{name}`.
        is_readable: False for a sink that cannot read back what it holds.
        edits_move_versions: False where the outside has no versions, so that the sink names what it wrote itself.
        largest_secret: Characters of the longest secret that it has to take.
        retry_after: What `throttled` answers as the pause to keep; None if it names none.
        sibling: Another block that writes another key of the same object for the same token, or where a place has no
            keys, right beside it; None if there is no such.
        lacks: Hooks that cannot be offered, each with why not: what the outside has no notion of.
        outside_loggers: Loggers of the harness' own servers, which run in the test's process and may log what they get.
        patience_s: How long any one call may take, also while nothing answers.
    """

    kind: str
    sink: Sink
    block: dict[str, object]
    is_readable: bool = True
    edits_move_versions: bool = True
    largest_secret: int = 16384
    retry_after: timedelta | None = None
    sibling: dict[str, object] | None = None
    lacks: Mapping[str, str] = {}
    outside_loggers: tuple[str, ...] = ()
    patience_s: float = 60.0

    def read(self, place: Place) -> str | None:
        """Return the secret as a consumer finds it, without the sink's help; None if there is none."""
        ...

    def write(self, place: Place, secret: str) -> None:
        """Put a secret there by hand, as a person would."""
        ...

    def plant_neighbour(self, place: Place) -> None:
        """Put something that is not ours as close to the place as can be: another key, odd spacing, a last line end."""
        ...

    def neighbour_is_whole(self, place: Place) -> bool:
        """Whether exactly that is still there, byte for byte."""
        ...

    def broken(self, place: Place) -> AbstractContextManager[None]:
        """Make writing impossible for a while."""
        ...

    def rebuilt(self) -> Sink | None:
        """Return another instance with the same configuration, as after a restart."""
        return None

    def remove(self, place: Place) -> bool | None:
        """Remove by hand what is there; True."""
        return None

    def answer_lost(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while the outside carries out each write and then does not answer."""
        return None

    def request_lost(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while the outside neither carries out a write nor answers it."""
        return None

    def throttled(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while the outside refuses every call because there were too many."""
        return None

    def denied(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while our credential may not write, and if that is possible not read."""
        return None

    def unreachable(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while nobody listens."""
        return None

    def reads_fail(self, place: Place) -> AbstractContextManager[None] | None:
        """For a while reading fails with an error of the outside, while writing would work."""
        return None

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None] | None:
        """In the block, somebody edits the neighbour once between a delivery's read and its write.

        Afterwards `neighbour_is_whole` asks for the neighbour as that person left it.
        """
        return None

    def calls(self) -> int | None:
        """Return how many requests the outside has seen so far."""
        return None
