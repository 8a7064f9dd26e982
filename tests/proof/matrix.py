"""The matrix: every step of every scenario, struck by a death or a fault, and then by a fault while it recovers.

A step is one call of a port: provider, sink, journal write, audit line. Each scenario runs once in peace to learn its
steps. Then it runs again for each step and each thing that can happen there, and is swept until it is at rest, while
time passes; at the end, and at every step on the way, the promises must hold (`World.violated`, `broken`).
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path

from rotator.events import EventName
from tests.proof.scenarios import SCENARIOS, Scenario
from tests.proof.world import DAY, Process, Strike, Template, World

Step = tuple[str, int]

DEATHS = ("before", "middle", "after")
_WRITE = ("timeout, no effect", "timeout, with effect", "5xx", "401")
_POST = (*_WRITE, "429", "late effect", "effect after the next POST")
_DELIVERY = ("down", "no receipt", "wrong content", "lost write")
# What can become of one call, by the beginning of its name; the first that fits decides.
FAULTS: Sequence[tuple[str, tuple[str, ...]]] = (
    ("provider.rotate", _POST),
    ("provider.create", _POST),
    ("provider.update_roles", _WRITE),
    ("provider.delete", _WRITE),
    ("provider.authenticate", ("timeout", "5xx", "401", "a replica lags")),
    ("provider.", ("timeout", "5xx", "401")),
    *((f"sink.{name}.deliver", _DELIVERY) for name in ("files", "copies", "home")),
    *((f"sink.{name}.read_back", ("down", "reads denied")) for name in ("files", "copies", "home")),
    ("sink.", ("down",)),
    ("audit.", ("full",)),
    ("journal.release", ("locked",)),
    ("journal.erase", ("locked",)),
    ("journal.preflight", ("full", "locked")),
    ("journal.", ("full", "locked")),
)  # fmt: skip
READS = (".list", ".get", ".authenticate", ".read_back", ".preflight")
ANYWHERE = (
    "clock a day ahead",
    "clock a day back",
    "another process sweeps",
    "mounts lag",
    "the next machine's mounts lag",
)
HANDS = ("a hand edits a sink", "a hand rotates", "a hand rotates and updates the sinks")
SETTLED_BEFORE = frozenset({"retirement after grace", "adoption", "nothing to do", "redelivery after a drift"})
# How much time passes before each sweep after the one that was struck: late_window, the drift check, a grace.
MINUTES, A_DAY = timedelta(minutes=3), timedelta(hours=26)
PAUSES = (MINUTES, MINUTES, A_DAY, MINUTES, A_DAY, timedelta(minutes=15))
QUIET = len(PAUSES)  # the most sweeps that recovery may need
# Faults that end a value which was sealed or held: one more secret is needed for each.
KILLERS = frozenset({"late effect", "effect after the next POST", *HANDS})


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that happens, and one more while it recovers.

    Attributes:
        then: A fault at the first call whose name begins so, in whichever sweep that is.
    """

    scenario: str
    first: Strike | None
    then: Strike | None = None

    def __str__(self) -> str:
        said = [f"{s.kind} @ {s.name}" + (f"#{s.nth}" if s.nth else "") for s in (self.first, self.then) if s]
        return f"{self.scenario}: {'; then '.join(said) or 'in peace'}"


@dataclass(slots=True)
class Tally:
    """What was tried in one scenario, and what broke."""

    scenario: str
    steps: int = 0
    deaths: int = 0
    faults: int = 0
    both: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def cases(self) -> int:
        """How many runs."""
        return self.deaths + self.faults + self.both


@dataclass(slots=True)
class Trial:
    """One case as it went.

    Attributes:
        recovery: The calls of the first sweep after the one that was struck.
        fired: Whether everything that was to strike did.
    """

    broken: list[str]
    recovery: list[Step]
    fired: bool


class Bench:
    """Runs cases in a folder in memory.

    Args:
        folder: Everything lies below it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._count = 0
        self._templates: dict[str, Template] = {}

    def template(self, scenario: Scenario) -> Template:
        """Return a scenario's world at rest, prepared once."""
        if scenario.name not in self._templates:
            folder = self._folder / f"template-{len(self._templates)}"
            self._templates[scenario.name] = scenario.template(folder)
        return self._templates[scenario.name]

    def steps(self, scenario: Scenario) -> list[Step]:
        """Return the steps of a scenario in peace."""
        with self._world(scenario) as world:
            process = world.sweep()
            assert not broken(world, scenario, []) or process.code == 0
            return list(process.log)

    def run(self, case: Case) -> Trial:
        """Run one case to its end."""
        scenario = SCENARIOS[case.scenario]
        with self._world(scenario) as world:
            struck = world.sweep(*([case.first] if case.first else []))
            fired, recovery = list(struck.fired), []
            pending = case.then
            idle = 0
            for pause in PAUSES if pending is None else (*PAUSES, MINUTES, A_DAY):
                world.jump(pause)
                process = world.sweep(*([pending] if pending else []))
                if process.fired:
                    fired += process.fired
                    pending = None
                recovery = recovery or list(process.log)
                idle = idle + 1 if _is_idle(world, process) else 0
                if idle >= 2 and pause >= DAY:
                    break
            found = broken(world, scenario, fired)
            wanted = (case.first is not None) + (case.then is not None)
            return Trial([f"{case}: {what}" for what in found], recovery, len(fired) == wanted)

    def _world(self, scenario: Scenario) -> "_Closing":
        template = self.template(scenario)
        self._count += 1
        return _Closing(scenario.start(template, self._folder / f"case-{self._count}"))


class _Closing:
    def __init__(self, world: World) -> None:
        self._world = world

    def __enter__(self) -> World:
        return self._world

    def __exit__(self, *_: object) -> None:
        self._world.close()
        shutil.rmtree(self._world.folder)


def _is_idle(world: World, process: Process) -> bool:
    nothing = process.report is not None and not process.report.results
    return process.code == 0 and nothing and not world.late


def broken(world: World, scenario: Scenario, fired: Sequence[str]) -> list[str]:
    """Return the promises that do not hold at the end."""
    found = list(world.violations)
    by_hand = any(kind in HANDS for kind in fired)
    report, code = world.reports[-1]
    named = {result.token_id for result in report.results} if report is not None and code else set()
    for root, spots in world.lineages.items():
        lineage = world.known(root)
        in_use = lineage.token_id if lineage is not None else root
        lost = [spot for spot in spots if world.alive_at(spot) != in_use]
        is_named = by_hand and lineage is not None and (lineage.quarantined_at is not None or in_use in named)
        if lost and not is_named:
            found.append(f"(a) {lost} hold no live secret of it")
        record = world.store.tokens.get(in_use)
        if record is not None and frozenset(record.roles) != world.roles[root]:
            found.append("(e) its roles have changed")
        if lineage is not None and lineage.quarantined_at is not None and not by_hand:
            found.append("(a) it was given up")
    if code != 0 and not by_hand:
        found.append(f"(a) the last sweep still exits {code}")
    if world.unfinished():
        found.append("(a) a rotation is still open")
    if world.sealed_now():
        found.append("(c) a seal was not erased")
    if world.audited().total() - world.audited_before < world.posts.total():
        found.append("(b) there are fewer audited intents than POSTs")
    if not {"full", "locked"} & set(fired) and any(e.name is EventName.JOURNAL_FAILED for e in world.events):
        found.append("(j) a process lost its rotation to another one while it was alive")
    if world.leaks():
        found.append(f"(c) a secret is readable in {world.leaks()}")
    found += [f"(u) who reads {sink} was never told of what was delivered there" for sink in _untold(world)]
    found += _touched(world)
    kept = len(world.sealed)
    needed = scenario.posts + world.late_effects + sum(kind in KILLERS for kind in fired)
    if kept > needed:
        found.append(f"(n) {kept} new secrets were kept where {needed} were needed")
    return found


def _untold(world: World) -> list[str]:
    return [spot[0] for spot, mint_id in world.untold.items() if world.contents[spot][-1][2] == mint_id]


def _touched(world: World) -> list[str]:
    """(e) Nothing else is there, is gone, or has changed."""
    members: set[str] = set()
    for root in world.lineages:
        lineage = world.known(root)
        members |= set(lineage.members) if lineage is not None else {root}
    others = {token_id: record for token_id, record in world.store.tokens.items() if token_id not in members}
    found = []
    if not world.watching_credentials:
        others.pop(world.store.owner_id, None)
    for token_id, record in others.items():
        if record.name != "other":
            if any(event.name is EventName.TWIN_FOUND and event.token_id == token_id for event in world.events):
                continue  # named, for the proof that it is ours was not whole
            found.append(f"(e) a token {record.name} ({record.description[:40]}) was left behind")
        elif world.alive_at(("elsewhere", "other")) != token_id:
            found.append("(e) a token that no policy selects was touched")
    if not any(record.name == "other" for record in others.values()):
        found.append("(e) a token that no policy selects is gone")
    return found


def faults_of(name: str) -> tuple[str, ...]:
    """Return what can become of a call, besides what can happen anywhere."""
    return next((kinds for prefix, kinds in FAULTS if name.startswith(prefix)), ())


def first_strikes(steps: Sequence[Step], scenario: str) -> Iterator[Strike]:
    """Yield every fault without a death, step by step."""
    for name, nth in steps:
        inside = name.startswith("audit.")  # in the middle of a commit nobody else has a turn
        anywhere = () if inside else (*ANYWHERE, *HANDS) if scenario in SETTLED_BEFORE else ANYWHERE
        for kind in (*faults_of(name), *anywhere):
            yield Strike(name, nth, kind)


def different_states(steps: Sequence[Step]) -> Iterator[Strike]:
    """Yield one death for each state that a death can leave behind.

    To die before a step is to die after the one before it, and between two reads nothing changes.
    """
    has_changed = True
    for name, nth in steps:
        if has_changed and not name.startswith("audit."):
            yield Strike(name, nth, "before")
            has_changed = False
        has_changed = has_changed or not name.endswith(READS)
        if name.startswith("audit.") and "intended" in name:
            yield Strike(name, nth, "after")


def second_strikes(recovery: Sequence[Step]) -> Iterator[Strike]:
    """Yield the faults that can strike while it recovers: each at the first call that it fits."""
    names = list(dict.fromkeys(name for name, _ in recovery))
    for name in names:
        for kind in faults_of(name):
            yield Strike(name, 0, kind)
        if name.startswith(("journal.write", "journal.open", "journal.remember", "provider.rotate", "provider.create")):
            yield Strike(name, 0, "before")
            yield Strike(name, 0, "after")
    if names:
        for kind in ANYWHERE:
            yield Strike(names[0], 0, kind)


def pure_deaths(steps: Sequence[Step]) -> Iterator[Strike]:
    """Yield every death."""
    for name, nth in steps:
        for kind in DEATHS:
            yield Strike(name, nth, kind)


def scenario_tally(bench: Bench, name: str, part: int = 0, parts: int = 1) -> Tally:
    """Try everything in one scenario, or every `parts`-th step of it."""
    scenario = SCENARIOS[name]
    steps = bench.steps(scenario)
    mine = steps[part::parts]
    tally = Tally(name, len(mine))
    different = set(different_states(steps))
    for strike in pure_deaths(mine):
        trial = bench.run(Case(name, strike))
        tally.deaths += 1
        tally.broken += trial.broken if trial.fired else [f"{name}: {strike} never struck"]
        for then in second_strikes(trial.recovery) if strike in different else ():
            again = bench.run(Case(name, strike, then))
            if again.fired:
                tally.both += 1
                tally.broken += again.broken
    for strike in first_strikes(mine, name):
        trial = bench.run(Case(name, strike))
        tally.faults += 1
        tally.broken += trial.broken
    return tally


def first_broken(bench: Bench, name: str) -> str:
    """Return the first promise that breaks in a scenario, empty if none does; the cheapest cases come first."""
    scenario = SCENARIOS[name]
    steps = bench.steps(scenario)
    deaths, faults = list(different_states(steps)), list(first_strikes(steps, name))
    recoveries = {}
    for first in (None, *deaths, *faults):
        trial = bench.run(Case(name, first))
        recoveries[first] = trial.recovery
        if trial.broken:
            return trial.broken[0]
    for first in deaths:
        for then in second_strikes(recoveries[first]):
            trial = bench.run(Case(name, first, then))
            if trial.broken:
                return trial.broken[0]
    return ""


@contextmanager
def memory() -> Iterator[Path]:
    """Yield a folder of our own for the block, in memory where there is such a place."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="rotator-proof-", dir=shared if shared.is_dir() else None) as name:
        yield Path(name)


def _work(job: tuple[str, int, int]) -> Tally:
    with memory() as folder:
        return scenario_tally(Bench(folder), *job)


def whole(workers: int = 2, parts: int = 4) -> tuple[list[Tally], float]:
    """Try everything, in several processes; return a tally of each scenario, and the seconds it took."""
    started = time.monotonic()
    jobs = [(name, part, parts) for name in SCENARIOS for part in range(parts)]
    tallies = {name: Tally(name) for name in SCENARIOS}
    with ProcessPoolExecutor(workers, mp_context=get_context("forkserver")) as pool:
        for found in pool.map(_work, jobs):
            total = tallies[found.scenario]
            for count in ("steps", "deaths", "faults", "both"):
                setattr(total, count, getattr(total, count) + getattr(found, count))
            total.broken += found.broken
    return list(tallies.values()), time.monotonic() - started
