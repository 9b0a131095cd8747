"""How much goes between each client and each address: the kernel's connection tracking, as flows once a minute.

Rules:
1. The original direction of a connection is the client's: its source is the inside address before NAT, its destination
   the address the client meant.
2. Each octet is told once. A listing tells what came since the one before; the first is only what the next is compared
   with. The news that a connection ended tells what came since the last listing, and waits while a listing is read.
3. Connections of the same client and address are told together. Nothing is told where nothing came.
4. Counters of the kernel are read, never reset: others read them too. They exist for connections that began after
   `net.netfilter.nf_conntrack_acct` was set to 1.
5. Every table has a cap and a counter. A connection past the cap is told when it ends.

Layouts: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from egress import host
from egress.connections import DYING, Connection, Ends, ends, read
from egress.netlink import Listener, Malformed, Message, general, messages
from egress.orders import Attempt, Flow
from egress.part import Hearing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

EVERY: Final = 60.0  # seconds between two listings
MAX_TRACKED: Final = 262_144  # connections whose counters are remembered: 40 MB
MAX_PAIRS: Final = 200_000  # pairs of client and address between two listings
MAX_WAITING: Final = 100_000  # datagrams of news that wait while a listing is read
REST: Final = 0.1  # seconds that news may gather: fewer wake-ups
BYPASS: Final = "bypass"
DNS_PORTS: Final = frozenset((53, 853))  # DNS; DNS over TLS and QUIC
ACCOUNTING: Final = Path("/proc/sys/net/netfilter/nf_conntrack_acct")
OFF: Final = "conntrack: octets are not counted; set net.netfilter.nf_conntrack_acct=1 (sysctl)"

_SUBSYSTEM: Final = 1
_GET: Final = 1
_DELETED: Final = _SUBSYSTEM << 8 | 2
_GROUP_DESTROY: Final = 3
_NAT64: Final = bytes.fromhex("0064ff9b0000000000000000")  # RFC 6052
_NO_INTERNET: Final = frozenset((0, 10, 127))  # first octets
_NOBODY: Final = frozenset((0, 127))
_SHIFT: Final = 64  # both counters in one number take half the memory of a pair
_MASK: Final = (1 << _SHIFT) - 1


class Flows(Hearing):
    """The part of the agent that hears connection tracking. `skips` says of (client, address) that nobody asks."""

    title = "conntrack"

    def __init__(
        self,
        agent: str,
        *,
        every: float = EVERY,
        skips: Callable[[bytes, bytes], bool] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.tally = Tally(agent, skips or inside)
        self._every = every
        self._clock = clock
        self._counts = {"listings": 0, "listed": 0, "ended": 0, "told": 0, "garbled": 0, "overruns": 0, "dropped": 0}

    def counters(self) -> dict[str, int]:
        """Return listings, connections in them, ended ones, flows told, unread messages, overruns, news dropped."""
        return {**self._counts, **self.tally.counters()}

    def _hear(self) -> None:
        news, table = Listener(_SUBSYSTEM), Listener(_SUBSYSTEM)
        try:
            news.join(_GROUP_DESTROY)
            due = time.monotonic()
            while not self._ending.is_set():
                if time.monotonic() >= due:
                    due = time.monotonic() + self._every
                    self.trouble = "" if accounted() else OFF
                    self.tally.own = _own()
                    self.compare(table, news)
                    self._say()
                self._ending.wait(min(REST, due - time.monotonic()))
                self._wait(news.fileno(), due - time.monotonic())
                self._take(self._news(news))
        finally:
            news.close()
            table.close()
            self._say()

    def compare(self, table: Listener, news: Listener) -> None:
        """Count what came since the last listing by another one, and by what ended while it was read. Raises OSError.

        One that breaks off costs nothing: the next compares with what it did not reach.
        """
        waiting: list[bytes] = []
        self.tally.begin()
        try:
            for some in table.dump(_GET):
                for message in some:
                    self._count(message, ended=False)
                waiting += self._news(news)
                self._counts["dropped"] += max(len(waiting) - MAX_WAITING, 0)
                del waiting[MAX_WAITING:]
        finally:
            self._take(waiting + self._news(news))
        self.tally.end()
        self._counts["listings"] += 1

    def _news(self, news: Listener) -> list[bytes]:
        found = news.take()
        self._counts["overruns"] += news.overruns
        news.overruns = 0
        return found

    def _take(self, datagrams: Iterable[bytes]) -> None:
        for datagram in datagrams:
            try:
                for message in messages(datagram):
                    if message.kind == _DELETED:
                        self._count(message, ended=True)
            except Malformed:
                self._counts["garbled"] += 1

    def _count(self, message: Message, *, ended: bool) -> None:
        try:
            connection = read(general(message))
            self.tally.count(connection, ended=ended)
        except Malformed:
            self._counts["garbled"] += 1
            return
        self._counts["ended" if ended else "listed"] += 1

    def _say(self) -> None:
        for told in self.tally.take(self._clock()):
            self._counts["told"] += 1
            self._tell(told)


class Tally:
    """Counters of connections become octets of pairs. Pure."""

    def __init__(self, agent: str, skips: Callable[[bytes, bytes], bool]) -> None:
        self._agent = agent
        self._skips = skips
        self._known: dict[int, int] = {}  # connection: its counters when last seen
        self._before: dict[int, int] = {}  # of the listing before: what is left of it has ended
        self._pairs: dict[tuple[bytes, bytes], list[int]] = {}  # sent, received, connections
        self._dns: dict[Ends, int] = {}  # connections to name servers elsewhere
        self.own: frozenset[bytes] = frozenset()  # addresses of this host, whose DNS passes nobody
        self._untracked = self._unpaired = 0
        self._compares = False  # there was a listing

    def counters(self) -> dict[str, int]:
        """Return connections remembered, those past MAX_TRACKED, and those whose pair was past MAX_PAIRS."""
        return {"tracked": len(self._known), "untracked": self._untracked, "unpaired": self._unpaired}

    def begin(self) -> None:
        """A listing begins; what one that broke off did not reach is still known."""
        self._before.update(self._known)
        self._known = {}

    def end(self) -> None:
        """The listing is over and the news that came meanwhile is counted; what is in neither has ended unheard."""
        self._before, self._compares = {}, True

    def count(self, connection: Connection, *, ended: bool) -> None:
        """Add what came since the connection was last seen. Raises Malformed for one without ends."""
        if connection.status & DYING and not ended:
            return  # the news of its end counts it
        key = connection.key
        known = self._known.pop(key, None)
        known = self._before.pop(key, None) if known is None else known
        now = connection.sent << _SHIFT | connection.received
        if not ended:
            if known is None and len(self._known) + len(self._before) >= MAX_TRACKED:
                self._untracked += 1
                return
            self._known[key] = now
        if known != now and self._compares:
            self._add(connection, known)

    def _add(self, connection: Connection, known: int | None) -> None:
        found = ends(connection.tuple_)
        pair = (found.client, found.address)
        total = self._pairs.get(pair)
        if total is None:
            if self._skips(*pair):
                return
            if len(self._pairs) >= MAX_PAIRS:
                self._unpaired += 1
                return
            total = self._pairs[pair] = [0, 0, 0]
        total[0] += _since(connection.sent, (known or 0) >> _SHIFT)
        total[1] += _since(connection.received, (known or 0) & _MASK)
        total[2] += 1
        if known is None and found.port in DNS_PORTS and found.client not in self.own:
            self._dns[found] = self._dns.get(found, 0) + 1

    def take(self, now: float) -> Iterator[Attempt | Flow]:
        """Yield what came since the last time; connections to name servers elsewhere also as attempts to bypass us."""
        pairs, self._pairs = self._pairs, {}
        past_us, self._dns = self._dns, {}
        for found, connections in past_us.items():
            yield Attempt(now, self._agent, *found, rule=BYPASS, packets=connections)
        for (client, address), (sent, received, connections) in pairs.items():
            yield Flow(now, self._agent, client, address, sent, received, connections)


def _since(now: int, before: int) -> int:
    """Return what was added; all of it when the counter began anew."""
    return now - before if now >= before else now


def inside(client: bytes, address: bytes) -> bool:
    """Whether a packed address is none of the internet's, or the client is this host's loopback: nobody asks then."""
    if len(address) == 16:
        return (address[0] & 0xE0 != 0x20 and address[:12] != _NAT64) or client[:15] == bytes(15)
    first, second = address[0], address[1]
    return (
        first in _NO_INTERNET
        or first >= 224
        or (first == 172 and second & 0xF0 == 16)
        or (first == 192 and second == 168)
        or (first == 169 and second == 254)
        or (first == 100 and second & 0xC0 == 64)
        or client[0] in _NOBODY
    )


def _own() -> frozenset[bytes]:
    try:
        return frozenset(ipaddress.ip_address(text).packed for text in host.addresses())
    except Unavailable:
        return frozenset()  # the hub of this host leaves them out too


def accounted(path: Path = ACCOUNTING) -> bool:
    """Whether the kernel counts the octets of connections, in the namespace of the thread that asks."""
    try:
        return path.read_text(encoding="ascii").strip() != "0"
    except (OSError, UnicodeDecodeError):
        return False
