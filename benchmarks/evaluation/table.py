"""A row of the evaluation: what was measured, of how many, within which bounds, and what was to be reached."""

from __future__ import annotations

from math import sqrt
from typing import Final

import msgspec

_Z: Final = 1.959964  # of a two-sided interval of 95 %


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `bar` is what it must reach; None: shown only."""

    detector: str
    what: str  # "full speed, payload before the block, 95 %"
    of: str = "all"  # the tool, family or service
    value: float
    unit: str = ""
    n: int
    low: float | None = None  # 95 % interval
    high: float | None = None
    bar: float | None = None
    at_most: bool = True  # the bar is an upper one

    @property
    def holds(self) -> bool:
        """True when the bar is reached, or there is none."""
        if self.bar is None:
            return True
        return self.value <= self.bar if self.at_most else self.value >= self.bar


def wilson(hits: int, n: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if n == 0:
        return 0.0, 1.0
    share, z2 = hits / n, _Z * _Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(middle - half, 0.0), min(middle + half, 1.0)
