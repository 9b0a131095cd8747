"""Who waits for an answer from upstream: clients, and the flight of one question they share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from core.event import Transport
    from core.names import Name
    from core.wire import Query
    from resolver.clients import Client
    from resolver.policy import Ruling, View


class Peer(Protocol):
    """Where a question came from and its reply goes."""

    transport: Transport

    def hold(self) -> Peer:
        """Return a peer that stays good when the reply has to wait."""

    def deliver(self, identity: bytes, body: bytes | bytearray) -> None:
        """Send the reply `identity + body`; an empty body is no reply."""


class Waiter:
    """A client whose question is on its way."""

    __slots__ = ("client", "epoch", "identity", "keys", "peer", "query", "ruling", "started")

    def __init__(
        self, query: Query, client: Client, peer: Peer, identity: bytes, keys: list[Name], ruling: Ruling, *,
        epoch: int, started: float,
    ) -> None:  # fmt: skip
        """`epoch`: of the policy that made the ruling; `started`: Unix seconds."""
        self.query = query
        self.client = client
        self.peer = peer
        self.identity = identity
        self.keys = keys
        self.ruling = ruling
        self.epoch = epoch
        self.started = started


class Flight:
    """One question upstream, counted for the domain `zone` if any; `renews` is the view it is fetched for anyway."""

    __slots__ = ("renews", "waiters", "zone")

    def __init__(self, zone: Name | None, waiters: list[Waiter], renews: View | None = None) -> None:
        self.zone = zone
        self.waiters = waiters
        self.renews = renews
