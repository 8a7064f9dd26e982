"""What systemd hears."""

import os
import socket
from pathlib import Path

from rotator.daemon.systemd import Systemd


def test_states_arrive(tmp_path: Path) -> None:
    """Ready, reloading, alive and stopping arrive at the socket that systemd named."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        told = Systemd({"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000"})
        told.ready()
        told.reloading()
        told.ready()
        told.alive()
        told.stopping()
        heard = [listener.recv(200).decode() for _ in range(5)]
    assert heard[0] == heard[2] == "READY=1"
    assert heard[1].startswith("RELOADING=1\nMONOTONIC_USEC=")
    assert heard[3:] == ["WATCHDOG=1", "STOPPING=1"]


def test_an_abstract_socket() -> None:
    """Its name is spelled with an @."""
    name = f"rotator-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0{name}")
        listener.settimeout(5)
        Systemd({"NOTIFY_SOCKET": f"@{name}"}).ready()
        assert listener.recv(100) == b"READY=1"


def test_without_systemd_nothing_is_said(tmp_path: Path) -> None:
    """No socket, a socket that is gone, a watchdog that is another process's: no error, no message."""
    Systemd({}).ready()
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()
    assert not Systemd({}).is_watching
    assert not Systemd({"WATCHDOG_USEC": "1", "WATCHDOG_PID": "1"}).is_watching
