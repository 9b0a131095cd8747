"""Listeners on real loopback sockets: batches, wildcard addresses, steering, TCP framing and its limits."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import dns.flags
import dns.message
import pytest

from core.config import Cache
from core.config import Sinkhole as SinkholeSettings
from core.errors import Unavailable
from core.names import from_text
from core.verdict import Action
from feeds.overlay import Override
from resolver.clients import Clients
from resolver.outbox import Outbox
from resolver.pipeline import Pipeline
from resolver.policy import Policy
from resolver.render import Renderer
from resolver.sinkhole import Sinkhole
from resolver.sockets import Bound, bind
from resolver.tcp import MAX_OUTSTANDING, TcpListener
from resolver.udp import UdpListener
from resolver.upstream import Answer, Question

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


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

    def __init__(self, bound: list[Bound], *, most: int = 100, idle: float = 30.0) -> None:
        policy = Policy(cache_bytes=1_000_000)
        policy.use_index(None)
        policy.use_overrides([Override(from_text("blocked.example"), Action.SINKHOLE)], time.time())
        self.near, self.far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.upstream = Echo()
        self.clients = Clients(policy, ["127.0.0.0/8", "::1/128"])
        self.pipeline = Pipeline(
            policy=policy,
            upstream=self.upstream,
            renderer=Renderer(1232),
            sinkhole=Sinkhole(SinkholeSettings()),
            cache=Cache(),
            outbox=Outbox(self.near, worker=0, per_second=1_000),
            clock=time.time,
        )
        self.udp = [
            UdpListener(pair.udp, wildcard=pair.wildcard, pipeline=self.pipeline, clients=self.clients)
            for pair in bound
        ]
        self.tcp = [
            TcpListener(pair.tcp, pipeline=self.pipeline, clients=self.clients, clock=time.time, most=most, idle=idle)
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
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def served(*listen: str, workers: int = 1, most: int = 100, idle: float = 30.0) -> AsyncIterator[list[Served]]:
    made = [Served(bound, most=most, idle=idle) for bound in bind(listen, workers)]
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
    size = struct.unpack("!H", await asyncio.wait_for(reader.readexactly(2), 5))[0]
    return dns.message.from_wire(await asyncio.wait_for(reader.readexactly(size), 5))


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
        return [await asyncio.wait_for(loop.sock_recv(sock, 4_096), 5) for _ in packets]


def test_a_burst_of_more_than_a_batch_is_answered_whole() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}") as [one]:
            packets = [query(f"n{at % 50}.example", at) for at in range(200)]
            for _ in range(3):
                replies = await ask_udp("127.0.0.1", port, packets)
                assert sorted(int.from_bytes(reply[:2], "big") for reply in replies) == list(range(200))
            assert one.udp[0].ring.unsent == 0

    asyncio.run(scene())


@pytest.mark.parametrize("listen", ["0.0.0.0", "[::]"])
def test_a_wildcard_socket_replies_from_the_address_that_was_asked(listen: str) -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"{listen}:{port}"):
            targets = ["127.0.0.1", "127.0.0.9", "127.1.2.3"] if listen == "0.0.0.0" else ["::1"]
            for target in targets:
                for name in ("blocked.example", "fine.example", "fine.example", "fine.example"):
                    [reply] = await ask_udp(target, port, [query(name)])
                    assert dns.message.from_wire(reply).answer

    asyncio.run(scene())


def test_a_client_is_steered_to_one_worker_over_udp_and_tcp() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}", workers=3) as workers:
            for at in range(1, 31):
                source = f"127.0.3.{at}"
                for _ in range(3):
                    await ask_udp("127.0.0.1", port, [query("fine.example")], source)
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                writer.write(framed(query("fine.example")))
                await read_frame(reader)
                writer.close()
            met = [set(worker.clients.table) for worker in workers]
            assert [len(clients) for clients in met] == [10, 10, 10]
            assert not met[0] & met[1] | met[1] & met[2] | met[0] & met[2]

    asyncio.run(scene())


def test_tcp_pipelining_and_answers_out_of_order() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}") as [one]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(framed(query("slow.example", 1), query("fine.example", 2), query("blocked.example", 3)))
            assert [(await read_frame(reader)).id for _ in range(2)] == [2, 3]
            one.upstream.release()
            assert (await read_frame(reader)).id == 1
            writer.close()

    asyncio.run(scene())


def test_tcp_frames_may_come_octet_by_octet() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for octet in framed(query("fine.example", 9)):
                writer.write(bytes((octet,)))
                await writer.drain()
            assert (await read_frame(reader)).id == 9
            writer.close()

    asyncio.run(scene())


def test_a_connection_with_too_many_outstanding_questions_is_not_read_until_some_are_answered() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}") as [one]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            count = MAX_OUTSTANDING + 20
            writer.write(framed(*(query(f"slow.n{at}.example", at) for at in range(count))))
            await writer.drain()
            got: list[int] = []
            while len(got) < count:
                await asyncio.wait_for(one.upstream.asked.wait(), 5)
                assert len(one.upstream.held) <= MAX_OUTSTANDING
                waiting = len(one.upstream.held)
                one.upstream.release()
                got += [(await read_frame(reader)).id for _ in range(waiting)]
            assert sorted(got) == list(range(count))
            writer.close()

    asyncio.run(scene())


@pytest.mark.parametrize("junk", [b"\x00\x03abc", b"\x00\x00", framed(b"\x00\x01\x80" + b"\x00" * 20)])
def test_junk_over_tcp_does_not_hurt_others(junk: bytes) -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}"):
            _, bad = await asyncio.open_connection("127.0.0.1", port)
            bad.write(junk)
            await bad.drain()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(framed(query("fine.example", 5)))
            assert (await read_frame(reader)).id == 5
            bad.close()
            writer.close()

    asyncio.run(scene())


def test_connections_over_the_limit_are_closed_and_counted() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}", most=2) as [one]:
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
            for reader, writer in kept:
                writer.write(framed(query("fine.example")))
                await read_frame(reader)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            assert one.tcp[0].refused == 1
            for _, each in [*kept, (reader, writer)]:
                each.close()

    asyncio.run(scene())


def test_an_idle_connection_is_closed() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}", idle=0.1):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(scene())


def test_truncated_over_udp_means_whole_over_tcp_is_offered() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}") as [one]:
            one.pipeline.policy.use_overrides([Override(from_text("big.example"), Action.TCP_ONLY)], time.time())
            one.clients.forget()
            [udp] = await ask_udp("127.0.0.1", port, [query("big.example")])
            assert dns.message.from_wire(udp).flags & dns.flags.TC
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(framed(query("big.example")))
            assert (await read_frame(reader)).answer
            writer.close()

    asyncio.run(scene())


def test_a_second_node_on_the_same_port_is_refused() -> None:
    port = free_port()
    [[first]] = bind([f"127.0.0.1:{port}"], 1)
    with pytest.raises(Unavailable, match=f"cannot listen on 127.0.0.1:{port}: Address already in use; `ss -lnup`"):
        bind([f"127.0.0.1:{port}"], 1)
    first.udp.close()
    first.tcp.close()
