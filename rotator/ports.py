"""What the engine needs of the outside, as Protocols: only the methods it calls.

Adapters (`providers`, `sinks`, `journal`) implement them, `app` puts them together, tests hand in small real ones.
Every method raises only exceptions of `rotator.errors`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from rotator.events import Event
from rotator.model import (
    Held,
    Lineage,
    Mint,
    Minted,
    NewToken,
    Place,
    Reason,
    Receipt,
    Role,
    Rotation,
    Scope,
    Strategy,
    Token,
)
from rotator.secret import Secret

Emit = Callable[[Event], None]


class Clock(Protocol):
    """Time, handed in so that tests own it."""

    def now(self) -> datetime:
        """Return the wall clock, aware UTC."""
        ...

    def monotonic(self) -> float:
        """Return seconds that never go back, for durations."""
        ...

    def sleep(self, duration: timedelta, *, through: bool = False) -> None:
        """Block this thread; less long where the process is told to stop, but for what has to be slept through."""
        ...


@dataclass(frozen=True, slots=True)
class TokenRef:
    """How to address a token: v1alpha1 needs the scope and its ids in the path, the others only the id."""

    id: str
    scope: Scope
    workspace_id: str = ""
    deployment_id: str = ""


@dataclass(frozen=True, slots=True)
class Listing:
    """Which part of the organization to list.

    Attributes:
        scopes: The scopes that matter; adapters may leave other tokens out.
        workspaces: When not empty, tokens of these are listed with their workspace known.
        deployments: Likewise (v1alpha1 lists deployment-scoped tokens only by deployment).
        everything: Whether tokens outside `workspaces` and `deployments` matter too.
    """

    scopes: frozenset[Scope]
    workspaces: frozenset[str] = frozenset()
    deployments: frozenset[str] = frozenset()
    everything: bool = True


@dataclass(frozen=True, slots=True)
class OwnCredential:
    """A credential that rotator itself works with.

    Attributes:
        reference: Where it is: `env:NAME`, `file:/absolute/path`, `vault:mount/path#key`, `aws:name#key`.
        read: Returns it as it is there now; raises ConfigError, or Temporary where its store cannot be reached.
        is_remote: Reading it costs a request, so what was read serves for a moment.
    """

    reference: str
    read: Callable[[], Secret]
    is_remote: bool = False


@dataclass(frozen=True, slots=True)
class Holder:
    """A table of the configuration that works with a token, besides the provider that is asked about.

    Attributes:
        table: `providers.X` or `sinks.X`.
        reference: Where it reads the secret, see `OwnCredential`.
        renews: Whether policies of its own can renew it; then no others do.
    """

    table: str
    reference: str
    renews: bool


@dataclass(frozen=True, slots=True)
class Others:
    """What the rest of the configuration works with now.

    Attributes:
        holders: By the id of the token.
        unread: Which credential cannot be read now, and never could, so that any token may be it; empty if none.
    """

    holders: Mapping[str, tuple[Holder, ...]]
    unread: str = ""


class Provider(Protocol):
    """The API that owns tokens and rotates them."""

    name: str
    organization_id: str

    def list(self, listing: Listing) -> Iterator[Token]:
        """Yield every token once, page by page, also while the order moves under us.

        Raises:
            Temporary, Permanent: The listing is incomplete; nothing may be concluded from what came.
        """
        ...

    def get(self, ref: TokenRef) -> Token:
        """Return the token as it is now.

        Raises:
            NotFound: The API itself says that there is no such token.
            Temporary, Permanent: It could not be read.
        """
        ...

    def rotate(self, ref: TokenRef) -> Minted:
        """Make a new secret; the old one is dead at once. Exactly one POST leaves, never a second.

        Raises:
            Temporary, Permanent: Certainly no effect.
            OutcomeUnknown: The POST may have taken effect.
        """
        ...

    def authenticate(self, ref: TokenRef, secret: Secret) -> Token:
        """Return the token, read with `secret` as the credential.

        Raises:
            CredentialRejected: 401 or an edge 403: the secret is not alive now.
            Forbidden: The application knows the secret but its role may not read tokens.
            Temporary, Permanent: No verdict.
        """
        ...

    def create(self, new: NewToken) -> Minted:
        """Make another token. Exactly one POST leaves, never a second.

        Raises:
            Temporary, Permanent: Certainly not made.
            OutcomeUnknown: Perhaps made.
        """
        ...

    def update_roles(self, token: Token, roles: Sequence[Role]) -> None:
        """Replace all roles of a token.

        Raises:
            Temporary, Permanent: Not replaced, or repeating is safe.
        """
        ...

    def delete(self, ref: TokenRef) -> None:
        """End a token for good; repeating is safe.

        Raises:
            NotFound: It was gone before.
            Temporary, Permanent: It may still be there.
        """
        ...

    def own_credentials(self) -> Mapping[str, OwnCredential]:
        """Return our own credentials by the id of the token that each says it is.

        Raises:
            ConfigError: One of them cannot be read, or does not say which token it is.
            Temporary: The store of one cannot be reached, and never could, so that any token may be this one.
        """
        ...

    def through(self, credential: Callable[[], Secret]) -> "Provider":
        """Return the same provider working with this credential first, and with our own where it is rejected."""
        ...

    def clock_skew(self) -> timedelta | None:
        """Return how far the API's clock is ahead of ours, by the latest response; None before the first."""
        ...


class Sink(Protocol):
    """Where secrets go. Writes are idempotent by mint id or compare-and-set, and never touch neighbours."""

    name: str

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """Return where a delivery writes for the token that `facts` describe; pure, nothing is contacted.

        Args:
            options: The validated options of the delivery block.
            facts: Placeholder name to value; see `rotator.templates.PLACEHOLDERS`. Values are untrusted.

        Raises:
            Permanent: No safe place results (an empty placeholder, a name that would escape, too long).
        """
        ...

    def preflight(self, place: Place) -> None:
        """Show that this very place can be written, without writing a consumer's key.

        Raises:
            Temporary, Permanent: It cannot.
        """
        ...

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """Write the secret; a place that already holds this mint is not written again.

        Raises:
            Temporary, Permanent: Not written.
            OutcomeUnknown: Perhaps written; delivering again is safe.
        """
        ...

    def read_back(self, place: Place) -> Held:
        """Return what the place holds now.

        Raises:
            NotFound: It holds nothing.
            Temporary, Permanent: It could not be read.
        """
        ...

    def close(self) -> None:
        """Let go of connections and threads; called once, after the last call."""
        ...


@runtime_checkable
class Follower(Protocol):
    """A sink that has something to do once a secret has arrived everywhere, such as restarting who reads it."""

    def follow_up(self, place: Place, mint: Mint) -> None:
        """Do it once a mint; called when the place holds a proven secret, and before the rotation settles.

        An overlap waits for every required sink first; in place the old secret is dead, so nobody waits for the others.

        Raises:
            NotFound: There is nobody left to tell; said, and not repeated.
            Temporary, Permanent, OutcomeUnknown: Not done, or perhaps not; it is called again, so repeating is safe.
        """
        ...


@dataclass(frozen=True, slots=True)
class Write:
    """One change of the journal, committed with its facts or not at all.

    Attributes:
        rotation: The record as it shall be; with `closed_at` set it is closed and its seal erased.
        lineage: The record as it shall be; the journal raises `version` itself.
        secret: Sealed beside the rotation with its mint id and token id as associated data.
        claims: Places that belong to the lineage from now on, as (sink, location), but for those that another one owns.
            A rotation that closes without any gives back what it took when it opened, unless its sinks may hold
            something of it (the lineage is `stale`).
        events: History rows, and audit lines.
        must_audit: An audit line that cannot be written stops this write (before anything irreversible); otherwise
            the write goes ahead and the failure is emitted.
        durable: Survives a power cut once `write` returns. Repeatable steps need not.
    """

    rotation: Rotation | None = None
    lineage: Lineage | None = None
    secret: Secret | None = None
    claims: tuple[tuple[str, str], ...] = ()
    events: tuple[Event, ...] = ()
    must_audit: bool = False
    durable: bool = True


class Journal(Protocol):
    """What we must remember. Every write is atomic; readers never see half of one."""

    def lineages(self, provider: str, token_ids: Sequence[str]) -> Mapping[str, Lineage]:
        """Return what is known of these tokens, by token id: root, in use or retiring; unknown ones are absent."""
        ...

    def overlapped(self, provider: str) -> Sequence[Lineage]:
        """Return the lineages that have, or had, other members than their root."""
        ...

    def open_rotations(self, provider: str) -> Sequence[Rotation]:
        """Return rotations that recovery has to look at, oldest first, whoever holds them."""
        ...

    def open(self, rotation: Rotation, lineage: Lineage, events: tuple[Event, ...]) -> bool:
        """Claim the lineage and its places and write the intent, durably and audited, in one step.

        Args:
            rotation: In state INTENDED with `posts` = 1.
            lineage: As read before the last look: if anything changed it since, nothing is written.

        Returns:
            False if another rotation of the lineage is open, somebody alive holds it (`hold`), it moved since, or a
            place belongs to another lineage; then nothing was written.

        Raises:
            AuditUnavailable, Temporary, Permanent: Nothing was written.
        """
        ...

    def claim(self, rotation_id: str) -> Rotation | None:
        """Take over an open rotation that nobody alive holds; None if somebody does or it is closed."""
        ...

    def release(self, rotation_id: str) -> None:
        """Let others claim an open rotation that we hold."""
        ...

    def hold(self, provider: str, lineage_id: str) -> AbstractContextManager[None]:
        """Keep a lineage for the block: no rotation of it opens and nobody else holds it; a dead process holds nothing.

        Entering raises:
            Temporary: A rotation of it is open, or somebody alive holds it.
        """
        ...

    def write(self, write: Write) -> None:
        """Commit one change. A rotation in it must be held by us.

        Raises:
            AuditUnavailable: Only with `must_audit`; nothing was written.
            Temporary: Disk full or locked; nothing was written.
            NoLongerHeld: Another process has taken the rotation over; nothing was written.
            Permanent: The journal is damaged.
        """
        ...

    def remember(self, *writes: Write) -> tuple[bool, ...]:
        """Commit what was learnt of lineages outside rotations.

        Args:
            writes: Each with a lineage and no rotation; its `version` is still that of when it was read.

        Returns:
            For each, False if somebody changed the lineage since then, a rotation of it is open, or a place that it
            claims belongs to another lineage; then nothing of it was written.

        Raises:
            AuditUnavailable, Temporary, Permanent: Nothing was written.
        """
        ...

    def secret(self, rotation: Rotation) -> Secret:
        """Return the sealed value of a rotation.

        Raises:
            NotFound: There is none.
            Permanent: No key opens it.
        """
        ...

    def fingerprint(self, secret: Secret) -> str:
        """Return `keyid:hex` of the secret under the journal's own fingerprint key."""
        ...

    def mac(self, text: str) -> str:
        """Return 32 hex digits that only this journal can make of the text."""
        ...

    def place_owners(self, places: Sequence[tuple[str, str]]) -> Mapping[tuple[str, str], tuple[str, str]]:
        """Return (provider, lineage) by (sink, location) for the places that somebody owns.

        Also for the whole of which one is a key (`file` of `file#key`), and for the keys of one that is such a whole.
        """
        ...

    def preflight(self) -> None:
        """Show that journal and audit can be written and have space.

        Raises:
            Temporary, Permanent: They cannot.
        """
        ...

    def erase(self) -> bool:
        """Checkpoint and truncate so that erased seals are gone from the disk; called at the end of a sweep.

        Returns:
            False if somebody reads the journal at this moment: then some may still be there.

        Raises:
            Temporary, Permanent: Likewise.
        """
        ...


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody may say no to: one token, just before its rotation begins.

    Attributes:
        at: UTC.
        rotation_id: Of the rotation that would begin.
        reason: Why it is due. `message`: the same in words.
        places: Where its secret would go.
    """

    at: datetime
    rotation_id: str
    provider: str
    policy: str
    token: Token
    reason: Reason
    message: str
    strategy: Strategy
    places: tuple[Place, ...]


class Veto(Protocol):
    """Whoever is asked before a rotation begins."""

    def ask(self, question: Question) -> str:
        """Return why the token is to be left alone now; empty to go on. Never raises."""
        ...
