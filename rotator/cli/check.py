"""`check` and `schema`: is the config right, and would it work?"""

import json
import sys
from datetime import timedelta
from pathlib import Path

import click

from rotator.app import opened
from rotator.cli.main import ATTENTION, FAILED, OK, USAGE, config_option, exit_code_of
from rotator.clock import SystemClock
from rotator.config import load
from rotator.config import schema as config_schema
from rotator.engine.deciding import plan
from rotator.engine.desk import Desk
from rotator.errors import Permanent, RotatorError
from rotator.logs import Log
from rotator.planning import gap_warnings
from rotator.text import visible

_A_YEAR = timedelta(days=365)


@click.command()
@config_option
@click.option("--online", is_flag=True, help="Also prove the credential, its rights and every sink; rotates nothing.")
def check(config_path: Path, online: bool) -> int:
    """Report every problem of the config file at once, each with its path and a fix."""
    config = load(config_path)
    click.echo(f"{config_path}: no problems ({len(config.policies)} policies, {len(config.sinks)} sinks)")
    now = SystemClock().now()
    for policy in config.policies:
        for warning in gap_warnings(policy, now, now + _A_YEAR):
            click.echo(visible(f"warning: policy {policy.name}: {warning}", 500))
    if not online:
        return OK
    with opened(config, "check", [Log(terminal=sys.stderr.isatty())], writing=True) as app:
        codes = [_online(desk) for desk in app.desks]
    return next((code for code in (USAGE, ATTENTION, FAILED) if code in codes), OK)


def _online(desk: Desk) -> int:
    """Prove one provider and the places of everything its policies select and is due."""
    name = desk.provider.name
    try:
        desk.journal.preflight()
        click.echo("journal and audit: writable")
        made = plan(desk, desk.policies)
    except RotatorError as error:
        click.echo(f"provider {name}: {visible(error.message, 500)}")
        return exit_code_of(error)
    selected = ", ".join(f"{policy} selects {count}" for policy, count in made.selected.items()) or "nothing selected"
    click.echo(f"provider {name}: the credential works; {selected}; {len(made.due)} due")
    for policy in desk.policies:
        if not made.selected.get(policy.name):
            click.echo(f"policy {policy.name}: selects no token; is `select` right?")
    worst = OK
    for candidate in made.due:
        for place in candidate.places:
            try:
                desk.sinks[place.sink].preflight(place)
            except RotatorError as error:
                click.echo(f"sink {place.sink}: {visible(error.message, 500)}")
                worst = USAGE if isinstance(error, Permanent) else FAILED
    proven = {place.sink for candidate in made.due for place in candidate.places}
    if worst == OK:
        for sink in sorted(proven):
            click.echo(f"sink {sink}: every place of the due tokens can be written")
    return worst


@click.command()
def schema() -> int:
    """Print the JSON Schema of the config, for editors."""
    click.echo(json.dumps(config_schema(), indent=2))
    return OK
