"""What both kinds of containers in Astro have in common: what is seen of a place, and what can be done there."""

from dataclasses import dataclass
from typing import Protocol

from rotator.model import Mint
from rotator.secret import Secret
from rotator.sinks._astro_calls import Document
from rotator.sinks._astro_place import Target


@dataclass(frozen=True, slots=True)
class Seen:
    """A place as it is now.

    Attributes:
        document: The container; None if there is no such object yet.
        exists: Whether our part of it holds anything.
        secret: What it holds; None where the API hides it.
        version: When the API says that it was last written.
    """

    document: Document | None
    exists: bool
    secret: Secret | None = None
    version: str = ""


class Shelf(Protocol):
    """A kind of container; errors do not name the place, the sink puts its name before them."""

    def read(self, target: Target) -> Seen:
        """Return what is there.

        Raises:
            Temporary, Permanent: It cannot be read.
        """
        ...

    def problem(self, target: Target, seen: Seen) -> str:
        """Return why it must not be written; empty if it may."""
        ...

    def write(self, target: Target, seen: Seen, mint: Mint) -> str:
        """Write the secret into what was seen, and return the version that the API answers, empty if it says none.

        Raises:
            Temporary, Permanent: Not written.
            OutcomeUnknown: Perhaps written.
        """
        ...

    def version(self, document: Document, part: str) -> str:
        """Return when a part was last written; empty if it is not there."""
        ...

    def lost(self, before: Seen, after: Seen) -> str:
        """Return what of others went missing between two looks; empty if nothing."""
        ...
