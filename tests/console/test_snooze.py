"""`plughole snooze`: the node's detectors hear of it, and nothing else changes."""

from __future__ import annotations

import time

from place import Place

from core.finding import Confidence, Finding
from resolver.decisions import Decisions
from resolver.watching import Watching


def finding(detector: str = "leak") -> Finding:
    return Finding(detector, "192.0.2.7", "cdn.example", 0.9, Confidence.HIGH, "much")


def snooze(place: Place, *args: str) -> int:
    return place.run("snooze", *args).exit_code


def test_no_alert_of_a_snoozed_domain_but_its_block_stays(place: Place) -> None:
    now = time.time()
    watching = Watching(place.config, now=now)
    assert snooze(place, "cdn.example", "--for", "1h", "--reason", "roll-out") == 0
    watching.tick(now)
    watching.take_in([finding()], now)
    assert watching.take_alerts() == []
    assert [override.client for override in watching.take_convictions()] == ["192.0.2.7"]
    watching.take_in([finding()], now + 7_200)
    assert [alert.domain for alert in watching.take_alerts()] == ["cdn.example"]


def test_a_snooze_of_one_detector_and_client_says_so(place: Place) -> None:
    assert (
        snooze(place, "cdn.example", "--client", "192.0.2.8", "--detector", "beacon", "--for", "1h", "--reason", "x")
        == 0
    )
    [decision] = Decisions(place.config.data_dir).all()
    assert (decision.what, decision.domain, decision.client, decision.detector) == (
        "snooze", "cdn.example", "192.0.2.8", "beacon",
    )  # fmt: skip


def test_an_unknown_detector_is_refused(place: Place) -> None:
    assert snooze(place, "cdn.example", "--detector", "beecon", "--for", "1h", "--reason", "x") == 1
    assert Decisions(place.config.data_dir).all() == []
