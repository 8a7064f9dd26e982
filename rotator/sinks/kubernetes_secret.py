"""The `kubernetes_secret` sink: keys of Kubernetes Secrets, written by compare-and-set, and rollouts of who reads them.

A write is a JSON merge patch of exactly the named keys that carries the resourceVersion it was made for: the server
refuses it (409) if anybody wrote in between, and everything it does not name stays byte for byte. Server-side apply was
the alternative; there a field manager gives up the keys that its next apply leaves out, so deliveries that share a
Secret would delete each other's, and it needs force, hence no comparison, wherever kubectl wrote the key before.

What we know of a key stands in an annotation `rotator/<key>` beside it, so that another journal, or none, finds it.

Source: kubernetes.io/docs/reference/using-api/api-concepts, "Updates to existing resources" (a PATCH may be conditional
on the resourceVersion; one that is stale is refused with 409).
"""

import base64
import json
import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator

from rotator.errors import NotFound, Permanent, RotatorError, Temporary
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks._fields import SAMPLE, FieldsOptions, secret_key, used_facts
from rotator.sinks._journalled import journalled
from rotator.sinks._kube_api import Access, Answer, KubeApi, Request, require_sdk
from rotator.sinks._kube_failures import failure
from rotator.sinks._naming import Naming
from rotator.templates import PLACEHOLDERS, render_fields
from rotator.text import visible
from rotator.timing import parse_duration, stamp

PREFLIGHT_GRADE = Grade.PROVEN

_ATTEMPTS = 6  # compare-and-set, until somebody else's writes are too many
_LOCKS = 64  # shared out among the Secrets
_TURN_S = 1.0
_PLURALS = {"deployment": "deployments", "statefulset": "statefulsets", "daemonset": "daemonsets"}
_CONTROLLED = {"kubernetes.io/service-account-token": "Kubernetes itself", "helm.sh/release.v1": "Helm"}
_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_KEY = re.compile(r"(?!\.\.?$)(?!\.\.)[-._a-zA-Z0-9]{1,253}")
_TYPE = re.compile(rf"Opaque|(?:{_LABEL}(?:\.{_LABEL})*/)?[A-Za-z0-9](?:[-._A-Za-z0-9]*[A-Za-z0-9])?")
_QUALIFIED = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*/)?[A-Za-z0-9](?:[-._A-Za-z0-9]{{0,61}}[A-Za-z0-9])?")
_LABEL_VALUE = re.compile(r"(?:[A-Za-z0-9](?:[-._A-Za-z0-9]{0,61}[A-Za-z0-9])?)?")

# A secret of the size of the longest ones, so that a preflight meets every limit that the delivery will.
_PROBE = replace(SAMPLE, secret=Secret("x" * 4096))

_NAME = Naming(
    clean=_SUBDOMAIN,
    dirty=re.compile(r"[^a-z0-9]+"),
    literal=re.compile(r"[-.a-z0-9]*"),
    rule="may hold a-z, 0-9, - and . besides placeholders, as names of Kubernetes do",
    longest=253,
    fold=str.lower,
)
_NAMESPACE = replace(
    _NAME,
    clean=re.compile(_LABEL),
    literal=re.compile(r"[-a-z0-9]*"),
    rule="may hold a-z, 0-9 and - besides placeholders, as namespaces do",
    longest=63,
)
_ANNOTATION = Naming(
    clean=re.compile(r"[A-Za-z0-9](?:[-._A-Za-z0-9]*[A-Za-z0-9])?"),
    dirty=re.compile(r"[^-._A-Za-z0-9]+"),
    literal=re.compile(""),
    rule="",
    longest=63,
)


class Options(BaseModel):
    """`[sinks.X]` with `type = "kubernetes_secret"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    kubeconfig: str = Field("", description="Path; if not given, the pod's service account, or what kubectl uses.")
    context: str = Field("", description="Of the kubeconfig; if not given, its current one.")
    namespace: str = Field("", description="Of deliveries that name none.")
    ca_bundle: str = Field("", description="Path of certificates to trust instead of those that the kubeconfig names.")
    timeout: str = Field("30s", description="How long one request may take.")
    create: bool = Field(default=True, description="Whether a Secret that is missing is made.")

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, text: str) -> str:
        if text and not (len(text) <= 63 and re.fullmatch(_LABEL, text)):
            raise ValueError("must be the name of a namespace: a-z, 0-9 and -")
        return text

    @field_validator("timeout")
    @classmethod
    def _timeout(cls, text: str) -> str:
        if not 1 <= parse_duration(text).total_seconds() <= 300:
            raise ValueError('must be from "1s" to "5m"')
        return text


class DeliveryOptions(FieldsOptions):
    """A deliver block whose sink is of type `kubernetes_secret`."""

    namespace: str = Field("", description="Where the Secret is; the sink's namespace if not given. A template.")
    name: str = Field("{name}", description="Of the Secret; placeholders are encoded where names forbid characters.")
    type: str = Field("Opaque", description="Of a Secret that is made; one that is there keeps its own.")
    labels: dict[str, str] = Field({}, description="Set whenever the Secret is written; others stay.")
    restart: list[str] = Field(
        [], description='Workloads to roll out after a change: "deployment/web", statefulset/... or daemonset/....'
    )
    restart_on_create: bool = Field(default=False, description="Also when the key was not there before.")

    @field_validator("namespace")
    @classmethod
    def _namespace(cls, text: str) -> str:
        return _checked(text, _NAMESPACE) if text else text

    @field_validator("name")
    @classmethod
    def _name(cls, text: str) -> str:
        return _checked(text, _NAME)

    @field_validator("fields")
    @classmethod
    def _keys(cls, fields: dict[str, str]) -> dict[str, str]:
        for key in fields:
            if not _KEY.fullmatch(key):
                raise ValueError(
                    f"fields: '{visible(key)}' cannot be a key of a Secret; use letters, digits, -, _ and ."
                )
        return fields

    @field_validator("type")
    @classmethod
    def _type(cls, text: str) -> str:
        if not _TYPE.fullmatch(text):
            raise ValueError('must be a type of Secret such as "Opaque" or "kubernetes.io/basic-auth"')
        if text in _CONTROLLED:
            raise ValueError(f"Secrets of this type belong to {_CONTROLLED[text]}")
        return text

    @field_validator("labels")
    @classmethod
    def _labels(cls, labels: dict[str, str]) -> dict[str, str]:
        for key, value in labels.items():
            if not _QUALIFIED.fullmatch(key) or not _LABEL_VALUE.fullmatch(value):
                raise ValueError(f"'{visible(key)}' or its value cannot be a label; use letters, digits, -, _ and .")
        return labels

    @field_validator("restart")
    @classmethod
    def _restart(cls, workloads: list[str]) -> list[str]:
        for workload in workloads:
            kind, slash, name = workload.partition("/")
            if kind not in _PLURALS or not slash:
                raise ValueError(f"'{visible(workload)}' must be {', '.join(f'{known}/NAME' for known in _PLURALS)}")
            _checked(name, _NAME)
        return workloads


def _checked(text: str, naming: Naming) -> str:
    sample = naming.parse(text).render(dict.fromkeys(PLACEHOLDERS, "a"))
    if not naming.clean.fullmatch(sample):
        raise ValueError(f"{naming.rule}, and begin and end with a letter or digit")
    return text


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled: all that writing needs, whatever the configuration says by then.

    Attributes:
        facts: Those that fields use.
        restart: Workloads of the same namespace as (kind, name).
    """

    namespace: str
    name: str
    type: str
    create: bool
    fields: dict[str, str]
    facts: dict[str, str] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    restart: tuple[tuple[str, str], ...] = ()
    restart_on_create: bool = False

    @property
    def key(self) -> str:
        """The key that is read back."""
        return secret_key(self.fields)

    @property
    def annotation(self) -> str:
        """Where our record of the key stands."""
        return f"rotator/{_ANNOTATION.spelt(self.key, _ANNOTATION.longest)}"

    @property
    def rollout(self) -> str:
        """The annotation of a pod template that names the mint it was rolled out for; `_` is in no Secret's name."""
        return f"rotator/{_ANNOTATION.spelt(f'{self.name}_{self.key}', _ANNOTATION.longest)}"

    @property
    def secrets(self) -> tuple[str, ...]:
        """The path of the namespace's Secrets."""
        return "api", "v1", "namespaces", self.namespace, "secrets"


@dataclass(frozen=True, slots=True)
class _Record:
    """What we write beside a key.

    Attributes:
        is_first: Whether this mint's write made the key: nobody can have read an older value.
    """

    mint_id: str = ""
    token_id: str = ""
    lineage: str = ""
    rotated_at: str = ""
    fingerprint: str = ""
    is_first: bool = False


@dataclass(frozen=True, slots=True)
class _Existing:
    """A Secret as it is there."""

    version: str
    type: str
    is_immutable: bool
    data: Mapping[str, str] = field(repr=False)
    annotations: Mapping[str, str] = field(repr=False)

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "_Existing":
        metadata = content.get("metadata") or {}
        return cls(
            version=str(metadata.get("resourceVersion") or ""),
            type=str(content.get("type") or ""),
            is_immutable=content.get("immutable") is True,
            data=content.get("data") or {},
            annotations=metadata.get("annotations") or {},
        )

    def record(self, target: _Target) -> _Record | None:
        """Return what we wrote beside the key; None if nothing that can be read."""
        try:
            return msgspec.json.decode(self.annotations.get(target.annotation, ""), type=_Record)
        except msgspec.MsgspecError:
            return None


def build(name: str, options: Options, base: Path) -> "KubernetesSecretSink":
    """See `rotator.sinks`; raises ConfigError if the official client is not installed."""
    require_sdk()
    access = Access(
        kubeconfig=_path(options.kubeconfig, base),
        context=options.context,
        ca_bundle=_path(options.ca_bundle, base),
        timeout_s=parse_duration(options.timeout).total_seconds(),
    )
    return KubernetesSecretSink(name, KubeApi(access), options.namespace, create=options.create)


def _path(text: str, base: Path) -> str:
    return os.path.abspath(base / os.path.expanduser(text)) if text else ""


class KubernetesSecretSink:
    """See `ports.Sink` and `ports.Follower`; a place is proven by a dry run of the very write, admission included.

    Args:
        name: As configured.
        namespace: Of deliveries that name none; may be empty.
        create: Whether a missing Secret is made.
    """

    def __init__(self, name: str, api: KubeApi, namespace: str, *, create: bool) -> None:
        self.name = name
        self._api = api
        self._namespace = namespace
        self._create = create
        self._locks = tuple(threading.Lock() for _ in range(_LOCKS))

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. Every key of a Secret is a place of its own."""
        block = DeliveryOptions.model_validate(dict(options))
        namespace = _NAMESPACE.rendered(_NAMESPACE.parse(block.namespace), facts) if block.namespace else ""
        target = _Target(
            namespace=namespace or self._namespace,
            name=_NAME.rendered(_NAME.parse(block.name), facts),
            type=block.type,
            create=self._create,
            fields=block.fields,
            facts=used_facts(block.fields, facts),
            labels=block.labels,
            restart=tuple(_workload(workload, facts) for workload in block.restart),
            restart_on_create=block.restart_on_create,
        )
        if not target.namespace:
            raise Permanent(f"neither the delivery nor the sink {self.name} names a namespace; set namespace there")
        render_fields(target.fields, SAMPLE, target.facts)
        path = f"{target.namespace}/{target.name}"
        parts = tuple(f"{path}#{key}" for key in sorted(target.fields))
        options, store = msgspec.to_builtins(target), self._api.store
        return Place(self.name, f"{path}#{target.key}", options, parts=parts, store=store)

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. The write is made with a probe for a secret, and the server told not to keep it."""
        target = journalled(_Target, place)
        self._write(place.location, target, _PROBE, dry_run=True)
        for kind, name in target.restart:
            where, request = f"{place.location}: {kind}/{name}", _rollout(target, kind, name, _PROBE, dry_run=True)
            answer = self._ask(where, request)
            # One that is missing may be deployed once the Secret is there.
            if not answer.is_good and not (answer.status == 404 and answer.reason == "NotFound"):
                raise failure(where, request, answer)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. If every key holds its value already, nothing is written: readers may watch the object."""
        return Receipt(place.location, self._write(place.location, journalled(_Target, place), mint, dry_run=False))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. A line end behind the secret, as `echo` leaves one, is not part of it."""
        target = journalled(_Target, place)
        existing = self._read(place.location, target)
        if existing is None:
            self._require_namespace(place.location, target)
            raise NotFound(f"{place.location}: there is no such Secret")
        secret = _plain(existing, target.key)
        if not secret:
            raise NotFound(f"{place.location}: the Secret holds no secret under this key")
        record = existing.record(target)
        return Held(secret, record.mint_id if record else "", existing.version)

    def follow_up(self, place: Place, mint: Mint) -> None:
        """See `ports.Follower`: roll the workloads out, unless this mint made the key and so nobody read another.

        A workload names the mint in an annotation of its pod template, so repeating changes nothing. Those behind one
        that cannot be rolled out are tried all the same.
        """
        target = journalled(_Target, place)
        if not target.restart or not self._is_change(place.location, target, mint):
            return
        problems = [
            problem
            for kind, name in target.restart
            if (problem := self._roll_out(f"{place.location}: {kind}/{name}", _rollout(target, kind, name, mint)))
        ]
        if problems:
            raise problems[0]

    def close(self) -> None:
        """See `ports.Sink`."""
        self._api.close()

    def _is_change(self, where: str, target: _Target, mint: Mint) -> bool:
        existing = self._read(where, target)
        if existing is None:
            raise NotFound(f"{where}: there is no such Secret any more, so nothing that reads it was restarted")
        record = existing.record(target)
        if record is None:  # somebody removed our record, or put this value there: who reads it may hold an older one
            return True
        return record.mint_id == mint.id and (target.restart_on_create or not record.is_first)

    def _roll_out(self, where: str, request: Request) -> RotatorError | None:
        answer = self._ask(where, request)
        if answer.is_good:
            return None
        if answer.status == 404 and answer.reason == "NotFound":
            return NotFound(f"{where} does not exist, so it was not restarted; create it, or fix restart (404)")
        return failure(where, request, answer)

    def _ask(self, where: str, request: Request) -> Answer:
        try:
            return self._api.ask(request)
        except (Temporary, Permanent) as error:  # nothing was sent
            problem = type(error)(f"{where}: {error.message}")
        raise problem

    def _read(self, where: str, target: _Target) -> _Existing | None:
        """Return the Secret; None only if the API itself says that there is none."""
        request = Request("GET", (*target.secrets, target.name))
        answer = self._ask(where, request)
        if _is_missing(answer, target):
            return None
        if not answer.is_good:
            raise failure(where, request, answer)
        return _Existing.of(answer.content)

    def _require_namespace(self, where: str, target: _Target) -> None:
        """Refuse a namespace that is missing, where we may see that: it says more than that the Secret is."""
        answer = self._ask(where, Request("GET", target.secrets[:-1]))
        if answer.status == 404 and answer.about[0] == "namespaces":
            raise Permanent(f"{where}: there is no namespace {target.namespace}; create it, or fix the delivery (404)")

    def _write(self, where: str, target: _Target, mint: Mint, *, dry_run: bool) -> str:
        """Compare and set until nobody comes in between; return the version that is there then."""
        with self._turn(target):
            for _ in range(_ATTEMPTS):
                existing = self._read(where, target)
                _refuse_unwritable(where, target, existing)
                request = _change(target, existing, mint, dry_run)
                if request is None:
                    return existing.version if existing else ""
                answer = self._ask(where, request)
                if answer.is_good:
                    return _Existing.of(answer.content).version
                if not (_is_missing(answer, target) or (answer.status == 409 and answer.is_status)):
                    raise failure(where, request, answer)
        raise Temporary(f"{where}: somebody else keeps changing the Secret (409); it is tried again later")

    @contextmanager
    def _turn(self, target: _Target) -> Iterator[None]:
        """Spare our own threads each other's conflicts; safety comes from the comparison, so nobody waits for long."""
        lock = self._locks[hash((target.namespace, target.name)) % _LOCKS]
        held = lock.acquire(timeout=_TURN_S)
        try:
            yield
        finally:
            if held:
                lock.release()


def _is_missing(answer: Answer, target: _Target) -> bool:
    return answer.status == 404 and answer.reason == "NotFound" and answer.about == ("secrets", target.name)


def _workload(text: str, facts: Mapping[str, str]) -> tuple[str, str]:
    kind, _, name = text.partition("/")
    return kind, _NAME.rendered(_NAME.parse(name), facts)


def _refuse_unwritable(where: str, target: _Target, existing: _Existing | None) -> None:
    if existing is None:
        if not target.create:
            raise NotFound(f"{where}: there is no such Secret, and create = false; create it, or set create = true")
    elif existing.is_immutable:
        raise Permanent(f"{where}: the Secret is immutable; delete it and let rotator make it, or deliver elsewhere")
    elif existing.type in _CONTROLLED:
        raise Permanent(f"{where}: the Secret belongs to {_CONTROLLED[existing.type]}; deliver elsewhere")


def _change(target: _Target, existing: _Existing | None, mint: Mint, dry_run: bool) -> Request | None:
    """Return the request that writes the mint's fields; None if they are there."""
    data = _encoded(target, mint)
    known = existing.data if existing else {}
    if all(known.get(key) == value for key, value in data.items()):
        return None
    record = existing.record(target) if existing else None
    is_first = target.key not in known or (record is not None and record.mint_id == mint.id and record.is_first)
    metadata: dict[str, object] = {
        "annotations": {target.annotation: _described(mint, is_first)},
        **({"labels": target.labels} if target.labels else {}),
    }
    if existing:
        body = {"metadata": {**metadata, "resourceVersion": existing.version}, "data": data}
        return Request("PATCH", (*target.secrets, target.name), body, dry_run)
    metadata |= {"name": target.name, "namespace": target.namespace}
    body = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": target.type, "data": data}
    return Request("POST", target.secrets, body, dry_run)


def _encoded(target: _Target, mint: Mint) -> dict[str, str]:
    fields = render_fields(target.fields, mint, target.facts)
    return {key: base64.b64encode(text.encode(errors="surrogatepass")).decode() for key, text in fields.items()}


def _described(mint: Mint, is_first: bool) -> str:
    record = _Record(mint.id, mint.token_id, mint.lineage, stamp(mint.rotated_at), mint.fingerprint, is_first)
    return json.dumps(msgspec.to_builtins(record))


def _plain(existing: _Existing, key: str) -> Secret:
    try:
        content = base64.b64decode(existing.data.get(key) or "", validate=True)
    except ValueError:
        content = b""
    return Secret(content.decode(errors="replace").rstrip("\r\n"))


def _rollout(target: _Target, kind: str, name: str, mint: Mint, dry_run: bool = False) -> Request:
    body = {"spec": {"template": {"metadata": {"annotations": {target.rollout: mint.id}}}}}
    path = ("apis", "apps", "v1", "namespaces", target.namespace, _PLURALS[kind], name)
    return Request("PATCH", path, body, dry_run)
