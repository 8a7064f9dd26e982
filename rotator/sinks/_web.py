"""What sinks that speak to an API over HTTPS share: checked addresses, trust, timeouts, and lent clients.

Nothing here contacts anybody. Proxies come from HTTPS_PROXY and NO_PROXY, certificates from `ca_bundle`, else from
SSL_CERT_FILE, else from the system's store.
"""

import ipaddress
import os
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Generic, TypeVar
from urllib.parse import SplitResult, urlsplit

import certifi
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from rotator.causes import distrust
from rotator.credentials import Reference
from rotator.errors import ConfigError, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.timing import parse_duration

Lent = TypeVar("Lent")
Outcome = TypeVar("Outcome")
_LONGEST = timedelta(minutes=5)


def _bounded(value: object) -> object:
    duration = parse_duration(value) if isinstance(value, str) else value
    if isinstance(duration, timedelta) and not timedelta() < duration <= _LONGEST:
        raise ValueError("must be longer than nothing and at most 5m")
    return duration


def _referring(text: object) -> object:
    if isinstance(text, str) and text:
        Reference.parse(text)
    return text


Timeout = Annotated[timedelta, BeforeValidator(_bounded, json_schema_input_type=str)]
SecretReference = Annotated[str, BeforeValidator(_referring, json_schema_input_type=str)]


class WebOptions(BaseModel):
    """The base of `[sinks.X]` of such a sink."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    ca_bundle: str = Field("", description="PEM file of the certificates to trust; empty for the system's.")
    timeout: Timeout = Field(timedelta(seconds=30), description="For connecting and for each wait for an answer.")


def checked_url(text: str, example: str) -> str:
    """Return the address of an API without a slash at its end; raises ValueError with the fix."""
    url = _split(text)
    if not url.hostname:
        raise ValueError(f"must be a URL such as {example}")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must not hold a user, a query or a fragment")
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.hostname)):
        raise ValueError("must be https (http is for loopback only)")
    return text.rstrip("/")


def is_loopback(host: str) -> bool:
    """Whether the host is this machine; a name that only begins like an address is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def trusted(ca_bundle: str, base: Path, path: str) -> str:
    """Return the PEM file to verify servers with; see the module.

    Args:
        ca_bundle: As configured.
        base: The folder that a relative path counts from.
        path: Of the option, for the error.

    Raises:
        ConfigError: It cannot be used.
    """
    defaults = ssl.get_default_verify_paths()  # honours SSL_CERT_FILE
    chosen = str(base / os.path.expanduser(ca_bundle)) if ca_bundle else defaults.cafile or certifi.where()
    try:
        ssl.create_default_context(cafile=chosen)
    except (OSError, ssl.SSLError):
        raise ConfigError.of(path, "cannot be read as a file of PEM certificates") from None
    return chosen


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a call fails.

    Attributes:
        words: For people, after the location and a colon.
        kind: Where the call certainly had no effect; None where it may have had one.
        pause: How long the other side asked us to wait.
    """

    words: str
    kind: type[RotatorError] | None = None
    pause: timedelta | None = None


UNCONNECTED = Fault("no connection could be made", Temporary)
UNUSABLE = Fault("the request cannot be made; check the address and the proxy", Permanent)
LATE = Fault("no complete answer in time")
BROKEN = Fault("the connection broke, or the answer was cut off")
BAD_BODY = Fault("the answer has not the expected form; does the address name the right API?")


def untrusted(error: BaseException) -> Fault | None:
    """Return the fault of a call that ended because the server's certificate was refused; None if it was not."""
    why = distrust(error)
    if why is None:
        return None
    return Fault(f"the server's certificate is not trusted; check ca_bundle ({why})", Permanent)


def looked_up(table: Mapping[type[BaseException], Fault], error: BaseException) -> Fault:
    """Return the row of an exception, along the class's own ancestors; one must be there."""
    return next(table[kind] for kind in type(error).__mro__ if kind in table)


def judged(location: str, fault: Fault, is_write: bool) -> RotatorError:
    """Return the error for a call that failed; a write that may have had an effect is open, a read never is."""
    kind = fault.kind or (OutcomeUnknown if is_write else Temporary)
    message = f"{location}: {fault.words}"
    return kind(message, fault.pause) if issubclass(kind, Temporary) else kind(message)


def sound(outcome: Outcome | Fault, location: str, is_write: bool) -> Outcome:
    """Return the outcome of a call, or raise what its fault means, far from the frames that held a secret."""
    if isinstance(outcome, Fault):
        raise judged(location, outcome, is_write)
    return outcome


def seconds(text: str, longest: timedelta) -> timedelta | None:
    """Return what a header says in whole seconds, bounded; None if it says nothing that can be read."""
    text = text.strip()
    return min(timedelta(seconds=int(text[:9])), longest) if text.isascii() and text.isdigit() else None


class Turns:
    """Lets the threads of one process write the same object one after another; others rarely wait."""

    def __init__(self) -> None:
        self._locks = [threading.Lock() for _ in range(64)]

    def of(self, name: str) -> threading.Lock:
        """Return the lock to hold while an object of this name is read and written."""
        return self._locks[hash(name) % len(self._locks)]


class Pool(Generic[Lent]):
    """Lends a client to one call at a time, for a client that many threads share collapses or mixes its state up.

    Args:
        make: Makes one, when none is idle.
        close: Ends one.
        most: How many there are; who comes when all are lent waits.
    """

    def __init__(self, make: Callable[[], Lent], close: Callable[[Lent], None], most: int) -> None:
        self._make = make
        self._close = close
        self._free = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._idle: list[Lent] = []
        self._is_closed = False

    @contextmanager
    def one(self) -> Iterator[Lent]:
        """Lend one."""
        with self._free:
            with self._lock:
                lent = self._idle.pop() if self._idle else None
            lent = self._make() if lent is None else lent
            try:
                yield lent
            finally:
                with self._lock:
                    keep = not self._is_closed
                    if keep:
                        self._idle.append(lent)
                if not keep:
                    self._close(lent)

    def close(self) -> None:
        """End the idle ones now and the others when they come back."""
        with self._lock:
            self._is_closed = True
            idle, self._idle = self._idle, []
        for lent in idle:
            self._close(lent)


def _split(text: str) -> SplitResult:
    try:
        url = urlsplit(text)
        return url if url.port != 0 else SplitResult("", "", "", "", "")
    except ValueError:  # the message would repeat the URL, which may hold a password
        return SplitResult("", "", "", "", "")
