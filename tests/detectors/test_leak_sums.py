"""What all clients of a domain share: bots that let it age, services that come and stay, alerts before the cut."""

from __future__ import annotations

import random
from math import inf

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_text
from detectors.leak import LeakMeter, LeakSettings
from detectors.leak_accounts import DAY, MONTH
from detectors.leak_sums import AGES, LONE, SHARES, STEADY, YOUNG, Sum
from detectors.sight import domain_of

START = 1_700_000_000.0
LEARNED = START + 30 * DAY
BUDGET = 1_000.0  # of the sums made here, in bits
A = 1


def meter() -> LeakMeter:
    return LeakMeter(LeakSettings(), started=START)


def client(number: int) -> bytes:
    return bytes((10, 3, number >> 8, number & 255))


def ask(leak: LeakMeter, now: float, name: str, who: int) -> Finding | None:
    qname = from_text(name)
    return leak.check(now, client(who), domain_of(qname), qname, A)


def swarm(leak: LeakMeter, now: float, clients: int, *, turns: int, gap: float, octets: int = 16) -> int:
    """Let so many clients ask in turn; returns the octets that passed."""
    rng, passed = random.Random(clients * turns), 0
    for turn in range(turns):
        for who in range(clients):
            name = f"{rng.randbytes(octets).hex()}.swarm.net"
            passed += octets * (ask(leak, now + turn * gap + who, name, who) is None)
    return passed


@pytest.mark.parametrize(("bots", "most"), [(10, 4096), (30, 8192)])
@pytest.mark.parametrize("gap", [60.0, 600.0])
@pytest.mark.parametrize("before", [5, 20])
def test_asking_for_a_domain_makes_it_no_older(bots: int, most: int, gap: float, before: int) -> None:
    leak = meter()
    for bot in range(bots):
        assert ask(leak, LEARNED - before * DAY, "swarm.net", bot) is None
    assert 1000 < swarm(leak, LEARNED, bots, turns=400, gap=gap) <= most


@pytest.mark.parametrize(("bots", "most"), [(10, 4096), (30, 8192)])
@pytest.mark.parametrize(("days", "octets"), [(5, 16), (20, 16), (20, 2)])
def test_a_name_a_day_buys_bots_little(bots: int, most: int, days: int, octets: int) -> None:
    leak = meter()
    passed = swarm(leak, LEARNED - days * DAY, bots, turns=days, gap=DAY, octets=octets)
    passed += swarm(leak, LEARNED, bots, turns=400, gap=600.0)
    assert 1000 < passed <= most


def test_what_is_blocked_by_the_sum_says_so() -> None:
    leak, rng = meter(), random.Random(4)
    for turn in range(600):
        finding = ask(leak, LEARNED + turn, f"{rng.randbytes(16).hex()}.swarm.net", turn % 30)
        if finding is not None:
            break
    else:
        pytest.fail("never stopped")
    assert finding.confidence is Confidence.HIGH
    assert "confirm the domain" in finding.reason
    leak.confirm(b"", from_text("swarm.net"))
    assert swarm(leak, LEARNED + 400, 60, turns=10, gap=60.0) == 60 * 10 * 16


def test_a_domain_is_released_for_all_with_an_empty_sum() -> None:
    leak = meter()
    swarm(leak, LEARNED, 30, turns=30, gap=60.0)
    leak.forget(client(1), from_text("swarm.net"))
    assert ask(leak, LEARNED + DAY, f"{'ab' * 16}.swarm.net", 1) is not None  # the sum is still full
    leak.forget(b"", from_text("swarm.net"))
    assert 1000 < swarm(leak, LEARNED + DAY, 30, turns=31, gap=60.0) <= 4096


def test_the_sum_alerts_before_it_blocks_and_once() -> None:
    leak, said = meter(), list[Finding]()
    rng, blocked = random.Random(1), False
    for turn in range(2000):
        blocked = ask(leak, LEARNED + turn, f"{rng.randbytes(8).hex()}.swarm.net", turn % 60) is not None
        if blocked:
            break
        said += leak.take_alerts()
    assert blocked
    (alert,) = said
    assert alert.confidence is Confidence.MEDIUM
    assert "nearly" in alert.reason
    assert alert.domain == "swarm.net"


@pytest.mark.parametrize("domains", [1, 5])
def test_the_budget_of_a_clients_lone_domains_alerts_before_it_blocks(domains: int) -> None:
    leak, said = meter(), list[Finding]()
    rng, blocked = random.Random(2), False
    for turn in range(4000):
        name = f"{rng.randbytes(4).hex()}.lone{turn % domains}.net"
        blocked = ask(leak, LEARNED + turn * 600.0, name, 1) is not None
        if blocked:
            break
        said += leak.take_alerts()
    assert blocked
    assert said
    assert {alert.confidence for alert in said} == {Confidence.MEDIUM}
    assert len(said) == 1
    assert "hardly anybody else uses" in said[0].reason
    assert "nearly" in said[0].reason


def test_a_service_that_grows_slowly_is_left_alone() -> None:
    leak = meter()
    assert swarm(leak, LEARNED, 60, turns=3, gap=1.5 * DAY, octets=8) == 60 * 3 * 8
    passed = swarm(leak, LEARNED + 5 * DAY, 60, turns=12, gap=DAY, octets=8)
    assert passed == 60 * 12 * 8  # more in sum than a domain may carry in its first two days
    assert not leak.take_alerts()


def test_a_service_used_while_learning_has_no_limit() -> None:
    leak = meter()
    assert swarm(leak, START, 24, turns=14, gap=DAY / 2) == 24 * 14 * 16
    for week in range(4):
        assert swarm(leak, START + (8 + 7 * week) * DAY, 24, turns=7, gap=DAY) == 24 * 7 * 16


@pytest.mark.parametrize(("crowd", "free"), [(40, True), (30, False)])
def test_a_new_product_on_a_domain_a_crowd_knows(crowd: int, free: bool) -> None:
    leak = meter()
    for day in range(7):
        for who in range(crowd):
            assert ask(leak, START + day * DAY, "www.swarm.net", who) is None
    sent = [swarm(leak, LEARNED + day * DAY, 30, turns=8, gap=600.0) for day in range(4)]
    assert (sum(sent) == 4 * 30 * 8 * 16) == free
    assert free or sum(sent) < 8192


def test_the_sum_is_kept_over_a_restart() -> None:
    leak = meter()
    before = swarm(leak, LEARNED, 30, turns=4, gap=60.0)
    other = meter()
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(leak.dump())))
    after = swarm(other, LEARNED + 600, 30, turns=20, gap=60.0)
    assert after < before + 4096
    assert before + after <= 4096


def test_nodes_share_the_sum() -> None:
    one, other = meter(), meter()
    for leak in (one, other):
        leak.totals(LEARNED)
    rng, passed = random.Random(3), 0
    for turn in range(1200):
        leak = (one, other)[turn % 2]
        passed += 16 * (ask(leak, LEARNED + turn, f"{rng.randbytes(16).hex()}.swarm.net", turn // 2 % 30) is None)
        one.add_foreign(LEARNED + turn, other.totals(LEARNED + turn))
        other.add_foreign(LEARNED + turn, one.totals(LEARNED + turn))
    assert 1000 < passed <= 8192


def test_a_domain_is_watched_when_a_client_left_the_first_tier() -> None:
    leak = meter()
    ask(leak, LEARNED, "www.swarm.net", 1)
    assert not leak.watches(from_text("swarm.net"))
    swarm(leak, LEARNED, 1, turns=6, gap=1.0)
    assert leak.watches(from_text("swarm.net"))
    assert not leak.watches(from_text("other.net"))


@given(
    clients=st.integers(0, 500),
    learned=st.integers(0, 500),
    bits=st.floats(0, 5 * BUDGET),
    ages=st.lists(st.floats(0, 1000 * DAY), min_size=2, max_size=5),
)
def test_the_limit_is_never_below_the_budget_and_bounded(
    clients: int, learned: int, bits: float, ages: list[float]
) -> None:
    one = Sum(START)
    for _ in range(learned):
        one.join(learning=True)
    one.add(START, bits, learning=True)
    for _ in range(clients):
        one.join(learning=False)
    limits = [one.limit(START + age, BUDGET) for age in sorted(ages)]
    assert limits == sorted(limits)
    assert limits[0] >= BUDGET
    if learned > LONE and bits >= BUDGET:
        assert limits == [inf] * len(ages)
    else:
        assert limits[-1] <= AGES * BUDGET * max(SHARES / 16, STEADY)


def test_clients_and_months_add_to_the_limit() -> None:
    one = Sum(START)
    for _ in range(48):
        assert one.join(learning=False)
    assert one.limit(START + YOUNG - 1, BUDGET) == 1.5 * BUDGET
    assert one.limit(START + YOUNG, BUDGET) == 3 * BUDGET
    assert one.limit(START + 2 * MONTH, BUDGET) == 6 * BUDGET
    assert one.limit(START, BUDGET, crowded=True) == 96 * BUDGET
    assert one.young(START + YOUNG - 1)
    assert not one.young(START + YOUNG)


def test_the_first_tier_of_a_crowd_is_charged_no_longer() -> None:
    one = Sum(START)
    assert [one.join(learning=False) for _ in range(SHARES + 2)] == [True] * SHARES + [False] * 2


def test_a_sum_fades_and_makes_the_round_trip() -> None:
    one = Sum(START)
    one.join(learning=True)
    one.add(START, 800.0, learning=True)
    one.add(START + 60 * DAY, 0.0, learning=False)
    assert one.bits == pytest.approx(800.0 / 2.71828, rel=1e-3)
    other = Sum.from_dump(msgspec.msgpack.decode(msgspec.msgpack.encode(one.dump())))
    assert other.dump() == one.dump()
    with pytest.raises(ValueError, match="unpack"):
        Sum.from_dump([])
