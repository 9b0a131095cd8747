"""`plughole explain`: the verdict of the node's own policy, offline, with every reason."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from place import Place, documented

from core import names
from core.verdict import Action
from feeds.overlay import Override
from resolver.policy import address_key

KEYS = {"name", "type", "client", "view", "action", "cause", "would", "reasons", "generation"}
REASON_KEYS = {"source", "indicator", "category", "confidence", "action", "cause", "text"}


def explained(place: Place, *args: str) -> dict[str, Any]:
    result = place.run("explain", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    found = json.loads(result.stdout)
    assert set(found) == KEYS
    assert all(set(reason) == REASON_KEYS for reason in found["reasons"])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize(
    ("name", "qtype", "action", "would", "sources"),
    [
        ("c2.evil.example", "A", "SINKHOLE", "sinkhole 192.0.2.1", ["sample"]),
        ("a.b.C2.evil.EXAMPLE.", "AAAA", "SINKHOLE", "sinkhole 2001:db8::1", ["sample"]),
        ("c2.evil.example", "HTTPS", "SINKHOLE", "nodata", ["sample"]),
        ("evil.example", "A", "NONE", "resolve", []),
        ("notc2.evil.example", "A", "NONE", "resolve", []),
        ("both.example", "A", "SINKHOLE", "sinkhole 192.0.2.1", ["sample", "second"]),
        ("fine.example", "A", "PASSTHRU", "resolve", ["ours", "sample"]),
        ("watched.example", "TYPE65280", "ALERT", "resolve", ["second"]),
        (".", "A", "NONE", "resolve", []),
    ],
)
def test_the_deciding_reason_is_first_and_all_are_there(
    place: Place, name: str, qtype: str, action: str, would: str, sources: list[str]
) -> None:
    place.give_intel()
    found = explained(place, name, "--type", qtype)
    assert (found["action"], found["would"], found["type"]) == (action, would, qtype)
    assert [reason["source"] for reason in found["reasons"]] == sources
    assert (found["generation"], found["view"], found["client"]) == (7, "default", None)
    assert found["cause"] == ("intel" if sources else "none")


def test_an_override_of_one_client_is_for_that_client_until_it_ends(place: Place) -> None:
    name, now = names.from_text("c2.evil.example"), time.time()
    place.give_intel(Override(name, Action.PASSTHRU, client="192.0.2.7", expires=now + 600, reason="test", by="ann"))
    assert explained(place, "c2.evil.example", "--client", "192.0.2.8")["action"] == "SINKHOLE"
    found = explained(place, "www.c2.evil.example", "--client", "192.0.2.7")
    assert (found["action"], found["cause"], found["would"]) == ("PASSTHRU", "override", "resolve")
    assert [reason["cause"] for reason in found["reasons"]] == ["override", "intel"]
    assert "until 20" in found["reasons"][0]["text"]
    page = place.run("explain", "c2.evil.example", "--client", "192.0.2.7").stdout
    assert "test (ann for 192.0.2.7), until 20" in page


def test_an_override_that_expired_explains_nothing(place: Place) -> None:
    name = names.from_text("c2.evil.example")
    place.give_intel(Override(name, Action.PASSTHRU, expires=time.time() - 1, reason="old", by="ann"))
    assert explained(place, "c2.evil.example")["action"] == "SINKHOLE"


def test_an_address_is_judged_as_in_an_answer(place: Place) -> None:
    packed = bytes((203, 0, 113, 66))
    place.give_intel(Override(address_key(packed), Action.SINKHOLE, reason="C2", by="ann"))
    found = explained(place, "203.0.113.66")
    assert (found["name"], found["action"], found["would"]) == ("203.0.113.66", "SINKHOLE", "sinkhole 192.0.2.1")
    assert found["reasons"][0]["indicator"] == "203.0.113.66"
    assert "an answer that holds 203.0.113.66" in place.run("explain", "203.0.113.66").stdout
    assert explained(place, "203.0.113.67")["action"] == "NONE"


@pytest.mark.parametrize(
    ("args", "would", "text"),
    [
        (["x.example", "--client", "198.51.100.1"], "refused", "server.allow_from"),
        (["x.example", "--type", "AXFR"], "refused", "not served"),
    ],
)
def test_what_is_never_looked_at_is_refused(place: Place, args: list[str], would: str, text: str) -> None:
    place.give_intel()
    found = explained(place, *args)
    assert (found["action"], found["cause"], found["would"]) == ("NONE", "access", would)
    assert text in found["reasons"][0]["text"]


def test_before_any_intelligence_nothing_is_answered(place: Place) -> None:
    found = explained(place, "x.example")
    assert (found["would"], found["generation"]) == ("servfail", 0)
    assert "not loaded yet" in place.run("explain", "x.example").stdout


def test_a_damaged_index_is_one_line(place: Place) -> None:
    place.give_intel()
    path = place.config.data_dir / "intel" / "7.index"
    path.write_bytes(path.read_bytes()[:-8])
    result = place.run("explain", "x.example")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.count("\n") == 1
    assert "7.index" in result.stderr


def test_hostile_names_are_harmless_on_a_page(place: Place) -> None:
    place.give_intel(
        Override(names.from_text("bad.example"), Action.SINKHOLE, reason="\x1b[2J\u202egnp", by="\x07mallory\n")
    )
    for args in (["\\027]0;x\\007.bad.example"], ["\x1b[31m.bad.example"], ["\\000.bad.example"]):
        result = place.run("explain", *args)
        assert result.exit_code == 0
        assert all(line.isprintable() for line in result.stdout.split("\n"))
        assert len(result.stdout.splitlines()) == 3


def test_the_manual_has_the_keys() -> None:
    assert documented("plughole explain") >= KEYS


@pytest.mark.parametrize(
    ("name", "qtype", "would"),
    [("printer.local", "A", "nxdomain"), ("localhost", "A", "noerror"), ("localhost", "MX", "nodata"),
     ("wpad", "A", "nodata"), ("5.0.0.10.in-addr.arpa", "PTR", "nxdomain")],
)  # fmt: skip
def test_local_names_are_answered_here(place: Place, name: str, qtype: str, would: str) -> None:
    place.give_intel()
    found = explained(place, name, "--type", qtype)
    assert (found["would"], found["cause"], found["action"]) == (would, "local", "NONE")
    assert [reason["source"] for reason in found["reasons"]] == ["local"]


def test_an_address_that_lies_inside_is_not_let_through(place: Place) -> None:
    place.give_intel()
    found = explained(place, "192.168.1.1")
    assert (found["action"], found["cause"], found["would"]) == ("NODATA", "rebind", "nodata")
