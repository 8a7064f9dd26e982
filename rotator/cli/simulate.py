"""`simulate`: what the policies would do in the days ahead."""

import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from pathlib import Path

import click

from rotator.app import App, opened
from rotator.cli import render
from rotator.cli.main import OK, config_option
from rotator.config import load
from rotator.engine.deciding import known_now, surveyed
from rotator.engine.desk import Desk
from rotator.logs import Log
from rotator.providers.astro.limiter import SHARE
from rotator.simulation import GETS_A_ROTATION, Forecast
from rotator.simulation import simulate as foresee
from rotator.text import visible
from rotator.timing import spoken, stamp


@click.command()
@config_option
@click.option("--days", type=click.IntRange(1, 3660), default=30, show_default=True, help="How far to look ahead.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on standard output.")
def simulate(config_path: Path, days: int, as_json: bool) -> int:
    """Show what would happen in the days ahead: the same decisions under a virtual clock; changes nothing."""
    config = load(config_path)
    with opened(config, "simulate", [Log(terminal=sys.stderr.isatty())], writing=False) as app:
        forecasts = {desk.provider.name: _forecast(desk, days) for desk in app.desks}
        if as_json:
            render.write_json(_json(app, forecasts))
        else:
            _print(app, forecasts)
    return OK


def _forecast(desk: Desk, days: int) -> Forecast:
    known = known_now(desk)
    rows = (row for page in surveyed(desk, known) for row in page)
    tokens = ((row[0] if isinstance(row, tuple) else row.token, lineage) for row, lineage in rows)
    return foresee(tokens, desk.policies, known.own_token_ids, known.now, known.now + timedelta(days))


def _calendar(forecasts: Mapping[str, Forecast]) -> Iterator[tuple[date, Counter[str]]]:
    for day in sorted({day for forecast in forecasts.values() for day in forecast.calendar}):
        yield day, sum((forecast.calendar.get(day, Counter()) for forecast in forecasts.values()), Counter())


def _peak(app: App, provider: str, forecast: Forecast) -> dict[str, object] | None:
    """Return the busiest moment: its requests, and how long they take at the allowed rate."""
    if forecast.busiest is None:
        return None
    at, rotations = forecast.busiest
    requests, seconds = _load(app, provider, rotations)
    return {
        "provider": provider,
        "at": render.moment(at),
        "rotations": rotations,
        "requests": requests,
        "per_second": {method: round(n / seconds, 2) for method, n in requests.items()},
        "seconds": round(seconds, 1),
    }


def _load(app: App, provider: str, rotations: int) -> tuple[dict[str, int], float]:
    """Return the requests of so many rotations by method, and the seconds they take at the allowed rate, 1 at least."""
    rate = app.config.providers[provider].rate
    requests = {"get": rotations * GETS_A_ROTATION, "post": rotations}
    limits = {"get": rate.get * SHARE, "post": rate.post * SHARE}
    return requests, max([1.0, *(requests[method] / limit for method, limit in limits.items() if limit)])


def _json(app: App, forecasts: Mapping[str, Forecast]) -> dict[str, object]:
    every = list(forecasts.values())
    return {
        "start": render.moment(every[0].start),
        "end": render.moment(every[0].end),
        "selected": dict(sum((f.selected for f in every), Counter())),
        "rotations": sum(f.rotations for f in every),
        "reasons": {str(reason): n for reason, n in sum((f.reasons for f in every), Counter()).items()},
        "calendar": [
            {"date": day.isoformat(), "rotations": counts.total(), "policies": dict(counts)}
            for day, counts in _calendar(forecasts)
        ],
        "peaks": [peak for name, forecast in forecasts.items() if (peak := _peak(app, name, forecast))],
        "outside_windows": dict(sum((f.outside for f in every), Counter())),
        "missed_windows": [
            {"policy": m.policy, "opens": render.moment(m.opens), "closes": render.moment(m.closes)}
            for f in every
            for m in f.missed
        ],
        "refused": [
            {"at": render.moment(r.at), "policy": r.policy, "due": r.due, "message": r.message}
            for f in every
            for r in f.refused
        ],
        "expiring": [
            {
                "token_id": e.token_id,
                "name": e.name,
                "policy": e.policy,
                "expires_at": render.moment(e.at),
                "rotated_at": render.moment(e.rotated_at),
                "times": e.times,
                "message": e.message,
            }
            for f in every
            for e in f.expiring
        ],
    }


def _print(app: App, forecasts: Mapping[str, Forecast]) -> None:
    console, every = render.console(), list(forecasts.values())
    rows = [
        (day.isoformat(), str(counts.total()), ", ".join(f"{name} {n}" for name, n in sorted(counts.items())))
        for day, counts in _calendar(forecasts)
    ]
    if rows:
        console.print(render.table("Rotations", ("Day (UTC)", "Rotations", "Policies"), rows))
    expiring = [
        (e.name, e.policy, stamp(e.at), stamp(e.rotated_at) if e.rotated_at else "never", str(e.times), e.message)
        for forecast in every
        for e in forecast.expiring
    ]
    if expiring:
        columns = ("Token", "Policy", "Expires", "Rotated", "Times", "Why")
        console.print(render.table("Tokens that would EXPIRE", columns, expiring))
    for name, forecast in forecasts.items():
        for line in _lines(app, name, forecast):
            click.echo(visible(line, 1000))


def _lines(app: App, provider: str, forecast: Forecast) -> Iterator[str]:
    reasons = ", ".join(f"{n} {reason}" for reason, n in sorted(forecast.reasons.items())) or "nothing is due"
    total = f"{forecast.rotations} rotations of {forecast.selected.total()} selected tokens ({reasons})"
    yield f"{provider}: {spoken(forecast.end - forecast.start)} ahead: {total}; {len(forecast.expiring)} would expire"
    if forecast.busiest is not None:
        at, rotations = forecast.busiest
        requests, seconds = _load(app, provider, rotations)
        said = " and ".join(f"{n} {m.upper()} ({n / seconds:.3g} a second)" for m, n in requests.items())
        yield f"{provider}: busiest at {stamp(at)}: {rotations} rotations, {said} within {seconds:.3g} s"
    for policy in forecast.selected:
        yield from _policy_lines(forecast, policy)


def _policy_lines(forecast: Forecast, policy: str) -> Iterator[str]:
    missed = [row for row in forecast.missed if row.policy == policy]
    if missed:
        first = f"the first from {stamp(missed[0].opens)} to {stamp(missed[0].closes)}"
        yield f"policy {policy}: MISSED WINDOWS: {len(missed)} pass without a sweep, {first}; adapt its schedule"
    if forecast.outside[policy]:
        yield f"policy {policy}: {forecast.outside[policy]} rotations cannot wait for a window: they are emergencies"
    refused = [row for row in forecast.refused if row.policy == policy]
    if refused:
        yield f"policy {policy}: REFUSED by the brake, first at {stamp(refused[0].at)}: {refused[0].message}"
        yield f"policy {policy}: nobody accepts a plan here, so {len(refused)} different plans are refused in all"
