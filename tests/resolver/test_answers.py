"""The cache: bounded in octets, and a scan of random names cannot push out what is in use."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from resolver.answers import Cache


class Item:
    def __init__(self, size: int) -> None:
        self.size = size
        self.used = False


def touch(cache: Cache[Item], key: bytes, size: int = 100) -> bool:
    """Ask for a key as the packet loop does; returns whether it was there."""
    found = cache.table.get(key)
    if found is not None:
        found.used = True
        return True
    cache.put(key, Item(size))
    return False


def test_it_holds_what_fits() -> None:
    cache: Cache[Item] = Cache(10_000)
    for at in range(50):
        touch(cache, b"%d" % at)
    assert all(touch(cache, b"%d" % at) for at in range(50))
    assert (cache.octets, cache.evicted) == (5_000, 0)


def test_a_scan_does_not_push_out_what_is_in_use() -> None:
    cache: Cache[Item] = Cache(10_000)
    popular = [b"popular %d" % at for at in range(60)]
    for _ in range(3):
        for key in popular:
            touch(cache, key)
    for at in range(20_000):
        touch(cache, b"random %d" % at)
        if at % 50 == 0:
            touch(cache, popular[at // 50 % 60])
    assert sum(key in cache.table for key in popular) >= 57
    assert cache.octets <= 10_000


def test_what_comes_back_soon_after_it_left_is_kept() -> None:
    cache: Cache[Item] = Cache(10_000)
    for at in range(200):
        touch(cache, b"%d" % at)
    gone = next(b"%d" % at for at in range(200) if b"%d" % at not in cache.table)
    touch(cache, gone)
    for at in range(1_000, 1_050):
        touch(cache, b"%d" % at)
    assert gone in cache.table


def test_an_entry_over_a_tenth_of_the_limit_is_not_held() -> None:
    cache: Cache[Item] = Cache(10_000)
    cache.put(b"large", Item(1_001))
    assert (b"large" in cache.table, cache.octets) == (False, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["touch", "drop", "again"]), st.integers(0, 40), st.integers(1, 90)), max_size=300
    )
)
def test_octets_are_the_sum_of_what_is_held_and_never_over_the_limit(steps: list[tuple[str, int, int]]) -> None:
    cache: Cache[Item] = Cache(1_000)
    for what, number, size in steps:
        key = b"%d" % number
        if what == "touch":
            touch(cache, key, size)
        elif what == "drop":
            cache.drop(key)
        else:
            cache.put(key, Item(size))
        assert cache.octets == sum(item.size for item in cache.table.values())
        assert cache.octets <= 1_000
