"""What a worker has to tell the hub: a bounded queue over a local socket that never makes DNS wait.

Rules:
1. `room` is how many events may be told now. It grows evenly, up to BURST seconds' worth, so that a flood leaves the
   hub its time; what goes beyond it is counted in `over`, not described.
2. What the hub does not take waits in a queue of at most MAX_WAITING events; past that the newest are dropped, counted.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from core.event import Batch, Event, Transport, encode_batch

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from resolver.answers import Rendered
    from resolver.clients import Client

BURST: Final = 0.5  # seconds' worth of events that may be told at once
SMALL: Final = 25  # events a datagram: making one takes a fortieth of a millisecond
CHUNK: Final = 100  # events a datagram, about 15 kB, when many wait
MANY: Final = 500  # events
BEHIND: Final = 20_000  # events that wait for a hub that does not get its time; while a disk syncs fewer wait
MAX_WAITING: Final = 50_000  # events, about 30 MB
STEP: Final = 1_024  # hits counted at a time at least, a tenth of a millisecond
STEPS: Final = 256  # what waits is told in about so many steps, so that it is done within its second
EVENT_COST: Final = 16  # what telling an event costs, in hits counted


class Outbox:
    """The events of one worker on their way to the hub."""

    def __init__(self, sock: socket.socket, *, worker: int, per_second: int) -> None:
        """`sock` is a non-blocking SEQPACKET socket; `per_second` how many events may be told a second."""
        self.room = per_second * BURST
        self.over = 0
        self.dropped = 0
        self.told = 0
        self._sock = sock
        self._worker = worker
        self._per_second = per_second
        self._waiting: deque[Event] = deque()
        self._untold = 0
        self._hits: deque[tuple[Client, list[Rendered]]] = deque()
        self._client: Client | None = None  # whose hits are being counted
        self._counting: list[Rendered] = []
        self._counted = 0  # of them
        self._uncounted = 0  # hits in all lists
        self._sum: Counter[Rendered] = Counter()
        self._tally: Counter[Rendered] = Counter()  # counted, yet to be told

    def add(self, event: Event) -> None:
        """Queue an event; the caller looked at `room`."""
        self.room -= 1
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
            return
        self._waiting.append(event)

    def add_hits(self, hits: Iterable[tuple[Client, list[Rendered]]]) -> None:
        """Take the cache hits clients had, to be told bit by bit by `tell_hits`."""
        for client, some in hits:
            self._hits.append((client, some))
            self._uncounted += len(some)

    def tell_hits(self, now: float) -> bool:
        """Count hits and tell one event each (client, reply), for a millisecond or less; true when there is more."""
        budget = max(STEP, (self._uncounted + len(self._tally) * EVENT_COST) // STEPS)
        while budget > 0:
            if self._tally:
                budget -= self._tell_tally(now, budget)
            elif self._counted < len(self._counting):
                part = self._counting[self._counted : self._counted + budget]
                self._counted += len(part)
                self._uncounted -= len(part)
                budget -= len(part)
                self._sum.update(part)
            elif self._sum:
                self._tally, self._sum = self._sum, Counter()
            elif self._hits:
                self._client, self._counting = self._hits.popleft()
                self._counted = 0
            else:
                self._counting = []
                return False
        return True

    def _tell_tally(self, now: float, budget: int) -> int:
        """Tell of counted hits until `budget` is used up; returns what was used."""
        client, tally, used = self._client, self._tally, 0
        while tally and used < budget:
            reply, count = tally.popitem()
            used += EVENT_COST
            reply.used = reply.answer.used = True
            if self.room <= 0:
                self.over += count
            elif client is not None:
                self.add(_hit(client, reply, count, now))
        return used

    def passed(self, seconds: float) -> None:
        """Make room for what may be told in the time that passed."""
        self.room = min(self.room + seconds * self._per_second, self._per_second * BURST)

    def flush(self) -> bool:
        """Send one chunk of what waits, if the hub takes it; true when there is more to send at once."""
        waiting = self._waiting
        if not waiting:
            return False
        count = len(waiting)
        most = SMALL if count < MANY else CHUNK
        chunk = [waiting.popleft() for _ in range(min(most, count))]
        try:
            self._sock.send(encode_batch(Batch(self._worker, chunk, self._untold)))
        except OSError:
            waiting.extendleft(reversed(chunk))
            return False
        self.told += len(chunk)
        self._untold = 0
        return len(waiting) > 0

    @property
    def waiting(self) -> bool:
        """True when there is more to send; after `flush` said otherwise, when the hub takes nothing at the moment."""
        return len(self._waiting) > 0

    @property
    def behind(self) -> bool:
        """True when the hub does not take what it is told in time."""
        return len(self._waiting) > BEHIND

    def counters(self) -> dict[str, int]:
        """Return events told, waiting, dropped because the hub was slow, and over the cap of a second."""
        return {"told": self.told, "waiting": len(self._waiting), "dropped": self.dropped, "over_cap": self.over}

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count


def _hit(client: Client, reply: Rendered, count: int, now: float) -> Event:
    """Return the event of `count` equal cache hits."""
    answer = reply.answer
    found = answer.verdict
    return Event(
        now, client.address, answer.qname, answer.qtype, answer.rcode, found.action, found.cause, Transport.UDP, True,
        count, 0, len(reply.body) + 2, answer.ttl, answer.upstream, answer.secure, answer.addresses, found.reasons,
        found.trigger, found.member, client.view.name,
    )  # fmt: skip
