"""Who answers what the cache cannot: one Protocol, several engines.

Rules:
1. `ask` never blocks and never raises; `done` is called exactly once, later or at once, with an `Answer`.
2. An engine bounds what it holds: past `max_outstanding` it answers SERVFAIL at once and counts it.
3. Whatever happens - no server, no library, a bad reply - `done` is called before the configured timeout plus a second.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name


class Question(NamedTuple):
    """What is asked: a folded wire name, a type and a class, and whether validation is to be skipped."""

    qname: Name
    qtype: int
    qclass: int = 1
    checking_disabled: bool = False


class Answer(NamedTuple):
    """What came back. `wire` is a whole DNS message whose ID and question case mean nothing, or empty on failure.

    On failure (`wire` empty) the client gets `rcode` (SERVFAIL) with the extended error `ede` and `ede_text`.
    """

    wire: bytes
    rcode: int = 0
    secure: bool = False  # validated by DNSSEC
    bogus: bool = False  # failed validation; `wire` is empty
    ede: int = -1  # RFC 8914 code, -1 for none
    ede_text: str = ""
    server: str = ""  # for the log: which server or engine answered


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
