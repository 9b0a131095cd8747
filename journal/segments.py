"""Where segments of the query log lie and which of them count.

1. A segment is `queries/date=YYYY-MM-DD/hour=HH/FIRST-LAST-LEVEL-ROWS.parquet` (UTC). FIRST and LAST are sequence
   numbers: microseconds, made strictly increasing. A file appears by rename, whole or not at all.
2. A merge of neighbours is named by the range it spans. A file whose range lies inside another's is superseded: readers
   ignore it, the writer deletes it later. So a crash between rename and delete neither loses nor doubles a row.
3. Whatever does not look like rule 1 is not ours and is never touched.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

HOUR: Final = 3_600  # seconds
QUERIES: Final = Path("journal", "queries")  # below the data folder
REQUEST: Final = ".flush"  # a reader creates it, the writer flushes what is pending and removes it
TMP: Final = ".tmp"
CORRUPT: Final = ".corrupt"

_FILE: Final = re.compile(r"(\d{16})-(\d{16})-(\d)-(\d{1,9})\.parquet")
_DAY: Final = re.compile(r"date=(\d{4}-\d\d-\d\d)")
_HOUR: Final = re.compile(r"hour=(\d\d)")


class Segment(NamedTuple):
    """One Parquet file. `hour` is the Unix hour number of every row in it."""

    hour: int
    first: int
    last: int
    level: int  # how often its rows were merged
    rows: int
    size: int = 0  # bytes on disk

    @property
    def name(self) -> str:
        """The file's name."""
        return f"{self.first:016d}-{self.last:016d}-{self.level}-{self.rows}.parquet"

    def path(self, root: Path) -> Path:
        """The file's place below the queries folder `root`."""
        return root / hour_folder(self.hour) / self.name

    def covers(self, other: Segment) -> bool:
        """True when `other` is superseded by this one."""
        return self != other and self.first <= other.first and other.last <= self.last and self.level > other.level


def hour_folder(hour: int) -> Path:
    """Return the relative folder of a Unix hour number."""
    moment = datetime.fromtimestamp(hour * HOUR, UTC)
    return Path(f"date={moment:%Y-%m-%d}", f"hour={moment:%H}")


def live(found: Iterable[Segment]) -> list[Segment]:
    """Return the segments that no other one supersedes, oldest first."""
    kept: list[Segment] = []
    for segment in sorted(found, key=lambda one: (one.hour, one.first, -one.level)):
        if not (kept and kept[-1].hour == segment.hour and kept[-1].covers(segment)):
            kept.append(segment)
    return kept


def hours(root: Path) -> list[int]:
    """Return the Unix hour numbers that have a folder, oldest first; empty when there is no journal yet."""
    found = []
    for day in _folders(root, _DAY):
        for hour in _folders(day, _HOUR):
            try:
                moment = datetime.fromisoformat(f"{day.name[5:]}T{hour.name[5:]}:00:00+00:00")
            except ValueError:
                continue
            found.append(int(moment.timestamp()) // HOUR)
    return sorted(found)


def in_hour(root: Path, hour: int) -> list[Segment]:
    """Return all segments of one hour, superseded ones too, oldest first."""
    return sorted(_segments(root / hour_folder(hour), hour))


def leftovers(root: Path) -> Iterator[Path]:
    """Yield the half-written files of a writer that was killed."""
    for hour in hours(root):
        folder = root / hour_folder(hour)
        yield from (path for path in folder.glob(f"*{TMP}") if _FILE.fullmatch(path.name.removesuffix(TMP)))


def _segments(folder: Path, hour: int) -> Iterator[Segment]:
    try:
        paths = list(folder.iterdir())
    except OSError:
        return
    for path in paths:
        if match := _FILE.fullmatch(path.name):
            try:
                size = path.lstat().st_size
            except OSError:
                continue
            first, last, level, rows = map(int, match.groups())
            yield Segment(hour, first, last, level, rows, size)


def _folders(parent: Path, pattern: re.Pattern[str]) -> list[Path]:
    try:
        return [
            path
            for path in parent.iterdir()
            if pattern.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
        ]
    except OSError:
        return []
