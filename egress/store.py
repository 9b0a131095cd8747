"""What an agent keeps over a restart, in one SQLite file: rows, transactions, and notes, as of its place in the orders.

Rules:
1. What `commit` was given is on the disk when it returns (WAL, synchronous=FULL); before that nothing of it is.
2. A row that ran out stays as the memory that it did, until `trim`.
3. A file that can not be understood is moved aside, never deleted and never repaired.
4. One process at a time has the file: a lock beside it, held as long as that process lives. One thread uses a `Store`.
"""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
from typing import IO, TYPE_CHECKING, Final

import msgspec

from core.errors import UNREADABLE, PlugholeError, Unavailable
from egress.plan import Destination, Kept, Transaction, Wanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from core.names import Name

SHAPE: Final = 1  # of the tables; a file of another is moved aside
BUSY_SECONDS: Final = 2.0  # how long somebody else's look at the file is waited for
MAX_ASIDE: Final = 8  # files moved aside and kept; later ones take the last place
_BROKEN: Final = frozenset((sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT))
_PRIMARY: Final = 0xFF  # of an extended result code

_TABLES: Final = """
CREATE TABLE rows (address BLOB, client BLOB, domain BLOB, reason TEXT, evidence TEXT, expires REAL, repeats INTEGER,
                   PRIMARY KEY (address, client, domain)) WITHOUT ROWID;
CREATE TABLE transactions (number INTEGER PRIMARY KEY, told BLOB);
CREATE TABLE notes (name TEXT PRIMARY KEY, value BLOB) WITHOUT ROWID;
"""
_PUT: Final = "INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?, ?)"
_TAKE: Final = "DELETE FROM rows WHERE address = ? AND client = ? AND domain = ?"
_RECORD: Final = "INSERT OR REPLACE INTO transactions VALUES (?, ?)"
_NOTE: Final = "INSERT OR REPLACE INTO notes VALUES (?, ?)"


class Unwritable(PlugholeError):
    """The disk would not take it; nothing of what was to be written is there."""


class _Damaged(Exception):
    """The file is no state of an agent."""


class Saved(msgspec.Struct, frozen=True):
    """What was kept: the ledger, and notes by their names."""

    kept: Kept = Kept()
    notes: dict[str, bytes] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Transaction).decode


class Store:
    """The file of one agent. `open` comes first; every method raises `Unwritable` when the disk says no."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: IO[bytes] | None = None
        self._db: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """True when there is a file to write to."""
        return self._db is not None

    def open(self, now: float) -> tuple[Saved, str]:
        """Return what was kept, rows that ran out by `now` as repeats, and what was wrong with the file, if anything.

        A file that was wrong lies beside the new one as NAME.damaged-1. Raises Unavailable when another process has it.
        """
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._take_lock()
        except OSError as error:
            raise Unwritable(f"{self.path.parent}: {error.strerror or error}") from None
        with _told(self.path):
            try:
                return self._read(now), ""
            except _Damaged as fault:
                aside = self._move_aside()
                return self._read(now), f"{self.path} {fault}; it lies as {aside.name} beside a new one"

    def commit(
        self,
        rows: Mapping[tuple[Destination, Name], Wanted | None],
        transactions: Iterable[Transaction] = (),
        notes: Mapping[str, bytes] | None = None,
    ) -> None:
        """Each row is as told, None being none; the transactions and the notes are recorded. All of it or nothing."""
        with self._writing() as db:
            self._write(db, rows, transactions, notes or {})

    def replace(self, kept: Kept, notes: Mapping[str, bytes]) -> None:
        """The file holds this ledger and nothing else, and the notes."""
        rows: dict[tuple[Destination, Name], Wanted | None] = {
            (to, domain): Wanted(to.address, to.client, domain, "", "", ended, times - 1)
            for to, domain, times, ended in kept.repeats
        }
        rows |= {(row.destination, row.domain): row for row in kept.rows}
        with self._writing() as db:
            db.execute("DELETE FROM rows")
            db.execute("DELETE FROM transactions")
            self._write(db, rows, kept.transactions, {**notes, "number": b"%d" % kept.number})

    def trim(self, *, ended_before: float, oldest: int) -> None:
        """Rows that ended before that Unix time and transactions older than a number are gone."""
        with self._writing() as db:
            db.execute("DELETE FROM rows WHERE expires < ?", (ended_before,))
            db.execute("DELETE FROM transactions WHERE number < ?", (oldest,))

    def close(self) -> None:
        """Another process may have the file."""
        if self._db is not None:
            self._db.close()
            self._db = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _take_lock(self) -> None:
        if self._lock is not None:
            return
        lock = self.path.with_suffix(".lock").open("ab")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise Unavailable(f"another agent runs with {self.path}; stop it or set another `[egress] agent`") from None
        self._lock = lock

    def _read(self, now: float) -> Saved:
        try:
            self._db = self._connect()
            return _load(self._db, now)
        except sqlite3.DatabaseError as fault:
            self._drop()
            if fault.sqlite_errorcode & _PRIMARY in _BROKEN:
                raise _Damaged(f"is damaged ({fault})") from None
            raise
        except _Damaged:
            self._drop()
            raise

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = FULL")
            _check(db)
        except (sqlite3.Error, _Damaged):
            db.close()
            raise
        return db

    def _drop(self) -> None:
        if self._db is not None:
            self._db.close()
            self._db = None

    def _move_aside(self) -> Path:
        number = next((n for n in range(1, MAX_ASIDE) if not self._aside(n).exists()), MAX_ASIDE)
        for ending in ("-wal", "-shm", ""):
            part = self.path.with_name(self.path.name + ending)
            if part.exists():
                part.replace(self._aside(number, ending))
        return self._aside(number)

    def _aside(self, number: int, ending: str = "") -> Path:
        return self.path.with_name(f"{self.path.name}.damaged-{number}{ending}")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        if self._db is None:
            raise Unwritable(f"{self.path} could not be opened")
        with _told(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except sqlite3.Error:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @staticmethod
    def _write(
        db: sqlite3.Connection,
        rows: Mapping[tuple[Destination, Name], Wanted | None],
        transactions: Iterable[Transaction],
        notes: Mapping[str, bytes],
    ) -> None:
        put = [msgspec.structs.astuple(row) for row in rows.values() if row is not None]
        taken = [(to.address, to.client, domain) for (to, domain), row in rows.items() if row is None]
        db.executemany(_PUT, put)
        db.executemany(_TAKE, taken)
        for each in transactions:
            db.execute(_RECORD, (each.number, _encode(each)))
        for note in notes.items():
            db.execute(_NOTE, note)


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Turn what SQLite and the system say into `Unwritable`."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise Unwritable(f"{path}: {error}") from None


def _check(db: sqlite3.Connection) -> None:
    """Make the tables of a new file; raise `_Damaged` for one that is not sound or not ours."""
    (shape,) = db.execute("PRAGMA user_version").fetchone()
    if not shape and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
        db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {SHAPE}; COMMIT;")
    elif shape != SHAPE:
        raise _Damaged(f"is of another version ({shape}, here {SHAPE})")
    if (word := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise _Damaged(f"is damaged ({word})")


def _load(db: sqlite3.Connection, now: float) -> Saved:
    rows: list[Wanted] = []
    repeats: list[tuple[Destination, Name, int, float]] = []
    try:
        for found in db.execute("SELECT * FROM rows ORDER BY expires"):
            row = msgspec.convert(found, _Row).row()
            if row.expires > now:
                rows.append(row)
            else:
                repeats.append((row.destination, row.domain, row.repeats + 1, row.expires))
        told = [_decode(blob) for (blob,) in db.execute("SELECT told FROM transactions ORDER BY number")]
        notes = msgspec.convert(dict(db.execute("SELECT name, value FROM notes")), dict[str, bytes])
        number = int(notes.get("number", b"0"))
    except (*UNREADABLE, ValueError, TypeError) as fault:
        raise _Damaged(f"holds what no agent wrote ({fault})") from None
    return Saved(Kept(tuple(rows), tuple(told), tuple(repeats), number), notes)


class _Row(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """A row as the file holds it, its types checked."""

    address: bytes
    client: bytes
    domain: bytes
    reason: str
    evidence: str
    expires: float
    repeats: int

    def row(self) -> Wanted:
        if len(self.address) not in {4, 16} or len(self.client) not in {0, len(self.address)}:
            raise ValueError(f"an address of {len(self.address)} octets, a client of {len(self.client)}")
        return Wanted(*msgspec.structs.astuple(self))
