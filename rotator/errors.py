"""Every exception of rotator, and what its reader may do next.

    RotatorError
    ├ ConfigError(problems)        fix the file; never retried
    ├ PlanRefused(reason)          the brake; a person decides
    ├ Temporary(retry_after)       the call had no effect; it may be repeated
    │ └ Throttled                  the same, because we were too fast: everybody slows down
    ├ Permanent                    the call had no effect; repeating is useless
    │ ├ CredentialRejected         the credential that was shown is dead
    │ ├ Forbidden                  it lives, but may not do this
    │ ├ NotFound                   there is no such thing
    │ ├ AuditUnavailable           the audit line could not be written, so the step was not taken
    │ └ NoLongerHeld               another process has taken it over: leave it alone from here on
    └ OutcomeUnknown               it may have happened: look first, never repeat blindly

Adapters translate a vendor's exceptions at their edge, by a table. Messages name token, sink, step, status code and
use our own words: never a body, a URL query, a header or the vendor's text, for the body of a rotate response *is* the
secret.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum


class Kind(StrEnum):
    """What may be done after a failure, as metrics say it."""

    TEMPORARY = "temporary"
    PERMANENT = "permanent"
    UNKNOWN = "unknown"


class RotatorError(Exception):
    """The root: everything rotator raises on purpose.

    Args:
        message: One sentence for an operator: what failed, where, and the fix if there is one.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a configuration.

    Attributes:
        path: Where, as in the file: `policies.services.when.max_age`.
        message: What was found, what is allowed, and the fix.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class ConfigError(RotatorError):
    """Something the operator wrote, or left out, has to be changed first; nothing was done.

    Args:
        problems: All of them at once, in file order.
    """

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(str(problem) for problem in problems))
        self.problems = tuple(problems)

    @classmethod
    def of(cls, path: str, message: str) -> "ConfigError":
        """Return the error for a single problem."""
        return cls([Problem(path, message)])


class PlanRefused(RotatorError):
    """The brake held a plan back; a person decides with `--accept`."""


class Temporary(RotatorError):
    """The call certainly had no effect and may be repeated.

    Args:
        message: See `RotatorError`.
        retry_after: How long the other side asked us to wait, when it said so.
    """

    def __init__(self, message: str, retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Throttled(Temporary):
    """Too many requests: the limiter slows every caller down, not only this one."""


class Permanent(RotatorError):
    """The call certainly had no effect, and repeating it as it is will not help."""


class CredentialRejected(Permanent):
    """The credential that was shown is not, or no longer, valid."""


class Forbidden(Permanent):
    """The credential is valid but lacks the right to do this."""


class NotFound(Permanent):
    """What was asked for does not exist."""


class AuditUnavailable(Permanent):
    """The audit line that announces a step could not be written, so the step was not taken."""


class NoLongerHeld(Permanent):
    """Another process has taken over what was to be written: whoever held it before does nothing more about it."""


class OutcomeUnknown(RotatorError):
    """The call may have taken effect: whoever catches this looks before it acts again."""


def kind_of(error: BaseException) -> Kind:
    """Return what may be done after an error; of what is none of ours, nothing is known."""
    if isinstance(error, Temporary):
        return Kind.TEMPORARY
    return Kind.PERMANENT if isinstance(error, Permanent | ConfigError | PlanRefused) else Kind.UNKNOWN
