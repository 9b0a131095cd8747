"""Targets around the wire cursor: queries, replies, EDNS options, echoes. dnspython is the second opinion.

A target takes any bytes and returns; an AssertionError, or any error that crosses it, is a crash.
"""

from __future__ import annotations

from collections import Counter
from struct import pack
from typing import TYPE_CHECKING, Any, Final

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.opcode
import dns.rdataclass
import dns.rdatatype

from core import rr
from core.cut import Form, cut
from core.errors import Malformed
from core.names import MAX_NAME
from core.verdict import Trigger
from core.wire import (
    HEADER,
    SIGNATURES,
    Message,
    Query,
    Record,
    expand_rdata,
    read_name,
    read_query,
    skip_name,
    walk,
)
from resolver.cookies import well_formed
from resolver.subjects import MAX_SUBJECTS, Subject, subjects
from resolver.upstream import Question
from resolver.upstream.echo import Echo, compare, is_reply, mix_case, section

if TYPE_CHECKING:
    from collections.abc import Sequence


GROWTH: Final = 32  # times its own size that a reply written anew may take: names are at most 255 octets
OPT_HEAD: Final = 6  # octets of the data of `edns` that are the OPT record's class and TTL
_STANDARD: Final = frozenset((dns.opcode.QUERY,))
_NAMED: Final = frozenset((rr.NS, rr.CNAME, rr.PTR, rr.DNAME, rr.MX, rr.SOA, rr.SRV, rr.A, rr.AAAA))


def query(data: bytes) -> None:
    """A query is Malformed, or read as dnspython reads it."""
    read = theirs(data)
    try:
        ours = read_query(data)
    except Malformed as error:
        assert error.answerable == (len(data) >= HEADER and not data[2] & 0x80)
        assert read is None or not _plain(read, data), f"refused though it is a plain query: {error}"
        return
    assert len(ours.question) <= MAX_NAME + 4
    if not ours.question:
        assert well_formed(ours.cookie) or ours.flags & rr.OPCODE
        return
    assert ours.question == data[HEADER : HEADER + len(ours.question)]
    assert ours.qname == ours.question[:-4].lower() == read_name(data, HEADER)
    assert ours.udp_size >= 512
    if read is not None:
        _same_query(ours, read)


def _plain(message: dns.message.Message, data: bytes) -> bool:
    """True for what every resolver must read: a query with one question, its name written out, and at most an OPT."""
    one = len(message.question) == 1 and not message.answer and not message.authority and not message.additional
    return (
        one
        and message.opcode() in _STANDARD
        and not message.flags & dns.flags.QR
        and data[HEADER:].startswith(message.question[0].name.to_wire() or b"\xff")
    )


def _same_query(ours: Query, read: dns.message.Message) -> None:
    [question] = read.question
    assert question.name.canonicalize().to_wire() == ours.qname
    assert (question.rdtype, question.rdclass) == (ours.qtype, ours.qclass)
    assert (read.edns >= 0) == ours.edns
    if ours.edns:
        assert read.edns == ours.version
        assert max(read.payload, 512) == ours.udp_size
        assert bool(read.ednsflags & dns.flags.DO) == ours.do
        cookies = [option.to_wire() for option in read.options if option.otype == dns.edns.OptionType.COOKIE]
        assert (cookies[0] if cookies else b"") == ours.cookie


def edns(data: bytes) -> None:
    """An OPT record made of `data` is refused exactly when it must be."""
    options = data[OPT_HEAD:][:60_000]
    opt = b"\x00\x00\x29" + data[:OPT_HEAD].ljust(OPT_HEAD, b"\x00") + pack("!H", len(options)) + options
    message = b"\x12\x34\x01\x00\x00\x01" + b"\x00" * 5 + b"\x01\x01a\x00\x00\x01\x00\x01" + opt
    found = _options(options)
    try:
        ours = read_query(message)
    except Malformed:
        assert found is None or any(not well_formed(body) for code, body in found[:1_000] if code == 10)
        return
    assert found is not None
    cookies = [body for code, body in found if code == 10]
    assert ours.cookie == (cookies[0] if cookies else b"")
    assert ours.edns
    query(message)


def _options(data: bytes) -> list[tuple[int, bytes]] | None:
    """Return (code, data) of each option, None when one does not fit: written another way than the reader's."""
    found = []
    while data:
        code, size, rest = data[:2], int.from_bytes(data[2:4], "big"), data[4:]
        if len(data) < 4 or size > len(rest):
            return None
        found.append((int.from_bytes(code, "big"), rest[:size]))
        data = rest[size:]
    return found


def reply(data: bytes) -> None:
    """A reply is Malformed, or walked as dnspython does; what is cut from it walks again and says the same."""
    read = theirs(data, trailing=True)
    try:
        message = walk(data)
    except Malformed:
        return
    assert message.lowest == min((record.ttl for record in message.records), default=0)
    ours = _meanings(data, message.records)
    if read is not None and ours is not None:
        _same_records(message, read, data)
    for signatures in (False, True):
        _cut(data, message, ours, signatures=signatures)
    _judged(data, message, read)


Meaning = tuple[int, bytes, int, int, int, bytes]


def _meanings(data: bytes, records: Sequence[Record]) -> list[Meaning] | None:
    """What each record says, wherever it stands; None when a part of one does not hold together."""
    try:
        return [
            (one.section, read_name(data, one.owner), one.rtype, one.rclass, one.ttl, expand_rdata(data, one))
            for one in records
        ]
    except Malformed:
        return None


def _same_records(message: Message, read: dns.message.Message, data: bytes) -> None:
    found = [(at, rrset) for at, part in enumerate(read.sections[1:], 1) for rrset in part]
    assert len(found) == len(message.records)
    assert message.rcode == read.rcode()
    assert message.flags == read.flags | message.flags & 0x0F
    for ours, (at, rrset) in zip(message.records, found, strict=True):
        assert (ours.section, ours.rtype, ours.rclass) == (at, rrset.rdtype, rrset.rdclass)
        assert rrset.name.canonicalize().to_wire() == read_name(data, ours.owner)
        assert rrset.ttl == (ours.ttl if ours.ttl < 2**31 else 0)  # dnspython holds to RFC 2181, we cap: RFC 8767
        if ours.rtype in _NAMED and ours.rclass == rr.CLASS_IN and len(rrset):
            assert (rrset[0].to_wire() or b"").lower() == expand_rdata(data, ours).lower()


def _cut(data: bytes, message: Message, ours: list[Meaning] | None, *, signatures: bool) -> None:
    try:
        form = cut(data, message, signatures=signatures)
    except Malformed:
        assert ours is None
        return
    assert len(form.body) <= GROWTH * len(data)
    if data[HEADER] >= 0xC0 or ours is None or message.answers_at - HEADER - 4 != len(message.qname):
        return  # no engine lets a reply pass that does not repeat the question as it was written
    kept = [
        one for one in ours if signatures or one[2] not in SIGNATURES or one[2] == message.qtype or not message.signed
    ]
    assert _again(data, message, form) == kept
    for at, ttl in form.ttls:
        assert form.body[at : at + 4] == pack("!I", ttl)
    if form.tail >= 0:
        assert _again(data, message, form.shortened()) == [one for one in kept if one[0] != 3]


def _again(data: bytes, message: Message, form: Form) -> list[Meaning] | None:
    whole = data[:6] + form.counts + data[HEADER : message.answers_at] + form.body
    return _meanings(whole, walk(whole).records)


def _judged(data: bytes, message: Message, read: dns.message.Message | None) -> None:
    try:
        found, addresses = subjects(data, message)
    except Malformed:
        return
    assert len(found) <= MAX_SUBJECTS
    assert len(found) == len(set(found))
    assert all(len(address) in {4, 16} for address in addresses)
    assert all(len(one.value) in {4, 16} for one in found if one.address)
    hints = {one for record in message.records for one in hints_of(data, record)}
    assert hints <= set(found), "a hint is not judged"
    if read is not None:
        missed = [one for one in _subjects(read) if one not in found]
        assert not missed, f"not judged: {missed}"


def hints_of(data: bytes, record: Record) -> list[Subject]:
    """The address hints of a service record as a client reads them that lets its target be compressed."""
    if record.rtype not in {rr.SVCB, rr.HTTPS} or record.rclass != rr.CLASS_IN or record.section == 3:
        return []
    options = _options(data[skip_name(data, record.rdata + 2) : record.end]) or []
    return [one for key, value in options for one in _addresses(key, value)]


def _addresses(key: int, value: bytes) -> list[Subject]:
    """The addresses of an SvcParam, RFC 9460 section 7.3."""
    step = {4: 4, 6: 16}.get(key, 0)
    starts = range(0, len(value) - step + 1, step) if step else ()
    return [Subject(Trigger.HINT, value[at : at + step], address=True) for at in starts]


def _subjects(message: dns.message.Message) -> list[Subject]:
    """What dnspython sees in a reply that a client may act upon."""
    found: list[Subject] = []
    for rrset in (*message.answer, *message.authority):
        if rrset.rdclass != dns.rdataclass.IN:
            continue
        for item in rrset:
            found += _subjects_of(item)
    return found


def _subjects_of(item: Any) -> list[Subject]:
    kind = item.rdtype
    if kind in {dns.rdatatype.A, dns.rdatatype.AAAA}:
        return [Subject(Trigger.ADDRESS, item.to_wire() or b"", address=True)]
    if kind in {dns.rdatatype.CNAME, dns.rdatatype.NS}:
        trigger = Trigger.CNAME if kind == dns.rdatatype.CNAME else Trigger.NSDNAME
        return [Subject(trigger, (item.to_wire() or b"").lower())]
    if kind not in {dns.rdatatype.SVCB, dns.rdatatype.HTTPS}:
        return []
    target = item.target.canonicalize().to_wire()
    found = [Subject(Trigger.HINT, target)] if len(target) > 1 else []
    options = _options((item.to_wire() or b"")[2 + len(target) :]) or []
    return found + [one for key, value in options for one in _addresses(key, value)]


def echo(data: bytes) -> None:
    """What is taken for the reply to a question repeats it; no bytes are trouble."""
    try:
        name = read_name(data[-MAX_NAME:], 0)
    except Malformed:
        name = b"\x07example\x03com\x00"
    question = section(Question(name, rr.A, rr.CLASS_IN))
    asked = mix_case(name, data.ljust(len(name), b"\x5a")[: len(name)]) + question[-4:]
    assert asked.lower() == question.lower()
    same = data[:HEADER].ljust(HEADER, b"\x00") + asked + data[HEADER:]
    for wire in (data, same, same.lower(), data[:HEADER] + question):
        found = compare(wire, asked)
        assert is_reply(wire, asked) == (found is Echo.REPLY)
        if found in {Echo.REPLY, Echo.MISCASED}:
            assert wire[2] & 0xF8 == 0x80
            assert wire[HEADER : HEADER + len(asked)].lower() == asked.lower()
            assert read_name(wire, HEADER) == name
        elif found is Echo.BARE:
            assert wire[4:6] == b"\x00\x00"
            assert wire[3] & 0x0F in {1, 4}


def theirs(data: bytes, *, trailing: bool = False) -> dns.message.Message | None:
    """Return the message as dnspython reads it, None when it does not."""
    try:
        found = dns.message.from_wire(data, ignore_trailing=trailing, one_rr_per_rrset=True)
    except Exception:  # noqa: BLE001  whatever it stumbles over, it has no opinion
        return None
    return found if found.opcode() != dns.opcode.UPDATE else None


def census(data: bytes) -> Counter[int]:
    """Count the record types of a message, to see in a test that seeds reach what they are for."""
    try:
        return Counter(record.rtype for record in walk(data).records)
    except Malformed:
        return Counter()
