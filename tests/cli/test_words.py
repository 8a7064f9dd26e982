"""A secret that was pasted as an argument is not repeated, wherever it was pasted."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.test_commands import rotator
from tests.lab import Lab, lab

CANARY = "canary5f3c1e77"


def jwt() -> str:
    """Return what has the form of a token's secret."""
    parts = [json.dumps({"alg": "RS256", "typ": "JWT"}), json.dumps({"apiTokenId": CANARY})]
    shown = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*shown, CANARY * 3])


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time."""
    with lab(tmp_path, jumping=False) as made:
        yield made


@pytest.mark.parametrize(
    "words",
    [
        ["rotate"],
        ["rotate", "--leaked"],
        ["release"],
        ["history"],
        ["tokens", "get"],
        ["tokens", "update", "--name", "x"],
        ["tokens", "delete", "--yes"],
        ["tokens", "rotate", "--yes", "--reveal"],
        ["tokens", "create", "--scope", "organization", "--role", "R", "--reveal"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("secret", [jwt(), CANARY * 40], ids=["jwt", "long"])
def test_a_pasted_secret_is_not_echoed(bench: Lab, words: list[str], secret: str) -> None:
    """Exit 2, standard input is named as the place for it, and where it can be found now is said."""
    ran = rotator(bench, *words, secret)
    said = ran.stdout + ran.stderr
    assert (ran.returncode, CANARY in said, secret[:12] in said) == (2, False, False), said
    assert "standard input" in said
    assert "shell's history" in said
    assert not (bench.folder / "audit.jsonl").exists()


@pytest.mark.parametrize("words", [[], ["status"], ["plan"], ["rotate", "--nope"]], ids=" ".join)
def test_the_parser_does_not_echo_one_either(bench: Lab, words: list[str]) -> None:
    """A secret where no argument belongs is left out of the usage error."""
    ran = rotator(bench, *words, jwt())
    assert (ran.returncode, CANARY in ran.stdout + ran.stderr) == (2, False)


def test_names_are_no_secrets(bench: Lab) -> None:
    """A name with dots, of any length that the API allows, passes."""
    for name in ("svc.eu.west", "x" * 256, "deployment-service.production-workspace.eu-west-1"):
        ran = rotator(bench, "rotate", name)
        assert "no token of the configured policies" in ran.stderr, ran.stderr
