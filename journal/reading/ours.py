"""Our own query log: Parquet segments read as sights, sorted by DuckDB, which spills to disk when it must."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import duckdb

from core.errors import BadName
from core.names import from_text
from core.verdict import Action, Cause
from detectors.sight import Sight, domain_of
from journal.parquet import connect
from journal.reading import fields
from journal.reading.rows import BAD_ROWS
from journal.reading.source import LATEST, BadFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from journal.reading.source import Tally

FETCH: Final = 2_048  # rows taken from DuckDB at once
_COLUMNS: Final = (
    "at",
    "client",
    "qname",
    "qtype",
    "rcode",
    "action",
    "cause",
    "cached",
    "count",
    "size",
    "ttl",
    "answers",
)
_SELECT: Final = (
    'SELECT epoch_us("at"), client, qname, qtype, rcode, action, cause, cached, "count", size, ttl, answers '
    "FROM read_parquet(?, hive_partitioning = false)"
)
_FAILURES: Final = (duckdb.Error, OSError, MemoryError)


class OwnLog:
    """A segment of our query log as a Reader."""

    kind = "query log"

    def __init__(self, path: Path) -> None:
        self.tally: Tally = Counter()
        self.aliases: dict[bytes, str] = {}
        self._path = path
        self._rows = self._told = 0

    def first(self) -> float | None:
        """Return the time of the earliest row; raises BadFile when it is no query log of ours."""
        found = next(self._ask('SELECT epoch_us(min("at")), count(*) FROM read_parquet(?, hive_partitioning = false)'))
        self._rows = found[1]
        held = {row[0] for row in self._ask("DESCRIBE SELECT * FROM read_parquet(?, hive_partitioning = false)")}
        if missing := [name for name in _COLUMNS if name not in held]:
            raise BadFile(self._path, f"is Parquet, but no query log of plughole: it has no column {missing[0]}")
        return None if found[0] is None else float(found[0]) / 1e6

    def sights(self) -> Iterator[Sight]:
        """Yield the sights, oldest first; raises BadFile."""
        for row in self._ask(f'{_SELECT} ORDER BY "at", client, qname'):
            self._told += 1
            try:
                yield _sight(row)
            except (BadName, ValueError, TypeError, IndexError):
                self.tally[BAD_ROWS] += 1

    def position(self) -> int:
        """Return the share of the rows that was read, as octets of the file."""
        return int(self._path.stat().st_size * self._told / self._rows) if self._rows else 0

    def _ask(self, sql: str) -> Iterator[Sequence[Any]]:
        with tempfile.TemporaryDirectory(prefix="plughole-") as spill:
            connection = connect(Path(spill))
            try:
                connection.execute(sql, [str(self._path)])
                while some := connection.fetchmany(FETCH):
                    yield from some
            except _FAILURES as error:
                raise BadFile(self._path, f"cannot be read: {' '.join(str(error).split())[:200]}") from error
            finally:
                connection.close()


def _sight(row: Sequence[Any]) -> Sight:
    at, client, name, qtype, rcode, action, cause, cached, count, size, ttl, answers = row
    qname = from_text(name)
    if not 0 <= at <= LATEST * 1e6:
        raise ValueError("no moment")
    return Sight(
        at / 1e6, fields.client(client)[0], qname, int(qtype), domain_of(qname), int(rcode), int(ttl), int(size),
        fields.answers(answers.split())[0], b"", max(int(count), 1),
        bool(cached) or cause == Cause.LOCAL,  # what is answered here leaves the building as little as a hit
        Action(action).blocks,
    )  # fmt: skip
