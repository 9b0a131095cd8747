"""What this host is to itself: its own addresses and its gateways, as the kernel lists them over rtnetlink(7)."""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from egress import netlink

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_GETADDR: Final = 22
_GETROUTE: Final = 26
_DUMP: Final = 0x300
_ERROR: Final = 2
_DONE: Final = 3
_OF_ADDRESS: Final = 8  # octets of ifaddrmsg
_OF_ROUTE: Final = 12  # octets of rtmsg
_ADDRESS: Final = 1  # IFA_ADDRESS: with a peer, the peer's
_LOCAL: Final = 2
_GATEWAY: Final = 5
_MULTIPATH: Final = 9
_VIA: Final = 18  # a gateway of another family, its family before it
_HEADER: Final = struct.Struct("=IHHII")
_HOP: Final = struct.Struct("=HBBi")
_PATIENCE: Final = 5.0  # seconds
_DATAGRAM: Final = 1 << 18


def addresses() -> list[str]:
    """Return the addresses of all interfaces, and those of their peers; raises Unavailable."""
    found = (
        value
        for piece in _dump(_GETADDR, _OF_ADDRESS)
        for kind, value in netlink.attributes(piece[_OF_ADDRESS:])
        if kind in {_ADDRESS, _LOCAL}
    )
    return _texts(found)


def gateways() -> list[str]:
    """Return the addresses routes lead through; raises Unavailable."""
    return _texts(found for piece in _dump(_GETROUTE, _OF_ROUTE) for found in _ways(piece[_OF_ROUTE:]))


def _ways(data: bytes) -> Iterator[bytes]:
    for kind, value in netlink.attributes(data):
        if kind == _GATEWAY:
            yield value
        elif kind == _VIA:
            yield value[2:]
        elif kind == _MULTIPATH:
            yield from _hops(value)


def _hops(data: bytes) -> Iterator[bytes]:
    while len(data) >= _HOP.size:
        size = _HOP.unpack_from(data)[0]
        if size < _HOP.size:
            return
        yield from _ways(data[_HOP.size : size])
        data = data[size + (-size % 4) :]


def _texts(found: Iterable[bytes]) -> list[str]:
    return sorted({str(ipaddress.ip_address(value)) for value in found if len(value) in {4, 16} and any(value)})


def _dump(kind: int, header: int) -> list[bytes]:
    """Return what follows the header of each message of a listing."""
    request = _HEADER.pack(_HEADER.size + header, kind, netlink.REQUEST | _DUMP, 1, 0) + bytes(header)
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.settimeout(_PATIENCE)
            sock.bind((0, 0))
            sock.send(request)
            return list(_pieces(sock, header))
    except (OSError, netlink.Malformed) as error:
        raise Unavailable(f"rtnetlink: {error}") from None


def _pieces(sock: socket.socket, header: int) -> Iterator[bytes]:
    while True:
        for message in netlink.messages(sock.recv(_DATAGRAM)):
            if message.kind == _ERROR:
                raise OSError(netlink.error(message)[0], "the kernel refused to list addresses")
            if message.kind == _DONE:
                return
            if len(message.payload) >= header:
                yield message.payload
