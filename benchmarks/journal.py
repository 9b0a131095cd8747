"""CPU microseconds the journal takes a row, all in: columns, names to text, Parquet, sightings; and what merging adds.

    python benchmarks/journal.py [--rows 200000] [--repeat 5]

Input is the same each time. `product` drives `Journal` as the hub does (batches of 64, a tick each); the lines under it
are its parts and the ways that were not taken. The least of `--repeat` runs is printed, since the machine is shared.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from core import names
from core.config import Config, Server
from core.event import Event
from core.verdict import Action, Cause, Reason
from journal import parquet
from journal.columns import Texts, block, join, name_texts
from journal.journal import CHUNK, Journal
from journal.segments import Segment

if TYPE_CHECKING:
    from collections.abc import Callable

START: Final = 1_790_000_000.0
BATCH: Final = 64  # events a worker sends at once
FEW: Final = 2_000  # rows for what is slow
PER_SECOND: Final = 10_000  # rows, in the input's own time

_LETTERS: Final = "abcdefghijklmnopqrstuvwxyz0123456789"


def hits(count: int) -> list[Event]:
    """Aggregated cache hits on 5,000 names."""
    dice = random.Random(1)
    known = [names.from_text(f"h{dice.randrange(10**9):x}.site{number}.com") for number in range(5_000)]
    return [
        Event(START + at / PER_SECOND, _client(dice), dice.choice(known), 1, 0, cached=True, count=3, size=60, ttl=300)
        for at in range(count)
    ]


def misses(count: int) -> list[Event]:
    """Names never seen before, answered upstream with one address."""
    dice = random.Random(2)
    return [
        Event(
            START + at / PER_SECOND,
            _client(dice),
            names.from_text(f"{_word(dice, 12)}.w{dice.randrange(1_000)}.example.org"),
            1,
            0,
            duration=dice.randrange(400, 90_000),
            size=80,
            ttl=300,
            upstream="127.0.0.1",
            answers=(bytes((192, 0, 2, dice.randrange(256))),),
        )
        for at in range(count)
    ]


def blocked(count: int) -> list[Event]:
    """Names under random ones of a million listed."""
    dice = random.Random(3)
    found = []
    for at in range(count):
        listed = f"bad{dice.randrange(1_000_000)}.net"
        reason = Reason(Cause.INTEL, Action.SINKHOLE, "million", listed, "malware", 80)
        qname = names.from_text(f"{_word(dice, 8)}.{listed}")
        head = (START + at / PER_SECOND, _client(dice), qname, 1, 0, Action.SINKHOLE, Cause.INTEL)
        found.append(Event(*head, size=90, ttl=30, reasons=(reason,)))
    return found


def measure(rows: int, repeat: int, act: Callable[[], Any]) -> float:
    """Return the least CPU microseconds a row of several runs, all threads of this process counted."""
    least = float("inf")
    for _ in range(repeat):
        begun = time.process_time()
        act()
        least = min(least, time.process_time() - begun)
    return least / rows * 1e6


def product(events: list[Event]) -> dict[str, int]:
    """Run a whole journal over the events."""
    with tempfile.TemporaryDirectory() as folder:
        journal = Journal(Config(server=Server(data_dir=folder)), now=START)
        now = START
        for start in range(0, len(events), BATCH):
            now = START + start / PER_SECOND
            journal.write(events[start : start + BATCH], now)
            journal.tick(now)
        journal.close(now)
        return journal.counters()


def parts(events: list[Event]) -> dict[str, Callable[[], Any]]:
    """Return the journal's parts and the ways not taken, each over all events."""
    chunks = [events[start : start + CHUNK] for start in range(0, len(events), CHUNK)]
    texts = Texts()
    whole = join([block(chunk, texts) for chunk in chunks])
    deferred = {**whole, "qname": np.array([event.qname for event in events], np.object_)}
    wires = [[event.qname for event in chunk] for chunk in chunks]
    return {
        "columns (core of the write path)": lambda: [block(chunk, texts) for chunk in chunks],
        "  of these: names to text, together": lambda: [name_texts(some) for some in wires],
        "  not taken: names one by one": lambda: [[names.to_text(wire) for wire in some] for some in wires],
        "Parquet of ready columns, lz4": lambda: _parquet(whole, len(events), merge=False),
        "Parquet, then one merge, sorted, zstd": lambda: _parquet(whole, len(events), merge=True),
        "not taken: Parquet with names as BLOB, text deferred": lambda: _parquet(deferred, len(events), merge=False),
        "not taken: six columns by DuckDB's appender": lambda: _appender(events[:FEW]),
    }


def main() -> None:
    """Print the table."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--rows", type=int, default=200_000)
    arguments.add_argument("--repeat", type=int, default=5)
    asked = arguments.parse_args()
    for make in (hits, misses, blocked):
        print(f"{make.__name__}: {asked.rows} rows")
        _report(make(asked.rows), asked.repeat)


def _report(events: list[Event], repeat: int) -> None:
    gc.freeze()  # the input is not the product's garbage
    print(f"  {measure(len(events), repeat, lambda: product(events)):6.2f} us/row  product")
    for name, act in parts(events).items():
        rows = FEW if "appender" in name else len(events)
        print(f"  {measure(rows, repeat, act):6.2f} us/row    {name}")
    gc.unfreeze()  # DuckDB's bindings complain at exit about objects they cannot collect


def _parquet(columns: dict[str, Any], rows: int, *, merge: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        connection = parquet.connect(root / "spill")
        segment = parquet.write(connection, root, Segment(1, 1, 1, 0, rows), columns)
        if merge:
            parquet.merge(connection, root, [segment])
        connection.close()


def _appender(events: list[Event]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        connection = parquet.connect(Path(folder))
        connection.execute(
            "CREATE TABLE log (moment DOUBLE, client BLOB, qname VARCHAR, qtype INT, rcode INT, size INT)"
        )
        appender = connection.appender("log")
        for event in events:
            row = (event.at, event.client, names.to_text(event.qname), event.qtype, event.rcode, event.size)
            appender.append_row(*row)
        appender.flush()
        connection.close()


def _client(dice: random.Random) -> bytes:
    return bytes((10, 0, dice.randrange(4), dice.randrange(256)))


def _word(dice: random.Random, length: int) -> str:
    return "".join(dice.choices(_LETTERS, k=length))


if __name__ == "__main__":
    main()
