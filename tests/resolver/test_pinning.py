"""The worker's side of pins: a scene whose first client is pinned, and an agent that says what it is told to say."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import dns.message
import pytest
from scene import OFFICE, OTHER, Peer, Scene

from core.config import Config, Egress, Local, Pin
from core.event import Transport
from core.names import from_text
from core.verdict import Action
from egress.pins.messages import MAX_ADDRESSES, MAX_PACKET, Told, decode, pack
from feeds.overlay import Override
from resolver import pinning as module
from resolver.clients import Clients
from resolver.pinning import HUNG, PATIENCE, RETRY, Pinning

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PINS = (Pin(name="office", clients=("127.0.0.1/32", "fd00::/64")),)
SIX = bytes.fromhex("fd000000000000000000000000000001")
SITE = bytes((91, 66, 0, 80))
SITE6 = bytes.fromhex("2a010066000000000000000000000080")


class Waiting(Peer):
    """A peer that wakes who waits for its reply."""

    def __init__(self, transport: Transport = Transport.UDP) -> None:
        super().__init__(transport)
        self.came = asyncio.Event()

    def hold(self) -> Waiting:
        return self

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        super().deliver(identity, body)
        self.came.set()


class Office:
    """A scene, the agent's socket, and a clock both go by."""

    def __init__(self, folder: Path, config: Config | None = None) -> None:
        self.path = folder / "egress.sock"
        self.scene = Scene(folder, config or Config())
        self.pinning = Pinning(self.path, PINS, clock=lambda: self.scene.now)
        self.scene.clients = Clients(
            self.scene.policy, self.scene.pipeline.limits, ["127.0.0.0/8", "fd00::/64"], pinning=self.pinning
        )
        self.listener: socket.socket | None = None
        self.agent: socket.socket | None = None

    def listen(self) -> None:
        self.path.unlink(missing_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.listener.bind(str(self.path))
        self.listener.listen()

    def meet(self) -> None:
        """The worker finds the agent."""
        self.listen()
        self.pinning.start(asyncio.get_running_loop())
        assert self.listener is not None
        self.agent, _ = self.listener.accept()
        self.agent.setblocking(False)

    def close(self) -> None:
        self.pinning.stop()
        self.scene.close()
        for one in (self.listener, self.agent):
            if one is not None:
                one.close()

    def serve(self, *records: str, name: str = "site.example", kind: str = "A") -> None:
        self.scene.upstream.records[name, kind] = list(records)

    def ask(self, name: str = "site.example", kind: str = "A", *, client: bytes = OFFICE, tcp: bool = False) -> Waiting:
        packet = bytes(dns.message.make_query(name, kind, use_edns=0).to_wire())
        peer = Waiting(Transport.TCP if tcp else Transport.UDP)
        who = self.scene.clients.meet(client)
        assert who.rendered(packet[2:]) is None or who.pin is None
        body = self.scene.pipeline.handle(packet, who, peer)
        if body is not None:
            peer.deliver(packet[:2], body)
        return peer

    def heard(self) -> list[Told]:
        assert self.agent is not None
        found = []
        while True:
            try:
                found.append(decode(self.agent.recv(MAX_PACKET)))
            except BlockingIOError:
                return found

    def say(self, *told: Told, done: bool = True) -> None:
        assert self.agent is not None
        self.agent.send(pack([(one.number, done) for one in told]))

    async def open(self, peer: Waiting, *, done: bool = True) -> Told:
        """The agent hears one answer, opens it, and the reply comes."""
        assert not peer.came.is_set()
        (told,) = self.heard()
        self.say(told, done=done)
        await peer.came.wait()
        return told


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    made = Office(tmp_path)
    yield made
    made.close()


async def test_the_reply_waits_until_the_agent_has_opened_what_it_says(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80", "site.example. 60 A 91.66.0.81")
    told = await office.open(peer := office.ask())
    assert (told.client, told.seconds, set(told.addresses)) == (OFFICE, 60, {SITE, bytes((91, 66, 0, 81))})
    assert len(dns.message.from_wire(peer.got[0]).answer[0]) == 2
    assert office.pinning.counters()["pin_acknowledged"] == 1


async def test_the_chain_its_own_ttl_and_hints_count(office: Office) -> None:
    office.meet()
    office.serve("site.example. 20 CNAME cdn.example.", "cdn.example. 300 A 91.66.0.80")
    told = await office.open(office.ask())
    assert (told.seconds, told.addresses) == (300, (SITE,))
    office.serve('site.example. 60 HTTPS 1 . ipv4hint="91.66.0.90" ipv6hint="2a01:66::80"', kind="HTTPS")
    told = await office.open(office.ask(kind="HTTPS"))
    assert set(told.addresses) == {bytes((91, 66, 0, 90)), SITE6}


async def test_nobody_else_waits_or_is_told(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    assert office.ask(client=OTHER).got
    assert office.ask(client=OTHER).got
    assert office.heard() == []


async def test_a_cached_answer_is_told_with_what_is_left_of_it(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    office.ask(client=OTHER)
    office.scene.later(25)
    assert office.scene.clients.meet(OTHER).rendered is not office.scene.clients.meet(OFFICE).rendered
    told = await office.open(office.ask())
    assert told.seconds == 35
    assert len(office.scene.upstream.asked) == 1


async def test_what_is_known_is_told_again_in_the_second_half_of_its_time(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    await office.open(office.ask())
    office.scene.later(29)
    assert office.ask().got
    assert office.pinning.spared == 1
    office.scene.later(2)
    assert (await office.open(office.ask())).seconds == 29


async def test_what_lasts_longer_is_told_at_once(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    office.serve("other.example. 600 A 91.66.0.80", name="other.example")
    office.serve("third.example. 60 A 91.66.0.80", name="third.example")
    await office.open(office.ask())
    assert (await office.open(office.ask("other.example"))).seconds == 600
    assert office.ask("third.example").got


async def test_what_the_agent_could_not_open_is_told_again(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    await office.open(office.ask(), done=False)
    assert office.pinning.acknowledged == 0
    await office.open(office.ask())
    assert office.pinning.acknowledged == 1


async def test_sinkholed_replaced_and_inner_addresses_are_never_told(tmp_path: Path) -> None:
    office = Office(tmp_path, Config(local=Local(rebind_protection=False)))
    office.meet()
    office.serve("shop.example. 60 CNAME x.evil.example.", "x.evil.example. 60 A 91.66.0.80", name="shop.example")
    office.serve("inner.example. 60 A 10.1.2.3", name="inner.example")
    office.serve("site.example. 60 AAAA fd00::1", "site.example. 60 AAAA 2a01:66::80", kind="AAAA")
    for name in ("evil.example", "shop.example", "inner.example", "localhost"):
        assert office.ask(name).got
    assert office.heard() == []
    assert (await office.open(office.ask(kind="AAAA"))).addresses == (SITE6,)
    office.close()


async def test_a_name_convicted_later_is_told_no_more(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    await office.open(office.ask())
    office.scene.override(Override(from_text("site.example"), Action.SINKHOLE, reason="x", by="ann"))
    office.scene.later(40)
    assert office.ask().got
    assert office.heard() == []


async def test_both_families_tcp_and_those_who_share_a_question(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    office.scene.upstream.hold = True
    peers = [office.ask(), office.ask(client=SIX, tcp=True), office.ask(client=OTHER)]
    office.scene.upstream.release()
    assert [bool(peer.got) for peer in peers] == [False, False, True]
    first, second = office.heard()
    assert (first.client, second.client) == (OFFICE, SIX)
    office.say(first, second)
    await asyncio.gather(peers[0].came.wait(), peers[1].came.wait())
    assert office.pinning.waiting == 0


async def test_an_agent_that_is_slow_costs_the_reply_a_few_milliseconds(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    peer = office.ask()
    office.scene.now += PATIENCE
    await peer.came.wait()
    (told,) = office.heard()
    office.say(told)
    assert office.pinning.counters()["pin_late"] == 1
    office.scene.now += PATIENCE
    await office.open(office.ask())


async def test_an_agent_that_is_away_costs_nothing_and_is_found_when_it_is_back(office: Office) -> None:
    office.serve("site.example. 60 A 91.66.0.80")
    office.pinning.start(asyncio.get_running_loop())
    assert office.ask().got
    assert office.pinning.counters() | {"pin_dropped": 1, "pin_away": 1} == office.pinning.counters()
    office.scene.later(RETRY)
    office.listen()
    office.pinning.second()
    assert office.listener is not None
    office.agent, _ = office.listener.accept()
    office.agent.setblocking(False)
    assert (await office.open(office.ask())).seconds == 59
    assert office.pinning.counters()["pin_away"] == 0


async def test_an_agent_that_goes_lets_replies_leave_and_is_told_anew_when_it_is_back(office: Office) -> None:
    office.meet()
    office.serve("site.example. 600 A 91.66.0.80")
    office.serve("new.example. 600 A 91.66.0.99", name="new.example")
    await office.open(office.ask())
    peer = office.ask("new.example")
    assert office.agent is not None
    office.agent.close()
    await peer.came.wait()
    assert office.ask().got
    office.scene.later(RETRY)
    office.pinning.second()
    assert office.listener is not None
    office.agent, _ = office.listener.accept()
    office.agent.setblocking(False)
    assert (await office.open(office.ask())).addresses == (SITE,)


async def test_an_agent_that_hangs_is_given_up(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    peer = office.ask()
    office.scene.now += HUNG + PATIENCE
    await peer.came.wait()
    assert office.pinning.counters()["pin_away"] == 1
    assert office.ask().got
    office.scene.later(RETRY)
    office.pinning.second()
    assert office.pinning.counters()["pin_away"] == 1


async def test_an_agent_that_does_not_read_stops_nothing(office: Office) -> None:
    office.meet()
    answered = 0
    for number in range(3_000):
        name = f"n{number}.site{number}.example"
        office.serve(f"{name}. 60 A 91.66.0.80", name=name)
        office.scene.now += 2
        answered += bool(office.ask(name).got)
    assert answered > 0
    assert office.pinning.dropped >= answered


async def test_a_worker_that_ends_lets_what_waits_leave(office: Office) -> None:
    office.meet()
    office.serve("site.example. 60 A 91.66.0.80")
    peer = office.ask()
    office.pinning.stop()
    assert peer.got
    assert office.pinning.waiting == 0


async def test_a_reply_of_many_addresses_is_told_as_far_as_a_client_uses_them(office: Office) -> None:
    office.meet()
    office.serve(*[f"site.example. 60 A 91.66.0.{number}" for number in range(1, 71)])
    assert len((await office.open(office.ask())).addresses) == MAX_ADDRESSES


async def test_memory_is_bounded(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_KNOWN", 3)
    office.meet()
    for number in range(9):
        name = f"n{number}.example"
        office.serve(f"{name}. 600 A 91.66.0.{number}", name=name)
        await office.open(office.ask(name))
    known = office.pinning.spared
    for number in (8, 0):
        peer = office.ask(f"n{number}.example")
        if not peer.got:
            await office.open(peer)
    assert office.pinning.spared == known + 1


async def test_without_pins_no_client_has_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Config(egress=Egress(mode="enforce")))
    assert scene.clients.meet(OFFICE).pin is None
    assert scene.clients.meet(OFFICE).rendered == scene.policy.default.rendered.table.get
    scene.close()
