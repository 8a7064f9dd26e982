"""`run`: the daemon."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from rotator.board import Board
from rotator.cli.main import OK, config_option
from rotator.cli.stopping import politely
from rotator.clock import SystemClock
from rotator.daemon.service import Service, Watchers
from rotator.daemon.systemd import Systemd
from rotator.logs import Log
from rotator.metrics import Metrics


@click.command("run")
@config_option
def run(config_path: Path) -> int:
    """Run the daemon: sweep on schedule until SIGTERM; SIGHUP, or a change of the file, reloads the config."""
    now, log = SystemClock().now, Log(terminal=sys.stderr.isatty(), daemon=True)
    board = Board(now())
    metrics = Metrics(board, now, log)
    service = Service(config_path, Watchers(board, [log, board, metrics], metrics.render, Systemd(os.environ)))
    with politely(service.halt, code=OK), _hangups(service):
        service.start()
        try:
            service.wait()
        finally:
            service.close()
    return OK


@contextmanager
def _hangups(service: Service) -> Iterator[None]:
    """Turn SIGHUP into a reload."""
    before = signal.signal(signal.SIGHUP, lambda *_: service.ask_reload())
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
