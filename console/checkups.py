"""The checks of `plughole doctor`: one small function each, over a Host whose files may be a made-up tree."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias

from core.config import Server
from core.endpoints import Endpoint, parse_endpoint
from core.errors import Unavailable
from core.servers import DNS_PORT

if TYPE_CHECKING:
    from core.config import Config

PATIENCE: Final = 2.0  # seconds for one answer from the network
MAX_ASKED: Final = 16  # upstream servers, asked at the same time
ROOTS: Final = ("198.41.0.4", "199.7.91.13", "192.5.5.241")  # a, d and f.root-servers.net
MEGABYTE: Final = 1_000_000  # octets
MIN_FILES: Final = 4_096  # descriptors of a process: TCP clients, and upstream sockets beside them
MIN_INODES: Final = 1_000
PRIVILEGED: Final = 1_024  # ports below need CAP_NET_BIND_SERVICE
_NET_BIND: Final = 10  # the bit of CAP_NET_BIND_SERVICE, capabilities(7)
_UNSYNC: Final = 0x40  # STA_UNSYNC, adjtimex(2)
_TCP_LISTEN: Final = "0A"
_STATUS_AT: Final = 40  # octets before `status` in struct timex where a long has 8


class Finding(NamedTuple):
    """What one check saw: `state`, and as `cure` a command or a key to change (empty: nothing to do)."""

    check: str
    state: Literal["ok", "warn", "fail"]
    seen: str
    cure: str = ""


class Holder(NamedTuple):
    """A process that holds a port; pid 0: it may not be seen."""

    pid: int
    name: str


class Host:
    """This host and the configuration; `root` is the folder in which /proc and /etc are looked for."""

    def __init__(self, config: Config, root: Path = Path("/")) -> None:
        self.config = config
        self.root = root

    def read(self, path: str) -> str:
        """Return the text of a file below the root; raises OSError."""
        return (self.root / path.lstrip("/")).read_text(errors="replace")

    def holders(self, endpoint: Endpoint, kind: Literal["udp", "tcp"]) -> list[Holder]:
        """Return the processes whose sockets would collide with listening there."""
        inodes = set[str]()
        for table in (kind, f"{kind}6"):
            try:
                inodes |= set(_inodes(self.read(f"proc/net/{table}"), endpoint, is_tcp=kind == "tcp"))
            except FileNotFoundError:  # a kernel without IPv6
                continue
        return self._processes(inodes) if inodes else []

    def _processes(self, inodes: set[str]) -> list[Holder]:
        wanted = {f"socket:[{inode}]" for inode in inodes}
        found = []
        for folder in (self.root / "proc").glob("[0-9]*"):
            try:
                if any(str(link.readlink()) in wanted for link in (folder / "fd").iterdir()):
                    found.append(Holder(int(folder.name), (folder / "comm").read_text().strip()))
            except OSError:  # gone meanwhile, or another user's
                continue
        return found or [Holder(0, "a process of another user")]


Check: TypeAlias = Callable[[Host], Iterator[Finding]]


def _inodes(table: str, endpoint: Endpoint, *, is_tcp: bool) -> Iterator[str]:
    wanted = ipaddress.ip_address(endpoint.address)
    for line in table.splitlines()[1:]:
        cells = line.split()
        if len(cells) < 10 or (is_tcp and cells[3] != _TCP_LISTEN):
            continue
        address, _, port = cells[1].partition(":")
        if int(port, 16) == endpoint.port and _collide(wanted, _from_proc(address)):
            yield cells[9]


def _from_proc(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Return the address of a line of /proc/net: words of 32 bits, each in the order of a little-endian machine."""
    words = [bytes.fromhex(text[at : at + 8])[::-1] for at in range(0, len(text), 8)]
    return ipaddress.ip_address(b"".join(words))


def _collide(
    one: ipaddress.IPv4Address | ipaddress.IPv6Address, other: ipaddress.IPv4Address | ipaddress.IPv6Address
) -> bool:
    return one.version == other.version and (one == other or one.is_unspecified or other.is_unspecified)


def ports(host: Host) -> Iterator[Finding]:
    """Nobody else holds what we listen on."""
    from console import status

    ours = status.runs(host.config.data_dir)
    for text in host.config.server.listen:
        endpoint = parse_endpoint(text)
        both = (host.holders(endpoint, "udp"), host.holders(endpoint, "tcp"))
        others = sorted({one for some in both for one in some if not (ours and one.name.startswith("plughole"))})
        if not others:
            yield Finding("ports", "ok", f"{text} is {'held by this node' if any(both) else 'free'}")
        for other in others:
            yield Finding("ports", "fail", f"{text} is taken by {other.name} (pid {other.pid or '?'})", _evict(other))


def _evict(other: Holder) -> str:
    if other.name.startswith("systemd-resolve"):
        return (
            r"mkdir -p /etc/systemd/resolved.conf.d && printf '[Resolve]\nDNSStubListener=no\n' "
            "> /etc/systemd/resolved.conf.d/plughole.conf && systemctl restart systemd-resolved"
        )
    if other.name == "dnsmasq":
        return "`systemctl disable --now dnsmasq`; where libvirt started it, listen on single addresses, not 0.0.0.0"
    return "stop that process, or change `[server] listen`"


def resolv_conf(host: Host) -> Iterator[Finding]:
    """The host does not ask a stub that leads past us, and we do not forward to ourselves."""
    from core.servers import parse_server

    listen = {(one.address, one.port) for one in map(parse_endpoint, host.config.server.listen)}
    asked = [server for server in map(parse_server, host.config.upstream.servers) if server.scheme != "https"]
    for server in asked:
        if (server.address, server.port) in listen:
            yield Finding("loop", "fail", f"forwards to itself at {server.text}", "change `[upstream] servers`")
    servers = re.findall(r"^nameserver\s+(\S+)", host.read("etc/resolv.conf"), re.MULTILINE)
    if {"127.0.0.53", "127.0.0.54"} & set(servers):
        cure = "after DNSStubListener=no: ln -sf /run/systemd/resolve/resolv.conf /etc/resolv.conf"
        yield Finding("resolv.conf", "warn", "points to the stub of systemd-resolved", cure)
    else:
        to_us = any((address, 53) in listen for address in servers)
        yield Finding("resolv.conf", "ok", f"points to {', '.join(servers) or 'nobody'}{' (us)' if to_us else ''}")


def clock(_host: Host) -> Iterator[Finding]:
    """The kernel says something keeps the clock right; DNSSEC and cookies need it."""
    timex = ctypes.create_string_buffer(512)  # zeros: modes 0 only reads; struct timex has 208 octets
    ctypes.CDLL(None, use_errno=True).adjtimex(timex)
    if int.from_bytes(timex.raw[_STATUS_AT : _STATUS_AT + 4], "little") & _UNSYNC:
        cure = "timedatectl set-ntp true (a container's clock is kept by its host)"
        yield Finding("clock", "warn", "nothing keeps the clock synchronised (STA_UNSYNC)", cure)
    else:
        yield Finding("clock", "ok", "synchronised")


def open_resolver(host: Host) -> Iterator[Finding]:
    """Strangers may not ask without limit."""
    limits, server = host.config.limits, host.config.server
    reachable = [text for text in server.listen if not ipaddress.ip_address(parse_endpoint(text).address).is_loopback]
    public = [text for text in server.allow_from if _is_public(text)]
    unlimited = not limits.queries_per_second or not limits.responses_per_second
    if reachable and public and unlimited:
        cure = "narrow `[server] allow_from`, or set `[limits] queries_per_second` and `responses_per_second`"
        yield Finding("open resolver", "fail", f"{', '.join(public)} may ask without rate limits", cure)
    else:
        yield Finding("open resolver", "ok", "strangers may not ask" if not public else "public clients are limited")


def _is_public(text: str) -> bool:
    """True unless the network lies within those that may ask by default: this host, private and link-local ones."""
    network = ipaddress.ip_network(text, strict=False)
    low, high = network[0], network[-1]
    return not any(low in home and high in home for home in map(ipaddress.ip_network, Server().allow_from))


def privileges(host: Host) -> Iterator[Finding]:
    """We may bind our ports, and do not stay root."""
    import pwd

    user, low = host.config.server.user, [t for t in host.config.server.listen if parse_endpoint(t).port < PRIVILEGED]
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", host.read("proc/self/status"), re.MULTILINE)
    able = found is not None and bool(int(found[1], 16) >> _NET_BIND & 1)
    if low and not able:
        cure = "start it as root with `[server] user`, or give it CAP_NET_BIND_SERVICE"
        yield Finding("privileges", "fail", f"this user may not bind {', '.join(low)}", cure)
    if user and user not in {entry.pw_name for entry in pwd.getpwall()}:
        yield Finding("privileges", "fail", f"there is no user {user}", f"useradd --system {user}")
    elif os.geteuid() == 0 and not user:
        yield Finding("privileges", "warn", "started as root it stays root", 'set `[server] user = "plughole"`')
    elif able or not low:
        yield Finding("privileges", "ok", "ports can be bound")


def data_dir(host: Host) -> Iterator[Finding]:
    """The data folder can be written and has room for the journal."""
    folder = host.config.data_dir
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Finding("data_dir", "fail", f"{there} cannot be written", f"chown it, or run as its owner: {folder}")
    free, wanted = shutil.disk_usage(there).free // MEGABYTE, host.config.journal.max_megabytes
    inodes = os.statvfs(there)
    if free < wanted:
        cure = "free space, or lower `[journal] max_megabytes`"
        yield Finding("disk", "warn", f"{free} MB free, the journal may take {wanted} MB", cure)
    else:
        yield Finding("disk", "ok", f"{free} MB free at {there}")
    if inodes.f_files and inodes.f_favail < MIN_INODES:
        yield Finding("disk", "fail", f"{inodes.f_favail} inodes free", "remove files from that file system")


def parts(host: Host) -> Iterator[Finding]:
    """Libraries, the Redis server and the feeds' files are there."""
    from console.serve import notes

    found = [
        Finding("parts", "warn" if text.startswith(("feed ", "no feed")) else "fail", text)
        for text in notes(host.config)
    ]
    yield from found or [Finding("parts", "ok", "libunbound, Redis and the feeds' files are there")]


def redis(host: Host) -> Iterator[Finding]:
    """Redis answers and never throws keys away."""
    from feeds.redis import connect, running

    if host.config.redis.url == "embedded" and not running(host.config):
        yield Finding("redis", "ok", "embedded, starts with the node")
        return
    try:
        client = connect(host.config)
        policy = client.config_get("maxmemory-policy")
        client.close()
    except Unavailable as error:
        yield Finding("redis", "fail", str(error), "start it, or change `[redis] url`")
        return
    if "noeviction" not in str(policy):
        cure = "redis-cli config set maxmemory-policy noeviction"
        yield Finding("redis", "fail", "it may evict keys: maxmemory-policy is not noeviction", cure)
    else:
        yield Finding("redis", "ok", "answers, and keeps what it is given")


def kernel(host: Host) -> Iterator[Finding]:
    """Descriptors and socket buffers suffice."""
    from resolver.sockets import RECEIVE_BUFFER

    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files != resource.RLIM_INFINITY and files < MIN_FILES:
        yield Finding("descriptors", "warn", f"at most {files} open files", "LimitNOFILE=65536 in the service unit")
    allowed = int(host.read("proc/sys/net/core/rmem_max"))
    state: Literal["ok", "warn"] = "ok" if allowed >= RECEIVE_BUFFER else "warn"
    cure = "" if state == "ok" else f"sysctl -w net.core.rmem_max={RECEIVE_BUFFER}"
    yield Finding("buffers", state, f"net.core.rmem_max is {allowed}, the node asks for {RECEIVE_BUFFER}", cure)


def workers(host: Host) -> Iterator[Finding]:
    """No more workers than cores."""
    wanted, cores = host.config.server.workers, len(os.sched_getaffinity(0))
    if wanted > cores:
        yield Finding("workers", "warn", f"{wanted} workers on {cores} cores", "set `[server] workers = 0`")
    else:
        yield Finding("workers", "ok", f"{wanted or cores} on {cores} cores")


def node(host: Host) -> Iterator[Finding]:
    """A running node is healthy and answers localhost. over UDP and TCP."""
    from console import status

    if not status.runs(host.config.data_dir):
        yield Finding("node", "ok", "does not run; what a running node says was not looked at")
        return
    troubles = [str(text) for text in status.ask(host.config.data_dir).get("degraded", [])]
    yield from [Finding("node", "warn", text, "`plughole status`") for text in troubles]
    for text in host.config.server.listen:
        yield from _answers(text)


def _answers(text: str) -> Iterator[Finding]:
    import dns.exception
    import dns.message
    import dns.query

    endpoint = parse_endpoint(text)
    at = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(endpoint.address, endpoint.address)
    for name, ask in (("UDP", dns.query.udp), ("TCP", dns.query.tcp)):
        try:
            ask(dns.message.make_query("localhost.", "A"), at, timeout=PATIENCE, port=endpoint.port)
        except (OSError, dns.exception.DNSException) as error:
            seen = f"no answer from {text} over {name}: {error}"
            yield Finding("node", "fail", seen, "`plughole status`; look at the firewall of this host")
        else:
            yield Finding("node", "ok", f"{text} answers over {name}")


def upstream(host: Host) -> Iterator[Finding]:
    """Each plain forward server answers, or one root server does; with signatures where we validate."""
    from core.servers import Server as Upstream
    from core.servers import parse_server

    config, validate = host.config.upstream, host.config.upstream.dnssec
    forward = config.mode == "forward"
    if forward:
        servers = [one for one in map(parse_server, config.servers) if one.scheme == "udp"]
    else:
        servers = [Upstream("udp", address, DNS_PORT) for address in _roots(host)]
    if not servers:
        return
    with ThreadPoolExecutor(MAX_ASKED) as pool:
        found = list(
            pool.map(lambda server: _asked(server.address, server.port, validate=validate), servers[:MAX_ASKED])
        )
    best = next((one for one in found if one.state == "ok"), found[0])
    yield from found if forward else [best]


def _roots(host: Host) -> list[str]:
    """Return the IPv4 addresses of a few root servers."""
    hints = host.config.upstream.root_hints
    if not hints:
        return list(ROOTS)
    text = (Path(host.config.base) / hints).read_text()
    return re.findall(r"\sA\s+([0-9.]+)", text)[: len(ROOTS)]


def _asked(address: str, port: int, *, validate: bool) -> Finding:
    import dns.exception
    import dns.message
    import dns.query
    import dns.rdatatype

    query = dns.message.make_query(".", "DNSKEY", want_dnssec=True)
    try:
        answer, _ = dns.query.udp_with_fallback(query, address, timeout=PATIENCE, port=port)
    except (OSError, dns.exception.DNSException) as error:
        cure = f"dig @{address} -p {port} . NS; let port {port} out of the firewall"
        return Finding("upstream", "fail", f"{address}@{port} does not answer: {error}", cure)
    signed = any(rrset.rdtype == dns.rdatatype.RRSIG for rrset in answer.answer)
    if validate and not signed:
        cure = "use a server that passes DNSSEC on, or set `[upstream] dnssec = false`"
        return Finding("upstream", "fail", f"{address}@{port} answers without signatures", cure)
    return Finding("upstream", "ok", f"{address}@{port} answers{' with signatures' if signed else ''}")


ALL: Final[tuple[Check, ...]] = (
    ports, resolv_conf, clock, open_resolver, privileges, data_dir, parts, redis, kernel, workers, upstream, node,
)  # fmt: skip
