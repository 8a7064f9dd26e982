"""Where the secret references `vault:` and `aws:` are read: through the configuration's own sink, or the environment.

`app` makes one for each command. A sink is built when the first reference of its kind is read, so that whoever uses
none loads no SDK; it logs in by itself and is closed with the command.
"""

import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from rotator import sinks
from rotator.config import Config
from rotator.credentials import Reference
from rotator.errors import ConfigError
from rotator.secret import Secret

TYPES = {"vault": "vault", "aws": "aws_secrets_manager"}  # kind of reference to type of sink


class Store(Protocol):
    """What a sink has whose places secret references can name."""

    def secret_at(self, place: str) -> Secret:
        """Return the value that stands at a place as it is now.

        Args:
            place: What the reference says behind its colon.

        Raises:
            Temporary, Permanent: There is none, or it cannot be read.
        """
        ...

    def close(self) -> None:
        """See `ports.Sink`."""
        ...


class Stores:
    """Reads references for one command.

    Args:
        config: Valid.
        load: Returns the module of a sink type.
    """

    def __init__(self, config: Config, load: Callable[[str], sinks.SinkModule] = sinks.load) -> None:
        self._config = config
        self._load = load
        self._lock = threading.Lock()
        self._opened: dict[str, Store] = {}
        self._by_kind = {kind: partial(self._secret_at, kind) for kind in TYPES}

    def read(self, reference: Reference) -> Secret:
        """Return the value of a reference as it is now.

        Raises:
            ConfigError: There is none, or it cannot be read.
            Temporary: Its store cannot be reached now.
        """
        return reference.read(self._config.state_dir, self._by_kind)

    def name(self, reference: Reference) -> str:
        """Return the reference as the sink whose place it reads would say it, see `Place.reference`.

        With several sinks of the type none of them is the one that is read, so the name fits none.
        """
        said = reference.absolute(self._config.state_dir)
        return f"{said} (of the environment)" if len(self._named(reference.kind)) > 1 else said

    def close(self) -> None:
        """Close what was opened."""
        with self._lock:
            opened, self._opened = self._opened, {}
        for store in opened.values():
            store.close()

    def _named(self, kind: str) -> list[str]:
        wanted = TYPES.get(kind)
        return [name for name, table in self._config.sinks.items() if table.kind == wanted]

    def _secret_at(self, kind: str, place: str) -> Secret:
        with self._lock:
            if kind not in self._opened:
                self._opened[kind] = self._built(kind)
            store = self._opened[kind]
        return store.secret_at(place)

    def _built(self, kind: str) -> Store:
        named = self._named(kind)
        try:
            module = self._load(TYPES[kind])
            name = named[0] if len(named) == 1 else kind
            options = self._config.sinks[name].options if len(named) == 1 else module.Options()
        except ValueError:  # there is no such type, or its options have no defaults
            raise ConfigError.of("", f"{kind}: references need a sink of type {TYPES[kind]}; add one") from None
        sink = module.build(name, options, self._config.folder)
        if not hasattr(sink, "secret_at"):
            raise ConfigError.of("", f"a sink of type {TYPES[kind]} cannot read {kind}: references")
        return sink  # type: ignore[return-value]
