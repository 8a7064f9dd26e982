"""Everything that is decided about one token now, and what it is decided by, for `rotator explain`. Reads only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from rotator.engine.deciding import Placing, known_now, listing, plan
from rotator.engine.desk import Desk
from rotator.engine.looking import looked_at
from rotator.explaining import Condition, Hold, Verdict, conditions, holds, verdicts
from rotator.model import Lineage, Place, Scope, Skip, Token
from rotator.planning import Candidate, Plan, Row, believable, survey

NEAR = 8  # tokens that are named when none fits


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a secret would go.

    Attributes:
        owner: The lineage that settled there last, if it is another one's.
        moved: The token settled elsewhere before.
    """

    place: Place
    owner: str
    moved: bool


@dataclass(frozen=True, slots=True)
class Explained:
    """One token with every answer.

    Attributes:
        row: The token with its owner and what was decided; (token, None) if no policy selects it.
        spots: Empty where no safe place results; then, or where one is taken or moved, `problem` says why.
    """

    row: Row
    lineage: Lineage | None
    verdicts: tuple[Verdict, ...]
    conditions: tuple[Condition, ...] = ()
    holds: tuple[Hold, ...] = ()
    spots: tuple[Spot, ...] = ()
    problem: str = ""

    @property
    def token(self) -> Token:
        """The token."""
        return self.row[0] if isinstance(self.row, tuple) else self.row.token


@dataclass(frozen=True, slots=True)
class Found:
    """Tokens that a word names.

    Attributes:
        rows: As a plan by what is remembered has them.
        near: Some that are called alike, where `rows` is empty.
        plan: Of all policies, for the brake.
    """

    rows: list[Row]
    near: list[Token]
    plan: Plan


def find(desk: Desk, word: str, members: Sequence[str]) -> Found:
    """Return the tokens of a provider that a word names: by id, by another id of the lineage, or by name.

    Args:
        desk: The provider; all of its tokens are listed, but no sink is read.
        word: What a person typed.
        members: Ids of the lineage that has `word` among its ids.
    """
    rows: list[Row] = []
    near: dict[str, Token] = {}

    def note(row: Row) -> None:
        token = row[0] if isinstance(row, tuple) else row.token
        if token.id == word or token.id in members or token.name == word:
            rows.append(row)
        elif len(near) < NEAR and word.lower() in f"{token.name} {token.id}".lower():
            near[token.id] = token

    made = plan(desk, desk.policies, skipped=note, look=False)
    for row in made.due:
        note(row)
    if not rows:  # not of the scopes that the policies name
        _unlisted(desk, note)
    return Found(_best(rows, word), list(near.values()), made)


def _unlisted(desk: Desk, note: Callable[[Row], None]) -> None:
    everywhere = replace(listing(desk.policies), scopes=frozenset(Scope), everything=True)
    for token in desk.provider.list(everywhere):
        note((token, None))


def _best(rows: list[Row], word: str) -> list[Row]:
    """Return those that are meant: an exact id, else members in use before old ones of the same name."""
    exact = [row for row in rows if (row[0] if isinstance(row, tuple) else row.token).id == word]
    in_use = [row for row in rows if isinstance(row, tuple) or row.decision.skip is not Skip.IN_GRACE]
    return exact or in_use or rows


def explained(desk: Desk, planned: Row, made: Plan) -> Explained:
    """Return every answer about one token; its sinks are read where a sweep would read them now.

    Args:
        desk: The provider and what is known.
        planned: As `find` returned it.
        made: Likewise.
    """
    token = planned[0] if isinstance(planned, tuple) else planned.token
    known = known_now(desk)
    row, lineage = survey([token], known)[0]
    said = verdicts(token, desk.policies, lineage)
    if isinstance(row, tuple):
        return Explained(row, lineage, said)
    row, lineage = looked_at(desk, row, lineage, known)
    if row.decision.skip is Skip.IN_GRACE:  # an old member is never due: nothing else is asked
        return Explained(row, lineage, said)
    placing, remembered = Placing(desk), lineage or desk.lineage(token)
    places, problem = placing.resolved(row, remembered)
    row, believed = _placed(placing, row, planned), believable(lineage, known.now)
    return Explained(
        row,
        lineage,
        said,
        conditions(token, row.policy, believed, known.now),
        holds(row, believed, made, known.now),
        tuple(_spot(desk, place, remembered) for place in places),
        problem or placing.unrenewable(row, places),
    )


def _placed(placing: Placing, row: Candidate, planned: Row) -> Candidate:
    """Hold the token back as its plan does: there another one that is due may have taken its place."""
    if isinstance(planned, Candidate) and planned.decision.skip is Skip.BAD_PATH:
        return replace(row, decision=planned.decision)
    return placing.placed(row)


def _spot(desk: Desk, place: Place, lineage: Lineage) -> Spot:
    owners = {held[1] for held in desk.journal.place_owners(place.claims).values()} - {lineage.id}
    moved = bool(lineage.places) and (place.sink, place.location) not in {(p.sink, p.location) for p in lineage.places}
    return Spot(place, ", ".join(sorted(owners)), moved)
