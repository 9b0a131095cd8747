"""Captures read as sights: links, tags, both address families, UDP, TCP put together, queries with their replies."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest
from capturing import (
    ACK,
    CLIENT,
    ETHERNET,
    FIN,
    LINUX,
    LINUX2,
    LOOPBACK,
    RAW,
    RST,
    SERVER,
    START,
    SYN,
    Packet,
    asked,
    block,
    framed,
    pcap,
    pcapng,
    query,
    record,
    reply,
    tcp,
    udp,
)
from hypothesis import given
from hypothesis import strategies as st

from core import names
from detectors.sight import MAX_PAYLOAD, Sight
from journal.reading import exchanges
from journal.reading import tcp as streams
from journal.reading.exchanges import Exchanges
from journal.reading.frames import FRAGMENTS, OTHER_LINK, Segment
from journal.reading.messages import Reply
from journal.reading.open import open_file
from journal.reading.source import BadFile, Reader, Tally

HERE, THERE = (CLIENT, 40_000), (SERVER, 53)
ADDRESS = ip_address("203.0.113.9").packed


def opened(folder: Path, octets: bytes, name: str = "any.name") -> Reader:
    path = folder / name
    path.write_bytes(octets)
    return open_file(path)


def sights(reader: Reader) -> list[Sight]:
    reader.first()
    return list(reader.sights())


def texts(found: list[Sight]) -> list[str]:
    return [names.to_text(sight.qname) for sight in found]


@pytest.mark.parametrize("form", [pcap, pcapng])
@pytest.mark.parametrize("link", [ETHERNET, RAW, LOOPBACK, LINUX, LINUX2])
@pytest.mark.parametrize(("mark", "nano"), [("<", False), (">", False), ("<", True), (">", True)])
def test_every_form_and_link(tmp_path: Path, form: type, link: int, mark: str, nano: bool) -> None:
    packets = asked("www.Example.com", 1, START + 0.25, record(1, ADDRESS, 60), record(1, ADDRESS, 30))
    reader = opened(tmp_path, form(packets, link, mark=mark, nano=nano))
    assert reader.first() == pytest.approx(START + 0.25)
    (sight,) = reader.sights()
    assert sight.at == pytest.approx(START + 0.25, abs=1e-6)
    assert (sight.client, sight.rcode, sight.ttl) == (ip_address(CLIENT).packed, 0, 30)
    assert sight.qname == names.from_text("www.example.com")
    assert sight.domain == names.from_text("example.com")
    assert sight.addresses == (ADDRESS, ADDRESS)
    assert sight.size > 40
    assert not reader.tally


def test_gzip_and_ipv6_and_vlan_tags(tmp_path: Path) -> None:
    here, there = ("2001:db8::7", 40_000), ("2001:db8::53", 53)
    plain = pcap([(START, udp(query("a.example"), here, there)), (START + 1, udp(reply("a.example"), there, here))])
    (sight,) = sights(opened(tmp_path, gzip.compress(plain)))
    assert sight.client == ip_address("2001:db8::7").packed
    tagged = framed(udp(query("b.example"), HERE, THERE), tags=2)
    head = pcap([])
    octets = head + struct.pack("<4I", int(START), 0, len(tagged), len(tagged)) + tagged
    assert texts(sights(opened(tmp_path, octets))) == ["b.example"]


def test_ipv6_extensions_and_a_fragment_that_is_whole(tmp_path: Path) -> None:
    packet = udp(query("a.example"), ("2001:db8::7", 40_000), ("2001:db8::53", 53))
    head, body = packet[:40], packet[40:]
    extended = b"\x2c\x00" + bytes(6) + b"\x11\x00" + bytes(6) + body  # hop-by-hop, then a fragment header of the whole
    size = struct.pack("!H", len(extended))
    atomic = head[:4] + size + b"\x00" + head[7:] + extended
    torn = head[:4] + size + b"\x00" + head[7:] + extended[:10] + b"\x00\x01" + extended[12:]
    reader = opened(tmp_path, pcap([(START, atomic), (START, torn)]))
    assert texts(sights(reader)) == ["a.example"]
    assert reader.tally[FRAGMENTS] == 1


def test_what_is_passed_over_is_counted(tmp_path: Path) -> None:
    torn = udp(query("a.example"), HERE, THERE, fragment=0x2000)
    short = udp(query("b.example"), HERE, THERE)[:24]
    nonsense = udp(b"\xff" * 5, HERE, THERE)
    update = udp(struct.pack("!6H", 1, 5 << 11, 1, 0, 0, 0) + query("c.example")[12:], HERE, THERE)
    elsewhere = udp(query("d.example"), HERE, (SERVER, 5_353))
    reader = opened(tmp_path, pcap([(START, one) for one in (torn, short, nonsense, update, elsewhere)]) + b"\x01\x02")
    assert sights(reader) == []
    assert reader.tally == {
        FRAGMENTS: 1, "packets cut short": 1, "messages that are no DNS": 1, "messages that are no query": 1,
        "packets cut off at the end of the file": 1,
    }  # fmt: skip
    wireless = opened(tmp_path, pcap([], 105) + struct.pack("<4I", int(START), 0, 4, 4) + b"abcd")
    assert sights(wireless) == []
    assert wireless.tally == {OTHER_LINK: 1}


def test_a_query_waits_for_its_reply_and_comes_in_the_order_of_asking(tmp_path: Path) -> None:
    slow = asked("slow.example", 1, START, number=1, delay=3.0)
    fast = asked("fast.example", 1, START + 1, number=2)
    never = [(START + 2, udp(query("never.example", number=3), HERE, THERE))]
    late = asked("late.example", 1, START + 60, number=4)
    reader = opened(tmp_path, pcap(sorted(slow + fast + never + late)))
    found = sights(reader)
    assert texts(found) == ["slow.example", "fast.example", "never.example", "late.example"]
    assert [sight.rcode for sight in found] == [0, 0, -1, 0]
    assert reader.tally == {exchanges.UNANSWERED: 1}


def test_a_reply_must_fit_in_every_part(tmp_path: Path) -> None:
    ask = (START, udp(query("a.example", number=1), HERE, THERE))
    wrong = [
        udp(reply("a.example", number=2), THERE, HERE),
        udp(reply("a.example", number=1), THERE, (CLIENT, 40_001)),
        udp(reply("a.example", number=1), ("198.51.100.54", 53), HERE),
        udp(reply("b.example", number=1), THERE, HERE),
    ]
    reader = opened(tmp_path, pcap([ask, *((START + 0.1, one) for one in wrong)]))
    found = sights(reader)
    assert (names.to_text(found[0].qname), found[0].rcode) == ("a.example", -1)
    assert len(found) == 1 + len(wrong)
    assert (reader.tally[exchanges.ALONE], reader.tally[exchanges.OTHER_QUESTION]) == (3, 1)


def test_repetitions_are_one_sight(tmp_path: Path) -> None:
    ask, answer = asked("a.example", 1, START)
    again = (START + 0.01, ask[1])
    reader = opened(tmp_path, pcap([ask, again, answer, (answer[0] + 0.1, answer[1])]))
    (sight,) = sights(reader)
    assert sight.count == 2
    assert not reader.tally
    twice = asked("a.example", 1, START) + asked("a.example", 1, START + 1)
    assert len(sights(opened(tmp_path, pcap(twice)))) == 2


def test_record_data_that_is_no_address_is_payload(tmp_path: Path) -> None:
    text = b"\x05hello"
    packets = asked("t.example", 16, START, record(16, text), record(5, b"\x01a\xc0\x0c"), record(16, b"\xff" * 600))
    (sight,) = sights(opened(tmp_path, pcap(packets)))
    assert sight.payload.startswith(text + b"\x01a" + names.from_text("t.example"))
    assert len(sight.payload) == MAX_PAYLOAD
    assert sight.addresses == ()


def test_a_reply_that_does_not_hold_together_keeps_its_code(tmp_path: Path) -> None:
    ask, (at, answer) = asked("a.example", 1, START, record(1, ADDRESS), rcode=3)
    (sight,) = sights(opened(tmp_path, pcap([ask, (at, udp(answer[28:-3], THERE, HERE))])))
    assert (sight.rcode, sight.addresses) == (3, ())


def stream(messages: list[bytes], cuts: list[int], *, first: int = 1_000, syn: bool = True) -> list[Packet]:
    """TCP packets of the client, cut at these places of the stream."""
    octets = b"".join(struct.pack("!H", len(one)) + one for one in messages)
    edges = sorted({0, len(octets), *(cut for cut in cuts if cut < len(octets))})
    made = [tcp(b"", HERE, THERE, sequence=first - 1, flags=SYN)] if syn else []
    made += [tcp(octets[a:b], HERE, THERE, sequence=first + a, flags=ACK) for a, b in pairwise(edges)]
    return [(START + at / 1_000, packet) for at, packet in enumerate(made)]


@given(
    cuts=st.lists(st.integers(1, 150), max_size=12),
    first=st.sampled_from([1, 1_000, 2**32 - 40, 2**31 - 3]),
    order=st.randoms(use_true_random=False),
    repeat=st.booleans(),
)
def test_tcp_is_put_together_however_it_is_cut_and_shuffled(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], first: int, order: object, repeat: bool
) -> None:
    wanted = [f"n{number}.example" for number in range(4)]
    packets = stream([query(name, number=at) for at, name in enumerate(wanted)], cuts, first=first)
    rest = [packet for _, packet in packets[1:]] * (2 if repeat else 1)
    order.shuffle(rest)  # type: ignore[attr-defined]
    shuffled = [packets[0], *((START + 1 + at / 1_000, packet) for at, packet in enumerate(rest))]
    reader = opened(tmp_path_factory.mktemp("tcp"), pcap(shuffled))
    assert sorted(texts(sights(reader))) == wanted


def test_tcp_from_the_middle_and_with_a_gap(tmp_path: Path) -> None:
    assert texts(sights(opened(tmp_path, pcap(stream([query("a.example")], [], syn=False))))) == ["a.example"]
    ask = query("b.example", number=9)
    there = struct.pack("!H", len(ask)) + ask
    lost = [
        (START, tcp(b"", HERE, THERE, sequence=0, flags=SYN)),
        *((START + 1, tcp(b"x" * 1_000, HERE, THERE, sequence=5_000 + at * 1_000)) for at in range(200)),
        (START + 2, tcp(b"", HERE, THERE, sequence=0, flags=RST)),
        (START + 3, tcp(b"", HERE, THERE, sequence=0, flags=SYN)),
        (START + 4, tcp(there, HERE, THERE, sequence=1, flags=FIN)),
    ]
    reader = opened(tmp_path, pcap(lost))
    assert texts(sights(reader)) == ["b.example"]
    assert reader.tally[streams.GAPS] == 1


def test_streams_never_hold_more_than_their_caps() -> None:
    tally: Tally = Counter()
    held = streams.Streams(tally)
    for port in range(streams.MAX_STREAMS + 50):
        client = port.to_bytes(4, "big")
        held.feed(Segment(True, client, 1, b"serv", 53, b"\xff\xff" + bytes(3_000), 1, ACK))
        assert len(held._streams) <= streams.MAX_STREAMS
        assert held._octets <= streams.MAX_OCTETS
    assert held._octets == sum(one.octets for one in held._streams.values())
    assert tally[streams.EVICTED] > 50


def test_a_stream_that_is_no_dns_is_left_alone() -> None:
    tally: Tally = Counter()
    held = streams.Streams(tally)
    for at in range(3):
        assert held.feed(Segment(True, b"here", 1, b"serv", 53, b"\x00\x01GET /", 1 + 7 * at, ACK)) == []
    assert tally == {streams.OUT_OF_STEP: 1}


def test_waiting_queries_are_capped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "MAX_WAITING", 10)
    tally: Tally = Counter()
    held = Exchanges(tally)
    found: list[Sight] = []
    for number in range(100):
        held.ask(number, START, b"here", names.from_text(f"n{number}.example"), 1)
        found += held.due(START)
    held.answer(99, START, b"here", (None, 1), Reply(0, 5))
    found += held.rest()
    assert [names.to_text(one.qname) for one in found] == [f"n{number}.example" for number in range(100)]
    assert tally == {exchanges.GIVEN_UP: 90, exchanges.UNANSWERED: 99}
    assert len(held._known) <= 21
    assert found[-1].ttl == 5


def test_pcapng_with_several_sections_interfaces_and_blocks(tmp_path: Path) -> None:
    frame = framed(udp(query("simple.example"), HERE, THERE), RAW)
    old = framed(udp(query("old.example", number=8), HERE, THERE), RAW)
    body = struct.pack("<HHIIII", 0, 0, 0, 5_000_000, len(old), len(old)) + old
    section = pcapng([], RAW)
    octets = section + block(2, body) + block(3, struct.pack("<I", len(frame)) + frame) + block(6, bytes(4))
    octets += pcapng(asked("second.example", 1, START), mark=">")
    reader = opened(tmp_path, octets)
    found = sights(reader)
    assert texts(found) == ["old.example", "simple.example", "second.example"]
    assert found[0].at == pytest.approx(5.0)
    assert reader.tally["damaged blocks"] == 1


def test_a_capture_far_out_of_order_is_sorted(tmp_path: Path) -> None:
    packets = [one for at in range(40) for one in asked(f"n{at}.example", 1, START + 1_000 * (at * 7 % 40), number=at)]
    reader = opened(tmp_path, pcap(packets))
    found = sights(reader)
    assert [sight.at for sight in found] == sorted(sight.at for sight in found)
    assert len(found) == 40
    assert all(sight.rcode == 0 for sight in found)


def test_damage_is_told_in_one_line(tmp_path: Path) -> None:
    huge = pcap(asked("a.example")) + struct.pack("<4I", int(START), 0, 2**31, 0)
    reader = opened(tmp_path, huge)
    assert reader.first() == pytest.approx(START)
    got: list[Sight] = []
    with pytest.raises(BadFile, match=r"any\.name: is damaged: a packet of 2,147,483,648 octets"):
        got.extend(reader.sights())
    packed = gzip.compress(pcap(asked("a.example")))[:-12]
    with pytest.raises(BadFile, match="gzip cannot be read further"):
        sights(opened(tmp_path, packed))


def test_what_is_no_capture(tmp_path: Path) -> None:
    for octets, words in ((b"", "is empty"), (b"\x7fELF\x00\x01", "is none of pcap"), (b"PAR1 no", "cannot be read")):
        with pytest.raises(BadFile, match=words):
            opened(tmp_path, octets).first()
    with pytest.raises(BadFile, match="is a folder"):
        open_file(tmp_path)
    with pytest.raises(FileNotFoundError):
        open_file(tmp_path / "missing")
