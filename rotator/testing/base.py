"""What the behaviours share: places as the journal returns them, hooks, limits of time, and errors without secrets."""

import json
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import pytest

from rotator import sinks
from rotator.errors import NotFound, RotatorError
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.testing.harness import Harness
from rotator.testing.values import OTHER, facts

Answer = TypeVar("Answer")

_DEFAULTS = {name: value for name, value in vars(Harness).items() if not name.startswith("_")}


class Behaviours:
    """The base of every group of behaviours.

    Attributes:
        is_readable: Whether the sink gives values back; may stand on the harness instead. One that does not answers for
            mint id and version alone.
    """

    is_readable: bool = True

    def place(self, harness: Harness, **changed: str) -> Place:
        """Return where a delivery writes for a token with these facts, as it comes back from the journal."""
        return self.resolved(harness, harness.block, **changed)

    def resolved(self, harness: Harness, block: dict[str, object], **changed: str) -> Place:
        """Return where a block writes."""
        options = sinks.checked(sinks.load(harness.kind).DeliveryOptions, block)
        place = harness.sink.resolve(options, facts(**changed))
        return Place(place.sink, place.location, json.loads(json.dumps(place.options)), parts=place.parts)

    def can_read(self, harness: Harness) -> bool:
        """Whether the sink gives back the value that it holds."""
        return self.is_readable and bool(trait(harness, "is_readable"))

    def needs_reading(self, harness: Harness) -> None:
        """Skip the behaviour for a sink that cannot read."""
        if not self.can_read(harness):
            pytest.skip("it cannot read back what it holds")

    def assert_held(self, harness: Harness, place: Place, secret: str) -> None:
        """Refuse anything but this secret, as the consumer reads it, and the sink if it can."""
        assert harness.sink.read_back(place).secret == (Secret(secret) if self.can_read(harness) else None)
        assert harness.read(place) == secret

    def assert_delivered(self, harness: Harness, held: Held, made: Mint, receipt: Receipt) -> None:
        """Refuse anything but this mint at the version of the receipt: by value, or where none is read attested."""
        assert held.secret == (made.secret if self.can_read(harness) else None)
        assert held.mint_id or held.version or self.can_read(harness), "nothing says what it holds"
        assert held.version == receipt.version
        assert self.can_read(harness) or held.mint_id in ("", made.id), "its mint id is another"

    def assert_kept(self, harness: Harness, place: Place, again: Receipt, first: Receipt) -> None:
        """Refuse a delivery of what is there that wrote; where nothing can be compared the latest receipt counts."""
        if self.can_read(harness):
            assert again == first
        assert harness.sink.read_back(place).version == again.version

    def assert_nothing(self, harness: Harness, place: Place) -> None:
        """Refuse anything but the word that a place is empty."""
        try:
            held = harness.sink.read_back(place)
        except NotFound:
            return
        assert not self.can_read(harness), "reading what is not there raises NotFound"
        assert (held.secret, held.mint_id) == (None, "")


def trait(harness: Harness, name: str) -> Any:
    """Return an attribute that a harness may leave out."""
    return getattr(harness, name, _DEFAULTS[name])


def offered(harness: Harness, name: str, *arguments: object) -> Any:
    """Return what a hook returns; a hook that is not offered skips the behaviour."""
    hook = getattr(harness, name, None)
    answer = hook(*arguments) if hook is not None else None
    if answer is None:
        lacking(harness, name)
    return answer


def lacking(harness: Harness, name: str) -> None:
    """Skip the behaviour because the harness does not offer this."""
    pytest.skip(trait(harness, "lacks").get(name) or f"the harness offers no {name}")


def hooked(harness: Harness, name: str, place: Place) -> AbstractContextManager[None]:
    """Return the block during which a hook holds."""
    block: AbstractContextManager[None] = offered(harness, name, place)
    return block


def proves(harness: Harness) -> bool:
    """Whether a preflight of this type says anything at all."""
    return sinks.load(harness.kind).PREFLIGHT_GRADE is not Grade.NONE


def within(harness: Harness, call: Callable[[], Answer]) -> Answer:
    """Return what a call returns, or raise what it raises; fail if it takes too long."""
    answers: list[Answer] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            answers.append(call())
        except Exception as error:  # noqa: BLE001 - boundary "job": handed to the caller as it is
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(trait(harness, "patience_s"))
    assert not thread.is_alive(), f"a call takes longer than {trait(harness, 'patience_s')} s"
    if errors:
        raise errors[0]
    return answers[0]


@contextmanager
def raising_without_secret(
    *kinds: type[RotatorError], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[RotatorError]]:
    """Expect one of these errors, with no secret in its message, repr, or traceback with all local variables."""
    with pytest.raises(kinds, match=match) as caught:
        yield caught
    assert_no_secret(caught.value)


def assert_no_secret(error: BaseException) -> None:
    """Refuse an error that shows a secret anywhere."""
    shown = traceback.TracebackException.from_exception(error, capture_locals=True)
    text = "".join(shown.format()) + repr(error) + str(error)
    assert "canary" not in text
    assert OTHER not in text
