"""A domain's name servers as its parent tells them, over the small internet."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from internet import AUTH, SILENT, Internet

from core.config import Upstream
from core.names import Name, from_text, to_text
from core.rr import AAAA, NS, A
from resolver import referring
from resolver.referring import Referring
from resolver.truth import Truth, read_truth
from resolver.upstream import Answer, Question
from resolver.upstream.unbound import Unbound

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator


@pytest.fixture(scope="module")
def internet() -> Iterator[Internet]:
    if reason := Internet.why_not():
        pytest.skip(reason)
    with Internet() as up:
        yield up


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """No server here is slow: a machine that pauses this process is none that keeps silent."""
    monkeypatch.setattr(referring, "PATIENCE", 30.0)


async def ask(of: Referring, name: str, qtype: int) -> Truth:
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    of.ask(Question(from_text(name), qtype), told.set_result)  # a second call would raise InvalidStateError
    answer = await asyncio.wait_for(told, 60)
    return read_truth(answer.wire, from_text(name)) if answer.wire else Truth()


def play(internet: Internet, scene: Callable[[Referring], Coroutine[Any, Any, None]]) -> None:
    settings = Upstream(root_hints=str(internet.root_hints), dnssec=False, timeout=30.0)

    async def run() -> None:
        engine = Referring(Unbound(settings, base=Path("/")))
        engine.start()
        try:
            await scene(engine)
        finally:
            engine.close()

    with internet.inside(), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())


def packed(address: str) -> bytes:
    return bytes(map(int, address.split(".")))


def texts(names: tuple[Name, ...]) -> set[str]:
    return {to_text(name) for name in names}


def test_the_parent_tells_of_a_server_that_never_answers(internet: Internet) -> None:
    async def scene(engine: Referring) -> None:
        found = await ask(engine, "lame.net", NS)
        assert texts(found.targets) == {"ns.lame.net"}
        assert (await ask(engine, "ns.lame.net", A)).addresses == (packed(SILENT),)
        assert (await ask(engine, "ns.lame.net", AAAA)).addresses == ()
        assert engine.counters()["referred"] == 1

    play(internet, scene)


def test_a_sound_domain_is_told_of_by_its_parent_and_other_types_by_the_engine(internet: Internet) -> None:
    async def scene(engine: Referring) -> None:
        assert texts((await ask(engine, "plain.net", NS)).targets) == {"ns.plain.net"}
        assert (await ask(engine, "ns.plain.net", A)).addresses == (packed(AUTH),)
        assert (await ask(engine, "www.plain.net", A)).addresses == (bytes((192, 0, 2, 41)),)

    play(internet, scene)


def test_below_a_zone_without_a_cut_the_engine_is_asked(internet: Internet) -> None:
    async def scene(engine: Referring) -> None:
        assert (await ask(engine, "www.plain.net", NS)).targets == ()
        assert engine.counters()["unreferred"] == 1

    play(internet, scene)


class Silent:
    """An engine that never answers, and remembers who asked."""

    def __init__(self) -> None:
        self.asked: list[Question] = []

    def start(self) -> None: ...

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        self.asked.append(question)

    def close(self) -> None: ...

    def counters(self) -> dict[str, int]:
        return {}


async def test_who_waits_is_answered_when_it_closes() -> None:
    engine = Referring(Silent())
    told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    engine.ask(Question(from_text("a.example"), NS), told.set_result)
    engine.close()
    assert (await asyncio.wait_for(told, 30)).rcode == 2
