"""A token bucket for rows that lets the telling ones pass first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from core.event import Event

LAG: Final = 5.0  # seconds of rows that may come at once: the hub waits for its turn on a busy core
RESERVED: Final = 0.25  # of the bucket is kept for rows that are not mere cache hits


class RowCap:
    """At most `per_second` rows a second on average, LAG seconds' worth at once; `over` counts what did not pass."""

    def __init__(self, per_second: int, *, now: float) -> None:
        self.over = 0
        self._rate = float(per_second)
        self._most = self._tokens = LAG * per_second
        self._at = now

    def admit(self, events: Sequence[Event], now: float) -> Sequence[Event]:
        """Return the events that pass, in their order.

        Rows with an action go before fresh ones and those before cache hits, which leave RESERVED of the bucket alone.
        """
        self._tokens = min(self._most, self._tokens + max(0.0, now - self._at) * self._rate)
        self._at = now
        reserved = self._most * RESERVED
        if self._tokens - len(events) >= reserved:
            self._tokens -= len(events)
            return events
        passing = self._choose(events, reserved)
        self._tokens -= len(passing)
        self.over += len(events) - len(passing)
        return passing

    def _choose(self, events: Sequence[Event], reserved: float) -> list[Event]:
        ranked = sorted(range(len(events)), key=lambda at: _rank(events[at]))
        left = int(self._tokens)
        hits = max(0, int(self._tokens - reserved))
        chosen: list[int] = []
        for at in ranked[:left]:
            if _rank(events[at]) < _HIT or len(chosen) < hits:
                chosen.append(at)
        return [events[at] for at in sorted(chosen)]


_HIT: Final = 2


def _rank(event: Event) -> int:
    if event.action:
        return 0
    return _HIT if event.cached else 1
