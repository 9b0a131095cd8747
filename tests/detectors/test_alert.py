"""Alerts: one incident a pair, the surest word leads, caps hold; and what they say at night."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from core.finding import Confidence, Evidence, Finding
from core.names import from_text
from detectors import alert, alert_words
from detectors.accounts import Accounts
from detectors.alert import JUST, QUIET, Alert, Alerts, Incident, Shown
from detectors.combining import COMBINED, KINDS
from detectors.registry import NAMES
from detectors.sight import Sight, domain_of

NOW = 1_700_000_000.0  # 2023-11-14 22:13:20 UTC
CLIENT, BAD = "192.0.2.7", "evil.example"
LOW, MEDIUM, HIGH = Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH


def finding(detector: str, confidence: Confidence = HIGH, **changes: Any) -> Finding:
    known: dict[str, Any] = {"client": CLIENT, "domain": BAD, "score": 0.5, "reason": f"{detector} says so"}
    return Finding(detector, confidence=confidence, **(known | changes))


def ask(accounts: Accounts, name: str, at: float = NOW, *, blocked: bool = False) -> None:
    qname = from_text(name)
    accounts.note(Sight(at, ip_address(CLIENT).packed, qname, 1, domain_of(qname)), blocked=blocked)


def raised(*findings: Finding, blocks: bool = False, accounts: Accounts | None = None) -> Alert:
    held = Alerts(accounts or Accounts())
    for at, one in enumerate(findings):
        held.raise_(one, NOW + at, blocks=blocks)
    (found,) = held.take()
    return found


def test_the_surest_leads_and_each_keeps_its_surest_word() -> None:
    found = raised(
        finding("tunnel", MEDIUM, score=0.9, reason="old words", evidence=(Evidence("old", 1, 2),)),
        finding("leak", HIGH, score=0.6, evidence=(Evidence("bytes_day", 600, 512),)),
        finding("tunnel", HIGH, score=0.7, reason="new words", evidence=(Evidence("clues", 1, 1),), tool="iodine"),
        finding("tunnel", LOW, reason="weak words"),
    )
    assert (found.detector, found.detectors, found.score, found.count) == ("tunnel", ("tunnel", "leak"), 0.7, 4)
    assert found.evidence == (Shown("tunnel", "clues", 1, 1), Shown("leak", "bytes_day", 600, 512))
    assert "new words" in found.reason
    assert not any(words in found.reason for words in ("old words", "weak words"))


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_of_findings_alike_the_score_decides(order: tuple[int, ...]) -> None:
    both = (finding("leak", score=0.8), finding("tunnel", score=0.9))
    assert raised(*(both[at] for at in order)).detector == "tunnel"


def test_the_words_say_what_who_how_much_since_when_and_what_was_done() -> None:
    accounts = Accounts()
    for at in range(10):
        ask(accounts, f"{'deadbeef' * 5}{at:02x}.{BAD}", NOW + at)
    ask(accounts, f"cafe.{BAD}", NOW + 10, blocked=True)
    found = raised(finding("leak", reason="too many bytes"), blocks=True, accounts=accounts)
    assert found.reason == (
        "192.0.2.7 sends data out in the names it asks for below evil.example. "
        "11 questions since 2023-11-14 22:13:20 UTC, the last at 2023-11-14 22:13:30 UTC; "
        "their names can have carried 210 bytes out so far. "
        "Blocked at 2023-11-14 22:13:30 UTC, when it was 210 bytes. Seen by leak (HIGH): too many bytes"
    )
    assert (found.queries, found.bytes_before_block, found.blocks) == (11, 210, True)
    assert (found.first, found.last) == (NOW, NOW + 10)


def test_the_words_hedge_name_the_tool_and_say_when_nothing_was_done() -> None:
    words = raised(finding("tunnel", MEDIUM, tool="dnscat2"), finding("leak", MEDIUM, score=0.9)).reason
    assert words.startswith(
        "192.0.2.7 probably tunnels data through questions and answers of evil.example with dnscat2."
    )
    assert "NOT BLOCKED" in words
    assert "possibly" in raised(finding("young", LOW)).reason


def test_an_agreement_is_said_to_be_one() -> None:
    found = raised(finding("flux", MEDIUM), finding("tunnel", MEDIUM), finding(COMBINED, HIGH, score=0.99))
    assert (found.detector, found.detectors, found.count) == (COMBINED, ("flux", "tunnel"), 2)
    assert "They agree on different kinds of evidence" in found.reason
    assert COMBINED not in found.reason


def test_every_detector_has_words_of_its_own() -> None:
    said = {raised(finding(name)).reason.partition(". ")[0] for name in NAMES}
    assert set(NAMES) == set(KINDS)
    assert len(said) == len(NAMES)
    assert not any("something suspicious" in words for words in said)
    assert "something suspicious" in raised(finding("new")).reason
    assert "look-alikes of evil.example" in raised(finding("dga-lookalike-scan")).reason
    assert "makes up domain names" in raised(finding("dga-other")).reason


def test_words_stay_short_whatever_detectors_say() -> None:
    words = raised(*(finding(name, reason="x" * 10_000) for name in NAMES)).reason
    assert len(words) < (alert_words.LONGEST + 40) * len(NAMES) + 500


@pytest.mark.parametrize(
    ("size", "words"), [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")]
)
def test_sizes_as_people_read_them(size: int, words: str) -> None:
    assert alert_words.octets(size) == words


def test_a_block_of_long_ago_is_none_of_a_new_incident() -> None:
    for before, blocks in ((JUST, True), (JUST + 1, False)):
        accounts = Accounts()
        ask(accounts, f"cafe.{BAD}", NOW - before, blocked=True)
        assert raised(finding("leak", MEDIUM), accounts=accounts).blocks is blocks


def test_an_incident_ends_after_a_quiet_day_and_lets_go_of_its_account() -> None:
    accounts = Accounts()
    held = Alerts(accounts)
    held.raise_(finding("leak"), NOW, blocks=True)
    held.tick(NOW + QUIET)
    assert held.counters()["alerts"] == 1
    held.tick(NOW + QUIET + 1)
    assert held.counters()["alerts"] == 0
    assert not accounts._held
    (last_words,) = held.take()
    assert (last_words.blocks, "Blocked at" in last_words.reason) == (True, True)
    held.raise_(finding("leak", MEDIUM), NOW + QUIET + 2, blocks=False)
    (other,) = held.take()
    assert (other.blocks, "NOT BLOCKED" in other.reason) == (False, True)
    assert other.id != last_words.id


def test_caps_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alert, "MAX_WAITING", 5)
    monkeypatch.setattr(alert, "MAX_INCIDENTS", 7)
    accounts = Accounts()
    held = Alerts(accounts)
    for number in range(20):
        held.raise_(finding("tunnel", domain=f"n{number}.example"), NOW + number, blocks=False)
        held.raise_(finding("leak", domain=f"n{number}.example"), NOW + number, blocks=False)
    assert [one.domain for one in held.take()] == [f"n{number}.example" for number in range(15, 20)]
    assert held.counters() == {"raised": 20, "alerts": 7, "dropped_alerts": 15 + 13}
    assert len(accounts._held) == 7


def test_incidents_are_kept_over_a_restart() -> None:
    before = Alerts(Accounts())
    before.raise_(finding("tunnel", tool="iodine"), NOW, blocks=True)
    (first,) = before.take()
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(msgspec.to_builtins(before.dump())))
    after = Alerts(Accounts())
    after.load(msgspec.convert(state, list[Incident]))
    after.raise_(finding("young", LOW), NOW + 60, blocks=False)
    (again,) = after.take()
    assert (again.id, again.tool, again.blocks, again.detectors) == (first.id, "iodine", True, ("tunnel", "young"))
    assert again.bytes_before_alert == first.bytes_before_alert


@pytest.mark.parametrize("client", ["no address", "client-7", "192.0.2.300"])
def test_a_client_that_is_no_address_has_an_alert_all_the_same(client: str) -> None:
    found = raised(finding("leak", client=client))
    assert (found.client, found.queries) == (client, 0)
