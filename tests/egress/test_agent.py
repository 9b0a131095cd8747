"""The agent on a real Redis and a real file, with a firewall that can fail on request and a clock that can be set."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.config import Config, Egress, Server
from core.errors import Unavailable
from core.names import from_text
from egress import agent as agents
from egress.agent import Agent, Timing
from egress.answers import Answer, decode
from egress.caps import Caps
from egress.clock import Clock
from egress.desk import Desk
from egress.enforcer import Absent, Applied, Failure, Lease, Refused, Standing, Target
from egress.link import BEGINNING, Link, beat
from egress.orders import (
    AGENTS,
    ANSWER,
    FIELD,
    ORDERS,
    REFUSED,
    SEEN,
    Ask,
    Attempt,
    Block,
    Flush,
    Order,
    Panic,
    Release,
    Undo,
    decode_refusal,
    decode_seen,
    encode,
)  # fmt: skip
from egress.plan import Destination, Ledger, Lifetimes, Proposal
from egress.posts import Front, Post, Side
from egress.reserved import reserved
from egress.store import Store, Unwritable
from feeds.redis import EmbeddedServer, connect, find_server

C2 = "91.66.0.80"
OTHER = "91.66.0.81"
CLIENT = "10.20.1.2"
EVIL = from_text("evil.example")
BELOW = from_text("www.evil.example")
FINE = from_text("fine.example")
TIMING = Timing(settle=60.0, beat=0.0, sweep=0.0, block=0.01, write=0.0)
MINUTE = 60.0


class Time:
    """A wall clock and one that only goes on; both stand still until they are moved."""

    def __init__(self) -> None:
        self.wall = 1_790_000_000.0
        self.passed = 1000.0

    def go(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds

    def clock(self) -> Clock:
        return Clock(lambda: self.wall, lambda: self.passed)


class Wall:
    """An `Enforcer` in memory, whose blocks run out by the time that passed."""

    def __init__(self, time: Time, *, room: int = 1_000_000) -> None:
        self.time = time
        self.room = room
        self.held: dict[Target, float] = {}
        self.there = False
        self.says_no = ""
        self.applied = 0
        self.closed = 0

    def targets(self) -> set[Target]:
        held = self.held.copy()  # another thread may change it meanwhile
        return {target for target, end in held.items() if end > self.time.passed}

    def prepare(self) -> None:
        self._answer()
        self.there = True

    def present(self) -> list[Standing]:
        self._look()
        return [Standing(target, self.held[target] - self.time.passed, 3, 120) for target in self.targets()]

    def apply(
        self, *, add: Sequence[Lease] = (), renew: Sequence[Lease] = (), remove: Sequence[Target] = ()
    ) -> Applied:
        self._look()
        self.applied += 1
        for target in remove:
            self.held.pop(target, None)
        failures = []
        for lease in (*add, *renew):
            assert lease.seconds > 0
            if lease.target not in self.held and len(self.targets()) >= self.room:
                failures.append(Failure(lease.target, "the set is full", full=True))
            else:
                self.held[lease.target] = self.time.passed + lease.seconds
        return Applied(len(add) + len(renew) + len(remove) - len(failures), tuple(failures))

    def flush(self) -> None:
        self._look()
        self.held.clear()

    def withdraw(self) -> None:
        self._answer()
        self.held.clear()
        self.there = False

    def close(self) -> None:
        self.closed += 1

    def strike(self) -> None:
        """A stranger takes all away."""
        self.held.clear()
        self.there = False

    def _answer(self) -> None:
        if self.says_no:
            raise Refused(self.says_no)

    def _look(self) -> None:
        self._answer()
        if not self.there:
            raise Absent("the table is gone")


class Scene:
    """An agent that is stepped by hand, and all around it."""

    def __init__(self, config: Config, folder: Path) -> None:
        self.config = config
        self.time = Time()
        self.wall = Wall(self.time)
        self.settings = Egress(mode="enforce", per_minute=100_000)
        self.mode = "enforce"
        self.path = folder / "router.sqlite"
        self.client: Any = connect(config)
        self.away = False
        self.agent: Agent
        self.replies = 0

    def build(self, *, name: str = "router", path: Path | None = None, posts: list[Post] | None = None) -> Agent:
        never = reserved({"a network of egress.never": self.settings.never})
        active = self.mode != "observe"
        return Agent(
            name=name,
            mode=self.mode,
            desk=Desk(Ledger(Lifetimes()), Caps(self.settings, never), name=name),
            store=Store(path or self.path),
            link=Link(self._connect, name),
            posts=posts or [Front("nftables", lambda: self.wall, active=active, monotonic=lambda: self.time.passed)],
            clock=self.time.clock(),
            timing=TIMING,
        )

    def start(self, agent: Agent | None = None) -> Agent:
        self.agent = agent or self.build()
        self.agent._begin()
        return self.agent

    def step(self) -> None:
        self.agent._round()
        self.agent._read()

    def minute(self) -> None:
        """Time goes on by a minute and the agent takes its look."""
        self.time.go(MINUTE)
        self.look()

    def look(self) -> None:
        self.agent._due["settle"] = 0.0
        self.step()

    def end(self) -> None:
        self.agent._end()

    def kill(self) -> None:
        """All the agent had is gone but what is on the disk."""
        self.agent._keeper.close()
        self.agent._link.drop()

    def send(self, *orders: Order) -> None:
        for order in orders:
            self.client.xadd(ORDERS, {FIELD: encode(order)})
        self.step()

    def ask(self, order: Any) -> Answer:
        self.replies += 1
        self.send(msgspec.structs.replace(order, reply=str(self.replies)))
        answer = self.client.lpop(f"{ANSWER}{self.replies}")
        assert answer is not None
        return decode(answer)

    def rows(self) -> set[Target]:
        return {
            Target(str(ip_address(row.address)), str(ip_address(row.client)) if row.client else "")
            for row in self.agent.desk.ledger
        }

    def troubles(self) -> dict[str, str]:
        return {name: why for name, why in self.agent.heartbeat().firewalls.items() if why}

    def _connect(self) -> Any:
        if self.away:
            raise Unavailable("Redis is away")
        return connect(self.config)


@pytest.fixture(scope="module")
def redis() -> Iterator[Config]:
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(f"needs Redis: {error}")
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:
        config = Config(server=Server(data_dir=folder), base=folder)
        server = EmbeddedServer(config)
        server.start()
        try:
            yield config
        finally:
            server.stop()


@pytest.fixture
def scene(redis: Config, tmp_path: Path) -> Iterator[Scene]:
    made = Scene(redis, tmp_path)
    made.client.flushall()
    offset = made.client.time()[0] - made.time.wall
    made.time.wall += offset  # Redis' own clock is the one ages are told by
    yield made
    if hasattr(made, "agent"):
        made.end()
    made.client.close()


def block(*addresses: str, client: str = "", domain: bytes = EVIL, ttl: float = 300.0) -> Block:
    who = ip_address(client).packed if client else b""
    return Block(0.0, "node", tuple(Proposal(ip_address(to).packed, who, domain, "listed", ttl) for to in addresses))


def test_a_new_agent_takes_up_the_orders_that_still_hold(scene: Scene) -> None:
    scene.client.xadd(ORDERS, {FIELD: encode(block(C2))})
    scene.start()
    scene.step()
    assert scene.wall.targets() == {Target(C2)}
    assert scene.client.xpending(ORDERS, "router")["pending"] == 0


def test_a_release_frees_one_or_all_below_a_name_and_holds(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2, OTHER), block("91.66.0.82", domain=BELOW), block("91.66.0.83", domain=FINE))
    assert len(scene.wall.targets()) == 4
    answer = scene.ask(Release(0.0, "ann", "test", address=ip_address(OTHER).packed))
    assert (answer.agent, answer.text, answer.error) == ("router", "1 row released", "")
    assert answer.transaction == 4
    until = scene.time.wall + 3600.0
    assert scene.ask(Release(0.0, "ann", "test", domain=EVIL, until=until)).text == "2 rows released"
    assert scene.wall.targets() == {Target("91.66.0.83")}
    scene.send(block(C2, domain=BELOW), block(OTHER, domain=FINE))
    assert scene.wall.targets() == {Target("91.66.0.83"), Target(OTHER)}
    (refusal,) = [decode_refusal(fields[FIELD]) for _, fields in scene.client.xrange(REFUSED)]
    assert (refusal.who, refusal.rule, refusal.address) == ("router", "released", ip_address(C2).packed)


def test_undo_and_flush_and_what_is_left(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2), block(OTHER))
    assert scene.ask(Release(0.0, "ann", "oops", domain=EVIL, until=scene.time.wall + 3600.0)).transaction == 3
    assert scene.wall.targets() == set()
    assert scene.ask(Undo(0.0, "ann", number=3)).text == "2 rows as before"
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}
    scene.send(block("91.66.0.90"))  # the release went with it
    assert Target("91.66.0.90") in scene.wall.targets()
    assert "no transaction 77" in scene.ask(Undo(0.0, "ann", number=77)).error
    assert scene.ask(Flush(0.0, "ann", "test")).text == "no row is left"
    assert scene.wall.targets() == set()
    assert {change.what for change in scene.ask(Ask(0.0, "changes", "")).changes} >= {"undo 3", "flush by ann: test"}


def test_it_asks_once_who_talks_to_what_an_order_blocks(scene: Scene) -> None:
    scene.mode = "observe"
    asked: list[Destination] = []
    scene.start()
    scene.agent._ask = asked.extend
    scene.send(block(C2), block(C2), block(OTHER, client="10.20.1.2"))
    assert asked == [Destination(ip_address(C2).packed), Destination(ip_address(OTHER).packed, b"\x0a\x14\x01\x02")]
    scene.send(block(C2))
    scene.minute()
    scene.ask(Panic(0.0, "ann", "test", on=True))
    scene.send(block("91.66.0.90"))
    scene.ask(Panic(0.0, "ann", "test", on=False))
    assert len(asked) == 2


def test_panic_outlasts_a_restart_and_rows_outlast_panic(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.ask(Panic(0.0, "ann", "test", on=True))
    assert scene.wall.targets() == set()
    scene.kill()
    scene.start()
    scene.minute()
    assert scene.wall.targets() == set()
    assert scene.ask(Ask(0.0, "list", "")).panic
    scene.ask(Panic(0.0, "ann", "test", on=False))
    assert scene.wall.targets() == {Target(C2)}


def test_it_tells_what_it_holds_and_what_it_would_change(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2), block(OTHER, client=CLIENT))
    rows = {(row.address, row.client, row.domain, row.packets) for row in scene.ask(Ask(0.0, "list", "")).rows}
    assert rows == {(C2, "", "evil.example", 3), (OTHER, CLIENT, "evil.example", 3)}
    scene.wall.held = {Target("9.9.9.9"): scene.time.passed + 9.0}
    (step,) = scene.ask(Ask(0.0, "plan", "")).steps
    assert [row.address for row in step.add] == [C2, OTHER]
    assert [row.address for row in step.remove] == ["9.9.9.9"]
    assert "does not know" in scene.ask(Ask(0.0, "weather", "")).error


def test_what_a_host_needs_and_what_is_garbage_is_not_blocked(scene: Scene) -> None:
    scene.settings = Egress(mode="enforce", never=("91.66.0.0/24",))
    scene.start()
    bad = Proposal(ip_address("2a01::1").packed, ip_address(CLIENT).packed, EVIL, "", 300.0)
    nameless = Proposal(ip_address("91.9.9.9").packed, b"", b"\x09x", "", 300.0)
    scene.client.xadd(ORDERS, {FIELD: b"\xc1 no message"})
    scene.client.xadd(ORDERS, {b"other": b"field"})
    scene.send(block(C2, "10.0.0.1"), Block(0.0, "n", (bad, nameless)), block("91.66.1.1"))
    assert scene.wall.targets() == {Target("91.66.1.1")}
    assert scene.agent.unreadable == 2
    assert scene.agent.desk.refused == 4
    assert scene.client.xlen(REFUSED) == 4


def test_an_address_that_becomes_the_hosts_own_is_freed(scene: Scene) -> None:
    agent = scene.build()
    news = [None, reserved({"an address of this host": [C2]})]
    agent._never = lambda: news.pop(0) if news else None
    scene.start(agent)
    scene.send(block(C2), block(OTHER))
    scene.look()
    assert scene.wall.targets() == {Target(OTHER)}


@pytest.mark.parametrize(("mode", "held"), [("observe", 0), ("enforce", 1)])
def test_a_mode_turned_down_takes_away_what_was_there(scene: Scene, mode: str, held: int) -> None:
    scene.start()
    scene.send(block(C2))
    scene.end()
    scene.mode = mode
    scene.start()
    scene.step()
    assert len(scene.wall.targets()) == held
    assert scene.wall.there == bool(held)
    assert scene.rows() == {Target(C2)}


def test_redis_away_at_the_start_rows_of_the_disk_are_held(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.kill()
    scene.wall.strike()
    scene.away = True
    scene.start()
    scene.step()
    assert scene.wall.targets() == {Target(C2)}
    scene.away = False
    scene.agent._due["join"] = 0.0
    scene.send(block(OTHER))
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}


def test_redis_away_meanwhile_all_goes_on_and_what_was_seen_waits(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "MAX_SEEN", 3)
    scene.start()
    scene.send(block(C2, ttl=3000.0))
    scene.agent._link.drop()
    scene.away = True
    scene.step()
    scene.wall.strike()
    scene.minute()
    assert scene.wall.targets() == {Target(C2)}
    for number in range(5):
        scene.agent.tell(Attempt(float(number), "router", b"\x0a\x14\x01\x02", b"\x5b\x42\x00\x50", 6, 443))
    scene.client.xadd(ORDERS, {FIELD: encode(block(OTHER))})
    scene.away = False
    scene.agent._due["join"] = 0.0
    scene.step()
    scene.step()
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}
    seen = [decode_seen(fields[FIELD]) for _, fields in scene.client.xrange(SEEN)]
    assert [event.at for entry in seen for event in entry.events] == [0.0, 1.0, 2.0]
    assert (scene.agent.lost, scene.agent.attempts) == (2, 3)


def test_a_redis_that_lost_everything_is_begun_anew(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.client.flushall()
    scene.client.xadd(ORDERS, {FIELD: encode(block(OTHER))}, id="5-1")  # a Redis whose clock is far behind
    scene.step()
    scene.agent._due["join"] = 0.0
    scene.step()
    assert scene.agent._keeper.position == "5-1"
    scene.client.xadd(ORDERS, {FIELD: encode(block("91.66.0.99"))})
    scene.step()
    assert scene.wall.targets() == {Target(C2), Target("91.66.0.99")}  # the one of 1970 has run out
    assert scene.agent._keeper.position != BEGINNING


def test_a_table_a_stranger_took_is_there_again_within_a_minute(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.wall.strike()
    scene.minute()
    assert scene.wall.targets() == {Target(C2)}
    scene.wall.strike()
    scene.send(block(OTHER))  # an order meets the hole first
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}


def test_a_table_taken_while_it_was_down_is_there_after_the_start(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.kill()
    scene.wall.strike()
    scene.start()
    assert scene.wall.targets() == {Target(C2)}


def test_elements_missing_or_of_others_are_mended(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2), block(OTHER))
    scene.wall.held = {Target(C2): float("inf"), Target("91.66.0.99"): scene.time.passed + 5000.0}
    scene.minute()
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}
    assert scene.wall.held[Target(C2)] < scene.time.passed + 600.0


def test_killed_it_takes_up_its_rows_and_what_was_ordered_meanwhile(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.kill()
    scene.client.xadd(ORDERS, {FIELD: encode(block(OTHER))})
    scene.start()
    scene.step()
    assert scene.wall.targets() == scene.rows() == {Target(C2), Target(OTHER)}
    assert len(scene.agent.desk.ledger.transactions()) == 2


def test_killed_between_the_disk_and_redis_an_order_is_not_done_twice(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.start()
    scene.send(block(C2), Release(0.0, "ann", "test", domain=EVIL))

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Link, "finish", die)
    scene.client.xadd(ORDERS, {FIELD: encode(Undo(0.0, "ann", number=2))})
    with pytest.raises(KeyboardInterrupt):
        scene.step()
    monkeypatch.undo()
    scene.kill()
    scene.start()
    scene.step()
    assert [each.what for each in scene.agent.desk.ledger.transactions()][2:] == ["undo 2"]
    assert scene.wall.targets() == {Target(C2)}
    assert scene.client.xpending(ORDERS, "router")["pending"] == 0


@pytest.mark.parametrize("jump", [86_400.0, -86_400.0, 1e9])
def test_a_clock_that_jumps_lengthens_no_block(scene: Scene, jump: float) -> None:
    scene.start()
    scene.send(block(C2))
    end = scene.wall.held[Target(C2)]
    scene.time.wall += jump
    scene.look()
    assert scene.wall.targets() == {Target(C2)}
    assert scene.wall.held[Target(C2)] == pytest.approx(end, abs=1.5)
    scene.kill()
    scene.start()
    assert scene.wall.held[Target(C2)] == pytest.approx(end, abs=1.5)
    left = scene.wall.held[Target(C2)] - scene.time.passed  # less than 600 by what passed before the order was read
    assert 500.0 < left < 601.5
    scene.time.go(left - 1.0)
    scene.look()
    assert scene.wall.targets() == {Target(C2)}
    scene.time.go(2.5)
    assert scene.wall.targets() == set()
    scene.look()
    assert scene.wall.targets() == scene.rows() == set()


def test_a_clock_set_back_while_it_was_down_lengthens_no_block_past_the_longest(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.kill()
    scene.time.wall -= 10 * 86_400.0
    scene.start()
    assert scene.wall.held[Target(C2)] <= scene.time.passed + Lifetimes().ceiling


def test_a_full_set_blocks_what_fits_says_so_and_mends(scene: Scene) -> None:
    scene.wall.room = 2
    scene.start()
    scene.send(block(C2, OTHER, "91.66.0.82"))
    assert len(scene.wall.targets()) == 2
    assert "full" in scene.troubles()["nftables"]
    scene.wall.room = 10
    scene.minute()
    assert scene.wall.targets() == scene.rows()
    assert scene.troubles() == {}


def test_a_firewall_that_says_no_is_tried_again_and_keeps_no_other_from_being_told(scene: Scene) -> None:
    second = Wall(scene.time)
    posts: list[Post] = [
        Front(name, lambda wall=wall: wall, active=True, monotonic=lambda: scene.time.passed)  # type: ignore[misc]
        for name, wall in (("first", scene.wall), ("second", second))
    ]
    scene.start(scene.build(posts=posts))
    scene.wall.says_no = "Operation not permitted"
    scene.send(block(C2))
    assert second.targets() == {Target(C2)}
    assert scene.troubles() == {"first": "Operation not permitted"}
    assert scene.ask(Release(0.0, "ann", "test", address=b"\x09\x09\x09\x09")).error == "first: Operation not permitted"
    scene.wall.says_no = ""
    scene.time.go(2.0)
    scene.step()
    assert scene.wall.targets() == {Target(C2)}
    assert scene.troubles() == {}


def test_a_firewall_in_a_thread_of_its_own_converges(scene: Scene) -> None:
    far = Wall(scene.time)
    side = Side(Front("far", lambda: far, active=True, monotonic=lambda: scene.time.passed), scene.time.clock())
    front = Front("nftables", lambda: scene.wall, active=True, monotonic=lambda: scene.time.passed)
    scene.start(scene.build(posts=[front, side]))
    scene.send(block(C2), block(OTHER), Release(0.0, "ann", "test", address=ip_address(OTHER).packed))
    _until(lambda: far.targets() == {Target(C2)})
    scene.ask(Panic(0.0, "ann", "test", on=True))
    _until(lambda: far.targets() == set())
    scene.ask(Panic(0.0, "ann", "test", on=False))
    _until(lambda: far.targets() == {Target(C2)})
    assert scene.troubles() == {}


def test_a_disk_that_takes_nothing_stops_no_block_and_loses_no_order(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.start()
    scene.send(block(C2))

    def full(*_: object, **__: object) -> None:
        raise Unwritable("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", full)
        patched.setattr(Store, "replace", full)
        scene.send(block(OTHER))
        assert scene.wall.targets() == {Target(C2), Target(OTHER)}
        assert "No space" in scene.troubles()["state file"]
        scene.kill()
    scene.wall.strike()
    scene.start()
    scene.step()
    assert scene.wall.targets() == {Target(C2), Target(OTHER)}
    assert scene.troubles() == {}


def test_a_disk_that_has_room_again_has_all(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.start()

    def full(*_: object, **__: object) -> None:
        raise Unwritable("No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "commit", full)
        patched.setattr(Store, "replace", full)
        scene.send(block(C2))
    scene.step()
    assert scene.troubles() == {}
    scene.kill()
    scene.client.flushall()
    scene.start()
    assert scene.wall.targets() == {Target(C2)}


def test_a_damaged_state_file_is_moved_aside_and_the_stream_read_again(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    scene.kill()
    for ending in ("-wal", "-shm"):
        Path(f"{scene.path}{ending}").unlink(missing_ok=True)
    scene.path.write_bytes(b"no database at all " * 100)
    scene.wall.strike()
    scene.start()
    assert scene.wall.targets() == set()
    scene.step()
    assert scene.wall.targets() == {Target(C2)}
    assert scene.path.with_name("router.sqlite.damaged-1").exists()


def test_a_second_agent_of_the_name_does_not_start(scene: Scene, tmp_path: Path) -> None:
    scene.start()
    scene.step()
    first = scene.agent
    with pytest.raises(Unavailable, match="another agent runs"):
        scene.build()._begin()
    scene.time.go(1.0)
    second = scene.build(path=tmp_path / "elsewhere.sqlite")
    second._begin()
    second._read()
    assert not second._link.is_joined  # it waits to see whether the other lives
    scene.time.go(1.0)
    first._round()
    with pytest.raises(Unavailable, match="is called router"):
        second._read()
    second._end()
    assert first._link.is_joined


def test_of_two_that_meet_the_later_one_ends(scene: Scene, tmp_path: Path) -> None:
    scene.start()
    scene.step()
    scene.client.hdel(AGENTS, "router")
    scene.time.go(1.0)
    second = scene.build(path=tmp_path / "elsewhere.sqlite")
    second._begin()
    second._read()
    assert second._link.is_joined
    scene.step()
    with pytest.raises(Unavailable, match="is called router"):
        second._round()
    second._end()
    assert scene.agent._link.is_joined


def test_a_heartbeat_says_how_it_fares_and_goes_with_it(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2, "10.0.0.1"))
    scene.step()
    told = beat(scene.client.hget(AGENTS, "router"))
    assert told is not None
    assert (told.name, told.mode, told.panic, told.rows, told.blocked, told.refused) == (
        "router", "enforce", False, 1, 1, 1,
    )  # fmt: skip
    assert told.firewalls == {"nftables": ""}
    assert abs(told.at - scene.client.time()[0]) < 30.0
    scene.end()
    assert scene.client.hget(AGENTS, "router") is None


def test_an_answer_refreshed_costs_the_firewall_nothing_until_the_end_moved(scene: Scene) -> None:
    scene.start()
    scene.send(block(C2))
    before = scene.wall.applied
    scene.time.go(5.0)
    scene.send(block(C2))
    assert scene.wall.applied == before
    scene.agent._link.ahead -= 300.0  # Redis' clock stands beside the test's
    scene.time.go(300.0)
    scene.send(block(C2))
    assert scene.wall.applied == before + 1
    assert scene.wall.held[Target(C2)] - scene.time.passed == pytest.approx(600.0, abs=30.0)


def test_a_firewall_that_is_slow_to_tell_is_not_told_all_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.start()
    scene.send(block(C2), block(OTHER))
    before, present = scene.wall.applied, scene.wall.present

    def slowly() -> list[Standing]:
        scene.time.go(3.0)
        return present()

    monkeypatch.setattr(scene.wall, "present", slowly)
    scene.look()
    assert scene.wall.applied == before
    scene.wall.held[Target(C2)] += 60.0
    scene.look()
    assert scene.wall.applied == before + 1


def _until(true: Callable[[], bool]) -> None:
    import select
    import time

    deadline = time.monotonic() + 60.0
    while not true():
        assert time.monotonic() < deadline
        select.select((), (), (), 0.005)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_a_quiet_minute_later_the_firewall_holds_what_is_wanted(scene: Scene, seed: int) -> None:
    chance = random.Random(seed)
    scene.wall.room = 12
    scene.start()
    addresses = [f"91.66.0.{number}" for number in range(20)]
    domains = [EVIL, BELOW, FINE]

    def order() -> Order:
        some = chance.sample(addresses, chance.randint(1, 4))
        kind = chance.randrange(9)
        if kind == 0:
            return Release(0.0, "ann", "x", address=ip_address(some[0]).packed)
        if kind == 1:
            return Release(0.0, "ann", "x", domain=chance.choice(domains), until=scene.time.wall + 60.0)
        if kind == 2:
            return Undo(0.0, "ann", number=chance.randint(1, 20))
        if kind == 3:
            return Panic(0.0, "ann", "x", on=chance.random() < 0.5)
        client = chance.choice(["", "", CLIENT])
        return block(*some, client=client, domain=chance.choice(domains), ttl=chance.choice([1.0, 400.0, 4000.0]))

    def restart() -> None:
        scene.kill()
        scene.start()

    def refuse() -> None:
        scene.wall.says_no = "" if scene.wall.says_no else "no"

    accidents: list[Callable[[], None]] = [
        restart,
        refuse,
        scene.wall.strike,
        scene.agent._link.drop,
        lambda: scene.time.go(chance.uniform(0.0, 400.0)),
        lambda: setattr(scene.time, "wall", scene.time.wall + chance.choice([-5000.0, 5000.0])),
        scene.wall.held.clear,
    ]
    for _ in range(60):
        if chance.random() < 0.3:
            chance.choice(accidents)()
        scene.client.xadd(ORDERS, {FIELD: encode(order())})
        scene.agent._due["join"] = 0.0
        scene.step()
    scene.wall.says_no, scene.wall.room = "", 1_000_000
    scene.agent._due["join"] = 0.0
    scene.minute()
    scene.look()
    now = scene.agent._clock()
    living = {
        Target(str(ip_address(row.address)), str(ip_address(row.client)) if row.client else "")
        for row in scene.agent.desk.ledger
        if row.expires > now
    }
    assert scene.wall.targets() == (set() if scene.agent.desk.panic else living)
    ends = scene.agent.desk.ledger.ends({row.destination for row in scene.agent.desk.ledger})
    latest = max((end - now for end in ends.values()), default=0.0)
    assert all(end - scene.time.passed <= latest + 1.5 for end in scene.wall.held.values())
