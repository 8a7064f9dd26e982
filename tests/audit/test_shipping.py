"""The audit trail over HTTP: at least once, in order, whatever the receiver, the network and log rotation do."""

import gzip
import json
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.audit import AuditFile, Author, Head, Shipped
from rotator.audit.shipping import Receiver, Shipper
from rotator.config import parse
from rotator.errors import ConfigError
from rotator.events import Event, EventName
from rotator.journal.sqlite import SqliteJournal
from rotator.ports import Write
from rotator.secret import Secret
from tests.audit.test_rotated import turned
from tests.audit.trail import event, journal, say
from tests.cli.running import rotator
from tests.lab import JumpingClock, lab
from tests.servers.audit import AuditReceiver
from tests.servers.webhook import Fault, serving
from tests.sinks.test_vault import certified

CANARY = "canary-9b1e-bearer"


@contextmanager
def receiving(**settings: object) -> Iterator[AuditReceiver]:
    with serving(AuditReceiver(**settings)) as receiver:  # type: ignore[arg-type]
        assert isinstance(receiver, AuditReceiver)
        yield receiver


class Bench:
    """A journal, a receiver and a shipper whose clock jumps."""

    def __init__(self, folder: Path, opened: SqliteJournal, receiver: AuditReceiver) -> None:
        self.folder = folder
        self.journal = opened
        self.receiver = receiver
        self.clock = JumpingClock()
        self.events: list[Event] = []

    def shipper(self, batch: int = 10, url: str = "") -> Shipper:
        """A shipper as after a restart."""
        target = Receiver(
            url or f"{self.receiver.url}/audit", lambda: Secret(CANARY), batch=batch, timeout=timedelta(seconds=1)
        )
        return Shipper(self.folder / "audit.jsonl", target, self.journal, self.clock, self.events.append)

    @property
    def told(self) -> list[str]:
        """What was said."""
        return [f"{event.name}: {event.message}" for event in self.events]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with receiving(token=CANARY) as receiver, journal(tmp_path) as opened:
        yield Bench(tmp_path, opened, receiver)


def test_every_line_arrives_once_and_in_order(bench: Bench) -> None:
    """Lines go out byte by byte as they lie in the file, in batches, also across a restart."""
    say(bench.journal, 1, 25)
    assert bench.shipper().ship() == 25
    assert [len(seen.body.splitlines()) for seen in bench.receiver.seen] == [10, 10, 5]
    assert bench.shipper().ship() == 0
    say(bench.journal, 26, 2)
    assert bench.shipper().ship() == 2
    assert bench.receiver.lines == (bench.folder / "audit.jsonl").read_text().splitlines()
    last = bench.journal.audit_head()
    assert last is not None
    assert bench.receiver.keys_seen[-1] == f"26-27-{last.hash}"
    assert bench.told == []


@pytest.mark.parametrize("style", ["rename", "create", "compressed", "copytruncate", "dated"])
def test_log_rotation_loses_nothing(bench: Bench, style: str) -> None:
    """What waits is found where logrotate has put it, and the rest in the new file."""
    say(bench.journal, 1, 7)
    shipper = bench.shipper(batch=3)
    bench.receiver.is_down = True
    assert shipper.ship() == 0
    turned(bench.folder, style)
    say(bench.journal, 8, 7)
    bench.receiver.is_down = False
    bench.clock.jump(timedelta(minutes=6))
    assert shipper.ship() == 14
    assert bench.receiver.seqs == list(range(1, 15))
    assert [event.name for event in bench.events] == [EventName.AUDIT_SHIPPING_FAILED]


def test_a_file_that_is_being_packed_is_read_from_the_one_that_is_whole(bench: Bench) -> None:
    """Half a .gz beside its plain file, and the .gz of older lines, hold nothing up."""
    path = bench.folder / "audit.jsonl"
    say(bench.journal, 1, 4)
    (bench.folder / "audit.jsonl.2.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    say(bench.journal, 5, 4)
    shutil.move(path, bench.folder / "audit.jsonl.1")
    whole = gzip.compress((bench.folder / "audit.jsonl.1").read_bytes())
    (bench.folder / "audit.jsonl.1.gz").write_bytes(whole[: len(whole) // 2])
    say(bench.journal, 9, 4)
    AuditFile(bench.folder / "audit-other.jsonl", Author("other", "i")).append([event(1)], None, durable=False)
    assert bench.shipper().ship() == 12
    assert bench.receiver.seqs == list(range(1, 13))
    assert bench.told == []


def test_lines_that_are_gone_are_told_and_skipped(bench: Bench) -> None:
    """Lines that nobody has any more are named once, in the trail itself too, and the rest goes out."""
    path = bench.folder / "audit.jsonl"
    say(bench.journal, 1, 2)
    assert bench.shipper().ship() == 2
    say(bench.journal, 3, 2)
    path.unlink()
    say(bench.journal, 5, 2)
    assert bench.shipper().ship() == 2
    assert bench.told == [
        "audit_lines_missing: the audit lines seq 3 to 4 are in no file any more, so the receiver never got them"
    ]
    assert bench.shipper().ship() == 1
    assert bench.receiver.seqs == [1, 2, 5, 6, 7]
    assert '"event":"audit_lines_missing"' in bench.receiver.lines[-1]


def test_a_trail_that_was_rotated_before_shipping_began_is_no_gap(bench: Bench) -> None:
    """The first time it starts with the oldest line there is."""
    say(bench.journal, 1, 3)
    (bench.folder / "audit.jsonl").unlink()
    say(bench.journal, 4, 2)
    assert (bench.shipper().ship(), bench.told) == (2, [])


FAILURES = {
    "refused": (Fault(401, echoes=True), "it does not accept our token (401); check audit.http.token"),
    "redirected": (Fault(307, headers={"Location": "http://127.0.0.1:1/"}), "redirected (307)"),
    "page": (Fault(200, headers={"Content-Type": "text/html"}, body=b"<html>"), "a web page answered (200)"),
    "broken": (Fault(500, echoes=True), "it did not acknowledge (500)"),
    "late": (Fault(how="hang"), "no complete answer in time"),
    "dripping": (Fault(how="drip"), "no complete answer in time"),
    "reset": (Fault(how="reset"), "the connection broke"),
    "cut": (Fault(how="cut"), "the connection broke"),
    "garbage": (Fault(how="garbage"), "the answer is not HTTP"),
    "huge": (Fault(how="huge"), "the answer is larger"),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("commits", [False, True])
def test_a_failed_request_is_repeated_as_it_was(bench: Bench, failure: str, commits: bool) -> None:
    """Also where the receiver took the lines and nobody learnt it: the same lines, the same key, nothing twice."""
    fault, said = FAILURES[failure]
    say(bench.journal, 1, 4)
    bench.receiver.faults = [Fault(**{**vars(fault), "commits": commits})]
    shipper = bench.shipper()
    assert shipper.ship() == 0
    say(bench.journal, 5, 3)  # would make the batch longer
    assert shipper.ship() == 0, "it does not wait"
    bench.clock.jump(timedelta(seconds=2))
    assert bench.shipper().ship() == 7
    keys = [seen.headers["idempotency-key"] for seen in bench.receiver.seen]
    assert keys[0] == keys[1]
    assert bench.receiver.seqs == [1, 2, 3, 4, 5, 6, 7]
    [told] = bench.told
    assert said in told
    assert told.endswith("; the lines wait in the audit file")
    assert CANARY not in told
    assert "/audit" not in told.replace("audit.http", "")


def test_waits_grow_and_retry_after_is_kept(bench: Bench) -> None:
    """1, 2, 4 seconds and on to five minutes; longer where the receiver asks for it; from the start after a success."""
    say(bench.journal, 1)
    shipper = bench.shipper()
    bench.receiver.is_down = True
    waits = []
    for _ in range(12):
        shipper.ship()
        sent, waited = len(bench.receiver.seen), 0
        while len(bench.receiver.seen) == sent:
            bench.clock.jump(timedelta(seconds=1))
            waited += 1
            shipper.ship()
        waits.append(waited)
    assert waits[:4] == [1, 2, 4, 8] or waits[:4] == [1, 2, 4, 7], waits
    assert max(waits) <= 300
    bench.receiver.is_down = False
    bench.receiver.faults = [Fault(503, headers={"Retry-After": "280"})]
    bench.clock.jump(timedelta(minutes=6))
    shipper = bench.shipper()
    assert shipper.ship() == 0
    bench.clock.jump(timedelta(seconds=270))
    assert shipper.ship() == 0
    bench.clock.jump(timedelta(seconds=12))
    assert shipper.ship() == 1


def test_a_receiver_with_a_smaller_limit_gets_smaller_requests(tmp_path: Path) -> None:
    """413 halves the batch at once, so that a process which lives for one sweep comes through too."""
    with receiving(largest=2000) as receiver, journal(tmp_path) as opened:
        bench = Bench(tmp_path, opened, receiver)
        say(opened, 1, 40)
        assert bench.shipper(batch=40).ship() == 40
        assert receiver.seqs == list(range(1, 41))
        assert bench.told == []
        receiver.largest = 10
        say(opened, 41)
        assert bench.shipper().ship() == 0
        assert "(413)" in bench.told[0]


def test_only_committed_lines_leave(bench: Bench) -> None:
    """A line that may still be taken back is not shipped."""
    say(bench.journal, 1, 2)
    trail = AuditFile(bench.folder / "audit.jsonl", Author("dies", "i"))
    trail.append([event(3)], bench.journal.audit_head(), durable=True)
    with (bench.folder / "audit.jsonl").open("a") as stream:
        stream.write('{"seq":4')
    assert bench.shipper().ship() == 2
    say(bench.journal, 4)
    assert bench.shipper().ship() == 2
    assert bench.receiver.seqs == [1, 2, 3, 4]


def test_one_process_ships_at_a_time(bench: Bench) -> None:
    """While one ships, another one does nothing, for two would mix up the order."""
    say(bench.journal, 1, 3)
    other = bench.shipper()
    shipped: list[int] = []
    bench.receiver.answer = lambda _: (shipped.append(other.ship()), (204, b""))[1]  # type: ignore[method-assign]
    assert bench.shipper().ship() == 3
    assert shipped == [0]


def test_a_shipper_that_was_stopped_ends_after_its_request(bench: Bench) -> None:
    """`stop` comes from another thread; what was acknowledged is remembered."""
    say(bench.journal, 1, 9)
    shipper = bench.shipper(batch=3)
    bench.receiver.answer = lambda _: (shipper.stop(), (204, b""))[1]  # type: ignore[method-assign,func-returns-value]
    assert (shipper.ship(), shipper.ship()) == (3, 0)
    assert bench.journal.audit_shipped() == Shipped(bench.journal.audit_shipped().head)  # type: ignore[union-attr]


def characters_read() -> int:
    """How much this process has read."""
    counters = Path("/proc/self/io")
    if not counters.exists():
        pytest.skip("the kernel does not count what a process reads")
    return int(counters.read_text().split()[1])


def test_a_line_in_a_large_file_is_found_at_once(bench: Bench) -> None:
    """Of a file of a hundred thousand lines only a small part is read to find where to go on."""
    events = tuple(event(n, "x" * 100) for n in range(100_000))
    for start in range(0, len(events), 10_000):
        bench.journal.write(Write(events=events[start : start + 10_000], durable=False))
    head = bench.journal.audit_head()
    assert head is not None
    lines = (bench.folder / "audit.jsonl").read_text().splitlines()
    record = json.loads(lines[99_899])
    bench.journal.mark_shipped(Shipped(Head(record["seq"], record["hash"])))
    before = characters_read()
    assert bench.shipper(batch=500).ship() == 100
    assert characters_read() - before < 4 << 20
    assert bench.receiver.seqs == list(range(99_901, 100_001))


def test_an_untrusted_certificate_gets_nothing(tmp_path: Path) -> None:
    """TLS is verified against ca_bundle; without it, nothing leaves and the sentence names the key."""
    tls, bundle = certified(tmp_path)
    with serving(AuditReceiver(), tls) as receiver, journal(tmp_path) as opened:
        assert isinstance(receiver, AuditReceiver)
        bench = Bench(tmp_path, opened, receiver)
        say(opened, 1)
        assert bench.shipper().ship() == 0
        assert "certificate is not trusted" in bench.told[0]
        target = Receiver(receiver.url, None, str(bundle))
        assert Shipper(tmp_path / "audit.jsonl", target, opened, bench.clock, bench.events.append).ship() == 1
        assert receiver.seqs == [1]


KILLED = """
import sys
from datetime import timedelta
from pathlib import Path
from rotator.audit.shipping import Receiver, Shipper
from rotator.clock import SystemClock
from tests.audit.trail import journal
folder = Path(sys.argv[1])
with journal(folder) as opened:
    target = Receiver(sys.argv[2], batch=7, timeout=timedelta(seconds=20))
    Shipper(folder / "audit.jsonl", target, opened, SystemClock(), print).ship()
"""


@pytest.mark.parametrize("commits", [False, True])
def test_kill_9_in_the_middle_of_a_request_loses_and_doubles_nothing(tmp_path: Path, commits: bool) -> None:
    """Wherever it dies, with or without effect: the next process sends the same request again, then the rest."""
    with receiving() as receiver:
        with journal(tmp_path) as opened:
            say(opened, 1, 30)
        for number in (0, 1, 2):
            receiver.faults = [Fault(how="hang", commits=commits)]
            before = len(receiver.seen)
            process = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), receiver.url])
            while len(receiver.seen) == before or receiver.faults:
                time.sleep(0.01)
            time.sleep(0.1 * number)
            process.send_signal(signal.SIGKILL)
            assert process.wait() == -signal.SIGKILL
            with journal(tmp_path) as opened:
                say(opened, 31 + number)
        with journal(tmp_path) as opened:
            bench = Bench(tmp_path, opened, receiver)
            assert bench.shipper(batch=50).ship() == 33
    assert receiver.seqs == list(range(1, 34))
    keys = [seen.headers["idempotency-key"] for seen in receiver.seen]
    assert set(keys[:4]) == {keys[0]}


def configured(bench_config: Path, url: str) -> None:
    text = bench_config.read_text()
    bench_config.write_text(f'{text}\n[audit.http]\nurl = "{url}/audit"\ntoken = "env:AUDIT_TOKEN"\n')


def test_a_sweep_ships_its_lines_and_a_dead_receiver_changes_nothing(tmp_path: Path) -> None:
    """`rotator sweep` ships after its work; when the receiver is down the exit code stays, and a log line says it."""
    with receiving(token=CANARY) as receiver, lab(tmp_path, jumping=False) as bench:
        configured(bench.config_path, receiver.url)
        receiver.is_down = True
        down = rotator(bench, "sweep", "--yes", AUDIT_TOKEN=CANARY)
        assert down.returncode == 0, down.stderr
        assert "audit_shipping_failed" in down.stderr
        assert receiver.lines == []
        receiver.is_down = False
        up = rotator(bench, "sweep", "--yes", AUDIT_TOKEN=CANARY)
        assert (up.returncode, "audit_shipping_failed" in up.stderr) == (0, False), up.stderr
        assert receiver.lines == (tmp_path / "audit.jsonl").read_text().splitlines()
        unset = rotator(bench, "sweep", "--yes")
        assert (unset.returncode, "AUDIT_TOKEN is not set" in unset.stderr) == (0, True), unset.stderr
        said = "".join(run.stdout + run.stderr for run in (down, up, unset))
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert CANARY not in said
        assert not [path for path in files if CANARY.encode() in path.read_bytes()]


RAW = """
[providers.astro]
type = "astro"
organization_id = "org"
credential = "env:X"
[sinks.files]
type = "file"
directory = "s"
[policies.p]
select = {{ scopes = ["workspace"] }}
when = {{ max_age = "90d" }}
deliver = [{{ sink = "files", path = "x" }}]
[audit]
{audit}
"""


@pytest.mark.parametrize(
    ("audit", "problem"),
    [
        ('path = "-"\nhttp.url = "https://a.example"', "audit.http: ships lines from a file"),
        ('http.url = "http://a.example/canary-x"', "audit.http.url: must be https"),
        ('http.url = "https://user:canary-x@a.example"', "audit.http.url: must not hold a user"),
        ('http.url = "https://a.example/?k=canary-x"', "audit.http.url: must not hold a user, a query"),
        ('http.url = "https://a.example"\nhttp.token = "canary-x"', "audit.http.token: is not a secret reference"),
        ('http.url = "https://a.example"\nhttp.batch = 0', "audit.http.batch"),
        ('http.urls = "canary-x"', "unknown key; did you mean 'url'?"),
    ],
)
def test_a_wrong_table_is_a_config_error(tmp_path: Path, audit: str, problem: str) -> None:
    """Each is named with its place, and nothing that may be a secret is repeated."""
    with pytest.raises(ConfigError) as caught:
        parse(tomllib.loads(RAW.format(audit=audit)), tmp_path)
    assert problem in caught.value.message
    assert "canary" not in caught.value.message
