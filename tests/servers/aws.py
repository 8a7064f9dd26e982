"""AWS on loopback: moto's Secrets Manager, Parameter Store and STS, made strict where moto is not, with faults.

moto differs from AWS where it matters most: after UpdateSecretVersionStage it leaves two versions AWSCURRENT, takes one
ClientRequestToken twice under AWSPENDING, forgets the limits of the tiers and the allowed patterns, and writes what is
deleted. Here all that is as AWS documents it. Calls run one at a time, for moto is not thread-safe.
"""

import io
import json
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs

from moto.backends import get_backend
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

ACCOUNT = "123456789012"
REGION = "eu-west-1"
Start = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call.

    Attributes:
        code: The error that is answered; empty for none.
        body: Answered as it is, as a proxy would, when there is no code.
        after: Whether the call takes effect first.
        hang_s: Nothing is answered for so long.
        cut: The connection is closed without an answer.
    """

    code: str = ""
    status: int = 400
    body: bytes = field(default=b"", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
    after: bool = False
    hang_s: float = 0.0
    cut: bool = False


@dataclass(frozen=True, slots=True)
class Seen:
    """One call as it came."""

    operation: str
    parameters: dict[str, Any]
    key_id: str
    headers: dict[str, str]


class _Handler(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"  # connections are kept, as at AWS

    def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002 - werkzeug's spelling
        """Say nothing."""


class AwsServer:
    """Start it, use `url`, stop it; `clear` between tests."""

    def __init__(self) -> None:
        self._moto = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.RLock()
        self._server = make_server("127.0.0.1", 0, self._answer, threaded=True, request_handler=_Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.clear()

    def start(self) -> None:
        """Serve."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def clear(self) -> None:
        """Forget everything but the port."""
        for service in ("secretsmanager", "ssm", "sts", "iam"):
            for region in get_backend(service)[ACCOUNT].values():
                region.reset()
        self.faults: dict[str, deque[Fault]] = defaultdict(deque)
        self.denied: set[str] = set()
        self.before: dict[str, deque[Callable[[], object]]] = defaultdict(deque)
        self.external_id = ""
        self.seen: list[Seen] = []

    @property
    def secrets(self) -> Any:
        """moto's secrets, by name."""
        return get_backend("secretsmanager")[ACCOUNT][REGION].secrets

    @property
    def parameters(self) -> Any:
        """moto's parameters: every version by name."""
        return get_backend("ssm")[ACCOUNT][REGION]._parameters

    def fail(self, operation: str, *faults: Fault) -> None:
        """Let the next calls of an operation go wrong, one after the other."""
        self.faults[operation].extend(faults)

    def calls(self, *operations: str) -> list[str]:
        """Return which operations were called, of these if any are named."""
        return [seen.operation for seen in self.seen if not operations or seen.operation in operations]

    def staged(self, name: str) -> dict[str, list[str]]:
        """Return the labels of every version of a secret."""
        return {version: list(held["version_stages"]) for version, held in self.secrets[name].versions.items()}

    def currents(self) -> dict[str, int]:
        """Return how many versions are AWSCURRENT, by secret that has versions."""
        return {
            name: sum("AWSCURRENT" in held["version_stages"] for held in secret.versions.values())
            for name, secret in self.secrets.items()
            if secret.versions
        }

    def _answer(self, environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        seen = _seen(environ, body)
        self.seen.append(seen)
        for hook in self._popped(self.before, seen.operation):
            hook()
        fault = next(iter(self._popped(self.faults, seen.operation)), Fault())
        if seen.operation in self.denied:
            return _said(start, "AccessDeniedException", 400)
        answer = self._served(environ, body, seen) if _reaches(fault) else None
        if fault.hang_s:
            time.sleep(fault.hang_s)
        if fault.cut:
            with suppress(OSError):
                environ["werkzeug.socket"].shutdown(2)
            raise ConnectionError("cut on purpose")
        if fault.code:
            return _said(start, fault.code, fault.status, fault.headers)
        if fault.body:
            start(f"{fault.status} Fault", [("Content-Type", "text/html"), ("Content-Length", str(len(fault.body)))])
            return [fault.body]
        status, headers, content = answer or ("500 None", [], b"")
        start(status, headers)
        return [content]

    def _popped(self, queues: dict[str, deque[Any]], operation: str) -> list[Any]:
        return [queues[operation].popleft()] if queues[operation] else []

    def _served(self, environ: dict[str, Any], body: bytes, seen: Seen) -> tuple[str, list[tuple[str, str]], bytes]:
        kept: list[Any] = []
        with self._lock:
            refusal = self._refusal(seen)
            if isinstance(refusal, dict):
                content = json.dumps(refusal).encode()
                return "200 OK", [("Content-Type", "application/x-amz-json-1.1"), _length(content)], content
            if refusal:
                content = b"".join(_said(lambda *given: kept.extend(given), refusal, 400, query=seen.operation[0:6]))
                return kept[0], kept[1], content
            self._repair()
            inner = {**environ, "wsgi.input": io.BytesIO(body)}
            content = b"".join(self._moto(inner, lambda *given: kept.extend(given[:2])))
            self._repair()
            return kept[0], [pair for pair in kept[1] if pair[0] != "Connection"], content

    def _repair(self) -> None:
        """Let moto know which version is current after a label moved."""
        for secret in self.secrets.values():
            for version, held in secret.versions.items():
                held["version_stages"] = list(dict.fromkeys(held["version_stages"]))
                if "AWSCURRENT" in held["version_stages"]:
                    secret.default_version_id = version

    def _refusal(self, seen: Seen) -> str | dict[str, Any]:
        """Return the code of an error of AWS that moto would not give, or an answer that it would not."""
        check = getattr(self, f"_check_{seen.operation}", None)
        return check(seen.parameters) if check else ""

    def _check_PutSecretValue(self, given: dict[str, Any]) -> str | dict[str, Any]:  # noqa: N802
        if given["SecretId"] not in self.secrets:
            return "ResourceNotFoundException"
        secret = self.secrets[given["SecretId"]]
        if secret.is_deleted():
            return "InvalidRequestException"
        if len(given.get("SecretString", "").encode()) > 65536:
            return "InvalidParameterException"
        held = secret.versions.get(given.get("ClientRequestToken"))
        if held is None:
            return ""
        if held.get("secret_string") != given.get("SecretString"):
            return "ResourceExistsException"
        return {"ARN": secret.arn, "Name": secret.name, "VersionId": held["version_id"], "VersionStages": []}

    def _check_UpdateSecretVersionStage(self, given: dict[str, Any]) -> str:  # noqa: N802
        if given["SecretId"] not in self.secrets:
            return "ResourceNotFoundException"
        versions = self.secrets[given["SecretId"]].versions
        if self.secrets[given["SecretId"]].is_deleted():
            return "InvalidRequestException"
        holders = [version for version, held in versions.items() if given["VersionStage"] in held["version_stages"]]
        if holders and given.get("RemoveFromVersionId") not in holders:
            return "InvalidParameterException"
        return "" if given.get("MoveToVersionId") in versions else "ResourceNotFoundException"

    def _check_PutParameter(self, given: dict[str, Any]) -> str:  # noqa: N802
        held = self.parameters.get(given["Name"])
        if held and not given.get("Overwrite"):
            return "ParameterAlreadyExists"
        tier = given.get("Tier", "Standard")
        if len(given["Value"].encode()) > (4096 if tier == "Standard" else 8192):
            return "ValidationException"
        if held and held[-1].tier == "Advanced" and tier == "Standard":
            return "ValidationException"
        pattern = given.get("AllowedPattern") or (held[-1].allowed_pattern if held else "")
        return "ParameterPatternMismatchException" if pattern and not re.search(pattern, given["Value"]) else ""

    def _check_AssumeRole(self, given: dict[str, Any]) -> str:  # noqa: N802
        return "AccessDenied" if self.external_id and given.get("ExternalId") != self.external_id else ""


def _reaches(fault: Fault) -> bool:
    """Whether the call takes effect."""
    return fault.after or not (fault.code or fault.body or fault.cut or fault.hang_s)


def _seen(environ: dict[str, Any], body: bytes) -> Seen:
    target = environ.get("HTTP_X_AMZ_TARGET", "")
    headers = {key[5:]: value for key, value in environ.items() if key.startswith("HTTP_")}
    key = re.search(r"Credential=([^/]+)/", environ.get("HTTP_AUTHORIZATION", ""))
    if target:
        return Seen(target.split(".")[-1], json.loads(body or b"{}"), key[1] if key else "", headers)
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    return Seen(form.get("Action", environ["PATH_INFO"]), form, key[1] if key else "", headers)


def _length(content: bytes) -> tuple[str, str]:
    return "Content-Length", str(len(content))


def _said(
    start: Start, code: str, status: int, headers: Iterable[tuple[str, str]] = (), query: str = ""
) -> Iterable[bytes]:
    """Answer an error as AWS does; the message holds what no message of ours may."""
    if query == "Assume":
        xml = f"<ErrorResponse><Error><Code>{code}</Code><Message>canary-vendor-text</Message></Error></ErrorResponse>"
        start("403 Forbidden", [("Content-Type", "text/xml"), _length(xml.encode())])
        return [xml.encode()]
    content = json.dumps({"__type": code, "message": "canary-vendor-text"}).encode()
    start(f"{status} Fault", [("Content-Type", "application/x-amz-json-1.1"), _length(content), *headers])
    return [content]


@contextmanager
def serving() -> Iterator[AwsServer]:
    """Run it for a while."""
    server = AwsServer()
    server.start()
    try:
        yield server
    finally:
        server.stop()


# What a process has that knows no other AWS than this.
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
    "AWS_SECRET_ACCESS_KEY": "canary-access-key",
    "AWS_CONFIG_FILE": "/nonexistent",
    "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent",
    "AWS_EC2_METADATA_DISABLED": "true",
}
