"""The words to the service manager: where they go, what they say, and what is taken from the environment."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

import pytest

from resolver.notify import Notifier


@pytest.fixture(params=["path", "abstract"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A value of NOTIFY_SOCKET."""
    return str(tmp_path / "notify") if request.param == "path" else f"@plughole-{secrets.token_hex(8)}"


def listen(place: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(f"\0{place[1:]}" if place.startswith("@") else place)
    sock.settimeout(5)
    return sock


def test_each_word_is_one_datagram_of_lines(place: str) -> None:
    with listen(place) as manager:
        notifier = Notifier({"NOTIFY_SOCKET": place})
        notifier.ready("2 workers answer")
        assert manager.recv(512) == b"READY=1\nSTATUS=2 workers answer"
        notifier.reloading(12.345678)
        assert manager.recv(512).splitlines()[:2] == [b"RELOADING=1", b"MONOTONIC_USEC=12345678"]
        notifier.stopping()
        assert manager.recv(512).splitlines()[0] == b"STOPPING=1"
        notifier.alive()
        assert manager.recv(512) == b"WATCHDOG=1"


def test_a_status_cannot_smuggle_another_variable_in(place: str) -> None:
    with listen(place) as manager:
        Notifier({"NOTIFY_SOCKET": place}).ready("odd\nMAINPID=1")
        assert manager.recv(512) == b"READY=1\nSTATUS=odd MAINPID=1"


def test_without_a_manager_nothing_happens(tmp_path: Path) -> None:
    Notifier({}).ready("")
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "nobody")}).ready("")


def test_the_variables_are_gone_afterwards() -> None:
    environ = {"NOTIFY_SOCKET": "/run/x", "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    assert Notifier(environ).interval == 30.0
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    ("microseconds", "pid", "interval"),
    [("30000000", "", 30.0), ("30000000", "1", 0.0), ("", "", 0.0), ("soon", "", 0.0), ("-5", "", 0.0), ("٣", "", 0.0)],
)
def test_the_watchdog_is_ours_only_when_it_is_said_so(microseconds: str, pid: str, interval: float) -> None:
    assert Notifier({"WATCHDOG_USEC": microseconds, "WATCHDOG_PID": pid}).interval == interval
