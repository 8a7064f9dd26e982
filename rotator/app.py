"""The composition root: the only place where adapters are built and put together."""

import random
import sys
import threading
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, cast

from rotator import sinks
from rotator.audit import AuditFile, AuditStream, Author
from rotator.audit.shipping import Receiver, Shipper
from rotator.clock import SystemClock
from rotator.config import Config
from rotator.credentials import STORED, Reference
from rotator.elsewhere import Elsewhere, Held
from rotator.engine.desk import Desk, Settings, note
from rotator.engine.reserved import Reserved, spots_of
from rotator.engine.standing import Standing, unlisted
from rotator.errors import ConfigError, Permanent, Problem, Temporary
from rotator.events import Event, EventName
from rotator.journal.sealing import KeySource
from rotator.journal.sqlite import Reader, SqliteJournal, open_journal
from rotator.logs import StandardError, StandardOutput
from rotator.model import Policy, Rotation
from rotator.notify.channel import Channel
from rotator.notify.notifier import Notifier
from rotator.planning import lineage_state
from rotator.ports import Clock, Emit, Holder, Journal, Others, OwnCredential, Sink, Veto
from rotator.providers.astro.http import AstroHttp, Endpoint
from rotator.providers.astro.provider import AstroProvider, AstroSettings
from rotator.stores import Stores

DAEMON = "run"  # the actor of `rotator run`
ASTRO_SINK = "astro_environment"  # the type of sink that works with an Astro token itself
if TYPE_CHECKING:
    from rotator.notify.hooks import Hook


@dataclass(frozen=True, slots=True)
class App:
    """Everything a command needs.

    Attributes:
        desks: One a provider that has policies or open rotations, in file order.
        homeless: Open rotations of providers that the config no longer knows.
        reader: The journal's reading half, also when the command may not write.
        stop: Set to end every pause; the desks have a `stop` of their own, for claiming.
        shipper: Of the audit trail; None where no receiver is configured or nothing is written.
        notifier: Tells people and hooks; None if none are configured, or the command writes nothing.
    """

    config: Config
    desks: tuple[Desk, ...]
    homeless: tuple[Rotation, ...]
    reader: Reader
    emit: Emit
    clock: Clock
    stop: threading.Event
    shipper: Shipper | None = None
    notifier: Notifier | None = None

    def halt(self) -> None:
        """Claim nothing more and end every pause; what has begun is finished or journalled."""
        for desk in self.desks:
            desk.stop.set()
        self.stop.set()

    def unserved(self) -> list[str]:
        """Return the providers of which the journal remembers something, but that no policy uses any more."""
        served = {desk.provider.name for desk in self.desks}
        return [name for name in self.reader.providers() if name not in served]

    def unserved_standings(self, name: str) -> Iterator[Standing]:
        """Yield what is unfinished about the credentials of such a provider, from the journal alone."""
        what = f"no policy uses the provider {name} any more; put one back to go on with it"
        if name not in self.config.providers:
            what = f"the provider {name} is no longer configured; its seals are kept; put [providers.{name}] back"
        for lineage in self.reader.every_lineage(name):
            if lineage_state(lineage):
                yield unlisted(lineage, what)

    def policies(self, name: str | None) -> Sequence[Policy]:
        """Return the policies a command is about: one by name, or all.

        Raises:
            ConfigError: There is none of this name.
        """
        chosen = [policy for policy in self.config.policies if name in (None, policy.name)]
        if not chosen:
            known = ", ".join(policy.name for policy in self.config.policies)
            raise ConfigError.of("--policy", f"no policy is called {name!r}; there are: {known}")
        return chosen


@contextmanager
def opened(
    config: Config,
    actor: str,
    listeners: Sequence[Emit],
    *,
    writing: bool,
    clock: Clock | None = None,
    served: Collection[str] = (),
) -> Iterator[App]:
    """Build everything for one command and close it afterwards.

    Args:
        config: Valid.
        actor: What runs, for the audit: the command's name.
        listeners: Told of every event.
        writing: Whether the journal may be created and written; without it nothing on disk changes.
        clock: The system's if not given.
        served: Providers that somebody still works on, who may leave open rotations of them.

    Raises:
        ConfigError, Temporary: The journal, its key or a provider cannot be used.
    """
    stop = threading.Event()
    heard, clock = list(listeners), clock or SystemClock(stop)
    emit = _fan_out(heard)
    with ExitStack() as stack:
        stores = Stores(config)
        stack.callback(stores.close)
        notifier = None
        if writing:
            journal: Reader = _journal(config, actor, emit, clock, stores)
        else:
            journal = Reader(config.journal_path, key_source(config, stores))
        stack.callback(journal.close)
        _require_same_organizations(config, journal)
        shipper = None
        if isinstance(journal, SqliteJournal):
            notifier = _notifier(config, journal, stores, clock, emit)
            heard += [notifier] if notifier is not None else []
            note(journal, emit, _loaded(config, clock))
            shipper = shipper_of(config, journal, stores, clock, emit)
        built: dict[str, Sink] = {}
        for name, chosen in config.sinks.items():
            built[name] = sinks.load(chosen.kind).build(name, chosen.options, config.folder)
            stack.callback(_close, built[name])
        unfinished = journal.all_open_rotations()
        veto, kept = _veto(config, clock, emit), reserved(config, stores)
        elsewhere = Elsewhere(list(_held(config, stores)), clock.monotonic)
        desks = []
        for name in config.providers:
            mine = tuple(policy for policy in config.policies if policy.provider == name)
            if mine or name in served or any(rotation.provider == name for rotation in unfinished):
                # planning and showing call only the reading half of the journal
                settings = _settings(config)
                made = provider(config, name, emit, clock, stores)
                store = cast("Journal", journal)
                desk = Desk(
                    made,
                    mine,
                    built,
                    store,
                    clock,
                    emit,
                    settings,
                    writing=writing,
                    veto=veto,
                    reserved=kept,
                    others=partial(elsewhere.besides, name, made.organization_id),
                )
                stack.callback(desk.close)
                stack.callback(made.close)
                desks.append(desk)
        homeless = tuple(rotation for rotation in unfinished if rotation.provider not in config.providers)
        yield App(config, tuple(desks), homeless, journal, emit, clock, stop, shipper, notifier)


@dataclass(frozen=True, slots=True)
class Hands:
    """What a person needs to work on one provider's tokens by hand.

    Attributes:
        policies: All of the provider's; there may be none.
        refuge: The folder for a secret that could not go where it should.
        others: See `Desk`.
    """

    provider: AstroProvider
    policies: tuple[Policy, ...]
    journal: Journal
    clock: Clock
    emit: Emit
    refuge: Path
    others: Callable[[], Others]


@contextmanager
def by_hand(
    config: Config, name: str, actor: str, listeners: Sequence[Emit], clock: Clock | None = None
) -> Iterator[Hands]:
    """Build one provider with the journal, and close both afterwards.

    Args:
        config: Valid.
        name: Of the `[providers.X]` table.
        actor: What runs, for the audit.
        listeners: Told of every event.
        clock: The system's if not given.

    Raises:
        ConfigError, Temporary: The journal, its key or the provider cannot be used.
    """
    emit, clock = _fan_out(listeners), clock or SystemClock()
    with ExitStack() as stack:
        stores = Stores(config)
        stack.callback(stores.close)
        chosen = provider(config, name, emit, clock, stores)
        stack.callback(chosen.close)
        journal = _journal(config, actor, emit, clock, stores)
        stack.callback(journal.close)
        _require_same_organizations(config, journal)
        note(journal, emit, _loaded(config, clock))
        policies = tuple(policy for policy in config.policies if policy.provider == name)
        elsewhere = Elsewhere(list(_held(config, stores)), clock.monotonic)
        others = partial(elsewhere.besides, name, chosen.organization_id)
        yield Hands(chosen, policies, journal, clock, emit, config.state_dir, others)


def provider(config: Config, name: str, emit: Emit, clock: Clock, stores: Stores) -> AstroProvider:
    """Return the provider of a `[providers.X]` table; nothing is contacted yet."""
    table = config.providers[name]
    credentials = [_credential(text, stores) for text in table.credential]
    _require_one(credentials)
    settings = AstroSettings(
        name,
        table.organization_id,
        table.api_version,
        _endpoint(config, name),
        table.rate.model_dump(),
    )
    return AstroProvider(settings, credentials, clock, emit, random.Random())  # noqa: S311 - spreads retries


def _endpoint(config: Config, name: str) -> Endpoint:
    table = config.providers[name]
    return Endpoint(table.base_url.rstrip("/"), table.timeout, table.ca_bundle, table.proxy, config.engine.workers)


def unusable_endpoints(config: Config) -> list[Problem]:
    """Return what is wrong with the URLs and certificates of the providers; nothing is contacted."""
    problems: list[Problem] = []
    for name in config.providers:
        try:
            dice = random.Random()  # noqa: S311 - spreads retries
            AstroHttp(name, _endpoint(config, name), SystemClock(), lambda _: None, dice).close()
        except ConfigError as error:
            problems += error.problems
    return problems


def reserved(config: Config, stores: Stores) -> Reserved:
    """Return what rotator itself lives on; nothing is read yet."""
    files = frozenset(spot for path in config.own_files for spot in spots_of(path))
    references = [Reference.parse(text) for table in config.providers.values() for text in table.credential]
    credentials = [OwnCredential(r.absolute(config.state_dir), partial(stores.read, r)) for r in references]
    return Reserved(files, config.audit_path, credentials)


def channels(config: Config, stores: Stores) -> list[Channel]:
    """Return the channels of `[notifications]`; nothing is read or imported yet."""
    return [
        Channel(name, frozenset(table.on), table.group_for, partial(stores.read, Reference.parse(table.url)))
        for name, table in config.notifications.items()
    ]


def _notifier(config: Config, journal: SqliteJournal, stores: Stores, clock: Clock, emit: Emit) -> Notifier | None:
    hooks = _hooks(config, "settled")
    if not config.notifications and not hooks:
        return None
    notifier = Notifier(channels(config, stores), hooks, journal, clock, emit)
    with suppress(Temporary, Permanent):  # it is tried again by each pass
        notifier.begin()
    return notifier


def _veto(config: Config, clock: Clock, emit: Emit) -> Veto | None:
    hooks = _hooks(config, "before_rotate")
    if not hooks:
        return None
    from rotator.notify.veto import Hooks  # noqa: PLC0415 - as below

    return Hooks(hooks, clock, emit)


def _hooks(config: Config, on: str) -> "list[Hook]":
    chosen = [hook for hook in config.hooks if hook.table.on == on]
    if not chosen:
        return []
    from rotator.notify import hooks  # noqa: PLC0415 - brings sinks along, which a sweep without hooks does without

    return [hooks.built(hook, config.folder) for hook in chosen]


def _held(config: Config, stores: Stores) -> Iterator[Held]:
    """Yield every credential of the configuration that is an Astro token; nothing is read yet."""
    for name, table in config.providers.items():
        for own in (_credential(text, stores) for text in table.credential):
            yield Held(Holder(f"providers.{name}", own.reference, renews=True), table.organization_id, own)
    for name, sink in config.sinks.items():
        if sink.kind == ASTRO_SINK:
            options = sink.options.model_dump()
            reference = Reference.parse(options["credential"])
            own = OwnCredential(reference.absolute(config.folder), partial(reference.read, config.folder))
            yield Held(Holder(f"sinks.{name}", own.reference, renews=False), options["organization_id"], own)


def _credential(text: str, stores: Stores) -> OwnCredential:
    reference = Reference.parse(text)
    return OwnCredential(stores.name(reference), lambda: stores.read(reference), reference.kind in STORED)


def _require_one(credentials: Sequence[OwnCredential]) -> None:
    """Find before anything is done that a reference yields nothing, or that no store can be reached.

    Raises:
        ConfigError: A reference yields nothing.
        Temporary: None can be read now.
    """
    failures = []
    for own in credentials:
        try:
            own.read()
        except Temporary as error:  # said by whoever has to do without it
            failures.append(error)
    if len(failures) == len(credentials):
        raise failures[0]


def _settings(config: Config) -> Settings:
    engine = config.engine
    return Settings(engine.workers, engine.max_clock_skew, engine.late_window, engine.drift_check)


def _journal(config: Config, actor: str, emit: Emit, clock: Clock, stores: Stores) -> SqliteJournal:
    author = Author(actor, uuid.uuid4().hex[:12])
    path = config.audit_path
    try:
        config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError.of("state_dir", f"cannot make {config.state_dir}: {error.strerror}") from None
    # The daemon's standard output is nobody else's; that of every other command is for its results.
    stream = StandardOutput() if actor == DAEMON else StandardError()
    trail = AuditStream(cast("TextIO", stream), author) if path is None else AuditFile(path, author)

    def failed(message: str) -> None:
        emit(Event(name=EventName.AUDIT_FAILED, at=clock.now(), message=message))

    return open_journal(config.journal_path, key_source(config, stores), trail, failed)


def _require_same_organizations(config: Config, journal: Reader) -> None:
    """Refuse to ask one organization about the tokens of another: all would look deleted, and their seals be erased.

    Raises:
        ConfigError: The journal knows a provider's name as another organization.
    """
    problems = []
    for name, table in config.providers.items():
        wanted = table.organization_id
        if isinstance(journal, SqliteJournal):
            known = journal.pin_organization(name, wanted)
        else:
            known = journal.organization(name)
        if known not in ("", wanted):
            said = (
                f"the journal {config.journal_path} was begun with {known}, whose tokens would all look deleted in"
                f" {wanted}; put {known} back, or give {wanted} another provider name, or a state_dir"
                " and sinks of its own. Nothing was done and nothing is lost"
            )
            problems.append(Problem(f"providers.{name}.organization_id", said))
    if problems:
        raise ConfigError(problems)


def _loaded(config: Config, clock: Clock) -> Event:
    said = f"the config file has the SHA-256 {config.digest}"
    return Event(name=EventName.CONFIG_LOADED, at=clock.now(), message=said)


def shipper_of(config: Config, journal: SqliteJournal, stores: Stores, clock: Clock, emit: Emit) -> Shipper | None:
    """Return what ships the audit trail to its HTTP receiver; None if none is configured. Nothing is contacted yet."""
    table, path = config.audit.http, config.audit_path
    if table is None or path is None:
        return None
    reference = Reference.parse(table.token) if table.token else None
    token = None if reference is None else lambda: stores.read(reference)
    bundle = str(config.folder / Path(table.ca_bundle).expanduser()) if table.ca_bundle else ""
    return Shipper(path, Receiver(table.url, token, bundle, table.batch, table.timeout), journal, clock, emit)


def key_source(config: Config, stores: Stores) -> KeySource:
    """Return where the sealing keys come from, and where a new one may be made."""
    reference = Reference.parse(config.journal.key)
    file = reference.path(config.state_dir)
    missing = file is not None and not file.exists()
    return KeySource(str(reference), None if missing else stores.read(reference), file)


def _close(sink: Sink) -> None:
    try:
        sink.close()
    except Exception as error:  # noqa: BLE001 - boundary "plug-in call": the work is done, so nothing is undone by it
        with suppress(Exception):
            sys.stderr.write(f"rotator: the sink {sink.name} could not be closed ({type(error).__name__})\n")


def _fan_out(listeners: Sequence[Emit]) -> Callable[[Event], None]:
    def emit(event: Event) -> None:
        for listener in listeners:
            try:
                listener(event)
            except Exception as error:  # noqa: BLE001 - boundary "listener": nothing flows back into the engine
                with suppress(Exception):  # standard error may be what failed
                    sys.stderr.write(f"rotator: a listener failed ({type(error).__name__})\n")

    return emit
