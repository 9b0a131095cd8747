"""The adapter on the real nftables: two clients, a router that holds the table, a server; all in namespaces of ours."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from routed import AT_ONCE, C2, CLIENT, NEIGHBOUR, PATIENCE, Routed, echoes, why_not

from egress.enforcer import Absent, Enforcer, Lease, Target
from egress.nftables import Nftables

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
FOREIGN = """
table inet office {
  set hosts { type ipv4_addr; flags timeout; elements = { 10.9.9.9 timeout 1d } }
  chain forward { type filter hook forward priority 0; policy accept; ct state established,related accept; }
}
"""


_SKIPPED = why_not()
pytestmark = pytest.mark.skipif(bool(_SKIPPED), reason=_SKIPPED)


@pytest.fixture(scope="module")
def net() -> Iterator[Routed]:
    with Routed("client", "guest", rules=FOREIGN) as made:
        yield made


@pytest.fixture
def firewall(net: Routed) -> Iterator[Nftables]:
    with net.at("router"):
        made = Nftables()
        made.prepare()
    yield made
    made.withdraw()
    made.close()


def targets(firewall: Enforcer) -> set[Target]:
    return {standing.target for standing in firewall.present()}


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_by_literal_address_is_refused_at_once(net: Routed, firewall: Nftables, family: int) -> None:
    assert net.reaches("client", C2[family])
    assert firewall.apply(add=[Lease(Target(C2[family]), 600)]).done == 1
    assert net.refused_at_once("client", C2[family])
    assert net.reaches("client", NEIGHBOUR[family])
    (standing,) = firewall.present()
    assert standing.target == Target(C2[family])
    assert 500 < standing.seconds <= 600
    assert standing.packets >= 1
    assert standing.octets >= 40
    assert firewall.apply(remove=[Target(C2[family])]).done == 1
    assert net.reaches("client", C2[family])


@pytest.mark.parametrize("family", [4, 6])
def test_a_running_transfer_stops(net: Routed, firewall: Nftables, family: int) -> None:
    with net.connect("client", C2[family]) as running, net.connect("client", NEIGHBOUR[family]) as other:
        assert echoes(running)
        firewall.apply(add=[Lease(Target(C2[family]), 60)])
        assert not echoes(running, 0.5)
        assert echoes(other)


def test_a_pure_download_stops_too(net: Routed, firewall: Nftables) -> None:
    with net.connect("client", C2[4]) as running:
        running.sendall(bytes(2_000_000))  # comes back while we read, and we say nothing more
        running.settimeout(PATIENCE)
        assert running.recv(1000)
        firewall.apply(add=[Lease(Target(C2[4]), 60)])
        got, running_on = 1000, True
        running.settimeout(0.5)
        while running_on:
            try:
                data = running.recv(65536)
            except OSError:
                data = b""
            got, running_on = got + len(data), bool(data)
        assert got < 2_000_000 or not echoes(running, 0.5)


@pytest.mark.parametrize("family", [4, 6])
def test_a_pair_cuts_one_client_only(net: Routed, firewall: Nftables, family: int) -> None:
    pair = Target(C2[family], CLIENT[family])
    with net.connect("client", C2[family]) as cut, net.connect("guest", C2[family]) as kept:
        firewall.apply(add=[Lease(pair, 60)])
        assert not echoes(cut, 0.5)
        assert echoes(kept)
    assert net.refused_at_once("client", C2[family])
    assert net.reaches("guest", C2[family])
    assert net.reaches("client", NEIGHBOUR[family])
    assert targets(firewall) == {pair}


def test_a_block_runs_out_by_itself(net: Routed, firewall: Nftables) -> None:
    for seconds in (0.4, 1.6, 6.4):  # the longer ones for a machine that pauses before the client asks
        firewall.apply(add=[Lease(Target(C2[4]), seconds)])
        if refused := net.refused_at_once("client", C2[4]):
            break
    assert refused
    until = time.monotonic() + PATIENCE
    while firewall.present() and time.monotonic() < until:
        threading.Event().wait(0.02)
    assert firewall.present() == []
    assert net.reaches("client", C2[4])


def test_renewing_for_as_long_as_before_begins_anew(firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 600)])
    time.sleep(0.3)  # the kernel's clock is what is looked at
    (before,) = firewall.present()
    assert before.seconds < 599.8
    begun = time.monotonic()
    firewall.apply(renew=[Lease(Target(C2[4]), 600)])
    (after,) = firewall.present()
    passed = time.monotonic() - begun
    assert 599.8 - passed < after.seconds <= 600


@pytest.mark.parametrize("in_place", [True, False])
def test_renewing_sets_the_time_anew_both_ways(firewall: Nftables, in_place: bool) -> None:
    if in_place and not firewall._renews_in_place:
        pytest.skip("this kernel does not renew in place (Linux 6.12 does)")
    firewall._renews_in_place = in_place
    firewall.apply(add=[Lease(Target(C2[4]), 60), Lease(Target(C2[6]), 3600)])
    applied = firewall.apply(renew=[Lease(Target(C2[4]), 3600), Lease(Target(C2[6]), 60), Lease(Target("9.9.9.9"), 60)])
    assert applied.done == 3
    left = {standing.target.address: standing.seconds for standing in firewall.present()}
    assert left[C2[4]] == pytest.approx(3600, abs=30)
    assert left[C2[6]] == pytest.approx(60, abs=30)
    assert left["9.9.9.9"] == pytest.approx(60, abs=30)


def test_missing_and_doubled_elements_hold_nothing_up(firewall: Nftables) -> None:
    here = [Target(f"91.1.0.{number}") for number in range(50)]
    missing = [Target(f"91.2.0.{number}") for number in range(50)]
    assert firewall.apply(add=[Lease(target, 60) for target in here + here]).failures == ()
    applied = firewall.apply(remove=[*here[:25], *missing, *here[:25]], add=[Lease(here[40], 60), Lease(here[0], 60)])
    assert applied.failures == ()
    assert targets(firewall) == {here[0], *here[25:]}
    assert applied.done == 76  # of so many different targets
    assert firewall.apply(remove=[Target("2A01:0066:0::80"), Target("2a01:66::80")]).done == 1


def test_many_that_are_gone_already_cost_no_more_than_a_listing(firewall: Nftables) -> None:
    missing = [Target(f"2A01:66:{number >> 8:X}::{number & 255:X}") for number in range(2000)]
    here = [Target(f"2A01:67::{number:X}") for number in range(100)]
    taken = []
    for _ in range(3):  # a machine that stands still is charged to whoever runs then
        firewall.apply(add=[Lease(target, 60) for target in here])
        begun = time.thread_time()
        assert firewall.apply(remove=[*missing, *here]).failures == ()
        taken.append(time.thread_time() - begun)
        assert firewall.present() == []
    assert min(taken) < AT_ONCE


def test_a_full_set_takes_what_fits_and_says_the_rest(net: Routed) -> None:
    with net.at("router"):
        firewall = Nftables(capacity=10)
        firewall.prepare()
    try:
        wanted = [Lease(Target(f"91.1.0.{number}"), 60) for number in range(15)]
        six = Lease(Target(C2[6]), 60)
        applied = firewall.apply(add=[*wanted, six])
        assert [failure.target for failure in applied.failures] == [lease.target for lease in wanted[10:]]
        assert all(failure.full for failure in applied.failures)
        assert targets(firewall) == {six.target, *(lease.target for lease in wanted[:10])}
        swapped = firewall.apply(remove=[lease.target for lease in wanted[:5]], add=wanted[10:])
        assert swapped.failures == ()
        assert targets(firewall) == {six.target, *(lease.target for lease in wanted[5:])}
    finally:
        firewall.withdraw()
        firewall.close()


@pytest.mark.parametrize("damage", ["flush ruleset", "delete table inet plughole", "flush table inet plughole"])
def test_a_strangers_flush_is_seen_and_mended(net: Routed, firewall: Nftables, damage: str) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    net.inside("router", "nft", "-f", "-", text=damage)
    with pytest.raises(Absent):
        firewall.present()
    if "table inet" not in damage or "delete" in damage:
        for change in ({"add": [Lease(Target(C2[4]), 60)]}, {"remove": [Target(C2[4])]}):
            with pytest.raises(Absent):
                firewall.apply(**change)
    with net.at("router"):
        firewall.prepare()
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    assert net.refused_at_once("client", C2[4])
    if damage == "flush ruleset":
        net.inside("router", "nft", "-f", "-", text=FOREIGN)


def test_a_strangers_flush_of_a_set_shows_as_missing_elements(net: Routed, firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60), Lease(Target(C2[6]), 60)])
    net.inside("router", "nft", "flush", "set", "inet", "plughole", "block4")
    assert targets(firewall) == {Target(C2[6])}


def test_other_tables_are_as_they_were(net: Routed, firewall: Nftables) -> None:
    before = net.inside("router", "nft", "-s", "list", "table", "inet", "office").split("expires")[0]
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    firewall.flush()
    assert firewall.present() == []
    firewall.withdraw()
    firewall.withdraw()  # gone already is no error
    assert net.inside("router", "nft", "-s", "list", "table", "inet", "office").split("expires")[0] == before
    assert net.inside("router", "nft", "list", "tables").split() == ["table", "inet", "office"]


def test_preparing_again_keeps_the_elements(net: Routed, firewall: Nftables) -> None:
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    with net.at("router"):
        firewall.prepare()
        second = Nftables()
    assert targets(second) == {Target(C2[4])}
    second.close()
    assert net.refused_at_once("client", C2[4])


def test_counting_stops_nothing(net: Routed) -> None:
    with net.at("router"):
        firewall = Nftables(act="count")
        firewall.prepare()
    firewall.apply(add=[Lease(Target(C2[4]), 60)])
    assert net.reaches("client", C2[4])
    (standing,) = firewall.present()
    assert standing.packets >= 3
    firewall.withdraw()
    firewall.close()


def test_many_go_in_one_change(firewall: Nftables) -> None:
    wanted = {Target(f"91.1.{number >> 8}.{number & 255}") for number in range(5000)}
    wanted |= {Target(f"2a01:66::{number:x}", f"fd20::{number:x}") for number in range(1, 5000)}
    assert firewall.apply(add=[Lease(target, 600) for target in wanted]).failures == ()
    assert targets(firewall) == wanted


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_a_block_without_an_end_is_refused(firewall: Nftables, seconds: float) -> None:
    with pytest.raises(ValueError, match="must end"):
        firewall.apply(add=[Lease(Target(C2[4]), seconds)])
    assert firewall.present() == []


def test_without_the_right_to_it_nothing_is_done(net: Routed) -> None:
    script = (
        "import os, socket, subprocess\n"
        "from egress.enforcer import Lease, Refused, Target\n"
        "from egress.nftables import Nftables\n"
        "os.setgid(65534); os.setuid(65534)\n"  # after the imports: the checkout may be readable by root only
        "try:\n    Nftables().apply(add=[Lease(Target('91.66.0.80'), 60)])\n"
        "except Refused as fault:\n    print(fault)\n"
    )
    assert "not permitted" in net.inside("router", sys.executable, "-c", script)
