"""Failures under load: gaps, losses and rows are accounted right, bounds judge, tables and JSON tell."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import events, failures, inputs, losses, openloop
from benchmarks.losses import Allowed, Effect, Outcome, Stored
from benchmarks.server import ServerError
from core.config_load import load

MILLI = 1_000_000  # nanoseconds
START = 10**18

UDP = """\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
  101: 0100007F:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 1 2 0000000000000000 7
  102: 0100007F:14E9 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 2 2 0000000000000000 4
  103: 0100017F:9C40 0100007F:14E9 01 00000000:00000000 00:00000000 00000000     0        0 3 2 0000000000000000 9
  104: 0100007F:14EA 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4 2 0000000000000000 8
"""


def record(count: int, *, lost: tuple[int, ...] = (), slow: tuple[int, ...] = ()) -> openloop.Record:
    """Return one question a millisecond, answered after 1 ms, after 200 ms or not at all."""
    sent = START + np.arange(count, dtype=np.int64) * MILLI
    received = sent + MILLI
    received[list(slow)] += 200 * MILLI
    received[list(lost)] = 0
    return openloop.Record(sent, sent, received, np.zeros(count, np.uint8), received > 0)


def look(found: openloop.Record, *, event: int = START, blocked: Any = None) -> Effect:
    nobody = np.zeros(len(found.sent), np.bool_)
    return losses.effect(found, blocked=nobody if blocked is None else blocked, event=event, sockets=1)


def test_a_quiet_load_costs_nothing() -> None:
    found = look(record(1_000))
    assert (found.sent, found.answered, found.lost, found.wrong, found.until_normal) == (1_000, 1_000, 0, 0, 0.0)
    assert found.longest_gap == pytest.approx(1.0)


def test_what_comes_late_or_never_shows_until_it_is_over() -> None:
    found = look(record(1_000, lost=(500, 501, 502), slow=(610,)), event=START + 400 * MILLI)
    assert (found.sent, found.answered, found.lost, found.wrong) == (1_000, 997, 3, 0)
    assert found.longest_gap == pytest.approx(4.0)
    assert found.until_normal == pytest.approx(0.25)  # question 610 left 210 ms after the event


def test_what_was_bad_before_the_event_is_not_its_doing() -> None:
    assert look(record(1_000, slow=(10,)), event=START + 400 * MILLI).until_normal == 0


def test_a_blocked_name_that_passes_and_a_refused_free_name_are_wrong() -> None:
    found = record(4)
    found.passed[:] = (True, False, False, True)
    found.rcode[:] = (0, 3, 2, 0)
    blocked = np.array([True, True, True, False])
    assert look(found, blocked=blocked).wrong == 2  # the first passed, the third failed
    assert look(found, blocked=~blocked).wrong == 3  # all but the first: it is free and passed


def test_the_longest_gap_is_one_clients() -> None:
    even = np.array([0, 1, 2, 3, 4], np.int64) * MILLI + START
    broken = np.array([0, 1, 0, 0, 4], np.int64) * MILLI + START
    broken[2:4] = 0  # no reply
    assert losses.longest_gap([even, broken]) == pytest.approx(0.003)
    assert losses.longest_gap([np.zeros(3, np.int64)]) == 0


def test_only_the_servers_sockets_overflow() -> None:
    assert losses.overflowed(UDP, 0x14E9) == 11
    assert losses.overflowed(UDP, 53) == 0


def status(*, hub: int, workers: dict[int, tuple[int, int, int]], over: int = 0, lost: int = 0) -> dict[str, Any]:
    """Return a status; `workers` are by pid: number, rows told, queries over the cap."""
    rows = [
        {"worker": number, "pid": pid, "events_told": told, "events_over_cap": cap, "events_dropped": 1}
        for pid, (number, told, cap) in workers.items()
    ]
    return {"hub": {"pid": hub}, "workers": rows, "journal": {"over_the_cap": over, "lost": lost}}


def test_counters_of_processes_that_were_replaced_still_count() -> None:
    tally = losses.Tally()
    tally.note(status(hub=1, workers={10: (0, 50, 2), 11: (1, 40, 0)}, over=3))
    tally.note(status(hub=1, workers={10: (0, 100, 5), 11: (1, 80, 0)}, over=7))
    tally.note(status(hub=2, workers={12: (0, 20, 1), 11: (1, 90, 0)}, over=1, lost=4))
    assert tally.told == 100 + 90 + 20
    assert tally.dropped == (5 + 1) + (0 + 1) + (1 + 1) + 7 + 1 + 4


def outcome(**changes: Any) -> Outcome:
    effect = Effect(sent=1_000, answered=990, lost=10, wrong=0, longest_gap=321.0, until_normal=0.35)
    facts: dict[str, Any] = {
        "event": "kill", "effect": effect, "until_healthy": 1.25, "expected": 990, "stored": Stored(900, 300),
        "told": 310, "dropped": 20, "overflowed": 3, "allowed": Allowed(10, 70, "because"),
    }  # fmt: skip
    return Outcome(**(facts | changes))


def test_rows_are_missing_when_neither_stored_nor_counted() -> None:
    assert outcome().missing == 70
    assert outcome(stored=Stored(2_000, 300)).missing == 0  # answers whose reply was lost are stored too


@pytest.mark.parametrize(
    ("changes", "holds"),
    [
        ({}, True),
        ({"allowed": Allowed(9, 70, "")}, False),
        ({"allowed": Allowed(10, 69, "")}, False),
        ({"effect": Effect(10, 10, 0, 1, 0.0, 0.0)}, False),
        ({"effect": None, "skipped": "needs root"}, True),
        ({"effect": None, "failure": "it did not start"}, False),
    ],
)
def test_an_event_holds_when_it_cost_no_more_than_it_may(changes: dict[str, Any], holds: bool) -> None:
    assert outcome(**changes).holds is holds


def test_a_killed_worker_may_cost_its_share_and_what_overflowed() -> None:
    allowed = losses.worker_killed(overflowed=50, rate=20_000, workers=2)
    assert allowed.lost == losses.IN_HANDS + 50
    assert allowed.missing == 12_500 + losses.IN_HANDS


def test_a_killed_hub_may_cost_one_segment_and_no_query() -> None:
    assert losses.hub_killed(stored=Stored(1_000, 500), rate=1_000, segment_seconds=15).missing == 15_000
    by_rows = losses.hub_killed(stored=Stored(1_000, 500), rate=20_000, segment_seconds=15)
    assert (by_rows.lost, by_rows.missing) == (0, 2 * losses.SEGMENT_ROWS)


def test_the_table_has_a_row_an_event_and_as_many_cells_as_its_head() -> None:
    found = [outcome(), outcome(effect=None, skipped="needs root"), outcome(effect=None, failure="it died")]
    lines = losses.table(found).splitlines()
    assert len({line.count("|") for line in lines}) == 1
    row = "| kill | 1,000 | 10 | 0 | 321 | 0.35 | 1.2 | 990 | 900 | 20 | 70 | 10 | 70 | yes |"
    assert lines[2] == row
    assert lines[3].startswith("| kill | skipped | - |")
    assert lines[4].startswith("| kill | FAILED | - |")
    notes = losses.notes(found).splitlines()
    assert "because" in notes[0]
    assert notes[1:] == ["- kill: needs root", "- kill: it died"]


def test_the_json_says_all_of_it() -> None:
    document = json.loads(json.dumps(outcome().document()))
    assert (document["missing"], document["holds"], document["effect"]["lost"]) == (70, True, 10)


def plan(folder: Path) -> failures.Plan:
    return failures.Plan(rate=1_000, seconds=5, seed=1, only=(), output=folder / "failures.md")


def test_the_mix_has_its_shares_and_blocks_only_what_is_on_both_lists(tmp_path: Path) -> None:
    bench = failures.Bench(plan(tmp_path), ["a.com", "b.com"], ["b.com", "c.com"], ["x.net"], inputs.FreshLabels(1))
    mix = bench.mix(20_000)
    below = [name.partition(".")[2] for name in mix.names]
    assert mix.blocked.mean() == pytest.approx(0.08, abs=0.01)
    assert {parent for parent, blocked in zip(below, mix.blocked, strict=True) if blocked} == {"b.com"}
    assert mix.names.count("x.net") / 20_000 == pytest.approx(0.9, abs=0.01)
    assert below.count(inputs.MISS_ZONE) / 20_000 == pytest.approx(0.02, abs=0.005)


def test_every_client_asks_for_each_hit_name(tmp_path: Path) -> None:
    hits = [f"n{number}.net" for number in range(21)]
    names = failures.Bench(plan(tmp_path), [], [], hits, inputs.FreshLabels(1)).every_hit()
    sockets, _ = openloop.place(len(names), len(failures.CLIENTS))
    for client in range(len(failures.CLIENTS)):
        assert {name for name, place in zip(names, sockets, strict=True) if place == client} == set(hits)


def test_the_pages_are_written(tmp_path: Path) -> None:
    failures._write(plan(tmp_path), [outcome()], machine={"cores": "2"}, command="python -m x", at=0.0)
    page = (tmp_path / "failures.md").read_text()
    assert "# Failures under load, 1970-01-01 00:00 UTC" in page
    assert "- cores: 2" in page
    document = json.loads((tmp_path / "failures.json").read_text())
    assert document["events"][0]["event"] == "kill"


def test_the_node_has_every_default_but_its_addresses(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(events.config(5301, 5302, tmp_path / "list.txt"))
    config = load(tmp_path / "config.toml", {})
    assert config.server.workers == 0
    assert config.journal.queries == "all"
    assert config.journal.segment_seconds == events.SEGMENT_SECONDS
    assert config.data_dir == tmp_path / events.DATA


def test_a_small_disk_needs_root(monkeypatch: pytest.MonkeyPatch) -> None:
    full = next(event for event in events.EVENTS if event.small_disk)
    monkeypatch.setattr(os, "geteuid", lambda: 1_000)
    assert "root" in full.obstacle()
    assert [event.name for event in events.EVENTS if event.obstacle()] == [full.name]


def test_a_watch_tells_since_when_all_is_well(tmp_path: Path) -> None:
    watch = events.Watch(tmp_path)
    assert watch.healthy_since() is None
    watch._seen = [(1.0, True), (2.0, False), (3.0, True), (4.0, True)]
    assert watch.healthy_since() == 3.0
    watch._seen.append((5.0, False))
    assert watch.healthy_since() is None


def test_only_the_nodes_own_processes_are_killed(tmp_path: Path) -> None:
    class Nobody:
        pid = os.getpid()

    scene = events.Scene(None, Nobody(), tmp_path, tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ServerError, match="none of the node's"):
        scene.kill(1)
