"""A part's thread: it starts whatever the kernel says, tries again, says why, and ends when told."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from pathlib import Path

import pytest

from egress import conntrack, part
from egress.conntrack import Flows
from egress.netlink import Malformed
from egress.nflog import Attempts
from egress.orders import Report
from egress.part import Hearing

PATIENCE = 60.0


class Ear(Hearing):
    """Fails with each of the failures in turn, then hears until it is to end."""

    title = "ear"

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.heard: list[str] = []
        self.waits = threading.Event()

    def _hear(self) -> None:
        if self.failures:
            self.heard.append(self.trouble)
            raise self.failures.pop(0)
        self.trouble = ""
        silent, other = os.pipe()
        self.waits.set()
        self._wait(silent, PATIENCE)
        os.close(silent)
        os.close(other)


def nobody(_: Report) -> None:
    """Nothing is told here."""


def test_what_fails_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "RETRY", 0.001)
    ear = Ear(PermissionError(errno.EPERM, "no"), OSError(errno.EBUSY, "no"), Malformed("odd"))
    ear.start(nobody)
    assert ear.waits.wait(PATIENCE)
    assert ear.heard == [
        "", "ear: [Errno 1] no (CAP_NET_ADMIN is missing)", "ear: [Errno 16] no (another program listens there)",
    ]  # fmt: skip
    assert ear.trouble == ""
    ear.stop()


def pipes() -> set[str]:
    """What the open descriptors of this process lead to; other tests' threads may close some meanwhile."""
    found = set()
    for each in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(str(each.readlink()))
    return found


def test_it_ends_at_once_from_its_wait_and_from_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "RETRY", PATIENCE)
    listening, failing = Ear(), Ear(*[OSError(errno.EBUSY, "no")] * 9)
    begun = time.monotonic()
    for ear in (listening, failing):
        ear.start(nobody)
    assert listening.waits.wait(PATIENCE)
    opened = {f"pipe:[{os.fstat(ear._wake).st_ino}]" for ear in (listening, failing)}
    assert opened <= pipes()
    for ear in (listening, failing):
        ear.stop()
        ear.stop()
    assert time.monotonic() - begun < PATIENCE / 2  # neither the wait nor the pause between two tries was sat out
    assert not opened & pipes()


def test_a_part_that_never_started_can_be_stopped() -> None:
    Ear().stop()


@pytest.mark.parametrize("made", [Flows("gate"), Attempts("gate", lambda _: False)], ids=["conntrack", "nflog"])
def test_without_the_right_to_listen_the_agent_goes_on_and_says_so(
    made: Hearing, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = threading.Event()

    def refused(_subsystem: int) -> None:
        tried.set()
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(conntrack, "Listener", refused)
    monkeypatch.setattr("egress.nflog.Listener", refused)
    made.start(nobody)
    assert tried.wait(PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while not made.trouble:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    made.stop()
    assert made.trouble.startswith(f"{made.title}: ")
    assert "CAP_NET_ADMIN" in made.trouble
