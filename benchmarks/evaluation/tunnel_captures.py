"""Captures and logs of the data folder as sights: pcap and pcapng over UDP, and the CSV files of the data folder."""

from __future__ import annotations

import re
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation.data import rows
from core.errors import BadName
from core.names import Name, from_text
from detectors.sight import MAX_PAYLOAD, Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

QTYPES: Final = {
    "A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "NULL": 10, "PTR": 12, "MX": 15, "TXT": 16, "KEY": 25, "AAAA": 28, "SRV": 33,
    "HTTPS": 65,
}  # fmt: skip
_RCODES: Final = {"NOERROR": 0, "SERVFAIL": 2, "NXDOMAIN": 3}
_MAGIC_NG: Final = b"\x0a\x0d\x0d\x0a"
_LINKS: Final = {0: 4, 1: 14, 12: 0, 101: 0, 113: 16, 276: 20}  # octets before the IP header
_ADDRESSES: Final = {1: 4, 28: 16}
_NAMES_AT: Final = {2: 0, 5: 0, 12: 0, 15: 2, 33: 6}  # where a name begins in record data
_DNS_PORT: Final = 53
_NETWORK: Final = len("network.example") + 2  # octets on the wire
_SCANNERS: Final = re.compile(r"\.a\.[ej]$|\.av[tq]s$")  # ESET's and McAfee's look-ups


def capture(path: Path) -> Iterator[Sight]:
    """Yield the questions of a capture with the answers that came, in order of the answers; unanswered ones last."""
    waiting: dict[tuple[bytes, int, int, Name], tuple[float, Name, int]] = {}
    for at, client, message, port, is_answer in _datagrams(path):
        try:
            read = _read(message)
        except (IndexError, struct.error, ValueError):
            continue
        if read is None:
            continue
        number, qname, qtype, rcode, ttl, addresses, payload = read
        key = (client, port, number, qname)
        if not is_answer:
            waiting[key] = (at, qname, qtype)
        elif waiting.pop(key, None):
            yield Sight(
                at=at, client=client, qname=qname, qtype=qtype, domain=domain_of(qname), rcode=rcode, ttl=ttl,
                size=len(message), addresses=addresses, payload=payload,
            )  # fmt: skip
    for (client, *_), (at, qname, qtype) in waiting.items():
        yield Sight(at=at, client=client, qname=qname, qtype=qtype, domain=domain_of(qname))


def questions(path: Path) -> Iterator[tuple[str, Sight]]:
    """Yield (tool and source, sight) of a CSV of questions without answers."""
    for row in rows(path):
        qname = name_of(row["qname"])
        if qname and row["qtype"] in QTYPES:
            client = ip_address(row["client"]).packed
            sight = Sight(
                at=float(row["ts"]), client=client, qname=qname, qtype=QTYPES[row["qtype"]], domain=domain_of(qname)
            )
            yield f"{row['tool']} {row['source']}", sight


def exchanges(path: Path) -> Iterator[Sight]:
    """Yield the answered questions of a CSV whose answers read type:TTL:length:data."""
    for row in rows(path):
        if row.get("qr", "1") == "1" and (qname := name_of(row["qname"])):
            client = ip_address(row.get("dst") or row["client"]).packed
            yield _answered(
                float(row["ts"]), client, qname, (int(row["qtype"]), int(row["rcode"] or 0)), row["answers"]
            )


def subdomains(path: Path) -> Iterator[Sight]:
    """Yield the ISP's benign sub-domains, and the scanners' it labels attacks, as one client's and one domain's."""
    for at, row in enumerate(rows(path)):
        benign = row["label"] == "0" or _SCANNERS.search(row["text"])
        if benign and (qname := name_of(f"{row['text']}.network.example")):
            yield Sight(at=float(at), client=bytes((10, 0, 0, 1)), qname=qname, qtype=1, domain=qname[-_NETWORK:])


def zeek(path: Path) -> Iterator[Sight]:
    """Yield the sights of the parsed Zeek log; its TTLs are unknown and taken as 300 s."""
    for row in rows(path):
        qname = name_of(row["qname"])
        if not qname:
            continue
        answers = [text for text in row["answers"].split("|") if text not in {"", "-"}]
        addresses = tuple(packed for text in answers if (packed := _packed(text)))
        payload = b"".join(text.encode() for text in answers if not _packed(text))[:MAX_PAYLOAD]
        yield Sight(
            at=float(row["ts"]), client=ip_address(row["src"]).packed, qname=qname, qtype=QTYPES.get(row["qtype"], 255),
            domain=domain_of(qname), rcode=_RCODES.get(row["rcode"], -1), ttl=300, addresses=addresses, payload=payload,
        )  # fmt: skip


def name_of(text: str) -> Name | None:
    """Return a folded name, or None when the text is none."""
    try:
        return from_text(text)
    except BadName:
        return None


def _answered(at: float, client: bytes, qname: Name, kinds: tuple[int, int], answers: str) -> Sight:
    qtype, rcode = kinds
    ttl, addresses, payload = 0, [], b""
    for answer in answers.split("|"):
        kind, _, rest = answer.partition(":")
        seconds, _, rest = rest.partition(":")
        text = rest.partition(":")[2]
        if not kind.isdigit():
            continue
        ttl = min(ttl or int(seconds), int(seconds))
        if int(kind) in _ADDRESSES and (packed := _packed(text)):
            addresses.append(packed)
        elif name := name_of(text):
            payload += name
    return Sight(
        at=at, client=client, qname=qname, qtype=qtype, domain=domain_of(qname), rcode=rcode, ttl=ttl,
        addresses=tuple(addresses), payload=payload[:MAX_PAYLOAD],
    )  # fmt: skip


def _packed(text: str) -> bytes:
    try:
        return ip_address(text).packed
    except ValueError:
        return b""


def _datagrams(path: Path) -> Iterator[tuple[float, bytes, bytes, int, bool]]:
    """Yield (time, client, message, client's port, whether it is an answer) of each UDP datagram of port 53."""
    data = path.read_bytes()
    packets = _blocks(data) if data[:4] == _MAGIC_NG else _records(data)
    for at, link, frame in packets:
        head = _LINKS.get(link, 14)
        if link == 1 and frame[12:14] == b"\x81\x00":
            head += 4
        packet = frame[head:]
        if len(packet) < 28:
            continue
        if packet[0] >> 4 == 4:
            size, protocol, source, target = (packet[0] & 15) * 4, packet[9], packet[12:16], packet[16:20]
        else:
            size, protocol, source, target = 40, packet[6], packet[8:24], packet[24:40]
        segment = packet[size:]
        if protocol != 17 or len(segment) < 20:
            continue
        sport, dport = struct.unpack_from(">HH", segment)
        if dport == _DNS_PORT:
            yield at, source, segment[8:], sport, False
        elif sport == _DNS_PORT:
            yield at, target, segment[8:], dport, True


def _records(data: bytes) -> Iterator[tuple[float, int, bytes]]:
    order = "<" if data[:4] in {b"\xd4\xc3\xb2\xa1", b"\x4d\x3c\xb2\xa1"} else ">"
    unit = 1e-9 if data[:4] in {b"\x4d\x3c\xb2\xa1", b"\xa1\xb2\x3c\x4d"} else 1e-6
    link = struct.unpack_from(order + "I", data, 20)[0] & 0xFFFF
    at = 24
    while at + 16 <= len(data):
        seconds, part, size, _ = struct.unpack_from(order + "IIII", data, at)
        yield seconds + part * unit, link, data[at + 16 : at + 16 + size]
        at += 16 + size


def _blocks(data: bytes) -> Iterator[tuple[float, int, bytes]]:
    """Yield the enhanced packet blocks of a pcapng section; times are taken as microseconds, the default."""
    order = "<" if data[8:12] == b"\x4d\x3c\x2b\x1a" else ">"
    links: list[int] = []
    at = 0
    while at + 12 <= len(data):
        kind, size = struct.unpack_from(order + "II", data, at)
        if kind == 1:
            links.append(struct.unpack_from(order + "H", data, at + 8)[0])
        elif kind == 6:
            number, high, low, kept = struct.unpack_from(order + "IIII", data, at + 8)
            yield (high << 32 | low) / 1e6, links[number], data[at + 28 : at + 28 + kept]
        at += max(size, 12)


def _read(message: bytes) -> tuple[int, Name, int, int, int, tuple[bytes, ...], bytes] | None:
    """Return (ID, name, type, response code, lowest TTL, addresses, other record data) of a message."""
    number, flags, asked, answers = struct.unpack_from(">HHHH", message)
    if asked != 1 or flags >> 11 & 15:
        return None
    qname, at = _name(message, 12)
    qtype = struct.unpack_from(">H", message, at)[0]
    at += 4
    ttls, addresses, payload = [], [], b""
    for _ in range(answers):
        _, at = _name(message, at)
        kind, _, ttl, size = struct.unpack_from(">HHIH", message, at)
        at += 10
        ttls.append(ttl)
        if _ADDRESSES.get(kind) == size:
            addresses.append(message[at : at + size])
        elif (skip := _NAMES_AT.get(kind)) is not None:
            payload += message[at : at + skip] + _name(message, at + skip, fold=False)[0]
        else:
            payload += message[at : at + size]
        at += size
    return number, qname, qtype, flags & 15, min(ttls, default=0), tuple(addresses), payload[:MAX_PAYLOAD]


def _name(message: bytes, at: int, *, fold: bool = True) -> tuple[Name, int]:
    """Return an uncompressed name and where what follows it begins."""
    found, end, jumps = b"", 0, 0
    while (size := message[at]) != 0:
        if size >= 0xC0:
            end = end or at + 2
            at = (size & 0x3F) << 8 | message[at + 1]
            jumps += 1
            if jumps > 64:
                raise ValueError("a name that points in circles")
            continue
        found += message[at : at + 1 + size]
        at += 1 + size
        if len(found) > 255:
            raise ValueError("a name that is too long")
    found += b"\x00"
    return found.lower() if fold else found, end or at + 1
