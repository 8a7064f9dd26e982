"""What the tests of telling share: a lab with a channel, and tokens that get into trouble."""

from dataclasses import replace
from datetime import datetime

from rotator.app import App
from rotator.events import Event, EventName
from rotator.model import Lineage, Outcome
from rotator.notify.notifier import Notifier
from tests.lab import Lab, write_secret
from tests.servers.listener import Listener

CANARY = "canary-of-the-url"


def add_channel(bench: Lab, listener: Listener, **keys: str) -> None:
    """Configure a channel that ends at a listener; its URL holds a canary."""
    write_secret(bench.folder / "pager", f"json://user:{CANARY}@127.0.0.1:{listener.port}/{CANARY}")
    add(bench, "[notifications.oncall]", url='"file:pager"', **keys)


def add(bench: Lab, table: str, **keys: str) -> None:
    """Append a table to the lab's config; the values are TOML."""
    lines = [table, *[f"{key} = {value}" for key, value in keys.items()]]
    with bench.config_path.open("a") as file:
        file.write("\n" + "\n".join(lines) + "\n")


def quarantine(app: App, token_id: str, name: str = "svc-name", why: str = "it was tried too often") -> None:
    """Quarantine a token as the engine does: state and event in one commit."""
    lineage = replace(_lineage(app, token_id), name=name, quarantined_at=app.clock.now(), quarantine_reason=why)
    event = _event(app, EventName.TOKEN_QUARANTINED, lineage, why)
    assert app.desks[0].remember(lineage, replace(event, outcome=Outcome.QUARANTINED))


def release(app: App, token_id: str) -> None:
    """Lift a quarantine as `rotator release` does."""
    lineage = replace(_lineage(app, token_id), quarantined_at=None, quarantine_reason="")
    assert app.desks[0].remember(lineage, _event(app, EventName.TOKEN_RELEASED, lineage, ""))


def tell(app: App, now: datetime | None = None, *, flush: bool = False, patience_s: float = 20) -> datetime | None:
    """Let the application's notifier pass once."""
    return the(app).pass_once(None, now or app.clock.now(), flush=flush, patience_s=patience_s)


def the(app: App) -> Notifier:
    """Return the application's notifier."""
    assert app.notifier is not None
    return app.notifier


def _lineage(app: App, token_id: str) -> Lineage:
    known = app.desks[0].journal.lineages("astro", [token_id]).get(token_id)
    return known or Lineage("astro", token_id, token_id, token_id)


def _event(app: App, name: EventName, lineage: Lineage, message: str) -> Event:
    return Event(
        name=name,
        at=app.clock.now(),
        provider="astro",
        policy="services",
        token_id=lineage.token_id,
        token_name=lineage.name,
        message=message,
    )
