"""All sweeps of one provider, one after the other, in a thread of its own.

Policies whose moment is the same are swept together, over one listing. Who asks never waits. Between scheduled sweeps
the sweeper settles what is open, and sweeps *by expiry* alone: tokens that expire do not wait for tonight, but those
that are only old do.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from rotator.board import Board
from rotator.daemon.agenda import Agenda
from rotator.engine.desk import Desk, note
from rotator.engine.rotation import waits
from rotator.engine.standing import standings
from rotator.engine.sweep import Report, erase, recover, sweep
from rotator.errors import RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage, Outcome, Policy
from rotator.schedule import EPOCH

FRESH = timedelta(minutes=15)  # how old the picture of the tokens may become
_LINGER_S = 0.5  # schedules that fire at the same moment are swept together
_PAUSE = timedelta(minutes=1)  # after a failure, before anything unscheduled


@dataclass(slots=True)
class _Wanted:
    """What the next pass shall do.

    Attributes:
        scheduled: Policies to sweep. `urgent`: those to sweep by expiry alone.
        recover: Whether open rotations are to be driven on.
        look: Whether only the picture of the tokens is to be renewed.
    """

    scheduled: set[str] = field(default_factory=set)
    urgent: set[str] = field(default_factory=set)
    recover: bool = False
    look: bool = False

    def __bool__(self) -> bool:
        return bool(self.scheduled or self.urgent or self.recover or self.look)


class Sweeper:
    """Sweeps when asked.

    Args:
        desk: The provider and everything else.
        lineages: Yields all that the journal remembers of the provider.
        board: Takes the tokens' standings after each pass.
    """

    def __init__(self, desk: Desk, lineages: Callable[[], Iterable[Lineage]], board: Board) -> None:
        self._desk = desk
        self._lineages = lineages
        self._board = board
        self._ended = threading.Event()  # the desk's own `stop` also ends a sweep whose credential is dead
        self._agenda = Agenda()
        self._wanted, self._running = _Wanted(look=True), _Wanted()
        self._quiet_until = EPOCH
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name=f"sweeper-{desk.provider.name}", daemon=True)

    @property
    def policies(self) -> Sequence[Policy]:
        """The provider's."""
        return self._desk.policies

    @property
    def is_idle(self) -> bool:
        """Whether nothing is waiting or under way."""
        with self._changed:
            return not (self._wanted or self._running)

    def start(self) -> None:
        """Begin; the first pass settles what an earlier process left open and looks at the tokens."""
        with self._changed:
            self._wanted.recover = True
        self._thread.start()

    def note(self, event: Event) -> None:
        """Take in an event of the provider."""
        with self._changed:
            self._agenda.note(event)

    def schedule(self, policy: str) -> bool:
        """Ask for a sweep of a policy; False if one is waiting or under way already."""
        with self._changed:
            if policy in self._wanted.scheduled | self._running.scheduled:
                return False
            self._wanted.scheduled.add(policy)
            self._changed.notify_all()
            return True

    def tend(self) -> None:
        """Ask for what is to be done between scheduled sweeps, if anything; called every moment, cheap."""
        if self._ended.is_set():  # its journal may be closed
            return
        now = self._desk.clock.now()
        with self._changed:
            if self._running or self._wanted or timedelta() < self._quiet_until - now <= _PAUSE:
                return
            wanted = _Wanted(self._agenda.retries(now), self._agenda.looks(now))
        mine = {policy.name for policy in self.policies}
        wanted.urgent |= {policy for policy, at in self._board.wakes().items() if at <= now and policy in mine}
        wanted.recover = self._has_open(now)
        looked_at = self._board.looked_at(self._desk.provider.name)
        wanted.look = looked_at is None or not timedelta() <= now - looked_at < FRESH  # clocks are put back, too
        with self._changed:
            if wanted and not self._running:
                self._wanted.scheduled |= wanted.scheduled & mine
                self._wanted.urgent |= wanted.urgent & mine
                self._wanted.recover |= wanted.recover
                self._wanted.look |= wanted.look
                self._changed.notify_all()

    def end(self) -> None:
        """Begin nothing more; what has begun is finished or journalled."""
        self._ended.set()
        self._desk.stop.set()
        with self._changed:
            self._changed.notify_all()

    def join(self) -> None:
        """Wait until nothing is under way."""
        self._thread.join()

    def _has_open(self, now: datetime) -> bool:
        try:
            rotations = self._desk.journal.open_rotations(self._desk.provider.name)
        except RotatorError as error:
            self._tell("", error)
            return False
        return any(not waits(rotation, now) for rotation in rotations)

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._wanted and not self._ended.is_set():
                    self._changed.wait()
            if self._ended.wait(_LINGER_S):
                return
            with self._changed:
                self._running, self._wanted = self._wanted, _Wanted()
            self._attempted(self._running)
            if not self._ended.is_set():
                self._desk.stop.clear()  # set by a dead credential; it may be replaced any moment, and is read anew
            with self._changed:
                self._running = _Wanted()

    def _attempted(self, wanted: _Wanted) -> None:
        """Do one pass; whatever goes wrong is told, and the next one comes."""
        try:
            self._pass(wanted)
            error: RotatorError | None = None
        except RotatorError as found:
            error = found
        except Exception as found:  # noqa: BLE001 - boundary "job": one pass must not end the daemon
            error = Temporary(f"unexpected {type(found).__name__}; the journal has the state, the next sweep goes on")
        if error is not None:
            self._failed(wanted, error)

    def _pass(self, wanted: _Wanted) -> None:
        desk, urgent = self._desk, wanted.urgent - wanted.scheduled
        if wanted.scheduled:
            self._judged(self._swept(desk, wanted.scheduled))
        if urgent and not desk.stop.is_set():
            self._swept(by_expiry(desk), urgent)  # what comes to nothing wakes us again
        if wanted.recover and not (wanted.scheduled or urgent):  # a sweep recovers too
            recover(desk)
            erase(desk)
        if not self._ended.is_set():
            self._board.take(desk.provider.name, standings(desk, self._lineages()), desk.clock.now())

    def _swept(self, desk: Desk, names: set[str]) -> Mapping[str, bool]:
        """Sweep, and return by policy whether it should be tried again before its next moment."""
        report = Report(provider=desk.provider.name)
        sweep(desk, [policy for policy in desk.policies if policy.name in names], None, lambda _: True, report)
        refused = {refusal.policy for refusal in report.plan.refused}  # waits for a person
        failed = {result.policy for result in report.results if result.outcome is Outcome.FAILED}
        is_dead = any(result.credential_dead for result in report.results)
        return {name: name not in refused and (name in failed or is_dead) for name in names}

    def _judged(self, again: Mapping[str, bool]) -> None:
        now = self._desk.clock.now()
        with self._changed:
            for name, is_to_repeat in again.items():
                if is_to_repeat:
                    self._agenda.failed(name, now)
                else:
                    self._agenda.succeeded(name)

    def _failed(self, wanted: _Wanted, error: RotatorError) -> None:
        self._judged(dict.fromkeys(wanted.scheduled, True))
        self._quiet_until = self._desk.clock.now() + _PAUSE
        for name in sorted(wanted.scheduled | wanted.urgent) or [""]:
            self._tell(name, error)

    def _tell(self, policy: str, error: RotatorError) -> None:
        event = Event(
            name=EventName.SWEEP_FAILED,
            at=self._desk.clock.now(),
            provider=self._desk.provider.name,
            policy=policy,
            error=type(error).__name__,
            message=error.message,
        )
        note(self._desk.journal, self._desk.emit, event)


def by_expiry(desk: Desk) -> Desk:
    """Return the desk with policies that rotate nothing for its age."""
    policies = [replace(policy, when=replace(policy.when, max_age=None)) for policy in desk.policies]
    return replace(desk, policies=tuple(policies))
