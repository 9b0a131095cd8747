"""AD, CD, DO and cookies as real clients see them, and a validator of the client's own behind the node."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Final

import pytest
from protocol.office import FIRST, SECOND, Office

SECURE: Final = "www.good.com"
INSECURE: Final = "target.plain.net"
BOGUS: Final = "tampered.bogus.com"
_COOKIE: Final = re.compile(r"COOKIE: ([0-9A-Fa-f]+)")


def flags(said: str) -> set[str]:
    """Return the flags of a reply as dig, kdig and drill print them."""
    found = re.search(r"flags: ([a-z ]*?) ?;", said, re.IGNORECASE)
    assert found, said
    return set(found[1].split())


@pytest.mark.parametrize("name", [SECURE, INSECURE, BOGUS])
@pytest.mark.parametrize(("ad", "cd", "do"), list(itertools.product([False, True], repeat=3)))
def test_every_combination_of_ad_cd_and_do(place: Office, name: str, ad: bool, cd: bool, do: bool) -> None:
    words = [f"+{'' if on else 'no'}{flag}" for flag, on in (("adflag", ad), ("cdflag", cd), ("dnssec", do))]
    for program, nothing in (("dig", "+nocookie"), ("kdig", "+edns")):
        said = place.run(f"{program} {nothing} {' '.join(words)} {name} A")
        seen = flags(said)
        assert ("cd" in seen) == cd, said
        assert ("RRSIG" in said) == (do and name != INSECURE and (cd or name != BOGUS)), said
        assert ("flags: do" in said) == do, said
        assert ("status: SERVFAIL" in said) == (name == BOGUS and not cd), said
        if not cd:  # with CD nobody is told that we checked: RFC 6840 section 5.9 leaves AD to the resolver
            assert ("ad" in seen) == (name == SECURE and (ad or do)), said


def test_drill_sees_the_same(place: Office) -> None:
    assert "ad" in flags(place.run(f"drill -D {SECURE}"))
    assert "ad" not in flags(place.run(f"drill -o ad {SECURE}"))
    assert "RRSIG" not in place.run(f"drill {SECURE}")
    assert "rcode: SERVFAIL" in place.run(f"drill -D {BOGUS}")
    assert "rcode: NOERROR" in place.run(f"drill -D -o CD {BOGUS}")


@pytest.mark.parametrize("name", ["absent.good.com", "mail.good.com"])
def test_a_proof_goes_to_those_who_ask(place: Office, name: str) -> None:
    said = place.run(f"dig +dnssec {name} AAAA")
    assert "ad" in flags(said)
    assert re.search(r"\sNSEC\s", said)
    assert not re.search(r"\s(NSEC|RRSIG)\s", place.run(f"dig {name} AAAA"))
    assert re.search(r"\sRRSIG\s", place.run("dig www.good.com RRSIG"))  # asked for by its name, without DO


# ---- a validating client


@pytest.fixture(scope="module")
def anchor(place: Office, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tag, algorithm, digest, *text = place.internet.trust_anchor.read_text().split(" DS ")[1].split()
    path = tmp_path_factory.mktemp("delv") / "anchors"
    path.write_text(f'trust-anchors {{ "." static-ds {tag} {algorithm} {digest} "{"".join(text)}"; }};\n')
    return path


@pytest.mark.parametrize(
    ("question", "says"),
    [
        (SECURE, r"^; fully validated\n.*192\.0\.2\.11$"),
        (f"{SECURE} AAAA", r"^; fully validated\n"),
        ("chain.good.com", r"^; unsigned answer\nhop\.plain\.net"),
        ("some.wild.good.com", r"^; fully validated\n.*192\.0\.2\.12$"),
        (INSECURE, r"^; unsigned answer\n"),
        (BOGUS, r"resolution failed"),
        ("expired.bogus.com", r"resolution failed"),
        ("absent.good.com", r"^; negative response, fully validated"),
        ("www.good.com MX", r"^; negative response, fully validated"),
        (". DNSKEY", r"^; fully validated\n"),
    ],
)
def test_delv_validates_through_the_node(place: Office, anchor: Path, question: str, says: str) -> None:
    said = place.run(f"delv -a {anchor} +root=. {question}")
    assert re.search(says, said, re.MULTILINE), said


def test_delv_sees_forgery_that_the_node_lets_pass_with_cd(place: Office, anchor: Path) -> None:
    said = place.run(f"delv -a {anchor} +root=. +cd {BOGUS}")
    assert "resolution failed" in said
    assert re.search(r"RRSIG failed to verify|broken trust chain|no valid RRSIG|failed", said)


# ---- cookies, RFC 7873 and RFC 9018


def cookie(said: str) -> str:
    found = _COOKIE.search(said)
    assert found, said
    return found[1].lower()


@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_client_is_given_a_cookie(place: Office, transport: str) -> None:
    said = place.run(f"dig {transport} +cookie=0102030405060708 {SECURE}")
    assert "(good)" in said
    assert cookie(said)[:16] == "0102030405060708"
    assert cookie(said)[16:24] == "01000000"  # version and reserved octets, RFC 9018 section 4
    assert len(cookie(said)) == 2 * 24


def test_a_cookie_shown_comes_back_the_same(place: Office) -> None:
    first = cookie(place.run(f"dig +cookie {SECURE}"))
    assert cookie(place.run(f"dig +cookie={first} {SECURE}")) == first
    assert cookie(place.run(f"dig +tcp +cookie={first} {INSECURE}")) == first


def test_a_cookie_of_another_client_or_address_is_replaced(place: Office) -> None:
    first = cookie(place.run(f"dig +cookie {SECURE}"))
    elsewhere = place.run(f"dig -b 127.0.0.77 +cookie={first} {SECURE}")
    assert "status: NOERROR" in elsewhere
    assert cookie(elsewhere)[:16] == first[:16]
    assert cookie(elsewhere)[16:] != first[16:]
    forged = first[:-2] + ("00" if first[-2:] != "00" else "01")
    assert cookie(place.run(f"dig +cookie={forged} {SECURE}")) not in {forged, ""}
    other = "ffffffffffffffff" + first[16:]
    assert cookie(place.run(f"dig +cookie={other} {SECURE}"))[16:] != first[16:]


def test_kdig_gets_a_cookie_and_shows_it(place: Office) -> None:
    first = cookie(place.run(f"kdig +cookie=0102030405060708 {SECURE}"))
    assert first.startswith("0102030405060708")
    assert len(first) == 2 * 24
    assert cookie(place.run(f"kdig +cookie={first} {SECURE}")) == first


def test_nobody_gets_a_cookie_who_did_not_ask_or_where_they_are_off(place: Office) -> None:
    assert "COOKIE" not in place.run(f"dig +nocookie {SECURE}", FIRST)
    assert "COOKIE" not in place.run(f"dig +cookie {SECURE}", SECOND)
    assert "status: NOERROR" in place.run(f"dig +cookie {SECURE}", SECOND)
