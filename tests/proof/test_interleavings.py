"""Two processes on one journal, hands in the UI and in the sinks, faults, deaths, jumps of the clock: in any order.

Hypothesis draws the order; whatever it draws, once everybody is quiet the sinks hold what lives, or the token is named.
`ROTATOR_PROOF_EXAMPLES=2000` tries more, and at random instead of the same ones each time.
"""

import os
import shutil
import threading
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from tempfile import mkdtemp

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from rotator.claims import claims
from rotator.model import Select, Strategy
from rotator.secret import Secret
from tests.proof.matrix import A_DAY, MINUTES, PAUSES, faults_of
from tests.proof.scenarios import CREDENTIAL, OLD, SCOPES, policy
from tests.proof.world import DAY, GARBAGE, Process, Strike, World

MORE = int(os.environ.get("ROTATOR_PROOF_EXAMPLES", "0"))
CALLS = (
    "provider.list",
    "provider.get",
    "provider.rotate",
    "provider.create",
    "provider.authenticate",
    "provider.delete",
    "sink.files.deliver",
    "sink.copies.deliver",
    "sink.files.read_back",
    "journal.open",
    "journal.claim",
    "journal.write:minted",
    "journal.write:delivered",
    "journal.write:settled",
    "journal.write:in_doubt",
    "journal.write",
    "journal.remember",
    "journal.hold",
    "audit.append:rotation_intended",
    "audit.append",
)
STRIKES = [Strike(name, 0, kind) for name in CALLS for kind in ("before", "middle", "after", *faults_of(name))]
strikes = st.lists(st.sampled_from(STRIKES), max_size=2)
which = st.sampled_from("AB")
tokens = st.sampled_from(["in place", "overlap"])
spots = st.integers(0, 1)


class Interleavings(RuleBasedStateMachine):
    """Draws what happens next."""

    def __init__(self) -> None:
        super().__init__()
        shared = Path("/dev/shm")
        self.folder = Path(mkdtemp(prefix="rotator-proof-", dir=shared if shared.is_dir() else None))
        both = policy("files", "copies")
        plain = replace(both, name="plain", select=Select(SCOPES, names=("svc-a*",)))
        twins = replace(
            policy("files", strategy=Strategy.OVERLAP), name="twins", select=Select(SCOPES, names=("svc-o*",))
        )
        self.world = World(self.folder, [plain, twins], [CREDENTIAL])
        self.world.put(CREDENTIAL, self.world.store.secret_of(self.world.store.owner_id))
        self.roots: dict[str, str] = {}
        self.processes: dict[str, Process] = {}
        self.backup: bytes | None = None
        self.world.workers = 2

    @initialize(empty=st.booleans())
    def begin(self, empty: bool) -> None:
        """Two tokens that are due, with or without their secrets in the sinks."""
        for said, name, sinks in (("in place", "svc-a", ("files", "copies")), ("overlap", "svc-o", ("files",))):
            root = self.world.token(name, OLD)
            self.roots[said] = root
            self.world.lineages[root] = tuple((sink, root) for sink in sinks)
            for spot in () if empty else self.world.lineages[root]:
                self.world.put(spot, self.world.store.secret_of(root))

    # processes

    def process(self, name: str) -> Process:
        """Return a living process of this name."""
        known = self.processes.get(name)
        if known is None or known.dead or known.desk.stop.is_set():
            if known is not None:
                known.end()
            self.processes[name] = Process(self.world)
        return self.processes[name]

    @rule(name=which, drawn=strikes)
    def sweep(self, name: str, drawn: list[Strike]) -> None:
        """One process sweeps, and is struck, perhaps to death."""
        process = self.process(name)
        process.any_of = {strike.name: strike.kind for strike in drawn}
        process.sweep()
        self.world.skew = timedelta()
        self.world.jump(MINUTES)

    @rule(first=strikes, second=strikes)
    def sweep_together(self, first: list[Strike], second: list[Strike]) -> None:
        """Both sweep at the same time."""
        started = []
        for name, drawn in (("A", first), ("B", second)):
            process = self.process(name)
            process.any_of = {strike.name: strike.kind for strike in drawn}
            started.append(threading.Thread(target=process.sweep))
        for thread in started:
            thread.start()
        for thread in started:
            thread.join(60)
            assert not thread.is_alive()
        self.world.jump(MINUTES)

    @rule(by=st.sampled_from([timedelta(minutes=2), timedelta(minutes=20), timedelta(hours=13), A_DAY, 91 * DAY]))
    def wait(self, by: timedelta) -> None:
        """Time passes."""
        self.world.jump(by)

    @rule(by=st.sampled_from([-DAY, DAY]))
    def set_the_clock_wrong(self, by: timedelta) -> None:
        """The machine's clock is a day off during the next sweep."""
        self.world.skew = by

    # hands

    @rule(token=tokens, update=st.sampled_from([0, 1, 2]))
    def rotate_by_hand(self, token: str, update: int) -> None:
        """A person rotates in the UI, and updates none, one or all of the sinks."""
        root = self.roots[token]
        if self.world.current(root) in self.world.store.tokens:
            value = self.world.rotate_by_hand(self.world.current(root))
            self.world.struck.update(self.world.lineages[root])
            for spot in self.world.lineages[root][:update]:
                self.world.damage(spot, value)
            self.world.jump(MINUTES)

    @rule(token=tokens, place=spots, how=st.sampled_from(["edit", "empty", "roll back"]))
    def touch_a_sink(self, token: str, place: int, how: str) -> None:
        """Somebody edits a sink, empties it, or puts an earlier value back."""
        found = self.world.lineages[self.roots[token]]
        spot = found[place % len(found)]
        earlier = [value for _, value, _ in self.world.contents.get(spot, [])]
        value = {"edit": GARBAGE, "empty": "", "roll back": earlier[0] if earlier else ""}[how]
        self.world.damage(spot, value)

    @rule(token=tokens)
    def delete_by_hand(self, token: str) -> None:
        """A person deletes the token in the UI."""
        current = self.world.current(self.roots[token])
        if current in self.world.store.tokens:
            self.world.store.delete(current)
            self.world.struck.update(self.world.lineages[self.roots[token]])

    @rule(token=tokens)
    def rename(self, token: str) -> None:
        """A person renames the token, and describes it anew."""
        current = self.world.current(self.roots[token])
        record = self.world.store.tokens.get(current)
        if record is not None:
            said = record.description if "[rotator" in record.description else "renamed"
            self.world.store.update(current, "somebody", record.name + "x", said)

    @rule()
    def back_up(self) -> None:
        """The journal is copied while nobody works."""
        self.end_all()
        path = self.folder / "rotator.db"
        self.backup = path.read_bytes() if path.exists() else None

    @rule()
    def restore(self) -> None:
        """An earlier journal is put back: it knows less than the sinks."""
        if self.backup is not None:
            self.end_all()
            self.world.close()
            for path in self.folder.glob("rotator.db-*"):
                path.unlink()
            (self.folder / "rotator.db").write_bytes(self.backup)
            self.world.doubts.clear()
            self.world.struck.update(spot for found in self.world.lineages.values() for spot in found)

    def end_all(self) -> None:
        """End both processes as they are."""
        for process in self.processes.values():
            process.end()
        self.processes.clear()

    # promises

    @invariant()
    def keeps_its_promises(self) -> None:
        """None was broken so far, and no secret is readable."""
        assert not self.world.violations, self.world.violations

    def teardown(self) -> None:
        """Let everything come to rest, and look."""
        try:
            if self.roots:
                self.come_to_rest()
        finally:
            self.end_all()
            self.world.close()
            shutil.rmtree(self.folder)

    def come_to_rest(self) -> None:
        """Sweep in peace, then look at every sink."""
        self.world.skew = timedelta()
        codes = []
        for number, pause in enumerate((*PAUSES, A_DAY, MINUTES)):
            self.world.jump(pause)
            process = self.process("AB"[number % 2])
            process.any_of.clear()
            process.sweep()
            codes.append(process.code)
        assert not self.world.violations, self.world.violations
        assert not self.world.leaks()
        for said, root in self.roots.items():
            assert not self.is_managed(root) or not self.lost(root) or self.is_named(root), (
                said,
                self.lost(root),
                codes,
                self.world.known(root),
            )

    def is_managed(self, root: str) -> bool:
        """Whether it is ours: the journal says so, or a sink holds a secret of it."""
        lineage = self.world.known(root)
        known = lineage is not None and (lineage.settled_at is not None or lineage.minted_at is not None)
        held = [claims(Secret(self.world.held(spot))) for spot in self.world.lineages[root]]
        return known or any(said is not None and said.token_id == root for said in held)

    def lost(self, root: str) -> list[tuple[str, str]]:
        """Return the places that hold no live secret."""
        return [spot for spot in self.world.lineages[root] if self.world.alive_at(spot) is None]

    def is_named(self, root: str) -> bool:
        """Whether a person is told: quarantined, gone, or in the last sweep's results with an exit code."""
        lineage = self.world.known(root)
        if lineage is None or lineage.quarantined_at is not None or lineage.gone_at is not None:
            return lineage is not None or root not in self.world.store.tokens
        if lineage.token_id not in self.world.store.tokens:
            return True  # nothing is left that a secret could be of
        report, code = self.world.reports[-1]
        named = {result.token_id for result in report.results} if report is not None else set()
        return code != 0 and lineage.token_id in named


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(
    max_examples=MORE or 250,
    stateful_step_count=14,
    derandomize=not MORE,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
