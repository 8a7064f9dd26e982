"""`check` and `schema`: is the config right, and would it work?"""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import click

from rotator.app import channels, opened, unusable_endpoints
from rotator.claims import claims
from rotator.cli.main import ATTENTION, FAILED, OK, USAGE, config_option, exit_code_of
from rotator.clock import SystemClock
from rotator.config import Config, load
from rotator.config import schema as config_schema
from rotator.engine.desk import Desk
from rotator.engine.own import LOUD
from rotator.engine.proving import Proof, prove
from rotator.errors import ConfigError, Permanent, RotatorError, Temporary
from rotator.logs import Log
from rotator.notify.channel import is_installed, missing
from rotator.planning import gap_warnings
from rotator.ports import OwnCredential
from rotator.providers.astro.provider import AstroProvider, Probe
from rotator.stores import Stores
from rotator.text import visible
from rotator.timing import spoken, stamp

_A_YEAR = timedelta(days=365)


@click.command()
@config_option
@click.option(
    "--online",
    is_flag=True,
    help="Also prove our own credential (roles, expiry, organization, renewal), name policies that select the same"
    " token, and prove every sink with the places of due tokens and of a handful of others. Rotates nothing.",
)
def check(config_path: Path, online: bool) -> int:
    """Report every problem of the config file at once, each with its path and a fix."""
    config = load(config_path)
    problems = unusable_endpoints(config)
    if problems:
        raise ConfigError(problems)
    click.echo(f"{config_path}: no problems ({len(config.policies)} policies, {len(config.sinks)} sinks)")
    now = SystemClock().now()
    for policy in config.policies:
        for warning in gap_warnings(policy, now, now + _A_YEAR):
            click.echo(visible(f"warning: policy {policy.name}: {warning}", 500))
    if config.notifications and not is_installed():
        raise missing(next(iter(config.notifications)))
    if not online:
        return OK
    with opened(config, "check", [Log(terminal=sys.stderr.isatty())], writing=True) as app:
        findings = [*_channels(config), *(finding for desk in app.desks for finding in _told(desk))]
    codes = {exit_code_of(finding.error) for finding in findings if finding.error is not None}
    return next((code for code in (USAGE, ATTENTION, FAILED) if code in codes), OK)


@dataclass(frozen=True, slots=True)
class _Finding:
    """One line, and the error that it means for the exit code, if any."""

    text: str
    error: RotatorError | None = None


def _channels(config: Config) -> Iterator[_Finding]:
    """Yield whether the URL of each channel can be used; nobody is contacted."""
    stores = Stores(config)
    try:
        for channel in channels(config, stores):
            finding = _Finding(f"notifications.{channel.name}: its URL can be used; whether it is heard is not tried")
            try:
                channel.validate()
            except ConfigError as error:
                finding = _Finding(f"notifications.{channel.name}: {error.message}", error)
            click.echo(visible(finding.text, 800))
            yield finding
    finally:
        stores.close()


def _told(desk: Desk) -> Iterator[_Finding]:
    """Yield everything that is found out about one provider, each line printed as soon as it is known."""
    for finding in _online(desk):
        click.echo(visible(finding.text, 800))
        yield finding


def _online(desk: Desk) -> Iterator[_Finding]:
    name = desk.provider.name
    probes: list[tuple[str, Probe]] = []
    try:
        desk.journal.preflight()
        yield _Finding("journal and audit: writable")
        for reference, probe in _probes(desk):
            if isinstance(probe, Probe):
                probes.append((reference, probe))
            else:
                yield _Finding(f"credential {reference}: {probe.message}", probe)
        proof = prove(desk)
    except RotatorError as error:
        yield _Finding(f"provider {name}: {error.message}", error)
        return
    for reference, probe in probes:
        yield from _credential(desk, reference, probe, proof)
    selected = ", ".join(f"{policy} selects {count}" for policy, count in proof.selected.items()) or "nothing selected"
    yield _Finding(f"provider {name}: {selected}; {proof.due.total()} due")
    yield from _skew(desk)
    yield from _policies(desk, proof)
    yield from _sinks(desk, proof)


def _probes(desk: Desk) -> Iterator[tuple[str, Probe | RotatorError]]:
    """Yield the reference of each of our credentials with what it shows, or why it cannot be used."""
    provider = desk.provider
    if not isinstance(provider, AstroProvider):
        return
    mine = provider.own_credentials().values()
    for own in mine:
        yield own.reference, _foreign(provider, own) or _probed(provider.alone(own))
    if not mine:  # it does not say which token it is
        yield f"of providers.{provider.name}", _probed(provider)


def _foreign(provider: AstroProvider, own: OwnCredential) -> RotatorError | None:
    said = claims(own.read())
    if said is None or said.organization_id in ("", provider.organization_id):
        return None
    return Permanent(f"it belongs to another organization than providers.{provider.name}.organization_id says")


def _probed(provider: AstroProvider) -> Probe | RotatorError:
    try:
        return provider.probe()
    except RotatorError as error:
        return error


def _credential(desk: Desk, reference: str, probe: Probe, proof: Proof) -> Iterator[_Finding]:
    home = "of this organization" if probe.is_at_home else "which does not say its organization"
    roles = ", ".join(role.role for role in probe.roles or ()) or "not shown, it may not read itself"
    expiry = f"expires {stamp(probe.expires_at)}" if probe.expires_at else "names no expiry"
    said = f"works; token {probe.token_id or 'unknown'} {home}; roles: {roles}; {expiry}"
    yield _Finding(f"credential {reference}: {said}")
    why = proof.own.get(probe.token_id, "it does not say which token it is")
    near = probe.expires_at is not None and probe.expires_at - desk.clock.now() <= LOUD
    loud = "warning: " if why and near else ""
    yield _Finding(f"{loud}credential {reference}: {f'never renewed by rotator: {why}' if why else 'is renewed'}")


def _skew(desk: Desk) -> Iterator[_Finding]:
    skew, most = desk.provider.clock_skew(), desk.settings.max_clock_skew
    if skew is not None and abs(skew) > most:
        said = f"the clocks of this machine and of the API differ by {spoken(abs(skew))}, more than max_clock_skew"
        yield _Finding(f"{said}: no token would be rotated; synchronise the clock (NTP)", Temporary(said))


def _policies(desk: Desk, proof: Proof) -> Iterator[_Finding]:
    for policy in desk.policies:
        later = {pair[0] for pair in proof.overlaps if pair[1] == policy.name}
        if not proof.selected[policy.name]:
            why = f"; what it selects belongs to {', '.join(sorted(later))}" if later else "; is `select` right?"
            yield _Finding(f"policy {policy.name}: selects no token{why}")
    for (owner, later_one), count in sorted(proof.overlaps.items()):
        example = proof.examples[owner, later_one]
        tokens = "1 token" if count == 1 else f"{count} tokens"
        yield _Finding(
            f"warning: policy {later_one} selects {tokens} of policy {owner} too (such as {example}):"
            " the first in file order owns them; narrow one of the two"
        )
    for problem, example in proof.problems.items():
        yield _Finding(f"warning: token {example}: {problem}")


def _sinks(desk: Desk, proof: Proof) -> Iterator[_Finding]:
    names = {delivery.sink for policy in desk.policies for delivery in policy.deliveries}
    for sink in sorted(names):
        failed, proven = proof.failed[sink], proof.proven[sink]
        more = f" (likewise {failed - 1} more places)" if failed > 1 else ""
        if sink in proof.errors:
            yield _Finding(f"sink {sink}: {proof.errors[sink].message}{more}", proof.errors[sink])
        elif sink in proof.lenient:
            yield _Finding(f"warning: sink {sink}, which is not required: {proof.lenient[sink].message}{more}")
        elif proven:
            yield _Finding(f"sink {sink}: every place that was tried can be written ({proven})")
        else:
            yield _Finding(f"warning: sink {sink}: not proven, for no selected token has a place there")


@click.command()
def schema() -> int:
    """Print the JSON Schema of the config, for editors."""
    whole = config_schema()
    click.echo(json.dumps(whole, indent=2))
    if "$comment" in whole:
        click.echo(f"rotator: {visible(whole['$comment'], 1000)}", err=True)
    return OK
