"""Objects of Astro's Environment Manager, for the `astro_environment` sink: connections and variables.

An update leaves out nothing that the API drops when it is left out: links, excluded links, the automatic link, and the
description are sent back as they were read. Inside a link that is sent, what is left out stays, so overrides are not
repeated where they are hidden. Of a connection all fields have to be sent; whether a hidden one that is left out
survives is not documented, so a connection that holds another hidden field is not written at all.

Source: the OpenAPI document of v1, and what the Astro CLI says it found on the live API.
"""

from collections.abc import Mapping

from rotator.errors import Permanent
from rotator.model import Mint
from rotator.secret import Secret
from rotator.sinks._astro_calls import AstroCalls, Document, Json
from rotator.sinks._astro_place import EXTRA, Kind, Target
from rotator.sinks._astro_shelf import Seen

_TYPED = {
    Kind.CONNECTION: "connection",
    Kind.AIRFLOW_VARIABLE: "airflowVariable",
    Kind.ENVIRONMENT_VARIABLE: "environmentVariable",
}
_PLAIN = ("type", "host", "login", "password", "port", "schema")
_HIDDEN = "the connection has {field}, which the API hides, and an update could end it"


class ObjectShelf:
    """See `Shelf`."""

    def __init__(self, calls: AstroCalls) -> None:
        self._calls = calls

    def read(self, target: Target) -> Seen:
        """See `Shelf`."""
        found = self._calls.environment_object(target)
        if found is None:
            return Seen(None, exists=False)
        value = _value(found, target)
        secret = Secret(value) if value else None
        return Seen(found, bool(value) or _is_hidden(found, target), secret, self.version(found, target.part))

    def problem(self, target: Target, seen: Seen) -> str:
        """See `Shelf`."""
        if seen.document is None:
            if target.kind is Kind.CONNECTION and not target.connection:
                return "there is no such connection; make it in Astro, or say with connection.type what to make"
            return ""
        if target.kind is Kind.CONNECTION:
            return _connection_problem(seen.document, target)
        typed = _typed(seen.document, target)
        if target.secret and not typed.get("isSecret"):
            return "the variable is not secret, and Astro cannot make it so; delete it there, or set secret = false"
        return ""

    def write(self, target: Target, seen: Seen, mint: Mint) -> str:
        """See `Shelf`."""
        now = seen.document
        if now is None:
            self._calls.create_object(target, lambda: _creation(target, mint))
            return ""
        object_id = now.content.get("id")
        if not isinstance(object_id, str) or not object_id:
            raise Permanent("the API does not show the id of the object")
        answer = self._calls.update_object(target, object_id, lambda: _update(now, target, mint.secret))
        return self.version(answer, target.part)

    def version(self, document: Document, part: str) -> str:  # noqa: ARG002 - the whole object has one
        """See `Shelf`."""
        return str(document.content.get("updatedAt") or "")

    def lost(self, before: Seen, after: Seen) -> str:
        """See `Shelf`."""
        if before.document is None or after.document is None:
            return ""
        gone = [
            name for name in ("links", "excludeLinks") if _ends(before.document, name) - _ends(after.document, name)
        ]
        if before.document.content.get("autoLinkDeployments") and not after.document.content.get("autoLinkDeployments"):
            gone.append("autoLinkDeployments")
        return ", ".join(gone)


def _connection_problem(found: Document, target: Target) -> str:
    typed, fields = _typed(found, target), found.content.get("setFields")
    if not typed.get("type"):
        return "the API does not show the type of the connection, and an update has to say it"
    extra = typed.get("extra") or {}
    if not isinstance(fields, list):
        # nothing says which fields are set: what is shown empty may be hidden
        hidden = [name for name in ("password",) if name != target.field and typed.get(name) == ""]
        hidden += [f"{EXTRA}{key}" for key, value in extra.items() if value == "" and f"{EXTRA}{key}" != target.field]
    else:
        hidden = [name for name in map(str, fields) if name != target.field and _is_masked(typed, extra, name)]
    if not hidden:
        return ""
    name = hidden[0] if hidden[0] in _PLAIN else "an extra field"
    return f"{_HIDDEN.format(field=name)}; let the organization show secrets, or give the token a connection of its own"


def _is_masked(typed: Json, extra: Json, name: str) -> bool:
    if name.startswith(EXTRA):
        return extra.get(name.removeprefix(EXTRA)) in (None, "")
    if name == "extra":
        return not extra
    return name in _PLAIN and typed.get(name) in (None, "")


def _typed(found: Document, target: Target) -> Json:
    typed = found.content.get(_TYPED[target.kind])
    return typed if isinstance(typed, Mapping) else {}


def _value(found: Document, target: Target) -> str:
    typed = _typed(found, target)
    if target.field.startswith(EXTRA):
        value = (typed.get("extra") or {}).get(target.field.removeprefix(EXTRA))
    else:
        value = typed.get(target.field or "value")
    return value if isinstance(value, str) else ""


def _is_hidden(found: Document, target: Target) -> bool:
    """Whether a value that is not shown is there all the same."""
    if target.kind is not Kind.CONNECTION:
        typed = _typed(found, target)
        return not typed or bool(typed.get("isSecret"))
    fields = found.content.get("setFields")
    return target.field in fields if isinstance(fields, list) else True


def _creation(target: Target, mint: Mint) -> Json:
    """Return the request that makes the object: in plain text."""
    return {
        "objectKey": target.key,
        "objectType": target.kind.upper(),
        "scope": target.scope,
        "scopeEntityId": target.entity,
        "description": f"Rotated by rotator from the API token {mint.lineage or mint.token_id}",
        _TYPED[target.kind]: _with_secret(dict(target.connection), target, mint.secret)
        if target.kind is Kind.CONNECTION
        else {"value": mint.secret.reveal(), "isSecret": target.secret},
    }


def _update(now: Document, target: Target, secret: Secret) -> Json:
    """Return the update that changes our field and nothing else: in plain text."""
    said, typed = now.content, _typed(now, target)
    body: dict[str, object] = {
        "links": [_link(row, target) for row in said.get("links") or []],
        "excludeLinks": [_end(row) for row in said.get("excludeLinks") or []],
    }
    for name in ("autoLinkDeployments", "description"):
        if said.get(name) is not None:
            body[name] = said[name]
    if target.kind is Kind.CONNECTION:
        kept: dict[str, object] = {name: typed[name] for name in _PLAIN if typed.get(name) not in (None, "")}
        if typed.get("extra"):
            kept["extra"] = typed["extra"]
        auth = typed.get("connectionAuthType") or {}
        if auth.get("id"):
            kept["authTypeId"] = auth["id"]
        body["connection"] = _with_secret(kept, target, secret)
    else:
        body[_TYPED[target.kind]] = {"value": secret.reveal()}
    return body


def _with_secret(connection: dict[str, object], target: Target, secret: Secret) -> Json:
    if not target.field.startswith(EXTRA):
        return {**connection, target.field: secret.reveal()}
    extra = connection.get("extra")
    kept = extra if isinstance(extra, Mapping) else {}
    return {**connection, "extra": {**kept, target.field.removeprefix(EXTRA): secret.reveal()}}


def _link(row: Json, target: Target) -> Json:
    name = _TYPED[target.kind]
    overrides = {key: value for key, value in (row.get(f"{name}Overrides") or {}).items() if value not in (None, "")}
    if isinstance(overrides.get("extra"), Mapping):
        overrides["extra"] = {key: value for key, value in overrides["extra"].items() if value not in (None, "")}
    overrides = {key: value for key, value in overrides.items() if key not in ("isSecret", "connectionAuthType")}
    return {**_end(row), **({"overrides": {name: overrides}} if overrides else {})}


def _end(row: Json) -> dict[str, object]:
    return {"scope": row.get("scope"), "scopeEntityId": row.get("scopeEntityId")}


def _ends(found: Document, name: str) -> set[object]:
    return {row.get("scopeEntityId") for row in found.content.get(name) or [] if isinstance(row, Mapping)}
