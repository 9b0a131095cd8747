"""DNS64: AAAA answers made from A records for clients that have IPv6 only (RFC 6147, addresses by RFC 6052).

Rules:
1. Whoever asks with DO and CD validates for itself: nothing is made for it (RFC 6147 section 5.5), which the caller
   knows.
2. What is made is not what was signed: signatures, AD and every section but the answer are dropped.
3. The well-known prefix is not put before addresses that are no global ones (RFC 6052 section 3.1), save the two that
   clients find the prefix by (RFC 7050 section 8.2).
"""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from struct import Struct
from typing import TYPE_CHECKING, Final

from core import rr
from core.errors import Malformed
from core.wire import HEADER, MAX_MESSAGE, Message, Record, expand_rdata, read_name, walk

if TYPE_CHECKING:
    from core.names import Name

LENGTHS: Final = (32, 40, 48, 56, 64, 96)  # bits of a prefix, RFC 6052 section 2.2
WELL_KNOWN: Final = IPv6Network("64:ff9b::/96")  # RFC 6052 section 2.1
NO_SOA_TTL: Final = 600  # seconds at most when no SOA says how long the AAAA record is missing, RFC 6147 section 5.1.7

_RESERVED: Final = 8  # the octet that stays zero, RFC 6052 section 2.2
_MAPPED: Final = b"\x00" * 10 + b"\xff\xff"  # ::ffff:0:0/96, the addresses RFC 6147 section 5.1.4 excludes
_POINTER: Final = 0xC000
_FARTHEST: Final = 0x4000  # a compression pointer has 14 bits, RFC 1035 section 4.1.4
_DISCOVERY: Final = (b"\xc0\x00\x00\xaa", b"\xc0\x00\x00\xab")  # 192.0.0.170 and .171, RFC 7050 section 8.2
_NOT_GLOBAL: Final = tuple(
    (int(network.network_address), int(network.netmask))
    # RFC 5735 section 3, as RFC 6052 section 3.1 asks, and RFC 6598
    for network in map(IPv4Network, (
        "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
        "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
        "224.0.0.0/4", "240.0.0.0/4",
    ))
)  # fmt: skip

_HEAD: Final = Struct("!HHHHHH")
_FIXED: Final = Struct("!HHIH")  # type, class, TTL, RDLENGTH
_U16: Final = Struct("!H")


class Dns64:
    """Makes AAAA answers under one prefix, such as `64:ff9b::/96`."""

    def __init__(self, prefix: str) -> None:
        """Raises ValueError for a prefix that RFC 6052 section 2.2 does not allow."""
        network = IPv6Network(prefix)
        octets = network.network_address.packed
        if network.prefixlen not in LENGTHS or octets[_RESERVED]:
            raise ValueError(f"{prefix}: not an IPv6 prefix of 32 to 64 or 96 bits whose bits 64 to 71 are zero")
        self._well_known = network == WELL_KNOWN
        room = [at for at in range(network.prefixlen // 8, 16) if at != _RESERVED][:4]
        self._before, self._after = octets[: room[0]], bytes(15 - room[-1])
        self._split = _RESERVED - room[0] if room[0] < _RESERVED < room[-1] else 0  # address octets before octet 8

    def embed(self, address: bytes) -> bytes:
        """Return the IPv6 address, 16 octets, that stands for an IPv4 address of 4 octets."""
        split = self._split
        middle = address[:split] + b"\x00" + address[split:] if split else address
        return self._before + middle + self._after

    def extract(self, address: bytes) -> bytes | None:
        """Return the IPv4 address that an IPv6 address of 16 octets stands for; None for one outside the prefix."""
        split, start = self._split, len(self._before)
        found = (
            address[start : start + split] + address[start + split + 1 : start + 5] if split else address[start:][:4]
        )
        return found if self.embed(found) == address else None

    def wanted(self, message: Message, wire: bytes) -> bool:
        """True for an AAAA reply of class IN and code NOERROR without one usable address (RFC 6147 section 5.1)."""
        if message.qtype != rr.AAAA or message.rcode != rr.Rcode.NOERROR:
            return False
        if _U16.unpack_from(wire, message.answers_at - 2)[0] != rr.CLASS_IN:
            return False
        return not any(_usable(wire, record) for record in message.records)

    def synthesise(self, a_wire: bytes, aaaa_wire: bytes = b"") -> bytes | None:
        """Return the reply to the AAAA question made from the reply to the A question for the same name.

        None when that one has no address to make one from: the AAAA reply stands then. The SOA of `aaaa_wire`, the
        reply without addresses, bounds the TTL of what is made (RFC 6147 section 5.1.7). Raises Malformed for replies
        that do not hold together, answer no A question, or would become longer than a message may be.
        """
        message = walk(a_wire)
        rclass = _U16.unpack_from(a_wire, message.answers_at - 2)[0]
        if message.qtype != rr.A or rclass != rr.CLASS_IN:
            raise Malformed("not a reply to an A question")
        if message.rcode != rr.Rcode.NOERROR:
            return None
        limit = _bound(aaaa_wire)
        made = _Reply(a_wire, message)
        addresses = 0
        for record in message.records:
            if record.section != 1 or record.rclass != rr.CLASS_IN:
                continue
            if record.rtype == rr.A:
                address = a_wire[record.rdata : record.end]
                if self._translates(address):
                    made.add(record, rr.AAAA, min(record.ttl, limit), self.embed(address))
                    addresses += 1
            elif record.rtype in (rr.CNAME, rr.DNAME):
                made.add(record, record.rtype, record.ttl, expand_rdata(a_wire, record))
        return made.octets() if addresses else None

    def _translates(self, address: bytes) -> bool:
        if len(address) != 4:
            raise Malformed("an address record of the wrong size")
        if not self._well_known or address in _DISCOVERY:
            return True
        value = int.from_bytes(address, "big")
        return not any(value & mask == network for network, mask in _NOT_GLOBAL)


class _Reply:
    """The reply being written: one question, then answers whose owners point back where they can."""

    def __init__(self, wire: bytes, message: Message) -> None:
        self._wire = wire
        self._flags = message.flags & ~rr.AD
        self._count = 0
        question = wire[HEADER : message.answers_at - 4]
        if question.lower() != message.qname:
            raise Malformed("compressed question name")
        self._body = bytearray(question + _U16.pack(rr.AAAA) + _U16.pack(rr.CLASS_IN))
        self._known: dict[Name, int] = {message.qname: HEADER}

    def add(self, record: Record, rtype: int, ttl: int, rdata: bytes) -> None:
        """Append an answer with the owner of `record`."""
        body = self._body
        owner = read_name(self._wire, record.owner)
        at = self._known.get(owner)
        body += _U16.pack(_POINTER | at) if at is not None else self._written(owner)
        body += _FIXED.pack(rtype, rr.CLASS_IN, ttl, len(rdata))
        if rtype == rr.CNAME:
            self._written(rdata.lower())
        body += rdata
        self._count += 1
        if HEADER + len(body) > MAX_MESSAGE:
            raise Malformed("too many records to make a reply of")

    def octets(self) -> bytes:
        """Return the whole message."""
        head = _HEAD.pack(_U16.unpack_from(self._wire)[0], self._flags, 1, self._count, 0, 0)
        return head + bytes(self._body)

    def _written(self, name: Name) -> Name:
        """Remember that `name` is about to be written, so that later owners point there."""
        at = HEADER + len(self._body)
        if at < _FARTHEST and len(name) > 1:
            self._known.setdefault(name, at)
        return name


def _usable(wire: bytes, record: Record) -> bool:
    if record.section != 1 or record.rtype != rr.AAAA or record.rclass != rr.CLASS_IN:
        return False
    return record.end - record.rdata == 16 and not wire.startswith(_MAPPED, record.rdata)


def _bound(wire: bytes) -> int:
    """Seconds what is made may be kept: the TTL of the negative reply's SOA (RFC 6147 section 5.1.7)."""
    records = walk(wire).records if wire else []
    return min((record.ttl for record in records if record.section == 2 and record.rtype == rr.SOA), default=NO_SOA_TTL)
