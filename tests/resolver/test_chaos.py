"""What the server says of itself, and the one small answer to ANY, as dnspython reads them."""

from __future__ import annotations

import dns.message
import dns.rdataclass
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import rr
from core.names import from_text
from resolver import minimal
from resolver.chaos import Chaos
from resolver.sinkhole import Replacement


def parsed(question: dns.message.QueryMessage, made: Replacement) -> dns.message.Message:
    asked = question.to_wire()
    flags = (rr.QR | made.rcode).to_bytes(2, "big")
    return dns.message.from_wire(asked[:2] + flags + b"\x00\x01" + made.counts + asked[12:] + made.body)


def told(chaos: Chaos, name: str, qtype: int) -> bytes:
    """Return the text `name` is answered with, read by dnspython."""
    made = chaos.find(from_text(name), qtype)
    assert made is not None
    question = dns.message.make_query(name, dns.rdatatype.RdataType(qtype), dns.rdataclass.CH, use_edns=False)
    (rrset,) = parsed(question, made).answer
    assert (rrset.name, rrset.rdtype, rrset.rdclass, rrset.ttl) == (question.question[0].name, rr.TXT, rr.CLASS_CH, 0)
    return b"".join(rrset[0].strings)


@pytest.mark.parametrize("qtype", [rr.TXT, rr.ANY])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("id.server", b"node 1"),
        ("hostname.bind", b"node 1"),
        ("version.bind", b"Plughole"),
        ("version.server", b"Plughole"),
    ],
)
def test_the_four_names(name: str, text: bytes, qtype: int) -> None:
    assert told(Chaos("node 1", "Plughole"), name, qtype) == text


def test_other_names_and_types_are_not_ours() -> None:
    chaos = Chaos("node 1", "Plughole")
    for name in ("authors.bind", "bind", "x.id.server", "id.server.x"):
        assert chaos.find(from_text(name), rr.TXT) is None
    assert chaos.find(from_text("id.server"), rr.A) is None


def test_what_is_not_configured_is_not_told() -> None:
    chaos = Chaos("", "Plughole")
    assert chaos.find(from_text("id.server"), rr.TXT) is None
    assert chaos.find(from_text("hostname.bind"), rr.ANY) is None
    assert chaos.nsid == b""
    assert told(chaos, "version.bind", rr.TXT) == b"Plughole"
    assert Chaos("node 1", "").find(from_text("version.bind"), rr.TXT) is None


@given(st.text(min_size=1, max_size=600).filter(lambda text: text.isprintable()))
def test_any_text_comes_through_whole(text: str) -> None:
    chaos = Chaos(text, "")
    assert chaos.nsid == text.encode()
    assert told(chaos, "id.server", rr.TXT) == text.encode()


@given(st.binary(max_size=60), st.integers(0, 65_535))
def test_no_question_breaks_it(qname: bytes, qtype: int) -> None:
    assert Chaos("node 1", "Plughole").find(qname, qtype) is None


def test_any_is_answered_with_one_hinfo() -> None:
    question = dns.message.make_query("www.example.", "ANY", use_edns=False)
    (rrset,) = parsed(question, minimal.ANSWER).answer
    assert rrset.to_text() == 'www.example. 3600 IN HINFO "RFC8482" ""'
    assert minimal.ANSWER.ttl == 3_600
