"""Listeners on real loopback sockets: batches, wildcard addresses, steering, TCP framing and its limits."""

from __future__ import annotations

import asyncio
import time

import dns.flags
import dns.message
import pytest
from listening import ask_udp, framed, free_port, query, read_frame, served

from core.errors import Unavailable
from core.names import from_text
from core.verdict import Action
from feeds.overlay import Override
from resolver.sockets import bind
from resolver.tcp import MAX_OUTSTANDING


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


def test_a_draining_listener_answers_what_is_on_its_way_and_closes() -> None:
    async def scene() -> None:
        port = free_port()
        async with served(f"127.0.0.1:{port}") as [one]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            idle, other = await asyncio.open_connection("127.0.0.1", port)
            other.write(framed(query("fine.example", 4)))
            assert (await read_frame(idle)).id == 4  # accepted: what only waits to be is reset
            writer.write(framed(query("slow.example", 5)))
            await asyncio.wait_for(one.upstream.asked.wait(), 5)
            one.tcp[0].drain()
            assert await asyncio.wait_for(idle.read(), 5) == b""
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
            writer.write(framed(query("fine.example", 6)))
            await writer.drain()
            assert (await read_frame(reader)).id == 6
            one.upstream.release()
            assert (await read_frame(reader)).id == 5
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()
            other.close()

    asyncio.run(scene())
