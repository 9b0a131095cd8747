"""The data folder of the evaluation: gzipped CSV files with a header, read row by row."""

from __future__ import annotations

import csv
import gzip
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def rows(path: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a .csv.gz file by column name. Raises FileNotFoundError."""
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape", newline="") as text:
        yield from csv.DictReader(text)


def lines(path: Path) -> Iterator[str]:
    """Yield the lines of a .txt.gz file, stripped, without the empty ones."""
    with gzip.open(path, "rt", encoding="utf-8", errors="surrogateescape") as text:
        for line in text:
            if stripped := line.strip():
                yield stripped
