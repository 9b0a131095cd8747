"""The journal as the hub drives it: events in, segments and sightings out, and nothing raised on the way.

1. Events become columns a chunk at a time; columns become a segment after `segment_seconds` or SEGMENT_ROWS, and
   after PROMPT seconds when they are few or a reader asked for them.
2. A segment that cannot be written stays pending and is tried again after RETRY seconds; past MAX_PENDING the oldest
   rows are lost, counted, with the reason in `trouble`.
3. Merging runs in one thread, one job at a time, on its own DuckDB; the hub only collects the result.
"""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from journal import parquet
from journal.cap import RowCap
from journal.columns import Texts, block, height, join
from journal.merging import Merging
from journal.segments import QUERIES, REQUEST, Segment
from journal.shelf import Shelf
from journal.sightings import FILE, Sightings

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import duckdb

    from core.config import Config
    from core.event import Event
    from journal.columns import Block

CHUNK: Final = 1_024  # events turned into columns at once: fits the processor's cache
SEGMENT_ROWS: Final = 50_000  # rows a segment holds at most: 30 ms to write, 10 MB before
FEW: Final = 1_000  # rows that are not worth waiting for
PROMPT: Final = 1.0  # seconds until few rows, or rows a reader waits for, are visible
MAX_PENDING: Final = 200_000  # rows kept while the disk refuses them; about 40 MB
RETRY: Final = 5.0  # seconds
TICK: Final = 0.05  # seconds between looks at anything
HOUSEKEEPING: Final = 10.0  # seconds between looks at retention
SIGHTINGS_EVERY: Final = 1.0  # seconds

_log: Final = logging.getLogger("plughole.journal")


class Journal:
    """Keeps the query log and the sightings below the data folder. No method raises on a bad disk."""

    def __init__(self, config: Config, *, now: float) -> None:
        self.trouble = ""  # why rows cannot be written at present
        self._config = config.journal
        self._root: Path = config.data_dir / QUERIES
        self._shelf = Shelf(self._root)
        self._sightings = Sightings(config.data_dir / FILE)
        self._cap = RowCap(config.journal.max_rows_per_second, now=now)
        self._texts = Texts()
        self._events: list[Event] = []
        self._blocks: deque[tuple[int, Block]] = deque()
        self._pending = 0  # rows in `_events` and `_blocks`
        self._since = now  # when the oldest pending row came
        self._retry_at = 0.0
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._merging = Merging(self._root)
        self._counts = {"written": 0, "lost": 0, "expired": 0, "segments": 0, "merges": 0}
        self._ticked_at = now - TICK
        self._housekeeping_at = now
        self._sightings_at = now
        self._recover()
        with contextlib.suppress(OSError):  # readers leave their requests there; a bad disk is met when writing
            self._root.mkdir(parents=True, exist_ok=True)

    def write(self, events: Sequence[Event], now: float) -> None:
        """Take in events: all of them are pending, counted as over the cap, or not wanted (`queries`) afterwards."""
        self._sightings.add(events, now)
        if self._config.queries == "none":
            return
        if self._config.queries == "blocked":
            events = [event for event in events if event.action]
        events = self._cap.admit(events, now)
        if not events:
            return
        if not self._pending:
            self._since = now
        self._pending += len(events)
        self._events.extend(events)
        while len(self._events) >= CHUNK:
            self._to_columns(CHUNK)
        self._bound()
        if self._pending >= SEGMENT_ROWS and now >= self._retry_at:
            self._write_segments(now)

    def tick(self, now: float) -> None:
        """Do what is due; call it a few times a second, or with every batch. A merge's result is taken in here."""
        if 0 <= now - self._ticked_at < TICK:
            return
        self._ticked_at = now
        self._serve(now)
        if now - self._sightings_at >= SIGHTINGS_EVERY or now < self._sightings_at:
            self._sightings_at = now
            self._sightings.flush(now)
        self._merge(now)
        if now - self._housekeeping_at >= HOUSEKEEPING or now < self._housekeeping_at:
            self._housekeeping_at = now
            self._expire(now)

    def flush(self, now: float) -> None:
        """Write all that is pending, so that readers see it."""
        self._write_segments(now)
        self._sightings.flush(now)

    def close(self, now: float) -> None:
        """Write what is pending, wait for a running merge and let go of everything; what cannot be written is lost."""
        self.flush(now)
        self._lose(self._pending)
        self._events.clear()
        self._blocks.clear()
        self._take_in(now, wait=True)
        self._merging.close()
        self._sightings.close(now)
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None

    def counters(self) -> dict[str, int]:
        """Return rows written, lost, pending, over the cap, expired; queries not itemised; segments, merges, bytes."""
        return {
            **self._counts,
            "pending": self._pending,
            "over_the_cap": self._cap.over,
            "not_itemised": self._sightings.not_itemised,
            "sightings_written": self._sightings.written,
            "sightings_waiting": self._sightings.waiting,
            "bytes": self._shelf.bytes,
        }

    def troubles(self) -> list[str]:
        """Return what is wrong at present, one line each; empty when all is well."""
        return [text for text in (self.trouble, self._sightings.failure) if text]

    def _serve(self, now: float) -> None:
        """Write a segment when one is due, and answer a reader's request when nothing is pending any more."""
        request = self._root / REQUEST
        asked = request.exists()
        waits = 0.0 < self._retry_at - now <= RETRY  # not when the clock was set back since
        if self._pending and not waits and self._due(now, asked=asked):
            self._write_segments(now)
        if asked and not self._pending:
            _discard(request)

    def _due(self, now: float, *, asked: bool) -> bool:
        age = now - self._since
        prompt = asked or self._pending < FEW
        return age < 0 or age >= (min(PROMPT, self._config.segment_seconds) if prompt else self._config.segment_seconds)

    def _to_columns(self, count: int) -> None:
        some = self._events[:count]
        del self._events[:count]
        try:
            self._blocks.append((count, block(some, self._texts)))
        except (ValueError, OverflowError, TypeError) as error:  # an event no worker of ours can have sent
            self._lose(count)
            self.trouble = f"query log: {count} rows that are no events: {error}"
            _log.warning("%s", self.trouble)

    def _write_segments(self, now: float) -> None:
        """Write the pending rows, SEGMENT_ROWS at a time; what fails stays."""
        if self._events:
            self._to_columns(len(self._events))
        while self._blocks:
            some, rows = self._next_blocks()
            if not self._write_one(join([one for _, one in some]), rows, now):
                break
            for _ in some:
                self._blocks.popleft()
        self._since = now
        self._bound()

    def _next_blocks(self) -> tuple[list[tuple[int, Block]], int]:
        some: list[tuple[int, Block]] = []
        rows = 0
        for count, one in self._blocks:
            if some and rows + count > SEGMENT_ROWS + CHUNK:
                break
            some.append((count, one))
            rows += count
        return some, rows

    def _write_one(self, rows: Block, count: int, now: float) -> bool:
        """Write one segment an hour in it, all or none; true when they are on disk."""
        done: list[Segment] = []
        try:
            if self._duckdb is None:
                self._duckdb = parquet.connect(self._root.parent / "spill")
            for hour, some in parquet.by_hour(rows).items():
                sequence = max(int(now * 1e6), self._shelf.newest + 1) + len(done)
                segment = Segment(hour, sequence, sequence, 0, height(some))
                done.append(parquet.write(self._duckdb, self._root, segment, some))
        except Unavailable as error:
            for segment in done:
                _discard(segment.path(self._root))
            self._failed(str(error), now)
            return False
        for segment in done:
            self._shelf.add(segment)
        self.trouble, self._retry_at = "", 0.0
        self._pending -= count
        self._counts["written"] += count
        self._counts["segments"] += len(done)
        return True

    def _failed(self, reason: str, now: float) -> None:
        if reason != self.trouble:
            _log.warning("%s; %d rows wait", reason, self._pending)
        self.trouble = reason
        self._retry_at = now + RETRY

    def _bound(self) -> None:
        while self._pending > MAX_PENDING:
            count, _ = self._blocks.popleft()
            self._lose(count)

    def _lose(self, count: int) -> None:
        self._counts["lost"] += count
        self._pending -= count

    def _recover(self) -> None:
        try:
            self._shelf.recover()
        except OSError as error:
            self.trouble = f"query log: {error}"
            _log.warning("%s", self.trouble)

    def _merge(self, now: float) -> None:
        self._take_in(now, wait=False)
        if self._merging.idle(now) and (chosen := self._shelf.to_merge(now)):
            self._merging.start(chosen)

    def _take_in(self, now: float, *, wait: bool) -> None:
        try:
            done = self._merging.result(now, wait=wait)
            if done is None:
                return
            for damaged in done.damaged:
                self._shelf.set_aside(damaged)
                self._lose_written(damaged.rows)
            if done.merged is not None:
                self._shelf.replace(done.inputs, done.merged, now)
                self._counts["merges"] += 1
        except OSError as error:
            self._failed(f"query log: {error}", self._retry_at - RETRY)

    def _lose_written(self, rows: int) -> None:
        self._counts["lost"] += rows
        self._counts["written"] -= rows

    def _expire(self, now: float) -> None:
        keep = self._config
        try:
            self._shelf.sweep(now)
            if not self._merging.busy:
                self._counts["expired"] += self._shelf.expire(
                    now, keep_days=keep.keep_days, max_megabytes=keep.max_megabytes
                )
        except OSError as error:
            self._failed(f"query log: {error}", now)
        self._sightings.expire(now, keep_days=keep.keep_blocked_days)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a request that stays is answered again; a segment that stays is rows a reader sees twice, at worst
