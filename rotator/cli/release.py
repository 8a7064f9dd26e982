"""`release`: lift a quarantine, accept a new place."""

import sys
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli.main import OK, config_option
from rotator.cli.words import token_words
from rotator.config import load
from rotator.engine.desk import Desk
from rotator.engine.releasing import release as let_go
from rotator.errors import ConfigError
from rotator.logs import Log
from rotator.model import Lineage
from rotator.text import visible


@click.command()
@config_option
@click.argument("token", callback=token_words)
@click.option("--accept-move", is_flag=True, help="Also let its secret go to the new place that holds it back now.")
def release(config_path: Path, token: str, accept_move: bool) -> int:
    """Lift a quarantine or a backoff of TOKEN, so that the next sweep goes on with it.

    TOKEN is a name, or any id that the credential has: its first, the one in use, or one in grace. While a rotation
    of it is open, `rotator settle` comes first.
    """
    config = load(config_path)
    with opened(config, "release", [Log(terminal=sys.stderr.isatty())], writing=True) as app:
        desk, lineage = _found(app, token)
        lifted = let_go(desk, lineage.id, accept_move=accept_move)
        who = f"{lineage.name} ({lineage.token_id})"
        if lifted:
            click.echo(visible(f"{who}: {lifted}. The next sweep goes on with it.", 1000))
        else:
            why = f"`rotator explain {lineage.token_id}` says what holds it back"
            click.echo(visible(f"{who}: it is not quarantined, nothing was changed; {why}.", 1000))
    return OK


def _found(app: App, word: str) -> tuple[Desk, Lineage]:
    """Return the one credential that a word names.

    Raises:
        ConfigError: There is none, or there are several.
    """
    found = [(desk, row) for desk in app.desks for row in app.reader.find_lineages(desk.provider.name, word)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ConfigError.of(
            "TOKEN", f"nothing is remembered of a token {word!r}; `rotator status` shows what there is"
        )
    ids = ", ".join(row.token_id for _, row in found)
    raise ConfigError.of("TOKEN", f"{word!r} names {len(found)} tokens: {ids}; give one id")
