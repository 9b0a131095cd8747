"""Addresses with ports as people write them in the configuration: where we listen."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NamedTuple

MAX_PORT: Final = 65_535

_ENDPOINT: Final = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+(?:%[\w.-]{1,15})?)\]|(?P<four>[0-9.]+)):(?P<port>[0-9]{1,5})", re.ASCII
)


class Endpoint(NamedTuple):
    """An address to listen on, without brackets, and a port from 1 to 65535."""

    address: str
    port: int

    @property
    def is_ipv6(self) -> bool:
        """True when the address belongs to the IPv6 family."""
        return ":" in self.address


def packed(text: str) -> bytes:
    """Return an IP address as 4 or 16 octets; none of a text that is no address."""
    try:
        return ip_address(text).packed
    except ValueError:
        return b""


def parse_endpoint(text: str) -> Endpoint:
    """Return where `ADDRESS:PORT` or `[ADDRESS]:PORT` points; raises ValueError: what is wrong, what to write."""
    found = _ENDPOINT.fullmatch(text)
    if found is None:
        raise ValueError('is not ADDRESS:PORT; write "127.0.0.1:5353" or "[::1]:5353"')
    address = _address(found["six"] or found["four"])
    if isinstance(address, IPv4Address) is (found["six"] is not None):
        raise ValueError('has brackets round an IPv4 address; write "127.0.0.1:5353" or "[::1]:5353"')
    if address.is_multicast:
        raise ValueError("is a multicast address; write an address of this host, or 0.0.0.0 or [::] for all")
    return Endpoint(str(address), _port(found["port"]))


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"holds {text}, which is not an IP address; write 192.0.2.1 or 2001:db8::1") from None


def _port(text: str) -> int:
    if not 0 < int(text) <= MAX_PORT:
        raise ValueError(f"holds port {text}; write one from 1 to {MAX_PORT}")
    return int(text)
