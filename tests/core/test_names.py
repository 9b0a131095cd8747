"""Names: two doors to text, suffixes as slices, labels compared as labels."""

from __future__ import annotations

from pathlib import Path

import dns.name
import publicsuffixlist
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import names
from core.errors import BadName

label = st.binary(min_size=1, max_size=63)
wire_names = (
    st.lists(label, max_size=8)
    .filter(lambda parts: sum(map(len, parts)) + len(parts) < 255)
    .map(lambda parts: names.from_labels(tuple(parts)))
)


@given(wire_names)
def test_text_and_back_is_the_same_name(name: bytes) -> None:
    assert names.from_text(names.to_text(name)) == name


@given(wire_names)
def test_text_is_what_dnspython_writes(name: bytes) -> None:
    theirs = dns.name.from_wire(name, 0)[0]
    assert dns.name.from_text(names.to_text(name) + ("" if name == names.ROOT else ".")) == theirs


@given(wire_names)
def test_suffixes_are_the_name_and_all_its_parents(name: bytes) -> None:
    found = names.suffixes(name)
    assert [len(names.labels(suffix)) for suffix in found] == list(range(len(names.labels(name)), 0, -1))
    assert all(names.is_under(name, suffix) for suffix in found)


@given(wire_names, wire_names)
def test_is_under_agrees_with_labels(first: bytes, second: bytes) -> None:
    a, b = names.labels(first), names.labels(second)
    assert names.is_under(first, second) == (len(a) >= len(b) and a[len(a) - len(b) :] == b)


@given(st.text(max_size=300))
def test_any_text_gives_a_name_or_bad_name(text: str) -> None:
    try:
        name = names.from_text(text)
    except BadName:
        return
    assert name == name.lower()
    assert len(name) <= names.MAX_NAME


@pytest.mark.parametrize(
    ("text", "wire"),
    [
        (".", b"\x00"),
        ("Example.COM", b"\x07example\x03com\x00"),
        ("example.com.", b"\x07example\x03com\x00"),
        (r"a\.b.example", b"\x03a.b\x07example\x00"),
        (r"\000\255.x", b"\x02\x00\xff\x01x\x00"),
        ("bücher.example", b"\x0dxn--bcher-kva\x07example\x00"),
        ("bücher。example", b"\x0dxn--bcher-kva\x07example\x00"),
    ],
)
def test_from_text(text: str, wire: bytes) -> None:
    assert names.from_text(text) == wire


@pytest.mark.parametrize("text", ["", "a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5), "a\\", "a\\25", "a\\999"])
def test_from_text_refuses(text: str) -> None:
    with pytest.raises(BadName):
        names.from_text(text)


def test_a_sibling_that_ends_alike_is_not_under() -> None:
    assert not names.is_under(names.from_text("notexample.com"), names.from_text("example.com"))


@pytest.mark.parametrize(
    ("text", "apex"),
    [
        ("a.b.example.co.uk", "example.co.uk"),
        ("example.com", "example.com"),
        ("co.uk", "co.uk"),
        ("localhost", "localhost"),
        ("x.tenant.github.io", "tenant.github.io"),
        ("www.unknown-tld-name.zz9", "unknown-tld-name.zz9"),
        ("b.a.nom.br", "b.a.nom.br"),
        ("www.ck", "www.ck"),
        ("a.www.ck", "www.ck"),
    ],
)
def test_registered_domain(text: str, apex: str) -> None:
    assert names.registered_domain(names.from_text(text)) == names.from_text(apex)


def test_nobody_registers_below_the_root() -> None:
    assert names.registered([]) == b""


def test_registered_domains_are_those_of_the_library_whose_list_it_is() -> None:
    library = publicsuffixlist.PublicSuffixList()
    listed = Path(publicsuffixlist.PSLFILE).read_text("utf-8").splitlines()
    rules = [line.strip().lstrip("!*.") for line in listed if line.strip() and not line.startswith("//")]
    for text in (before + rule for rule in rules if rule.isascii() for before in ("", "x.", "a.b.")):
        name = names.from_text(text)
        assert names.to_text(names.registered_domain(name)) == (library.privatesuffix(text) or text)
        assert names.is_public_suffix(name) == (library.privatesuffix(text) is None)
