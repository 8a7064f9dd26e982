"""The `gcp_secret_manager` sink: secrets of Google Secret Manager, one new version a delivery, the old ones kept.

An add takes no precondition, so two writers are told apart by the numbers of their versions: whoever finds a version
between the one it read and its own puts its keys into that one too. What is noted beside the value is an annotation of
the secret, written under its etag. A version that arrived without its annotation is found by its value.

Source: the API's own descriptions in google.cloud.secretmanager_v1.types: an id holds at most 255 of A-Z, a-z, 0-9, _
and - (CreateSecretRequest), a value 64 KiB (SecretPayload).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from pydantic import Field, field_validator, model_validator

from rotator.errors import Forbidden, NotFound, OutcomeUnknown, Permanent
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.sinks._google import STALE, UNSTABLE, Endpoint, SecretManager, Version
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.sinks._payload import Content, Mark, Payload, PayloadOptions
from rotator.sinks._web import Fault, Turns, WebOptions, checked_url, sound, trusted

PREFLIGHT_GRADE = Grade.ATTESTED

_LARGEST = 64 * 1024
_TRIES = 4
_PROJECT = re.compile(r"[a-z0-9.:-]{1,100}")
_ACCOUNT = re.compile(r"[A-Za-z0-9._-]+@[A-Za-z0-9._-]+")
_REGION = re.compile(r"[a-z0-9-]+")
_NAMES = Naming(
    clean=re.compile(r"[A-Za-z0-9_-]+"),
    dirty=re.compile(r"[^A-Za-z0-9_-]+"),
    literal=re.compile(r"[A-Za-z0-9_-]+"),
    rule="must hold A-Z, a-z, 0-9, _ and - besides placeholders",
)
_PERMISSIONS = (
    "secretmanager.secrets.get",
    "secretmanager.secrets.update",
    "secretmanager.versions.access",
    "secretmanager.versions.add",
)
_DISABLE = "secretmanager.versions.disable"


class Options(WebOptions):
    """`[sinks.X]` with `type = "gcp_secret_manager"`."""

    project: str = Field(description="Id or number of the project.")
    service_account: str = Field("", description="Impersonated; empty for the application's default credentials.")
    endpoint: str = Field("https://secretmanager.googleapis.com", description="Of the API.")

    @field_validator("endpoint")
    @classmethod
    def _usable(cls, text: str) -> str:
        url = checked_url(text, "https://secretmanager.googleapis.com")
        if url.count("/") != 2:
            raise ValueError("must not hold a path")
        return url

    @field_validator("project")
    @classmethod
    def _project(cls, text: str) -> str:
        if not _PROJECT.fullmatch(text):
            raise ValueError("must be the id or the number of a project, such as acme-prod")
        return text

    @field_validator("service_account")
    @classmethod
    def _account(cls, text: str) -> str:
        if text and not _ACCOUNT.fullmatch(text):
            raise ValueError("must be the address of a service account: NAME@PROJECT.iam.gserviceaccount.com")
        return text


class DeliveryOptions(PayloadOptions):
    """A deliver block whose sink is of type `gcp_secret_manager`."""

    secret: str = Field("astro-{name}", description="Id of the secret; placeholders are turned into what ids may hold.")
    create: bool = Field(
        default=False, description="Whether a secret that is not there is made, empty, by the preflight."
    )
    regions: list[str] = Field([], description="Where a new secret is kept; empty for automatic replication.")
    disable_previous: bool = Field(default=False, description="Whether the version before is disabled.")

    @field_validator("secret")
    @classmethod
    def _secret(cls, text: str) -> str:
        _NAMES.parse(text)
        return text

    @model_validator(mode="after")
    def _whole(self) -> "DeliveryOptions":
        if self.regions and not self.create:
            raise ValueError("regions are for a new secret: set create = true")
        if not all(_REGION.fullmatch(region) for region in self.regions):
            raise ValueError("regions must be names such as europe-west3")
        return self


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled; `secret` is its whole resource name."""

    secret: str
    payload: Payload
    create: bool = False
    regions: list[str] = field(default_factory=list)
    disable_previous: bool = False


def build(name: str, options: Options, base: Path) -> "GcpSecretManagerSink":
    """See `rotator.sinks`."""
    ca_file = trusted(options.ca_bundle, base, f"sinks.{name}.ca_bundle")
    endpoint = Endpoint(options.endpoint, ca_file, options.timeout, options.service_account)
    return GcpSecretManagerSink(name, options.project, SecretManager(name, endpoint))


class GcpSecretManagerSink:
    """See `ports.Sink`; a place is attested by Google's own word on the permissions for this very secret.

    Args:
        name: As configured.
        project: Id or number.
        google: Sends the calls.
    """

    def __init__(self, name: str, project: str, google: SecretManager) -> None:
        self.name = name
        self._project = project
        self._google = google
        self._turns = Turns()

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`."""
        block = DeliveryOptions.model_validate(dict(options))
        secret = f"projects/{self._project}/secrets/{_NAMES.rendered(_NAMES.parse(block.secret), facts)}"
        payload = Payload.of(block, facts)
        target = _Target(secret, payload, block.create, block.regions, block.disable_previous)
        options, parts = msgspec.to_builtins(target), payload.parts(secret)
        return Place(self.name, payload.location(secret), options, parts=parts, store="gcp")

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`. Where a block says so, a secret that is missing is made, without a version."""
        self._google.require_sdk()
        target = journalled(_Target, place)
        if self._google.described(target.secret, place.location) is None:
            if not target.create:
                raise Permanent(f"{place.location}: there is no such secret; make it, or set create = true")
            self._google.create(target.secret, target.regions, place.location)
        wanted = (*_PERMISSIONS, _DISABLE) if target.disable_previous else _PERMISSIONS
        lacking = self._google.lacking(target.secret, wanted, place.location)
        if lacking:
            raise Forbidden(f"{place.location}: the credential lacks {', '.join(lacking)} on it")
        held = self._content(self._latest(target, place.location))
        target.payload.refuse_unmergeable(held, place.location)
        target.payload.refuse_full(held, _LARGEST, place.location)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. A value that is there already is not written again."""
        target = journalled(_Target, place)
        with self._turns.of(target.secret):
            return self._delivered(target, place, mint)

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        target = journalled(_Target, place)
        seen = self._google.described(target.secret, place.location)
        if seen is None:
            raise NotFound(f"{place.location}: there is no such secret")
        held = sound(self._google.outcome_of_read(target.secret, "latest"), place.location, is_write=False)
        secret = target.payload.secret(held.content)
        if secret is None:
            raise NotFound(f"{place.location}: it does not hold that key")
        mark = Mark.parse(seen.annotations.get(target.payload.label, ""))
        is_ours = mark is not None and mark.version == str(held.number)
        return Held(secret, mark.mint if mark and is_ours else "", str(held.number))

    def close(self) -> None:
        """See `ports.Sink`."""
        self._google.close()

    def _delivered(self, target: _Target, place: Place, mint: Mint) -> Receipt:
        seen = self._google.described(target.secret, place.location)
        if seen is None:
            raise Permanent(f"{place.location}: there is no such secret any more")
        held = self._latest(target, place.location)
        noted = Mark.parse(seen.annotations.get(target.payload.label, ""))
        if held and self._fits(target, held, mint, place):
            known = noted is not None and (noted.mint, noted.version) == (mint.id, str(held.number))
            mark = noted if noted is not None and known else Mark.of(mint, str(held.number))
        else:
            number = self._add(target, held, mint, place)
            mark = Mark.of(mint, str(number), str(number - 1) if number > 1 else "")
        self._note(target, mark, place.location, is_new=mark != noted)
        return Receipt(place.location, mark.version)

    def _latest(self, target: _Target, location: str) -> Version | None:
        """Return the version that consumers read; None where there is none yet, or one whose text does not matter."""
        outcome = self._google.outcome_of_read(target.secret, "latest")
        if outcome is UNSTABLE:
            if target.payload.fields:
                raise Permanent(
                    f"{location}: its latest version is disabled or destroyed, so its other keys cannot be read;"
                    " enable it, or add a version by hand"
                )
            return None
        if isinstance(outcome, Fault) and outcome.kind is NotFound:
            return None
        return sound(outcome, location, is_write=False)

    def _content(self, version: Version | None) -> Content | None:
        return version.content if version else None

    def _fits(self, target: _Target, held: Version, mint: Mint, place: Place) -> bool:
        target.payload.refuse_unmergeable(held.content, place.location)
        return target.payload.merged(held.content, mint) == held.content

    def _add(self, target: _Target, held: Version | None, mint: Mint, place: Place) -> int:
        """Add a version, and again while somebody else's came between it and the one it was made from."""
        base = held
        for _ in range(_TRIES):
            content = target.payload.merged(self._content(base), mint)
            if len(content.data) > _LARGEST:
                raise Permanent(f"{place.location}: it would be larger than the 64 KiB that Google keeps")
            number = self._google.add(target.secret, content, place.location)
            between = None
            if target.payload.fields and number != (base.number if base else 0) + 1:
                between = self._between(target, number, place.location)
            if between is None or target.payload.merged(between.content, mint) == content:
                return number
            base = Version(number, between.content)
        raise OutcomeUnknown(
            f"{place.location}: was written, but somebody else goes on changing it; it is looked at again"
        )

    def _between(self, target: _Target, number: int, location: str) -> Version | None:
        outcome = self._google.outcome_of_read(target.secret, str(number - 1))
        if outcome is UNSTABLE or (isinstance(outcome, Fault) and outcome.kind is NotFound):
            return None
        version = sound(outcome, location, is_write=True)
        try:
            target.payload.refuse_unmergeable(version.content, location)
        except Permanent:
            return None
        return version

    def _note(self, target: _Target, mark: Mark, location: str, *, is_new: bool) -> None:
        """Annotate the secret, and disable what was replaced, where wanted; whatever fails now, the value is there.

        Which version that is, only who added the new one knows. So it is noted first: repeating makes up for what
        failed, and who finds its value there already disables nothing.
        """
        fault = self._annotated(target, mark, location) if is_new else None
        if fault is None and target.disable_previous and mark.over:
            fault = self._google.disable(target.secret, int(mark.over))
        if fault is not None:
            raise OutcomeUnknown(
                f"{location}: the value is there, but could not be noted: {fault.words}; it is noted again"
            )

    def _annotated(self, target: _Target, mark: Mark, location: str) -> Fault | None:
        fault: Fault | None = STALE
        for _ in range(_TRIES):
            seen = self._google.described(target.secret, location)
            if seen is None:
                return STALE
            fault = self._google.annotate(target.secret, seen, {target.payload.label: str(mark)})
            if fault is not STALE:
                break
        return fault
