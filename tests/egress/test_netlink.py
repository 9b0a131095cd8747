"""The kernel's answers: what is well formed is read, what is damaged is refused and never read past its end."""

from __future__ import annotations

import errno
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from egress import netlink
from egress.enforcer import Standing, Target
from egress.nftables_elements import Change, culprit, messages, place, standings, target_of

KINDS = st.integers(1, 0x3FFF)
LISTS = st.lists(st.tuples(KINDS, st.binary(max_size=40)), max_size=8)
SETS = ("block4", "block6", "pair4", "pair6")


def packed(kind: int, flags: int, sequence: int, payload: bytes) -> bytes:
    data = struct.pack("=IHHII", 16 + len(payload), kind, flags, sequence, 0) + payload
    return data + bytes(-len(data) % 4)


def listed(key: bytes, *, left: int, packets: int, octets: int) -> bytes:
    """One element as the kernel lists it in a set with `flags timeout; counter`."""
    counter = netlink.nested(
        7,
        netlink.text(1, "counter"),
        netlink.nested(
            2, netlink.attribute(1, struct.pack("!Q", octets)), netlink.attribute(2, struct.pack("!Q", packets))
        ),
    )
    element = netlink.nested(
        1, netlink.nested(1, netlink.attribute(1, key)), netlink.attribute(5, struct.pack("!Q", left)), counter
    )
    return netlink.text(1, "plughole") + netlink.nested(3, element)


@given(LISTS)
def test_attributes_come_back_as_they_were_put(pairs: list[tuple[int, bytes]]) -> None:
    assert list(netlink.attributes(b"".join(netlink.attribute(*pair) for pair in pairs))) == pairs


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=6))
def test_messages_come_back_as_they_were_put(parts: list[tuple[int, int, bytes]]) -> None:
    datagram = b"".join(packed(kind, flags, 7, payload) for kind, flags, payload in parts)
    assert [(found.kind, found.flags, found.payload) for found in netlink.messages(datagram)] == parts


@given(st.binary(max_size=200))
def test_any_octets_parse_or_are_malformed(data: bytes) -> None:
    try:
        for message in netlink.messages(data):
            netlink.error(message)
            list(netlink.attributes(netlink.general(message)))
    except netlink.Malformed:
        pass
    for name in SETS:
        try:
            list(standings(name, data))
        except netlink.Malformed:
            continue


@given(st.data())
def test_a_damaged_listing_parses_or_is_malformed(data: st.DataObject) -> None:
    whole = bytearray(listed(bytes([91, 66, 0, 80]), left=1500, packets=3, octets=180))
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        found = list(standings("block4", cut))
    except netlink.Malformed:
        return
    for standing in found:
        socket.inet_pton(socket.AF_INET, standing.target.address)


def test_a_listed_element_is_read_whole() -> None:
    piece = listed(bytes([91, 66, 0, 80]), left=1500, packets=3, octets=180)
    assert list(standings("block4", piece)) == [Standing(Target("91.66.0.80"), 1.5, 3, 180)]


@pytest.mark.parametrize("data", [b"\x01", b"\x03\0\1\0", b"\xff\xff\1\0aaaa"])
def test_an_attribute_of_impossible_length_is_malformed(data: bytes) -> None:
    with pytest.raises(netlink.Malformed):
        list(netlink.attributes(data))


@pytest.mark.parametrize(
    "data", [bytes(15), struct.pack("=IHHII", 15, 2, 0, 1, 0), struct.pack("=IHHII", 99, 2, 0, 1, 0)]
)
def test_a_message_of_impossible_length_is_malformed(data: bytes) -> None:
    with pytest.raises(netlink.Malformed):
        list(netlink.messages(data))


def test_an_attribute_too_long_for_its_length_is_refused() -> None:
    assert len(netlink.attribute(1, bytes(0xFFFF - 4))) == 0x10000
    with pytest.raises(ValueError, match="at most"):
        netlink.attribute(1, bytes(0xFFFF - 3))


@pytest.mark.parametrize("capped", [True, False])
def test_an_error_says_its_number_and_where(capped: bool) -> None:
    refused = packed(0xA0C, 5, 3, bytes(20))
    payload = struct.pack("=i", -errno.ENFILE) + (refused[:16] if capped else refused)
    payload += netlink.text(1, "no room") + netlink.attribute(2, struct.pack("=I", 72))
    (message,) = netlink.messages(packed(2, 0x300 if capped else 0x200, 3, payload))
    assert netlink.error(message) == (errno.ENFILE, 72)


def test_an_error_without_more_has_no_place() -> None:
    (message,) = netlink.messages(packed(2, 0, 3, struct.pack("=i", -errno.EPERM) + bytes(16)))
    assert netlink.error(message) == (errno.EPERM, None)
    for payload in (b"", b"\0\0\0", struct.pack("=i", 5)):
        with pytest.raises(netlink.Malformed):
            netlink.error(netlink.Message(2, 0, 1, payload))


@given(
    st.sampled_from(
        [
            (Target("91.66.0.80"), "block4"),
            (Target("2001:db8::1"), "block6"),
            (Target("91.66.0.80", "10.0.0.1"), "pair4"),
            (Target("2001:db8::1", "fd00::2"), "pair6"),
        ]
    ),
    st.integers(1, 2000),
    st.data(),
)
def test_an_offset_leads_back_to_its_element(kind: tuple[Target, str], count: int, data: st.DataObject) -> None:
    target, name = kind
    assert place(target)[0] == name
    assert target_of(*place(target)) == target
    changes = [Change(target, name, place(target)[1], 1000 + at) for at in range(count)]
    chunks = list(messages(12, changes, timed=True))
    assert [change for chunk in chunks for change in chunk.changes] == changes
    chunk = data.draw(st.sampled_from(chunks))
    at = data.draw(st.integers(0, len(chunk.changes) - 1))
    stamp = netlink.attribute(4, struct.pack("!Q", chunk.changes[at].milliseconds))
    offset = 20 + chunk.request.payload.index(stamp)
    assert culprit(chunk, offset) == chunk.changes[at]
    assert culprit(chunk, 20) is None
    assert len(chunk.request.payload) <= netlink.MAX_ATTRIBUTE


@pytest.mark.parametrize(
    "target", [Target("bank.example"), Target("10.0.0.1", "fd00::1"), Target("::1", "10.0.0.1"), Target("")]
)
def test_what_is_no_pair_of_addresses_has_no_place(target: Target) -> None:
    with pytest.raises(ValueError, match="not addresses of one family"):
        place(target)


class _Kernel:
    """Answers with datagrams that were laid down; stands for the socket."""

    def __init__(self, answers: list[bytes | OSError]) -> None:
        self.answers, self.sent = answers, 0

    def send(self, data: bytes) -> int:
        self.sent += 1
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer, [], 0, (0, 0)

    def close(self) -> None:
        return


def client(answers: list[bytes | OSError]) -> tuple[netlink.Netfilter, _Kernel]:
    made, kernel = netlink.Netfilter(), _Kernel(answers)
    made.close()
    made._socket = kernel  # type: ignore[assignment]
    return made, kernel


def one(sequence: int, value: bytes, *, flags: int = 2) -> bytes:
    return packed(0xA0C, flags, sequence, bytes(4) + netlink.attribute(3, value))


def done(sequence: int) -> bytes:
    return packed(3, 2, sequence, bytes(4))


def test_a_listing_comes_in_pieces() -> None:
    made, _ = client([one(1, b"aaaa") + one(1, b"bbbb"), one(1, b"cccc"), done(1)])
    assert made.listing(13, 1, b"") == [netlink.attribute(3, value) for value in (b"aaaa", b"bbbb", b"cccc")]


@pytest.mark.parametrize(
    "first",
    [
        [one(1, b"aaaa", flags=2 | 0x10), done(1)],
        [OSError(errno.ENOBUFS, "lost")],
        [one(1, b"aaaa"), packed(2, 0, 1, struct.pack("=i", -errno.EINTR) + bytes(16))],
    ],
)
def test_an_overtaken_or_lost_listing_is_read_again(first: list[bytes | OSError]) -> None:
    made, kernel = client([*first, one(1, b"late"), one(2, b"bbbb"), done(2)])
    assert made.listing(13, 1, b"") == [netlink.attribute(3, b"bbbb")]
    assert kernel.sent == 2


def test_a_listing_that_never_settles_is_given_up() -> None:
    made, _ = client([packed(3, 2 | 0x10, sequence, bytes(4)) for sequence in range(1, 50)])
    with pytest.raises(InterruptedError):
        made.listing(13, 1, b"")


def test_a_transaction_names_what_was_refused() -> None:
    requests = [netlink.Request(12, 0, 1, b"")] * 3
    fault = packed(2, 0x100, 3, struct.pack("=i", -errno.ENFILE) + bytes(16))
    fine = packed(2, 0x100, 4, bytes(20))
    made, _ = client([packed(2, 0, 999, bytes(20)) + fault, fine])
    assert made.transaction(requests) == [netlink.Refusal(1, errno.ENFILE, None)]
    made, _ = client([packed(2, 0x100, 1, struct.pack("=i", -errno.ENOMEM) + bytes(16))])
    assert made.transaction(requests) == [netlink.Refusal(-1, errno.ENOMEM, None)]
    made, _ = client([packed(2, 0x100, 1, struct.pack("=i", -errno.EPERM) + bytes(16))])
    with pytest.raises(PermissionError):
        made.transaction(requests)
    made, _ = client([TimeoutError()])
    with pytest.raises(OSError, match="did not answer"):
        made.transaction(requests)


def test_a_listing_with_something_twice_is_read_again() -> None:
    readings = [[1, 1], [1, 2, 2], [1, 2, 3]]
    assert netlink.whole(lambda: readings.pop(0), lambda number: number) == [1, 2, 3]


def test_a_listing_that_never_settles_is_taken_as_it_is() -> None:
    assert netlink.whole(lambda: [1, 1], lambda number: number) == [1, 1]
