"""`python -m rotator.testing [pytest's arguments]`: run the kit's behaviours and print which sink keeps which."""

import os
import sys

_PYTEST = ["-m", "pytest", "-p", "rotator.testing.plugin", "--rotator-conformance"]


if __name__ == "__main__":
    # A process of its own: pytest explains the assertions only of what it imports itself.
    os.execv(sys.executable, [sys.executable, *_PYTEST, *sys.argv[1:]])  # noqa: S606 - no shell is what is wanted
