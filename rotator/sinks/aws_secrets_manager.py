"""The `aws_secrets_manager` sink: one version of a secret a mint, made current by compare-and-set.

`PutSecretValue` alone would take the label AWSCURRENT from whatever holds it. Therefore a version is first put under a
label of ours, merged from the version that is current; then `UpdateSecretVersionStage` moves AWSCURRENT, and only from
that very version. If somebody was faster, nothing happened: we merge anew. Versions never change and are named by the
mint id, so every step may be repeated.

Source: https://docs.aws.amazon.com/secretsmanager/latest/apireference/API_PutSecretValue.html (a version that exists
with the same value is left alone, with another it is an error) and API_UpdateSecretVersionStage.html (where the label
is attached, it fails unless `RemoveFromVersionId` names that version).
"""

import re
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pydantic import Field, field_validator

from rotator.errors import NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks._aws import Answer, AwsOptions, Call, Content, ContentOptions, Service, tags_of
from rotator.sinks._fields import SAMPLE, used_facts
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.text import visible

# Every permission but that to encrypt with the KMS key is tried out without effect; see `_try_writing`.
PREFLIGHT_GRADE = Grade.ATTESTED

NAMING = Naming(
    clean=re.compile(r"[A-Za-z0-9_+=.@-]+"),
    dirty=re.compile(r"[^A-Za-z0-9_+=.@-]+"),
    literal=re.compile(r"[A-Za-z0-9/_+=.@-]+"),
    rule="must be letters, digits and /_+=.@- besides placeholders; an ARN is none",
    longest=512,
)
_LABEL = "rotator"  # keeps a version until AWSCURRENT comes to it
_CURRENT = "AWSCURRENT"
_LONGEST = 65536  # bytes of a value
_SPARE = 4096  # bytes that a new secret may have
_ROUNDS = 4  # merges before whoever keeps changing the secret is left alone
_TOKENS = 3  # ids that are tried for one version
_IDS = uuid.UUID("6f1d2f0c-3b0e-5c55-9d0b-5a1d4e1f7a10")  # a namespace of ours
_USABLE_ID = re.compile(r"[A-Za-z0-9-]{32,64}")
_MINT_ID = re.compile(r"[0-9a-f]{32}")
_GONE = "InvalidParameterException"


class Options(AwsOptions):
    """`[sinks.X]` with `type = "aws_secrets_manager"`."""


class DeliveryOptions(ContentOptions):
    """A deliver block whose sink is of type `aws_secrets_manager`."""

    name: str = Field("{name}", description="Of the secret; a slash stands for itself. Placeholders are made safe.")
    create: bool = Field(default=False, description="Make the secret if it does not exist.")
    replica_check: bool = Field(default=False, description="Fail where a replica of the secret has failed.")

    @field_validator("name")
    @classmethod
    def _named(cls, text: str) -> str:
        NAMING.parse(text)
        return text


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled."""

    name: str
    content: Content
    kms_key_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    metadata: bool = True
    create: bool = False
    replica_check: bool = False

    @property
    def where(self) -> str:
        return self.content.where(self.name)


@dataclass(frozen=True, slots=True)
class _Version:
    """One version; it never changes."""

    id: str
    value: Secret


def build(name: str, options: Options, base: Path) -> "SecretsManagerSink":
    """See `rotator.sinks`."""
    return SecretsManagerSink(name, Service("secretsmanager", options, base))


class SecretsManagerSink:
    """See `ports.Sink`.

    Args:
        name: As configured.
        service: Secrets Manager.
    """

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self._service = service

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. A raw secret is one place; of a json object every key is."""
        block = DeliveryOptions.model_validate(dict(options))
        fields = block.fields or {}
        content = Content(fields, used_facts(fields, facts))
        target = _Target(
            NAMING.rendered(NAMING.parse(block.name), facts),
            content,
            block.kms_key_id,
            block.tags,
            block.metadata,
            block.create,
            block.replica_check,
        )
        content.merged(Secret(""), SAMPLE)
        return Place(
            self.name,
            target.where,
            msgspec.to_builtins(target),
            parts=content.parts(target.name),
            reference=f"aws:{target.where}",
            store=self._service.store,
        )

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. Nothing is written: both write operations are called so that they cannot have an effect."""
        target = journalled(_Target, place)
        described = self._described(target)
        if described is None:
            if not target.create:
                raise Permanent(f"{target.where}: there is no such secret; create it, or set create = true")
            return
        if reason := _unfit(described, target):
            raise Permanent(f"{target.where}: {reason}")
        if target.replica_check:
            _check_replicas(described, target)
        current = self._current(target)
        if current is None:
            return
        _check(target, current.value, SAMPLE, _SPARE)
        self._try_writing(target, current)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. If the content would not change, nothing is put."""
        target = journalled(_Target, place)
        for _ in range(_ROUNDS):
            version = self._round(target, mint)
            if version:
                self._tag(target, mint)
                if target.replica_check:
                    _check_replicas(self._described(target) or {}, target)
                return Receipt(place.location, version)
        raise Temporary(f"{target.where}: somebody else kept changing the secret, which now holds their value")

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. The mint id is that of the version, but not beside keys of others: they may be newer."""
        target = journalled(_Target, place)
        current = self._current(target)
        secret = target.content.value(current.value) if current else None
        if current is None or not secret:
            raise NotFound(f"{target.where}: the secret does not exist, or holds nothing there")
        is_ours = _is_mint(current.id) and target.content.is_all(current.value)
        return Held(secret, current.id if is_ours else "", current.id)

    def secret_at(self, place: str) -> Secret:
        """Return the value that the secret reference `aws:<place>` names: `name#key`, or `name` for all of it.

        Raises:
            NotFound: There is none.
            Temporary, Permanent: It could not be read.
        """
        name, hash_, key = place.partition("#")
        content = Content({key: "{secret}"} if hash_ else {})
        current = self._current(_Target(name, content))
        secret = content.value(current.value) if current else None
        if not secret:
            raise NotFound(f"{visible(place)}: the secret does not exist, or holds nothing there")
        return secret

    def close(self) -> None:
        """See `ports.Sink`."""
        self._service.close()

    def _described(self, target: _Target) -> Mapping[str, object] | None:
        """Return what AWS says of the secret besides its value, None if it does not exist."""
        call = Call(target.where, "describe_secret", {"SecretId": target.name})
        answer = self._service.ask(call, "ResourceNotFoundException")
        return None if answer.error else answer.body

    def _current(self, target: _Target) -> _Version | None:
        """Return the current version, None if there is none; raises Permanent if it is no text."""
        call = Call(target.where, "get_secret_value", {"SecretId": target.name, "VersionStage": _CURRENT})
        answer = self._service.ask(call, "ResourceNotFoundException")
        if answer.error:
            return None
        value, version = answer.body.get("SecretString"), answer.body.get("VersionId")
        if answer.body.get("SecretBinary") is not None:
            raise Permanent(f"{target.where}: holds binary content; name another secret, or put text there")
        if not isinstance(value, Secret) or not isinstance(version, str):
            raise Temporary(f"{target.where}: the answer is none of Secrets Manager; is a proxy in the way?")
        return _Version(version, value)

    def _try_writing(self, target: _Target, current: _Version) -> None:
        """Show that we may write, by calls without effect.

        Putting what a version holds once more, under its own id, is ignored. AWSCURRENT cannot be moved from a version
        that does not exist. Both are authorized first, as every call is.
        """
        self._service.ask(_put(target, current.id, current.value), "ResourceExistsException")
        nobody = uuid.uuid5(_IDS, current.id).hex
        self._service.ask(_move(target, nobody, nobody), _GONE, "ResourceNotFoundException", "InvalidRequestException")

    def _round(self, target: _Target, mint: Mint) -> str:
        """Return the version that is current and holds the mint, empty if somebody was faster."""
        current = self._current(target)
        if current is None:
            return self._first(target, mint)
        _check(target, current.value, mint)
        content = target.content.merged(current.value, mint)
        if content == current.value:
            return current.id
        staged = self._staged(target, mint, content, current.id)
        moved = self._service.ask(
            _move(target, staged, current.id), _GONE, "InvalidRequestException", "ResourceNotFoundException"
        )
        return "" if moved.error else _confirmed(target, moved, staged)

    def _first(self, target: _Target, mint: Mint) -> str:
        """Make the secret, or the first version of one that has none; returns its id, empty to look again."""
        content = target.content.merged(Secret(""), mint)
        if self._described(target) is not None:
            self._staged(target, mint, content, "")  # the first version of a secret becomes current by itself
            return ""
        if not target.create:
            raise Permanent(f"{target.where}: there is no such secret; create it, or set create = true")
        token = _token(mint, "", 0)
        tags = tags_of(target.content, target.tags, mint if target.metadata else None)
        parameters: dict[str, object] = {"Name": target.name, "ClientRequestToken": token}
        if target.kms_key_id:
            parameters["KmsKeyId"] = target.kms_key_id
        if tags:
            parameters["Tags"] = tags
        call = Call(target.where, "create_secret", parameters, writes=True, secret=content)
        answer = self._service.ask(call, "ResourceExistsException")
        return "" if answer.error else _confirmed(target, answer, token)

    def _staged(self, target: _Target, mint: Mint, content: Secret, base: str) -> str:
        """Return the id of a version with this content, which is not current yet."""
        for number in range(_TOKENS):
            token = _token(mint, base, number)
            answer = self._service.ask(_put(target, token, content), "ResourceExistsException")
            if not answer.error:
                return _confirmed(target, answer, token)
        raise Permanent(f"{target.where}: holds versions of this mint that we did not write")

    def _tag(self, target: _Target, mint: Mint) -> None:
        """Say what was written, if tags do not say so yet; that this is not allowed, or fails, is no failure."""
        wanted = tags_of(target.content, target.tags, mint if target.metadata else None)
        if not wanted:
            return
        with suppress(RotatorError):
            found = (self._described(target) or {}).get("Tags")
            missing = [tag for tag in wanted if not isinstance(found, list) or tag not in found]
            if missing:
                parameters = {"SecretId": target.name, "Tags": missing}
                self._service.ask(Call(target.where, "tag_resource", parameters, writes=True))


def _confirmed(target: _Target, answer: Answer, version: str) -> str:
    if not answer.body.get("ARN"):
        raise OutcomeUnknown(f"{target.where}: the answer is none of Secrets Manager; is a proxy in the way?")
    return version


def _put(target: _Target, token: str, content: Secret) -> Call:
    parameters = {"SecretId": target.name, "ClientRequestToken": token, "VersionStages": [_LABEL]}
    return Call(target.where, "put_secret_value", parameters, writes=True, secret=content)


def _move(target: _Target, to: str, from_: str) -> Call:
    parameters = {
        "SecretId": target.name,
        "VersionStage": _CURRENT,
        "MoveToVersionId": to,
        "RemoveFromVersionId": from_,
    }
    return Call(target.where, "update_secret_version_stage", parameters, writes=True)


def _token(mint: Mint, base: str, number: int) -> str:
    """Return the id of the version that this mint makes of the version `base`: the mint's own first."""
    if not number and _USABLE_ID.fullmatch(mint.id):
        return mint.id
    return uuid.uuid5(_IDS, f"{mint.id}/{base}/{number}").hex


def _is_mint(version: str) -> bool:
    """Whether a version may be named after a mint: those are random, and what we derive (version 5) is not."""
    return bool(_MINT_ID.fullmatch(version)) and uuid.UUID(version).version != 5


def _check(target: _Target, current: Secret, mint: Mint, spare: int = 0) -> None:
    """Refuse what would be lost, or not fit."""
    if reason := target.content.problem(current):
        raise Permanent(f"{target.where}: {reason}")
    if len(target.content.merged(current, mint).encoded()) + spare > _LONGEST:
        raise Permanent(f"{target.where}: would hold more than {_LONGEST} bytes; use another secret")


def _unfit(described: Mapping[str, object], target: _Target) -> str:
    """Return why nobody should write there, empty if we may."""
    if described.get("DeletedDate"):
        return "is scheduled for deletion; restore it (aws secretsmanager restore-secret) or name another"
    if described.get("OwningService"):
        return f"is run by the AWS service {visible(str(described['OwningService']), 40)}; name another"
    arn = str(described.get("ARN", "")).split(":")
    if described.get("PrimaryRegion") and len(arn) > 3 and described["PrimaryRegion"] != arn[3]:
        return f"is a replica; write to its primary in {visible(str(described['PrimaryRegion']), 40)}"
    if described.get("RotationEnabled"):
        return "rotates by itself, which would replace our value; end that (aws secretsmanager cancel-rotate-secret)"
    key = str(described.get("KmsKeyId") or "")
    if target.kms_key_id and _differ(key, target.kms_key_id):
        return "is encrypted with another key than kms_key_id; change that (update-secret), or the option"
    return ""


def _differ(found: str, wanted: str) -> bool:
    """Whether two names of keys cannot mean the same one; an alias may mean any."""
    if "alias/" in found or "alias/" in wanted:
        return "alias/" in found and "alias/" in wanted and found.split("alias/")[1] != wanted.split("alias/")[1]
    return found.rsplit("/", 1)[-1] != wanted.rsplit("/", 1)[-1]


def _check_replicas(described: Mapping[str, object], target: _Target) -> None:
    replicas = described.get("ReplicationStatus")
    for replica in replicas if isinstance(replicas, list) else []:
        if replica.get("Status") == "Failed":
            region = visible(str(replica.get("Region", "")), 40)
            raise Temporary(
                f"{target.where}: its replica in {region} has failed; repair it, or set replica_check = false"
            )
