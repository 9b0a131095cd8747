"""How a node fares at this moment: what became of the queries told, and rates over the last few seconds.

Rules:
1. Counts come from the events, cache hits in full. What was over the cap of a second counts in the rate only.
2. Rates compare two samples of consecutive reports. A worker that was replaced between them starts from 0.
"""

from __future__ import annotations

from collections import Counter, deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core.rr import Rcode, rcode_text
from core.verdict import Action
from resolver.metrics import buckets

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from core.event import Event
    from resolver.control import Report

WINDOW: Final = 10  # seconds that rates look back
STEP: Final = 0.9  # seconds between samples: workers report every second
FEW: Final = 20  # fresh questions that say too little about upstream
FAILING: Final = 0.5  # share of fresh questions with SERVFAIL from which upstream counts as failing
_OTHER: Final = -1  # all response codes above NOTZONE: a server may send any of 4,096
_OVER: Final = "events_over_cap"
_KEY: Final = attrgetter("action", "cached", "rcode", "count")

Key = tuple[Action, bool, int]  # what was done, from cache, response code


class _Sample(NamedTuple):
    at: float
    counts: dict[Key, int]
    reports: dict[int, Report]


class Rates:
    """Counts events, and compares the last samples taken by `note`."""

    def __init__(self) -> None:
        self.counts: dict[Key, int] = {}
        self._samples: deque[_Sample] = deque(maxlen=WINDOW + 1)

    def add(self, events: Iterable[Event]) -> None:
        """Count events; about 0.2 us each, as equal ones are put together without a line of Python."""
        counts = self.counts
        for (action, cached, rcode, count), times in Counter(map(_KEY, events)).items():
            key = (action, cached, rcode if rcode <= Rcode.NOTZONE else _OTHER)
            counts[key] = counts.get(key, 0) + count * times

    def note(self, reports: Mapping[int, tuple[float, Report]], now: float) -> None:
        """Take a sample when the last one is STEP old; a clock set back starts anew."""
        if self._samples and now < self._samples[-1].at:
            self._samples.clear()
        if not self._samples or now - self._samples[-1].at >= STEP:
            self._samples.append(
                _Sample(now, self.counts.copy(), {number: said for number, (_, said) in reports.items()})
            )

    def queries(self) -> list[dict[str, Any]]:
        """Return the counts since the hub started, one object each action, cached and rcode."""
        return [
            {"action": Action(action).name, "cached": cached, "rcode": "other" if rcode < 0 else rcode_text(rcode),
             "count": count}
            for (action, cached, rcode), count in sorted(self.counts.items())
        ]  # fmt: skip

    def now(self) -> dict[str, Any]:
        """Return rates and shares over the last WINDOW seconds; None for what nothing is known about yet."""
        if len(self._samples) < 2:
            return dict.fromkeys((*_SHARES, *_LATENCIES, "queries_per_second", "questions_per_second"), None) | {
                "seconds": 0.0
            }
        first, last = self._samples[0], self._samples[-1]
        seconds = last.at - first.at
        counts = {key: count - first.counts.get(key, 0) for key, count in last.counts.items()}
        asked = sum(counts.values()) + _gained(first, last, _OVER)
        return {
            "seconds": round(seconds, 1),
            "queries_per_second": round(asked / seconds, 1),
            "questions_per_second": round(_gained(first, last, "upstream") / seconds, 1),
            **_shares(counts),
            **_latencies(first, last),
        }

    def failing(self) -> str:
        """Return in a sentence that most fresh questions fail; empty when they do not, or are few."""
        if len(self._samples) < 2:
            return ""
        first, last = self._samples[0], self._samples[-1]
        fresh = {
            key: count - first.counts.get(key, 0)
            for key, count in last.counts.items()
            if not key[1] and key[0] < Action.NODATA
        }
        total = sum(fresh.values())
        failed = sum(count for key, count in fresh.items() if key[2] == Rcode.SERVFAIL)
        if total < FEW or failed < total * FAILING:
            return ""
        return f"upstream: {failed} of {total} names that were not cached failed in the last {last.at - first.at:.0f} s"


_SHARES: Final = ("cached", "blocked", "failed")
_LATENCIES: Final = ("latency_mean_ms", "latency_p50_ms", "latency_p99_ms")


def _shares(counts: Mapping[Key, int]) -> dict[str, float | None]:
    """Return the shares (0 to 1) of queries from cache, blocked, and with SERVFAIL."""
    total = sum(counts.values())
    if not total:
        return dict.fromkeys(_SHARES)
    cached = sum(count for key, count in counts.items() if key[1])
    blocked = sum(count for key, count in counts.items() if key[0] >= Action.NODATA)
    failed = sum(count for key, count in counts.items() if key[2] == Rcode.SERVFAIL)
    return dict(zip(_SHARES, (round(part / total, 4) for part in (cached, blocked, failed)), strict=True))


def _gained(first: _Sample, last: _Sample, counter: str) -> int:
    """Return how much the workers' counter grew between two samples."""
    return sum(report.counters.get(counter, 0) - base for report, base in _pairs(first, last, counter))


def _pairs(first: _Sample, last: _Sample, counter: str) -> list[tuple[Report, int]]:
    """Return each worker's last report and the value its counter started from; one seen once says nothing yet."""
    found = []
    for number, report in last.reports.items():
        before = first.reports.get(number)
        if before is not None:
            found.append((report, before.counters.get(counter, 0) if before.pid == report.pid else 0))
    return found


def _latencies(first: _Sample, last: _Sample) -> dict[str, float | None]:
    """Return mean, median and 99th percentile in milliseconds; the last two are the upper edge of their bucket."""
    gained: dict[float, int] = {}
    for number, report in last.reports.items():
        before = first.reports.get(number)
        if before is None:
            continue
        base = dict(buckets(before.counters)) if before.pid == report.pid else {}
        for edge, count in buckets(report.counters):
            gained[edge] = gained.get(edge, 0) + count - base.get(edge, 0)
    total = sum(gained.values())
    if total <= 0:
        return dict.fromkeys(_LATENCIES)
    mean = _gained(first, last, "latency_sum_us") / total / 1e3
    found = (round(mean, 2), _edge(gained, total * 0.5), _edge(gained, total * 0.99))
    return dict(zip(_LATENCIES, found, strict=True))


def _edge(gained: Mapping[float, int], rank: float) -> float | None:
    """Return the upper edge, in milliseconds, of the bucket that holds this rank; None for the open one."""
    seen, edges = 0, sorted(gained)
    for edge in edges:
        seen += gained[edge]
        if seen >= rank:
            return None if edge == float("inf") else edge * 1e3
    return None
