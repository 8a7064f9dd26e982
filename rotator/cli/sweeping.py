"""`plan`, `sweep`, `settle`: deciding and acting."""

import json
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import click

from rotator.app import App, opened
from rotator.cli import render
from rotator.cli.main import ATTENTION, DUE, FAILED, INTERRUPTED, OK, REFUSED, config_option
from rotator.cli.progress import Bar
from rotator.config import load
from rotator.engine.deciding import plan as make_plan
from rotator.engine.desk import Desk, Result
from rotator.engine.sweep import Report, erase, recover
from rotator.engine.sweep import sweep as run_sweep
from rotator.logs import Log
from rotator.model import Outcome, Policy, Token
from rotator.planning import Candidate, Plan

policy_option = click.option("--policy", "policy_name", help="Only this policy.")
json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")


@click.command()
@config_option
@policy_option
@click.option("--check", "check_due", is_flag=True, help="Exit 4 if changes are due.")
@json_option
def plan(config_path: Path, policy_name: str | None, check_due: bool, as_json: bool) -> int:
    """Show what a sweep would do and why, token by token; changes nothing."""
    config = load(config_path)
    with opened(config, "plan", [Log(terminal=sys.stderr.isatty())], writing=False) as app:
        return show_plan(app, app.policies(policy_name), as_json=as_json, check_due=check_due)


def show_plan(app: App, policies: Sequence[Policy], *, as_json: bool, check_due: bool = False) -> int:
    """Print the plan of all providers and return the exit code."""
    with tempfile.TemporaryFile("w+", prefix="rotator-plan-") as spool:

        def skipped(row: Candidate | tuple[Token, None]) -> None:
            spool.write(json.dumps(render.candidate_row(row)) + "\n")

        plans = [make_plan(desk, mine, skipped=skipped) for desk, mine in _per_desk(app, policies)]
        spool.seek(0)
        rows = (json.loads(line) for line in spool)
        if as_json:
            render.write_json(_plan_head(plans), {"skipped": rows})
        else:
            _print_plan(plans)
    if any(made.refused for made in plans):
        return REFUSED
    return DUE if check_due and any(made.due for made in plans) else OK


@click.command()
@config_option
@policy_option
@click.option("--yes", is_flag=True, help="Do not ask on a terminal.")
@click.option("--accept", metavar="PLAN_ID", help="Lift the brake for exactly this plan.")
@click.option("--dry-run", is_flag=True, help="The same as `rotator plan`.")
@json_option
def sweep(
    config_path: Path, policy_name: str | None, yes: bool, accept: str | None, dry_run: bool, as_json: bool
) -> int:
    """One pass: recover, plan, rotate, deliver, verify, settle."""
    config = load(config_path)
    bar = Bar()
    with opened(config, "sweep", [Log(terminal=sys.stderr.isatty()), bar], writing=not dry_run) as app:
        policies = app.policies(policy_name)
        if dry_run:
            return show_plan(app, policies, as_json=as_json)
        ask = sys.stdin.isatty() and not yes
        reports = run(app, policies, accept, bar, ask=ask)
        return finish(reports, as_json=as_json, stopped=False)


def run(app: App, policies: Sequence[Policy], accept: str | None, bar: Bar, *, ask: bool) -> list[Report]:
    """Sweep every provider; Ctrl-C and SIGTERM finish or journal what has begun."""

    def confirm(made: Plan) -> bool:
        if ask:
            bar.hide()
            if not _confirm(made):
                return False
        bar.expect(len(made.admitted) + len(made.endable))
        return True

    reports = []
    for desk, mine in _per_desk(app, policies):
        with politely(desk), bar:
            bar.expect(len(desk.journal.open_rotations(desk.provider.name)))
            reports.append(run_sweep(desk, mine, accept, confirm))
    return reports


def finish(reports: list[Report], *, as_json: bool, stopped: bool) -> int:
    """Print what was done and return the exit code."""
    results = [result for report in reports for result in report.results]
    plans = [report.plan for report in reports]
    if as_json:
        groups = {key: [render.result_row(r) for r in rows] for key, rows in _grouped(results).items()}
        render.write_json(_plan_head(plans) | {"skipped_counts": _counts(plans)} | groups)
    elif any(not report.confirmed for report in reports):
        click.echo("Nothing was rotated.")
    else:
        _print_results(results, plans)
    if stopped or any(report.interrupted and not _dead(report) for report in reports):
        return INTERRUPTED
    return exit_code(results, plans)


def exit_code(results: Sequence[Result], plans: Sequence[Plan]) -> int:
    """Return the first that holds: a dead credential, the brake, something unfinished, a new quarantine, all well."""
    if any(result.credential_dead for result in results):
        return ATTENTION
    if any(made.refused for made in plans):
        return REFUSED
    outcomes = {result.outcome for result in results}
    if outcomes & {Outcome.FAILED, Outcome.UNSETTLED, Outcome.LOST} or any(made.held for made in plans):
        return FAILED
    return ATTENTION if Outcome.QUARANTINED in outcomes else OK


@click.command()
@config_option
@json_option
def settle(config_path: Path, as_json: bool) -> int:
    """Finish what is unsettled now; nothing new is rotated."""
    config = load(config_path)
    bar = Bar()
    with opened(config, "settle", [Log(terminal=sys.stderr.isatty()), bar], writing=True) as app:
        reports = []
        for desk in app.desks:
            with politely(desk), bar:
                bar.expect(len(desk.journal.open_rotations(desk.provider.name)))
                reports.append(Report(results=recover(desk), interrupted=desk.stop.is_set()))
                erase(desk)
        return finish(reports, as_json=as_json, stopped=False)


@contextmanager
def politely(desk: Desk) -> Iterator[None]:
    """Turn Ctrl-C and SIGTERM into `stop`; a second one leaves at once, which the journal survives."""

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signal module's signature
        if desk.stop.is_set():
            raise KeyboardInterrupt
        desk.stop.set()
        click.echo("rotator: stopping; what has begun is finished first", err=True)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _per_desk(app: App, policies: Sequence[Policy]) -> list[tuple[Desk, list[Policy]]]:
    rows = [(desk, [policy for policy in policies if policy in desk.policies]) for desk in app.desks]
    return [(desk, mine) for desk, mine in rows if mine]


def _confirm(made: Plan) -> bool:
    _print_plan([made])
    return not made.admitted or click.confirm(f"Rotate {len(made.admitted)} tokens now?", err=True)


def _dead(report: Report) -> bool:
    return any(result.credential_dead for result in report.results)


def _plan_head(plans: Sequence[Plan]) -> dict[str, object]:
    return {
        "plan_id": "-".join(made.id for made in plans),
        "due": [render.candidate_row(candidate) for made in plans for candidate in made.due],
        "refused": [
            {"policy": refusal.policy, "reason": refusal.reason, "message": refusal.message}
            for made in plans
            for refusal in made.refused
        ],
    }


def _counts(plans: Sequence[Plan]) -> dict[str, int]:
    total: dict[str, int] = {}
    for made in plans:
        for skip, count in made.skipped.items():
            total[str(skip)] = total.get(str(skip), 0) + count
    return total


def _grouped(results: Sequence[Result]) -> dict[str, list[Result]]:
    return {
        "rotated": [r for r in results if r.posted],
        "settled": [r for r in results if r.outcome is Outcome.SETTLED and not r.retired],
        "unsettled": [r for r in results if r.outcome in (Outcome.UNSETTLED, Outcome.LOST)],
        "failed": [r for r in results if r.outcome in (Outcome.FAILED, Outcome.QUARANTINED)],
        "retired": [r for r in results if r.retired],
    }


def _print_plan(plans: Sequence[Plan]) -> None:
    rows = [
        (c.token.name, str(c.token.scope), c.policy.name, str(c.decision.due), c.decision.message)
        for made in plans
        for c in made.due
    ]
    console = render.console()
    if rows:
        console.print(render.table("Due", ("Token", "Scope", "Policy", "Reason", "Why"), rows))
    skipped = ", ".join(f"{count} {skip}" for skip, count in sorted(_counts(plans).items())) or "none"
    console.print(f"{len(rows)} due; skipped: {skipped}; plan {'-'.join(made.id for made in plans)}", markup=False)
    for made in plans:
        for refusal in made.refused:
            console.print(f"REFUSED {refusal.policy}: {refusal.message}", markup=False)


def _print_results(results: Sequence[Result], plans: Sequence[Plan]) -> None:
    rows = [
        (r.name, r.scope, r.policy, str(r.reason), str(r.outcome or "skipped"), "\n".join(r.locations), r.message)
        for r in results
    ]
    console = render.console()
    if rows:
        columns = ("Token", "Scope", "Policy", "Reason", "Outcome", "Where the secret went", "Remark")
        shown = columns if any(row[-1] for row in rows) else columns[:-1]
        console.print(render.table("Rotated", shown, [row[: len(shown)] for row in rows]))
    groups = {name: len(found) for name, found in _grouped(results).items() if found}
    said = ", ".join(f"{count} {name}" for name, count in groups.items()) or "nothing was due"
    skipped = ", ".join(f"{count} {skip}" for skip, count in sorted(_counts(plans).items())) or "none"
    console.print(f"{said}; skipped: {skipped}", markup=False)
    for made in plans:
        for refusal in made.refused:
            console.print(f"REFUSED {refusal.policy}: {refusal.message}", markup=False)
