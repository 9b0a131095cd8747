"""The outbox: bounded whatever the hub does, and every event not told is counted."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from core.cut import Form
from core.event import Event, decode_batch
from core.names import from_text
from resolver.answers import Answer, Rendered
from resolver.clients import Client
from resolver.outbox import BEHIND, CHUNK, MANY, MAX_WAITING, SMALL, STEP, Outbox
from resolver.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterator

EMPTY = Form(bytes(6), b"", ())
EVENT = Event(1.0, b"\x7f\x00\x00\x01", b"\x01a\x00", 1, 0)


@pytest.fixture
def line() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    far.setblocking(False)
    yield near, far
    near.close()
    far.close()


def drained(far: socket.socket) -> tuple[int, int]:
    """Return how many events came and how many are said to have been dropped."""
    events = dropped = 0
    while True:
        try:
            batch = decode_batch(far.recv(300_000))
        except BlockingIOError:
            return events, dropped
        events += len(batch.events)
        dropped += batch.dropped


def test_what_is_added_arrives_in_order(line: tuple[socket.socket, socket.socket]) -> None:
    near, far = line
    box = Outbox(near, worker=3, per_second=10_000)
    for at in range(SMALL + 1):
        box.add(Event(float(at), b"\x7f\x00\x00\x01", b"\x01a\x00", 1, 0))
    assert box.flush()
    assert not box.flush()
    first, second = decode_batch(far.recv(300_000)), decode_batch(far.recv(300_000))
    assert first.worker == 3
    assert [event.at for event in (*first.events, *second.events)] == list(range(SMALL + 1))


def test_when_many_wait_they_go_in_larger_pieces(line: tuple[socket.socket, socket.socket]) -> None:
    near, far = line
    box = Outbox(near, worker=0, per_second=10_000)
    for _ in range(MANY):
        box.add(EVENT)
    sizes = []
    while box.flush():
        sizes.append(len(decode_batch(far.recv(300_000)).events))
    assert (sizes[0], sizes[-1]) == (CHUNK, SMALL)


def test_the_hub_is_behind_when_thousands_wait(line: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(line[0], worker=0, per_second=10**6)
    seen = []
    for _ in range(BEHIND + 1):
        box.add(EVENT)
        seen.append(box.behind)
    box.flush()
    assert (seen, box.behind) == ([False] * BEHIND + [True], False)


def test_a_hub_that_does_not_read_costs_nothing_but_events_which_are_counted(
    line: tuple[socket.socket, socket.socket],
) -> None:
    near, far = line
    box = Outbox(near, worker=0, per_second=10**9)
    total = 2 * MAX_WAITING
    for _ in range(total):
        box.add(EVENT)
        box.flush()
    counters = box.counters()
    assert counters["waiting"] <= MAX_WAITING
    assert counters["dropped"] > 0
    arrived = dropped = 0
    while box.counters()["waiting"] or not arrived:
        more, lost = drained(far)
        arrived += more
        dropped += lost
        box.flush()
    more, lost = drained(far)
    assert arrived + more + counters["dropped"] == total
    assert dropped + lost == counters["dropped"]


def test_room_grows_evenly_up_to_half_a_second(line: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(line[0], worker=0, per_second=100)
    for _ in range(50):
        assert box.room > 0
        box.add(EVENT)
    assert box.room <= 0
    box.passed(0.05)
    assert box.room == 5
    for _ in range(100):
        box.passed(0.05)
    assert box.room == 50


def test_a_low_cap_lets_events_through_all_the_same(line: tuple[socket.socket, socket.socket]) -> None:
    box = Outbox(line[0], worker=0, per_second=1)
    told = 0
    for _ in range(20 * 60):
        if box.room > 0:
            box.add(EVENT)
            told += 1
        box.passed(0.05)
    assert told == pytest.approx(60, abs=1)


def test_a_closed_line_does_not_raise(line: tuple[socket.socket, socket.socket]) -> None:
    near, far = line
    far.close()
    box = Outbox(near, worker=0, per_second=10)
    box.add(EVENT)
    assert not box.flush()
    assert box.waiting
    assert box.counters()["waiting"] == 1


def test_hits_are_told_bit_by_bit_and_none_is_lost(line: tuple[socket.socket, socket.socket]) -> None:
    near, far = line
    box = Outbox(near, worker=0, per_second=10**9)
    view = Policy(cache_bytes=1_000_000).default
    replies = [
        Rendered(Answer(from_text(f"n{at}.example") + b"\x00\x01\x00\x01\x00", EMPTY, None, 0), b"", 0, (), 0)
        for at in range(500)
    ]
    clients = [Client(bytes((127, 0, 0, at)), view, allowed=True) for at in range(3)]
    box.add_hits([(clients[0], replies * 200), (clients[1], replies[:1]), (clients[2], [])])
    steps = 1
    while box.tell_hits(5.0):
        steps += 1
    assert steps > 500 * 200 // STEP
    assert all(reply.used and reply.answer.used for reply in replies)
    found: list[Event] = []
    while box.flush():
        found += decode_batch(far.recv(300_000)).events
    found += decode_batch(far.recv(300_000)).events
    assert sum(event.count for event in found) == 500 * 200 + 1
    assert len(found) == 501
    assert {event.at for event in found} == {5.0}
    assert not box.tell_hits(6.0)
