"""Accounts of questions and payload: what counts, for whom, for how long, and what is kept."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from core import names
from detectors import accounts
from detectors.accounts import MONTH, PLACES, Accounts, Asked, Key
from detectors.carried import payload_bits
from detectors.sight import Sight, domain_of

NOW = 1_700_000_000.0
CLIENT, OTHER = (ip_address(text).packed for text in ("192.0.2.7", "2001:db8::7"))
BAD = names.from_text("evil.example")
PAIR = (CLIENT, BAD)


def sight(name: str, at: float = NOW, client: bytes = CLIENT, **changes: Any) -> Sight:
    qname = names.from_text(name)
    return Sight(at, client, qname, 1, domain_of(qname), **changes)


def noted(*sights: Sight, blocked: bool = False) -> Accounts:
    made = Accounts()
    for one in sights:
        made.note(one, blocked=blocked)
    return made


def test_questions_count_always_payload_once_a_name_and_client_that_left() -> None:
    name = "deadbeef.evil.example"
    made = noted(sight(name), sight(name, NOW + 1, count=3), sight("cafe.evil.example", NOW + 2, cached=True))
    account = made.hold(PAIR, NOW + 3)
    assert (account.queries, account.first, account.last) == (5, NOW, NOW + 2)
    assert account.bits == payload_bits(names.from_text(name), BAD) == 32.0
    made.note(sight("cafe.evil.example", NOW + 3), blocked=False)
    assert account.bits == 48.0


def test_nothing_is_carried_by_what_was_blocked_and_the_first_block_is_kept() -> None:
    made = noted(sight("deadbeef.evil.example"))
    account = made.hold(PAIR, NOW)
    assert account.blocked_at == 0.0
    made.note(sight("cafe.evil.example", NOW + 5), blocked=True)
    made.note(sight("f00d.evil.example", NOW + 6), blocked=False)
    made.note(sight("1234.evil.example", NOW + 7), blocked=True)
    assert (account.blocked_at, account.blocked_bits, account.bits) == (NOW + 5, 32.0, 48.0)
    assert account.queries == 4


def test_a_client_and_a_domain_have_accounts_of_their_own() -> None:
    made = noted(
        sight("cafe.evil.example"), sight("cafe.fine.example", NOW + 1), sight("cafe.evil.example", NOW + 2, OTHER)
    )
    assert made.hold(PAIR, NOW).queries == 1
    assert [(made.hold(key, NOW).queries, made.hold(key, NOW).bits) for key in ((CLIENT, None), (None, BAD))] == [
        (2, 32.0), (2, 32.0),
    ]  # fmt: skip
    assert made.hold((None, None), NOW).queries == 0


def test_a_domain_is_counted_on_from_when_it_is_wanted() -> None:
    made = noted(sight("cafe.evil.example"), sight("f00d.evil.example", NOW + 1, OTHER))
    account = made.hold((None, BAD), NOW + 2)
    made.note(sight("beef.evil.example", NOW + 3), blocked=False)
    made.note(sight("beef.evil.example", NOW + 4, b"\x0a\x00\x00\x01"), blocked=False)
    made.note(sight("beef.fine.example", NOW + 5), blocked=False)
    assert (account.queries, account.bits, account.first) == (4, 64.0, NOW)
    made.release((None, BAD))
    made.note(sight("f00d.evil.example", NOW + 6), blocked=False)
    again = made.hold((None, BAD), NOW + 7)
    assert (again.queries, again.bits) == (5, 80.0)
    assert again is not account


def test_an_account_begins_again_after_a_month_unless_it_is_held() -> None:
    held, free = noted(sight("cafe.evil.example")), noted(sight("cafe.evil.example"))
    held.hold(PAIR, NOW)
    for made in (held, free):
        made.note(sight("f00d.evil.example", NOW + MONTH + 1), blocked=False)
    assert [made.hold(PAIR, NOW).queries for made in (held, free)] == [2, 1]
    held.release(PAIR)
    held.note(sight("beef.evil.example", NOW + MONTH + 2), blocked=False)
    assert held.hold(PAIR, NOW).queries == 1


def test_caps_hold_and_what_is_held_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "MAX_ACCOUNTS", 10)
    made = noted(sight("cafe.evil.example"))
    kept = made.hold(PAIR, NOW)
    for number in range(50):
        made.note(sight(f"www.n{number}.example", NOW + number), blocked=False)
    assert len(made) <= 10
    assert made.dropped >= 40
    made.note(sight("f00d.evil.example", NOW + 60), blocked=False)
    assert kept.queries == 2
    assert made.hold((CLIENT, names.from_text("n1.example")), NOW).queries == 0


def test_a_name_counts_once_a_client_while_it_is_remembered() -> None:
    made = noted(*[sight("cafe.evil.example", NOW + at) for at in range(3)], sight("cafe.evil.example", client=OTHER))
    once = payload_bits(names.from_text("cafe.evil.example"), BAD)
    assert made.hold(PAIR, NOW).bits == pytest.approx(once)
    assert made.hold((OTHER, BAD), NOW).bits == pytest.approx(once)


def test_of_many_names_nearly_all_are_remembered_and_strangers_are_never_taken_for_them() -> None:
    made = Asked()
    asked = [b"%06d" % number for number in range(PLACES // 8)]
    assert all(made.note(CLIENT, name) for name in asked)
    again = sum(made.note(CLIENT, name) for name in asked)
    assert again < len(asked) * 0.04  # those whose pair of places two others took
    assert all(made.note(OTHER, name) for name in asked)


def test_accounts_are_kept_over_a_restart() -> None:
    before = noted(
        sight("cafe.evil.example"), sight("f00d.evil.example", NOW + 1, OTHER), sight("www.fine.example", NOW + 2)
    )
    before.hold(PAIR, NOW)
    before.note(sight("beef.evil.example", NOW + 3), blocked=True)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(before.dump()))
    after = Accounts()
    after.load(state)
    keys: tuple[Key, ...] = (PAIR, (OTHER, BAD), (CLIENT, None), (None, BAD))
    for key in keys:
        told = [
            [getattr(made.hold(key, NOW), field) for field in ("first", "queries", "bits", "blocked_at")]
            for made in (before, after)
        ]
        assert told[0] == told[1]
        assert told[0][1] > 0
    for made in (before, after):
        made.note(sight("a1a1.evil.example", NOW + 4), blocked=False)
    assert after.hold((CLIENT, None), NOW).queries == before.hold((CLIENT, None), NOW).queries == 4


@pytest.mark.parametrize("damaged", [None, 5, [1], [[b"a"]], [["a", "b", 1, 1, 1, 1, 1, 1]]])
def test_a_damaged_state_is_refused(damaged: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        Accounts().load(damaged)
