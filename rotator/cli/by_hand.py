"""One token by hand: what `rotator tokens create|update|delete|rotate` do once they know what is wanted.

    refuse -> hold the lineage -> look again -> prove the place -> announce (on disk) -> one call -> keep -> the fact

While a lineage is held no sweep rotates it, and its record moves before and after the call, so that a sweep which
looked at it before this one began opens nothing either. Nothing here prints or asks.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from rotator.app import Hands
from rotator.cli.keeping import Keep, kept
from rotator.errors import ConfigError, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.model import Lineage, NewToken, Policy, Scope, Token
from rotator.planning import selects
from rotator.ports import Write
from rotator.providers.astro.provider import RawMinted, ref_of
from rotator.providers.astro.wire import Json
from rotator.text import visible

T = TypeVar("T")

WRITES = 8  # attempts; a sweep that only looks may write between our reading and writing, but hardly ever twice


@dataclass(frozen=True, slots=True)
class Change:
    """What update changes; None leaves it as it is."""

    name: str | None = None
    description: str | None = None
    role: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What came of it.

    Attributes:
        shown: The token in the provider's own field names, without its secret.
        location: Where its new secret is; empty if there is none, or nobody holds it.
        problem: What a person must do now; empty if nothing.
    """

    shown: Json
    location: str = ""
    problem: str = ""


def refuse(hands: Hands, token: Token, verb: str, *, force: bool) -> None:
    """Raise if a token must not be rotated or deleted by hand.

    Args:
        hands: Everything.
        token: As it is now.
        verb: `rotate` or `delete`.
        force: Whether a person said that a managed one may be; a credential that rotator works with never is.

    Raises:
        ConfigError: It is our own credential, that of another table, perhaps such a one, or managed.
    """
    name, others = hands.provider.name, hands.others()
    if token.id in hands.provider.own_credentials():
        raise ConfigError.of("ID", f"{token.id} is a credential of providers.{name} itself: {_OWN[verb]}; {_INSTEAD}")
    holder = next(iter(others.holders.get(token.id, ())), None)
    if holder is not None:
        raise ConfigError.of(
            "ID",
            f"{token.id} is the credential that {holder.table} works with, read from {holder.reference}: that would be"
            " locked out; put another token there first",
        )
    if others.unread and not force:
        raise ConfigError.of(
            "ID",
            f"{token.id} may be what others work with: {others.unread}; wait, or --force to {verb} it all the same",
        )
    why = "" if force else _managed(hands, token)
    if why:
        raise ConfigError.of(
            "ID",
            f"{token.id} ({visible(token.name)}) {why}, so its sinks would be left with a dead secret;"
            f" use `rotator rotate {token.id}`, or --force to {verb} it all the same",
        )


def create(hands: Hands, new: NewToken, keep: Keep) -> Done:
    """Make a token, and keep its secret.

    Raises:
        Temporary, Permanent: Certainly not made.
        OutcomeUnknown: Perhaps made; the message says what to do.
    """
    keep.prove()
    hands.journal.preflight()
    asked = Event(
        name=EventName.TOKEN_CREATION_REQUESTED,
        at=hands.clock.now(),
        provider=hands.provider.name,
        token_name=new.name,
        token_scope=str(new.scope),
        message=f"{new.scope} token {visible(new.name)} with the role {visible(new.role)}",
    )
    _announce(hands, None, asked)
    try:
        answer = _called(hands, None, asked, lambda: hands.provider.raw_create(new), _CHECK_NEW)
    except OutcomeUnknown as error:
        raise OutcomeUnknown(f"{error.message}. {_PERHAPS_MADE}") from None
    return _finish(hands, EventName.TOKEN_CREATED, None, answer, keep)


def update(hands: Hands, token: Token, change: Change) -> Done:
    """Change name, description or role of a token.

    Raises:
        Temporary, Permanent: At least one of the changes was not made; repeating is safe.
    """
    with _held(hands, token) as now:
        name = now.name if change.name is None else change.name
        description = now.description if change.description is None else change.description
        fields = [key for key in ("name", "description", "role") if getattr(change, key) is not None]
        what = ", ".join(fields)
        asked = _event(hands, EventName.TOKEN_UPDATE_REQUESTED, now, message=what)
        _announce(hands, now, asked)
        shown = _called(
            hands, now, asked, lambda: hands.provider.raw_update(now, name, description, change.role), _CHECK_CHANGE
        )
        renamed = replace(now, name=name)
        _record(hands, renamed, _event(hands, EventName.TOKEN_UPDATED, renamed, message=what))
        return Done(shown)


def delete(hands: Hands, token: Token, *, force: bool) -> Done:
    """End a token for good; what is returned is how it was last.

    Raises:
        ConfigError: See `refuse`.
        Temporary, Permanent: It may still be there; repeating is safe.
    """
    with _held(hands, token) as now:
        refuse(hands, now, "delete", force=force)
        shown = hands.provider.raw(ref_of(now))
        asked = _event(hands, EventName.TOKEN_DELETION_REQUESTED, now)
        _announce(hands, now, asked)
        _called(hands, now, asked, lambda: _deleted(hands, now))
        _record(hands, now, _event(hands, EventName.TOKEN_DELETED, now), gone=True)
        return Done(shown)


def rotate(hands: Hands, token: Token, keep: Keep, *, force: bool) -> Done:
    """Make a new secret of a token, and keep it; the old one is dead at once.

    Raises:
        ConfigError: See `refuse`.
        Temporary, Permanent: Certainly not rotated.
        OutcomeUnknown: Perhaps rotated; the message says what to do.
    """
    with _held(hands, token) as now:
        refuse(hands, now, "rotate", force=force)
        keep.prove()
        hands.journal.preflight()
        asked = _event(hands, EventName.TOKEN_ROTATION_REQUESTED, now)
        _announce(hands, now, asked)
        try:
            answer = _called(hands, now, asked, lambda: hands.provider.raw_rotate(ref_of(now)))
        except OutcomeUnknown as error:
            raise OutcomeUnknown(f"{error.message}. {_look(hands, now)}") from None
        return _finish(hands, EventName.TOKEN_ROTATED_BY_HAND, now, answer, keep)


def _finish(hands: Hands, name: EventName, held: Token | None, answer: RawMinted, keep: Keep) -> Done:
    """Keep the secret first, then write down that it exists and where."""
    token, where = answer.minted.token, kept(keep, answer.minted.secret, hands.refuge)
    _record(hands, held, _event(hands, name, token, message=where.problem, location=where.location))
    problem = f"{token.id}: {where.problem}" if where.problem else ""
    return Done(answer.shown, where.location, problem)


@contextmanager
def _held(hands: Hands, token: Token) -> Iterator[Token]:
    """Hold the token's lineage for the block; yield the token as it is now.

    Raises:
        Temporary: A rotation of it is open, somebody else holds it, or it is not the same token any more.
    """
    provider = hands.provider
    with hands.journal.hold(provider.name, _lineage(hands, token).id):
        now = provider.get(ref_of(token))
        if (now.name, now.scope, now.organization_id) != (token.name, token.scope, token.organization_id):
            raise Temporary(f"{token.id}: its name, scope or organization changed a moment ago; look, then try again")
        yield now


def _lineage(hands: Hands, token: Token) -> Lineage:
    known = hands.journal.lineages(hands.provider.name, [token.id]).get(token.id)
    return known or Lineage(hands.provider.name, token.id, token.id, token.name)


def _managed(hands: Hands, token: Token) -> str:
    """Return why a token is ours to rotate, empty if it is not."""
    lineage = _lineage(hands, token)
    chosen = next((policy for policy in hands.policies if _may_select(policy, token, lineage.id)), None)
    if chosen is not None:
        return f"is managed by the policy {chosen.name}"
    if lineage.open_state is not None:
        return f"has an open rotation ({lineage.open_state})"
    return "was delivered to sinks by rotator" if lineage.settled_at is not None else ""


def _may_select(policy: Policy, token: Token, root: str) -> bool:
    """Whether a policy selects a token; one whose workspace a single look does not show may live in any of them."""
    if selects(policy, token, root):
        return True
    unknown = token.scope is Scope.DEPLOYMENT and not token.workspace_id
    homes = policy.select.workspaces if unknown else ()
    return any(selects(policy, replace(token, workspace_id=home), root) for home in homes)


def _deleted(hands: Hands, token: Token) -> None:
    try:
        hands.provider.delete(ref_of(token))
    except NotFound:  # somebody was faster; it is gone, as asked
        return


def _look(hands: Hands, token: Token) -> str:
    """Return what a rotate call without an answer did, as far as one look shows, and what to do."""
    again = f"run `rotator tokens rotate {token.id}` again to get one that works"
    try:
        moved = hands.provider.get(ref_of(token)).generation.moved_since(token.generation)
    except RotatorError:
        moved = None
    if moved:
        return f"The token WAS ROTATED: its old secret is dead, and nobody holds the new one; {again}"
    seen = "The token does not show it yet" if moved is False else "The token could not be looked at"
    return (
        f"{seen}, but it may have been rotated, or be within minutes: then its old secret is dead and nobody holds the"
        f" new one. Look with `rotator tokens get {token.id}` after two minutes; if it was rotated, {again}"
    )


def _event(hands: Hands, name: EventName, token: Token, *, message: str = "", location: str = "") -> Event:
    return Event(
        name=name,
        at=hands.clock.now(),
        provider=hands.provider.name,
        token_id=token.id,
        token_name=token.name,
        token_scope=str(token.scope),
        location=location,
        message=message,
    )


def _called(hands: Hands, held: Token | None, asked: Event, call: Callable[[], T], hint: str = "") -> T:
    """Make the call; one that failed, or that may have, is recorded as such.

    Args:
        hands: Everything.
        held: The token whose lineage is held; None if there is none yet.
        asked: What was announced.
        call: The one call.
        hint: What to look at when the API refuses a body, for its own words are not repeated.
    """
    try:
        return call()
    except RotatorError as error:
        in_doubt = isinstance(error, OutcomeUnknown)
        name = EventName.TOKEN_REQUEST_IN_DOUBT if in_doubt else EventName.TOKEN_REQUEST_FAILED
        _record(hands, held, replace(asked, name=name, at=hands.clock.now(), message=error.message))
        if hint and type(error) is Permanent:
            raise Permanent(f"{error.message}; {hint}") from None
        raise


def _announce(hands: Hands, held: Token | None, event: Event) -> None:
    """Put on disk what is about to be done; without that line it is not done."""
    _write(hands, held, Write(events=(event,), must_audit=True))
    hands.emit(event)


def _record(hands: Hands, held: Token | None, event: Event, *, gone: bool = False) -> None:
    """Put on disk what was done; a failure is loud, for it cannot be undone."""
    try:
        _write(hands, held, Write(events=(event,)), gone=gone)
    except (Temporary, Permanent) as error:
        hands.emit(replace(event, name=EventName.JOURNAL_FAILED, message=error.message))
        return
    hands.emit(event)


def _write(hands: Hands, held: Token | None, write: Write, *, gone: bool = False) -> None:
    """Write with the record of the held lineage moved, on top of whatever was learnt of it meanwhile.

    Raises:
        AuditUnavailable, Temporary, Permanent: Nothing was written.
    """
    if held is None:
        hands.journal.write(write)
        return
    for _ in range(WRITES):
        lineage = _lineage(hands, held)
        if held.id == lineage.token_id:  # not an old member in grace
            lineage = replace(lineage, name=held.name, gone_at=hands.clock.now() if gone else lineage.gone_at)
        if all(hands.journal.remember(replace(write, lineage=lineage))):
            return
    raise Temporary(f"{held.id}: its record changes all the time; try again")


_OWN = {
    "rotate": "the answer would hold the only copy of its new secret, and losing that would lock rotator out",
    "delete": "rotator would be locked out at once",
}
_INSTEAD = "create another token, put it where the credential is read from, and end this one with that"
_CHECK_NEW = "check NAME, --role, --description and where it shall live: a role is one of the token's own scope"
_CHECK_CHANGE = "check --name, --description and --role: a role is one of the token's own scope"
_PERHAPS_MADE = (
    "The token may have been made all the same, and nobody holds its secret: look with `rotator tokens list`; if it is"
    " there, `rotator tokens rotate ID` gets a secret that works, or delete it. Create again only if it is not there"
)
