"""A whole node whose clock jumps by a day, at each time: the row `clock jumps` of docs/failure.md."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from failure.around import BLOCKED, PATIENCE, SINKHOLE, Clock, healthy, heard, works
from node import FEED_TWO, Node, config, data
from running import processes, reload, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet

DAY = 86_400.0
JUMPS = [DAY, -DAY]


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clock]:
    with Clock(tmp_path_factory.mktemp("clock")).worn() as worn:
        yield worn


@pytest.fixture(scope="module")
def node(internet: Internet, tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[Node]:
    folder = tmp_path_factory.mktemp("node")
    with Node(internet, folder, config(internet, folder) + "[sinkhole]\nttl = 30\n") as up:
        yield up
        up.stop()
        assert up.code == 0, up.output()
        assert "Traceback" not in up.output()


@pytest.fixture(autouse=True)
def now(node: Node, clock: Clock) -> Iterator[None]:
    """Each test begins at the true time."""
    clock.shift(0.0)
    healthy(node)
    yield
    clock.shift(0.0)


def test_the_node_reads_the_clock_of_the_test(node: Node, clock: Clock) -> None:
    clock.shift(DAY)
    assert heard(node)["at"] - time.time() == pytest.approx(DAY, abs=PATIENCE)


@pytest.mark.parametrize("jump", JUMPS)
def test_running_nothing_stops_and_the_log_goes_on(node: Node, clock: Clock, jump: float) -> None:
    before = processes(node)
    clock.shift(jump)
    works(node)
    name = f"{'plus' if jump > 0 else 'minus'}.many.net"
    assert data(node.ask(name)) == ["192.0.2.200"]
    row = node.logged(lambda row: row["qname"] == name)
    assert row["client"] == "127.0.0.1"
    healthy(node)
    assert processes(node) == before


def test_running_news_of_feeds_and_analysts_still_arrive(node: Node, clock: Clock) -> None:
    for jump, more, expected in ((DAY, "0.0.0.0 many.net\n", "192.0.2.1"), (-DAY, "", "192.0.2.200")):
        clock.shift(jump)
        (node.folder / "two.txt").write_text(FEED_TWO + more)
        node.cli("feeds", "update")
        node.wait(lambda expected=expected: data(node.ask("www.many.net")) == [expected], PATIENCE)
    node.cli("block", "www.six.net", "--reason", "test")
    node.wait(lambda: data(node.ask("www.six.net")) == SINKHOLE, PATIENCE)  # the command waits for two seconds
    node.cli("forget", "www.six.net")


def test_an_override_ends_by_the_clock_of_the_wall(node: Node, clock: Clock) -> None:
    node.cli("allow", BLOCKED, "--for", "10m", "--reason", "test")
    node.wait(lambda: data(node.ask(BLOCKED)) != SINKHOLE, PATIENCE)  # the command waits for two seconds
    clock.shift(DAY)
    node.wait(lambda: data(node.ask(BLOCKED)) == SINKHOLE, PATIENCE)
    clock.shift(0.0)
    node.cli("forget", BLOCKED, ok=False)
    works(node)


@pytest.mark.parametrize("jump", JUMPS)
def test_a_reload_after_a_jump_is_taken(node: Node, clock: Clock, jump: float) -> None:
    clock.shift(jump)
    ttl = 50 if jump > 0 else 60
    rewrite(node, "[sinkhole]\nttl = ", f"[sinkhole]\nttl = {ttl} # ")
    reload(node)
    works(node)
    assert node.ask(BLOCKED).answer[0].ttl == ttl
    healthy(node)


def test_a_start_after_a_jump_serves_by_the_last_state(internet: Internet, node: Node, clock: Clock) -> None:
    node.stop()
    for jump in JUMPS:
        clock.shift(jump)
        again = Node(internet, node.folder, node.config.read_text())
        with again:
            works(again)
            healthy(again)
        assert again.code == 0
        assert "Traceback" not in again.output()
