"""Google Secret Manager's REST API, as far as the sink uses it; and the consumer that reads the latest version.

Source: cloud.google.com/secret-manager/docs/reference/rest/v1/projects.secrets and .../docs/etags. The checksum here is
computed bit by bit, independently of the sink's table.
"""

import base64
import re
from collections.abc import Callable

from tests.servers.faulty import FaultyServer, Reply, Request

_SECRET = re.compile(r"/v1/(projects/[^/]+/secrets/[A-Za-z0-9_-]{1,255})(?:/versions/(\d+|latest))?(?::(\w+))?")
_PARENT = re.compile(r"/v1/(projects/[^/]+)/secrets")
_WORDS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ALREADY_EXISTS",
}


def said(code: int, status: str = "", **headers: str) -> Reply:
    """Return an error in Google's form."""
    return Reply(
        code, {"error": {"code": code, "message": "theirs", "status": status or _WORDS.get(code, "X")}}, headers
    )


def crc32c(data: bytes) -> int:
    """Castagnoli, bit by bit."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


class GcpServer(FaultyServer):
    """Holds secrets of any project; who may do what is one set of permissions."""

    def __init__(self) -> None:
        super().__init__()
        self.secrets: dict[str, dict] = {}
        self.denied: set[str] = set()
        self.before_add = []
        self.refused: Callable[[Request], bool] = lambda _: False
        self.number = 0

    def make(self, name: str, **more: object) -> None:
        """Let there be a secret."""
        self.number += 1
        self.secrets[name] = {"name": name, "etag": f'"{self.number}"', "annotations": {}, "versions": [], **more}

    def put(self, name: str, data: bytes) -> int:
        """Add a version by hand."""
        with self.lock:
            if name not in self.secrets:
                self.make(name)
            self.secrets[name]["versions"].append({"data": data, "state": "ENABLED"})
            return len(self.secrets[name]["versions"])

    def read(self, name: str) -> bytes | None:
        """Read the latest version as a consumer does."""
        versions = self.secrets.get(name, {}).get("versions")
        return versions[-1]["data"] if versions else None

    def answered(self, request: Request) -> Reply:
        """See the base."""
        if self.refused(request):
            return said(401)
        if _PARENT.fullmatch(request.path) and request.method == "POST":
            return self._create(request)
        found = _SECRET.fullmatch(request.path)
        if found is None:
            return said(400)
        name, version, verb = found.groups()
        secret = self.secrets.get(name)
        if secret is None:
            return said(404)
        if version:
            return self._versioned(secret, version, verb)
        return self._plain(secret, request, verb)

    def _create(self, request: Request) -> Reply:
        if "secretmanager.secrets.create" in self.denied:
            return said(403)
        name = f"{request.path.removeprefix('/v1/')}/{request.query['secretId']}"
        if name in self.secrets:
            return said(409)
        if "replication" not in request.json():
            return said(400)
        self.make(name, **request.json())
        return Reply(200, self._shown(self.secrets[name]))

    def _plain(self, secret: dict, request: Request, verb: str | None) -> Reply:
        body = request.json()
        if verb == "testIamPermissions":
            return Reply(200, {"permissions": [p for p in body["permissions"] if p not in self.denied]})
        if verb == "addVersion":
            for step in self.before_add[:1]:
                self.before_add.remove(step)
                step()
            return self._add(secret, body["payload"])
        if request.method == "PATCH":
            if "secretmanager.secrets.update" in self.denied:
                return said(403)
            if body.get("etag", secret["etag"]) != secret["etag"]:
                return said(400, "FAILED_PRECONDITION")
            self.number += 1
            secret.update(annotations=body.get("annotations", {}), etag=f'"{self.number}"')
        return Reply(200, self._shown(secret))

    def _add(self, secret: dict, payload: dict) -> Reply:
        if "secretmanager.versions.add" in self.denied:
            return said(403)
        data = base64.b64decode(payload["data"])
        if int(payload["dataCrc32c"]) != crc32c(data) or len(data) > 65536:
            return said(400)
        number = self.put(secret["name"], data)
        return Reply(200, {"name": f"{secret['name']}/versions/{number}", "state": "ENABLED"})

    def _versioned(self, secret: dict, version: str, verb: str | None) -> Reply:
        number = len(secret["versions"]) if version == "latest" else int(version)
        if not 1 <= number <= len(secret["versions"]):
            return said(404)
        row = secret["versions"][number - 1]
        name = f"{secret['name']}/versions/{number}"
        if verb == "disable":
            if "secretmanager.versions.disable" in self.denied:
                return said(403)
            if row["state"] == "DESTROYED":
                return said(400, "FAILED_PRECONDITION")
            row["state"] = "DISABLED"
            return Reply(200, {"name": name, "state": "DISABLED"})
        if row["state"] != "ENABLED":
            return said(400, "FAILED_PRECONDITION")
        data = row["data"]
        payload = {"data": base64.b64encode(data).decode(), "dataCrc32c": str(row.get("crc", crc32c(data)))}
        return Reply(200, {"name": name, "payload": payload})

    def _shown(self, secret: dict) -> dict:
        return {key: value for key, value in secret.items() if key != "versions"}
