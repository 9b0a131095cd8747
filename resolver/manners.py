"""What a server says for itself: refusals with their reason, CHAOS, and the EDNS options that want an answer."""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Final

from core import rr
from core.event import Transport
from core.wire import ASKS_COOKIE, ASKS_KEEPALIVE, ASKS_NSID, COOKIE, KEEPALIVE, NSID, Query

if TYPE_CHECKING:
    from collections.abc import Callable

    from resolver.chaos import Chaos
    from resolver.cookies import Cookies
    from resolver.render import Renderer

REFUSED_TYPES: Final = frozenset((0, rr.OPT, *range(249, 255)))  # TKEY to MAILA: transfers and meta types, not ANY
_OPTION: Final = Struct("!HH")
_KEEPALIVE: Final = Struct("!HHH")


class Manners:
    """The manners of one worker, who gives out no cookies without `cookies`.

    `idle`: seconds a TCP connection may be silent; `wall`: Unix seconds, by which cookies age.
    """

    def __init__(
        self, renderer: Renderer, chaos: Chaos, cookies: Cookies | None, *, idle: float, wall: Callable[[], float]
    ) -> None:
        self.cookies = cookies
        self.good = 0  # cookies that were ours
        self.bad = 0  # cookies that claimed to be ours
        self._renderer = renderer
        self._chaos = chaos
        self._wall = wall
        self._keepalive = _KEEPALIVE.pack(KEEPALIVE, 2, min(int(idle * 10), 0xFFFF))  # in 100 ms, RFC 7828 section 3.1

    def answer_options(self, query: Query, address: bytes, transport: Transport) -> bool:
        """Set the reply's options; true when the query carried a good cookie of ours, so `address` is no imitation."""
        known = False
        options = b""
        if query.asks & ASKS_COOKIE and self.cookies is not None:
            reply, known = self.cookies.reply(query.cookie, address, self._wall())
            options = _OPTION.pack(COOKIE, len(reply)) + reply
            self.good += known
            self.bad += not known and len(query.cookie) > 8
        if query.asks & ASKS_NSID and self._chaos.nsid:
            options += _OPTION.pack(NSID, len(self._chaos.nsid)) + self._chaos.nsid
        if query.asks & ASKS_KEEPALIVE and transport is not Transport.UDP:
            options += self._keepalive
        query.options = options
        return known

    def refusal(self, query: Query, *, allowed: bool) -> bytes:
        """Return what is said to a question that is not looked at."""
        failure = self._renderer.failure
        if not allowed:
            return failure(query, rr.Rcode.REFUSED, rr.Ede.PROHIBITED, "this resolver does not serve your network")
        if query.flags & rr.OPCODE:
            return failure(query, rr.Rcode.NOTIMP)
        if query.version:
            return failure(query, rr.Rcode.BADVERS)
        if not query.question:
            return failure(query, rr.Rcode.NOERROR)  # it came for its cookie
        if query.qclass == rr.CLASS_CH:
            return self._about(query)
        if query.qclass != rr.CLASS_IN or query.qtype in REFUSED_TYPES:
            return failure(query, rr.Rcode.REFUSED, rr.Ede.NOT_SUPPORTED, "class or type not served")
        return failure(query, rr.Rcode.SERVFAIL, rr.Ede.NOT_READY, "threat intelligence is not loaded yet")

    def unproven(self, query: Query) -> bytes:
        """Return the short reply for a network that gets too many: come back with the cookie, or over TCP."""
        if query.cookie and self.cookies is not None:
            return self._renderer.failure(query, rr.Rcode.BADCOOKIE)
        return self._renderer.truncated(query)

    def counters(self) -> dict[str, int]:
        """Return how many cookies were good and bad."""
        return {"cookies_good": self.good, "cookies_bad": self.bad}

    def _about(self, query: Query) -> bytes:
        made = self._chaos.find(query.qname, query.qtype)
        if made is None:
            return self._renderer.failure(query, rr.Rcode.REFUSED, rr.Ede.NOT_SUPPORTED, "class or type not served")
        return self._renderer.made(query, made)


def format_error(data: bytes) -> bytes:
    """Return FORMERR without a question section: what was asked could not be read."""
    flags = rr.QR | rr.RA | (int.from_bytes(data[2:4], "big") & (rr.RD | rr.OPCODE)) | rr.Rcode.FORMERR
    return flags.to_bytes(2, "big") + b"\x00" * 8
