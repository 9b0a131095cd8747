"""Which name servers this node asks when it recurses: those of the zones its clients use, so that none is ever blocked.

Rules:
1. A zone's servers are asked for once in a day of use, slowly, behind everything else; the zones above it as well.
2. Of a blocked name only the zones above its registered domain are used.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

from core import rr
from core.names import registered_domain, suffixes
from resolver.lookups import Lookups

if TYPE_CHECKING:
    from collections.abc import Callable

    from core.names import Name
    from egress.guard import Guard
    from resolver.truth import Truth
    from resolver.upstream import Upstream

AGAIN: Final = 86_400.0  # seconds
SOON: Final = 600.0  # seconds until the next try when nobody answered, or there was no room
MAX_ZONES: Final = 50_000
PER_SECOND: Final = 20  # questions; a zone takes about five
_ADDRESS: Final = (rr.A, rr.AAAA)


class Servers:
    """Tells `guard` which servers are asked. `spoke` is called with a zone and a server that is blocked no more."""

    def __init__(
        self,
        engine: Upstream | None,
        guard: Guard,
        spoke: Callable[[Name, bytes], None],
        clock: Callable[[], float],
    ) -> None:
        self.noted = 0
        self.on = engine is not None
        self.lookups = Lookups(engine, self._arrived, per_second=PER_SECOND)
        self._guard = guard
        self._spoke = spoke
        self._clock = clock
        self._zones: OrderedDict[Name, float] = OrderedDict()  # when each was asked for last
        self._serves: dict[tuple[Name, int], set[Name]] = {}  # servers asked for: the zones they serve

    def meet(self, name: Name, now: float, *, blocked: bool = False) -> None:
        """A client asked for a name."""
        if not self.on:
            return
        for zone in suffixes(registered_domain(name))[blocked:]:
            if 0 <= now - self._zones.get(zone, -AGAIN) < AGAIN:
                return  # and so it is with those above
            if self.lookups.ask(zone, rr.NS):
                self._zones[zone] = now
                self._zones.move_to_end(zone)
        while len(self._zones) > MAX_ZONES:
            self._zones.popitem(last=False)

    def _arrived(self, name: Name, rtype: int, truth: Truth | None) -> None:
        now = self._clock()
        zones = (name,) if rtype == rr.NS else tuple(self._serves.pop((name, rtype), ()))
        if truth is None:
            self._try_again(zones, now)
        elif rtype == rr.NS:
            self._ask_for(truth.targets, name, now)
        else:
            self._note(zones, truth.addresses, now)
        self.lookups.pump(now)

    def _ask_for(self, servers: tuple[Name, ...], zone: Name, now: float) -> None:
        for server in servers:
            for kind in _ADDRESS:
                if self.lookups.ask(server, kind):
                    self._serves.setdefault((server, kind), set()).add(zone)
                else:
                    self._try_again((zone,), now)

    def _note(self, zones: tuple[Name, ...], addresses: tuple[bytes, ...], now: float) -> None:
        for zone in zones:
            for address in addresses:
                self.noted += 1
                if self._guard.note_server(address, zone, now=now):
                    self._spoke(zone, address)

    def _try_again(self, zones: tuple[Name, ...], now: float) -> None:
        for zone in zones:
            if zone in self._zones:
                self._zones[zone] = now - AGAIN + SOON
