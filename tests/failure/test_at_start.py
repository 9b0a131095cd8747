"""What a node does when a part is missing or broken while it starts: the column `at start` of docs/failure.md."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import dns.rcode
import pytest
from failure.around import BLOCKED, PATIENCE, SINKHOLE, degraded, flip, healthy, heard, kill, unfiltered, works
from internet import SILENT
from node import CLI, REPOSITORY, Node, config, data, ede
from running import events

if TYPE_CHECKING:
    from pathlib import Path

    from internet import Internet

RECURSIVE = 'mode = "recursive"\n'


@pytest.fixture(scope="module")
def left(internet: Internet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder a node left behind when it stopped."""
    folder = tmp_path_factory.mktemp("left")
    with Node(internet, folder, config(internet, folder)) as node:
        works(node)
    assert node.code == 0, node.output()
    return folder / "var"


@pytest.fixture
def once(internet: Internet, left: Path, tmp_path: Path) -> Node:
    """A node that ran before."""
    shutil.copytree(left, tmp_path / "var", ignore=shutil.ignore_patterns("*.sock"))
    return Node(internet, tmp_path, config(internet, tmp_path))


def test_the_private_redis_does_not_start_and_the_last_state_serves(once: Node, tmp_path: Path) -> None:
    [log] = (tmp_path / "var" / "redis" / "appendonlydir").glob("*.incr.aof")
    whole = log.read_bytes()
    log.write_bytes(b"no command of Redis" + whole)
    with once:
        works(once)
        assert degraded(once, "redis").startswith("redis: away for")
        once.wait(lambda: bool(events(once, "process cannot work")), PATIENCE)
        assert "Bad file format" in events(once, "process cannot work")[0]["reason"]
        draft = tmp_path / "whole.aof"
        draft.write_bytes(whole)
        draft.replace(log)  # at once: a Redis that starts meanwhile cuts what looks half written
        healthy(once)


def test_a_silent_upstream_fails_names_in_time_and_blocks_the_listed(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path).replace(RECURSIVE, f'mode = "forward"\nservers = ["{SILENT}"]\ndnssec = false\n')
    with Node(internet, tmp_path, text.replace("timeout = 3.0", "timeout = 1.0")) as node:
        reply = node.ask("www.good.com", timeout=PATIENCE)
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert ede(reply)[0][0] in (22, 23)
        assert data(node.ask(BLOCKED)) == SINKHOLE
        node.wait(lambda: f"note: no answer from {SILENT}" in node.output(), PATIENCE)


def test_processes_killed_at_the_start_are_started_again(internet: Internet, tmp_path: Path) -> None:
    titles = ("w0", "w1", "hub")
    node = Node(internet, tmp_path, config(internet, tmp_path))
    node.start()
    try:
        for title in titles:
            kill(node, title)
        node.wait(lambda: "dig" in node.output(), PATIENCE)
        works(node)
        node.wait(lambda: len(events(node, "process died, starting it again")) >= len(titles), PATIENCE)
        assert len(events(node, "process died, starting it again")) == len(titles)
        healthy(node)
    finally:
        node.stop()


def test_a_first_start_with_bad_feeds_serves_by_the_others(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path) + f'[[feeds.source]]\nname = "gone"\nurl = "file://{tmp_path}/nowhere.txt"\n'
    (tmp_path / "one.txt").write_text("<!doctype html><html>login first</html>")
    with Node(internet, tmp_path, text) as node:
        works(node)
        assert ede(node.ask(BLOCKED)) == [(15, f"malware: {BLOCKED} is listed by two")]
        said = {line["name"]: line for line in events(node, "feed")}
        assert {name: line["status"] for name, line in said.items()} == {"one": "refused", "gone": "failed"}
        assert all("there is no earlier copy to use" in line["message"] for line in said.values())


@pytest.mark.parametrize(
    ("more", "file", "mistakes"),
    [
        ('[sinkhole]\nipv4 = "nonsense"\nunknown = 1\n', "", ["sinkhole.unknown: ", "sinkhole.ipv4: "]),
        ('[local]\nhosts = "hosts"\n', "nonsense\n", ["local.hosts: {folder}/hosts:1: "]),
        ('[server]\ncookie_secret_file = "hosts"\n', "short\n", ["{folder}/hosts, line 1: "]),
    ],
)
def test_a_wrong_configuration_or_file_ends_the_start_with_every_mistake(
    tmp_path: Path, more: str, file: str, mistakes: list[str]
) -> None:
    (tmp_path / "hosts").write_text(file)
    (tmp_path / "plughole.toml").write_text(more)
    command = [*CLI, "serve", "-c", str(tmp_path / "plughole.toml")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == len(mistakes)
    for line, mistake in zip(lines, mistakes, strict=True):
        assert mistake.format(folder=tmp_path) in line


def test_a_trust_anchor_that_is_none_is_not_called_healthy(internet: Internet, tmp_path: Path) -> None:
    (tmp_path / "bad.ds").write_text("this is no trust anchor\n")
    text = config(internet, tmp_path).replace(str(internet.trust_anchor), str(tmp_path / "bad.ds"))
    node = Node(internet, tmp_path, text)
    node.start()
    try:
        node.wait(lambda: bool(events(node, "generation in force")), PATIENCE)
        deaths = len(events(node, "process cannot work"))
        node.wait(lambda: len(events(node, "process cannot work")) >= deaths + 4, PATIENCE)
        found = heard(node)
        assert found["state"] != "healthy"
        assert "no worker has reported yet" in found["degraded"]
    finally:
        node.stop()


def test_a_damaged_index_is_fetched_again(once: Node, tmp_path: Path) -> None:
    [path] = (tmp_path / "var" / "intel").glob("*.index")
    flip(path)
    once.start()
    try:
        once.wait(lambda: bool(events(once, "index damaged")), PATIENCE)
        assert unfiltered(once) == []
        once.wait(lambda: "dig" in once.output(), PATIENCE)
        works(once)
        healthy(once)
    finally:
        once.stop()


def test_a_damaged_index_and_no_redis_answer_nothing_unfiltered_and_the_status_says_down(
    once: Node, tmp_path: Path
) -> None:
    once.config.write_text(once.config.read_text() + f'[redis]\nurl = "unix://{tmp_path}/nobody.sock"\n')
    [path] = (tmp_path / "var" / "intel").glob("*.index")
    os.truncate(path, 50)
    once.start()
    try:
        once.wait(lambda: len(events(once, "index refused")) >= 2, PATIENCE)
        assert once.ask(BLOCKED).rcode() == once.ask("www.good.com").rcode() == dns.rcode.SERVFAIL
        once.wait(lambda: once.cli("status", ok=False).stdout.startswith("down: every query gets SERVFAIL"), PATIENCE)
    finally:
        once.stop()


def test_a_damaged_state_file_is_made_anew(once: Node, tmp_path: Path) -> None:
    (tmp_path / "var" / "intel" / "state").write_bytes(b"no state")
    with once:
        works(once)
        healthy(once)


def test_a_taken_metrics_port_costs_metrics_only(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path).replace("[upstream]", 'metrics = "127.0.0.1:9153"\n[upstream]')
    with (
        internet.inside(),
        socket.create_server(("127.0.0.1", 9153)) as taken,
        Node(internet, tmp_path, text) as node,
    ):
        works(node)
        assert degraded(node, "metrics") == "metrics: cannot listen on 127.0.0.1:9153: Address already in use"
        node.wait(lambda: "free that port" in node.cli("status", ok=False).stdout, PATIENCE)
        taken.close()
        healthy(node)
