"""What dig, kdig, drill and delv see of each of the protocol's manners, one row a command."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

import pytest
from protocol.office import FIRST, POINTERS, SECOND, Office

if TYPE_CHECKING:
    from collections.abc import Iterable

    from _pytest.mark import ParameterSet


class Row(NamedTuple):
    """A command, its server added, and what its output must and must not match (regular expressions, over lines)."""

    what: str
    command: str
    has: tuple[str, ...] = ()
    lacks: tuple[str, ...] = ()
    at: str = FIRST


NOERROR: Final = "status: NOERROR"
NXDOMAIN: Final = "status: NXDOMAIN"
REFUSED: Final = "status: REFUSED"
NODATA: Final = (NOERROR, "ANSWER: 0", r"AUTHORITY: 1", r"\sSOA\s")
NO_SUCH_NAME: Final = (NXDOMAIN, "ANSWER: 0", r"\sSOA\s")
BLOCKED_EDE: Final = r"EDE: 1[5-8] "

EDNS: Final = (
    Row("badvers", "dig +edns=1 +noednsneg +nocookie www.good.com",
        ("status: BADVERS", "EDNS: version: 0", "ANSWER: 0"), ("ANSWER SECTION",)),
    Row("badvers-with-option", "dig +edns=100 +noednsneg +nocookie +ednsopt=100 www.good.com",
        ("status: BADVERS", "EDNS: version: 0"), ("OPT=100", "ANSWER SECTION")),
    Row("negotiated-down", "dig +edns=1 +nocookie www.good.com", (NOERROR, r"\sA\s+192\.0\.2\.11")),
    Row("kdig-badvers", "kdig +edns=1 www.good.com", ("ext-rcode: BADVERS", "Version: 0"), ("ANSWER SECTION",)),
    Row("buffer-advertised", "dig +bufsize=4096 www.good.com", ("udp: 1232",)),
    Row("buffer-clamped", "dig +bufsize=4096 +ignore middle.good.com TXT", (r"flags: qr tc", "udp: 1232", "ANSWER: 0")),
    Row("buffer-asked-again", "dig +bufsize=4096 middle.good.com TXT", (r"\(TCP\)", "ANSWER: 1", "Truncated")),
    Row("buffer-below-512", "dig +bufsize=100 +nocookie twelve.good.com", (NOERROR, "ANSWER: 12"), ("flags: qr tc",)),
    Row("buffer-none", "dig +noedns +ignore middle.good.com TXT", ("flags: qr tc",), ("OPT PSEUDOSECTION",)),
    Row("kdig-buffer", "kdig +bufsize=4096 +ignore middle.good.com TXT", ("qr tc",), ("ANSWER SECTION",)),
    Row("drill-buffer", "drill -b 4096 -D middle.good.com TXT", ("EDNS: version 0; flags: do ; udp: 1232",)),
    Row("unknown-option", "dig +ednsopt=65001:0102 +nocookie www.good.com", (NOERROR, "192.0.2.11"), ("OPT=65001",)),
    Row("unknown-flag", "dig +ednsflags=0x40 +nocookie www.good.com", (NOERROR, "192.0.2.11"), ("MBZ",)),
    Row("padding-in-clear", "kdig +padding=128 www.good.com", ("status: NOERROR",), ("PADDING",)),
    Row("subnet-ignored", "dig +subnet=192.0.2.0/24 www.good.com", (NOERROR, "192.0.2.11"), ("CLIENT-SUBNET",)),
    Row("keepalive-tcp", "dig +tcp +keepalive www.good.com", (r"TCP.KEEPALIVE: 10\.0",)),
    Row("keepalive-udp", "dig +notcp +keepalive www.good.com", (NOERROR,), (r"TCP.KEEPALIVE",)),
    Row("keepalive-not-asked", "dig +tcp www.good.com", (NOERROR,), (r"TCP.KEEPALIVE",)),
    Row("keepopen", "kdig +tcp +keepopen www.good.com target.plain.net", ("192.0.2.11", "192.0.2.42")),
)  # fmt: skip

WHO: Final = (
    Row("version.bind", "dig CH TXT version.bind", (NOERROR, r'CH\s+TXT\s+"a resolver"')),
    Row("id.server", "dig CH TXT id.server", (NOERROR, r'CH\s+TXT\s+"office-1"')),
    Row("hostname.bind", "dig CH TXT hostname.bind", (NOERROR, r'CH\s+TXT\s+"office-1"')),
    Row("version.server", "dig CH TXT version.server", (NOERROR, r'CH\s+TXT\s+"a resolver"')),
    Row("mixed-case", "dig CH TXT VeRsIoN.bInD", (r'VeRsIoN\.bInD\.\s+\d+\s+CH\s+TXT\s+"a resolver"',)),
    Row("drill", "drill version.bind CH TXT", ("rcode: NOERROR", "a resolver")),
    Row("another-type", "dig CH A version.bind", (), (r"CH\s+A\s+\d",)),
    Row("another-name", "dig CH TXT authors.bind", (REFUSED,)),
    Row("version-not-configured", "dig CH TXT version.bind", (REFUSED,), ('TXT\\s+"',), SECOND),
    Row("identity-not-configured", "dig CH TXT id.server", (REFUSED,), ('TXT\\s+"',), SECOND),
    Row("in-the-internet", "dig IN TXT version.bind", (NXDOMAIN,)),
    Row("nsid", "dig +nsid www.good.com", (r'NSID: 6f 66 66 69 63 65 2d 31 \("office-1"\)',)),
    Row("nsid-kdig", "kdig +nsid www.good.com", ("NSID: 6F66666963652D31",)),
    Row("nsid-not-asked", "dig www.good.com", (NOERROR,), ("NSID",)),
    Row("nsid-not-configured", "dig +nsid www.good.com", (NOERROR,), ("NSID",), SECOND),
)  # fmt: skip

ANY: Final = (
    Row("minimal", "dig +notcp ANY www.good.com", (NOERROR, "ANSWER: 1", r'HINFO\s+"RFC8482" ""'), ("RRSIG",)),
    Row("minimal-tcp", "dig +tcp ANY www.good.com", (NOERROR, r'HINFO\s+"RFC8482" ""')),
    Row("minimal-kdig", "kdig ANY www.good.com", ("status: NOERROR", r'HINFO\s+"RFC8482" ""')),
    Row("minimal-drill", "drill www.good.com ANY", ("rcode: NOERROR", r'HINFO\s+"RFC8482" ""')),
    Row("resolved", "dig +tcp ANY www.good.com", (NOERROR, r"\sA\s+192\.0\.2\.11"), ("HINFO",), SECOND),
    Row("no-transfer", "dig +tcp AXFR good.com", (), ("192.0.2.",)),
    Row("no-ixfr", "dig +tcp IXFR=1 good.com", (), ("192.0.2.",)),
)  # fmt: skip

_LOCAL_ABSENT: Final = (
    "foo.test", "foo.invalid", "foo.local", "example.onion", "printer.home.arpa", "-t AAAA foo.test",
    "-x 10.2.3.4", "-x 192.168.7.7", "-x 172.16.0.1", "-x 172.31.255.255", "-x 169.254.1.1", "-x fd00::1", "-x fe80::1",
    "-x 0.0.0.1", "scanner.lan", "scanner.localdomain", "use-application-dns.net",
    "mask.icloud.com", "mask-h2.icloud.com", "-t AAAA mask.icloud.com",
)  # fmt: skip
LOCAL: Final = (
    *(Row(f"absent {asked}", f"dig {asked}", NO_SUCH_NAME, (r"flags:[^;]* ad[ ;]",)) for asked in _LOCAL_ABSENT),
    Row("localhost", "dig localhost", (NOERROR, r"\sA\s+127\.0\.0\.1$")),
    Row("localhost-aaaa", "dig localhost AAAA", (NOERROR, r"\sAAAA\s+::1$")),
    Row("below-localhost", "dig foo.LOCALHOST", (NOERROR, r"\sA\s+127\.0\.0\.1$")),
    Row("localhost-mx", "dig localhost MX", NODATA),
    Row("localhost-ptr", "dig -x 127.0.0.1", (NOERROR, r"PTR\s+localhost\.")),
    Row("localhost-ptr6", "dig -x ::1", (NOERROR, r"PTR\s+localhost\.")),
    Row("single-label", "dig scanner", NODATA, (r"flags:[^;]* ad[ ;]",)),  # NXDOMAIN would deny all below: RFC 8020
    Row("broadcast-ptr", "dig -x 255.255.255.255", NODATA),
    Row("local-kdig", "kdig foo.local", ("status: NXDOMAIN",)),
    Row("local-drill", "drill foo.home.arpa", ("rcode: NXDOMAIN",)),
    Row("designated", "dig _dns.resolver.arpa SVCB", NODATA),
    Row("designated-a", "dig resolver.arpa", NODATA),
    Row("tld-keys", "dig com DNSKEY", (NOERROR, r"DNSKEY\s+257")),
    Row("tld-ds", "dig com DS", (NOERROR, r"\sDS\s+\d")),
    Row("root", "dig . NS", (NOERROR, r"NS\s+ns\.root-servers\.net\.")),
    Row("canary-allowed", "dig use-application-dns.net", (), ("EDE",), SECOND),
)  # fmt: skip

RECORDS: Final = (
    Row("hosts-a", "dig printer.office.example", (NOERROR, r"\sA\s+192\.0\.2\.53$"), (r"flags: [^;]* ad;",)),
    Row("hosts-mixed-case", "dig PRINTER.office.example", (r"^PRINTER\.office\.example\.\s",)),
    Row("hosts-aaaa", "dig printer AAAA", (NOERROR, r"\sAAAA\s+2001:db8::53$")),
    Row("hosts-short", "dig printer A", (NOERROR, r"\sA\s+192\.0\.2\.53$")),
    Row("hosts-nodata", "dig printer.office.example MX", NODATA),
    Row("hosts-ptr", "dig -x 192.0.2.53", (NOERROR, r"PTR\s+printer\.office\.example\.$")),
    Row("hosts-ptr6", "dig -x 2001:db8::53", (NOERROR, r"PTR\s+printer\.$")),
    Row("record", "dig intranet.office.example", (NOERROR, r"\s77\s+IN\s+A\s+10\.9\.8\.7$")),
    Row("record-ptr", "dig -x 10.9.8.7", (NOERROR, r"\sPTR\s+intranet\.office\.example\.$")),
    Row("record-cname", "dig www.office.example", (NOERROR, r"CNAME\s+intranet\.office", r"\sA\s+10\.9\.8\.7$")),
    Row("record-above-outside", "dig www.plain.net", (NOERROR, r"\sA\s+10\.9\.8\.6$"), ("192.0.2.41",)),
    Row("record-nodata", "dig www.plain.net AAAA", (NOERROR, "ANSWER: 0")),
    Row("zone-of-its-own", "dig host.corp.example", (NOERROR, r"\sA\s+10\.1\.2\.3$")),
)  # fmt: skip

DNS64: Final = (
    Row("made", "dig www.plain.net AAAA", (NOERROR, r"\s2001:db8:64::c000:229$"), (r"flags: [^;]* ad;",), SECOND),
    Row("made-behind-alias", "dig chain.good.com AAAA", (r"\sAAAA\s+2001:db8:64::c000:22a$", "CNAME"), (), SECOND),
    Row("own-aaaa-stays", "dig www.good.com AAAA", (r"\sAAAA\s+2001:db8:80::11$",), ("2001:db8:64:",), SECOND),
    Row("nothing-to-make-of", "dig mail.good.com.plain.net AAAA", (NXDOMAIN,), ("2001:db8:64:",), SECOND),
    Row("a-stays", "dig www.plain.net A", (r"\sA\s+192\.0\.2\.41$",), ("2001:db8:64:",), SECOND),
    Row("checking-disabled", "dig +dnssec +cdflag www.plain.net AAAA", ("ANSWER: 0",), ("2001:db8:64:",), SECOND),
    Row("reverse", "dig -x 2001:db8:64::c000:229", (), (r"status: SERVFAIL",), SECOND),
    Row("off", "dig twelve.good.com AAAA", (NOERROR, "ANSWER: 0"), ("2001:db8:64:",)),
)  # fmt: skip

REBINDING: Final = (
    *(Row(f"{label}-is-private", f"dig {label}.point.net {rdtype}",
          (NOERROR, "ANSWER: 0", BLOCKED_EDE), (rf"\s{data}$",))
      for label, (rdtype, data) in POINTERS.items()),
    *(Row(f"{label}-is-allowed", f"dig {label}.allowed.net {rdtype}", (NOERROR, rf"\s{rdtype}\s+{re.escape(data)}$"))
      for label, (rdtype, data) in POINTERS.items()),
    Row("mixed", "dig mixed.point.net", (NOERROR, "ANSWER: 0", BLOCKED_EDE), (r"\s10\.0\.0\.2$",)),
    Row("alias", "dig alias.point.net", (NOERROR, BLOCKED_EDE), (r"\s10\.0\.0\.1$",)),
    Row("signed", "dig +dnssec rebind.good.com", (NOERROR, "ANSWER: 0", BLOCKED_EDE), (r"\s10\.0\.0\.1$",)),
    Row("public", "dig public.point.net", (NOERROR, r"\s192\.0\.2\.81$")),
    Row("kdig", "kdig ten.point.net", ("status: NOERROR", "ANSWER: 0")),
    Row("protection-off", "dig ten.point.net", (NOERROR, r"\s10\.0\.0\.1$"), (), SECOND),
)  # fmt: skip

TTLS: Final = (  # the engine may have the SOA from an answer before, so its TTL is at most that of the rule
    Row("negative-by-soa-minimum", "dig absent.plain.net", (NXDOMAIN, r"^plain\.net\.\s+(?:60|[1-5]?\d)\s+IN\s+SOA")),
    Row("nodata-by-soa-minimum", "dig mail.good.com AAAA", (NOERROR, r"^good\.com\.\s+(?:60|[1-5]?\d)\s+IN\s+SOA")),
    Row("negative-cap", "dig absent2.plain.net", (NXDOMAIN, r"^plain\.net\.\s+(?:30|[12]?\d)\s+IN\s+SOA"), (), SECOND),
    Row("floor", "dig short.good.com", (r"^short\.good\.com\.\s+60\s+IN\s+A",), (), SECOND),
    Row("cap", "dig mail.good.com", (r"^mail\.good\.com\.\s+120\s+IN\s+A",), (), SECOND),
)  # fmt: skip


def table(rows: Iterable[Row]) -> list[ParameterSet]:
    return [pytest.param(row, id=row.what) for row in rows]


def holds(place: Office, row: Row) -> None:
    said = place.run(row.command, row.at)
    assert all(re.search(pattern, said, re.MULTILINE) for pattern in row.has), f"{row.has}\n{said}"
    assert not any(re.search(pattern, said, re.MULTILINE) for pattern in row.lacks), f"lacks {row.lacks}\n{said}"


@pytest.mark.parametrize("row", table(EDNS))
def test_edns(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(WHO))
def test_who_answers(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(ANY))
def test_any_and_transfers(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(LOCAL))
def test_special_names(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(RECORDS))
def test_names_of_our_own(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(DNS64))
def test_dns64(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(REBINDING))
def test_rebinding(place: Office, row: Row) -> None:
    holds(place, row)


@pytest.mark.parametrize("row", table(TTLS))
def test_ttls(place: Office, row: Row) -> None:
    holds(place, row)
