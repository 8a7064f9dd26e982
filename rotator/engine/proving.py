"""What `check --online` finds out of a provider's tokens and sinks: overlaps of policies, and places that are proven.

Lists all tokens once and changes nothing; memory stays flat. Places are proven for every due token and for a handful of
the others of each policy, so that a sink is proven also where nothing is due.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from rotator.engine.deciding import Placing, known_now, surveyed
from rotator.engine.desk import Desk
from rotator.errors import RotatorError
from rotator.explaining import verdicts
from rotator.model import Lineage, Place, Skip
from rotator.planning import Candidate

HANDFUL = 5  # tokens of each policy whose places are proven although they are not due


@dataclass(slots=True)
class Proof:
    """What was found.

    Attributes:
        selected: Policy name to the number of its tokens, old members of overlaps left out; likewise `due`.
        overlaps: (owner, later policy) to the number of tokens that both select; `examples` names one.
        problems: Why tokens have no place to go to, each said once, with the name of one of them.
        proven: Sink to the number of its places that can be written; likewise `failed`.
        errors: Sink to the first failure of a required place; `lenient`: of one that is not required.
        own: Our own credentials to why they are never renewed; empty if they are.
    """

    selected: Counter[str] = field(default_factory=Counter)
    due: Counter[str] = field(default_factory=Counter)
    overlaps: Counter[tuple[str, str]] = field(default_factory=Counter)
    examples: dict[tuple[str, str], str] = field(default_factory=dict)
    problems: dict[str, str] = field(default_factory=dict)
    proven: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    errors: dict[str, RotatorError] = field(default_factory=dict)
    lenient: dict[str, RotatorError] = field(default_factory=dict)
    own: dict[str, str] = field(default_factory=dict)


def prove(desk: Desk) -> Proof:
    """Return what was found about a provider's policies and places.

    Raises:
        CredentialRejected, Temporary, Permanent: The listing failed.
    """
    proof, placing = Proof(), Placing(desk)
    proof.own = dict.fromkeys(desk.provider.own_credentials(), "no policy selects it, so it is renewed by hand only")
    for row, lineage in _candidates(desk):
        _note_overlaps(desk, proof, row, lineage)
        if row.decision.skip is Skip.IN_GRACE:
            continue
        proof.selected[row.policy.name] += 1
        is_due = row.decision.due is not None
        proof.due[row.policy.name] += is_due
        if row.own or is_due or proof.selected[row.policy.name] - proof.due[row.policy.name] <= HANDFUL:
            _prove_places(desk, proof, placing, row, lineage)
    return proof


def _candidates(desk: Desk) -> Iterator[tuple[Candidate, Lineage | None]]:
    for page in surveyed(desk, known_now(desk)):
        yield from ((row, lineage) for row, lineage in page if isinstance(row, Candidate))


def _note_overlaps(desk: Desk, proof: Proof, row: Candidate, lineage: Lineage | None) -> None:
    for verdict in verdicts(row.token, desk.policies, lineage):
        if verdict.overlaps:
            pair = row.policy.name, verdict.policy
            proof.overlaps[pair] += 1
            proof.examples.setdefault(pair, row.token.name)


def _prove_places(desk: Desk, proof: Proof, placing: Placing, row: Candidate, lineage: Lineage | None) -> None:
    token = row.token
    remembered = lineage or Lineage(desk.provider.name, token.id, token.id, token.name)
    places, problem = placing.resolved(row, remembered)
    if row.own:
        proof.own[token.id] = problem or placing.unrenewable(row, places)
    if problem:
        proof.problems.setdefault(problem, token.name)
        return
    placing.placed(row)  # the next token that is due may not have these places
    for place in places:
        _prove_place(desk, proof, place)


def _prove_place(desk: Desk, proof: Proof, place: Place) -> None:
    try:
        desk.preflight(place)
    except RotatorError as error:
        proof.failed[place.sink] += 1
        (proof.errors if place.required else proof.lenient).setdefault(place.sink, error)
    else:
        proof.proven[place.sink] += 1
