"""What of a walked reply a client gets: the octets behind the question, without OPT, with or without DNSSEC records."""

from __future__ import annotations

from struct import Struct
from typing import Final

from core import rr
from core.wire import HEADER, MAX_RECORDS, SIGNATURES, Message, Record, expand_name, expand_rdata, skip_name

MAX_POINTER: Final = 0x4000  # a compression pointer has 14 bits, RFC 1035 section 4.1.4

_COUNTS: Final = Struct("!3H")
_FIXED: Final = Struct("!HHIH")  # type, class, TTL, RDLENGTH
_U16: Final = Struct("!H")
# octets before the first name and how many names follow: the types whose names may be compressed, RFC 3597 section 4
_COMPRESSED: Final[dict[int, tuple[int, int]]] = {
    rr.NS: (0, 1), 3: (0, 1), 4: (0, 1), rr.CNAME: (0, 1), rr.SOA: (0, 2), 7: (0, 1), 8: (0, 1), 9: (0, 1),
    rr.PTR: (0, 1), 14: (0, 2), rr.MX: (2, 1),
}  # fmt: skip


class Form:
    """A reply body ready to be served behind a question of the length it was made for.

    Its compression pointers reach into that question. `tail` is where the additional section begins, -1 for none.
    """

    __slots__ = ("body", "counts", "tail", "ttls")

    def __init__(self, counts: bytes, body: bytes, ttls: tuple[tuple[int, int], ...], tail: int = -1) -> None:
        self.counts = counts  # ANCOUNT, NSCOUNT, ARCOUNT without OPT: six octets
        self.body = body
        self.ttls = ttls  # (offset in body, TTL in seconds)
        self.tail = tail

    def lasting(self, ttls: tuple[tuple[int, int], ...]) -> Form:
        """Return it with other TTLs."""
        return Form(self.counts, self.body, ttls, self.tail)

    def shortened(self) -> Form:
        """Return it without the additional section, which goes before anything is truncated (RFC 2181 section 9)."""
        ttls = tuple([(at, ttl) for at, ttl in self.ttls if at < self.tail])
        return Form(self.counts[:4] + b"\x00\x00", self.body[: self.tail], ttls)


def cut(data: bytes, message: Message, *, signatures: bool) -> Form:
    """Return the reply without OPT and, unless wanted, the DNSSEC records nobody asked for (RFC 4035 section 3.2.1).

    Where records go from the middle, the rest is written anew so that no pointer is left hanging.
    """
    base, records = message.answers_at, message.records
    keep = records
    if message.signed and not signatures:
        qtype = message.qtype
        keep = [record for record in records if record.rtype not in SIGNATURES or record.rtype == qtype]
    size = len(keep)
    whole = not size or keep[-1] is records[size - 1]  # from the first to the last of them nothing goes
    if not whole or not (message.opt_at < 0 or size <= message.opt_at < MAX_RECORDS):
        return _written(data, message, keep)
    counts = data[6:10] + _U16.pack(_U16.unpack_from(data, 10)[0] - (message.opt_at >= 0))
    if size < len(records):
        counts = _count(keep)
    body = data[base : keep[-1].end if size else base]
    return Form(counts, body, tuple([(record.ttl_at - base, record.ttl) for record in keep]), _tail(keep, base))


def _count(records: list[Record]) -> bytes:
    counts = [0, 0, 0]
    for record in records:
        counts[record.section - 1] += 1
    return _COUNTS.pack(*counts)


def _tail(records: list[Record], base: int) -> int:
    if records and records[-1].section == 3:
        return next(record.owner for record in records if record.section == 3) - base
    return -1


def _written(data: bytes, message: Message, keep: list[Record]) -> Form:
    """Write the records one behind the other, with compression of our own."""
    writer = _Writer(message.answers_at, expand_name(data, HEADER))
    ttls = []
    tail = -1
    for record in keep:
        if record.section == 3 and tail < 0:
            tail = len(writer.body)
        ttls.append((writer.add(data, record), record.ttl))
    return Form(_count(keep), bytes(writer.body), tuple(ttls), tail)


class _Writer:
    """A body being written: `base` is the offset in the message at which it begins."""

    def __init__(self, base: int, question: bytes) -> None:
        self.body = bytearray()
        self._base = base
        self._known: dict[bytes, int] = {}  # where each name and each of its parents stands
        self._note(question, HEADER)

    def add(self, data: bytes, record: Record) -> int:
        """Write a record of the message `data`; returns where in the body its TTL stands."""
        self._name(expand_name(data, record.owner))
        ttl_at = len(self.body) + 4
        self.body += _FIXED.pack(record.rtype, record.rclass, record.ttl, 0)
        start = len(self.body)
        plain = expand_rdata(data, record)
        lead, names = _COMPRESSED.get(record.rtype, (0, 0))
        if names:
            self._rdata(plain, lead, names)
        else:
            self.body += plain
        _U16.pack_into(self.body, start - 2, len(self.body) - start)
        return ttl_at

    def _rdata(self, plain: bytes, lead: int, names: int) -> None:
        self.body += plain[:lead]
        at = lead
        for _ in range(names):
            end = skip_name(plain, at)
            self._name(plain[at:end])
            at = end
        self.body += plain[at:]

    def _name(self, name: bytes) -> None:
        """Write a name, its longest known parent as a pointer."""
        at = 0
        while name[at]:
            target = self._known.get(name[at:])
            if target is not None:
                break
            at += name[at] + 1
        else:
            target = -1
        self._note(name[:at], self._base + len(self.body), name)
        self.body += name[:at] + (b"\x00" if target < 0 else _U16.pack(0xC000 | target))

    def _note(self, labels: bytes, at: int, name: bytes = b"") -> None:
        """Remember where the first labels of a name stand, with all that follows them."""
        name = name or labels
        place = 0
        while place < len(labels) and labels[place]:
            if at + place < MAX_POINTER:
                self._known.setdefault(name[place:], at + place)
            place += labels[place] + 1
