"""Whoever owns a domain chooses its addresses: nothing an attacker can point at is cut off, each refusal says why."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.config import Egress
from core.errors import BadFeed
from core.names import Name, from_text
from egress import guard as guarding
from egress.guard import Guard
from egress.plan import ANY, Destination, Proposal
from egress.range_lists import Lists, load_lists
from egress.ranges import Ranges, listed
from egress.reserved import ROOT_SERVERS, SPECIAL, Carriers
from egress.rulings import Rule, Ruling, Scope
from egress.uses import DAY, Uses, UseSettings

NOW = 1_800_000_000.0
C2 = "91.66.0.80"
BANK = "93.184.216.34"
CDN = "104.16.5.5"
ALICE, BOB, CAROL = "10.0.0.11", "10.0.0.12", "10.0.0.13"

LISTS = Lists(
    never=Ranges([listed("public DNS resolvers", ["8.8.8.8"])]),
    shared=Ranges([listed("Cloudflare", ["104.16.0.0/13", "2606:4700::/32"])]),
    sinkholes=Ranges([listed("known sinkholes", ["131.253.18.11"])]),
)
OWN = {
    "a gateway": ["81.2.69.1"],
    "a server this resolver asks": ["81.2.69.53"],
    "a network of clients": ["81.2.70.0/24"],
}


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed if text else ANY


def proposal(address: str, *, client: str = ALICE, domain: str = "c2.example.net") -> Proposal:
    return Proposal(packed(address), packed(client), from_text(domain), "listed", 300.0)


def guard(config: Egress | None = None, *, lists: Lists = LISTS, nat64: tuple[str, ...] = ()) -> Guard:
    return Guard(config or Egress(), Uses(carriers=Carriers(nat64)), lists=lists, own=OWN)


def use(judge: Guard, address: str, name: str, *clients: str, now: float = NOW - 100) -> None:
    for client in clients:
        judge.uses.see(packed(address), from_text(name), packed(client), now=now)


def judged(
    judge: Guard, address: str, *, client: str = ALICE, domain: str = "c2.example.net", now: float = NOW
) -> Ruling:
    return judge.judge(proposal(address, client=client, domain=domain), now=now)


def test_an_address_nothing_speaks_for_may_be_blocked_for_everybody() -> None:
    ruling = judged(guard(), C2)
    assert (ruling.scope, ruling.rule) == (Scope.ADDRESS, Rule.CLEAR)
    assert ruling.destination == Destination(packed(C2), ANY)
    assert ruling.passes


@pytest.mark.parametrize(
    ("address", "rule", "words"),
    [
        ("10.1.2.3", Rule.NEVER, "special-use"),
        ("192.168.0.1", Rule.NEVER, "special-use"),
        ("127.0.0.1", Rule.NEVER, "special-use"),
        ("169.254.169.254", Rule.NEVER, "special-use"),
        ("0.0.0.0", Rule.NEVER, "special-use"),
        ("255.255.255.255", Rule.NEVER, "special-use"),
        ("224.0.0.251", Rule.NEVER, "special-use"),
        ("192.0.2.1", Rule.NEVER, "special-use"),
        ("::", Rule.NEVER, "special-use"),
        ("::1", Rule.NEVER, "special-use"),
        ("fe80::1", Rule.NEVER, "special-use"),
        ("fd00::1", Rule.NEVER, "special-use"),
        ("ff02::1", Rule.NEVER, "special-use"),
        ("2001:db8::1", Rule.NEVER, "special-use"),
        ("2001:0:5ef5:79fb:0:59c:f5ff:fffe", Rule.NEVER, "special-use"),  # Teredo
        ("::10.0.0.1", Rule.NEVER, "special-use"),
        ("::ffff:10.0.0.1", Rule.NEVER, "special-use"),
        ("::ffff:0:10.0.0.1", Rule.NEVER, "carried in"),
        ("64:ff9b::10.0.0.1", Rule.NEVER, "carried in 64:ff9b::a00:1"),
        ("64:ff9b::81.2.69.1", Rule.NEVER, "a gateway"),
        ("64:ff9b:1::1", Rule.NEVER, "special-use"),
        ("2002:a00:1::1", Rule.NEVER, "10.0.0.1, carried in 2002:a00:1::1"),
        ("2002:c629:4::1", Rule.NEVER, "a root server"),
        ("2a02:1::5efe:192.168.1.1", Rule.NEVER, "192.168.1.1"),
        ("2a02:1::200:5efe:192.168.1.1", Rule.NEVER, "192.168.1.1"),
        ("198.41.0.4", Rule.NEVER, "a root server"),
        ("2001:503:ba3e::2:30", Rule.NEVER, "a root server"),
        ("81.2.69.1", Rule.NEVER, "a gateway"),
        ("81.2.69.53", Rule.NEVER, "a server this resolver asks"),
        ("81.2.70.200", Rule.NEVER, "a network of clients"),
        ("::ffff:81.2.70.200", Rule.NEVER, "a network of clients"),
        ("8.8.8.8", Rule.NEVER, "public DNS resolvers"),
        ("64:ff9b::8.8.8.8", Rule.NEVER, "public DNS resolvers"),
        ("131.253.18.11", Rule.SINKHOLE, "known sinkholes"),
        ("64:ff9b::131.253.18.11", Rule.SINKHOLE, "known sinkholes"),
    ],
)
def test_what_must_stay_reachable_is_refused_with_the_reason(address: str, rule: Rule, words: str) -> None:
    ruling = judged(guard(), address)
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, rule)
    assert words in ruling.reason
    told = ruling.refusal(NOW, "node1")
    assert (told.rule, told.reason, told.at, told.who) == (rule.value, ruling.reason, NOW, "node1")
    assert told.domain == from_text("c2.example.net")


def test_a_reason_reads_as_a_sentence_of_an_analyst() -> None:
    judge = guard()
    use(judge, BANK, "www.bank.example", ALICE)
    assert judged(judge, "10.0.0.1").reason == "10.0.0.1: never blocked, it is of a special-use network"
    assert judged(judge, "64:ff9b::10.0.0.1").reason.startswith("10.0.0.1, carried in 64:ff9b::a00:1: never blocked")
    assert judged(judge, BANK).reason == f"{BANK}: the client {ALICE} uses www.bank.example there"
    for number in range(100):
        use(judge, "93.0.0.1", f"n{number}.example", BOB)
    use(judge, "93.0.0.1", "www.bank.example", ALICE)
    assert judged(judge, "93.0.0.1").reason == f"93.0.0.1: the client {ALICE} uses one of many names there"


def test_every_root_server_and_special_network_is_refused() -> None:
    judge = guard()
    ends = [end for net in map(ipaddress.ip_network, SPECIAL.split()) for end in (net[0], net[-1])]
    for address in [*map(str, ends), *ROOT_SERVERS.split()]:
        assert not judged(judge, address).passes, address


def test_networks_of_the_configuration_are_never_blocked() -> None:
    judge = guard(Egress(never=("91.66.0.0/24",)))
    assert "egress.never" in judged(judge, C2).reason
    judge.configure(Egress())
    assert judged(judge, C2).passes
    assert "a gateway" in judged(judge, "81.2.69.1").reason
    assert judged(judge, "8.8.8.8").rule is Rule.NEVER
    judge.configure(Egress(), lists=Lists(), own={})
    assert judged(judge, "81.2.69.1").passes
    assert judged(judge, "8.8.8.8").passes
    with pytest.raises(BadFeed, match="a gateway, entry 21: 'nowhere'"):
        judge.configure(Egress(never=("91.66.0.0/24",)), own={"a gateway": ["81.2.69.1"] * 20 + ["nowhere"]})
    assert judged(judge, C2).passes  # as before
    judge.configure(Egress(), own={"a gateway": ["2a02::1%eth0"]})
    assert "a gateway" in judged(judge, "2a02::1").reason


@pytest.mark.parametrize("address", [b"", b"abc", bytes(5), bytes(17)])
def test_what_is_no_address_is_refused(address: bytes) -> None:
    ruling = guard().judge(Proposal(address, ANY, from_text("a.example"), "listed", 60.0), now=NOW)
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.MALFORMED)
    assert not guard().judge(Proposal(packed(C2), b"abc", from_text("a.example"), "listed", 60.0), now=NOW).passes


@pytest.mark.parametrize("domain", [b"", b"\x00"])
def test_a_verdict_about_everything_is_refused(domain: Name) -> None:
    assert guard().judge(Proposal(packed(C2), ANY, domain, "listed", 60.0), now=NOW).rule is Rule.MALFORMED


def test_the_bank_that_clients_use_is_not_cut_off() -> None:
    judge = guard()
    use(judge, BANK, "www.bank.example", BOB, CAROL)
    ruling = judged(judge, BANK, domain="frame.evil.example")
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.PASSIVE_DNS)
    assert "www.bank.example" in ruling.reason
    assert judged(judge, f"64:ff9b::{BANK}").rule is Rule.PASSIVE_DNS
    assert judged(judge, f"::ffff:{BANK}").rule is Rule.PASSIVE_DNS


def test_the_bank_reached_through_nat64_is_not_cut_off_behind_it() -> None:
    judge = guard(nat64=("2a02:64::/96",))
    use(judge, f"2a02:64::{BANK}", "www.bank.example", BOB, CAROL)
    assert judged(judge, BANK).rule is Rule.PASSIVE_DNS
    assert judged(judge, "2a02:64::10.0.0.1").rule is Rule.NEVER


def test_what_the_asking_client_used_once_is_not_cut_off() -> None:
    judge = guard()
    use(judge, BANK, "www.bank.example", ALICE)
    ruling = judged(judge, BANK)
    assert (ruling.rule, ruling.scope) == (Rule.OWN_USE, Scope.NOTHING)
    assert ALICE in ruling.reason
    assert judged(judge, BANK, client=BOB).scope is Scope.ADDRESS


def test_another_host_of_the_same_attacker_does_not_vouch() -> None:
    judge = guard()
    use(judge, C2, "update.evil.example", ALICE, BOB, CAROL)
    assert judged(judge, C2, domain="other.example").rule is Rule.OWN_USE
    judged(judge, "91.66.0.81", domain="evil.example")  # the verdict falls on its whole domain
    assert judged(judge, C2, domain="other.example").scope is Scope.ADDRESS


def test_an_exact_verdict_leaves_the_site_around_it_alone() -> None:
    judge = guard()
    use(judge, BANK, "www.shop.example", BOB, CAROL)
    exact = Proposal(packed(BANK), packed(ALICE), from_text("shop.example"), "listed", 300.0)
    assert judge.judge(exact, now=NOW, below=False).rule is Rule.PASSIVE_DNS
    assert judge.judge(exact, now=NOW).scope is Scope.ADDRESS


def test_a_verdict_about_a_public_suffix_condemns_no_stranger() -> None:
    judge = guard()
    use(judge, BANK, "www.bank.co.uk", BOB, CAROL)
    for domain in ("co.uk", "uk", "github.io"):
        assert judged(judge, BANK, domain=domain).rule is Rule.PASSIVE_DNS


def test_a_name_first_asked_when_the_address_was_blocked_does_not_lift_the_block() -> None:
    judge = guard()
    assert judged(judge, C2).scope is Scope.ADDRESS
    use(judge, C2, "fallback.example", ALICE, now=NOW + 10)
    assert judged(judge, C2, now=NOW + 20).scope is Scope.ADDRESS


def test_a_block_that_proves_wrong_is_told_when_a_second_client_uses_the_address() -> None:
    judge = guard()
    assert judged(judge, BANK).scope is Scope.ADDRESS
    name = from_text("www.bank.example")
    assert not judge.uses.see(packed(BANK), name, packed(BOB), now=NOW + 10)
    assert judge.uses.see(packed(BANK), name, packed(CAROL), now=NOW + 11)
    assert not judge.uses.see(packed(BANK), name, packed(ALICE), now=NOW + 12)  # told once
    assert judged(judge, BANK, now=NOW + 13).rule is Rule.OWN_USE
    assert judged(judge, BANK, client="10.0.0.99", now=NOW + 13).rule is Rule.PASSIVE_DNS


def test_trusted_names_are_never_held_against_an_address() -> None:
    judge = guard(Egress(trusted=("bank.example",)))
    use(judge, BANK, "www.bank.example", BOB)
    assert judged(judge, BANK).rule is Rule.PASSIVE_DNS
    ruling = judged(judge, C2, domain="www.bank.example")
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.TRUSTED)


def test_behind_a_cdn_only_the_asking_client_is_cut_off() -> None:
    judge = guard()
    use(judge, CDN, "www.shop.example", BOB, CAROL)
    ruling = judged(judge, CDN)
    assert (ruling.scope, ruling.rule) == (Scope.PAIR, Rule.SHARED)
    assert ruling.destination == Destination(packed(CDN), packed(ALICE))
    assert "Cloudflare" in ruling.reason
    assert judged(judge, CDN, client=BOB).rule is Rule.OWN_USE
    assert judged(judge, CDN, client=BOB).scope is Scope.NOTHING


@pytest.mark.parametrize(
    ("address", "client", "words"),
    [(CDN, "", "no client"), ("2606:4700::5", ALICE, "not known here"), (f"64:ff9b::{CDN}", ALICE, "Cloudflare")],
)
def test_a_shared_address_is_not_cut_off_when_the_clients_way_is_not_known(
    address: str, client: str, words: str
) -> None:
    ruling = judged(guard(), address, client=client)
    assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.SHARED)
    assert words in ruling.reason


def test_the_clients_own_mapped_address_makes_a_pair() -> None:
    ruling = judged(guard(), f"::ffff:{CDN}", client=f"::ffff:{ALICE}")
    assert ruling.destination == Destination(packed(CDN), packed(ALICE))


def test_behind_nat64_and_a_cdn_only_the_asking_client_is_cut_off() -> None:
    judge = guard()
    use(judge, f"64:ff9b::{CDN}", "www.shop.example", "2a02::5", "2a02::6")
    ruling = judged(judge, f"64:ff9b::{CDN}", client="2a02::7")
    assert ruling.destination == Destination(packed(f"64:ff9b::{CDN}"), packed("2a02::7"))
    assert ruling.scope is Scope.PAIR
    assert judged(judge, f"64:ff9b::{CDN}", client="2a02::6").rule is Rule.OWN_USE


def test_networks_of_the_configuration_are_shared() -> None:
    assert judged(guard(Egress(shared=("91.66.0.0/16",))), C2).scope is Scope.PAIR


def test_the_name_servers_we_ask_are_not_cut_off() -> None:
    judge = guard()
    judge.note_server(packed("192.33.14.30"), from_text("com"), now=NOW - 5)
    judge.note_server(packed("81.3.3.3"), from_text("bank.example"), now=NOW - 5)
    for address, zone in (("192.33.14.30", "com"), ("81.3.3.3", "bank.example"), ("64:ff9b::81.3.3.3", "bank.example")):
        ruling = judged(judge, address)
        assert (ruling.scope, ruling.rule) == (Scope.NOTHING, Rule.NAME_SERVER)
        assert zone in ruling.reason
    assert not judged(judge, "81.3.3.3", now=NOW - 5 + 7 * DAY).passes
    assert judged(judge, "81.3.3.3", now=NOW - 4 + 7 * DAY).passes


def test_the_name_server_of_a_tunnel_is_cut_off() -> None:
    judge = guard()
    for zone in ("t.evil.example", "deep.t.evil.example"):
        judge.note_server(packed(C2), from_text(zone), now=NOW - 5)
    assert judged(judge, C2, domain="t.evil.example").scope is Scope.ADDRESS


def test_a_name_server_of_two_condemned_domains_is_cut_off() -> None:
    judge = guard()
    judge.note_server(packed(C2), from_text("one.example"), now=NOW)
    judge.note_server(packed(C2), from_text("two.example"), now=NOW)
    assert judged(judge, C2, domain="one.example").rule is Rule.NAME_SERVER
    assert judged(judge, C2, domain="two.example").scope is Scope.ADDRESS


def test_a_verdict_about_a_top_level_does_not_open_its_name_servers() -> None:
    judge = guard()
    judge.note_server(packed("192.33.14.30"), from_text("com"), now=NOW)
    judge.note_server(packed("192.33.14.30"), from_text("bank.com"), now=NOW)
    assert judged(judge, "192.33.14.30", domain="com").rule is Rule.NAME_SERVER


def test_an_exact_verdict_does_not_open_the_name_servers_of_its_site() -> None:
    judge = guard()
    judge.note_server(packed(C2), from_text("shop.example"), now=NOW)
    exact = Proposal(packed(C2), packed(ALICE), from_text("shop.example"), "listed", 300.0)
    assert judge.judge(exact, now=NOW, below=False).rule is Rule.NAME_SERVER
    assert judge.judge(exact, now=NOW).scope is Scope.ADDRESS


def test_a_blocked_address_we_come_to_ask_is_told() -> None:
    judge = guard()
    assert not judge.note_server(packed(C2), from_text("bank.example"), now=NOW)
    assert judged(judge, "91.66.0.81").passes
    assert not judge.note_server(packed("91.66.0.81"), from_text("x.c2.example.net"), now=NOW + 1)
    assert judge.note_server(packed("91.66.0.81"), from_text("bank.example"), now=NOW + 1)


def test_a_server_of_many_zones_serves_everybody() -> None:
    judge = guard()
    for number in range(guarding.MAX_ZONES):
        judge.note_server(packed(C2), from_text(f"z{number}.evil.example"), now=NOW)
    assert judged(judge, C2, domain="evil.example").passes
    judge.note_server(packed(C2), from_text("more.evil.example"), now=NOW)
    ruling = judged(judge, C2, domain="evil.example")
    assert ruling.rule is Rule.NAME_SERVER
    assert "many zones" in ruling.reason


def test_servers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarding, "MAX_SERVERS", 10)
    judge = guard()
    for number in range(30):
        judge.note_server(bytes((91, 66, 1, number)), from_text("a.example"), now=NOW)
    known = [judged(judge, f"91.66.1.{number}").rule is Rule.NAME_SERVER for number in range(30)]
    assert known == [False] * 20 + [True] * 10


def test_no_more_than_a_share_of_yesterdays_destinations_is_cut_off() -> None:
    judge = guard(Egress(share=0.01))
    addresses = [bytes((91, 66, high, low)) for high in range(4) for low in range(250)]
    for address in addresses:
        judge.uses.touch(address, now=NOW - DAY)
    domain = from_text("c2.example.net")
    rulings = [judge.judge(Proposal(address, ANY, domain, "listed", 60.0), now=NOW) for address in addresses[:30]]
    assert [ruling.passes for ruling in rulings] == [True] * 10 + [False] * 20
    assert rulings[-1].rule is Rule.SHARE
    assert "10 of the 1000 destinations of yesterday" in rulings[-1].reason
    assert judge.judge(Proposal(addresses[0], ANY, domain, "listed", 60.0), now=NOW).passes  # a refresh
    assert judged(judge, "91.67.0.1").passes  # not of yesterday
    later = judge.judge(Proposal(addresses[20], ANY, domain, "listed", 60.0), now=NOW + 2 * DAY)
    assert later.passes


def test_a_few_of_yesterdays_destinations_may_always_be_cut_off() -> None:
    judge = guard(Egress(share=0.001))
    addresses = [bytes((91, 66, 0, low)) for low in range(10)]
    for address in addresses:
        judge.uses.touch(address, now=NOW - DAY)
    passed = [judge.judge(Proposal(each, ANY, from_text("c2.example"), "", 60.0), now=NOW).passes for each in addresses]
    assert sum(passed) == guarding.SHARE_FLOOR


addresses = st.one_of(
    st.binary(min_size=4, max_size=4),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=4, max_size=4).map(lambda four: bytes(10) + b"\xff\xff" + four),
    st.binary(min_size=4, max_size=4).map(lambda four: bytes.fromhex("0064ff9b") + bytes(8) + four),
    st.binary(min_size=4, max_size=4).map(lambda four: b"\x20\x02" + four + bytes(10)),
    st.sampled_from(["10.0.0.5", BANK, CDN, "8.8.8.8", "198.41.0.4", "81.2.69.1", "81.3.3.3"]).map(packed),
)
PROTECTED = [packed(text) for text in ("10.0.0.5", BANK, "8.8.8.8", "198.41.0.4", "81.2.69.1", "81.3.3.3")]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            addresses, st.sampled_from(["", ALICE, BOB, "2a02::5"]), st.sampled_from(["a.example", "b.a.example"])
        ),
        max_size=40,
    )
)
def test_whatever_is_proposed_nothing_protected_is_cut_and_every_word_is_given(
    proposals: list[tuple[bytes, str, str]],
) -> None:
    judge = guard()
    use(judge, BANK, "www.bank.example", BOB, CAROL)
    use(judge, CDN, "www.shop.example", BOB)
    judge.note_server(packed("81.3.3.3"), from_text("bank.example"), now=NOW)
    for address, client, domain in proposals:
        ruling = judge.judge(Proposal(address, packed(client), from_text(domain), "", 60.0), now=NOW)
        assert ruling.reason
        assert ruling.passes == (ruling.scope is not Scope.NOTHING)
        if ruling.passes:
            faces = judge.uses.carriers.faces(ruling.destination.address)
            assert not set(faces) & set(PROTECTED)
            assert not any(ipaddress.ip_address(face).is_private for face in faces if len(face) == 4)
            if packed(CDN) in faces:
                assert ruling.destination == Destination(packed(CDN), packed(ALICE))
            assert (ruling.destination.client == ANY) == (ruling.scope is Scope.ADDRESS)


def test_with_the_lists_that_ship_well_known_places_stay_reachable() -> None:
    judge = guard(lists=load_lists(None))
    for address in ("1.1.1.1", "8.8.8.8", "9.9.9.9"):
        assert judged(judge, address).rule is Rule.NEVER
    for address in (
        "104.16.132.229",
        "52.95.110.1",
        "151.101.1.69",
        "140.82.121.4",
        "91.198.174.192",
        "2606:4700::1111",
    ):
        assert judged(judge, address).scope is not Scope.ADDRESS
    assert judged(judge, "131.253.18.11").rule is Rule.SINKHOLE


def test_settings_of_uses_stay_when_the_guard_is_configured() -> None:
    judge = Guard(Egress(), Uses(UseSettings(clients=3)))
    use(judge, BANK, "www.bank.example", BOB, CAROL)
    assert judged(judge, BANK).scope is Scope.ADDRESS
