"""A small Vault: KV 1 and 2, policies, namespaces, logins and their leases, over HTTP and in memory.

Written from the API documentation and compared with a real OpenBao. Everything is set up through the API itself, so
that the suite can run against a real server; only the faults (`Faults`) have no counterpart there.

Source: https://developer.hashicorp.com/vault/api-docs
"""

import base64
import json
import re
import secrets
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.servers.loopback import Loopback

ROOT_TOKEN = "root"
_DEFAULT_POLICY = {
    "auth/token/lookup-self": {"read"},
    "auth/token/renew-self": {"update"},
    "auth/token/revoke-self": {"update"},
    "sys/capabilities-self": {"update"},
}
_RULE = re.compile(r'path\s+"([^"]+)"\s*\{[^}]*capabilities\s*=\s*\[([^\]]*)\]')


@dataclass
class Faults:
    """What a test breaks, for everybody but the operator with the root token.

    Attributes:
        status: Everything is answered by (status, body, headers), for as long as it is set.
        only: Where `status`, `silent` and `lost` apply: a part of the path.
        silent_s: Wait so long before anything is done.
        lost: The answer of a write that was done never comes.
        drop: The connection is closed before anything is done.
        meanwhile: Called before a write is looked at: somebody else was faster.
    """

    status: tuple[int, bytes, dict[str, str]] | None = None
    only: str = ""
    method: str = ""
    silent_s: float = 0
    lost: bool = False
    drop: bool = False
    meanwhile: Any = None


@dataclass
class _Token:
    policies: list[str]
    ttl: float
    ends: float | None
    renewable: bool
    accessor: str = field(default_factory=lambda: secrets.token_hex(8))


@dataclass
class _Secret:
    versions: dict[int, dict[str, Any]] = field(default_factory=dict)
    custom: dict[str, str] | None = None

    @property
    def current(self) -> int:
        return max(self.versions, default=0)


@dataclass
class _Mount:
    kind: str
    version: int
    cas_required: bool = False
    secrets: dict[str, _Secret] = field(default_factory=dict)
    plain: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class _Namespace:
    mounts: dict[str, _Mount] = field(default_factory=dict)
    auth: dict[str, str] = field(default_factory=dict)
    roles: dict[str, dict[str, Any]] = field(default_factory=dict)
    policies: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    tokens: dict[str, _Token] = field(default_factory=dict)


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status: int, *errors: str) -> None:
        super().__init__(status)
        self.status, self.errors = status, errors


class Vault:
    """The state of the server, and what tests may look at.

    Attributes:
        seen: Every request as (method, path, headers).
    """

    def __init__(self) -> None:
        self.faults = Faults()
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""
        self.token = ROOT_TOKEN
        self._lock = threading.RLock()
        self._spaces: dict[str, _Namespace] = {"": _Namespace(mounts={"secret": _Mount("kv", 2)})}
        self._spaces[""].tokens[ROOT_TOKEN] = _Token(["root"], 0, None, renewable=False)

    def answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        """Return status and document for one request."""
        with self._lock:
            return self._answer(method, path, headers, body)

    def _answer(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any]:
        name = headers.get("X-Vault-Namespace", "").strip("/")
        if name not in self._spaces:
            raise Refused(404, "namespace not found")
        space = self._spaces[name]
        try:
            document = json.loads(body) if body else {}
        except ValueError:
            raise Refused(400, "error parsing JSON") from None
        login = re.fullmatch(r"auth/(.+)/login", path)
        if login and method in ("POST", "PUT"):
            return self._login(space, login[1], document)
        token, policies = self._who(headers.get("X-Vault-Token", ""))
        if path.startswith("sys/internal/ui/mounts/") and method == "GET":
            return self._mount_shown(space, path.removeprefix("sys/internal/ui/mounts/"), policies)
        self._allow(space, method, path, policies)
        for prefix, do in (("auth/token/", self._tokens), ("auth/", self._roles), ("sys/", self._sys)):
            if path.startswith(prefix):
                return do(space, method, path.removeprefix(prefix), document, token)
        return self._kv(space, method, path, document, headers)

    # who may do what

    def _who(self, value: str) -> tuple[str, list[str]]:
        for space in self._spaces.values():
            token = space.tokens.get(value)
            if token and (token.ends is None or token.ends > time.monotonic()):
                return value, token.policies
        raise Refused(403, "permission denied")

    def _capabilities(self, space: _Namespace, path: str, policies: list[str]) -> set[str]:
        if "root" in policies:
            return {"root"}
        rules = [space.policies.get(name, {}) for name in policies]
        rules += [_DEFAULT_POLICY] if "default" in policies else []
        found: set[str] = set()
        for rule in rules:
            fitting = [p for p in rule if p == path or (p.endswith("*") and path.startswith(p[:-1]))]
            if fitting:
                found |= rule[max(fitting, key=len)]
        return {"deny"} if not found or "deny" in found else found

    def _allow(self, space: _Namespace, method: str, path: str, policies: list[str]) -> None:
        has = self._capabilities(space, path, policies)
        needed = {"GET": "read", "DELETE": "delete", "PATCH": "patch", "LIST": "list"}.get(method, "update")
        mount, rest = self._mounted(space, path)
        if needed == "update" and mount is not None:
            known = rest.removeprefix("data/") in mount.secrets if mount.version == 2 else rest in mount.plain
            needed = "update" if known or (mount.version == 2 and not rest.startswith("data/")) else "create"
        if not has & {"root", needed}:
            raise Refused(403, "1 error occurred:\n\t* permission denied\n\n")

    # logins

    def _login(self, space: _Namespace, at: str, shown: dict[str, Any]) -> tuple[int, Any]:
        kind = space.auth.get(at)
        if kind is None:
            raise Refused(403, "permission denied")
        if kind == "approle":
            for key, role in space.roles.items():
                known = key.startswith(f"{at}/") and role.get("role_id") == shown.get("role_id")
                if known and shown.get("secret_id") in role["secret_ids"]:
                    return 200, self._issued(space, role["token_policies"], role.get("token_ttl", "1h"))
            raise Refused(400, "invalid role or secret ID")
        role = space.roles.get(f"{at}/{shown.get('role')}")
        if role is None:
            raise Refused(400, f'invalid role name "{shown.get("role")}"')
        if kind == "aws" and not _vouched(shown, role):
            raise Refused(400, "error making upstream request")
        if kind in ("kubernetes", "jwt") and shown.get("jwt") not in role.get("accepted", ()):
            raise Refused(*((403, "permission denied") if kind == "kubernetes" else (400, "error validating token")))
        return 200, self._issued(space, role["token_policies"], role.get("token_ttl", "1h"))

    def _issued(self, space: _Namespace, policies: list[str], ttl: str | int, *, renewable: bool = True) -> Any:
        value, seconds = f"hvs.{secrets.token_urlsafe(18)}", _seconds(ttl)
        ends = time.monotonic() + seconds if seconds else None
        space.tokens[value] = _Token(["default", *policies], seconds, ends, renewable)
        return self._auth(value, space.tokens[value])

    def _auth(self, value: str, token: _Token) -> Any:
        auth = {
            "client_token": value,
            "accessor": token.accessor,
            "policies": token.policies,
            "lease_duration": int(token.ttl),
            "renewable": token.renewable,
        }
        return _whole(None, auth=auth)

    def _tokens(self, space: _Namespace, method: str, path: str, asked: dict[str, Any], value: str) -> tuple[int, Any]:
        token = next(space.tokens[value] for space in self._spaces.values() if value in space.tokens)
        if path == "create":
            renewable = asked.get("renewable", True)
            policies = [p for p in asked.get("policies", []) if p != "default"]
            issued = self._issued(space, policies, asked.get("ttl", "1h"), renewable=renewable)
            if asked.get("no_default_policy"):
                space.tokens[issued["auth"]["client_token"]].policies.remove("default")
            return 200, issued
        if path == "lookup-self":
            left = 0 if token.ends is None else int(token.ends - time.monotonic())
            return 200, _whole({"id": value, "ttl": left, "renewable": token.renewable, "policies": token.policies})
        if path == "renew-self":
            if not token.renewable:
                raise Refused(400, "lease is not renewable")
            token.ends = time.monotonic() + token.ttl
            return 200, self._auth(value, token)
        if path in ("revoke-self", "revoke"):
            for one in self._spaces.values():
                one.tokens.pop(value if path == "revoke-self" else asked["token"], None)
            return 204, None
        raise Refused(404, f'no handler for route "auth/token/{path}". route entry not found.')

    def _roles(self, space: _Namespace, method: str, path: str, asked: dict[str, Any], _: str) -> tuple[int, Any]:
        found = re.fullmatch(r"(.+?)/role/([^/]+)(?:/(role-id|secret-id))?", path)
        if not found or found[1] not in space.auth:
            raise Refused(404, f'no handler for route "auth/{path}". route entry not found.')
        at, name, what = found.groups()
        role = space.roles.setdefault(f"{at}/{name}", {"role_id": secrets.token_hex(8), "secret_ids": []})
        if what == "role-id":
            return 200, _whole({"role_id": role["role_id"]})
        if what == "secret-id":
            role["secret_ids"].append(secrets.token_hex(8))
            return 200, _whole({"secret_id": role["secret_ids"][-1]})
        role.update(asked)
        return 204, None

    # the system

    def _sys(self, space: _Namespace, method: str, path: str, asked: dict[str, Any], value: str) -> tuple[int, Any]:
        area, _, name = path.partition("/")
        if path.startswith("policies/acl/"):
            rules = _RULE.findall(asked["policy"])
            parsed = {rule: set(re.findall(r'"(\w+)"', has)) for rule, has in rules}
            space.policies[path.removeprefix("policies/acl/")] = parsed
            return 204, None
        if path == "capabilities-self":
            policies = self._who(value)[1]
            self._allow(space, method, "sys/capabilities-self", policies)
            has = {one: sorted(self._capabilities(space, one, policies)) for one in asked["paths"]}
            return 200, {**_whole(has), **has}
        if area == "mounts" and method == "DELETE":
            space.mounts.pop(name, None)
            return 204, None
        if area == "mounts":
            if name in space.mounts:
                raise Refused(400, f"path is already in use at {name}/")
            space.mounts[name] = _Mount(asked["type"], int((asked.get("options") or {}).get("version", 1)))
            return 204, None
        if area == "auth" and method == "DELETE":
            space.auth.pop(name, None)
            return 204, None
        if area == "auth":
            space.auth[name] = asked["type"]
            return 204, None
        if area == "namespaces":
            self._spaces[name] = _Namespace()
            return 200, _whole({"path": f"{name}/"})
        raise Refused(404, f'no handler for route "sys/{path}". route entry not found.')

    def _mount_shown(self, space: _Namespace, path: str, policies: list[str]) -> tuple[int, Any]:
        mount, _ = self._mounted(space, path)
        at = next((name for name, one in space.mounts.items() if one is mount), "")
        rules = [rule for name in policies for rule in space.policies.get(name, {})]
        if mount is None or ("root" not in policies and not any(rule.startswith(f"{at}/") for rule in rules)):
            said = "preflight capability check returned 403, please ensure client's policies grant access to path"
            raise Refused(403, f'{said} "{path.strip("/")}/"')
        options = {"version": str(mount.version)} if mount.kind == "kv" else None
        return 200, _whole({"path": f"{at}/", "type": mount.kind, "options": options})

    # secrets

    def _mounted(self, space: _Namespace, path: str) -> tuple[_Mount | None, str]:
        fitting = [name for name in space.mounts if f"{path}/".startswith(f"{name}/")]
        if not fitting:
            return None, ""
        at = max(fitting, key=len)
        return space.mounts[at], path.removeprefix(at).strip("/")

    def _kv(
        self, space: _Namespace, method: str, path: str, asked: dict[str, Any], headers: dict[str, str]
    ) -> tuple[int, Any]:
        mount, rest = self._mounted(space, path)
        if mount is None:
            raise Refused(404, f'no handler for route "{path}". route entry not found.')
        if mount.version == 1:
            return _plain(mount, method, rest, asked)
        what, _, name = rest.partition("/")
        if rest == "config":
            mount.cas_required = bool(asked.get("cas_required"))
            return 204, None
        if what not in ("data", "metadata", "delete") or not name:
            return 404, {**_whole(None), "warnings": ["Invalid path for a versioned K/V secrets engine."]}
        if what == "metadata":
            return _metadata(mount, method, name, asked, headers)
        if what == "delete":
            for number in asked["versions"]:
                _gone(mount.secrets.get(name, _Secret()).versions.get(number))
            return 204, None
        if method == "GET":
            return _version(mount.secrets.get(name))
        if method == "DELETE":
            secret = mount.secrets.get(name, _Secret())
            _gone(secret.versions.get(secret.current))
            return 204, None
        return _written(mount, name, asked)


def _written(mount: _Mount, name: str, asked: dict[str, Any]) -> tuple[int, Any]:
    if "data" not in asked:
        raise Refused(400, "no data provided")
    secret = mount.secrets.get(name, _Secret())
    cas = (asked.get("options") or {}).get("cas")
    if cas is None and mount.cas_required:
        raise Refused(400, "check-and-set parameter required for this call")
    if cas is not None and cas != secret.current:
        raise Refused(400, "check-and-set parameter did not match the current version")
    number = secret.current + 1
    secret.versions[number] = {"data": asked["data"], "created_time": _now(), "deletion_time": "", "destroyed": False}
    mount.secrets[name] = secret
    return 200, _whole(_meta(secret, number))


def _version(secret: _Secret | None) -> tuple[int, Any]:
    if secret is None or not secret.current:
        raise Refused(404)
    version = secret.versions[secret.current]
    data = None if version["deletion_time"] else version["data"]
    return (404 if data is None else 200), _whole({"data": data, "metadata": _meta(secret, secret.current)})


def _meta(secret: _Secret, number: int) -> dict[str, Any]:
    version = {key: value for key, value in secret.versions[number].items() if key != "data"}
    return {**version, "custom_metadata": secret.custom, "version": number}


def _gone(version: dict[str, Any] | None) -> None:
    if version is not None:
        version["deletion_time"] = version["deletion_time"] or _now()


def _metadata(mount: _Mount, method: str, name: str, asked: dict[str, Any], headers: dict[str, str]) -> tuple[int, Any]:
    secret = mount.secrets.get(name)
    if method == "PATCH" and secret is None:
        return 404, None
    if method == "PATCH":
        if headers.get("Content-Type") != "application/merge-patch+json":
            raise Refused(415, "PATCH requires Content-Type of application/merge-patch+json")
        merged = {**(secret.custom or {}), **asked["custom_metadata"]}
        _set_custom(secret, {key: value for key, value in merged.items() if value is not None})
        return 204, None
    if method in ("POST", "PUT"):
        secret = mount.secrets.setdefault(name, _Secret())
        _set_custom(secret, asked.get("custom_metadata") or {})
        return 204, None
    if method == "DELETE":
        mount.secrets.pop(name, None)
        return 204, None
    if secret is None:
        raise Refused(404)
    versions = {str(number): _meta(secret, number) for number in secret.versions}
    data = {"current_version": secret.current, "custom_metadata": secret.custom, "versions": versions}
    return 200, _whole(data)


def _set_custom(secret: _Secret, custom: dict[str, str]) -> None:
    if len(custom) > 64 or any(len(key) > 128 or len(value) > 512 for key, value in custom.items()):
        raise Refused(400, "custom_metadata validation failed")
    if any(not (key and key.isprintable() and value.isprintable()) for key, value in custom.items()):
        raise Refused(400, "custom_metadata validation failed")
    secret.custom = custom


def _plain(mount: _Mount, method: str, name: str, asked: dict[str, Any]) -> tuple[int, Any]:
    if method == "GET":
        if name not in mount.plain:
            raise Refused(404)
        return 200, _whole(mount.plain[name])
    if method == "DELETE":
        mount.plain.pop(name, None)
        return 204, None
    if not asked:
        raise Refused(400, "missing data fields")
    mount.plain[name] = asked
    return 204, None


def _vouched(shown: dict[str, Any], role: dict[str, Any]) -> bool:
    """Whether the question to STS is whole; the fake takes the access key for the signature."""
    headers = json.loads(base64.b64decode(shown["iam_request_headers"]))
    url = base64.b64decode(shown["iam_request_url"]).decode()
    body = base64.b64decode(shown["iam_request_body"]).decode()
    signed = headers["Authorization"][0]
    wanted = role.get("server_id", "")
    return (
        shown["iam_http_request_method"] == "POST"
        and bool(re.fullmatch(r"https://sts\.[a-z0-9-]+\.amazonaws\.com/", url))
        and body == "Action=GetCallerIdentity&Version=2011-06-15"
        and f"Credential={role['access_key']}/" in signed
        and headers.get("X-Vault-AWS-IAM-Server-ID", [""])[0] == wanted
        and (not wanted or "x-vault-aws-iam-server-id" in signed)
    )


def _seconds(ttl: str | int) -> float:
    units = {"s": 1, "m": 60, "h": 3600}
    text = str(ttl)
    return float(text[:-1]) * units[text[-1]] if text[-1] in units else float(text)


def _now() -> str:
    return datetime.now(UTC).isoformat()


def _whole(data: Any, auth: Any = None) -> dict[str, Any]:
    return {
        "request_id": secrets.token_hex(8),
        "lease_id": "",
        "renewable": False,
        "lease_duration": 0,
        "data": data,
        "wrap_info": None,
        "warnings": None,
        "auth": auth,
    }


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Vault]:
    """Run one on a free port of this machine."""
    vault = Vault()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # one packet an answer, else each waits for an acknowledgement
        disable_nagle_algorithm = True

        def _any(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = unquote(urlsplit(self.path).path).removeprefix("/v1/")
            headers = {name.title(): value for name, value in self.headers.items()}
            vault.seen.append((self.command, path, headers))
            faults = vault.faults
            operator = headers.get("X-Vault-Token") == vault.token
            hit = not operator and faults.only in path and faults.method in ("", self.command)
            if hit and faults.drop:
                self.close_connection = True
                return
            if hit and faults.silent_s:
                time.sleep(faults.silent_s)
            if hit and faults.status:
                self._send(*faults.status)
                return
            if hit and faults.meanwhile and self.command in ("POST", "PUT"):
                faults.meanwhile()
            if headers.get("X-Vault-Request") != "true":
                self._document(400, {"errors": ["required header missing"]})
                return
            try:
                status, document = vault.answer(self.command, path, headers, body)
            except Refused as refused:
                status, document = refused.status, {"errors": list(refused.errors)}
            if hit and faults.lost and self.command in ("POST", "PUT", "PATCH"):
                self.close_connection = True
                return
            self._document(status, document)

        def _document(self, status: int, document: Any) -> None:
            content = b"" if document is None else json.dumps(document).encode() + b"\n"
            self._send(status, content, {"Content-Type": "application/json"})

        def _send(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            with suppress(OSError):  # the client may have given up
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    if not (status == 204 and name == "Content-Length"):
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "LIST"):
        setattr(Handler, f"do_{method}", Handler._any)

    server = Loopback(("127.0.0.1", 0), Handler)
    vault.address = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
