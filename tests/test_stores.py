"""Where `vault:` and `aws:` references are read."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from rotator.config import Config, parse
from rotator.credentials import Reference
from rotator.errors import ConfigError, NotFound
from rotator.secret import Secret
from rotator.stores import Stores
from tests.servers.vault import serving


class Small:
    """Stands in for the module of a sink type, and counts what is built of it."""

    class Options(BaseModel):
        """Without a required key, as sinks that references read must be."""

        model_config = ConfigDict(extra="forbid")
        region: str = "of the environment"

    def __init__(self) -> None:
        self.built: list[tuple[str, str]] = []
        self.closed = 0

    def build(self, name: str, options: Any, base: Path) -> Any:
        """Return something that reads."""
        self.built.append((name, options.region))

        def secret_at(place: str) -> Secret:
            return Secret(f"{place} by {name}")

        def close() -> None:
            self.closed += 1

        return SimpleNamespace(secret_at=secret_at, close=close)


def config(tmp_path: Path, **tables: dict[str, object]) -> Config:
    """Return a configuration with these sinks beside one of files."""
    raw: dict[str, Any] = {
        "providers": {"astro": {"type": "astro", "organization_id": "clorg1", "credential": "aws:astro#token"}},
        "sinks": {"files": {"type": "file", "directory": "out"}, **tables},
        "policies": {"p": {"select": {"scopes": ["workspace"], "names": ["*"]}, "when": {"max_age": "90d"}}},
    }
    raw["policies"]["p"]["deliver"] = [{"sink": "files"}]
    return parse(raw, tmp_path)


AWS = Reference.parse("aws:astro#token")


def test_nothing_is_built_before_a_reference_needs_it(tmp_path: Path) -> None:
    """Whoever uses neither store loads no SDK of one; what was built is closed once."""
    small = Small()
    stores = Stores(config(tmp_path), lambda _: small)  # type: ignore[arg-type, return-value]
    (tmp_path / "token").write_text("value")
    assert stores.read(Reference.parse("file:token")) == Secret("value")
    assert small.built == []
    assert stores.read(AWS) == stores.read(AWS) == Secret("astro#token by aws")
    assert small.built == [("aws", "of the environment")]
    stores.close()
    stores.close()
    assert small.closed == 1


def test_vault_is_read_through_the_one_sink_that_is_configured(tmp_path: Path) -> None:
    """Address, login and mount of the sink serve references too, and its places are named as they are."""
    with serving() as server:
        (tmp_path / "t").write_text(server.token)
        table = {"type": "vault", "address": server.address, "auth": {"token": f"file:{tmp_path / 't'}"}}
        made = config(tmp_path, vault=table)
        headers = {"X-Vault-Token": server.token}
        server.answer("POST", "secret/data/astro/rotator", headers, b'{"data":{"token":"value"}}')
        stores = Stores(made)
        reference = Reference.parse("vault:secret/astro/rotator#token")
        assert stores.read(reference) == Secret("value")
        assert stores.name(reference) == "vault:secret/astro/rotator#token"
        server.answer("POST", "secret/data/astro/rotator", headers, b'{"data":{"token":"next"}}')
        assert stores.read(reference) == Secret("next")
        with pytest.raises(ConfigError, match=r"vault:secret/astro/none#token cannot be read: .*holds nothing there"):
            stores.read(Reference.parse("vault:secret/astro/none#token"))
        stores.close()


def test_several_sinks_leave_it_to_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of two would be meant nobody can say, so neither is; and no place of theirs counts as the reference's."""
    table: dict[str, object] = {"type": "vault", "address": "https://vault.example"}
    stores = Stores(config(tmp_path, a=table, b=table))
    reference = Reference.parse("vault:secret/astro/rotator#token")
    assert stores.name(reference) == "vault:secret/astro/rotator#token (of the environment)"
    monkeypatch.delenv("VAULT_ADDR", raising=False)
    with pytest.raises(ConfigError, match="VAULT_ADDR"):
        stores.read(reference)
    with serving() as server:
        server.answer("POST", "secret/data/astro/rotator", {"X-Vault-Token": "root"}, b'{"data":{"token":"value"}}')
        monkeypatch.setenv("VAULT_ADDR", server.address)
        monkeypatch.setenv("VAULT_TOKEN", server.token)
        assert stores.read(reference) == Secret("value")
        stores.close()


def test_a_sink_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A type of sink without a way to read says so instead of failing somewhere below."""
    small = Small()
    small.build = lambda *_: object()  # type: ignore[assignment, method-assign]
    with pytest.raises(ConfigError, match="aws_secrets_manager cannot read aws: references"):
        Stores(config(tmp_path), lambda _: small).read(AWS)  # type: ignore[arg-type, return-value]


def test_a_type_without_defaults_needs_a_sink(tmp_path: Path) -> None:
    """Where the environment cannot stand in for a sink, the operator is told which one to add."""

    def load(kind: str) -> Any:
        raise ValueError(f"there is no sink type {kind}")

    with pytest.raises(ConfigError, match="aws: references need a sink of type aws_secrets_manager; add one"):
        Stores(config(tmp_path), load).read(AWS)


def test_what_is_missing_is_said_by_the_store(tmp_path: Path) -> None:
    """The store's own words reach the operator."""

    def secret_at(place: str) -> Secret:
        raise NotFound(f"{place}: nothing there")

    small = Small()
    small.build = lambda *_: SimpleNamespace(secret_at=secret_at)  # type: ignore[assignment, method-assign]
    with pytest.raises(ConfigError, match="aws:astro#token cannot be read: astro#token: nothing there"):
        Stores(config(tmp_path), lambda _: small).read(AWS)  # type: ignore[arg-type, return-value]
