"""The running node: what its hub calls degraded, and whether it answers a question of our own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from console.checkups.host import ANY, Finding
from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    import dns.message

    from console.checkups.host import Host
    from core.endpoints import Endpoint


def node(host: Host) -> Iterator[Finding]:
    """A running node is healthy and answers localhost. over UDP and TCP (RFC 6761 section 6.3)."""
    try:
        found = host.system.status(host.config.data_dir)
    except Unavailable as error:
        yield Finding("node", "fail", str(error), "`journalctl -u plughole -n 50`")
        return
    if found is None:
        yield Finding("node", "ok", "does not run; what a running node says was not looked at")
        return
    for text in found.get("degraded") or ():
        yield Finding("node", "warn", f"degraded: {text}", "`plughole status` says what to do")
    for text, endpoint in host.listens:
        for tcp in (False, True):
            yield _answer(host, text, endpoint, tcp=tcp)


def _answer(host: Host, text: str, endpoint: Endpoint, *, tcp: bool) -> Finding:
    where = f"{text} over {'TCP' if tcp else 'UDP'}"
    at = ANY.get(endpoint.address, endpoint.address)
    try:
        answer = host.system.ask(at, endpoint.port, "localhost.", "A", tcp=tcp, dnssec=False)
    except (OSError, Unavailable) as error:
        cure = "`plughole status`; then the firewall of this host: `nft list ruleset`"
        return Finding("node", "fail", f"no answer from {where}: {error}", cure)
    if (said := _said(answer)) == "127.0.0.1" or not host.config.local.special_use:
        return Finding("node", "ok", f"{where} answers")
    cure = "look whether it is plughole that answers: `plughole status`, and `[server] allow_from` for this host"
    return Finding("node", "fail", f"{where} answers {said} for localhost., not 127.0.0.1", cure)


def _said(answer: dns.message.Message) -> str:
    """Return the addresses of an answer, or what it says instead."""
    import dns.rcode

    found = sorted(str(item) for rrset in answer.answer for item in rrset)
    return ", ".join(found) or dns.rcode.to_text(answer.rcode())
