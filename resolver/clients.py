"""Who asks: one small record a client address, kept while it asks and bounded in number."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Final

from resolver.limits import UNLIMITED, Bucket, covered

if TYPE_CHECKING:
    from collections.abc import Iterable

    from resolver.answers import Rendered
    from resolver.limits import Limits
    from resolver.pinning import Pinning
    from resolver.policy import Policy, View

MAX_CLIENTS: Final = 65_536  # of one worker, about 20 MB; more start over, their hits told first


class Client:
    """What a worker remembers of one client address."""

    __slots__ = ("address", "allowed", "bucket", "hits", "pin", "proxy", "rendered", "replies", "streams", "view")

    def __init__(
        self,
        address: bytes,
        view: View,
        *,
        allowed: bool,
        bucket: Bucket | None = None,
        replies: Bucket | None = None,
        proxy: bool = False,
        pin: Pinning | None = None,
    ) -> None:
        """`bucket`: the queries it may ask; `replies`: those its network may get; `proxy`: it speaks for others.

        `pin`: who has to know what it is answered before it does.
        """
        self.address = address
        self.view = view
        self.allowed = allowed
        self.bucket = Bucket(UNLIMITED, 0) if bucket is None else bucket
        self.replies = replies
        self.proxy = proxy
        self.pin = pin
        bare = proxy or replies is not None or not allowed or pin is not None
        self.rendered = _nothing if bare else view.rendered.table.get
        self.hits: list[Rendered] = []
        self.streams = 0  # TCP connections it holds

    @property
    def unlimited(self) -> bool:
        """True for a client that is exempt from limits."""
        return self.bucket.left > UNLIMITED >> 1


class Clients:
    """The clients one worker met. Steering by source address makes it the only worker that meets them."""

    def __init__(
        self,
        policy: Policy,
        limits: Limits,
        allow_from: Iterable[str],
        proxy_from: Iterable[str] = (),
        *,
        pinning: Pinning | None = None,
    ) -> None:
        """`pinning`: tells the agent what pinned clients are answered; None: there are none."""
        self.table: dict[bytes, Client] = {}
        self.forgotten = 0
        self.limits = limits
        self._policy = policy
        self._pinning = pinning
        self._allowed = [ip_network(text, strict=False) for text in allow_from]
        self._proxies = [ip_network(text, strict=False) for text in proxy_from]
        self._leaving: list[tuple[Client, list[Rendered]]] = []

    def meet(self, address: bytes) -> Client:
        """Return the record of a client address (4 or 16 octets)."""
        client = self.table.get(address)
        if client is None:
            if len(self.table) >= MAX_CLIENTS:
                self.forget()
            source = ip_address(address)
            proxy = covered(source, self._proxies)
            pinning = self._pinning
            client = self.table[address] = Client(
                address,
                self._policy.view_of(address),
                allowed=covered(source, self._allowed),
                bucket=None if proxy else self.limits.bucket(address),
                replies=None if proxy else self.limits.replies_to(address),
                proxy=proxy,
                pin=pinning if pinning is not None and pinning.covers(source) else None,
            )
        return client

    def forget(self) -> None:
        """Start over, as when the views changed; hits not told yet are kept for `drain`."""
        self.forgotten += len(self.table)
        self._leaving += _taken(self.table.values())
        self.table.clear()

    def drain(self) -> list[tuple[Client, list[Rendered]]]:
        """Return all clients that had cache hits since the last call, with these hits."""
        leaving, self._leaving = self._leaving, []
        return leaving + _taken(self.table.values())


def _taken(clients: Iterable[Client]) -> list[tuple[Client, list[Rendered]]]:
    found = []
    for client in clients:
        if client.hits:
            found.append((client, client.hits))
            client.hits = []
    return found


def _nothing(_packet: bytes) -> None:
    """The rendered cache of a client that is not served."""
