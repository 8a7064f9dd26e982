"""Sink types of other distributions: found when asked for, and whatever is wrong with one is said in one sentence."""

import json
from pathlib import Path

import pytest

from rotator.errors import Permanent, Temporary
from rotator.model import Delivery, Policy, Select, When
from tests.lab import Lab, lab
from tests.sinks.installing import install, run

GOOD = """\
from pydantic import BaseModel, ConfigDict

from rotator.model import Grade, Place

PREFLIGHT_GRADE = Grade.NONE


class Options(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    shelf: str


class DeliveryOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    box: str = "{name}"


class Shelf:
    def __init__(self, name):
        self.name = name

    def resolve(self, options, facts):
        return Place(self.name, facts["name"], {})

    def preflight(self, place):
        pass

    deliver = read_back = preflight

    def close(self):
        pass


def build(name, options, base):
    return Shelf(name)
"""
MORE = """
[sinks.shelf]
type = "shelf"
shelf = "top"

[[policies.services.deliver]]
sink = "shelf"
required = false
"""


def with_shelf(bench: Lab, more: str = MORE) -> None:
    """Let the policy deliver to the plug-in too."""
    bench.config_path.write_text(bench.config_path.read_text() + more)


def check(bench: Lab, site: Path) -> tuple[int, str]:
    """Run `check` and return its exit code and what it said."""
    done = run(site, "-m", "rotator", "check", "--config", str(bench.config_path))
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """Return a folder to install into."""
    folder = tmp_path / "site"
    folder.mkdir()
    return folder


def test_an_installed_type_is_as_good_as_ours(tmp_path: Path, site: Path) -> None:
    """Its options are checked like any other's, with their paths, and the schema knows them."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": GOOD})
    with lab(tmp_path) as bench:
        with_shelf(bench)
        assert check(bench, site)[0] == 0
        with_shelf(bench, "bxo = 1\n")
        code, said = check(bench, site)
    assert code == 2
    assert "policies.services.deliver.1.bxo: unknown key; did you mean 'box'?" in said
    schema = run(site, "-m", "rotator", "schema")
    assert '"shelf"' in schema.stdout
    assert not schema.stderr


def test_an_unknown_type_names_those_that_are_installed(tmp_path: Path, site: Path) -> None:
    """A typing error in the name of a plug-in comes with what was meant."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": GOOD})
    with lab(tmp_path) as bench:
        with_shelf(bench, '[sinks.s]\ntype = "shlef"\n')
        assert "did you mean 'shelf'? known are" in check(bench, site)[1]


def test_our_own_names_win(tmp_path: Path, site: Path) -> None:
    """No distribution can put itself where one of our own sinks stands."""
    install(site, "evil", {"file": "evil"}, {"evil": "raise SystemExit('came in')"})
    with lab(tmp_path) as bench:
        assert check(bench, site)[0] == 0


def test_two_of_one_name_are_both_named(tmp_path: Path, site: Path) -> None:
    """Which of two is meant cannot be guessed: both distributions are named, and neither is loaded."""
    install(site, "shelf-one", {"shelf": "one"}, {"one": "raise SystemExit"})
    install(site, "shelf-two", {"shelf": "two"}, {"two": "raise SystemExit"})
    with lab(tmp_path) as bench:
        with_shelf(bench)
        code, said = check(bench, site)
    assert code == 2
    assert "sinks.shelf.type: two plug-ins are called 'shelf', of shelf-one 1.0 and shelf-two 1.0" in said


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import no_such_sdk", "it needs 'no_such_sdk'"),
        ("def", "failed unexpectedly (SyntaxError)"),
        ("raise SystemExit", "would end the program"),
        ("1 / 0", "failed unexpectedly (ZeroDivisionError)"),
        (GOOD.replace("def build(", "def built("), "has no build; it has to expose Options, DeliveryOptions"),
        (GOOD.replace("PREFLIGHT_GRADE =", "GRADE ="), "has no PREFLIGHT_GRADE"),
        (GOOD.replace("= Grade.NONE", "= 'none'"), "PREFLIGHT_GRADE is not one of rotator.model.Grade"),
        (GOOD + "Options = dict", "Options is not a pydantic model"),
        (GOOD + "DeliveryOptions = Options()", "failed unexpectedly (ValidationError)"),
        (GOOD + "build = 1", "build is not a function"),
    ],
)
def test_a_broken_one_is_a_problem_of_the_config(tmp_path: Path, site: Path, source: str, said: str) -> None:
    """Whatever is wrong with a plug-in is said with its distribution; who does not use it does not notice."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": source})
    with lab(tmp_path) as bench:
        assert check(bench, site)[0] == 0
        with_shelf(bench)
        code, told = check(bench, site)
        assert code == 2
        assert "sinks.shelf.type: the plug-in 'shelf' of rotator-shelf 1.0" in told
        assert said in told
        with_shelf(bench, "\n[journal]\nnonsense = 1\n")
        told = check(bench, site)[1]
    assert said in told
    assert "journal.nonsense" in told
    schema = run(site, "-m", "rotator", "schema")
    assert schema.returncode == 0
    assert said in json.loads(schema.stdout)["$comment"]
    assert said in schema.stderr


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ("return Shelf(name)", "return {}[options.shelf]", "failed unexpectedly (KeyError)"),
        ("return Shelf(name)", "import no_such_sdk", "it needs 'no_such_sdk'"),
        ("return Shelf(name)", "return None", "what build() returns has no resolve()"),
        ("return Shelf(name)", "return Shelf('other')", "does not carry the name it was given"),
        ("def close(", "def shut(", "what build() returns has no close()"),
    ],
)
def test_what_cannot_be_built_is_a_problem_of_the_config(
    tmp_path: Path, site: Path, find: str, put: str, said: str
) -> None:
    """A plug-in that fails to build ends the command with one sentence that names its distribution."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": GOOD.replace(find, put)})
    with lab(tmp_path, jumping=False) as bench:
        with_shelf(bench)
        done = run(site, "-m", "rotator", "plan", "--config", str(bench.config_path))
    assert done.returncode == 2
    assert "sinks.shelf: the plug-in 'shelf' of rotator-shelf 1.0" in done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


CHECKS = "    @field_validator('box')\n    def _f(cls, text):\n        raise KeyError(text)\n"


def test_a_check_that_fails_is_a_problem_of_the_config(tmp_path: Path, site: Path) -> None:
    """A validator with a mistake of its own is named where it was asked."""
    source = GOOD.replace("ConfigDict\n", "ConfigDict, field_validator\n", 1)
    source = source.replace('box: str = "{name}"\n', 'box: str = "{name}"\n' + CHECKS)
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": source})
    with lab(tmp_path) as bench:
        with_shelf(bench, MORE + 'box = "a"\n')
        code, said = check(bench, site)
    assert code == 2
    assert "policies.services.deliver.1: the check of shelving failed unexpectedly (KeyError)" in said


@pytest.mark.parametrize(
    ("find", "put", "said"),
    [
        ('Place(self.name, facts["name"], {})', "facts['no such']", "failed unexpectedly (KeyError)"),
        ('Place(self.name, facts["name"], {})', "None", "failed unexpectedly (TypeError)"),
        ("        pass\n\n    deliver", "        raise KeyError\n\n    deliver", "failed unexpectedly (KeyError)"),
        (
            "def close(self):\n        pass",
            "def close(self):\n        1 / 0",
            "could not be closed (ZeroDivisionError)",
        ),
        ("pass", "pass", "failed unexpectedly (TypeError)"),  # a receipt that is None
    ],
)
def test_what_fails_later_stops_nobody_else(tmp_path: Path, site: Path, find: str, put: str, said: str) -> None:
    """A plug-in that fails while it resolves, proves, delivers or closes leaves the other policies alone."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": GOOD.replace(find, put, 1)})
    with lab(tmp_path, jumping=False) as bench:
        with_shelf(bench, MORE.replace("required = false\n", ""))
        text = bench.config_path.read_text()
        other = text[text.index("[policies.services]") :].replace("services", "others").split("[sinks.shelf]")[0]
        (theirs, *due), names = bench.due_ids(), bench.sandbox.store.tokens
        text = text.replace("svc-*", names[theirs].name, 1).replace("[sinks.shelf]", other + "[sinks.shelf]")
        bench.config_path.write_text(text)
        done = run(site, "-m", "rotator", "sweep", "--yes", "--config", str(bench.config_path))
        assert "Traceback" not in done.stderr
        assert f"shelf {said}" in done.stderr
        assert due
        assert all(bench.delivered(token_id) for token_id in due), done.stderr


class Odd:
    """A sink that returns what it should not."""

    name = "odd"

    def resolve(self, options: object, facts: object) -> object:
        """Fail as only a plug-in does."""
        raise KeyError("odd")

    preflight = deliver = read_back = resolve

    def close(self) -> None:
        """Nothing."""


def test_a_resolve_that_fails_is_an_error_of_ours(tmp_path: Path) -> None:
    """The engine sees only errors of its own tree, also where a place is resolved."""
    with lab(tmp_path) as bench, bench.app() as app:
        desk = app.desks[0]
        desk.sinks["odd"] = Odd()  # type: ignore[index]
        token = next(desk.provider.list(_everything()))
        policy = Policy("p", "astro", Select(frozenset()), When(), (Delivery("odd", {}),))
        with pytest.raises((Temporary, Permanent), match=r"the sink odd failed unexpectedly \(KeyError\)"):
            desk.places(policy, token, token.id)


def _everything() -> object:
    from rotator.model import Scope
    from rotator.ports import Listing

    return Listing(frozenset(Scope))


def test_nothing_is_imported_before_it_is_used(tmp_path: Path, site: Path) -> None:
    """Neither `--version`, nor a sweep, nor the list of types imports a plug-in that the config does not name."""
    install(site, "rotator-shelf", {"shelf": "shelving"}, {"shelving": "raise SystemExit('came in')"})
    assert run(site, "-m", "rotator", "--version").returncode == 0
    listed = run(site, "-c", "from rotator import sinks; print(sinks.types())")
    assert "'shelf'" in listed.stdout
    with lab(tmp_path, jumping=False) as bench:
        due = bench.due_ids()
        swept = run(site, "-m", "rotator", "sweep", "--yes", "--config", str(bench.config_path))
        assert "came in" not in swept.stderr
        assert "end the program" not in swept.stderr
        assert bench.delivered(due[0])


def test_a_config_of_our_own_types_never_asks_what_is_installed(site: Path) -> None:
    """An idle sweep pays nothing for plug-ins: what is installed is searched for unknown names only."""
    script = "from rotator import sinks; sinks.load('file'); print(sinks._plugins.installed.cache_info().misses)"
    assert run(site, "-c", script).stdout == "0\n"
