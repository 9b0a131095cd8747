"""The border: two desks, a resolver and a router with a firewall, and behind it an internet of three servers.

    with Border() as border:
        border.desk.run("dig", "+short", "www.market.com", "@" + RESOLVER)

    desk --- \\                        / --- authority: the root, com, net, sites and a CDN
    guest --- router (agent, nftables) ---- attacker: a C2 server, iodined, dns2tcpd
    resolver (node, Redis) --- /

Rules:
1. Addresses outside look public, for the guard rightly refuses documentation ranges; no link leaves the namespaces.
2. The router forwards everything; only what the agent writes keeps anything back. It has one rule of its own, as an
   office has: the kernel tracks connections only where a rule asks about them.
3. What `__enter__` makes `__exit__` takes away, also when `__enter__` fails half way.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from internet import _binary, _Host, _ip, _which
from lab.network import Host, Program, serve_zones, take_down

from feeds.redis import find_server

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REPOSITORY: Final = Path(__file__).parents[2]
DESK: Final = "10.20.1.2"
GUEST: Final = "10.20.2.2"
RESOLVER: Final = "10.20.3.53"
ROOT: Final = "91.67.0.1"
SITES: Final = "91.67.0.2"  # the name server of the sites
SHOP: Final = "91.67.0.80"  # an address of a CDN: a shop behind it, and a C2
BANK: Final = "91.67.0.81"
C2: Final = "91.66.0.80"
TUNNEL: Final = "91.66.0.66"  # the attacker's name server: iodined, or dns2tcpd
MANY: Final = tuple(f"91.66.1.{last}" for last in range(1, 201))  # of the attacker, one a name
REDIS_PORT: Final = 6379

_SOA: Final = "$TTL 60\n@ SOA ns hostmaster 1 3600 600 86400 60\n"
_INSIDE: Final = {"desk": f"{DESK}/24", "guest": f"{GUEST}/24", "resolver": f"{RESOLVER}/24"}
_OUTSIDE: Final = {
    "authority": (("91.67.0.0/24", "91.67.0.254"), (ROOT, SITES, SHOP, BANK)),
    "attacker": (("91.66.0.0/23", "91.66.0.254"), (C2, TUNNEL, *MANY)),
}
_OFFICE: Final = """
table inet office { chain forward { type filter hook forward priority 0; ct state established,related accept; }; }
"""
_SERVER: Final = str(Path(__file__).with_name("stream_server.py"))


class Border:
    """The whole, up between `__enter__` and `__exit__`."""

    def __init__(self, zones: Mapping[str, str], tunnels: tuple[str, ...] = ()) -> None:
        """`zones`: records of registered domains below com and net, all served at SITES; `tunnels` live at TUNNEL."""
        self.folder = Path(tempfile.mkdtemp(prefix="border-"))
        ident = f"b{os.getpid()}{secrets.token_hex(2)}"
        self._zones = zones
        self._tunnels = tunnels
        self._hosts = {name: Host(f"{ident}-{name}", self.folder) for name in ("router", *_INSIDE, *_OUTSIDE)}
        self._programs: list[Program] = []
        self.router, self.desk, self.guest, self.resolver, self.authority, self.attacker = self._hosts.values()

    @staticmethod
    def why_not() -> str | None:
        """Return why it cannot be had here, naming what to install, or None."""
        if os.geteuid() != 0:
            return "network namespaces and nftables need root"
        for binary, package in {"ip": "iproute2", "nsd": "nsd", "nft": "nftables", "dig": "dnsutils"}.items():
            if _which(binary) is None:
                return f"{binary} is missing: apt install {package}"
        if subprocess.run(["unshare", "--net", _binary("nft"), "list", "tables"], capture_output=True).returncode:
            return "this machine allows no network namespaces with nftables"
        return None

    @property
    def root_hints(self) -> Path:
        """The root hints file."""
        return self.folder / "root.hints"

    def __enter__(self) -> Border:
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._down()

    def agent(self, config: Path) -> Program:
        """Start the agent on the router."""
        return self.router.start(
            "agent.output", sys.executable, "-m", "console.cli", "egress", "agent", "-c", str(config)
        )

    def firewall(self) -> str:
        """Return what nft lists of our table."""
        return self.router.run(_binary("nft"), "list", "table", "inet", "plughole").stdout

    def connect(self, host: Host, address: str, port: int = 443, seconds: float = 15.0) -> socket.socket:
        """Return a TCP connection from a host of the lab."""
        with host.inside():
            return socket.create_connection((address, port), timeout=seconds)

    def _up(self) -> None:
        for host in self._hosts.values():
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        for key in ("net.ipv4.ip_forward=1", "net.netfilter.nf_conntrack_acct=1"):
            self.router.run("sysctl", "-qw", key)
        office = self.folder / "office.nft"
        office.write_text(_OFFICE, encoding="ascii")
        self.router.run(_binary("nft"), "-f", str(office))
        for name, own in _INSIDE.items():
            self._plug(self._hosts[name], own, own.rpartition(".")[0] + ".1")
        for name, ((network, gateway), addresses) in _OUTSIDE.items():
            self._plug(self._hosts[name], f"{addresses[0]}/{network.partition('/')[2]}", gateway)
            for address in addresses[1:]:
                _ip("-n", self._hosts[name].name, "addr", "add", f"{address}/32", "dev", "eth0")
        self.root_hints.write_text(f". 3600000 NS ns.root.\nns.root. 3600000 A {ROOT}\n", encoding="ascii")
        texts = self._texts()
        sites = _Host((SITES,), tuple(f"{zone}." for zone in self._zones))
        for name, served in (("root", _Host((ROOT,), (".", "com.", "net."))), ("sites", sites)):
            self._programs.append(serve_zones(self.authority, self.folder / name, served, texts))
        for name in ("authority", "attacker"):
            server = self._hosts[name].start(f"{name}.streams", sys.executable, _SERVER, "443")
            self._programs.append(server)
            _await(lambda server=server: "listens" in server.output)  # type: ignore[misc]
        redis = self.resolver.start(
            "redis.output", find_server(), "--bind", RESOLVER, "--port", str(REDIS_PORT), "--save", "",
            "--protected-mode", "no", "--dir", str(self.folder),
        )  # fmt: skip
        self._programs.append(redis)
        _await(lambda: "Ready to accept" in redis.output)

    def _plug(self, host: Host, address: str, gateway: str) -> None:
        end = f"to-{host.name.rpartition('-')[2]}"
        here, there = ("-n", self.router.name), ("-n", host.name)
        _ip("link", "add", end, "netns", self.router.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip(*here, "addr", "add", f"{gateway}/{address.partition('/')[2]}", "dev", end)
        _ip(*here, "link", "set", end, "up")
        _ip(*there, "addr", "add", address, "dev", "eth0")
        _ip(*there, "link", "set", "eth0", "up")
        _ip(*there, "route", "add", "default", "via", gateway)

    def _texts(self) -> dict[str, str]:
        soa = "$TTL 3600\n@ SOA ns.root. hostmaster.root. 1 3600 600 86400 60\n@ NS ns.root.\n"
        cuts = {zone: f"{zone}. NS ns.{zone}.\nns.{zone}. A {SITES}\n" for zone in self._zones}
        cuts |= {zone: f"{zone}. NS ns.{zone}.\nns.{zone}. A {TUNNEL}\n" for zone in self._tunnels}
        below = {
            top: "".join(text for zone, text in cuts.items() if zone.endswith(f".{top}")) for top in ("com", "net")
        }
        return {
            ".": f"{soa}ns.root. A {ROOT}\ncom. NS ns.root.\nnet. NS ns.root.\n",
            **{f"{top}.": soa + text for top, text in below.items()},
            **{f"{zone}.": f"{_SOA}@ NS ns\nns A {SITES}\n{text}" for zone, text in self._zones.items()},
        }

    def _down(self) -> None:
        take_down(reversed(self._programs), self._hosts.values(), self.folder)


def _await(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("a server of the lab does not come up")
        time.sleep(0.02)
