"""Azure Key Vault's REST API for secrets, as far as the sink uses it, over TLS and behind its challenge.

Sources: learn.microsoft.com/en-us/rest/api/keyvault/secrets, and of the challenge
learn.microsoft.com/en-us/azure/key-vault/general/authentication-requests-and-responses.
"""

import ipaddress
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.servers.faulty import FaultyServer, Reply, Request

_SECRET = re.compile(r"/(deletedsecrets|secrets)/([0-9A-Za-z-]{1,127})(?:/([0-9a-f]*))?")
CHALLENGE = 'Bearer authorization="https://login.microsoftonline.com/tenant", resource="https://vault.azure.net"'


def said(status: int, code: str = "X", inner: str = "", **headers: str) -> Reply:
    """Return an error in Key Vault's form."""
    error: dict = {"code": code, "message": "theirs"}
    if inner:
        error["innererror"] = {"code": inner}
    return Reply(status, {"error": error}, headers)


def certificate(folder: Path) -> Path:
    """Make a certificate for loopback and return the file of it and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "vault.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


class AzureServer(FaultyServer):
    """Holds secrets by their name in lower case; asks for a token whoever shows none or another."""

    def __init__(self, pem: Path) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem)
        super().__init__(context)
        self.token = "right"
        self.secrets: dict[str, list[dict]] = {}
        self.deleted: set[str] = set()
        self.denied: set[str] = set()
        self.number = 0

    def put(self, name: str, value: str, **more: object) -> dict:
        """Make a version by hand."""
        with self.lock:
            self.number += 1
            row = {"value": value, "tags": {}, "version": f"{self.number:032x}", "enabled": True, **more}
            self.secrets.setdefault(name.lower(), []).append(row)
            return row

    def read(self, name: str) -> str | None:
        """Read the current version as a consumer does."""
        versions = self.secrets.get(name)
        return versions[-1]["value"] if versions else None

    def answered(self, request: Request) -> Reply:
        """See the base."""
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return Reply(401, {"error": {"code": "Unauthorized"}}, {"WWW-Authenticate": CHALLENGE})
        found = _SECRET.fullmatch(request.path)
        if found is None or "api-version" not in request.query:
            return said(400, "BadParameter")
        kind, name = found[1], found[2].lower()
        if request.method in self.denied:
            return said(403, "Forbidden", "ForbiddenByRbac")
        if kind == "deletedsecrets":
            shown = {"id": f"{self.url}/secrets/{name}", "recoveryId": f"{self.url}/deletedsecrets/{name}"}
            return Reply(200, shown) if name in self.deleted else said(404, "SecretNotFound")
        return self._set(name, request.json()) if request.method == "PUT" else self._get(name)

    def _set(self, name: str, body: dict) -> Reply:
        if name in self.deleted:
            return said(409, "Conflict", "ObjectIsDeletedButRecoverable")
        tags = body.get("tags") or {}
        if len(tags) > 15 or any(len(value) > 256 for value in tags.values()) or len(body["value"]) > 25 * 1024:
            return said(400, "BadParameter")
        more = {"contentType": body.get("contentType"), "exp": (body.get("attributes") or {}).get("exp")}
        return Reply(200, self._shown(name, self.put(name, body["value"], tags=tags, **more)))

    def _get(self, name: str) -> Reply:
        versions = self.secrets.get(name)
        if not versions:
            return said(404, "SecretNotFound")
        if not versions[-1]["enabled"]:
            return said(403, "Forbidden", "SecretDisabled")
        return Reply(200, self._shown(name, versions[-1]))

    def _shown(self, name: str, row: dict) -> dict:
        attributes = {"enabled": True, "created": 1, "updated": 1, "recoveryLevel": "Recoverable"}
        return {
            "value": row["value"],
            "id": f"{self.url}/secrets/{name}/{row['version']}",
            "contentType": row.get("contentType"),
            "attributes": attributes,
            "tags": row["tags"],
        }
