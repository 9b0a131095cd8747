"""The index over prefixes answers as a search through all of them would, and hostile lists are refused cleanly."""

from __future__ import annotations

import ipaddress
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadFeed
from egress import ranges
from egress.ranges import Ranges, listed, read


def packed(text: str) -> bytes:
    return ipaddress.ip_address(text).packed


def test_the_longest_prefix_answers_and_gaps_are_empty() -> None:
    index = Ranges([listed("cloud", ["100.20.0.0/14", "2600::/16"]), listed("shop", ["100.21.3.0/24", "100.21.3.9"])])
    assert index.find(packed("100.21.3.1")) == "shop"
    assert index.find(packed("100.21.4.1")) == "cloud"
    assert index.find(packed("100.24.0.0")) is None
    assert index.find(packed("100.19.255.255")) is None
    assert index.find(packed("2600::1")) == "cloud"
    assert index.find(packed("2601::1")) is None
    assert packed("100.21.3.9") in index
    assert len(index) == 4


def test_of_equal_prefixes_the_first_named_answers() -> None:
    index = Ranges([listed("first", ["9.0.0.0/8"]), listed("second", ["9.0.0.0/8", "9.1.0.0/16"])])
    assert index.find(packed("9.2.0.0")) == "first"
    assert index.find(packed("9.1.0.0")) == "second"


def test_a_mapped_address_is_the_address_it_maps() -> None:
    assert Ranges([listed("own", ["10.0.0.0/8"])]).find(packed("::ffff:10.1.2.3")) == "own"
    assert Ranges([listed("own", ["::ffff:10.0.0.0/104"])]).find(packed("10.1.2.3")) == "own"
    assert Ranges([listed("own", ["10.0.0.0/8"])]).find(packed("::10.1.2.3")) is None


def test_the_last_address_of_all_can_be_listed() -> None:
    index = Ranges([listed("end", ["255.255.255.255", "ffff::/16"])])
    assert index.find(b"\xff" * 4) == "end"
    assert index.find(b"\xff" * 16) == "end"
    assert index.find(b"\xff\xff\xff\xfe") is None


def test_an_empty_index_finds_nothing() -> None:
    assert Ranges().find(packed("1.2.3.4")) is None


@pytest.mark.parametrize("octets", [b"", b"abc", bytes(5), bytes(17)])
def test_what_is_no_address_is_not_looked_up(octets: bytes) -> None:
    with pytest.raises(ValueError, match="octets"):
        Ranges().find(octets)


nets = st.lists(
    st.one_of(
        st.tuples(st.integers(0, 2**32 - 1), st.integers(4, 32)).map(
            lambda pair: ipaddress.ip_network(pair, strict=False)
        ),
        st.tuples(st.integers(0x0A000000, 0x0A0000FF), st.integers(22, 32)).map(
            lambda pair: ipaddress.ip_network(pair, strict=False)
        ),
    ),
    max_size=12,
)


@given(st.lists(nets, max_size=3), st.lists(st.integers(0, 2**32 - 1), max_size=10))
def test_it_answers_as_a_search_through_all_would(lists: list[list[ipaddress.IPv4Network]], more: list[int]) -> None:
    index = Ranges(listed(str(at), map(str, one)) for at, one in enumerate(lists))
    edges = [int(net[side]) + by for one in lists for net in one for side in (0, -1) for by in (-1, 0, 1)]
    for number in (*more, *(edge for edge in edges if 0 <= edge < 2**32)):
        address = ipaddress.IPv4Address(number)
        holding = [(-net.prefixlen, at) for at, one in enumerate(lists) for net in one if address in net]
        assert index.find(address.packed) == (str(min(holding)[1]) if holding else None)


def test_the_second_half_of_a_wider_list_may_be_in_another() -> None:
    half, whole = listed("half", ["10.0.0.128/25"]), listed("whole", ["10.0.0.0/24", "10.0.0.0/25"])
    index = Ranges([half, whole])
    assert [index.find(bytes((10, 0, 0, last))) for last in (0, 127, 128, 255)] == ["whole", "whole", "half", "half"]


def test_a_misp_list_and_plain_text_say_the_same() -> None:
    misp = json.dumps({"name": "A CDN", "type": "cidr", "version": 3, "list": ["5.6.0.0/16", "2a00::/24"]}).encode()
    text = b"\xef\xbb\xbf# a CDN\n5.6.0.0/16 ; north\r\n\n2a00::/24\n"
    assert read(misp, name="cdn") == read(text, name="cdn")
    assert read(b'["5.6.0.0/16"]', name="cdn").prefixes == read(b"5.6.7.8/16", name="cdn").prefixes


def test_a_bad_entry_is_named_and_left_out() -> None:
    good = [f"5.6.{net}.0/24" for net in range(20)]
    found = listed("cdn", [*good, "5.6.7.0/33", "0.0.0.0/0"])
    assert len(found.prefixes) == 20
    assert found.bad == 2
    assert [mistake.split(":")[0] for mistake in found.mistakes] == ["cdn, entry 21", "cdn, entry 22"]
    assert "covers too much" in found.mistakes[1]


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"# nothing\n",
        b"{",
        b'{"list": [1, 2]}',
        b'{"list": "5.6.0.0/16"}',
        b'{"name": "no list"}',
        b'{"type": "hostname", "list": ["5.6.0.0/16"]}',
        b'{"type": "cidr", "list": []}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"0.0.0.0/0\n",
        b"bank.example\nshop.example\n",
        b"fe80::1%eth0\n",
        b"<html>not found</html>",
        "\u0661.2.3.4".encode(),
        b"\x00" * 1000,
    ],
)
def test_a_hostile_list_is_refused_whole(octets: bytes) -> None:
    with pytest.raises(BadFeed, match="evil"):
        read(octets, name="evil")


@given(st.binary(max_size=300))
def test_any_octets_are_read_or_refused(octets: bytes) -> None:
    try:
        assert read(octets, name="any").prefixes
    except BadFeed as fault:
        assert len(str(fault)) < 1000


def test_a_list_past_its_caps_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "MAX_PREFIXES", 3)
    with pytest.raises(BadFeed, match="more than 3"):
        read(b"1.2.3.4\n1.2.3.5\n1.2.3.6\n1.2.3.7\n", name="long")
    monkeypatch.setattr(ranges, "MAX_OCTETS", 3)
    with pytest.raises(BadFeed, match="at most 3"):
        read(b"1.2.3.4", name="large")


def test_a_look_up_among_many_takes_microseconds() -> None:
    many = tuple(ranges.Prefix(net << 8, (net << 8) | 0xFF, 4) for net in range(0, 200_000, 2))
    index = Ranges([ranges.Listed("many", many)])
    asked = [(number * 7919 % 2**26).to_bytes(4, "big") for number in range(2000)]
    spent = []
    for _ in range(3):  # a machine that stands still is charged to whoever runs then
        began = time.thread_time()
        hits = sum(index.find(address) is not None for address in asked)
        spent.append((time.thread_time() - began) / len(asked))
        assert hits > 100
    assert min(spent) < 100e-6
