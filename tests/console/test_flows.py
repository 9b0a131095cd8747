"""`plughole flows` on a journal written by the hub's own code."""

from __future__ import annotations

import json
import time
from ipaddress import ip_address
from typing import Any

import pytest
from place import Place, documented

from journal.flows import FlowBook, Kind, Row

CLIENT, C2 = ip_address("10.20.1.2").packed, ip_address("91.66.0.80").packed


def give(place: Place, *rows: Row) -> None:
    book = FlowBook(place.config, now=time.time())
    book.write(rows, time.time())
    book.close(time.time())
    assert book.trouble == ""


def row(**given: Any) -> Row:
    plain: dict[str, Any] = {
        "at": time.time() - 60, "kind": Kind.FLOW, "agent": "gate", "client": CLIENT, "address": C2,
        "name": "files.example", "connections": 1, "sent": 1_234_567, "received": 10,
    }  # fmt: skip
    return Row(**(plain | given))


def tried(**given: Any) -> Row:
    return row(kind=Kind.BLOCK, protocol=6, port=443, mac=b"\xea\xc2\x74\x8e\x68\xa5", packets=3, sent=0, **given)


def rows(place: Place, *args: str) -> list[dict[str, Any]]:
    result = place.run("flows", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("args", [[], ["--top"], ["--attempts"]])
def test_objects_have_the_documented_keys(place: Place, args: list[str]) -> None:
    give(place, row(), tried())
    [found] = rows(place, *args)
    assert documented("plughole flows") >= set(found)
    assert (found["client"], found["address"], found["name"]) == ("10.20.1.2", "91.66.0.80", "files.example")


def test_people_see_who_sent_how_much_to_whom(place: Place) -> None:
    give(place, row(), row(address=b"\x08\x08\x08\x08", name="", literal=True, kind=Kind.BYPASS, sent=5))
    result = place.run("flows")
    assert (result.exit_code, result.stderr) == (0, "")
    head, first, second = result.stdout.splitlines()
    assert head.split() == ["hour", "client", "address", "name", "sent", "received", "connections", "marks"]
    assert first.split()[1:5] == ["10.20.1.2", "91.66.0.80", "files.example", "1,234,567"]
    assert second.endswith("literal bypass")


def test_people_see_what_was_tried(place: Place) -> None:
    give(place, row(), tried(name="evil.example"))
    result = place.run("flows", "--attempts")
    assert "443/tcp" in result.stdout
    assert "ea:c2:74:8e:68:a5" in result.stdout
    assert len(result.stdout.splitlines()) == 2


def test_people_see_who_was_talking_when_it_was_blocked(place: Place) -> None:
    give(place, row(kind=Kind.TALKING))
    head, line = place.run("flows", "--attempts").stdout.splitlines()
    assert head.split()[-3:] == ["sent", "received", "agent"]
    assert line.split()[1:3] == ["talking", "10.20.1.2"]
    assert line.split()[-3:] == ["1,234,567", "10", "gate"]
    assert rows(place) == []


def test_narrowed_and_limited(place: Place) -> None:
    give(place, row(), row(client=ip_address("10.20.1.3").packed, sent=9))
    assert [one["sent"] for one in rows(place, "--client", "10.20.1.3")] == [9]
    assert rows(place, "--domain", "other.example") == []
    result = place.run("flows", "--top", "--limit", "1")
    assert "only the first 1 lines" in result.stderr
    assert "10.20.1.2" in result.stdout
    assert "10.20.1.3" not in result.stdout


def test_nothing_seen_is_said(place: Place) -> None:
    result = place.run("flows")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "nothing was seen" in result.stderr


def test_top_and_attempts_exclude_each_other(place: Place) -> None:
    assert place.run("flows", "--top", "--attempts").exit_code == 2


def test_what_strangers_call_themselves_harms_no_terminal(place: Place) -> None:
    give(place, tried(name="evil.example", agent="\x1b[31mred"))
    assert "\x1b" not in place.run("flows", "--attempts").stdout
