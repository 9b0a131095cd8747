"""A DuckDB that reads segments while the writer goes on: damaged files are left out, vanished ones merely absent."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final

import duckdb

from core.errors import Unavailable
from journal.parquet import readable
from journal.segments import HOUR, Segment, hours, in_hour, live

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

MEMORY: Final = "512MB"  # for DuckDB in the reader's process
FETCH: Final = 2_048  # rows taken from DuckDB at once

_log: Final = logging.getLogger("plughole.journal")


class Reader:
    """Runs SQL over segments below the queries folder `root`; used as a context manager."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.duckdb: duckdb.DuckDBPyConnection

    def __enter__(self) -> Reader:
        self.duckdb = duckdb.connect(":memory:")
        self.duckdb.execute(f"SET memory_limit = '{MEMORY}'")
        self.duckdb.execute("SET TimeZone = 'UTC'")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.duckdb.close()

    def run(self, found: list[Segment], sql: str, values: list[Any]) -> list[Segment]:
        """Run SQL whose first parameter is the list of files and return the files that had to be left out.

        The result is then fetched with `rows`. Raises Unavailable when it is not the files' fault.
        """
        bad: list[Segment] = []
        while good := [one for one in found if one not in bad]:
            try:
                self.duckdb.execute(sql, [[str(one.path(self.root)) for one in good], *values])
            except (duckdb.Error, OSError) as error:
                worse = [one for one in good if not self._readable(one)]
                if not worse:
                    raise Unavailable(f"query log: {' '.join(str(error).split())[:300]}") from error
                bad += worse
            else:
                return bad
        self.duckdb.execute("SELECT 1 WHERE false")
        return bad

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the rows of the last result."""
        keys = [column[0] for column in self.duckdb.description or ()]
        while some := self.duckdb.fetchmany(FETCH):
            for row in some:
                yield dict(zip(keys, row, strict=True))

    def vanished(self, bad: list[Segment]) -> bool:
        """True when one of the files left out is no more: it was merged or expired since the folder was listed."""
        return not all(one.path(self.root).exists() for one in bad)

    def warn(self, bad: list[Segment]) -> None:
        """Log one line for each file left out that is still there."""
        for segment in bad:
            path = segment.path(self.root)
            if path.exists():
                _log.warning("query log: %s cannot be read; its %d rows are left out", path, segment.rows)

    def hours(self, since: float | None, until: float | None) -> list[int]:
        """Return the hours on disk that touch the span, oldest first."""
        low = -1 if since is None else int(since // HOUR)
        return [hour for hour in hours(self.root) if hour >= low and (until is None or hour * HOUR < until)]

    def segments(self, since: float | None, until: float | None) -> list[Segment]:
        """Return the live segments of these hours, oldest first."""
        return [one for hour in self.hours(since, until) for one in live(in_hour(self.root, hour))]

    def _readable(self, segment: Segment) -> bool:
        with duckdb.connect(":memory:") as connection:
            return readable(connection, segment.path(self.root))
