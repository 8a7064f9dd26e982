"""The login to Vault by an AWS identity: a signed question to STS who we are, which Vault asks in our stead.

botocore signs, for it knows every source of credentials; hvac's own signer takes static keys only.

Source: https://developer.hashicorp.com/vault/api-docs/auth/aws#login
"""

import base64

import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, CredentialRetrievalError, MetadataRetrievalError
from botocore.session import Session

from rotator.errors import Permanent, Temporary
from rotator.secret import Secret
from rotator.sinks._aws_process import Helpers, bound
from rotator.sinks._vault_calls import Failure
from rotator.sinks._vault_options import VaultAuth

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"
_CONNECT_S = 5.0
_PASSING = (CredentialRetrievalError, MetadataRetrievalError)  # the next attempt may fare better


class Identity:
    """Who we are to AWS, found anew at each login and bounded in time.

    Args:
        timeout_s: For each step on the way to credentials.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._helpers = Helpers(timeout_s)

    def signed(self, auth: VaultAuth) -> Secret | Failure:
        """Return the body of the login; never raises, for frames of the SDK hold keys."""
        try:
            credentials = self._session().get_credentials()
            if credentials is None:
                return _unfound("NoCredentials")
            request = _question(auth)
            SigV4Auth(credentials, "sts", auth.region).add_auth(request)
        except _PASSING:
            words = "AWS credentials for the login to Vault could not be fetched in time, or at all"
            return Failure(Temporary, f"{words}; check the profile, and its credential_process")
        except (BotoCoreError, ValueError, OSError) as error:  # the SDK lets through what a program's output is not
            return _unfound(type(error).__name__)
        headers = msgspec.json.encode({name: [value] for name, value in request.headers.items()})
        shown = {
            "role": auth.role,
            "iam_http_request_method": "POST",
            "iam_request_url": _spelt(request.url.encode()),
            "iam_request_body": _spelt(_BODY.encode()),
            "iam_request_headers": _spelt(headers),
        }
        return Secret(msgspec.json.encode(shown).decode())

    def _session(self) -> Session:
        session = Session()
        once = {"total_max_attempts": 1, "mode": "standard"}
        connect_s = min(_CONNECT_S, self._timeout_s)
        session.set_default_client_config(Config(connect_timeout=connect_s, read_timeout=self._timeout_s, retries=once))
        bound(session, self._helpers)
        return session


def _unfound(name: str) -> Failure:
    return Failure(Permanent, f"AWS credentials for the login to Vault cannot be found or used ({name})")


def _question(auth: VaultAuth) -> AWSRequest:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    if auth.server_id:
        headers["X-Vault-AWS-IAM-Server-ID"] = auth.server_id
    return AWSRequest("POST", f"https://sts.{auth.region}.amazonaws.com/", headers=headers, data=_BODY)


def _spelt(content: bytes) -> str:
    return base64.b64encode(content).decode()
