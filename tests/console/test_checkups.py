"""Each check of `plughole doctor` on made-up trees and calls, and a port that a real process holds."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dns.flags
import dns.message
import dns.rdatatype
import dns.rrset
import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisAway

from console.checkups import ALL, Check, Finding, Host, System
from console.checkups.access import loop, open_resolver, resolv_conf
from console.checkups.calls import Disk, User, bind
from console.checkups.clock import clock
from console.checkups.machine import buffers, descriptors, libraries, overflow, workers
from console.checkups.outside import ROOTS, upstream
from console.checkups.ports import ports
from console.checkups.rights import data_dir, privileges
from console.checkups.running import node
from console.checkups.stores import disk, feeds, redis
from core.config import Config, Feeds, Limits, Server, Source, Upstream, Zone
from core.errors import Unavailable
from feeds import snapshot

NOW = 1_800_000_000.0
ROOT_USER = User("root", 0, frozenset({0}))
SERVICE = User("plughole", 990, frozenset({990}))
HOLD = """
import socket, sys, time
sock = socket.socket(socket.AF_INET6 if sys.argv[1] == "6" else socket.AF_INET, socket.SOCK_DGRAM)
sock.bind(("::" if sys.argv[1] == "6" else "127.0.0.1", 0))
print(sock.getsockname()[1], flush=True)
sys.stdin.read()
"""


def reply(name: str, rdtype: str, *, signed: bool = False, address: str = "127.0.0.1") -> dns.message.Message:
    answer = dns.message.make_response(dns.message.make_query(name, rdtype))
    if rdtype == "A":
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "A", address))
    if signed:
        text = f"{rdtype} 8 0 60 20300101000000 20200101000000 1 . AAAA"
        answer.answer.append(dns.rrset.from_text(name, 60, "IN", "RRSIG", text))
    return answer


class Fake:
    """A Redis that says what the test wants."""

    def __init__(self, *, policy: str = "noeviction", append: str = "yes", at: float = NOW, away: bool = False) -> None:
        self.settings = {"maxmemory-policy": policy, "appendonly": append}
        self.at, self.away = at, away

    def time(self) -> tuple[int, int]:
        if self.away:
            raise RedisAway("redis://u:secret@host is away")
        return int(self.at), 0

    def info(self, _section: str) -> dict[str, str]:
        self.time()
        return {"redis_version": "7.0.1"}

    def config_get(self, key: str) -> dict[str, str]:
        return {key: self.settings[key]}

    def close(self) -> None:
        pass


def nothing(*_args: Any, **_keys: Any) -> Any:
    raise Unavailable("not to be asked")


FAKES: dict[str, Any] = {
    "ask": nothing, "connect": nothing, "bind": lambda *_: 0, "status": lambda _: None, "redis": lambda _: None,
    "libraries": lambda: "libunbound 1, libevent 2", "disk": lambda _: Disk(10**12, 10**6, read_only=False),
    "open_files": lambda: 65_536, "cores": lambda: 2, "me": lambda: ROOT_USER,
    "user": {"plughole": SERVICE, "root": ROOT_USER}.get, "interpreter_may_bind": lambda: False,
    "unsynchronised": lambda: False, "now": lambda: NOW, "pause": lambda _: None,
}  # fmt: skip


def host(folder: Path, *, files: dict[str, str] | None = None, config: Config | None = None, **calls: Any) -> Host:
    """A host made up of these files and calls, whose data folder is `folder`/var."""
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Host(msgspec.structs.replace(config or Config(), base=str(folder)), folder, System(**{**FAKES, **calls}))


def listening(*listen: str, **keys: Any) -> Server:
    return Server(listen=listen, **keys)


def states(check: Check, on: Host) -> list[str]:
    return [one.state for one in check(on)]


def test_an_empty_host_breaks_no_check_but_by_a_missing_file(tmp_path: Path) -> None:
    here = host(tmp_path)
    for check in ALL:
        try:
            list(check(here))
        except FileNotFoundError as error:
            assert str(error.filename).endswith("snmp")


@pytest.fixture(params=["4", "6"])
def held(request: pytest.FixtureRequest) -> Iterator[tuple[int, int]]:
    """The port and the pid of a child that holds it, by IPv6 for both families."""
    command = [sys.executable, "-c", HOLD, request.param]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        line = child.stdout.readline()
        if not line:
            pytest.skip("no IPv6 on this machine")
        yield int(line), child.pid
        child.communicate()


def test_the_process_that_holds_a_port_is_named(tmp_path: Path, held: tuple[int, int]) -> None:
    port, pid = held
    here = replace(host(tmp_path, bind=bind, config=Config(server=listening(f"127.0.0.1:{port}"))), root=Path("/"))
    (taken,) = ports(here)
    assert taken.state == "fail"
    assert f"(pid {pid})" in taken.seen
    assert str(pid) in taken.cure


UDP = "head\n 1: 3500007F:0035 00000000:0000 07 0:0 0:0 0 101 0 777 2\n"


@pytest.mark.parametrize(
    ("name", "cure"), [("systemd-resolve", "DNSStubListener=no"), ("dnsmasq", "systemctl disable --now dnsmasq")]
)
def test_known_holders_have_their_own_cure(tmp_path: Path, name: str, cure: str) -> None:
    here = host(
        tmp_path,
        files={"proc/net/udp": UDP, "proc/612/comm": f"{name}\n"},
        config=Config(server=listening("0.0.0.0:53")),
    )
    (tmp_path / "proc/612/fd").mkdir()
    (tmp_path / "proc/612/fd/3").symlink_to("socket:[777]")
    (taken,) = ports(here)
    assert taken.seen == f"0.0.0.0:53 is taken by {name} (pid 612)"
    assert cure in taken.cure
    ours = replace(here, system=replace(here.system, status=lambda _: {"hub": {"pid": 612}, "workers": []}))
    assert [one.seen for one in ports(ours)] == ["0.0.0.0:53 is held by plughole"]


def test_an_address_of_another_host_is_no_place_to_listen(tmp_path: Path) -> None:
    config = Config(server=listening("192.0.2.9:53"))
    (seen,) = ports(host(tmp_path, config=config, bind=lambda *_: errno.EADDRNOTAVAIL))
    assert (seen.state, seen.seen) == ("fail", "192.0.2.9:53 is no address of this host")


@pytest.mark.parametrize(
    ("listen", "allow", "limits", "state"),
    [
        ("0.0.0.0:53", "0.0.0.0/0", Limits(queries_per_second=0), "fail"),
        ("[::]:53", "::/0", Limits(queries_per_second=0), "fail"),
        ("0.0.0.0:53", "198.51.100.0/24", Limits(), "warn"),
        ("0.0.0.0:53", "0.0.0.0/0", Limits(responses_per_second=5), "ok"),
        ("0.0.0.0:53", "0.0.0.0/0", Limits(responses_per_second=5, exempt=("198.51.0.0/16",)), "fail"),
        ("0.0.0.0:53", "10.1.0.0/16", Limits(queries_per_second=0), "ok"),
        ("127.0.0.1:53", "0.0.0.0/0", Limits(queries_per_second=0), "ok"),
    ],
)
def test_open_resolver(tmp_path: Path, listen: str, allow: str, limits: Limits, state: str) -> None:
    config = Config(server=listening(listen, allow_from=(allow,)), limits=limits)
    assert states(open_resolver, host(tmp_path, config=config)) == [state]


@pytest.mark.parametrize(("address", "state"), [("127.0.0.53", "warn"), ("192.0.2.1", "ok")])
def test_resolv_conf(tmp_path: Path, address: str, state: str) -> None:
    assert states(resolv_conf, host(tmp_path, files={"etc/resolv.conf": f"# x\nnameserver {address}\n"})) == [state]


FIB = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 192.0.2.7\n        /32 host LOCAL\n"
INET6 = "20010db8000000000000000000000007 02 40 00 80 eth0\n"


@pytest.mark.parametrize(
    ("listen", "server", "state"),
    [
        ("127.0.0.1:5353", "127.0.0.1@5353", "fail"),
        ("0.0.0.0:53", "192.0.2.7", "fail"),
        ("0.0.0.0:53", "127.0.0.9", "fail"),
        ("[::]:53", "2001:db8::7", "fail"),
        ("0.0.0.0:53", "192.0.2.8", "ok"),
        ("0.0.0.0:53", "192.0.2.7@5300", "ok"),
        ("[::]:53", "192.0.2.7", "ok"),
    ],
)
@pytest.mark.parametrize("zone", [False, True])
def test_loop(tmp_path: Path, listen: str, server: str, state: str, *, zone: bool) -> None:
    ask = Upstream(zone=(Zone("corp.example", (server,)),)) if zone else Upstream(mode="forward", servers=(server,))
    files = {"proc/net/fib_trie": FIB, "proc/net/if_inet6": INET6}
    assert states(loop, host(tmp_path, files=files, config=Config(server=listening(listen), upstream=ask))) == [state]


@pytest.mark.parametrize(
    ("rtc", "calls", "wanted"),
    [
        (NOW, {}, ["ok"]),
        (NOW - 3_600, {}, ["warn"]),
        (NOW, {"unsynchronised": lambda: True}, ["warn"]),
        (NOW, {"redis": lambda _: Fake(at=NOW - 30)}, ["fail"]),
        (NOW, {"redis": lambda _: Fake(at=NOW + 1)}, ["ok"]),
        (NOW, {"redis": lambda _: Fake(away=True)}, ["ok"]),
    ],
)
def test_clock(tmp_path: Path, rtc: float, calls: dict[str, Any], wanted: list[str]) -> None:
    files = {"sys/class/rtc/rtc0/since_epoch": f"{int(rtc)}\n"}
    assert states(clock, host(tmp_path, files=files, **calls)) == wanted


@pytest.mark.parametrize(
    ("fake", "url", "wanted"),
    [
        (Fake(), "embedded", ["ok"]),
        (Fake(policy="allkeys-lru"), "redis://192.0.2.1/0", ["ok", "fail"]),
        (Fake(append="no"), "embedded", ["ok", "fail"]),
        (Fake(append="no"), "redis://192.0.2.1/0", ["ok"]),
        (Fake(away=True), "redis://192.0.2.1/0", ["fail"]),
        (None, "embedded", ["ok"]),
    ],
)
def test_redis(tmp_path: Path, fake: Fake | None, url: str, wanted: list[str]) -> None:
    config = msgspec.structs.replace(Config(), redis=msgspec.structs.replace(Config().redis, url=url))
    assert states(redis, host(tmp_path, config=config, redis=lambda _: fake)) == wanted


@pytest.mark.parametrize(
    ("url", "days", "state"),
    [("https://feed.example/x", 1.9, "ok"), ("https://feed.example/x", 2.1, "warn"), ("file:x.txt", 90.0, "ok"),
     ("https://feed.example/x", None, "warn")],
)  # fmt: skip
def test_stale_feeds(tmp_path: Path, url: str, days: float | None, state: str) -> None:
    here = host(tmp_path, config=Config(feeds=Feeds(source=(Source("one", url), Source("two", url, mode="off")))))
    if days is not None:
        kept = snapshot.State("ab" * 32, "origin", 1, NOW - days * 86_400)
        snapshot.save(here.config.data_dir / "feeds" / "one", kept, b"x")
    assert states(feeds, here) == [state]


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (Disk(10**12, None, read_only=False), ["ok"]),
        (Disk(10**6, 10**6, read_only=False), ["warn"]),
        (Disk(10**12, 5, read_only=False), ["ok", "fail"]),
        (Disk(10**12, 10**6, read_only=True), ["fail", "ok"]),
    ],
)
def test_disk(tmp_path: Path, found: Disk, wanted: list[str]) -> None:
    assert states(disk, host(tmp_path, disk=lambda _: found)) == wanted


UNIT = "etc/systemd/system/plughole.service"
CAPABLE = "[Service]\nUser=plughole\nAmbientCapabilities=CAP_NET_BIND_SERVICE\n"


@pytest.mark.parametrize(
    ("server", "files", "calls", "wanted"),
    [
        (listening("0.0.0.0:53"), {}, {}, ["warn"]),
        (listening("0.0.0.0:53", user="plughole"), {}, {}, ["ok"]),
        (listening("0.0.0.0:53", user="nobody-there"), {}, {}, ["fail"]),
        (listening("0.0.0.0:53"), {}, {"me": lambda: SERVICE}, ["fail"]),
        (listening("0.0.0.0:5353"), {}, {"me": lambda: SERVICE}, ["ok"]),
        (listening("0.0.0.0:53"), {"proc/sys/net/ipv4/ip_unprivileged_port_start": "53\n"},
         {"me": lambda: SERVICE}, ["ok"]),
        (listening("0.0.0.0:53"), {}, {"me": lambda: SERVICE, "interpreter_may_bind": lambda: True}, ["ok"]),
        (listening("0.0.0.0:53"), {UNIT: CAPABLE}, {}, ["ok"]),
        (listening("0.0.0.0:53"), {UNIT: "[Service]\nUser=plughole\n"}, {}, ["fail"]),
        (listening("0.0.0.0:53"), {UNIT: "[Service]\nUser=plughole\n",
                                   "etc/systemd/system/plughole.socket": "[Socket]\n"}, {}, ["ok"]),
        (listening("0.0.0.0:53"), {"proc/self/status": "CapEff:\t0000000000000400\n"}, {"me": lambda: SERVICE}, ["ok"]),
    ],
)  # fmt: skip
def test_privileges(
    tmp_path: Path, server: Server, files: dict[str, str], calls: dict[str, Any], wanted: list[str]
) -> None:
    assert states(privileges, host(tmp_path, files=files, config=Config(server=server), **calls)) == wanted


@pytest.mark.parametrize(
    ("mode", "user", "state"),
    [(0o700, os.geteuid(), "ok"), (0o500, os.geteuid() or 1, "fail"), (0o700, 64_000, "fail"), (0o777, 64_000, "ok")],
)
def test_data_dir_is_judged_for_the_service(
    tmp_path_factory: pytest.TempPathFactory, mode: int, user: int, state: str
) -> None:
    folder = tmp_path_factory.mktemp("rights")
    here = host(folder, me=lambda: User("plughole", user, frozenset()))
    (folder / "var").mkdir()
    (folder / "var").chmod(mode)
    seen = [one for one in data_dir(here) if "entered" not in one.seen]  # the way there belongs to pytest
    assert {one.state for one in seen} <= {state}
    assert state == "ok" or "chown -R plughole:" in seen[0].cure


def test_kernel(tmp_path: Path) -> None:
    files = {"proc/sys/net/core/rmem_max": "212992\n", "proc/sys/net/core/wmem_max": "16777216\n"}
    small, large = buffers(host(tmp_path, files=files))
    assert (small.state, large.state) == ("warn", "ok")
    assert "net.core.rmem_max=4194304" in small.cure
    assert states(descriptors, host(tmp_path, open_files=lambda: 1_024)) == ["warn"]
    assert states(descriptors, host(tmp_path, open_files=lambda: None)) == ["ok"]
    assert states(workers, host(tmp_path, config=Config(server=Server(workers=3)))) == ["warn"]
    assert states(libraries, host(tmp_path, libraries=nothing)) == ["warn"]


@pytest.mark.parametrize(("after", "state"), [(7, "ok"), (9, "warn")])
def test_packets_dropped_now(tmp_path: Path, after: int, state: str) -> None:
    snmp = "Udp: InDatagrams NoPorts RcvbufErrors\nUdp: 5 1 {}\nUdpLite: RcvbufErrors\nUdpLite: 99\n"
    path = tmp_path / "proc/net/snmp"
    waits: list[float] = []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        path.write_text(snmp.format(after))

    assert states(overflow, host(tmp_path, files={"proc/net/snmp": snmp.format(7)}, pause=pause)) == [state]
    assert waits == [1.0]


@pytest.mark.parametrize(("signed", "state"), [(True, "ok"), (False, "fail")])
def test_forward_servers_and_those_of_zones(tmp_path: Path, state: str, *, signed: bool) -> None:
    asked: list[tuple[str, str, str, bool]] = []
    connected: list[tuple[str, int]] = []

    def ask(address: str, _port: int, name: str, rdtype: str, *, tcp: bool, dnssec: bool) -> dns.message.Message:
        asked.append((address, name, rdtype, dnssec))
        return reply(".", rdtype, signed=signed)

    servers = ("192.0.2.1", "tls://192.0.2.2#dns.example")
    config = Config(upstream=Upstream(mode="forward", servers=servers, zone=(Zone("corp.example", ("192.0.2.3",)),)))
    calls: dict[str, Any] = {"ask": ask, "connect": lambda *where: connected.append(where)}
    seen = list(upstream(host(tmp_path, config=config, **calls)))
    assert {one.state for one in seen if "192.0.2.1@53" in one.seen} == {state}
    assert [one.state for one in seen if "192.0.2.1@53" not in one.seen] == ["ok", "ok"]
    assert sorted(asked) == [("192.0.2.1", ".", "DNSKEY", True), ("192.0.2.3", "corp.example", "SOA", True)]
    assert connected == [("192.0.2.2", 853)]


def test_one_root_server_is_enough(tmp_path: Path) -> None:
    def ask(address: str, *_args: Any, **_keys: Any) -> dns.message.Message:
        if address != ROOTS[1]:
            raise OSError(errno.ENETUNREACH, "Network is unreachable")
        return reply(".", "DNSKEY", signed=True)

    (good,) = upstream(host(tmp_path, ask=ask))
    assert (good.state, ROOTS[1] in good.seen) == ("ok", True)
    (bad,) = upstream(host(tmp_path))
    assert (bad.state, "firewalls" in bad.cure) == ("fail", True)


def test_a_running_node_is_asked_and_its_answer_looked_at(tmp_path: Path) -> None:
    def ask(*_args: Any, tcp: bool, **_keys: Any) -> dns.message.Message:
        return reply("localhost.", "A", address="192.0.2.66" if tcp else "127.0.0.1")

    status = SimpleNamespace(answer={"degraded": ["redis: away"]})
    config = Config(server=listening("127.0.0.1:5353"))
    seen: list[Finding] = list(node(host(tmp_path, config=config, ask=ask, status=lambda _: status.answer)))
    assert [one.state for one in seen] == ["warn", "ok", "fail"]
    assert seen[0].seen == "degraded: redis: away"
    assert "192.0.2.66" in seen[2].seen
    assert states(node, host(tmp_path, status=nothing)) == ["fail"]
