"""`demo` and `sandbox`: the product in thirty seconds, and an API to try policies against."""

import os
import tempfile
from pathlib import Path

import click

from rotator.app import opened
from rotator.cli import render
from rotator.cli.progress import Bar
from rotator.cli.sweeping import finish, run, show_plan
from rotator.config import load
from rotator.logs import Log
from rotator.sandbox import Sandbox, SandboxConfig
from rotator.sandbox.__main__ import main

_CONFIG = """\
# Written by `rotator demo`. A config of your own looks the same, without base_url.
[providers.astro]
type = "astro"
organization_id = "{organization}"
credential = "file:credential"
base_url = "{url}"

[sinks.files]
type = "file"
directory = "secrets"

[policies.services]
max_percent = 100                    # the brake: half of these tokens are overdue at once
select.scopes = ["organization", "workspace", "deployment"]
select.names = ["svc-*"]
when.max_age = "90d"
when.before_expiry = "14d"

[[policies.services.deliver]]
sink = "files"
path = "{{scope}}/{{name}}"
"""


@click.command()
@click.option(
    "--tokens", default=24, show_default=True, type=click.IntRange(2, 500), help="How many tokens to play with."
)
def demo(tokens: int) -> int:
    """See rotator work: no configuration, no network, nothing written outside a new folder."""
    folder = Path(tempfile.mkdtemp(prefix="rotator-demo-"))
    with Sandbox(SandboxConfig(tokens=tokens, seed=1)) as sandbox:
        config_path = folder / "rotator.toml"
        config_path.write_text(_CONFIG.format(organization=sandbox.organization_id, url=sandbox.url))
        descriptor = os.open(folder / "credential", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(sandbox.credential)
        say = render.console().print
        say(
            f"A local Astro API runs at {sandbox.url} with {tokens} tokens. Everything else is in {folder}.\n",
            markup=False,
        )
        config = load(config_path)
        bar = Bar()
        with opened(config, "demo", [Log(terminal=True), bar], writing=True) as app:
            say("1. The plan: what is due, and why", style="bold")
            show_plan(app, app.policies(None), as_json=False)
            say("\n2. The sweep: rotate, deliver, read back, prove that the new secret works", style="bold")
            code = finish(run(app, app.policies(None), None, ask=False, bar=bar), as_json=False)
    say("\n3. What is there now", style="bold")
    say(f"   {folder}/secrets       one 0600 file a token, holding its new secret and nothing else", markup=False)
    say(
        f"   {folder}/audit.jsonl   who did what, hash-chained: rotator audit verify {folder}/audit.jsonl", markup=False
    )
    say(f"   {folder}/rotator.db    the journal: rotator history --config {config_path}", markup=False)
    say("\nNext: copy config.example.toml to rotator.toml, put in your organization, then", markup=False)
    say("   rotator check --online && rotator plan && rotator sweep, and then rotator run", markup=False)
    say(f"The folder is yours to look at and to delete: rm -r {folder}", markup=False)
    return code


@click.command()
@click.option("--port", default=8899, show_default=True, type=click.IntRange(0, 65535))
@click.option("--tokens", default=24, show_default=True, type=click.IntRange(1, 100_000))
@click.option("--seed", default=0, show_default=True)
@click.option("--faults", default="none", show_default=True, metavar="none|default|FILE", help="How it misbehaves.")
@click.option("--life", type=click.FloatRange(min=1), metavar="S", help="Seconds that secrets live, to watch `run`.")
@click.option("--credential-file", default="sandbox-credential", show_default=True, type=click.Path(path_type=Path))
def sandbox(port: int, tokens: int, seed: int, faults: str, life: float | None, credential_file: Path) -> int:
    """Run a local Astro API (v1, v1beta1, v1alpha1 over one store) until Ctrl-C."""
    where = ["--port", str(port), "--credential-file", str(credential_file)]
    where += [] if life is None else ["--life", str(life)]
    return main([*where, "--tokens", str(tokens), "--seed", str(seed), "--faults", faults])
