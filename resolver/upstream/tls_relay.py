"""DNS over TLS for libunbound: loopback ports whose TCP connections go on as verified TLS.

Debian's and Ubuntu's libunbound is built with nettle and can do no TLS at all (their daemon alone has OpenSSL), so it
is told to forward over TCP to a port of ours, one a server, and its octets are carried on unread.

Rules:
1. The certificate must carry the server's name; when it does not, the connection ends and nothing goes out in clear.
2. The ports lie on one loopback address drawn at random, so that libunbound may keep refusing all the others, and no
   record an attacker publishes can send recursion to a service of this host.
3. Connections are capped; one too many is closed at once.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
from contextlib import suppress
from ssl import SSLError
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from resolver.upstream.streams import tls_context

if TYPE_CHECKING:
    from ssl import SSLContext

    from core.servers import Server

MAX_CONNECTIONS: Final = 128  # on all ports together; libunbound opens at most 64 a context
BACKLOG: Final = 64  # connections the kernel holds while the loop is busy
CHUNK: Final = 65_536  # octets carried at a time: a whole DNS message
CONNECT_TIMEOUT: Final = 5.0  # seconds for the TCP and TLS handshakes


class TlsRelay:
    """The ports, by server, used on a running event loop; `ca_file` is empty for the system's authorities."""

    def __init__(self, ca_file: str) -> None:
        self._ca_file = ca_file
        self._context: SSLContext | None = None  # reading the authorities takes time: only for those who ask
        self._address = f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"
        self._sockets: dict[Server, socket.socket] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._carrying = 0
        self.refused = 0

    @property
    def address(self) -> str:
        """The loopback address all ports lie on."""
        return self._address

    def port(self, server: Server) -> int:
        """Return the port that leads to `server`, open from now on.

        Raises Unavailable when none can be had or the file of authorities cannot be used.
        """
        if self._context is None:
            self._context = tls_context(self._ca_file)
        if server not in self._sockets:
            self._sockets[server] = listening = _listen(self._address)
            self._keep(asyncio.get_running_loop().create_task(self._serve(server, listening)))
        port: int = self._sockets[server].getsockname()[1]
        return port

    def close(self) -> None:
        """Close the ports and what is carried."""
        for task in self._tasks:
            task.cancel()
        for server in self._servers:
            server.close()
        for listening in self._sockets.values():
            listening.close()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, server: Server, listening: socket.socket) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._keep(asyncio.get_running_loop().create_task(self._carry(server, reader, writer)))

        self._servers.append(await asyncio.start_server(accept, sock=listening))

    async def _carry(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._carrying >= MAX_CONNECTIONS:
            self.refused += 1
            writer.close()
            return
        self._carrying += 1
        try:
            with suppress(OSError, SSLError, TimeoutError, asyncio.IncompleteReadError):
                await self._join(server, reader, writer)
        finally:
            self._carrying -= 1
            writer.close()

    async def _join(self, server: Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT):
            far_reader, far_writer = await asyncio.open_connection(
                server.address, server.port, ssl=self._context, server_hostname=server.auth_name
            )
        try:
            ways = [asyncio.ensure_future(_copy(reader, far_writer)), asyncio.ensure_future(_copy(far_reader, writer))]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
        finally:
            far_writer.transport.abort()  # nobody waits for its answers any more


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, SSLError):
        while octets := await reader.read(CHUNK):
            writer.write(octets)
            await writer.drain()


def _listen(address: str) -> socket.socket:
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        listening.bind((address, 0))
        listening.listen(BACKLOG)
    except OSError as error:
        listening.close()
        raise Unavailable(f"no loopback port for DNS over TLS on {address}: {error.strerror}") from None
    return listening
