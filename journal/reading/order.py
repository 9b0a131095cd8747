"""What was read brought into the order of time: within one file, on disk when it must be, and over several files.

Rules:
1. Memory is bounded: `waiting` items for a file that is nearly in order, RUN octets for one that is sorted.
2. What comes later than a file was expected to be out of order is passed on where it stands, and counted.
"""

from __future__ import annotations

import os
import tempfile
from heapq import heappop, heappush, heapreplace, merge
from operator import attrgetter
from typing import IO, TYPE_CHECKING, Final, Protocol, TypeVar

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from detectors.sight import Sight
    from journal.reading.source import Tally


class Timed(Protocol):
    """Anything with a time in Unix seconds."""

    @property
    def at(self) -> float:
        """When it happened."""


T = TypeVar("T", bound=Timed)

WAITING: Final = 65_536  # items held to bring neighbours into order; 30 MB of sights
RUN: Final = 33_554_432  # octets, packed, that are sorted in memory at once
BLOCK: Final = 32_768  # octets read of a run at once
LENGTH: Final = 4  # octets of the length in front of an item on disk
LATE: Final = "queries out of the order of time"

_when: Final = attrgetter("at")
_encode: Final = msgspec.msgpack.Encoder().encode


class Lateness:
    """How far times are out of order: the most seconds one came after a later one, and the earliest of them."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.first: float | None = None
        self._newest = float("-inf")

    def note(self, at: float) -> None:
        """Take in the next time of the file."""
        if at >= self._newest:
            self._newest = at
            if self.first is None:
                self.first = at
            return
        self.seconds = max(self.seconds, self._newest - at)
        if self.first is None or at < self.first:
            self.first = at


def in_time(items: Iterable[T], window: float, tally: Tally, *, waiting: int = WAITING) -> Iterator[T]:
    """Yield the items in order of time when none comes more than `window` seconds after a later one."""
    heap: list[tuple[float, int, T]] = []
    newest = told = float("-inf")
    for number, item in enumerate(items):
        at = item.at
        if at < told:
            tally[LATE] += 1
        heappush(heap, (at, number, item))
        newest = max(newest, at)
        while heap and (heap[0][0] <= newest - window or len(heap) > waiting):
            told = max(told, heap[0][0])
            yield heappop(heap)[2]
    while heap:
        yield heappop(heap)[2]


def in_order(items: Iterable[T], kind: type[T]) -> Iterator[T]:
    """Yield the items in order of time, however they come; what is more than RUN is sorted in a temporary file."""
    runs: list[tuple[int, int]] = []
    with tempfile.TemporaryFile(prefix="plughole-") as file:
        for chunk in _chunks(items):
            chunk.sort(key=lambda one: one[0])
            runs.append(_write(file, chunk))
        decode = msgspec.msgpack.Decoder(kind).decode
        yield from merge(*(map(decode, _read(file.fileno(), *span)) for span in runs), key=_when)


def _chunks(items: Iterable[T]) -> Iterator[list[tuple[float, bytes]]]:
    chunk: list[tuple[float, bytes]] = []
    held = 0
    for item in items:
        packed = _encode(item)
        chunk.append((item.at, packed))
        held += len(packed)
        if held >= RUN:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk


def _write(file: IO[bytes], chunk: Sequence[tuple[float, bytes]]) -> tuple[int, int]:
    start = file.tell()
    for _, packed in chunk:
        file.write(len(packed).to_bytes(LENGTH, "big") + packed)
    file.flush()
    return start, file.tell()


def _read(descriptor: int, at: int, end: int) -> Iterator[bytes]:
    left = b""
    while at < end:
        block = os.pread(descriptor, min(BLOCK, end - at), at)
        at += len(block)
        left += block
        start = 0
        while (item := start + LENGTH) <= len(left):
            after = item + int.from_bytes(left[start:item], "big")
            if after > len(left):
                break
            yield left[item:after]
            start = after
        left = left[start:]


def merged(opened: Sequence[tuple[float, Callable[[], Iterator[Sight]]]]) -> Iterator[Sight]:
    """Yield the sights of several files in order of time; a file is opened when its first moment has come.

    Each file is its first moment and what opens it.
    """
    waiting = sorted(range(len(opened)), key=lambda number: opened[number][0], reverse=True)
    heap: list[tuple[float, int, Sight, Iterator[Sight]]] = []
    while waiting or heap:
        while waiting and (not heap or opened[waiting[-1]][0] <= heap[0][0]):
            number = waiting.pop()
            source = opened[number][1]()
            if (sight := next(source, None)) is not None:
                heappush(heap, (sight.at, number, sight, source))
        if not heap:
            continue
        _, number, sight, source = heap[0]
        yield sight
        following = next(source, None)
        if following is None:
            heappop(heap)
        else:
            heapreplace(heap, (following.at, number, following, source))
