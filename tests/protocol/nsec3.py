"""A zone signed with NSEC3 and opt-out (RFC 5155), which dnspython signs with NSEC only."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

import dns.dnssec
import dns.dnssectypes
import dns.name
import dns.node
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.zone
from cryptography.hazmat.primitives.asymmetric import ec

if TYPE_CHECKING:
    import dns.rdtypes.ANY.DNSKEY

SALT: Final = b"\xab\xcd"
ITERATIONS: Final = 2
TTL: Final = 120  # seconds, the minimum of the zone's SOA
_OPT_OUT: Final = 1
_LIFETIME: Final = timedelta(days=7)
_IN: Final = dns.rdataclass.IN
_NS: Final = dns.rdatatype.NS
_RRSIG: Final = dns.rdatatype.RRSIG


class Signed(NamedTuple):
    text: str  # the whole zone
    ds: str  # the data of its DS record


def signed(zone_name: str, text: str) -> Signed:
    """Return the zone signed by a key of its own; delegations without DS are left out of the chain (opt-out)."""
    zone = dns.zone.from_text(text, origin=zone_name, relativize=False)
    origin = dns.name.from_text(zone_name)
    private = ec.generate_private_key(ec.SECP256R1())
    key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
    zone.replace_rdataset(origin, dns.rdataset.from_rdata(TTL, key))
    zone.replace_rdataset(origin, dns.rdataset.from_text("IN", "NSEC3PARAM", 0, f"1 0 {ITERATIONS} {SALT.hex()}"))
    cuts = [name for name, node in zone.nodes.items() if name != origin and node.get_rdataset(_IN, _NS)]
    _add_chain(zone, origin, cuts)
    for name, node in list(zone.nodes.items()):
        _sign(node, name, origin, private, key, cuts)
    return Signed(zone.to_text(relativize=False), dns.dnssec.make_ds(zone_name, key, "SHA256").to_text())


def _sign(
    node: dns.node.Node, name: dns.name.Name, origin: dns.name.Name, private: ec.EllipticCurvePrivateKey,
    key: dns.rdtypes.ANY.DNSKEY.DNSKEY, cuts: list[dns.name.Name],
) -> None:  # fmt: skip
    """Sign what the zone speaks for: not the NS of a cut, nothing below one (RFC 4035 section 2.2)."""
    if any(name != cut and name.is_subdomain(cut) for cut in cuts):
        return
    now = datetime.now(UTC)
    for rdataset in list(node):
        if name in cuts and rdataset.rdtype == _NS:
            continue
        rrsig = dns.dnssec.sign(
            (name, rdataset), private, origin, key, inception=now - timedelta(hours=1), expiration=now + _LIFETIME
        )
        node.find_rdataset(_IN, _RRSIG, rdataset.rdtype, create=True).add(rrsig, rdataset.ttl)


def _add_chain(zone: dns.zone.Zone, origin: dns.name.Name, cuts: list[dns.name.Name]) -> None:
    types: dict[dns.name.Name, set[dns.rdatatype.RdataType]] = {}
    for name, node in zone.nodes.items():
        insecure = name in cuts and node.get_rdataset(_IN, dns.rdatatype.DS) is None
        if insecure or any(name != cut and name.is_subdomain(cut) for cut in cuts):
            continue
        types[name] = {rdataset.rdtype for rdataset in node} | {_RRSIG}
        above = name
        while above != origin:  # empty non-terminals have an NSEC3 too: RFC 5155 section 7.1
            above = above.parent()
            types.setdefault(above, set())
    hashed = sorted((_hash(name), held) for name, held in types.items())
    for at, (digest, held) in enumerate(hashed):
        following = hashed[(at + 1) % len(hashed)][0]
        bitmap = " ".join(map(dns.rdatatype.to_text, held))
        record = f"1 {_OPT_OUT} {ITERATIONS} {SALT.hex()} {following} {bitmap}"
        zone.replace_rdataset(
            dns.name.from_text(digest.lower(), origin), dns.rdataset.from_text("IN", "NSEC3", TTL, record)
        )


def _hash(name: dns.name.Name) -> str:
    return dns.dnssec.nsec3_hash(name, SALT.hex(), ITERATIONS, "SHA1")
