"""Questions out of packet captures: what was asked over UDP port 53 in pcap and pcapng files."""

from __future__ import annotations

import gzip
import struct
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

from core.names import MAX_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Labels: TypeAlias = tuple[bytes, ...]  # leftmost first, case kept

_ETHERNET: Final = 1  # link types, tcpdump.org/linktypes.html
_RAW: Final = (12, 101)
_LOOPBACK: Final = (0, 108)
_COOKED: Final = 113
_TAG: Final = (0x8100, 0x88A8)  # IEEE 802.1Q
_UDP: Final = 17
_DNS: Final = 53
_NANO_MAGIC: Final = 0xA1B23C4D
_PCAP_MAGIC: Final = 0xA1B2C3D4
_SECTION: Final = 0x0A0D0D0A  # pcapng blocks, draft-ietf-opsawg-pcapng
_INTERFACE: Final = 1
_ENHANCED: Final = 6
_TSRESOL: Final = 9


class Asked(msgspec.Struct, frozen=True, gc=False):
    """A question off the wire. `labels` keep their case."""

    at: float  # Unix seconds
    client: bytes  # 4 or 16 octets
    labels: Labels
    qtype: int


def questions(path: Path) -> Iterator[Asked]:
    """Yield the questions in a capture, gzipped or not; packets that cannot be read are skipped."""
    opened = gzip.open if path.name.endswith(".gz") else open
    with opened(path, "rb") as file:
        content = file.read()
    packets = _pcapng(content) if content[:4] == struct.pack("<I", _SECTION) else _pcap(content)
    for at, link, frame in packets:
        try:
            asked = _question(at, _ip(link, frame))
        except (struct.error, IndexError):
            continue
        if asked is not None:
            yield asked


def _pcap(content: bytes) -> Iterator[tuple[float, int, bytes]]:
    order = "<" if content[:4] in (struct.pack("<I", _PCAP_MAGIC), struct.pack("<I", _NANO_MAGIC)) else ">"
    if len(content) < 24:
        return
    magic, link = struct.unpack_from(order + "I", content)[0], struct.unpack_from(order + "I", content, 20)[0]
    unit = 1e-9 if magic == _NANO_MAGIC else 1e-6
    at = 24
    while at + 16 <= len(content):
        seconds, part, size, _ = struct.unpack_from(order + "IIII", content, at)
        yield seconds + part * unit, link & 0xFFFF, content[at + 16 : at + 16 + size]
        at += 16 + size


def _pcapng(content: bytes) -> Iterator[tuple[float, int, bytes]]:
    order, at = "<", 0
    links: list[tuple[int, float]] = []
    while at + 12 <= len(content):
        kind = struct.unpack_from(order + "I", content, at)[0]
        if kind == _SECTION:
            order = "<" if content[at + 8 : at + 12] == b"\x4d\x3c\x2b\x1a" else ">"
            links = []
        size = struct.unpack_from(order + "I", content, at + 4)[0]
        if size < 12:
            return
        if kind == _INTERFACE:
            link = struct.unpack_from(order + "H", content, at + 8)[0]
            links.append((link, _resolution(content[at + 16 : at + size - 4], order)))
        elif kind == _ENHANCED:
            which, high, low, length = struct.unpack_from(order + "IIII", content, at + 8)
            link, unit = links[which]
            yield (high << 32 | low) * unit, link, content[at + 28 : at + 28 + length]
        at += size


def _resolution(options: bytes, order: str) -> float:
    at = 0
    while at + 4 <= len(options):
        code, size = struct.unpack_from(order + "HH", options, at)
        if code == _TSRESOL and size == 1:
            value = options[at + 4]
            return 2.0 ** -(value & 0x7F) if value & 0x80 else 10.0**-value
        at += 4 + (size + 3 & ~3)
    return 1e-6


def _ip(link: int, frame: bytes) -> bytes:
    if link == _ETHERNET:
        at = 12
        while struct.unpack_from(">H", frame, at)[0] in _TAG:
            at += 4
        return frame[at + 2 :]
    if link == _COOKED:
        return frame[16:]
    return frame[4:] if link in _LOOPBACK else frame if link in _RAW else b""


def _question(at: float, packet: bytes) -> Asked | None:
    if not packet:
        return None
    if packet[0] >> 4 == 4:
        protocol, client, udp = packet[9], packet[12:16], packet[(packet[0] & 15) * 4 :]
    else:
        protocol, client, udp = packet[6], packet[8:24], packet[40:]
    if protocol != _UDP or struct.unpack_from(">H", udp, 2)[0] != _DNS:
        return None
    message = udp[8:]
    flags, count = struct.unpack_from(">HH", message, 2)
    if flags & 0x8000 or not count:
        return None
    labels, end = [], 12
    while message[end]:
        size = message[end]
        if size > 63 or end - 12 > MAX_NAME:
            return None
        labels.append(message[end + 1 : end + 1 + size])
        end += size + 1
    return Asked(at, client, tuple(labels), struct.unpack_from(">H", message, end + 1)[0])
