"""Writes and merges Parquet segments with DuckDB.

1. A file is written under `.tmp` and renamed; a failed write leaves nothing behind and raises Unavailable.
2. A block of rows is split by the hour of its rows, so that a folder's hour is true for every row in it.
3. DuckDB runs on one thread, within MEMORY, spilling into the journal's own folder.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

import duckdb
import numpy as np

from core.errors import Unavailable
from journal.columns import NUMBERS, TEXTS
from journal.segments import HOUR, TMP, Segment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from journal.columns import Block

MEMORY: Final = "192MB"  # for DuckDB; a merge of a million rows spills beyond it
ROW_GROUP: Final = 61_440  # rows; a reader skips whole groups by their least and greatest client and time
COLUMNS: Final = ("at", *NUMBERS, *TEXTS)

_MICROSECONDS: Final = 1_000_000
_FAILURES: Final = (duckdb.Error, OSError, MemoryError)


def connect(spill: Path) -> duckdb.DuckDBPyConnection:
    """Return an in-memory DuckDB that keeps to one thread and MEMORY and spills into `spill`."""
    connection = duckdb.connect(":memory:")
    connection.execute("SET threads = 1")
    connection.execute(f"SET memory_limit = '{MEMORY}'")
    connection.execute("SET preserve_insertion_order = true")
    connection.execute(f"SET temp_directory = {quoted(spill)}")
    return connection


def by_hour(rows: Block) -> dict[int, Block]:
    """Return the rows by Unix hour number, oldest hour first; nearly always there is one."""
    moments = rows["at"]
    if moments is None:
        return {}
    hour_of = moments.view(np.int64) // (HOUR * _MICROSECONDS)
    if hour_of[0] == hour_of[-1] and (hour_of == hour_of[0]).all():
        return {int(hour_of[0]): rows}
    return {int(hour): _where(rows, hour_of == hour) for hour in sorted(set(hour_of.tolist()))}


def write(
    connection: duckdb.DuckDBPyConnection, root: Path, segment: Segment, rows: Block, columns: Sequence[str] = COLUMNS
) -> Segment:
    """Write one hour's rows as the segment and return it with its size. Raises Unavailable with the reason."""
    source = {name: values for name, values in rows.items() if values is not None}
    select = ", ".join(f'"{name}"' if name in source else f"'' AS \"{name}\"" for name in columns)
    connection.register("source", source)
    try:
        return _put(connection, root, segment, f"SELECT {select} FROM source", codec="lz4_raw")  # noqa: S608  own text
    finally:
        connection.unregister("source")


def merge(connection: duckdb.DuckDBPyConnection, root: Path, inputs: Sequence[Segment]) -> Segment:
    """Write neighbours as one segment sorted by client and time, on disk for good. Raises Unavailable with the reason.

    The inputs stay; they are superseded from the moment of the rename.
    """
    level = min(9, max(one.level for one in inputs) + 1)
    merged = Segment(inputs[0].hour, inputs[0].first, inputs[-1].last, level, sum(one.rows for one in inputs))
    paths = [str(one.path(root)) for one in inputs]
    query = 'SELECT * FROM read_parquet(?, union_by_name = true, hive_partitioning = false) ORDER BY client, "at"'
    return _put(connection, root, merged, query, [paths], codec="zstd")


def readable(connection: duckdb.DuckDBPyConnection, path: Path) -> bool:
    """True when every value of the file can be read."""
    try:
        connection.execute(
            "SELECT sum(hash(COLUMNS(*)) % 2) FROM read_parquet(?, hive_partitioning = false)", [str(path)]
        ).fetchall()
    except _FAILURES:
        return False
    return True


def quoted(path: Path) -> str:
    """Return a path as a SQL text literal."""
    return "'" + str(path).replace("'", "''") + "'"


def _put(
    connection: duckdb.DuckDBPyConnection,
    root: Path,
    segment: Segment,
    query: str,
    values: Sequence[Any] = (),
    *,
    codec: str,
) -> Segment:
    path = segment.path(root)
    tmp = path.with_name(path.name + TMP)
    options = (
        f"FORMAT parquet, PARQUET_VERSION v2, WRITE_BLOOM_FILTER false, COMPRESSION {codec}, ROW_GROUP_SIZE {ROW_GROUP}"
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection.execute(f"COPY ({query}) TO {quoted(tmp)} ({options})", list(values)).fetchall()
        if segment.level:
            _to_disk(tmp)
        tmp.rename(path)
        return segment._replace(size=path.stat().st_size)
    except _FAILURES as error:
        _discard(tmp)
        raise Unavailable(f"query log: {_one_line(error)}") from error


def _to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # the folder itself may be what failed; the next start sweeps `.tmp` files


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _where(rows: Block, chosen: NDArray[np.bool_]) -> Block:
    return {name: None if values is None else values[chosen] for name, values in rows.items()}
