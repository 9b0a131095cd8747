"""Follows Redis for one node: fetches new generations and overrides, puts them on disk, and says so to the workers.

Rules:
1. All waiting for Redis happens in one thread of its own; the hub's loop never waits for it.
2. The last good state stays in force whatever fails here: a broken generation is refused and named in the status.
3. Index files no state refers to are removed, but never the one before: a worker may still be opening it.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Final

import structlog
from redis.exceptions import RedisError

from core.errors import BadFeed, BadName, PlugholeError
from core.names import to_text
from feeds import overlay, store
from feeds.index import SUFFIX, Index
from feeds.redis import connect
from resolver.control import State, intel_dir, read_state, write_state

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from redis import Redis

    from core.config import Config

LOOK: Final = 5.0  # seconds between looks at Redis when nothing was published
POLL: Final = 0.2  # seconds a wait for news may last before the thread looks whether it is to stop
HEARTBEAT: Final = 2.0  # seconds between signs of life in Redis
HEARTBEAT_TTL: Final = 10.0
MAX_TO_PUT: Final = 10_000  # convictions that wait for a Redis that is away
BACKOFF: Final = (0.2, 0.5, 1.0, 2.0, 5.0)  # seconds between tries while Redis is away
_log = structlog.get_logger("follower")


class Follower:
    """Keeps this node's state what Redis says. `applied` is the overlay sequence all workers serve by."""

    def __init__(self, config: Config, changed: Callable[[], None]) -> None:
        """`changed` is called in the event loop after the state on disk was replaced."""
        self.applied = 0
        self.node = f"{socket.gethostname()}:{os.path.realpath(config.data_dir)}"  # how this node is called in Redis
        self.doubted = True  # the index in force is to be checked: at the start, and when a worker serves without it
        self._config = config
        self._changed = changed
        self._state = read_state(config.data_dir)
        self._trouble = ""
        self._away_since = 0.0
        self._stop = threading.Event()
        self._told = -1
        self._beat_at = 0.0
        self._to_put: deque[overlay.Override] = deque(maxlen=MAX_TO_PUT)

    @property
    def overrides(self) -> tuple[overlay.Override, ...]:
        """What analysts and detectors decided, as this node serves by it."""
        return self._state.overrides

    def put(self, override: overlay.Override) -> None:
        """Have an override written to Redis as soon as it is there; the newest MAX_TO_PUT wait for it."""
        self._to_put.append(override)

    async def run(self) -> None:
        """Follow until cancelled."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(None, self._follow, loop)
        try:
            await asyncio.shield(work)
        finally:
            self._stop.set()
            await work

    def status(self, now: float) -> dict[str, Any]:
        """Return what the node serves by and what is wrong with it."""
        degraded = []
        if self._trouble:
            degraded.append(f"intel: {self._trouble}")
        if self._away_since:
            degraded.append(f"redis: away for {now - self._away_since:.0f} s, serving the last good state")
        if not self._state.settled:
            degraded.append("intel: none loaded yet, queries are answered SERVFAIL; run `plughole feeds update`")
        return {
            "generation": self._state.generation,
            "index": self._state.index,
            "overlay": self._state.sequence,
            "overrides": len(self._state.overrides),
            "redis": "away" if self._away_since else "up",
            "degraded": degraded,
        }

    # ---- in the thread

    def _follow(self, loop: asyncio.AbstractEventLoop) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                with connect(self._config) as client:
                    self._listen(client, loop)
                failures = 0
            except (RedisError, OSError, PlugholeError) as error:
                if not self._away_since:
                    self._away_since = time.time()
                    _log.warning("redis is away, the last good state stays", reason=str(error))
                self._settle_without_redis(loop)
                self._stop.wait(BACKOFF[min(failures, len(BACKOFF) - 1)])
                failures += 1

    def _listen(self, client: Redis, loop: asyncio.AbstractEventLoop) -> None:
        """Catch up, then wait for news and look again; returns when told to stop."""
        with client.pubsub(  # type: ignore[no-untyped-call]
            ignore_subscribe_messages=True
        ) as news:
            news.subscribe(store.CHANNEL, overlay.CHANNEL)
            look_at = 0.0
            while not self._stop.is_set():
                self._put_overrides(client)
                heard = news.get_message(timeout=POLL)
                now, ticks = time.time(), time.monotonic()  # the clock of the wall may be set back by a day
                if heard is not None or ticks >= look_at or (self.doubted and not self._trouble):
                    self._catch_up(client, loop)
                    if self._away_since:
                        _log.info("redis is back", seconds=round(now - self._away_since, 1))
                        self._away_since = 0.0
                    look_at = ticks + LOOK
                self._beat(client, now, ticks)
            overlay.Overlay(client).leave(self.node)

    def _put_overrides(self, client: Redis) -> None:
        """Put convictions in force, but for what a person said about the same client and name."""
        while self._to_put:
            override = self._to_put[0]
            said = overlay.Overlay(client)
            try:
                if not any(one.field == override.field and not one.convicts for one in said.all(time.time())):
                    said.put(override)
            except BadName as error:  # as many as there may be
                _log.error("a conviction is not in force", name=to_text(override.name), reason=str(error))
            self._to_put.popleft()

    def _catch_up(self, client: Redis, loop: asyncio.AbstractEventLoop) -> None:
        """Make the state on disk what Redis says, if it is not."""
        said = overlay.Overlay(client)
        now = time.time()
        said.prune(now)
        sequence = said.seq()
        damaged = self._damaged()
        state = self._intel(store.Store(client, keep=self._config.feeds.keep_generations), damaged=damaged)
        overrides = tuple(said.all(now))
        fresh = State(
            index=state.index,
            generation=state.generation,
            settled=state.settled,
            sequence=sequence,
            overrides=overrides,
        )
        if fresh != self._state or damaged:
            self._put(fresh, loop)

    def _intel(self, generations: store.Store, *, damaged: bool) -> State:
        """Return the part of the state about intelligence: the generation in force, or the last good one."""
        generation = generations.current()
        if generation is None:
            settled = self._state.settled or not self._config.feeds.source
            return State(index=self._state.index, generation=self._state.generation, settled=settled)
        if generation == self._state.generation and self._state.settled and not damaged:
            return self._state
        try:
            path = store.load_index(generations, intel_dir(self._config.data_dir), generation)
        except (PlugholeError, OSError) as error:
            if self._trouble != str(error):
                _log.error("generation refused, the last good one stays", generation=generation, reason=str(error))
            self._trouble = str(error)
            return self._state
        self._trouble = ""
        return State(index=path.name, generation=generation, settled=True)

    def _damaged(self) -> bool:
        """True when the state on disk is not ours, or its index cannot be read and is gone: Redis has it once more."""
        doubted, self.doubted = self.doubted, False
        path = intel_dir(self._config.data_dir) / self._state.index
        try:
            if doubted and self._state.index:
                Index.open(path).close()
        except BadFeed as error:
            _log.error("index damaged, fetching it again", reason=str(error))
            path.unlink(missing_ok=True)
            return True
        return doubted and read_state(self._config.data_dir) != self._state

    def _settle_without_redis(self, loop: asyncio.AbstractEventLoop) -> None:
        """A node without feeds has all the intelligence it will ever have, Redis or not."""
        if not self._state.settled and not self._config.feeds.source:
            self._put(State(settled=True), loop)

    def _put(self, state: State, loop: asyncio.AbstractEventLoop) -> None:
        before = self._state
        try:
            write_state(self._config.data_dir, state)
        except OSError as error:
            if not self._trouble:
                _log.error("state cannot be written, the last good one stays", reason=str(error))
            self._trouble = f"state cannot be written: {error}"
            return
        self._state = state
        loop.call_soon_threadsafe(self._changed)
        if state.generation != before.generation:
            _log.info("generation in force", generation=state.generation)
            _tidy(intel_dir(self._config.data_dir), keep={state.index, before.index})

    def _beat(self, client: Redis, now: float, ticks: float) -> None:
        """Say in Redis that this node lives and which overrides it serves by, at once when that changed."""
        if ticks < self._beat_at and self.applied == self._told:
            return
        fields = {"applied_seq": self.applied, "generation": self._state.generation, "at": round(now, 3)}
        overlay.Overlay(client).heartbeat(self.node, fields, ttl=HEARTBEAT_TTL, now=now)
        self._told = self.applied
        self._beat_at = ticks + HEARTBEAT


def _tidy(folder: Path, keep: set[str]) -> None:
    for path in folder.glob(f"*{SUFFIX}"):
        if path.name not in keep:
            path.unlink(missing_ok=True)
