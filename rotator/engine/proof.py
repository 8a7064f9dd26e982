"""Is a secret alive? One question, asked by rotations, drift and retirement, answered with the evidence for it.

Alive is a 200 as this token, or an application 403 (its role may not read tokens) while the provider still shows the
generation that made it and the JWT names this token. Dead needs two things: it was rejected, *and* the generation has
moved. Anything else gives no verdict, and nothing irreversible follows from that.
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

from rotator.claims import claims
from rotator.engine.desk import Desk
from rotator.errors import CredentialRejected, Forbidden, NotFound, RotatorError
from rotator.model import Generation, Grade, Token
from rotator.ports import Provider, TokenRef
from rotator.secret import Secret

PATIENCE = timedelta(minutes=2)  # how long a fresh secret may be answered with 401 while the API catches up
_NOT_YET = "the new secret is not accepted yet (401) although the token shows it as the live one"


class Life(Enum):
    """What became of a secret."""

    ALIVE = "alive"
    DEAD = "dead"
    EXPIRED = "dead, because its time is up"
    GONE = "the token itself is gone"
    UNCLEAR = "no verdict"


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a secret lives.

    Attributes:
        grade: How well that is known, if it lives.
        message: Why there is no verdict.
        waits: The API may only be slow to accept it.
    """

    life: Life
    grade: Grade = Grade.NONE
    message: str = ""
    waits: bool = False


@dataclass(frozen=True, slots=True)
class Suspect:
    """A secret and whose it should be.

    Attributes:
        made: The generation that the secret belongs to; None if that is not known.
    """

    ref: TokenRef
    secret: Secret
    made: Generation | None


def is_alive(desk: Desk, provider: Provider, suspect: Suspect, patience: timedelta = PATIENCE) -> Verdict:
    """Use a secret, again and again for as long as the API may only be catching up.

    Args:
        desk: For the clock, and for being told to stop.
        provider: Asked for a second look, with our own credential.
        suspect: What is tried.
        patience: How long a rejection at the right generation is doubted.
    """
    deadline = desk.clock.monotonic() + patience.total_seconds()
    pause = timedelta(seconds=1)
    while True:
        verdict = _once(provider, suspect)
        if not verdict.waits or desk.clock.monotonic() >= deadline or desk.stop.is_set():
            return verdict
        desk.clock.sleep(pause)
        pause = min(pause * 2, timedelta(seconds=20))


def _once(provider: Provider, suspect: Suspect) -> Verdict:
    try:
        provider.authenticate(suspect.ref, suspect.secret)
    except CredentialRejected:
        return _second_look(provider, suspect, is_known=False)
    except Forbidden:
        return _second_look(provider, suspect, is_known=True)
    except RotatorError as error:
        return Verdict(Life.UNCLEAR, message=error.message)
    return Verdict(Life.ALIVE, Grade.PROVEN)


def _second_look(provider: Provider, suspect: Suspect, *, is_known: bool) -> Verdict:
    """Ask the provider whether the generation is still the one that made the secret."""
    try:
        token = provider.get(suspect.ref)
    except NotFound:
        return Verdict(Life.GONE)
    except RotatorError as error:
        return Verdict(Life.UNCLEAR, message=error.message)
    if _has_moved(token, suspect):
        return Verdict(Life.DEAD)
    said = claims(suspect.secret)
    if is_known and said is not None and said.token_id == suspect.ref.id:
        return Verdict(Life.ALIVE, Grade.ATTESTED)
    return Verdict(Life.UNCLEAR, message=_NOT_YET, waits=True)


def _has_moved(token: Token, suspect: Suspect) -> bool:
    if suspect.made is not None:
        return token.generation.is_past(suspect.made)
    said = claims(suspect.secret)
    issued = said.issued_at if said is not None else None
    # a JWT carries whole seconds, and is signed a moment before or after the rotation is recorded
    return issued is not None and token.generation.moment - issued > timedelta(seconds=60)
