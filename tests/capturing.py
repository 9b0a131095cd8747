"""Captures made octet by octet: DNS messages, UDP and TCP around them, and pcap and pcapng files of the packets."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from ipaddress import ip_address

from core import names

CLIENT = "192.0.2.7"
SERVER = "198.51.100.53"
ETHERNET, RAW, LOOPBACK, LINUX, LINUX2 = 1, 101, 0, 113, 276
SYN, FIN, RST, ACK = 2, 1, 4, 16
START = 1_700_000_000.0

Packet = tuple[float, bytes]


def question(name: str, qtype: int = 1) -> bytes:
    return names.from_text(name) + struct.pack("!HH", qtype, 1)


def query(name: str, qtype: int = 1, *, number: int = 7) -> bytes:
    return struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + question(name, qtype)


def record(rtype: int, rdata: bytes, ttl: int = 300) -> bytes:
    return b"\xc0\x0c" + struct.pack("!HHIH", rtype, 1, ttl, len(rdata)) + rdata


def reply(name: str, qtype: int = 1, *records: bytes, number: int = 7, rcode: int = 0) -> bytes:
    return struct.pack("!6H", number, 0x8180 | rcode, 1, len(records), 0, 0) + question(name, qtype) + b"".join(records)


def udp(payload: bytes, source: tuple[str, int], target: tuple[str, int], *, fragment: int = 0) -> bytes:
    """An IP packet with a UDP datagram in it."""
    datagram = struct.pack("!4H", source[1], target[1], 8 + len(payload), 0) + payload
    return ip(17, datagram, source[0], target[0], fragment=fragment)


def tcp(payload: bytes, source: tuple[str, int], target: tuple[str, int], *, sequence: int, flags: int = ACK) -> bytes:
    """An IP packet with a TCP segment in it."""
    header = struct.pack("!HHIIBBHHH", source[1], target[1], sequence & 0xFFFFFFFF, 0, 5 << 4, flags, 1024, 0, 0)
    return ip(6, header + payload, source[0], target[0])


def ip(protocol: int, body: bytes, source: str, target: str, *, fragment: int = 0) -> bytes:
    here, there = ip_address(source).packed, ip_address(target).packed
    if len(here) == 16:
        return struct.pack("!IHBB", 6 << 28, len(body), protocol, 64) + here + there + body
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), 1, fragment, 64, protocol, 0) + here + there + body


def framed(packet: bytes, link: int = ETHERNET, *, tags: int = 0) -> bytes:
    """The packet on a link."""
    kind = struct.pack("!H", 0x86DD if packet[0] >> 4 == 6 else 0x0800)
    vlan = b"\x81\x00\x00\x05" * tags
    return {
        ETHERNET: bytes(12) + vlan + kind,
        RAW: b"",
        LOOPBACK: b"\x02\x00\x00\x00",
        LINUX: bytes(14) + kind,
        LINUX2: kind + bytes(18),
    }[link] + packet


def asked(name: str, qtype: int = 1, at: float = START, *records: bytes, number: int = 7, client: str = CLIENT,
          port: int = 40_000, delay: float = 0.02, rcode: int = 0) -> list[Packet]:  # fmt: skip
    """A question over UDP and its answer, as IP packets."""
    here, there = (client, port), (SERVER, 53)
    return [
        (at, udp(query(name, qtype, number=number), here, there)),
        (at + delay, udp(reply(name, qtype, *records, number=number, rcode=rcode), there, here)),
    ]


def pcap(packets: Iterable[Packet], link: int = ETHERNET, *, mark: str = "<", nano: bool = False) -> bytes:
    """A pcap file of IP packets."""
    scale = 10**9 if nano else 10**6
    made = [struct.pack(f"{mark}IHHiIII", 0xA1B23C4D if nano else 0xA1B2C3D4, 2, 4, 0, 0, 65_535, link)]
    for at, packet in packets:
        frame = framed(packet, link)
        whole = round(at * scale)
        made.append(struct.pack(f"{mark}4I", whole // scale, whole % scale, len(frame), len(frame)) + frame)
    return b"".join(made)


def block(kind: int, body: bytes, mark: str = "<") -> bytes:
    padded = body + bytes(-len(body) % 4)
    size = 12 + len(padded)
    return struct.pack(f"{mark}II", kind, size) + padded + struct.pack(f"{mark}I", size)


def pcapng(packets: Sequence[Packet], link: int = ETHERNET, *, mark: str = "<", nano: bool = False) -> bytes:
    """A pcapng file of IP packets, one section with one interface."""
    section = block(0x0A0D0D0A, struct.pack(f"{mark}IHHq", 0x1A2B3C4D, 1, 0, -1), mark)
    option = struct.pack(f"{mark}HHB3xHH", 9, 1, 9 if nano else 6, 0, 0)
    made = [section, block(1, struct.pack(f"{mark}HHI", link, 0, 0) + option, mark), block(5, bytes(8), mark)]
    for at, packet in packets:
        frame = framed(packet, link)
        when = round(at * (10**9 if nano else 10**6))
        body = struct.pack(f"{mark}5I", 0, when >> 32, when & 0xFFFFFFFF, len(frame), len(frame)) + frame
        made.append(block(6, body, mark))
    return b"".join(made)
