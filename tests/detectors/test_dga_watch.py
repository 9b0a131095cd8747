from __future__ import annotations

from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import Name, from_text
from detectors.dga import ALONE, BUDGET, KEEP, MAX_RESOLVED, PAUSE, SCAN, DgaSettings, DgaWatch
from detectors.dga_groups import GroupModel, load_groups
from detectors.dga_score import DgaModel, load_model
from detectors.sight import Sight, domain_of

CLIENT = b"\x0a\x00\x00\x07"
OTHERS = [bytes((10, 0, 1, at)) for at in range(5)]


@pytest.fixture(scope="module")
def model() -> DgaModel:
    return load_model()


@pytest.fixture(scope="module")
def groups() -> GroupModel:
    return load_groups()


@pytest.fixture
def watch(model: DgaModel, groups: GroupModel) -> DgaWatch:
    return DgaWatch(DgaSettings(), score=model.score, groups=groups, level=model.confidence)


def sight(
    name: str, at: float, *, rcode: int = 3, client: bytes = CLIENT, qtype: int = 1, blocked: bool = False
) -> Sight:
    wire: Name = from_text(name)
    return Sight(
        at=at,
        client=client,
        qname=wire,
        qtype=qtype,
        domain=domain_of(wire),
        rcode=rcode,
        addresses=(b"\xc6\x33\x64\x01",) if rcode == 0 else (),
        blocked=blocked,
    )


def fail(watch: DgaWatch, names: list[str], *, start: float = 0.0, client: bytes = CLIENT) -> list[Finding]:
    return [found for at, name in enumerate(names) for found in watch.see(sight(name, start + at, client=client))]


def random_names(count: int, seed: int = 1, size: int = 14, suffix: str = "com") -> list[str]:
    random = Random(seed)
    return ["".join(random.choices("abcdefghijklmnopqrstuvwxyz", k=size)) + "." + suffix for _ in range(count)]


TYPOS = [
    "gogle.com", "yotube.com", "amazn.com", "wikpedia.org", "netflx.com", "twiter.com", "linkdin.com", "paypa.com",
    "microsft.com", "instagrm.com", "redit.com", "spotfy.com", "whatsap.com", "github.cm", "stackoverflw.com",
    "weathr.com", "bookng.com", "airbn.com", "dropbx.com", "adobee.com",
]  # fmt: skip


def test_a_burst_of_generated_names_is_found_with_its_reason(watch: DgaWatch) -> None:
    found = fail(watch, random_names(10))
    assert found
    assert max(one.confidence for one in found) is Confidence.HIGH
    assert {one.client for one in found} == {"10.0.0.7"}
    assert "one generator" in found[-1].reason
    assert found[-1].evidence[1].value >= found[-1].evidence[1].threshold


def test_slips_of_the_fingers_are_no_burst(watch: DgaWatch) -> None:
    assert fail(watch, TYPOS) == []
    assert watch.counters()["judged"] >= 4


def test_four_names_are_never_a_group(watch: DgaWatch) -> None:
    assert fail(watch, random_names(4)) == []


def test_the_same_name_again_counts_once(watch: DgaWatch) -> None:
    assert fail(watch, random_names(4) * 20) == []


def test_the_name_that_resolves_after_the_burst_is_named(watch: DgaWatch) -> None:
    names = random_names(21)
    fail(watch, names[:20])
    found = watch.see(sight(names[20], 30.0, rcode=0))
    assert [one.domain for one in found] == [names[20]]
    assert "C2" in found[0].reason
    assert found[0].confidence is Confidence.MEDIUM


def test_the_name_that_resolved_before_the_group_was_full_is_named(watch: DgaWatch) -> None:
    names = random_names(21)
    fail(watch, names[:4])
    watch.see(sight(names[20], 4.5, rcode=0))
    found = fail(watch, names[4:20], start=5.0)
    assert names[20] in {one.domain for one in found if "C2" in one.reason}


def test_an_ordinary_name_amid_a_burst_is_not_named(watch: DgaWatch) -> None:
    fail(watch, random_names(20))
    assert not watch.see(sight("www.wikipedia.org", 30.0, rcode=0))
    assert not watch.see(sight("news.example.com", 31.0, rcode=0))


def test_a_name_that_several_clients_use_is_no_c2(watch: DgaWatch) -> None:
    names = random_names(21)
    for client in OTHERS:
        watch.see(sight(names[20], 0.0, rcode=0, client=client))
    fail(watch, names[:20], start=1.0)
    assert not [one for one in watch.see(sight(names[20], 30.0, rcode=0)) if "C2" in one.reason]


@pytest.mark.parametrize(
    "names",
    [
        [f"{name.split('.')[0]}.lan" for name in random_names(20)],
        [name.split(".")[0] for name in random_names(20)],
        [f"{name.split('.')[0]}.corp.example.com" for name in random_names(20)],
        [f"{at}.0.0.10.in-addr.arpa" for at in range(20)],
        [f"_ldap._tcp.{name}" for name in random_names(20)],
        [f"a.b.{name}" for name in random_names(20)],
        [f"{name.split('.')[0]}.cloudfront.net" for name in random_names(20)],
    ],
    ids=["local suffix", "single label", "one domain", "reverse tree", "service", "deep", "dealt out"],
)
def test_the_gate_keeps_out_what_no_generator_registers(watch: DgaWatch, names: list[str]) -> None:
    assert fail(watch, names) == []


def test_other_types_and_blocked_names_do_not_count(watch: DgaWatch) -> None:
    for at, name in enumerate(random_names(20)):
        assert not watch.see(sight(name, float(at), qtype=16))
        assert not watch.see(sight(name, float(at), blocked=True))


def test_a_domain_that_resolved_is_no_failed_one(watch: DgaWatch) -> None:
    names = random_names(10)
    for at, name in enumerate(names):
        watch.see(sight(name, float(at), rcode=0, client=OTHERS[0]))
    assert fail(watch, [f"www.{name}" for name in names], start=20.0) == []


def test_names_below_a_dynamic_dns_domain_are_names_of_their_own(watch: DgaWatch) -> None:
    found = fail(watch, [f"{name.split('.')[0]}.yi.org" for name in random_names(20)])
    assert found


def test_an_operator_adds_dynamic_dns_domains(model: DgaModel, groups: GroupModel) -> None:
    names = [f"{name.split('.')[0]}.dyn.example.com" for name in random_names(20)]
    plain = DgaWatch(DgaSettings(), score=model.score, groups=groups)
    told = DgaWatch(DgaSettings(dynamic=("dyn.example.com",)), score=lambda _: 6.0, groups=groups)
    assert fail(plain, names) == []
    assert fail(told, names)


def test_names_older_than_the_window_do_not_count(model: DgaModel, groups: GroupModel) -> None:
    short = DgaWatch(DgaSettings(window=60.0), score=model.score, groups=groups)
    names = random_names(20)
    assert [found for at, name in enumerate(names) for found in short.see(sight(name, at * 70.0))] == []


def test_look_alikes_of_one_name_are_a_scan_and_no_dga(watch: DgaWatch) -> None:
    base = "examplebank"
    watch.see(sight(f"www.{base}.com", 0.0, rcode=0, client=OTHERS[0]))
    names = [f"{base[:at]}{base[at + 1 :]}.com" for at in range(10)]
    names += [f"{base[:at]}q{base[at + 1 :]}.com" for at in range(10)]
    found = fail(watch, names, start=1.0)
    assert {one.detector for one in found} == {SCAN}
    assert {one.domain for one in found} == {f"{base}.com"}
    assert {one.confidence for one in found} == {Confidence.LOW}
    assert "look-alike scan" in found[0].reason


def test_a_single_name_is_worth_no_more_than_it_was_calibrated_to(groups: GroupModel) -> None:
    always = DgaWatch(DgaSettings(), score=lambda _: 9.0, groups=groups, level=lambda _: Confidence.HIGH)
    found = always.see(sight("anything.com", 0.0, rcode=0))
    assert [one.confidence for one in found] == [Confidence.LOW]
    never = DgaWatch(DgaSettings(), score=lambda _: 9.0, groups=groups, level=lambda _: None)
    assert not never.see(sight("anything.com", 0.0, rcode=0))
    faint = DgaWatch(DgaSettings(), score=lambda _: 9.0, groups=groups, level=lambda _: Confidence.LOW)
    assert not faint.see(sight("anything.com", 0.0, rcode=0))
    quiet = DgaWatch(DgaSettings(single=False), score=lambda _: 9.0, groups=groups, level=lambda _: Confidence.HIGH)
    assert not quiet.see(sight("anything.com", 0.0, rcode=0))


def test_nothing_is_said_when_it_is_off(model: DgaModel, groups: GroupModel) -> None:
    off = DgaWatch(DgaSettings(mode="off"), score=model.score, groups=groups)
    assert fail(off, random_names(40)) == []


def test_a_burst_is_told_once_an_hour(watch: DgaWatch) -> None:
    first = [one for one in fail(watch, random_names(40)) if "one generator" in one.reason]
    assert 1 <= len(first) <= 2  # MEDIUM may come first


UNSURE = DgaSettings(stricter=20.0)  # nothing is a group


class Counted:
    """A scorer that knows how often it was asked."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.asked = 0

    def __call__(self, name: Name) -> float:
        self.asked += 1
        return self.value


def test_each_failed_name_is_scored_once_however_many_groups_it_is_in(groups: GroupModel) -> None:
    score = Counted(-4.0)
    watch = DgaWatch(UNSURE, score=score, groups=groups)
    fail(watch, random_names(40))
    assert score.asked == 40
    assert watch.counters()["judged"] == 8 + 4 + 2 + 1


def test_a_storm_of_one_client_is_looked_at_now_and_then(groups: GroupModel) -> None:
    score = Counted(-4.0)
    watch = DgaWatch(UNSURE, score=score, groups=groups)
    for at, name in enumerate(random_names(10_000)):
        watch.see(sight(name, at / 1_000))
    assert 40 <= score.asked <= 80  # the first 40, and those of one more look at most
    assert watch.counters()["put_off"] >= 1_900


def test_a_storm_of_many_clients_shares_a_budget_of_names_a_second(groups: GroupModel) -> None:
    score = Counted(-4.0)
    watch = DgaWatch(DgaSettings(), score=score, groups=groups)
    for at, name in enumerate(random_names(20_000)):
        watch.see(sight(name, at / 20_000, client=at.to_bytes(4, "big")[:2] + bytes((0, at % 250))))
    assert BUDGET // 10 <= score.asked <= BUDGET + KEEP
    assert watch.counters()["put_off"] > 0


def test_sizes_that_were_due_in_a_pause_are_judged_after_it(groups: GroupModel, model: DgaModel) -> None:
    watch = DgaWatch(UNSURE, score=model.score, groups=groups)
    names = random_names(85)
    fail(watch, names[:40])
    judged = watch.counters()["judged"]
    for at, name in enumerate(names[40:80]):  # within PAUSE of the 40th
        watch.see(sight(name, 39.5 + at / 100))
    assert watch.counters()["judged"] == judged
    assert watch.counters()["put_off"] == 8
    fail(watch, names[80:], start=39.0 + PAUSE)
    assert watch.counters()["judged"] == judged + 4


def test_a_client_found_once_is_found_again_when_its_names_change(watch: DgaWatch) -> None:
    names = random_names(30) + random_names(20, seed=2, suffix="ru")
    for at, name in enumerate(names):
        watch.see(sight(name, at / 100))
    later = random_names(21, seed=5, suffix="ru")
    fail(watch, later[:20], start=60.0)
    assert [one.domain for one in watch.see(sight(later[20], 100.0, rcode=0))] == [later[20]]


def test_a_name_below_the_sieve_is_not_scored(groups: GroupModel) -> None:
    score = Counted(9.0)
    quiet = DgaWatch(
        DgaSettings(), score=score, groups=groups, level=lambda _: Confidence.HIGH, telling=lambda *_: None
    )
    assert not quiet.see(sight("anything.com", 0.0, rcode=0))
    assert score.asked == 0


def test_new_names_are_scored_alone_up_to_a_budget_a_second(groups: GroupModel) -> None:
    score = Counted(-4.0)
    watch = DgaWatch(DgaSettings(), score=score, groups=groups, level=lambda _: None)
    for at in range(2 * ALONE):
        watch.see(sight(f"new{at}.com", at / (4 * ALONE), rcode=0))
    assert score.asked == ALONE
    assert watch.counters()["unscored"] == ALONE
    watch.see(sight("newer.com", 1.5, rcode=0))
    assert score.asked == ALONE + 1


def test_stricter_thresholds_find_less(model: DgaModel, groups: GroupModel) -> None:
    strict = DgaWatch(DgaSettings(stricter=20.0), score=model.score, groups=groups)
    assert fail(strict, random_names(40)) == []


def test_state_survives_a_restart(watch: DgaWatch, model: DgaModel, groups: GroupModel) -> None:
    names = random_names(25)
    assert fail(watch, names[:4]) == []
    again = DgaWatch(DgaSettings(), score=model.score, groups=groups)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.dump())))
    assert again.counters()["clients"] == 1
    assert fail(again, names[4:5], start=9.0)  # the fifth name is what was missing
    later = DgaWatch(DgaSettings(), score=model.score, groups=groups)
    later.load(msgspec.msgpack.decode(msgspec.msgpack.encode(again.dump())))
    assert later.see(sight(names[20], 30.0, rcode=0))  # the burst goes on


def test_clients_and_names_stay_below_their_caps(groups: GroupModel) -> None:
    small = DgaWatch(DgaSettings(clients=100, names=1_000), score=lambda _: -4.0, groups=groups)
    for at in range(300):
        small.see(sight(f"n{at}word.com", float(at), client=at.to_bytes(4, "big")))
    for at in range(3_000):
        small.see(sight(f"there{at}.com", 400.0, rcode=0))
    counted = small.counters()
    assert counted["clients"] <= 100
    assert counted["names"] <= 1_000
    assert counted["dropped"] >= 2_200


def test_what_resolves_for_one_client_stays_below_its_cap(groups: GroupModel) -> None:
    small = DgaWatch(DgaSettings(), score=lambda _: -4.0, groups=groups)
    fail(small, TYPOS[:4])
    for at in range(200):
        small.see(sight(f"there{at}.com", 5.0, rcode=0))
    held = small.dump()["clients"][0][3]
    assert len(held) == MAX_RESOLVED


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.binary(min_size=1, max_size=12), st.sampled_from((0, 2, 3, -1)), st.floats(0, 1e5)), max_size=40
    )
)
def test_any_octets_in_names_are_taken(sights: list[tuple[bytes, int, float]]) -> None:
    watch = DgaWatch(DgaSettings(), score=lambda _: 3.0, groups=_GROUPS)
    for label, rcode, at in sorted(sights, key=lambda one: one[2]):
        name = bytes((len(label),)) + label.lower() + b"\x03com\x00"
        seen = Sight(at=at, client=CLIENT, qname=name, qtype=1, domain=name, rcode=rcode, addresses=(b"\1\2\3\4",))
        for found in watch.see(seen):
            assert 0.0 <= found.score <= 1.0
    msgspec.msgpack.encode(watch.dump())


_GROUPS = load_groups()
