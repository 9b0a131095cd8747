"""The pipeline as scenes: a scripted upstream, a fake clock, a client that asks and reads."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from scene import OFFICE, OTHER, Peer, Scene

from core.names import Name, from_text
from core.verdict import Action, Cause, Trigger
from feeds.overlay import Override
from resolver.policy import address_key
from resolver.upstream import Answer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.close()


def ede(reply: dns.message.Message | None) -> list[tuple[int, str]]:
    assert reply is not None
    return [(int(option.code), option.text or "") for option in reply.options if isinstance(option, dns.edns.EDEOption)]


def addresses(reply: dns.message.Message | None) -> list[str]:
    assert reply is not None
    return sorted(str(item) for rrset in reply.answer if rrset.rdtype in (1, 28) for item in rrset)


# ---- blocked by name


@pytest.mark.parametrize("name", ["evil.example", "www.evil.example", "A.b.EVIL.example"])
def test_a_listed_name_and_all_below_go_to_the_sinkhole(scene: Scene, name: str) -> None:
    reply = scene.ask(name)
    assert addresses(reply) == ["192.0.2.1"]
    assert reply is not None
    assert reply.answer[0].ttl == 30
    assert reply.answer[0].name == dns.name.from_text(name)
    [(code, text)] = ede(reply)
    assert code == 15
    assert text == "malware: evil.example is listed by list-a, list-b"
    assert scene.upstream.asked == []


def test_aaaa_has_the_other_sinkhole_address(scene: Scene) -> None:
    assert addresses(scene.ask("evil.example", "AAAA")) == ["2001:db8::1"]


@pytest.mark.parametrize("rdtype", ["HTTPS", "TXT", "MX", "NS", "SOA", "ANY", "NULL", "SRV", "TYPE65280"])
def test_other_types_are_nodata_with_an_soa(scene: Scene, rdtype: str) -> None:
    reply = scene.ask("evil.example", rdtype)
    assert reply is not None
    assert reply.rcode() == dns.rcode.NOERROR
    assert reply.answer == []
    [soa] = reply.authority
    assert (soa.rdtype, soa.ttl, soa[0].minimum) == (dns.rdatatype.SOA, 30, 30)
    assert ede(reply)[0][0] == 15


def test_a_client_without_edns_gets_no_opt(scene: Scene) -> None:
    reply = scene.ask("evil.example", use_edns=False)
    assert reply is not None
    assert reply.edns == -1
    assert addresses(reply) == ["192.0.2.1"]


def test_a_block_is_told_with_every_source(scene: Scene) -> None:
    scene.ask("www.evil.example")
    [event] = scene.events()
    assert (event.action, event.cause, event.trigger) == (Action.SINKHOLE, Cause.INTEL, Trigger.QNAME)
    assert [(reason.source, reason.indicator) for reason in event.reasons] == [
        ("list-a", "evil.example"),
        ("list-b", "evil.example"),
    ]
    assert event.client == OFFICE
    assert event.answers == (bytes((192, 0, 2, 1)),)


def test_the_longest_name_wins(scene: Scene) -> None:
    scene.upstream.records["www.good.evil.example", "A"] = ["www.good.evil.example. 60 A 198.51.100.1"]
    assert addresses(scene.ask("www.good.evil.example")) == ["198.51.100.1"]
    [event] = scene.events()
    assert event.action is Action.PASSTHRU
    assert [reason.source for reason in event.reasons] == ["friends", "list-a", "list-b"]


def test_allow_beats_block_at_equal_length(scene: Scene) -> None:
    scene.upstream.records["both.example", "A"] = ["both.example. 60 A 198.51.100.1"]
    assert addresses(scene.ask("both.example")) == ["198.51.100.1"]


def test_an_exact_source_leaves_the_names_below_alone(scene: Scene) -> None:
    scene.upstream.records["www.exact.example", "A"] = ["www.exact.example. 60 A 198.51.100.1"]
    assert addresses(scene.ask("exact.example")) == ["192.0.2.1"]
    assert addresses(scene.ask("www.exact.example")) == ["198.51.100.1"]


def test_alert_resolves_and_tells(scene: Scene) -> None:
    scene.upstream.records["watch.example", "A"] = ["watch.example. 60 A 198.51.100.1"]
    assert addresses(scene.ask("watch.example")) == ["198.51.100.1"]
    [event] = scene.events()
    assert (event.action, event.cause) == (Action.ALERT, Cause.INTEL)


# ---- blocked by what the reply brings


def test_a_cname_into_a_listed_name_is_blocked_and_the_member_named(scene: Scene) -> None:
    scene.upstream.records["shop.example", "A"] = [
        "shop.example. 60 CNAME cdn.example.",
        "cdn.example. 60 CNAME x.evil.example.",
        "x.evil.example. 60 A 198.51.100.66",
    ]
    reply = scene.ask("shop.example")
    assert addresses(reply) == ["192.0.2.1"]
    assert ede(reply) == [(15, "malware: evil.example (x.evil.example) is listed by list-a, list-b")]
    [event] = scene.events()
    assert (event.trigger, event.member) == (Trigger.CNAME, "x.evil.example")
    assert addresses(scene.ask("shop.example")) == ["192.0.2.1"]
    assert len(scene.upstream.asked) == 1


def test_passthru_on_the_question_spares_its_chain(scene: Scene) -> None:
    scene.upstream.records["good.evil.example", "A"] = [
        "good.evil.example. 60 CNAME x.evil.example.",
        "x.evil.example. 60 A 198.51.100.66",
    ]
    assert addresses(scene.ask("good.evil.example")) == ["198.51.100.66"]


def test_a_blocked_address_is_blocked_wherever_it_stands(scene: Scene) -> None:
    scene.override(Override(address_key(bytes((198, 51, 100, 66))), Action.SINKHOLE, reason="c2", by="ann"))
    scene.upstream.records["a.example", "A"] = ["a.example. 60 A 198.51.100.66"]
    scene.upstream.records["b.example", "HTTPS"] = ['b.example. 60 HTTPS 1 . ipv4hint="198.51.100.66"']
    assert addresses(scene.ask("a.example")) == ["192.0.2.1"]
    reply = scene.ask("b.example", "HTTPS")
    assert reply is not None
    assert reply.answer == []
    first, second = scene.events()
    assert (first.trigger, first.member) == (Trigger.ADDRESS, "198.51.100.66")
    assert (second.trigger, second.member) == (Trigger.HINT, "198.51.100.66")


def test_an_https_target_and_an_ns_name_are_judged(scene: Scene) -> None:
    scene.upstream.records["c.example", "HTTPS"] = ["c.example. 60 HTTPS 1 x.evil.example. alpn=h2"]
    scene.upstream.records["d.example", "NS"] = ["d.example. 60 NS ns.evil.example."]
    for name, rdtype in (("c.example", "HTTPS"), ("d.example", "NS")):
        reply = scene.ask(name, rdtype)
        assert reply is not None
        assert reply.answer == []
        assert ede(reply)[0][0] == 15
    assert [event.trigger for event in scene.events()] == [Trigger.HINT, Trigger.NSDNAME]


# ---- overrides


def test_allow_for_one_client_until_it_expires(scene: Scene) -> None:
    scene.upstream.records["evil.example", "A"] = ["evil.example. 60 A 198.51.100.66"]
    name = from_text("evil.example")
    scene.override(
        Override(name, Action.PASSTHRU, client="127.0.0.1", expires=scene.now + 600, reason="test", by="ann")
    )
    assert addresses(scene.ask("evil.example")) == ["198.51.100.66"]
    assert addresses(scene.ask("evil.example", client=OTHER)) == ["192.0.2.1"]
    scene.later(601)
    assert addresses(scene.ask("evil.example")) == ["192.0.2.1"]


def test_an_override_reaches_answers_already_cached(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 3600 A 198.51.100.9"]
    for _ in range(3):
        assert addresses(scene.ask("fine.example")) == ["198.51.100.9"]
    scene.override(Override(from_text("fine.example"), Action.SINKHOLE, reason="seen beaconing", by="ann"))
    assert addresses(scene.ask("fine.example")) == ["192.0.2.1"]
    scene.override()
    assert addresses(scene.ask("fine.example")) == ["198.51.100.9"]


def test_a_question_on_its_way_is_judged_by_the_policy_it_comes_back_to(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 3600 A 198.51.100.9"]
    scene.upstream.hold = True
    packet, peer = scene.send("fine.example")
    scene.override(Override(from_text("fine.example"), Action.SINKHOLE, reason="x", by="ann"))
    scene.upstream.release()
    assert addresses(scene.read(packet, peer)) == ["192.0.2.1"]


@pytest.mark.parametrize(
    ("action", "rcode"), [(Action.NXDOMAIN, dns.rcode.NXDOMAIN), (Action.NODATA, dns.rcode.NOERROR)]
)
def test_rpz_negative_actions(scene: Scene, action: Action, rcode: int) -> None:
    scene.override(Override(from_text("x.example"), action, reason="x", by="ann"))
    reply = scene.ask("x.example")
    assert reply is not None
    assert (reply.rcode(), reply.answer, len(reply.authority)) == (rcode, [], 1)


def test_drop_is_silence_and_told(scene: Scene) -> None:
    scene.override(Override(from_text("x.example"), Action.DROP, reason="x", by="ann"))
    assert scene.ask("x.example") is None
    assert scene.ask("x.example", tcp=True) is None
    assert [event.action for event in scene.events()] == [Action.DROP, Action.DROP]


def test_tcp_only_truncates_over_udp_and_answers_over_tcp(scene: Scene) -> None:
    scene.override(Override(from_text("x.example"), Action.TCP_ONLY, reason="x", by="ann"))
    scene.upstream.records["x.example", "A"] = ["x.example. 60 A 198.51.100.9"]
    udp = scene.ask("x.example")
    assert udp is not None
    assert udp.flags & dns.flags.TC
    assert addresses(scene.ask("x.example", tcp=True)) == ["198.51.100.9"]


# ---- the cache


def test_a_cached_answer_ages_and_expires(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 60 A 198.51.100.9"]
    scene.ask("fine.example")
    for elapsed in (10, 20, 29):
        scene.later(10 if elapsed != 29 else 9)
        reply = scene.ask("fine.example")
        assert reply is not None
        assert reply.answer[0].ttl == 60 - elapsed
    assert len(scene.upstream.asked) == 1
    scene.later(31)
    scene.ask("fine.example")
    assert len(scene.upstream.asked) == 2


def test_hits_are_told_once_a_second_with_their_count(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 60 A 198.51.100.9"]
    for _ in range(6):
        scene.ask("fine.example", id=7)
    miss, *hits = scene.events()
    assert (miss.cached, miss.count) == (False, 1)
    assert (sum(event.count for event in hits), {event.cached for event in hits}) == (5, {True})


def test_the_question_keeps_the_case_it_was_asked_in(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 60 A 198.51.100.9"]
    for name in ("fine.example", "FiNe.ExAmPlE", "FINE.example"):
        reply = scene.ask(name)
        assert reply is not None
        assert str(reply.question[0].name) == f"{name}."
    assert len(scene.upstream.asked) == 1


def test_negative_answers_are_kept_by_their_soa(scene: Scene) -> None:
    scene.upstream.records["no.example", "A"] = ["NXDOMAIN", "example. 300 SOA a.example. b.example. 1 2 3 4 20"]
    for _ in range(3):
        reply = scene.ask("no.example")
        assert reply is not None
        assert reply.rcode() == dns.rcode.NXDOMAIN
    assert len(scene.upstream.asked) == 1
    scene.later(21)
    scene.ask("no.example")
    assert len(scene.upstream.asked) == 2


def test_a_ttl_of_zero_is_not_kept(scene: Scene) -> None:
    scene.upstream.records["z.example", "A"] = ["z.example. 0 A 198.51.100.9"]
    scene.ask("z.example")
    scene.ask("z.example")
    assert len(scene.upstream.asked) == 2


def test_equal_questions_wait_for_one_upstream_question(scene: Scene) -> None:
    scene.upstream.records["fine.example", "A"] = ["fine.example. 60 A 198.51.100.9"]
    scene.upstream.hold = True
    waiting = [scene.send("Fine.example" if at % 2 else "fine.example", client=OTHER) for at in range(10)]
    scene.upstream.release()
    assert len(scene.upstream.asked) == 1
    assert [addresses(scene.read(*item)) for item in waiting] == [["198.51.100.9"]] * 10


# ---- EDNS, flags, sizes, failures


def test_secure_sets_ad_only_for_those_who_ask(scene: Scene) -> None:
    scene.upstream.records["signed.example", "A"] = ["signed.example. 60 A 198.51.100.9"]
    plain = scene.ask("signed.example", flags=dns.flags.RD)
    do = scene.ask("signed.example", want_dnssec=True)
    ad = scene.ask("signed.example", flags=dns.flags.RD | dns.flags.AD)
    assert plain is not None
    assert do is not None
    assert ad is not None
    assert [bool(reply.flags & dns.flags.AD) for reply in (plain, do, ad)] == [False, True, True]


def test_a_reply_over_the_clients_size_is_truncated_and_whole_over_tcp(scene: Scene) -> None:
    text = '"' + "x" * 200 + '"'
    scene.upstream.records["big.example", "TXT"] = ["big.example. 60 TXT " + " ".join([text] * 5)]
    small, large, tcp = (
        scene.ask("big.example", "TXT", use_edns=False),
        scene.ask("big.example", "TXT", payload=1232),
        scene.ask("big.example", "TXT", tcp=True),
    )
    assert small is not None
    assert large is not None
    assert tcp is not None
    assert (bool(small.flags & dns.flags.TC), small.answer) == (True, [])
    assert not large.flags & dns.flags.TC
    assert tcp.answer == large.answer


def test_no_upstream_is_servfail_with_the_reason(scene: Scene) -> None:
    reply = scene.ask("lost.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert ede(reply) == [(23, "nobody answers")]
    [event] = scene.events()
    assert event.cause is Cause.UPSTREAM


def test_a_failure_is_remembered_for_two_seconds(scene: Scene) -> None:
    scene.ask("lost.example")
    scene.ask("lost.example")
    assert len(scene.upstream.asked) == 1
    scene.later(3)
    scene.ask("lost.example")
    assert len(scene.upstream.asked) == 2


def test_an_answer_to_another_question_is_servfail(scene: Scene) -> None:
    scene.upstream.answer = lambda question: Answer(  # type: ignore[method-assign]
        bytes(dns.message.make_response(dns.message.make_query("other.example", "A")).to_wire())
    )
    reply = scene.ask("fine.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL


@pytest.mark.parametrize("garbage", [b"\x00", b"\xff" * 40, b"\x00" * 12])
def test_garbage_from_upstream_is_servfail(scene: Scene, garbage: bytes) -> None:
    scene.upstream.answer = lambda question: Answer(garbage)  # type: ignore[method-assign]
    reply = scene.ask("fine.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL


def test_strangers_are_refused(scene: Scene) -> None:
    reply = scene.ask("fine.example", client=bytes((203, 0, 113, 9)))
    assert reply is not None
    assert reply.rcode() == dns.rcode.REFUSED
    assert ede(reply)[0][0] == 18


@pytest.mark.parametrize(
    ("packet", "rcode"),
    [
        (bytes(dns.message.make_query("a.example", "AXFR", id=7).to_wire()), dns.rcode.REFUSED),
        (bytes(dns.message.make_query("version.bind", "TXT", "CH", id=7).to_wire()), dns.rcode.REFUSED),
        (b"\x00\x07\x20\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01", dns.rcode.NOTIMP),
        (b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x00\x00", dns.rcode.FORMERR),
    ],
)
def test_what_is_not_served(scene: Scene, packet: bytes, rcode: int) -> None:
    body = scene.pipeline.handle(packet, scene.clients.meet(OFFICE), Peer())
    assert body
    assert (body[1] & 0xF, body[0] & 0x80) == (rcode, 0x80)


def test_edns_version_one_is_badvers(scene: Scene) -> None:
    reply = scene.ask("a.example", use_edns=1)
    assert reply is not None
    assert reply.rcode() == dns.rcode.BADVERS


def test_nothing_is_answered_before_intelligence_is_loaded(scene: Scene) -> None:
    scene.policy.ready = False
    reply = scene.ask("fine.example")
    assert reply is not None
    assert reply.rcode() == dns.rcode.SERVFAIL
    assert ede(reply)[0][0] == 14
    assert scene.upstream.asked == []


def test_names_known(scene: Scene) -> None:
    found: Name = from_text("evil.example")
    assert scene.policy.explain(found, scene.policy.default).blocks
