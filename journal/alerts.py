"""Alerts in SQLite: one line an incident of a client and a domain, written by the hub and read by whoever asks.

Rules:
1. The file is in WAL mode: readers never wait for the hub, nor it for them.
2. What cannot be written waits, up to MAX_WAITING lines; `failure` says why.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from core.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from detectors.alert import Alert

FILE: Final = Path("journal", "alerts.sqlite")  # below the data folder
MAX_WAITING: Final = 10_000  # lines
KEEP: Final = 365 * 86_400  # seconds
_BUSY: Final = 0.1  # seconds the hub waits for another writer before it tries again at the next write
_TABLE: Final = """
    CREATE TABLE IF NOT EXISTS incident (
        id TEXT NOT NULL PRIMARY KEY, client TEXT NOT NULL, domain TEXT NOT NULL, detector TEXT NOT NULL,
        detectors TEXT NOT NULL, confidence TEXT NOT NULL, score REAL NOT NULL, tool TEXT NOT NULL,
        queries INTEGER NOT NULL, bytes_before_alert INTEGER NOT NULL, bytes_before_block INTEGER,
        first REAL NOT NULL, last REAL NOT NULL, count INTEGER NOT NULL, blocks INTEGER NOT NULL,
        reason TEXT NOT NULL, evidence TEXT NOT NULL
    ) WITHOUT ROWID
"""
_INDEX: Final = "CREATE INDEX IF NOT EXISTS incident_last ON incident (last)"
_KNOWN: Final = "SELECT 1 FROM sqlite_master WHERE name = 'incident'"  # older versions had a table of another shape
_PUT: Final = "INSERT OR REPLACE INTO incident VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_FIND: Final = "SELECT * FROM incident WHERE last >= ? AND last < ? ORDER BY last DESC, client, domain LIMIT ?"
_to_json: Final = msgspec.json.Encoder().encode


class AlertBook:
    """Keeps alerts on disk. Nothing here raises on a bad disk; `failure` says what is wrong."""

    def __init__(self, data_dir: Path) -> None:
        self.failure = ""
        self.lost = 0
        self._path = data_dir / FILE
        self._file: sqlite3.Connection | None = None
        self._waiting: list[Alert] = []

    def write(self, alerts: Iterable[Alert]) -> None:
        """Put alerts in, each in place of an older form of it."""
        self._waiting += alerts
        if not self._waiting:
            return
        try:
            if self._file is None:
                self._file = _open(self._path)
            with self._file:
                self._file.executemany(_PUT, map(_values, self._waiting))
                newest = max(alert.last for alert in self._waiting)
                self._file.execute("DELETE FROM incident WHERE last < ?", (newest - KEEP,))
        except (sqlite3.Error, OSError) as error:
            self.failure = f"alerts: {self._path}: {error}"
            self.lost += max(len(self._waiting) - MAX_WAITING, 0)
            del self._waiting[:-MAX_WAITING]
        else:
            self.failure = ""
            self._waiting.clear()

    def close(self) -> None:
        """Write what waits and close the file."""
        self.write(())
        if self._file is not None:
            self._file.close()
            self._file = None


def find(data_dir: Path, *, since: float = 0.0, until: float = 1e12, limit: int = 1_000) -> Iterator[dict[str, Any]]:
    """Yield alerts, the last seen first, with the keys of docs/detectors/README.md. Raises Unavailable."""
    path = data_dir / FILE
    if not path.exists():
        return
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as file:
            file.row_factory = sqlite3.Row
            if file.execute(_KNOWN).fetchone() is None:
                return
            for row in file.execute(_FIND, (since, until, limit)):
                found = dict(row)
                found["detectors"] = msgspec.json.decode(found["detectors"])
                found["evidence"] = msgspec.json.decode(found["evidence"])
                found["blocks"] = bool(found["blocks"])
                yield found
    except sqlite3.Error as error:
        raise Unavailable(f"alerts: {path}: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = sqlite3.connect(path, timeout=_BUSY)
    file.execute("PRAGMA journal_mode = WAL")
    file.execute("PRAGMA synchronous = NORMAL")
    file.execute(_TABLE)
    file.execute(_INDEX)
    return file


def _values(alert: Alert) -> tuple[Any, ...]:
    return (
        alert.id, alert.client, _clean(alert.domain), alert.detector, _to_json(alert.detectors).decode(),
        alert.confidence.name, alert.score, alert.tool, alert.queries, alert.bytes_before_alert,
        alert.bytes_before_block, alert.first, alert.last, alert.count, alert.blocks, _clean(alert.reason),
        _to_json(alert.evidence).decode(),
    )  # fmt: skip


def _clean(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
