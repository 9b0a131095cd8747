"""Who answers what the cache cannot: one Protocol, several engines.

Rules:
1. `ask` never blocks and never raises; `done` is called exactly once, later or at once, with an `Answer`.
2. An engine bounds what it holds: past `max_outstanding` it answers SERVFAIL at once and counts it.
3. Whatever happens - no server, no library, a bad reply - `done` is called before the configured timeout plus a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name


class Question:
    """What is asked: a folded wire name, a type and a class, and whether validation is to be skipped."""

    __slots__ = ("checking_disabled", "qclass", "qname", "qtype")

    def __init__(self, qname: Name, qtype: int, qclass: int = 1, *, checking_disabled: bool = False) -> None:
        self.qname = qname
        self.qtype = qtype
        self.qclass = qclass
        self.checking_disabled = checking_disabled


class Answer:
    """What came back. `wire` is a whole DNS message whose ID and question case mean nothing, or empty on failure.

    On failure (`wire` empty) the client gets `rcode` (SERVFAIL) with the extended error `ede` and `ede_text`.
    """

    __slots__ = ("bogus", "ede", "ede_text", "rcode", "secure", "server", "wire")

    def __init__(
        self,
        wire: bytes,
        rcode: int = 0,
        *,
        secure: bool = False,
        bogus: bool = False,
        ede: int = -1,
        ede_text: str = "",
        server: str = "",
    ) -> None:
        self.wire = wire
        self.rcode = rcode
        self.secure = secure  # validated by DNSSEC
        self.bogus = bogus  # failed validation; `wire` is empty
        self.ede = ede  # RFC 8914 code, -1 for none
        self.ede_text = ede_text
        self.server = server  # for the log: which server or engine answered


class Upstream(Protocol):
    """An engine."""

    def start(self) -> None:
        """Open what is needed on the running event loop. Raises Unavailable with the cure when it cannot."""

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done` exactly once."""

    def close(self) -> None:
        """Give everything back; outstanding questions are answered SERVFAIL."""

    def counters(self) -> dict[str, int]:
        """Return asked, answered, timeouts, refused (too many outstanding), outstanding, and what else is worth it."""
