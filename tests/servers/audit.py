"""A receiver of audit lines as a user may write one: it wants a bearer token, and drops what it has by its key."""

import json
from collections.abc import Sequence
from pathlib import Path

from tests.servers.webhook import Receiver, Seen


class AuditReceiver(Receiver):
    """Keeps lines in the order in which they came; `serving` of the webhook receiver lends it a socket."""

    def __init__(self, token: str = "", largest: int = 1 << 30) -> None:
        super().__init__(Path("/nonexistent"), [])
        self.token = token
        self.largest = largest
        self.lines: list[str] = []
        self.keys_seen: list[str] = []

    def answer(self, request: Seen) -> tuple[int, bytes]:
        """Take the lines of one request."""
        if self.is_down:
            return 503, b"down"
        if self.token and request.headers.get("authorization") != f"Bearer {self.token}":
            return 401, b"who are you? " + request.headers.get("authorization", "").encode()  # as some do
        if len(request.body) > self.largest:
            return 413, b""
        if request.headers["content-type"] != "application/x-ndjson":
            return 415, b""
        key = request.headers["idempotency-key"]
        if key not in self.keys_seen:
            self.keys_seen.append(key)
            self.lines += request.body.decode().splitlines()
        return 204, b""

    @property
    def seqs(self) -> Sequence[int]:
        """The numbers of the lines, as they came."""
        return [json.loads(line)["seq"] for line in self.lines]
