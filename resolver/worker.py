"""One worker process: the loop, its listeners, the pipeline, and the thread of news from the hub."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import uvloop

from core.errors import PlugholeError
from feeds.index import Index
from resolver.clients import Clients
from resolver.control import MAX_MESSAGE, Report, State, decode_notice, encode, intel_dir, read_state
from resolver.outbox import Outbox
from resolver.pipeline import Pipeline
from resolver.policy import Policy
from resolver.render import Renderer
from resolver.sinkhole import Sinkhole
from resolver.tcp import TcpListener
from resolver.udp import UdpListener
from resolver.upstream.route import build

if TYPE_CHECKING:
    import socket

    from core.config import Config
    from resolver.sockets import Bound

FLUSH: Final = 0.05  # seconds between looks at the outbox
DRAIN: Final = 2.0  # seconds given to answers on their way when the worker is told to stop
_log = structlog.get_logger("worker")


class Worker:
    """All of one worker. `run` returns after SIGTERM."""

    def __init__(self, config: Config, bound: list[Bound], hub: socket.socket, *, number: int, workers: int) -> None:
        megabyte = 1_048_576
        self.policy = Policy(cache_bytes=config.cache.max_megabytes * megabyte // workers)
        self.clients = Clients(self.policy, config.server.allow_from)
        self.outbox = Outbox(hub, worker=number, per_second=max(config.journal.max_rows_per_second // workers, 1))
        self.upstream = build(config.upstream, base=Path(config.base))
        self.pipeline = Pipeline(
            policy=self.policy,
            upstream=self.upstream,
            renderer=Renderer(config.server.udp_size),
            sinkhole=Sinkhole(config.sinkhole),
            cache=config.cache,
            outbox=self.outbox,
            clock=time.time,
        )
        self._number = number
        self._hub = hub
        self._data_dir = config.data_dir
        self._state = State()
        self._udp = [
            UdpListener(pair.udp, wildcard=pair.wildcard, pipeline=self.pipeline, clients=self.clients)
            for pair in bound
        ]
        self._tcp = [
            TcpListener(
                pair.tcp,
                pipeline=self.pipeline,
                clients=self.clients,
                clock=time.time,
                most=max(config.server.tcp_connections // workers, 1),
                idle=config.server.tcp_idle,
            )
            for pair in bound
        ]
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Serve until told to stop, then drain."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
        self._follow()
        self.upstream.start()
        loop.add_reader(self._hub.fileno(), self._on_news)
        for udp in self._udp:
            udp.start(loop)
        for tcp in self._tcp:
            await tcp.start()
        gc.collect()
        gc.freeze()  # what lives as long as the process is not looked at again
        gc.set_threshold(200_000, 50, 100)  # what is made for a query holds no cycles: look seldom
        loop.call_later(FLUSH, self._flush)
        self._second()
        await self._stopping.wait()
        await self._drain()

    async def _drain(self) -> None:
        for tcp in self._tcp:
            tcp.stop()
        deadline = time.monotonic() + DRAIN
        while self.pipeline.outstanding and time.monotonic() < deadline:  # noqa: ASYNC110  no event on the hot path
            await asyncio.sleep(FLUSH)
        for udp in self._udp:
            udp.stop()
        self.upstream.close()
        self.outbox.add_hits(self.clients.drain(), time.time())
        self.outbox.flush()

    def _flush(self) -> None:
        self.outbox.flush()
        asyncio.get_running_loop().call_later(FLUSH, self._flush)

    def _second(self) -> None:
        """Once a second: TTLs age, overrides expire, hits are told, counters reported."""
        now = time.time()
        if self.policy.tick(now):
            self.clients.forget()
        self.pipeline.stamp += 1
        self.outbox.add_hits(self.clients.drain(), now)
        self.outbox.second()
        self._report()
        asyncio.get_running_loop().call_later(1.0 - now % 1.0 + 0.001, self._second)

    def _report(self) -> None:
        state = self._state
        report = Report(self._number, os.getpid(), state.generation, state.sequence, self.counters())
        try:
            self._hub.send(encode(report))
        except OSError:
            self.pipeline.counters["reports_lost"] = self.pipeline.counters.get("reports_lost", 0) + 1

    def counters(self) -> dict[str, int]:
        """Return everything this worker counts."""
        view = self.policy.default
        found = dict(self.pipeline.counters)
        found["clients"] = len(self.clients.table)
        found["cache_answers"] = len(view.answers.table)
        found["cache_octets"] = view.answers.octets + view.rendered.octets
        found["cache_evicted"] = view.answers.evicted + view.rendered.evicted
        found["udp_sent"] = sum(udp.ring.sent for udp in self._udp)
        found["udp_unsent"] = sum(udp.ring.unsent for udp in self._udp)
        found["tcp_open"] = sum(len(tcp.connections) for tcp in self._tcp)
        found["tcp_refused"] = sum(tcp.refused for tcp in self._tcp)
        found |= {f"events_{name}": count for name, count in self.outbox.counters().items()}
        return found | {f"upstream_{name}": count for name, count in self.upstream.counters().items()}

    def _on_news(self) -> None:
        try:
            data = self._hub.recv(MAX_MESSAGE)
        except OSError:
            return
        if data:
            decode_notice(data)
            self._follow()

    def _follow(self) -> None:
        """Serve by the state on disk from the next query on; an index that cannot be read leaves the old one.

        Opening an index checks all of it: 20 ms a million names, during which queries wait in the sockets.
        """
        state = read_state(self._data_dir)
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
        if state.overrides != self._state.overrides:
            self.policy.use_overrides(state.overrides, time.time())
            self.clients.forget()
        self._state = state
        self.pipeline.stamp += 1
        self._report()


def run(config: Config, bound: list[Bound], hub: socket.socket, *, number: int, workers: int) -> None:
    """Be a worker: the whole life of its process."""
    uvloop.install()

    async def main() -> None:
        await Worker(config, bound, hub, number=number, workers=workers).run()

    asyncio.run(main())
