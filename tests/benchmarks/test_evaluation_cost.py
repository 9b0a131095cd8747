"""What the evaluation of cost feeds: loads that are what they are called, time by the event, memory that grows."""

from __future__ import annotations

import gzip
from functools import partial
from typing import TYPE_CHECKING

import pytest

from benchmarks.evaluation import cost, cost_memory
from benchmarks.evaluation.cost_loads import RANKED, RATE, Loads
from core.names import labels, registered_domain
from detectors.sight import Sight

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SIZE = 300
DOMAINS = [f"site{at}word.{ending}" for at in range(200) for ending in ("com", "co.uk")]


@pytest.fixture
def loads(tmp_path: Path) -> Loads:
    (tmp_path / "benign").mkdir()
    with gzip.open(tmp_path / "benign" / RANKED, "wt", encoding="utf-8") as file:
        file.write("\n".join(f"{at},{domain}" for at, domain in enumerate([*DOMAINS, "com", "bad..name"], 1)))
    return Loads(tmp_path, SIZE)


def test_loads_are_what_they_are_called(loads: Loads) -> None:
    assert loads.domains == DOMAINS
    made = loads.all()
    assert set(map(len, made.values())) == {SIZE}
    assert {one.rcode for one in made["ordinary browsing"]} == {0}
    assert len({one.domain for one in made["domains all new"]}) == SIZE
    for of in ("NXDOMAIN storm, random names", "NXDOMAIN storm, misspelt names"):
        assert {one.rcode for one in made[of]} == {3}
        assert all(one.domain == registered_domain(one.qname) == one.qname for one in made[of])
    assert len({one.domain for one in made["tunnel at full speed"]}) == 1
    assert all(len(labels(one.qname)[0]) == 60 for one in made["tunnel at full speed"])
    assert [one.at for one in made["ordinary browsing"]][-1] - made["ordinary browsing"][0].at == pytest.approx(
        (SIZE - 1) / RATE, abs=1e-5
    )
    assert loads.browsing() == made["ordinary browsing"]


def test_popular_domains_are_asked_for_most(loads: Loads) -> None:
    asked = [one.domain for one in loads.browsing()]
    popular = {registered_domain(one) for one in set(asked) if asked.count(one) > 10}
    assert popular
    assert len(set(asked)) < SIZE


def test_time_is_that_of_one_event(loads: Loads) -> None:
    load = loads.browsing()
    assert 0.5 < cost.of_events(load) < 5_000.0
    assert 0.5 < cost.of_misses(load) < 5_000.0
    assert cost.form(inline=True) in {"plain Python", "compiled"}


def test_a_process_grows_with_what_its_detectors_keep() -> None:
    beacon = partial(cost_memory.watch, "beacon")
    made, more = cost_memory.grown(beacon, partial(cost_memory._office, DOMAINS, 0))
    assert 1 << 20 < made < 1 << 30  # its table of pairs is made at once
    assert more < 1 << 20


def test_what_is_held_is_counted_once_and_through_structs() -> None:
    octets = bytes(1_000_000)
    sight = Sight(0.0, b"\x0a\0\0\1", octets, 1, octets)
    assert 1_000_000 < cost_memory.held([sight, {"again": octets}, Sight]) < 1_010_000


@pytest.mark.parametrize("begin", [partial(cost_memory.watch, "tunnel"), cost_memory._meter], ids=["tunnel", "leak"])
def test_what_a_detector_holds_grows_with_what_it_saw(begin: Callable[[], cost_memory.Take]) -> None:
    held = [cost_memory.held(cost_memory.after(begin(), cost_memory._carrying(count))) for count in (10, 20)]
    assert 10 * 500 < held[1] - held[0] < 10 * 50_000


def test_memory_rows_multiply_what_one_more_takes_by_its_cap(loads: Loads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost_memory, "SOME", 20)
    monkeypatch.setattr(cost_memory, "grown", lambda *_: (1 << 20, 777))
    monkeypatch.setattr(cost_memory, "after", lambda _, load: len({sight.client for sight in load}))
    monkeypatch.setattr(cost_memory, "held", lambda clients: 777 + 100 * clients)
    found = cost_memory.rows(loads, 20)
    caps = [row for row in found if "at the cap" in row.what]
    assert [row.of for row in caps] == ["20,000", "10,000", "65,536"]
    assert [row.value for row in caps] == pytest.approx([100 * cap / (1 << 20) for cap in (20_000, 10_000, 65_536)])
    assert [row.value for row in found if row.what.endswith("at the start, models and modules")] == [1.0, 1.0]
    assert all(row.bar is None for row in found)
