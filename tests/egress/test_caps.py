"""The brakes: however much resolvers send, no more than the caps is blocked, and what people said holds."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Egress
from core.names import from_text
from egress import caps as braking
from egress.caps import Caps
from egress.plan import ANY, Destination, Ledger, Proposal
from egress.reserved import reserved
from egress.rulings import Rule, Ruling, Scope

NOW = 1_800_000_000.0
ALICE = bytes((10, 0, 0, 11))
C2 = bytes((91, 66, 0, 80))
EVIL = from_text("c2.evil.example")


def proposal(address: bytes = C2, *, client: bytes = ANY, domain: bytes = EVIL) -> Proposal:
    return Proposal(address, client, domain, "listed", 300.0)


def caps(config: Egress | None = None) -> Caps:
    return Caps(config or Egress(), reserved({"an address of this host": ["81.2.69.1"]}))


def block(brake: Caps, ledger: Ledger, *proposals: Proposal, now: float = NOW) -> list[Ruling]:
    rulings = brake.admit(proposals, ledger, now=now)
    ledger.want([ruling.proposal for ruling in rulings if ruling.passes], now=now)
    return rulings


def numbered(number: int, **more: bytes) -> Proposal:
    return proposal((0x5B420000 + number).to_bytes(4, "big"), **more)


def test_what_passes_keeps_its_scope_and_loses_its_mapping() -> None:
    mapped = bytes(10) + b"\xff\xff"
    one, two = block(caps(), Ledger(), proposal(mapped + C2), proposal(mapped + C2, client=mapped + ALICE))
    assert (one.scope, one.rule, one.destination) == (Scope.ADDRESS, Rule.CLEAR, Destination(C2))
    assert (two.scope, two.rule, two.destination) == (Scope.PAIR, Rule.CLEAR, Destination(C2, ALICE))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("10.0.0.1", "10.0.0.1: never blocked, it is of a special-use network"),
        ("81.2.69.1", "an address of this host"),
        ("64:ff9b::81.2.69.1", "81.2.69.1, carried in"),
        ("2002:5102:4501::1", "81.2.69.1, carried in"),
        ("192.33.4.12", "a root server"),
    ],
)
def test_what_is_never_blocked_is_refused_again(address: str, words: str) -> None:
    [ruling] = block(caps(), Ledger(), proposal(ipaddress.ip_address(address).packed))
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.NEVER)
    assert words in ruling.reason


@pytest.mark.parametrize(
    ("address", "client"), [(b"", ANY), (b"abc", ANY), (C2, b"abc"), (C2, bytes.fromhex("2a02") + bytes(14))]
)
def test_what_can_not_be_blocked_is_malformed(address: bytes, client: bytes) -> None:
    [ruling] = block(caps(), Ledger(), proposal(address, client=client))
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.MALFORMED)


def test_panic_admits_nothing_and_ends() -> None:
    brake, ledger = caps(), Ledger()
    brake.panic = True
    assert [each.rule for each in block(brake, ledger, proposal())] == [Rule.PANIC]
    assert not len(ledger)
    brake.panic = False
    assert [each.rule for each in block(brake, ledger, proposal())] == [Rule.CLEAR]


def test_a_release_holds_until_its_time_for_an_address_in_each_of_its_forms() -> None:
    brake, ledger = caps(), Ledger()
    brake.release(address=bytes(10) + b"\xff\xff" + C2, until=NOW + 60)
    nat64 = bytes.fromhex("0064ff9b") + bytes(8) + C2
    assert [each.rule for each in block(brake, ledger, proposal(), proposal(nat64))] == [Rule.RELEASED] * 2
    assert block(brake, ledger, numbered(1))[0].passes
    assert block(brake, ledger, proposal(), now=NOW + 60)[0].passes


def test_a_release_of_a_domain_holds_for_those_below_it_only() -> None:
    brake = caps()
    brake.release(domain=from_text("evil.example"), until=NOW + 60)
    refused, passed = block(brake, Ledger(), proposal(), proposal(domain=from_text("notevil.example")))
    assert refused.rule is Rule.RELEASED
    assert refused.reason == "evil.example was released"
    assert passed.passes
    assert block(brake, Ledger(), proposal(), now=NOW + 60)[0].passes
    with pytest.raises(ValueError, match="octets"):
        brake.release(address=b"abc", until=NOW)


def test_rows_that_may_not_be_any_more_are_found() -> None:
    brake = caps()
    assert brake.forbids(proposal(), now=NOW) is None
    brake.release(address=C2, until=NOW + 60)
    ruling = brake.forbids(proposal(), now=NOW)
    assert ruling is not None
    assert ruling.rule is Rule.RELEASED


def test_switches_outlive_a_restart() -> None:
    brake, other = caps(), caps()
    brake.panic = True
    brake.release(address=C2, until=NOW + 60)
    brake.release(domain=EVIL, until=NOW + 90)
    other.load(brake.dump())
    assert other.dump() == brake.dump()
    assert other.panic
    other.panic = False
    assert block(other, Ledger(), proposal(), now=NOW + 70)[0].rule is Rule.RELEASED


def test_releases_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(braking, "MAX_RELEASED", 5)
    brake = caps()
    for number in (*range(16), 15, 12, 16, 17, 18, 19):  # 12 is released anew, and so not among the oldest
        brake.release(address=bytes((91, 66, 0, number)), domain=from_text(f"n{number}.example"), until=NOW + 60)
    kept = brake.dump()
    assert len(kept.addresses) == len(kept.domains) == 5
    assert [address[3] for address, _ in kept.addresses] == [12, 16, 17, 18, 19]
    assert block(brake, Ledger(), proposal(bytes((91, 66, 0, 19))))[0].rule is Rule.RELEASED


def test_five_hundred_addresses_of_a_name_in_a_minute_are_sixteen() -> None:
    brake, ledger = caps(), Ledger()
    rulings = block(brake, ledger, *(numbered(number) for number in range(500)))
    assert [ruling.passes for ruling in rulings] == [True] * 16 + [False] * 484
    assert rulings[-1].rule is Rule.PER_DOMAIN
    assert "c2.evil.example has 16" in rulings[-1].reason
    assert ledger.spread(EVIL) == 16


def test_the_clients_of_one_shared_address_are_one_address_of_the_domain() -> None:
    rulings = block(caps(), Ledger(), *(proposal(client=bytes((10, 0, 1, number))) for number in range(40)))
    assert all(ruling.passes for ruling in rulings)


def test_five_hundred_addresses_of_five_hundred_names_in_a_minute_are_sixty() -> None:
    brake, ledger = caps(), Ledger()
    names = [from_text(f"n{number}.example") for number in range(500)]
    rulings = [block(brake, ledger, numbered(at, domain=name), now=NOW + at / 10)[0] for at, name in enumerate(names)]
    assert [ruling.passes for ruling in rulings] == [True] * 60 + [False] * 440
    assert rulings[-1].rule is Rule.PER_MINUTE
    assert block(brake, ledger, numbered(3, domain=names[3]), now=NOW + 50)[0].passes  # a refresh
    assert block(brake, ledger, numbered(900, domain=EVIL), now=NOW + 60)[0].passes  # the first one's minute is over
    assert not block(brake, ledger, numbered(901, domain=EVIL), now=NOW + 60.05)[0].passes


def test_a_destination_another_name_holds_is_none_of_the_minute() -> None:
    brake, ledger = caps(Egress(per_minute=1)), Ledger()
    first, second, third = block(brake, ledger, proposal(), proposal(domain=from_text("other.example")), numbered(7))
    assert first.passes
    assert second.passes
    assert third.rule is Rule.PER_MINUTE


def test_there_are_so_many_destinations_in_all() -> None:
    brake, ledger = caps(Egress(total=3, per_minute=100)), Ledger()
    rulings = block(brake, ledger, *(numbered(number) for number in (0, 1, 1, 2, 3, 4)))
    assert [ruling.passes for ruling in rulings] == [True, True, True, True, False, False]
    assert rulings[-1].rule is Rule.TOTAL
    ledger.take(address=numbered(0).address, now=NOW, what="release")
    assert block(brake, ledger, numbered(4))[0].passes


proposals = st.builds(
    lambda number, client, domain: numbered(number, client=client, domain=domain),
    st.integers(0, 30),
    st.sampled_from([ANY, ALICE, bytes((10, 0, 0, 12))]),
    st.sampled_from([EVIL, from_text("a.example"), from_text("b.example")]),
)


@settings(max_examples=200)
@given(
    st.lists(st.tuples(st.sampled_from([0.0, 1.0, 30.0, 61.0, 700.0]), st.lists(proposals, max_size=12)), max_size=8)
)
def test_no_cap_is_ever_passed_and_no_refresh_refused(batches: list[tuple[float, list[Proposal]]]) -> None:
    config = Egress(per_minute=8, per_domain=5, total=20)
    brake, ledger, now = caps(config), Ledger(), NOW
    begun: list[float] = []
    for seconds, batch in batches:
        now += seconds
        ledger.sweep(now)
        before = {(row.destination, row.domain) for row in ledger}
        held = {row.destination for row in ledger}
        rulings = block(brake, ledger, *batch, now=now)
        assert len(rulings) == len(batch)
        for asked, ruling in zip(batch, rulings, strict=True):
            assert ruling.proposal == asked
            assert ruling.passes or (asked.destination, asked.domain) not in before
            assert ruling.passes or ruling.reason
        begun += [now] * len({row.destination for row in ledger} - held)
        assert len([at for at in begun if at > now - 60.0]) <= 8
        assert ledger.destinations() <= 20
        assert all(ledger.spread(domain) <= 5 for domain in ledger.domains)
