"""From an answer to the octets one query is due: flags, question in the client's case, aged TTLs, EDNS, truncation."""

from __future__ import annotations

from struct import Struct, pack_into
from typing import TYPE_CHECKING, Final

from core import rr
from core.wire import HEADER, Query
from resolver.answers import Rendered
from resolver.rotate import turn

if TYPE_CHECKING:
    from resolver.answers import Answer
    from resolver.sinkhole import Replacement

MAX_EDE_TEXT: Final = 240  # octets; RFC 8914 section 2 asks for a short text

_HEAD: Final = Struct("!HH6s")
_OPT: Final = Struct("!BHHBBHH")
_U16: Final = Struct("!H")
_OPTION: Final = Struct("!HHH")
_TURNING: Final = frozenset((rr.A, rr.AAAA))
_NOTHING: Final = b"\x00" * 6


class Renderer:
    """Renders replies for one server: `udp_size` is the most a UDP reply may hold (octets, DNS flag day: 1232)."""

    def __init__(self, udp_size: int, *, rotate: bool = False) -> None:
        """`rotate`: address records take turns in being the first."""
        self.udp_size = udp_size
        self._rotate = rotate

    def limit(self, query: Query) -> int:
        """Return how many octets a UDP reply to `query` may have."""
        return min(query.udp_size, self.udp_size) if query.edns else 512

    def answer(self, query: Query, answer: Answer, now: float, *, stamp: int, limit: int) -> Rendered:
        """Return the reply to `query`, truncated when it would be longer than `limit` octets."""
        form = answer.signed if query.do and answer.signed is not None else answer.plain
        flags = answer.flags | answer.rcode & 0xF
        if answer.secure and (query.do or query.flags & rr.AD) and not query.cd:
            flags |= rr.AD
        tail = self.opt(query, answer.rcode, answer.ede, answer.ede_text)
        size = HEADER + len(query.question) + len(form.body) + len(tail)
        if size > limit and form.tail >= 0:
            form = form.shortened()
            size = HEADER + len(query.question) + len(form.body) + len(tail)
        if size > limit:
            body = self.head(query, flags | rr.TC, _with_opt(_NOTHING, query)) + query.question + tail
            return Rendered(answer, body, len(body), (), stamp)
        head = self.head(query, flags, _with_opt(form.counts, query)) + query.question
        reply = Rendered(answer, bytearray(head + form.body + tail), len(head), form.ttls, stamp)
        age(reply, now)
        if self._rotate and answer.qtype in _TURNING:
            reply.turns = form.counts[0] << 8 | form.counts[1]
            take_turns(reply, stamp)
        return reply

    def made(self, query: Query, made: Replacement, ede: int = -1, text: str = "") -> bytes:
        """Return a reply made here."""
        head = self.head(query, made.rcode & 0xF, _with_opt(made.counts, query))
        return head + query.question + made.body + self.opt(query, made.rcode, ede, text)

    def failure(self, query: Query, rcode: int, ede: int = -1, text: str = "") -> bytes:
        """Return a reply without records."""
        head = self.head(query, rcode & 0xF, _with_opt(_NOTHING, query))
        return head + query.question + self.opt(query, rcode, ede, text)

    def truncated(self, query: Query) -> bytes:
        """Return the reply that sends the client to TCP."""
        return self.head(query, rr.TC, _with_opt(_NOTHING, query)) + query.question + self.opt(query, 0, -1, "")

    def head(self, query: Query, flags: int, counts: bytes) -> bytes:
        """Return flags and counts of a reply: ten octets."""
        questions = 1 if query.question else 0
        return _HEAD.pack(rr.QR | rr.RA | query.flags & (rr.OPCODE | rr.RD | rr.CD) | flags, questions, counts)

    def opt(self, query: Query, rcode: int, ede: int, text: str) -> bytes:
        """Return the OPT record a reply to `query` carries; nothing for a client without EDNS (RFC 6891 section 7)."""
        if not query.edns:
            return b""
        option = query.options
        if ede >= 0:
            info = text.encode()[:MAX_EDE_TEXT]
            option += _OPTION.pack(15, 2 + len(info), ede) + info
        return _OPT.pack(0, rr.OPT, self.udp_size, rcode >> 4, 0, rr.DO if query.do else 0, len(option)) + option


def age(reply: Rendered, now: float) -> None:
    """Set the TTLs of a rendered reply to what is left of them."""
    elapsed = int(now - reply.answer.born)
    body, offset = reply.body, reply.offset
    if isinstance(body, bytearray):
        for at, ttl in reply.ttls:
            pack_into("!I", body, offset + at, ttl - elapsed if ttl > elapsed else 0)


def take_turns(reply: Rendered, step: int = 1) -> None:
    """Let another of several address records be the first; once a second is enough, clients are many."""
    body = reply.body
    if reply.turns > 1 and isinstance(body, bytearray):
        turn(body, reply.offset, reply.ttls, reply.turns, step)


def _with_opt(counts: bytes, query: Query) -> bytes:
    if not query.edns:
        return counts
    return counts[:4] + _U16.pack(_U16.unpack_from(counts, 4)[0] + 1)
