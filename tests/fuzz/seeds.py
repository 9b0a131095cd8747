"""Seeds of the fuzzer, made here: real queries and replies of every shape, and the small files a node reads."""

from __future__ import annotations

from functools import cache
from struct import pack
from typing import TYPE_CHECKING, Final

import dns.edns
import dns.flags
import dns.message
import dns.rrset

from core.event import Batch, Event
from core.names import from_text
from core.verdict import Action, Cause, Reason
from feeds.index import Match, build
from feeds.overlay import Override
from resolver.control import Changed, Report, State, encode

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME: Final = "www.example.com."
LONG: Final = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61]) + "."  # 255 octets on the wire
DEEP: Final = "x." * 127  # 127 labels, as many as fit
ODD: Final = "\\000.\\255\\.\\\\.ex\\040ample.com."
SIGNATURE: Final = "13 3 300 20301231000000 20201231000000 1 example.com. AAAA"
ANSWERS: Final = {  # type: data of one record
    "A": "192.0.2.7", "AAAA": "2001:db8::7", "NS": "ns1.example.com.", "CNAME": "shop.example.com.",
    "SOA": "ns1.example.com. hostmaster.example.com. 1 3600 600 86400 60", "PTR": "host.example.com.",
    "MX": "10 mail.example.com.", "TXT": '"one" "two"', "SRV": "1 2 53 target.example.com.",
    "NAPTR": '100 10 "u" "sip" "!^.*$!x!" target.example.com.', "DNAME": "example.net.",
    "RP": "a.example.com. b.example.", "AFSDB": "1 afs.example.com.",
    "KX": "1 kx.example.com.", "PX": "1 px.example.com. x400.example.com.",
    "HTTPS": "1 . alpn=h2 ipv4hint=192.0.2.20 ipv6hint=2001:db8::20", "SVCB": "1 svc.example.com. port=853",
    "DS": "1 13 2 " + "ab" * 32, "DNSKEY": "257 3 13 AAAA", "RRSIG": f"A {SIGNATURE}", "NSEC": "z.example.com. A RRSIG",
    "NSEC3": "1 0 0 - 2T7B4G4VSA5SMI47K61MV5BV1A22BOJR A", "CAA": '0 issue "ca.example"', "TLSA": "3 1 0 abcd",
    "HINFO": '"a" "b"', "LOC": "1 N 1 E 1m", "TYPE65280": "\\# 3 010203", "NULL": "\\# 2 c00c",
}  # fmt: skip


def option(code: int, data: bytes) -> dns.edns.GenericOption:
    return dns.edns.GenericOption(dns.edns.OptionType.make(code), data)


OPTIONS: Final = {
    "nsid": option(3, b""), "cookie": option(10, b"\x01" * 8), "server": option(10, b"\x01" * 24),
    "keepalive": option(11, b""), "subnet": dns.edns.ECSOption("192.0.2.0", 24), "padding": option(12, b"\x00" * 128),
    "unknown": option(65_001, b"\xff" * 9),
}  # fmt: skip
INDEXED: Final = {"evil.example": 0, "good.evil.example": 1, "exact.example": 2}
SETS: Final = (
    (Match("list-a", "malware", 90, Action.SINKHOLE), Match("list-b", "c2", 60, Action.SINKHOLE)),
    (Match("friends", "allow", 100, Action.PASSTHRU),),
    (Match("list-a", "malware", 90, Action.SINKHOLE, exact=True, below=False),),
)


def query(name: str = NAME, rdtype: str = "A", **options: object) -> bytes:
    return bytes(dns.message.make_query(name, rdtype, id=0x1234, **options).to_wire())  # type: ignore[arg-type]


@cache
def queries() -> tuple[bytes, ...]:
    """Questions as clients put them, and some that no client should."""
    found = [
        query(name) for name in (NAME, ".", LONG, DEEP, ODD, "evil.example.", "a.local.", "1.0.0.127.in-addr.arpa.")
    ]
    found += [query(rdtype=kind) for kind in ("ANY", "AXFR", "TKEY", "HTTPS", "TYPE0", "TYPE65535")]
    found += [query("version.bind.", "TXT", rdclass="CH")]
    found += [query(use_edns=0, options=[one]) for one in OPTIONS.values()]
    found += [query(use_edns=0, options=list(OPTIONS.values())), query(use_edns=1), query(use_edns=0, payload=65_535)]
    found += [query(use_edns=0, payload=0, want_dnssec=True), query(flags=dns.flags.RD | dns.flags.CD)]
    plain = query()
    opt = query(use_edns=0)[len(plain) :]
    found += [plain[:11] + b"\x02" + plain[12:] + opt * 2]  # two OPT records
    found += [plain[:5] + b"\x02" + plain[6:] + plain[12:], plain[:5] + b"\x00" + plain[6:12]]  # two questions, none
    found += [plain[:2] + bytes((opcode << 3 | 1,)) + plain[3:] for opcode in (1, 2, 4, 5, 6, 15)]
    found += [plain[:12] + b"\xc0\x0c\x00\x01\x00\x01", plain[:-1], plain + b"\x00", plain[:12], plain[:3], b""]
    bare = plain[:5] + b"\x00" + plain[6:11] + b"\x01"  # no question, a cookie only: RFC 7873 section 5.4
    return (*found, bare + query(use_edns=0, options=[OPTIONS["cookie"]])[len(plain) :])


def reply(*texts: str, name: str = NAME, rdtype: str = "A", edns: bool = True) -> bytes:
    """Return the reply with these records, each `SECTION OWNER TTL TYPE DATA`."""
    message = dns.message.make_response(
        dns.message.make_query(name, rdtype, id=0x1234, use_edns=0 if edns else False, want_dnssec=edns)
    )
    sections = {"an": message.answer, "au": message.authority, "ad": message.additional}
    for text in texts:
        section, owner, ttl, kind, data = text.split(maxsplit=4)
        sections[section].append(dns.rrset.from_text(owner, int(ttl), "IN", kind, data))
    return bytes(message.to_wire(max_size=65_535))


@cache
def replies() -> tuple[bytes, ...]:
    """Replies as servers give them: every type, chains, referrals, denials, signed and plain, large and empty."""
    found = [reply(f"an {NAME} 300 {kind} {data}", rdtype=kind) for kind, data in ANSWERS.items()]
    found += [reply(*(f"an {NAME} 300 {kind} {data}" for kind, data in ANSWERS.items()), rdtype="ANY")]
    chain = [f"an h{at}.example.com. 300 CNAME h{at + 1}.example.com." for at in range(16)]
    found += [reply(*chain, "an h16.example.com. 60 A 192.0.2.9", name="h0.example.com.")]
    found += [reply(f"an {NAME} 300 A 192.0.2.7", f"an {NAME} 300 RRSIG A {SIGNATURE}",
                    "au example.com. 900 NS ns1.example.com.", f"au example.com. 900 RRSIG NS {SIGNATURE}",
                    "ad ns1.example.com. 900 A 192.0.2.53")]  # fmt: skip
    found += [reply(*(f"an {NAME} {at} A 192.0.2.{at}" for at in range(1, 200)), edns=False)]
    found += [reply(f"an {LONG} 1 CNAME {DEEP}", name=LONG), reply(f"an {ODD} 0 TXT \\255", name=ODD, rdtype="TXT")]
    found += [reply(f"an {NAME} 300 TXT " + " ".join(['"' + "x" * 255 + '"'] * 200), rdtype="TXT")]
    empty = reply(f"au example.com. 900 SOA {ANSWERS['SOA']}")
    return (*found, empty, empty[:3] + b"\x83" + empty[4:], *_crafted())


def _crafted() -> list[bytes]:
    """Replies no library makes: pointer chains and loops, hints behind a compressed target, half a thousand records."""
    head = b"\x12\x34\x81\x80\x00\x01"
    question = from_text(NAME) + b"\x00\x01\x00\x01"
    address = b"\x00\x01\x00\x01\x00\x00\x01\x2c\x00\x04\xc0\x00\x02\x07"
    base = 12 + len(question)
    hops = b"".join(pack("!HHHIH", 0xC00C, 16, 1, 60, 3) + b"\x02" + pack("!H", 0xC000 | base + 13 + 15 * at - 15)
                    for at in range(1, 40))  # fmt: skip
    hint = b"\x00\x01\xc0\x0c\x00\x04\x00\x04\xc0\x00\x02\x14"
    service = b"\xc0\x0c\x00\x41\x00\x01\x00\x00\x01\x2c" + pack("!H", len(hint)) + hint
    return [
        head + b"\x00\x01" + b"\x00" * 4 + question + b"\xc0" + bytes((base,)) + address,  # points at itself
        head + b"\x00\x02" + b"\x00" * 4 + question + (b"\xc0\x0c" + address) * 2,
        head + b"\x00\x28" + b"\x00" * 4 + question + hops + pack("!H", 0xC000 | base + 13 + 15 * 38) + address,
        head + b"\x00\x01" + b"\x00" * 4 + from_text(NAME) + b"\x00\x41\x00\x01" + service,
        head + b"\x02\x00" + b"\x00" * 4 + question + (b"\xc0\x0c" + address) * 512,
        head + b"\x10\x00" + b"\x00" * 4 + question + (b"\x00" + address[:8] + b"\x00\x00") * 4_096,
        head + b"\x00\x01" + b"\x00" * 4 + b"\xc0\x04\x00\x01\x00\x01\xc0\x0c" + address,  # the question is a pointer
        head + b"\x00" * 6 + question,
    ]


@cache
def edns() -> tuple[bytes, ...]:
    """What an OPT record can be: size, TTL field and options."""
    one = [pack("!HH", int(one.otype), len(one.to_wire() or b"")) + (one.to_wire() or b"")
           for one in OPTIONS.values()]  # fmt: skip
    fixed = (pack("!HI", 1_232, 0), pack("!HI", 0, 0x8000), pack("!HI", 65_535, 0x0001_0000))
    return tuple(head + body for head in fixed for body in (*one, b"".join(one), b"", one[1] * 2, b"\x00\x0a\x00\x07"))


@cache
def streams() -> tuple[bytes, ...]:
    """TCP: an octet that says how the stream is broken up, then frames."""
    frames = [pack("!H", len(one)) + one for one in queries() if len(one) >= 12]
    return tuple(bytes((step,)) + data for step in (1, 2, 7, 255) for data in (
        frames[0], b"".join(frames), frames[0] * 250, frames[0] + b"\x00\x03abc" + frames[0], b"\xff\xff" + b"z" * 300,
    ))  # fmt: skip


@cache
def proxies() -> tuple[bytes, ...]:
    """PROXY headers of version 2, one of version 1, each before a query."""
    start = b"\r\n\r\n\x00\r\nQUIT\n"
    four, six = bytes(range(12)), bytes(range(36))
    heads = [start + b"\x21" + bytes((family,)) + pack("!H", len(body)) + body for family, body in (
        (0x11, four), (0x12, four), (0x21, six), (0x22, six), (0x00, b""), (0x11, four + b"\x04\x00\x02ab"),
        (0x31, b"/" * 216), (0x11, four[:8]), (0x12, four + b"\x04\xff\xff"),
    )]  # fmt: skip
    heads += [
        start + b"\x20\x00\x00\x00",
        start + b"\x11\x11\x00\x0c" + four,
        b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n",
    ]
    return tuple(head + query() for head in heads)


def proxied() -> tuple[bytes, ...]:
    """TCP from a balancer: the octet of `streams`, a header, frames."""
    frames = streams()[1][1:]
    return tuple(b"\x87" + one[: -len(query())] + frames for one in proxies())


@cache
def said() -> tuple[bytes, ...]:
    """What workers say to the hub, and the hub to them."""
    reason = Reason(Cause.INTEL, Action.SINKHOLE, "list-a", "evil.example", "malware", 90)
    event = Event(1.0, b"\x7f\x00\x00\x01", from_text(NAME), 1, 0, answers=(b"\xc0\x00\x02\x01",), reasons=(reason,),
                  member="shop.example.com", view="default", upstream="192.0.2.53")  # fmt: skip
    odd = Event(2.0, b"", b"\x05a", 65_535, 23, count=2**31, member="\u00e9\x00")
    one = encode(Batch(1, [event, odd, event], 2))
    return (one, encode(Report(1, 2, 3, 4, {"malformed": 5})), encode(Changed()), one + b"\x91" * 2_000)


@cache
def states() -> tuple[bytes, ...]:
    """State files."""
    override = Override(from_text(NAME), Action.SINKHOLE, "192.0.2.0/24", reason="why", by="who")
    found = encode(State(index="7.index", generation=7, settled=True, sequence=3, overrides=(override, override)))
    return (found, encode(State()), b"\x81\xa1x" + b"\x91" * 2_000, b"")


LISTS: Final = (
    b"# hosts\n0.0.0.0 evil.example.com www.evil.example.com\n127.0.0.1 localhost\n::1 localhost\n1.2.3.4 a.example",
    b"||evil.example.com^\n@@||good.example.com^$important\n||a.example.com^$third-party\n##.ad\n|https://b.example.com^",
    b"*.wild.example.com\n*.co.uk\n.dotted.example.com\n",
    b"plain.example.com\nPLAIN.Example.Com.\nhxxp://evil[.]example[.]com/\nb\xc3\xbccher.example\n192.0.2.1\n",
    b"\xef\xbb\xbfbom.example.com\r\nsecond.example.com # c\r\n\r\n\x00.example.com\na..b\n-a.example.com\n_d.example",
    b"a" * 64 + b".example.com\n" + b"b." * 126 + b"cd\n" + b"c." * 130 + b"com\n" + b"x" * 5_000 + b"\n",
)  # fmt: skip

TOML: Final = (
    b'[server]\nlisten = ["127.0.0.1:5353", "[::1]:5353"]\nworkers = 2\nallow_from = ["10.0.0.0/8"]\nuser = "nobody"\n',
    b'[upstream]\nmode = "forward"\nservers = ["tls://192.0.2.1@853#dns.example"]\ndnssec = false\ntimeout = 0\n',
    b'[[upstream.zone]]\nname = "corp.example"\nservers = ["192.0.2.53"]\n[local]\ndns64_prefix = "64:ff9b::/96"\n',
    b'[[local.record]]\nname = "a.example"\ntype = "MX"\ndata = "10 mail"\nttl = 5\n[detectors.x]\nmode = "off"\n',
    b'[[feeds.source]]\nname = "one"\nurl = "file:///a"\nformat = "hosts"\nmax_change = 200\n[a.b]\nc = [[[]]]\n',
    b"[server]\nworkers = 1_0\ntcp_idle = nan\nudp_size = -9223372036854775809\nlisten = {a = [1979-05-27, inf]}\n",
    b'[redis]\nurl = "redis+sentinel://a:1,b:2/svc"\n[cache]\nmax_megabytes = 0x10\n[metrics]\n"" = 1\n',
)  # fmt: skip


SECRETS: Final = (b"# ours\n" + b"ab" * 16 + b"\n" + b"CD" * 16 + b" # before\n", b"zz" * 16 + b"\n", b"a" * 5_000)
NAMES: Final = (
    b"www.example.com.", b"\\000.\\255.a\\.b", b"b\xc3\xbccher.example", b"xn--bcher-kva.example", b".", b"a..b",
    b"\xe3\x80\x82", b"a" * 64, b"*.example", DEEP.encode(), LONG.encode(), b"\\25", b"\\256", b"_a-.-b",
)  # fmt: skip


@cache
def feeds() -> tuple[bytes, ...]:
    """Lists behind the number of each format."""
    return tuple(bytes((syntax,)) + text for syntax in range(5) for text in LISTS)


def metadata() -> tuple[bytes, ...]:
    """What an index can say of itself, whole and odd."""
    good = index()
    text = good[32 : 32 + int.from_bytes(good[8:16], "little")]
    return (text, b'{"x":' + b"[" * 2_000, text.replace(b"list-a", b"\xff"), b"{}", text.replace(b"3", b"0", 1))


@cache
def index() -> bytes:
    """A compiled index of a few names."""
    return build(7, {from_text(name): at for name, at in INDEXED.items()}, SETS, created=1.0)


def spread(parts: Sequence[bytes], lead: Sequence[bytes]) -> tuple[bytes, ...]:
    """Every part behind one of the leads, in turn."""
    return tuple(lead[at % len(lead)] + part for at, part in enumerate(parts))
