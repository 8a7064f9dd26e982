"""How the three generations of the API differ: paths and spellings, as one table."""

from collections.abc import Mapping
from dataclasses import dataclass

from rotator.errors import Permanent
from rotator.model import Scope
from rotator.ports import TokenRef

PAGE = 1000


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of the API.

    Attributes:
        base: Below `base_url`.
        noun: The collection's name in paths.
        scope_field: What a token's scope is called in bodies.
        nested: Whether workspace and deployment tokens live under paths of their own, and roles in the update body.
    """

    base: str
    noun: str
    scope_field: str
    nested: bool

    def collection(self, organization_id: str, ref: TokenRef | None = None) -> str:
        """Return the path of the tokens that `ref` is one of; of the organization's without it."""
        root = f"{self.base}/organizations/{_safe(organization_id)}"
        if not self.nested or ref is None or ref.scope is Scope.ORGANIZATION:
            return f"{root}/{self.noun}"
        if ref.scope is Scope.WORKSPACE:
            return f"{root}/workspaces/{_safe(ref.workspace_id)}/{self.noun}"
        return f"{root}/deployments/{_safe(ref.deployment_id)}/{self.noun}"

    def item(self, organization_id: str, ref: TokenRef) -> str:
        """Return the path of one token."""
        return f"{self.collection(organization_id, ref)}/{_safe(ref.id)}"


GENERATIONS: Mapping[str, Generation] = {
    "v1": Generation("/v1", "tokens", "scope", nested=False),
    "v1beta1": Generation("/iam/v1beta1", "tokens", "type", nested=False),
    "v1alpha1": Generation("/v1alpha1", "api-tokens", "type", nested=True),
}


def _safe(identifier: str) -> str:
    """Return an id that is safe in a path: ids come from the API and are untrusted."""
    if not identifier or not identifier.replace("-", "").replace("_", "").isalnum() or not identifier.isascii():
        raise Permanent(
            "the API gave an id that cannot stand in a path" if identifier else "an id is missing in a path"
        )
    return identifier
