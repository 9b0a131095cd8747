"""The journal of flows: rows in, questions answered, merged, expired, and never lost without being counted."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from core.config import Config, Journal, Server
from journal import flow_rows, flows
from journal.flow_rows import Wanted
from journal.flows import FLOWS, FlowBook, Kind, Row
from journal.segments import HOUR
from journal.shelf import FAN_IN

NOW = 1_700_000_000.0  # 800 s into an hour
CLIENT, C2 = ip_address("10.20.1.2").packed, ip_address("91.66.0.80").packed
CLIENT6, C26 = ip_address("fd20:1::2").packed, ip_address("2a01:66::80").packed


def configured(folder: Path, **journal: Any) -> Config:
    return Config(server=Server(data_dir=str(folder)), journal=Journal(**journal), base=str(folder))


def row(**given: Any) -> Row:
    plain: dict[str, Any] = {
        "at": NOW, "kind": Kind.FLOW, "agent": "gate", "client": CLIENT, "address": C2, "name": "files.example",
        "connections": 1, "sent": 100, "received": 10,
    }  # fmt: skip
    return Row(**(plain | given))


@pytest.fixture
def book(tmp_path: Path) -> Iterator[FlowBook]:
    made = FlowBook(configured(tmp_path), now=NOW)
    yield made
    made.close(NOW + 10)


def given(folder: Path, *rows: Row) -> Path:
    book = FlowBook(configured(folder), now=NOW)
    book.write(rows, NOW)
    book.close(NOW)
    assert book.counters()["written"] == len(rows)
    return folder


def test_rows_come_back_by_hour_with_their_octets(tmp_path: Path) -> None:
    given(
        tmp_path, row(sent=100), row(at=NOW + 60, sent=23, received=5), row(at=NOW + HOUR, sent=7),
        row(client=CLIENT6, address=C26, sent=1 << 40, name=""),
    )  # fmt: skip
    found = flow_rows.hours(tmp_path, Wanted(), limit=10)
    plain = {"client": "10.20.1.2", "address": "91.66.0.80", "name": "files.example", "literal": False, "bypass": False}
    assert found == [
        {"hour": "2023-11-14T23:00:00Z", **plain, "sent": 7, "received": 10, "connections": 1},
        {"hour": "2023-11-14T22:00:00Z", **plain, "client": "fd20:1::2", "address": "2a01:66::80", "name": "",
         "sent": 1 << 40, "received": 10, "connections": 1},
        {"hour": "2023-11-14T22:00:00Z", **plain, "sent": 123, "received": 15, "connections": 2},
    ]  # fmt: skip


def test_the_top_is_who_sent_most_with_the_last_name_known(tmp_path: Path) -> None:
    given(
        tmp_path, row(sent=10, client=CLIENT6), row(sent=8, name="old.example"),
        row(at=NOW + 60, sent=8, name="new.example"), row(at=NOW + 120, sent=0, received=0, name="", literal=True),
    )  # fmt: skip
    first, second = flow_rows.top(tmp_path, Wanted(), limit=10)
    assert (first["client"], first["sent"], first["name"], first["literal"]) == ("10.20.1.2", 16, "new.example", True)
    assert (first["first"], first["last"]) == ("2023-11-14T22:13:20Z", "2023-11-14T22:15:20Z")
    assert (second["client"], second["sent"]) == ("fd20:1::2", 10)
    assert flow_rows.top(tmp_path, Wanted(), limit=1) == [first]


def test_attempts_are_apart_and_the_newest_first(tmp_path: Path) -> None:
    mac = bytes.fromhex("eac2748e68a5")
    given(
        tmp_path, row(),
        row(kind=Kind.BLOCK, protocol=6, port=443, mac=mac, packets=3, connections=0, sent=0, received=0),
        row(at=NOW + 1, kind=Kind.BYPASS, protocol=17, port=53, packets=2, connections=0, sent=0, received=0),
        row(at=NOW + 2, kind=Kind.PIN, address=C26),
        row(at=NOW + 3, kind=Kind.TALKING, address=C26, connections=2, sent=7_000_000_000, received=6),
    )  # fmt: skip
    talking, *found = flow_rows.attempts(tmp_path, Wanted(), limit=10)
    assert (talking["kind"], talking["sent"], talking["received"]) == ("talking", 7_000_000_000, 6)
    assert [one["kind"] for one in found] == ["pin", "bypass", "block"]
    assert found[2] == {
        "at": "2023-11-14T22:13:20Z", "kind": "block", "client": "10.20.1.2", "mac": "ea:c2:74:8e:68:a5",
        "address": "91.66.0.80", "protocol": 6, "port": 443, "name": "files.example", "packets": 3, "connections": 0,
        "sent": 0, "received": 0, "agent": "gate",
    }  # fmt: skip
    (talked,) = flow_rows.top(tmp_path, Wanted(), limit=10)
    assert (talked["sent"], talked["bypass"]) == (100, True)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(client="10.20.1.2"), {"a.example", "x.a.example", "ba.example", "y\\.a.example"}),
        (Wanted(client="fd20:1::/64"), {"c.example"}),
        (Wanted(client="10.0.0.0/8"), {"a.example", "x.a.example", "ba.example", "y\\.a.example"}),
        (Wanted(client="192.0.2.0/24"), set()),
        (Wanted(address="2a01:66::80"), {"c.example"}),
        (Wanted(domain="A.example."), {"a.example", "x.a.example"}),
        (Wanted(since=NOW + 30), {"x.a.example"}),
        (Wanted(until=NOW + 30, domain="a.example"), {"a.example"}),
        (Wanted(literal=True), {"ba.example"}),
    ],
)  # fmt: skip
def test_questions_are_narrowed(tmp_path: Path, wanted: Wanted, names: set[str]) -> None:
    given(
        tmp_path, row(name="a.example"), row(name="x.a.example", at=NOW + 60, address=CLIENT),
        row(name="ba.example", address=b"\1\2\3\4", literal=True), row(name="y\\.a.example", address=b"\1\2\3\5"),
        row(name="c.example", client=CLIENT6, address=C26),
    )  # fmt: skip
    assert {one["name"] for one in flow_rows.top(tmp_path, wanted, limit=100)} == names


def test_no_journal_is_an_empty_answer(tmp_path: Path) -> None:
    for ask in (flow_rows.hours, flow_rows.top, flow_rows.attempts):
        assert ask(tmp_path, Wanted(client="10.0.0.0/8"), limit=5) == []


def test_numbers_and_texts_of_strangers_are_kept_within_bounds(tmp_path: Path) -> None:
    given(tmp_path, row(sent=-5, received=1 << 80, agent="\udcff", connections=1 << 40))
    (found,) = flow_rows.top(tmp_path, Wanted(), limit=1)
    assert (found["sent"], found["received"], found["connections"]) == (0, (1 << 64) - 1, (1 << 32) - 1)


def test_rows_are_visible_after_a_second_and_batches_settle(book: FlowBook, tmp_path: Path) -> None:
    book.write([row()], NOW)
    book.write([], NOW)
    book.tick(NOW + 0.9)
    assert (book.settled, flow_rows.top(tmp_path, Wanted(), limit=1)) == (0, [])
    book.tick(NOW + 1.0)
    assert (book.settled, book.counters()["pending"]) == (2, 0)
    assert len(flow_rows.top(tmp_path, Wanted(), limit=1)) == 1


def test_many_rows_are_written_at_once(book: FlowBook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SEGMENT_ROWS", 10)
    for _ in range(4):
        book.write([row()] * 4, NOW)
    assert (book.counters()["written"], book.settled) == (12, 3)


def test_a_disk_that_refuses_makes_rows_wait_then_lose_the_oldest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flows, "MAX_PENDING", 10)
    (tmp_path / "journal").write_text("in the way")
    book = FlowBook(configured(tmp_path), now=NOW)
    for second in range(4):
        book.write([row(sent=second)] * 4, NOW + second)
        book.tick(NOW + second + 1)
    assert book.trouble.startswith("flows: ")
    counters = book.counters()
    assert (counters["pending"], counters["lost"], counters["written"], book.settled) == (8, 8, 0, 2)
    (tmp_path / "journal").unlink()
    book.tick(NOW + 20)
    assert (book.trouble, book.counters()["written"], book.settled) == ("", 8, 4)
    book.close(NOW + 21)
    assert flow_rows.top(tmp_path, Wanted(), limit=1)[0]["sent"] == 4 * 2 + 4 * 3


def test_segments_are_merged_and_nothing_is_lost(book: FlowBook, tmp_path: Path) -> None:
    now = NOW
    for _ in range(FAN_IN):
        now += 1
        book.write([row(sent=1)], now)
        book.tick(now + 1)
    assert book._merging._job is not None
    book._merging._job.result()
    book.tick(now)
    assert book.counters()["merges"] == 1
    assert flow_rows.top(tmp_path, Wanted(), limit=1)[0]["sent"] == FAN_IN


def test_old_rows_expire(tmp_path: Path) -> None:
    given(tmp_path, row(), row(at=NOW + 5 * 86_400))
    book = FlowBook(configured(tmp_path, keep_days=3), now=NOW)
    book.tick(NOW + 5 * 86_400)
    assert book.counters()["expired"] == 1
    book.close(NOW)
    assert [one["hour"] for one in flow_rows.hours(tmp_path, Wanted(), limit=9)] == ["2023-11-19T22:00:00Z"]


def test_too_many_megabytes_cost_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flows, "SHARE", 0.0)
    given(tmp_path, row())
    book = FlowBook(configured(tmp_path), now=NOW)
    book.tick(NOW)
    book.close(NOW)
    assert book.counters()["bytes"] == 0


def test_a_start_takes_stock_and_what_is_damaged_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given(tmp_path, row())
    given(tmp_path, row(at=NOW + 1, sent=7))
    first = min((tmp_path / FLOWS).rglob("*.parquet"))
    first.write_bytes(b"PAR1 not quite")
    (found,) = flow_rows.top(tmp_path, Wanted(), limit=5)
    assert found["sent"] == 7
    assert "cannot be read" in caplog.text
