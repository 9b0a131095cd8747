"""What a node does when a part is away or broken while it reloads: the column `at reload` of docs/failure.md."""

from __future__ import annotations

import os
import signal
import socket
from typing import TYPE_CHECKING

import dns.rcode
import pytest
from failure.around import (
    BLOCKED,
    PATIENCE,
    SINKHOLE,
    SOURCES,
    Redis,
    degraded,
    flip,
    healthy,
    heard,
    kill,
    unfiltered,
    works,
)
from internet import SILENT
from node import Node, data, ede
from running import events, pid_of, processes, reload, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator

    from internet import Internet


@pytest.fixture(autouse=True)
def kept(node: Node) -> Iterator[None]:
    """Each test finds and leaves the node healthy, on the configuration of the start."""
    good = node.config.read_text()
    healthy(node)
    yield
    if node.config.read_text() != good:
        node.config.write_text(good)
        reload(node)


def test_redis_away_at_a_reload_costs_news_only(node: Node, own_redis: Redis) -> None:
    own_redis.stop()
    try:
        before = processes(node)
        reload(node)
        works(node)
        assert "redis: away for" in degraded(node, "redis")
        assert processes(node)["plughole-hub"] != before["plughole-hub"]
    finally:
        own_redis.start()
    healthy(node)


def test_a_reload_into_a_silent_upstream_is_taken_blocks_and_is_taken_back(node: Node) -> None:
    assert data(node.ask("www.good.com")) == ["192.0.2.11"]
    good = node.config.read_text()
    rewrite(node, 'mode = "recursive"\n', f'mode = "forward"\nservers = ["{SILENT}"]\ndnssec = false\n')
    rewrite(node, "timeout = 3.0", "timeout = 0.5")
    reload(node)
    assert data(node.ask(BLOCKED)) == SINKHOLE
    assert data(node.ask("office.corp.example")) == ["192.0.2.7"]
    reply = node.ask("www.good.com", timeout=PATIENCE)
    assert reply.rcode() == dns.rcode.SERVFAIL, "the cache goes with the old workers"
    assert ede(reply)[0][0] in (22, 23)
    node.config.write_text(good)
    reload(node)
    works(node)


@pytest.mark.parametrize("title", ["hub", "w0"])
def test_a_process_killed_during_a_reload_leaves_one_configuration_in_force(node: Node, title: str) -> None:
    rewrite(node, "[redis]", "[sinkhole]\nttl = 77\n[redis]")
    outcomes = len(events(node, "reload"))
    before = processes(node)
    os.kill(pid_of(node), signal.SIGHUP)
    node.wait(lambda: processes(node).get(f"plughole-{title}") != before[f"plughole-{title}"], PATIENCE)
    kill(node, title)
    node.wait(lambda: len(events(node, "reload")) > outcomes, PATIENCE)
    ttl = 77 if events(node, "reload")[-1]["event"] == "reloaded" else 30
    works(node)
    assert {node.ask(BLOCKED, source=source).answer[0].ttl for source in SOURCES} == {ttl}


def test_a_reload_asks_no_feed_and_a_wrong_one_changes_nothing(node: Node) -> None:
    generation = heard(node)["intel"]["generation"]
    rewrite(node, "/one.txt", "/nowhere.txt")
    reload(node)
    works(node)
    assert heard(node)["intel"]["generation"] == generation
    done = node.cli("feeds", "update", ok=False)
    assert "nowhere.txt: No such file or directory; the last good copy stays" in done.stdout + done.stderr
    works(node)
    assert ede(node.ask(BLOCKED)) == [(15, f"c2: {BLOCKED} is listed by one, two")]


@pytest.mark.parametrize(
    ("file", "text", "mistake"),
    [
        ("hosts", "nonsense\n", "local.hosts: {folder}/hosts:1: "),
        ("secrets", "nonsense\n", "{folder}/secrets, line 1: not a cookie secret"),
        ("hosts", None, "{folder}/hosts"),
        ("secrets", None, "{folder}/secrets"),
    ],
)
def test_a_bad_hosts_or_secrets_file_refuses_the_reload(node: Node, file: str, text: str | None, mistake: str) -> None:
    path = node.folder / file
    good, before = path.read_text(), processes(node)
    try:
        path.unlink()
        if text is not None:
            path.write_text(text)
        reload(node, "reload refused")
    finally:
        path.write_text(good)
    assert mistake.format(folder=node.folder) in events(node, "mistake in the configuration")[-1]["mistake"]
    assert processes(node) == before
    works(node)
    assert data(node.ask("office.corp.example")) == ["192.0.2.7"]


def test_a_damaged_index_at_a_reload_is_fetched_again_and_nothing_passes_meanwhile(node: Node) -> None:
    mended = len(events(node, "index damaged"))
    [path] = [node.folder / "var" / "intel" / heard(node)["intel"]["index"]]
    whole = path.read_bytes()
    path.unlink()  # the workers have the old file mapped
    path.write_bytes(whole)
    flip(path)
    outcomes = len(events(node, "reloaded"))
    os.kill(pid_of(node), signal.SIGHUP)
    while len(events(node, "reloaded")) == outcomes:
        assert unfiltered(node) == []
    works(node)
    assert len(events(node, "index damaged")) == mended + 1
    assert path.read_bytes() == whole


def test_a_damaged_state_file_at_a_reload_is_written_again(node: Node) -> None:
    path = node.folder / "var" / "intel" / "state"
    whole = path.read_bytes()
    path.write_bytes(b"no state")
    outcomes = len(events(node, "reloaded"))
    os.kill(pid_of(node), signal.SIGHUP)
    while len(events(node, "reloaded")) == outcomes:
        assert unfiltered(node) == []
    works(node)
    assert path.read_bytes() == whole


def test_a_taken_metrics_port_at_a_reload_costs_metrics_only(internet: Internet, node: Node) -> None:
    rewrite(node, "[upstream]", 'metrics = "127.0.0.1:9153"\n[upstream]')
    with internet.inside(), socket.create_server(("127.0.0.1", 9153)):
        reload(node)
        works(node)
        assert "cannot listen on 127.0.0.1:9153" in degraded(node, "metrics")
    healthy(node)
