"""Targets around what the kernel and agents tell: logged packets, connections, and what agents saw of strangers."""

from __future__ import annotations

from contextlib import suppress
from functools import cache
from typing import Final

from netlinked import ENDED4, LISTED4, LISTED6, LOGGED

from egress.connections import read
from egress.conntrack import Flows, Tally
from egress.netlink import Malformed
from egress.nflog import WINDOW, Attempts
from egress.orders import Attempt, Flow, Report, Seen, Talking, encode
from journal.flows import columns
from resolver.seen import Intake

NOW: Final = 1_700_000_000.0
CLIENT: Final = b"\x0a\x14\x01\x02"
C2: Final = b"\x5b\x42\x00\x50"


def nflog(data: bytes) -> None:
    """What a group sends is told packet by packet, each once, or counted as unread."""
    heard: list[Report] = []
    part = Attempts("gate", C2.__eq__)
    part._tell = heard.append
    part.take(data, NOW)
    part.tick(NOW + WINDOW)
    counters = part.counters()
    packets = sum(one.packets for one in heard if isinstance(one, Attempt))
    assert packets <= counters["packets"] <= packets + counters["garbled"]
    assert all(len(one.client) == len(one.address) for one in heard)


def conntrack(data: bytes) -> None:
    """A connection is counted or malformed, and news of connections never ends the thread."""
    tally = Tally("gate", lambda _client, _address: False)
    tally.begin()
    tally.end()
    with suppress(Malformed):
        tally.count(read(data), ended=True)
    for one in tally.take(NOW):
        assert len(one.client) == len(one.address) in {4, 16}
    Flows("gate")._take([data])


def agents(data: bytes) -> None:
    """What an agent says becomes rows that can be written down, or is counted."""
    intake = _intake()
    intake.follow([data])
    rows, findings = intake.take(data, NOW)
    assert len(findings) <= len(rows)
    if rows:
        columns(rows)


@cache
def _intake() -> Intake:
    """One for all: it reads the list of resolvers."""
    return Intake(frozenset(), now=NOW)


def connections() -> tuple[bytes, ...]:
    """Listed connections, and the news of an end."""
    return (LISTED4, LISTED6, ENDED4)


def logged() -> tuple[bytes, ...]:
    """Logged packets, alone and two in a datagram."""
    return (*LOGGED.values(), b"".join(LOGGED.values()))


@cache
def seen() -> tuple[bytes, ...]:
    """What agents say."""
    flow = Flow(NOW, "gate", CLIENT, C2, 1 << 40, 7, 3)
    attempt = Attempt(NOW, "gate", CLIENT, C2, 6, 443, b"\xea\xc2\x74\x8e\x68\xa5", "bypass", 9)
    odd = Attempt(-1e300, "", b"", b"\0" * 16, -1, 1 << 40, rule="block", packets=-5)
    talking = Talking(NOW, "gate", CLIENT, C2, 1 << 40, -1_000_000, NOW, 3)
    odd_too = Talking(1e300, "", C2, C2, -(1 << 60), (1 << 64) - 1, -1e300, -1)
    return (
        encode(Seen((flow, attempt, talking))),
        encode(Seen((attempt, odd) * 20)),
        encode(Seen((talking, odd_too))),
        encode(Seen(())),
    )
