"""The file sink: the shared contract for each of its formats, and what only files can suffer."""

import errno
import functools
import itertools
import json
import os
import re
import resource
import select
import shutil
import socket
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
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
from rotator.recent import MOMENT_S
from rotator.secret import Secret
from rotator.sinks import _env, _json
from rotator.sinks._folder import FAILURES, confirm, translated
from rotator.sinks._paths import encoded, parse_path, relative_path
from rotator.sinks.file import FileSink
from tests.sinks.contract import (
    CANARY,
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


class Clock:
    """Stands still unless a test moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def watched() -> Iterator[list[str]]:
    """Yield a list of the system calls that this thread makes to put something on the disk."""
    seen: list[str] = []

    def note(_: FrameType, what: str, function: object) -> None:
        if what == "c_call" and function in (os.fsync, os.rename):
            seen.append(function.__name__)  # type: ignore[attr-defined]

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where the block writes for a token of this name."""
    return sink.resolve(sinks.checked(FILE.DeliveryOptions, block), facts(name=name))


def path_of(place: Place) -> Path:
    """Return the file of a place."""
    return Path(place.location.partition("#")[0])


Disturbance = Callable[[str, tuple[Any, ...]], None]
_disturbances: list[Disturbance] = []
_acting = threading.local()
_heard = [0]  # how many files were opened and renamed since `install`


def _disturb(event: str, arguments: tuple[Any, ...]) -> None:
    if event in ("open", "os.rename") and not getattr(_acting, "now", False):
        _heard[0] += 1
        _acting.now = True  # what a disturbance does is not disturbed
        try:
            for disturbance in _disturbances:
                disturbance(event, arguments)
        finally:
            _acting.now = False


@functools.cache
def install() -> None:
    """Let disturbances hear of what is about to happen to files; an audit hook cannot be removed."""
    sys.addaudithook(_disturb)


@contextmanager
def disturbed(disturbance: Disturbance) -> Iterator[None]:
    """Let a disturbance act, or fail, before a file is opened or renamed: a file system that goes wrong."""
    install()
    _disturbances.append(disturbance)
    try:
        yield
    finally:
        _disturbances.remove(disturbance)


def is_temporary(arguments: tuple[Any, ...]) -> bool:
    """Whether a call is about a file that rotator writes before it gets its name."""
    return str(arguments[0]).startswith(LEFTOVER[:9])


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
            return json.loads(text).get(place.location.partition("#")[2])
        if path.suffix == ".env":
            return sourced(path).get(place.location.partition("#")[2])
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
        self._say(path, "theirs")
        if path.suffix == ".json":
            current = json.loads(path.read_text()) if path.exists() else {}
            path.write_text(json.dumps({**current, "neighbour": [self._said, 1.5]}))
        elif path.suffix == ".env":
            path.write_text((path.read_text() if path.exists() else "") + f"# ours\nNEIGHBOUR='{self._said}'\n")

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at both."""
        path = path_of(place)
        lines = {".json": f'"neighbour": ["{self._said}", 1.5]', ".env": f"# ours\nNEIGHBOUR='{self._said}'\n", "": ""}
        return lines[path.suffix] in path.read_text() and (path.parent / "neighbour").read_text() == self._said

    def _say(self, path: Path, text: str) -> None:
        self._said = text
        (path.parent / "neighbour").write_text(text)

    def rebuilt(self) -> Sink:
        """Open the same folder again."""
        return build(self.directory)

    def remove(self, place: Place) -> bool:
        """Remove the file, or where it has keys, the key."""
        path = path_of(place)
        if path.suffix:
            path.write_text("{}" if path.suffix == ".json" else "")
        else:
            path.unlink()
        return True

    @property
    def sibling(self) -> dict[str, object]:
        """Another key of the same file, or where it has none, another file of the same folder."""
        more = {"fields": {"token2": "{secret}"}} if "format" in self.block else {"path": f"{self.block['path']}-too"}
        return {**self.block, **more}

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

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Rename as asked, then report an error of the disk."""

        def act(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "os.rename" and is_temporary(arguments):
                os.rename(*arguments[:2], src_dir_fd=arguments[2], dst_dir_fd=arguments[3])
                raise OSError(errno.EIO, os.strerror(errno.EIO))

        return disturbed(act)

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Report an error of the disk instead of renaming."""
        return self._failing(errno.EIO, lambda event, arguments: event == "os.rename" and is_temporary(arguments))

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Report that the process has too many files open, the only limit to calls that a file system has."""
        return self._failing(errno.EMFILE, lambda event, arguments: arguments[0] == self._root)

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Be a network file system whose server is gone."""
        return self._failing(errno.ESTALE, lambda event, arguments: arguments[0] == self._root)

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Report an error of the disk for the file itself; new ones can be written and renamed over it."""
        name = path_of(place).name
        return self._failing(errno.EIO, lambda event, arguments: event == "open" and arguments[0] == name)

    @contextmanager
    def denied(self, place: Place) -> Iterator[None]:
        """Be somebody who may not enter the folder; nobody for root, whom no mode keeps out."""
        folder, user = path_of(place).parent, os.geteuid()
        mode = folder.stat().st_mode
        folder.chmod(0)
        if ROOT:
            os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(user)
            folder.chmod(mode)

    def edited_meanwhile(self, place: Place) -> AbstractContextManager[None]:
        """Edit the neighbour, with no regard to locks, once a new file is begun: the old one is read by then."""
        path, left = path_of(place), [True]

        def act(event: str, arguments: tuple[Any, ...]) -> None:
            if event == "open" and is_temporary(arguments) and left:
                left.clear()
                before = self._said
                self._say(path, "edited")
                path.write_text(path.read_text().replace(before, self._said))

        return disturbed(act)

    def calls(self) -> int:
        """Count what was opened and renamed so far, the consumer's and the operator's doing included."""
        install()
        return _heard[0]

    @property
    def _root(self) -> str:
        return str(self.directory)

    def _failing(self, code: int, when: Callable[[str, tuple[Any, ...]], bool]) -> AbstractContextManager[None]:
        def act(event: str, arguments: tuple[Any, ...]) -> None:
            if when(event, arguments):
                raise OSError(code, os.strerror(code))

        return disturbed(act)


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
    assert sinks.checked(FILE.DeliveryOptions, {}) == {
        "path": "{name}",
        "format": "raw",
        "fields": None,
        "mode": "0600",
    }
    assert sinks.checked(FILE.DeliveryOptions, {"format": "json"})["fields"] == {"token": "{secret}"}


def test_checked_options_can_be_checked_again() -> None:
    """What validation returns is valid."""
    for block, _ in BLOCKS.values():
        once = sinks.checked(FILE.DeliveryOptions, block)
        assert sinks.checked(FILE.DeliveryOptions, once) == once


def test_unknown_sink_types_are_named_with_the_nearest() -> None:
    """A typing error in a type comes with what was probably meant and all there are."""
    with pytest.raises(ValueError, match=r"there is no sink type 'fil'; did you mean 'file'.*known are .*file"):
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


def test_names_that_surprise_tools_are_encoded() -> None:
    """No file is hidden, taken for an option, or ends in what some file systems drop."""
    assert [encoded(name) for name in (".profile", "-rf", " a", "a ", "a.", "..")] == [
        "%2Eprofile",
        "%2Drf",
        "%20a",
        "a%20",
        "a%2E",
        "%2E%2E",
    ]


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


@pytest.mark.parametrize(
    "value", [CANARY, "", "Bearer x", "a#b", 'say "x"', "it's", "a`b", "a&b;c|d", "~", "*", "a  b", "é"]
)
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


@pytest.mark.parametrize("ending", ["\nB=1", "\0", "$x"])
def test_secrets_that_an_env_file_cannot_carry_are_refused(tmp_path: Path, ending: str) -> None:
    """A secret with a line end never becomes two lines, and never shows in the refusal."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.env", format="env", fields={"TOKEN": "{secret}"})
    with raising_without_secret(Permanent):
        sink.deliver(place, mint(CANARY + ending))
    assert not (tmp_path / "x.env").exists()


def test_an_open_quote_is_refused(tmp_path: Path) -> None:
    """A file in which nobody can tell where a value ends is not written."""
    sink = build(tmp_path)
    place = place_of(sink, path="x.env", format="env", fields={"TOKEN": "{secret}"})
    (tmp_path / "x.env").write_text("A='b\nC=d\n")
    with pytest.raises(Permanent, match="the value of A opens a quote"):
        sink.preflight(place)


@pytest.mark.parametrize(
    "content",
    [
        '{"a": 1}\n',
        "a: 1\nb:\n  - x\n",
        "-----BEGIN X-----\nabcd\n-----END X-----\n",
        "[core]\nx = y\n",
        "eyJh.eyJi.c-_d",
        "Opaque1",
        "A=1\neyJh.eyJi.c-_d\n",
        "# so far\nA='b\nc'\n\nif true; then\n",
    ],
)
def test_a_file_that_is_no_env_file_gets_no_line(tmp_path: Path, content: str) -> None:
    """JSON, YAML, PEM, INI, scripts or another secret: refused by its line before a rotation, and left as it is."""
    sink = build(tmp_path)
    place = place_of(sink, path="x", format="env", fields={"TOKEN": "{secret}"})
    (tmp_path / "x").write_text(content)
    with pytest.raises(Permanent, match=r"it is no env file \(line \d is neither"):
        sink.preflight(place)
    with raising_without_secret(Permanent):
        sink.deliver(place, mint())
    assert (tmp_path / "x").read_text() == content


@pytest.mark.parametrize(
    "content",
    [
        "# c\n; systemd's\n\n  \t\nexport A=1\nexport A B\r\nHTTP_PROXY\n",
        "A='b\nnot a line\n'\nC=d\\\nnor this\n",
        "A=1\nmy.key=x\nmy-key = y\nPATH+=:/x\ndeclare -x D=e",
        "\ufeffA=1\r\nB=2\r\n",
        "# nothing yet\n",
    ],
)
def test_what_readers_of_env_files_know_stays_welcome(content: str) -> None:
    """Comments, exports, names that Docker passes on, names that only some know, values over several lines."""
    assert not _env.foreign(content.encode())


def test_a_script_that_sets_the_key_already_gets_the_new_value(tmp_path: Path) -> None:
    """A line is only replaced, so nothing can be broken that was not the key's before."""
    sink = build(tmp_path)
    place = place_of(sink, path="x", format="env", fields={"TOKEN": "{secret}"})
    (tmp_path / "x").write_text("set -a\n. ./other\nTOKEN=old\nset +a\n")
    sink.preflight(place)
    sink.deliver(place, mint())
    assert (tmp_path / "x").read_text() == f"set -a\n. ./other\nTOKEN={CANARY}\nset +a\n"


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
    with pytest.raises(Permanent, match="is not compatible"):
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
            with raising_without_secret(Permanent, match="symbolic link") as caught:
                call(place)
            assert not isinstance(caught.value, NotFound)
    assert [path.name for path in outside.iterdir()] == ["svc-airflow"]
    assert (outside / "svc-airflow").read_text() == "theirs"


def test_the_directory_itself_may_be_a_link(tmp_path: Path) -> None:
    """What the operator configured is followed."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    sink = build(tmp_path / "link")
    sink.deliver(place_of(sink), mint())
    assert (tmp_path / "real" / "svc-airflow").read_text() == CANARY


def test_only_plain_files_are_replaced(tmp_path: Path) -> None:
    """A folder, a pipe, a socket: each is refused before the rotation, at once, and stays."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    sink = build(tmp_path)
    before = {path.name: path.lstat().st_ino for path in tmp_path.iterdir()}
    for name in before:
        for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Permanent, match=name) as caught:
                call(place_of(sink, path=name))
            assert not isinstance(caught.value, NotFound)
    assert {path.name: path.lstat().st_ino for path in tmp_path.iterdir()} == before


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    """A raw file and a folder of the same name cannot both be."""
    sink = build(tmp_path)
    sink.deliver(place_of(sink, path="a"), mint())
    with pytest.raises(Permanent, match="not a folder"):
        sink.preflight(place_of(sink, path="a/{name}"))


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    """A template that hits a database dump does not load it into memory."""
    with open(tmp_path / "svc-airflow", "wb") as file:
        file.truncate(5 * 1024 * 1024)
    sink = build(tmp_path)
    with pytest.raises(Permanent, match="larger than"):
        sink.preflight(place_of(sink))


def test_another_name_of_the_file_keeps_its_content(tmp_path: Path) -> None:
    """A hard link made elsewhere does not get the new secret."""
    sink = build(tmp_path / "secrets")
    place = place_of(sink)
    sink.deliver(place, mint(OTHER))
    os.link(path_of(place), tmp_path / "elsewhere")
    sink.deliver(place, mint())
    assert (tmp_path / "elsewhere").read_text() == OTHER


@pytest.mark.skipif(not ROOT, reason="only root can mount")
def test_a_file_that_is_mounted_by_itself_fails_preflight(tmp_path: Path) -> None:
    """A single file mounted into a container cannot be replaced, which is found before the rotation."""
    (tmp_path / "source").write_text(OTHER)
    (tmp_path / "svc-airflow").touch()
    sink = build(tmp_path)
    with mounted(tmp_path / "svc-airflow", "--bind", str(tmp_path / "source")):
        for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Permanent, match="mount its folder instead"):
                call(place_of(sink))
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.skipif(not (ROOT and shutil.which("chattr")), reason="only root can mark files, with chattr")
@pytest.mark.parametrize("mark", ["i", "a"])
def test_an_immutable_file_fails_preflight(tmp_path: Path, mark: str) -> None:
    """A file that even root cannot rename over is found before the rotation."""
    sink = build(tmp_path)
    sink.deliver(place_of(sink), mint(OTHER))
    path = tmp_path / "svc-airflow"
    if subprocess.run(["chattr", f"+{mark}", path], capture_output=True, check=False).returncode:
        pytest.skip("this file system has no such marks")
    try:
        with raising_without_secret(Permanent, match="chattr"):
            sink.preflight(place_of(sink))
    finally:
        subprocess.run(["chattr", f"-{mark}", path], check=True)


@contextmanager
def mounted(target: Path, *arguments: str) -> Iterator[None]:
    """Mount something for a while; skip the test where that is not allowed."""
    run = subprocess.run(["mount", *arguments, str(target)], capture_output=True, check=False)
    if run.returncode:
        pytest.skip("mounting is not allowed here")
    try:
        yield
    finally:
        subprocess.run(["umount", str(target)], check=True)


# Disks that are full or read-only, and users who may not


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
def test_a_full_disk_is_temporary_and_found_by_preflight(tmp_path: Path) -> None:
    """Without space neither preflight nor delivery succeeds, the old secret stays whole, and space heals it."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        sink = build(tmp_path)
        place = place_of(sink)
        sink.deliver(place, mint(OTHER))
        filler = tmp_path / "filler"
        fill(filler)
        for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
            with raising_without_secret(Temporary, match="svc-airflow: the disk is full"):
                call(place)
        assert path_of(place).read_text() == OTHER
        assert sorted(path.name for path in tmp_path.iterdir()) == ["filler", "svc-airflow"]
        filler.unlink()
        sink.preflight(place)
        sink.deliver(place, mint())
        assert path_of(place).read_text() == CANARY


def fill(path: Path) -> None:
    """Write until nothing more fits."""
    with open(path, "wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        file.writelines(itertools.repeat(b"x" * 512))


@pytest.mark.skipif(not ROOT, reason="only root can mount")
def test_a_read_only_disk_fails_preflight(tmp_path: Path) -> None:
    """A volume that was mounted read-only is named as that."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k,ro", "tmpfs"):
        sink = build(tmp_path)
        with raising_without_secret(Permanent, match="read-only; mount it writable"):
            sink.preflight(place_of(sink))


PRELUDE = """
import itertools, os, sys
from datetime import UTC, datetime
from pathlib import Path
from rotator import sinks
from rotator.errors import RotatorError
from rotator.model import Mint
from rotator.secret import Secret
from rotator.templates import PLACEHOLDERS

module = sinks.load("file")
sink = module.build("files", module.Options(directory=sys.argv[1]), Path("/"))

def place_of(**block):
    return sink.resolve(sinks.checked(module.DeliveryOptions, block), dict.fromkeys(PLACEHOLDERS, "svc-airflow"))

def mint(secret, number=1):
    return Mint(f"mint-{number}", "rotation", "cltoken1", Secret(secret), datetime.now(UTC), None)
"""


def another_process(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
    """Start a process that has `sink`, `place_of` and `mint` over the directory that is the first argument."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def as_nobody(directory: Path, *names: str, mode: str = "0600") -> list[str]:
    """Return what preflight says of these files to a user without rights."""
    script = """
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        for name in sys.argv[3:]:
            try:
                sink.preflight(place_of(path=name, mode=sys.argv[2]))
                print("proven")
            except RotatorError as error:
                print(type(error).__name__, error)
    """
    output, _ = another_process(script, directory, mode, *names).communicate(timeout=60)
    return output.decode().splitlines()


def open_to_all(path: Path) -> None:
    """Let other users reach a test's folder."""
    for folder in (path, *path.parents):
        if folder.stat().st_uid == os.geteuid() and folder.stat().st_mode & 0o011 != 0o011:
            folder.chmod(folder.stat().st_mode | 0o055)


def test_a_folder_that_may_not_be_written_fails_preflight(tmp_path: Path) -> None:
    """Missing rights are found before the rotation and said with the fix; a folder that allows it is proven."""
    (tmp_path / "denied").mkdir(mode=0o755 if ROOT else 0o555)
    (tmp_path / "allowed").mkdir()
    (tmp_path / "allowed").chmod(0o777)
    open_to_all(tmp_path)
    denied, allowed = as_nobody(tmp_path, "denied/x", "allowed/x")
    assert re.match("Permanent .*denied/x: permission denied; let the user that runs rotator", denied)
    assert allowed == "proven"


@pytest.mark.skipif(not ROOT, reason="only root can make files of several users")
def test_a_file_whose_owner_would_lose_it_fails_preflight(tmp_path: Path) -> None:
    """A consumer that owns its file is not cut off by a rotator that cannot give it back; root's files are taken."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "sticky").mkdir()
    (tmp_path / "sticky").chmod(0o1777)
    files = {"open/theirs": (1234, 0), "open/groups": (65534, 5678), "open/roots": (0, 0), "sticky/roots": (0, 0)}
    for name, owner in files.items():
        (tmp_path / name).write_text("old")
        (tmp_path / name).chmod(0o644)
        os.chown(tmp_path / name, *owner)
    open_to_all(tmp_path)
    theirs, groups, roots, sticky = as_nobody(tmp_path, *files)
    shared, *_ = as_nobody(tmp_path, "open/groups", mode="0640")
    assert re.match("Permanent .*belongs to user 1234 and group 0, who could not read it", theirs)
    assert (groups, roots) == ("proven", "proven")
    assert re.match("Permanent .*belongs to user 65534 and group 5678", shared)
    assert re.match("Permanent .*the folder is sticky", sticky)


@pytest.mark.parametrize("code", sorted(errno.errorcode))
def test_every_error_of_the_system_becomes_one_of_ours(code: int) -> None:
    """No number escapes the table, each message names the place and says something, in words of our own."""
    with pytest.raises((Temporary, Permanent), match=r"^/place: .{10}") as caught, translated("/place"):
        raise OSError(code, "their words")
    assert "their words" not in caught.value.message
    if code in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        assert type(caught.value) is Temporary
    if code in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ELOOP):
        assert type(caught.value) is Permanent


def test_the_table_names_no_number_twice_by_accident() -> None:
    """Every sentence of the table is one an operator can act on."""
    for kind, sentence in FAILURES.values():
        assert kind in (Temporary, Permanent)
        assert len(sentence.split()) >= 4


def test_what_we_raise_ourselves_gets_its_place() -> None:
    """An error from below keeps its kind and gains the location."""
    for kind in (Temporary, Permanent, NotFound, OutcomeUnknown):
        with pytest.raises(kind, match=r"^/place: why$"), translated("/place"):
            raise kind("why")


def test_a_rename_that_the_disk_does_not_confirm_is_in_doubt(tmp_path: Path) -> None:
    """If the folder cannot be synced, nobody claims that the secret was, or was not, written."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    confirm(descriptor)
    os.close(descriptor)
    with raising_without_secret(OutcomeUnknown, match=r"^/place: .*writing it again is safe"), translated("/place"):
        confirm(descriptor)


# Proofs that many share


def test_one_proof_of_a_folder_serves_all_its_places_for_a_moment(tmp_path: Path) -> None:
    """Within a second the folder is not written again; after it, and for another folder, it is proven anew."""
    clock = Clock()
    sink = FileSink("files", tmp_path, clock)
    counts = []
    for path, passed_s in (("a", 0.0), ("b", 0.0), ("c", MOMENT_S / 2), ("team/a", 0.0), ("d", MOMENT_S)):
        place = place_of(sink, path=path)
        (tmp_path / "team").mkdir(exist_ok=True)
        clock.now_s += passed_s
        with watched() as seen:
            sink.preflight(place)
        counts.append(seen.count("fsync"))
    assert counts == [2, 0, 0, 2, 2]
    assert os.listdir(tmp_path) == ["team"]


def test_a_shared_proof_does_not_hide_what_is_wrong_with_one_file(tmp_path: Path) -> None:
    """A place whose own file cannot be replaced is refused, whatever was proven for others a moment ago."""
    sink = FileSink("files", tmp_path, Clock())
    sink.preflight(place_of(sink))
    (tmp_path / "keys").write_text("A=1\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("keys")
    for name in ("keys", "folder", "link"):
        with raising_without_secret(Permanent):
            sink.preflight(place_of(sink, path=name))


@pytest.mark.skipif(not ROOT, reason="only root can give files away")
def test_a_file_of_another_owner_gets_a_proof_of_its_own(tmp_path: Path) -> None:
    """That a folder can be written does not say that a file can be given to whom it belongs."""
    sink = FileSink("files", tmp_path, Clock())
    sink.preflight(place_of(sink))
    (tmp_path / "theirs").write_text("old")
    os.chown(tmp_path / "theirs", 65534, 65534)
    with watched() as seen:
        sink.preflight(place_of(sink, path="theirs"))
    assert seen == ["fsync", "fsync"]


def test_a_failed_proof_is_no_proof(tmp_path: Path) -> None:
    """As long as the folder cannot be written every token is told so, and as soon as it can, every token passes."""
    sink = FileSink("files", tmp_path, Clock())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        for name in ("a", "b"):
            with raising_without_secret(Permanent, match="larger than the process may write"):
                sink.preflight(place_of(sink, path=name))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    sink.preflight(place_of(sink, path="a"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not ROOT, reason="only root can mount a small disk")
def test_a_disk_that_fills_up_ends_a_proof(tmp_path: Path) -> None:
    """A proof does not serve longer than there is room, though its moment has not passed."""
    with mounted(tmp_path, "-t", "tmpfs", "-o", "size=64k", "tmpfs"):
        sink = FileSink("files", tmp_path, Clock())
        sink.preflight(place_of(sink, path="a"))
        fill(tmp_path / "filler")
        with raising_without_secret(Temporary, match="the disk is full"):
            sink.preflight(place_of(sink, path="b"))


@pytest.mark.parametrize("block", [{}, {"format": "env"}])
def test_a_receipt_comes_after_file_and_folder_are_on_the_disk(tmp_path: Path, block: dict[str, object]) -> None:
    """The content is synced before it gets its name, and the folder after, whatever was proven or written before."""
    sink = build(tmp_path)
    for number, expected in ((1, ["fsync", "rename", "fsync"]), (2, ["fsync", "rename", "fsync"]), (2, ["fsync"] * 2)):
        with watched() as seen:
            sink.deliver(place_of(sink, **block), mint(f"canary-{number}", number))
        assert seen == expected


@pytest.mark.parametrize("edit", [lambda path: path.write_text("A=2\n"), Path.unlink], ids=["edited", "removed"])
def test_who_edits_a_file_again_and_again_is_given_way(tmp_path: Path, edit: Callable[[Path], None]) -> None:
    """Whatever happens to a file between our read and our rename is kept; after a few tries the delivery waits."""
    sink, path = build(tmp_path), tmp_path / "svc-airflow"
    place, edits = place_of(sink, format="env"), []

    def act(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and is_temporary(arguments):
            path.write_text("A=1\n") if len(edits) % 2 else edit(path)
            edits.append(event)

    path.write_text("A=1\n")
    with disturbed(act), raising_without_secret(Temporary, match="somebody else writes the file"):
        sink.deliver(place, mint())
    assert (path.read_text(), len(edits)) == ("A=1\n", 4)
    assert os.listdir(tmp_path) == [path.name]
    sink.deliver(place, mint())
    assert path.read_text().startswith("A=1\n")
    assert sink.read_back(place).secret == Secret(CANARY)


def test_threads_write_one_folder_together(tmp_path: Path) -> None:
    """Sixteen threads prove and write places of one folder; each ends whole, and nothing is left over."""
    sink = build(tmp_path)

    def one(number: int) -> None:
        place = place_of(sink, f"svc-{number}")
        sink.preflight(place)
        sink.deliver(place, mint(f"canary-{number}", number))

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(one, range(200)))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        f"svc-{number}": f"canary-{number}" for number in range(200)
    }


# Locks, crashes, races


def test_a_held_lock_is_waited_for(tmp_path: Path) -> None:
    """A delivery starts as soon as another process lets go of the folder, not before."""
    sink = build(tmp_path)
    place = place_of(sink)
    holder = another_process(HOLD, tmp_path)
    assert said(holder) == b"held\n"
    writer = another_process(f"sink.deliver(place_of(), mint({CANARY!r})); print('written')", tmp_path)
    assert not select.select([writer.stdout], [], [], 0.5)[0]
    assert not path_of(place).exists()
    killed(holder)
    assert writer.communicate(timeout=30)[0] == b"written\n"
    assert path_of(place).read_text() == CANARY


HOLD = """
    import fcntl
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def said(process: "subprocess.Popen[bytes]") -> bytes:
    """Return the next line of its output."""
    assert process.stdout is not None
    return process.stdout.readline()


def killed(process: "subprocess.Popen[bytes]") -> None:
    """Let it die as by a power cut."""
    process.kill()
    process.communicate()


def test_leftovers_of_the_dead_are_removed_and_nothing_else(tmp_path: Path) -> None:
    """A temporary file that a crash left behind may hold a secret: preflight and delivery remove it."""
    clock = Clock()
    sink = FileSink("files", tmp_path, clock)
    place = place_of(sink, path="team/{name}")
    sink.preflight(place)
    keep = [".rotator-notes", ".rotator-", f"{LEFTOVER}0", "x" + LEFTOVER]
    for call in (sink.preflight, lambda place: sink.deliver(place, mint())):
        clock.now_s += MOMENT_S
        for name in (LEFTOVER, *keep):
            (tmp_path / "team" / name).write_text(CANARY)
        call(place)
        assert sorted(set(os.listdir(tmp_path / "team")) - {"svc-airflow"}) == sorted(keep)


LIVE = """
    import fcntl
    fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_SH)
    Path(sys.argv[1], sys.argv[2]).write_text("canary")
    print("writing", flush=True)
    sys.stdin.read()
"""


def test_temporary_files_of_the_living_stay(tmp_path: Path) -> None:
    """While another process writes, nobody removes its file, and raw files are written beside it; once it is dead,
    the very next call removes it."""
    sink = FileSink("files", tmp_path, Clock())
    writer = another_process(LIVE, tmp_path, LEFTOVER)
    assert said(writer) == b"writing\n"
    for number in range(3):
        place = place_of(sink, f"svc-{number}")
        sink.preflight(place)
        sink.deliver(place, mint())
        assert path_of(place).read_text() == CANARY
        assert (tmp_path / LEFTOVER).exists()
    killed(writer)
    sink.preflight(place)
    assert not (tmp_path / LEFTOVER).exists()


def test_keys_are_not_merged_while_others_write(tmp_path: Path) -> None:
    """An env file is read and replaced by nobody else meanwhile, also not by who replaces whole files."""
    writer = another_process(LIVE, tmp_path, LEFTOVER)
    assert said(writer) == b"writing\n"
    merger = another_process("sink.deliver(place_of(path='a.env', format='env'), mint('x')); print('merged')", tmp_path)
    assert not select.select([merger.stdout], [], [], 0.5)[0]
    killed(writer)
    assert merger.communicate(timeout=30)[0] == b"merged\n"


CRASH = """
    place = place_of(path="x.json", format="json")
    print("ready", flush=True)
    for number in itertools.count():
        sink.deliver(place, mint("canary-" + str(number) * 3000, number))
"""


def test_a_killed_process_leaves_the_old_or_the_new_secret(tmp_path: Path) -> None:
    """Whenever the process dies, the file is whole, its neighbours stay, and no temporary file outlives the next."""
    clock = Clock()
    sink = FileSink("files", tmp_path, clock)
    place = place_of(sink, path="x.json", format="json")
    (tmp_path / "x.json").write_text('{"neighbour": 1.10}')
    leftovers = 0
    for step in range(40):
        process = another_process(CRASH, tmp_path)
        assert said(process) == b"ready\n"
        select.select([process.stdout], [], [], 0.01 + step * 0.0007)  # nothing comes: it dies somewhere in a delivery
        killed(process)
        leftovers += len(os.listdir(tmp_path)) - 1
        assert_whole((tmp_path / "x.json").read_text())
        clock.now_s += MOMENT_S
        sink.deliver(place, mint())
        assert os.listdir(tmp_path) == ["x.json"]
        assert_whole((tmp_path / "x.json").read_text())
    assert leftovers, "no process died while it wrote, so nothing was shown"


def assert_whole(text: str) -> None:
    """Refuse anything but the neighbour and, perhaps, one whole secret."""
    assert re.fullmatch(r'\{"neighbour": 1\.10(, "token": "[^"]+")?\}', text)
    held = json.loads(text).get("token", CANARY)
    assert held == CANARY or re.fullmatch(r"canary-(\d+?)\1{2999}", held)


def test_readers_never_see_half_a_file(tmp_path: Path) -> None:
    """While secrets are replaced as fast as can be, whoever reads finds a whole one."""
    sink = build(tmp_path)
    sink.deliver(place_of(sink, path="x.json", format="json"), mint())
    process = another_process(CRASH, tmp_path)
    assert said(process) == b"ready\n"
    seen = {json.loads((tmp_path / "x.json").read_text())["token"][:12] for _ in range(2000)}
    killed(process)
    assert len(seen) > 1


def test_processes_do_not_lose_each_others_keys(tmp_path: Path) -> None:
    """Deliveries from several processes into one file all stay."""
    script = """
        for number in range(20):
            key = f"K{sys.argv[2]}_{number}"
            sink.deliver(place_of(path="all.env", format="env", fields={key: "{secret}"}), mint(key))
    """
    processes = [another_process(script, tmp_path, number) for number in range(3)]
    for process in processes:
        process.communicate(timeout=120)
    expected = [f"K{process}_{number}" for process in range(3) for number in range(20)]
    assert sorted((tmp_path / "all.env").read_text().splitlines()) == sorted(f"{key}={key}" for key in expected)


def test_descriptors_are_closed(tmp_path: Path) -> None:
    """Neither success nor failure leaks an open file."""
    sink = build(tmp_path)
    good, bad = place_of(sink), place_of(sink, path="svc-airflow/below")
    sink.deliver(good, mint())
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        sink.preflight(good)
        sink.deliver(good, mint(OTHER))
        sink.read_back(good)
        for call in (sink.preflight, sink.read_back):
            with pytest.raises(RotatorError):
                call(bad)
    assert len(os.listdir("/proc/self/fd")) == before
