"""One rotation through its steps: the part of rotator that must not lose anything.

    INTENDED -> POST -> MINTED (sealed) -> delivered per sink -> verified -> SETTLED (seal erased)
    outcome unknown -> IN_DOUBT -> look -> LOST -> INTENDED again, bounded -> QUARANTINED
    a sink or the proof is missing -> UNSETTLED: the seal is kept and retried by recovery

Every arrow is a journal write before the next step. `drive` may be called on any open rotation in any state, so a crash
anywhere is the same as a pause. Only `_post` makes a secret at the provider; how, and how its effect is found out, is
`minting`'s: rotate in place, or create a twin.
"""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rotator.claims import claims as said_by
from rotator.drift import Seen
from rotator.engine.desk import Desk, Result, ref_of, ref_of_minted
from rotator.engine.looking import look, taken_over
from rotator.engine.minting import LATE_TWIN, MINTING, equip
from rotator.engine.own import explained, unrenewable
from rotator.engine.proof import Life, Suspect, Verdict, is_alive
from rotator.errors import (
    AuditUnavailable,
    CredentialRejected,
    Kind,
    NoLongerHeld,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
)
from rotator.events import Event, EventName
from rotator.model import (
    DeliveryRecord,
    DeliveryState,
    Ending,
    Generation,
    Grade,
    Held,
    Lineage,
    Mint,
    Outcome,
    Reason,
    Retiring,
    Rotation,
    State,
    Step,
    Strategy,
    Token,
    Watch,
)
from rotator.planning import LONGEST_BACKOFF
from rotator.ports import Others, Provider, Write
from rotator.secret import Secret

MOST_POSTS = 6  # of one rotation, over all sweeps; then a person must look
POSTS_AT_ONCE = 3  # of one rotation in one sweep
REFUSALS_AT_ONCE = 3
AT_ONCE = Ending(timedelta(), only_unused=False)


def backoff(failures: int) -> timedelta:
    """Return how long to leave a token alone after so many failures in a row."""
    return min(timedelta(minutes=2.0 ** min(failures - 1, 20)), LONGEST_BACKOFF)


@dataclass(slots=True)
class Attempt:
    """A rotation while this process holds it.

    Attributes:
        provider: What it is done through: for our own credential another one than the desk's.
        secret: The minted value while it is in memory; the journal has it sealed once `is_sealed`.
        posts_now: POSTs sent by this drive.
        probed: When this drive authenticated as the new secret.
        arrived: Deliveries that the next write journals too.
    """

    desk: Desk
    rotation: Rotation
    lineage: Lineage
    provider: Provider
    secret: Secret | None = None
    is_sealed: bool = True
    posts_now: int = 0
    refusals_now: int = 0
    credential_dead: bool = False
    probed: list[datetime] = field(default_factory=list)
    arrived: tuple[Event, ...] = ()

    def drive(self) -> Result:
        """Take the rotation as far as it goes now."""
        try:
            self._drive()
        except NoLongerHeld as error:
            return self._ousted(error.message)
        finally:
            if self.rotation.closed_at is None:
                with contextlib.suppress(RotatorError):  # the journal is full or locked: our end frees it
                    self.desk.journal.release(self.rotation.id)
        return self._result()

    def _ousted(self, message: str) -> Result:
        """End undelivered: whoever took the rotation over may have settled a newer secret in the meantime.

        What only this process holds is lost then. While the rotation is open its owner finds that out and heals it; if
        it was closed before that call took effect nobody looks, so the lineage says that its sinks hold a dead value.
        """
        message = f"{message}: another one has taken it over, and nothing more is delivered from here"
        self.desk.emit(self.desk.event(EventName.ROTATION_UNSETTLED, self.rotation, message=message))
        if not self.is_sealed and not self.rotation.successor:  # a twin ends nothing, and its marker finds it
            with contextlib.suppress(RotatorError):
                self._own_up()
        return replace(self._result(), outcome=Outcome.UNSETTLED, message=message)

    def _own_up(self) -> None:
        """Note that our call ended the secret that was settled, unless a newer one has settled since."""
        rotation, minted = self.rotation, self.rotation.minted
        known = self.desk.journal.lineages(rotation.provider, [rotation.lineage]).get(rotation.lineage)
        if known is None or minted is None or (known.generation and not minted.is_past(known.generation)):
            return
        said = "a new secret was made, but another process had taken the rotation over: it is planned anew"
        lost = self.desk.event(EventName.ROTATION_LOST, rotation, message=said, outcome=Outcome.LOST)
        self.desk.remember(replace(known, stale=True), lost)

    def _drive(self) -> None:
        steps: dict[State, Callable[[], bool]] = {
            State.INTENDED: self._post,
            State.IN_DOUBT: self._look,
            State.LOST: self._again,
            State.MINTED: self._finish,
            State.UNSETTLED: self._finish,
        }
        while self.rotation.closed_at is None and steps[self.rotation.state]():
            pass

    def recover(self) -> Result:
        """Drive a rotation that somebody, perhaps long dead, left open.

        Raises:
            RotatorError: Our clock is wrong, or that could not be told: it goes on once the clock is right.
        """
        if self.rotation.state is State.INTENDED:
            # The POST may have left a moment before the crash, and may even take effect later: doubt it from now on.
            with contextlib.suppress(NotFound):
                self.provider.get(ref_of(self.rotation))  # whatever it answers, it says what time it is there
            self.desk.require_clock()
            self._doubt("the process ended at the moment of the rotate call")
        return self.drive()

    def renew(self, reason: Reason, message: str) -> Result:
        """Ask for another secret at once, whatever this rotation waits for; what it has sealed is kept until then.

        Raises:
            RotatorError: Nothing was changed.
        """
        token = self.provider.get(ref_of(self.rotation))
        endangered = self._endangered()
        if endangered:
            raise Permanent(endangered)
        if self.rotation.state is State.INTENDED:
            self._doubt("the process ended at the moment of the rotate call")
        self.rotation = replace(self.rotation, reason=reason)
        if not self._intend_again(message, observed=token.generation):
            raise Temporary("the intent could not be journalled")
        return self.drive()

    def abandon(self, why: str) -> None:
        """Close it unfinished, because something more urgent takes its place; a twin of it is to end.

        Its sinks may hold what is dead by then, so the lineage is stale until the next rotation of it has settled.
        """
        self.lineage = replace(self._with_lost_twin(), stale=True)
        self._close(State.SUPERSEDED, EventName.ROTATION_SUPERSEDED, why, None)

    # INTENDED

    def _post(self) -> bool:
        """Send the one POST that the journal announced."""
        self.posts_now += 1
        try:
            with self.desk.step(Step.ROTATE):
                minted = MINTING[self.rotation.strategy].post(self.desk, self.provider, self.rotation)
        except OutcomeUnknown as error:
            self._doubt(error.message)
            return True
        except RotatorError as error:
            return self._refused(error)
        self._minted(minted.token, minted.secret)
        return True

    def _doubt(self, message: str) -> None:
        """The POST may have taken effect, or may still take it."""
        is_twin = self.rotation.strategy is Strategy.OVERLAP
        self._save(
            State.IN_DOUBT,
            EventName.ROTATION_IN_DOUBT,
            step=Step.ROTATE,
            doubted_at=self.desk.clock.now(),
            doubts=(*self.rotation.doubts, self.rotation.post_id) if is_twin else (),
            message=message,
        )

    def _refused(self, error: RotatorError) -> bool:
        """The POST certainly had no effect: a passing cause is tried again with a new intent, others close."""
        self.refusals_now += 1
        self.rotation = replace(self.rotation, refused=self.rotation.refused + 1)
        self.credential_dead = isinstance(error, CredentialRejected) and explained(self.desk, error) is error
        if isinstance(error, Temporary) and self.refusals_now < REFUSALS_AT_ONCE and not self.desk.stop.is_set():
            self.desk.clock.sleep(error.retry_after or timedelta(seconds=1))
            if not self._endangered():  # the API may have asked for a long pause
                return self._intend_again(error.message)
        if self.rotation.losses:  # an earlier POST of this rotation took effect: the sinks hold a dead value
            self._save(
                State.LOST, EventName.ROTATION_REFUSED, step=Step.ROTATE, message=error.message, next_at=self._later()
            )
            return False
        if self.rotation.mint_id:  # the value of an earlier POST is still sealed, and still lives
            self._save(State.UNSETTLED, EventName.ROTATION_REFUSED, step=Step.ROTATE, message=error.message)
            return False
        self._close(State.REFUSED, EventName.ROTATION_REFUSED, error.message, Outcome.FAILED)
        return False

    def _minted(self, token: Token, secret: Secret) -> None:
        """Seal the new secret before anything else happens to it; without a journal, hold it and go on."""
        self.secret, self.is_sealed = secret, False
        rotation = replace(
            self.rotation,
            state=State.MINTED,
            mint_id=uuid.uuid4().hex,
            minted=token.generation,
            minted_at=self.desk.clock.now(),
            successor=token.id if token.id != self.rotation.token_id else "",
            end_at=token.end_at,
            fingerprint=self.desk.journal.fingerprint(secret),
            deliveries=tuple(DeliveryRecord(record.place) for record in self.rotation.deliveries),
            message="",
            next_at=None,
        )
        lineage = replace(self.lineage, minted_at=rotation.minted_at, twin=rotation.successor)
        event = self.desk.event(EventName.TOKEN_ROTATED, rotation, step=Step.MINT)
        self.rotation, self.lineage = rotation, self._shadow(lineage, rotation)
        with self.desk.step(Step.MINT) as step:
            self._write(Write(rotation=self.rotation, lineage=self.lineage, events=(event,)))
            step.failure = None if self.is_sealed else Kind.TEMPORARY

    # IN_DOUBT and LOST

    def _look(self) -> bool:
        """Find out what a POST without an answer did."""
        try:
            evidence = MINTING[self.rotation.strategy].look(self.desk, self.provider, self.rotation)
        except NotFound:
            return self._missing()
        except RotatorError as error:
            self._save(State.IN_DOUBT, None, message=error.message)
            return False
        self.rotation = replace(self.rotation, missing_since=None)
        if evidence.took_effect:
            for twin in evidence.delivered:
                self.lineage = self._with_old(twin)
            self._save(
                State.LOST,
                EventName.ROTATION_LOST,
                outcome=Outcome.LOST,
                observed=evidence.generation,
                losses=self.rotation.losses + 1,
                message="a new secret was made, but it never reached us: another one is asked for",
            )
            return True
        if self._still_late():
            return False
        if self.rotation.losses:
            self._save(State.LOST, None, message="the last call had no effect; the one before lost its secret")
            return True
        if self.rotation.mint_id:
            self._save(State.UNSETTLED, None, message="the last call had no effect; the secret before it is sealed")
            return True
        self._close(State.NO_EFFECT, EventName.ROTATION_WITHOUT_EFFECT, "the rotate call had no effect", None)
        return False

    def _again(self) -> bool:
        """Rotate once more, knowingly: nobody holds the live value."""
        fruitless = self.rotation.posts - self.rotation.refused
        if fruitless >= MOST_POSTS:
            why = f"{fruitless} rotate calls brought no secret that could be kept"
            self._quarantine(why)
            return False
        if self.posts_now >= POSTS_AT_ONCE or self.desk.stop.is_set():
            self._save(State.LOST, None, next_at=self._later())
            return False
        if waits(self.rotation, self.desk.clock.now()):
            return False
        try:
            token = self.provider.get(ref_of(self.rotation))
        except NotFound:
            return self._missing()
        except RotatorError as error:
            self._save(State.LOST, None, message=error.message, next_at=self._later())
            return False
        self.desk.require_clock()  # no `next_at`, for it would be as wrong
        self.rotation = replace(self.rotation, missing_since=None)
        if self._adopt(token):
            return False
        endangered = self._endangered()
        if endangered:
            self._save(State.LOST, None, message=endangered, next_at=self._later())
            return False
        return self._intend_again("the last secret was lost", observed=token.generation)

    def _endangered(self) -> str:
        """Return whom another secret would lock out: since it was planned, the token may have become a credential."""
        if self.rotation.own or self.rotation.strategy is not Strategy.IN_PLACE:
            return ""
        try:
            owns, others = self.desk.provider.own_credentials(), self.desk.others()
        except RotatorError:
            return ""  # it was nobody's when this began, and its consumers are cut off
        token_id, places = self.rotation.token_id, [record.place for record in self.rotation.deliveries]
        # begun it goes on, whoever else could renew it, if the new secret reaches them
        holders = tuple(replace(holder, renews=False) for holder in others.holders.get(token_id, ()))
        return unrenewable(token_id, owns, Others({token_id: holders}), places)

    def _adopt(self, token: Token) -> bool:
        """End a lost rotation where nothing is lost: somebody else rotated meanwhile and has updated every sink."""
        if self.rotation.strategy is not Strategy.IN_PLACE or self.rotation.own:
            return False
        places = [record.place for record in self.rotation.deliveries]
        seen = look(self.desk, token, self.lineage, places)
        if seen.live is None or any(sighting.seen is not Seen.LIVE for sighting in seen.sightings):
            return False
        self.lineage = taken_over(self.desk, token, self.lineage, places, seen.live)
        claims = tuple(claim for place in places for claim in place.claims)
        message = "every sink holds a live secret that somebody else put there: taken over"
        self._close(State.ADOPTED, EventName.SECRET_ADOPTED, message, Outcome.SETTLED, claims=claims)
        return True

    def _intend_again(self, why: str, observed: Generation | None = None) -> bool:
        """Announce another POST; without a journal or audit line there is none."""
        try:
            with self.desk.step(Step.INTEND):
                self._save(
                    State.INTENDED,
                    EventName.ROTATION_INTENDED,
                    must_audit=True,
                    posts=self.rotation.posts + 1,
                    message=why,
                    next_at=None,
                    observed=observed or self.rotation.observed,
                )
        except (AuditUnavailable, Temporary):
            self.desk.emit(self.desk.event(EventName.ROTATION_UNSETTLED, self.rotation, message="not journalled"))
            return False
        return True

    def _missing(self) -> bool:
        """A token that the API does not know in two sweeps is gone; once may be a hiccup."""
        self.desk.require_clock()
        now, since = self.desk.clock.now(), self.rotation.missing_since
        if since is None or now < since + self.desk.settings.late_window:
            message = "the API does not know the token any more"
            self._save(self.rotation.state, None, missing_since=since or now, message=message)
            return False
        if self.rotation.successor:
            self.lineage = replace(self.lineage, stale=True)
            message = "its twin was deleted at the provider before it settled; it is planned anew"
            self._close(State.SUPERSEDED, EventName.ROTATION_SUPERSEDED, message, Outcome.UNSETTLED)
            return False
        # should it come back after all, its sinks hold nothing that we know to live
        self.lineage = replace(self.lineage, gone_at=now, stale=True, places=())
        self._close(State.GONE, EventName.TOKEN_GONE, "the token was deleted at the provider", None)
        return False

    # MINTED and UNSETTLED

    def _finish(self) -> bool:
        """Deliver what is missing, prove it, settle."""
        secret = self._sealed()
        if secret is None:
            return self.rotation.state is State.LOST
        fresh = self.posts_now > 0
        try:
            obstacle = equip(self.provider, self.rotation) if self.rotation.successor else ""
        except NotFound:
            return self._missing()
        if obstacle:
            return self._unsettled(obstacle)
        # A value that was found in the journal is delivered only if it may live: a person may have put a newer one.
        verdict = None if fresh else self._verdict(secret)
        if verdict is None or verdict.life is Life.ALIVE or verdict.waits:
            self._deliver(self._mint(secret))
        verdict = self._verified(verdict, secret)
        if verdict.life is Life.DEAD:
            return self._superseded()
        if verdict.life is Life.EXPIRED:
            return self._expired()
        if verdict.life is Life.GONE:
            return self._missing()
        obstacle = self._obstacle(verdict, secret)
        if obstacle:
            if verdict.life is Life.ALIVE and not self.rotation.successor:
                self._followed_up(self._mint(secret))  # the old secret is dead: who reads the others need not wait
            return self._unsettled(obstacle)
        if self._still_late(state=State.UNSETTLED):
            return False
        with self.desk.step(Step.SETTLE) as step:
            obstacle = self._followed_up(self._mint(secret))
            if not obstacle:
                self._settle(verdict.grade)
            step.failure = Kind.TEMPORARY if self.rotation.closed_at is None else None
        return self._unsettled(obstacle) if obstacle else False

    def _verified(self, known: Verdict | None, secret: Secret) -> Verdict:
        """Find out whether the secret lives, unless that is known, and which sinks hold it."""
        with self.desk.step(Step.VERIFY) as step:
            verdict, before = known or self._verdict(secret), self.rotation.deliveries
            if verdict.life in (Life.DEAD, Life.EXPIRED, Life.GONE):
                step.failure = Kind.PERMANENT
                return verdict
            records = tuple(self._read_back(record, secret) for record in before)
            self.rotation = replace(self.rotation, deliveries=records, verdict=verdict.grade)
            arrived = [new for old, new in zip(before, records, strict=True) if old.state is not DeliveryState.PENDING]
            if verdict.life is not Life.ALIVE or any(one.state is not DeliveryState.VERIFIED for one in arrived):
                step.failure = Kind.TEMPORARY
        return verdict

    def _followed_up(self, mint: Mint) -> str:
        """Let sinks do what comes after the arrival; return why a required one could not."""
        obstacle = ""
        for record in self.rotation.deliveries:
            if record.state is not DeliveryState.VERIFIED:
                continue
            try:
                self.desk.follow_up(record.place, mint)
            except RotatorError as error:
                self.arrived = (*self.arrived, self._failed(record, error.message))
                if record.place.required and not isinstance(error, NotFound):  # nobody is left to tell
                    obstacle = obstacle or f"{record.place.sink}: {error.message}"
        return obstacle

    def _obstacle(self, verdict: Verdict, secret: Secret) -> str:
        """Return what is missing of the proof, empty if nothing is."""
        records = self.rotation.deliveries
        missing = [r for r in records if r.place.required and r.state is not DeliveryState.VERIFIED]
        if missing:
            return "; ".join(f"{record.place.sink}: {record.error}" for record in missing)
        if verdict.life is not Life.ALIVE:
            return verdict.message
        return self._unreferenced(secret) if self.rotation.own else ""

    def _unreferenced(self, secret: Secret) -> str:
        """Our own credential has arrived only when the reference that we read it from yields the new value."""
        try:
            own = self.desk.provider.own_credentials().get(self.rotation.minted_token_id)
            if own is not None and own.read() == secret:
                return ""
        except RotatorError as error:
            return error.message
        return "the reference of our own credential does not yield the new value yet"

    def _unsettled(self, why: str) -> bool:
        self._save(State.UNSETTLED, EventName.ROTATION_UNSETTLED, outcome=Outcome.UNSETTLED, message=why)
        return False

    def _sealed(self) -> Secret | None:
        if self.secret is None:
            try:
                self.secret = self.desk.journal.secret(self.rotation)
            except NotFound:
                self.lineage = self._with_lost_twin()
                self._save(
                    State.LOST,
                    EventName.ROTATION_LOST,
                    outcome=Outcome.LOST,
                    losses=self.rotation.losses + 1,
                    successor="",
                    message="its secret could not be sealed before the process ended: another one is asked for",
                )
            except RotatorError as error:
                self._save(State.UNSETTLED, EventName.ROTATION_UNSETTLED, message=error.message)
        return self.secret

    def _mint(self, secret: Secret) -> Mint:
        rotation = self.rotation
        moment = rotation.minted.moment if rotation.minted else rotation.opened_at
        return Mint(
            rotation.mint_id,
            rotation.id,
            rotation.minted_token_id,
            secret,
            moment,
            rotation.end_at,
            rotation.lineage,
            rotation.fingerprint,
        )

    def _deliver(self, mint: Mint) -> None:
        """Write to every sink that lacks this mint, each in its own threads, and journal what arrived."""
        before = self.rotation.deliveries
        pending = [record for record in before if record.state is DeliveryState.PENDING]
        if len(pending) <= 1:
            done = {id(record): self._deliver_one(record, mint) for record in pending}
        else:
            futures = [(r, self.desk.pool(f"sink-{r.place.sink}").submit(self._deliver_one, r, mint)) for r in pending]
            done = {id(record): future.result() for record, future in futures}
        if not pending:
            return
        records = tuple(done[id(r)][0] if id(r) in done else r for r in before)
        self.rotation = replace(self.rotation, deliveries=records)
        events = tuple(event for _, event in done.values())
        if all(done[id(record)][0].state is DeliveryState.DELIVERED for record in pending):
            self.arrived = events  # a crash before the next write only repeats deliveries, which changes nothing
        else:
            self._write(Write(rotation=self.rotation, events=events, durable=False))

    def _deliver_one(self, record: DeliveryRecord, mint: Mint) -> tuple[DeliveryRecord, Event]:
        place, attempts = record.place, record.attempts + 1
        try:
            receipt = self.desk.deliver(place, mint)
        except RotatorError as error:
            return replace(record, attempts=attempts, error=error.message), self._failed(record, error.message)
        arrived = replace(record, state=DeliveryState.DELIVERED, version=receipt.version, attempts=attempts, error="")
        event = self.desk.event(
            EventName.SECRET_DELIVERED, self.rotation, step=Step.DELIVER, place=place, version=receipt.version
        )
        return arrived, event

    def _failed(self, record: DeliveryRecord, message: str) -> Event:
        return self.desk.event(
            EventName.DELIVERY_FAILED, self.rotation, step=Step.DELIVER, place=record.place, message=message
        )

    def _read_back(self, record: DeliveryRecord, secret: Secret) -> DeliveryRecord:
        """Prove that a sink now holds this very secret."""
        if record.state is DeliveryState.PENDING:
            return record
        try:
            held = self.desk.read_back(record.place)
        except NotFound:
            return replace(record, state=DeliveryState.PENDING, error="what was delivered is not there any more")
        except RotatorError as error:
            return replace(record, state=DeliveryState.DELIVERED, error=error.message)
        if held.secret is None and not _attests(held, record, self.rotation.mint_id):
            return replace(record, state=DeliveryState.PENDING, error="it was written by somebody else since")
        if held.secret is None:
            return replace(record, state=DeliveryState.VERIFIED, grade=Grade.ATTESTED, error="")
        if held.secret != secret:
            return replace(record, state=DeliveryState.PENDING, error="it holds something else than was delivered")
        return replace(record, state=DeliveryState.VERIFIED, grade=Grade.PROVEN, error="")

    def _verdict(self, secret: Secret) -> Verdict:
        verdict = is_alive(
            self.desk, self.provider, Suspect(ref_of_minted(self.rotation), secret, self.rotation.minted)
        )
        self.probed.append(self.desk.clock.now())
        if verdict.life is Life.ALIVE:
            self.rotation = replace(self.rotation, missing_since=None)
        return Verdict(Life.EXPIRED) if verdict.waits and self._is_past_its_end(secret) else verdict

    def _is_past_its_end(self, secret: Secret) -> bool:
        """Whether a rejected value lived when it was made and cannot come alive any more, by the API's own clock."""
        said, minted_at = said_by(secret), self.rotation.minted_at
        ends = [end for end in (self.rotation.end_at, said.expires_at if said else None) if end is not None]
        # one that was made after its end is no matter of time: another one would be no better
        if not ends or minted_at is None or max(ends) <= minted_at:
            return False
        return max(ends) <= self.desk.clock.now() + (self.desk.provider.clock_skew() or timedelta())

    def _expired(self) -> bool:
        """The value died while it waited for a sink. Planned anew: the next one is made once sinks can be written."""
        self.lineage = replace(self._with_lost_twin(), stale=True)
        message = "the new secret expired before every sink held it; it is planned anew"
        self._close(State.SUPERSEDED, EventName.ROTATION_SUPERSEDED, message, Outcome.UNSETTLED)
        return False

    def _superseded(self) -> bool:
        """The sealed value is dead: by an earlier call of ours that took effect late, or by somebody else."""
        if self.rotation.doubted_at is not None and not self.rotation.successor:
            self.secret = None
            self._save(
                State.LOST,
                EventName.ROTATION_LOST,
                outcome=Outcome.LOST,
                losses=self.rotation.losses + 1,
                message="an earlier rotate call took effect late and ended the secret just delivered",
            )
            return True
        drifts = (*self.lineage.drift_rotations, self.desk.clock.now())
        self.lineage = replace(self._with_lost_twin(), stale=True, drift_rotations=drifts)
        message = "somebody rotated the token after us; it is planned anew"
        self._close(State.SUPERSEDED, EventName.ROTATION_SUPERSEDED, message, Outcome.UNSETTLED)
        return False

    def _still_late(self, state: State | None = None) -> bool:
        """Wait, over sweeps, until a call in doubt can no longer take effect."""
        doubted, now, window = self.rotation.doubted_at, self.desk.clock.now(), self.desk.settings.late_window
        if doubted is None:
            return False
        event = EventName.ROTATION_UNSETTLED if state is State.UNSETTLED else None
        try:
            self.desk.require_clock()
        except Permanent as error:
            self._save(state or self.rotation.state, event, message=error.message)
            return True
        if now >= doubted + window:
            return False
        doubted = min(doubted, now)  # a clock that was ahead may have noted it
        message = "a rotate call without an answer may still take effect; looking again after late_window"
        self._save(state or self.rotation.state, event, doubted_at=doubted, next_at=doubted + window, message=message)
        return True

    def _settle(self, verdict: Grade) -> None:
        """Close with the seal erased; remember where and what."""
        rotation, now = self.rotation, self.desk.clock.now()
        unmoved = rotation.end_at is not None and rotation.end_at == rotation.end_at_before
        drifts = (*self.lineage.drift_rotations, now) if rotation.reason is Reason.DRIFTED else ()
        self.lineage = replace(
            self.lineage,
            name=rotation.name,
            token_id=rotation.minted_token_id,
            scope=rotation.scope,
            workspace_id=rotation.workspace_id,
            deployment_id=rotation.deployment_id,
            twin="",
            missing_since=None,
            gone_at=None,
            settled_at=now,
            generation=rotation.minted,
            places=tuple(record.place for record in rotation.deliveries),
            move_accepted=False,
            fingerprint=rotation.fingerprint,
            mint_id=rotation.mint_id,
            versions=tuple(record.version for record in rotation.deliveries),
            owed=(),
            expiry_fixed=unmoved if rotation.successor else self.lineage.expiry_fixed or unmoved,
            stale=False,
            drift=None,
            drift_rotations=drifts or self.lineage.drift_rotations,
            looked_at=now,
            retiring=(*self.lineage.retiring, *self._replaced(now)),
            probes=tuple(self.probed),
            failures=0,
            retry_at=None,
        )
        verified = self.desk.event(EventName.SECRET_VERIFIED, rotation, step=Step.VERIFY, message=str(verdict))
        unmoved_event = self.desk.event(
            EventName.EXPIRY_UNMOVED, rotation, message="rotating did not move the expiry; use max_age or overlap"
        )
        events = (verified, unmoved_event) if unmoved else (verified,)
        taken = tuple(claim for record in rotation.deliveries for claim in record.place.claims)
        self._close(State.SETTLED, EventName.ROTATION_SETTLED, "", Outcome.SETTLED, events=events, claims=taken)

    def _replaced(self, now: datetime) -> tuple[Retiring, ...]:
        """Return the old member that a twin has replaced: alive until its grace is over."""
        if not self.rotation.successor:
            return ()
        # where the policy is in_place, as for our only credential, there is no grace to wait for
        return (self._retiring(self.rotation.token_id, now, self.rotation.ending or AT_ONCE),)

    def _with_lost_twin(self) -> Lineage:
        """Return the lineage with a twin that shall never be used on its way out."""
        twin = self.rotation.successor
        return replace(self._with_old(twin), twin="") if twin else self.lineage

    def _with_old(self, token_id: str) -> Lineage:
        """Return the lineage with a member that ends as soon as every sink holds another one."""
        old = self._retiring(token_id, self.desk.clock.now(), AT_ONCE)
        others = tuple(member for member in self.lineage.retiring if member.token_id != token_id)
        return replace(self.lineage, retiring=(*others, old))

    def _retiring(self, token_id: str, now: datetime, ending: Ending) -> Retiring:
        rotation = self.rotation
        return Retiring(
            token_id=token_id,
            name=rotation.name,
            scope=rotation.scope,
            since=now,
            ending=ending,
            workspace_id=rotation.workspace_id,
            deployment_id=rotation.deployment_id,
            policy=rotation.policy,
            rotation_id=rotation.id,
        )

    def _watches(self) -> tuple[Watch, ...]:
        """Return what is still to be searched for once this rotation is closed."""
        rotation = self.rotation
        until = (rotation.doubted_at or rotation.opened_at) + LATE_TWIN
        return tuple(Watch(post_id, rotation.opened_at, until) for post_id in rotation.doubts)

    # journal

    def _later(self) -> datetime:
        return self.desk.clock.now() + backoff(max(1, self.rotation.posts - POSTS_AT_ONCE + 1))

    def _quarantine(self, why: str) -> None:
        self.lineage = replace(self.lineage, quarantined_at=self.desk.clock.now(), quarantine_reason=why, stale=True)
        self._close(State.QUARANTINED, EventName.TOKEN_QUARANTINED, why, Outcome.QUARANTINED)

    def _save(
        self,
        state: State,
        name: EventName | None,
        *,
        must_audit: bool = False,
        step: Step | None = None,
        outcome: Outcome | None = None,
        **changes: object,
    ) -> None:
        """Journal an open state, with its fact if it is one."""
        rotation = replace(self.rotation, state=state, **changes)  # type: ignore[arg-type]
        fact = name and self.desk.event(name, rotation, message=rotation.message, step=step, outcome=outcome)
        lineage = self._shadow(self.lineage, rotation)
        write = Write(rotation=rotation, lineage=lineage, events=(fact,) if fact else (), must_audit=must_audit)
        if must_audit:  # nothing irreversible happened yet: without the line there is no step
            self.desk.journal.write(write)
            self.rotation, self.lineage = rotation, lineage
            self._tell(write)
            return
        self.rotation, self.lineage = rotation, lineage
        self._write(write)

    def _close(
        self,
        state: State,
        name: EventName,
        message: str,
        outcome: Outcome | None,
        *,
        events: tuple[Event, ...] = (),
        claims: tuple[tuple[str, str], ...] = (),
    ) -> None:
        now = self.desk.clock.now()
        if outcome is Outcome.FAILED:
            failures = self.lineage.failures + 1
            digest = next((p.digest for p in self.desk.policies if p.name == self.rotation.policy), "")
            self.lineage = replace(
                self.lineage, failures=failures, retry_at=now + backoff(failures), retry_under=digest
            )
        watches = tuple(watch for watch in self.lineage.watches if watch.until > now)
        self.lineage = replace(self.lineage, watches=(*watches, *self._watches()))
        rotation = replace(self.rotation, state=state, message=message, closed_at=now)
        fact = self.desk.event(name, rotation, message=message, outcome=outcome, step=_STEP_OF.get(state))
        lineage = replace(self.lineage, open_state=None, open_message="")
        self.rotation, self.lineage = rotation, lineage
        self._write(Write(rotation=rotation, lineage=lineage, claims=claims, events=(*events, fact)))

    @staticmethod
    def _shadow(lineage: Lineage, rotation: Rotation) -> Lineage:
        return replace(lineage, open_state=rotation.state, open_message=rotation.message)

    def _write(self, write: Write) -> None:
        """Journal after the fact: a failure is loud but must not stop a delivery of a secret we hold.

        The seal goes with every write until one has succeeded, and so do the deliveries that are not journalled yet.
        """
        unsealed = None if self.is_sealed else self.secret
        durable = write.durable or unsealed is not None  # the seal must survive a power cut, whatever else may not
        write = replace(write, events=(*self.arrived, *write.events), secret=unsealed, durable=durable)
        try:
            self.desk.journal.write(write)
        except NoLongerHeld:
            raise
        except RotatorError as error:
            self.desk.emit(self.desk.event(EventName.JOURNAL_FAILED, self.rotation, message=error.message))
            if write.rotation is not None and write.rotation.closed_at is not None:
                # Not closed in the journal: say so, and let recovery close it.
                self.rotation = replace(write.rotation, state=State.UNSETTLED, closed_at=None, message=error.message)
            if self.secret is None:
                raise
            return
        self.is_sealed, self.arrived = True, ()
        self._tell(write)

    def _tell(self, write: Write) -> None:
        for event in write.events:
            self.desk.emit(event)

    def _result(self) -> Result:
        rotation = self.rotation
        outcomes = {
            State.SETTLED: Outcome.SETTLED,
            State.ADOPTED: Outcome.SETTLED,
            State.REFUSED: Outcome.FAILED,
            State.QUARANTINED: Outcome.QUARANTINED,
            State.NO_EFFECT: None,
            State.GONE: None,
        }
        return Result(
            rotation.token_id,
            rotation.name,
            str(rotation.scope),
            rotation.policy,
            rotation.reason,
            outcomes.get(rotation.state, Outcome.UNSETTLED),
            rotation.message,
            rotation.id,
            strategy=rotation.strategy,
            posted=self.posts_now > 0,
            locations=tuple(f"{r.place.sink}:{r.place.location}" for r in rotation.deliveries),
            credential_dead=self.credential_dead,
        )


_STEP_OF = {State.SETTLED: Step.SETTLE, State.REFUSED: Step.ROTATE}


def _attests(held: Held, record: DeliveryRecord, mint_id: str) -> bool:
    """Whether what a sink that cannot be read says of itself fits what was delivered."""
    if held.mint_id:
        return held.mint_id == mint_id
    return not held.version or held.version == record.version


def waits(rotation: Rotation, now: datetime) -> bool:
    """Whether recovery should leave a rotation alone until later: never for longer than we would put it off."""
    return rotation.next_at is not None and now < rotation.next_at <= now + LONGEST_BACKOFF
