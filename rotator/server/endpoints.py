"""What the server asks of the daemon that runs it."""

from collections.abc import Callable
from dataclasses import dataclass

from rotator.board import Snapshot


@dataclass(frozen=True, slots=True)
class Endpoints:
    """Where the answers come from. Each is called in a thread of its own, one call at a time.

    Attributes:
        snapshot: Returns the board as it is now.
        metrics: Takes an Accept header; returns the body and its content type.
        live: Returns why the daemon is dead; empty if it lives. Never asks anybody upstream, never waits.
        ready: Returns why the daemon can do no work; empty if it can. Never asks anybody upstream.
    """

    snapshot: Callable[[], Snapshot]
    metrics: Callable[[str], tuple[bytes, str]]
    live: Callable[[], str]
    ready: Callable[[], str]
