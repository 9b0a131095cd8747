"""Queries matched with their replies, handed on in the order in which they were asked.

Rules:
1. A reply belongs to the query with the same ID, ports and addresses, and the same question when it repeats one.
2. A query waits TIMEOUT seconds of the capture's own time; then it counts as unanswered (rcode -1).
3. At most MAX_WAITING wait; the oldest goes first, as unanswered, and is counted.
4. A reply nobody asked for still shows what was asked, unless it repeats one that has been seen.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from detectors.sight import Sight, domain_of

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

    from core.names import Name
    from journal.reading.messages import Reply
    from journal.reading.source import Tally

TIMEOUT: Final = 10.0  # seconds
MAX_WAITING: Final = 65_536
GIVEN_UP: Final = "queries given up for want of room"
UNANSWERED: Final = "queries without a reply"
ALONE: Final = "replies without a query"
OTHER_QUESTION: Final = "replies to another question"


class _Asked:
    __slots__ = ("at", "client", "count", "key", "over", "qname", "qtype", "reply")

    def __init__(self, key: Hashable, at: float, client: bytes, qname: Name, qtype: int) -> None:
        self.key = key
        self.at = at
        self.client = client
        self.qname = qname
        self.qtype = qtype
        self.count = 1
        self.reply: Reply | None = None
        self.over = False  # nothing more is waited for


class Exchanges:
    """The queries that wait. What is complete comes out of `due`."""

    def __init__(self, tally: Tally) -> None:
        self._waiting: deque[_Asked] = deque()
        self._known: dict[Hashable, _Asked] = {}
        self._told: deque[_Asked] = deque()  # handed on, still known so that a repeated reply is recognised
        self._tally = tally

    def ask(self, key: Hashable, at: float, client: bytes, qname: Name, qtype: int) -> None:
        """Take in a query; the same one again before its reply is a repetition by the client."""
        before = self._known.get(key)
        if before and not before.over and before.qname == qname and before.qtype == qtype:
            before.count += 1
            return
        if before:
            before.over = True
        asked = self._known[key] = _Asked(key, at, client, qname, qtype)
        self._waiting.append(asked)

    def answer(self, key: Hashable, at: float, client: bytes, question: tuple[Name | None, int], reply: Reply) -> None:
        """Take in a reply to `client`."""
        qname, qtype = question
        asked = self._known.get(key)
        if asked and qname in (None, asked.qname):
            if asked.reply is None and not asked.over:
                asked.reply = reply
                asked.over = True
            return
        if qname is None:
            self._tally[ALONE] += 1
            return
        self._tally[OTHER_QUESTION if asked else ALONE] += 1
        alone = _Asked(key, at, client, qname, qtype)
        alone.reply, alone.over = reply, True
        self._waiting.append(alone)
        if asked is None:
            self._known[key] = alone

    def due(self, now: float) -> Iterator[Sight]:
        """Yield what is complete or has waited for too long, in the order of asking."""
        waiting = self._waiting
        patience = now - TIMEOUT
        while waiting and (waiting[0].over or waiting[0].at < patience or len(waiting) > MAX_WAITING):
            if not waiting[0].over and waiting[0].at >= patience:
                self._tally[GIVEN_UP] += 1
            yield self._hand_on(waiting.popleft())
        while self._told and (self._told[0].at < patience or len(self._told) > MAX_WAITING):
            self._forget(self._told.popleft())

    def rest(self) -> Iterator[Sight]:
        """Yield everything that still waits: the capture has ended."""
        while self._waiting:
            yield self._hand_on(self._waiting.popleft())

    def _hand_on(self, asked: _Asked) -> Sight:
        asked.over = True
        self._told.append(asked)
        reply = asked.reply
        domain = domain_of(asked.qname)
        if reply is None:
            self._tally[UNANSWERED] += 1
            return Sight(asked.at, asked.client, asked.qname, asked.qtype, domain, count=asked.count)
        return Sight(
            asked.at, asked.client, asked.qname, asked.qtype, domain, reply.rcode, reply.ttl, reply.size,
            reply.addresses, reply.payload, asked.count,
        )  # fmt: skip

    def _forget(self, asked: _Asked) -> None:
        if self._known.get(asked.key) is asked:
            del self._known[asked.key]
