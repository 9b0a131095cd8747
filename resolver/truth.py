"""What a reply truly says of a name: the addresses at the end of its chain, hints, and the names to ask next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from core import rr
from core.errors import Malformed
from core.wire import Message, Record, read_name, skip_name, walk

if TYPE_CHECKING:
    from core.names import Name

MAX_ADDRESSES: Final = 64  # of one reply; whoever gives more wants a table filled
MAX_TARGETS: Final = 8  # names to ask next
_LENGTHS: Final = {rr.A: 4, rr.AAAA: 16}
_HINTS: Final = {4: 4, 6: 16}  # SvcParamKey ipv4hint and ipv6hint, and the octets of one: RFC 9460 section 7.3


class Truth(NamedTuple):
    """What a reply to one question said. `ttl` is in seconds, the lowest on the way; 0 when it said nothing."""

    addresses: tuple[bytes, ...] = ()
    targets: tuple[Name, ...] = ()  # name servers, or where a service is
    ttl: int = 0


def read_truth(data: bytes, qname: Name) -> Truth:
    """Return what a reply says of `qname`; raises Malformed. Records of names off its chain are passed over."""
    message = walk(data)
    if message.rcode != rr.Rcode.NOERROR or message.qname != qname:
        return Truth()
    records = [record for record in message.records if record.section == 1 and record.rclass == rr.CLASS_IN]
    chain, lowest = _chain(data, records, qname)
    addresses: dict[bytes, None] = {}
    targets: dict[Name, None] = {}
    for record in _answering(data, message, records, chain):
        lowest.append(record.ttl)
        if (length := _LENGTHS.get(record.rtype)) is not None:
            if record.end - record.rdata != length:
                raise Malformed("an address record of the wrong size")
            addresses[data[record.rdata : record.end]] = None
        elif record.rtype == rr.NS:
            targets[read_name(data, record.rdata)] = None
        else:
            target, hints = _service(data, record)
            addresses.update(dict.fromkeys(hints))
            if len(target) > 1 and target not in chain:
                targets[target] = None
    found = tuple(addresses)[:MAX_ADDRESSES], tuple(targets)[:MAX_TARGETS]
    return Truth(*found, min(lowest) if any(found) else 0)


def _chain(data: bytes, records: list[Record], qname: Name) -> tuple[set[Name], list[int]]:
    """Return the question's name with all it is an alias of, and the TTLs of the aliases."""
    aliases = {
        read_name(data, record.owner): (read_name(data, record.rdata), record.ttl)
        for record in records
        if record.rtype == rr.CNAME
    }
    chain, ttls, name = {qname}, list[int](), qname
    while name in aliases:
        name, ttl = aliases[name]
        if name in chain:
            break
        chain.add(name)
        ttls.append(ttl)
    return chain, ttls


def _answering(data: bytes, message: Message, records: list[Record], chain: set[Name]) -> list[Record]:
    """Return the records of the type asked for that belong to the chain."""
    return [record for record in records if record.rtype == message.qtype and read_name(data, record.owner) in chain]


def _service(data: bytes, record: Record) -> tuple[Name, list[bytes]]:
    """Return target name and address hints of an HTTPS record (RFC 9460 section 2.2)."""
    target = read_name(data, record.rdata + 2)
    at, hints = skip_name(data, record.rdata + 2), list[bytes]()
    while at + 4 <= record.end:
        key, size = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : at + 4], "big")
        at += 4
        if at + size > record.end:
            raise Malformed("service parameter runs past its record")
        if (step := _HINTS.get(key, 0)) > 0:
            hints += [data[i : i + step] for i in range(at, at + size - step + 1, step)]
        at += size
    return target, hints
