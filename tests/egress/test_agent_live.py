"""A whole agent on the real nftables and a real Redis: a router between a client and a server, in namespaces."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import routed
from routed import Routed, echoes, why_not

from core.config import Config
from core.config_load import load
from core.errors import Unavailable
from core.names import from_text
from egress.answers import decode
from egress.orders import ANSWER, FIELD, ORDERS, Ask, Block, Order, Panic, Release, encode
from egress.plan import Proposal
from feeds.redis import EmbeddedServer, connect, find_server

ROOT = Path(__file__).parents[2]
C2, NEIGHBOUR, CLIENT = routed.C2[4], routed.NEIGHBOUR[4], routed.CLIENT[4]
SOON = 0.25  # seconds from the order to the packet that no longer passes
PATIENCE = 20.0
SETTLE = 0.5  # seconds between looks at the firewall, in place of a minute
EVIL = from_text("evil.example")
LAUNCHER = f"""
import signal, sys
from pathlib import Path
from core.config_load import load
from egress.agent import Timing
from egress.assembly import build
from feeds.redis import connect
config = load(Path(sys.argv[1]), {{}})
agent = build(config, lambda: connect(config), timing=Timing(settle={SETTLE}))
signal.signal(signal.SIGTERM, lambda *_: agent.stop())
agent.run()
"""

_SKIPPED = why_not()
pytestmark = pytest.mark.skipif(bool(_SKIPPED), reason=_SKIPPED)


@pytest.fixture(scope="module")
def net() -> Iterator[Routed]:
    with Routed() as made:
        yield made


@pytest.fixture(scope="module")
def served() -> Iterator[Config]:
    """A Redis, and the configuration that leads to it."""
    try:
        find_server()
    except Unavailable as error:
        pytest.skip(f"needs Redis: {error}")
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:
        file = Path(folder) / "config.toml"
        file.write_text('[server]\ndata_dir = "."\n[egress]\nmode = "enforce"\nagent = "router"\nflows = false\n')
        config = load(file, {})
        server = EmbeddedServer(config)
        server.start()
        try:
            yield config
        finally:
            server.stop()


class Live:
    """An agent on the router, and its Redis."""

    def __init__(self, net: Routed, config: Config) -> None:
        self.net = net
        self.file = Path(config.base) / "config.toml"
        self.client: Any = connect(config)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = Path(config.base) / "agent.log"

    def start(self) -> None:
        with self.net.at("router"), self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", LAUNCHER, str(self.file)], cwd=ROOT, stdout=log, stderr=log,
                env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        assert self.ask(Ask(0.0, "list", "started"))["agent"] == "router", self._log.read_text()

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(PATIENCE)

    def send(self, order: Order) -> None:
        self.client.xadd(ORDERS, {FIELD: encode(order)})

    def ask(self, order: Any) -> dict[str, Any]:
        self.send(order)
        found = self.client.blpop([ANSWER + order.reply], timeout=PATIENCE)
        assert found, self._log.read_text()
        answer = decode(found[1])
        return {"agent": answer.agent, "text": answer.text, "error": answer.error, "rows": answer.rows}

    def elements(self) -> str:
        return self.net.nft("list", "set", "inet", "plughole", "block4")


@pytest.fixture
def live(net: Routed, served: Config) -> Iterator[Live]:
    agent = Live(net, served)
    agent.client.flushall()
    agent.start()
    yield agent
    if agent.process is not None and agent.process.poll() is None:
        agent.end()
    net.nft("add", "table", "inet", "plughole")
    net.nft("delete", "table", "inet", "plughole")
    for left in (served.data_dir / "egress").glob("*"):
        left.unlink()
    agent.client.close()


def block(address: str = C2, client: str = "", ttl: float = 300.0) -> Block:
    who = ip_address(client).packed if client else b""
    return Block(time.time(), "node", (Proposal(ip_address(address).packed, who, EVIL, "listed", ttl),))


def until(true: Callable[[], object], seconds: float = PATIENCE) -> float:
    """Return after how many seconds it was true."""
    begun = time.monotonic()
    while not true():
        assert time.monotonic() - begun < seconds
        select.select((), (), (), 0.005)
    return time.monotonic() - begun


def last_echo(net: Routed, connection: socket.socket) -> float:
    """Return after how many seconds nothing comes back any more, and new connections are refused."""
    begun = last = time.monotonic()
    while True:
        assert time.monotonic() - begun < PATIENCE
        if echoes(connection, SOON):
            last = time.monotonic()
        elif net.refused_at_once("client", C2):
            return last - begun


def test_a_running_connection_is_cut_soon_after_the_order_and_free_again_after_a_release(live: Live) -> None:
    cut, freed = [], []
    with live.net.connect("client", NEIGHBOUR) as other:
        for number in range(5):  # the best of five: others use the machine too
            with live.net.connect("client", C2) as running:
                assert echoes(running)
                live.send(block())
                cut.append(last_echo(live.net, running))
            assert echoes(other)
            begun = time.monotonic()
            release = Release(0.0, "ann", "test", address=ip_address(C2).packed, reply=str(number))
            assert live.ask(release)["text"] == "1 row released"
            freed.append(time.monotonic() - begun)
            assert live.net.reaches("client", C2)
            if min(cut) < SOON and min(freed) < 1.0:
                break
    assert min(cut) < SOON
    assert min(freed) < 1.0


def test_killed_and_started_again_it_holds_what_it_held_and_what_was_ordered_meanwhile(live: Live) -> None:
    live.ask(Ask(0.0, "list", "0"))
    live.send(block())
    until(lambda: C2 in live.elements())
    assert live.end(signal.SIGKILL) == -signal.SIGKILL
    assert not live.net.reaches("client", C2)  # blocks stay
    live.net.nft("flush", "set", "inet", "plughole", "block4")
    live.send(block("91.66.0.90"))
    live.start()
    until(lambda: C2 in live.elements() and "91.66.0.90" in live.elements())
    assert len(live.ask(Ask(0.0, "list", "2"))["rows"]) == 2


def test_a_table_a_stranger_deleted_comes_back(live: Live) -> None:
    live.send(block(client=CLIENT))
    until(lambda: live.net.refused_at_once("client", C2))
    for words in (("delete", "table", "inet", "plughole"), ("flush", "ruleset")):

        def is_taken(words: tuple[str, ...] = words) -> bool:
            """The agent may mend it before the client asks."""
            live.net.nft("add", "table", "inet", "plughole")
            live.net.nft(*words)
            return live.net.reaches("client", C2)

        until(is_taken)
        until(lambda: live.net.refused_at_once("client", C2))


def test_panic_opens_at_once_and_ends_as_fast(live: Live) -> None:
    live.send(block())
    until(lambda: live.net.refused_at_once("client", C2))
    live.ask(Panic(0.0, "ann", "test", on=True, reply="1"))
    assert live.net.reaches("client", C2)
    live.ask(Panic(0.0, "ann", "test", on=False, reply="2"))
    assert not live.net.reaches("client", C2)


def test_it_ends_when_told_and_blocks_stay_until_they_run_out(live: Live) -> None:
    live.send(block())
    until(lambda: live.net.refused_at_once("client", C2))
    assert live.end() == 0
    assert not live.net.reaches("client", C2)
    assert live.client.hgetall("egress:agents") == {}
