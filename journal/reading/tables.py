"""CSV of one row a query: columns found by what their header calls them, in its usual spellings."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Final

from journal.reading.source import BadFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from journal.reading.rows import Row
    from journal.reading.source import Tally
    from journal.reading.streams import Octets

SPELLINGS: Final[dict[str, tuple[str, ...]]] = {  # what a column is, and what headers call it, the likeliest first
    "at": (
        "at", "ts", "timestamp", "time", "datetime", "date_time", "_time", "@timestamp", "frame.time_epoch",
        "query_time", "event_time", "start_time", "epoch", "date",
    ),
    "client": (
        "client", "client_ip", "clientip", "client_addr", "src", "src_ip", "srcip", "source_ip", "sourceip", "ip.src",
        "ipv6.src", "id.orig_h", "id_orig_h", "orig_h", "saddr", "source_address", "source.ip", "host", "source",
    ),
    "qname": (
        "qname", "query", "query_name", "queryname", "dns.qry.name", "dns.question.name", "dns_query", "question",
        "rrname", "fqdn", "name", "domain", "hostname", "domain_name",
    ),
    "qtype": (
        "qtype", "query_type", "querytype", "dns.qry.type", "dns.question.type", "qtype_name", "rrtype", "record_type",
        "rr_type", "type",
    ),
    "rcode": (
        "rcode", "rcode_name", "response_code", "responsecode", "dns.flags.rcode", "dns.response_code", "reply_code",
        "status",
    ),
    "answers": ("answers", "answer", "response", "responses", "rdata", "resolved", "dns.a", "resolved_ip"),
    "ttl": ("ttl", "ttls", "dns.resp.ttl", "min_ttl"),
    "size": ("size", "response_size", "reply_size"),
    "count": ("count", "queries", "hits"),
    "cached": ("cached", "cache_hit"),
    "blocked": ("blocked", "action"),
    "reply": ("qr", "dns.flags.response", "is_response", "is_reply"),
    "id": ("id", "trans_id", "dns.id", "txid", "query_id"),
    "sport": ("sport", "src_port", "source_port", "id.orig_p", "udp.srcport"),
    "dst": ("dst", "dst_ip", "dest_ip", "destination", "destination_ip", "ip.dst", "server", "id.resp_h", "daddr"),
    "dport": ("dport", "dst_port", "dest_port", "destination_port", "id.resp_p", "udp.dstport"),
}  # fmt: skip
NEEDED: Final = {"at": "time", "qname": "name"}
_DELIMITERS: Final = (",", "\t", ";", "|")
BAD_LINES: Final = "lines that are no row"


def rows(source: Octets, tally: Tally, *, times: bool = False) -> Iterator[Row]:
    """Yield the rows, or only their `times`; raises BadFile when the header has no column for the time or the name."""
    lines = source.lines(tally)
    header = next((line for line in lines if line.strip()), "").removeprefix("\ufeff")
    delimiter = max(_DELIMITERS, key=header.count)
    try:
        columns = next(csv.reader([header], delimiter=delimiter), [])
    except csv.Error:
        columns = []
    places = found(columns)
    for need, word in NEEDED.items():
        if need not in places:
            known = ", ".join(SPELLINGS[need][:4])
            raise BadFile(source.path, f"has no column for the {word}; its header must name one, such as {known}")
    yield from _rows(lines, delimiter, {"at": places["at"]} if times else places, tally)


def found(header: Sequence[str]) -> dict[str, int]:
    """Return which column is what."""
    words = [word.strip().strip("\"'").lower().replace(" ", "_") for word in header]
    places = {}
    for what, spellings in SPELLINGS.items():
        at = next((words.index(word) for word in spellings if word in words), -1)
        if at >= 0:
            places[what] = at
    return places


def _rows(lines: Iterator[str], delimiter: str, places: dict[str, int], tally: Tally) -> Iterator[Row]:
    table = csv.reader((f"{line}\n" for line in lines), delimiter=delimiter)
    least = max(places[need] for need in NEEDED if need in places)
    while True:
        try:
            cells = next(table, None)
        except csv.Error:
            tally[BAD_LINES] += 1
            continue
        if cells is None:
            return
        width = len(cells)
        if width <= least:
            if cells:
                tally[BAD_LINES] += 1
            continue
        yield {what: cells[at] for what, at in places.items() if at < width}
