"""The probes of RFC 8906 section 8, as dig sends them to a recursive server, and the edges of DNS cookies (RFC 7873).

Rules:
1. As section 8 says of recursive servers, RD is set and the zone is one they do not serve; AA must then be absent.
2. Every probe goes over UDP and over TCP.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

import pytest
from protocol.office import Office

ZONE: Final = "good.com"
TRANSPORTS: Final = ("+notcp", "+tcp")
PATIENT: Final = "+tries=1 +time=20"  # one question, and its answer comes at once unless the machine stands still


class Probe(NamedTuple):
    section: str
    options: str  # to dig, with the question
    status: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()


SOA: Final = r"^good\.com\.\s+\d+\s+IN\s+SOA\s"
OPT: Final = r"EDNS: version: 0,"
AA: Final = r"^;; flags: [^;]*\baa\b"
MBZ: Final = "MBZ"
DO: Final = r"version: 0, flags: do;"
PROBES: Final = (
    Probe("8.1.1-configured", "+noedns +noad soa {zone}", "NOERROR", (SOA,), (AA, "OPT PSEUDO")),
    Probe("8.1.2-unknown-type", "+noedns +noad type1000 {zone}", "NOERROR", ("ANSWER: 0",), (AA, "OPT PSEUDO")),
    Probe("8.1.3.1-cd", "+noedns +noad +cd soa {zone}", "NOERROR", (SOA, r"flags: [^;]*\bcd\b"), (AA,)),
    Probe("8.1.3.2-ad", "+noedns +ad soa {zone}", "NOERROR", (SOA, r"flags: [^;]*\bad\b"), (AA,)),
    Probe("8.1.3.3-reserved-bit", "+noedns +noad +zflag soa {zone}", "NOERROR", (SOA,), (AA, MBZ)),
    Probe("8.1.3.4-recursive", "+noedns +noad soa {zone}", "NOERROR", (SOA, r"flags: [^;]*\brd ra\b"), (AA,)),
    Probe("8.1.4-unknown-opcode", "+noedns +noad +opcode=15 +header-only", "NOTIMP", (), (SOA, AA)),
    Probe("8.2.1-minimal", "+nocookie +edns=0 +noad soa {zone}", "NOERROR", (SOA, OPT), (AA,)),
    Probe("8.2.2-version", "+nocookie +edns=1 +noednsneg +noad soa {zone}", "BADVERS", (OPT,), (SOA, AA)),
    Probe("8.2.3-option", "+nocookie +edns=0 +noad +ednsopt=100 soa {zone}", "NOERROR", (SOA, OPT), (AA, "OPT=100")),
    Probe("8.2.4-flag", "+nocookie +edns=0 +noad +ednsflags=0x40 soa {zone}", "NOERROR", (SOA, OPT), (AA, MBZ)),
    Probe("8.2.5-version-and-flag", "+nocookie +edns=1 +noednsneg +noad +ednsflags=0x40 soa {zone}",
          "BADVERS", (OPT,), (SOA, AA, MBZ)),
    Probe("8.2.6-version-and-option", "+nocookie +edns=1 +noednsneg +noad +ednsopt=100 soa {zone}",
          "BADVERS", (OPT,), (SOA, AA, "OPT=100")),
    Probe("8.2.7-truncated", "+dnssec +bufsize=512 +ignore dnskey {zone}", "NOERROR", (OPT,), (AA,)),
    Probe("8.2.8-do", "+nocookie +edns=0 +noad +dnssec soa {zone}", "NOERROR", (SOA, OPT, DO, "RRSIG"), (AA,)),
    Probe("8.2.9-version-and-do", "+nocookie +edns=1 +noednsneg +noad +dnssec soa {zone}",
          "BADVERS", (OPT, DO), (SOA, AA)),
    Probe("8.2.10-several-options", "+edns=0 +noad +cookie +nsid +expire +subnet=0.0.0.0/0 soa {zone}",
          "NOERROR", (SOA, OPT, "COOKIE: .*good"), (AA, "EXPIRE", "CLIENT-SUBNET")),
)  # fmt: skip


def check(place: Office, command: str, status: str, has: tuple[str, ...], lacks: tuple[str, ...]) -> None:
    said = place.run(command)
    assert f"status: {status}," in said, said
    assert all(re.search(pattern, said, re.MULTILINE) for pattern in has), f"{has}\n{said}"
    assert not any(re.search(pattern, said, re.MULTILINE) for pattern in lacks), f"lacks {lacks}\n{said}"


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("probe", [pytest.param(probe, id=probe.section) for probe in PROBES])
def test_section_8(place: Office, probe: Probe, transport: str) -> None:
    command = f"dig {transport} +rec {PATIENT} {probe.options.format(zone=ZONE)}"
    check(place, command, probe.status, probe.has, probe.lacks)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_truncated_reply_keeps_opt_and_question(place: Office, transport: str) -> None:
    said = place.run(f"dig {transport} +dnssec +bufsize=512 +ignore +nocookie middle.{ZONE} TXT")
    assert (";; flags: qr tc rd ra" in said) == (transport == "+notcp"), said
    assert re.search(DO, said), said
    assert "QUERY: 1" in said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_question_without_rd_is_answered_one_way_or_the_other(place: Office, transport: str) -> None:
    said = place.run(f"dig {transport} +norec +noad soa {ZONE}")
    assert re.search(r"status: (NOERROR|REFUSED),", said), said
    assert re.search(r"^;; flags: qr ra;", said, re.MULTILINE), said


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 5, 7, 14])
def test_other_opcodes_are_not_implemented(place: Office, opcode: int, transport: str) -> None:
    said = place.run(f"dig {transport} +noad +nocookie +opcode={opcode} {PATIENT} soa {ZONE}")
    assert "status: NOTIMP," in said, said
    assert "ANSWER: 0" in said


# ---- RFC 7873


def with_cookie(place: Office, transport: str, octets: int) -> str:
    value = "".join(f"{at:02x}" for at in range(1, octets + 1))
    return place.run(f"dig {transport} {PATIENT} +nocookie +ednsopt=10:{value} soa {ZONE}")


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("octets", [0, 1, 7, 9, 12, 15, 41, 64])
def test_a_cookie_of_a_length_that_cannot_be_is_a_format_error(place: Office, octets: int, transport: str) -> None:
    said = with_cookie(place, transport, octets)  # RFC 7873 section 5.2.2
    assert "status: FORMERR," in said, said
    assert not re.search(SOA, said, re.MULTILINE)


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("octets", [8, 16, 17, 24, 32, 40])
def test_a_cookie_of_a_length_that_can_be_is_answered_with_a_good_one(
    place: Office, octets: int, transport: str
) -> None:
    said = with_cookie(place, transport, octets)
    assert "status: NOERROR," in said, said
    assert re.search(SOA, said, re.MULTILINE)
    assert re.search(r"COOKIE: 010203040506070801000000[0-9a-f]{24}", said), said


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_a_client_may_ask_for_a_cookie_and_nothing_else(place: Office, transport: str) -> None:
    said = place.run(f"dig {transport} {PATIENT} +header-only +cookie=0102030405060708")  # section 5.4
    assert "status: NOERROR," in said, said
    assert re.search(r"QUERY: 0, ANSWER: 0, AUTHORITY: 0, ADDITIONAL: 1", said), said
    assert re.search(r"COOKIE: 010203040506070801000000[0-9a-f]{24}", said), said


@pytest.mark.parametrize("transport", TRANSPORTS)
@pytest.mark.parametrize("options", ["+noedns", "+nocookie +edns=0"])
def test_no_question_and_no_cookie_is_a_format_error(place: Office, options: str, transport: str) -> None:
    said = place.run(f"dig {transport} {PATIENT} +header-only {options}")
    assert "status: FORMERR," in said, said
