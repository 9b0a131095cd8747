"""What every reader of a file gives: sights in order of time, a tally of what it passed over, and how far it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

from core.errors import PlugholeError

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator
    from pathlib import Path

    from detectors.sight import Sight

Tally: TypeAlias = "Counter[str]"


LATEST: Final = 32_503_680_000.0  # Unix seconds of the year 3000; a time beyond it, or before 1970, is none


class BadFile(PlugholeError):
    """A file that cannot be read, or not further; the text begins with its path."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{path}: {text}")


class Reader(Protocol):
    """A file opened for reading. `tally` counts in words what was passed over; it is complete when `sights` ends."""

    tally: Tally
    kind: str  # "pcap", "Zeek TSV" ...
    aliases: dict[bytes, str]  # what clients are called that are no addresses

    def first(self) -> float | None:
        """Return a moment not after the first sight, None when there is nothing; may raise BadFile."""

    def sights(self) -> Iterator[Sight]:
        """Yield the sights, oldest first; raises BadFile where the file cannot be read further."""

    def position(self) -> int:
        """Return how many octets of the file on disk have been read."""
