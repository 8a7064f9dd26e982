"""A module imports only from floors below its own; the thinking floors know no clock, network or dice."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "rotator"

# The first prefix that fits decides. Words, thinking, ports, adapters, engine, shell; the sandbox stands apart.
FLOORS = [
    ("rotator.sandbox", -1),
    ("rotator.secret", 0), ("rotator.errors", 0), ("rotator.model", 0), ("rotator.events", 0), ("rotator.text", 0),
    ("rotator.timing", 0), ("rotator.schedule", 0), ("rotator.address", 0), ("rotator.causes", 0),
    ("rotator.claims", 1), ("rotator.templates", 1), ("rotator.planning", 1), ("rotator.simulation", 1),
    ("rotator.drift", 1), ("rotator.explaining", 1), ("rotator.marker", 1),
    ("rotator.audit.chain", 1), ("rotator.audit.report", 1), ("rotator.audit.rendering", 1),
    ("rotator.ports", 2),
    ("rotator.providers", 3), ("rotator.sinks", 3), ("rotator.journal", 3), ("rotator.audit", 3),
    ("rotator.credentials", 3), ("rotator.clock", 3), ("rotator.logs", 3), ("rotator.recent", 3),
    ("rotator.secret_file", 3), ("rotator.elsewhere", 3),
    ("rotator.engine", 4),
    ("rotator.board", 5), ("rotator.metrics", 5), ("rotator.server", 5), ("rotator.daemon", 5), ("rotator.notify", 5),
    ("rotator.config", 5), ("rotator.stores", 5), ("rotator.app", 5), ("rotator.cli", 5), ("rotator.__main__", 5),
    ("rotator.testing", 6),  # above everything: it needs pytest, so nothing of ours may import it
]  # fmt: skip
MAY_USE_THE_SANDBOX = {"rotator.cli.demo"}
IMPURE = {"time", "random", "socket", "ssl", "httpx", "threading", "subprocess", "os", "secrets", "uuid"}
BROAD = {
    "rotator/app.py": 2,  # listener, plug-in call
    "rotator/cli/main.py": 1,  # request
    "rotator/cli/publishing.py": 1,  # listener
    "rotator/cli/telling.py": 1,  # listener
    "rotator/daemon/repeating.py": 1,  # job
    "rotator/daemon/sweeper.py": 1,  # job
    "rotator/engine/desk.py": 1,  # plug-in call
    "rotator/engine/sweep.py": 1,  # token
    "rotator/journal/writer.py": 1,  # job
    "rotator/server/lanes.py": 1,  # request
    "rotator/notify/channel.py": 2,  # plug-in call
    "rotator/notify/errand.py": 1,  # job
    "rotator/notify/rounds.py": 1,  # job
    "rotator/sinks/_plugins.py": 1,  # plug-in call
    "rotator/testing/base.py": 1,  # job
}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


def floor_of(name: str) -> int | None:
    return next((floor for prefix, floor in FLOORS if name == prefix or name.startswith(prefix + ".")), None)


def imports_of(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
            if node.module == "rotator":
                found |= {f"rotator.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_imports_go_down(path: Path) -> None:
    """Every import of ours comes from the same floor's own package or from below, and every module has a floor."""
    name = name_of(path)
    mine = 0 if name == "rotator" else floor_of(name)
    assert mine is not None, f"{name} stands on no floor: put it into FLOORS"
    for imported in imports_of(path):
        theirs = floor_of(imported)
        if theirs is None or imported.split(".")[:2] == name.split(".")[:2]:
            continue
        if theirs == -1 or mine == -1:
            assert name in MAY_USE_THE_SANDBOX, f"{name} imports {imported} across the sandbox's wall"
        else:
            assert theirs <= mine, f"{name} (floor {mine}) imports {imported} (floor {theirs})"


@pytest.mark.parametrize("path", [p for p in modules() if floor_of(name_of(p)) in (0, 1)], ids=name_of)
def test_the_thinking_part_is_pure(path: Path) -> None:
    """Words and thinking import no clock, network, randomness or operating system."""
    assert not {name.split(".")[0] for name in imports_of(path)} & IMPURE


def test_broad_excepts_stand_at_named_boundaries_only() -> None:
    """`except Exception` exists exactly where the list says."""
    found = {
        str(path.relative_to(ROOT.parent)): count
        for path in modules()
        if (count := sum(broad(node) for node in ast.walk(ast.parse(path.read_text()))))
    }
    assert found == BROAD


def broad(node: ast.AST) -> bool:
    if not isinstance(node, ast.ExceptHandler):
        return False
    kinds = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
    return any(kind is None or (isinstance(kind, ast.Name) and kind.id == "Exception") for kind in kinds)


def test_every_exception_is_drawn_in_the_tree() -> None:
    """Errors are defined in errors.py alone, and its docstring names each."""
    from rotator import errors

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, Exception):
            assert name in (errors.__doc__ or "")
    for path in modules():
        for node in ast.walk(ast.parse(path.read_text())):
            ours = path.name != "errors.py" and "sandbox" not in path.parts
            if isinstance(node, ast.ClassDef) and ours:
                assert not any(
                    isinstance(base, ast.Name) and base.id.endswith(("Error", "Exception")) for base in node.bases
                )


def test_every_event_name_is_told_by_somebody() -> None:
    """The names are public, so none stands there that nothing ever emits."""
    from rotator.events import EventName

    sources = [path.read_text() for path in modules() if path.name not in ("events.py", "logs.py")]
    assert not [name for name in EventName.__members__ if not any(f"EventName.{name}" in text for text in sources)]
