"""Where every token stands, for `status`: all that policies select, and all that is unfinished whatever they select.

Reads the listing and the journal, never a sink. Memory stays flat but for the ids of what is unfinished.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime

from rotator.engine.deciding import known_now, surveyed
from rotator.engine.desk import Desk
from rotator.model import DeliveryState, Lineage, Policy, Rotation, Token
from rotator.planning import NEXT, Candidate, lineage_state, token_state

_PAGE = 500


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one token stands.

    Attributes:
        policy: Empty if none selects it.
        state: One of `planning.STATES`.
        reason: Why it is due or not, or `not_selected` or `not_listed`.
        token: None if the provider does not list it.
        owner: The policy itself; None if none selects it.
        behind: Required sinks that lack what they should hold, as far as is known.
    """

    token_id: str
    name: str
    policy: str
    state: str
    reason: str
    message: str
    due_at: datetime | None = None
    token: Token | None = None
    lineage: Lineage | None = None
    owner: Policy | None = None
    behind: frozenset[str] = frozenset()

    @property
    def hint(self) -> str:
        """What a person does next; empty if there is nothing to do."""
        return NEXT[self.state].format(id=self.token_id)


def standings(desk: Desk, remembered: Iterable[Lineage]) -> Iterator[Standing]:
    """Yield where the tokens of a provider stand: in the order of the listing, then what it does not show.

    Args:
        desk: The provider and what is known.
        remembered: All lineages of the provider.
    """
    lacking = {r.lineage: _lacking(r) for r in desk.journal.open_rotations(desk.provider.name)}
    for standing in _standings(desk, remembered):
        lineage = standing.lineage
        if lineage is not None and (lineage.drift is not None or lineage.id in lacking):
            drifted = lineage.drift.sinks if lineage.drift is not None else ()
            yield replace(standing, behind=lacking.get(lineage.id, frozenset()).union(drifted))
        else:
            yield standing


def _lacking(rotation: Rotation) -> frozenset[str]:
    if not rotation.mint_id and not rotation.losses:
        return frozenset()  # what they hold may still be the live one
    places = [record.place for record in rotation.deliveries if record.state is not DeliveryState.VERIFIED]
    return frozenset(place.sink for place in places if place.required)


def _standings(desk: Desk, remembered: Iterable[Lineage]) -> Iterator[Standing]:
    known = known_now(desk)
    missing = {lineage.id for lineage in remembered if lineage_state(lineage)}
    for page in surveyed(desk, known):
        for row, lineage in page:
            if isinstance(row, Candidate):
                yield _selected(row, lineage, known.now)
            elif lineage is not None and lineage.id in missing and lineage.token_id == row[0].id:
                yield _unselected(lineage, row[0])
            if lineage is not None and lineage.token_id == _id(row):
                missing.discard(lineage.id)
    ids = sorted(missing)
    for start in range(0, len(ids), _PAGE):
        for lineage in desk.journal.lineages(desk.provider.name, ids[start : start + _PAGE]).values():
            if lineage_state(lineage):
                yield unlisted(lineage, "the provider does not list it any more, or no policy looks where it is")


def unlisted(lineage: Lineage, why: str) -> Standing:
    """Return where a credential stands that is known from the journal alone."""
    return Standing(
        lineage.token_id, lineage.name, "", lineage_state(lineage), "not_listed", _said(lineage, why), lineage=lineage
    )


def _selected(row: Candidate, lineage: Lineage | None, now: datetime) -> Standing:
    token, decision = row.token, row.decision
    state, reason = token_state(row, lineage, now), str(decision.due or decision.skip)
    policy, due_at, said = row.policy, decision.due_at, decision.message
    return Standing(token.id, token.name, policy.name, state, reason, said, due_at, token, lineage, policy)


def _unselected(lineage: Lineage, token: Token) -> Standing:
    said = _said(lineage, "no policy selects it any more")
    return Standing(
        token.id, token.name, "", lineage_state(lineage), "not_selected", said, token=token, lineage=lineage
    )


def _said(lineage: Lineage, why: str) -> str:
    if lineage.quarantined_at is not None:
        return f"{why}; quarantined: {lineage.quarantine_reason}"
    if lineage.open_state is not None:
        return f"{why}; its open rotation is finished all the same: {lineage.open_message or lineage.open_state}"
    if lineage.gone_at is not None or not lineage.retiring:
        return why
    olds = ", ".join(old.token_id for old in lineage.retiring)
    return f"{why}, so its old secrets are NOT ENDED: select it again, or end them by hand ({olds})"


def _id(row: Candidate | tuple[Token, None]) -> str:
    return row[0].id if isinstance(row, tuple) else row.token.id
