"""What there is to judge in a reply besides its question: chain members, addresses, hints, name servers."""

from __future__ import annotations

from typing import Final, NamedTuple

from core import rr
from core.errors import Malformed
from core.verdict import Trigger
from core.wire import Message, Record, name_in_case, read_name, skip_name
from detectors.sight import MAX_PAYLOAD

_IPV4HINT: Final = 4  # SvcParamKey, RFC 9460 section 14.3.2
_IPV6HINT: Final = 6
_ADDRESSES: Final = frozenset((rr.A, rr.AAAA))
_ADDRESS: Final = Trigger.ADDRESS  # enum members are slow to reach through their class
_CNAME: Final = Trigger.CNAME
_NSDNAME: Final = Trigger.NSDNAME
_HINT: Final = Trigger.HINT
_SERVICES: Final = frozenset((rr.HTTPS, rr.SVCB))
_BEFORE_NAME: Final = {rr.CNAME: 0, rr.NS: 0, rr.PTR: 0, rr.DNAME: 0, rr.MX: 2, rr.SRV: 6}  # octets
MAX_SUBJECTS: Final = 1_024  # of one reply; no honest one comes near, and what is not judged must not be served


class Subject(NamedTuple):
    """One folded name, or one address of 4 or 16 octets, and where it stood."""

    trigger: Trigger
    value: bytes
    address: bool = False


def subjects(data: bytes, message: Message) -> tuple[list[Subject], list[bytes]]:
    """Return what is to be judged in a reply, each once, and the addresses of its answer section."""
    found: dict[Subject, None] = {}
    addresses: list[bytes] = []
    for record in message.records:
        rtype = record.rtype
        if record.rclass != rr.CLASS_IN or record.section == 3:
            continue
        if rtype in _ADDRESSES:
            address = data[record.rdata : record.end]
            if len(address) != (4 if rtype == rr.A else 16):
                raise Malformed("an address record of the wrong size")
            addresses.append(address)
            found[Subject(_ADDRESS, address, address=True)] = None
        elif rtype == rr.CNAME:
            found[Subject(_CNAME, read_name(data, record.rdata))] = None
        elif rtype == rr.NS:
            found[Subject(_NSDNAME, read_name(data, record.rdata))] = None
        elif rtype in _SERVICES:
            found.update(dict.fromkeys(_service(data, record)))
    if len(found) > MAX_SUBJECTS:
        raise Malformed(f"more than {MAX_SUBJECTS} names and addresses")
    return list(found), addresses


def payload(data: bytes, message: Message) -> bytes:
    """Return the record data of the answer section that is no address, its names whole, MAX_PAYLOAD octets at most."""
    parts: list[bytes] = []
    size = 0
    for record in message.records:
        if record.section != 1 or record.rtype in _ADDRESSES or size >= MAX_PAYLOAD:
            continue
        fixed = _BEFORE_NAME.get(record.rtype, -1)
        at = record.rdata + fixed
        part = data[record.rdata : record.end] if fixed < 0 else data[record.rdata : at] + name_in_case(data, at)
        parts.append(part)
        size += len(part)
    return b"".join(parts)[:MAX_PAYLOAD]


def _service(data: bytes, record: Record) -> list[Subject]:
    """Target name and address hints of an SVCB or HTTPS record (RFC 9460 section 2.2)."""
    at, end = record.rdata + 2, record.end
    target = read_name(data, at)
    found = [Subject(_HINT, target)] if len(target) > 1 else []
    at = skip_name(data, at)  # some compress the target, though they must not
    while at + 4 <= end:
        key = data[at] << 8 | data[at + 1]
        size = data[at + 2] << 8 | data[at + 3]
        at += 4
        if at + size > end:
            raise Malformed("service parameter runs past its record")
        step = 4 if key == _IPV4HINT else 16 if key == _IPV6HINT else 0
        if step:
            found += [Subject(_HINT, data[i : i + step], address=True) for i in range(at, at + size - step + 1, step)]
        at += size
    return found
