"""What the detectors cost: CPU an event in the hub, CPU a miss in the inline meter, and memory, on this machine.

Rules:
1. CPU is the process's own time, best of ROUNDS, each with detectors that know nothing yet.
2. Rows say whether the modules concerned were compiled. Bars hold for either form.
3. Memory is measured by cost_memory.
"""

from __future__ import annotations

import gc
from time import process_time
from typing import TYPE_CHECKING, Final

import detectors.dga_features
import detectors.leak
from benchmarks.evaluation import cost_memory, printing
from benchmarks.evaluation.cost_loads import RATE, Loads
from benchmarks.evaluation.table import Row
from core.names import suffixes
from core.verdict import Action, Cause
from detectors.engine import Engine
from detectors.registry import leak_meter
from resolver.metering import Metering
from resolver.policy import Ruling

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from detectors.sight import Sight

NAME: Final = "cost"
EVENT_BAR: Final = 1e6 / RATE  # microseconds: one core keeps up with RATE
MISS_BAR: Final = 10.0  # microseconds
MISSES: Final = ("ordinary browsing", "domains all new", "tunnel at full speed")  # loads of the meter
EVENTS: Final = 20_000
ROUNDS: Final = 3
CLIENTS: Final = 10_000  # of whom memory is measured
CLIENTS_QUICK: Final = 500


def measure(data: Path, *, quick: bool) -> list[Row]:
    """Return the rows of time and of memory."""
    loads = Loads(data, EVENTS)
    made = loads.all()
    rows = [_time("hub, an event, all Watches", of, of_events(made[of]), len(made[of]), EVENT_BAR) for of in made]
    rows += [
        _time("leak meter, a miss", of, of_misses(made[of]), len(made[of]), MISS_BAR, inline=True) for of in MISSES
    ]
    return rows + cost_memory.rows(loads, CLIENTS_QUICK if quick else CLIENTS)


def of_events(load: Sequence[Sight]) -> float:
    """Return the CPU microseconds an event of the hub's engine, which leaves the leak meter to the workers."""

    def once() -> float:
        see = Engine({}, started=0.0, inline=False).see
        begun = process_time()
        for sight in load:
            see(sight)
        return process_time() - begun

    return _best(once) / len(load) * 1e6


def of_misses(load: Sequence[Sight]) -> float:
    """Return the CPU microseconds a miss of a worker's meter: what it does before the question and after the answer."""
    ruling = Ruling(Action.NONE, Cause.NONE, 0)
    asked = [(suffixes(sight.qname), sight) for sight in load]

    def once() -> float:
        meter = leak_meter({}, started=0.0)
        if meter is None:
            raise ValueError("the leak meter is off by default")
        clock = iter([sight.at for sight in load for _ in range(2)])
        metering = Metering(meter, (), clock.__next__)
        begun = process_time()
        for keys, sight in asked:
            if metering.weigh(sight.client, keys, sight.qtype, ruling) is None:
                metering.answered(sight.client, keys, sight.qtype, sight.rcode, sight.addresses)
            else:
                next(clock)
        return process_time() - begun

    return _best(once) / len(load) * 1e6


def _best(once: Callable[[], float]) -> float:
    found = []
    for _ in range(ROUNDS):
        gc.collect()
        found.append(once())
    return min(found)


def _time(what: str, of: str, value: float, n: int, bar: float, *, inline: bool = False) -> Row:
    return Row(detector=NAME, what=f"{what} ({form(inline=inline)})", of=of, value=value, unit="us", n=n, bar=bar)


def form(*, inline: bool) -> str:
    """Return how the modules that count are installed."""
    module = detectors.leak if inline else detectors.dga_features
    return "plain Python" if str(module.__file__).endswith(".py") else "compiled"


if __name__ == "__main__":
    printing.main(measure)
