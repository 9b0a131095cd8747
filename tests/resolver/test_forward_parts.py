"""What the parts of the native forwarder decide: echo check, health, deadlines and plan, under a fake clock."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from core.names import from_text
from resolver.upstream import Question
from resolver.upstream.echo import Echo, Noise, Wording, compare, is_reply, mix_case, section
from resolver.upstream.health import CASE_PARDON, CASE_STRIKES, EXPLORE, MAX_TIMEOUT, MIN_TIMEOUT, Fleet, Health
from resolver.upstream.transactions import NEVER, PARK, SLOTS, Kept, Next, Setbacks, Transaction, Wheel, plan

if TYPE_CHECKING:
    pass

WWW = Question(from_text("www.example"), 1)


# Echo: is this the reply?


def reply_to(question: bytes, *, flags: int = 0x80, rcode: int = 0) -> bytes:
    return b"\x12\x34" + bytes((flags, rcode, 0, 1, 0, 0, 0, 0, 0, 0)) + question


@given(st.binary(max_size=80))
def test_any_bytes_are_judged_without_an_error(wire: bytes) -> None:
    question = section(WWW)
    assert compare(wire, question) in Echo
    if is_reply(wire, question):
        assert wire[12 : 12 + len(question)] == question


@given(st.integers(0, len(reply_to(section(WWW))) * 8 - 1))
def test_one_flipped_bit_outside_id_and_free_fields_makes_a_stranger(bit: int) -> None:
    question = section(WWW)
    wire = bytearray(reply_to(question))
    wire[bit // 8] ^= 1 << bit % 8
    free = {0, 1, 3, 6, 7, 8, 9, 10, 11}  # ID (the table's business), flags and counts that a reply may set
    harmless = bit // 8 in free or (bit // 8 == 2 and bit % 8 < 3)
    case_only = bit // 8 >= 12 and bytes(wire[12:-4]).lower() == question[:-4] and bytes(wire[-4:]) == question[-4:]
    expected = Echo.REPLY if harmless else Echo.MISCASED if case_only else Echo.STRANGER
    assert compare(bytes(wire), question) is expected


@given(st.lists(st.binary(min_size=1, max_size=63), max_size=3), st.randoms(use_true_random=False))
def test_mixing_case_changes_letters_only(labels: list[bytes], rng: random.Random) -> None:
    name = b"".join(bytes((len(label),)) + label for label in labels).lower() + b"\x00"
    mixed = mix_case(name, rng.randbytes(len(name)))
    assert mixed.lower() == name
    assert len(mixed) == len(name)


def test_every_letter_gets_both_cases_in_time() -> None:
    noise = Noise(random.Random(1).randbytes)
    name = from_text("abcdefghijklmnopqrstuvwxyz")
    seen = [mix_case(name, noise.take(len(name))) for _ in range(100)]
    assert all(len({wire[at] for wire in seen}) == 2 for at in range(1, 27))


def test_a_bare_formerr_is_told_from_nonsense() -> None:
    assert compare(b"\x12\x34\x81\x81" + bytes(8), section(WWW)) is Echo.BARE
    assert compare(b"\x12\x34\x81\x82" + bytes(8), section(WWW)) is Echo.STRANGER
    assert compare(b"\x12\x34\x01\x81" + bytes(8), section(WWW)) is Echo.STRANGER


def test_the_opt_record_asks_for_1232_octets_and_do_when_told() -> None:
    assert Wording(edns=True, dnssec=True).tail.hex() == "00002904d000008000" + "0000"
    assert Wording(edns=True, dnssec=False).tail.hex() == "00002904d0" + "00000000" + "0000"
    assert Wording(edns=False, dnssec=True).tail == b""


def test_noise_never_repeats_a_piece() -> None:
    draws = iter(range(256))
    noise = Noise(lambda size: bytes((next(draws),)) * size)
    assert noise.take(16_000) == bytes(16_000)
    assert noise.take(1_000) == b"\x01" * 1_000  # what was left is too short and is thrown away


# Health and choice, with time as an argument.


def test_the_timeout_follows_the_round_trips_and_doubles_with_failures() -> None:
    health = Health()
    for at in range(50):
        health.replied(0.2, float(at))
    assert health.timeout == MIN_TIMEOUT
    health.missed(60.0, 61.0)
    assert health.timeout == 2 * MIN_TIMEOUT
    for at in range(70, 100):
        health.missed(float(at), at + 0.5)
    assert health.timeout == MAX_TIMEOUT
    health.replied(0.2, 101.0)
    assert (health.failures, health.timeout) == (0, MIN_TIMEOUT)


def test_one_slow_name_is_no_failure_of_a_server_that_answers_others() -> None:
    health = Health()
    health.replied(0.01, 10.0)
    health.missed(9.5, 10.5)
    assert health.failures == 0


def test_many_questions_lost_together_count_once() -> None:
    health = Health()
    for _ in range(200):
        health.missed(1.0, 2.0)
    assert health.failures == 1


def test_an_outage_of_days_ends_with_the_first_reply() -> None:
    health = Health()
    for at in range(100_000):
        health.missed(at + 0.1, at + 0.9)
    assert health.retry_at < 100_000 + 60
    health.replied(0.1, 100_001.0)
    assert health.failures == 0


def test_a_burst_of_refusals_is_one_failure() -> None:
    health = Health()
    for at in range(1_000):
        health.missed(1 + at / 10_000, 1 + at / 10_000)
    assert health.failures == 1


def test_a_failed_server_gives_way_and_is_tried_again_with_single_questions() -> None:
    first, second = Health(), Health()
    fleet = Fleet([first, second])
    first.replied(0.01, 0.0)
    second.replied(0.03, 0.0)
    first.retry_at = second.retry_at = 5.0
    fleet.look(1.0)
    assert [fleet.take(1.0) for _ in range(3)] == [0, 0, 0]
    first.missed(1.0, 2.0)
    fleet.look(2.0)
    assert [fleet.take(2.0) for _ in range(3)] == [1, 1, 1]
    fleet.look(3.1)
    assert [fleet.take(3.1) for _ in range(3)] == [0, 1, 1]
    fleet.look(3.2)
    assert fleet.take(3.2) == 1
    fleet.look(3.1 + EXPLORE)
    assert fleet.take(3.1 + EXPLORE) == 0


def test_case_is_given_up_after_some_strikes_and_pardoned_in_an_hour() -> None:
    health = Health()
    for _ in range(CASE_STRIKES - 1):
        health.miscased(1.0)
    health.replied(0.1, 1.0)
    health.miscased(2.0)
    assert health.mixes_case
    for _ in range(CASE_STRIKES):
        health.miscased(3.0)
    health.pardon(4.0)
    given_up = health.mixes_case
    health.pardon(3.0 + CASE_PARDON)
    assert (given_up, health.mixes_case) == (False, True)


# Deadlines and the plan.


def under_way() -> Transaction:
    return Transaction(WWW, lambda answer: None, 100)


def test_the_wheel_gives_each_back_at_its_tick_and_forgets_the_answered() -> None:
    wheel = Wheel(0)
    waiting, answered, moved = under_way(), under_way(), under_way()
    for one in (waiting, answered, moved):
        wheel.add(one, 5)
    answered.off_wheel()
    moved.off_wheel()
    wheel.add(moved, 9)
    assert list(wheel.advance(4)) == []
    assert list(wheel.advance(5)) == [waiting]
    assert list(wheel.advance(9)) == [moved]


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 40)), max_size=60))
def test_the_wheel_loses_nobody_however_late_it_is_turned(steps: list[tuple[int, int]]) -> None:
    wheel, left, now = Wheel(1_000), set(), 1_000
    for ticks, passed in steps:
        one = under_way()
        wheel.add(one, ticks)
        left.add(one)
        now += passed * 20
        for due in wheel.advance(now):
            left.remove(due)
    assert set(wheel.clear()) == left
    for due in wheel.advance(now + SLOTS):
        raise AssertionError(due)


def fleet_of(count: int) -> Fleet:
    return Fleet([Health() for _ in range(count)])


def test_each_server_is_asked_once_before_any_is_asked_twice() -> None:
    setbacks, fleet, asked, step = Setbacks(), fleet_of(3), [0], Next(0)
    while (step := plan(setbacks, fleet, 3, failed=step.server, network=False)).server != NEVER:
        asked.append(step.server)
    assert sorted(asked[:3]) == sorted(asked[3:6]) == [0, 1, 2]
    assert len(asked) == 9


def test_a_kept_failure_ends_the_round() -> None:
    setbacks = Setbacks()
    setbacks.kept = Kept(b"", "a")
    assert plan(setbacks, fleet_of(2), 2, failed=0, network=False) == Next(1)
    assert plan(setbacks, fleet_of(2), 2, failed=1, network=False) == Next(NEVER)


def test_a_network_that_refuses_gets_a_pause_between_rounds() -> None:
    setbacks = Setbacks()
    assert plan(setbacks, fleet_of(2), 2, failed=0, network=True) == Next(1, 0)
    assert plan(setbacks, fleet_of(2), 2, failed=1, network=True) == Next(0, PARK)
