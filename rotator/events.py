"""What happened, as one frozen record: the engine emits it; log, audit, metrics and progress listen.

Nothing flows back from a listener, except that an audit line which cannot be written stops the irreversible step
before it happens; that one listener therefore sits inside the journal's commit and not here.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from rotator.errors import Kind
from rotator.model import Outcome, Reason, Step, Strategy


class EventName(StrEnum):
    """Past tense. The names are public: audit lines and metrics carry them."""

    CONFIG_LOADED = "config_loaded"
    CONFIG_REFUSED = "config_refused"
    DAEMON_STARTED = "daemon_started"
    DAEMON_STOPPED = "daemon_stopped"
    SWEEP_STARTED = "sweep_started"
    SWEEP_FINISHED = "sweep_finished"
    SWEEP_FAILED = "sweep_failed"
    SWEEP_MISSED = "sweep_missed"
    PLAN_REFUSED = "plan_refused"
    PLAN_ACCEPTED = "plan_accepted"
    PREFLIGHT_FAILED = "preflight_failed"
    PLACE_REFUSED = "place_refused"
    ROTATION_INTENDED = "rotation_intended"
    ROTATION_REFUSED = "rotation_refused"
    ROTATION_IN_DOUBT = "rotation_in_doubt"
    ROTATION_LOST = "rotation_lost"
    ROTATION_WITHOUT_EFFECT = "rotation_without_effect"
    TOKEN_ROTATED = "token_rotated"
    SECRET_DELIVERED = "secret_delivered"
    DELIVERY_FAILED = "delivery_failed"
    SECRET_VERIFIED = "secret_verified"
    ROTATION_UNSETTLED = "rotation_unsettled"
    ROTATION_SETTLED = "rotation_settled"
    ROTATION_SUPERSEDED = "rotation_superseded"
    TOKEN_QUARANTINED = "token_quarantined"
    TOKEN_RELEASED = "token_released"
    TOKEN_GONE = "token_gone"
    TOKEN_CREATION_REQUESTED = "token_creation_requested"
    TOKEN_CREATED = "token_created"
    TOKEN_UPDATE_REQUESTED = "token_update_requested"
    TOKEN_UPDATED = "token_updated"
    TOKEN_DELETION_REQUESTED = "token_deletion_requested"
    TOKEN_DELETED = "token_deleted"
    TOKEN_ROTATION_REQUESTED = "token_rotation_requested"
    TOKEN_ROTATED_BY_HAND = "token_rotated_by_hand"
    TOKEN_LEAKED = "token_leaked"
    DRIFT_FOUND = "drift_found"
    SECRET_ADOPTED = "secret_adopted"
    SECRET_REDELIVERED = "secret_redelivered"
    TWIN_FOUND = "twin_found"
    TWIN_DELETED = "twin_deleted"
    RETIREMENT_DELAYED = "retirement_delayed"
    RETIREMENT_INTENDED = "retirement_intended"
    TOKEN_RETIRED = "token_retired"
    CREDENTIAL_EXPIRING = "credential_expiring"
    TOKEN_REQUEST_FAILED = "token_request_failed"
    TOKEN_REQUEST_IN_DOUBT = "token_request_in_doubt"
    EXPIRY_UNMOVED = "expiry_unmoved"
    AUDIT_FAILED = "audit_failed"
    JOURNAL_FAILED = "journal_failed"
    ERASURE_DELAYED = "erasure_delayed"
    REQUEST_FINISHED = "request_finished"
    SERVER_EXPOSED = "server_exposed"
    STEP_FINISHED = "step_finished"
    CREDENTIAL_READ = "credential_read"
    SERIES_OMITTED = "series_omitted"


# Only told: neither the journal's history nor the audit holds them.
UNRECORDED = frozenset(
    {
        EventName.AUDIT_FAILED,
        EventName.CREDENTIAL_READ,
        EventName.ERASURE_DELAYED,
        EventName.JOURNAL_FAILED,
        EventName.PLACE_REFUSED,
        EventName.PREFLIGHT_FAILED,
        EventName.REQUEST_FINISHED,
        EventName.SERIES_OMITTED,
        EventName.SERVER_EXPOSED,
        EventName.STEP_FINISHED,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One fact.

    Attributes:
        at: UTC.
        message: A sentence in our own words; untrusted text in it was escaped by whoever built it.
        channel: The `[notifications.X]` that was told.
        hook: The hook that ran, by its name.
        duration_s: Of the step that ended with this event, in seconds.
        waited_s: How long a request waited for its turn before it left, in seconds.
        skew_s: How far the API's clock is ahead of ours, by its latest answer, in seconds.
        opened_at: When the intent of the rotation was written, UTC.
        expires_at: Of a credential of ours, UTC; None if it never does.
        failure: How a step failed; None if it did not.
    """

    name: EventName
    at: datetime
    provider: str = ""
    policy: str = ""
    token_id: str = ""
    token_name: str = ""
    token_scope: str = ""
    rotation_id: str = ""
    sink: str = ""
    location: str = ""
    version: str = ""
    outcome: Outcome | None = None
    reason: Reason | None = None
    step: Step | None = None
    error: str = ""
    message: str = ""
    channel: str = ""
    hook: str = ""
    duration_s: float | None = None
    waited_s: float | None = None
    skew_s: float | None = None
    opened_at: datetime | None = None
    expires_at: datetime | None = None
    strategy: Strategy | None = None
    failure: Kind | None = None
