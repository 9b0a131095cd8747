"""Zones with every shape of name a resolver meets, and 2,000 names of theirs to ask for.

Rules:
1. The same every time: what is drawn comes from a seeded generator.
2. Everything is made twice, in a signed zone and in an unsigned one, with children signed and unsigned; what proofs of
   absence are about once more in a zone with NSEC3 and opt-out.
"""

from __future__ import annotations

import random
from itertools import chain, cycle, islice
from typing import TYPE_CHECKING, Final

from internet import AUTH, AUTH6
from protocol.nsec3 import signed

if TYPE_CHECKING:
    from collections.abc import Iterator

SEED: Final = 20_261_124
NAMES: Final = 2_000
BASES: Final = ("varied.com.", "varied.net.")
HASHED: Final = "hashed.com."  # signed with NSEC3
SIGNED: Final = ("varied.com.", "signed.varied.com.")
_HOSTS: Final = 260  # names with records of their own in each of BASES
_COMMON_TYPES: Final = ("A", "AAAA", "TXT")  # of every name, and three of these:
_OTHER_TYPES: Final = ("MX", "NS", "SOA", "CNAME", "HTTPS", "DS", "PTR", "SRV", "DNAME", "CAA", "TYPE65280")
_LONG: Final = "l" * 63

_APEX: Final = """$TTL {ttl}
@ SOA ns hostmaster 7 3600 600 86400 120
@ NS ns
ns A {auth}
ns AAAA {auth6}
"""
# Octets that are letters in no alphabet, dots and spaces inside labels, a label and a name at their limits.
_ODD: Final = (
    r"o\.dd", r"sp\032ace", r"nul\000", r"high\255\128", r"_under", r"quo\"te", r"semi\;", r"at\@", r"back\\slash",
    "xn--bcher-kva", "-dash-", "1", _LONG, f"{_LONG}.{_LONG}.{_LONG}.{'m' * 40}", r"tab\009", "MiXeD", "*.star",
)  # fmt: skip
_SHAPES: Final = """
@ A 192.0.2.10
@ MX 10 host1
@ TXT "at the top"
@ CAA 0 issue "ca.example"
*.wild A 192.0.2.12
*.wild TXT "wild"
only-text.wild TXT "hides the wildcard"
*.deep.wild A 192.0.2.13
*.alias CNAME host1
*.far CNAME host2.{other}
*.loose CNAME nowhere.{other}
a.b.c.empty A 192.0.2.14
x.y.text TXT "below an empty name"
under DNAME host-tree.{other}
short DNAME tree
{label}.host-tree A 192.0.2.15
{label}.tree AAAA 2001:db8::15
{label}.tree MX 5 host3
mail MX 10 host4
mail MX 20 gone
mail MX 30 host5.{other}
_sip._udp SRV 1 2 5060 host6
svc HTTPS 1 . alpn=h2,h3 ipv4hint=192.0.2.20 ipv6hint=2001:db8:80::20
svc-alias HTTPS 0 svc
ptr PTR host7
unknown TYPE65280 \\# 4 c0000201
loop1 CNAME loop2
loop2 CNAME loop1
self CNAME self
to-nothing CNAME nowhere
to-nodata CNAME mail
to-empty CNAME b.c.empty
to-wild CNAME some.wild
to-odd CNAME sp\\032ace
to-child CNAME www.signed
to-open CNAME www.open
to-dname CNAME {label}.under
to-other-gone CNAME nowhere.{other}
to-bogus CNAME tampered.bogus.com.
to-refused CNAME www.refused.net.
signed NS ns.signed
ns.signed A {auth}
open NS ns.open
ns.open A {auth}
lame NS ns.root-servers.net.
"""
_CHILD: Final = """
@ TXT "a child"
www A 192.0.2.70
www AAAA 2001:db8::70
up CNAME host1.{base}
*.wild CNAME www
"""
_HASHED: Final = """
@ A 192.0.2.10
*.wild A 192.0.2.12
only-text.wild TXT "hides the wildcard"
a.b.c.empty A 192.0.2.14
alias CNAME some.wild
to-nothing CNAME nowhere
to-far CNAME nowhere.varied.com.
under DNAME wild
open NS ns.open
ns.open A {auth}
"""
_LOOKED_UP_HASHED: Final = (
    "", "ns.", "wild.", "one.wild.", "two.one.wild.", "only-text.wild.", "below.only-text.wild.", "a.b.c.empty.",
    "b.c.empty.", "empty.", "z.c.empty.", "alias.", "to-nothing.", "to-far.", "under.", "x.under.", "open.",
    "www.open.", "absent.open.", "up.open.",
)  # fmt: skip
_LOOKED_UP: Final = (
    "", "ns.", "wild.", "one.wild.", "two.one.wild.", "only-text.wild.", "below.only-text.wild.", "deep.wild.",
    "x.deep.wild.", "x.alias.", "y.x.alias.", "x.far.", "x.loose.", "alias.", "a.b.c.empty.", "b.c.empty.", "c.empty.",
    "empty.", "z.c.empty.", "y.text.", "text.", "under.", "short.", "absent.under.", "absent.short.", "mail.",
    "_sip._udp.", "_udp.", "svc.", "svc-alias.", "ptr.", "unknown.", "loop1.", "loop2.", "self.", "to-nothing.",
    "to-nodata.", "to-empty.", "to-wild.", "to-odd.", "to-child.", "to-open.", "to-dname.", "to-other-gone.",
    "to-bogus.", "to-refused.", "signed.", "ns.signed.", "www.signed.", "up.signed.", "x.wild.signed.",
    "absent.signed.", "open.", "ns.open.", "www.open.", "up.open.", "x.wild.open.", "absent.open.", "lame.",
    "www.lame.", "many.", "text3k.", "text4k.", "*.wild.", "*.", "chain1.", "hop.chain1.", "star.", "x.star.",
)  # fmt: skip
_ELSEWHERE: Final = (
    ".", "com.", "net.", "nowhere.", "a.nowhere.", "absent.com.", "absent.net.", "good.com.", "www.good.com.",
    "chain.good.com.", "dangling.good.com.", "svc.good.com.", "twelve.good.com.", "middle.good.com.", "big.good.com.",
    "fine.bogus.com.", "tampered.bogus.com.", "expired.bogus.com.", "absent.bogus.com.", "loop1.plain.net.",
    "www.six.net.", "absent.six.net.", "www.refused.net.", "refused.net.", "x.many.net.", "y.x.many.net.",
    "ns.root-servers.net.", "root-servers.net.", "ns.tld.net.", "tld.net.", "listed.good.com.",
)  # fmt: skip


def zones() -> dict[str, str]:
    """Return what `Internet` is to add: the zones, and their delegations in com. and net."""
    made = {zone.partition(".")[2]: _delegation(zone) for zone in BASES}
    for base, other, ttl in zip(BASES, reversed(BASES), (600, 900), strict=True):
        apex = _APEX.format(ttl=ttl, auth=AUTH, auth6=AUTH6)
        words = {"other": other, "auth": AUTH, "label": "leaf"}
        made[base] = apex + _SHAPES.format(**words) + "\n".join([*_hosts(), *_chains(other), *_large(), *_odd()]) + "\n"
        for child in ("signed", "open"):
            made[f"{child}.{base}"] = apex + _CHILD.format(base=base)
    apex = _APEX.format(ttl=300, auth=AUTH, auth6=AUTH6)
    made[HASHED], ds = signed(HASHED, apex + _HASHED.format(auth=AUTH) + "\n".join(_hosts()) + "\n")
    made["com."] += _delegation(HASHED) + f"hashed DS {ds}\n"
    made[f"open.{HASHED}"] = apex + _CHILD.format(base=HASHED)
    return made


def questions(names: int = NAMES) -> list[tuple[str, str]]:
    """Return (name, type) pairs: six types for each of so many names, drawn evenly from all of them."""
    drawn = random.Random(SEED)
    every = _names(drawn)[:: NAMES // names]
    more = cycle(_OTHER_TYPES)
    asked = [(name, rdtype) for name in every for rdtype in (*_COMMON_TYPES, *islice(more, 3))]
    drawn.shuffle(asked)
    return asked


def _delegation(zone: str) -> str:
    label = zone.partition(".")[0]
    return f"{label} NS ns.{label}\nns.{label} A {AUTH}\nns.{label} AAAA {AUTH6}\n"


def _hosts() -> Iterator[str]:
    """Records of every combination of four types, one to three of each."""
    for at in range(_HOSTS):
        kinds = at % 15 + 1  # a bit a type
        for again in range(at % 3 + 1):
            if kinds & 1:
                yield f"host{at} {60 + at} A 192.0.2.{(at + again) % 256}"
            if kinds & 2:
                yield f"host{at} {60 + at} AAAA 2001:db8:80::{at:x}:{again}"
            if kinds & 4:
                yield f'host{at} TXT "{"x" * (at % 200 + again)}"'
            if kinds & 8:
                yield f"host{at} MX {again} host{(at + again) % _HOSTS}"


def _chains(other: str) -> Iterator[str]:
    """Aliases of one to seven hops, in the zone and out of it."""
    for at in range(120):
        yield f"chain{at} CNAME host{at}" if at % 8 == 0 else f"chain{at} CNAME chain{at - 1}"
        yield f"cross{at} CNAME host{at}.{other}" if at % 3 == 0 else f"cross{at} CNAME cross{at - 1}.{other}"


def _large() -> Iterator[str]:
    for at in range(90):
        yield f"many A 192.0.2.{at}"
        yield f"many AAAA 2001:db8:90::{at:x}"
    for kilo in (3, 4):
        yield f"text{kilo}k TXT " + " ".join(f'"{"t" * 250}"' for _ in range(4 * kilo))


def _odd() -> Iterator[str]:
    for at, label in enumerate(_ODD):
        yield f"{label} A 192.0.2.{at}"
        yield f"{label} TXT odd"


def _names(drawn: random.Random) -> list[str]:
    """Return `NAMES` different names, spelled in any case."""
    names = list(_ELSEWHERE)
    for base in BASES:
        names += [f"{label}{base}" for label in _LOOKED_UP]
        names += [f"{label}.{base}" for label in _ODD]
        names += [f"{label}.{where}.{base}" for label in ("leaf", "x.leaf") for where in ("under", "short", "tree")]
        names += [f"{kind}{at}.{base}" for kind in ("chain", "cross") for at in range(120)]
        names += [f"host{at}.{base}" for at in range(_HOSTS)]
        names += [f"host{at}.under.{base}" for at in range(40)]
        names += [f"www{at}.signed.{base}" for at in range(20)] + [f"x{at}.wild.open.{base}" for at in range(20)]
        names += [f"w{at}.wild.{base}" for at in range(60)] + [f"a{at}.alias.{base}" for at in range(40)]
    names += [f"{label}{HASHED}" for label in _LOOKED_UP_HASHED]
    names += [f"{kind}{at}.{HASHED}" for kind in ("host", "absent", "h.absent") for at in range(30)]
    absent = (f"absent{at}.host{at % 50}.{BASES[at % 2]}" if at % 4 == 0 else f"absent{at}.{BASES[at % 2]}"
              for at in range(NAMES))  # fmt: skip
    names = list(islice(dict.fromkeys(name.lower() for name in chain(names, absent)), NAMES))
    return [_cased(name, drawn) if at % 7 == 0 else name for at, name in enumerate(names)]


def _cased(name: str, drawn: random.Random) -> str:
    return "".join(letter.upper() if drawn.random() < 0.5 else letter for letter in name)
