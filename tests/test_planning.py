"""Deciding: what is due, why, and what the brake says; pure, so every case is a value."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rotator.model import (
    Brake,
    Delivery,
    Generation,
    Lineage,
    Place,
    Policy,
    Reason,
    Role,
    Scope,
    Select,
    Share,
    Skip,
    State,
    Token,
    When,
)
from rotator.planning import Candidate, Plan, decide, gap_warnings, guard, owner, place_problem, selects, token_state
from rotator.schedule import Windows, parse_zone

NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def token(age: timedelta = 10 * DAY, **changes: object) -> Token:
    made = NOW - age
    return replace(Token("t1", "svc-a", Scope.WORKSPACE, "org", Generation(made, made), made), **changes)  # type: ignore[arg-type]


def expiring(left: timedelta, life: timedelta = 90 * DAY) -> Token:
    return token(life - left, end_at=NOW + left, life=life)


def policy(jitter: float = 0.0, **when: object) -> Policy:
    chosen = When(**({"max_age": 90 * DAY} | when))  # type: ignore[arg-type]
    return Policy("p", "astro", Select(frozenset(Scope)), chosen, (Delivery("files", {}),), jitter=jitter)


@pytest.mark.parametrize(
    ("shown", "rules", "due"),
    [
        (token(89 * DAY), policy(), None),
        (token(91 * DAY), policy(), Reason.MAX_AGE),
        (expiring(20 * DAY), policy(max_age=None, before_expiry=14 * DAY), None),
        (expiring(13 * DAY), policy(max_age=None, before_expiry=14 * DAY), Reason.BEFORE_EXPIRY),
        (expiring(17 * DAY), policy(max_age=None, before_expiry=Share(0.2)), Reason.BEFORE_EXPIRY),
        (expiring(DAY), policy(before_expiry=14 * DAY), Reason.EMERGENCY),
        (expiring(-DAY), policy(before_expiry=14 * DAY), Reason.EXPIRED),
        (token(900 * DAY), policy(max_age=None, before_expiry=14 * DAY), None),
        (expiring(3 * DAY, 7 * DAY), policy(max_age=None, before_expiry=14 * DAY), None),
        (token(91 * DAY, generation=Generation(NOW - DAY / 48, NOW)), policy(max_age=timedelta(minutes=1)), None),
    ],
)
def test_the_first_condition_that_holds_is_the_reason(shown: Token, rules: Policy, due: Reason | None) -> None:
    """Age, expiry, emergency and min_interval each decide as documented."""
    assert decide(shown, rules, None, NOW).due is due


def test_a_threshold_longer_than_a_life_is_named() -> None:
    """before_expiry that is not shorter than the token's life is ignored for it, and said."""
    assert "use a percentage" in decide(expiring(3 * DAY, 7 * DAY), policy(before_expiry=14 * DAY), None, NOW).message


@pytest.mark.parametrize(
    ("lineage", "skip"),
    [
        (Lineage("astro", "t1", "t1", "svc-a", quarantined_at=NOW, quarantine_reason="x"), Skip.QUARANTINED),
        (Lineage("astro", "t1", "t1", "svc-a", failures=2, retry_at=NOW + DAY / 8), Skip.BACKOFF),
        (Lineage("astro", "t1", "t1", "svc-a", minted_at=NOW - DAY / 2), Skip.NOT_DUE),
    ],
)
def test_what_the_journal_remembers_holds_a_token_back(lineage: Lineage, skip: Skip) -> None:
    """Quarantine, backoff and our own latest mint each stop a token that is over age."""
    assert decide(token(91 * DAY), policy(), lineage, NOW).skip is skip


def test_an_emergency_overrides_backoff_but_not_quarantine() -> None:
    """Near expiry a failed token is tried again at once; a quarantined one waits for a person."""
    waiting = Lineage("astro", "t1", "t1", "svc-a", failures=2, retry_at=NOW + DAY / 8)
    assert decide(expiring(DAY), policy(), waiting, NOW).due is Reason.EMERGENCY
    assert decide(expiring(DAY), policy(), replace(waiting, quarantined_at=NOW), NOW).skip is Skip.QUARANTINED


def test_moments_that_lie_too_far_ahead_hold_nothing_back() -> None:
    """A clock that was wrong has noted them: neither a mint in the future nor an endless backoff outlives it."""
    ahead = Lineage("astro", "t1", "t1", "svc-a", minted_at=NOW + 30 * DAY, failures=2, retry_at=NOW + 30 * DAY)
    assert decide(token(91 * DAY), policy(), ahead, NOW).due is Reason.MAX_AGE
    assert decide(expiring(DAY / 2), policy(), ahead, NOW).due is Reason.EMERGENCY
    skewed = replace(ahead, minted_at=NOW + DAY / 240, retry_at=None)  # another machine, its clock minutes ahead
    assert decide(token(91 * DAY), policy(), skewed, NOW).skip is Skip.NOT_DUE


def test_open_and_stale_lineages_are_unsettled() -> None:
    """A rotation under way, or sinks with a superseded value, are due as unsettled."""
    for lineage in (
        Lineage("astro", "t1", "t1", "svc-a", open_state=State.UNSETTLED),
        Lineage("astro", "t1", "t1", "svc-a", stale=True),
    ):
        assert decide(token(), policy(), lineage, NOW).due is Reason.UNSETTLED


def test_a_pause_says_until_when_and_is_loud_about_expiry() -> None:
    """A paused token names the end and the reason, and shouts when it expires first."""
    paused = replace(policy(), paused_until=NOW + 5 * DAY, pause_reason="freeze")
    said = decide(expiring(DAY), paused, None, NOW)
    assert said.skip is Skip.PAUSED
    assert "freeze" in said.message
    assert "EXPIRES BEFORE" in said.message


def timed(rules: Policy, windows: Sequence[str] = (), blackouts: Sequence[str] = (), zone: str = "UTC") -> Policy:
    where = parse_zone(zone)
    return replace(
        rules,
        timezone=zone,
        windows=Windows.parse(windows, where) if windows else None,
        blackouts=Windows.parse(blackouts, where, dates=True) if blackouts else None,
    )


@pytest.mark.parametrize(
    ("windows", "blackouts", "skip"),
    [
        (["12:00-13:00"], [], None),
        (["11:00-12:00"], [], Skip.WINDOW),
        (["mon 00:00-24:00"], [], Skip.WINDOW),
        ([], ["2026-11-24"], Skip.BLACKOUT),
        ([], ["2026-11-25"], None),
        (["12:00-13:00"], ["tue 00:00-24:00"], Skip.BLACKOUT),
        (["11:00-12:00"], ["tue 00:00-24:00"], Skip.WINDOW),
    ],
)
def test_age_and_expiry_wait_for_a_window(windows: list[str], blackouts: list[str], skip: Skip | None) -> None:
    """A token that is due by age or expiry is rotated inside the windows and outside the blackouts alone."""
    for shown in (token(91 * DAY), expiring(13 * DAY)):
        rules = timed(policy(before_expiry=14 * DAY), windows, blackouts)
        said, plain = decide(shown, rules, None, NOW), decide(shown, policy(before_expiry=14 * DAY), None, NOW)
        assert (said.skip, said.due) == (skip, None if skip else plain.due)
        assert said.due_at == plain.due_at


def test_a_token_that_waits_says_for_when() -> None:
    """The message has the reason, and the opening in the policy's zone and in UTC."""
    said = decide(token(91 * DAY), timed(policy(), ["sat 03:00-05:00"], zone="Europe/Berlin"), None, NOW).message
    assert "older than 90d" in said
    assert "next open 2026-11-28T03:00+01:00 in Europe/Berlin (2026-11-28T02:00:00.000Z)" in said
    assert "EXPIRES" not in said


def test_a_token_that_expires_before_its_window_is_loud() -> None:
    """It says when it expires and from when on it no longer waits; also where no window ever opens."""
    rules = policy(before_expiry=14 * DAY)
    said = decide(expiring(3 * DAY), timed(rules, ["sun 03:00-05:00"]), None, NOW).message
    assert "it EXPIRES BEFORE THAT, 2026-11-27T12:00:00.000Z; from 2026-11-25T12:00:00.000Z on it goes" in said
    never = decide(expiring(3 * DAY), timed(rules, ["sun 03:00-05:00"], ["sun 00:00-24:00"]), None, NOW)
    assert never.skip is Skip.WINDOW
    assert "NO MOMENT AHEAD" in never.message
    assert "EXPIRES BEFORE THAT" in never.message


def test_emergencies_override_windows_and_blackouts_but_no_pause() -> None:
    """Near or past expiry a token goes at once, unless its policy is paused."""
    closed = timed(policy(), ["sun 03:00-05:00"], ["2026-11-01..2026-12-31"])
    assert decide(expiring(DAY), closed, None, NOW).due is Reason.EMERGENCY
    assert decide(expiring(-DAY), closed, None, NOW).due is Reason.EXPIRED
    assert decide(token(), closed, Lineage("a", "t1", "t1", "n", stale=True), NOW).due is Reason.UNSETTLED
    assert decide(expiring(DAY), replace(closed, paused_until=NOW + DAY), None, NOW).skip is Skip.PAUSED


def test_windows_come_before_backoff_and_after_a_pause() -> None:
    """The skip reason is the first that holds: paused, window, blackout, backoff."""
    failed = Lineage("astro", "t1", "t1", "svc-a", failures=2, retry_at=NOW + DAY / 8)
    closed = timed(policy(), ["sun 03:00-05:00"])
    assert decide(token(91 * DAY), closed, failed, NOW).skip is Skip.WINDOW
    assert decide(token(91 * DAY), replace(closed, paused_until=NOW + DAY), failed, NOW).skip is Skip.PAUSED


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (token(10 * DAY, last_used_at=NOW - DAY), ""),
        (token(10 * DAY, last_used_at=NOW - 8 * DAY), "UNUSED since 2026-11-16"),
        (token(10 * DAY), "NEVER USED since 2026-11-14"),
    ],
)
def test_unused_tokens_are_reported_and_never_rotated_for_it(shown: Token, said: str) -> None:
    """unused_for says so in the message; the decision stays."""
    found = decide(shown, policy(unused_for=7 * DAY), None, NOW)
    assert found.skip is Skip.NOT_DUE
    assert said in found.message
    assert bool(said) is ("USED" in found.message)


@pytest.mark.parametrize(
    ("rules", "named"),
    [
        (policy(before_expiry=14 * DAY), []),
        (timed(policy(before_expiry=14 * DAY), ["mon-fri 02:00-05:00"]), ["emergency"]),
        (timed(policy(before_expiry=14 * DAY), [], ["2026-12-20..2027-01-06"]), ["before_expiry", "emergency"]),
        (timed(policy(before_expiry=Share(0.2)), ["02:00-05:00"]), []),
        (timed(policy(), ["02:00-02:30"], ["00:00-03:00"]), ["emergency"]),
    ],
)
def test_a_rhythm_slower_than_a_margin_is_warned_of(rules: Policy, named: list[str]) -> None:
    """The longest time between sweeps that may rotate is compared with emergency and with a duration before_expiry."""
    said = gap_warnings(rules, NOW, NOW + 365 * DAY)
    assert [row.split("longer than ")[1].split(",")[0] for row in said] == named


@given(st.integers(0, 10**9), st.floats(0, 0.5))
def test_jitter_is_earlier_never_later_and_the_same_everywhere(seed: int, jitter: float) -> None:
    """The due date with jitter lies in [threshold x (1 - jitter), threshold], the same at each look."""
    shown = token(DAY, id=f"t{seed}")
    plain, first, second = (decide(shown, policy(j), None, NOW).due_at for j in (0.0, jitter, jitter))
    assert plain is not None
    assert first is not None
    assert first == second
    assert plain - 90 * DAY * jitter - timedelta(seconds=1) <= first <= plain


@pytest.mark.parametrize(
    ("select", "chosen"),
    [
        (Select(frozenset()), False),
        (Select(frozenset({Scope.ORGANIZATION})), False),
        (Select(frozenset(Scope)), True),
        (Select(frozenset(Scope), names=("svc-*",), exclude_names=("svc-a",)), False),
        (Select(frozenset(Scope), names=("SVC-*",)), False),
        (Select(frozenset(Scope), ids=frozenset({"other"})), False),
        (Select(frozenset(Scope), workspaces=frozenset({"w2"})), False),
        (Select(frozenset(Scope), workspaces=frozenset({"w1"})), True),
        (Select(frozenset(Scope), roles=frozenset({"WORKSPACE_OWNER"})), True),
        (Select(frozenset(Scope), roles=frozenset({"WORKSPACE_MEMBER"})), False),
    ],
)
def test_nothing_is_selected_that_is_not_named(select: Select, chosen: bool) -> None:
    """Scopes, names, ids, homes and roles narrow; an empty selection selects nothing."""
    shown = token(workspace_id="w1", roles=(Role("WORKSPACE", "w1", "WORKSPACE_OWNER"),))
    assert selects(replace(policy(), select=select), shown, shown.id) is chosen


def test_direct_access_tokens_need_their_id() -> None:
    """A DIRECT_ACCESS token is selected only when it is named by id."""
    shown = token(kind="DIRECT_ACCESS")
    assert not selects(policy(), shown, shown.id)
    assert selects(replace(policy(), select=Select(frozenset(Scope), ids=frozenset({"t1"}))), shown, shown.id)


def test_the_first_policy_in_file_order_owns_a_token() -> None:
    """Of two policies that select a token the first one owns it."""
    first, second = replace(policy(), name="a"), replace(policy(), name="b")
    assert owner(token(), [first, second]) is first


def plan_of(count: int, brake: Brake, *, urgent: int = 0, selected: int = 100) -> Plan:
    rules = replace(policy(), brake=brake)
    made = Plan(selected={"p": selected})
    for number in range(count):
        shown = expiring(DAY + number * timedelta(minutes=1)) if number < urgent else token(91 * DAY)
        shown = replace(shown, id=f"t{number}")
        made.due.append(Candidate(shown, rules, decide(shown, rules, None, NOW)))
    return made


@pytest.mark.parametrize(
    ("made", "admitted"),
    [
        (plan_of(50, Brake(50)), 50),
        (plan_of(51, Brake(50)), 0),
        (plan_of(31, Brake(50, 30.0)), 0),
        (plan_of(30, Brake(50, 30.0)), 30),
        (plan_of(10, Brake(50, 30.0), selected=19), 10),
        (plan_of(1, Brake(50, 1.0), selected=20), 1),
        (plan_of(20, Brake(5), urgent=3), 3),
        (plan_of(20, Brake(5), urgent=9), 5),
    ],
)
def test_the_brake_refuses_the_whole_plan_but_lets_emergencies_through(made: Plan, admitted: int) -> None:
    """max_rotations and max_percent hold back all of a policy, except one token, and emergencies up to the limit."""
    assert len(guard(made, None).admitted) == admitted
    assert bool(made.refused) is (admitted < len(made.due))


def test_only_the_very_plan_can_be_accepted() -> None:
    """Accepting lifts the brake for the same tokens in the same generations, and for nothing else."""
    made, other = plan_of(20, Brake(5)), plan_of(21, Brake(5))
    assert len(guard(made, made.id).admitted) == 20
    assert guard(other, made.id).admitted == []


def test_a_place_belongs_to_the_lineage_that_settled_there() -> None:
    """Another token's place, and a silent move, are refused with the fix; a new sink is no move."""
    here, there = Place("files", "/a", {}), Place("files", "/b", {})
    settled = Lineage("astro", "t1", "t1", "svc-a", places=(here,))
    assert "belongs to token t2" in place_problem([here], None, {("files", "/a"): "t2"}, "t1")
    keyed = Place("files", "/a#K", {})
    assert "belongs to token t2" in place_problem([keyed], None, {("files", "/a"): "t2"}, "t1")
    assert "belongs to token t2" in place_problem([here], None, {("files", "/a#K"): "t2"}, "t1")
    for other in (("files", "/a#L"), ("files", "/a#K2"), ("files", "/a2"), ("vault", "/a")):
        assert not place_problem([keyed], None, {other: "t2"}, "t1")
    assert "--accept-move" in place_problem([there], settled, {}, "t1")
    assert not place_problem([there], replace(settled, move_accepted=True), {}, "t1")
    assert not place_problem([here, Place("vault", "x", {})], settled, {}, "t1")


def test_a_state_is_the_worst_that_holds() -> None:
    """status and metrics count a token once, worst first."""
    rules = policy()
    for lineage, shown, state in (
        (None, token(), "fresh"),
        (None, token(91 * DAY), "due"),
        (Lineage("a", "t1", "t1", "n", open_state=State.IN_DOUBT), token(), "in_doubt"),
        (Lineage("a", "t1", "t1", "n", open_state=State.MINTED), token(), "unsettled"),
        (Lineage("a", "t1", "t1", "n", quarantined_at=NOW), token(), "quarantined"),
        (None, expiring(-DAY), "expired"),
    ):
        candidate = Candidate(shown, rules, decide(shown, rules, lineage, NOW))
        assert token_state(candidate, lineage, NOW) == state
