"""The login to Vault by an AWS identity: a signed question to STS who we are, which Vault asks in our stead.

botocore signs, for it knows every source of credentials; hvac's own signer takes static keys only.

Source: https://developer.hashicorp.com/vault/api-docs/auth/aws#login
"""

import base64

import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import BotoCoreError
from botocore.session import get_session

from rotator.secret import Secret
from rotator.sinks._vault_options import VaultAuth

_BODY = "Action=GetCallerIdentity&Version=2011-06-15"


def signed(auth: VaultAuth) -> Secret | str:
    """Return the body of the login, or the name of what went wrong."""
    try:
        credentials = get_session().get_credentials()
        if credentials is None:
            return "NoCredentials"
        request = _question(auth)
        SigV4Auth(credentials, "sts", auth.region).add_auth(request)
    except BotoCoreError as error:
        return type(error).__name__
    headers = msgspec.json.encode({name: [value] for name, value in request.headers.items()})
    shown = {
        "role": auth.role,
        "iam_http_request_method": "POST",
        "iam_request_url": _spelt(request.url.encode()),
        "iam_request_body": _spelt(_BODY.encode()),
        "iam_request_headers": _spelt(headers),
    }
    return Secret(msgspec.json.encode(shown).decode())


def _question(auth: VaultAuth) -> AWSRequest:
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=utf-8"}
    if auth.server_id:
        headers["X-Vault-AWS-IAM-Server-ID"] = auth.server_id
    return AWSRequest("POST", f"https://sts.{auth.region}.amazonaws.com/", headers=headers, data=_BODY)


def _spelt(content: bytes) -> str:
    return base64.b64encode(content).decode()
