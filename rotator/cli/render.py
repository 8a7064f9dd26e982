"""Tables for people and JSON for programs; all text of the API is made visible before it reaches a terminal."""

import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from rotator.engine.desk import Result
from rotator.errors import RotatorError
from rotator.model import Step, Strategy, Token
from rotator.planning import Candidate
from rotator.text import visible
from rotator.timing import spoken, stamp

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console(out: TextIO | None = None) -> "Console":
    """Return the console for results; wide enough for a table where there is no terminal.

    Args:
        out: Standard output if not given.
    """
    from rich.console import Console  # noqa: PLC0415 - an idle sweep of a timer prints no table

    out = out or sys.stdout
    return Console(file=out, width=None if out.isatty() else 180, highlight=False, soft_wrap=False)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> "Table":
    """Return a table; cells are plain text, whatever brackets they hold."""
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415

    made = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        made.add_row(*[Text(visible(cell, 300)) for cell in row])
    return made


def facts(values: Mapping[str, object]) -> "Table":
    """Return one thing as keys and values; what is no text is shown as JSON."""
    from rich.table import Table  # noqa: PLC0415 - see above
    from rich.text import Text  # noqa: PLC0415

    made = Table(show_header=False, box=None, pad_edge=False)
    made.add_column(style="bold")
    made.add_column(overflow="fold")
    for key, value in values.items():
        text = value if isinstance(value, str) else json.dumps(value)
        made.add_row(Text(visible(key)), Text(visible(text, 2000)))
    return made


def ago(moment: datetime | None, now: datetime) -> str:
    """Return "3d 4h ago" or "in 3d 4h"; a dash for never."""
    if moment is None:
        return "-"
    return f"{spoken(now - moment)} ago" if moment <= now else f"in {spoken(moment - now)}"


def candidate_row(candidate: Candidate | tuple[Token, None]) -> dict[str, object]:
    """Return a token of a plan as JSON."""
    if isinstance(candidate, tuple):
        token = candidate[0]
        message = "no policy selects it"
        return {"token_id": token.id, "name": token.name, "policy": "", "reason": "not_selected", "message": message}
    token, decision = candidate.token, candidate.decision
    row: dict[str, object] = {
        "token_id": token.id,
        "name": token.name,
        "scope": str(token.scope),
        "policy": candidate.policy.name,
    }
    if decision.due is not None:
        row["strategy"] = str(candidate.strategy)
        row["deliveries"] = [f"{place.sink}:{place.location}" for place in candidate.places]
    return row | {"reason": str(decision.due or decision.skip), "message": decision.message}


def ending_row(row: Candidate) -> dict[str, object]:
    """Return an old member, or a left-over twin, that is to be ended as JSON."""
    return {
        "token_id": row.token.id,
        "name": row.token.name,
        "scope": str(row.token.scope),
        "policy": row.policy.name,
        "strategy": str(Strategy.OVERLAP),
        "reason": str(Step.RETIRE),
        "message": row.decision.message,
    }


def result_row(result: Result) -> dict[str, object]:
    """Return what came of a token as JSON."""
    return {
        "token_id": result.token_id,
        "name": result.name,
        "scope": result.scope,
        "policy": result.policy,
        "strategy": str(result.strategy),
        "reason": str(result.reason or "retire"),
        "message": result.message,
        "rotation_id": result.rotation_id,
        "deliveries": list(result.locations),
    }


def errors(failed: Mapping[str, RotatorError]) -> Iterator[dict[str, str]]:
    """Yield what went wrong with which provider, as far as it has when this is asked for the first one."""
    for provider, error in failed.items():
        yield {"provider": provider, "message": error.message}


def write_json(
    value: Mapping[str, object], streams: Mapping[str, Iterable[object]] = {}, out: TextIO | None = None
) -> None:
    """Write one JSON object, with lists that are too long for memory written row by row.

    Args:
        value: Written first.
        streams: Key to rows, after `value`; made one after the other.
        out: Standard output if not given.
    """
    out = out or sys.stdout
    streams = {key: rows if number else _begun(rows) for number, (key, rows) in enumerate(streams.items())}
    body = json.dumps(value, indent=2)
    out.write(body.removesuffix("}").rstrip() if streams else body)
    comma = "," if value else ""
    for key, rows in streams.items():
        out.write(f"{comma}\n  {json.dumps(key)}: [")
        for number, row in enumerate(rows):
            out.write(f"{',' if number else ''}\n    {json.dumps(row)}")
        out.write("\n  ]")
        comma = ","
    out.write("\n}\n" if streams else "\n")


def write_json_array(rows: Iterable[object]) -> None:
    """Write a JSON array to standard output, row by row."""
    begun = _begun(rows)
    sys.stdout.write("[")
    for number, row in enumerate(begun):
        sys.stdout.write(f"{',' if number else ''}\n  {json.dumps(row)}")
    sys.stdout.write("\n]\n")


def _begun(rows: Iterable[object]) -> Iterator[object]:
    """Return the rows with the first one made: what cannot be listed at all fails before anything is written."""
    left = iter(rows)
    return itertools.chain(list(itertools.islice(left, 1)), left)


def moment(at: datetime | None) -> str | None:
    """Return a moment for JSON."""
    return stamp(at) if at else None
