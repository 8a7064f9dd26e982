"""`history`, `audit`: what was, and the proof of it."""

from collections.abc import Iterator
from pathlib import Path

import click

from rotator.audit import Head, verify
from rotator.cli import render
from rotator.cli.main import FAILED, OK, config_option
from rotator.cli.words import token_words
from rotator.config import load
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
    for event in reader.history():
        if word in (event.token_id, event.token_name) or event.token_id in families.get(event.provider, ()):
            yield event


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


@click.group()
def audit() -> None:
    """Prove the audit trail."""


@audit.command("verify")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--config", "config_path", type=click.Path(path_type=Path), help="Also look for a cut tail.")
def audit_verify(file: Path, config_path: Path | None) -> int:
    """Walk FILE and report the first line that breaks the chain."""
    found = verify(file)
    if found.bad_line is not None:
        click.echo(f"{file}: BROKEN at line {found.bad_line}: {found.problem} ({found.lines} good lines before it)")
        return FAILED
    since = f", continuing from line seq {found.first_seq - 1} of an earlier file" if found.first_seq > 1 else ""
    tail, cut = _tail(found.head, config_path)
    click.echo(f"{file}: {found.lines} lines, the chain is whole{since}; {tail}")
    return FAILED if cut else OK


def _tail(head: Head, config_path: Path | None) -> tuple[str, bool]:
    """Compare the last line with the head that the journal keeps."""
    if config_path is None:
        return "whether its tail was cut cannot be told without --config", False
    reader = Reader(load(config_path).journal_path)
    try:
        known = reader.audit_head()
    finally:
        reader.close()
    if known is None:
        return "the journal knows no head, so whether its tail was cut cannot be told", False
    if head.seq < known.seq or (head.seq == known.seq and head.hash != known.hash):
        return f"but its TAIL WAS CUT: the journal saw line seq {known.seq}, the file ends at {head.seq}", True
    return "its tail is complete", False
