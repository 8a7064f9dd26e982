"""Counters and histograms: a listener that turns each event into them.

Labels are closed sets: what the configuration does not name, and every word that is in none of the sets, is `other`.
Series of what the configuration names start at 0, and vanish with it. Nothing here blocks, and nothing raises.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics

from rotator.board import Board, Names
from rotator.errors import Kind
from rotator.events import UNRECORDED, Event, EventName
from rotator.model import DriftKind, Outcome, Reason, Step, Strategy

OTHER = "other"
OPERATIONS = ("list", "get", "create", "update", "roles", "delete", "rotate", "write")
CODES = ("200", "201", "204", "400", "401", "403", "404", "409", "429", "500", "502", "503", "504")
FAULTS = (
    "no_connection", "certificate", "proxy", "broken", "timeout", "too_large", "bad_body", "unexpected", "unusable",
)  # fmt: skip
STATUSES = (*CODES, "1xx", "2xx", "3xx", "4xx", "5xx", *FAULTS)
_EXPECTED = ("200", "401", "403", "429", "timeout")  # start at 0: alerts ask for their increase
_DONE = (Outcome.SETTLED, Outcome.FAILED)  # of one call, which cannot end in any other way
_NOTIFIED = {"notification_sent": Outcome.SETTLED, "notification_failed": Outcome.FAILED}
_RUN = {"hook_ran": Outcome.SETTLED, "hook_failed": Outcome.FAILED}
_MISSING = frozenset({EventName.AUDIT_FAILED, EventName.JOURNAL_FAILED})
_CALLS_S = (0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_STEPS_S = (0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_SETTLING_S = (0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 900, 3600, 21600, 86400)
_MOST_REMEMBERED = 10_000
# A rotation that is unsettled is tried in every sweep, and counted as unsettled once: until one of these ends it.
_CLOSING = frozenset(
    {
        EventName.ROTATION_REFUSED,
        EventName.ROTATION_SETTLED,
        EventName.ROTATION_SUPERSEDED,
        EventName.ROTATION_WITHOUT_EFFECT,
        EventName.SECRET_ADOPTED,
        EventName.TOKEN_GONE,
        EventName.TOKEN_QUARANTINED,
    }
)
_WITHOUT_ROTATION = frozenset({EventName.PREFLIGHT_FAILED, EventName.TOKEN_QUARANTINED})


class Counting:
    """See the module.

    Args:
        board: Says what the configuration names.
        registry: Where the metrics are registered.
    """

    def __init__(self, board: Board, registry: CollectorRegistry) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # else every counter is there twice
        self._board = board
        self._names = Names()
        self._lock = threading.Lock()
        self._unsettled: set[str] = set()

        def counter(name: str, said: str, *labels: str) -> Counter:
            return Counter(f"rotator_{name}", said, labels, registry=registry)

        def histogram(name: str, said: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"rotator_{name}_seconds", said, labels, registry=registry, buckets=buckets)

        self._rotations = counter(
            "rotations_total", "Rotations by what came of them.", "policy", "strategy", "reason", "outcome"
        )
        self._failures = counter("rotation_step_failures_total", "Steps of rotations that failed.", "step", "kind")
        self._steps = histogram("rotation_step_duration", "How long a step of a rotation took.", _STEPS_S, "step")
        self._lost = counter("lost_total", "New secrets that were made and never reached us.", "policy")
        self._drift = counter("drift_total", "Differences from what was settled that were found.", "policy", "kind")
        self._deliveries = counter("deliveries_total", "Writes of one secret to one place.", "sink", "outcome")
        self._delivering = histogram("delivery_duration", "How long such a write took.", _STEPS_S, "sink")
        self._settling = histogram(
            "time_to_settle", "From the intent of a rotation until it settled.", _SETTLING_S, "policy"
        )
        self._sweeps = counter(
            "sweeps_total", "Sweeps that ended, by the worst that came of a token.", "policy", "outcome"
        )
        self._requests = counter("provider_requests_total", "Requests to the API.", "provider", "operation", "status")
        self._requesting = histogram(
            "provider_request_duration", "How long such a request took.", _CALLS_S, "provider", "operation"
        )
        self._throttled = counter(
            "provider_throttled_seconds_total", "How long requests waited for their turn.", "provider"
        )
        self._audited = counter(
            "audit_records_total",
            "Audit lines that were written; audit_failed and journal_failed count when some could not be.",
            "event",
        )
        self._notifications = counter(
            "notifications_total", "Notifications by what came of them.", "channel", "outcome"
        )
        self._hooks = counter("hooks_total", "Runs of hooks by what came of them.", "hook", "outcome")
        self._handlers: Mapping[EventName, Callable[[Event], None]] = {
            EventName.ROTATION_LOST: self._on_lost,
            EventName.ROTATION_SETTLED: self._on_settled,
            EventName.DRIFT_FOUND: self._on_drift,
            EventName.STEP_FINISHED: self._on_step,
            EventName.SWEEP_FINISHED: self._on_sweep,
            EventName.REQUEST_FINISHED: self._on_request,
        }
        for step in Step:
            self._steps.labels(step)
            for kind in Kind:
                self._failures.labels(step, kind)
        for name in EventName:
            if name in _MISSING or name not in UNRECORDED:
                self._audited.labels(name)

    def __call__(self, event: Event) -> None:
        """Count one event."""
        self.follow()
        if event.name in _MISSING or event.name not in UNRECORDED:
            self._audited.labels(event.name).inc()
        if event.name in _NOTIFIED:
            self._notifications.labels(event.channel, _NOTIFIED[event.name]).inc()
        if event.name in _RUN:
            self._hooks.labels(event.hook, _RUN[event.name]).inc()
        if event.outcome is not None and (event.rotation_id or event.name in _WITHOUT_ROTATION):
            self._on_outcome(event, event.outcome)
        if event.name in _CLOSING:
            self._unsettled.discard(event.rotation_id)
        handler = self._handlers.get(event.name)
        if handler is not None:
            handler(event)

    def follow(self) -> None:
        """Let series begin and vanish with what the configuration names."""
        names = self._board.names
        if names is self._names:
            return
        with self._lock:
            before, self._names = self._names, names
            self._vanish("policy", set(before.policies) - set(names.policies))
            self._vanish("provider", before.providers - names.providers)
            self._vanish("sink", before.sinks - names.sinks)
            self._vanish("channel", before.channels - names.channels)
            self._vanish("hook", before.hooks - names.hooks)
            for policy, strategy in names.policies.items():
                self._begin_policy(policy, strategy)
            for provider in names.providers:
                self._begin_provider(provider)
            for sink in names.sinks:
                self._delivering.labels(sink)
                for outcome in _DONE:
                    self._deliveries.labels(sink, outcome)
            for outcome in _DONE:
                for channel in names.channels:
                    self._notifications.labels(channel, outcome)
                for hook in names.hooks:
                    self._hooks.labels(hook, outcome)

    def _begin_policy(self, policy: str, strategy: str) -> None:
        for outcome in Outcome:
            for reason in Reason:
                self._rotations.labels(policy, strategy, reason, outcome)
            if outcome is not Outcome.LOST:  # a sweep is as bad as the worst that stands at its end
                self._sweeps.labels(policy, outcome)
        for kind in DriftKind:
            self._drift.labels(policy, kind)
        self._lost.labels(policy)
        self._settling.labels(policy)

    def _begin_provider(self, provider: str) -> None:
        self._throttled.labels(provider)
        for operation in OPERATIONS:
            self._requesting.labels(provider, operation)
            for status in _EXPECTED:
                self._requests.labels(provider, operation, status)

    def _vanish(self, label: str, values: Iterable[str]) -> None:
        gone = set(values)
        if not gone:
            return
        for metric in self._by(label):
            found = {
                tuple(value for name, value in sample.labels.items() if name != "le")  # in the order of the labels
                for family in metric.collect()
                for sample in family.samples
                if sample.labels[label] in gone
            }
            for values_ in found:
                metric.remove(*values_)

    def _by(self, label: str) -> Iterable[Counter | Histogram]:
        every: dict[str, tuple[Counter | Histogram, ...]] = {
            "policy": (self._rotations, self._lost, self._drift, self._settling, self._sweeps),
            "provider": (self._requests, self._requesting, self._throttled),
            "sink": (self._deliveries, self._delivering),
            "channel": (self._notifications,),
            "hook": (self._hooks,),
        }
        return every[label]

    def _on_outcome(self, event: Event, outcome: Outcome) -> None:
        if outcome is Outcome.UNSETTLED and event.rotation_id:
            if event.rotation_id in self._unsettled:
                return
            if len(self._unsettled) < _MOST_REMEMBERED:
                self._unsettled.add(event.rotation_id)
        self._rotations.labels(
            self._policy(event), _one_of(Strategy, event.strategy), _one_of(Reason, event.reason), outcome
        ).inc()

    def _on_lost(self, event: Event) -> None:
        self._lost.labels(self._policy(event)).inc()

    def _on_settled(self, event: Event) -> None:
        if event.opened_at is not None:
            lasted = max(event.at - event.opened_at, timedelta())
            self._settling.labels(self._policy(event)).observe(lasted.total_seconds())

    def _on_drift(self, event: Event) -> None:
        self._drift.labels(self._policy(event), _one_of(DriftKind, event.error)).inc()

    def _on_step(self, event: Event) -> None:
        if event.step is None:
            return
        took_s = max(event.duration_s or 0.0, 0.0)
        self._steps.labels(event.step).observe(took_s)
        if event.failure is not None:
            self._failures.labels(event.step, event.failure).inc()
        if event.step is Step.DELIVER:
            sink = event.sink if event.sink in self._names.sinks else OTHER
            outcome = Outcome.SETTLED if event.failure is None else Outcome.FAILED
            self._deliveries.labels(sink, outcome).inc()
            self._delivering.labels(sink).observe(took_s)

    def _on_sweep(self, event: Event) -> None:
        self._sweeps.labels(self._policy(event), _one_of(Outcome, event.outcome)).inc()

    def _on_request(self, event: Event) -> None:
        provider = event.provider if event.provider in self._names.providers else OTHER
        operation = _one_of(OPERATIONS, event.message)
        self._requests.labels(provider, operation, _status(event.error)).inc()
        self._requesting.labels(provider, operation).observe(max(event.duration_s or 0.0, 0.0))
        self._throttled.labels(provider).inc(max(event.waited_s or 0.0, 0.0))

    def _policy(self, event: Event) -> str:
        return event.policy if event.policy in self._names.policies else OTHER


def _one_of(known: Iterable[str], word: str | None) -> str:
    return str(word) if word in list(known) else OTHER


def _status(said: str) -> str:
    """Return the status of a request as a label: a usual code, the class of another one, or what broke below HTTP."""
    if said in STATUSES:
        return said
    is_code = len(said) == 3 and said.isascii() and said.isdigit()
    return _one_of(STATUSES, f"{said[0]}xx") if is_code else OTHER
