"""What the engine works with, put together once by `app` and handed to every function of the engine."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TypedDict, TypeVar, Unpack

import msgspec

from rotator.claims import claims
from rotator.engine.breaker import Breaker
from rotator.engine.reserved import Reserved
from rotator.errors import CredentialRejected, Kind, Permanent, RotatorError, Temporary, kind_of
from rotator.events import Event, EventName
from rotator.model import (
    Delivery,
    Held,
    Lineage,
    Mint,
    Outcome,
    Place,
    Policy,
    Reason,
    Receipt,
    Retiring,
    Rotation,
    Scope,
    Step,
    Strategy,
    Token,
)
from rotator.planning import Candidate
from rotator.ports import Clock, Emit, Follower, Journal, Others, OwnCredential, Provider, Sink, TokenRef, Veto, Write
from rotator.secret import Secret

Answer = TypeVar("Answer")

_ACCEPTED_AFTER = timedelta(minutes=10)  # the API may reject a secret that was just made


@dataclass(frozen=True, slots=True)
class Settings:
    """`[engine]`."""

    workers: int = 16
    max_clock_skew: timedelta = timedelta(minutes=5)
    late_window: timedelta = timedelta(minutes=2)
    drift_check: timedelta = timedelta(hours=24)

    @property
    def rotations(self) -> int:
        """How many are under way at a time: they wait for journal and sinks as long as for the API's calls."""
        return self.workers * 2


class Facts(TypedDict, total=False):
    """What else an event may say; see `Event`."""

    message: str
    reason: Reason | None
    step: Step
    outcome: Outcome
    error: str
    strategy: Strategy


@dataclass(slots=True)
class Taken:
    """A step while it is taken; `failure` is set where it failed without raising."""

    failure: Kind | None = None


@dataclass(frozen=True, slots=True)
class Desk:
    """One provider with everything that is needed to rotate its tokens.

    Attributes:
        policies: All of the provider's, in file order; ownership needs all, also when only one is swept.
        writing: Whether the journal may be written; without it only what reads may be called.
        stop: Set to claim nothing more; what has begun is finished or journalled.
        veto: Asked before each rotation that a sweep or a person begins.
        reserved: What rotator itself lives on, and no delivery may overwrite.
        others: Reads what the rest of the configuration works with now; none of that is ended from here.
    """

    provider: Provider
    policies: Sequence[Policy]
    sinks: Mapping[str, Sink]
    journal: Journal
    clock: Clock
    emit: Emit
    settings: Settings
    writing: bool = True
    stop: threading.Event = field(default_factory=threading.Event)
    pools: dict[str, ThreadPoolExecutor] = field(default_factory=dict)
    breakers: dict[str, Breaker] = field(default_factory=dict)
    veto: Veto | None = None
    reserved: Reserved = field(default_factory=Reserved)
    others: Callable[[], Others] = lambda: Others({})

    def breaker(self, sink: str) -> Breaker:
        """Return the sink's circuit breaker."""
        return self.breakers.setdefault(sink, Breaker(sink, self.clock))

    def pool(self, name: str) -> ThreadPoolExecutor:
        """Return the threads for one kind of work, kept as long as the desk: each sink has its own, so has looking."""
        return self.pools.setdefault(name, ThreadPoolExecutor(self.settings.workers, thread_name_prefix=name))

    def close(self) -> None:
        """End the threads."""
        for pool in self.pools.values():
            pool.shutdown()

    def require_clock(self) -> None:
        """Refuse to act by a clock that is wrong: ages, windows and grace would be.

        Raises:
            Permanent: The API's clock is too far from ours.
        """
        skew = self.provider.clock_skew()
        if skew is not None and abs(skew) > self.settings.max_clock_skew:
            raise Permanent(
                f"the clocks of this machine and of the API differ by {round(abs(skew).total_seconds())} s;"
                " synchronise the clock (NTP) or raise engine.max_clock_skew"
            )

    def preflight(self, place: Place) -> None:
        """Show that a place can be written; see `ports.Sink`. A sink that is known to be down is not asked.

        Raises:
            Temporary, Permanent: It cannot.
        """
        breaker = self.breaker(place.sink)
        breaker.admit()
        try:
            self._ask(place.sink, lambda sink: sink.preflight(place))
        except RotatorError as error:
            if breaker.note(error):
                self._tell_of(place.sink, EventName.SINK_WENT_DOWN, error.message)
            raise
        if breaker.note(None):
            self._tell_of(place.sink, EventName.SINK_CAME_BACK)

    def _tell_of(self, sink: str, name: EventName, message: str = "") -> None:
        told = Event(name=name, at=self.clock.now(), provider=self.provider.name, sink=sink, message=message)
        note(self.journal, self.emit, told)

    def refuse_reserved(self, place: Place, token_id: str, lineage_id: str) -> None:
        """Refuse a place that rotator itself lives on, but where this very token is the credential that is read there.

        What stands there may be overwritten if the API rejects it; and where this token settled before, also a copy of
        what another reference of ours yields.

        Raises:
            Permanent: It may not be written.
            ConfigError, Temporary: It is where a credential of ours is read, and cannot be read now.
        """
        where = f"{place.sink}:{place.location}"
        if self.reserved.has(place):
            raise Permanent(f"{where} is a file that rotator itself needs; give the token a place of its own")
        for own in self.reserved.read_at(place):
            there = own.read()
            said = claims(there)
            held = said.token_id if said is not None else ""
            if held in (token_id, *self._members(lineage_id)):
                continue
            is_home = (self.provider.name, lineage_id) in self.journal.place_owners(place.claims).values()
            if not (is_home and self._is_copy(own, there)) and self._may_live(there):
                raise Permanent(
                    f"{where} is where {own.reference} reads a credential that rotator itself works with, and that is"
                    f" not this token but {held or 'an unknown one'}; give this one another place, or delete it if it"
                    " was replaced"
                )

    def _members(self, lineage_id: str) -> Sequence[str]:
        known = self.journal.lineages(self.provider.name, [lineage_id]).get(lineage_id)
        return (lineage_id, *known.members) if known is not None else ()

    def _is_copy(self, own: OwnCredential, there: Secret) -> bool:
        for other in self.reserved.credentials:
            with suppress(RotatorError):
                if other.reference != own.reference and other.read() == there:
                    return True
        return False

    def _may_live(self, there: Secret) -> bool:
        said = claims(there)
        is_new = said is not None and said.issued_at is not None and self.clock.now() < said.issued_at + _ACCEPTED_AFTER
        try:
            self.provider.authenticate(TokenRef(said.token_id if said else "unknown", Scope.ORGANIZATION), there)
        except CredentialRejected:
            return is_new
        except RotatorError:
            return True
        return True

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`; whatever was thought when it was planned, nothing of our own is overwritten."""
        with self.step(Step.DELIVER, place.sink), _discreet(place.sink, mint.secret):
            self.refuse_reserved(place, mint.token_id, mint.lineage)
            return self._ask(place.sink, lambda sink: _a(Receipt, sink.deliver(place, mint)))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        return self._ask(place.sink, lambda sink: _a(Held, sink.read_back(place)))

    def follow_up(self, place: Place, mint: Mint) -> None:
        """See `ports.Follower`; nothing for most sinks."""
        with _discreet(place.sink, mint.secret):
            self._ask(place.sink, lambda sink: sink.follow_up(place, mint) if isinstance(sink, Follower) else None)

    def is_followed(self, place: Place) -> bool:
        """Whether something may come after a delivery there."""
        return isinstance(self.sinks.get(place.sink), Follower)

    def _ask(self, name: str, call: Callable[[Sink], Answer]) -> Answer:
        sink = self.sinks.get(name)
        if sink is None:
            raise Permanent(f"the sink {name} is no longer configured; what it shall hold is kept sealed")
        try:
            return call(sink)
        except RotatorError:
            raise
        except (Exception, SystemExit) as error:  # noqa: BLE001 - boundary "plug-in call": one must not stop others
            failure = Temporary(f"the sink {name} failed unexpectedly ({type(error).__name__})")
        raise failure  # not from within: the frames of a plug-in may hold the secret

    def places(self, policy: Policy, token: Token, lineage_id: str) -> tuple[Place, ...]:
        """Return where a policy's deliveries write for a token.

        Raises:
            Permanent: There is no safe place.
            Temporary: A sink failed to say.
        """
        facts = {
            "token_id": lineage_id,
            "name": token.name,
            "scope": str(token.scope),
            "workspace_id": token.workspace_id,
            "deployment_id": token.deployment_id,
            "organization_id": token.organization_id,
            "policy": policy.name,
            "provider": policy.provider,
        }
        return tuple(
            replace(place, required=delivery.required)
            for delivery in policy.deliveries
            for place in (self._resolved(delivery, facts),)
        )

    def _resolved(self, delivery: Delivery, facts: Mapping[str, str]) -> Place:
        return self._ask(delivery.sink, lambda sink: _a(Place, sink.resolve(delivery.options, facts)))

    @contextmanager
    def step(self, step: Step, sink: str = "") -> Iterator[Taken]:
        """Tell how long the block took and, by what it raises or sets, whether it failed."""
        taken, began_s = Taken(), self.clock.monotonic()
        try:
            yield taken
        except BaseException as error:
            taken.failure = kind_of(error)
            raise
        finally:
            self.emit(
                Event(
                    name=EventName.STEP_FINISHED,
                    at=self.clock.now(),
                    provider=self.provider.name,
                    sink=sink,
                    step=step,
                    failure=taken.failure,
                    duration_s=self.clock.monotonic() - began_s,
                )
            )

    def lineage(self, token: Token) -> Lineage:
        """Return what the journal remembers of a token, a new lineage if nothing."""
        known = self.journal.lineages(self.provider.name, [token.id]).get(token.id)
        return known or Lineage(self.provider.name, token.id, token.id, token.name)

    def record(self, *events: Event, must_audit: bool = False) -> None:
        """Journal facts that belong to no rotation, and tell them."""
        self.journal.write(Write(events=events, must_audit=must_audit))
        for event in events:
            self.emit(event)

    def remember(self, lineage: Lineage, *events: Event, claims: tuple[tuple[str, str], ...] = ()) -> bool:
        """Journal what was learnt of a lineage outside a rotation, and tell; False if it changed meanwhile."""
        return self.remember_all([Write(lineage=lineage, events=events, claims=claims, durable=bool(events))])

    def remember_all(self, writes: Sequence[Write]) -> bool:
        """Journal and tell what was learnt of several lineages; False if one of them changed meanwhile."""
        noted = self.journal.remember(*writes)
        for write, is_noted in zip(writes, noted, strict=True):
            for event in write.events if is_noted else ():
                self.emit(event)
        return all(noted)

    def about(
        self, name: EventName, token: Token | Retiring, policy: str, place: Place | None = None, **facts: Unpack[Facts]
    ) -> Event:
        """Return a fact about a token outside a rotation."""
        return Event(
            name=name,
            at=self.clock.now(),
            provider=self.provider.name,
            policy=policy,
            token_id=ref_of(token).id,
            token_name=token.name,
            token_scope=str(token.scope),
            sink=place.sink if place else "",
            location=place.location if place else "",
            **facts,
        )

    def event(
        self,
        name: EventName,
        rotation: Rotation,
        *,
        message: str = "",
        step: Step | None = None,
        outcome: Outcome | None = None,
        place: Place | None = None,
        version: str = "",
    ) -> Event:
        """Return a fact about a rotation."""
        return Event(
            name=name,
            at=self.clock.now(),
            provider=rotation.provider,
            policy=rotation.policy,
            token_id=rotation.token_id,
            token_name=rotation.name,
            token_scope=str(rotation.scope),
            rotation_id=rotation.id,
            sink=place.sink if place else "",
            location=place.location if place else "",
            version=version,
            outcome=outcome,
            reason=rotation.reason,
            step=step,
            message=message,
            opened_at=rotation.opened_at,
            strategy=rotation.strategy,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one token in one sweep.

    Attributes:
        reason: Why it was due; None where an old member is ended.
        outcome: SETTLED, UNSETTLED, FAILED or QUARANTINED; None if it was left alone after a second look.
        posted: Whether a new secret was asked for. `retired`: whether an old member was ended instead.
        locations: `sink:location` of its deliveries.
        credential_dead: Our own credential was rejected on the way.
        held: A hook held it back, so nothing was begun.
    """

    token_id: str
    name: str
    scope: str
    policy: str
    reason: Reason | None
    outcome: Outcome | None
    message: str
    rotation_id: str = ""
    strategy: Strategy = Strategy.IN_PLACE
    posted: bool = False
    retired: bool = False
    locations: tuple[str, ...] = ()
    credential_dead: bool = False
    held: bool = False


@contextmanager
def _discreet(sink: str, secret: Secret) -> Iterator[None]:
    """Keep an error that repeats the secret out of journal and logs: not every sink is ours."""
    try:
        yield
    except RotatorError as error:
        if secret.reveal() not in str(error):
            raise
        error.message = f"the sink {sink} failed, in words that repeat the secret"
        error.args = (error.message,)
        raise error.with_traceback(None) from None


def _a(kind: type[Answer], answer: Answer) -> Answer:
    """Refuse what a plug-in returned instead of what it promises, before anything is concluded from it."""
    if not isinstance(answer, kind):
        raise TypeError(f"not a {kind.__name__}")
    if isinstance(answer, Held):
        if not isinstance(answer.secret, Secret | None):
            raise TypeError("its secret is no Secret")
        _texts(answer.mint_id, answer.version)
    elif isinstance(answer, Receipt):
        _texts(answer.location, answer.version)
    elif isinstance(answer, Place):
        _texts(answer.sink, answer.location, answer.reference, *answer.parts)
        msgspec.json.encode(answer.options)
    return answer


def _texts(*found: object) -> None:
    """Refuse what the journal could not read again: one such row would close it to every token."""
    for text in found:
        if not isinstance(text, str):
            raise TypeError("not a str")
        text.encode()


def note(journal: Journal, emit: Emit, *events: Event) -> None:
    """Journal facts that hold nothing back: where they cannot be written, that is told instead."""
    try:
        journal.write(Write(events=events, durable=False))
    except RotatorError as error:
        emit(replace(events[0], name=EventName.JOURNAL_FAILED, message=error.message))
        return
    for event in events:
        emit(event)


def ref_of(member: Rotation | Token | Retiring) -> TokenRef:
    """Return how to address a token, that of a rotation, or an old member."""
    token_id = member.id if isinstance(member, Token) else member.token_id
    return TokenRef(token_id, member.scope, member.workspace_id, member.deployment_id)


def ref_of_minted(rotation: Rotation) -> TokenRef:
    """Return how to address the token that the new secret is of: the twin after an overlap."""
    return replace(ref_of(rotation), id=rotation.minted_token_id)


def result_of(row: Candidate, outcome: Outcome | None, message: str, *, credential_dead: bool = False) -> Result:
    """Return what came of a token for which no rotation was opened."""
    token = row.token
    return Result(
        token.id,
        token.name,
        str(token.scope),
        row.policy.name,
        row.decision.due or Reason.REQUESTED,
        outcome,
        message,
        strategy=row.strategy,
        locations=tuple(f"{place.sink}:{place.location}" for place in row.places),
        credential_dead=credential_dead,
    )
