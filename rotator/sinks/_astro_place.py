"""Where the `astro_environment` sink writes: the kinds of places in Astro, and a place as it is journalled. Pure."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from rotator.errors import Permanent
from rotator.sinks._naming import Naming
from rotator.templates import Template

EXTRA = "extra."
_SAFE_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

VARIABLES = Naming(
    clean=re.compile(r"[A-Za-z0-9_]+"),
    dirty=re.compile(r"[^A-Za-z0-9_]+"),
    literal=re.compile(r"[A-Za-z0-9_]+"),
    rule="the name of a variable is made of letters, digits and _ besides its placeholders",
    fill="_",
    longest=250,
)
KEYS = Naming(
    clean=re.compile(r"[A-Za-z0-9_.-]+"),
    dirty=re.compile(r"[^A-Za-z0-9_.-]+"),
    literal=re.compile(r"[A-Za-z0-9_.-]+"),
    rule="a key is made of letters, digits, _, . and - besides its placeholders",
    longest=250,
)


class Kind(StrEnum):
    """What holds the secret."""

    DEPLOYMENT_VARIABLE = "deployment_variable"  # an environment variable of the Deployment itself
    CONNECTION = "connection"  # the others are objects of the Environment Manager
    AIRFLOW_VARIABLE = "airflow_variable"
    ENVIRONMENT_VARIABLE = "environment_variable"

    @property
    def naming(self) -> Naming:
        """The rules for its key."""
        is_environment = self in (Kind.DEPLOYMENT_VARIABLE, Kind.ENVIRONMENT_VARIABLE)
        return VARIABLES if is_environment else KEYS


@dataclass(frozen=True, slots=True)
class Target:
    """A place as it is journalled: all that writing needs, whatever the configuration says by then.

    Attributes:
        lineage: The first id of the credential's token.
        scope: WORKSPACE or DEPLOYMENT, and `entity` its id.
        field: Of a connection: `password` or `extra.KEY`; empty for variables.
        secret: Whether Astro shall hide the value.
        connection: What a connection that does not exist yet is made of; empty to make none.
    """

    organization: str
    lineage: str
    kind: Kind
    scope: str
    entity: str
    key: str
    field: str = ""
    secret: bool = True
    connection: dict[str, str | int] = dataclasses.field(default_factory=dict)

    @property
    def home(self) -> str:
        """Says the workspace or Deployment, as in the paths of the API."""
        return f"{self.organization}/{self.scope.lower()}s/{self.entity}"

    @property
    def container(self) -> str:
        """What is written as a whole: the Deployment, or one object."""
        if self.kind is Kind.DEPLOYMENT_VARIABLE:
            return self.home
        return f"{self.home}/{self.kind}s/{self.key}"

    @property
    def part(self) -> str:
        """What of the container is ours."""
        return self.key if self.kind is Kind.DEPLOYMENT_VARIABLE else self.field

    @property
    def location(self) -> str:
        """See `Place`."""
        return f"{self.container}#{self.part}" if self.part else self.container


def key_of(kind: Kind, template: str, facts: Mapping[str, str]) -> str:
    """Return the key for one token.

    Raises:
        Permanent: A placeholder is empty, or it cannot name a variable.
    """
    key = kind.naming.rendered(kind.naming.parse(template), facts)
    if kind.naming is VARIABLES and not _VARIABLE.fullmatch(key):
        raise Permanent("the key would begin with a digit; put a letter before its placeholder")
    return key


def id_template(text: str, name: str) -> Template:
    """Return the template of a workspace or Deployment id; raises ValueError with the fix.

    Args:
        text: As configured.
        name: The placeholder that it may be.
    """
    template = Template.parse(text, (name,))
    if template.names not in ((), (name,)) or (template.names and template.literal):
        raise ValueError(f"must be an id, or exactly {{{name}}}")
    if not template.names and not _SAFE_ID.fullmatch(template.literal):
        raise ValueError(f"must be an id such as clm8q7f6q000008lcgyougpsk, or {{{name}}}")
    return template


def id_of(text: str, name: str, facts: Mapping[str, str]) -> str:
    """Return the id for one token.

    Raises:
        Permanent: It is empty, or cannot stand in a path.
    """
    found = id_template(text, name).render(facts)
    if not _SAFE_ID.fullmatch(found):
        raise Permanent(f"{name} holds characters that cannot stand in a path")
    return found


def check_key(kind: Kind, text: str) -> None:
    """Refuse a key that cannot be rendered; raises ValueError with the fix."""
    is_name, first = kind.naming.parse(text).parts[0]
    if kind.naming is VARIABLES and not is_name and not _VARIABLE.fullmatch(first):
        raise ValueError("must not begin with a digit")
