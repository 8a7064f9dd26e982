"""A world in one process: the sandbox's real store, real journal and audit file, sinks in memory, a clock that jumps.

A `Process` is one desk. It dies by `Death` at a call of a port: nothing of ours catches that, and from then on none of
its calls reaches anything, exactly as if the machine had taken the process away. Every call of a port passes `Process.
call`, which numbers it by name, so that a test can strike at it; after each one the world looks for broken promises.
"""

import base64
import copy
import json
import os
import sqlite3
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import msgspec

from rotator.audit import AuditFile, Author
from rotator.claims import claims
from rotator.cli.sweeping import exit_code
from rotator.engine.desk import Desk, Settings
from rotator.engine.sweep import Report, sweep
from rotator.errors import (
    CredentialRejected,
    Permanent,
    RotatorError,
)
from rotator.events import Event
from rotator.journal.sealing import Keyring, KeySource
from rotator.journal.sqlite import SqliteJournal
from rotator.model import (
    Lineage,
    Policy,
    Rotation,
)
from rotator.ports import OwnCredential
from rotator.sandbox.store import Draft, Population, Record, Store
from rotator.sandbox.store import Role as StoreRole
from rotator.secret import Secret
from tests.proof.outside import (
    DAY,
    GARBAGE,
    LATE_WINDOW,
    ORGANIZATION,
    TICK,
    AstroLike,
    Death,
    Doubt,
    Journal,
    MemorySink,
    Spot,
    WorldClock,
)

START = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
LAG = timedelta(minutes=8)  # what a mounted secret may take to follow
KEYS = KeySource("env:PROOF_KEY", Secret(base64.b64encode(b"k" * 32).decode()))
KEYRING = Keyring(KEYS.text or Secret(""), KEYS.reference)

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Strike:
    """What happens at one call of a port.

    Attributes:
        name: Of the call; the `nth` of that name, counted in one process from 1.
        kind: `before`, `middle` or `after` kill the process there; other words are faults, see `matrix`.
    """

    name: str
    nth: int
    kind: str


@dataclass(frozen=True, slots=True)
class Template:
    """A world at rest, to start many others from."""

    files: Mapping[str, bytes]
    tokens: Mapping[str, Record]
    owner_id: str
    contents: Mapping[Spot, tuple[tuple[datetime, str, str], ...]]
    time: datetime
    policies: tuple[Policy, ...]
    credentials: tuple[Spot, ...]
    lineages: Mapping[str, tuple[Spot, ...]]
    secrets: tuple[str, ...]


class World:
    """Everything that outlives a process.

    Attributes:
        time: The true one, which the API and the sinks see; `skew` is how far the machine's clock is ahead of it.
        contents: Of sinks: every version of a place, oldest first, as (when, value, mint id).
        credentials: The places that our own credentials are read from.
        lineages: Where the secret of each credential belongs, by its root id; `roles`: what it may do.
        lag: How long after a write a reference still yields the value before it, for writes from `lag_from` on.
        next_lag: The same for the machine that the next process runs on, for every write.
        violations: Broken promises, in words.
        intents: ROTATION_INTENDED facts that the journal committed; `ends`: RETIREMENT_INTENDED ones.
        posts: Rotate and create calls that arrived. `minted`: those that took effect.
        sealed: Values that were committed with their rotation.
        late: Effects that are still to come, as (when or None for after the next POST, act).
        struck: Sinks that a hand changed since they were last read.
        followed: Sink, location and mint id of what readers were told of.
        untold: Mint ids of what was delivered last, where readers were not told of it yet.
    """

    def __init__(self, folder: Path, policies: Sequence[Policy], credentials: Sequence[Spot] = ()) -> None:
        self.folder = folder
        self.policies = tuple(policies)
        self.credentials = tuple(credentials)
        self.time = START
        self.skew = timedelta()
        self.measured: timedelta | None = None
        self.workers = 1  # of a process; one keeps the steps in order
        self.lag = timedelta()
        self.next_lag = timedelta()
        self.lag_from = START
        self.lock = threading.RLock()
        self.store = Store(ORGANIZATION, Population(tokens=0), lambda: self.time)
        self.contents: dict[Spot, list[tuple[datetime, str, str]]] = {}
        self.events: list[Event] = []
        self.errors: list[BaseException] = []
        self.violations: list[str] = []
        self.secrets: list[str] = [self.store.secret_of(self.store.owner_id)]
        self.graves: list[sqlite3.Connection] = []
        self.intents: Counter[str] = Counter()
        self.ends: set[str] = set()
        self.posts: Counter[str] = Counter()
        self.minted = 0
        self.sealed: set[str] = set()
        self.announced: set[str] = set()
        self.doubts: list[Doubt] = []
        self.late: list[tuple[datetime | None, Callable[[], object]]] = []
        self.late_effects = 0
        self.struck: set[Spot] = set()
        self.followed: set[tuple[str, str, str]] = set()
        self.untold: dict[Spot, str] = {}
        self.consumers: set[Spot] = set()
        self.damaged: set[Spot] = set()
        self.reports: list[tuple[Report | None, int]] = []
        self.watching_credentials = False
        self.audited_before = 0
        self.lineages: dict[str, tuple[Spot, ...]] = {}
        self.roles: dict[str, frozenset[StoreRole]] = {}

    # set up

    def token(self, name: str, age: timedelta, spot: Spot | None = None) -> str:
        """Make a token that was made so long ago, and put its live secret where it belongs."""
        store = self.store
        record = store.create(Draft(name, "ORGANIZATION", ORGANIZATION, "ORGANIZATION_MEMBER"), store.owner_id)
        record.roles = (*record.roles, StoreRole("WORKSPACE", store.workspaces[0], "WORKSPACE_MEMBER"))
        record.created_at = record.updated_at = record.start_at = store.now() - age
        self.secrets.append(store.secret_of(record.id))
        if spot is not None:
            self.put(spot, store.secret_of(record.id))
        return record.id

    def template(self) -> Template:
        """Return this world as it is; nothing may be running."""
        files = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        return Template(
            files,
            copy.deepcopy(self.store.tokens),
            self.store.owner_id,
            {spot: tuple(rows) for spot, rows in self.contents.items()},
            self.time,
            self.policies,
            self.credentials,
            dict(self.lineages),
            tuple(self.secrets),
        )

    @classmethod
    def of(cls, template: Template, folder: Path) -> "World":
        """Return a new world like that one."""
        folder.mkdir(exist_ok=True)
        for name, content in template.files.items():
            (folder / name).write_bytes(content)
        world = cls(folder, template.policies, template.credentials)
        world.time = template.time
        world.store.tokens = copy.deepcopy(dict(template.tokens))
        world.store._order = dict.fromkeys(world.store.tokens)
        world.contents = {spot: list(rows) for spot, rows in template.contents.items()}
        world.lineages = dict(template.lineages)
        world.roles = {root: frozenset(world.store.tokens[world.current(root)].roles) for root in world.lineages}
        world.secrets = list(template.secrets)
        world.audited_before = world.audited().total()
        return world

    # time

    def jump(self, by: timedelta) -> None:
        """Let time pass; what was to happen meanwhile happens."""
        with self.lock:
            self.time += by
            due = [act for at, act in self.late if at is not None and at <= self.time]
            self.late = [(at, act) for at, act in self.late if at is None or at > self.time]
            for act in due:
                act()

    # sinks

    def put(self, spot: Spot, value: str, mint_id: str = "") -> None:
        """Write to a place."""
        with self.lock:
            self.contents.setdefault(spot, []).append((self.time, value, mint_id))

    def held(self, spot: Spot) -> str:
        """Return what a place holds, empty for nothing."""
        rows = self.contents.get(spot, [])
        return rows[-1][1] if rows else ""

    def alive_at(self, spot: Spot) -> str | None:
        """Return the id of the token that a place authenticates as."""
        return self.store.authenticates_as(self.held(spot))

    def reference(self, spot: Spot) -> Secret:
        """Return what our own credential's reference yields."""
        rows = self.contents[spot]
        visible = [row for row in rows if row[0] <= max(self.time - self.lag, self.lag_from)]
        return Secret((visible or rows)[-1 if visible else 0][1])

    # hands

    def current(self, root: str) -> str:
        """Return the token of a lineage that is in use, as its places say."""
        said = [claims(Secret(self.held(spot))) for spot in self.lineages[root]]
        named = [found.token_id for found in said if found is not None and found.token_id in self.store.tokens]
        return named[0] if named else root

    def rotate_by_hand(self, token_id: str) -> str:
        """Rotate as a person does in the UI; return the new secret."""
        with self.lock:
            self.time += TICK
            self.store.rotate(token_id, "somebody")
            self.secrets.append(self.store.secret_of(token_id))
            return self.secrets[-1]

    def damage(self, spot: Spot, value: str) -> None:
        """Edit a sink by hand."""
        self.put(spot, value)
        self.struck.add(spot)
        self.damaged.add(spot)

    def members(self, spot: Spot) -> set[str]:
        """Return every token whose secret a place has held."""
        said = [claims(Secret(value)) for _, value, _ in self.contents.get(spot, [])]
        return {found.token_id for found in said if found is not None}

    # processes

    def sweep(self, *strikes: Strike, accept: str | None = None) -> "Process":
        """Start a process, sweep once, end it; return it."""
        process = Process(self, strikes)
        process.sweep(accept)
        process.end()
        return process

    def close(self) -> None:
        """Take everything away."""
        for connection in self.graves:
            connection.close()
        self.graves.clear()

    # promises

    def violated(self, what: str) -> None:
        """Note a broken promise."""
        with self.lock:
            if what not in self.violations:
                self.violations.append(what)

    def watch(self, process: "Process", step: str) -> None:
        """Look at what must hold at every moment."""
        for spot in self.consumers - self.damaged:
            if self.alive_at(spot) is None:
                self.violated(f"(f) a consumer of {spot[0]} reads a dead secret at {step}")
        if not self.watching_credentials:
            return
        works_here = self.works_here()
        if not works_here and not self._works_somewhere():
            self.violated(f"(d) no credential of ours works at {step}")
        if process.could_work and not works_here and not self._is_sealed():
            self.violated(f"(d) the process took away the last credential that it can read at {step}")
        process.could_work = works_here

    def works_here(self) -> bool:
        """Whether a reference, as this machine sees it, yields a credential that works."""
        return any(self._may_manage(self.reference(spot).reveal()) for spot in self.credentials)

    def referenced(self) -> set[str | None]:
        """Return the tokens that our references authenticate as on this machine."""
        return {self.store.authenticates_as(self.reference(spot).reveal()) for spot in self.credentials}

    def _works_somewhere(self) -> bool:
        return any(self._may_manage(self.held(spot)) for spot in self.credentials) or self._is_sealed()

    def _is_sealed(self) -> bool:
        return any(self._may_manage(value) for value in self.sealed_now())

    def _may_manage(self, value: str) -> bool:
        found = self.store.check(value)
        return isinstance(found, Record) and found.has_role(ORGANIZATION, "ORGANIZATION_OWNER")

    def sealed_now(self) -> list[str]:
        """Return the sealed values that the journal yields, read as another process would."""
        rows = self._read("SELECT sealed, body FROM rotations WHERE sealed IS NOT NULL")
        found = []
        for sealed, body in rows:
            rotation = msgspec.json.decode(body, type=Rotation)
            found.append(KEYRING.open(sealed, rotation.mint_id, rotation.minted_token_id).decode())
        return found

    def known(self, token_id: str) -> Lineage | None:
        """Return what the journal remembers of a token."""
        rows = self._read(
            "SELECT l.body FROM members m JOIN lineages l USING (provider, lineage) WHERE m.token_id = ?", token_id
        )
        return msgspec.json.decode(rows[0][0], type=Lineage) if rows else None

    def unfinished(self) -> list[Rotation]:
        """Return the open rotations."""
        rows = self._read("SELECT body FROM rotations WHERE closed_at IS NULL")
        return [msgspec.json.decode(body, type=Rotation) for (body,) in rows]

    def _read(self, sql: str, *arguments: str) -> list[tuple[bytes, ...]]:
        """Read the journal as somebody else does, without any of its locks."""
        if not (self.folder / "rotator.db").exists():
            return []
        connection = sqlite3.connect(f"file:{self.folder / 'rotator.db'}?mode=ro", uri=True)
        try:
            return connection.execute(sql, arguments).fetchall()
        finally:
            connection.close()

    def opened_journal(self, trail: object | None = None) -> SqliteJournal:
        """Open the journal as one more process."""
        file = AuditFile(self.folder / "audit.jsonl", Author("proof", "proof"))
        monotonic = WorldClock(self).monotonic
        return SqliteJournal(self.folder / "rotator.db", KEYS, trail or file, lambda _: None, monotonic)  # type: ignore[arg-type]

    def leaks(self) -> list[str]:
        """Return the files and words that hold a secret that was ever minted."""
        marks = [secret.rpartition(".")[2].encode() for secret in self.secrets]
        texts = {path.name: path.read_bytes() for path in self.folder.iterdir() if path.is_file()}
        texts["events"] = msgspec.json.encode(self.events)
        texts["results"] = repr([report for report, _ in self.reports]).encode()
        texts["errors"] = "".join(
            "".join(traceback.format_exception(error)) + repr(error.args) for error in self.errors
        ).encode()
        return sorted({name for name, text in texts.items() for mark in marks if mark in text})

    def audited(self) -> Counter[str]:
        """Return how many intents the audit file shows, by token id."""
        found: Counter[str] = Counter()
        path = self.folder / "audit.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            if '"event":"rotation_intended"' in line:
                found[json.loads(line)["token"]["id"]] += 1
        return found


def abandon(journal: SqliteJournal) -> list[sqlite3.Connection]:
    """Leave a journal as a process does that was killed: descriptors are closed, nothing is released or checkpointed.

    The connections are returned, and are to be closed last: SQLite would checkpoint when the last one closes.
    """
    journal._writer._queue.put(None)
    journal._writer._thread.join()

    def submit(job: object) -> object:
        raise Permanent("this process is dead")

    journal._writer.submit = submit  # type: ignore[method-assign]
    os.close(journal._instances._descriptor)
    journal._lock.close()
    return [journal._writing, *journal._connections]


class Process:
    """One process with one desk over the world.

    Attributes:
        log: Every call of a port, as (name, nth).
        report: Of its sweep; None if that raised. `code`: as the command would exit; -1 if it died.
    """

    def __init__(
        self, world: World, strikes: Sequence[Strike] = (), others: Callable[[], object] | None = None
    ) -> None:
        self.world = world
        self.strikes = {(strike.name, strike.nth): strike.kind for strike in strikes}
        self.any_of = {strike.name: strike.kind for strike in strikes if strike.nth == 0}
        self.dead = False
        self.fired: list[str] = []
        self.log: list[tuple[str, int]] = []
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.report: Report | None = None
        self.code = -1
        self.could_work = world.watching_credentials and world.works_here()
        self.journal = Journal(self)
        sinks = {d.sink: MemorySink(self, d.sink) for p in world.policies for d in p.deliveries}
        self.desk = Desk(
            provider=AstroLike(self, [_own(world, spot) for spot in world.credentials]),
            policies=world.policies,
            sinks=sinks,
            journal=self.journal,
            clock=WorldClock(world),
            emit=world.events.append,
            settings=Settings(workers=world.workers, late_window=LATE_WINDOW),
        )

    def sweep(self, accept: str | None = None) -> None:
        """Sweep once, as the command does, and remember how it would exit."""
        try:
            self.report = sweep(self.desk, self.desk.policies, accept, lambda _: True)
            self.code = exit_code(self.report.results, [self.report.plan])
        except CredentialRejected as error:
            self.world.errors.append(error)
            self.code = 5
        except RotatorError as error:
            self.world.errors.append(error)
            self.code = 1
        except Death as error:
            self.world.errors.append(error)
        self.world.reports.append((self.report, self.code))

    def end(self) -> None:
        """End it: with grace, or as the dead end."""
        self.world.skew = timedelta()
        if self.world.next_lag:
            self.world.lag, self.world.lag_from = self.world.next_lag, START
        self.desk.close()
        if self.dead:
            self.world.graves += abandon(self.journal.inner)
        else:
            self.journal.inner.close()

    def die(self) -> None:
        """Die here."""
        self.dead = True
        raise Death

    def call(
        self,
        name: str,
        effect: Callable[[], Answer],
        faults: Mapping[str, Callable[[], Answer]] | None = None,
        half: Callable[[], object] | None = None,
    ) -> Answer:
        """Let one call of a port through, or strike at it.

        Args:
            name: Of the step.
            effect: Does it.
            faults: What else can become of it, by fault.
            half: What a death in its middle leaves behind; None for the whole effect without an answer.
        """
        if self.dead:
            raise Death
        with self._lock:
            self._counts[name] += 1
            step = (name, self._counts[name])
            self.log.append(step)
            kind = self.strikes.pop(step, None) or self._anywhere(name)
        if kind is None:
            answer = effect()
        else:
            self.fired.append(kind)
            answer = self._struck(kind, effect, faults or {}, half)
        if self.dead:
            raise Death
        self.world.watch(self, name)
        return answer

    def _anywhere(self, name: str) -> str | None:
        found = next((prefix for prefix in self.any_of if name.startswith(prefix)), None)
        return self.any_of.pop(found) if found is not None else None

    def _struck(
        self,
        kind: str,
        effect: Callable[[], Answer],
        faults: Mapping[str, Callable[[], Answer]],
        half: Callable[[], object] | None,
    ) -> Answer:
        if kind == "before":
            self.die()
        if kind in ("middle", "after"):
            (half if half is not None and kind == "middle" else effect)()
            self.world.watch(self, kind)
            self.die()
        if kind in faults:
            return faults[kind]()
        ANYWHERE[kind](self.world)
        return effect()


def _other_sweeps(world: World) -> None:
    world.sweep()


def _day_ahead(world: World) -> None:
    world.skew = DAY


def _day_back(world: World) -> None:
    world.skew = -DAY


def _edit(world: World) -> None:
    for spots in world.lineages.values():
        world.damage(spots[-1], GARBAGE)


def _rotate(world: World) -> None:
    for root, spots in world.lineages.items():
        if world.current(root) in world.store.tokens:
            world.rotate_by_hand(world.current(root))
            world.damaged.update(spots)
            world.struck.update(spots)


def _rotate_and_update(world: World) -> None:
    for root, spots in world.lineages.items():
        if world.current(root) in world.store.tokens:
            value = world.rotate_by_hand(world.current(root))
            for spot in spots:
                world.damage(spot, value)


def _mounts_lag(world: World) -> None:
    world.lag, world.lag_from = LAG, world.time


def _next_machine_lags(world: World) -> None:
    world.next_lag = LAG


ANYWHERE: dict[str, Callable[[World], None]] = {
    "another process sweeps": _other_sweeps,
    "clock a day ahead": _day_ahead,
    "clock a day back": _day_back,
    "a hand edits a sink": _edit,
    "a hand rotates": _rotate,
    "a hand rotates and updates the sinks": _rotate_and_update,
    "mounts lag": _mounts_lag,
    "the next machine's mounts lag": _next_machine_lags,
}


def _own(world: World, spot: Spot) -> OwnCredential:
    return OwnCredential(f"memory:{'/'.join(spot)}", lambda: world.reference(spot))
