"""Alerts on disk: written by the hub, found by whoever asks."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from core.errors import Unavailable
from core.finding import Confidence
from detectors.alert import Alert, Shown
from journal.alerts import FILE, KEEP, MAX_WAITING, AlertBook, find

if TYPE_CHECKING:
    from pathlib import Path

NOW = 1_700_000_000.0


def alert(last: float = NOW, **changes: Any) -> Alert:
    given: dict[str, Any] = {
        "id": f"id{int(last)}", "client": "192.0.2.7", "domain": "thief.example", "detector": "leak",
        "detectors": ("leak", "young"), "confidence": Confidence.HIGH, "score": 0.9, "tool": "iodine", "queries": 40,
        "bytes_before_alert": 400, "bytes_before_block": 500, "first": last, "last": last, "count": 1, "blocks": True,
        "reason": "too many bytes", "evidence": (Shown("leak", "bytes_day", 600.0, 512.0),),
    }  # fmt: skip
    return Alert(**(given | changes))


def test_what_is_written_is_found_at_once_with_its_keys(tmp_path: Path) -> None:
    book = AlertBook(tmp_path)
    book.write([alert()])
    [row] = find(tmp_path)
    assert row == {
        "id": f"id{int(NOW)}", "client": "192.0.2.7", "domain": "thief.example", "detector": "leak",
        "detectors": ["leak", "young"], "confidence": "HIGH", "score": 0.9, "tool": "iodine", "queries": 40,
        "bytes_before_alert": 400, "bytes_before_block": 500, "first": NOW, "last": NOW, "count": 1, "blocks": True,
        "reason": "too many bytes",
        "evidence": [{"detector": "leak", "name": "bytes_day", "value": 600.0, "threshold": 512.0}],
    }  # fmt: skip
    book.close()
    assert len(list(find(tmp_path))) == 1


def test_a_newer_form_takes_the_place_of_the_older(tmp_path: Path) -> None:
    book = AlertBook(tmp_path)
    book.write([alert(count=1)])
    book.write([alert(count=2, detector="tunnel"), alert(id="other", bytes_before_block=None)])
    found = {row["id"]: (row["detector"], row["count"], row["bytes_before_block"]) for row in find(tmp_path)}
    assert found == {f"id{int(NOW)}": ("tunnel", 2, 500), "other": ("leak", 1, None)}
    book.close()


def test_times_and_order(tmp_path: Path) -> None:
    book = AlertBook(tmp_path)
    book.write([alert(NOW + at * 3_600) for at in range(5)])
    found = [row["last"] - NOW for row in find(tmp_path, since=NOW + 3_600, until=NOW + 4 * 3_600)]
    assert found == [10_800, 7_200, 3_600]
    assert len(list(find(tmp_path, limit=2))) == 2
    book.close()


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    book = AlertBook(tmp_path)
    book.write([alert(NOW - KEEP - 7_200)])
    book.write([alert(NOW)])
    assert [row["last"] for row in find(tmp_path)] == [NOW]
    book.close()


def test_a_file_of_an_older_version_holds_no_alert_and_takes_new_ones(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    with closing(sqlite3.connect(tmp_path / FILE)) as file:
        file.execute("CREATE TABLE alert (client TEXT)")
    assert list(find(tmp_path)) == []
    book = AlertBook(tmp_path)
    book.write([alert()])
    assert (book.failure, len(list(find(tmp_path)))) == ("", 1)
    book.close()


def test_no_file_is_no_alert_and_a_damaged_one_is_told(tmp_path: Path) -> None:
    assert list(find(tmp_path)) == []
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(Unavailable, match=r"alerts\.sqlite"):
        list(find(tmp_path))
    book = AlertBook(tmp_path)
    book.write([alert()])
    assert book.failure.startswith("alerts: ")


def test_alerts_wait_for_a_disk_that_refuses_and_are_counted_past_the_cap(tmp_path: Path) -> None:
    (tmp_path / "journal").write_bytes(b"in the way")
    book = AlertBook(tmp_path)
    book.write([alert()])
    assert book.failure
    assert book.lost == 0
    book.write([alert(domain=f"{at}.example", id=str(at)) for at in range(MAX_WAITING)])
    assert book.lost == 1
    (tmp_path / "journal").unlink()
    book.write(())
    assert book.failure == ""
    assert len(list(find(tmp_path, limit=-1))) == MAX_WAITING
    book.close()


def test_odd_text_is_kept(tmp_path: Path) -> None:
    book = AlertBook(tmp_path)
    book.write([alert(reason="\x1b]0;\ud800 b\u00fccher", domain="\\027.example")])
    assert book.failure == ""
    [row] = find(tmp_path)
    assert "b\u00fccher" in row["reason"]
    book.close()
