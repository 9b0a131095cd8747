"""What the supervisor tells systemd: datagrams of `NAME=value` lines to the socket in NOTIFY_SOCKET, sd_notify(3).

Rules:
1. Without NOTIFY_SOCKET nothing is sent and nothing fails; a service manager that does not listen stops no DNS.
2. The variables are taken out of the environment: no child speaks for the node.
"""

from __future__ import annotations

import contextlib
import os
import socket
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import MutableMapping

PATIENCE: Final = 1.0  # seconds to wait for room in the manager's queue
MICROSECONDS: Final = 1_000_000


class Notifier:
    """The way to the service manager. `interval`: seconds within which it wants WATCHDOG=1; 0: it does not."""

    def __init__(self, environ: MutableMapping[str, str]) -> None:
        """Take the variables out of `environ`."""
        address = environ.pop("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self.interval = _watchdog(environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", ""))

    def ready(self, status: str) -> None:
        """Say that the node answers, at the start and after each reload."""
        self._send("READY=1", f"STATUS={status}")

    def reloading(self, now: float) -> None:
        """Say that a reload began at `now`, in monotonic seconds."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={int(now * MICROSECONDS)}", "STATUS=taking a new configuration over")

    def stopping(self) -> None:
        """Say that the node ends."""
        self._send("STOPPING=1", "STATUS=answering what is on its way, then ending")

    def status(self, text: str) -> None:
        """Have `text` shown by `systemctl status`."""
        self._send(f"STATUS={text}")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        text = "\n".join(line.replace("\n", " ") for line in lines)
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.sendto(text.encode(), self._address)


def _watchdog(microseconds: str, pid: str) -> float:
    """Return WATCHDOG_USEC in seconds when it is meant for this process, else 0."""
    if not (microseconds.isascii() and microseconds.isdigit()) or pid not in ("", str(os.getpid())):
        return 0.0
    return int(microseconds) / MICROSECONDS
