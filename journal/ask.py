"""Questions to the query log, asked in the reader's own process while the writer goes on.

1. Only the hours that matter are opened, newest or oldest first, and reading stops when the limit is reached.
2. A file that cannot be read is skipped with one warning; a file that vanished meanwhile was merged, so the hour is
   listed again.
3. No journal yet is an empty answer. Times are Unix seconds; rows are dicts with the keys of docs/log.md.
"""

from __future__ import annotations

import time
from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec

from core.errors import UNREADABLE
from core.verdict import Reason
from journal import view
from journal.filters import Filter
from journal.reader import Reader
from journal.reasons import as_rows
from journal.segments import HOUR, QUERIES, REQUEST, Segment, in_hour, live

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

Row = dict[str, Any]
Order = Literal["asc", "desc"]

ATTEMPTS: Final = 4  # listings of one hour before its vanishing files are given up
POLL: Final = 0.5  # seconds between two looks of `follow`
SETTLE: Final = 1.5  # seconds `settle` waits for the writer
DEAF: Final = 5.0  # seconds after which an unserved request means that no writer runs

_KEYS: Final = {
    **{key: key for key in ("at", "client", "view", "qname", "qtype", "rcode", "action", "cause", "trigger", "member")},
    **{key: key for key in ("reasons", "cached", "count")},
    "duration_us": "duration",
    **{key: key for key in ("size", "ttl", "upstream", "secure", "answers", "transport")},
}
_STEP: Final = 0.05  # seconds between two looks of `settle`
_reasons: Final = msgspec.json.Decoder(tuple[Reason, ...]).decode


def log(
    data_dir: Path,
    *,
    since: float | None = None,
    until: float | None = None,
    client: str | None = None,
    domain: str | None = None,
    action: str | None = None,
    cause: str | None = None,
    limit: int | None = None,
    order: Order = "desc",
) -> Generator[Row, None, None]:
    """Yield the rows that match, by time in the given order, at most `limit`.

    `domain` matches the name and what lies below it; `client` is an address or a prefix; `action` a name such as
    SINKHOLE or the word `blocked`. Raises PlugholeError for a filter that makes no sense, at once.
    """
    wanted = Filter.of(since=since, until=until, client=client, domain=domain, action=action, cause=cause)
    return _log_rows(data_dir / QUERIES, wanted, limit, order)


def follow(
    data_dir: Path,
    *,
    since: float | None = None,
    client: str | None = None,
    domain: str | None = None,
    action: str | None = None,
    cause: str | None = None,
    sleep: Callable[[float], object] = time.sleep,
    stop: Callable[[], bool] = lambda: False,
) -> Generator[Row, None, None]:
    """Yield matching rows as the writer makes them visible (about a second), until `stop()`; first those after `since`.

    Without `since` it starts with rows written after the first row is asked for. No row comes twice.
    """
    wanted = Filter.of(since=since, client=client, domain=domain, action=action, cause=cause)
    return _follow_rows(data_dir / QUERIES, wanted, sleep, stop)


def settle(data_dir: Path, *, timeout: float = SETTLE, sleep: Callable[[float], object] = time.sleep) -> bool:
    """Ask the writer to show what it holds; true when it has, false when none answers within `timeout` seconds.

    After an answer every row the hub had received a second before the call is visible.
    """
    request = data_dir / QUERIES / REQUEST
    if not _request_flush(request):
        return False
    waited = 0.0
    while request.exists():
        if waited >= timeout:
            return False
        sleep(_STEP)
        waited += _STEP
    return True


def _log_rows(root: Path, wanted: Filter, limit: int | None, order: Order) -> Generator[Row, None, None]:
    left = limit
    with Reader(root) as reader:
        span = reader.hours(wanted.since, wanted.until)
        for hour in span if order == "asc" else reversed(span):
            if left == 0:
                return
            for row in _hour_rows(reader, hour, wanted, _order(order, left)):
                yield row
                left = None if left is None else left - 1


def _order(order: Order, limit: int | None) -> str:
    # Time alone leaves equal moments in any order; with the name the same question gives the same answer.
    return f'"at" {order}, client, qname' + ("" if limit is None else f" LIMIT {int(limit)}")


def _hour_rows(reader: Reader, hour: int, wanted: Filter, order: str) -> Iterator[Row]:
    for _ in range(ATTEMPTS):
        bad = _select(reader, live(in_hour(reader.root, hour)), wanted, order)
        if not reader.vanished(bad):
            break
    reader.warn(bad)
    return map(_presented, reader.rows())


def _select(reader: Reader, found: list[Segment], wanted: Filter, order: str) -> list[Segment]:
    """Run the filter over the files; return those left out."""
    where, values = wanted.sql()
    bad: list[Segment] = []
    if wanted.network is not None:  # DuckDB has no addresses, so a prefix becomes the list of clients in it
        bad = reader.run(found, f"SELECT DISTINCT client FROM {view.SEGMENTS} WHERE {where}", values)  # noqa: S608
        values.append([row["client"] for row in reader.rows() if wanted.holds(row["client"])])
        where += " AND list_contains(?::VARCHAR[], client)"
    sql = f"SELECT * FROM ({view.rows(where)}) ORDER BY {order}"  # noqa: S608  our own text
    return bad + reader.run([one for one in found if one not in bad], sql, values)


def _follow_rows(
    root: Path, wanted: Filter, sleep: Callable[[float], object], stop: Callable[[], bool]
) -> Generator[Row, None, None]:
    with Reader(root) as reader:
        seen = _Seen(reader, wanted.since)
        while not stop():
            _request_flush(root / REQUEST)
            for fresh in seen.fresh():
                reader.warn(_select(reader, fresh, wanted, _order("asc", None)))
                yield from map(_presented, reader.rows())
            sleep(POLL)


class _Seen:
    """Which segments `follow` has shown: sequence numbers only rise, so what begins after the last one shown is new."""

    def __init__(self, reader: Reader, since: float | None) -> None:
        self._reader = reader
        self._since = since
        self._last = 0 if since is not None else max((one.last for one in reader.segments(None, None)), default=0)

    def fresh(self) -> list[list[Segment]]:
        """Return the segments not shown yet, by hour; they count as shown afterwards."""
        root, last = self._reader.root, self._last
        found = [in_hour(root, hour) for hour in self._reader.hours(self._from(), None)]
        new = [live(one for one in some if one.first > last) for some in found]
        self._last = max([last, *(one.last for some in new for one in some)])
        return [some for some in new if some]

    def _from(self) -> float | None:
        """Return a moment before the hour of any row yet to be written (rows may be an hour late)."""
        return self._last / 1e6 - HOUR if self._last else self._since


def _presented(row: Row) -> Row:
    """Return a row of the view with the documented keys and plain JSON values."""
    row["at"] = row["at"].replace(tzinfo=UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    row["reasons"] = _decoded(row["reasons"])
    return {key: row[column] for key, column in _KEYS.items()}


def _decoded(text: str) -> list[Row]:
    if text in ("", "[]"):
        return []
    try:
        return as_rows(_reasons(text))
    except UNREADABLE:
        return []  # written by a later version with other reasons; the row itself still counts


def _request_flush(request: Path) -> bool:
    """Leave a request for the writer; false when that is impossible or an old one shows that no writer runs."""
    try:
        return time.time() - request.stat().st_mtime < DEAF  # against the file system's clock, not a logical one
    except OSError:
        pass
    try:
        request.touch()
    except OSError:
        return False
    return True
