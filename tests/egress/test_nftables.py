"""The adapter on the real nftables: two clients, a router that holds the table, a server; all in namespaces of ours."""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from egress.enforcer import Absent, Enforcer, Lease, Target
from egress.nftables import Nftables

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PORT = 4444
C2 = {4: "91.66.0.80", 6: "2a01:66::80"}  # the server also has .81, a neighbour that is never blocked
NEIGHBOUR = {4: "91.66.0.81", 6: "2a01:66::81"}
CLIENT = {4: "10.20.1.2", 6: "fd20:1::2"}
GUEST = {4: "10.20.2.2", 6: "fd20:2::2"}
AT_ONCE = 1.0  # seconds; a dropped packet would take the whole patience
PATIENCE = 5.0
FOREIGN = """
table inet office {
  set hosts { type ipv4_addr; flags timeout; elements = { 10.9.9.9 timeout 1d } }
  chain forward { type filter hook forward priority 0; policy accept; ct state established,related accept; }
}
"""


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


def _run(*command: str, text: str | None = None) -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


class Net:
    """Namespaces client, guest, router and server, named after one tag."""

    def __init__(self) -> None:
        self.tag = f"ph{uuid.uuid4().hex[:6]}"
        self.made: list[str] = []

    def build(self) -> None:
        for name in ("client", "guest", "router", "server"):
            self.ip("netns", "add", self.name(name))
            self.made.append(name)
            self.ip("-n", self.name(name), "link", "set", "lo", "up")
        self.inside("router", "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.wire("client", "10.20.1.", "fd20:1::")
        self.wire("guest", "10.20.2.", "fd20:2::")
        self.wire("server", "91.66.0.", "2a01:66::")
        for address in (f"{C2[4]}/24", f"{NEIGHBOUR[4]}/24", f"{C2[6]}/64", f"{NEIGHBOUR[6]}/64"):
            self.ip("-n", self.name("server"), "address", "add", address, "dev", "eth0", *["nodad"] * (":" in address))
        self.inside("router", "nft", "-f", "-", text=FOREIGN)

    def wire(self, name: str, four: str, six: str) -> None:
        here, there = self.name(name), self.name("router")
        end = f"to-{name}"
        self.ip("link", "add", end, "netns", there, "type", "veth", "peer", "name", "eth0", "netns", here)
        for space, device, number in ((there, end, "1"), (here, "eth0", "2")):
            self.ip("-n", space, "address", "add", f"{four}{number}/24", "dev", device)
            self.ip("-n", space, "address", "add", f"{six}{number}/64", "dev", device, "nodad")
            self.ip("-n", space, "link", "set", device, "up")
        self.ip("-n", here, "route", "add", "default", "via", f"{four}1")
        self.ip("-n", here, "-6", "route", "add", "default", "via", f"{six}1")

    def name(self, short: str) -> str:
        return f"{self.tag}-{short}"

    def ip(self, *arguments: str) -> str:
        return _run("ip", *arguments)

    def inside(self, short: str, *command: str, text: str | None = None) -> str:
        return _run("ip", "netns", "exec", self.name(short), *command, text=text)

    def remove(self) -> None:
        for name in self.made:
            self.ip("netns", "delete", self.name(name))

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


@pytest.fixture
def firewall(net: Net) -> Iterator[Nftables]:
    with net.at("router"):
        made = Nftables()
        made.prepare()
    yield made
    made.withdraw()
    made.close()


def echoes(connection: socket.socket, seconds: float = PATIENCE) -> bool:
    """Whether a word comes back in time; an error of the connection is a no."""
    connection.settimeout(seconds)
    try:
        connection.sendall(b"ping")
        return connection.recv(65536) != b""
    except OSError:
        return False


def refused_at_once(net: Net, short: str, address: str) -> bool:
    begun = time.monotonic()
    with pytest.raises((ConnectionRefusedError, PermissionError)):
        net.connect(short, address)
    return time.monotonic() - begun < AT_ONCE


def reaches(net: Net, short: str, address: str) -> bool:
    with net.connect(short, address) as connection:
        return echoes(connection)


def targets(firewall: Enforcer) -> set[Target]:
    return {standing.target for standing in firewall.present()}


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_by_literal_address_is_refused_at_once(net: Net, firewall: Nftables, family: int) -> None:
    assert reaches(net, "client", C2[family])
    assert firewall.apply(add=[Lease(Target(C2[family]), 60)]).done == 1
    assert refused_at_once(net, "client", C2[family])
    assert reaches(net, "client", NEIGHBOUR[family])
    (standing,) = firewall.present()
    assert standing.target == Target(C2[family])
    assert 50 < standing.seconds <= 60
    assert standing.packets >= 1
    assert standing.octets >= 40
    assert firewall.apply(remove=[Target(C2[family])]).done == 1
    assert reaches(net, "client", C2[family])


@pytest.mark.parametrize("family", [4, 6])
def test_a_running_transfer_stops(net: Net, firewall: Nftables, family: int) -> None:
    with net.connect("client", C2[family]) as running, net.connect("client", NEIGHBOUR[family]) as other:
        assert echoes(running)
        firewall.apply(add=[Lease(Target(C2[family]), 60)])
        assert not echoes(running, 0.5)
        assert echoes(other)


def test_a_pure_download_stops_too(net: Net, firewall: Nftables) -> None:
    with net.connect("client", C2[4]) as running:
        running.sendall(bytes(2_000_000))  # comes back while we read, and we say nothing more
        running.settimeout(PATIENCE)
        assert running.recv(1000)
        firewall.apply(add=[Lease(Target(C2[4]), 60)])
        got, running_on = 1000, True
        running.settimeout(0.5)
        while running_on:
            try:
                data = running.recv(65536)
            except OSError:
                data = b""
            got, running_on = got + len(data), bool(data)
        assert got < 2_000_000 or not echoes(running, 0.5)


@pytest.mark.parametrize("family", [4, 6])
def test_a_pair_cuts_one_client_only(net: Net, firewall: Nftables, family: int) -> None:
    pair = Target(C2[family], CLIENT[family])
    with net.connect("client", C2[family]) as cut, net.connect("guest", C2[family]) as kept:
        firewall.apply(add=[Lease(pair, 60)])
        assert not echoes(cut, 0.5)
        assert echoes(kept)
    assert refused_at_once(net, "client", C2[family])
    assert reaches(net, "guest", C2[family])
    assert reaches(net, "client", NEIGHBOUR[family])
    assert targets(firewall) == {pair}


def test_a_block_runs_out_by_itself(net: Net, firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 0.4)])
    assert refused_at_once(net, "client", C2[4])
    until = time.monotonic() + PATIENCE
    while firewall.present() and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert firewall.present() == []
    assert reaches(net, "client", C2[4])


def test_renewing_for_as_long_as_before_begins_anew(firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 600)])
    time.sleep(0.3)  # the kernel's clock is what is looked at
    (before,) = firewall.present()
    firewall.apply(renew=[Lease(Target(C2[4]), 600)])
    (after,) = firewall.present()
    assert before.seconds < 599.8 < after.seconds <= 600


@pytest.mark.parametrize("in_place", [True, False])
def test_renewing_sets_the_time_anew_both_ways(firewall: Nftables, in_place: bool) -> None:
    if in_place and not firewall._renews_in_place:
        pytest.skip("this kernel does not renew in place (Linux 6.12 does)")
    firewall._renews_in_place = in_place
    firewall.apply(add=[Lease(Target(C2[4]), 60), Lease(Target(C2[6]), 3600)])
    applied = firewall.apply(renew=[Lease(Target(C2[4]), 3600), Lease(Target(C2[6]), 60), Lease(Target("9.9.9.9"), 60)])
    assert applied.done == 3
    left = {standing.target.address: standing.seconds for standing in firewall.present()}
    assert left[C2[4]] == pytest.approx(3600, abs=10)
    assert left[C2[6]] == pytest.approx(60, abs=10)
    assert left["9.9.9.9"] == pytest.approx(60, abs=10)


def test_missing_and_doubled_elements_hold_nothing_up(firewall: Nftables) -> None:
    here = [Target(f"91.1.0.{number}") for number in range(50)]
    missing = [Target(f"91.2.0.{number}") for number in range(50)]
    assert firewall.apply(add=[Lease(target, 60) for target in here + here]).failures == ()
    applied = firewall.apply(remove=[*here[:25], *missing, *here[:25]], add=[Lease(here[40], 60), Lease(here[0], 60)])
    assert applied.failures == ()
    assert targets(firewall) == {here[0], *here[25:]}
    assert applied.done == 76  # of so many different targets
    assert firewall.apply(remove=[Target("2A01:0066:0::80"), Target("2a01:66::80")]).done == 1


def test_many_that_are_gone_already_cost_no_more_than_a_listing(firewall: Nftables) -> None:
    missing = [Target(f"2A01:66:{number >> 8:X}::{number & 255:X}") for number in range(2000)]
    here = [Target(f"2A01:67::{number:X}") for number in range(100)]
    firewall.apply(add=[Lease(target, 60) for target in here])
    begun = time.process_time()
    assert firewall.apply(remove=[*missing, *here]).failures == ()
    assert time.process_time() - begun < AT_ONCE
    assert firewall.present() == []


def test_a_full_set_takes_what_fits_and_says_the_rest(net: Net) -> None:
    with net.at("router"):
        firewall = Nftables(capacity=10)
        firewall.prepare()
    try:
        wanted = [Lease(Target(f"91.1.0.{number}"), 60) for number in range(15)]
        six = Lease(Target(C2[6]), 60)
        applied = firewall.apply(add=[*wanted, six])
        assert [failure.target for failure in applied.failures] == [lease.target for lease in wanted[10:]]
        assert all(failure.full for failure in applied.failures)
        assert targets(firewall) == {six.target, *(lease.target for lease in wanted[:10])}
        swapped = firewall.apply(remove=[lease.target for lease in wanted[:5]], add=wanted[10:])
        assert swapped.failures == ()
        assert targets(firewall) == {six.target, *(lease.target for lease in wanted[5:])}
    finally:
        firewall.withdraw()
        firewall.close()


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table inet plughole", "flush table inet plughole"])
def test_a_strangers_flush_is_seen_and_mended(net: Net, firewall: Nftables, damage: str) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    net.inside("router", "nft", "-f", "-", text=damage)
    with pytest.raises(Absent):
        firewall.present()
    if "table inet" not in damage or "delete" in damage:
        for change in ({"add": [Lease(Target(C2[4]), 60)]}, {"remove": [Target(C2[4])]}):
            with pytest.raises(Absent):
                firewall.apply(**change)
    with net.at("router"):
        firewall.prepare()
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    assert refused_at_once(net, "client", C2[4])
    if damage == "flush ruleset":
        net.inside("router", "nft", "-f", "-", text=FOREIGN)


def test_a_strangers_flush_of_a_set_shows_as_missing_elements(net: Net, firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60), Lease(Target(C2[6]), 60)])
    net.inside("router", "nft", "flush", "set", "inet", "plughole", "block4")
    assert targets(firewall) == {Target(C2[6])}


def test_other_tables_are_as_they_were(net: Net, firewall: Nftables) -> None:
    before = net.inside("router", "nft", "-s", "list", "table", "inet", "office").split("expires")[0]
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    firewall.flush()
    assert firewall.present() == []
    firewall.withdraw()
    firewall.withdraw()  # gone already is no error
    assert net.inside("router", "nft", "-s", "list", "table", "inet", "office").split("expires")[0] == before
    assert net.inside("router", "nft", "list", "tables").split() == ["table", "inet", "office"]


def test_preparing_again_keeps_the_elements(net: Net, firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    with net.at("router"):
        firewall.prepare()
        second = Nftables()
    assert targets(second) == {Target(C2[4])}
    second.close()
    assert refused_at_once(net, "client", C2[4])


def test_counting_stops_nothing(net: Net) -> None:
    with net.at("router"):
        firewall = Nftables(act="count")
        firewall.prepare()
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    assert reaches(net, "client", C2[4])
    (standing,) = firewall.present()
    assert standing.packets >= 3
    firewall.withdraw()
    firewall.close()


def test_many_go_in_one_change(firewall: Nftables) -> None:
    wanted = {Target(f"91.1.{number >> 8}.{number & 255}") for number in range(5000)}
    wanted |= {Target(f"2a01:66::{number:x}", f"fd20::{number:x}") for number in range(1, 5000)}
    assert firewall.apply(add=[Lease(target, 600) for target in wanted]).failures == ()
    assert targets(firewall) == wanted


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_block_without_an_end_is_refused(firewall: Nftables, seconds: float) -> None:
    with pytest.raises(ValueError, match="must end"):
        firewall.apply(add=[Lease(Target(C2[4]), seconds)])
    assert firewall.present() == []


def test_without_the_right_to_it_nothing_is_done(net: Net) -> None:
    script = (
        "import os, socket, subprocess\n"
        "from egress.enforcer import Lease, Refused, Target\n"
        "from egress.nftables import Nftables\n"
        "os.setgid(65534); os.setuid(65534)\n"  # after the imports: the checkout may be readable by root only
        "try:\n    Nftables().apply(add=[Lease(Target('91.66.0.80'), 60)])\n"
        "except Refused as fault:\n    print(fault)\n"
    )
    assert "not permitted" in net.inside("router", sys.executable, "-c", script)
