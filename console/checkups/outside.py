"""The servers we ask: each answers, with signatures where we validate.

Rules:
1. All are asked at the same time, each in a thread that holds up nothing, and each tells its finding when it has it.
2. tls:// and https:// servers are connected to; their certificates are for the running node to judge.
"""

from __future__ import annotations

import queue
import re
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from console.checkups.host import Finding
from core.errors import Unavailable
from core.servers import DNS_PORT, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import dns.message

    from console.checkups.host import Host

MAX_ASKED: Final = 16  # servers, asked at the same time
ROOT: Final = "root server"
ROOTS: Final = ("198.41.0.4", "199.7.91.13", "192.5.5.241")  # a, d and f.root-servers.net


def upstream(host: Host) -> Iterator[Finding]:
    """Every server of the configuration answers, and one root server where we start from the root."""
    config = host.config.upstream
    calls = [partial(_look, host, key, server, signed=_signed(host, key)) for key, server in host.upstreams]
    if len(calls) > MAX_ASKED:
        yield Finding("upstream", "warn", f"{len(calls) - MAX_ASKED} of {len(calls)} servers were not asked")
    if config.mode == "recursive":
        calls.insert(0, partial(_root, host))
    yield from _together(calls[:MAX_ASKED])


def _signed(host: Host, key: str) -> bool:
    """Return whether answers of these servers are validated."""
    config = host.config.upstream
    zones = {f"[[upstream.zone]] {zone.name}": zone.dnssec for zone in config.zone}
    return config.dnssec and zones.get(key, True)


def _together(calls: list[partial[Finding]]) -> Iterator[Finding]:
    """Yield what the calls return, as it comes."""
    found: queue.SimpleQueue[Finding] = queue.SimpleQueue()
    for call in calls:
        threading.Thread(target=lambda call=call: found.put(_safe(call)), daemon=True).start()
    for _ in calls:
        yield found.get()


def _safe(call: Callable[[], Finding]) -> Finding:
    try:
        return call()
    except Exception as error:  # noqa: BLE001  a thread that dies would leave its reader waiting
        return Finding("upstream", "warn", f"could not look: {type(error).__name__}: {error}")


def _root(host: Host) -> Finding:
    """Return the finding of the first root server that answers, else of the last one asked."""
    addresses = _roots(host)
    if not addresses:
        return Finding("upstream", "fail", "`[upstream] root_hints` names no address", "correct that file")
    answers = _together(
        [
            partial(_look, host, ROOT, Server("udp", address, DNS_PORT), signed=host.config.upstream.dnssec)
            for address in addresses
        ]
    )
    last = next(answers)
    while last.state != "ok" and (following := next(answers, None)):
        last = following
    return last


def _roots(host: Host) -> list[str]:
    """Return the addresses of a few root servers, IPv4 first."""
    hints = host.config.upstream.root_hints
    if not hints:
        return list(ROOTS)
    text = (Path(host.config.base) / hints).read_text(errors="replace")
    four, six = (re.findall(rf"\s{kind}\s+([0-9a-fA-F.:]+)\s*$", text, re.MULTILINE) for kind in ("A", "AAAA"))
    return [*four, *six][: len(ROOTS)]


def _look(host: Host, key: str, server: Server, *, signed: bool) -> Finding:
    where = f"{key}: {server.text}"
    name = key.removeprefix("[[upstream.zone]] ") if key.startswith("[[upstream.zone]]") else "."
    try:
        if server.scheme != "udp":
            host.system.connect(server.connect_to or server.address, server.port)
            return Finding("upstream", "ok", f"{where} accepts connections")
        rdtype = "DNSKEY" if signed else "SOA"
        answer = host.system.ask(server.address, server.port, name, rdtype, tcp=False, dnssec=True)
    except (OSError, Unavailable) as error:
        kind = "tcp" if server.scheme != "udp" else "udp and tcp"
        cure = f"let {kind} port {server.port} to {server.address} through the firewalls, or use another server"
        return Finding("upstream", "fail", f"{where} does not answer: {error}", cure)
    return _judge(where, answer, signed=signed)


def _judge(where: str, answer: dns.message.Message, *, signed: bool) -> Finding:
    import dns.rcode
    import dns.rdatatype

    if answer.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
        cure = "let this host ask it, or use another server"
        return Finding("upstream", "fail", f"{where} answers {dns.rcode.to_text(answer.rcode())}", cure)
    has = any(rrset.rdtype == dns.rdatatype.RRSIG for rrset in answer.answer)
    if signed and not has:
        cure = "use a server that passes DNSSEC on, or set `dnssec = false` there"
        if where.startswith(ROOT):
            cure = (
                "something on the way answers in its place: let port 53 through untouched, or forward to tls:// servers"
            )
        return Finding("upstream", "fail", f"{where} answers without signatures", cure)
    return Finding("upstream", "ok", f"{where} answers{' with signatures' if has else ''}")
