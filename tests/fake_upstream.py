"""A scripted DNS server on loopback - UDP, TCP, TLS and HTTPS - that misbehaves as the first label of a name tells it.

`drop-7.example` is never answered, `delay-7.example` late, and so on: see `reply`; any other word is answered properly.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from contextlib import suppress
from typing import TYPE_CHECKING

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import trustme

if TYPE_CHECKING:
    from pathlib import Path

NAME = "dns.example"
DELAY = 0.3  # seconds
ADDRESS = bytes((192, 0, 2, 7))
BIG = 20_000  # octets of answer
CLOSE = b"close"  # in place of a reply: break the connection in the middle of a frame
RCODES = {"formerr": 1, "servfail": 2, "nxdomain": 3, "refused": 5, "yxdomain": 6}


def question_of(query: bytes) -> bytes:
    end = 12
    while query[end]:
        end += query[end] + 1
    return query[12 : end + 5]


def word_of(query: bytes) -> str:
    return query[13 : 13 + query[12]].decode().lower().partition("-")[0]


def build(query: bytes, *, rcode: int = 0, flags: int = 0x84, answers: bytes = b"", count: int = 0) -> bytes:
    head = query[:2] + bytes((flags, 0x80 | rcode, 0, 1)) + count.to_bytes(2, "big") + bytes(4)
    return head + question_of(query) + answers


def good(query: bytes) -> bytes:
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04" + ADDRESS
    return build(query, answers=record, count=1)


def big(query: bytes) -> bytes:
    text = b"\xff" + b"x" * 255
    record = b"\xc0\x0c\x00\x10\x00\x01\x00\x00\x00\x3c" + (10 * len(text)).to_bytes(2, "big") + 10 * text
    count = BIG // len(record) + 1
    return build(query, answers=count * record, count=count)


def reply(query: bytes, *, udp: bool) -> bytes | None:  # noqa: C901, PLR0912  a table of misdeeds
    """Return what the first label asks for; None is silence."""
    match word := word_of(query):
        case "drop":
            return None
        case "garbage":
            return os.urandom(1 + os.urandom(1)[0])
        case "wrongid":
            return bytes((query[0] ^ 1, query[1])) + good(query)[2:]
        case "wrongcase":
            return good(query[:12] + query[12:].lower()) if udp else good(query)
        case "wrongq":
            return good(query[:13] + bytes((query[13] ^ 1,)) + query[14:])
        case "query":
            return query
        case "close" if not udp:
            return CLOSE
        case "noedns" if query[11]:
            return query[:2] + b"\x81\x81" + bytes(8)
        case "truncate" if udp:
            return build(query, flags=0x86)
        case "big":
            return build(query, flags=0x86) if udp else big(query)
        case _ if word in RCODES:
            return build(query, rcode=RCODES[word])
        case "close":
            return None
        case _:
            return good(query)


class FakeUpstream:
    """Runs on the current loop between `start` and `stop`; `seen` lists (transport, word) of each question."""

    def __init__(self, folder: Path, *, always_truncate: bool = False, only: str = "") -> None:
        self.seen: list[tuple[str, str]] = []
        self.queries: list[bytes] = []
        self.port = self.tls_port = self.https_port = 0
        self.connections = 0
        self.ca_file = str(folder / "ca.pem")
        self._always_truncate = always_truncate
        self._only = only  # this word for every question
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._servers: list[asyncio.Server] = []
        self._udp: asyncio.DatagramTransport | None = None
        authority = trustme.CA()
        authority.cert_pem.write_to_path(self.ca_file)
        self._certificate = authority.issue_cert(NAME, "127.0.0.1")

    async def start(self) -> None:
        loop = asyncio.get_running_loop()
        while self._udp is None:
            sock = socket.create_server(("127.0.0.1", 0))
            address = sock.getsockname()
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), local_addr=address)
            except OSError:  # somebody has the same port of UDP
                sock.close()
        self.port = address[1]
        self._servers.append(await asyncio.start_server(self._framed, sock=sock))
        self.tls_port = await self._serve(self._framed, ["dot"])
        self.https_port = await self._serve(self._https, ["h2", "http/1.1"])

    async def _serve(self, handler: object, alpn: list[str]) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._certificate.configure_cert(context)
        context.set_alpn_protocols(alpn)
        server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=context)  # type: ignore[arg-type]
        self._servers.append(server)
        return int(server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        for task in list(self._tasks):
            task.cancel()
        for server in self._servers:
            server.close()
        self.break_connections()
        if self._udp is not None:
            self._udp.close()
        await asyncio.sleep(0)

    def break_connections(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    def answer(self, query: bytes, transport: str, send: object) -> None:
        """Send what the script says, now or later."""
        word = self._only or word_of(query)
        self.seen.append((transport, word))
        self.queries.append(query)
        udp = transport == "udp"
        if self._always_truncate and udp and word != "drop":
            found: bytes | None = build(query, flags=0x86)
        else:
            found = reply(query, udp=udp) if not self._only else build(query, rcode=RCODES[self._only])
        if found is None:
            return
        if word == "delay":
            asyncio.get_running_loop().call_later(DELAY, send, found)  # type: ignore[arg-type]
        else:
            send(found)  # type: ignore[operator]

    async def _framed(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        transport = "tls" if writer.get_extra_info("ssl_object") else "tcp"
        self._enter(writer)

        def send(wire: bytes) -> None:
            if wire is CLOSE:
                writer.write(b"\x00\x40half")
                writer.close()
            else:
                writer.write(len(wire).to_bytes(2, "big") + wire)

        with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                self.answer(await reader.readexactly(size), transport, send)
        self._leave(writer)

    async def _https(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._enter(writer)
        chosen = writer.get_extra_info("ssl_object").selected_alpn_protocol()
        with suppress(asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            await (self._h2(reader, writer) if chosen == "h2" else self._http1(reader, writer))
        self._leave(writer)

    async def _http1(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        def send(wire: bytes) -> None:
            head = f"HTTP/1.1 200 OK\r\ncontent-type: application/dns-message\r\ncontent-length: {len(wire)}\r\n\r\n"
            writer.write(head.encode() + (wire[:2] if wire is CLOSE else wire))
            if wire is CLOSE:
                writer.close()

        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            size = int(head.partition("content-length:")[2].partition("\r\n")[0])
            self.answer(await reader.readexactly(size), "https", send)

    async def _h2(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        peer.initiate_connection()
        bodies: dict[int, bytes] = {}
        while True:
            writer.write(peer.data_to_send())
            if not (data := await reader.read(65_536)):
                return
            for event in peer.receive_data(data):
                if isinstance(event, h2.events.DataReceived):
                    peer.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
                    bodies[event.stream_id] = bodies.get(event.stream_id, b"") + event.data
                elif isinstance(event, h2.events.StreamEnded):
                    stream = event.stream_id
                    self.answer(
                        bodies.pop(stream), "https", lambda wire, s=stream: self._h2_send(peer, writer, s, wire)
                    )

    def _h2_send(
        self, peer: h2.connection.H2Connection, writer: asyncio.StreamWriter, stream: int, wire: bytes
    ) -> None:
        if wire is CLOSE:
            writer.transport.abort()
            return
        with suppress(h2.exceptions.ProtocolError):  # the stream was reset meanwhile
            peer.send_headers(stream, [(":status", "200"), ("content-type", "application/dns-message")])
            for at in range(0, len(wire), 16_384):
                peer.send_data(stream, wire[at : at + 16_384])
            peer.end_stream(stream)
        writer.write(peer.data_to_send())

    def _enter(self, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        self._writers.discard(writer)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.discard(task)
        writer.transport.abort()


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, fake: FakeUpstream) -> None:
        self.fake = fake

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.fake.answer(data, "udp", lambda wire: self.transport.sendto(wire, addr))  # type: ignore[attr-defined]
