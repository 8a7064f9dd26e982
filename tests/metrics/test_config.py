"""The `[metrics]` table: defaults, and each mistake with its place and fix."""

from pathlib import Path

import pytest

from rotator.config import load
from rotator.errors import ConfigError

GOOD = """\
[providers.astro]
type = "astro"
organization_id = "org1"
credential = "env:ASTRO_API_TOKEN"
[sinks.files]
type = "file"
directory = "secrets"
[policies.p]
select.scopes = ["workspace"]
when.max_age = "90d"
[[policies.p.deliver]]
sink = "files"
path = "{name}"
[metrics]
"""


def written(folder: Path, lines: str) -> Path:
    """Return a config file with these lines in `[metrics]`."""
    path = folder / "rotator.toml"
    path.write_text(GOOD + lines)
    return path


def test_nothing_is_published_unless_it_is_asked_for(tmp_path: Path) -> None:
    """The defaults: series of single tokens up to a thousand, no gateway, no file."""
    config = load(written(tmp_path, ""))
    assert (config.metrics.max_tokens, config.metrics.pushgateway, config.textfile_path) == (1000, "", None)
    assert config.metrics.pushgateway_job == "rotator"


def test_what_is_said_is_taken(tmp_path: Path) -> None:
    """A slash at the end is dropped; a relative file lies in the state folder."""
    said = 'pushgateway = "https://push:9091/"\npushgateway_user = "me"\npushgateway_password = "env:X"\n'
    config = load(written(tmp_path, f'{said}textfile = "rotator.prom"\nmax_tokens = 0\n'))
    assert config.metrics.pushgateway == "https://push:9091"
    assert config.textfile_path == config.state_dir / "rotator.prom"
    assert config.metrics.max_tokens == 0


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('pushgatway = "http://x"', "metrics.pushgatway: unknown key; did you mean 'pushgateway'"),
        ('pushgateway = "push:9091"', "metrics.pushgateway: must be a URL such as http://pushgateway:9091"),
        ('pushgateway = "http://"', "metrics.pushgateway: must be a URL"),
        ('pushgateway = "http://push:99999"', "metrics.pushgateway: must be a URL"),
        ('pushgateway = "http://me:canary@push"', "see pushgateway_user and pushgateway_password"),
        ('pushgateway = 1', "metrics.pushgateway: must be a URL"),
        ('pushgateway = "https://push"\npushgateway_user = "me"', "metrics.pushgateway_password: is missing"),
        ('pushgateway = "https://push"\npushgateway_password = "env:X"', "metrics.pushgateway_user: is missing"),
        ('pushgateway = "https://push"\npushgateway_password = "canary"', "metrics.pushgateway_password: is not a"),
        (
            'pushgateway = "http://push"\npushgateway_user = "me"\npushgateway_password = "env:X"',
            "metrics.pushgateway: must be https",
        ),
        ('pushgateway_ca_bundle = "x.pem"', "metrics.pushgateway_ca_bundle: means nothing without pushgateway"),
        ('pushgateway_job = "a/b"', "metrics.pushgateway_job"),
        ('textfile = "/var/lib/node_exporter/rotator.txt"', "metrics.textfile: must end in .prom"),
        ("max_tokens = -1", "metrics.max_tokens"),
    ],
)  # fmt: skip
def test_each_mistake_is_named(tmp_path: Path, lines: str, said: str) -> None:
    """With place and fix, and without repeating what may be a password."""
    with pytest.raises(ConfigError) as caught:
        load(written(tmp_path, lines))
    found = [str(problem) for problem in caught.value.problems]
    assert any(said in problem for problem in found), found
    assert "canary" not in str(found)
