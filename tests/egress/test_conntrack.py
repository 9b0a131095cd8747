"""Connections of the kernel become octets of pairs: each once, whatever ends when, within every cap."""

from __future__ import annotations

import errno
import struct
from collections import Counter
from collections.abc import Iterator
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from netlinked import ENDED4, LISTED4, LISTED6

from egress import conntrack
from egress.connections import Connection, Ends, ends, read
from egress.conntrack import Flows, Tally, accounted, inside
from egress.netlink import Malformed, Message, attribute, messages, nested
from egress.orders import Attempt, Flow

NOW = 1_000.0
CLIENT = ip_address("10.20.1.2").packed
CLIENT6 = ip_address("fd20:1::2").packed
C2 = ip_address("91.66.0.80").packed
C26 = ip_address("2a01:66::80").packed


def ends_of(
    client: bytes = CLIENT, address: bytes = C2, *, port: int = 443, source: int = 1, protocol: int = 6
) -> bytes:
    kinds = (1, 2) if len(client) == 4 else (3, 4)
    ways = nested(1, attribute(kinds[0], client), attribute(kinds[1], address))
    transport = [attribute(1, bytes((protocol,))), attribute(2, struct.pack("!H", source))]
    return ways + nested(2, *transport, attribute(3, struct.pack("!H", port)))


def connection(sent: int, received: int = 0, *, identity: bytes = b"1", status: int = 0, **given: object) -> Connection:
    return Connection(ends_of(**given), identity, status, sent, received, 0.0)  # type: ignore[arg-type]


def tally(*, listed: bool = True) -> Tally:
    made = Tally("gate", lambda _client, _address: False)
    if listed:
        made.begin()
        made.end()
    return made


def told(made: Tally) -> list[tuple[int, int, int]]:
    return [(one.sent, one.received, one.connections) for one in made.take(NOW) if isinstance(one, Flow)]


def listing(made: Tally, *connections: Connection) -> None:
    made.begin()
    for one in connections:
        made.count(one, ended=False)
    made.end()


@pytest.mark.parametrize(
    ("data", "wanted", "octets"),
    [(LISTED4, Ends(CLIENT, C2, 6, 4444), (5_320, 220)), (LISTED6, Ends(CLIENT6, C26, 6, 4444), (5_728, 516))],
)
def test_a_recorded_connection_is_read_whole(data: bytes, wanted: Ends, octets: tuple[int, int]) -> None:
    found = read(data)
    assert ends(found.tuple_) == wanted
    assert (found.sent, found.received, found.began) == (*octets, 0.0)
    assert len(found.identity) == 4


def test_a_recorded_end_is_the_same_connection() -> None:
    (message,) = messages(ENDED4)
    assert message.kind == 0x102
    ended, was = read(message.payload[4:]), read(LISTED4)
    assert ended.key == was.key
    assert (ended.sent, ended.received) == (was.sent, was.received)
    assert ended.status == was.status | 0x200


@given(st.sampled_from([LISTED4, LISTED6]), st.binary(min_size=1, max_size=6), st.data())
def test_a_damaged_connection_is_read_or_malformed(whole: bytes, script: bytes, draw: st.DataObject) -> None:
    data = bytearray(whole)
    for octet in script:
        data[draw.draw(st.integers(0, len(data) - 1))] = octet
    try:
        found = read(bytes(data[: draw.draw(st.integers(0, len(data)))]))
        who = ends(found.tuple_)
    except Malformed:
        return
    assert len(who.client) == len(who.address) in {4, 16}
    assert 0 <= found.sent < 1 << 64


@given(st.lists(st.binary(max_size=300), max_size=3))
def test_any_news_is_survived(datagrams: list[bytes]) -> None:
    part = Flows("gate")
    part._take(datagrams)
    assert part.counters()["ended"] == 0


def test_the_first_listing_tells_nothing_and_later_ones_what_was_added() -> None:
    made = tally(listed=False)
    listing(made, connection(5_000, 70))
    assert told(made) == []
    listing(made, connection(5_000, 70))
    assert told(made) == []
    listing(made, connection(5_600, 100))
    assert told(made) == [(600, 30, 1)]


def test_connections_of_one_pair_are_told_together() -> None:
    made = tally()
    listing(
        made,
        connection(10, 1),
        connection(20, 2, identity=b"2", source=2),
        connection(5, identity=b"3", address=C26, client=CLIENT6),
    )
    assert told(made) == [(30, 3, 2), (5, 0, 1)]


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_connection_that_ends_is_counted_once(when: str) -> None:
    """`during`: the kernel told of the end before it listed the connection, which it does not list as dying."""
    made = tally()
    listing(made, connection(100))
    made.count(connection(150, status=0x200), ended=True) if when == "before" else None
    made.begin()
    if when == "during":
        made.count(connection(150, status=0x200), ended=False)
        made.count(connection(150, status=0x200), ended=True)
    elif when == "after":
        made.count(connection(120), ended=False)
        made.count(connection(150, status=0x200), ended=True)
    made.end()
    assert sum(sent for sent, _, _ in told(made)) == 150
    assert made.counters()["tracked"] == 0
    listing(made)
    assert told(made) == []


def test_one_that_came_and_went_between_listings_is_counted_whole() -> None:
    made = tally()
    made.count(connection(700, 20), ended=True)
    assert told(made) == [(700, 20, 1)]


def test_a_listing_that_breaks_off_costs_nothing() -> None:
    made, other = tally(), partial(connection, identity=b"2", source=2)
    listing(made, connection(100), other(200))
    made.begin()
    made.count(connection(110), ended=False)
    listing(made, connection(120), other(250))
    assert told(made) == [(370, 0, 5)]
    listing(made, connection(120), other(250))
    assert told(made) == []


class Table:
    """Yields a listing whose last piece is a failure; news of an end comes after the first piece."""

    overruns = 0

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.news: list[bytes] = []

    def dump(self, _kind: int) -> Iterator[list[Message]]:
        for piece in self.pieces:
            yield [Message(0x100, 0, 1, bytes(4) + piece)]
            self.news = [ENDED4]
        raise OSError(errno.ETIMEDOUT, "the kernel did not answer")

    def take(self) -> list[bytes]:
        found, self.news = self.news, []
        return found


def test_news_that_came_while_a_listing_broke_off_is_counted() -> None:
    part, table = Flows("gate"), Table(LISTED4, LISTED6)
    with pytest.raises(OSError, match="did not answer"):
        part.compare(table, table)  # type: ignore[arg-type]
    counters = part.counters()
    assert (counters["listed"], counters["ended"], counters["listings"], counters["tracked"]) == (2, 2, 0, 1)


def test_an_end_nobody_heard_of_costs_what_came_since() -> None:
    made = tally()
    listing(made, connection(100))
    listing(made)
    assert told(made) == [(100, 0, 1)]
    assert made.counters()["tracked"] == 0


def test_a_counter_that_began_anew_is_counted_whole() -> None:
    made = tally()
    listing(made, connection(900))
    listing(made, connection(40))
    assert told(made) == [(940, 0, 2)]


@pytest.mark.parametrize(("port", "past"), [(53, True), (853, True), (443, False)])
def test_a_connection_to_a_name_server_elsewhere_is_told_once(port: int, past: bool) -> None:
    made = tally()
    listing(made, connection(10, port=port), connection(10, port=port, identity=b"2", source=2))
    listing(made, connection(20, port=port), connection(20, port=port, identity=b"2", source=2))
    found = [one for one in made.take(NOW) if isinstance(one, Attempt)]
    assert found == ([Attempt(NOW, "gate", CLIENT, C2, 6, port, rule="bypass", packets=2)] if past else [])


def test_what_this_host_asks_of_name_servers_passes_nobody() -> None:
    made = tally()
    made.own = frozenset((CLIENT,))
    listing(made, connection(10, port=53), connection(20, port=53, client=bytes((10, 20, 1, 3))))
    found = list(made.take(NOW))
    assert [one.client for one in found if isinstance(one, Attempt)] == [bytes((10, 20, 1, 3))]
    assert len(found) == 3


def test_past_the_cap_a_connection_is_told_when_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "MAX_TRACKED", 1)
    made = tally()
    for sent in (10, 30):
        listing(made, connection(sent), connection(sent, identity=b"2", source=2))
    assert told(made) == [(30, 0, 2)]
    assert made.counters()["untracked"] == 2
    made.count(connection(50, identity=b"2", source=2), ended=True)
    made.count(connection(50), ended=True)
    assert told(made) == [(70, 0, 2)]


def test_past_the_cap_pairs_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conntrack, "MAX_PAIRS", 2)
    made = tally()
    listing(made, *(connection(1, identity=bytes((n,)), client=bytes((10, 0, 0, n))) for n in range(5)))
    assert len(told(made)) == 2
    assert made.counters()["unpaired"] == 3


@pytest.mark.parametrize(
    ("client", "address", "skipped"),
    [
        ("10.0.0.1", "91.66.0.80", False), ("10.0.0.1", "10.9.9.9", True), ("10.0.0.1", "172.31.0.1", True),
        ("10.0.0.1", "172.32.0.1", False), ("10.0.0.1", "192.168.7.1", True), ("10.0.0.1", "224.0.0.251", True),
        ("10.0.0.1", "255.255.255.255", True), ("10.0.0.1", "169.254.1.1", True), ("10.0.0.1", "100.64.0.1", True),
        ("127.0.0.1", "91.66.0.80", True), ("10.0.0.1", "0.0.0.0", True), ("fd20::2", "2a01:66::80", False),
        ("fd20::2", "fd20::3", True), ("fe80::1", "ff02::1", True), ("::1", "2a01:66::80", True),
        ("fd20::2", "64:ff9b::5b42:50", False),
    ],
)  # fmt: skip
def test_only_what_leaves_for_the_internet_is_told(client: str, address: str, skipped: bool) -> None:
    assert inside(ip_address(client).packed, ip_address(address).packed) is skipped


def test_accounting_is_what_the_kernel_says(tmp_path: Path) -> None:
    switch = tmp_path / "switch"
    assert not accounted(switch)
    for text, on in (("0\n", False), ("1\n", True)):
        switch.write_text(text)
        assert accounted(switch) is on


class Kernel(RuleBasedStateMachine):
    """A table of connections that begin, send, are listed and end in any order; each octet is told once."""

    def __init__(self) -> None:
        super().__init__()
        self.made = tally()
        self.open: dict[int, int] = {}
        self.sent = self.heard = self.number = 0

    @rule(octets=st.integers(1, 1_000))
    def begins(self, octets: int) -> None:
        self.number += 1
        self.open[self.number] = octets
        self.sent += octets

    @rule(which=st.integers(0, 50), octets=st.integers(1, 1_000))
    def sends(self, which: int, octets: int) -> None:
        if self.open:
            key = sorted(self.open)[which % len(self.open)]
            self.open[key] += octets
            self.sent += octets

    @rule(which=st.integers(0, 50))
    def ends(self, which: int) -> None:
        if self.open:
            key = sorted(self.open)[which % len(self.open)]
            self.made.count(self._connection(key, self.open.pop(key)), ended=True)

    @rule(dying=st.integers(0, 3))
    def is_listed(self, dying: int) -> None:
        """Some end while the listing is read, before or after their turn; that news waits."""
        self.made.begin()
        late = []
        for place, key in enumerate(sorted(self.open)):
            self.made.count(self._connection(key, self.open[key]), ended=False)
            if place % 4 == dying:
                self.sent += 7
                late.append(self._connection(key, self.open.pop(key) + 7))
        for one in late:
            self.made.count(one, ended=True)
        self.made.end()
        self._hear()

    def _connection(self, key: int, sent: int) -> Connection:
        return connection(sent, identity=str(key).encode())

    def _hear(self) -> None:
        self.heard += sum(sent for sent, _, _ in told(self.made))
        assert self.heard == self.sent
        assert self.made.counters()["tracked"] == len(self.open)

    @invariant()
    def never_more_than_was_sent(self) -> None:
        self.heard += sum(sent for sent, _, _ in told(self.made))
        assert self.heard <= self.sent


TestKernel = Kernel.TestCase


def test_keys_tell_connections_apart() -> None:
    keys = Counter(connection(0, identity=bytes((n,)), source=port).key for n in range(50) for port in range(50))
    assert len(keys) == 2_500
