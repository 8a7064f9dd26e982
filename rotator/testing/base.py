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
from rotator.testing.harness import Harness
from rotator.testing.values import OTHER, facts

Answer = TypeVar("Answer")

_DEFAULTS = {name: value for name, value in vars(Harness).items() if not name.startswith("_")}


class Behaviours:
    """The base of every group of behaviours."""

    def place(self, harness: Harness, **changed: str) -> Place:
        """Return where a delivery writes for a token with these facts, as it comes back from the journal."""
        return self.resolved(harness, harness.block, **changed)

    def resolved(self, harness: Harness, block: dict[str, object], **changed: str) -> Place:
        """Return where a block writes."""
        options = sinks.checked(sinks.load(harness.kind).DeliveryOptions, block)
        place = harness.sink.resolve(options, facts(**changed))
        return Place(place.sink, place.location, json.loads(json.dumps(place.options)), parts=place.parts)


def trait(harness: Harness, name: str) -> Any:
    """Return an attribute that a harness may leave out."""
    return getattr(harness, name, _DEFAULTS[name])


def offered(harness: Harness, name: str, *arguments: object) -> Any:
    """Return what a hook returns; a hook that is not offered skips the behaviour."""
    hook = getattr(harness, name, None)
    answer = hook(*arguments) if hook is not None else None
    if answer is None:
        pytest.skip(f"the harness offers no {name}()")
    return answer


def hooked(harness: Harness, name: str, place: Place) -> AbstractContextManager[None]:
    """Return the block during which a hook holds."""
    block: AbstractContextManager[None] = offered(harness, name, place)
    return block


def needs_reading(harness: Harness) -> None:
    """Skip the behaviour for a sink that cannot read."""
    if not trait(harness, "is_readable"):
        pytest.skip("it cannot read back what it holds")


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


def assert_held(harness: Harness, held: Held, made: Mint, receipt: Receipt) -> None:
    """Refuse anything but this mint at the version of the receipt: by value, or where that is not readable attested."""
    if trait(harness, "is_readable"):
        assert held.secret == made.secret
    else:
        assert held.secret is None
        assert held.mint_id or held.version, "what cannot be read is known by its mint id or its version"
    assert held.version == receipt.version
    assert held.mint_id in ("", made.id)


def assert_nothing(harness: Harness, place: Place) -> None:
    """Refuse anything but the word that a place is empty."""
    if trait(harness, "is_readable"):
        with pytest.raises(NotFound):
            harness.sink.read_back(place)
        return
    try:
        held = harness.sink.read_back(place)
    except NotFound:
        return
    assert (held.secret, held.mint_id) == (None, "")


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
