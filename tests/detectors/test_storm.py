from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from string import ascii_lowercase

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_text
from detectors.sight import Sight, domain_of
from detectors.storm import MAX_TOLD, RANDOM, Storm, StormSettings, randomness
from detectors.storm_shapes import looks_listed, network_of

START = 1_700_000_040.0  # a whole minute
ANN = b"\x0a\x00\x00\x01"
FRONTS = ("mail", "www", "dev", "test", "shop", "blog", "vpn", "intra", "cloud", "data")
BACKS = ("server", "portal", "admin", "backup", "login", "store", "stage", "panel", "media", "search", "host", "east")
WORDS = [front + back for front in FRONTS for back in BACKS]


def sight(name: str, at: float, client: bytes = ANN, rcode: int = 3, *, blocked: bool = False) -> Sight:
    qname = from_text(name)
    return Sight(at=at, client=client, qname=qname, qtype=1, domain=domain_of(qname), rcode=rcode, blocked=blocked)


def run(watch: Storm, sights: Iterable[Sight]) -> list[Finding]:
    found: list[Finding] = []
    for one in sights:
        found += watch.see(one)
        found += watch.tick(one.at)
    return found


def labels_at_random(count: int, *, seed: int = 1, alphabet: str = ascii_lowercase, length: int = 10) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(alphabet, k=length)) for _ in range(count)]


def spread(
    names: Sequence[str], *, clients: int = 1, rcode: int = 3, start: float = START, over: float = 50.0
) -> list[Sight]:
    step = over / len(names)
    return [
        sight(name, start + at * step, bytes((10, 0, at % clients // 250, at % clients % 250)), rcode)
        for at, name in enumerate(names)
    ]


@pytest.mark.parametrize("clients", [1, 5, 20])
@pytest.mark.parametrize("alphabet", [ascii_lowercase, "0123456789abcdef", "0123456789"])
@pytest.mark.parametrize("rcode", [2, 3])
def test_random_labels_below_a_domain_that_exists_are_water_torture(clients: int, alphabet: str, rcode: int) -> None:
    names = [f"{label}.www.victim.com" for label in labels_at_random(500, alphabet=alphabet)]
    found = run(
        Storm(StormSettings()), [sight("www.victim.com", START, rcode=0), *spread(names, clients=clients, rcode=rcode)]
    )
    assert {(one.domain, one.confidence) for one in found} == {("victim.com", Confidence.MEDIUM)}
    assert len(found) == min(clients, MAX_TOLD)
    assert len({one.client for one in found}) == len(found)
    assert "water torture" in found[0].reason
    assert {each.name: each.value >= each.threshold for each in found[0].evidence}["failing_names"]


def test_below_a_domain_nobody_saw_alive_it_is_less_sure() -> None:
    found = run(Storm(StormSettings()), spread([f"{label}.victim.com" for label in labels_at_random(300)]))
    assert [one.confidence for one in found] == [Confidence.LOW]


def test_words_are_an_enumeration() -> None:
    names = [f"{word}{tail}.victim.com" for word in WORDS for tail in ("", "-old")]
    (found,) = run(Storm(StormSettings()), [sight("victim.com", START, rcode=0), *spread(names)])
    assert "enumeration" in found.reason
    assert found.confidence is Confidence.LOW


def test_below_the_threshold_or_answered_or_slow_it_is_none() -> None:
    names = [f"{label}.victim.com" for label in labels_at_random(1_000)]
    assert not run(Storm(StormSettings()), spread(names[:199]))
    assert not run(Storm(StormSettings()), spread(names, rcode=0))
    assert not run(Storm(StormSettings()), spread(names, over=3_600.0))
    assert not run(Storm(StormSettings()), spread(names[:10] * 100))
    assert not run(Storm(StormSettings(mode="off")), spread(names))
    assert not run(Storm(StormSettings()), [sight(name, START, blocked=True) for name in names])
    answered = [sight("www.victim.com", START, rcode=0)] * 5_000
    assert not run(Storm(StormSettings()), [sight("a.victim.com", START), *answered, *spread(names[:400])])


def test_many_clients_with_a_few_each_are_browsers_looking_for_a_liar() -> None:
    names = [f"{label}.corp-net.com" for label in labels_at_random(900)]
    assert not run(Storm(StormSettings()), spread(names, clients=300))


def test_an_outage_is_no_flood() -> None:
    names = [f"{word}.big.com" for word in WORDS] + [f"{word}-1.big.com" for word in WORDS]
    assert not run(Storm(StormSettings()), spread(names, rcode=2))


def test_a_client_with_many_dead_domains_storms_once_an_hour() -> None:
    watch = Storm(StormSettings())
    names = [f"{label}.com" for label in labels_at_random(300)]
    (found,) = run(watch, spread(names))
    assert (found.domain, found.client) == (".", "10.0.0.0")
    assert "in 100 domains" in found.reason
    assert not run(watch, spread(names, start=START + 60))
    assert len(run(watch, spread(names, start=START + 3_660))) == 1


def test_a_client_that_mostly_gets_answers_does_not_storm() -> None:
    dead = spread([f"{label}.com" for label in labels_at_random(150)])
    alive = [sight("www.fine.com", one.at, one.client, rcode=0) for one in dead]
    mixed = [one for pair in zip(dead, alive, alive, strict=True) for one in pair]
    assert not run(Storm(StormSettings()), mixed)


@pytest.mark.parametrize(
    "shape",
    [
        "{0}.{1}.{2}.{3}.zen.spamhaus.org",
        "{h32}.list.example.org",
        "{h40}.ebl.msbl.org",
        "shop{0}x{1}x{2}.com.multi.surbl.org",
        "shop{0}x{1}x{2}.de.multi.surbl.org",
        "a{1}.b{2}x{3}.co.uk.dbl.example.org",
        "{nibbles}.v6.dnsbl.example.org",
    ],
)
def test_block_lists_never_fire(shape: str) -> None:
    rng = random.Random(7)
    names = []
    for _ in range(3_000):
        octets = [str(rng.randrange(256)) for _ in range(4)]
        hexed = f"{rng.getrandbits(160):040x}"
        names.append(shape.format(*octets, h32=hexed[:32], h40=hexed, nibbles=".".join(hexed[:32])))
    watch = Storm(StormSettings())
    assert not run(watch, [sight("spamhaus.org", START, rcode=0), *spread(names)])
    assert watch.counters()["listed"] == 3_000


def test_ordinary_names_do_not_look_listed() -> None:
    for text in (
        "abc.www.victim.com",
        "1.2.victim.com",
        "abc.us.victim.com",
        "300.1.2.3.victim.com",
        "abcdef.victim.com",
    ):
        name = from_text(text)
        assert not looks_listed(name, domain_of(name)), text


def test_a_mail_server_in_the_reverse_tree_gets_its_own_words_and_a_walk_others() -> None:
    rng = random.Random(3)
    visitors = [
        f"{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(256)}.{rng.randrange(1, 224)}.in-addr.arpa"
        for _ in range(600)
    ]
    (mail,) = run(Storm(StormSettings()), spread(visitors))
    assert "mail servers" in mail.reason
    walk = [f"{low}.{high}.16.172.in-addr.arpa" for high in range(3) for low in range(200)]
    (sweep,) = run(Storm(StormSettings()), spread(walk))
    assert "walks" in sweep.reason
    assert mail.score < sweep.score
    assert {mail.confidence, sweep.confidence} == {Confidence.LOW}
    assert not run(Storm(StormSettings()), spread(walk[:299]))
    assert not run(Storm(StormSettings()), spread(walk, rcode=0))


def test_the_network_of_an_address() -> None:
    assert network_of(from_text("4.3.2.1.in-addr.arpa")) == from_text("3.2.1.in-addr.arpa")
    assert network_of(from_text(".".join("0123456789abcdef0123456789abcdef") + ".ip6.arpa")) == from_text(
        ".".join("0123456789abcdef") + ".ip6.arpa"
    )
    assert network_of(from_text("1.in-addr.arpa")) == from_text("1.in-addr.arpa")


def test_it_is_kept_over_a_restart() -> None:
    watch = Storm(StormSettings())
    names = [f"{label}.victim.com" for label in labels_at_random(300)]
    assert len(run(watch, [sight("victim.com", START, rcode=0), *spread(names)])) == 1
    again = Storm(StormSettings())
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.dump())))
    assert not run(again, spread(names, start=START + 120))
    (found,) = run(again, spread(names, start=START + 7_200))
    assert found.confidence is Confidence.MEDIUM


def test_the_caps_hold() -> None:
    watch = Storm(StormSettings(clients=100, domains=100))
    rng = random.Random(5)
    for at in range(3_000):
        watch.see(sight(f"x{at}.d{at}.com", START, rng.randbytes(4)))
    counters = watch.counters()
    assert counters["clients"] == 100
    assert counters["domains"] == 100
    assert counters["dropped"] > 2_000
    watch.tick(START + 60)
    assert watch.counters()["clients"] == 0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32), st.integers(6, 16))
def test_random_labels_are_told_from_words(seed: int, length: int) -> None:
    rng = random.Random(seed)
    sample = "".join(labels_at_random(200, seed=seed, length=length))
    assert randomness({ord(char): sample.count(char) for char in set(sample)}) >= RANDOM
    words = "".join(rng.choices(WORDS, k=200))
    assert randomness({ord(char): words.count(char) for char in set(words)}) < RANDOM
    assert randomness({}) == 0.0
