"""Addresses that no verdict may cut off wherever this runs, and the IPv4 addresses that IPv6 ones carry inside.

Rules:
1. Special-use networks, multicast and the root servers are reserved; so is what the organisation names its own.
2. An address that carries others (NAT64, 6to4, ISATAP, SIIT) stands for them: what protects one protects the other.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from core.errors import BadFeed
from egress.ranges import Ranges, listed, unmapped

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# IANA's special-purpose address registries (RFC 6890), multicast, and IPv6 forms nobody routes any more. Not here, as
# rule 2 judges them: 64:ff9b::/96 and 2002::/16. Teredo (RFC 4380) lies in 2001::/23.
SPECIAL: Final = (
    "0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24"
    " 192.31.196.0/24 192.52.193.0/24 192.88.99.0/24 192.168.0.0/16 192.175.48.0/24 198.18.0.0/15 198.51.100.0/24"
    " 203.0.113.0/24 224.0.0.0/4 240.0.0.0/4"
    " ::/96 64:ff9b:1::/48 100::/64 2001::/23 2001:db8::/32 2620:4f:8000::/48 3fff::/20 5f00::/16 fc00::/7 fe80::/10"
    " fec0::/10 ff00::/8"
)
# The root hints, IANA's named.root.
ROOT_SERVERS: Final = (
    "198.41.0.4 170.247.170.2 192.33.4.12 199.7.91.13 192.203.230.10 192.5.5.241 192.112.36.4 198.97.190.53"
    " 192.36.148.17 192.58.128.30 193.0.14.129 199.7.83.42 202.12.27.33 2001:503:ba3e::2:30 2801:1b8:10::b"
    " 2001:500:2::c 2001:500:2d::d 2001:500:a8::e 2001:500:2f::f 2001:500:12::d0d 2001:500:1::53 2001:7fe::53"
    " 2001:503:c27::2:30 2001:7fd::1 2001:500:9f::42 2001:dc3::35"
)

_NAT64: Final = bytes.fromhex("0064ff9b") + bytes(8)  # RFC 6052 section 2.1
_SIIT: Final = bytes(8) + b"\xff\xff\x00\x00"  # ::ffff:0:0:0/96, RFC 2765 section 2.1
_6TO4: Final = b"\x20\x02"  # RFC 3056 section 2
_ISATAP: Final = (b"\x00\x00\x5e\xfe", b"\x02\x00\x5e\xfe")  # RFC 5214 section 6.1
_NAT64_BITS: Final = (32, 40, 48, 56, 64, 96)  # RFC 6052 section 2.2


def reserved(own: Mapping[str, Iterable[str]]) -> Ranges:
    """Return what is never blocked; `own` adds networks by what they are, "a gateway" for one, in text.

    Raises BadFeed when an entry is no network: one that was left out would be blocked some day.
    """
    lists = [listed(what, (text.partition("%")[0] for text in networks)) for what, networks in own.items()]
    for one in lists:
        if one.bad:
            raise BadFeed(one.mistakes[0])
    lists += [listed("a special-use network", SPECIAL.split()), listed("a root server", ROOT_SERVERS.split())]
    return Ranges(lists)


class Carriers:
    """The forms in which an IPv6 address carries IPv4 ones; `nat64` adds prefixes to the well-known one, in text."""

    def __init__(self, nat64: Iterable[str] = ()) -> None:
        self._nat64 = [_NAT64, *map(_nat64, nat64)]

    def faces(self, address: bytes) -> tuple[bytes, ...]:
        """Return the address, IPv4 when it is mapped, and the IPv4 addresses it carries.

        Raises ValueError for what is no packed address.
        """
        address = unmapped(address)
        if len(address) == 4:
            return (address,)
        found = [address]
        found += [_embedded(address, len(prefix)) for prefix in self._nat64 if address.startswith(prefix)]
        if address.startswith(_6TO4):
            found.append(address[2:6])
        if address.startswith(_SIIT) or address[8:12] in _ISATAP:
            found.append(address[12:])
        return tuple(found)


def _nat64(text: str) -> bytes:
    network = ipaddress.IPv6Network(text)
    if network.prefixlen not in _NAT64_BITS:
        raise ValueError(f"{text}: a NAT64 prefix has {', '.join(map(str, _NAT64_BITS))} bits (RFC 6052)")
    return network.network_address.packed[: network.prefixlen // 8]


def _embedded(address: bytes, size: int) -> bytes:
    """Return the IPv4 address behind a prefix of so many octets; octet 8 is never part of it (RFC 6052 section 2.2)."""
    return address[12:] if size == 12 else (address[size:8] + address[9:])[:4]
