"""Two sinks over one store: their places collide, whatever the sinks are called."""

from pathlib import Path
from typing import Any

import pytest

from rotator import sinks
from rotator.engine.sweep import sweep
from rotator.events import EventName
from rotator.model import Place
from rotator.testing.values import facts
from tests.lab import lab


def place(kind: str, name: str, base: Path, block: dict[str, object] | None = None, **options: object) -> Place:
    """Return where a sink with these options writes by default."""
    module: Any = sinks.load(kind)
    sink = module.build(name, module.Options(**options), base)
    resolved: Place = sink.resolve(sinks.checked(module.DeliveryOptions, block or {}), facts())
    sink.close()
    return resolved


def shared(one: Place, other: Place) -> bool:
    """Whether two places collide."""
    return bool(set(one.claims) & set(other.claims))


def test_a_folder_is_one_by_whatever_name(tmp_path: Path) -> None:
    """Through a link, or as part of another sink's folder, a file is the same file; another one is not."""
    (tmp_path / "real" / "sub").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    one = place("file", "a", tmp_path, {"path": "sub/{name}"}, directory="real")
    assert shared(one, place("file", "b", tmp_path, directory="link/sub"))
    assert not shared(one, place("file", "b", tmp_path, directory="link"))
    in_json: dict[str, object] = {"path": "x", "format": "json", "fields": {"k": "{secret}"}}
    keyed = place("file", "a", tmp_path, in_json, directory="real")
    assert shared(keyed, place("file", "b", tmp_path, in_json, directory="link"))


@pytest.mark.parametrize(
    ("kind", "options", "change"),
    [
        ("vault", {"address": "https://vault.example"}, {"address": "https://other.example"}),
        ("vault", {"address": "https://vault.example/"}, {"namespace": "team"}),
        ("vault", {"address": "https://Vault.example"}, {"mount": "kv"}),
        ("aws_secrets_manager", {"region": "eu-west-1"}, {"region": "us-east-1"}),
        ("aws_ssm_parameter", {"region": "eu-west-1"}, {"endpoint_url": "https://ssm.example"}),
        ("kubernetes_secret", {"namespace": "airflow"}, {"namespace": "other"}),
        ("kubernetes_secret", {"namespace": "airflow", "kubeconfig": "a"}, {"kubeconfig": "b"}),
        ("gcp_secret_manager", {"project": "acme-prod"}, {"project": "acme-test"}),
        ("azure_key_vault", {"vault_url": "https://Acme.vault.azure.net"}, {"vault_url": "https://b.vault.azure.net"}),
    ],
)
def test_one_store_is_known_by_where_it_is(
    tmp_path: Path, kind: str, options: dict[str, object], change: dict[str, object]
) -> None:
    """Two names for the same address share their places; another address, namespace, mount or region does not."""
    one = place(kind, "a", tmp_path, **options)
    assert shared(one, place(kind, "b", tmp_path, **options))
    assert not shared(one, place(kind, "b", tmp_path, **{**options, **change}))


@pytest.mark.parametrize(
    ("kind", "block", "options", "change"),
    [
        (
            "github_actions_secret",
            {"organization": "acme"},
            {"credential": "env:X"},
            {"api_url": "https://github.acme.example/api/v3"},
        ),
        (
            "astro_environment",
            {"kind": "airflow_variable", "workspace_id": "clws", "key": "token_{name}"},
            {"credential": "env:X", "organization_id": "clorg"},
            {"base_url": "https://api.acme.example"},
        ),
    ],
)
def test_one_service_is_known_by_its_address(
    tmp_path: Path, kind: str, block: dict[str, object], options: dict[str, object], change: dict[str, object]
) -> None:
    """Likewise for what is told apart by more than the sink's own options."""
    one = place(kind, "a", tmp_path, block, **options)
    assert shared(one, place(kind, "b", tmp_path, block, **options))
    assert not shared(one, place(kind, "b", tmp_path, block, **{**options, **change}))


def test_two_tokens_never_share_a_file_through_two_sinks(tmp_path: Path) -> None:
    """Whoever settled there owns the file; a token whose policy reaches it through another sink is held back."""
    with lab(tmp_path) as bench:
        text = bench.config_path.read_text()
        (tmp_path / "secrets").mkdir()
        (tmp_path / "again").symlink_to("secrets")
        mine = text.replace('path = "{token_id}"', 'path = "one"').replace('names = ["svc-*"]', 'ids = ["{id}"]')
        first, other = bench.due_ids()[:2]
        second = mine.replace("[policies.services", "[policies.others").replace(
            "[[policies.services", "[[policies.others"
        )
        second = second[second.index("[policies.others]") :].replace('sink = "files"', 'sink = "again"')
        both = mine.replace("{id}", first) + second.replace("{id}", other)
        bench.config_path.write_text(both + '\n[sinks.again]\ntype = "file"\ndirectory = "again"\n')
        with bench.app() as app:
            sweep(app.desks[0], app.desks[0].policies, None, lambda _: True)
        refused = [event.token_id for event in bench.events if event.name is EventName.PLACE_REFUSED]
        assert refused == [other]
