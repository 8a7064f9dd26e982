"""Secret references."""

import os
import traceback
from pathlib import Path

import pytest

from rotator.credentials import Reference
from rotator.errors import ConfigError, Forbidden, NotFound, OutcomeUnknown, RotatorError, Temporary
from rotator.secret import Secret

JWT = "eyJhbGciOiJSUzI1NiJ9.canary.c2ln"


@pytest.mark.parametrize(
    "text",
    [
        "env:ASTRO_API_TOKEN",
        "file:/run/secrets/astro",
        "file:rotator.key",
        "vault:secret/astro#token",
        "vault:team/kv/a.b/.hidden/rotator#the key",
        "aws:astro/rotator",
        "aws:arn:aws:secretsmanager:eu-west-1:123456789012:secret:astro-AbCdEf#token",
    ],
)
def test_a_reference_prints_as_it_was_written(text: str) -> None:
    """What is parsed comes back as text, for messages."""
    assert str(Reference.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [JWT, f" {JWT}", f"Bearer {JWT}", f"env:{JWT}", f"file:{JWT}", f"file: {JWT}", "eyJcanary", "env:eyJcanary"],
)
def test_a_secret_in_place_of_a_reference_is_refused_unseen(text: str) -> None:
    """Somebody who pasted the token itself is told so, and it is not repeated."""
    with pytest.raises(ValueError, match=r"looks like a secret itself; .*env:NAME, file:/path, vault:") as caught:
        Reference.parse(text)
    assert "canary" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "canary-opaque",
            "is not a secret reference; write env:NAME, file:/path, vault:mount/path#key or aws:name#key",
        ),
        ("gcp:canary", "is not a secret reference"),
        ("vault:", "vault: takes a mount, a path and a key"),
        ("vault:canary#token", "vault: takes a mount, a path and a key"),
        ("vault:secret/canary", "vault: takes a mount, a path and a key"),
        ("vault:secret/canary#", "vault: takes a mount, a path and a key"),
        ("vault:/secret/canary#key", "vault: takes a mount"),
        ("vault:secret//canary#key", "vault: takes a mount"),
        ("vault:secret/../canary#key", "vault: takes a mount"),
        ("vault:secret/canary/.#key", "vault: takes a mount"),
        ("vault:secret/can\nary#key", "vault: takes a mount"),
        ("aws:", "aws: takes the name of a secret"),
        ("aws:can ary#key", "aws: takes the name of a secret"),
        ("aws:canary#", "aws: takes the name of a secret"),
        ("https://canary", "is not a secret reference"),
        ("", "is not a secret reference"),
        ("env:", "takes the name of a variable"),
        ("env:canary canary", "takes the name of a variable"),
        ("env:9canary", "takes the name of a variable"),
        ("file:", "takes a path"),
        ("file:/a\nb", "takes a path"),
    ],
)
def test_other_texts_are_refused_with_the_form(text: str, message: str) -> None:
    """What is no reference is answered by what to write, never by itself."""
    with pytest.raises(ValueError, match=message) as caught:
        Reference.parse(text)
    assert "canary" not in str(caught.value)


def test_a_file_is_read_at_every_use(tmp_path: Path) -> None:
    """A mounted secret that changes is followed, and white space around it is not part of it."""
    reference = Reference.parse("file:token")
    (tmp_path / "token").write_text("first\n")
    assert reference.read(tmp_path) == Secret("first")
    (tmp_path / "token").write_text("\n second \r\n")
    assert reference.read(tmp_path) == Secret("second")


def test_an_absolute_path_ignores_the_base(tmp_path: Path) -> None:
    """Only relative paths count from the base folder."""
    (tmp_path / "token").write_text("value")
    reference = Reference.parse(f"file:{tmp_path / 'token'}")
    assert reference.read(Path("/nonexistent")) == Secret("value")
    assert reference.path(Path("/nonexistent")) == tmp_path / "token"


def test_a_variable_is_read_at_every_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment is asked each time."""
    reference = Reference.parse("env:ROTATOR_TEST_TOKEN")
    for value in ("one", "two"):
        monkeypatch.setenv("ROTATOR_TEST_TOKEN", f"{value}\n")
        assert reference.read(Path()) == Secret(value)
    assert reference.path(Path()) is None


def test_a_missing_variable_is_named(tmp_path: Path) -> None:
    """The message says which variable to export."""
    with pytest.raises(ConfigError, match="env:ROTATOR_NO_SUCH is not set; export"):
        Reference.parse("env:ROTATOR_NO_SUCH").read(tmp_path)


def test_an_empty_value_is_refused(tmp_path: Path) -> None:
    """White space alone is no secret."""
    (tmp_path / "token").write_text(" \n")
    with pytest.raises(ConfigError, match="file:token is empty"):
        Reference.parse("file:token").read(tmp_path)


def test_an_unusable_file_is_named_with_the_fix(tmp_path: Path) -> None:
    """Missing, a folder, a pipe, through a file: each says what is wrong and where, and none hangs."""
    (tmp_path / "file").write_text("canary")
    os.mkfifo(tmp_path / "pipe")
    expected = {
        "missing": "does not exist; create",
        ".": "names a folder",
        "pipe": "pipe or device",
        "file/below": "no folder",
    }
    for place, message in expected.items():
        with pytest.raises(ConfigError, match=message) as caught:
            Reference.parse(f"file:{place}").read(tmp_path)
        assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("content", [b"canary\xff\xfe", b"canary" * 20000])
def test_what_is_no_secret_is_not_shown(tmp_path: Path, content: bytes) -> None:
    """A binary or huge file is refused without a byte of it in the error or the frames it passed."""
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(ConfigError, match="holds no text of at most 65536 bytes") as caught:
        Reference.parse("file:token").read(tmp_path)
    ours = caught.value.__traceback__
    assert ours is not None
    frames = traceback.TracebackException(ConfigError, caught.value, ours.tb_next, capture_locals=True)
    assert "canary" not in "".join(frames.format())


def test_a_store_is_asked_at_every_use(tmp_path: Path) -> None:
    """What stands in a store is read each time, by what the reference says behind its colon."""
    values = iter(["first\n", " second"])
    asked: list[str] = []

    def secret_at(place: str) -> Secret:
        asked.append(place)
        return Secret(next(values))

    reference = Reference.parse("vault:secret/astro#token")
    assert reference.read(tmp_path, {"vault": secret_at}) == Secret("first")
    assert reference.read(tmp_path, {"vault": secret_at}) == Secret("second")
    assert asked == ["secret/astro#token"] * 2
    assert (reference.path(tmp_path), reference.absolute(tmp_path)) == (None, "vault:secret/astro#token")


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (NotFound("nothing there"), ConfigError, "aws:astro cannot be read: nothing there"),
        (Forbidden("not yours"), ConfigError, "aws:astro cannot be read: not yours"),
        (Temporary("is sealed"), Temporary, "aws:astro cannot be read now: is sealed"),
        (OutcomeUnknown("silent"), Temporary, "aws:astro cannot be read now: silent"),
    ],
)
def test_a_store_that_fails_is_told_apart(
    tmp_path: Path, raised: RotatorError, expected: type[RotatorError], message: str
) -> None:
    """What an operator has to change is a config error; what passes by itself is not."""

    def secret_at(place: str) -> Secret:
        raise raised

    with pytest.raises(expected, match=message):
        Reference.parse("aws:astro").read(tmp_path, {"aws": secret_at})


@pytest.mark.parametrize("value", ["", " \n", "canary" * 20000])
def test_a_store_that_holds_no_secret_is_refused(tmp_path: Path, value: str) -> None:
    """Empty and huge values are none, as in files."""
    with pytest.raises(ConfigError, match=r"is empty|holds no text") as caught:
        Reference.parse("aws:astro").read(tmp_path, {"aws": lambda _: Secret(value)})
    assert "canary" not in str(caught.value)


def test_what_a_store_logs_in_with_needs_no_store(tmp_path: Path) -> None:
    """A login to Vault whose token is in Vault could never begin."""
    assert str(Reference.local("file:token")) == "file:token"
    with pytest.raises(ValueError, match="cannot be read before its store is logged in to; write env:NAME or file:"):
        Reference.local("vault:secret/astro#token")
    with pytest.raises(ValueError, match="looks like a secret itself"):
        Reference.local(f"vault:{JWT}")
    with pytest.raises(ConfigError, match="vault:secret/astro#token cannot be read here"):
        Reference.parse("vault:secret/astro#token").read(tmp_path)
