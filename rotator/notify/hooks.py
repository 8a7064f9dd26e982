"""Programs and receivers of the user's own that are told of settled rotations, or asked before one begins.

Both get one JSON object without a secret: a program on its standard input, a receiver in a request that is signed as
the `webhook` sink signs. What runs them is the sinks' own: children that are always buried, requests that are bounded
in time, never follow a redirect and never log.
"""

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from platform import python_version
from typing import Protocol

from rotator import __version__
from rotator.config import HookConfig
from rotator.credentials import Reference
from rotator.errors import Forbidden, Permanent, RotatorError
from rotator.sinks import _child, _post, exec, webhook  # noqa: A004 - the sink is called so
from rotator.sinks._hooks import Action

_SHORTEST_S = 0.5  # less time left than this, nothing is begun


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of one call.

    Attributes:
        problem: Empty if it went well.
        is_no: It ran, and said no.
    """

    problem: str = ""
    is_no: bool = False


class Way(Protocol):
    """How a hook is reached."""

    def call(self, event_id: str, kind: str, body: bytes, timeout_s: float) -> Answer:
        """Call once; raises RotatorError where it cannot be."""
        ...


@dataclass(frozen=True, slots=True)
class Runs:
    """A program."""

    arguments: tuple[str, ...]
    folder: str

    def call(self, event_id: str, kind: str, body: bytes, timeout_s: float) -> Answer:  # noqa: ARG002 - it is in the body
        """See `Way`."""
        command = exec.Command(self.arguments, {}, self.folder, timeout_s)
        program = command.program(Action.PREFLIGHT)
        known = {name: value for name, value in program.environment.items() if not name.startswith("ROTATOR_")}
        program = replace(program, environment={**known, "ROTATOR_EVENT": kind})
        end = _child.run(program, body + b"\n")
        failure = exec.question_failure(f"program {os.path.basename(self.arguments[0])}", end)
        if failure is None:
            return Answer()
        return Answer(failure.message, is_no=end.fate is _child.Fate.EXITED and 0 < end.code < 126)


@dataclass(frozen=True, slots=True)
class Posts:
    """A receiver.

    Attributes:
        base: The folder that relative references count from.
    """

    url: str
    signing: tuple[Reference, ...]
    base: Path

    def call(self, event_id: str, kind: str, body: bytes, timeout_s: float) -> Answer:  # noqa: ARG002 - it is in the body
        """See `Way`."""
        origin, path = _post.split(self.url)
        try:
            line = _post.Line(origin, _post.Trust(_post.Files()), _post.proxy_of("", origin), timeout_s)
        except ValueError:
            raise Permanent("HTTPS_PROXY must be a URL such as http://proxy.example.com:3128") from None
        sent_at = int(time.time())
        keys = webhook.Credentials(self.signing, {}, self.base).keys()
        headers = {
            "User-Agent": f"rotator/{__version__} python/{python_version()}",
            "Accept": "application/json",
            "Content-Type": "application/json",
            "Connection": "close",
            "webhook-id": event_id,
            "webhook-timestamp": str(sent_at),
            "webhook-signature": " ".join(webhook.signature(key, event_id, sent_at, body) for key in keys),
        }
        answer = _post.post(line.connection(), timeout_s, _post.Request(path, headers, body))
        failure = webhook.question_failure(f"{origin}", answer, datetime.fromtimestamp(sent_at, UTC))
        return Answer() if failure is None else Answer(failure.message, is_no=isinstance(failure, Forbidden))


@dataclass(frozen=True, slots=True)
class Hook:
    """One `[[policies.X.hooks]]`.

    Attributes:
        debounce: How long after a settled rotation others are waited for.
    """

    name: str
    policy: str
    way: Way
    timeout: timedelta
    debounce: timedelta = timedelta()
    holds_on_failure: bool = True

    def call(self, event_id: str, kind: str, told: Mapping[str, object], left_s: float) -> Answer:
        """Call once, in the hook's own time or what is left of ours; never raises for the hook.

        Args:
            event_id: The same however often a call is repeated.
            kind: What it is about.
            told: JSON-able, without a secret.
            left_s: Seconds until we have to be done.
        """
        timeout_s = min(self.timeout.total_seconds(), left_s)
        if timeout_s < _SHORTEST_S:
            return Answer("no time was left to call it")
        # ASCII, for names may hold lone surrogates, which no UTF-8 has
        body = json.dumps({"type": kind, "id": event_id, "data": told}, separators=(",", ":")).encode()
        try:
            return self.way.call(event_id, kind, body, timeout_s)
        except RotatorError as error:
            return Answer(error.message)


def built(config: HookConfig, folder: Path) -> Hook:
    """Return the hook of a configuration; nothing is contacted or read yet."""
    table = config.table
    if table.exec:
        way: Way = Runs(tuple(table.exec), str(folder))
    else:
        way = Posts(table.webhook, tuple(Reference.parse(text) for text in table.signing_key), folder)
    return Hook(config.name, config.policy, way, table.timeout, table.debounce, table.on_failure == "hold")
