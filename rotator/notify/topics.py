"""What people are told of: the closed set of topics, and the words for each. Pure; the configuration reads it."""

from dataclasses import dataclass
from enum import StrEnum


class Topic(StrEnum):
    """What a channel can be told of, in the order in which a message lists it: the worst first."""

    CREDENTIAL_REJECTED = "credential_rejected"
    EXPIRED = "expired"
    QUARANTINED = "quarantined"
    LEAKED = "leaked"
    LOST = "lost"
    IN_DOUBT = "in_doubt"
    UNSETTLED = "unsettled"
    EXPIRING = "expiring"
    CREDENTIAL_EXPIRING = "credential_expiring"
    PLAN_REFUSED = "plan_refused"
    AUDIT_FAILED = "audit_failed"
    JOURNAL_FAILED = "journal_failed"
    CONFIG_REFUSED = "config_refused"
    SINK_DOWN = "sink_down"
    VETOED = "vetoed"
    HOOK_FAILED = "hook_failed"
    DRIFTED = "drifted"
    RETIREMENT_DELAYED = "retirement_delayed"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Words:
    """How a topic is told.

    Attributes:
        title: What is the case; "(3)" or a name follows.
        hint: What a person does next; `{id}` is a token's.
        is_passing: It happened and is over: there is nothing to resolve.
        is_severe: A secret is, or soon will be, worthless.
    """

    title: str
    hint: str
    is_passing: bool = False
    is_severe: bool = False


WORDS = {
    Topic.CREDENTIAL_REJECTED: Words(
        "rotator's own credential is dead",
        "put a living one where its reference reads it, then `rotator check --online`",
        is_severe=True,
    ),
    Topic.EXPIRED: Words("expired", "`rotator explain {id}`, then `rotator rotate {id}`", is_severe=True),
    Topic.QUARANTINED: Words(
        "quarantined", "`rotator history {id}`; put it right, then `rotator release {id}`", is_severe=True
    ),
    Topic.LEAKED: Words("said to have leaked", "`rotator history {id}`", is_passing=True, is_severe=True),
    Topic.LOST: Words("new secret lost", "`rotator status`: it is rotated again by itself", is_passing=True),
    Topic.IN_DOUBT: Words("in doubt whether it was rotated", "`rotator settle` in a few minutes", is_severe=True),
    Topic.UNSETTLED: Words("rotated, but not delivered everywhere", "put right what it says, then `rotator settle`"),
    Topic.EXPIRING: Words("will expire, and rotator will not rotate it", "`rotator explain {id}`"),
    Topic.CREDENTIAL_EXPIRING: Words("rotator's own credential expires", "`rotator check --online`", is_severe=True),
    Topic.PLAN_REFUSED: Words("held back by the brake", "`rotator plan`, then `rotator sweep --accept PLAN_ID`"),
    Topic.AUDIT_FAILED: Words("audit lines are missing", "make room for the audit file and let rotator write it"),
    Topic.JOURNAL_FAILED: Words("the journal cannot be written", "make room in state_dir; nothing new is rotated"),
    Topic.CONFIG_REFUSED: Words("a changed config was refused", "`rotator check`"),
    Topic.SINK_DOWN: Words("a sink is down", "`rotator check --online`"),
    Topic.VETOED: Words("held back by a hook", "ask whoever runs the hook"),
    Topic.HOOK_FAILED: Words("a hook was given up", "look at its program or receiver", is_passing=True),
    Topic.DRIFTED: Words("drifted", "`rotator explain {id}`"),
    Topic.RETIREMENT_DELAYED: Words("the old secret lives on", "`rotator explain {id}`"),
    Topic.GONE: Words("deleted at the provider", "remove its secret from its sinks", is_passing=True),
}
# What needs a person, and what may soon.
DEFAULT = (
    Topic.CREDENTIAL_REJECTED,
    Topic.EXPIRED,
    Topic.QUARANTINED,
    Topic.LEAKED,
    Topic.LOST,
    Topic.IN_DOUBT,
    Topic.UNSETTLED,
    Topic.EXPIRING,
    Topic.CREDENTIAL_EXPIRING,
    Topic.PLAN_REFUSED,
    Topic.AUDIT_FAILED,
    Topic.JOURNAL_FAILED,
    Topic.CONFIG_REFUSED,
    Topic.SINK_DOWN,
    Topic.HOOK_FAILED,
)
