"""What agents saw on its way through a real Redis into the journal, with its names; and what becomes news."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.config import Config, Redis, Server
from core.errors import Unavailable
from core.event import Event
from core.finding import Confidence, Finding
from core.names import from_text
from core.verdict import Action
from detectors.bypass import shipped
from egress.orders import AGENTS, FIELD, ORDERS, SEEN, Attempt, Block, Flow, Release, Report, Seen, Talking, encode
from egress.plan import Proposal
from feeds.redis import EmbeddedServer, connect, find_server
from journal.flow_rows import Wanted, attempts, top
from journal.flows import Kind, Row
from resolver import seeing, seen
from resolver.naming import Naming
from resolver.seeing import GROUP, Seeing
from resolver.seen import SETTLED, Intake
from resolver.watching import Watching

NOW = 1_700_000_000.0
CLIENT = ip_address("10.20.1.2").packed
OTHER = ip_address("10.20.1.3").packed
C2 = ip_address("91.66.0.80").packed
C26 = ip_address("2a01:66::80").packed
MAC = bytes.fromhex("eac2748e68a5")
PATIENCE = 60.0


def event(name: str, *answers: bytes, client: bytes = CLIENT, action: Action = Action.NONE, at: float = NOW) -> Event:
    return Event(at, client, from_text(name), 1, 0, action, answers=answers)


def flow(sent: int = 10, address: bytes = C2, client: bytes = CLIENT, at: float = NOW) -> Flow:
    return Flow(at, "gate", client, address, sent, 5, 2)


def attempt(
    address: bytes = C2, client: bytes = CLIENT, rule: str = "block", at: float = NOW, port: int = 443
) -> Attempt:
    return Attempt(at, "gate", client, address, 6, port, MAC, rule)


def block(name: str, address: bytes = C2) -> bytes:
    return encode(Block(NOW, "node", (Proposal(address, CLIENT, from_text(name), "listed", 60.0),)))


def packed(*events: Report) -> bytes:
    return encode(Seen(events))


def intake(*events: Event, since: float = NOW - 2 * SETTLED) -> Intake:
    made = Intake(frozenset((ip_address("198.51.100.53").packed,)), now=since)
    made.naming.see(events)
    return made


def rows(made: Intake, *events: Report, now: float = NOW) -> list[Row]:
    return made.take(packed(*events), now)[0]


# ---- names


def test_the_last_name_of_a_client_is_known() -> None:
    made = Naming(now=NOW)
    made.see([event("a.example", C2, C26), event("b.example", C2), event("c.example", C2, client=OTHER)])
    assert made.name(CLIENT, C2) == from_text("b.example")
    assert made.name(CLIENT, C26) == from_text("a.example")
    assert made.name(OTHER, C2) == from_text("c.example")
    assert made.name(OTHER, C26) == b""
    assert made.asks(OTHER)
    assert not made.asks(C2)


def test_what_was_blocked_names_nothing_but_shows_that_the_client_asks() -> None:
    made = Naming(now=NOW)
    made.see([event("evil.example", C2, action=Action.SINKHOLE), event("odd.example", C26, action=Action.ALERT)])
    assert made.name(CLIENT, C2) == b""
    assert made.name(CLIENT, C26) == from_text("odd.example")
    assert made.asks(CLIENT)


def test_names_are_bounded_and_the_newest_stay() -> None:
    made = Naming(most=100, now=NOW)
    for number in range(1_000):
        made.see([event(f"n{number}.example", number.to_bytes(4, "big"), at=NOW + number)])
        assert len(made) <= 100
    for number in range(950, 1_000):
        assert made.name(CLIENT, number.to_bytes(4, "big")) == from_text(f"n{number}.example")
    assert made.name(CLIENT, (0).to_bytes(4, "big")) == b""
    assert NOW + 849 <= made.since <= NOW + 950


# ---- rows


def test_a_flow_has_the_name_its_client_knows() -> None:
    made = intake(event("files.example", C2))
    (row,) = rows(made, flow(1_000))
    assert row == Row(NOW, Kind.FLOW, "gate", CLIENT, C2, "files.example", connections=2, sent=1_000, received=5)


@pytest.mark.parametrize(
    ("asked", "since", "literal"),
    [(True, NOW - SETTLED, True), (True, NOW - SETTLED + 1, False), (False, NOW - 2 * SETTLED, False)],
)
def test_an_address_never_answered_is_literal_once_it_is_sure(asked: bool, since: float, literal: bool) -> None:
    made = intake(*([event("other.example", C26)] if asked else []), since=since)
    (row,) = rows(made, flow())
    assert (row.literal, row.name) == (literal, "")
    assert made.counters()["literal"] == literal


def test_where_other_nodes_answer_too_nothing_is_sure() -> None:
    made = intake(event("other.example", C26))
    made.alone = False
    assert not rows(made, flow())[0].literal


def test_an_attempt_becomes_an_alert_of_client_and_domain(tmp_path: Path) -> None:
    made = intake()
    made.follow([block("www.evil.example")])
    watching = Watching(Config(base=str(tmp_path)), now=NOW)
    watching.take_in(made.take(packed(attempt()), NOW)[1], NOW)
    (alert,) = watching.take_alerts()
    assert (alert.client, alert.domain, alert.detector) == ("10.20.1.2", "evil.example", "egress")
    assert "tried to reach 91.66.0.80" in alert.reason
    assert watching.take_convictions() == []


def talking(sent: int = 3_200_000, received: int = 40_000, client: bytes = CLIENT, since: float = NOW - 60) -> Talking:
    return Talking(NOW, "gate", client, C2, sent, received, since, 2)


def test_who_talked_to_an_address_when_it_was_blocked_is_in_the_one_alert_with_the_octets(tmp_path: Path) -> None:
    made = intake()
    made.follow([block("c2.evil.example")])
    watching = Watching(Config(base=str(tmp_path)), now=NOW)
    for one in (talking(), talking(sent=5, received=5), attempt(), attempt(port=80)):
        watching.take_in(made.take(packed(one), NOW)[1], NOW)
    (alert,) = watching.take_alerts()
    assert (alert.client, alert.domain, alert.confidence) == ("10.20.1.2", "evil.example", Confidence.HIGH)
    assert set(alert.detectors) == {"egress", "egress-talking"}
    assert (
        "was talking to 91.66.0.80 (c2.evil.example) when its block was ordered at 2023-11-14 22:13:20 UTC: "
        "3.1 MiB sent, 39.1 KiB received since 2023-11-14 22:12:20 UTC"
    ) in alert.reason
    assert "tried to reach 91.66.0.80" in alert.reason
    shown = {each.name: each.value for each in alert.evidence if each.detector == "egress-talking"}
    assert shown == {"octets sent": 3_200_000, "octets received": 40_000}
    assert watching.take_convictions() == []


def test_who_talked_is_a_row_and_of_this_host_no_finding() -> None:
    ours = ip_address("198.51.100.53").packed
    made = intake(event("files.example", C2))
    found, news = made.take(packed(talking(), talking(client=ours)), NOW)
    assert found[0] == Row(
        NOW, Kind.TALKING, "gate", CLIENT, C2, "files.example", connections=2, sent=3_200_000, received=40_000
    )
    assert [row.client for row in found] == [CLIENT, ours]
    assert [one.client for one in news] == ["10.20.1.2"]
    assert made.counters()["talking"] == 2


@pytest.mark.parametrize("since", [0.0, float("nan"), NOW + 1, -5.0])
def test_octets_nobody_counted_and_a_beginning_nobody_noted_are_not_made_up(since: float) -> None:
    (one,) = intake().take(packed(talking(0, 0, since=since)), NOW)[1]
    assert one.reason.endswith("at 2023-11-14 22:13:20 UTC: how much is not counted there")


@pytest.mark.parametrize(("sent", "received"), [(-1_000_000, 0), (2**64 - 1, 2**64 - 1), (-5, 7)])
def test_octets_that_can_not_be_end_nothing(sent: int, received: int) -> None:
    found, (one,) = intake().take(packed(talking(sent, received)), NOW)
    assert 0.0 <= one.score <= 1.0
    assert found[0].sent == max(sent, 0)


def test_a_flow_to_a_public_resolver_is_a_way_past_us_but_for_this_host() -> None:
    public = next(address for address in shipped().addresses if len(address) == 4)
    ours = ip_address("198.51.100.53").packed
    theirs, own = rows(intake(), flow(address=public), flow(address=public, client=ours))
    assert (theirs.kind, own.kind) == (Kind.BYPASS, Kind.FLOW)
    (past,) = rows(intake(), attempt(rule="bypass", port=853), attempt(rule="bypass", client=ours))
    assert (past.kind, past.client, past.port) == (Kind.BYPASS, CLIENT, 853)


def test_an_attempt_has_the_domain_of_the_block_and_is_news_once_a_day() -> None:
    made = intake()
    made.follow([block("old.example"), block("www.evil.example"), b"\xc1", encode(Release(NOW, "me", "why", C2))])
    found, news = made.take(packed(attempt(), attempt(port=80), attempt(client=OTHER)), NOW)
    assert {row.name for row in found} == {"www.evil.example"}
    assert found[0] == Row(
        NOW, Kind.BLOCK, "gate", CLIENT, C2, "www.evil.example", protocol=6, port=443, mac=MAC, packets=1
    )
    assert [(one.client, one.domain) for one in news] == [("10.20.1.2", "evil.example"), ("10.20.1.3", "evil.example")]
    assert (news[0].detector, news[0].confidence) == ("egress", Confidence.HIGH)
    assert news[0].reason == (
        "tried to reach 91.66.0.80 port 443 (TCP), which is blocked for www.evil.example, from ea:c2:74:8e:68:a5"
    )
    assert made.take(packed(attempt(at=NOW + 60)), NOW + 60)[1] == []
    assert len(made.take(packed(attempt(at=NOW + 86_401)), NOW + 86_401)[1]) == 1


def test_an_attempt_without_a_known_block_is_about_the_address() -> None:
    (one,) = intake().take(packed(attempt()), NOW)[1]
    assert (one.domain, one.reason.split(", ")[1]) == ("91.66.0.80", "which is blocked")


def test_an_attempt_at_what_was_never_answered_is_no_finding() -> None:
    found, news = intake().take(packed(attempt(rule="pin")), NOW)
    assert (found[0].kind, found[0].literal, news) == (Kind.PIN, True, [])


@pytest.mark.parametrize("at", [float("nan"), float("inf"), -1e300, 0.0, NOW + 1e6])
def test_a_time_that_can_not_be_is_replaced(at: float) -> None:
    assert [row.at for row in rows(intake(), flow(at=at), attempt(at=at))] == [NOW, NOW]


def test_what_can_not_be_read_is_counted() -> None:
    made = intake()
    assert made.take(b"\xc1", NOW) == ([], [])
    assert rows(made, flow(client=b"odd"), flow()) == rows(intake(), flow())
    assert made.counters()["garbled"] == 2


def test_remembered_blocks_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "MAX_BLOCKED", 2)
    made = intake()
    made.follow([block("a.example"), block("b.example", C26), block("c.example", OTHER), block("d.example", C26)])
    assert made.counters()["blocked"] == 2
    assert [row.name for row in rows(made, attempt(C26), attempt(C2))] == ["d.example", ""]


# ---- through Redis


@pytest.fixture(scope="module")
def _server() -> Iterator[Config]:
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(f"needs Redis: {error}")
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:  # short: a socket's path has at most 107 octets
        config = Config(server=Server(data_dir=folder), base=folder)
        server = EmbeddedServer(config)
        server.start()
        try:
            yield config
        finally:
            server.stop()


@pytest.fixture
def config(_server: Config, tmp_path: Path) -> Config:
    """A configuration whose Redis runs and is empty, and whose data folder is new."""
    client = connect(_server)
    client.flushall()
    client.close()
    url = f"unix://{_server.data_dir / 'redis.sock'}"
    return Config(server=Server(data_dir=str(tmp_path)), redis=Redis(url=url), base=str(tmp_path))


@pytest.fixture
def client(config: Config) -> Iterator[Any]:
    found = connect(config)
    yield found
    found.close()


class Hub:
    """`Seeing` as the hub runs it, until the condition holds."""

    def __init__(self, config: Config) -> None:
        self.found: list[Finding] = []
        self.seeing = Seeing(config, self.found.extend, now=time.time())

    def until(self, true: Callable[[], bool], *, meanwhile: Callable[[], None] = lambda: None) -> None:
        asyncio.run(self._until(true, meanwhile))

    async def _until(self, true: Callable[[], bool], meanwhile: Callable[[], None]) -> None:
        work = asyncio.create_task(self.seeing.run())
        deadline = time.monotonic() + PATIENCE
        try:
            while not true():
                assert time.monotonic() < deadline, self.seeing.counters()
                meanwhile()
                await asyncio.sleep(0.01)
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def count(self, key: str) -> int:
        return int(self.seeing.counters()[key])

    def written(self) -> int:
        return int(self.seeing.counters()["journal"]["written"])


def tell(client: Any, *events: Report) -> None:
    client.xadd(SEEN, {FIELD: packed(*events)})


def pending(client: Any) -> int:
    return int(client.xpending(SEEN, GROUP)["pending"])


def test_what_agents_saw_is_in_the_journal_with_its_names_and_acknowledged(config: Config, client: Any) -> None:
    now = time.time()
    hub = Hub(config)
    client.hset(AGENTS, "gate", b"{}")
    client.xadd(ORDERS, {FIELD: block("c2.evil.example", C26)})
    hub.until(lambda: hub.seeing._agents)
    hub = Hub(config)

    def give() -> None:
        if hub.seeing._agents and not hub.count("entries") and not hub.count("names"):
            hub.seeing.see([event("files.example", C2, at=now)])
            if client.xlen(SEEN) == 0:
                tell(client, flow(700, at=now), attempt(C26, at=now))

    hub.until(lambda: hub.written() == 2 and bool(hub.found), meanwhile=give)
    (sent,) = top(config.data_dir, Wanted(), limit=10)
    assert (sent["client"], sent["address"], sent["name"], sent["sent"]) == (
        "10.20.1.2", "91.66.0.80", "files.example", 700,
    )  # fmt: skip
    (tried,) = attempts(config.data_dir, Wanted(), limit=10)
    assert (tried["kind"], tried["address"], tried["name"]) == ("block", "2a01:66::80", "c2.evil.example")
    assert [one.domain for one in hub.found] == ["evil.example"]
    assert pending(client) == 0
    assert hub.seeing.troubles() == []


def test_each_entry_goes_to_one_hub_only(
    config: Config, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "EVERY", 0.02)  # whichever looks first learns of the other at its next look
    other = msgspec.structs.replace(config, server=Server(data_dir=str(tmp_path / "other")))
    hubs = [Hub(config), Hub(other)]
    for number in range(40):
        tell(client, flow(1, address=number.to_bytes(4, "big"), at=time.time()))

    async def both() -> None:
        def done() -> bool:
            return sum(hub.written() for hub in hubs) >= 40 and not any(hub.seeing._intake.alone for hub in hubs)

        await asyncio.gather(*(hub._until(done, lambda: None) for hub in hubs))

    asyncio.run(both())
    found = [row["address"] for one in (config, other) for row in top(one.data_dir, Wanted(), limit=100)]
    assert len(found) == len(set(found)) == 40


def test_what_a_killed_hub_took_is_taken_again(config: Config, client: Any) -> None:
    tell(client, flow(at=time.time()))
    client.xgroup_create(SEEN, GROUP, id="0")
    killed = Hub(config)
    assert client.xreadgroup(GROUP, killed.seeing._consumer, {SEEN: ">"})
    assert pending(client) == 1
    hub = Hub(config)
    hub.until(lambda: hub.written() == 1)
    assert pending(client) == 0


def test_what_another_hub_abandoned_is_taken_over(config: Config, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "ABANDONED", 0.0)
    tell(client, flow(at=time.time()))
    client.xgroup_create(SEEN, GROUP, id="0")
    assert client.xreadgroup(GROUP, "gone", {SEEN: ">"})
    hub = Hub(config)
    hub.until(lambda: hub.written() == 1)
    assert pending(client) == 0


def test_entries_stay_in_redis_while_the_disk_refuses_them(config: Config, client: Any) -> None:
    (config.data_dir / "journal").write_text("in the way")
    tell(client, flow(at=time.time()))
    hub = Hub(config)
    hub.until(lambda: bool(hub.seeing.troubles()))
    assert pending(client) == 1
    assert hub.seeing.troubles()[0].startswith("flows: ")
    (config.data_dir / "journal").unlink()
    again = Hub(config)
    again.until(lambda: again.written() == 1)
    assert pending(client) == 0


def test_redis_away_is_waited_for(config: Config, monkeypatch: pytest.MonkeyPatch, client: Any) -> None:
    monkeypatch.setattr(seeing, "RETRY", 0.01)
    away = msgspec.structs.replace(config, redis=Redis(url=f"unix://{config.data_dir}/none.sock"))
    hub = Hub(away)

    def back() -> None:
        if hub.seeing.trouble:
            hub.seeing._config = config

    tell(client, flow(at=time.time()))
    hub.until(lambda: hub.written() == 1, meanwhile=back)
    assert hub.seeing._config is config
    assert hub.seeing.trouble == ""


def test_an_emptied_redis_costs_the_entries_it_lost(
    config: Config, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeing, "RETRY", 0.01)
    hub = Hub(config)
    emptied: list[int] = []

    def empty() -> None:
        if hub.seeing._resumed and not emptied:
            emptied.append(client.flushall())
            tell(client, flow(at=time.time()))

    hub.until(lambda: hub.written() == 1, meanwhile=empty)


def test_without_agents_events_cost_nothing(config: Config) -> None:
    hub = Hub(config)
    hub.until(lambda: hub.seeing._resumed)
    hub.seeing.see([event("a.example", C2)])
    assert hub.count("names") == 0
    assert not hub.seeing._events


def test_missed_events_make_nothing_sure(config: Config, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seeing, "MAX_WAITING", 1)
    hub = Hub(config)
    hub.seeing._begin()
    hub.seeing._intake.naming.since = 0.0
    for _ in range(2):
        hub.seeing.see([event("a.example", C2)])
    hub.seeing._name()
    assert hub.count("missed") == 1
    assert hub.seeing._intake.naming.since > NOW
