"""A list is held against the one in force, and a kind's file is made of what passes."""

from __future__ import annotations

import pytest

from core.errors import BadFeed
from egress.range_lists import KINDS, Snapshot, joined, unpack
from egress.ranges import Listed, Prefix, prefix
from egress.renewal import check, held, renewed


def networks(*texts: str) -> tuple[Prefix, ...]:
    return joined(map(prefix, texts))


def apart(count: int, *, begin: int = 0) -> tuple[Prefix, ...]:
    """So many single addresses that do not touch."""
    return tuple(Prefix(0x5B000000 + 2 * n, 0x5B000000 + 2 * n, 4) for n in range(begin, begin + count))


SINKHOLES = {
    "sinkholes": networks("91.66.0.1"),
    "umbrella-blockpage-v4": networks("91.67.0.1"),
    "umbrella-blockpage-v6": networks("2a00::1"),
}


def snapshot(date: str = "2026-08-20") -> Snapshot:
    names = KINDS["sinkholes"]
    return Snapshot("sinkholes", date, "a test", tuple(Listed(names[name], each) for name, each in SINKHOLES.items()))


@pytest.mark.parametrize(("before", "after"), [(100, 50), (100, 1_000), (1, 10), (0, 5_000)])
def test_a_list_may_lose_half_and_grow_tenfold(before: int, after: int) -> None:
    check(apart(after), apart(before))


@pytest.mark.parametrize(
    ("before", "after", "why"), [(100, 49, "shrank from 100 to 49 networks"), (100, 1_001, "grew from 100 to 1,001")]
)
def test_a_list_that_changed_too_much_is_refused(before: int, after: int, why: str) -> None:
    with pytest.raises(BadFeed, match=why):
        check(apart(after), apart(before))


@pytest.mark.parametrize(("small", "wide"), [("91.66.0.0/16", "64.0.0.0/4"), ("2a00::/32", "2000::/4")])
def test_a_list_that_would_spare_a_large_part_of_the_internet_is_refused(small: str, wide: str) -> None:
    old = networks(small)
    with pytest.raises(BadFeed, match="covers"):
        check(networks(small, wide), old)


def test_a_short_list_may_come_to_cover_a_network() -> None:
    check(networks("91.66.0.1", "91.67.0.0/16", "2a00::/32"), networks("91.66.0.1", "91.70.0.1", "2a01::1"))


def test_what_is_held_is_known_by_the_folder_it_came_from() -> None:
    assert held(snapshot()) == SINKHOLES
    words = KINDS["never"]["public-dns-v4"]
    both = (Listed(words, networks("91.66.0.1")), Listed(words, networks("2a00::1")))
    assert held(Snapshot("never", "2026-08-20", "a test", both)) == {
        "public-dns-v4": networks("91.66.0.1"),
        "public-dns-v6": networks("2a00::1"),
    }


def test_what_is_not_new_makes_no_file() -> None:
    assert renewed(snapshot(), SINKHOLES, date="2026-11-24") is None
    assert renewed(snapshot(), SINKHOLES, date="2026-11-24", anyway=True) is not None


@pytest.mark.parametrize(("today", "dated"), [("2026-11-24", "2026-11-24"), ("2001-01-01", "2026-08-20")])
def test_a_file_is_never_older_than_what_it_replaces(today: str, dated: str) -> None:
    octets = renewed(snapshot(), SINKHOLES | {"sinkholes": networks("91.66.0.2")}, date=today)
    assert octets is not None
    found = unpack(octets, "sinkholes")
    assert (found.date, held(found)["sinkholes"]) == (dated, networks("91.66.0.2"))
    assert held(found)["umbrella-blockpage-v6"] == SINKHOLES["umbrella-blockpage-v6"]
