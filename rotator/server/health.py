"""`/healthz`: where the daemon stands, as JSON for people and scripts; never a secret. Pure."""

from collections import Counter
from collections.abc import Mapping
from datetime import datetime

from rotator import __version__
from rotator.board import Health, PolicyRow, Snapshot
from rotator.planning import STATES
from rotator.server.verdict import judge
from rotator.timing import stamp

_Json = dict[str, object]


def health(snapshot: Snapshot, dead: str, unready: str) -> _Json:
    """Return what `/healthz` says.

    Args:
        snapshot: Now.
        dead, unready: Why it does not live, or is not ready; empty if it is.
    """
    verdict = judge(snapshot, dead or unready)
    counts = Counter[str]()
    for (_, state), count in snapshot.counts.items():
        counts[state] += count
    return {
        "status": str(verdict.level),
        "message": verdict.sentence,
        "version": __version__,
        "at": stamp(snapshot.at),
        "started_at": stamp(snapshot.started_at),
        "live": _said(dead),
        "ready": _said(unready),  # the config is loaded and the journal can be written
        "config": {"loaded_at": _moment(snapshot.config_at), **_said(snapshot.config_problem)},
        "tokens": {"total": snapshot.total, **{state: counts[state] for state in STATES if counts[state]}},
        "policies": [_policy(row) for row in snapshot.policies],
        "providers": [_answered(row, snapshot.looked_at) for row in snapshot.providers],
        "sinks": [_answered(row) for row in snapshot.sinks],
    }


def _said(problem: str) -> _Json:
    return {"ok": not problem, "message": problem}


def _policy(row: PolicyRow) -> _Json:
    return {
        "name": row.name,
        "provider": row.provider,
        "schedule": row.schedule,
        "paused_until": _moment(row.paused_until),
        "next_at": _moment(row.next_at),
        "started_at": _moment(row.started_at),
        "finished_at": _moment(row.finished_at),
        "success_at": _moment(row.success_at),
        "outcome": row.outcome,
        "message": row.message,
        "missed": row.missed,
    }


def _answered(row: Health, looked_at: Mapping[str, datetime] | None = None) -> _Json:
    said: _Json = {
        "name": row.name,
        "type": row.kind,
        "ok": row.is_ok,
        "ok_at": _moment(row.ok_at),
        "failed_at": _moment(row.failed_at),
        "message": row.message,
    }
    return said if looked_at is None else said | {"looked_at": _moment(looked_at.get(row.name))}


def _moment(at: datetime | None) -> str | None:
    return None if at is None else stamp(at)
