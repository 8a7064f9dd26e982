"""How the vault sink talks: one request through hvac, and its answer or failure as a value.

hvac builds the requests (namespace and token headers, `X-Vault-Request`); it is asked not to raise by status, because
its exceptions carry the body and forget the number. Nothing here raises while a secret stands in a frame: `Line.send`
returns what happened, and the caller raises. Loaded on demand, for hvac takes 180 ms.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from http.cookiejar import DefaultCookiePolicy
from typing import Any
from urllib.parse import quote

import hvac.exceptions
import requests
import urllib3.exceptions
from hvac.adapters import RawAdapter
from requests.adapters import HTTPAdapter

from rotator.causes import causes, distrust
from rotator.errors import CredentialRejected, Forbidden, OutcomeUnknown, Permanent, RotatorError, Temporary, Throttled
from rotator.secret import Secret
from rotator.sinks._vault_calls import Answer, Call, Failure

CONNECTIONS = 16  # as many threads as deliver at once

# hvac raises only what it finds wrong before it sends: the statuses are ours to judge. The names are hvac's.
HVAC: dict[str, type[RotatorError]] = {
    "VaultError": Permanent,
    "InvalidRequest": Permanent,
    "Unauthorized": CredentialRejected,
    "Forbidden": Forbidden,
    "InvalidPath": Permanent,
    "UnsupportedOperation": Permanent,
    "PreconditionFailed": Temporary,
    "RateLimitExceeded": Throttled,
    "InternalServerError": OutcomeUnknown,
    "VaultNotInitialized": Temporary,
    "VaultDown": Temporary,
    "UnexpectedError": OutcomeUnknown,
    "BadGateway": OutcomeUnknown,
    "ParamValidationError": Permanent,
}


class Line:
    """The connection to one Vault, shared by all threads.

    Args:
        address: https, or http to this very machine.
        ca_bundle: A file of certificate authorities; empty for the usual ones.
        timeout: Of connecting, and of each silence; `timeout_s` is for others to keep to.
    """

    def __init__(self, address: str, ca_bundle: str, timeout: timedelta) -> None:
        self._address = address.rstrip("/")
        self.timeout_s = timeout.total_seconds()
        self._session: Any = requests.Session()
        self._session.trust_env = False  # else the environment is read anew for each request, and overrides `verify`
        named = (ca_bundle, os.environ.get("VAULT_CACERT", ""), os.environ.get("SSL_CERT_FILE", ""))
        self._session.verify = next((file for file in named if file), True)
        self._session.proxies = requests.utils.get_environ_proxies(self._address)
        self._session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=()))
        pool = HTTPAdapter(pool_connections=2, pool_maxsize=CONNECTIONS, max_retries=0)
        self._session.mount("https://", pool)
        self._session.mount("http://", pool)

    def send(self, call: Call, token: Secret | None) -> Answer | Failure:
        """Send one request, exactly once, and never raise."""

        def ask(adapter: Any) -> Any:
            return adapter.request(
                call.method,
                f"/v1/{quote(call.path, safe='/')}",
                headers={"Content-Type": call.kind},
                data=None if call.body is None else call.body.encoded(),
            )

        return self.through(ask, token, call.namespace, writes=call.writes)

    def through(
        self, ask: Callable[[Any], Any], token: Secret | None = None, namespace: str = "", *, writes: bool = False
    ) -> Answer | Failure:
        """Do one request by an adapter of hvac's, and never raise.

        Args:
            ask: Given the adapter, returns the response that one call of hvac's gives.
        """
        try:
            response = ask(self._made(token, namespace))
            return Answer(response.status_code, response.content, _wait(response.headers.get("Retry-After", "")))
        except hvac.exceptions.VaultError as error:
            kind = HVAC.get(type(error).__name__, OutcomeUnknown)
            return Failure(kind, f"the request to Vault was not accepted by hvac ({type(error).__name__})")
        except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
            return _silence(error, writes=writes)
        except OSError:  # requests' own word for a bundle that is not there; of sockets it wraps every error
            return Failure(Permanent, "the file of certificate authorities cannot be read; check `ca_bundle`")
        except UnicodeError:  # a header that cannot be sent: a token with odd characters
            return Failure(Permanent, "the request to Vault cannot be spelt; are there odd characters in the token?")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def _made(self, token: Secret | None, namespace: str) -> Any:
        """Return an adapter for one request: it holds the token, so sharing one would mix up logins."""
        return RawAdapter(
            base_uri=self._address,
            token=None if token is None else token.reveal(),
            session=self._session,
            namespace=namespace or None,
            timeout=self.timeout_s,
            allow_redirects=False,
            ignore_exceptions=True,
        )


def _silence(error: Exception, *, writes: bool) -> Failure:
    """Tell apart what certainly never left from what may have arrived.

    requests wraps urllib3 and that wraps the system, each in its own way, so the causes are looked through by name.
    """
    why = distrust(error)
    if why is not None:
        said = "Vault's certificate is not trusted; set `ca_bundle`, or correct `address`"
        return Failure(Permanent, f"{said} ({why})")
    names = {type(cause).__name__ for cause in causes(error)}
    if names & {
        "InvalidURL",
        "InvalidSchema",
        "MissingSchema",
        "InvalidHeader",
        "InvalidProxyURL",
        "LocationParseError",
    }:
        return Failure(Permanent, "the request to Vault cannot be spelt; check `address` and the token's characters")
    if names & {"NameResolutionError", "gaierror"}:
        return Failure(Temporary, "the host name of Vault's address is not known; check `address` and DNS")
    if names & {"ConnectTimeout", "ConnectTimeoutError", "NewConnectionError", "ProxyError", "ConnectionRefusedError"}:
        return Failure(Temporary, "Vault cannot be reached; check `address`, the network and HTTPS_PROXY")
    kind = OutcomeUnknown if writes else Temporary
    slow = names & {"ReadTimeout", "ReadTimeoutError", "Timeout"}
    return Failure(kind, "Vault did not answer in time" if slow else "the connection to Vault broke")


def _wait(text: str) -> timedelta | None:
    return timedelta(seconds=int(text)) if text.isascii() and text.isdigit() and len(text) < 6 else None
