"""How a node starts when something is missing: by its last state, or not at all, but never unfiltered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.rcode
from node import Node, config, data, ede

if TYPE_CHECKING:
    from pathlib import Path

    from internet import Internet


def test_a_start_without_feeds_and_without_redis_blocks_by_the_last_state(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path)
    with Node(internet, tmp_path, text) as first:
        assert data(first.ask("malware.example")) == ["192.0.2.1"]
    assert first.code == 0, first.output()
    for feed in ("one.txt", "two.txt"):
        (tmp_path / feed).unlink()
    away = text + f'[redis]\nurl = "unix://{tmp_path}/nobody.sock"\n'
    with Node(internet, tmp_path, away) as second:
        assert data(second.ask("malware.example")) == ["192.0.2.1"]
        second.wait(lambda: any("redis" in line for line in second.status()["degraded"]))


def test_a_first_start_without_any_feed_answers_nothing_unfiltered(internet: Internet, tmp_path: Path) -> None:
    text = config(internet, tmp_path)
    for feed in ("one.txt", "two.txt"):
        (tmp_path / feed).rename(tmp_path / f"{feed}.away")
    node = Node(internet, tmp_path, text)
    node.start()
    try:
        node.wait(lambda: "no feed could be had" in node.output())
        reply = node.ask("www.good.com")
        assert reply.rcode() == dns.rcode.SERVFAIL
        assert ede(reply)[0][0] == 14
        for feed in ("one.txt", "two.txt"):
            (tmp_path / f"{feed}.away").rename(tmp_path / feed)
        node.cli("feeds", "update")
        node.wait(lambda: data(node.ask("www.good.com")) == ["192.0.2.11"])
        assert data(node.ask("malware.example")) == ["192.0.2.1"]
    finally:
        node.stop()


def test_stopping_right_after_the_start_leaves_nothing_behind(internet: Internet, tmp_path: Path) -> None:
    for _ in range(2):
        with Node(internet, tmp_path, config(internet, tmp_path)) as node:
            node.stop()
        assert node.code == 0, node.output()
        assert "Traceback" not in node.output()
