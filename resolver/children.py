"""The processes the supervisor keeps: how one is forked, says that it lives, hands over to a successor, and ends.

Rules:
1. Children write to one pipe, the line, eight octets a time: their pid and whether they serve. Nobody waits for it.
2. A worker's successor starts beside it on the same sockets; when it serves, the old one is told to end, and drains.
   The hub's starts when the old one has ended, for there is one journal.
3. A child goes when the supervisor goes, however that ends: an orphan would answer by rules nobody changes any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import struct
import sys
import traceback
from typing import TYPE_CHECKING, Final

import structlog

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from core.config import Config

BACKOFF: Final = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)  # seconds before a child that keeps dying is started again
STEADY: Final = 30.0  # seconds of life after which a child's deaths are forgotten
GRACE: Final = 8.0  # seconds a child gets to drain before it is killed
READY_LIMIT: Final = 30.0  # seconds a successor gets until it serves; five million names take about 0.1
MAX_SILENT: Final = 15  # looks, one a second, at a worker that says nothing before it is killed
_NAME_OCTETS: Final = 15  # of a process name, prctl(2)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_WORD: Final = struct.Struct("=II")  # pid; 1 when it serves
_OURS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_log = structlog.get_logger("supervisor")


class Line:
    """The pipe on which all children tell the supervisor that they live."""

    def __init__(self) -> None:
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def alive(self, *, ready: bool) -> None:
        """Say, in a child, that this process lives, and whether it serves. A supervisor that is slow misses it."""
        with contextlib.suppress(OSError):
            os.write(self._writer, _WORD.pack(os.getpid(), ready))

    def hear(self) -> Iterator[tuple[int, bool]]:
        """Yield, in the supervisor, each pid that spoke and whether it serves."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self.reader, 512 * _WORD.size):
                for pid, ready in _WORD.iter_unpack(data):
                    yield pid, bool(ready)


class Process:
    """One forked process: what the supervisor knows of it."""

    def __init__(self, pid: int, config: Config, now: float) -> None:
        self.pid = pid
        self.config = config
        self.born = now
        self.heard = False  # it spoke: its start went well
        self.ready = False  # it serves
        self.silent = 0  # looks since it spoke
        self.spoke = now
        self.deadline = 0.0  # monotonic seconds, when it is killed; 0: it was not told to end

    def send(self, number: signal.Signals) -> None:
        """Send it a signal. It is not reaped yet, so the pid is its own."""
        os.kill(self.pid, number)

    def exit_code(self) -> int | None:
        """Reap it if it has ended; returns its exit code, minus the signal that killed it, or None."""
        found, status = os.waitpid(self.pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if found else None


class Child:
    """One process that must live, and while a new configuration is taken over its successor and predecessors."""

    def __init__(self, name: str, body: Callable[[Config], None], config: Config, *, title: str, overlap: bool) -> None:
        """`title` is its name in `ps`. `overlap`: a successor starts beside it, it reports every second (a worker)."""
        self.name = name
        self._title = title
        self.config = config  # what it is started with
        self.serving: Process | None = None
        self.due = 0.0  # monotonic seconds, when to start it again
        self._body = body
        self._overlap = overlap
        self._successor: Process | None = None
        self._leaving: list[Process] = []
        self._deaths = 0
        self._failed = False

    def processes(self) -> list[Process]:
        """Return all of its processes that are not reaped."""
        return [each for each in (self.serving, self._successor, *self._leaving) if each is not None]

    def keep(self, now: float) -> None:
        """Start it when it is due, and kill what had its time to end."""
        for process in self._leaving:
            if now >= process.deadline:
                process.send(signal.SIGKILL)
        if self.serving is None and now >= self.due and (self._overlap or not self._leaving):
            self.serving = self._fork(self.config, now)

    def look(self) -> None:
        """Once a second: kill a worker that says nothing any more, so that another takes its place."""
        if not self._overlap or self.serving is None:
            return
        self.serving.silent += 1
        if self.serving.silent > MAX_SILENT:
            _log.error("process says nothing, killing it", process=self.name, seconds=MAX_SILENT)
            self.serving.send(signal.SIGKILL)
            self.serving.silent = 0

    def reports(self, now: float, seconds: float) -> bool:
        """True when this is a worker that said within `seconds` that it lives."""
        return self._overlap and self.serving is not None and now - self.serving.spoke <= max(seconds, 2.0)

    def hear(self, pid: int, now: float, *, ready: bool) -> None:
        """Note that one of its processes spoke."""
        for process in self.processes():
            if process.pid == pid:
                process.heard, process.silent, process.spoke = True, 0, now
                process.ready = process.ready or ready

    def reap(self, now: float) -> int | None:
        """Note which of its processes ended; returns the exit code when it must be started again."""
        self._leaving = [each for each in self._leaving if each.exit_code() is None]
        if self._successor is not None and (code := self._successor.exit_code()) is not None:
            _log.error("new process died before it served", process=self.name, code=code)
            self._successor, self._failed = None, True
        if self.serving is None or (code := self.serving.exit_code()) is None:
            return None
        if now - self.serving.born > STEADY:
            self._deaths = 0
        self._failed = self._failed or not self.serving.heard
        self.due = now + BACKOFF[min(self._deaths, len(BACKOFF) - 1)]
        self._deaths += 1
        self.serving = None
        return code

    def replace(self, config: Config, now: float) -> None:
        """Begin to have a process with `config` in its place; `progress` says how it goes."""
        self._failed = False
        if self._overlap and self.serving is not None and self.serving.ready:
            self._successor = self._fork(config, now)
            return
        self.config, self.due = config, 0.0
        if self.serving is not None:
            self._dismiss(self.serving, now)
            self.serving = None

    def progress(self, now: float) -> bool | None:
        """After `replace`: None while it is under way, then whether a process with the new configuration runs."""
        if self._failed:
            return False
        if self._successor is None:
            return True if self.serving is not None and self.serving.heard else None
        if self._successor.ready:
            self._promote(self._successor, now)
            return True
        if now - self._successor.born > READY_LIMIT:
            _log.error("new process does not serve", process=self.name, seconds=READY_LIMIT)
            self._abandon(now)
            return False
        return None

    def draining(self) -> bool:
        """True while a predecessor answers what is on its way."""
        return bool(self._leaving)

    def end(self, now: float) -> None:
        """Tell all of its processes to end."""
        self._abandon(now)
        if self.serving is not None:
            self._dismiss(self.serving, now)
            self.serving = None

    def _abandon(self, now: float) -> None:
        if self._successor is not None:
            self._dismiss(self._successor, now)
            self._successor = None

    def _promote(self, successor: Process, now: float) -> None:
        if self.serving is not None:
            self._dismiss(self.serving, now)
        self.serving, self._successor, self._deaths = successor, None, 0
        self.config = successor.config

    def _dismiss(self, process: Process, now: float) -> None:
        process.send(signal.SIGTERM)
        process.deadline = now + GRACE
        self._leaving.append(process)

    def _fork(self, config: Config, now: float) -> Process:
        orphaned = signal.SIGKILL if self._overlap else signal.SIGTERM  # the hub has a journal to write
        return Process(fork(self._title, lambda: self._body(config), orphaned=orphaned), config, now)


def fork(title: str, body: Callable[[], None], *, orphaned: signal.Signals = signal.SIGTERM) -> int:
    """Run `body` in a process of its own and return its pid. It gets `orphaned` when the supervisor goes."""
    parent = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)  # none may meet the supervisor's handlers in the child
    pid = os.fork()
    if pid:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid
    status = 1
    try:
        signal.set_wakeup_fd(-1)
        for number in _OURS:
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # whoever signals the whole group means the supervisor
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        _prctl(_PR_SET_PDEATHSIG, orphaned)
        name_process(title)
        if os.getppid() == parent:
            body()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except PlugholeError as error:
        _log.error("process cannot work", process=title, reason=str(error))
    except BaseException:  # noqa: BLE001  the child ends here, whatever happened; its parent's stack must not run
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def name_process(title: str) -> None:
    """Have `ps` and `top` show this process as `plughole-TITLE`, 15 characters in all."""
    text = f"plughole-{title}" if title else "plughole"
    _prctl(_PR_SET_NAME, ctypes.c_char_p(text.encode()[:_NAME_OCTETS]))


def _prctl(option: int, value: int | ctypes.c_char_p) -> None:
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)
