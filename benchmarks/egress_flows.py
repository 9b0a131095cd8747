"""`python -m benchmarks.egress_flows`: what it costs to tell how much goes between whom, kernel and hub alike.

1. 100,000 connections of the real connection tracking, in a network namespace of its own, are listed three times: first
   anew, then when all have sent more, then when none has. A hub names events and writes a million rows.
2. Bars: a listing within 2 s of CPU, once a minute; 1 us a named event. Needs root, nft, ip and unshare.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.egress import cost
from core.config import Config, Server
from core.event import Batch, Event, decode_batch, encode_batch
from core.names import from_text
from egress.conntrack import ACCOUNTING, Flows
from egress.netlink import Listener
from egress.talkers import FEW, talking, talking_to
from journal.flow_rows import Wanted, top
from journal.flows import FlowBook, Kind, Row
from resolver.naming import Naming

if TYPE_CHECKING:
    from benchmarks.egress import Cost

_INSIDE: Final = "--inside"  # said to the copy of us that runs in the namespace
_HOSTS: Final = 100
_PORTS: Final = 1_000
_SOURCE: Final = 5_000  # port: the same connections each time
_LISTING_BAR: Final = 2.0  # seconds of CPU
_EVENTS: Final = 120_000
_BATCH: Final = 300  # events a worker tells at once
_EVENT_BAR: Final = 1e-6  # seconds of CPU
_MINUTES: Final = 100
_PAIRS: Final = 10_000  # a minute
_BEGAN: Final = 1_700_000_000.0
_SEED: Final = 1
_CONNTRACK: Final = 1  # subsystem of netfilter
_RULES: Final = """
table inet tracked { chain out { type filter hook output priority 0; ct state established,related accept; }; }
"""  # the kernel tracks only where a rule asks


def network() -> None:
    """A way out that leads nowhere, and a rule that has what takes it tracked and counted."""
    for line in (
        "link add out type veth peer name far", "link set far up", "link set out up arp off",
        "address add 10.20.1.2/24 dev out", "route add default dev out",
    ):  # fmt: skip
        subprocess.run(["ip", *line.split()], check=True)
    subprocess.run(["nft", "-f", "-"], input=_RULES, text=True, check=True)
    ACCOUNTING.write_text("1", encoding="ascii")


def listings() -> bool:
    """Print what listings of 100,000 connections cost; return whether the bar is held."""
    told: list[object] = []
    part = Flows("bench")

    def once() -> None:
        part.compare(table, news)
        told.extend(part.tally.take(time.time()))

    with closing(Listener(_CONNTRACK)) as news, closing(Listener(_CONNTRACK)) as table:
        costs = []
        for sends in (True, True, False):
            if sends:
                _send()
            costs.append(cost(once))
    found = part.counters()
    for what, one in zip(("the first", "all have sent", "none has sent"), costs, strict=True):
        _say(f"list {found['tracked']:,} connections, {what}", one)
    _say("who talks to one address", cost(lambda: talking_to(socket.inet_aton("91.67.0.5"))))
    with closing(Listener(_CONNTRACK)) as table:
        for many in (FEW, 10 * FEW):
            some = [socket.inet_aton(f"91.68.{number >> 8}.{number & 255}") for number in range(many)]
            _say(f"who talks to {many} addresses at once", cost(lambda some=some: talking(table, some)))  # type: ignore[misc]
    print(f"{len(told)} flows told; the process held {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:.0f} MB")
    return found["tracked"] == _HOSTS * _PORTS and max(one.cpu for one in costs) <= _LISTING_BAR


def _send() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("10.20.1.2", _SOURCE))
        for host in range(_HOSTS):
            for port in range(10_000, 10_000 + _PORTS):
                sock.sendto(b"x", (f"91.67.0.{host}", port))


def names() -> bool:
    """Print what it costs to remember names; return whether the bar is held."""
    dice = random.Random(_SEED)
    batches = [_batch(dice) for _ in range(_EVENTS // _BATCH)]
    naming = Naming(now=0.0)

    def see() -> None:
        for batch in batches:
            naming.see(batch)

    found = cost(see)
    print(f"{'an event named':48} {1e6 * found.cpu / _EVENTS:10.2f} us CPU  {len(naming):,} pairs held")
    return found.cpu / _EVENTS <= _EVENT_BAR


def _batch(dice: random.Random) -> list[Event]:
    """Events as the hub has them, with 1.8 addresses on average."""
    events = []
    for _ in range(_BATCH):
        client = (0x0A000000 + dice.getrandbits(12)).to_bytes(4, "big")
        name = from_text(f"www{dice.getrandbits(14)}.site{dice.getrandbits(10)}.example")
        count = dice.choices((0, 1, 2, 4), (15, 40, 30, 15))[0]
        addresses = tuple((0x5B000000 + dice.getrandbits(18)).to_bytes(4, "big") for _ in range(count))
        events.append(Event(1.0, client, name, 1, 0, answers=addresses))
    return decode_batch(encode_batch(Batch(1, events))).events


def rows() -> None:
    """Print what a million rows cost on their way to the disk, there, and when asked for."""
    dice = random.Random(_SEED)
    with tempfile.TemporaryDirectory() as folder:
        book = FlowBook(Config(server=Server(data_dir=folder), base=folder), now=_BEGAN)
        began = time.process_time()
        made = 0.0
        for minute in range(_MINUTES):
            at = _BEGAN + 60 * minute
            before = time.process_time()
            some = [_row(dice, at) for _ in range(_PAIRS)]
            made += time.process_time() - before
            book.write(some, at)
            book.tick(at + 1)
        book.close(_BEGAN + 60 * _MINUTES)
        spent = time.process_time() - began - made
        count = book.counters()
        size = book.counters()["bytes"] / count["written"]
        print(
            f"{'a row written':48} {1e6 * spent / count['written']:10.2f} us CPU  {size:.1f} octets on disk, unmerged"
        )
        _say(f"the top of {count['written']:,} rows", cost(lambda: top(Path(folder), Wanted(), limit=1_000)))


def _row(dice: random.Random, at: float) -> Row:
    client = (0x0A140000 + dice.getrandbits(11)).to_bytes(4, "big")
    address = (0x5B000000 + dice.getrandbits(12)).to_bytes(4, "big")
    name = f"cdn{address[3]}.site{address[2] * 7}.example"
    sent, received = dice.getrandbits(dice.randint(6, 22)), dice.getrandbits(dice.randint(8, 24))
    return Row(at, Kind.FLOW, "gate", client, address, name, connections=1, sent=sent, received=received)


def _say(what: str, found: Cost) -> None:
    print(f"{what:48} {1000 * found.wall:10.1f} ms {1000 * found.cpu:9.1f} ms CPU")


def main() -> int:
    """Print the figures; return 0 when the bars are held, 1 when not, 2 when nothing can be measured here."""
    if _INSIDE in sys.argv:
        network()
        return 0 if listings() else 1
    unshare = shutil.which("unshare")
    if os.geteuid() or unshare is None or shutil.which("nft") is None or shutil.which("ip") is None:
        print("needs root, unshare (util-linux), ip (iproute2) and nft (nftables)", file=sys.stderr)
        return 2
    command = [unshare, "--net", sys.executable, "-m", "benchmarks.egress_flows", _INSIDE]
    listed = subprocess.run(command, check=False).returncode
    named = names()
    rows()
    return listed or (0 if named else 1)


if __name__ == "__main__":
    sys.exit(main())
