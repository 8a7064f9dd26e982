"""Mending a drift without a new secret: take over what is right already, copy it to where it is missing.

Everything is looked at again under the hold of the lineage, and nothing is copied that did not just authenticate.
"""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from rotator.drift import Seen, diagnose
from rotator.engine.desk import Desk, Result, ref_of, result_of
from rotator.engine.looking import Look, learn, look, taken_over
from rotator.errors import NotFound, Permanent, RotatorError, Temporary
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
        now = _now(desk, candidate)
        if _is_owing(desk, candidate, now):
            now = _now(desk, candidate)  # the journal took its time, and only what just authenticated is copied
        drift, live = now.lineage.drift, now.look.live
        if drift is not None and live is not None:
            if drift.heal is Heal.ADOPT:
                return _adopted(desk, candidate, now.token, now.lineage, live)
            if drift.heal is Heal.REDELIVER:
                return _redelivered(desk, candidate, now)
        # it may have been taken over just now, with where it settled
        desk.remember(now.lineage, claims=tuple(claim for place in now.lineage.places for claim in place.claims))
        return None


@dataclass(frozen=True, slots=True)
class _Now:
    """What the provider, the journal and the sinks say at this moment; `lineage` has learnt of the look."""

    token: Token
    lineage: Lineage
    look: Look

    @property
    def wrong(self) -> list[Place]:
        """The places that do not hold a live secret."""
        return [sighting.place for sighting in self.look.sightings if sighting.seen is not Seen.LIVE]

    def told(self, candidate: Candidate) -> list[Place]:
        """Return the places whose readers are to be told once all is copied, with those that were owed before."""
        return [place for place in candidate.places if place in self.wrong or _name(place) in self.lineage.owed]


def _now(desk: Desk, candidate: Candidate) -> _Now:
    lineage = desk.lineage(candidate.token)
    token = desk.provider.get(ref_of(candidate.token))
    seen = look(desk, token, lineage, candidate.places)
    diagnosis = diagnose(token, lineage, seen.sightings, desk.clock.now())
    return _Now(token, learn(desk, token, lineage, candidate.places, seen, diagnosis), seen)


def _is_owing(desk: Desk, candidate: Candidate, now: _Now) -> bool:
    """Journal, before anything is copied, whose readers are to be told of it: a death in between must not forget them.

    Returns:
        Whether that was not journalled yet.

    Raises:
        Temporary: The lineage changed meanwhile.
    """
    drift = now.lineage.drift
    if drift is None or drift.heal is not Heal.REDELIVER or now.look.live is None:
        return False
    named = tuple(_name(place) for place in now.told(candidate) if desk.is_followed(place))
    if set(named) <= set(now.lineage.owed):
        return False
    if not desk.remember(replace(now.lineage, owed=named)):
        raise Temporary("the lineage changed meanwhile; it is looked at again")
    return True


def _adopted(desk: Desk, candidate: Candidate, token: Token, lineage: Lineage, secret: Secret) -> Result:
    message = candidate.decision.message
    if desk.journal.fingerprint(secret) != lineage.fingerprint:
        lineage = replace(lineage, mint_id="", versions=())
    mint = _mint(desk, token, lineage, secret)
    owed = _unfollowed(desk, [place for place in candidate.places if _name(place) in lineage.owed], mint)
    _settle(desk, candidate, token, replace(lineage, owed=tuple(owed)), secret, message)
    return _told(candidate, owed, message)


def _redelivered(desk: Desk, candidate: Candidate, now: _Now) -> Result:
    token, lineage, secret, wrong = now.token, now.lineage, now.look.live, now.wrong
    if secret is None:
        raise Permanent("no sink holds a live secret any more")
    mint = _mint(desk, token, lineage, secret)
    versions = {_name(place): version for place, version in zip(lineage.places, lineage.versions, strict=False)}
    versions |= {_name(place): _copied(desk, place, mint) for place in wrong}
    owed = _unfollowed(desk, now.told(candidate), mint)
    known = replace(
        lineage,
        mint_id=mint.id,
        versions=tuple(versions.get(_name(place), "") for place in candidate.places),
        owed=tuple(owed),
    )
    name, policy = EventName.SECRET_REDELIVERED, candidate.policy.name
    events = [desk.about(name, token, policy, place=place, step=Step.DELIVER) for place in wrong]
    message = f"{candidate.decision.message}; now every sink holds it"
    _settle(desk, candidate, token, known, secret, message, *events)
    return _told(candidate, owed, message)


def _told(candidate: Candidate, owed: dict[str, str], message: str) -> Result:
    if owed:  # every secret is where it belongs, but somebody still works with the old one
        said = "; ".join(f"{where}: {why}" for where, why in owed.items())
        return result_of(candidate, Outcome.FAILED, f"{said}; tried again in the next sweep")
    return result_of(candidate, Outcome.SETTLED, message)


def _mint(desk: Desk, token: Token, lineage: Lineage, secret: Secret) -> Mint:
    """Return the value under the id of its mint if it is the one we settled, else under one that is its own for good.

    Who died on the way comes back with the same id, so that sinks see that nothing changed since.
    """
    print_ = desk.journal.fingerprint(secret)
    of_its_own = uuid.UUID(bytes=sha256(f"{lineage.id}/{print_}".encode()).digest()[:16], version=4).hex
    mint_id = (lineage.mint_id if print_ == lineage.fingerprint else "") or of_its_own
    return Mint(mint_id, mint_id, token.id, secret, token.generation.moment, token.end_at, lineage.id, print_)


def _copied(desk: Desk, place: Place, mint: Mint) -> str:
    """Write and prove; return the sink's version."""
    receipt = desk.deliver(place, mint)
    held = desk.read_back(place)
    is_other = (held.mint_id or mint.id) != mint.id if held.secret is None else held.secret != mint.secret
    if is_other:
        raise Temporary(f"{_name(place)} holds something else than was just delivered")
    return receipt.version


def _unfollowed(desk: Desk, places: Sequence[Place], mint: Mint) -> dict[str, str]:
    """Let the readers of these places know; return those that could not be told, with why."""
    owed = {}
    for place in places:
        try:
            desk.follow_up(place, mint)
        except NotFound:
            continue  # there is nobody left to tell
        except RotatorError as error:
            owed[_name(place)] = error.message
    return owed


def _name(place: Place) -> str:
    return f"{place.sink}:{place.location}"


def _settle(
    desk: Desk, candidate: Candidate, token: Token, lineage: Lineage, secret: Secret, message: str, *done: Event
) -> None:
    taken = taken_over(desk, token, lineage, candidate.places, secret)
    settled = replace(taken, mint_id=lineage.mint_id, versions=lineage.versions)
    event = desk.about(EventName.SECRET_ADOPTED, token, candidate.policy.name, message=message, outcome=Outcome.SETTLED)
    claims = tuple(claim for place in candidate.places for claim in place.claims)
    if not desk.remember(settled, *done, event, claims=claims):
        raise Temporary("the lineage changed meanwhile; it is looked at again")
