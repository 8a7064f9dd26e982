"""A report as Markdown, CSV or JSON. Pure; the same report gives the same bytes.

Names and messages in it come from whoever may edit a token: in Markdown they can neither end a cell, nor link, nor
become HTML, in CSV no spreadsheet takes them for a formula.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from rotator.audit.report import Evidence, PolicyRow, Report, RotationRow
from rotator.text import visible
from rotator.timing import spoken, stamp

FORMATS = ("markdown", "csv", "json")
_LONGEST = 300
_MARKDOWN = re.compile(r"[\\`*_\[\]<>|#~!&$@]|:(?=//)|(?<=www)\.", re.IGNORECASE)
_FORMULA = re.compile("[=+@|%＝＋－＠-]")
Row = Mapping[str, object]


def render(report: Report, form: str) -> str:
    """Return a report in one of `FORMATS`."""
    return _RENDERERS[form](report)


def json_text(report: Report) -> str:
    """Return one object with stable keys; text in it is as it stands in the trail."""
    evidence = report.evidence
    whole = {
        "version": 1,
        "period": {
            "from": stamp(evidence.period.start),
            "to": stamp(evidence.period.end),
            "as_of": stamp(evidence.as_of),
            "tolerance_s": _seconds(evidence.period.tolerance),
        },
        "chain": _chain(report),
        "files": [{"name": file.name, "sha256": file.digest} for file in report.files],
        "summary": summary(evidence),
        **{name: list(rows) for name, rows in _sections(evidence).items()},
    }
    return json.dumps(whole, indent=2) + "\n"


def csv_text(report: Report) -> str:
    """Return RFC 4180 text: one table, its first column says what a row is about."""
    files: list[Row] = [{"name": file.name, "sha256": file.digest} for file in report.files]
    every: dict[str, list[Row]] = {"chain": [_chain(report)], "files": files, "summary": [summary(report.evidence)]}
    every |= _sections(report.evidence)
    columns = list(dict.fromkeys(name for name, _ in _COLUMNS))
    columns += sorted({name for rows in every.values() for row in rows for name in row} - set(columns))
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow(["record", *columns])
    for kind, rows in every.items():
        for row in rows:
            writer.writerow([kind, *(_cell(row.get(name)) for name in columns)])
    return out.getvalue()


def markdown(report: Report) -> str:
    """Return a document that an auditor reads."""
    evidence = report.evidence
    parts = [
        "# Rotation of API tokens: evidence",
        _verdict(report),
        f"Period: from {stamp(evidence.period.start)} to {stamp(evidence.period.end)} (exclusive), UTC.\n"
        f"Durations count up to {stamp(evidence.as_of)}. A rotation is late when it came more than"
        f" {spoken(evidence.period.tolerance)} after its policy's limit, or after the old secret had expired.",
        "## Input",
        _table([{"File": file.name, "SHA-256": file.digest} for file in report.files]),
        "## Summary",
        _table([{"What": name.replace("_", " "), "Count": value} for name, value in summary(evidence).items()]),
    ]
    for title, rows, nothing in _chapters(evidence):
        parts += [f"## {title}", _table(rows) if rows else nothing]
    return "\n\n".join(parts) + "\n"


def summary(evidence: Evidence) -> dict[str, int]:
    """Return the figures of the first page."""
    rows = evidence.rotations
    verdicts = [row.verdict for row in rows]
    return {
        "lines": evidence.lines,
        "unproven_lines": evidence.unproven,
        "lines_without_a_readable_time": evidence.undated,
        "rotations": len(rows),
        "in_policy": verdicts.count("in policy"),
        "late": verdicts.count("late"),
        "after_expiry": verdicts.count("after expiry"),
        "without_a_known_deadline": verdicts.count("unknown"),
        "not_rotated": verdicts.count("not rotated"),
        "settled": sum(row.settled_at is not None for row in rows),
        "tokens_ended": evidence.ended,
        "leaks": len(evidence.leaks),
        "actions_by_hand": len(evidence.by_hand),
        "still_open": sum(row.until is None for row in evidence.episodes),
        "exceptions": len(evidence.exceptions),
        "config_changes": len(evidence.config_changes),
    }


def _verdict(report: Report) -> str:
    said = _escaped(report.verdict)
    if report.is_whole:
        return f"**The audit chain is proven**: {said}."
    unproven = f" {report.evidence.unproven} lines of this report stand behind that place and prove nothing."
    return f"**THE AUDIT CHAIN IS BROKEN. THIS REPORT PROVES NOTHING BEYOND THAT PLACE.** {said}.{unproven}"


def _chain(report: Report) -> Row:
    return {
        "whole": report.is_whole,
        "verdict": report.verdict,
        "lines": report.lines,
        "first_seq": report.first_seq,
        "head_seq": report.head.seq,
        "head_hash": report.head.hash,
        "unproven_lines": report.evidence.unproven,
    }


def _sections(evidence: Evidence) -> dict[str, list[Row]]:
    """Return every table, with stable keys and plain values."""
    return {
        "policies": [_policy(row, evidence) for row in evidence.policies],
        "rotations": [_rotation(row) for row in evidence.rotations],
        "leaks": [
            {
                **_token(row), "at": stamp(row.at), "actor": row.actor, "message": row.note,
                "rotated_at": _stamp(row.rotated_at), "settled_at": _stamp(row.settled_at),
                "rotated_after_s": _seconds(row.rotated_at - row.at) if row.rotated_at else None,
                "settled_after_s": _seconds(row.settled_at - row.at) if row.settled_at else None,
            }
            for row in evidence.leaks
        ],
        "by_hand": [
            {
                **_token(row), "at": stamp(row.at), "event": row.event, "actor": row.actor, "instance": row.instance,
                "reason": row.reason, "rotation_id": row.rotation_id, "message": row.message,
            }
            for row in evidence.by_hand
        ],
        "open_states": [
            {
                **_token(row), "state": row.kind, "rotation_id": row.rotation_id, "since": stamp(row.since),
                "until": _stamp(row.until), "lasted_s": _seconds(row.lasted(evidence.as_of)), "message": row.why,
            }
            for row in evidence.episodes
        ],
        "exceptions": [
            {
                **_token(row), "event": row.event, "first_at": stamp(row.first_at), "last_at": stamp(row.last_at),
                "count": row.count, "rotation_id": row.rotation_id, "sink": row.sink, "location": row.location,
                "message": row.message,
            }
            for row in evidence.exceptions
        ],
        "config_changes": [
            {"at": stamp(row.at), "actor": row.actor, "instance": row.instance, "message": row.message}
            for row in evidence.config_changes
        ],
    }  # fmt: skip


def _rotation(row: RotationRow) -> Row:
    return {
        **_token(row),
        "scope": row.token_scope,
        "rotation_id": row.id,
        "actor": row.actor,
        "instance": row.instance,
        "reason": row.reason,
        "message": row.why,
        "intended_at": stamp(row.intended_at),
        "rotated_at": _stamp(row.rotated_at),
        "settled_at": _stamp(row.settled_at),
        "old_ended_at": _stamp(row.ended_at),
        "deadline": _stamp(row.deadline),
        "old_expires_at": _stamp(row.expires_at),
        "verdict": row.verdict,
        "late_s": _seconds(row.late),
        "outcome": row.outcome,
        "delivered": " ".join(row.delivered),
        "delivery_failures": row.failures,
        "losses": row.losses,
    }


def _policy(row: PolicyRow, evidence: Evidence) -> Row:
    lasted = [
        episode.lasted(evidence.as_of)
        for episode in evidence.episodes
        if (episode.provider, episode.policy) == (row.provider, row.name)
    ]
    return {
        "provider": row.provider,
        "policy": row.name,
        "tokens": row.owned,
        "rotations": row.rotations,
        "tokens_rotated": len(row.rotated),
        "tokens_settled": len(row.settled),
        "tokens_unsettled": len(row.unsettled),
        "tokens_lost": len(row.lost),
        "tokens_quarantined": len(row.quarantined),
        "tokens_still_open": len(row.still_open),
        "longest_open_s": _seconds(max(lasted, default=timedelta())),
        "late": row.late,
        "after_expiry": row.after_expiry,
        "unknown_deadline": row.unknown,
        "not_rotated": row.not_rotated,
    }


_COLUMNS = (
    ("provider", "Provider"), ("policy", "Policy"), ("token_id", "Token id"), ("token_name", "Token"), ("at", "At"),
    ("event", "Event"), ("state", "State"), ("actor", "Actor"), ("instance", "Instance"), ("reason", "Reason"),
    ("message", "Message"), ("rotation_id", "Rotation"), ("verdict", "Verdict"), ("outcome", "Outcome"),
    ("intended_at", "Intended"), ("rotated_at", "Rotated"), ("settled_at", "Settled"), ("deadline", "Deadline"),
    ("late_s", "Late, s"), ("since", "Since"), ("until", "Until"), ("lasted_s", "Lasted, s"), ("first_at", "First"),
    ("last_at", "Last"), ("count", "Times"), ("sink", "Sink"), ("location", "Place"),
)  # fmt: skip


def _chapters(evidence: Evidence) -> Iterable[tuple[str, Sequence[Row], str]]:
    sections = _sections(evidence)
    yield (
        "Coverage by policy",
        [_read(row) for row in sections["policies"]],
        "No policy appears in the lines of the period.",
    )
    yield "Rotations", [_read(row) for row in sections["rotations"]], "No rotation in the period."
    yield "Leaks", [_read(row) for row in sections["leaks"]], "No leak was reported in the period."
    yield "By hand", [_read(row) for row in sections["by_hand"]], "Nothing was done by hand in the period."
    states = "Unsettled, in doubt, lost, quarantined"
    yield states, [_read(row) for row in sections["open_states"]], "No token was in such a state in the period."
    yield "Exceptions", [_read(row) for row in sections["exceptions"]], "No exception in the period."
    changes = [_read(row) for row in sections["config_changes"]]
    yield "Changes of the configuration", changes, "The configuration did not change in the period."


def _read(row: Row) -> Row:
    """Return a row for people: durations in words, headings with capitals."""
    return {
        name.removesuffix("_s").replace("_", " ").capitalize(): spoken(timedelta(seconds=value))
        if name.endswith("_s") and isinstance(value, int)
        else value
        for name, value in row.items()
    }


def _token(row: object) -> dict[str, object]:
    names = ("provider", "policy", "token_id", "token_name")
    return {name: getattr(row, name) for name in names}


def _table(rows: Sequence[Row]) -> str:
    """Return a table without the columns that are empty in every row."""
    names = [name for name in (rows[0] if rows else ()) if any(row[name] not in ("", None) for row in rows)]
    lines = [names, ["---"] * len(names), *([_escaped(_plain(row[name])) for name in names] for row in rows)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def _plain(value: object) -> str:
    return "" if value is None else str(value)


def _escaped(text: str) -> str:
    """Return untrusted text as Markdown shows it, on one line.

    Source: CommonMark 0.31, 2.4: a backslash before ASCII punctuation makes it literal; GFM 4.10 on cells.
    """
    return _MARKDOWN.sub(r"\\\g<0>", visible(text, _LONGEST))


def _cell(value: object) -> str:
    """Return a cell that no spreadsheet takes for a formula.

    Source: OWASP, CSV Injection: a leading =, +, -, @, tab or line end is defused by an apostrophe.
    """
    text = visible(_plain(value), 4096)
    return f"'{text}" if isinstance(value, str) and _FORMULA.match(text.lstrip(" \"'")) else text


def _stamp(moment: datetime | None) -> str | None:
    return stamp(moment) if moment is not None else None


def _seconds(duration: timedelta) -> int:
    return round(duration.total_seconds())


_RENDERERS = dict(zip(FORMATS, (markdown, csv_text, json_text), strict=True))
