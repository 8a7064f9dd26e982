"""Our own credentials at work: which one is shown, when each is read, and what is told when one cannot be.

`provider` sends every call of its own through here. One that lies in a store costs a request to read, so what was read
serves for `MOMENT_S` seconds; after a 401 it is read anew at once. Nothing outlives that, and what is read to prove
something (`by_token`) is never an old value.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from rotator.claims import claims
from rotator.errors import ConfigError, CredentialRejected, RotatorError, Temporary
from rotator.events import Event, EventName
from rotator.ports import Clock, Emit, OwnCredential
from rotator.recent import Recent
from rotator.secret import Secret

MOMENT_S = 5.0

Result = TypeVar("Result")


class Memory:
    """What is known of credentials by their references; shared by all that work with them.

    Args:
        provider: Its name, for events.
        clock: For events, and for how long a value serves.
        emit: Told once when a credential cannot be read, and again only after it could be.
    """

    def __init__(self, provider: str, clock: Clock, emit: Emit) -> None:
        self._provider = provider
        self._clock = clock
        self._emit = emit
        self._lock = threading.Lock()
        self._troubled: set[str] = set()
        self._ids: dict[str, str] = {}
        self._kept: Recent[Secret] = Recent(clock.monotonic, MOMENT_S)

    def read(self, own: OwnCredential, *, anew: bool) -> Secret:
        """Return the credential; raises what reading it raises.

        Args:
            own: Which.
            anew: Whether a value that was read a moment ago does not serve.
        """
        if anew:
            self._kept.forget(own.reference)
        try:
            secret = self._kept.get(own.reference, own.read) if own.is_remote else own.read()
        except (ConfigError, Temporary) as error:
            self.tell(own, error)
            raise
        said = claims(secret)
        with self._lock:
            self._troubled.discard(own.reference)
            if own.reference:
                self._ids[own.reference] = said.token_id if said else ""
        return secret

    def id_of(self, own: OwnCredential) -> str | None:
        """Return which token it was when it could last be read, empty if it did not say; None if it never could."""
        with self._lock:
            return self._ids.get(own.reference)

    def tell(self, own: OwnCredential, error: RotatorError) -> None:
        """Say once that it cannot be read."""
        with self._lock:
            is_known = own.reference in self._troubled
            self._troubled.add(own.reference)
        if not is_known:
            said = f"the credential {own.reference} that rotator works with cannot be read: {error.message}"
            event = Event(
                name=EventName.CREDENTIAL_UNREADABLE, at=self._clock.now(), provider=self._provider, message=said
            )
            self._emit(event)


class OwnCredentials:
    """The credentials of one provider, in the order in which they are tried.

    Args:
        provider: Its name, for config errors.
        credentials: At least one.
        memory: Of all that work with them.
    """

    def __init__(self, provider: str, credentials: Sequence[OwnCredential], memory: Memory) -> None:
        self._provider = provider
        self._all = tuple(credentials)
        self._memory = memory
        self._working = 0

    @property
    def first(self) -> OwnCredential:
        """The one that is named first."""
        return self._all[0]

    def before(self, other: OwnCredential) -> "OwnCredentials":
        """Return the same with another one that is tried first."""
        return OwnCredentials(self._provider, (other, *self._all), self._memory)

    def alone(self, only: OwnCredential) -> "OwnCredentials":
        """Return one that works with this credential and no other."""
        return OwnCredentials(self._provider, (only,), self._memory)

    def send(self, send: Callable[[Callable[[], Secret]], Result], *, is_repeatable: bool) -> Result:
        """Return what comes of a call with one that works: another where the first is rejected, or cannot be read.

        Args:
            send: Makes the call, given what reads the credential.
            is_repeatable: Without it, another one is tried only where nothing was sent.

        Raises:
            CredentialRejected: All that there are were rejected.
            ConfigError, Temporary: Those that were not rejected could not be read; nothing was done.
            RotatorError: As `send` does.
        """
        rejected: CredentialRejected | None = None
        unread: RotatorError | None = None
        for own in (*self._all[self._working :], *self._all[: self._working]):
            reader = _Reader(own, self._memory)
            try:
                answer = send(reader)
            except CredentialRejected as error:
                rejected = error
                if not is_repeatable:
                    break
            except (ConfigError, Temporary) as error:
                if error is not reader.error:
                    raise
                unread = unread or error
            else:
                self._working = self._all.index(own)  # what cannot be repeated starts with one that works
                return answer
        if unread is not None and rejected is not None:
            raise Temporary(f"{unread.message}; and our other credential is dead: {rejected.message}")
        raise unread or rejected or Temporary(f"providers.{self._provider} has no credential")

    def by_token(self) -> Mapping[str, OwnCredential]:
        """Return them by the id of the token that each says it is; one that is no JWT is left out.

        Raises:
            ConfigError: One does not say which token it is, or is not there.
            Temporary: One cannot be read now, and it is not known from before which token it is.
        """
        found: dict[str, OwnCredential] = {}
        for own in self._all:
            token_id = self._id_of(own)
            if token_id is not None:
                found.setdefault(token_id, own)
        return found

    def _id_of(self, own: OwnCredential) -> str | None:
        try:
            said = claims(self._memory.read(own, anew=True))
        except Temporary:
            known = self._memory.id_of(own)
            if known is None:  # any token may be this one, and none may be rotated like the others then
                raise
            return known or None
        if said is not None and not said.token_id:
            raise ConfigError.of(
                f"providers.{self._provider}.credential",
                f"{own.reference} does not say which token it is (its JWT has no apiTokenId), so rotator could end"
                " the token that it works with; use an Astro API token",
            )
        return said.token_id if said is not None else None


class _Reader:
    """Reads one credential for one call: the first time as it was a moment ago, then anew.

    Attributes:
        error: Why it could not be read, and so nothing was sent with it.
    """

    def __init__(self, own: OwnCredential, memory: Memory) -> None:
        self._own = own
        self._memory = memory
        self._asked = False
        self.error: RotatorError | None = None

    def __call__(self) -> Secret:
        anew, self._asked = self._asked, True
        try:
            return self._memory.read(self._own, anew=anew)
        except (ConfigError, Temporary) as error:
            self.error = error
            raise
