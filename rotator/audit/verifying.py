"""Walks audit files, in the order of their lines, and proves the chain: `audit verify`, and first thing in a report."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from rotator.audit.chain import Head, Line, claimed_seq, link_problem, parsed
from rotator.audit.files import CUT_SHORT, Source, opened


@dataclass(frozen=True, slots=True)
class Verification:
    """What a walk found.

    Attributes:
        lines: Good lines before the first bad one.
        head: Of the last good line before it.
        first_seq: Of the first line; more than 1 where earlier files are not given.
        bad_line: The number of the first bad line in its file, from 1; None if all are good.
        bad_file: That file.
        problem: What is wrong with it.
        anchored: Whether the line that the journal names as its last was found, and is that very line.
    """

    lines: int
    head: Head
    first_seq: int
    bad_line: int | None = None
    problem: str = ""
    bad_file: str = ""
    anchored: bool = False


@dataclass
class Walk:
    """One pass over the lines of sources.

    Args:
        sources: In any order; they are walked by the number of their first lines.
        anchor: The head that the journal keeps, read before the files were opened.
    """

    sources: Sequence[Source]
    anchor: Head | None = None
    found: Verification = field(init=False, default=Verification(0, Head(), 0))

    def __iter__(self) -> Iterator[tuple[Line, bool]]:
        """Yield every line that is whole by itself, and whether the chain is proven up to it.

        After the first bad line it goes on, for a report shall show what stands there; `found` stays with that line.

        Raises:
            ConfigError: A file cannot be read.
        """
        before: Head | None = None
        self.sources = sorted(self.sources, key=lambda source: (_first_seq(source), source.name))
        for source in self.sources:
            for number, raw in enumerate(source.lines(), 1):
                line = "the file cannot be unpacked from here on" if raw is CUT_SHORT else parsed(raw)
                if isinstance(line, str):
                    self._note(source, number, line)
                    continue
                self._judge(source, number, line, before)
                before = line.head
                yield line, self.found.bad_line is None

    def _judge(self, source: Source, number: int, line: Line, before: Head | None) -> None:
        if self.found.bad_line is not None:
            return
        problem = link_problem(line, before)
        if not problem and self._contradicts(line):
            problem = "the journal remembers another line of this number: the file was rewritten"
        if problem:
            self._note(source, number, problem)
            return
        known = self.found
        self.found = Verification(
            known.lines + 1,
            line.head,
            known.first_seq or line.head.seq,
            anchored=known.anchored or line.head == self.anchor,
        )

    def _contradicts(self, line: Line) -> bool:
        return self.anchor is not None and line.head.seq == self.anchor.seq and line.head.hash != self.anchor.hash

    def _note(self, source: Source, number: int, problem: str) -> None:
        known = self.found
        if known.bad_line is None:
            self.found = Verification(
                known.lines, known.head, known.first_seq, number, problem, source.name, known.anchored
            )


def verify(*paths: Path | str, anchor: Head | None = None) -> Verification:
    """Walk files up to the first line that breaks the chain.

    Args:
        paths: In any order; `-` is standard input.
        anchor: See `Walk`.

    Raises:
        ConfigError: A file cannot be read.
    """
    with ExitStack() as stack:
        walk = Walk([stack.enter_context(opened(str(path))) for path in paths], anchor)
        for _, is_proven in walk:
            if not is_proven:
                break
        return walk.found


def _first_seq(source: Source) -> int:
    """Return the number of the first line; what does not say one is looked at first, and found bad there."""
    return claimed_seq(source.peek())
