"""Who asks: one small record a client address, kept while it asks and bounded in number."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resolver.answers import Rendered
    from resolver.policy import Policy, View

MAX_CLIENTS: Final = 65_536  # of one worker, about 20 MB; more start over, their hits told first


class Client:
    """What a worker remembers of one client address."""

    __slots__ = ("address", "allowed", "hits", "rendered", "view")

    def __init__(self, address: bytes, view: View, *, allowed: bool) -> None:
        self.address = address
        self.view = view
        self.allowed = allowed
        self.rendered = view.rendered.table.get if allowed else _nothing
        self.hits: list[Rendered] = []


class Clients:
    """The clients one worker met. Steering by source address makes it the only worker that meets them."""

    def __init__(self, policy: Policy, allow_from: Iterable[str]) -> None:
        self.table: dict[bytes, Client] = {}
        self.forgotten = 0
        self._policy = policy
        self._allowed = [ip_network(text, strict=False) for text in allow_from]
        self._leaving: list[Client] = []

    def meet(self, address: bytes) -> Client:
        """Return the record of a client address (4 or 16 octets)."""
        client = self.table.get(address)
        if client is None:
            if len(self.table) >= MAX_CLIENTS:
                self.forget()
            source = ip_address(address)
            allowed = any(source in network for network in self._allowed if network.version == source.version)
            client = self.table[address] = Client(address, self._policy.view_of(address), allowed=allowed)
        return client

    def forget(self) -> None:
        """Start over, as when the views changed; hits not told yet are kept for `drain`."""
        self.forgotten += len(self.table)
        self._leaving += [client for client in self.table.values() if client.hits]
        self.table.clear()

    def drain(self) -> list[Client]:
        """Return all clients with hits to tell."""
        leaving, self._leaving = self._leaving, []
        return leaving + [client for client in self.table.values() if client.hits]


def _nothing(_packet: bytes) -> None:
    """The rendered cache of a client that is not served."""
