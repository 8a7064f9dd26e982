"""The `aws_ssm_parameter` sink: secrets in SecureString parameters of Systems Manager.

Parameter Store has no compare-and-set, but counts versions: a put that yields another version than the one after what
was read has replaced somebody's change, which is then read from the history and merged in. What nobody can see is who
reads before our put and writes after it; reading back finds that.

Source: https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_PutParameter.html (names, fifteen levels,
the sizes of the tiers and that Advanced cannot go back; an edit makes a new version). That versions count by one is
not said there; the sink relies on it only to notice that somebody came between.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
from pydantic import Field, field_validator

from rotator.errors import NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks._aws import AwsOptions, Call, Content, ContentOptions, Service, tags_of
from rotator.sinks._fields import SAMPLE, used_facts
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming

# The permission to put is tried out without effect, that to encrypt with the KMS key is not; see `_try_writing`.
PREFLIGHT_GRADE = Grade.ATTESTED

NAMING = Naming(
    clean=re.compile(r"[A-Za-z0-9_.-]+"),
    dirty=re.compile(r"[^A-Za-z0-9_.-]+"),
    literal=re.compile(r"[A-Za-z0-9/_.-]+"),
    rule="must be letters, digits and /_.- besides placeholders",
    longest=900,  # the ARN of a parameter has 1011 characters at most
)
_LEVELS = 15
_LIMITS = {"Standard": 4096, "Advanced": 8192, "Intelligent-Tiering": 8192}  # bytes of a value
_SPARE = 2048  # bytes that a new secret may have
_ROUNDS = 4  # merges before whoever keeps changing the parameter is left alone
_PAGES = 4  # of the history: 100 versions are kept
_DEFAULT_KEY = "alias/aws/ssm"
_EXISTS, _MISMATCH = "ParameterAlreadyExists", "ParameterPatternMismatchException"
Tier = Literal["Standard", "Advanced", "Intelligent-Tiering"]


class Options(AwsOptions):
    """`[sinks.X]` with `type = "aws_ssm_parameter"`."""


class DeliveryOptions(ContentOptions):
    """A deliver block whose sink is of type `aws_ssm_parameter`."""

    name: str = Field("{name}", description="Of the parameter; with a slash it begins with one.")
    format: Literal["json", "raw"] = Field("raw", description="raw: the secret and nothing else.")
    tier: Tier = Field("Standard", description="Standard holds 4 KiB, the others 8 KiB.")

    @field_validator("name")
    @classmethod
    def _named(cls, text: str) -> str:
        NAMING.parse(text)
        levels = text.split("/")
        if len(levels) > 1 and (levels[0] or not all(levels[1:])):
            raise ValueError("must begin with a slash if it has one, and have no empty level, such as /astro/{name}")
        if len(levels) > _LEVELS + 1:
            raise ValueError(f"has more than {_LEVELS} levels")
        if _reserved(text):
            raise ValueError("must not begin with aws or ssm, which AWS keeps for itself")
        return text


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled."""

    name: str
    content: Content
    tier: Tier = "Standard"
    kms_key_id: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    metadata: bool = True

    @property
    def where(self) -> str:
        return self.content.where(self.name)


@dataclass(frozen=True, slots=True)
class _Version:
    """One version; it never changes."""

    number: int
    value: Secret


def build(name: str, options: Options, base: Path) -> "ParameterSink":
    """See `rotator.sinks`."""
    return ParameterSink(name, Service("ssm", options, base))


class ParameterSink:
    """See `ports.Sink`.

    Args:
        name: As configured.
        service: Systems Manager.
    """

    def __init__(self, name: str, service: Service) -> None:
        self.name = name
        self._service = service

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. A raw parameter is one place; of a json object every key is."""
        block = DeliveryOptions.model_validate(dict(options))
        fields = block.fields or {}
        name = NAMING.rendered(NAMING.parse(block.name), facts)
        if _reserved(name):
            raise Permanent("its parameter would begin with aws or ssm, which AWS refuses; write name = /folder/{name}")
        content = Content(fields, used_facts(fields, facts))
        target = _Target(name, content, block.tier, block.kms_key_id, block.tags, block.metadata)
        _check(target, Secret(""), SAMPLE, _SPARE)
        options = msgspec.to_builtins(target)
        return Place(self.name, target.where, options, parts=content.parts(name), store=self._service.store)

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. Nothing is written: the put that shows that we may cannot have an effect."""
        target = journalled(_Target, place)
        current = self._read(target)
        _check(target, current.value if current else Secret(""), SAMPLE, _SPARE)
        if current is not None:
            self._check_history(target)
        self._try_writing(target)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. If the content would not change, nothing is put."""
        target = journalled(_Target, place)
        current, put = self._read(target), None
        for _ in range(_ROUNDS):
            before = current.value if current else Secret("")
            if before != mint.secret:  # a raw secret that is there already may look like anything
                _check(target, before, mint)
            content = target.content.merged(before, mint)
            if current is not None and content == (put or current.value):
                self._tag(target, mint)
                return Receipt(place.location, str(current.number))
            current, put = self._written(target, content, current)
        raise OutcomeUnknown(f"{target.where}: somebody else kept changing the parameter; compare its latest versions")

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        target = journalled(_Target, place)
        current = self._read(target)
        secret = target.content.value(current.value) if current else None
        if current is None or not secret:
            raise NotFound(f"{target.where}: the parameter does not exist, or holds nothing there")
        return Held(secret, version=str(current.number))

    def close(self) -> None:
        """See `ports.Sink`."""
        self._service.close()

    def _read(self, target: _Target, version: int | None = None) -> _Version | None:
        """Return a version, the latest if none is given; None if there is none."""
        name = target.name if version is None else f"{target.name}:{version}"
        call = Call(target.where, "get_parameter", {"Name": name, "WithDecryption": True})
        answer = self._service.ask(call, "ParameterNotFound", "ParameterVersionNotFound")
        if answer.error:
            return None
        found = answer.body.get("Parameter") or {}
        value, number = found.get("Value"), found.get("Version")
        if not isinstance(value, Secret) or not isinstance(number, int):
            raise Temporary(f"{target.where}: the answer is none of Parameter Store; is a proxy in the way?")
        if found.get("Type") != "SecureString":
            raise Permanent(f"{target.where}: is no SecureString, so anybody may read it; delete it, or name another")
        return _Version(number, value)

    def _written(
        self, target: _Target, content: Secret, base: _Version | None
    ) -> tuple[_Version | None, Secret | None]:
        """Put the content, and return what the next round looks at: what is there now, as far as it concerns us.

        That is the content itself if nobody came between; otherwise the change that it replaced, with the number of
        ours, so that it is merged in.
        """
        parameters: dict[str, object] = {
            "Name": target.name,
            "Type": "SecureString",
            "Overwrite": base is not None,
            "Tier": target.tier,
        }
        if target.kms_key_id:
            parameters["KeyId"] = target.kms_key_id
        call = Call(target.where, "put_parameter", parameters, writes=True, repeats=False, secret=content)
        answer = self._service.ask(call, _EXISTS)
        if answer.error:
            return self._read(target), None
        number = answer.body.get("Version")
        if not isinstance(number, int):
            raise OutcomeUnknown(f"{target.where}: the answer is none of Parameter Store; is a proxy in the way?")
        between = None
        if target.content.fields and base is not None and number > base.number + 1:
            between = self._read(target, number - 1)
        return _Version(number, between.value if between else content), content

    def _check_history(self, target: _Target) -> None:
        """Refuse what a put would change besides the value: the key, or a tier that cannot go back.

        The history needs a permission of its own; without it this is not checked.
        """
        parameters: dict[str, object] = {"Name": target.name, "WithDecryption": False, "MaxResults": 50}
        latest: Mapping[str, object] = {}
        for _ in range(_PAGES):
            answer = self._service.ask(
                Call(target.where, "get_parameter_history", parameters), "AccessDeniedException", "ParameterNotFound"
            )
            if answer.error:
                return
            latest = (answer.body.get("Parameters") or [latest])[-1]
            if not answer.body.get("NextToken"):
                break
            parameters["NextToken"] = answer.body["NextToken"]
        if latest.get("Tier") == "Advanced" and target.tier == "Standard":
            raise Permanent(f"{target.where}: is of tier Advanced, which cannot go back; set tier = Advanced")
        if not target.kms_key_id and latest.get("KeyId", _DEFAULT_KEY) != _DEFAULT_KEY:
            raise Permanent(
                f"{target.where}: is encrypted with a key of yours; name it in kms_key_id, or it would change"
            )

    def _try_writing(self, target: _Target) -> None:
        """Show that we may put, by a put without effect.

        It may not overwrite, so a parameter that exists refuses it; and its value does not match its own pattern, so
        none is made. It is authorized first, as every call is.
        """
        parameters = {
            "Name": target.name,
            "Type": "SecureString",
            "Value": "probe",
            "AllowedPattern": "^none$",
            "Overwrite": False,
        }
        call = Call(target.where, "put_parameter", parameters, writes=True)
        if self._service.ask(call, _EXISTS, _MISMATCH).error is None:
            raise Permanent(f"{target.where}: took a value that its pattern forbids; this is no Parameter Store")

    def _tag(self, target: _Target, mint: Mint) -> None:
        """Say what was written, if tags do not say so yet; that this is not allowed, or fails, is no failure."""
        wanted = tags_of(target.content, target.tags, mint if target.metadata else None)
        if not wanted:
            return
        resource: dict[str, object] = {"ResourceType": "Parameter", "ResourceId": target.name}
        with suppress(RotatorError):
            found = self._service.ask(Call(target.where, "list_tags_for_resource", resource)).body.get("TagList", ())
            missing = [tag for tag in wanted if tag not in found]
            if missing:
                parameters = {**resource, "Tags": missing}
                self._service.ask(Call(target.where, "add_tags_to_resource", parameters, writes=True))


def _reserved(name: str) -> bool:
    return name.lstrip("/").lower().startswith(("aws", "ssm"))


def _check(target: _Target, current: Secret, mint: Mint, spare: int = 0) -> None:
    """Refuse what would be lost, or not fit."""
    if reason := target.content.problem(current):
        raise Permanent(f"{target.where}: {reason}")
    longest = _LIMITS[target.tier]
    if len(target.content.merged(current, mint).encoded()) + spare > longest:
        raise Permanent(f"{target.where}: may need more than the {longest} bytes of its tier; set tier = Advanced")
