"""`plughole alerts` on a file written by the hub's own code."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from place import Place, documented

from console.alerts import KEYS
from core.finding import Confidence
from detectors.alert import Alert, Shown
from journal.alerts import FILE, AlertBook


def give(place: Place, *alerts: Alert) -> None:
    book = AlertBook(place.config.data_dir)
    book.write(alerts)
    assert book.failure == ""
    book.close()


def alert(domain: str = "thief.example", ago: float = 60.0, **changes: Any) -> Alert:
    at = time.time() - ago
    given: dict[str, Any] = {
        "id": domain, "client": "192.0.2.7", "detector": "leak", "detectors": ("leak",), "confidence": Confidence.HIGH,
        "score": 0.9, "tool": "", "queries": 40, "bytes_before_alert": 400, "bytes_before_block": None, "first": at - 1,
        "last": at, "count": 1, "blocks": False, "reason": "too many bytes",
        "evidence": (Shown("leak", "bytes_day", 600.0, 512.0),),
    }  # fmt: skip
    return Alert(domain=domain, **(given | changes))


def rows(place: Place, *args: str) -> list[dict[str, Any]]:
    result = place.run("alerts", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_an_object_has_the_documented_keys(place: Place) -> None:
    give(place, alert(count=3, blocks=True))
    [row] = rows(place)
    assert tuple(row) == KEYS
    assert documented("plughole alerts") >= set(KEYS)
    assert (row["confidence"], row["count"], row["blocks"]) == ("HIGH", 3, True)
    assert (row["queries"], row["bytes_before_alert"], row["bytes_before_block"]) == (40, 400, None)
    assert row["evidence"] == [{"detector": "leak", "name": "bytes_day", "value": 600.0, "threshold": 512.0}]
    assert row["last"].endswith("Z")


@pytest.mark.parametrize(
    ("args", "found"),
    [
        ([], ["new.example", "a.dga.example", "old.example"]),
        (["--since", "45s"], ["new.example"]),
        (["--until", "45s"], ["a.dga.example", "old.example"]),
        (["--client", "192.0.2.9"], ["old.example"]),
        (["--domain", "DGA.example."], ["a.dga.example"]),
        (["--domain", "ga.example"], []),
        (["--detector", "dga"], ["a.dga.example"]),
        (["--detector", "young"], ["a.dga.example"]),
        (["--detector", "leak"], ["new.example", "old.example"]),
        (["--confidence", "MEDIUM"], ["new.example", "a.dga.example"]),
        (["--confidence", "high"], ["new.example"]),
        (["--since", "3d"], ["new.example", "a.dga.example", "old.example", "yesterday.example"]),
    ],
)
def test_filters_and_order(place: Place, args: list[str], found: list[str]) -> None:
    give(
        place,
        alert("new.example", 10),
        alert(
            "a.dga.example", 60, detector="dga-group", detectors=("dga-group", "young"), confidence=Confidence.MEDIUM
        ),
        alert("old.example", 90, client="192.0.2.9", confidence=Confidence.LOW),
        alert("yesterday.example", 90_000, confidence=Confidence.LOW),
    )
    assert [row["domain"] for row in rows(place, *args)] == found


def test_a_person_gets_a_line_each_without_escapes_of_strangers(place: Place) -> None:
    give(place, alert(reason="\x1b]0;owned\x07 many bytes"), alert("\\027x.example"))
    lines = place.run("alerts").stdout.split("\n")[:-1]
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    assert "many bytes" in lines[1] + lines[2]


def test_the_newest_are_shown_and_the_rest_is_mentioned(place: Place) -> None:
    give(place, *(alert(f"n{at}.example", 60 + at) for at in range(5)))
    result = place.run("alerts", "--limit", "2", "--json")
    assert [json.loads(line)["domain"] for line in result.stdout.splitlines()] == ["n0.example", "n1.example"]
    assert "only the newest 2 alerts" in result.stderr


def test_none_is_a_note_and_no_row(place: Place) -> None:
    result = place.run("alerts")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no alerts" in result.stderr
    assert rows_of_json(place) == ""


def rows_of_json(place: Place) -> str:
    return place.run("alerts", "--json").stdout


def test_a_detector_there_is_none_of_is_bad_usage(place: Place) -> None:
    result = place.run("alerts", "--detector", "leek")
    assert result.exit_code == 2
    assert "leak" in result.stderr


def test_a_damaged_file_is_one_line(place: Place) -> None:
    path = place.config.data_dir / FILE
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database" * 100)
    result = place.run("alerts")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "alerts.sqlite" in result.stderr
