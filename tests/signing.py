"""The signatures of the small internet: whole chains of zones, and one zone whose signatures are wrong on purpose."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    import dns.rdtypes.ANY.DNSKEY
    import dns.zone
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

LIFETIME: Final = timedelta(days=7)  # of signatures
_TAMPERED: Final = "192.0.2.99"  # what tampered.bogus.com says after it was signed


def signed_zones(plain: Mapping[str, str], parents: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return every zone's text, those of `parents` signed, and the root's DS record."""
    import dns.dnssec
    import dns.rdataset

    texts = dict(plain)
    anchors: dict[str, dict[str, dns.rdataset.Rdataset]] = {}
    for name, parent in parents.items():
        zone, key, dnskey = _sign(name, plain[name], anchors.get(name, {}))
        if name == "bogus.com.":
            _spoil(zone, key, dnskey)
        texts[name] = zone.to_text(relativize=False)
        ds = dns.dnssec.make_ds(name, dnskey, "SHA256")
        anchors.setdefault(parent, {})[name] = dns.rdataset.from_rdata(300, ds)
    return texts, f". IN DS {anchors[''].pop('.')[0].to_text()}"


def _sign(
    name: str, text: str, children: dict[str, dns.rdataset.Rdataset]
) -> tuple[dns.zone.Zone, EllipticCurvePrivateKey, dns.rdtypes.ANY.DNSKEY.DNSKEY]:
    import dns.dnssec
    import dns.dnssectypes
    import dns.zone
    from cryptography.hazmat.primitives.asymmetric import ec

    zone = dns.zone.from_text(text, origin=name, relativize=False)
    for child, ds in children.items():
        zone.replace_rdataset(child, ds)
    key = ec.generate_private_key(ec.SECP256R1())
    dnskey = dns.dnssec.make_dnskey(key.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
    inception = datetime.now(UTC) - timedelta(hours=1)
    dns.dnssec.sign_zone(zone, keys=[(key, dnskey)], inception=inception, lifetime=int(LIFETIME.total_seconds()))
    return zone, key, dnskey


def _spoil(zone: dns.zone.Zone, key: EllipticCurvePrivateKey, dnskey: dns.rdtypes.ANY.DNSKEY.DNSKEY) -> None:
    """Change `tampered` after it was signed, and sign `expired` for last week."""
    import dns.dnssec
    import dns.name
    import dns.rdataset

    origin = zone.origin or dns.name.root
    zone.replace_rdataset(f"tampered.{origin}", dns.rdataset.from_text("IN", "A", 300, _TAMPERED))
    expired = f"expired.{origin}"
    rrset = zone.find_rrset(expired, "A")
    end = datetime.now(UTC) - LIFETIME
    rrsig = dns.dnssec.sign(rrset, key, origin, dnskey, inception=end - LIFETIME, expiration=end)
    zone.replace_rdataset(expired, dns.rdataset.from_rdata(300, rrsig))
