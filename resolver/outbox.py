"""What a worker has to tell the hub: a bounded queue over a local socket that never makes DNS wait.

Rules:
1. `room` is how many events may still be told in this second; a flood beyond it is counted in `over`, not described.
2. What the hub does not take waits in a queue of at most MAX_WAITING events; past that the newest are dropped, counted.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Final

from core.event import Batch, Event, Transport, encode_batch

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from resolver.clients import Client

CHUNK: Final = 400  # events a datagram: about 60 kB, well under the kernel's default send buffer of 212 kB
MAX_WAITING: Final = 50_000  # events, about 30 MB
CHUNKS_A_FLUSH: Final = 8  # bounds the pause of one flush to a few milliseconds


class Outbox:
    """The events of one worker on their way to the hub."""

    def __init__(self, sock: socket.socket, *, worker: int, per_second: int) -> None:
        """`sock` is a non-blocking SEQPACKET socket; `per_second` how many events may be told each second."""
        self.room = per_second
        self.over = 0
        self.dropped = 0
        self.told = 0
        self._sock = sock
        self._worker = worker
        self._per_second = per_second
        self._waiting: deque[Event] = deque()
        self._untold = 0

    def add(self, event: Event) -> None:
        """Queue an event; the caller looked at `room`."""
        self.room -= 1
        if len(self._waiting) >= MAX_WAITING:
            self._drop(1)
            return
        self._waiting.append(event)

    def add_hits(self, clients: Iterable[Client], now: float) -> None:
        """Turn the cache hits clients had since the last call into one event each (client, reply), and forget them."""
        for client in clients:
            if not client.hits:
                continue
            hits, client.hits = client.hits, []
            for reply, count in Counter(hits).items():
                reply.used = reply.answer.used = True
                if self.room <= 0:
                    self.over += count
                    continue
                answer = reply.answer
                found = answer.verdict
                self.add(
                    Event(
                        now, client.address, answer.qname, answer.qtype, answer.rcode, found.action, found.cause,
                        Transport.UDP, True, count, 0, len(reply.body) + 2, answer.ttl, answer.upstream, answer.secure,
                        answer.addresses, found.reasons, found.trigger, found.member, client.view.name,
                    )
                )  # fmt: skip

    def second(self) -> None:
        """A new second: there is room again."""
        self.room = self._per_second

    def flush(self) -> None:
        """Send what waits, as far as the hub takes it."""
        waiting = self._waiting
        for _ in range(CHUNKS_A_FLUSH):
            if not waiting:
                return
            chunk = [waiting.popleft() for _ in range(min(CHUNK, len(waiting)))]
            try:
                self._sock.send(encode_batch(Batch(self._worker, chunk, self._untold)))
            except OSError:
                waiting.extendleft(reversed(chunk))
                return
            self.told += len(chunk)
            self._untold = 0

    def counters(self) -> dict[str, int]:
        """Return events told, waiting, dropped because the hub was slow, and over the cap of a second."""
        return {"told": self.told, "waiting": len(self._waiting), "dropped": self.dropped, "over_cap": self.over}

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._untold += count
