"""What systemd is told of a `Type=notify` service: that it is ready, reloading, alive, stopping.

Source: sd_notify(3), sd_watchdog_enabled(3).
"""

import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress


class Systemd:
    """Sends states to the socket that systemd named; without one, nothing.

    Args:
        environment: The process's own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address  # abstract sockets are spelled so
        is_ours = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.is_watching = is_ours and bool(environment.get("WATCHDOG_USEC"))

    def ready(self) -> None:
        """Start-up or a reload is over."""
        self._send("READY=1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The process ends."""
        self._send("STOPPING=1")

    def alive(self) -> None:
        """The loop runs: the watchdog need not kill us yet."""
        if self.is_watching:
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect(self._address)
            channel.sendall(state.encode())
