"""From a due token to its first POST: everything that may still say no, in the order that loses nothing.

Preflight of journal, audit, clock and every required place; the lock; a second look at the token; the intent. Until the
intent is journalled nothing has changed anywhere.
"""

import uuid
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from rotator.drift import fights
from rotator.engine.deciding import Placing, refreshed
from rotator.engine.desk import Desk, Result, ref_of, result_of
from rotator.engine.healing import heal
from rotator.engine.looking import owners_of
from rotator.engine.minting import can_mint
from rotator.engine.own import renewing
from rotator.engine.rotation import Attempt
from rotator.errors import Permanent, Temporary
from rotator.events import EventName
from rotator.model import DeliveryRecord, Heal, Lineage, Outcome, Reason, Rotation, State, Step, Strategy, Token
from rotator.planning import Candidate, deadline, place_problem
from rotator.ports import Provider, Question

BY_HAND = frozenset({Reason.REQUESTED, Reason.LEAKED})
# How often within a week others may have undone our work before the next rotation would be a fight: a drift that we
# have settled must not come again, and of rotations that somebody superseded the first one is made good.
_BY_DRIFT = {Reason.DRIFTED: 0, Reason.UNSETTLED: 1}


def begin(desk: Desk, row: Candidate, *, revoke_first: bool = False) -> Result:
    """Take one due token as far as it goes now.

    Args:
        desk: The provider and everything else.
        row: Due, with its places.
        revoke_first: Rotate although a sink cannot be written: the secret leaked, and ending it comes first.

    Raises:
        RotatorError: Something before the irreversible step said no; nothing was changed.
    """
    if row.decision.due in _BY_DRIFT:
        # The look that found it may be a day old: somebody may have mended it since, or made it possible.
        healed = heal(desk, row)
        if healed is not None:
            return healed
        if row.decision.heal in (Heal.ADOPT, Heal.REDELIVER):
            return result_of(row, None, "at the second look there was nothing to mend this way")
    preflight(desk, row, places=not revoke_first)
    rotation_id = uuid.uuid4().hex
    objection = _objection(desk, row, rotation_id)  # before the second look, for whoever is asked may take long
    if objection:
        return replace(result_of(row, None, objection), held=True)
    with _through(desk, row) as provider:
        # The version read here is the lock: if anybody changes the lineage after this, the intent is not written.
        with desk.step(Step.LOCK):
            lineage = desk.lineage(row.token)
            token = _look_again(desk, row, lineage)
        if token is None:
            return result_of(row, None, "no longer due at the second look")
        if row.decision.due in _BY_DRIFT and fights(lineage, desk.clock.now(), _BY_DRIFT[row.decision.due]):
            return _quarantined(desk, row, lineage)
        if row.strategy is Strategy.OVERLAP and token.kind != "STANDARD":
            raise Permanent(f'a twin would not be of its kind {token.kind}; use strategy = "in_place" for it')
        for place in row.places:  # a person may have put our credential there since it was planned
            desk.refuse_reserved(place, token.id, lineage.id)
        rotation = _intended(desk, row, token, lineage, rotation_id)
        can_mint(desk, rotation)
        event = replace(
            desk.event(EventName.ROTATION_INTENDED, rotation, step=Step.INTEND, message=row.decision.message),
            deadline=deadline(token, row.policy, lineage),
            expires_at=token.end_at,
        )
        shadow = replace(
            lineage,
            name=token.name,
            scope=token.scope,  # so that it can be found gone, and its places free, although it never settled
            workspace_id=token.workspace_id,
            deployment_id=token.deployment_id,
            open_state=State.INTENDED,
            open_message="",
        )
        with desk.step(Step.INTEND):
            is_open = desk.journal.open(rotation, shadow, (event,))
        if not is_open:
            taken = place_problem(row.places, lineage, owners_of(desk, lineage, row.places), lineage.id)
            return result_of(row, None, taken or "another process is at it")
        desk.emit(event)
        return Attempt(desk, rotation, shadow, provider).drive()


def _through(desk: Desk, row: Candidate) -> AbstractContextManager[Provider]:
    return renewing(desk, row.token.id) if row.own else nullcontext(desk.provider)


def preflight(desk: Desk, row: Candidate, *, places: bool = True) -> None:
    """Show before anything irreversible that it could be finished.

    Raises:
        RotatorError: It could not.
    """
    with desk.step(Step.PREFLIGHT):
        desk.require_clock()
        desk.journal.preflight()
        for place in row.places if places else ():
            if place.required:
                desk.preflight(place)


def _objection(desk: Desk, row: Candidate, rotation_id: str) -> str:
    """Return why somebody who is asked first wants the token left alone; empty if nobody does."""
    if desk.veto is None:
        return ""
    reason, said = row.decision.due or Reason.REQUESTED, row.decision.message
    asked = Question(
        at=desk.clock.now(),
        rotation_id=rotation_id,
        provider=desk.provider.name,
        policy=row.policy.name,
        token=row.token,
        reason=reason,
        message=said,
        strategy=row.strategy,
        places=row.places,
    )
    objection = desk.veto.ask(asked)
    if objection:
        event = desk.about(
            EventName.ROTATION_VETOED, row.token, row.policy.name, message=objection, reason=reason, step=Step.PREFLIGHT
        )
        desk.record(event)
    return objection


def _look_again(desk: Desk, row: Candidate, lineage: Lineage) -> Token | None:
    """Return the token as it is now if it is the same one and still due."""
    planned = row.token
    token = desk.provider.get(ref_of(planned))
    if (token.name, token.scope, token.organization_id) != (planned.name, planned.scope, planned.organization_id):
        raise Permanent("its name, scope or organization changed between plan and rotation; it is planned anew")
    if lineage.open_state is not None:
        return None
    switched = Placing(desk).switched(row, lineage)
    if switched:
        raise Permanent(f"{switched}; it is planned anew")
    if row.decision.due in BY_HAND:
        return token
    return token if refreshed(desk, row, token, lineage).due is not None else None


def _intended(desk: Desk, row: Candidate, token: Token, lineage: Lineage, rotation_id: str) -> Rotation:
    overlaps = row.strategy is Strategy.OVERLAP
    return Rotation(
        id=rotation_id,
        provider=desk.provider.name,
        lineage=lineage.id,
        token_id=token.id,
        policy=row.policy.name,
        reason=row.decision.due or Reason.REQUESTED,
        state=State.INTENDED,
        name=token.name,
        scope=token.scope,
        organization_id=desk.provider.organization_id,
        observed=token.generation,
        opened_at=desk.clock.now(),
        deliveries=tuple(DeliveryRecord(place) for place in row.places),
        workspace_id=token.workspace_id,
        deployment_id=token.deployment_id,
        strategy=row.strategy,
        roles=token.roles,
        description=token.description,
        life=token.life,
        ending=row.policy.ending if overlaps and row.policy.strategy is Strategy.OVERLAP else None,
        own=row.own,
        end_at_before=token.end_at,
        posts=1,
    )


def _quarantined(desk: Desk, row: Candidate, lineage: Lineage) -> Result:
    why = f"somebody fights us over it, again within a week: {row.decision.message}"
    event = desk.about(
        EventName.TOKEN_QUARANTINED,
        row.token,
        row.policy.name,
        message=why,
        outcome=Outcome.QUARANTINED,
        strategy=row.strategy,
    )
    if not desk.remember(replace(lineage, quarantined_at=desk.clock.now(), quarantine_reason=why), event):
        raise Temporary("the lineage changed meanwhile; it is looked at again")
    return result_of(row, Outcome.QUARANTINED, why)
