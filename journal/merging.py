"""Merges segments in a thread of its own, one job at a time, so that the hub never waits for one."""

from __future__ import annotations

import logging
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, NamedTuple

from core.errors import Unavailable
from journal import parquet

if TYPE_CHECKING:
    from pathlib import Path

    import duckdb

    from journal.segments import Segment

PAUSE: Final = 60.0  # seconds after a merge that failed, most likely for want of disk

_log: Final = logging.getLogger("plughole.journal")


class Merged(NamedTuple):
    """What became of a job: the new segment, or the inputs that turned out to be damaged."""

    inputs: list[Segment]
    merged: Segment | None
    damaged: list[Segment]
    failure: str = ""


class Merging:
    """At most one job at a time; DuckDB and the thread exist only once there was one."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._job: Future[Merged] | None = None
        self._pause_until = 0.0

    @property
    def busy(self) -> bool:
        """True while a job runs or its result was not taken."""
        return self._job is not None

    def idle(self, now: float) -> bool:
        """True when a job may start."""
        return self._job is None and now >= self._pause_until

    def start(self, inputs: list[Segment]) -> None:
        """Begin to merge neighbours."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(1, "journal-merge")
        self._job = self._threads.submit(self._run, inputs)

    def result(self, now: float, *, wait: bool) -> Merged | None:
        """Return what became of the job, once; None when there is nothing to tell.

        With `wait` a running job is awaited.
        """
        if self._job is None or not (wait or self._job.done()):
            return None
        done = self._job.result()
        self._job = None
        if done.failure:
            _log.warning("%s; merging pauses for %.0f s", done.failure, PAUSE)
            self._pause_until = now + PAUSE
        return done

    def close(self) -> None:
        """Let go of the thread and of DuckDB; a running job is awaited."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None

    def _run(self, inputs: list[Segment]) -> Merged:
        try:
            if self._duckdb is None:
                self._duckdb = parquet.connect(self._root.parent / "spill")
            return Merged(inputs, parquet.merge(self._duckdb, self._root, inputs), [])
        except Unavailable as error:
            return self._blame(inputs, str(error))

    def _blame(self, inputs: list[Segment], failure: str) -> Merged:
        if self._duckdb is None:
            return Merged(inputs, None, [], failure)
        damaged = [one for one in inputs if not parquet.readable(self._duckdb, one.path(self._root))]
        for one in damaged:
            _log.warning("query log: %s is damaged; its %d rows are lost", one.path(self._root), one.rows)
        return Merged(inputs, None, damaged, "" if damaged else failure)
