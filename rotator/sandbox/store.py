"""The organization's tokens: one store under all generations of the API.

The API changes it from the server's thread; tests look at it, and may change records, from theirs. It keeps no secret:
a record's live secret is minted again from its claims whenever somebody asks.

Source: fact sheet 2.2 for what a rotate changes, 2.3 for times.
"""

import hashlib
import random
import secrets
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from rotator.sandbox.jwt import Flaw, Signer

OWNER_NAME = "rotator-credential"
PERIOD_DAYS = 365
SCOPES = ("ORGANIZATION", "WORKSPACE", "DEPLOYMENT")
_DEPLOYMENTS_PER_WORKSPACE = 2
_TEAMS = ("billing", "etl", "reports", "ingest", "ml", "crm", "audit", "search")
_WORKSPACE_ROLES = ("WORKSPACE_OWNER", "WORKSPACE_OPERATOR", "WORKSPACE_AUTHOR", "WORKSPACE_MEMBER")
_HOSTILE = (
    "../../etc/passwd",
    "line\nbreak\r\nX-Injected: 1",
    "\x1b[31mred\x1b[0m",
    "{{ secret }} {name!r} %s ${HOME}",
    "$(touch /tmp/owned); `id`",
    "[bold]markup[/bold] [/]",
    "\u202egnp.nekot",
    "=cmd|' /C calc'!A0",
    "quote\"back\\slash'",
    "nul\x00and\x07bell",
    " leading and trailing ",
    "<script>alert(1)</script>",
    "%2e%2e%2f?x=1#y",
    "naïve-日本語-🔑",
    "x" * 256,
    "same-name",
)


@dataclass(frozen=True, slots=True)
class Role:
    """ApiTokenRole; `deployment_id` for roles on a DAG only."""

    entity_type: str
    entity_id: str
    role: str
    deployment_id: str = ""


@dataclass(slots=True)
class Record:
    """One token as the store knows it; all times are aware UTC in whole milliseconds.

    Attributes:
        entity_id: The organization, workspace or deployment of its scope.
        workspace_id: The workspace it lives in; empty for organization tokens.
        jti: Names the live secret; changed by each rotation.
        created_by, updated_by: Ids of tokens.
    """

    id: str
    name: str
    scope: str
    entity_id: str
    workspace_id: str
    roles: tuple[Role, ...]
    created_at: datetime
    updated_at: datetime
    start_at: datetime
    jti: str
    created_by: str
    updated_by: str
    description: str = ""
    kind: str = "STANDARD"
    last_rotated_at: datetime | None = None
    last_used_at: datetime | None = None
    end_at: datetime | None = None
    expiry_days: int | None = None
    life: timedelta | None = None

    @property
    def lasts(self) -> timedelta | None:
        """How long a fresh secret lives; None for ever. `life` is for what whole days cannot say."""
        return self.life or (None if self.expiry_days is None else timedelta(days=self.expiry_days))

    @property
    def short_token(self) -> str:
        """Something short that changes with the secret."""
        return hashlib.sha256(self.jti.encode()).hexdigest()[:8]

    def has_role(self, entity_id: str, *roles: str) -> bool:
        """Return whether it holds one of these roles there."""
        return any(held.entity_id == entity_id and held.role in roles for held in self.roles)


@dataclass(frozen=True, slots=True)
class Population:
    """What to fill a store with; see `SandboxConfig`."""

    tokens: int = 24
    seed: int = 0
    due_fraction: float = 0.5
    hostile_names: bool = False
    life: timedelta | None = None


@dataclass(frozen=True, slots=True)
class Draft:
    """A token to create."""

    name: str
    scope: str
    entity_id: str
    role: str
    description: str = ""
    kind: str = "STANDARD"
    expiry_days: int | None = None


@dataclass(slots=True)
class _Versions:
    """How often something changed that an order or a filter depends on."""

    by_field: Counter[str] = field(default_factory=Counter)

    def bump(self, *fields: str) -> None:
        self.by_field.update(fields)

    def of(self, fields: Sequence[str]) -> tuple[int, ...]:
        return tuple([self.by_field[name] for name in fields])


class Store:
    """All tokens of one organization.

    Args:
        organization_id: Whose.
        population: What it holds at first, besides the owner's credential.
        now: Returns the server's time, aware.
        rotate_moves_expiry: Whether a rotation restarts a token's life.

    Attributes:
        tokens: Records by id. Without `sorts` they are listed in an order in which whatever is written moves to the
            end, as rows do in a database: a listing in pages shifts under its reader.
        owner_id: The token that may do everything.
    """

    def __init__(
        self,
        organization_id: str,
        population: Population,
        now: Callable[[], datetime],
        *,
        rotate_moves_expiry: bool = True,
    ) -> None:
        self.organization_id = organization_id
        self.workspaces = tuple([_identifier(population.seed, f"workspace-{n}") for n in range(3)])
        self.deployments = {
            _identifier(population.seed, f"deployment-{workspace}-{n}"): workspace
            for workspace in self.workspaces
            for n in range(_DEPLOYMENTS_PER_WORKSPACE)
        }
        self._signer = Signer(hashlib.sha256(f"sandbox:{population.seed}".encode()).digest())
        self._now = now
        self._moves_expiry = rotate_moves_expiry
        self._guard = threading.RLock()
        self._versions = _Versions()
        self._views: dict[object, tuple[tuple[int, ...], list[str]]] = {}
        self._posts: Counter[str] = Counter()
        self._rotations: Counter[str] = Counter()
        self.owner_id = _identifier(population.seed, "owner")
        self.tokens: dict[str, Record] = {self.owner_id: self._owner()}
        self._populate(population)
        self._order: dict[str, None] = dict.fromkeys(self.tokens)

    def now(self) -> datetime:
        """Return the server's time in whole milliseconds, UTC."""
        return _milliseconds(self._now())

    def secret_of(self, token_id: str) -> str:
        """Return the live secret of a token; raises KeyError."""
        record = self.tokens[token_id]
        issued_s = int(record.start_at.timestamp())
        claims: dict[str, object] = {
            "iss": "https://sandbox.invalid/",
            "sub": record.id,
            "aud": "astronomer-ee",
            "iat": issued_s,
            "nbf": issued_s,
            "jti": record.jti,
            "kid": "sandbox",
            "version": "1.0",
            "org_id": self.organization_id,
            "scope": f"apiToken:{record.id}",
            "permissions": self._permissions(record),
            "apiTokenId": record.id,
            "isAstronomerGenerated": True,
        }
        if record.end_at is not None:
            claims["exp"] = int(record.end_at.timestamp())
        return self._signer.sign(claims)

    def check(self, secret: str) -> Record | Flaw | None:
        """Return whose secret it is, why the edge refuses it, or None for one that was valid once."""
        read = self._signer.read(secret, self._now().timestamp())
        if isinstance(read, Flaw):
            return read
        record = self.tokens.get(read.token_id)
        if record is None or record.jti != read.jti:
            return None
        # A test may move `end_at` of a record whose secret it holds already.
        is_over = record.end_at is not None and record.end_at <= self._now()
        return Flaw.EXPIRED if is_over else record

    def authenticates_as(self, secret: str) -> str | None:
        """Return the id of the token whose live secret this is."""
        found = self.check(secret)
        return found.id if isinstance(found, Record) else None

    def is_alive(self, secret: str) -> bool:
        """Return whether a request with this secret would be let in."""
        return self.authenticates_as(secret) is not None

    def rotations(self, token_id: str) -> int:
        """Return how often a token got a new secret here."""
        return self._rotations[token_id]

    def posts(self, token_id: str) -> int:
        """Return how many rotate requests for a token arrived, whatever became of them."""
        return self._posts[token_id]

    def count_post(self, token_id: str) -> None:
        """Count a rotate request that arrived."""
        with self._guard:
            self._posts[token_id] += 1

    def touch(self, token_id: str) -> None:
        """Note that a token was used."""
        record = self.tokens.get(token_id)
        if record is not None:
            record.last_used_at = self.now()

    def rotate(self, token_id: str, by: str) -> Record:
        """Give a token a new secret, which ends the old one at once; raises KeyError."""
        with self._guard:
            record, now = self.tokens[token_id], self.now()
            record.jti = secrets.token_hex(12)
            record.last_rotated_at = record.start_at = now
            if self._moves_expiry and record.lasts is not None:
                record.end_at = now + record.lasts
            self._rotations[token_id] += 1
            self._written(record, by, "tokenStartAt", "shortToken")
            return record

    def create(self, draft: Draft, by: str) -> Record:
        """Add a token."""
        with self._guard:
            token_id, now = f"cm{secrets.token_hex(12)[:23]}", self.now()
            days = draft.expiry_days
            record = Record(
                id=token_id,
                name=draft.name,
                scope=draft.scope,
                entity_id=draft.entity_id,
                workspace_id=self.workspace_of(draft.scope, draft.entity_id),
                roles=(Role(draft.scope, draft.entity_id, draft.role),),
                created_at=now,
                updated_at=now,
                start_at=now,
                jti=secrets.token_hex(12),
                created_by=by,
                updated_by=by,
                description=draft.description,
                kind=draft.kind,
                end_at=None if days is None else now + timedelta(days=days),
                expiry_days=days,
            )
            self.tokens[token_id] = record
            self._order[token_id] = None
            self._versions.bump("members")
            return record

    def update(self, token_id: str, by: str, name: str, description: str | None) -> Record:
        """Rename a token; a description of None stays as it was. Raises KeyError."""
        with self._guard:
            record = self.tokens[token_id]
            record.name = name
            record.description = record.description if description is None else description
            self._written(record, by, "name", "description")
            return record

    def set_roles(self, token_id: str, by: str, roles: tuple[Role, ...]) -> Record:
        """Replace all roles of a token; raises KeyError."""
        with self._guard:
            record = self.tokens[token_id]
            record.roles = roles
            self._written(record, by, "members")
            return record

    def delete(self, token_id: str) -> None:
        """Remove a token, which ends its secret; raises KeyError."""
        with self._guard:
            del self.tokens[token_id], self._order[token_id]
            self._versions.bump("members")

    def workspace_of(self, scope: str, entity_id: str) -> str:
        """Return the workspace that tokens of this scope live in; empty for none."""
        if scope == "DEPLOYMENT":
            return self.deployments.get(entity_id, "")
        return entity_id if scope == "WORKSPACE" else ""

    def view(
        self,
        key: object,
        keep: Callable[[Record], bool] | None,
        sorts: Sequence[tuple[str, bool]],
        field_of: Callable[[Record, str], str],
    ) -> list[str]:
        """Return the ids of a listing in its order, from a cache while nothing it depends on changed.

        Args:
            key: Names the filter; filters of one key keep the same tokens.
            keep: Whether a token belongs to it; None for all.
            sorts: Fields, most important first, and whether descending; none for the store's own order.
            field_of: What to compare.
        """
        with self._guard:
            fields = ["members", *[name for name, _ in sorts]] if sorts else ["members", "order"]
            version = self._versions.of(fields)
            cached = self._views.get((key, tuple(sorts)))
            if cached is not None and cached[0] == version:
                return cached[1]
            rows = [record for record in map(self.tokens.__getitem__, self._order) if keep is None or keep(record)]
            for name, descending in reversed(sorts):
                rows.sort(key=lambda record, name=name: field_of(record, name), reverse=descending)  # type: ignore[misc]
            ids = [record.id for record in rows]
            if len(self._views) > 64:
                self._views.clear()
            self._views[key, tuple(sorts)] = version, ids
            return ids

    def _written(self, record: Record, by: str, *fields: str) -> None:
        record.updated_at, record.updated_by = self.now(), by
        self._order[record.id] = self._order.pop(record.id)
        self._versions.bump("order", "updatedAt", "updatedById", *fields)

    def _permissions(self, record: Record) -> list[str]:
        found = [f"apiTokenId:{record.id}", f"organizationId:{self.organization_id}"]
        if record.workspace_id:
            found.append(f"workspaceId:{record.workspace_id}")
        if record.scope == "DEPLOYMENT":
            found.append(f"deploymentId:{record.entity_id}")
        return found

    def _owner(self) -> Record:
        made = self.now() - timedelta(days=1)
        role = Role("ORGANIZATION", self.organization_id, "ORGANIZATION_OWNER")
        return Record(
            id=self.owner_id,
            name=OWNER_NAME,
            scope="ORGANIZATION",
            entity_id=self.organization_id,
            workspace_id="",
            roles=(role,),
            created_at=made,
            updated_at=made,
            start_at=made,
            jti=f"{self.owner_id}.0",
            created_by=self.owner_id,
            updated_by=self.owner_id,
        )

    def _populate(self, population: Population) -> None:
        dice = random.Random(population.seed)  # noqa: S311 - not for secrets
        due = round(population.tokens * population.due_fraction)
        is_due = [True] * due + [False] * (population.tokens - due)
        dice.shuffle(is_due)
        now = self.now()
        for index, old in enumerate(is_due):
            days = dice.uniform(91, 300) if old else dice.uniform(1, 60)
            record = self._seeded(index, population, _milliseconds(now - timedelta(days=days)))
            if dice.random() < 0.5:
                record.expiry_days, record.end_at = PERIOD_DAYS, record.start_at + timedelta(days=PERIOD_DAYS)
            if dice.random() < 0.5:
                record.last_rotated_at = record.start_at
                record.created_at = _milliseconds(record.start_at - timedelta(days=dice.uniform(1, 300)))
            if population.life is not None:
                _shorten(record, population.life, now, dice.uniform(0.3, 1))
            self.tokens[record.id] = record

    def _seeded(self, index: int, population: Population, born: datetime) -> Record:
        scope, nth = SCOPES[index % 3], index // 3
        token_id = _identifier(population.seed, f"token-{index}")
        entity, role = self._home(scope, nth)
        roles = [Role(scope, entity, role)]
        if scope == "ORGANIZATION" and nth % 4 == 0:
            roles.append(Role("WORKSPACE", self.workspaces[nth % 3], "WORKSPACE_MEMBER"))
        name = f"svc-{_TEAMS[nth % len(_TEAMS)]}-{index + 1:05d}"
        if population.hostile_names and index % 4 == 0:
            name = _HOSTILE[index // 4 % len(_HOSTILE)]
        return Record(
            id=token_id,
            name=name,
            scope=scope,
            entity_id=entity,
            workspace_id=self.workspace_of(scope, entity),
            roles=tuple(roles),
            created_at=born,
            updated_at=born,
            start_at=born,
            jti=f"{token_id}.0",
            created_by=self.owner_id,
            updated_by=self.owner_id,
            description=f"{scope.lower()} token of the sandbox",
        )

    def _home(self, scope: str, nth: int) -> tuple[str, str]:
        if scope == "ORGANIZATION":
            return self.organization_id, "ORGANIZATION_MEMBER"
        if scope == "WORKSPACE":
            return self.workspaces[nth % 3], _WORKSPACE_ROLES[nth // 3 % len(_WORKSPACE_ROLES)]
        return list(self.deployments)[nth % len(self.deployments)], "DEPLOYMENT_ADMIN"


def _shorten(record: Record, life: timedelta, now: datetime, left: float) -> None:
    """Let a secret live for less than days, of which a share is left."""
    record.life, record.expiry_days, record.last_rotated_at = life, None, None
    record.end_at = _milliseconds(now + life * left)
    record.start_at = record.created_at = record.end_at - life


def _identifier(seed: int, what: str) -> str:
    return f"cl{hashlib.sha256(f'{seed}:{what}'.encode()).hexdigest()[:23]}"


def _milliseconds(moment: datetime) -> datetime:
    utc = moment.astimezone(UTC)
    return utc.replace(microsecond=utc.microsecond // 1000 * 1000)
