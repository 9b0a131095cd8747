"""Questions over UDP: for each server a set of connected sockets on ports nobody can predict.

Rules:
1. A question leaves from one of 16 sockets, drawn at random; the kernel chose each port at random and drops what other
   addresses send to it (RFC 5452 section 9.2).
2. A socket is replaced after a random number of questions, and as soon as strange replies pile up on it.
3. All sockets hang on one epoll descriptor, and that on the event loop: the loop wakes once for all of them, and
   replacing a socket does not concern it. One datagram a socket and turn: asking again for nothing costs more.
"""

from __future__ import annotations

import errno
import select
import socket
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from core.errors import Unavailable
from resolver.upstream.echo import Echo, Noise, Wording, compare, is_reply, kind, mix_case

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from core.servers import Server
    from resolver.upstream.health import Health
    from resolver.upstream.transactions import Outcomes, Transaction

PORTS: Final = 16  # sockets a server in use at a time
MIN_USES: Final = 512  # questions a socket carries at least
MAX_STRANGERS: Final = 16  # strange or late replies on a socket before it is replaced
MAX_RETIRED: Final = 256  # sockets kept open for replies still under way; beyond it sockets serve longer
BATCH: Final = 64  # sockets looked at in one turn of the loop, one datagram each
RECEIVE: Final = 4_096  # octets; more than we ever ask for
BUFFER: Final = 1 << 20  # octets of kernel receive buffer: a burst of answers must fit

_FULL: Final = frozenset((errno.EAGAIN, errno.ENOBUFS))  # the socket is sound, the moment is not


class Port:
    """One connected socket and the questions that left from it, by ID."""

    __slots__ = ("fd", "pending", "recv", "send", "server", "sock", "strangers", "uses")

    def __init__(self, server: int, sock: socket.socket, uses: int) -> None:
        self.server = server
        self.sock = sock
        self.fd = sock.fileno()
        self.send = sock.send
        self.recv = sock.recv
        self.uses = uses
        self.strangers = 0
        self.pending: dict[bytes, Transaction] = {}


class Datagrams:
    """The UDP side of an engine; servers are known by their index."""

    def __init__(
        self, servers: Sequence[Server], health: Sequence[Health], *, dnssec: bool, noise: Noise, outcomes: Outcomes
    ) -> None:
        self.strangers = 0  # replies that answer nothing we asked: late or forged
        self.opened = 0
        self._servers = servers
        self._health = health
        self._noise = noise
        self._outcomes = outcomes
        self._edns = Wording(edns=True, dnssec=dnssec)
        self._plain = Wording(edns=False, dnssec=dnssec)
        self._ports: dict[int, Port] = {}  # all open ones by descriptor
        self._active: list[list[Port]] = [[] for _ in servers]
        self._retired: list[Port] = []
        self._epoll: select.epoll | None = None
        self._detach: Callable[[], object] | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Open the sockets of all plain servers; raises Unavailable when there are no descriptors left for them."""
        self._epoll = epoll = select.epoll()
        for index, server in enumerate(self._servers):
            if server.scheme == "udp":
                try:
                    self._active[index] = [self._open(index, epoll) for _ in range(PORTS)]
                except OSError as error:
                    self.close()
                    raise Unavailable(f"cannot open UDP sockets for {server.text}: {error}") from error
        loop.add_reader(epoll.fileno(), self._readable)
        self._detach = partial(loop.remove_reader, epoll.fileno())

    def send(self, transaction: Transaction) -> None:
        """Send the question to its server, or report it refused."""
        asked = transaction.asked
        qname = asked.qname
        index = transaction.server
        noise = self._noise.take(len(qname) + 3)
        ports = self._active[index]
        slot = noise[2] % PORTS
        port = ports[slot]
        pending = port.pending
        ident = noise[:2]
        if ident in pending:
            ident = self._free_ident(pending)
        question = (mix_case(qname, noise[3:]) if self._health[index].mixes_case else qname) + kind(asked)
        setbacks = transaction.setbacks
        words = self._edns if setbacks is None or not setbacks.plain else self._plain
        transaction.question = question
        transaction.ident = ident
        transaction.pending = pending
        pending[ident] = transaction
        try:
            port.send(ident + words.heads[asked.checking_disabled] + question + words.tail)
        except OSError as error:
            transaction.leave()
            if error.errno not in _FULL:
                self._replace(port, slot)
            self._outcomes.refused(transaction, error.strerror or "send failed")
            return
        port.uses -= 1
        if port.uses <= 0:
            self._replace(port, slot)

    def tidy(self) -> None:
        """Close replaced sockets that wait for nothing any more."""
        waiting = [port for port in self._retired if port.pending]
        for port in self._retired:
            if not port.pending:
                self._close_port(port)
        self._retired = waiting

    def close(self) -> None:
        """Close every socket. What is pending is the engine's to answer."""
        if self._epoll is None:
            return
        if self._detach is not None:
            self._detach()
        for port in list(self._ports.values()):
            self._close_port(port)
        self._epoll.close()
        self._epoll = None
        self._active = [[] for _ in self._servers]
        self._retired = []

    def _readable(self) -> None:
        if self._epoll is None:
            return
        ports, replied = self._ports, self._outcomes.replied
        for fd, _ in self._epoll.poll(0, BATCH):
            port = ports.get(fd)
            if port is None:  # closed by what an earlier reply of this batch set off
                continue
            try:
                wire = port.recv(RECEIVE)
            except OSError as error:
                self._broken(port, error)
                continue
            transaction = port.pending.get(wire[:2])
            if transaction is not None and is_reply(wire, transaction.question):
                del port.pending[transaction.ident]
                transaction.pending = None
                replied(transaction, wire)
            else:
                self._odd(port, transaction, wire)

    def _odd(self, port: Port, transaction: Transaction | None, wire: bytes) -> None:
        echo = Echo.STRANGER if transaction is None else compare(wire, transaction.question)
        if transaction is None or echo is Echo.STRANGER:
            self.strangers += 1
            port.strangers += 1
            if port.strangers >= MAX_STRANGERS:
                self._replace_anywhere(port)
            return
        transaction.leave()
        if echo is Echo.MISCASED:
            self._outcomes.miscased(transaction)
        else:
            self._outcomes.garbled(transaction)

    def _broken(self, port: Port, error: OSError) -> None:
        """A pending ICMP error surfaced: every question on this socket is as good as refused."""
        if isinstance(error, BlockingIOError | InterruptedError):
            return
        for transaction in list(port.pending.values()):
            transaction.leave()
            self._outcomes.refused(transaction, error.strerror or "receive failed")

    def _free_ident(self, pending: dict[bytes, Transaction]) -> bytes:
        while (ident := self._noise.take(2)) in pending:
            pass
        return ident

    def _open(self, index: int, epoll: select.epoll) -> Port:
        server = self._servers[index]
        family, kind, proto, _, where = socket.getaddrinfo(
            server.address, server.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST
        )[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
            with suppress(OSError):  # no route: each send will say so, and try a fresh socket
                sock.connect(where)
            epoll.register(sock.fileno(), select.EPOLLIN)
        except BaseException:
            sock.close()
            raise
        port = Port(index, sock, MIN_USES + self._noise.below(3 * MIN_USES))
        self._ports[port.fd] = port
        self.opened += 1
        return port

    def _replace_anywhere(self, port: Port) -> None:
        active = self._active[port.server]
        if port in active:
            self._replace(port, active.index(port))

    def _replace(self, port: Port, slot: int) -> None:
        """Put a fresh socket in the place of `port`, which stays open while replies are under way."""
        port.uses = MIN_USES
        port.strangers = 0
        if self._epoll is None or len(self._retired) >= MAX_RETIRED:
            return
        try:
            fresh = self._open(port.server, self._epoll)
        except OSError:
            return  # no descriptors: the old one serves on
        self._active[port.server][slot] = fresh
        self._retired.append(port)

    def _close_port(self, port: Port) -> None:
        self._ports.pop(port.fd, None)
        if self._epoll is not None:
            self._epoll.unregister(port.fd)
        port.sock.close()
