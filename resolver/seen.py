"""What agents saw, with names: entries of `egress:seen` become rows of the journal, and findings about clients. No I/O.

Rules:
1. A flow to an address that the client, which asks us, was never answered is marked `literal`, once this node has
   listened for SETTLED seconds. Where there are other nodes nothing is: they may have answered it.
2. A flow to a public encrypted resolver, and a connection to a DNS port elsewhere, is a way past us, but for this host.
3. The first attempt of a client at a blocked address in a day is a finding. So is every connection to one that was open
   when its block was ordered, but for those of this host, which asks name servers on behalf of its clients.
4. What cannot be read is counted. An agent's time is taken unless it is off by more than MAX_OFF.
"""

from __future__ import annotations

import math
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

from core.errors import UNREADABLE
from core.finding import Confidence, Evidence, Finding
from core.names import registered_domain, to_text
from detectors.alert_words import moment, octets
from detectors.bounded import Said
from detectors.bypass import shipped
from egress.orders import Attempt, Block, Flow, Talking, decode_order, decode_seen
from journal.flows import Kind, Row
from resolver.naming import Naming

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.names import Name

SETTLED: Final = 3_600.0  # seconds
DAY: Final = 86_400.0  # seconds
MAX_OFF: Final = 86_400.0  # seconds
MAX_BLOCKED: Final = 200_000  # addresses whose domain is remembered
MAX_SAID: Final = 50_000  # pairs of client and address told about
DETECTOR: Final = "egress"
TALKED: Final = "egress-talking"  # apart, so that an attempt does not take its place in the alert
MUCH: Final = 1_000_000  # octets that score half of what endless ones would
_KINDS: Final = {"pin": Kind.PIN, "bypass": Kind.BYPASS}
_PROTOCOLS: Final = {6: "TCP", 17: "UDP"}


class Intake:
    """What agents saw becomes rows and findings. No I/O."""

    def __init__(self, own_addresses: frozenset[bytes], *, now: float) -> None:
        self.naming = Naming(now=now)
        self.alone = True  # there is no other node
        self._own = own_addresses
        self._resolvers = shipped().addresses
        self._blocked: dict[bytes, Name] = {}  # address: the domain it was blocked for last
        self._said: Said[tuple[bytes, bytes]] = Said(MAX_SAID, every=DAY)
        kinds = ("entries", "garbled", "flows", "attempts", "bypasses", "literal", "talking")
        self._counts = dict.fromkeys(kinds, 0)

    def begin(self, now: float) -> None:
        """Names are collected from now on."""
        self.naming = Naming(now=now)

    def counters(self) -> dict[str, int]:
        """Return entries, those unread, flows, attempts, ways past us, literal addresses, talkers, all remembered."""
        return {**self._counts, "names": len(self.naming), "blocked": len(self._blocked)}

    def follow(self, orders: Iterable[bytes]) -> None:
        """Remember for which domain addresses are to be blocked."""
        for data in orders:
            try:
                order = decode_order(data)
            except UNREADABLE:
                continue  # of a newer version; whose attempts then go without a domain
            if isinstance(order, Block):
                for proposal in order.proposals:
                    self._blocked.pop(proposal.address, None)
                    self._blocked[proposal.address] = proposal.domain
        while len(self._blocked) > MAX_BLOCKED:
            del self._blocked[next(iter(self._blocked))]

    def take(self, data: bytes, now: float) -> tuple[list[Row], list[Finding]]:
        """Return the rows of an entry, and what is news about clients."""
        self._counts["entries"] += 1
        try:
            events = decode_seen(data).events
        except UNREADABLE:
            self._counts["garbled"] += 1
            return [], []
        rows: list[Row] = []
        findings: list[Finding] = []
        for event in events:
            if not (_is_address(event.client) and _is_address(event.address)):
                self._counts["garbled"] += 1
                continue
            if isinstance(event, Flow):
                rows.append(self._flow(event, now))
            elif isinstance(event, Talking):
                talked = self._talking(event, now)
                rows.append(talked)
                findings += [] if event.client in self._own else [talk(talked, self._domain(talked), event.since)]
            elif (row := self._attempt(event, now)) is not None:
                rows.append(row)
                findings += self._finding(row)
        return rows, findings

    def _flow(self, flow: Flow, now: float) -> Row:
        name = self.naming.name(flow.client, flow.address)
        past_us = flow.address in self._resolvers and flow.client not in self._own
        sure = self.alone and now - self.naming.since >= SETTLED
        literal = sure and not name and self.naming.asks(flow.client)
        self._counts["flows"] += 1
        self._counts["bypasses"] += past_us
        self._counts["literal"] += literal
        return Row(
            _moment(flow.at, now), Kind.BYPASS if past_us else Kind.FLOW, flow.agent, flow.client, flow.address,
            to_text(name) if name else "", literal, connections=flow.connections, sent=flow.sent,
            received=flow.received,
        )  # fmt: skip

    def _talking(self, talking: Talking, now: float) -> Row:
        name = self.naming.name(talking.client, talking.address) or self._blocked.get(talking.address, b"")
        self._counts["talking"] += 1
        return Row(
            _moment(talking.at, now), Kind.TALKING, talking.agent, talking.client, talking.address,
            to_text(name) if name else "", connections=talking.connections, sent=max(talking.sent, 0),
            received=max(talking.received, 0),
        )  # fmt: skip

    def _attempt(self, attempt: Attempt, now: float) -> Row | None:
        kind = _KINDS.get(attempt.rule, Kind.BLOCK)
        if kind is Kind.BYPASS and attempt.client in self._own:
            return None
        name = self.naming.name(attempt.client, attempt.address)
        if kind is Kind.BLOCK:
            name = name or self._blocked.get(attempt.address, b"")
        self._counts["bypasses" if kind is Kind.BYPASS else "attempts"] += 1
        return Row(
            _moment(attempt.at, now), kind, attempt.agent, attempt.client, attempt.address,
            to_text(name) if name else "", kind is not Kind.BLOCK and not name, attempt.protocol, attempt.port,
            attempt.mac, attempt.packets,
        )  # fmt: skip

    def _finding(self, row: Row) -> list[Finding]:
        if row.kind is not Kind.BLOCK or not self._said.due((row.client, row.address), row.at):
            return []
        return [finding(row, self._domain(row))]

    def _domain(self, row: Row) -> str:
        """Return the registered domain an address is blocked for; empty: not known."""
        domain = self._blocked.get(row.address, b"")
        return to_text(registered_domain(domain)) if domain else ""


def finding(row: Row, domain: str) -> Finding:
    """Return an attempt at a blocked address as a finding about the client and the domain it is blocked for."""
    client, address = str(ip_address(row.client)), str(ip_address(row.address))
    port = f" port {row.port}" if row.port else ""
    way = _PROTOCOLS.get(row.protocol, f"protocol {row.protocol}")
    mac = f", from {row.mac.hex(':')}" if row.mac else ""
    reason = f"tried to reach {address}{port} ({way}), which is blocked{f' for {row.name}' if row.name else ''}{mac}"
    return Finding(
        DETECTOR, client, domain or address, 1.0, Confidence.HIGH, reason, (Evidence("packets", row.packets, 1.0),)
    )


def talk(row: Row, domain: str, since: float) -> Finding:
    """Return open connections to what is newly blocked as a finding; of several the one with most octets scores best.

    `since` is when the first began, in Unix seconds; 0: not known.
    """
    client, address = str(ip_address(row.client)), str(ip_address(row.address))
    both = row.sent + row.received
    much = f"{octets(row.sent)} sent, {octets(row.received)} received" if both else "how much is not counted there"
    begun = f" since {moment(since)}" if math.isfinite(since) and 0 < since <= row.at else ""
    reason = (
        f"was talking to {address}{f' ({row.name})' if row.name else ''} when its block was ordered at "
        f"{moment(row.at)}: {much}{begun}"
    )
    shown = Evidence("octets sent", row.sent, 0.0), Evidence("octets received", row.received, 0.0)
    score = 0.5 + 0.5 * both / (both + MUCH)
    return Finding(TALKED, client, domain or address, score, Confidence.HIGH, reason, shown)


def _moment(at: float, now: float) -> float:
    return at if math.isfinite(at) and abs(at - now) <= MAX_OFF else now


def _is_address(data: bytes) -> bool:
    return len(data) in {4, 16}
