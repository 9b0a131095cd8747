"""The unbound.conf our own settings amount to, or every mistake in them at once.

Rules:
1. Nothing is written before `mistakes` found none: it refuses every server, zone and path with a character that could
   end a quoted string or a line. Nothing else of the configuration but numbers enters the text.
2. Only options that libunbound has had since 1.13 (Debian 11) are used: one unknown option refuses the whole file.
"""

from __future__ import annotations

import re
import resource
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import BadConfig
from core.servers import Server, parse_server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from core.config import Upstream, Zone

# Our own answer cache stands in front, so these hold what recursion itself lives on. One set a worker.
MSG_CACHE: Final = "4m"  # bytes; whole replies, each asked for again only after the answer cache dropped it
RRSET_CACHE: Final = "16m"  # bytes; delegations, server addresses and keys: about 40,000 RRsets
KEY_CACHE: Final = "2m"  # bytes; validated DNSKEYs, about 2,000 zones
NEGATIVE_CACHE: Final = "1m"  # bytes; NSEC chains for aggressive use, RFC 8198
OUTGOING_TCP: Final = 64  # connections; each owns a 64 kB buffer and carries many questions
MIN_SOCKETS: Final = 64  # outgoing UDP sockets, however small the process's limit of descriptors is
UDP_SIZE: Final = 1_232  # octets asked for by EDNS(0): what every path carries unfragmented (DNS flag day 2020)

# The root zone's key-signing keys, as published by IANA (root-anchors.xml): KSK-2017 and KSK-2024.
ROOT_ANCHORS: Final = (
    ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D",
    ". IN DS 38696 8 2 683D2D0ACB8C9B712A1948B27F741219298D0A450D612C483AF444A4C0FB2B16",
)

LOOPBACK: Final = IPv4Network("127.0.0.0/8")

_ZONE: Final = re.compile(r"(?:[A-Za-z0-9_-]{1,63}\.)*[A-Za-z0-9_-]{1,63}\.?")
MAX_ZONE: Final = 254  # characters with the last dot, RFC 1035 section 3.1
_IF_INET6: Final = Path("/proc/thread-self/net/if_inet6")
_GLOBAL_SCOPE: Final = "00"  # fourth column of if_inet6


class Relay(Protocol):
    """Where TLS servers are reached in clear: on ports of one loopback address (see `TlsRelay`)."""

    @property
    def address(self) -> str:
        """The loopback address of every port."""

    def port(self, server: Server) -> int:
        """Return the port that leads to `server`."""


def conf_text(settings: Upstream, *, base: Path, relay: Relay, validate: bool = True) -> str:
    """Return the unbound.conf of `settings`, paths taken from `base`; `validate` false leaves DNSSEC checks out.

    Raises BadConfig with every mistake and its path; `relay` is asked for ports only when there is none.
    """
    if found := mistakes(settings, base=base):
        raise BadConfig(found)
    validate = validate and settings.dnssec
    lines = [
        *_server_lines(settings),
        f'module-config: "{"validator iterator" if validate else "iterator"}"',
        *_files(settings, base, validate=validate),
        *_localhost(settings, relay),
    ]
    for zone in settings.zone:
        lines += _zone_options(zone)
    if settings.mode == "forward":
        lines += _forward_zone(".", settings.servers, relay)
    for zone in settings.zone:
        lines += _forward_zone(_canonical(zone.name), zone.servers, relay)
    return "\n".join(["server:", *lines, ""])


def mistakes(settings: Upstream, *, base: Path) -> list[str]:
    """Return every mistake in `settings`, each one line that begins with its path."""
    return [*_file_mistakes(settings, base), *_server_mistakes(settings), *_zone_mistakes(settings)]


def tls_servers(settings: Upstream) -> bool:
    """True when a server is to be asked over TLS."""
    texts = [*settings.servers, *(text for zone in settings.zone for text in zone.servers)]
    return any(text.lower().startswith("tls:") for text in texts)


def _server_lines(settings: Upstream) -> list[str]:
    return [
        "verbosity: 0",
        "use-syslog: no",
        "val-log-level: 2",  # what fills the reason given with a bogus answer; nothing is written
        'chroot: ""',
        'username: ""',
        'pidfile: ""',
        "num-threads: 1",
        "do-ip4: yes",
        f"do-ip6: {_yes(ipv6_usable())}",
        "prefer-ip6: no",
        f"outgoing-range: {outgoing_sockets(settings.max_outstanding)}",
        f"num-queries-per-thread: {settings.max_outstanding}",
        f"outgoing-num-tcp: {OUTGOING_TCP}",
        f"edns-buffer-size: {UDP_SIZE}",
        *_cache_lines(),
        f"qname-minimisation: {_yes(settings.qname_minimisation)}",
        "aggressive-nsec: yes",
        "harden-glue: yes",
        "harden-dnssec-stripped: yes",
        "harden-below-nxdomain: yes",
        "harden-algo-downgrade: no",  # RFC 6840 section 5.11: one valid path suffices
    ]


def _cache_lines() -> list[str]:
    slabs = [f"{cache}-cache-slabs: 1" for cache in ("msg", "rrset", "key", "infra")]  # one thread: no lock to share
    return [
        *slabs,
        f"msg-cache-size: {MSG_CACHE}",
        f"rrset-cache-size: {RRSET_CACHE}",
        f"key-cache-size: {KEY_CACHE}",
        f"neg-cache-size: {NEGATIVE_CACHE}",
    ]


def outgoing_sockets(wanted: int) -> int:
    """Return how many UDP sockets to use: one a question, but at most half of the descriptors this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = wanted if soft == resource.RLIM_INFINITY else soft // 2
    return max(MIN_SOCKETS, min(wanted, allowed))


def ipv6_usable() -> bool:
    """True when an interface of this network namespace has a global IPv6 address."""
    try:
        rows = _IF_INET6.read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(len(columns := row.split()) > 3 and columns[3] == _GLOBAL_SCOPE for row in rows)


def _files(settings: Upstream, base: Path, *, validate: bool) -> list[str]:
    lines = []
    if settings.root_hints:  # otherwise libunbound brings the list of IANA's root servers
        lines.append(f'root-hints: "{_absolute(settings.root_hints, base)}"')
    if validate and not settings.trust_anchors:
        lines += [f'trust-anchor: "{anchor}"' for anchor in ROOT_ANCHORS]
    elif validate:
        lines += [f'trust-anchor-file: "{_absolute(name, base)}"' for name in settings.trust_anchors]
    return lines


def _localhost(settings: Upstream, relay: Relay) -> list[str]:
    """No published record may send recursion to this host, but the relay's ports must be within reach."""
    if settings.query_localhost or not tls_servers(settings):
        return [f"do-not-query-localhost: {_yes(not settings.query_localhost)}"]
    others = sorted(LOOPBACK.address_exclude(IPv4Network(relay.address)))
    return ["do-not-query-localhost: no", *(f"do-not-query-address: {net}" for net in ("::1/128", *others))]


def _zone_options(zone: Zone) -> list[str]:
    name = _canonical(zone.name)
    lines = [f'local-zone: "{name}" transparent']  # libunbound answers `test.` and private reverse zones by itself
    return lines if zone.dnssec else [*lines, f'domain-insecure: "{name}"']


def _forward_zone(name: str, texts: tuple[str, ...], relay: Relay) -> list[str]:
    servers = [parse_server(text) for text in texts]
    lines = ["forward-zone:", f'name: "{name}"']
    if servers[0].scheme == "tls":
        return [
            *lines,
            *(f"forward-addr: {relay.address}@{relay.port(to)}" for to in servers),
            "forward-tcp-upstream: yes",
        ]
    return [*lines, *(f"forward-addr: {server.address}@{server.port}" for server in servers)]


def _file_mistakes(settings: Upstream, base: Path) -> Iterator[str]:
    files = [("upstream.root_hints", settings.root_hints), ("upstream.tls_ca_file", settings.tls_ca_file)]
    files += [(f"upstream.trust_anchors[{at}]", name) for at, name in enumerate(settings.trust_anchors)]
    for where, name in files:
        path = _absolute(name, base)
        if name and (not path.isprintable() or '"' in path):
            yield f"{where}: {name!r}: a path may hold no quotes and no control characters"
        elif (name or "anchors" in where) and not Path(path).is_file():
            yield f"{where}: no file {path}"


def _server_mistakes(settings: Upstream) -> Iterator[str]:
    if settings.mode == "forward":
        yield from _list_mistakes(settings.servers, "upstream.servers")
    for at, zone in enumerate(settings.zone):
        yield from _list_mistakes(zone.servers, f"upstream.zone[{at}].servers")


def _list_mistakes(texts: tuple[str, ...], where: str) -> Iterator[str]:
    if not texts:
        yield f"{where}: empty; name at least one server"
    schemes = set()
    for at, text in enumerate(texts):
        try:
            schemes.add(parse_server(text).scheme)
        except ValueError as error:
            yield f"{where}[{at}]: {error}"
    if "https" in schemes:
        yield f'{where}: https:// servers need mode = "forward" and dnssec = false'
    elif len(schemes) > 1:
        yield f"{where}: mixes plain and tls:// servers; use one kind, or every answer could be had in clear"


def _zone_mistakes(settings: Upstream) -> Iterator[str]:
    seen: set[str] = set()
    for at, zone in enumerate(settings.zone):
        where, name = f"upstream.zone[{at}].name", _canonical(zone.name)
        if not _ZONE.fullmatch(zone.name) or len(name) > MAX_ZONE:
            yield f'{where}: {zone.name[:80]!r} is not a zone; write "corp.example" (letters, digits, - and _)'
        elif name in seen:
            yield f"{where}: {name} is given twice; put all its servers in one table"
        seen.add(name)


def _canonical(zone: str) -> str:
    return f"{zone.removesuffix('.').lower()}."


def _absolute(name: str, base: Path) -> str:
    return str((base / name).absolute())


def _yes(value: bool) -> str:  # noqa: FBT001  a value to print, not a switch
    return "yes" if value else "no"
