"""One HTTPS POST on a connection of its own, bounded in time, that says how far it came.

The `webhook` sink calls it. The standard library's client is used because it separates connecting from sending, so
that "certainly no effect" is known and not guessed, and because nothing in it repeats a request, follows a redirect,
keeps a cookie or logs. No exception leaves this module with a frame that holds what was sent.
"""

import base64
import http.client
import io
import ipaddress
import os
import re
import socket
import ssl
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

import certifi

from rotator.causes import distrust
from rotator.errors import Permanent

_LARGEST = 65536  # bytes of an answer
_HOST = re.compile(r"[A-Za-z0-9._-]+")
_ALERT = re.compile(r"ALERT.*(CERTIFICATE|UNKNOWN_CA)|(CERTIFICATE|UNKNOWN_CA).*ALERT")
_CLIENT_ERRORS = (OSError, http.client.HTTPException, ValueError)


class Fate(Enum):
    """How far a call came before it failed."""

    UNSENT = "it certainly had no effect"
    HOPELESS = "it certainly had no effect, and repeating it is useless"
    MAYBE_SENT = "it may have taken effect"


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a call gets no answer that counts; `words` are for people."""

    words: str
    fate: Fate


@dataclass(frozen=True, slots=True, repr=False)
class Answer:
    """A response; its repr shows nothing, for a receiver may echo what it got."""

    status: int
    body: bytes
    retry_after: str = ""
    date: str = ""
    content_type: str = ""


NO_CONNECTION = Fault("no connection could be made", Fate.UNSENT)
NO_NAME = Fault("the name of its host is not known", Fate.UNSENT)
NO_CONNECTION_IN_TIME = Fault("no connection could be made in time", Fate.UNSENT)
NO_TUNNEL = Fault("the proxy refused; check proxy and what it allows", Fate.UNSENT)
NO_TLS = Fault("no TLS connection could be made", Fate.UNSENT)
UNTRUSTED = Fault("the server's certificate is not trusted; check ca_bundle and the host's name", Fate.HOPELESS)
NOT_ADMITTED = Fault("the server does not accept our certificate; check client_certificate", Fate.HOPELESS)
TOO_LATE = Fault("no complete answer in time", Fate.MAYBE_SENT)
TOO_LARGE = Fault("the answer is larger than any that can be right", Fate.MAYBE_SENT)
BROKEN = Fault("the connection broke, or the answer was cut off", Fate.MAYBE_SENT)
GARBLED = Fault("the answer is not HTTP", Fate.MAYBE_SENT)

# Looked up along the class's own ancestors. The first table is for all that fails before a byte of the request has
# left, the second for what fails later.
CONNECTING: Mapping[type[Exception], Fault] = {
    ssl.SSLError: NO_TLS,
    socket.gaierror: NO_NAME,
    TimeoutError: NO_CONNECTION_IN_TIME,
    http.client.HTTPException: NO_TUNNEL,
    OSError: NO_CONNECTION,
    ValueError: NO_CONNECTION,
}
SENDING: Mapping[type[Exception], Fault] = {
    TimeoutError: TOO_LATE,
    http.client.RemoteDisconnected: BROKEN,
    http.client.IncompleteRead: BROKEN,
    http.client.HTTPException: GARBLED,
    OSError: BROKEN,
    ValueError: GARBLED,
}


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port.

    Attributes:
        port: None for the scheme's own.
    """

    scheme: str
    host: str
    port: int | None = None

    @property
    def is_loopback(self) -> bool:
        """Whether it certainly is this machine."""
        try:
            return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback
        except ValueError:  # a name, also one that begins like an address: 127.0.0.1.example.com
            return False

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + (f":{self.port}" if self.port else "")


def split(url: str) -> tuple[Origin, str]:
    """Return origin and path of a URL.

    Raises:
        ValueError: It cannot be used; the message says what to write and never repeats it.
    """
    if not all("!" <= character <= "~" for character in url):  # urlsplit would drop some of them in silence
        raise ValueError("must be a URL without spaces, of ASCII only")
    try:
        parts = urllib.parse.urlsplit(url)
        origin = Origin(parts.scheme, parts.hostname or "", parts.port)
    except ValueError:
        raise ValueError("must be a URL such as https://hooks.example.com/rotator") from None
    if parts.scheme not in ("https", "http") or not _is_host(origin.host):
        raise ValueError("must be a URL such as https://hooks.example.com/rotator")
    if parts.username is not None or parts.password is not None or "?" in url or "#" in url:
        raise ValueError("must not hold a user, a query or a fragment; put credentials into headers, by reference")
    if parts.scheme == "http" and not origin.is_loopback:
        raise ValueError("must be https (http is for loopback only)")
    return origin, parts.path or "/"


def _is_host(host: str) -> bool:
    if _HOST.fullmatch(host):
        return True
    try:
        return bool(ipaddress.IPv6Address(host))
    except ValueError:
        return False


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """An HTTP proxy that tunnels; its repr shows nothing, for a URL of the environment may hold a password."""

    host: str
    port: int
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, url: str) -> "Proxy":
        """Return the proxy of a URL; raises ValueError, without repeating it."""
        try:
            parts = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname or "", parts.port or 3128
        except ValueError:
            host, port, parts = "", 0, urllib.parse.urlsplit("")
        if parts.scheme != "http" or not _is_host(host):
            raise ValueError("must be a URL such as http://proxy.example.com:3128")
        user = urllib.parse.unquote(parts.username or ""), urllib.parse.unquote(parts.password or "")
        login = base64.b64encode(":".join(user).encode()).decode()
        return cls(host, port, {"Proxy-Authorization": f"Basic {login}"} if any(user) else {})


def proxy_of(url: str, origin: Origin) -> Proxy | None:
    """Return the proxy for calls to an origin: the configured one, else as HTTPS_PROXY and NO_PROXY say.

    Raises:
        ValueError: The URL of the proxy cannot be used.
    """
    if origin.is_loopback:
        return None
    found = urllib.request.getproxies_environment()
    by_environment = "" if urllib.request.proxy_bypass(origin.host) else found.get("https", "")
    chosen = url or by_environment
    return Proxy.parse(chosen) if chosen else None


@dataclass(frozen=True, slots=True)
class Files:
    """PEM files of a connection, each empty if there is none.

    Attributes:
        ca_bundle: Whom to trust instead of the system's.
        certificate, key: Ours; the key may stand in the certificate's file.
    """

    ca_bundle: str = ""
    certificate: str = ""
    key: str = ""


class Trust:
    """The TLS side of connections, made anew when one of its files has changed: certificates are renewed often.

    Args:
        files: See `Files`.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._lock = threading.Lock()
        self._made: tuple[object, ssl.SSLContext] | None = None

    def context(self) -> ssl.SSLContext:
        """Return it as the files are now.

        Raises:
            Permanent: A file cannot be used.
        """
        stamps = tuple(_stamp(path) for path in (self._files.ca_bundle, self._files.certificate, self._files.key))
        with self._lock:
            if self._made is None or self._made[0] != stamps:
                self._made = stamps, self._fresh()
            return self._made[1]

    def _fresh(self) -> ssl.SSLContext:
        files = self._files
        try:
            context = ssl.create_default_context(cafile=files.ca_bundle or _roots())
        except (OSError, ssl.SSLError):
            raise Permanent(f"{files.ca_bundle or 'the system store'} cannot be read as PEM certificates") from None
        try:
            if files.certificate:
                # a password, though none fits, so that nobody is asked for one on a terminal
                context.load_cert_chain(files.certificate, files.key or None, password="")
        except (OSError, ssl.SSLError, ValueError):
            names = " and ".join(name for name in (files.certificate, files.key) if name)
            raise Permanent(f"{names} cannot be read as a PEM certificate and its unencrypted key") from None
        return context


def _stamp(path: str) -> object:
    try:
        found = os.stat(path) if path else None
    except OSError:
        return None
    return (found.st_ino, found.st_size, found.st_mtime_ns) if found else None


def _roots() -> str | None:
    """Return None where the system has certificates of its own; small images have none."""
    found = ssl.get_default_verify_paths()
    return None if found.cafile or found.capath else certifi.where()


@dataclass(frozen=True, slots=True)
class Line:
    """How an origin is reached.

    Attributes:
        timeout_s: For the whole call. Until it is connected, for each step: resolving a name is bounded by the
            resolver, and each address of it is tried for so long.
    """

    origin: Origin
    trust: Trust
    proxy: Proxy | None
    timeout_s: float

    def connection(self) -> http.client.HTTPConnection:
        """Return one that is not open yet.

        Raises:
            Permanent: A PEM file cannot be used.
        """
        origin, proxy = self.origin, self.proxy
        if origin.scheme == "http":
            return http.client.HTTPConnection(origin.host, origin.port, timeout=self.timeout_s)
        context = self.trust.context()
        if proxy is None:
            return http.client.HTTPSConnection(origin.host, origin.port, timeout=self.timeout_s, context=context)
        connection = http.client.HTTPSConnection(proxy.host, proxy.port, timeout=self.timeout_s, context=context)
        connection.set_tunnel(origin.host, origin.port, dict(proxy.headers))
        return connection


@dataclass(frozen=True, slots=True, repr=False)
class Request:
    """What is sent; its repr shows nothing."""

    path: str
    headers: Mapping[str, str]
    body: bytes


def post(connection: http.client.HTTPConnection, timeout_s: float, request: Request) -> Answer | Fault:
    """Send once and return what came of it, as a value: an exception would carry frames that hold the body.

    Args:
        connection: Not open yet; closed on return.
        timeout_s: For the whole call.
        request: What to send.
    """
    deadline_s = time.monotonic() + timeout_s
    try:
        try:
            connection.connect()
        except _CLIENT_ERRORS as error:
            return _connecting(error)
        if time.monotonic() >= deadline_s:
            return NO_CONNECTION_IN_TIME
        try:
            return _exchanged(connection, deadline_s, request)
        except _CLIENT_ERRORS as error:
            return _sending(error)
    finally:
        connection.close()


def _exchanged(connection: http.client.HTTPConnection, deadline_s: float, request: Request) -> Answer | Fault:
    wire = connection.sock
    wire.settimeout(_left(deadline_s))
    connection.request("POST", request.path, request.body, dict(request.headers))
    timed = _Timed(wire, deadline_s)
    response = http.client.HTTPResponse(timed, method="POST")  # type: ignore[arg-type]
    with response:
        response.begin()
        if timed.is_over:  # the client takes what there is of a head for all of it
            return BROKEN
        content = response.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            return TOO_LARGE
        if response.length:  # what Content-Length still promised
            return BROKEN
        told = [response.getheader(name) or "" for name in ("retry-after", "date", "content-type")]
        return Answer(response.status, content, *told)


class _Timed(io.RawIOBase):
    """A socket to read from until a moment, not for so long each time: a receiver that drips bytes holds nobody up.

    Attributes:
        is_over: Whether a reader met the end; whoever has all lines of a head did not ask for more.
    """

    def __init__(self, wire: socket.socket, deadline_s: float) -> None:
        self._wire = wire
        self._deadline_s = deadline_s
        self.is_over = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return what `http.client` reads from."""
        return io.BufferedReader(self)

    def readable(self) -> bool:
        """See `io.RawIOBase`."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """See `io.RawIOBase`."""
        self._wire.settimeout(_left(self._deadline_s))
        count = self._wire.recv_into(buffer)
        self.is_over = self.is_over or not count
        return count


def _left(deadline_s: float) -> float:
    left_s = deadline_s - time.monotonic()
    if left_s <= 0:
        raise TimeoutError
    return left_s


def _connecting(error: Exception) -> Fault:
    if isinstance(error, OSError) and error.errno is None and str(error).startswith("Tunnel connection failed"):
        return NO_TUNNEL  # it has no class of its own
    why = distrust(error)
    if why is not None:
        return replace(UNTRUSTED, words=f"{UNTRUSTED.words} ({why})")
    return next(CONNECTING[kind] for kind in type(error).__mro__ if kind in CONNECTING)


def _sending(error: Exception) -> Fault:
    if isinstance(error, ssl.SSLError) and _ALERT.search(error.reason or ""):
        return NOT_ADMITTED  # in TLS 1.3 a server says so only after our request has left, unread
    return next(SENDING[kind] for kind in type(error).__mro__ if kind in SENDING)
