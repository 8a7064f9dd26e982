"""The config: every problem at once, each with its place, what was found and the fix."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rotator.config import PolicyTable, load, schema
from rotator.errors import ConfigError
from rotator.model import ALL_AT_ONCE, Grade, Wave
from rotator.schedule import HOURLY

ROOT = Path(__file__).parent.parent
HOUR = timedelta(hours=1)
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
"""


def problems(folder: Path, text: str) -> list[str]:
    path = folder / "rotator.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    return [str(problem) for problem in caught.value.problems]


def test_the_example_loads_and_shows_every_key() -> None:
    """config.example.toml is valid, and names every key that exists (set or in a comment)."""
    text = (ROOT / "config.example.toml").read_text()
    assert load(ROOT / "config.example.toml").policies[0].brake.max_rotations == 50
    for table in schema()["$defs"].values():
        for key in table.get("properties", {}):
            assert key in text, key


@pytest.mark.parametrize(
    ("found", "wanted", "said"),
    [
        ('when.max_age = "90d"', 'when.max_age = "90 days"', "policies.p.when.max_age: '90 days' is not a duration"),
        ('when.max_age = "90d"', 'when.max_aeg = "90d"', "when.max_aeg: unknown key; did you mean 'max_age'"),
        ('when.max_age = "90d"', 'when.emergency = "1h"', "policies.p.when: no condition"),
        ('when.max_age = "90d"', 'when.max_age = "0d"', "must be longer than zero"),
        ('when.max_age = "90d"', 'when.before_expiry = "120%"', "is not a percentage"),
        ('["workspace"]', '["galaxy"]', "policies.p.select.scopes.0"),
        ('["workspace"]', "[]", "policies.p.select.scopes"),
        ('"org1"', '"org/1"', "providers.astro.organization_id"),
        ('sink = "files"', 'sink = "flies"', "deliver.0.sink: no sink is called 'flies'; did you mean 'files'"),
        ('type = "file"', 'type = "fiel"', "did you mean 'file'"),
        ('"{name}"', '"{nmae}"', "did you mean {name}"),
        ('"{name}"', '"../{name}"', "policies.p.deliver.0.path"),
        ('path = "{name}"', 'path = "{name}"\nfromat = "env"', "unknown key; did you mean 'format'"),
        ('directory = "secrets"', "", "sinks.files.directory: is missing"),
        ("env:ASTRO_API_TOKEN", "eyJhbGciOi.x.y", "providers.astro.credential"),
        ("[policies.p]", "[policies.p]\nwindow = []", "policies.p.window: unknown key; did you mean 'windows'"),
        ("[policies.p]", "[policies.p]\nbefore_expiry = \"7d\"", "unknown key; it belongs into policies.p.when"),
        ("[policies.p]", "[policies.p]\nstate_dir = \"x\"", "unknown key; it belongs to the top, above all tables"),
        ('path = "{name}"', 'path = "{name}"\nschedule = "every 1h"', "unknown key; it belongs into policies.p"),
        ("[providers.astro]", "waves = [1]\n[providers.astro]", "waves: unknown key; it belongs into policies.NAME"),
        ("[policies.p]\nselect", "[policies]\nselect", "give the table a name of its own: [policies.NAME]"),
        ("[providers.astro]", "[providers]", "providers.type: must be a table; write [providers.NAME] above it"),
        ("[[policies.p.deliver]]", "[policies.p.deliver]", "deliver: must be a table; write [[policies.p.deliver]]"),
        ('select.scopes = ["workspace"]', "select = 3", "select: must be a table; write [policies.p.select]"),
        ("[policies.p]", '[journal]\nurl = "x.db"\n[policies.p]', "must be sqlite:///relative or sqlite:////absolute"),
        ('"org1"', '""', "providers.astro.organization_id: must be letters, digits, - and _ (found '')"),
        ('when.max_age = "90d"', 'when.strategy = "overlap"', "strategy: unknown key; it belongs into policies.p"),
        ("[policies.p]", "[policies.p]\nwindows = [\"mon 02:00\"]", "policies.p.windows.0: 'mon 02:00' is no window"),
        ("[policies.p]", "[policies.p]\nwindows = [\"2026-12-24\"]", "policies.p.windows.0: '2026-12-24' is a date"),
        ("[policies.p]", "[policies.p]\nblackouts = [\"2026-13-01\"]", "policies.p.blackouts.0: '2026-13-01'"),
        ("[policies.p]", "[policies.p]\nschedule = \"hourly\"", "policies.p.schedule: 'hourly' is no schedule"),
        ("[policies.p]", "[policies.p]\ntimezone = \"Berlin\"", "timezone: 'Berlin' is not a time zone; did you mean"),
        ("[policies.p]", "[policies.p]\nwaves = [0]", "policies.p.waves.0: must be a number of tokens from 1 up"),
        ("[policies.p]", "[policies.p]\nwaves = [\"50%\", \"10%\"]", "policies.p.waves: each wave must reach further"),
        ("[policies.p]", "[policies.p]\non_drift = \"cry\"", "policies.p.on_drift"),
        ("[policies.p]", "[policies.p]\nidle = \"0d\"", "policies.p.idle: must be longer than zero"),
        ("[policies.p]", "[policies.p]\nprovider = \"astor\"", "did you mean 'astro'"),
        ("[policies.p]", "[policies.p]\npaused_until = 2026-01-01T00:00:00", "has no time zone"),
    ],
)  # fmt: skip
def test_each_mistake_is_named_with_place_and_fix(tmp_path: Path, found: str, wanted: str, said: str) -> None:
    """One wrong line gives a problem that says where and what."""
    assert found in GOOD
    assert any(said in problem for problem in problems(tmp_path, GOOD.replace(found, wanted, 1)))


def test_the_mark_of_a_windows_editor_does_no_harm(tmp_path: Path) -> None:
    """A byte order mark is no part of the first line."""
    path = tmp_path / "rotator.toml"
    path.write_text(GOOD, encoding="utf-8-sig")
    assert load(path).policies


def test_what_is_said_of_time_reaches_the_policy(tmp_path: Path) -> None:
    """Schedule, windows and blackouts are meant in the policy's zone; what is not said has its default."""
    path = tmp_path / "rotator.toml"
    path.write_text(GOOD)
    plain = load(path).policies[0]
    assert (plain.schedule, plain.windows, plain.blackouts, plain.waves) == (HOURLY, None, None, ALL_AT_ONCE)
    assert (plain.on_drift, plain.grace, plain.idle, plain.retire) == (
        "rotate",
        24 * HOUR,
        7 * 24 * HOUR,
        "when_unused",
    )
    said = """[policies.p]
schedule = "0 3 * * *"
timezone = "Europe/Berlin"
windows = ["02:00-05:00"]
blackouts = ["2026-12-24..2027-01-02"]
grace = "240h"
when.unused_for = "180d"
"""
    path.write_text(GOOD.replace("[policies.p]\n", said))
    policy = load(path).policies[0]
    assert policy.schedule.next_after(datetime(2026, 7, 1, tzinfo=UTC)) == datetime(2026, 7, 1, 1, tzinfo=UTC)
    assert policy.windows is not None
    assert policy.windows.contains(datetime(2026, 7, 1, 0, tzinfo=UTC))
    assert policy.blackouts is not None
    assert policy.blackouts.contains(datetime(2026, 12, 23, 23, tzinfo=UTC))
    assert (policy.timezone, policy.idle, policy.when.unused_for) == ("Europe/Berlin", 240 * HOUR, 180 * 24 * HOUR)


@pytest.mark.parametrize(
    ("wave", "total", "reach"),
    [
        (Wave(count=1), 50, 1),
        (Wave(count=9), 5, 5),
        (Wave(share=0.1), 50, 5),
        (Wave(share=0.07), 100, 7),
        (Wave(share=0.1), 3, 1),
        (Wave(share=0.1), 11, 2),
        (Wave(share=1.0), 3, 3),
        (Wave(share=1.0), 0, 0),
    ],
)
def test_a_wave_reaches_a_number_or_a_share_of_a_sweep(wave: Wave, total: int, reach: int) -> None:
    """Shares are rounded up, one token at least, never more than there are."""
    assert wave.reach(total) == reach


def test_waves_are_completed() -> None:
    """What is not said is done at last: a final wave of 100%."""
    table = PolicyTable.model_validate(
        {"select": {"scopes": ["workspace"]}, "when": {}, "deliver": [{"sink": "x"}], "waves": [1, "10%"]}
    )
    assert table.waves == [Wave(count=1), Wave(share=0.1), Wave(share=1.0)]


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """Mistakes in five tables are five problems of one error, those of sinks among them."""
    text = GOOD.replace("org1", "a b").replace('"90d"', '"x"').replace("{name}", "{x}").replace("directory", "dir")
    assert len(problems(tmp_path, text + "\n[jurnal]\n")) >= 5


def test_a_pasted_secret_is_never_repeated(tmp_path: Path) -> None:
    """A secret where a reference belongs is refused without an echo."""
    text = GOOD.replace("env:ASTRO_API_TOKEN", "eyJhbGciOi.canary.sig")
    assert "canary" not in "".join(problems(tmp_path, text))


def test_v1alpha1_needs_its_homes(tmp_path: Path) -> None:
    """v1alpha1 lists workspace tokens by workspace, so they must be named."""
    text = GOOD.replace('type = "astro"', 'type = "astro"\napi_version = "v1alpha1"')
    assert any("policies.p.select.workspaces" in problem for problem in problems(tmp_path, text))


def test_what_is_no_toml_or_no_file_is_one_sentence(tmp_path: Path) -> None:
    """A syntax error names its line; a missing file names the option."""
    assert "is not TOML" in problems(tmp_path, "[providers")[0]
    with pytest.raises(ConfigError, match="--config"):
        load(tmp_path / "none.toml")


def test_the_schema_is_json_and_knows_the_sinks() -> None:
    """Editors get one document with the options of every sink type."""
    text = json.dumps(schema())
    assert '"directory"' in text
    assert '"max_rotations"' in text


def test_a_policy_may_require_a_preflight_that_proves(tmp_path: Path) -> None:
    """A file sink proves its places, so the strictest policy may use it."""
    path = tmp_path / "rotator.toml"
    path.write_text(GOOD.replace("[policies.p]", '[policies.p]\npreflight = "proven"'))
    assert load(path).policies[0].preflight is Grade.PROVEN


@pytest.mark.parametrize(
    ("reached", "wanted", "is_enough"),
    [
        (Grade.PROVEN, Grade.ATTESTED, True),
        (Grade.ATTESTED, Grade.ATTESTED, True),
        (Grade.ATTESTED, Grade.PROVEN, False),
        (Grade.NONE, Grade.ATTESTED, False),
        (Grade.NONE, Grade.NONE, True),
    ],
)
def test_grades_are_ordered(reached: Grade, wanted: Grade, is_enough: bool) -> None:
    """Proven is more than attested, attested more than none."""
    assert reached.reaches(wanted) is is_enough


@pytest.mark.parametrize(
    "line",
    [
        'type = "azure_key_vault"\nvault_url = "https://v.vault.azure.net"\nclient_secret = "SEKRET-value"',
        'type = "webhook"\nurl = "https://u:SEKRET@h"\nsigning_key = ["SEKRET"]\nheaders = { A = "SEKRET" }',
        'type = "vault"\nauth = "SEKRET"',
    ],
)
def test_a_secret_pasted_into_a_sink_is_never_repeated(tmp_path: Path, line: str) -> None:
    """Whatever stands in a sink's options may be a secret: the place is named, never what was found."""
    text = GOOD.replace('type = "file"\ndirectory = "secrets"', line)
    assert not [problem for problem in problems(tmp_path, text) if "SEKRET" in problem]
