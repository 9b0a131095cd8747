"""Pins on the real nftables: two pinned clients, a router that holds the table, a server; all in namespaces of ours."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import pytest
from routed import C2, CLIENT, GUEST, NEIGHBOUR, PATIENCE, PORT, Routed, echoes, why_not
from scene import Peer, Scene

from core.config import Config, Egress, Pin, Server
from egress.enforcer import Absent, Lease, Target
from egress.nflog import Attempts
from egress.nftables import Nftables
from egress.orders import Attempt, Report
from egress.pins.messages import MAX_PACKET, Told, encode, path_of, unpack
from egress.pins.rules import TABLE
from egress.pins.server import LOOK, PinServer
from egress.pins.table import PinTable, Put
from resolver import pinning as pinning_module
from resolver.clients import Clients
from resolver.pinning import Pinning

SITE, OTHER = C2, NEIGHBOUR  # two addresses of one server
FREE = {4: "10.20.3.2", 6: "fd20:3::2"}
OFFICE = Pin(
    name="office",
    clients=("10.20.1.0/24", "10.20.2.0/24", "fd20:1::/64", "fd20:2::/64"),
    mode="enforce",
    exempt=("91.66.0.90/32",),
)
EXEMPT = "91.66.0.90"


_SKIPPED = why_not()
pytestmark = pytest.mark.skipif(bool(_SKIPPED), reason=_SKIPPED)


@pytest.fixture(scope="module")
def net() -> Iterator[Routed]:
    with Routed("client", "guest", "free", served=(*SITE.values(), *OTHER.values(), EXEMPT)) as made:
        yield made


class Agent:
    """A pin server on the router, and what a worker would tell it."""

    def __init__(self, net: Routed, folder: Path) -> None:
        self.net = net
        self.folder = folder
        self.server: PinServer | None = None
        self.line: socket.socket | None = None
        self.number = 0

    def config(self, *pins: Pin, mode: str = "enforce", grace: int = 1, dies: str = "open") -> Config:
        egress = Egress(mode=mode, pin=pins, pin_grace=grace, pin_dies=dies, log_group=7)  # type: ignore[arg-type]
        return Config(server=Server(data_dir=str(self.folder)), egress=egress)

    def start(
        self, *pins: Pin, mode: str = "enforce", lease: float = 90.0, settling: float | None = 0.0, grace: int = 1,
        dies: str = "open",
    ) -> PinServer:  # fmt: skip
        config = self.config(*(pins or (OFFICE,)), mode=mode, grace=grace, dies=dies)
        self.server = PinServer(config, lease=lease, settling=settling)
        with self.net.at("router"):
            self.server.start(lambda _: None)
        until(path_of(config).exists, 2 * PATIENCE)
        self.line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.line.settimeout(PATIENCE)
        until(lambda: self._connects(config))
        return self.server

    def _connects(self, config: Config) -> bool:
        assert self.line is not None
        try:
            self.line.connect(str(path_of(config)))
        except OSError:
            return False
        return True

    def tell(self, client: str, *addresses: str, seconds: int = 60) -> bool:
        """Whether the agent says that all is open."""
        assert self.line is not None
        self.number += 1
        packed = [ipaddress.ip_address(address).packed for address in (client, *addresses)]
        self.line.send(encode(Told(self.number, packed[0], seconds, tuple(packed[1:]))))
        ((number, done),) = unpack(self.line.recv(MAX_PACKET))
        assert number == self.number
        return done

    def stop(self) -> None:
        if self.line is not None:
            self.line.close()
        if self.server is not None:
            self.server.stop()

    def nft(self, *words: str) -> str:
        return self.net.inside("router", "nft", *words)

    def counter(self, name: str) -> int:
        assert self.server is not None
        return self.server.counters()[name]


@pytest.fixture
def agent(net: Routed, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(net, tmp_path)
    yield made
    made.stop()
    net.inside("router", "nft", "flush", "ruleset")


def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


@pytest.mark.parametrize("family", [4, 6])
def test_what_was_answered_is_open_to_who_was_answered_and_nothing_else(net: Routed, agent: Agent, family: int) -> None:
    agent.start()
    assert net.refused_at_once("client", SITE[family])
    assert agent.tell(CLIENT[family], SITE[family])
    assert net.reaches("client", SITE[family])
    assert net.refused_at_once("client", OTHER[family])  # a literal address nobody was answered
    assert net.refused_at_once("guest", SITE[family])  # one that somebody else was answered
    assert net.reaches("free", OTHER[family])  # a client no pin names
    assert agent.counter("pin_opened") == 1


def test_networks_that_are_exempt_are_open(net: Routed, agent: Agent) -> None:
    agent.start()
    assert net.reaches("client", EXEMPT)


@pytest.mark.parametrize("family", [4, 6])
def test_a_running_flow_survives_the_end_of_its_address(net: Routed, agent: Agent, family: int) -> None:
    agent.start()
    with opened(net, agent, family) as running:
        assert echoes(running)
        until(lambda: net.refused_at_once("client", SITE[family]))
        assert echoes(running)


def opened(net: Routed, agent: Agent, family: int) -> socket.socket:
    """A connection to an address that is open for a moment; a longer one where the machine pauses before it is made."""
    for seconds in (1, 4, 16):
        agent.tell(CLIENT[family], SITE[family], seconds=seconds)
        with contextlib.suppress(ConnectionRefusedError):
            return net.connect("client", SITE[family])
    pytest.fail("what was answered is not open")


def test_an_address_of_the_other_family_is_open_to_all_clients_of_the_pin(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[6])
    assert net.reaches("client", SITE[6])
    assert net.reaches("guest", SITE[6])
    assert net.refused_at_once("client", OTHER[6])


def test_an_answer_lengthens_and_never_shortens(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4], seconds=600)
    agent.tell(CLIENT[4], SITE[4], seconds=1)
    assert left(agent) > 500
    agent.tell(CLIENT[4], SITE[4], seconds=1200)
    assert left(agent) > 1100
    assert agent.counter("pin_open") == 1


def test_the_same_ttl_again_begins_anew(agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4], seconds=100)
    until(lambda: left(agent) < 98)
    until(lambda: agent.tell(CLIENT[4], SITE[4], seconds=100) and left(agent) >= 98)


def left(agent: Agent) -> int:
    """The seconds the kernel gives the only element."""
    text = agent.nft("-j", "list", "set", "inet", TABLE, "allow4")
    return int(text.split('"expires": ')[1].split("}")[0])


@pytest.mark.parametrize("mode", ["observe", "dry-run"])
def test_what_only_records_refuses_nothing_and_is_told(net: Routed, agent: Agent, mode: str) -> None:
    seen: list[Report] = []
    hearing = Attempts("router", lambda _: False, group=7)
    with net.at("router"):
        hearing.start(seen.append)
    agent.start(mode=mode)
    until(lambda: net.reaches("client", SITE[4]) and any(isinstance(event, Attempt) for event in seen))
    hearing.stop()
    attempt = next(event for event in seen if isinstance(event, Attempt))
    assert (attempt.rule, attempt.port) == ("pin", PORT)
    assert attempt.address == ipaddress.ip_address(SITE[4]).packed
    assert attempt.client == ipaddress.ip_address(CLIENT[4]).packed


def test_a_pin_that_records_beside_one_that_enforces(net: Routed, agent: Agent) -> None:
    recorded = Pin(name="guests", clients=("10.20.2.0/24",))
    enforced = Pin(name="clients", clients=("10.20.0.0/16",), mode="enforce")
    agent.start(recorded, enforced)
    assert net.reaches("guest", SITE[4])
    assert net.refused_at_once("client", SITE[4])
    assert net.refused_at_once("free", SITE[4])


def test_what_is_refused_is_told_as_an_attempt(net: Routed, agent: Agent) -> None:
    seen: list[Report] = []
    hearing = Attempts("router", lambda _: False, group=7)
    with net.at("router"):
        hearing.start(seen.append)
    agent.start()
    until(lambda: net.refused_at_once("client", SITE[4]) and seen)
    hearing.stop()
    assert {event.rule for event in seen if isinstance(event, Attempt)} == {"pin"}


def test_an_agent_that_dies_frees_clients_and_its_successor_lets_them_settle(net: Routed, agent: Agent) -> None:
    def holds_on(lease: float) -> bool:
        server = agent.start(lease=lease)
        held = net.refused_at_once("client", SITE[4])
        agent.stop()
        assert server.trouble == ""
        return held and net.refused_at_once("client", SITE[4])  # held for what is left of the lease

    def lets_settle(settling: float) -> bool:
        until(lambda: net.reaches("client", SITE[4]))
        server = agent.start(lease=1.5, settling=settling)
        settles = not server.holding and net.reaches("client", SITE[4])
        until(lambda: net.refused_at_once("client", SITE[4]))
        until(lambda: server.holding)
        if not settles:
            agent.stop()
        return settles

    assert any(map(holds_on, (1.5, 4.5, 13.5)))  # the longer ones for a machine that pauses meanwhile
    assert any(map(lets_settle, (1.0, 3.0, 9.0)))


def test_pins_that_die_closed_hold_clients_until_another_agent_says_otherwise(net: Routed, agent: Agent) -> None:
    agent.start(lease=0.3, dies="closed")
    assert net.refused_at_once("client", SITE[4])
    agent.stop()
    time.sleep(0.6)  # two leases of the kernel's time
    assert net.refused_at_once("client", SITE[4])
    agent.start(lease=1.0)
    agent.stop()
    until(lambda: net.reaches("client", SITE[4]))


def test_a_lease_is_renewed(net: Routed, agent: Agent) -> None:
    agent.start(lease=3.0)
    readings: list[int] = []

    def grew() -> bool:
        readings.append(held_for(agent))
        return len(readings) > 1 and readings[-1] > readings[-2] > 0

    until(grew)
    until(lambda: net.refused_at_once("client", SITE[4]))


def held_for(agent: Agent) -> int:
    """Milliseconds the kernel holds clients from now on; it writes them as 1s234ms. 0: it does not."""
    found = re.search(r"ipv4 timeout \w+ expires (?:(\d+)s)?(?:(\d+)ms)?", agent.nft("list", "table", "inet", TABLE))
    return 1000 * int(found[1] or 0) + int(found[2] or 0) if found else 0


def test_a_successor_knows_what_is_open_and_holds_at_once(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4], seconds=600)
    agent.stop()
    server = agent.start(Pin(name="new", clients=("10.20.0.0/16",), mode="enforce"), settling=600.0)
    assert server.holding
    assert net.reaches("client", SITE[4])
    assert net.refused_at_once("client", OTHER[4])
    assert agent.counter("pin_open") == 1
    assert left(agent) > 500
    assert "office" not in agent.nft("list", "table", "inet", TABLE)


@pytest.mark.parametrize(
    "words",
    [
        ("delete", "table", "inet", TABLE),
        ("flush", "ruleset"),
        ("flush", "table", "inet", TABLE),
        ("flush", "set", "inet", TABLE, "allow4"),
        ("delete", "chain", "inet", TABLE, "forward"),
    ],
    ids=" ".join,
)
def test_what_a_stranger_takes_away_is_back_at_the_next_renewal(
    net: Routed, agent: Agent, words: tuple[str, ...]
) -> None:
    agent.start(lease=1.5)
    agent.tell(CLIENT[4], SITE[4], seconds=600)
    agent.nft(*words)
    until(lambda: agent.counter("pin_restored") == 1 and net.refused_at_once("client", OTHER[4]))
    assert net.reaches("client", SITE[4])


def test_a_table_that_is_gone_is_back_with_the_next_answer(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4])
    agent.nft("delete", "table", "inet", TABLE)
    assert agent.tell(CLIENT[4], OTHER[4])
    assert net.reaches("client", SITE[4])
    assert net.reaches("client", OTHER[4])
    assert net.refused_at_once("guest", OTHER[4])


@pytest.mark.parametrize("modern", [True, False], ids=["renews in place", "before Linux 6.12"])
def test_the_table_renews_and_says_what_finds_no_room(
    net: Routed, monkeypatch: pytest.MonkeyPatch, *, modern: bool
) -> None:
    if not modern:
        monkeypatch.setattr(PinTable, "_probe", lambda _: False)
    keys = [ipaddress.ip_address(CLIENT[4]).packed + bytes((91, 66, 1, number)) for number in range(5)]
    with net.at("router"):
        table = PinTable([OFFICE], log_group=7, enforce=True, capacity=4)  # one of which is the sentinel
        table.prepare()
    try:
        assert table.put([Put("allow4", key, 60.0) for key in keys[:2]]) == []
        full = table.put([Put("allow4", keys[0], 600.0, renews=True), *[Put("allow4", key, 60.0) for key in keys[1:]]])
        assert [put.key for put in full] == keys[3:]
        assert {put.key: put.seconds > 60 for put in table.present()} == {
            keys[0]: True, keys[1]: False, keys[2]: False,
        }  # fmt: skip
        assert 500 < max(put.seconds for put in table.present()) <= 600
        table.put([Put("allow4", keys[0], 30.0, renews=True)])
        assert min(put.seconds for put in table.present()) <= 30
        table.check()
        for _ in range(2):
            table.hold(50.0)
            assert table.is_alive()
        table.free()
        assert not table.is_alive()
        table.withdraw()
        table.withdraw()
        assert table.present() == []
        with pytest.raises(Absent):
            table.put([Put("allow4", keys[0], 60.0)])
        with pytest.raises(Absent):
            table.check()
    finally:
        table.withdraw()
        table.close()


def test_a_hundred_thousand_are_open_and_taken_over(net: Routed, agent: Agent) -> None:
    with net.at("router"):
        table = PinTable([OFFICE], log_group=7, enforce=True)
        table.prepare()
    client = ipaddress.ip_address(GUEST[4]).packed
    table.put([Put("allow4", client + bytes((92, *number.to_bytes(3, "big"))), 600.0) for number in range(100_000)])
    table.hold(60.0)
    table.close()
    agent.start(settling=600.0)
    assert agent.counter("pin_open") == 100_000
    assert agent.tell(CLIENT[4], SITE[4])
    assert net.reaches("client", SITE[4])


def test_panic_frees_clients_and_its_end_holds_them(net: Routed, agent: Agent) -> None:
    server = agent.start()
    assert net.refused_at_once("client", SITE[4])
    took: list[float] = []
    while len(took) < 6 and (not took or max(took[-2:]) > LOOK + 2):  # the best of three: others use the machine too
        for on, is_so in ((True, net.reaches), (False, net.refused_at_once)):
            begun = time.monotonic()
            server.panic(on=on)
            until(lambda is_so=is_so: is_so("client", SITE[4]))  # type: ignore[misc]
            took.append(time.monotonic() - begun)
            until(lambda on=on: server.holding is not on)  # type: ignore[misc]
    assert min(took[::2]) < LOOK + 2
    assert min(took[1::2]) < LOOK + 2


def test_blocks_come_first_and_go_without_the_pins(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4])
    with net.at("router"):
        blocks = Nftables(log_group=7)
        blocks.prepare()
    blocks.apply(add=[Lease(Target(SITE[4]), 60)])
    assert net.refused_at_once("client", SITE[4])
    assert net.refused_at_once("free", SITE[4])
    blocks.withdraw()
    blocks.close()
    assert net.reaches("client", SITE[4])
    assert net.refused_at_once("client", OTHER[4])


def test_without_pins_what_is_left_of_them_goes(net: Routed, agent: Agent) -> None:
    agent.start()
    agent.stop()
    assert TABLE in agent.nft("list", "tables")
    with net.at("router"):
        agent.server = PinServer(agent.config())
        agent.server.start(lambda _: None)
    until(lambda: TABLE not in agent.nft("list", "tables"))
    assert agent.server.trouble == ""


def test_what_is_no_message_ends_the_connection_and_the_next_is_heard(agent: Agent) -> None:
    server = agent.start()
    assert agent.line is not None
    agent.line.send(b"\xc1nonsense")
    assert agent.line.recv(MAX_PACKET) == b""
    assert agent.counter("pin_malformed") == 1
    again = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    again.settimeout(PATIENCE)
    again.connect(str(path_of(agent.config(OFFICE))))
    again.send(encode(Told(1, bytes(4), 1, ())))
    assert list(unpack(again.recv(MAX_PACKET))) == [(1, True)]
    again.close()
    assert server.trouble == ""


def test_a_stranger_is_not_heard(agent: Agent) -> None:
    agent.start()
    agent.folder.chmod(0o755)
    path = str(path_of(agent.config(OFFICE)))
    for parent in agent.folder.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(0o755)
    script = (
        "import os,socket,sys;os.setgid(65534);os.setuid(65534);"
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET);s.settimeout(60);s.connect(sys.argv[1]);"
        "sys.exit(0 if s.recv(9)==b'' else 1)"
    )
    done = subprocess.run(["python3", "-c", script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert agent.counter("pin_strangers") == 1


def test_a_client_no_pin_names_opens_nothing(agent: Agent) -> None:
    agent.start()
    assert agent.tell(FREE[4], SITE[4])
    assert agent.counter("pin_opened") == 0


async def test_by_name_works_from_the_first_packet(
    net: Routed, agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real worker's side before a scripted upstream: when the reply is there, the way is open."""
    monkeypatch.setattr(pinning_module, "PATIENCE", 60.0)  # the agent shares this process and a busy machine
    agent.start()
    scene = Scene(tmp_path)
    pinning = Pinning(path_of(agent.config(OFFICE)), [OFFICE], clock=lambda: scene.now)
    pinning.start(asyncio.get_running_loop())
    scene.clients = Clients(scene.policy, scene.pipeline.limits, ["10.0.0.0/8"], pinning=pinning)
    scene.upstream.records["site.example", "A"] = [f"site.example. 60 A {SITE[4]}"]
    for _ in range(2):  # from upstream, then from the cache in the second half of its life
        assert net.refused_at_once("client", OTHER[4])
        came = asyncio.Event()
        peer = _Waiting(came)
        packet = bytes(dns.message.make_query("site.example", "A").to_wire())
        who = scene.clients.meet(ipaddress.ip_address(CLIENT[4]).packed)
        assert scene.pipeline.handle(packet, who, peer) is None
        await came.wait()
        assert net.reaches("client", SITE[4])
        scene.later(40)
    assert pinning.counters()["pin_acknowledged"] == 2
    assert len(scene.upstream.asked) == 1
    pinning.stop()
    scene.close()


class _Waiting(Peer):
    def __init__(self, came: asyncio.Event) -> None:
        super().__init__()
        self._came = came

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        super().deliver(identity, body)
        self._came.set()
