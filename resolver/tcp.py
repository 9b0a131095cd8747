"""DNS over TCP (RFC 7766): many questions on one connection, answered in the order in which the answers come."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final, cast

from core.errors import Malformed
from core.event import Transport
from core.wire import HEADER
from resolver.proxy import MAX_HEADER, parse
from resolver.sockets import BACKLOG

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from resolver.clients import Client, Clients
    from resolver.pipeline import Pipeline

MAX_OUTSTANDING: Final = 100  # questions of one connection on their way; past that it is not read from
MAX_UNSENT: Final = 262_144  # octets a client may leave unread before we stop reading from it
CLIENT_SHARE: Final = 4  # one client holds at most one part in this many of the connections, unless it has no limits
SWEEP: Final = 1.0  # seconds between looks for idle connections


class TcpListener:
    """One listening TCP socket of one worker, and its connections."""

    def __init__(
        self,
        sock: socket.socket,
        *,
        pipeline: Pipeline,
        clients: Clients,
        clock: Callable[[], float],
        most: int,
        idle: float,
    ) -> None:
        """`most`: connections at a time; `idle`: seconds without a question before a connection is closed."""
        self.connections: set[TcpConnection] = set()
        self.accepted = 0
        self.refused = 0
        self.unproxied = 0  # connections from a balancer without a PROXY header
        self.pipeline = pipeline
        self.clients = clients
        self.clock = clock
        self._sock = sock
        self._most = most
        self._idle = idle
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: TcpConnection(self), sock=self._sock, backlog=BACKLOG)
        self._sweeper = loop.call_later(SWEEP, self._sweep)

    def drain(self) -> None:
        """Accept no more; each connection closes as soon as no question of its is on its way."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.drain()

    def stop(self) -> None:
        """Drain, and close what is still open."""
        self.drain()
        for connection in tuple(self.connections):
            connection.close()

    def full(self, client: Client) -> bool:
        """True when one more connection, or one more of this client, is one too many; it is counted."""
        own = self._most if client.unlimited else max(self._most // CLIENT_SHARE, 1)
        if len(self.connections) < self._most and client.streams < own:
            return False
        self.refused += 1
        return True

    def _sweep(self) -> None:
        before = self.clock() - self._idle
        for connection in tuple(self.connections):
            if connection.last < before and not connection.outstanding:
                connection.close()
        self._sweeper = asyncio.get_running_loop().call_later(SWEEP, self._sweep)


class TcpConnection(asyncio.Protocol):
    """One connection; it is its own peer."""

    transport = Transport.TCP

    def __init__(self, listener: TcpListener) -> None:
        self.last = listener.clock()
        self.outstanding = 0
        self._listener = listener
        self._stream: asyncio.Transport | None = None
        self._client: Client | None = None  # None while a balancer has not said who it is
        self._holder: Client | None = None  # whose connection it is
        self._buffer = bytearray()
        self._reading = True
        self._working = False
        self._clogged = False
        self._draining = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection, or close it when there are too many."""
        self._stream = cast("asyncio.Transport", transport)  # uvloop's are not subclasses
        self._stream.set_write_buffer_limits(high=MAX_UNSENT)
        address = transport.get_extra_info("peername")[0].partition("%")[0]
        client = self._listener.clients.meet(ip_address(address).packed)
        if self._listener.full(client):
            self.close()
            return
        self._listener.accepted += 1
        client.streams += 1
        self._holder = client
        self._client = None if client.proxy else client
        self._listener.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        del exc
        self._listener.connections.discard(self)
        if self._holder is not None:
            self._holder.streams -= 1
            self._holder = None
        self._stream = None
        self._buffer.clear()

    def data_received(self, data: bytes) -> None:
        """Answer every whole question among the octets."""
        self.last = self._listener.clock()
        self._buffer += data
        self._work()

    def hold(self) -> TcpConnection:
        """A connection stays good until it is closed."""
        return self

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        """Send a reply (an empty one is none) and go on reading if that makes room."""
        self.outstanding -= 1
        if self._stream is None:
            return
        if body:
            self._stream.write((len(body) + 2).to_bytes(2, "big") + identity + body)
        if not self._reading:
            self._work()
        if self._draining:
            self.drain()

    def pause_writing(self) -> None:
        """The client does not read: neither do we."""
        self._clogged = True
        self._set_reading(False)

    def resume_writing(self) -> None:
        """The client reads again."""
        self._clogged = False
        self._work()

    def drain(self) -> None:
        """Close once nothing is on its way."""
        self._draining = True
        if not self.outstanding and not self._buffer:
            self.close()

    def close(self) -> None:
        """Close, sending what is queued."""
        if self._stream is not None:
            self._stream.close()

    def _work(self) -> None:
        if self._working:  # a reply given at once, from inside the loop below
            return
        self._working = True
        buffer, start = self._buffer, self._introduced()
        while (
            start >= 0 and self._stream is not None and self.outstanding < MAX_OUTSTANDING and len(buffer) - start >= 2
        ):
            end = start + 2 + (buffer[start] << 8 | buffer[start + 1])
            if end > len(buffer):
                break
            message = bytes(buffer[start + 2 : end])
            start = end
            if not self._ask(message):
                start = len(buffer)  # the connection is closed, what follows goes with it
        del buffer[: max(start, 0)]
        self._working = False
        self._set_reading(self.outstanding < MAX_OUTSTANDING and not self._clogged)

    def _introduced(self) -> int:
        """Return where questions begin in the buffer: behind a balancer's header; -1 while that is incomplete."""
        if self._client is not None or self._holder is None:
            return 0
        try:
            header = parse(bytes(self._buffer[:MAX_HEADER]))
        except Malformed:
            self._listener.unproxied += 1
            self.close()
            return -1
        if header is None:
            return -1
        self._client = self._listener.clients.meet(header.source) if header.source else self._holder
        return header.size

    def _ask(self, message: bytes) -> bool:
        """Have a question answered; false when the connection is closed for it."""
        client = self._client
        if client is None or len(message) < HEADER:
            self.close()
            return False
        clients = self._listener.clients
        if clients.table.get(client.address) is not client:
            client = self._client = clients.meet(client.address)
        if not clients.limits.take(client.bucket):
            self.close()
            return False
        self.outstanding += 1
        body = self._listener.pipeline.handle(message, client, self)
        if body is not None:
            self.deliver(message[:2], body)
        return True

    def _set_reading(self, wanted: bool) -> None:  # noqa: FBT001  mirrors pause_reading and resume_reading
        if self._stream is None or wanted is self._reading or self._stream.is_closing():
            return
        self._reading = wanted
        if wanted:
            self._stream.resume_reading()
        else:
            self._stream.pause_reading()
