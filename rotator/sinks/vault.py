"""The `vault` sink: keys of KV secrets in HashiCorp Vault or OpenBao, merged beside their neighbours.

KV version 2 is written with check-and-set, so nobody's write is lost; version 1 has no such thing, and there only the
threads that share the sink wait for each other. Beside a version 2 secret stands custom metadata that names, for each
key, token, lineage, mint and time and holds a keyed fingerprint. Where the role may not patch metadata that is left
out: the delivery counts all the same, and what is held is then known by its value alone.
"""

import os
import re
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rotator.errors import (
    ConfigError,
    Forbidden,
    NotFound,
    OutcomeUnknown,
    Permanent,
    Temporary,
)
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks import _vault_kv as kv
from rotator.sinks._fields import SAMPLE, FieldsOptions, secret_key, used_facts
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.sinks._payload import Mark
from rotator.sinks._vault_calls import Answer, Call, Failure, failed, refusal
from rotator.sinks._vault_kv import Content, Spot
from rotator.sinks._vault_marks import change, mark_of, marked
from rotator.sinks._vault_options import MOUNT, VaultAuth, is_usable
from rotator.templates import FIELD_PLACEHOLDERS, Template, render_fields
from rotator.text import visible
from rotator.timing import parse_duration

if TYPE_CHECKING:
    from rotator.sinks._vault_line import Line
    from rotator.sinks._vault_login import Login

PREFLIGHT_GRADE = Grade.PROVEN

_TRIES = 6  # of one write against others that keep writing
_LOCKS = 64
_NEEDS = ("create", "read", "update")

_NAMING = Naming(
    clean=re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.@-]*[A-Za-z0-9_-])?"),
    dirty=re.compile(r"[^A-Za-z0-9_.@-]+"),
    literal=re.compile(r"[A-Za-z0-9_.@/-]+"),
    rule="must be a path of letters, digits and _ . @ - between slashes, such as 'astro/{name}'",
)


class Options(BaseModel):
    """`[sinks.X]` with `type = "vault"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    address: str = Field("", description="https URL, or http to this machine; $VAULT_ADDR if not given.")
    namespace: str = Field("", description="Of Vault Enterprise or OpenBao; $VAULT_NAMESPACE if not given.")
    mount: str = Field("secret", description="Where the KV engine is mounted.")
    kv: Literal[1, 2] = Field(2, description="Version of the KV engine.")
    ca_bundle: str = Field("", description="File of authorities; $VAULT_CACERT, $SSL_CERT_FILE or the usual ones.")
    timeout: timedelta = Field(timedelta(seconds=10), description="Of connecting, and of waiting for each answer.")
    auth: VaultAuth = Field(
        default_factory=lambda: VaultAuth.model_validate({}), description="How to log in; by $VAULT_TOKEN if not given."
    )

    @field_validator("address")
    @classmethod
    def _reachable(cls, text: str) -> str:
        if text and not is_usable(text):
            raise ValueError("must be an https URL, without user, query or fragment (http only to this machine)")
        return text

    @field_validator("mount", "namespace")
    @classmethod
    def _path(cls, text: str) -> str:
        if text and not MOUNT.fullmatch(text):
            raise ValueError("must be a path without slashes at its ends, such as 'secret' or 'team/kv'")
        return text

    @field_validator("mount")
    @classmethod
    def _given(cls, text: str) -> str:
        if not text:
            raise ValueError("must not be empty")
        return text

    @field_validator("timeout", mode="before")
    @classmethod
    def _short(cls, value: object) -> object:
        found = parse_duration(value) if isinstance(value, str) else value
        if not isinstance(found, timedelta) or not timedelta() < found <= timedelta(minutes=5):
            raise ValueError('must be a duration of at most "5m", such as "10s"')
        return found


class DeliveryOptions(FieldsOptions):
    """A deliver block whose sink is of type `vault`."""

    path: str = Field("astro/{name}", description="Below the mount; a slash begins a new segment. Values never do.")
    delete_previous_versions: bool = Field(
        default=False,
        description="KV version 2: delete (it can be undeleted) the version that a delivery replaced, and no other: one"
        " stays where a write timed out, so that nobody can say whose it replaced.",
    )

    @field_validator("path")
    @classmethod
    def _parsed(cls, text: str) -> str:
        _parse(text)
        return text


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled: all that writing needs, whatever the configuration says by then."""

    namespace: str
    mount: str
    path: str
    kv: int
    fields: dict[str, str]
    facts: dict[str, str] = field(default_factory=dict)
    delete_previous: bool = False

    @property
    def spot(self) -> Spot:
        return Spot(self.namespace, self.mount, self.path, self.kv)

    @property
    def key(self) -> str:
        """The key that is read back."""
        return secret_key(self.fields)


def build(name: str, options: Options, base: Path) -> "VaultSink":
    """See `rotator.sinks`.

    Raises:
        ConfigError: The address is given neither here nor in the environment, or cannot be used.
    """
    address = options.address or os.environ.get("VAULT_ADDR", "")
    if not address:
        raise ConfigError.of(f"sinks.{name}.address", "is missing; set it, or export VAULT_ADDR")
    if not is_usable(address):
        raise ConfigError.of("VAULT_ADDR", "must be an https URL, without user or query (http only to this machine)")
    namespace = options.namespace or os.environ.get("VAULT_NAMESPACE", "").strip("/")
    if namespace and not MOUNT.fullmatch(namespace):
        raise ConfigError.of("VAULT_NAMESPACE", "must be a path, such as 'team'")
    bundle = str(base / os.path.expanduser(options.ca_bundle)) if options.ca_bundle else ""
    return VaultSink(name, options, Connection(address, namespace, bundle, base))


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a sink talks to, once options, environment and folders are put together."""

    address: str
    namespace: str
    ca_bundle: str
    base: Path


class VaultSink:
    """See `ports.Sink`; a place is proven by reading it and by what Vault says the token may do at its exact path.

    Args:
        name: As configured.
        options: Validated.
        connection: Where to.
    """

    def __init__(self, name: str, options: Options, connection: Connection) -> None:
        self.name = name
        self._options = options
        self._connection = connection
        self._opening = threading.Lock()
        self._opened: tuple[Line, Login] | None = None
        self._writing = tuple(threading.Lock() for _ in range(_LOCKS))

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. Every key of a secret is a place of its own."""
        block = DeliveryOptions.model_validate(dict(options))
        path = _NAMING.rendered(_parse(block.path), facts)
        mount, version, fields = self._options.mount, self._options.kv, block.fields
        if block.delete_previous_versions and version == 1:
            raise Permanent("KV version 1 has no versions; leave delete_previous_versions out")
        namespace = self._connection.namespace
        target = _Target(
            namespace, mount, path, version, fields, used_facts(fields, facts), block.delete_previous_versions
        )
        _check_values(target)
        inside = f"{mount}/{path}"
        whole = f"{namespace}/{inside}" if namespace else inside
        return Place(
            self.name,
            f"{whole}#{target.key}",
            msgspec.to_builtins(target),
            parts=tuple(f"{whole}#{key}" for key in sorted(fields)),
            reference=f"vault:{inside}#{target.key}",
            store=f"vault {self._connection.address.rstrip('/').lower()}",
        )

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. A mount that demands check-and-set is fine: all writes to version 2 use it."""
        target, ask, where = journalled(_Target, place), self._asking(place.location), place.location
        kv.confirm(target.spot, ask, where)
        wanted: dict[str, tuple[str, ...]] = {target.spot.data: _NEEDS}
        if target.delete_previous:
            wanted[target.spot.beside("delete")] = ("update",)
        if missing := kv.lacking(wanted, target.spot, ask, where):
            said = "; ".join(f"{', '.join(lacks)} on {path}" for path, lacks in missing.items())
            raise Forbidden(f"{where}: the token's policy lacks {said}; grant it")
        kv.read(target.spot, ask, where)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. Where all fields stand as they shall, the secret itself is not written."""
        target, ask, where = journalled(_Target, place), self._asking(place.location), place.location
        fields = kv.rendered(render_fields(target.fields, mint, target.facts))
        # Held until the metadata is written too: the next of our threads carries it along.
        with self._writing[zlib.crc32(f"{target.mount}/{target.path}".encode()) % _LOCKS]:
            for _ in range(_TRIES):
                before = kv.read(target.spot, ask, where)
                done = before.present and before.holds(fields)
                version = before.version if done else kv.write(target.spot, before, fields, ask, where)
                if version is not None:
                    break
            else:
                raise Temporary(f"{where}: others keep writing this secret at the same moment")
            if target.kv == 1:
                return Receipt(place.location, _marker(target, fields))
            self._round_off(target, before, _new_mark(target, before, version, mint), ask, where)
        return Receipt(place.location, str(version))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. The mint is known as long as the key's mark counts."""
        target = journalled(_Target, place)
        content = kv.read(target.spot, self._asking(place.location), place.location)
        secret = _secret_in(content, target.key, place.location)
        if target.kv == 1:
            return Held(secret, version=_marker(target, _held_fields(content, target)))
        mark = mark_of(content, target.key)
        return Held(secret, mark.mint if mark else "", str(content.version))

    def secret_at(self, place: str) -> Secret:
        """Return what a secret reference names.

        Args:
            place: `mount/path#key`; the mount may be another than the sink's.

        Raises:
            NotFound: There is nothing there.
            Temporary, Permanent: It could not be read.
        """
        where, _, key = place.partition("#")
        ask = self._asking(where)
        spot = Spot(self._connection.namespace, self._options.mount, "", self._options.kv)
        if where.startswith(f"{spot.mount}/"):
            spot = Spot(spot.namespace, spot.mount, where.removeprefix(f"{spot.mount}/"), spot.kv)
        else:
            spot = kv.mounted(spot, where, ask, where)
        return _secret_in(kv.read(spot, ask, where), key, where)

    def close(self) -> None:
        """See `ports.Sink`."""
        with self._opening:
            opened, self._opened = self._opened, None
        if opened is not None:
            line, login = opened
            login.close()
            line.close()

    def _round_off(self, target: _Target, before: Content, mark: Mark, ask: kv.Ask, where: str) -> None:
        """Describe what was written and end what it replaced; the secret stands there whatever comes of this."""
        spot, steps, problems = target.spot, [], []
        if mark_of(before, target.key) != mark:
            custom = change(before, target.fields, target.key, mark)
            steps.append(partial(kv.describe, spot, custom, ask, where))
        if target.delete_previous and mark.over:
            steps.append(partial(kv.end, spot, int(mark.over), ask, where))
        for step in steps:
            try:
                step()
            except (Temporary, OutcomeUnknown) as error:
                problems.append(error.message)
            except Permanent:
                continue  # said in the module's docstring; preflight proved the right to delete
        if problems:
            raise OutcomeUnknown(f"{problems[0]} (the secret is written, what belongs beside it perhaps not)")

    def _asking(self, where: str) -> kv.Ask:
        """Return what sends requests as us, and logs in again once if our token turns out to be dead.

        A token without the `default` policy may not look itself up and so seems dead; that it lives is known if it was
        good for something a moment ago.
        """
        good: set[int] = set()

        def ask(call: Call) -> Answer:
            line, login = self._talking()
            session = login.session(where)
            answer = line.send(call, session.token)
            if isinstance(answer, Answer) and answer.status in (200, 204):
                good.add(session.number)
            if isinstance(answer, Answer) and answer.status == 403 and answer.errors is not None:
                alive = login.is_alive(session)
                if isinstance(alive, Failure):
                    raise failed(alive, where)
                if not alive:
                    fresh = login.again(session, where, lives=session.number in good)
                    answer = line.send(call, fresh.token) if fresh is not session else answer
            if isinstance(answer, Failure):
                raise failed(answer, where)
            if answer.status == 401:
                raise refusal(call, answer, where)
            return answer

        return ask

    def _talking(self) -> "tuple[Line, Login]":
        from rotator.sinks._vault_line import Line  # noqa: PLC0415 - hvac is loaded only where it is used
        from rotator.sinks._vault_login import Login  # noqa: PLC0415

        with self._opening:
            if self._opened is None:
                to = self._connection
                line = Line(to.address, to.ca_bundle, self._options.timeout)
                self._opened = line, Login(line, self._options.auth, to.namespace, to.base)
            return self._opened


def _parse(text: str) -> Template:
    template = _NAMING.parse(text)
    for segment in template.split("/"):
        if not segment.parts or (not segment.names and set(segment.literal) == {"."}):
            raise ValueError(_NAMING.rule)
    return template


def _check_values(target: _Target) -> None:
    """Find values that could not be written before a secret depends on it."""
    try:
        kv.rendered(render_fields(target.fields, SAMPLE, target.facts))
    except UnicodeEncodeError:
        raise Permanent("a value that `fields` uses has characters that JSON cannot carry; leave it out") from None


def _secret_in(content: Content, key: str, where: str) -> Secret:
    if not content.present or key not in content.data:
        raise NotFound(f"{where}: Vault holds nothing there under {visible(key, 80)}")
    secret = content.text(key)
    if secret is None:
        raise Permanent(f"{where}: what Vault holds under {visible(key, 80)} is not text")
    if not secret:
        raise NotFound(f"{where}: Vault holds an empty text there under {visible(key, 80)}")
    return secret


def _new_mark(target: _Target, before: Content, version: int, mint: Mint) -> Mark:
    """Return the mark of what stands there now.

    Which version it replaced is known to who wrote it, and from the mark that was left then. Not from the numbers: who
    finds its value there already cannot say who wrote it, over what.
    """
    found = mark_of(before, target.key)
    if version != before.version:
        return marked(mint, version, before.version if before.present else 0)
    return found if found is not None and found.mint == mint.id else marked(mint, version, 0)


def _held_fields(content: Content, target: _Target) -> Secret:
    return kv.rendered({key: text.reveal() for key in target.fields if (text := content.text(key)) is not None})


def _marker(target: _Target, fields: Secret) -> str:
    """Return what stands for a version where there is none: a digest of the fields that hold no secret."""
    plain = sorted(key for key, text in target.fields.items() if "secret" not in _names(text))
    if not plain:
        return ""
    found: dict[str, str] = msgspec.json.decode(fields.encoded())
    shown = {key: found.get(key, "") for key in plain}
    return sha256(msgspec.json.encode(shown)).hexdigest()[:16]


def _names(text: str) -> tuple[str, ...]:
    return Template.parse(text, FIELD_PLACEHOLDERS).names
