"""`plughole log` and `plughole top` on a journal written by the hub's own code."""

from __future__ import annotations

import csv
import io
import json
import signal
import time
from typing import Any

import pytest
from place import Place, documented

from console.log import COLUMNS, RANKINGS
from core import names
from core.event import Event, Transport
from core.verdict import Action, Cause, Reason, Trigger

TOP_KEYS = {
    "clients": {"client", "queries", "blocked", "uncached"},
    "domains": {"domain", "queries", "blocked", "clients", "names"},
    "causes": {"action", "cause", "source", "queries", "clients"},
    "leaks": {"client", "domain", "bytes", "names", "queries"},
}
REASON = Reason(Cause.INTEL, Action.SINKHOLE, "sample", "evil.example", "malware", 80)
NASTY = "\x1b]0;owned\x07\n=HYPERLINK(\u202e)"


def event(name: str | bytes = "www.example.com", ago: float = 60.0, **changes: Any) -> Event:
    qname = names.from_text(name) if isinstance(name, str) else names.from_labels((name, b"example"))
    client = changes.pop("client", bytes((192, 0, 2, 7)))
    return Event(time.time() - ago, client, qname, changes.pop("qtype", 1), changes.pop("rcode", 0), **changes)


def blocked(name: str | bytes = "c2.evil.example", ago: float = 60.0, **changes: Any) -> Event:
    known = {"action": Action.SINKHOLE, "cause": Cause.INTEL, "reasons": (REASON,), "answers": (bytes((192, 0, 2, 1)),)}
    return event(name, ago, **(known | changes))


def rows(place: Place, *args: str) -> list[dict[str, Any]]:
    result = place.run("log", *args, "--json")
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_rows_have_the_documented_keys_oldest_first(place: Place) -> None:
    place.give_log(event("new.example", 10), blocked(ago=20), event("old.example", 30, transport=Transport.TCP))
    found = rows(place)
    assert [row["qname"] for row in found] == ["old.example", "c2.evil.example", "new.example"]
    assert all(tuple(row) == COLUMNS for row in found)
    assert found[1]["reasons"] == [
        {"source": "sample", "indicator": "evil.example", "category": "malware", "confidence": 80, "action": "SINKHOLE",
         "cause": "intel", "text": ""},
    ]  # fmt: skip
    assert (found[1]["action"], found[1]["cause"], found[1]["answers"]) == ("SINKHOLE", "intel", ["192.0.2.1"])
    assert found[0]["transport"] == "tcp"


@pytest.mark.parametrize(
    ("args", "found"),
    [
        (["--since", "45s"], ["b.example.com"]),
        (["--until", "45s"], ["a.example.com", "c2.evil.example", "x.example.org"]),
        (["--client", "192.0.2.9"], ["x.example.org"]),
        (["--client", "2001:db8::/32"], ["b.example.com"]),
        (["--domain", "EXAMPLE.com."], ["a.example.com", "b.example.com"]),
        (["--action", "BLOCKED"], ["c2.evil.example"]),
        (["--action", "sinkhole"], ["c2.evil.example"]),
        (["--cause", "intel"], ["c2.evil.example"]),
        (["--cause", "override"], []),
        (["--since", "2001-01-01", "--until", "2001-01-02T00:00:00+01:00"], []),
    ],
)
def test_filters(place: Place, args: list[str], found: list[str]) -> None:
    place.give_log(
        event("a.example.com", 120), blocked(ago=100), event("x.example.org", 90, client=bytes((192, 0, 2, 9))),
        event("b.example.com", 5, client=bytes.fromhex("20010db8" + "0" * 23 + "7")),
    )  # fmt: skip
    assert [row["qname"] for row in rows(place, *args)] == found


def test_the_newest_rows_are_shown_and_the_rest_is_mentioned(place: Place) -> None:
    place.give_log(*(event(f"n{number}.example", 60 - number) for number in range(9)))
    result = place.run("log", "--limit", "3", "--json")
    assert [json.loads(line)["qname"] for line in result.stdout.splitlines()] == [
        "n6.example",
        "n7.example",
        "n8.example",
    ]
    assert "only the newest 3 rows" in result.stderr
    assert place.run("log", "--limit", "9").stderr == ""


def test_a_day_is_shown_by_default(place: Place) -> None:
    place.give_log(event("yesterday.example", 90_000), event("today.example", 80_000))
    assert [row["qname"] for row in rows(place)] == ["today.example"]
    assert len(rows(place, "--since", "2d")) == 2


def test_no_journal_is_no_rows(place: Place) -> None:
    assert rows(place) == []
    assert place.run("log", "--csv").stdout.splitlines() == [",".join(COLUMNS)]
    result = place.run("top", "clients")
    assert (result.exit_code, result.stdout) == (0, "")
    assert json.loads(place.run("top", "clients", "--json").stdout) == []


def test_a_line_says_who_what_and_why(place: Place) -> None:
    place.give_log(
        blocked(count=3, member="cdn.evil.example", trigger=Trigger.CNAME),
        event("gone.example", 30, rcode=3),
        event(ago=5),
    )
    first, second, third = place.run("log").stdout.splitlines()
    assert "192.0.2.7" in first
    assert first.endswith(
        "A      c2.evil.example x3  SINKHOLE (in the answer: cdn.evil.example)  sample evil.example (malware, 80)"
    )
    assert second.endswith("gone.example  NXDOMAIN")
    assert third.endswith("www.example.com  ok")


HOSTILE = (
    b"\x1b[2j", b"=cmd|' /c calc'!a0", b"+1", b"-1", b"@sum(1)", b"a\nb", b"a,b", b'a"b', b"\xff\xfe", b"\t=1", b"\x00",
    b"\x9b31m",
)  # fmt: skip


@pytest.fixture
def hostile(place: Place) -> Place:
    reason = Reason(Cause.INTEL, Action.SINKHOLE, NASTY, "=1+1", NASTY, 80, NASTY)
    changes = {"reasons": (reason,), "member": NASTY, "upstream": "@evil", "view": "-1"}
    place.give_log(*(blocked(label, 60 - at, **changes) for at, label in enumerate(HOSTILE)))
    return place


def test_hostile_names_are_one_printable_line_each_on_a_terminal(hostile: Place) -> None:
    lines = hostile.run("log").stdout.split("\n")[:-1]
    assert len(lines) == len(HOSTILE)
    assert all(line.isprintable() for line in lines)


def test_hostile_names_are_one_ascii_object_each_in_json(hostile: Place) -> None:
    lines = hostile.run("log", "--json").stdout.split("\n")[:-1]
    assert len(lines) == len(HOSTILE)
    assert all(line.isascii() and line.isprintable() for line in lines)
    wanted = [names.to_text(names.from_labels((label, b"example"))) for label in HOSTILE]
    assert [json.loads(line)["qname"] for line in lines] == wanted
    assert json.loads(lines[0])["reasons"][0]["text"] == NASTY


def test_hostile_names_are_no_formula_in_csv(hostile: Place) -> None:
    text = hostile.run("log", "--csv").stdout
    assert all(line.isprintable() for line in text.split("\n"))
    header, *found = csv.reader(io.StringIO(text))
    assert tuple(header) == COLUMNS
    assert len(found) == len(HOSTILE)
    for row in found:
        assert len(row) == len(COLUMNS)
        assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t"))]
    cells = [row[COLUMNS.index("qname")] for row in found]
    assert "'=cmd|'\\032/c\\032calc'!a0.example" in cells
    assert "'-1.example" in cells


def test_hostile_words_in_top(hostile: Place) -> None:
    for what in TOP_KEYS:
        result = hostile.run("top", what)
        assert result.exit_code == 0
        assert all(line.isprintable() for line in result.stdout.split("\n"))


@pytest.mark.parametrize("what", sorted(TOP_KEYS))
def test_top_has_the_documented_keys(place: Place, what: str) -> None:
    place.give_log(event(count=5), blocked(), event("secret.data.example.com", client=bytes((192, 0, 2, 9))))
    found = json.loads(place.run("top", what, "--json").stdout)
    assert found
    assert all(set(row) == TOP_KEYS[what] for row in found)
    head, first, *_ = place.run("top", what).stdout.splitlines()
    assert set(head.split()) == TOP_KEYS[what]
    assert first
    assert len(json.loads(place.run("top", what, "--json", "--limit", "1").stdout)) == 1


def test_following_shows_rows_as_they_come_and_stops_at_the_limit(place: Place) -> None:
    place.give_log(event("a.example", 20), event("b.example", 10))
    result = place.run("log", "--follow", "--since", "1h", "--limit", "2", "--json")
    assert result.exit_code == 0
    assert {json.loads(line)["qname"] for line in result.stdout.splitlines()} == {"a.example", "b.example"}


def test_following_ends_with_ctrl_c(place: Place) -> None:
    place.give_log(event("a.example", 20))
    with place.popen("log", "--follow", "--since", "1h") as process:
        assert "a.example" in process.stdout.readline()  # type: ignore[union-attr]
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert process.stderr.read() == ""  # type: ignore[union-attr]


def test_a_reader_that_saw_enough_is_no_failure(place: Place) -> None:
    place.give_log(*(event(f"n{number}.example", 600 - number / 10) for number in range(5_000)))
    with place.popen("log", "--limit", "5000", "--json") as process:
        process.stdout.readline()  # type: ignore[union-attr]
        process.stdout.close()  # type: ignore[union-attr]
        assert process.wait(60) == 0
        assert process.stderr.read() == ""  # type: ignore[union-attr]


def test_the_manual_has_the_keys() -> None:
    assert documented("plughole log") >= set(COLUMNS)
    assert documented("plughole top") >= set(RANKINGS)
