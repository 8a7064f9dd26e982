"""The moments that are tried: a world at rest, one sweep away from something happening."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rotator.model import Delivery, Policy, Scope, Select, Strategy, When
from rotator.sandbox.store import Draft
from tests.proof.world import DAY, GARBAGE, Template, World

CREDENTIAL = ("home", "credential")
OLD = 200 * DAY
SCOPES = frozenset({Scope.ORGANIZATION})


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is about to happen.

    Attributes:
        prepare: Brings an empty world to the moment before.
        posts: How many new secrets it needs if nothing is lost.
        consumers: Whether a reader of the sinks must never see a dead secret.
        own: Whether it is about the credential rotator itself works with.
    """

    name: str
    prepare: Callable[[Path], World]
    posts: int
    consumers: bool = False
    own: bool = False

    def template(self, folder: Path) -> Template:
        """Return the world at the moment before."""
        folder.mkdir(parents=True, exist_ok=True)
        world = self.prepare(folder)
        world.opened_journal().close()  # every case starts with a journal that exists
        assert not world.violations, world.violations
        world.close()
        return world.template()

    def start(self, template: Template, folder: Path) -> World:
        """Return a world at the moment before, watched."""
        world = World.of(template, folder)
        world.watching_credentials = self.own
        if self.consumers:
            world.consumers = {spot for spots in world.lineages.values() for spot in spots}
        return world


def policy(*sinks: str, strategy: Strategy = Strategy.IN_PLACE, name: str = "services") -> Policy:
    """Return a policy for the tokens whose names begin with svc-."""
    return Policy(
        name=name,
        provider="astro",
        select=Select(SCOPES, names=("svc-*",)),
        when=When(max_age=90 * DAY),
        deliveries=tuple(Delivery(sink, {"path": "{token_id}"}) for sink in sinks),
        strategy=strategy,
        jitter=0,
        grace=timedelta(hours=12),
        retire="after_grace",
    )


def own_policy(path: str) -> Policy:
    """Return a policy for our own credentials."""
    return Policy(
        name="own",
        provider="astro",
        select=Select(SCOPES, names=("rotator-*",)),
        when=When(max_age=90 * DAY),
        deliveries=(Delivery("home", {"path": path}),),
        jitter=0,
    )


def services(folder: Path, *sinks: str, strategy: Strategy = Strategy.IN_PLACE, empty: bool = False) -> World:
    """Return a world with one token that is due and one that is none of our business."""
    world = World(folder, [policy(*sinks, strategy=strategy)], [CREDENTIAL])
    world.put(CREDENTIAL, world.store.secret_of(world.store.owner_id))
    root = world.token("svc-a", OLD)
    world.lineages[root] = tuple((sink, root) for sink in sinks)
    for spot in () if empty else world.lineages[root]:
        world.put(spot, world.store.secret_of(root))
    world.token("other", OLD, ("elsewhere", "other"))
    return world


def settled(folder: Path, *sinks: str, strategy: Strategy = Strategy.IN_PLACE) -> World:
    """Return a world in which that token was renewed a while ago."""
    world = services(folder, *sinks, strategy=strategy)
    assert world.sweep().code == 0
    world.jump(timedelta(hours=25))
    return world


def retiring(folder: Path) -> World:
    """Return a world in which a twin has settled and the grace of the old token is over."""
    return settled(folder, "files", strategy=Strategy.OVERLAP)


def own_only(folder: Path) -> World:
    """Return a world in which our only credential is due."""
    world = World(folder, [own_policy("credential")], [CREDENTIAL])
    _age(world, world.store.owner_id)
    world.put(CREDENTIAL, world.store.secret_of(world.store.owner_id))
    world.secrets.append(world.held(CREDENTIAL))
    world.lineages[world.store.owner_id] = (CREDENTIAL,)
    world.token("other", OLD, ("elsewhere", "other"))
    return world


def own_retiring(folder: Path) -> World:
    """Return a world in which our only credential was replaced and the old one is to end."""
    world = own_only(folder)
    assert world.sweep().code == 0
    world.jump(timedelta(minutes=15))
    return world


def own_two(folder: Path) -> World:
    """Return a world in which both of our credentials are due."""
    world = World(folder, [own_policy("{token_id}")])
    store = world.store
    other = store.create(Draft("rotator-second", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), "x")
    for token_id in (store.owner_id, other.id):
        _age(world, token_id)
        world.put(("home", token_id), store.secret_of(token_id))
        world.secrets.append(store.secret_of(token_id))
        world.lineages[token_id] = (("home", token_id),)
    world.credentials = (("home", store.owner_id), ("home", other.id))
    world.token("other", OLD, ("elsewhere", "other"))
    return world


def _age(world: World, token_id: str) -> None:
    record = world.store.tokens[token_id]
    record.created_at = record.updated_at = record.start_at = world.store.now() - OLD


def edited(folder: Path) -> World:
    """Return a world in which somebody edited one of two sinks."""
    world = settled(folder, "files", "copies")
    for spots in world.lineages.values():
        world.put(spots[1], GARBAGE)
    return world


def taken_over(folder: Path) -> World:
    """Return a world in which a person rotated a token of ours and updated its sink."""
    world = settled(folder, "files")
    for root, spots in world.lineages.items():
        world.put(spots[0], world.rotate_by_hand(root))
    world.jump(timedelta(hours=1))
    return world


def cut_off(folder: Path) -> World:
    """Return a world in which a person rotated a token of ours and forgot its sink."""
    world = settled(folder, "files")
    for root in world.lineages:
        world.rotate_by_hand(root)
    world.jump(timedelta(hours=1))
    return world


SCENARIOS: Mapping[str, Scenario] = {
    scenario.name: scenario
    for scenario in (
        Scenario("rotation in place", lambda folder: services(folder, "files", empty=True), posts=1),
        Scenario("in place, two sinks", lambda folder: services(folder, "files", "copies"), posts=1),
        Scenario(
            "overlap", lambda folder: services(folder, "files", strategy=Strategy.OVERLAP), posts=1, consumers=True
        ),
        Scenario("retirement after grace", retiring, posts=0, consumers=True),
        Scenario("our only credential", own_only, posts=1, consumers=True, own=True),
        Scenario("our old credential ends", own_retiring, posts=0, consumers=True, own=True),
        Scenario("one of two credentials", own_two, posts=2, own=True),
        Scenario("redelivery after a drift", edited, posts=0),
        Scenario("adoption", taken_over, posts=0),
        Scenario("rotation for a drift", cut_off, posts=1),
        Scenario("nothing to do", lambda folder: settled(folder, "files"), posts=0),
    )
}
