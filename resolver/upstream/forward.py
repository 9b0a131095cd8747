"""The native forwarding engine: what the packet loop asks when somebody else recurses and nobody validates.

Rules:
1. A question is one slotted record and no task, timer or future of its own; a tick of 50 ms serves all deadlines.
2. A server that fails a question (SERVFAIL, REFUSED ...) is followed by the next one; the last failure is the answer
   when nobody does better. A FORMERR is answered by asking once more without EDNS.
3. TC is followed over TCP, TLS servers are asked over TLS only, and every question ends within `timeout`.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

from core.rr import Ede, Rcode
from resolver.upstream import Answer
from resolver.upstream.datagrams import Datagrams
from resolver.upstream.echo import TRUNCATED, Noise
from resolver.upstream.health import Fleet, Health
from resolver.upstream.streams import Stream, tls_context
from resolver.upstream.transactions import NEVER, TICKS, Kept, Setbacks, Transaction, Wheel, most_attempts, plan

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    from core.config import Upstream as Settings
    from core.servers import Server
    from resolver.upstream import Question

MAX_NAMED: Final = 4  # servers named in the text of a failure
TIDY: Final = TICKS  # ticks between two rounds of closing what is idle

_FINAL: Final = frozenset((Rcode.NOERROR, Rcode.NXDOMAIN))
_RETRY: Final = frozenset((Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED, Rcode.NOTAUTH))  # somebody else may know


class Forward:
    """An `Upstream` that asks `servers` (udp and tls), best one first.

    `rng` returns that many octets fit for cryptography; `clock` returns seconds that never go back.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        settings: Settings,
        rng: Callable[[int], bytes] = os.urandom,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not servers or any(server.scheme == "https" for server in servers):
            raise ValueError("a forwarder needs at least one server, and none of them https://")
        self._servers = tuple(servers)
        self._names = [server.text for server in servers]
        self._settings = settings
        self._clock = clock
        self._noise = Noise(rng)
        self._health = [Health(stream=server.scheme == "tls") for server in servers]
        self._fleet = Fleet(self._health)
        self._sample = [True] * len(servers)  # whose next reply is to be timed: one a tick is plenty
        self._waits: list[int] = []  # ticks an attempt with each server may take; set every tick
        self._wheel = Wheel(0)  # holds every question under way
        self._total = max(1, int(settings.timeout * TICKS))
        self._limit = 0  # until `start`
        self._datagrams = Datagrams(servers, self._health, dnssec=settings.dnssec, noise=self._noise, outcomes=self)
        self._streams: list[Stream] = []
        self._links: list[Callable[[Transaction], None]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._tidy_at = 0
        self._outstanding = 0
        self._asked = self._answered = self._refused = self._timeouts = self._failed = 0
        self._retries = self._truncated = self._miscased = self._letdowns = 0

    def start(self) -> None:
        """Open sockets on the running loop. Raises Unavailable with the cure when that cannot be."""
        secure = any(server.scheme == "tls" for server in self._servers)
        context = tls_context(self._settings.tls_ca_file, alpn=("dot",)) if secure else None
        self._streams = [self._stream(server, context) for server in self._servers]
        self._datagrams.start(asyncio.get_running_loop())
        self._links = [
            stream.send if server.scheme == "tls" else self._datagrams.send
            for server, stream in zip(self._servers, self._streams, strict=True)
        ]
        self._limit = self._settings.max_outstanding
        self._on_tick()

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done`, which must not raise, exactly once."""
        self._asked += 1
        if self._outstanding >= self._limit:
            self._refused += 1
            done(_overload(closed=not self._limit))
            return
        self._outstanding += 1
        now = self._clock()
        transaction = Transaction(question, done, self._wheel.now + self._total)
        index = transaction.server = self._fleet.take(now)
        transaction.sent = now
        self._wheel.add(transaction, self._waits[index])
        self._links[index](transaction)

    def close(self) -> None:
        """Answer what is outstanding with SERVFAIL and give sockets and connections back."""
        self._limit = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for transaction in self._wheel.clear():
            transaction.leave()
            self._fail(transaction, Ede.NETWORK_ERROR, "the resolver is shutting down")
        self._datagrams.close()
        for stream in self._streams:
            stream.close()

    def counters(self) -> dict[str, int]:
        """Return the counters; asked = answered + timeouts + failed + refused + outstanding."""
        return {
            "asked": self._asked,
            "answered": self._answered,
            "timeouts": self._timeouts,
            "failed": self._failed,
            "refused": self._refused,
            "outstanding": self._outstanding,
            "retries": self._retries,
            "truncated": self._truncated,
            "miscased": self._miscased,
            "letdowns": self._letdowns,
            "strangers": self._datagrams.strangers + sum(stream.strangers for stream in self._streams),
            "sockets": self._datagrams.opened,
            "connections": sum(stream.opened for stream in self._streams),
            "servers_failing": sum(health.failures > 0 for health in self._health),
        }

    # What the transports tell: `Outcomes`.

    def replied(self, transaction: Transaction, wire: bytes) -> None:
        """Answer with `wire`, unless it is a failure or was cut."""
        code = wire[3] & 0x0F
        if wire[2] & TRUNCATED or code not in _FINAL:
            self._troubled(transaction, wire, code)
            return
        index = transaction.server
        if self._sample[index]:
            self._measure(transaction)
        transaction.off_wheel()
        self._outstanding -= 1
        self._answered += 1
        transaction.done(Answer(wire, code, server=self._names[index]))

    def refused(self, transaction: Transaction, why: str) -> None:
        """Ask another server, or the same a little later."""
        setbacks = _setbacks(transaction)
        setbacks.why = why
        self._missed(transaction)
        self._again(transaction, network=True)

    def miscased(self, transaction: Transaction) -> None:
        """Ask the same server over TCP, where nobody can slip in a reply."""
        self._miscased += 1
        self._health[transaction.server].miscased(self._clock())
        self._over_tcp(transaction)

    def garbled(self, transaction: Transaction) -> None:
        """Ask the same server without EDNS, once."""
        setbacks = _setbacks(transaction)
        if setbacks.plain:
            self._letdowns += 1
            self._again(transaction, network=False)
            return
        setbacks.plain = True
        self._dispatch(transaction, transaction.server)

    def _troubled(self, transaction: Transaction, wire: bytes, code: int) -> None:
        setbacks = _setbacks(transaction)
        index = transaction.server
        if wire[2] & TRUNCATED and not setbacks.stream and self._servers[index].scheme == "udp":
            self._truncated += 1
            self._over_tcp(transaction)
        elif code == Rcode.FORMERR and not setbacks.plain:
            setbacks.kept = Kept(wire, self._names[index])
            self.garbled(transaction)
        elif code == Rcode.FORMERR or code in _RETRY:
            self._letdowns += 1
            setbacks.kept = Kept(wire, self._names[index])
            self._again(transaction, network=False)
        else:
            self._settle(transaction, Answer(wire, code, server=self._names[index]))

    def _over_tcp(self, transaction: Transaction) -> None:
        setbacks = _setbacks(transaction)
        setbacks.stream = True
        self._dispatch(transaction, transaction.server)

    def _again(self, transaction: Transaction, *, network: bool) -> None:
        """Carry out the plan after a set-back."""
        setbacks = _setbacks(transaction)
        step = plan(setbacks, self._fleet, len(self._servers), failed=transaction.server, network=network)
        if step.server == NEVER or self._wheel.now >= transaction.expires:
            self._give_up(transaction, setbacks)
            return
        self._retries += 1
        setbacks.stream = False
        if step.wait:
            transaction.server = step.server
            transaction.off_wheel()
            self._wheel.add(transaction, min(step.wait, transaction.expires - self._wheel.now))
        else:
            self._dispatch(transaction, step.server)

    def _dispatch(self, transaction: Transaction, index: int) -> None:
        """Send a question that had a set-back to server `index`; its last attempt waits as long as there is time."""
        setbacks = _setbacks(transaction)
        left = transaction.expires - self._wheel.now
        wait = self._waits[index]
        transaction.server = index
        transaction.sent = self._clock()
        transaction.off_wheel()
        self._wheel.add(
            transaction, left if setbacks.attempts >= most_attempts(len(self._servers)) else min(wait, left)
        )
        if setbacks.stream:
            self._streams[index].send(transaction)
        else:
            self._links[index](transaction)

    def _on_tick(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(1 / TICKS, self._on_tick)
        now = self._clock()
        for transaction in self._wheel.advance(int(now * TICKS)):
            self._due(transaction)
        self._fleet.look(now)
        self._waits = self._timeouts_in_ticks()
        self._sample = [True] * len(self._servers)
        if self._wheel.now >= self._tidy_at:
            self._tidy_at = self._wheel.now + TIDY
            self._datagrams.tidy()
            for stream in self._streams:
                stream.tidy(now)

    def _timeouts_in_ticks(self) -> list[int]:
        return [min(int(health.timeout * TICKS) + 1, self._total) for health in self._health]

    def _due(self, transaction: Transaction) -> None:
        """Act on a deadline: of a pause before a retry, or of an attempt nobody answered."""
        setbacks = _setbacks(transaction)
        if transaction.pending is None:
            if self._wheel.now < transaction.expires:
                self._dispatch(transaction, transaction.server)
            else:
                self._give_up(transaction, setbacks)
            return
        transaction.leave()
        setbacks.silences += 1
        self._missed(transaction)
        self._again(transaction, network=False)

    def _missed(self, transaction: Transaction) -> None:
        setbacks = _setbacks(transaction)
        if not setbacks.stream:  # TCP after UDP says nothing about the server's health over UDP
            now = self._clock()
            self._health[transaction.server].missed(transaction.sent, now)
            self._fleet.look(now)

    def _measure(self, transaction: Transaction) -> None:
        if transaction.setbacks is None or not transaction.setbacks.stream:
            self._sample[transaction.server] = False
            now = self._clock()
            self._health[transaction.server].replied(now - transaction.sent, now)

    def _give_up(self, transaction: Transaction, setbacks: Setbacks) -> None:
        if setbacks.kept is not None:
            wire, server = setbacks.kept
            self._settle(transaction, Answer(wire, wire[3] & 0x0F, server=server))
            return
        names = [name for index, name in enumerate(self._names) if setbacks.tried >> index & 1]
        more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
        tried = ", ".join(names[:MAX_NAMED]) + more
        if setbacks.errors and not setbacks.silences:
            self._fail(transaction, Ede.NETWORK_ERROR, f"cannot reach {tried}: {setbacks.why}")
        else:
            self._fail(transaction, Ede.NO_REACHABLE_AUTHORITY, f"no answer in time from {tried}")

    def _settle(self, transaction: Transaction, answer: Answer) -> None:
        transaction.off_wheel()
        self._outstanding -= 1
        self._answered += 1
        transaction.done(answer)

    def _fail(self, transaction: Transaction, ede: Ede, text: str) -> None:
        transaction.off_wheel()
        self._outstanding -= 1
        if ede is Ede.NO_REACHABLE_AUTHORITY:
            self._timeouts += 1
        else:
            self._failed += 1
        transaction.done(Answer(b"", Rcode.SERVFAIL, ede=ede, ede_text=text))

    def _stream(self, server: Server, context: ssl.SSLContext | None) -> Stream:
        return Stream(
            server,
            tls=context if server.scheme == "tls" else None,
            dnssec=self._settings.dnssec,
            noise=self._noise,
            outcomes=self,
            clock=self._clock,
        )


def _setbacks(transaction: Transaction) -> Setbacks:
    if transaction.setbacks is None:
        transaction.setbacks = Setbacks()
    return transaction.setbacks


def _overload(*, closed: bool) -> Answer:
    text = "the forwarder is not running" if closed else "too many questions outstanding upstream"
    return Answer(b"", Rcode.SERVFAIL, ede=Ede.NOT_READY if closed else Ede.NETWORK_ERROR, ede_text=text)
