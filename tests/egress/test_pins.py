"""Pins on the real nftables: two pinned clients, a router that holds the table, a server; all in namespaces of ours."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import ipaddress
import os
import re
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import dns.message
import pytest
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
from resolver.clients import Clients
from resolver.pinning import Pinning

PORT = 4444
SITE = {4: "91.66.0.80", 6: "2a01:66::80"}
OTHER = {4: "91.66.0.81", 6: "2a01:66::81"}  # another address of the same server
CLIENT = {4: "10.20.1.2", 6: "fd20:1::2"}
GUEST = {4: "10.20.2.2", 6: "fd20:2::2"}
FREE = {4: "10.20.3.2", 6: "fd20:3::2"}
AT_ONCE = 1.0  # seconds; a dropped packet would take the whole patience
PATIENCE = 10.0
OFFICE = Pin(
    name="office",
    clients=("10.20.1.0/24", "10.20.2.0/24", "fd20:1::/64", "fd20:2::/64"),
    mode="enforce",
    exempt=("91.66.0.90/32",),
)
EXEMPT = "91.66.0.90"


def _reason_to_skip() -> str:
    if os.geteuid():
        return "needs root"
    for binary in ("nft", "ip"):
        if shutil.which(binary) is None:
            return f"{binary} is missing (packages nftables, iproute2)"
    if subprocess.run(["unshare", "--net", "nft", "list", "tables"], capture_output=True).returncode:
        return "no network namespace with nftables can be made here"
    return ""


_SKIPPED = _reason_to_skip()
pytestmark = pytest.mark.skipif(bool(_SKIPPED), reason=_SKIPPED)


def _run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Net:
    """Namespaces client, guest and free behind a router, and a server, named after one tag."""

    def __init__(self) -> None:
        self.tag = f"pn{uuid.uuid4().hex[:6]}"
        self.made: list[str] = []

    def build(self) -> None:
        for name in ("client", "guest", "free", "router", "server"):
            _run("ip", "netns", "add", self.name(name))
            self.made.append(name)
            _run("ip", "-n", self.name(name), "link", "set", "lo", "up")
        self.inside("router", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        for number, name in enumerate(("client", "guest", "free"), 1):
            self.wire(name, f"10.20.{number}.", f"fd20:{number}::")
        self.wire("server", "91.66.0.", "2a01:66::")
        for address in (*SITE.values(), *OTHER.values(), EXEMPT):
            more = ("/64", "nodad") if ":" in address else ("/24",)
            where = ("dev", "eth0", *more[1:])
            _run("ip", "-n", self.name("server"), "address", "add", address + more[0], *where)

    def wire(self, name: str, four: str, six: str) -> None:
        here, there = self.name(name), self.name("router")
        end = f"to-{name}"
        _run("ip", "link", "add", end, "netns", there, "type", "veth", "peer", "name", "eth0", "netns", here)
        for space, device, number in ((there, end, "1"), (here, "eth0", "2")):
            _run("ip", "-n", space, "address", "add", f"{four}{number}/24", "dev", device)
            _run("ip", "-n", space, "address", "add", f"{six}{number}/64", "dev", device, "nodad")
            _run("ip", "-n", space, "link", "set", device, "up")
        _run("ip", "-n", here, "route", "add", "default", "via", f"{four}1")
        _run("ip", "-n", here, "-6", "route", "add", "default", "via", f"{six}1")

    def name(self, short: str) -> str:
        return f"{self.tag}-{short}"

    def inside(self, short: str, *command: str) -> str:
        return _run("ip", "netns", "exec", self.name(short), *command)

    def remove(self) -> None:
        for name in self.made:
            _run("ip", "netns", "delete", self.name(name))

    @contextlib.contextmanager
    def at(self, short: str) -> Iterator[None]:
        """What this thread opens or starts meanwhile belongs to the namespace."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(Path("/run/netns") / self.name(short), os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(there)
            os.close(home)

    def connect(self, short: str, address: str) -> socket.socket:
        with self.at(short):
            return socket.create_connection((address, PORT), timeout=PATIENCE)


def _enter(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


def _echo(listener: socket.socket) -> None:
    while True:
        try:
            peer, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_echo_one, args=(peer,), daemon=True).start()


def _echo_one(peer: socket.socket) -> None:
    with peer, contextlib.suppress(OSError):
        while data := peer.recv(65536):
            peer.sendall(data)


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    net = Net()
    listener = None
    try:
        net.build()
        with net.at("server"):
            listener = socket.create_server(("::", PORT), family=socket.AF_INET6, dualstack_ipv6=True)
        threading.Thread(target=_echo, args=(listener,), daemon=True).start()
        yield net
    finally:
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        net.remove()


class Agent:
    """A pin server on the router, and what a worker would tell it."""

    def __init__(self, net: Net, folder: Path) -> None:
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
        until(path_of(config).exists)
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
def agent(net: Net, tmp_path: Path) -> Iterator[Agent]:
    made = Agent(net, tmp_path)
    yield made
    made.stop()
    net.inside("router", "nft", "flush", "ruleset")


def until(holds: Callable[[], object], seconds: float = PATIENCE) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def echoes(connection: socket.socket, seconds: float = PATIENCE) -> bool:
    connection.settimeout(seconds)
    try:
        connection.sendall(b"ping")
        return connection.recv(65536) != b""
    except OSError:
        return False


def refused_at_once(net: Net, short: str, address: str) -> bool:
    begun = time.monotonic()
    try:
        net.connect(short, address).close()
    except (ConnectionRefusedError, PermissionError):
        return time.monotonic() - begun < AT_ONCE
    return False


def reaches(net: Net, short: str, address: str) -> bool:
    try:
        with net.connect(short, address) as connection:
            return echoes(connection)
    except OSError:
        return False


@pytest.mark.parametrize("family", [4, 6])
def test_what_was_answered_is_open_to_who_was_answered_and_nothing_else(net: Net, agent: Agent, family: int) -> None:
    agent.start()
    assert refused_at_once(net, "client", SITE[family])
    assert agent.tell(CLIENT[family], SITE[family])
    assert reaches(net, "client", SITE[family])
    assert refused_at_once(net, "client", OTHER[family])  # a literal address nobody was answered
    assert refused_at_once(net, "guest", SITE[family])  # one that somebody else was answered
    assert reaches(net, "free", OTHER[family])  # a client no pin names
    assert agent.counter("pin_opened") == 1


def test_networks_that_are_exempt_are_open(net: Net, agent: Agent) -> None:
    agent.start()
    assert reaches(net, "client", EXEMPT)


@pytest.mark.parametrize("family", [4, 6])
def test_a_running_flow_survives_the_end_of_its_address(net: Net, agent: Agent, family: int) -> None:
    agent.start()
    agent.tell(CLIENT[family], SITE[family], seconds=1)
    with net.connect("client", SITE[family]) as running:
        assert echoes(running)
        until(lambda: refused_at_once(net, "client", SITE[family]))
        assert echoes(running)


def test_an_address_of_the_other_family_is_open_to_all_clients_of_the_pin(net: Net, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[6])
    assert reaches(net, "client", SITE[6])
    assert reaches(net, "guest", SITE[6])
    assert refused_at_once(net, "client", OTHER[6])


def test_an_answer_lengthens_and_never_shortens(net: Net, agent: Agent) -> None:
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
    until(lambda: left(agent) < 100)
    until(lambda: agent.tell(CLIENT[4], SITE[4], seconds=100) and left(agent) >= 100)


def left(agent: Agent) -> int:
    """The seconds the kernel gives the only element."""
    text = agent.nft("-j", "list", "set", "inet", TABLE, "allow4")
    return int(text.split('"expires": ')[1].split("}")[0])


@pytest.mark.parametrize("mode", ["observe", "dry-run"])
def test_what_only_records_refuses_nothing_and_is_told(net: Net, agent: Agent, mode: str) -> None:
    seen: list[Report] = []
    hearing = Attempts("router", lambda _: False, group=7)
    with net.at("router"):
        hearing.start(seen.append)
    agent.start(mode=mode)
    until(lambda: reaches(net, "client", SITE[4]) and any(isinstance(event, Attempt) for event in seen))
    hearing.stop()
    attempt = next(event for event in seen if isinstance(event, Attempt))
    assert (attempt.rule, attempt.port) == ("pin", PORT)
    assert attempt.address == ipaddress.ip_address(SITE[4]).packed
    assert attempt.client == ipaddress.ip_address(CLIENT[4]).packed


def test_a_pin_that_records_beside_one_that_enforces(net: Net, agent: Agent) -> None:
    recorded = Pin(name="guests", clients=("10.20.2.0/24",))
    enforced = Pin(name="clients", clients=("10.20.0.0/16",), mode="enforce")
    agent.start(recorded, enforced)
    assert reaches(net, "guest", SITE[4])
    assert refused_at_once(net, "client", SITE[4])
    assert refused_at_once(net, "free", SITE[4])


def test_what_is_refused_is_told_as_an_attempt(net: Net, agent: Agent) -> None:
    seen: list[Report] = []
    hearing = Attempts("router", lambda _: False, group=7)
    with net.at("router"):
        hearing.start(seen.append)
    agent.start()
    until(lambda: refused_at_once(net, "client", SITE[4]) and seen)
    hearing.stop()
    assert {event.rule for event in seen if isinstance(event, Attempt)} == {"pin"}


def test_an_agent_that_dies_frees_clients_and_its_successor_lets_them_settle(net: Net, agent: Agent) -> None:
    server = agent.start(lease=1.5)
    assert refused_at_once(net, "client", SITE[4])
    agent.stop()
    assert refused_at_once(net, "client", SITE[4])  # held for what is left of the lease
    until(lambda: reaches(net, "client", SITE[4]))
    assert server.trouble == ""
    server = agent.start(lease=1.5, settling=1.0)
    assert not server.holding
    assert reaches(net, "client", SITE[4])
    until(lambda: refused_at_once(net, "client", SITE[4]))
    assert server.holding


def test_pins_that_die_closed_hold_clients_until_another_agent_says_otherwise(net: Net, agent: Agent) -> None:
    agent.start(lease=0.3, dies="closed")
    assert refused_at_once(net, "client", SITE[4])
    agent.stop()
    time.sleep(0.6)  # two leases of the kernel's time
    assert refused_at_once(net, "client", SITE[4])
    agent.start(lease=1.0)
    agent.stop()
    until(lambda: reaches(net, "client", SITE[4]))


def test_a_lease_is_renewed(net: Net, agent: Agent) -> None:
    agent.start(lease=3.0)
    readings: list[int] = []

    def grew() -> bool:
        readings.append(held_for(agent))
        return len(readings) > 1 and readings[-1] > readings[-2]

    until(grew)
    assert refused_at_once(net, "client", SITE[4])


def held_for(agent: Agent) -> int:
    """Milliseconds the kernel holds clients from now on; it writes them as 1s234ms."""
    found = re.search(r"ipv4 timeout \w+ expires (?:(\d+)s)?(?:(\d+)ms)?", agent.nft("list", "table", "inet", TABLE))
    assert found is not None, agent.nft("list", "table", "inet", TABLE)
    return 1000 * int(found[1] or 0) + int(found[2] or 0)


def test_a_successor_knows_what_is_open_and_holds_at_once(net: Net, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4], seconds=600)
    agent.stop()
    server = agent.start(Pin(name="new", clients=("10.20.0.0/16",), mode="enforce"), settling=600.0)
    assert server.holding
    assert reaches(net, "client", SITE[4])
    assert refused_at_once(net, "client", OTHER[4])
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
def test_what_a_stranger_takes_away_is_back_at_the_next_renewal(net: Net, agent: Agent, words: tuple[str, ...]) -> None:
    agent.start(lease=1.5)
    agent.tell(CLIENT[4], SITE[4], seconds=600)
    agent.nft(*words)
    until(lambda: agent.counter("pin_restored") == 1 and refused_at_once(net, "client", OTHER[4]))
    assert reaches(net, "client", SITE[4])


def test_a_table_that_is_gone_is_back_with_the_next_answer(net: Net, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4])
    agent.nft("delete", "table", "inet", TABLE)
    assert agent.tell(CLIENT[4], OTHER[4])
    assert reaches(net, "client", SITE[4])
    assert reaches(net, "client", OTHER[4])
    assert refused_at_once(net, "guest", OTHER[4])


@pytest.mark.parametrize("modern", [True, False], ids=["renews in place", "before Linux 6.12"])
def test_the_table_renews_and_says_what_finds_no_room(
    net: Net, monkeypatch: pytest.MonkeyPatch, *, modern: bool
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
        assert {put.key: round(put.seconds, -1) for put in table.present()} == {
            keys[0]: 600, keys[1]: 60, keys[2]: 60,
        }  # fmt: skip
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


def test_a_hundred_thousand_are_open_and_taken_over(net: Net, agent: Agent) -> None:
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
    assert reaches(net, "client", SITE[4])


def test_panic_frees_clients_and_its_end_holds_them(net: Net, agent: Agent) -> None:
    server = agent.start()
    assert refused_at_once(net, "client", SITE[4])
    server.panic(on=True)
    until(lambda: reaches(net, "client", SITE[4]), LOOK + 2)
    assert not server.holding
    server.panic(on=False)
    until(lambda: refused_at_once(net, "client", SITE[4]), LOOK + 2)


def test_blocks_come_first_and_go_without_the_pins(net: Net, agent: Agent) -> None:
    agent.start()
    agent.tell(CLIENT[4], SITE[4])
    with net.at("router"):
        blocks = Nftables(log_group=7)
        blocks.prepare()
    blocks.apply(add=[Lease(Target(SITE[4]), 60)])
    assert refused_at_once(net, "client", SITE[4])
    assert refused_at_once(net, "free", SITE[4])
    blocks.withdraw()
    blocks.close()
    assert reaches(net, "client", SITE[4])
    assert refused_at_once(net, "client", OTHER[4])


def test_without_pins_what_is_left_of_them_goes(net: Net, agent: Agent) -> None:
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
        "s=socket.socket(socket.AF_UNIX,socket.SOCK_SEQPACKET);s.settimeout(5);s.connect(sys.argv[1]);"
        "sys.exit(0 if s.recv(9)==b'' else 1)"
    )
    done = subprocess.run(["python3", "-c", script, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert agent.counter("pin_strangers") == 1


def test_a_client_no_pin_names_opens_nothing(agent: Agent) -> None:
    agent.start()
    assert agent.tell(FREE[4], SITE[4])
    assert agent.counter("pin_opened") == 0


async def test_by_name_works_from_the_first_packet(net: Net, agent: Agent, tmp_path: Path) -> None:
    """The real worker's side before a scripted upstream: when the reply is there, the way is open."""
    agent.start()
    scene = Scene(tmp_path)
    pinning = Pinning(path_of(agent.config(OFFICE)), [OFFICE], clock=lambda: scene.now)
    pinning.start(asyncio.get_running_loop())
    scene.clients = Clients(scene.policy, scene.pipeline.limits, ["10.0.0.0/8"], pinning=pinning)
    scene.upstream.records["site.example", "A"] = [f"site.example. 60 A {SITE[4]}"]
    for _ in range(2):  # from upstream, then from the cache in the second half of its life
        assert refused_at_once(net, "client", OTHER[4])
        came = asyncio.Event()
        peer = _Waiting(came)
        packet = bytes(dns.message.make_query("site.example", "A").to_wire())
        who = scene.clients.meet(ipaddress.ip_address(CLIENT[4]).packed)
        assert scene.pipeline.handle(packet, who, peer) is None
        await came.wait()
        assert reaches(net, "client", SITE[4])
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
