"""Keeps one configuration at work, and swaps it for another without dropping anything.

A new file is read, validated and put together whole while the old one works on; only then the old one's sweepers end
what they have begun, and the new ones start. Whatever is wrong with it, the old one stays in force, and that is said in
log, audit, metrics and on the status page. Secrets behind references need no reload: they are read at each use.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path

from rotator.app import App, opened
from rotator.board import Board, Snapshot
from rotator.clock import SystemClock
from rotator.config import Config, ServerTable, load
from rotator.daemon.repeating import Repeating
from rotator.daemon.sweeper import Sweeper
from rotator.daemon.systemd import Systemd
from rotator.daemon.timetable import Timetable, missed
from rotator.daemon.watching import Watched
from rotator.engine.desk import note
from rotator.errors import ConfigError, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage, Outcome
from rotator.notify.rounds import Rounds
from rotator.ports import Clock, Emit
from rotator.server import Endpoints, Serving, serve
from rotator.text import visible

TICK, WATCH = timedelta(seconds=1), timedelta(seconds=2)
SHIP = timedelta(seconds=5)
_LAST_WORDS_S = 5.0  # for telling people, when the process ends
FALL = timedelta(minutes=1)  # a wall clock that falls by more was wrong: moments that it gave are planned anew
RELOAD_AGAIN_S = 60.0  # after a reload that failed for a reason that may pass
DEAD_S = 30.0  # without a tick for so long the process is not alive


@dataclass(frozen=True, slots=True)
class Generation:
    """One configuration at work.

    Attributes:
        beside: What is done beside the sweeps.
        closing: Closes the application.
    """

    app: App
    sweepers: tuple[Sweeper, ...]
    beside: tuple[Repeating | Rounds, ...]
    closing: ExitStack

    def start(self) -> None:
        """Begin."""
        for worker in self._workers:
            worker.start()

    @property
    def _workers(self) -> tuple[Sweeper | Repeating | Rounds, ...]:
        return (*self.sweepers, *self.beside)

    def halt(self) -> None:
        """Begin nothing more and end every pause."""
        for sweeper in self.sweepers:
            sweeper.end()
        self.app.halt()

    def finish(self) -> None:
        """Begin nothing more, and wait for what has begun; `closing` is the caller's."""
        for worker in self._workers:
            worker.end()
        if self.app.shipper is not None:
            self.app.shipper.stop()
        for worker in self._workers:
            worker.join()


@dataclass(frozen=True, slots=True)
class Watchers:
    """Who is shown what the daemon does.

    Attributes:
        board: Shows where everything stands; also one of the listeners.
        listeners: Told of every event.
        metrics: Renders the metrics; see `server.Endpoints`.
        systemd: Told of our states.
    """

    board: Board
    listeners: Sequence[Emit]
    metrics: Callable[[str], tuple[bytes, str]]
    systemd: Systemd


class Service:
    """The daemon.

    Args:
        path: Of the config file; read again at each reload.
        watchers: Who is shown what it does.
        clock: The system's if not given.
    """

    def __init__(self, path: Path, watchers: Watchers, clock: Clock | None = None) -> None:
        self._path = path
        self._board = watchers.board
        self._listeners = (*watchers.listeners, self._noted)
        self._metrics = watchers.metrics
        self._systemd = watchers.systemd
        self._stop = threading.Event()
        self._clock = clock or SystemClock(self._stop)
        self._timetable = Timetable(self._fire, self._clock.now, self._crashed)
        self._current: Generation | None = None
        self._swapping = threading.Lock()
        self._serving: Serving | None = None
        self._watched: Watched | None = None
        self._is_reload_asked = False
        self._reload_again_s: float | None = None
        # Not APScheduler's: its jobs stand still while the wall clock is put back.
        self._pulse = (
            Repeating("tick", self._tick, TICK, self._crashed),
            Repeating("watch", self._watch, WATCH, self._crashed),
        )
        self._beat_s, self._seen_at = self._clock.monotonic(), self._clock.now()

    @property
    def config(self) -> Config:
        """What is in force."""
        return self._working.app.config

    @property
    def _working(self) -> Generation:
        if self._current is None:
            raise RuntimeError("not started")
        return self._current

    def start(self) -> None:
        """Put the configuration to work.

        Raises:
            ConfigError, Temporary, Permanent: It cannot be; nothing was begun.
        """
        generation = self._built()
        try:
            self._serve(generation.app.config.server, ServerTable(listen=""))
        except BaseException:
            generation.closing.close()
            raise
        self._watched = Watched(self._path, generation.app.config.digest)
        self._install(generation)
        page = f"; the status page is {self._serving.url}" if self._serving else ""
        self._note(EventName.DAEMON_STARTED, f"{len(generation.app.config.policies)} policies are at work{page}")
        self._timetable.start()
        for repeating in self._pulse:
            repeating.start()
        self._systemd.ready()

    def wait(self) -> None:
        """Block until `halt`; awake every second, for a handler runs in the main thread only while that is awake."""
        while not self._stop.wait(1.0):
            pass

    def halt(self) -> None:
        """Claim nothing more and end every pause; `close` waits for what has begun."""
        self._stop.set()
        current = self._current
        if current is not None:
            current.halt()

    def close(self) -> None:
        """Finish or journal what has begun, and let go of everything; right also if `start` came to nothing."""
        self.halt()
        self._systemd.stopping()
        for repeating in self._pulse:
            repeating.end()
        self._timetable.close()
        with self._swapping:
            if self._current is not None:
                self._current.finish()
                self._note(EventName.DAEMON_STOPPED, "what had begun is finished or journalled")
                self._say_last_words(self._current.app)
                self._current.closing.close()
        if self._serving is not None:
            self._serving.close()

    def ask_reload(self) -> None:
        """Reload at the next look at the file, whether it has changed or not; takes no lock, so signals may call it."""
        self._is_reload_asked = True

    def reload(self) -> None:
        """Swap the configuration for what the file says now; whatever is wrong with it, the old one stays."""
        with self._swapping:
            if self._stop.is_set():
                return
            self._systemd.reloading()
            self._reload_again_s = self._clock.monotonic() + RELOAD_AGAIN_S  # also after an error that is not ours
            try:
                self._swap(self._built())
                self._reload_again_s = None
            except RotatorError as error:
                self._refused(error)
                if not isinstance(error, Temporary):  # unlike a store that is down for a moment, say
                    self._reload_again_s = None
            finally:
                self._systemd.ready()

    def _swap(self, generation: Generation) -> None:
        try:
            self._serve(generation.app.config.server, self.config.server)
        except BaseException:
            generation.closing.close()
            raise
        self._working.finish()
        try:
            self._working.closing.close()
        finally:  # from here on there is no way back: the old one has ended
            self._install(generation)

    def _serve(self, table: ServerTable, before: ServerTable) -> None:
        """Serve as a table says; raises ConfigError, and then serves as before."""
        if table == before:
            return
        old, is_same_place = self._serving, table.listen == before.listen
        if old is not None and is_same_place:  # only who may call us by which name has changed
            old.close()
        endpoints = Endpoints(lambda: self._board.snapshot(self._clock.now()), self._metrics, self.live, self.ready)
        self._serving = serve(table.listen, endpoints, table.names) if table.listen else None
        if old is not None and not is_same_place:
            old.close()

    def live(self) -> str:
        """Return why the process is not alive; empty if it is. Never asks anything upstream."""
        silence_s = self._clock.monotonic() - self._beat_s
        return f"the scheduler has not run for {silence_s:.0f} s" if silence_s > DEAD_S else ""

    def ready(self) -> str:
        """Return why no work can be taken on; empty if the config is loaded, and journal and audit can be written."""
        current = self._current
        if current is None or self._stop.is_set():
            return "stopping" if self._stop.is_set() else "starting"
        try:
            for desk in current.app.desks[:1]:  # one journal serves all
                desk.journal.preflight()
        except RotatorError as error:
            return error.message
        return ""

    def _built(self) -> Generation:
        config, current = load(self._path), self._current
        if current is not None:
            _require_same_journal(current.app.config, config)
        served = {desk.provider.name for desk in current.app.desks} if current is not None else ()
        with ExitStack() as stack:
            app = stack.enter_context(opened(config, "run", self._listeners, writing=True, served=served))
            sweepers = tuple(Sweeper(desk, _lineages(app, desk.provider.name), self._board) for desk in app.desks)
            closing = stack.pop_all()
        return Generation(app, sweepers, tuple(self._beside(app)), closing)

    def _beside(self, app: App) -> Iterator[Repeating | Rounds]:
        notifier, shipper = app.notifier, app.shipper
        if notifier is not None:
            yield Rounds(notifier, partial(self._seen, app), self._clock, app.emit)
        if shipper is not None:
            yield Repeating("shipping", shipper.ship, SHIP, self._crashed)

    def _seen(self, app: App, now: datetime) -> Snapshot | None:
        """Return where everything stands once all providers have been looked at."""
        snapshot = self._board.snapshot(now)
        return snapshot if all(desk.provider.name in snapshot.looked_at for desk in app.desks) else None

    def _install(self, generation: Generation) -> None:
        """Let a generation work; the one before it has ended."""
        config, now = generation.app.config, self._clock.now()
        self._board.configure(config, now)
        self._current = generation
        generation.start()
        if self._stop.is_set():  # told to stop meanwhile
            generation.halt()
        self._timetable.schedule({policy.name: policy.schedule for policy in config.policies})
        exposed = self._serving.exposed(now) if self._serving is not None else None
        if exposed is not None:
            generation.app.emit(exposed)
        try:
            for name in generation.app.unserved():
                self._board.take(name, generation.app.unserved_standings(name), now)
        except RotatorError as error:
            self._unread(f"what is left of providers that no policy uses is not shown: {error.message}")
        self._catch_up(generation, now)

    def _catch_up(self, generation: Generation, now: datetime) -> None:
        """Sweep at once what was missed while nobody ran, and what has never been swept and has no fixed hours.

        So is what a stop or a reload cut short, and what failed: who would have tried it again is gone.
        """
        policies = generation.app.config.policies
        try:
            last = generation.app.reader.last_sweeps([policy.name for policy in policies])
        except RotatorError as error:
            self._unread(f"it is not known when policies were last swept: {error.message}")
            last = {}
        for policy in policies:
            self._board.schedule(policy.name, policy.schedule.next_after(now))
            known = last.get(policy.name)
            if known is None:
                if policy.schedule.step is not None:
                    self._ask(policy.name)
                continue
            self._board.restore(policy.name, *known)
            passed = missed(policy.schedule, known[0].at, now)
            if passed:
                self._missed(policy.name, passed, "nobody ran")
            if passed or known[0].outcome is Outcome.FAILED:
                self._ask(policy.name)

    def _fire(self, policy: str, passed: int) -> None:
        """A policy's moment has come."""
        generation = self._working
        chosen = next((one for one in generation.app.config.policies if one.name == policy), None)
        if chosen is None:
            return
        self._board.schedule(policy, chosen.schedule.next_after(self._clock.now()))
        if passed:
            self._missed(policy, passed, "this process was not running")
        if not self._ask(policy):
            self._missed(policy, 1, "the sweep before it is still under way")

    def _ask(self, policy: str) -> bool:
        return any(
            sweeper.schedule(policy)
            for sweeper in self._working.sweepers
            if any(one.name == policy for one in sweeper.policies)
        )

    def _tick(self) -> None:
        now = self._clock.now()
        if now < self._seen_at - FALL:
            self._timetable.replan()
            for policy in self.config.policies:
                self._board.schedule(policy.name, policy.schedule.next_after(now))
        self._seen_at = now
        self._timetable.wake()
        self._beat_s = self._clock.monotonic()
        self._systemd.alive()
        for sweeper in self._working.sweepers:
            sweeper.tend()

    def _watch(self) -> None:
        asked, self._is_reload_asked = self._is_reload_asked, False
        if self._reload_again_s is not None and self._clock.monotonic() >= self._reload_again_s:
            asked, self._reload_again_s = True, None
        if (self._watched is not None and self._watched.has_changed()) or asked:
            self.reload()

    def _noted(self, event: Event) -> None:
        """Pass an event on to the sweeper of its provider."""
        for sweeper in self._current.sweepers if self._current is not None else ():
            sweeper.note(event)

    def _say_last_words(self, app: App) -> None:
        """Tell what the last sweep came to before the process ends; what fails is told by the next one."""
        if app.notifier is not None:
            with suppress(RotatorError):
                app.notifier.pass_once(None, self._clock.now(), patience_s=_LAST_WORDS_S, flush=True)

    def _crashed(self, kind: str) -> None:
        said = f"unexpected {kind} beside the sweeps; it is tried again"
        self._working.app.emit(Event(name=EventName.SWEEP_FAILED, at=self._clock.now(), error=kind, message=said))

    def _unread(self, said: str) -> None:
        self._note(EventName.SWEEP_FAILED, said)

    def _refused(self, error: RotatorError) -> None:
        said = "; ".join(str(one) for one in error.problems) if isinstance(error, ConfigError) else error.message
        said = f"the config in force stays: {visible(said, 1000)}"
        self._board.refuse_config(said)
        self._note(EventName.CONFIG_REFUSED, said)

    def _missed(self, policy: str, count: int, why: str) -> None:
        self._board.miss(policy, count)
        self._note(EventName.SWEEP_MISSED, f"{count} scheduled sweeps did not happen: {why}", policy)

    def _note(self, name: EventName, message: str, policy: str = "") -> None:
        app = self._working.app
        event = Event(name=name, at=self._clock.now(), policy=policy, message=message)
        for desk in app.desks[:1]:
            note(desk.journal, app.emit, event)


def _lineages(app: App, provider: str) -> Callable[[], Iterator[Lineage]]:
    return lambda: app.reader.every_lineage(provider)


def _require_same_journal(now: Config, wanted: Config) -> None:
    """Refuse to leave a journal behind: what it holds open, and its seals, nobody would go on with.

    So is an organization, even while nothing is remembered of it: what is at work may be about to.

    Raises:
        ConfigError: The file names another one.
    """
    if now.journal_path.resolve() != wanted.journal_path.resolve():
        said = f"a reload keeps the journal {now.journal_path}; `rotator settle`, then restart to change it"
        raise ConfigError.of("journal.url", said)
    for name, table in now.providers.items():
        other = wanted.providers.get(name, table).organization_id
        if other != table.organization_id:
            said = (
                f"a reload keeps {table.organization_id}; restart to change it, or give {other} another provider name"
            )
            raise ConfigError.of(f"providers.{name}.organization_id", said)
