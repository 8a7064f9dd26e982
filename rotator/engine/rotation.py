"""One rotation through its steps: the part of rotator that must not lose anything.

    INTENDED -> POST -> MINTED (sealed) -> delivered per sink -> verified -> SETTLED (seal erased)
    outcome unknown -> IN_DOUBT -> look -> LOST -> INTENDED again, bounded -> QUARANTINED
    a sink or the proof is missing -> UNSETTLED: the seal is kept and retried by recovery

Every arrow is a journal write before the next step. `drive` may be called on any open rotation in any state, so a crash
anywhere is the same as a pause. Only `_post` can change anything at the provider.
"""

import contextlib
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.claims import claims
from rotator.engine.desk import Desk, Result, ref_of
from rotator.errors import (
    AuditUnavailable,
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    RotatorError,
    Temporary,
)
from rotator.events import Event, EventName
from rotator.model import (
    DeliveryRecord,
    DeliveryState,
    Generation,
    Grade,
    Lineage,
    Mint,
    Outcome,
    Rotation,
    State,
    Step,
    Token,
)
from rotator.ports import Write
from rotator.secret import Secret

MOST_POSTS = 6  # of one rotation, over all sweeps; then a person must look
POSTS_AT_ONCE = 3  # of one rotation in one sweep
REFUSALS_AT_ONCE = 3
PATIENCE = timedelta(minutes=2)  # how long a fresh secret may be answered with 401 while the API catches up
LONGEST_BACKOFF = timedelta(hours=6)


def backoff(failures: int) -> timedelta:
    """Return how long to leave a token alone after so many failures in a row."""
    return min(timedelta(minutes=2.0 ** min(failures - 1, 20)), LONGEST_BACKOFF)


@dataclass(slots=True)
class Attempt:
    """A rotation while this process holds it.

    Attributes:
        secret: The minted value while it is in memory; the journal has it sealed.
        posts_now: POSTs sent by this drive.
        arrived: Deliveries that the next write journals too.
    """

    desk: Desk
    rotation: Rotation
    lineage: Lineage
    secret: Secret | None = None
    posts_now: int = 0
    refusals_now: int = 0
    credential_dead: bool = False
    arrived: tuple[Event, ...] = ()

    def drive(self) -> Result:
        """Take the rotation as far as it goes now."""
        try:
            self._drive()
        finally:
            if self.rotation.closed_at is None:
                with contextlib.suppress(RotatorError):  # the journal is full or locked: our end frees it
                    self.desk.journal.release(self.rotation.id)
        return self._result()

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
        """Drive a rotation that somebody, perhaps long dead, left open."""
        now = self.desk.clock.now()
        if self.rotation.state is State.INTENDED:
            # The POST may have left a moment before the crash, and may even take effect later: doubt it from now on.
            self._save(
                State.IN_DOUBT,
                EventName.ROTATION_IN_DOUBT,
                doubted_at=now,
                message="the process ended at the moment of the rotate call",
            )
        return self.drive()

    # INTENDED

    def _post(self) -> bool:
        """Send the one POST that the journal announced."""
        self.posts_now += 1
        try:
            minted = self.desk.provider.rotate(ref_of(self.rotation))
        except OutcomeUnknown as error:
            self._save(
                State.IN_DOUBT,
                EventName.ROTATION_IN_DOUBT,
                step=Step.ROTATE,
                doubted_at=self.desk.clock.now(),
                message=error.message,
            )
            return True
        except RotatorError as error:
            return self._refused(error)
        self._minted(minted.token, minted.secret)
        return True

    def _refused(self, error: RotatorError) -> bool:
        """The POST certainly had no effect: a passing cause is tried again with a new intent, others close."""
        self.refusals_now += 1
        self.credential_dead = isinstance(error, CredentialRejected)
        if isinstance(error, Temporary) and self.refusals_now < REFUSALS_AT_ONCE and not self.desk.stop.is_set():
            self.desk.clock.sleep(error.retry_after or timedelta(seconds=1))
            return self._intend_again(error.message)
        if self.rotation.losses:  # an earlier POST of this rotation took effect: the sinks hold a dead value
            self._save(
                State.LOST, EventName.ROTATION_REFUSED, step=Step.ROTATE, message=error.message, next_at=self._later()
            )
            return False
        self._close(State.REFUSED, EventName.ROTATION_REFUSED, error.message, Outcome.FAILED)
        return False

    def _minted(self, token: Token, secret: Secret) -> None:
        """Seal the new secret before anything else happens to it; without a journal, hold it and go on."""
        self.secret = secret
        rotation = replace(
            self.rotation,
            state=State.MINTED,
            mint_id=uuid.uuid4().hex,
            minted=token.generation,
            minted_at=self.desk.clock.now(),
            end_at=token.end_at,
            fingerprint=self.desk.journal.fingerprint(secret),
            deliveries=tuple(DeliveryRecord(record.place) for record in self.rotation.deliveries),
            message="",
            next_at=None,
        )
        lineage = replace(self.lineage, minted_at=rotation.minted_at)
        event = self.desk.event(EventName.TOKEN_ROTATED, rotation, step=Step.MINT)
        self.rotation, self.lineage = rotation, self._shadow(lineage, rotation)
        self._write(Write(rotation=self.rotation, lineage=self.lineage, secret=secret, events=(event,)))

    # IN_DOUBT and LOST

    def _look(self) -> bool:
        """Find out what a POST without an answer did."""
        try:
            token = self.desk.provider.get(ref_of(self.rotation))
        except NotFound:
            return self._missing()
        except RotatorError as error:
            self._save(State.IN_DOUBT, None, message=error.message)
            return False
        if token.generation.moved_since(self.rotation.observed):
            self._save(
                State.LOST,
                EventName.ROTATION_LOST,
                outcome=Outcome.LOST,
                observed=token.generation,
                losses=self.rotation.losses + 1,
                message="the token was rotated, but its new secret never reached us: it is rotated again",
            )
            return True
        if self._still_late():
            return False
        if self.rotation.losses:
            self._save(State.LOST, None, message="the last call had no effect; the one before lost its secret")
            return True
        self._close(State.NO_EFFECT, EventName.ROTATION_WITHOUT_EFFECT, "the rotate call had no effect", None)
        return False

    def _again(self) -> bool:
        """Rotate once more, knowingly: nobody holds the live value."""
        if self.rotation.posts >= MOST_POSTS:
            why = f"{self.rotation.posts} rotate calls brought no secret that could be kept"
            self._quarantine(why)
            return False
        if self.posts_now >= POSTS_AT_ONCE or self.desk.stop.is_set():
            self._save(State.LOST, None, next_at=self._later())
            return False
        if self.rotation.next_at is not None and self.desk.clock.now() < self.rotation.next_at:
            return False
        try:
            token = self.desk.provider.get(ref_of(self.rotation))
        except NotFound:
            return self._missing()
        except RotatorError as error:
            self._save(State.LOST, None, message=error.message, next_at=self._later())
            return False
        return self._intend_again("the last secret was lost", observed=token.generation)

    def _intend_again(self, why: str, observed: Generation | None = None) -> bool:
        """Announce another POST; without a journal or audit line there is none."""
        try:
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
        now = self.desk.clock.now()
        if self.rotation.missing_since is None:
            self._save(self.rotation.state, None, missing_since=now, message="the API does not know the token any more")
            return False
        self.lineage = replace(self.lineage, gone_at=now)
        self._close(State.GONE, EventName.TOKEN_GONE, "the token was deleted at the provider", None)
        return False

    # MINTED and UNSETTLED

    def _finish(self) -> bool:
        """Deliver what is missing, prove it, settle."""
        secret = self._sealed()
        if secret is None:
            return False
        fresh = self.posts_now > 0
        verdict, message = (None, "") if fresh else self._alive(secret)
        if fresh or verdict is not None or message == _INCONCLUSIVE:
            # A value that was found in the journal is delivered only if it may live: a person may have put a newer one.
            self._deliver(self._mint(secret))
        if fresh:
            verdict, message = self._alive(secret)
        if message == _DEAD:
            return self._superseded()
        if message == _GONE:
            return self._missing()
        records = tuple(self._read_back(record, secret) for record in self.rotation.deliveries)
        self.rotation = replace(self.rotation, deliveries=records, verdict=verdict or Grade.NONE)
        missing = [r for r in records if r.place.required and r.state is not DeliveryState.VERIFIED]
        if verdict is None or missing:
            why = "; ".join([f"{r.place.sink}: {r.error}" for r in missing] or [message])
            self._save(State.UNSETTLED, EventName.ROTATION_UNSETTLED, outcome=Outcome.UNSETTLED, message=why)
        elif self._still_late(state=State.UNSETTLED):
            pass
        else:
            self._settle(verdict)
        return False

    def _sealed(self) -> Secret | None:
        if self.secret is None:
            try:
                self.secret = self.desk.journal.secret(self.rotation)
            except RotatorError as error:
                self._save(State.UNSETTLED, EventName.ROTATION_UNSETTLED, message=error.message)
        return self.secret

    def _mint(self, secret: Secret) -> Mint:
        rotation = self.rotation
        moment = rotation.minted.moment if rotation.minted else rotation.opened_at
        return Mint(rotation.mint_id, rotation.id, rotation.token_id, secret, moment, rotation.end_at)

    def _deliver(self, mint: Mint) -> None:
        """Write to every sink that lacks this mint, each in its own threads, and journal what arrived."""
        before = self.rotation.deliveries
        pending = [record for record in before if record.state is DeliveryState.PENDING]
        if len(pending) <= 1:
            done = {id(record): self._deliver_one(record, mint) for record in pending}
        else:
            futures = [(r, self.desk.pool(r.place.sink).submit(self._deliver_one, r, mint)) for r in pending]
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
        sink = self.desk.sinks.get(place.sink)
        try:
            if sink is None:
                raise NotFound(f"the sink {place.sink} is no longer configured; its secret is kept sealed")
            receipt = sink.deliver(place, mint)
        except RotatorError as error:
            return replace(record, attempts=attempts, error=error.message), self._failed(record, error.message)
        except Exception as error:  # noqa: BLE001 - boundary "plug-in call": one sink must not stop the others
            said = f"the sink failed unexpectedly ({type(error).__name__})"
            return replace(record, attempts=attempts, error=said), self._failed(record, said)
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
        sink = self.desk.sinks.get(record.place.sink)
        if record.state is DeliveryState.PENDING or sink is None:
            return record
        try:
            held = sink.read_back(record.place)
        except NotFound:
            return replace(record, state=DeliveryState.PENDING, error="what was delivered is not there any more")
        except RotatorError as error:
            return replace(record, error=error.message)
        except Exception as error:  # noqa: BLE001 - boundary "plug-in call"
            return replace(record, error=f"the sink failed unexpectedly ({type(error).__name__})")
        if held.secret is None:
            return replace(record, state=DeliveryState.VERIFIED, grade=Grade.ATTESTED, error="")
        if held.secret != secret:
            return replace(record, state=DeliveryState.PENDING, error="it holds something else than was delivered")
        return replace(record, state=DeliveryState.VERIFIED, grade=Grade.PROVEN, error="")

    def _alive(self, secret: Secret) -> tuple[Grade | None, str]:
        """Use the secret: its grade if it lives, else None with `_DEAD` or why there is no verdict."""
        deadline = self.desk.clock.monotonic() + PATIENCE.total_seconds()
        pause = timedelta(seconds=1)
        while True:
            try:
                self.desk.provider.authenticate(ref_of(self.rotation), secret)
                return Grade.PROVEN, ""
            except CredentialRejected:
                verdict = self._second_look(secret, alive=None)
            except Forbidden:
                verdict = self._second_look(secret, alive=Grade.ATTESTED)
            except RotatorError as error:
                return None, error.message
            if verdict[1] != _INCONCLUSIVE or self.desk.clock.monotonic() > deadline or self.desk.stop.is_set():
                return verdict
            self.desk.clock.sleep(pause)
            pause = min(pause * 2, timedelta(seconds=20))

    def _second_look(self, secret: Secret, alive: Grade | None) -> tuple[Grade | None, str]:
        """Ask the provider whether the generation is still the minted one."""
        try:
            token = self.desk.provider.get(ref_of(self.rotation))
        except NotFound:
            return None, _GONE
        except RotatorError as error:
            return None, error.message
        if self.rotation.minted is not None and token.generation.moved_since(self.rotation.minted):
            return None, _DEAD
        said = claims(secret)
        if alive is not None and said is not None and said.token_id == self.rotation.token_id:
            return alive, ""
        return None, _INCONCLUSIVE

    def _superseded(self) -> bool:
        """The sealed value is dead: by an earlier call of ours that took effect late, or by somebody else."""
        if self.rotation.doubted_at is not None:
            self.secret = None
            self._save(
                State.LOST,
                EventName.ROTATION_LOST,
                outcome=Outcome.LOST,
                losses=self.rotation.losses + 1,
                message="an earlier rotate call took effect late and ended the secret just delivered",
            )
            return True
        self.lineage = replace(self.lineage, stale=True)
        message = "somebody rotated the token after us; it is planned anew"
        self._close(State.SUPERSEDED, EventName.ROTATION_SUPERSEDED, message, Outcome.UNSETTLED)
        return False

    def _still_late(self, state: State | None = None) -> bool:
        """Wait, over sweeps, until a call in doubt can no longer take effect."""
        doubted = self.rotation.doubted_at
        if doubted is None or self.desk.clock.now() >= doubted + self.desk.settings.late_window:
            return False
        until = doubted + self.desk.settings.late_window
        message = "a rotate call without an answer may still take effect; looking again after late_window"
        event = EventName.ROTATION_UNSETTLED if state is State.UNSETTLED else None
        self._save(state or self.rotation.state, event, next_at=until, message=message)
        return True

    def _settle(self, verdict: Grade) -> None:
        """Close with the seal erased; remember where and what."""
        rotation, now = self.rotation, self.desk.clock.now()
        places = tuple((r.place.sink, r.place.location) for r in rotation.deliveries)
        unmoved = rotation.end_at is not None and rotation.end_at == rotation.end_at_before
        self.lineage = replace(
            self.lineage,
            name=rotation.name,
            settled_at=now,
            generation=rotation.minted,
            places=places,
            move_accepted=False,
            fingerprint=rotation.fingerprint,
            expiry_fixed=self.lineage.expiry_fixed or unmoved,
            stale=False,
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
            self.lineage = replace(self.lineage, failures=failures, retry_at=now + backoff(failures))
        rotation = replace(self.rotation, state=state, message=message, closed_at=now)
        fact = self.desk.event(name, rotation, message=message, outcome=outcome, step=_STEP_OF.get(state))
        lineage = replace(self.lineage, open_state=None, open_message="")
        self.rotation, self.lineage = rotation, lineage
        self._write(Write(rotation=rotation, lineage=lineage, claims=claims, events=(*events, fact)))

    @staticmethod
    def _shadow(lineage: Lineage, rotation: Rotation) -> Lineage:
        return replace(lineage, open_state=rotation.state, open_message=rotation.message)

    def _write(self, write: Write) -> None:
        """Journal after the fact: a failure is loud but must not stop a delivery of a secret we hold."""
        write, self.arrived = replace(write, events=(*self.arrived, *write.events)), ()
        try:
            self.desk.journal.write(write)
        except RotatorError as error:
            self.desk.emit(self.desk.event(EventName.JOURNAL_FAILED, self.rotation, message=error.message))
            if write.rotation is not None and write.rotation.closed_at is not None:
                # Not closed in the journal: say so, and let recovery close it.
                self.rotation = replace(write.rotation, state=State.UNSETTLED, closed_at=None, message=error.message)
            if self.secret is None:
                raise
            return
        self._tell(write)

    def _tell(self, write: Write) -> None:
        for event in write.events:
            self.desk.emit(event)

    def _result(self) -> Result:
        rotation = self.rotation
        outcomes = {
            State.SETTLED: Outcome.SETTLED,
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
            posted=self.posts_now > 0,
            locations=tuple(f"{r.place.sink}:{r.place.location}" for r in rotation.deliveries),
            credential_dead=self.credential_dead,
        )


_DEAD = "dead"
_GONE = "gone"
_INCONCLUSIVE = "the new secret is not accepted yet (401) although the token shows it as the live one"
_STEP_OF = {State.SETTLED: Step.SETTLE, State.REFUSED: Step.ROTATE}


def waits(rotation: Rotation, now: datetime) -> bool:
    """Whether recovery should leave a rotation alone until later."""
    return rotation.next_at is not None and now < rotation.next_at
