"""The file sink: the shared contract for each of its formats, and what only files can suffer."""

import errno
import fcntl
import json
import os
import re
import select
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Place
from rotator.ports import Sink
from rotator.secret import Secret
from rotator.sinks import _env, _json
from rotator.sinks._folder import FAILURES, translated
from rotator.sinks._paths import encoded, parse_path, relative_path
from tests.sinks.contract import (
    CANARY,
    HOSTILE_NAMES,
    OTHER,
    Harness,
    SinkContract,
    facts,
    mint,
    raising_without_secret,
)

FILE: Any = sinks.load("file")
ROOT = os.geteuid() == 0
ANYTHING = st.text(st.characters(codec=None, exclude_categories=()), min_size=1)
LEFTOVER = f".rotator-{'0' * 32}"


def build(directory: Path) -> Sink:
    """Return the sink over an absolute directory."""
    return FILE.build("files", FILE.Options(directory=str(directory)), Path("/"))


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(FILE.DeliveryOptions, block), facts(name=name))


def path_of(place: Place) -> Path:
    """Return the file of a place."""
    return Path(place.location.partition("#")[0])


class FileHarness:
    """Folders as an operator has them."""

    kind = "file"

    def __init__(self, directory: Path, block: dict[str, object], empty: str) -> None:
        self.directory = directory
        self.block = block
        self.sink = build(directory)
        self._empty = empty

    def read(self, place: Place) -> str | None:
        """Read the file as a consumer of the format does."""
        path = path_of(place)
        if not path.exists():
            return None
        text = path.read_text()
        if path.suffix == ".json":
            return json.loads(text).get("token")
        if path.suffix == ".env":
            return sourced(path).get("TOKEN")
        return text

    def write(self, place: Place, secret: str) -> None:
        """Write the file by hand."""
        path = path_of(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._empty.format(secret=secret) if self._empty else secret)

    def plant_neighbour(self, place: Place) -> None:
        """Put another file beside it, and where the format has keys, another key in the same file."""
        path = path_of(place)
        path.parent.mkdir(parents=True, exist_ok=True)
        (path.parent / "neighbour").write_text("theirs")
        if path.suffix == ".json":
            current = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**current, "neighbour": 1.5}))
        elif path.suffix == ".env":
            path.write_text((path.read_text() if path.exists() else "") + "# ours\nNEIGHBOUR='a b'\n")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at both."""
        path = path_of(place)
        text = path.read_text()
        inside = path.suffix == "" or '"neighbour": 1.5' in text or "# ours\nNEIGHBOUR='a b'\n" in text
        return inside and (path.parent / "neighbour").read_text() == "theirs"

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Put a link where the folder was, which even root is not taken through."""
        folder = path_of(place).parent
        aside = folder.with_name("aside")
        folder.rename(aside)
        folder.symlink_to(aside)
        yield
        folder.unlink()
        aside.rename(folder)


def sourced(path: Path) -> dict[str, str]:
    """Return what a POSIX shell takes the file to say."""
    script = 'set -a; . "$1"; exec env -0'
    run = subprocess.run(["sh", "-c", script, "sh", path], capture_output=True, check=True, env={"PATH": os.defpath})
    pairs = [entry.partition(b"=") for entry in run.stdout.split(b"\0")]
    return {key.decode(): value.decode() for key, _, value in pairs}


BLOCKS: dict[str, tuple[dict[str, object], str]] = {
    "raw": ({"path": "{policy}/{name}"}, ""),
    "env": (
        {"path": "{policy}/{name}.env", "format": "env", "fields": {"TOKEN": "{secret}", "UNTIL": "{end_at}"}},
        "TOKEN={secret}\n",
    ),
    "json": ({"path": "{policy}/{name}.json", "format": "json"}, '{{"token": "{secret}"}}'),
}


class TestFileSink(SinkContract):
    """The shared contract, for each format."""

    @pytest.fixture(params=list(BLOCKS))
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
        """Return one below an existing folder."""
        return FileHarness(tmp_path, *BLOCKS[request.param])


# Options


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"path": "/etc/{name}"}, "must be a path below the directory"),
        ({"path": "../{name}"}, "must be a path below the directory"),
        ({"path": "a/../{name}"}, "must be a path below the directory"),
        ({"path": "a//b"}, "must be a path below the directory"),
        ({"path": "./a"}, "must be a path below the directory"),
        ({"path": "a/"}, "must be a path below the directory"),
        ({"path": ""}, "must be a path below the directory"),
        ({"path": "a\\{name}"}, "backslashes"),
        ({"path": "a#{name}"}, "'#'"),
        ({"path": "a\n{name}"}, "cannot be seen"),
        ({"path": ".rotator-x"}, "kept for temporary files"),
        ({"path": "x" * 250 + "{name}"}, "too long"),
        ({"path": "{nam}"}, r"did you mean \{name\}"),
        ({"path": "{secret}"}, "unknown placeholder"),
        ({"mode": "0777"}, "not let everybody write"),
        ({"mode": "0400"}, "owner read and write"),
        ({"mode": "rw"}, "three octal digits in quotes"),
        ({"mode": 600}, "three octal digits in quotes"),
        ({"mode": "4600"}, "three octal digits in quotes"),
        ({"format": "yaml"}, "'raw', 'env' or 'json'"),
        ({"fields": {"a": "{secret}"}}, 'need format = "env" or "json"'),
        ({"format": "env", "fields": {}}, r'exactly "\{secret\}"'),
        ({"format": "json", "fields": {"a": "Bearer {secret}"}}, r'exactly "\{secret\}"'),
        ({"format": "env", "fields": {"a-b": "{secret}"}}, "cannot name a variable"),
        ({"format": "json", "fields": {"": "{secret}"}}, "characters that can be seen"),
        ({"format": "json", "fields": {"a": "{secret}", "b": "{nam}"}}, r"b: unknown placeholder \{nam\}"),
    ],
)
def test_wrong_blocks_are_refused_at_load(block: dict[str, object], message: str) -> None:
    """Every mistake in a deliver block is a validation error with its fix."""
    with pytest.raises(ValidationError, match=message):
        sinks.checked(FILE.DeliveryOptions, block)


def test_validation_errors_do_not_repeat_a_pasted_secret() -> None:
    """Somebody who pasted a token into fields does not find it in the log."""
    with pytest.raises(ValidationError) as caught:
        sinks.checked(FILE.DeliveryOptions, {"format": "json", "fields": {"token": CANARY}})
    assert "canary" not in str(caught.value)


def test_defaults_are_those_of_the_contract() -> None:
    """A block without keys writes a raw 0600 file named like the token."""
    assert sinks.checked(FILE.DeliveryOptions, {}) == {"path": "{name}", "format": "raw", "fields": None, "mode": "0600"}
    assert sinks.checked(FILE.DeliveryOptions, {"format": "json"})["fields"] == {"token": "{secret}"}


def test_checked_options_can_be_checked_again() -> None:
    """What validation returns is valid."""
    for block, _ in BLOCKS.values():
        once = sinks.checked(FILE.DeliveryOptions, block)
        assert sinks.checked(FILE.DeliveryOptions, once) == once


def test_unknown_sink_types_are_named_with_the_nearest() -> None:
    """A typing error in a type comes with what was probably meant and all there are."""
    with pytest.raises(ValueError, match="there is no sink type 'fil'; did you mean 'file'.*known are .*file"):
        sinks.load("fil")
    with pytest.raises(ValueError, match="there is no sink type '_env'"):
        sinks.load("_env")


def test_a_relative_directory_counts_from_the_base(tmp_path: Path) -> None:
    """The folder of the configuration, not the working directory, is where relative ones begin."""
    sink = FILE.build("files", FILE.Options(directory="out"), tmp_path)
    sink.deliver(place_of(sink), mint())
    assert (tmp_path / "out" / "svc-airflow").read_text() == CANARY


# Paths


@given(ANYTHING, ANYTHING)
@example("a/b", "a%2Fb")
@example("n" * 300, "n" * 301)
@example("\ud83d\udd11", "🔑")
def test_two_names_never_share_a_file(first: str, second: str) -> None:
    """Different names give different paths."""
    template = parse_path("{name}.env")
    paths = {relative_path(template, facts(name=name)) for name in (first, second)}
    assert len(paths) == len({first, second})


@given(ANYTHING.filter(lambda name: len(encoded(name, 10**6)) < 200))
def test_encoding_can_be_undone(name: str) -> None:
    """Any tool that decodes percent signs recovers the name."""
    assert unquote_to_bytes(encoded(name)) == name.encode("utf-8", "surrogatepass")


@given(ANYTHING, ANYTHING, st.sampled_from(["{name}", "a/{name}/b", ".{name}", "{name}{policy}", "-{name}=.json"]))
@example("n" * 256, "p" * 256, "{name}{policy}")
@example("..", ".", ".{name}")
def test_a_name_stays_one_file_name(name: str, policy: str, template: str) -> None:
    """Whatever a name holds, it makes no folder, leaves none, and fits a file system."""
    try:
        path = relative_path(parse_path(template), facts(name=name, policy=policy))
    except Permanent:
        assert name.startswith("rotator-")
        return
    assert len(path) == template.count("/") + 1
    for part in path:
        assert part not in ("", ".", "..")
        assert re.fullmatch(r"[A-Za-z0-9_.@+ =%-]+", part)
        assert len(part) <= 255


def test_ordinary_names_stay_as_they_are() -> None:
    """What people call their tokens is what they find in the folder."""
    for name in ("svc-airflow", "Airflow CI", "team_a.prod+eu@west", "v1.2"):
        assert encoded(name) == name


def test_long_names_stay_readable() -> None:
    """A name beyond what a file system takes keeps its start, the template's ending, and gains a hash."""
    (name,) = relative_path(parse_path("{name}.json"), facts(name="é" * 256))
    assert re.fullmatch(r"(%C3%A9)+(%[0-9A-F]{2})?=[0-9a-f]{32}\.json", name)
    assert len(name) <= 255


def test_no_name_poses_as_a_temporary_file(tmp_path: Path) -> None:
    """A name that would make its own file look like a leftover has no place."""
    with pytest.raises(Permanent, match="kept for temporary files"):
        place_of(build(tmp_path), name=LEFTOVER[1:], path=".{name}")


# Collisions


def test_tokens_may_share_a_file_but_not_a_key(tmp_path: Path) -> None:
    """Two places collide exactly if they write a common key of one file."""
    sink = build(tmp_path)

    def claims(*keys: str) -> set[tuple[str, str]]:
        fields = {keys[0]: "{secret}", **dict.fromkeys(keys[1:], "{end_at}")}
        return set(place_of(sink, path="all.env", format="env", fields=fields).claims)

    assert claims("A") & claims("A", "B")
    assert claims("C", "B") & claims("A", "B")
    assert not claims("A", "B") & claims("C", "D")


def test_shared_files_hold_every_token(tmp_path: Path) -> None:
    """Deliveries of different keys into one file keep each other."""
    sink = build(tmp_path)
    places = [place_of(sink, path="all.env", format="env", fields={key: "{secret}"}) for key in "AB"]
    for place, secret in zip(places, (OTHER, CANARY), strict=True):
        sink.deliver(place, mint(secret))
    assert [sink.read_back(place).secret for place in places] == [Secret(OTHER), Secret(CANARY)]


def test_raw_does_not_replace_a_file_of_keys(tmp_path: Path) -> None:
    """A block that forgot its format does not wipe the env or json file that it names."""
    sink = build(tmp_path)
    for content in ("A=1\nB=2\n", '{"a": 1}'):
        (tmp_path / "svc-airflow").write_text(content)
        with pytest.raises(Permanent, match='format = "raw" would replace whole'):
            sink.preflight(place_of(sink))
        with raising_without_secret(Permanent):
            sink.deliver(place_of(sink), mint())
        assert (tmp_path / "svc-airflow").read_text() == content


# Env files

ENV_LINES = st.lists(
    st.sampled_from(
        [
            b"# TOKEN=comment",
            b"",
            b"OTHER=1",
            b"  export OTHER='a b' # c",
            b"TOKEN=old",
            b"export TOKEN=old",
            b"TOKEN = 'old' # c",
            b'TOKEN="old"',
            b"TOKENS=x",
            b"MULTI='one\nTOKEN=inside\ntwo'",
            b'MULTI="one\nTOKEN=inside \\" still\ntwo"',
            b"CONTINUED=a\\\nTOKEN=inside",
            b"LATIN=\xe9",
            b"APOSTROPHE=it's",
            b"not an assignment",
        ]
    )
)


@given(ENV_LINES, st.sampled_from([b"\n", b"\r\n"]), st.booleans(), st.sampled_from([CANARY, "a b", "", "it's"]))
def test_env_neighbours_stay_byte_for_byte(lines: list[bytes], end: bytes, ended: bool, secret: str) -> None:
    """Whatever an env file holds, every line but ours stays, ours is found, and merging again changes nothing."""
    ours = re.compile(rb"(export )?TOKEN ?=")
    before = end.join(line.replace(b"\n", end) for line in lines) + (end if ended and lines else b"")
    after = _env.merge(before, {"TOKEN": secret})
    assert _env.value(after, "TOKEN") == secret
    assert _env.merge(after, {"TOKEN": secret}) == after
    kept = [line.replace(b"\n", end) for line in lines if not ours.match(line) and line]
    at = 0
    for line in kept:
        at = after.index(line, at) + len(line)
    if not any(ours.match(line) for line in lines):
        assert after.startswith(before)


@given(st.binary())
@example(b"TOKEN=a\\")
@example(b"A=\\\n")
@example(b"TOKEN=\rx")
def test_any_bytes_are_merged_or_refused(before: bytes) -> None:
    """A file of any bytes that is not refused ends up with the key in it, once and for all."""
    if not _env.problem(before):
        after = _env.merge(before, {"TOKEN": CANARY})
        assert _env.value(after, "TOKEN") == CANARY
        assert _env.merge(after, {"TOKEN": CANARY}) == after
        assert len(after) >= len(before) or b"TOKEN" in before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "TOKEN=new\n"),
        ("A=1", "A=1\nTOKEN=new\n"),
        ("A=1\r\n", "A=1\r\nTOKEN=new\r\n"),
        ("export TOKEN=old\nB=2\n", "export TOKEN=new\nB=2\n"),
        ("TOKEN=old\nB=2\nTOKEN=older", "TOKEN=new\nB=2\nTOKEN=new"),
        ("TOKEN='a\nb' # old\nB=2\n", "TOKEN=new\nB=2\n"),
        ("#TOKEN=off\n", "#TOKEN=off\nTOKEN=new\n"),
        ("A=b\\", "A=b\\\n\nTOKEN=new\n"),
    ],
)
def test_env_lines_are_replaced_in_place(before: str, after: str) -> None:
    """Existing lines keep their place and `export`, every duplicate is replaced, a new key goes to the end."""
    assert _env.merge(before.encode(), {"TOKEN": "new"}).decode() == after


@pytest.mark.parametrize("value", [CANARY, "", "Bearer x", "a#b", 'say "x"', "it's", "a`b", "a&b;c|d", "~", "*", "a  b", "é"])
def test_shells_read_what_was_written(tmp_path: Path, value: str) -> None:
    """A value that is written at all means the same to a shell and to us."""
    path = tmp_path / "x.env"
    path.write_bytes(_env.merge(b"", {"TOKEN": value}))
    assert sourced(path)["TOKEN"] == value == _env.value(path.read_bytes(), "TOKEN")


def test_jwts_are_written_bare() -> None:
    """A token needs no quotes, so that Docker too reads it right."""
    assert _env.merge(b"", {"TOKEN": CANARY}) == f"TOKEN={CANARY}\n".encode()


@pytest.mark.parametrize("name", ["a\nB=1", "$(id)", "a\\b", "nul\0", "'\"", "\u202e"])
def test_values_that_readers_disagree_on_are_refused_before_the_rotation(tmp_path: Path, name: str) -> None:
    """A name that an env file cannot carry makes the place unusable, rather than the delivery fail."""
    block = {"path": "{token_id}", "format": "env", "fields": {"TOKEN": "{secret}", "OWNER": "{name}"}}
    with pytest.raises(Permanent, match="the value of OWNER has characters"):
        place_of(build(tmp_path), name=name, **block)


@pytest.mark.parametrize("secret", ["canary\nB=1", "canary\0", "canary$x"])
def test_secrets_that_an_env_file_cannot_carry_are_refused(tmp_path: Path, secret: str) -> None:
    """A secret with a line end never becomes two lines, and never shows in the refusal."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.env", format="env", fields={"TOKEN": "{secret}"})
    with raising_without_secret(Permanent):
        sink.deliver(place, mint(secret))
    assert not (tmp_path / "x.env").exists()


def test_an_open_quote_is_refused(tmp_path: Path) -> None:
    """A file in which nobody can tell where a value ends is not written."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.env", format="env", fields={"TOKEN": "{secret}"})
    (tmp_path / "x.env").write_text("A='b\nC=d\n")
    with pytest.raises(Permanent, match="the value of A opens a quote"):
        sink.preflight(place)


# JSON files

JSON_NUMBERS = st.sampled_from(["1.10", "1e400", "12345678901234567890", "-0.0", "1E+2", "9" * 5000])
JSON_VALUES = st.recursive(
    JSON_NUMBERS | st.sampled_from(["null", "true", '"\\u00e9"', '"\\/"', '"é"', '"}"', '","']),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[ {' , '.join(items)}]")
        | st.lists(inner, max_size=3).map(lambda items: "{" + ",".join(f'"token":{item}' for item in items) + "}")
    ),
    max_leaves=6,
)
JSON_KEYS = st.sampled_from(["a", "token", "tok\\u0065n", "", "token ", "}", "b"])


@given(st.lists(st.tuples(JSON_KEYS, JSON_VALUES), max_size=6), st.sampled_from(["", " ", "\n  ", "\r\n\t"]))
def test_json_neighbours_stay_byte_for_byte(members: list[tuple[str, str]], gap: str) -> None:
    """Numbers, escapes, order, doubled keys and layout of everything else survive; ours is found."""
    before = "{" + ",".join(f'{gap}"{key}" : {value}' for key, value in members) + gap.rstrip(" \t") + "}\n"
    after = _json.merge(before.encode(), {"token": CANARY}).decode()
    found: list[Any] = []
    json.loads(after, object_pairs_hook=lambda pairs: found.append(pairs) or pairs, parse_int=str, parse_float=str)
    assert {value for key, value in found[-1] if key == "token"} == {CANARY}
    assert _json.value(after.encode(), "token") == CANARY
    assert _json.merge(after.encode(), {"token": CANARY}).decode() == after
    at = 0
    for key, value in members:
        if json.loads(f'"{key}"') != "token":
            member = f'"{key}" : {value}'
            at = after.index(member, at) + len(member)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", '{\n  "token": "new"\n}\n'),
        (" \n", '{\n  "token": "new"\n}\n'),
        ("{}", '{\n  "token": "new"\n}'),
        ('{"a": 1}', '{"a": 1, "token": "new"}'),
        ('{\n    "a": 1\n}\n', '{\n    "a": 1,\n    "token": "new"\n}\n'),
        ('{"token": {"old": [1]}, "a": 1.10}', '{"token": "new", "a": 1.10}'),
        ('\ufeff{"token": 1}', '\ufeff{"token": "new"}'),
        ('{"token": 1, "token": 2}', '{"token": "new", "token": "new"}'),
    ],
)
def test_json_is_laid_out_as_it_was(before: str, after: str) -> None:
    """A new key follows the indent that it finds."""
    assert _json.merge(before.encode(), {"token": "new"}).decode() == after


@pytest.mark.parametrize(
    "content",
    [
        b"[]",
        b'"text"',
        b'{"a": 1',
        b'{"a": 1,}',
        b'{"a" 1}',
        b"{a: 1}",
        b'{"a": 1} {"b": 2}',
        b"\xff",
        b"null",
        b"#",
        b'{"a": ' + b"[" * 100_000,
        b"\0",
    ],
)
def test_what_is_not_one_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    """A file that cannot be understood is never taken for empty, neither before nor at the write, nor for reading."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.json", format="json")
    (tmp_path / "x.json").write_bytes(content)
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
        with pytest.raises(Permanent, match="does not hold one JSON object"):
            call(place)
    assert (tmp_path / "x.json").read_bytes() == content


def test_json_carries_any_secret(tmp_path: Path) -> None:
    """Whatever a secret holds, it is escaped and read back."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.json", format="json")
    for secret in ('"}\n\0', "é🔑", "\\"):
        sink.deliver(place, mint(secret))
        assert sink.read_back(place).secret == Secret(secret)


# Modes, owners, versions


@pytest.mark.parametrize("mode", ["0600", "0640", "644"])
def test_files_have_the_mode_of_the_block_and_folders_are_private(tmp_path: Path, mode: str) -> None:
    """The mode is set whatever the umask says, also when the content is right but the mode is not."""
    sink = build(tmp_path)
    place = place_of(sink, path="team/{name}", mode=mode)
    sink.deliver(place, mint())
    path_of(place).chmod(0o666)
    sink.deliver(place, mint())
    assert stat.S_IMODE(path_of(place).stat().st_mode) == int(mode, 8)
    assert stat.S_IMODE((tmp_path / "team").stat().st_mode) == 0o700


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_owner_and_group_stay(tmp_path: Path) -> None:
    """A file that was given to its consumer is still the consumer's after a rotation."""
    sink = build(tmp_path)
    place = place_of(sink)
    sink.deliver(place, mint(OTHER))
    os.chown(path_of(place), 1234, 5678)
    sink.preflight(place)
    sink.deliver(place, mint())
    status = path_of(place).stat()
    assert (status.st_uid, status.st_gid) == (1234, 5678)


def test_an_editors_line_end_is_not_part_of_the_secret(tmp_path: Path) -> None:
    """A raw file that a person wrote with an editor is read without its last line end."""
    sink = build(tmp_path)
    (tmp_path / "svc-airflow").write_text(f"{OTHER}\n")
    assert sink.read_back(place_of(sink)).secret == Secret(OTHER)


def test_an_empty_file_holds_nothing(tmp_path: Path) -> None:
    """A placeholder file is not a secret."""
    sink = build(tmp_path)
    (tmp_path / "svc-airflow").touch()
    with pytest.raises(NotFound):
        sink.read_back(place_of(sink))


def test_a_missing_directory_is_not_an_empty_one(tmp_path: Path) -> None:
    """A volume that is not mounted is no evidence that its secrets are gone, and is not replaced by a folder."""
    sink = build(tmp_path / "volume" / "secrets")
    place = place_of(sink)
    for call in (sink.read_back, sink.preflight, lambda place: sink.deliver(place, mint())):
        with pytest.raises(Permanent, match="directory does not exist; create it, or mount") as caught:
            call(place)
        assert not isinstance(caught.value, NotFound)
    assert not (tmp_path / "volume").exists()


def test_a_place_outlives_the_configuration(tmp_path: Path) -> None:
    """A delivery that was journalled goes where it was meant to, although the sink has moved since."""
    place = place_of(build(tmp_path / "old"))
    moved = build(tmp_path / "new")
    moved.deliver(place, mint())
    assert (tmp_path / "old" / "svc-airflow").read_text() == CANARY


def test_a_foreign_place_is_refused(tmp_path: Path) -> None:
    """Options that another version journalled in another form are an error of ours, not a crash."""
    with pytest.raises(Permanent, match="another version of rotator|not compatible"):
        build(tmp_path).preflight(Place("files", "/x", {"path": "x"}))


# Links and other things in the way


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link planted as folder or as file leads nothing of ours out of the directory, and stays as it is."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "svc-airflow").write_text("theirs")
    directory = tmp_path / "secrets"
    directory.mkdir()
    (directory / "team").symlink_to(outside)
    (directory / "svc-airflow").symlink_to(outside / "svc-airflow")
    (directory / "dangling").symlink_to(outside / "new")
    sink = build(directory)
    for place in (
        place_of(sink, path="team/{name}"),
        place_of(sink, path="{name}"),
        place_of(sink, path="dangling"),
        place_of(sink, path="svc-airflow/{name}"),
    ):
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Permanent) as _, pytest.raises(Permanent, match="symbolic link") as caught:
                call(place)
            assert not isinstance(caught.value, NotFound)
            raise_again(caught.value)
    assert [path.name for path in outside.iterdir()] == ["svc-airflow"]
    assert (outside / "svc-airflow").read_text() == "theirs"


def raise_again(error: BaseException) -> None:
    """Let an outer expectation look at the error too."""
    raise error
