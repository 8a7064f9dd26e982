"""The exec sink: the shared contract with a real script, and what only programs can do to whoever runs them."""

import errno
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import Forbidden, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Grade, Held, Place
from rotator.ports import Sink
from rotator.sinks import _child
from rotator.sinks._child import End, Fate
from rotator.sinks.exec import STARTS, delivery_failure, question_failure
from tests.sinks.contract import CANARY, OTHER, Harness, SinkContract, facts, mint, raising_without_secret

EXEC: Any = sinks.load("exec")

# A program as a user may write one: it keeps what it is given in one JSON file beside it.
STORE = """
    import fcntl, json, os, sys
    from pathlib import Path
    store = Path(__file__).with_name("store.json")
    event = json.loads(sys.stdin.readline())
    data, action = event["data"], os.environ["ROTATOR_ACTION"]
    with Path(__file__).with_name("runs").open("a") as runs:
        runs.write("x")
    fault = Path(__file__).with_name("fault")
    when, code = fault.read_text().split() if fault.exists() else ("never", "0")
    if when in ("before", action):
        print(event, file=sys.stderr)
        sys.exit(int(code))
    assert event["type"] == f"token.{action}"
    lock = os.open(__file__, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    held = json.loads(store.read_text()) if store.exists() else {}
    if action == "verify":
        print(held[data["key"]]["mint_id"] if data["key"] in held else "none")
    if action == "deliver":
        print(data["secret"]); print(data["secret"], file=sys.stderr)
        held[data["key"]] = {"mint_id": data["mint_id"], "secret": data["secret"]}
        store.write_text(json.dumps(held))
    if when == "after":
        os.kill(os.getpid(), 9)
"""


def program(folder: Path, text: str, name: str = "program", shell: bool = False) -> Path:
    """Write a program that may be executed."""
    path = folder / name
    first = "#!/bin/sh\n" if shell else f"#!{sys.executable} -IS\n"
    path.write_text(first + textwrap.dedent(text))
    path.chmod(0o755)
    return path


def build(*command: object, **options: object) -> Sink:
    """Return the sink over a program."""
    settings = {"command": [str(word) for word in command], "timeout": "20s", **options}
    return EXEC.build("programs", EXEC.Options(**settings), Path("/"))


def place_of(sink: Sink, name: str = "svc-airflow", **block: object) -> Place:
    """Return where a delivery for a token of this name goes."""
    return sink.resolve(sinks.checked(EXEC.DeliveryOptions, block), facts(name=name))


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def children() -> set[int]:
    """Return every process whose parent we are, zombies included."""
    found = set()
    for entry in os.listdir("/proc"):
        with suppress(OSError, ValueError):
            if int(Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.add(int(entry))
    return found


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    """No test leaves a child, a zombie or a descriptor."""
    processes, descriptors = children(), len(os.listdir("/proc/self/fd"))
    yield
    assert children() <= processes
    assert len(os.listdir("/proc/self/fd")) <= descriptors


class ExecHarness:
    """The program's side."""

    kind = "exec"
    is_readable = False
    sibling: dict[str, object] = {"key": "{policy}/{name}/second"}  # noqa: RUF012 - as the protocol declares it
    lacks: Mapping[str, str] = {"edited_meanwhile": "a delivery is one run, and nothing is read before it"}

    def __init__(self, folder: Path) -> None:
        self.block: dict[str, object] = {"key": "{policy}/{name}"}
        self._folder = folder
        self._store = folder / "store.json"
        self._program = program(folder, STORE)
        self.sink = self.rebuilt()

    def rebuilt(self) -> Sink:
        """Build it once more."""
        return build(self._program, verify=True, preflight=True)

    def remove(self, place: Place) -> bool:
        """Take it out of the store."""
        held = self._held()
        del held[self._key(place)]
        self._store.write_text(json.dumps(held))
        return True

    def answer_lost(self, place: Place) -> AbstractContextManager[None]:
        """Let it store the secret and die of a signal."""
        return self._faulty("after", 0)

    def request_lost(self, place: Place) -> AbstractContextManager[None]:
        """Let it fail, before it stores anything, in a way that says nothing."""
        return self._faulty("before", 1)

    def throttled(self, place: Place) -> AbstractContextManager[None]:
        """Let it say that it could not do it now, as a program does whose own outside had enough."""
        return self._faulty("before", os.EX_TEMPFAIL)

    def unreachable(self, place: Place) -> AbstractContextManager[None]:
        """Likewise, for its own outside is gone."""
        return self._faulty("before", os.EX_TEMPFAIL)

    def denied(self, place: Place) -> AbstractContextManager[None]:
        """Let it say that it lacks a right."""
        return self._faulty("before", os.EX_NOPERM)

    def reads_fail(self, place: Place) -> AbstractContextManager[None]:
        """Let it fail at verify only."""
        return self._faulty("verify", 1)

    def calls(self) -> int:
        """Count the runs."""
        runs = self._folder / "runs"
        return runs.stat().st_size if runs.exists() else 0

    @contextmanager
    def _faulty(self, when: str, code: int) -> Iterator[None]:
        fault, before = self._folder / "fault", self.calls()
        fault.write_text(f"{when} {code}")
        yield
        fault.unlink()
        assert self.calls() > before, "nothing was run"

    def read(self, place: Place) -> str | None:
        """Read what the program stored."""
        held = self._held().get(self._key(place))
        return held["secret"] if held else None

    def write(self, place: Place, secret: str) -> None:
        """Store it by hand."""
        self._put(self._key(place), {"mint_id": "by-hand", "secret": secret})

    def plant_neighbour(self, place: Place) -> None:
        """Store something under another key."""
        self._put("neighbour", {"mint_id": "x", "secret": "theirs"})

    def neighbour_is_whole(self, place: Place) -> bool:
        """Look at it."""
        return self._held()["neighbour"] == {"mint_id": "x", "secret": "theirs"}

    @contextmanager
    def broken(self, place: Place) -> Iterator[None]:
        """Take the right to execute it, which root heeds too."""
        self._program.chmod(0o644)
        yield
        self._program.chmod(0o755)

    def _held(self) -> dict[str, dict[str, str]]:
        return json.loads(self._store.read_text()) if self._store.exists() else {}

    def _put(self, key: str, entry: dict[str, str]) -> None:
        self._store.write_text(json.dumps({**self._held(), key: entry}))

    def _key(self, place: Place) -> str:
        return place.location.partition("#")[2]


class TestExecSink(SinkContract):
    """The shared contract, with a program that knows every action."""

    @pytest.fixture
    def harness(self, tmp_path: Path) -> Harness:
        """Return one with a program of its own."""
        return ExecHarness(tmp_path)


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"command": []}, "at least 1"),
        ({"command": ""}, "valid list"),
        ({"command": ["bin/put"]}, "absolute path, or a name"),
        ({"command": ["./put"]}, "absolute path, or a name"),
        ({"command": [""]}, "absolute path, or a name"),
        ({"command": ["/bin/a\nb"]}, "cannot be seen"),
        ({"command": ["put", "a\0b"]}, "zero byte"),
        ({"command": ["put", CANARY]}, "looks like a secret"),
        ({"environment": {"A": CANARY}}, "looks like a secret"),
        ({"environment": {"A-B": "x"}}, "letters, digits and _"),
        ({"environment": {"ROTATOR_ACTION": "x"}}, "choose another name"),
        ({"timeout": "soon"}, "not a duration"),
        ({"timeout": "0s"}, "longer than nothing"),
        ({"shell": True}, "shell"),
    ],
)
def test_wrong_options_are_refused_at_load(options: dict[str, object], message: str) -> None:
    """Every mistake is a validation error with its fix, which repeats no secret."""
    with pytest.raises(ValidationError, match=message) as caught:
        EXEC.Options(**{"command": ["put"], **options})
    assert "canary" not in str(caught.value)


def test_the_grade_is_none() -> None:
    """A policy that requires a stronger preflight does not take a program."""
    assert EXEC.PREFLIGHT_GRADE is Grade.NONE


def test_the_command_is_not_journalled(tmp_path: Path) -> None:
    """Whoever can write the journal cannot choose what is run."""
    sink = build(tmp_path / "put", "--flag")
    assert str(tmp_path) not in json.dumps(place_of(sink).options)
    assert place_of(sink).location == f"{tmp_path}/put#svc-airflow"


# Before anything is run


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.unlink(), "no such program"),
        (lambda path: path.chmod(0o644), "no such program that may be executed"),
        (lambda path: path.chmod(0o757), "everybody may write the program"),
        (lambda path: path.parent.chmod(0o777), "everybody may write the program's folder"),
        (lambda path: (path.unlink(), path.mkdir()), "no such program"),
    ],
)
def test_an_unusable_program_is_found_at_preflight_and_given_nothing(tmp_path: Path, spoil: Any, message: str) -> None:
    """Neither preflight nor delivery runs it, and both say what to do."""
    (tmp_path / "bin").mkdir()
    path = program(tmp_path / "bin", f"open({str(tmp_path / 'ran')!r}, 'w')")
    sink = build(path, preflight=True)
    spoil(path)
    with raising_without_secret(Permanent, match=rf"#svc-airflow: .*{message}"):
        sink.preflight(place_of(sink))
    with raising_without_secret(Permanent, match=message):
        sink.deliver(place_of(sink), mint())
    assert not (tmp_path / "ran").exists()


def test_links_do_not_hide_what_everybody_may_write(tmp_path: Path) -> None:
    """The file that would be run counts, not the link to it."""
    path = program(tmp_path, "", name="real")
    (tmp_path / "link").symlink_to(path)
    path.chmod(0o777)
    sink = build(tmp_path / "link")
    with raising_without_secret(Permanent, match="everybody may write the program"):
        sink.preflight(place_of(sink))


def test_a_link_that_everybody_may_replace_is_refused(tmp_path: Path) -> None:
    """A safe program behind a link in an open folder is none: tomorrow the link leads elsewhere."""
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    (tmp_path / "open" / "link").symlink_to(program(tmp_path, ""))
    sink = build(tmp_path / "open" / "link")
    with raising_without_secret(Permanent, match="everybody may write the program's folder"):
        sink.preflight(place_of(sink))


def test_a_name_is_looked_for_in_the_path_of_the_program(tmp_path: Path) -> None:
    """PATH may be set in the configuration; a relative entry of it never counts."""
    program(tmp_path, "import sys; sys.stdin.read()", name="put-it")
    sink = build("put-it", environment={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    sink.preflight(place_of(sink))
    sink.deliver(place_of(sink), mint())
    lost = build("put-it", environment={"PATH": ".:/usr/bin:/bin"})
    with raising_without_secret(Permanent, match="no such program"):
        lost.preflight(place_of(lost))


def test_a_missing_folder_is_found_at_preflight(tmp_path: Path) -> None:
    """A cwd that does not exist is said before a secret depends on it."""
    sink = build(program(tmp_path, ""), cwd=str(tmp_path / "missing"))
    with raising_without_secret(Permanent, match="cwd is not a folder"):
        sink.preflight(place_of(sink))


def test_preflight_runs_nothing_unless_wanted(tmp_path: Path) -> None:
    """A plain script that stores whatever it is given is never given a question."""
    path = program(tmp_path, f"open({str(tmp_path / 'ran')!r}, 'a').write('x')")
    sink = build(path)
    sink.preflight(place_of(sink))
    assert sink.read_back(place_of(sink)) == Held(None)
    assert not (tmp_path / "ran").exists()
    asking = build(path, preflight=True)
    asking.preflight(place_of(asking))
    assert (tmp_path / "ran").read_text() == "x"


@pytest.mark.parametrize("number", sorted(STARTS))
def test_every_reason_not_to_start_has_words(number: int) -> None:
    """An error number becomes a message that names the place and the number."""
    for failure in (delivery_failure, question_failure):
        error = failure("/p#k", End(Fate.UNSTARTED, number))
        assert type(error) is Permanent
        assert f"({errno.errorcode[number]})" in error.message


def test_a_script_without_an_interpreter_is_permanent(tmp_path: Path) -> None:
    """What the kernel refuses to execute is said with the fix."""
    path = tmp_path / "program"
    path.write_text("no shebang")
    path.chmod(0o755)
    sink = build(path)
    with raising_without_secret(Permanent, match="begin a script with #!"):
        sink.deliver(place_of(sink), mint())
    path.write_text("#!/no/such/interpreter\n")
    with raising_without_secret(Permanent, match="its interpreter"):
        sink.deliver(place_of(sink), mint())


def test_no_free_descriptor_is_temporary(tmp_path: Path) -> None:
    """When the process has too many files open nothing was run, and it may be tried again."""
    sink = build(program(tmp_path, ""))
    place = place_of(sink)
    sink.preflight(place)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(highest + 2 - len(os.listdir("/proc/self/fd")))]
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")), hard))
    try:
        with raising_without_secret(Temporary, match="EMFILE"):
            sink.deliver(place, mint())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in kept:
            os.close(descriptor)


# What the program sees

LOOK = """
    import json, os, resource, sys, threading
    from pathlib import Path
    given = sys.stdin.buffer.read()
    umask = os.umask(0)
    Path(__file__).with_name("saw.json").write_text(json.dumps({
        "given": given.decode(),
        "cmdline": Path("/proc/self/cmdline").read_bytes().decode().split("\\0"),
        "environ": Path("/proc/self/environ").read_bytes().decode(),
        "umask": umask,
        "core": resource.getrlimit(resource.RLIMIT_CORE)[0],
        "session": [os.getsid(0), os.getpgid(0), os.getpid()],
        "fds": sorted(os.listdir("/proc/self/fd")),
        "cwd": os.getcwd(),
        "out": [os.readlink("/proc/self/fd/1"), os.readlink("/proc/self/fd/2")],
    }))
"""


def test_the_secret_comes_on_standard_input_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line of JSON holds it; arguments, environment, folder, limits and descriptors are those that are promised."""
    monkeypatch.setenv("UNRELATED", "secret of ours")
    monkeypatch.setenv("LANG", "C.UTF-8")
    path = program(tmp_path, LOOK)
    odd = "a b; $(id) `id` 'x'"
    sink = build(path, odd, "--", cwd=str(tmp_path), environment={"REGION": "eu"})
    core = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (core[1], core[1]))  # as if somebody had asked for core dumps
    extra = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(extra, True)  # noqa: FBT003 - it takes no keywords
    try:
        sink.deliver(place_of(sink), mint())
    finally:
        os.close(extra)
        resource.setrlimit(resource.RLIMIT_CORE, core)
    saw = json.loads((tmp_path / "saw.json").read_text())
    line, end, rest = saw["given"].partition("\n")
    assert (end, rest) == ("\n", "")
    assert json.loads(line)["type"] == "token.deliver"
    assert json.loads(line)["data"] == {
        **facts(),
        "key": "svc-airflow",
        "lineage": "cltoken1",
        "mint_id": "mint-1",
        "rotation_id": "rotation-1",
        "rotated_at": "2026-03-05T05:06:07.890Z",
        "end_at": "2026-06-03T05:06:07.890Z",
        "fingerprint": "",
        "secret": CANARY,
    }
    assert saw["cmdline"][-4:] == [str(path), odd, "--", ""]
    variables = dict(entry.split("=", 1) for entry in saw["environ"].rstrip("\0").split("\0"))
    assert set(variables) <= {"PATH", "HOME", "LANG", "REGION", "ROTATOR_ACTION"}
    assert (variables["REGION"], variables["ROTATOR_ACTION"]) == ("eu", "deliver")
    assert "canary" not in saw["environ"] + "".join(saw["cmdline"])
    assert saw["umask"] == 0o077
    assert saw["core"] in (0, 1)
    assert len(set(saw["session"])) == 1
    assert saw["session"][0] != os.getsid(0)
    assert len(saw["fds"]) == 4, "0, 1, 2 and the one that lists them"
    assert saw["cwd"] == str(tmp_path)
    assert saw["out"] == ["/dev/null", "/dev/null"]


def test_our_own_core_limit_comes_back(tmp_path: Path) -> None:
    """Running a program leaves the limits of rotator as they were."""
    before = resource.getrlimit(resource.RLIMIT_CORE)
    sink = build(program(tmp_path, "import sys; sys.stdin.read()"))
    sink.deliver(place_of(sink), mint())
    assert resource.getrlimit(resource.RLIMIT_CORE) == before


def test_names_are_data_and_no_code(tmp_path: Path) -> None:
    """A shell script that is careful gets any name whole, and a careless one never sees it in its arguments."""
    path = program(tmp_path, f"read -r line\nprintf '%s' \"$line\" > {tmp_path}/got\n", shell=True)
    sink = build(path)
    name = "$(touch /tmp/x) `id` \n'; rm"
    sink.deliver(place_of(sink, name=name), mint())
    assert json.loads((tmp_path / "got").read_text())["data"]["name"] == name


# How it ends

CODES: list[tuple[int, type[RotatorError] | None, type[RotatorError] | None]] = [
    (0, None, None),
    (1, OutcomeUnknown, Temporary),
    (2, OutcomeUnknown, Temporary),
    (63, OutcomeUnknown, Temporary),
    (64, Permanent, Permanent),
    (69, Permanent, Permanent),
    (74, Permanent, Permanent),
    (75, Temporary, Temporary),
    (76, Permanent, Permanent),
    (77, Forbidden, Forbidden),
    (78, Permanent, Permanent),
    (79, OutcomeUnknown, Temporary),
    (126, OutcomeUnknown, Temporary),
    (127, OutcomeUnknown, Temporary),
    (255, OutcomeUnknown, Temporary),
]


@pytest.mark.parametrize(("code", "delivering", "asking"), CODES)
def test_every_exit_code_means_something(
    tmp_path: Path, code: int, delivering: type[RotatorError] | None, asking: type[RotatorError] | None
) -> None:
    """The code alone is the outcome, and what the program printed is nowhere."""
    text = f"cat\ncat >&2 <<END\n{CANARY}\nEND\nexit {code}\n"
    sink = build(program(tmp_path, text, shell=True), preflight=True)
    del text
    place = place_of(sink)
    for call, expected in ((lambda: sink.deliver(place, mint()), delivering), (lambda: sink.preflight(place), asking)):
        if expected is None:
            call()
            continue
        with raising_without_secret(expected, match=rf"#svc-airflow: .*\(exit {code}\)") as caught:
            call()
        assert type(caught.value) is expected


def test_every_code_has_a_meaning() -> None:
    """Nothing from 0 to 255 is left out, and only 0 is a success."""
    for code in range(256):
        for failure in (delivery_failure, question_failure):
            assert (failure("/p#k", End(Fate.EXITED, code)) is None) == (code == 0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_program_that_is_killed_leaves_a_delivery_in_doubt(tmp_path: Path, number: int) -> None:
    """Whoever killed it, it may have stored the secret."""
    sink = build(program(tmp_path, f"cat > /dev/null\nkill -{int(number)} $$\n", shell=True))
    with raising_without_secret(OutcomeUnknown, match=rf"signal {int(number)}; running it again is safe"):
        sink.deliver(place_of(sink), mint())
    assert not list(Path("/").glob("core*"))


def test_a_program_that_never_reads_has_no_secret(tmp_path: Path) -> None:
    """Exit 0 without reading the input is a mistake of the script, not a delivery."""
    sink = build(program(tmp_path, "exit 0\n", shell=True))
    with raising_without_secret(Permanent, match="without reading its whole input"):
        sink.deliver(place_of(sink), mint())


@pytest.mark.parametrize("text", ["exec <&-\nsleep 0.2\nexit 75\n", "exit 75\n", "head -c 1 > /dev/null\nexit 75\n"])
def test_a_program_that_does_not_listen_breaks_nothing(tmp_path: Path, text: str) -> None:
    """Closing the input or leaving before it was written ends as the exit code says, without SIGPIPE."""
    sink = build(program(tmp_path, text, shell=True))
    with raising_without_secret(Temporary, match=r"exit 75"):
        sink.deliver(place_of(sink), mint(CANARY + "x" * 1_000_000))


def test_a_large_secret_arrives_whole(tmp_path: Path) -> None:
    """More than a pipe holds is given as fast as the program reads, however slowly it begins."""
    sink = build(program(tmp_path, f"sleep 0.3\ncat > {tmp_path}/got\n", shell=True))
    sink.deliver(place_of(sink), mint("x" * 1_000_000))
    assert json.loads((tmp_path / "got").read_text())["data"]["secret"] == "x" * 1_000_000


@pytest.mark.parametrize("action", ["deliver", "verify"])
def test_much_output_neither_blocks_nor_is_kept(tmp_path: Path, action: str) -> None:
    """A mebibyte on both streams passes; of a verify's output only the start is looked at."""
    text = """
        import sys
        given = sys.stdin.read()
        for stream in (sys.stdout, sys.stderr):
            stream.write((given.strip() + "\\n") * (2**20 // len(given) + 1))
    """
    sink = build(program(tmp_path, text), verify=True)
    place = place_of(sink)
    if action == "deliver":
        sink.deliver(place, mint())
        return
    with raising_without_secret(Permanent, match="neither a mint id nor none") as caught:
        sink.read_back(place)
    assert not isinstance(caught.value, NotFound)


HANG = """
    import os, signal, sys, time
    from pathlib import Path
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.read()
    grandchild = os.fork()
    if grandchild:
        Path(__file__).with_name("pids").write_text(f"{os.getpid()} {grandchild}")
    time.sleep(600)
"""


@pytest.mark.parametrize("action", ["deliver", "preflight", "verify"])
def test_a_program_that_hangs_is_killed_with_all_its_children(tmp_path: Path, action: str) -> None:
    """After the timeout nobody of its process group lives, though they ignore SIGTERM and hold every pipe."""
    sink = build(program(tmp_path, HANG), timeout="1s", preflight=True, verify=True)
    place = place_of(sink)
    started_s = time.monotonic()
    calls = {
        "deliver": (OutcomeUnknown, lambda: sink.deliver(place, mint())),
        "preflight": (Temporary, lambda: sink.preflight(place)),
        "verify": (Temporary, lambda: sink.read_back(place)),
    }
    kind, call = calls[action]
    with raising_without_secret(kind, match="took too long and was killed"):
        call()
    assert time.monotonic() - started_s < 1 + _child.GRACE_S + 2
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 2
    assert not [pid for pid in pids if still(pid)]


def still(pid: int) -> bool:
    """Whether it lives a moment later: a killed orphan is reaped by whoever adopts it."""
    deadline = time.monotonic() + 2
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    return alive(pid)


def test_a_program_that_heeds_the_end_may_clean_up(tmp_path: Path) -> None:
    """SIGTERM comes first, so that a temporary file with the secret can be removed."""
    text = f"cat > {tmp_path}/draft\ntrap 'rm {tmp_path}/draft; exit 0' TERM\nwhile :; do sleep 0.05; done\n"
    sink = build(program(tmp_path, text, shell=True), timeout="0.5s")
    with raising_without_secret(OutcomeUnknown, match="took too long"):
        sink.deliver(place_of(sink), mint())
    assert not (tmp_path / "draft").exists()


@pytest.mark.parametrize("verify", [False, True])
def test_a_grandchild_that_holds_the_pipes_delays_nobody(tmp_path: Path, verify: bool) -> None:
    """The program's own end counts; what it left behind is killed, so nothing lives on with the secret."""
    text = f"cat > /dev/null\nsleep 600 &\necho $! > {tmp_path}/pid\necho mint-1\n"
    sink = build(program(tmp_path, text, shell=True), verify=verify)
    started_s = time.monotonic()
    if verify:
        assert sink.read_back(place_of(sink)).mint_id == "mint-1"
    else:
        sink.deliver(place_of(sink), mint())
    assert time.monotonic() - started_s < 5
    assert not still(int((tmp_path / "pid").read_text()))


def test_an_exit_code_that_somebody_else_took_is_no_success(tmp_path: Path) -> None:
    """With SIGCHLD ignored the kernel forgets exit codes: the outcome is unknown, not 0."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        sink = build(program(tmp_path, "cat > /dev/null\nexit 1\n", shell=True))
        with raising_without_secret(OutcomeUnknown, match="SIGCHLD"):
            sink.deliver(place_of(sink), mint())
    finally:
        signal.signal(signal.SIGCHLD, before)


# Reading back


def test_a_verify_that_is_not_understood_is_no_loss(tmp_path: Path) -> None:
    """Silence, and words that are no mint id, never count as "nothing there"."""
    for said in ("", "two words", "x" * 5000, "é"):
        sink = build(program(tmp_path, f"cat > /dev/null\nprintf '%s\\n' '{said}'\n", shell=True), verify=True)
        with raising_without_secret(Permanent, match="neither a mint id nor none") as caught:
            sink.read_back(place_of(sink))
        assert not isinstance(caught.value, NotFound)


def test_none_is_the_word_for_nothing(tmp_path: Path) -> None:
    """A program says itself that it holds nothing; lines before the last do not count."""
    sink = build(program(tmp_path, "cat > /dev/null\necho looking\necho none\n", shell=True), verify=True)
    with pytest.raises(NotFound):
        sink.read_back(place_of(sink))


def test_a_failed_verify_says_nothing_of_what_is_held(tmp_path: Path) -> None:
    """An exit code other than 0 is an error, whatever was printed."""
    sink = build(program(tmp_path, "cat > /dev/null\necho none\nexit 1\n", shell=True), verify=True)
    with raising_without_secret(Temporary, match="exit 1") as caught:
        sink.read_back(place_of(sink))
    assert not isinstance(caught.value, NotFound)


# While it runs


def test_nobody_reads_the_secret_from_the_process_table(tmp_path: Path) -> None:
    """While the program runs, neither its command line nor its environment, as others see them, hold the secret."""
    path = program(tmp_path, f"cat > /dev/null\n: > {tmp_path}/running\nwhile [ -e {tmp_path}/running ]; do :; done\n",
                   shell=True)  # fmt: skip
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parents[2])!r})
        from tests.sinks.test_exec import build, mint, place_of
        sink = build({str(path)!r})
        sink.deliver(place_of(sink), mint())
        print("delivered")
    """
    rotator = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE)
    deadline = time.monotonic() + 30
    while not (tmp_path / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    family = [rotator.pid, *map(int, Path(f"/proc/{rotator.pid}/task/{rotator.pid}/children").read_text().split())]
    shown = b"".join(Path(f"/proc/{pid}/{file}").read_bytes() for pid in family for file in ("cmdline", "environ"))
    (tmp_path / "running").unlink()
    out, _ = rotator.communicate(timeout=30)
    assert out == b"delivered\n"
    assert len(family) == 2
    assert b"canary" not in shown
    assert OTHER.encode() not in shown
