"""A server under test as a process group of its own: started, pinned, awaited, and surely stopped."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from benchmarks import proc

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

_SYSTEM_PATH: Final = "/usr/local/sbin:/usr/sbin:/sbin"  # where Debian puts servers, beyond a user's PATH
_STOP_PATIENCE: Final = 15.0  # seconds between the polite signal and the hard one
_KILL_PATIENCE: Final = 5.0  # seconds the kernel gets to clear up
_POLL: Final = 0.05
_LOG_TAIL: Final = 600  # characters of a server's output shown when it fails


class ServerError(Exception):
    """A server did not start, or does not do what is to be measured."""


@dataclass
class Running:
    """A started server: its process, its output file, and when it was started (monotonic seconds)."""

    process: subprocess.Popen[bytes]
    log: Path
    started: float

    @property
    def pid(self) -> int:
        """The process at the root of the group."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the root process still runs."""
        return self.process.poll() is None

    def complaint(self) -> str:
        """Return the end of what the server printed, on one line."""
        return " | ".join(self.log.read_text(errors="replace")[-_LOG_TAIL:].splitlines())


def find_program(name: str) -> str | None:
    """Return the path of an executable, looking in the system folders too; None when it is not installed."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")


@contextmanager
def running(
    command: Sequence[str], *, folder: Path, core: int | None, env: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """Run a command in a new session, pinned to a core when one is given; its whole group is gone afterwards."""
    log = folder / "output.log"
    pin = ["taskset", "-c", str(core)] if core is not None else []
    with log.open("wb") as output:
        started = time.monotonic()
        process = subprocess.Popen(
            [*pin, *command], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        yield Running(process, log, started)
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the process and all of its group: SIGTERM to the root, then to what is left, then SIGKILL."""
    members = proc.pids(process.pid)
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP_PATIENCE)
    members |= proc.pids(process.pid)
    for number, patience in ((signal.SIGTERM, _KILL_PATIENCE), (signal.SIGKILL, _KILL_PATIENCE)):
        if _gone(members, within=0.5):
            break
        _signal_all(members, number)
        _gone(members, within=patience)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_KILL_PATIENCE)


def interruptible() -> None:
    """Make SIGTERM end this process as Ctrl-C does, so that every server is stopped on the way out."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def _signal_all(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _gone(pids: set[int], *, within: float) -> bool:
    end = time.monotonic() + within
    while proc.alive(pids):
        if time.monotonic() > end:
            return False
        time.sleep(_POLL)
    return True
