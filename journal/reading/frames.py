"""From a captured frame to what UDP or TCP carries in it: link layers, VLAN tags, IPv4 and IPv6.

Rules:
1. Lengths in headers are never trusted beyond the frame; what does not hold together raises IndexError or struct.error.
2. Fragments are not put together: one is None, and counted.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from journal.reading.source import Tally

TCP: Final = 6
UDP: Final = 17
MAX_TAGS: Final = 4  # VLAN tags on a frame
MAX_EXTENSIONS: Final = 8  # of an IPv6 packet
FRAGMENTS: Final = "fragments"
OTHER_LINK: Final = "packets of an unknown link type"

_IPV4: Final = 0x0800
_IPV6: Final = 0x86DD
_TAGS: Final = frozenset((0x8100, 0x88A8, 0x9100))
_PPPOE: Final = 0x8864
_PPP: Final = {0x0021: _IPV4, 0x0057: _IPV6}
_ETHERNET, _FDDI, _LINUX, _LINUX2 = 1, 10, 113, 276
_RAW: Final = frozenset((12, 14, 101, 228, 229))
_LOOPBACK: Final = frozenset((0, 108))  # four octets of address family, whose version nibble decides anyway
_SKIPPED: Final = frozenset((0, 43, 60))  # IPv6 extensions that are jumped over, RFC 8200 section 4
_FRAGMENT, _AUTHENTICATION = 44, 51
_U16: Final = Struct("!H")
_PORTS: Final = Struct("!HH")
_SEQUENCE: Final = Struct("!I")


class Segment(NamedTuple):
    """What one datagram or TCP segment carries. Addresses are 4 or 16 octets."""

    tcp: bool
    source: bytes
    sport: int
    target: bytes
    dport: int
    payload: bytes
    sequence: int = 0
    flags: int = 0


def segment(link: int, frame: bytes, ports: AbstractSet[int], tally: Tally) -> Segment | None:
    """Return what the frame carries when one of its ports is wanted; None otherwise.

    Raises IndexError or struct.error for a frame that is cut short.
    """
    at = _network(link, frame, tally)
    if at < 0:
        return None
    version = frame[at] >> 4
    if version == 4:
        return _ipv4(frame, at, ports, tally)
    return _ipv6(frame, at, ports, tally) if version == 6 else None


def _network(link: int, frame: bytes, tally: Tally) -> int:
    """Return where the IP header begins, -1 when there is none."""
    if link == _ETHERNET:
        return _typed(frame, 12)
    if link in _RAW:
        return 0
    if link in _LOOPBACK:
        return 4
    if link == _LINUX:
        return _typed(frame, 14)
    if link == _LINUX2:
        return 20 if _U16.unpack_from(frame)[0] in (_IPV4, _IPV6) else -1
    if link == _FDDI:
        return _typed(frame, 19)  # behind frame control, two addresses, LLC and SNAP
    tally[OTHER_LINK] += 1
    return -1


def _typed(frame: bytes, at: int) -> int:
    """Return where IP begins behind the EtherType at `at`, VLAN tags and PPPoE jumped over."""
    for _ in range(MAX_TAGS + 1):
        kind = _U16.unpack_from(frame, at)[0]
        at += 2
        if kind in (_IPV4, _IPV6):
            return at
        if kind == _PPPOE:
            return at + 8 if _U16.unpack_from(frame, at + 6)[0] in _PPP else -1
        if kind not in _TAGS:
            return -1
        at += 2
    return -1


def _ipv4(frame: bytes, at: int, ports: AbstractSet[int], tally: Tally) -> Segment | None:
    protocol = frame[at + 9]
    if protocol not in (UDP, TCP):
        return None
    if _U16.unpack_from(frame, at + 6)[0] & 0x3FFF:
        tally[FRAGMENTS] += 1
        return None
    total = _U16.unpack_from(frame, at + 2)[0]
    end = min(len(frame), at + total) if total else len(frame)  # 0: the network card cut it into segments later
    start = at + (frame[at] & 0xF) * 4
    return _transport(frame[start:end], protocol, ports, (frame[at + 12 : at + 16], frame[at + 16 : at + 20]))


def _ipv6(frame: bytes, at: int, ports: AbstractSet[int], tally: Tally) -> Segment | None:
    following = frame[at + 6]
    size = _U16.unpack_from(frame, at + 4)[0]
    end = min(len(frame), at + 40 + size) if size else len(frame)
    start = at + 40
    for _ in range(MAX_EXTENSIONS):
        if following in (UDP, TCP):
            return _transport(frame[start:end], following, ports, (frame[at + 8 : at + 24], frame[at + 24 : at + 40]))
        if following == _FRAGMENT:
            if _U16.unpack_from(frame, start + 2)[0] & 0xFFF9:
                tally[FRAGMENTS] += 1
                return None
            following, start = frame[start], start + 8  # a fragment that is the whole, RFC 6946
        elif following in _SKIPPED:
            following, start = frame[start], start + (frame[start + 1] + 1) * 8
        elif following == _AUTHENTICATION:
            following, start = frame[start], start + (frame[start + 1] + 2) * 4
        else:
            return None
    return None


def _transport(packet: bytes, protocol: int, ports: AbstractSet[int], addresses: tuple[bytes, bytes]) -> Segment | None:
    sport, dport = _PORTS.unpack_from(packet)
    if sport not in ports and dport not in ports:
        return None
    source, target = addresses
    if protocol == UDP:
        size = _U16.unpack_from(packet, 4)[0] or len(packet)
        return Segment(False, source, sport, target, dport, packet[8:size])
    sequence = _SEQUENCE.unpack_from(packet, 4)[0]
    start = (packet[12] >> 4) * 4
    return Segment(True, source, sport, target, dport, packet[start:], sequence, packet[13])
