"""What happens to a query the rendered cache does not answer: read, decide, resolve once, judge what came back, tell.

Order of the stages and why:
1. Malformed and unsupported questions end here: nothing behind this line sees hostile bytes it did not ask for.
2. The answer cache, per view: an entry is judged anew when the policy moved on.
3. Policy on the name, before anything leaves the building.
4. One upstream question for all who wait for the same one.
5. Policy on what came back: chain members, addresses, hints, name servers.
6. The reply first, the event after it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from core import rr
from core.errors import Malformed
from core.event import Event, Transport
from core.names import Name, suffixes
from core.verdict import UNTOUCHED, Action, Cause, Verdict
from core.wire import HEADER, Form, Message, Query, cut, read_query, walk
from resolver.answers import Answer, Rendered
from resolver.clients import Client
from resolver.judge import judge
from resolver.policy import Policy, Ruling, View, verdict
from resolver.render import age
from resolver.sinkhole import block_text
from resolver.subjects import subjects
from resolver.upstream import Answer as Reply
from resolver.upstream import Question

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.config import Cache as CacheSettings
    from resolver.outbox import Outbox
    from resolver.render import Renderer
    from resolver.sinkhole import Replacement, Sinkhole
    from resolver.upstream import Upstream

MAX_WAITERS: Final = 1_000  # clients waiting for one upstream question; the next is told SERVFAIL
FAILURE_TTL: Final = 2  # seconds a failure is remembered, RFC 9520 section 3.2: at least one
_REFUSED_TYPES: Final = frozenset((0, rr.OPT, *range(249, 255)))  # TKEY to MAILA: transfers and meta types, not ANY
_HEALTHY: Final = frozenset((rr.Rcode.NOERROR, rr.Rcode.NXDOMAIN))
NO_REPLY: Final = b""
_NODATA: Final = Action.NODATA  # enum members are slow to reach through their class
_TCP_ONLY: Final = Action.TCP_ONLY
_EMPTY: Final = Form(b"\x00" * 6, b"", ())


class Peer(Protocol):
    """Where a question came from and its reply goes."""

    transport: Transport

    def hold(self) -> Peer:
        """Return a peer that stays good when the reply has to wait."""

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        """Send the reply `identity + body`; an empty body is no reply."""


class Waiter(NamedTuple):
    """A client whose question is on its way."""

    query: Query
    client: Client
    peer: Peer
    key: bytes
    identity: bytes
    keys: list[Name]
    ruling: Ruling
    epoch: int
    started: float


class Pipeline:
    """The miss path of one worker. `stamp` moves on every second and with every change of policy."""

    def __init__(
        self,
        *,
        policy: Policy,
        upstream: Upstream,
        renderer: Renderer,
        sinkhole: Sinkhole,
        cache: CacheSettings,
        outbox: Outbox,
        clock: Callable[[], float],
    ) -> None:
        self.policy = policy
        self.stamp = 0
        self.counters = dict.fromkeys(("malformed", "refused", "blocked", "coalesced", "upstream", "failed"), 0)
        self._upstream = upstream
        self._renderer = renderer
        self._sinkhole = sinkhole
        self._cache = cache
        self._outbox = outbox
        self._clock = clock
        self._pending: dict[bytes, list[Waiter]] = {}

    @property
    def outstanding(self) -> int:
        """How many different questions are on their way upstream."""
        return len(self._pending)

    # ---- a query comes in

    def handle(self, data: bytes, client: Client, peer: Peer) -> bytes | bytearray | None:
        """Answer a query: the reply without its ID, empty for none, or None when the peer gets it later."""
        try:
            query = read_query(data)
        except Malformed as error:
            self.counters["malformed"] += 1
            return _format_error(data) if error.answerable else NO_REPLY
        if query.odd or not client.allowed or not self.policy.ready or query.qtype in _REFUSED_TYPES:
            self.counters["refused"] += 1
            return self._refusal(query, client)
        view = client.view
        keys = suffixes(query.qname)
        ruling = self.policy.rule(keys, view)
        if ruling.action >= _NODATA and (ruling.action is not _TCP_ONLY or peer.transport is Transport.UDP):
            return self._block(query, client, peer, keys, ruling)
        key = query.key
        answer = view.answers.table.get(key)
        if answer is not None and self._fresh(answer, view):
            answer.used = True
            return self._from_cache(query, answer, client, peer, data)
        return self._resolve(
            Waiter(query, client, peer.hold(), key, data[:2], keys, ruling, self.policy.epoch, self._clock())
        )

    def refresh(self, reply: Rendered, packet: bytes, view: View) -> bool:
        """Make a rendered reply fit to serve in this second; false when it must be made anew."""
        if not self._fresh(reply.answer, view):
            view.rendered.drop(packet)
            return False
        age(reply, self._clock())
        reply.stamp = self.stamp
        return True

    def _refusal(self, query: Query, client: Client) -> bytes:
        """Say why a question is not looked at."""
        failure = self._renderer.failure
        if not client.allowed:
            return failure(query, rr.Rcode.REFUSED, rr.Ede.PROHIBITED, "this resolver does not serve your network")
        if query.flags & rr.OPCODE:
            return failure(query, rr.Rcode.NOTIMP)
        if query.version:
            return failure(query, rr.Rcode.BADVERS)
        if query.qclass != rr.CLASS_IN or query.qtype in _REFUSED_TYPES:
            return failure(query, rr.Rcode.REFUSED, rr.Ede.NOT_SUPPORTED, "class or type not served")
        return failure(query, rr.Rcode.SERVFAIL, rr.Ede.NOT_READY, "threat intelligence is not loaded yet")

    def _fresh(self, answer: Answer, view: View) -> bool:
        """True when a cached answer may be served: not expired, and judged the same under today's policy."""
        if self._clock() < answer.expires:
            if answer.epoch == self.policy.epoch:
                return True
            keys = suffixes(answer.qname)
            ruling = self.policy.rule(keys, view)
            found = judge(self.policy, keys, ruling, answer.subjects, view)
            if ruling.action < Action.NODATA and found == answer.verdict:
                answer.epoch = self.policy.epoch
                return True
        view.answers.drop(answer.key)
        return False

    def _from_cache(self, query: Query, answer: Answer, client: Client, peer: Peer, data: bytes) -> bytes | bytearray:
        if answer.verdict.action is Action.DROP:
            self._tell(client, peer, query, answer, self._clock(), cached=True)
            return NO_REPLY
        if answer.verdict.action is _TCP_ONLY and peer.transport is Transport.UDP:
            self._tell(client, peer, query, answer, self._clock(), cached=True)
            return self._renderer.truncated(query)
        reply = self._render(query, answer, peer)
        if peer.transport is Transport.UDP:
            client.view.rendered.put(data[2:], reply)
            client.hits.append(reply)
        else:
            self._tell(client, peer, query, answer, self._clock(), cached=True)
        return reply.body

    def _render(self, query: Query, answer: Answer, peer: Peer) -> Rendered:
        udp = peer.transport is Transport.UDP
        limit = self._renderer.limit(query) if udp else 65_535
        return self._renderer.answer(query, answer, self._clock(), stamp=self.stamp, limit=limit)

    # ---- blocked by its name

    def _block(self, query: Query, client: Client, peer: Peer, keys: list[Name], ruling: Ruling) -> bytes:
        action, outbox = ruling.action, self._outbox
        self.counters["blocked"] += 1
        made = self._sinkhole.replacement(action, query.qtype)
        found = UNTOUCHED
        if outbox.room > 0:
            found = verdict(ruling, keys)
            self._tell_blocked(query, client, peer, found, made)
        else:
            outbox.over += 1
        renderer = self._renderer
        if action is Action.DROP:
            return NO_REPLY
        if action is _TCP_ONLY:
            return renderer.truncated(query)
        if not query.edns:
            return renderer.head(query, made.rcode, made.counts) + query.question + made.body
        counts = made.counts[:5] + bytes((made.counts[5] + 1,))
        text = block_text(found if found is not UNTOUCHED else verdict(ruling, keys))
        tail = renderer.opt(query, made.rcode, rr.Ede.BLOCKED, text)
        return renderer.head(query, made.rcode, counts) + query.question + made.body + tail

    def _tell_blocked(self, query: Query, client: Client, peer: Peer, found: Verdict, made: Replacement) -> None:
        self._outbox.add(
            Event(
                self._clock(), client.address, query.qname, query.qtype, made.rcode, found.action, found.cause,
                peer.transport, False, 1, 0, HEADER + len(query.question) + len(made.body), made.ttl, "", False,
                made.addresses, found.reasons, found.trigger, found.member, client.view.name,
            )
        )  # fmt: skip

    # ---- asked upstream

    def _resolve(self, waiter: Waiter) -> bytes | None:
        query = waiter.query
        waiting = self._pending.get(waiter.key)
        if waiting is None:
            self._pending[waiter.key] = [waiter]
            self.counters["upstream"] += 1
            question = Question(query.qname, query.qtype, query.qclass, checking_disabled=bool(query.cd))
            self._upstream.ask(question, partial(self._arrived, waiter.key))
            return None
        if len(waiting) >= MAX_WAITERS:
            self.counters["failed"] += 1
            return self._renderer.failure(query, rr.Rcode.SERVFAIL, rr.Ede.OTHER, "too many wait for this answer")
        self.counters["coalesced"] += 1
        waiting.append(waiter)
        return None

    def _arrived(self, key: bytes, reply: Reply) -> None:
        """Judge a reply once a view, and answer everybody who waits for it."""
        waiters = self._pending.pop(key)
        made: dict[int, Answer] = {}
        for waiting in waiters:
            waiter = self._current(waiting)
            if waiter is None:
                continue
            view = waiter.client.view
            answer = made.get(id(view))
            if answer is None:
                answer = made[id(view)] = self._answer(key, reply, waiter)
                if answer.ttl > 0:
                    view.answers.put(key, answer)
            self._finish(waiter, answer)

    def _current(self, waiter: Waiter) -> Waiter | None:
        """Judge a question anew if the policy moved on while it was away; None when it is blocked by now."""
        if waiter.epoch == self.policy.epoch:
            return waiter
        view = self.policy.view_of(waiter.client.address)
        client = Client(waiter.client.address, view, allowed=True)
        ruling = self.policy.rule(waiter.keys, view)
        if ruling.action < Action.NODATA or ruling.action is Action.TCP_ONLY:
            return waiter._replace(client=client, ruling=ruling)
        body = self._block(waiter.query, client, waiter.peer, waiter.keys, ruling)
        waiter.peer.deliver(waiter.identity, body)
        return None

    def _finish(self, waiter: Waiter, answer: Answer) -> None:
        query, peer = waiter.query, waiter.peer
        action = answer.verdict.action
        if action is Action.TCP_ONLY and peer.transport is Transport.UDP:
            peer.deliver(waiter.identity, self._renderer.truncated(query))
        elif action is Action.DROP:
            peer.deliver(waiter.identity, NO_REPLY)
        else:
            peer.deliver(waiter.identity, self._render(query, answer, peer).body)
        self._tell(waiter.client, peer, query, answer, waiter.started)

    def _answer(self, key: bytes, reply: Reply, waiter: Waiter) -> Answer:
        try:
            answer = self._accepted(key, reply, waiter) if reply.wire else None
        except Malformed as error:
            reply = Reply(b"", rr.Rcode.SERVFAIL, ede=rr.Ede.OTHER, ede_text=f"malformed reply: {error}")
            answer = None
        if answer is None:
            self.counters["failed"] += 1
            answer = self._failed(key, reply, waiter)
        answer.epoch = self.policy.epoch
        answer.upstream = reply.server
        return answer

    def _failed(self, key: bytes, reply: Reply, waiter: Waiter) -> Answer:
        answer = Answer(key, _EMPTY, None, reply.rcode or rr.Rcode.SERVFAIL)
        answer.ede = reply.ede if reply.ede >= 0 else (rr.Ede.BOGUS if reply.bogus else rr.Ede.OTHER)
        answer.ede_text = reply.ede_text
        answer.born = self._clock()
        answer.ttl = FAILURE_TTL
        answer.expires = answer.born + FAILURE_TTL
        answer.verdict = verdict(waiter.ruling, waiter.keys)
        return answer

    def _accepted(self, key: bytes, reply: Reply, waiter: Waiter) -> Answer:
        query, wire = waiter.query, reply.wire
        message = walk(wire)
        if message.qname != query.qname or message.qtype != query.qtype:
            raise Malformed("it answers another question")
        met, addresses = subjects(wire, message)
        found = judge(self.policy, waiter.keys, waiter.ruling, met, waiter.client.view)
        if found.action in (Action.SINKHOLE, Action.NODATA, Action.NXDOMAIN):
            answer = self._replaced(key, query, found)
        else:
            answer = self._true(key, wire, message, reply)
            answer.addresses = tuple(addresses)
        answer.subjects = tuple(met)
        answer.verdict = found
        answer.born = self._clock()
        answer.expires = answer.born + answer.ttl
        return answer

    def _replaced(self, key: bytes, query: Query, found: Verdict) -> Answer:
        self.counters["blocked"] += 1
        made = self._sinkhole.replacement(found.action, query.qtype)
        answer = Answer(key, Form(made.counts, made.body, ()), None, made.rcode)
        answer.ttl = made.ttl
        answer.ede = rr.Ede.BLOCKED
        answer.ede_text = block_text(found)
        answer.addresses = made.addresses
        return answer

    def _true(self, key: bytes, wire: bytes, message: Message, reply: Reply) -> Answer:
        plain = self._capped(cut(wire, message, signatures=False))
        signed = self._capped(cut(wire, message, signatures=True)) if message.signed else None
        answer = Answer(key, plain, signed, message.rcode)
        answer.secure = reply.secure
        answer.ttl = self._lifetime(wire, message)
        if message.rcode not in _HEALTHY:
            answer.ede = reply.ede if reply.ede >= 0 else rr.Ede.OTHER
            answer.ede_text = reply.ede_text or f"{reply.server} says {rr.rcode_text(message.rcode)}"
        return answer

    def _lifetime(self, wire: bytes, message: Message) -> int:
        """Seconds an answer may be kept; negative ones by their SOA (RFC 2308 section 5), without one not at all."""
        if message.rcode not in _HEALTHY:
            return FAILURE_TTL
        records = message.records
        if message.rcode == rr.Rcode.NXDOMAIN or not records or records[0].section != 1:
            soa = next((record for record in records if record.section == 2 and record.rtype == rr.SOA), None)
            minimum = int.from_bytes(wire[soa.end - 4 : soa.end], "big") if soa is not None else 0
            return min(message.lowest, minimum, self._cache.max_negative_ttl)
        return max(min(message.lowest, self._cache.max_ttl), self._cache.min_ttl)

    def _capped(self, form: Form) -> Form:
        low, high = self._cache.min_ttl, self._cache.max_ttl
        for _, ttl in form.ttls:
            if not low <= ttl <= high:
                return Form(form.counts, form.body, tuple((at, min(max(ttl, low), high)) for at, ttl in form.ttls))
        return form

    def _tell(
        self, client: Client, peer: Peer, query: Query, answer: Answer, started: float, *, cached: bool = False
    ) -> None:
        outbox = self._outbox
        if outbox.room <= 0:
            outbox.over += 1
            return
        found = answer.verdict
        now = self._clock()
        cause = found.cause
        if cause is Cause.NONE and not answer.plain.body and answer.ede >= 0:
            cause = Cause.UPSTREAM
        outbox.add(
            Event(
                now, client.address, query.qname, query.qtype, answer.rcode, found.action, cause, peer.transport,
                cached, 1, int((now - started) * 1e6), HEADER + len(query.question) + len(answer.plain.body),
                answer.ttl, answer.upstream, answer.secure, answer.addresses, found.reasons, found.trigger,
                found.member, client.view.name,
            )
        )  # fmt: skip


def _format_error(data: bytes) -> bytes:
    """FORMERR without a question section: what was asked could not be read."""
    flags = rr.QR | rr.RA | (int.from_bytes(data[2:4], "big") & (rr.RD | rr.OPCODE)) | rr.Rcode.FORMERR
    return flags.to_bytes(2, "big") + b"\x00" * 8
