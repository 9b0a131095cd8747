"""What is read of a reply to a question the hub asks for itself."""

from __future__ import annotations

import contextlib
from ipaddress import ip_address

import dns.message
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Malformed
from core.names import from_text
from resolver.truth import MAX_ADDRESSES, MAX_TARGETS, Truth, read_truth


def reply(question: str, rdtype: str, *records: str, rcode: int = 0) -> bytes:
    made = dns.message.make_response(dns.message.make_query(question, rdtype))
    made.set_rcode(dns.rcode.Rcode(rcode))
    for record in records:
        owner, ttl, kind, data = record.split(maxsplit=3)
        made.answer.append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return made.to_wire()


def read(question: str, rdtype: str, *records: str, rcode: int = 0) -> Truth:
    return read_truth(reply(question, rdtype, *records, rcode=rcode), from_text(question))


def texts(truth: Truth) -> list[str]:
    return [str(ip_address(address)) for address in truth.addresses]


def test_the_addresses_at_the_end_of_a_chain_with_its_lowest_ttl() -> None:
    truth = read("a.example.", "A", "a.example. 30 CNAME b.example.", "b.example. 600 A 25.0.0.1",
                 "b.example. 600 A 25.0.0.2")  # fmt: skip
    assert (texts(truth), truth.ttl) == (["25.0.0.1", "25.0.0.2"], 30)


def test_records_off_the_chain_and_of_other_types_are_passed_over() -> None:
    truth = read("a.example.", "A", "a.example. 600 A 25.0.0.1", "bank.example. 600 A 25.0.0.2",
                 "a.example. 600 AAAA 2a0f:ffff::1")  # fmt: skip
    assert texts(truth) == ["25.0.0.1"]


def test_a_chain_that_goes_in_circles_ends() -> None:
    truth = read("a.example.", "A", "a.example. 30 CNAME b.example.", "b.example. 30 CNAME a.example.")
    assert truth == Truth()


def test_hints_and_the_target_of_a_service() -> None:
    truth = read("a.example.", "HTTPS", "a.example. 60 HTTPS 1 svc.example. alpn=h2 ipv4hint=25.0.0.1,25.0.0.2 "
                 "ipv6hint=2a0f:ffff::1", "a.example. 60 HTTPS 2 . alpn=h3")  # fmt: skip
    assert texts(truth) == ["25.0.0.1", "25.0.0.2", "2a0f:ffff::1"]
    assert truth.targets == (from_text("svc.example"),)


def test_name_servers_are_names_to_ask_next() -> None:
    truth = read("a.example.", "NS", "a.example. 60 NS ns1.a.example.", "a.example. 60 NS ns2.a.example.")
    assert truth == Truth((), (from_text("ns1.a.example"), from_text("ns2.a.example")), 60)


@pytest.mark.parametrize("rcode", [2, 3, 5])
def test_a_failure_says_nothing(rcode: int) -> None:
    assert read("a.example.", "A", "a.example. 60 A 25.0.0.1", rcode=rcode) == Truth()


def test_a_reply_to_another_question_says_nothing() -> None:
    data = reply("b.example.", "A", "b.example. 60 A 25.0.0.1")
    assert read_truth(data, from_text("a.example")) == Truth()


def test_what_one_reply_says_is_bounded() -> None:
    many = [f"a.example. 60 A 25.0.1.{last}" for last in range(200)]
    assert len(read("a.example.", "A", *many).addresses) == MAX_ADDRESSES
    servers = [f"a.example. 60 NS ns{last}.a.example." for last in range(50)]
    assert len(read("a.example.", "NS", *servers).targets) == MAX_TARGETS


WIRES = [
    reply("a.example.", "A", "a.example. 30 CNAME b.example.", "b.example. 600 A 25.0.0.1"),
    reply("a.example.", "HTTPS", "a.example. 60 HTTPS 1 svc.example. ipv4hint=25.0.0.1 ipv6hint=2a0f:ffff::1"),
    reply("a.example.", "NS", "a.example. 60 NS ns1.a.example."),
]


@given(st.sampled_from(WIRES), st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=6), st.data())
def test_hostile_octets_are_malformed_or_read(wire: bytes, changes: list[tuple[int, int]], data: st.DataObject) -> None:
    octets = bytearray(wire)
    for at, octet in changes:
        octets[at % len(octets)] = octet
    cut = data.draw(st.integers(0, len(octets)))
    with contextlib.suppress(Malformed):
        truth = read_truth(bytes(octets[:cut]), from_text("a.example"))
        assert all(len(address) in (4, 16) for address in truth.addresses)


def test_an_address_of_the_wrong_size_is_malformed() -> None:
    data = bytearray(reply("a.example.", "A", "a.example. 60 A 25.0.0.1"))
    data[-6:-4] = (3).to_bytes(2, "big")
    with pytest.raises(Malformed):
        read_truth(bytes(data[:-1]), from_text("a.example"))
