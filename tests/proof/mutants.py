"""Does the proof bite? The engine with one step removed or reordered, on a copy; the matrix must find each of them.

`python -m tests.proof.mutants` tries all. Each names the scenarios that are tried, so that it stays quick; a survivor
is a hole in the matrix.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Mutant:
    """One mistake.

    Attributes:
        file: In which module of the package.
        old: Text that stands there exactly once. `new` takes its place.
        scenarios: Those in which it shows.
    """

    name: str
    file: str
    old: str
    new: str
    scenarios: tuple[str, ...]

    def applied(self, package: Path) -> str:
        """Return the module's text with the mistake.

        Raises:
            ValueError: The text is not there exactly once: the engine has moved on, and the mutant has to follow.
        """
        text = (package / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.name}: its text stands {text.count(self.old)} times in {self.file}")
        return text.replace(self.old, self.new)


_OPENED = """\
        with desk.step(Step.INTEND):
            is_open = desk.journal.open(rotation, shadow, (event,))
        if not is_open:
            taken = place_problem(row.places, lineage, owners_of(desk, lineage, row.places), lineage.id)
            return result_of(row, None, taken or "another process is at it")
        desk.emit(event)
        return Attempt(desk, rotation, shadow, provider).drive()
"""
_LATE_INTENT = """\
        attempt = Attempt(desk, rotation, shadow, provider)
        from rotator.engine.minting import MINTING
        minted = MINTING[rotation.strategy].post(desk, provider, rotation)
        if not desk.journal.open(rotation, shadow, (event,)):
            return result_of(row, None, "another process is at it")
        attempt.posts_now = 1
        attempt._minted(minted.token, minted.secret)
        return attempt.drive()
"""
_SEALED = "            self._write(Write(rotation=self.rotation, lineage=self.lineage, events=(event,)))\n"
_UNSEALED = "        unsealed = None if self.is_sealed else self.secret\n"
_FOUND_INTENDED = """\
        if self.rotation.state is State.INTENDED:
            # The POST may have left"""
_FIGHTS = """\
        if row.decision.due in _BY_DRIFT and fights(lineage, desk.clock.now(), _BY_DRIFT[row.decision.due]):
            return _quarantined(desk, row, lineage)
"""

MUTANTS: Sequence[Mutant] = (
    Mutant(
        "the intent is journalled after the POST",
        "engine/beginning.py",
        _OPENED,
        _LATE_INTENT,
        ("rotation in place",),
    ),
    Mutant(
        "the secret is delivered before it is sealed",
        "engine/rotation.py",
        _SEALED,
        "            self._deliver(self._mint(secret))\n" + _SEALED,
        ("rotation in place",),
    ),
    Mutant(
        "a seal that could not be written is forgotten",
        "engine/rotation.py",
        _UNSEALED,
        _UNSEALED + "        self.is_sealed = True\n",
        ("rotation in place",),
    ),
    Mutant(
        "settled without a proof",
        "engine/rotation.py",
        "        obstacle = self._obstacle(verdict, secret)\n",
        '        obstacle = ""\n',
        ("rotation in place",),
    ),
    Mutant(
        "a POST in doubt is repeated without a look",
        "engine/rotation.py",
        "            State.IN_DOUBT: self._look,\n",
        "            State.IN_DOUBT: self._again,\n",
        ("rotation in place",),
    ),
    Mutant(
        "an intent that is found is posted without a doubt",
        "engine/rotation.py",
        _FOUND_INTENDED,
        _FOUND_INTENDED.replace("self.rotation.state is State.INTENDED", "False"),
        ("rotation in place",),
    ),
    Mutant(
        "settled before late_window",
        "engine/rotation.py",
        "        if self._still_late(state=State.UNSETTLED):\n            return False\n",
        "",
        ("rotation in place",),
    ),
    Mutant(
        "settled although a reader was not told to reload",
        "engine/rotation.py",
        "                    obstacle = obstacle or",
        "                    obstacle = obstacle and",
        ("rotation in place",),
    ),
    Mutant(
        "a call in doubt is given up before late_window",
        "engine/rotation.py",
        "        if self._still_late():\n            return False\n",
        "",
        ("rotation in place",),
    ),
    Mutant(
        "the old member is deleted without the last check",
        "engine/retiring.py",
        "        obstacle = _unproven(seen, old)\n",
        '        obstacle = ""\n',
        ("retirement after grace",),
    ),
    Mutant(
        "the old member is deleted without a journalled intent",
        "engine/retiring.py",
        "    desk.record(intent, must_audit=True)\n",
        "",
        ("retirement after grace",),
    ),
    Mutant(
        "the seal is erased at UNSETTLED",
        "journal/sqlite.py",
        "        elif sealed is not None:\n",
        '        elif sealed is not None or rotation.state == "unsettled":\n',
        ("rotation in place",),
    ),
    Mutant(
        "the version of the lineage is ignored when a rotation opens",
        "journal/sqlite.py",
        "    return not is_open and version == lineage.version, holder\n",
        "    return not is_open, holder\n",
        ("rotation in place",),
    ),
    Mutant(
        "adopted without authenticating",
        "engine/looking.py",
        "    if verdict.life is Life.ALIVE:\n",
        "    if verdict is not None:\n",
        ("rotation for a drift",),
    ),
    Mutant(
        "our own credential settles before its reference yields it",
        "engine/rotation.py",
        'return self._unreferenced(secret) if self.rotation.own else ""',
        'return ""',
        ("our only credential",),
    ),
    Mutant(
        "our own credential is ended while a reference yields it",
        "engine/retiring.py",
        "    obstacle = still_used(desk, old) or _in_use(",
        "    obstacle = _in_use(",
        ("our only credential", "our old credential ends"),
    ),
    Mutant(
        "what cannot be read counts as missing",
        "engine/looking.py",
        "        return Sighting(place, Seen.UNREADABLE, why=error.message)\n",
        "        return Sighting(place, Seen.MISSING)\n",
        ("nothing to do",),
    ),
    Mutant(
        "a twin is delivered without its roles",
        "engine/rotation.py",
        'obstacle = equip(self.provider, self.rotation) if self.rotation.successor else ""',
        'obstacle = ""',
        ("overlap",),
    ),
    Mutant(
        "a drift that another process has mended counts as a fight",
        "engine/beginning.py",
        "            token = _look_again(desk, row, lineage)\n",
        textwrap.indent(_FIGHTS, "    ") + "            token = _look_again(desk, row, lineage)\n",
        ("rotation for a drift",),
    ),
    Mutant(
        "a twin that nobody holds is left behind",
        "engine/minting.py",
        "                delete_orphan(desk, provider, twin, like)\n",
        "                pass\n",
        ("overlap",),
    ),
    Mutant(
        "an earlier generation counts as a later one",
        "engine/proof.py",
        "        return token.generation.is_past(suspect.made)\n",
        "        return token.generation.moved_since(suspect.made)\n",
        ("rotation in place",),
    ),
    Mutant(
        "our only credential is rotated in place",
        "engine/deciding.py",
        "        is_only = row.own and len(self._owns) == 1\n",
        "        is_only = False\n",
        ("our only credential",),
    ),
)

_TRY = """\
import sys
from pathlib import Path
from tests.proof.matrix import Bench, first_broken, memory
import rotator
assert Path(rotator.__file__).is_relative_to(Path.cwd())
with memory() as folder:
    bench = Bench(folder)
    found = next(filter(None, (first_broken(bench, name) for name in sys.argv[1:])), "")
print(found)
sys.exit(1 if found else 0)
"""


def killed_by(mutant: Mutant) -> str:
    """Return the broken promise that gives the mutant away, empty if it survives.

    Raises:
        RuntimeError: The mutant does not even run.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(ROOT / "rotator", folder / "rotator", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "tests" / "proof", folder / "tests" / "proof")
        (folder / "rotator" / mutant.file).write_text(mutant.applied(ROOT / "rotator"))
        run = subprocess.run(
            [sys.executable, "-c", _TRY, *mutant.scenarios],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        said = run.stdout.strip()
        if run.returncode not in (0, 1) or (run.returncode and not said):
            raise RuntimeError(f"{mutant.name}: {run.stderr[-2000:]}")
        return said


def main() -> int:
    """Try every mutant and print what gave it away; the number of survivors is the exit code."""
    survivors = 0
    for mutant in MUTANTS:
        started = time.monotonic()
        said = killed_by(mutant)
        survivors += not said
        print(f"{'killed' if said else 'SURVIVED':9}{time.monotonic() - started:6.1f} s  {mutant.name}: {said}"[:220])
    print(f"{len(MUTANTS)} mutants, {survivors} survived")
    return survivors


if __name__ == "__main__":
    sys.exit(main())
