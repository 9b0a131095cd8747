"""Questions to what agents saw: who sent how much to whom and when, and who tried what he may not.

1. Asked in the reader's own process while the hub goes on; a file that cannot be read is left out with one warning.
2. No journal yet is an empty answer. Times are Unix seconds; rows are dicts with the keys of docs/egress-flows.md.
"""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from core import names
from journal.filters import Filter
from journal.flows import FLOWS, Kind
from journal.reader import Reader
from journal.view import SEGMENTS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Row = dict[str, Any]

ATTEMPTS: Final = 4  # listings of the folder before vanishing files are given up
TALKED: Final = (Kind.FLOW, Kind.BYPASS)
TRIED: Final = (Kind.BLOCK, Kind.PIN, Kind.BYPASS, Kind.TALKING)
_SUMS: Final = (
    "sum(sent)::UBIGINT AS sent, sum(received)::UBIGINT AS received, "
    "greatest(sum(connections), sum(packets) FILTER (kind = 3), 0)::UBIGINT AS connections, "
    "bool_or(literal) AS literal, bool_or(kind = 3) AS bypass"
)
_NAME: Final = "coalesce(arg_max(nullif(name, ''), \"at\"), '') AS name"
_ESCAPED: Final = r"(^|[^\\])\\(\\\\)*$"  # what stands before a dot that is part of a label


class Wanted(NamedTuple):
    """Conditions that must all hold; None means any. `client` is an address or a prefix, as text."""

    since: float | None = None
    until: float | None = None
    client: str | None = None
    address: str | None = None
    domain: str | None = None
    literal: bool = False  # only to addresses the client was never answered

    def sql(self, kinds: Sequence[Kind]) -> tuple[str, list[Any]]:
        """Return a condition, without a prefix of clients, and its values."""
        text, values = Filter.of(since=self.since, until=self.until, client=self.client).sql()
        parts = [text, "list_contains(?, kind)"]
        values.append([kind.value for kind in kinds])
        if self.address is not None:
            parts.append("address = ?")
            values.append(self.address)
        if self.domain is not None:
            name = names.to_text(names.from_text(self.domain))
            below = f".{name}"
            parts.append(
                f"(name = ? OR (ends_with(name, ?) AND NOT "
                f"regexp_matches(left(name, length(name) - {len(below)}), '{_ESCAPED}')))"
            )
            values += [name, below]
        if self.literal:
            parts.append("literal")
        return " AND ".join(parts), values


def hours(data_dir: Path, wanted: Wanted, *, limit: int) -> list[Row]:
    """Return octets by hour, client and address, the newest hour first, in it most sent first."""
    keys = f'time_bucket(INTERVAL 1 hour, "at") AS hour, client, address, {_NAME}'
    order = "hour DESC, sent DESC, client, address"
    query = f"SELECT {keys}, {_SUMS} FROM {SEGMENTS} WHERE {{where}} GROUP BY hour, client, address ORDER BY {order}"  # noqa: S608
    return _ask(data_dir, wanted, TALKED, f"{query} LIMIT {int(limit)}")


def top(data_dir: Path, wanted: Wanted, *, limit: int) -> list[Row]:
    """Return octets by client and address over the whole time, most sent first."""
    keys = f"client, address, {_NAME}"
    times = 'min("at") AS first, max("at") AS last'
    query = f"SELECT {keys}, {_SUMS}, {times} FROM {SEGMENTS} WHERE {{where}} GROUP BY client, address"  # noqa: S608
    return _ask(data_dir, wanted, TALKED, f"{query} ORDER BY sent DESC, client, address LIMIT {int(limit)}")


def attempts(data_dir: Path, wanted: Wanted, *, limit: int) -> list[Row]:
    """Return what clients tried that they may not, and what they were at when it was forbidden, the newest first."""
    keys = '"at", kind, client, mac, address, protocol, port, name, packets, connections, sent, received, agent'
    query = f'SELECT {keys} FROM {SEGMENTS} WHERE {{where}} ORDER BY "at" DESC, client, address LIMIT {int(limit)}'  # noqa: S608
    rows = _ask(data_dir, wanted, TRIED, query)
    for row in rows:
        row["kind"] = Kind(row["kind"]).name.lower()
    return rows


def _ask(data_dir: Path, wanted: Wanted, kinds: Sequence[Kind], query: str) -> list[Row]:
    where, values = wanted.sql(kinds)
    with Reader(data_dir / FLOWS) as reader:
        for _ in range(ATTEMPTS):
            found = reader.segments(wanted.since, wanted.until)
            narrow, clients = _clients(reader, found, wanted, (where, values))
            bad = reader.run(found, query.format(where=where + narrow), [*values, *clients])
            if not reader.vanished(bad):
                break
        reader.warn(bad)
        return [_presented(row) for row in reader.rows()]


def _clients(reader: Reader, found: Any, wanted: Wanted, condition: tuple[str, list[Any]]) -> tuple[str, list[Any]]:
    """Return the condition for a prefix of clients: DuckDB has no addresses, so it becomes the list of those in it."""
    chosen = Filter.of(client=wanted.client)
    if chosen.network is None:
        return "", []
    where, values = condition
    reader.run(found, f"SELECT DISTINCT client FROM {SEGMENTS} WHERE {where}", values)  # noqa: S608
    inside = [row["client"] for row in reader.rows() if chosen.holds(row["client"])]
    return " AND list_contains(?::VARCHAR[], client)", [inside]


def _presented(row: Row) -> Row:
    """Return a row with its times as ISO 8601 in UTC."""
    for key in ("at", "hour", "first", "last"):
        if key in row:
            row[key] = row[key].replace(tzinfo=UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return row
