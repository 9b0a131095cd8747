from __future__ import annotations

import itertools
import struct
from pathlib import Path

import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core import config, rr
from core.config_local import check_local
from core.config_read import Mistakes
from core.errors import BadConfig
from core.names import from_text, suffixes
from resolver.hosts import parse_hosts
from resolver.local import LocalZones

HOSTS = """\
# ours
192.0.2.7  Printer.corp.example printer  # two names
2001:db8::7 printer.corp.example
127.0.0.1 localhost
"""
RECORDS = (
    config.Record(name="www.lan", type="CNAME", data="web.lan", ttl=60),
    config.Record(name="web.lan", data="192.0.2.8"),
    config.Record(name="web.lan", data="192.0.2.9", ttl=100),
    config.Record(name="t.corp.example", type="TXT", data='"a b" c'),
    config.Record(name="t.corp.example", type="MX", data="10 Mail.corp.example"),
    config.Record(name="_sip._udp.corp.example", type="SRV", data="0 5 5060 sip.corp.example"),
    config.Record(name="deep.under.test", data="192.0.2.10"),
)


def zones_of(tmp_path: Path, *zones: str, **settings: object) -> LocalZones:
    (tmp_path / "hosts").write_text(HOSTS, encoding="utf-8")
    found = config.Local(**{"hosts": "hosts", "record": RECORDS, **settings})  # type: ignore[arg-type]
    return LocalZones(found, base=tmp_path, zones=[from_text(zone) for zone in zones])


def ask(local: LocalZones, name: str, kind: str) -> dns.message.Message | None:
    wire, qtype = from_text(name), int(dns.rdatatype.from_text(kind))
    keys = suffixes(wire)
    found = local.find(keys, qtype)
    if found is None:
        return None
    assert len(keys) == 1 or keys[-1] in local.tops, "the quick filter must not hide an answer"
    head = struct.pack("!HHH", 1, 0x8180 | found.rcode, 1) + found.counts
    message = dns.message.from_wire(head + wire + struct.pack("!HH", qtype, 1) + found.body)
    assert found.ttl == min(rrset.ttl for section in message.sections[1:] for rrset in section)
    return message


def said(message: dns.message.Message | None) -> str:
    if message is None:
        return "asked outside"
    if not message.answer:
        assert [int(rrset.rdtype) for rrset in message.authority] == [rr.SOA]
        return "NODATA" if message.rcode() == dns.rcode.NOERROR else dns.rcode.to_text(message.rcode())
    return "; ".join(sorted(str(record) for rrset in message.answer for record in rrset))


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("printer.corp.example", "A", "192.0.2.7"),
        ("printer.corp.example", "AAAA", "2001:db8::7"),
        ("printer.corp.example", "TXT", "NODATA"),
        ("printer", "A", "192.0.2.7"),
        ("x.printer.corp.example", "A", "asked outside"),
        ("7.2.0.192.in-addr.arpa", "PTR", "printer.corp.example."),
        ("web.lan", "A", "192.0.2.8; 192.0.2.9"),
        ("www.lan", "A", "192.0.2.8; 192.0.2.9; web.lan."),
        ("www.lan", "CNAME", "web.lan."),
        ("www.lan", "AAAA", "web.lan."),
        ("lan", "A", "NODATA"),
        ("nobody.lan", "A", "NXDOMAIN"),
        ("9.2.0.192.in-addr.arpa", "PTR", "web.lan."),
        ("10.2.0.192.in-addr.arpa", "PTR", "deep.under.test."),
        ("under.test", "A", "NODATA"),
        ("t.corp.example", "TXT", '"a b" "c"'),
        ("t.corp.example", "MX", "10 Mail.corp.example."),
        ("_sip._udp.corp.example", "SRV", "0 5 5060 sip.corp.example."),
        ("a.localhost", "A", "127.0.0.1"),
        ("a.localhost", "AAAA", "::1"),
        ("a.localhost", "MX", "NODATA"),
        ("1.0.0.127.in-addr.arpa", "PTR", "localhost."),
        ("2.0.0.127.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("0.0.127.in-addr.arpa", "PTR", "NODATA"),
        ("1." + "0." * 31 + "ip6.arpa", "PTR", "localhost."),
        ("1.0.0.10.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("10.in-addr.arpa", "PTR", "NODATA"),
        ("10.in-addr.arpa", "NS", "10.in-addr.arpa."),
        ("10.in-addr.arpa", "DS", "asked outside"),
        ("1.15.172.in-addr.arpa", "PTR", "asked outside"),
        ("1.31.172.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("1.127.100.in-addr.arpa", "PTR", "NXDOMAIN"),
        ("1.128.100.in-addr.arpa", "PTR", "asked outside"),
        ("8.8.8.8.in-addr.arpa", "PTR", "asked outside"),
        ("ipv4only.arpa", "A", "192.0.0.170; 192.0.0.171"),
        ("ipv4only.arpa", "AAAA", "NODATA"),
        ("170.0.0.192.in-addr.arpa", "PTR", "ipv4only.arpa."),
        ("home.arpa", "A", "NODATA"),
        ("home.arpa", "DS", "asked outside"),
        ("x.home.arpa", "A", "NXDOMAIN"),
        ("x.home.arpa", "DS", "NXDOMAIN"),
        ("_dns.resolver.arpa", "SVCB", "NODATA"),
        ("resolver.arpa", "SVCB", "NODATA"),
        *((f"x.{top}", "A", "NXDOMAIN") for top in ("test", "invalid", "onion", "local", "alt", "internal", "corp")),
        ("wpad", "A", "NODATA"),
        ("com", "HTTPS", "NODATA"),
        ("com", "NS", "asked outside"),
        ("com", "DS", "asked outside"),
        ("use-application-dns.net", "A", "NXDOMAIN"),
        ("mask.icloud.com", "A", "asked outside"),
        ("www.example.com", "A", "asked outside"),
        ("xlocal.example", "A", "asked outside"),
        (".", "NS", "asked outside"),
    ],
)
def test_what_is_answered(tmp_path: Path, name: str, kind: str, expected: str) -> None:
    assert said(ask(zones_of(tmp_path), name, kind)) == expected


def test_a_zone_with_servers_of_its_own_has_no_rules_but_records_win(tmp_path: Path) -> None:
    local = zones_of(tmp_path, "lan", "corp.internal", "10.in-addr.arpa")
    for name in ("nobody.lan", "lan", "a.corp.internal", "1.10.in-addr.arpa"):
        assert said(ask(local, name, "A")) == "asked outside", name
    assert said(ask(local, "web.lan", "A")) == "192.0.2.8; 192.0.2.9"
    assert said(ask(local, "internal", "A")) == "NODATA"
    assert said(ask(local, "other.internal", "A")) == "NXDOMAIN"
    assert said(ask(zones_of(tmp_path, "arpa"), "1.0.0.127.in-addr.arpa", "TXT")) == "NODATA"  # the hosts file has it


def test_every_rule_can_be_turned_off(tmp_path: Path) -> None:
    off = zones_of(tmp_path, special_use=False, block_doh_canary=False, designated_resolver="resolve")
    for name in ("x.test", "wpad", "x.localhost", "1.10.in-addr.arpa", "use-application-dns.net", "x.resolver.arpa"):
        assert said(ask(off, name, "A")) == "asked outside", name
    relay = zones_of(tmp_path, block_private_relay=True)
    assert [said(ask(relay, f"{name}.icloud.com", "A")) for name in ("mask", "mask-h2")] == ["NXDOMAIN"] * 2
    assert said(ask(zones_of(tmp_path, dns64_prefix="64:ff9b::/96"), "ipv4only.arpa", "A")) == "asked outside"


def test_an_alias_without_the_type_asked_carries_the_alias_and_an_soa(tmp_path: Path) -> None:
    message = ask(zones_of(tmp_path), "www.lan", "AAAA")
    assert message is not None
    assert [str(rrset.name) for rrset in (*message.answer, *message.authority)] == ["www.lan.", "web.lan."]


@pytest.mark.parametrize(
    "line",
    ["192.0.2.300 a", "192.0.2.1", "not-an-address a", f"192.0.2.1 {'a' * 64}", "::1 .", "192.0.2.1 a..b", "a" * 5_000],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad").write_text(f"192.0.2.1 fine\n{line}\n", encoding="utf-8")
    with pytest.raises(BadConfig, match=r"bad:2: .*; write ADDRESS NAME"):
        LocalZones(config.Local(hosts="bad"), base=tmp_path, zones=())


def test_a_missing_hosts_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match=r"none: cannot be read"):
        LocalZones(config.Local(hosts="none"), base=tmp_path, zones=())


@given(st.binary(max_size=200) | st.text("0123456789.:abcf #\t\n%\u00e9", max_size=80).map(str.encode))
def test_any_octets_are_read_or_refused_with_the_line(octets: bytes) -> None:
    try:
        hosts = parse_hosts(octets, "file")
    except BadConfig as error:
        assert error.mistakes
        assert all(line.startswith("local.hosts: file:") and "\n" not in line for line in error.mistakes)
    else:
        assert all(host.names and suffixes(name) for host in hosts for name in host.names)


def mistakes_of(*records: config.Record) -> list[str]:
    mistakes = Mistakes()
    check_local(config.Local(record=records), mistakes)
    return mistakes.lines


def test_records_that_can_be_served_are_no_mistakes() -> None:
    assert mistakes_of(*RECORDS) == []


@pytest.mark.parametrize(
    ("records", "expected"),
    [
        ([("a.example", "A", "x")], "local.record[0].data: "),
        ([("a.example", "AAAA", "192.0.2.1")], "is no AAAA data"),
        ([("a.example", "MX", "mail")], "is no MX data"),
        ([("a.example", "SRV", "1 2 3")], "is no SRV data"),
        ([("a.example", "TXT", '"open')], "is no TXT data"),
        ([("a.example", "CNAME", "b..c")], "is no CNAME data"),
        ([("a.example", "CNAME", "b.example")], "is not the name of a local record"),
        ([("a.example", "CNAME", "A.example")], "loop"),
        ([("a.example", "CNAME", "b.example"), ("b.example", "A", "192.0.2.1"), ("a.example", "TXT", "t")], "beside"),
    ],
)
def test_a_record_that_cannot_be_served_is_one_line(records: list[tuple[str, str, str]], expected: str) -> None:
    made = [config.Record(name=name, type=kind, data=data) for name, kind, data in records]  # type: ignore[arg-type]
    lines = mistakes_of(*made)
    assert len(lines) == 1
    assert expected in lines[0]


def test_an_answer_is_built_once(tmp_path: Path) -> None:
    local = zones_of(tmp_path)
    hit = suffixes(from_text("web.lan"))
    assert local.find(hit, rr.A) is local.find(hit, rr.A)
    assert suffixes(from_text("www.example.org"))[-1] not in local.tops


def test_answers_remembered_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resolver.local.MAX_MADE", 4)
    local = zones_of(tmp_path)
    for qtype in itertools.islice(itertools.count(300), 50):
        assert local.find(suffixes(from_text("web.lan")), qtype) is not None
        assert len(local._made) <= 4
