"""A workbench for tests: a sandbox over HTTP, a config, a clock that jumps, and the whole application on top."""

import hashlib
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

from rotator.app import App, opened
from rotator.config import Config, load
from rotator.engine.sweep import Report
from rotator.engine.sweep import sweep as run_sweep
from rotator.events import Event
from rotator.ports import Sink
from rotator.sandbox import Sandbox, SandboxConfig

CONFIG = """\
[engine]
workers = {workers}
late_window = "{late_window}"

[providers.astro]
type = "astro"
organization_id = "{organization}"
credential = "file:credential"
base_url = "{url}"
api_version = "{version}"
rate = {{ get = {get}, post = {post}, delete = 0 }}
timeout = "{timeout}"

[sinks.files]
type = "file"
directory = "secrets"

[policies.services]
max_rotations = {brake}
max_percent = 100
[policies.services.select]
scopes = [{scopes}]
names = ["svc-*"]
{homes}
[policies.services.when]
max_age = "90d"

[[policies.services.deliver]]
sink = "files"
path = "{{token_id}}"
"""


class JumpingClock:
    """Real time plus an offset: sleeping jumps, and tests jump too."""

    def __init__(self) -> None:
        self._offset = timedelta()
        self._lock = threading.Lock()

    def now(self) -> datetime:
        """Return the time after all jumps."""
        return datetime.now(UTC) + self._offset

    def monotonic(self) -> float:
        """Return seconds after all jumps."""
        return self.now().timestamp()

    def sleep(self, duration: timedelta, *, through: bool = False) -> None:
        """Jump instead of waiting."""
        with self._lock:
            self._offset += duration

    jump = sleep


@dataclass
class Lab:
    """One folder, one sandbox, one config."""

    folder: Path
    sandbox: Sandbox
    clock: JumpingClock | None
    events: list[Event] = field(default_factory=list)
    wraps: dict[str, Callable[[Sink], Sink]] = field(default_factory=dict)

    @property
    def config_path(self) -> Path:
        """The config file."""
        return self.folder / "rotator.toml"

    @property
    def config(self) -> Config:
        """The config as it is now."""
        return load(self.config_path)

    @contextmanager
    def app(self, *, writing: bool = True) -> Iterator[App]:
        """The application, put together as the command line does it."""
        with opened(self.config, "test", [self.events.append], writing=writing, clock=self.clock) as app:
            for desk in app.desks:
                sinks = cast("dict[str, Sink]", desk.sinks)
                sinks |= {name: wrap(sinks[name]) for name, wrap in self.wraps.items() if name in sinks}
            yield app

    def sweep(self, accept: str | None = None) -> Report:
        """One pass over everything."""
        with self.app() as app:
            return run_sweep(app.desks[0], app.desks[0].policies, accept, lambda _: True)

    def delivered(self, token_id: str) -> str | None:
        """What the token's file holds."""
        path = self.folder / "secrets" / token_id
        return path.read_text() if path.exists() else None

    def due_ids(self) -> list[str]:
        """The tokens that were seeded as older than ninety days."""
        limit = self.sandbox.store.tokens
        long_ago = (self.clock.now() if self.clock else datetime.now(UTC)) - timedelta(days=91)
        return [
            token.id
            for token in limit.values()
            if token.name.startswith("svc-") and (token.last_rotated_at or token.created_at) < long_ago
        ]


@contextmanager
def lab(
    folder: Path,
    *,
    sandbox: SandboxConfig | None = None,
    jumping: bool = True,
    **settings: object,
) -> Iterator[Lab]:
    """Start a sandbox and write a config for it."""
    clock = JumpingClock() if jumping else None
    chosen = sandbox or SandboxConfig(tokens=6, limits=False)
    if clock is not None:
        chosen = SandboxConfig(**{**_fields(chosen), "now": clock.now})
    with Sandbox(chosen) as running:
        write_config(folder, running.url, running.organization_id, **settings)
        write_secret(folder / "credential", running.credential)
        yield Lab(folder, running, clock)


def write_config(folder: Path, url: str, organization: str, **settings: object) -> Path:
    """Write the config of a lab."""
    values: dict[str, object] = {
        "workers": 4, "late_window": "2m", "version": "v1", "get": 0, "post": 0, "timeout": "2s", "brake": 10000,
        "scopes": '"organization", "workspace", "deployment"', "homes": "",
    } | settings  # fmt: skip
    path = folder / "rotator.toml"
    path.write_text(CONFIG.format(url=url, organization=organization, **values))
    return path


def write_secret(path: Path, value: str) -> None:
    """Write a file that only we may read."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(value)


def digest(secret: str) -> str:
    """Return what the sandbox's admin endpoint shows instead of a secret."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _fields(config: SandboxConfig) -> dict[str, object]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}
