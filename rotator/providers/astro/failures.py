"""What a failed call means: two tables, one for what breaks below HTTP and one for what the API answers; pure.

Their key is (may the call be repeated?, failure). A read or an idempotent write that failed on the way is `Temporary`;
a rotate or create that may have left is `OutcomeUnknown`. Messages hold the operation, the token id, the status and a
request id, in our own words: never a body, a URL, a header or the vendor's text.
"""

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum, StrEnum

import httpx

from rotator.causes import distrust, unreached
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.providers.astro.wire import WireError, decode_error

LONGEST_PAUSE = timedelta(minutes=5)
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class Operation(StrEnum):
    """What a call does; events and messages carry these words."""

    LIST = "list"
    GET = "get"
    CREATE = "create"
    UPDATE = "update"
    ROLES = "roles"
    DELETE = "delete"
    ROTATE = "rotate"
    WRITE = "write"  # of a whole object, made from a read: only repeated after another read

    @property
    def is_repeatable(self) -> bool:
        """Whether sending it twice does no harm."""
        return self not in (Operation.CREATE, Operation.ROTATE, Operation.WRITE)


class Fate(Enum):
    """How far a call came before it failed."""

    UNSENT = "it certainly had no effect"
    HOPELESS = "it certainly had no effect, and repeating it is useless"
    MAYBE_SENT = "it may have taken effect"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a call fails without an answer that counts.

    Attributes:
        kind: A word of a closed set, for events and metrics.
        words: For people, after the operation and a colon.
    """

    kind: str
    words: str
    fate: Fate = Fate.MAYBE_SENT


NO_CONNECTION = Fault("no_connection", "no connection could be made", Fate.UNSENT)
CERTIFICATE = Fault("certificate", "the server's certificate is not trusted; check ca_bundle", Fate.HOPELESS)
BROKEN = Fault("broken", "the connection broke, or the answer was cut off")
TOO_LATE = Fault("timeout", "no complete answer in time")
TOO_LARGE = Fault("too_large", "the answer is larger than any that can be right")
BAD_BODY = Fault("bad_body", "the answer has not the expected form")
UNEXPECTED = Fault("unexpected", "the HTTP client failed in an unexpected way")
UNUSABLE = Fault("unusable", "the request cannot be made; check base_url and proxy", Fate.HOPELESS)

# Looked up along the class's own ancestors, so that a class which httpx adds later means what its parent means.
EXCEPTIONS: Mapping[type[Exception], Fault] = {
    httpx.ConnectError: NO_CONNECTION,
    httpx.ConnectTimeout: Fault("no_connection", "no connection could be made in time", Fate.UNSENT),
    httpx.PoolTimeout: Fault("no_connection", "no connection was free in time", Fate.UNSENT),
    httpx.ProxyError: Fault("proxy", "the proxy refused", Fate.UNSENT),  # to open the tunnel: nothing went through
    httpx.UnsupportedProtocol: UNUSABLE,
    httpx.InvalidURL: UNUSABLE,
    httpx.ReadTimeout: TOO_LATE,
    httpx.WriteTimeout: TOO_LATE,
    httpx.TimeoutException: TOO_LATE,
    httpx.ReadError: BROKEN,
    httpx.WriteError: BROKEN,
    httpx.CloseError: BROKEN,
    httpx.NetworkError: BROKEN,
    httpx.RemoteProtocolError: BROKEN,
    httpx.LocalProtocolError: UNEXPECTED,
    httpx.ProtocolError: BROKEN,
    httpx.DecodingError: BAD_BODY,
    httpx.TooManyRedirects: UNEXPECTED,
    httpx.HTTPStatusError: UNEXPECTED,
    httpx.CookieConflict: UNEXPECTED,
    httpx.StreamError: UNEXPECTED,
    httpx.TransportError: BROKEN,
    httpx.RequestError: BROKEN,
    httpx.HTTPError: UNEXPECTED,
    OSError: BROKEN,
    Exception: UNEXPECTED,
}


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A response without its vendor's types; its repr shows nothing, for the body may be a secret.

    Attributes:
        date, retry_after, content_type: Headers; empty where absent.
    """

    status: int
    body: bytes
    date: str = ""
    retry_after: str = ""
    content_type: str = ""


class Form(Enum):
    """Who wrote an error: the application, the edge in front of it, or some box on the way."""

    OWN = "the API's own JSON"
    TEXT = "the edge's plain text, or nothing"
    FOREIGN = "HTML, or JSON of another shape"


# Answers that certainly had no effect, whatever the call. Anything else leaves a rotate or a create in doubt.
_REFUSALS: Mapping[tuple[int, Form], tuple[type[Permanent], str]] = {
    (400, Form.OWN): (Permanent, "refused as malformed"),
    (401, Form.OWN): (CredentialRejected, "the credential is not valid, or no longer"),
    (401, Form.TEXT): (CredentialRejected, "the edge does not accept the credential"),
    (403, Form.OWN): (Forbidden, "the credential lacks the right"),
    (403, Form.TEXT): (CredentialRejected, "the edge does not accept the credential"),
    (404, Form.OWN): (NotFound, "not found"),
    (409, Form.OWN): (Permanent, "refused as a conflict"),
}
_RETRIABLE = frozenset({408, 425})


def fault_of(error: Exception, where: str = "") -> Fault:
    """Return what an exception of the HTTP client means.

    Args:
        error: What it raised.
        where: Whom it tried to reach; holds no user.
    """
    why = distrust(error) if isinstance(error, httpx.ConnectError) else None
    if why is not None:
        return replace(CERTIFICATE, words=f"{CERTIFICATE.words} ({why})")
    fault = next(EXCEPTIONS[kind] for kind in type(error).__mro__ if kind in EXCEPTIONS)
    if fault.fate is not Fate.UNSENT:
        return fault
    detail = ": ".join(part for part in (where, unreached(error)) if part)
    return replace(fault, words=f"{fault.words} ({detail})") if detail else fault


def verdict(operation: Operation, subject: str, fault: Fault) -> RotatorError:
    """Return the error for a call that got no answer that counts."""
    said = f"{_said(operation, subject)}: {fault.words}"
    if fault.fate is Fate.HOPELESS:
        return Permanent(said)
    if fault.fate is Fate.UNSENT or operation.is_repeatable:
        return Temporary(said)
    return OutcomeUnknown(said)


def failure_of(operation: Operation, subject: str, answer: Answer, now: datetime) -> RotatorError | None:
    """Return what an answer means for this call; None if it is a success.

    Args:
        operation: What was asked for.
        subject: The token id, safe to show; empty if there is none.
        answer: What came.
        now: UTC; for a Retry-After that is a date, when the answer has no Date of its own.
    """
    if answer.status in (200, 201, 204):
        return None
    said = _said(operation, subject)
    if answer.status == 429:
        return Throttled(f"{said}: too many requests (429)", retry_after(answer, now))
    error = decode_error(answer.body, answer.status)
    tail = f"({answer.status}){_request_id(error)}"
    refusal = _REFUSALS.get((answer.status, _form(answer, error)))
    if refusal is not None and (operation, answer.status) == (Operation.WRITE, 409):
        return Temporary(f"{said}: it conflicts with what is there now {tail}")
    if refusal is not None:
        kind, words = refusal
        return kind(f"{said}: {words} {tail}")
    if not operation.is_repeatable:
        return OutcomeUnknown(f"{said}: an answer that does not say whether it took effect {tail}")
    if 300 <= answer.status < 400:
        return Permanent(f"{said}: redirected {tail}; redirects are never followed, correct base_url")
    if error is not None and answer.status < 500 and answer.status not in _RETRIABLE:
        return Permanent(f"{said}: refused {tail}")
    return Temporary(f"{said}: failed {tail}", retry_after(answer, now))


def retry_after(answer: Answer, now: datetime) -> timedelta | None:
    """Return what Retry-After asks for, bounded; None where it says nothing that can be read.

    Source: RFC 9110, 10.2.3: seconds, or a date, which is relative to the answer's own Date here.
    """
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_PAUSE)
    until = http_date(text)
    if until is None:
        return None
    return min(max(until - (http_date(answer.date) or now), timedelta()), LONGEST_PAUSE)


def http_date(text: str) -> datetime | None:
    """Return a date in UTC, None if the text is none.

    Source: RFC 9110, 5.6.7.
    """
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def is_own(answer: Answer) -> bool:
    """Whether the API itself wrote this: a success, or an error in its own form."""
    return answer.status in (200, 201, 204) or decode_error(answer.body, answer.status) is not None


def _form(answer: Answer, error: WireError | None) -> Form:
    if error is not None:
        return Form.OWN
    start, kind = answer.body.lstrip()[:1], answer.content_type.lower()
    is_foreign = "html" in kind or "json" in kind or start in (b"<", b"{", b"[")
    return Form.FOREIGN if is_foreign else Form.TEXT


def _said(operation: Operation, subject: str) -> str:
    return f"{operation} {subject}" if subject else str(operation)


def _request_id(error: WireError | None) -> str:
    """The request id helps the vendor's support; it is theirs, so only its known form is repeated."""
    return f", request {error.request_id}" if error is not None and _UUID.fullmatch(error.request_id) else ""
