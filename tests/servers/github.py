"""GitHub's REST API for Actions secrets, as far as the sink uses it; and the workflow that reads a secret.

Source: docs.github.com/en/rest/actions/secrets. `updated_at` has whole seconds there; here each write takes one.
"""

import base64
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from nacl.public import PrivateKey, SealedBox

from tests.servers.faulty import FaultyServer, Reply, Request

_FOLDER = re.compile(r"(/repos/[^/]+/[^/]+(?:/actions|/environments/[^/]+)|/orgs/[^/]+/actions)/secrets/(.+)")
_DOCS = "https://docs.github.com/rest"


def said(status: int, message: str, **headers: str) -> Reply:
    """Return an error in GitHub's form."""
    return Reply(status, {"message": message, "documentation_url": _DOCS, "status": str(status)}, headers)


class GitHubServer(FaultyServer):
    """Knows the folders that were added; every other is 404, as for who may not see it."""

    def __init__(self) -> None:
        super().__init__()
        self.token = "ghp_right"
        self.scopes: str | None = None
        self.folders: dict[str, dict[str, dict]] = {}
        self.before_put: list[Callable[[], object]] = []
        self.number = 1
        self.rotate_key()

    def rotate_key(self) -> None:
        """Replace the key that values are sealed for."""
        self.private = PrivateKey.generate()
        self.number += 1

    def add(self, folder: str) -> None:
        """Let there be a repository, environment or organization."""
        self.folders[folder] = {}

    def put(self, folder: str, name: str, value: str, **access: object) -> None:
        """Set a secret by hand."""
        with self.lock:
            self.number += 1
            old = self.folders[folder].get(name, {})
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.number)
            self.folders[folder][name] = {**old, **access, "value": value, "at": f"{at:%Y-%m-%dT%H:%M:%SZ}"}

    def answered(self, request: Request) -> Reply:
        """See the base."""
        if request.headers.get("authorization") != f"Bearer {self.token}":
            return said(401, "Bad credentials")
        found = _FOLDER.fullmatch(request.path)
        if found is None or found[1] not in self.folders:
            return said(404, "Not Found")
        folder, name = found[1], found[2]
        headers = {} if self.scopes is None else {"X-OAuth-Scopes": self.scopes}
        if name == "public-key":
            key = base64.b64encode(bytes(self.private.public_key)).decode()
            return Reply(200, {"key_id": f"key-{self._key_id}", "key": key}, headers)
        if request.method == "PUT":
            return self._put(folder, name, request.json())
        return self._get(folder, name, request)

    @property
    def _key_id(self) -> str:
        return bytes(self.private.public_key).hex()[:16]

    def _put(self, folder: str, name: str, body: dict) -> Reply:
        for step in self.before_put[:1]:
            self.before_put.remove(step)
            step()
        if body.get("key_id") != f"key-{self._key_id}":
            return said(422, "Bad request - key_id does not match")
        if folder.startswith("/orgs/") and body.get("visibility") not in ("all", "private", "selected"):
            return said(422, "Invalid request. visibility wasn't supplied.")
        value = SealedBox(self.private).decrypt(base64.b64decode(body["encrypted_value"])).decode()
        is_new = name not in self.folders[folder]
        access = {key: body[key] for key in ("visibility", "selected_repository_ids") if key in body}
        self.put(folder, name, value, **access)
        return Reply(201, {}) if is_new else Reply(204)

    def _get(self, folder: str, name: str, request: Request) -> Reply:
        name, _, listing = name.partition("/")
        row = self.folders[folder].get(name)
        if row is None:
            return said(404, "Not Found")
        if listing == "repositories":
            ids = row["selected_repository_ids"]
            size, page = int(request.query.get("per_page", 30)), int(request.query.get("page", 1))
            shown = ids[(page - 1) * size : page * size]
            return Reply(200, {"total_count": len(ids), "repositories": [{"id": i, "name": "r"} for i in shown]})
        access = {"visibility": row["visibility"]} if folder.startswith("/orgs/") else {}
        return Reply(200, {"name": name, "created_at": row["at"], "updated_at": row["at"], **access})
