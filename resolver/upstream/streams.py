"""Questions over TCP and DNS over TLS: one connection a server, kept open, with many questions under way on it.

Rules:
1. Replies may come in any order and are told apart by ID (RFC 7766 section 6.2.1.1); the connection is trusted for the
   rest, so letters keep their case.
2. A connection opens with the first question, closes after ten idle seconds, and is dropped when it goes silent or
   talks nonsense. What was under way is handed back to the engine, which asks again.
3. TLS verifies the certificate against the server's name. There is no way back to clear text.
"""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING, Final, cast

from core.errors import Unavailable
from resolver.upstream.echo import Echo, Noise, Wording, compare, section

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from core.servers import Server
    from resolver.upstream.transactions import Outcomes, Transaction

IDLE: Final = 10.0  # seconds without a question before the connection is closed
SILENCE: Final = 5.0  # seconds without an octet, with questions under way, before it is taken for dead
RECONNECT: Final = 0.3  # seconds between a failed connection and the next try
CONNECT: Final = 5.0  # seconds for TCP and TLS handshakes together
PIPELINE: Final = 2_048  # questions under way on a connection
WRITE_BUFFER: Final = 256 * 1024  # octets waiting to be sent before further questions are refused
MAX_STRANGERS: Final = 16  # replies to nothing we asked before the connection is dropped


def tls_context(ca_file: str, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Return a context that verifies against `ca_file` (PEM), or the system's authorities when it is empty.

    Raises Unavailable when the file cannot be used.
    """
    try:
        context = ssl.create_default_context(cafile=ca_file or None)
    except (OSError, ssl.SSLError) as error:
        raise Unavailable(f"upstream.tls_ca_file: {ca_file}: {error}; name a PEM file of certificates") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


class Stream:
    """The way to one server: at most one connection at a time."""

    def __init__(
        self,
        server: Server,
        *,
        tls: ssl.SSLContext | None,
        dnssec: bool,
        noise: Noise,
        outcomes: Outcomes,
        clock: Callable[[], float],
    ) -> None:
        self.opened = 0
        self.strangers = 0
        self._server = server
        self._tls = tls
        self._noise = noise
        self._outcomes = outcomes
        self._clock = clock
        self._edns = Wording(edns=True, dnssec=dnssec)
        self._plain = Wording(edns=False, dnssec=dnssec)
        self._pending: dict[bytes, Transaction] = {}
        self._waiting: list[bytes] = []  # framed questions for a connection that is not up yet
        self._connection: _Connection | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._odd = 0
        self._barred_until = float("-inf")
        self._barred_by = ""
        self._used_at = 0.0
        self._heard_at = 0.0

    def send(self, transaction: Transaction) -> None:
        """Send the question, connecting first where needed, or report it refused."""
        connection = self._connection
        if len(self._pending) >= PIPELINE or (connection is not None and connection.paused):
            self._outcomes.refused(transaction, "connection is full")
            return
        if connection is None and transaction.sent < self._barred_until:
            self._outcomes.refused(transaction, self._barred_by)
            return
        frame = self._frame(transaction)
        if not self._pending:
            self._heard_at = transaction.sent
        self._pending[transaction.ident] = transaction
        self._used_at = transaction.sent
        if connection is not None:
            connection.write(frame)
            return
        self._waiting.append(frame)
        if self._connecting is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())

    def tidy(self, now: float) -> None:
        """Close the connection when it is idle, or silent though questions are under way."""
        if self._connection is None:
            return
        if not self._pending:
            if now - self._used_at >= IDLE:
                self._drop("idle")
        elif now - self._heard_at >= SILENCE:
            self._drop("connection went silent")

    def close(self) -> None:
        """Close the connection; what is pending is reported refused."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        self._drop("closed")

    def made(self, connection: _Connection) -> None:
        """Take the connection that came up, and send what waits."""
        self._connection = connection
        self._connecting = None
        self._heard_at = self._clock()
        self.opened += 1
        frames, self._waiting = self._waiting, []
        connection.write(b"".join(frames))

    def lost(self, connection: _Connection, why: str) -> None:
        """Hand back what was under way, when it is the present connection that went."""
        if connection is self._connection:
            self._drop(why)

    def message(self, connection: _Connection, wire: bytes) -> None:
        """Take one message; what comes from a connection already dropped is ignored."""
        if connection is not self._connection:
            return
        transaction = self._pending.get(wire[:2])
        echo = Echo.STRANGER if transaction is None else compare(wire, transaction.question)
        if transaction is None or echo is Echo.STRANGER:
            self._stranger()
            return
        self._used_at = self._heard_at = self._clock()
        transaction.leave()
        if echo is Echo.BARE:
            self._outcomes.garbled(transaction)
        else:
            self._outcomes.replied(transaction, wire)

    async def _connect(self) -> None:
        loop = asyncio.get_running_loop()
        server = self._server
        name = server.auth_name or server.address if self._tls else None
        try:
            async with asyncio.timeout(CONNECT):
                await loop.create_connection(
                    lambda: _Connection(self), server.address, server.port, ssl=self._tls, server_hostname=name
                )
        except (OSError, TimeoutError) as error:
            self._connecting = None
            self._barred_until = self._clock() + RECONNECT
            self._barred_by = _reason(error)
            self._drop(self._barred_by)

    def _frame(self, transaction: Transaction) -> bytes:
        asked = transaction.asked
        while (ident := self._noise.take(2)) in self._pending:
            pass
        setbacks = transaction.setbacks
        words = self._edns if setbacks is None or not setbacks.plain else self._plain
        transaction.ident = ident
        transaction.pending = self._pending
        transaction.question = section(asked)
        wire = ident + words.heads[asked.checking_disabled] + transaction.question + words.tail
        return len(wire).to_bytes(2, "big") + wire

    def _stranger(self) -> None:
        self.strangers += 1
        self._odd += 1
        if self._odd >= MAX_STRANGERS:
            self._drop("the server talks nonsense")

    def _drop(self, why: str) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()
        self._waiting = []
        self._odd = 0
        pending, self._pending = self._pending, {}
        for transaction in list(pending.values()):
            if transaction.pending is pending:  # not settled by what an earlier one set off
                transaction.pending = None
                self._outcomes.refused(transaction, why)


class _Connection(asyncio.Protocol):
    """One TCP or TLS connection: frames of two length octets and a message (RFC 1035 section 4.2.2)."""

    def __init__(self, stream: Stream) -> None:
        self.paused = False
        self._stream = stream
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast(asyncio.Transport, transport)
        transport.set_write_buffer_limits(high=WRITE_BUFFER)
        self._transport = transport
        self._stream.made(self)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer
        buffer += data
        at = 0
        while len(buffer) >= at + 2:
            end = at + 2 + (buffer[at] << 8 | buffer[at + 1])
            if len(buffer) < end:
                break
            self._stream.message(self, bytes(buffer[at + 2 : end]))
            at = end
        del buffer[:at]

    def connection_lost(self, exc: Exception | None) -> None:
        self._stream.lost(self, _reason(exc) if exc else "connection closed by the server")

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False

    def write(self, data: bytes) -> None:
        """Queue `data` for sending."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Be gone at once; what is still to be sent is of no use to anybody."""
        if self._transport is not None:
            self._transport.abort()


def _reason(error: BaseException) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate refused: {error.verify_message}"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.split(" (")[0]
    return str(error) or type(error).__name__
