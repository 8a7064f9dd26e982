"""What the sinks on AWS share: the table of errors, where credentials come from, proxies and trust."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import botocore.exceptions
import botocore.session
import certifi
import pytest
from pydantic import ValidationError

from rotator import sinks
from rotator.errors import (
    CredentialRejected,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    RotatorError,
    Temporary,
)
from rotator.secret import Secret
from rotator.sinks import _aws
from tests.servers.aws import ENVIRONMENT, REGION, AwsServer, Fault, serving
from tests.servers.loopback import Loopback
from tests.sinks.contract import CANARY, facts, mint, raising_without_secret

ROLE = "arn:aws:iam::123456789012:role/rotator"
MODULE: Any = sinks.load("aws_secrets_manager")
# Every operation that a sink calls, on the way to credentials too.
OPERATIONS = {
    "secretsmanager": [
        "DescribeSecret",
        "GetSecretValue",
        "PutSecretValue",
        "CreateSecret",
        "UpdateSecretVersionStage",
        "TagResource",
    ],
    "ssm": ["GetParameter", "GetParameterHistory", "PutParameter", "AddTagsToResource", "ListTagsForResource"],
    "sts": ["AssumeRole", "AssumeRoleWithWebIdentity"],
}


@pytest.fixture(scope="module")
def running() -> Iterator[AwsServer]:
    """Run one server for all."""
    with serving() as server:
        yield server


@pytest.fixture
def aws(running: AwsServer, monkeypatch: pytest.MonkeyPatch) -> AwsServer:
    """Return an AWS with one secret."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url)
    running.clear()
    return running


@contextmanager
def reading(aws: AwsServer, **options: object) -> Iterator[Any]:
    """Yield a sink."""
    given = {"region": REGION, "endpoint_url": aws.url, "timeout": "2s", **options}
    sink = MODULE.build("sm", MODULE.Options(**given), Path("/"))
    yield sink
    sink.close()


def asked(sink: Any) -> None:
    """Make a call that only has to be signed: there is no such secret."""
    with raising_without_secret(NotFound):
        sink.secret_at("svc")


# The table


@pytest.mark.parametrize(("service", "operation"), [(s, name) for s, names in OPERATIONS.items() for name in names])
def test_every_error_of_the_service_is_in_the_table(service: str, operation: str) -> None:
    """Each error shape that the SDK's model of an operation declares has a meaning and a fix."""
    model = botocore.session.Session().get_service_model(service).operation_model(operation)
    codes = [shape.metadata.get("error", {}).get("code", shape.name) for shape in model.error_shapes]
    assert not [code for code in codes if code not in _aws.CODES]


def test_every_exception_of_the_sdk_is_in_the_table() -> None:
    """Whatever class the SDK raises has a meaning; what may be raised after sending counts as perhaps done."""
    kinds = [kind for kind in vars(botocore.exceptions).values() if isinstance(kind, type)]
    raised = [kind for kind in kinds if issubclass(kind, botocore.exceptions.BotoCoreError)]
    assert len(raised) > 80
    for kind in raised:
        name = next(base.__name__ for base in kind.__mro__ if base.__name__ in _aws.RAISED)
        if issubclass(kind, botocore.exceptions.HTTPClientError):
            assert _aws.RAISED[name][0] is OutcomeUnknown, kind
        if name != "BotoCoreError":
            assert name in vars(botocore.exceptions)
    known = {kind.__name__ for kind in kinds} | {kind.__name__ for kind in _aws._BUILT_IN}
    known |= {"ResponseParserError", "UnicodeError"}
    assert set(_aws.RAISED) <= known


@pytest.mark.parametrize("name", list(_aws.RAISED))
def test_errors_say_place_and_fix_only(name: str) -> None:
    """A read that was perhaps done is simply repeatable; a write is not, unless it certainly never left."""
    kind, words = _aws.RAISED[name]
    read = _aws._error(kind, _aws.Call("svc", "x", {}), words, "")
    write = _aws._error(kind, _aws.Call("svc", "x", {}, writes=True), words, "")
    assert not isinstance(read, OutcomeUnknown)
    assert isinstance(write, kind)
    assert read.message == write.message == f"svc: {words}"


# Credentials


def test_the_environment_is_read(aws: AwsServer) -> None:
    """Without options the SDK's own chain is asked."""
    with reading(aws) as sink:
        asked(sink)
    assert aws.seen[-1].key_id == ENVIRONMENT["AWS_ACCESS_KEY_ID"]


def test_a_profile_is_read(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A named profile yields key and region; an unknown one is said."""
    (tmp_path / "c").write_text("[ops]\naws_access_key_id = AKIAPROFILE\naws_secret_access_key = canary\n")
    (tmp_path / "config").write_text("[profile ops]\nregion = eu-central-1\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "c"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with reading(aws, profile="ops", region="") as sink:
        asked(sink)
    assert aws.seen[-1].key_id == "AKIAPROFILE"
    with reading(aws, profile="nobody") as sink, raising_without_secret(Permanent, match="no such profile"):
        sink.secret_at("svc")


@pytest.mark.parametrize("name", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region_may_come_from_the_environment(aws: AwsServer, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Pods have AWS_REGION, which the SDK alone does not read; without any region the error says what to set."""
    with reading(aws, region="") as sink, raising_without_secret(Permanent, match="set region or AWS_REGION"):
        sink.secret_at("svc")
    monkeypatch.setenv(name, REGION)
    with reading(aws, region="") as sink:
        asked(sink)


def test_no_credentials_are_said(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the chain yields nothing the error lists what to set; once it yields something, the same sink works."""
    key = ENVIRONMENT["AWS_ACCESS_KEY_ID"]
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    for options in ({}, {"role_arn": ROLE}):
        with reading(aws, **options) as sink:
            with raising_without_secret(Permanent, match="no usable AWS credentials"):
                sink.secret_at("svc")
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", key)
            asked(sink)
            monkeypatch.delenv("AWS_ACCESS_KEY_ID")


def test_rejected_credentials_are_read_anew(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that were replaced while the daemon runs are found after the first refusal, without a restart."""
    with reading(aws) as sink:
        asked(sink)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANEW")
        aws.fail("GetSecretValue", Fault("UnrecognizedClientException"))
        with raising_without_secret(CredentialRejected):
            sink.secret_at("svc")
        asked(sink)
    assert aws.seen[-1].key_id == "AKIANEW"


def test_a_role_is_assumed_with_its_external_id(aws: AwsServer) -> None:
    """The role's own key signs, the role is assumed once for many threads, and only with the right external id."""
    aws.external_id = "ours"
    with reading(aws, role_arn=ROLE, external_id="ours") as sink, ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: asked(sink), range(16)))
    assert aws.calls("AssumeRole") == ["AssumeRole"]
    given = next(seen for seen in aws.seen if seen.operation == "AssumeRole")
    assert (given.parameters["RoleArn"], given.parameters["RoleSessionName"]) == (ROLE, "rotator")
    assert given.key_id == ENVIRONMENT["AWS_ACCESS_KEY_ID"]
    assert aws.seen[-1].key_id.startswith("ASIA")
    with (
        reading(aws, role_arn=ROLE, external_id="theirs") as sink,
        raising_without_secret(Forbidden, match="svc: the role cannot be assumed"),
    ):
        sink.secret_at("svc")


def test_a_role_that_ends_is_assumed_again(aws: AwsServer) -> None:
    """Credentials near their end are renewed before the next call; those that have ended already are an error."""
    soon = [Fault(body=_role("AKIASOON", minutes), status=200) for minutes in (1, 60)]
    aws.fail("AssumeRole", *soon)
    with reading(aws, role_arn=ROLE) as sink:
        asked(sink)
        asked(sink)
        asked(sink)
    assert len(aws.calls("AssumeRole")) == 2
    aws.fail("AssumeRole", *[Fault(body=_role("AKIALATE", -1), status=200)] * 3)
    with reading(aws, role_arn=ROLE) as sink, raising_without_secret(Temporary, match="could not be renewed"):
        sink.secret_at("svc")


def _role(key_id: str, minutes: int) -> bytes:
    """Return what STS answers for a role that ends so soon."""
    end = datetime.now(UTC) + timedelta(minutes=minutes)
    return f"""<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
        <AccessKeyId>{key_id}</AccessKeyId><SecretAccessKey>canary</SecretAccessKey><SessionToken>canary</SessionToken>
        <Expiration>{end:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials><AssumedRoleUser><Arn>{ROLE}</Arn>
        <AssumedRoleId>a:b</AssumedRoleId></AssumedRoleUser></AssumeRoleResult></AssumeRoleResponse>""".encode()


def test_a_pod_of_eks_needs_no_options(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """IRSA: the role and the projected token that EKS puts into the environment are used."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "token").write_text("canary-web-identity")
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    with reading(aws) as sink:
        asked(sink)
    given = next(seen for seen in aws.seen if seen.operation == "AssumeRoleWithWebIdentity")
    assert (given.parameters["RoleArn"], given.parameters["WebIdentityToken"]) == (ROLE, "canary-web-identity")
    assert aws.seen[-1].key_id.startswith("ASIA")


class _Agent(BaseHTTPRequestHandler):
    """The agent of EKS Pod Identity."""

    def do_GET(self) -> None:
        """Answer credentials to who shows the token."""
        known = self.headers["Authorization"] == "canary-pod-token"
        said = {
            "AccessKeyId": "ASIAPOD",
            "SecretAccessKey": "canary",
            "Token": "canary",
            "Expiration": "2099-01-01T00:00:00Z",
        }
        content = json.dumps(said if known else {"message": "no"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Proxy(BaseHTTPRequestHandler):
    """A forward proxy that lets nothing through."""

    asked: list[str] = []  # noqa: RUF012 - shared by the handlers on purpose

    def do_POST(self) -> None:
        """Note it, refuse."""
        self.asked.append(self.path)
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@contextmanager
def http(handler: type[BaseHTTPRequestHandler], tls: Any = None) -> Iterator[str]:
    """Run a small server, with TLS if a context is given, and yield its URL."""
    server = Loopback(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_pod_identity_needs_no_options(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pod Identity: the agent and the token file that EKS puts into the environment are used."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    (tmp_path / "token").write_text("canary-pod-token")
    with http(_Agent) as url:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{url}/v1/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        with reading(aws) as sink:
            asked(sink)
        assert aws.seen[-1].key_id == "ASIAPOD"
        (tmp_path / "token").write_text("another")
        with reading(aws) as sink, raising_without_secret(Permanent, Temporary):
            sink.secret_at("svc")


# Network


def test_proxies_of_the_environment_count(aws: AwsServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """HTTP_PROXY is used, NO_PROXY spares it, and a proxy's own refusal is not taken for AWS's."""
    with http(_Proxy) as url:
        monkeypatch.setenv("HTTP_PROXY", url)
        monkeypatch.setenv("http_proxy", url)
        with reading(aws) as sink, raising_without_secret(Forbidden, match="whether a proxy is in the way"):
            sink.secret_at("svc")
        assert _Proxy.asked
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        with reading(aws) as sink:
            asked(sink)


@pytest.mark.parametrize("how", ["option", "SSL_CERT_FILE", "AWS_CA_BUNDLE", "nothing"])
def test_trust_comes_from_one_bundle(aws: AwsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """TLS is verified against ca_bundle, else the bundle that the environment names; an unknown server is refused."""
    for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    certificate, context = _authority(tmp_path)
    if how.isupper():
        monkeypatch.setenv(how, str(certificate))
    bundle = {"ca_bundle": str(certificate)} if how == "option" else {}
    message = "not trusted; check ca_bundle" if how == "nothing" else "whether a proxy is in the way"
    with (
        http(_Proxy, context) as url,
        reading(aws, endpoint_url=url, **bundle) as sink,
        raising_without_secret(RotatorError, match=message),
    ):
        sink.secret_at("svc")


@pytest.mark.parametrize("kind", ["aws_secrets_manager", "aws_ssm_parameter"])
def test_why_a_certificate_is_refused_is_said(aws: AwsServer, tmp_path: Path, kind: str) -> None:
    """Each sink says it as OpenSSL does, of the authority and of the name; nothing was sent, and ca_bundle mends it."""
    bundle, context = _authority(tmp_path)
    (tmp_path / "ca.pem").rename(tmp_path / "later.pem")
    (tmp_path / "ca.pem").write_bytes(Path(certifi.where()).read_bytes())
    module: Any = sinks.load(kind)
    with http(_Proxy, context) as url:

        def built(endpoint: str) -> Any:
            options = {"region": REGION, "endpoint_url": endpoint, "timeout": "2s", "ca_bundle": str(bundle)}
            return module.build("sink", module.Options(**options), Path("/"))

        sink, elsewhere = built(url), built(url.replace("127.0.0.1", "localhost"))
        place = sink.resolve(sinks.checked(module.DeliveryOptions, {}), facts())
        _Proxy.asked.clear()
        for call in (sink.preflight, sink.read_back, lambda where: sink.deliver(where, mint())):
            with raising_without_secret(Temporary, match=r"trusted; check ca_bundle.* \(self.signed certificate\)$"):
                call(place)
        assert not _Proxy.asked
        (tmp_path / "later.pem").replace(bundle)
        with raising_without_secret(Temporary, match=r"not trusted; check ca_bundle.* \(hostname mismatch\)$"):
            elsewhere.deliver(place, mint())
        assert not _Proxy.asked
        with raising_without_secret(Forbidden):
            sink.deliver(place, mint())
        assert _Proxy.asked
        sink.close()
        elsewhere.close()


def test_a_write_to_whom_we_do_not_trust_never_left(aws: AwsServer, tmp_path: Path) -> None:
    """What ends as the certificate is refused, be it of STS, had no effect; other TLS failures leave doubt."""
    _, context = _authority(tmp_path)
    parameters = {"Name": "svc", "Type": "SecureString"}
    call = _aws.Call("svc", "put_parameter", parameters, writes=True, repeats=False, secret=Secret(CANARY))
    with http(_Proxy, context) as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_STS", url)
        for options in ({"endpoint_url": url}, {"endpoint_url": aws.url, "role_arn": ROLE}):
            service = _aws.Service("ssm", _aws.AwsOptions(region=REGION, timeout="2s", **options), Path("/"))
            with raising_without_secret(Temporary, match=r"\(self.signed certificate\)$"):
                service.ask(call)
            service.close()
    assert not aws.calls("PutParameter")
    with http(_Proxy) as url:
        options = {"endpoint_url": url.replace("http:", "https:")}
        service = _aws.Service("ssm", _aws.AwsOptions(region=REGION, timeout="2s", **options), Path("/"))
        with raising_without_secret(OutcomeUnknown, match="TLS failed"):
            service.ask(call)
        service.close()


def _authority(folder: Path) -> tuple[Path, Any]:
    """Return a certificate for loopback that signs itself, and a server's side of it."""
    import ipaddress
    import ssl

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate, private = folder / "ca.pem", folder / "key.pem"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, private)
    return certificate, context


def test_a_bundle_that_does_not_exist_is_said(aws: AwsServer, tmp_path: Path) -> None:
    """A misspelt ca_bundle is an error with its fix, not a trace."""
    with (
        reading(aws, ca_bundle=str(tmp_path / "none.pem"), endpoint_url="https://127.0.0.1:1") as sink,
        raising_without_secret(RotatorError, match="ca_bundle"),
    ):
        sink.secret_at("svc")


# Options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"endpoint_url": "http://example.com"}, "must be https"),
        ({"endpoint_url": "https://user@example.com"}, "plain URL"),
        ({"endpoint_url": "https://example.com?x=canary"}, "plain URL"),
        ({"role_arn": "rotator"}, "ARN of a role"),
        ({"external_id": "x"}, "needs role_arn"),
        ({"timeout": "0s"}, "more than nothing"),
        ({"timeout": "1h"}, "at most"),
        ({"timeout": "soon"}, "not a duration"),
        ({"region": "EU West"}, "should match pattern"),
        ({"access_key": "x"}, "Extra inputs"),
    ],
)
@pytest.mark.parametrize("kind", ["aws_secrets_manager", "aws_ssm_parameter"])
def test_wrong_options_are_refused_at_load(kind: str, options: dict[str, object], message: str) -> None:
    """Every mistake in a sink's table is a validation error with its fix, and repeats no value."""
    with pytest.raises(ValidationError, match=message) as caught:
        sinks.load(kind).Options(**options)
    assert "canary" not in str(caught.value)


def test_the_sdk_is_loaded_at_the_first_call_only() -> None:
    """Checking a configuration stays cheap: neither importing nor building a sink loads the SDK."""
    script = """
import sys
from pathlib import Path
from rotator import sinks
for kind in ("aws_secrets_manager", "aws_ssm_parameter"):
    module = sinks.load(kind)
    module.build("x", module.Options(), Path("/")).close()
assert not {"boto3", "botocore"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
