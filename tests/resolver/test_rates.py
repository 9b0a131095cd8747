"""The rates a hub tells: of the last seconds, whatever workers and clocks do."""

from __future__ import annotations

import pytest

from core.event import Event
from core.verdict import Action
from resolver.control import Report
from resolver.rates import WINDOW, Rates


def event(action: Action = Action.NONE, *, rcode: int = 0, cached: bool = False, count: int = 1) -> Event:
    return Event(0.0, b"\x7f\0\0\1", b"\1a\0", 1, rcode, action, cached=cached, count=count)


def reports(pid: int, **counters: int) -> dict[int, tuple[float, Report]]:
    return {0: (0.0, Report(0, pid, 1, 0, counters))}


def test_rates_are_those_of_the_last_seconds() -> None:
    rates = Rates()
    for second in range(3 * WINDOW):
        rates.add([event(count=100 if second < WINDOW else 10, cached=True), event()])
        rates.note(reports(1, upstream=5 * second, latency_le_1000=4 * second, latency_le_inf=second), float(second))
        rates.note(reports(1), second + 0.2)  # too soon for a sample
    found = rates.now()
    assert (found["seconds"], found["queries_per_second"], found["questions_per_second"]) == (WINDOW, 11, 5)
    assert (found["cached"], found["blocked"], found["failed"]) == (round(10 / 11, 4), 0, 0)
    assert (found["latency_p50_ms"], found["latency_p99_ms"]) == (1, None)
    assert rates.queries()[0] == {"action": "NONE", "cached": False, "rcode": "NOERROR", "count": 3 * WINDOW}


def test_a_replaced_worker_starts_from_nothing_and_a_new_one_says_nothing_yet() -> None:
    rates = Rates()
    rates.note(reports(1, upstream=1_000, latency_le_1000=500), 0.0)
    rates.note(reports(2, upstream=20, latency_le_1000=8, latency_sum_us=8_000), 1.0)
    assert (rates.now()["questions_per_second"], rates.now()["latency_mean_ms"]) == (20, 1)
    fresh = Rates()
    fresh.note({}, 0.0)
    fresh.note(reports(1, upstream=1_000, latency_le_1000=500), 1.0)
    assert (fresh.now()["questions_per_second"], fresh.now()["latency_mean_ms"]) == (0, None)


def test_a_clock_set_back_starts_anew() -> None:
    rates = Rates()
    rates.note({}, 100.0)
    rates.note({}, 50.0)
    assert rates.now()["queries_per_second"] is None
    rates.note({}, 51.0)
    assert rates.now()["seconds"] == 1


def test_response_codes_nobody_knows_share_one_count() -> None:
    rates = Rates()
    rates.add([event(rcode=rcode) for rcode in range(4_096)])
    assert len(rates.counts) == 12
    assert rates.queries()[0] == {"action": "NONE", "cached": False, "rcode": "other", "count": 4_085}


@pytest.mark.parametrize(("good", "bad", "said"), [(0, 0, ""), (9, 10, ""), (10, 15, "15 of 25"), (30, 10, "")])
def test_upstream_fails_when_most_of_many_fresh_names_fail(good: int, bad: int, said: str) -> None:
    rates = Rates()
    rates.note({}, 0.0)
    rates.add([event(count=good), event(rcode=2, count=bad)])
    rates.add([event(rcode=2, cached=True, count=900), event(Action.SINKHOLE, count=900)])
    rates.note({}, 2.0)
    assert rates.failing() == (f"upstream: {said} names that were not cached failed in the last 2 s" if said else "")
