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
    from pathlib import Path

    from detectors.leak import LeakMeter

EVERY: Final = 600.0  # seconds between two writes
TAKE_OVER: Final = 20.0  # seconds after the start in which the predecessor's last state is taken up
FOLDER: Final = "detectors"  # below the data folder
LEAK: Final = "leak."  # before a worker's number
_log = structlog.get_logger("worker")


class Keeper:
    """The file of one worker's meter."""

    def __init__(self, data_dir: Path, number: int) -> None:
        self._path = state_path(data_dir, number)
        self._decisions = Decisions(data_dir)
        self._started = 0.0
        self._due = 0.0
        self._read = 0  # when what was read had been written, nanoseconds
        self._writer = 0  # process number of a fork that writes

    def resume(self, meter: LeakMeter) -> None:
        """Take up what is on disk, and what was decided."""
        self._started = time.time()
        self._due = self._started + EVERY
        self._take_up(meter)
        self._decisions.apply_all(meter)

    def tick(self, meter: LeakMeter, now: float) -> None:
        """Do what is due; once a second."""
        if self._writer:
            self._reap()
        self._decisions.apply_new(meter)
        if now - self._started < TAKE_OVER and _written_at(self._path) != self._read:
            self._take_up(meter)
        if now >= self._due or now < self._due - EVERY:
            self._due = now + EVERY
            self._fork(meter)

    def write(self, meter: LeakMeter) -> None:
        """Put the state on disk; a disk that refuses costs the state alone."""
        try:
            save(self._path, meter.dump())
        except (OSError, *UNREADABLE) as error:
            _log.error("the leak accounts cannot be written", path=str(self._path), reason=str(error))

    def _take_up(self, meter: LeakMeter) -> None:
        self._read = _written_at(self._path)
        state = read(self._path)
        if state is not None:
            meter.load(state)

    def _fork(self, meter: LeakMeter) -> None:
        if self._writer:
            return
        try:
            pid = os.fork()
        except OSError as error:
            _log.error("the leak accounts cannot be written", path=str(self._path), reason=str(error))
            return
        if pid:
            self._writer = pid
            return
        try:  # in the fork: nothing of the worker may run here
            self.write(meter)
        finally:
            os._exit(0)

    def _reap(self) -> None:
        try:
            done, _ = os.waitpid(self._writer, os.WNOHANG)
        except ChildProcessError:
            done = self._writer
        if done:
            self._writer = 0
            self._read = _written_at(self._path)


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
