"""A pipeline as a scene: a scripted upstream, a fake clock, a client that asks and reads."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from core import rr
from core.config import Config
from core.event import Event, Transport, decode_batch
from core.names import from_text
from core.verdict import Action
from feeds.index import Index, Match, build
from feeds.overlay import Override
from resolver.answers import LIFE
from resolver.assemble import assemble
from resolver.clients import Clients
from resolver.cookies import Cookies
from resolver.outbox import Outbox
from resolver.upstream import Answer, Question
from resolver.upstream.route import in_front

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

LISTED = {
    "evil.example": (Match("list-a", "malware", 90, Action.SINKHOLE), Match("list-b", "c2", 60, Action.SINKHOLE)),
    "good.evil.example": (Match("friends", "allow", 100, Action.PASSTHRU),),
    "watch.example": (Match("list-c", "adware", 40, Action.ALERT),),
    "both.example": (Match("list-a", "malware", 90, Action.SINKHOLE), Match("friends", "", 100, Action.PASSTHRU)),
    "exact.example": (Match("list-a", "malware", 90, Action.SINKHOLE, exact=True, below=False),),
}
OFFICE = bytes((127, 0, 0, 1))
OTHER = bytes((127, 0, 0, 2))


class Scripted:
    """An upstream that answers from a table, or keeps the question until it is told to answer."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], list[str]] = {}
        self.asked: list[Question] = []
        self.held: list[tuple[Question, Callable[[Answer], None]]] = []
        self.hold = False

    def start(self) -> None: ...

    def close(self) -> None: ...

    def counters(self) -> dict[str, int]:
        return {}

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        self.asked.append(question)
        if self.hold:
            self.held.append((question, done))
        else:
            done(self.answer(question))

    def answer(self, question: Question) -> Answer:
        name = dns.name.from_wire(question.qname, 0)[0]
        key = (name.to_text(omit_final_dot=True), rr.type_text(question.qtype))
        if key not in self.records:
            return Answer(b"", rr.Rcode.SERVFAIL, ede=rr.Ede.NETWORK_ERROR, ede_text="nobody answers")
        message = dns.message.make_response(
            dns.message.make_query(name, dns.rdatatype.RdataType(question.qtype), use_edns=0)
        )
        for text in self.records[key]:
            if text == "NXDOMAIN":
                message.set_rcode(dns.rcode.NXDOMAIN)
                continue
            owner, ttl, kind, data = text.split(maxsplit=3)
            section = message.authority if kind == "SOA" else message.answer
            section.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
        return Answer(bytes(message.to_wire()), secure=name.to_text() == "signed.example.", server="script")

    def release(self) -> None:
        held, self.held = self.held, []
        for question, done in held:
            done(self.answer(question))


class Peer:
    """Collects what is delivered."""

    def __init__(self, transport: Transport = Transport.UDP) -> None:
        self.transport = transport
        self.got: list[bytes] = []

    def hold(self) -> Peer:
        return self

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        self.got.append(identity + bytes(body) if body else b"")


class Scene:
    """A pipeline with everything around it."""

    def __init__(self, folder: Path, config: Config | None = None, cookies: Cookies | None = None) -> None:
        config = config or Config()
        self.now = 1_000_000.0
        self.ahead = 0.0  # seconds by which the clock of the wall is ahead of the one that never goes back
        self.upstream = Scripted()
        self.far, self.near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.far.setblocking(False)
        self.outbox = Outbox(self.near, worker=0, per_second=1_000)
        engine = in_front(self.upstream, config)
        self.pipeline = assemble(
            config,
            workers=1,
            upstream=engine,
            outbox=self.outbox,
            clock=lambda: self.now,
            wall=lambda: self.now + self.ahead,
            cookies=cookies,
        )
        self.policy = self.pipeline.policy
        sets = tuple(LISTED.values())
        path = folder / "1.index"
        path.write_bytes(build(1, {from_text(name): at for at, name in enumerate(LISTED)}, sets, created=0.0))
        self.policy.use_index(Index.open(path))
        self.clients = Clients(self.policy, self.pipeline.limits, config.server.allow_from, config.server.proxy_from)

    def close(self) -> None:
        self.near.close()
        self.far.close()

    def ask(
        self, name: str, rdtype: str = "A", *, client: bytes = OFFICE, tcp: bool = False, **options: Any
    ) -> dns.message.Message | None:
        packet, peer = self.send(name, rdtype, client=client, tcp=tcp, **options)
        return self.read(packet, peer)

    def send(
        self, name: str, rdtype: str = "A", *, client: bytes = OFFICE, tcp: bool = False, **options: Any
    ) -> tuple[bytes, Peer]:
        """Do what the listeners do: the rendered cache first, the pipeline then."""
        packet = bytes(dns.message.make_query(name, rdtype, **({"use_edns": 0} | options)).to_wire())
        peer = Peer(Transport.TCP if tcp else Transport.UDP)
        who = self.clients.meet(client)
        known = None if tcp else who.rendered(packet[2:])
        if known is not None and (
            self.pipeline.stamp - known.stamp < LIFE or self.pipeline.refresh(known, packet[2:], who.view)
        ):
            who.hits.append(known)
            peer.deliver(packet[:2], known.body)
            return packet, peer
        body = self.pipeline.handle(packet, who, peer)
        if body is not None:
            peer.deliver(packet[:2], body)
        return packet, peer

    def read(self, packet: bytes, peer: Peer) -> dns.message.Message | None:
        if not peer.got or not peer.got[0]:
            return None
        assert len(peer.got) == 1
        reply = dns.message.from_wire(peer.got[0])
        assert dns.message.from_wire(packet).is_response(reply)
        return reply

    def later(self, seconds: float) -> None:
        self.now += seconds
        self.pipeline.second(int(self.now))
        self.pipeline.tick()
        if self.policy.tick(self.now):
            self.clients.forget()
            self.pipeline.invalidate()

    def override(self, *overrides: Override) -> None:
        self.policy.use_overrides(overrides, self.now)
        self.clients.forget()
        self.pipeline.invalidate()

    def events(self) -> list[Event]:
        self.outbox.add_hits(self.clients.drain())
        while self.outbox.tell_hits(self.now):
            pass
        while self.outbox.flush():
            pass
        found: list[Event] = []
        while True:
            try:
                found += decode_batch(self.far.recv(300_000)).events
            except BlockingIOError:
                return found
