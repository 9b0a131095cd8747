"""Packets of a pcap file (draft-ietf-opsawg-pcap), microseconds or nanoseconds, either byte order."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from journal.reading.source import BadFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from journal.reading.source import Tally
    from journal.reading.streams import Octets

MAX_PACKET: Final = 1_048_576  # octets; four times what captures allow themselves: beyond it the file is damaged
HEADER: Final = 24  # octets of the file's header
RECORD: Final = 16  # octets of a packet's header
_MICRO: Final = 0xA1B2C3D4
_NANO: Final = 0xA1B23C4D
MAGICS: Final[dict[bytes, tuple[str, float]]] = {
    Struct(f"{mark}I").pack(magic): (mark, unit) for magic, unit in ((_MICRO, 1e-6), (_NANO, 1e-9)) for mark in "<>"
}


class Packet(NamedTuple):
    """A captured frame: when, on what kind of link (IANA's LINKTYPE), its octets."""

    at: float
    link: int
    frame: bytes


def packets(source: Octets, tally: Tally) -> Iterator[Packet]:
    """Yield the packets; one that is cut off at the end of the file is counted, nonsense raises BadFile."""
    head = source.read(HEADER)
    if head[:4] not in MAGICS or len(head) < HEADER:
        raise BadFile(source.path, "is cut short within the header of a pcap file")
    mark, unit = MAGICS[head[:4]]
    link = Struct(f"{mark}I").unpack_from(head, 20)[0] & 0x0FFFFFFF  # the upper bits tell of checksums
    record = Struct(f"{mark}4I")
    while len(start := source.read(RECORD)) == RECORD:
        seconds, fraction, size, _ = record.unpack(start)
        if size > MAX_PACKET:
            raise BadFile(source.path, f"is damaged: a packet of {size:,} octets")
        frame = source.read(size)
        if len(frame) < size:
            break
        yield Packet(seconds + fraction * unit, link, frame)
    else:
        if not start:
            return
    tally["packets cut off at the end of the file"] += 1
