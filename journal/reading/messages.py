"""A DNS message of a capture: what it asks, and of a reply what it answers."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final, NamedTuple

from core import rr
from core.errors import Malformed
from core.wire import HEADER, expand_rdata, read_name, skip_name, walk
from detectors.sight import MAX_PAYLOAD

if TYPE_CHECKING:
    from core.names import Name

ANSWER: Final = 1  # section of core.wire.Record
_HEAD: Final = Struct("!3H")
_TYPE: Final = Struct("!H")


class Reply(NamedTuple):
    """What came back. `ttl` in seconds, `size` in octets."""

    rcode: int
    ttl: int = 0
    size: int = 0
    addresses: tuple[bytes, ...] = ()
    payload: bytes = b""


class Told(NamedTuple):
    """One message. `qname` is None in a reply that does not repeat its question."""

    number: int  # the ID
    qname: Name | None
    qtype: int
    reply: Reply | None  # None: it is a query


def read(data: bytes) -> Told | None:
    """Return what a message says, None when it is no standard query or reply; raises Malformed."""
    if len(data) < HEADER:
        raise Malformed("shorter than a header")
    number, flags, questions = _HEAD.unpack_from(data)
    if flags & rr.OPCODE:
        return None
    qname, qtype = None, 0
    if questions:
        qname = read_name(data, HEADER)
        at = skip_name(data, HEADER)
        if at + 4 > len(data):
            raise Malformed("question cut short")
        qtype = _TYPE.unpack_from(data, at)[0]
    if flags & rr.QR:
        return Told(number, qname, qtype, _reply(data, flags))
    if qname is None:
        raise Malformed("a query that asks nothing")
    return Told(number, qname, qtype, None)


def _reply(data: bytes, flags: int) -> Reply:
    """Return what a reply answers; of one that does not hold together only its code and size."""
    try:
        message = walk(data)
    except Malformed:
        return Reply(flags & 0xF, size=len(data))
    addresses: list[bytes] = []
    payload: list[bytes] = []
    ttl, room = 0, MAX_PAYLOAD
    for at, record in enumerate(message.records):
        if record.section != ANSWER:
            break
        ttl = record.ttl if at == 0 else min(ttl, record.ttl)
        size = record.end - record.rdata
        if (record.rtype == rr.A and size == 4) or (record.rtype == rr.AAAA and size == 16):
            addresses.append(data[record.rdata : record.end])
        elif room > 0:
            try:
                found = expand_rdata(data, record)
            except Malformed:
                found = data[record.rdata : record.end]
            payload.append(found)
            room -= len(found)
    return Reply(message.rcode, ttl, len(data), tuple(addresses), b"".join(payload)[:MAX_PAYLOAD])
