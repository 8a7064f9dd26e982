"""One secret of a KV secrets engine, version 1 or 2: read whole, merged key by key, written whole.

Neighbours pass as the bytes that Vault sent. What could not be read is never taken for empty: a 404 counts as "nothing
there" only in Vault's own form, and only after Vault said that such an engine is mounted there.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgspec

from rotator.errors import Forbidden, Permanent
from rotator.secret import Secret
from rotator.sinks._vault_calls import MERGE_PATCH, Answer, Call, decoded, refusal

Ask = Callable[[Call], Answer]


@dataclass(frozen=True, slots=True)
class Spot:
    """Where a secret is.

    Attributes:
        mount: Of the engine, without slashes at its ends.
        path: Below the mount.
        kv: The engine's version, 1 or 2.
    """

    namespace: str
    mount: str
    path: str
    kv: int

    @property
    def data(self) -> str:
        """The API's path of its content; a policy has to allow this one."""
        return f"{self.mount}/data/{self.path}" if self.kv == 2 else f"{self.mount}/{self.path}"

    def beside(self, what: str) -> str:
        """Return the API's path of something else about it; version 2 only."""
        return f"{self.mount}/{what}/{self.path}"

    def call(self, method: str, path: str, body: Secret | None = None, *, writes: bool = False) -> Call:
        """Return a request in its namespace."""
        return Call(method, path, body, namespace=self.namespace, writes=writes)


@dataclass(frozen=True, slots=True)
class Content:
    """What a secret holds now.

    Attributes:
        data: Key to value, as JSON; empty if there is nothing.
        version: To compare with when writing: 0 if nothing ever was there. Always 0 in version 1.
        custom: Metadata that people and programs put beside it.
        present: Whether there is something to read.
    """

    data: Mapping[str, msgspec.Raw] = field(repr=False, default_factory=dict)
    version: int = 0
    custom: Mapping[str, str] = field(default_factory=dict)
    present: bool = False

    def text(self, key: str) -> Secret | None:
        """Return the text under a key; None if there is no text."""
        try:
            return Secret(msgspec.json.decode(self.data[key], type=str))
        except (KeyError, msgspec.DecodeError):
            return None

    def holds(self, fields: Secret) -> bool:
        """Whether the fields (see `rendered`) stand there already."""
        wanted: dict[str, str] = msgspec.json.decode(fields.encoded())
        return all(self.text(key) == Secret(value) for key, value in wanted.items())

    def merged(self, fields: Secret, options: Mapping[str, int] | None) -> Secret:
        """Return the body that writes these fields beside all others."""
        data = {**self.data, **msgspec.json.decode(fields.encoded(), type=dict[str, msgspec.Raw])}
        body = data if options is None else {"options": options, "data": data}
        return Secret.decoded(msgspec.json.encode(body))


class _Meta(msgspec.Struct):
    version: int
    custom_metadata: dict[str, str] | None = None


class _V2(msgspec.Struct):
    data: dict[str, msgspec.Raw] | None
    metadata: _Meta


class _Two(msgspec.Struct):
    data: _V2


class _One(msgspec.Struct):
    data: dict[str, msgspec.Raw]


class _Said(msgspec.Struct):
    request_id: str


class _Written(msgspec.Struct):
    data: _Meta


class _Options(msgspec.Struct):
    version: str = "1"


class _Mount(msgspec.Struct):
    path: str
    type: str
    options: _Options | None = None


class _Mounted(msgspec.Struct):
    data: _Mount


class _Capabilities(msgspec.Struct):
    data: dict[str, list[str]]


def rendered(fields: Mapping[str, str]) -> Secret:
    """Return fields as one hidden value."""
    return Secret(msgspec.json.encode(fields).decode())


def read(spot: Spot, ask: Ask, where: str) -> Content:
    """Return what is there.

    Raises:
        Temporary, Permanent: It could not be read, or understood, or no such engine is mounted there.
    """
    call = spot.call("get", spot.data)
    answer = ask(call)
    content = _content(spot.kv, answer)
    if content is not None:
        return content
    if answer.status == 404:
        confirm(spot, ask, where)
        if answer.errors == ():
            return Content()
    if answer.status == 200:
        raise Permanent(f"{where}: what Vault holds there is no secret of KV version {spot.kv}; check `kv` and `mount`")
    raise refusal(call, answer, where)


def confirm(spot: Spot, ask: Ask, where: str) -> None:
    """Have Vault say that an engine of this version is mounted just there.

    Source: https://developer.hashicorp.com/vault/api-docs/system/internal-ui-mounts

    Raises:
        Temporary, Permanent: It is not, or Vault does not say.
    """
    found = mounted(spot, f"{spot.mount}/{spot.path}", ask, where)
    if (found.mount, found.kv) != (spot.mount, spot.kv):
        raise Permanent(
            f"{where}: Vault has KV version {found.kv} mounted at {found.mount} there, but `mount` is {spot.mount}"
            f" and `kv` {spot.kv}; correct them"
        )


def mounted(spot: Spot, path: str, ask: Ask, where: str) -> Spot:
    """Return the spot that a path with its mount names.

    Raises:
        Forbidden: There is no such mount, or the token may do nothing in it: Vault does not tell these apart.
        Temporary, Permanent: It is no KV engine, or Vault does not say.
    """
    call = spot.call("get", f"sys/internal/ui/mounts/{path}")
    answer = ask(call)
    if answer.status in (403, 404) and answer.errors is not None:
        raise Forbidden(
            f"{where}: Vault shows no mount there ({answer.status}); check `mount` and `namespace`, and that the"
            " token's policy allows the path"
        )
    found = decoded(answer, _Mounted) if answer.status == 200 else None
    if found is None:
        raise refusal(call, answer, where)
    mount = found.data.path.strip("/")
    if found.data.type not in ("kv", "generic"):
        raise Permanent(f"{where}: what is mounted there is no KV engine; correct `mount`")
    version = 2 if found.data.options is not None and found.data.options.version == "2" else 1
    return Spot(spot.namespace, mount, path.removeprefix(mount).strip("/"), version)


def write(spot: Spot, before: Content, fields: Secret, ask: Ask, where: str) -> int | None:
    """Write the fields beside what was there.

    Returns:
        The new version (0 in version 1); None if somebody wrote since it was read.

    Raises:
        Temporary, Permanent: Nothing was written.
        OutcomeUnknown: Perhaps it was.
    """
    options = {"cas": before.version} if spot.kv == 2 else None
    call = spot.call("post", spot.data, before.merged(fields, options), writes=True)
    answer = ask(call)
    if spot.kv == 2 and answer.status == 400 and answer.says("check-and-set parameter did not match"):
        return None
    if spot.kv == 1 and (answer.status == 204 or (answer.status == 200 and decoded(answer, _Said) is not None)):
        return 0
    found = decoded(answer, _Written) if answer.status == 200 else None
    if found is None:
        raise refusal(call, answer, where)
    return found.data.version


def describe(spot: Spot, custom: Mapping[str, str | None], ask: Ask, where: str) -> None:
    """Merge keys into the custom metadata of a secret of version 2; others' keys stay.

    Raises:
        Temporary, Permanent, OutcomeUnknown: Not done, or perhaps not; repeating is safe.
    """
    body = Secret(msgspec.json.encode({"custom_metadata": custom}).decode())
    call = Call("patch", spot.beside("metadata"), body, MERGE_PATCH, spot.namespace, writes=True)
    answer = ask(call)
    if answer.status not in (200, 204):
        raise refusal(call, answer, where)


def end(spot: Spot, version: int, ask: Ask, where: str) -> None:
    """Delete one version (it can be undeleted); one that is gone already is left alone.

    Raises:
        Temporary, Permanent, OutcomeUnknown: Not done, or perhaps not; repeating is safe.
    """
    call = spot.call("post", spot.beside("delete"), Secret(f'{{"versions":[{version}]}}'), writes=True)
    answer = ask(call)
    if answer.status not in (200, 204):
        raise refusal(call, answer, where)


def lacking(wanted: Mapping[str, tuple[str, ...]], spot: Spot, ask: Ask, where: str) -> dict[str, list[str]]:
    """Return which of the wanted capabilities the token has not, by path.

    Source: https://developer.hashicorp.com/vault/api-docs/system/capabilities-self

    Raises:
        Temporary, Permanent: Vault does not say.
    """
    call = spot.call("post", "sys/capabilities-self", Secret(msgspec.json.encode({"paths": list(wanted)}).decode()))
    answer = ask(call)
    if answer.status == 403 and answer.errors is not None:
        raise Forbidden(
            f"{where}: the token may not ask what it may do; attach Vault's `default` policy to it, or allow update on"
            " sys/capabilities-self and read on auth/token/lookup-self"
        )
    found = decoded(answer, _Capabilities) if answer.status == 200 else None
    if found is None:
        raise refusal(call, answer, f"{where}: asking what the token may do")
    missing = {}
    for path, needs in wanted.items():
        has = found.data.get(path, [])
        lacks = [] if "root" in has else [need for need in needs if need not in has or "deny" in has]
        if lacks:
            missing[path] = lacks
    return missing


def _content(kv: int, answer: Answer) -> Content | None:
    if kv == 1:
        one = decoded(answer, _One) if answer.status == 200 else None
        return None if one is None else Content(one.data, present=True)
    two = decoded(answer, _Two) if answer.status in (200, 404) else None
    if two is None:
        return None
    meta, data = two.data.metadata, two.data.data
    return Content(data or {}, meta.version, meta.custom_metadata or {}, present=data is not None)
