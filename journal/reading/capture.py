"""Captures read as sights: packets of pcap or pcapng, DNS over UDP and TCP in them, queries with their replies.

The file is read twice: first only the times of its packets, to learn how far they are out of order.
"""

from __future__ import annotations

from collections import Counter
from struct import error as struct_error
from typing import TYPE_CHECKING, Final

from core.errors import Malformed
from journal.reading import pcap, pcapng
from journal.reading.exchanges import Exchanges
from journal.reading.frames import Segment, segment
from journal.reading.messages import read
from journal.reading.order import Lateness, in_order, in_time
from journal.reading.pcap import Packet
from journal.reading.source import LATEST, BadFile
from journal.reading.streams import Octets
from journal.reading.tcp import Streams

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from detectors.sight import Sight
    from journal.reading.source import Tally

DNS_PORTS: Final = frozenset((53,))
CUT_SHORT: Final = "packets cut short"
MALFORMED: Final = "messages that are no DNS"
TIMELESS: Final = "packets with an impossible time"
OTHER: Final = "messages that are no query"
MAX_WINDOW: Final = 30.0  # seconds packets may be out of order and still stream
WAITING: Final = 16_384  # packets held to bring them into order; 25 MB of full ones


class Capture:
    """A capture file as a Reader."""

    def __init__(self, path: Path, kind: str) -> None:
        self.kind = kind
        self.tally: Tally = Counter()
        self.aliases: dict[bytes, str] = {}
        self._path = path
        self._octets: Octets | None = None
        self._lateness = Lateness()

    def first(self) -> float | None:
        """Return when the earliest packet was captured, having gone through all of them."""
        octets = Octets(self._path)
        try:
            for packet in self._packets(octets, Counter()):
                self._lateness.note(packet.at)
        except BadFile:
            return self._lateness.first  # what can be read will be, and then it is said
        finally:
            octets.close()
        return self._lateness.first

    def sights(self) -> Iterator[Sight]:
        """Yield the sights, oldest first; raises BadFile."""
        self._octets = Octets(self._path)
        try:
            yield from self._exchanges(self._ordered(self._packets(self._octets, self.tally)))
        finally:
            self._octets.close()

    def position(self) -> int:
        """Return how many octets of the file on disk have been read."""
        return self._octets.position() if self._octets else 0

    def _packets(self, octets: Octets, tally: Tally) -> Iterator[Packet]:
        for packet in (pcap if self.kind == "pcap" else pcapng).packets(octets, tally):
            if 0.0 <= packet.at <= LATEST:
                yield packet
            else:
                tally[TIMELESS] += 1

    def _ordered(self, packets: Iterator[Packet]) -> Iterator[Packet]:
        late = self._lateness.seconds
        if not late:
            return packets
        return in_time(packets, late, self.tally, waiting=WAITING) if late <= MAX_WINDOW else in_order(packets, Packet)

    def _exchanges(self, packets: Iterator[Packet]) -> Iterator[Sight]:
        streams = Streams(self.tally)
        exchanges = Exchanges(self.tally)
        for at, link, frame in packets:
            try:
                found = segment(link, frame, DNS_PORTS, self.tally)
            except (IndexError, struct_error):
                self.tally[CUT_SHORT] += 1
                continue
            if found is None:
                continue
            for data in streams.feed(found) if found.tcp else (found.payload,):
                self._message(exchanges, at, found, data)
            yield from exchanges.due(at)
        yield from exchanges.rest()

    def _message(self, exchanges: Exchanges, at: float, found: Segment, data: bytes) -> None:
        try:
            told = read(data)
        except Malformed:
            self.tally[MALFORMED] += 1
            return
        if told is None:
            self.tally[OTHER] += 1
        elif told.reply is None:
            if told.qname is not None:
                key = (told.number, found.source, found.sport, found.target, found.dport, found.tcp)
                exchanges.ask(key, at, found.source, told.qname, told.qtype)
        else:
            key = (told.number, found.target, found.dport, found.source, found.sport, found.tcp)
            exchanges.answer(key, at, found.target, (told.qname, told.qtype), told.reply)
