"""`rotator check --online`: credential, overlaps and every sink, proven before anything is due."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from rotator.sandbox.store import Draft
from tests.cli.running import rotator
from tests.lab import Lab, lab, write_secret

SECOND = """
[policies.second]
select.scopes = ["organization", "workspace", "deployment"]
when.max_age = "3650d"
[[policies.second.deliver]]
sink = "{sink}"
path = "{path}"

[sinks.state]
type = "file"
directory = "."

[sinks.files2]
type = "file"
directory = "more"
"""


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Lab]:
    """A lab in real time, six tokens, three of them due."""
    with lab(tmp_path, jumping=False) as made:
        yield made


def second(bench: Lab, sink: str = "files2", path: str = "{token_id}") -> None:
    """Add a policy that selects everything, our own credential included."""
    bench.config_path.write_text(bench.config_path.read_text() + SECOND.format(sink=sink, path=path))


def checked(bench: Lab) -> tuple[int, list[str]]:
    """Run the check; its exit code and lines."""
    run = rotator(bench, "check", "--online")
    assert "Traceback" not in run.stderr
    return run.returncode, run.stdout.splitlines()


def line(lines: list[str], start: str) -> str:
    """Return the one line that begins so."""
    found = [text for text in lines if text.startswith(start)]
    assert len(found) == 1, lines
    return found[0]


def test_policies_that_select_the_same_token_are_named(bench: Lab) -> None:
    """The overlap is a warning with a count and an example; without one there is no warning."""
    assert not any("file order owns" in text for text in checked(bench)[1])
    second(bench)
    code, lines = checked(bench)
    warning = line(lines, "warning: policy second selects 6 tokens of policy services too (such as svc-")
    assert (code, "the first in file order owns them" in warning) == (0, True)


def test_a_policy_whose_tokens_all_belong_to_another_says_to_whom(bench: Lab) -> None:
    """It selects nothing of its own, and the owner is named."""
    second(bench)
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace('names = ["svc-*"]', ""))
    assert "what it selects belongs to services" in line(checked(bench)[1], "policy second: selects no token")


def test_sinks_are_proven_also_when_nothing_is_due(bench: Lab) -> None:
    """After a sweep nothing is due: a sink that has become unwritable is found all the same, and said once."""
    rotator(bench, "sweep")
    code, lines = checked(bench)
    assert (code, line(lines, "sink files")) == (0, "sink files: every place that was tried can be written (5)")
    for path in (bench.folder / "secrets").iterdir():
        path.unlink()
    (bench.folder / "secrets").rmdir()
    (bench.folder / "secrets").write_text("not a folder")
    code, lines = checked(bench)
    assert code in (1, 2)
    assert "likewise 4 more places" in line(lines, "sink files")


def test_a_sink_without_a_token_is_not_called_proven(bench: Lab) -> None:
    """Where no selected token has a place, it is said that nothing was proven."""
    bench.config_path.write_text(bench.config_path.read_text().replace('names = ["svc-*"]', 'names = ["nobody"]'))
    code, lines = checked(bench)
    assert (code, "not proven" in line(lines, "warning: sink files")) == (0, True)


def test_our_credential_says_what_it_is_and_whether_it_is_renewed(bench: Lab) -> None:
    """Token, organization, roles and expiry; renewed only where a required delivery writes what its reference reads."""
    code, lines = checked(bench)
    works, renewal = [text for text in lines if "credential file:" in text]
    assert (code, bench.sandbox.store.owner_id in works, "of this organization" in works) == (0, True, True)
    assert "roles: ORGANIZATION_OWNER" in works
    assert "never renewed by rotator: no policy selects it" in renewal
    before = bench.config_path.read_text()
    second(bench)
    assert any("writes exactly where its reference" in text for text in checked(bench)[1] if "never renewed" in text)
    bench.config_path.write_text(before)
    second(bench, "state", "credential")
    assert [text for text in checked(bench)[1] if text.endswith("credential: is renewed")]


def test_a_credential_of_another_organization_is_named(bench: Lab) -> None:
    """The JWT says where it belongs: exit 2, and the key to correct."""
    text = bench.config_path.read_text()
    bench.config_path.write_text(text.replace(bench.sandbox.organization_id, "clother"))
    code, lines = checked(bench)
    assert code == 2
    assert "belongs to another organization than providers.astro.organization_id" in line(lines, "credential file:")


def test_of_two_credentials_the_dead_one_is_named(bench: Lab) -> None:
    """The other one works, so the rest is checked; the exit code says that one is dead."""
    store = bench.sandbox.store
    made = store.create(Draft("rotator-second", "ORGANIZATION", store.organization_id, "ORGANIZATION_OWNER"), "x")
    write_secret(bench.folder / "other", store.secret_of(made.id))
    text = bench.config_path.read_text()
    both = 'credential = ["file:credential", "file:other"]'
    bench.config_path.write_text(text.replace('credential = "file:credential"', both))
    store.rotate(made.id, store.owner_id)
    code, lines = checked(bench)
    assert code == 5
    assert line(lines, f"credential file:{bench.folder}/other")
    assert line(lines, "sink files: every place")


def test_a_token_without_a_safe_place_is_named_before_it_is_due(bench: Lab) -> None:
    """A place that another token owns is a warning now, not a surprise at night."""
    rotator(bench, "sweep")
    text = bench.config_path.read_text()
    bench.config_path.write_text(
        text.replace('path = "{token_id}"', f'path = "{bench.sandbox.store.owner_id}/{{name}}"')
    )
    code, lines = checked(bench)
    assert code == 0
    assert [text for text in lines if text.startswith("warning: token svc-") and "--accept-move" in text]
