"""A person's word that a token may go on: lifts a quarantine and a backoff, accepts a new place."""

from dataclasses import replace

from rotator.engine.desk import Desk
from rotator.errors import Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage
from rotator.ports import Write

WRITES = 8  # attempts; a sweep that only looks may write between our reading and writing, but hardly ever twice


def release(desk: Desk, root: str, *, accept_move: bool) -> str:
    """Let a credential go on, and return what was lifted; empty if nothing held it.

    Args:
        desk: The provider and everything else.
        root: The first id of the lineage.
        accept_move: Whether its secret may go to a new place.

    Raises:
        Temporary: A rotation of it is open, or somebody works on it at this moment.
        AuditUnavailable, Permanent: Nothing was written.
    """
    provider = desk.provider.name
    with desk.journal.hold(provider, root):
        for _ in range(WRITES):
            lineage = desk.journal.lineages(provider, [root])[root]
            said = _held_by(lineage, accept_move=accept_move)
            if not said:
                return ""
            event = Event(
                name=EventName.TOKEN_RELEASED,
                at=desk.clock.now(),
                provider=provider,
                token_id=lineage.token_id,
                token_name=lineage.name,
                message=f"a person says: {said}",
            )
            freed = _freed(lineage, accept_move=accept_move)
            if desk.remember_all([Write(lineage=freed, events=(event,), must_audit=True)]):
                return said
    raise Temporary(f"{root}: its record changes all the time; try again")


def _held_by(lineage: Lineage, *, accept_move: bool) -> str:
    lifted = []
    if lineage.quarantined_at is not None:
        lifted.append(f"the quarantine is lifted (it was: {lineage.quarantine_reason})")
    if lineage.retry_at is not None:
        lifted.append("its backoff is over")
    if accept_move:
        lifted.append("its secret may go to a new place")
    return "; ".join(lifted)


def _freed(lineage: Lineage, *, accept_move: bool) -> Lineage:
    freed = replace(
        lineage,
        quarantined_at=None,
        quarantine_reason="",
        failures=0,
        retry_at=None,
        move_accepted=accept_move or lineage.move_accepted,
    )
    # Whoever fought us was talked to: the next drift is the first one again, or the release would be for nothing; and
    # what was found before is looked at anew.
    return replace(freed, drift_rotations=(), looked_at=None) if lineage.quarantined_at is not None else freed
