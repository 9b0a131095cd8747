"""Protocol manners as scenes: cookies, CHAOS, ANY, NSID, keepalive, rotation, stale answers, prefetch, rebinding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import pytest
from scene import OFFICE, OTHER, Peer, Scene

from core.config import Cache, Config, Local, Server, Upstream, Zone
from core.event import Transport
from core.names import from_text
from core.verdict import Action, Cause
from feeds.overlay import Override
from resolver.cookies import Cookies

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SECRET = bytes(range(16))
ADDRESSES = ["www.example. 300 A 198.51.100.1", "www.example. 300 A 198.51.100.2", "www.example. 300 A 198.51.100.3"]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(config: Config | None = None, cookies: Cookies | None = None) -> Scene:
        scenes.append(Scene(tmp_path, config, cookies))
        scenes[-1].upstream.records["www.example", "A"] = list(ADDRESSES)
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


def raw(scene: Scene, packet: bytes, *, client: bytes = OFFICE, transport: Transport = Transport.UDP) -> bytes:
    peer = Peer(transport)
    body = scene.pipeline.handle(packet, scene.clients.meet(client), peer)
    return packet[:2] + bytes(body) if body else b""


def chaos(scene: Scene, name: str, rdtype: str = "TXT") -> dns.message.Message:
    query = dns.message.make_query(name, rdtype, rdclass=dns.rdataclass.CH)
    return dns.message.from_wire(raw(scene, query.to_wire()))


def option(reply: dns.message.Message | None, code: int) -> bytes | None:
    assert reply is not None
    return next((bytes(found.to_wire() or b"") for found in reply.options if int(found.otype) == code), None)


def ede(reply: dns.message.Message | None) -> list[int]:
    assert reply is not None
    return [int(found.code) for found in reply.options if isinstance(found, dns.edns.EDEOption)]


def first(reply: dns.message.Message | None) -> str:
    assert reply is not None
    return str(reply.answer[0][0])


# ---- cookies


def with_cookie(cookie: bytes) -> list[dns.edns.Option]:
    return [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, cookie)]


def test_a_cookie_is_given_and_known_again(made: Callable[..., Scene]) -> None:
    scene = made(cookies=Cookies([SECRET]))
    given = option(scene.ask("www.example", options=with_cookie(b"clientck")), 10)
    assert given is not None
    assert len(given) == 24
    assert given.startswith(b"clientck")
    assert option(scene.ask("www.example", options=with_cookie(given)), 10) == given
    assert scene.pipeline.counters()["cookies_good"] == 1
    assert option(scene.ask("www.example", client=OTHER, options=with_cookie(given)), 10) != given
    assert scene.pipeline.counters()["cookies_bad"] == 1


def test_a_cookie_never_comes_from_somebody_elses_reply(made: Callable[..., Scene]) -> None:
    scene = made(cookies=Cookies([SECRET]))
    for client in (OFFICE, OTHER, OFFICE):
        reply = option(scene.ask("www.example", client=client, options=with_cookie(b"clientck")), 10)
        assert Cookies([SECRET]).reply(reply or b"", client, scene.now)[1]


@pytest.mark.parametrize("size", [0, 1, 7, 9, 15, 41, 100])
def test_a_cookie_of_a_wrong_size_is_a_format_error(made: Callable[..., Scene], size: int) -> None:
    scene = made(cookies=Cookies([SECRET]))
    query = dns.message.make_query("www.example", "A", use_edns=0, options=with_cookie(b"x" * size))
    assert dns.message.from_wire(raw(scene, query.to_wire())).rcode() == dns.rcode.FORMERR


def test_a_query_may_come_for_its_cookie_only(made: Callable[..., Scene]) -> None:
    scene = made(cookies=Cookies([SECRET]))
    query = dns.message.make_query("www.example", "A", use_edns=0, options=with_cookie(b"clientck"))
    query.question.clear()
    reply = dns.message.from_wire(raw(scene, query.to_wire()))
    assert reply.rcode() == dns.rcode.NOERROR
    assert not reply.question
    assert len(option(reply, 10) or b"") == 24
    query.use_edns(0)
    assert dns.message.from_wire(raw(scene, query.to_wire())).rcode() == dns.rcode.FORMERR


def test_cookies_can_be_off(made: Callable[..., Scene]) -> None:
    assert option(made().ask("www.example", options=with_cookie(b"clientck")), 10) is None


# ---- what it says of itself


def test_chaos_tells_what_it_was_told_to_and_nothing_else(made: Callable[..., Scene]) -> None:
    scene = made(Config(server=Server(identity="ns1", version="ours")))
    assert first(chaos(scene, "id.server")) == '"ns1"'
    assert first(chaos(scene, "version.bind")) == '"ours"'
    assert chaos(scene, "authors.bind").rcode() == dns.rcode.REFUSED
    assert chaos(made(), "version.bind").rcode() == dns.rcode.REFUSED


def test_nsid(made: Callable[..., Scene]) -> None:
    scene = made(Config(server=Server(identity="ns1")))
    assert (
        option(scene.ask("www.example", options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, b"")]), 3) == b"ns1"
    )
    assert option(scene.ask("www.example"), 3) is None


def test_keepalive_over_tcp_only(made: Callable[..., Scene]) -> None:
    scene = made(Config(server=Server(tcp_idle=12.0)))
    asks = [dns.edns.GenericOption(dns.edns.OptionType.make(11), b"")]
    assert option(scene.ask("www.example", tcp=True, options=asks), 11) == b"\x00\x78"
    assert option(scene.ask("www.example", options=asks), 11) is None


def test_any_is_short(made: Callable[..., Scene]) -> None:
    scene = made()
    reply = scene.ask("www.example", "ANY")
    assert first(reply) == '"RFC8482" ""'
    assert not scene.upstream.asked
    assert scene.ask("www.example", "ANY") is not None
    scene = made(Config(server=Server(any="resolve")))
    scene.ask("www.example", "ANY")
    assert [question.qtype for question in scene.upstream.asked] == [255]


def test_any_does_not_get_round_a_block(made: Callable[..., Scene]) -> None:
    assert ede(made().ask("evil.example", "ANY")) == [15]


# ---- order of addresses


def test_addresses_take_turns(made: Callable[..., Scene]) -> None:
    scene = made()
    seen = set()
    for _ in range(3):
        seen.add(first(scene.ask("www.example")))
        scene.later(1)
    assert seen == {"198.51.100.1", "198.51.100.2", "198.51.100.3"}


def test_addresses_keep_their_order_when_told_to(made: Callable[..., Scene]) -> None:
    scene = made(Config(server=Server(rotate=False)))
    for _ in range(3):
        assert first(scene.ask("www.example")) == "198.51.100.1"
        scene.later(1)


# ---- stale answers, RFC 8767


def test_an_expired_answer_serves_when_nobody_answers(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.ask("www.example")
    scene.upstream.records.clear()
    scene.later(301)
    scene.later(1)
    reply = scene.ask("www.example")
    assert ede(reply) == [3]
    assert reply is not None
    assert reply.answer[0].ttl == 30
    asked = len(scene.upstream.asked)
    scene.later(10)
    assert ede(scene.ask("www.example")) == [3]
    assert len(scene.upstream.asked) == asked  # the servers are left alone for 30 s
    scene.upstream.records["www.example", "A"] = ["www.example. 300 A 198.51.100.9"]
    scene.later(30)
    assert first(scene.ask("www.example")) == "198.51.100.9"
    assert scene.pipeline.counters()["stale"] == 1


def test_an_expired_nxdomain_says_so(made: Callable[..., Scene]) -> None:
    scene = made()
    soa = ". 600 SOA a. b. 1 2 3 4 600"
    scene.upstream.records["gone.example", "A"] = ["NXDOMAIN", soa]
    scene.ask("gone.example")
    scene.upstream.records.clear()
    scene.later(700)
    reply = scene.ask("gone.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.NXDOMAIN
    assert ede(reply) == [19]


def test_who_waits_too_long_gets_the_expired_answer_and_the_next_one_the_fresh(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.ask("www.example")
    scene.later(400)
    scene.upstream.hold = True
    packet, peer = scene.send("www.example")
    scene.later(1.0)
    assert not peer.got
    scene.later(1.0)
    assert ede(scene.read(packet, peer)) == [3]
    scene.upstream.records["www.example", "A"] = ["www.example. 300 A 198.51.100.9"]
    scene.upstream.release()
    assert first(scene.ask("www.example")) == "198.51.100.9"


def test_an_answer_does_not_stay_for_ever(made: Callable[..., Scene]) -> None:
    scene = made(Config(cache=Cache(serve_stale=60)))
    scene.ask("www.example")
    scene.upstream.records.clear()
    scene.later(361)
    reply = scene.ask("www.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL


def test_an_expired_answer_is_judged_like_any_other(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.ask("www.example")
    scene.upstream.records.clear()
    scene.later(400)
    scene.override(Override(from_text("www.example"), Action.SINKHOLE))
    assert ede(scene.ask("www.example")) == [15]


# ---- prefetch


def test_what_is_in_use_is_asked_anew_before_it_expires(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.ask("www.example")
    scene.later(200)
    scene.ask("www.example")
    assert len(scene.upstream.asked) == 1
    scene.upstream.records["www.example", "A"] = ["www.example. 300 A 198.51.100.9"]
    scene.later(80)
    scene.ask("www.example")
    assert len(scene.upstream.asked) == 2
    scene.later(1)
    assert first(scene.ask("www.example")) == "198.51.100.9"
    assert scene.pipeline.counters()["prefetched"] == 1


def test_a_popular_name_does_not_wait_when_its_time_is_up(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.upstream.records["www.example", "A"] = ["www.example. 5 A 198.51.100.1"]
    scene.ask("www.example")
    scene.later(5.5)
    scene.upstream.hold = True
    assert first(scene.ask("www.example")) == "198.51.100.1"
    assert first(scene.ask("www.example")) == "198.51.100.1"
    assert len(scene.upstream.held) == 1
    scene.upstream.records["www.example", "A"] = ["www.example. 5 A 198.51.100.9"]
    scene.upstream.release()
    scene.later(1)
    assert first(scene.ask("www.example")) == "198.51.100.9"


def test_a_failed_prefetch_changes_nothing(made: Callable[..., Scene]) -> None:
    scene = made()
    scene.ask("www.example")
    scene.upstream.records.clear()
    scene.later(280)
    assert not ede(scene.ask("www.example"))
    scene.later(10)
    assert not ede(scene.ask("www.example"))


def test_prefetch_can_be_off(made: Callable[..., Scene]) -> None:
    scene = made(Config(cache=Cache(prefetch=False)))
    scene.ask("www.example")
    scene.later(299)
    scene.ask("www.example")
    assert len(scene.upstream.asked) == 1


# ---- rebinding


@pytest.mark.parametrize(
    ("rdtype", "address"),
    [("A", "127.0.0.1"), ("A", "10.1.2.3"), ("A", "172.31.0.1"), ("A", "192.168.1.1"), ("A", "169.254.169.254"),
     ("A", "100.64.0.1"), ("A", "0.0.0.0"), ("AAAA", "::1"), ("AAAA", "::"), ("AAAA", "fd00::1"),
     ("AAAA", "fe80::1"), ("AAAA", "::ffff:10.0.0.1")],
)  # fmt: skip
def test_a_name_outside_may_not_point_inside(made: Callable[..., Scene], rdtype: str, address: str) -> None:
    scene = made()
    scene.upstream.records["in.example", rdtype] = [f"in.example. 60 {rdtype} {address}"]
    for _ in range(2):
        reply = scene.ask("in.example", rdtype)
        assert reply is not None
        assert not reply.answer
        assert ede(reply) == [15]
    event = scene.events()[0]
    assert (event.action, event.cause) == (Action.NODATA, Cause.REBIND)


@pytest.mark.parametrize("address", ["172.15.0.1", "172.32.0.1", "192.167.1.1", "100.128.0.1", "11.0.0.1"])
def test_what_lies_beside_is_fine(made: Callable[..., Scene], address: str) -> None:
    scene = made()
    scene.upstream.records["out.example", "A"] = [f"out.example. 60 A {address}"]
    assert first(scene.ask("out.example")) == address


def test_exceptions_to_rebinding(made: Callable[..., Scene]) -> None:
    inside = ["a.corp.example. 60 A 10.0.0.1"]
    for config in (
        Config(local=Local(rebind_allow=("corp.example",))),
        Config(local=Local(rebind_protection=False)),
        Config(upstream=Upstream(zone=(Zone(name="Corp.Example.", servers=("192.0.2.1",)),))),
    ):
        scene = made(config)
        scene.upstream.records["a.corp.example", "A"] = inside
        assert first(scene.ask("a.corp.example")) == "10.0.0.1"
    scene = made()
    scene.upstream.records["a.corp.example", "A"] = inside
    scene.override(Override(from_text("corp.example"), Action.PASSTHRU))
    assert first(scene.ask("a.corp.example")) == "10.0.0.1"


# ---- DNS64


def test_addresses_for_ipv6_only_clients(made: Callable[..., Scene]) -> None:
    scene = made(Config(local=Local(dns64_prefix="2001:db8:64::/96")))
    scene.upstream.records["www.example", "AAAA"] = [". 600 SOA a. b. 1 2 3 4 600"]
    assert first(scene.ask("www.example", "AAAA")) == "2001:db8:64::c633:6401"
    scene.upstream.records["six.example", "AAAA"] = ["six.example. 60 AAAA 2001:db8:1::1"]
    assert first(scene.ask("six.example", "AAAA")) == "2001:db8:1::1"
    validating = scene.ask("www.example", "AAAA", flags=dns.flags.RD | dns.flags.CD)
    assert validating is not None
    assert not validating.answer


def test_what_an_address_stands_for_is_judged(made: Callable[..., Scene]) -> None:
    scene = made(Config(local=Local(dns64_prefix="2001:db8:64::/96")))
    nothing = [". 600 SOA a. b. 1 2 3 4 600"]
    scene.upstream.records["in.example", "AAAA"] = nothing
    scene.upstream.records["in.example", "A"] = ["in.example. 60 A 10.0.0.1"]
    assert ede(scene.ask("in.example", "AAAA")) == [15]
