"""The hub process: takes what the workers tell, writes the journal, follows Redis, answers `plughole status`.

Rules:
1. Workers never wait for the hub. What the hub cannot take, they drop and count.
2. The hub changes the node's state (index, overrides) on disk first and tells the workers after.
3. Redis away: the node goes on with its last state, says so in its status, and looks again with back-off.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import msgspec
import structlog
import uvloop

from core.errors import UNREADABLE, PlugholeError
from core.event import Batch
from journal.alerts import AlertBook
from journal.journal import Journal
from resolver.control import MAX_MESSAGE, SOCKET, Changed, Charged, Found, Report, decode_said, encode
from resolver.follower import Follower
from resolver.learning import Learning
from resolver.metrics import SILENT
from resolver.metrics_http import MetricsServer
from resolver.rates import Rates
from resolver.scheduling import give_way
from resolver.seeing import Seeing
from resolver.sharing import Sharing
from resolver.sockets import worker_of
from resolver.watching import Watching

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from core.config import Config
    from detectors.leak_words import Total
    from resolver.children import Line

TICK: Final = 0.25  # seconds between the journal's chores
MAX_TAKEN: Final = 64  # messages taken from one worker before the others have their turn
REST: Final = 0.01  # seconds a worker's messages may gather: fewer wake-ups, larger pieces of work
_NO_INTEL: Final = "intel: none loaded yet"  # how the follower says that nothing is answered
_log = structlog.get_logger("hub")


class Hub:
    """All of the hub. `run` returns after SIGTERM."""

    def __init__(self, config: Config, workers: list[socket.socket]) -> None:
        now = time.time()
        self._config = config
        self._workers = workers
        self._journal = Journal(config, now=now)
        self._follower = Follower(config, self._tell_workers)
        self._reports: dict[int, tuple[float, Report]] = {}
        self._rates = Rates()
        self._watching = Watching(config, now=now)
        self._learning = Learning(config, now=now, node=self._follower.node)
        self._alerts = AlertBook(config.data_dir)
        self._sharing = Sharing(config, self._charge)
        self._seeing = Seeing(config, lambda found: self._watching.take_in(found, time.time()), now=now)
        self._metrics = MetricsServer(config.server.metrics, config.data_dir, lambda: self.status(time.time()))
        self._events = 0
        self._dropped = 0
        self._garbled = 0
        self._started = now
        self._stopping = asyncio.Event()

    async def run(self, line: Line) -> None:
        """Work until told to stop; then write what is still unwritten. The supervisor hears on `line` that it works."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._stopping.set)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for sock in self._workers:
            loop.add_reader(sock.fileno(), self._on_readable, sock)
        self._watching.follow(self._follower.overrides)
        self._learning.follow(self._follower.overrides)
        self._learning.start()
        server = await self._listen()
        threads = [asyncio.create_task(part.run()) for part in (self._follower, self._sharing, self._seeing)]
        if self._config.server.metrics:
            self._metrics.start()
        gc.freeze()
        give_way()
        loop.call_later(TICK, self._tick)
        line.alive(ready=True)
        await self._stopping.wait()
        self._metrics.stop()
        for thread in threads:
            thread.cancel()
        await asyncio.gather(*threads, return_exceptions=True)
        server.close()
        for sock in self._workers:
            loop.remove_reader(sock.fileno())  # what comes from now on waits for the successor
            self._on_said(sock)
        self._watching.close()
        self._learning.close()
        self._alerts.close()
        self._journal.close(time.time())
        gc.unfreeze()  # DuckDB's module complains at the end about what it cannot find

    async def _listen(self) -> asyncio.Server:
        path = self._config.data_dir / SOCKET
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._on_question, path=path)
        path.chmod(0o660)
        return server

    def _tick(self) -> None:
        now = time.time()
        self._journal.tick(now)
        self._rates.note(self._reports, now)
        self._watch(now)
        asyncio.get_running_loop().call_later(TICK, self._tick)

    def _watch(self, now: float) -> None:
        """Have the detectors do what is due, and what they found told and put in force."""
        self._watching.tick(now)
        self._learning.tick(now)
        for override in self._watching.take_convictions():
            self._follower.put(override)
        self._alerts.write(self._watching.take_alerts())

    def _on_readable(self, sock: socket.socket) -> None:
        """Take what a worker said, and listen again in a while."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(sock.fileno())
        try:
            self._on_said(sock)
        finally:
            loop.call_later(REST, self._listen_to, sock)

    def _listen_to(self, sock: socket.socket) -> None:
        if not self._stopping.is_set():
            asyncio.get_running_loop().add_reader(sock.fileno(), self._on_readable, sock)

    def _on_said(self, sock: socket.socket) -> None:
        events = []
        for _ in range(MAX_TAKEN):
            try:
                data = sock.recv(MAX_MESSAGE)
            except OSError:
                break
            if not data:
                break
            try:
                said = decode_said(data)
            except UNREADABLE:
                self._garbled += 1
                continue
            if isinstance(said, Batch):
                events += said.events
                self._dropped += said.dropped
            elif isinstance(said, Found):
                self._watching.take_in(said.findings, time.time())
            elif isinstance(said, Charged):
                self._sharing.offer(said.totals)
            else:
                self._reports[said.worker] = (time.time(), said)
                self._follower.applied = min(report.sequence for _, report in self._reports.values())
                self._follower.doubted |= not said.generation
        if events:
            self._events += len(events)
            self._rates.add(events)
            self._journal.write(events, time.time())
            self._watching.see(events)
            self._learning.see(events)
            self._seeing.see(events)

    def _charge(self, totals: Sequence[Total]) -> None:
        """Charge what other nodes told to the workers that meet these clients."""
        mine: dict[int, list[Total]] = {}
        for total in totals:
            mine.setdefault(worker_of(total.client, len(self._workers)), []).append(total)
        for number, some in mine.items():
            with contextlib.suppress(OSError):  # full: the worker has enough to read as it is
                self._workers[number].send(encode(Charged(number, some)))

    def _tell_workers(self) -> None:
        """Tell all workers that the state on disk is another one, and the detectors what analysts allow."""
        self._watching.follow(self._follower.overrides)
        self._learning.follow(self._follower.overrides)
        notice = encode(Changed())
        for sock in self._workers:
            with contextlib.suppress(OSError):  # full: the worker has notices to read as it is
                sock.send(notice)

    async def _on_question(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one line, `status`, with one line of JSON."""
        with contextlib.suppress(OSError, asyncio.IncompleteReadError, ValueError, TimeoutError):
            line = await asyncio.wait_for(reader.readline(), timeout=2.0)
            answer = self.status(time.time()) if line.strip() == b"status" else {"error": "ask `status`"}
            writer.write(msgspec.json.encode(answer) + b"\n")
            await writer.drain()
        writer.close()

    def status(self, now: float) -> dict[str, Any]:
        """Return the state of the whole node, as `plughole status --json` prints it."""
        workers = [
            {"worker": report.worker, "pid": report.pid, "seconds_since_report": round(now - at, 1),
             "generation": report.generation, "overlay": report.sequence, **report.counters}
            for at, report in sorted(self._reports.values(), key=lambda item: item[1].worker)
        ]  # fmt: skip
        intel = self._follower.status(now)
        degraded = self._degraded(workers, intel)
        return {
            "at": now,
            "state": _state(degraded, workers, uptime=now - self._started),
            "degraded": degraded,
            "hub": {"pid": os.getpid(), "started": self._started, "uptime_seconds": round(now - self._started),
                    "workers": len(self._workers), "events": self._events,
                    "events_dropped_by_workers": self._dropped, "garbled": self._garbled},
            "rates": self._rates.now(),
            "queries": self._rates.queries(),
            "workers": workers,
            "intel": intel,
            "journal": self._journal.counters(),
            "detectors": {**self._watching.counters(), "sharing": self._sharing.counters()},
            "learning": self._learning.counters(),
            "seen": self._seeing.counters(),
            "disk": self._disk(),
            "metrics": self._metrics.status(),
        }  # fmt: skip

    def _disk(self) -> dict[str, int]:
        """Return the octets free and in all where the data folder lies; empty when the file system does not say."""
        try:
            found = shutil.disk_usage(self._config.data_dir)
        except OSError:
            return {}
        return {"free_bytes": found.free, "size_bytes": found.total}

    def _degraded(self, workers: list[dict[str, Any]], intel: dict[str, Any]) -> list[str]:
        """One line a part that does not do its whole job."""
        found = [*intel["degraded"], *(f"journal: {trouble}" for trouble in self._journal.troubles())]
        found += [text for text in (self._rates.failing(),) if text]
        found += [f"journal: {trouble}" for trouble in self._seeing.troubles()]
        found += [text for text in (self._watching.saver.trouble, self._alerts.failure) if text]
        found += self._learning.troubles()
        found += [f"metrics: {self._metrics.trouble}"] if self._metrics.trouble else []
        missing = sorted(set(range(len(self._workers))) - {worker["worker"] for worker in workers})
        if not workers:
            found.append("no worker has reported yet")
        elif missing:
            found.append(f"worker {', '.join(map(str, missing))} has not reported yet")
        if intel["generation"] and workers and not any(worker["generation"] for worker in workers):
            found.append(f"{_NO_INTEL} by a worker, queries are answered SERVFAIL; run `plughole feeds update --force`")
        for worker in workers:
            if worker["seconds_since_report"] > SILENT:
                found.append(f"worker {worker['worker']} has not reported for {worker['seconds_since_report']} s")
            if worker["generation"] != intel["generation"]:
                found.append(f"worker {worker['worker']} still serves generation {worker['generation']}")
        return found


def _state(degraded: list[str], workers: list[dict[str, Any]], *, uptime: float) -> str:
    """Return `down` when no query can get its answer, else `degraded` or `healthy`; a young hub has yet to hear."""
    alive = (uptime < SILENT and not workers) or any(worker["seconds_since_report"] <= SILENT for worker in workers)
    if not alive or any(text.startswith(_NO_INTEL) for text in degraded):
        return "down"
    return "degraded" if degraded else "healthy"


def run(config: Config, workers: list[socket.socket], line: Line) -> None:
    """Be the hub: the whole life of its process."""
    uvloop.install()

    async def main() -> None:
        await Hub(config, workers).run(line)

    try:
        asyncio.run(main())
    except (PlugholeError, OSError) as error:
        _log.error("hub stopped", reason=str(error))
        raise SystemExit(1) from error
