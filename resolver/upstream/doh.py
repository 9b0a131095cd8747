"""Forwarding over DNS over HTTPS (RFC 8484): wire bytes in a POST and out of its body, on connections that are kept.

Rules:
1. The certificate is always verified, proxies of the environment are not used and redirects are not followed.
2. A question costs a task and about a millisecond; this engine is for privacy, not for the packet path's speed.
3. The server's host name is looked up by the system unless `bootstrap` gives its address: a machine that resolves
   through Plughole itself needs that.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import httpx2

from core.rr import Ede, Rcode
from resolver.upstream import Answer
from resolver.upstream.echo import MAX_MESSAGE, Echo, Wording, compare, section
from resolver.upstream.health import Fleet, Health
from resolver.upstream.streams import tls_context

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from core.config import Upstream as Settings
    from core.servers import Server
    from resolver.upstream import Question

IN_FLIGHT: Final = 256  # requests at a time; the rest wait their turn within their time-out
CONNECTIONS: Final = 8  # to all servers together; one carries about a hundred requests over HTTP/2
KEEP: Final = 30.0  # seconds an idle connection is kept
ROUNDS: Final = 2  # times each server is asked: the first request on a stale connection may fail
MIN_ATTEMPT: Final = 1.0  # seconds for one request, handshakes included
MEDIA: Final = "application/dns-message"

_RETRY: Final = frozenset((Rcode.SERVFAIL, Rcode.NOTIMP, Rcode.REFUSED, Rcode.NOTAUTH, Rcode.FORMERR))


class _Bad(Exception):
    """A server's HTTP answer that is no DNS answer; the text says why."""


class Doh:
    """An `Upstream` that asks `servers` (https), best one first.

    `bootstrap` maps a server's host name to the address to connect to; `clock` returns seconds that never go back.
    """

    def __init__(
        self,
        servers: Sequence[Server],
        *,
        settings: Settings,
        bootstrap: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not servers or any(server.scheme != "https" for server in servers):
            raise ValueError("DNS over HTTPS needs at least one server, and all of them https://")
        self._targets = [_Target(server, (bootstrap or {}).get(server.address, "")) for server in servers]
        self._settings = settings
        self._clock = clock
        self._health = [Health(stream=True) for _ in servers]
        self._fleet = Fleet(self._health)
        self._words = Wording(edns=True, dnssec=settings.dnssec)
        self._turn = asyncio.Semaphore(IN_FLIGHT)
        self._waiting: dict[asyncio.Task[Answer], Callable[[Answer], None]] = {}
        self._client: httpx2.AsyncClient | None = None
        self._closing: asyncio.Task[None] | None = None
        self._asked = self._answered = self._refused = self._timeouts = self._failed = self._retries = 0

    def start(self) -> None:
        """Make the client; connections open with the first question. Raises Unavailable for a bad `tls_ca_file`."""
        self._client = httpx2.AsyncClient(
            http2=True,
            verify=tls_context(self._settings.tls_ca_file),
            trust_env=False,
            timeout=self._settings.timeout,
            limits=httpx2.Limits(
                max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=KEEP
            ),
            headers={"accept": MEDIA, "content-type": MEDIA},
        )

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done` exactly once."""
        self._asked += 1
        client = self._client
        if client is None or len(self._waiting) >= self._settings.max_outstanding:
            self._refused += 1
            done(_failure(Ede.NOT_READY, "the forwarder is not running or has too many questions outstanding"))
            return
        task = asyncio.get_running_loop().create_task(self._resolve(client, question))
        self._waiting[task] = done
        task.add_done_callback(self._finished)

    def close(self) -> None:
        """Answer what is outstanding with SERVFAIL and close the connections."""
        client, self._client = self._client, None
        waiting, self._waiting = self._waiting, {}
        for task, done in waiting.items():
            task.cancel()
            self._failed += 1
            done(_failure(Ede.NETWORK_ERROR, "the resolver is shutting down"))
        if client is not None:
            self._closing = asyncio.get_running_loop().create_task(client.aclose())

    def counters(self) -> dict[str, int]:
        """Return the counters; asked = answered + timeouts + failed + refused + outstanding."""
        return {
            "asked": self._asked,
            "answered": self._answered,
            "timeouts": self._timeouts,
            "failed": self._failed,
            "refused": self._refused,
            "outstanding": len(self._waiting),
            "retries": self._retries,
            "servers_failing": sum(health.failures > 0 for health in self._health),
        }

    def _finished(self, task: asyncio.Task[Answer]) -> None:
        done = self._waiting.pop(task, None)
        if done is None:  # closed, and answered then
            return
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or error is not None:
            self._failed += 1
            done(_failure(Ede.NETWORK_ERROR, f"DNS over HTTPS failed: {error or 'cancelled'}"))
            return
        answer = task.result()
        if answer.wire:
            self._answered += 1
        elif answer.ede == Ede.NO_REACHABLE_AUTHORITY:
            self._timeouts += 1
        else:
            self._failed += 1
        done(answer)

    async def _resolve(self, client: httpx2.AsyncClient, question: Question) -> Answer:
        """Ask one server after the other until one answers or the time is over."""
        names = ", ".join(target.name for target in self._targets)
        why = ["no answer in time"]
        kept: list[Answer] = []
        try:
            async with asyncio.timeout(self._settings.timeout), self._turn:
                if answer := await self._rounds(client, question, why, kept):
                    return answer
        except TimeoutError:
            if not kept:
                return _failure(Ede.NO_REACHABLE_AUTHORITY, f"no answer in time from {names}")
        return kept[-1] if kept else _failure(Ede.NETWORK_ERROR, f"cannot reach {names}: {why[-1]}")

    async def _rounds(
        self, client: httpx2.AsyncClient, question: Question, why: list[str], kept: list[Answer]
    ) -> Answer | None:
        """Return the first good answer; `why` and `kept` take what went wrong and what was answered badly."""
        end = self._clock() + self._settings.timeout
        attempts = ROUNDS * len(self._targets)
        index, tried = self._fleet.take(self._clock()), 0
        for attempt in range(attempts):
            left = end - self._clock()
            limit = left if attempt == attempts - 1 else max(MIN_ATTEMPT, left / (attempts - attempt))
            answer = await self._attempt(client, index, question, why, limit)
            if answer is not None and answer.rcode not in _RETRY:
                return answer
            if answer is not None:
                kept.append(answer)
            tried |= 1 << index
            index = self._fleet.best_of(tried)
            if index < 0:
                if kept:
                    return None
                index, tried = self._fleet.best_of(0), 0
            self._retries += 1
        return None

    async def _attempt(
        self, client: httpx2.AsyncClient, index: int, question: Question, why: list[str], limit: float
    ) -> Answer | None:
        target, health, sent = self._targets[index], self._health[index], self._clock()
        try:
            async with asyncio.timeout(limit):
                wire = await self._post(client, target, question)
        except (httpx2.HTTPError, OSError, _Bad) as error:  # a TimeoutError is an OSError
            why.append(str(error) or type(error).__name__)
            health.missed(sent, self._clock())
            self._fleet.look(self._clock())
            return None
        now = self._clock()
        health.replied(now - sent, now)
        self._fleet.look(now)
        return Answer(wire, wire[3] & 0x0F, server=target.name)

    async def _post(self, client: httpx2.AsyncClient, target: _Target, question: Question) -> bytes:
        """Return the reply's bytes; the ID is zero on the way out, so that HTTP caches may serve (RFC 8484 4.1)."""
        words = self._words
        asked = section(question)
        wire = b"\x00\x00" + words.heads[question.checking_disabled] + asked + words.tail
        body = bytearray()
        async with client.stream(
            "POST", target.url, content=wire, headers=target.headers, extensions=target.extensions
        ) as response:
            if response.status_code != httpx2.codes.OK:
                raise _Bad(f"HTTP status {response.status_code}")
            if response.headers.get("content-type", "").partition(";")[0].strip().lower() != MEDIA:
                raise _Bad("the body is not application/dns-message")
            async for piece in response.aiter_bytes():
                body += piece
                if len(body) > MAX_MESSAGE:
                    raise _Bad("the body is longer than a DNS message")
        found = bytes(body)
        if compare(found, asked) not in {Echo.REPLY, Echo.MISCASED}:
            raise _Bad("the body does not answer the question")
        return found


class _Target:
    """Where requests to a server go: the URL, its host replaced by an address when one is given."""

    def __init__(self, server: Server, address: str) -> None:
        self.name = server.url
        self.url = httpx2.URL(server.url)
        self.headers: dict[str, str] = {}
        self.extensions: dict[str, str] = {}
        if address:
            self.headers["host"] = self.url.netloc.decode("ascii")
            self.extensions["sni_hostname"] = server.address
            self.url = self.url.copy_with(host=address)


def _failure(ede: Ede, text: str) -> Answer:
    return Answer(b"", Rcode.SERVFAIL, ede=ede, ede_text=text)
