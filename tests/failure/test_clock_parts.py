"""What a clock that jumps by a day does to caches, cookies, rates, the journal and the follower, each on its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from scene import OFFICE, Scene

from core import names
from core.config import Config, Server
from core.config import Journal as Settings
from core.event import Event
from core.verdict import Action, Cause, Reason
from feeds import overlay
from journal import journal as journal_module
from journal.journal import Journal
from journal.sightings import find
from resolver import follower as follower_module
from resolver.cookies import Cookies
from resolver.rates import Rates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86_400.0
NOW = 1_790_000_400.0
JUMPS = [DAY, -DAY]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.upstream.records[("www.example", "A")] = ["www.example. 300 A 192.0.2.5"]
    yield scene
    scene.close()


def ttl(scene: Scene) -> int:
    reply = scene.ask("www.example")
    assert reply is not None
    assert reply.answer[0][0].to_text() == "192.0.2.5"
    return int(reply.answer[0].ttl)


def jump(scene: Scene, seconds: float) -> None:
    """Let the clock of the wall jump, and the worker begin its next second."""
    scene.ahead += seconds
    scene.later(1.0)


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_cached_answer_ages_by_the_seconds_that_passed(scene: Scene, seconds: float) -> None:
    assert ttl(scene) == 300
    jump(scene, seconds)
    assert ttl(scene) == 299
    assert len(scene.upstream.asked) == 1
    scene.later(1_000.0)
    assert ttl(scene) == 300
    assert len(scene.upstream.asked) == 2


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_question_under_way_is_answered(scene: Scene, seconds: float) -> None:
    scene.upstream.hold = True
    packet, peer = scene.send("www.example")
    jump(scene, seconds)
    scene.upstream.release()
    reply = scene.read(packet, peer)
    assert reply is not None
    assert reply.answer
    [event] = scene.events()
    assert event.qname == names.from_text("www.example")
    assert event.at == scene.now + scene.ahead
    assert event.duration == 1_000_000


@pytest.mark.parametrize("seconds", JUMPS)
def test_a_cookie_of_before_is_replaced_by_one_that_is_good(seconds: float) -> None:
    cookies = Cookies([bytes(16)])
    first, _ = cookies.reply(bytes(8), OFFICE, NOW)
    again, good = cookies.reply(first, OFFICE, NOW + seconds)
    assert not good
    assert cookies.reply(again, OFFICE, NOW + seconds)[1]


def event(at: float, name: str = "evil.example") -> Event:
    reasons = (Reason(Cause.INTEL, Action.SINKHOLE, "list", name, "malware", 90),)
    return Event(
        at, OFFICE, names.from_text(name), 1, 0, action=Action.SINKHOLE, cause=Cause.INTEL, reasons=reasons
    )  # fmt: skip


def journal_of(folder: Path, settings: Settings | None = None) -> Journal:
    return Journal(Config(server=Server(data_dir=str(folder)), journal=settings or Settings()), now=NOW)


@pytest.mark.parametrize("seconds", JUMPS)
def test_rows_and_sightings_are_written_and_found_after_a_jump(tmp_path: Path, seconds: float) -> None:
    journal = journal_of(tmp_path)
    journal.write([event(NOW)], NOW)
    journal.tick(NOW + 2.0)
    later = NOW + seconds
    journal.write([event(later)], later)
    journal.tick(later)
    journal.tick(later + 2.0)
    assert journal.counters()["pending"] == 0
    assert journal.counters()["written"] == 2
    assert journal.troubles() == []
    assert sorted(row["first"] for row in find(tmp_path)) == sorted([NOW, later])
    journal.close(later + 3.0)


def test_back_a_disk_that_was_full_is_tried_again_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_of(tmp_path)
    (tmp_path / "journal" / "queries").rmdir()
    (tmp_path / "journal" / "queries").write_text("a file where the folder belongs")
    journal.write([event(NOW)], NOW)
    journal.tick(NOW + 2.0)
    assert journal.trouble
    (tmp_path / "journal" / "queries").unlink()
    journal.tick(NOW + 2.0 - DAY)
    assert journal.counters()["pending"] == 0
    assert journal.trouble == ""
    assert journal_module.RETRY < DAY
    journal.close(NOW - DAY)


def test_forward_rows_older_than_they_are_kept_go_by_the_new_clock(tmp_path: Path) -> None:
    journal = journal_of(tmp_path, Settings(keep_days=1))
    journal.write([event(NOW)], NOW)
    journal.tick(NOW + 2.0)
    journal.tick(NOW + 2.0 + DAY + 3_600.0)
    journal.tick(NOW + 20.0 + DAY + 3_600.0)
    assert journal.counters()["expired"] == 1
    journal.close(NOW + 2 * DAY)


@pytest.mark.parametrize("seconds", JUMPS)
def test_rates_are_known_again_soon_after_a_jump(seconds: float) -> None:
    rates = Rates()
    for at in range(20):
        rates.note({}, NOW + at)
    for at in range(20):
        rates.note({}, NOW + seconds + at)
    assert rates.now()["seconds"] < 30.0


def test_back_the_follower_still_looks_and_beats(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    followed = follower_module.Follower(Config(server=Server(data_dir=str(tmp_path))), lambda: None)
    told: list[float] = []

    class Overlay:
        def __init__(self, _client: object) -> None: ...
        def heartbeat(self, _node: str, _fields: object, *, ttl: float, now: float) -> None:
            told.append(now)

    monkeypatch.setattr(overlay, "Overlay", Overlay)
    ticks = time.monotonic()
    followed._beat(None, NOW, ticks)  # type: ignore[arg-type]
    followed._beat(None, NOW - DAY, ticks + follower_module.HEARTBEAT)  # type: ignore[arg-type]
    assert told == [NOW, NOW - DAY]
