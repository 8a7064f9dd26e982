"""The calls to Google Secret Manager that the `gcp_secret_manager` sink makes, and what their failures mean.

The official client is loaded when it is first needed. It speaks REST, follows no redirect, and repeats nothing but what
was answered 401: an add that was repeated blindly would make two versions.

Sources: cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets, .../docs/etags (a patch whose etag is
old fails with 400 FAILED_PRECONDITION), .../docs/data-integrity (CRC32C), google.api_core.exceptions.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from rotator.causes import causes
from rotator.errors import (
    ConfigError,
    CredentialRejected,
    Forbidden,
    NotFound,
    Permanent,
    Temporary,
    Throttled,
)
from rotator.sinks._payload import Content
from rotator.sinks._web import (
    BAD_BODY,
    BROKEN,
    LATE,
    UNCONNECTED,
    UNUSABLE,
    Fault,
    Pool,
    looked_up,
    seconds,
    sound,
    untrusted,
)

Found = TypeVar("Found")

_CALLS = 8
_LONGEST_PAUSE = timedelta(minutes=5)
_SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)

_FAILED = Fault("Google failed")
_REFUSED = Fault("refused as malformed; check the project and the names", Permanent)
_CREDENTIAL = Fault(
    "no access token could be had; check the credentials and the right to impersonate", CredentialRejected
)
STALE = Fault("it was changed by somebody else meanwhile", Temporary)
UNSTABLE = Fault("its state does not allow this: a version may be disabled or destroyed", Permanent)
DAMAGED = Fault("what arrived does not have the checksum that Google keeps of it", Temporary)

# By the name of the class, for the classes cannot be had before the SDK is loaded.
API_FAULTS: Mapping[str, Fault] = {
    "GoogleAPIError": _FAILED,
    "DuplicateCredentialArgs": UNUSABLE,
    "RetryError": LATE,
    "GoogleAPICallError": _FAILED,
    "Redirection": Fault("redirected, which is never followed; check endpoint", Permanent),
    "ClientError": Fault("refused", Permanent),
    "BadRequest": _REFUSED,
    "FailedPrecondition": UNSTABLE,
    "Unauthorized": Fault("the credential is not valid, or no longer", CredentialRejected),
    "Forbidden": Fault("the credential may not do this, or the API is not enabled; see the permissions", Forbidden),
    "NotFound": Fault("there is no such secret or project", NotFound),
    "Conflict": Fault("somebody else is changing it", Temporary),
    "Cancelled": _FAILED,
    "TooManyRequests": Fault("too many requests", Throttled),
    "ServerError": _FAILED,
    "MethodNotImplemented": Fault("this API is not there; check endpoint", Permanent),
    "GatewayTimeout": LATE,
    "AsyncRestUnsupportedParameterError": UNUSABLE,
}
AUTH_FAULTS: Mapping[str, Fault] = {
    "GoogleAuthError": _CREDENTIAL,
    "TransportError": Fault("the service that gives access tokens cannot be reached", Temporary),
    "TimeoutError": Fault("the service that gives access tokens did not answer in time", Temporary),
    "ResponseError": Fault("the service that gives access tokens did not answer", Temporary),
}
REQUESTS_FAULTS: Mapping[str, Fault] = {
    "RequestException": BROKEN,
    "ConnectTimeout": UNCONNECTED,
    "ProxyError": Fault("the proxy refused", Temporary),
    "ReadTimeout": LATE,
    "Timeout": LATE,
    "TooManyRedirects": Fault("redirected, which is never followed; check endpoint", Permanent),
    "InvalidURL": UNUSABLE,
    "InvalidProxyURL": UNUSABLE,
    "InvalidSchema": UNUSABLE,
    "MissingSchema": UNUSABLE,
    "InvalidHeader": UNUSABLE,
    "ContentDecodingError": BAD_BODY,
    "InvalidJSONError": BAD_BODY,
}


@dataclass(frozen=True, slots=True)
class Described:
    """What a secret says of itself besides its values."""

    etag: str
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Version:
    """One version that was read."""

    number: int
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where the API is and who asks.

    Attributes:
        url: Without a slash at its end.
        ca_file: PEM.
        service_account: Impersonated; empty for none.
    """

    url: str
    ca_file: str
    timeout: timedelta
    service_account: str = ""


class SecretManager:
    """Sends calls; many threads may share it.

    Args:
        sink: Its name, for config errors.
        endpoint: Where to.
        credentials: Returns what the SDK takes for credentials; the application's default if None.
    """

    def __init__(self, sink: str, endpoint: Endpoint, credentials: Callable[[], Any] | None = None) -> None:
        self._sink = sink
        self._endpoint = endpoint
        self._timeout_s = endpoint.timeout.total_seconds()
        self._credentials = credentials or self._default
        self._lock = threading.Lock()
        self._shared: Any = None
        self._clients: Pool[Any] = Pool(self._client, _close, _CALLS)

    def described(self, secret: str, location: str) -> Described | None:
        """Return what a secret says of itself; None if Google says that there is none."""

        def call(client: Any) -> Described:
            found = client.get_secret(request={"name": secret}, **self._bounds)
            return Described(found.etag, dict(found.annotations))

        return self._absent(self._outcome(call), location)

    def read(self, secret: str, version: str, location: str) -> Version | None:
        """Return a version, by number or `latest`; None if Google says that there is none."""
        return self._absent(self.outcome_of_read(secret, version), location)

    def outcome_of_read(self, secret: str, version: str) -> Version | Fault:
        """Return a version or why it cannot be read."""

        def call(client: Any) -> Version | Fault:
            found = client.access_secret_version(request={"name": f"{secret}/versions/{version}"}, **self._bounds)
            data = bytes(found.payload.data)
            if "data_crc32c" in found.payload and found.payload.data_crc32c != crc32c(data):
                return DAMAGED
            return Version(int(found.name.rpartition("/")[2]), Content(data))

        return self._outcome(call)

    def add(self, secret: str, content: Content, location: str) -> int:
        """Add a version, once, and return its number."""

        def call(client: Any) -> int:
            payload = {"data": content.data, "data_crc32c": crc32c(content.data)}
            made = client.add_secret_version(request={"parent": secret, "payload": payload}, **self._bounds)
            return int(made.name.rpartition("/")[2])

        return sound(self._outcome(call), location, is_write=True)

    def annotate(self, secret: str, seen: Described, changed: Mapping[str, str]) -> Fault | None:
        """Set annotations beside those that were seen, unless somebody changed the secret since; return what failed."""

        def call(client: Any) -> None:
            wanted = {"name": secret, "etag": seen.etag, "annotations": {**seen.annotations, **changed}}
            client.update_secret(request={"secret": wanted, "update_mask": {"paths": ["annotations"]}}, **self._bounds)

        outcome = self._outcome(call)
        return STALE if outcome is UNSTABLE else outcome

    def create(self, secret: str, regions: Sequence[str], location: str) -> None:
        """Make a secret without a version; one that is there stays as it is."""
        parent, _, name = secret.partition("/secrets/")

        def call(client: Any) -> None:
            places = {"user_managed": {"replicas": [{"location": region} for region in regions]}}
            made = {"replication": places if regions else {"automatic": {}}, "labels": {"managed-by": "rotator"}}
            client.create_secret(request={"parent": parent, "secret_id": name, "secret": made}, **self._bounds)

        outcome = self._outcome(call)
        if outcome is not API_FAULTS["Conflict"]:  # somebody made it meanwhile
            sound(outcome, location, is_write=True)

    def disable(self, secret: str, number: int) -> Fault | None:
        """Disable a version and return what failed; one that is destroyed or gone needs nothing."""

        def call(client: Any) -> None:
            client.disable_secret_version(request={"name": f"{secret}/versions/{number}"}, **self._bounds)

        outcome = self._outcome(call)
        return None if outcome is UNSTABLE or outcome is API_FAULTS["NotFound"] else outcome

    def lacking(self, secret: str, permissions: Sequence[str], location: str) -> list[str]:
        """Return which of these permissions the credential does not have on the secret."""

        def call(client: Any) -> list[str]:
            asked = {"resource": secret, "permissions": list(permissions)}
            granted = client.test_iam_permissions(request=asked, **self._bounds).permissions
            return [permission for permission in permissions if permission not in granted]

        return sound(self._outcome(call), location, is_write=False)

    def require_sdk(self) -> None:
        """Load the SDK; raises ConfigError with what to install."""
        _sdk(self._sink)

    def close(self) -> None:
        """Close every connection."""
        self._clients.close()

    @property
    def _bounds(self) -> dict[str, Any]:
        return {"retry": None, "timeout": self._timeout_s}

    def _absent(self, outcome: Found | Fault, location: str) -> Found | None:
        if outcome is API_FAULTS["NotFound"]:
            return None
        return sound(outcome, location, is_write=False)

    def _outcome(self, call: Callable[[Any], Found]) -> Found | Fault:
        """Return what a call gives; its failure is a value, for the frames below hold secrets."""
        faults = faults_of_sdk(self._sink)
        try:
            with self._clients.one() as client:
                return call(client)
        except tuple(faults) as error:
            fault = fault_of(faults, error)
        if fault.kind is CredentialRejected:  # what is mounted may have been renewed: the next call reads it anew
            self._renew()
        return fault

    def _renew(self) -> None:
        with self._lock:
            clients, self._clients, self._shared = self._clients, Pool(self._client, _close, _CALLS), None
        clients.close()

    def _client(self) -> Any:
        sdk = _sdk(self._sink)
        url = urlsplit(self._endpoint.url)
        where = {"host": url.netloc, "url_scheme": url.scheme}
        transport = sdk.transport(**where, credentials=self._login(), always_use_jwt_access=True)
        for session in (transport._session, transport._session._auth_request_session):
            session.verify = self._endpoint.ca_file
            session.max_redirects = 0
        return sdk.client(transport=transport)

    def _login(self) -> Any:
        """Return the credentials, which all clients share: they fetch and renew access tokens themselves."""
        with self._lock:
            if self._shared is None:
                self._shared = self._credentials()
            return self._shared

    def _default(self) -> Any:
        auth = _sdk(self._sink).auth
        source, _ = auth.default(scopes=_SCOPES)
        target = self._endpoint.service_account
        return auth.impersonated_credentials.Credentials(source, target, list(_SCOPES)) if target else source


@dataclass(frozen=True, slots=True)
class _Sdk:
    client: Any
    transport: Any
    auth: Any
    modules: tuple[tuple[Any, Mapping[str, Fault]], ...]


def _sdk(sink: str) -> _Sdk:
    """Return the SDK; raises ConfigError if it is not installed."""
    loaded = _loaded()
    if loaded is None:
        raise ConfigError.of(f"sinks.{sink}", "needs Google's SDK; run: pip install 'rotator[gcp]'")
    return loaded


@cache
def _loaded() -> _Sdk | None:
    try:
        import google.auth.exceptions  # noqa: PLC0415
        import google.auth.impersonated_credentials  # noqa: PLC0415
        import requests.exceptions  # noqa: PLC0415
        from google.api_core import exceptions  # noqa: PLC0415
        from google.cloud.secretmanager_v1 import SecretManagerServiceClient  # noqa: PLC0415
        from google.cloud.secretmanager_v1.services.secret_manager_service.transports.rest import (  # noqa: PLC0415
            SecretManagerServiceRestTransport,
        )
    except ImportError:
        return None
    # at DEBUG it prints payloads; its own level, for a scope of GOOGLE_SDK_PYTHON_LOGGING_SCOPE sets that of a parent
    logging.getLogger(SecretManagerServiceRestTransport.__module__).setLevel(logging.INFO)
    tables = (
        (exceptions, API_FAULTS),
        (google.auth.exceptions, AUTH_FAULTS),
        (requests.exceptions, REQUESTS_FAULTS),
    )
    return _Sdk(SecretManagerServiceClient, SecretManagerServiceRestTransport, google.auth, tables)


def faults_of_sdk(sink: str) -> Mapping[type[BaseException], Fault]:
    """Return the table by class: the three of the SDK, and what a body of another form raises."""
    named = {getattr(module, name): fault for module, rows in _sdk(sink).modules for name, fault in rows.items()}
    return {**named, ValueError: BAD_BODY, OSError: BROKEN, _parse_error(): BAD_BODY}


def _close(client: Any) -> None:
    client.transport.close()
    client.transport._session._auth_request_session.close()


def _parse_error() -> type[BaseException]:
    from google.protobuf.json_format import Error  # noqa: PLC0415

    return Error  # type: ignore[no-any-return]


def fault_of(faults: Mapping[type[BaseException], Fault], error: BaseException) -> Fault:
    """Return what an exception of the SDK means; by REST, all of one status are one class and the body says which."""
    response = getattr(error, "response", None)
    said = _status(response)
    if said == "FAILED_PRECONDITION":
        return UNSTABLE
    fault = looked_up(faults, error)
    if fault.kind is NotFound and said != "NOT_FOUND":
        return Fault(
            "not found, by the word of a box on the way and not of Google; check endpoint and proxy", Permanent
        )
    if fault.kind is Throttled:
        pause = seconds(response.headers.get("retry-after", ""), _LONGEST_PAUSE) if response is not None else None
        return Fault(fault.words, Throttled, pause)
    refused = untrusted(error)
    if refused:
        return refused
    names = {type(cause).__name__ for cause in causes(error)}
    return UNCONNECTED if fault is BROKEN and names & {"NewConnectionError", "NameResolutionError"} else fault


def _status(response: Any) -> str:
    """Return the status word of an error in Google's own form, empty for any other."""
    try:
        return str(response.json()["error"]["status"])
    except (AttributeError, ValueError, KeyError, TypeError):
        return ""


@cache
def _table() -> tuple[int, ...]:
    rows = []
    for row in range(256):
        for _ in range(8):
            row = (row >> 1) ^ (0x82F63B78 if row & 1 else 0)  # noqa: PLW2901
        rows.append(row)
    return tuple(rows)


def crc32c(data: bytes) -> int:
    """Return the Castagnoli checksum of a text that is short enough for Python.

    Source: RFC 3720, 12.1 and B.4.
    """
    table, value = _table(), 0xFFFFFFFF
    for byte in data:
        value = (value >> 8) ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF
