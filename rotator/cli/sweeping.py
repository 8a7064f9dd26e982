"""`plan`, `sweep`, `settle`: deciding and acting."""

import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli import render
from rotator.cli.main import (
    ATTENTION,
    DUE,
    FAILED,
    INTERRUPTED,
    OK,
    REFUSED,
    USAGE,
    config_option,
    exit_code_of,
    tell,
)
from rotator.cli.progress import Bar
from rotator.cli.publishing import Publisher
from rotator.cli.stopping import PATIENCE_S, interruptible, politely
from rotator.config import load
from rotator.engine.deciding import plan as make_plan
from rotator.engine.desk import Desk, Result
from rotator.engine.sweep import Report, erase, homeless, recover
from rotator.engine.sweep import sweep as run_sweep
from rotator.errors import RotatorError
from rotator.logs import Log
from rotator.model import Outcome, Policy, Token
from rotator.planning import Candidate, Plan
from rotator.ports import Emit

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

        plans: list[Plan] = []
        failed: dict[str, RotatorError] = {}
        for desk, mine in _per_desk(app, policies):
            try:
                plans.append(make_plan(desk, mine, skipped=skipped))
            except RotatorError as error:
                tell(error, desk.provider.name)
                failed[desk.provider.name] = error
        spool.seek(0)
        rows = (json.loads(line) for line in spool)
        if as_json:
            render.write_json(_plan_head(plans) | {"errors": list(render.errors(failed))}, {"skipped": rows})
        elif plans:
            _print_plan(plans)
    codes = {exit_code_of(error) for error in failed.values()} | {REFUSED for made in plans if made.refused}
    is_due = check_due and any(made.due or _endings(made) for made in plans)
    return next((code for code in (USAGE, ATTENTION, REFUSED, FAILED) if code in codes), DUE if is_due else OK)


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
    bar, publisher = Bar(), Publisher(config)
    listeners: list[Emit] = [Log(terminal=sys.stderr.isatty()), bar, *publisher.listeners]
    with opened(config, "sweep", listeners, writing=not dry_run) as app:
        policies = app.policies(policy_name)
        if dry_run:
            return show_plan(app, policies, as_json=as_json)
        ask = sys.stdin.isatty() and not yes
        with publisher.after(app, looks=True):
            return finish(run(app, policies, accept, ask=ask, bar=bar), as_json=as_json)


def run(
    app: App,
    policies: Sequence[Policy],
    accept: str | None,
    *,
    ask: bool,
    bar: Bar | None = None,
    patience_s: float = PATIENCE_S,
) -> list[Report]:
    """Sweep every provider, whatever becomes of the others; Ctrl-C and SIGTERM finish or journal what has begun.

    Args:
        app: Everything.
        policies: Those to sweep.
        accept: A plan id that lifts the brake.
        ask: Whether a person is asked first.
        bar: Told how much there is to do.
        patience_s: See `politely`.
    """
    bar = bar or Bar(shown=False)
    mine = {desk.provider.name: chosen for desk, chosen in _per_desk(app, policies)}
    # one without policies is there for its open rotations
    desks = [desk for desk in app.desks if not desk.policies or desk.provider.name in mine]

    def confirm(made: Plan) -> bool:
        if ask:
            bar.hide()
            if not _confirm(made):
                return False
        bar.expect(len(made.admitted) + len(made.endable))
        return True

    def one(desk: Desk, report: Report) -> None:
        bar.expect(len(desk.journal.open_rotations(desk.provider.name)))
        run_sweep(desk, mine.get(desk.provider.name, []), accept, confirm, report)

    with bar:
        return reported(app, desks, one, patience_s)


def reported(
    app: App, desks: Sequence[Desk], act: Callable[[Desk, Report], None], patience_s: float = PATIENCE_S
) -> list[Report]:
    """Act on every provider until told to stop; an error of one is told, and hides nothing of the others."""
    reports = [Report(provider=desk.provider.name) for desk in desks]
    with politely(app.halt, patience_s):
        for desk, report in zip(desks, reports, strict=True):
            report.interrupted = app.stop.is_set()
            if report.interrupted:
                break
            try:
                act(desk, report)
            except RotatorError as error:
                tell(error, desk.provider.name)
                report.error = error
                report.interrupted = app.stop.is_set()
    reports[0].results[:0] = [homeless(rotation) for rotation in app.homeless]
    return reports


def finish(reports: list[Report], *, as_json: bool) -> int:
    """Print what was done and return the exit code."""
    results = [result for report in reports for result in report.results]
    plans = [report.plan for report in reports]
    failed = {report.provider: report.error for report in reports if report.error is not None}
    if as_json:
        groups = {key: [render.result_row(r) for r in rows] for key, rows in _grouped(results).items()}
        told = {"skipped_counts": _counts(plans), **groups, "errors": list(render.errors(failed))}
        render.write_json(_plan_head(plans) | told)
    elif not results and any(not report.confirmed for report in reports):
        click.echo("Nothing was rotated.")
    elif results or len(failed) < len(reports):
        _print_results(results, plans)
    if any(report.interrupted and not _dead(report) for report in reports):
        return INTERRUPTED
    return exit_code(results, plans, list(failed.values()))


def exit_code(results: Sequence[Result], plans: Sequence[Plan], errors: Sequence[RotatorError] = ()) -> int:
    """Return the first that holds: usage, a dead credential, the brake, something unfinished, a new quarantine."""
    outcomes = {result.outcome for result in results}
    codes = {exit_code_of(error) for error in errors}
    if any(result.credential_dead for result in results):
        codes.add(ATTENTION)
    if any(made.refused for made in plans):
        codes.add(REFUSED)
    is_held = any(made.held for made in plans) or any(result.held for result in results)
    if outcomes & {Outcome.FAILED, Outcome.UNSETTLED} or is_held:
        codes.add(FAILED)
    last = ATTENTION if Outcome.QUARANTINED in outcomes else OK
    return next((code for code in (USAGE, ATTENTION, REFUSED, FAILED) if code in codes), last)


@click.command()
@config_option
@json_option
def settle(config_path: Path, as_json: bool) -> int:
    """Finish what is unsettled now; nothing new is rotated."""
    config = load(config_path)
    bar = Bar()

    def settled(desk: Desk, report: Report) -> None:
        bar.expect(len(desk.journal.open_rotations(desk.provider.name)))
        report.results.extend(recover(desk))
        report.interrupted = desk.stop.is_set()
        erase(desk)

    publisher = Publisher(config)
    listeners: list[Emit] = [Log(terminal=sys.stderr.isatty()), bar, *publisher.listeners]
    with opened(config, "settle", listeners, writing=True) as app, publisher.after(app), bar:
        return finish(reported(app, app.desks, settled), as_json=as_json)


def _per_desk(app: App, policies: Sequence[Policy]) -> list[tuple[Desk, list[Policy]]]:
    rows = [(desk, [policy for policy in policies if policy in desk.policies]) for desk in app.desks]
    return [(desk, mine) for desk, mine in rows if mine]


def _confirm(made: Plan) -> bool:
    _print_plan([made])
    counts = {"rotate": len(made.admitted), "end": len(made.endable) + len(made.orphans)}
    wanted = " and ".join(f"{verb} {count}" for verb, count in counts.items() if count)
    with interruptible():
        return not wanted or click.confirm(f"{wanted.capitalize()} tokens now?", err=True)


def _endings(made: Plan) -> list[Candidate]:
    return [*made.ending, *made.orphans]


def _dead(report: Report) -> bool:
    return any(result.credential_dead for result in report.results)


def _plan_head(plans: Sequence[Plan]) -> dict[str, object]:
    return {
        "plan_id": "-".join(made.id for made in plans),
        "due": [render.candidate_row(candidate) for made in plans for candidate in made.due],
        "ending": [render.ending_row(row) for made in plans for row in _endings(made)],
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
        "unsettled": [r for r in results if r.outcome is Outcome.UNSETTLED],
        "failed": [r for r in results if r.outcome in (Outcome.FAILED, Outcome.QUARANTINED)],
        "held": [r for r in results if r.held],
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
    old = [
        (c.token.name, c.token.id, str(c.token.scope), c.policy.name, c.decision.message)
        for made in plans
        for c in _endings(made)
    ]
    if old:
        console.print(render.table("To be ended", ("Token", "Id", "Scope", "Policy", "Why"), old))
    skipped = ", ".join(f"{count} {skip}" for skip, count in sorted(_counts(plans).items())) or "none"
    ending = f"; {len(old)} to be ended" if old else ""
    console.print(
        f"{len(rows)} due{ending}; skipped: {skipped}; plan {'-'.join(made.id for made in plans)}", markup=False
    )
    for made in plans:
        for refusal in made.refused:
            console.print(f"REFUSED {refusal.policy}: {refusal.message}", markup=False)


def _print_results(results: Sequence[Result], plans: Sequence[Plan]) -> None:
    rows = [
        (
            r.name,
            r.scope,
            r.policy,
            str(r.reason or "retire"),
            str(r.outcome or ("held back" if r.held else "skipped")),
            "\n".join(r.locations),
            r.message,
        )
        for r in results
    ]
    console = render.console()
    if rows:
        columns = ("Token", "Scope", "Policy", "Reason", "Outcome", "Where the secret went", "Remark")
        shown = columns if any(row[-1] for row in rows) else columns[:-1]
        console.print(render.table("Rotated", shown, [row[: len(shown)] for row in rows]))
    groups = {name: len(found) for name, found in _grouped(results).items() if found}
    said = ", ".join(f"{count} {name}" for name, count in groups.items()) or (
        "nothing was done" if any(made.refused for made in plans) else "nothing was due"
    )
    skipped = ", ".join(f"{count} {skip}" for skip, count in sorted(_counts(plans).items())) or "none"
    console.print(f"{said}; skipped: {skipped}", markup=False)
    for made in plans:
        for refusal in made.refused:
            console.print(f"REFUSED {refusal.policy}: {refusal.message}", markup=False)
