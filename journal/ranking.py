"""Who and what comes first in the query log: clients, domains, causes and leaks.

`leaks` is a first figure: octets of the distinct labels below the registered domain, in names that were not answered
from cache and not blocked, summed per client and registered domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from core import names
from core.errors import BadName
from core.verdict import Action, Cause
from journal import view
from journal.filters import Filter
from journal.reader import Reader
from journal.segments import QUERIES

if TYPE_CHECKING:
    from pathlib import Path

What = Literal["clients", "domains", "causes", "leaks"]

DEFAULT_LIMIT: Final = 20  # lines
ATTEMPTS: Final = 4  # listings of the folder before vanishing files are given up
AT_ONCE: Final = 8_192  # names looked up at once

_BLOCKED: Final = f"action >= {Action.NODATA.value}"
_COUNTS: Final = f'sum("count")::UBIGINT AS queries, coalesce(sum("count") FILTER ({_BLOCKED}), 0)::UBIGINT AS blocked'
_OCTETS: Final = r"length(regexp_replace(label, '\\(\d{3}|.)', 'x', 'g'))"  # an escape stands for one octet
_TOLD: Final = f"(action != {Action.NONE.value} OR cause != {Cause.NONE.value})"


def top(
    data_dir: Path, what: What, *, since: float | None = None, until: float | None = None, limit: int = DEFAULT_LIMIT
) -> list[dict[str, Any]]:
    """Return the first `limit` lines, greatest first, with the keys of docs/log.md; empty when there is no journal."""
    where, values = Filter.of(since=since, until=until).sql()
    with Reader(data_dir / QUERIES) as reader:
        for _ in range(ATTEMPTS):
            found = reader.segments(since, until)
            bad = reader.run(found, f"CREATE OR REPLACE TEMP TABLE seen AS {_SEEN[what](where)}", values)
            if not reader.vanished(bad):
                break
        reader.warn(bad)
        if len(bad) == len(found):
            return []
        if what in ("domains", "leaks"):
            _registered(reader)
        reader.duckdb.execute(f"{_RANKED[what]} LIMIT {int(limit)}")
        return list(reader.rows())


def _by_client(where: str) -> str:
    return (
        f'SELECT client, {_COUNTS}, coalesce(sum("count") FILTER (NOT cached), 0)::UBIGINT AS uncached '  # noqa: S608
        f"FROM {view.SEGMENTS} WHERE {where} GROUP BY client"
    )


def _by_cause(where: str) -> str:
    each = "unnest(CASE WHEN len(sources) = 0 THEN [''] ELSE sources END) AS source"
    return f'SELECT action, cause, {each}, client, "count" FROM ({view.rows(f"{where} AND {_TOLD}")})'  # noqa: S608


def _by_name(where: str) -> str:
    return f"SELECT client, qname, {_COUNTS} FROM {view.SEGMENTS} WHERE {where} GROUP BY client, qname"  # noqa: S608


def _by_fresh_name(where: str) -> str:
    return _by_name(f"{where} AND NOT cached AND NOT ({_BLOCKED})")


def _registered(reader: Reader) -> None:
    """Leave the registered domain of every distinct name of `seen` in the table `apexes`."""
    reader.duckdb.execute("CREATE OR REPLACE TEMP TABLE apexes (qname VARCHAR, apex VARCHAR)")
    every = [qname for (qname,) in reader.duckdb.execute("SELECT DISTINCT qname FROM seen").fetchall()]
    for start in range(0, len(every), AT_ONCE):
        some = every[start : start + AT_ONCE]
        columns = {"qname": np.array(some, np.object_), "apex": np.array(list(map(registered, some)), np.object_)}
        reader.duckdb.register("found", columns)
        reader.duckdb.execute("INSERT INTO apexes SELECT qname, apex FROM found")
        reader.duckdb.unregister("found")


def registered(text: str) -> str:
    """Return the registered domain of a presentation name."""
    try:
        return names.to_text(names.registered_domain(names.from_text(text)))
    except BadName:
        return text


_SEEN: Final = {"clients": _by_client, "domains": _by_name, "causes": _by_cause, "leaks": _by_fresh_name}
_RANKED: Final = {
    "clients": "SELECT * FROM seen ORDER BY queries DESC, client",
    "domains": """
        SELECT apex AS domain, sum(queries)::UBIGINT AS queries, sum(blocked)::UBIGINT AS blocked,
            count(DISTINCT client) AS clients, count(DISTINCT qname) AS names
        FROM seen JOIN apexes USING (qname) GROUP BY apex ORDER BY queries DESC, domain""",
    "causes": """
        SELECT action, cause, source, sum("count")::UBIGINT AS queries, count(DISTINCT client) AS clients
        FROM seen GROUP BY action, cause, source ORDER BY queries DESC, action, cause, source""",
    "leaks": f"""
        WITH below AS (
            SELECT client, apex, queries, left(qname, greatest(0, length(qname) - length(apex) - 1)) AS sub
            FROM seen JOIN apexes USING (qname)),
        labels AS (SELECT DISTINCT client, apex, unnest(string_split(sub, '.')) AS label FROM below),
        octets AS (SELECT client, apex, sum({_OCTETS})::UBIGINT AS bytes FROM labels GROUP BY client, apex),
        asked AS (
            SELECT client, apex, count(*) AS names, sum(queries)::UBIGINT AS queries FROM below GROUP BY client, apex)
        SELECT client, apex AS domain, bytes, names, queries FROM octets JOIN asked USING (client, apex)
        WHERE bytes > 0 ORDER BY bytes DESC, client, domain""",  # noqa: S608  our own text
}
