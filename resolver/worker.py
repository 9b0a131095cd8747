"""One worker process: the loop, its listeners, the pipeline, and the thread of news from the hub."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from core.errors import UNREADABLE, PlugholeError
from egress.pins.messages import path_of
from feeds.index import Index
from resolver.assemble import assemble
from resolver.clients import Clients
from resolver.control import (
    MAX_MESSAGE,
    Charged,
    Found,
    Report,
    State,
    decode_news,
    encode,
    intel_dir,
    read_state,
    written_at,
)
from resolver.cookies import SECRET, Cookies, keep, load
from resolver.keeping import Keeper
from resolver.outbox import BURST, Outbox
from resolver.pinning import Pinning
from resolver.scheduling import hurry, take_turns
from resolver.sharing import PIECE
from resolver.tcp import TcpListener
from resolver.udp import UdpListener
from resolver.upstream.route import build, in_front

if TYPE_CHECKING:
    import socket

    from core.config import Config
    from detectors.leak_words import Total
    from resolver.children import Line
    from resolver.sockets import Bound

FLUSH: Final = 0.05  # seconds between looks at what is to be told
PAUSE: Final = 0.001  # seconds until the next look when there is more to tell
FULL: Final = 0.005  # seconds until the next look when the hub takes nothing at the moment
UNREADY: Final = 3.0  # seconds a worker waits for intelligence before it answers that there is none
TIDY: Final = 3_600  # seconds between collections of everything
COOKIE_LOOK: Final = 60.0  # seconds between looks at the secrets of cookies
COOKIE_FILE: Final = "cookie.secrets"  # in the data folder
DRAIN: Final = 6.0  # seconds given at most to answers on their way when the worker is told to stop: clients wait 5
FAREWELL: Final = 1.0  # seconds the hub gets then to take the last events
_log = structlog.get_logger("worker")


class Worker:
    """All of one worker. `run` returns after SIGTERM."""

    def __init__(
        self, config: Config, bound: list[Bound], hub: socket.socket, line: Line, *, number: int, workers: int
    ) -> None:
        """`line` is where the supervisor hears that the worker lives."""
        self.outbox = Outbox(hub, worker=number, per_second=max(config.journal.max_rows_per_second // workers, 1))
        self.upstream = in_front(build(config.upstream, base=Path(config.base)), config)
        self.pipeline = assemble(
            config,
            workers=workers,
            upstream=self.upstream,
            outbox=self.outbox,
            clock=time.monotonic,
            wall=time.time,
            cookies=Cookies(_secrets(config) or [secrets.token_bytes(SECRET)]) if config.server.cookies else None,
        )
        self.policy = self.pipeline.policy
        self.pinning = Pinning(path_of(config), config.egress.pin) if config.egress.pin else None
        self.clients = Clients(
            self.policy,
            self.pipeline.limits,
            config.server.allow_from,
            config.server.proxy_from,
            pinning=self.pinning,
        )
        self._config = config
        self._reports_lost = 0
        self._seconds = 0  # served
        self._flushed = time.monotonic()  # when the outbox was looked at last
        self._hurries = True
        self._metering = self.pipeline.metering
        self._keeper = None if self._metering is None else Keeper(config.data_dir, number, self._metering.meter)
        self._number = number
        self._hub = hub
        self._line = line
        self._patience = min(config.upstream.timeout + 0.5, DRAIN)
        self._data_dir = config.data_dir
        self._state = State()
        self._state_at = 0  # when the state on disk was written, as it says, nanoseconds
        self._udp = [
            UdpListener(pair.udp, wildcard=pair.wildcard, pipeline=self.pipeline, clients=self.clients)
            for pair in bound
        ]
        self._tcp = [
            TcpListener(
                pair.tcp,
                pipeline=self.pipeline,
                clients=self.clients,
                clock=time.monotonic,
                most=max(config.server.tcp_connections // workers, 1),
                idle=config.server.tcp_idle,
            )
            for pair in bound
        ]
        self._stopping = asyncio.Event()
        self._ready = asyncio.Event()  # set once there is intelligence to judge by, or the end is near

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stop)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
        self.upstream.start()
        if self._keeper is not None:
            self._keeper.resume()
        if self.pinning is not None:
            self.pinning.start(loop)
        self._follow()
        loop.add_reader(self._hub.fileno(), self._on_news)
        _tidy()
        loop.call_later(FLUSH, self._flush)
        self._second()
        renewing = asyncio.create_task(self._renew_cookies())
        with contextlib.suppress(TimeoutError):  # queries wait in the sockets, or go to the predecessor, who is ready
            await asyncio.wait_for(self._ready.wait(), UNREADY)
        for udp in self._udp:
            udp.start(loop)
        for tcp in self._tcp:
            await tcp.start()
        await self._stopping.wait()
        renewing.cancel()
        await self._drain()

    def _stop(self) -> None:
        self._stopping.set()
        self._ready.set()

    async def _drain(self) -> None:
        """Read no more, answer what is on its way, tell the hub the rest: a successor may be on the sockets already."""
        asyncio.get_running_loop().remove_reader(self._hub.fileno())  # notices are for the successor
        for udp in self._udp:
            udp.stop()
        for tcp in self._tcp:
            tcp.drain()
        deadline = time.monotonic() + self._patience
        while (self.pipeline.outstanding or self._held) and time.monotonic() < deadline:  # noqa: ASYNC110  no event on the hot path
            await asyncio.sleep(FLUSH / 5)
        for tcp in self._tcp:
            tcp.stop()
        self.upstream.close()
        if self.pinning is not None:
            self.pinning.stop()
        await asyncio.sleep(0)  # what `close` answered is queued, and leaves
        self.outbox.passed(BURST)
        self.outbox.add_hits(self.clients.drain())
        while self.outbox.tell_hits(time.time()):
            pass
        if self._keeper is not None:
            self._keeper.write()
        deadline = time.monotonic() + FAREWELL
        while (self.outbox.flush() or self.outbox.waiting) and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(PAUSE)

    @property
    def _held(self) -> int:
        """How many replies wait until the agent has opened the firewall."""
        return self.pinning.waiting if self.pinning is not None else 0

    def _flush(self) -> None:
        """Do a little of what can wait: none of it may hold up an answer for long."""
        now = time.monotonic()
        self.outbox.passed(now - self._flushed)
        self._flushed = now
        self.pipeline.tick()
        more = self.outbox.tell_hits(time.time())
        more = self.outbox.flush() or more
        asyncio.get_running_loop().call_later(PAUSE if more else FULL if self.outbox.waiting else FLUSH, self._flush)

    async def _renew_cookies(self) -> None:
        """Take up new secrets of cookies; the file is read off the loop."""
        loop, manners = asyncio.get_running_loop(), self.pipeline.manners
        while manners.cookies is not None:
            await asyncio.sleep(COOKIE_LOOK)
            found = await loop.run_in_executor(None, _secrets, self._config)
            if found:
                manners.cookies = Cookies(found)

    def _second(self) -> None:
        """Once a second: allowances grow, overrides expire, hits are handed over to be told, counters reported."""
        now = time.time()
        if self.policy.tick(now):
            self.clients.forget()
            self.pipeline.invalidate()
        self.pipeline.second(int(time.monotonic()))
        self.outbox.add_hits(self.clients.drain())
        if self.pinning is not None:
            self.pinning.second()
        self._pace()
        if written_at(self._data_dir) != self._state_at:  # a notice was lost: it may have met the other one in a drain
            self._follow()
        self._report()
        self._tell_found(now)
        self._line.alive(ready=self.policy.ready)
        self._seconds += 1
        if self._seconds % TIDY:
            gc.freeze()  # what was cached since the last second is not looked at again: no pause grows with the cache
        else:
            _tidy()
        asyncio.get_running_loop().call_later(1.0 - now % 1.0 + 0.001, self._second)

    def _tell_found(self, now: float) -> None:
        """Tell the hub what the leak meter found, follow what analysts decided about it, and keep its state."""
        metering, keeper = self._metering, self._keeper
        if metering is None or keeper is None:
            return
        found = metering.second()
        if found:
            try:
                self._hub.send(encode(Found(self._number, found)))
            except OSError:
                metering.unheard += len(found)
        if self._config.redis.url != "embedded":
            self._tell_charged(metering.meter.totals(now))
        if not self._stopping.is_set():
            keeper.tick(now)

    def _tell_charged(self, totals: list[Total]) -> None:
        """Tell what was charged, for the other nodes; what the hub does not take is counted there alone."""
        for at in range(0, len(totals), PIECE):
            with contextlib.suppress(OSError):
                self._hub.send(encode(Charged(self._number, totals[at : at + PIECE])))

    def _pace(self) -> None:
        """Go before the hub, but not when it has fallen behind."""
        if self.outbox.behind == self._hurries:
            self._hurries = not self._hurries
            (hurry if self._hurries else take_turns)()

    def _report(self, *, generation: int | None = None) -> None:
        if self._stopping.is_set():  # the successor speaks for this worker
            return
        state = self._state
        serves = state.generation if generation is None else generation
        report = Report(self._number, os.getpid(), serves, state.sequence, self.counters())
        try:
            self._hub.send(encode(report))
        except OSError:
            self._reports_lost += 1

    def counters(self) -> dict[str, int]:
        """Return everything this worker counts."""
        view = self.policy.default
        found = self.pipeline.counters()
        found["reports_lost"] = self._reports_lost
        found["clients"] = len(self.clients.table)
        found["cache_answers"] = len(view.answers.table)
        found["cache_octets"] = view.answers.octets + view.rendered.octets
        found["cache_evicted"] = view.answers.evicted + view.rendered.evicted
        found["udp_received"] = sum(udp.ring.received for udp in self._udp)
        found["udp_sent"] = sum(udp.ring.sent for udp in self._udp)
        found["udp_unsent"] = sum(udp.ring.unsent for udp in self._udp)
        found["tcp_open"] = sum(len(tcp.connections) for tcp in self._tcp)
        found["tcp_accepted"] = sum(tcp.accepted for tcp in self._tcp)
        found["tcp_refused"] = sum(tcp.refused for tcp in self._tcp)
        found["proxied_bad"] = sum(udp.unproxied for udp in self._udp) + sum(tcp.unproxied for tcp in self._tcp)
        if self._metering is not None:
            found |= {f"leak_{name}": count for name, count in self._metering.counters().items()}
        if self.pinning is not None:
            found |= self.pinning.counters()
        found |= {f"events_{name}": count for name, count in self.outbox.counters().items()}
        return found | {f"upstream_{name}": count for name, count in self.upstream.counters().items()}

    def _on_news(self) -> None:
        try:
            data = self._hub.recv(MAX_MESSAGE)
        except OSError:
            return
        try:
            news = decode_news(data) if data else None
        except UNREADABLE:
            return
        if isinstance(news, Charged):
            if self._metering is not None:
                self._metering.meter.add_foreign(time.time(), news.totals)
        elif news is not None:
            self._follow()
            self._line.alive(ready=self.policy.ready)

    def _follow(self) -> None:
        """Serve by the state on disk from the next query on; an index that cannot be read leaves the old one.

        Opening an index checks all of it: 20 ms a million names, during which queries wait in the sockets.
        """
        self._state_at = written_at(self._data_dir)
        state = read_state(self._data_dir)
        if self._state.settled and not state.settled:
            self._state_at = -1  # damaged or gone: what it said holds, and is looked for again in a second
            self._report(generation=0)  # which has the hub write it
            return
        if state.settled and (state.index != self._state.index or not self.policy.ready):
            path = intel_dir(self._data_dir) / state.index
            try:
                index = Index.open(path) if state.index else None
            except PlugholeError as error:
                _log.error("index refused, the last good one stays", reason=str(error))
                return
            old = self.policy.use_index(index)
            if old is not None:
                old.close()
            self._ready.set()
        if state.overrides != self._state.overrides:
            self.policy.use_overrides(state.overrides, time.time())
            self.clients.forget()
        self._state = state
        self.pipeline.invalidate()
        self._report()


def _tidy() -> None:
    """Free what only the collector can free, and keep it off all that is still there: 0.1 s for a full cache.

    What is made for a query holds no cycles: the collector looks at the young only, for a twentieth of a millisecond.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()
    gc.set_threshold(1_000, 1_000, 1_000)


def _secrets(config: Config) -> tuple[bytes, ...]:
    """Return the secrets of cookies, ours kept and rotated in the data folder; none, said in the log, on failure."""
    try:
        if config.server.cookie_secret_file:
            return load(Path(config.base) / config.server.cookie_secret_file)
        return keep(config.data_dir / COOKIE_FILE, time.time())
    except PlugholeError as error:
        _log.error("cookies go on with the last secrets known here", reason=str(error))
        return ()


def run(config: Config, bound: list[Bound], hub: socket.socket, line: Line, *, number: int, workers: int) -> None:
    """Be a worker: the whole life of its process."""
    uvloop.install()
    hurry()

    async def main() -> None:
        await Worker(config, bound, hub, line, number=number, workers=workers).run()

    asyncio.run(main())
