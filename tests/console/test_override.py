"""`plughole allow`, `block`, `forget` and `overrides` against a real Redis."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import Any

import pytest
from place import COMMAND, REPOSITORY, Place, documented

from core import names
from core.verdict import Action
from feeds.overlay import Overlay
from resolver.policy import address_key

OVERRIDE_KEYS = {"name", "action", "client", "view", "expires", "reason", "by", "created"}
FORCE_KEYS = {"sequence", "nodes", "behind"}
OUTCOME_KEYS = {"action", "cause", "would", "reasons"}


@pytest.fixture(autouse=True)
def _person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")
    monkeypatch.setattr("console.override.APPLIED_SECONDS", 0.05)


def done(place: Place, *args: str) -> Any:
    result = place.run(*args, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout)


def alive(overlay: Overlay, node: str, applied: int) -> None:
    overlay.heartbeat(node, {"applied_seq": applied}, ttl=60.0, now=time.time())


def test_allow_says_what_it_changes_and_is_in_redis(with_redis: Place, overlay: Overlay) -> None:
    found = done(with_redis, "allow", "C2.evil.example", "--for", "10m", "--reason", "ticket  4711")
    assert set(found) == OVERRIDE_KEYS | FORCE_KEYS | {"before", "after"}
    assert set(found["before"]) == set(found["after"]) == OUTCOME_KEYS
    assert (found["before"]["would"], found["after"]["would"]) == ("sinkhole 192.0.2.1", "resolve")
    assert [reason["cause"] for reason in found["after"]["reasons"]] == ["override", "intel"]
    assert (found["name"], found["action"], found["by"], found["reason"]) == (
        "c2.evil.example", "PASSTHRU", "ann", "ticket 4711",
    )  # fmt: skip
    (item,) = overlay.all(time.time())
    assert (item.name, item.action, item.client, item.view) == (
        names.from_text("c2.evil.example"),
        Action.PASSTHRU,
        "",
        "",
    )
    assert 590 < item.expires - time.time() <= 600
    assert found["sequence"] == overlay.seq() == 1


def test_block_of_a_client_shows_that_clients_verdict(with_redis: Place, overlay: Overlay) -> None:
    found = done(with_redis, "block", "www.example.com", "--client", "192.0.2.0/24", "--reason", "test")
    assert (found["before"]["would"], found["after"]["would"]) == ("resolve", "sinkhole 192.0.2.1")
    (item,) = overlay.all(time.time())
    assert (item.action, item.client, item.expires) == (Action.SINKHOLE, "192.0.2.0/24", 0.0)


def test_clients_are_written_in_one_form(with_redis: Place, overlay: Overlay) -> None:
    for text in ("192.0.2.7/32", "192.0.2.7", "::ffff:192.0.2.7"):
        done(with_redis, "block", "x.example", "--client", text, "--reason", "test")
    done(with_redis, "block", "x.example", "--client", "2001:DB8::7/32", "--reason", "test")
    assert [item.client for item in overlay.all(time.time())] == ["192.0.2.7", "2001:db8::/32"]


def test_addresses_have_the_key_the_policy_asks_with(with_redis: Place, overlay: Overlay) -> None:
    found = done(with_redis, "block", "203.0.113.66", "--reason", "C2")
    assert (found["name"], found["after"]["would"]) == ("203.0.113.66", "sinkhole 192.0.2.1")
    (item,) = overlay.all(time.time())
    assert item.name == address_key(bytes((203, 0, 113, 66)))
    assert done(with_redis, "overrides")[0]["name"] == "203.0.113.66"
    assert done(with_redis, "forget", "203.0.113.66")["name"] == "203.0.113.66"
    assert overlay.all(time.time()) == []


def test_nodes_confirm(with_redis: Place, overlay: Overlay) -> None:
    assert "stored, in force when a node starts" in with_redis.run("block", "x.example", "--reason", "y").stdout
    alive(overlay, "a", 99)
    assert "in force on 1 node\n" in with_redis.run("block", "y.example", "--reason", "y").stdout
    alive(overlay, "b", 99)
    found = done(with_redis, "block", "z.example", "--reason", "y")
    assert {key: found[key] for key in FORCE_KEYS} == {"sequence": 3, "nodes": 2, "behind": []}


def test_a_node_that_does_not_confirm_is_named(with_redis: Place, overlay: Overlay) -> None:
    alive(overlay, "a", 99)
    alive(overlay, "\x1b[2Jslow", 0)
    result = with_redis.run("block", "x.example", "--reason", "y")
    assert result.exit_code == 0
    assert "in force on 1 node\n" in result.stdout
    assert "not confirmed" in result.stderr
    assert "\\x1b[2Jslow" in result.stderr


def test_it_is_said_when_nothing_changes(with_redis: Place) -> None:
    result = with_redis.run("block", "c2.evil.example", "--reason", "y")
    assert "no change: it would be answered sinkhole 192.0.2.1 as before" in result.stdout


def test_a_narrower_override_is_not_hidden_by_a_wider_one(with_redis: Place) -> None:
    done(with_redis, "block", "x.example", "--reason", "all")
    done(with_redis, "allow", "x.example", "--client", "192.0.2.7", "--reason", "one")
    page = with_redis.run("forget", "x.example", "--client", "192.0.2.7").stdout
    assert page.startswith("x.example: forgotten")
    assert [item["client"] for item in done(with_redis, "overrides")] == [None]


def test_forget_takes_everything_back_and_fails_when_there_is_nothing(with_redis: Place) -> None:
    done(with_redis, "block", "x.example", "--reason", "y")
    done(with_redis, "block", "x.example", "--client", "192.0.2.7", "--reason", "y")
    found = done(with_redis, "forget", "X.example")
    assert set(found) == {"name", "client"} | FORCE_KEYS
    assert done(with_redis, "overrides") == []
    result = with_redis.run("forget", "x.example")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "plughole: there is no override of x.example; `plughole overrides` lists what is there\n"
    assert "for 192.0.2.7" in with_redis.run("forget", "x.example", "--client", "192.0.2.7").stderr


def test_overrides_are_listed_with_who_why_and_until_when(with_redis: Place) -> None:
    done(with_redis, "allow", "x.example", "--for", "2h", "--reason", "ticket 4711")
    done(with_redis, "block", "y.example", "--for", "1s", "--reason", "short")
    (_, first, *_) = with_redis.run("overrides").stdout.splitlines()
    assert [word in first for word in ("x.example", "PASSTHRU", "ann", "ticket 4711", "T")] == [True] * 5
    found = done(with_redis, "overrides")
    assert all(set(item) == OVERRIDE_KEYS for item in found)
    assert found[0]["expires"].endswith("Z")


def test_hostile_reasons_and_names_are_harmless(with_redis: Place) -> None:
    for at, name in enumerate(("\\027]0;x\\007.example", "\x1b[2J.example", "=1+1.example")):
        result = with_redis.run("block", name, "--reason", f"{at} \x1b]0;owned\x07\u202e\ud800=1")
        assert (result.exit_code, result.stderr) == (0, "")
        assert all(line.isprintable() for line in result.stdout.split("\n"))
    for args in (["overrides"], ["overrides", "--json"], ["explain", "=1+1.example"]):
        result = with_redis.run(*args)
        assert result.exit_code == 0
        assert all(line.isprintable() for line in result.stdout.split("\n"))


def test_an_unknown_view_is_mentioned(with_redis: Place, overlay: Overlay) -> None:
    result = with_redis.run("block", "x.example", "--view", "guests", "--reason", "y")
    assert result.exit_code == 0
    assert "only default exists" in result.stderr
    assert [item.view for item in overlay.all(time.time())] == ["guests"]


def test_redis_away_is_one_line(place: Place) -> None:
    place.file.write_text('[redis]\nurl = "unix:///nowhere/redis.sock"\n')
    for args in (["overrides"], ["block", "x.example", "--reason", "y"], ["forget", "x.example"], ["feeds", "list"]):
        result = place.run(*args)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.count("\n") == 1
        assert "redis" in result.stderr.lower()


def test_the_manual_has_the_keys() -> None:
    assert documented("plughole allow") >= OVERRIDE_KEYS | FORCE_KEYS | OUTCOME_KEYS | {"before", "after"}
    assert documented("plughole forget") >= FORCE_KEYS | {"name", "client"}
    assert documented("plughole overrides") >= OVERRIDE_KEYS


def test_a_terminal_gets_a_table_without_markup_or_escapes_of_strangers(with_redis: Place) -> None:
    done(with_redis, "block", "x.example", "--reason", "[bold]:smile: \x1b]0;owned\x07[/bold]")
    near, far = os.openpty()
    environ = os.environ | {"PLUGHOLE_CONFIG": str(with_redis.file), "COLUMNS": "200", "TERM": "xterm", "NO_COLOR": "1"}
    with subprocess.Popen([*COMMAND, "overrides"], cwd=REPOSITORY, env=environ, stdout=far) as process:
        assert process.wait(60) == 0
    os.close(far)
    text = os.read(near, 65_536).decode()
    os.close(near)
    assert "[bold]:smile: \\x1b]0;owned\\x07[/bold]" in text
    assert "\x1b]0" not in text
