"""The queries folder as the writer sees it: what is there, what to merge next, what is too old or too much.

Nothing outside the queries folder, and nothing in it that is not named like a segment, is ever removed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from journal.segments import CORRUPT, HOUR, Segment, hours, in_hour, leftovers, live

if TYPE_CHECKING:
    from pathlib import Path

GRACE: Final = 60.0  # seconds a superseded file stays, for readers that listed the folder before
SETTLED: Final = 120.0  # seconds after its end an hour waits for late rows before its last merge
FAN_IN: Final = 24  # files of one level that are merged together; keeps an hour below 100 files
EXPIRE_AT_ONCE: Final = 500  # files
MERGED_ROWS: Final = 1_000_000  # rows a merge may write: about two seconds and 200 MB
FULL_ROWS: Final = 500_000  # a file of this many rows is merged no more

_DAY: Final = 86_400  # seconds
_MEGABYTE: Final = 1_000_000  # bytes


class Shelf:
    """Knows every segment on disk by hour; `bytes` is what they take, superseded ones included."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.bytes = 0
        self.newest = 0  # greatest sequence number on disk
        self._hours: dict[int, list[Segment]] = {}
        self._superseded: list[tuple[float, Segment]] = []

    def recover(self) -> None:
        """Take stock after a start: half-written and superseded files are gone, the rest is known."""
        for path in leftovers(self.root):
            path.unlink(missing_ok=True)
        for hour in hours(self.root):
            found = in_hour(self.root, hour)
            kept = live(found)
            for segment in set(found) - set(kept):
                segment.path(self.root).unlink(missing_ok=True)
            for segment in kept:
                self.add(segment)

    def add(self, segment: Segment) -> None:
        """Take in a file that was just written."""
        self._hours.setdefault(segment.hour, []).append(segment)
        self.bytes += segment.size
        self.newest = max(self.newest, segment.last)

    def replace(self, inputs: list[Segment], merged: Segment, now: float) -> None:
        """Put `merged` in the place of its inputs; their files go after GRACE seconds."""
        kept = self._hours[merged.hour]
        at = kept.index(inputs[0])
        kept[at : at + len(inputs)] = [merged]
        self.bytes += merged.size
        self._superseded += [(now + GRACE, segment) for segment in inputs]

    def set_aside(self, segment: Segment) -> None:
        """Rename a damaged file, so that no one reads it, and forget it. Raises OSError."""
        path = segment.path(self.root)
        path.rename(path.with_name(path.name + CORRUPT))
        self._forget(segment)

    def sweep(self, now: float) -> None:
        """Delete the superseded files whose grace is over. Raises OSError."""
        while self._superseded and self._superseded[0][0] <= now:
            segment = self._superseded[0][1]
            path = segment.path(self.root)
            path.unlink(missing_ok=True)
            self.bytes -= segment.size
            del self._superseded[0]
            if segment.hour not in self._hours:
                self._remove_empty(path.parent)

    def to_merge(self, now: float) -> list[Segment]:
        """Return the neighbours to merge next, of the oldest hour that needs it; empty when there is nothing to do."""
        for hour in sorted(self._hours):
            closed = now >= (hour + 1) * HOUR + SETTLED
            if len(self._hours[hour]) > 1 and (chosen := choose(self._hours[hour], closed=closed)):
                return chosen
        return []

    def expire(self, now: float, *, keep_days: int, max_megabytes: int) -> int:
        """Delete hours older than `keep_days`, then oldest files until the rest fits, EXPIRE_AT_ONCE a call.

        Returns the rows deleted. Raises OSError.
        """
        rows = 0
        oldest_kept = int(now - keep_days * _DAY) // HOUR
        going = sum(segment.size for _, segment in self._superseded)
        for _ in range(EXPIRE_AT_ONCE):
            hour = min(self._hours, default=oldest_kept)
            fits = self.bytes - going <= max_megabytes * _MEGABYTE
            if not self._hours or (hour >= oldest_kept and fits):
                break
            rows += self._delete(self._hours[hour][0])
        return rows

    def _delete(self, segment: Segment) -> int:
        path = segment.path(self.root)
        path.unlink(missing_ok=True)
        self._forget(segment)
        if segment.hour not in self._hours:
            self._remove_empty(path.parent)
        return segment.rows

    def _forget(self, segment: Segment) -> None:
        kept = self._hours[segment.hour]
        kept.remove(segment)
        self.bytes -= segment.size
        if not kept:
            del self._hours[segment.hour]

    def _remove_empty(self, folder: Path) -> None:
        for damaged in folder.glob(f"*-*-*-*.parquet{CORRUPT}"):
            damaged.unlink(missing_ok=True)
        for one in (folder, folder.parent):
            try:
                one.rmdir()
            except OSError:
                return  # something that is not ours lives there, or a superseded file: the folder stays


def choose(segments: list[Segment], *, closed: bool) -> list[Segment]:
    """Return the oldest neighbours worth one merge of at most MERGED_ROWS rows.

    In an hour that is over (`closed`) all that fit together; before, FAN_IN files of one level, or enough small files
    to fill a large one.
    """
    for run in _runs(segments):
        batch = _batch(run)
        if len(batch) > 1 and (closed or len(batch) < len(run)):
            return batch
        if not closed and (level := _level(run)):
            return level
    return []


def _runs(segments: list[Segment]) -> list[list[Segment]]:
    """Return the stretches of neighbours between full files."""
    runs: list[list[Segment]] = [[]]
    for segment in segments:
        if segment.rows >= FULL_ROWS:
            runs.append([])
        else:
            runs[-1].append(segment)
    return runs


def _batch(run: list[Segment]) -> list[Segment]:
    """Return as many files from the start as fit into one."""
    rows = 0
    for count, segment in enumerate(run):
        rows += segment.rows
        if rows > MERGED_ROWS:
            return run[:count]
    return run


def _level(run: list[Segment]) -> list[Segment]:
    """Return the first FAN_IN neighbours of one level, or nothing."""
    start = 0
    for at, segment in enumerate(run):
        if segment.level != run[start].level:
            start = at
        elif at - start + 1 == FAN_IN:
            return run[start : at + 1]
    return []
