"""One HTTP call to the Astro API: sent, bounded, paced, repeated where that can do no harm, and judged.

`provider`, and the sink that writes to Astro, call `AstroHttp.send`; `failures` says what went wrong. A rotate or a
create is sent once, whatever happens: nothing here, and nothing below it, sends it again. A transport serves one call
at a time, for a shared one collapses under many threads. Bodies, queries and headers never reach a message, and no
exception of httpx leaves this module: their frames hold them.

httpx has no deadline for a whole call. `timeout` bounds each of connecting (10 s at most), sending, and waiting for
more; the answer as a whole has to be there after `WHOLE` times `timeout`. Resolving a name is bounded by the resolver.
"""

import ipaddress
import logging
import random
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from platform import python_version
from typing import Generic, TypeVar

import certifi
import httpx

from rotator import __version__
from rotator.errors import ConfigError, CredentialRejected, NotFound, RotatorError, Temporary, Throttled
from rotator.events import Event, EventName
from rotator.ports import Clock, Emit
from rotator.providers.astro.failures import (
    BAD_BODY,
    TOO_LARGE,
    TOO_LATE,
    Answer,
    Fault,
    Operation,
    failure_of,
    fault_of,
    http_date,
    is_own,
    verdict,
)
from rotator.providers.astro.limiter import PATIENCE, Limiter, Limiters
from rotator.secret import Secret

ATTEMPTS = 4
WHOLE = 4
_CONNECT_S = 10.0
_KEEPALIVE_S = 4.0  # shorter than servers keep connections, so that a rotate rarely meets one that is just closing
_LARGEST_LIST = 64 * 1024 * 1024
_LARGEST_OTHER = 1024 * 1024
_BACKOFF_S = 0.25
_UNTOLD_PAUSE = timedelta(seconds=1)  # for a 429 that does not say how long
# What may come out of httpx and the layers below it; anything else is a mistake of ours.
_CLIENT_ERRORS = (httpx.HTTPError, httpx.InvalidURL, httpx.CookieConflict, OSError, ValueError, RuntimeError)
_HEADERS = {
    "User-Agent": f"rotator/{__version__} python/{python_version()}",
    "Accept": "application/json",
    "Accept-Encoding": "gzip",
}

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # their INFO lines print whole URLs

Result = TypeVar("Result")
ReadSecret = Callable[[], Secret]
TransportFactory = Callable[[], httpx.BaseTransport]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is and how to reach it.

    Attributes:
        base_url: https, or http on loopback; without query and user.
        timeout: For connecting, sending and each wait for more; see the module.
        ca_bundle: A PEM file; empty for the system's.
        proxy: A proxy URL; empty for none. The environment is never asked.
        calls: How many may be under way at a time.
        section: What the table is called in config errors, before its name: sinks speak to the same API.
    """

    base_url: str
    timeout: timedelta = timedelta(seconds=30)
    ca_bundle: str = ""
    proxy: str = ""
    calls: int = 16
    section: str = "providers"


@dataclass(frozen=True, slots=True)
class Call(Generic[Result]):
    """One request and how to read its answer.

    Attributes:
        decode: Returns None for a body of the wrong form; never raises, for its frame holds the body.
        subject: What it is about, safe to show: a token id.
        json: The body; never shown, for sinks send secrets in it.
        headers: Besides those of every call.
        abandoned: Once set, the call is not tried again.
    """

    operation: Operation
    method: str
    path: str
    decode: Callable[[bytes], Result | None]
    subject: str = ""
    query: Mapping[str, str] | None = None
    json: Mapping[str, object] | None = field(default=None, repr=False)
    headers: Mapping[str, str] | None = None
    abandoned: threading.Event | None = None


class AstroHttp:
    """Sends calls; safe to use from many threads.

    Args:
        name: The provider's, for events and config errors.
        endpoint: Where to.
        clock: For pacing, pauses, deadlines and skew.
        emit: Told of every request, from the thread that made it; must not raise.
        dice: Spreads the pauses between attempts.
        transport: Makes what a client sends through, in place of the network; for tests.

    Raises:
        ConfigError: The endpoint cannot be used.
    """

    def __init__(
        self,
        name: str,
        endpoint: Endpoint,
        clock: Clock,
        emit: Emit,
        dice: random.Random,
        transport: TransportFactory | None = None,
    ) -> None:
        _check_url(endpoint.base_url, f"{endpoint.section}.{name}.base_url")
        make = transport or _network(name, endpoint)
        self._name = name
        self._timeout_s = endpoint.timeout.total_seconds()
        self._clock = clock
        self._emit = emit
        self._dice = dice
        self._base_url = endpoint.base_url.rstrip("/")
        self._where = f"{self._base_url} through the proxy" if endpoint.proxy else self._base_url
        self._timeouts = httpx.Timeout(self._timeout_s, connect=min(_CONNECT_S, self._timeout_s)).as_dict()
        self._transports = _Transports(make, endpoint.calls)
        self._skew: timedelta | None = None

    @property
    def skew(self) -> timedelta | None:
        """How far the API's clock is ahead of ours, by its latest answer."""
        return self._skew

    def send(self, call: Call[Result], credential: ReadSecret, limiters: Limiters) -> Result:
        """Return the decoded answer, after bounded retries where they can do no harm.

        A credential that was refused is read anew once, and if it changed a repeatable call goes on with it.

        Raises:
            Temporary, Permanent: Certainly no effect, or repeating is safe; every retry is used up.
            OutcomeUnknown: A call that must not be repeated may have taken effect.
        """
        secret, fresh, in_doubt, attempt = credential(), False, False, 0
        while True:
            attempt += 1
            limiter = limiters.of(secret)
            outcome = self._once(call, secret, limiter)
            if not isinstance(outcome, RotatorError):
                return outcome
            if in_doubt and _is_done(call, outcome):
                return call.decode(b"")  # type: ignore[return-value]  # an earlier attempt of this delete did it
            if isinstance(outcome, Throttled):
                limiter.slow_down(outcome.retry_after or _UNTOLD_PAUSE)
            if isinstance(outcome, CredentialRejected) and call.operation.is_repeatable and not fresh:
                anew, fresh = credential(), True
                if anew != secret:
                    secret = anew
                    continue
            if attempt >= ATTEMPTS or not _may_repeat(call, outcome):
                raise outcome
            in_doubt = in_doubt or not isinstance(outcome, Throttled)
            self._pause(attempt, outcome)

    def close(self) -> None:
        """Close every connection; calls under way end by themselves."""
        self._transports.close()

    def _pause(self, attempt: int, outcome: RotatorError) -> None:
        backoff = timedelta(seconds=_BACKOFF_S * 2**attempt * (0.5 + self._dice.random() / 2))
        asked = outcome.retry_after if isinstance(outcome, Temporary) else None
        # after a 429 the limiter makes everybody wait, this caller too
        self._clock.sleep(backoff if isinstance(outcome, Throttled) else max(backoff, asked or timedelta()))

    def _once(self, call: Call[Result], secret: Secret, limiter: Limiter) -> Result | RotatorError:
        """Return the result, or the error as a value: raised further up, it carries none of the frames below."""
        if not _fits_a_header(secret):
            return CredentialRejected(f"{call.operation}: the credential is empty or holds characters no token has")
        asked_s = self._clock.monotonic()
        limiter.wait(call.method)
        started_s, started_at = self._clock.monotonic(), self._clock.now()
        answer = self._exchange(call, secret)
        outcome = _judged(call, answer, started_at)
        self._emit(
            Event(
                name=EventName.REQUEST_FINISHED,
                at=started_at,
                provider=self._name,
                token_id=call.subject,
                message=call.operation,
                error=_status(answer, outcome),
                duration_s=self._clock.monotonic() - started_s,
                waited_s=started_s - asked_s,
                skew_s=self._skew.total_seconds() if self._skew is not None else None,
            )
        )
        return outcome

    def _request(self, call: Call[Result], secret: Secret) -> httpx.Request:
        """Return a request without an `httpx.Client`: no cookie can leak, no redirect is followed, and it is faster."""
        return httpx.Request(
            call.method,
            self._base_url + call.path,
            params=call.query,
            json=call.json,
            headers={**_HEADERS, **(call.headers or {}), "Authorization": f"Bearer {secret.reveal()}"},
            extensions={"timeout": self._timeouts},
        )

    def _exchange(self, call: Call[Result], secret: Secret) -> Answer | Fault:
        try:
            request = self._request(call, secret)
            with self._transports.one() as transport:
                sent_at = self._clock.now()  # a wait for a connection is no part of the way to the API
                with closing(transport.handle_request(request)) as response:
                    return self._answer(call.operation, response, sent_at)
        except _CLIENT_ERRORS as error:
            return fault_of(error, self._where)

    def _answer(self, operation: Operation, response: httpx.Response, sent_at: datetime) -> Answer | Fault:
        arrived_at = self._clock.now()
        body = self._body(response, operation)
        if isinstance(body, Fault):
            return body
        headers = response.headers
        answer = Answer(
            response.status_code,
            body,
            headers.get("date", ""),
            headers.get("retry-after", ""),
            headers.get("content-type", ""),
        )
        self._measure_skew(answer, sent_at, arrived_at)
        return answer

    def _body(self, response: httpx.Response, operation: Operation) -> bytes | Fault:
        largest = _LARGEST_LIST if operation is Operation.LIST else _LARGEST_OTHER
        deadline_s = self._clock.monotonic() + WHOLE * self._timeout_s
        body = bytearray()
        for chunk in response.iter_bytes():
            body += chunk
            if len(body) > largest:
                return TOO_LARGE
            if self._clock.monotonic() > deadline_s:
                return TOO_LATE
        return bytes(body)

    def _measure_skew(self, answer: Answer, sent_at: datetime, arrived_at: datetime) -> None:
        theirs = http_date(answer.date)
        if theirs is not None and is_own(answer):
            # Date is cut to whole seconds; it was written about half of the round trip ago
            self._skew = theirs + timedelta(seconds=0.5) - (sent_at + (arrived_at - sent_at) / 2)


class _Transports:
    """Idle connections: each call takes one for itself, and leaves it for the next.

    There are never more than `most`; who comes when all are lent waits. Threads may come and go.
    """

    def __init__(self, make: Callable[[], httpx.BaseTransport], most: int) -> None:
        self._make = make
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[httpx.BaseTransport] = []
        self._is_closed = False

    @contextmanager
    def one(self) -> Iterator[httpx.BaseTransport]:
        """Lend one to one call."""
        with self._free:
            with self._lock:
                transport = self._idle.pop() if self._idle else None
            transport = transport or self._make()
            try:
                yield transport
            finally:
                with self._lock:
                    keep = not self._is_closed
                    if keep:
                        self._idle.append(transport)
                if not keep:
                    transport.close()

    def close(self) -> None:
        """Close the idle ones now and the others when they come back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for transport in idle:
            transport.close()


def _judged(call: Call[Result], answer: Answer | Fault, now: datetime) -> Result | RotatorError:
    if isinstance(answer, Fault):
        return verdict(call.operation, call.subject, answer)
    failure = failure_of(call.operation, call.subject, answer, now)
    if failure is not None:
        return failure
    decoded = call.decode(answer.body)
    return verdict(call.operation, call.subject, BAD_BODY) if decoded is None else decoded


def _status(answer: Answer | Fault, outcome: object) -> str:
    if isinstance(answer, Fault):
        return answer.kind
    return BAD_BODY.kind if answer.status < 300 and isinstance(outcome, RotatorError) else str(answer.status)


def _may_repeat(call: Call[Result], outcome: RotatorError) -> bool:
    if not call.operation.is_repeatable or not isinstance(outcome, Temporary):
        return False
    is_patient = outcome.retry_after is None or outcome.retry_after <= PATIENCE
    return is_patient and (call.abandoned is None or not call.abandoned.is_set())


def _is_done(call: Call[Result], outcome: RotatorError) -> bool:
    return call.operation is Operation.DELETE and isinstance(outcome, NotFound)


def _fits_a_header(secret: Secret) -> bool:
    value = secret.reveal()
    return value.isascii() and value.isprintable() and bool(value) and " " not in value


def _network(name: str, endpoint: Endpoint) -> TransportFactory:
    """Return what makes connections; all share one TLS context."""
    speaks_tls = endpoint.base_url.startswith("https:") or endpoint.proxy.startswith("https:")
    # a context without certificates trusts nobody
    tls = (
        _tls(endpoint.ca_bundle, f"{endpoint.section}.{name}.ca_bundle")
        if speaks_tls
        else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    )
    proxy = _proxy(endpoint.proxy, tls, f"{endpoint.section}.{name}.proxy")
    limits = httpx.Limits(max_connections=2, max_keepalive_connections=1, keepalive_expiry=_KEEPALIVE_S)

    def make() -> httpx.BaseTransport:
        return httpx.HTTPTransport(verify=tls, trust_env=False, http2=False, limits=limits, proxy=proxy, retries=0)

    try:
        make().close()
    except ImportError:
        raise ConfigError.of(
            f"{endpoint.section}.{name}.proxy", "SOCKS needs the package socksio; or use http://"
        ) from None
    return make


def _tls(ca_bundle: str, path: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_bundle or _roots())
    except (OSError, ssl.SSLError):
        message = f"{ca_bundle or 'the system store'} cannot be read as PEM certificates"
        raise ConfigError.of(path, message) from None


def _roots() -> str | None:
    """Return None where the system has certificates of its own; small images have none."""
    found = ssl.get_default_verify_paths()
    return None if found.cafile or found.capath else certifi.where()


def _proxy(url: str, tls: ssl.SSLContext, path: str) -> httpx.Proxy | None:
    if not url:
        return None
    try:
        return httpx.Proxy(url, ssl_context=tls if url.startswith("https:") else None)
    except (ValueError, httpx.InvalidURL):
        pass  # the message would repeat the URL, which may hold a password
    raise ConfigError.of(path, "must be a URL such as http://proxy.example.com:3128")


def _check_url(base_url: str, path: str) -> None:
    try:
        url = httpx.URL(base_url)
    except httpx.InvalidURL:
        url = httpx.URL("")
    if not url.host:
        raise ConfigError.of(path, "must be a URL such as https://api.astronomer.io")
    if url.userinfo or url.query or url.fragment:
        raise ConfigError.of(path, "must not hold a user, a query or a fragment")
    if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.host)):
        raise ConfigError.of(path, "must be https (http is for loopback only)")
    if url.path.rstrip("/").endswith(("/v1", "/v1beta1", "/v1alpha1")):
        raise ConfigError.of(path, "must not name a version; api_version chooses it")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, also one that begins like an address: 127.0.0.1.example.com
        return False
