"""Tables for people and JSON for programs; all text of the API is made visible before it reaches a terminal."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, TextIO

from rotator.engine.desk import Result
from rotator.model import Token
from rotator.planning import Candidate
from rotator.text import visible
from rotator.timing import spoken, stamp

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def console() -> "Console":
    """Return the console for results; wide enough for a table where there is no terminal."""
    from rich.console import Console  # noqa: PLC0415 - an idle sweep of a timer prints no table

    return Console(file=sys.stdout, width=None if sys.stdout.isatty() else 180, highlight=False, soft_wrap=False)


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
        row["strategy"] = candidate.policy.strategy
        row["deliveries"] = [f"{place.sink}:{place.location}" for place in candidate.places]
    return row | {"reason": str(decision.due or decision.skip), "message": decision.message}


def result_row(result: Result) -> dict[str, object]:
    """Return what came of a token as JSON."""
    return {
        "token_id": result.token_id,
        "name": result.name,
        "scope": result.scope,
        "policy": result.policy,
        "strategy": "in_place",
        "reason": str(result.reason),
        "message": result.message,
        "rotation_id": result.rotation_id,
        "deliveries": list(result.locations),
    }


def write_json(
    value: Mapping[str, object], streams: Mapping[str, Iterable[object]] = {}, out: TextIO | None = None
) -> None:
    """Write one JSON object, with lists that are too long for memory written row by row.

    Args:
        value: Written first.
        streams: Key to rows, after `value`.
        out: Standard output if not given.
    """
    out = out or sys.stdout
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


def moment(at: datetime | None) -> str | None:
    """Return a moment for JSON."""
    return stamp(at) if at else None
