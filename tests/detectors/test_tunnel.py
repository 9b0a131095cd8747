"""Scenes of the tunnel detector: what flows both ways, what only looks so, and what it remembers."""

from __future__ import annotations

from base64 import b64encode
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.finding import Confidence, Finding
from core.names import from_labels, from_text
from detectors.sight import Sight, domain_of
from detectors.tunnel import TunnelSettings, TunnelWatch
from detectors.tunnel_pair import SHARES, Pair, judge, may_be_judged

ZONE = "relay.example"
A, TXT = 1, 16
HOUR = 3600.0


def sight(name: str, qtype: int = TXT, payload: bytes = b"", *addresses: bytes, **more: object) -> Sight:
    qname = from_text(f"{name}.{ZONE}")
    plain = Sight(
        at=0.0,
        client=b"\x0a\x00\x00\x01",
        qname=qname,
        qtype=qtype,
        domain=domain_of(qname),
        rcode=0,
        ttl=5,
        payload=payload,
        addresses=addresses,
    )
    return msgspec.structs.replace(plain, **more)


def channel(count: int = 40, **more: object) -> list[Sight]:
    """Return a tunnel of nobody's: hex in names, base64 in TXT."""
    dice = Random(5)
    return [
        sight(
            f"q{dice.randbytes(18).hex()}", TXT, b"\x28" + b64encode(dice.randbytes(30)), **{"at": float(turn), **more}
        )
        for turn in range(count)
    ]


def upload(count: int = 80, **more: object) -> list[Sight]:
    dice = Random(6)
    return [sight(f"q{dice.randbytes(18).hex()}", A, b"", b"\x08\x01\x01\x01", **more) for _ in range(count)]


def findings(sights: list[Sight], settings: TunnelSettings | None = None) -> list[Finding]:
    watch = TunnelWatch(settings or TunnelSettings())
    return [finding for one in sights for finding in watch.see(one)]


def test_an_unknown_tunnel_is_found_by_its_shape_and_never_called_sure() -> None:
    (found,) = findings(channel())
    assert found.confidence is Confidence.MEDIUM
    assert (found.client, found.domain) == ("10.0.0.1", ZONE)
    assert "encoded names" in found.reason
    held = {evidence.name: evidence for evidence in found.evidence}
    assert held["share of answers that vary"].value >= held["share of answers that vary"].threshold
    assert held["traits"].value >= held["traits"].threshold
    assert held["questions"].value == 8


def test_shapes_can_be_turned_off_and_so_can_all() -> None:
    assert findings(channel(), TunnelSettings(shapes=False)) == []
    named = [sight("aaaaaa.=auth")]
    assert findings(named)[0].confidence is Confidence.HIGH
    assert findings(named, TunnelSettings(mode="off")) == []


@pytest.mark.parametrize(
    "change",
    [
        {"payload": b"\x02OK"},
        {"payload": b"", "rcode": 3},
        {"payload": b"", "addresses": (b"\x7f\x00\x00\x02",), "qtype": A},
        {"payload": b"", "rcode": -1},
        {"cached": True},
    ],
    ids=["one answer", "no such name", "a list's answer", "no answer seen", "from the cache"],
)
def test_no_channel_back_is_no_two_way_talk(change: dict[str, object]) -> None:
    changed = [msgspec.structs.replace(one, **change) for one in channel(120)]
    assert not any(found.confidence >= Confidence.MEDIUM for found in findings(changed))


def test_usable_addresses_behind_a_cname_are_a_content_network() -> None:
    dice = Random(2)
    hosts = [
        sight(
            dice.randbytes(16).hex(),
            A,
            from_text(f"{dice.randbytes(8).hex()}.edge.example"),
            b"\x34" + dice.randbytes(3),
        )
        for _ in range(100)
    ]
    assert findings(hosts) == []
    bare = [msgspec.structs.replace(one, addresses=()) for one in hosts]
    assert findings(bare)[0].confidence is Confidence.MEDIUM


def test_addresses_no_host_can_have_are_data() -> None:
    dice = Random(3)
    odd = [
        sight(dice.randbytes(16).hex(), A, b"", b"\xf1" + dice.randbytes(3), b"\x00" + dice.randbytes(3))
        for _ in range(40)
    ]
    assert findings(odd)[0].confidence is Confidence.MEDIUM
    usual = [msgspec.structs.replace(one, addresses=(b"\x34" + one.addresses[0][1:],)) for one in odd]
    assert findings(usual) == []


def test_the_same_questions_again_are_no_tunnel() -> None:
    assert findings([channel(5)[turn % 5] for turn in range(200)]) == []


def test_an_upload_nobody_answers_is_low() -> None:
    (found,) = findings(upload())
    assert found.confidence is Confidence.LOW
    assert found.evidence[0].value >= found.evidence[0].threshold == 2048
    assert findings(upload(50)) == []


def test_a_service_many_clients_speak_with_alike_is_silent() -> None:
    watch = TunnelWatch(TunnelSettings(peers=3))
    loud = [
        bool([found for one in channel(12, client=bytes((10, 0, 0, host))) for found in watch.see(one)])
        for host in range(6)
    ]
    assert loud == [True, True, True, False, False, False]
    last = sight("bbbbbb.=connect", client=b"\x0a\x00\x00\x09")
    assert [found.confidence for found in watch.see(last)] == [Confidence.HIGH]


def test_a_pair_is_named_again_only_after_a_while() -> None:
    again = [sight(f"a{turn}.=auth", at=turn * 600.0) for turn in range(13)]
    assert len(findings(again, TunnelSettings(repeat=HOUR))) == 3


def test_a_graver_finding_does_not_wait() -> None:
    mixed = [*channel(10), sight("aaaaaa.=auth", at=11.0)]
    assert [found.confidence for found in findings(mixed)] == [Confidence.MEDIUM, Confidence.HIGH]


_COUNT = st.floats(0, 300)


@given(st.fixed_dictionaries(dict.fromkeys(SHARES, _COUNT)), st.integers(0, 5000))
def test_a_pair_that_need_not_be_judged_shows_nothing(counts: dict[str, float], encoded: int) -> None:
    pair = Pair()
    pair.encoded_octets = encoded
    for field, count in counts.items():
        setattr(pair.shares, field, count)
    traits = judge(pair)
    if traits.outward and (traits.two_way or (traits.carries and traits.silent and encoded >= 2048)):
        assert may_be_judged(pair, 2048)


def test_a_known_tunnel_is_not_judged_again_before_it_may_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = TunnelWatch(TunnelSettings())
    talk = channel(200)
    first = next(at for at, one in enumerate(talk) if watch.see(one))
    monkeypatch.setattr("detectors.tunnel.judge", None)
    assert not any(watch.see(one) for one in talk[first + 1 :])
    with pytest.raises(TypeError):
        watch.see(msgspec.structs.replace(talk[-1], at=HOUR * 2))


def test_ordinary_questions_cost_no_state() -> None:
    watch = TunnelWatch(TunnelSettings())
    for name in ("www", "mail", "api", "static-2"):
        watch.see(sight(name, A, b"", b"\x08\x08\x04\x04"))
    assert watch.counters()["pairs"] == 0


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=200), st.integers(1, 12))
def test_state_stays_under_its_caps(talk: list[tuple[int, int]], cap: int) -> None:
    watch = TunnelWatch(TunnelSettings(max_pairs=cap, max_domains=cap, min_names=1, min_carried=1))
    for client, site in talk:
        qname = from_labels((b"q5d2301340f59af309420", b"s%d" % site, b"example"))
        watch.see(
            Sight(at=0.0, client=bytes((10, 0, 0, client)), qname=qname, qtype=TXT, domain=domain_of(qname), rcode=-1)
        )
        counts = watch.counters()
        assert counts["pairs"] <= max(cap, 2)
        assert counts["domains"] <= cap


def test_what_is_dropped_is_counted() -> None:
    watch = TunnelWatch(TunnelSettings(max_pairs=4))
    for host in range(20):
        watch.see(sight("q5d2301340f59af309420", client=bytes((10, 0, 0, host))))
    assert watch.counters()["dropped_pairs"] >= 14


def test_memory_of_one_pair_is_bounded() -> None:
    watch = TunnelWatch(TunnelSettings())
    for one in channel(2000):
        watch.see(one)
    ((_, _, pair),) = watch.dump()["pairs"]
    assert max(len(pair["names"]), len(pair["answers"])) == 4 * 128
    assert len(pair["marks"]) <= 8


def test_state_survives_a_restart() -> None:
    talk = [*channel(7), *[sight("aaaaaa.=auth", at=20.0)]]
    before, after = TunnelWatch(TunnelSettings()), TunnelWatch(TunnelSettings())
    for one in talk[:7]:
        assert not before.see(one)
    after.load(msgspec.msgpack.decode(msgspec.msgpack.encode(before.dump()), strict=False))
    assert after.counters() == before.counters()
    following = channel(8)[7:]
    assert after.see(following[0]) == before.see(following[0]) != ()
    assert after.see(talk[7]) == before.see(talk[7]) != ()
    assert after.see(talk[7]) == ()


def test_a_state_of_another_version_is_left_out() -> None:
    watch = TunnelWatch(TunnelSettings())
    watch.load({"version": 0, "pairs": [1], "clients": []})
    assert watch.counters()["pairs"] == 0
    assert watch.tick(5.0) == ()


def test_settings_are_checked() -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"mode": "loud"}, TunnelSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"nonsense": 1}, TunnelSettings)
