"""The calls to Azure Key Vault that the `azure_key_vault` sink makes, and what their failures mean.

The official client is loaded when it is first needed; it repeats nothing of itself but what was challenged with 401,
and follows no redirect.

Sources: learn.microsoft.com/en-us/azure/key-vault/general/rest-error-codes, .../general/soft-delete-overview (a
deleted name cannot be used), .../general/authentication-requests-and-responses (the form of errors, and the
challenge). The inner codes of a conflict are no part of Microsoft's contract; they are those of the samples and the
change log of Azure.Security.KeyVault.Secrets in github.com/Azure/azure-sdk-for-net, and one that is not known is told
by its status.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, TypeVar

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
from rotator.secret import Secret
from rotator.sinks._payload import Content
from rotator.sinks._web import (
    BAD_BODY,
    BROKEN,
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

_FAILED = Fault("Key Vault failed")
_REDIRECTED = Fault("redirected, which is never followed; check vault_url", Permanent)
ABSENT = Fault("there is no such secret", NotFound)
DISABLED = Fault("its current version is disabled", Permanent)
_DELETED = Fault("a deleted secret still holds this name; recover or purge it", Permanent)
_BUSY = Fault("it is just being deleted, recovered or changed", Temporary)
_UNSENT = frozenset({"NewConnectionError", "ConnectTimeoutError", "NameResolutionError", "ProxyError"})

# By the name of the class, for the classes cannot be had before the SDK is loaded.
FAULTS: Mapping[str, Fault] = {
    "AzureError": _FAILED,
    "ServiceRequestError": BROKEN,  # says that nothing was sent, but also stands for a TLS connection that broke later
    "ServiceResponseError": Fault("no complete answer in time, or the connection broke"),
    "HttpResponseError": _FAILED,
    "DecodeError": BAD_BODY,
    "IncompleteReadError": BROKEN,
    "ResourceExistsError": _BUSY,
    "ResourceNotFoundError": Fault(
        "not found, by the word of a box on the way and not of Key Vault; check vault_url and proxy", Permanent
    ),
    "ClientAuthenticationError": Fault("the credential is not valid, or none could be had", CredentialRejected),
    "ResourceModifiedError": _BUSY,
    "ResourceNotModifiedError": BAD_BODY,
    "TooManyRedirectsError": _REDIRECTED,
    "StreamConsumedError": BROKEN,
    "StreamClosedError": BROKEN,
    "ResponseNotReadError": BROKEN,
    "SerializationError": UNUSABLE,
    "DeserializationError": BAD_BODY,
}
STATUSES: Mapping[int, Fault] = {
    301: _REDIRECTED,
    302: _REDIRECTED,
    307: _REDIRECTED,
    308: _REDIRECTED,
    400: Fault("refused as malformed", Permanent),
    401: FAULTS["ClientAuthenticationError"],
    403: Fault(
        "the credential may not do this, or the firewall of the vault refuses us; see the permissions", Forbidden
    ),
    405: Fault("refused; check vault_url", Permanent),
    409: _BUSY,
    413: Fault("the value is too large", Permanent),
    429: Fault("too many requests", Throttled),
}
CODES: Mapping[str, Fault] = {
    "SecretNotFound": ABSENT,
    "SecretDisabled": DISABLED,
    "ObjectIsDeletedButRecoverable": _DELETED,
    "ObjectIsBeingDeleted": _BUSY,
    "ObjectIsBeingRecovered": _BUSY,
}


@dataclass(frozen=True, slots=True)
class Version:
    """The current version of a secret."""

    id: str
    tags: Mapping[str, str]
    content_type: str
    content: Content = field(repr=False)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a new version shall be."""

    content: Content
    content_type: str
    tags: Mapping[str, str]
    expires_on: datetime | None = None


@dataclass(frozen=True, slots=True)
class Vault:
    """Where the vault is and how far it is trusted.

    Attributes:
        url: Without a slash at its end.
        ca_file: PEM.
        verify_challenge: Whether tokens are only asked for the domain that the vault itself is in.
    """

    url: str
    ca_file: str
    timeout: timedelta
    verify_challenge: bool = True


@dataclass(frozen=True, slots=True)
class Login:
    """Who asks: a client with its secret, a managed identity, or whatever the environment offers.

    Attributes:
        client_secret: Read at every login.
    """

    tenant_id: str = ""
    client_id: str = ""
    client_secret: Callable[[], Secret] | None = None
    managed_identity: str = ""


class KeyVault:
    """Sends calls; many threads may share it.

    Args:
        sink: Its name, for config errors.
        vault: Where to.
        credential: Returns what the SDK takes for a credential.
    """

    def __init__(self, sink: str, vault: Vault, credential: Callable[[], Any]) -> None:
        self._sink = sink
        self._vault = vault
        self._credential = credential
        self._lock = threading.Lock()
        self._shared: Any = None
        self._clients: Pool[Any] = Pool(self._client, _close, _CALLS)

    def current(self, name: str) -> Version | Fault:
        """Return the current version, or why it cannot be read."""

        def call(client: Any) -> Version:
            found = client.get_secret(name)
            said = found.properties
            content = Content(found.value.encode("utf-8", "surrogatepass"))
            return Version(str(said.version or ""), dict(said.tags or {}), said.content_type or "", content)

        return self._outcome(call)

    def refuse_deleted(self, name: str, location: str) -> None:
        """Refuse a name that a deleted secret still holds; who may not look finds out at the write."""
        outcome = self._outcome(lambda client: client.get_deleted_secret(name).name)
        if isinstance(outcome, Fault):
            if outcome.kind not in (NotFound, Forbidden):
                sound(outcome, location, is_write=False)
            return
        sound(_DELETED, location, is_write=False)

    def set(self, name: str, wanted: Wanted, location: str) -> str:
        """Make a new version, once, and return its id."""

        def call(client: Any) -> str:
            made = client.set_secret(
                name,
                wanted.content.data.decode("utf-8", "surrogatepass"),
                content_type=wanted.content_type,
                tags=dict(wanted.tags),
                expires_on=wanted.expires_on,
            )
            return str(made.properties.version or "")

        return sound(self._outcome(call), location, is_write=True)

    def require_sdk(self) -> None:
        """Load the SDK; raises ConfigError with what to install."""
        _sdk(self._sink)

    def close(self) -> None:
        """Close every connection."""
        self._clients.close()
        with self._lock:
            shared, self._shared = self._shared, None
        if hasattr(shared, "close"):
            shared.close()

    def _outcome(self, call: Callable[[Any], Found]) -> Found | Fault:
        """Return what a call gives; its failure is a value, for the frames below hold secrets."""
        faults = faults_of_sdk(self._sink)
        try:
            with self._clients.one() as client:
                return call(client)
        except ConfigError as error:  # the reference to the client's secret, read in the midst of a call
            return Fault(error.message, CredentialRejected)
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
        return _sdk(self._sink).client(
            self._vault.url,
            self._login(),
            verify_challenge_resource=self._vault.verify_challenge,
            retry_total=0,
            permit_redirects=False,
            **_bounds(self._vault),
        )

    def _login(self) -> Any:
        with self._lock:
            if self._shared is None:
                self._shared = self._credential()
            return self._shared


def credential_of(sink: str, login: Login, vault: Vault) -> Any:
    """Return the SDK's credential for a login, with the vault's bounds and trust; contacts nothing."""
    identity, bounds = _sdk(sink).identity, _bounds(vault)
    if login.client_secret is not None:
        return _Rereading(identity, login, bounds)
    if login.managed_identity:
        return identity.ManagedIdentityCredential(client_id=login.managed_identity, **bounds)
    return identity.DefaultAzureCredential(**bounds)


def _bounds(vault: Vault) -> dict[str, Any]:
    timeout_s = vault.timeout.total_seconds()
    return {"connection_timeout": timeout_s, "read_timeout": timeout_s, "connection_verify": vault.ca_file}


class _Rereading:
    """Logs in with the client's secret as it is now, whenever an access token is wanted."""

    def __init__(self, identity: Any, login: Login, bounds: Mapping[str, Any]) -> None:
        self._identity = identity
        self._login = login
        self._bounds = bounds

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """See the SDK's TokenCredential."""
        secret = self._login.client_secret() if self._login.client_secret else Secret("")
        ids = (self._login.tenant_id, self._login.client_id)
        made = self._identity.ClientSecretCredential(*ids, secret.reveal(), **self._bounds)
        with made:
            return made.get_token(*scopes, **options)


@dataclass(frozen=True, slots=True)
class _Sdk:
    client: Any
    identity: Any
    exceptions: Any


def _sdk(sink: str) -> _Sdk:
    """Return the SDK; raises ConfigError if it is not installed."""
    loaded = _loaded()
    if loaded is None:
        raise ConfigError.of(f"sinks.{sink}", "needs Azure's SDK; run: pip install 'rotator[azure]'")
    return loaded


@cache
def _loaded() -> _Sdk | None:
    try:
        import azure.identity  # noqa: PLC0415
        from azure.core import exceptions  # noqa: PLC0415
        from azure.keyvault.secrets import SecretClient  # noqa: PLC0415
    except ImportError:
        return None
    logging.getLogger("azure").setLevel(logging.WARNING)  # its INFO lines print URLs and headers
    return _Sdk(SecretClient, azure.identity, exceptions)


def _close(client: Any) -> None:
    client.close()


def faults_of_sdk(sink: str) -> Mapping[type[BaseException], Fault]:
    """Return the table by class: that of the SDK, and what a body of another form makes it raise."""
    module = _sdk(sink).exceptions
    named = {getattr(module, name): fault for name, fault in FAULTS.items()}
    strange: dict[type[BaseException], Fault] = dict.fromkeys(
        (ValueError, TypeError, AttributeError, KeyError), BAD_BODY
    )
    return {**strange, OSError: BROKEN, **named}


def fault_of(faults: Mapping[type[BaseException], Fault], error: BaseException) -> Fault:
    """Return what an exception of the SDK means: by Key Vault's own code, else by status, else by class."""
    refused = untrusted(error)
    if refused:
        return refused
    names = {type(cause).__name__ for cause in causes(error)}
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    for code in _codes(response):
        if code in CODES:
            return CODES[code]
    fault = looked_up(faults, error)
    if status in STATUSES:
        fault = STATUSES[status]
    if fault.kind is Throttled:
        return Fault(fault.words, Throttled, seconds(response.headers.get("retry-after", ""), _LONGEST_PAUSE))  # type: ignore[union-attr]
    return UNCONNECTED if fault is BROKEN and names & _UNSENT else fault


def _codes(response: Any) -> tuple[str, ...]:
    """Return the codes of an error in Key Vault's own form, the inner one first; none for any other."""
    try:
        said = response.json()["error"]
        return str((said.get("innererror") or {}).get("code", "")), str(said.get("code", ""))
    except (AttributeError, ValueError, KeyError, TypeError):
        return ()
