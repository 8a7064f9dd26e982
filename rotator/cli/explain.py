"""`explain`: which policy matches a token, and what each condition says now."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli import render
from rotator.cli.main import OK, config_option
from rotator.cli.words import token_words
from rotator.config import load
from rotator.engine.explaining import Explained, Spot, explained, find
from rotator.errors import ConfigError
from rotator.explaining import Condition, Hold, Verdict, jitter
from rotator.logs import Log
from rotator.model import Lineage, Retiring
from rotator.planning import Candidate, token_state
from rotator.text import visible
from rotator.timing import stamp


@click.command()
@config_option
@click.argument("token", callback=token_words)
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def explain(config_path: Path, token: str, as_json: bool) -> int:
    """Show which policy matches TOKEN (id or name) and what each condition says now; changes nothing."""
    config = load(config_path)
    with opened(config, "explain", [Log(terminal=sys.stderr.isatty())], writing=False) as app:
        found = _found(app, token)
        if isinstance(found, Lineage):
            facts = {"token": {"token_id": found.token_id, "name": found.name}, "lineage": _lineage(found)}
            said = f"{found.name} ({found.token_id}): the provider does not list it; this is what is remembered"
        else:
            facts = _facts(found, app)
            said = _headline(found, app)
        if as_json:
            render.write_json(facts)
        else:
            click.echo(visible(said, 1000))
            _print(found)
    return OK


def _found(app: App, word: str) -> Explained | Lineage:
    """Return the one token that a word names; only what is remembered where the provider does not list it.

    Raises:
        ConfigError: There is none, or there are several.
    """
    remembered = [row for desk in app.desks for row in app.reader.find_lineages(desk.provider.name, word)]
    by_id = [member for row in remembered if word in (row.id, *row.members) for member in row.members]
    found = [(desk, find(desk, word, by_id)) for desk in app.desks]
    rows = [(desk, row, what.plan) for desk, what in found for row in what.rows]
    if len(rows) == 1:
        return explained(*rows[0])
    if len(rows) > 1:
        said = _named((row[0] if isinstance(row, tuple) else row.token).id for _, row, _ in rows)
        raise ConfigError.of("TOKEN", f"{word!r} names {len(rows)} tokens: {said}; give one id")
    if len(remembered) == 1:
        return remembered[0]
    if remembered:
        said = _named(row.token_id for row in remembered)
        raise ConfigError.of("TOKEN", f"{word!r} names {len(remembered)} tokens that are not listed: {said}; give one")
    near = [f"{token.id} ({token.name})" for _, what in found for token in what.near]
    said = f"alike are: {_named(near)}" if near else "`rotator status` and `rotator tokens list` show what there is"
    raise ConfigError.of("TOKEN", f"no token has the id or the name {word!r}; {said}")


def _named(words: Iterable[str]) -> str:
    every = list(words)
    return ", ".join(every[:20]) + (f" and {len(every) - 20} more" if len(every) > 20 else "")


def _headline(found: Explained, app: App) -> str:
    token, row = found.token, found.row
    if isinstance(row, tuple):
        return f"{token.name} ({token.id}), {token.scope}: no policy selects it"
    state = token_state(row, found.lineage, app.clock.now())
    decided = f"{row.decision.due or row.decision.skip}: {row.decision.message}"
    return f"{token.name} ({token.id}), {token.scope}, policy {row.policy.name}: {state}; {decided}"


def _facts(found: Explained, app: App) -> dict[str, object]:
    token, row = found.token, found.row
    facts: dict[str, object] = {
        "token": {
            "token_id": token.id,
            "name": token.name,
            "scope": str(token.scope),
            "workspace_id": token.workspace_id,
            "deployment_id": token.deployment_id,
            "created_at": render.moment(token.created_at),
            "expires_at": render.moment(token.end_at),
            "last_rotated_at": render.moment(token.generation.last_rotated_at),
        },
        "policy": row.policy.name if isinstance(row, Candidate) else None,
        "policies": [
            {"policy": v.policy, "owns": v.owns, "overlaps": v.overlaps, "says_no": v.says_no} for v in found.verdicts
        ],
        "lineage": _lineage(found.lineage) if found.lineage and found.lineage.version else None,
    }
    return facts | (_decided(found, row, app) if isinstance(row, Candidate) else {})


def _decided(found: Explained, row: Candidate, app: App) -> dict[str, object]:
    return {
        "state": token_state(row, found.lineage, app.clock.now()),
        "due": row.decision.due and str(row.decision.due),
        "skip": row.decision.skip and str(row.decision.skip),
        "message": row.decision.message,
        "due_at": render.moment(row.decision.due_at),
        "strategy": str(row.strategy),
        "conditions": [
            {"reason": str(c.reason), "holds": c.holds, "at": render.moment(c.at), "message": c.message}
            for c in found.conditions
        ],
        "holds": [
            {"name": h.name, "holds": h.holds, "until": render.moment(h.until), "message": h.message}
            for h in found.holds
        ],
        "places": [
            {
                "sink": s.place.sink,
                "location": s.place.location,
                "required": s.place.required,
                "owned_by": s.owner,
                "moved": s.moved,
            }
            for s in found.spots
        ],
        "place_problem": found.problem,
        "jitter": jitter(row.token, row.policy),
    }


def _lineage(lineage: Lineage) -> dict[str, object]:
    drift = lineage.drift
    return {
        "root": lineage.id,
        "token_id": lineage.token_id,
        "members": list(lineage.members),
        "minted_at": render.moment(lineage.minted_at),
        "settled_at": render.moment(lineage.settled_at),
        "looked_at": render.moment(lineage.looked_at),
        "gone_at": render.moment(lineage.gone_at),
        "open_state": lineage.open_state and str(lineage.open_state),
        "open_message": lineage.open_message,
        "quarantined_at": render.moment(lineage.quarantined_at),
        "quarantine_reason": lineage.quarantine_reason,
        "places": [f"{place.sink}:{place.location}" for place in lineage.places],
        "move_accepted": lineage.move_accepted,
        "expiry_fixed": lineage.expiry_fixed,
        "drift": drift
        and {
            "kind": str(drift.kind),
            "heal": str(drift.heal),
            "message": drift.message,
            "found_at": render.moment(drift.found_at),
        },
        "retiring": [_retiring(old) for old in lineage.retiring],
        "watches": [{"post_id": watch.post_id, "until": render.moment(watch.until)} for watch in lineage.watches],
    }


def _retiring(old: Retiring) -> dict[str, object]:
    return {"token_id": old.token_id, "due_at": render.moment(old.due_at), "message": old.message}


def _print(found: Explained | Lineage) -> None:
    console = render.console()
    if isinstance(found, Explained):
        for title, columns, rows in _tables(found):
            console.print(render.table(title, columns, rows))
        if found.problem:
            click.echo(visible(f"It may not go there: {found.problem}", 1000))
        if isinstance(found.row, Candidate) and found.conditions:
            click.echo(f"Jitter: {jitter(found.token, found.row.policy)}")
        rotated = found.token.generation.last_rotated_at
        click.echo(f"Last rotated: {stamp(rotated) if rotated else 'never'}, created {stamp(found.token.created_at)}")
    lineage = found if isinstance(found, Lineage) else found.lineage
    if lineage is None or not lineage.version:
        click.echo("Nothing is remembered of it: no rotation, and no look at its sinks by a sweep.")
        return
    click.echo("What is remembered:")
    for line in _remembered(lineage):
        click.echo(visible(f"  {line}", 1000))


_Table = tuple[str, Sequence[str], list[Sequence[str]]]


def _tables(found: Explained) -> Iterator[_Table]:
    yield "Policies, in file order", ("Policy", "Says"), [(v.policy, _verdict(v)) for v in found.verdicts]
    if found.conditions:
        title = "Conditions, in the order in which they are asked: the first that holds decides"
        yield title, ("Condition", "Holds", "From", "Why"), [_condition(row) for row in found.conditions]
    if found.holds:
        yield "What may hold it back", ("What", "Holds", "Until", "Why"), [_hold(row) for row in found.holds]
    if found.spots:
        yield "Where its secret would go", ("Place", "Required", "Remark"), [_spot(spot) for spot in found.spots]


def _verdict(verdict: Verdict) -> str:
    if verdict.owns:
        return "owns it"
    if verdict.overlaps:
        return "selects it too, but another policy comes first"
    return f"leaves it out: select.{verdict.says_no}"


def _condition(row: Condition) -> Sequence[str]:
    return str(row.reason), "yes" if row.holds else "no", stamp(row.at) if row.at else "-", row.message


def _hold(row: Hold) -> Sequence[str]:
    return row.name, "yes" if row.holds else "no", stamp(row.until) if row.until else "-", row.message


def _spot(spot: Spot) -> Sequence[str]:
    remarks = [f"belongs to token {spot.owner}"] if spot.owner else []
    remarks += ["it settled elsewhere before"] if spot.moved else []
    return f"{spot.place.sink}:{spot.place.location}", "yes" if spot.place.required else "no", ", ".join(remarks)


def _remembered(lineage: Lineage) -> Iterator[str]:
    yield f"root id {lineage.id}, in use {lineage.token_id}, alive {', '.join(lineage.members)}"
    settled = f"settled {stamp(lineage.settled_at)}" if lineage.settled_at else "never settled"
    where = ", ".join(f"{place.sink}:{place.location}" for place in lineage.places)
    yield f"{settled}{f' at {where}' if where else ''}"
    if lineage.gone_at:
        yield f"gone at the provider since {stamp(lineage.gone_at)}"
    if lineage.open_state:
        yield f"open rotation: {lineage.open_state}: {lineage.open_message or 'in progress'}"
    if lineage.quarantined_at:
        yield f"quarantined since {stamp(lineage.quarantined_at)}: {lineage.quarantine_reason}"
    if lineage.drift:
        yield f"drift: {lineage.drift.kind}, heal {lineage.drift.heal}: {lineage.drift.message}"
    for old in lineage.retiring:
        yield f"retiring {old.token_id}, not before {stamp(old.due_at)}: {old.message or 'in grace'}"
    for watch in lineage.watches:
        yield f"a twin of create {watch.post_id} is watched for until {stamp(watch.until)}"
