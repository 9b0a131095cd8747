"""Memory of the detectors: what a process of its own grows by while they take in a load, and what that is at the caps.

Rules:
1. Ordinary pairs are clients that each ask for DOMAINS well-known domains. They fill tables up to their caps. Counted
   is resident memory.
2. The costly states, those of attacks, are measured alone and full, by what Python allocates: what twice as many take
   more, times the cap.
3. Every sight is made anew, as in the hub: nothing is shared with what made it.
"""

from __future__ import annotations

import gc
import tracemalloc
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from benchmarks.evaluation.cost_loads import BEGUN, RATE, client
from benchmarks.evaluation.table import Row
from core.names import from_text
from detectors.dga import KEEP, MAX_RESOLVED, DgaSettings
from detectors.engine import Engine
from detectors.leak_state import PAIRS_CAP
from detectors.registry import build, leak_meter
from detectors.sight import Sight, domain_of
from detectors.tunnel import TunnelSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from benchmarks.evaluation.cost_loads import Loads

    Take = Callable[[Sight], object]
    Gauge = Callable[[], int]

NAME: Final = "cost"
DOMAINS: Final = 200  # a client
_SOME: Final = 1_000  # clients for the costly states
_CARRIED: Final = 140  # names of a pair that carries data: more than are kept of one
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = 4_096  # octets
_MIB: Final = 1 << 20
_ADDRESS: Final = b"\xc6\x33\x64\x07"


def rows(loads: Loads, clients: int) -> list[Row]:
    """Return memory in ordinary use, of one of each costly state, and of all of them at the cap."""
    found = []
    for what, begin in (("hub, all Watches", _hub), ("leak meter", _meter)):
        start, more = grown(_resident, begin, partial(_office, loads.domains, clients))
        of = f"{clients:,} clients x {DOMAINS} domains"
        found += [
            _row(f"{what}: memory at the start, models and modules", "one process", start / _MIB, 1, "MiB"),
            _row(f"{what}: memory more after ordinary use", of, more / _MIB, clients * DOMAINS, "MiB"),
            _row(f"{what}: memory a pair", of, more / (clients * DOMAINS), clients * DOMAINS),
        ]
    some = min(clients, _SOME)
    for what, cap, begin, load in (
        ("tunnel pair", TunnelSettings().max_pairs, partial(_watch, "tunnel"), _carrying),
        ("DGA client", DgaSettings().clients, partial(_watch, "dga"), partial(_failing, loads.domains)),
        ("leak pair beyond the first tier", PAIRS_CAP, _meter, _carrying),
    ):
        two, one = (grown(_allocated, begin, partial(load, count))[1] for count in (2 * some, some))
        each = (two - one) / some
        found.append(_row(f"a full {what}: memory", "one", each, some))
        found.append(_row(f"a full {what}: memory of all at the cap", f"{cap:,}", each * cap / _MIB, some, "MiB"))
    return found


def grown(gauge: Gauge, begin: Callable[[], Take], load: Callable[[], Iterable[Sight]]) -> tuple[int, int]:
    """Return the octets that detectors take when they are made, and grow by over a load."""
    context = get_context("spawn")  # a fork begins with what its parent gave back, and grows into that unseen
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_grow, args=(gauge, begin, load, theirs))
    child.start()
    theirs.close()
    try:
        made, more = ours.recv()
    finally:
        child.join()
    return made, more


def _grow(gauge: Gauge, begin: Callable[[], Take], load: Callable[[], Iterable[Sight]], answer: Connection) -> None:
    domain_of(from_text("www.example.com"))  # the list of public suffixes is read by the first who asks
    before = gauge()
    take = begin()
    made = gauge()
    for sight in load():
        take(sight)
    answer.send((made - before, gauge() - made))


def _allocated() -> int:
    if not tracemalloc.is_tracing():
        tracemalloc.start()
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    gc.collect()
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE


def _row(what: str, of: str, value: float, n: int, unit: str = "octets") -> Row:
    return Row(detector=NAME, what=what, of=of, value=value, unit=unit, n=n)


def _hub() -> Take:
    """Return what a hub's engine takes sights in by."""
    return Engine({}, started=0.0, inline=False).see


def _watch(name: str) -> Take:
    """Return what one Watch takes sights in by, without the engine's memory of what was found."""
    return next(part.watch.see for part in build({}, started=0.0) if part.name == name and part.watch is not None)


def _meter() -> Take:
    meter = leak_meter({}, started=0.0)
    if meter is None:
        raise ValueError("the leak meter is off by default")

    def take(sight: Sight) -> None:
        if meter.check(sight.at, sight.client, sight.domain, sight.qname, sight.qtype) is None:
            meter.answered(sight.at, sight.client, sight.domain, sight.qtype, sight.rcode, sight.addresses)

    return take


def _office(domains: list[str], clients: int) -> Iterator[Sight]:
    random = Random(5)
    at = BEGUN
    for _ in range(DOMAINS):
        for number in range(clients):
            name = from_text(f"www.{random.choice(domains)}")
            at += 1 / RATE
            yield Sight(at, client(number), name, 1, domain_of(name), rcode=0, ttl=300, addresses=(_ADDRESS,))


def _carrying(clients: int) -> Iterator[Sight]:
    """Yield clients that each carry data to a domain of their own."""
    random = Random(6)
    for turn in range(_CARRIED):
        for number in range(clients):
            name = from_text(f"{random.randbytes(6).hex()}.t{number}.tunnel-{number}.com")
            at = BEGUN + turn * 600.0 + number / clients
            yield Sight(at, client(number), name, 16, domain_of(name), rcode=0, payload=random.randbytes(40))


def _failing(domains: list[str], clients: int) -> Iterator[Sight]:
    """Yield clients with as many failed and resolving names as are kept of one."""
    random = Random(7)
    for turn in range(KEEP + MAX_RESOLVED):
        for number in range(clients):
            name = from_text(f"{random.choice(domains).partition('.')[0]}{random.randrange(1_000)}.com")
            at = BEGUN + turn * 20.0 + number / clients
            if turn < KEEP:
                yield Sight(at, client(number), name, 1, name, rcode=3)
            else:
                yield Sight(at, client(number), name, 1, name, rcode=0, addresses=(_ADDRESS,))
