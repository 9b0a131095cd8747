"""A client and a server that speak like dnscat2: hexadecimal packets in names, acknowledged in answers.

    python dnscat.py serve ADDRESS DOMAIN
    python dnscat.py send RESOLVER DOMAIN TYPES FILE [encrypted]

After doc/protocol.md of dnscat2: a packet is an id (2 octets, new in every packet), a kind (1) and a session (2). SYN
opens a session, MSG carries sequence number, acknowledgement (2 each) and data, FIN ends it. With encryption two ENC
packets exchange keys, and of every other packet what follows the session has a signature (6) and a nonce (2) before it;
keys and ciphers are random octets here, which is what they look like.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
import sys
import time
from pathlib import Path
from typing import Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rdatatype
import dns.rrset

SYN: Final = 0
MSG: Final = 1
FIN: Final = 2
ENC: Final = 3
RETRY: Final = 1.0  # seconds until a packet nobody acknowledged is sent again
TRIES: Final = 20  # of one packet; the client then gives up
_MAX_NAME: Final = 253  # characters


class Line(NamedTuple):
    """Where a client sends its packets."""

    resolver: str
    domain: str
    types: tuple[str, ...]


def serve(address: str, domain: str) -> None:
    """Answer every packet below the domain until killed."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind((address, 53))
        while True:
            data, peer = listener.recvfrom(4_096)
            try:
                query = dns.message.from_wire(data)
                reply = _reply(query, dns.name.from_text(domain))
            except (dns.exception.DNSException, ValueError, struct.error):
                continue
            listener.sendto(reply.to_wire(), peer)


def _reply(query: dns.message.Message, zone: dns.name.Name) -> dns.message.Message:
    asked = query.question[0]
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.AA
    packet = bytes.fromhex(b"".join(asked.name.relativize(zone).labels).decode("ascii"))
    text = _acknowledgement(packet).hex()
    kind = dns.rdatatype.to_text(asked.rdtype)
    said = {
        "TXT": f'"{text}"', "CNAME": f"{text}.{zone}", "MX": f"10 {text}.{zone}", "A": f"9.0.{int(text[:2], 16)}.1",
    }.get(kind)  # fmt: skip
    if said is not None:
        reply.answer.append(dns.rrset.from_text(asked.name, 0, "IN", kind, said))
    return reply


def _acknowledgement(packet: bytes) -> bytes:
    number, kind, session = struct.unpack_from(">HBH", packet)
    return struct.pack(">HBHHH", number, kind, session, secrets.randbits(16), len(packet) & 0xFFFF)


def send(line: Line, content: bytes, *, encrypted: bool) -> bool:
    """Send the content; true when all of it was acknowledged."""
    session = secrets.randbits(16)
    sealed = 8 if encrypted else 0
    room = (_MAX_NAME - len(line.domain) - 1) * 63 // 64 // 2 - 9 - sealed
    setup = [(ENC, secrets.token_bytes(68)), (ENC, secrets.token_bytes(36))] if encrypted else []
    setup.append((SYN, secrets.token_bytes(sealed) + struct.pack(">HH", secrets.randbits(16), 0)))
    sequence = secrets.randbits(16)
    parts = [b"", *(content[at : at + room] for at in range(0, len(content), room))]  # it begins with a poll
    pieces = []
    for part in parts:
        pieces.append((MSG, secrets.token_bytes(sealed) + struct.pack(">HH", sequence, 0) + part))
        sequence = (sequence + len(part)) & 0xFFFF
    packets = [*setup, *pieces, (FIN, secrets.token_bytes(sealed) + b"\0\0")]
    return all(_deliver(line, kind, session, body) for kind, body in packets)


def _deliver(line: Line, kind: int, session: int, body: bytes) -> bool:
    for _ in range(TRIES):
        number = secrets.randbits(16)
        text = (struct.pack(">HBH", number, kind, session) + body).hex()
        labels = ".".join(text[at : at + 62] for at in range(0, len(text), 62))
        query = dns.message.make_query(f"{labels}.{line.domain}.", random.choice(line.types))
        try:
            reply = dns.query.udp(query, line.resolver, timeout=RETRY)
        except (dns.exception.Timeout, OSError):
            continue
        if _acknowledged(reply, number, line.domain):
            return True
        time.sleep(RETRY)
    return False


def _acknowledged(reply: dns.message.Message, number: int, domain: str) -> bool:
    for rrset in reply.answer:
        for rdata in rrset:
            text = rdata.to_text().strip('"').removeprefix("10 ")
            if text.startswith((f"{number:04x}", f"9.0.{number >> 8}.")):
                return True
    return False


def main(args: list[str]) -> int:
    """Run one end; returns the exit code."""
    if args[0] == "serve":
        serve(args[1], args[2])
    content = Path(args[4]).read_bytes()
    line = Line(args[1], args[2], tuple(args[3].split(",")))
    return 0 if send(line, content, encrypted=args[5:] == ["encrypted"]) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
