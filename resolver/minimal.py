"""The one small answer to questions of type ANY, so that nobody is flooded with all there is (RFC 8482 section 4.2)."""

from __future__ import annotations

from struct import pack
from typing import Final

from core import rr
from resolver.sinkhole import Replacement

TTL: Final = 3_600  # seconds; what we answer ANY with does not change

_HINFO: Final = 13
_RDATA: Final = b"\x07RFC8482\x00"  # CPU and OS, RFC 8482 section 4.2
_QUESTION: Final = 0xC00C  # a pointer to the question's name

ANSWER: Final = Replacement(
    rcode=rr.Rcode.NOERROR,
    counts=b"\x00\x01\x00\x00\x00\x00",
    body=pack("!HHHIH", _QUESTION, _HINFO, rr.CLASS_IN, TTL, len(_RDATA)) + _RDATA,
    ttl=TTL,
)
