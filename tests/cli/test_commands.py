"""The commands as users run them: results, exit codes, and one clear sentence for what is wrong."""

import contextlib
import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.app import opened
from rotator.engine.desk import note
from rotator.engine.sweep import sweep as run_sweep
from rotator.errors import Temporary
from rotator.events import Event, EventName
from rotator.model import Outcome
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import Lab, lab, write_secret


def rotator(bench: Lab, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command with the bench's config, without a terminal."""
    options = [] if arguments[0] in ("audit", "demo", "schema") else ["--config", str(bench.config_path)]
    return subprocess.run(
        [sys.executable, "-m", "rotator", *arguments, *options],
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        env=os.environ | environment,
        timeout=120,
    )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time, six tokens, three of them due."""
    with lab(tmp_path, jumping=False) as made:
        yield made


def test_a_whole_round(bench: Lab) -> None:
    """check, plan, sweep, status, history and audit verify tell one story."""
    assert rotator(bench, "check", "--online").returncode == 0
    plan = rotator(bench, "plan", "--json", "--check")
    due = {row["token_id"] for row in json.loads(plan.stdout)["due"]}
    assert (plan.returncode, due) == (4, set(bench.due_ids()))
    swept = rotator(bench, "sweep", "--json")
    told = json.loads(swept.stdout)
    assert (swept.returncode, {row["token_id"] for row in told["settled"]}) == (0, due)
    assert told.keys() >= {"plan_id", "due", "refused", "rotated", "settled", "unsettled", "failed", "retired"}
    assert all(json.loads(line)["level"] for line in swept.stderr.splitlines())
    status = json.loads(rotator(bench, "status", "--json").stdout)["tokens"]
    assert {row["state"] for row in status} == {"fresh"}
    history = json.loads(rotator(bench, "history", "--json").stdout)["history"]
    assert {row["token_id"] for row in history if row["event"] == "rotation_settled"} == due
    audit = str(bench.folder / "audit.jsonl")
    proven = rotator(bench, "audit", "verify", audit, "--config", str(bench.config_path))
    assert (proven.returncode, "its tail is complete" in proven.stdout) == (0, True)
    lines = Path(audit).read_text().splitlines(keepends=True)
    Path(audit).write_text("".join(lines[:-2]))
    assert rotator(bench, "audit", "verify", audit, "--config", str(bench.config_path)).returncode == 1
    assert rotator(bench, "plan", "--check").returncode == 0


def test_plan_and_status_write_nothing(bench: Lab) -> None:
    """Looking leaves the folder as it was."""
    before = sorted(bench.folder.rglob("*"))
    assert rotator(bench, "plan").returncode == 0
    assert rotator(bench, "status").returncode == 0
    assert rotator(bench, "sweep", "--dry-run").returncode == 0
    assert sorted(bench.folder.rglob("*")) == before


def test_simulate_looks_ahead_and_changes_nothing(bench: Lab) -> None:
    """The calendar of a hundred days holds what is due now and what comes due; nothing is rotated or written."""
    before = sorted(bench.folder.rglob("*"))
    run = rotator(bench, "simulate", "--days", "100", "--json")
    told = json.loads(run.stdout)
    assert run.returncode == 0, run.stderr
    assert told["calendar"][0]["rotations"] == len(bench.due_ids())
    assert told["rotations"] == sum(day["rotations"] for day in told["calendar"]) >= told["selected"]["services"]
    assert told["peaks"][0]["requests"]["post"] == told["peaks"][0]["rotations"] > 0
    assert (told["refused"], told["missed_windows"], told["expiring"]) == ([], [], [])
    shown = rotator(bench, "simulate", "--days", "100")
    assert "busiest at" in shown.stdout
    assert sorted(bench.folder.rglob("*")) == before
    assert not any(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens)


def test_simulate_names_what_would_go_wrong(bench: Lab) -> None:
    """Windows that no sweep meets and plans that the brake refuses are said in words and in JSON."""
    text = bench.config_path.read_text().replace("max_rotations = 10000", "max_rotations = 1")
    bench.config_path.write_text(text)
    assert "REFUSED by the brake" in rotator(bench, "simulate").stdout
    assert json.loads(rotator(bench, "simulate", "--json").stdout)["refused"][0]["policy"] == "services"
    timed = '[policies.services]\nschedule = "0 12 * * *"\nwindows = ["02:00-05:00"]\n'
    bench.config_path.write_text(text.replace("[policies.services]\n", timed))
    assert "MISSED WINDOWS: 3" in rotator(bench, "simulate", "--days", "31").stdout
    assert json.loads(rotator(bench, "simulate", "--json").stdout)["rotations"] == 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ('base_url = "https://api.example.com/v1"', "providers.astro.base_url: must not name a version"),
        ('base_url = "http://api.example.com"', "providers.astro.base_url: must be https"),
        ('proxy = "proxy:3128"', "providers.astro.proxy: must be a URL"),
        ('base_url = "https://x.invalid"\nca_bundle = "/no.pem"', "providers.astro.ca_bundle: /no.pem cannot be read"),
    ],
)
def test_check_finds_an_endpoint_that_cannot_be_used(bench: Lab, wrong: str, said: str) -> None:
    """Without contacting anybody; so a pipeline that checks finds what every other command would refuse."""
    text = re.sub(r"^base_url = .*$", "", bench.config_path.read_text(), count=1, flags=re.MULTILINE)
    bench.config_path.write_text(text.replace("[providers.astro]\n", f"[providers.astro]\n{wrong}\n"))
    run = rotator(bench, "check")
    assert (run.returncode, said in run.stderr, run.stdout) == (2, True, "")


@pytest.mark.parametrize("arguments", [("check",), ("status", "--json"), ("sweep",)])
def test_an_output_that_is_full_is_no_bug(bench: Lab, arguments: tuple[str, ...]) -> None:
    """It says what cannot be written; what was to be done is done."""
    command = [sys.executable, "-m", "rotator", *arguments, "--config", str(bench.config_path)]
    with Path("/dev/full").open("w") as full:
        run = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert (run.returncode, "rotator: standard output: No space left" in run.stderr) == (1, True)
    assert arguments != ("sweep",) or all(bench.delivered(token_id) for token_id in bench.due_ids())


@pytest.mark.parametrize("command", ["tokens list", "history nope"])
def test_what_cannot_be_listed_leaves_no_half_document(bench: Lab, command: str) -> None:
    """An error before the first row writes nothing to standard output."""
    text = bench.config_path.read_text().replace(bench.sandbox.url, "http://127.0.0.1:1")
    bench.config_path.write_text(text)
    run = rotator(bench, *command.split(), "--json")
    assert (run.returncode, run.stdout) == (2 if "nope" in command else 1, "")
    assert ("http://127.0.0.1:1: Connection refused" in run.stderr) == ("nope" not in command)


def test_check_warns_of_sweeps_too_far_apart(bench: Lab) -> None:
    """A rhythm slower than the emergency margin or before_expiry is named; the exit code stays 0."""
    text = bench.config_path.read_text()
    assert "warning" not in rotator(bench, "check").stdout
    timed = '[policies.services]\nwindows = ["sat 02:00-05:00"]\n'
    text = text.replace("[policies.services]\n", timed)
    bench.config_path.write_text(text.replace('max_age = "90d"', 'max_age = "90d"\nbefore_expiry = "6d"'))
    run = rotator(bench, "check")
    assert run.returncode == 0
    assert "warning: policy services: the longest time between two sweeps that may rotate is 6d 2" in run.stdout
    assert "longer than before_expiry, 6d" in run.stdout
    assert "longer than emergency, 2d" in run.stdout


def test_a_token_outside_its_window_is_skipped_by_a_sweep(bench: Lab) -> None:
    """A sweep at the wrong hour rotates nothing and says when the window opens."""
    hour = (datetime.now(UTC) + timedelta(hours=6)).hour
    timed = f'[policies.services]\nwindows = ["{hour:02}:00-{hour:02}:30"]\n'
    bench.config_path.write_text(bench.config_path.read_text().replace("[policies.services]\n", timed))
    run = rotator(bench, "plan", "--json")
    held = [row for row in json.loads(run.stdout)["skipped"] if row["reason"] == "window"]
    assert {row["token_id"] for row in held} == set(bench.due_ids())
    assert all("next open" in row["message"] for row in held)
    swept = json.loads(rotator(bench, "sweep", "--json").stdout)
    assert (swept["rotated"], swept["due"]) == ([], [])


def break_credential(bench: Lab) -> None:
    write_secret(bench.folder / "credential", "a.b.c")


def no_credential(bench: Lab) -> None:
    (bench.folder / "credential").unlink()


def weak_credential(bench: Lab) -> None:
    weak = next(t for t in bench.sandbox.store.tokens.values() if t.name.startswith("svc-"))
    write_secret(bench.folder / "credential", bench.sandbox.store.secret_of(weak.id))


def other_organization(bench: Lab) -> None:
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace(bench.sandbox.organization_id, "clother"))


def organization_of_another_journal(bench: Lab) -> None:
    bench.config_path.write_text(bench.config_path.read_text().replace('"90d"', '"9000d"', 1))
    rotator(bench, "sweep")
    bench.config_path.write_text(bench.config_path.read_text().replace('"9000d"', '"90d"', 1))
    other_organization(bench)


def file_for_a_folder(bench: Lab) -> None:
    (bench.folder / "secrets").write_text("not a folder")


def damaged_journal(bench: Lab) -> None:
    (bench.folder / "rotator.db").write_bytes(b"garbage" * 999)


def wrong_key(bench: Lab) -> None:
    rotator(bench, "settle")
    (bench.folder / "rotator.key").write_text("QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=")


def no_api(bench: Lab) -> None:
    bench.config_path.write_text(bench.config_path.read_text().replace(bench.sandbox.url, "http://127.0.0.1:9"))


def no_audit(bench: Lab) -> None:
    (bench.folder / "audit.jsonl").mkdir()


@pytest.mark.parametrize(
    ("sabotage", "code", "said"),
    [
        (break_credential, 5, "credential"),
        (no_credential, 2, "credential"),
        (weak_credential, 2, "right"),
        (other_organization, 2, "list"),
        (organization_of_another_journal, 2, "providers.astro.organization_id"),
        (file_for_a_folder, 1, "secrets"),
        (damaged_journal, 2, "rotator.db"),
        (wrong_key, 2, "rotator.key"),
        (no_api, 1, "no connection"),
        (no_audit, 1, "audit"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(bench: Lab, sabotage: object, code: int, said: str) -> None:
    """Each broken surrounding: its exit code, its name, no traceback, nothing rotated."""
    sabotage(bench)  # type: ignore[operator]
    run = rotator(bench, "sweep", "--json")
    assert (run.returncode, "Traceback" in run.stderr) == (code, False), run.stderr
    assert said in run.stderr + run.stdout
    assert not any(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens)


def test_the_brake_exits_3_and_its_plan_can_be_accepted(bench: Lab) -> None:
    """A refused plan names its id; accepting it rotates; plan says the same."""
    bench.config_path.write_text(bench.config_path.read_text().replace("max_rotations = 10000", "max_rotations = 1"))
    assert rotator(bench, "plan").returncode == 3
    refused = rotator(bench, "sweep", "--json")
    told = json.loads(refused.stdout)
    assert (refused.returncode, len(told["refused"]), told["rotated"]) == (3, 1, [])
    assert rotator(bench, "sweep", "--accept", told["plan_id"]).returncode == 0


def test_an_unsettled_rotation_exits_1_and_is_shown(bench: Lab) -> None:
    """A lost answer is unsettled, visible in status, and the exit code asks for another run."""
    bench.sandbox.script("rotate", Fault.RESET_AFTER)
    swept = rotator(bench, "sweep", "--json")
    assert (swept.returncode, len(json.loads(swept.stdout)["unsettled"])) == (1, 1)
    states = [row["state"] for row in json.loads(rotator(bench, "status", "--json").stdout)["tokens"]]
    assert states.count("unsettled") == 1


def test_sigterm_finishes_what_has_begun(tmp_path: Path) -> None:
    """A polite stop in the middle of a sweep exits 130 with every rotation settled or journalled."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=200, limits=False, latency_s=0.05), jumping=False) as bench:
        command = [sys.executable, "-m", "rotator", "sweep", "--json", "--config", str(bench.config_path)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        while process.poll() is None and not any(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=60)
        settled = {row["token_id"] for row in json.loads(out)["settled"]}
        posted = {i for i in bench.sandbox.store.tokens if bench.sandbox.store.posts(i)}
        assert process.returncode == 130
        assert settled == posted
        assert 0 < len(posted) < len(bench.due_ids())


def test_hostile_names_never_reach_the_terminal(tmp_path: Path) -> None:
    """Names with escapes, newlines, slashes and 256 characters: shown escaped, delivered inside the folder."""
    sandbox = SandboxConfig(tokens=24, limits=False, hostile_names=True)
    with lab(tmp_path, sandbox=sandbox, jumping=False) as bench:
        text = bench.config_path.read_text().replace('names = ["svc-*"]', 'names = ["*"]')
        bench.config_path.write_text(text.replace("{token_id}", "{scope}/{name}"))
        outputs = [
            rotator(bench, *words) for words in (["plan"], ["sweep"], ["status"], ["history"], ["plan", "--json"])
        ]
        assert [run.returncode for run in outputs] == [0, 0, 0, 0, 0], [run.stderr for run in outputs]
        for run in outputs:
            shown = run.stdout + run.stderr
            assert not [c for c in shown if ord(c) < 32 and c not in "\n\t"]
            assert "\u202e" not in shown
        files = [path for path in (bench.folder / "secrets").rglob("*") if path.is_file()]
        assert len(files) > 8
        assert all(bench.sandbox.store.is_alive(path.read_text()) for path in files)


def test_the_demo_works_twice(bench: Lab, tmp_path: Path) -> None:
    """rotator demo needs nothing, rotates, says where everything is, and can be run again."""
    for _ in range(2):
        run = rotator(bench, "demo", TMPDIR=str(tmp_path))
        assert run.returncode == 0, run.stderr
        assert "12 rotated, 12 settled" in run.stdout
        assert "rotator check --online" in run.stdout


def test_debug_alone_shows_tracebacks(bench: Lab) -> None:
    """Without --debug there is one sentence, with it the frames, never local variables."""
    break_credential(bench)
    run = subprocess.run(
        [sys.executable, "-m", "rotator", "--debug", "plan", "--config", str(bench.config_path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" in run.stderr
    assert "a.b.c" not in run.stderr


def unheard(bench: Lab) -> subprocess.CompletedProcess[str]:
    """Sweep with a standard error that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "rotator", "sweep", "--json", "--config", str(bench.config_path)]
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=writing, text=True, check=False, timeout=60)
    finally:
        os.close(writing)


def test_an_error_that_nobody_reads_still_decides_the_exit_code(bench: Lab) -> None:
    """A dead credential exits 5, and the JSON names it, whether or not its sentence reached anybody."""
    break_credential(bench)
    run = unheard(bench)
    assert (run.returncode, len(json.loads(run.stdout)["errors"])) == (5, 1)


def test_a_broken_standard_error_stops_no_rotation(bench: Lab) -> None:
    """`rotator sweep 2>&1 | head`: nobody reads the log any more, and every due token is rotated all the same."""
    due = set(bench.due_ids())
    run = unheard(bench)
    assert run.returncode == 0
    assert {row["token_id"] for row in json.loads(run.stdout)["settled"]} == due


@pytest.mark.parametrize("stream", [1, 2])
def test_a_stream_that_was_closed_before_stops_no_rotation(bench: Lab, stream: int) -> None:
    """`rotator sweep 2>&-`: every due token is rotated, and no file of ours stands where the stream stood."""
    due = len(bench.due_ids())
    command = [sys.executable, "-m", "rotator", "sweep", "--config", str(bench.config_path)]
    closing = ["sh", "-c", f'exec {stream}>&-; exec "$@"', "sh", *command]
    run = subprocess.run(closing, capture_output=True, text=True, check=False, timeout=60)
    assert run.returncode == 0
    events = [json.loads(line)["event"] for line in (bench.folder / "audit.jsonl").read_text().splitlines()]
    assert events.count("rotation_settled") == due


@pytest.mark.parametrize("words", [["nonsense"], ["--nonsense"], ["schema", "nonsense"]])
def test_a_usage_error_that_nobody_reads_exits_2(words: list[str]) -> None:
    """As one that somebody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    run = subprocess.run([sys.executable, "-m", "rotator", *words], stderr=writing, check=False, timeout=60)
    os.close(writing)
    assert run.returncode == 2


def test_what_could_not_be_said_does_not_change_the_exit_code() -> None:
    """Words left in a buffer that nobody will read: the interpreter alone would exit with 120."""
    reading, writing = os.pipe()
    os.close(reading)
    buffered = "import sys; sys.stderr = open(2, 'w', closefd=False); sys.argv[1:] = ['nonsense']"
    command = [sys.executable, "-c", f"{buffered}; from rotator.__main__ import main; main()"]
    run = subprocess.run(command, stderr=writing, check=False, timeout=60)
    os.close(writing)
    assert run.returncode == 2


class Broken(io.StringIO):
    """A stream that nobody reads."""

    def write(self, text: str) -> int:
        """Refuse."""
        raise BrokenPipeError


def test_a_listener_that_fails_stops_no_rotation(bench: Lab) -> None:
    """A listener may raise, and standard error be broken as well: the engine does not notice."""

    def failing(event: Event) -> None:
        raise RuntimeError(event.name)

    due = set(bench.due_ids())
    with contextlib.redirect_stderr(Broken()), opened(bench.config, "test", [failing], writing=True) as app:
        report = run_sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
    assert {result.token_id for result in report.results if result.outcome is Outcome.SETTLED} == due


def test_every_sweep_is_in_the_audit_with_the_digest_of_its_config(bench: Lab) -> None:
    """config_loaded, sweep_started and sweep_finished are audited also where nothing is due; the log stays silent."""
    rotator(bench, "sweep")
    before = len((bench.folder / "audit.jsonl").read_text().splitlines())
    ran = rotator(bench, "sweep")
    rows = [json.loads(line) for line in (bench.folder / "audit.jsonl").read_text().splitlines()[before:]]
    assert [row["event"] for row in rows] == ["config_loaded", "sweep_started", "sweep_finished"]
    assert hashlib.sha256(bench.config_path.read_bytes()).hexdigest() in rows[0]["message"]
    assert (rows[2]["policy"], rows[2]["outcome"], ran.stderr) == ("services", "settled", "")


def test_a_journal_that_is_full_does_not_stop_a_sweep_at_its_first_line(bench: Lab) -> None:
    """Where the start of a sweep cannot be noted, that is told and the sweep goes on to recover what it can."""
    told: list[Event] = []

    class Full:
        def write(self, _: object) -> None:
            raise Temporary("the journal is full")

    note(Full(), told.append, Event(name=EventName.SWEEP_STARTED, at=datetime.now(UTC)))  # type: ignore[arg-type]
    assert [(event.name, event.message) for event in told] == [(EventName.JOURNAL_FAILED, "the journal is full")]
