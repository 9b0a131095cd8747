"""Events to columns: text is right for any bytes, and the rows keep their order."""

from __future__ import annotations

import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from core import names
from core.event import Event
from journal.columns import Texts, address_text, block, height, join, name_texts

label = st.binary(min_size=1, max_size=20)
wire = st.lists(label, max_size=6).map(lambda parts: names.from_labels(tuple(parts)))


@given(st.lists(wire, min_size=1, max_size=40))
def test_names_become_the_same_text_together_as_one_by_one(wires: list[bytes]) -> None:
    assert name_texts(wires) == [names.to_text(one) for one in wires]


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=20))
def test_bytes_that_are_no_names_do_no_harm(wires: list[bytes]) -> None:
    assert name_texts(wires) == [names.to_text(one) for one in wires]


def test_the_longest_name_there_is() -> None:
    longest = names.from_labels((b"a",) * 127)
    assert name_texts([longest, names.ROOT]) == [names.to_text(longest), "."]


@given(st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)))
def test_addresses_as_text_mean_the_same_address(address: bytes) -> None:
    assert ipaddress.ip_address(address_text(address)).packed == address


def test_an_odd_client_is_shown_in_hexadecimal() -> None:
    assert address_text(b"\x01\x02\x03") == "010203"
    assert address_text(b"") == ""


def test_numbers_out_of_range_are_clipped() -> None:
    columns = block([Event(1.0, b"\x7f\0\0\1", b"\0", 70_000, -1, count=2**40, duration=-5)], Texts())
    found = {name: columns[name].tolist() for name in ("qtype", "rcode", "count", "duration")}  # type: ignore[union-attr]
    assert found == {"qtype": [65_535], "rcode": [0], "count": [2**32 - 1], "duration": [0]}


def test_joined_blocks_keep_order_where_only_some_have_a_text() -> None:
    first = block([Event(1.0, b"\x7f\0\0\1", b"\0", 1, 0)], Texts())
    second = block([Event(2.0, b"\x7f\0\0\1", b"\0", 1, 0, view="guests")], Texts())
    both = join([first, second])
    assert height(both) == 2
    assert both["view"].tolist() == ["", "guests"]  # type: ignore[union-attr]
    assert both["member"] is None


def test_remembered_texts_are_bounded(monkeypatch: object) -> None:
    texts = Texts()
    for number in range(70_000):
        texts.address(number.to_bytes(4))
    assert len(texts.address.__self__) <= 32_768  # type: ignore[attr-defined]
