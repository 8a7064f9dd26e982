"""A valid configuration, as the application gets it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import BaseModel

from rotator.config.tables import (
    AuditTable,
    EngineTable,
    HookTable,
    JournalTable,
    MetricsTable,
    NotificationTable,
    ProviderTable,
    ServerTable,
)
from rotator.credentials import Reference
from rotator.model import Policy

JOURNAL_FILES = ("", "-wal", "-shm", "-journal", ".lock", ".instances")  # what ends the names of what it lies in


@dataclass(frozen=True, slots=True)
class SinkConfig:
    """One sink: its type and validated options."""

    kind: str
    options: BaseModel


@dataclass(frozen=True, slots=True)
class HookConfig:
    """One hook of a policy.

    Attributes:
        name: As configured, else the policy and its number from 1.
    """

    name: str
    policy: str
    table: HookTable


@dataclass(frozen=True, slots=True)
class Config:
    """A valid configuration.

    Attributes:
        folder: Of the file; sinks count relative paths from it.
        state_dir: Journal, key, audit and file references count from it.
        digest: The file's SHA-256, in hex; empty if it came from no file.
        file: The file; None likewise.
    """

    folder: Path
    state_dir: Path
    engine: EngineTable
    providers: Mapping[str, ProviderTable]
    journal: JournalTable
    audit: AuditTable
    sinks: Mapping[str, SinkConfig]
    policies: tuple[Policy, ...]
    digest: str = ""
    server: ServerTable = field(default_factory=ServerTable)
    metrics: MetricsTable = field(default_factory=MetricsTable)

    notifications: Mapping[str, NotificationTable] = field(default_factory=dict)
    hooks: tuple[HookConfig, ...] = ()
    file: Path | None = None

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.state_dir / self.journal.url.removeprefix("sqlite:///")

    @property
    def audit_path(self) -> Path | None:
        """The audit file; None for a stream."""
        return None if self.audit.path == "-" else self.state_dir / self.audit.path

    @property
    def textfile_path(self) -> Path | None:
        """The file that metrics are written to; None if they are not."""
        return self.state_dir / Path(self.metrics.textfile).expanduser() if self.metrics.textfile else None

    @property
    def own_files(self) -> Sequence[Path]:
        """The files that rotator itself lives on, but for its credentials: config, journal, keys, audit, metrics."""
        journal = [self.journal_path.with_name(self.journal_path.name + end) for end in JOURNAL_FILES]
        key = Reference.parse(self.journal.key).path(self.state_dir)
        found = (self.file, *journal, key, self.audit_path, self.textfile_path)
        return [path for path in found if path is not None]
