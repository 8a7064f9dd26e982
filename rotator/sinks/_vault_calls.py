"""What the vault sink asks and what the answers mean, as values in our own words. Pure.

Nothing of an answer's text is ever repeated: it may hold what was sent.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar

import msgspec

from rotator.errors import CredentialRejected, Forbidden, OutcomeUnknown, Permanent, RotatorError, Temporary, Throttled
from rotator.secret import Secret

JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"

Kind = TypeVar("Kind", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        path: Below `/v1/`, not quoted.
        body: Hidden, since it may hold secrets.
        writes: Whether it changes anything: then a timeout leaves the outcome unknown.
    """

    method: str
    path: str
    body: Secret | None = None
    kind: str = JSON
    namespace: str = ""
    writes: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    body: bytes = field(repr=False, default=b"")
    retry_after: timedelta | None = None

    @property
    def errors(self) -> tuple[str, ...] | None:
        """The errors that Vault itself names; None if the body is not of Vault's form."""
        found = decoded(self, _Errors)
        return None if found is None else found.errors

    def says(self, words: str) -> bool:
        """Whether Vault's own errors contain these words."""
        return any(words in error for error in self.errors or ())


@dataclass(frozen=True, slots=True)
class Failure:
    """No answer came."""

    kind: type[RotatorError]
    said: str


class _Errors(msgspec.Struct):
    errors: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """What a status means after a read and after a write, in our own words."""

    read: type[RotatorError]
    write: type[RotatorError]
    said: str


# Source: https://developer.hashicorp.com/vault/api-docs#http-status-codes
STATUSES = {
    400: Row(Permanent, Permanent, "it refused the request; do `kv` and the mount's settings fit?"),
    401: Row(CredentialRejected, CredentialRejected, "it does not accept the token; see `auth`"),
    403: Row(Forbidden, Forbidden, "the token may not do this; its policy must allow it"),
    404: Row(Permanent, Permanent, "there is no such mount or namespace; check `mount`, `kv` and `namespace`"),
    405: Row(Permanent, Permanent, "what is mounted there cannot do this; check `mount` and `kv`"),
    412: Row(Temporary, Temporary, "this node has not caught up with the cluster yet"),
    413: Row(Permanent, Permanent, "the secret with all its keys is too large for it"),
    429: Row(Temporary, Temporary, "a standby answered; `address` must reach the active node"),
    472: Row(Temporary, Temporary, "a disaster recovery secondary answered; `address` must reach the active cluster"),
    473: Row(Temporary, Temporary, "a performance standby answered; `address` must reach the active node"),
    500: Row(Temporary, OutcomeUnknown, "it failed inside"),
    501: Row(Temporary, Temporary, "it is not initialised yet"),
    503: Row(Temporary, Temporary, "it is sealed or in maintenance; unseal it"),
}
_QUOTA = Row(Throttled, Throttled, "its rate limit quota is used up")
_UPGRADING = Row(Temporary, Temporary, "the KV engine is being upgraded to version 2")
_ELSEWHERE = Row(Temporary, Temporary, "a standby points to another address; `address` must reach the active node")
_NOT_VAULT = Row(Temporary, OutcomeUnknown, "something in front of it answered")
_ODD = Row(Permanent, Permanent, "it refused the request")


def refusal(call: Call, answer: Answer, where: str) -> RotatorError:
    """Return what an answer that is not the wanted one means.

    Args:
        where: The place, for the message.
    """
    row = _row(answer)
    kind = row.write if call.writes else row.read
    message = f"{where}: Vault answered {answer.status}: {row.said}"
    return kind(message, answer.retry_after) if issubclass(kind, Temporary) else kind(message)


def failed(failure: Failure, where: str) -> RotatorError:
    """Return the error for an answer that never came."""
    return failure.kind(f"{where}: {failure.said}")


def _row(answer: Answer) -> Row:
    if answer.status in (301, 302, 303, 307, 308):
        return _ELSEWHERE
    if answer.status == 429 and (answer.says("quota") or answer.retry_after is not None):
        return _QUOTA
    if answer.status == 400 and answer.says("Upgrading from non-versioned"):
        return _UPGRADING
    if answer.errors is None and answer.status in (403, 404, 503):
        # A proxy says so too. Of 503 nobody knows whether a write went through before; it certainly did not at 403.
        return _NOT_VAULT if answer.status == 503 else Row(Permanent, Permanent, _NOT_VAULT.said)
    if answer.status in STATUSES:
        return STATUSES[answer.status]
    return _NOT_VAULT if answer.status >= 500 or answer.status < 300 or answer.status == 408 else _ODD


def decoded(answer: Answer, kind: type[Kind]) -> Kind | None:
    """Return what an answer says, None if it is not of this form."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
