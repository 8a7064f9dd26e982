"""`audit verify`: the proof of what was done."""

from pathlib import Path

import click

from rotator.audit import Head, Verification, verify
from rotator.cli.main import FAILED, OK
from rotator.config import load
from rotator.journal.sqlite import Reader

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
    return True, "its tail is complete"


def _named(files: tuple[str, ...]) -> str:
    return files[0] if len(files) == 1 else f"{len(files)} files"
