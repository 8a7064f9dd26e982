"""The two ways to make a new secret, and how to find out what a call without an answer did.

`in_place` rotates: the id stays, the old secret is dead at once, a moved generation is the evidence. `overlap` creates
a twin: the old secret lives on, and a twin with our marker is the evidence; one that nobody can hold the secret of is
deleted, on full proof that it is ours and was never used.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from rotator.claims import claims
from rotator.engine.desk import Desk, ref_of, ref_of_minted
from rotator.errors import NotFound, Permanent, RotatorError
from rotator.events import EventName
from rotator.marker import LONGEST, Marker, bound, marked, marker_in
from rotator.model import Generation, Minted, NewToken, Place, Role, Rotation, Scope, Strategy, Token
from rotator.ports import Listing, Provider

LATE_TWIN = timedelta(hours=24)  # how long a create without an answer is searched for


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a look after a call without an answer showed.

    Attributes:
        took_effect: A secret was made that did not reach us.
        generation: Of the token now.
        delivered: Twins whose secret a sink may hold all the same: they end only after their replacement has settled.
    """

    took_effect: bool
    generation: Generation
    delivered: tuple[str, ...] = ()


class Minting(Protocol):
    """One way to make a new secret. Only `post` changes anything that cannot be repeated."""

    def post(self, desk: Desk, provider: Provider, rotation: Rotation) -> Minted:
        """Send the one POST; raises like `Provider.rotate`."""
        ...

    def look(self, desk: Desk, provider: Provider, rotation: Rotation) -> Evidence:
        """Find out what the latest POST did.

        Raises:
            NotFound: The token itself is gone.
            RotatorError: It cannot be told now.
        """
        ...


class InPlace:
    """See `Minting`."""

    def post(self, desk: Desk, provider: Provider, rotation: Rotation) -> Minted:  # noqa: ARG002 - one shape for both
        """See `Minting`."""
        return provider.rotate(ref_of(rotation))

    def look(self, desk: Desk, provider: Provider, rotation: Rotation) -> Evidence:  # noqa: ARG002
        """See `Minting`."""
        now = provider.get(ref_of(rotation)).generation
        return Evidence(now.moved_since(rotation.observed), now)


class Overlap:
    """See `Minting`."""

    def post(self, desk: Desk, provider: Provider, rotation: Rotation) -> Minted:
        """See `Minting`."""
        return provider.create(twin_of(desk, rotation))

    def look(self, desk: Desk, provider: Provider, rotation: Rotation) -> Evidence:
        """See `Minting`. A twin that is found is deleted, for nobody holds its secret; unless a sink may."""
        token = provider.get(ref_of(rotation))
        like = Suspected(rotation.name, rotation.scope, rotation.opened_at, rotation.policy, (rotation.token_id,))
        posts = (rotation.post_id, *rotation.doubts)
        found = [twin for twin in twins(provider, rotation) if _post_of(twin) in posts]
        places = [record.place for record in rotation.deliveries]
        delivered = tuple(twin.id for twin in found if may_be_held(desk, places, twin))
        for twin in found:
            if twin.id not in delivered:
                delete_orphan(desk, provider, twin, like)
        return Evidence(bool(found), token.generation, delivered)


def _post_of(twin: Token) -> str:
    marker = marker_in(twin.description)
    return marker.post_id if marker is not None else ""


def may_be_held(desk: Desk, places: Sequence[Place], twin: Token) -> bool:
    """Whether a sink holds a secret of this token, or cannot be asked: a process may have died after delivering."""
    for place in places:
        try:
            held = desk.read_back(place).secret
        except NotFound:
            continue
        except RotatorError:
            return True
        said = claims(held) if held is not None else None
        if held is None or (said is not None and said.token_id == twin.id):
            return True
    return False


MINTING: Mapping[Strategy, Minting] = {Strategy.IN_PLACE: InPlace(), Strategy.OVERLAP: Overlap()}


def twin_of(desk: Desk, rotation: Rotation) -> NewToken:
    """Return what creates a twin of the token: same name, scope, entity and life, and a marker that only we can make.

    Raises:
        Permanent: The token has no room for a marker, or no role that a twin could be created with.
    """
    mac = desk.journal.mac(bound(rotation.post_id, rotation.lineage))
    description = marked(rotation.description, Marker(rotation.post_id, rotation.lineage, mac))
    if len(description) > LONGEST:
        raise Permanent(
            f"its description leaves no room for the marker of a twin; shorten it by {len(description) - LONGEST}"
            ' characters, or use strategy = "in_place"'
        )
    return NewToken(
        name=rotation.name,
        scope=rotation.scope,
        role=_own_role(rotation.scope, rotation.roles),
        home=rotation.workspace_id if rotation.scope is Scope.WORKSPACE else rotation.deployment_id,
        description=description,
        expires_in_days=max(1, round(rotation.life / timedelta(days=1))) if rotation.life else None,
    )


def _own_role(scope: Scope, roles: Sequence[Role]) -> str:
    found = next((role.role for role in roles if role.entity_type == scope.upper()), "")
    if not found:
        raise Permanent(
            f'it shows no role of its own scope that a twin could have; use strategy = "in_place" ({scope})'
        )
    return found


def twins(provider: Provider, rotation: Rotation) -> list[Token]:
    """Return the tokens with a marker of this lineage, wherever the token itself would be listed."""
    listing = Listing(
        frozenset({rotation.scope}),
        frozenset({rotation.workspace_id} - {""}),
        frozenset({rotation.deployment_id} - {""}),
        everything=rotation.scope is Scope.ORGANIZATION or not (rotation.workspace_id or rotation.deployment_id),
    )
    return [token for token in provider.list(listing) if _is_twin(token, rotation)]


def _is_twin(token: Token, rotation: Rotation) -> bool:
    marker = marker_in(token.description)
    return marker is not None and marker.lineage == rotation.lineage and token.id != rotation.successor


@dataclass(frozen=True, slots=True)
class Suspected:
    """What a twin of an unanswered create would look like.

    Attributes:
        name, scope: Of the token; scope None if it is not known.
        intended_at: When the first of those creates was announced.
        policy: For the record.
        members: Of the lineage, which are no orphans.
    """

    name: str
    scope: Scope | None
    intended_at: datetime
    policy: str
    members: Sequence[str] = ()


def delete_orphan(desk: Desk, provider: Provider, twin: Token, like: Suspected) -> bool:
    """Delete a twin whose secret nobody holds; only on full evidence, otherwise name it.

    Args:
        desk: The journal's MAC, our own ids, the clock.
        provider: With our credential.
        twin: As it was listed; its marker names a create of ours without an answer.
        like: What it must look like.

    Returns:
        Whether it is gone.

    Raises:
        RotatorError: It could not be deleted now.
    """
    doubt = _doubt(desk, provider, twin, like)
    if doubt:
        said = f"a token with our marker was found and left alone, because {doubt}; delete it by hand if it is not used"
        desk.record(desk.about(EventName.TWIN_FOUND, twin, like.policy, message=said))
        return False
    said = "an unanswered create had made it; nobody holds its secret, and it was never used"
    desk.record(desk.about(EventName.RETIREMENT_INTENDED, twin, like.policy, message=said), must_audit=True)
    with suppress(NotFound):
        provider.delete(ref_of(twin))
    desk.record(desk.about(EventName.TWIN_DELETED, twin, like.policy, message=said))
    return True


def _doubt(desk: Desk, provider: Provider, twin: Token, like: Suspected) -> str:
    """Return what is missing of the proof, empty if nothing is."""
    marker = marker_in(twin.description)
    if marker is None or marker.mac != desk.journal.mac(bound(marker.post_id, marker.lineage)):
        return "this installation did not write its marker"
    if (twin.name, twin.scope) != (like.name, like.scope):
        return "its name or scope is not that of the token whose twin it would be"
    if twin.id in like.members:
        return "it is in use"
    if twin.created_by not in provider.own_credentials():
        return "it was not created by the credential that rotator works with"
    if twin.created_at < like.intended_at - desk.settings.max_clock_skew:
        return "it is older than the create that it claims to come from"
    if twin.last_used_at is not None:
        return f"it was used at {twin.last_used_at:%Y-%m-%d %H:%M} UTC"
    return ""


def can_mint(desk: Desk, rotation: Rotation) -> None:
    """Show before anything irreversible that the POST could be put together.

    Raises:
        Permanent: It could not.
    """
    if rotation.strategy is Strategy.OVERLAP:
        twin_of(desk, rotation)


def equip(provider: Provider, rotation: Rotation) -> str:
    """Give a twin the roles that the token had when the intent was written; returns why it has not got them.

    Safe to repeat. A twin with fewer rights must never be delivered: its consumers would break.

    Raises:
        NotFound: The twin is gone.
    """
    try:
        twin = provider.get(ref_of_minted(rotation))
        if set(twin.roles) != set(rotation.roles):
            provider.update_roles(twin, rotation.roles)
            twin = provider.get(ref_of_minted(rotation))
    except NotFound:
        raise
    except RotatorError as error:
        return f"its twin could not be given the same roles: {error.message}"
    return "" if set(twin.roles) == set(rotation.roles) else "its twin shows other roles than it was given"
