"""Which name a client last got an address for, as far as the events of this node tell. One thread uses it.

Rules:
1. What was blocked was answered with other addresses, so it names none.
2. Two halves: when the younger one is full the older one goes. So the last MOST / 2 pairs are always known, and what
   was not answered since `since` is known not to have been.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.verdict import Action

if TYPE_CHECKING:
    from collections.abc import Iterable

    from core.event import Event
    from core.names import Name

MOST: Final = 262_144  # pairs of client and address; about 50 MB
_NODATA: Final = Action.NODATA.value


class Naming:
    """Names by client and address."""

    def __init__(self, most: int = MOST, *, now: float) -> None:
        self.since = now  # from when on everything is known
        self._half = most // 2
        self._began = now  # of the younger half
        self._young: dict[bytes, Name] = {}
        self._old: dict[bytes, Name] = {}
        self._clients: set[bytes] = set()
        self._clients_before: set[bytes] = set()

    def see(self, events: Iterable[Event]) -> None:
        """The names of these events are known, the last one of each pair."""
        young, clients = self._young, self._clients
        at = 0.0
        for event in events:
            client = event.client
            clients.add(client)
            at = event.at
            if event.action < _NODATA:
                name = event.qname
                for address in event.answers:
                    young[client + address] = name  # a tuple costs twice as much and never differs in one office
        if len(young) >= self._half or len(clients) >= self._half:
            self._turn(at)

    def _turn(self, at: float) -> None:
        self._old, self._young = self._young, {}
        self._clients_before, self._clients = self._clients, set()
        self.since, self._began = self._began, max(at, self._began)

    def name(self, client: bytes, address: bytes) -> Name:
        """Return the name, empty when none is known."""
        key = client + address
        return self._young.get(key) or self._old.get(key, b"")

    def asks(self, client: bytes) -> bool:
        """Whether the client asked anything since `since`."""
        return client in self._clients or client in self._clients_before

    def __len__(self) -> int:
        """How many pairs are held."""
        return len(self._young) + len(self._old)
