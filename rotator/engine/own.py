"""The credential that rotator itself works with: renewed last and alone, and never so that none is left that works.

The only one is always renewed by overlap with itself: the old one ends only after its reference yields the new one and
that authenticates. Of two, each is renewed through the other, one at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta

from rotator.claims import claims
from rotator.engine.desk import Desk
from rotator.errors import CredentialRejected, Forbidden, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage, Place, Rotation, Scope
from rotator.ports import Others, OwnCredential, Provider, TokenRef
from rotator.timing import stamp

LOCK = "own credentials"  # held by whoever renews one of them
LAG = timedelta(minutes=10)  # mounted secrets follow a change this late
LONGEST_RENEWAL = timedelta(days=1)  # beyond it, an open renewal no longer explains that we are rejected
LOUD = timedelta(days=14)  # before the expiry of one that nobody renews


@contextmanager
def renewing(desk: Desk, token_id: str) -> Iterator[Provider]:
    """Yield what a credential of ours is renewed through, alone in this provider.

    Raises:
        Temporary: Another one is being renewed, or the other one does not work right now.
    """
    with desk.journal.hold(desk.provider.name, LOCK):
        if any(rotation.own for rotation in desk.journal.open_rotations(desk.provider.name)):
            raise Temporary("another credential of ours is being renewed; one at a time")
        other = _other(desk, token_id)
        if other is None:
            yield desk.provider
            return
        other_id, credential = other
        provider = desk.provider.through(credential.read)
        try:
            provider.authenticate(TokenRef(other_id, Scope.ORGANIZATION), credential.read())
        except Forbidden:
            pass  # it lives, though it may not read itself
        except RotatorError as error:
            raise Temporary(
                f"our other credential does not work right now, so this one is kept: {error.message}"
            ) from None
        yield provider


def unrenewable(token_id: str, owns: Mapping[str, OwnCredential], others: Others, places: Sequence[Place]) -> str:
    """Return why to renew a token would lock out somebody who works with it; empty if it locks out nobody.

    Args:
        token_id: Of the token.
        owns: The provider's own credentials by token id.
        others: Who else works with which token.
        places: Where the new secret would go.
    """
    written = {place.reference for place in places if place.required}
    own = owns.get(token_id)
    if own is not None and own.reference not in written:
        return (
            "it is the credential rotator itself works with, and no required delivery writes exactly where its"
            f" reference {own.reference} reads; renew it by hand, or let one do so"
        )
    for holder in others.holders.get(token_id, ()):
        is_theirs = own is None and holder.renews
        if is_theirs or holder.reference not in written:
            fix = f"let a policy of {holder.table} renew it" if is_theirs else "let a required delivery write there"
            return (
                f"it is the credential that {holder.table} works with, read from {holder.reference}: a new secret"
                f" made here would lock that out; {fix}, or put another token there first"
            )
    return ""


def recovering(desk: Desk, rotation: Rotation) -> Provider:
    """Return what an open rotation is recovered through: for our own credential the sealed value comes first."""
    if not rotation.own:
        return desk.provider
    if rotation.state.holds_secret:
        try:
            sealed = desk.journal.secret(rotation)
        except RotatorError:
            return desk.provider  # it cannot be opened: named where it is needed
        return desk.provider.through(lambda: sealed)
    other = _other(desk, rotation.token_id)
    return desk.provider if other is None else desk.provider.through(other[1].read)


def explained(desk: Desk, error: CredentialRejected) -> RotatorError:
    """Return what a rejected credential means: while one is being replaced, wait, for mounted secrets lag."""
    now = desk.clock.now()
    opened = [r.opened_at for r in desk.journal.open_rotations(desk.provider.name) if r.own]
    if any(now - moment < LONGEST_RENEWAL for moment in opened):
        return Temporary("our own credential is being renewed and is not accepted yet; run again in a few minutes")
    settled = [lineage.settled_at for lineage in _lineages(desk) if lineage.settled_at is not None]
    if any(now - moment < LAG for moment in settled):
        return Temporary(
            "our own credential was renewed minutes ago and is not mounted yet; run again in a few minutes"
        )
    return error


def credentials(desk: Desk) -> Iterator[Event]:
    """Yield until when each credential of ours says that it lives."""
    now = desk.clock.now()
    for token_id, own in _known(desk).items():
        try:
            said = claims(own.read())
        except Temporary:
            continue  # the provider said so
        yield Event(
            name=EventName.CREDENTIAL_READ,
            at=now,
            provider=desk.provider.name,
            token_id=token_id,
            location=own.reference,
            expires_at=said.expires_at if said is not None else None,
        )


def is_expiring(fact: Event) -> bool:
    """Whether a credential, as `credentials` told it, is so close to its expiry that people should know."""
    return fact.expires_at is not None and fact.expires_at - fact.at <= LOUD


def expiring(fact: Event) -> Event:
    """Return the warning about such a credential."""
    until = stamp(fact.expires_at) if fact.expires_at is not None else ""
    said = f"the credential {fact.location} that rotator works with expires {until}"
    return replace(fact, name=EventName.CREDENTIAL_EXPIRING, location="", message=said)


def _known(desk: Desk) -> Mapping[str, OwnCredential]:
    """Return our credentials, or none: what is open is recovered also while the store of one cannot be reached."""
    try:
        return desk.provider.own_credentials()
    except Temporary:
        return {}


def _other(desk: Desk, token_id: str) -> tuple[str, OwnCredential] | None:
    found = desk.provider.own_credentials().items()
    return next(((other, own) for other, own in found if other != token_id), None)


def _lineages(desk: Desk) -> list[Lineage]:
    ids = list(desk.provider.own_credentials())
    return list(desk.journal.lineages(desk.provider.name, ids).values())
