"""Turning address records: a rotation of one run, nothing else touched, whatever the reply looks like."""

from __future__ import annotations

from collections import Counter

import dns.message
import dns.rrset
from hypothesis import given
from hypothesis import strategies as st

from core.cut import cut
from core.errors import Malformed
from core.wire import HEADER, walk
from resolver.rotate import turn

Reply = tuple[bytearray, int, tuple[tuple[int, int], ...], int]

ASKED = "www.corp.example."
OTHER = "cdn.net.example."

addresses4 = st.lists(st.ip_addresses(v=4).map(str), min_size=1, max_size=8, unique=True)
addresses6 = st.lists(st.ip_addresses(v=6).map(str), min_size=1, max_size=8, unique=True)


def rendered(wire: bytes) -> Reply:
    """Return body without the ID, offset, TTLs and answers, as the renderer has them."""
    message = walk(wire)
    form = cut(wire, message, signatures=True)
    head = wire[2:6] + form.counts + wire[HEADER : message.answers_at]
    return bytearray(head + form.body), len(head), form.ttls, int.from_bytes(form.counts[:2], "big")


def reply(*rrsets: dns.rrset.RRset, authority: tuple[dns.rrset.RRset, ...] = ()) -> Reply:
    message = dns.message.make_response(dns.message.make_query(ASKED, rrsets[0].rdtype if rrsets else "A"))
    message.answer, message.authority = list(rrsets), list(authority)
    return rendered(message.to_wire())


def read(made: Reply) -> list[str]:
    """Return the data of all answers, in the order they stand."""
    parsed = dns.message.from_wire(b"\x00\x00" + bytes(made[0]), one_rr_per_rrset=True)
    return [rrset[0].to_text() for rrset in parsed.answer]


def turned(made: Reply, step: int) -> Reply:
    body = bytearray(made[0])
    turn(body, *made[1:], step)
    return body, *made[1:]


def rrset(owner: str, rdtype: str, *data: str, ttl: int = 300) -> dns.rrset.RRset:
    return dns.rrset.from_text(owner, ttl, "IN", rdtype, *data)


@given(addresses4, st.integers(0, 10**9))
def test_addresses_are_rotated(addresses: list[str], step: int) -> None:
    made = reply(rrset(ASKED, "A", *addresses))
    shift = step % len(addresses)
    before = read(made)
    assert read(turned(made, step)) == before[shift:] + before[:shift]


@given(addresses6, st.integers(1, 100), st.booleans())
def test_only_the_addresses_behind_a_chain_are_rotated(addresses: list[str], step: int, signed: bool) -> None:
    signature = rrset(OTHER, "RRSIG", f"AAAA 8 3 300 20300101000000 20200101000000 1 {OTHER} AAAA")
    made = reply(
        rrset(ASKED, "CNAME", "alias.corp.example."),
        rrset("alias.corp.example.", "CNAME", OTHER),
        rrset(OTHER, "AAAA", *addresses),
        *([signature] if signed else []),
        authority=(rrset("example.", "NS", "a.example.", "b.example."),),
    )
    shift, end = step % len(addresses), 2 + len(addresses)
    before = read(made)
    run = before[2:end]
    assert read(turned(made, step)) == before[:2] + run[shift:] + run[:shift] + before[end:]


@given(addresses4, addresses4, addresses6, st.integers(0, 50), st.data())
def test_octets_stay_but_for_the_run(a: list[str], b: list[str], c: list[str], step: int, data: st.DataObject) -> None:
    sets = data.draw(st.permutations([rrset(ASKED, "A", *a), rrset(OTHER, "A", *b, ttl=60), rrset(OTHER, "AAAA", *c)]))
    made = reply(*sets)
    after = turned(made, step)
    assert len(after[0]) == len(made[0])
    assert Counter(read(after)) == Counter(read(made))
    assert walked(after[0]) == walked(made[0])
    run = len(sets[-1])
    before, now = read(made), read(after)
    assert now[:-run] == before[:-run]
    width = 16 if sets[-1].rdtype == 28 else 4
    moved = [at for at, (old, new) in enumerate(zip(made[0], after[0], strict=True)) if old != new]
    places = [made[1] + at + 6 for at, _ in made[2][-run:]]
    assert all(any(place <= at < place + width for place in places) for at in moved)


def test_four_steps_of_one_come_back() -> None:
    made = reply(rrset(ASKED, "A", "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"))
    firsts, state = [], made
    for _ in range(4):
        firsts.append(read(state)[0])
        state = turned(state, 1)
    assert firsts == read(made)
    assert state == made


def test_one_record_or_none_stays() -> None:
    for made in (reply(rrset(ASKED, "A", "192.0.2.1")), reply(), reply(rrset(ASKED, "CNAME", OTHER))):
        assert turned(made, 1) == made


def test_a_truncated_reply_stays() -> None:
    made = bytearray(b"\x83\x80\x00\x01" + bytes(6) + b"\x01a\x00\x00\x01\x00\x01")
    before = bytes(made)
    turn(made, len(made), (), 3, 1)
    assert made == before


def record(owner: bytes, last: int, ttl: int = 300) -> bytes:
    return owner + b"\x00\x01\x00\x01" + ttl.to_bytes(4, "big") + b"\x00\x04\xc0\x00\x02" + bytes((last,))


def walked(octets: bytes | bytearray) -> list[tuple[int, ...]]:
    """Return what the walk says of each record of a reply without its ID."""
    found = walk(b"\x00\x00" + bytes(octets)).records
    return [(one.section, one.owner, one.rtype, one.rclass, one.ttl, one.rdata, one.end) for one in found]


def raw(*records: bytes) -> Reply:
    head = b"\x00\x00\x81\x80\x00\x01" + bytes((0, len(records))) + bytes(4)
    return rendered(head + b"\x01a\x02bc\x00\x00\x01\x00\x01" + b"".join(records))


def test_records_of_other_ttls_stay() -> None:
    made = raw(*(record(b"\xc0\x0c", last, ttl=last) for last in (1, 2)))
    for at, _ in made[2]:
        made[0][made[1] + at : made[1] + at + 4] = bytes(4)  # both aged away
    assert turned(made, 1) == made


def test_other_owners_stay_apart() -> None:
    made = raw(record(b"\xc0\x0e", 1), record(b"\xc0\x0c", 2), record(b"\xc0\x0c", 3))
    assert read(turned(made, 1)) == ["192.0.2.1", "192.0.2.3", "192.0.2.2"]


def test_addresses_of_the_wrong_size_stay() -> None:
    odd = b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x01,\x00\x05\xc0\x00\x02\x01"
    made = raw(odd + b"1", odd + b"2", odd + b"3")
    assert turned(made, 1) == made


def test_owners_written_out_are_rotated() -> None:
    made = raw(*(record(b"\x01a\x02bc\x00", last) for last in (1, 2, 3)))
    assert read(turned(made, 1)) == ["192.0.2.2", "192.0.2.3", "192.0.2.1"]


def test_an_owner_that_ends_like_a_pointer_is_another_owner() -> None:
    name = b"\x01x\x00"  # lands at 0x100, where the pointers point
    filler = b"\xc0\x0c\x00\x10\x00\x01" + bytes(4) + b"\x00\xe1" + bytes(222) + name
    made = raw(filler, record(b"\x02y\xc1\x00", 1), record(b"\xc1\x00", 2), record(b"\xc1\x00", 3))
    at = [made[1] + place for place, _ in made[2]]
    assert (
        made[0][at[1] - 6 : at[1] + 6] == made[0][at[2] - 6 : at[2] + 6]
    )  # alike in all that a pointer's record shows
    after = turned(made, 1)[0]
    assert [after[place + 9] for place in at[1:]] == [1, 3, 2]


@given(st.binary(max_size=200), st.integers(0, 20), st.integers(0, 20))
def test_no_walked_reply_breaks_it(tail: bytes, answers: int, step: int) -> None:
    head = b"\x00\x00\x81\x80\x00\x01" + bytes((0, answers)) + bytes(4)
    try:
        made = rendered(head + b"\x01a\x00\x00\x01\x00\x01" + tail)
    except Malformed:
        return
    after = turned(made, step)
    assert Counter(after[0]) == Counter(made[0])
    assert walked(after[0]) == walked(made[0])


@given(st.lists(st.tuples(st.binary(min_size=4, max_size=4), st.sampled_from([b"\xc0\x0c", b"\xc0\x0e"])), max_size=9))
def test_pieces_that_look_like_records(pieces: list[tuple[bytes, bytes]]) -> None:
    made = raw(*(record(owner, data[3], ttl=data[0]) for data, owner in pieces))
    after = turned(made, 1)
    pairs = [sorted(zip([x[1] for x in one[2]], read(one), strict=True)) for one in (made, after)]
    assert pairs[0] == pairs[1]
