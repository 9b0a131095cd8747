"""The detectors in the hub: what they are shown, what becomes of what they find, and what outlives a restart."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from core.config import Config
from core.event import Event
from core.finding import Confidence, Finding
from core.names import from_text
from core.verdict import Action, Cause
from detectors.alert import REFRESH
from feeds.overlay import Override
from resolver.decisions import Decision, Decisions
from resolver.keeping import EVERY
from resolver.watching import Watching

if TYPE_CHECKING:
    from pathlib import Path

    from detectors.engine import Outcome
    from detectors.sight import Sight

NOW = 1_700_000_000.0
CLIENT = bytes((192, 0, 2, 7))
FOUND = Finding("leak", "192.0.2.7", "thief.example", 0.9, Confidence.HIGH, "too many bytes")


def watching(folder: Path, now: float = NOW) -> Watching:
    return Watching(Config(base=str(folder)), now=now)


def event(name: str = "www.shop.example", **given: Any) -> Event:
    return Event(NOW, CLIENT, from_text(name), 1, given.pop("rcode", 0), **given)


def shown(made: Watching, monkeypatch: pytest.MonkeyPatch, *events: Event) -> list[Sight]:
    seen: list[Sight] = []
    see = made.engine.see

    def spy(sight: Sight) -> Outcome:
        seen.append(sight)
        return see(sight)

    monkeypatch.setattr(made.engine, "see", spy)
    made.see(events)
    return seen


def test_an_event_becomes_a_sight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [sight] = shown(
        watching(tmp_path), monkeypatch,
        event(ttl=60, size=80, answers=(bytes((192, 0, 2, 1)),), payload=b"data", count=3, cached=True),
    )  # fmt: skip
    assert (sight.at, sight.client, sight.qname, sight.qtype) == (NOW, CLIENT, from_text("www.shop.example"), 1)
    assert sight.domain == from_text("shop.example")
    assert (sight.ttl, sight.size, sight.addresses) == (60, 80, (bytes((192, 0, 2, 1)),))
    assert (sight.payload, sight.count, sight.cached, sight.blocked) == (b"data", 3, True, False)


@pytest.mark.parametrize(
    ("action", "cause", "blocked"),
    [
        (Action.NONE, Cause.LOCAL, None),
        (Action.NONE, Cause.ACCESS, None),
        (Action.SINKHOLE, Cause.INTEL, None),
        (Action.NODATA, Cause.OVERRIDE, None),
        (Action.SINKHOLE, Cause.CONVICTION, None),
        (Action.NONE, Cause.NONE, False),
        (Action.PASSTHRU, Cause.OVERRIDE, False),
        (Action.ALERT, Cause.INTEL, False),
        (Action.SINKHOLE, Cause.DETECTOR, True),
    ],
)
def test_what_is_no_news_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Action, cause: Cause, *, blocked: bool | None
) -> None:
    seen = shown(watching(tmp_path), monkeypatch, event(action=action, cause=cause))
    assert [sight.blocked for sight in seen] == ([] if blocked is None else [blocked])


def test_a_finding_that_blocks_becomes_an_override_and_an_alert(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.take_in([FOUND], NOW)
    [override] = made.take_convictions()
    assert (override.name, override.action, override.client) == (
        from_text("thief.example"), Action.SINKHOLE, "192.0.2.7",
    )  # fmt: skip
    assert override.convicts
    assert (override.by, override.reason, override.created) == ("detector:leak", "too many bytes", NOW)
    assert override.expires > NOW
    assert made.take_convictions() == []
    [alert] = made.take_alerts()
    assert (alert.client, alert.domain, alert.detector, alert.blocks) == ("192.0.2.7", "thief.example", "leak", True)


def test_what_a_conviction_turns_away_is_counted_and_told(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.take_in([FOUND], NOW)
    [first] = made.take_alerts()
    made.see([event("a.thief.example", action=Action.SINKHOLE, cause=Cause.CONVICTION, count=4)])
    made.tick(NOW + REFRESH)
    made.tick(NOW + 2 * REFRESH)
    [again] = made.take_alerts()
    assert (again.id, again.queries, again.bytes_before_block) == (first.id, first.queries + 4, 0)


def test_what_is_less_sure_only_alerts(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.take_in([Finding("leak", "192.0.2.7", "x.example", 0.5, Confidence.MEDIUM, "nearly")], NOW)
    assert made.take_convictions() == []
    [alert] = made.take_alerts()
    assert not alert.blocks


@pytest.mark.parametrize("client", ["", "192.0.2.7"])
def test_what_analysts_allow_is_neither_convicted_nor_told_until_they_take_it_back(tmp_path: Path, client: str) -> None:
    made = watching(tmp_path)
    made.follow([Override(from_text("thief.example"), Action.PASSTHRU, client)])
    made.take_in([FOUND], NOW)
    assert (made.take_convictions(), made.take_alerts()) == ([], [])
    made.follow([])
    made.take_in([FOUND], NOW)
    assert len(made.take_convictions()) == 1


def test_a_conviction_is_news_again_after_a_release(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.take_in([FOUND], NOW)
    made.take_convictions()
    made.take_in([FOUND], NOW + 1)
    assert made.take_convictions() == []
    Decisions(tmp_path / "var").add(Decision(what="release", domain="thief.example", client="192.0.2.7", at=NOW + 2))

    made.tick(NOW + 3)
    made.take_in([FOUND], NOW + 4)
    assert len(made.take_convictions()) == 1


def test_the_state_outlives_a_restart(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.take_in([FOUND], NOW)
    made.close()
    assert made.saver.trouble == ""
    again = watching(tmp_path, NOW + 60)
    assert again.counters()["engine"]["convictions"] == 1
    again.take_in([FOUND], NOW + 60)
    assert again.take_convictions() == []


def test_a_fork_writes_what_is_due(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.tick(NOW + EVERY - 1)
    assert not made.saver.path.exists()
    made.tick(NOW + EVERY)
    assert made.saver._fork
    os.waitid(os.P_PID, made.saver._fork, os.WEXITED | os.WNOWAIT)
    made.tick(NOW + EVERY + 1)
    assert (made.saver._fork, made.saver.trouble) == (0, "")
    assert made.saver.path.exists()


def test_a_damaged_state_is_none(tmp_path: Path) -> None:
    path = watching(tmp_path).saver.path
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xc1\x00")
    made = watching(tmp_path)
    made.take_in([FOUND], NOW)
    assert len(made.take_convictions()) == 1


def test_a_folder_that_cannot_be_written_is_told_and_harms_nobody(tmp_path: Path) -> None:
    made = watching(tmp_path)
    made.saver.path.parent.parent.mkdir(parents=True, exist_ok=True)
    made.saver.path.parent.write_bytes(b"in the way")
    made.tick(NOW + EVERY)
    os.waitid(os.P_PID, made.saver._fork, os.WEXITED | os.WNOWAIT)
    made.tick(NOW + EVERY + 1)
    assert made.saver.trouble.startswith("detectors: ")
    made.take_in([FOUND], NOW + EVERY + 2)
    assert len(made.take_convictions()) == 1
    made.close()
    assert str(made.saver.path) in made.saver.trouble
