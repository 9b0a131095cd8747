"""Accounts that forget: bits of the last hour, day, week and 30 days, held against the budgets of each."""

from __future__ import annotations

from math import exp, inf
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import msgspec

from core.finding import Finding

if TYPE_CHECKING:
    from core.names import Name

HOUR: Final = 3_600.0  # seconds
DAY: Final = 86_400.0
WEEK: Final = 7.0 * DAY
MONTH: Final = 30.0 * DAY

# Shares of the daily budget. A burst is cut sooner than a day's trickle; weeks are held tighter than seven days.
HOUR_SHARE: Final = 0.55
WEEK_SHARE: Final = 2.5
MONTH_SHARE: Final = 4.0


class Budget:
    """What the four accounts may hold, in bits."""

    __slots__ = ("day", "hour", "month", "week")

    def __init__(self, day: float, *, hour_share: float = HOUR_SHARE) -> None:
        self.hour: float = day * hour_share
        self.day: float = day
        self.week: float = day * WEEK_SHARE
        self.month: float = day * MONTH_SHARE


class Account:
    """Bits charged, each sum decaying with its own time constant, so that a steady rate settles at rate x constant."""

    __slots__ = ("at", "day", "hour", "month", "week")

    def __init__(self, at: float) -> None:
        self.at: float = at  # Unix seconds of the sums below
        self.hour: float = 0.0
        self.day: float = 0.0
        self.week: float = 0.0
        self.month: float = 0.0  # fresh names only

    def settle(self, now: float) -> None:
        """Let the sums decay to `now`; a clock that runs backwards changes nothing."""
        passed = now - self.at
        if passed <= 0.0:
            return
        self.at = now
        self.hour *= exp(-passed / HOUR)
        self.day *= exp(-passed / DAY)
        self.week *= exp(-passed / WEEK)
        self.month *= exp(-passed / MONTH)

    def load(self, bits: float, fresh: float, budget: Budget) -> float:
        """Return how full the fullest account would be with `bits` more, `fresh` of them in the month: 1 is full."""
        load = (self.hour + bits) / budget.hour
        other = (self.day + bits) / budget.day
        load = max(load, other)
        other = (self.week + bits) / budget.week
        load = max(load, other)
        other = (self.month + fresh) / budget.month
        return max(other, load)

    def add(self, bits: float, fresh: float) -> None:
        """Charge `bits` at the time of the last `settle`, `fresh` of them to the month."""
        self.hour += bits
        self.day += bits
        self.week += bits
        self.month += fresh

    def clear(self) -> None:
        """Empty all sums."""
        self.hour = self.day = self.week = self.month = 0.0

    def dump(self) -> list[float]:
        """Return the state as plain values."""
        return [self.at, self.hour, self.day, self.week, self.month]

    def restore(self, state: list[float]) -> None:
        """Take up what `dump` returned; raises ValueError or TypeError when it is something else."""
        self.at, self.hour, self.day, self.week, self.month = (float(value) for value in state)


class Pair(Account):
    """The account of a client at a domain, once it has left the first tier."""

    __slots__ = (
        "alerted",
        "client",
        "counted",
        "domain",
        "finding",
        "first",
        "latched",
        "learned",
        "peak",
        "replies",
        "unsent",
        "unsent_fresh",
        "void",
    )

    def __init__(self, at: float, client: bytes, domain: Name) -> None:
        super().__init__(at)
        self.client: bytes = client
        self.domain: Name = domain
        self.first: float = at  # Unix seconds
        self.learned: bool = False  # it was here in the learning phase
        self.counted: bool = False  # among the lone domains of its client
        self.peak: float = 0.0  # highest load of the learning phase
        self.replies: int = 0  # answers seen
        self.void: int = 0  # of them: NXDOMAIN, or an address in 127/8
        self.alerted: float = -inf  # Unix seconds of the last alert
        self.latched: float = 0.0  # Unix seconds at which it was blocked
        self.finding: Finding | None = None  # why it is blocked
        self.unsent: float = 0.0  # bits charged here that other nodes have not been told
        self.unsent_fresh: float = 0.0

    def release(self) -> None:
        """Unlatch with empty accounts."""
        self.finding = None
        self.latched = 0.0
        self.alerted = -inf
        self.clear()

    def dump_pair(self) -> list[Any]:
        """Return the state as plain values."""
        numbers = [self.first, self.peak, self.alerted, self.latched]
        found = None if self.finding is None else msgspec.to_builtins(self.finding)
        return [
            self.client,
            self.domain,
            self.dump(),
            numbers,
            [self.learned, self.counted],
            [self.replies, self.void],
            found,
        ]

    @staticmethod
    def from_dump(state: list[Any]) -> Pair:
        """Return the pair `dump_pair` returned; raises ValueError or TypeError when it is something else."""
        client, domain, sums, numbers, flags, replies, found = state
        pair = Pair(0.0, bytes(client), bytes(domain))
        pair.restore(sums)
        pair.first, pair.peak, pair.alerted, pair.latched = (float(number) for number in numbers)
        pair.learned, pair.counted = (bool(flag) for flag in flags)
        pair.replies, pair.void = (int(number) for number in replies)
        pair.finding = None if found is None else msgspec.convert(found, Finding)
        return pair


Value = TypeVar("Value")


class Generations(Generic[Value]):
    """A map of bounded size: when the young half is full, or its time is over, the old half goes."""

    __slots__ = ("_half", "dropped", "old", "young")

    def __init__(self, cap: int) -> None:
        self.young: dict[bytes, Value] = {}
        self.old: dict[bytes, Value] = {}
        self.dropped: int = 0  # entries lost to the cap
        self._half: int = max(cap // 2, 1)

    def __len__(self) -> int:
        return len(self.young) + len(self.old)

    def get(self, key: bytes) -> Value | None:
        """Return the value, which then counts as used."""
        found = self.young.get(key)
        if found is None and self.old:
            found = self.old.pop(key, None)
            if found is not None:
                self.put(key, found)
        return found

    def put(self, key: bytes, value: Value) -> None:
        """Set the value; at the cap the half used least recently is lost."""
        if len(self.young) >= self._half and key not in self.young:
            self.dropped += len(self.rotate())
        self.young[key] = value

    def rotate(self) -> dict[bytes, Value]:
        """Start a new generation; returns the entries that are gone."""
        gone = self.old
        self.old = self.young
        self.young = {}
        return gone

    def values(self) -> list[Value]:
        """Return all values."""
        return [*self.old.values(), *self.young.values()]

    def items(self) -> list[tuple[bytes, Value]]:
        """Return all keys with their values, those used least recently first."""
        return [*self.old.items(), *self.young.items()]
