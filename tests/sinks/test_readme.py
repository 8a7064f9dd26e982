"""README's sections on sinks: every example loads, and every option of every type is named."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from rotator import config, sinks

README = (Path(__file__).parents[2] / "README.md").read_text()
SECTIONS = dict(re.findall(r'<a id="(\w+)"></a>\n(.*?)</details>', README, re.DOTALL))
SKELETON = """\
[providers.astro]
type = "astro"
organization_id = "org1"
credential = "env:ASTRO_API_TOKEN"
[policies.services]
select.scopes = ["workspace"]
when.max_age = "90d"
"""
OURS = [kind for kind in sinks.types() if os.path.exists(f"{next(iter(sinks.__path__))}/{kind}.py")]


@pytest.mark.parametrize("kind", OURS)
def test_the_example_of_a_sink_loads(kind: str, tmp_path: Path) -> None:
    """What is copied from README is a valid configuration of that very type."""
    example = re.search(r"```toml\n(.*?)```", SECTIONS[kind], re.DOTALL)
    assert example
    raw = tomllib.loads(SKELETON + example[1].replace("[[policies.P.", "[[policies.services."))
    loaded = config.parse(raw, tmp_path)
    assert [sink.kind for sink in loaded.sinks.values()] == [kind]
    assert len(loaded.policies[0].deliveries) == 1


@pytest.mark.parametrize("kind", OURS)
def test_every_option_of_a_sink_is_named(kind: str) -> None:
    """An option that is not in README is one that nobody finds."""
    module = sinks.load(kind)
    text = SECTIONS[kind] if kind != "aws_ssm_parameter" else SECTIONS[kind] + SECTIONS["aws_secrets_manager"]
    options = {*module.Options.model_fields, *module.DeliveryOptions.model_fields}
    assert {name for name in options if not re.search(rf"\b{name}\b", text)} == set()


@pytest.mark.parametrize("kind", OURS)
def test_the_table_says_the_grade(kind: str) -> None:
    """The grade in the overview is the one that a policy's `preflight` is compared with."""
    row = next(line for line in README.splitlines() if line.startswith(f"| [`{kind}`](#{kind}) |"))
    assert row.split("|")[3].replace("`", "").split()[0] == sinks.load(kind).PREFLIGHT_GRADE
