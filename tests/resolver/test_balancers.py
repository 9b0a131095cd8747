"""Load balancers that speak for their clients (PROXY protocol), and limits, on real sockets."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable

import dns.message
import dns.rcode
import pytest
from listening import Served, ask_udp, framed, free_port, query, read_frame, served

from core.config import Config, Limits, Server

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
BALANCER = Config(server=Server(proxy_from=("127.0.0.9",), allow_from=("198.51.100.0/24", "127.0.0.0/8")))


def header(source: str, *, local: bool = False) -> bytes:
    addresses = socket.inet_aton(source) + socket.inet_aton("192.0.2.53") + struct.pack("!HH", 5300, 53)
    return SIGNATURE + bytes((0x20 if local else 0x21, 0x12)) + struct.pack("!H", len(addresses)) + addresses


def run(config: Config, body: Callable[[Served, int], Awaitable[None]]) -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}", config=config) as [one]:
            await body(one, port)

    asyncio.run(scene())


def test_a_balancers_client_is_the_client() -> None:
    async def body(one: Served, port: int) -> None:
        for _ in range(2):
            [reply] = await ask_udp("127.0.0.1", port, [header("198.51.100.7") + query("fine.example", 9)], "127.0.0.9")
            assert dns.message.from_wire(reply).id == 9
        [refused] = await ask_udp("127.0.0.1", port, [header("203.0.113.7") + query("fine.example")], "127.0.0.9")
        assert dns.message.from_wire(refused).rcode() == 5
        assert socket.inet_aton("198.51.100.7") in one.clients.table
        [own] = await ask_udp("127.0.0.1", port, [header("0.0.0.0", local=True) + query("fine.example")], "127.0.0.9")
        assert dns.message.from_wire(own).answer

    run(BALANCER, body)


def test_a_late_answer_goes_to_the_balancer() -> None:
    async def body(one: Served, port: int) -> None:
        asked = asyncio.create_task(
            ask_udp("127.0.0.1", port, [header("198.51.100.7") + query("slow.example", 11)], "127.0.0.9")
        )
        await asyncio.wait_for(one.upstream.asked.wait(), 30)
        one.upstream.release()
        [reply] = await asked
        assert dns.message.from_wire(reply).id == 11

    run(BALANCER, body)


def test_a_listed_balancer_without_a_header_and_a_stranger_with_one_are_not_heard() -> None:
    async def body(one: Served, port: int) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask_udp("127.0.0.1", port, [query("fine.example")], "127.0.0.9"), 0.3)
        stranger = header("198.51.100.7") + query("fine.example")
        [reply] = await ask_udp("127.0.0.1", port, [stranger], "127.0.0.8")
        assert one.udp[0].unproxied == 1  # it came before the stranger's, on the same socket
        assert dns.message.from_wire(reply).rcode() == dns.rcode.NOTIMP
        assert socket.inet_aton("198.51.100.7") not in one.clients.table

    run(BALANCER, body)


def test_over_tcp_the_header_comes_once_in_any_pieces() -> None:
    async def body(one: Served, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
        whole = header("198.51.100.8") + framed(query("fine.example", 1), query("blocked.example", 2))
        for at in range(0, len(whole), 5):
            writer.write(whole[at : at + 5])
            await writer.drain()
        assert [(await read_frame(reader)).id for _ in range(2)] == [1, 2]
        assert socket.inet_aton("198.51.100.8") in one.clients.table
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.9", 0))
        writer.write(framed(query("fine.example")))
        assert await asyncio.wait_for(reader.read(), 30) == b""
        assert one.tcp[0].unproxied == 1
        writer.close()

    run(BALANCER, body)


def test_a_client_over_its_rate_is_not_answered_and_counted() -> None:
    async def body(one: Served, port: int) -> None:
        await ask_udp("127.0.0.1", port, [query("fine.example")] * 5)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ask_udp("127.0.0.1", port, [query("fine.example")]), 0.3)
        await ask_udp("127.0.0.1", port, [query("fine.example")], "127.0.0.2")  # others do not notice
        assert one.pipeline.counters()["limited"] == 1
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(framed(query("fine.example")))
        assert await asyncio.wait_for(reader.read(), 30) == b""
        writer.close()
        one.pipeline.second(1)
        await ask_udp("127.0.0.1", port, [query("fine.example")])

    run(Config(limits=Limits(queries_per_second=5, burst=5, exempt=())), body)


def test_one_client_cannot_hold_all_connections() -> None:
    async def scene() -> None:
        port = free_port()
        config = Config(limits=Limits(exempt=()))
        async with served(f"127.0.0.1:{port}", most=8, config=config) as [one]:
            kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
            assert await asyncio.wait_for(kept[2][0].read(), 30) == b""
            assert one.tcp[0].refused == 1
            reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=("127.0.0.2", 0))
            writer.write(framed(query("fine.example", 3)))
            assert (await read_frame(reader)).id == 3
            kept[0][1].close()
            await asyncio.wait_for(kept[0][0].read(), 30)
            for _, each in [*kept, (reader, writer)]:
                each.close()

    asyncio.run(scene())
