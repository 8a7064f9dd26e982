"""How the `kubernetes_secret` sink talks to a kube-apiserver: who we are, where it is, one request, one answer.

The official client finds and renews the credential (in a pod, from a kubeconfig, from its exec plugins); requests go
through urllib3, which that client brings, because its own methods log bodies and raise them. Bodies hold secrets, so
whatever carries one is not shown by repr, and no exception leaves from a frame that knows one: an answer that is none
is a value too, for `_kube_failures` to put into words.
"""

import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit
from urllib.request import getproxies_environment

from rotator.causes import distrust
from rotator.errors import ConfigError, CredentialRejected, Permanent, Temporary
from rotator.recent import Recent
from rotator.secret import Secret

FIELD_MANAGER: Final = "rotator"
_LONGEST = 8 * 1024 * 1024  # bytes of an answer; a Secret holds one mebibyte at most, encoded a third more
_CONNECTIONS = 16


class Trouble(Enum):
    """Why there is no answer."""

    UNREACHABLE = auto()  # nothing was sent
    UNTRUSTED = auto()  # likewise: the certificate is not one that we trust
    CUT = auto()  # the request may have arrived


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API is and who we are.

    Attributes:
        kubeconfig: A path; empty for the pod's own service account, or outside of pods what kubectl would use.
        context: Of the kubeconfig; empty for its current one.
        ca_bundle: A path, used instead of the CA that the configuration names; may be empty.
        timeout_s: Of connecting, of each silence, and of a whole answer.
    """

    kubeconfig: str
    context: str
    ca_bundle: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Request:
    """One request.

    Attributes:
        parts: The segments of the path.
        body: JSON-able; None for none.
        dry_run: The server does everything but keep it.
    """

    method: str
    parts: tuple[str, ...]
    body: Mapping[str, object] | None = field(default=None, repr=False)
    dry_run: bool = False

    @property
    def changes(self) -> bool:
        """Whether the server holds something else afterwards."""
        return self.method != "GET" and not self.dry_run

    @property
    def target(self) -> str:
        """The path with its query."""
        query = {} if self.method == "GET" else {"fieldManager": FIELD_MANAGER}
        if self.dry_run:
            query["dryRun"] = "All"
        path = "/" + "/".join(quote(part, safe="") for part in self.parts)
        return f"{path}?{urlencode(query)}" if query else path


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a request.

    Attributes:
        status: Zero if nothing came.
        content: The object; empty if what came is no JSON object of the Kubernetes API.
        trouble: Why nothing came.
        retry_after: The header, empty if absent.
        distrust: Why the certificate is not trusted, in OpenSSL's words; empty if that is not the trouble.
    """

    status: int = 0
    content: Mapping[str, Any] = field(default_factory=dict, repr=False)
    trouble: Trouble | None = None
    retry_after: str = ""
    distrust: str = ""

    @property
    def is_good(self) -> bool:
        """Whether the server did what it was asked, and says with which result."""
        return 200 <= self.status < 300 and bool(self.content) and self.content.get("kind") != "Status"

    @property
    def is_status(self) -> bool:
        """Whether the API itself speaks, not something before it."""
        return self.content.get("kind") == "Status"

    @property
    def reason(self) -> str:
        """The machine-readable reason of a failure, empty if there is none."""
        return str(self.content.get("reason") or "") if self.is_status else ""

    @property
    def about(self) -> tuple[str, str]:
        """What a failure is about, as (kind in plural, name), empty where it does not say."""
        details = self.content.get("details") if self.is_status else None
        if not isinstance(details, Mapping):
            return "", ""
        return str(details.get("kind") or ""), str(details.get("name") or "")


class KubeApi:
    """Sends requests; many threads share one. Connects when first asked, logs in again when the server says 401."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._lock = threading.Lock()
        self._logins: Recent[_Session] = Recent()
        self._login = 0  # how many sessions there were
        self._session: _Session | None = None

    @property
    def store(self) -> str:
        """What two sinks have in common that write to the same cluster, as far as their options say."""
        return " ".join(("kubernetes", *filter(None, (self._access.kubeconfig, self._access.context))))

    def ask(self, request: Request) -> Answer:
        """Return what came of a request.

        Raises:
            Temporary, Permanent: There is no usable configuration or credential; nothing was sent.
        """
        session = self._current(None)
        answer = session.send(request)
        if answer.status == 401:  # no effect; a projected token or a client certificate was perhaps renewed meanwhile
            answer = self._current(session).send(request)
        elif answer.trouble:  # address, CA or client certificate may be others by the next call
            self._forget(session)
        return answer

    def close(self) -> None:
        """Let go of all connections."""
        with self._lock:
            session, self._session = self._session, None
        if session:
            session.close()

    def _current(self, spent: "_Session | None") -> "_Session":
        """Return the session, a new one if there is none or it is the one that is spent.

        Who waits for a login that fails hears of it, and does not wait for one of its own.
        """
        with self._lock:
            login, session = self._login, self._session
        if session is not None and session is not spent:
            return session
        fresh = self._logins.get(login, lambda: _Session(self._access))
        with self._lock:
            if self._login == login:
                self._login, self._session = login + 1, fresh
        if spent is not None:
            spent.close()
        return fresh

    def _forget(self, session: "_Session") -> None:
        with self._lock:
            if self._session is session:
                self._session = None
        session.close()


class _Session:
    """One login: the configuration as it was read, and the connections made with it."""

    def __init__(self, access: Access) -> None:
        self._sdk = _sdk()
        self._tokens: Recent[Secret] = Recent()
        self._timeout_s = access.timeout_s
        self._configuration = self._loaded(access)
        self._base = str(self._configuration.host).rstrip("/")
        self._check()
        self._pool = self._connections(access)

    def send(self, request: Request) -> Answer:
        return self._exchange(request, self._headers(request))

    def close(self) -> None:
        self._pool.clear()

    def _exchange(self, request: Request, headers: Mapping[str, str]) -> Answer:
        errors = self._sdk.errors
        try:
            response = self._pool.request(
                request.method,
                self._base + request.target,
                body=None if request.body is None else json.dumps(request.body).encode(),
                headers=dict(headers),
                preload_content=False,
                redirect=False,
                retries=False,
            )
            try:
                content = _content(response, time.monotonic() + self._timeout_s)
            finally:
                response.close()  # what is read to its end has left its connection in the pool already
        except (*errors.NOT_SENT, *errors.ANY) as error:
            return _unanswered(error, errors)
        if content is None:
            return Answer(trouble=Trouble.CUT)
        retry_after = response.headers.get("Retry-After", "")
        return Answer(response.status, _decoded(content), retry_after=retry_after)

    def _headers(self, request: Request) -> dict[str, str]:
        headers = {"Accept": "application/json", "User-Agent": FIELD_MANAGER}
        if request.body is not None:
            merges = request.method == "PATCH"
            headers["Content-Type"] = "application/merge-patch+json" if merges else "application/json"
        token = self._tokens.get("", self._token)
        return {**headers, **({"Authorization": token.reveal()} if token else {})}

    def _token(self) -> Secret:
        """Return the header's value; the client renews it here when it is due, perhaps by a program."""
        token = self._bounded(self._renewed)
        if isinstance(token, _Unusable):
            raise Temporary(f"the Kubernetes credential cannot be renewed ({token.why}); see its file or program")
        return Secret(str(token or "").strip())

    def _renewed(self) -> object:
        configuration = self._configuration
        if configuration.refresh_api_key_hook is not None:
            configuration.refresh_api_key_hook(configuration)
        # Older clients file the token under the one name, newer ones under the other.
        return configuration.api_key.get("BearerToken") or configuration.api_key.get("authorization")

    def _loaded(self, access: Access) -> Any:
        config, configuration = self._sdk.config, self._sdk.Configuration()
        if access.kubeconfig or access.context or "KUBERNETES_SERVICE_HOST" not in os.environ:
            what = {"config_file": access.kubeconfig or None, "context": access.context or None}
            loaded = self._bounded(
                lambda: config.load_kube_config(client_configuration=configuration, persist_config=False, **what)
            )
        else:
            loaded = self._bounded(lambda: config.load_incluster_config(client_configuration=configuration))
        if isinstance(loaded, _Unusable):
            where = f"kubeconfig {access.kubeconfig}" if access.kubeconfig else "Kubernetes configuration"
            raise Temporary(f"the {where} cannot be used ({loaded.why}); see that it exists and is whole")
        return configuration

    def _bounded(self, call: Callable[[], object]) -> object:
        """Return what the official client returns, which may run a program that hangs, or why it is of no use."""
        outcome: list[object] = [_Unusable("it takes too long")]

        def run() -> None:
            try:
                outcome.append(call())
            except self._sdk.UNUSABLE as error:
                outcome.append(_Unusable(type(error).__name__))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(self._timeout_s)
        return outcome[-1]

    def _check(self) -> None:
        """Refuse what would send a secret to somebody else, or without saying who we are."""
        configuration, url = self._configuration, urlsplit(self._base)
        is_local = _is_loopback(url.hostname or "")
        if url.scheme != "https" and not is_local:
            raise Permanent("the address of the Kubernetes API must begin with https:// unless it is on this machine")
        if not configuration.verify_ssl and url.scheme == "https":
            raise Permanent("the kubeconfig says insecure-skip-tls-verify; name the CA instead, here as ca_bundle")
        if url.scheme == "https" and not (self._token() or configuration.cert_file):
            raise CredentialRejected(
                "the Kubernetes configuration yields no credential; see that its exec plugin or token file works"
            )

    def _connections(self, access: Access) -> Any:
        configuration, urllib3 = self._configuration, self._sdk.urllib3
        options: dict[str, Any] = {
            "num_pools": 2,
            "maxsize": _CONNECTIONS,
            "timeout": urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s),
        }
        if urlsplit(self._base).scheme == "https":
            options["ssl_context"] = _trust(access, configuration)
            if getattr(configuration, "tls_server_name", None):
                options["server_hostname"] = configuration.tls_server_name
        proxy = proxy_for(self._base, configuration.proxy)
        if proxy and urlsplit(proxy).scheme not in ("http", "https"):
            raise Permanent("the proxy to the Kubernetes API is neither http:// nor https://; no other kind is known")
        return urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)


@dataclass(frozen=True, slots=True)
class _Unusable:
    """What the official client was asked for is not to be had."""

    why: str


def require_sdk() -> None:
    """Look for the official client without loading it.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("kubernetes") is None:
        raise ConfigError.of("", "sinks of type kubernetes_secret need: pip install 'rotator[kubernetes]'")


@cache
def _sdk() -> SimpleNamespace:
    """Load the official client and what it brings: the one place that does, for it takes a second."""
    urllib3, yaml = import_module("urllib3"), import_module("yaml")
    config, client = import_module("kubernetes.config"), import_module("kubernetes.client")
    errors = urllib3.exceptions
    # What `kubernetes.config` raises for files that are missing, malformed or incomplete: more than its own exception.
    unusable = (config.ConfigException, yaml.YAMLError, OSError, ValueError, KeyError, TypeError, AttributeError)
    known = SimpleNamespace(
        ANY=(errors.HTTPError, OSError),
        NOT_SENT=(
            errors.NewConnectionError,
            errors.ConnectTimeoutError,
            errors.ProxyError,
            errors.ClosedPoolError,
            errors.LocationValueError,
        ),
    )
    return SimpleNamespace(
        Configuration=client.Configuration, config=config, urllib3=urllib3, errors=known, UNUSABLE=unusable
    )


def _trust(access: Access, configuration: Any) -> ssl.SSLContext:
    """Return whom we trust and who we are, as TLS sees it.

    Raises:
        Temporary: A file of it cannot be used.
    """
    path = access.ca_bundle or configuration.ssl_ca_cert or None
    try:
        context = ssl.create_default_context(cafile=path)
        # CAs of clusters often lack the key identifiers that the strict mode of newer Pythons asks for.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if configuration.cert_file:
            path = configuration.cert_file
            context.load_cert_chain(configuration.cert_file, configuration.key_file or None)
    except OSError as error:  # those of ssl among them
        failure = type(error).__name__
    else:
        return context
    raise Temporary(f"the certificates in {path} cannot be used ({failure}); see that they exist and are whole")


def _unanswered(error: BaseException, errors: SimpleNamespace) -> Answer:
    why = distrust(error)
    if why is not None:
        return Answer(trouble=Trouble.UNTRUSTED, distrust=why)
    return Answer(trouble=Trouble.UNREACHABLE if isinstance(error, errors.NOT_SENT) else Trouble.CUT)


def _content(response: Any, until_s: float) -> bytes | None:
    """Return the body; None if it is too long or does not end in time, however slowly it drips."""
    pieces: list[bytes] = []
    length = 0
    while piece := response.read1(65536) if hasattr(response, "read1") else response.read(65536):
        pieces.append(piece)
        length += len(piece)
        if length > _LONGEST or time.monotonic() > until_s:
            return None
    return b"".join(pieces)


def _decoded(content: bytes) -> Mapping[str, Any]:
    try:
        decoded = json.loads(content)
    except ValueError:
        return {}
    return decoded if isinstance(decoded, dict) and "kind" in decoded else {}


def proxy_for(base: str, configured: str | None) -> str:
    """Return the proxy: the kubeconfig's, or the environment's unless NO_PROXY names the host or its network."""
    url = urlsplit(base)
    proxies = getproxies_environment()
    if not configured or configured == proxies.get("https") or configured == proxies.get("http"):
        configured = "" if _bypassed(url.hostname or "", proxies.get("no", "")) else proxies.get(url.scheme, "")
    return configured if "://" in configured or not configured else f"http://{configured}"


def _bypassed(host: str, no_proxy: str) -> bool:
    entries = [entry.strip().lower() for entry in no_proxy.split(",") if entry.strip()]
    return _is_loopback(host) or any(entry == "*" or _covers(entry, host.lower()) for entry in entries)


def _covers(entry: str, host: str) -> bool:
    try:
        return ip_address(host) in ip_network(entry, strict=False)
    except ValueError:
        bare = entry.lstrip(".")
        return host == bare or host.endswith("." + bare)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
