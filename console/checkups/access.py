"""Who may ask us, whom this host asks, and that no question comes back to us."""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Final

from console.checkups.host import Finding
from console.checkups.ports import STUB_OFF
from core.config import Server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from console.checkups.host import Host
    from core.endpoints import Endpoint

_STUBS: Final = {"127.0.0.53", "127.0.0.54"}  # systemd-resolved.service(8)
_LOCAL: Final = re.compile(r"\|-- ([0-9.]+)\n\s+/32 host LOCAL")  # of /proc/net/fib_trie


def resolv_conf(host: Host) -> Iterator[Finding]:
    """The host asks no stub that leads past us."""
    servers = re.findall(r"^nameserver\s+(\S+)", host.read_if_there("etc/resolv.conf"), re.MULTILINE)
    if _STUBS & set(servers):
        cure = f"{STUB_OFF} && ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf"
        yield Finding("resolv.conf", "warn", "points to the stub of systemd-resolved, not to plughole", cure)
        return
    own = {endpoint.address for _, endpoint in host.listens}
    us = " (plughole)" if own.intersection(servers) else ""
    yield Finding("resolv.conf", "ok", f"points to {', '.join(servers) or 'nobody'}{us}")


def loop(host: Host) -> Iterator[Finding]:
    """No server we ask is ourselves."""
    own = _own_addresses(host)
    servers = [(key, server) for key, server in host.upstreams if server.scheme == "udp"]
    looping = [(key, server) for key, server in servers if _is_us(host, server.address, server.port, own)]
    for key, server in looping:
        yield Finding("loop", "fail", f"{key}: {server.text} is plughole itself", f"change `{key}`")
    if not looping:
        yield Finding("loop", "ok", "no question is sent back to plughole")


def _is_us(host: Host, address: str, port: int, own: set[str]) -> bool:
    return any(endpoint.port == port and _hears(endpoint, address, own) for _, endpoint in host.listens)


def _hears(endpoint: Endpoint, address: str, own: set[str]) -> bool:
    if endpoint.address == address:
        return True
    here, there = ipaddress.ip_address(endpoint.address), ipaddress.ip_address(address)
    return here.is_unspecified and here.version == there.version and (there.is_loopback or address in own)


def _own_addresses(host: Host) -> set[str]:
    """Return the addresses of this host's interfaces."""
    four = set(_LOCAL.findall(host.read_if_there("proc/net/fib_trie")))
    cells = (line.split() for line in host.read_if_there("proc/net/if_inet6").splitlines())
    return four | {str(ipaddress.ip_address(bytes.fromhex(line[0]))) for line in cells if line}


def open_resolver(host: Host) -> Iterator[Finding]:
    """Strangers may not ask without limit."""
    limits = host.config.limits
    reachable = [text for text, endpoint in host.listens if not ipaddress.ip_address(endpoint.address).is_loopback]
    public = [text for text in host.config.server.allow_from if _is_public(text)]
    if not reachable or not public:
        why = "strangers may not ask" if reachable else "only this host reaches it"
        yield Finding("open resolver", "ok", why)
        return
    exempt = sorted({one for one in limits.exempt if _is_public(one) and any(_overlap(one, two) for two in public)})
    if not limits.queries_per_second:
        cure = "narrow `[server] allow_from`, or set `[limits] queries_per_second = 1000`"
        yield Finding("open resolver", "fail", f"{', '.join(public)} may ask without limit", cure)
    elif exempt:
        cure = "take what is not yours out of `[limits] exempt`"
        yield Finding("open resolver", "fail", f"{', '.join(exempt)} is exempt from all limits and not private", cure)
    elif not limits.responses_per_second:
        seen = f"{', '.join(public)} may ask; imitated senders can be flooded with replies"
        cure = "set `[limits] responses_per_second = 5`, or narrow `[server] allow_from` to networks of yours"
        yield Finding("open resolver", "warn", seen, cure)
    else:
        yield Finding("open resolver", "ok", f"{', '.join(public)} may ask, within limits")


def _is_public(text: str) -> bool:
    """True unless the network lies within those that may ask by default: this host, private and link-local ones."""
    network = ipaddress.ip_network(text, strict=False)
    low, high = network[0], network[-1]
    return not any(low in home and high in home for home in map(ipaddress.ip_network, Server().allow_from))


def _overlap(one: str, other: str) -> bool:
    first, second = ipaddress.ip_network(one, strict=False), ipaddress.ip_network(other, strict=False)
    return first.version == second.version and first.overlaps(second)
