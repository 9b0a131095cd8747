"""How regular a row of times is: a period with jitter and lost contacts, weighed against chance.

Rules:
1. The model is a renewal process: a gap is k periods long when k - 1 contacts were lost, and spreads by the jitter
   times the square root of k. A share STRAY of the gaps may be anything: nights, sleep changes, a second use.
2. The rivals are people: exponential gaps (Poisson), and log-normal gaps no narrower than PEOPLE. `advantage` is the
   natural logarithm of the likelihood of the model over that of the best rival, summed over the gaps. For a client
   that keeps answers the same rivals are also held against what is left of the gaps after the TTL: people behind a
   cache ask at the TTL and somewhat, which looks steady. So do those whom a browser's cache of PINNED seconds holds.
3. Another hidden floor with a tail above it looks steady too. `above_floor` weighs the model against
   the same rivals above the shortest gap. It is seldom positive, for that rival knows the shortest gap; a beacon loses
   little against it, a floor with a tail much.
4. A search over period and jitter always fits a little; the threshold that is put to `advantage` pays for that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import float64
    from numpy.typing import NDArray

MERGE: Final = 3  # seconds; A, AAAA and HTTPS of one contact, and quick retries
BURST: Final = 0.12  # of the long gaps: shorter ones belong to the same contact
CONTACTS: Final = 24  # the latest that are looked at, so that a changed period shows soon
FEWEST: Final = 8  # contacts below which nothing can be said
LOST: Final = 0.12  # share of contacts that do not arrive
MOST_LOST: Final = 3  # in a row
STRAY: Final = 0.12  # share of gaps that belong to no rhythm
STRAY_SPAN: Final = 11.5  # natural logarithm of 3 days over 3 seconds: stray gaps are log-uniform between
PEOPLE: Final = 0.7  # standard deviation of the logarithm of the gaps people leave, at least
EXACT: Final = 0.1  # jitter of a timer that nobody means to hide
PINNED: Final = 60  # seconds for which browsers keep an answer whatever its TTL
TAIL: Final = 1.0  # the same above a floor
CLOCK: Final = 0.5  # seconds of error of a time cut to the second
_JITTERS: Final = (0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.27, 0.35)  # standard deviation in periods
_QUANTILES: Final = (0.1, 0.2, 0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8)
_SCALES: Final = (0.5, 0.85, 0.93, 1.0, 1.07, 1.15)  # of a quantile of the gaps, as candidates of the period


class Rhythm(msgspec.Struct, frozen=True, kw_only=True):
    """The best period found. `period` is in seconds, `jitter` a standard deviation in periods."""

    period: float
    jitter: float
    explained: float  # share of the gaps that fit the period, lost contacts included
    advantage: float  # nats, see rule 2
    above_floor: float  # nats, see rule 3
    contacts: int


def contacts(times: Sequence[int]) -> list[int]:
    """Return the times at which contacts begin: what follows within a burst belongs to the one before."""
    import numpy as np

    begun = _apart(times, MERGE)
    if len(begun) < FEWEST:
        return begun
    long = float(np.quantile(np.diff(np.asarray(begun, dtype=np.float64)), 0.75))
    return _apart(begun, max(MERGE, BURST * long))


def rhythm(times: Sequence[int], *, kept: int = 0) -> Rhythm | None:
    """Return the rhythm of times in whole seconds, ascending; None when there are too few contacts.

    `kept` is the TTL in seconds if the client keeps answers as long, else 0.
    """
    import numpy as np

    begun = contacts(times)[-CONTACTS:]
    if len(begun) < FEWEST:
        return None
    gaps = np.diff(np.asarray(begun, dtype=np.float64))
    periods, jitters, by_model, fit = _fits(gaps)
    people = _people(gaps)
    if kept:
        people = max(people, _people(np.maximum(gaps - kept, 1.0)))
    tail = gaps - gaps.min() + 1.0
    best = int(np.argmax(by_model))
    at = np.unravel_index(best, by_model.shape)
    if jitters[at[1]] > EXACT and gaps.min() >= PINNED - 1:
        people = max(people, _people(gaps - PINNED + 2.0))
    return Rhythm(
        period=float(periods[at[0]]),
        jitter=float(jitters[at[1]]),
        explained=float(np.mean(fit[at[0], at[1]] > 0.5)),
        advantage=float(by_model[at]) - people,
        above_floor=float(by_model[at]) - max(_poisson(tail), _log_normal(tail, TAIL)),
        contacts=len(begun),
    )


def _apart(times: Sequence[int], least: float) -> list[int]:
    begun: list[int] = []
    for at in times:
        if not begun or at - begun[-1] >= least:
            begun.append(at)
    return begun


def _fits(gaps: NDArray[float64]) -> tuple[NDArray[float64], NDArray[float64], NDArray[float64], NDArray[float64]]:
    """Return candidate periods, jitters, the log-likelihood of each pair, and how far each gap is the rhythm's."""
    import numpy as np

    periods = np.unique(np.outer(np.quantile(gaps, _QUANTILES), _SCALES))
    jitters = np.asarray(_JITTERS)
    lost = np.arange(1.0, MOST_LOST + 2)
    weights = (1 - LOST) * LOST ** (lost - 1)
    spread = np.sqrt((jitters[None, :] * periods[:, None]) ** 2 + CLOCK**2)[:, :, None, None] * np.sqrt(lost)
    off = (gaps[None, None, :, None] - periods[:, None, None, None] * lost) / spread
    density = (weights * np.exp(-0.5 * off * off) / (spread * np.sqrt(2 * np.pi))).sum(axis=3)
    stray = STRAY / (STRAY_SPAN * gaps)
    mixed = (1 - STRAY) * density + stray
    return periods, jitters, np.log(mixed).sum(axis=2), (1 - STRAY) * density / mixed


def _people(gaps: NDArray[float64]) -> float:
    """Return the log-likelihood of the gaps as those of people."""
    return max(_poisson(gaps), _log_normal(gaps, PEOPLE))


def _poisson(gaps: NDArray[float64]) -> float:
    import numpy as np

    mean = float(gaps.mean())
    return -len(gaps) * (float(np.log(mean)) + 1.0)


def _log_normal(gaps: NDArray[float64], narrowest: float) -> float:
    import numpy as np

    logs = np.log(gaps)
    middle, width = float(logs.mean()), max(float(logs.std()), narrowest)
    off = (logs - middle) / width
    return float((-0.5 * off * off - logs - np.log(width * np.sqrt(2 * np.pi))).sum())
