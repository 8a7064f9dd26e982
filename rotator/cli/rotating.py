"""`rotate`: what a person names is rotated now."""

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli.main import ATTENTION, config_option
from rotator.cli.publishing import Publisher
from rotator.cli.stopping import politely
from rotator.cli.sweeping import finish, json_option
from rotator.cli.words import token_words
from rotator.config import load
from rotator.engine.desk import Result
from rotator.engine.manual import Asked, Choice, braked, manual_steps, named, rotate, whose
from rotator.engine.sweep import Report, erase
from rotator.errors import ConfigError
from rotator.logs import Log
from rotator.ports import Emit
from rotator.secret import Secret
from rotator.text import visible

_LONGEST_SECRET = 65536


@click.command("rotate")
@config_option
@click.argument("tokens", nargs=-1, metavar="TOKEN...", callback=token_words)
@click.option("--note", default="", help="Why, for the audit.")
@click.option("--leaked", is_flag=True, help="It leaked. Without TOKEN the secret, or short token, is read from stdin.")
@click.option("--revoke-first", is_flag=True, help="With --leaked: rotate although a sink cannot be written now.")
@click.option("--accept", metavar="PLAN_ID", help="Lift the brake for exactly these tokens.")
@json_option
def rotate_command(
    config_path: Path,
    tokens: Sequence[str],
    note: str,
    leaked: bool,
    revoke_first: bool,
    accept: str | None,
    as_json: bool,
) -> int:
    """Rotate each TOKEN (id or name) now: windows, backoff and age do not hold it back, safety does.

    With --leaked neither pause, quarantine nor brake holds it back, and every other living member of the token's
    lineage is ended.
    """
    if revoke_first and not leaked:
        raise ConfigError.of("--revoke-first", "goes with --leaked")
    if not tokens and not leaked:
        raise ConfigError.of("TOKEN", "name one or more tokens by id or name; a leaked secret goes to --leaked")
    config = load(config_path)
    asked = Asked(note, leaked, revoke_first)
    publisher = Publisher(config)
    listeners: list[Emit] = [Log(terminal=sys.stderr.isatty()), *publisher.listeners]
    with opened(config, "rotate", listeners, writing=True) as app, publisher.after(app):
        choice = named(app.desks, list(dict.fromkeys(tokens)) or [whose(app.desks, _from_stdin())])
        own = _own(app, choice) if leaked else ""
        if own:
            click.echo(visible_lines(own), err=True)
            return ATTENTION
        made = braked(choice, asked, accept)
        results = [] if made.refused else _rotated(app, choice, asked)
        return finish([Report(plan=made, results=results, interrupted=app.stop.is_set())], as_json=as_json)


def visible_lines(text: str) -> str:
    """Return a text of several lines with each of them safe for a terminal."""
    return "\n".join(visible(line, 500) for line in text.splitlines())


def _rotated(app: App, choice: Choice, asked: Asked) -> list[Result]:
    results: list[Result] = []
    with politely(app.halt):
        for desk in app.desks:
            results += rotate(desk, choice.rows.get(desk.provider.name, []), asked, _confirm)
            erase(desk)
    return results


def _own(app: App, choice: Choice) -> str:
    """Return what to do by hand if one of the leaked tokens is our own credential, empty if none is."""
    for desk in app.desks:
        for row, _ in choice.rows.get(desk.provider.name, []):
            if row.own:
                return manual_steps(desk, row.token)
    return ""


def _from_stdin() -> Secret:
    if sys.stdin.isatty():
        return Secret(str(click.prompt("The leaked secret or short token", hide_input=True, err=True)).strip())
    return Secret(sys.stdin.read(_LONGEST_SECRET).strip())


def _confirm(problem: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return click.confirm(f"{visible(problem, 500)}. Rotate nevertheless, and deliver later?", err=True)
