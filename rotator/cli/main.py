"""`rotator`: the commands, what they share, and how an error becomes a sentence and an exit code."""

import errno
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import FrameType

import click

from rotator import __version__
from rotator.cli.words import redacted
from rotator.errors import ConfigError, CredentialRejected, Permanent, PlanRefused, RotatorError
from rotator.text import visible

OK, FAILED, USAGE, REFUSED, DUE, ATTENTION, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_DEBUG = "--debug"

# Each command lives in a module that is imported only when the command runs.
_COMMANDS = {
    "demo": "rotator.cli.demo:demo",
    "sandbox": "rotator.cli.demo:sandbox",
    "check": "rotator.cli.check:check",
    "plan": "rotator.cli.sweeping:plan",
    "sweep": "rotator.cli.sweeping:sweep",
    "run": "rotator.cli.run:run",
    "rotate": "rotator.cli.rotating:rotate_command",
    "settle": "rotator.cli.sweeping:settle",
    "release": "rotator.cli.release:release",
    "simulate": "rotator.cli.simulate:simulate",
    "status": "rotator.cli.status:status",
    "history": "rotator.cli.showing:history",
    "explain": "rotator.cli.explain:explain",
    "tokens": "rotator.cli.tokens:tokens",
    "audit": "rotator.cli.audit:audit",
    "schema": "rotator.cli.check:schema",
}
_HELP = {
    "demo": "See rotator work: a sandbox, a sweep, and where the secrets went.",
    "sandbox": "Run a local Astro API to try policies against.",
    "check": "Report every problem of a config file at once.",
    "plan": "Show what a sweep would do and why; changes nothing.",
    "sweep": "Recover, plan, rotate, deliver, verify, settle: one pass.",
    "run": "Run the daemon: schedules, HTTP endpoints, reload on SIGHUP, graceful stop on SIGTERM.",
    "rotate": "Rotate the tokens that you name, now; --leaked if a secret leaked.",
    "settle": "Finish what is unsettled now.",
    "release": "Lift a quarantine, or accept a new place.",
    "simulate": "Show what the days ahead would bring: calendar, peaks, missed windows, expiries.",
    "status": "Show where every token stands, the worst first, and what to do next.",
    "history": "Show what happened to a token.",
    "explain": "Show which policy matches a token, and what each condition says now.",
    "tokens": "List, get, create, update, delete or rotate tokens by hand.",
    "audit": "Prove the audit trail, and report from it.",
    "schema": "Print the JSON Schema of the config.",
}


class _Commands(click.Group):
    """A group that imports a command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, _, attribute = _COMMANDS[cmd_name].partition(":")
        gc.disable()  # what is imported stays, so looking for garbage in it only takes time
        command: click.Command = getattr(importlib.import_module(module), attribute)
        gc.freeze()
        gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(_HELP.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="rotator", message="%(prog)s %(version)s")
@click.option(_DEBUG, is_flag=True, help="Show tracebacks (never with local variables).")
def cli(debug: bool) -> None:
    """Rotate Astronomer API tokens on schedule, and never lose one.

    Exit codes: 0 all well, 1 something failed or is unsettled (run again), 2 usage or config error, 3 the brake
    refused, 4 `plan --check`: changes are due, 5 the credential is dead or a token was quarantined, 130 interrupted.
    """


def config_option(command: Callable[..., int]) -> Callable[..., int]:
    """Add `--config`."""
    return click.option(
        "--config",
        "config_path",
        type=click.Path(path_type=Path),
        default=lambda: Path(os.environ.get("ROTATOR_CONFIG") or "rotator.toml"),
        show_default="$ROTATOR_CONFIG, then ./rotator.toml",
        help="The config file.",
    )(command)


def run() -> None:
    """Run the command line and leave with its exit code."""
    # A polite stop is the same as Ctrl-C: what has begun is finished or journalled.
    signal.signal(signal.SIGTERM, _interrupt)
    _open_streams()
    try:
        code = cli.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        with suppress(OSError):
            click.echo(redacted(shown.getvalue()), err=True, nl=False)
        code = USAGE
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = OK
    except RotatorError as error:
        tell(error)
        code = exit_code_of(error)
    except Exception as error:  # noqa: BLE001 - boundary "request": no traceback meets a user without --debug
        with suppress(OSError):
            if _DEBUG in sys.argv:
                traceback.print_exc()
            click.echo(f"rotator: {_unexpected(error)}", err=True)
        code = FAILED
    try:
        sys.stderr.flush()
    except OSError:  # nobody reads it: at the end the interpreter would try again, and exit with 120
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
    sys.exit(code if isinstance(code, int) else OK)


def _unexpected(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):  # others are translated
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return f"standard output: {error.strerror}; what was done is journalled: `rotator status` shows it"
    return f"unexpected {type(error).__name__}; run again with --debug and report it"


def _open_streams() -> None:
    """Put nothing in the place of a stream that was closed before we began, lest a file of ours gets its number."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 - as long as the process


def tell(error: RotatorError, provider: str = "") -> None:
    """Print an error that is being handled, for people: one sentence, or one line a problem.

    Args:
        error: What went wrong.
        provider: With whom, where others go on.
    """
    about = f"provider {provider}: " if provider else ""
    lines = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [about + error.message]
    with suppress(OSError):  # whoever read standard error is gone; the exit code still says it
        if _DEBUG in sys.argv:
            traceback.print_exc()
        for line in lines:
            click.echo(f"rotator: {visible(line, 1000)}", err=True)


def exit_code_of(error: RotatorError) -> int:
    """Return the exit code that an error ends a command with."""
    if isinstance(error, PlanRefused):
        return REFUSED
    if isinstance(error, CredentialRejected):
        return ATTENTION
    return USAGE if isinstance(error, ConfigError | Permanent) else FAILED


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
    raise KeyboardInterrupt
