"""The native forwarders against servers that misbehave, die, or show the wrong certificate."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trustme
from fake_upstream import ADDRESS, NAME, FakeUpstream

from core.config import Upstream as Settings
from core.errors import Unavailable
from core.names import from_text
from core.rr import Ede, Rcode
from core.servers import parse_server
from resolver.upstream import Answer, Question
from resolver.upstream.datagrams import MAX_STRANGERS, PORTS
from resolver.upstream.doh import Doh
from resolver.upstream.forward import Forward
from resolver.upstream.health import CASE_STRIKES
from resolver.upstream.route import Route
from resolver.upstream.streams import tls_context
from resolver.upstream.transactions import TICKS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

LIMIT = 60.0  # seconds for what takes none unless the machine stands still


class Clock:
    """Goes a tick a reading at most: while this process stands still, servers in it cannot answer."""

    def __init__(self) -> None:
        self._read = time.monotonic()
        self._now = 0.0

    def __call__(self) -> float:
        before, self._read = self._read, time.monotonic()
        self._now += min(self._read - before, 1 / TICKS)
        return self._now


@asynccontextmanager
async def running(*servers: str, clock: Callable[[], float] | None = None, **more: object) -> AsyncIterator[Forward]:
    settings = Settings(**{"mode": "forward", "dnssec": False, "timeout": 10.0, **more})  # type: ignore[arg-type]
    engine = Forward([parse_server(text) for text in servers], settings=settings, clock=clock or Clock())
    engine.start()
    try:
        yield engine
    finally:
        engine.close()
        await asyncio.sleep(0)


@asynccontextmanager
async def faking(folder: Path, *, only: str = "") -> AsyncIterator[FakeUpstream]:
    fake = FakeUpstream(folder, only=only)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()


async def ask(engine: Forward | Doh | Route, text: str) -> Answer:
    future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    engine.ask(Question(from_text(text), 1), future.set_result)
    async with asyncio.timeout(LIMIT):
        return await future


async def test_a_server_that_loses_case_is_asked_over_tcp_and_then_without_0x20(tmp_path: Path) -> None:
    async with faking(tmp_path) as fake, running(f"127.0.0.1@{fake.port}") as engine:
        for at in range(CASE_STRIKES + 3):
            assert ADDRESS in (await ask(engine, f"wrongcase-abcdefghijklmnop{at}.example")).wire
            if at < CASE_STRIKES:
                assert fake.seen[-1][0] == "tcp"
        assert engine.counters()["miscased"] >= CASE_STRIKES
        fake.queries.clear()
        assert ADDRESS in (await ask(engine, "plainabcdefghijklmnop.example")).wire
        assert fake.queries[0][12:].startswith(from_text("plainabcdefghijklmnop.example"))


async def test_a_server_that_cannot_read_edns_is_asked_without(tmp_path: Path) -> None:
    async with faking(tmp_path) as fake, running(f"127.0.0.1@{fake.port}") as engine:
        assert ADDRESS in (await ask(engine, "noedns-1.example")).wire
        assert [query[11] for query in fake.queries] == [1, 0]
        assert (await ask(engine, "formerr-1.example")).rcode == Rcode.FORMERR


async def test_ports_ids_and_case_differ_and_strange_replies_change_the_port(tmp_path: Path) -> None:
    async with faking(tmp_path) as fake, running(f"127.0.0.1@{fake.port}", timeout=0.2) as engine:
        for at in range(40):
            await ask(engine, f"n{at}.example")
        assert len({query[:2] for query in fake.queries}) >= 39
        opened = engine.counters()["sockets"]
        assert opened == PORTS
        for _ in range(PORTS * MAX_STRANGERS // 64 + 1):
            answers = [ask(engine, f"wrongid-{at}.example") for at in range(64)]
            await asyncio.gather(*answers)
        async with asyncio.timeout(LIMIT):  # the last replies may come later than their questions end
            while engine.counters()["strangers"] < 64 or engine.counters()["sockets"] == opened:
                await ask(engine, "meanwhile.example")


@pytest.mark.parametrize("word", ["servfail", "refused"])
async def test_one_servers_failure_sends_the_question_to_the_next(tmp_path: Path, word: str) -> None:
    async with (
        faking(tmp_path, only=word) as bad,
        faking(tmp_path) as good,
        running(f"127.0.0.1@{bad.port}", f"127.0.0.1@{good.port}") as engine,
    ):
        both = await asyncio.gather(ask(engine, "a.example"), ask(engine, "b.example"))  # one for each at first
        assert all(ADDRESS in answer.wire for answer in both)
        assert bad.seen


async def test_a_dead_server_costs_the_first_question_only(tmp_path: Path, unused_udp_port: int) -> None:
    async with (
        faking(tmp_path) as good,  # and no time passes: after a second the dead one would get its next question
        running(f"127.0.0.1@{unused_udp_port}", f"127.0.0.1@{good.port}", clock=lambda: 1.0) as engine,
    ):
        for at in range(20):
            assert ADDRESS in (await ask(engine, f"n{at}.example")).wire
        assert engine.counters()["retries"] <= 2


async def test_refusing_servers_end_in_an_answer_that_says_so(unused_udp_port: int) -> None:
    async with running(f"127.0.0.1@{unused_udp_port}") as engine:
        answer = await ask(engine, "www.example")
    assert (answer.rcode, answer.ede) == (Rcode.SERVFAIL, Ede.NETWORK_ERROR)
    assert f"127.0.0.1@{unused_udp_port}" in answer.ede_text
    assert "refused" in answer.ede_text


async def test_tls_connections_are_shared_and_made_again_after_a_break(tmp_path: Path) -> None:
    async with faking(tmp_path) as fake:
        server = f"tls://127.0.0.1@{fake.tls_port}#{NAME}"
        async with running(server, tls_ca_file=fake.ca_file) as engine:
            await asyncio.gather(*(ask(engine, f"n{at}.example") for at in range(100)))
            assert fake.connections == 1
            fake.break_connections()
            assert ADDRESS in (await ask(engine, "after.example")).wire
            assert {transport for transport, _ in fake.seen} == {"tls"}


@pytest.mark.parametrize(("name", "trusted"), [("other.example", True), (NAME, False)])
async def test_a_wrong_certificate_is_refused_and_nothing_is_sent(tmp_path: Path, *, name: str, trusted: bool) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    async with faking(tmp_path) as fake:
        ca_file = fake.ca_file if trusted else str(stranger)
        async with running(f"tls://127.0.0.1@{fake.tls_port}#{name}", tls_ca_file=ca_file) as engine:
            answer = await ask(engine, "www.example")
        assert fake.seen == []
    assert (answer.rcode, answer.ede) == (Rcode.SERVFAIL, Ede.NETWORK_ERROR)
    assert "certificate refused" in answer.ede_text


async def test_https_refuses_a_certificate_of_another_name(tmp_path: Path) -> None:
    async with faking(tmp_path) as fake:
        settings = Settings(mode="forward", dnssec=False, timeout=20.0, tls_ca_file=fake.ca_file)
        server = parse_server(f"https://other.example:{fake.https_port}/dns-query")
        engine = Doh([server], settings=settings, bootstrap={"other.example": "127.0.0.1"})
        engine.start()
        answer = await ask(engine, "www.example")
        engine.close()
        await asyncio.sleep(0.01)
        assert fake.seen == []
    assert (answer.rcode, answer.ede) == (Rcode.SERVFAIL, Ede.NETWORK_ERROR)


def test_a_ca_file_that_is_none_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.pem"
    bad.write_text("not a certificate")
    for path in (str(bad), str(tmp_path / "missing.pem")):
        with pytest.raises(Unavailable, match=r"upstream\.tls_ca_file"):
            tls_context(path)
    assert tls_context("").verify_mode is ssl.CERT_REQUIRED
