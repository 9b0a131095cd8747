"""Targets around a worker's insides: the pipeline with hostile questions and with hostile replies, PROXY, cookies.

The scenes are made once a process; each run starts with empty caches, so that the same bytes do the same again.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from struct import pack
from typing import Final

import dns.message
import msgspec
from fuzz.on_wire import theirs
from scene import OFFICE, Peer, Scene

from core import rr
from core.config import Config
from core.errors import Malformed
from core.event import Transport
from core.wire import HEADER, SIGNATURES, Query, read_query, walk
from journal.columns import Texts, block, height
from resolver.cookies import CLIENT, Cookies, well_formed
from resolver.manners import REFUSED_TYPES
from resolver.proxy import MAX_HEADER, parse
from resolver.upstream import Answer, Question

STRANGER: Final = bytes((198, 51, 100, 9))  # outside `allow_from`
UDP_SIZE: Final = 1_232  # octets, the default of `server.udp_size`
MAX_TTL: Final = 86_400  # seconds, the default of `cache.max_ttl`
SECRET: Final = b"0123456789abcdef"
MANY: Final = 60  # address records of an honest answer: more than 512 octets hold, fewer than 1,232
IS_TCP, IS_STRANGER, WITH_DNS64, FAILS, WANTS_DNSSEC, PLAIN = 1, 2, 4, 8, 16, 32  # of a run's first octet


class Stage:
    """A scene with an upstream that says `wire` to everything, or, without one, answers honestly or not at all."""

    def __init__(self, *, dns64: bool) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="fuzz-")
        config = Config()
        if dns64:
            local = msgspec.structs.replace(config.local, dns64_prefix="2001:db8:64::/96")
            config = msgspec.structs.replace(config, local=local)
        self.scene = Scene(Path(self._folder.name), config, Cookies([SECRET]))
        self.scene.upstream.answer = self._answer  # type: ignore[method-assign]
        self.wire: bytes | None = None
        self.fails = False

    def reset(self, wire: bytes | None = None, *, fails: bool = False) -> Scene:
        """Forget what was, and let the upstream say this from now on."""
        scene = self.scene
        self.wire, self.fails = wire, fails
        scene.policy.default.answers.clear()
        scene.policy.default.rendered.clear()
        scene.clients.table.clear()
        scene.upstream.asked.clear()
        scene.outbox.passed(1.0)
        scene.pipeline.second(int(scene.now))
        return scene

    def _answer(self, question: Question) -> Answer:
        if self.fails:
            return Answer(b"", rr.Rcode.SERVFAIL, ede=rr.Ede.NETWORK_ERROR, ede_text="nobody answers")
        if self.wire is not None:
            return Answer(self.wire, self.wire[3] & 0x0F if len(self.wire) > 3 else 2, server="hostile")
        head = pack("!6H", 0, 0x8180, 1, MANY, 0, 0) + question.qname + pack("!HH", question.qtype, 1)
        some = b"".join(
            b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc6\x33\x64" + bytes((at,)) for at in range(MANY)
        )
        return Answer(head + some, server="honest")


@cache
def stage(*, dns64: bool) -> Stage:
    return Stage(dns64=dns64)


def pipeline(data: bytes) -> None:
    """Whatever is asked, the reply parses, belongs to the question, is no longer than it may be, and comes again."""
    switch, packet = data[0] if data else 0, data[1:]
    scene = stage(dns64=bool(switch & WITH_DNS64)).reset(fails=bool(switch & FAILS))
    transport = Transport.TCP if switch & IS_TCP else Transport.UDP
    address = STRANGER if switch & IS_STRANGER else OFFICE
    reply = ask(scene, packet, transport, address)
    try:
        query = read_query(packet)
    except Malformed as error:
        assert bool(reply) == error.answerable
        assert not reply or (len(reply) == HEADER and reply[3] & 0x0F == rr.Rcode.FORMERR)
        assert not reply or reply[:2] == packet[:2]
        return
    _check(packet, query, reply, transport)
    dns.message.from_wire(reply)
    known = scene.clients.meet(address).rendered(packet[2:])
    assert known is None or packet[:2] + known.body == reply
    assert ask(scene, packet, transport, address) == reply, "asked again, the answer is another"
    _told(scene)


def upstream(data: bytes) -> None:
    """Whatever an upstream says, what the client gets holds together; it parses for others when what came did."""
    switch, wire = data[0] if data else 0, data[1:]
    scene = stage(dns64=bool(switch & WITH_DNS64)).reset(wire)
    transport = Transport.TCP if switch & IS_TCP else Transport.UDP
    try:
        message = walk(wire)
        name, qtype = message.qname, message.qtype
    except Malformed:
        name, qtype = b"\x03www\x07example\x03com\x00", rr.A
    packet = _question(name, qtype, switch)
    query = read_query(packet)
    reply = ask(scene, packet, transport, OFFICE)
    _check(packet, query, reply, transport)
    found = walk(reply)
    assert all(record.ttl <= MAX_TTL for record in found.records)
    wanted = bool(switch & WANTS_DNSSEC and query.edns) or not found.signed
    assert wanted or all(one.rtype not in SIGNATURES or one.rtype == qtype for one in found.records)
    if theirs(wire, trailing=True) is not None:
        dns.message.from_wire(reply)
    _told(scene)


def _question(name: bytes, qtype: int, switch: int) -> bytes:
    packet = pack("!6H", 0x1234, 0x0100, 1, 0, 0, 0 if switch & PLAIN else 1) + name + pack("!HH", qtype, 1)
    if switch & PLAIN:
        return packet
    return packet + b"\x00" + pack("!HHIH", rr.OPT, UDP_SIZE, rr.DO if switch & WANTS_DNSSEC else 0, 0)


def ask(scene: Scene, packet: bytes, transport: Transport, address: bytes) -> bytes:
    """Return the reply, empty for none; there is never more than one."""
    peer = Peer(transport)
    body = scene.pipeline.handle(packet, scene.clients.meet(address), peer)
    if body is None:
        [got] = peer.got
        return got
    assert not peer.got
    return packet[:2] + bytes(body) if body else b""


def _check(packet: bytes, query: Query, reply: bytes, transport: Transport) -> None:
    assert reply[:2] == packet[:2]
    assert reply[2] & 0x80
    assert reply[2] & 0x78 == packet[2] & 0x78  # the opcode
    assert reply[4:6] == (b"\x00\x01" if query.question else b"\x00\x00")
    assert reply[HEADER:].startswith(query.question)
    limit = 65_535 if transport is not Transport.UDP else min(query.udp_size, UDP_SIZE) if query.edns else 512
    assert len(reply) <= limit
    if query.question and not query.odd and query.qtype in REFUSED_TYPES:
        assert reply[3] & 0x0F == rr.Rcode.REFUSED


def _told(scene: Scene) -> None:
    """What is told of it crosses to the hub and becomes columns."""
    events = scene.events()
    if events:
        assert height(block(events, Texts())) == len(events)


def proxy(data: bytes) -> None:
    """A header is found or refused, and what arrives in pieces is read as what arrives at once."""
    refused, whole = False, None
    try:
        whole = parse(data[:MAX_HEADER])
    except Malformed:
        refused = True
    for end in {*range(min(len(data), 20)), len(data) // 2, min(len(data), 52), min(len(data), MAX_HEADER)}:
        try:
            part = parse(data[:end])
        except Malformed:
            assert refused
            continue
        assert part is None or part == whole
    if whole:
        assert 16 <= whole.size <= min(len(data), MAX_HEADER)
        assert len(whole.source) in {0, 4, 16}


def cookies(data: bytes) -> None:
    """A cookie is ours when we made it for that address not long ago, never else; the reply is always well-formed."""
    ours = Cookies([SECRET, b"another secret!!"])
    now, sent = float(int.from_bytes(data[:5], "big")), data[5:45]
    if not well_formed(sent):
        sent = sent[:CLIENT].ljust(CLIENT, b"\x00")
    for address in (OFFICE, data[-16:].ljust(16, b"\x00")):
        made, known = ours.reply(sent, address, now)
        assert well_formed(made)
        assert made.startswith(sent[:CLIENT])
        assert not known
        assert ours.reply(made, address, now) == (made, True)
        assert not ours.reply(made, b"\x7f\x00\x00\x09", now)[1]
        assert not ours.reply(made, address, now + 3_601)[1]
