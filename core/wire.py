"""DNS messages as bytes: read a query, walk a reply. Hostile bytes are the normal input.

Rules:
1. Every read is checked against the message's end; the only error raised is `Malformed`.
2. A compression pointer must point backwards (RFC 1035 section 4.1.4), so that no message can loop, and not into the
   header.
3. Nothing here allocates more than a small multiple of the message it was given.
"""

from __future__ import annotations

from struct import Struct
from struct import error as struct_error
from typing import Final

from core import rr
from core.errors import Malformed
from core.names import MAX_NAME, Name

HEADER: Final = 12  # octets
MAX_MESSAGE: Final = 65_535  # octets, the largest a TCP length prefix can say
_NO_TTL: Final = 2**32  # above every TTL
MAX_RECORDS: Final = 4_096  # of one reply; 64 kB hold 5,957 of the smallest kind, no honest reply comes near

_HEAD: Final = Struct("!6H")
_TYPE_CLASS: Final = Struct("!HH")
_FIXED: Final = Struct("!HHIH")  # type, class, TTL, RDLENGTH

COOKIE: Final = 10  # EDNS option codes, RFC 7873, RFC 5001, RFC 7828
NSID: Final = 3
KEEPALIVE: Final = 11
ASKS_COOKIE: Final = 1
ASKS_NSID: Final = 2
ASKS_KEEPALIVE: Final = 4
_ASKS: Final[dict[int, int]] = {COOKIE: ASKS_COOKIE, NSID: ASKS_NSID, KEEPALIVE: ASKS_KEEPALIVE}

SIGNATURES: Final = frozenset((rr.RRSIG, rr.NSEC, rr.NSEC3))
_NAME_RDATA: Final[dict[int, int]] = {
    # types whose RDATA is `n` octets and then one name that may be compressed (RFC 1035, RFC 3597 section 4)
    rr.NS: 0, 3: 0, 4: 0, rr.CNAME: 0, 7: 0, 8: 0, 9: 0, rr.PTR: 0, rr.MX: 2, 18: 2, 21: 2, rr.SRV: 6, 36: 2,
    rr.DNAME: 0,
}  # fmt: skip
_TWO_NAMES: Final = frozenset((rr.SOA, 14, 17))  # SOA, MINFO, RP: two names, then the rest


class Query:
    """A question as a client put it. `question` keeps the client's case; `qname` is folded."""

    __slots__ = (
        "asks", "cd", "cookie", "do", "edns", "flags", "odd", "options", "qclass", "qname", "qtype", "question",
        "udp_size", "version",
    )  # fmt: skip

    def __init__(self, flags: int, question: bytes, qname: Name, qtype: int, qclass: int) -> None:
        self.flags = flags
        self.question = question
        self.qname = qname
        self.qtype = qtype
        self.qclass = qclass
        self.edns = False
        self.version = 0
        self.udp_size = 512
        self.do = False
        self.cd = flags & rr.CD
        self.asks = 0  # which options want an answer of ours: ASKS_*
        self.cookie = b""  # the COOKIE option as it was sent
        self.options = b""  # the EDNS options of the reply, set by whoever answers those of the query
        self.odd = (qclass ^ rr.CLASS_IN) | flags & rr.OPCODE  # nothing that is looked up: refused

    @property
    def key(self) -> bytes:
        """What tells one cached answer from another: folded question and the CD bit."""
        return self.qname + self.question[-4:] + (b"\x01" if self.cd else b"\x00")


class Record:
    """Where one resource record lies in a message: offsets into it."""

    __slots__ = ("end", "owner", "rclass", "rdata", "rtype", "section", "ttl", "ttl_at")

    def __init__(  # noqa: PLR0917 - made for every record of every reply
        self, section: int, owner: int, rtype: int, rclass: int, ttl: int, rdata: int, end: int
    ) -> None:
        self.section = section  # 1 answer, 2 authority, 3 additional
        self.owner = owner
        self.rtype = rtype
        self.rclass = rclass
        self.ttl_at = rdata - 6
        self.ttl = ttl
        self.rdata = rdata
        self.end = end


class Message:
    """A walked reply."""

    __slots__ = ("answers_at", "flags", "lowest", "opt_at", "qname", "qtype", "rcode", "records", "signed")

    def __init__(self, flags: int, qname: Name, qtype: int, answers_at: int) -> None:
        self.flags = flags
        self.rcode = flags & 0xF
        self.qname = qname
        self.qtype = qtype
        self.answers_at = answers_at  # the offset behind the question section
        self.records: list[Record] = []  # without OPT
        self.opt_at = -1  # index in `records` where OPT stood, -1 for none
        self.signed = False  # has records only DNSSEC needs
        self.lowest = 0  # TTL in seconds, over all records; 0 when there are none


def read_query(data: bytes) -> Query:
    """Read a client's query; raises Malformed (answerable when FORMERR may be sent)."""
    end = len(data)
    if end < HEADER:
        raise Malformed("shorter than a header")
    _, flags, questions, answers, authority, additional = _HEAD.unpack_from(data)
    if flags & (rr.QR | rr.OPCODE):
        return _read_other(flags)
    if questions != 1 or answers or authority:
        return _read_bare(data, flags, questions + answers + authority, additional)
    at = HEADER
    while True:
        if at >= end:
            raise Malformed("question name runs past the end", answerable=True)
        size = data[at]
        if not size:
            break
        if size > 63:
            raise Malformed("compressed or overlong label in the question", answerable=True)
        at += size + 1
    at += 5
    if at > end or at - HEADER - 4 > MAX_NAME:
        raise Malformed("question cut short or its name too long", answerable=True)
    question = data[HEADER:at]
    qtype, qclass = _TYPE_CLASS.unpack_from(data, at - 4)
    query = Query(flags, question, question[:-4].lower(), qtype, qclass)
    if additional or at != end:
        _read_additional(data, at, additional, query)
    return query


def _read_other(flags: int) -> Query:
    """Return what is no standard query, unread: what follows its header has another meaning."""
    if flags & rr.QR:
        raise Malformed("a reply where a query was due")
    return Query(flags, b"", b"\x00", 0, rr.CLASS_IN)


def _read_bare(data: bytes, flags: int, records: int, additional: int) -> Query:
    """Read a query that has not one question: with none it may ask for a cookie (RFC 7873 section 5.4)."""
    if records:
        raise Malformed("a query has one question and nothing else", answerable=True)
    query = Query(flags, b"", b"\x00", 0, rr.CLASS_IN)
    _read_additional(data, HEADER, additional, query)
    if not query.cookie:
        raise Malformed("a query has one question and nothing else", answerable=True)
    return query


def _read_additional(data: bytes, at: int, count: int, query: Query) -> None:
    """Read the additional section of a query for its OPT record (RFC 6891 section 6.1.1: at most one, root owner)."""
    for _ in range(count):
        owner = at
        at = skip_name(data, at)
        try:
            rtype, size, ttl, length = _FIXED.unpack_from(data, at)
        except struct_error:
            raise Malformed("additional record cut short", answerable=True) from None
        at += 10 + length
        if at > len(data):
            raise Malformed("additional record runs past the end", answerable=True)
        if rtype != rr.OPT:
            continue
        if query.edns or data[owner]:
            raise Malformed("second OPT record, or one with an owner name", answerable=True)
        if length:
            _read_options(data, at - length, at, query)
        query.edns = True
        query.udp_size = max(size, 512)
        query.version = ttl >> 16 & 0xFF
        query.odd |= query.version
        query.do = bool(ttl & rr.DO)
    if at != len(data):
        raise Malformed("bytes behind the last record", answerable=True)


def _read_options(data: bytes, at: int, end: int, query: Query) -> None:
    """Walk the options (RFC 6891 section 6.1.2) and note those that want an answer; the first of each kind counts."""
    while at < end:
        if at + 4 > end:
            raise Malformed("EDNS option cut short", answerable=True)
        code = data[at] << 8 | data[at + 1]
        size = data[at + 2] << 8 | data[at + 3]
        at += 4 + size
        if at > end:
            raise Malformed("EDNS option runs past its record", answerable=True)
        asks = _ASKS.get(code, 0)
        if asks == ASKS_COOKIE and not query.cookie:
            if size != 8 and not 16 <= size <= 40:
                raise Malformed("a cookie of a size that RFC 7873 section 4 does not know", answerable=True)
            query.cookie = data[at - size : at]
        query.asks |= asks


def skip_name(data: bytes, at: int) -> int:
    """Return the offset behind the name at `at`."""
    end = len(data)
    while at < end:
        size = data[at]
        if size >= 0xC0:
            if at + 2 > end:
                break
            return at + 2
        if size > 63:
            raise Malformed("unknown label type", answerable=True)
        at += size + 1
        if not size:
            return at
    raise Malformed("name runs past the end", answerable=True)


def read_name(data: bytes, at: int) -> Name:
    """Return the folded name at `at`, decompressed; every pointer must point before the run of labels it ends."""
    return name_in_case(data, at).lower()


def name_in_case(data: bytes, at: int) -> bytes:
    """Return the same name as it is written: upper and lower case may carry something."""
    parts: list[bytes] = []
    total = 1
    bound = at
    end = len(data)
    while at < end:
        size = data[at]
        if size >= 0xC0:
            if at + 2 > end:
                break
            target = (size & 0x3F) << 8 | data[at + 1]
            if not HEADER <= target < bound:  # the header a client gets is another one
                raise Malformed("compression pointer does not point backwards into the message")
            at = bound = target
            continue
        if size > 63:
            raise Malformed("unknown label type")
        if not size:
            return b"".join(parts) + b"\x00"
        after = at + size + 1
        total += size + 1
        if total > MAX_NAME:
            raise Malformed("name longer than 255 octets")
        parts.append(data[at:after])
        at = after
    raise Malformed("name runs past the end")


def walk(data: bytes) -> Message:
    """Walk a whole reply; raises Malformed when any part of it does not hold together."""
    size = len(data)
    if size < HEADER:
        raise Malformed("shorter than a header")
    _, flags, questions, answers, authority, additional = _HEAD.unpack_from(data)
    total = answers + authority + additional
    if questions != 1 or total > MAX_RECORDS:
        raise Malformed("a reply repeats one question and has a sane number of records")
    qname = read_name(data, HEADER)
    at = skip_name(data, HEADER) + 4
    if at > size:
        raise Malformed("question cut short")
    message = Message(flags, qname, data[at - 4] << 8 | data[at - 3], at)
    records = message.records
    lowest = _NO_TTL
    for number in range(total):
        owner = at
        at = at + 2 if at + 2 <= size and data[at] >= 0xC0 else skip_name(data, at)
        try:
            rtype, rclass, ttl, length = _FIXED.unpack_from(data, at)
        except struct_error:
            raise Malformed("record cut short") from None
        end = at + 10 + length
        if end > size:
            raise Malformed("record runs past the end")
        if rtype == rr.OPT:
            if number < answers + authority:
                raise Malformed("an OPT record outside the additional section")
            message.rcode |= (ttl >> 24) << 4
            message.opt_at = len(records) if message.opt_at < 0 else MAX_RECORDS
        else:
            section = 1 if number < answers else 2 if number < answers + authority else 3
            records.append(Record(section, owner, rtype, rclass, ttl, at + 10, end))
            lowest = min(lowest, ttl)
            message.signed = message.signed or rtype in SIGNATURES
        at = end
    message.lowest = lowest if records else 0
    return message


def expand_rdata(data: bytes, record: Record) -> bytes:
    """Return the RDATA with every compressed name in it written out."""
    rtype, at, end = record.rtype, record.rdata, record.end
    if rtype in _TWO_NAMES:
        second = skip_name(data, at)
        rest = skip_name(data, second)
        if rest > end:
            raise Malformed("names run past their RDATA")
        return expand_name(data, at) + expand_name(data, second) + data[rest:end]
    lead = _NAME_RDATA.get(rtype)
    if lead is None:
        return data[at:end]
    if at + lead >= end or skip_name(data, at + lead) > end:
        raise Malformed("name runs past its RDATA")
    return data[at : at + lead] + expand_name(data, at + lead)


def expand_name(data: bytes, at: int) -> bytes:
    """Return the name at `at`, decompressed, in the case it came in."""
    parts: list[bytes] = []
    read_name(data, at)  # proves that the walk below ends inside the message
    while data[at]:
        if data[at] >= 0xC0:
            at = (data[at] & 0x3F) << 8 | data[at + 1]
            continue
        after = at + data[at] + 1
        parts.append(data[at:after])
        at = after
    return b"".join(parts) + b"\x00"
