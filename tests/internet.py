"""A small internet for tests: NSD serving a signed root, com, net and zones good and bad, in a network namespace.

    with Internet() as internet:
        internet.run("dig", "+short", "www.good.com", "@198.51.100.3")
        with internet.inside(): ...  # sockets made by this thread live in the namespace

Rules:
1. Every address lies in a documentation range (RFC 5737, RFC 3849) and on the namespace's own `lo`: nothing leaves.
2. Zones are made and signed in Python, so only iproute2 and nsd must be installed, and root is needed.
3. What `__enter__` makes `__exit__` takes away, also when `__enter__` fails half way.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from signing import signed_zones

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    _Process = subprocess.Popen[bytes] | subprocess.Popen[str]

ROOT: Final = "198.51.100.1"
TLD: Final = "198.51.100.2"
AUTH: Final = "198.51.100.3"
ROOT6: Final = "2001:db8:53::1"
TLD6: Final = "2001:db8:53::2"
AUTH6: Final = "2001:db8:53::3"
SIX: Final = "2001:db8:53::6"  # serves six.net and has no IPv4 address
ALL: Final = "198.51.100.53"  # serves every zone itself, corp.example too, on ALL_PORT: the forwarder of tests
ALL_PORT: Final = 5300
SILENT: Final = "203.0.113.66"  # packets to it vanish: serves lame.net and lame1.net, and half of half.net
LISTED: Final = "evil-c2.plain.net"  # a name for tests to put on a list; listed.good.com is a CNAME to it

READY_TIMEOUT: Final = 60.0  # seconds for a server to answer its first question
STOP_TIMEOUT: Final = 5.0  # seconds for a server to end
_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_SBIN: Final = ":/usr/sbin:/sbin"
_ROOT_NS: Final = b"\x12\x34\0\0\0\1\0\0\0\0\0\0\0\0\2\0\1"  # ID 0x1234, `. NS IN`

_SOA: Final = "$TTL 300\n@ SOA {ns} hostmaster.good.com. 1 3600 600 86400 60\n@ NS {ns}\n"


def _strings(octets: int) -> str:
    return " ".join(f'"{"x" * 250}"' for _ in range(octets // 250))


_OWN_NS: Final = _SOA.format(ns="ns") + f"ns A {AUTH}\nns AAAA {AUTH6}\n"
_ZONES: Final[dict[str, str]] = {
    "good.com.": _OWN_NS + f"""
@ A 192.0.2.10
@ AAAA 2001:db8:80::10
@ MX 10 mail
@ TXT "v=spf1 mx -all"
mail A 192.0.2.25
www A 192.0.2.11
www AAAA 2001:db8:80::11
www2 CNAME www
chain CNAME hop
hop CNAME hop.plain.net.
listed CNAME {LISTED}.
dangling CNAME nowhere.plain.net.
*.wild A 192.0.2.12
svc HTTPS 1 . alpn=h2 ipv4hint=192.0.2.20 ipv6hint=2001:db8:80::20
_dns.svc SVCB 1 www alpn=dot
big TXT {_strings(4_000)}
middle TXT {_strings(1_500)}
short 1 A 192.0.2.13
rebind A 10.0.0.1
""" + "".join(f"twelve A 192.0.2.{at}\n" for at in range(100, 112)),
    "bogus.com.": _OWN_NS + "fine A 192.0.2.30\ntampered A 192.0.2.31\nexpired A 192.0.2.32\n",
    "plain.net.": _OWN_NS + """
@ A 192.0.2.40
www A 192.0.2.41
hop CNAME target
target A 192.0.2.42
evil-c2 A 192.0.2.66
loop1 CNAME loop2
loop2 CNAME loop1
""",
    "many.net.": _OWN_NS + "* A 192.0.2.200\n* AAAA 2001:db8:80::200\n* TXT many\n",
    "half.net.": _SOA.format(ns="ns1") + f"@ NS ns2\nns1 A {SILENT}\nns2 A {AUTH}\n* A 192.0.2.60\n",
    "six.net.": _SOA.format(ns="ns") + f"ns AAAA {SIX}\nwww A 192.0.2.50\nwww AAAA 2001:db8:80::50\n",
    "corp.example.": _SOA.format(ns="ns") + f"ns A {ALL}\nhost A 10.1.2.3\n",
    "com.": _SOA.format(ns="ns.tld.net.") + f"""
good NS ns.good
ns.good A {AUTH}
ns.good AAAA {AUTH6}
bogus NS ns.bogus
ns.bogus A {AUTH}
""",
    "net.": _SOA.format(ns="ns.tld.net.") + f"""
ns.tld A {TLD}
ns.tld AAAA {TLD6}
ns.root-servers A {ROOT}
ns.root-servers AAAA {ROOT6}
plain NS ns.plain
ns.plain A {AUTH}
many NS ns.many
ns.many A {AUTH}
six NS ns.six
ns.six AAAA {SIX}
lame NS ns.lame
ns.lame A {SILENT}
lame1 NS ns.lame
half NS ns1.half
half NS ns2.half
ns1.half A {SILENT}
ns2.half A {AUTH}
refused NS ns.refused
ns.refused A {AUTH}
""",
    ".": _SOA.format(ns="ns.root-servers.net.") + f"""
ns.root-servers.net. A {ROOT}
ns.root-servers.net. AAAA {ROOT6}
com. NS ns.tld.net.
net. NS ns.tld.net.
ns.tld.net. A {TLD}
ns.tld.net. AAAA {TLD6}
""",
}  # fmt: skip
_PARENTS: Final = {"good.com.": "com.", "bogus.com.": "com.", "com.": ".", "net.": ".", ".": ""}  # signed, lowest first


class _Host(NamedTuple):
    addresses: tuple[str, ...]
    zones: tuple[str, ...]
    port: int = 53


_HOSTS: Final = {
    "root": _Host((ROOT, ROOT6), (".",)),
    "tld": _Host((TLD, TLD6), ("com.", "net.")),
    "auth": _Host((AUTH, AUTH6), ("good.com.", "bogus.com.", "plain.net.", "many.net.", "half.net.")),
    "six": _Host((SIX,), ("six.net.",)),
    "all": _Host((ALL,), tuple(_ZONES), ALL_PORT),
}


class Internet:
    """The whole, up between `__enter__` and `__exit__`."""

    def __init__(self, more: Mapping[str, str] | None = None, signed: Collection[str] = ()) -> None:
        """`more` adds text to zones by their names, and new zones to AUTH; those named in `signed` are signed."""
        self._texts = {**_ZONES, **{zone: _ZONES.get(zone, "") + text for zone, text in (more or {}).items()}}
        lowest_first = sorted(signed, key=lambda zone: -zone.count("."))
        self._parents = {**{zone: zone.partition(".")[2] for zone in lowest_first}, **_PARENTS}
        self._hosts = {**_HOSTS, "all": _HOSTS["all"]._replace(zones=tuple(self._texts))}
        new = tuple(zone for zone in self._texts if zone not in _ZONES)
        self._hosts["auth"] = _HOSTS["auth"]._replace(zones=_HOSTS["auth"].zones + new)
        self.name = f"plughole-{os.getpid()}-{secrets.token_hex(3)}"
        self._servers: list[subprocess.Popen[bytes]] = []
        self._folder = Path()
        self._processes: list[subprocess.Popen[str]] = []

    @staticmethod
    def why_not() -> str | None:
        """Return why it cannot be had here, naming what to install, or None."""
        if os.geteuid() != 0:
            return "network namespaces need root"
        for binary, package in (("ip", "iproute2"), ("nsd", "nsd")):
            if _which(binary) is None:
                return f"{binary} is missing: apt install {package}"
        for module, package in (("dns", "dnspython"), ("cryptography", "cryptography")):
            if importlib.util.find_spec(module) is None:
                return f"the Python package {package} is missing"
        if not Path("/proc/net/if_inet6").exists():
            return "this machine has no IPv6"
        if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode:
            return "this machine allows no network namespaces"
        return None

    @property
    def root_hints(self) -> Path:
        """The root hints file."""
        return self._folder / "root.hints"

    @property
    def trust_anchor(self) -> Path:
        """The root zone's DS record in a file."""
        return self._folder / "root.ds"

    def __enter__(self) -> Internet:
        try:
            self._up()
        except BaseException:
            self._down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._down()

    def run(self, *args: str, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command inside and return its result; raises TimeoutExpired after `timeout` seconds."""
        return subprocess.run(self._inside(args), capture_output=True, text=True, timeout=timeout)

    def popen(self, *args: str) -> subprocess.Popen[str]:
        """Start a command inside with its output in pipes; it is ended with the internet."""
        process = subprocess.Popen(
            self._inside(args), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._processes.append(process)
        return process

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

    def _inside(self, args: tuple[str, ...]) -> list[str]:
        return [_binary("ip"), "netns", "exec", self.name, *args]

    def _up(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="internet-"))
        _ip("netns", "add", self.name)
        addresses = [address for host in self._hosts.values() for address in host.addresses]
        _ip("-n", self.name, "-batch", "-", text="\n".join([
            "link set lo up",
            *(f"addr add {address}/{128 if ':' in address else 32} dev lo" for address in addresses),
            f"route add {SILENT}/32 dev lo",  # not an address of ours, so the kernel drops what comes back in
        ]))  # fmt: skip
        zones, anchor = signed_zones(self._texts, self._parents)
        self.trust_anchor.write_text(f"{anchor}\n")
        self.root_hints.write_text(
            f". 3600000 NS ns.root-servers.net.\nns.root-servers.net. 3600000 A {ROOT}\n"
            f"ns.root-servers.net. 3600000 AAAA {ROOT6}\n"
        )
        for name, host in self._hosts.items():
            self._serve(name, host, zones)
        for host in self._hosts.values():
            self._await_answer(host)

    def _serve(self, name: str, host: _Host, zones: dict[str, str]) -> None:
        folder = self._folder / name
        folder.mkdir()
        for zone in host.zones:
            (folder / f"{zone}zone").write_text(zones[zone])
        (folder / "nsd.conf").write_text(_nsd_conf(folder, host))
        command = self._inside((_binary("nsd"), "-d", "-c", str(folder / "nsd.conf")))
        with (folder / "output").open("wb") as output:
            self._servers.append(
                subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            )

    def _await_answer(self, host: _Host) -> None:
        end = time.monotonic() + READY_TIMEOUT
        family = socket.AF_INET6 if ":" in host.addresses[0] else socket.AF_INET
        with self.inside(), socket.socket(family, socket.SOCK_DGRAM) as client:
            client.settimeout(0.05)
            client.connect((host.addresses[0], host.port))
            while time.monotonic() < end:
                with contextlib.suppress(OSError):
                    client.send(_ROOT_NS)
                    client.recv(4_096)
                    return
                time.sleep(0.01)  # nobody listens yet, which the kernel says at once
        raise TimeoutError(f"nsd on {host.addresses[0]} does not answer: {self._logs()}")

    def _logs(self) -> str:
        paths = [path for path in sorted(self._folder.glob("*/*")) if path.name in {"output", "nsd.log"}]
        return " ".join(path.read_text(errors="replace") for path in paths)

    def _down(self) -> None:
        everything: list[_Process] = [*self._servers, *self._processes]
        for process in everything:
            process.terminate()
        for process in everything:
            _reap(process)
        found = subprocess.run([_binary("ip"), "netns", "pids", self.name], capture_output=True, text=True).stdout
        for pid in map(int, found.split()):  # what a command of a test left behind, in our namespace only
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if pid != os.getpid() else 0)
        subprocess.run([_binary("ip"), "netns", "del", self.name], capture_output=True)
        if self._folder != Path():
            shutil.rmtree(self._folder, ignore_errors=True)


def _nsd_conf(folder: Path, host: _Host) -> str:
    return "\n".join([
        "server:",
        *(f'ip-address: "{address}@{host.port}"' for address in host.addresses),
        "server-count: 1",
        'username: ""',
        'database: ""',  # before NSD 4.8 all servers of a machine would share one file
        "rrl-ratelimit: 0",
        "tcp-count: 200",
        f'zonesdir: "{folder}"',
        f'logfile: "{folder}/nsd.log"',
        *(f'{name}: "{folder}/{name}"' for name in ("pidfile", "xfrdfile", "xfrdir", "zonelistfile")),
        "remote-control:",
        "control-enable: no",
        *(f'zone:\nname: "{zone}"\nzonefile: "{zone}zone"' for zone in host.zones),
        "",
    ])  # fmt: skip


def _which(binary: str) -> str | None:
    return shutil.which(binary, path=os.environ.get("PATH", os.defpath) + _SBIN)


def _binary(name: str) -> str:
    return _which(name) or name


def _ip(*args: str, text: str = "") -> None:
    found = subprocess.run([_binary("ip"), *args], input=text, capture_output=True, text=True)
    if found.returncode:
        raise OSError(f"ip {' '.join(args)}: {found.stderr.strip()}")


def _reap(process: _Process) -> None:
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _set_namespace(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
