"""Deciding what a sweep would do: list, remember, look at the sinks where it is time to, resolve places, brake.

Reads only, but for what a look has learnt, which is journalled where the desk may write.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property

from rotator.engine.desk import Desk
from rotator.engine.looking import looked, owners_of
from rotator.engine.own import unrenewable
from rotator.errors import NotFound, RotatorError, Temporary
from rotator.events import EventName
from rotator.marker import bound
from rotator.model import Lineage, Place, Policy, Scope, Skip, Strategy, Token
from rotator.planning import Candidate, Decision, Known, Plan, Row, guard, overlap, place_problem, selects, survey
from rotator.ports import Listing, OwnCredential, TokenRef

PAGE = 250  # tokens decided and looked at in one go: more would only take memory

Skipped = Callable[[Row], None]


def plan(
    desk: Desk,
    policies: Sequence[Policy],
    accepted: str | None = None,
    skipped: Skipped | None = None,
    *,
    look: bool = True,
) -> Plan:
    """Return what a sweep of these policies would do.

    Args:
        desk: The provider and what is known.
        policies: Those to sweep; tokens of the desk's other policies are skipped as `other_policy`.
        accepted: A plan id that lifts the brake.
        skipped: Told of every token that is left alone.
        look: Whether sinks are read where it is time to; without it what is remembered decides.

    Raises:
        CredentialRejected, Temporary, Permanent: The listing failed.
    """
    made = Plan()
    tell = skipped or (lambda _: None)
    names = {policy.name for policy in policies}
    known = known_now(desk)
    placing = Placing(desk)
    for rows in surveyed(desk, known):
        made.seen |= {row.token.id for row, lineage in rows if isinstance(row, Candidate) and _has_old(lineage)}
        for row in _looked(desk, rows, known) if look else [row for row, _ in rows]:
            if isinstance(row, tuple):
                tell(row)
            elif row.policy.name in names:
                _sort_in(made, placing.placed(row), tell)
            elif any(selects(policy, row.token, row.token.id) for policy in policies):
                tell(skip(row, Skip.OTHER_POLICY, f"the policy {row.policy.name} comes first"))
            else:
                tell((row.token, None))
    return guard(made, accepted)


def _has_old(lineage: Lineage | None) -> bool:
    return lineage is not None and bool(lineage.retiring)


def known_now(desk: Desk) -> Known:
    """Return what tokens are decided by."""
    return Known(
        desk.policies,
        lambda ids: desk.journal.lineages(desk.provider.name, ids),
        lambda marker: marker.mac == desk.journal.mac(bound(marker.post_id, marker.lineage)),
        frozenset(desk.provider.own_credentials()),
        desk.clock.now(),
    )


def surveyed(desk: Desk, known: Known) -> Iterator[list[tuple[Row, Lineage | None]]]:
    """Yield the provider's tokens page by page, decided by what is remembered alone; memory stays flat."""
    tokens = iter(desk.provider.list(listing(desk.policies)))
    while page := list(itertools.islice(tokens, PAGE)):
        yield survey(page, known)


def listing(policies: Sequence[Policy]) -> Listing:
    """Return what has to be listed for these policies."""
    inner = (Scope.WORKSPACE, Scope.DEPLOYMENT)
    return Listing(
        scopes=frozenset(scope for policy in policies for scope in policy.select.scopes),
        workspaces=frozenset(home for policy in policies for home in policy.select.workspaces),
        deployments=frozenset(home for policy in policies for home in policy.select.deployments),
        everything=any(
            Scope.ORGANIZATION in p.select.scopes
            or (any(scope in p.select.scopes for scope in inner) and not p.select.workspaces)
            for p in policies
        ),
    )


def _looked(desk: Desk, rows: Sequence[tuple[Row, Lineage | None]], known: Known) -> Iterator[Row]:
    owned = []
    for row, lineage in rows:
        if isinstance(row, tuple):
            yield row
        else:
            owned.append((row, lineage))
    yield from looked(desk, owned, known)


def _sort_in(made: Plan, row: Candidate, tell: Skipped) -> None:
    decision = row.decision
    if decision.skip is not Skip.IN_GRACE:  # a lineage counts once
        made.selected[row.policy.name] = made.selected.get(row.policy.name, 0) + 1
    if row.watched:
        made.orphans.append(row)
    if row.retiring is not None:
        made.ending.append(row)
    if decision.due is not None:
        made.due.append(row)
    elif decision.skip is not None:
        made.held += decision.skip is Skip.BAD_PATH
        made.skipped[decision.skip] = made.skipped.get(decision.skip, 0) + 1
        tell(row)


class Placing:
    """Resolves where secrets would go; a place that is unsafe, taken, or moved holds its token back.

    Args:
        desk: Sinks and journal.
    """

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._owns: Mapping[str, OwnCredential] = desk.provider.own_credentials()
        self._others = desk.others()

    def placed(self, row: Candidate) -> Candidate:
        """Return the candidate with its places, or skipped with the reason; one that is not due comes back as it is."""
        if row.decision.due is None or row.open:
            return row
        lineage = self._desk.lineage(row.token)
        places, problem = self.resolved(row, lineage)
        if problem:
            said = f"{row.decision.due}, but held back: {problem}"
            self._desk.emit(self._desk.about(EventName.PLACE_REFUSED, row.token, row.policy.name, message=said))
            return skip(row, Skip.BAD_PATH, problem)
        row = self._harmless(replace(row, places=places), lineage)
        if row.decision.due is not None:
            self._taken.update((claim, lineage.id) for place in places for claim in _reach(place.claims))
        return row

    @cached_property
    def _taken(self) -> dict[tuple[str, str], str]:
        """Who takes which place in this plan; what an older version opened owns nothing in the journal."""
        opened = self._desk.journal.open_rotations(self._desk.provider.name)
        return {claim: rotation.lineage for rotation in opened for claim in _reach(rotation.claims)}

    def _near(self, spots: Sequence[tuple[str, str]]) -> dict[tuple[str, str], str]:
        """Return who takes these places in this plan, the wholes that they are keys of, or keys of them."""
        near = [(home, each) for home, part in spots for each in (part, part.rpartition("#")[0], f"{part}#")]
        return {claim: self._taken[claim] for claim in near if claim in self._taken}

    def resolved(self, row: Candidate, lineage: Lineage) -> tuple[tuple[Place, ...], str]:
        """Return where the secret of a token would go, and why it may not go there; empty if it may."""
        desk = self._desk
        try:
            places = desk.places(row.policy, row.token, lineage.id)
        except RotatorError as error:
            return (), error.message
        spots = [claim for place in places for claim in place.claims]
        owned = owners_of(desk, lineage, places)
        owners = {spot: root for spot, root in owned.items() if root == lineage.id or not self._is_gone(root)}
        owners |= self._near(spots)
        problem = self._reserved(row, lineage, places) or place_problem(places, lineage, owners, lineage.id)
        if not problem and overlap(places):
            problem = "two deliveries of the policy write to the same place"
        return places, problem

    def _reserved(self, row: Candidate, lineage: Lineage, places: Sequence[Place]) -> str:
        """Return why rotator's own needs forbid one of the places, empty if they do not."""
        try:
            for place in places:
                self._desk.refuse_reserved(place, row.token.id, lineage.id)
        except Temporary:
            return ""  # its store cannot be reached: asked again before anything begins
        except RotatorError as error:
            return error.message
        return ""

    def _is_gone(self, root: str) -> bool:
        """Whether the owner of a place no longer exists, by two looks some time apart; then its places are free."""
        desk, now = self._desk, self._desk.clock.now()
        other = desk.journal.lineages(desk.provider.name, [root]).get(root)
        if other is None or other.scope is None or other.open_state is not None:
            return False
        try:
            desk.provider.get(TokenRef(other.token_id, other.scope, other.workspace_id, other.deployment_id))
        except NotFound:
            since = other.missing_since
            is_gone = since is not None and now >= since + desk.settings.late_window
            gone = replace(other, gone_at=now, stale=True, places=()) if is_gone else other
            if desk.writing and (is_gone or since is None):
                desk.remember(replace(gone, missing_since=since or now))
            return is_gone
        except RotatorError:
            return False
        return False

    def switched(self, row: Candidate, lineage: Lineage) -> str:
        """Return how a token came to be a credential that rotator works with, or ceased to, since it was placed."""
        now = self._harmless(replace(row, own=row.token.id in self._owns), lineage)
        if now.decision.due is None:
            return now.decision.message
        is_same = (now.own, now.strategy) == (row.own, row.strategy)
        return "" if is_same else "the credentials that rotator works with changed between plan and rotation"

    def _harmless(self, row: Candidate, lineage: Lineage) -> Candidate:
        """A credential is renewed only where each reference to it will read the new value; our only one by overlap."""
        if not (row.own or row.mints):
            return row
        is_only = row.own and len(self._owns) == 1
        row = replace(row, strategy=Strategy.OVERLAP if is_only else row.strategy)
        why = self.unrenewable(row, row.places)
        if not why and self._others.unread and row.strategy is Strategy.IN_PLACE and lineage.minted_at is None:
            # one that we have rotated before is nobody's, or somebody would have been locked out then
            why = f"it may be what others work with: {self._others.unread}; make that readable, or remove the table"
        return skip(row, Skip.OWN_CREDENTIAL, f"{why} ({row.decision.due}: {row.decision.message})") if why else row

    def unrenewable(self, row: Candidate, places: Sequence[Place]) -> str:
        """Return why a credential that rotator works with is not renewed by its policy; empty if it is, or is none."""
        return unrenewable(row.token.id, self._owns, self._others, places)


def _reach(claims: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield claims, and for each key `file#`, which is no place: it says that somebody has keys in that file."""
    for home, part in claims:
        yield home, part
        whole, mark, _ = part.rpartition("#")
        if mark:
            yield home, whole + mark


def skip(row: Candidate, why: Skip, message: str) -> Candidate:
    """Return the candidate left alone for this reason."""
    return replace(row, decision=Decision(None, why, message, row.decision.due_at))


def refreshed(desk: Desk, row: Candidate, token: Token, lineage: Lineage) -> Decision:
    """Return what is decided about a token that was read again, by what is remembered now."""
    known = replace(known_now(desk), remember=lambda _: {token.id: lineage})
    found = survey([token], known)[0][0]
    if isinstance(found, tuple) or found.policy is not row.policy:
        return Decision(None, Skip.NOT_SELECTED, "no longer selected by this policy")
    return found.decision
