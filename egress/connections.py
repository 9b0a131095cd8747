"""Connections as the kernel's connection tracking tells of them, read from their attributes.

Rules:
1. The original direction is the client's: its source is the inside address before NAT.
2. What does not parse raises Malformed; nothing is read past its end.

Layout: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

from egress.netlink import Malformed, attributes

ORIGINAL: Final = 1  # the attribute of the original direction
DYING: Final = 0x200  # a bit of the status
_STATUS: Final = 3
_SENT: Final = 9
_RECEIVED: Final = 10
_ID: Final = 12
_TIMESTAMP: Final = 20
_OCTETS: Final = 2  # of a counter; packets are 1
_U16: Final = struct.Struct("!H")
_U32: Final = struct.Struct("!I")
_U64: Final = struct.Struct("!Q")
_HEAD: Final = struct.Struct("=HH")


class Connection(NamedTuple):
    """What the kernel says of one connection, its ends still packed in `tuple_`."""

    tuple_: bytes
    identity: bytes
    status: int
    sent: int
    received: int
    began: float  # Unix seconds; 0: not noted (net.netfilter.nf_conntrack_timestamp)

    @property
    def key(self) -> int:
        """A number that no other connection has, save once in 2^64."""
        return hash(self.tuple_ + self.identity)


class Ends(NamedTuple):
    """Who talks to whom. The port is the address's; 0: the protocol has none."""

    client: bytes
    address: bytes
    protocol: int
    port: int


def read(data: bytes) -> Connection:
    """Return what the attributes of a connection say; raises Malformed."""
    found: dict[int, bytes] = {}
    at, end = 0, len(data)
    while end - at >= _HEAD.size:  # as netlink.attributes, which takes twice as long
        size, kind = _HEAD.unpack_from(data, at)
        if not _HEAD.size <= size <= end - at:
            raise Malformed(f"an attribute of {size} octets where {end - at} are left")
        found[kind & 0x3FFF] = data[at + 4 : at + size]
        at += size + (-size & 3)
    original, identity = found.get(ORIGINAL, b""), found.get(_ID, b"")
    status = found.get(_STATUS, b"")
    return Connection(
        original,
        identity,
        _U32.unpack(status)[0] if len(status) == _U32.size else 0,
        _octets(found.get(_SENT, b"")),
        _octets(found.get(_RECEIVED, b"")),
        _began(found.get(_TIMESTAMP, b"")),
    )


def _octets(data: bytes) -> int:
    """Return the octets of a counter; 0 when there are none."""
    for kind, content in attributes(data):
        if kind == _OCTETS and len(content) == _U64.size:
            return int(_U64.unpack(content)[0])
    return 0


def _began(data: bytes) -> float:
    for kind, content in attributes(data):
        if kind == 1 and len(content) == _U64.size:
            return float(_U64.unpack(content)[0]) / 1e9
    return 0.0


def ends(data: bytes) -> Ends:
    """Return who talks to whom by the packed original direction; raises Malformed when an end is missing."""
    parts = dict(attributes(data))
    addresses = dict(attributes(parts.get(1, b"")))
    transport = dict(attributes(parts.get(2, b"")))
    for source, destination, size in ((1, 2, 4), (3, 4, 16)):
        client, address = addresses.get(source, b""), addresses.get(destination, b"")
        if len(client) == len(address) == size:
            protocol, port = transport.get(1, b""), transport.get(3, b"")
            return Ends(client, address, protocol[0] if protocol else 0, _U16.unpack(port)[0] if len(port) == 2 else 0)
    raise Malformed("a connection without its ends")
