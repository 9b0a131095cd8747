from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_text
from detectors.acquaintance import DAY, WEEK, Acquaintances
from detectors.beacon import MOST_SAID, Beacon, BeaconSettings
from detectors.recurrence import Recurrence
from detectors.rhythm import contacts, rhythm
from detectors.sight import Sight, domain_of

START = 1_700_000_000
SMALL = BeaconSettings(counts=14)


def client_of(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def sight(
    at: float,
    *,
    client: int = 1,
    domain: str = "c2.example.net",
    ttl: int = 1,
    rcode: int = 0,
    cached: bool = False,
    address: int = 7,
) -> Sight:
    name = from_text(domain)
    return Sight(
        at=at,
        client=client_of(client),
        qname=name,
        qtype=1,
        domain=domain_of(name),
        rcode=rcode,
        ttl=ttl,
        cached=cached,
        addresses=(bytes((203, 0, 113, address)),) if rcode == 0 else (),
    )


def beats(period: float, jitter: float = 0.0, *, count: int = 24, loss: float = 0.0, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    at, times = float(START), []
    for _ in range(count):
        at += period * (1 + chance.uniform(-jitter, jitter))
        if chance.random() >= loss:
            times.append(at)
    return times


def people(mean: float, *, count: int = 60, seed: int = 1) -> list[float]:
    chance = random.Random(seed)
    at, times = float(START), []
    for _ in range(count):
        at += chance.expovariate(1 / mean)
        times.append(at)
    return times


def shown(watch: Beacon, sights: Iterable[Sight]) -> list[Finding]:
    """Show the sights in order of time, with ticks between, until nothing is due."""
    found: list[Finding] = []
    last = 0.0
    for one in sorted(sights, key=lambda one: one.at):
        found += watch.see(one)
        last = one.at
        found += watch.tick(last)
    while watch.counters()["due"]:
        last += 1
        found += watch.tick(last)
    return found


def everyday(watch: Beacon, *, days: int, begin: float = START) -> None:
    """Let an office of 30 clients use its usual domains for some days."""
    sights = [
        sight(begin + day * DAY + client, client=100 + client, domain="everyday.example.org")
        for day in range(days)
        for client in range(30)
    ]
    shown(watch, sights)


@pytest.mark.parametrize("period", [10, 60, 3_600, DAY])
@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.3])
def test_a_beacon_with_lost_contacts_is_found_whatever_its_period(period: float, jitter: float) -> None:
    found = shown(Beacon(SMALL), (sight(at) for at in beats(period, jitter, loss=0.1, seed=3)))
    assert [(one.client, one.domain) for one in found] == [("10.0.0.1", "example.net")]
    assert found[0].confidence == Confidence.LOW
    values = {one.name: one.value for one in found[0].evidence}
    assert values["period_seconds"] == pytest.approx(period, rel=0.2)


def test_hits_out_of_the_cache_count_like_misses() -> None:
    assert shown(Beacon(SMALL), (sight(at, ttl=3_600, cached=True) for at in beats(60, 0.2)))


def test_people_have_no_rhythm() -> None:
    sights = [sight(at, client=n, domain=f"site{n}.com") for n in range(15) for at in people(600, seed=n)]
    assert len(shown(Beacon(SMALL), sights)) <= 1


def test_what_is_blocked_already_is_not_looked_at() -> None:
    sights = [msgspec.structs.replace(sight(at), blocked=True) for at in beats(60)]
    watch = Beacon(SMALL)
    assert shown(watch, sights) == []
    assert watch.counters()["domains"] == 0


def test_what_several_clients_use_stays_quiet() -> None:
    times = beats(64, 0.02)
    alone = shown(Beacon(SMALL), (sight(at, domain="time.example.org") for at in times))
    shared = shown(
        Beacon(SMALL), (sight(at + c, client=c, domain="time.example.org") for at in times for c in range(1, 5))
    )
    assert len(alone) == 1
    assert shared == []


def test_a_cache_that_asks_again_at_the_end_of_the_ttl_stays_quiet() -> None:
    assert shown(Beacon(SMALL), (sight(at, ttl=300) for at in beats(301, 0.002))) == []


def test_a_period_about_the_ttl_that_does_not_wait_for_its_end_is_found() -> None:
    assert shown(Beacon(SMALL), (sight(at, ttl=300) for at in beats(300, 0.2)))


@pytest.mark.parametrize("domain", ["printer.local", "wpad", "4.3.2.1.in-addr.arpa", "nas.lan"])
def test_names_that_nobody_outside_can_register_stay_quiet(domain: str) -> None:
    assert shown(Beacon(SMALL), (sight(at, domain=domain) for at in beats(60))) == []


def test_a_domain_new_to_a_known_office_that_nobody_else_uses_is_medium() -> None:
    watch = Beacon(SMALL)
    everyday(watch, days=9)
    later = [at + 9 * DAY for at in beats(1_800, 0.1, count=40)]
    found = shown(watch, (sight(at) for at in later))
    assert [one.confidence for one in found] == [Confidence.LOW, Confidence.MEDIUM]
    assert "it is new here" in found[-1].reason


@pytest.mark.parametrize("odd", ["the name does not exist", "the answer changes all the time", "a cache asks"])
def test_not_medium_when(odd: str) -> None:
    watch = Beacon(SMALL)
    everyday(watch, days=9)
    later = [at + 9 * DAY for at in beats(1_800, 0.1 if odd != "a cache asks" else 0.0, count=80)]
    found = shown(
        watch,
        (
            sight(
                at,
                rcode=3 if odd == "the name does not exist" else 0,
                address=number % 200 if odd == "the answer changes all the time" else 7,
                ttl=1_800 if odd == "a cache asks" else 1,
            )
            for number, at in enumerate(later)
        ),
    )
    assert [one.confidence for one in found] == [Confidence.LOW]


def test_a_domain_others_knew_long_before_stays_quiet() -> None:
    watch = Beacon(SMALL)
    known = [sight(START + day * DAY, client=9, domain="c2.example.net") for day in range(16)]
    assert shown(watch, [*known, *(sight(at + 15 * DAY) for at in beats(600))]) == []


def test_a_changed_sleep_is_found_again_and_said_once() -> None:
    slow = beats(60, 0.1, count=30)
    fast = [slow[-1] + at - START for at in beats(600, 0.1, count=30)]
    assert len(shown(Beacon(SMALL), (sight(at) for at in [*slow, *fast]))) == 1
    wild = people(60, count=40)
    after = [wild[-1] + at - START for at in beats(600, 0.1, count=30)]
    assert len(shown(Beacon(SMALL), (sight(at) for at in [*wild, *after]))) == 1


def test_a_monitor_of_many_domains_is_said_a_few_times_only() -> None:
    watch = Beacon(SMALL)
    sights = [sight(at + n, domain=f"customer{n}.com") for n in range(20) for at in beats(120)]
    assert len(shown(watch, sights)) == MOST_SAID
    assert watch.counters()["monitors_hushed"] > 0


def test_several_questions_of_one_contact_count_once() -> None:
    times = [at + more for at in beats(60, 0.1) for more in (0.0, 0.4, 1.5)]
    found = shown(Beacon(SMALL), (sight(at) for at in times))
    assert {one.name: one.value for one in found[0].evidence}["contacts"] <= 24


def test_caps_hold_and_what_is_dropped_is_counted() -> None:
    watch = Beacon(BeaconSettings(domains=100, pairs=100, counts=8))
    sights = [sight(START + n + round_ * 10_000, domain=f"d{n}.com") for round_ in range(4) for n in range(1_000)]
    shown(watch, sights)
    counters = watch.counters()
    assert counters["domains"] <= 100
    assert counters["pairs"] <= 100
    assert counters["counts"] == 256
    assert counters["domains_dropped"] >= 900
    assert counters["counts_displaced"] > 0


def test_the_pairs_cap_holds() -> None:
    watch = Beacon(BeaconSettings(pairs=100, counts=14))
    shown(watch, [sight(START + n + r * 5_000, domain=f"d{n}.com") for r in range(5) for n in range(500)])
    assert watch.counters()["pairs"] <= 100
    assert watch.counters()["pairs_dropped"] >= 300


@pytest.mark.parametrize("cut", [3, 10, 17])
def test_a_restart_forgets_nothing_that_matters(cut: int) -> None:
    times = beats(300, 0.1)
    first = Beacon(SMALL)
    before = shown(first, (sight(at) for at in times[:cut]))
    second = Beacon(SMALL)
    second.load(msgspec.msgpack.decode(msgspec.msgpack.encode(first.dump())))
    after = shown(second, (sight(at) for at in times[cut:]))
    assert len(before + after) == 1
    assert second.counters()["domains"] == first.counters()["domains"]


def test_a_state_of_another_version_is_left_out() -> None:
    watch = Beacon(SMALL)
    watch.load({"version": 99, "pairs": "what?"})
    assert watch.counters()["pairs"] == 0


@settings(max_examples=25, deadline=None)
@given(
    period=st.floats(10, DAY),
    jitter=st.floats(0, 0.2),
    seed=st.integers(0, 10_000),
)
def test_the_rhythm_of_any_beacon_is_its_period(period: float, jitter: float, seed: int) -> None:
    found = rhythm([int(at) for at in beats(period, jitter, seed=seed)])
    assert found is not None
    assert found.period == pytest.approx(period, rel=0.25)
    assert found.advantage > 2
    assert found.explained > 0.8


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2**31), max_size=80).map(sorted))
def test_any_times_have_a_rhythm_within_bounds_or_none(times: Sequence[int]) -> None:
    found = rhythm(times)
    begun = contacts(times)
    assert all(later - earlier >= 3 for earlier, later in itertools.pairwise(begun))
    if found is not None:
        assert found.period > 0
        assert 0 <= found.explained <= 1
        assert found.contacts <= 24


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 60)), max_size=150))
def test_any_order_of_sights_is_survived(steps: list[tuple[int, int, int]]) -> None:
    watch = Beacon(BeaconSettings(domains=100, pairs=100, counts=8, contacts=10))
    at = START
    for client, domain, wait in steps:
        at += wait
        assert watch.see(sight(at, client=client, domain=f"d{domain}.com")) == ()
        watch.tick(at)
    copy = Beacon(BeaconSettings(domains=100, pairs=100, counts=8, contacts=10))
    copy.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.dump())))
    assert copy.counters()["domains"] == watch.counters()["domains"]
    assert copy.counters()["pairs"] <= watch.counters()["pairs"]


def test_counts_come_back_and_bursts_are_one() -> None:
    counts, pair = Recurrence(8), (b"\x0a\x00\x00\x01", from_text("a.example"))
    assert counts.again(pair, 1_000, merge=3) == (1, 1_000)
    assert counts.again(pair, 1_002, merge=3) == (0, 1_000)
    assert counts.again(pair, 1_060, merge=3) == (2, 1_000)
    counts.forget(pair)
    assert counts.again(pair, 1_120, merge=3) == (1, 1_120)


def test_clients_who_left_make_a_domain_less_popular() -> None:
    known, domain = Acquaintances(100, share=0.03, least=3, learn=WEEK), from_text("a.com")
    for client in range(3):
        one = known.meet(domain, client_of(client), START)
    assert one.popular
    assert one.clients == 3
    known.tick(START + 3 * WEEK)
    assert not known.meet(domain, client_of(1), START + 3 * WEEK).popular


def test_the_limit_grows_with_the_office() -> None:
    known, domain = Acquaintances(1_000, share=0.03, least=3, learn=WEEK), from_text("a.com")
    for client in range(300):
        known.meet(from_text("everybody.com"), client_of(client), START)
    known.tick(START + 60)
    assert known.clients == pytest.approx(300, rel=0.05)
    for client in range(5):
        one = known.meet(domain, client_of(client), START + 61)
    assert not one.popular
    for client in range(40):
        one = known.meet(domain, client_of(client), START + 62)
    assert one.popular
