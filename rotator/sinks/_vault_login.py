"""How the vault sink logs in: five methods, one token for all threads, renewed in time and made anew once it is dead.

Credentials are secret references, read at each login. A token that a login made is revoked when the sink is closed, so
that short runs leave no leases behind; a token that was given is the operator's and is only renewed.
"""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from hvac.api import auth_methods

from rotator.credentials import Reference
from rotator.errors import ConfigError, CredentialRejected, Permanent
from rotator.secret import Secret
from rotator.sinks._vault_calls import Answer, Call, Failure, decoded, failed, refusal
from rotator.sinks._vault_line import Line
from rotator.sinks._vault_options import VaultAuth

if TYPE_CHECKING:
    from rotator.sinks._vault_aws import Identity

_RENEW_AT = 3  # once a third of the lease is left


@dataclass(frozen=True, slots=True)
class Session:
    """A token in use.

    Attributes:
        number: Counts logins, so that of many threads that saw it dead only one logs in again.
        ends_s: On the monotonic clock; None if it never ends or nobody says.
        ours: Whether a login of ours made it.
    """

    token: Secret
    number: int
    lease_s: float = 0
    ends_s: float | None = None
    renewable: bool = False
    ours: bool = False


class _Granted(msgspec.Struct):
    client_token: str
    lease_duration: float = 0
    renewable: bool = False

    def __repr__(self) -> str:
        return "_Granted(***)"


class _Login(msgspec.Struct):
    auth: _Granted


class _Looked(msgspec.Struct):
    ttl: float = 0
    renewable: bool = False


class _LookUp(msgspec.Struct):
    data: _Looked


class Login:
    """Who we are to one Vault.

    Args:
        line: Carries the requests.
        auth: Validated.
        namespace: In which to log in.
        base: The folder that relative file references count from.
        monotonic: Returns seconds that never go back.
    """

    def __init__(
        self, line: Line, auth: VaultAuth, namespace: str, base: Path, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._line = line
        self._auth = auth
        self._namespace = namespace
        self._base = base
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._identity: Identity | None = None  # outlives a login: it knows which program hangs

    def session(self, where: str) -> Session:
        """Return a session that works as far as is known, renewed if it ends soon.

        Raises:
            Temporary, Permanent: Nobody can be logged in; the message names the place.
        """
        with self._lock:
            if self._session is None:
                self._session = self._made(where, 1)
            elif self._ends_soon(self._session):
                self._session = self._renewed(self._session) or self._made(where, self._session.number + 1)
            return self._session

    def again(self, dead: Session, where: str, *, lives: bool = False) -> Session:
        """Return the session after one that seems dead; another thread may have made it already.

        Args:
            dead: The one that Vault does not show.
            where: The place, for errors.
            lives: Whether it certainly was good a moment ago: then it is returned itself if there is no other.

        Raises:
            CredentialRejected: The reference still yields the dead token.
            Temporary, Permanent: Nobody can be logged in.
        """
        with self._lock:
            if self._session is None or self._session.number == dead.number:
                made = self._made(where, dead.number + 1)
                if made.token == dead.token and lives:
                    return dead
                if made.token == dead.token:
                    raise CredentialRejected(
                        f"{where}: Vault does not accept the token any more; {self._fix}"
                        " (one that lives needs the `default` policy, to be able to look itself up)"
                    )
                self._session = made
            return self._session

    def is_alive(self, session: Session) -> bool | Failure:
        """Whether Vault still knows the token: a 403 says both "you may not" and "who are you?"."""
        answer = self._line.send(self._about_ourselves("get", "lookup-self"), session.token)
        return answer if isinstance(answer, Failure) else answer.status != 403

    def close(self) -> None:
        """Revoke the token that a login made; if it fails, the lease ends by itself."""
        with self._lock:
            session, self._session = self._session, None
        if session is not None and session.ours:
            self._line.send(self._about_ourselves("post", "revoke-self"), session.token)

    @property
    def _fix(self) -> str:
        if self._auth.method == "token":
            return f"put a new one where {self._auth.token} reads it"
        return f"check the {self._auth.method} login at auth/{self._auth.at}"

    def _about_ourselves(self, method: str, what: str) -> Call:
        return Call(method, f"auth/token/{what}", namespace=self._namespace)

    def _ends_soon(self, session: Session) -> bool:
        left_s = float("inf") if session.ends_s is None else session.ends_s - self._monotonic()
        return left_s < session.lease_s / _RENEW_AT

    def _renewed(self, session: Session) -> Session | None:
        """Return the session with a longer lease, the same while it still lasts, None if a new login is needed."""
        lasts = session.ends_s is not None and session.ends_s > self._monotonic()
        if session.renewable:
            answer = self._line.send(self._about_ourselves("post", "renew-self"), session.token)
            if isinstance(answer, Answer) and answer.status == 200 and (granted := _granted(answer)):
                return self._begun(granted, session.number, ours=session.ours)
            if isinstance(answer, Failure) and lasts:
                return session
        # A given token is used to its end: a new login would only read the same one.
        return session if lasts and not session.ours else None

    def _made(self, where: str, number: int) -> Session:
        if self._auth.method == "token":
            return self._given(where, number)
        answer = self._shown(where)
        if isinstance(answer, Failure):
            raise failed(answer, f"{where}: logging in")
        granted = _granted(answer) if answer.status == 200 else None
        if granted is not None:
            return self._begun(granted, number, ours=True)
        if answer.status in (400, 401, 403) and answer.errors is not None:
            raise CredentialRejected(f"{where}: Vault refused the login ({answer.status}); {self._fix}")
        error = refusal(Call("post", ""), answer, f"{where}: logging in")
        if answer.status == 404:
            error = Permanent(f"{where}: Vault knows no login at auth/{self._auth.at}; check auth.mount and namespace")
        raise error

    def _given(self, where: str, number: int) -> Session:
        token = self._read(self._auth.token, where)
        answer = self._line.send(self._about_ourselves("get", "lookup-self"), token)
        if isinstance(answer, Failure):
            raise failed(answer, where)
        if answer.status == 403:  # dead, or without the default policy: the next request shows which
            return Session(token, number)
        found = decoded(answer, _LookUp) if answer.status == 200 else None
        if found is None:
            raise refusal(Call("get", ""), answer, f"{where}: looking our token up")
        ends = self._monotonic() + found.data.ttl if found.data.ttl else None
        return Session(token, number, found.data.ttl, ends, found.data.renewable)

    def _begun(self, granted: _Granted, number: int, *, ours: bool) -> Session:
        lease = granted.lease_duration
        ends = self._monotonic() + lease if lease else None
        return Session(Secret(granted.client_token), number, lease, ends, granted.renewable, ours)

    def _shown(self, where: str) -> Answer | Failure:
        """Show our credentials to the method's login; hvac spells them."""
        auth, at = self._auth, self._auth.at
        if auth.method == "aws":
            return self._line.send(self._vouched(where), None)
        if auth.method == "approle":
            role_id, secret_id = self._read(auth.role_id, where), self._read(auth.secret_id, where)

            def ask(adapter: Any) -> Any:
                by = auth_methods.AppRole(adapter)
                return by.login(role_id.reveal(), secret_id.reveal(), use_token=False, mount_point=at)
        elif auth.method == "kubernetes":
            pod = self._read(f"file:{auth.jwt_path}", where)

            def ask(adapter: Any) -> Any:
                by = auth_methods.Kubernetes(adapter)
                return by.login(auth.role, pod.reveal(), use_token=False, mount_point=at)
        else:
            jwt = self._read(auth.jwt, where)

            def ask(adapter: Any) -> Any:
                return auth_methods.JWT(adapter).jwt_login(auth.role, jwt.reveal(), use_token=False, path=at)

        return self._line.through(ask, namespace=self._namespace)

    def _vouched(self, where: str) -> Call:
        """Return the login by AWS: a signed question to STS who we are, which Vault will ask for us.

        Signed by botocore, which knows every source of credentials; hvac's own signer takes static keys only.

        Source: https://developer.hashicorp.com/vault/api-docs/auth/aws#login
        """
        from rotator.sinks._vault_aws import Identity  # noqa: PLC0415 - botocore is loaded only where it is used

        self._identity = self._identity or Identity(self._line.timeout_s)
        shown = self._identity.signed(self._auth)
        if isinstance(shown, Failure):
            raise failed(shown, where)
        return Call("post", f"auth/{self._auth.at}/login", shown, namespace=self._namespace)

    def _read(self, text: str, where: str) -> Secret:
        try:
            return Reference.parse(text).read(self._base)
        except ConfigError as error:
            said = error.message
        raise Permanent(f"{where}: cannot log in to Vault: {said}")


def _granted(answer: Answer) -> _Granted | None:
    found = decoded(answer, _Login)
    return found.auth if found else None
