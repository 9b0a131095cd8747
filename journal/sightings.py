"""Sightings: what was not simply let through, one line per client, indicator, domain and hour, in SQLite.

1. The file is in WAL mode: readers and the people who label sightings never wait for the hub, nor it for them.
2. Rows are gathered in memory and written by `flush`, by upsert; labels, notes and acknowledgements are never touched.
3. At most PER_SECOND different lines are taken in a second. What comes above is counted as not itemised; the query log
   still has every row.
4. A file that is damaged is moved aside and a new one begun; a file of a later version is refused.
"""

from __future__ import annotations

import logging
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core import names
from core.errors import Unavailable
from core.verdict import Action, Cause
from journal.columns import address_text
from journal.reasons import as_rows
from journal.segments import HOUR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from core.event import Event
    from core.names import Name

FILE: Final = Path("journal", "sightings.sqlite")  # below the data folder
PER_SECOND: Final = 200  # different lines; one costs about 25 us, so at most 0.5 % of a core
WAITING: Final = 5_000  # lines held while the file cannot be written; about 5 MB
LABELS: Final = ("", "true-positive", "false-positive")
KEPT_REASONS: Final = 32  # of one line

_BUSY: Final = 0.1  # seconds the hub waits for another writer before it tries again at the next flush
_DAY: Final = 86_400  # seconds
# Plain numbers: looking up and hashing members of an enum costs more than the rest of the test.
_PASSTHRU: Final = Action.PASSTHRU.value
_LOCAL: Final = Cause.LOCAL.value
_UPSTREAM: Final = Cause.UPSTREAM.value
_DAMAGED: Final = ("not a database", "malformed", "corrupt")

_MIGRATIONS: Final = (
    """
    CREATE TABLE sighting (
        id INTEGER PRIMARY KEY,
        hour INTEGER NOT NULL,          -- Unix hour number
        client TEXT NOT NULL,
        indicator TEXT NOT NULL,        -- of the deciding reason
        apex TEXT NOT NULL,             -- registered domain of the names asked for
        action TEXT NOT NULL,
        cause TEXT NOT NULL,
        trigger TEXT NOT NULL,
        member TEXT NOT NULL,
        first REAL NOT NULL,            -- Unix seconds
        last REAL NOT NULL,
        count INTEGER NOT NULL,
        sample TEXT NOT NULL,           -- the latest name asked for
        reasons TEXT NOT NULL,          -- JSON, all that matched, the deciding one first
        label TEXT NOT NULL DEFAULT '' CHECK (label IN ('', 'true-positive', 'false-positive')),
        note TEXT NOT NULL DEFAULT '',
        acknowledged_by TEXT NOT NULL DEFAULT '',
        acknowledged_at REAL,
        UNIQUE (client, indicator, apex, action, cause, hour)
    );
    CREATE INDEX sighting_last ON sighting (last);
    """,
)  # one entry a version; a file of version n gets the entries from n on

_UPSERT: Final = """
    INSERT INTO sighting
        (hour, client, indicator, apex, action, cause, trigger, member, first, last, count, sample, reasons)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (client, indicator, apex, action, cause, hour) DO UPDATE SET
        first = min(first, excluded.first), last = max(last, excluded.last), count = count + excluded.count,
        sample = excluded.sample, reasons = excluded.reasons, trigger = excluded.trigger, member = excluded.member
"""

_log: Final = logging.getLogger("plughole.journal")
_to_json: Final = msgspec.json.Encoder().encode

_Quick = tuple[bytes, str, int, float]


@dataclass(slots=True)
class _Line:
    """One line in the making: the latest event of it, and what adds up."""

    event: Event
    indicator: str
    first: float
    last: float
    count: int


class Sightings:
    """Gathers sightings and keeps them on disk. Nothing here raises on a bad disk; `failure` says what is wrong."""

    def __init__(self, path: Path) -> None:
        self.not_itemised = 0
        self.written = 0  # upserts
        self.failure = ""
        self._path = path
        self._file: sqlite3.Connection | None = None
        self._quick: dict[_Quick, dict[Name, _Line]] = {}
        self._waiting = 0
        self._second = -1
        self._taken = 0

    @property
    def waiting(self) -> int:
        """Lines not yet on disk."""
        return self._waiting

    def add(self, events: Iterable[Event], now: float) -> None:
        """Take in the events that are sightings (see `is_sighting`)."""
        if int(now) != self._second:
            self._second, self._taken = int(now), 0
        for event in events:
            if event.action and is_sighting(event):
                self._add(event)

    def flush(self, now: float) -> None:
        """Write what was gathered; on failure it stays, up to WAITING lines, and `failure` says why."""
        if not self._waiting:
            return
        lines = [_values(apex, line) for some in self._quick.values() for apex, line in some.items()]
        if self._on_disk(lambda file: file.executemany(_UPSERT, lines), now):
            self.written += len(lines)
            self._quick.clear()
            self._waiting = 0

    def expire(self, now: float, *, keep_days: int) -> None:
        """Delete lines last seen more than `keep_days` days ago, a slice of them a call."""
        oldest = now - keep_days * _DAY
        delete = "DELETE FROM sighting WHERE id IN (SELECT id FROM sighting WHERE last < ? LIMIT 1000)"
        if self._file is not None or self._path.exists():
            self._on_disk(lambda file: file.execute(delete, (oldest,)), now)

    def close(self, now: float) -> None:
        """Write what was gathered and close the file."""
        self.flush(now)
        if self._file is not None:
            self._file.close()
            self._file = None

    def _add(self, event: Event) -> None:
        reasons = event.reasons
        indicator = reasons[0].indicator if reasons else ""
        # The registered domain costs more than all the rest, so it is asked for only when the line may be kept.
        quick = (event.client, indicator, event.action << 8 | event.cause, event.at // HOUR)
        full = self._taken >= PER_SECOND or self._waiting >= WAITING
        some = self._quick.get(quick)
        if some is None and full:
            self.not_itemised += event.count
            return
        apex = names.registered_domain(event.qname)
        line = some.get(apex) if some else None
        if line is not None:
            line.event, line.count = event, line.count + event.count
            line.first, line.last = min(line.first, event.at), max(line.last, event.at)
        elif full:
            self.not_itemised += event.count
        else:
            self._quick.setdefault(quick, {})[apex] = _Line(event, indicator, event.at, event.at, event.count)
            self._taken += 1
            self._waiting += 1

    def _on_disk(self, act: Any, now: float) -> bool:
        """Do one transaction; true when it is on disk. A damaged file is replaced and the act done once more."""
        for _ in range(2):
            try:
                if self._file is None:
                    self._file = open_file(self._path, timeout=_BUSY)
                with self._file:
                    act(self._file)
            except sqlite3.DatabaseError as error:
                if not _is_damage(error):
                    return self._failed(error)
                self._move_aside(now, error)
            except (OSError, Unavailable, UnicodeError) as error:
                return self._failed(error)
            else:
                self.failure = ""
                return True
        return False

    def _failed(self, error: Exception) -> bool:
        text = f"sightings: {self._path}: {error}"
        if text != self.failure:
            _log.warning("%s; %d lines wait", text, self._waiting)
        self.failure = text
        return False

    def _move_aside(self, now: float, error: Exception) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
        aside = self._path.with_name(f"{self._path.name}.corrupt-{int(now)}")
        try:
            self._path.rename(aside)
            for suffix in ("-wal", "-shm"):
                self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        except OSError as trouble:
            self._failed(trouble)
            return
        _log.warning("sightings: %s is damaged (%s); moved to %s and a new one begun", self._path, error, aside.name)


def is_sighting(event: Event) -> bool:
    """True for a query blocked, alerted on, or let through in spite of a reason to block."""
    action, cause = event.action, event.cause
    if not action or cause in (_LOCAL, _UPSTREAM):
        return False  # every `localhost` and every broken zone: no threat
    return action > _PASSTHRU or any(reason.action > _PASSTHRU for reason in event.reasons)


def open_file(path: Path, *, timeout: float = 5.0) -> sqlite3.Connection:
    """Open the sightings, made or migrated first. Raises sqlite3.Error, OSError, or Unavailable when they are newer."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=timeout)
    try:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA synchronous = NORMAL")
        file.execute("PRAGMA journal_size_limit = 8000000")
        _migrate(file, path)
    except BaseException:
        file.close()
        raise
    return file


def find(data_dir: Path, *, since: float | None = None, limit: int = 1_000) -> Iterator[dict[str, Any]]:
    """Yield sightings, the last seen first, with the keys of docs/log.md; nothing when there is no file yet."""
    path = data_dir / FILE
    if not path.exists():
        return
    try:
        file = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        try:
            file.row_factory = sqlite3.Row
            query = "SELECT * FROM sighting WHERE last >= ? ORDER BY last DESC, id DESC LIMIT ?"
            for row in file.execute(query, (since or 0.0, limit)):
                yield {**dict(row), "reasons": msgspec.json.decode(row["reasons"])}
        finally:
            file.close()
    except sqlite3.Error as error:
        raise Unavailable(f"sightings: {path}: {error}") from error


def mark(data_dir: Path, number: int, *, label: str, note: str, by: str, now: float) -> bool:
    """Label and acknowledge a sighting by its `id`; false when there is none. Raises Unavailable; ValueError: label."""
    if label not in LABELS:
        raise ValueError(f"label: {label!r} is not one of {', '.join(LABELS[1:])}")
    path = data_dir / FILE
    if not path.exists():
        return False
    try:
        file = open_file(path)
        try:
            with file:
                done = file.execute(
                    "UPDATE sighting SET label = ?, note = ?, acknowledged_by = ?, acknowledged_at = ? WHERE id = ?",
                    (label, note, by, now, number),
                )
            return done.rowcount == 1
        finally:
            file.close()
    except (sqlite3.Error, OSError) as error:
        raise Unavailable(f"sightings: {path}: {error}") from error


def _values(apex: Name, line: _Line) -> tuple[Any, ...]:
    event = line.event
    return (
        int(line.first) // HOUR,
        address_text(event.client),
        _utf8(line.indicator),
        names.to_text(apex),
        event.action.name,
        event.cause.name.lower(),
        event.trigger.name.lower(),
        _utf8(event.member),
        line.first,
        line.last,
        line.count,
        names.to_text(event.qname),
        _to_json(as_rows(event.reasons[:KEPT_REASONS])).decode(),
    )


def _migrate(file: sqlite3.Connection, path: Path) -> None:
    (version,) = file.execute("PRAGMA user_version").fetchone()
    if version > len(_MIGRATIONS):
        raise Unavailable(f"sightings: {path} has version {version}, this program knows {len(_MIGRATIONS)}: upgrade it")
    for number, script in enumerate(_MIGRATIONS[version:], version + 1):
        file.executescript(f"BEGIN; {script}; PRAGMA user_version = {number}; COMMIT;")


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    return any(word in str(error).lower() for word in _DAMAGED)


def _utf8(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
