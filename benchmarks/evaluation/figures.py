"""Rows with their intervals: a quantile, a count, a rate of rare events."""

from __future__ import annotations

from math import ceil, comb
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation.table import Row, wilson

if TYPE_CHECKING:
    from collections.abc import Sequence

_TAIL: Final = 0.025  # on either side of a 95 % interval


def quantile_row(
    detector: str,
    what: str,
    of: str,
    values: Sequence[float],
    share: float,
    *,
    unit: str = "",
    bar: float | None = None,
) -> Row:
    """Return the value that `share` of the values do not exceed, with an interval from order statistics.

    The largest (share 1) has none: nothing can be said about values not seen. No values give nan, which holds no bar.
    """
    ordered = sorted(values)
    n = len(ordered)
    if n == 0:
        return Row(detector=detector, what=what, of=of, value=float("nan"), unit=unit, n=0, bar=bar)
    low, high = (None, None) if share >= 1.0 else _ranks(n, share)
    return Row(
        detector=detector,
        what=what,
        of=of,
        value=ordered[max(ceil(share * n) - 1, 0)],
        unit=unit,
        n=n,
        low=None if low is None else ordered[low],
        high=None if high is None else ordered[high],
        bar=bar,
    )


def _ranks(n: int, share: float) -> tuple[int, int]:
    """Return the places, from 0, between which the quantile lies in 95 % of samples (David and Nagaraja 2003, 7.1)."""
    below, low, high = 0.0, 0, n - 1
    for hits in range(n):
        below += comb(n, hits) * share**hits * (1 - share) ** (n - hits)
        if below <= _TAIL:
            low = min(hits + 1, n - 1)
        if below >= 1 - _TAIL:
            high = hits
            break
    return max(low - 1, 0), high


def count_row(detector: str, what: str, of: str, hits: int, n: int, *, bar: float | None = None) -> Row:
    """Return how many of n; the interval is that of the share, in counts."""
    low, high = wilson(hits, n)
    return Row(detector=detector, what=what, of=of, value=hits, n=n, low=low * n, high=high * n, bar=bar)


def rate_row(
    detector: str, what: str, of: str, events: int, exposure: float, *, unit: str, n: int, bar: float | None = None
) -> Row:
    """Return events per exposure with the exact interval of a Poisson count (Garwood 1936); n is what was looked at."""
    from scipy.special import gammaincinv

    low = float(gammaincinv(events, _TAIL)) if events else 0.0
    high = float(gammaincinv(events + 1, 1 - _TAIL))
    return Row(
        detector=detector,
        what=what,
        of=of,
        value=events / exposure,
        unit=unit,
        n=n,
        low=low / exposure,
        high=high / exposure,
        bar=bar,
    )
