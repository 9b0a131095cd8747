"""The figures of a benchmark run as a line, a table for the terminal and a page of Markdown."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Final

from benchmarks.peers import LOADS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from benchmarks.load import Outcome

REFERENCE: Final = "unbound"  # the peer every other server is also compared with
OURS: Final = "plughole"  # rows whose name starts so are no peers

_MEGABYTE: Final = 1e6
_MILLI: Final = 1e3


@dataclass(frozen=True)
class Sample:
    """One load on one server: CPU microseconds a query, in all and by process, and what came of it."""

    cpu_us: float
    outcome: Outcome
    unexpected: int
    counters: Mapping[str, float] = field(default_factory=dict)
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass
class Visit:
    """One start of one server: seconds to the first blocked answer and to rest, bytes before and after, its samples."""

    name: str
    start_seconds: float = 0.0
    quiet_seconds: float = 0.0
    memory: int = 0
    memory_after: int = 0
    samples: dict[str, Sample] = field(default_factory=dict)
    failure: str = ""


@dataclass(frozen=True)
class Figures:
    """All visits of a run, the order of the servers, what was skipped and why, and the versions measured."""

    visits: list[Visit]
    order: list[str]
    absent: Mapping[str, str]
    versions: Mapping[str, str]

    def of(self, name: str) -> list[Visit]:
        """Return the visits of one server that went well."""
        return [visit for visit in self.visits if visit.name == name and not visit.failure]

    def values(self, name: str, kind: str, figure: Callable[[Sample], float]) -> list[float]:
        """Return one figure of one load, a value a round."""
        return [figure(visit.samples[kind]) for visit in self.of(name) if kind in visit.samples]

    def cpu(self, name: str, kind: str) -> float | None:
        """Return the median CPU microseconds a query; None when it was not measured."""
        return _median(self.values(name, kind, lambda sample: sample.cpu_us))

    def best_peer(self, kind: str) -> float | None:
        """Return the least median CPU of a server that is not ours."""
        found = [self.cpu(name, kind) for name in self.order if not name.startswith(OURS)]
        return min((value for value in found if value is not None), default=None)


def line(visit: Visit) -> str:
    """Return one visit on one line."""
    if visit.failure:
        return f"{visit.name:22} FAILED: {visit.failure}"
    loads = "  ".join(f"{kind} {sample.cpu_us:.1f} us" for kind, sample in visit.samples.items())
    return f"{visit.name:22} {loads}  blocks after {visit.start_seconds:.1f} s, {visit.memory / _MEGABYTE:.0f} MB"


def console_table(figures: Figures) -> str:
    """Return the medians as a table of plain text: CPU microseconds a query, and how often the best peer's."""
    head = f"{'CPU us a query (x best peer)':30}" + "".join(f"{kind:>18}" for kind in LOADS)
    rows = [head]
    for name in figures.order:
        cells = (_cpu_cell(figures, name, kind) for kind in LOADS)
        rows.append(f"{name:30}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(rows)


def markdown(
    figures: Figures, *, machine: Mapping[str, str], command: str, plan: Mapping[str, object], at: float, latency: str
) -> str:
    """Return the whole page; `at` is when the run started, in seconds since the epoch, `latency` a chapter's text."""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at))
    parts = [
        f"# Benchmark of {when}",
        f"Written by `{command}`; how it is measured and what it cannot say: [README.md](README.md).",
        _settings(plan),
        "## Machine\n\n" + _bullets(machine.items()),
        "## Versions\n\n" + _bullets(figures.versions.items()),
        "## CPU microseconds a query\n\nMedian (least-most) over the rounds.\n\n" + _cpu_table(figures),
        f"## Ratios\n\nEach as: to the best peer / to {REFERENCE}.\n\n" + _ratio_table(figures),
        "## Answers\n\nMedians of the rounds.\n\n" + _answer_table(figures),
        "## Latency at half load\n\n" + latency,
        "## Start and memory\n\n" + _start_table(figures),
        "## What Plughole journalled and dropped\n\n" + _counter_list(figures),
        "## Plughole's CPU microseconds a query by process\n\n" + _part_list(figures),
        "## Failed and skipped\n\n" + _bullets(_troubles(figures)),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """Return a table of Markdown."""
    rule = ["---"] * len(head)
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def machine() -> dict[str, str]:
    """Return what the figures depend on: processor, cores, kernel, load average now, Python."""
    return {
        "processor": _cpu_model(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()}",
        "load average before the run": " ".join(f"{value:.2f}" for value in os.getloadavg()),
        "Python": platform.python_version(),
    }


def _settings(plan: Mapping[str, object]) -> str:
    shown = ("names", "seconds", "repeat", "latency", "outstanding", "seed")
    return "Settings: " + ", ".join(f"{key} {plan[key]}" for key in shown) + "."


def _cpu_table(figures: Figures) -> str:
    def cell(name: str, kind: str) -> str:
        values = figures.values(name, kind, lambda sample: sample.cpu_us)
        if not values:
            return "-"
        spread = f" ({min(values):.1f}-{max(values):.1f})" if len(values) > 1 else ""
        return f"{median(values):.1f}{spread}"

    return markdown_table(["server", *LOADS], [[name, *(cell(name, kind) for kind in LOADS)] for name in figures.order])


def _ratio_table(figures: Figures) -> str:
    def cell(name: str, kind: str) -> str:
        ours = figures.cpu(name, kind)
        return " / ".join(_ratio(ours, base) for base in (figures.best_peer(kind), figures.cpu(REFERENCE, kind)))

    return markdown_table(["server", *LOADS], [[name, *(cell(name, kind) for kind in LOADS)] for name in figures.order])


def _answer_table(figures: Figures) -> str:
    columns: dict[str, Callable[[Sample], float]] = {
        "queries/s": lambda sample: sample.outcome.qps,
        "lost %": lambda sample: sample.outcome.lost_share * 100,
        "wrong kind %": lambda sample: sample.unexpected / sample.outcome.answered * 100,
        "mean ms": lambda sample: sample.outcome.latency * _MILLI,
        "worst ms": lambda sample: sample.outcome.latency_max * _MILLI,
    }
    rows = []
    for name in figures.order:
        for kind in LOADS:
            found = [_median(figures.values(name, kind, figure)) for figure in columns.values()]
            if None not in found:
                rows.append([name, kind, *(f"{value:,.2f}" for value in found)])
    return markdown_table(["server", "load", *columns], rows)


def _start_table(figures: Figures) -> str:
    rows = []
    for name in figures.order:
        visits = figures.of(name)
        if visits:
            start = median(visit.start_seconds for visit in visits)
            memory = median(visit.memory for visit in visits) / _MEGABYTE
            after = median(visit.memory_after for visit in visits) / _MEGABYTE
            quiet = median(visit.quiet_seconds for visit in visits)
            rows.append([name, f"{start:.1f}", f"{quiet:.1f}", f"{memory:.0f}", f"{after:.0f}"])
    return markdown_table(
        ["server", "s to first blocked answer", "s to rest", "MB then (PSS)", "MB after the loads (PSS)"], rows
    )


def _counter_list(figures: Figures) -> str:
    def moved(sample: Sample) -> str:
        return ", ".join(f"{path} +{value:,.0f}" for path, value in sample.counters.items())

    return _bullets((title, f"{sample.outcome.sent:,} sent; {moved(sample)}") for title, sample in _own(figures))


def _part_list(figures: Figures) -> str:
    def parts(sample: Sample) -> str:
        return ", ".join(f"{who}: {cpu:.1f}" for who, cpu in sample.parts.items())

    return _bullets((title, parts(sample)) for title, sample in _own(figures))


def _own(figures: Figures) -> Iterator[tuple[str, Sample]]:
    """Yield our own samples, each with its title."""
    for name in figures.order:
        if name.startswith(OURS):
            for number, visit in enumerate(figures.of(name), 1):
                yield from ((f"{name}, round {number}, {kind}", sample) for kind, sample in visit.samples.items())


def _troubles(figures: Figures) -> list[tuple[str, str]]:
    failed = [(visit.name, visit.failure) for visit in figures.visits if visit.failure]
    return failed + [(name, f"skipped, missing: {remedy}") for name, remedy in figures.absent.items()]


def _cpu_cell(figures: Figures, name: str, kind: str) -> str:
    value = figures.cpu(name, kind)
    return "-" if value is None else f"{value:.1f} ({_ratio(value, figures.best_peer(kind))})"


def _ratio(value: float | None, base: float | None) -> str:
    return "-" if value is None or not base else f"{value / base:.2f}"


def _median(values: list[float]) -> float | None:
    return median(values) if values else None


def _bullets(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {name}: {value}" for name, value in pairs) or "Nothing."


def _cpu_model() -> str:
    for text in Path("/proc/cpuinfo").read_text().splitlines():
        if text.startswith("model name"):
            return text.partition(":")[2].strip()
    return platform.machine()
