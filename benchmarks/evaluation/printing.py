"""Rows of the evaluation for people: a table on the terminal, Markdown for the docs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.evaluation.table import Row

_HEADINGS = ("what", "of", "value", "95 % interval", "n", "bar", "")


def main(measure: Callable[..., list[Row]]) -> None:
    """Measure one module from its own command line and print its rows."""
    parser = argparse.ArgumentParser()
    parser.add_argument("data", type=Path, help="data folder")
    parser.add_argument("--quick", action="store_true", help="a sample, under half a minute")
    options = parser.parse_args()
    show(measure(options.data, quick=options.quick))


def show(rows: Sequence[Row]) -> None:
    """Print the rows, a table a detector."""
    console = Console(width=160)
    for detector, found in by_detector(rows).items():
        table = Table(*_HEADINGS, title=detector, title_justify="left")
        for row in found:
            table.add_row(*cells(row), style=None if row.holds else "bold red")
        console.print(table)


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown, a heading and a table a detector."""
    parts = []
    for detector, found in by_detector(rows).items():
        lines = [f"## {detector}", "", "| " + " | ".join(_HEADINGS) + " |", "|" + " --- |" * len(_HEADINGS)]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row)) + " |" for row in found]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def by_detector(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the rows by detector, in the order they came."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.detector, []).append(row)
    return groups


def cells(row: Row) -> tuple[str, ...]:
    """Return the columns of a row; the last says whether its bar holds."""
    interval = "" if row.low is None or row.high is None else f"{figure(row.low)} - {figure(row.high)}"
    bar = "" if row.bar is None else f"{'<=' if row.at_most else '>='} {figure(row.bar)}"
    holds = "" if row.bar is None else "holds" if row.holds else "MISSED"
    return row.what, row.of, f"{figure(row.value)} {row.unit}".strip(), interval, f"{row.n:,}", bar, holds


def figure(value: float) -> str:
    """Return a number with as many digits as it deserves."""
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}" if abs(value) >= 1e-3 else f"{value:.1e}"
