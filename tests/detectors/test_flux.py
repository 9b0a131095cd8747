from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_text
from detectors.acquaintance import DAY
from detectors.flux import MAX_ADDRESSES, MAX_LOOKS, SHORTEST, Flux, FluxSettings, Looks
from detectors.sight import Sight, domain_of

START = 1_700_000_000.0


def look(
    at: float,
    addresses: list[bytes],
    *,
    client: int = 1,
    name: str = "www.flux.com",
    ttl: int = 300,
    cached: bool = False,
) -> Sight:
    qname = from_text(name)
    return Sight(
        at=at,
        client=bytes((10, 0, 0, client)),
        qname=qname,
        qtype=1,
        domain=domain_of(qname),
        rcode=0,
        ttl=ttl,
        addresses=tuple(addresses),
        cached=cached,
    )


def homes(number: int, *, seed: int = 1) -> list[bytes]:
    """Return addresses of as many networks."""
    chance = random.Random(seed)
    return [bytes((1 + at // 250, at % 250, chance.randrange(256), chance.randrange(1, 255))) for at in range(number)]


def botnet(
    *, begin: float = START, looks: int = 12, ttl: int = 300, cached: bool = False, every: float = 600
) -> list[Sight]:
    pool = homes(looks * 4)
    return [look(begin + n * every, pool[4 * n : 4 * n + 4], ttl=ttl, cached=cached) for n in range(looks)]


def shown(watch: Flux, sights: list[Sight]) -> list[Finding]:
    return [finding for sight in sights for finding in (*watch.see(sight), *watch.tick(sight.at))]


def test_ever_new_networks_are_flux_and_it_is_said_once() -> None:
    found = shown(Flux(FluxSettings()), botnet())
    assert [(one.client, one.domain, one.confidence) for one in found] == [("10.0.0.1", "flux.com", Confidence.LOW)]
    assert "www.flux.com was answered with 20 addresses of 20 networks in 5 looks" in found[0].reason


def test_a_domain_new_to_a_known_office_is_medium() -> None:
    watch = Flux(FluxSettings())
    shown(watch, [look(START + day * DAY, homes(1), name="old.example.org", client=9) for day in range(9)])
    found = shown(watch, botnet(begin=START + 9 * DAY))
    assert [one.confidence for one in found] == [Confidence.MEDIUM]
    assert found[0].reason.endswith("the domain is new here")


def test_one_look_with_many_networks_proves_nothing() -> None:
    assert shown(Flux(FluxSettings()), [look(START, homes(60))]) == []


def test_many_answers_within_one_ttl_are_one_look() -> None:
    pool = homes(80)
    sights = [look(START + n, pool[4 * n : 4 * n + 4], ttl=300) for n in range(20)]
    assert shown(Flux(FluxSettings(span=0.0)), sights) == []


@pytest.mark.parametrize("why", ["a high TTL", "out of the cache"])
def test_no_flux_without_fresh_answers_of_a_low_ttl(why: str) -> None:
    sights = botnet(ttl=3_600 if why == "a high TTL" else 300, cached=why == "out of the cache")
    watch = Flux(FluxSettings())
    assert shown(watch, sights) == []
    assert watch.counters()["names"] == 0


def test_a_short_span_is_no_flux() -> None:
    assert shown(Flux(FluxSettings()), botnet(looks=8, ttl=30, every=60)) == []


def test_a_network_of_caches_has_many_addresses_of_few_networks() -> None:
    chance = random.Random(4)
    networks = homes(12)
    sights = [
        look(START + n * 600, [networks[chance.randrange(12)][:2] + bytes((n % 250, at)) for at in range(4)])
        for n in range(100)
    ]
    assert shown(Flux(FluxSettings()), sights) == []


def test_a_fleet_that_is_shown_in_turn_does_not_grow() -> None:
    fleet = homes(16)
    first = [look(START + n * 300, fleet[4 * n : 4 * n + 4], ttl=20) for n in range(4)]
    later = [look(START + 3_600 + n * 600, fleet[:4]) for n in range(40)]
    assert shown(Flux(FluxSettings()), [*first, *later]) == []


def test_a_new_network_now_and_then_is_no_flux() -> None:
    pool = homes(30)
    sights = [look(START + n * 600, [pool[n // 2]]) for n in range(60)]
    assert shown(Flux(FluxSettings()), sights) == []


def test_a_pool_that_many_clients_use_stays_quiet() -> None:
    pool = homes(400)
    sights = [look(START + n * 300, pool[4 * n : 4 * n + 4], client=1 + n % 9) for n in range(60)]
    assert shown(Flux(FluxSettings()), sights) == []


def test_a_domain_known_for_long_stays_quiet() -> None:
    known = [look(START + day * DAY, homes(1)) for day in range(20)]
    assert shown(Flux(FluxSettings()), [*known, *botnet(begin=START + 20 * DAY)]) == []


def test_ipv6_counts_by_the_first_32_bits() -> None:
    def at(number: int, host: int) -> bytes:
        return b"\x20\x01" + number.to_bytes(2, "big") + host.to_bytes(12, "big")

    near = [look(START + n * 600, [at(1, 4 * n + m) for m in range(4)]) for n in range(12)]
    far = [look(START + n * 600, [at(4 * n + m, 1) for m in range(4)]) for n in range(12)]
    assert shown(Flux(FluxSettings()), near) == []
    assert len(shown(Flux(FluxSettings()), far)) == 1


def test_caps_hold_and_what_is_dropped_is_counted() -> None:
    watch = Flux(FluxSettings(names=100))
    shown(watch, [look(START + n, homes(2), name=f"www.d{n}.com") for n in range(500)])
    assert watch.counters()["names"] <= 100
    assert watch.counters()["domains"] <= 100
    assert watch.counters()["names_dropped"] >= 400


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 900), st.integers(1, 12)), max_size=120))
def test_the_looks_of_a_name_are_bounded(steps: list[tuple[int, int]]) -> None:
    looks, at, pool, taken = Looks(0), 0, homes(2_000), 0
    for wait, number in steps:
        at += wait
        before = looks.until
        another = looks.add(at, 60, pool[taken : taken + number])
        taken += number
        assert another == (at >= before)
        assert looks.until - looks.last >= SHORTEST
    assert len(looks.addresses) <= MAX_ADDRESSES
    assert looks.count <= MAX_LOOKS
    assert 0 <= looks.growth <= 1
    assert 0 <= looks.scatter <= 1


@pytest.mark.parametrize("cut", [1, 3, 4])
def test_a_restart_forgets_nothing(cut: int) -> None:
    sights = botnet()
    first = Flux(FluxSettings())
    assert shown(first, sights[:cut]) == []
    second = Flux(FluxSettings())
    second.load(msgspec.msgpack.decode(msgspec.msgpack.encode(first.dump())))
    assert second.counters()["names"] == first.counters()["names"] == 1
    assert second.counters()["domains"] == first.counters()["domains"] == 1
    assert len(shown(second, sights[cut:])) == 1
    third = Flux(FluxSettings())
    third.load(msgspec.msgpack.decode(msgspec.msgpack.encode(second.dump())))
    assert shown(third, botnet(begin=START + 12 * 600)) == []


def test_a_state_of_another_version_is_left_out() -> None:
    watch = Flux(FluxSettings())
    watch.load({"version": 99})
    assert watch.counters()["names"] == 0
