"""An engine that learns a domain's name servers from its parent: a tunnel's own server says of itself what it likes.

Rules:
1. Of a question for NS the parent zone's servers are asked directly, without recursion; what they delegate to is the
   answer, and the addresses they give along answer what is asked for those servers next. All else goes to the engine.
2. Nobody waits longer than PATIENCE a server; when no parent answers the engine is asked as for everything else.
3. What comes back is hostile: it must be of the question, and what it says of other names than the servers it names
   is passed over. Tables are bounded.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import dns.rrset

from core import rr
from core.errors import Malformed
from core.names import suffixes
from resolver.truth import Truth, read_truth
from resolver.upstream import Answer, Question

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from core.names import Name
    from resolver.upstream import Upstream

PATIENCE: Final = 1.0  # seconds for a server of the parent
SERVERS: Final = 3  # of the parent, one after the other
MAX_GLUE: Final = 4_096  # names of servers with their addresses
PORT: Final = 53
_TYPES: Final = {rr.A: dns.rdatatype.A, rr.AAAA: dns.rdatatype.AAAA}


class Referring:
    """An `Upstream` in front of another, which recurses."""

    def __init__(self, engine: Upstream, *, port: int = PORT) -> None:
        self.referred = self.unreferred = 0
        self._engine = engine
        self._port = port
        self._glue: OrderedDict[Name, list[Any]] = OrderedDict()  # the address sets that came with a referral
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Start the engine behind; raises Unavailable with the cure when it cannot."""
        self._engine.start()

    def ask(self, question: Question, done: Callable[[Answer], None]) -> None:
        """Resolve and call `done` exactly once."""
        if question.qtype == rr.NS and len(question.qname) > 1:
            task = asyncio.get_running_loop().create_task(self._refer(question, done))
            self._tasks.add(task)
            task.add_done_callback(partial(self._ended, done))
            return
        glue = self._glue.get(question.qname)
        if glue is not None and question.qtype in _TYPES:
            done(_made(question, [each for each in glue if each.rdtype == _TYPES[question.qtype]]))
            return
        self._engine.ask(question, done)

    def close(self) -> None:
        """Give everything back; outstanding questions are answered SERVFAIL."""
        for task in self._tasks:
            task.cancel()
        self._engine.close()

    def counters(self) -> dict[str, int]:
        """Return the engine's counters, and how many domains a parent told of or not."""
        return {**self._engine.counters(), "referred": self.referred, "unreferred": self.unreferred}

    def _ended(self, done: Callable[[Answer], None], task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            done(Answer(b"", rr.Rcode.SERVFAIL))

    async def _refer(self, question: Question, done: Callable[[Answer], None]) -> None:
        found = await self._referral(question.qname)
        if found is None:
            self.unreferred += 1
            self._engine.ask(question, done)
            return
        self.referred += 1
        done(found)

    async def _referral(self, domain: Name) -> Answer | None:
        """Return what the closest zone above delegates the domain to; None when nobody says."""
        for parent in suffixes(domain)[1:]:
            servers = (await self._ask(parent, rr.NS)).targets
            if not servers:
                continue
            for server in servers[:SERVERS]:
                for address in (await self._ask(server, rr.A)).addresses[:1]:
                    answer = await self._delegation(domain, address)
                    if answer is not None:
                        return answer
            return None
        return None

    async def _ask(self, name: Name, rtype: int) -> Truth:
        """Return what the engine says."""
        told: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._engine.ask(Question(name, rtype), lambda answer: None if told.done() else told.set_result(answer))
        answer = await told
        try:
            return read_truth(answer.wire, name) if answer.wire else Truth()
        except Malformed:
            return Truth()

    async def _delegation(self, domain: Name, address: bytes) -> Answer | None:
        """Ask one server of the parent."""
        name = dns.name.from_wire(domain, 0)[0]
        query = dns.message.make_query(name, dns.rdatatype.NS, flags=0, use_edns=0, payload=1_232)
        where = ".".join(map(str, address))
        try:
            reply = await dns.asyncquery.udp(query, where, timeout=PATIENCE, port=self._port)
        except (dns.exception.DNSException, OSError, ValueError, EOFError):
            return None
        wanted = (name, dns.rdatatype.NS)
        sets = [each for each in (*reply.answer, *reply.authority) if (each.name, each.rdtype) == wanted]
        if not sets:
            return None
        self._keep({server.target for server in sets[0]}, reply.additional)
        return _made(Question(domain, rr.NS), sets[:1])

    def _keep(self, servers: Iterable[dns.name.Name], additional: Iterable[Any]) -> None:
        """Remember the addresses given along with servers."""
        for each in additional:
            if each.name in servers and each.rdtype in _TYPES.values():
                owner = each.name.canonicalize().to_wire()
                held = [other for other in self._glue.pop(owner, []) if other.rdtype != each.rdtype]
                self._glue[owner] = [*held, each]
                while len(self._glue) > MAX_GLUE:
                    self._glue.popitem(last=False)


def _made(question: Question, answer: Iterable[dns.rrset.RRset]) -> Answer:
    """Return these records as an answer to the question."""
    name = dns.name.from_wire(question.qname, 0)[0]
    reply = dns.message.Message()
    reply.flags = dns.flags.QR
    reply.question.append(dns.rrset.RRset(name, rr.CLASS_IN, question.qtype))  # type: ignore[arg-type]
    reply.answer.extend(answer)
    return Answer(reply.to_wire(), server="referral")
