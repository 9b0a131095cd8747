"""What the server says of itself: the CHAOS questions `id.server` and `version.bind`, and NSID (RFC 4892, RFC 5001)."""

from __future__ import annotations

from struct import pack
from typing import Final

from core import rr
from core.names import Name, from_text
from resolver.sinkhole import Replacement

IDENTITY: Final = (from_text("id.server"), from_text("hostname.bind"))  # RFC 4892 section 2 and BIND's older name
VERSION: Final = (from_text("version.server"), from_text("version.bind"))
MAX_STRING: Final = 255  # octets of one character-string, RFC 1035 section 3.3

_TYPES: Final = frozenset((rr.TXT, rr.ANY))
_ONE_ANSWER: Final = b"\x00\x01\x00\x00\x00\x00"
_QUESTION: Final = 0xC00C  # a pointer to the question's name


class Chaos:
    """Answers for questions of class CH; an empty text is told to nobody."""

    def __init__(self, identity: str, version: str) -> None:
        self.nsid: bytes = identity.encode()  # what an NSID option of ours holds; empty: none is sent
        self._answers: dict[Name, Replacement] = {}
        for names, text in ((IDENTITY, self.nsid), (VERSION, version.encode())):
            if text:
                self._answers.update(dict.fromkeys(names, _text(text)))

    def find(self, qname: Name, qtype: int) -> Replacement | None:
        """Return the TXT answer to a question of class CH, None for what is not ours to tell."""
        return self._answers.get(qname) if qtype in _TYPES else None


def _text(text: bytes) -> Replacement:
    strings = [text[at : at + MAX_STRING] for at in range(0, len(text), MAX_STRING)]
    rdata = b"".join(bytes((len(string),)) + string for string in strings)
    body = pack("!HHHIH", _QUESTION, rr.TXT, rr.CLASS_CH, 0, len(rdata)) + rdata
    return Replacement(rr.Rcode.NOERROR, _ONE_ANSWER, body, 0)
