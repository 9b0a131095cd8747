"""`feeds update` from file to generation: what is new, unchanged, refused, failed, forced, rolled back, exported."""

from __future__ import annotations

import fcntl
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import redis

from core.config import Config, Source
from core.errors import BadFeed, Unavailable
from core.names import from_text, suffixes
from feeds import review
from feeds.index import Index
from feeds.store import Store, load_index
from feeds.updater import Report, update


def with_sources(config: Config, *sources: Source) -> Config:
    return msgspec.structs.replace(config, feeds=msgspec.structs.replace(config.feeds, source=sources))


def source(name: str, **settings: object) -> Source:
    return msgspec.structs.replace(Source(name=name, url=f"file:{name}.txt"), **settings)


def write(config: Config, name: str, *names: str) -> None:
    (Path(config.base) / f"{name}.txt").write_text("\n".join(names) + "\n", encoding="utf-8")


def statuses(report: Report) -> dict[str, str]:
    return {feed.name: feed.status for feed in report.feeds}


def in_force(config: Config) -> dict[str, list[str]]:
    lines = [msgspec.json.decode(line) for line in review.export(config, "json")]
    return {line["name"]: [match["source"] for match in line["matches"]] for line in lines}


def kept(config: Config) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (config.data_dir / "feeds").rglob("*") if path.is_file()}


@pytest.fixture
def two(config: Config) -> Config:
    write(config, "a", "evil.example", "both.example")
    write(config, "b", "both.example", "# c", "bad", "fine.example")
    return with_sources(config, source("a"), source("b", category="ads", confidence=30, mode="alert"))


def test_the_first_update_publishes_everything(two: Config, client: redis.Redis, tmp_path: Path) -> None:
    report = update(two, now=5.0)
    assert (report.published, report.names, report.failed) == (True, 3, False)
    assert statuses(report) == {"a": "new", "b": "new"}
    feed = report.feeds[1]
    assert (feed.lines, feed.names, feed.bad, feed.added, feed.removed) == (4, 2, 1, 2, 0)
    assert [(bad.line, bad.reason) for bad in feed.bad_lines] == [(3, "a single label")]
    store = Store(client, keep=2)
    assert report.generation == store.current()
    index = Index.open(load_index(store, tmp_path / "intel", store.current() or 0))
    found = index.find(suffixes(from_text("www.both.example")))
    assert [[match.source for match in index.sets[at]] for at in found if at is not None] == [["a", "b"]]
    index.close()


def test_nothing_new_makes_no_generation(two: Config) -> None:
    first = update(two)
    again = update(two)
    assert statuses(again) == {"a": "unchanged", "b": "unchanged"}
    assert (again.published, again.generation, again.message) == (False, first.generation, "nothing has changed")
    assert update(two, force=True).generation == (first.generation or 0) + 1


def test_a_changed_setting_is_a_change(two: Config) -> None:
    update(two)
    louder = with_sources(two, *(msgspec.structs.replace(each, confidence=99) for each in two.feeds.source))
    assert update(louder).published


def test_added_and_removed_are_told_and_diff_agrees(two: Config) -> None:
    update(two)
    write(two, "a", "evil.example", "fresh.example")
    report = update(two)
    assert (report.feeds[0].added, report.feeds[0].removed) == (1, 1)
    assert review.diff(two) == (review.SourceDiff("a", 1, 1, ["fresh.example"], ["both.example"]),)


def test_dry_run_leaves_no_trace(two: Config) -> None:
    update(two)
    before = kept(two)
    write(two, "a", "evil.example", "both.example", "x.example", "y.example")
    report = update(two, dry_run=True)
    assert (report.published, report.names, report.feeds[0].added) == (False, 5, 2)
    assert kept(two) == before
    assert set(in_force(two)) == {"evil.example", "both.example", "fine.example"}
    assert update(two).published


@pytest.mark.parametrize(
    ("names", "why"),
    [
        (["n1.example", "n2.example"], "shrank from 10 to 2 names"),
        ([f"n{at}.example" for at in range(101)], "grew from 10 to 101 names"),
        (["# nothing"], "no name in 1 lines"),
        (["<!doctype html><html>"], "an HTML page"),
    ],
)
def test_a_feed_that_looks_wrong_is_refused_and_its_last_copy_used(config: Config, names: list[str], why: str) -> None:
    write(config, "a", *(f"n{at}.example" for at in range(10)))
    write(config, "b", "b.example")
    both = with_sources(config, source("a"), source("b"))
    update(both)
    write(config, "a", *names)
    write(config, "b", "b.example", "b2.example")
    report = update(both)
    assert statuses(report) == {"a": "refused", "b": "new"}
    assert why in report.feeds[0].message
    assert (report.feeds[0].names, report.failed, report.published) == (10, True, True)
    assert len(in_force(both)) == 12


def test_force_accepts_a_feed_that_shrank(config: Config) -> None:
    one = with_sources(config, source("a"))
    write(config, "a", *(f"n{at}.example" for at in range(10)))
    update(one)
    write(config, "a", "n1.example")
    assert statuses(update(one)) == {"a": "refused"}
    assert statuses(update(one, force=True, only=["a"])) == {"a": "new"}
    assert set(in_force(one)) == {"n1.example"}


def test_one_failing_feed_stops_nobody(two: Config) -> None:
    broken = with_sources(two, *two.feeds.source, source("gone"), source("off", mode="off"))
    report = update(broken)
    assert statuses(report) == {"a": "new", "b": "new", "gone": "failed", "off": "off"}
    assert "no earlier copy" in report.feeds[2].message
    assert report.names == 3
    (Path(two.base) / "a.txt").unlink()
    report = update(broken)
    assert (statuses(report)["a"], report.feeds[0].names, report.published) == ("failed", 2, False)


def test_only_the_named_feed_is_asked(two: Config) -> None:
    update(two)
    write(two, "a", "evil.example", "a2.example")
    write(two, "b", "fine.example", "b2.example")
    report = update(two, only=["b"])
    assert statuses(report) == {"a": "skipped", "b": "new"}
    assert set(in_force(two)) == {"evil.example", "both.example", "fine.example", "b2.example"}
    with pytest.raises(BadFeed, match="no feed is called nope; the configuration has a, b"):
        update(two, only=["nope"])


def test_a_feed_never_drops_out_because_its_copy_is_lost(two: Config) -> None:
    update(two)
    for path in (two.data_dir / "feeds" / "a").iterdir():
        path.unlink()
    (Path(two.base) / "a.txt").unlink()
    with pytest.raises(BadFeed, match="would drop out of generation"):
        update(two)
    assert "evil.example" in in_force(two)
    assert update(two, force=True).published
    assert "evil.example" not in in_force(two)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"half")])
def test_a_lost_or_damaged_copy_is_fetched_again(two: Config, damage: Callable[[Path], object]) -> None:
    update(two)
    damage(next((two.data_dir / "feeds" / "a").glob("*.snapshot")))
    assert statuses(update(two))["a"] == "new"
    assert len(in_force(two)) == 3


def test_what_was_rolled_back_stays_so_until_the_feeds_change(two: Config) -> None:
    first = update(two).generation
    write(two, "a", "evil.example", "oops.example")
    second = update(two).generation
    assert review.rollback(two).generation == first
    assert "oops.example" not in in_force(two)
    assert update(two).published is False
    assert "oops.example" not in in_force(two)
    write(two, "a", "evil.example", "better.example")
    assert update(two).published
    with pytest.raises(BadFeed, match="is not kept"):
        review.rollback(two, second)
    assert review.rollback(two, first).generation == first


def test_rollback_without_an_earlier_generation_says_so(two: Config) -> None:
    with pytest.raises(BadFeed, match="no earlier generation"):
        review.rollback(two)
    update(two)
    with pytest.raises(BadFeed, match="no earlier generation"):
        review.rollback(two)
    with pytest.raises(BadFeed, match="no earlier generation"):
        review.diff(two)


def test_two_updates_never_run_together(two: Config) -> None:
    (two.data_dir / "feeds").mkdir(parents=True)
    with (two.data_dir / "feeds" / "lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(Unavailable, match="another `plughole feeds update`"):
            update(two)
    assert update(two).published


def test_updates_race_to_one_generation(two: Config) -> None:
    outcomes: list[str] = []

    def run() -> None:
        try:
            outcomes.append("published" if update(two).published else "unchanged")
        except Unavailable:
            outcomes.append("locked out")

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("published") == 1


def test_the_list_shows_feeds_and_what_is_in_force(two: Config) -> None:
    assert review.list_feeds(two).generation is None
    generation = update(two, now=77.0).generation
    listed = review.list_feeds(two)
    assert (listed.generation, listed.names, listed.created, listed.history) == (generation, 3, 77.0, (generation,))
    assert [(feed.name, feed.mode, feed.names, feed.in_force, feed.fetched) for feed in listed.feeds] == [
        ("a", "block", 2, 2, 77.0), ("b", "alert", 2, 2, 77.0),
    ]  # fmt: skip


def test_exports_say_the_same_in_each_format(config: Config) -> None:
    write(config, "a", "||evil.example^", "@@||good.evil.example^", "|exact.example^", "||*.below.example^")
    one = with_sources(config, source("a", format="adblock"))
    update(one)
    assert sorted(review.export(one, "plain")) == ["below.example", "evil.example", "exact.example"]
    assert "0.0.0.0 evil.example" in list(review.export(one, "hosts"))
    assert sorted(review.export(one, "adblock")) == [
        "@@||good.evil.example^", "|exact.example^", "||*.below.example^", "||evil.example^",
    ]  # fmt: skip
    records = list(review.export(one, "rpz"))[3:]
    assert sorted(records) == [
        "*.below.example CNAME .", "*.evil.example CNAME .", "*.good.evil.example CNAME rpz-passthru.",
        "evil.example CNAME .", "exact.example CNAME .", "good.evil.example CNAME rpz-passthru.",
    ]  # fmt: skip


def test_the_shipped_sample_is_clean_and_reserved() -> None:
    from feeds.parse import parse

    path = Path(__file__).parents[2] / "feeds" / "lists" / "sample.txt"
    parsed = parse(path.read_bytes())
    names = [name.decode() for found in parsed.names.values() for name in found]
    assert (parsed.bad, parsed.unsupported, len(names)) == (0, 0, 31)
    assert {"c2.evil.example", "malware.example"} <= set(names)
    assert all(name.endswith(".example") for name in names)
