"""Rotating what a person names, now: by id or name, or because a secret leaked.

A request skips windows, backoff and age, never safety: pause, quarantine, brake, preflight and the second look hold. A
leak also skips pause, quarantine and brake, always rotates in place, takes the place of an open rotation, and ends
every other living member of the lineage.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from rotator.claims import claims
from rotator.engine.beginning import begin, preflight
from rotator.engine.deciding import Placing, known_now, surveyed
from rotator.engine.desk import Desk, Result, ref_of, result_of
from rotator.engine.retiring import end, revoke, still_used
from rotator.engine.rotation import AT_ONCE
from rotator.engine.sweep import claimed, guarded, run
from rotator.errors import ConfigError, RotatorError
from rotator.events import EventName
from rotator.model import Lineage, Outcome, Reason, Retiring, Rotation, Skip, Strategy, Token
from rotator.planning import Candidate, Decision, Plan, guard
from rotator.secret import Secret
from rotator.text import visible

ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What a person wants.

    Attributes:
        note: Theirs, for the record; untrusted.
        leaked: The secret is in the wrong hands.
        revoke_first: Rotate although a sink cannot be written now.
    """

    note: str = ""
    leaked: bool = False
    revoke_first: bool = False

    @property
    def reason(self) -> Reason:
        """Why the tokens are due."""
        return Reason.LEAKED if self.leaked else Reason.REQUESTED

    @property
    def message(self) -> str:
        """What the record says."""
        said = "a person said that its secret leaked" if self.leaked else "a person asked for it"
        return f"{said}: {visible(self.note, 200)}" if self.note else said


Named = tuple[Candidate, Lineage | None]


@dataclass(slots=True)
class Choice:
    """What a person named.

    Attributes:
        rows: Provider name to the tokens of it.
        selected: Policy name to the number of tokens it owns, for the brake.
    """

    rows: dict[str, list[Named]] = field(default_factory=dict)
    selected: Counter[str] = field(default_factory=Counter)


def named(desks: Sequence[Desk], words: Sequence[str]) -> Choice:
    """Return the tokens that a person names by id or name; an old member stands for its lineage.

    Raises:
        ConfigError: A word names no token that a policy selects, or several; the message lists the ids.
    """
    choice = Choice()
    found: dict[str, dict[tuple[str, str], Named]] = {word: {} for word in words}
    unselected: dict[str, list[str]] = {word: [] for word in words}
    for desk in desks:
        for row, lineage in _rows(desk):
            token = row[0] if isinstance(row, tuple) else row.token
            hits = {token.id, token.name, *(lineage.members if lineage else ())} & found.keys()
            if isinstance(row, tuple):
                for word in hits:
                    unselected[word].append(token.id)
            elif lineage is None or token.id == lineage.token_id:
                choice.selected[row.policy.name] += 1
                for word in hits:
                    found[word][desk.provider.name, token.id] = row, lineage
    for word, rows in found.items():
        if len(rows) != 1:
            raise ConfigError.of("TOKEN", _unfit(word, [token_id for _, token_id in rows], unselected[word]))
    for (provider, _), row_of_it in {at: row for rows in found.values() for at, row in rows.items()}.items():
        choice.rows.setdefault(provider, []).append(row_of_it)
    return choice


def braked(choice: Choice, asked: Asked, accepted: str | None) -> Plan:
    """Return what the brake says of a choice; a leak is never held back."""
    made = Plan(due=[_due(row, asked) for rows in choice.rows.values() for row, _ in rows])
    made.selected = dict(choice.selected)
    guard(made, made.id if asked.leaked else accepted)
    return made


def _rows(desk: Desk) -> Iterator[tuple[Candidate | tuple[Token, None], Lineage | None]]:
    for page in surveyed(desk, known_now(desk)):
        yield from page


def _unfit(word: str, found: Sequence[str], unselected: Sequence[str]) -> str:
    shown = visible(word, 80)
    if found:
        return f"{shown} names {len(found)} tokens, say which by its id: {', '.join(found)}"
    if unselected:
        return f"no policy selects {shown} ({', '.join(unselected)}); `rotator explain` says why"
    return f"no token of the configured policies has the id or name {shown}"


def whose(desks: Sequence[Desk], text: Secret) -> str:
    """Return the id of the token that a leaked secret, or a short token, belongs to.

    Raises:
        ConfigError: None is known; the message does not repeat the text.
    """
    said = claims(text)
    if said is not None and said.token_id:
        return said.token_id
    for desk in desks:
        for row, _ in _rows(desk):
            token = row[0] if isinstance(row, tuple) else row.token
            if token.short_token and Secret(token.short_token) == text:
                return token.id
    raise ConfigError.of("--leaked", "what was read is neither a secret nor a short token of a token that is listed")


def rotate(desk: Desk, rows: Sequence[Named], asked: Asked, confirm: Callable[[str], bool]) -> Iterator[Result]:
    """Rotate the named tokens of one provider now; our own credentials last and alone.

    Args:
        desk: The provider and everything else.
        rows: As `named` gave them; the brake has spoken already.
        asked: What for.
        confirm: Asked where a sink of a leaked token cannot be written: rotate nevertheless?
    """
    placing = Placing(desk)
    act = (lambda d, r: _leaked(d, r, asked, confirm)) if asked.leaked else _requested
    ready = []
    for row, lineage in rows:
        placed = placing.placed(_due(row, asked))
        obstacle = "" if asked.leaked else _obstacle(row, lineage)
        if placed.decision.due is None or obstacle:
            yield result_of(row, Outcome.FAILED, obstacle or placed.decision.message)
        else:
            ready.append(placed)
    yield from run(desk, [guarded(desk, row, act) for row in ready if not row.own])
    for row in ready:
        if row.own:
            yield from run(desk, [guarded(desk, row, act)])


def _due(row: Candidate, asked: Asked) -> Candidate:
    decision = Decision(asked.reason, None, asked.message, row.decision.due_at)
    strategy = Strategy.IN_PLACE if asked.leaked else row.strategy
    return replace(row, decision=decision, strategy=strategy, open=False)


def _obstacle(row: Candidate, lineage: Lineage | None) -> str:
    """Return which safety holds a request back, empty if none does."""
    if lineage is not None and lineage.quarantined_at is not None:
        return row.decision.message
    return row.decision.message if row.decision.skip is Skip.PAUSED else ""


def _requested(desk: Desk, row: Candidate) -> Result:
    """Finish what is open first: it has just made a new secret, which is what was asked for."""
    rotation = _open(desk, row)
    if rotation is None:
        return _begun(desk, row)
    attempt = claimed(desk, rotation)
    if attempt is None:
        return _busy(row)
    try:
        return attempt.recover()
    finally:
        desk.journal.release(rotation.id)


def _leaked(desk: Desk, row: Candidate, asked: Asked, confirm: Callable[[str], bool]) -> Result:
    desk.record(desk.about(EventName.TOKEN_LEAKED, row.token, row.policy.name, message=asked.message), must_audit=True)
    preflight(desk, row, places=False)
    revoke_first = asked.revoke_first or not _can_deliver(desk, row, confirm)
    if revoke_first:
        spared = [said for old in desk.lineage(row.token).retiring if (said := _revoked(desk, old))]
    rotation = _open(desk, row)
    if rotation is None:
        result = _begun(desk, row, revoke_first=revoke_first)
    else:
        result = _superseding(desk, row, rotation, asked, revoke_first=revoke_first)
    for problem in spared if revoke_first else _end_others(desk, row):
        result = replace(result, outcome=Outcome.UNSETTLED, message=f"{result.message} {problem}".strip())
    return result


def _revoked(desk: Desk, old: Retiring) -> str:
    """End an old member whose secret leaked, or return why it lives on: somebody would be locked out."""
    used = still_used(desk, old)
    if used:
        return f"{old.token_id} lives on: {used}"
    revoke(desk, old, "its secret leaked")
    return ""


def _superseding(desk: Desk, row: Candidate, rotation: Rotation, asked: Asked, *, revoke_first: bool) -> Result:
    """Act in the place of an open rotation: in place by going on with it, for its seal is kept until the new one is."""
    attempt = claimed(desk, rotation)
    if attempt is None:
        return _busy(row)
    try:
        if rotation.strategy is Strategy.IN_PLACE:
            return attempt.renew(Reason.LEAKED, asked.message)
        attempt.abandon("its secret leaked: it is rotated in place")
    finally:
        desk.journal.release(rotation.id)
    return _begun(desk, row, revoke_first=revoke_first)


def _begun(desk: Desk, row: Candidate, *, revoke_first: bool = False) -> Result:
    """Begin, again where a sweep that only looked came between; what was asked for is never left undone quietly."""
    for _ in range(ATTEMPTS):
        result = begin(desk, row, revoke_first=revoke_first)
        if result.outcome is not None or result.held:
            return result
    return replace(result, outcome=Outcome.FAILED)


def _busy(row: Candidate) -> Result:
    return result_of(row, Outcome.FAILED, "another process is at it; ask again in a minute")


def _can_deliver(desk: Desk, row: Candidate, confirm: Callable[[str], bool]) -> bool:
    """Whether every sink can be written; where not, a person decides.

    Raises:
        RotatorError: It cannot, and nobody said to rotate nevertheless.
    """
    for place in row.places:
        if not place.required:
            continue
        try:
            desk.preflight(place)
        except RotatorError as error:
            if confirm(f"{place.sink}:{place.location} cannot be written now ({error.message})"):
                return False
            raise
    return True


def _open(desk: Desk, row: Candidate) -> Rotation | None:
    lineage = desk.lineage(row.token).id
    found = desk.journal.open_rotations(desk.provider.name)
    return next((rotation for rotation in found if rotation.lineage == lineage), None)


def _end_others(desk: Desk, row: Candidate) -> Iterator[str]:
    """End every other living member of a lineage that leaked; yield what could not be, which sweeps go on with."""
    for member in desk.lineage(row.token).retiring:
        lineage = desk.lineage(row.token)
        old = replace(member, since=desk.clock.now(), ending=AT_ONCE)
        others = tuple(other for other in lineage.retiring if other.token_id != old.token_id)
        try:
            with desk.journal.hold(desk.provider.name, lineage.id):
                desk.remember(replace(lineage, retiring=(*others, old)))
                ended = end(desk, desk.lineage(row.token), old, row.places)
        except RotatorError as error:
            yield f"{old.token_id} lives on: {error.message}"
            continue
        if not ended.retired:
            yield ended.message


def manual_steps(desk: Desk, token: Token) -> str:
    """Return what a person has to do when the credential that rotator itself works with leaked."""
    own = desk.provider.own_credentials()[token.id]
    return (
        f"{token.id} is the credential that rotator itself works with; rotating it here could lock rotator out.\n"
        f"  1. Create another token with the same roles in the Astro UI.\n"
        f"  2. Put its secret where {own.reference} reads it.\n"
        f"  3. Run `rotator check --online`; it must name the new token.\n"
        f"  4. Delete {ref_of(token).id} in the Astro UI: only that ends the leaked secret."
    )
