"""The PROXY header: who asks is read, everything odd is refused, and a stream may deliver it octet by octet."""

from __future__ import annotations

from ipaddress import ip_address
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import Malformed
from resolver.proxy import MAX_HEADER, SIGNATURE, Header, parse

V4 = ip_address("192.0.2.7").packed + ip_address("192.0.2.53").packed
V6 = ip_address("2001:db8::7").packed + ip_address("2001:db8::53").packed
PORTS = pack("!HH", 40_000, 53)


def header(command: int, family: int, rest: bytes, size: int | None = None) -> bytes:
    return SIGNATURE + bytes((command, family)) + pack("!H", len(rest) if size is None else size) + rest


def tlv(kind: int, value: bytes) -> bytes:
    return bytes((kind,)) + pack("!H", len(value)) + value


@pytest.mark.parametrize(
    ("family", "addresses"), [(0x11, V4), (0x12, V4), (0x21, V6), (0x22, V6)], ids=["tcp4", "udp4", "tcp6", "udp6"]
)
def test_the_client_is_read(family: int, addresses: bytes) -> None:
    data = header(0x21, family, addresses + PORTS)
    assert parse(data + b"the query") == Header(addresses[: len(addresses) // 2], 40_000, len(data))


def test_extensions_are_skipped() -> None:
    data = header(0x21, 0x12, V4 + PORTS + tlv(0x03, b"\x00\x00\x00\x00") + tlv(0x04, b"") + tlv(0xE0, b"x" * 300))
    assert parse(data) == Header(V4[:4], 40_000, len(data))


@pytest.mark.parametrize(
    "data",
    [header(0x20, 0x00, b""), header(0x20, 0x11, V4 + PORTS), header(0x20, 0xFF, b"x"), header(0x21, 0x00, b"abc")],
    ids=["local", "local with addresses", "local of no family", "unspecified"],
)
def test_the_balancer_speaks_for_itself_or_does_not_say(data: bytes) -> None:
    assert parse(data + b"more") == Header(b"", 0, len(data))


def test_a_mapped_client_is_an_ipv4_client() -> None:
    mapped = ip_address("::ffff:192.0.2.7").packed + V6[16:]
    found = parse(header(0x21, 0x21, mapped + PORTS))
    assert found is not None
    assert found.source == V4[:4]


@pytest.mark.parametrize(
    "data",
    [
        b"PROXY TCP4 192.0.2.7 192.0.2.53 40000 53\r\n",
        b"\x00\x1c" + bytes(28),
        SIGNATURE + b"\x11",
        header(0x11, 0x11, V4 + PORTS),
        header(0x22, 0x11, V4 + PORTS),
        header(0x21, 0x31, bytes(216)),
        header(0x21, 0x10, V4 + PORTS),
        header(0x21, 0x13, V4 + PORTS),
        header(0x21, 0x11, V4),
        header(0x21, 0x11, b"", 11),
        header(0x21, 0x21, V4 + PORTS),
        header(0x21, 0x11, V4 + PORTS + b"\x04\x00"),
        header(0x21, 0x11, V4 + PORTS + b"\x04\x00\x02x"),
        header(0x21, 0x11, b"", MAX_HEADER - 15),
        header(0x20, 0x00, b"", 65_535),
    ],
    ids=[
        "version 1", "a bare query", "version 1 in binary", "version", "command", "unix", "no transport", "transport",
        "no ports", "no room for ports", "short for IPv6", "extension cut", "extension too long", "over the cap",
        "local over the cap",
    ],
)  # fmt: skip
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(Malformed):
        parse(data)


def test_the_cap_itself_is_allowed() -> None:
    data = header(0x21, 0x11, V4 + PORTS + tlv(0x04, bytes(MAX_HEADER - 16 - 12 - 3)))
    assert parse(data) == Header(V4[:4], 40_000, MAX_HEADER)


@given(st.sampled_from([V4, V6]), st.lists(st.binary(max_size=50), max_size=5), st.binary(max_size=20), st.data())
def test_a_stream_waits_for_the_whole_header(
    addresses: bytes, tlvs: list[bytes], rest: bytes, data: st.DataObject
) -> None:
    family = 0x11 if addresses is V4 else 0x21
    whole = header(0x21, family, addresses + PORTS + b"".join(tlv(0x05, value) for value in tlvs))
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert parse(whole[:cut]) is None
    found = parse(whole + rest)
    assert found == parse(whole)
    assert found is not None
    assert found.size == len(whole)


@given(st.one_of(st.binary(max_size=100), st.binary(max_size=100).map(lambda data: SIGNATURE + data)))
def test_no_bytes_break_it(data: bytes) -> None:
    try:
        found = parse(data)
    except Malformed:
        return
    if found is None:
        assert len(data) < MAX_HEADER
        assert SIGNATURE.startswith(data[:12])
    else:
        assert 16 <= found.size <= len(data)
        assert len(found.source) in (0, 4, 16)


@given(st.integers(0, 255), st.integers(0, 255), st.binary(max_size=80))
def test_no_command_or_family_breaks_it(command: int, family: int, rest: bytes) -> None:
    try:
        found = parse(header(command, family, rest))
    except Malformed:
        return
    assert command in (0x20, 0x21)
    assert found is not None
    assert found.size == 16 + len(rest)
