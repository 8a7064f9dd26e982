"""A real kube-apiserver on Debian's etcd, on loopback, and a proxy before it that fails on command.

`.ci/kube-apiserver` builds the binary and installs etcd. Where they are missing, tests skip and say so, and fail when
`ROTATOR_REQUIRE_SERVERS` says that they must run. There are no controllers: what they would write, tests write.
"""

import base64
import json
import os
import shutil
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from tests.servers.loopback import Loopback

ADMIN = "admin-token"
_READY_S = 120
_CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


@dataclass
class KubeServer:
    """A running API server, seen by its administrator."""

    port: int
    ca: Path
    folder: Path
    client: httpx.Client
    numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 1_000_000)))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        """Return the object that a request yields; it must succeed, or say 404, which yields nothing."""
        if method == "PATCH":
            headers["content-type"] = "application/merge-patch+json"
        answer = self.client.request(method, path, json=body, headers=headers)
        assert answer.is_success or answer.status_code == 404, answer.text
        return {} if answer.status_code == 404 else answer.json()

    def namespace(self) -> str:
        """Make a namespace of its own for a test."""
        name = f"test-{next(self.numbers)}"
        self.call("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        return name

    def secret(self, namespace: str, name: str) -> dict[str, Any]:
        """Return a Secret; empty if there is none."""
        return self.call("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")

    def put(self, namespace: str, name: str, data: dict[str, str], **more: object) -> dict[str, Any]:
        """Write keys of a Secret by hand; it is made if missing."""
        body = {"data": {key: base64.b64encode(text.encode()).decode() for key, text in data.items()}, **more}
        path = f"/api/v1/namespaces/{namespace}/secrets"
        if self.secret(namespace, name):
            return self.call("PATCH", f"{path}/{name}", body)
        return self.call("POST", path, {**body, "metadata": {"name": name, **body.get("metadata", {})}})  # type: ignore[dict-item]

    def workload(self, namespace: str, kind: str, name: str) -> str:
        """Make a workload; return its path."""
        labels = {"app": name}
        template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": "none"}]}}
        spec: dict[str, object] = {"selector": {"matchLabels": labels}, "template": template}
        if kind == "StatefulSet":
            spec["serviceName"] = name
        path = f"/apis/apps/v1/namespaces/{namespace}/{kind.lower()}s"
        self.call("POST", path, {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": name}, "spec": spec})
        return f"{path}/{name}"

    def account(self, namespace: str, *rules: dict[str, object]) -> str:
        """Make a service account that may do what the rules of one Role in its namespace say; return its name."""
        name = f"account-{next(self.numbers)}"
        self.call("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts", {"metadata": {"name": name}})
        rbac = f"/apis/rbac.authorization.k8s.io/v1/namespaces/{namespace}"
        self.call("POST", f"{rbac}/roles", {"metadata": {"name": name}, "rules": list(rules)})
        binding = {
            "metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": name},
            "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": namespace}],
        }
        self.call("POST", f"{rbac}/rolebindings", binding)
        return name

    def token(self, namespace: str, account: str, bound_to: str = "") -> str:
        """Return a token as a projected volume holds it; it dies with the Secret that it is bound to."""
        spec: dict[str, object] = {"expirationSeconds": 600}
        if bound_to:
            uid = self.secret(namespace, bound_to)["metadata"]["uid"]
            spec["boundObjectRef"] = {"kind": "Secret", "apiVersion": "v1", "name": bound_to, "uid": uid}
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        return str(self.call("POST", path, request)["status"]["token"])

    def client_certificate(self, user: str, group: str) -> tuple[Path, Path]:
        """Write a certificate by which a user of a group logs in; return the paths of it and of its key."""
        signer = serialization.load_pem_private_key((self.folder / "ca.key").read_bytes(), None)
        issuer = x509.load_pem_x509_certificate(self.ca.read_bytes())
        assert isinstance(signer, rsa.RSAPrivateKey)
        key, certificate = _signed(user, signer, issuer, group)
        paths = self.folder / f"{user}.pem", self.folder / f"{user}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(_private(key))
        return paths

    def kubeconfig(self, user: dict[str, object], server: str = "", **cluster: object) -> Path:
        """Write a kubeconfig for a user, such as `{"token": ...}`, that reaches the server or another address."""
        path = self.folder / f"kubeconfig-{next(self.numbers)}"
        named = {"server": server or f"https://127.0.0.1:{self.port}", "certificate-authority": str(self.ca), **cluster}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": named}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        }
        path.write_text(json.dumps(content))  # JSON is YAML
        return path


@contextmanager
def running() -> Iterator[KubeServer]:
    """Run etcd and kube-apiserver until the block ends."""
    etcd, apiserver = _binaries()
    folder = Path(tempfile.mkdtemp(prefix="rotator-kube-"))
    processes: list[subprocess.Popen[bytes]] = []
    try:
        yield from _started(folder, etcd, apiserver, processes)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> tuple[str, str]:
    built = sorted(_CACHE.glob("rotator/kube-apiserver-*[0-9]"))
    apiserver = os.environ.get("ROTATOR_KUBE_APISERVER") or shutil.which("kube-apiserver") or str([*built, ""][0])
    etcd = shutil.which("etcd")
    if etcd and apiserver:
        return etcd, apiserver
    reason = "there is no kube-apiserver or no etcd; .ci/kube-apiserver builds and installs them"
    if os.environ.get("ROTATOR_REQUIRE_SERVERS") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


def _started(
    folder: Path, etcd: str, apiserver: str, processes: list["subprocess.Popen[bytes]"]
) -> Iterator[KubeServer]:
    client_port, peer_port, port = _free_ports(3)
    ca = _certificates(folder)
    (folder / "tokens.csv").write_text(f"{ADMIN},admin,admin,system:masters\n")

    # Tests that are killed take the servers with them.
    bound = ("setpriv", "--pdeathsig", "KILL") if shutil.which("setpriv") else ()

    def start(name: str, *command: str) -> None:
        with (folder / f"{name}.log").open("wb") as log:
            processes.append(subprocess.Popen([*bound, *command], stdout=log, stderr=log, cwd=folder))

    start(
        "etcd", etcd, f"--data-dir={folder}/etcd", "--unsafe-no-fsync",
        f"--listen-client-urls=http://127.0.0.1:{client_port}", f"--advertise-client-urls=http://127.0.0.1:{client_port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer_port}",
        f"--initial-cluster=default=http://127.0.0.1:{peer_port}",
    )  # fmt: skip
    start(
        "apiserver", apiserver, f"--etcd-servers=http://127.0.0.1:{client_port}", "--bind-address=127.0.0.1",
        "--advertise-address=127.0.0.1", f"--secure-port={port}", f"--tls-cert-file={folder}/server.pem",
        f"--tls-private-key-file={folder}/server.key", f"--client-ca-file={ca}",
        f"--token-auth-file={folder}/tokens.csv",
        "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24", "--service-account-issuer=https://test",
        f"--service-account-key-file={folder}/server.key", f"--service-account-signing-key-file={folder}/server.key",
        "--disable-admission-plugins=ServiceAccount",
    )  # fmt: skip
    context = ssl.create_default_context(cafile=str(ca))
    headers = {"authorization": f"Bearer {ADMIN}"}
    with httpx.Client(
        base_url=f"https://127.0.0.1:{port}", verify=context, headers=headers, timeout=30, trust_env=False
    ) as client:
        _wait(client, processes, folder)
        yield KubeServer(port, ca, folder, client)


def _wait(client: httpx.Client, processes: list["subprocess.Popen[bytes]"], folder: Path) -> None:
    until_s = time.monotonic() + _READY_S
    while time.monotonic() < until_s and all(process.poll() is None for process in processes):
        with suppress(httpx.TransportError):
            if client.get("/readyz").is_success and client.get("/api/v1/namespaces/default").is_success:
                return
        time.sleep(0.1)
    pytest.fail("kube-apiserver does not start: " + (folder / "apiserver.log").read_text()[-2000:])


def _free_ports(count: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    return ports


def _certificates(folder: Path) -> Path:
    """Write a CA and a server certificate of it; return the CA's path."""
    authority_key, authority = _signed("test CA", None, None)
    key, certificate = _signed("127.0.0.1", authority_key, authority)
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    (folder / "ca.key").write_bytes(_private(authority_key))
    (folder / "server.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "server.key").write_bytes(_private(key))
    return folder / "ca.pem"


def _private(key: rsa.RSAPrivateKey) -> bytes:
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL
    return key.private_bytes(encoding, form, serialization.NoEncryption())


def _signed(
    name: str, signer: rsa.RSAPrivateKey | None, issuer: x509.Certificate | None, group: str = ""
) -> tuple[rsa.RSAPrivateKey, x509.Certificate]:
    key = rsa.generate_private_key(65537, 2048)
    groups = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    subject = x509.Name([*groups, x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    issuing_key = (signer or key).public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=2))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing_key), critical=False)
        .add_extension(
            x509.KeyUsage(
                digital_signature=True, key_cert_sign=issuer is None, crl_sign=issuer is None, key_encipherment=True,
                content_commitment=False, data_encipherment=False, key_agreement=False, encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
    )  # fmt: skip
    if issuer:
        names = [x509.IPAddress(ip_address("127.0.0.1")), x509.DNSName("localhost")]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(signer or key, hashes.SHA256())


@dataclass(frozen=True)
class Seen:
    """One request as the proxy saw it."""

    method: str
    path: str
    body: bytes = field(repr=False)
    headers: dict[str, str]


@dataclass(frozen=True)
class Reply:
    """What the proxy answers: the server's own answer, or one made up; `cut` answers nothing and hangs up."""

    status: int = 200
    body: bytes = field(default=b"", repr=False)
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False


Forward = Callable[[], Reply]
Fault = Callable[[Seen, Forward], Reply]


class FaultyProxy:
    """Plain HTTP on loopback before the API server; `fault` sees each request and may forward it, or not."""

    def __init__(self, server: KubeServer) -> None:
        self.seen: list[Seen] = []
        self.connections = 0
        self.fault: Fault = lambda _, forward: forward()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                proxy.connections += 1

            def handle_one_request(self) -> None:
                with suppress(ConnectionError):
                    super().handle_one_request()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                seen = Seen(self.command, self.path, body, {k.lower(): v for k, v in self.headers.items()})
                proxy.seen.append(seen)
                reply = proxy.fault(seen, lambda: proxy.forward(server, seen))
                if reply.cut:
                    self.close_connection = True
                    return
                self.send_response(reply.status)
                for name, value in {"content-type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_PATCH = answer  # noqa: N815

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                pass

        self._http = Loopback(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._http.server_port}"

    def forward(self, server: KubeServer, seen: Seen) -> Reply:
        """Let the real server answer."""
        kept = {
            name: seen.headers[name] for name in ("authorization", "content-type", "accept") if name in seen.headers
        }
        url = f"https://127.0.0.1:{server.port}{seen.path}"
        context = ssl.create_default_context(cafile=str(server.ca))
        with httpx.Client(verify=context, trust_env=False, timeout=30) as client:
            answer = client.request(seen.method, url, content=seen.body, headers=kept)
        return Reply(answer.status_code, answer.content)

    def close(self) -> None:
        """Stop answering."""
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()
