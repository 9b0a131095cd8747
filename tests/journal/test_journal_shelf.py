"""What is merged, what is superseded and what is deleted, with no file written by DuckDB at all."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from journal.segments import Segment, hours, in_hour, live
from journal.shelf import FAN_IN, FULL_ROWS, GRACE, MERGED_ROWS, Shelf, choose

HOUR = 497_222  # 2026-09-21 14:00 UTC


def put(root: Path, segment: Segment) -> Segment:
    path = segment.path(root)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * segment.size)
    return segment


def small(number: int, *, hour: int = HOUR, rows: int = 10, level: int = 0, size: int = 100) -> Segment:
    return Segment(hour, number, number, level, rows, size)


def test_a_merge_supersedes_its_inputs_and_nothing_else() -> None:
    inputs = [small(1), small(2)]
    merged = Segment(HOUR, 1, 2, 1, 20)
    assert live([*inputs, merged, small(3)]) == [merged, small(3)]


def test_names_on_disk_come_back_as_written(tmp_path: Path) -> None:
    segment = put(tmp_path, Segment(HOUR, 1_790_000_000_000_000, 1_790_000_001_000_000, 2, 77, 5))
    assert segment.path(tmp_path).parent.relative_to(tmp_path) == Path("date=2026-09-21", "hour=14")
    assert hours(tmp_path) == [HOUR]
    assert in_hour(tmp_path, HOUR) == [segment]


@given(st.lists(st.tuples(st.integers(1, MERGED_ROWS), st.integers(0, 3)), max_size=60), st.booleans())
def test_a_chosen_merge_is_neighbours_and_fits(made: list[tuple[int, int]], closed: bool) -> None:
    segments = [small(number, rows=rows, level=level) for number, (rows, level) in enumerate(made)]
    chosen = choose(segments, closed=closed)
    if chosen:
        at = segments.index(chosen[0])
        assert segments[at : at + len(chosen)] == chosen
        assert len(chosen) > 1
        assert sum(one.rows for one in chosen) <= MERGED_ROWS


def test_an_hour_of_one_file_a_second_stays_below_100_files() -> None:
    segments: list[Segment] = []
    most = 0
    for number in range(3_600):
        segments.append(small(number))
        most = max(most, len(segments))
        while chosen := choose(segments, closed=False):
            at = segments.index(chosen[0])
            level = max(one.level for one in chosen) + 1
            segments[at : at + len(chosen)] = [
                Segment(HOUR, chosen[0].first, chosen[-1].last, level, sum(one.rows for one in chosen))
            ]
    assert most < 100
    assert len(choose(segments, closed=True)) == len(segments)


def test_full_files_are_merged_no_more() -> None:
    assert choose([small(number, rows=FULL_ROWS) for number in range(100)], closed=True) == []


def test_a_level_is_merged_when_it_is_wide_enough() -> None:
    segments = [small(number) for number in range(FAN_IN)]
    assert choose(segments[1:], closed=False) == []
    assert choose(segments, closed=False) == segments


def test_recovery_removes_half_written_and_superseded_files_only(tmp_path: Path) -> None:
    old = [put(tmp_path, small(number)) for number in (1, 2)]
    merged = put(tmp_path, Segment(HOUR, 1, 2, 1, 20, 100))
    folder = merged.path(tmp_path).parent
    half = folder / (small(3).name + ".tmp")
    half.touch()
    strange = folder / "notes.tmp"
    strange.touch()
    shelf = Shelf(tmp_path)
    shelf.recover()
    assert in_hour(tmp_path, HOUR) == [merged]
    assert not half.exists()
    assert not any(one.path(tmp_path).exists() for one in old)
    assert strange.exists()
    assert (shelf.bytes, shelf.newest) == (100, 2)


def test_superseded_files_stay_for_readers_until_the_grace_is_over(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    inputs = [put(tmp_path, small(number)) for number in (1, 2)]
    for one in inputs:
        shelf.add(one)
    merged = put(tmp_path, Segment(HOUR, 1, 2, 1, 20, 150))
    shelf.replace(inputs, merged, 1_000.0)
    shelf.sweep(1_000.0 + GRACE - 1)
    assert len(in_hour(tmp_path, HOUR)) == 3
    shelf.sweep(1_000.0 + GRACE)
    assert in_hour(tmp_path, HOUR) == [merged]
    assert shelf.bytes == 150


def test_retention_by_age_deletes_whole_hours_and_their_folders(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for hour in (HOUR - 24, HOUR - 23, HOUR):
        shelf.add(put(tmp_path, small(hour, hour=hour)))
    assert shelf.expire(HOUR * 3_600.0, keep_days=1, max_megabytes=1) == 0
    assert shelf.expire((HOUR + 1) * 3_600.0, keep_days=1, max_megabytes=1) == 10
    assert hours(tmp_path) == [HOUR - 23, HOUR]
    assert shelf.expire((HOUR + 48) * 3_600.0, keep_days=1, max_megabytes=1) == 20
    assert list(tmp_path.iterdir()) == []


def test_retention_by_size_deletes_the_oldest_files_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path)
    for number in range(5):
        shelf.add(put(tmp_path, small(number, size=400_000)))
    shelf.expire(HOUR * 3_600.0, keep_days=30, max_megabytes=1)
    assert [one.first for one in in_hour(tmp_path, HOUR)] == [3, 4]
    assert shelf.bytes == 800_000


def test_retention_touches_nothing_that_is_not_a_segment(tmp_path: Path) -> None:
    queries = tmp_path / "queries"
    outside = tmp_path / "precious"
    outside.mkdir()
    (outside / small(1).name).touch()
    queries.mkdir()
    (queries / "date=2020-01-01").mkdir()
    (queries / "date=2020-01-01" / "hour=00").symlink_to(outside)
    ours = put(queries, small(1, hour=HOUR - 1_000))
    stranger = ours.path(queries).with_name("report.parquet")
    stranger.touch()
    shelf = Shelf(queries)
    shelf.recover()
    shelf.expire(HOUR * 3_600.0, keep_days=1, max_megabytes=0)
    assert not ours.path(queries).exists()
    assert stranger.exists()
    assert (outside / small(1).name).exists()
