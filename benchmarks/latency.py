"""Latency at half load: the same paced questions to every server, and how the times of its replies are spread.

1. Half load is half of the queries a second that the slower of Plughole and the best peer reached in the same run,
   under the same kind of load; the best peer is the one with the most. Every server gets that rate, able or not.
2. A time runs from just before the system call that sends a question to the kernel's receipt of its reply.
3. The first second of a load is not counted. Percentiles are of one round; the table shows medians over the rounds.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Final

import numpy as np

from benchmarks import openloop, probe
from benchmarks.peers import LOADS
from benchmarks.plughole import REPOSITORY
from benchmarks.report import OURS, markdown_table
from benchmarks.server import ServerError, running

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from benchmarks.report import Figures

POINTS: Final = {"p50": 50.0, "p90": 90.0, "p99": 99.0, "p99.9": 99.9, "max": 100.0}
ECHO: Final = "echo (no server)"  # the row of what the path itself costs

_WARM_SECONDS: Final = 1.0
_KEPT_UP: Final = 0.99  # of the questions a server must answer for its times to be comparable
_BAR: Final = "p99"
_START_PATIENCE: Final = 10.0  # seconds
_MICRO: Final = 1e3  # nanoseconds
_NXDOMAIN: Final = 3


@dataclass(frozen=True)
class Spread:
    """One load on one server: how many questions, the shares answered and answered wrongly, times in microseconds."""

    sent: int
    answered: float
    wrong: float
    times: Mapping[str, float]  # by the names of POINTS
    lag: float  # by how much the sender was late, at its 99th percentile


@dataclass
class Visit:
    """One start of one server: its spreads by load, or why there are none."""

    name: str
    spreads: dict[str, Spread] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Chapter:
    """All visits of a run, the rate of each load (questions a second) and how many seconds of it were counted."""

    visits: Sequence[Visit]
    rates: Mapping[str, float]
    seconds: int

    @property
    def failed(self) -> bool:
        """Whether a server could not be measured."""
        return any(visit.failure for visit in self.visits)

    @property
    def text(self) -> str:
        """The chapter of the page."""
        return section(self.visits, self.rates, seconds=self.seconds)


def half_load(figures: Figures) -> dict[str, float]:
    """Return the rate of each load, in questions a second; a load that nobody was put under has none."""
    rates = {}
    for kind in LOADS:
        reached = {
            name: median(values)
            for name in figures.order
            if (values := figures.values(name, kind, lambda sample: sample.outcome.qps))
        }
        peers = [qps for name, qps in reached.items() if not name.startswith(OURS)]
        slower = [max(peers)] if peers else []
        slower += [reached[OURS]] if OURS in reached else []
        if slower:
            rates[kind] = min(slower) / 2
    return rates


def measure(kind: str, names: Iterable[str], *, port: int, rate: float, core: int) -> Spread:
    """Ask a port for all the names at a rate (a second), from a core, and return how the replies were spread."""
    record = openloop.put(openloop.script(port, names, rate=rate, core=core))
    return spread(record.since(_WARM_SECONDS), kind)


def questions(rate: float, seconds: float) -> int:
    """Return how many questions a load of so many counted seconds takes, its warm-up included."""
    return int(rate * (seconds + _WARM_SECONDS))


def spread(record: openloop.Record, kind: str) -> Spread:
    """Return the figures of a record; a time without any answer is infinite."""
    answered = record.answered
    times = (record.received - record.sent)[answered] / _MICRO
    points = np.percentile(times, list(POINTS.values())) if len(times) else [float("inf")] * len(POINTS)
    right = answered & _right(record, kind)
    sent = len(record.sent)
    return Spread(
        sent=sent,
        answered=float(answered.sum()) / sent,
        wrong=float(answered.sum() - right.sum()) / sent,
        times=dict(zip(POINTS, map(float, points), strict=True)),
        lag=float(np.percentile((record.sent - record.due) / _MICRO, POINTS["p99"])),
    )


@contextmanager
def echo(folder: Path, *, core: int) -> Iterator[int]:
    """Run the echo server pinned to a core; gives its port once it answers; raises ServerError."""
    folder.mkdir(exist_ok=True)
    port = probe.free_port()
    command = [sys.executable, "-m", "benchmarks.echo", str(port)]
    with running(command, folder=folder, core=core, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}) as server:
        if not probe.wait_until(lambda: probe.ask(port, "start.example") is not None, within=_START_PATIENCE):
            raise ServerError(f"the echo server does not answer: {server.complaint()}")
        yield port


def line(visit: Visit) -> str:
    """Return one visit on one line."""
    if visit.failure:
        return f"{visit.name:22} FAILED: {visit.failure}"
    loads = (f"{kind} p99 {found.times[_BAR]:,.0f} us" for kind, found in visit.spreads.items())
    return f"{visit.name:22} {'  '.join(loads)}"


def section(visits: Sequence[Visit], rates: Mapping[str, float], *, seconds: int) -> str:
    """Return the chapter of the page: which rate, then a row a server and load."""
    if not rates or not visits:
        return "Not measured."
    rounds = max((len(_of(visits, visit.name)) for visit in visits), default=0)
    text = (
        f"Microseconds from sending a question to the reply; medians of {rounds} rounds of {seconds} s, {_BAR} with "
        "least and most. Every server gets half of the queries a second that the slower of Plughole and the best peer "
        f"reached above: {', '.join(f'{kind} {rate:,.0f}/s' for kind, rate in rates.items())}. `to best` compares "
        f"{_BAR} with the best peer's that answered 99 % or more; `lag` is by how much the sender itself was late "
        f"({_BAR}); `{ECHO}` is what the path costs without any server: no time can be less."
    )
    head = ["server", "load", *POINTS, "to best", "lost %", "wrong %", "lag"]
    names = list(dict.fromkeys(visit.name for visit in visits))
    rows = [row for kind in rates for name in names if (row := _row(visits, name, kind))]
    failed = "".join(f"\n- {visit.name}: {visit.failure}" for visit in visits if visit.failure)
    return f"{text}\n\n{markdown_table(head, rows)}" + (f"\n\nFailed:\n{failed}" if failed else "")


def best_peer(visits: Sequence[Visit], kind: str) -> float | None:
    """Return the least p99 of a peer that kept up, in microseconds; None when there is none."""
    names = {visit.name for visit in visits if not visit.name.startswith(OURS) and visit.name != ECHO}
    found = [spreads for name in names if (spreads := _spreads(visits, name, kind))]
    kept_up = [spreads for spreads in found if median(each.answered for each in spreads) >= _KEPT_UP]
    return min((median(each.times[_BAR] for each in spreads) for spreads in kept_up), default=None)


def _row(visits: Sequence[Visit], name: str, kind: str) -> list[str] | None:
    found = _spreads(visits, name, kind)
    if not found:
        return None
    cells = {point: f"{median(each.times[point] for each in found):,.0f}" for point in POINTS}
    values = [each.times[_BAR] for each in found]
    if len(values) > 1:
        cells[_BAR] += f" ({min(values):,.0f}-{max(values):,.0f})"
    best = best_peer(visits, kind)
    ratio = f"{median(values) / best:.2f}" if best and name != ECHO else "-"
    lost = median(1 - each.answered for each in found) * 100
    wrong = "-" if name == ECHO else f"{median(each.wrong for each in found) * 100:.2f}"
    lag = median(each.lag for each in found)
    return [name, kind, *cells.values(), ratio, f"{lost:.2f}", wrong, f"{lag:,.0f}"]


def _of(visits: Sequence[Visit], name: str) -> list[Visit]:
    return [visit for visit in visits if visit.name == name and not visit.failure]


def _spreads(visits: Sequence[Visit], name: str, kind: str) -> list[Spread]:
    return [visit.spreads[kind] for visit in _of(visits, name) if kind in visit.spreads]


def _right(record: openloop.Record, kind: str) -> NDArray[np.bool_]:
    """Return which replies are of the right kind: the authority's address, or for a blocked name anything but it."""
    passed, noerror = record.passed, record.rcode == 0
    blocked = ~passed & (noerror | (record.rcode == _NXDOMAIN))
    right: NDArray[np.bool_] = blocked if kind == "blocked" else passed & noerror
    return right
