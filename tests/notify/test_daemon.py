"""`rotator run` tells by itself, and a service that hangs does not keep it from stopping."""

import signal
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.daemon.test_run import daemon
from tests.lab import lab
from tests.notify.bench import CANARY, add, add_channel
from tests.notify.test_hooks import HOOKS, program, told
from tests.servers.listener import listening


def test_the_daemon_tells_and_stops(tmp_path: Path) -> None:
    """Hooks run after a sweep, an expiring paused token is told; SIGTERM ends with 0 while the next message hangs."""
    with lab(tmp_path, jumping=False) as bench, listening() as listener:
        add(bench, HOOKS, on='"settled"', exec=program(tmp_path))
        add_channel(bench, listener, group_for='"0s"', on='["config_refused"]')
        with daemon(bench) as running:
            running.until(lambda: bool(told(tmp_path)))
            good = bench.config_path.read_text()
            bench.config_path.write_text(f"{good}\nnonsense = 1\n")
            running.until(lambda: bool(listener.seen))
            listener.gate.clear()
            bench.config_path.write_text(good)
            running.until(lambda: listener.arrived == 2)
            began = time.monotonic()
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.lines
            assert time.monotonic() - began < 30
        assert CANARY not in "".join(running.lines)
    assert listener.messages[0].startswith("a changed config was refused")


def test_the_daemon_climbs_the_ladder(tmp_path: Path) -> None:
    """The daemon's own picture of the tokens is what the ladder before expiry is taken from."""
    paused = "1\npaused_until = 2099-01-01T00:00:00Z"
    with lab(tmp_path, jumping=False, brake=paused) as bench, listening() as listener:
        add_channel(bench, listener, group_for='"0s"')
        token = next(one for one in bench.sandbox.store.tokens.values() if one.name.startswith("svc-"))
        token.end_at = datetime.now(UTC) + timedelta(days=13)
        with daemon(bench) as running:
            running.until(lambda: bool(listener.seen))
            running.process.send_signal(signal.SIGTERM)
            assert running.ended() == 0, running.lines
    assert listener.messages[0].startswith(f"will expire, and rotator will not rotate it: {token.name}")
