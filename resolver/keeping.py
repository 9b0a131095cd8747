"""Keeps a worker's leak accounts over its end, and follows what analysts decide about them.

Rules:
1. The state is written by a fork of the worker every EVERY seconds, and by itself when it stops: no answer waits.
2. A state that cannot be read is no state: the meter learns anew, and the service log says so.
3. Decisions are lines of one file that only grows (`Decisions`); every worker applies those it has not seen.
4. A successor starts while its predecessor still serves, so it reads once more when that one has written its last.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog

from core.errors import UNREADABLE, Unavailable
from resolver.decisions import Decisions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from detectors.leak import LeakMeter

EVERY: Final = 600.0  # seconds between two writes
TAKE_OVER: Final = 20.0  # seconds after the start in which the predecessor's last state is taken up
FOLDER: Final = "detectors"  # below the data folder
LEAK: Final = "leak."  # before a worker's number
_log = structlog.get_logger("worker")


class Saver:
    """Writes a state now and then, by a fork of the process, so that nobody waits; `trouble` says why it could not."""

    def __init__(self, path: Path, dump: Callable[[], dict[str, Any]], *, now: float) -> None:
        """`dump` returns the state; the first write is due EVERY seconds after `now`."""
        self.path = path
        self.trouble = ""
        self.wrote = False  # a fork has ended since somebody looked
        self._dump = dump
        self._due = now + EVERY
        self._fork = 0  # its process number

    def tick(self, now: float) -> None:
        """Do what is due: take in how the last fork ended, begin the next."""
        if self._fork:
            self._reap()
        if not self._fork and (now >= self._due or now < self._due - EVERY):
            self._due = now + EVERY
            self._begin()

    def write(self) -> None:
        """Put the state on disk, here and now; a disk that refuses costs the state alone."""
        try:
            save(self.path, self._dump())
            self.trouble = ""
        except (OSError, ValueError, TypeError) as error:
            self.trouble = f"detectors: {self.path}: {error}"
            _log.error("state of detectors not written", path=str(self.path), reason=str(error))

    def _begin(self) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            self.trouble = f"detectors: {self.path}: {error}"
            return
        if pid:
            self._fork = pid
            return
        try:  # in the fork: nothing else of the process may run here
            self.write()
        finally:
            os._exit(1 if self.trouble else 0)

    def _reap(self) -> None:
        try:
            done, status = os.waitpid(self._fork, os.WNOHANG)
        except ChildProcessError:
            done, status = self._fork, 0
        if done:
            self._fork = 0
            self.wrote = True
            self.trouble = f"detectors: {self.path} was not written" if status else ""


class Keeper:
    """The file of one worker's meter."""

    def __init__(self, data_dir: Path, number: int, meter: LeakMeter) -> None:
        self._meter = meter
        self._decisions = Decisions(data_dir)
        self._saver = Saver(state_path(data_dir, number), meter.dump, now=time.time())
        self._started = 0.0
        self._read = 0  # when what was read had been written, nanoseconds

    def resume(self) -> None:
        """Take up what is on disk, and what was decided."""
        self._started = time.time()
        self._take_up()
        self._decisions.apply_all(self._meter)

    def tick(self, now: float) -> None:
        """Do what is due; once a second."""
        self._decisions.apply_new(self._meter)
        self._saver.tick(now)
        if self._saver.wrote:
            self._saver.wrote = False
            self._read = _written_at(self._saver.path)
        if now - self._started < TAKE_OVER and _written_at(self._saver.path) != self._read:
            self._take_up()

    def write(self) -> None:
        """Put the state on disk."""
        self._saver.write()

    def _take_up(self) -> None:
        self._read = _written_at(self._saver.path)
        state = read(self._saver.path)
        if state is not None:
            self._meter.load(state)


def state_path(data_dir: Path, number: int) -> Path:
    """Return where the state of a worker's leak meter lies."""
    return data_dir / FOLDER / f"{LEAK}{number}"


def save(path: Path, state: dict[str, Any]) -> None:
    """Put a detector's state in place, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_bytes(msgspec.msgpack.encode(state))
    draft.replace(path)


def read(path: Path) -> dict[str, Any] | None:
    """Return a detector's state, None when there is none that can be read; the service log says why."""
    try:
        return held(path)
    except Unavailable as error:
        _log.error("state of detectors left out", reason=str(error))
        return None


def held(path: Path) -> dict[str, Any] | None:
    """Return a detector's state, None when there is none. Raises Unavailable when it cannot be read."""
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, Any])
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        raise Unavailable(f"{path}: {error}") from error


def _written_at(path: Path) -> int:
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return 0
