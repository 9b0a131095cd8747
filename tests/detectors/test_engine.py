"""The engine: findings become levels, alerts and convictions; what people say; state kept; caps held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from core import names
from core.errors import BadConfig
from core.finding import Confidence, Finding
from detectors import conviction
from detectors.alert import QUIET, REFRESH
from detectors.combining import COMBINED, FADE, Level, Said, combined
from detectors.conviction import ANYBODY, FIRST, LONGEST, Convictions, Exemptions
from detectors.engine import Engine
from detectors.registry import NAMES, build
from detectors.sight import Sight, domain_of

NOW = 1_700_000_000.0
HOUR, DAY = 3_600.0, 86_400.0
CLIENT, BAD = "192.0.2.7", "evil.example"
LOW, MEDIUM, HIGH = Confidence.LOW, Confidence.MEDIUM, Confidence.HIGH
OFF = {name: {"mode": "off"} for name in NAMES}


def finding(detector: str, confidence: Confidence, **changes: Any) -> Finding:
    known: dict[str, Any] = {"client": CLIENT, "domain": BAD, "score": 0.5, "reason": f"{detector} says so"}
    return Finding(detector, confidence=confidence, **(known | changes))


def sight(name: str, at: float = NOW, client: str = CLIENT, **changes: Any) -> Sight:
    qname = names.from_text(name)
    return Sight(at, ip_address(client).packed, qname, changes.pop("qtype", 1), domain_of(qname), **changes)


def engine(*on: str, blocking: bool = True, **tables: Mapping[str, Any]) -> Engine:
    """An engine of which only these detectors run, past all learning."""
    wanted = {**OFF, **{name: {} for name in on}, **tables}
    return Engine(wanted, started=NOW - 400 * DAY, blocking=blocking)


class Scripted:
    """A Watch that says what it is told to about a name."""

    name = "tunnel"

    def __init__(self, says: Mapping[str, Sequence[Finding]]) -> None:
        self.says = {names.from_text(name): found for name, found in says.items()}
        self.seen: list[Sight] = []
        self.ticks: list[float] = []

    def see(self, given: Sight) -> Sequence[Finding]:
        self.seen.append(given)
        return self.says.get(given.qname, ())

    def tick(self, now: float) -> Sequence[Finding]:
        self.ticks.append(now)
        return ()

    def counters(self) -> Mapping[str, int]:
        return {"seen": len(self.seen)}

    def dump(self) -> dict[str, Any]:
        return {"seen": len(self.seen)}

    def load(self, state: Mapping[str, Any]) -> None:
        self.seen = [sight("loaded.example")] * state["seen"]


def scripted(monkeypatch: pytest.MonkeyPatch, watch: Scripted, table: Mapping[str, Any] | None = None) -> Engine:
    monkeypatch.setattr("detectors.tunnel.TunnelWatch", lambda _settings: watch)
    return Engine({**OFF, "tunnel": {"mode": "block", **(table or {})}}, started=NOW)


# Levels


@pytest.mark.parametrize(
    ("said", "level"),
    [
        ({}, None),
        ({"tunnel": LOW}, (LOW, ("tunnel",))),
        ({"tunnel": LOW, "beacon": LOW, "young": LOW}, (LOW, ("beacon", "tunnel", "young"))),
        ({"tunnel": MEDIUM, "young": LOW}, (MEDIUM, ("tunnel",))),
        ({"tunnel": MEDIUM, "leak": MEDIUM, "dga": MEDIUM}, (MEDIUM, ("dga", "leak", "tunnel"))),
        ({"tunnel": MEDIUM, "beacon": MEDIUM}, (HIGH, ("beacon", "tunnel"))),
        ({"tunnel": HIGH, "beacon": MEDIUM}, (HIGH, ("tunnel",))),
    ],
)
def test_levels(said: dict[str, Confidence], level: tuple[Confidence, tuple[str, ...]] | None) -> None:
    by = {name: Said(confidence, NOW, blocks=True) for name, confidence in said.items()}
    assert combined(by, NOW) == (None if level is None else Level(*level))
    assert combined(by, NOW + FADE) is None


@given(st.dictionaries(st.sampled_from(NAMES), st.sampled_from(Confidence), min_size=1))
def test_more_findings_never_lower_a_level(said: dict[str, Confidence]) -> None:
    by = {name: Said(confidence, NOW, blocks=True) for name, confidence in said.items()}
    whole = combined(by, NOW)
    assert whole is not None
    for name in said:
        fewer = combined({other: one for other, one in by.items() if other != name}, NOW)
        assert fewer is None or fewer.confidence <= whole.confidence
    if max(said.values()) is LOW:
        assert whole.confidence is LOW


# What follows from a finding


def test_of_a_crowd_watches_are_shown_every_tenth_question_and_accounts_count_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch = Scripted({})
    monkeypatch.setattr("detectors.tunnel.TunnelWatch", lambda _settings: watch)
    made = engine("tunnel")
    for number in range(300):
        made.see(sight(f"n{number}.{BAD}", NOW + number / 1_000))
        made.see(sight(f"n{number}.{BAD}", NOW + number / 1_000, client="192.0.2.8"))
        made.see(sight("other.example", NOW + number / 1_000) if number < 50 else sight(f"n{number}.{number}.example"))
    mine = [names.to_text(one.qname) for one in watch.seen if one.domain == names.from_text(BAD)][::2]
    assert mine == [f"n{number}.{BAD}" for number in (*range(100), *range(109, 300, 10))]
    assert sum(one.domain == names.from_text("other.example") for one in watch.seen) == 50
    assert made.counters()["engine"]["crowded"] == 2 * 180
    assert made._accounts.hold((ip_address(CLIENT).packed, names.from_text(BAD)), NOW).queries == 300
    made.see(sight(f"later.{BAD}", NOW + 1.0))
    assert watch.seen[-1].qname == names.from_text(f"later.{BAD}")  # another second, another hundred


def test_high_convicts_and_later_questions_are_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]})
    made = scripted(monkeypatch, watch)
    first = made.see(sight(f"a.{BAD}"))
    assert not first.blocked
    assert [one.detector for one in first.findings] == ["tunnel"]
    (convicted,) = first.convicted
    assert (convicted.client, convicted.domain, convicted.until) == (CLIENT, BAD, NOW + FIRST)
    assert made.see(sight(f"b.{BAD}", NOW + 1)).blocked
    assert not made.see(sight(f"b.{BAD}", NOW + 2, client="192.0.2.8")).blocked
    assert not made.see(sight("b.fine.example", NOW + 3)).blocked
    assert not made.see(sight(f"b.{BAD}", NOW + FIRST)).blocked
    assert len(watch.seen) == 5


@pytest.mark.parametrize(
    ("table", "confidence", "convicts"),
    [({}, MEDIUM, False), ({"block_at": "MEDIUM"}, MEDIUM, True), ({"block_at": "MEDIUM"}, LOW, False),
     ({"mode": "alert"}, HIGH, False), ({}, HIGH, True)],
)  # fmt: skip
def test_modes(monkeypatch: pytest.MonkeyPatch, table: dict[str, str], confidence: Confidence, convicts: bool) -> None:
    made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", confidence)]}), table)
    outcome = made.see(sight(f"a.{BAD}"))
    assert len(outcome.findings) == 1
    assert bool(outcome.convicted) is convicts
    raised = made.take_alerts()
    assert [one.blocks for one in raised] == ([convicts] if confidence > LOW else [])


def test_two_kinds_of_evidence_agree() -> None:
    made = engine("tunnel", "flux", "leak")
    assert not made.take_in([finding("tunnel", MEDIUM)], NOW).convicted
    assert len(made.take_in([finding("leak", MEDIUM)], NOW + 1).findings) == 1
    found = made.take_in([finding("flux", MEDIUM, reason="many networks")], NOW + HOUR).findings
    assert [(one.detector, one.confidence) for one in found] == [("flux", MEDIUM), (COMBINED, HIGH)]
    assert "flux and leak and tunnel agree" in found[1].reason
    assert "many networks" in found[1].reason
    assert [one.detector for one in made.take_in([finding("flux", MEDIUM)], NOW + HOUR + 1).findings] == ["flux"]
    assert not made.convictions.all(NOW + HOUR)  # flux has no mode `block`


def test_an_agreement_convicts_when_all_may_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.combining.KINDS", {"storm": "failures"})
    made = engine("tunnel", "storm")
    made.take_in([finding("tunnel", MEDIUM)], NOW)
    (convicted,) = made.take_in([finding("storm", MEDIUM)], NOW).convicted
    assert convicted.detectors == ("storm", "tunnel")
    calm = engine("tunnel", storm={"mode": "alert"}, blocking=False)
    calm.take_in([finding("tunnel", MEDIUM)], NOW)
    assert not calm.take_in([finding("storm", MEDIUM)], NOW).convicted


@pytest.mark.parametrize("domain", ["", ".", "*", "example"])
def test_a_client_is_never_convicted_of_everything(domain: str) -> None:
    made = engine("tunnel")
    outcome = made.take_in([finding("tunnel", HIGH, domain=domain)], NOW)
    assert len(outcome.findings) == 1
    assert not outcome.convicted
    assert len(made.convictions) == 0


def test_a_domain_convicted_for_everybody() -> None:
    made = engine("tunnel")
    made.take_in([finding("tunnel", HIGH, client="*")], NOW)
    assert made.see(sight(f"a.{BAD}", NOW + 1, client="2001:db8::9")).blocked


# The leak meter inside


def payload(number: int) -> str:
    return f"{number * 2654435761 % 2**32:08x}{number * 40503 % 2**16:04x}{number * 97:010x}.{BAD}"


def test_the_leak_meter_blocks_before_the_query_leaves() -> None:
    made = engine("leak")
    outcomes = [made.see(sight(payload(number), NOW + number)) for number in range(200)]
    first = next(at for at, one in enumerate(outcomes) if one.blocked)
    assert 3 < first < 100
    assert outcomes[first].findings[-1].detector == "leak"
    assert all(one.blocked for one in outcomes[first:])
    charged = made.counters()["leak"]
    made.see(sight(payload(999), NOW + 300))
    assert made.counters()["leak"]["blocked"] == charged["blocked"]  # a convicted question is not weighed again


def test_hits_and_blocked_questions_are_not_charged() -> None:
    made = engine("leak")
    for number in range(200):
        assert not made.see(sight(payload(number), NOW + number, cached=True)).blocked
        assert made.see(sight(payload(number), NOW + number, blocked=True)).findings == ()
    assert not made.convictions.all(NOW)


def test_without_the_meter_findings_come_from_elsewhere() -> None:
    made = Engine({**OFF, "leak": {"mode": "block"}}, started=NOW - 400 * DAY, inline=False)
    assert not any(made.see(sight(payload(number), NOW + number)).blocked for number in range(100))
    assert made.take_in([finding("leak", HIGH)], NOW + 100).convicted
    assert made.see(sight(payload(1), NOW + 101)).blocked


# Time


def test_time_never_goes_back_and_ticks_come_by_the_sights(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Scripted({})
    made = scripted(monkeypatch, watch)
    for at in (0.0, 0.5, 1.25, 0.25, 90.0):
        made.see(sight("www.example.com", NOW + at))
    assert [one.at - NOW for one in watch.seen] == [0.0, 0.5, 1.25, 1.25, 90.0]
    assert [at - NOW for at in watch.ticks] == [0.0, 1.25, 90.0]
    assert made.counters()["engine"]["late"] == 1


# Who is shown what


def mixed(seed: int) -> list[Sight]:
    """Questions of every sort by a few clients: to popular and odd names, answered, failed, cached and blocked."""
    dice = Random(seed)
    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    found = []
    for at in range(1_500):
        label = "".join(dice.choices(letters, k=dice.choice((3, 12, 40))))
        name = dice.choice(
            (f"www.shop{dice.randrange(4)}.example", f"{label}.evil.example", f"{label}.com", "www.my0wn.example")
        )
        addresses = (dice.randbytes(4),) if dice.random() < 0.4 else ()
        found.append(
            sight(
                name, NOW + at / 3, f"192.0.2.{dice.randrange(3)}", qtype=dice.choice((1, 1, 16, 28)),
                rcode=dice.choice((-1, 0, 0, 2, 3)), ttl=dice.choice((0, 60, 3600)), size=100, addresses=addresses,
                payload=dice.randbytes(dice.choice((0, 40))), cached=dice.random() < 0.3, blocked=dice.random() < 0.2,
            )
        )  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_detector_has_no_use_for_what_it_is_not_shown(seed: int) -> None:
    tables: dict[str, dict[str, Any]] = {"lookalike": {"own": ["myown.example"]}, "young": {"learn": 0.0}}
    lean, full = (Engine(tables, started=NOW - 400 * DAY, inline=False) for _ in range(2))
    full._hits = full._addressed = full._bare = full._blocked = tuple(watch.see for watch in full._watches)
    outcomes = [(lean.see(one), full.see(one)) for one in mixed(seed)]
    assert all(one == other for one, other in outcomes)
    assert {found.detector for one, _ in outcomes for found in one.findings} >= {"lookalike", "young"}
    assert lean.dump() == full.dump()
    assert lean.counters() == full.counters()


# What people say


def test_allow_lifts_a_conviction_and_silences(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]}))
    made.see(sight(f"a.{BAD}"))
    made.take_alerts()
    made.allow(BAD, until=NOW + HOUR)
    assert not made.see(sight(f"b.{BAD}", NOW + 1)).blocked
    assert made.see(sight(f"a.{BAD}", NOW + 2)).findings == ()
    assert made.take_alerts() == []
    assert made.counters()["engine"]["excused"] == 1
    assert made.see(sight(f"a.{BAD}", NOW + HOUR)).convicted


def test_allow_reaches_below_by_labels_and_one_client_only() -> None:
    said = Exemptions()
    said.allow((CLIENT, "example"), NOW)
    assert said.allows((CLIENT, BAD), NOW - 1)
    assert not said.allows((CLIENT, BAD), NOW)
    assert not said.allows(("192.0.2.8", BAD), NOW - 1)
    assert not said.allows((CLIENT, "notexample"), NOW - 1)
    said.allow((ANYBODY, BAD))
    assert said.allows(("192.0.2.8", f"x.{BAD}"), NOW * 2)
    said.forget((ANYBODY, BAD))
    assert not said.allows(("192.0.2.8", BAD), NOW)


def test_snooze_blocks_without_an_alert(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]}))
    made.snooze(BAD, until=NOW + HOUR, detector="tunnel")
    assert made.see(sight(f"a.{BAD}")).convicted
    assert made.take_alerts() == []
    assert made.see(sight(f"b.{BAD}", NOW + 1)).blocked
    made.see(sight(f"a.{BAD}", NOW + HOUR))
    assert len(made.take_alerts()) == 1


def test_forget_starts_afresh(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]}))
    made.see(sight(f"a.{BAD}"))
    made.forget(BAD, client=CLIENT)
    assert not made.see(sight(f"b.{BAD}", NOW + 1)).blocked
    (again,) = made.see(sight(f"a.{BAD}", NOW + 2)).convicted
    assert again.times == 1


# One alert a pair


def test_what_many_detectors_find_of_a_pair_is_one_alert() -> None:
    made = engine("leak", "tunnel", "young")
    made.see(sight(f"a1b2c3d4e5f6g7h8.{BAD}"))
    made.take_in([finding("young", LOW)], NOW + 1)
    assert made.take_alerts() == []
    made.take_in([finding("tunnel", MEDIUM, reason="talks both ways")], NOW + 2)
    (first,) = made.take_alerts()
    assert (first.detector, first.detectors, first.blocks) == ("tunnel", ("tunnel", "young"), False)
    made.see(sight(f"i9j8k7l6m5n4o3p2.{BAD}", NOW + 3))
    made.take_in([finding("leak", HIGH, score=0.6), finding("tunnel", HIGH, score=0.9, tool="iodine")], NOW + 4)
    (whole,) = made.take_alerts()
    assert (whole.id, whole.client, whole.domain) == (first.id, CLIENT, BAD)
    assert (whole.detector, whole.detectors, whole.tool) == ("tunnel", ("tunnel", "leak", "young"), "iodine")
    assert (whole.confidence, whole.queries, whole.count, whole.blocks) == (HIGH, 2, 4, True)
    assert (whole.first, whole.last) == (NOW, NOW + 4)
    assert 0 < whole.bytes_before_alert == first.bytes_before_alert
    assert whole.bytes_before_block == pytest.approx(2 * whole.bytes_before_alert, abs=1)
    assert made.take_alerts() == []


def test_without_alerting_there_are_findings_and_convictions_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detectors.tunnel.TunnelWatch", lambda _: Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]}))
    made = Engine({**OFF, "tunnel": {"mode": "block"}}, started=NOW, alerting=False)
    outcome = made.see(sight(f"a.{BAD}"))
    assert (len(outcome.findings), len(outcome.convicted)) == (1, 1)
    assert made.take_alerts() == []
    assert made.counters()["engine"]["accounts"] == 0


def test_an_agreement_leads_the_alert_it_made_high() -> None:
    made = engine("tunnel", "flux")
    made.take_in([finding("tunnel", MEDIUM), finding("flux", MEDIUM)], NOW)
    (alert,) = made.take_alerts()
    assert (alert.detector, alert.confidence, alert.count) == (COMBINED, HIGH, 2)
    assert sorted(alert.detectors) == ["flux", "tunnel"]
    assert "agree" in alert.reason


@pytest.mark.parametrize(
    ("table", "confidence", "alerts"),
    [({}, LOW, 0), ({}, MEDIUM, 1), ({"alert_at": "LOW"}, LOW, 1), ({"alert_at": "HIGH"}, MEDIUM, 0),
     ({"alert_at": "HIGH", "block_at": "MEDIUM"}, MEDIUM, 1)],
)  # fmt: skip
def test_from_which_level_on_it_is_an_alert(table: dict[str, str], confidence: Confidence, alerts: int) -> None:
    made = engine(tunnel=table)
    outcome = made.take_in([finding("tunnel", confidence)], NOW)
    assert [one.confidence for one in outcome.findings] == [confidence]
    assert len(made.take_alerts()) == alerts


def test_an_alert_is_told_again_while_the_client_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", HIGH)]}))
    made.see(sight(f"a.{BAD}"))
    (first,) = made.take_alerts()
    assert first.bytes_before_block is not None
    for at in range(1, 5):
        made.see(sight(f"b{at}.{BAD}", NOW + at))
    assert made.take_alerts() == []
    made.tick(NOW + REFRESH)
    (again,) = made.take_alerts()
    assert (again.id, again.queries, again.last) == (first.id, 5, NOW + 4)
    assert again.bytes_before_block == first.bytes_before_block
    made.tick(NOW + 2 * REFRESH)
    assert made.take_alerts() == []


def test_after_a_quiet_day_or_a_release_it_is_another_alert() -> None:
    made = engine("tunnel")
    ids = []
    for at in (0.0, QUIET, 2 * QUIET + 1):
        made.take_in([finding("tunnel", HIGH)], NOW + at)
        ids += [one.id for one in made.take_alerts()]
    assert (ids[0] == ids[1], ids[1] == ids[2]) == (True, False)
    made.release(BAD, client=CLIENT)
    made.take_in([finding("tunnel", MEDIUM)], NOW + 2 * QUIET + 2)
    (freed,) = made.take_alerts()
    assert freed.id != ids[2]
    assert (freed.blocks, freed.bytes_before_block) == (False, None)


@pytest.mark.parametrize("client", ["", "*", "."])
def test_all_clients_are_one_pair(client: str) -> None:
    made = engine("storm", blocking=False)
    for at, who in enumerate(("192.0.2.1", "192.0.2.2", "192.0.2.3")):
        made.see(sight(f"n{at}.{BAD}", NOW + at, client=who))
    made.take_in([finding("storm", MEDIUM, client=client)], NOW + 3)
    (alert,) = made.take_alerts()
    assert (alert.client, alert.queries, alert.first) == (ANYBODY, 3, NOW)
    assert alert.reason.startswith("Many clients together")


def test_many_domains_of_a_client_are_one_pair() -> None:
    made = engine("storm", blocking=False)
    for at in range(5):
        made.see(sight(f"www.n{at}.example", NOW + at))
        made.see(sight(f"www.n{at}.example", NOW + at, client="192.0.2.99"))
    made.take_in([finding("storm", MEDIUM, domain=".")], NOW + 6)
    (alert,) = made.take_alerts()
    assert (alert.client, alert.domain, alert.queries) == (CLIENT, ".", 5)
    assert "many domains" in alert.reason


def test_what_people_silence_meanwhile_is_not_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for silence in ("allow", "snooze"):
        made = scripted(monkeypatch, Scripted({f"a.{BAD}": [finding("tunnel", MEDIUM)]}))
        made.see(sight(f"a.{BAD}"))
        getattr(made, silence)(BAD, until=NOW + HOUR)
        assert made.take_alerts() == []


# Convictions by themselves


def test_a_conviction_lasts_longer_each_time_and_evidence_keeps_it_alive() -> None:
    held, key, now = Convictions(), (CLIENT, BAD), NOW
    lasted = []
    for _ in range(8):
        made = held.convict(key, ("tunnel",), "why", now)
        assert made is not None
        assert held.convict(key, ("leak",), "why", now + 60) is None
        alive = held.standing(key, now + 60)
        assert alive is not None
        assert alive.detectors == ("leak", "tunnel")
        lasted.append(alive.until - now - 60)
        now = alive.until
        assert held.standing(key, now) is None
    assert lasted[:3] == [FIRST, 2 * FIRST, 4 * FIRST]
    assert lasted[-1] == LONGEST


def test_caps_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    held = Convictions(cap=10)
    for number in range(30):
        held.convict((CLIENT, f"n{number}.example"), ("tunnel",), "", NOW + number)
    assert len(held) == 10
    assert held.counters()["dropped_convictions"] == 20
    assert held.standing((CLIENT, "n29.example"), NOW + 30) is not None
    monkeypatch.setattr("detectors.engine.MAX_PAIRS", 8)
    made = engine("tunnel")
    made.take_in([finding("tunnel", LOW, domain=f"n{number}.example") for number in range(100)], NOW)
    assert made.counters()["engine"]["pairs"] <= 8
    assert made.counters()["engine"]["dropped_pairs"] >= 92
    assert conviction.MAX_CONVICTIONS >= 10_000


# State over a restart


def test_everything_is_kept_over_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    before = engine("leak", "tunnel", "storm", "flux", "young", "beacon")
    before.allow("fine.example")
    before.snooze("noisy.example", until=NOW + DAY)
    before.take_in([finding("tunnel", HIGH), finding("storm", MEDIUM, domain="other.example")], NOW)
    (before_id,) = [one.id for one in before.take_alerts() if one.domain == BAD]
    for number in range(4):
        before.see(sight(payload(number), NOW + number, client="192.0.2.9"))
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before.dump()))
    after = engine("leak", "tunnel", "storm", "flux", "young", "beacon")
    after.load(state)
    assert after.counters()["engine"]["states_left_out"] == 0
    assert after.see(sight(f"b.{BAD}", NOW + 5)).blocked
    assert after.exemptions.allows((CLIENT, "fine.example"), NOW)
    assert after.exemptions.snoozes((CLIENT, "noisy.example"), "tunnel", NOW)
    found = after.take_in([finding("flux", MEDIUM, domain="other.example")], NOW + 6).findings
    assert [one.detector for one in found] == ["flux", COMBINED]
    after.take_in([finding("tunnel", HIGH)], NOW + 7)
    (again,) = [one for one in after.take_alerts() if one.domain == BAD]
    assert (again.id, again.count) == (before_id, 2)
    left = [made.see(sight(payload(number), NOW + 100 + number, client="192.0.2.9")) for made in (before, after)
            for number in range(4, 60)]  # fmt: skip
    half = len(left) // 2
    assert [one.blocked for one in left[:half]] == [one.blocked for one in left[half:]]
    assert any(one.blocked for one in left)


@settings(suppress_health_check=[HealthCheck.too_slow])  # an engine for each
@given(
    st.dictionaries(
        st.sampled_from(("version", "clock", "leak", "watches", "said", "accounts", "alerts", "convictions",
                         "exemptions")),
        st.one_of(st.none(), st.integers(-5, 5), st.text(max_size=5), st.lists(st.integers(), max_size=3),
                  st.just({"held": [1], "record": [[1]], "allowed": [[1]], "snoozed": 5, "tunnel": {"version": 1}})),
    )
)  # fmt: skip
def test_a_state_that_does_not_fit_is_left_out(damage: dict[str, Any]) -> None:
    made = engine("leak", "tunnel", "storm")
    made.load({**engine("leak", "tunnel", "storm").dump(), **damage})
    made.take_in([finding("tunnel", HIGH)], NOW)
    assert made.see(sight(f"b.{BAD}", NOW + 1)).blocked


# Configuration


def test_every_detector_is_made_by_default_and_off_is_off() -> None:
    made = build({}, started=NOW)
    assert [part.name for part in made] == list(NAMES)
    assert [part.watch.name for part in made if part.watch is not None] == list(NAMES[1:])
    assert build(OFF, started=NOW) == []
    assert not any(part.blocks and not part.can_block for part in build({}, started=NOW, blocking=True))


def test_every_mistake_is_one_line_with_its_path() -> None:
    tables: dict[str, dict[str, Any]] = {
        "tunel": {}, "leak": {"budgt": 5, "mode": "blok"}, "storm": {"client": 1}, "flux": {"block_at": "LOW"},
        "lookalike": {"own": ["a" * 64 + ".example"]},
    }  # fmt: skip
    with pytest.raises(BadConfig) as raised:
        build(tables, started=NOW)
    paths = [line.partition(":")[0] for line in raised.value.mistakes]
    assert paths[:3] == ["detectors.tunel", "detectors.leak.budgt", "detectors.leak.mode"]
    assert sorted(paths[3:]) == ["detectors.flux.block_at", "detectors.lookalike", "detectors.storm.client"]
    assert "write tunnel" in raised.value.mistakes[0]
    assert "write budget" in raised.value.mistakes[1]
    assert all("\n" not in line for line in raised.value.mistakes)
