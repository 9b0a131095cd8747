"""Replies in place of the truth: the sinkhole address, NODATA or NXDOMAIN, with an SOA, a short TTL and the reason."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Final

from dnslib import AAAA, QTYPE, RR, SOA, A, DNSHeader, DNSQuestion, DNSRecord

from core import rr
from core.verdict import Action, Cause, Verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.config import Sinkhole as Settings

_OWNER: Final = "x"  # the owner of every record, replaced by a pointer to the question
_BY_DETECTORS: Final = frozenset((Cause.DETECTOR, Cause.CONVICTION))
_RETRY: Final = 3_600  # seconds, SOA timers that no resolver uses


class Replacement:
    """What takes the place of an answer: code, counts and the octets behind the question."""

    __slots__ = ("addresses", "body", "counts", "rcode", "ttl")

    def __init__(self, rcode: int, counts: bytes, body: bytes, ttl: int, addresses: tuple[bytes, ...] = ()) -> None:
        """`addresses`: packed, those the body carries."""
        self.rcode = rcode
        self.counts = counts
        self.body = body
        self.ttl = ttl
        self.addresses = addresses


class Sinkhole:
    """Builds replacement answers once for each kind and hands out their octets."""

    def __init__(self, settings: Settings) -> None:
        self._ttl = settings.ttl
        self._address = {
            rr.A: str(IPv4Address(settings.ipv4)),
            rr.AAAA: str(IPv6Address(settings.ipv6)),
        }
        self._packed = {
            rr.A: (IPv4Address(settings.ipv4).packed,),
            rr.AAAA: (IPv6Address(settings.ipv6).packed,),
        }
        self._made: dict[tuple[int, int], Replacement] = {}

    def replacement(self, action: Action, qtype: int) -> Replacement:
        """Return what answers `qtype` under SINKHOLE, NODATA or NXDOMAIN."""
        kind = qtype if action is Action.SINKHOLE and qtype in self._address else 0
        found = self._made.get((action, kind))
        if found is None:
            found = self._made[action, kind] = self._make(action, kind)
        return found

    def _make(self, action: Action, qtype: int) -> Replacement:
        rcode = rr.Rcode.NXDOMAIN if action is Action.NXDOMAIN else rr.Rcode.NOERROR
        record = DNSRecord(DNSHeader(qr=1), q=DNSQuestion(_OWNER))
        # RFC 2308: the SOA says for how long a "no" holds; beside an address it stands where BIND's RPZ puts it
        soa = SOA("localhost.", "nobody.invalid.", (1, _RETRY, _RETRY, _RETRY, self._ttl))
        authority = RR(_OWNER, QTYPE.SOA, ttl=self._ttl, rdata=soa)
        if qtype:
            data = A(self._address[qtype]) if qtype == rr.A else AAAA(self._address[qtype])
            record.add_answer(RR(_OWNER, qtype, ttl=self._ttl, rdata=data))
            record.add_ar(authority)
        else:
            record.add_auth(authority)
        packed = bytes(record.pack())
        question = 12 + len(_OWNER) + 2 + 4
        return Replacement(rcode, packed[6:12], packed[question:], self._ttl, self._packed.get(qtype, ()))


def block_text(verdict: Verdict) -> str:
    """Return the text of the extended error: which list or person, which indicator, in one short line."""
    sources: Sequence[str] = tuple(dict.fromkeys(reason.source for reason in verdict.reasons if reason.action.blocks))
    if not verdict.reasons:
        return "blocked by policy"
    first = verdict.reasons[0]
    if first.cause is Cause.REBIND:
        return f"rebinding: it points to {first.indicator}, which lies inside; local.rebind_allow makes exceptions"
    if first.cause in _BY_DETECTORS:
        return f"{first.source}: {first.text}"
    member = f" ({verdict.member})" if verdict.member and verdict.member != first.indicator else ""
    kind = f"{first.category}: " if first.category else ""
    return f"{kind}{first.indicator}{member} is listed by {', '.join(sources)}"
