"""Simulating: the decisions of the days ahead, as values; equal to what deciding at every sweep would give."""

import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rotator.model import (
    Brake,
    Delivery,
    Generation,
    Lineage,
    Policy,
    Reason,
    Scope,
    Select,
    State,
    Token,
    When,
)
from rotator.planning import Candidate, Plan, decide, guard
from rotator.schedule import Schedule, Windows, parse_zone
from rotator.simulation import Forecast, simulate

NOW = datetime(2026, 11, 24, 12, 30, tzinfo=UTC)
DAY, HOUR = timedelta(days=1), timedelta(hours=1)
NOBODY: frozenset[str] = frozenset()


def token(number: int = 1, age: timedelta = 10 * DAY, life: timedelta | None = None) -> Token:
    made = NOW - age
    end = made + life if life else None
    generation = Generation(made, made)
    return Token(f"t{number}", f"svc-{number}", Scope.WORKSPACE, "org", generation, made, end_at=end, life=life)


def policy(
    schedule: str = "every 1h", windows: Sequence[str] = (), blackouts: Sequence[str] = (), **when: object
) -> Policy:
    zone = parse_zone("Europe/Berlin")
    chosen = When(**({"max_age": 30 * DAY} | when))  # type: ignore[arg-type]
    return replace(
        Policy("p", "astro", Select(frozenset(Scope)), chosen, (Delivery("files", {}),), jitter=0.0),
        schedule=Schedule.parse(schedule, zone),
        timezone="Europe/Berlin",
        windows=Windows.parse(windows, zone) if windows else None,
        blackouts=Windows.parse(blackouts, zone, dates=True) if blackouts else None,
    )


def run(tokens: Sequence[Token], rules: Policy, days: int = 90, lineage: Lineage | None = None) -> Forecast:
    rows = [(shown, lineage and replace(lineage, id=shown.id, token_id=shown.id)) for shown in tokens]
    return simulate(rows, [rules], NOBODY, NOW, NOW + days * DAY)


def test_the_calendar_has_each_rotation_on_its_day() -> None:
    """A token of ten days with a limit of thirty is rotated after 20, 50 and 80 days."""
    made = run([token()], policy())
    assert sorted(made.calendar) == [(NOW + days * DAY).date() for days in (20, 50, 80)]
    assert (made.rotations, made.reasons[Reason.MAX_AGE], made.selected["p"]) == (3, 3, 1)
    assert (made.refused, made.missed, made.expiring) == ([], [], [])


def test_an_expiry_moves_with_each_rotation() -> None:
    """Where a life is known a rotated token expires later, and nothing expires that is rotated ahead."""
    made = run([token(life=20 * DAY)], policy(max_age=None, before_expiry=5 * DAY))
    assert made.reasons == {Reason.BEFORE_EXPIRY: 6}
    assert made.expiring == []


def test_sweeps_that_come_too_late_let_tokens_expire() -> None:
    """A monthly sweep meets a token of ten days' life too late: it is named, with how often."""
    (found,) = run([token(age=DAY, life=10 * DAY)], policy("0 3 1 * *")).expiring
    assert (found.token_id, found.at, found.times) == ("t1", NOW + 9 * DAY, 3)
    assert found.rotated_at == datetime(2027, 1, 1, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("rules", "lineage", "said"),
    [
        (replace(policy(), paused_until=NOW + 900 * DAY), None, "paused until"),
        (
            policy(),
            Lineage("astro", "t1", "t1", "x", quarantined_at=NOW, quarantine_reason="lost"),
            "quarantined: lost",
        ),
        (policy(), Lineage("astro", "t1", "t1", "x", expiry_fixed=True), "due"),
        (replace(policy(), brake=Brake(1)), None, "the brake refuses its plan"),
        (policy("0 0 1 6 *"), None, "no sweep of its policy"),
    ],
)
def test_a_token_that_would_expire_says_why(rules: Policy, lineage: Lineage | None, said: str) -> None:
    """What holds it back is named: pause, quarantine, an expiry that does not move, the brake, the schedule."""
    shown = [token(number, 31 * DAY, 60 * DAY) for number in (1, 2, 3)]
    rules = replace(rules, when=replace(rules.when, emergency=timedelta(seconds=1)))
    found = run(shown, rules, 30, lineage).expiring
    assert len(found) == 3
    assert all(said in expiry.message for expiry in found), found


def test_our_own_credential_is_not_rotated_and_its_expiry_is_named() -> None:
    """No policy rotates it in place, so when it expires a person has to know."""
    made = simulate([(token(life=20 * DAY), None)], [policy()], frozenset({"t1"}), NOW, NOW + 90 * DAY)
    assert made.rotations == 0
    assert "the credential rotator itself" in made.expiring[0].message


def test_windows_are_kept_and_emergencies_counted() -> None:
    """Rotations fall into the windows; what cannot wait is counted as outside."""
    made = run([token()], policy(windows=["sat 02:00-05:00"]))
    assert {day.weekday() for day in made.calendar} == {5}
    assert made.outside == {}
    hurried = run([token(life=12 * DAY)], policy(windows=["sat 02:00-05:00"]))
    assert hurried.reasons[Reason.EMERGENCY] == hurried.outside["p"] > 0
    assert hurried.expiring == []


def test_windows_without_a_sweep_are_missed() -> None:
    """A schedule that never meets its window is named with each opening; a blackout is no miss."""
    made = run([token(31)], policy("0 */6 * * *", ["mon 02:00-05:00"], ["2026-12-07"]), 21)
    assert [row.opens.isoformat() for row in made.missed] == ["2026-11-30T01:00:00+00:00", "2026-12-14T01:00:00+00:00"]
    assert run([token()], policy("0 */3 * * *", ["mon 02:00-05:00"]), 21).missed == []


def test_the_brake_speaks_once_for_each_set_of_tokens() -> None:
    """A refused plan holds its tokens back; it is told once, and again when it has grown."""
    shown = [token(number, (30 - number // 3) * DAY) for number in range(9)]
    made = run(shown, replace(policy(), brake=Brake(2)), 10)
    assert [(row.due, (row.at - NOW).days) for row in made.refused] == [(3, 0), (6, 1), (9, 2)]
    assert made.rotations == 0
    assert "max_rotations is 2" in made.refused[0].message


def test_emergencies_pass_the_brake() -> None:
    """What expires goes although the plan is refused, as many at a sweep as the brake allows."""
    shown = [token(number, 25 * DAY, 40 * DAY) for number in range(5)]
    made = run(shown, replace(policy(), brake=Brake(2)), 14)
    assert (made.rotations, made.reasons[Reason.EMERGENCY]) == (5, 5)
    assert made.busiest is not None
    assert made.busiest[1] == 2


def test_the_busiest_moment_is_over_all_policies() -> None:
    """Two policies that sweep at the same moment add up."""
    first, second = (replace(policy(), name=n, select=Select(frozenset(Scope), names=(f"svc-{n}",))) for n in "12")
    shown = [(token(number, 29 * DAY), None) for number in (1, 2)]
    made = simulate(shown, [first, second], NOBODY, NOW, NOW + 5 * DAY)
    assert made.busiest == (datetime(2026, 11, 25, 13, tzinfo=UTC), 2)
    assert made.calendar == {datetime(2026, 11, 25).date(): {"1": 1, "2": 1}}  # noqa: DTZ001 - a day


def test_a_rotation_under_way_is_taken_to_settle() -> None:
    """An open rotation does not make its token due forever."""
    lineage = Lineage("astro", "t1", "t1", "x", open_state=State.UNSETTLED)
    assert run([token()], policy(), 90, lineage).rotations == 3


SCHEDULES = st.sampled_from(["every 6h", "0 3 * * *", "every 36h", "15 2 * * mon-fri"])
WINDOWS = st.sampled_from([[], ["mon-fri 02:00-05:00"], ["sat 00:00-24:00"], ["22:00-03:00"]])
BLACKOUTS = st.sampled_from([[], ["2026-12-20..2027-01-03"], ["tue 00:00-24:00"]])
TOKENS = st.lists(st.tuples(st.integers(0, 60), st.sampled_from([None, 5, 20, 90])), min_size=1, max_size=6)


@given(SCHEDULES, WINDOWS, BLACKOUTS, TOKENS, st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_jumping_gives_what_deciding_at_every_sweep_gives(
    schedule: str, windows: list[str], blackouts: list[str], shown: list[tuple[int, int | None]], limit: int
) -> None:
    """Tokens are looked at only when something can change, and the calendar is the same nevertheless."""
    rules = replace(policy(schedule, windows, blackouts, before_expiry=4 * DAY), brake=Brake(limit), jitter=0.1)
    tokens = [token(n, age * DAY, life * DAY if life else None) for n, (age, life) in enumerate(shown)]
    made = run(tokens, rules, 60)
    live, calendar, refused = {t.id: t for t in tokens}, [], 0
    for at in rules.schedule.between(NOW, NOW + 60 * DAY):
        decided = [Candidate(t, rules, decide(t, rules, None, at)) for t in live.values()]
        plan = guard(Plan([c for c in decided if c.decision.due], selected={"p": len(tokens)}), None)
        refused += len(plan.refused)
        for candidate in plan.admitted:
            calendar.append((at.date(), candidate.decision.due))
            old = candidate.token
            end = at + old.life if old.life else None
            live[old.id] = replace(old, generation=Generation(at, at), end_at=end)
    assert {day: count["p"] for day, count in made.calendar.items()} == {
        day: sum(other == day for other, _ in calendar) for day, _ in calendar
    }
    assert made.reasons == {
        reason: sum(other == reason for _, other in calendar) for reason in {reason for _, reason in calendar}
    }
    assert bool(made.refused) == bool(refused)


def test_a_year_of_hourly_sweeps_of_500_tokens_takes_seconds() -> None:
    """500 tokens, windows, and once a brake that refuses: 365 days in a few seconds of computing."""
    shown = [token(number, timedelta(hours=number), 60 * DAY) for number in range(500)]
    rules = policy(windows=["mon-fri 02:00-05:00"], max_age=30 * DAY)
    started = time.process_time()
    free = run(shown, replace(rules, brake=Brake(1000), jitter=0.05), 365)
    held = run(shown, replace(rules, brake=Brake(1)), 365)
    assert free.rotations > 500 * 10
    assert held.refused
    assert time.process_time() - started < 15
