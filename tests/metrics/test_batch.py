"""Metrics of commands that end: a real Pushgateway, a textfile, and everything that may go wrong with both."""

import shutil
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import httpx
import pytest

from rotator.metrics import batch
from rotator.metrics.batch import publish
from rotator.sandbox import Fault, SandboxConfig
from tests.cli.running import rotator
from tests.lab import Lab, lab
from tests.metrics.measuring import families, measuring, samples
from tests.servers.loopback import Loopback
from tests.servers.pushgateway import Pushgateway, pushgateway

SUCCESS = "rotator_last_success_timestamp_seconds"


@pytest.fixture(scope="module")
def running() -> Iterator[Pushgateway]:
    """One gateway for the module; each test pushes another job."""
    with pushgateway() as made:
        yield made


@contextmanager
def bench_with(folder: Path, metrics: str, **settings: object) -> Iterator[Lab]:
    """Run a lab on real time whose config has a `[metrics]` table."""
    with lab(folder, jumping=False, **settings) as bench:
        path = bench.config_path
        path.write_text(f"[metrics]\n{metrics}\n" + path.read_text())
        yield bench


def pushed(gateway: Pushgateway, job: str, name: str) -> dict[tuple[str, ...], float]:
    """The samples of a metric in a job's group, by the values of their other labels."""
    found = {}
    for family in families(gateway.text()).values():
        for sample in family.samples:
            if sample.name == name and sample.labels.get("job") == job:
                labels = {key: value for key, value in sample.labels.items() if key not in ("job", "instance")}
                assert sample.labels.get("instance", "") == ""
                found[tuple(labels[key] for key in sorted(labels))] = sample.value
    return found


@contextmanager
def answering(status: int, wait_s: float = 0.0, seen: list[str] | None = None) -> Iterator[str]:
    """Run a server that answers everything in the same way, and notes in `seen` who came."""
    came, leave = seen if seen is not None else [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            leave.wait(wait_s)
            came.append(self.headers.get("Authorization", ""))
            self.send_response(status)
            self.send_header("Content-Length", "6")
            self.end_headers()
            self.wfile.write(b"eyJbad")  # as if it held a secret

        do_GET = do_POST = do_PUT  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

        def handle(self) -> None:
            with suppress(OSError):  # the client gave up
                super().handle()

    server = Loopback(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        leave.set()
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_sweep_is_pushed(tmp_path: Path, running: Pushgateway) -> None:
    """After `sweep` the gateway shows tokens, success and duration under the job, no instance, and no counter."""
    table = f'pushgateway = "{running.url}/"\npushgateway_job = "pushed"'
    with bench_with(tmp_path, table) as bench:
        run = rotator(bench, "sweep")
        assert (run.returncode, "metrics" in run.stderr) == (0, False), run.stderr
        assert pushed(running, "pushed", "rotator_tokens")["services", "fresh"] == 6
        assert len(pushed(running, "pushed", "rotator_token_ready")) == 6
        assert pushed(running, "pushed", SUCCESS).keys() == {("services",)}
        assert pushed(running, "pushed", "rotator_sweep_duration_seconds").keys() == {("services",)}
        names = {name for name in families(running.text()) if name.startswith("rotator_")}
        assert not [name for name in names if name.endswith("_total")]


def test_a_failing_sweep_keeps_the_last_success(tmp_path: Path, running: Pushgateway) -> None:
    """It is pushed too: success and tokens stay as they were, and what is known anew replaces the old."""
    table = f'pushgateway = "{running.url}"\npushgateway_job = "failing"'
    with bench_with(tmp_path, table, sandbox=SandboxConfig(tokens=6, limits=False), timeout="1s") as bench:
        assert rotator(bench, "sweep").returncode == 0
        success = pushed(running, "failing", SUCCESS)
        lasted = pushed(running, "failing", "rotator_sweep_duration_seconds")
        for _ in range(8):
            bench.sandbox.script("list", Fault.ERROR_500)
        run = rotator(bench, "sweep")
        assert run.returncode == 1
        assert "left as they were published before" in run.stderr
        assert pushed(running, "failing", SUCCESS) == success
        assert len(pushed(running, "failing", "rotator_token_ready")) == 6
        assert pushed(running, "failing", "rotator_sweep_duration_seconds") != lasted
        httpx.delete(f"{running.url}/metrics/job/failing", trust_env=False).raise_for_status()
        assert rotator(bench, "settle").returncode == 0
        assert (
            pushed(running, "failing", SUCCESS) == success
        )  # a gateway forgets when it restarts, the journal does not


def test_without_a_journal_the_last_success_is_kept_too(tmp_path: Path, running: Pushgateway) -> None:
    """A CronJob without a volume knows nothing of earlier sweeps: it takes the moment over from what was pushed."""
    table = f'pushgateway = "{running.url}"\npushgateway_job = "forgetful"\ntextfile = "rotator.prom"'
    with bench_with(tmp_path, table) as bench:
        assert rotator(bench, "sweep").returncode == 0
        success = pushed(running, "forgetful", SUCCESS)
        shutil.rmtree(tmp_path / "rotator.db.instances")
        for path in (*tmp_path.glob("rotator.db*"), tmp_path / "rotator.key", tmp_path / "audit.jsonl"):
            path.unlink()
        shutil.rmtree(tmp_path / "secrets")
        (tmp_path / "secrets").write_text("no folder: no secret can be written there")
        bench.config_path.write_text(bench.config_path.read_text().replace('"90d"', '"1d"'))
        run = rotator(bench, "sweep")
        assert run.returncode == 1, run.stdout
        assert success
        assert pushed(running, "forgetful", SUCCESS) == success
        assert samples((tmp_path / "rotator.prom").read_text(), SUCCESS) == success


def test_what_vanished_is_not_shown_any_more(tmp_path: Path, running: Pushgateway) -> None:
    """A push replaces the whole group: a token that was deleted leaves no series behind. `settle` pushes too."""
    table = f'pushgateway = "{running.url}"\npushgateway_job = "vanishing"\ntextfile = "rotator.prom"'
    with bench_with(tmp_path, table) as bench:
        store, expiration = bench.sandbox.store, "rotator_token_expiration_timestamp_seconds"
        chosen = bench.due_ids()[0]
        assert rotator(bench, "sweep").returncode == 0
        store.tokens[chosen].end_at = datetime.now(UTC) + timedelta(days=300)
        assert rotator(bench, "settle").returncode == 0
        assert len(pushed(running, "vanishing", expiration)) == 1
        store.delete(chosen)
        run = rotator(bench, "settle")
        assert run.returncode == 0, run.stderr
        shown = {key[2] for key in pushed(running, "vanishing", "rotator_token_ready")}
        assert (len(shown), chosen in shown) == (5, False)
        assert pushed(running, "vanishing", expiration) == {}  # no token expires any more
        assert pushed(running, "vanishing", SUCCESS).keys() == {("services",)}
        in_file = {key[2] for key in samples((tmp_path / "rotator.prom").read_text(), "rotator_token_ready")}
        assert in_file == shown


def test_rotate_pushes(tmp_path: Path, running: Pushgateway) -> None:
    """What a person rotates shows at once."""
    table = f'pushgateway = "{running.url}"\npushgateway_job = "asked"'
    with bench_with(tmp_path, table) as bench:
        chosen = next(t.id for t in bench.sandbox.store.tokens.values() if t.name.startswith("svc-"))
        assert rotator(bench, "rotate", chosen).returncode == 0
        assert len(pushed(running, "asked", "rotator_token_ready")) == 6


def test_the_textfile(tmp_path: Path) -> None:
    """It is whole, readable for everybody whatever the umask, and leaves nothing else in its folder."""
    (tmp_path / "node").mkdir()
    with bench_with(tmp_path, f'textfile = "{tmp_path}/node/rotator.prom"') as bench:
        for _ in range(2):
            assert rotator(bench, "sweep").returncode == 0
            (file,) = (tmp_path / "node").iterdir()
            assert stat.S_IMODE(file.stat().st_mode) == 0o644
        text = file.read_text()
        for token_id in bench.due_ids() or [t.id for t in bench.sandbox.store.tokens.values()]:
            assert bench.sandbox.store.secret_of(token_id) not in text
        assert bench.sandbox.credential not in text
        for _ in range(8):
            bench.sandbox.script("list", Fault.ERROR_500)
        before = families(text)
        assert rotator(bench, "sweep").returncode == 1
        after = families(file.read_text())
        assert after.keys() == before.keys()
        assert after["rotator_tokens"].samples == before["rotator_tokens"].samples
        assert after[SUCCESS].samples == before[SUCCESS].samples
        assert after["rotator_sweep_duration_seconds"].samples != before["rotator_sweep_duration_seconds"].samples


def test_a_gateway_that_refuses_changes_nothing(tmp_path: Path) -> None:
    """A 4xx: one sentence on standard error without the answer's text, exit code and results as ever."""
    with answering(400) as url, bench_with(tmp_path, f'pushgateway = "{url}"\ntextfile = "no/such.prom"') as bench:
        run = rotator(bench, "sweep", "--json")
    assert run.returncode == 0
    assert "could not be pushed: the Pushgateway answered 400" in run.stderr
    assert "could not be written" in run.stderr
    assert "eyJbad" not in run.stdout + run.stderr
    assert '"settled"' in run.stdout


def test_a_gateway_that_is_down_changes_nothing(tmp_path: Path) -> None:
    """Nobody listens there."""
    with bench_with(tmp_path, 'pushgateway = "http://127.0.0.1:9"') as bench:
        run = rotator(bench, "sweep")
    assert run.returncode == 0
    assert "could not be pushed" in run.stderr


def test_a_gateway_that_is_slow_is_left(tmp_path: Path) -> None:
    """It does not answer in time: the push ends without it."""
    with answering(200, wait_s=60) as url, lab(tmp_path) as bench:
        path = bench.config_path
        path.write_text(f'[metrics]\npushgateway = "{url}"\n' + path.read_text())
        one = measuring(bench)
        one.sweep()
        began_s = time.monotonic()
        assert bench.clock is not None
        snapshot = one.board.snapshot(bench.clock.now())
        (said,) = publish(bench.config, snapshot, one.told.append, timeout_s=0.5)
        took_s = time.monotonic() - began_s
    assert "no complete answer in time" in said
    assert 0.3 < took_s < 30
    assert batch.TIMEOUT_S == 10


def test_a_password_goes_with_the_push(tmp_path: Path) -> None:
    """By reference, as basic authentication, and is shown nowhere."""
    seen: list[str] = []
    table = 'pushgateway_user = "me"\npushgateway_password = "env:PUSH"'
    with answering(200, seen=seen) as url, bench_with(tmp_path, f'pushgateway = "{url}"\n{table}') as bench:
        run = rotator(bench, "sweep", PUSH="canary-password")
        missing = rotator(bench, "sweep")
    assert run.returncode == missing.returncode == 0
    assert httpx.BasicAuth("me", "canary-password")._auth_header in seen
    assert "canary" not in run.stdout + run.stderr
    assert "could not be pushed" in missing.stderr


def test_too_many_tokens_are_said_once(tmp_path: Path) -> None:
    """Beyond max_tokens there are no series of single tokens, one line says so, and the counts stay."""
    table = f'textfile = "{tmp_path}/rotator.prom"\nmax_tokens = 5'
    with bench_with(tmp_path, table) as bench:
        run = rotator(bench, "sweep")
        text = (tmp_path / "rotator.prom").read_text()
    assert run.stderr.count("series_omitted") == 1
    assert "rotator_token_ready" not in text
    assert samples(text, "rotator_tokens")["services", "fresh"] == 6


def test_a_dry_run_publishes_nothing(tmp_path: Path) -> None:
    """It changes nothing, so there is nothing to show."""
    with bench_with(tmp_path, 'textfile = "rotator.prom"') as bench:
        assert rotator(bench, "sweep", "--dry-run").returncode == 0
        assert not (tmp_path / "rotator.prom").exists()
