"""The names that are not asked outside: IANA's special-use and locally served ones, private TLDs, and canaries."""

from __future__ import annotations

from enum import Enum, auto
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from core import rr
from core.names import Name, from_text

if TYPE_CHECKING:
    from core import config


class Kind(Enum):
    """What a rule answers at its name and below."""

    PASS = auto()  # a zone with servers of its own: nothing is answered here
    ABSENT = auto()  # NXDOMAIN, at the name too
    ZONE = auto()  # an empty zone: SOA and NS at the name, NXDOMAIN below
    LOOPBACK = auto()  # loopback addresses at the name and below, NODATA for other types


# RFC 6761 sections 6.2 and 6.4, RFC 6762 section 22.1, RFC 7686 section 2, RFC 9476
SPECIAL_TLDS: Final = ("test", "invalid", "local", "onion", "alt")
# ICANN never delegates internal (2024), home, corp and mail (2018); devices and search lists make up the rest
PRIVATE_TLDS: Final = (
    "internal", "home", "corp", "mail", "lan", "localdomain", "intranet", "private", "domain", "workgroup", "dhcp",
)  # fmt: skip
EMPTY_ZONES: Final = (
    "home.arpa",  # RFC 8375
    "empty.as112.arpa",  # RFC 7535
    # RFC 6303 section 4
    "10.in-addr.arpa", *(f"{net}.172.in-addr.arpa" for net in range(16, 32)), "168.192.in-addr.arpa",
    "0.in-addr.arpa", "127.in-addr.arpa", "254.169.in-addr.arpa", "2.0.192.in-addr.arpa", "100.51.198.in-addr.arpa",
    "113.0.203.in-addr.arpa", "255.255.255.255.in-addr.arpa",
    ip_address("::").reverse_pointer, ip_address("::1").reverse_pointer, "d.f.ip6.arpa", "8.e.f.ip6.arpa",
    "9.e.f.ip6.arpa", "a.e.f.ip6.arpa", "b.e.f.ip6.arpa", "8.b.d.0.1.0.0.2.ip6.arpa",
    *(f"{net}.100.in-addr.arpa" for net in range(64, 128)),  # RFC 7793
)  # fmt: skip
IPV4_ONLY: Final = ("ipv4only.arpa", "170.0.0.192.in-addr.arpa", "171.0.0.192.in-addr.arpa")  # RFC 8880 section 7
DOH_CANARY: Final = ("use-application-dns.net",)
PRIVATE_RELAY: Final = ("mask.icloud.com", "mask-h2.icloud.com")

# What is never asked of a TLD itself; NS, SOA, DS, DNSKEY and the rest are how resolvers learn about TLDs.
SINGLE_LABEL_TYPES: Final = frozenset({rr.A, rr.AAAA, rr.PTR, rr.MX, rr.TXT, rr.SRV, rr.SVCB, rr.HTTPS})


def rules(settings: config.Local) -> dict[Name, Kind]:
    """Return the rules that the settings turn on, by name."""
    made: dict[str, Kind] = {}
    if settings.special_use:
        made |= dict.fromkeys((*SPECIAL_TLDS, *PRIVATE_TLDS), Kind.ABSENT)
        made |= dict.fromkeys(EMPTY_ZONES, Kind.ZONE)
        made["localhost"] = Kind.LOOPBACK
        if not settings.dns64_prefix:  # else DNS64 makes its AAAA from the real A records
            made |= dict.fromkeys(IPV4_ONLY, Kind.ZONE)
    if settings.designated_resolver == "nodata":
        made |= dict.fromkeys(("resolver.arpa", "_dns.resolver.arpa"), Kind.ZONE)  # NODATA, RFC 9462 section 6.4
    if settings.block_doh_canary:
        made |= dict.fromkeys(DOH_CANARY, Kind.ABSENT)
    if settings.block_private_relay:
        made |= dict.fromkeys(PRIVATE_RELAY, Kind.ABSENT)
    return {from_text(text): kind for text, kind in made.items()}


def data(settings: config.Local) -> list[tuple[Name, int, bytes]]:
    """Return the records that stand in the special-use zones, as name, type and data."""
    if not settings.special_use:
        return []
    found = [
        (from_text(ip_address(text).reverse_pointer), rr.PTR, from_text("localhost")) for text in ("127.0.0.1", "::1")
    ]
    if not settings.dns64_prefix:
        only, *reverse = (from_text(text) for text in IPV4_ONLY)
        found += [(only, rr.A, ip_address(text).packed) for text in ("192.0.0.170", "192.0.0.171")]
        found += [(name, rr.PTR, only) for name in reverse]
    return found
