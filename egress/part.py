"""A part of the agent that hears the kernel in a thread of its own and tells what it saw.

Rules:
1. Starting never fails. What cannot be opened is tried again every RETRY seconds; `trouble` says why.
2. `tell` is called in the part's thread; it returns at once and raises nothing.
3. The network namespace is that of the thread that starts the part.
"""

from __future__ import annotations

import errno
import os
import select
import threading
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from egress.orders import Report

RETRY: Final = 5.0  # seconds
_HINTS: Final = {
    errno.EPERM: "CAP_NET_ADMIN is missing",
    errno.EBUSY: "another program listens there",
    errno.EPROTONOSUPPORT: "the kernel lacks nfnetlink",
}

Tell: TypeAlias = "Callable[[Report], None]"


class Part(Protocol):
    """What the agent starts beside itself."""

    trouble: str  # why it does not do its work at present; empty: it does

    def start(self, tell: Tell) -> None:
        """It works until `stop`."""

    def stop(self) -> None:
        """Its thread has ended; what it still held was told."""

    def counters(self) -> dict[str, int]:
        """Return what it heard, told and lost."""


class Hearing(ABC):
    """Base of the parts: the thread, the retries, the waiting. One start, one stop."""

    title = ""  # of the thread

    def __init__(self) -> None:
        self.trouble = ""
        self._tell: Tell = _nobody
        self._ending = threading.Event()
        self._wake, self._waker = -1, -1
        self._thread: threading.Thread | None = None

    def start(self, tell: Tell) -> None:
        """It works until `stop`, whatever the kernel says."""
        self._tell = tell
        self._wake, self._waker = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._thread = threading.Thread(target=self._work, name=self.title, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Its thread has ended; what it still held was told. Without a start nothing happens."""
        if self._thread is None:
            return
        self._ending.set()
        os.write(self._waker, b".")
        self._thread.join()
        self._thread = None
        os.close(self._wake)
        os.close(self._waker)

    @abstractmethod
    def _hear(self) -> None:
        """Open what is to be heard and tell of it until `_ending`; raises OSError or PlugholeError."""

    def _work(self) -> None:
        while True:  # once even if it is to end already: what it holds is told
            try:
                self._hear()
            except (OSError, PlugholeError) as failure:
                self.trouble = f"{self.title}: {_why(failure)}"
                self._ending.wait(RETRY)
            if self._ending.is_set():
                return

    def _wait(self, descriptor: int, seconds: float) -> None:
        """Return when there is something to read, when the time is over, or when the part is to end."""
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        waiting.register(self._wake, select.POLLIN)
        waiting.poll(max(seconds, 0.0) * 1_000)


def _nobody(_: Report) -> None:
    """Nothing is told before the start."""


def _why(failure: BaseException) -> str:
    hint = _HINTS.get(failure.errno or 0, "") if isinstance(failure, OSError) else ""
    return f"{failure} ({hint})" if hint else str(failure)
