"""What every kind of firewall keeps to, whatever it is made of."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

import pytest
from firewalling.bench import AwsBench, WebBench

from egress.enforcer import Enforcer, Lease, Refused, Target
from egress.firewalls.listed import NO_PAIRS

if TYPE_CHECKING:
    from firewalling.bench import Bench

C2 = Target("91.66.0.80")
NEXT = Target("91.66.0.81")
SIX = Target("2a01:66::80")
PAIR = Target("91.66.0.80", "10.20.1.2")
HOUR = 3_600.0
SLACK = 30.0  # seconds a test may take on a busy machine
IMPOSSIBLE = [
    *(Lease(Target(text), HOUR) for text in ("evil.example", "91.66.0.0/24", "091.66.0.1", "fe80::1%eth0",
                                             "2A01:66::80", "91.66.0.80\n", "")),
    Lease(Target("91.66.0.80", "2a01:66::80"), HOUR), *(Lease(C2, each) for each in (0.0, -1.0, math.inf, math.nan)),
]  # fmt: skip


@pytest.fixture
def enforcer(bench: Bench) -> Enforcer:
    found = bench.build()
    found.prepare()
    return found


def about(seconds: float | None, wanted: float) -> bool:
    return seconds is not None and wanted - SLACK <= seconds <= wanted + 1.0


def add(enforcer: Enforcer, *targets: Target, seconds: float = HOUR) -> None:
    applied = enforcer.apply(add=[Lease(each, seconds) for each in targets], renew=(), remove=())
    assert (applied.done, applied.failures) == (len(targets), ())


def test_what_is_added_stands_until_its_time(bench: Bench, enforcer: Enforcer) -> None:
    assert bench.truth() == {}
    add(enforcer, C2, SIX)
    assert set(bench.truth()) == {C2, SIX}
    if bench.tells_end:
        assert all(about(seconds, HOUR) for seconds in bench.truth().values())
    assert {each.target for each in enforcer.present()} == {C2, SIX}
    assert all(about(each.seconds, HOUR) for each in enforcer.present())


def test_to_prepare_again_changes_nothing(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2)
    enforcer.prepare()
    assert set(bench.truth()) == {C2}
    assert [each.target for each in enforcer.present()] == [C2]


def test_a_renewed_block_lasts_its_new_time_longer_and_shorter(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2)
    for wanted in (2 * HOUR, 900.0):
        applied = enforcer.apply(add=(), renew=[Lease(C2, wanted)], remove=())
        assert (applied.done, applied.failures) == (1, ())
        assert [(each.target, about(each.seconds, wanted)) for each in enforcer.present()] == [(C2, True)]
        if bench.tells_end:
            assert about(bench.truth()[C2], wanted)


def test_to_renew_what_is_not_there_adds_it(bench: Bench, enforcer: Enforcer) -> None:
    assert enforcer.apply(add=(), renew=[Lease(C2, HOUR)], remove=()).failures == ()
    assert set(bench.truth()) == {C2}


def test_to_add_what_is_there_renews_it(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2)
    add(enforcer, C2, seconds=2 * HOUR)
    assert set(bench.truth()) == {C2}
    assert [about(each.seconds, 2 * HOUR) for each in enforcer.present()] == [True]


def test_what_is_removed_is_free_and_what_was_not_there_is_none_the_worse(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2, NEXT, SIX)
    applied = enforcer.apply(add=(), renew=(), remove=[C2, Target("91.66.0.99"), SIX])
    assert (applied.done, applied.failures) == (3, ())
    assert set(bench.truth()) == {NEXT}


def test_of_a_target_named_twice_the_last_mention_counts(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2)
    applied = enforcer.apply(add=[Lease(C2, HOUR)], renew=[Lease(C2, 2 * HOUR)], remove=[C2])
    assert (applied.done, applied.failures) == (1, ())
    assert [about(each.seconds, 2 * HOUR) for each in enforcer.present()] == [True]
    assert set(bench.truth()) == {C2}


def test_a_block_for_one_client_never_becomes_one_for_all(bench: Bench, enforcer: Enforcer) -> None:
    applied = enforcer.apply(add=[Lease(PAIR, HOUR), Lease(NEXT, HOUR)], renew=(), remove=())
    if bench.pairs:
        assert (applied.done, applied.failures, set(bench.truth())) == (2, (), {PAIR, NEXT})
        assert enforcer.apply(add=(), renew=(), remove=[PAIR]).failures == ()
    else:
        assert [(each.target, each.reason) for each in applied.failures] == [(PAIR, NO_PAIRS)]
        assert applied.done == 1
        assert enforcer.apply(add=(), renew=(), remove=[PAIR]).failures == ()
    assert set(bench.truth()) == {NEXT}


def test_past_its_room_a_list_says_so_and_goes_on_with_the_rest(bench: Bench) -> None:
    enforcer = bench.build(max_entries=2)
    enforcer.prepare()
    add(enforcer, C2, NEXT)
    applied = enforcer.apply(add=[Lease(Target("91.66.0.82"), HOUR)], renew=[Lease(C2, 2 * HOUR)], remove=())
    assert [(each.target.address, each.full) for each in applied.failures] == [("91.66.0.82", True)]
    assert applied.done == 1
    applied = enforcer.apply(add=[Lease(Target("91.66.0.82"), HOUR)], renew=(), remove=[C2])
    assert applied.failures == ()
    assert {each.address for each in bench.truth()} == {"91.66.0.81", "91.66.0.82"}


def test_flush_frees_all(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2, NEXT, SIX)
    enforcer.flush()
    assert bench.truth() == {}
    assert enforcer.present() == []
    add(enforcer, C2)
    assert set(bench.truth()) == {C2}


def test_withdraw_leaves_nothing_of_ours(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2, SIX)
    enforcer.withdraw()
    assert bench.truth() == {}
    enforcer.withdraw()
    enforcer.prepare()
    add(enforcer, C2)
    assert set(bench.truth()) == {C2}


def test_after_a_restart_what_stands_is_known(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2, SIX)
    again = bench.build()
    again.prepare()
    standing = {each.target: each.seconds for each in again.present()}
    assert set(standing) == {C2, SIX}
    assert all(about(seconds, HOUR) or math.isinf(seconds) for seconds in standing.values())
    assert again.apply(add=(), renew=[Lease(SIX, HOUR)], remove=[C2]).failures == ()
    assert set(bench.truth()) == {SIX}
    assert [about(each.seconds, HOUR) for each in again.present()] == [True]


def test_many_at_once(bench: Bench, enforcer: Enforcer) -> None:
    count = 150  # more than fit into one request of some
    targets = [Target(f"91.{66 + at // 200}.7.{1 + at % 200}") for at in range(count)]
    add(enforcer, *targets)
    assert set(bench.truth()) == set(targets)
    assert {each.target for each in enforcer.present()} == set(targets)
    assert enforcer.apply(add=(), renew=(), remove=targets[1:]).failures == ()
    assert set(bench.truth()) == {targets[0]}


def test_what_can_not_be_is_refused_before_anything_is_done(bench: Bench, enforcer: Enforcer) -> None:
    for lease in IMPOSSIBLE:
        with pytest.raises(ValueError, match=r"."):
            enforcer.apply(add=[Lease(NEXT, HOUR), lease], renew=(), remove=())
        with pytest.raises(ValueError, match=r"."):
            enforcer.apply(add=(), renew=[Lease(NEXT, HOUR), lease], remove=())
    assert bench.truth() == {}


def test_what_others_put_there_stays(bench: Bench, enforcer: Enforcer) -> None:
    holder = bench.standin if isinstance(bench, WebBench) else bench
    if not hasattr(holder, "foreign") or getattr(bench, "standin", bench).__class__.__name__ in {
        "FortigateStandin", "OpnsenseStandin", "WebhookStandin",
    }:  # fmt: skip
        pytest.skip("entries of this kind do not tell whose they are: the list is ours alone")
    assert isinstance(bench, AwsBench | WebBench)
    there = bench if isinstance(bench, AwsBench) else bench.standin
    there.add_foreign("91.66.0.90")
    add(enforcer, C2)
    assert C2 in {each.target for each in enforcer.present()}
    enforcer.apply(add=(), renew=(), remove=[Target("91.66.0.90")])
    enforcer.flush()
    assert "91.66.0.90" in there.foreign()
    assert bench.truth() == {}


def test_no_secret_shows(bench: Bench, enforcer: Enforcer) -> None:
    add(enforcer, C2)
    inside = repr(enforcer) + repr(vars(enforcer))
    assert all(line not in inside for line in bench.secret.split("\n") if line)


def test_closing_twice_is_fine(bench: Bench, enforcer: Enforcer) -> None:
    enforcer.close()
    enforcer.close()


def test_a_key_that_is_missing_is_said(bench: Bench) -> None:
    changes = {"edl": {"listen": ""}, "ipset": {"list": "a list"}, "aws": {"list": "plughole"}}
    took = []
    for _ in range(3):  # the best of three: others use the machine too
        started = time.monotonic()
        with pytest.raises(Refused, match=r"branch: (needs|list must) ") as caught:
            bench.build(**changes.get(bench.firewall().kind, {"secret_file": ""}))
        took.append(time.monotonic() - started)
        assert "\n" not in str(caught.value)
    assert min(took) < 1.0
