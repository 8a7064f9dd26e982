"""Asking hooks before a rotation begins: `on = "before_rotate"`; see `ports.Veto`.

A hook that runs and answers no (exit 1 to 125, or HTTP 403) always holds the token back. One that cannot be asked, or
answers anything else, holds it back by `on_failure`; but where a token has expired or is about to, its silence does
not: then a broken hook must not be what cuts consumers off. A leaked token's hooks are not asked at all.
"""

from collections.abc import Sequence

from rotator.events import Event, EventName
from rotator.model import Reason
from rotator.notify.hooks import Answer, Hook
from rotator.notify.told import BEFORE, places_told
from rotator.planning import URGENT
from rotator.ports import Clock, Emit, Question
from rotator.timing import stamp


class Hooks:
    """See `ports.Veto`. Threads share it.

    Args:
        hooks: In the order in which they are asked.
        clock: Tells how long a call took.
        emit: Told of every call.
    """

    def __init__(self, hooks: Sequence[Hook], clock: Clock, emit: Emit) -> None:
        self._hooks = hooks
        self._clock = clock
        self._emit = emit

    def ask(self, question: Question) -> str:
        """See `ports.Veto`."""
        if question.reason is Reason.LEAKED:
            return ""
        for hook in self._hooks:
            if hook.policy != question.policy:
                continue
            answer = self._asked(hook, question)
            holds = answer.is_no or (hook.holds_on_failure and question.reason not in URGENT)
            if answer.problem and holds:
                how = "says no" if answer.is_no else "could not be asked"
                return f"the hook {hook.name} {how}: {answer.problem}"
        return ""

    def _asked(self, hook: Hook, question: Question) -> Answer:
        began_s = self._clock.monotonic()
        answer = hook.call(f"{question.rotation_id}_{hook.name}", BEFORE, _told(question), float("inf"))
        went_well = not answer.problem or answer.is_no
        self._emit(
            Event(
                name=EventName.HOOK_RAN if went_well else EventName.HOOK_FAILED,
                at=self._clock.now(),
                provider=question.provider,
                policy=question.policy,
                token_id=question.token.id,
                token_name=question.token.name,
                hook=hook.name,
                message=answer.problem,
                duration_s=self._clock.monotonic() - began_s,
            )
        )
        return answer


def _told(question: Question) -> dict[str, object]:
    token = question.token
    return {
        "rotation_id": question.rotation_id,
        "provider": question.provider,
        "policy": question.policy,
        "token_id": token.id,
        "name": token.name,
        "scope": str(token.scope),
        "workspace_id": token.workspace_id,
        "deployment_id": token.deployment_id,
        "reason": str(question.reason),
        "message": question.message,
        "strategy": str(question.strategy),
        "asked_at": stamp(question.at),
        "last_rotated_at": stamp(token.generation.last_rotated_at) if token.generation.last_rotated_at else None,
        "expires_at": stamp(token.end_at) if token.end_at else None,
        "places": places_told(question.places),
    }
