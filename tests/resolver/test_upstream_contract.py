"""What every upstream engine promises, asked of each of them against one scripted server."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from fake_upstream import ADDRESS, BIG, NAME, RCODES, FakeUpstream, word_of

from core.config import Upstream as Settings
from core.errors import Unavailable
from core.names import from_text
from core.rr import Ede, Rcode
from core.servers import parse_server
from resolver.upstream import Answer, Question, Upstream
from resolver.upstream.doh import Doh
from resolver.upstream.forward import Forward
from resolver.upstream.unbound import Unbound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TIMEOUT = 30.0  # seconds, of engines whose questions are all answered, also while this process is paused
SHORT = 1.0  # seconds, of engines whose server keeps silent
SLACK = 1.0  # seconds after which even a timed-out question is answered
PATIENCE = 60.0  # seconds for what happens at all
KINDS = ["udp", "tcp", "tls", "https", "unbound"]
TXT = 16


def make(kind: str, fake: FakeUpstream, **more: object) -> Upstream:
    chosen: dict[str, object] = {"mode": "forward", "dnssec": False, "timeout": TIMEOUT, "tls_ca_file": fake.ca_file}
    plain = f"127.0.0.1@{fake.port}"
    if kind == "unbound":
        settings = Settings(**{**chosen, "servers": (plain,), "query_localhost": True, "tls_ca_file": "", **more})  # type: ignore[arg-type]
        return Unbound(settings, base=Path())
    settings = Settings(**{**chosen, **more})  # type: ignore[arg-type]
    if kind == "https":
        server = parse_server(f"https://{NAME}:{fake.https_port}/dns-query")
        return Doh([server], settings=settings, bootstrap={NAME: "127.0.0.1"})
    text = f"tls://127.0.0.1@{fake.tls_port}#{NAME}" if kind == "tls" else plain
    return Forward([parse_server(text)], settings=settings)


class Asker:
    """Puts questions and checks that each gets exactly one answer."""

    def __init__(self, engine: Upstream) -> None:
        self.engine = engine
        self.answers: dict[int, Answer] = {}
        self.order: list[str] = []
        self._count = 0
        self._changed = asyncio.Event()

    def put(self, text: str, qtype: int = 1) -> int:
        self._count += 1
        number = self._count

        def done(answer: Answer) -> None:
            assert number not in self.answers, f"{text} was answered twice"
            self.answers[number] = answer
            self.order.append(text)
            self._changed.set()

        self.engine.ask(Question(from_text(text), qtype), done)
        return number

    async def all(self, *, within: float = PATIENCE) -> None:
        async with asyncio.timeout(within):
            while len(self.answers) < self._count:
                self._changed.clear()
                await self._changed.wait()

    async def one(self, text: str, qtype: int = 1) -> Answer:
        number = self.put(text, qtype)
        await self.all()
        return self.answers[number]

    async def any(self) -> None:
        """Return when an answer has come since this was called."""
        self._changed.clear()
        async with asyncio.timeout(PATIENCE):
            await self._changed.wait()


class Held:
    """Keeps what the server says to questions for `slow-...` until it is released."""

    def __init__(self, fake: FakeUpstream) -> None:
        self.came = asyncio.Event()
        self._fake = fake
        self._answer = fake.answer
        self._waiting: list[tuple[bytes, str, object]] = []
        fake.answer = self._hold  # type: ignore[method-assign]

    def _hold(self, query: bytes, transport: str, send: object) -> None:
        if word_of(query) == "slow":
            self._waiting.append((query, transport, send))
            self.came.set()
        else:
            self._answer(query, transport, send)

    def release(self) -> None:
        self._fake.answer = self._answer  # type: ignore[method-assign]
        for each in self._waiting:
            self._answer(*each)


@asynccontextmanager
async def scene(kind: str, folder: Path, **more: object) -> AsyncIterator[tuple[FakeUpstream, Asker]]:
    fake = FakeUpstream(folder, always_truncate=kind == "tcp")
    await fake.start()
    engine = make(kind, fake, **more)
    try:
        engine.start()
    except Unavailable as error:
        await fake.stop()
        pytest.skip(str(error))
    try:
        yield fake, Asker(engine)
    finally:
        engine.close()
        await asyncio.sleep(0.01)
        await fake.stop()


def add_up(engine: Upstream) -> None:
    count = engine.counters()
    parts = ("answered", "timeouts", "failed", "refused", "outstanding")
    assert count["asked"] == sum(count[part] for part in parts), count


pytestmark = pytest.mark.parametrize("kind", KINDS)


async def test_the_answer_arrives_as_the_server_sent_it(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (_, asker):
        answer = await asker.one("www.example")
    assert answer.rcode == Rcode.NOERROR
    assert answer.wire[12:].lower().startswith(from_text("www.example") + b"\x00\x01\x00\x01")
    assert ADDRESS in answer.wire
    assert answer.server
    assert not answer.secure


async def test_many_at_once_each_get_their_own(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (_, asker):  # HTTPS takes a second for all
        numbers = {asker.put(f"n{at}.example"): f"n{at}.example" for at in range(300)}
        await asker.all()
        for number, text in numbers.items():
            assert asker.answers[number].wire[12:].lower().startswith(from_text(text))
        add_up(asker.engine)
        assert asker.engine.counters()["answered"] == 300


async def test_a_slow_answer_does_not_hold_up_a_quick_one(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (fake, asker):
        await asker.one("first.example")
        asker.order.clear()
        held = Held(fake)
        asker.put("slow-1.example")
        await asyncio.wait_for(held.came.wait(), PATIENCE)
        asker.put("quick.example")
        await asker.any()
        assert asker.order == ["quick.example"]
        held.release()
        await asker.all()
        assert asker.order == ["quick.example", "slow-1.example"]
        assert all(answer.wire for answer in asker.answers.values())


async def test_silence_ends_in_servfail_that_names_the_server(kind: str, tmp_path: Path) -> None:
    for left in (2, 1, 0):  # the best of three: a machine that pauses this process is not the engine's lateness
        async with scene(kind, tmp_path, timeout=SHORT) as (_, asker):
            began = time.monotonic()
            answer = await asker.one("drop-1.example")
            took = time.monotonic() - began
            add_up(asker.engine)
            assert asker.engine.counters()["timeouts"] == 1
        if took < SHORT + SLACK:
            break
        assert left, took
    assert (answer.wire, answer.rcode, answer.ede) == (b"", Rcode.SERVFAIL, Ede.NO_REACHABLE_AUTHORITY)
    assert kind == "unbound" or "127.0.0.1" in answer.ede_text or NAME in answer.ede_text


@pytest.mark.parametrize("misdeed", ["garbage", "wrongid", "wrongq", "query", "close"])
async def test_nonsense_is_never_an_answer_and_harms_nobody_else(kind: str, misdeed: str, tmp_path: Path) -> None:
    if kind == "https" and misdeed == "wrongid":
        pytest.skip("the ID means nothing over HTTPS (RFC 8484 section 4.1)")
    for left in (2, 1, 0):  # a pause of this process may cost one its answer, an engine that is harmed always does
        async with scene(kind, tmp_path, timeout=SHORT) as (_, asker):
            answer = await asker.one(f"{misdeed}-1.example")
            assert (answer.wire, answer.rcode) == (b"", Rcode.SERVFAIL)
            assert answer.ede in {Ede.NO_REACHABLE_AUTHORITY, Ede.NETWORK_ERROR}
            if kind != "unbound":  # it holds a grudge for minutes against a server that was silent
                answer = await asker.one("after.example")
            add_up(asker.engine)
        if kind == "unbound" or answer.wire:
            break
        assert left, answer


async def test_an_answer_too_long_for_udp_arrives_whole(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (_, asker):
        answer = await asker.one("big-1.example", TXT)
    assert len(answer.wire) >= BIG


@pytest.mark.parametrize("word", ["servfail", "refused", "nxdomain"])
async def test_the_servers_own_failure_is_passed_on(kind: str, word: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (_, asker):
        answer = await asker.one(f"{word}-1.example")
        add_up(asker.engine)
    expected = {RCODES[word], Rcode.SERVFAIL} if kind == "unbound" and word == "refused" else {RCODES[word]}
    assert answer.rcode in expected


async def test_beyond_the_limit_questions_are_refused_at_once(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path, max_outstanding=3) as (fake, asker):
        held = Held(fake)
        for at in range(3):
            asker.put(f"slow-{at}.example")
        number = asker.put("www.example")
        assert asker.answers[number].rcode == Rcode.SERVFAIL
        assert asker.engine.counters()["refused"] == 1
        assert asker.engine.counters()["outstanding"] == 3
        add_up(asker.engine)
        held.release()
        await asker.all()
        assert (await asker.one("www.example")).wire


async def test_close_answers_everything(kind: str, tmp_path: Path) -> None:
    async with scene(kind, tmp_path) as (fake, asker):
        held = Held(fake)
        for at in range(5):
            asker.put(f"slow-{at}.example")
        await asyncio.wait_for(held.came.wait(), PATIENCE)
        asker.engine.close()
        await asker.all(within=TIMEOUT / 2)
        assert {answer.rcode for answer in asker.answers.values()} == {Rcode.SERVFAIL}
        assert asker.engine.counters()["outstanding"] == 0
        if kind != "unbound":  # what its `close` answers is in none of its counters
            add_up(asker.engine)
        answer = await asker.one("late.example")
        assert answer.rcode == Rcode.SERVFAIL
