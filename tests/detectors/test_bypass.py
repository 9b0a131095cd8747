from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import BadName
from core.finding import Confidence, Finding
from core.names import from_text, to_text
from detectors.bypass import MAX_SAID, Bypass, BypassSettings, Resolvers, read, shipped
from detectors.sight import Sight, domain_of

START = 1_700_000_000.0
DAY = 86_400.0
ANN, BOB = b"\x0a\x00\x00\x01", b"\x0a\x00\x00\x02"
SVCB = 64


def ask(
    watch: Bypass,
    name: str,
    at: float = START,
    client: bytes = ANN,
    *,
    qtype: int = 1,
    to: str = "",
    blocked: bool = False,
) -> Sequence[Finding]:
    qname = from_text(name)
    addresses = (ip_address(to).packed,) if to else ()
    sight = Sight(
        at=at,
        client=client,
        qname=qname,
        qtype=qtype,
        domain=domain_of(qname),
        rcode=0,
        addresses=addresses,
        blocked=blocked,
    )
    return [*watch.see(sight), *watch.tick(at)]


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("dns.google", "Google"),
        ("cloudflare-dns.com", "Cloudflare"),
        ("chrome.cloudflare-dns.com", "Cloudflare"),
        ("abc123.cloudflare-gateway.com", "Cloudflare"),
        ("dns.quad9.net", "Quad9"),
        ("phone-abc123.dns.nextdns.io", "NextDNS"),
        ("_dns.dns.quad9.net", "Quad9"),
        ("dns0.eu", "DNS0.EU"),
    ],
)
def test_known_resolvers_are_told(name: str, provider: str) -> None:
    (finding,) = ask(Bypass(BypassSettings()), name)
    assert provider in finding.reason
    assert name in finding.reason
    assert finding.confidence is Confidence.LOW
    assert finding.client == "10.0.0.1"


@pytest.mark.parametrize(
    "name",
    [
        "www.google.com",
        "google.com",
        "quad9.net",
        "www.nextdns.io",
        "www.dns0.eu",
        "notdns.google.com",
        "dns.google.evil.com",
    ],
)
def test_others_are_not(name: str) -> None:
    assert not ask(Bypass(BypassSettings()), name)


def test_a_name_of_ones_own_for_a_known_address_is_told() -> None:
    watch = Bypass(BypassSettings())
    (finding,) = ask(watch, "innocent.example.com", to="1.1.1.1")
    assert "innocent.example.com is at 1.1.1.1" in finding.reason
    (six,) = ask(watch, "innocent.example.com", client=BOB, to="2620:fe::fe")
    assert "Quad9" in six.reason
    assert not ask(watch, "innocent.example.com", START + DAY, to="192.0.2.1")


def test_told_once_a_day_a_client_and_a_provider() -> None:
    watch = Bypass(BypassSettings())
    assert len(ask(watch, "dns.google")) == 1
    assert not ask(watch, "dns.google", START + 60)
    assert not ask(watch, "dns64.dns.google", START + 60)
    assert len(ask(watch, "dns.quad9.net", START + 60)) == 1
    assert len(ask(watch, "dns.google", START + 60, BOB)) == 1
    assert len(ask(watch, "dns.google", START + DAY)) == 1


def test_asking_for_leave_is_no_offence_but_remembered() -> None:
    watch = Bypass(BypassSettings())
    assert not ask(watch, "use-application-dns.net")
    assert not ask(watch, "mask.icloud.com", client=BOB)
    assert not ask(watch, "_dns.resolver.arpa", client=BOB, qtype=SVCB)
    assert watch.counters()["asked_leave"] == 3
    (finding,) = ask(watch, "dns.google")
    assert "Firefox" in finding.reason
    told = Bypass(BypassSettings(discovery=True))
    (polite,) = ask(told, "use-application-dns.net")
    assert polite.score < finding.score
    assert len(ask(told, "_dns.resolver.arpa", qtype=SVCB)) == 1


def test_a_question_for_an_encrypted_service_is_told() -> None:
    watch = Bypass(BypassSettings())
    (finding,) = ask(watch, "_dns.ns1.somewhere.net", qtype=SVCB)
    assert "ns1.somewhere.net" in finding.reason
    (port,) = ask(watch, "_8443._dns.ns2.somewhere.net", qtype=SVCB)
    assert "ns2.somewhere.net" in port.reason
    assert not ask(watch, "_dns.ns3.somewhere.net", qtype=1)
    assert not ask(watch, "a.b._dns.ns3.somewhere.net", qtype=SVCB)
    assert not ask(watch, "www.somewhere.net", qtype=SVCB)


def test_the_operator_adds_and_allows() -> None:
    settings = BypassSettings(
        extra=("doh.shady.net", "203.0.113.53"), allow=("dns.quad9.net", "9.9.9.9", "cloudflare-dns.com")
    )
    watch = Bypass(settings)
    assert len(ask(watch, "x.doh.shady.net")) == 1
    assert len(ask(watch, "other.net", client=BOB, to="203.0.113.53")) == 1
    assert not ask(watch, "dns.quad9.net", to="9.9.9.9")
    assert not ask(watch, "chrome.cloudflare-dns.com")
    assert len(ask(watch, "dns.google")) == 1
    with pytest.raises(BadName):
        Bypass(BypassSettings(extra=("x" * 64 + ".net",)))


def test_blocked_and_off_are_silent() -> None:
    assert not ask(Bypass(BypassSettings()), "dns.google", blocked=True)
    assert not ask(Bypass(BypassSettings(mode="off")), "dns.google")


def test_the_shipped_list_is_sound() -> None:
    known = shipped()
    assert len(known.hosts) + len(known.exact) > 100
    assert len(known.addresses) > 80
    for name in known.hosts:
        assert to_text(name) == to_text(name).lower()
        assert domain_of(name) == name or name.endswith(domain_of(name))
    assert from_text("google.com") not in known.hosts
    assert all(not ip_address(address).is_private for address in known.addresses)
    again = read("One: a.net =b.net 192.0.2.1\n# Two: c.net\n\nnonsense\n", Resolvers({}, {}, {}))
    assert again == Resolvers({from_text("a.net"): "One"}, {from_text("b.net"): "One"}, {b"\xc0\x00\x02\x01": "One"})


def test_it_is_kept_over_a_restart() -> None:
    watch = Bypass(BypassSettings())
    assert len(ask(watch, "dns.google")) == 1
    again = Bypass(BypassSettings())
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.dump())))
    assert not ask(again, "dns.google", START + 60)
    assert len(ask(again, "dns.quad9.net", START + 60)) == 1


def test_the_caps_hold() -> None:
    watch = Bypass(BypassSettings())
    for number in range(MAX_SAID + 5_000):
        ask(watch, "dns.google", client=number.to_bytes(4, "big"))
    assert len(watch._said) <= MAX_SAID
    assert watch.counters()["dropped"] > 0


@given(st.lists(st.text("abcdefghijklmnop-", min_size=1, max_size=12), min_size=1, max_size=4))
def test_a_name_is_told_only_when_a_listed_host_ends_it(parts: list[str]) -> None:
    name = ".".join(parts) + ".example-site.com"
    watch = Bypass(BypassSettings(extra=("resolver.example-site.com",)))
    assert not ask(watch, name)
    assert len(ask(watch, ".".join(parts) + ".resolver.example-site.com")) == 1
