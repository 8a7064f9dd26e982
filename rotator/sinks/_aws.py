"""What the sinks on AWS share: one client for all threads, calls that never show a secret, and the table of errors.

Credentials come from the SDK's own chain (environment, profile, IRSA, Pod Identity, instance), read anew after AWS has
rejected them. Nothing is resent blindly: the SDK's retries are off, and whoever calls says what may be repeated.
"""

import ipaddress
import logging
import os
import re
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rotator.causes import distrust
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
    Throttled,
)
from rotator.model import Mint
from rotator.secret import Secret
from rotator.sinks import _json
from rotator.sinks._fields import check_fields, secret_key
from rotator.templates import SECRET_FIELD, render_fields
from rotator.text import visible
from rotator.timing import parse_duration, stamp

_CONNECTIONS = 32  # more threads than this wait for one
_CONNECT_S = 5.0
_SHARED_LOGGERS = ("boto3", "botocore", "botocore.endpoint", "botocore.parsers", "botocore.auth", "urllib3")
_TAG = "rotator"
_TAG_KEY, _TAG_VALUE = 128, 256  # characters
_NO_TAG = re.compile(r"[^A-Za-z0-9 _.:/=+@-]")
_ROLE = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")


class AwsOptions(BaseModel):
    """The keys of `[sinks.X]` that all sinks on AWS have."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    region: str = Field("", pattern=r"^[a-z0-9-]*$", description="As AWS_REGION or the profile say, if not given.")
    endpoint_url: str = Field("", description="Of the service, where it is not the public one (a VPC endpoint).")
    profile: str = Field("", description="In ~/.aws; the SDK's default chain if not given.")
    role_arn: str = Field("", description="A role to assume with what the chain yields; renewed before it expires.")
    external_id: str = Field("", description="What the trust policy of the role asks for.")
    ca_bundle: str = Field("", description="A PEM file; relative to the configuration's folder.")
    timeout: str = Field(
        "10s", description="For connecting (5 s at most), for each wait for an answer, for a credential_process."
    )

    @field_validator("endpoint_url")
    @classmethod
    def _safe(cls, text: str) -> str:
        if not text:
            return text
        url = urlsplit(text)
        if url.scheme != "https" and not (url.scheme == "http" and _is_loopback(url.hostname or "")):
            raise ValueError("must be https (http is for loopback only)")
        if not url.hostname or url.query or url.fragment or "@" in url.netloc:
            raise ValueError("must be a plain URL such as https://secretsmanager.eu-west-1.amazonaws.com")
        return text

    @field_validator("role_arn")
    @classmethod
    def _role(cls, text: str) -> str:
        if text and not _ROLE.fullmatch(text):
            raise ValueError("must be the ARN of a role, such as arn:aws:iam::123456789012:role/rotator")
        return text

    @field_validator("timeout")
    @classmethod
    def _duration(cls, text: str) -> str:
        if not timedelta(0) < parse_duration(text) <= timedelta(minutes=5):
            raise ValueError('must be more than nothing and at most "5m"')
        return text

    @model_validator(mode="after")
    def _whole(self) -> "AwsOptions":
        if self.external_id and not self.role_arn:
            raise ValueError("external_id needs role_arn")
        return self


class ContentOptions(BaseModel):
    """The keys of a deliver block that say what is written; subclasses add where."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    format: Literal["json", "raw"] = Field("json", description="raw: the secret and nothing else.")
    fields: dict[str, str] | None = Field(
        None, description='Keys of a json object; { token = "{secret}" } if not given. Neighbours are never touched.'
    )
    kms_key_id: str = Field("", pattern=r"^[A-Za-z0-9:/_-]*$", description="Key id, ARN or alias.")
    tags: dict[str, str] = Field(default_factory=dict, description="Set after each write, where that is allowed.")
    metadata: bool = Field(
        default=True, description="Tag it with ids, time and keyed fingerprint of what was written, where allowed."
    )

    @field_validator("tags")
    @classmethod
    def _taggable(cls, tags: dict[str, str]) -> dict[str, str]:
        for key, text in tags.items():
            if not key or _NO_TAG.search(key + text) or len(key) > _TAG_KEY or len(text) > _TAG_VALUE:
                raise ValueError(f"'{visible(key, 40)}': letters, digits, spaces and _.:/=+@- make a tag")
            if key.lower().startswith(("aws:", _TAG)):
                raise ValueError(f"'{visible(key, 40)}': is kept for AWS or rotator")
        return tags

    @model_validator(mode="after")
    def _renderable(self) -> "ContentOptions":
        if self.format == "raw":
            if self.fields is not None:
                raise ValueError('fields need format = "json": raw holds the secret and nothing else')
            return self
        self.fields = {"token": SECRET_FIELD} if self.fields is None else self.fields
        check_fields(self.fields)
        return self


@dataclass(frozen=True, slots=True)
class Content:
    """What a delivery makes of what is there; without fields it is the secret alone."""

    fields: dict[str, str] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)

    def where(self, name: str) -> str:
        """Return the location: the name, and the key that is read back."""
        return f"{name}#{secret_key(self.fields)}" if self.fields else name

    def parts(self, name: str) -> tuple[str, ...]:
        """Return everything that is claimed, if it is more than the location."""
        return tuple(f"{name}#{key}" for key in sorted(self.fields))

    def problem(self, current: Secret) -> str:
        """Return why the delivery would destroy what is there, empty if it would not."""
        whole = not _json.problem(current.encoded())
        if self.fields:
            return "" if whole else "it does not hold one JSON object, so what it holds could be lost; repair it"
        if whole and current.encoded().strip():
            return 'it holds a JSON object, which format = "raw" would replace whole; set format = "json"'
        return ""

    def merged(self, current: Secret, mint: Mint) -> Secret:
        """Return what is to be there; `current` has no problem and is empty if nothing is there."""
        if not self.fields:
            return mint.secret
        return Secret.decoded(_json.merge(current.encoded(), render_fields(self.fields, mint, self.facts)))

    def value(self, current: Secret) -> Secret | None:
        """Return the secret in it, None if it has none."""
        if not self.fields:
            return current or None
        found = _json.value(current.encoded(), secret_key(self.fields))
        return Secret(found) if found else None

    def is_all(self, current: Secret) -> bool:
        """Whether nothing stands there but what this delivery writes."""
        return not self.fields or _json.keys(current.encoded()) <= set(self.fields)


def tags_of(content: Content, tags: Mapping[str, str], mint: Mint | None) -> list[dict[str, str]]:
    """Return the tags of a write: one says which mint, so that several keys of one object can each have theirs.

    Args:
        content: Whose key that one is named after.
        tags: The operator's.
        mint: None to leave it out.
    """
    wanted = dict(tags)
    if mint is not None:
        said = {
            "mint": mint.id,
            "token": mint.token_id,
            "lineage": mint.lineage,
            "rotated": stamp(mint.rotated_at),
            "fingerprint": mint.fingerprint,
        }
        text = " ".join(f"{key}={value}" for key, value in said.items() if value)
        key = content.where(_TAG).replace("#", ":")
        wanted[_NO_TAG.sub("_", key)[:_TAG_KEY]] = _NO_TAG.sub("_", text)[:_TAG_VALUE]
    return [{"Key": key, "Value": value} for key, value in wanted.items()]


# The table of errors: what AWS says -> what it means for us, and the fix. `OutcomeUnknown` of a read is `Temporary`.

_CLOCK = "the signature was refused; check the clock of this machine and the credentials"
_DENIED = (
    "the credentials may not do this; allow it in their policy (and kms:Decrypt and kms:GenerateDataKey of its key)"
)
_DEAD = "AWS rejected the credentials; renew them"
_SLOW = "AWS asks to slow down"
_INSIDE = "AWS failed inside"
_KMS = "its KMS key cannot be used; see that the key is enabled and its policy allows these credentials"
_QUOTA = "a quota of the account is reached; remove what is not needed, or raise it"
_REFUSED = "AWS refused the request as it is; compare the options of the sink with the service's rules"
_TRUST = "the role cannot be assumed; check role_arn, external_id and the role's trust policy"

CODES: dict[str, tuple[type[RotatorError], str]] = {
    # any service
    "AccessDenied": (Forbidden, _DENIED),
    "AccessDeniedException": (Forbidden, _DENIED),
    "NotAuthorized": (Forbidden, _DENIED),
    "UnauthorizedOperation": (Forbidden, _DENIED),
    "OptInRequired": (Forbidden, "the account is not subscribed to the service"),
    "ExpiredToken": (CredentialRejected, _DEAD),
    "ExpiredTokenException": (CredentialRejected, _DEAD),
    "InvalidClientTokenId": (CredentialRejected, _DEAD),
    "UnrecognizedClientException": (CredentialRejected, _DEAD),
    "MissingAuthenticationToken": (CredentialRejected, _DEAD),
    "MissingAuthenticationTokenException": (CredentialRejected, _DEAD),
    "IncompleteSignature": (CredentialRejected, _CLOCK),
    "IncompleteSignatureException": (CredentialRejected, _CLOCK),
    "InvalidSignatureException": (CredentialRejected, _CLOCK),
    "SignatureDoesNotMatch": (CredentialRejected, _CLOCK),
    "RequestExpired": (CredentialRejected, _CLOCK),
    "Throttling": (Throttled, _SLOW),
    "ThrottlingException": (Throttled, _SLOW),
    "ThrottledException": (Throttled, _SLOW),
    "RequestLimitExceeded": (Throttled, _SLOW),
    "RequestThrottled": (Throttled, _SLOW),
    "TooManyRequestsException": (Throttled, _SLOW),
    "InternalFailure": (OutcomeUnknown, _INSIDE),
    "InternalServerError": (OutcomeUnknown, _INSIDE),
    "InternalServiceError": (OutcomeUnknown, _INSIDE),
    "ServiceUnavailable": (OutcomeUnknown, _INSIDE),
    "ServiceUnavailableException": (OutcomeUnknown, _INSIDE),
    "RequestTimeout": (OutcomeUnknown, "AWS gave up waiting"),
    "RequestTimeoutException": (OutcomeUnknown, "AWS gave up waiting"),
    "ValidationError": (Permanent, _REFUSED),
    "ValidationException": (Permanent, _REFUSED),
    # Secrets Manager
    "ResourceNotFoundException": (NotFound, "there is no such secret or value"),
    "ResourceExistsException": (Permanent, "that version exists already with another content"),
    "InvalidParameterException": (Permanent, _REFUSED),
    "InvalidRequestException": (
        Permanent,
        "the secret is in no state for this (scheduled for deletion, or run by another service); restore or release it",
    ),
    "LimitExceededException": (Permanent, _QUOTA),
    "DecryptionFailure": (Permanent, _KMS),
    "EncryptionFailure": (Permanent, _KMS),
    "MalformedPolicyDocumentException": (Permanent, _REFUSED),
    "PreconditionNotMetException": (Permanent, _REFUSED),
    # Parameter Store
    "ParameterNotFound": (NotFound, "there is no such parameter"),
    "ParameterVersionNotFound": (NotFound, "there is no such version of the parameter"),
    "ParameterAlreadyExists": (Permanent, "the parameter exists already"),
    "ParameterLimitExceeded": (Permanent, _QUOTA),
    "ParameterMaxVersionLimitExceeded": (
        Permanent,
        "its oldest version carries a label and so cannot make room; move the label to a newer version",
    ),
    "ParameterPatternMismatchException": (
        Permanent,
        "its allowed pattern does not admit the value; change the pattern",
    ),
    "TooManyUpdates": (Temporary, "somebody else is changing the parameter"),
    "TooManyTagsError": (Permanent, _QUOTA),
    "InvalidKeyId": (Permanent, _KMS),
    "HierarchyLevelLimitExceededException": (Permanent, "the name has more than 15 levels; use a shorter path"),
    "HierarchyTypeMismatchException": (Permanent, "the parameter is of another type; it must be a SecureString"),
    "InvalidAllowedPatternException": (Permanent, _REFUSED),
    "InvalidNextToken": (Permanent, _REFUSED),
    "InvalidResourceId": (Permanent, _REFUSED),
    "InvalidResourceType": (Permanent, _REFUSED),
    "UnsupportedParameterType": (Permanent, "the parameter is of another type; it must be a SecureString"),
    "PoliciesLimitExceededException": (Permanent, _QUOTA),
    "InvalidPolicyTypeException": (Permanent, _REFUSED),
    "InvalidPolicyAttributeException": (Permanent, _REFUSED),
    "IncompatiblePolicyException": (Permanent, _REFUSED),
    # STS, on the way to credentials
    "IDPCommunicationError": (Temporary, "AWS could not reach the identity provider"),
    "IDPRejectedClaim": (CredentialRejected, _TRUST),
    "InvalidIdentityToken": (CredentialRejected, _TRUST),
    "InvalidContextAssertion": (CredentialRejected, _TRUST),
    "MalformedPolicyDocument": (Permanent, _TRUST),
    "PackedPolicyTooLarge": (Permanent, _TRUST),
    "RegionDisabledException": (Permanent, "the region is not enabled in this account; enable it, or set region"),
}

_STRANGE = "the answer is none of AWS; is a proxy in the way?"
_CHAIN = "no usable AWS credentials; set a role, a profile, IRSA or Pod Identity, or the AWS_ variables"

# The SDK's own exceptions, by the name of their class or the nearest base; all but the first group never left.
RAISED: dict[str, tuple[type[RotatorError], str]] = {
    "HTTPClientError": (OutcomeUnknown, "the connection failed"),
    "ConnectionClosedError": (OutcomeUnknown, "the connection was closed before an answer came"),
    "ReadTimeoutError": (OutcomeUnknown, "no answer in time"),
    "ResponseStreamingError": (OutcomeUnknown, "the answer broke off"),
    "IncompleteReadError": (OutcomeUnknown, "the answer broke off"),
    "ResponseParserError": (OutcomeUnknown, _STRANGE),
    "SSLError": (OutcomeUnknown, "TLS failed; check ca_bundle, SSL_CERT_FILE and the proxy"),
    "EndpointConnectionError": (Temporary, "cannot be reached; check region, endpoint_url, proxy and network"),
    "ConnectTimeoutError": (Temporary, "cannot be reached in time; check region, endpoint_url, proxy and network"),
    "ProxyConnectionError": (Temporary, "the proxy cannot be reached or refuses; check HTTPS_PROXY and NO_PROXY"),
    "CapacityNotAvailableError": (Temporary, _SLOW),
    "MetadataRetrievalError": (Temporary, "credentials could not be fetched"),
    "CredentialRetrievalError": (
        Temporary,
        "credentials could not be fetched in time, or at all; check the profile, and its credential_process",
    ),
    "NoCredentialsError": (Permanent, _CHAIN),
    "PartialCredentialsError": (Permanent, _CHAIN),
    "TokenRetrievalError": (Permanent, _CHAIN),
    "SSOError": (Permanent, "the login of the profile has ended; log in again"),
    "LoginError": (Permanent, "the login of the profile has ended; log in again"),
    "ProfileNotFound": (Permanent, "there is no such profile; check profile and AWS_PROFILE"),
    "InvalidConfigError": (Permanent, "the profile is not usable; check ~/.aws/config"),
    "ConfigParseError": (Permanent, "the profile is not usable; check ~/.aws/config"),
    "NoRegionError": (Permanent, "no region is known; set region or AWS_REGION"),
    "ParamValidationError": (Permanent, _REFUSED),
    "BotoCoreError": (Permanent, "the SDK refuses its options; check region, endpoint_url, profile and ca_bundle"),
    "RuntimeError": (Temporary, "credentials could not be renewed"),
    "AttributeError": (OutcomeUnknown, _STRANGE),  # so the SDK stumbles over JSON of another shape
    "TypeError": (OutcomeUnknown, _STRANGE),
    "LookupError": (OutcomeUnknown, _STRANGE),
    "UnicodeError": (Permanent, "the value has characters that AWS cannot store"),
    "ValueError": (Permanent, "the SDK refuses its options; check region, endpoint_url, profile and ca_bundle"),
    "OSError": (Permanent, "a file that the SDK needs cannot be read; check ca_bundle and the token file"),
}
_UNTRUSTED = "the server's certificate is not trusted; check ca_bundle, SSL_CERT_FILE and the proxy"
_BUILT_IN = (ValueError, OSError, RuntimeError, AttributeError, TypeError, LookupError)  # that the SDK lets through
_VALUE_IN = {"put_parameter": "Value"}
_LOST_CONNECTION = "ConnectionClosedError"


@dataclass(frozen=True, slots=True)
class Call:
    """One operation of a service.

    Attributes:
        where: Names the place in errors.
        writes: Whether it may have taken effect when no answer comes.
        repeats: Whether doing it twice is the same as once.
        secret: What is written, in the parameter that the operation has for it; the others never hold one.
    """

    where: str
    operation: str
    parameters: Mapping[str, object]
    writes: bool = False
    repeats: bool = True
    secret: Secret | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of a call: a body, in which values are secrets, or an error; `code` is what AWS called that."""

    body: Mapping[str, Any] = field(default_factory=dict)
    code: str = ""
    error: RotatorError | None = None


class Service:
    """One service as one sink sees it: a client made at the first call and shared by all threads.

    Args:
        service: As the SDK names it.
        options: Of the sink.
        base: The folder that a relative `ca_bundle` counts from.
    """

    def __init__(self, service: str, options: AwsOptions, base: Path) -> None:
        self._service = service
        self._options = options
        self._bundle = str(base / os.path.expanduser(options.ca_bundle)) if options.ca_bundle else ""
        self._lock = threading.Lock()
        self._client: Any = None
        self._helpers: Any = None

    @property
    def store(self) -> str:
        """What two sinks have in common that write to the same account and region, as far as their options say."""
        options = self._options
        region = options.region or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION", "")
        who = (options.endpoint_url, region, options.profile, options.role_arn)
        return " ".join(("aws", self._service, *filter(None, who)))

    def ask(self, call: Call, *expected: str) -> Answer:
        """Return what came of the call.

        Args:
            expected: Codes of errors that the caller wants to see in the answer.

        Raises:
            RotatorError: By the table.
        """
        answer = self._send(call)
        if answer.code == _LOST_CONNECTION and call.repeats:
            answer = self._send(call)
        if isinstance(answer.error, CredentialRejected) or RAISED.get(answer.code, (Temporary,))[0] is Permanent:
            self.close()  # the next call asks the chain anew
        if answer.error is not None and answer.code not in expected:
            raise answer.error
        return answer

    def close(self) -> None:
        """Let go of connections and credentials; a later call makes new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _send(self, call: Call) -> Answer:
        """Make the call; nothing is raised here, for the frames below hold the secret in plain text."""
        parameters = dict(call.parameters)
        if call.secret is not None:
            parameters[_VALUE_IN.get(call.operation, "SecretString")] = call.secret.reveal()
        raised = import_module("botocore.exceptions")
        parsing = import_module("botocore.parsers")
        try:
            client = self._connected()
            return Answer(_hidden(getattr(client, call.operation)(**parameters)))
        except raised.ClientError as error:
            return _answered(error, call)
        except (raised.BotoCoreError, parsing.ResponseParserError, *_BUILT_IN) as error:
            return _failed(error, call)

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._helpers = self._helpers or _helpers(self._options)  # outlive the client: they know what hangs
                self._client = _client(self._service, self._options, self._bundle, self._helpers)
            return self._client


def _hidden(body: dict[str, Any]) -> dict[str, Any]:
    """Return the body with every value as a secret; what is no text did not come from AWS and is left out."""
    for key in ("SecretString", "SecretBinary"):
        if key in body:
            body[key] = _wrapped(body[key])
    parameters = body.get("Parameters")
    for found in (body.get("Parameter"), *(parameters if isinstance(parameters, list) else ())):
        if isinstance(found, dict) and "Value" in found:
            found["Value"] = _wrapped(found["Value"])
    return body


def _wrapped(value: object) -> Secret | None:
    if isinstance(value, bytes):
        return Secret(value.decode(errors="replace"))
    return Secret(value) if isinstance(value, str) else None


def _answered(error: Any, call: Call) -> Answer:
    """Translate an error that AWS, or something that answers in its place, sent."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    meta = error.response.get("ResponseMetadata", {})
    status = int(meta.get("HTTPStatusCode", 0) or 0)
    kind, words = CODES.get(code) or _by_status(status)
    if error.operation_name.startswith("AssumeRole") and kind in (Forbidden, Permanent):
        kind, words = Forbidden, _TRUST
    elif error.operation_name.startswith("AssumeRole") and kind is OutcomeUnknown:
        kind, words = Temporary, "AWS failed inside while a role was assumed"
    said = f"{code}, {status}" if code in CODES else str(status)
    wait = str(meta.get("HTTPHeaders", {}).get("retry-after", ""))
    return Answer(code=code, error=_error(kind, call, f"{words} ({said})", wait))


def _by_status(status: int) -> tuple[type[RotatorError], str]:
    if status == 429:
        return Throttled, _SLOW
    if status in (401, 403):
        return Forbidden, "refused, and not in the words of AWS; see the policies, and whether a proxy is in the way"
    if status >= 500 or status < 400:
        return OutcomeUnknown, "the answer is none of AWS; is a proxy or the service failing?"
    return Permanent, _REFUSED


def _failed(error: Exception, call: Call) -> Answer:
    """Translate an error of the SDK's own."""
    names = [base.__name__ for base in type(error).__mro__]
    name = next((name for name in names if name in RAISED), "BotoCoreError")
    kind, words = RAISED[name]
    why = distrust(error) if name == "SSLError" else None
    if why is not None:  # nothing was sent, and the next attempt reads the bundle anew
        kind, words = Temporary, f"{_UNTRUSTED} ({why})"
    return Answer(code=name, error=_error(kind, call, words, ""))


def _error(kind: type[RotatorError], call: Call, words: str, wait: str) -> RotatorError:
    message = f"{call.where}: {words}"
    if kind is OutcomeUnknown:
        return OutcomeUnknown(message) if call.writes else Temporary(message)
    if issubclass(kind, Temporary):
        return kind(message, timedelta(seconds=int(wait)) if wait.isdigit() and len(wait) < 6 else None)
    return kind(message)


def _helpers(options: AwsOptions) -> Any:
    return import_module("rotator.sinks._aws_process").Helpers(_timeout_s(options))


def _timeout_s(options: AwsOptions) -> float:
    return parse_duration(options.timeout).total_seconds()


def _client(service: str, options: AwsOptions, bundle: str, helpers: Any) -> Any:
    """Return a client with everything bounded; the SDK is loaded here.

    The default configuration of the session reaches the clients that fetch credentials too. Proxies come from the
    environment, for only so `NO_PROXY` counts.
    """
    for name in _SHARED_LOGGERS:  # below INFO they print the body of requests, so the secret
        logger = logging.getLogger(name)
        if logger.level < logging.INFO:  # its own, for that of a parent may change
            logger.setLevel(logging.INFO)
    timeout_s = _timeout_s(options)
    config = import_module("botocore.config").Config(
        connect_timeout=min(_CONNECT_S, timeout_s),
        read_timeout=timeout_s,
        max_pool_connections=_CONNECTIONS,
        retries={"total_max_attempts": 1, "mode": "standard"},
        user_agent_extra="rotator",
    )
    core = _session(options, bundle, config)
    import_module("rotator.sinks._aws_process").bound(core, helpers)
    if options.role_arn:
        core = _assuming(core, _session(options, bundle, config), options)
    endpoint = {"endpoint_url": options.endpoint_url} if options.endpoint_url else {}
    session = import_module("boto3.session").Session(botocore_session=core)
    return session.client(service, config=config, **endpoint)


def _session(options: AwsOptions, bundle: str, config: Any) -> Any:
    core = import_module("botocore.session").Session(profile=options.profile or None)
    core.set_default_client_config(config)
    region = options.region or core.get_config_variable("region") or os.environ.get("AWS_REGION")
    if region:
        core.set_config_variable("region", region)
    trusted = bundle or core.get_config_variable("ca_bundle") or os.environ.get("SSL_CERT_FILE")
    if trusted:
        os.stat(trusted)  # the SDK would take a missing file for a failed connection
        core.set_config_variable("ca_bundle", trusted)
    return core


class _Assumed:
    """The credentials of a role, in the place of the SDK's chain."""

    def __init__(self, credentials: Any) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Any:
        """Return them; the SDK renews them before they expire."""
        return self._credentials


def _assuming(source: Any, core: Any, options: AwsOptions) -> Any:
    """Return the session `core` working as the role, assumed with what the chain of `source` yields."""
    found = import_module("botocore.credentials")
    own = source.get_credentials()
    if own is None:
        raise import_module("botocore.exceptions").NoCredentialsError
    extra = {"RoleSessionName": "rotator", **({"ExternalId": options.external_id} if options.external_id else {})}
    fetcher = found.AssumeRoleCredentialFetcher(source.create_client, own, options.role_arn, extra_args=extra)
    role = found.DeferredRefreshableCredentials(fetcher.fetch_credentials, "assume-role")
    core.register_component("credential_provider", _Assumed(role))
    return core


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    return False
