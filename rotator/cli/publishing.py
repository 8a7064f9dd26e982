"""After a command that changed something: show its metrics to a Pushgateway or a node-exporter, if the config says so.

Whatever becomes of that, it is said on standard error and never changes the exit code. Without `[metrics]` nothing is
imported, listed or sent.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from rotator.app import App
from rotator.board import Board
from rotator.clock import SystemClock
from rotator.config import Config
from rotator.engine.standing import standings
from rotator.errors import RotatorError
from rotator.ports import Emit
from rotator.text import visible


class Publisher:
    """Collects while a command works, and publishes when it is through.

    Args:
        config: Valid.
    """

    def __init__(self, config: Config) -> None:
        is_wanted = bool(config.metrics.pushgateway or config.metrics.textfile)
        self._board = _board(config) if is_wanted else None

    @property
    def listeners(self) -> tuple[Emit, ...]:
        """Who is to be told of events."""
        return () if self._board is None else (self._board,)

    @contextmanager
    def after(self, app: App) -> Iterator[None]:
        """Publish after the block, also if it raised; not if it was interrupted, for then every second counts."""
        is_interrupted = False
        try:
            yield
        except (KeyboardInterrupt, click.Abort):
            is_interrupted = True
            raise
        finally:
            if self._board is not None and not is_interrupted and not app.stop.is_set():
                with suppress(OSError):  # whoever read standard error is gone
                    self._published(app, self._board)

    def _published(self, app: App, board: Board) -> None:
        from rotator.metrics.batch import publish  # noqa: PLC0415 - loads prometheus_client, only where it is wanted

        try:
            for policy, known in app.reader.last_sweeps([policy.name for policy in app.config.policies]).items():
                board.restore(policy, *known)
            for problem in (*_looked(app, board), *publish(app.config, board.snapshot(app.clock.now()), app.emit)):
                click.echo(f"rotator: {visible(problem, 500)}", err=True)
        except Exception as error:  # noqa: BLE001 - boundary "listener": what was done stays done
            click.echo(f"rotator: the metrics could not be published ({type(error).__name__})", err=True)


def _board(config: Config) -> Board:
    now = SystemClock().now()
    board, kinds = Board(now), {name: sink.kind for name, sink in config.sinks.items()}
    providers = {name: table.type for name, table in config.providers.items()}
    board.configure(config.policies, providers, kinds, now, max_series=config.metrics.max_tokens)
    return board


def _looked(app: App, board: Board) -> Iterator[str]:
    """Let the board see where the tokens stand now; yield why it cannot."""
    for desk in app.desks:
        name = desk.provider.name
        try:
            board.take(name, standings(desk, app.reader.every_lineage(name)), app.clock.now())
        except RotatorError as error:
            yield f"the metrics of the tokens of {name} are left as they were published before: {error.message}"
    for name in app.unserved():
        board.take(name, app.unserved_standings(name), app.clock.now())
