"""The `astro_environment` sink: secrets in Astro itself, as environment variable of a Deployment, or as connection or
variable of the Environment Manager.

The API updates whole objects only. Each write is made from a fresh read, changes one named field, says everything else
as it was, and is read again afterwards; writes of one process into one Deployment or object wait for each other. The
API has no compare-and-set: what somebody else writes within the round trip between our read and our write is undone,
and nothing can show it. What cannot be read back is known by the time at which Astro says that it was written.

A changed environment variable of a Deployment restarts its Airflow components, so what is there already is never
written again.
"""

import random
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from rotator.claims import claims
from rotator.clock import SystemClock
from rotator.credentials import Reference
from rotator.errors import ConfigError, Forbidden, NotFound, OutcomeUnknown, Permanent, RotatorError, Temporary
from rotator.events import Event
from rotator.model import Grade, Held, Mint, Place, Receipt
from rotator.ports import Clock
from rotator.providers.astro.http import AstroHttp, Endpoint
from rotator.providers.astro.limiter import PATIENCE, Limiters
from rotator.recent import Recent
from rotator.secret import Secret
from rotator.sinks._astro_calls import AstroCalls
from rotator.sinks._astro_deployment import DeploymentShelf
from rotator.sinks._astro_known import Known
from rotator.sinks._astro_objects import ObjectShelf
from rotator.sinks._astro_place import EXTRA, Kind, Target, check_key, id_of, id_template, key_of
from rotator.sinks._astro_shelf import Seen, Shelf
from rotator.sinks._journalled import journalled
from rotator.text import visible
from rotator.timing import parse_duration

PREFLIGHT_GRADE = Grade.ATTESTED

ATTEMPTS = 4
_PAUSE = timedelta(milliseconds=250)
# Roles that certainly may not change what this sink writes; any other, also one of the customer's own, may be enough.
_TOO_WEAK = frozenset(
    {
        "ORGANIZATION_MEMBER",
        "ORGANIZATION_BILLING_ADMIN",
        "ORGANIZATION_OBSERVE_ADMIN",
        "ORGANIZATION_OBSERVE_MEMBER",
        "WORKSPACE_MEMBER",
        "WORKSPACE_ACCESSOR",
        "DAG_VIEWER",
        "DAG_AUTHOR",
    }
)


def _duration(value: object) -> object:
    if isinstance(value, timedelta):
        return value
    if not isinstance(value, str):
        raise ValueError('must be a duration such as "30s"')
    duration = parse_duration(value)
    if duration <= timedelta():
        raise ValueError("must be longer than zero")
    return duration


def _reference(value: object) -> object:
    if not isinstance(value, str):
        raise ValueError("must be a secret reference, env:NAME or file:/path")
    Reference.parse(value)
    return value


class Rate(BaseModel):
    """Requests per second; the API's documented limits are the default, 0 lifts a limit."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    get: Annotated[float, Field(ge=0)] = 25
    post: Annotated[float, Field(ge=0)] = 10


class Options(BaseModel):
    """`[sinks.X]` with `type = "astro_environment"`."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    organization_id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,128}$", description="Whose Deployments and workspaces.")
    credential: Annotated[str, BeforeValidator(_reference)] = Field(
        description="Secret reference to an API token of its own, that may update what is written; never one that is"
        " rotated into this sink."
    )
    base_url: str = "https://api.astronomer.io"
    timeout: Annotated[timedelta, BeforeValidator(_duration, json_schema_input_type=str)] = timedelta(seconds=30)
    rate: Rate = Rate()
    ca_bundle: str = Field("", description="A PEM file; the system's certificates if empty.")
    proxy: str = Field("", description="URL of an HTTP proxy; as HTTPS_PROXY and NO_PROXY say if empty.")
    show_secrets: bool = Field(
        default=True,
        description="Read values of the Environment Manager where the organization allows it, to prove what is there.",
    )


class NewConnection(BaseModel):
    """What a connection that does not exist yet is made of; one that exists keeps what it has."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, hide_input_in_errors=True)

    type: str = Field(min_length=1, description="Airflow's connection type, such as http.")
    host: str = ""
    login: str = ""
    port: int | None = Field(None, ge=1, le=65535)
    database: str = Field("", alias="schema", serialization_alias="schema")


class DeliveryOptions(BaseModel):
    """A deliver block whose sink is of type `astro_environment`."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    kind: Literal["deployment_variable", "connection", "airflow_variable", "environment_variable"] = Field(
        description="deployment_variable: of the Deployment itself, restarts it. The others: the Environment Manager."
    )
    key: str = Field(description="Name of the variable or connection; placeholders are spelt so that it is allowed.")
    deployment_id: str | None = Field(None, description='An id, or "{deployment_id}". Or else workspace_id.')
    workspace_id: str | None = Field(None, description='An id, or "{workspace_id}"; links decide which Deployments.')
    secret: bool = Field(default=True, description="Whether Astro hides the value of the variable.")
    field: str = Field("", description='Of a connection: "password" (default), or "extra.KEY".')
    connection: NewConnection | None = Field(None, description="What a connection that is missing is made of.")

    @field_validator("deployment_id", "workspace_id")
    @classmethod
    def _id(cls, text: str | None, info: object) -> str | None:
        if text is not None:
            id_template(text, str(getattr(info, "field_name", "")))
        return text

    @field_validator("field")
    @classmethod
    def _field(cls, text: str) -> str:
        key = text.removeprefix(EXTRA)
        is_extra = text.startswith(EXTRA) and key and visible(key, len(key)) == key
        if text not in ("", "password") and not is_extra:
            raise ValueError('must be "password", or "extra." and the name of a key')
        return text

    @model_validator(mode="after")
    def _whole(self) -> "DeliveryOptions":
        kind = Kind(self.kind)
        try:
            check_key(kind, self.key)
        except ValueError as error:
            raise ValueError(f"key: {error}") from None
        if kind is Kind.DEPLOYMENT_VARIABLE and self.workspace_id is not None:
            raise ValueError("workspace_id: a deployment_variable lives in a Deployment; give deployment_id")
        if (self.deployment_id is None) == (self.workspace_id is None):
            raise ValueError("give exactly one of deployment_id and workspace_id")
        if kind is Kind.CONNECTION:
            self.field = self.field or "password"
            if not self.secret:
                raise ValueError("secret: Astro always hides the secret fields of a connection; leave it out")
        elif self.field or self.connection is not None:
            raise ValueError('field and connection need kind = "connection"')
        return self


def build(name: str, options: Options, base: Path) -> "AstroEnvironmentSink":
    """See `rotator.sinks`."""
    return AstroEnvironmentSink(name, options, base)


class AstroEnvironmentSink:
    """See `ports.Sink`.

    Args:
        name: As configured.
        options: Likewise.
        base: What a relative path of the credential counts from.
        clock: For pacing, pauses and timeouts.

    Raises:
        ConfigError: The API cannot be spoken to like this.
    """

    def __init__(self, name: str, options: Options, base: Path, clock: Clock | None = None) -> None:
        self.name = name
        self._organization = options.organization_id
        self._store = f"astro {options.base_url.rstrip('/').lower()}"
        self._reference = Reference.parse(options.credential)
        self._base = base
        self._clock = clock or SystemClock()
        endpoint = Endpoint(
            options.base_url,
            options.timeout,
            options.ca_bundle,
            options.proxy or environments_proxy(options.base_url),
            section="sinks",
        )
        dice = random.Random()  # noqa: S311 - spreads retries
        http = AstroHttp(name, endpoint, self._clock, _untold, dice)
        limiters = Limiters({"GET": options.rate.get, "POST": options.rate.post}, self._clock)
        self._calls = AstroCalls(http, limiters, self._credential, options.show_secrets)
        objects = ObjectShelf(self._calls)
        self._shelves: Mapping[Kind, Shelf] = dict.fromkeys(Kind, objects) | {
            Kind.DEPLOYMENT_VARIABLE: DeploymentShelf(self._calls)
        }
        self._known = Known()
        self._strong: Recent[None] = Recent(time.monotonic)
        self._guard = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}

    def resolve(self, options: Mapping[str, object], facts: Mapping[str, str]) -> Place:
        """See `ports.Sink`."""
        block = DeliveryOptions.model_validate(dict(options))
        kind = Kind(block.kind)
        name = "workspace_id" if block.deployment_id is None else "deployment_id"
        target = Target(
            organization=self._organization,
            lineage=facts.get("token_id", ""),
            kind=kind,
            scope=name.removesuffix("_id").upper(),
            entity=id_of(block.deployment_id or block.workspace_id or "", name, facts),
            key=key_of(kind, block.key, facts),
            field=block.field,
            secret=block.secret,
            connection={} if block.connection is None else _new(block.connection),
        )
        return Place(self.name, target.location, msgspec.to_builtins(target), store=self._store)

    def preflight(self, place: Place) -> None:
        """See `ports.Sink`: the container is read, and the credential is not known to be too weak to write it."""
        target = journalled(Target, place)
        with _named(place):
            self._refuse_own(target)
            shelf = self._shelves[target.kind]
            _refuse(shelf.problem(target, shelf.read(target)))
            self._require_role(target)

    def deliver(self, place: Place, mint: Mint) -> Receipt:
        """See `ports.Sink`."""
        target = journalled(Target, place)
        with _named(place), self._alone(target.container):
            return Receipt(place.location, self._delivered(target, mint))

    def read_back(self, place: Place) -> Held:
        """See `ports.Sink`."""
        target = journalled(Target, place)
        with _named(place):
            seen = self._shelves[target.kind].read(target)
        if not seen.exists:
            raise NotFound(f"{place.location}: there is no such secret")
        known = self._known.of(target.container, target.part, seen.version)
        version = known.version if known is not None else seen.version
        hidden_mint = known.mint_id if known is not None and seen.secret is None else ""
        return Held(seen.secret, hidden_mint, version)

    def close(self) -> None:
        """See `ports.Sink`."""
        self._calls.close()

    def _delivered(self, target: Target, mint: Mint) -> str:
        """Write until it has arrived, each time from a fresh read; return the version."""
        shelf = self._shelves[target.kind]
        failure: RotatorError | None = None
        for attempt in range(ATTEMPTS):
            if failure is not None:
                self._pause(attempt, failure)
            seen = shelf.read(target)
            _refuse(shelf.problem(target, seen))
            version = self._holding(target, seen, mint)
            if version is not None:
                return version
            try:
                written = shelf.write(target, seen, mint)
            except (Temporary, OutcomeUnknown) as error:
                failure = error.with_traceback(None)
                if not _is_patient(error):
                    break
                continue
            after = shelf.read(target)
            if _arrived(written, after, mint):
                self._learn(target, seen, after, mint)
                _refuse(_said_lost(shelf.lost(seen, after)))
                return after.version
            failure = Temporary("somebody else writes there at the same moment and undid it")
        raise failure or Temporary("it was not written")

    def _holding(self, target: Target, seen: Seen, mint: Mint) -> str | None:
        """Return the version if the place holds this mint already."""
        known = self._known.of(target.container, target.part, seen.version)
        if seen.exists and seen.secret is not None:
            version = known.version if known is not None and known.mint_id == mint.id else seen.version
            return version if seen.secret == mint.secret else None
        return known.version if seen.exists and known is not None and known.mint_id == mint.id else None

    def _learn(self, target: Target, before: Seen, after: Seen, mint: Mint) -> None:
        shelf = self._shelves[target.kind]
        if before.document is not None and after.document is not None:
            first, last = before.document, after.document
            self._known.follow(
                target.container, lambda part: shelf.version(first, part), lambda part: shelf.version(last, part)
            )
        self._known.learn(target.container, target.part, mint.id, after.version)

    def _pause(self, attempt: int, failure: RotatorError) -> None:
        asked = failure.retry_after if isinstance(failure, Temporary) else None
        self._clock.sleep(max(_PAUSE * 2 ** (attempt - 1), asked or timedelta()))

    def _refuse_own(self, target: Target) -> None:
        """Refuse to depend on the very token that is rotated, or on one of another organization."""
        said = claims(self._credential())
        if said is None:
            return  # no JWT: the API will say what it thinks of it
        if said.token_id and said.token_id == target.lineage:
            raise Permanent(
                f"the sink's credential {self._reference} is the very token that is to be rotated, and rotating it in"
                " place would end it before its new value could be written; give the sink an API token of its own"
            )
        if said.organization_id and said.organization_id != target.organization:
            raise Permanent("the sink's credential is of another organization; correct organization_id or credential")

    def _require_role(self, target: Target) -> None:
        said = claims(self._credential())
        if said is None or not said.token_id:
            return
        token_id = said.token_id
        self._strong.get((target.organization, token_id), lambda: self._look_at_roles(target.organization, token_id))

    def _look_at_roles(self, organization: str, token_id: str) -> None:
        roles = self._calls.own_roles(organization, token_id)
        if roles and all(role.get("role") in _TOO_WEAK for role in roles):
            raise Forbidden(
                "the roles of the sink's credential may only read; give its token WORKSPACE_OPERATOR on the workspace,"
                " or DEPLOYMENT_ADMIN on the Deployment"
            )

    def _credential(self) -> Secret:
        problem = ""
        try:
            return self._reference.read(self._base)
        except ConfigError as error:
            problem = error.message
        raise Temporary(f"the sink's credential: {problem}")

    @contextmanager
    def _alone(self, container: str) -> Iterator[None]:
        """Let one thread at a time write a Deployment or object."""
        with self._guard:
            lock = self._locks.setdefault(container, threading.Lock())
        with lock:
            yield


def _untold(_event: Event) -> None:
    """Sinks have nobody to tell of their requests."""


def _new(connection: NewConnection) -> dict[str, str | int]:
    return {name: value for name, value in connection.model_dump(by_alias=True).items() if value not in ("", None)}


def _arrived(written: str, after: Seen, mint: Mint) -> bool:
    if not after.exists:
        return False
    if after.secret is not None:
        return after.secret == mint.secret
    return not written or after.version == written


def _said_lost(what: str) -> str:
    return f"the secret was written, but the object lost its {what} on the way; set them again in Astro" if what else ""


def _is_patient(error: RotatorError) -> bool:
    asked = error.retry_after if isinstance(error, Temporary) else None
    return asked is None or asked <= PATIENCE


def _refuse(problem: str) -> None:
    if problem:
        raise Permanent(problem)


@contextmanager
def _named(place: Place) -> Iterator[None]:
    """Put the place before the message of whatever goes wrong."""
    try:
        yield
    except Temporary as error:
        named: RotatorError = type(error)(f"{place.location}: {error.message}", error.retry_after)
    except RotatorError as error:
        named = type(error)(f"{place.location}: {error.message}")
    else:
        return
    raise named


def environments_proxy(base_url: str) -> str:
    """Return the proxy that HTTPS_PROXY and NO_PROXY ask for; loopback never has one."""
    if not base_url.startswith("https://") or urllib.request.proxy_bypass(base_url[8:].partition("/")[0]):
        return ""
    return urllib.request.getproxies().get("https", "")
