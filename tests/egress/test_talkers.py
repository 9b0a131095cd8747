"""Who talks to what is newly blocked: what is asked, what waits, what is told and what is left out. No kernel."""

from __future__ import annotations

import threading
from collections.abc import Collection
from ipaddress import ip_address
from typing import Any

import pytest

from core.config import Egress
from core.names import from_text
from egress import part as parts
from egress import talkers
from egress.caps import Caps
from egress.desk import Desk, Outcome
from egress.orders import Block, Flush, Report, Talking, Undo
from egress.plan import ANY, Destination, Ledger, Proposal
from egress.reserved import reserved
from egress.talkers import Talker, Talkers

NOW = 1_700_000_000.0
PATIENCE = 60.0
CLIENT = ip_address("10.20.1.2").packed
OTHER = ip_address("10.20.1.3").packed
C2 = ip_address("91.66.0.80").packed
C26 = ip_address("2a01:66::80").packed


class Kernel:
    """In place of the kernel's listing: connections by address and client; fails as often as told."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []
        self.failed = threading.Event()
        self.talkers: dict[tuple[bytes, bytes], Talker] = {}
        self.looks: list[set[bytes]] = []

    def __call__(self, _: object, addresses: Collection[bytes]) -> tuple[dict[tuple[bytes, bytes], Talker], int]:
        self.looks.append(set(addresses))
        if self.failures:
            if len(self.looks) > 1:
                self.failed.set()
            raise self.failures.pop(0)
        return {pair: one for pair, one in self.talkers.items() if pair[0] in addresses}, 0


class Heard:
    """What was told."""

    def __init__(self) -> None:
        self.told: list[Report] = []
        self._more = threading.Condition()

    def __call__(self, one: Report) -> None:
        with self._more:
            self.told.append(one)
            self._more.notify_all()

    def until(self, many: int) -> None:
        with self._more:
            assert self._more.wait_for(lambda: len(self.told) >= many, PATIENCE)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    made.talkers[C2, CLIENT] = Talker(CLIENT, 3_000_000, 40_000, NOW - 60.0, 2)
    made.talkers[C2, OTHER] = Talker(OTHER, 10, 20, 0.0)
    monkeypatch.setattr(talkers, "talking", made)
    monkeypatch.setattr(parts, "RETRY", 0.001)
    return made


def asked(part: Talkers, *destinations: Destination, many: int) -> list[Report]:
    """Return what is told once it was so many."""
    heard = Heard()
    part.start(heard)
    part.ask(destinations)
    heard.until(many)
    part.stop()
    return heard.told


def test_all_who_talk_are_told_those_with_the_most_first(kernel: Kernel) -> None:
    told = asked(Talkers("gate", clock=lambda: NOW), Destination(C2), many=2)
    assert told == [
        Talking(NOW, "gate", CLIENT, C2, 3_000_000, 40_000, NOW - 60.0, 2),
        Talking(NOW, "gate", OTHER, C2, 10, 20, 0.0, 1),
    ]
    assert kernel.looks == [{C2}]


@pytest.mark.usefixtures("kernel")
def test_a_block_for_one_client_is_about_that_one() -> None:
    (told,) = asked(Talkers("gate"), Destination(C2, OTHER), many=1)
    assert told.client == OTHER


def test_what_waits_at_the_end_is_told_in_one_look(kernel: Kernel) -> None:
    part, heard = Talkers("gate"), Heard()
    part.ask([Destination(C2), Destination(C26)])
    part.start(heard)
    part.stop()
    assert kernel.looks == [{C2, C26}]
    assert len(heard.told) == 2


def test_what_fails_is_looked_at_again(kernel: Kernel) -> None:
    kernel.failures = [PermissionError(1, "no"), OSError(105, "no room")]
    part = Talkers("gate")
    assert len(asked(part, Destination(C2), many=2)) == 2
    assert len(kernel.looks) == 3
    assert part.trouble == ""
    assert part.counters()["waiting"] == 0


def test_a_failure_that_lasts_is_said(kernel: Kernel) -> None:
    kernel.failures = [PermissionError(1, "no")] * 100_000
    part, heard = Talkers("gate"), Heard()
    part.start(heard)
    part.ask([Destination(C2)])
    assert kernel.failed.wait(PATIENCE)
    assert part.trouble == "talkers: [Errno 1] no (CAP_NET_ADMIN is missing)"
    part.stop()
    assert heard.told == []


def test_what_waited_for_too_long_is_counted_and_not_told(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talkers, "KEEP", 0.0)
    part, heard = Talkers("gate"), Heard()
    part.ask([Destination(C2)])
    part.start(heard)
    part.stop()
    assert (heard.told, kernel.looks, part.counters()["late"]) == ([], [], 1)


@pytest.mark.usefixtures("kernel")
def test_what_waits_and_what_is_told_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talkers, "MAX_WAITING", 2)
    monkeypatch.setattr(talkers, "MAX_TOLD", 1)
    part, heard = Talkers("gate"), Heard()
    part.ask([Destination(C2), Destination(C26), Destination(C2)])
    part.start(heard)
    part.stop()
    assert [one.client for one in heard.told] == [CLIENT]
    counters = part.counters()
    assert (counters["asked"], counters["dropped"], counters["told"], counters["untold"]) == (3, 1, 1, 1)


# ---- what the agent asks about


@pytest.fixture
def desk() -> Desk:
    settings = Egress(mode="enforce")
    return Desk(Ledger(), Caps(settings, reserved({"ours": ("91.66.1.0/24",)})), name="gate")


def done(desk: Desk, order: Any) -> list[Destination]:
    outcome = Outcome()
    desk.do(order, outcome, at=NOW, now=NOW)
    return outcome.fresh


def block(*addresses: bytes, client: bytes = ANY, name: str = "evil.example") -> Block:
    proposals = tuple(Proposal(address, client, from_text(name), "listed", 60.0) for address in addresses)
    return Block(NOW, "node", proposals)


def test_only_what_was_not_blocked_before_is_asked_about(desk: Desk) -> None:
    assert done(desk, block(C2, C2, ip_address("91.66.1.1").packed)) == [Destination(C2)]
    assert done(desk, block(C2)) == []
    assert done(desk, block(C2, name="another.example")) == []
    assert done(desk, block(C2, client=CLIENT)) == []
    assert done(desk, block(C26, client=C26)) == [Destination(C26, C26)]


def test_nobody_is_asked_about_by_an_undo_or_a_flush(desk: Desk) -> None:
    assert done(desk, block(C2)) == [Destination(C2)]
    assert done(desk, Flush(NOW, "me", "why")) == []
    assert done(desk, Undo(NOW, "me", since=NOW)) == []
