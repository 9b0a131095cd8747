"""Zeek's dns.log, tab-separated with its `#fields`, or one JSON object a line."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import UNREADABLE
from journal.reading.source import BadFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from journal.reading.rows import Row
    from journal.reading.source import Tally
    from journal.reading.streams import Octets

BAD_LINES: Final = "lines that are no row"
OTHER_LOGS: Final = "rows of another log than dns"
_FIELDS: Final = {  # of a row: the first of Zeek's fields that is set
    "at": ("ts", "@timestamp", "timestamp"),
    "client": ("id.orig_h", "id_orig_h", "src_ip", "client"),
    "qname": ("query", "qname"),
    "qtype": ("qtype", "qtype_name"),
    "rcode": ("rcode", "rcode_name"),
    "answers": ("answers",),
    "ttl": ("TTLs",),
}
_UNSET: Final = frozenset(("-", "(empty)", ""))
_decode: Final = msgspec.json.Decoder().decode


def separated(source: Octets, tally: Tally, *, times: bool = False) -> Iterator[Row]:
    """Yield the rows of the tab-separated form, or only their `times`; `#` lines may come again, as in logs joined."""
    separator, fields, unset = "\t", [""], _UNSET
    places: dict[str, list[int]] = {}
    for line in source.lines(tally):
        if line.startswith("#"):
            word, _, rest = line[1:].partition(" ") if line.startswith("#separator") else line[1:].partition(separator)
            if word == "separator":
                separator = _separator(rest)
            elif word == "fields":
                fields = rest.split(separator)
                places = {what: [fields.index(one) for one in some if one in fields] for what, some in _FIELDS.items()}
                if not (places["at"] and places["qname"]):
                    raise BadFile(source.path, "is a log of Zeek, but no dns.log: it has no ts or no query")
                places = {"at": places["at"]} if times else places
            elif word in ("unset_field", "empty_field"):
                unset = unset | {rest}
            continue
        if not line:
            continue
        cells = line.split(separator)
        if len(cells) != len(fields):
            tally[BAD_LINES] += 1
            continue
        yield {what: next((cells[at] for at in some if cells[at] not in unset), "") for what, some in places.items()}


def _separator(text: str) -> str:
    """Return what `#separator` names in hexadecimal."""
    try:
        return bytes.fromhex(text.strip().removeprefix("\\x")).decode("latin-1") or "\t"
    except ValueError:
        return "\t"


def objects(source: Octets, tally: Tally, *, times: bool = False) -> Iterator[Row]:
    """Yield the rows of the form with one JSON object a line; raises BadFile when the first has no time."""
    known = False
    for line in source.lines(tally):
        text = line.strip()
        if not text:
            continue
        try:
            given = _decode(text.encode("utf-8", "surrogateescape"))
        except (*UNREADABLE, ValueError):
            given = None
        if not isinstance(given, dict):
            tally[BAD_LINES] += 1
            continue
        if given.get("_path", "dns") != "dns":
            tally[OTHER_LOGS] += 1
            continue
        row = {"at": _text(given.get("ts"))} if times and "ts" in given else _row(given)
        if not known and "ts" not in given and not row["at"]:
            raise BadFile(source.path, "holds JSON, but no dns.log of Zeek: there is no ts")
        known = True
        yield row


def _row(given: Mapping[str, Any]) -> Row:
    pair = given.get("id")
    flat = {**given, "id.orig_h": pair.get("orig_h")} if isinstance(pair, dict) else given
    return {
        what: next((text for one in some if (text := _text(flat.get(one))) not in _UNSET), "")
        for what, some in _FIELDS.items()
    }


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "|".join(map(_text, value))
    return "" if value is None or isinstance(value, (dict, bool)) else str(value)
