"""A person's word that a token may go on: lifts a quarantine and a backoff, accepts a new place."""

from dataclasses import replace

from rotator.engine.desk import Desk
from rotator.errors import ConfigError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage
from rotator.planning import owner, place_problem
from rotator.ports import TokenRef, Write

WRITES = 8  # attempts; a sweep that only looks may write between our reading and writing, but hardly ever twice


def release(desk: Desk, root: str, *, accept_move: bool) -> str:
    """Let a credential go on, and return what was lifted; empty if nothing held it.

    Args:
        desk: The provider and everything else.
        root: The first id of the lineage.
        accept_move: Whether its secret may go to a new place.

    Raises:
        ConfigError: No move is pending that could be accepted; nothing was changed.
        Temporary: A rotation of it is open, or somebody works on it at this moment.
        AuditUnavailable, Permanent: Nothing was written.
    """
    provider = desk.provider.name
    with desk.journal.hold(provider, root):
        if accept_move:
            _require_move(desk, desk.journal.lineages(provider, [root])[root])
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


def _require_move(desk: Desk, lineage: Lineage) -> None:
    """Refuse a word given in advance: it would let whatever the token is renamed to later go through unasked.

    Raises:
        ConfigError: Its secret would go where it settled, or nowhere.
        Temporary, Permanent: The token cannot be read.
    """
    settled = ", ".join(f"{place.sink}:{place.location}" for place in lineage.places)
    if settled and lineage.scope is not None:
        ref = TokenRef(lineage.token_id, lineage.scope, lineage.workspace_id, lineage.deployment_id)
        token = desk.provider.get(ref)
        policy = owner(token, desk.policies, lineage)
        places = desk.places(policy, token, lineage.id) if policy is not None else ()
        if place_problem(places, replace(lineage, move_accepted=False), {}, lineage.id):
            return
    where = f"it settled at {settled}, and would not go elsewhere now" if settled else "it has not settled anywhere yet"
    raise ConfigError.of(
        "--accept-move",
        f"{lineage.name} ({lineage.token_id}) has no move to accept: {where}; leave it out, or rename the token or"
        " change the policy's deliveries first",
    )


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
