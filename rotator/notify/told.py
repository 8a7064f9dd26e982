"""What hooks are told, as JSON-able values: never a secret, nor anything made of one. Pure."""

from collections.abc import Sequence
from datetime import datetime

from rotator.model import Place, Rotation
from rotator.timing import stamp

SETTLED, BEFORE = "rotation.settled", "rotation.before"


def settled_facts(rotation: Rotation, settled_at: datetime) -> dict[str, object]:
    """Return what a hook is told of a settled rotation."""
    return {
        "rotation_id": rotation.id,
        "provider": rotation.provider,
        "policy": rotation.policy,
        "token_id": rotation.minted_token_id,
        "lineage": rotation.lineage,
        "name": rotation.name,
        "scope": str(rotation.scope),
        "workspace_id": rotation.workspace_id,
        "deployment_id": rotation.deployment_id,
        "reason": str(rotation.reason),
        "strategy": str(rotation.strategy),
        "begun_at": stamp(rotation.opened_at),
        "rotated_at": stamp(rotation.minted_at) if rotation.minted_at else None,
        "settled_at": stamp(settled_at),
        "expires_at": stamp(rotation.end_at) if rotation.end_at else None,
        "places": places_told([record.place for record in rotation.deliveries]),
    }


def places_told(places: Sequence[Place]) -> list[dict[str, object]]:
    """Return where secrets go, as hooks are told."""
    return [{"sink": place.sink, "location": place.location, "required": place.required} for place in places]
