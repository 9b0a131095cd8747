"""Memory of the detectors: what a process of its own grows by while they take in a load, and what that is at the caps.

Rules:
1. Ordinary pairs are clients that each ask for DOMAINS well-known domains. They fill tables up to their caps. Counted
   is resident memory.
2. The costly states, those of attacks, are measured alone and full, by the sizes of all objects that a detector holds:
   what twice as many take more, times the cap.
3. Every sight is made anew, as in the hub: nothing is shared with what made it.
"""

from __future__ import annotations

import gc
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from random import Random
from sys import getsizeof
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Final

import msgspec

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

NAME: Final = "cost"
DOMAINS: Final = 200  # a client
SOME: Final = 1_024  # clients for the costly states; tables of two generations are equally full at twice as many
_CARRIED: Final = 140  # names of a pair that carries data: more than are kept of one
_STATM: Final = Path("/proc/self/statm")
_PAGE: Final = 4_096  # octets
_MIB: Final = 1 << 20
_NO_STATE: Final = (type, ModuleType)
_ADDRESS: Final = b"\xc6\x33\x64\x07"


def rows(loads: Loads, clients: int) -> list[Row]:
    """Return memory in ordinary use, of one of each costly state, and of all of them at the cap."""
    found = []
    for what, begin in (("hub, all Watches", _hub), ("leak meter", _meter)):
        start, more = grown(begin, partial(_office, loads.domains, clients))
        of = f"{clients:,} clients x {DOMAINS} domains"
        found += [
            _row(f"{what}: memory at the start, models and modules", "one process", start / _MIB, 1, "MiB"),
            _row(f"{what}: memory more after ordinary use", of, more / _MIB, clients * DOMAINS, "MiB"),
            _row(f"{what}: memory a pair", of, more / (clients * DOMAINS), clients * DOMAINS),
        ]
    for what, cap, begin, load in (
        ("tunnel pair", TunnelSettings().max_pairs, partial(watch, "tunnel"), _carrying),
        ("DGA client", DgaSettings().clients, partial(watch, "dga"), partial(_failing, loads.domains)),
        ("leak pair beyond the first tier", PAIRS_CAP, _meter, _carrying),
    ):
        two, one = (held(after(begin(), load(count))) for count in (2 * SOME, SOME))
        each = (two - one) / SOME
        found.append(_row(f"a full {what}: memory", "one", each, SOME))
        found.append(_row(f"a full {what}: memory of all at the cap", f"{cap:,}", each * cap / _MIB, SOME, "MiB"))
    return found


def after(take: Take, load: Iterable[Sight]) -> Take:
    """Return what has taken in a load."""
    for sight in load:
        take(sight)
    return take


def held(root: object) -> int:
    """Return the octets of everything reached from an object, without classes and modules."""
    seen: set[int] = set()
    waiting, total = [root], 0
    while waiting:
        one = waiting.pop()
        if id(one) in seen or isinstance(one, _NO_STATE):
            continue
        seen.add(id(one))
        total += getsizeof(one)
        if isinstance(one, msgspec.Struct):  # without gc, it tells nobody what it refers to
            waiting += [getattr(one, name) for name in one.__struct_fields__]
        elif isinstance(one, FunctionType):  # what it was made with, but not the globals of its module
            waiting += [cell.cell_contents for cell in one.__closure__ or ()]
        else:
            waiting += gc.get_referents(one)
    return total


def grown(begin: Callable[[], Take], load: Callable[[], Iterable[Sight]]) -> tuple[int, int]:
    """Return the octets of resident memory that detectors take when they are made, and grow by over a load."""
    context = get_context("spawn")  # a fork begins with what its parent gave back, and grows into that unseen
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_grow, args=(begin, load, theirs))
    child.start()
    theirs.close()
    try:
        made, more = ours.recv()
    finally:
        child.join()
    return made, more


def _grow(begin: Callable[[], Take], load: Callable[[], Iterable[Sight]], answer: Connection) -> None:
    domain_of(from_text("www.example.com"))  # the list of public suffixes is read by the first who asks
    before = _resident()
    take = begin()
    made = _resident()
    after(take, load())
    answer.send((made - before, _resident() - made))


def _resident() -> int:
    gc.collect()
    return int(_STATM.read_text(encoding="ascii").split()[1]) * _PAGE


def _row(what: str, of: str, value: float, n: int, unit: str = "octets") -> Row:
    return Row(detector=NAME, what=what, of=of, value=value, unit=unit, n=n)


def _hub() -> Take:
    """Return what a hub's engine takes sights in by."""
    return Engine({}, started=0.0, inline=False).see


def watch(name: str) -> Take:
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
