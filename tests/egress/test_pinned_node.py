"""A whole node and the agent's side of pins: what clients of the node are answered is open before they know it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from node import Node, config, data
from running import reload

from core.config_load import load
from egress.pins.server import PinServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from internet import Internet

PINNED, FREE = "127.0.0.3", "127.0.0.4"
OTHERS = [f"127.0.3.{number}" for number in range(1, 9)]  # pinned as well
SITE = "192.0.2.11"
PINS = f"""
[egress]
mode = "enforce"
[[egress.pin]]
name = "office"
clients = ["{PINNED}/32", "127.0.3.0/24"]
mode = "enforce"
"""

pytestmark = pytest.mark.skipif(shutil.which("nft") is None, reason="nft is missing (package nftables)")


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def nft(internet: Internet, *words: str) -> int:
    command = ["ip", "netns", "exec", internet.name, "nft", *words]
    return subprocess.run(command, capture_output=True).returncode


@pytest.fixture(autouse=True)
def swept(internet: Internet) -> Iterator[None]:
    """The internet lasts for all tests; no table of pins does."""
    yield
    nft(internet, "delete", "table", "inet", "plughole_pins")


def is_open(internet: Internet, client: str) -> bool:
    """Whether the kernel has the pair; the agent is asked by nobody."""
    return nft(internet, "get", "element", "inet", "plughole_pins", "allow4", f"{{ {client} . {SITE} }}") == 0


def started(internet: Internet, node: Node) -> PinServer:
    server = PinServer(load(node.config, {}), settling=0.0)
    with internet.inside():
        server.start(lambda _: None)
    return server


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_what_a_pinned_client_is_answered_is_open_when_it_has_the_reply(
    internet: Internet, tmp_path: Path, *, tcp: bool
) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path) + PINS) as node:
        assert data(node.ask("www.good.com", source=PINNED)) == [SITE]  # nobody listens, nobody waits
        server = started(internet, node)
        try:
            until(lambda: server.counters()["pin_workers"] == 2)
            assert not is_open(internet, PINNED)
            assert data(node.ask("www.good.com", source=FREE, tcp=tcp)) == [SITE]
            asked = []
            for client in (PINNED, *OTHERS):  # the best of them: a reply waits 5 ms at most for the agent
                asked.append(client)
                assert data(node.ask("www.good.com", source=client, tcp=tcp)) == [SITE]
                if opened := is_open(internet, client):
                    break
            assert opened
            until(lambda: all(is_open(internet, client) for client in asked))
            assert not is_open(internet, FREE)
            told = server.counters()["pin_told"]
            assert data(node.ask("malware.example", source=PINNED)) == ["192.0.2.1"]
            assert server.counters()["pin_told"] == told
        finally:
            server.stop()
    assert node.code == 0, node.output()


def test_new_workers_and_a_new_agent_find_each_other(internet: Internet, tmp_path: Path) -> None:
    with Node(internet, tmp_path, config(internet, tmp_path) + PINS) as node:
        server = started(internet, node)
        until(lambda: server.counters()["pin_workers"] == 2)
        reload(node)
        until(lambda: server.counters()["pin_workers"] == 2)
        server.stop()
        assert data(node.ask("www.good.com", source=PINNED)) == [SITE]
        again = started(internet, node)
        try:
            until(lambda: again.counters()["pin_workers"] == 2)
            for client in (PINNED, *OTHERS):
                assert data(node.ask("www.good.com", source=client)) == [SITE]
                if opened := is_open(internet, client):
                    break
            assert opened
            until(lambda: again.holding)
        finally:
            again.stop()
    assert "Traceback" not in node.output()
