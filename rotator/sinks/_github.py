"""One call to GitHub's REST API, for the `github_actions_secret` sink: sent once, bounded, judged by two tables.

Bodies, queries and headers never reach a message, and no exception of httpx leaves this module.

Sources: docs.github.com/en/rest/using-the-rest-api/troubleshooting-the-rest-api (404 in place of 403),
.../rate-limits-for-the-rest-api and .../best-practices-for-using-the-rest-api (403 or 429 with `retry-after`, with
`x-ratelimit-remaining: 0` and `x-ratelimit-reset`, or with neither: then wait at least a minute; few calls at a time).
"""

import email.utils
import logging
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from platform import python_version
from typing import TypeVar

import httpx
import msgspec

from rotator import __version__
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.secret import Secret
from rotator.sinks._web import (
    BAD_BODY,
    BROKEN,
    LATE,
    UNCONNECTED,
    UNUSABLE,
    Fault,
    Pool,
    judged,
    looked_up,
    seconds,
    untrusted,
)

Row = TypeVar("Row")
_CALLS = 4  # at a time: GitHub asks for few, and slows down who makes many
_LARGEST = 1024 * 1024
_WHOLE = 4  # times the timeout: how long an answer may take as a whole
_UNTOLD_PAUSE = timedelta(minutes=1)
_LONGEST_PAUSE = timedelta(hours=1)
_HEADERS = {
    "User-Agent": f"rotator/{__version__} python/{python_version()}",
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
}

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # their INFO lines print whole URLs


FAULTS: Mapping[type[BaseException], Fault] = {
    httpx.ConnectError: UNCONNECTED,
    httpx.ConnectTimeout: UNCONNECTED,
    httpx.PoolTimeout: UNCONNECTED,
    httpx.ProxyError: Fault("the proxy refused", Temporary),
    httpx.UnsupportedProtocol: UNUSABLE,
    httpx.InvalidURL: UNUSABLE,
    httpx.TimeoutException: LATE,
    httpx.DecodingError: BAD_BODY,
    httpx.TransportError: BROKEN,
    httpx.HTTPError: BROKEN,
    httpx.StreamError: BROKEN,
    httpx.CookieConflict: BROKEN,
    OSError: BROKEN,
}
_CLIENT_ERRORS = tuple(FAULTS)

_UNSEEN = (
    "there is no such repository, environment or organization, or the credential may not see it: GitHub says the same"
    " of both; correct the names, or give the credential its right to Secrets (write)"
)
_MOVED = (Permanent, "it was renamed or moved, and redirects are never followed; correct its name")
STATUSES: Mapping[int, tuple[type[RotatorError], str]] = {
    301: _MOVED,
    302: _MOVED,
    307: _MOVED,
    308: _MOVED,
    400: (Permanent, "refused as malformed"),
    401: (CredentialRejected, "the credential is not valid, or no longer; put a live token where credential points"),
    403: (Forbidden, "the credential may not do this; give it the right to Secrets (write)"),
    404: (Permanent, _UNSEEN),
    408: (Temporary, "no answer in time"),
    409: (Temporary, "refused as a conflict"),
    410: (Permanent, "this API is gone; check api_url"),
    413: (Permanent, "the value is too large"),
    422: (Permanent, "the name or the value was refused"),
    451: (Permanent, "the repository is blocked"),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def is_success(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def is_absent(self) -> bool:
        """Whether GitHub itself, and no box on the way, says 404."""
        return self.status == 404 and bool(_message(self.body))


class GitHub:
    """Sends calls; many threads may share it.

    Args:
        api_url: Without a slash at its end.
        ca_file: PEM.
        timeout: For connecting, sending and each wait for more.
        credential: Returns the token as it is now; asked at every call.
    """

    def __init__(self, api_url: str, ca_file: str, timeout: timedelta, credential: Callable[[], Secret]) -> None:
        self._api_url = api_url
        self._timeout_s = timeout.total_seconds()
        self._credential = credential
        context = ssl.create_default_context(cafile=ca_file)

        def make() -> httpx.Client:
            return httpx.Client(verify=context, timeout=self._timeout_s, follow_redirects=False)

        self._clients: Pool[httpx.Client] = Pool(make, httpx.Client.close, _CALLS)
        self.store = f"github {api_url.lower()}"

    def read(self, path: str, subject: str) -> Answer:
        """Return a success, or a 404 that is GitHub's own; everything else raises.

        Args:
            path: Encoded, with a query where there is one.
            subject: The location, for messages.
        """
        answer = self._answer("GET", path, None)
        if isinstance(answer, Answer) and (answer.is_success or answer.is_absent):
            return answer
        raise failure(subject, answer, is_write=False)

    def write(self, path: str, body: Mapping[str, object], subject: str) -> Answer:
        """Put once and return a success or a 422; everything else raises.

        Args:
            path: Encoded.
            body: Holds the value in sealed form only.
            subject: The location, for messages.
        """
        answer = self._answer("PUT", path, body)
        if isinstance(answer, Answer) and answer.status in (201, 204, 422):
            return answer
        raise failure(subject, answer, is_write=True)

    def close(self) -> None:
        """Close every connection."""
        self._clients.close()

    def _answer(self, method: str, path: str, body: Mapping[str, object] | None) -> Answer | Fault:
        credential = self._credential()
        if not _fits_a_header(credential):
            return Fault("the credential is empty or holds characters that no token has", CredentialRejected)
        return self._exchange(method, path, body, credential)

    def _exchange(
        self, method: str, path: str, body: Mapping[str, object] | None, credential: Secret
    ) -> Answer | Fault:
        """Return what came; raises nothing, for the frames below hold the credential."""
        headers = {**_HEADERS, "Authorization": f"Bearer {credential.reveal()}"}
        deadline_s = time.monotonic() + _WHOLE * self._timeout_s
        try:
            with (
                self._clients.one() as client,
                client.stream(method, self._api_url + path, json=body, headers=headers) as response,
            ):
                content = bytearray()
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > _LARGEST:
                        return BAD_BODY
                    if time.monotonic() > deadline_s:
                        return LATE
                return Answer(response.status_code, response.headers, bytes(content))
        except _CLIENT_ERRORS as error:
            return fault_of(error)


def fault_of(error: BaseException) -> Fault:
    """Return what an exception of the HTTP client means."""
    refused = untrusted(error) if isinstance(error, httpx.ConnectError) else None
    return refused or looked_up(FAULTS, error)


def failure(subject: str, answer: Answer | Fault, is_write: bool) -> RotatorError:
    """Return the error for a call that did not succeed.

    Args:
        subject: The location.
        answer: What came.
        is_write: Whether it may have changed something; a put may be repeated, but whether it took effect is unknown.
    """
    if isinstance(answer, Fault):
        return judged(subject, answer, is_write)
    said = f"({answer.status})"
    if answer.status in (403, 429) and (pause := pause_of(answer)) is not None:
        return Throttled(f"{subject}: too many requests to GitHub {said}", pause)
    if answer.status == 403 and answer.headers.get("x-github-sso"):
        return Forbidden(f"{subject}: the organization wants the token to be authorized for single sign-on {said}")
    if answer.status >= 500:
        doubt = OutcomeUnknown if is_write else Temporary
        return doubt(f"{subject}: GitHub failed {said}")
    kind, words = STATUSES.get(
        answer.status, (Permanent, "an answer that no call to GitHub's API gives; check api_url")
    )
    return kind(f"{subject}: {words} {said}")


def pause_of(answer: Answer) -> timedelta | None:
    """Return how long GitHub wants a 403 or 429 to be waited for; None if it is no matter of rates."""
    asked = seconds(answer.headers.get("retry-after", ""), _LONGEST_PAUSE)
    if asked is not None:
        return asked
    if answer.headers.get("x-ratelimit-remaining", "").strip() == "0":
        reset = answer.headers.get("x-ratelimit-reset", "").strip()
        is_told = reset.isascii() and reset.isdigit()
        left = timedelta(seconds=int(reset[:12]) - _now_s(answer)) if is_told else _UNTOLD_PAUSE
        return min(max(left, timedelta(seconds=1)), _LONGEST_PAUSE)
    if answer.status == 429 or "rate limit" in _message(answer.body):
        return _UNTOLD_PAUSE
    return None


def decoded(answer: Answer, form: type[Row], subject: str) -> Row:
    """Return the body of a success; raises Temporary if it has another form."""
    try:
        return msgspec.json.decode(answer.body, type=form)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        pass
    raise failure(subject, BAD_BODY, is_write=False)


class _Said(msgspec.Struct):
    message: str = ""


def _message(body: bytes) -> str:
    """Return what GitHub's own form of an error says, folded: to be looked at, never to be shown."""
    try:
        return msgspec.json.decode(body, type=_Said).message.casefold()
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError):
        return ""


def _now_s(answer: Answer) -> float:
    """Return the time of GitHub's own clock, ours if it does not say."""
    try:
        return email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return time.time()


def _fits_a_header(credential: Secret) -> bool:
    value = credential.reveal()
    return value.isascii() and value.isprintable() and bool(value) and " " not in value
