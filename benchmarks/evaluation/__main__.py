"""`python -m benchmarks.evaluation [DATA]`: every detector measured on real data, and whether its bars hold.

Rules:
1. Every module of this package with a `measure` is run; one that fails is reported and the others go on.
2. Exit code 1 when a bar does not hold or a module failed.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import msgspec

import benchmarks.evaluation
from benchmarks.evaluation import printing
from benchmarks.evaluation.table import Row

if TYPE_CHECKING:
    from collections.abc import Sequence

DATA: Final = Path("../shared/data")


class Measure(Protocol):
    """What a module measures with."""

    def __call__(self, data: Path, *, quick: bool) -> list[Row]:
        """Return its rows."""


class Report(msgspec.Struct, frozen=True):
    """What one module gave: its rows, or the reason there are none."""

    name: str
    rows: tuple[Row, ...]
    failure: str = ""
    seconds: float = 0.0


def run(name: str, data: Path, *, quick: bool) -> Report | None:
    """Return what the module of that name measures, or None when it measures nothing."""
    begun = time.monotonic()
    try:
        module = importlib.import_module(f"{benchmarks.evaluation.__name__}.{name}")
        measure: Measure | None = getattr(module, "measure", None)
        if measure is None:
            return None
        rows = tuple(measure(data, quick=quick))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with one detector, the others are to be measured
        return Report(name, (), f"{type(error).__name__}: {error}", time.monotonic() - begun)
    return Report(name, rows, seconds=time.monotonic() - begun)


def names() -> list[str]:
    """Return the modules of this package."""
    found = pkgutil.iter_modules(benchmarks.evaluation.__path__)
    return sorted(module.name for module in found if not module.name.startswith("_"))


def verdict(reports: Sequence[Report]) -> list[str]:
    """Return a line for each bar that does not hold and for each module that failed; none: all is well."""
    failed = [f"{report.name} failed: {report.failure}" for report in reports if report.failure]
    missed = [
        f"{row.detector}: {row.what}, {row.of}: {value}, to be {bar}"
        for report in reports
        for row in report.rows
        if not row.holds
        for _, _, value, _, _, bar, _ in (printing.cells(row),)
    ]
    return failed + missed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments name, print it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description="measure the detectors")
    parser.add_argument("data", nargs="?", type=Path, default=DATA, help=f"data folder (default {DATA})")
    parser.add_argument("--quick", action="store_true", help="a sample: about half a minute a module")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this module; may be given again")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the tables as Markdown, too")
    options = parser.parse_args(arguments)
    if not options.data.is_dir():
        parser.error(f"no data folder {options.data}")
    if unknown := set(options.only) - set(names()):
        parser.error(f"no module {', '.join(sorted(unknown))}; there are {', '.join(names())}")
    reports = []
    for name in options.only or names():
        report = run(name, options.data, quick=options.quick)
        if report is not None:
            reports.append(report)
            print(
                f"{name}: {report.failure or f'{len(report.rows)} figures'} ({report.seconds:.0f} s)", file=sys.stderr
            )
    rows = [row for report in reports for row in report.rows]
    printing.show(rows)
    faults = verdict(reports)
    barred = sum(row.bar is not None for row in rows)
    print(f"{barred} bars, {barred - sum(not row.holds for row in rows)} hold", *faults, sep="\n")
    if options.out is not None:
        options.out.write_text(printing.markdown(rows), encoding="utf-8")
    return 1 if faults or not reports else 0


if __name__ == "__main__":
    raise SystemExit(main())
