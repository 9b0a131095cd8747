"""The wire cursor: hostile bytes end in Malformed, honest ones read as dnspython reads them."""

from __future__ import annotations

from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import cut, rr, wire
from core.errors import Malformed
from core.names import from_text, to_text

host = st.from_regex(r"[a-zA-Z0-9_-]{1,20}", fullmatch=True)
hosts = st.lists(host, min_size=1, max_size=5).map(".".join)


def query(name: str, rdtype: str = "A", **kwargs: Any) -> bytes:
    return bytes(dns.message.make_query(name, rdtype, **kwargs).to_wire())


@given(st.binary(max_size=300))
def test_no_bytes_break_the_query_reader(data: bytes) -> None:
    try:
        found = wire.read_query(data)
    except Malformed:
        return
    if found.question:
        read = dns.message.from_wire(data, ignore_trailing=False, continue_on_error=True)
        assert read.question[0].rdtype == found.qtype
    else:
        assert found.cookie or found.flags & rr.OPCODE


@given(st.binary(max_size=400))
def test_no_bytes_break_the_walker(data: bytes) -> None:
    try:
        message = wire.walk(data)
        for signatures in (False, True):
            cut.cut(data, message, signatures=signatures)
        for record in message.records:
            wire.expand_rdata(data, record)
    except Malformed:
        return


@given(hosts, st.sampled_from(["A", "AAAA", "TXT", "HTTPS", "NULL"]), st.booleans(), st.integers(512, 4_096))
def test_a_query_reads_as_it_was_made(name: str, rdtype: str, do: bool, size: int) -> None:
    found = wire.read_query(query(name, rdtype, want_dnssec=do, payload=size, use_edns=0))
    assert found.qname == from_text(name)
    assert rr.type_text(found.qtype) == rdtype
    assert (found.edns, found.do, found.udp_size) == (True, do, size)


def test_a_query_without_edns() -> None:
    found = wire.read_query(query("example.com", use_edns=False))
    assert (found.edns, found.udp_size, found.do) == (False, 512, False)


@pytest.mark.parametrize(
    ("data", "answerable"),
    [
        (b"", False),
        (b"\x00" * 11, False),
        (b"\x00\x01\x80\x00\x00\x01" + b"\x00" * 6 + b"\x00\x00\x01\x00\x01", False),
        (b"\x00\x01\x01\x00\x00\x00" + b"\x00" * 6, True),
        (b"\x00\x01\x01\x00\x00\x02" + b"\x00" * 6 + b"\x00\x00\x01\x00\x01" * 2, True),
        (b"\x00\x01\x01\x00\x00\x01" + b"\x00" * 6 + b"\xc0\x0c\x00\x01\x00\x01", True),
        (b"\x00\x01\x01\x00\x00\x01" + b"\x00" * 6 + b"\x40a\x00\x00\x01\x00\x01", True),
        (b"\x00\x01\x01\x00\x00\x01" + b"\x00" * 6 + b"\x3f" + b"a" * 20, True),
        (b"\x00\x01\x01\x00\x00\x01" + b"\x00" * 6 + b"\x01a\x00\x00\x01\x00\x01\x99", True),
        (b"\x00\x01\x01\x00\x00\x01" + b"\x00" * 6 + (b"\x3f" + b"a" * 63) * 4 + b"\x00\x00\x01\x00\x01", True),
    ],
)
def test_malformed_queries(data: bytes, answerable: bool) -> None:
    with pytest.raises(Malformed) as caught:
        wire.read_query(data)
    assert caught.value.answerable is answerable


@pytest.mark.parametrize("options", [b"\x00", b"\x00\x0a\x00\x08abc", b"\x00\x0a\xff\xff"])
def test_edns_options_that_do_not_fit(options: bytes) -> None:
    opt = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00" + len(options).to_bytes(2, "big") + options
    with pytest.raises(Malformed):
        wire.read_query(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x01\x01a\x00\x00\x01\x00\x01" + opt)


def test_two_opt_records_are_malformed() -> None:
    opt = b"\x00\x00\x29\x04\xd0\x00\x00\x00\x00\x00\x00"
    with pytest.raises(Malformed):
        wire.read_query(b"\x00\x01\x01\x00\x00\x01\x00\x00\x00\x00\x00\x02\x01a\x00\x00\x01\x00\x01" + opt * 2)


def test_a_pointer_that_points_at_itself_is_malformed() -> None:
    with pytest.raises(Malformed):
        wire.read_name(b"\x00" * 12 + b"\x01a\xc0\x0c", 12)


def reply(*rrsets: str, name: str = "www.example.com", rdtype: str = "A") -> bytes:
    message = dns.message.make_response(dns.message.make_query(name, rdtype, use_edns=0, want_dnssec=True))
    for text in rrsets:
        section, owner, ttl, kind, *data = text.split(maxsplit=4)
        rrset = dns.rrset.from_text(owner, int(ttl), "IN", kind, *data)
        {"an": message.answer, "au": message.authority, "ad": message.additional}[section].append(rrset)
    return bytes(message.to_wire())


SIGNATURE = "A 13 3 300 20301231000000 20201231000000 1 example.com. AAAA"
SIGNED = reply(
    "an www.example.com. 300 CNAME shop.example.com.",
    f"an www.example.com. 300 RRSIG CNAME{SIGNATURE[1:]}",
    "an shop.example.com. 60 A 192.0.2.7",
    f"an shop.example.com. 60 RRSIG {SIGNATURE}",
    "au example.com. 900 NS ns1.example.com.",
    "ad ns1.example.com. 900 A 192.0.2.53",
)


def rebuilt(data: bytes, form: cut.Form) -> dns.message.Message:
    message = wire.walk(data)
    return dns.message.from_wire(data[:6] + form.counts + data[12 : message.answers_at] + form.body)


def test_cut_drops_signatures_and_keeps_the_rest() -> None:
    message = wire.walk(SIGNED)
    plain = rebuilt(SIGNED, cut.cut(SIGNED, message, signatures=False))
    assert [rrset.rdtype for rrset in plain.answer] == [dns.rdatatype.CNAME, dns.rdatatype.A]
    assert plain.answer[1].name == dns.name.from_text("shop.example.com.")
    assert plain.additional[0].to_text() == "ns1.example.com. 900 IN A 192.0.2.53"
    assert plain.edns == -1


def test_cut_with_signatures_keeps_all_but_opt() -> None:
    whole = rebuilt(SIGNED, cut.cut(SIGNED, wire.walk(SIGNED), signatures=True))
    original = dns.message.from_wire(SIGNED)
    assert whole.answer == original.answer
    assert whole.authority == original.authority
    assert whole.edns == -1


@given(st.lists(st.tuples(hosts, st.integers(0, 2**31 - 1)), min_size=1, max_size=5), st.booleans())
def test_rewriting_keeps_the_meaning(chain: list[tuple[str, int]], signatures: bool) -> None:
    records = []
    owner = "start.example"
    for target, ttl in chain:
        records.append(f"an {owner}. {ttl} CNAME {target}.")
        records.append(f"an {owner}. {ttl} RRSIG CNAME 13 2 300 20301231000000 20201231000000 1 {target}. AAAA")
        owner = target
    data = reply(*records, "au example. 5 SOA a.example. b.example. 1 2 3 4 5", name="start.example")
    message = wire.walk(data)
    made = rebuilt(data, cut.cut(data, message, signatures=signatures))
    wanted = dns.message.from_wire(data)
    if not signatures:
        wanted.answer = [rrset for rrset in wanted.answer if rrset.rdtype != dns.rdatatype.RRSIG]
    assert {rrset.to_text().lower() for rrset in made.answer} == {rrset.to_text().lower() for rrset in wanted.answer}
    assert made.authority == wanted.authority


def test_walk_counts_and_names_what_is_there() -> None:
    message = wire.walk(SIGNED)
    assert to_text(message.qname) == "www.example.com"
    assert [record.section for record in message.records] == [1, 1, 1, 1, 2, 3]
    assert (message.opt_at, message.signed, message.lowest) == (6, True, 60)
    assert wire.expand_rdata(SIGNED, message.records[0]) == from_text("shop.example.com")


def test_an_opt_record_belongs_into_the_additional_section() -> None:
    reply = bytes.fromhex("000081800001000100000000" + "016100" + "00010001" + "00002910000000000000" + "00")
    with pytest.raises(Malformed):
        wire.walk(reply)


def test_names_in_what_is_rewritten_are_compressed_again() -> None:
    records = [
        "an mail.example. 60 MX 10 a.mail.example.",
        f"an mail.example. 60 RRSIG MX{SIGNATURE[1:]}",
        "an mail.example. 60 MX 20 b.mail.example.",
        "au example. 900 SOA ns.example. hostmaster.example. 1 2 3 4 5",
        "ad a.mail.example. 60 A 192.0.2.1",
    ]
    data = reply(*records, name="mail.example", rdtype="MX")
    form = cut.cut(data, wire.walk(data), signatures=False)
    plain = dns.message.from_wire(data)
    plain.answer = [rrset for rrset in plain.answer if rrset.rdtype == dns.rdatatype.MX]
    plain.use_edns(False)
    assert len(form.body) + wire.walk(data).answers_at <= len(plain.to_wire())
    shortened = form.shortened()
    read = rebuilt(data, shortened)
    assert not read.additional
    assert len(read.answer[0]) == 2
    assert shortened.counts == bytes((0, 2, 0, 1, 0, 0))
