"""One HTTP call to the Astro API, and what its failure means.

The error table's key is (can the call be repeated?, failure). A read or an idempotent write that failed on the way is
`Temporary`; a rotate or create that may have left is `OutcomeUnknown`, and nothing here ever sends it again. One
`httpx.Client` per thread: a shared one collapses under many threads. Bodies, queries and headers never reach a message.
"""

import email.utils
import ipaddress
import logging
import random
import re
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from platform import python_version

import httpx

from rotator import __version__
from rotator.errors import (
    ConfigError,
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.events import Event, EventName
from rotator.ports import Clock, Emit
from rotator.providers.astro.limiter import Limiter
from rotator.providers.astro.wire import WireError, decode_error
from rotator.secret import Secret

ATTEMPTS = 4
LONGEST_PAUSE = timedelta(minutes=5)
LARGEST_BODY = 64 * 1024 * 1024
_CONNECT_S = 10.0
_KEEPALIVE_S = 4.0  # shorter than servers keep connections, so that a rotate rarely meets one that is just closing
_UUID = re.compile(r"[0-9a-fA-F-]{8,36}")

# The connection was never made, so nothing was sent. Everything else may have left.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # their INFO lines print whole URLs


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is and how to reach it.

    Attributes:
        base_url: https, or http on loopback; without query and user.
        timeout: For connecting, each read and each write.
        ca_bundle: A PEM file; empty for the system's.
        proxy: A proxy URL; empty for none.
    """

    base_url: str
    timeout: timedelta = timedelta(seconds=30)
    ca_bundle: str = ""
    proxy: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """One request.

    Attributes:
        operation: For messages and metrics: list, get, create, update, delete, rotate, roles.
        repeatable: Whether sending it twice does no harm.
        subject: What it is about, safe to show: a token id.
    """

    operation: str
    method: str
    path: str
    repeatable: bool
    subject: str = ""
    query: Mapping[str, str | int | list[str]] | None = None
    json: object = None


class AstroHttp:
    """Sends calls.

    Args:
        endpoint: Where to.
        clock: For pacing, pauses and skew.
        emit: Told of every request.
        dice: Spreads the pauses between attempts.

    Raises:
        ConfigError: The endpoint cannot be used.
    """

    def __init__(self, name: str, endpoint: Endpoint, clock: Clock, emit: Emit, dice: random.Random) -> None:
        _check_url(endpoint.base_url, name)
        self._name = name
        self._endpoint = endpoint
        self._clock = clock
        self._emit = emit
        self._dice = dice
        self._local = threading.local()
        self._clients: list[httpx.Client] = []
        self._tls: ssl.SSLContext | None = None
        self._guard = threading.Lock()
        self.skew: timedelta | None = None

    def send(self, call: Call, secret: Secret, limiter: Limiter) -> bytes:
        """Return the body of a 2xx answer, after bounded retries where they can do no harm.

        Raises:
            Temporary, Permanent: No effect; every retry is used up.
            OutcomeUnknown: A call that must not be repeated may have taken effect.
        """
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return self._once(call, secret, limiter)
            except Temporary as error:
                if isinstance(error, Throttled):
                    limiter.slow_down(error.retry_after or timedelta(seconds=1))
                if not call.repeatable or attempt == ATTEMPTS:
                    raise
                pause = min(error.retry_after or timedelta(), LONGEST_PAUSE)
                backoff = timedelta(seconds=0.2 * 2**attempt * (0.5 + self._dice.random() / 2))
                self._clock.sleep(max(pause, backoff))
        raise AssertionError("unreachable")

    def close(self) -> None:
        """Close every thread's connections."""
        for client in self._clients:
            client.close()

    def _once(self, call: Call, secret: Secret, limiter: Limiter) -> bytes:
        limiter.wait(call.method)
        started, sent_at = self._clock.monotonic(), self._clock.now()
        status, failure = "", None
        try:
            answer = self._exchange(call, secret)
            status = str(answer.status)
            self._measure_skew(answer.date, sent_at)
            failure = failure_of(call, answer)
        except httpx.HTTPError as error:
            status, failure = type(error).__name__, transport_failure(call, error)
        self._emit(
            Event(
                name=EventName.REQUEST_FINISHED,
                at=sent_at,
                provider=self._name,
                message=call.operation,
                error=status,
                duration_s=self._clock.monotonic() - started,
            )
        )
        if failure is not None:
            # raised here, and from None: the frames and the cause that knew the body are gone
            raise failure from None
        return answer.body

    def _exchange(self, call: Call, secret: Secret) -> "Answer":
        headers = {"Authorization": f"Bearer {secret.reveal()}"}
        with self._client().stream(
            call.method, call.path, params=call.query, json=call.json, headers=headers
        ) as response:
            return Answer(
                status=response.status_code,
                body=_bounded(response),
                date=response.headers.get("date", ""),
                retry_after=response.headers.get("retry-after", ""),
            )

    def _client(self) -> httpx.Client:
        client: httpx.Client | None = getattr(self._local, "client", None)
        if client is None:
            with self._guard:
                client = self._new_client()
                self._clients.append(client)
            self._local.client = client
        return client

    def _new_client(self) -> httpx.Client:
        if self._tls is None and self._endpoint.base_url.startswith("https"):
            self._tls = _tls(self._endpoint.ca_bundle)
        return httpx.Client(
            base_url=self._endpoint.base_url,
            timeout=httpx.Timeout(
                self._endpoint.timeout.total_seconds(),
                connect=min(_CONNECT_S, self._endpoint.timeout.total_seconds()),
            ),
            verify=self._tls if self._tls is not None else False,  # plain http is loopback only, see _check_url
            trust_env=False,
            proxy=self._endpoint.proxy or None,
            follow_redirects=False,
            limits=httpx.Limits(max_connections=2, keepalive_expiry=_KEEPALIVE_S),
            headers={
                "User-Agent": f"rotator/{__version__} python/{python_version()}",
                "Accept": "application/json",
            },
        )

    def _measure_skew(self, date: str, sent_at: datetime) -> None:
        theirs = http_date(date)
        if theirs is not None:
            middle = sent_at + (self._clock.now() - sent_at) / 2
            self.skew = theirs + timedelta(seconds=0.5) - middle  # Date is cut to whole seconds


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A response without its vendor's types; its repr shows nothing, the body may be a secret."""

    status: int
    body: bytes
    date: str = ""
    retry_after: str = ""


def transport_failure(call: Call, error: httpx.HTTPError) -> RotatorError:
    """Return what a failure below HTTP means for this call."""
    said = f"{_said(call)}: {_TRANSPORT.get(type(error), type(error).__name__)}"
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return Permanent(f"{_said(call)}: the server's certificate is not trusted; set ca_bundle")
    if isinstance(error, _NEVER_SENT) or call.repeatable:
        return Temporary(said)
    return OutcomeUnknown(said)


_TRANSPORT: Mapping[type[httpx.HTTPError], str] = {
    httpx.ConnectError: "no connection",
    httpx.ConnectTimeout: "no connection in time",
    httpx.ReadTimeout: "no answer in time",
    httpx.WriteTimeout: "could not be sent in time",
    httpx.ReadError: "the connection broke",
    httpx.WriteError: "the connection broke",
    httpx.RemoteProtocolError: "the connection was closed or the answer cut off",
    httpx.ProxyError: "the proxy refused",
}


def failure_of(call: Call, answer: Answer) -> RotatorError | None:
    """Return what an answer means for this call; None if it is a success."""
    if answer.status in (200, 201, 204):
        return None
    if answer.status == 429:
        return Throttled(f"{_said(call)}: too many requests (429)", retry_after(answer))
    error = decode_error(answer.body)
    known = _refusals(call, answer, error)
    if known is not None:
        return known
    said = f"{_said(call)}: status {answer.status}{_request_id(error)}"
    if not call.repeatable:
        return OutcomeUnknown(said)
    if answer.status >= 500 or answer.status in (404, 408):  # a 404 of the edge says nothing of the token
        return Temporary(said, retry_after(answer))
    return Permanent(said)


def _refusals(call: Call, answer: Answer, error: WireError | None) -> RotatorError | None:
    """The statuses that certainly had no effect: in the application's own form, or from the edge before it."""
    said, tail = _said(call), _request_id(error)
    if answer.status == 401:
        return CredentialRejected(f"{said}: the credential is dead or malformed (401){tail}")
    if answer.status == 403 and error is None:
        return CredentialRejected(f"{said}: the edge refused the credential (403)")
    if error is None:
        return None
    if answer.status == 403:
        return Forbidden(f"{said}: the credential lacks the right (403){tail}")
    if answer.status == 404:
        return NotFound(f"{said}: not found (404){tail}")
    if answer.status in (400, 409):
        return Permanent(f"{said}: refused ({answer.status}){tail}")
    return None


def retry_after(answer: Answer) -> timedelta | None:
    """Return what Retry-After asks for, as seconds or as a date; bounded."""
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=min(int(text), 86400)), LONGEST_PAUSE)
    until, now = http_date(text), http_date(answer.date)
    if until is None or now is None:
        return None
    return min(max(until - now, timedelta()), LONGEST_PAUSE)


def http_date(text: str) -> datetime | None:
    """Return an HTTP date (RFC 9110, 5.6.7), None if it is none."""
    try:
        moment = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _said(call: Call) -> str:
    return f"{call.operation} {call.subject}".strip()


def _request_id(error: WireError | None) -> str:
    """The request id helps the vendor's support; it is theirs, so only its known form is repeated."""
    return f", request {error.request_id}" if error is not None and _UUID.fullmatch(error.request_id) else ""


def _bounded(response: httpx.Response) -> bytes:
    body = bytearray()
    for chunk in response.iter_bytes():
        body += chunk
        if len(body) > LARGEST_BODY:
            raise httpx.RemoteProtocolError("too large", request=response.request)
    return bytes(body)


def _tls(ca_bundle: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle or None)
    except (OSError, ssl.SSLError):
        raise ConfigError.of("ca_bundle", f"{ca_bundle} cannot be read as PEM certificates") from None


def _check_url(base_url: str, name: str) -> None:
    url = httpx.URL(base_url)
    path = f"providers.{name}.base_url"
    if url.userinfo or url.query or url.fragment:
        raise ConfigError.of(path, "must not hold a user, a query or a fragment")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise ConfigError.of(path, "must be https (http is for loopback only)")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, also one that begins like an address: 127.0.0.1.example.com
        return False


ReadSecret = Callable[[], Secret]
