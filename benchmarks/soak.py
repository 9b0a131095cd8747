"""`python -m benchmarks.soak`: what is left of a node after a million malformed packets and 100,000 connections.

1. One worker in front of a local authority; everything stays on loopback and ends by itself.
2. Memory is the proportional set size of each process; each ordeal comes twice, and what the second adds counts.
3. Every packet is accounted for: sent = taken from the socket + dropped by the kernel because the socket was full.
4. Exit code 1 when a process grew by more than it may, a file descriptor stayed open, or the node stopped answering.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import socket
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks import probe, proc, report
from benchmarks.authority import authority
from benchmarks.peers import Site
from benchmarks.plughole import CONFIG_FILE, Plughole, cli_environment, run_cli
from benchmarks.server import Running, ServerError, interruptible, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

ALLOWED: Final = 8_000_000  # bytes a process may grow by when the same comes a second time
HUB_ALLOWED: Final = 192_000_000  # of the hub, where DuckDB keeps what it once needed, up to `journal.parquet.MEMORY`
LISTED: Final = "listed.example"

_CORE: Final = 1
_BATCH: Final = 64  # packets between two looks at the clock and at replies
_PACE: Final = 25_000  # packets a second
_SETTLE: Final = 4.0  # seconds until the log is written and counters are reported
_RESTS: Final = 8  # waits of that length for memory to come back
_IDLE_SECONDS: Final = 20.0  # how long idle connections may stay, in the node that takes them all
_PATIENCE: Final = 60.0  # seconds
_SOURCES: Final = [f"127.0.7.{at}" for at in range(1, 21)]  # a client port cannot be used twice within a minute
_COUNTED: Final = (
    "malformed",
    "refused",
    "blocked",
    "failed",
    "udp_received",
    "udp_sent",
    "tcp_accepted",
    "tcp_refused",
)


@dataclass(frozen=True)
class Snapshot:
    """A node at one moment: bytes and open files by process, its counters, datagrams the kernel dropped."""

    memory: dict[str, int]
    files: dict[str, int]
    counters: dict[str, int]
    dropped: int


@dataclass(frozen=True)
class Outcome:
    """One ordeal: how much was sent, seconds, the node before and after, whether it answered, and a remark."""

    name: str
    sent: int
    seconds: float
    before: Snapshot
    after: Snapshot
    answers: bool
    remark: str = ""

    @property
    def swollen(self) -> bool:
        """True when a process grew by more than it may."""
        return any(
            self.after.memory[name] - size > (HUB_ALLOWED if "-hub " in name else ALLOWED)
            for name, size in self.before.memory.items()
        )

    @property
    def left_open(self) -> int:
        """Open files that were not there before."""
        return sum(self.after.files[name] - count for name, count in self.before.files.items())

    @property
    def failed(self) -> bool:
        """True when the node is not what it was."""
        return not self.answers or self.swollen or self.left_open > 0

    def grown(self) -> str:
        """By how many kilobytes each process grew, without its number."""
        grown = {name: self.after.memory[name] - size for name, size in self.before.memory.items()}
        return ", ".join(f"{name.rpartition(' ')[0]} {size / 1e3:+,.0f}" for name, size in grown.items())

    def counted(self) -> str:
        """The counters that moved."""
        moved = {name: self.after.counters[name] - self.before.counters[name] for name in _COUNTED}
        moved["kernel_dropped"] = self.after.dropped - self.before.dropped
        return ", ".join(f"{name} {count:,}" for name, count in moved.items() if count)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ordeals and print a table; returns 1 when the node is not what it was before."""
    parser = argparse.ArgumentParser(prog="benchmarks.soak", description="malformed packets, connections, idle clients")
    parser.add_argument("--packets", type=int, default=1_000_000)
    parser.add_argument("--connections", type=int, default=100_000)
    parser.add_argument("--idle", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=2026)
    given = parser.parse_args(arguments)
    interruptible()
    os.sched_setaffinity(0, {_CORE % (os.cpu_count() or 1)})
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    try:
        outcomes = _run(given)
    except ServerError as error:
        print(error)
        return 1
    print(report.markdown_table(*_table(outcomes)))
    return int(any(outcome.failed for outcome in outcomes))


def _run(given: argparse.Namespace) -> list[Outcome]:
    with tempfile.TemporaryDirectory(prefix="plughole-soak-") as name:
        folder = Path(name)
        (folder / "plain").write_text(LISTED + "\n")
        with authority(folder / "authority", core=_CORE) as upstream:
            with _node(folder, upstream, "tcp_connections = 1000\ntcp_idle = 2.0") as node:
                outcomes = [
                    node.ordeal("malformed packets", given.packets, lambda count: _flood(node.port, count, given.seed)),
                    node.ordeal("connections", given.connections, lambda count: _connect(node.port, count)),
                    node.ordeal("idle, cap 1,000", given.idle, lambda count: _idle(node, count)),
                ]
            server = f"tcp_connections = {given.idle + 100}\ntcp_idle = {_IDLE_SECONDS}"
            with _node(folder, upstream, server) as node:
                outcomes.append(node.ordeal("idle, all taken", given.idle, lambda count: _idle(node, count)))
    return outcomes


@dataclass(frozen=True)
class Node:
    """A running node and where it listens."""

    site: Site
    server: Running

    @property
    def port(self) -> int:
        """Its port."""
        return self.site.port

    def ordeal(self, name: str, count: int, body: Callable[[int], str]) -> Outcome:
        """Put the node through it, look, put it through it once more, look again."""
        body(count)
        before = self.look()
        start = time.monotonic()
        remark = body(count)
        seconds = time.monotonic() - start
        after = self.look()
        answers = self.server.alive and self.answers()
        print(f"{name}: {count:,} in {seconds:.1f} s", flush=True)
        return Outcome(name, count, seconds, before, after, answers, remark)

    def answers(self) -> bool:
        """True when a listed name is blocked and another is answered."""
        blocked, passed = probe.ask(self.port, LISTED), probe.ask(self.port, "fine.bench.example")
        return blocked is not None and blocked.blocked and passed is not None and passed.answered

    def look(self) -> Snapshot:
        """Return what the node holds once all is told."""
        time.sleep(_SETTLE)
        self._rest()
        worker = self.counters()
        mine = [process for process in proc.group(self.server.pid) if process.name not in proc.REDIS_NAMES]
        return Snapshot(
            {f"{process.name} {process.pid}": proc.pss(process.pid) for process in mine},
            {f"{process.name} {process.pid}": _open_files(process.pid) for process in mine},
            {name: int(worker.get(name, 0)) for name in _COUNTED},
            _dropped(self.port),
        )

    def _rest(self) -> None:
        """Wait until no process gives memory back any more: the log is merged some seconds after it is written."""
        size = proc.memory(self.server.pid)
        for _ in range(_RESTS):
            time.sleep(_SETTLE)
            before, size = size, proc.memory(self.server.pid)
            if before - size < ALLOWED / 8:
                return

    def counters(self) -> dict[str, int]:
        """Return the worker's counters."""
        done = run_cli("status", "--json", config=self.site.folder / CONFIG_FILE, patience=_PATIENCE)
        try:
            found: dict[str, int] = json.loads(done.stdout)["workers"][0]
        except (ValueError, LookupError):
            raise ServerError(f"status says nothing: {done.stderr.strip()}; {self.server.complaint()}") from None
        return found


@contextmanager
def _node(folder: Path, upstream: int, server: str) -> Iterator[Node]:
    plughole = Plughole(url=(folder / "plain").as_uri())
    site = Site(Path(tempfile.mkdtemp(dir=folder)), probe.free_port(), upstream, folder)
    command = plughole.command(site)
    config = site.folder / CONFIG_FILE
    config.write_text(
        config.read_text().replace("[server]\n", f"[cache]\nmax_megabytes = 4\n\n[server]\n{server}\n", 1)
    )
    with running(command, folder=site.folder, core=0, env=cli_environment()) as process:
        node = Node(site, process)
        if not probe.wait_until(lambda: not process.alive or node.answers(), within=_PATIENCE):
            raise ServerError(f"the node does not answer: {process.complaint()}")
        yield node


def _flood(port: int, count: int, seed: int) -> str:
    """Send damaged and invented packets at a steady pace, and read what comes back."""
    rng = random.Random(seed + count)
    seeds = _seeds()
    replies = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect((probe.HOST, port))
        start = time.monotonic()
        for done in range(0, count, _BATCH):
            for _ in range(min(_BATCH, count - done)):
                with suppress(OSError):  # a full socket: not sent, and seen as such in the counters
                    sock.send(_damaged(rng, seeds))
            replies += _drain(sock)
            ahead = done / _PACE - (time.monotonic() - start)
            if ahead > 0:
                time.sleep(ahead)
        time.sleep(1.0)
        replies += _drain(sock)
    return f"{replies:,} replies"


def _seeds() -> list[bytes]:
    plain = probe.question("www.bench.example", 0)
    opt = b"\x00\x00\x29\x04\xd0\x00\x00\x80\x00"
    cookie = b"\x00\x0c\x00\x0a\x00\x08clientck"
    with_opt = plain[:10] + b"\x00\x01" + plain[12:] + opt
    return [
        plain,
        with_opt + b"\x00\x00",
        with_opt + cookie,
        plain[:12] + b"\xc0\x0c\x00\x01\x00\x01",
        plain[:4] + b"\xff\xff" + plain[6:],
        plain[:12] + b"\x3f" + bytes(63) + plain[12:],
        plain[:2] + b"\x80" + plain[3:],
        b"",
    ]


def _damaged(rng: random.Random, seeds: list[bytes]) -> bytes:
    data = bytearray(rng.choice(seeds))
    kind = rng.randrange(4)
    if kind == 0:
        return rng.randbytes(rng.randrange(1, 600))
    if kind == 1 and data:
        del data[rng.randrange(len(data)) :]
    for _ in range(rng.randrange(1, 8)):
        if data:
            data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data)


def _drain(sock: socket.socket) -> int:
    replies = 0
    with suppress(BlockingIOError, ConnectionRefusedError):
        while sock.recv(4_096):
            replies += 1
    return replies


def _connect(port: int, count: int) -> str:
    """Connect, ask, read, close; one after the other."""
    query = probe.question("www.bench.example", 7)
    framed = len(query).to_bytes(2, "big") + query
    answered = 0
    for number in range(count):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(5.0)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((_SOURCES[number % len(_SOURCES)], 0))
            with suppress(OSError):
                sock.connect((probe.HOST, port))
                sock.sendall(framed)
                answered += len(sock.recv(4_096)) > len(query)
    return f"{answered:,} answered"


def _idle(node: Node, count: int) -> str:
    """Open connections that say nothing, see how many are held, and wait until the node has closed them all."""
    socks: list[socket.socket] = []
    try:
        for number in range(count):
            sock = socket.create_connection((probe.HOST, node.port), 5.0, (_SOURCES[number % len(_SOURCES)], 0))
            socks.append(sock)
        time.sleep(1.5)
        held, answers = node.counters().get("tcp_open", 0), node.answers()
        probe.wait_until(lambda: node.counters().get("tcp_open", 1) == 0, within=_PATIENCE)
    finally:
        for sock in socks:
            sock.close()
    return f"{held:,} held, {'answering' if answers else 'SILENT'} meanwhile"


def _open_files(pid: int) -> int:
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return 0


def _dropped(port: int) -> int:
    """Return the datagrams the kernel dropped at sockets of a port, from /proc/net/udp."""
    found = 0
    for line in Path("/proc/net/udp").read_text().splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) == port:
            found += int(fields[-1])
    return found


def _table(outcomes: list[Outcome]) -> tuple[list[str], list[list[str]]]:
    head = ["ordeal", "sent", "seconds", "growth, kB", "files left open", "answers", "remark", "counters"]
    rows = [
        [
            outcome.name,
            f"{outcome.sent:,}",
            f"{outcome.seconds:.1f}",
            outcome.grown(),
            str(outcome.left_open),
            "yes" if outcome.answers else "NO",
            outcome.remark,
            outcome.counted(),
        ]
        for outcome in outcomes
    ]
    return head, rows


if __name__ == "__main__":
    sys.exit(main())
