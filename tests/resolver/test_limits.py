"""What one client, one network and one domain may take: scenes over the pipeline, and the parts by themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import pytest
from scene import OFFICE, OTHER, Scene

from core.config import Config, Server
from core.config import Limits as Settings
from resolver.cookies import Cookies
from resolver.limits import EMPTY_SHARE, Damper, Limits

if TYPE_CHECKING:
    from pathlib import Path

CLIENT = bytes((198, 51, 100, 7))


def spend(limits: Limits, address: bytes, count: int) -> int:
    """Ask `count` times as the packet loop does; returns how many were let through."""
    bucket = limits.bucket(address)
    passed = 0
    for _ in range(count):
        bucket.left -= 1
        passed += bucket.left >= 0 or limits.more(bucket)
    return passed


def test_a_client_has_a_burst_and_then_its_rate() -> None:
    limits = Limits(Settings(queries_per_second=10, burst=30, exempt=()))
    bucket = limits.bucket(CLIENT)

    def ask(count: int) -> int:
        passed = 0
        for _ in range(count):
            bucket.left -= 1
            passed += bucket.left >= 0 or limits.more(bucket)
        return passed

    assert ask(100) == 30
    assert limits.limited == 70
    limits.second += 1
    assert ask(100) == 10
    limits.second += 2
    assert ask(100) == 20
    limits.second += 100
    assert ask(100) == 30


def test_a_burst_below_the_rate_is_the_rate() -> None:
    assert spend(Limits(Settings(queries_per_second=50, burst=1, exempt=())), CLIENT, 100) == 50


@pytest.mark.parametrize("settings", [Settings(queries_per_second=0), Settings(exempt=("198.51.100.0/24",), burst=1)])
def test_no_limit(settings: Settings) -> None:
    assert spend(Limits(settings), CLIENT, 20_000) == 20_000


def test_a_network_shares_its_replies() -> None:
    limits = Limits(Settings(responses_per_second=5, exempt=()))
    first, second = limits.replies_to(CLIENT), limits.replies_to(bytes((198, 51, 100, 99)))
    assert first is not None
    assert first is second
    assert limits.replies_to(bytes((198, 51, 101, 7))) is not first
    assert limits.replies_to(b"\x20" * 7 + b"\x01" * 9) is limits.replies_to(b"\x20" * 7 + b"\x02" * 9)
    assert sum(limits.may_reply(first) for _ in range(20)) == 5
    limits.second += 1
    assert sum(limits.may_reply(first) for _ in range(20)) == 5
    assert limits.slipped == 30


def test_replies_are_not_limited_by_default() -> None:
    assert Limits(Settings()).replies_to(CLIENT) is None


def limited(folder: Path) -> Scene:
    config = Config(limits=Settings(responses_per_second=2, exempt=()))
    scene = Scene(folder, config, Cookies([bytes(16)]))
    scene.upstream.records["www.example", "A"] = ["www.example. 300 A 198.51.100.1"]
    return scene


def test_a_network_over_its_replies_is_sent_to_tcp_every_second_time(tmp_path: Path) -> None:
    scene = limited(tmp_path)
    replies = [scene.ask("www.example") for _ in range(6)]
    assert [reply is not None and len(reply.answer) for reply in replies[:2]] == [1, 1]
    later = [reply for reply in replies[2:] if reply is not None]
    assert len(later) == 2
    assert all(reply.flags & dns.flags.TC and not reply.answer for reply in later)
    over_tcp = scene.ask("www.example", tcp=True)
    assert over_tcp is not None
    assert over_tcp.answer
    assert scene.pipeline.counters()["slipped"] == 4
    scene.close()


def test_a_cookie_proves_that_a_client_is_no_imitation(tmp_path: Path) -> None:
    scene = limited(tmp_path)
    fresh = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"clientck")]
    replies = [scene.ask("www.example", options=fresh) for _ in range(4)]
    refused = next(reply for reply in replies[2:] if reply is not None)
    assert refused.rcode() == dns.rcode.BADCOOKIE
    given = next(bytes(found.to_wire() or b"") for found in refused.options if int(found.otype) == 10)
    for _ in range(5):
        reply = scene.ask("www.example", options=[dns.edns.GenericOption(dns.edns.OptionType.COOKIE, given)])
        assert reply is not None
        assert reply.answer
    scene.close()


# ---- random sub-domains


def test_under_way_and_landed_balance() -> None:
    damper = Damper(2)
    assert [damper.admit(b"z", known=False) for _ in range(3)] == [True, True, False]
    assert damper.admit(b"z", known=True)
    assert damper.admit(b"y", known=False)
    for _ in range(3):
        damper.landed(b"z", empty=False)
    damper.landed(b"y", empty=False)
    damper.landed(b"never", empty=False)
    assert damper.admit(b"z", known=False)
    assert damper.damped == 1


def test_what_does_not_exist_counts_for_a_second() -> None:
    damper = Damper(2)
    for _ in range(2 * EMPTY_SHARE):
        assert damper.admit(b"z", known=False)
        damper.landed(b"z", empty=True)
    assert not damper.admit(b"z", known=False)
    damper.second()
    assert damper.admit(b"z", known=False)


def test_no_limit_damps_nothing() -> None:
    damper = Damper(0)
    assert all(damper.admit(b"z", known=False) for _ in range(10_000))


def test_known_names_go_on_under_attack(tmp_path: Path) -> None:
    """Silent servers and a flood of random names: the domain's own names stay, cached, expired or renewed."""
    scene = Scene(tmp_path, Config(limits=Settings(misses_per_domain=10)))
    for name in ("www.victim.com", "mail.victim.com"):
        scene.upstream.records[name, "A"] = [f"{name}. 300 A 198.51.100.1"]
    scene.ask("www.victim.com")
    scene.ask("mail.victim.com")
    scene.later(250)
    scene.ask("mail.victim.com")
    scene.later(100)
    scene.upstream.hold = True
    flood = [scene.send(f"r{number}.victim.com", client=OTHER) for number in range(50)]
    refused = [scene.read(*sent) for sent in flood if sent[1].got]
    assert len(refused) == 40
    assert all(reply is not None and reply.rcode() == dns.rcode.SERVFAIL for reply in refused)
    assert scene.pipeline.counters()["damped"] == 40
    packet, peer = scene.send("www.victim.com", client=OFFICE)
    scene.later(2)
    stale = scene.read(packet, peer)
    assert stale is not None
    assert stale.answer
    other, waiting = scene.send("www.elsewhere.com")
    assert not waiting.got  # other domains do not notice
    scene.upstream.release()
    assert scene.read(other, waiting) is not None
    scene.close()


def test_the_root_lands_like_any_name(tmp_path: Path) -> None:
    scene = Scene(tmp_path, Config(limits=Settings(misses_per_domain=2)))
    for number in range(5):
        reply = scene.ask(".", f"TYPE{1_000 + number}")
        assert reply is not None
    assert len(scene.upstream.asked) == 5
    assert scene.pipeline.counters()["damped"] == 0
    scene.close()


def test_without_cookies_nobody_is_sent_for_one(tmp_path: Path) -> None:
    config = Config(limits=Settings(responses_per_second=1, exempt=()), server=Server(identity="ns1"))
    scene = Scene(tmp_path, config)
    scene.upstream.records["www.example", "A"] = ["www.example. 300 A 198.51.100.1"]
    asks = [
        dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"clientck"),
        dns.edns.GenericOption(dns.edns.OptionType.NSID, b""),
    ]
    replies = [scene.ask("www.example", options=asks) for _ in range(4)]
    assert {reply.rcode() for reply in replies if reply is not None} == {dns.rcode.NOERROR}
    scene.close()
