"""What pinned clients were answered, and until when it stays open to them: pure, told the time.

Rules:
1. What is open stays open for the TTL and a grace beyond it; a later answer lengthens that, none shortens it.
2. The first pin that names a client is its pin; what a client no pin names was answered is not taken down.
3. An address of the client's own family is open to that client; one of the other family to all clients of its pin.
"""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING, Final

from egress.pins.rules import PAIRS, shared
from egress.pins.table import Put

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from core.config import Pin
    from egress.pins.messages import Told

MAX_OPEN: Final = 4_096  # addresses open to one client: nobody fills the set for all others
MAX_SHARED: Final = 16_384  # addresses open to all clients of a pin
MAX_KNOWN: Final = 65_536  # clients whose pin is remembered
SLACK: Final = 1.0  # seconds by which an end may be later than the one known and still not be worth telling the kernel
_PAIRED: Final = frozenset(PAIRS.values())


class Book:
    """What is open, to whom and until when. Time is in seconds of a clock that never goes back."""

    def __init__(self, pins: Sequence[Pin], *, grace: float) -> None:
        """`grace`: seconds an address stays open beyond its TTL."""
        self.over = 0  # addresses beyond what one client or pin may have
        self.size = 0  # addresses that are open, or were until `expire` is called
        self._grace = grace
        self._pins = [(pin.name, [ipaddress.ip_network(text, strict=False) for text in pin.clients]) for pin in pins]
        self._pin_of: dict[bytes, str] = {}
        self._open: dict[str, dict[bytes, dict[bytes, float]]] = {}  # set, holder, key: until when

    def pin_of(self, client: bytes) -> str:
        """Return the pin that names a client first; empty: none does."""
        name = self._pin_of.get(client)
        if name is None:
            if len(self._pin_of) >= MAX_KNOWN:
                self._pin_of.clear()
            address = ipaddress.ip_address(client)
            held = (pin for pin, networks in self._pins if any(address in network for network in networks))
            name = self._pin_of[client] = next(held, "")
        return name

    def note(self, told: Told, now: float) -> list[Put]:
        """Take down what a client was answered; returns what of it the kernel has to be told."""
        pin = self.pin_of(told.client)
        found: list[Put] = []
        for address in told.addresses if pin else ():
            name, key = _place(pin, told.client, address)
            holder = _holder(name, key)
            keys = self._open.setdefault(name, {}).setdefault(holder, {})
            ends = now + told.seconds + self._grace
            known = keys.get(key)
            if known is not None and known >= ends - SLACK:
                continue
            if known is None and not self._has_room(keys, MAX_OPEN if holder else MAX_SHARED, now):
                self.over += 1
                continue
            self.size += known is None
            keys[key] = ends
            found.append(Put(name, key, ends - now, renews=known is not None))
        return found

    def adopt(self, puts: Iterable[Put], now: float) -> None:
        """Take down what the kernel held already."""
        for put in puts:
            keys = self._open.setdefault(put.name, {}).setdefault(_holder(put.name, put.key), {})
            self.size += put.key not in keys
            keys[put.key] = now + put.seconds

    def forget(self, puts: Iterable[Put]) -> None:
        """The kernel did not open these."""
        for put in puts:
            keys = self._open.get(put.name, {}).get(_holder(put.name, put.key), {})
            self.size -= keys.pop(put.key, None) is not None

    def expire(self, now: float) -> None:
        """Forget what has run out."""
        for holders in self._open.values():
            for holder, keys in tuple(holders.items()):
                self._expire(keys, now)
                if not keys:
                    del holders[holder]

    def standing(self, now: float) -> list[Put]:
        """Return all that is open."""
        return [
            Put(name, key, ends - now)
            for name, holders in self._open.items()
            for keys in holders.values()
            for key, ends in keys.items()
            if ends > now
        ]

    def _has_room(self, keys: dict[bytes, float], most: int, now: float) -> bool:
        if len(keys) >= most:
            self._expire(keys, now)
        return len(keys) < most

    def _expire(self, keys: dict[bytes, float], now: float) -> None:
        over = [key for key, ends in keys.items() if ends <= now]
        self.size -= len(over)
        for key in over:
            del keys[key]


def _place(pin: str, client: bytes, address: bytes) -> tuple[str, bytes]:
    """Return the set an answer belongs to, and its key there."""
    if len(address) == len(client):
        return PAIRS[len(client)], client + address
    return shared(pin, len(address)), address


def _holder(name: str, key: bytes) -> bytes:
    """Return who an element is accounted to: the client of a pair, or, empty, all of a pin."""
    return key[: len(key) // 2] if name in _PAIRED else b""
