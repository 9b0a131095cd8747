"""What a forwarded question looks like on the wire, and whether a message is the reply to it.

Rules:
1. A question goes out with a random ID and, over UDP, with the case of each letter drawn at random
   (draft-vixie-dnsext-dns0x20-00); what comes back must repeat both, octet for octet (RFC 5452 section 9.1).
2. Nothing here raises on any bytes: a message is a reply, or it is told why it is not.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from core.rr import CD, DO, OPT, RD, Rcode

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name
    from resolver.upstream import Question

EDNS_PAYLOAD: Final = 1232  # octets: DNS flag day 2020, fits every path's MTU
HEADER: Final = 12  # octets, RFC 1035 section 4.1.1
TRUNCATED: Final = 0x02  # the TC bit within the third octet of the header
MAX_MESSAGE: Final = 65_535  # octets, the length prefix of RFC 1035 section 4.2.2
POOL: Final = 16_384  # octets of randomness drawn at once; one draw costs about 40 us

_LETTERS: Final = bytes(0x20 if 0x61 <= octet <= 0x7A else 0 for octet in range(256))
_ONE_QUESTION: Final = b"\x00\x01"
_WITHOUT_QUESTION: Final = frozenset((Rcode.FORMERR, Rcode.NOTIMP))


class Noise:
    """Random octets in small pieces from a large draw of `rng`, which must be fit for cryptography."""

    __slots__ = ("_at", "_pool", "_rng")

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self._pool = b""
        self._at = 0

    def take(self, size: int) -> bytes:
        """Return `size` octets (at most 16,384) that nobody got before."""
        at = self._at
        piece = self._pool[at : at + size]
        if len(piece) < size:
            self._pool = self._rng(POOL)
            at = 0
            piece = self._pool[:size]
        self._at = at + size
        return piece

    def below(self, limit: int) -> int:
        """Return a number from 0 to `limit` - 1; the bias is below `limit` in 2**32."""
        return int.from_bytes(self.take(4), "big") % limit


class Wording:
    """The parts of every question that are the same: ten octets after the ID (by CD bit), and the OPT record.

    `edns` chooses whether there is an OPT record at all, `dnssec` whether it sets DO.
    """

    __slots__ = ("heads", "tail")

    def __init__(self, *, edns: bool, dnssec: bool) -> None:
        counts = bytes((0, 1, 0, 0, 0, 0, 0, int(edns)))
        self.heads = (RD.to_bytes(2, "big") + counts, (RD | CD).to_bytes(2, "big") + counts)
        self.tail = _opt(dnssec=dnssec) if edns else b""


def _opt(*, dnssec: bool) -> bytes:
    """Return an OPT record without options, RFC 6891 section 6.1.2."""
    flags = DO if dnssec else 0
    return b"\x00" + OPT.to_bytes(2, "big") + EDNS_PAYLOAD.to_bytes(2, "big") + flags.to_bytes(4, "big") + b"\x00\x00"


def section(asked: Question) -> bytes:
    """Return the question section in lower case."""
    return asked.qname + kind(asked)


def kind(asked: Question) -> bytes:
    """Return type and class, the four octets after the name."""
    return (asked.qtype << 16 | asked.qclass).to_bytes(4, "big")


def mix_case(name: Name, noise: bytes) -> bytes:
    """Return the folded name with each letter in upper case where `noise` (as long as the name) has bit 0x20."""
    flips = int.from_bytes(name.translate(_LETTERS), "big") & int.from_bytes(noise, "big")
    return (int.from_bytes(name, "big") ^ flips).to_bytes(len(name), "big")


class Echo(IntEnum):
    """How a message relates to the question its ID points to."""

    REPLY = 0
    MISCASED = 1  # right but for the case of letters
    BARE = 2  # an error without a question section, from a server that could not read ours
    STRANGER = 3


def is_reply(wire: bytes, question: bytes) -> bool:
    """True when `wire` is a response to a standard query that repeats `question` exactly. The ID is not looked at."""
    return wire.startswith(question, HEADER) and wire[2] & 0xF8 == 0x80 and wire.startswith(_ONE_QUESTION, 4)


def compare(wire: bytes, question: bytes) -> Echo:
    """Return how `wire` relates to `question`; for what `is_reply` refused."""
    if is_reply(wire, question):
        return Echo.REPLY
    if len(wire) < HEADER or wire[2] & 0xF8 != 0x80:
        return Echo.STRANGER
    if wire[4:6] == b"\x00\x00" and wire[3] & 0x0F in _WITHOUT_QUESTION:
        return Echo.BARE
    end = HEADER + len(question) - 4
    same = wire[HEADER:end].lower() == question[:-4].lower() and wire[end : end + 4] == question[-4:]
    return Echo.MISCASED if same and wire.startswith(_ONE_QUESTION, 4) else Echo.STRANGER
