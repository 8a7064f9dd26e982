"""`python -m tests.proof`: try the whole matrix and print it as the table that README shows."""

import sys

from tests.proof.matrix import Tally, whole


def table(tallies: list[Tally]) -> str:
    """Return the matrix as Markdown."""
    lines = [
        "| what is under way | steps | deaths | faults | death, then fault | cases | violations |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [(t.scenario, t.steps, t.deaths, t.faults, t.both, t.cases, len(t.broken)) for t in tallies]
    rows.append(("**together**", *[sum(row[column] for row in rows) for column in range(1, 7)]))  # type: ignore[misc]
    lines += ["| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Print the table, and each violation below it."""
    tallies, seconds = whole()
    print(table(tallies))
    broken = [said for tally in tallies for said in tally.broken]
    print(f"\n{sum(t.cases for t in tallies):,} cases in {seconds:.0f} s, {len(broken)} violations")
    for said in broken:
        print(said)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
