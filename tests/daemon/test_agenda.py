"""What is done between scheduled sweeps."""

from datetime import UTC, datetime, timedelta

from rotator.daemon.agenda import LONGEST_RETRY, Agenda
from rotator.events import Event, EventName

NOW = datetime(2026, 1, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def told(name: EventName, rotation: str = "r1", at: datetime = NOW) -> Event:
    """Return a fact about a rotation."""
    return Event(name=name, at=at, policy="services", rotation_id=rotation)


def test_what_was_in_doubt_is_looked_at_twice() -> None:
    """Fifteen and sixty minutes after the doubt, and after its settlement; each once."""
    agenda = Agenda()
    agenda.note(told(EventName.ROTATION_IN_DOUBT))
    agenda.note(told(EventName.ROTATION_IN_DOUBT, at=NOW + MINUTE))
    assert agenda.looks(NOW + 14 * MINUTE) == set()
    assert agenda.looks(NOW + 15 * MINUTE) == {"services"}
    assert agenda.looks(NOW + 59 * MINUTE) == set()
    agenda.note(told(EventName.ROTATION_SETTLED, at=NOW + 30 * MINUTE))
    assert agenda.looks(NOW + 45 * MINUTE) == {"services"}
    assert agenda.looks(NOW + 60 * MINUTE) == {"services"}
    assert agenda.looks(NOW + 90 * MINUTE) == {"services"}
    assert agenda.looks(NOW + 900 * MINUTE) == set()


def test_what_was_never_in_doubt_is_not_looked_at_again() -> None:
    """An ordinary settlement asks for nothing."""
    agenda = Agenda()
    agenda.note(told(EventName.ROTATION_SETTLED))
    assert agenda.looks(NOW + timedelta(days=1)) == set()


def test_a_failed_sweep_is_tried_again_ever_later() -> None:
    """After one minute, two, four, up to an hour; success forgets it."""
    agenda, now, pauses = Agenda(), NOW, []
    for _ in range(9):
        agenda.failed("services", now)
        assert agenda.retries(now) == set()
        pause = next(MINUTE * n for n in range(1, 100) if agenda.retries(now + MINUTE * n))
        pauses.append(pause)
        now += pause
    assert pauses[:4] == [MINUTE, 2 * MINUTE, 4 * MINUTE, 8 * MINUTE]
    assert pauses[-1] == LONGEST_RETRY
    agenda.succeeded("services")
    assert agenda.retries(NOW + timedelta(days=9)) == set()
    agenda.failed("services", now)
    assert agenda.retries(now + MINUTE) == {"services"}
    assert agenda.retries(now - timedelta(days=1)) == {"services"}  # the clock was put back since
