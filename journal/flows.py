"""What agents saw of clients and addresses, on disk: flows once a minute, attempts, ways past us. One thread writes.

1. Rows are segments like those of the query log, in a folder of their own, merged and expired the same way: after
   `journal.keep_days`, or when they take more than SHARE of `journal.max_megabytes`, which they have beside the log.
2. Rows that cannot be written wait, up to MAX_PENDING; past it the oldest are lost and counted. `trouble` says why.
3. `settled` counts the batches that are on disk or lost, in the order they came: those need not be sent again.
"""

from __future__ import annotations

from collections import deque
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from core.errors import Unavailable
from journal import parquet
from journal.columns import address_text
from journal.merging import Merging
from journal.segments import Segment
from journal.shelf import Shelf

if TYPE_CHECKING:
    from collections.abc import Sequence

    import duckdb

    from core.config import Config
    from journal.columns import Block

FLOWS: Final = Path("journal", "flows")  # below the data folder
SHARE: Final = 0.25
SEGMENT_ROWS: Final = 50_000
PROMPT: Final = 1.0  # seconds until rows are visible
MAX_PENDING: Final = 500_000  # rows; about 150 MB
RETRY: Final = 5.0  # seconds
HOUSEKEEPING: Final = 10.0  # seconds
NUMBERS: Final[dict[str, type[np.generic]]] = {
    "kind": np.uint8,
    "literal": np.bool_,
    "protocol": np.uint8,
    "port": np.uint16,
    "packets": np.uint32,
    "connections": np.uint32,
    "sent": np.uint64,
    "received": np.uint64,
}
TEXTS: Final = ("agent", "client", "address", "name", "mac")
COLUMNS: Final = ("at", *NUMBERS, *TEXTS)


class Kind(IntEnum):
    """What a row is about."""

    FLOW = 0  # octets between a client and an address
    BLOCK = 1  # an attempt at a blocked address
    PIN = 2  # an attempt at an address the client was never answered, where that is not allowed
    BYPASS = 3  # connections to a resolver that is not ours
    TALKING = 4  # open connections to an address, and their octets so far, when its block was ordered


class Row(msgspec.Struct, frozen=True, gc=False):
    """A line of what was seen. Addresses are packed; octets are those since the last row about the same two."""

    at: float
    kind: Kind
    agent: str
    client: bytes
    address: bytes
    name: str = ""  # the one by which the client knew the address, or for which it is blocked
    literal: bool = False  # the client, which asks us, was never answered with the address
    protocol: int = 0
    port: int = 0
    mac: bytes = b""
    packets: int = 0
    connections: int = 0
    sent: int = 0
    received: int = 0


class FlowBook:
    """Keeps rows below the data folder. No method raises on a bad disk."""

    def __init__(self, config: Config, *, now: float) -> None:
        self.trouble = ""
        self.settled = 0
        self._config = config.journal
        self._root = config.data_dir / FLOWS
        self._shelf = Shelf(self._root)
        self._merging = Merging(self._root)
        self._duckdb: duckdb.DuckDBPyConnection | None = None
        self._batches: deque[Sequence[Row]] = deque()
        self._pending = 0
        self._since = now
        self._retry_at = self._housekeeping_at = 0.0
        self._counts = {"written": 0, "lost": 0, "expired": 0, "segments": 0, "merges": 0}
        try:
            self._shelf.recover()
        except OSError as error:
            self.trouble = f"flows: {error}"

    def write(self, rows: Sequence[Row], now: float) -> None:
        """Take in a batch: it is pending, or on disk."""
        self._since = self._since if self._pending else now
        self._batches.append(rows)
        self._pending += len(rows)
        while self._pending > MAX_PENDING and len(self._batches) > 1:
            self._counts["lost"] += self._drop(1)
        self._flush(now, due=self._pending >= SEGMENT_ROWS)

    def tick(self, now: float) -> None:
        """Do what is due; call it once a second or more."""
        self._flush(now, due=not 0 <= now - self._since < PROMPT)
        self._merge(now, wait=False)
        if not 0 <= now - self._housekeeping_at < HOUSEKEEPING:
            self._housekeeping_at = now
            self._expire(now)

    def close(self, now: float) -> None:
        """Write what is pending and let go of everything."""
        self._retry_at = 0.0
        self._flush(now, due=True)
        self._merge(now, wait=True)
        self._merging.close()
        if self._duckdb is not None:
            self._duckdb.close()
            self._duckdb = None

    def counters(self) -> dict[str, int]:
        """Return rows written, lost, pending and expired; segments, merges, bytes."""
        return {**self._counts, "pending": self._pending, "bytes": self._shelf.bytes}

    def _flush(self, now: float, *, due: bool) -> None:
        while due and self._batches and not 0.0 < self._retry_at - now <= RETRY:
            some = self._some()
            rows = [row for batch in some for row in batch]
            if rows and not self._put(rows, now):
                return
            self._drop(len(some))

    def _some(self) -> list[Sequence[Row]]:
        """Return batches of at most SEGMENT_ROWS rows together, one at least."""
        found: list[Sequence[Row]] = []
        rows = 0
        for batch in self._batches:
            if found and rows + len(batch) > SEGMENT_ROWS:
                break
            found.append(batch)
            rows += len(batch)
        return found

    def _drop(self, batches: int) -> int:
        """Forget the oldest batches and return their rows; they need not be sent again."""
        rows = sum(len(self._batches.popleft()) for _ in range(batches))
        self._pending -= rows
        self.settled += batches
        return rows

    def _put(self, rows: Sequence[Row], now: float) -> bool:
        """Write the rows, all or none; true when they are on disk."""
        done: list[Segment] = []
        try:
            if self._duckdb is None:
                self._duckdb = parquet.connect(self._root.parent / "spill-flows")
            for hour, some in parquet.by_hour(columns(rows)).items():
                sequence = max(int(now * 1e6), self._shelf.newest + 1) + len(done)
                segment = Segment(hour, sequence, sequence, 0, len(some["kind"]))  # type: ignore[arg-type]
                done.append(parquet.write(self._duckdb, self._root, segment, some, COLUMNS))
        except Unavailable as error:
            for segment in done:
                segment.path(self._root).unlink(missing_ok=True)
            self._failed(error, now)
            return False
        for segment in done:
            self._shelf.add(segment)
        self.trouble, self._retry_at = "", 0.0
        self._counts["written"] += len(rows)
        self._counts["segments"] += len(done)
        return True

    def _failed(self, error: Exception, now: float) -> None:
        self.trouble = f"flows: {str(error).removeprefix('query log: ')}"
        self._retry_at = now + RETRY

    def _merge(self, now: float, *, wait: bool) -> None:
        try:
            done = self._merging.result(now, wait=wait)
            if done is not None:
                for damaged in done.damaged:
                    self._shelf.set_aside(damaged)
                    self._counts["lost"] += damaged.rows
                if done.merged is not None:
                    self._shelf.replace(done.inputs, done.merged, now)
                    self._counts["merges"] += 1
            if not wait and self._merging.idle(now) and (chosen := self._shelf.to_merge(now)):
                self._merging.start(chosen)
        except OSError as error:
            self._failed(error, now)

    def _expire(self, now: float) -> None:
        keep = self._config
        try:
            self._shelf.sweep(now)
            if not self._merging.busy:
                most = int(keep.max_megabytes * SHARE)
                self._counts["expired"] += self._shelf.expire(now, keep_days=keep.keep_days, max_megabytes=most)
        except OSError as error:
            self._failed(error, now)


def columns(rows: Sequence[Row]) -> Block:
    """Return the rows as columns, in their order."""
    found: Block = {"at": np.rint(np.array([row.at for row in rows], np.float64) * 1e6).astype(np.int64).view("M8[us]")}
    for name, kind in NUMBERS.items():
        found[name] = _numbers([getattr(row, name) for row in rows], kind)
    texts: dict[str, list[str]] = {
        "agent": [row.agent.encode("utf-8", "replace").decode() for row in rows],
        "client": [address_text(row.client) for row in rows],
        "address": [address_text(row.address) for row in rows],
        "name": [row.name for row in rows],
        "mac": [row.mac.hex(":") for row in rows],
    }
    found.update({name: np.array(some, np.object_) for name, some in texts.items()})
    return found


def _numbers(values: Sequence[int], kind: type[np.generic]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    if kind is np.bool_:
        return np.array(values, np.bool_)
    top = int(np.iinfo(kind).max)  # type: ignore[type-var]
    return np.array([min(max(value, 0), top) for value in values], kind)
