"""Posts orders and refusals of the hub into Redis streams, from a thread of its own: the event loop never waits.

Rules:
1. What waits is bounded; past MAX_WAITING messages the newest are dropped and counted.
2. Redis away: what waits is tried again, each message as often as needed. An order holds the time it was made.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.exceptions import RedisError

from core.errors import PlugholeError
from egress.orders import FIELD, MAX_ORDERS, MAX_REFUSED, ORDERS, REFUSED, Block, Refusal, Release, encode
from feeds.redis import connect

if TYPE_CHECKING:
    from core.config import Config

MAX_WAITING: Final = 10_000  # messages
PIECE: Final = 500  # messages sent at a time
RETRY: Final = 1.0  # seconds between two tries while Redis is away
END: Final = 2.0  # seconds to post what waits when the node stops
_log = structlog.get_logger("egress")


class Post:
    """The way from one hub to the streams of orders and refusals."""

    def __init__(self, config: Config) -> None:
        self.posted = self.dropped = 0
        self.trouble = ""
        self._config = config
        self._waiting: deque[Block | Release | Refusal] = deque()
        self._news = threading.Event()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to post."""
        self._thread = threading.Thread(target=self._work, name="egress-post", daemon=True)
        self._thread.start()

    def offer(self, message: Block | Release | Refusal) -> None:
        """Have a message posted."""
        if len(self._waiting) >= MAX_WAITING:
            self.dropped += 1
            return
        self._waiting.append(message)
        self._news.set()

    def close(self) -> None:
        """Post what waits, for END seconds at most, and end."""
        self._stop.set()
        self._news.set()
        if self._thread is not None:
            self._thread.join(END)

    def counters(self) -> dict[str, int]:
        """Return messages posted, waiting and dropped."""
        return {"posted": self.posted, "unposted": len(self._waiting), "undelivered": self.dropped}

    def _work(self) -> None:
        while self._waiting or not self._stop.is_set():
            try:
                with connect(self._config) as client:
                    self._post(client)
            except (RedisError, OSError, PlugholeError) as error:
                if not self.trouble:
                    _log.warning("orders wait for redis", reason=str(error))
                self.trouble = str(error)
                if self._stop.wait(RETRY):
                    return

    def _post(self, client: Any) -> None:
        """Post until told to stop."""
        while not (self._stop.is_set() and not self._waiting):
            if not self._waiting:
                self._news.wait()
            self._news.clear()
            while self._waiting:
                piece = [self._waiting[at] for at in range(min(PIECE, len(self._waiting)))]
                with client.pipeline(transaction=False) as pipe:
                    for message in piece:
                        key, most = (REFUSED, MAX_REFUSED) if isinstance(message, Refusal) else (ORDERS, MAX_ORDERS)
                        pipe.xadd(key, {FIELD: encode(message)}, maxlen=most, approximate=True)
                    pipe.execute()
                for _ in piece:
                    self._waiting.popleft()
                self.posted += len(piece)
                self.trouble = ""
