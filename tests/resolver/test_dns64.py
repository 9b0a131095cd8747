"""DNS64: addresses as RFC 6052 shows them, whole replies that dnspython reads, nothing made of what must not be."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Malformed
from core.wire import MAX_MESSAGE, walk
from resolver.dns64 import LENGTHS, WELL_KNOWN, Dns64

ASKED = "Www.corp.example."
ALIAS = "Alias.corp.example."
CDN = "cdn.net.example."
OURS = Dns64("2001:db8:64::/96")
COMMON = Dns64(str(WELL_KNOWN))
SIGNATURE = f"A 8 3 300 20300101000000 20200101000000 1 {CDN} AAAA"


def rrset(owner: str, rdtype: str, *data: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, ttl, "IN", rdtype, *data)


def reply(
    rdtype: str,
    *answer: dns.rrset.RRset,
    authority: tuple[dns.rrset.RRset, ...] = (),
    code: int = 0,
    edns: bool = False,
) -> bytes:
    question = dns.message.make_query(ASKED, rdtype, use_edns=0 if edns else False, id=7)
    made = dns.message.make_response(question, recursion_available=True)
    made.answer, made.authority = list(answer), list(authority)
    made.set_rcode(dns.rcode.Rcode(code))
    return made.to_wire(max_size=MAX_MESSAGE)


def soa(ttl: int) -> dns.rrset.RRset:
    return rrset("example.", "SOA", "a.example. b.example. 1 2 3 4 5", ttl=ttl)


def read(made: bytes | None) -> list[str]:
    """Return the answers as text, read by dnspython, once our own walker took the whole message."""
    assert made is not None
    walk(made)
    parsed = dns.message.from_wire(made)
    assert not parsed.authority
    assert not parsed.additional
    return [line for one in parsed.answer for line in sorted(one.to_text().splitlines())]


def wanted(wire: bytes) -> bool:
    return OURS.wanted(walk(wire), wire)


@pytest.mark.parametrize(
    ("prefix", "embedded"),
    [
        ("2001:db8::/32", "2001:db8:c000:221::"),
        ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
        ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
        ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
        ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100:0"),
        ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ],
)
def test_the_examples_of_rfc_6052_section_2_4(prefix: str, embedded: str) -> None:
    assert Dns64(prefix).embed(ip_address("192.0.2.33").packed) == ip_address(embedded).packed


@given(st.sampled_from(LENGTHS), st.binary(min_size=16, max_size=16), st.binary(min_size=4, max_size=4))
def test_every_prefix_holds_the_address_and_a_zero_octet(length: int, octets: bytes, address: bytes) -> None:
    network = ip_network((octets[:8] + b"\x00" + octets[9:], length), strict=False)
    made = Dns64(str(network)).embed(address)
    assert ip_address(made) in network
    assert (len(made), made[8]) == (16, 0)
    rest = made[length // 8 :]
    kept = rest if length == 96 else rest[: 8 - length // 8] + rest[9 - length // 8 :]
    assert kept == address.ljust(len(kept), b"\x00")


@pytest.mark.parametrize("prefix", ["64:ff9b::/95", "2001:db8::1/96", "2001:db8:0:0:100::/96", "192.0.2.0/24", "x", ""])
def test_other_prefixes_are_refused(prefix: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - three libraries' words
        Dns64(prefix)


@pytest.mark.parametrize(
    ("wire", "due"),
    [
        (reply("AAAA"), True),
        (reply("AAAA", authority=(soa(60),), edns=True), True),
        (reply("AAAA", rrset(ASKED, "CNAME", CDN), authority=(soa(60),)), True),
        (reply("AAAA", rrset(ASKED, "AAAA", "::ffff:192.0.2.1", "::ffff:0.0.0.0")), True),
        (reply("AAAA", rrset(ASKED, "AAAA", "::ffff:192.0.2.1", "2001:db8::1")), False),
        (reply("AAAA", rrset(ASKED, "CNAME", CDN), rrset(CDN, "AAAA", "2001:db8::1")), False),
        (reply("AAAA", authority=(soa(60),), code=3), False),
        (reply("AAAA", code=2), False),
        (reply("A"), False),
        (reply("ANY"), False),
    ],
    ids=["empty", "negative", "chain", "mapped", "partly mapped", "has one", "nxdomain", "servfail", "a", "any"],
)
def test_when_one_is_wanted(wire: bytes, due: bool) -> None:
    assert wanted(wire) is due


def test_of_another_class_none_is_wanted() -> None:
    wire = reply("AAAA")
    assert not wanted(wire[:-1] + b"\x03")


def test_a_whole_reply_is_made() -> None:
    wire = reply(
        "A",
        rrset(ASKED, "CNAME", ALIAS, ttl=900),
        rrset(ALIAS, "CNAME", CDN, ttl=20),
        rrset(CDN, "A", "192.0.2.1", "198.51.100.2", ttl=1_000),
        rrset(CDN, "RRSIG", SIGNATURE),
        authority=(rrset("example.", "NS", "a.example."),),
        edns=True,
    )
    wire = wire[:3] + bytes((wire[3] | dns.flags.AD,)) + wire[4:]
    made = OURS.synthesise(wire)
    assert read(made) == [
        f"{ASKED} 900 IN CNAME {ALIAS}",
        f"{ALIAS} 20 IN CNAME {CDN}",
        f"{CDN} 600 IN AAAA 2001:db8:64::c000:201",
        f"{CDN} 600 IN AAAA 2001:db8:64::c633:6402",
    ]
    assert made is not None
    parsed = dns.message.from_wire(made)
    assert (parsed.id, parsed.opt) == (dns.message.from_wire(wire).id, None)
    assert parsed.question[0].to_text() == f"{ASKED} IN AAAA"
    assert parsed.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    assert len(made) < len(wire)


@pytest.mark.parametrize(
    ("a_ttl", "aaaa_wire", "ttl"),
    [
        (300, b"", 300),
        (1_000, b"", 600),
        (1_000, reply("AAAA"), 600),
        (1_000, reply("AAAA", authority=(soa(900),)), 900),
        (1_000, reply("AAAA", authority=(soa(60),)), 60),
        (1_000, reply("AAAA", authority=(rrset("example.", "NS", "a.example.", ttl=5), soa(70))), 70),
        (30, reply("AAAA", authority=(soa(60),)), 30),
    ],
)
def test_lifetimes(a_ttl: int, aaaa_wire: bytes, ttl: int) -> None:
    made = OURS.synthesise(reply("A", rrset(ASKED, "A", "192.0.2.1", ttl=a_ttl)), aaaa_wire)
    assert read(made) == [f"{ASKED} {ttl} IN AAAA 2001:db8:64::c000:201"]


def test_without_addresses_nothing_is_made() -> None:
    assert OURS.synthesise(reply("A")) is None
    assert OURS.synthesise(reply("A", rrset(ASKED, "CNAME", CDN), authority=(soa(60),))) is None
    assert OURS.synthesise(reply("A", rrset(ASKED, "A", "192.0.2.1"), code=2)) is None
    assert OURS.synthesise(reply("A", authority=(rrset(ASKED, "A", "192.0.2.1"),))) is None


def test_the_well_known_prefix_is_for_global_addresses() -> None:
    inner = ("10.1.2.3", "127.0.0.1", "100.64.0.1", "169.254.0.1", "172.31.0.1", "192.168.1.1", "224.0.0.1", "0.0.0.0")
    wire = reply("A", rrset(ASKED, "A", *inner))
    assert COMMON.synthesise(wire) is None
    assert len(read(OURS.synthesise(wire))) == len(inner)
    mixed = reply("A", rrset(ASKED, "A", *inner, "172.32.0.1"))
    assert read(COMMON.synthesise(mixed)) == [f"{ASKED} 300 IN AAAA 64:ff9b::ac20:1"]


def test_clients_find_the_well_known_prefix() -> None:
    wire = reply("A", rrset(ASKED, "A", "192.0.0.170", "192.0.0.171", "192.0.0.172"))
    assert read(COMMON.synthesise(wire)) == [f"{ASKED} 300 IN AAAA 64:ff9b::c000:{low}" for low in ("aa", "ab")]


def test_a_dname_is_kept() -> None:
    wire = reply(
        "A", rrset("corp.example.", "DNAME", "net.example."), rrset(ASKED, "CNAME", "www.net.example."),
        rrset("www.net.example.", "A", "192.0.2.1"),
    )  # fmt: skip
    assert [line.split()[3] for line in read(OURS.synthesise(wire))] == ["DNAME", "CNAME", "AAAA"]


@pytest.mark.parametrize(
    "wire",
    [
        b"", reply("AAAA"), reply("A")[:-1] + b"\x03",
        reply("A", rrset(ASKED, "A", "192.0.2.1"))[:-6] + b"\x00\x03abc",
        reply("A", rrset(ASKED, "A", "192.0.2.1"))[:-1],
        b"\x00\x00\x81\x80\x00\x01\x00\x00\x00\x00\x00\x00\xc0\x08\x00\x01\x00\x01",
    ],
    ids=["nothing", "another type", "another class", "three octets", "cut", "question points into the header"],
)  # fmt: skip
def test_what_is_no_reply_to_an_a_question_is_refused(wire: bytes) -> None:
    with pytest.raises(Malformed):
        OURS.synthesise(wire)


def test_a_reply_that_would_grow_too_long_is_refused() -> None:
    head = b"\x00\x00\x81\x80\x00\x01\x0f\xa0\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01"
    record = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01,\x00\x04\xc0\x00\x02\x01"
    assert len(head + 0xFA0 * record) <= MAX_MESSAGE
    with pytest.raises(Malformed, match="too many"):
        OURS.synthesise(head + 0xFA0 * record)


@given(st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=20, unique=True), st.sampled_from(LENGTHS))
def test_each_address_is_made_once(addresses: list[str], length: int) -> None:
    dns64 = Dns64(str(ip_network(("2001:db8::", length), strict=False)))
    made = dns64.synthesise(reply("A", rrset(ASKED, "CNAME", CDN), rrset(CDN, "A", *addresses)))
    assert made is not None
    (_, found) = dns.message.from_wire(made).answer
    assert found.name.to_text() == CDN
    assert {ip_address(one.address).packed for one in found} == {
        dns64.embed(ip_address(text).packed) for text in addresses
    }
    assert not wanted(made)


@given(st.binary(max_size=200), st.integers(0, 6), st.binary(max_size=40))
def test_no_bytes_break_it(tail: bytes, answers: int, aaaa_wire: bytes) -> None:
    head = b"\x00\x00\x81\x80\x00\x01" + bytes((0, answers)) + bytes(4)
    for question in (b"\x01a\x00\x00\x01\x00\x01", b"\x01a\x00\x00\x1c\x00\x01", b""):
        data = head + question + tail
        try:
            made = COMMON.synthesise(data, aaaa_wire)
        except Malformed:
            made = None
        if made is not None:
            assert read(made)
        try:
            message = walk(data)
        except Malformed:
            continue
        COMMON.wanted(message, data)


chunks = st.sampled_from(
    [
        b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x09\x00\x04\x08\x08\x08\x08",
        b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x09\x00\x02\xc0\x0c",
        b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x09\x00\x04\x01B\xc0\x0c",
        b"\x01b\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x09\x00\x04\x08\x08\x04\x04",
        b"\xc0\x2b\x00\x01\x00\x01\x00\x00\x00\x09\x00\x04\x08\x08\x04\x04",
        b"\x00\x00\x01\x00\x01\x00\x00\x00\x09\x00\x04\x08\x08\x08\x08",
        b"\x01c\x00\x00\x27\x00\x01\x00\x00\x00\x09\x00\x03\x01B\x00",
        b"\xc0\x0c\x00\x05\x00\x01\x00\x00\x00\x09\x00\x05\x01B\x00xx",
        b"\xc0\x0c\x00\x2e\x00\x01\x00\x00\x00\x09\x00\x01x",
    ]
)


@given(st.lists(chunks, max_size=8), st.binary(max_size=3))
def test_records_in_any_order_stay_what_they_say(pieces: list[bytes], tail: bytes) -> None:
    data = b"\x00\x00\x81\x80\x00\x01" + bytes((0, len(pieces))) + bytes(4) + b"\x01A\x00\x00\x01\x00\x01"
    try:
        made = COMMON.synthesise(data + b"".join(pieces) + tail)
    except Malformed:
        return
    if made is not None:
        assert all(" AAAA 64:ff9b::808:" in line or " IN CNAME " in line or " IN DNAME " in line for line in read(made))


@given(st.sampled_from(sorted(LENGTHS)), st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16))
def test_extract_undoes_embed_and_nothing_else(length: int, address: bytes, other: bytes) -> None:
    made = Dns64(f"2001:db8::/{length}")
    assert made.extract(made.embed(address)) == address
    found = made.extract(other)
    assert found is None or made.embed(found) == other
