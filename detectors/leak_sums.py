"""What all clients together sent to a domain, and how much that may be where hardly anybody sent any while learning.

Rules:
1. A domain is as old as the first data it carried: names asked within the first tier make it neither older nor known.
2. Many clients have a little each, up to SHARES of them, and months of use add more. Nothing else does: a group of bots
   can look like a new service in all but its patience.
"""

from __future__ import annotations

from math import exp, inf
from typing import Any, Final

from detectors.leak_accounts import DAY, HOUR, MONTH

YOUNG: Final = 2.0 * DAY  # seconds from the first data
MEMORY: Final = 60.0 * DAY  # time constant of the sum
LONE: Final = 2  # clients; a domain with more of them is shared
SHARE_YOUNG: Final = 1.0 / 32.0  # of the young budget for each client, while the domain is young
SHARE: Final = 1.0 / 16.0  # and later
SHARES: Final = 128  # clients that count
CROWDED: Final = 2.0  # young budgets for each client, of a domain that was a crowd's while learning
STEADY: Final = 6.0  # times what was sent while learning, in the month after it
AGES: Final = 12.0  # months that add to the limit


class Sum:
    """Bits of fresh names all clients sent to a domain beyond the first tier, and how many clients they were."""

    __slots__ = ("alerted", "at", "bits", "clients", "first", "learned", "learned_clients")

    def __init__(self, now: float) -> None:
        self.first: float = now  # Unix seconds of the first data
        self.at: float = now  # of `bits`
        self.bits: float = 0.0
        self.clients: int = 0  # that left the first tier here
        self.learned: float = 0.0  # bits when learning ended
        self.learned_clients: int = 0
        self.alerted: float = -inf  # Unix seconds of the last alert

    def join(self, *, learning: bool) -> bool:
        """Take in a client that leaves the first tier; true when what it sent there is to be charged.

        It is not from SHARES clients on, or the first tier alone would fill the sum of a service many use a little.
        """
        self.clients += 1
        if learning:
            self.learned_clients = self.clients
        return self.clients <= SHARES

    def add(self, now: float, bits: float, *, learning: bool) -> None:
        """Charge bits of fresh names."""
        passed = now - self.at
        if passed > HOUR:
            self.bits *= exp(-passed / MEMORY)
            self.at = now
        self.bits += bits
        if learning:
            self.learned = self.bits

    def known(self) -> bool:
        """True when more than a few clients sent data here while learning."""
        return self.learned_clients > LONE

    def young(self, now: float) -> bool:
        """True within two days of the first data."""
        return now - self.first < YOUNG

    def limit(self, now: float, budget: float, *, crowded: bool = False) -> float:
        """Return how many bits the sum may reach; a domain that had the budget's use while learning has no limit.

        Each client has CROWDED of them at a domain a crowd asked at while learning: a new product may come there.
        """
        if self.known() and self.learned >= budget:
            return inf
        age = now - self.first
        share = SHARE if age >= YOUNG else SHARE_YOUNG
        most = budget * max(1.0, share * min(self.clients, SHARES))
        if crowded:
            most = max(most, budget * CROWDED * self.clients)
        if self.known():
            most = max(most, STEADY * self.learned)
        return most * min(max(age / MONTH, 1.0), AGES)

    def dump(self) -> list[Any]:
        """Return the state as plain values."""
        return [[self.first, self.at, self.bits, self.learned, self.alerted], [self.clients, self.learned_clients]]

    @staticmethod
    def from_dump(state: list[Any]) -> Sum:
        """Return the sum `dump` returned; raises ValueError or TypeError when it is something else."""
        numbers, counts = state
        found = Sum(0.0)
        found.first, found.at, found.bits, found.learned, found.alerted = (float(number) for number in numbers)
        found.clients, found.learned_clients = (int(count) for count in counts)
        return found
