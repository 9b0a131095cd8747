"""The soak's verdict on two looks at a node."""

from __future__ import annotations

import pytest

from benchmarks.soak import ALLOWED, Outcome, Snapshot, _damaged, _seeds, _table


def look(memory: int, files: int, malformed: int = 0, dropped: int = 0) -> Snapshot:
    names = ("malformed", "refused", "blocked", "failed", "udp_received", "udp_sent", "tcp_accepted", "tcp_refused")
    counters = dict.fromkeys(names, 0) | {"malformed": malformed}
    return Snapshot({"w0 1": memory, "hub 2": 10}, {"w0 1": files, "hub 2": 4}, counters, dropped)


@pytest.mark.parametrize(
    ("memory", "files", "answers", "failed"),
    [(0, 0, True, False), (ALLOWED, 0, True, False), (ALLOWED + 1, 0, True, True), (0, 1, True, True),
     (0, 0, False, True), (-5_000_000, -1, True, False)],
)  # fmt: skip
def test_a_node_has_to_be_what_it_was(memory: int, files: int, answers: bool, failed: bool) -> None:
    outcome = Outcome("x", 10, 1.0, look(9_000_000, 20), look(9_000_000 + memory, 20 + files), answers)
    assert outcome.failed is failed


def test_the_table_shows_what_moved() -> None:
    outcome = Outcome("flood", 1_000, 2.0, look(1_000, 5, 7), look(501_000, 5, 1_007, 3), answers=True, remark="r")
    head, [row] = _table([outcome])
    assert dict(zip(head, row, strict=True)) == {
        "ordeal": "flood", "sent": "1,000", "seconds": "2.0", "growth, kB": "w0 +500, hub +0", "files left open": "0",
        "answers": "yes", "remark": "r", "counters": "malformed 1,000, kernel_dropped 3",
    }  # fmt: skip


def test_damage_is_the_same_for_the_same_seed_and_fits_a_datagram() -> None:
    import random

    first, second = ([_damaged(rng, _seeds()) for _ in range(500)] for rng in (random.Random(1), random.Random(1)))
    assert first == second
    assert len(set(first)) > 300
    assert max(map(len, first)) <= 700
