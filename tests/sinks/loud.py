"""One sink with every logger at DEBUG, in a process of its own: `python -m tests.sinks.loud TYPE`.

Levels and SDKs are a matter of the whole process, so what other tests loaded or set before must not count. Prints what
was said where; every secret and credential in here holds `canary`.
"""

import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from rotator import sinks
from rotator.errors import RotatorError
from rotator.ports import Sink
from rotator.testing.secrecy import spellings
from tests.servers.faulty import Fault, Reply
from tests.sinks.contract import CANARY, facts, mint

TOKEN = "canary-access-token"
# What an operator sets to DEBUG by name when calls fail, besides the root.
NAMED = (
    "google.auth",
    "google.auth.transport.requests",
    "google.cloud.secretmanager_v1",
    "azure.core.pipeline.policies.http_logging_policy",
    "azure.identity",
    "botocore",
    "botocore.auth",
    "botocore.endpoint",
    "botocore.hooks",
    "botocore.parsers",
    "hvac",
    "httpcore",
    "httpx",
    "kubernetes.client.rest",
    "urllib3",
    "urllib3.connectionpool",
)
hidden = [*spellings("canary"), "SecretAccessKey"]  # what must not be said, and the name of what AWS makes up
Loud = tuple[Sink, dict[str, object], Callable[[], object], Callable[[], object]]


class Ear(logging.Handler):
    """Keeps what a record says and carries, by the logger's name."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.said: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        trace = "".join(traceback.format_exception(*record.exc_info)) if record.exc_info else ""
        self.said.append((record.name, f"{record.getMessage()} {record.__dict__!r} {trace}"))


@contextmanager
def gcp() -> Iterator[Loud]:
    """An account of a user, whose access tokens are fetched with a refresh token."""
    import certifi
    from google.oauth2.credentials import Credentials

    from rotator.sinks._google import Endpoint, SecretManager
    from tests.servers.gcp import GcpServer, said

    class WithTokens(GcpServer):
        def answered(self, request: Any) -> Reply:
            return (
                Reply(200, {"access_token": TOKEN, "expires_in": 60})
                if "/token" in request.path
                else self.plain(request)
            )

        plain = GcpServer.answered

    server = WithTokens()
    ids = {"client_id": "rotator", "client_secret": "canary-client-secret", "token_uri": f"{server.url}/token"}
    module: Any = sinks.load("gcp_secret_manager")
    endpoint = Endpoint(server.url, certifi.where(), timedelta(seconds=5))
    api = SecretManager("gcp", endpoint, lambda: Credentials(None, refresh_token="canary-refresh-token", **ids))
    refused = Fault(reply=said(403), times=99)
    yield module.GcpSecretManagerSink("gcp", "acme", api), {"create": True}, *faults(server, refused)
    assert any(request.headers.get("authorization") == f"Bearer {TOKEN}" for request in server.requests)
    server.close()


@contextmanager
def azure() -> Iterator[Loud]:
    """A token of any login."""
    from tests.servers.azure import AzureServer, certificate, said
    from tests.sinks.test_azure_key_vault import Static, connected

    pem = certificate(Path(tempfile.mkdtemp()))
    server = AzureServer(pem)
    server.token = TOKEN
    yield (
        connected(server.url, pem, Static(TOKEN), timeout_s=5.0),
        {},
        *faults(server, Fault(reply=said(403), times=99)),
    )
    server.close()


@contextmanager
def github() -> Iterator[Loud]:
    """A personal access token."""
    from tests.servers.github import GitHubServer, said

    server = GitHubServer()
    server.add("/repos/acme/dags/actions")
    server.token = TOKEN
    path = Path(tempfile.mkdtemp(), "token")
    path.write_text(TOKEN)
    module: Any = sinks.load("github_actions_secret")
    sink = module.build("actions", module.Options(api_url=server.url, credential=f"file:{path}"), Path("/"))
    block: dict[str, object] = {"owner": "acme", "repository": "dags"}
    yield sink, block, *faults(server, Fault(reply=said(403, "theirs"), times=99))
    server.close()


@contextmanager
def aws(kind: str, **block: object) -> Iterator[Loud]:
    """A role, assumed with the keys of a session."""
    from tests.servers import aws as fake

    with fake.serving() as server:
        os.environ.update(fake.ENVIRONMENT)
        os.environ |= {"AWS_SESSION_TOKEN": "canary-session", "AWS_ENDPOINT_URL_STS": server.url}
        module: Any = sinks.load(kind)
        role = f"arn:aws:iam::{fake.ACCOUNT}:role/rotator"
        options = module.Options(region=fake.REGION, endpoint_url=server.url, role_arn=role)
        denied = {"GetSecretValue", "PutSecretValue", "DescribeSecret", "GetParameter", "PutParameter", "AssumeRole"}
        yield module.build("aws", options, Path("/")), block, lambda: server.denied.update(denied), server.denied.clear
        assert "AssumeRole" in server.calls()


@contextmanager
def vault() -> Iterator[Loud]:
    """A token with the rights that a delivery needs."""
    from tests.servers.vault import serving
    from tests.sinks.test_vault import Outside, VaultHarness

    with serving() as server, ExitStack() as later:
        base = Path(tempfile.mkdtemp())
        outside = Outside(server.address, server.token)
        harness = VaultHarness(outside, base, 2, {})
        hidden.append((base / "token").read_text())
        place: Any = None
        yield harness.sink, {}, lambda: later.enter_context(harness.denied(place)), later.close
        outside.close()


def faults(server: Any, fault: Fault) -> tuple[Callable[[], object], Callable[[], object]]:
    """Return what lets a server fail, and what mends it."""
    return lambda: server.faults.append(fault), server.faults.clear


KINDS: dict[str, Callable[[], Any]] = {
    "aws_secrets_manager": lambda: aws("aws_secrets_manager", create=True),
    "aws_ssm_parameter": lambda: aws("aws_ssm_parameter"),
    "azure_key_vault": azure,
    "gcp_secret_manager": gcp,
    "github_actions_secret": github,
    "vault": vault,
}


def used(
    sink: Sink, kind: str, block: dict[str, object], fail: Callable[[], object], mend: Callable[[], object]
) -> None:
    """Do everything once while all is well, and once while nothing is."""
    place = sink.resolve(sinks.checked(sinks.load(kind).DeliveryOptions, block), facts())
    sink.preflight(place)
    sink.deliver(place, mint())
    assert sink.read_back(place).version
    fail()
    failed = 0
    for call in (sink.preflight, sink.read_back, lambda place: sink.deliver(place, mint(f"{CANARY}2", 2))):
        try:
            call(place)
        except RotatorError:
            failed += 1
    assert failed == 3, "what shall fail does not"
    mend()
    sink.deliver(place, mint(f"{CANARY}3", 3))


def main(kind: str) -> None:
    """Print the loggers that said something, and those that said a secret."""
    ear, root = Ear(), logging.getLogger()
    for logger in (root, logging.getLogger("google")):  # which keeps what it says to itself, where its scope is set
        logger.addHandler(ear)
    for name in ("", *NAMED):
        logging.getLogger(name).setLevel(logging.DEBUG)
    with ExitStack() as stack:
        sink, block, fail, mend = stack.enter_context(KINDS[kind]())
        ear.said.clear()
        used(sink, kind, block, fail, mend)
        sink.close()
    loud = sorted({name for name, text in ear.said if any(one in text for one in hidden)})
    print(json.dumps({"said": sorted({name for name, _ in ear.said}), "loud": loud}))


if __name__ == "__main__":
    main(sys.argv[1])
