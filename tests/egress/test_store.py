"""What an agent keeps is there after a restart, whole or not at all; a damaged file costs nothing but its rows."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from core.errors import Unavailable
from core.names import from_text
from egress.plan import Destination, Kept, Ledger, Proposal
from egress.store import Store, Unwritable

NOW = 1_790_000_000.0
EVIL = from_text("evil.example")
ADDRESS = bytes((91, 66, 0, 80))
CLIENT = bytes((10, 20, 1, 2))


def proposal(last: int, *, client: bytes = b"", ttl: float = 300.0) -> Proposal:
    return Proposal(bytes((91, 66, 0, last)), client, EVIL, "listed", ttl, "feed: sample")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    made = Store(tmp_path / "egress" / "router.sqlite")
    yield made
    made.close()


def filled(store: Store) -> Ledger:
    """A ledger with two rows and a change taken back, and a store that holds the same."""
    store.open(NOW)
    ledger = Ledger()
    for told in (proposal(1), proposal(2, client=CLIENT), proposal(3)):
        made = ledger.want([told], now=NOW)
        assert made is not None
        key = Destination(told.address, told.client), EVIL
        store.commit({key: ledger.row(*key)}, [made], {"position": b"5-1"})
    gone = ledger.take(address=proposal(3).address, now=NOW, what="release")
    assert gone is not None
    store.commit({(Destination(proposal(3).address), EVIL): None}, [gone])
    return ledger


def test_what_was_committed_is_there_again(store: Store) -> None:
    ledger = filled(store)
    store.close()
    saved, wrong = store.open(NOW)
    assert wrong == ""
    assert saved.notes == {"position": b"5-1"}
    assert sorted(saved.kept.rows, key=lambda row: row.address) == sorted(ledger, key=lambda row: row.address)
    assert saved.kept.transactions == ledger.transactions()
    again = Ledger()
    again.load(saved.kept)
    assert again.undo(4, now=NOW) is not None
    assert len(again) == 3


def test_what_has_run_out_is_remembered_as_a_repeat_until_it_is_trimmed(store: Store) -> None:
    ledger = filled(store)
    store.close()
    later = NOW + 1000.0
    saved, _ = store.open(later)
    ledger.sweep(later)
    assert saved.kept.rows == ()
    assert sorted(saved.kept.repeats) == sorted(ledger.dump().repeats)
    assert len(saved.kept.repeats) == 2
    store.trim(ended_before=later, oldest=3)
    store.close()
    saved, _ = store.open(later)
    assert saved.kept.repeats == ()
    assert [told.number for told in saved.kept.transactions] == [3, 4]


def test_the_whole_replaces_the_whole(store: Store) -> None:
    ledger = filled(store)
    ledger.sweep(NOW + 1000.0)
    ledger.want([proposal(9)], now=NOW + 1000.0)
    store.replace(ledger.dump(), {"position": b"9-0"})
    store.close()
    saved, _ = store.open(NOW + 1000.0)
    assert saved.kept == ledger.dump()
    assert saved.notes["position"] == b"9-0"


def test_a_number_is_not_given_twice_although_its_transactions_are_gone(store: Store) -> None:
    store.open(NOW)
    store.replace(Kept(number=41), {})
    store.close()
    assert store.open(NOW)[0].kept.number == 41


@pytest.mark.parametrize("damage", ["text", "middle", "shape", "types"])
def test_a_damaged_file_is_moved_aside_and_said(store: Store, damage: str) -> None:
    filled(store)
    store.close()
    if damage == "text":
        store.path.write_bytes(b"no database at all " * 100)
    elif damage == "middle":
        octets = bytearray(store.path.read_bytes())
        octets[4096:] = b"\xa5" * (len(octets) - 4096)
        store.path.write_bytes(octets)
    else:
        with sqlite3.connect(store.path) as db:
            db.execute("PRAGMA user_version = 99" if damage == "shape" else "UPDATE rows SET address = x'0102'")
        db.close()
    before = store.path.read_bytes()
    saved, wrong = store.open(NOW)
    assert str(store.path) in wrong
    assert saved.kept == Kept()
    assert store.path.with_name("router.sqlite.damaged-1").read_bytes() == before
    store.commit({}, (), {"position": b"1-1"})
    store.close()
    assert store.open(NOW)[0].notes == {"position": b"1-1"}


def test_files_moved_aside_do_not_pile_up(store: Store) -> None:
    for _ in range(12):
        store.path.parent.mkdir(exist_ok=True)
        store.path.write_bytes(b"no database at all " * 100)
        store.open(NOW)
        store.close()
    assert len(list(store.path.parent.glob("*.damaged-*"))) == 8


def test_one_process_at_a_time_has_the_file(store: Store) -> None:
    store.open(NOW)
    second = Store(store.path)
    with pytest.raises(Unavailable, match="another agent runs"):
        second.open(NOW)
    store.close()
    second.open(NOW)
    second.close()


def test_a_write_that_fails_leaves_nothing_half_done(store: Store) -> None:
    filled(store)
    store.close()
    store.open(NOW)
    assert store._db is not None
    store._db.execute("PRAGMA query_only = ON")  # as a disk that takes nothing
    key = Destination(ADDRESS), EVIL
    with pytest.raises(Unwritable, match=r"router\.sqlite"):
        store.commit({key: None}, (), {"position": b"7-7"})
    store._db.execute("PRAGMA query_only = OFF")
    store.close()
    saved, _ = store.open(NOW)
    assert saved.notes == {"position": b"5-1"}
    assert len(saved.kept.rows) == 2


def test_a_folder_that_can_not_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "egress").write_text("a file where the folder belongs")
    store = Store(tmp_path / "egress" / "router.sqlite")
    with pytest.raises(Unwritable):
        store.open(NOW)
    assert not store.is_open
    with pytest.raises(Unwritable):
        store.commit({}, (), {})
