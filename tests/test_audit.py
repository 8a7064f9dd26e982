"""The audit trail: what it proves, and what it refuses to lose."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
import rfc8785
from hypothesis import example, given
from hypothesis import strategies as st

from rotator.audit import AuditFile, Author, Head, canonical, verify
from rotator.audit.chain import Line, line_hash, linked, parsed
from rotator.audit.chain import written as written_line
from rotator.errors import AuditUnavailable, ConfigError
from rotator.events import Event, EventName

AUTHOR = Author("sweep", "i1")


def event(number: int, name: str = "svc") -> Event:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    return Event(name=EventName.TOKEN_ROTATED, at=at, token_id=f"t{number}", token_name=name, message=f"m{number}")


def written(folder: Path, count: int = 6) -> Path:
    path = folder / "audit.jsonl"
    AuditFile(path, AUTHOR).append([event(n) for n in range(count)], None, durable=True)
    return path


def test_a_chain_of_several_writers_is_whole(tmp_path: Path) -> None:
    """Two processes that append in turn make one chain, in a file only the owner may read."""
    path = tmp_path / "audit.jsonl"
    first, second = AuditFile(path, AUTHOR), AuditFile(path, Author("run", "i2"))
    for number in range(10):
        (first if number % 3 else second).append([event(number)], None, durable=False)
    found = verify(path)
    assert (found.lines, found.bad_line, found.head.seq) == (10, None, 10)
    assert path.stat().st_mode & 0o777 == 0o600


def edited(lines: list[str]) -> list[str]:
    return [line.replace("m2", "mX") for line in lines]


def removed(lines: list[str]) -> list[str]:
    return lines[:2] + lines[3:]


def swapped(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[3], lines[2], *lines[4:]]


def doubled(lines: list[str]) -> list[str]:
    return [*lines[:2], lines[1], *lines[2:]]


def garbled(lines: list[str]) -> list[str]:
    return [*lines[:2], '{"seq": 3}\n', *lines[2:]]


@pytest.mark.parametrize("tamper", [edited, removed, swapped, doubled, garbled])
def test_tampering_is_found_at_its_line(tmp_path: Path, tamper: object) -> None:
    """An edit, removal, swap, copy or foreign line is reported at the first line that breaks the chain."""
    path = written(tmp_path)
    path.write_text("".join(tamper(path.read_text().splitlines(keepends=True))))  # type: ignore[operator]
    assert verify(path).bad_line == 3


def test_a_torn_line_is_cut_and_the_chain_goes_on(tmp_path: Path) -> None:
    """What a crash left half written was announced to nobody: the next append continues from the line before."""
    path = written(tmp_path)
    with path.open("a") as stream:
        stream.write('{"time": "2026-')
    assert verify(path).bad_line == 7
    AuditFile(path, AUTHOR).append([event(9)], None, durable=True)
    assert (verify(path).lines, verify(path).bad_line) == (7, None)


def test_a_new_file_continues_the_chain_of_the_one_rotated_away(tmp_path: Path) -> None:
    """After log rotation the first line follows the head that the journal remembers."""
    path = tmp_path / "audit.jsonl"
    AuditFile(path, AUTHOR).append([event(1)], Head(41, "a" * 64), durable=True)
    assert (verify(path).first_seq, verify(path).bad_line) == (42, None)


def test_hostile_names_stay_on_one_ascii_line(tmp_path: Path) -> None:
    """Newlines, escapes, emoji and lone surrogates in names neither forge lines nor break the chain."""
    path = tmp_path / "audit.jsonl"
    names = ["a\nb", "\x1b[2J", "é😀", "\ud800", '"}\n{"seq": 2}', "\u2028"]
    AuditFile(path, AUTHOR).append([event(n, name) for n, name in enumerate(names)], None, durable=True)
    raw = path.read_bytes()
    assert raw.isascii()
    assert raw.count(b"\n") == len(names)
    assert b"\x1b" not in raw
    assert verify(path).bad_line is None


def test_an_unwritable_trail_says_so(tmp_path: Path) -> None:
    """A folder in the file's place stops the append with a sentence; a missing file cannot be verified."""
    with pytest.raises(AuditUnavailable, match="cannot open the audit file"):
        AuditFile(tmp_path, AUTHOR).append([event(1)], None, durable=True)
    with pytest.raises(ConfigError, match="cannot read"):
        verify(tmp_path / "none")


def test_the_recipe_in_the_docstring_is_enough(tmp_path: Path) -> None:
    """Ten lines without our code recompute every hash."""
    import hashlib

    prev = "0" * 64
    for raw in written(tmp_path).read_text().splitlines():
        line = json.loads(raw)
        claimed = line.pop("hash")
        canonical = json.dumps(line, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        assert hashlib.sha256((prev + canonical).encode()).hexdigest() == claimed
        prev = claimed


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text(st.characters(max_codepoint=127))
VALUES = st.recursive(TEXT | st.integers(-(2**53) + 1, 2**53 - 1), lambda inner: st.dictionaries(KEYS, inner))


@given(st.dictionaries(KEYS, VALUES))
def test_lines_are_hashed_in_the_canonical_form_of_rfc_8785(record: dict[str, object]) -> None:
    """Whoever verifies the chain with another implementation comes to the same hashes."""
    assert canonical(record) == rfc8785.dumps(record)  # type: ignore[arg-type]


@given(st.dictionaries(KEYS, VALUES), st.integers(1, 2**53 - 1))
def test_a_line_is_read_back_whatever_it_holds(record: dict[str, object], seq: int) -> None:
    """Both readers of lines, the fast one and the one for escapes, come to the hash that was written."""
    said = {**record, "seq": seq, "prev_hash": "0" * 64}
    said.pop("hash", None)
    line = parsed(written_line({**said, "hash": line_hash("0" * 64, said)}))
    assert isinstance(line, Line)
    assert (line.head.seq, line.record) == (seq, said)
    spaced = json.dumps({**said, "hash": line.head.hash}).encode() + b"\n"
    assert parsed(spaced) == line


@given(st.dictionaries(KEYS, VALUES))
@example({"token": {"name": "a\x7fb"}})
@example({"message": "plain"})
def test_the_faster_codec_writes_the_very_same_line(record: dict[str, object]) -> None:
    """A line of ours has one form, whichever codec wrote it: ASCII, and nothing in it that a terminal obeys."""
    said = {key: value for key, value in record.items() if key != "hash"}
    claimed, raw = linked("0" * 64, said)
    assert claimed == line_hash("0" * 64, said)
    assert raw == written_line({**said, "hash": claimed})
    assert raw.decode("ascii").rstrip("\n").isprintable()
