"""What happens to a query the rendered cache does not answer: read, decide, resolve once, judge what came back, tell.

Order of the stages and why:
1. Malformed and unsupported questions end here: nothing behind this line sees hostile bytes it did not ask for.
2. Local names, which nobody outside has a say in.
3. Policy on the name, before anything leaves the building.
4. The answer cache, per view: an entry is judged anew when the policy moved on.
5. One upstream question for all who wait for the same one; too many new names of one domain are damped.
6. Policy on what came back: chain members, addresses, hints, name servers.
7. The reply first, the event after it.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from core import rr
from core.errors import Malformed
from core.event import Transport
from core.names import Name, registered, suffixes
from core.verdict import Action, Cause, Verdict
from core.wire import HEADER, Query, read_query
from resolver.answers import LIFE, NEVER, Answer, Rendered
from resolver.blocking import NO_REPLY, Blocker
from resolver.clients import Client
from resolver.judge import judge
from resolver.latency import Latency
from resolver.manners import REFUSED_TYPES, format_error
from resolver.metering import LEAST_TTL, Metering
from resolver.render import age, take_turns
from resolver.replies import HEALTHY
from resolver.upstream import Answer as Reply
from resolver.upstream import Question
from resolver.waiting import Flight, Waiter

if TYPE_CHECKING:
    from collections.abc import Callable

    from resolver.limits import Damper, Limits
    from resolver.local import LocalZones
    from resolver.manners import Manners
    from resolver.policy import Policy, Ruling, View
    from resolver.render import Renderer
    from resolver.replies import Replies
    from resolver.sinkhole import Replacement
    from resolver.telling import Teller
    from resolver.upstream import Upstream
    from resolver.waiting import Peer

MAX_WAITERS: Final = 1_000  # clients waiting for one upstream question; the next is told SERVFAIL
PATIENCE: Final = 1.8  # seconds a client waits while an expired answer lies ready, RFC 8767 section 5
GRACE: Final = 1.0  # seconds after its end in which the next question renews an answer instead of waiting for a new one
LOCAL: Final = Verdict(Action.NONE, Cause.LOCAL)
_NODATA: Final = Action.NODATA  # enum members are slow to reach through their class
_TCP_ONLY: Final = Action.TCP_ONLY
_DROP: Final = Action.DROP
_UDP: Final = Transport.UDP


class Pipeline:
    """The miss path of one worker. `stamp` moves LIFE a second, and at once with a change of policy."""

    def __init__(
        self,
        *,
        policy: Policy,
        upstream: Upstream,
        renderer: Renderer,
        blocker: Blocker,
        replies: Replies,
        manners: Manners,
        local: LocalZones,
        limits: Limits,
        damper: Damper,
        teller: Teller,
        clock: Callable[[], float],
        minimal: Replacement | None = None,
        metering: Metering | None = None,
    ) -> None:
        """`clock` never goes back; `minimal` answers questions for ANY, without it they go upstream."""
        self.metering = metering
        self.policy = policy
        self.manners = manners
        self.limits = limits
        self.stamp = 0
        self._changes = 0  # stamps by which changes of policy moved it on
        self.malformed = self.refused = self.coalesced = self.asked = self.rejected = 0
        self.stale = self.prefetched = 0
        self._latency = Latency()
        self._upstream = upstream
        self._renderer = renderer
        self._blocker = blocker
        self._replies = replies
        self._local = local
        self._tops = local.tops
        self._damper = damper
        self._teller = teller
        self._clock = clock
        self._minimal = minimal
        self._pending: dict[bytes, Flight] = {}
        self._impatient: deque[tuple[float, bytes, Flight]] = deque()

    @property
    def outstanding(self) -> int:
        """How many different questions are on their way upstream."""
        return len(self._pending)

    def handle(self, data: bytes, client: Client, peer: Peer) -> bytes | bytearray | None:
        """Answer a query: the reply without its ID, empty for none, or None when the peer gets it later."""
        try:
            query = read_query(data)
        except Malformed as error:
            self.malformed += 1
            return format_error(data) if error.answerable else NO_REPLY
        known = query.asks and self.manners.answer_options(query, client.address, peer.transport)
        replies = client.replies
        if replies is not None and not known and peer.transport is _UDP and not self.limits.may_reply(replies):
            return self.manners.unproven(query) if self.limits.slipped & 1 else NO_REPLY
        if query.odd or not client.allowed or not self.policy.ready or query.qtype in REFUSED_TYPES:
            self.refused += 1
            return self.manners.refusal(query, allowed=client.allowed)
        view = client.view
        keys = suffixes(query.qname)
        if keys and (keys[-1] in self._tops or len(keys) == 1):
            made = self._local.find(keys, query.qtype)
            if made is not None:
                return self._from_stock(query, client, peer, data, made)
        ruling = self.policy.rule(keys, view)
        if ruling.action >= _NODATA and (ruling.action is not _TCP_ONLY or peer.transport is _UDP):
            return self._blocker.by_name(query, client, peer, keys, ruling)
        answer = view.answers.table.get(query.key)
        if answer is not None and self._fresh(answer, view):
            answer.used = True
            return self._from_cache(query, answer, client, peer, data)
        if query.qtype == rr.ANY and self._minimal is not None:
            return self._from_stock(query, client, peer, data, self._minimal)
        epoch, now = self.policy.epoch, self._clock()
        return self._resolve(
            Waiter(query, client, peer.hold(), data[:2], keys, ruling, epoch=epoch, started=now), answer
        )

    def refresh(self, reply: Rendered, packet: bytes, view: View) -> bool:
        """Make a rendered reply fit to serve in this second; false when it must be made anew."""
        answer = reply.answer
        newest = view.answers.table.get(answer.key)
        if (newest is not None and newest is not answer) or not self._fresh(answer, view):
            view.rendered.drop(packet)
            return False
        reply.stamp = self.stamp
        age(reply, self._clock())
        take_turns(reply)
        return True

    def _fresh(self, answer: Answer, view: View) -> bool:
        """True when a cached answer may be served: not expired, and judged the same under today's policy."""
        now = self._clock()
        if answer.renew_at <= now < answer.expires + GRACE and self._stands(answer, view):
            self._renew(answer, view, now)
        if now < answer.expires:
            return self._stands(answer, view)
        if now >= answer.stale_until:
            self._forget(answer, view)
        return False

    def _stands(self, answer: Answer, view: View) -> bool:
        """True when today's policy says of a cached answer what was said when it came; else it is forgotten."""
        if answer.epoch == self.policy.epoch:
            return True
        keys = suffixes(answer.qname)
        ruling = self.policy.rule(keys, view)
        if ruling.action < _NODATA and judge(self.policy, keys, ruling, answer.subjects, view) == answer.verdict:
            answer.epoch = self.policy.epoch
            return True
        self._forget(answer, view)
        return False

    def _forget(self, answer: Answer, view: View) -> None:
        if view.answers.table.get(answer.key) is answer:
            view.answers.drop(answer.key)

    def _from_stock(
        self, query: Query, client: Client, peer: Peer, data: bytes, made: Replacement
    ) -> bytes | bytearray | None:
        """Answer with what is made here."""
        key, now, answers = query.key, self._clock(), client.view.answers
        answer = answers.table.get(key)
        if answer is None or answer.verdict is not LOCAL or now >= answer.expires:
            answer = self._replies.local(key, made, LOCAL, now)
            answers.put(key, answer)
        return self._from_cache(query, answer, client, peer, data)

    def _from_cache(
        self, query: Query, answer: Answer, client: Client, peer: Peer, data: bytes
    ) -> bytes | bytearray | None:
        if answer.verdict.action is _DROP:
            self._teller.answered(query, client, peer, answer, cached=True)
            return NO_REPLY
        if answer.verdict.action is _TCP_ONLY and peer.transport is _UDP:
            self._teller.answered(query, client, peer, answer, cached=True)
            return self._renderer.truncated(query)
        reply = self._render(query, answer, peer)
        if peer.transport is _UDP and not query.options:
            client.view.rendered.put(data[2:], reply)
            client.hits.append(reply)
        else:
            self._teller.answered(query, client, peer, answer, cached=True)
        if client.pin is not None:
            return client.pin.reply(client.address, answer, peer, data[:2], reply.body, now=self._clock())
        return reply.body

    def _render(self, query: Query, answer: Answer, peer: Peer) -> Rendered:
        limit = self._renderer.limit(query) if peer.transport is _UDP else 65_535
        return self._renderer.answer(query, answer, self._clock(), stamp=self.stamp, limit=limit)

    def second(self, second: int) -> None:
        """A new second begins: allowances grow. `second` only goes up."""
        self.limits.second = second
        self._damper.second()

    def invalidate(self) -> None:
        """Have every rendered reply looked at anew: the policy changed."""
        self._changes += LIFE
        self.tick()

    def tick(self) -> None:
        """Let TTLs age, and serve expired answers to who waits for too long. Call it every 50 ms or so."""
        now = self._clock()
        self.stamp = int(now * LIFE) + self._changes
        while self._impatient and self._impatient[0][0] <= now:
            _, key, flight = self._impatient.popleft()
            if self._pending.get(key) is flight:
                self._console(key, flight, now)

    def _resolve(self, waiter: Waiter, old: Answer | None) -> bytes | bytearray | None:
        """Ask, or wait with those who asked. `old` is the expired answer, if there is one."""
        key = waiter.query.key
        if (flight := self._pending.get(key)) is not None:
            if len(flight.waiters) >= MAX_WAITERS:
                return self._reject(waiter, "too many wait for this answer")
            self.coalesced += 1
            flight.waiters.append(waiter)
            return None
        if self.metering is not None:
            found = self.metering.weigh(waiter.client.address, waiter.keys, waiter.query.qtype, waiter.ruling)
            if found is not None:
                return self._blocker.by_verdict(waiter.query, waiter.client, waiter.peer, found.action, found)
        stale = old is not None and self._may_serve(old, waiter.client.view, waiter.started)
        zone = registered(waiter.keys)
        if not self._damper.admit(zone, known=stale):
            return self._reject(waiter, "too many new names under this domain")
        flight = Flight(zone, [waiter])
        if stale:
            self._impatient.append((waiter.started + PATIENCE, key, flight))
        self._ask(key, flight)
        return None

    def _ask(self, key: bytes, flight: Flight) -> None:
        self._pending[key] = flight
        self.asked += 1
        question = Question(key[:-5], key[-5] << 8 | key[-4], rr.CLASS_IN, checking_disabled=key[-1] > 0)
        self._upstream.ask(question, partial(self._arrived, key))

    def _renew(self, answer: Answer, view: View, now: float) -> None:
        """Ask anew for what is in use and about to expire; meanwhile it is served for GRACE more."""
        answer.renew_at = NEVER
        answer.expires = max(answer.expires, now + GRACE)
        if answer.key not in self._pending:
            self.prefetched += 1
            self._ask(answer.key, Flight(None, [], view))

    def _reject(self, waiter: Waiter, why: str) -> bytes | bytearray:
        """Answer SERVFAIL without asking anybody."""
        self.rejected += 1
        query, client = waiter.query, waiter.client
        reply = Reply(b"", rr.Rcode.SERVFAIL, ede=rr.Ede.OTHER, ede_text=why)
        answer = self._replies.answer(query.key, reply, waiter.keys, waiter.ruling, client.view, waiter.started)
        self._teller.answered(query, client, waiter.peer, answer, cached=False)
        return self._render(query, answer, waiter.peer).body

    def _arrived(self, key: bytes, reply: Reply) -> None:
        """Judge a reply once a view, and answer everybody who waits for it."""
        flight = self._pending.pop(key)
        if flight.zone is not None:
            self._damper.landed(flight.zone, empty=len(reply.wire) < HEADER or reply.wire[3] & 0xF != 0)
        now = self._clock()
        made: dict[int, Answer] = {}
        for waiting in flight.waiters:
            waiter = self._current(waiting)
            if waiter is None:
                continue
            view = waiter.client.view
            answer = made.get(id(view))
            if answer is None:
                answer = made[id(view)] = self._settle(key, reply, waiter.keys, waiter.ruling, view, now)
            self._finish(waiter, answer, now)
        renewed = flight.renews
        if renewed is not None and id(renewed) not in made:
            keys = suffixes(key[:-5])
            ruling = self.policy.rule(keys, renewed)
            if ruling.action < _NODATA:
                self._settle(key, reply, keys, ruling, renewed, now)

    def _settle(self, key: bytes, reply: Reply, keys: list[Name], ruling: Ruling, view: View, now: float) -> Answer:
        """Return what a reply comes to in a view and keep it; a failure does not push out what may still serve."""
        answer = self._replies.answer(key, reply, keys, ruling, view, now)
        if 0 <= answer.ttl < LEAST_TTL and self.metering is not None and self.metering.watches(keys):
            self._replies.keep(answer, LEAST_TTL, now)
        old = view.answers.table.get(key)
        if answer.rcode not in HEALTHY and not reply.bogus and old is not None and self._may_serve(old, view, now):
            return self._served(old, view, now)
        if answer.ttl > 0:
            view.answers.put(key, answer)
        elif old is not None and now < old.expires:
            old.renew_at = now + GRACE / 2  # the engine's own cache is not through with it
        return answer

    def _may_serve(self, old: Answer, view: View, now: float) -> bool:
        return now < old.stale_until and self._stands(old, view)

    def _served(self, old: Answer, view: View, now: float) -> Answer:
        """Return `old`, made good for a while when it had expired."""
        if now < old.expires:
            return old
        self.stale += 1
        answer = self._replies.revived(old, now)
        view.answers.put(old.key, answer)
        return answer

    def _console(self, key: bytes, flight: Flight, now: float) -> None:
        """Give those who wait the expired answer of their view; the question stays on its way for the next ones."""
        waiters, flight.waiters = flight.waiters, []
        for waiting in waiters:
            waiter = self._current(waiting)
            if waiter is None:
                continue
            view = waiter.client.view
            old = view.answers.table.get(key)
            if old is not None and self._may_serve(old, view, now):
                flight.renews = view
                self._finish(waiter, self._served(old, view, now), now)
            else:
                flight.waiters.append(waiter)

    def _current(self, waiter: Waiter) -> Waiter | None:
        """Judge a question anew if the policy moved on while it was away; None when it is blocked by now."""
        policy = self.policy
        if waiter.epoch == policy.epoch:
            return waiter
        view = policy.view_of(waiter.client.address)
        client = Client(waiter.client.address, view, allowed=True, pin=waiter.client.pin)
        ruling = policy.rule(waiter.keys, view)
        if ruling.action < _NODATA or ruling.action is _TCP_ONLY:
            return Waiter(
                waiter.query, client, waiter.peer, waiter.identity, waiter.keys, ruling, epoch=policy.epoch,
                started=waiter.started,
            )  # fmt: skip
        body = self._blocker.by_name(waiter.query, client, waiter.peer, waiter.keys, ruling)
        waiter.peer.deliver(waiter.identity, body)
        return None

    def _finish(self, waiter: Waiter, answer: Answer, now: float) -> None:
        query, peer = waiter.query, waiter.peer
        action = answer.verdict.action
        if action is _TCP_ONLY and peer.transport is _UDP:
            peer.deliver(waiter.identity, self._renderer.truncated(query))
        elif action is _DROP:
            peer.deliver(waiter.identity, NO_REPLY)
        else:
            made, pin = self._render(query, answer, peer).body, waiter.client.pin
            body = (
                made if pin is None else pin.reply(waiter.client.address, answer, peer, waiter.identity, made, now=now)
            )
            if body is not None:
                peer.deliver(waiter.identity, body)
        took = int((now - waiter.started) * 1e6)
        self._latency.add(took)
        if self.metering is not None:
            self.metering.answered(waiter.client.address, waiter.keys, query.qtype, answer.rcode, answer.addresses)
        self._teller.arrived(query, waiter.client, peer, answer, took)

    def counters(self) -> dict[str, int]:
        """Return what was counted, and how long clients waited for upstream."""
        return {
            "malformed": self.malformed,
            "refused": self.refused,
            "blocked": self._blocker.blocked + self._replies.replaced,
            "coalesced": self.coalesced,
            "upstream": self.asked,
            "failed": self._replies.failed,
            "rejected": self.rejected,
            "stale": self.stale,
            "prefetched": self.prefetched,
            "damped": self._damper.damped,
            **self.limits.counters(),
            **self.manners.counters(),
            **self._latency.counters(),
        }
