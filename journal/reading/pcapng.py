"""Packets of a pcapng file (draft-ietf-opsawg-pcapng): sections of either byte order, any number of interfaces."""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import TYPE_CHECKING, Final

from journal.reading.pcap import MAX_PACKET, Packet
from journal.reading.source import BadFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from journal.reading.source import Tally
    from journal.reading.streams import Octets

SECTION: Final = b"\x0a\x0d\x0d\x0a"  # block type, the same in both byte orders
MAX_INTERFACES: Final = 4_096  # of one section
_MAX_HELD: Final = MAX_PACKET + 65_536  # octets of a block that is kept: a packet and its options
_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED = 1, 2, 3, 6
_KEPT: Final = frozenset((_INTERFACE, _OLD_PACKET, _SIMPLE, _ENHANCED))
_RESOLUTION, _OFFSET = 9, 14  # options of an interface
_BYTE_ORDER: Final = 0x1A2B3C4D


class _Section:
    """The byte order and the interfaces in force."""

    def __init__(self, mark: str) -> None:
        self.block = Struct(f"{mark}II")
        self.word = Struct(f"{mark}I")
        self.interface = Struct(f"{mark}HHI")
        self.option = Struct(f"{mark}HH")
        self.offset = Struct(f"{mark}q")
        self.enhanced = Struct(f"{mark}5I")
        self.old = Struct(f"{mark}HHIIII")
        self.interfaces: list[tuple[int, float, int]] = []  # link, seconds a unit, seconds to add
        self.last = 0.0

    def describe(self, body: bytes) -> None:
        """Take in the description of an interface."""
        link = self.interface.unpack_from(body)[0]
        unit, offset, at = 1e-6, 0, self.interface.size
        while at + 4 <= len(body):
            code, size = self.option.unpack_from(body, at)
            at += 4
            if code == _RESOLUTION and size and at < len(body):
                power = body[at] & 0x7F
                unit = 2.0**-power if body[at] & 0x80 else 10.0**-power
            elif code == _OFFSET and size == 8:
                offset = self.offset.unpack_from(body, at)[0]
            elif code == 0:
                break
            at += size + (-size & 3)
        self.interfaces.append((link, unit, offset))

    def packet(self, kind: int, body: bytes) -> Packet:
        """Return the packet of a block; raises IndexError or struct.error when it does not hold together."""
        if kind == _SIMPLE:
            size = self.word.unpack_from(body)[0]
            return Packet(self.last, self.interfaces[0][0], body[4 : 4 + size])
        if kind == _ENHANCED:
            number, high, low, size, _ = self.enhanced.unpack_from(body)
        else:
            number, _, high, low, size, _ = self.old.unpack_from(body)
        link, unit, offset = self.interfaces[number]
        self.last = (high << 32 | low) * unit + offset
        return Packet(self.last, link, body[20 : 20 + size])


def packets(source: Octets, tally: Tally) -> Iterator[Packet]:
    """Yield the packets; a damaged block is counted, damage that hides where the next one begins raises BadFile."""
    section: _Section | None = None
    while len(start := source.read(8)) == 8:
        if start[:4] == SECTION:
            section = _begin(source, start, tally)
            continue
        if section is None:
            raise BadFile(source.path, "does not begin with a section of pcapng")
        kind, length = section.block.unpack(start)
        if length < 12 or length % 4:
            raise BadFile(source.path, f"is damaged: a block of {length:,} octets")
        body = _body(source, length - 8, keep=kind in _KEPT)
        if body is None:
            start = b"cut"
            break
        if kind in _KEPT:
            yield from _held(section, kind, body[:-4], tally)
    if start:
        tally["packets cut off at the end of the file"] += 1


def _held(section: _Section, kind: int, body: bytes, tally: Tally) -> Iterator[Packet]:
    try:
        if kind != _INTERFACE:
            yield section.packet(kind, body)
        elif len(section.interfaces) < MAX_INTERFACES:
            section.describe(body)
    except (IndexError, struct_error, OverflowError):
        tally["damaged blocks"] += 1


def _begin(source: Octets, start: bytes, tally: Tally) -> _Section:
    order = source.read(4)
    mark = next((mark for mark in "<>" if order == Struct(f"{mark}I").pack(_BYTE_ORDER)), "")
    if not mark:
        raise BadFile(source.path, "is damaged: a section of pcapng without its byte order")
    length = Struct(f"{mark}I").unpack_from(start, 4)[0]
    if length < 28 or length % 4:
        raise BadFile(source.path, f"is damaged: a section header of {length:,} octets")
    if _body(source, length - 12, keep=False) is None:
        tally["packets cut off at the end of the file"] += 1
    return _Section(mark)


def _body(source: Octets, size: int, *, keep: bool) -> bytes | None:
    """Return the rest of a block, empty when it is not to be kept; None when the file ends within."""
    if keep:
        if size > _MAX_HELD:
            raise BadFile(source.path, f"is damaged: a packet's block of {size:,} octets")
        body = source.read(size)
        return body if len(body) == size else None
    while size:
        got = len(source.read(min(size, 65_536)))
        if not got:
            return None
        size -= got
    return b""
