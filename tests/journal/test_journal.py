"""The journal as the hub drives it, read back by the questions a person asks, with fake time and real files."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import names
from core.config import Config, Server
from core.config import Journal as Keys
from core.errors import PlugholeError
from core.event import Event, Transport
from core.rr import rcode_text, type_text
from core.verdict import Action, Cause, Reason, Trigger
from journal import ask, parquet, ranking
from journal import journal as journal_module
from journal.cap import LAG
from journal.columns import address_text
from journal.journal import FEW, TICK, Journal
from journal.reasons import as_rows
from journal.segments import QUERIES, REQUEST, Segment, hours, in_hour, live

NOW = 1_790_000_400.0  # 2026-09-21 14:20 UTC, far from the hour's ends


def config(folder: Path, **keys: Any) -> Config:
    return Config(server=Server(data_dir=str(folder)), journal=Keys(**keys))


def query(qname: str = "www.example.org", at: float = NOW, **changes: Any) -> Event:
    client = changes.pop("client", bytes((10, 0, 0, 1)))
    return Event(at, client, names.from_text(qname), changes.pop("qtype", 1), changes.pop("rcode", 0), **changes)


def numbered(count: int, at: float = NOW, start: int = 0) -> list[Event]:
    return [query(f"n{number}.example.org", at) for number in range(start, start + count)]


def all_segments(folder: Path) -> list[Segment]:
    root = folder / QUERIES
    return [one for hour in hours(root) for one in live(in_hour(root, hour))]


def qnames(folder: Path, **asked: Any) -> Counter[str]:
    return Counter(row["qname"] for row in ask.log(folder, **asked))


def until(true: Callable[[], object]) -> None:
    """Wait for a thread of the product; a test that hangs here is ended by the limit."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline, "nothing happened for a minute"
        time.sleep(0.01)


texts = st.text(st.characters(codec="utf-8"), max_size=12)
addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
reasons = st.builds(
    Reason, st.sampled_from(Cause), st.sampled_from(Action), texts, texts, texts, st.integers(0, 100), texts
)
wires = st.lists(st.binary(min_size=1, max_size=12), max_size=5).map(lambda parts: names.from_labels(tuple(parts)))
events = st.builds(
    Event,
    at=st.integers(0, 7_200_000_000).map(lambda micros: 1_790_000_000 + micros / 1e6),
    client=addresses,
    qname=wires,
    qtype=st.integers(0, 65_535),
    rcode=st.integers(0, 4_095),
    action=st.sampled_from(Action),
    cause=st.sampled_from(Cause),
    transport=st.sampled_from(Transport),
    cached=st.booleans(),
    count=st.integers(1, 2**32 - 1),
    duration=st.integers(0, 2**32 - 1),
    size=st.integers(0, 65_535),
    ttl=st.integers(0, 2**31),
    upstream=texts,
    secure=st.booleans(),
    answers=st.lists(addresses, max_size=3).map(tuple),
    reasons=st.lists(reasons, max_size=3).map(tuple),
    trigger=st.sampled_from(Trigger),
    member=texts,
    view=texts,
)


def expected(event: Event) -> dict[str, Any]:
    return {
        "client": address_text(event.client),
        "view": event.view,
        "qname": names.to_text(event.qname),
        "qtype": type_text(event.qtype),
        "rcode": rcode_text(event.rcode),
        "action": event.action.name,
        "cause": event.cause.name.lower(),
        "trigger": event.trigger.name.lower(),
        "member": event.member,
        "reasons": as_rows(event.reasons),
        "cached": event.cached,
        "count": event.count,
        "duration_us": event.duration,
        "size": event.size,
        "ttl": event.ttl,
        "upstream": event.upstream,
        "secure": event.secure,
        "answers": [address_text(address) for address in event.answers],
        "transport": event.transport.name.lower(),
    }


def sort_key(row: dict[str, Any]) -> str:
    return repr(sorted(row.items()))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(events, min_size=1, max_size=30))
def test_every_event_comes_back_as_it_went_in(some: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(config(Path(folder)), now=NOW)
        journal.write(some, NOW)
        journal.close(NOW)
        assert journal.counters()["written"] == len(some)
        rows = list(ask.log(Path(folder), order="asc"))
    moments = [row.pop("at") for row in rows]
    assert moments == sorted(moments)
    assert sorted(rows, key=sort_key) == sorted(map(expected, some), key=sort_key)


def test_the_moment_is_utc_to_the_microsecond(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write([query(at=NOW + 0.123456)], NOW)
    journal.close(NOW)
    (row,) = ask.log(tmp_path)
    assert row["at"] == "2026-09-21T14:20:00.123456Z"


def test_an_empty_or_missing_journal_answers_nothing(tmp_path: Path) -> None:
    assert list(ask.log(tmp_path)) == []
    assert ranking.top(tmp_path, "leaks") == []
    assert not ask.settle(tmp_path)
    assert list(ask.follow(tmp_path, stop=lambda: True)) == []
    journal = Journal(config(tmp_path), now=NOW)
    journal.close(NOW)
    assert list(ask.log(tmp_path)) == []


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    reason = Reason(Cause.INTEL, Action.SINKHOLE, "feed-a", "bad.example")
    journal = Journal(config(tmp_path), now=NOW)
    journal.write(
        [
            query("bad.example", NOW, action=Action.SINKHOLE, cause=Cause.INTEL, reasons=(reason,)),
            query("x.bad.example", NOW + 1, action=Action.ALERT, cause=Cause.DETECTOR, client=bytes((10, 0, 1, 9))),
            query("notbad.example", NOW + 2),
            Event(NOW + 3, b"\xfd" + bytes(14) + b"\x01", names.from_labels((b"a.bad", b"example")), 28, 3),
            query("late.example", NOW + 7_200, count=5, cached=True),
        ],
        NOW,
    )
    journal.close(NOW)
    return tmp_path


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"domain": "bad.example"}, {"bad.example", "x.bad.example"}),
        ({"domain": "BAD.example."}, {"bad.example", "x.bad.example"}),
        ({"domain": "example"}, {"bad.example", "x.bad.example", "notbad.example", r"a\.bad.example", "late.example"}),
        ({"domain": "ad.example"}, set()),
        ({"client": "10.0.0.0/23", "action": "ALERT"}, {"x.bad.example"}),
        ({"client": "10.0.1.9"}, {"x.bad.example"}),
        ({"client": "fd00::/8"}, {r"a\.bad.example"}),
        ({"client": "fd00:0::1"}, {r"a\.bad.example"}),
        ({"client": "192.0.2.0/24"}, set()),
        ({"action": "blocked"}, {"bad.example"}),
        ({"action": "alert"}, {"x.bad.example"}),
        ({"cause": "detector"}, {"x.bad.example"}),
        ({"since": NOW + 3}, {r"a\.bad.example", "late.example"}),
        ({"until": NOW + 1}, {"bad.example"}),
        ({"since": NOW + 1, "until": NOW + 2}, {"x.bad.example"}),
        ({"limit": 1}, {"late.example"}),
        ({"limit": 1, "order": "asc"}, {"bad.example"}),
        ({"limit": 0}, set()),
    ],
)
def test_filters(mixed: Path, asked: dict[str, Any], found: set[str]) -> None:
    assert set(qnames(mixed, **asked)) == found


@pytest.mark.parametrize(
    "asked",
    [{"client": "10.0.0.300"}, {"client": "x/8"}, {"domain": "a..b"}, {"action": "explode"}, {"cause": "'; DROP"}],
)
def test_a_filter_that_makes_no_sense_is_refused_at_once(tmp_path: Path, asked: dict[str, Any]) -> None:
    with pytest.raises(PlugholeError) as refused:
        ask.log(tmp_path, **asked)
    assert "\n" not in str(refused.value)


def test_rankings(mixed: Path) -> None:
    assert ranking.top(mixed, "clients", limit=1) == [
        {"client": "10.0.0.1", "queries": 7, "blocked": 1, "uncached": 2},
    ]
    assert ranking.top(mixed, "domains", limit=2) == [
        {"domain": "late.example", "queries": 5, "blocked": 0, "clients": 1, "names": 1},
        {"domain": "bad.example", "queries": 2, "blocked": 1, "clients": 2, "names": 2},
    ]
    assert ranking.top(mixed, "causes") == [
        {"action": "ALERT", "cause": "detector", "source": "", "queries": 1, "clients": 1},
        {"action": "SINKHOLE", "cause": "intel", "source": "feed-a", "queries": 1, "clients": 1},
    ]


def test_leaks_count_octets_of_distinct_labels_of_names_that_went_out(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write(
        [
            query("aaaa.t.example.org"),
            query("bbbbbb.t.example.org"),
            query("bbbbbb.t.example.org"),
            query("cached-and-long.t.example.org", cached=True),
            query("stopped.t.example.org", action=Action.NXDOMAIN, cause=Cause.DETECTOR),
            Event(NOW, bytes((10, 0, 0, 2)), names.from_labels((b"\x00\xff", b"example", b"org")), 1, 0),
            query("example.org", client=bytes((10, 0, 0, 3))),
        ],
        NOW,
    )
    journal.close(NOW)
    assert ranking.top(tmp_path, "leaks") == [
        {"client": "10.0.0.1", "domain": "example.org", "bytes": 11, "names": 2, "queries": 3},
        {"client": "10.0.0.2", "domain": "example.org", "bytes": 2, "names": 1, "queries": 1},
    ]


def test_few_rows_are_visible_after_a_second_many_after_the_segment_time(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path, segment_seconds=15.0), now=NOW)
    journal.write(numbered(FEW - 1), NOW)
    journal.tick(NOW + 0.9)
    assert journal.counters()["written"] == 0
    journal.tick(NOW + 1.0)
    assert journal.counters()["written"] == FEW - 1
    journal.write(numbered(FEW), NOW + 2)
    journal.tick(NOW + 16.9)
    assert journal.counters()["pending"] == FEW
    journal.tick(NOW + 17.0)
    assert journal.counters() | {"pending": 0, "written": 2 * FEW - 1} == journal.counters()
    journal.close(NOW + 17)


def test_a_reader_who_asks_is_served_within_a_second(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path, segment_seconds=600.0), now=NOW)
    journal.write(numbered(2 * FEW), NOW)
    journal.flush(NOW)
    journal.write(numbered(2 * FEW), NOW)
    served = ask.settle(tmp_path, sleep=lambda _: journal.tick(NOW + 1.0))
    assert served
    assert not (tmp_path / QUERIES / REQUEST).exists()
    assert sum(qnames(tmp_path).values()) == 4 * FEW
    assert ask.settle(tmp_path, sleep=lambda _: journal.tick(NOW + 1.1))
    journal.close(NOW + 1)


def test_nobody_waits_long_or_twice_for_a_writer_that_is_not_there(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write([query()], NOW)
    journal.close(NOW)
    slept: list[float] = []
    assert not ask.settle(tmp_path, sleep=slept.append)
    assert 1.4 < sum(slept) < 1.7
    os.utime(tmp_path / QUERIES / REQUEST, (time.time() - 60, time.time() - 60))
    slept.clear()
    assert not ask.settle(tmp_path, sleep=slept.append)
    assert slept == []


def test_a_segment_is_written_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "SEGMENT_ROWS", 2_000)
    journal = Journal(config(tmp_path), now=NOW)
    for start in range(0, 6_000, 500):
        journal.write(numbered(500, start=start), NOW)
    assert journal.counters()["written"] == 6_000
    assert journal.counters()["segments"] >= 2
    journal.close(NOW)


@pytest.mark.parametrize(("queries", "kept"), [("all", 2), ("blocked", 1), ("none", 0)])
def test_privacy_levels(tmp_path: Path, queries: str, kept: int) -> None:
    journal = Journal(config(tmp_path, queries=queries), now=NOW)
    journal.write([query(), query("bad.example", action=Action.SINKHOLE, cause=Cause.INTEL)], NOW)
    journal.close(NOW)
    assert sum(qnames(tmp_path).values()) == kept
    assert journal.counters()["sightings_written"] == 1


def test_over_the_cap_what_tells_most_is_kept(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path, max_rows_per_second=20), now=NOW)
    assert LAG * 20 == 100, "what may come at once"
    hits = [query("hit.example", cached=True) for _ in range(200)]
    fresh = [query("fresh.example") for _ in range(30)]
    hostile = [query("bad.example", action=Action.SINKHOLE, cause=Cause.INTEL) for _ in range(50)]
    journal.write([*hits, *fresh, *hostile], NOW)
    assert journal.counters()["over_the_cap"] == 200
    journal.write(hostile, NOW)
    assert journal.counters()["over_the_cap"] == 230
    journal.write(hostile, NOW + 0.5)
    journal.close(NOW + 1)
    assert qnames(tmp_path) == {"bad.example": 80, "fresh.example": 30}


def test_hits_leave_room_for_what_comes_later(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path, max_rows_per_second=20), now=NOW)
    journal.write([query("hit.example", cached=True) for _ in range(200)], NOW)
    journal.write([query("bad.example", action=Action.DROP, cause=Cause.ACCESS) for _ in range(25)], NOW)
    journal.close(NOW)
    assert qnames(tmp_path) == {"hit.example": 75, "bad.example": 25}


def test_follow_shows_each_new_row_once(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write([query("before.example")], NOW)
    journal.flush(NOW)
    clock = iter(range(1, 100))

    def step(_: float) -> None:
        moment = next(clock)
        journal.write([query(f"n{moment}.example", NOW + moment)], NOW + moment)
        journal.flush(NOW + moment)

    def found(**asked: Any) -> Generator[str, None, None]:
        return (row["qname"] for row in ask.follow(tmp_path, sleep=step, **asked))

    following = found()
    assert [next(following) for _ in range(3)] == ["n1.example", "n2.example", "n3.example"]
    following.close()
    again = found(since=NOW + 2)
    assert [next(again) for _ in range(4)] == ["n2.example", "n3.example", "n4.example", "n5.example"]
    again.close()
    journal.close(NOW + 10)


def test_follow_neither_misses_nor_repeats_when_segments_are_merged(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write([query("before.example")], NOW)
    journal.flush(NOW)
    moments = iter(range(1, 1_000))

    def step(_: float) -> None:
        for _ in range(7):
            moment = next(moments)
            journal.write([query(f"n{moment}.example", NOW + moment)], NOW + moment)
            journal.flush(NOW + moment)
            merges = journal.counters()["merges"]
            journal.tick(NOW + moment)
            if journal._merging.busy:
                until(journal._merging._job.done)  # type: ignore[union-attr]
                journal.tick(NOW + moment + 2 * TICK)
                assert journal.counters()["merges"] == merges + 1

    following = ask.follow(tmp_path, sleep=step)
    assert [next(following)["qname"] for _ in range(150)] == [f"n{number}.example" for number in range(1, 151)]
    following.close()
    assert journal.counters()["merges"] > 3
    journal.close(NOW + 1_000)


def run_merges(journal: Journal, now: float) -> None:
    """Tick until there is nothing left to merge."""
    before = -1
    while journal._merging.busy or journal.counters()["merges"] != before:
        before = journal.counters()["merges"]
        for _ in range(2):
            if journal._merging.busy:
                until(journal._merging._job.done)  # type: ignore[union-attr]
            now += TICK
            journal.tick(now)


def test_merging_loses_and_doubles_nothing_and_sorts_by_client(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    for number in range(60):
        client = bytes((10, 0, 0, number % 7))
        journal.write(
            [query(f"n{number}-{one}.example", NOW + number, client=client) for one in range(5)], NOW + number
        )
        journal.flush(NOW + number)
    before = qnames(tmp_path)
    assert set(before.values()) == {1}
    run_merges(journal, NOW + 7_200)
    assert qnames(tmp_path) == before
    assert len(all_segments(tmp_path)) == 1
    journal.tick(NOW + 7_300)
    assert len(list((tmp_path / QUERIES).rglob("*.parquet"))) == 1
    with parquet.connect(tmp_path) as connection:
        (path,) = (tmp_path / QUERIES).rglob("*.parquet")
        clients = connection.execute("SELECT client FROM read_parquet(?)", [str(path)]).fetchall()
    assert clients == sorted(clients)
    journal.close(NOW + 7_300)


def test_killed_at_any_step_of_a_merge_nothing_is_lost_or_doubled(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    for number in range(3):
        journal.write([query(f"n{number}.example")], NOW + number)
        journal.flush(NOW + number)
    journal.close(NOW + 3)
    root = tmp_path / QUERIES
    whole = {"n0.example": 1, "n1.example": 1, "n2.example": 1}
    inputs = all_segments(tmp_path)
    half = inputs[0].path(root).with_name("0000000000000001-0000000000000002-1-9.parquet.tmp")
    half.write_bytes(b"PAR1 and then the power went")  # killed while writing
    assert qnames(tmp_path) == whole
    with parquet.connect(tmp_path / "spill") as connection:
        parquet.merge(connection, root, inputs)  # killed after the rename, before any delete
    assert qnames(tmp_path) == whole
    inputs[1].path(root).unlink()  # killed in the middle of deleting
    assert qnames(tmp_path) == whole
    Journal(config(tmp_path), now=NOW + 9).close(NOW + 9)
    assert qnames(tmp_path) == whole
    assert [path.suffix for path in root.rglob("*") if path.is_file()] == [".parquet"]


def test_a_reader_sees_only_whole_segments_while_the_writer_writes_and_merges(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    journal.write(numbered(1), NOW)
    journal.flush(NOW)
    counts: list[int] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        try:
            while not done.is_set() or len(counts) < 3:
                found = qnames(tmp_path)
                assert set(found.values()) == {1}
                counts.append(len(found))
        except BaseException as error:  # noqa: BLE001  shown by the test's own thread
            failures.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(1, 60):
        journal.write(numbered(10, NOW + number, number * 10), NOW + number)
        journal.flush(NOW + number)
        journal.tick(NOW + number)
    done.set()
    reader.join()
    journal.close(NOW + 60)
    assert failures == []
    assert counts == sorted(counts)
    assert len(qnames(tmp_path)) == 591


def test_a_file_deleted_between_listing_and_reading_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    for number in range(2):
        journal.write(numbered(1, NOW, number), NOW + number)
        journal.flush(NOW + number)
    journal.close(NOW)
    listed, root = in_hour, tmp_path / QUERIES
    stale = [all_segments(tmp_path)]
    with parquet.connect(tmp_path) as connection:
        parquet.merge(connection, root, stale[0])
    for one in stale[0]:
        one.path(root).unlink()
    monkeypatch.setattr(ask, "in_hour", lambda root, hour: stale.pop() if stale else listed(root, hour))
    assert qnames(tmp_path) == {"n0.example.org": 1, "n1.example.org": 1}


@pytest.mark.parametrize("damage", ["cut", "garbage", "pages", "empty"])
def test_a_damaged_file_is_skipped_with_one_warning(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    for number in range(3):
        journal.write(numbered(300, NOW + number, number * 300), NOW + number)
        journal.flush(NOW + number)
    journal.close(NOW)
    spoil(all_segments(tmp_path)[1].path(tmp_path / QUERIES), damage)
    with caplog.at_level(logging.WARNING):
        assert len(qnames(tmp_path)) == 600
    assert len(caplog.records) == 1
    assert "its 300 rows are left out" in caplog.text
    assert ranking.top(tmp_path, "clients")[0]["queries"] == 600


def spoil(path: Path, damage: str) -> None:
    healthy = path.read_bytes()
    middle = len(healthy) // 3
    path.write_bytes(
        {
            "cut": healthy[: len(healthy) // 2],
            "garbage": b"\xff" * len(healthy),
            "pages": healthy[:4] + b"\xff" * middle + healthy[4 + middle :],
            "empty": b"",
        }[damage]
    )


def test_the_writer_sets_a_damaged_file_aside_and_merges_the_rest(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    for number in range(4):
        journal.write(numbered(10, NOW + number, number * 10), NOW + number)
        journal.flush(NOW + number)
    spoil(all_segments(tmp_path)[1].path(tmp_path / QUERIES), "garbage")
    run_merges(journal, NOW + 7_200)
    run_merges(journal, NOW + 7_300)
    assert len(all_segments(tmp_path)) <= 2
    assert len(qnames(tmp_path)) == 30
    assert journal.counters()["lost"] == 10
    assert len(list((tmp_path / QUERIES).rglob("*.corrupt"))) == 1
    journal.close(NOW + 7_300)


def test_retention_as_the_hub_sees_it(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path, keep_days=2), now=NOW)
    for day in range(4):
        moment = NOW + day * 86_400
        journal.write([query(f"day{day}.example", moment)], moment)
        journal.tick(moment + 20)
        journal.tick(moment + 40)
    assert set(qnames(tmp_path)) == {"day1.example", "day2.example", "day3.example"}
    assert journal.counters()["expired"] == 1
    journal.close(NOW + 4 * 86_400)


def test_sequence_numbers_rise_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    for moment in (NOW, NOW - 1_000, NOW - 2_000):
        journal = Journal(config(tmp_path), now=moment)
        journal.write([query(f"a{moment}.example")], moment)
        journal.flush(moment)
        journal.write([query(f"b{moment}.example")], moment)
        journal.close(moment)
    found = all_segments(tmp_path)
    assert len({one.first for one in found}) == 6
    assert sum(qnames(tmp_path).values()) == 6


@contextmanager
def no_file_over(size: int) -> Iterator[None]:
    """Let no file of this process grow beyond `size` bytes (Python ignores SIGXFSZ, so writes fail with EFBIG)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_rows_that_cannot_be_written_wait_and_are_written_later(tmp_path: Path) -> None:
    journal = Journal(config(tmp_path), now=NOW)
    with no_file_over(100):
        journal.write([*numbered(500), query("bad.example", action=Action.DROP, cause=Cause.INTEL)], NOW)
        journal.tick(NOW + 1)
        assert journal.counters()["pending"] == 501
        assert journal.trouble
        assert "\n" not in journal.trouble
        assert len(journal.troubles()) == 2
    journal.tick(NOW + 2)
    assert journal.counters()["pending"] == 501
    journal.tick(NOW + 7)
    assert journal.counters()["written"] == 501
    assert journal.troubles() == []
    assert journal.counters()["lost"] == 0
    journal.close(NOW + 7)
    assert sum(qnames(tmp_path).values()) == 501


def test_past_the_bound_the_oldest_rows_are_lost_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "MAX_PENDING", 2_500)
    (tmp_path / "journal").write_text("a file where the folder belongs")
    journal = Journal(config(tmp_path), now=NOW)
    for second in range(5):
        journal.write(numbered(1_024, start=second * 1_024), NOW + second)
        journal.flush(NOW + second)
    counters = journal.counters()
    assert counters["pending"] <= 2_500
    assert counters["pending"] + counters["lost"] == 5 * 1_024
    assert journal.trouble
    journal.close(NOW + 5)
    assert journal.counters()["lost"] == 5 * 1_024


FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from core.config import Config, Server
from core.event import Event
from journal.journal import Journal
import random
folder, dice, now = Path(sys.argv[1]), random.Random(1), 1790000400.0
journal = Journal(Config(server=Server(data_dir=str(folder))), now=now)
for second in range(20):
    wires = [b"\\x10" + dice.randbytes(16).lower() + b"\\0" for _ in range(5000)]
    some = [Event(now + second, dice.randbytes(16), wire, 1, 0) for wire in wires]
    journal.write(some, now + second)
    journal.flush(now + second)
assert "query log" in journal.trouble, journal.trouble
assert not list(folder.rglob("*.tmp"))
journal.close(now + 20)
counters = journal.counters()
assert counters["written"] > 0 and counters["lost"] > 0, counters
assert counters["written"] + counters["lost"] == 100_000, counters
print("survived")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a full disk is made with a tmpfs, which only root may mount")
def test_a_full_disk_loses_rows_and_nothing_else(tmp_path: Path) -> None:
    script = tmp_path / "full.py"
    script.write_text(FULL_DISK)
    disk = tmp_path / "disk"
    disk.mkdir()
    command = 'mount -t tmpfs -o size=1m none "$1" && exec "$2" "$3" "$1" "$4"'
    here = str(Path(__file__).parents[2])
    run = subprocess.run(
        ["unshare", "-m", "sh", "-c", command, "sh", str(disk), sys.executable, str(script), here],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if "mount" in run.stderr or "unshare" in run.stderr:
        pytest.skip(f"no private mount here: {run.stderr.strip()}")
    assert run.stdout.strip() == "survived", run.stderr
