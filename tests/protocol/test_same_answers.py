"""Plughole's answers beside those of Unbound and PowerDNS Recursor, from the same servers, root and trust anchor.

Rules:
1. Every question is asked twice: with EDNS and DO, then without EDNS, every second one of these with AD set.
2. Compared are the reply code, the answer section as a set, AD, TC, an SOA in the authority section, and TTLs. What was
   truncated is asked again over TCP, and that answer compared.
3. A difference not explained in DIFFERENCES is a failure, and in the full run so is an explanation nothing needs.

`make compare` asks for all names; the normal run takes one in ten.
"""

from __future__ import annotations

import os
import re
import time
from collections import Counter
from typing import TYPE_CHECKING, Final, NamedTuple

import dns.rcode
import pytest
from internet import Internet
from node import Node
from protocol import peers, pipelined, varied
from protocol.pipelined import Seen

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES: Final = int(os.environ.get("COMPARE_NAMES", "200"))
US: Final = ("127.0.0.1", 53)
RESOLVERS: Final = {"plughole": US, "unbound": peers.UNBOUND, "recursor": peers.RECURSOR}
_ALIAS: Final = (
    r"(?:chain|cross|loop|self|to-|listed|dangling|up\.|svc-alias)"
    r"|\.(?:alias|far|loose|under|short)\.(?:varied|hashed)|\.wild\.(?:open|signed)\."
)
_SYNTHESISED: Final = r"\.(?:under|short)\.(?:varied|hashed)"


class Difference(NamedTuple):
    """Where a peer may answer otherwise, and why."""

    peer: str
    name: str  # of the question, a regular expression
    types: str  # likewise
    fields: str  # what may differ
    rcode: int | None  # which reply code of ours this is about; None: any
    why: str


DIFFERENCES: Final = (
    Difference(
        "recursor", _ALIAS, "DS|DNAME", "rcode answer ad soa", None,
        "It does not follow an alias to its end when DS or DNAME is asked for. RFC 1034 section 3.6.2 follows for every"
        " type but CNAME; supports us.",
    ),
    Difference(
        "unbound", _SYNTHESISED, "CNAME|DNAME", "rcode answer ad soa", None,
        "Asked for the CNAME that a DNAME makes, Unbound's engine, which is ours too, looks for a signature or follows"
        " the alias, by what its cache holds. RFC 6672 section 5.3.1 supports neither.",
    ),
    Difference(
        "recursor", _SYNTHESISED, ".*", "rcode answer ad soa", None,
        "By what its cache holds it returns the alias without its DNAME, or SERVFAIL as if the alias had to be signed."
        " RFC 6672 sections 3.1 and 5.3.1 support us; and the recursor where CNAME is asked and it stops there.",
    ),
    Difference(
        "unbound", r"^to-refused\.", ".*", "answer", dns.rcode.SERVFAIL,
        "A failure after an alias: now and then it returns the alias beside SERVFAIL, from its cache. We return no part"
        " of an answer that failed. RFC 1035 section 4.1.1 leaves it open.",
    ),
    Difference(
        "recursor", r"^to-refused\.", ".*", "answer", dns.rcode.SERVFAIL,
        "Likewise, always.",
    ),
    Difference(
        "recursor", r"^ns\.root-servers\.net", "A|AAAA", "answer ad", None,
        "It answers with the root hints, unsigned. RFC 2181 section 5.4.1 trusts no data less than such"
        " glue; supports us, who ask and validate.",
    ),
    Difference(
        "recursor", ".*", ".*", "ad", dns.rcode.SERVFAIL,
        "It sets AD on failures. RFC 4035 section 3.2.3 wants all records of answer and authority authentic; there are"
        " none; RFC 6840 section 5.8 supports us.",
    ),
)  # fmt: skip


class Round(NamedTuple):
    """One pass over all questions."""

    do: bool
    queries: list[bytes]
    wires: dict[str, list[bytes]]
    seen: dict[str, list[Seen]]
    seconds: float


@pytest.fixture(scope="module")
def rounds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Round]]:
    if reason := Internet.why_not() or peers.why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("compared")
    asked = varied.questions(NAMES)
    with (
        Internet(varied.zones(), varied.SIGNED) as internet,
        peers.both(internet, folder),
        Node(internet, folder, _config(internet)),
    ):
        yield [_ask(internet, asked, do=do) for do in (True, False)]


def _config(internet: Internet) -> str:
    return f"""
[server]
listen = ["{US[0]}:{US[1]}"]
workers = 1
data_dir = "var"
any = "resolve"
rotate = false
[local]
special_use = false  # the root and what is below it are asked for too
rebind_protection = false
[limits]
misses_per_domain = 0  # this is what a random sub-domain attack looks like
[upstream]
root_hints = "{internet.root_hints}"
trust_anchors = ["{internet.trust_anchor}"]
"""


def _ask(internet: Internet, asked: list[tuple[str, str]], *, do: bool) -> Round:
    queries = [
        pipelined.query(name, rdtype, do=do, ad=not do and at % 2 == 0) for at, (name, rdtype) in enumerate(asked)
    ]
    begun = time.monotonic()
    with internet.inside():
        replies = pipelined.ask_all(list(RESOLVERS.values()), queries)
        seen = {who: list(map(pipelined.read, wires)) for who, wires in zip(RESOLVERS, replies, strict=True)}
        truncated = [at for at in range(len(asked)) if any(found[at].tc for found in seen.values())]
        for who, wires in zip(RESOLVERS, replies, strict=True):
            for at in truncated:
                wires[at] = pipelined.over_tcp(RESOLVERS[who], queries[at])
                seen[who][at] = pipelined.read(wires[at])._replace(tc=seen[who][at].tc)
    return Round(do, queries, dict(zip(RESOLVERS, replies, strict=True)), seen, time.monotonic() - begun)


def _explained(peer: str, name: str, rdtype: str, ours: Seen, field: str) -> Difference | None:
    for known in DIFFERENCES:
        if (
            known.peer == peer
            and field in known.fields.split()
            and known.rcode in {None, ours.rcode}
            and re.search(known.name, name.lower())
            and re.fullmatch(known.types, rdtype)
        ):
            return known
    return None


def test_answers_are_the_same_but_for_what_is_explained(rounds: list[Round]) -> None:
    used: Counter[Difference] = Counter()
    unexplained = []
    for one in rounds:
        for at, (name, rdtype) in enumerate(varied.questions(NAMES)):
            ours = one.seen["plughole"][at]
            for peer in ("unbound", "recursor"):
                theirs = one.seen[peer][at]
                for field in ("rcode", "answer", "ad", "soa"):
                    mine, other = getattr(ours, field), getattr(theirs, field)
                    if mine == other:
                        continue
                    if known := _explained(peer, name, rdtype, ours, field):
                        used[known] += 1
                    else:
                        unexplained.append(f"{name} {rdtype} DO={one.do}: {field} {mine}, {peer} {other}")
    assert not unexplained, "\n".join(unexplained[:50])
    if NAMES == varied.NAMES:
        assert set(used) == set(DIFFERENCES), "an explanation nothing needs"


def test_the_questions_meet_every_kind_of_answer(rounds: list[Round]) -> None:
    seen = [reply for one in rounds for reply in one.seen["plughole"]]
    assert {reply.rcode for reply in seen} == {dns.rcode.NOERROR, dns.rcode.NXDOMAIN, dns.rcode.SERVFAIL}
    assert (
        {reply.ad for reply in seen} == {reply.tc for reply in seen} == {reply.soa for reply in seen} == {True, False}
    )
    types = {rdtype for reply in seen for _, rdtype, _ in reply.answer}
    assert {"A", "AAAA", "MX", "TXT", "NS", "SOA", "CNAME", "DNAME", "RRSIG"} <= types


def test_signatures_and_ad_are_only_for_those_who_ask(rounds: list[Round]) -> None:
    _, plain = rounds
    for at, reply in enumerate(plain.seen["plughole"]):
        assert not [rdtype for _, rdtype, _ in reply.answer if rdtype in {"RRSIG", "NSEC", "NSEC3"}]
        assert not (reply.ad and at % 2)  # neither DO nor AD was set: RFC 6840 section 5.8


def test_only_what_does_not_fit_is_truncated(rounds: list[Round]) -> None:
    for one in rounds:
        limit = 1_232 if one.do else 512
        for at, (name, rdtype) in enumerate(varied.questions(NAMES)):
            size = len(one.wires["plughole"][at])
            assert one.seen["plughole"][at].tc == (size > limit), f"{name} {rdtype} DO={one.do}: {size} octets"


def test_no_reply_is_truncated_that_fits_at_both_peers(rounds: list[Round]) -> None:
    needless = [
        f"{name} {rdtype} DO={one.do}: {', '.join(str(len(one.wires[who][at])) for who in RESOLVERS)} octets"
        for one in rounds
        for at, (name, rdtype) in enumerate(varied.questions(NAMES))
        if one.seen["plughole"][at].tc and not (one.seen["unbound"][at].tc or one.seen["recursor"][at].tc)
    ]
    assert not needless, "\n".join(needless[:50])


def test_ttls_are_those_of_the_peers_less_the_time_that_passed(rounds: list[Round]) -> None:
    passed = sum(one.seconds for one in rounds) + 2
    wrong = []
    for one in rounds:
        for at, (name, rdtype) in enumerate(varied.questions(NAMES)):
            ours, unbound, recursor = (one.seen[who][at].ttls for who in RESOLVERS)
            for key in ours.keys() & unbound.keys() & recursor.keys():
                low, high = sorted((unbound[key], recursor[key]))
                if ours[key] == 0 and key[1] == "CNAME" and re.search(_SYNTHESISED, key[0]):
                    continue  # libunbound's own: zero as in RFC 2672, where RFC 6672 section 3.1 takes the DNAME's
                if not low - passed <= ours[key] <= high + passed:
                    wrong.append(
                        f"{name} {rdtype} {key}: {ours[key]}, unbound {unbound[key]}, recursor {recursor[key]}"
                    )
    assert not wrong, "\n".join(wrong[:50])
