"""Explaining says exactly what `decide` does: the rows and the decision can never tell two stories."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.explaining import conditions, holds, jitter, verdicts
from rotator.model import (
    Brake,
    Delivery,
    Drift,
    DriftKind,
    Generation,
    Heal,
    Lineage,
    Policy,
    Reason,
    Scope,
    Select,
    Share,
    Skip,
    State,
    Token,
    When,
)
from rotator.planning import Candidate, Plan, decide, guard
from rotator.schedule import Windows, parse_zone

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)
UTC_ZONE = parse_zone("UTC")


def token(age: timedelta = 10 * DAY, **changes: object) -> Token:
    made = NOW - age
    return replace(Token("t1", "svc-a", Scope.WORKSPACE, "org", Generation(made, made), made), **changes)  # type: ignore[arg-type]


def policy(name: str = "p", select: Select | None = None, **changes: object) -> Policy:
    chosen = select or Select(frozenset(Scope))
    made = Policy(name, "astro", chosen, When(max_age=90 * DAY), (Delivery("files", {}),), jitter=0.0)
    return replace(made, **changes)  # type: ignore[arg-type]


def remembered(**changes: object) -> Lineage:
    return replace(Lineage("astro", "t1", "t1", "svc-a"), **changes)  # type: ignore[arg-type]


days = st.integers(-30, 200).map(timedelta)
lengths = st.none() | st.integers(1, 120).map(timedelta)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Token, Policy, Lineage | None]:
    """Draw a token, its policy and what is remembered."""
    life = draw(lengths)
    shown = token(abs(draw(days)), life=life, end_at=draw(st.none() | days.map(lambda left: NOW + left)))
    when = When(
        max_age=draw(lengths),
        before_expiry=draw(lengths | st.just(Share(0.2))),
        emergency=draw(st.integers(1, 5)) * DAY,
    )
    rules = policy(
        when=when,
        jitter=draw(st.sampled_from([0.0, 0.05, 0.5])),
        on_drift=draw(st.sampled_from(["rotate", "alert"])),
        paused_until=draw(st.none() | days.map(lambda left: NOW + left)),
        windows=draw(st.none() | st.just(Windows.parse(["mon 00:00-01:00"], UTC_ZONE))),
        blackouts=draw(st.none() | st.just(Windows.parse(["tue 10:00-14:00"], UTC_ZONE))),
    )
    heal = draw(st.none() | st.sampled_from(Heal))
    lineage = remembered(
        stale=draw(st.booleans()),
        drift=heal and Drift(DriftKind.EDITED, heal, "edited", NOW, shown.generation),
        open_state=draw(st.sampled_from([None, None, State.IN_DOUBT])),
        quarantined_at=draw(st.sampled_from([None, None, NOW])),
        failures=2,
        retry_at=draw(st.none() | days.map(lambda left: NOW + left)),
        expiry_fixed=draw(st.booleans()),
    )
    return shown, rules, draw(st.none() | st.just(lineage))


@given(cases())
def test_the_first_condition_that_holds_is_the_reason_unless_something_holds_it_back(
    case: tuple[Token, Policy, Lineage | None],
) -> None:
    """Due: the first holding row is the reason. Not due: none holds, or a hold that is in force says why."""
    shown, rules, lineage = case
    decision = decide(shown, rules, lineage, NOW)
    rows = conditions(shown, rules, lineage, NOW)
    first = next((row.reason for row in rows if row.holds), None)
    row = Candidate(shown, rules, decision)
    in_force = {hold.name for hold in holds(row, lineage, Plan(), NOW) if hold.holds}
    if decision.due is not None:
        assert decision.due is first
    elif decision.skip is Skip.NOT_DUE:
        assert first is None or "min_interval" in in_force
    else:
        assert str(decision.skip) in in_force


def test_every_condition_has_its_row_in_the_order_of_reasons() -> None:
    """Unsettled first, max_age last; unused is a report and no condition."""
    rows = conditions(token(), policy(), None, NOW)
    assert [row.reason for row in rows] == [reason for reason in Reason if reason is not Reason.UNUSED]
    assert all(row.message for row in rows)


@pytest.mark.parametrize(
    ("select", "says_no"),
    [
        (Select(frozenset({Scope.DEPLOYMENT})), "scopes"),
        (Select(frozenset(Scope), ids=frozenset({"other"})), "ids"),
        (Select(frozenset(Scope), workspaces=frozenset({"w2"})), "workspaces"),
        (Select(frozenset(Scope), roles=frozenset({"OWNER"})), "roles"),
        (Select(frozenset(Scope), names=("etl-*",)), "names"),
        (Select(frozenset(Scope), exclude_names=("*-a",)), "exclude_names"),
        (Select(frozenset(Scope)), ""),
    ],
)
def test_the_part_of_select_that_says_no_is_named(select: Select, says_no: str) -> None:
    """Each key of `select` is named when it is the one that leaves a token out."""
    assert verdicts(token(), [policy(select=select)], None)[0].says_no == says_no


def test_a_deployment_elsewhere_is_named_as_such() -> None:
    """For a deployment token `deployments` says no before `workspaces` is asked."""
    select = Select(frozenset(Scope), deployments=frozenset({"d2"}))
    shown = token(scope=Scope.DEPLOYMENT, deployment_id="d1")
    assert verdicts(shown, [policy(select=select)], None)[0].says_no == "deployments"


def test_the_first_policy_in_file_order_owns_and_later_ones_overlap() -> None:
    """Default deny leaves one owner; others that select the token are named."""
    none = policy("none", Select(frozenset()))
    found = verdicts(token(), [none, policy("first"), policy("second")], None)
    assert [(v.policy, v.owns, v.overlaps) for v in found] == [
        ("none", False, False), ("first", True, False), ("second", False, True),
    ]  # fmt: skip


def test_an_emergency_says_that_it_overrides_what_is_in_force() -> None:
    """A closed window stays in force, and its row says that it does not hold this token back."""
    rules = policy(windows=Windows.parse(["mon 00:00-01:00"], UTC_ZONE))
    shown = token(end_at=NOW + timedelta(hours=1), life=90 * DAY)
    row = Candidate(shown, rules, decide(shown, rules, None, NOW))
    window = next(hold for hold in holds(row, None, Plan(), NOW) if hold.name == "window")
    assert window.holds
    assert "overridden, because it is emergency" in window.message


def test_the_brake_holds_what_a_refused_plan_does_not_admit() -> None:
    """A refused plan's arithmetic is the brake's row; without a refusal the row shows the count against the limit."""
    rules = policy(brake=Brake(max_rotations=1))
    rows = [token(91 * DAY, id=token_id) for token_id in ("t1", "t2")]
    due = [Candidate(shown, rules, decide(shown, rules, None, NOW)) for shown in rows]
    refused = guard(Plan(due=list(due), selected={"p": 2}), None)
    brake = holds(due[0], None, refused, NOW)[-1]
    assert (brake.name, brake.holds, "max_rotations is 1" in brake.message) == ("brake", True, True)
    allowed = guard(Plan(due=due[:1], selected={"p": 2}), None)
    assert not holds(due[0], None, allowed, NOW)[-1].holds


def test_jitter_is_said_as_the_share_that_this_token_has() -> None:
    """Off without jitter, else the token's own share."""
    assert jitter(token(), policy()) == "off"
    assert "earlier" in jitter(token(), policy(jitter=0.05))
