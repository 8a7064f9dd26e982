"""What an auditor gets: from real rotations, the same every time, and harmless whatever the names are."""

import csv
import hashlib
import io
import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.audit import AuditFile, Author, Head
from rotator.audit.rendering import FORMATS
from rotator.events import Event, EventName
from rotator.model import Outcome, Reason
from tests.lab import lab

ROTATOR = [sys.executable, "-m", "rotator", "audit", "report"]
DAY = timedelta(days=1)
START = datetime(2026, 1, 1, tzinfo=UTC)


class Trail:
    """Writes a trail as the engine writes it, at chosen moments."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = AuditFile(path, Author("sweep", "host1"))
        self.head: Head | None = None

    def at(self, days: float, name: EventName, token: str = "", rotation: str = "", **facts: Any) -> None:
        """Write one fact, so many days after the new year."""
        about: dict[str, Any] = {"provider": "astro", "policy": "services", "rotation_id": rotation}
        if token:
            about |= {"token_id": token, "token_name": f"svc-{token}", "token_scope": "workspace"}
        said = Event(name=name, at=START + days * DAY, **(about | facts))
        self.head = self._file.append([said], self.head, durable=False)

    def rotation(self, days: float, token: str, due: float | None, **facts: Any) -> None:
        """Write a whole rotation that takes a minute; `due` is the day of its deadline."""
        name = f"r-{token}-{days}"
        reason = {"reason": facts.pop("reason", Reason.MAX_AGE)}
        limit = None if due is None else START + due * DAY
        self.at(days, EventName.ROTATION_INTENDED, token, name, deadline=limit, **reason, **facts)
        self.at(days + 0.0002, EventName.TOKEN_ROTATED, token, name, **reason)
        self.at(days + 0.0004, EventName.SECRET_DELIVERED, token, name, sink="vault", location=f"kv/{token}", **reason)
        self.at(days + 0.0006, EventName.ROTATION_SETTLED, token, name, outcome=Outcome.SETTLED, **reason)


def report(
    *files: Path, start: str = "2026-01-01", end: str = "2026-04-01", form: str = "json", extra: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ROTATOR, *map(str, files), "--from", start, "--to", end, "--format", form, *extra],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"TZ": "Pacific/Auckland"},
    )


def told(*files: Path, **chosen: Any) -> Any:
    ran = report(*files, **chosen)
    assert ran.returncode == 0, ran.stderr + ran.stdout
    return json.loads(ran.stdout)


@pytest.fixture
def trail(tmp_path: Path) -> Trail:
    return Trail(tmp_path / "audit.jsonl")


def quarter(trail: Trail) -> None:
    """A quarter with everything in it, and lines before and after it."""
    trail.at(-20, EventName.CONFIG_LOADED, message="the config file has the SHA-256 aaa")
    trail.rotation(-10, "early", -9)
    trail.at(-5, EventName.TOKEN_QUARANTINED, "stuck", "r-stuck", message="lost three times")
    trail.at(1, EventName.CONFIG_LOADED, message="the config file has the SHA-256 aaa")
    trail.rotation(2, "good", 3)
    trail.rotation(4, "justlate", 3.5)
    trail.rotation(10, "late", 3)
    trail.rotation(11, "expired", 12, expires_at=START + 10 * DAY)
    trail.rotation(12, "older", None)
    trail.at(13, EventName.CONFIG_LOADED, message="the config file has the SHA-256 bbb")
    trail.at(14, EventName.TOKEN_LEAKED, "leaked", message="found in a public repository")
    trail.rotation(14.01, "leaked", 60, reason=Reason.LEAKED, message="found in a public repository")
    trail.at(20, EventName.ROTATION_INTENDED, "open", "r-open", deadline=START + 30 * DAY, reason=Reason.MAX_AGE)
    trail.at(20.1, EventName.ROTATION_LOST, "open", "r-open", message="moved, and the answer never came")
    trail.at(20.2, EventName.TOKEN_ROTATED, "open", "r-open")
    for hour in range(3):
        failed = {"sink": "vault", "location": "kv/open", "message": "vault: sealed"}
        trail.at(21 + hour / 24, EventName.DELIVERY_FAILED, "open", "r-open", **failed)
    trail.at(21.2, EventName.ROTATION_UNSETTLED, "open", "r-open", message="vault: sealed")
    trail.at(25, EventName.TOKEN_RELEASED, "stuck", message="a person says: the quarantine is lifted")
    trail.at(30, EventName.PLAN_REFUSED, message="9 of 10 tokens are due, max_percent 30 allows 3")
    trail.at(31, EventName.PLAN_ACCEPTED, policy="", message="a person accepted plan 123")
    trail.at(40, EventName.SWEEP_FINISHED, tokens=12, outcome=Outcome.SETTLED)
    trail.at(90, EventName.DRIFT_FOUND, "good", message="2026-04-01 exactly: outside")


def test_the_report_says_what_happened_in_the_period(trail: Trail) -> None:
    """Who, what, when, why, in time or late; what was open and for how long; leaks, hands, exceptions, changes."""
    quarter(trail)
    found = told(trail.path)
    verdicts = {row["token_id"]: row["verdict"] for row in found["rotations"]}
    assert verdicts == {
        "good": "in policy", "justlate": "in policy", "late": "late", "expired": "after expiry", "older": "unknown",
        "leaked": "in policy", "open": "in policy",
    }  # fmt: skip
    late = next(row for row in found["rotations"] if row["token_id"] == "late")
    assert (late["actor"], late["instance"], late["reason"]) == ("sweep", "host1", "max_age")
    assert (late["late_s"], late["deadline"]) == (7 * 86400 + 17, "2026-01-04T00:00:00.000Z")
    assert (late["delivered"], late["outcome"]) == ("vault:kv/late", "settled")
    [policy] = [row for row in found["policies"] if row["policy"] == "services"]
    assert {name: policy[name] for name in ("tokens", "rotations", "tokens_rotated", "tokens_settled")} == {
        "tokens": 12, "rotations": 7, "tokens_rotated": 7, "tokens_settled": 6,
    }  # fmt: skip
    states = [(row["state"], row["token_id"], row["until"] is None, row["lasted_s"]) for row in found["open_states"]]
    assert states == [
        ("quarantined", "stuck", False, 30 * 86400),
        ("lost", "open", False, 8640),
        ("unsettled", "open", True, round((90 - 21.2) * 86400)),
    ]
    [leak] = found["leaks"]
    assert (leak["message"], leak["rotated_after_s"], leak["settled_after_s"]) == (
        "found in a public repository", 881, 916,
    )  # fmt: skip
    exceptions = {(row["event"], row["count"]) for row in found["exceptions"]}
    assert exceptions == {
        ("delivery_failed", 3), ("rotation_lost", 1), ("rotation_unsettled", 1), ("plan_refused", 1),
        ("plan_accepted", 1), ("token_leaked", 1),
    }  # fmt: skip
    hands = [row["event"] for row in found["by_hand"]]
    assert hands == ["token_leaked", "rotation_intended", "token_released", "plan_accepted"]
    assert [row["message"][-3:] for row in found["config_changes"]] == ["bbb"]
    assert found["summary"]["late"] == 1
    assert found["period"]["as_of"] == "2026-04-01T00:00:00.000Z"


def test_the_end_of_an_overlap_is_told_with_its_rotation(trail: Trail) -> None:
    """An old token that was ended after its grace has the moment in its rotation's row; a refusal stays."""
    trail.rotation(2, "old", 3)
    trail.at(9, EventName.TOKEN_RETIRED, "old", message="unused since 7d")
    trail.at(10, EventName.ROTATION_INTENDED, "no", "r-no", deadline=START + 9 * DAY, reason=Reason.MAX_AGE)
    trail.at(11, EventName.ROTATION_REFUSED, "no", "r-no", message="409")
    trail.at(80, EventName.SWEEP_FINISHED, tokens=2)
    found = told(trail.path)
    old, no = found["rotations"]
    assert (old["old_ended_at"], found["summary"]["tokens_ended"]) == ("2026-01-10T00:00:00.000Z", 1)
    assert (no["verdict"], no["outcome"], no["late_s"]) == ("not rotated", "refused", 2 * 86400)
    assert found["period"]["as_of"] == "2026-03-22T00:00:00.000Z"


def test_the_tolerance_decides_what_is_late(trail: Trail) -> None:
    """With none, every second after the limit counts."""
    quarter(trail)
    found = told(trail.path, extra=("--tolerance", "1s"))
    assert found["summary"]["late"] == 2


@pytest.mark.parametrize("form", FORMATS)
def test_the_same_input_gives_the_same_bytes(trail: Trail, form: str, tmp_path: Path) -> None:
    """Today or in a year, in whichever zone and order of files; the input's hash is in it."""
    quarter(trail)
    lines = trail.path.read_text().splitlines(keepends=True)
    older = tmp_path / "audit.jsonl.1"
    older.write_text("".join(lines[:20]))
    trail.path.write_text("".join(lines[20:]))
    first, second = report(trail.path, older, form=form), report(older, trail.path, form=form)
    assert first.stdout == second.stdout
    assert first.returncode == 0
    assert hashlib.sha256(older.read_bytes()).hexdigest() in first.stdout


def test_a_broken_chain_is_said_at_the_top(trail: Trail) -> None:
    """Exit 1, in the first lines of every format, with how much stands behind the break."""
    quarter(trail)
    trail.path.write_text(trail.path.read_text().replace("svc-late", "svc-mate", 1))
    for form in FORMATS:
        ran = report(trail.path, form=form)
        assert ran.returncode == 1
        assert "BROKEN at" in "\n".join(ran.stdout.splitlines()[:16]), form
        assert "edited: its hash does not match" in ran.stdout
    found = json.loads(report(trail.path).stdout)
    assert found["chain"]["whole"] is False
    assert found["chain"]["unproven_lines"] > 10
    assert "THIS REPORT PROVES NOTHING BEYOND" in report(trail.path, form="markdown").stdout


HOSTILE = [
    "=cmd()|' /C calc'!A0", "|", "@SUM(1)", "-1+1", "a|b\n| c |", "<script>alert(1)</script>", "`x`", "\x1b[2J",
    "[x](http://evil.example)", "https://evil.example", "www.evil.example", "\u202egpj", '"q",x', "\ttab=1", "＝1+1",
]  # fmt: skip


def hostile(trail: Trail) -> None:
    for number, name in enumerate(HOSTILE):
        facts = {"token_name": name, "location": name, "sink": "s", "message": name}
        trail.at(1 + number / 100, EventName.ROTATION_INTENDED, f"t{number}", f"r{number}", **facts)
        trail.at(1.5 + number / 100, EventName.DELIVERY_FAILED, f"t{number}", f"r{number}", **facts)


def test_no_name_becomes_a_formula_in_a_spreadsheet(trail: Trail) -> None:
    """Every row has as many cells as the head, ends in CRLF, and no cell starts as a formula does."""
    hostile(trail)
    raw = subprocess.run(
        [*ROTATOR, str(trail.path), "--from", "2026-01-01", "--to", "2027-01-01", "--format", "csv"],
        capture_output=True,
        check=True,
    ).stdout
    assert raw.count(b"\n") == raw.count(b"\r\n")
    rows = list(csv.reader(io.StringIO(raw.decode(), newline="")))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@|%\t\r＝＋－＠")]
    assert "'=cmd()|' /C calc'!A0" in cells
    assert b"\x1b" not in raw


def test_no_name_breaks_out_of_its_cell_in_markdown(trail: Trail) -> None:
    """Rendered by a real CommonMark parser with tables and links, no name is markup, link, or another cell."""
    markdown_it = pytest.importorskip("markdown_it")
    hostile(trail)
    text = report(trail.path, form="markdown", end="2027-01-01").stdout
    assert "\x1b" not in text
    renderer = markdown_it.MarkdownIt("commonmark", {"html": True}).enable("table")
    html = renderer.render(text)
    assert "<script" not in html
    assert "<a " not in html
    assert "<code>" not in html
    for table in html.split("<table>")[1:]:
        widths = [row.count("<td") or row.count("<th") for row in table.split("<tr>")[1:]]
        assert len(set(widths)) == 1
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert r"https\://evil.example" in text
    assert r"www\.evil.example" in text


@pytest.mark.parametrize("line", ["[]", "{}", '{"time":5,"token":[]}', '{"time":"2026-01-02"}', "null", '"x"', "{"])
def test_a_foreign_line_is_a_break_and_no_crash(trail: Trail, line: str) -> None:
    """Whatever stands in the file, the report says where, and shows the rest."""
    trail.rotation(1, "a", 2)
    content = trail.path.read_text()
    trail.path.write_text(f"{line}\n{content}")
    ran = report(trail.path)
    assert ran.returncode == 1
    assert json.loads(ran.stdout)["summary"]["rotations"] == 1


@pytest.mark.parametrize(
    ("start", "end"),
    [("2026-1-1", "2026-02-01"), ("2026-02-01", "2026-01-01"), ("2026-01-01T00:00:00", "2026-02-01"), ("x", "y")],
)
def test_a_wrong_period_is_a_usage_error(trail: Trail, start: str, end: str) -> None:
    """A moment without a zone, an end before the start, or no date at all: exit 2."""
    trail.rotation(1, "a", 2)
    assert report(trail.path, start=start, end=end).returncode == 2


def test_real_rotations_are_told_with_their_deadlines(tmp_path: Path) -> None:
    """A sweep over an API whose tokens are long overdue: each rotation has its deadline, and the policy its number."""
    with lab(tmp_path) as bench:
        due = bench.due_ids()
        bench.sweep()
        assert bench.clock is not None
        end = (bench.clock.now() + DAY).date().isoformat()
        config = ("--config", str(bench.config_path))
        found = told(tmp_path / "audit.jsonl", start="2020-01-01", end=end, extra=config)
        rows = {row["token_id"]: row for row in found["rotations"]}
        assert set(rows) == set(due) != set()
        for row in rows.values():
            token = bench.sandbox.store.tokens[row["token_id"]]
            assert row["verdict"] in ("late", "in policy", "after expiry")
            assert row["deadline"] < row["rotated_at"]
            assert (row["outcome"], row["actor"], token.name) == ("settled", "test", row["token_name"])
        [policy] = found["policies"]
        assert policy["tokens"] >= len(due)
        assert "its tail is complete" in found["chain"]["verdict"]
