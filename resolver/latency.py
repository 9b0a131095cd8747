"""How long clients waited for answers from upstream, as a histogram."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

BOUNDS: Final = (
    500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000, 5_000_000,
)  # fmt: skip
"""Upper bounds in microseconds; what took longer goes into one more bucket."""


class Latency:
    """One worker's histogram."""

    def __init__(self) -> None:
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._sum = 0

    def add(self, took: int) -> None:
        """Count a wait of `took` microseconds."""
        self._sum += took
        self._buckets[bisect_left(BOUNDS, took)] += 1

    def counters(self) -> dict[str, int]:
        """Return `latency_le_N` for each bound of N microseconds and `inf`, and the sum of all waits."""
        found = {f"latency_le_{bound}": count for bound, count in zip((*BOUNDS, "inf"), self._buckets, strict=True)}
        found["latency_sum_us"] = self._sum
        return found
