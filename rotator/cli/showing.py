"""`history`: what was."""

from collections.abc import Iterator
from pathlib import Path

import click

from rotator.cli import render
from rotator.cli.main import OK, config_option
from rotator.cli.words import token_words
from rotator.config import load
from rotator.errors import NotFound
from rotator.events import Event
from rotator.journal.sqlite import Reader
from rotator.text import visible

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


@click.command()
@config_option
@click.argument("token", required=False, callback=token_words)
@json_option
def history(config_path: Path, token: str | None, as_json: bool) -> int:
    """Show what happened to TOKEN, or to all, oldest first.

    TOKEN is a name, or any id that the credential has or had: what happened to its other ids is shown too.
    """
    config = load(config_path)
    reader = Reader(config.journal_path)
    try:
        rows = reader.history() if token is None else _about(reader, token)
        if as_json:
            render.write_json({}, {"history": (_event_row(event) for event in rows)})
        else:
            for event in rows:
                _print_event(event)
    finally:
        reader.close()
    return OK


def _about(reader: Reader, word: str) -> Iterator[Event]:
    families = {name: reader.family(name, word) for name in reader.providers()}
    found = False
    for event in reader.history():
        if word in (event.token_id, event.token_name) or event.token_id in families.get(event.provider, ()):
            found = True
            yield event
    if not found:
        raise NotFound(f"nothing is remembered of a token {word!r}; `rotator status` shows all tokens")


def _event_row(event: Event) -> dict[str, object]:
    row = {
        "time": render.moment(event.at),
        "event": str(event.name),
        "token_id": event.token_id,
        "name": event.token_name,
        "policy": event.policy,
        "rotation_id": event.rotation_id,
        "sink": event.sink,
        "location": event.location,
        "reason": event.reason and str(event.reason),
        "outcome": event.outcome and str(event.outcome),
        "message": event.message,
    }
    return {key: value for key, value in row.items() if value}


def _print_event(event: Event) -> None:
    where = f" -> {event.sink}:{event.location}" if event.sink else ""
    said = f": {event.message}" if event.message else ""
    about = f"{event.token_name} ({event.token_id})" if event.token_id else event.policy
    line = f"{render.moment(event.at)}  {event.name:<26} {about}{where}{said}"
    click.echo(visible(line, 500))
