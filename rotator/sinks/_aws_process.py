"""The programs that AWS profiles name as `credential_process`, bounded in time wherever the SDK runs one.

The SDK waits for such a program without end, and does so under a lock that every call needs. Here it is killed in
time, with all that it left in its process group, and for as long again nobody waits for it: who stood in the queue
behind the one that hung hears of the failure at once. `_aws` and `_vault_aws` load this on demand: it needs the SDK.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from botocore.credentials import ProcessProvider, ProfileProviderBuilder
from botocore.exceptions import CredentialRetrievalError

_REAP_S = 1.0


class Helpers:
    """Runs the programs, in the place of `subprocess.Popen`.

    Args:
        timeout_s: For one run; also how long a program that hung is not run again.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._hung: dict[tuple[str, ...], float] = {}

    def __call__(self, arguments: Sequence[str], **_pipes: object) -> "Run":
        """Start a program, as the SDK asks.

        Raises:
            CredentialRetrievalError: It hung a moment ago.
            OSError: It cannot be started.
        """
        with self._lock:
            until_s = self._hung.get(tuple(arguments), float("-inf"))
        if time.monotonic() < until_s:
            raise _late()
        return Run(arguments, self._timeout_s, self)

    def hung(self, arguments: Sequence[str]) -> None:
        """Remember for a while that a program did not end."""
        with self._lock:
            self._hung[tuple(arguments)] = time.monotonic() + self._timeout_s


class Run:
    """One run; `communicate` and `returncode` are what the SDK uses of a process."""

    def __init__(self, arguments: Sequence[str], timeout_s: float, helpers: Helpers) -> None:
        self._arguments = arguments
        self._timeout_s = timeout_s
        self._helpers = helpers
        # A session of its own: all of it can be killed, and nothing in it can wait for somebody at a terminal.
        self._child = subprocess.Popen(  # noqa: S603 - the operator's own profile names it
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.returncode = -1

    def communicate(self) -> tuple[bytes, bytes]:
        """Return what the program printed once it has ended.

        Raises:
            CredentialRetrievalError: It did not end in time and was killed.
        """
        printed = self._printed()
        if printed is None:
            self._helpers.hung(self._arguments)
            raise _late()
        return printed

    def _printed(self) -> tuple[bytes, bytes] | None:
        with suppress(subprocess.TimeoutExpired):  # it holds what was printed so far, so it goes no further
            printed = self._child.communicate(timeout=self._timeout_s)
            self.returncode = self._child.returncode
            return printed
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._child.pid, signal.SIGKILL)
        for pipe in (self._child.stdout, self._child.stderr):
            if pipe is not None:
                pipe.close()
        with suppress(subprocess.TimeoutExpired):  # the kernel keeps it, as on a file system that hangs
            self._child.wait(_REAP_S)
        return None


class _Builder(ProfileProviderBuilder):  # type: ignore[misc]
    """Makes what reads profiles, also those that another one names as its source."""

    def __init__(self, session: Any, helpers: Helpers) -> None:
        super().__init__(session)
        self._helpers = helpers

    def process_provider(self, profile_name: str) -> ProcessProvider:
        """Return what runs the program of one profile."""
        return ProcessProvider(profile_name, lambda: self._session.full_config, popen=self._helpers)

    _create_process_provider = process_provider


def bound(session: Any, helpers: Helpers) -> None:
    """Have a session of the SDK run its programs here.

    The stock providers cannot be told how to start a program, so ours stand in front of them: one in the chain, and
    one in what reads the source of a role.
    """
    chain = session.get_component("credential_provider")
    builder = _Builder(session, helpers)
    profile = session.get_config_variable("profile") or "default"
    chain.insert_before(ProcessProvider.METHOD, builder.process_provider(profile))
    chain.get_provider("assume-role")._profile_provider_builder = builder


def _late() -> CredentialRetrievalError:
    return CredentialRetrievalError(provider=ProcessProvider.METHOD, error_msg="it did not end in time")
