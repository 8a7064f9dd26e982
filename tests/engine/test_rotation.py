"""One rotation through its steps, with each thing that can go wrong at the provider and in a sink."""

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from rotator.events import EventName
from rotator.model import Outcome, Skip
from rotator.ports import Write
from rotator.sandbox import Fault, SandboxConfig
from tests.lab import Lab, lab

UNKNOWN = [
    Fault.RESET_AFTER,
    Fault.TRUNCATED,
    Fault.INVALID_JSON,
    Fault.NO_TOKEN,
    Fault.ERROR_502_AFTER,
    Fault.HANG_AFTER,
]
WITHOUT_EFFECT = [Fault.RESET_BEFORE, Fault.ERROR_500, Fault.ERROR_504_HTML, Fault.HTML_200, Fault.HANG_BEFORE]
THROTTLED = [Fault.THROTTLE_SECONDS, Fault.THROTTLE_DATE, Fault.THROTTLE_BARE]


def everything_arrived(bench: Lab) -> bool:
    """Whether each token's file, where there is one, authenticates as that token."""
    ids = bench.due_ids() or [path.name for path in (bench.folder / "secrets").iterdir()]
    return all(
        bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id
        for token_id in {*ids, *[path.name for path in (bench.folder / "secrets").iterdir()]}
    )


def late(bench: Lab) -> None:
    """Let the late window pass."""
    assert bench.clock is not None
    bench.clock.jump(timedelta(minutes=3))


def test_due_tokens_settle_and_others_are_left_alone(tmp_path: Path) -> None:
    """Every due token's file holds a secret that authenticates; no other token is touched; a second sweep is idle."""
    with lab(tmp_path) as bench:
        due = bench.due_ids()
        first, second = bench.sweep(), bench.sweep()
        assert {r.token_id for r in first.results} == set(due)
        assert {r.outcome for r in first.results} == {Outcome.SETTLED}
        assert second.results == []
        assert everything_arrived(bench)
        assert {i for i in bench.sandbox.store.tokens if bench.sandbox.store.posts(i)} == set(due)


@pytest.mark.parametrize("fault", UNKNOWN, ids=str)
def test_a_lost_secret_is_rotated_again(tmp_path: Path, fault: Fault) -> None:
    """When the call took effect but its answer is unusable, the token is rotated again and settles late."""
    with lab(tmp_path, timeout="1s") as bench:
        bench.sandbox.script("rotate", fault)
        first = bench.sweep()
        assert [r.outcome for r in first.results].count(Outcome.UNSETTLED) == 1
        assert EventName.ROTATION_LOST in {event.name for event in bench.events}
        late(bench)
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert everything_arrived(bench)
        assert sorted(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens)[-1] == 2


@pytest.mark.parametrize("fault", WITHOUT_EFFECT, ids=str)
def test_a_call_without_effect_is_looked_at_late_and_planned_anew(tmp_path: Path, fault: Fault) -> None:
    """An unknown outcome that had no effect is closed only after the late window, then tried again."""
    with lab(tmp_path, timeout="1s") as bench:
        bench.sandbox.script("rotate", fault)
        assert [r.outcome for r in bench.sweep().results].count(Outcome.UNSETTLED) == 1
        assert [r.outcome for r in bench.sweep().results] == [Outcome.UNSETTLED]
        late(bench)
        assert {r.outcome for r in bench.sweep().results} == {None, Outcome.SETTLED}
        assert everything_arrived(bench)


def test_a_lost_secret_is_not_forgotten_when_the_next_call_has_no_effect(tmp_path: Path) -> None:
    """Lost first, then a call without effect: no longer due by age, the token is rotated until its secret lives."""
    with lab(tmp_path, timeout="1s") as bench:
        token_id = bench.due_ids()[0]
        for fault in (Fault.RESET_AFTER, Fault.RESET_BEFORE):
            bench.sandbox.script("rotate", fault, token_id)
        bench.sweep()
        assert bench.delivered(token_id) is None
        for _ in range(2):
            late(bench)
            bench.sweep()
        assert bench.sandbox.store.authenticates_as(bench.delivered(token_id) or "") == token_id
        assert bench.sweep().results == []


@pytest.mark.parametrize("fault", THROTTLED, ids=str)
def test_a_throttled_call_is_repeated_with_a_new_intent(tmp_path: Path, fault: Fault) -> None:
    """429 certainly had no effect: the POST is announced and sent once more, and settles in the same sweep."""
    with lab(tmp_path) as bench:
        bench.sandbox.script("rotate", fault)
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        intents = [event for event in bench.events if event.name is EventName.ROTATION_INTENDED]
        assert len(intents) == sum(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens)


def test_a_late_execution_that_kills_the_delivered_secret_is_healed(tmp_path: Path) -> None:
    """A timed-out call that takes effect after a second one succeeded is found, and the token rotated once more."""
    with lab(tmp_path, timeout="1s") as bench:
        bench.sandbox.script("rotate", Fault.LATE)
        bench.sweep()
        for _ in range(3):
            late(bench)
            report = bench.sweep()
        assert report.results == []
        assert everything_arrived(bench)


def test_a_sink_that_is_down_keeps_the_secret_sealed_until_it_returns(tmp_path: Path) -> None:
    """A folder that vanishes between preflight and delivery leaves the rotation unsettled, never the secret lost."""
    with lab(tmp_path) as bench:
        with bench.app() as app:
            desk = app.desks[0]
            sink = desk.sinks["files"]
            broken = _Breaking(sink)
            desk.sinks["files"] = broken  # type: ignore[index]
            from rotator.engine.sweep import sweep

            report = sweep(desk, desk.policies, None, lambda _: True)
        assert {r.outcome for r in report.results} == {Outcome.UNSETTLED}
        posts = {i: bench.sandbox.store.posts(i) for i in bench.due_ids()}
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert everything_arrived(bench)
        assert posts == {i: bench.sandbox.store.posts(i) for i in posts}


def test_a_secret_whose_role_may_not_read_is_settled_as_attested(tmp_path: Path) -> None:
    """An application 403 at the minted generation counts as alive."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=6, limits=False, readers="owners")) as bench:
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        verdicts = {event.message for event in bench.events if event.name is EventName.SECRET_VERIFIED}
        assert "attested" in verdicts


def test_the_brake_holds_a_plan_until_it_is_accepted(tmp_path: Path) -> None:
    """More due tokens than max_rotations: nothing is rotated, and exactly this plan can be accepted."""
    with lab(tmp_path, brake=1) as bench:
        refused = bench.sweep()
        assert [r.reason for r in refused.plan.refused] == ["brake"]
        assert refused.results == []
        assert bench.sweep(accept="0123456789ab").results == []
        assert {r.outcome for r in bench.sweep(accept=refused.plan.id).results} == {Outcome.SETTLED}


def test_an_expiry_that_rotating_does_not_move_is_named(tmp_path: Path) -> None:
    """Where rotate leaves endAt alone, the rotation settles and says so once."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=12, limits=False, rotate_moves_expiry=False)) as bench:
        assert {r.outcome for r in bench.sweep().results} == {Outcome.SETTLED}
        assert EventName.EXPIRY_UNMOVED in {event.name for event in bench.events}


def test_our_own_credential_is_skipped_by_name(tmp_path: Path) -> None:
    """A policy that selects the token rotator works with leaves it alone."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text().replace('names = ["svc-*"]', 'names = ["*"]').replace('"90d"', '"1s"')
        bench.config_path.write_text(text)
        rows = []
        with bench.app(writing=False) as app:
            from rotator.engine.deciding import plan

            plan(app.desks[0], app.desks[0].policies, skipped=rows.append)
        reasons = {row.token.name: str(row.decision.skip) for row in rows if not isinstance(row, tuple)}
        assert reasons["rotator-credential"] == "own_credential"


def test_clocks_that_disagree_stop_every_rotation(tmp_path: Path) -> None:
    """A Date header an hour off means that ages and windows cannot be trusted: nothing is rotated."""
    with lab(tmp_path, sandbox=SandboxConfig(tokens=6, limits=False, clock_offset_s=3600.0)) as bench:
        report = bench.sweep()
        assert {r.outcome for r in report.results} == {Outcome.FAILED}
        assert all("clocks" in r.message for r in report.results)
        assert not any(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens)


class _Breaking:
    """A real sink whose writes fail."""

    def __init__(self, sink: object) -> None:
        self._sink = sink

    def __getattr__(self, name: str) -> object:
        return getattr(self._sink, name)

    def deliver(self, place: object, mint: object) -> object:
        """Fail as a sink that is down."""
        from rotator.errors import Temporary

        raise Temporary("the sink is down")


def test_tokens_that_would_share_a_key_are_held_back(tmp_path: Path) -> None:
    """Several tokens with one env file and one key: one may have it, the others are skipped before anything rotates."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text()
        shared = 'path = "shared.env"\nformat = "env"\nfields = { TOKEN = "{secret}", AT = "{rotated_at}" }'
        bench.config_path.write_text(text.replace('path = "{token_id}"', shared))
        report = bench.sweep()
        assert len(report.results) == 1
        assert report.plan.skipped[Skip.BAD_PATH] == len(bench.due_ids())
        assert sum(bench.sandbox.store.posts(i) for i in bench.sandbox.store.tokens) == 1


def test_a_renamed_token_waits_for_accept_move(tmp_path: Path) -> None:
    """A token whose path would change after it settled is not rotated until a person accepts the move."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text().replace('"{token_id}"', '"{name}"')
        bench.config_path.write_text(text)
        token_id = bench.sweep().results[0].token_id
        bench.sandbox.store.tokens[token_id].name = "svc-renamed"
        assert bench.clock is not None
        bench.clock.jump(timedelta(days=91))
        for path in ("held", "accepted"):
            report = bench.sweep()
            assert (token_id in {r.token_id for r in report.results}) is (path == "accepted")
            if path == "held":
                with bench.app() as app:
                    lineage = app.reader.lineages("astro", [token_id])[token_id]
                    app.desks[0].journal.write(Write(lineage=replace(lineage, move_accepted=True)))
