"""What clients sent out through one node is charged at the others within a second or two, over a channel of Redis.

Rules:
1. A node tells what was charged since it last told; nobody asks. While Redis is away it waits, up to MAX_WAITING
   pairs; past that it is dropped and counted, and nodes then count alone.
2. Only the node that owns the embedded Redis uses it, so nothing is told there.
3. What comes from other nodes is not told again: no circles.
"""

from __future__ import annotations

import asyncio
import threading
import uuid
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
from redis.exceptions import RedisError

from core.errors import UNREADABLE, PlugholeError
from detectors.leak_words import Total
from feeds.redis import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.config import Config

CHANNEL: Final = "plughole:leaks"
EVERY: Final = 0.5  # seconds between two looks at what is to be told
MAX_WAITING: Final = 50_000  # pairs, about 10 MB
PIECE: Final = 1_000  # pairs a message, about 80 kB
RETRY: Final = 2.0  # seconds between two tries while Redis is away
_log = structlog.get_logger("sharing")


class Told(msgspec.Struct, frozen=True, array_like=True):
    """A message: which node, and what was charged there."""

    node: str
    totals: list[Total]


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Told).decode


class Sharing:
    """One node's part in the sums of all nodes. `deliver` is called in the event loop with what others told."""

    def __init__(self, config: Config, deliver: Callable[[Sequence[Total]], None]) -> None:
        self.sent = self.received = self.dropped = self.garbled = 0
        self._config = config
        self._deliver = deliver
        self._node = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._waiting: list[Total] = []
        self._stop = threading.Event()

    @property
    def on(self) -> bool:
        """True when there may be other nodes."""
        return self._config.redis.url != "embedded"

    def offer(self, totals: Sequence[Total]) -> None:
        """Have the other nodes told."""
        with self._lock:
            room = MAX_WAITING - len(self._waiting)
            self._waiting += totals[:room]
            self.dropped += max(len(totals) - room, 0)

    async def run(self) -> None:
        """Tell and listen until cancelled."""
        if not self.on:
            return
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._work, loop)
        try:
            await asyncio.shield(work)
        finally:
            self._stop.set()
            await work

    def counters(self) -> dict[str, int]:
        """Return pairs told, heard of and dropped, and messages that were none."""
        return {"sent": self.sent, "received": self.received, "dropped": self.dropped, "garbled": self.garbled}

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._config) as client:
                    self._take_part(client, loop)
            except (RedisError, OSError, PlugholeError) as error:
                _log.warning("leak accounts are summed on this node alone", reason=str(error))
                self._stop.wait(RETRY)

    def _take_part(self, client: Any, loop: asyncio.AbstractEventLoop) -> None:
        with client.pubsub(ignore_subscribe_messages=True) as news:
            news.subscribe(CHANNEL)
            while not self._stop.is_set():
                self._tell(client)
                self._hear(news.get_message(timeout=EVERY), loop)

    def _tell(self, client: Any) -> None:
        while True:
            with self._lock:
                piece = self._waiting[:PIECE]
            if not piece:
                return
            client.publish(CHANNEL, _encode(Told(self._node, piece)))
            with self._lock:
                del self._waiting[: len(piece)]
            self.sent += len(piece)

    def _hear(self, message: Any, loop: asyncio.AbstractEventLoop) -> None:
        if message is None:
            return
        try:
            told = _decode(message["data"])
        except (*UNREADABLE, TypeError):
            self.garbled += 1
            return
        if told.node != self._node:
            self.received += len(told.totals)
            loop.call_soon_threadsafe(self._deliver, told.totals)
