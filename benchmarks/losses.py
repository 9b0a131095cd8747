"""What an event under load cost: queries without an answer, rows the journal lacks, and how long it showed.

1. A query counts as lost when no reply came within 2 seconds, as wrong when the reply was of the wrong kind.
2. Every answered query must be in the journal, as a row or in a row's count; what the node itself counted as dropped
   is a row it told of. Whatever is missing beyond that is lost in silence.
3. A counter starts at 0 with its process: what each process said last is added up.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from benchmarks import openloop
from benchmarks.report import markdown_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

IN_HANDS: Final = 128  # queries a worker may hold when it is killed: a batch of 64, as many misses on their way
TOLD_EVERY: Final = 1.25  # seconds until a worker has told its cache hits, and the hub has them
SEGMENT_ROWS: Final = 51_024  # rows the hub holds at most before it writes them: a segment and a chunk
SLOW: Final = 0.1  # seconds; an answer later than that is not how it normally is

_BIN: Final = 0.05  # seconds
_NANO: Final = 1e9
_NXDOMAIN: Final = 3
_HEX: Final = 16


@dataclass(frozen=True)
class Effect:
    """What clients noticed: counts, the longest time a client had no answer (ms), seconds until it was over."""

    sent: int
    answered: int
    lost: int
    wrong: int
    longest_gap: float
    until_normal: float


@dataclass
class Tally:
    """The node's own counters over the lives of its processes, from what `plughole status --json` says."""

    _workers: dict[tuple[int, int], Mapping[str, Any]] = field(default_factory=dict)
    _hubs: dict[int, Mapping[str, Any]] = field(default_factory=dict)

    def note(self, status: Mapping[str, Any]) -> None:
        """Take in one status."""
        self._hubs[status["hub"]["pid"]] = status
        for worker in status["workers"]:
            self._workers[worker["worker"], worker["pid"]] = worker

    @property
    def told(self) -> int:
        """Rows the workers handed to the hub."""
        return sum(worker.get("events_told", 0) for worker in self._workers.values())

    @property
    def dropped(self) -> int:
        """Rows and queries the node knows it did not keep: over a cap, no room in a queue, refused by the disk."""
        names = ("events_dropped", "events_over_cap")
        workers = sum(worker.get(name, 0) for worker in self._workers.values() for name in names)
        journals = [status["journal"] for status in self._hubs.values()]
        return int(workers + sum(journal[name] for journal in journals for name in ("over_the_cap", "lost")))


@dataclass(frozen=True)
class Stored:
    """What the journal holds: queries, and the rows that tell of them."""

    queries: int
    rows: int


@dataclass(frozen=True)
class Allowed:
    """How much an event may cost, and in words why."""

    lost: int
    missing: int
    why: str


@dataclass(frozen=True)
class Outcome:
    """One event: why it was skipped or failed, or its cost. `expected` are the queries that must be in the journal."""

    event: str
    skipped: str = ""
    failure: str = ""
    effect: Effect | None = None
    until_healthy: float | None = None  # seconds until the status said so again; None: it never did
    expected: int = 0
    stored: Stored = Stored(0, 0)
    told: int = 0
    dropped: int = 0
    overflowed: int = 0  # datagrams the kernel dropped because a worker's socket was full
    allowed: Allowed = Allowed(0, 0, "")

    @property
    def missing(self) -> int:
        """Answered queries the journal knows nothing of, and that the node did not count either."""
        return max(0, self.expected - self.stored.queries - self.dropped)

    @property
    def holds(self) -> bool:
        """Whether it cost no more than is allowed."""
        effect, allowed = self.effect, self.allowed
        if effect is None:
            return not self.failure
        return effect.lost <= allowed.lost and not effect.wrong and self.missing <= allowed.missing

    def document(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        return {**asdict(self), "missing": self.missing, "holds": self.holds}


def effect(record: openloop.Record, *, blocked: NDArray[np.bool_], event: int, sockets: int) -> Effect:
    """Return what clients noticed; `blocked` says which questions must be, `event` is nanoseconds since the epoch."""
    answered = record.answered
    right = _right(record, blocked)
    socket_of, _ = openloop.place(len(record.sent), sockets)
    slow = record.received - record.sent > SLOW * _NANO
    bad = record.sent[~answered | ~right | slow]
    bad = bad[bad >= event]
    return Effect(
        sent=len(record.sent),
        answered=int(answered.sum()),
        lost=int((~answered).sum()),
        wrong=int((answered & ~right).sum()),
        longest_gap=longest_gap(record.received[socket_of == number] for number in range(sockets)) * 1e3,
        until_normal=(int((bad.max() - event) / _NANO / _BIN) + 1) * _BIN if len(bad) else 0.0,
    )


def longest_gap(clients: Iterable[NDArray[np.int64]]) -> float:
    """Return the longest time between two answers to one client in seconds; reply times are nanoseconds, 0 is none."""
    gaps = (np.diff(np.sort(times[times > 0])) for times in clients)
    return max((float(gap.max()) / _NANO for gap in gaps if len(gap)), default=0.0)


def overflowed(table: str, port: int) -> int:
    """Return how many datagrams the kernel dropped for the sockets on a port, from the text of /proc/net/udp."""
    total = 0
    for text in table.splitlines()[1:]:
        fields = text.split()
        if int(fields[1].rpartition(":")[2], _HEX) == port and fields[2].endswith(":0000"):
            total += int(fields[-1])
    return total


def nothing_lost() -> Allowed:
    """Return what an event may cost that nobody should notice."""
    return Allowed(0, 0, "no query, no row")


def worker_killed(*, overflowed: int, rate: float, workers: int) -> Allowed:
    """Return what a killed worker may cost: what it held, what its socket could not, and hits it had yet to tell."""
    return Allowed(
        IN_HANDS + overflowed,
        int(rate * TOLD_EVERY / workers) + IN_HANDS,
        "queries in its hands or beyond its socket's buffer; hits of a second it had yet to tell",
    )


def hub_killed(*, stored: Stored, rate: float, segment_seconds: float) -> Allowed:
    """Return what a killed hub may cost: no query, and the queries of a segment that was not written."""
    per_row = stored.queries / stored.rows if stored.rows else 1.0
    missing = min(rate * segment_seconds, SEGMENT_ROWS * per_row)
    return Allowed(0, int(missing), "no query; the rows of the segment it had yet to write")


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a row an event in Markdown."""
    head = [
        "event", "sent", "lost", "wrong", "longest gap ms", "normal after s", "healthy after s", "answered",
        "in the journal", "counted as dropped", "missing", "may lose", "may miss", "holds",
    ]  # fmt: skip
    return markdown_table(head, [_row(outcome) for outcome in outcomes])


def notes(outcomes: Sequence[Outcome]) -> str:
    """Return a line an event: rows told as far as reports arrived, rows found, and why it may cost what it may."""
    lines = []
    for outcome in outcomes:
        if outcome.effect is None:
            lines.append(f"- {outcome.event}: {outcome.failure or outcome.skipped}")
            continue
        lines.append(
            f"- {outcome.event}: allowed: {outcome.allowed.why}. Rows told, by the last reports, "
            f"{outcome.told:,}, in the journal {outcome.stored.rows:,}; {outcome.overflowed:,} datagrams overflowed."
        )
    return "\n".join(lines)


def _row(outcome: Outcome) -> list[str]:
    found = outcome.effect
    if found is None:
        return [outcome.event, "FAILED" if outcome.failure else "skipped", *["-"] * 12]
    healthy = "never" if outcome.until_healthy is None else f"{outcome.until_healthy:.1f}"
    return [
        outcome.event, f"{found.sent:,}", f"{found.lost:,}", f"{found.wrong:,}", f"{found.longest_gap:.0f}",
        f"{found.until_normal:.2f}", healthy, f"{outcome.expected:,}", f"{outcome.stored.queries:,}",
        f"{outcome.dropped:,}", f"{outcome.missing:,}", f"{outcome.allowed.lost:,}", f"{outcome.allowed.missing:,}",
        "yes" if outcome.holds else "NO",
    ]  # fmt: skip


def _right(record: openloop.Record, blocked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    noerror = record.rcode == 0
    refused = ~record.passed & (noerror | (record.rcode == _NXDOMAIN))
    right: NDArray[np.bool_] = np.where(blocked, refused, record.passed & noerror)
    return right
