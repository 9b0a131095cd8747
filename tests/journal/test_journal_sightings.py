"""Sightings against a real SQLite file: upserts, bounds, migration, damage."""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from core import names
from core.errors import Unavailable
from core.event import Event
from core.verdict import Action, Cause, Reason, Trigger
from journal.sightings import FILE, PER_SECOND, Sightings, find, is_sighting, mark, open_file

NOW = 1_790_000_400.0
CLIENT = bytes((10, 0, 0, 1))


def blocked(qname: str = "www.bad.example", *, at: float = NOW, **changes: Any) -> Event:
    reason = Reason(Cause.INTEL, Action.SINKHOLE, "feed-a", "bad.example", "malware", 80, "seen in a report")
    other = Reason(Cause.INTEL, Action.SINKHOLE, "feed-b", "www.bad.example")
    fields: dict[str, Any] = {"action": Action.SINKHOLE, "cause": Cause.INTEL, "reasons": (reason, other), **changes}
    return Event(at, fields.pop("client", CLIENT), names.from_text(qname), 1, 0, **fields)


def sightings(tmp_path: Path) -> Sightings:
    return Sightings(tmp_path / FILE)


def test_equal_sightings_become_one_line_with_first_last_and_count(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked("a.bad.example", at=NOW + 5, count=2), blocked("b.bad.example", at=NOW + 1)], NOW)
    store.flush(NOW)
    store.add([blocked("c.bad.example", at=NOW + 9, trigger=Trigger.CNAME, member="cdn.example")], NOW + 9)
    store.close(NOW + 9)
    (row,) = find(tmp_path)
    assert (row["first"], row["last"], row["count"]) == (NOW + 1, NOW + 9, 4)
    assert (row["client"], row["indicator"], row["apex"]) == ("10.0.0.1", "bad.example", "bad.example")
    assert (row["action"], row["cause"], row["trigger"], row["member"]) == (
        "SINKHOLE",
        "intel",
        "cname",
        "cdn.example",
    )
    assert row["sample"] == "c.bad.example"
    assert [reason["source"] for reason in row["reasons"]] == ["feed-a", "feed-b"]
    assert row["reasons"][0]["text"] == "seen in a report"


def test_what_differs_in_client_apex_action_cause_or_hour_is_another_line(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add(
        [
            blocked(),
            blocked(client=bytes(16)),
            blocked("other.example"),
            blocked(action=Action.ALERT),
            blocked(cause=Cause.DETECTOR),
            blocked(at=NOW + 3_600),
        ],
        NOW,
    )
    store.close(NOW)
    assert len(list(find(tmp_path))) == 6


def test_a_label_survives_later_sightings(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.flush(NOW)
    (row,) = find(tmp_path)
    assert mark(tmp_path, row["id"], label="false-positive", note="our CDN", by="ana", now=NOW + 1)
    store.add([blocked(at=NOW + 2)], NOW + 2)
    store.close(NOW + 2)
    (row,) = find(tmp_path)
    assert (row["label"], row["note"], row["acknowledged_by"], row["acknowledged_at"]) == (
        "false-positive",
        "our CDN",
        "ana",
        NOW + 1,
    )
    assert row["count"] == 2
    assert not mark(tmp_path, 999, label="", note="", by="ana", now=NOW)
    with pytest.raises(ValueError, match="label"):
        mark(tmp_path, row["id"], label="maybe", note="", by="ana", now=NOW)


def test_what_counts_as_a_sighting() -> None:
    overridden = blocked(action=Action.PASSTHRU, cause=Cause.OVERRIDE)
    allowed = blocked(action=Action.PASSTHRU, reasons=(Reason(Cause.INTEL, Action.PASSTHRU, "popular", "x.example"),))
    assert is_sighting(blocked())
    assert is_sighting(overridden)
    assert not is_sighting(allowed)
    assert not is_sighting(blocked(action=Action.NONE, cause=Cause.NONE))
    assert not is_sighting(blocked(action=Action.NXDOMAIN, cause=Cause.LOCAL))


def test_a_flood_of_new_lines_is_counted_and_known_ones_still_add_up(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.add([blocked(client=number.to_bytes(4), count=3) for number in range(1, PER_SECOND + 10)], NOW)
    store.add([blocked(count=7)], NOW)
    assert store.not_itemised == 10 * 3
    store.add([blocked(client=bytes(4))], NOW + 1)
    store.close(NOW + 1)
    rows = list(find(tmp_path))
    assert len(rows) == PER_SECOND + 1
    assert max(row["count"] for row in rows) == 8


def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / FILE
    path.parent.mkdir()
    path.write_bytes(b"this was a database once " * 400)
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    with caplog.at_level(logging.WARNING):
        store.close(NOW)
    assert len(caplog.records) == 1
    assert "is damaged" in caplog.text
    assert len(list(find(tmp_path))) == 1
    assert path.with_name(f"sightings.sqlite.corrupt-{int(NOW)}").exists()


def test_a_file_damaged_while_it_is_open_is_replaced_too(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked(client=number.to_bytes(4)) for number in range(150)], NOW)
    store.close(NOW)
    path = tmp_path / FILE
    healthy = path.read_bytes()
    path.write_bytes(healthy[:4_096] + b"\xff" * (len(healthy) - 4_096))
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.close(NOW)
    assert len(list(find(tmp_path))) == 1


def test_an_empty_file_of_no_version_is_migrated(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.parent.mkdir()
    sqlite3.connect(path).close()
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.close(NOW)
    assert len(list(find(tmp_path))) == 1


def test_a_file_of_a_later_version_is_refused_and_left_alone(tmp_path: Path) -> None:
    open_file(tmp_path / FILE).close()
    file = sqlite3.connect(tmp_path / FILE)
    file.execute("PRAGMA user_version = 99")
    file.close()
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.flush(NOW)
    assert "version 99" in store.failure
    assert store.waiting == 1
    with pytest.raises(Unavailable, match="version 99"):
        open_file(tmp_path / FILE)


def test_a_locked_file_keeps_the_lines_waiting(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.flush(NOW)
    other = sqlite3.connect(tmp_path / FILE)
    other.execute("BEGIN IMMEDIATE")
    store.add([blocked()], NOW)
    store.flush(NOW)
    assert "locked" in store.failure
    other.rollback()
    other.close()
    store.close(NOW)
    assert store.failure == ""
    assert [row["count"] for row in find(tmp_path)] == [2]


def test_a_folder_that_cannot_be_made_is_no_error_for_the_hub(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("a file where the folder belongs")
    store = sightings(tmp_path)
    store.add([blocked()], NOW)
    store.flush(NOW)
    assert store.failure
    assert store.waiting == 1


def test_retention_deletes_by_last_seen(tmp_path: Path) -> None:
    store = sightings(tmp_path)
    store.add([blocked(at=NOW - 10 * 86_400), blocked()], NOW)
    store.flush(NOW)
    store.expire(NOW, keep_days=9)
    store.close(NOW)
    assert [row["last"] for row in find(tmp_path)] == [NOW]


def test_no_file_is_an_empty_answer(tmp_path: Path) -> None:
    assert list(find(tmp_path)) == []
    assert not mark(tmp_path, 1, label="", note="", by="", now=NOW)


def test_hostile_names_and_texts_are_kept_as_text(tmp_path: Path) -> None:
    nasty = Reason(
        Cause.INTEL, Action.SINKHOLE, "=cmd|'/c calc'!A1", "a\x00b\n\u202e", text="'; DROP TABLE sighting; --"
    )
    qname = names.from_labels((b"\x00\xff\n.", b"bad", b"example"))
    event = Event(NOW, CLIENT, qname, 1, 0, Action.SINKHOLE, Cause.INTEL, reasons=(nasty,))
    store = sightings(tmp_path)
    store.add([event], NOW)
    store.close(NOW)
    (row,) = find(tmp_path)
    assert row["sample"] == names.to_text(qname)
    assert row["reasons"][0]["text"] == nasty.text
