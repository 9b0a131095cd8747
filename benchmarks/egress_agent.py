"""`python -m benchmarks.egress_agent`: from an order in Redis to the block in the kernel, through a whole agent.

1. A network namespace of its own, a Redis of its own, `plughole egress agent` in a process of its own, in force.
2. The moment a block is in force is when the kernel tells of the new element (group NFTABLES of nfnetlink).
3. Bars: median within 50 ms, 99 % within 250 ms; 10,000 addresses in one order within 1 s; one more among 100,000
   within 1 ms of the agent's CPU. Needs root, nft, unshare and a Redis server.
"""

from __future__ import annotations

import ipaddress
import os
import select
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from benchmarks.proc import PROC, parse_stat
from core.config_load import load
from core.names import from_text
from egress.netlink import Listener
from egress.orders import AGENTS, FIELD, ORDERS, Block, encode
from egress.plan import Proposal
from feeds.redis import EmbeddedServer, connect

_INSIDE: Final = "--inside"  # said to the copy of us that runs in the namespace
_NF_TABLES: Final = 10  # the subsystem
_NEWS: Final = 7  # NFNLGRP_NFTABLES
_FIRST: Final = int(ipaddress.IPv4Address("91.0.0.0"))
_HELD: Final = 99_000  # with those that come, as many as may be ordered within a minute
_AT_ONCE: Final = 10_000
_SINGLES: Final = 1000
_PATIENCE: Final = 60.0
_DOMAIN: Final = from_text("evil.example")
_MEDIAN_BAR: Final = 0.050  # seconds
_TAIL_BAR: Final = 0.250
_MANY_BAR: Final = 1.0
_CPU_BAR: Final = 0.001
_CONFIG: Final = """
[server]
data_dir = "."
[egress]
mode = "enforce"
agent = "bench"
flows = false
per_minute = 100000
per_domain = 100000
total = 131072
shortest = 3600
"""


def order(first: int, count: int) -> bytes:
    """Return an order to block so many addresses in a row."""
    addresses = ((_FIRST + number).to_bytes(4, "big") for number in range(first, first + count))
    return encode(Block(time.time(), "bench", tuple(Proposal(to, b"", _DOMAIN, "listed", 3600.0) for to in addresses)))


def await_block(news: Listener, number: int) -> float:
    """Return when, in monotonic seconds, the kernel told of an address."""
    address = (_FIRST + number).to_bytes(4, "big")
    deadline = time.perf_counter() + _PATIENCE
    while time.perf_counter() < deadline:
        select.select([news], (), (), 1.0)
        now = time.perf_counter()
        if any(address in datagram for datagram in news.take()):
            return now
    raise TimeoutError(f"address {number} was not blocked within {_PATIENCE:g} s")


def cpu(pid: int) -> float:
    """Return the seconds of CPU a process has used."""
    return parse_stat((PROC / str(pid) / "stat").read_text()).cpu


def measure(client: Any, pid: int) -> bool:
    """Print what orders cost; return whether all bars are held."""
    news = Listener(_NF_TABLES)
    news.join(_NEWS)
    begun = time.perf_counter()
    client.xadd(ORDERS, {FIELD: order(0, _AT_ONCE)})
    many = await_block(news, _AT_ONCE - 1) - begun
    for first in range(_AT_ONCE, _HELD, _AT_ONCE):
        client.xadd(ORDERS, {FIELD: order(first, min(_AT_ONCE, _HELD - first))})
    await_block(news, _HELD - 1)
    waits, before = [], cpu(pid)
    for number in range(_HELD, _HELD + _SINGLES):
        begun = time.perf_counter()
        client.xadd(ORDERS, {FIELD: order(number, 1)})
        waits.append(await_block(news, number) - begun)
    each = (cpu(pid) - before) / _SINGLES
    news.close()
    return _say(many, waits, each)


def _say(many: float, waits: list[float], each: float) -> bool:
    median, tail = statistics.median(waits), sorted(waits)[-len(waits) // 100]
    print(f"{_AT_ONCE:,} addresses in one order{'':16} {1000 * many:9.1f} ms  bar {1000 * _MANY_BAR:g} ms")
    print(f"one order among {_HELD:,}, median of {_SINGLES:,}   {1000 * median:9.1f} ms  bar {1000 * _MEDIAN_BAR:g} ms")
    print(f"  99 % within{'':28} {1000 * tail:9.1f} ms  bar {1000 * _TAIL_BAR:g} ms")
    print(f"  the agent's CPU for each{'':15} {1000 * each:9.2f} ms  bar {1000 * _CPU_BAR:g} ms")
    return many <= _MANY_BAR and median <= _MEDIAN_BAR and tail <= _TAIL_BAR and each <= _CPU_BAR


def inside() -> int:
    """Run it all in the namespace we are in."""
    with tempfile.TemporaryDirectory(prefix="plughole") as folder:
        file = Path(folder) / "config.toml"
        file.write_text(_CONFIG)
        config = load(file, {})
        server = EmbeddedServer(config)
        server.start()
        client: Any = connect(config)
        agent = subprocess.Popen(
            [sys.executable, "-m", "console.cli", "egress", "agent", "-c", str(file)], stderr=subprocess.DEVNULL
        )
        try:
            deadline = time.monotonic() + _PATIENCE
            while not client.hexists(AGENTS, "bench") and time.monotonic() < deadline:
                time.sleep(0.05)
            return 0 if measure(client, agent.pid) else 1
        finally:
            agent.send_signal(signal.SIGTERM)
            agent.wait()
            client.close()
            server.stop()


def main() -> int:
    """Print the figures; return 0 when the bars are held, 1 when not, 2 when nothing can be measured here."""
    if _INSIDE in sys.argv:
        return inside()
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None or shutil.which("nft") is None:
        print("needs root, unshare (util-linux) and nft (nftables)", file=sys.stderr)
        return 2
    command = [unshare, "--net", sys.executable, "-m", "benchmarks.egress_agent", _INSIDE]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
