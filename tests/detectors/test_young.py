from __future__ import annotations

from collections.abc import Sequence

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import Name, from_text
from detectors.sight import Sight, domain_of
from detectors.young import DAY, MAX_SETTLED, Young, YoungSettings

START = 1_700_000_000.0
ANN, BOB = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
SETTINGS = YoungSettings(learn=7.0, keep=30.0, registered=30.0, domains=1_000)


def ask(
    watch: Young, name: str, at: float, client: bytes = ANN, rcode: int = 0, *, blocked: bool = False
) -> Sequence[Finding]:
    qname = from_text(name)
    sight = Sight(at=at, client=client, qname=qname, qtype=1, domain=domain_of(qname), rcode=rcode, blocked=blocked)
    return [*watch.see(sight), *watch.tick(at)]


def learned(registered: dict[Name, float] | None = None) -> tuple[Young, float]:
    watch = Young(SETTINGS, registered)
    assert not ask(watch, "www.known.com", START)
    return watch, START + 8 * DAY


def test_nothing_is_new_while_it_learns_and_what_it_learned_stays_known() -> None:
    watch = Young(SETTINGS)
    assert watch.learning(START)
    assert not any(ask(watch, f"www.site{at}.com", START + at * DAY) for at in range(7))
    assert watch.learning(START + 6.9 * DAY)
    assert not watch.learning(START + 7 * DAY)
    assert not any(ask(watch, f"other.site{at}.com", START + 8 * DAY, BOB) for at in range(7))
    assert watch.counters() == {"domains": 7, "new": 0, "dropped": 0}


def test_the_first_client_of_all_is_told_and_nobody_after() -> None:
    watch, now = learned()
    (finding,) = ask(watch, "a.fresh.com", now)
    assert (finding.client, finding.domain, finding.confidence) == ("10.0.0.1", "fresh.com", Confidence.LOW)
    assert "fresh.com" in finding.reason
    assert not ask(watch, "a.fresh.com", now + 1)
    assert not ask(watch, "b.fresh.com", now + 2, BOB)
    assert not ask(watch, "b.fresh.com", now + 2 * DAY, BOB)
    assert watch.counters()["new"] == 1


def test_a_name_that_does_not_exist_is_new_on_the_day_it_does() -> None:
    watch, now = learned()
    assert not ask(watch, "qkxjv.com", now, rcode=3)
    assert not ask(watch, "qkxjv.com", now, blocked=True)
    assert len(ask(watch, "qkxjv.com", now + DAY)) == 1


def test_local_names_suffixes_and_reverse_zones_are_never_new() -> None:
    watch, now = learned()
    for name in (
        "printer",
        "nas.local",
        "pc.lan",
        "co.uk",
        "com",
        "4.3.2.1.in-addr.arpa",
        "x.y.home.arpa",
        "abc.onion",
    ):
        assert not ask(watch, name, now), name
    assert watch.counters()["domains"] == 1
    assert len(ask(watch, "shop.co.uk", now)) == 1


def test_an_unused_domain_is_new_again_and_a_used_one_is_not() -> None:
    watch, now = learned()
    ask(watch, "used.com", now)
    ask(watch, "left.com", now)
    for day in range(1, 120):
        assert not ask(watch, "used.com", now + day * DAY)
    assert len(ask(watch, "left.com", now + 120 * DAY)) == 1


def test_how_long_it_is_known() -> None:
    watch, now = learned()
    assert watch.known_for(from_text("known.com"), now) is not None
    assert abs((watch.known_for(from_text("known.com"), now) or 0.0) - 8 * DAY) <= 3_600.0
    assert watch.known_for(from_text("never.com"), now) is None


def test_a_young_domain_is_told_once_a_day_and_client_until_it_is_older() -> None:
    registered: dict[Name, float] = {}
    watch, now = learned(registered)
    registered[from_text("babe.net")] = now - 2 * DAY
    registered[from_text("elder.net")] = now - 31 * DAY
    (first,) = ask(watch, "www.babe.net", now)
    assert "2 days ago" in first.reason
    assert "nobody here" in first.reason
    assert first.evidence[0].value < first.evidence[0].threshold
    assert not ask(watch, "www.babe.net", now + 60)
    (second,) = ask(watch, "www.babe.net", now + 60, BOB)
    assert second.score < first.score
    assert len(ask(watch, "www.babe.net", now + DAY)) == 1
    assert not ask(watch, "www.babe.net", now + 29 * DAY)
    (elder,) = ask(watch, "elder.net", now)
    assert "registered" not in elder.reason


def test_what_is_added_to_the_ages_shows_within_an_hour() -> None:
    registered: dict[Name, float] = {}
    watch, now = learned(registered)
    assert len(ask(watch, "late.net", now)) == 1
    registered[from_text("late.net")] = now
    watch.tick(now + 3_600)
    assert "registered" in ask(watch, "late.net", now + 3_601)[0].reason


def test_it_is_kept_over_a_restart() -> None:
    watch, now = learned()
    ask(watch, "fresh.com", now)
    packed = msgspec.msgpack.encode(watch.dump())
    again = Young(SETTINGS)
    again.load(msgspec.msgpack.decode(packed))
    assert not again.learning(now)
    assert not ask(again, "fresh.com", now + 1)
    assert not ask(again, "known.com", now + 1)
    assert len(ask(again, "newer.com", now + 1)) == 1
    assert again.known_for(from_text("known.com"), now) == watch.known_for(from_text("known.com"), now)
    other = Young(SETTINGS)
    other.load({"version": 0, "hashes": b"junk"})
    assert other.learning(now)


def test_off_is_off() -> None:
    watch = Young(YoungSettings(mode="off", learn=0.0))
    assert not ask(watch, "one.com", START)
    assert not ask(watch, "two.com", START + DAY)


@given(st.lists(st.integers(0, 5_000), min_size=1, max_size=300), st.integers(1, 3))
def test_each_domain_is_new_at_most_once_while_it_is_remembered(numbers: list[int], clients: int) -> None:
    watch = Young(YoungSettings(learn=0.0, domains=10_000))
    told: set[str] = set()
    for at, number in enumerate(numbers):
        for finding in ask(watch, f"n{number}.com", START + at, bytes((10, 0, 0, at % clients))):
            assert finding.domain not in told
            told.add(finding.domain)
    assert told == {f"n{number}.com" for number in numbers}


def test_the_caps_hold() -> None:
    watch = Young(SETTINGS)
    for number in range(5_000):
        ask(watch, f"n{number}.com", START)
    counters = watch.counters()
    assert counters["domains"] <= SETTINGS.domains
    assert counters["dropped"] == 5_000 - counters["domains"]
    assert len(watch._settled) <= MAX_SETTLED
