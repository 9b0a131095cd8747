"""`plughole egress` and what `status` says of agents, against a real Redis and an agent in a thread."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator
from ipaddress import ip_address
from typing import Any

import msgspec
import pytest
from place import Place, section

from console import egress, egress_agents
from core.names import from_text
from egress.agent import Agent, Timing
from egress.assembly import build
from egress.orders import AGENTS, FIELD, ORDERS, Block, Heartbeat, Refusal, Release, decode_order, encode
from egress.plan import Proposal
from feeds.overlay import Overlay
from feeds.redis import connect

COMMANDS = ("list", "plan", "release", "flush", "undo", "panic")
EVIL = from_text("evil.example")
C2 = "91.66.0.80"
PATIENCE = 60.0


@pytest.fixture(autouse=True)
def _person(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUDO_USER", "ann")


@pytest.fixture
def place(with_redis: Place) -> Place:
    """A folder with Redis whose agents only keep rows: nothing of this machine is touched."""
    text = with_redis.file.read_text()
    with_redis.file.write_text(f'{text}\n[egress]\ntarget = "none"\nflows = false\nagent = "router"\n')
    return with_redis


@pytest.fixture
def client(place: Place) -> Iterator[Any]:
    made = connect(place.config)
    yield made
    made.close()


@pytest.fixture
def agent(place: Place, client: Any) -> Iterator[Agent]:
    made = build(place.config, lambda: connect(place.config), timing=Timing(block=0.05, beat=0.1))
    thread = threading.Thread(target=made.run)
    thread.start()
    until(lambda: client.hexists(AGENTS, "router"))
    yield made
    made.stop()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def until(true: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.01)


def order(client: Any, *addresses: str) -> None:
    proposals = tuple(Proposal(ip_address(to).packed, b"", EVIL, "listed", 300.0, "feed: sample") for to in addresses)
    client.xadd(ORDERS, {FIELD: encode(Block(time.time(), "node", proposals))})


def done(place: Place, *args: str) -> Any:
    result = place.run("egress", *args, "--json")
    assert (result.exit_code, result.stderr) == (0, ""), result.stderr
    return json.loads(result.stdout)


def keys(found: Any) -> set[str]:
    if isinstance(found, dict):
        return set(found).union(*map(keys, found.values()))
    return set().union(*map(keys, found)) if isinstance(found, list) else set()


def test_what_is_blocked_is_listed_planned_and_released(place: Place, client: Any, agent: Agent) -> None:
    order(client, C2, "91.66.0.81")
    until(lambda: len(agent.desk.ledger) == 2)
    (told,) = done(place, "list")["agents"]
    assert (told["agent"], told["mode"], told["total"], told["error"]) == ("router", "observe", 2, None)
    assert {row["address"] for row in told["rows"]} == {C2, "91.66.0.81"}
    assert told["rows"][0] | {"address": C2, "expires": ""} == {
        "address": C2, "client": None, "domain": "evil.example", "reason": "listed", "evidence": "feed: sample",
        "expires": "", "packets": None, "octets": None,
    }  # fmt: skip
    ((step,),) = [each["steps"] for each in done(place, "plan")["agents"]]
    assert len(step["add"]) == 2
    (told,) = done(place, "release", C2, "--reason", "ticket  4711")["agents"]
    assert (told["text"], told["change"]) == ("1 row released", 2)
    (told,) = done(place, "release", "example", "--for", "7d", "--reason", "all")["agents"]
    assert told["text"] == "1 row released"
    assert len(agent.desk.ledger) == 0
    (told,) = done(place, "undo", "3")["agents"]
    assert told["text"] == "1 rows as before"
    assert [each["change"] for each in done(place, "list", "--changes")["agents"][0]["changes"]] == [1, 2, 3, 4]
    assert done(place, "flush", "--reason", "x")["agents"][0]["text"] == "no row is left"


def test_a_release_takes_less_than_a_second(place: Place, client: Any, agent: Agent) -> None:
    taken: list[float] = []
    for address in ("91.66.0.82", "91.66.0.83", "91.66.0.84"):  # the best of three: the machine has its own pauses
        order(client, address)
        until(lambda: len(agent.desk.ledger) == 1)
        begun = time.monotonic()
        done(place, "release", address, "--reason", "test")
        taken.append(time.monotonic() - begun)
        assert len(agent.desk.ledger) == 0
    assert min(taken) < 1.0


def test_pages_are_for_people(place: Place, client: Any, agent: Agent) -> None:
    order(client, C2, "10.0.0.1")
    until(lambda: len(agent.desk.ledger) == 1)
    listed = place.run("egress", "list")
    assert re.search(r"91\.66\.0\.80 +any +evil\.example +listed", listed.stdout)
    assert "mode observe, nothing is blocked" in listed.stderr
    assert re.search(r"router, no firewall: 1 to add.*\n +\+ 91\.66\.0\.80 until", place.run("egress", "plan").stdout)
    assert re.search(r"1 +\S+Z +block by node: evil", place.run("egress", "list", "--changes").stdout)
    assert re.search(r"10\.0\.0\.1 +any +evil\.example +never", place.run("egress", "list", "--refused").stdout)
    panicked = place.run("egress", "panic", "on", "--reason", "x").stdout  # after what the agent beside us logs
    assert panicked.endswith("router: panic on: nothing is blocked, rows stay\n")
    assert "panic is on" in place.run("egress", "list").stderr
    assert place.run("egress", "undo", "1").stdout.startswith("router: 1 rows as before, change")


def test_who_did_it_and_why_is_in_the_audit_trail(place: Place, overlay: Overlay, agent: Agent) -> None:
    done(place, "release", C2, "--reason", "ticket 4711")
    (line,) = overlay.audit()
    assert (line.what, line.name, line.by, line.reason) == ("egress release", C2, "ann", "ticket 4711")


def test_without_an_agent_that_is_said_and_the_order_waits_for_one(place: Place, client: Any) -> None:
    for args in (["list"], ["plan"]):
        result = place.run("egress", *args)
        assert result.exit_code == 1
        assert "no agent is alive" in result.stderr
        assert "systemctl start plughole-egress" in result.stderr
    assert client.xlen(ORDERS) == 0
    result = place.run("egress", "release", C2, "--reason", "x")
    assert result.exit_code == 1
    assert "the order waits" in result.stderr
    ((_, fields),) = client.xrange(ORDERS)
    found = decode_order(fields[FIELD])
    assert isinstance(found, Release)
    assert (found.address, found.by, found.reason) == (ip_address(C2).packed, "ann", "x")


def beating(client: Any, name: str, *, age: float = 0.0, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "name": name, "at": client.time()[0] - age, "started": 1.0, "mode": "enforce", "panic": False, "rows": 3,
        "blocked": 2, "refused": 1, "attempts": 4, "firewalls": {"nftables": ""}, "transaction": 7,
    }  # fmt: skip
    client.hset(AGENTS, name, msgspec.json.encode(Heartbeat(**fields | changes)))


def test_an_agent_that_does_not_answer_is_named(place: Place, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "ANSWER_SECONDS", 0.1)
    beating(client, "deaf")
    beating(client, "gone", age=60.0)
    result = place.run("egress", "list")
    assert result.exit_code == 1
    assert "no answer within 0.1 s from deaf;" in result.stderr
    result = place.run("egress", "flush", "--reason", "x", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (1, {"agents": [], "missing": ["deaf"]})


def test_a_number_is_undone_only_where_one_agent_is(place: Place, client: Any) -> None:
    beating(client, "one")
    beating(client, "two")
    result = place.run("egress", "undo", "1")
    assert result.exit_code == 1
    assert "numbers of their own; use --since" in result.stderr
    assert client.xlen(ORDERS) == 0


@pytest.mark.parametrize(
    "args",
    [
        ["release", C2], ["release", "a b", "--reason", "x"], ["undo"], ["undo", "1", "--since", "10m"],
        ["panic", "maybe", "--reason", "x"], ["flush", "--reason", " "], ["list", "--refused", "--changes"],
    ],
)  # fmt: skip
def test_bad_usage_is_said_before_redis_is_asked(place: Place, args: list[str]) -> None:
    assert place.run("egress", *args).exit_code == 2


def test_what_status_says_of_agents(place: Place, client: Any) -> None:
    beating(client, "fine")
    beating(client, "sick", firewalls={"nftables": "", "branch": "401"}, panic=True)
    beating(client, "silent", age=90.0)
    beating(client, "forgotten", age=8 * 86_400.0)
    client.hset(AGENTS, "garbled", b"{")
    rows = egress_agents.told(place.config)
    assert [row["agent"] for row in rows] == ["fine", "sick", "silent"]
    assert rows[1]["panic"]
    sick, silent = egress_agents.troubles(rows)
    assert sick == "egress: agent sick, branch: 401"
    assert silent.startswith("egress: agent silent has said nothing for 1m")
    written = set(re.findall(r"`([a-z_]+)`", section("plughole status")))
    assert set(rows[0]) <= written


def test_the_keys_are_the_documented_ones(place: Place, client: Any, agent: Agent) -> None:
    order(client, C2, "10.0.0.1")
    until(lambda: len(agent.desk.ledger) == 1)
    page = "".join(section(f"plughole egress {name}") for name in COMMANDS)
    written = set(re.findall(r"`([a-z_]+)`", page))
    for args in (["list"], ["list", "--changes"], ["list", "--refused"], ["plan"]):
        found = keys(done(place, *args))
        assert found
        assert found <= written


def test_refusals_of_a_newer_version_are_passed_over(place: Place, client: Any) -> None:
    refusal = Refusal(time.time(), "node", b"\x5b\x42\x00\x50", b"", EVIL, "shared", "it is of a CDN")
    client.xadd("egress:refused", {FIELD: b"\xc1"})
    client.xadd("egress:refused", {FIELD: encode(refusal)})
    (row,) = done(place, "list", "--refused")
    assert (row["address"], row["rule"], row["who"], row["client"]) == (C2, "shared", "node", None)
