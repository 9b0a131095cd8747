"""Many questions to several resolvers at once over UDP, and what each of them answered."""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rdatatype

if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW: Final = 100  # questions one resolver has at a time: below any limit of theirs
WAIT: Final = 6.0  # seconds until a question is sent again
TRIES: Final = 3
_UDP_SIZE: Final = 1_232
_OPT: Final = struct.Struct("!BHHIH")
_DO: Final = 0x8000
_EXTENDED_ERROR: Final = 15


class Seen(NamedTuple):
    """What is compared of a reply."""

    rcode: int
    answer: frozenset[tuple[str, str, str]]  # owner in lower case, type, data
    ad: bool
    tc: bool
    soa: bool  # in the authority section
    ttls: dict[tuple[str, str], int]  # seconds, by owner and type


def query(name: str, rdtype: str, *, do: bool, ad: bool) -> bytes:
    """Return a question without its ID, with EDNS when `do`."""
    flags = 0x0100 | (0x0020 if ad else 0)
    wire = struct.pack("!5H", flags, 1, 0, 0, int(do)) + dns.name.from_text(name).to_wire()  # type: ignore[operator]
    wire += struct.pack("!2H", dns.rdatatype.from_text(rdtype), 1)
    return wire + _OPT.pack(0, 41, _UDP_SIZE, _DO, 0) if do else wire


def read(wire: bytes) -> Seen:
    """Return what is compared of the reply `wire`."""
    message = dns.message.from_wire(wire)
    answer = {
        (str(rrset.name).lower(), dns.rdatatype.to_text(rrset.rdtype), str(rdata).lower())
        for rrset in message.answer
        for rdata in rrset
    }
    return Seen(
        message.rcode(),
        frozenset(answer),
        bool(message.flags & dns.flags.AD),
        bool(message.flags & dns.flags.TC),
        any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority),
        {(str(rrset.name).lower(), dns.rdatatype.to_text(rrset.rdtype)): rrset.ttl for rrset in message.answer},
    )


class _Asked:
    """One resolver's share of the work: `replies` is complete when `left` is 0."""

    def __init__(self, address: tuple[str, int], queries: Sequence[bytes]) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_000_000)
        self.socket.connect(address)
        self.socket.setblocking(False)
        self.replies: list[bytes] = [b""] * len(queries)
        self.left = len(queries)
        self._queries = queries
        self._next = 0
        self._waiting: dict[int, int] = {}  # by place in `queries`: times it was sent
        self._order: deque[tuple[float, int]] = deque()  # when each is to be sent again

    def send(self, now: float) -> None:
        while len(self._waiting) < WINDOW and self._next < len(self._queries):
            self._send(self._next, now)
            self._next += 1
        while self._order and self._order[0][0] < now:
            _, at = self._order.popleft()
            if at in self._waiting:
                assert self._waiting[at] < TRIES, f"{self.socket.getpeername()} does not answer {self._queries[at]!r}"
                self._send(at, now)

    def _send(self, at: int, now: float) -> None:
        self._waiting[at] = self._waiting.get(at, 0) + 1
        self._order.append((now + WAIT, at))
        self.socket.send(struct.pack("!H", at) + self._queries[at])

    def receive(self) -> None:
        try:
            while True:
                reply = self.socket.recv(4_096)
                at = int.from_bytes(reply[:2], "big")
                if self._waiting.pop(at, 0):
                    self.replies[at] = reply
                    self.left -= 1
        except BlockingIOError:
            pass


def ask_all(addresses: Sequence[tuple[str, int]], queries: Sequence[bytes]) -> list[list[bytes]]:
    """Return the replies of each resolver, in the order of `queries` (at most 65,536); call it inside the internet."""
    asked = [_Asked(address, queries) for address in addresses]
    with selectors.DefaultSelector() as selector:
        for one in asked:
            selector.register(one.socket, selectors.EVENT_READ, one)
        while any(one.left for one in asked):
            for one in asked:
                one.send(time.monotonic())
            for key, _ in selector.select(0.2):
                key.data.receive()
    for one in asked:
        one.socket.close()
    return [one.replies for one in asked]


def over_tcp(address: tuple[str, int], question: bytes) -> bytes:
    """Return the reply to one question over TCP; call it inside the internet."""
    message = b"\0\0" + question
    with socket.create_connection(address, timeout=30) as stream, stream.makefile("rb") as reader:
        stream.sendall(struct.pack("!H", len(message)) + message)
        return reader.read(int.from_bytes(reader.read(2), "big"))
