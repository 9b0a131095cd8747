"""The hub's ear for agents: what they saw of clients and addresses is taken from Redis into the journal.

Rules:
1. One thread does it all: Redis, names, the journal's files. The hub's loop only hands events over.
2. Of the hubs of all nodes one takes each entry (group `hubs`); it is acknowledged once its rows are on disk. What a
   hub took and never finished, another takes over after ABANDONED seconds. A crash between may double rows, never lose
   them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections import deque
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.exceptions import RedisError, ResponseError

from core.errors import PlugholeError, Unavailable
from egress import host
from egress.orders import AGENTS, FIELD, ORDERS, SEEN
from feeds.redis import connect
from journal.flows import FlowBook
from resolver.seen import Intake

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from core.config import Config
    from core.event import Event
    from core.finding import Finding

GROUP: Final = "hubs"
RETRY: Final = 2.0  # seconds between two tries while Redis is away
PATIENCE: Final = 500  # milliseconds for news
PIECE: Final = 64  # entries at once
ABANDONED: Final = 600.0  # seconds
EVERY: Final = 60.0  # seconds between looks at what others abandoned, and whether there are agents and other hubs
GONE: Final = 86_400_000  # milliseconds without a sign of another hub
MAX_ORDERS: Final = 20_000  # the newest, read at the start
MAX_WAITING: Final = 10_000  # batches of events not looked at yet
_log = structlog.get_logger("seeing")


class Seeing:
    """One node's part in what agents saw. `deliver` is called in the event loop with what clients tried."""

    def __init__(self, config: Config, deliver: Callable[[Sequence[Finding]], None], *, now: float) -> None:
        self.trouble = ""
        self._config = config
        self._deliver = deliver
        self._consumer = f"{socket.gethostname()}:{config.data_dir}"
        self._stop = threading.Event()
        self._agents = False
        self._missed = self._told_missed = 0  # batches of events
        self._events: deque[Sequence[Event]] = deque(maxlen=MAX_WAITING)
        self._intake = Intake(own(), now=now)
        self._book = FlowBook(config, now=now)
        self._taken: deque[bytes] = deque()  # entries whose rows wait, oldest first
        self._acknowledged = 0  # of the book's batches
        self._orders = ""  # the last one read; empty: none yet
        self._resumed = False
        self._looked = 0.0

    def see(self, events: Sequence[Event]) -> None:
        """Have the names of these events known, when there is an agent that needs them. Takes no time."""
        if self._agents:
            self._missed += len(self._events) == MAX_WAITING
            self._events.append(events)

    async def run(self) -> None:
        """Listen until cancelled; then what was taken in is on disk, or waits in Redis."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._work, loop)
        try:
            await asyncio.shield(work)
        finally:
            self._stop.set()
            await work

    def counters(self) -> dict[str, Any]:
        """Return what was taken in, entries not on disk yet, batches of events missed, and the journal's part."""
        return {
            **self._intake.counters(),
            "waiting": len(self._taken),
            "missed": self._missed,
            "journal": self._book.counters(),
        }

    def troubles(self) -> list[str]:
        """Return what is wrong at present, one line each. Redis away is told by others."""
        return [text for text in (self._book.trouble,) if text]

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._config) as client:
                    self._take_part(client, loop)
            except (RedisError, OSError, PlugholeError) as error:
                if self.trouble != str(error):
                    _log.warning("agents are not heard", reason=str(error))
                self.trouble = str(error)
                self._chores()
                self._stop.wait(RETRY)
        self._book.close(time.time())

    def _take_part(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        _make_group(client)
        self.trouble = ""
        if not self._resumed:
            self._resume(client, loop)
        while not self._stop.is_set():
            self._look(client, loop)
            self._chores()
            self._acknowledge(client)
            news = client.xreadgroup(GROUP, self._consumer, {SEEN: ">"}, count=PIECE, block=PATIENCE)
            self._take(client, loop, _entries(news))
        self._book.close(time.time())
        self._acknowledge(client)

    def _resume(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Take what an earlier process of this node took and did not finish."""
        last: str | bytes = "0"
        while not self._stop.is_set():
            entries = _entries(client.xreadgroup(GROUP, self._consumer, {SEEN: last}, count=PIECE))
            if not entries:
                break
            self._take(client, loop, entries)
            last = entries[-1][0]
        self._resumed = True

    def _look(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        """Once a while: are there agents, are there other hubs, and did one leave anything."""
        now = time.monotonic()
        if self._looked and now - self._looked < EVERY:
            return
        self._looked = now
        if client.hlen(AGENTS):
            self._begin()
        hubs = {hub["name"].decode(): hub["idle"] for hub in client.xinfo_consumers(SEEN, GROUP)}
        self._intake.alone = all(name == self._consumer or idle > GONE for name, idle in hubs.items())
        idle = int(ABANDONED * 1_000)
        entries = client.xautoclaim(SEEN, GROUP, self._consumer, idle, count=PIECE)[1]
        known = set(self._taken)
        self._take(client, loop, [(entry, fields or {}) for entry, fields in entries if entry not in known])

    def _take(self, client: Any, loop: asyncio.AbstractEventLoop, entries: Sequence[tuple[bytes, Any]]) -> None:
        if not entries:
            return
        self._begin()
        self._follow(client)
        self._name()
        now = time.time()
        for entry, fields in entries:
            rows, findings = self._intake.take(fields.get(FIELD, b""), now)
            self._taken.append(entry)
            self._book.write(rows, now)
            for one in findings:
                _log.warning("a client and a blocked address", client=one.client, domain=one.domain, reason=one.reason)
            if findings:
                loop.call_soon_threadsafe(self._deliver, findings)

    def _follow(self, client: Any) -> None:
        """Learn for which domains addresses are blocked, at first from the newest orders."""
        if not self._orders:
            newest = client.xrevrange(ORDERS, count=MAX_ORDERS)
            self._orders = newest[0][0].decode() if newest else "0"
            self._intake.follow(fields.get(FIELD, b"") for _, fields in reversed(newest))
        while entries := _entries(client.xread({ORDERS: self._orders}, count=PIECE)):
            self._orders = entries[-1][0].decode()
            self._intake.follow(fields.get(FIELD, b"") for _, fields in entries)

    def _acknowledge(self, client: Any) -> None:
        count = self._book.settled - self._acknowledged
        if count:
            client.xack(SEEN, GROUP, *[self._taken[at] for at in range(count)])
            for _ in range(count):
                self._taken.popleft()
            self._acknowledged += count

    def _chores(self) -> None:
        self._name()
        self._book.tick(time.time())

    def _begin(self) -> None:
        """There are agents: names are collected from now on."""
        if not self._agents:
            self._intake.begin(time.time())
            self._agents = True

    def _name(self) -> None:
        if self._missed != self._told_missed:
            self._told_missed = self._missed
            self._intake.naming.since = time.time()
        while self._events:
            self._intake.naming.see(self._events.popleft())


def own() -> frozenset[bytes]:
    """Return the addresses of this host: what it asks of other resolvers is no way past us."""
    try:
        return frozenset(ip_address(text).packed for text in host.addresses())
    except Unavailable as error:
        _log.warning("the own addresses are not known", reason=str(error))
        return frozenset()


def _entries(found: Any) -> list[tuple[bytes, Any]]:
    """Return the entries of an answer about one stream, by either protocol of Redis; a deleted one has no fields."""
    parts = found.values() if isinstance(found, dict) else (part for _, part in found or ())
    return [entry for part in parts for entry in _flat(part)]


def _flat(part: Any) -> Iterator[tuple[bytes, Any]]:
    for item in part:
        if isinstance(item, list):
            yield from _flat(item)
        else:
            yield item[0], item[1] or {}


def _make_group(client: Any) -> None:
    try:
        client.xgroup_create(SEEN, GROUP, id="0", mkstream=True)
    except ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
