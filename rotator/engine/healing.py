"""Mending a drift without a new secret: take over what is right already, copy it to where it is missing.

Everything is looked at again under the hold of the lineage, and nothing is copied that did not just authenticate.
"""

import uuid
from dataclasses import replace

from rotator.drift import Seen, diagnose
from rotator.engine.desk import Desk, Result, ref_of, result_of
from rotator.engine.looking import Look, learn, look, taken_over
from rotator.errors import Permanent, Temporary
from rotator.events import Event, EventName
from rotator.model import Heal, Lineage, Mint, Outcome, Place, Step, Token
from rotator.planning import Candidate
from rotator.secret import Secret


def heal(desk: Desk, candidate: Candidate) -> Result | None:
    """Adopt or redeliver, by what the sinks hold at this moment.

    Returns:
        None if neither would help now; what was seen is journalled.

    Raises:
        RotatorError: It could not be mended; nothing was lost, and the next look tries again.
    """
    with desk.journal.hold(desk.provider.name, desk.lineage(candidate.token).id):
        lineage = desk.lineage(candidate.token)
        token = desk.provider.get(ref_of(candidate.token))
        seen = look(desk, token, lineage, candidate.places)
        diagnosis = diagnose(token, lineage, seen.sightings, desk.clock.now())
        lineage = learn(desk, token, lineage, candidate.places, seen, diagnosis)
        drift = diagnosis.drift
        if drift is not None and seen.live is not None:
            if drift.heal is Heal.ADOPT:
                return _adopted(desk, candidate, token, lineage, seen.live)
            if drift.heal is Heal.REDELIVER:
                return _redelivered(desk, candidate, token, lineage, seen)
        desk.remember(lineage)
        return None


def _adopted(desk: Desk, candidate: Candidate, token: Token, lineage: Lineage, secret: Secret) -> Result:
    message = candidate.decision.message
    is_ours = desk.journal.fingerprint(secret) == lineage.fingerprint
    known = lineage if is_ours else replace(lineage, mint_id="")
    _settle(desk, candidate, token, known, secret, message)
    return result_of(candidate, Outcome.SETTLED, message)


def _redelivered(desk: Desk, candidate: Candidate, token: Token, lineage: Lineage, seen: Look) -> Result:
    secret = seen.live
    if secret is None:
        raise Permanent("no sink holds a live secret any more")
    prints = lineage.id, desk.journal.fingerprint(secret)
    mint_id = (lineage.mint_id if prints[1] == lineage.fingerprint else "") or uuid.uuid4().hex
    mint = Mint(mint_id, mint_id, token.id, secret, token.generation.moment, token.end_at, *prints)
    events = [
        _copied(desk, candidate, token, sighting.place, mint)
        for sighting in seen.sightings
        if sighting.seen is not Seen.LIVE
    ]
    message = f"{candidate.decision.message}; now every sink holds it"
    _settle(desk, candidate, token, replace(lineage, mint_id=mint_id), secret, message, *events)
    return result_of(candidate, Outcome.SETTLED, message)


def _copied(desk: Desk, candidate: Candidate, token: Token, place: Place, mint: Mint) -> Event:
    desk.deliver(place, mint)
    held = desk.read_back(place)
    if (held.mint_id or mint.id) != mint.id or (held.secret is not None and held.secret != mint.secret):
        raise Temporary(f"{place.sink}:{place.location} holds something else than was just delivered")
    desk.follow_up(place, mint)
    return desk.about(EventName.SECRET_REDELIVERED, token, candidate.policy.name, place=place, step=Step.DELIVER)


def _settle(
    desk: Desk, candidate: Candidate, token: Token, lineage: Lineage, secret: Secret, message: str, *done: Event
) -> None:
    settled = replace(taken_over(desk, token, lineage, candidate.places, secret), mint_id=lineage.mint_id)
    event = desk.about(EventName.SECRET_ADOPTED, token, candidate.policy.name, message=message, outcome=Outcome.SETTLED)
    claims = tuple(claim for place in candidate.places for claim in place.claims)
    if not desk.remember(settled, *done, event, claims=claims):
        raise Temporary("the lineage changed meanwhile; it is looked at again")
