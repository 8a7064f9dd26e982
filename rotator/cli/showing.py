"""`status`, `history`, `audit`: what is, what was, and the proof of it."""

import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.audit import Head, verify
from rotator.cli import render
from rotator.cli.main import FAILED, OK, config_option
from rotator.cli.words import token_words
from rotator.config import load
from rotator.engine.deciding import known_now, surveyed
from rotator.engine.sweep import homeless
from rotator.events import Event
from rotator.journal.sqlite import Reader
from rotator.logs import Log
from rotator.model import Lineage, Rotation
from rotator.planning import Candidate, born, token_state
from rotator.text import visible

UNSETTLED = "unsettled"
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


@click.command()
@config_option
@json_option
def status(config_path: Path, as_json: bool) -> int:
    """Show every token that a policy selects: age, expiry, when it is next due and why, last rotation."""
    config = load(config_path)
    with opened(config, "status", [Log(terminal=sys.stderr.isatty())], writing=False) as app:
        if as_json:
            rows = chain(map(_homeless_row, app.homeless), (_status_row(app, *row) for row in _tokens(app)))
            render.write_json({}, {"tokens": rows})
        else:
            _print_status(app)
    return OK


def _tokens(app: App) -> Iterator[tuple[Candidate, Lineage | None]]:
    for desk in app.desks:
        for page in surveyed(desk, known_now(desk)):
            yield from ((row, lineage) for row, lineage in page if isinstance(row, Candidate))


def _status_row(app: App, candidate: Candidate, lineage: Lineage | None) -> dict[str, object]:
    token, decision = candidate.token, candidate.decision
    return {
        "token_id": token.id,
        "name": token.name,
        "scope": str(token.scope),
        "policy": candidate.policy.name,
        "state": token_state(candidate, lineage, app.clock.now()),
        "due_at": render.moment(decision.due_at),
        "expires_at": render.moment(token.end_at),
        "last_rotated_at": render.moment(token.generation.last_rotated_at),
        "settled_at": render.moment(lineage.settled_at if lineage else None),
        "reason": str(decision.due or decision.skip),
        "message": decision.message,
    }


def _homeless_row(rotation: Rotation) -> dict[str, object]:
    """Return an open rotation whose provider the config lost."""
    row = render.result_row(homeless(rotation))
    return {key: row[key] for key in ("token_id", "name", "scope", "policy", "reason", "message")} | {
        "state": UNSETTLED
    }


def _print_status(app: App) -> None:
    now = app.clock.now()
    rows = []
    for candidate, lineage in _tokens(app):
        token, decision = candidate.token, candidate.decision
        state = token_state(candidate, lineage, now)
        age = render.ago(born(token, lineage), now)
        due, expires = render.ago(decision.due_at, now), render.ago(token.end_at, now)
        settled = render.ago(lineage.settled_at if lineage else None, now)
        rows.append(
            (
                _RANK.get(state, 9),
                token.name,
                state,
                candidate.policy.name,
                age,
                due,
                expires,
                settled,
                decision.message,
            )
        )
    for rotation in app.homeless:
        said = homeless(rotation).message
        rows.append((_RANK[UNSETTLED], rotation.name, UNSETTLED, rotation.policy, "-", "-", "-", "-", said))
    rows.sort()
    columns = ("Token", "State", "Policy", "Secret from", "Due", "Expires", "Settled by us", "Why")
    render.console().print(render.table(f"{len(rows)} tokens", columns, [[str(c) for c in row[1:]] for row in rows]))


_RANK = {state: rank for rank, state in enumerate(("quarantined", "in_doubt", "unsettled", "expired", "due", "paused"))}


@click.command()
@config_option
@click.argument("token", required=False, callback=token_words)
@json_option
def history(config_path: Path, token: str | None, as_json: bool) -> int:
    """Show what happened to TOKEN (id or name), or to all, oldest first."""
    config = load(config_path)
    reader = Reader(config.journal_path)
    try:
        rows = (event for event in reader.history() if token in (None, event.token_id, event.token_name))
        if as_json:
            render.write_json({}, {"history": (_event_row(event) for event in rows)})
        else:
            for event in rows:
                _print_event(event)
    finally:
        reader.close()
    return OK


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
