"""Packets the kernel logs: read whole or refused, told at once and then together."""

from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from netlinked import LOGGED

from egress import nflog
from egress.netlink import Malformed, attribute, messages, text
from egress.nflog import WINDOW, Attempts, Logged, Packet, parse, read
from egress.orders import Attempt, Report

C2 = ip_address("91.66.0.80").packed
CLIENT = ip_address("10.20.1.2").packed
MAC = bytes.fromhex("66ac764812dc")
NOW = 1_000.0


def datagram(
    packet: bytes, *, prefix: str = "plughole ", mac: bytes = MAC, number: int | None = None, kind: int = 0x400
) -> bytes:
    body = struct.pack("!BBH", 2, 0, 5) + attribute(1, b"\x08\x00\x02\x00") + text(10, prefix)
    if mac:
        body += attribute(8, struct.pack("!HH", len(mac), 0) + mac.ljust(8, b"\0"))
    if number is not None:
        body += attribute(12, struct.pack("!I", number))
    body += attribute(9, packet)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def four(source: bytes, destination: bytes, *, protocol: int = 6, rest: bytes = b"", offset: int = 0) -> bytes:
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(rest), 1, offset, 63, protocol, 0) + source + destination + rest


def six(source: bytes, destination: bytes, *, following: int = 6, rest: bytes = b"") -> bytes:
    return struct.pack("!IHBB", 6 << 28, len(rest), following, 63) + source + destination + rest


def ports(source: int, destination: int) -> bytes:
    return struct.pack("!HH", source, destination)


class Ear:
    def __init__(self, *blocked: bytes) -> None:
        self.told: list[Report] = []
        self.part = Attempts("gate", (blocked or (C2,)).__contains__)
        self.part._tell = self.told.append

    def hear(self, packet: bytes, now: float = NOW, **options: object) -> None:
        self.part.take(datagram(packet, **options), now)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("family", "client", "address"), [(4, "10.20.1.2", "91.66.0.80"), (6, "fd20:1::2", "2a01:66::80")]
)
def test_a_recorded_packet_is_an_attempt(family: int, client: str, address: str) -> None:
    ear = Ear(ip_address(address).packed)
    ear.part.take(LOGGED[family], NOW)
    mac = bytes.fromhex("eac2748e68a5")
    assert ear.told == [
        Attempt(NOW, "gate", ip_address(client).packed, ip_address(address).packed, 6, 4444, mac, "block", 1)
    ]


def test_a_logged_packet_is_read_whole() -> None:
    (message,) = messages(datagram(b"packet", number=7))
    assert read(message.payload[4:]) == Logged("plughole ", b"packet", MAC, 7)


@pytest.mark.parametrize("protocol", [6, 17, 132])
def test_ports_are_read_where_there_are_any(protocol: int) -> None:
    packet = four(CLIENT, C2, protocol=protocol, rest=ports(40_000, 443))
    assert parse(packet) == Packet(CLIENT, C2, protocol, 40_000, 443)
    assert parse(packet[:22]) == Packet(CLIENT, C2, protocol)
    assert parse(four(CLIENT, C2, protocol=protocol, rest=ports(1, 2), offset=100)) == Packet(CLIENT, C2, protocol)
    assert parse(four(CLIENT, C2, protocol=1, rest=ports(1, 2))) == Packet(CLIENT, C2, 1)


def test_options_of_ipv4_are_passed_over() -> None:
    packet = bytearray(four(CLIENT, C2, rest=b"\x01" * 8 + ports(5, 6)))
    packet[0] = 0x47
    assert parse(bytes(packet)) == Packet(CLIENT, C2, 6, 5, 6)


def test_extensions_of_ipv6_are_passed_over() -> None:
    one, two = ip_address("fd20:1::2").packed, ip_address("2a01:66::80").packed
    hop = bytes((44, 1)) + bytes(14)
    fragment = bytes((51, 0, 0, 1)) + bytes(4)
    authentication = bytes((17, 4)) + bytes(22)
    packet = six(one, two, following=0, rest=hop + fragment + authentication + ports(7, 8))
    assert parse(packet) == Packet(one, two, 17, 7, 8)
    later = six(one, two, following=44, rest=bytes((17, 0, 0, 8)) + bytes(4) + ports(7, 8))
    assert parse(later) == Packet(one, two, 17)
    endless = six(one, two, following=0, rest=(b"\0" * 8) * 12)
    assert parse(endless) == Packet(one, two, 0)


@given(st.binary(max_size=160))
def test_any_octets_are_a_packet_or_malformed(data: bytes) -> None:
    try:
        packet = parse(data)
    except Malformed:
        return
    assert len(packet.source) == len(packet.destination)
    assert len(packet.source) == (4 if data[0] >> 4 == 4 else 16)
    assert packet.source in data


@given(st.sampled_from([4, 6]), st.binary(min_size=1, max_size=4), st.data())
def test_a_damaged_message_is_told_or_counted(family: int, script: bytes, draw: st.DataObject) -> None:
    ear = Ear()
    data = bytearray(LOGGED[family])
    for octet in script:
        data[draw.draw(st.integers(0, len(data) - 1))] = octet
    ear.part.take(bytes(data[: draw.draw(st.integers(0, len(data)))]), NOW)
    counters = ear.part.counters()
    assert counters["told"] == len(ear.told) <= counters["packets"] <= 1
    assert counters["garbled"] <= 1


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_any_datagrams_are_survived(datagrams: list[bytes]) -> None:
    ear = Ear()
    for data in datagrams:
        ear.part.take(data, NOW)
    assert len(ear.told) == ear.part.counters()["told"]


def test_what_is_no_packet_is_counted() -> None:
    ear = Ear()
    ear.hear(b"")
    ear.hear(b"\x45\0")
    ear.hear(four(CLIENT, C2), kind=0x401)
    assert ear.told == []
    assert ear.part.counters()["garbled"] == 2


def test_the_first_is_told_at_once_the_rest_when_the_window_ends() -> None:
    ear = Ear()
    for second in (0.0, 1.0, 9.9):
        ear.hear(four(CLIENT, C2, rest=ports(40_000, 443)), NOW + second)
    assert [one.packets for one in ear.told if isinstance(one, Attempt)] == [1]
    ear.part.tick(NOW + WINDOW - 0.01)
    assert len(ear.told) == 1
    ear.part.tick(NOW + WINDOW)
    assert ear.told[1:] == [Attempt(NOW, "gate", CLIENT, C2, 6, 443, MAC, "block", 2)]
    ear.part.tick(NOW + 10 * WINDOW)
    assert len(ear.told) == 2


def test_the_next_window_begins_with_a_packet_told_at_once() -> None:
    ear = Ear()
    for second in (0.0, 1.0, WINDOW + 1.0):
        ear.hear(four(CLIENT, C2, rest=ports(1, 443)), NOW + second)
    assert [(one.at, one.packets) for one in ear.told if isinstance(one, Attempt)] == [
        (NOW, 1), (NOW, 1), (NOW + WINDOW + 1.0, 1),
    ]  # fmt: skip


def test_another_port_client_or_rule_is_another_attempt() -> None:
    ear = Ear()
    other = ip_address("10.20.1.3").packed
    for packet in (four(CLIENT, C2, rest=ports(1, 443)), four(CLIENT, C2, rest=ports(1, 80)), four(other, C2)):
        ear.hear(packet)
    ear.hear(four(CLIENT, C2, rest=ports(1, 443)), prefix="plughole-pin ")
    assert [(one.client, getattr(one, "port", 0), getattr(one, "rule", "")) for one in ear.told] == [
        (CLIENT, 443, "block"), (CLIENT, 80, "block"), (other, 0, "block"), (CLIENT, 443, "pin"),
    ]  # fmt: skip


def test_a_reply_of_a_blocked_address_is_the_clients_attempt_without_the_routers_mac() -> None:
    ear = Ear()
    ear.hear(four(C2, CLIENT, rest=ports(443, 40_000)))
    assert ear.told == [Attempt(NOW, "gate", CLIENT, C2, 6, 443, b"", "block", 1)]


@pytest.mark.parametrize("blocked", [(), (C2, CLIENT)])
def test_where_both_or_neither_is_blocked_who_sent_is_the_client(blocked: tuple[bytes, ...]) -> None:
    ear = Ear(*(blocked or (b"none",)))
    ear.hear(four(CLIENT, C2, rest=ports(1, 443)))
    assert (ear.told[0].client, ear.told[0].address) == (CLIENT, C2)


def test_a_clock_set_back_ends_windows() -> None:
    ear = Ear()
    ear.hear(four(CLIENT, C2))
    ear.hear(four(CLIENT, C2), NOW + 1)
    ear.part.tick(NOW - 500)
    assert [one.packets for one in ear.told if isinstance(one, Attempt)] == [1, 1]
    assert ear.part.counters()["open"] == 0


def test_gaps_in_the_numbers_are_packets_lost() -> None:
    ear = Ear()
    for number in (0xFFFFFFFE, 0xFFFFFFFF, 0, 5):
        ear.hear(four(CLIENT, C2), number=number)
    assert ear.part.counters()["lost"] == 4


def test_past_the_cap_packets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nflog, "MAX_OPEN", 2)
    ear = Ear()
    for port in range(5):
        ear.hear(four(CLIENT, C2, rest=ports(1, port)))
    assert len(ear.told) == 2
    assert ear.part.counters()["not_kept"] == 3
