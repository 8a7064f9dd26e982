"""Ending the old member of a lineage after its grace: the last irreversible step of an overlap, on proof only.

Immediately before the delete the new secret authenticates and every required sink reads back to it; otherwise the old
one lives on, and the reason is named. Under `when_unused` it also has to have been idle, and the new one used by
somebody else than us.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta

from rotator.drift import Seen
from rotator.engine.desk import Desk, Result, ref_of
from rotator.engine.looking import PROBES, Look, look
from rotator.engine.minting import Suspected, delete_orphan, may_be_held
from rotator.errors import NotFound, Permanent, RotatorError, Temporary
from rotator.events import EventName
from rotator.marker import marker_in
from rotator.model import Lineage, Outcome, Place, Retiring, Step, Strategy, Token
from rotator.planning import Candidate, Plan
from rotator.ports import Provider

OURS = timedelta(minutes=5)  # a use within this of a probe of ours was ours


def end(desk: Desk, lineage: Lineage, old: Retiring, places: Sequence[Place]) -> Result:
    """End one old member if it may be ended now.

    Args:
        desk: The provider and everything else.
        lineage: As the journal remembers it now.
        old: The member, its grace over.
        places: Where the secret of the lineage belongs.

    Raises:
        RotatorError: It could not be ended now; repeating is safe.
    """
    with desk.step(Step.RETIRE):
        return _end(desk, lineage, old, places)


def _end(desk: Desk, lineage: Lineage, old: Retiring, places: Sequence[Place]) -> Result:
    provider = desk.provider
    token = _named(provider, old)
    if token is None:
        return _ended(desk, lineage, old, "it was gone already")
    desk.require_clock()
    try:
        current = provider.get(replace(ref_of(old), id=lineage.token_id))
    except NotFound:
        return promote(desk, lineage, old)
    obstacle = still_used(desk, old) or _in_use(old, token, current, lineage, desk.clock.now())
    if not obstacle:
        seen = look(desk, current, replace(lineage, fingerprint=""), places)  # tried at the API, whatever we remember
        lineage = replace(lineage, probes=(*lineage.probes, *seen.probed_at)[-PROBES:], missing_since=None)
        obstacle = _unproven(seen, old)
    if obstacle:
        return _delayed(desk, lineage, old, token, obstacle)
    proof = " and which authenticates" if seen.probed_at else ", as far as they say"
    said = f"replaced by {lineage.token_id}, which every required sink holds{proof}"
    revoke(desk, old, said)
    return _ended(desk, lineage, old, said)


def revoke(desk: Desk, old: Retiring, why: str) -> None:
    """Delete an old member, announced in the audit; the lineage still names it until a look finds it gone.

    Raises:
        RotatorError: Not announced, or perhaps not deleted; repeating is safe.
    """
    intent = desk.about(EventName.RETIREMENT_INTENDED, old, old.policy, message=why, step=Step.RETIRE)
    desk.record(intent, must_audit=True)
    with suppress(NotFound):
        desk.provider.delete(ref_of(old))


def promote(desk: Desk, lineage: Lineage, old: Retiring) -> Result:
    """Put an old member that lives back in the place of one that somebody deleted; its sinks are mended next."""
    now, since = desk.clock.now(), lineage.missing_since
    why = f"{lineage.token_id}, which replaced it, is unknown to the API"
    if since is None or now < since + desk.settings.late_window:  # once may be a hiccup
        desk.remember(replace(lineage, missing_since=since or now))
        return _result(old, Outcome.UNSETTLED, f"{old.token_id} lives on: {why}; looking again")
    left = tuple(other for other in lineage.retiring if other.token_id != old.token_id)
    said = f"{why} and was deleted; the old one is used again"
    event = desk.about(EventName.TOKEN_GONE, old, old.policy, message=said)
    back = replace(
        lineage, token_id=old.token_id, retiring=left, stale=True, generation=None, missing_since=None, fingerprint=""
    )
    desk.remember(back, event)
    return _result(old, Outcome.UNSETTLED, f"{old.token_id} is used again: {why}")


def tend(desk: Desk, made: Plan, since: datetime) -> Iterator[Result]:
    """Look after members that the listing does not show: gone, or of a policy that no longer selects them.

    Args:
        desk: The provider and everything else.
        made: What the listing has shown; what it could end is not looked at twice.
        since: When it was made; what has been replaced later could not be in it.
    """
    done = {row.token.id for row in made.endable}
    for lineage in desk.journal.overlapped(desk.provider.name):
        for old in lineage.retiring if lineage.open_state is None else ():
            unseen = [member for member in (old.token_id, lineage.token_id) if member not in made.seen]
            if unseen and old.token_id not in done and old.due_at <= since and old.since < since:
                try:
                    yield from _tended(desk, lineage.id, old, unseen)
                except RotatorError as error:
                    yield _result(old, Outcome.UNSETTLED, error.message)


def _tended(desk: Desk, root: str, old: Retiring, unseen: Sequence[str]) -> Iterator[Result]:
    with desk.journal.hold(desk.provider.name, root):
        lineage = desk.journal.lineages(desk.provider.name, [root]).get(root)
        if lineage is None or old not in lineage.retiring:
            return
        token = _named(desk.provider, old)
        if token is None:
            yield _ended(desk, lineage, old, "it was gone already")
            return
        try:
            desk.provider.get(replace(ref_of(old), id=lineage.token_id))
        except NotFound:
            yield promote(desk, lineage, old)
            return
        if old.token_id in unseen:
            why = "no policy selects it any more; select it again, or delete it by hand"
            yield _delayed(desk, lineage, old, token, why)


def _named(provider: Provider, old: Retiring) -> Token | None:
    """Return the old token; None if it is gone already."""
    try:
        token = provider.get(ref_of(old))
    except NotFound:
        return None
    if (token.name, token.scope) != (old.name, old.scope):
        raise Permanent(f"{old.token_id} has another name or scope than when it was replaced; end it by hand")
    return token


def still_used(desk: Desk, old: Retiring) -> str:
    """Return whom ending it could lock out: on this machine a reference may lag behind the one that settled."""
    if old.token_id in desk.provider.own_credentials():
        return "a reference of our own credential still yields it here"
    others = desk.others()
    holder = next(iter(others.holders.get(old.token_id, ())), None)
    if holder is not None:
        return f"{holder.table} works with it, read from {holder.reference}; put the new one there"
    return f"it may be what others work with: {others.unread}" if others.unread else ""


def _in_use(old: Retiring, token: Token, current: Token, lineage: Lineage, now: datetime) -> str:
    """Return why the old member may still be needed, empty if it is not."""
    if not old.ending.only_unused:
        return ""
    used = token.last_used_at
    if used is not None and now - used < old.ending.idle:
        return f"somebody used the old secret at {used:%Y-%m-%d %H:%M} UTC"
    new_use = current.last_used_at
    if new_use is None or any(abs(new_use - probe) < OURS for probe in lineage.probes):
        return "nobody but us has used the new secret yet"
    return ""


def _unproven(seen: Look, old: Retiring) -> str:
    wrong = [sighting for sighting in seen.sightings if sighting.seen is not Seen.LIVE]
    if wrong:
        where = f"{wrong[0].place.sink}:{wrong[0].place.location}"
        return f"{where} holds {wrong[0].seen.value} {wrong[0].why}".rstrip()
    mute = [sighting for sighting in seen.sightings if not sighting.is_named]
    if mute and not old.ending.only_unused:
        return f'{mute[0].place.sink}:{mute[0].place.location} does not say what it holds; use retire = "when_unused"'
    return "" if seen.sightings else "no required sink holds the new secret"


def _delayed(desk: Desk, lineage: Lineage, old: Retiring, token: Token, why: str) -> Result:
    is_news = why != old.message
    event = desk.about(EventName.RETIREMENT_DELAYED, token, old.policy, message=why, step=Step.RETIRE)
    noted = tuple(
        replace(other, message=why) if other.token_id == old.token_id else other for other in lineage.retiring
    )
    desk.remember(replace(lineage, retiring=noted), *((event,) if is_news else ()))
    return _result(old, None, f"{old.token_id} lives on: {why}")


def _ended(desk: Desk, lineage: Lineage, old: Retiring, why: str) -> Result:
    left = tuple(other for other in lineage.retiring if other.token_id != old.token_id)
    event = desk.about(EventName.TOKEN_RETIRED, old, old.policy, message=why, step=Step.RETIRE)
    if not desk.remember(replace(lineage, retiring=left), event):
        raise Temporary(f"{old.token_id} was ended, but the lineage changed meanwhile; it is noted in the next sweep")
    return _result(old, Outcome.SETTLED, f"{old.token_id} ended: {why}", retired=True)


def _result(old: Retiring, outcome: Outcome | None, message: str, *, retired: bool = False) -> Result:
    return Result(
        old.token_id,
        old.name,
        str(old.scope),
        old.policy,
        None,
        outcome,
        message,
        old.rotation_id,
        strategy=Strategy.OVERLAP,
        retired=retired,
    )


def end_candidate(desk: Desk, row: Candidate) -> Result | None:
    """End the old member that a plan found due."""
    lineage = desk.lineage(row.token)
    old = next((old for old in lineage.retiring if old.token_id == row.token.id), None)
    if old is None or lineage.open_state is not None:
        return None
    with desk.journal.hold(desk.provider.name, lineage.id):
        return end(desk, lineage, old, desk.places(row.policy, row.token, lineage.id))


def end_orphan(desk: Desk, row: Candidate) -> None:
    """Delete a twin that an unanswered create left behind, if the proof is whole.

    Raises:
        RotatorError: It could not be deleted now.
    """
    marker = marker_in(row.token.description)
    root = marker.lineage if marker is not None else ""
    lineage = desk.journal.lineages(desk.provider.name, [root]).get(root)
    if lineage is None or marker is None:
        return
    for watch in lineage.watches:
        if watch.post_id == marker.post_id and not may_be_held(desk, lineage.places, row.token):
            like = Suspected(lineage.name, lineage.scope, watch.intended_at, row.policy.name, lineage.members)
            delete_orphan(desk, desk.provider, row.token, like)
