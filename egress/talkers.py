"""Who already talks to an address when it is blocked, and how much went both ways, asked of connection tracking.

Rules:
1. Asking takes no time and never fails: a thread looks, for all who wait at once.
2. What cannot be looked at is tried again for KEEP seconds; later the answer would be about another moment.
3. Of one look at most MAX_TOLD are told, those with the most octets. What is left out is counted.
4. After a look it rests as long as that took: a flood of blocks costs half a core at most.

Layouts: linux/netfilter/nfnetlink_conntrack.h; a listing's filter: Linux 5.8, ignored before.
"""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Final, NamedTuple

from egress.connections import ORIGINAL, Connection, ends, read
from egress.netlink import Listener, Malformed, attribute, general, nested
from egress.orders import Talking
from egress.part import Hearing
from egress.plan import ANY

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from egress.netlink import Message
    from egress.plan import Destination

MAX_WAITING: Final = 10_000  # destinations asked about and not looked at yet
MAX_TOLD: Final = 1_000  # pairs of client and address of one look
KEEP: Final = 60.0  # seconds
FEW: Final = 32  # IPv4 addresses up to which a filtered listing for each costs less than one of all: 45 do as much
IDLE: Final = 3_600.0  # seconds between looks when nobody asks

_CALLS: Final = 4_096  # asked since the last look, read at once
_INET: Final = 2
_INET6: Final = 10
_SUBSYSTEM: Final = 1
_GET: Final = 1
_FILTER: Final = 25
_FILTER_ORIGINAL: Final = 1
_BY_DESTINATION: Final = 2  # a flag of the filter


class Talker(NamedTuple):
    """A client with connections to an address that are open, their octets, and when the first began (0: unknown)."""

    client: bytes
    sent: int
    received: int
    since: float
    connections: int = 1


class Talkers(Hearing):
    """The part of the agent that is asked who talks to destinations that are newly blocked."""

    title = "talkers"

    def __init__(self, agent: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self._agent = agent
        self._clock = clock
        self._waiting: deque[tuple[float, Destination]] = deque()  # since when, in monotonic seconds
        self._counts = {"asked": 0, "looks": 0, "told": 0, "dropped": 0, "late": 0, "untold": 0, "garbled": 0}

    def counters(self) -> dict[str, int]:
        """Return destinations, looks, pairs told; destinations past MAX_WAITING and KEEP; pairs untold; unread."""
        return {**self._counts, "waiting": len(self._waiting)}

    def ask(self, destinations: Iterable[Destination]) -> None:
        """Who talks to them is told soon; of a block for one client, whether that one does."""
        now = time.monotonic()
        for destination in destinations:
            self._counts["asked"] += 1
            if len(self._waiting) >= MAX_WAITING:
                self._counts["dropped"] += 1
            else:
                self._waiting.append((now, destination))
        if self._thread is not None:
            with contextlib.suppress(BlockingIOError):  # it is awake already
                os.write(self._waker, b".")

    def _hear(self) -> None:
        with contextlib.closing(Listener(_SUBSYSTEM)) as listener:
            ended = False
            while not ended:
                ended = self._ending.is_set()
                begun = time.monotonic()
                self._look(listener)
                self._ending.wait(time.monotonic() - begun)
                if not ended:
                    self._wait(self._wake, IDLE)
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, _CALLS)

    def _look(self, listener: Listener) -> None:
        """Tell of all who wait; they wait on when it raises."""
        asked = self._due()
        if not asked:
            return
        clients: dict[bytes, set[bytes]] = {}
        for destination in asked:
            clients.setdefault(destination.address, set()).add(destination.client)
        found, garbled = talking(listener, clients)
        now = self._clock()
        told = [
            Talking(now, self._agent, one.client, address, one.sent, one.received, one.since, one.connections)
            for (address, client), one in found.items()
            if ANY in clients[address] or client in clients[address]
        ]
        told.sort(key=lambda one: (-one.sent - one.received, one.client, one.address))
        for one in told[:MAX_TOLD]:
            self._tell(one)
        for _ in asked:
            self._waiting.popleft()
        self._count(told=min(len(told), MAX_TOLD), untold=max(len(told) - MAX_TOLD, 0), garbled=garbled, looks=1)
        self.trouble = ""

    def _due(self) -> list[Destination]:
        """Return all who wait; those who do for too long are gone."""
        since = time.monotonic() - KEEP
        while self._waiting and self._waiting[0][0] < since:
            self._waiting.popleft()
            self._count(late=1)
        return [self._waiting[at][1] for at in range(len(self._waiting))]  # more may come meanwhile

    def _count(self, **more: int) -> None:
        for what, many in more.items():
            self._counts[what] += many


def talking_to(address: bytes) -> list[Talker]:
    """Return who has open connections to a packed address, most sent first. Raises OSError or Malformed.

    Octets are 0 without accounting. Takes 1 ms, among 100,000 connections 40 ms with a kernel that filters (IPv4 only),
    else as long as a listing.
    """
    with contextlib.closing(Listener(_SUBSYSTEM)) as listener:
        found, _ = talking(listener, (address,))
    return sorted(found.values(), key=lambda one: (-one.sent, one.client))


def talking(listener: Listener, addresses: Collection[bytes]) -> tuple[dict[tuple[bytes, bytes], Talker], int]:
    """Return who has open connections to which of these, by address and client, and how many could not be read.

    Raises OSError or Malformed. One listing for each address, or one of all of a family, whichever costs less.
    """
    found: dict[tuple[bytes, bytes], Talker] = {}
    few = tuple(addresses) if len(addresses) <= FEW else ()  # so many are sought faster than a message is read
    garbled = 0
    for some in _listings(listener, addresses):
        for message in some:
            if few and not any(address in message.payload for address in few):
                continue
            try:
                connection = read(general(message))
                there = ends(connection.tuple_)
            except Malformed:
                garbled += 1
                continue
            if there.address in addresses:
                key = there.address, there.client
                found[key] = _more(found.get(key), there.client, connection)
    return found, garbled


def _listings(listener: Listener, addresses: Collection[bytes]) -> Iterator[list[Message]]:
    four = [address for address in addresses if len(address) == 4]
    if len(four) > FEW:
        yield from listener.dump(_GET, family=_INET)
    else:
        for address in four:
            yield from listener.dump(_GET, _only(address), family=_INET)
    if len(four) < len(addresses):
        # The kernel's filter for IPv6 leaves out what it should let pass (seen on 6.18).
        yield from listener.dump(_GET, family=_INET6)


def _more(before: Talker | None, client: bytes, connection: Connection) -> Talker:
    if before is None:
        return Talker(client, connection.sent, connection.received, connection.began)
    began = [since for since in (before.since, connection.began) if since]
    return Talker(
        client, before.sent + connection.sent, before.received + connection.received, min(began, default=0.0),
        before.connections + 1,
    )  # fmt: skip


def _only(address: bytes) -> bytes:
    """Return what has the kernel list connections to one IPv4 address."""
    wanted = nested(_FILTER, attribute(_FILTER_ORIGINAL, struct.pack("=I", _BY_DESTINATION)))
    return nested(ORIGINAL, nested(1, attribute(2, address))) + wanted
