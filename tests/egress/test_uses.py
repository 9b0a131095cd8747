"""Own passive DNS: which names vouch for an address, for whom and how long, and that floods push nothing out."""

from __future__ import annotations

import ipaddress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.names import from_text
from egress import uses as using
from egress.plan import Destination
from egress.reserved import Carriers
from egress.uses import DAY, OTHERS, Remembered, Uses, UseSettings

NOW = 1_800_000_000.0
BANK = bytes((93, 184, 216, 34))
ALICE, BOB, CAROL = (bytes((10, 0, 0, number)) for number in (11, 12, 13))
NAME = from_text("www.bank.example")


def test_two_clients_make_a_name_count() -> None:
    uses = Uses()
    uses.see(BANK, NAME, ALICE, now=NOW)
    assert uses.used(BANK, now=NOW) is None
    uses.see(BANK, NAME, ALICE, now=NOW + 1)
    assert uses.used(BANK, now=NOW + 1) is None
    uses.see(BANK, NAME, BOB, now=NOW + 2)
    assert uses.used(BANK, now=NOW + 2) == NAME
    assert uses.used(bytes(4), now=NOW + 2) is None


def test_one_client_a_day_apart_makes_a_name_count() -> None:
    uses = Uses()
    uses.see(BANK, NAME, ALICE, now=NOW)
    uses.see(BANK, NAME, ALICE, now=NOW + DAY - 1)
    assert uses.used(BANK, now=NOW + DAY) is None
    uses.see(BANK, NAME, ALICE, now=NOW + DAY)
    assert uses.used(BANK, now=NOW + DAY) == NAME


def test_a_trusted_name_counts_at_once_with_all_below_it() -> None:
    uses = Uses(UseSettings(trusted=frozenset({from_text("bank.example")})))
    uses.see(BANK, NAME, ALICE, now=NOW)
    assert uses.used(BANK, now=NOW) == NAME
    uses.condemn(from_text("bank.example"), now=NOW)
    assert uses.used(BANK, now=NOW) == NAME
    assert not uses.trusts(from_text("notbank.example"))


def test_uses_are_forgotten_after_a_week() -> None:
    uses = Uses()
    for client in (ALICE, BOB):
        uses.see(BANK, NAME, client, now=NOW)
    assert uses.used(BANK, now=NOW + 7 * DAY) == NAME
    assert uses.used(BANK, now=NOW + 7 * DAY + 1) is None
    assert uses.used_by(BANK, ALICE, now=NOW + 7 * DAY + 1) is None
    uses.see(BANK, NAME, CAROL, now=NOW + 8 * DAY)
    assert uses.used(BANK, now=NOW + 8 * DAY) is None  # the two of last week do not count again
    uses.see(bytes(4), NAME, CAROL, now=NOW + 16 * DAY)
    assert len(uses) == 1  # and no memory is spent on what is forgotten


def test_what_one_client_uses_vouches_for_that_client() -> None:
    uses = Uses()
    uses.see(BANK, NAME, ALICE, now=NOW)
    assert uses.used_by(BANK, ALICE, now=NOW) == NAME
    assert uses.used_by(BANK, BOB, now=NOW) is None


def test_a_condemned_name_does_not_vouch_nor_one_below_it() -> None:
    uses = Uses()
    for name in ("bank.example", "www.bank.example"):
        for client in (ALICE, BOB):
            uses.see(BANK, from_text(name), client, now=NOW)
    uses.condemn(from_text("bank.example"), now=NOW, below=False)
    assert uses.used(BANK, now=NOW) == NAME
    uses.condemn(from_text("bank.example"), now=NOW)
    assert uses.used(BANK, now=NOW) is None
    assert uses.used_by(BANK, ALICE, now=NOW) is None
    uses.pardon(from_text("bank.example"))
    assert uses.used(BANK, now=NOW) == from_text("bank.example")
    uses.condemn(NAME, now=NOW - 6 * DAY)
    assert uses.condemned(NAME, now=NOW)
    assert not uses.condemned(NAME, now=NOW + 2 * DAY)


@pytest.mark.parametrize("suffix", ["example", "co.uk", "com", "github.io", "."])
def test_no_public_suffix_is_condemned(suffix: str) -> None:
    uses = Uses()
    uses.condemn(from_text(suffix), now=NOW)
    assert not uses.condemned(from_text("x." + suffix.removeprefix(".")), now=NOW)


def test_single_uses_after_the_block_say_nothing_until_it_has_lapsed() -> None:
    uses = Uses()
    uses.mark(Destination(BANK), now=NOW)
    uses.see(BANK, NAME, ALICE, now=NOW + 1)
    assert uses.used_by(BANK, ALICE, now=NOW + 2) is None
    uses.mark(Destination(BANK), now=NOW + 3)  # a refresh moves nothing
    assert uses.used_by(BANK, ALICE, now=NOW + 4) is None
    assert uses.marked(BANK, now=NOW + 4)
    assert not uses.marked(BANK, now=NOW + 4 + DAY)
    assert uses.used_by(BANK, ALICE, now=NOW + 4 + DAY) == NAME
    uses.mark(Destination(BANK), now=NOW + 4 + DAY)  # a new block, younger than the use
    assert uses.used_by(BANK, ALICE, now=NOW + 4 + DAY) == NAME


def test_a_pairs_mark_concerns_that_client_only() -> None:
    uses = Uses()
    uses.mark(Destination(BANK, ALICE), now=NOW)
    for client in (ALICE, BOB):
        uses.see(BANK, from_text(f"{client[3]}.example"), client, now=NOW + 1)
    assert uses.used_by(BANK, ALICE, now=NOW + 2) is None
    assert uses.used_by(BANK, BOB, now=NOW + 2) is not None
    assert not uses.marked(BANK, now=NOW + 2)


def test_mapped_and_carried_addresses_are_the_same_place() -> None:
    uses = Uses(carriers=Carriers(["2a02:64::/64"]))
    for client in (ALICE, bytes(10) + b"\xff\xff" + BOB):
        uses.see(ipaddress.ip_address("2a02:64::5d:b8d8:2200:0").packed, NAME, client, now=NOW)
    assert uses.used(BANK, now=NOW) == NAME
    assert uses.used_by(BANK, BOB, now=NOW) == NAME
    with pytest.raises(ValueError, match="octets"):
        uses.see(b"abc", NAME, ALICE, now=NOW)


@pytest.mark.parametrize(
    ("prefix", "address"),  # RFC 6052 section 2.4: 192.0.2.33 behind each length
    [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_an_address_is_found_behind_every_length_of_prefix(prefix: str, address: str) -> None:
    assert bytes((192, 0, 2, 33)) in Carriers([prefix]).faces(ipaddress.ip_address(address).packed)


@pytest.mark.parametrize("prefix", ["2001:db8::/33", "10.0.0.0/8", "2001:db8::1/96", "x"])
def test_what_is_no_prefix_of_nat64_is_refused(prefix: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        Carriers([prefix])


def test_the_first_names_of_an_address_stay_and_the_rest_are_one() -> None:
    uses = Uses()
    uses.see(BANK, NAME, ALICE, now=NOW)
    for number in range(1_000):
        uses.see(BANK, from_text(f"n{number}.evil.example"), BOB, now=NOW)
    assert len(uses) == using.MAX_NAMES + 1
    uses.see(BANK, NAME, CAROL, now=NOW)  # a name that is known goes on being told apart
    uses.condemn(from_text("evil.example"), now=NOW)
    assert uses.used_by(BANK, ALICE, now=NOW) == NAME
    assert uses.used(BANK, now=NOW) == NAME
    assert uses.used_by(BANK, BOB, now=NOW) == OTHERS
    later = NOW + 8 * DAY
    uses.see(BANK, from_text("new.example"), CAROL, now=later)
    assert uses.used_by(BANK, CAROL, now=later) == from_text("new.example")
    assert len(uses) == 1


def test_a_crowd_of_clients_is_told_from_others_mostly() -> None:
    uses = Uses()
    crowd = [bytes((10, 1, high, low)) for high in range(4) for low in range(100)]
    for client in crowd:
        uses.see(BANK, NAME, client, now=NOW)
    others = [bytes((10, 2, high, low)) for high in range(4) for low in range(250)]
    other = Uses()
    other.load(uses.dump(), now=NOW)
    for each in (uses, other):
        assert all(each.used_by(BANK, client, now=NOW) == NAME for client in crowd)
        taken = sum(each.used_by(BANK, client, now=NOW) is not None for client in others)
        assert taken < 0.3 * len(others)


def test_a_flood_of_answers_pushes_out_no_name_that_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(using, "MAX_USES", 50)
    uses = Uses()
    for client in (ALICE, BOB):
        uses.see(BANK, NAME, client, now=NOW)
    uses.see(BANK, from_text("other.example"), ALICE, now=NOW)
    again = Uses()
    again.load(uses.dump(), now=NOW)
    for each in (uses, again):
        for number in range(500):
            each.see(number.to_bytes(4, "big"), from_text(f"n{number}.example"), CAROL, now=NOW)
        assert each.used(BANK, now=NOW) == NAME
        assert len(each) == 52
        assert each.evicted == 450


def test_all_tables_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for cap in ("MAX_CONDEMNED", "MAX_MARKS", "MAX_A_DAY"):
        monkeypatch.setattr(using, cap, 10)
    uses = Uses()
    for number in (*range(25), 15, 25, 26, 27, 28, 29):  # 15 is condemned anew, and so not among the oldest
        uses.condemn(from_text(f"n{number}.example"), now=NOW)
        uses.mark(Destination(number.to_bytes(4, "big")), now=NOW)
        uses.touch(number.to_bytes(4, "big"), now=NOW)
    kept = uses.dump()
    assert [len(kept.condemned), len(kept.marks), len(kept.today)] == [10, 10, 10]
    assert uses.condemned(from_text("n15.example"), now=NOW)
    assert uses.condemned(from_text("n29.example"), now=NOW)
    assert not uses.condemned(from_text("n20.example"), now=NOW)


def test_yesterday_is_the_day_before() -> None:
    uses = Uses()
    midnight = NOW - NOW % DAY
    uses.see(BANK, NAME, ALICE, now=midnight + 5)
    uses.touch(bytes(10) + b"\xff\xff" + ALICE, now=midnight + DAY - 1)
    assert uses.yesterday(midnight + DAY - 1) == frozenset()
    assert uses.yesterday(midnight + DAY) == {BANK, ALICE}
    assert uses.yesterday(midnight + DAY - 5) == {BANK, ALICE}  # a clock set back begins no day
    assert uses.yesterday(midnight + 2 * DAY) == frozenset()
    uses.touch(BANK, now=midnight + 2 * DAY)
    assert uses.yesterday(midnight + 4 * DAY) == frozenset()  # that was the day before yesterday


steps = st.lists(
    st.tuples(
        st.sampled_from(["see", "condemn", "mark", "pardon"]),
        st.integers(0, 5),
        st.sampled_from([NAME, from_text("a.example"), from_text("b.a.example"), from_text("c.test")]),
        st.sampled_from([ALICE, BOB, CAROL]),
        st.sampled_from([0.0, 1.0, DAY / 2, DAY, 3 * DAY]),
    ),
    max_size=40,
)


@given(steps)
def test_what_is_taken_up_again_answers_as_before(taken: list[tuple[str, int, bytes, bytes, float]]) -> None:
    uses, now = Uses(), NOW
    for what, number, name, client, seconds in taken:
        now += seconds
        match what:
            case "see":
                uses.see(bytes((91, 66, 0, number)), name, client, now=now)
            case "condemn":
                uses.condemn(name, now=now)
            case "mark":
                uses.mark(Destination(bytes((91, 66, 0, number))), now=now)
            case _:
                uses.pardon(name)
    other = Uses()
    octets = msgspec.msgpack.encode(uses.dump())
    other.load(msgspec.msgpack.decode(octets, type=Remembered), now=now)
    assert other.yesterday(now) == uses.yesterday(now)
    for number in range(6):
        address = bytes((91, 66, 0, number))
        assert other.used(address, now=now) == uses.used(address, now=now)
        for client in (ALICE, BOB, CAROL):
            assert other.used_by(address, client, now=now) == uses.used_by(address, client, now=now)
    again = Uses()
    again.load(other.dump(), now=now)
    assert again.dump() == other.dump()


@given(steps)
def test_a_name_vouches_as_a_plain_list_of_uses_would_say(taken: list[tuple[str, int, bytes, bytes, float]]) -> None:
    uses, now = Uses(), NOW
    seen: list[tuple[int, bytes, bytes, float]] = []
    for what, number, name, client, seconds in taken:
        now += seconds / 4  # all within a week of the first, mostly
        if what == "see":
            uses.see(bytes((91, 66, 0, number)), name, client, now=now)
            seen.append((number, name, client, now))
    if now > NOW + 7 * DAY:
        return
    for number in range(6):
        good = set()
        for name in {each[1] for each in seen if each[0] == number}:
            mine = [each for each in seen if each[:2] == (number, name)]
            if len({each[2] for each in mine}) >= 2 or mine[-1][3] - mine[0][3] >= DAY:
                good.add(name)
        found = uses.used(bytes((91, 66, 0, number)), now=now)
        assert (found in good) if good else found is None
