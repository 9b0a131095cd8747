"""The manners that take more than one question: caching, stale answers, prefetch, limits, balancers, what leaves."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import time
from typing import TYPE_CHECKING, Final

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from node import Node, data, ede
from protocol.office import BALANCER, FIRST, SECOND, Office

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_PROXY: Final = 0x21
_LOCAL: Final = 0x20
STALE: Final = 3  # Extended DNS Errors, RFC 8914 section 4
STALE_NXDOMAIN: Final = 19
STALE_TTL: Final = 30  # seconds, RFC 8767 section 4
PATIENCE: Final = 20.0  # seconds for an answer that comes at once unless the machine stands still
REPEATED: Final = 1.0  # seconds within which libunbound repeats a question that is not answered at once
MOST_REPEATED: Final = 4  # questions for one answer, where the authority is slow


@pytest.fixture
def silence(place: Office) -> Iterator[Callable[[], None]]:
    """What stops the authority of toy.net until the test is over."""

    def stop() -> None:
        place.toy.silent = True

    yield stop
    place.toy.silent = False


def addresses(reply: dns.message.Message) -> list[str]:
    """Return the addresses in the order of the reply."""
    return [str(item) for rrset in reply.answer for item in rrset]


# ---- caching


def test_ttls_count_down_and_the_authority_is_asked_once(place: Office) -> None:
    begun = time.monotonic()

    def left() -> int:
        ttl: int = place.first.ask("ttl100-count.toy.net").answer[0].ttl
        assert 100 - (time.monotonic() - begun) - 2 <= ttl <= 100  # the engine and we each round down
        return ttl

    first = left()
    answered = time.monotonic()
    place.first.wait(lambda: left() <= first - 3)
    # Before it was answered a question may have been repeated, and such a one may be read a little later.
    assert all(at < answered + REPEATED for at, _ in place.toy.asked("ttl100-count"))
    assert 1 <= len(place.toy.asked("ttl100-count")) <= MOST_REPEATED


def test_a_negative_answer_is_kept_for_the_minimum_of_its_soa(place: Office) -> None:
    def asked_for(label: str) -> int:
        reply = place.first.ask(f"{label}.toy.net")
        assert reply.rcode() == dns.rcode.NXDOMAIN
        assert reply.authority[0].ttl <= 1
        return len(place.toy.asked(label))

    # The second may end meanwhile, or a question be repeated as the answer is late: three tries.
    assert any([asked_for(f"absent-ttl1-{attempt}") for _ in range(3)][-1] == 1 for attempt in range(3))
    before = asked_for("absent-ttl1")
    place.first.wait(lambda: asked_for("absent-ttl1") > before)


def test_the_floor_and_the_cap_hold_what_is_kept(place: Office) -> None:
    assert place.second.ask("ttl1-floor.toy.net", at=SECOND).answer[0].ttl == 60
    assert place.second.ask("ttl9999.toy.net", at=SECOND).answer[0].ttl == 120
    assert place.second.ask("absent-ttl9999.toy.net", at=SECOND).authority[0].ttl <= 30


def test_addresses_take_turns_and_stay_in_order_where_turned_off(place: Office) -> None:
    every = {f"192.0.2.{at}" for at in range(100, 112)}
    seen: set[str] = set()

    def turned() -> bool:
        got = addresses(place.first.ask("twelve.good.com"))
        assert set(got) == every
        seen.add(got[0])
        return len(seen) >= 2

    place.first.wait(turned)
    assert len({tuple(addresses(place.second.ask("twelve.good.com", at=SECOND))) for _ in range(3)}) == 1


def test_popular_names_are_asked_anew_while_the_old_answer_serves(place: Office) -> None:
    """libunbound gives an answer of its own cache up when it expires, no sooner; nobody waits for that.

    A machine that stands still for a second when the answer expires asks late, so there are five tries.
    """
    assert any(_is_renewed(place, f"ttl5-popular{attempt}", 5) for attempt in range(5))


def _is_renewed(place: Office, label: str, ttl: int) -> bool:
    before = _prefetched(place)
    deadline = time.monotonic() + ttl + 4
    later: list[float] = []  # after the first question; one repeated at once, as the answer is late, is none of these
    while not later and time.monotonic() < deadline:
        assert data(place.first.ask(f"{label}.toy.net")) == ["192.0.2.90"]
        first, *others = (at for at, _ in place.toy.asked(label))
        later = [at - first for at in others if at - first > REPEATED]
        time.sleep(0.1)  # what makes it popular
    if not later or not ttl / 2 < later[0] < ttl + 2:
        return False
    deadline = time.monotonic() + 10.0  # workers report each second
    while _prefetched(place) == before and time.monotonic() < deadline:
        time.sleep(0.1)
    return _prefetched(place) > before


def _prefetched(place: Office) -> int:
    return sum(worker["prefetched"] for worker in place.first.status()["workers"])


# ---- what the authority sees


def test_a_clients_subnet_stays_in_the_house(place: Office) -> None:
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    query = dns.message.make_query("subnet.toy.net", "A", options=[subnet])
    with place.internet.inside():
        reply = dns.query.udp(query, FIRST, timeout=8)
    assert data(reply) == ["192.0.2.90"]
    assert not [option for option in reply.options if option.otype == dns.edns.OptionType.ECS]
    assert place.toy.asked("subnet")
    for _, seen in place.toy.heard:
        assert not [option for option in seen.options if option.otype in {dns.edns.OptionType.ECS, 10}]
        assert not seen.flags & dns.flags.RD


@pytest.mark.parametrize(
    "name", ["x.local", "x.test", "x.home.arpa", "x.onion", "scanner.lan", "5.0.0.10.in-addr.arpa"]
)
def test_a_local_name_is_answered_in_no_time_and_without_a_proof(place: Office, name: str) -> None:
    reply = place.first.ask(name, "PTR" if name.endswith("in-addr.arpa") else "A", dnssec=True)
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert reply.authority[0].rdtype == dns.rdatatype.SOA
    assert not [rrset for rrset in reply.authority if rrset.rdtype == dns.rdatatype.NSEC]  # the root's would be there
    assert not reply.flags & dns.flags.AD


# ---- who may ask, and how often


def test_strangers_are_refused(place: Office) -> None:
    reply = place.first.ask("www.good.com", source="198.51.100.3")
    assert (reply.rcode(), reply.answer) == (dns.rcode.REFUSED, [])


def test_a_client_has_its_limit_and_another_its_own(place: Office) -> None:
    place.second.ask("www.good.com", at=SECOND)
    begun = time.monotonic()
    answered = _answered(place, "127.0.1.50")
    assert 20 <= answered <= 20 + 5 * (time.monotonic() - begun + 1)  # a burst of 20, 5 a second
    assert answered < 100
    assert data(place.second.ask("www.good.com", source="127.0.1.51", at=SECOND)) == ["192.0.2.11"]
    assert _answered(place, "127.0.0.1") == 100  # exempt


def _answered(place: Office, source: str) -> int:
    question = dns.message.make_query("www.good.com", "A").to_wire()
    with place.internet.inside(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        client.connect((SECOND, 53))
        for _ in range(100):
            client.send(question)
        place.second.ask("www.good.com", at=SECOND, timeout=PATIENCE)  # its turn comes after all of these
        client.setblocking(False)
        got = 0
        with contextlib.suppress(BlockingIOError):
            while client.recv(4_096):
                got += 1
        return got


# ---- behind a balancer


def header(source: str, *, command: int = _PROXY, family: int = 0x12) -> bytes:
    width = socket.AF_INET6 if ":" in source else socket.AF_INET
    names = socket.inet_pton(width, source) + socket.inet_pton(width, source) + struct.pack("!2H", 4_321, 53)
    body = b"" if command == _LOCAL else names
    return (
        _SIGNATURE
        + bytes([command, family if ":" not in source else family + 0x10])
        + struct.pack("!H", len(body))
        + body
    )


def through(
    place: Office, before: bytes, *, tcp: bool, balancer: str = BALANCER, seconds: float = PATIENCE
) -> dns.message.Message | None:
    """Return the reply to a question behind `before`, None when there is none."""
    question = dns.message.make_query("www.good.com", "A").to_wire()
    kind = socket.SOCK_STREAM if tcp else socket.SOCK_DGRAM
    with place.internet.inside(), socket.socket(socket.AF_INET, kind) as client:
        client.bind((balancer, 0))
        client.settimeout(seconds)
        client.connect((SECOND, 53))
        client.sendall(before + (struct.pack("!H", len(question)) if tcp else b"") + question)
        try:
            got = client.recv(4_096)
        except (TimeoutError, ConnectionResetError):
            return None
        return dns.message.from_wire(got[2:] if tcp else got) if got else None


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("source", "rcode"),
    [
        ("10.0.0.5", dns.rcode.NOERROR),
        ("203.0.113.5", dns.rcode.REFUSED),
        ("fd00::5", dns.rcode.NOERROR),
        ("2001:db8::5", dns.rcode.REFUSED),
    ],
)
def test_a_balancers_client_is_who_it_says(place: Office, tcp: bool, source: str, rcode: dns.rcode.Rcode) -> None:
    reply = through(place, header(source, family=0x11 if tcp else 0x12), tcp=tcp)
    assert reply is not None
    assert reply.rcode() == rcode


@pytest.mark.parametrize("tcp", [False, True])
def test_a_balancer_may_ask_for_itself(place: Office, tcp: bool) -> None:
    reply = through(place, header("10.0.0.5", command=_LOCAL, family=0), tcp=tcp)
    assert reply is not None
    assert data(reply) == ["192.0.2.11"]


@pytest.mark.parametrize("tcp", [False, True])
def test_a_listed_balancer_without_a_header_and_a_stranger_with_one_get_nothing_of_use(
    place: Office, tcp: bool
) -> None:
    for before, balancer in ((b"", BALANCER), (header("10.0.0.5"), "127.0.1.8")):
        reply = through(place, before, tcp=tcp, balancer=balancer, seconds=1.0)
        assert reply is None or reply.rcode() in {dns.rcode.FORMERR, dns.rcode.NOTIMP}
    assert through(place, b"", tcp=tcp, balancer="127.0.1.8") is not None


# ---- one connection, many questions


def test_tcp_answers_each_question_as_it_can(place: Office) -> None:
    place.first.ask("www.good.com")
    questions = ["www.lame.net", *["www.good.com"] * 20]
    with place.first.connect() as stream, stream.makefile("rb") as reader:
        wires = [dns.message.make_query(name, "A", id=at).to_wire() for at, name in enumerate(questions)]
        stream.sendall(b"".join(struct.pack("!H", len(wire)) + wire for wire in wires))
        ids = [dns.message.from_wire(reader.read(int.from_bytes(reader.read(2), "big"))).id for _ in questions]
    assert sorted(ids) == list(range(len(questions)))
    assert ids[-1] == 0


def test_an_alias_to_a_name_of_our_own_zone_is_no_rebinding(place: Office) -> None:
    said = place.run("dig host.corp.example")
    assert re.search(r"\s10\.1\.2\.3$", said, re.MULTILINE), said


# ---- RFC 8767; last, as resolvers remember a silent server for a while


def test_a_dead_authority_leaves_a_stale_answer(place: Office, silence: Callable[[], None]) -> None:
    assert data(place.first.ask("ttl1-stale.toy.net")) == ["192.0.2.90"]
    assert place.first.ask("absent-ttl1-stale.toy.net").rcode() == dns.rcode.NXDOMAIN
    silence()
    reply = _until_stale(place.first, "ttl1-stale.toy.net")
    assert data(reply) == ["192.0.2.90"]
    assert reply.answer[0].ttl == STALE_TTL
    assert ede(reply)[0][0] == STALE
    # RFC 8767 section 5: 1.8 seconds of a client's patience. The best of three: the machine may stand still.
    assert min(_seconds_to_stale(place.first, "ttl1-stale.toy.net") for _ in range(3)) < 2.0
    absent = _until_stale(place.first, "absent-ttl1-stale.toy.net")
    assert (absent.rcode(), ede(absent)[0][0]) == (dns.rcode.NXDOMAIN, STALE_NXDOMAIN)
    assert not ede(place.first.ask("www.good.com"))
    never = place.first.ask("never-asked.toy.net", timeout=PATIENCE)
    assert never.rcode() == dns.rcode.SERVFAIL


def test_nothing_stale_is_served_where_that_is_off(place: Office, silence: Callable[[], None]) -> None:
    name = "ttl60-fresh.toy.net"
    assert data(place.second.ask(name, at=SECOND)) == ["192.0.2.90"]
    silence()
    assert data(place.second.ask(name, at=SECOND)) == ["192.0.2.90"]  # not expired: the floor is 60 seconds
    assert place.second.ask("ttl60-other.toy.net", at=SECOND, timeout=PATIENCE).rcode() == dns.rcode.SERVFAIL


def _seconds_to_stale(node: Node, name: str) -> float:
    begun = time.monotonic()
    reply = node.ask(name, tcp=True)
    passed = time.monotonic() - begun
    assert ede(reply)[0][0] == STALE
    return passed


def _until_stale(node: Node, name: str) -> dns.message.Message:
    found: list[dns.message.Message] = []

    def look() -> bool:
        found[:] = [node.ask(name)]
        return {code for code, _ in ede(found[0])} & {STALE, STALE_NXDOMAIN} != set()

    node.wait(look)
    return found[0]
