"""The PROXY protocol, version 2: what a load balancer says of the client behind it (HAProxy's proxy-protocol.txt).

Rules:
1. Only a header from a listed balancer is read: its words are believed.
2. The text header of version 1 is refused: it cannot stand before a datagram.
3. Extensions (TLVs) are checked to lie within the header and skipped, their checksum included.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from core.errors import Malformed

SIGNATURE: Final = b"\r\n\r\n\x00\r\nQUIT\n"
FIXED: Final = 16  # octets: signature, version and command, family, length
MAX_HEADER: Final = 1_024  # octets; addresses take 52 at most, the rest is for extensions that tell of TLS

_LOCAL: Final = 0x20  # version 2 in the upper half; the balancer speaks for itself, as in a health check
_PROXY: Final = 0x21
_UNSPEC: Final = 0x00
_ADDRESS: Final = {0x11: 4, 0x12: 4, 0x21: 16, 0x22: 16}  # octets of one address; TCP and UDP over IPv4 and IPv6
_MAPPED: Final = b"\x00" * 10 + b"\xff\xff"  # ::ffff:0:0/96, RFC 4291 section 2.5.5.2
_U16: Final = Struct("!H")


class Header(NamedTuple):
    """Who asks. `source` has 4 or 16 octets, none when the balancer asks itself or does not say; `size` in octets."""

    source: bytes
    port: int
    size: int


def parse(data: bytes) -> Header | None:
    """Return the header `data` begins with, None when more octets are wanted (at most `MAX_HEADER`).

    An IPv4-mapped source is returned as its IPv4 address. Raises Malformed as soon as it cannot become a header of
    version 2, for families other than IPv4 and IPv6 (Unix sockets), and for one longer than `MAX_HEADER`. A datagram
    holds its header whole: there None is a malformed packet too.
    """
    if len(data) < FIXED:
        _check_start(data)
        return None
    _check_start(data[: len(SIGNATURE) + 1])
    command, family = data[12], data[13]
    size = FIXED + _U16.unpack_from(data, 14)[0]
    if size > MAX_HEADER:
        raise Malformed(f"PROXY header of {size} octets (at most {MAX_HEADER})")
    unnamed = command == _LOCAL or family == _UNSPEC
    width = 0 if unnamed else _ADDRESS.get(family, 0)
    if not unnamed and (not width or size < FIXED + 2 * width + 4):
        raise Malformed("PROXY header of an unknown family, or too short for its addresses")
    if len(data) < size:
        return None
    if unnamed:
        return Header(b"", 0, size)
    behind = FIXED + 2 * width + 4  # two addresses and two ports
    _check_extensions(data, behind, size)
    source = data[FIXED : FIXED + width].removeprefix(_MAPPED)
    return Header(source, _U16.unpack_from(data, behind - 4)[0], size)


def _check_start(data: bytes) -> None:
    """Refuse octets that cannot begin a header."""
    if not (data.startswith(SIGNATURE) or SIGNATURE.startswith(data)):
        raise Malformed("no PROXY protocol v2 header")
    if len(data) > len(SIGNATURE) and data[len(SIGNATURE)] not in (_LOCAL, _PROXY):
        raise Malformed("unknown version or command in the PROXY header")


def _check_extensions(data: bytes, at: int, end: int) -> None:
    """Each is a type octet, a length and as many octets; the last ends where the header does."""
    while at < end:
        if at + 3 > end:
            raise Malformed("PROXY extension cut short")
        at += 3 + _U16.unpack_from(data, at + 1)[0]
    if at != end:
        raise Malformed("PROXY extension runs past its header")
