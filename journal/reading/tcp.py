"""DNS messages out of TCP streams (RFC 1035 section 4.2.2), put together in bounded memory.

Rules:
1. A stream begins with its SYN, or where the capture finds it; then the first octets are taken for a length.
2. Segments that come early wait, at most MAX_HELD octets a stream; past that the gap is given up and counted.
3. Past MAX_STREAMS or MAX_OCTETS the stream that has been quiet for longest goes, and is counted.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from journal.reading.frames import Segment
    from journal.reading.source import Tally

MAX_STREAMS: Final = 8_192
MAX_OCTETS: Final = 16_777_216  # over all streams
MAX_HELD: Final = 131_072  # octets of one stream that came early
MAX_EARLY: Final = 256  # segments of one stream that came early
HEADER: Final = 12  # octets: no DNS message is shorter
GAPS: Final = "gaps in TCP streams"
OUT_OF_STEP: Final = "TCP streams that are no DNS"
EVICTED: Final = "TCP streams given up for want of room"

_FIN, _SYN, _RST = 1, 2, 4
_HALF: Final = 1 << 31
_ALL: Final = (1 << 32) - 1

Key = tuple[bytes, int, bytes, int]


class _Stream:
    """One direction of a connection."""

    __slots__ = ("broken", "buffer", "early", "held", "next")

    def __init__(self, start: int) -> None:
        self.next = start & _ALL
        self.buffer = bytearray()
        self.early: dict[int, bytes] = {}
        self.held = 0
        self.broken = False

    @property
    def octets(self) -> int:
        return len(self.buffer) + self.held


class Streams:
    """All streams of a capture."""

    def __init__(self, tally: Tally) -> None:
        self._streams: OrderedDict[Key, _Stream] = OrderedDict()  # a dict would walk over all it took out before
        self._octets = 0
        self._tally = tally

    def feed(self, given: Segment) -> list[bytes]:
        """Take in a segment; returns the messages that are whole by now."""
        key = (given.source, given.sport, given.target, given.dport)
        if given.flags & _RST:
            self._drop(key)
            self._drop((given.target, given.dport, given.source, given.sport))
            return []
        stream = self._streams.pop(key, None)
        if given.flags & _SYN or stream is None:
            self._octets -= stream.octets if stream else 0
            stream = _Stream(given.sequence + (1 if given.flags & _SYN else 0))
        self._streams[key] = stream
        found: list[bytes] = []
        if given.payload and not stream.broken:
            before = stream.octets
            self._add(stream, (given.sequence + (1 if given.flags & _SYN else 0)) & _ALL, given.payload)
            found = self._messages(stream)
            self._octets += stream.octets - before
        if given.flags & _FIN and not stream.early:
            self._drop(key)
        self._make_room()
        return found

    def _add(self, stream: _Stream, sequence: int, payload: bytes) -> None:
        ahead = (sequence - stream.next) & _ALL
        if 0 < ahead < _HALF:
            if stream.held + len(payload) <= MAX_HELD and len(stream.early) < MAX_EARLY:
                stream.held += len(payload) - len(stream.early.get(sequence, b""))
                stream.early[sequence] = payload
                return
            self._tally[GAPS] += 1
            stream.buffer.clear()
            stream.early.clear()
            stream.held = 0
            stream.next = sequence
        _append(stream, sequence, payload)
        while (at := _due(stream)) is not None:
            waiting = stream.early.pop(at)
            stream.held -= len(waiting)
            _append(stream, at, waiting)

    def _messages(self, stream: _Stream) -> list[bytes]:
        found = []
        buffer = stream.buffer
        at = 0
        while len(buffer) - at >= 2:
            size = buffer[at] << 8 | buffer[at + 1]
            if size < HEADER:
                self._tally[OUT_OF_STEP] += 1
                stream.broken = True
                stream.early.clear()
                stream.held = 0
                at = len(buffer)
                break
            if len(buffer) - at < size + 2:
                break
            found.append(bytes(buffer[at + 2 : at + 2 + size]))
            at += size + 2
        del buffer[:at]
        return found

    def _drop(self, key: Key) -> None:
        stream = self._streams.pop(key, None)
        self._octets -= stream.octets if stream else 0

    def _make_room(self) -> None:
        while len(self._streams) > MAX_STREAMS or self._octets > MAX_OCTETS:
            _, oldest = self._streams.popitem(last=False)
            self._octets -= oldest.octets
            self._tally[EVICTED] += 1


def _append(stream: _Stream, sequence: int, payload: bytes) -> None:
    """Add what is new of a segment that begins at or before what is due."""
    known = (stream.next - sequence) & _ALL
    if known < len(payload):
        stream.buffer += payload[known:]
        stream.next = (sequence + len(payload)) & _ALL


def _due(stream: _Stream) -> int | None:
    """Return the sequence number of a waiting segment that begins at or before what is due."""
    return next((at for at in stream.early if (stream.next - at) & _ALL < _HALF), None)
