"""`status`: where every token stands, the worst first, and what to do next."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli import render
from rotator.cli.main import ATTENTION, FAILED, OK, USAGE, config_option, exit_code_of, tell
from rotator.config import load
from rotator.engine.standing import Standing, standings
from rotator.errors import RotatorError
from rotator.logs import Log
from rotator.model import Lineage
from rotator.planning import NEXT, STATES, born
from rotator.text import visible

_NEVER = datetime.max.replace(tzinfo=UTC)


@click.command()
@config_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def status(config_path: Path, as_json: bool) -> int:
    """Show where every token stands, the worst first: every token that a policy selects, and all that is unfinished.

    States: quarantined, in_doubt, unsettled, drifted, expired, due, retiring, paused, unknown, gone, fresh, skipped.
    """
    config = load(config_path)
    with opened(config, "status", [Log(terminal=sys.stderr.isatty())], writing=False) as app:
        failed: dict[str, RotatorError] = {}
        every = _all(app, failed)
        if as_json:
            rows = (_row(standing) for standing in every)
            render.write_json({}, {"tokens": rows, "errors": render.errors(failed)})
        else:
            _print(every, app.clock.now(), failed)
    codes = {exit_code_of(error) for error in failed.values()}
    return next((code for code in (USAGE, ATTENTION, FAILED) if code in codes), OK)


def _all(app: App, failed: dict[str, RotatorError]) -> Iterator[Standing]:
    """Yield everything that is known; whoever cannot be listed is told and noted, and hides none of the others."""
    for desk in app.desks:
        try:
            yield from standings(desk, app.reader.every_lineage(desk.provider.name))
        except RotatorError as error:
            tell(error, desk.provider.name)
            failed[desk.provider.name] = error
    for name in app.unserved():
        yield from app.unserved_standings(name)


def _row(standing: Standing) -> dict[str, object]:
    token, lineage = standing.token, standing.lineage
    row = {
        "token_id": standing.token_id,
        "name": standing.name,
        "scope": str(token.scope) if token else "",
        "policy": standing.policy,
        "state": standing.state,
        "due_at": render.moment(standing.due_at),
        "expires_at": render.moment(token.end_at if token else None),
        "last_rotated_at": render.moment(token.generation.last_rotated_at if token else None),
        "settled_at": render.moment(lineage.settled_at if lineage else None),
        "reason": standing.reason,
        "message": standing.message,
    }
    if standing.hint:
        row["next"] = standing.hint
    return row | (_remembered(lineage) if lineage else {})


def _remembered(lineage: Lineage) -> dict[str, object]:
    """Return what is unfinished about a credential; only what there is."""
    row: dict[str, object] = {}
    if lineage.open_state is not None:
        row["open_state"] = str(lineage.open_state)
    if lineage.quarantined_at is not None:
        row["quarantine_reason"] = lineage.quarantine_reason
    if lineage.drift is not None:
        drift = lineage.drift
        row["drift"] = {"kind": str(drift.kind), "heal": str(drift.heal), "message": drift.message}
    if lineage.retiring:
        row["retiring"] = [
            {"token_id": old.token_id, "due_at": render.moment(old.due_at), "message": old.message}
            for old in lineage.retiring
        ]
    return row


def _print(found: Iterable[Standing], now: datetime, failed: Mapping[str, RotatorError]) -> None:
    every = sorted(found, key=lambda one: (STATES.index(one.state), one.due_at or _NEVER, one.name))
    if failed and not every:
        return
    columns = ("Token", "State", "Policy", "Secret from", "Due", "Expires", "Settled by us", "Why")
    render.console().print(render.table(f"{len(every)} tokens", columns, [_cells(one, now) for one in every]))
    counts = Counter(one.state for one in every)
    click.echo(", ".join(f"{counts[state]} {state}" for state in STATES if counts[state]) or "no token is selected")
    for state in STATES:
        if counts[state] and NEXT[state]:
            click.echo(f"  {state}: {NEXT[state].format(id='TOKEN')}")


def _cells(standing: Standing, now: datetime) -> list[str]:
    token, lineage = standing.token, standing.lineage
    shown = f"{visible(standing.name)} ({standing.token_id})" if standing.hint else standing.name
    return [
        shown,
        standing.state,
        standing.policy or "-",
        render.ago(born(token, lineage) if token else None, now),
        render.ago(standing.due_at, now),
        render.ago(token.end_at if token else None, now),
        render.ago(lineage.settled_at if lineage else None, now),
        standing.message,
    ]
