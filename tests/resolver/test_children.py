"""Children of the supervisor as real processes: deaths, silence, hand-over, and a configuration that does not do."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from core.config import Config, Sinkhole
from resolver import children
from resolver.children import BACKOFF, MAX_SILENT, Child, Line
from resolver.rollout import Rollout, with_fixed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

OLD = Config()
NEW = Config(sinkhole=Sinkhole(ttl=7))
BROKEN = Config(sinkhole=Sinkhole(ttl=666))


class Nursery:
    """A few children and the supervisor's part of the loop."""

    def __init__(self) -> None:
        self.line = Line()
        self.children: list[Child] = []
        self.now = 0.0  # of the last turn

    def add(self, name: str, *, overlap: bool, speaks: bool = True) -> Child:
        def body(config: Config) -> None:
            if config == BROKEN and name == "w1":
                raise SystemExit(3)
            if speaks:
                self.line.alive(ready=True)
            signal.pause()

        child = Child(name, body, OLD, title=name, overlap=overlap)
        self.children.append(child)
        return child

    def turn(self) -> list[int]:
        """One turn of the loop; returns the exit codes of those that died unasked."""
        now = self.now = time.monotonic()
        for child in self.children:
            child.keep(now)
        for pid, ready in self.line.hear():
            for child in self.children:
                child.hear(pid, now, ready=ready)
        codes = [child.reap(now) for child in self.children]
        return [code for code in codes if code is not None]

    def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline
            self.turn()
            time.sleep(0.002)

    def roll(self, fresh: Config) -> bool:
        rollout = Rollout(self.children, fresh=fresh, before=OLD)
        found: list[bool | None] = [None]

        def step() -> bool:
            found[0] = rollout.step(time.monotonic())
            return found[0] is not None

        self.until(step)
        return bool(found[0])


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    for child in made.children:
        child.end(time.monotonic())
    for process in [process for child in made.children for process in child.processes()]:
        os.waitpid(process.pid, 0)


def pid(child: Child) -> int:
    assert child.serving is not None
    return child.serving.pid


def test_a_dead_child_is_back_soon_and_later_each_time(nursery: Nursery) -> None:
    child = nursery.add("w0", overlap=True)
    pauses = []
    for _ in range(3):
        nursery.until(lambda: child.serving is not None and child.serving.ready)
        os.kill(pid(child), signal.SIGKILL)
        nursery.until(lambda: child.serving is None)
        pauses.append(child.due - nursery.now)
    assert pauses == pytest.approx(BACKOFF[:3])
    assert BACKOFF[0] <= 0.1


def test_a_worker_that_says_nothing_is_killed_and_the_hub_is_not(nursery: Nursery) -> None:
    silent, hub = nursery.add("w0", overlap=True, speaks=False), nursery.add("hub", overlap=False, speaks=False)
    nursery.turn()
    first = pid(silent), pid(hub)
    for _ in range(MAX_SILENT):
        silent.look()
        hub.look()
    assert nursery.turn() == []
    silent.look()
    hub.look()
    nursery.until(lambda: silent.serving is not None and pid(silent) != first[0])
    assert pid(hub) == first[1]


def test_a_new_configuration_reaches_all_and_workers_overlap(nursery: Nursery) -> None:
    workers = [nursery.add(f"w{number}", overlap=True) for number in range(2)]
    hub = nursery.add("hub", overlap=False)
    nursery.until(lambda: all(child.serving and child.serving.ready for child in nursery.children))
    before = [pid(child) for child in nursery.children]
    assert nursery.roll(NEW)
    assert [child.config for child in (*workers, hub)] == [NEW] * 3
    assert not set(before) & {pid(child) for child in nursery.children}


def test_one_that_does_not_start_brings_all_back(nursery: Nursery) -> None:
    first, second = (nursery.add(f"w{number}", overlap=True) for number in range(2))
    hub = nursery.add("hub", overlap=False)
    nursery.until(lambda: all(child.serving and child.serving.ready for child in nursery.children))
    kept = pid(second), pid(hub)
    assert not nursery.roll(BROKEN)
    assert [child.config for child in (first, second, hub)] == [OLD] * 3
    assert (pid(second), pid(hub)) == kept
    assert first.serving is not None
    assert first.serving.ready


def test_one_that_never_serves_is_given_up(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "READY_LIMIT", 0.05)
    child = nursery.add("w0", overlap=True, speaks=False)
    nursery.turn()
    nursery.line.alive(ready=True)  # this process speaks, which is none of the nursery's
    nursery.turn()
    assert child.serving is not None
    assert not child.serving.heard
    child.serving.heard = child.serving.ready = True
    kept = pid(child)
    assert not nursery.roll(NEW)
    assert pid(child) == kept


def test_a_child_has_a_name_and_ignores_hangups(nursery: Nursery) -> None:
    child = nursery.add("w0", overlap=True)
    nursery.until(lambda: child.serving is not None and child.serving.ready)
    assert Path(f"/proc/{pid(child)}/comm").read_text() == "plughole-w0\n"
    os.kill(pid(child), signal.SIGHUP)
    os.kill(pid(child), signal.SIGTERM)
    nursery.until(lambda: child.serving is None)  # by the second of the two


def test_what_a_running_node_cannot_change_stays_and_is_named() -> None:
    running = msgspec.structs.replace(OLD, server=msgspec.structs.replace(OLD.server, listen=("192.0.2.1:53",)))
    fresh = msgspec.structs.replace(
        NEW,
        server=msgspec.structs.replace(NEW.server, workers=9, udp_size=512),
        redis=msgspec.structs.replace(NEW.redis, url="redis://192.0.2.1"),
    )
    found, differ = with_fixed(fresh, running=running, asked=OLD)
    assert differ == ["server.workers", "redis.url"]
    assert (found.server.listen, found.server.workers, found.redis.url) == (("192.0.2.1:53",), 0, "embedded")
    assert (found.server.udp_size, found.sinkhole.ttl) == (512, 7)
