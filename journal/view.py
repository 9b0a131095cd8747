"""The query log as readers see it: numbers of a segment turned into names, in SQL.

Segments hold enums as small integers, answers as one text and reasons as arrays, because that is cheap to write; the
columns here are the documented ones (docs/log.md).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from core.event import Transport
from core.rr import TYPES, Rcode
from core.verdict import Action, Cause, Trigger

if TYPE_CHECKING:
    from collections.abc import Iterable
    from enum import IntEnum

SEGMENTS: Final = "read_parquet(?, union_by_name = true, hive_partitioning = false)"


def rows(where: str) -> str:
    """Return the SELECT of the documented columns over SEGMENTS (its first parameter), `where` being on raw columns."""
    columns = ", ".join(f'{sql} AS "{name}"' for name, sql in _columns().items())
    return f"SELECT {columns} FROM {SEGMENTS} AS raw WHERE {where}"  # noqa: S608  only our own text


def _columns() -> dict[str, str]:
    return {
        "at": '"at"',
        "client": "client",
        "view": "view",
        "qname": "qname",
        "qtype": _number("qtype", TYPES, "TYPE"),
        "rcode": _number("rcode", {code.value: code.name for code in Rcode}, "RCODE"),
        "action": _enum("action", Action),
        "cause": f"lower({_enum('cause', Cause)})",
        "trigger": f"lower({_enum('trigger', Trigger)})",
        "member": "member",
        "sources": _each_reason(2),
        "indicators": _each_reason(3),
        "reasons": "reasons",
        "transport": f"lower({_enum('transport', Transport)})",
        "cached": "cached",
        "count": '"count"',
        "duration": "duration",
        "size": "size",
        "ttl": "ttl",
        "upstream": "upstream",
        "secure": "secure",
        "answers": "CASE WHEN answers = '' THEN [] ELSE string_split(answers, ' ') END",
    }


def _enum(column: str, kind: type[IntEnum]) -> str:
    return _lookup(column, [item.name for item in kind])


def _number(column: str, known: dict[int, str], prefix: str) -> str:
    """Return SQL for a number with mnemonics: a list for the dense low ones, the prefix and the number for the rest."""
    top = max(number for number in known if number < 512)
    low = _lookup(column, [known.get(number, f"{prefix}{number}") for number in range(top + 1)])
    high = " ".join(f"WHEN \"{column}\" = {number} THEN '{text}'" for number, text in known.items() if number > top)
    return f'CASE WHEN "{column}" <= {top} THEN {low} {high} ELSE concat(\'{prefix}\', "{column}") END'


def _lookup(column: str, texts: Iterable[str]) -> str:
    listed = ", ".join(f"'{text}'" for text in texts)
    return f'([{listed}])["{column}" + 1]'


def _each_reason(position: int) -> str:
    return (
        f"CASE WHEN reasons IN ('', '[]') THEN []::VARCHAR[] ELSE json_extract_string(reasons, '$[*][{position}]') END"
    )
