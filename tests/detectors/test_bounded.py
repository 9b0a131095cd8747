from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from detectors.bounded import Bounded, Said

KEYS = st.integers(0, 40)
STEPS = st.lists(st.tuples(st.sampled_from(["put", "get", "pop"]), KEYS), max_size=200)


@given(STEPS, st.integers(1, 12))
def test_it_never_passes_its_cap_and_never_lies(steps: list[tuple[str, int]], cap: int) -> None:
    table: Bounded[int, int] = Bounded(cap)
    truth: dict[int, int] = {}
    for at, (what, key) in enumerate(steps):
        if what == "put":
            table.put(key, at)
            truth[key] = at
        elif what == "get":
            found = table.get(key)
            assert found is None or found == truth[key]
        else:
            found = table.pop(key)
            assert found is None or found == truth[key]
            truth.pop(key, None)
            assert key not in table
        assert len(table) <= table.cap
        assert dict(table.items()).items() <= truth.items()
        assert len(truth) - len(table) <= table.dropped


def test_what_was_used_lately_stays_and_the_rest_is_counted() -> None:
    table: Bounded[int, int] = Bounded(8)
    for key in range(1_000):
        table.put(key, key)
        assert table.get(0) == 0
    assert 500 not in table
    assert 999 in table
    assert len(table) <= 8
    assert table.dropped == 1_000 - len(table)


def test_a_value_that_is_false_is_still_found_in_both_generations() -> None:
    table: Bounded[str, int] = Bounded(4)
    table.put("zero", 0)
    table.turn()
    assert table.get("zero") == 0
    assert table.get("zero") == 0
    assert len(table) == 1


def test_putting_again_moves_no_entry_twice() -> None:
    table: Bounded[str, int] = Bounded(4)
    table.put("a", 1)
    table.turn()
    table.put("a", 2)
    assert list(table.items()) == [("a", 2)]
    table.clear()
    assert len(table) == 0
    assert table.dropped == 0


def test_said_once_in_its_time() -> None:
    said: Said[str] = Said(4, every=60.0)
    assert said.due("a", 0.0)
    assert not said.due("a", 59.0)
    assert said.due("b", 59.0)
    assert said.due("a", 60.0)
    again: Said[str] = Said(4, every=60.0)
    again.load(said.dump())
    assert not again.due("a", 61.0)
    assert not again.due("b", 61.0)
    assert len(again) == 2


def test_said_forgets_at_its_cap_and_counts() -> None:
    said: Said[int] = Said(10, every=1e9)
    assert all(said.due(key, 0.0) for key in range(100))
    assert len(said) <= 10
    assert said.dropped == 100 - len(said)
