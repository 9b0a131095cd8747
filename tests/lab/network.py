"""The lab: an office, a resolver, a small internet and an attacker's server, each in a network namespace of its own.

    with Lab({"harbour.net": IODINE}) as lab:
        lab.office.run("dig", "+short", "www.bakery.com", "@" + RESOLVER)

Rules:
1. Each host has one cable, to the resolver, which forwards nothing: offices reach the attacker by DNS or not at all.
2. Every address lies in a documentation range (RFC 5737), and no link leaves the namespaces: the machine's own network
   is not touched.
3. What `__enter__` makes `__exit__` takes away, also when `__enter__` fails half way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from internet import READY_TIMEOUT, _binary, _Host, _ip, _nsd_conf, _reap, _set_namespace, _which

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

RESOLVER: Final = "192.0.2.53"
OFFICE: Final = tuple(f"192.0.2.{last}" for last in range(129, 161))  # the desks, one an attack
BROWSER: Final = "192.0.2.20"
ROOT: Final = "198.51.100.1"
WEB: Final = "198.51.100.2"
OUTSIDE: Final = "198.51.100.53"  # from here the resolver asks
IODINE: Final = "198.51.100.66"
DNS2TCP: Final = "198.51.100.67"
DNSCAT2: Final = "198.51.100.68"
SITE: Final = "203.0.113.80"  # the address of every web site

_SITE_WORDS: Final = (
    ("river", "garden", "silver", "north", "family", "city", "green", "royal", "sun", "old"),
    ("bakery", "bank", "books", "cycles", "dental", "travel", "hotel", "music", "news", "tools"),
)
SITES: Final = tuple(f"{first}{second}.com" for first in _SITE_WORDS[0] for second in _SITE_WORDS[1])
_BELOW: Final = ("", "www.", "static.", "images.", "login.", "api.")  # names browsers ask for at a site
PAGES: Final = tuple(f"{name}{site}" for site in SITES for name in _BELOW)
_SITE_ZONE: Final = f"""
$TTL 30
@ SOA ns hostmaster 1 3600 600 86400 30
@ NS ns
ns A {WEB}
@ A {SITE}
www A {SITE}
www HTTPS 1 . alpn=h2
static CNAME cdn
cdn A {SITE}
images A {SITE}
login A {SITE}
api A {SITE}
"""
_SOA: Final = "$TTL 3600\n@ SOA ns.root-servers.net. hostmaster.root-servers.net. 1 3600 600 86400 60\n"
_ROUTES: Final = {  # host: its addresses, the networks the resolver sends to it, whom it sees of the resolver
    "office": (OFFICE, "192.0.2.128/25", RESOLVER),
    "browser": ((BROWSER,), f"{BROWSER}/32", RESOLVER),
    "authority": ((ROOT, WEB), "198.51.100.0/27", OUTSIDE),
    "attacker": ((IODINE, DNS2TCP, DNSCAT2), "198.51.100.64/26", OUTSIDE),
}


class Host:
    """A network namespace, and what runs in it."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self._folder = folder

    def run(self, *args: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its result; raises TimeoutExpired after `timeout` seconds."""
        return subprocess.run(self._inside(args), capture_output=True, text=True, timeout=timeout)

    def start(self, output: str, *args: str) -> Program:
        """Start a command inside; what it prints goes to the lab's file of that name."""
        return Program(self._inside(args), self._folder / output)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Let this thread, and threads it starts, make their sockets in the namespace meanwhile."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            there = os.open(f"/run/netns/{self.name}", os.O_RDONLY)
            try:
                _set_namespace(there)
            finally:
                os.close(there)
            yield
        finally:
            _set_namespace(home)
            os.close(home)

    def sit_at(self, address: str) -> None:
        """Ask the resolver from this one of the host's addresses from now on."""
        _ip("-n", self.name, "route", "replace", f"{RESOLVER}/32", "dev", "eth0", "src", address)

    def _inside(self, args: tuple[str, ...]) -> list[str]:
        return [_binary("ip"), "netns", "exec", self.name, *args]


class Program:
    """A running command with its output in a file; `with` ends it."""

    def __init__(self, command: list[str], output: Path) -> None:
        self._output = output
        with output.open("wb") as file:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
            )

    def __enter__(self) -> Program:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def output(self) -> str:
        """What it printed so far."""
        return self._output.read_text(errors="replace")

    @property
    def runs(self) -> bool:
        """True until it ends."""
        return self.code is None

    @property
    def code(self) -> int | None:
        """Its exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it, and wait for its end."""
        if self.runs:
            self._process.terminate()
        _reap(self._process)


class Lab:
    """The whole, up between `__enter__` and `__exit__`."""

    def __init__(self, attackers: Mapping[str, str]) -> None:
        """`attackers`: domains below net, without a dot at the end, and the address their questions are sent to."""
        self.folder = Path(tempfile.mkdtemp(prefix="lab-"))
        ident = f"lab-{os.getpid()}-{secrets.token_hex(3)}"
        self._attackers = attackers
        self._hosts = {name: Host(f"{ident}-{name}", self.folder) for name in ("resolver", *_ROUTES)}
        self._programs: list[Program] = []
        self.resolver = self._hosts["resolver"]
        self.office = self._hosts["office"]
        self.browser = self._hosts["browser"]
        self.attacker = self._hosts["attacker"]

    @staticmethod
    def why_not() -> str | None:
        """Return why it cannot be had here, naming what to install, or None."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        packages = {
            "ip": "iproute2", "nsd": "nsd", "tcpdump": "tcpdump", "iodine": "iodine", "iodined": "iodine",
            "dns2tcpc": "dns2tcp", "dns2tcpd": "dns2tcp",
        }  # fmt: skip
        for binary, package in packages.items():
            if _which(binary) is None:
                return f"{binary} is missing: apt install {package}"
        if not Path("/dev/net/tun").exists():
            return "this machine has no /dev/net/tun, which iodine needs"
        if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
            return "this machine allows no network namespaces"
        return None

    @property
    def root_hints(self) -> Path:
        """The root hints file."""
        return self.folder / "root.hints"

    def __enter__(self) -> Lab:
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._down()

    def _up(self) -> None:
        for host in self._hosts.values():
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        self.resolver.run("sh", "-c", "echo 0 >/proc/sys/net/ipv4/ip_forward")
        for address in (RESOLVER, OUTSIDE):
            _ip("-n", self.resolver.name, "addr", "add", f"{address}/32", "dev", "lo")
        for name, (addresses, network, peer) in _ROUTES.items():
            self._plug(self._hosts[name], addresses, network, peer)
        self.root_hints.write_text(
            f". 3600000 NS ns.root-servers.net.\nns.root-servers.net. 3600000 A {ROOT}\n", encoding="ascii"
        )
        zones = self._zones()
        web = _Host((WEB,), tuple(f"{site}." for site in SITES))
        for name, server in (("root", _Host((ROOT,), (".", "com.", "net."))), ("web", web)):
            self._programs.append(serve_zones(self._hosts["authority"], self.folder / name, server, zones))

    def _plug(self, host: Host, addresses: tuple[str, ...], network: str, peer: str) -> None:
        end = f"to-{host.name.rpartition('-')[2]}"
        here, there = ("-n", self.resolver.name), ("-n", host.name)
        _ip("link", "add", end, "netns", self.resolver.name, "type", "veth", "peer", "name", "eth0", "netns", host.name)
        _ip(*here, "link", "set", end, "up")
        _ip(*there, "link", "set", "eth0", "up")
        for address in addresses:
            _ip(*there, "addr", "add", f"{address}/32", "dev", "eth0")
        _ip(*there, "route", "add", f"{peer}/32", "dev", "eth0", "src", addresses[0])
        _ip(*here, "route", "add", network, "dev", end, "src", peer)

    def _zones(self) -> dict[str, str]:
        own = f"@ NS ns.root-servers.net.\nns.root-servers.net. A {ROOT}\n"
        sites = "".join(f"{site}. NS ns.{site}.\nns.{site}. A {WEB}\n" for site in SITES)
        attackers = "".join(
            f"{domain}. NS ns.{domain}.\nns.{domain}. A {address}\n" for domain, address in self._attackers.items()
        )
        return {
            ".": f"{_SOA}{own}com. NS ns.root-servers.net.\nnet. NS ns.root-servers.net.\n",
            "com.": f"{_SOA}@ NS ns.root-servers.net.\n{sites}",
            "net.": f"{_SOA}{own}{attackers}",
            **{f"{site}.": _SITE_ZONE.lstrip() for site in SITES},
        }

    def _down(self) -> None:
        take_down(self._programs, self._hosts.values(), self.folder)


def serve_zones(on: Host, folder: Path, host: _Host, zones: Mapping[str, str]) -> Program:
    """Return NSD on a host, with its files in `folder`, once it answers."""
    folder.mkdir()
    for zone in host.zones:
        (folder / f"{zone}zone").write_text(zones[zone], encoding="ascii")
    (folder / "nsd.conf").write_text(_nsd_conf(folder, host), encoding="ascii")
    server = on.start(f"{folder.name}.output", _binary("nsd"), "-d", "-c", str(folder / "nsd.conf"))
    try:
        _await_answer(on, host.addresses[0], server)
    except BaseException:
        server.stop()
        raise
    return server


def take_down(programs: Iterable[Program], hosts: Iterable[Host], folder: Path) -> None:
    """Nothing of a lab is left."""
    for program in programs:
        program.stop()
    for host in hosts:
        found = subprocess.run([_binary("ip"), "netns", "pids", host.name], capture_output=True, text=True).stdout
        for pid in map(int, found.split()):  # what a tool left behind, in our namespaces only
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if pid != os.getpid() else 0)
        subprocess.run([_binary("ip"), "netns", "del", host.name], capture_output=True)
    shutil.rmtree(folder, ignore_errors=True)


def _await_answer(host: Host, address: str, server: Program) -> None:
    end = time.monotonic() + READY_TIMEOUT
    question = b"\x12\x34\0\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # ID 0x1234, `. NS IN`; refused is an answer, too
    with host.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.05)
        client.connect((address, 53))
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                client.send(question)
                client.recv(4_096)
                return
            time.sleep(0.01)  # nobody listens yet, which the kernel says at once
    raise TimeoutError(f"nsd on {address} does not answer: {server.output}")
