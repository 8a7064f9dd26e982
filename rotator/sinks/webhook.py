"""The `webhook` sink: secrets POSTed as signed JSON events to a receiver of the user's own.

Requests follow Standard Webhooks: `webhook-id` is the mint id and a digest of the key, hence the same however often a
delivery is repeated, and the signature covers id, time and body. The digest is there because a receiver that tells
repetitions by the id alone would drop the second of two keys of one mint.

Every preflight is a signed event without a secret that the receiver has to accept, so that a wrong address, key or
certificate is found before a secret depends on it: the grade is `attested`. It is not optional because a module has one
grade, and one that were `none` would say nothing of any webhook.

Nothing is kept between calls, so threads share a sink.

Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md, version 1.0.0.
"""

import base64
import binascii
import email.utils
import hashlib
import hmac
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from platform import python_version

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rotator import __version__
from rotator.credentials import Reference
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
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks import _hooks, _post
from rotator.sinks._hooks import Action, Target
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.sinks._post import Answer, Fate, Fault, Files, Line, Request, Trust
from rotator.templates import Template
from rotator.timing import parse_duration, stamp

PREFLIGHT_GRADE = Grade.ATTESTED

LONGEST_PAUSE = timedelta(minutes=5)
_PATH = Naming(
    clean=re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.~-]*"),
    dirty=re.compile(r"[^A-Za-z0-9_.~-]+"),
    literal=re.compile(r"[A-Za-z0-9_.~@!$&'()*+,;=:/%-]*"),
    rule="the path must be made of the characters of a URL's path besides placeholders",
    longest=2000,
)
_DOTS = re.compile(r"/\.{1,2}(/|$)")
_KEY_BYTES = (24, 64)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_OURS = re.compile(
    r"webhook-.*|host|content-.*|connection|transfer-encoding|te|trailer|upgrade|expect|user-agent|accept.*"
)
_ID = re.compile(r"[A-Za-z0-9_-]+")


class Options(BaseModel):
    """`[sinks.X]` with `type = "webhook"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(description="Of the receiver; https, or http on loopback. Its path may hold placeholders.")
    signing_key: list[_hooks.ReferenceText] = Field(
        min_length=1,
        max_length=2,
        description="Secret reference to whsec_ and 24 to 64 bytes in base64; two while the key is changed.",
    )
    headers: dict[str, _hooks.ReferenceText] = Field({}, description="Header to secret reference of its whole value.")
    timeout: _hooks.DurationText = Field("30s", description="For a whole call.")
    verify: bool = Field(default=False, description="Ask the receiver which mint it holds, by token.verify events.")
    ca_bundle: str = Field("", description="PEM file of whom to trust; the system's if empty.")
    client_certificate: str = Field("", description="PEM file of our certificate, for mTLS.")
    client_key: str = Field("", description="PEM file of its key, if that stands elsewhere.")
    proxy: str = Field("", description="URL of an HTTP proxy; as HTTPS_PROXY and NO_PROXY say if empty.")

    @field_validator("url")
    @classmethod
    def _reachable(cls, text: str) -> str:
        _, path = _post.split(text)
        if "{" in text[: len(text) - len(path)]:
            raise ValueError("may hold placeholders in its path only")
        if _DOTS.search(_PATH.parse(path).literal):
            raise ValueError("must not hold . or .. as a folder")
        return text

    @field_validator("signing_key", mode="before")
    @classmethod
    def _one_or_two(cls, value: object) -> object:
        return [value] if isinstance(value, str) else value

    @field_validator("headers")
    @classmethod
    def _free(cls, headers: dict[str, str]) -> dict[str, str]:
        for name in headers:
            if not _HEADER.fullmatch(name):
                raise ValueError("a name holds characters that no header has")
            if _OURS.fullmatch(name.lower()):
                raise ValueError(f"{name} is set by rotator; leave it out")
        return headers

    @field_validator("ca_bundle", "client_certificate", "client_key")
    @classmethod
    def _seen(cls, text: str) -> str:
        return _hooks.seen(text)

    @field_validator("proxy")
    @classmethod
    def _usable(cls, text: str) -> str:
        if text and _post.Proxy.parse(text).headers:
            raise ValueError("must not hold a user; set HTTPS_PROXY in the environment for a proxy with a password")
        return text

    @model_validator(mode="after")
    def _whole(self) -> "Options":
        if self.client_key and not self.client_certificate:
            raise ValueError("client_key needs client_certificate")
        return self


class DeliveryOptions(_hooks.KeyedOptions):
    """A deliver block whose sink is of type `webhook`."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What authenticates us; read at every call.

    Attributes:
        base: The folder that relative references count from.
    """

    signing: tuple[Reference, ...]
    headers: Mapping[str, Reference]
    base: Path

    def keys(self) -> list[bytes]:
        """Return the keys to sign with.

        Raises:
            ConfigError, Permanent: One cannot be read or used.
        """
        return [_key(reference, reference.read(self.base)) for reference in self.signing]

    def values(self) -> dict[str, str]:
        """Return the headers to send.

        Raises:
            ConfigError, Permanent: One cannot be read or used.
        """
        return {name: _value(name, reference.read(self.base)) for name, reference in self.headers.items()}


def build(name: str, options: Options, base: Path) -> "WebhookSink":
    """See `rotator.sinks`."""
    origin, path = _post.split(options.url)
    try:
        proxy = _post.proxy_of(options.proxy, origin)
    except ValueError:
        message = "HTTPS_PROXY must be a URL such as http://proxy.example.com:3128"
        raise ConfigError.of(f"sinks.{name}.proxy", message) from None
    pem = (options.ca_bundle, options.client_certificate, options.client_key)
    files = Files(*[str(base / os.path.expanduser(path)) if path else "" for path in pem])
    line = Line(origin, Trust(files), proxy, parse_duration(options.timeout).total_seconds())
    headers = {header: Reference.parse(text) for header, text in options.headers.items()}
    credentials = Credentials(tuple(Reference.parse(text) for text in options.signing_key), headers, base)
    return WebhookSink(name, line, _PATH.parse(path), credentials, verify=options.verify)


class WebhookSink:
    """See `ports.Sink`.

    Args:
        name: As configured.
        line: To the receiver.
        path: Template of the URL's path.
        credentials: What authenticates us.
        verify: Whether the receiver knows `token.verify`.
        now: Returns seconds since 1970, for signatures.
    """

    def __init__(
        self,
        name: str,
        line: Line,
        path: Template,
        credentials: Credentials,
        *,
        verify: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self._line = line
        self._path = path
        self._credentials = credentials
        self._verify = verify
        self._now = now

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. Host and port are not journalled: they come from the configuration at each call."""
        block = DeliveryOptions.model_validate(dict(options))
        target = _hooks.target(block.key, facts, _PATH.rendered(self._path, facts))
        return Place(self.name, f"{self._line.origin}{target.path}#{target.key}", target.builtins())

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`: the receiver says that it could store this key. It gets no secret."""
        self._asked(place, Action.PREFLIGHT)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. Sent again with the same id whatever the receiver holds: it tells repetitions by the id."""
        if not _ID.fullmatch(mint.id):
            raise Permanent(f"{place.location}: the mint's id cannot stand in a header")
        target = journalled(Target, place)
        answer = self._sent(target, delivery_id(target, mint), lambda: _hooks.delivery(target, mint))
        failure = delivery_failure(place.location, answer, self._moment(), mint.id)
        if failure is not None:
            raise failure
        return Receipt(place.location, mint.id)

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. Without `verify` a receipt is all there is."""
        if not self._verify:
            return Held(None)
        mint_id = _mint_id(self._asked(place, Action.VERIFY).body)
        if mint_id is None:
            raise Permanent(
                f"{place.location}: token.verify was not answered with a JSON object with mint_id; set verify = false"
                " if the receiver does not know it"
            )
        if not mint_id:
            raise NotFound(f"{place.location}: the receiver holds nothing for this key")
        return Held(None, mint_id, mint_id)

    def close(self) -> None:
        """See `ports.Sink`; nothing stays open between calls."""

    def _asked(self, place: Place, action: Action) -> Answer:
        """Send an event without a secret; raises Temporary or Permanent unless the receiver accepts it."""
        target, moment = journalled(Target, place), self._moment()
        body = _hooks.question(action, target, stamp(moment))
        answer = self._sent(target, f"{action}_{uuid.uuid4().hex}", lambda: body)
        failure = question_failure(place.location, answer, moment)
        if failure is not None or isinstance(answer, Fault):
            raise failure or Temporary(place.location)
        return answer

    def _sent(self, target: Target, event_id: str, body: Callable[[], bytes]) -> Answer | Fault:
        """Send an event; the body is made here, so that only frames which raise nothing hold it."""
        try:
            keys, values = self._credentials.keys(), self._credentials.values()
            connection = self._line.connection()
        except (ConfigError, Permanent) as error:
            return Fault(error.message, Fate.HOPELESS)
        else:
            request = _signed(target.path, (event_id, int(self._now())), (keys, values), body())
            return _post.post(connection, self._line.timeout_s, request)

    def _moment(self) -> datetime:
        return datetime.fromtimestamp(self._now(), UTC)


def _signed(path: str, event: tuple[str, int], credentials: tuple[list[bytes], dict[str, str]], body: bytes) -> Request:
    (event_id, sent_at), (keys, values) = event, credentials
    headers = {
        **values,
        "User-Agent": f"rotator/{__version__} python/{python_version()}",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Connection": "close",
        "webhook-id": event_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": " ".join(signature(key, event_id, sent_at, body) for key in keys),
    }
    return Request(path, headers, body)


def delivery_id(target: Target, mint: Mint) -> str:
    """Return what stands for a delivery at its receiver, however often it is sent."""
    spot = hashlib.sha256(f"{target.path}#{target.key}".encode()).hexdigest()
    return f"{mint.id}_{spot[:12]}"


def signature(key: bytes, event_id: str, sent_at: int, body: bytes) -> str:
    """Return one entry of `webhook-signature`.

    Source: Standard Webhooks 1.0.0, "Signature scheme": `id.timestamp.body`, HMAC-SHA256, base64, after `v1,`.
    """
    digest = hmac.new(key, b".".join((event_id.encode(), str(sent_at).encode(), body)), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"


def _key(reference: Reference, value: Secret) -> bytes:
    """Return the bytes of a signing key; the libraries of the standard read it with and without its prefix."""
    try:
        key = base64.b64decode(value.reveal().removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if _KEY_BYTES[0] <= len(key) <= _KEY_BYTES[1]:
        return key
    del key
    raise Permanent(
        f"the signing key {reference} must be whsec_ and the base64 of 24 to 64 random bytes;"
        ' make one with: echo "whsec_$(openssl rand -base64 32)"'
    )


def _value(name: str, secret: Secret) -> str:
    if secret.reveal().isascii() and secret.reveal().isprintable():
        return secret.reveal()
    raise Permanent(f"the value of the header {name} holds characters that no header has")


# What an answer means, by status, to whoever asked and to whoever delivered. What is not listed follows from its
# hundred: see `_failure`. Source: RFC 9110, section 15; Standard Webhooks 1.0.0 on 410 and 429.
REFUSALS: Mapping[int, tuple[type[RotatorError], str]] = {
    401: (CredentialRejected, "the receiver does not accept our signature or credential; check signing_key, headers"),
    403: (Forbidden, "the receiver does not allow it; grant rotator this key"),
    404: (Permanent, "nothing is there; check url"),
    405: (Permanent, "nothing there takes a POST; check url"),
    407: (Permanent, "the proxy wants a login; set it in HTTPS_PROXY"),
    408: (Temporary, "the receiver gave up waiting"),
    410: (Permanent, "the receiver says that it is gone for good; correct url, or remove the sink"),
    413: (Permanent, "the receiver takes no request of this size"),
    421: (Temporary, "the request reached the wrong server"),
    425: (Temporary, "the receiver is not ready yet"),
    501: (Permanent, "nothing there takes a POST; check url"),
}
_BEFORE_A_PAGE = b"\xef\xbb\xbf \t\r\n"
HELD_ALREADY = 409  # only an answer to a delivery: the receiver already has this id


def delivery_failure(location: str, answer: Answer | Fault, now: datetime, mint_id: str) -> RotatorError | None:
    """Return what came of a delivery; None if the receiver has the secret now.

    A conflict counts only if it names the mint: anything on the way may answer 409 for reasons of its own.
    """
    if isinstance(answer, Answer) and answer.status == HELD_ALREADY:
        if _mint_id(answer.body) == mint_id:
            return None
        return OutcomeUnknown(f"{location}: a conflict (409) that does not name this mint; sending it again is safe")
    return _failure(location, answer, now, OutcomeUnknown)


def question_failure(location: str, answer: Answer | Fault, now: datetime) -> RotatorError | None:
    """Return what came of an event that changes nothing; None if it was accepted."""
    return _failure(location, answer, now, Temporary)


def _failure(location: str, answer: Answer | Fault, now: datetime, unclear: type[RotatorError]) -> RotatorError | None:
    again = "; sending it again is safe" if unclear is OutcomeUnknown else ""
    if isinstance(answer, Fault):
        if answer.fate is Fate.MAYBE_SENT:
            return unclear(f"{location}: {answer.words}{again}")
        failed: type[RotatorError] = Temporary if answer.fate is Fate.UNSENT else Permanent
        return failed(f"{location}: {answer.words}")
    status = answer.status
    if 200 <= status < 300:
        is_page = "html" in answer.content_type.lower()
        if not is_page and answer.body.lstrip(_BEFORE_A_PAGE)[:1] != b"<":
            return None
        # a login page, a portal, the catch-all of a web application: nobody there stored anything
        return Permanent(f"{location}: a web page answered ({status}), not a receiver; check url and proxy")
    if status == 429:
        return Throttled(f"{location}: too many requests (429)", retry_after(answer, now))
    if status in REFUSALS:
        kind, words = REFUSALS[status]
        return kind(f"{location}: {words} ({status})")
    if 300 <= status < 400:
        return Permanent(f"{location}: redirected ({status}); redirects are never followed, correct url")
    if 400 <= status < 500:
        return Permanent(f"{location}: the receiver refused it ({status}); its log says why")
    if status == 503 and answer.retry_after:
        return Temporary(f"{location}: the receiver is down for a while (503)", retry_after(answer, now))
    return unclear(f"{location}: the receiver failed ({status}){again}")


def retry_after(answer: Answer, now: datetime) -> timedelta | None:
    """Return what Retry-After asks for, bounded; None where it says nothing that can be read.

    Source: RFC 9110, 10.2.3: seconds, or a date.
    """
    text = answer.retry_after.strip()
    if text.isascii() and text.isdigit():
        return min(timedelta(seconds=int(text[:9])), LONGEST_PAUSE)
    until = _http_date(text)
    if until is None:
        return None
    return min(max(until - (_http_date(answer.date) or now), timedelta()), LONGEST_PAUSE)


def _http_date(text: str) -> datetime | None:
    try:
        moment = email.utils.parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


class _Verified(msgspec.Struct):
    mint_id: str | None


def _mint_id(body: bytes) -> str | None:
    """Return the mint that a receiver says it holds, empty for none; None if it says nothing of the kind."""
    try:
        said = msgspec.json.decode(body, type=_Verified).mint_id or ""
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return said if not said or _ID.fullmatch(said) else None
