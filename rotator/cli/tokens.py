"""`tokens`: the provider's token endpoints by hand, for every generation of the API.

This part understands what is asked, asks back on a terminal, and shows what came; `by_hand` acts.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import click

from rotator.app import Hands, by_hand, provider, reserved
from rotator.cli import by_hand as acting
from rotator.cli import render
from rotator.cli.keeping import Keep, Reveal, ToFile
from rotator.cli.main import FAILED, OK, config_option
from rotator.cli.words import token_words
from rotator.clock import SystemClock
from rotator.config import Config, load
from rotator.errors import ConfigError, NotFound
from rotator.logs import Log
from rotator.model import NewToken, Scope, Token
from rotator.ports import Listing
from rotator.providers.astro.provider import AstroProvider, ref_of
from rotator.stores import Stores
from rotator.text import visible

LONGEST_LIFE_DAYS = 3650  # what the API allows


@click.group(
    epilog="create and rotate prove that PATH can be written before the call. Should writing fail afterwards all the"
    " same, the secret goes to a new 0600 file in the state folder, which is named; if that fails too nobody holds it,"
    " and rotating the token again makes one that works. It is never shown without --reveal."
)
def tokens() -> None:
    """Work on the provider's tokens by hand; audited, and never while a sweep rotates the same token."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """What all commands are told."""

    config: Config
    provider: str
    as_json: bool

    @property
    def is_nested(self) -> bool:
        """Whether the API addresses tokens by their home."""
        return self.config.providers[self.provider].api_version == "v1alpha1"


@dataclass(frozen=True, slots=True)
class _Home:
    """`--workspace` and `--deployment`; empty where not given."""

    workspace: str
    deployment: str


def _common(command: Callable[..., int]) -> Callable[..., int]:
    """Add `--config`, `--provider` and `--json`, and hand the command one value for them."""

    @config_option
    @click.option("--provider", "provider_name", help="Which, where the config has several.")
    @click.option("--json", "as_json", is_flag=True, help="JSON in the provider's own field names, without secrets.")
    @functools.wraps(command)
    def run(config_path: Path, provider_name: str | None, as_json: bool, **rest: object) -> int:
        config = load(config_path)
        return command(_Asked(config, _provider_name(config, provider_name), as_json), **rest)

    return run


def _homed(command: Callable[..., int]) -> Callable[..., int]:
    """Add `--workspace` and `--deployment`."""

    @click.option("--workspace", default="", metavar="ID", help="Of a workspace token; v1alpha1 needs it.")
    @click.option("--deployment", default="", metavar="ID", help="Of a deployment token; v1alpha1 needs it.")
    @functools.wraps(command)
    def run(asked: _Asked, workspace: str, deployment: str, **rest: object) -> int:
        return command(asked, home=_Home(workspace, deployment), **rest)

    return run


_to_file = click.option(
    "--to-file",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="Write the secret, and nothing else, to this file (0600); it is proven writable before the call.",
)
_reveal = click.option(
    "--reveal", is_flag=True, help="Show the secret: on standard output, with --json on standard error."
)
_yes = click.option("--yes", is_flag=True, help="Do not ask; needed without a terminal.")
_force = click.option("--force", is_flag=True, help="Also a token that a policy manages.")
_scope = click.Choice([str(scope) for scope in Scope])


@tokens.command("list")
@_common
@_homed
@click.option("--scope", type=_scope, help="Only these.")
def list_tokens(asked: _Asked, home: _Home, scope: str | None) -> int:
    """List tokens; in v1alpha1 those of the organization, or of one workspace or deployment."""
    wanted = _listing(asked, home, Scope(scope) if scope else None)
    with _reading(asked) as source:
        if asked.as_json:
            render.write_json_array(source.raw_list(wanted))
        else:
            _print_list(list(source.list(wanted)))
    return OK


@tokens.command("get")
@_common
@_homed
@click.argument("token_id", metavar="ID", callback=token_words)
def get(asked: _Asked, home: _Home, token_id: str) -> int:
    """Show one token."""
    with _reading(asked) as source:
        _show(acting.Done(source.raw(ref_of(_found(asked, source, token_id, home)))), asked)
    return OK


@tokens.command("create")
@_common
@_homed
@click.argument("name", callback=token_words)
@click.option("--scope", type=_scope, required=True, help="What it reaches; for good.")
@click.option("--role", required=True, help="Of its scope, such as WORKSPACE_MEMBER.")
@click.option("--description", default="")
@click.option("--expires-in-days", type=click.IntRange(1, LONGEST_LIFE_DAYS), help="Never, if not given.")
@_to_file
@_reveal
def create(  # noqa: PLR0913 - one parameter an option
    asked: _Asked,
    *,
    home: _Home,
    name: str,
    scope: str,
    role: str,
    description: str,
    expires_in_days: int | None,
    to_file: Path | None,
    reveal: bool,
) -> int:
    """Make a token called NAME."""
    keep = _keep(asked, to_file, reveal=reveal)
    kind = Scope(scope)
    new = NewToken(name, kind, role, _home_of(kind, home), description, expires_in_days)
    with _acting(asked, "create") as hands, _undisturbed():
        return _show(acting.create(hands, new, keep), asked, keep)


@tokens.command("update")
@_common
@_homed
@click.argument("token_id", metavar="ID", callback=token_words)
@click.option("--name", help="The new name.")
@click.option("--description", help="The new description.")
@click.option("--role", help="The new role of the token's own scope; its other roles stay.")
def update(
    asked: _Asked, home: _Home, token_id: str, name: str | None, description: str | None, role: str | None
) -> int:
    """Change name, description or role of the token ID."""
    change = acting.Change(name, description, role)
    if change == acting.Change():
        raise ConfigError.of("tokens update", "nothing to change; give --name, --description or --role")
    with _acting(asked, "update") as hands:
        token = _found(asked, hands.provider, token_id, home)
        with _undisturbed():
            return _show(acting.update(hands, token, change), asked)


@tokens.command("delete")
@_common
@_homed
@click.argument("token_id", metavar="ID", callback=token_words)
@_yes
@_force
def delete(asked: _Asked, home: _Home, token_id: str, yes: bool, force: bool) -> int:
    """End the token ID for good; what is shown is how it was last."""
    _demand_a_person("delete", yes=yes)
    with _acting(asked, "delete") as hands:
        token = _found(asked, hands.provider, token_id, home)
        acting.refuse(hands, token, "delete", force=force)
        if not (yes or _agreed(f"Delete {_called(token)} for good?")):
            return OK
        with _undisturbed():
            return _show(acting.delete(hands, token, force=force), asked)


@tokens.command("rotate")
@_common
@_homed
@click.argument("token_id", metavar="ID", callback=token_words)
@_to_file
@_reveal
@_yes
@_force
def rotate(
    asked: _Asked, home: _Home, token_id: str, to_file: Path | None, reveal: bool, yes: bool, force: bool
) -> int:
    """Make a new secret of the token ID; the old one is dead at once.

    A token that a policy manages is rotated by `rotator rotate`, which also delivers.
    """
    keep = _keep(asked, to_file, reveal=reveal)
    _demand_a_person("rotate", yes=yes)
    with _acting(asked, "rotate") as hands:
        token = _found(asked, hands.provider, token_id, home)
        acting.refuse(hands, token, "rotate", force=force)
        if not (yes or _agreed(f"Rotate {_called(token)}? Its present secret is dead at once.")):
            return OK
        with _undisturbed():
            return _show(acting.rotate(hands, token, keep, force=force), asked, keep)


def _provider_name(config: Config, name: str | None) -> str:
    known = ", ".join(config.providers)
    if name is None and len(config.providers) > 1:
        raise ConfigError.of("--provider", f"the config has several: {known}; say which")
    chosen = next(iter(config.providers)) if name is None else name
    if chosen not in config.providers:
        raise ConfigError.of("--provider", f"no provider is called {chosen!r}; there are: {known}")
    return chosen


def _listing(asked: _Asked, home: _Home, scope: Scope | None) -> Listing:
    """Return what is to be listed; what the API cannot list is refused, or named."""
    if home.workspace and home.deployment:
        raise ConfigError.of("--deployment", "cannot go with --workspace; give one of them")
    possible = {Scope.WORKSPACE, Scope.DEPLOYMENT} if home.workspace else set(Scope)
    possible = {Scope.DEPLOYMENT} if home.deployment else possible
    if scope is not None and scope not in possible:
        raise ConfigError.of("--scope", f"{scope} tokens do not live there; leave --workspace and --deployment out")
    wanted = frozenset({scope} if scope else possible)
    everything = not (home.workspace or home.deployment)
    if asked.is_nested:
        _mind_the_homes(home, wanted, scope)
    workspaces = frozenset({home.workspace} if home.workspace else ())
    deployments = frozenset({home.deployment} if home.deployment else ())
    return Listing(wanted, workspaces, deployments, everything)


def _mind_the_homes(home: _Home, wanted: frozenset[Scope], scope: Scope | None) -> None:
    """v1alpha1 lists workspace and deployment tokens only by their homes."""
    given = {Scope.WORKSPACE: home.workspace, Scope.DEPLOYMENT: home.deployment}
    missing = [kind for kind in (Scope.WORKSPACE, Scope.DEPLOYMENT) if kind in wanted and not given[kind]]
    if scope in missing:
        raise ConfigError.of(f"--{scope}", f"v1alpha1 lists {scope} tokens by {scope}: say which")
    for kind in missing:
        click.echo(f"rotator: {kind} tokens are left out: v1alpha1 lists them by --{kind} ID", err=True)


def _home_of(scope: Scope, home: _Home) -> str:
    """Return where a new token shall live; exactly what its scope needs has to be given."""
    given = {Scope.WORKSPACE: home.workspace, Scope.DEPLOYMENT: home.deployment}
    for kind, identifier in given.items():
        if kind is scope and not identifier:
            raise ConfigError.of(f"--{kind}", f"a {kind} token needs its {kind}: give --{kind} ID")
        if kind is not scope and identifier:
            raise ConfigError.of(f"--{kind}", f"a token of the {scope} has no {kind} of its own; leave it out")
    return given.get(scope, "")


def _keep(asked: _Asked, to_file: Path | None, *, reveal: bool) -> Keep:
    """Return where the secret shall go."""
    if (to_file is None) is not reveal:
        raise ConfigError.of(
            "--to-file", "the secret is shown once and never again: give either --to-file PATH or --reveal"
        )
    if to_file is None:
        return Reveal(sys.stderr if asked.as_json else sys.stdout)
    path = Path(os.path.abspath(to_file))
    if reserved(asked.config, Stores(asked.config)).has_file(path):
        raise ConfigError.of("--to-file", f"{path} is a file that rotator itself needs; name another one")
    return ToFile(path)


def _demand_a_person(verb: str, *, yes: bool) -> None:
    if not (yes or sys.stdin.isatty()):
        raise ConfigError.of("--yes", f"there is no terminal to ask on; give --yes to {verb} the token")


def _agreed(question: str) -> bool:
    agreed = click.confirm(question, err=True)
    if not agreed:
        click.echo("Nothing was changed.", err=True)
    return agreed


def _called(token: Token) -> str:
    return f"the {token.scope} token {visible(token.name)} ({token.id})"


def _found(asked: _Asked, source: AstroProvider, token_id: str, home: _Home) -> Token:
    try:
        return source.find(token_id, home.workspace, home.deployment)
    except NotFound as error:
        hint = "; v1alpha1 finds workspace and deployment tokens only with --workspace ID or --deployment ID"
        raise NotFound(error.message + (hint if asked.is_nested else "")) from None


@contextmanager
def _reading(asked: _Asked) -> Iterator[AstroProvider]:
    """Open the provider alone: looking needs no journal."""
    with (
        closing(Stores(asked.config)) as stores,
        closing(provider(asked.config, asked.provider, _log(), SystemClock(), stores)) as source,
    ):
        yield source


@contextmanager
def _acting(asked: _Asked, verb: str) -> Iterator[Hands]:
    with by_hand(asked.config, asked.provider, f"tokens {verb}", [_log()]) as hands:
        yield hands


def _log() -> Log:
    return Log(terminal=sys.stderr.isatty())


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off Ctrl-C, SIGTERM and a closing terminal: between the call and its file, this process is the only copy."""
    came: list[int] = []

    def later(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
        came.append(number)  # says nothing: the terminal may be gone, and nothing may fail here

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    heard = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
    before = {number: signal.signal(number, later) for number in heard}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:  # unless an error says more
        raise KeyboardInterrupt


def _show(done: acting.Done, asked: _Asked, keep: Keep | None = None) -> int:
    """Print what came of it and return the exit code."""
    if done.problem:
        click.echo(f"rotator: {visible(done.problem, 2000)}", err=True)
    if asked.as_json:
        render.write_json(done.shown)
    else:
        out = sys.stderr if isinstance(keep, Reveal) else sys.stdout  # what is revealed stands alone
        render.console(out).print(render.facts(done.shown))
        if isinstance(keep, ToFile) and not done.problem:
            click.echo(f"Its secret is in {visible(done.location, 4096)}.")
    return FAILED if done.problem else OK


def _print_list(found: list[Token]) -> None:
    now = SystemClock().now()
    rows = [
        (
            token.id,
            token.name,
            str(token.scope),
            token.deployment_id or token.workspace_id,
            ", ".join(role.role for role in token.roles),
            render.ago(token.created_at, now),
            render.ago(token.generation.last_rotated_at, now),
            render.ago(token.end_at, now),
            render.ago(token.last_used_at, now),
        )
        for token in sorted(found, key=lambda token: (token.scope, token.name, token.id))
    ]
    columns = ("ID", "Name", "Scope", "Home", "Roles", "Created", "Rotated", "Expires", "Used")
    render.console().print(render.table(f"{len(rows)} tokens", columns, rows))
