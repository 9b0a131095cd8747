"""An office for tests: two nodes with different settings in one small internet, and an authority that obeys a test."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from typing import TYPE_CHECKING, Final, NamedTuple

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
from internet import ALL, ALL_PORT, AUTH, Internet
from node import Node

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST: Final = "127.0.0.1"  # the node with everything on
SECOND: Final = "127.0.1.1"  # the node with everything off or otherwise
BALANCER: Final = "127.0.1.9"  # the second node believes its PROXY headers
TOY: Final = "198.51.100.7"  # serves toy.net
POINTERS: Final = {  # label: where it points to in point.net and allowed.net
    "loopback": ("A", "127.0.0.1"),
    "ten": ("A", "10.0.0.1"),
    "lan": ("A", "192.168.1.1"),
    "b": ("A", "172.16.3.4"),
    "link": ("A", "169.254.1.1"),
    "zero": ("A", "0.0.0.0"),
    "loopback6": ("AAAA", "::1"),
    "ula": ("AAAA", "fd00::1"),
    "link6": ("AAAA", "fe80::1"),
    "mapped": ("AAAA", "::ffff:10.0.0.1"),
}
_APEX: Final = f"$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\nns A {AUTH}\n"
_POINTING: Final = (
    _APEX
    + "".join(f"{label} {rdtype} {data}\n" for label, (rdtype, data) in POINTERS.items())
    + "mixed A 192.0.2.80\nmixed A 10.0.0.2\nalias CNAME ten\npublic A 192.0.2.81\n"
)
_MORE: Final = {
    "net.": f"toy NS ns.toy\nns.toy A {TOY}\n"
    + "".join(f"{zone} NS ns.{zone}\nns.{zone} A {AUTH}\n" for zone in ("point", "allowed")),
    "point.net.": _POINTING,
    "allowed.net.": _POINTING,
}
_SOA: Final = "ns.toy.net. hostmaster.toy.net. 1 3600 600 86400 {minimum}"
_TTL: Final = re.compile(r"ttl(\d+)")
DEFAULT_TTL: Final = 300  # seconds


class Toy:
    """The authority of toy.net: A for every name, with `ttlN` in it N seconds; absent* does not exist."""

    def __init__(self, internet: Internet) -> None:
        self.silent = False
        self.heard: list[tuple[float, dns.message.Message]] = []  # when, on the monotonic clock, and what
        internet.run("ip", "addr", "add", f"{TOY}/32", "dev", "lo")
        with internet.inside():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.bind((TOY, 53))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        self._internet = internet

    def stop(self) -> None:
        """End the thread."""
        with self._internet.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", (TOY, 53))
        self._thread.join(30)
        self._socket.close()

    def asked(self, name: str) -> list[tuple[float, dns.message.Message]]:
        """Return when and with what it was asked for a name."""
        wanted = f"{name}.toy.net."
        return [(at, query) for at, query in self.heard if str(query.question[0].name).lower() == wanted]

    def _serve(self) -> None:
        while True:
            data, peer = self._socket.recvfrom(4_096)
            if not data:
                return
            with contextlib.suppress(dns.exception.DNSException):
                query = dns.message.from_wire(data)
                self.heard.append((time.monotonic(), query))
                if not self.silent:
                    self._socket.sendto(_reply(query).to_wire(), peer)


def _reply(query: dns.message.Message) -> dns.message.Message:
    reply = dns.message.make_response(query)
    reply.flags |= dns.flags.AA
    name, rdtype = query.question[0].name, query.question[0].rdtype
    found = _TTL.search(str(name).lower())
    ttl = int(found[1]) if found else DEFAULT_TTL
    absent = str(name).lower().startswith("absent")
    if rdtype == dns.rdatatype.A and not absent:
        reply.answer.append(dns.rrset.from_text(name, ttl, "IN", "A", "192.0.2.90"))
        return reply
    reply.authority.append(dns.rrset.from_text("toy.net.", 300, "IN", "SOA", _SOA.format(minimum=ttl)))
    if absent:
        reply.set_rcode(dns.rcode.NXDOMAIN)
    return reply


class Office(NamedTuple):
    """What a test asks and looks at."""

    internet: Internet
    first: Node
    second: Node
    toy: Toy

    def run(self, command: str, at: str = FIRST) -> str:
        """Run a client as a person types it, its server added, and return what it printed."""
        program, *args = command.split()
        server = [f"@{at}"]
        ran = self.internet.run(program, *(args + server if program == "drill" else server + args))
        return ran.stdout + ran.stderr


@contextlib.contextmanager
def office(folder: Path) -> Iterator[Office]:
    """Both nodes and the authority, answering, until the end of the block."""
    folders = [folder / name for name in ("first", "second")]
    for one in folders:
        one.mkdir()
    (folder / "hosts").write_text("192.0.2.53 printer.office.example printer # by the door\n2001:db8::53 printer\n")
    with Internet(_MORE) as internet:
        toy = Toy(internet)
        try:
            with (
                Node(internet, folders[0], _first(internet, folder)) as first,
                Node(internet, folders[1], _second(internet)) as second,
            ):
                yield Office(internet, first, second, toy)
        finally:
            toy.stop()


def _upstream(internet: Internet) -> str:
    return f"""
[upstream]
root_hints = "{internet.root_hints}"
trust_anchors = ["{internet.trust_anchor}"]
timeout = 3.0
[[upstream.zone]]
name = "corp.example"
servers = ["{ALL}@{ALL_PORT}"]
# Hundreds of made-up names of one domain would have the leak meter keep its answers for a minute.
[detectors.leak]
mode = "off"
[journal]
queries = "none"
"""


def _first(internet: Internet, folder: Path) -> str:
    return f"""
[server]
listen = ["{FIRST}:53", "[::1]:53"]
workers = 1
identity = "office-1"
version = "a resolver"
[local]
hosts = "{folder}/hosts"
block_private_relay = true
rebind_allow = ["allowed.net"]
[[local.record]]
name = "intranet.office.example"
data = "10.9.8.7"
ttl = 77
[[local.record]]
name = "www.office.example"
type = "CNAME"
data = "intranet.office.example"
[[local.record]]
name = "www.plain.net"
data = "10.9.8.6"
{_upstream(internet)}"""


def _second(internet: Internet) -> str:
    return f"""
[server]
listen = ["{SECOND}:53"]
workers = 1
cookies = false
any = "resolve"
rotate = false
proxy_from = ["{BALANCER}/32"]
[cache]
min_ttl = 60
max_ttl = 120
max_negative_ttl = 30
prefetch = false
serve_stale = 0
[local]
special_use = false
block_doh_canary = false
designated_resolver = "resolve"
dns64_prefix = "2001:db8:64::/96"  # the well-known one is not for documentation addresses, RFC 6052 section 3.1
rebind_protection = false
[limits]
queries_per_second = 5
burst = 20
exempt = ["127.0.0.1/32", "{BALANCER}/32"]
{_upstream(internet)}"""
