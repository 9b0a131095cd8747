"""The leak meter at work in a pipeline: who is cut, who is not, and what is told of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import dns.edns
import pytest
from scene import OFFICE, OTHER, Scene

from core.config import Config
from core.config_load import parse
from core.finding import Confidence
from core.names import from_text
from core.verdict import Action, Cause
from feeds.overlay import Override

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import dns.message

LEARNED = "[detectors.leak]\nlearning_days = 0.0\n"
ZONE = '[[upstream.zone]]\nname = "inside.example"\nservers = ["192.0.2.53"]\n'


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path, configured(LEARNED, tmp_path))
    yield made
    made.close()


def configured(text: str, folder: Path) -> Config:
    return parse(text, {}, folder)


def names(below: str, count: int = 60) -> list[str]:
    return [f"{hashlib.sha256(f'{below}{at}'.encode()).hexdigest()[:40]}.{below}" for at in range(count)]


def leak(scene: Scene, below: str, **given: Any) -> list[dns.message.Message]:
    """Ask for names full of data, and return the replies."""
    found = []
    for at, name in enumerate(names(below)):
        if not at % 10:
            scene.later(1.0)  # what one domain may ask anew a second is limited besides
        reply = scene.ask(name, **given)
        assert reply is not None
        found.append(reply)
    return found


def sent(scene: Scene, below: str) -> int:
    """Octets of labels below the domain that reached upstream."""
    wire = from_text(below)
    return sum(len(one.qname) - len(wire) for one in scene.upstream.asked if one.qname.endswith(wire))


def is_cut(reply: dns.message.Message) -> bool:
    return any(isinstance(one, dns.edns.EDEOption) and int(one.code) == 15 for one in reply.options)


def test_a_client_that_sends_data_out_is_cut_before_a_kilobyte_is_gone(scene: Scene) -> None:
    replies = leak(scene, "thief.example")
    assert not is_cut(replies[0])
    first = [is_cut(reply) for reply in replies].index(True)
    assert all(is_cut(reply) for reply in replies[first:])
    assert 0 < sent(scene, "thief.example") < 1_024
    [option] = [one for one in replies[-1].options if isinstance(one, dns.edns.EDEOption)]
    assert "thief.example" in (option.text or "")
    assert "bytes" in (option.text or "")


def test_another_client_and_another_domain_are_unharmed(scene: Scene) -> None:
    leak(scene, "thief.example")
    for name in ("www.thief.example", "mail.thief.example"):
        reply = scene.ask(name, client=OTHER)
        assert reply is not None
        assert not is_cut(reply)
    reply = scene.ask("www.shop.example")
    assert reply is not None
    assert not is_cut(reply)


def test_the_event_says_that_a_detector_did_it(scene: Scene) -> None:
    leak(scene, "thief.example")
    told = [event for event in scene.events() if event.cause is Cause.DETECTOR]
    assert told
    assert {(event.action, event.client) for event in told} == {(Action.SINKHOLE, OFFICE)}
    [reason] = told[0].reasons
    assert (reason.source, reason.indicator, reason.category) == ("leak", "thief.example", "exfiltration")


def test_the_hub_hears_of_a_pair_once_an_hour(scene: Scene) -> None:
    metering = scene.pipeline.metering
    assert metering is not None
    metering.second()
    leak(scene, "thief.example")
    assert [one.confidence for one in metering.second()].count(Confidence.HIGH) == 1
    leak(scene, "thief.example")
    assert metering.second() == []
    scene.later(3_600)
    metering.second()
    leak(scene, "thief.example")
    [again] = metering.second()
    assert (again.client, again.domain) == ("127.0.0.1", "thief.example")


def test_the_alert_on_the_way_does_not_hide_the_block(scene: Scene) -> None:
    metering = scene.pipeline.metering
    assert metering is not None
    metering.second()
    heard = []
    for at in range(400):
        if not at % 10:
            scene.later(1.0)
        scene.ask(f"{at:03}{hashlib.sha256(bytes((at & 255, at >> 8))).hexdigest()[:3]}.slow.example")
        heard += metering.second()
    assert [one.confidence for one in heard] == [Confidence.MEDIUM, Confidence.HIGH]


def test_a_domain_a_feed_trusts_is_metered(scene: Scene) -> None:
    assert any(is_cut(reply) for reply in leak(scene, "good.evil.example"))


def test_what_an_analyst_allows_passes_and_is_counted_all_the_same(scene: Scene) -> None:
    scene.override(Override(from_text("thief.example"), Action.PASSTHRU))
    assert not any(is_cut(reply) for reply in leak(scene, "thief.example"))
    scene.override()
    reply = scene.ask("onemore.thief.example")
    assert reply is not None
    assert is_cut(reply)


def test_a_zone_of_the_house_is_not_metered(tmp_path: Path) -> None:
    scene = Scene(tmp_path, configured(LEARNED + ZONE, tmp_path))
    try:
        assert scene.pipeline.metering is not None
        assert not any(is_cut(reply) for reply in leak(scene, "inside.example"))
        assert any(is_cut(reply) for reply in leak(scene, "outside.example"))
    finally:
        scene.close()


def test_a_watched_domain_has_answers_of_at_least_a_minute(scene: Scene) -> None:
    for domain in ("thief.example", "calm.example"):
        scene.upstream.records[f"short.{domain}", "A"] = [f"short.{domain}. 1 A 192.0.2.9"]
    for name in names("thief.example", 10):
        scene.ask(name, client=OTHER)
    for domain in ("thief.example", "calm.example"):
        scene.ask(f"short.{domain}", client=OTHER)
    scene.later(30)
    before = len(scene.upstream.asked)
    for domain in ("thief.example", "calm.example"):
        scene.ask(f"short.{domain}", client=OTHER)
    assert [one.qname for one in scene.upstream.asked[before:]] == [from_text("short.calm.example")]


def test_off_is_not_there(tmp_path: Path) -> None:
    scene = Scene(tmp_path, configured('[detectors.leak]\nmode = "off"\n', tmp_path))
    try:
        assert scene.pipeline.metering is None
        assert not any(is_cut(reply) for reply in leak(scene, "thief.example"))
    finally:
        scene.close()
