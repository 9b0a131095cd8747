"""How things are shown: tables, JSON and CSV on standard output, one-line messages on standard error.

Rules:
1. Names, reasons and addresses come from strangers. What a terminal could take for a command is escaped; a cell that a
   spreadsheet could take for a formula gets an apostrophe in front.
2. JSON is ASCII with everything else escaped, one document a command, or one object a line where rows stream.
3. Colour and boxes are for terminals; a pipe gets the same words in plain columns.
"""

from __future__ import annotations

import csv
import io
import json
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r", "\n", "\0")  # what a spreadsheet evaluates or skips over to evaluate
_COLOURS: Final = {"PASSTHRU": "green", "ALERT": "yellow", "NONE": None}


def plain(text: str) -> str:
    """Return the text with every character that is not printable written as an escape, fit for a terminal."""
    return text if text.isprintable() else "".join(map(_visible, text))


def one_line(text: str) -> str:
    """Return the text as one line fit for a terminal."""
    return plain(" ".join(text.split()))


def error(text: str) -> None:
    """Say on standard error what went wrong, in one line."""
    click.echo(f"plughole: {one_line(text)}", err=True)


def note(text: str) -> None:
    """Say on standard error what a reader of the output should know, in one line."""
    click.echo(one_line(text), err=True)


def line(text: str) -> None:
    """Print one line for a person."""
    click.echo(plain(text))


def json_text(value: Any) -> str:
    """Return the value as JSON on one line, in printable ASCII only."""
    return json.dumps(value, ensure_ascii=True, separators=(", ", ": ")).replace("\x7f", "\\u007f")


def document(value: Any) -> None:
    """Print a whole answer as JSON, indented."""
    click.echo(json.dumps(value, ensure_ascii=True, indent=2).replace("\x7f", "\\u007f"))


def csv_text(cells: Iterable[Any]) -> str:
    """Return one row of CSV (RFC 4180, newline as line end) without its line end."""
    target = io.StringIO()
    csv.writer(target, lineterminator="").writerow([_cell(value) for value in cells])
    return target.getvalue()


def table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print rows under their column names; numbers stand to the right."""
    texts = [[plain(_text(value)) for value in row] for row in rows]
    right = [bool(rows) and all(isinstance(row[at], (int, float)) for row in rows) for at in range(len(columns))]
    if sys.stdout.isatty():
        _rich_table(columns, texts, right)
        return
    widths = [max(map(len, column)) for column in zip(columns, *texts, strict=True)]
    for cells in (columns, *texts):
        padded = zip(cells, widths, right, strict=True)
        click.echo("  ".join(cell.rjust(size) if to else cell.ljust(size) for cell, size, to in padded).rstrip())


def action(name: str, text: str = "") -> str:
    """Return the text, by default the action's name, in the action's colour (dropped where there is no terminal)."""
    colour = _COLOURS.get(name, "red")
    return click.style(text or name, fg=colour) if colour else text or name


def moment(seconds: float) -> str:
    """Return Unix seconds as an ISO 8601 time in UTC, to the second; empty for 0."""
    if not seconds:
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def span(seconds: float) -> str:
    """Return a number of seconds in the largest two units that fit: `3d 4h`, `12m 5s`, `0s`."""
    left, parts = max(int(seconds), 0), list[str]()
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or (unit == "s" and not parts):
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2])


def _visible(char: str) -> str:
    return char if char.isprintable() else char.encode("unicode_escape").decode("ascii")


def _text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    text = str(value)
    if not isinstance(value, (int, float)) and text.lstrip(" ").startswith(_FORMULA):
        text = f"'{text}"
    return plain(text)


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name, to_right in zip(columns, right, strict=True):
        made.add_column(name, justify="right" if to_right else "left", overflow="fold")
    for row in rows:
        made.add_row(*map(Text, row))  # Text: what stands in brackets is a name, not markup
    Console(emoji=False, highlight=False).print(made)
