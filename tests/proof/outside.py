"""What a process sees of the world: provider, sinks, journal and audit as ports, each call of them a step.

They do what the adapters do, and raise what those raise; at each step the process can die or meet a fault (see
`world.Process.call`). Some promises can only be seen at a call, so the ports look for them: that no POST leaves without
an intent, that nothing is called settled which is not, that no member is ended too early.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from rotator.audit import AuditFile, Author, Head
from rotator.claims import claims
from rotator.errors import (
    AuditUnavailable,
    ConfigError,
    CredentialRejected,
    NotFound,
    OutcomeUnknown,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.events import Event, EventName
from rotator.marker import marker_in
from rotator.model import (
    Generation,
    Held,
    Lineage,
    Mint,
    Minted,
    NewToken,
    Place,
    Receipt,
    Role,
    Rotation,
    Scope,
    State,
    Token,
)
from rotator.ports import Listing, OwnCredential, TokenRef, Write
from rotator.sandbox.store import Draft, Record
from rotator.sandbox.store import Role as StoreRole
from rotator.secret import Secret

if TYPE_CHECKING:
    from tests.proof.world import Process, World

ORGANIZATION = "clorg0000000000000000000a"
TICK = timedelta(milliseconds=50)  # what one call of the API takes
DAY = timedelta(days=1)
LATE_WINDOW = timedelta(minutes=2)
GARBAGE = "what does not belong here"

Answer = TypeVar("Answer")
Spot = tuple[str, str]  # sink and location


class Death(BaseException):
    """The process ends here."""


class Cut(Exception):
    """Ends a transaction of a process that dies inside it: the writer's thread must not outlive its process."""


@dataclass(slots=True)
class Doubt:
    """A POST whose answer never reached its sender."""

    token_id: str
    sent_at: datetime
    took_effect: bool


class WorldClock:
    """See `ports.Clock`: the machine's clock, which may be wrong."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def now(self) -> datetime:
        """See `ports.Clock`."""
        return self._world.time + self._world.skew

    def monotonic(self) -> float:
        """See `ports.Clock`."""
        return self._world.time.timestamp()

    def sleep(self, duration: timedelta, *, through: bool = False) -> None:
        """See `ports.Clock`."""
        self._world.jump(duration)


def shown(record: Record) -> Token:
    """Return a token as the adapter does."""
    life = None if record.expiry_days is None else timedelta(days=record.expiry_days)
    return Token(
        id=record.id,
        name=record.name,
        scope=Scope(record.scope.lower()),
        organization_id=ORGANIZATION,
        generation=Generation(record.last_rotated_at, record.start_at),
        created_at=record.created_at,
        description=record.description,
        workspace_id=record.workspace_id,
        deployment_id=record.entity_id if record.scope == "DEPLOYMENT" else "",
        kind=record.kind,
        end_at=record.end_at,
        life=life,
        last_used_at=record.last_used_at,
        short_token=record.short_token,
        roles=tuple(Role(r.entity_type, r.entity_id, r.role, r.deployment_id) for r in record.roles),
        created_by=record.created_by,
    )


class AstroLike:
    """See `ports.Provider`: what `AstroProvider` does, without HTTP."""

    name = "astro"
    organization_id = ORGANIZATION

    def __init__(self, process: "Process", credentials: Sequence[OwnCredential]) -> None:
        self._process = process
        self._world = process.world
        self._credentials = list(credentials)
        self._working = 0
        self._lagging = ""  # the token that the next look shows as it was before its first rotation

    def list(self, listing: Listing) -> Iterator[Token]:
        """See `ports.Provider`."""

        def effect() -> list[Token]:
            self._caller()
            rows = [shown(self._world.store.tokens[token_id]) for token_id in self._world.store._order]
            return [token for token in rows if token.scope in listing.scopes]

        yield from self._process.call("provider.list", lambda: self._at_api(effect), self._read_faults("list"))

    def get(self, ref: TokenRef) -> Token:
        """See `ports.Provider`."""

        def effect() -> Token:
            self._caller()
            token = shown(self._record(ref))
            if self._lagging != ref.id:
                return token
            self._lagging = ""
            return replace(token, generation=Generation(None, token.created_at))

        return self._process.call("provider.get", lambda: self._at_api(effect), self._read_faults("get"))

    def authenticate(self, ref: TokenRef, secret: Secret) -> Token:
        """See `ports.Provider`."""

        def effect() -> Token:
            self._use(secret)
            return shown(self._record(ref))

        def lag() -> Token:
            self._lagging = ref.id
            raise CredentialRejected("get: the edge does not accept the credential (401)")

        faults = {**self._read_faults("get"), "a replica lags": lambda: self._at_api(lag)}
        return self._process.call("provider.authenticate", lambda: self._at_api(effect), faults)

    def rotate(self, ref: TokenRef) -> Minted:
        """See `ports.Provider`."""
        world = self._world

        def act() -> Minted:
            caller = self._caller(repeatable=False)
            self._record(ref)
            world.store.rotate(ref.id, caller.id)
            return self._mint(ref.id)

        return self._post("provider.rotate", ref.id, act)

    def create(self, new: NewToken) -> Minted:
        """See `ports.Provider`."""
        world = self._world
        marker = marker_in(new.description)

        def act() -> Minted:
            caller = self._caller(repeatable=False)
            draft = Draft(new.name, new.scope.upper(), new.home or ORGANIZATION, new.role, new.description)
            return self._mint(world.store.create(replace(draft, expiry_days=new.expires_in_days), caller.id).id)

        return self._post("provider.create", marker.lineage if marker else "", act)

    def update_roles(self, token: Token, roles: Sequence[Role]) -> None:
        """See `ports.Provider`."""

        def effect() -> None:
            caller = self._caller()
            self._record(TokenRef(token.id, token.scope))
            rows = tuple(StoreRole(r.entity_type, r.entity_id, r.role, r.deployment_id) for r in roles)
            self._world.store.set_roles(token.id, caller.id, rows)

        self._process.call("provider.update_roles", lambda: self._at_api(effect), self._write_faults("roles", effect))

    def delete(self, ref: TokenRef) -> None:
        """See `ports.Provider`."""

        def effect() -> None:
            self._caller()
            self._record(ref)
            self._check_delete(ref.id)
            self._world.store.delete(ref.id)

        self._process.call("provider.delete", lambda: self._at_api(effect), self._write_faults("delete", effect))

    def own_credentials(self) -> Mapping[str, OwnCredential]:
        """See `ports.Provider`."""
        found: dict[str, OwnCredential] = {}
        for own in self._credentials:
            said = claims(own.read())
            if said is not None and not said.token_id:
                raise ConfigError.of("providers.astro.credential", f"{own.reference} does not say which token it is")
            if said is not None:
                found.setdefault(said.token_id, own)
        return found

    def through(self, credential: Callable[[], Secret]) -> "AstroLike":
        """See `ports.Provider`."""
        return AstroLike(self._process, [OwnCredential("", credential), *self._credentials])

    def clock_skew(self) -> timedelta | None:
        """See `ports.Provider`."""
        return self._world.measured

    # what the API does

    def _at_api(self, act: Callable[[], Answer]) -> Answer:
        """One exchange: it takes a moment, and shows the API's clock."""
        world = self._world
        with world.lock:
            world.jump(TICK)
            world.measured = -world.skew
            return act()

    def _caller(self, *, repeatable: bool = True) -> Record:
        """Return whose credential is shown; another one than the first only where the first is rejected."""
        order = [*self._credentials[self._working :], *self._credentials[: self._working]]
        for own in order[:-1]:
            try:
                return self._use(own.read())
            except CredentialRejected:
                if not repeatable:
                    raise
        record = self._use(order[-1].read())
        self._working = self._credentials.index(order[-1])
        return record

    def _use(self, secret: Secret) -> Record:
        found = self._world.store.check(secret.reveal())
        if not isinstance(found, Record):
            raise CredentialRejected("get: the edge does not accept the credential (401)")
        self._world.store.touch(found.id)
        return found

    def _record(self, ref: TokenRef) -> Record:
        record = self._world.store.tokens.get(ref.id)
        if record is None:
            raise NotFound(f"get {ref.id}: not found (404)")
        return record

    def _mint(self, token_id: str) -> Minted:
        world = self._world
        value = world.store.secret_of(token_id)
        world.secrets.append(value)
        world.minted += 1
        return Minted(shown(world.store.tokens[token_id]), Secret(value))

    def _post(self, name: str, lineage_id: str, act: Callable[[], Minted]) -> Minted:
        world = self._world

        def arrive() -> None:
            world.posts[lineage_id] += 1
            if world.posts.total() > world.intents.total():
                world.violated("(b) a POST left without a journalled intent")
            now = world.time + world.skew
            for doubt in world.doubts:
                if doubt.token_id == lineage_id and not doubt.took_effect and now - doubt.sent_at < LATE_WINDOW:
                    world.violated("(g) a POST left while an earlier one could still take effect")

        def effect() -> Minted:
            arrive()
            minted = act()
            self._follow_up()
            return minted

        def unanswered(error: RotatorError, *, took_effect: bool) -> Minted:
            arrive()
            doubt = Doubt(lineage_id, world.time + world.skew, took_effect)
            if took_effect:
                act()
                self._follow_up()
            world.doubts.append(doubt)
            raise error

        def late(when: datetime | None) -> Minted:
            arrive()
            doubt = Doubt(lineage_id, world.time + world.skew, took_effect=False)
            world.doubts.append(doubt)

            def take_effect() -> None:
                try:
                    act()
                except RotatorError:
                    return  # refused by then: the token is gone, or the credential that sent it
                doubt.took_effect = True
                world.late_effects += 1

            world.late.append((when, take_effect))
            raise OutcomeUnknown(f"{name}: no answer in time")

        def refused(error: RotatorError) -> Minted:
            arrive()
            raise error

        timeout = OutcomeUnknown(f"{name}: no answer in time")
        broken = OutcomeUnknown(f"{name}: an answer that does not say whether it took effect (502)")
        faults = {
            "timeout, no effect": lambda: unanswered(timeout, took_effect=False),
            "timeout, with effect": lambda: unanswered(timeout, took_effect=True),
            "5xx": lambda: unanswered(broken, took_effect=True),
            "401": lambda: refused(CredentialRejected(f"{name}: the edge does not accept the credential (401)")),
            "429": lambda: refused(Throttled(f"{name}: too many requests (429)", timedelta(seconds=5))),
            "late effect": lambda: late(world.time + timedelta(seconds=90)),
            "effect after the next POST": lambda: late(None),
        }
        wrapped = {fault: (lambda act=act: self._at_api(act)) for fault, act in faults.items()}
        return self._process.call(name, lambda: self._at_api(effect), wrapped)

    def _follow_up(self) -> None:
        """Let POSTs that were held up until after the next one take effect now."""
        world = self._world
        waiting, world.late = [act for at, act in world.late if at is None], [r for r in world.late if r[0] is not None]
        for act in waiting:
            world.time += TICK
            act()

    def _check_delete(self, token_id: str) -> None:
        """(f) What is ended is held by no required sink, and each holds something that lives."""
        world = self._world
        if token_id not in world.ends:
            world.violated("(b) a token was ended without a journalled intent")
        for spot in world.contents:
            if spot in world.struck or spot[0] not in self._process.desk.sinks:
                continue
            if token_id in world.members(spot) and world.alive_at(spot) in (None, token_id):
                world.violated(f"(f) a member was ended while {spot[0]} held no live secret of another")

    def _read_faults(self, operation: str) -> Mapping[str, Callable[[], object]]:
        def failing(error: RotatorError) -> Callable[[], object]:
            def fail() -> object:
                raise error

            return lambda: self._at_api(fail)

        return {
            "timeout": failing(Temporary(f"{operation}: no answer in time")),
            "5xx": failing(Temporary(f"{operation}: failed (503)")),
            "401": failing(CredentialRejected(f"{operation}: the edge does not accept the credential (401)")),
        }

    def _write_faults(self, operation: str, effect: Callable[[], None]) -> Mapping[str, Callable[[], None]]:
        def after() -> None:
            effect()
            raise Temporary(f"{operation}: no answer in time")

        faults = dict(self._read_faults(operation))
        faults["timeout, no effect"] = faults.pop("timeout")
        return {**faults, "timeout, with effect": lambda: self._at_api(after)}  # type: ignore[dict-item]


class MemorySink:
    """See `ports.Sink`: places of the world; a mint that is there already is not written again."""

    def __init__(self, process: "Process", name: str) -> None:
        self.name = name
        self._process = process
        self._world = process.world
        self._denied_until = process.world.time

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`."""
        location = str(options["path"]).format(**facts)
        return Place(self.name, location, {}, reference=f"memory:{self.name}/{location}")

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`."""
        self._process.call(f"sink.{self.name}.preflight", lambda: None, {"down": self._down})

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`."""
        world, spot = self._world, (place.sink, place.location)
        if mint.secret.reveal() not in world.announced and mint.secret.reveal() not in self._everywhere():
            world.violated("(s) a secret was delivered before it was sealed")

        def write(value: str) -> Receipt:
            rows = world.contents.get(spot, [])
            if not rows or rows[-1][1:] != (value, mint.id):
                world.put(spot, value, mint.id)
                world.untold[spot] = mint.id
            return Receipt(place.location, str(len(world.contents[spot])))

        def lose() -> Receipt:
            return Receipt(place.location, "lost")

        def unanswered() -> Receipt:
            write(mint.secret.reveal())
            raise OutcomeUnknown(f"{self.name}: no answer in time")

        def spoil() -> Receipt:
            world.damaged.add(spot)
            world.put(spot, GARBAGE, mint.id)
            return Receipt(place.location, "spoilt")

        faults = {"down": self._down, "no receipt": unanswered, "wrong content": spoil, "lost write": lose}
        return self._process.call(f"sink.{self.name}.deliver", lambda: write(mint.secret.reveal()), faults)

    def follow_up(self, place: Place, mint: Mint) -> None:
        """See `ports.Follower`."""

        def effect() -> None:
            spot = (place.sink, place.location)
            self._world.followed.add((*spot, mint.id))
            if self._world.untold.get(spot) == mint.id:
                del self._world.untold[spot]

        self._process.call(f"sink.{self.name}.follow_up", effect, {"down": self._down})

    def close(self) -> None:
        """See `ports.Sink`."""

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        world, spot = self._world, (place.sink, place.location)

        def effect() -> Held:
            if world.time < self._denied_until:
                self._down()
            world.struck.discard(spot)
            rows = world.contents.get(spot, [])
            if not rows or not rows[-1][1]:
                raise NotFound("there is no such place")
            return Held(Secret(rows[-1][1]), rows[-1][2], str(len(rows)))

        def deny() -> Held:
            self._denied_until = world.time + timedelta(minutes=1)
            return effect()

        faults = {"down": self._down, "reads denied": deny}
        return self._process.call(f"sink.{self.name}.read_back", effect, faults)  # type: ignore[arg-type]

    def _down(self) -> object:
        raise Temporary(f"the sink {self.name} is down")

    def _everywhere(self) -> set[str]:
        return {rows[-1][1] for rows in self._world.contents.values() if rows}


class Trail:
    """The real audit file, which may be full or be left in the middle of a line."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._path = process.world.folder / "audit.jsonl"
        self._file = AuditFile(self._path, Author("sweep", "proof"))

    def append(self, events: Sequence[Event], last: Head | None, durable: bool) -> Head:
        """See `journal.writer.Trail`."""

        def half() -> None:
            before = self._path.stat().st_size if self._path.exists() else 0
            self._file.append(events, last, durable)
            os.truncate(self._path, before + (self._path.stat().st_size - before) // 2)

        def full() -> Head:
            raise AuditUnavailable("cannot write the audit file: no space left on device")

        name = "audit.append:" + "+".join(sorted({str(event.name) for event in events}))
        try:
            return self._process.call(name, lambda: self._file.append(events, last, durable), {"full": full}, half)
        except Death:
            raise Cut from None


class Journal:
    """The real journal behind the steps of a process; after its death nothing reaches it."""

    def __init__(self, process: "Process") -> None:
        self._process = process
        self._world = process.world
        self._unsealed: set[str] = set()  # mints that this process holds and has not sealed yet
        self.inner = process.world.opened_journal(Trail(process))

    # reads

    def lineages(self, provider: str, token_ids: Sequence[str]) -> Mapping[str, Lineage]:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.lineages(provider, token_ids))

    def overlapped(self, provider: str) -> Sequence[Lineage]:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.overlapped(provider))

    def open_rotations(self, provider: str) -> Sequence[Rotation]:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.open_rotations(provider))

    def secret(self, rotation: Rotation) -> Secret:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.secret(rotation))

    def fingerprint(self, secret: Secret) -> str:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.fingerprint(secret))

    def mac(self, text: str) -> str:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.mac(text))

    def place_owners(self, places: Sequence[Spot]) -> Mapping[Spot, tuple[str, str]]:
        """See `ports.Journal`."""
        return self._alive(lambda: self.inner.place_owners(places))

    # writes

    def open(self, rotation: Rotation, lineage: Lineage, events: tuple[Event, ...]) -> bool:
        """See `ports.Journal`."""

        def effect() -> bool:
            won = self.inner.open(rotation, lineage, events)
            self._committed(events if won else ())
            return won

        return self._step(f"journal.open:{rotation.state}", effect)

    def claim(self, rotation_id: str) -> Rotation | None:
        """See `ports.Journal`."""
        return self._step("journal.claim", lambda: self.inner.claim(rotation_id))

    def release(self, rotation_id: str) -> None:
        """See `ports.Journal`."""
        self._step("journal.release", lambda: self.inner.release(rotation_id))

    @contextmanager
    def hold(self, provider: str, lineage_id: str) -> Iterator[None]:
        """See `ports.Journal`."""
        held: AbstractContextManager[None] = self.inner.hold(provider, lineage_id)
        self._step("journal.hold", held.__enter__)
        try:
            yield
        finally:
            if not self._process.dead:
                held.__exit__(None, None, None)

    def write(self, write: Write) -> None:
        """See `ports.Journal`."""
        mint_id = write.rotation.mint_id if write.rotation is not None else ""
        if write.secret is not None:
            self._world.announced.add(write.secret.reveal())
            self._unsealed.add(mint_id)
        if write.rotation is not None:
            self._check_settled(write.rotation)

        def effect() -> None:
            self.inner.write(write)
            self._committed(write.events)
            self._check_sealed(write)
            if write.secret is not None:
                self._world.sealed.add(write.secret.reveal())

        state = str(write.rotation.state) if write.rotation is not None else "note"
        if write.rotation is not None and write.rotation.closed_at is None and not write.events:
            state += " noted"
        elif write.rotation is not None and write.secret is None and write.rotation.state is State.MINTED:
            state = "delivered"
        self._step(f"journal.write:{state}", effect)

    def remember(self, *writes: Write) -> tuple[bool, ...]:
        """See `ports.Journal`."""

        def effect() -> tuple[bool, ...]:
            kept = self.inner.remember(*writes)
            for write, is_kept in zip(writes, kept, strict=True):
                self._committed(write.events if is_kept else ())
            return kept

        return self._step("journal.remember", effect)

    def preflight(self) -> None:
        """See `ports.Journal`."""
        self._step("journal.preflight", self.inner.preflight)

    def erase(self) -> bool:
        """See `ports.Journal`."""
        return self._step("journal.erase", self.inner.erase)

    def _alive(self, read: Callable[[], Answer]) -> Answer:
        if self._process.dead:
            raise Death
        return read()

    def _step(self, name: str, effect: Callable[[], Answer]) -> Answer:
        def fail(message: str) -> Callable[[], Answer]:
            def failing() -> Answer:
                raise Temporary(message)

            return failing

        faults = {
            "full": fail("the journal has no space left on its volume"),
            "locked": fail("the journal is locked by another process"),
        }
        try:
            return self._process.call(name, effect, faults)
        except RotatorError:
            if self._process.dead:  # it died inside the transaction
                raise Death from None
            raise

    def _committed(self, events: Sequence[Event]) -> None:
        with self._world.lock:
            for event in events:
                if event.name is EventName.ROTATION_INTENDED:
                    self._world.intents[event.token_id] += 1
                if event.name is EventName.RETIREMENT_INTENDED:
                    self._world.ends.add(event.token_id)

    def _check_sealed(self, write: Write) -> None:
        """A seal that could not be written goes with the next write that can be."""
        rotation = write.rotation
        if write.secret is not None and rotation is not None:
            self._unsealed.discard(rotation.mint_id)
        elif rotation is not None and rotation.state.holds_secret and rotation.mint_id in self._unsealed:
            self._world.violated("(k) a secret in hand was not sealed although the journal could be written again")

    def _check_settled(self, rotation: Rotation) -> None:
        """What is called settled lives in every required sink at this moment, and no POST of it can follow."""
        world = self._world
        if rotation.state not in (State.SETTLED, State.ADOPTED):
            return
        for record in rotation.deliveries:
            spot = (record.place.sink, record.place.location)
            if record.place.required and spot not in world.struck and world.alive_at(spot) != rotation.minted_token_id:
                world.violated(f"(v) settled although {record.place.sink} holds no live secret")
            followed = (*spot, rotation.mint_id) in world.followed
            if record.place.required and rotation.state is State.SETTLED and not followed:
                world.violated(f"(u) settled before the readers of {record.place.sink} were told")
        if rotation.own and rotation.minted_token_id not in world.referenced():
            world.violated("(d) settled although no reference yields the new value here")
        now = world.time + world.skew
        if rotation.state is State.SETTLED and rotation.doubted_at and now < rotation.doubted_at + LATE_WINDOW:
            world.violated("(w) settled before late_window had passed")
