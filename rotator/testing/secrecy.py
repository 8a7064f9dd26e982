"""Nothing prints a secret: not a repr, not an error, not a log line at any level, not a warning."""

import base64
import logging
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from rotator.errors import RotatorError
from rotator.testing.base import Behaviours, trait, within
from rotator.testing.harness import Harness
from rotator.testing.values import CANARY, OTHER, mint


class Secrecy(Behaviours):
    """A canary is looked for wherever something is said."""

    def test_it_shows_no_secret(self, harness: Harness) -> None:
        """Neither place, receipt, what is held nor the sink itself shows the secret when printed."""
        place = self.place(harness)
        receipt = harness.sink.deliver(place, mint())
        held = harness.sink.read_back(place)
        shown = (place, receipt, held, harness.sink, getattr(harness.sink, "__dict__", {}))
        assert "canary" not in repr(shown) + str(shown)

    def test_it_says_no_secret(self, harness: Harness, capfd: pytest.CaptureFixture[str]) -> None:
        """Nothing of a secret is logged, at any level, nor printed, nor warned of, also when things fail."""
        place = self.place(harness)
        capfd.readouterr()
        with _heard(trait(harness, "outside_loggers")) as said:
            harness.sink.preflight(place)
            for made in (mint(OTHER, 1), mint(CANARY, 2)):
                harness.sink.deliver(place, made)
                harness.sink.deliver(place, made)
                harness.sink.read_back(place)
            with harness.broken(place), suppress(RotatorError):
                within(harness, lambda: harness.sink.deliver(place, mint(f"{CANARY}3", 3)))
        printed = capfd.readouterr()
        text = "".join((*said, printed.out, printed.err))
        assert not [one for one in (*spellings("canary"), OTHER) if one in text]

    def test_receipts_say_nothing_of_the_secret(self, harness: Harness) -> None:
        """Receipt and version are journalled and audited: they neither hold the secret nor follow from it alone."""
        places = [self.place(harness), self.place(harness, name="svc-billing")]
        receipts = [harness.sink.deliver(place, mint(CANARY, number)) for number, place in enumerate(places)]
        for receipt in receipts:
            assert CANARY not in receipt.version + receipt.location
            assert CANARY[:12] not in receipt.version


def spellings(text: str) -> tuple[str, ...]:
    """Return what a text looks like in plain, and in Base64 of something that it stands anywhere in."""
    inside = []
    for before in range(3):
        coded = base64.b64encode(b"\0" * before + text.encode()).decode()
        bits = (before * 8, (before + len(text.encode())) * 8)
        inside.append(coded[-(-bits[0] // 6) : bits[1] // 6])  # only characters that nothing else has a bit of
    return text, *inside


class _Ear(logging.Handler):
    """Keeps everything that a record holds."""

    def __init__(self, said: list[str], outside: tuple[str, ...]) -> None:
        super().__init__(logging.DEBUG)
        self._said = said
        self._outside = outside

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it, unless it is of the harness' own servers."""
        if any(record.name == name or record.name.startswith(f"{name}.") for name in self._outside):
            return
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self._said.append(f"{record.getMessage()} {record.__dict__!r} {trace}")


@contextmanager
def _heard(outside: tuple[str, ...]) -> Iterator[list[str]]:
    """Yield a list of all that is logged and warned of meanwhile.

    The root is set to DEBUG; a logger that a sink gave a level of its own, because the package behind it logs bodies,
    keeps it: that is the remedy.
    """
    said: list[str] = []
    ear, root = _Ear(said, outside), logging.getLogger()
    deaf = [one for one in root.manager.loggerDict.values() if isinstance(one, logging.Logger) and not one.propagate]
    level = root.level
    for logger in (root, *deaf):
        logger.addHandler(ear)
    root.setLevel(logging.DEBUG)
    try:
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            yield said
        said += [str(warning.message) for warning in warned]
    finally:
        root.setLevel(level)
        for logger in (root, *deaf):
            logger.removeHandler(ear)
