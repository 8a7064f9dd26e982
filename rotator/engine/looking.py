"""Looking at the sinks: what do the places of a token hold, and is it alive? Reads only, and one try with each secret.

Only a JWT that names this very token and organization is ever sent to the API. Every such try moves `lastUsedAt`, so it
is remembered as a probe of ours: it must not pass for a consumer's use.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from rotator.claims import claims
from rotator.drift import Diagnosis, Seen, Sighting, diagnose, moved_elsewhere, wants_look
from rotator.engine.desk import Desk, ref_of
from rotator.engine.proof import Life, Suspect, is_alive
from rotator.errors import NotFound, RotatorError
from rotator.events import EventName
from rotator.model import Held, Lineage, Place, Skip, Token
from rotator.planning import Candidate, Known, candidate, place_problem
from rotator.ports import Write
from rotator.secret import Secret

PROBES = 20  # remembered for each lineage


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen of one token.

    Attributes:
        found: The secret at each place that could be read, in the order of the sightings; None where there is none.
        probed_at: When secrets were tried at the API.
    """

    sightings: tuple[Sighting, ...]
    found: tuple[Secret | None, ...]
    probed_at: tuple[datetime, ...]

    @property
    def live(self) -> Secret | None:
        """A secret that authenticates, from whichever place holds one."""
        rows = zip(self.sightings, self.found, strict=True)
        return next((secret for seen, secret in rows if seen.seen is Seen.LIVE and secret is not None), None)


def look(desk: Desk, token: Token, lineage: Lineage, places: Sequence[Place]) -> Look:
    """Return what the required places of a token hold.

    Args:
        desk: Sinks and provider.
        token: As the provider shows it now.
        lineage: What the journal remembers; a new one if nothing.
        places: Where its secret belongs.
    """
    tried: list[tuple[Secret, Sighting]] = []
    probed: list[datetime] = []
    rows: list[tuple[Sighting, Secret | None]] = []
    for place in places:
        if place.required:
            rows.append(_sight(desk, token, lineage, place, tried, probed))
    return Look(tuple(row[0] for row in rows), tuple(row[1] for row in rows), tuple(probed))


def _sight(
    desk: Desk,
    token: Token,
    lineage: Lineage,
    place: Place,
    tried: list[tuple[Secret, Sighting]],
    probed: list[datetime],
) -> tuple[Sighting, Secret | None]:
    held = _held(desk, place)
    if isinstance(held, Sighting):
        return held, None
    secret = held.secret
    if secret is None:
        return _attested(desk, token, lineage, place, held), None
    said = claims(secret)
    is_settled = bool(lineage.fingerprint) and desk.journal.fingerprint(secret) == lineage.fingerprint
    if is_settled and not moved_elsewhere(token, lineage) and not lineage.stale:
        return Sighting(place, Seen.LIVE, said.issued_at if said else None), secret
    if said is None or said.token_id != token.id or said.organization_id != token.organization_id:
        return Sighting(place, Seen.FOREIGN), secret
    known = next((sighting for other, sighting in tried if other == secret), None)
    if known is None:
        suspect = Suspect(ref_of(token), secret, lineage.generation if is_settled else None)
        known = _try(desk, suspect, is_older=not is_settled and _is_older(token, lineage, said.issued_at))
        probed.append(desk.clock.now())
        tried.append((secret, known))
    return replace(known, place=place, issued_at=said.issued_at), secret


def _attested(desk: Desk, token: Token, lineage: Lineage, place: Place, held: Held) -> Sighting:
    """Return what is known of a place that cannot be read, by what we settled there and what it says of itself."""

    def unreadable(why: str) -> Sighting:
        return Sighting(place, Seen.UNREADABLE, why=why, is_readable=False)

    spot = (place.sink, place.location)
    settled = [(known.sink, known.location) for known in lineage.places]
    if lineage.settled_at is None or lineage.stale or spot not in settled:
        return unreadable("the sink cannot be read")
    versions = dict(zip(settled, lineage.versions, strict=False))
    is_named = bool(held.mint_id or held.version)
    if (held.mint_id or lineage.mint_id) != lineage.mint_id or (
        not held.mint_id and held.version and held.version != versions.get(spot, "")
    ):
        return unreadable("somebody else wrote to it since we did")
    if moved_elsewhere(token, lineage):
        return Sighting(place, Seen.DEAD, is_readable=False) if is_named else unreadable("the sink cannot be read")
    if token.end_at is not None and token.end_at <= desk.clock.now():
        return unreadable("what was written there has expired")
    return Sighting(place, Seen.LIVE, is_readable=False, is_named=is_named)


def _held(desk: Desk, place: Place) -> Held | Sighting:
    try:
        return desk.read_back(place)
    except NotFound:
        return Sighting(place, Seen.MISSING)
    except RotatorError as error:
        return Sighting(place, Seen.UNREADABLE, why=error.message)


def _is_older(token: Token, lineage: Lineage, issued_at: datetime | None) -> bool:
    """Whether a secret was made before the one that we settled, which is the live one still."""
    settled = lineage.generation if not lineage.stale else None
    if settled is None or issued_at is None or token.generation != settled:
        return False
    return issued_at < settled.moment.replace(microsecond=0)  # a JWT carries whole seconds


def _try(desk: Desk, suspect: Suspect, *, is_older: bool) -> Sighting:
    verdict = is_alive(desk, desk.provider, suspect, patience=timedelta())
    nowhere = Place("", "", {})
    if verdict.life is Life.ALIVE:
        return Sighting(nowhere, Seen.LIVE)
    if verdict.life is Life.DEAD or (verdict.waits and is_older):  # rejected, and it cannot come alive any more
        return Sighting(nowhere, Seen.DEAD)
    return Sighting(nowhere, Seen.UNREADABLE, why=verdict.message or verdict.life.value)


def looked(desk: Desk, rows: Sequence[tuple[Candidate, Lineage | None]], known: Known) -> Iterator[Candidate]:
    """Yield the candidates of a page, decided anew where the sinks had to be looked at.

    Args:
        desk: The provider and everything else; what is learnt is journalled if it may write.
        rows: Candidates with their lineages.
        known: What they were decided by.
    """
    every = desk.settings.drift_check
    wanted = [at for at, (row, lineage) in enumerate(rows) if _is_time(row, lineage, known, every)]
    fresh: dict[int, Candidate] = {}
    if wanted:
        found = list(desk.pool("look").map(lambda at: _look_at(desk, *rows[at], known), wanted))
        fresh = {at: row for at, (row, _) in zip(wanted, found, strict=True)}
        if desk.writing:
            desk.remember_all([write for _, write in found if write is not None])
    for at, (row, _) in enumerate(rows):
        yield fresh.get(at, row)


def looked_at(desk: Desk, row: Candidate, lineage: Lineage | None, known: Known) -> tuple[Candidate, Lineage | None]:
    """Return one candidate as `looked` does, with the lineage as it is after that look."""
    if _is_time(row, lineage, known, desk.settings.drift_check):
        fresh, write = _look_at(desk, row, lineage, known)
        return fresh, write.lineage if write is not None else lineage
    return row, lineage


def _is_time(row: Candidate, lineage: Lineage | None, known: Known, every: timedelta) -> bool:
    return _may_look(row) and wants_look(row.token, lineage, known.now, every)


_LOOKABLE = (None, Skip.NOT_DUE, Skip.PAUSED, Skip.WINDOW, Skip.BLACKOUT, Skip.BACKOFF)


def _may_look(row: Candidate) -> bool:
    is_settled = not row.open and not row.watched and row.retiring is None
    return is_settled and row.decision.skip in _LOOKABLE


def _look_at(desk: Desk, row: Candidate, lineage: Lineage | None, known: Known) -> tuple[Candidate, Write | None]:
    """Return the candidate decided anew, and what is to be journalled of it."""
    token = row.token
    lineage = lineage or Lineage(desk.provider.name, token.id, token.id, token.name)
    try:
        places = desk.places(row.policy, token, lineage.id)
    except RotatorError:
        return row, None  # it has no safe place: said when it is due
    if place_problem(places, lineage, owners_of(desk, lineage, places), lineage.id):
        if not lineage.places:
            return row, None
        places = lineage.places  # it is to move first, but where it is it may have drifted all the same
    seen = look(desk, token, lineage, places)
    diagnosis = diagnose(token, lineage, seen.sightings, known.now)
    learnt = learn(desk, token, lineage, places, seen, diagnosis)
    return candidate(token, row.policy, learnt, known), _note(desk, row, lineage, learnt, diagnosis, places)


def learn(
    desk: Desk, token: Token, lineage: Lineage, places: Sequence[Place], seen: Look, diagnosis: Diagnosis
) -> Lineage:
    """Return the lineage with what a look told."""
    issued = [s.issued_at for s in seen.sightings if s.seen is Seen.LIVE and s.issued_at is not None]
    lineage = replace(
        lineage,
        looked_at=desk.clock.now(),
        drift=diagnosis.drift,
        issued_at=max(issued, default=lineage.issued_at),
        probes=(*lineage.probes, *seen.probed_at)[-PROBES:],
    )
    return taken_over(desk, token, lineage, places, seen.live) if diagnosis.adopted and seen.live else lineage


def taken_over(desk: Desk, token: Token, lineage: Lineage, places: Sequence[Place], secret: Secret) -> Lineage:
    """Return the lineage as settled with a secret that its sinks hold and that authenticates."""
    return replace(
        lineage,
        name=token.name,
        settled_at=desk.clock.now(),
        generation=token.generation,
        scope=token.scope,
        workspace_id=token.workspace_id,
        deployment_id=token.deployment_id,
        places=tuple(places),
        gone_at=None,
        missing_since=None,
        fingerprint=desk.journal.fingerprint(secret),
        mint_id="",
        versions=(),
        stale=False,
        drift=None,
    )


def _note(
    desk: Desk, row: Candidate, before: Lineage, learnt: Lineage, diagnosis: Diagnosis, places: Sequence[Place]
) -> Write:
    events = []
    drift = learnt.drift
    if drift is not None and (
        before.drift is None or (before.drift.kind, before.drift.heal) != (drift.kind, drift.heal)
    ):
        said = f"{drift.kind}: {drift.message}"
        events.append(desk.about(EventName.DRIFT_FOUND, row.token, row.policy.name, message=said, error=drift.kind))
    if diagnosis.adopted:
        said = "its sinks hold the live secret already: taken over"
        events.append(desk.about(EventName.SECRET_ADOPTED, row.token, row.policy.name, message=said))
    claims = tuple(claim for place in places for claim in place.claims) if diagnosis.adopted else ()
    return Write(lineage=learnt, claims=claims, events=tuple(events), durable=bool(events))


def owners_of(desk: Desk, lineage: Lineage, places: Sequence[Place]) -> dict[tuple[str, str], str]:
    """Return which lineage owns what the places claim; one of another provider is called by its provider too."""
    owners = desk.journal.place_owners([claim for place in places for claim in place.claims])
    return {
        claim: root if provider == lineage.provider else f"{provider}/{root}"
        for claim, (provider, root) in owners.items()
    }
