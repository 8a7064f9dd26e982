"""`audit verify`, `audit report`: the proof of what was done, and what auditors want to see of it."""

from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePath

import click

from rotator.audit import Head, Verification, verify
from rotator.audit.files import opened
from rotator.audit.rendering import FORMATS, render
from rotator.audit.report import Collector, InputFile, Period, Report
from rotator.audit.verifying import Walk
from rotator.cli.main import FAILED, OK
from rotator.config import load
from rotator.journal.sqlite import Reader
from rotator.timing import parse_duration


def _day(_context: click.Context, option: click.Parameter, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
        is_date = len(text) == len("2026-01-31") and text[4] == text[7] == "-"
        if is_date or moment.tzinfo is not None:
            return moment.replace(tzinfo=UTC) if is_date else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise click.BadParameter(
        "must be a date such as 2026-01-31, or a moment such as 2026-01-31T12:00:00Z", param=option
    )


def _duration(_context: click.Context, option: click.Parameter, text: str) -> timedelta:
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param=option) from None


files_argument = click.argument("files", metavar="FILE...", nargs=-1, required=True)
anchor_option = click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    help="Also look for a cut tail, by what the journal knows.",
)


@click.group()
def audit() -> None:
    """Prove the audit trail, and report from it."""


@audit.command("verify")
@files_argument
@anchor_option
def audit_verify(files: tuple[str, ...], config_path: Path | None) -> int:
    """Walk the FILEs and report the first line that breaks the chain.

    Several files are what log rotation made of one, in any order, gzipped or not; - is standard input. With --config
    the journal says which line was the last, so that a tail that was cut off is found too.
    """
    anchor = known_head(config_path)
    found = verify(*files, anchor=anchor)
    is_good, said = verdict(found, anchor)
    click.echo(f"{_named(files)}: {said}")
    return OK if is_good else FAILED


def known_head(config_path: Path | None) -> Head | None:
    """Return the last line that the journal knows of; None without a config."""
    if config_path is None:
        return None
    reader = Reader(load(config_path).journal_path)
    try:
        return reader.audit_head() or Head()
    finally:
        reader.close()


@audit.command("report")
@files_argument
@click.option("--from", "start", required=True, metavar="DATE", callback=_day, help="Inclusive, UTC.")
@click.option("--to", "end", required=True, metavar="DATE", callback=_day, help="Exclusive, UTC.")
@click.option("--format", "form", type=click.Choice(FORMATS), default="markdown", show_default=True)
@click.option(
    "--tolerance",
    default="24h",
    show_default=True,
    callback=_duration,
    help="How long after its policy's limit a rotation is still in time.",
)
@anchor_option
def audit_report(
    files: tuple[str, ...], start: datetime, end: datetime, form: str, tolerance: timedelta, config_path: Path | None
) -> int:
    """Show what the FILEs say of a period, as evidence for auditors.

    The chain is proven first; a broken one is said at the top, and the exit code is 1. The same files, period and
    journal give the same bytes. DATE is 2026-01-31 or 2026-01-31T12:00:00Z.
    """
    if end <= start:
        raise click.UsageError("--to must be after --from")
    anchor = known_head(config_path)
    collector = Collector(Period(start, end, tolerance))
    with ExitStack() as stack:
        walk = Walk([stack.enter_context(opened(name)) for name in files], anchor)
        for line, is_proven in walk:
            collector.take(line.record, is_proven=is_proven)
        found, sources = walk.found, walk.sources
    is_whole, said = verdict(found, anchor)
    inputs = tuple(InputFile(PurePath(source.name).name, source.digest) for source in sources)
    report = Report(collector.evidence(), inputs, is_whole, said, found.lines, found.first_seq, found.head)
    click.echo(render(report, form), nl=False)
    return OK if is_whole else FAILED


def verdict(found: Verification, anchor: Head | None) -> tuple[bool, str]:
    """Return whether the chain holds, and the sentence that says so.

    Args:
        found: By the walk.
        anchor: See `known_head`.
    """
    if found.bad_line is not None:
        where = f"{found.bad_file}, line {found.bad_line}"
        return False, f"BROKEN at {where}: {found.problem} ({found.lines} good lines before it)"
    earlier = found.first_seq - 1
    since = f", continuing from line seq {earlier} of an earlier file that was not given" if earlier > 0 else ""
    is_complete, tail = _tail(found, anchor)
    ending = f"it ends at seq {found.head.seq}, hash {found.head.hash}"
    return is_complete, f"{found.lines} lines, the chain is whole{since}; {ending}; {tail}"


def _tail(found: Verification, anchor: Head | None) -> tuple[bool, str]:
    """Compare the last line with the head that the journal keeps."""
    if anchor is None:
        return True, "whether its tail was cut cannot be told without --config"
    if anchor == Head():
        return True, "the journal knows no head, so whether its tail was cut cannot be told"
    if found.head.seq < anchor.seq:
        said = f"but its TAIL WAS CUT, or its newest file not given: the journal saw line seq {anchor.seq}"
        return False, said
    if not found.anchored:
        return False, f"but the journal remembers line seq {anchor.seq}, which is BEFORE the first line given"
    behind = found.head.seq - anchor.seq
    if behind:  # a crash between the file and the journal leaves such lines; so does who writes some himself
        said = f"NOTHING VOUCHES for the last {behind} lines: the journal does not know them"
        return True, f"its tail is complete, but {said}"
    return True, "its tail is complete"


def _named(files: tuple[str, ...]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files"
