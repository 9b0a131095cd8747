"""The packet loop: a batch of datagrams in, known packets answered from the rendered cache, the rest asked."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from core.errors import Malformed
from core.event import Transport
from resolver.answers import LIFE
from resolver.mmsg import INBOX, NAME, Ring
from resolver.proxy import parse

if TYPE_CHECKING:
    import asyncio
    import socket
    from collections.abc import Callable

    from resolver.clients import Client, Clients
    from resolver.pipeline import Pipeline

_IPV4: Final = (4, 8)  # where the address lies in a struct sockaddr_in
_IPV6: Final = (8, 24)  # and in a struct sockaddr_in6


class UdpPeer:
    """The sender of one datagram, for a reply that comes later."""

    __slots__ = ("_control", "_listener", "_name")
    transport = Transport.UDP

    def __init__(self, listener: UdpListener, name: bytes, control: bytes) -> None:
        self._listener = listener
        self._name = name
        self._control = control

    def hold(self) -> UdpPeer:
        """It is good already."""
        return self

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        """Queue the reply; it leaves with the others of this turn of the loop."""
        if body:
            self._listener.put(self._name, self._control, identity, body)


class UdpListener:
    """One UDP socket of one worker. It is the peer of the datagram at hand."""

    transport = Transport.UDP

    def __init__(self, sock: socket.socket, *, wildcard: bool, pipeline: Pipeline, clients: Clients) -> None:
        self.ring = Ring(sock, pktinfo=wildcard)
        self._begin, self._end = _IPV6 if self.ring.ipv6 else _IPV4
        self._pipeline = pipeline
        self._clients = clients
        self._loop: asyncio.AbstractEventLoop | None = None
        self._detach: Callable[[], object] | None = None
        self.unproxied = 0  # datagrams from a balancer without a PROXY header
        self._flushing = False
        self._name = self._control = b""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take queries on `loop`."""
        self._loop = loop
        loop.add_reader(self.ring.fd, self._on_readable)
        self._detach = partial(loop.remove_reader, self.ring.fd)

    def stop(self) -> None:
        """Take no more queries; what is queued is sent."""
        if self._detach is not None:
            self._detach()
        self.ring.flush()

    def hold(self) -> UdpPeer:
        """Return a peer for the sender of the datagram at hand."""
        return UdpPeer(self, self._name, self._control)

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        """Reply to the datagram at hand."""
        self.put(self._name, self._control, identity, body)

    def put(self, name: bytes, control: bytes, identity: bytes, body: bytes | bytearray) -> None:
        """Queue a late reply and see to it that it is sent at the end of this turn of the loop."""
        self.ring.put(name, control, identity, body)
        if not self._flushing and self._loop is not None:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        self.ring.flush()

    def _on_readable(self) -> None:
        """Answer a batch. Kept in one piece: every line of it is paid for once a query."""
        ring = self.ring
        inbox, lengths, put = ring.inbox, ring.lengths, ring.put
        pipeline = self._pipeline
        handle, stamp = pipeline.handle, pipeline.stamp
        known, limits = self._clients.table.get, self._clients.limits
        name_size, begin, end = ring.name_size, self._begin, self._end
        control = b""
        at = sender = 0
        got = ring.receive()
        senders: bytes = ring.senders[: got * NAME]
        for slot in range(got):
            name = senders[sender : sender + name_size]
            client = known(name[begin:end])
            if client is None:
                client = self._clients.meet(name[begin:end])
            data: bytes = inbox[at : at + lengths[slot]]
            identity = data[:2]
            packet = data[2:]
            at += INBOX
            sender += NAME
            if ring.pktinfo:
                control = ring.control(slot)
            bucket = client.bucket
            bucket.left -= 1  # `Limits.take`, without the call
            if bucket.left < 0 and not limits.more(bucket):
                continue
            reply = client.rendered(packet)
            if reply is not None and (stamp - reply.stamp < LIFE or pipeline.refresh(reply, packet, client.view)):
                client.hits.append(reply)
                put(name, control, identity, reply.body)
                continue
            self._name, self._control = name, control
            if client.proxy:
                self._proxied(data, client)
                continue
            body = handle(data, client, self)
            if body:
                put(name, control, identity, body)
        ring.flush()

    def _proxied(self, data: bytes, balancer: Client) -> None:
        """Answer the query behind a PROXY header as the client it names; the reply goes to the balancer."""
        try:
            header = parse(data)
        except Malformed:
            header = None
        if header is None:
            self.unproxied += 1
            return
        client = self._clients.meet(header.source) if header.source else balancer
        if not self._clients.limits.take(client.bucket):
            return
        query = data[header.size :]
        body = self._pipeline.handle(query, client, self)
        if body:
            self.ring.put(self._name, self._control, query[:2], body)
