"""The `github_actions_secret` sink: Actions secrets of a repository, of one of its environments, of an organization.

GitHub gives no value back, so nothing can be compared: a delivery that is repeated puts the same value again, which
changes nothing for who reads it, and what is held is known by `updated_at` alone. A value leaves here in a sealed box
for the public key that is fetched for the very write. Who may see an organization's secret is never changed.

Sources: docs.github.com/en/rest/actions/secrets (the calls); docs.github.com/en/actions/reference/security/secrets: a
name holds letters, digits and _, begins with neither a digit nor GITHUB_, is stored in upper case; a value has 48 KB
at most.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from rotator.credentials import Reference
from rotator.errors import ConfigError, Forbidden, NotFound, OutcomeUnknown, Permanent, RotatorError
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.secret import Secret
from rotator.sinks._github import Answer, GitHub, decoded, failure
from rotator.sinks._journalled import journalled
from rotator.sinks._naming import Naming
from rotator.sinks._web import SecretReference, WebOptions, checked_url, trusted
from rotator.text import visible

PREFLIGHT_GRADE = Grade.ATTESTED

_LARGEST = 48 * 1024  # bytes of a value
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_REPOSITORY = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._-]{1,100}")
_FORBIDDEN_START = re.compile(r"GITHUB_|[0-9]")
_NAMES = Naming(
    clean=re.compile(r"[A-Z0-9_]+"),
    dirty=re.compile(r"[^A-Z0-9_]+"),
    literal=re.compile(r"[A-Z0-9_]+"),
    rule="must hold A-Z, 0-9 and _ besides placeholders, and begin with neither a digit nor GITHUB_",
    fill="_",
    fold=str.upper,
    digest=str.upper,
)


class Options(WebOptions):
    """`[sinks.X]` with `type = "github_actions_secret"`."""

    api_url: str = Field("https://api.github.com", description="Of GitHub Enterprise Server: https://HOST/api/v3")
    credential: SecretReference = Field(min_length=1, description="Secret reference to a token, read at every call.")

    @field_validator("api_url")
    @classmethod
    def _usable(cls, text: str) -> str:
        return checked_url(text, "https://api.github.com")


class DeliveryOptions(BaseModel):
    """A deliver block whose sink is of type `github_actions_secret`: owner and repository, or organization."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    name: str = Field("ASTRO_{name}", description="Of the secret; placeholders are turned into A-Z, 0-9 and _.")
    owner: str = Field("", description="Of the repository.")
    repository: str = Field("", description="Without its owner.")
    environment: str = Field("", description="Of the repository; empty for a secret of the whole repository.")
    organization: str = Field("", description="For a secret of an organization.")
    visibility: Literal["all", "private", "selected"] = Field(
        "private", description="Which repositories see an organization's secret that is new; never changed later."
    )
    selected_repository_ids: list[int] = Field([], description='Likewise, with visibility = "selected".')

    @field_validator("name")
    @classmethod
    def _name(cls, text: str) -> str:
        is_placeholder, first = _NAMES.parse(text).parts[0]
        if not is_placeholder and _FORBIDDEN_START.match(first):
            raise ValueError(_NAMES.rule)
        return text

    @model_validator(mode="after")
    def _whole(self) -> "DeliveryOptions":
        if bool(self.organization) == bool(self.owner or self.repository or self.environment):
            raise ValueError("set either owner and repository (and perhaps environment), or organization")
        if not self.organization and not (_OWNER.fullmatch(self.owner) and _REPOSITORY.fullmatch(self.repository)):
            raise ValueError("owner and repository must be names such as acme and airflow-dags")
        if self.organization and not _OWNER.fullmatch(self.organization):
            raise ValueError("organization must be a name such as acme")
        if visible(self.environment, 255) != self.environment:
            raise ValueError("environment must be a name of at most 255 characters that can be seen")
        if not self.organization and (self.visibility != "private" or self.selected_repository_ids):
            raise ValueError("visibility and selected_repository_ids are for secrets of an organization")
        if bool(self.selected_repository_ids) != (self.visibility == "selected"):
            raise ValueError('visibility = "selected" and selected_repository_ids need each other')
        return self


@dataclass(frozen=True, slots=True)
class _Target:
    """A place as it is journalled.

    Attributes:
        folder: The path below the API under which keys and secrets are.
        name: Of the secret.
        visibility: Of a new secret of an organization; empty for any other.
    """

    folder: str
    name: str
    visibility: str = ""
    selected: list[int] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"


class _Key(msgspec.Struct):
    key_id: str
    key: str


class _Row(msgspec.Struct):
    updated_at: str
    visibility: str = ""


class _Repository(msgspec.Struct):
    id: int


class _Repositories(msgspec.Struct):
    repositories: list[_Repository]
    total_count: int


def build(name: str, options: Options, base: Path) -> "GitHubActionsSecretSink":
    """See `rotator.sinks`."""
    reference = Reference.parse(options.credential)
    ca_file = trusted(options.ca_bundle, base, f"sinks.{name}.ca_bundle")
    return GitHubActionsSecretSink(
        name, GitHub(options.api_url, ca_file, options.timeout, lambda: reference.read(base))
    )


class GitHubActionsSecretSink:
    """See `ports.Sink`; a place is attested: its public key and what it shows of its secret can be read.

    Args:
        name: As configured.
        github: Sends the calls.
    """

    def __init__(self, name: str, github: GitHub) -> None:
        self.name = name
        self._github = github

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`. GitHub takes no notice of case, so the location has one spelling."""
        block = DeliveryOptions.model_validate(dict(options))
        name = _NAMES.rendered(_NAMES.parse(block.name), facts)
        if _FORBIDDEN_START.match(name):
            raise Permanent("the name of a secret must not begin with a digit or GITHUB_; begin it with a fixed prefix")
        where = _folder(block)
        is_org = bool(block.organization)
        target = _Target(
            where, name, block.visibility if is_org else "", list(block.selected_repository_ids) if is_org else []
        )
        owner = block.organization or f"{block.owner}/{block.repository}"
        environment = f"/{quote(block.environment.lower(), safe='')}" if block.environment else ""
        location = f"{owner.lower()}{environment}#{name}"
        return Place(self.name, location, msgspec.to_builtins(target), store=self._github.store)

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`."""
        _sealed_box(self.name)
        target = journalled(_Target, place)
        self._key(target, place.location)
        self._row(target, place.location)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`. It cannot be seen what is there, so it is written always."""
        target = journalled(_Target, place)
        if len(mint.secret.encoded()) > _LARGEST:
            raise Permanent(f"{place.location}: the value is larger than the 48 KB that GitHub keeps")
        access = self._access(target, place.location)
        answer = self._put(target, access, mint, place.location)
        if answer.status == 422:  # the key may have been replaced since it was fetched
            answer = self._put(target, access, mint, place.location)
        if not answer.is_success:
            raise failure(place.location, answer, is_write=True)
        return Receipt(place.location, self._written(target, place.location))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`. A 404 counts only while the key beside it can be read: else it may hide anything."""
        target = journalled(_Target, place)
        row = self._row(target, place.location)
        if row is None:
            self._key(target, place.location)
            raise NotFound(f"{place.location}: there is no such secret")
        return Held(None, version=row.updated_at)

    def close(self) -> None:
        """See `ports.Sink`."""
        self._github.close()

    def _key(self, target: _Target, location: str) -> _Key:
        answer = self._github.read(f"{target.folder}/public-key", location)
        if answer.is_absent:
            raise failure(location, answer, is_write=False)
        _refuse_scopes(answer, target, location)
        return decoded(answer, _Key, location)

    def _row(self, target: _Target, location: str) -> _Row | None:
        answer = self._github.read(target.path, location)
        return None if answer.is_absent else decoded(answer, _Row, location)

    def _access(self, target: _Target, location: str) -> dict[str, object]:
        """Return who shall see an organization's secret: as it is now, as configured only if it is new."""
        if not target.visibility:
            return {}
        row = self._row(target, location)
        if row is None:
            selected = {"selected_repository_ids": target.selected} if target.visibility == "selected" else {}
            return {"visibility": target.visibility, **selected}
        if row.visibility != "selected":
            return {"visibility": row.visibility}
        return {"visibility": "selected", "selected_repository_ids": self._selected(target, location)}

    def _selected(self, target: _Target, location: str) -> list[int]:
        found: list[int] = []
        for page in range(1, 101):
            answer = self._github.read(f"{target.path}/repositories?per_page=100&page={page}", location)
            if answer.is_absent:
                raise failure(location, answer, is_write=False)
            rows = decoded(answer, _Repositories, location)
            found += [row.id for row in rows.repositories]
            if len(found) >= rows.total_count:
                return found
            if not rows.repositories:
                break
        raise Permanent(f"{location}: the list of repositories that see it could not be read whole, so it is kept")

    def _put(self, target: _Target, access: Mapping[str, object], mint: Mint, location: str) -> Answer:
        seal = _sealed_box(self.name)
        key = self._key(target, location)
        sealed = _sealed(seal, key.key, mint.secret)
        if sealed is None:
            raise Permanent(f"{location}: GitHub's public key is none that values can be sealed for; check api_url")
        return self._github.write(target.path, {"encrypted_value": sealed, "key_id": key.key_id, **access}, location)

    def _written(self, target: _Target, location: str) -> str:
        """Return the version after a write; whatever fails now, the value may be there."""
        try:
            row = self._row(target, location)
        except RotatorError:
            row = None
        if row is None:
            raise OutcomeUnknown(f"{location}: was written, but GitHub does not show it yet; it is written again")
        return row.updated_at


def _folder(block: DeliveryOptions) -> str:
    if block.organization:
        return f"/orgs/{block.organization}/actions/secrets"
    repository = f"/repos/{block.owner}/{block.repository}"
    if block.environment:
        return f"{repository}/environments/{quote(block.environment, safe='')}/secrets"
    return f"{repository}/actions/secrets"


def _refuse_scopes(answer: Answer, target: _Target, location: str) -> None:
    """Refuse a classic token whose scopes, which GitHub repeats in every answer to one, do not allow writing."""
    said = answer.headers.get("x-oauth-scopes", "").strip()
    if not said:
        return  # a fine-grained token or that of an app: it does not say what it may do
    scopes = {scope.strip() for scope in said.split(",")}
    if target.visibility and "admin:org" not in scopes:
        raise Forbidden(f"{location}: the token lacks the scope admin:org")
    if not target.visibility and not scopes & {"repo", "public_repo"}:
        raise Forbidden(f"{location}: the token lacks the scope repo")


def _sealed_box(sink: str) -> type:
    """Return the class of libsodium's sealed boxes, loaded when it is first needed."""
    try:
        from nacl.public import SealedBox  # noqa: PLC0415
    except ImportError:
        pass
    else:
        return SealedBox
    raise ConfigError.of(f"sinks.{sink}", "needs PyNaCl; run: pip install 'rotator[github]'")


def _sealed(box: type, key: str, secret: Secret) -> str | None:
    """Return the value in a sealed box; None if the key is none. Raises nothing, for its frame holds the value."""
    from nacl.public import PublicKey  # noqa: PLC0415

    try:
        public = PublicKey(base64.b64decode(key, validate=True))
        return base64.b64encode(box(public).encrypt(secret.encoded())).decode()
    except (ValueError, TypeError, RuntimeError):
        return None
