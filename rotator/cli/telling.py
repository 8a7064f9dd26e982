"""Telling people and hooks at the end of a command: bounded, and never a reason for another exit code."""

import click

from rotator.app import App
from rotator.board import Board, Snapshot
from rotator.engine.standing import standings
from rotator.errors import RotatorError
from rotator.notify.notifier import PATIENCE_S
from rotator.text import visible

_HURRY_S = 5.0  # where the process was told to stop


def tell_all(app: App, snapshot: Snapshot | None = None, *, looks: bool = False) -> None:
    """Tell whoever is configured to be told; what fails is said on standard error, and told by the next run.

    Args:
        app: Everything.
        snapshot: Where all tokens stand, if that is known already.
        looks: Whether to look where they stand otherwise: a listing, made only if a channel is told of expiries.
    """
    notifier = app.notifier
    if notifier is None:
        return
    is_stopped = app.stop.is_set()
    try:
        if snapshot is None and looks and notifier.wants_tokens and not is_stopped:
            snapshot = _looked(app)  # None where it cannot be known: the rest is told all the same
        patience_s = _HURRY_S if is_stopped else PATIENCE_S
        notifier.pass_once(snapshot, app.clock.now(), patience_s=patience_s, flush=True)
    except RotatorError as error:
        click.echo(f"rotator: not everybody was told: {visible(error.message, 500)}; the next run goes on", err=True)
    except Exception as error:  # noqa: BLE001 - boundary "listener": what was rotated is not undone by it
        click.echo(f"rotator: not everybody was told: unexpected {type(error).__name__}", err=True)


def _looked(app: App) -> Snapshot | None:
    """Return where the tokens of all providers stand now; None where one cannot be listed."""
    board, now = Board(app.clock.now()), app.clock.now()
    board.configure(app.config, now)
    for desk in app.desks:
        name = desk.provider.name
        if desk.stop.is_set():
            return None
        try:
            board.take(name, standings(desk, app.reader.every_lineage(name)), now)
        except RotatorError:
            return None
    return board.snapshot(now)
