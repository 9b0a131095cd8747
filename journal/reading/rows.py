"""Text files of one row a query, read as sights: what CSV and both of Zeek's forms have in common.

Rules:
1. The file is read twice: first only its times, to learn how far it is out of order; then the rows.
2. A file nearly in order streams; any other is sorted on disk. A row that makes no sense is counted.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final, Protocol

from core.errors import BadName
from detectors.sight import Sight, domain_of
from journal.reading import fields
from journal.reading.exchanges import Exchanges
from journal.reading.messages import Reply
from journal.reading.order import Lateness, in_order, in_time
from journal.reading.source import BadFile
from journal.reading.streams import Octets

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from journal.reading.source import Tally

MAX_WINDOW: Final = 300.0  # seconds a file may be out of order and still stream
MAX_ALIASES: Final = 65_536
BAD_ROWS: Final = "rows that make no sense"
NO_NAME: Final = "rows without a name"

# A row as it was read: what each of these words stands for, as text. Absent: the file does not say.
#   at client qname qtype rcode ttl size count cached blocked answers reply, and id sport dst dport
Row = dict[str, str]


class Form(Protocol):
    """How rows are read from octets, or only their times."""

    def __call__(self, source: Octets, tally: Tally, *, times: bool = False) -> Iterator[Row]:
        """Yield the rows; raises BadFile."""


class Rows:
    """A text file as a Reader. `rows` yields its rows."""

    def __init__(self, path: Path, kind: str, rows: Form) -> None:
        self.kind = kind
        self.tally: Tally = Counter()
        self.aliases: dict[bytes, str] = {}
        self._path = path
        self._rows = rows
        self._octets: Octets | None = None
        self._lateness = Lateness()

    def first(self) -> float | None:
        """Return the earliest time of the file, having gone through all of it; raises BadFile."""
        octets = Octets(self._path)
        try:
            for row in self._rows(octets, Counter(), times=True):
                try:
                    self._lateness.note(fields.moment(row.get("at", "")))
                except (ValueError, OverflowError):
                    continue
        except BadFile:
            if self._lateness.first is None:
                raise  # else what can be read will be, and then it is said
        finally:
            octets.close()
        return self._lateness.first

    def sights(self) -> Iterator[Sight]:
        """Yield the sights, oldest first; raises BadFile."""
        self._octets = Octets(self._path)
        try:
            late = self._lateness.seconds
            found = self._sights(self._octets)
            yield from in_time(found, late, self.tally) if late <= MAX_WINDOW else in_order(found, Sight)
        finally:
            self._octets.close()

    def position(self) -> int:
        """Return how many octets of the file on disk have been read."""
        return self._octets.position() if self._octets else 0

    def _sights(self, octets: Octets) -> Iterator[Sight]:
        exchanges = Exchanges(self.tally)
        now = 0.0
        for row in self._rows(octets, self.tally):
            if not row.get("qname"):
                self.tally[NO_NAME] += 1
                continue
            try:
                sight = _sight(row, self._client(row))
            except (ValueError, OverflowError, BadName):
                self.tally[BAD_ROWS] += 1
                continue
            if "reply" not in row:
                yield sight
                continue
            _exchange(exchanges, row, sight)
            now = max(now, sight.at)
            yield from exchanges.due(now)
        yield from exchanges.rest()

    def _client(self, row: Mapping[str, str]) -> bytes:
        text = row.get("client", "")
        found, made_up = fields.client(text)
        if made_up and found not in self.aliases and len(self.aliases) < MAX_ALIASES:
            self.aliases[found] = text
        return found


def _sight(row: Mapping[str, str], client: bytes) -> Sight:
    get = row.get
    qname = fields.name(row["qname"])
    addresses, payload, lowest = fields.answers(fields.split(get("answers", "")))
    return Sight(
        fields.moment(get("at", "")), client, qname, fields.qtype(get("qtype", "")), domain_of(qname),
        fields.rcode(get("rcode", "")), fields.ttl(get("ttl", "")) or lowest, fields.number(get("size", "")),
        addresses, payload, max(fields.number(get("count", ""), 1), 1), fields.truth(get("cached", "")),
        _blocks(get("blocked", "")),
    )  # fmt: skip


def _blocks(text: str) -> bool:
    """True for a yes, and for an action of our own log that keeps the answer from the client."""
    return fields.truth(text) or text.upper() in ("NODATA", "NXDOMAIN", "SINKHOLE", "DROP", "TCP_ONLY", "BLOCKED")


def _exchange(exchanges: Exchanges, row: Mapping[str, str], sight: Sight) -> None:
    """Match a row of a file that has queries and replies in rows of their own."""
    here = (row.get("client", ""), row.get("sport", ""))
    there = (row.get("dst", ""), row.get("dport", ""))
    number = row.get("id", "")
    if not fields.truth(row["reply"]):
        exchanges.ask((number, here, there), sight.at, sight.client, sight.qname, sight.qtype)
        return
    reply = Reply(sight.rcode, sight.ttl, sight.size, sight.addresses, sight.payload)
    client = fields.client(row.get("dst", ""))[0]
    exchanges.answer((number, there, here), sight.at, client, (sight.qname, sight.qtype), reply)
