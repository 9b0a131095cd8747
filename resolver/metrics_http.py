"""The HTTP server Prometheus asks: GET /metrics and nothing else, in a thread that cannot hurt the hub.

Rules:
1. The thread has a loop of its own. All it wants of the hub's loop is one snapshot, at most one every FRESH seconds.
2. Connections are bounded in number, octets and seconds; when there are too many the oldest goes, so that one who
   holds them open does not keep Prometheus out.
3. An address that cannot be bound is said once in the service log, shown in the status, and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import structlog

from core.endpoints import parse_endpoint
from resolver.metrics import Collector, index_facts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MAX_CONNECTIONS: Final = 16
MAX_HEAD: Final = 8_192  # octets of a request
DEADLINE: Final = 5.0  # seconds a connection may take, from its first octet to our last
PATIENCE: Final = 3.0  # seconds the hub may take for a snapshot
FRESH: Final = 1.0  # seconds a text is served again
RETRY: Final = 2.0  # seconds between tries to listen
STOP: Final = 1.0  # seconds the thread gets to end
_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_HINT: Final = b"plughole serves GET /metrics\n"
_log = structlog.get_logger("metrics")


class MetricsServer:
    """Serves on `address` from `start` to `stop`. `trouble` says why it does not."""

    def __init__(self, address: str, data_dir: Path, snapshot: Callable[[], dict[str, Any]]) -> None:
        """`snapshot` is called in the loop that runs when `start` is called."""
        self.trouble = ""
        self.scrapes = 0
        self.rejected = 0
        self.listening = threading.Event()
        self._address = address
        self._data_dir = data_dir
        self._snapshot = snapshot
        self._collector = Collector()
        self._facts: tuple[str, dict[str, Any]] = ("", {})
        self._text = b""
        self._made_at = -FRESH  # monotonic seconds
        self._open: dict[asyncio.Task[None] | None, None] = {}  # oldest first
        self._hub: asyncio.AbstractEventLoop
        self._stopping = asyncio.Event()
        self._making = asyncio.Lock()
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # of the thread

    def start(self) -> None:
        """Serve; snapshots are made in the loop that runs now."""
        loop = self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._live, args=(loop, asyncio.get_running_loop()), name="metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Close everything; returns within STOP seconds."""
        if self._thread is None or self._loop is None or not self._thread.is_alive():
            return
        with contextlib.suppress(RuntimeError):  # it ended by itself
            self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(STOP)

    def status(self) -> dict[str, Any]:
        """Return where it listens, and how many scrapes were answered and connections rejected."""
        return {"listen": self._address, "scrapes": self.scrapes, "rejected": self.rejected}

    # ---- in the thread

    def _live(self, loop: asyncio.AbstractEventLoop, hub: asyncio.AbstractEventLoop) -> None:
        self._hub = hub
        try:
            loop.run_until_complete(self._serve())
        finally:
            self.listening.clear()
            loop.close()
            if not self._stopping.is_set():
                self.trouble = "its thread ended; the service log says why"

    async def _serve(self) -> None:
        while not self._stopping.is_set():
            server = await self._listen()
            await _happens(self._stopping, RETRY if server is None else None)
            if server is not None:
                server.close()
        left = [task for task in self._open if task is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left)

    async def _listen(self) -> asyncio.Server | None:
        where = parse_endpoint(self._address)
        try:
            server = await asyncio.start_server(
                self._on_connection, where.address, where.port, limit=MAX_HEAD, backlog=MAX_CONNECTIONS
            )
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            if not self.trouble:
                _log.error("metrics cannot be served, trying again", address=self._address, reason=reason)
            self.trouble = f"cannot listen on {self._address}: {reason}"
            return None
        self.trouble = ""
        self.listening.set()
        return server

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close."""
        task = asyncio.current_task()
        if len(self._open) >= MAX_CONNECTIONS and (oldest := next(iter(self._open))) is not None:
            oldest.cancel()
            del self._open[oldest]
        self._open[task] = None
        try:
            async with asyncio.timeout(DEADLINE):
                writer.write(await self._reply(await reader.readuntil(b"\r\n\r\n")))
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, asyncio.CancelledError):
            self.rejected += 1
        finally:
            self._open.pop(task, None)
            writer.transport.abort()

    async def _reply(self, head: bytes) -> bytes:
        words = head.partition(b"\r\n")[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return self._refusal("400 Bad Request")
        if words[1].partition(b"?")[0] != b"/metrics":
            return self._refusal("404 Not Found")
        if words[0] != b"GET":
            return self._refusal("405 Method Not Allowed", "Allow: GET\r\n")
        async with self._making:
            try:
                text = await self._exposition()
            except TimeoutError:
                return self._refusal("503 Service Unavailable")
        self.scrapes += 1
        return _response("200 OK", text)

    def _refusal(self, status: str, header: str = "") -> bytes:
        self.rejected += 1
        return _response(status, _HINT, header)

    async def _exposition(self) -> bytes:
        """Return the text, made anew when it is older than FRESH; raises TimeoutError when the hub is stuck."""
        if time.monotonic() - self._made_at < FRESH:
            return self._text
        asked = asyncio.run_coroutine_threadsafe(_called(self._snapshot), self._hub)
        found = await asyncio.wait_for(asyncio.wrap_future(asked), PATIENCE)
        index = str(found["intel"]["index"])
        if self._facts[0] != index:
            self._facts = (index, index_facts(self._data_dir, index))
        self._text = self._collector.exposition(found | {"intel": found["intel"] | self._facts[1]})
        self._made_at = time.monotonic()
        return self._text


def _response(status: str, body: bytes, header: str = "") -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\n{header}"
    return f"{head}Connection: close\r\n\r\n".encode("ascii") + body


async def _called(snapshot: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    return snapshot()


async def _happens(event: asyncio.Event, seconds: float | None) -> None:
    """Return when the event has happened, or after so many seconds."""
    try:
        await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return
