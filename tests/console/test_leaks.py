"""`plughole leaks` on states as workers write them."""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from place import Place, documented

from core.names import from_text
from core.verdict import Action
from detectors.leak import LeakMeter, LeakSettings
from feeds.overlay import CONVICTS, Override
from resolver.decisions import Decisions
from resolver.keeping import Keeper, state_path

if TYPE_CHECKING:
    from feeds.overlay import Overlay

CLIENT = bytes((192, 0, 2, 7))
KEYS = {
    "client", "domain", "bytes_per_day", "peak", "clients", "blocked", "first", "samples", "worker", "written",
}  # fmt: skip


def give(place: Place, worker: int, domain: str) -> None:
    """Write the state of a worker, one of whose clients is over its budget at the domain."""
    now = time.time()
    meter = LeakMeter(LeakSettings(learning_days=0.0), started=now)
    below = from_text(domain)
    found = [meter.check(now, CLIENT, below, from_text(f"{os.urandom(20).hex()}.{domain}"), 1) for _ in range(60)]
    assert found[-1] is not None
    Keeper(place.config.data_dir, worker, meter).write()


def learned(place: Place) -> None:
    place.file.write_text(place.file.read_text() + "\n[detectors.leak]\nlearning_days = 0.0\n")


def review(place: Place) -> list[dict[str, Any]]:
    result = place.run("leaks", "review", "--json")
    assert result.exit_code == 0, result.stderr
    found: list[dict[str, Any]] = json.loads(result.stdout)
    return found


def test_review_has_the_lone_heavy_pairs_of_all_workers(place: Place) -> None:
    learned(place)
    give(place, 0, "one.example")
    give(place, 1, "two.example")
    found = review(place)
    assert {(row["client"], row["domain"], row["worker"]) for row in found} == {
        ("192.0.2.7", "one.example", 0), ("192.0.2.7", "two.example", 1),
    }  # fmt: skip
    assert all(set(row) == KEYS and row["blocked"] and row["samples"] for row in found)
    assert documented("plughole leaks review") >= KEYS
    result = place.run("leaks", "review")
    assert "one.example" in result.stdout
    assert "worker 0" in result.stderr
    assert "worker 1" in result.stderr


def test_a_pair_two_workers_know_is_shown_once(place: Place) -> None:
    learned(place)
    give(place, 0, "one.example")
    give(place, 1, "one.example")
    assert len(review(place)) == 1


def test_no_state_and_a_damaged_one_are_notes(place: Place) -> None:
    assert review(place) == []
    assert "no worker has written" in place.run("leaks", "review").stderr
    path = state_path(place.config.data_dir, 3)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xc1")
    result = place.run("leaks", "review", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])
    assert "leak.3" in result.stderr


def test_review_without_the_meter_says_how_to_have_it(place: Place) -> None:
    place.file.write_text(place.file.read_text() + '\n[detectors.leak]\nmode = "off"\n')
    give(place, 0, "one.example")
    result = place.run("leaks", "review")
    assert result.exit_code == 1
    assert "[detectors.leak]" in result.stderr


@pytest.mark.parametrize("what", ["confirm", "release"])
def test_a_decision_is_written_and_lifts_the_conviction_alone(with_redis: Place, overlay: Overlay, what: str) -> None:
    name, now = from_text("thief.example"), time.time()
    by = f"{CONVICTS}leak"
    overlay.put(Override(name, Action.SINKHOLE, "192.0.2.7", by=by, created=now, expires=now + 60))
    overlay.put(Override(name, Action.SINKHOLE, "192.0.2.8", by=by, created=now, expires=now + 60))
    overlay.put(Override(name, Action.SINKHOLE, by="ann", created=now))
    result = with_redis.run("leaks", what, "www.thief.example", "--client", "192.0.2.7", "--reason", "case  12")
    assert result.exit_code == 0, result.stderr
    assert "1 conviction lifted" in result.stdout
    assert "below thief.example" in result.stderr
    assert {(item.client, item.by) for item in overlay.all(now)} == {("192.0.2.8", by), ("", "ann")}
    [decision] = Decisions(with_redis.config.data_dir).all()
    assert (decision.what, decision.domain, decision.client, decision.reason) == (
        what, "thief.example", "192.0.2.7", "case 12",
    )  # fmt: skip
    assert decision.by
    with_redis.run("leaks", what, "thief.example", "--reason", "all")
    assert [item.by for item in overlay.all(now)] == ["ann"]


def test_redis_away_the_decision_stands_and_it_is_said(place: Place) -> None:
    place.file.write_text('[redis]\nurl = "unix:///nowhere/redis.sock"\n')
    result = place.run("leaks", "release", "thief.example", "--reason", "y")
    assert result.exit_code == 1
    assert result.stderr.count("\n") == 1
    assert len(Decisions(place.config.data_dir).all()) == 1


def test_decisions_are_listed(with_redis: Place) -> None:
    assert "nothing was decided" in with_redis.run("leaks", "list").stderr
    with_redis.run("leaks", "confirm", "thief.example", "--reason", "\x1b]0;owned\x07 known")
    [row] = json.loads(with_redis.run("leaks", "list", "--json").stdout)
    assert set(row) == {"at", "what", "domain", "client", "by", "reason"}
    assert documented("plughole leaks list") >= set(row)
    assert (row["what"], row["domain"], row["client"]) == ("confirm", "thief.example", None)
    assert all(line.isprintable() for line in with_redis.run("leaks", "list").stdout.split("\n"))
