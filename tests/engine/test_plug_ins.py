"""Sinks of others that break their word: one of them holds back its own tokens and nothing else."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rotator.errors import Temporary
from rotator.model import Held, Mint, Outcome, Place, Receipt
from tests.engine.test_overlap import sweep
from tests.engine.test_write_only import _Wrapped
from tests.lab import Lab, lab

LATER = timedelta(hours=8)


def _others_settle(bench: Lab, bad: str) -> None:
    """Every token but the bad one settles, and once the plug-in is mended so does that one."""
    results = bench.sweep().results
    assert {r.outcome for r in results if r.token_id != bad} == {Outcome.SETTLED}
    bench.wraps.clear()
    sweep(bench, LATER)
    assert bench.sandbox.store.authenticates_as(bench.delivered(bad) or "") == bad


def _wrong_receipt(bad: str, version: Any) -> type[_Wrapped]:
    class Wrong(_Wrapped):
        def deliver(self, place: Place, mint: Mint) -> Receipt:
            receipt = self._sink.deliver(place, mint)
            return Receipt(receipt.location, version) if bad in place.location else receipt

    return Wrong


def _wrong_place(bad: str, **changed: Any) -> type[_Wrapped]:
    class Wrong(_Wrapped):
        def resolve(self, options: dict[str, object], facts: dict[str, str]) -> Place:
            place = self._sink.resolve(options, facts)
            return replace(place, **changed) if facts["token_id"] == bad else place

    return Wrong


def _wrong_secret(bad: str) -> type[_Wrapped]:
    class Wrong(_Wrapped):
        def read_back(self, place: Place) -> Held:
            held = self._sink.read_back(place)
            plain: Any = held.secret.reveal() if held.secret else ""
            return replace(held, secret=plain) if bad in place.location else held

    return Wrong


def _leaving(bad: str) -> type[_Wrapped]:
    class Leaving(_Wrapped):
        def deliver(self, place: Place, mint: Mint) -> Receipt:
            if bad in place.location:
                raise SystemExit(0)
            return self._sink.deliver(place, mint)

    return Leaving


@pytest.mark.parametrize(
    "wrong",
    [
        lambda bad: _wrong_receipt(bad, 7),
        lambda bad: _wrong_receipt(bad, None),
        lambda bad: _wrong_receipt(bad, "\ud800"),
        lambda bad: _wrong_place(bad, location=None),
        lambda bad: _wrong_place(bad, options={"x": object()}),
        _wrong_secret,
        _leaving,
    ],
    ids=["number", "none", "surrogate", "no location", "no json", "bare secret", "exit"],
)
def test_a_wrong_answer_never_reaches_the_journal(tmp_path: Path, wrong: Callable[[str], type[_Wrapped]]) -> None:
    """What could not be read again is refused at once: one such row would close the journal to every token."""
    with lab(tmp_path) as bench:
        bad = bench.due_ids()[0]
        bench.wraps["files"] = wrong(bad)  # type: ignore[assignment]
        _others_settle(bench, bad)


def test_an_error_that_repeats_the_secret_is_not_repeated(tmp_path: Path) -> None:
    """Neither by journal and audit nor by what the sweep says; the error is of the same kind as before."""
    with lab(tmp_path) as bench:

        class Chatty(_Wrapped):
            def deliver(self, place: Place, mint: Mint) -> Receipt:
                raise Temporary(f"PUT {mint.secret.reveal()} failed") from ValueError(mint.secret.reveal())

        bench.wraps["files"] = Chatty  # type: ignore[assignment]
        results = bench.sweep().results
        assert {r.outcome for r in results} == {Outcome.UNSETTLED}
        secrets = [bench.sandbox.store.secret_of(token_id) for token_id in bench.due_ids()]
        written = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
        said = repr(results) + repr(bench.events)
        assert "in words that repeat the secret" in said
        assert not [secret for secret in secrets if secret.encode() in written or secret in said]


def test_an_old_proof_is_no_proof(tmp_path: Path) -> None:
    """Verified once, then rolled back and unreadable: it does not settle by what was true before."""
    with lab(tmp_path) as bench:
        blind = [False]

        class Blind(_Wrapped):
            def read_back(self, place: Place) -> Held:
                if blind[0]:
                    raise Temporary("it cannot be read")
                return self._sink.read_back(place)

            def follow_up(self, place: Place, mint: Mint) -> None:
                if not blind[0]:
                    raise Temporary("its readers cannot be told")

        bench.wraps["files"] = Blind  # type: ignore[assignment]
        assert {r.outcome for r in bench.sweep().results} == {Outcome.UNSETTLED}
        for file in (tmp_path / "secrets").iterdir():
            file.write_text("rolled back by a restore")
        blind[0] = True
        assert Outcome.SETTLED not in sweep(bench, LATER).values()
        bench.wraps.clear()
        assert set(sweep(bench, LATER).values()) == {Outcome.UNSETTLED}  # now it is seen what stands there
        assert set(sweep(bench, LATER).values()) == {Outcome.SETTLED}
