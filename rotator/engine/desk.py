"""What the engine works with, put together once by `app` and handed to every function of the engine."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import timedelta

from rotator.events import Event, EventName
from rotator.model import Lineage, Outcome, Place, Policy, Reason, Rotation, Step, Token
from rotator.ports import Clock, Emit, Journal, Provider, Sink, TokenRef


@dataclass(frozen=True, slots=True)
class Settings:
    """`[engine]`."""

    workers: int = 16
    max_clock_skew: timedelta = timedelta(minutes=5)
    late_window: timedelta = timedelta(minutes=2)


@dataclass(frozen=True, slots=True)
class Desk:
    """One provider with everything that is needed to rotate its tokens.

    Attributes:
        policies: All of the provider's, in file order; ownership needs all, also when only one is swept.
        stop: Set to claim nothing more; what has begun is finished or journalled.
    """

    provider: Provider
    policies: Sequence[Policy]
    sinks: Mapping[str, Sink]
    journal: Journal
    clock: Clock
    emit: Emit
    settings: Settings
    stop: threading.Event = field(default_factory=threading.Event)
    pools: dict[str, ThreadPoolExecutor] = field(default_factory=dict)

    def pool(self, sink: str) -> ThreadPoolExecutor:
        """Return the sink's own threads, so that a slow one never blocks another."""
        return self.pools.setdefault(sink, ThreadPoolExecutor(self.settings.workers, thread_name_prefix=f"sink-{sink}"))

    def close(self) -> None:
        """End the threads."""
        for pool in self.pools.values():
            pool.shutdown()

    def places(self, policy: Policy, token: Token, lineage_id: str) -> tuple[Place, ...]:
        """Return where a policy's deliveries write for a token; raises Permanent if there is no safe place."""
        facts = {
            "token_id": lineage_id,
            "name": token.name,
            "scope": str(token.scope),
            "workspace_id": token.workspace_id,
            "deployment_id": token.deployment_id,
            "organization_id": token.organization_id,
            "policy": policy.name,
            "provider": policy.provider,
        }
        return tuple(
            replace(place, required=delivery.required)
            for delivery in policy.deliveries
            for place in (self.sinks[delivery.sink].resolve(delivery.options, facts),)
        )

    def lineage(self, token: Token) -> Lineage:
        """Return what the journal remembers of a token, a new lineage if nothing."""
        known = self.journal.lineages(self.provider.name, [token.id]).get(token.id)
        return known or Lineage(self.provider.name, token.id, token.id, token.name)

    def event(
        self,
        name: EventName,
        rotation: Rotation,
        *,
        message: str = "",
        step: Step | None = None,
        outcome: Outcome | None = None,
        place: Place | None = None,
        version: str = "",
    ) -> Event:
        """Return a fact about a rotation."""
        return Event(
            name=name,
            at=self.clock.now(),
            provider=rotation.provider,
            policy=rotation.policy,
            token_id=rotation.token_id,
            token_name=rotation.name,
            token_scope=str(rotation.scope),
            rotation_id=rotation.id,
            sink=place.sink if place else "",
            location=place.location if place else "",
            version=version,
            outcome=outcome,
            reason=rotation.reason,
            step=step,
            message=message,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one token in one sweep.

    Attributes:
        outcome: SETTLED, UNSETTLED, FAILED or QUARANTINED; None if it was left alone after a second look.
        locations: `sink:location` of its deliveries.
        credential_dead: Our own credential was rejected on the way.
    """

    token_id: str
    name: str
    scope: str
    policy: str
    reason: Reason
    outcome: Outcome | None
    message: str
    rotation_id: str = ""
    posted: bool = False
    locations: tuple[str, ...] = ()
    credential_dead: bool = False


def ref_of(rotation: Rotation) -> TokenRef:
    """Return how to address the token of a rotation."""
    return TokenRef(rotation.token_id, rotation.scope, rotation.workspace_id, rotation.deployment_id)
