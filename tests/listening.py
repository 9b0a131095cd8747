"""Listeners on real loopback sockets around one pipeline whose upstream answers everything: for tests of transports."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import dns.message

from core.config import Config
from core.names import from_text
from core.verdict import Action
from feeds.overlay import Override
from resolver.assemble import assemble
from resolver.clients import Clients
from resolver.outbox import Outbox
from resolver.sockets import Bound, bind
from resolver.tcp import TcpListener
from resolver.udp import UdpListener
from resolver.upstream import Answer, Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

PATIENCE: Final = 30.0  # seconds for a reply


class Echo:
    """An upstream that answers every question with one address, `slow` ones only when released."""

    def __init__(self) -> None:
        self.held: list[Callable[[], None]] = []
        self.asked = asyncio.Event()

    def start(self) -> None: ...

    def close(self) -> None: ...

    def counters(self) -> dict[str, int]:
        return {}

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        wire = (
            b"\x00\x00\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00"
            + question.qname
            + struct.pack("!HH", question.qtype, 1)
            + b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x0e\x10\x00\x04\xc6\x33\x64\x01"
        )
        if question.qname.startswith(b"\x04slow"):
            self.held.append(lambda: done(Answer(wire)))
            self.asked.set()
        else:
            done(Answer(wire))

    def release(self) -> None:
        held, self.held = self.held, []
        self.asked.clear()
        for answer in held:
            answer()


class Served:
    """One worker's worth of listeners."""

    def __init__(self, bound: list[Bound], config: Config, *, most: int, idle: float) -> None:
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.upstream = Echo()
        self.pipeline = assemble(
            config,
            workers=1,
            upstream=self.upstream,
            outbox=Outbox(self.near, worker=0, per_second=1_000),
            clock=time.monotonic,
            wall=time.time,
        )
        policy = self.pipeline.policy
        policy.use_index(None)
        policy.use_overrides([Override(from_text("blocked.example"), Action.SINKHOLE)], time.time())
        self.clients = Clients(policy, self.pipeline.limits, config.server.allow_from, config.server.proxy_from)
        self.udp = [
            UdpListener(pair.udp, wildcard=pair.wildcard, pipeline=self.pipeline, clients=self.clients)
            for pair in bound
        ]
        self.tcp = [
            TcpListener(
                pair.tcp, pipeline=self.pipeline, clients=self.clients, clock=time.monotonic, most=most, idle=idle
            )
            for pair in bound
        ]
        self.bound = bound

    async def start(self) -> None:
        for udp in self.udp:
            udp.start(asyncio.get_running_loop())
        for tcp in self.tcp:
            await tcp.start()

    def stop(self) -> None:
        for udp in self.udp:
            udp.stop()
        for tcp in self.tcp:
            tcp.stop()
        for pair in self.bound:
            pair.udp.close()
            pair.tcp.close()
        self.near.close()
        self.far.close()


def free_port() -> int:
    """Return a port of 127.0.0.1 that neither TCP nor UDP uses."""
    while True:
        with socket.socket() as probe, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            probe.bind(("127.0.0.1", 0))
            port: int = probe.getsockname()[1]
            with contextlib.suppress(OSError):
                other.bind(("127.0.0.1", port))
                return port


@asynccontextmanager
async def served(
    *listen: str, workers: int = 1, most: int = 100, idle: float = 30.0, config: Config | None = None
) -> AsyncIterator[list[Served]]:
    made = [Served(bound, config or Config(), most=most, idle=idle) for bound in bind(listen, workers)]
    for each in made:
        await each.start()
    try:
        yield made
    finally:
        for each in made:
            each.stop()


def query(name: str, number: int = 7) -> bytes:
    return bytes(dns.message.make_query(name, "A", id=number).to_wire())


def framed(*messages: bytes) -> bytes:
    return b"".join(struct.pack("!H", len(message)) + message for message in messages)


async def read_frame(reader: asyncio.StreamReader) -> dns.message.Message:
    size = struct.unpack("!H", await asyncio.wait_for(reader.readexactly(2), PATIENCE))[0]
    return dns.message.from_wire(await asyncio.wait_for(reader.readexactly(size), PATIENCE))


async def ask_udp(address: str, port: int, packets: list[bytes], source: str | None = None) -> list[bytes]:
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))  # connected: only replies from that very address are taken
        for packet in packets:
            await loop.sock_sendall(sock, packet)
        return [await asyncio.wait_for(loop.sock_recv(sock, 4_096), PATIENCE) for _ in packets]
