"""What the hub is told about a query: the event, made only while there is room for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.event import Event
from core.verdict import Cause
from core.wire import HEADER

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.verdict import Verdict
    from core.wire import Query
    from resolver.answers import Answer
    from resolver.clients import Client
    from resolver.outbox import Outbox
    from resolver.sinkhole import Replacement
    from resolver.waiting import Peer

_NONE: Final = Cause.NONE  # enum members are slow to reach through their class
_UPSTREAM: Final = Cause.UPSTREAM


class Teller:
    """Writes the events of one worker into its outbox."""

    def __init__(self, outbox: Outbox, wall: Callable[[], float]) -> None:
        """`wall`: Unix seconds, for the events."""
        self._outbox = outbox
        self._wall = wall

    @property
    def room(self) -> bool:
        """True when one more event may be told now."""
        return self._outbox.room > 0

    def has_room(self) -> bool:
        """True when one more event may be told now; else it is counted as over the cap."""
        if self._outbox.room > 0:
            return True
        self._outbox.over += 1
        return False

    def blocked(self, query: Query, client: Client, peer: Peer, found: Verdict, made: Replacement) -> None:
        """Tell of a question that was blocked by its name."""
        self._outbox.add(
            Event(
                self._wall(), client.address, query.qname, query.qtype, made.rcode, found.action, found.cause,
                peer.transport, False, 1, 0, HEADER + len(query.question) + len(made.body), made.ttl, "", False,
                made.addresses, found.reasons, found.trigger, found.member, client.view.name,
            )
        )  # fmt: skip

    def answered(self, query: Query, client: Client, peer: Peer, answer: Answer, *, cached: bool) -> None:
        """Tell of a question that was answered at once."""
        if self.has_room():
            self._outcome(query, client, peer, answer, 0, cached=cached)

    def arrived(self, query: Query, client: Client, peer: Peer, answer: Answer, took: int) -> None:
        """Tell of a question that was answered from upstream after `took` microseconds."""
        if self.has_room():
            self._outcome(query, client, peer, answer, took, cached=False)

    def _outcome(self, query: Query, client: Client, peer: Peer, answer: Answer, took: int, *, cached: bool) -> None:
        found = answer.verdict
        cause = found.cause
        if cause is _NONE and not answer.plain.body and answer.ede >= 0:
            cause = _UPSTREAM
        self._outbox.add(
            Event(
                self._wall(), client.address, query.qname, query.qtype, answer.rcode, found.action, cause,
                peer.transport, cached, 1, took, HEADER + len(query.question) + len(answer.plain.body), answer.ttl,
                answer.upstream, answer.secure, answer.addresses, found.reasons, found.trigger, found.member,
                client.view.name, b"" if cached else answer.payload,
            )
        )  # fmt: skip
