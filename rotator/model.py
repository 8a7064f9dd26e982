"""The words of rotator as frozen values: tokens, policies, plans, rotations and their states.

Everybody imports this; it imports nothing of ours but `secret` and `schedule`. Times are aware UTC, durations
`timedelta`. What the journal stores (`Rotation`, `Lineage` and their parts) holds only JSON-able types and never a
secret.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum

from rotator.schedule import HOURLY, Schedule, Windows
from rotator.secret import Secret


class Scope(StrEnum):
    """What a token reaches; fixed when it is created."""

    ORGANIZATION = "organization"
    WORKSPACE = "workspace"
    DEPLOYMENT = "deployment"


class Reason(StrEnum):
    """Why a token is due, in the order in which the conditions are asked."""

    UNSETTLED = "unsettled"
    DRIFTED = "drifted"
    LEAKED = "leaked"
    REQUESTED = "requested"
    EXPIRED = "expired"
    EMERGENCY = "emergency"
    BEFORE_EXPIRY = "before_expiry"
    MAX_AGE = "max_age"
    UNUSED = "unused"


class Skip(StrEnum):
    """Why a token is left alone."""

    NOT_DUE = "not_due"
    PAUSED = "paused"
    WINDOW = "window"
    BLACKOUT = "blackout"
    BACKOFF = "backoff"
    QUARANTINED = "quarantined"
    OTHER_POLICY = "other_policy"
    IN_GRACE = "in_grace"
    OWN_CREDENTIAL = "own_credential"
    BAD_PATH = "bad_path"
    NOT_SELECTED = "not_selected"


class Strategy(StrEnum):
    """How a policy renews a token."""

    IN_PLACE = "in_place"  # rotate: the old secret is dead at once
    OVERLAP = "overlap"  # create a twin, deliver it, end the old one after a grace


class Outcome(StrEnum):
    """How a rotation ended, as metrics and audit say it."""

    SETTLED = "settled"
    UNSETTLED = "unsettled"
    LOST = "lost"
    FAILED = "failed"
    QUARANTINED = "quarantined"


class Step(StrEnum):
    """The steps of one rotation, in order."""

    PREFLIGHT = "preflight"
    LOCK = "lock"
    INTEND = "intend"
    ROTATE = "rotate"
    MINT = "mint"
    DELIVER = "deliver"
    VERIFY = "verify"
    SETTLE = "settle"
    RETIRE = "retire"


class State(StrEnum):
    """Where a rotation stands in the journal; the first five are open, the others closed."""

    INTENDED = "intended"  # the POST may leave at any moment
    IN_DOUBT = "in_doubt"  # the POST may have taken effect
    LOST = "lost"  # it did, and the value never reached us: rotate again
    MINTED = "minted"  # the new secret is sealed in the journal; deliveries run
    UNSETTLED = "unsettled"  # sealed and kept, because a delivery or the proof of it is missing
    SETTLED = "settled"  # every required sink holds a secret that authenticates
    REFUSED = "refused"  # the POST certainly had no effect
    NO_EFFECT = "no_effect"  # it was in doubt, and a late look showed that it had none
    SUPERSEDED = "superseded"  # somebody rotated after us: the sealed value is dead
    ADOPTED = "adopted"  # the secret was lost, but every sink holds a live one that somebody else put there
    QUARANTINED = "quarantined"  # given up; a person must look
    GONE = "gone"  # the token no longer exists at the provider

    @property
    def is_open(self) -> bool:
        """Whether recovery still has work to do."""
        return self in OPEN_STATES

    @property
    def holds_secret(self) -> bool:
        """Whether the journal keeps a sealed value."""
        return self in (State.MINTED, State.UNSETTLED)


OPEN_STATES = frozenset({State.INTENDED, State.IN_DOUBT, State.LOST, State.MINTED, State.UNSETTLED})


class DriftKind(StrEnum):
    """What differs from what we settled."""

    ROTATED_ELSEWHERE = "rotated_elsewhere"  # the generation moved without us
    EDITED = "edited"  # a sink holds something else
    MISSING = "missing"  # a sink holds nothing
    STALE = "stale"  # a sink holds a secret of this token that is dead


class Heal(StrEnum):
    """What mends a drift, gentlest first."""

    ADOPT = "adopt"  # every required sink holds the live secret already: only remember it
    REDELIVER = "redeliver"  # one sink holds it: copy it to the others
    ROTATE = "rotate"  # no sink holds a live secret: only a new one helps
    UNKNOWN = "unknown"  # it cannot be told: shown, never acted on


class Grade(StrEnum):
    """How strong a sink's proof is: of being writable (preflight) or of holding the secret (verify)."""

    PROVEN = "proven"
    ATTESTED = "attested"  # a permission query, a receipt, a moved version
    NONE = "none"

    def reaches(self, wanted: "Grade") -> bool:
        """Whether it is at least as strong."""
        order = list(Grade)
        return order.index(self) <= order.index(wanted)


@dataclass(frozen=True, slots=True)
class Generation:
    """The evidence of which secret of a token is the live one.

    `last_rotated_at` moves with every rotation; where an API generation has no such field it is None before and after,
    and `start_at` stands in for it. Nothing else (`updatedAt`, `shortToken`) is evidence.
    """

    last_rotated_at: datetime | None
    start_at: datetime

    @property
    def moment(self) -> datetime:
        """When this generation of the secret began, UTC."""
        return self.last_rotated_at or self.start_at

    def moved_since(self, earlier: "Generation") -> bool:
        """Whether a rotation happened between the two looks."""
        if self.last_rotated_at is None and earlier.last_rotated_at is None:
            return self.start_at != earlier.start_at
        return self.last_rotated_at != earlier.last_rotated_at

    def is_past(self, earlier: "Generation") -> bool:
        """Whether this one is newer; an older one than we know comes from a replica that lags, and proves nothing."""
        return self.moment > earlier.moment


@dataclass(frozen=True, slots=True)
class Role:
    """One right that a token holds.

    Attributes:
        entity_type: As the API spells it: ORGANIZATION, WORKSPACE, DEPLOYMENT, DAG or DAG_TAG.
        deployment_id: Empty except for DAG and DAG_TAG roles.
    """

    entity_type: str
    entity_id: str
    role: str
    deployment_id: str = ""


@dataclass(frozen=True, slots=True)
class Token:
    """A token as a provider lists it: never with its secret. All text is untrusted.

    Attributes:
        workspace_id: Empty where it does not apply or the API does not say.
        deployment_id: Likewise.
        end_at: None if it never expires.
        life: How long a fresh secret of it lives; None if it never expires.
        created_by: The id of the token or user that made it; empty where the API does not say.
    """

    id: str
    name: str
    scope: Scope
    organization_id: str
    generation: Generation
    created_at: datetime
    description: str = ""
    workspace_id: str = ""
    deployment_id: str = ""
    kind: str = "STANDARD"
    end_at: datetime | None = None
    life: timedelta | None = None
    last_used_at: datetime | None = None
    short_token: str = ""
    roles: tuple[Role, ...] = ()
    created_by: str = ""


@dataclass(frozen=True, slots=True)
class NewToken:
    """What creating a token needs.

    Attributes:
        role: Of the token's own scope; the others are assigned afterwards.
        home: The workspace or deployment id; empty for organization tokens.
        expires_in_days: None for a token that never expires.
    """

    name: str
    scope: Scope
    role: str
    home: str = ""
    description: str = ""
    expires_in_days: int | None = None
    kind: str = "STANDARD"


@dataclass(frozen=True, slots=True)
class Minted:
    """What one successful POST returned: the only copy of the new secret, and the token as it is now."""

    token: Token
    secret: Secret


@dataclass(frozen=True, slots=True)
class Select:
    """Which tokens a policy owns. Default deny: empty `scopes` select nothing.

    Attributes:
        workspaces: Narrows workspace- and deployment-scoped tokens; empty means all. Likewise `deployments` for
            deployment-scoped ones, `ids` and `roles` for all.
        names: Globs; a token must match one. `exclude_names`: it must match none.
    """

    scopes: frozenset[Scope]
    workspaces: frozenset[str] = frozenset()
    deployments: frozenset[str] = frozenset()
    ids: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    names: tuple[str, ...] = ("*",)
    exclude_names: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Share:
    """A fraction of something, 0 to 1: `before_expiry = "20%"`."""

    of: float


@dataclass(frozen=True, slots=True)
class When:
    """When a token is due: when any condition holds.

    Attributes:
        unused_for: Report only: it makes no token due.
    """

    max_age: timedelta | None = None
    before_expiry: timedelta | Share | None = None
    min_interval: timedelta = timedelta(hours=24)
    emergency: timedelta = timedelta(hours=48)
    unused_for: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Brake:
    """How much one sweep of a policy may change before a person has to say yes."""

    max_rotations: int = 50
    max_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Wave:
    """How far one wave of a sweep reaches, the waves before it included: a number of tokens, or a share of them."""

    count: int | None = None
    share: float | None = None

    def reach(self, total: int) -> int:
        """Return how many of the sweep's tokens have had their turn after this wave; one at least."""
        wanted = self.count if self.count is not None else math.ceil(round(total * (self.share or 0), 6))
        return min(total, max(1, wanted))


ALL_AT_ONCE = (Wave(share=1.0),)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an old member of a lineage is ended: `[policies.X]` grace, retire and idle, pinned with the intent.

    Attributes:
        only_unused: `retire = "when_unused"`: not before the old secret has been idle and the new one is in use.
    """

    grace: timedelta
    only_unused: bool = True
    idle: timedelta = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One `[[policies.X.deliver]]` block: where secrets of a policy go, before it is resolved for a token.

    Attributes:
        sink: The name of a configured sink.
        options: The block's own keys, validated by the sink's type: templates such as `path`, `fields`.
    """

    sink: str
    options: Mapping[str, object]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Policy:
    """Which tokens, when, how, to which sinks, with which brake.

    Attributes:
        strategy: `in_place` or `overlap`.
        schedule: When it is swept.
        timezone: The IANA name of the zone that schedule, windows and blackouts are meant in.
        windows: When its tokens may be rotated; None if always.
        blackouts: When they may not; None if never.
        waves: In which steps one sweep rotates what is due; the last reaches all.
        on_drift: `rotate` or `alert`.
        grace: How long both secrets of an overlap live.
        idle: How long the old secret must be unused before it is retired; likewise overlap only.
        retire: `when_unused` or `after_grace`.
        preflight: The grade that the sinks of its required deliveries must reach.
        digest: Of everything the file says that bears on it: a failure under another digest is no reason to wait.
    """

    name: str
    provider: str
    select: Select
    when: When
    deliveries: tuple[Delivery, ...]
    strategy: Strategy = Strategy.IN_PLACE
    jitter: float = 0.05
    brake: Brake = field(default_factory=Brake)
    paused_until: datetime | None = None
    pause_reason: str = ""
    schedule: Schedule = HOURLY
    timezone: str = "UTC"
    windows: Windows | None = None
    blackouts: Windows | None = None
    waves: tuple[Wave, ...] = ALL_AT_ONCE
    on_drift: str = "rotate"
    grace: timedelta = timedelta(hours=24)
    idle: timedelta = timedelta(days=7)
    retire: str = "when_unused"
    preflight: Grade = Grade.NONE
    digest: str = ""

    @property
    def ending(self) -> Ending:
        """How an old member is ended after an overlap."""
        return Ending(self.grace, self.retire == "when_unused", self.idle)


@dataclass(frozen=True, slots=True)
class Place:
    """One delivery resolved for one token: exactly where the secret will be written.

    Attributes:
        location: Says the place to people and stands for it in records. One line, printable.
        options: What the sink needs to write there, JSON-able, journalled with the intent.
        parts: Everything that is written there, if it is more than the location says: several keys of one file, each as
            `file#key`. Whoever writes the whole of what is before a `#` collides with them too.
        reference: The secret reference that reads exactly what is written here (`file:/path`); empty if none does.
        store: What the location is in, the same for all sinks that write to it: `vault https://vault.example`. Empty
            if the sink cannot say; then a place is only known by the name of its sink.
    """

    sink: str
    location: str
    options: Mapping[str, object]
    required: bool = True
    parts: tuple[str, ...] = ()
    reference: str = ""
    store: str = ""

    @property
    def claims(self) -> tuple[tuple[str, str], ...]:
        """What a lineage owns by delivering here, as (sink or store, location): deliveries collide if they share one.

        Both, for a sink may get another name or another address, and two sinks may write to one store.
        """
        homes = (self.sink, self.store) if self.store else (self.sink,)
        return tuple((home, part) for home in homes for part in self.parts or (self.location,))


@dataclass(frozen=True, slots=True)
class Mint:
    """One new secret with what sinks may write beside it.

    Attributes:
        id: One id a POST: the idempotency key of every delivery of this value.
        token_id: Whose secret it is: the twin's after an overlap.
        rotated_at: The provider's own time of the rotation, UTC.
        lineage: The root id of the credential.
        fingerprint: `keyid:hex` under the journal's own key; empty without a journal.
    """

    id: str
    rotation_id: str
    token_id: str
    secret: Secret
    rotated_at: datetime
    end_at: datetime | None
    lineage: str = ""
    fingerprint: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a sink says of a write: `version` is its own name for what it now holds, empty if it has none."""

    location: str
    version: str = ""


@dataclass(frozen=True, slots=True)
class Held:
    """What a place holds now, read back.

    Attributes:
        secret: None if the sink cannot read; raise `NotFound` if there is nothing at the place.
        mint_id: From the sink's own metadata, empty if it carries none.
        version: The sink's own name for what it holds; what cannot be read is known by it and by `mint_id` alone.
    """

    secret: Secret | None
    mint_id: str = ""
    version: str = ""


class DeliveryState(StrEnum):
    """How far one delivery of one mint has come."""

    PENDING = "pending"
    DELIVERED = "delivered"
    VERIFIED = "verified"


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """One delivery as the journal remembers it. A new mint resets it to pending."""

    place: Place
    state: DeliveryState = DeliveryState.PENDING
    version: str = ""
    attempts: int = 0
    error: str = ""
    grade: Grade = Grade.NONE


@dataclass(frozen=True, slots=True)
class Rotation:
    """One attempt of the engine on one lineage, as the journal stores it; the sealed secret lies beside it.

    Attributes:
        lineage: The root id of the credential: the first id it had.
        name, scope, organization_id: Pinned when the intent was written (confused deputy).
        observed: The generation at the last look before the latest POST.
        posts: How many POSTs have been journalled so far: one is written *before* each leaves.
        refused: How many of them certainly had no effect.
        losses: How many of them are known to have made a secret that nobody holds.
        mint_id: Of the value that is sealed; empty before the first.
        minted: The generation that the rotate response showed.
        doubted_at: The latest POST whose outcome was unknown; a rotation that ever had one settles late.
        next_at: Not to be tried again before this.
        message: The latest obstacle in our own words.
        strategy: `overlap` mints by creating a twin; then `successor` is its id.
        description, life: Of the token when the intent was written; a twin gets the same.
        doubts: Ids of the POSTs whose outcome was never learnt (see `post_id`); a twin of one may still appear.
        ending: How the old member is ended after an overlap.
        own: It is the credential rotator itself works with.
    """

    id: str
    provider: str
    lineage: str
    token_id: str
    policy: str
    reason: Reason
    state: State
    name: str
    scope: Scope
    organization_id: str
    observed: Generation
    opened_at: datetime
    deliveries: tuple[DeliveryRecord, ...]
    workspace_id: str = ""
    deployment_id: str = ""
    strategy: Strategy = Strategy.IN_PLACE
    roles: tuple[Role, ...] = ()
    description: str = ""
    life: timedelta | None = None
    ending: Ending | None = None
    own: bool = False
    end_at_before: datetime | None = None
    posts: int = 0
    refused: int = 0
    losses: int = 0
    mint_id: str = ""
    minted: Generation | None = None
    minted_at: datetime | None = None
    successor: str = ""
    end_at: datetime | None = None
    fingerprint: str = ""
    verdict: Grade = Grade.NONE
    doubted_at: datetime | None = None
    doubts: tuple[str, ...] = ()
    next_at: datetime | None = None
    missing_since: datetime | None = None
    message: str = ""
    closed_at: datetime | None = None

    @property
    def minted_token_id(self) -> str:
        """Whose secret the sealed value is: the twin's after an overlap, else the token's own."""
        return self.successor or self.token_id

    @property
    def claims(self) -> tuple[tuple[str, str], ...]:
        """What the lineage owns while this is open."""
        return tuple(claim for record in self.deliveries for claim in record.place.claims)

    @property
    def post_id(self) -> str:
        """Names the latest POST of this rotation."""
        return f"{self.id}-{self.posts}"


@dataclass(frozen=True, slots=True)
class Retiring:
    """An old member of a lineage whose successor has settled: alive until it is deleted.

    Attributes:
        since: When its successor settled.
        message: Why it still lives, as of the last look.
        policy, rotation_id: Of the rotation that replaced it.
    """

    token_id: str
    name: str
    scope: Scope
    since: datetime
    ending: Ending
    workspace_id: str = ""
    deployment_id: str = ""
    policy: str = ""
    rotation_id: str = ""
    message: str = ""

    @property
    def due_at(self) -> datetime:
        """Not to be ended before this."""
        return self.since + self.ending.grace


@dataclass(frozen=True, slots=True)
class Watch:
    """A twin that an unanswered create may still bring into being.

    Attributes:
        post_id: What its marker says.
        intended_at: It cannot be older than this.
        until: Looked for until then.
    """

    post_id: str
    intended_at: datetime
    until: datetime


@dataclass(frozen=True, slots=True)
class Drift:
    """How the sinks or the provider differ from what we settled, as of the last look.

    Attributes:
        generation: Of the token at that look.
        proven_dead: A sink holds a secret of this token that no longer authenticates: consumers are cut off already.
        sinks: Those that were found with something else than what belongs there.
    """

    kind: DriftKind
    heal: Heal
    message: str
    found_at: datetime
    generation: Generation
    proven_dead: bool = False
    sinks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lineage:
    """What we remember of one credential between rotations.

    Attributes:
        id: The root: the first token id it had. It stands for the credential in select, paths, collisions and brake.
        token_id: The member that is in use now.
        version: Counts the changes of this record; a rotation opens only if it has not moved since the last look.
        minted_at: Our latest successful POST, settled or not.
        settled_at: None until the first settlement, from then on the credential is *managed*.
        places: Where it last settled.
        scope, workspace_id, deployment_id: Of the token, so that it can be addressed; None if not known.
        twin: A member that was made and has not settled yet.
        missing_since: When the API first did not know the member in use any more.
        fingerprint: Keyed, of the value that last settled.
        expiry_fixed: A rotation of ours did not move `endAt`, so expiry reasons no longer rotate it in place.
        stale: The sinks hold a value that somebody superseded: due as unsettled.
        failures: Consecutive rotations that came to nothing; sets `retry_at` (backoff).
        retry_under: The digest of the policy that failed; under a changed one there is no backoff.
        mint_id: Of the value that last settled; empty if it was adopted.
        versions: What the sinks called it, by place; empty if it was adopted.
        owed: Places, as `sink:location`, that hold it although their readers could not be told yet.
        issued_at: From the JWT that a sink held at the last look: how old it is, when nothing else says so.
        looked_at: When its sinks were last read; `drift` is what was found.
        drift_rotations: When drift made us rotate; a second one soon after means that somebody fights us.
        retiring: Old members in grace. `watches`: twins that may still appear.
        probes: When we ourselves authenticated as the member in use: such uses are not a consumer's.
    """

    provider: str
    id: str
    token_id: str
    name: str
    version: int = 0
    minted_at: datetime | None = None
    settled_at: datetime | None = None
    generation: Generation | None = None
    places: tuple[Place, ...] = ()
    scope: Scope | None = None
    workspace_id: str = ""
    deployment_id: str = ""
    twin: str = ""
    missing_since: datetime | None = None
    move_accepted: bool = False
    fingerprint: str = ""
    expiry_fixed: bool = False
    stale: bool = False
    failures: int = 0
    retry_at: datetime | None = None
    quarantined_at: datetime | None = None
    quarantine_reason: str = ""
    gone_at: datetime | None = None
    open_state: State | None = None
    open_message: str = ""
    retry_under: str = ""
    mint_id: str = ""
    versions: tuple[str, ...] = ()
    owed: tuple[str, ...] = ()
    issued_at: datetime | None = None
    looked_at: datetime | None = None
    drift: Drift | None = None
    drift_rotations: tuple[datetime, ...] = ()
    retiring: tuple[Retiring, ...] = ()
    watches: tuple[Watch, ...] = ()
    probes: tuple[datetime, ...] = ()

    @property
    def members(self) -> tuple[str, ...]:
        """Every token id that is alive in it, as far as we know."""
        living = (self.token_id, self.twin, *[old.token_id for old in self.retiring])
        return tuple([member for member in living if member])
