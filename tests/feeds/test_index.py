"""The compiled index: what was built is found, nothing else is, and a damaged file is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.errors import BadFeed
from core.names import from_text, suffixes
from core.verdict import Action
from feeds import index
from feeds.index import Index, Match

SETS = (
    (Match("a", "malware", 80, Action.SINKHOLE),),
    (Match("a", "malware", 80, Action.SINKHOLE), Match("b", "ads", 20, Action.ALERT, below=False)),
)
NAMES = {from_text("evil.example"): 0, from_text("c2.bad.example"): 1}


def opened(tmp_path: Path, names: dict[bytes, int]) -> Index:
    return Index.open(index.write(tmp_path / "intel", 7, index.build(7, names, SETS, created=5.0)))


def test_names_are_found_by_their_suffixes(tmp_path: Path) -> None:
    found = opened(tmp_path, NAMES)
    assert (found.generation, found.count, found.created, found.sets) == (7, 2, 5.0, SETS)
    assert found.find(suffixes(from_text("www.evil.example"))) == [None, 0, None]
    assert found.find(suffixes(from_text("c2.bad.example"))) == [1, None, None]
    assert found.find([]) == []
    found.close()


def test_zero_names_are_an_index(tmp_path: Path) -> None:
    found = opened(tmp_path, {})
    assert found.find(suffixes(from_text("a.b.example"))) == [None, None, None]
    found.close()


def test_a_closed_index_finds_nothing_and_closes_twice(tmp_path: Path) -> None:
    found = opened(tmp_path, NAMES)
    kept = found.find
    found.close()
    found.close()
    assert found.find([from_text("evil.example")]) == [None]
    assert kept([from_text("evil.example")]) == [0], "a reader in the middle of a swap still has its pages"


@settings(deadline=None)  # writes files
@given(st.dictionaries(st.binary(min_size=1, max_size=40), st.integers(0, 1), max_size=50), st.binary(max_size=40))
def test_build_and_open_agree(tmp_path_factory: pytest.TempPathFactory, names: dict[bytes, int], other: bytes) -> None:
    found = opened(tmp_path_factory.mktemp("i"), names)
    assert found.find(list(names)) == list(names.values())
    assert found.find([other]) == [names.get(other)]
    found.close()


@pytest.mark.parametrize("keep", [0, 7, 31, 40, 200, -8, -1])
def test_a_cut_file_is_refused(tmp_path: Path, keep: int) -> None:
    data = index.build(7, NAMES, SETS, created=5.0)
    path = tmp_path / "1.index"
    path.write_bytes(data[:keep])
    with pytest.raises(BadFeed, match="feeds update"):
        Index.open(path)


def test_a_flipped_octet_never_goes_further_than_bad_feed(tmp_path: Path) -> None:
    data = index.build(7, NAMES, SETS, created=5.0)
    path = tmp_path / "1.index"
    refused = 0
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes((data[at] ^ 0x40,)) + data[at + 1 :])
        try:
            Index.open(path).close()
        except BadFeed:
            refused += 1
    assert refused > len(data) / 3 * 0.8  # what is left are letters inside the metadata's words


def test_a_missing_file_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(BadFeed, match="plughole feeds update"):
        Index.open(tmp_path / "none.index")


def test_writing_leaves_no_draft_and_the_stored_are_listed(tmp_path: Path) -> None:
    folder = tmp_path / "intel"
    for generation in (9, 10, 8):
        index.write(folder, generation, index.build(generation, NAMES, SETS, created=0.0))
    assert index.stored(folder) == [10, 9, 8]
    assert sorted(path.name for path in folder.iterdir()) == ["10.index", "8.index", "9.index"]
